"""Pydantic AI's `ConversationStore` over Everlog.

1. A conversation is a session `pydantic-ai/CONVERSATION`. Its entries are events under keys `entry:ID`, and after them stands the record as
   it is from then on: what a save appends is one transaction, at the head where the record's revision was read.
2. The current line of the session holds the record's history: a save or branch that goes on from an earlier entry rewinds to it, and what
   was left stays on the line that it is on. A fork is a fork of the session.
3. Entries are found by id, wherever they are; a history is read from its last entry backwards along its line.
4. Where a session's line is changed by Everlog (`rewind`, `switch`), the record is the last one on it: the conversation is as it was there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import pydantic
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    ConversationStore,
)

from everlog.core.event import Event, Head, NewEvent
from everlog.core.limits import LABEL_VALUE_CHARACTERS_MAX, SESSIONS_PAGE_MAX
from everlog.core.query import Exact, Query, Term
from everlog.errors import (
    BusyError,
    ConflictError,
    FencedError,
    InvalidPlaceError,
    KeyReusedError,
    NotFoundError,
    SessionExistsError,
)
from everlog.integrations.holding import Holding, LeaseLike
from everlog.integrations.items import as_title, with_key
from everlog.integrations.places import FRAMEWORK_LABEL, Place, id_part, store_at
from everlog.integrations.pydantic_ai import FORMAT, erased_message, plain_of, read_message, recorded_of, without_empty
from everlog.integrations.threads import in_thread, read_in_thread
from everlog.session import Branch, Session, SessionInfo

RECORD: Final = "x.pydantic_ai.record"
_MEMBER: Final = "pydantic_ai"  # of a session's metadata
_SCOPE: Final = "scope"  # a label
_PREFIX: Final = "pydantic-ai/"
_KEY: Final = re.compile(r"entry:(.+?)(?::(\d+))?")
_RECORDS: Final = pydantic.TypeAdapter(
    list[ConversationRecord], config=pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
)
_AHEAD_MICROS: Final = 5 * 60 * 1_000_000  # by which a writer's clock may be ahead of the store's
_TRIES: Final = 100  # of a write that others overtake


class EverlogConversationStore(ConversationStore):
    """A `ConversationStore` that keeps conversations in Everlog.

    store: a path or URL, which is opened here and closed by `close`, or an open store, which stays open. May be used on any event loop,
    and from several. What it is asked runs in a thread; a save that is awaited no more may still be recorded.
    lease: under which conversations are saved: a lease that is held, or who takes that of each until `close`: a name, or a Holder.
    """

    def __init__(self, store: Place | None = None, *, lease: LeaseLike | None = None) -> None:
        self._holding = Holding(lease)
        self.store, self._owned = store_at(store)

    def __repr__(self) -> str:
        return f"<EverlogConversationStore {self.store.url}>"

    async def close(self) -> None:
        """Give back the leases that were taken here; close the store, where it was opened here."""
        try:
            await in_thread(self._holding.release)
        finally:
            if self._owned:
                await in_thread(self.store.close)

    def session(self, conversation_id: str) -> Session:
        """Open the Everlog session of a conversation, to read, search, rewind or prove; NotFoundError."""
        return self.store.session(_name(conversation_id))

    # --- the primitives ---
    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        """Give a conversation's record; None where there is none."""
        return await read_in_thread(lambda: _record_of(self._looked_at(conversation_id), conversation_id))

    async def read_records(self, *, scope: str | None = None, limit: int | None = None) -> Sequence[ConversationRecord]:
        """Give records, the newest `updated_at` first. With a limit, only as many conversations are read as that takes.

        For this a record's `updated_at` may be at most five minutes ahead of the store's clock.
        """
        return await read_in_thread(lambda: self._records(scope, limit))

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        """Record a conversation's new entries and its record, durably, all or none. Raises ConversationConflict."""
        await in_thread(lambda: self._write(record, new_entries, expected_revision))

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Delete a conversation; the bodies of its entries are destroyed, unless a fork of it lives: then when the last of those is deleted.

        Raises ConversationConflict; HeldError where a retention policy holds it: it is deleted then, and its bodies stay.
        """
        await in_thread(lambda: self._delete(conversation_id, expected_revision))

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        """Give an entry of any conversation. Raises LookupError."""
        return await read_in_thread(lambda: self._entry(entry_id))

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[ConversationEntry]:
        """Give the entries up to `head_id`, in order, or only the last `limit`, in one read for each page. Raises LookupError."""
        if head_id is None or (limit is not None and limit <= 0):
            return []
        found, parent = await read_in_thread(lambda: self._line(head_id, limit))
        if parent is None or len(found) == limit:
            return found
        rest = None if limit is None else limit - len(found)
        return [*await self.read_history(parent, limit=rest), *found]

    # --- the same, in a thread ---
    def _looked_at(self, conversation_id: str, *, to_write: bool = False) -> _Seen | None:
        try:
            session = self.store.session(_name(conversation_id))
            if to_write:
                self._holding.hold(session, anew=True)
                session.refresh()
        except NotFoundError:
            return None
        return _Seen(
            session, session.head, session.last(RECORD)
        )  # the record is read last, so that it is never older than the head

    def _records(self, scope: str | None, limit: int | None) -> list[ConversationRecord]:
        found: list[ConversationRecord] = []
        for info in self._infos(scope):
            if limit is not None and len(found) >= limit:
                found = _newest(found)[:limit]
                oldest = found[-1].updated_at.timestamp() * 1e6 if found else float("inf")
                if info.updated_at + _AHEAD_MICROS < oldest:
                    break
            with suppress(NotFoundError):  # it was deleted meanwhile
                event = self.store.session(info.id).last(RECORD)
                conversation_id = info.metadata.get(_MEMBER, {}).get("conversation_id", info.id.removeprefix(_PREFIX))
                record = _record_of(_Seen(None, None, event), conversation_id)
                if record is not None and (scope is None or record.scope == scope):
                    found.append(record)
        return _newest(found)[:limit]

    def _infos(self, scope: str | None) -> Iterator[SessionInfo]:
        query = None if scope is None else Query((Term("label", (Exact(_label(scope)),), (_SCOPE,)),))
        last = None
        while page := self.store.sessions(query, prefix=_PREFIX, order="-updated", limit=SESSIONS_PAGE_MAX, after=last):
            yield from page
            last = page[-1]

    def _write(
        self, record: ConversationRecord, entries: Sequence[ConversationEntry], expected_revision: str | None
    ) -> None:
        events = [*self._events(entries), _recorded(record)]
        for _ in range(_TRIES):
            seen = self._looked_at(record.conversation_id, to_write=True)
            stored = _record_of(seen, record.conversation_id)
            if (None if stored is None else stored.revision) != expected_revision:
                raise ConversationConflict(record.conversation_id)
            if record.head_id not in {None, *(entry.id for entry in entries)} and not self._found(record.head_id):
                raise ConversationConflict(record.conversation_id)
            parent = entries[0].parent_id if entries else record.head_id
            try:
                if seen is None:
                    self._create(record, parent, events)
                    with suppress(FencedError, NotFoundError):  # what was saved is recorded; the next save asks again
                        self._holding.hold(self.store.session(_name(record.conversation_id)))
                else:
                    self._extend(seen, stored, parent, events)
            except (ConflictError, SessionExistsError, NotFoundError, InvalidPlaceError):
                continue  # another writer was faster: look again
            except KeyReusedError as error:
                raise ConversationConflict(record.conversation_id) from error
            if seen is not None and stored is not None and stored.scope != record.scope:
                kept = {name: text for name, text in seen.session_here.info().labels.items() if name != _SCOPE}
                seen.session_here.update(labels=kept | _labels(record))
            return
        raise BusyError(
            f"conversation {record.conversation_id!r} was written by others {_TRIES} times in a row; nothing was written; try again"
        )

    def _create(self, record: ConversationRecord, parent: str | None, events: Sequence[NewEvent]) -> None:
        """Make a conversation's session: where it goes on from an entry of another, as a fork of that one's."""
        name, labels = _name(record.conversation_id), _labels(record)
        metadata = {_MEMBER: {"conversation_id": record.conversation_id}}
        title = as_title(record.conversation_id) if name != f"{_PREFIX}{record.conversation_id}" else None
        after = None if parent is None else self._after(parent)
        if after is None:
            self.store.create(name, title=title, labels=labels, metadata=metadata, events=events)
        else:
            branch, cut = after
            source = self.store.session(branch.session_id)
            source.fork(cut, branch=branch, id=name, title=title, labels=labels, metadata=metadata, events=events)

    def _extend(
        self, seen: _Seen, stored: ConversationRecord | None, parent: str | None, events: Sequence[NewEvent]
    ) -> None:
        """Append to a conversation's session, on the line and at the cut where the parent is. Raises ConflictError."""
        session, head = seen.session_here, seen.head
        if stored is not None and parent == stored.head_id:
            session.extend(events, expected=head)
            return
        if parent is None:
            session.rewind(0, expected=head, events=events)
            return
        first = session.find(_key(parent))
        if first is not None:
            session.rewind(_end_of(session, first), expected=head, events=events)
            return
        after = self._after(parent)
        if after is None or after[0].session_id != session.id:
            session.extend(events, expected=head)  # its history goes on in another session, and is found there by id
            return
        branch, cut = after
        session.switch(branch, expected=head)  # what is read does not depend on the line that is current
        session.rewind(cut, expected=session.head, events=events)

    def _delete(self, conversation_id: str, expected_revision: str) -> None:
        for _ in range(_TRIES):
            seen = self._looked_at(conversation_id, to_write=True)
            stored = _record_of(seen, conversation_id)
            if seen is None or stored is None or stored.revision != expected_revision:
                raise ConversationConflict(conversation_id)
            with suppress(ConflictError):
                seen.session_here.append(RECORD, {"deleted": stored.revision}, expected=seen.head)
                break
        else:
            raise BusyError(f"conversation {conversation_id!r} was written by others {_TRIES} times in a row; it stays")
        self._destroy(conversation_id, stored.forked_from)

    def _destroy(self, conversation_id: str, forked_from: str | None) -> None:
        """Destroy a deleted conversation's session, and then those that were kept for it; not while a fork of it lives."""
        with suppress(SessionExistsError, NotFoundError):
            self.store.delete(_name(conversation_id), reason="deleted through Pydantic AI")
            parent = None if forked_from is None else self._looked_at(forked_from)
            if forked_from is not None and parent is not None and parent.event is not None and parent.deleted:
                before = parent.session_here.last(RECORD, where={"data.revision": parent.event.data["deleted"]})
                self._destroy(forked_from, None if before is None else before.data.get("forked_from"))

    # --- entries ---
    def _events(self, entries: Sequence[ConversationEntry]) -> Iterator[NewEvent]:
        """Give the events of entries. One that names no parent stands behind the one that it goes on from."""
        before: str | None = None
        for entry in entries:
            beside: dict[str, Any] = {}
            if before is None or entry.parent_id != before:
                beside["parent"] = entry.parent_id
            if _key(entry.id) != f"entry:{entry.id}":
                beside["id"] = entry.id
            made = recorded_of(entry.message, beside, body_bytes_max=self.store.settings.body_bytes_max)
            yield from with_key(made, _key(entry.id))
            before = entry.id

    def _found(self, entry_id: str | None) -> Event | None:
        return None if entry_id is None else next(iter(self.store.find(_key(entry_id), limit=1)), None)

    def _after(self, entry_id: str) -> tuple[Branch, int] | None:
        """Give the line that an entry is on, and the cut behind it; None where there is none."""
        first = self._found(entry_id)
        if first is None:
            return None
        branch = self.store.session(first.session).branch(first.branch)
        return branch, _end_of(branch, first)

    def _entry(self, entry_id: str) -> ConversationEntry:
        after = self._after(entry_id)
        if after is None:
            raise LookupError(
                f"there is no entry {entry_id!r:.100}; it was never saved, or its conversation was deleted"
            )
        return next(_entries(after[0], after[1]))

    def _line(self, head_id: str, limit: int | None) -> tuple[list[ConversationEntry], str | None]:
        """Give the entries up to one, as far as they stand on its line, and the one before them where that is elsewhere."""
        after = self._after(head_id)
        if after is None:
            raise LookupError(
                f"there is no entry {head_id!r:.100}; it was never saved, or its conversation was deleted"
            )
        found: list[ConversationEntry] = []
        wanted: str | None = head_id
        for entry in _entries(after[0], after[1]):
            if entry.id == wanted:
                found.append(entry)
                wanted = entry.parent_id
            if wanted is None or len(found) == limit:
                break
        return found[::-1], wanted


@dataclass(frozen=True, slots=True)
class _Seen:
    """A conversation's session as it was at a head, and the record that stood last then, or later."""

    session: Session | None
    head: Head | None
    event: Event | None

    @property
    def session_here(self) -> Session:
        assert self.session is not None, "it was looked at"
        return self.session

    @property
    def deleted(self) -> bool:
        return self.event is not None and self.event.data is not None and "deleted" in self.event.data


def _record_of(seen: _Seen | None, conversation_id: str) -> ConversationRecord | None:
    if seen is None or seen.event is None or seen.event.data is None or seen.deleted:
        return None
    told = {"conversation_id": conversation_id, "updated_at": seen.event.occurred_at}
    return _RECORDS.validate_python([{**told, **seen.event.data}])[0]


def _recorded(record: ConversationRecord) -> NewEvent:
    """Give the event of a record, without what is empty, which its types fill in again, and without what its session and time say."""
    plain: dict[str, Any] = _RECORDS.dump_python([record], mode="json", exclude_defaults=True)[0]
    plain |= {"revision": record.revision, "head_id": record.head_id, "usage": without_empty(plain.get("usage", {}))}
    told = ("conversation_id", "updated_at")
    data = {name: member for name, member in plain.items() if name not in told and member != {}}
    return NewEvent(RECORD, data, occurred_at=record.updated_at)


def _newest(records: list[ConversationRecord]) -> list[ConversationRecord]:
    return sorted(records, key=lambda record: record.updated_at, reverse=True)


def _entries(line: Branch, stop: int) -> Iterator[ConversationEntry]:
    """Give the entries of a line from a cut backwards. One that names no parent, as an erased one, goes on from the one before it."""
    waiting: ConversationEntry | None = None
    for key, group in _groups_backwards(line.events(stop=stop, reverse=True)):
        plain = plain_of(group)
        native: dict[str, Any] = {} if plain is None else (group[0].metadata or {})["native"]
        message = erased_message(group[0].type) if plain is None else read_message(plain)
        entry = ConversationEntry(id=native.get("id", key), parent_id=native.get("parent"), message=message)
        if waiting is not None:
            yield replace(waiting, parent_id=entry.id)
            waiting = None
        if "parent" in native:
            yield entry
        else:
            waiting = entry
    if waiting is not None:
        yield waiting


def _groups_backwards(events: Iterable[Event]) -> Iterator[tuple[str, list[Event]]]:
    """Give the events of each entry in their order, the last entry first: by their keys, which an erased event keeps."""
    group: list[Event] = []
    for event in events:
        match = _KEY.fullmatch(event.key or "")
        if match is None:
            continue
        group.append(event)
        if match[2] is None:
            yield match[1], group[::-1]
            group = []


def _end_of(line: Session | Branch, first: Event) -> int:
    """Give the cut behind an entry, of which the first event is given."""
    stop = first.position + 1
    for event in line.events(start=stop):
        if not (event.key or "").startswith(f"{first.key}:"):
            break
        stop = event.position + 1
    return stop


def _key(entry_id: str) -> str:
    """Give the key of an entry's first event: an id that cannot stand in it is hashed."""
    return f"entry:{id_part(entry_id.replace(':', '/'), 200)}"


def _name(conversation_id: str) -> str:
    """Give the id of the session of a conversation."""
    return f"{_PREFIX}{id_part(conversation_id, 200, slashes=True)}"


def _labels(record: ConversationRecord) -> dict[str, str]:
    return {FRAMEWORK_LABEL: FORMAT} | ({} if record.scope is None else {_SCOPE: _label(record.scope)})


def _label(scope: str) -> str:
    """Give what a scope is listed by: itself, else its hash."""
    return id_part(scope, LABEL_VALUE_CHARACTERS_MAX, slashes=True)
