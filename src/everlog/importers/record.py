"""Recording what an importer reads: items of a source become events of sessions, each once, and none is lost.

1. An item of the source is one append: its first event holds the item's key and, in `metadata.native`, the item itself
   where the events do not say all of it; the others are its parts, `metadata.part = [i, n]`.
2. An item whose key is recorded is known, and not recorded again: neither where its session was rewound meanwhile, nor
   where a later version of the importer would make other events of it. Other content under one key is recorded too,
   under a key of its own.
3. Secrets are taken out of an item before anything is made of it that lasts: also of what stands for its content, as keys of items
   do that have no id. An item that was imported otherwise before is known all the same (`covers`).
4. What the log refuses is kept as an opaque event with the source's bytes attached, and reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from operator import is_
from pathlib import Path
from typing import Any

import msgspec

from everlog.core import limits
from everlog.core.event import Event, NewEvent
from everlog.core.redact import covers
from everlog.core.values import decode_json
from everlog.errors import EverlogError, InvalidEventError, KeyReusedError, LimitError, NotFoundError, SecretError
from everlog.importers.lines import Line
from everlog.integrations.items import (
    TITLE_READ,
    as_title,
    compact,
    digest,
    opaque_name,
    with_key,
    with_parts,
)
from everlog.session import Session
from everlog.store import Store

NATIVE_BYTES_MAX = 1024 * 1024  # a larger item goes into an attachment, so that bodies stay below their bound
PROBLEMS_MAX = 1_000  # that are listed for a file; all are counted
_CONTENT = re.compile(r"[0-9a-f]{32}$")  # ends a key that stands for an item's content
_BATCH_EVENTS = 300  # of one append: few enough to stay small, many enough to share a sync
_BATCH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that could not be taken as what it should be. line: from 1; None for the file as a whole."""

    path: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        place = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{place}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of one file.

    sessions: those that its items went to, the main one first. events: newly recorded; known: recorded before.
    problems: at most PROBLEMS_MAX of `problem_count`; what they name is kept in the session as an opaque event.
    """

    path: str
    sessions: tuple[str, ...]
    events: int
    known: int
    problems: tuple[Problem, ...] = ()
    problem_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A file of which nothing, or not all, was imported, and why."""

    path: str
    error: EverlogError


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The session that an item goes to, and what it is made with where it is not there yet.

    name: its id. identity: tells this source from another of the same name. title, parent: asked when it is made.
    """

    name: str
    identity: str
    title: Callable[[], str | None] = lambda: None
    parent: Callable[[], Event | None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of a source as events. value: what it was. problem: what is to be reported of it."""

    number: int | None
    value: Any
    events: Sequence[NewEvent]
    raw_bytes: int
    problem: str | None = None


class Recorder:
    """Records the items of one file. labels: of the sessions that it makes, beside that of the format."""

    def __init__(self, store: Store, format: str, path: Path, *, labels: Mapping[str, str] | None = None) -> None:
        self.store = store
        self._redactor = store.settings.redactor
        self.format = format
        self.labels = {"source": format, **(labels or {})}
        self.path = path
        self.events = 0
        self.known = 0
        self.problem_count = 0
        self.problems: list[Problem] = []
        self.sessions: dict[str, str] = {}  # the target's name: the session's id
        self._waiting_events = 0
        self._waiting_bytes = 0
        self._waiting_keys: set[str | None] = set()
        self._targets: dict[str, Target] = {}
        self._queued: dict[str, list[Item]] = {}

    def add(self, target: Target, item: Item) -> bool:
        """Take an item, which is recorded with others, at the latest by `flush`; True where earlier ones now are."""
        if item.problem is not None:
            self.report(item.number, item.problem)
        keys = {event.key for event in item.events}
        full = (
            self._waiting_events + len(item.events) > _BATCH_EVENTS
            or self._waiting_bytes + item.raw_bytes > _BATCH_BYTES
            or not keys.isdisjoint(self._waiting_keys)
        )
        if full:
            self.flush()
        self._targets[target.name] = target
        self._queued.setdefault(target.name, []).append(item)
        self._waiting_events += len(item.events)
        self._waiting_bytes += item.raw_bytes
        self._waiting_keys |= keys
        return full

    def flush(self) -> None:
        """Record all that was taken."""
        queued, self._queued = self._queued, {}
        self._waiting_events = self._waiting_bytes = 0
        self._waiting_keys.clear()
        for name, items in sorted(queued.items(), key=lambda each: each[0]):  # a session before those made for it
            session, branched = self._session(self._targets[name], items)
            items = [clean for item in items if (clean := self._clean(session, item)) is not None]  # noqa: PLW2901
            if branched:
                items = self._new_to(session, items)  # noqa: PLW2901
            if items:
                self._write(session, items)
        self._targets.clear()

    def report(self, line: int | None, reason: str) -> None:
        """Note a problem of the file."""
        self.problem_count += 1
        reason = reason if self._redactor is None else self._redactor.marked(reason)
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(path=str(self.path), line=line, reason=reason))

    def take(self) -> Imported:
        """Give what became of the file since this was asked last."""
        imported = Imported(
            path=str(self.path),
            sessions=tuple(self.sessions.values()),
            events=self.events,
            known=self.known,
            problems=tuple(self.problems),
            problem_count=self.problem_count,
        )
        self.events = self.known = self.problem_count = 0
        self.problems.clear()
        return imported

    def _session(self, target: Target, items: Sequence[Item]) -> tuple[Session, bool]:
        """Open the session of a source, or make it; another source of the same name gets a name of its own."""
        known = self.sessions.get(target.name)
        if known is not None:
            session = self.store.session(known)
        else:
            # An identity stands for what a source begins with: where that holds a secret, nobody must be able to try out guesses.
            redactor = self._redactor
            secret = redactor is not None and any(redactor.findings(item.value, "the item") for item in items)
            identity = redactor.hidden(target.identity) if redactor is not None and secret else target.identity
            session = self._made(target, target.name, identity)
            source = session.info().metadata.get("source")
            if source != target.identity and (redactor is None or source != redactor.hidden(target.identity)):
                session = self._made(target, f"{target.name[:200]}-{identity[:8]}", identity)
            self.sessions[target.name] = session.id
        return session, len(session.branches()) > 1

    def _clean(self, session: Session, item: Item) -> Item | None:
        """Give an item without secrets; None where it is left out for one."""
        redactor = self._redactor
        if redactor is None:
            return item
        key = item.events[0].key
        plain = [msgspec.structs.replace(event, key=None) for event in item.events]
        try:
            events = [redactor.event(event) for event in plain]
        except SecretError as error:
            self.report(item.number, f"is left out: {error.message}")
            return None
        except LimitError as error:  # it is nested too deep
            return self._clean(session, self._refused(item, error))
        if key is not None and redactor.findings(key, "key"):
            key = redactor.hidden(key)
        elif all(map(is_, events, plain)):
            return item
        elif key is not None and _CONTENT.search(key) and session.find(key) is None:
            key = f"{key[:-32]}{redactor.hidden(key)}"
        value = redactor.marked(item.value)
        return replace(item, value=value, events=events if key is None else with_key(events, key))

    def _refused(self, item: Item, error: EverlogError) -> Item:
        """Report an item that the log refuses as an event; give it as one that it takes."""
        self.report(item.number, f"is kept as it is, since the log refuses it as an event: {error.message}")
        return _opaque(self.format, item)

    def _made(self, target: Target, name: str, identity: str) -> Session:
        with suppress(NotFoundError):
            return self.store.session(name)
        return self.store.get_or_create(
            name,
            title=as_title(target.title() if self._redactor is None else self._redactor.marked(target.title())),
            labels=self.labels,
            metadata={"file": self.path.name, "source": identity},
            parent=target.parent(),
        )

    def _new_to(self, session: Session, items: list[Item]) -> list[Item]:
        """Leave out what stands on any branch: what was imported and then rewound must not come back."""
        new: list[Item] = []
        for item in items:
            keys = (item.events[0].key, _own_key(item))
            recorded = (event for key in keys if key for event in self.store.find(key, limit=limits.PAGE_EVENTS_MAX))
            if any(event.session == session.id and _is_of(event, item) for event in recorded):
                self.known += len(item.events)
            else:
                new.append(item)
        return new

    def _write(self, session: Session, items: list[Item]) -> None:
        try:
            recorded = session.extend([event for item in items for event in item.events], repeats="skip")
        except (KeyReusedError, InvalidEventError, LimitError) as error:
            if len(items) == 1:
                self._write_otherwise(session, items[0], error)
                return
            middle = len(items) // 2
            self._write(session, items[:middle])
            self._write(session, items[middle:])
        else:
            repeated = sum(event.repeated for event in recorded)
            self.known += repeated
            self.events += len(recorded) - repeated

    def _write_otherwise(self, session: Session, item: Item, error: EverlogError) -> None:
        if not isinstance(error, KeyReusedError):
            self._write(session, [self._refused(item, error)])
            return
        key, own = item.events[0].key, _own_key(item)
        assert key is not None, "only a key can be reused"
        assert own is not None, "it has a key"
        recorded = session.find(key)
        if (recorded is not None and _is_of(recorded, item)) or session.find(own) is not None:
            self.known += len(item.events)  # other events than these, of the same item
            return
        self._write(session, [replace(item, events=with_key(item.events, own))])


# --- making items --------------------------------------------------------------------------------
def make_item(
    format: str,
    line: Line,
    key: str,
    events: Sequence[NewEvent],
    *,
    occurred_at: datetime | None = None,
    native: bool = True,
    problem: str | None = None,
) -> Item:
    """Give a line as an item: its events with key, time and parts, and with the line itself where `native` asks for it."""
    made = (
        [msgspec.structs.replace(event, occurred_at=occurred_at) for event in events]
        if occurred_at is not None
        else list(events)
    )
    metadata = dict(made[0].metadata or {})
    if line.fault is not None or (native and len(line.raw) > NATIVE_BYTES_MAX):
        metadata["native"] = {"format": format, "attachment": "native.json"}
        made[0] = msgspec.structs.replace(made[0], attachments={"native.json": line.raw})
    elif native:
        metadata["native"] = {"format": format, "item": line.value}
    if metadata:
        made[0] = msgspec.structs.replace(made[0], metadata=metadata)
    made = with_parts(made)
    return Item(
        number=line.number,
        value=line.value,
        events=with_key(made, key),
        raw_bytes=len(line.raw),
        problem=problem if line.fault is None else f"{line.fault}; its bytes are kept beside it",
    )


def unreadable(format: str, line: Line) -> Item:
    """Give a line that cannot be read as an opaque event with its bytes attached."""
    data = {"line": line.number, "reason": line.fault, "piece": line.piece}
    key = f"{format}:line:{line.number}:{line.piece}:{sha256(line.raw).hexdigest()[:32]}"
    event = NewEvent(f"x.{opaque_name(format)}.unreadable", data, attachments={"line": line.raw}, key=key)
    return Item(
        number=line.number,
        value=line.raw,
        events=[event],
        raw_bytes=len(line.raw),
        problem=f"{line.fault}; kept as bytes",
    )


def _own_key(item: Item) -> str | None:
    """Give the key of an item whose own key other content has."""
    key = item.events[0].key
    return None if key is None else f"{key[:400]}:{digest(item.value)[:16]}"


def _opaque(format: str, item: Item) -> Item:
    """Give an item that the log refused as an event of it alone, with its JSON attached."""
    content = item.value if isinstance(item.value, bytes) else compact(item.value).encode()
    event = NewEvent(
        f"x.{opaque_name(format)}.refused",
        {"line": item.number, "type": item.events[0].type},
        metadata={"native": {"format": format, "attachment": "native.json"}},
        attachments={"native.json": content},
        key=item.events[0].key,
    )
    return replace(item, events=[event], problem=None)


def first_words(text: str) -> str:
    """Give the beginning of a text, of which a title is made: longer than one, since a secret that is cut off is not known for one."""
    return " ".join(text[:TITLE_READ].split())


# --- giving items back ---------------------------------------------------------------------------
Encode = Callable[[Sequence[Event]], Any]


def item_of(group: Sequence[Event], encode: Encode) -> Any:
    """Give the source's item that a group of events was made of; bytes where it could not be read.

    encode: makes an item of the standard fields, for those that need no more.
    """
    first = group[0]
    native = (first.metadata or {}).get("native")
    if isinstance(native, dict):
        if "item" in native:
            return native["item"]
        if "attachment" in native:
            raw = first.attachment(native["attachment"])
            try:
                return decode_json(raw, what="the item")
            except EverlogError:
                return raw
    if first.type.startswith("x.") and first.type.endswith(".unreadable"):
        return first.attachment("line")
    return encode(group)


def _is_of(first: Event, item: Item) -> bool:
    """Tell whether an event was made of this item; an erased one is, since it must not come back."""
    if first.erased:
        return True
    kept = item_of([first], lambda _: None)
    made = item.events[0]
    if kept is None:
        return first.type == made.type and _same(first.data, made.data)
    return _same(kept, item.value) or _same(kept, (made.attachments or {}).get("native.json"))


def _same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same but for secrets, which may have been redacted in either."""
    return bool(one == other) or covers(one, other) or covers(other, one)
