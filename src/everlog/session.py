"""Session: one agent's log as users hold it, to append to, to read, and to move about in.

1. `head` is what this handle last *saw*: when it was opened, by its own appends, by `refresh()`. Reading it does no I/O,
   and that is what makes `expected=session.head` mean something.
2. Without `expected`, an append goes to the current branch as it is inside the transaction.
3. A handle may be used from any thread. `head` is then whatever the last of them saw.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from uuid_utils import uuid7

from everlog.core import limits
from everlog.core.attached import set_attachment_readers
from everlog.core.decide import Batch, Expected, Repeats, StaleExpectationError
from everlog.core.event import Cause, Event, Head, NewEvent, Outcome, PreparedAttachment, PreparedEvent
from everlog.core.labels import check_labels, check_reason, check_title, decode_metadata, encode_metadata
from everlog.core.lineage import common_ancestor
from everlog.core.merkle import EMPTY_ROOT, root_of_joined, root_of_peaks, split_digests
from everlog.core.position import check_checkpoint_name, check_session_id, is_branch_name
from everlog.core.prepare import Draw, prepare_batch
from everlog.errors import ConflictError, InvalidEventError, InvalidPlaceError, LimitError, NotFoundError
from everlog.follow import Follower
from everlog.reader import BranchReader, PlaceLike, View, base_at, resolve_cut, resolve_event
from everlog.storage import (
    Append,
    Base,
    BranchRow,
    Create,
    Erase,
    Family,
    Receipt,
    Request,
    Rewind,
    SessionRow,
    Storage,
    Switch,
    Update,
)

if TYPE_CHECKING:
    from everlog.audit import Report

_SWITCH_TRIES = 20
BRANCH_DIGITS_MIN = 8  # of a branch's id; fewer could be a name, b2


class Settings(msgspec.Struct, frozen=True):
    """What `open` chose for a store. draw: gives random bytes. body_bytes_max: of one event."""

    draw: Draw
    body_bytes_max: int = limits.BODY_BYTES_MAX


class SessionInfo(msgspec.Struct, frozen=True):
    """A session at one moment.

    id: the user's name for it. uuid: its internal id. branch: the id of the current branch.
    size, head: of the current branch. created_at, updated_at: microseconds since 1970 UTC by the store's clock;
    updated_at is that of the last event. parent: id of the event that the session was made for.
    """

    id: str
    uuid: str
    title: str | None
    labels: dict[str, str]
    metadata: dict[str, Any]
    branch: str
    size: int
    head: Head
    created_at: int
    updated_at: int
    parent: str | None


class Branch(BranchReader):
    """One line of events of a session, to read. Only the session's current branch grows.

    id: 32 hex digits, the same in every copy. name: b1, b2, …, counted in this store. base: the size of what it shares
    with the branch below it. current: whether it was the session's current branch when it was read.
    """

    def __init__(self, storage: Storage, row: BranchRow, session: str, *, current: bool) -> None:
        self.storage = storage
        self._lineages = {}
        self._row = row
        self.session_id = session
        self.id = row.id
        self.name = f"b{row.number}"
        self.writer = row.writer
        self.base = row.base_size
        self.current = current
        self.head = row.head()

    def __repr__(self) -> str:
        return f"<Branch {self.session_id!r}~{self.name} size={self.head.size}{' current' if self.current else ''}>"

    def view(self) -> View:
        """Read the branch as it is now, with its lineage."""
        return self._view_of(self.storage.branch(self._row.key), self.session_id)


class Session(BranchReader):
    """A durable, append-only log of one agent's run. Made by `Store.create`, `Store.session` or `fork`."""

    def __init__(self, storage: Storage, settings: Settings, row: SessionRow, branch: BranchRow) -> None:
        self.storage = storage
        self._settings = settings
        self._lineages = {}
        self._row = row
        self._seen = (branch.id, branch.size, tuple(split_digests(branch.peaks)))

    def __repr__(self) -> str:
        return f"<Session {self.id!r} size={self.head.size}>"

    @property
    def id(self) -> str:
        """The user's name for the session."""
        return self._row.name

    @property
    def uuid(self) -> str:
        """The session's internal id, 32 hex digits; the same in every copy."""
        return self._row.id

    @property
    def head(self) -> Head:
        """The head that this handle last saw. No I/O."""
        _, size, peaks = self._seen
        return Head(size, root_of_peaks(peaks).hex())

    @property
    def branch_id(self) -> str:
        """The id of the branch that this handle last saw as current. No I/O."""
        return self._seen[0]

    def refresh(self) -> Head:
        """Look at the session as it is now; give the head that was seen."""
        branch = self.storage.current_branch(self._row.id)
        self._seen = (branch.id, branch.size, tuple(split_digests(branch.peaks)))
        return self.head

    def info(self) -> SessionInfo:
        """Read the session's title, labels, size and times as they are now."""
        return session_info(self.storage.session_by_id(self._row.id), self.storage.current_branch(self._row.id))

    # --- appending ---
    def append(
        self,
        type: str,
        data: Any = None,
        *,
        rationale: str | None = None,
        actor: str | None = None,
        outcome: Outcome | None = None,
        metadata: Mapping[str, Any] | None = None,
        attachments: Mapping[str, bytes] | None = None,
        caused_by: Event | str | None = None,
        occurred_at: datetime | int | None = None,
        key: str | None = None,
        expected: int | Head | None = None,
    ) -> Event:
        """Append one event, durably; give it as it was recorded. The members are those of NewEvent.

        expected: the size or Head that the writer last saw; another one is refused.
        A repeated key gives the first event, with `repeated` set (law 5).
        Raises ConflictError, KeyReusedError, InvalidEventError, LimitError, NotFoundError (the session was deleted),
        BusyError, UnavailableError; in all these nothing was written. OutcomeUnknownError: append again with the same key.
        """
        new = NewEvent(
            type,
            data,
            rationale=rationale,
            actor=actor,
            outcome=outcome,
            metadata=metadata,
            attachments=attachments,
            caused_by=caused_by,
            occurred_at=occurred_at,
            key=key,
        )
        return self._write(self.append_request((new,), expected=expected)).events[0]

    def extend(
        self,
        events: Sequence[NewEvent],
        *,
        expected: int | Head | None = None,
        key: str | None = None,
        repeats: Repeats = "refuse",
    ) -> list[Event]:
        """Append several events, all or none; give them as they were recorded, in order.

        events: 1 .. APPEND_EVENTS_MAX. key: one idempotency key for the whole append.
        repeats: where some of the events' own keys are recorded already, "refuse" the append or "skip" those events
            (not together with `key`, which covers the append as a whole).
        Raises what `append` raises.
        """
        return list(self._write(self.append_request(tuple(events), expected=expected, key=key, repeats=repeats)).events)

    # The three parts of an append, which the async face puts together in its own way.
    def append_request(
        self,
        events: Sequence[NewEvent],
        *,
        expected: int | Head | None = None,
        key: str | None = None,
        repeats: Repeats = "refuse",
    ) -> Append:
        """Check and encode an append of 1 .. APPEND_EVENTS_MAX events."""
        if not events:
            raise LimitError("an append of no events says nothing; nothing was written; give at least one")
        if repeats not in ("refuse", "skip"):
            raise InvalidEventError(
                f"repeats is {repeats!r:.50}, neither 'refuse' nor 'skip'; nothing was written; choose one"
            )
        if key is not None and repeats != "refuse":
            raise InvalidEventError(
                "key= covers the whole append, and repeats='skip' leaves some of it out; nothing was written; give the events "
                "keys of their own, or leave out one of the two"
            )
        prepared = self._prepare(events, key=key)
        return Append(self._row.id, Batch(prepared, self._expect(expected), key, repeats))

    def _prepare(
        self, events: Sequence[NewEvent], *, key: str | None = None, own_verb: bool = False
    ) -> tuple[PreparedEvent, ...]:
        return prepare_batch(
            events,
            draw=self._settings.draw,
            read_cause=self._pack_cause,
            body_bytes_max=self._settings.body_bytes_max,
            key=key,
            own_verb=own_verb,
        )

    def _expect(self, expected: int | Head | None) -> Expected | None:
        if expected is None:
            return None
        branch_id = self._seen[0]
        if isinstance(expected, Head):
            return Expected(branch_id, expected.size, expected.root)
        if isinstance(expected, bool) or not isinstance(expected, int) or expected < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidPlaceError(f"expected {expected!r:.50} is neither a size nor a Head; nothing was written")
        return Expected(branch_id, expected, None)

    def _write(self, request: Request) -> Receipt:
        try:
            receipt = self.storage.write(request)
        except StaleExpectationError as stale:
            raise self.conflict(stale, request) from None
        return self.saw(receipt)

    def saw(self, receipt: Receipt) -> Receipt:
        """Note what a receipt says of the session's head; give the receipt."""
        self._seen = (receipt.branch_id, receipt.size, receipt.peaks)
        set_attachment_readers(receipt.events, self._load_attachments)
        return receipt

    def _load_attachments(self, event: Event) -> list[PreparedAttachment]:
        branch = self.storage.branch_by_id(event.branch)
        assert branch is not None, "a branch that was appended to is in the store"
        return self.storage.attachments(self.storage.lineage(branch.key, self.id), event.position)

    def conflict(self, stale: StaleExpectationError, request: Request) -> ConflictError:
        """Say what a refused writer had not seen, so that it can decide again without another read (law 4)."""
        expected = request.batch.expected if isinstance(request, (Append, Rewind, Update)) else None
        if isinstance(request, Switch):
            expected = request.left
        branch_id, size, _ = self._seen
        if expected is not None:
            branch_id, size = expected.branch_id, expected.size
        actual = self.storage.branch_by_id(stale.branch_id)
        assert actual is not None, "a branch that refused is in the store"
        view = View(actual, self.storage.lineage(actual.key, self.id))
        ancestor, moved = min(size, stale.head.size), stale.branch_id != branch_id
        if moved:
            seen = self.storage.branch_by_id(branch_id)
            if seen is not None:
                line = self.storage.lineage(seen.key, self.id)
                ancestor = common_ancestor(line, view.lineage, one_size=size, other_size=stale.head.size)
        missed = stale.head.size - ancestor
        events: list[Event] = []
        if missed:
            page = self.storage.read(
                view.lineage, ancestor, stale.head.size, limit=min(missed, limits.CONFLICT_EVENTS_MAX)
            )
            held = 0
            for event in page.events:
                held += len(event.raw or b"")
                if events and held > limits.CONFLICT_BYTES_MAX:
                    break
                events.append(event)
        what = "moved to another branch" if moved else f"has {stale.head.size} events where the writer expected {size}"
        if not moved and stale.head.size == size:
            what = f"has another history of {size} events than the writer saw"
        return ConflictError(
            f"session {self.id!r} {what}; nothing was written; look at the error's events, call refresh() and decide again",
            head=stale.head,
            events=tuple(events),
            missed=missed,
            moved=moved,
            ancestor=ancestor,
        )

    # --- branches ---
    def branches(self) -> list[Branch]:
        """Give every branch of the session, oldest first."""
        current = self.storage.current_branch(self._row.id).key
        return [
            Branch(self.storage, row, self.id, current=row.key == current)
            for row in self.storage.branches(self._row.key)
        ]

    def branch(self, name: str | None = None) -> Branch:
        """Give one branch: by name (b2), by at least 8 hex digits of its id, or the current one."""
        if name is not None and not is_branch_name(name):
            raise InvalidPlaceError(f"{name!r:.100} names no branch; write b2, or at least 8 hex digits of its id")
        digits = name if name is not None and len(name) >= BRANCH_DIGITS_MIN else None
        found = [
            branch
            for branch in self.branches()
            if (name is None and branch.current)
            or name == branch.name
            or (digits is not None and branch.id.startswith(digits))
        ]
        if len(found) != 1:
            raise NotFoundError(
                f"session {self.id!r} has {'no' if not found else 'more than one'} branch {name}; see branches()"
            )
        return found[0]

    def fork(
        self,
        at: PlaceLike = "end",
        *,
        branch: str | Branch | None = None,
        id: str | None = None,
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        reason: str | None = None,
        actor: str | None = None,
        events: Sequence[NewEvent] = (),
    ) -> Session:
        """Make a new session that shares [0, at) with this one; its first own event is `session.forked`.

        branch: the line that `at` is on, the current one by default.
        id: of the new session, a UUIDv7 by default. events: appended after `session.forked` in the same transaction.
        Costs the same at ten events and at ten million (law 6).
        """
        line = self.branch(branch) if isinstance(branch, str) else branch
        view = self.view() if line is None else line.view()
        base = base_at(self.storage, view, resolve_cut(self.storage, view, at))
        prepared = self._prepare([self._moved_event("session.forked", view, base, reason, actor)], own_verb=True)
        request = new_session(
            self._settings.draw,
            id=id,
            title=title,
            labels=labels,
            metadata=metadata,
            family=self._row.family,
            base=base,
            forked_from=self._row.id,
            batch=Batch(prepared + self._prepare(events)),
        )
        self.storage.write(request)
        return open_session(self.storage, self._settings, request.name)

    def rewind(
        self,
        to: PlaceLike,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected: int | Head | None = None,
        events: Sequence[NewEvent] = (),
    ) -> Event:
        """Go back to a cut: a new branch that keeps [0, to) becomes current; give its first event, `session.rewound`.

        The line that was left stays readable, and `switch` returns to it. events: appended in the same transaction.
        Refused with ConflictError where the current branch is not the one that `to` was looked up on.
        """
        view = self.view()
        base = base_at(self.storage, view, resolve_cut(self.storage, view, to))
        prepared = self._prepare([self._moved_event("session.rewound", view, base, reason, actor)], own_verb=True)
        request = Rewind(
            self._row.id,
            self._settings.draw(16).hex(),
            view.branch.key,
            base,
            Batch(prepared + self._prepare(events), self._expect(expected)),
        )
        return self._write(request).events[0]

    def switch(
        self,
        branch: str | Branch,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected: int | Head | None = None,
    ) -> Event:
        """Make another branch current, which undoes a rewind; give the `session.switched` event appended to it."""
        target = branch if isinstance(branch, Branch) else self.branch(branch)
        wanted = self._expect(expected)
        for last_try in (number == _SWITCH_TRIES for number in range(1, _SWITCH_TRIES + 1)):
            view = self.view()
            left = view.branch
            if left.id == target.id:
                raise InvalidPlaceError(
                    f"{target.name} is the current branch of session {self.id!r} already; nothing was written"
                )
            prepared = self._prepare(
                [self._moved_event("session.switched", view, base_at(self.storage, view, view.size), reason, actor)],
                own_verb=True,
            )
            seen = wanted or Expected(left.id, left.size, None)
            row = self.storage.branch_by_id(target.id)
            assert row is not None, "a branch that was read is in the store"
            request = Switch(self._row.id, row.key, seen, Batch(prepared))
            try:
                return self.saw(self.storage.write(request)).events[0]
            except StaleExpectationError as stale:
                if wanted is not None or last_try:
                    raise self.conflict(stale, request) from None
        raise AssertionError("the last try returns or raises")

    def _moved_event(self, type: str, view: View, base: Base | None, reason: str | None, actor: str | None) -> NewEvent:
        """Give the event that says where a line comes from: the cut, and the root there."""
        size, root = (0, EMPTY_ROOT) if base is None else (base.size, root_of_joined(base.peaks))
        origin = {"session": self._row.id, "branch": view.branch.id, "position": size, "root": root.hex()}
        data: dict[str, Any] = {"from": origin}
        if reason is not None:
            data["reason"] = check_reason(reason)
        return NewEvent(type, data, actor=actor)

    # --- what else is recorded ---
    def checkpoint(
        self, name: str, *, data: Any = None, actor: str | None = None, expected: int | Head | None = None
    ) -> Event:
        """Name this position: a place to rewind to, fork from and compare. A name used again moves on."""
        check_checkpoint_name(name)
        members = {"name": name} if data is None else {"name": name, "data": data}
        prepared = self._prepare([NewEvent("checkpoint", members, actor=actor)], own_verb=True)
        return self._write(Append(self._row.id, Batch(prepared, self._expect(expected)))).events[0]

    def update(
        self,
        *,
        title: str | msgspec.UnsetType | None = msgspec.UNSET,
        labels: Mapping[str, str] | msgspec.UnsetType = msgspec.UNSET,
        metadata: Mapping[str, Any] | msgspec.UnsetType | None = msgspec.UNSET,
        actor: str | None = None,
        expected: int | Head | None = None,
    ) -> Event:
        """Change title, labels or metadata, each as a whole; give the `session.updated` event. What is left out stays."""
        if title is labels is metadata is msgspec.UNSET:
            raise InvalidEventError(
                "an update of nothing says nothing; nothing was written; give title, labels or metadata"
            )
        data: dict[str, Any] = {}
        if title is not msgspec.UNSET:
            data["title"] = check_title(title)
        if not isinstance(labels, msgspec.UnsetType):
            data["labels"] = labels = check_labels(labels)
        encoded = msgspec.UNSET
        if not isinstance(metadata, msgspec.UnsetType):
            encoded = encode_metadata(metadata)
            data["metadata"] = {} if metadata is None else dict(metadata)
        prepared = self._prepare([NewEvent("session.updated", data, actor=actor)], own_verb=True)
        request = Update(
            self._row.id,
            title,
            labels if isinstance(labels, msgspec.UnsetType) else dict(labels),
            encoded,
            Batch(prepared, self._expect(expected)),
        )
        event = self._write(request).events[0]
        self._row = self.storage.session_by_id(self._row.id)
        return event

    def erase(self, places: Sequence[PlaceLike], *, reason: str) -> list[int]:
        """Destroy bodies, attachments and salts of events; places, hashes and every proof stay. Give their positions.

        places: events, by position, id or checkpoint's name; those erased before are left out of the result.
        In every fork that shares an event, it is erased too. Recorded in the ledger.
        Raises BusyError where they are erased but a reader keeps old bytes in the file's write-ahead log.
        """
        check_reason(reason)
        view = self.view()
        positions = tuple(sorted({resolve_event(self.storage, view, place) for place in places}))
        if not positions:
            return []
        return list(self.storage.write(Erase(self._row.id, view.branch.key, positions, reason)).positions)

    # --- live ---
    def follow(
        self,
        start: PlaceLike = "end",
        *,
        idle: float | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[Event]:
        """Iterate events from a cut on, then wait for more, recorded by whatever process.

        After a rewind or switch it goes on where the new line parts from the old one, with that line's events.
        idle: end after so many seconds without an event. stop: asked at least every half second; True ends it.
        """
        follower = Follower(self, start)
        return follower.run(idle=idle, stop=stop)

    # --- proof ---
    def verify(self, *, progress: Callable[[int], None] | None = None) -> Report:
        """Re-derive everything of the session from the stored bytes and compare; see `everlog.audit.Report`."""
        from everlog.audit import verify_sessions

        return verify_sessions(self.storage, [self.storage.session_by_id(self.uuid)], progress=progress)

    def export(self, path: str | os.PathLike[str], *, withhold: str | None = None) -> int:
        """Write the session, with every branch, as a bundle file; give the number of events in it.

        withhold: a query; the bodies of events that meet it are left out, and the receiver sees *withheld*.
        """
        from everlog.bundle import export_session

        return export_session(self.storage, self.storage.session_by_id(self.uuid), path, withhold=withhold)

    # --- underneath ---
    def view(self) -> View:
        """Read the current branch as it is now, with its lineage."""
        return self._view_of(self.storage.current_branch(self._row.id), self.id)


def open_session(storage: Storage, settings: Settings, name: str) -> Session:
    """Open a session by its name; NotFoundError."""
    check_session_id(name)
    row = storage.session(name)
    return Session(storage, settings, row, storage.current_branch(row.id))


def new_session(
    draw: Draw,
    *,
    id: str | None,
    title: str | None,
    labels: Mapping[str, str] | None,
    metadata: Mapping[str, Any] | None,
    family: Family,
    base: Base | None,
    forked_from: str | None,
    batch: Batch,
    parent: bytes | None = None,
) -> Create:
    """Check what a new session is called, and give the request that makes it."""
    made = uuid7()
    session_id = made.hex
    name = str(made) if id is None else id
    check_session_id(name)
    branch_id = draw(16).hex()
    return Create(
        session_id,
        name,
        check_title(title),
        check_labels(labels or {}),
        encode_metadata(metadata),
        parent,
        draw(32),
        family,
        branch_id,
        branch_id,
        base,
        forked_from,
        batch,
    )


def session_info(row: SessionRow, branch: BranchRow) -> SessionInfo:
    """Give what users see of a stored session."""
    return SessionInfo(
        row.name,
        row.id,
        row.title,
        row.labels,
        {} if row.metadata is None else decode_metadata(row.metadata, row.name),
        branch.id,
        branch.size,
        branch.head(),
        row.created,
        max(branch.recorded, row.created),
        None if row.parent is None else Cause.unpack(row.parent).id,
    )
