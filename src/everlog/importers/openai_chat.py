"""Conversations in the shape of OpenAI's API: messages of chat completions, or items of the Responses API.

As JSON: a list of messages, or an object whose `messages` is one. As JSON lines: a message a line, or such an object a
line, each then a session of its own, `FILE/LINE`. An item's key is its place and its content.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from everlog.core.event import Event, NewEvent
from everlog.importers.lines import Line
from everlog.importers.record import Item, Target, first_words, make_item
from everlog.integrations.items import compact, digest, opaque_type, text_of
from everlog.integrations.openai_items import chat_events, response_events
from everlog.store import Store

FORMAT = "openai"
PATTERNS = ("*.json", "*.jsonl")
_LISTS = ("messages", "input", "items")  # under which an object holds its conversation


class Translator:
    """Reads the lines of one file, or the one value of a file that is JSON as a whole."""

    def __init__(self, _store: Store, path: Path, first: Line, _identity: str) -> None:
        self._stem = path.stem
        self._titles: dict[str, str] = {}
        self.home = self._target(self._stem, first.value)

    def translate(self, line: Line) -> Iterator[tuple[Target, Item]]:
        """Give the items of a line, and where they go."""
        listed = conversation_of(line.value)
        if listed is None:
            yield self.home, self._item(self.home, line.number, line.number, line.value, line)
            return
        target = self._target(f"{self._stem}/{line.number}", line.value)
        yield from self._conversation(target, line.number, line.value, listed)

    def translate_whole(self, value: Any) -> Iterator[tuple[Target, Item]]:
        """Give the items of a file that is JSON as a whole."""
        listed = value if isinstance(value, list) else conversation_of(value)
        yield from self._conversation(self.home, None, value, [value] if listed is None else listed)

    def _conversation(
        self, target: Target, number: int | None, value: Any, listed: list[Any]
    ) -> Iterator[tuple[Target, Item]]:
        for place, message in enumerate(listed):
            yield target, self._item(target, number, place, message, None)
        rest = (
            {name: member for name, member in value.items() if member is not listed} if isinstance(value, dict) else {}
        )
        if rest and value is not listed[0]:
            line = Line(number=number or 1, raw=compact(rest).encode(), value=rest)
            key = f"{FORMAT}:rest:{digest(rest)[:32]}"
            yield target, make_item(FORMAT, line, key, [NewEvent(opaque_type(FORMAT, "conversation"))])

    def _item(self, target: Target, number: int | None, place: int, message: Any, line: Line | None) -> Item:
        events = _events(message)
        problem = None
        if not events:
            name = message.get("role", message.get("type")) if isinstance(message, dict) else None
            events = [NewEvent(opaque_type(FORMAT, name))]
            problem = f"item {place} is no message that is known; kept as it is"
        content = events[0].data.get("content") if isinstance(events[0].data, dict) else None
        if events[0].type == "user.message":
            self._titles.setdefault(target.name, first_words(text_of(content) or ""))
        key = f"{FORMAT}:{place}:{digest(message)[:32]}"
        if line is None:
            line = Line(number=number or 1, raw=compact(message).encode(), value=message)
        return make_item(FORMAT, line, key, events, native=encode(events) != message, problem=problem)

    def _target(self, name: str, value: Any) -> Target:
        """Tell conversations of one name apart by how they begin: a file that is JSON as a whole grows at its end."""
        listed = value if isinstance(value, list) else conversation_of(value)
        begins = digest(value if listed is None else listed[:1])[:32]
        return Target(name=name, identity=begins, title=lambda: self._titles.get(name))


def conversation_of(value: Any) -> list[Any] | None:
    """Give the list of messages that an object holds; None where it holds none, or an empty one."""
    if not isinstance(value, dict) or "role" in value:
        return None
    found = (value[name] for name in _LISTS if isinstance(value.get(name), list) and value[name])
    return next(found, None)


def encode(group: Sequence[Event | NewEvent]) -> dict[str, Any] | None:
    """Give the message that an item's events say; None where they say none."""
    if len(group) != 1:
        return None
    data: Any = group[0].data
    match group[0].type:
        case "user.message":
            return {"role": "user", **data}
        case "system.message":
            return {"role": "system", **data}
        case "agent.message" if data.keys() == {"content"}:
            return {"role": "assistant", **data}
        case "agent.tool_result":
            return {"role": "tool", "tool_call_id": data["tool_use_id"], "content": data.get("content")}
        case _:
            return None


def _events(message: Any) -> list[NewEvent]:
    if not isinstance(message, dict):
        return []
    if "role" in message and message.get("type", "message") == "message":
        return chat_events(message)
    return response_events(message, None)
