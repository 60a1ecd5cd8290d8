"""The reducer `messages`: the conversation, in no provider's shape, with each tool use beside its result.

The state is a list of messages, oldest first: {"role", "content", "start", "stop"} and, where the events have them, "id"
(message_id), "name". start, stop: the positions of the first event of it and after the last.

1. role is system, user, assistant or summary. content is a list of blocks; those of Anthropic's Messages API that stand in
   events are kept as they are.
2. A tool use is a block {"type": "tool_use", "id", "name", "input", "result"?} of an assistant's message; its result is
   {"content", "is_error", "position", "outcome"?}. A result whose use is not in the conversation is a block {"type":
   "tool_result", "tool_use_id", "content", "is_error"} of a user's. Both stand nowhere else.
3. Where uses share an id, a result goes to the oldest that has none; then to the newest whose result is not the last word
   (`unknown`, or a denial).
4. A rewind leaves nothing here, since its events are not in the lineage. A summary stands for the messages that lie wholly
   in its range, results included; they go, but for those with a use that still waits for its result.
5. An erased event is a block {"type": "text", "text": "[erased]"}; an erased result is the result of the only use that waits.
6. Whatever a fold remembers beside the state can be read off the state, so that folding on from any state is folding all.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from typing import Any, Final, cast

import msgspec

from everlog.core.event import Event
from everlog.reducers.blocks import has_failed, is_use
from everlog.reducers.registry import Reducer, add_reducer

TYPES: Final = (
    "user.message",
    "user.tool_confirmation",
    "system.message",
    "agent.message",
    "agent.thinking",
    "agent.tool_use",
    "agent.tool_result",
    "summary",
)
ERASED_TEXT: Final = "[erased]"
Message = dict[str, Any]
Place = tuple[int, int]


class _OpenUses:
    """Where tool uses stand that a result may still come for: by id, the places (message's start, index) oldest first.

    waiting: without a result. unsure: with one that another may replace.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, deque[Place]] = {}
        self.unsure: dict[str, deque[Place]] = {}

    def note(self, block: dict[str, Any], place: Place) -> None:
        """Note a use of the state."""
        result = block.get("result")
        if result is None:
            self.waiting.setdefault(block["id"], deque()).append(place)
        elif _is_unsure(result):
            self.unsure.setdefault(block["id"], deque()).append(place)

    def take(self, use: str) -> Place | None:
        """Give the use that a result is for, and forget it."""
        for places, oldest in ((self.waiting, True), (self.unsure, False)):
            found = places.get(use)
            if found:
                place = found.popleft() if oldest else found.pop()
                if not found:
                    del places[use]
                return place
        return None

    def only(self) -> str | None:
        """Give the id of the use that waits, where exactly one does."""
        if len(self.waiting) != 1:
            return None
        ((use, places),) = self.waiting.items()
        return use if len(places) == 1 else None

    def forget(self, starts: set[int], uses: set[str]) -> None:
        """Forget the uses with these ids in messages that are gone."""
        for places in (self.waiting, self.unsure):
            for use in uses & places.keys():
                kept = deque(place for place in places[use] if place[0] not in starts)
                if kept:
                    places[use] = kept
                else:
                    del places[use]


class MessagesFold:
    """Folds into a list of its own; a message of the state that was given is copied before it is changed."""

    def __init__(self, state: Any) -> None:
        self.value: list[Message] = list(state)
        self._own: set[int] = set()  # starts of messages that are copies
        self._open = _OpenUses()
        self._answered: set[int] = set()  # starts of messages with a use that has a result
        for message in self.value:
            for place, block in enumerate(message["content"]):
                if is_use(block):
                    self._open.note(block, (message["start"], place))
                    if "result" in block:
                        self._answered.add(message["start"])

    def apply(self, event: Event) -> None:
        """Take an event."""
        data: dict[str, Any] = event.data if isinstance(event.data, dict) else {}
        match event.type:
            case "user.message" | "system.message":
                blocks = _blocks(event, data.get("content"))
                said = [kept for block in blocks if (kept := self._said(event, block)) is not None]
                if blocks and not said:
                    return  # results only, which stand beside their uses now
                message = self._add(event, event.type.partition(".")[0], said)
                for member in ("name", "role"):
                    if member in data:
                        message["name" if member == "name" else "speaker"] = data[member]
            case "agent.message":
                self._turn(event, data, [_neutral(block) for block in _blocks(event, data.get("content"))])
            case "agent.thinking":
                thought = {"type": "thinking", **{name: data[name] for name in _THOUGHT if name in data}}
                self._turn(event, data, [thought] if event.raw is not None else _blocks(event, None))
            case "agent.tool_use":
                self._use(event, data)
            case "agent.tool_result":
                self._result(event, data)
            case "user.tool_confirmation":
                if data.get("result") == "deny":
                    self._deny(event, data)
            case "summary":
                self._summarize(event, data)
            case _:
                pass

    # --- messages ---
    def _add(self, event: Event, role: str, content: list[Any]) -> Message:
        position = event.position
        message: Message = {"role": role, "content": content, "start": position, "stop": position + 1}
        self.value.append(message)
        self._own.add(position)
        return message

    def _turn(self, event: Event, data: dict[str, Any], blocks: list[Any]) -> None:
        """Add blocks to the agent's turn: those of one message_id, or without ids those that no result parts."""
        last = self.value[-1] if self.value else None
        turn = data.get("message_id")
        goes_on = last is not None and last["role"] == "assistant" and last.get("id") == turn
        if last is not None and goes_on and (turn is not None or last["start"] not in self._answered):
            message = self._owned(len(self.value) - 1)
            first = len(message["content"])
            message["content"].extend(blocks)
            message["stop"] = max(message["stop"], event.position + 1)
        else:
            message, first = self._add(event, "assistant", blocks), 0
            if turn is not None:
                message["id"] = turn
        for place, block in enumerate(blocks, start=first):
            if is_use(block):
                self._open.note(block, (message["start"], place))

    def _owned(self, index: int) -> Message:
        """Give a message that may be changed."""
        message = self.value[index]
        if message["start"] not in self._own:
            copied: Message = {**message, "content": list(message["content"])}
            self.value[index] = copied
            self._own.add(copied["start"])
            return copied
        return message

    # --- tools ---
    def _use(self, event: Event, data: dict[str, Any]) -> None:
        if event.raw is None or not isinstance(data.get("id"), str):
            self._turn(event, data, _blocks(event, None))
            return
        block: dict[str, Any] = {
            "type": "tool_use",
            "id": data["id"],
            "name": data.get("name", ""),
            "input": data.get("input"),
        }
        for member in ("kind", "server"):
            if member in data:
                block[member] = data[member]
        if event.rationale:
            block["rationale"] = event.rationale
        self._turn(event, data, [block])

    def _result(self, event: Event, data: dict[str, Any]) -> None:
        use = data.get("tool_use_id") if event.raw is not None else self._open.only()
        content = data.get("content")
        blocks = _blocks(event, data.get("structured") if content in (None, "") else content)
        failed = has_failed(event, data) or event.outcome == "unknown"
        result: dict[str, Any] = {"content": blocks, "is_error": failed, "position": event.position}
        if event.outcome is not None:
            result["outcome"] = event.outcome
        if not self._attach(use, result):
            self._add(event, "user", [_orphan(use, blocks, failed=failed)])

    def _said(self, event: Event, block: dict[str, Any]) -> dict[str, Any] | None:
        """Give a block of a user's or the system's message; None for a result, as Anthropic's API has it, of a use there is."""
        match block.get("type"):
            case "tool_result":
                content, failed = _blocks(event, block.get("content")), block.get("is_error") is True
                result = {"content": content, "is_error": failed, "position": event.position}
                use = block.get("tool_use_id")
                return None if self._attach(use, result) else _orphan(use, content, failed=failed)
            case _:
                return _plain(block)

    def _deny(self, event: Event, data: dict[str, Any]) -> None:
        content = [{"type": "text", "text": data.get("deny_message") or "The user denied this."}]
        result = {"content": content, "is_error": True, "position": event.position, "outcome": "denied"}
        result["provisional"] = True  # until its tool says so
        self._attach(data.get("tool_use_id"), result)

    def _attach(self, use: Any, result: dict[str, Any]) -> bool:
        """Put a result beside its use; False where there is none that waits for it."""
        place = self._open.take(use) if isinstance(use, str) else None
        if place is None:
            return False
        start, index = place
        message = self._owned(bisect_left(self.value, start, key=_start))
        block = {**message["content"][index], "result": result}
        message["content"][index] = block
        message["stop"] = max(message["stop"], result["position"] + 1)
        self._answered.add(start)
        self._open.note(block, place)
        return True

    # --- summaries ---
    def _summarize(self, event: Event, data: dict[str, Any]) -> None:
        """Put a summary in the place of the messages that it covers."""
        start, stop = data.get("start"), data.get("stop")
        if not isinstance(start, int) or not isinstance(stop, int) or event.raw is None:
            return
        low, high = bisect_left(self.value, start, key=_start), bisect_right(self.value, stop - 1, key=_start)
        kept = [message for message in self.value[low:high] if _stays(message, stop)]
        gone = [message for message in self.value[low:high] if not _stays(message, stop)]
        if not gone:
            return
        starts = {message["start"] for message in gone}
        self._open.forget(starts, {block["id"] for message in gone for block in message["content"] if is_use(block)})
        self._answered -= starts
        summary: Message = {
            "role": "summary",
            "content": [_plain(block) for block in _blocks(event, data.get("content"))],
            "start": gone[0]["start"],
            "stop": stop,
        }
        self._own.add(summary["start"])
        self.value[low:high] = sorted([*kept, summary], key=_start)


_OURS: Final = ("tool_use", "tool_result", "thinking")
_THOUGHT: Final = ("text", "signature", "encrypted", "provider")


def _blocks(event: Event, content: Any) -> list[Any]:
    """Give content as a list of blocks."""
    if event.raw is None:
        return [{"type": "text", "text": ERASED_TEXT}]
    if content is None or content == "":
        return []
    if isinstance(content, list):
        return [
            block if isinstance(block, dict) else {"type": "text", "text": _text(block)}
            for block in cast("list[Any]", content)
        ]
    return [{"type": "text", "text": _text(content)}]


def _neutral(block: dict[str, Any]) -> dict[str, Any]:
    """Give a block of an agent's message, where it is a tool use or a thought of Anthropic's API, as ours."""
    match block.get("type"):
        case "tool_use" if isinstance(block.get("id"), str):
            return {"type": "tool_use", "id": block["id"], "name": block.get("name", ""), "input": block.get("input")}
        case "thinking" if isinstance(block.get("thinking"), str):
            signed = {"signature": block["signature"]} if isinstance(block.get("signature"), str) else {}
            return {"type": "thinking", "text": block["thinking"], **signed}
        case "redacted_thinking":
            return {"type": "thinking", "encrypted": block.get("data"), "provider": "anthropic"}
        case _:
            return _plain(block)


def _plain(block: dict[str, Any]) -> dict[str, Any]:
    """Give a block as it is, but for one that would be taken for what an agent did."""
    return {"type": "text", "text": _text(block)} if block.get("type") in _OURS else block


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _orphan(use: Any, content: list[Any], *, failed: bool) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": use, "content": content, "is_error": failed}


def _is_unsure(result: dict[str, Any]) -> bool:
    return result.get("outcome") == "unknown" or "provisional" in result


def _stays(message: Message, stop: int) -> bool:
    waits = any(is_use(block) and "result" not in block for block in message["content"])
    return waits or message["stop"] > stop or message["role"] == "system"


def _start(message: Message) -> int:
    return message["start"]


def _step(state: Any, event: Event) -> Any:
    fold = MessagesFold(state)
    fold.apply(event)
    return fold.value


MESSAGES: Final = add_reducer(
    Reducer(
        "messages", 1, _step, initial=[], types=TYPES, start_fold=MessagesFold, makes_json=True, starts_cheaply=False
    )
)
