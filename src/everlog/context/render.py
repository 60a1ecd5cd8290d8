"""Carrying out a plan: the same log and the same plan give the same bytes.

The front stands before what grows: the system's messages, pins, summaries. Then messages word for word, oldest first. What was
retrieved for a question stands before the last message, so that it spoils no cache of what is before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

import msgspec

from everlog.context.extract import extract_summaries
from everlog.context.manifest import Format, Plan
from everlog.context.tree import read_positions
from everlog.core.event import Event
from everlog.core.query import Exact, Term
from everlog.reader import View
from everlog.reducers.anthropic import as_anthropic
from everlog.reducers.blocks import is_use, result_of, shown, text_of
from everlog.reducers.messages import ERASED_TEXT, TYPES, Message, MessagesFold
from everlog.reducers.openai import as_openai_chat, as_openai_responses
from everlog.storage import Storage

SPOKEN: Final = tuple(kind for kind in TYPES if kind != "summary")
SPOKEN_TERMS: Final = (Term("type", tuple(Exact(kind) for kind in SPOKEN)),)
QUOTED_CHARACTERS_MAX: Final = 100_000  # of one event that is quoted
PAYLOADS: Final[dict[Format, Callable[[list[Message]], dict[str, Any]]]] = {
    "anthropic": as_anthropic,
    "openai_chat": as_openai_chat,
    "openai_responses": as_openai_responses,
    "plain": lambda messages: {"messages": [plain for message in messages if (plain := _as_plain(message))]},
}
MEMBERS: Final = {"openai_responses": "input"}  # of a payload, that holds the messages


class Rendered(msgspec.Struct, frozen=True):
    """A plan carried out. front: system, pins and summaries; tail: word for word. erased: [start, stop) of messages that are gone.

    leaves: of the events that the tail is made of, by position.
    """

    front: list[Message]
    tail: list[Message]
    beside: list[Message]
    erased: list[tuple[int, int]]
    leaves: dict[int, bytes]

    def messages(self) -> list[Message]:
        """Give all, in their order."""
        if not self.beside:
            return self.front + self.tail
        last_is_users = bool(self.tail) and self.tail[-1]["role"] == "user"
        at = len(self.tail) - 1 if last_is_users else len(self.tail)
        return self.front + self.tail[:at] + self.beside + self.tail[at:]


def render(
    storage: Storage,
    view: View,
    plan: Plan,
    pins: Sequence[Event],
    retrieved: Sequence[Event],
    word_for_word: Iterable[Event] | None = None,
) -> Rendered:
    """Carry out a plan. pins, retrieved: the events that it names, which may be of other lines.

    word_for_word: the spoken events from the plan's start on, where they were read before.
    """
    front = spoken(read_positions(storage, view, plan.system))
    front += [quoted("Pinned", event) for event in pins]
    if plan.digest:
        front.append(digested(read_positions(storage, view, plan.digest), plan.digest_tokens))
    front += [summarized(event) for event in read_positions(storage, view, plan.summaries)]
    fold = MessagesFold([])
    leaves: dict[int, bytes] = {}
    in_front = {*plan.system}
    pulled = read_positions(storage, view, plan.pulled)
    if word_for_word is None:
        word_for_word = spoken_events(storage, view, plan.start, plan.cut)
    for event in chain(pulled, word_for_word):
        if event.position not in in_front:
            fold.apply(event)
            leaves[event.position] = event.leaf
    tail = [message for message in fold.value if not _is_erased(message)]
    erased = [(message["start"], message["stop"]) for message in fold.value if _is_erased(message)]
    if plan.clipped is not None:
        tail = [clipped(message, plan.clipped) for message in tail]
    return Rendered(front, tail, [quoted("Recalled from earlier", event) for event in retrieved], erased, leaves)


def payload_of(format: Format, messages: list[Message]) -> dict[str, Any]:
    """Give messages as a provider takes them."""
    return PAYLOADS[format](messages)


def spoken(events: Sequence[Event]) -> list[Message]:
    """Fold events into messages."""
    fold = MessagesFold([])
    for event in events:
        fold.apply(event)
    return fold.value


def spoken_events(storage: Storage, view: View, start: int, stop: int) -> Iterator[Event]:
    """Read the events of [start, stop) that make up the conversation, a page at a time."""
    while start < stop:
        page = storage.read(view.lineage, start, stop, terms=SPOKEN_TERMS, limit=200)
        yield from page.events
        if page.following is None:
            return
        start = page.following


class Newest:
    """The newest spoken events of a line before a cut: each is read once, however often it is asked for."""

    def __init__(self, storage: Storage, view: View, cut: int) -> None:
        self._storage = storage
        self._view = view
        self._cut = cut
        self._from = cut  # all from here on were read
        self._events: list[Event] = []  # the newest first

    def back(self, start: int, stop: int) -> Iterator[Event]:
        """Give the events of [start, stop), the newest first; what is not asked for is not read."""
        at = bisect_right(self._events, -stop, key=lambda event: -event.position)
        while True:
            while at < len(self._events):
                event = self._events[at]
                if event.position < start:
                    return
                if event.position < stop:
                    yield event
                at += 1
            if self._from <= start:
                return
            page = self._storage.read(self._view.lineage, start, self._from, terms=SPOKEN_TERMS, reverse=True)
            self._from = start if page.following is None else page.following
            self._events += page.events

    def since(self, start: int) -> list[Event]:
        """Give the events from a position on, oldest first."""
        return list(self.back(start, self._cut))[::-1]


def without_use(events: Iterable[Event]) -> set[str]:
    """Give the ids that results name whose uses do not stand before them in these events, oldest first."""
    waiting: Counter[str] = Counter()
    missed: set[str] = set()
    for event in events:
        data: dict[str, Any] = event.data if isinstance(event.data, dict) else {}
        match event.type:
            case "agent.tool_use":
                said: list[Any] = [{"type": "tool_use", "id": data.get("id")}]
            case "agent.tool_result":
                said = [{"type": "tool_result", "tool_use_id": data.get("tool_use_id")}]
            case _:
                content = data.get("content")
                said = content if isinstance(content, list) else []
        for block in said:
            if not isinstance(block, dict):
                continue
            if is_use(block) and isinstance(block.get("id"), str):
                waiting[block["id"]] += 1
            elif block.get("type") == "tool_result" and isinstance(use := block.get("tool_use_id"), str):
                if waiting[use]:
                    waiting[use] -= 1
                else:
                    missed.add(use)
    return missed


def summarized(event: Event) -> Message:
    """Give a summary event as a message."""
    start, stop, content = _summary_of(event)
    return _summary_message(start, stop, content)


def digested(events: Sequence[Event], tokens: int) -> Message:
    """Give several summary events, oldest first, as one message: the weightiest of their lines."""
    read = [_summary_of(event) for event in events]
    content = extract_summaries(((start, text) for start, _, text in read), tokens=tokens)
    return _summary_message(read[0][0], read[-1][1], content)


def _summary_of(event: Event) -> tuple[int, int, str]:
    data: dict[str, Any] = event.data if isinstance(event.data, dict) else {}
    return data.get("start", 0), data.get("stop", 0), _text_of(data.get("content", ""))


def _summary_message(start: int, stop: int, content: str) -> Message:
    text = f"[Summary of events {start} to {stop - 1} of this session]\n{content}"
    return {"role": "summary", "content": [{"type": "text", "text": text}], "start": start, "stop": stop}


def quoted(why: str, event: Event) -> Message:
    """Give an event as a quotation. It names no session: the event has another one's name on a fork and in a copy."""
    said = " ".join(part for part in (event.type, event.actor or "") if part)
    text = _quoted_text(event)
    return {
        "role": "summary",
        "content": [{"type": "text", "text": f"[{why}: {said}, event {event.position}]\n{text}"}],
        "start": event.position,
        "stop": event.position + 1,
    }


def clipped(message: Message, characters: int) -> Message:
    """Give a message with texts of at most so many characters each."""
    return {**message, "content": [_clip(block, characters) for block in message["content"]]}


def _clip(block: Any, characters: int) -> Any:
    if isinstance(block, str):
        return _cut(block, characters)
    if isinstance(block, list):
        return [_clip(each, characters) for each in block]
    if isinstance(block, dict):
        if block.get("type") in _WHOLE and len(shown(block)) > characters:
            return {"type": "text", "text": f"[{block['type']}, which is in the session]"}
        kept = ("id", "name", "type", "tool_use_id", "signature", "encrypted", "provider", "kind", "server")
        return {name: value if name in kept else _clip(value, characters) for name, value in block.items()}
    return block


# A picture, file or signed thought that is cut is none that a provider takes.
_WHOLE: Final = ("image", "image_url", "input_image", "document", "thinking", "redacted_thinking")


def _cut(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    return f"{text[:characters]} […{len(text) - characters:,} more characters are in the session]"


def _is_erased(message: Message) -> bool:
    """Tell whether nothing of a message is left."""
    return bool(message["content"]) and all(text_of(block) == ERASED_TEXT for block in message["content"])


def _quoted_text(event: Event) -> str:
    if event.raw is None:
        return ERASED_TEXT
    data: Any = event.data
    content = data.get("content") if isinstance(data, dict) else None
    text = _text_of(content) if content else shown(data) if data is not None else ""
    rationale = f"\n(because: {event.rationale})" if event.rationale else ""
    return _cut(text, QUOTED_CHARACTERS_MAX) + rationale


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(shown(block) for block in content)
    return content if isinstance(content, str) else shown(content)


def _as_plain(message: Message) -> dict[str, str] | None:
    """Give a message as a role and a text, with tool uses and their results in it."""
    parts: list[str] = []
    for block in message["content"]:
        if is_use(block):
            content, failed = result_of(block)
            said = "\n".join(shown(each) for each in content)
            parts.append(f"[{block['name']}] {shown(block.get('input'))}\n[{'failed' if failed else 'result'}] {said}")
        elif block.get("type") == "tool_result":
            parts += [shown(each) for each in block["content"]]
        elif block.get("type") != "thinking":
            parts.append(shown(block))
    text = "\n".join(parts)
    role = "user" if message["role"] == "summary" else message["role"]
    return {"role": role, "content": text} if text.strip() else None
