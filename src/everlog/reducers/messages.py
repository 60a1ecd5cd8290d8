"""The reducer `messages`: the conversation, in no provider's shape, with each tool use beside its result.

The state is a list of messages, oldest first: {"role", "content", "start", "stop"} and, where the events have them, "id"
(message_id), "name". start, stop: the positions of the first event of it and after the last.

1. role is system, user, assistant or summary. content is a list of blocks; those of Anthropic's Messages API that stand in
   events are kept as they are.
2. A tool use is a block {"type": "tool_use", "id", "name", "input", "result"?}; its result is {"content", "is_error",
   "position", "outcome"?}. A result whose use is not in the conversation is a block {"type": "tool_result", …} of a user
   message.
3. A rewind leaves nothing here, since its events are not in the lineage. A summary stands for the messages that lie wholly
   in its range, results included; they go.
4. An erased event is a block {"type": "text", "text": "[erased]"}.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any, Final, cast

import msgspec

from everlog.core.event import Event
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


class MessagesFold:
    """Folds into a list of its own; a message of the state that was given is copied before it is changed."""

    def __init__(self, state: Any) -> None:
        self.value: list[Message] = list(state)
        self._own: set[int] = set()  # starts of messages that are copies
        self._open: dict[str, tuple[int, int]] = {}  # tool uses without a known result: message's start, place in it
        for message in self.value:
            for place, block in enumerate(message["content"]):
                if block.get("type") == "tool_use" and _is_open(block):
                    self._open[block["id"]] = (message["start"], place)
        last = self.value[-1]["content"] if self.value else []
        self._answered = any("result" in block for block in last if block.get("type") == "tool_use")  # in the last turn

    def apply(self, event: Event) -> None:
        """Take an event."""
        data: dict[str, Any] = event.data if isinstance(event.data, dict) else {}
        match event.type:
            case "user.message" | "system.message":
                blocks = _blocks(event, data.get("content"))
                said = [block for block in blocks if not self._answers(event, block)]
                if blocks and not said:
                    return  # results only, which stand beside their uses now
                message = self._add(event, event.type.partition(".")[0], said)
                for member in ("name", "role"):
                    if member in data:
                        message["name" if member == "name" else "speaker"] = data[member]
            case "agent.message":
                self._turn(event, data, [_neutral(block) for block in _blocks(event, data.get("content"))])
            case "agent.thinking":
                block = {"type": "thinking", **{name: data[name] for name in _THOUGHT if name in data}}
                self._turn(event, data, [block] if event.raw is not None else _blocks(event, None))
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
        if goes_on and (turn is not None or not self._answered):
            last = self._owned(len(self.value) - 1)
            self._opens(last["start"], len(last["content"]), blocks)
            last["content"].extend(blocks)
            last["stop"] = max(last["stop"], event.position + 1)
            return
        message = self._add(event, "assistant", blocks)
        self._opens(message["start"], 0, blocks)
        self._answered = False
        if turn is not None:
            message["id"] = turn

    def _opens(self, start: int, first: int, blocks: list[Any]) -> None:
        """Note where the tool uses of a turn stand. first: the place of the first block in its message."""
        for place, block in enumerate(blocks, start=first):
            if block.get("type") == "tool_use":
                self._open[block["id"]] = (start, place)

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
        use = data.get("tool_use_id")
        content = _blocks(event, data.get("content", data.get("structured")))
        failed = data.get("is_error") is True or event.outcome in ("error", "denied")
        result: dict[str, Any] = {"content": content, "is_error": failed, "position": event.position}
        if event.outcome is not None:
            result["outcome"] = event.outcome
        if not self._attach(use, result, stays_open=event.outcome == "unknown"):
            orphan = {"type": "tool_result", "tool_use_id": use, "content": content, "is_error": failed}
            self._add(event, "user", [orphan])

    def _answers(self, event: Event, block: dict[str, Any]) -> bool:
        """Put a result that stands in a user's message, as Anthropic's API has it, beside its use; False for other blocks."""
        if block.get("type") != "tool_result":
            return False
        content = _blocks(event, block.get("content"))
        result = {"content": content, "is_error": block.get("is_error") is True, "position": event.position}
        return self._attach(block.get("tool_use_id"), result, stays_open=False)

    def _deny(self, event: Event, data: dict[str, Any]) -> None:
        content = [{"type": "text", "text": data.get("deny_message") or "The user denied this."}]
        result = {"content": content, "is_error": True, "position": event.position, "outcome": "denied"}
        result["provisional"] = True  # until its tool says so
        self._attach(data.get("tool_use_id"), result, stays_open=True)

    def _attach(self, use: Any, result: dict[str, Any], *, stays_open: bool) -> bool:
        """Put a result beside its use. stays_open: another may still come and count instead."""
        found = self._open.get(use) if isinstance(use, str) else None
        if found is None:
            return False
        start, place = found
        index = bisect_left(self.value, start, key=_start)
        message = self._owned(index)
        message["content"][place] = {**message["content"][place], "result": result}
        self._answered = self._answered or index == len(self.value) - 1
        message["stop"] = max(message["stop"], result["position"] + 1)
        if not stays_open:
            del self._open[use]
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
        for message in gone:
            for block in message["content"]:
                if block.get("type") == "tool_use":
                    self._open.pop(block["id"], None)
        summary: Message = {
            "role": "summary",
            "content": _blocks(event, data.get("content")),
            "start": gone[0]["start"],
            "stop": stop,
        }
        self._own.add(summary["start"])
        self.value[low:high] = sorted([*kept, summary], key=_start)


_THOUGHT: Final = ("text", "signature", "encrypted")


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
            return {"type": "thinking", "encrypted": block.get("data")}
        case "tool_use" | "tool_result" | "thinking":
            return {"type": "text", "text": _text(block)}
        case _:
            return block


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _is_open(block: dict[str, Any]) -> bool:
    result = block.get("result")
    return result is None or result.get("outcome") == "unknown" or "provisional" in result


def _stays(message: Message, stop: int) -> bool:
    return message["stop"] > stop or message["role"] == "system"


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
