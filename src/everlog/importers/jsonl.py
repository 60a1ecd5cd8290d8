"""Everlog's own event shape as JSON lines: what `everlog log --json` prints, and what people write by hand.

`{"type": "note", "data": {"content": "…"}}` is enough. Members: type, data, actor, outcome, rationale, metadata,
occurred_at, key; `session` names the session that the line goes to, else the file does. Members that only a store gives
(id, position, recorded_at, hash, …) are kept in `metadata.native`. To move a session with every hash, use a bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from types import NoneType
from typing import Any

from everlog.core.event import Event, NewEvent
from everlog.core.position import check_session_id, format_micros, to_micros
from everlog.core.standard import is_reserved
from everlog.errors import EverlogError
from everlog.importers.lines import Line
from everlog.importers.record import Item, Target, first_words, make_item
from everlog.integrations.items import opaque_type, parse_moment
from everlog.store import Store

FORMAT = "jsonl"
PATTERN = "*.jsonl"
_GIVEN = ("actor", "outcome", "rationale", "metadata", "key")
_ASSIGNED = ("id", "session", "branch", "position", "recorded_at", "hash")  # by the store


class Translator:
    """Reads the lines of one file."""

    def __init__(self, _store: Store, path: Path, _first: Line, identity: str) -> None:
        self._identity = identity
        self._titles: dict[str, str] = {}
        self.home = self._target(path.stem)

    def translate(self, line: Line) -> Iterator[tuple[Target, Item]]:
        """Give the event of a line, and where it goes."""
        event, problem = _event(line.value)
        members = line.value if isinstance(line.value, dict) else {}
        target = self._target(members["session"]) if _is_session(members.get("session")) else self.home
        content = event.data.get("content") if isinstance(event.data, dict) else None
        if event.type == "user.message" and isinstance(content, str):
            self._titles.setdefault(target.name, first_words(content))
        key = event.key if isinstance(event.key, str) and event.key else _own_key(line, members)
        native = _encoded(event, target, self.home) != line.value
        yield target, make_item(FORMAT, line, key, [event], native=native, problem=problem)

    def _target(self, name: str) -> Target:
        return Target(name=name, identity=self._identity, title=lambda: self._titles.get(name))


def encode(group: Sequence[Event]) -> dict[str, Any]:
    """Give an event as the line that it was made of, where it was not kept whole."""
    members = group[0].to_dict()
    for name in _ASSIGNED:
        members.pop(name, None)
    if str(members.get("key", "")).startswith(f"{FORMAT}:"):
        del members["key"]
    return members


def _encoded(event: NewEvent, target: Target, home: Target) -> dict[str, Any]:
    """Give what `encode` will give for an event."""
    members: dict[str, Any] = {"type": event.type}
    for name in ("data", *_GIVEN):
        if getattr(event, name) is not None:
            members[name] = getattr(event, name)
    if event.occurred_at is not None:
        assert not isinstance(event.occurred_at, int), "a line's time is read as a datetime"
        members["occurred_at"] = format_micros(to_micros(event.occurred_at))
    return members if target is home else {}


def _event(value: Any) -> tuple[NewEvent, str | None]:
    """Give a line's event as it says, whether the log will take it or not; or an opaque one, and why."""
    if not isinstance(value, dict):
        return NewEvent(opaque_type(FORMAT, "entry"), {"value": value}), "is no JSON object; kept as it is"
    kind = value.get("type")
    if not isinstance(kind, str):
        return NewEvent(opaque_type(FORMAT, "entry")), "has no type; kept as it is"
    occurred = parse_moment(value.get("occurred_at")) or parse_moment(value.get("recorded_at"))
    if is_reserved(kind):  # written only by their own verbs, which say what happened here
        return NewEvent(opaque_type(FORMAT, kind), value.get("data"), occurred_at=occurred), None
    members: dict[str, Any] = {name: value.get(name) for name in _GIVEN}
    problem = None
    if not isinstance(members["metadata"], (dict, NoneType)):
        members["metadata"], problem = None, "has metadata that is no object; the line is kept beside the event"
    return NewEvent(kind, value.get("data"), occurred_at=occurred, **members), problem


def _own_key(line: Line, members: dict[str, Any]) -> str:
    known = members.get("id")
    if isinstance(known, str) and known.startswith("ev_"):
        return f"{FORMAT}:{known}"
    return f"{FORMAT}:{line.number}:{sha256(line.raw).hexdigest()[:32]}"


def _is_session(name: Any) -> bool:
    try:
        check_session_id(name)
    except EverlogError:
        return False
    return True
