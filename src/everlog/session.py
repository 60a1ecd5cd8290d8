"""Session: one agent's log as users hold it, to append to, to read, and to move about in.

Appending stands in writer.py, reading in reader.py, states in state.py. A handle may be used from any thread; `head` is then
whatever the last of them saw.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from everlog.context.reader import ContextReader
from everlog.core.canonical import hash_state
from everlog.core.decide import Batch, Expected, StaleExpectationError
from everlog.core.event import Cause, Event, Head, NewEvent, PreparedEvent
from everlog.core.labels import check_labels, check_reason, check_title, decode_metadata, encode_metadata
from everlog.core.limits import PAGE_EVENTS_MAX
from everlog.core.lineage import common_ancestor
from everlog.core.merkle import EMPTY_ROOT, root_of_joined
from everlog.core.pointer import get_member, parse_pointer
from everlog.core.position import check_checkpoint_name, check_session_id, is_branch_name
from everlog.core.standard import is_reserved
from everlog.erasure import SessionEraser
from everlog.errors import InvalidEventError, InvalidPlaceError, NotFoundError, ReducerError
from everlog.follow import Follower
from everlog.leases import LeaseInfo, lease_info
from everlog.making import clean_words, new_session
from everlog.meeting import common_document
from everlog.merging import (
    MERGED_EVENTS_MAX,
    Prefer,
    check_chosen,
    comes_from,
    conflict_members,
    copied,
    document_ops,
    merge_documents,
    merged_key,
)
from everlog.reader import PlaceLike, View, base_at, likely_cut, resolve_cut, resolve_event
from everlog.rebuild import Builder, SnapshotPolicy
from everlog.reducers.document import DOCUMENT
from everlog.reducers.registry import find_reducer
from everlog.state import ReducerLike, StateReader
from everlog.storage import Append, Base, BranchRow, Rewind, SessionRow, Storage, Switch, Update
from everlog.writer import Keepers, Settings, busy_with_others, tries

if TYPE_CHECKING:
    from everlog.anchors import SinceLike
    from everlog.audit import Report
    from everlog.auditing import Audit

_SWITCH_TRIES = 20
BRANCH_DIGITS_MIN = 8  # of a branch's id; fewer could be a name, b2


class SessionInfo(msgspec.Struct, frozen=True):
    """A session at one moment.

    id: the user's name for it. uuid: its internal id. branch: the id of the current branch.
    size, head: of the current branch. created_at, updated_at: microseconds since 1970 UTC by the store's clock;
    updated_at is that of the last event. parent: id of the event that the session was made for. lease: that lives, None for none.
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
    lease: LeaseInfo | None = None


class Branch(ContextReader):
    """One line of events of a session, to read. Only the session's current branch grows.

    id: 32 hex digits, the same in every copy. name: b1, b2, …, counted in this store. base: the size of what it shares
    with the branch below it. current: whether it was the session's current branch when it was read.
    """

    def __init__(
        self, storage: Storage, row: BranchRow, session: str, *, current: bool, policy: SnapshotPolicy
    ) -> None:
        self.storage = storage
        self._policy = policy
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

    @property
    def _session_name(self) -> str:
        return self.session_id

    def view(self) -> View:
        """Read the branch as it is now, with its lineage."""
        return self._view_of(self.storage.branch(self._row.key), self.session_id)


class Session(SessionEraser):
    """A durable, append-only log of one agent's run. Made by `Store.create`, `Store.session` or `fork`."""

    def __repr__(self) -> str:
        return f"<Session {self.id!r} size={self.head.size}>"

    def info(self) -> SessionInfo:
        """Read the session's title, labels, size and times as they are now."""
        row = self.storage.session_by_id(self._row.id)
        lease = lease_info(self.storage, row, self.storage.lease(row.id), self.storage.ticks())
        return session_info(row, self.storage.current_branch(row.id), lease)

    # --- branches ---
    def branches(self) -> list[Branch]:
        """Give every branch of the session, oldest first."""
        current = self.storage.current_branch(self._row.id).key
        return [
            Branch(self.storage, row, self.id, current=row.key == current, policy=self._policy)
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
            self._settings,
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
        return open_session(self.storage, self._settings, self._keepers, request.name)

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
            self._batch(prepared + self._prepare(events), self._expect(expected)),
        )
        return self.write(request).events[0]

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
            request = Switch(self._row.id, row.key, seen, self._batch(prepared))
            try:
                return self.noted(self.storage.write(request)).events[0]
            except StaleExpectationError as stale:
                if wanted is not None or last_try:
                    raise self.conflict(stale, request) from None
        raise AssertionError("the last try returns or raises")

    def _moved_event(self, type: str, view: View, base: Base | None, reason: str | None, actor: str | None) -> NewEvent:
        """Give the event that says where a line comes from: the cut, and the root there."""
        data: dict[str, Any] = {"from": self._origin(view, base)}
        if reason is not None:
            data["reason"] = check_reason(reason)
        return NewEvent(type, data, actor=actor)

    def _origin(self, view: View, base: Base | None) -> dict[str, Any]:
        """Say which cut of which line: its session and branch by their own ids, its size and root."""
        size, root = (0, EMPTY_ROOT) if base is None else (base.size, root_of_joined(base.peaks))
        session = self.storage.session(view.lineage.session).id
        return {"session": session, "branch": view.branch.id, "position": size, "root": root.hex()}

    # --- what else is recorded ---
    def checkpoint(
        self,
        name: str,
        *,
        data: Any = None,
        states: Sequence[ReducerLike] | None = None,
        actor: str | None = None,
        expected: int | Head | None = None,
    ) -> Event:
        """Name this position: a place to rewind to, fork from and compare. A name used again moves on.

        The event's data says the head before it, and in `states` the hashes of states there: those of the reducers named,
        or of the document where it has one.
        """
        self._refuse_secret(name, "name")
        check_checkpoint_name(name)
        wanted = self._expect(expected)
        for _ in tries():
            view = self.view()
            hashes = self._hashes_at(view, ("document",) if states is None else states, lenient=states is None)
            head = view.branch.head()
            members: dict[str, Any] = {"name": name, "head": {"size": head.size, "root": head.root}, "states": hashes}
            if data is not None:
                members["data"] = data
            prepared = self._prepare([NewEvent("checkpoint", members, actor=actor)], own_verb=True)
            here = Expected(view.branch.id, view.size, None if wanted is None else wanted.root)
            request = Append(self._row.id, self._batch(prepared, here))
            self._check_wanted(wanted, view, request)
            try:
                return self.noted(self.storage.write(request)).events[0]
            except StaleExpectationError as stale:
                if wanted is not None:
                    raise self.conflict(stale, request) from None
        raise busy_with_others(self.id)

    def _hashes_at(self, view: View, states: Sequence[ReducerLike], *, lenient: bool) -> dict[str, Any]:
        hashes: dict[str, Any] = {}
        for reducer in map(find_reducer, states):
            try:
                found = hash_state(self._built_here(view, reducer)[0].value)
            except ReducerError:
                if not lenient:
                    raise
                continue  # a document with an integer beyond 2^53 has no hash; the position has a name all the same
            hashes[reducer.name] = {"version": reducer.version, "hash": found}
        return hashes

    def merge(
        self,
        other: StateReader,
        *,
        at: PlaceLike = "end",
        events: Sequence[PlaceLike] | str = (),
        document: bool = True,
        prefer: Prefer | None = None,
        resolve: Mapping[str, Any] | None = None,
        reason: str | None = None,
        actor: str | None = None,
        expected: int | Head | None = None,
    ) -> Event:
        """Bring another line's events and document into this session; give the `session.merged` event, which names both heads.

        other: a fork, a branch, or any session of the same store. at: how much of it. events: those to copy, as places in
        it, or a query; none by default. An event that was brought before is left out.
        document: merge the documents of three (base, ours, theirs); MergeConflictError names what both changed
        differently, unless resolve= gives a value for its pointer, or prefer= says whose counts.
        All of it is one append, or nothing.
        """
        wanted = self._expect(expected)
        if not isinstance(other, StateReader):
            raise InvalidPlaceError(f"{other!r:.100} is neither a session nor a branch; nothing was written; give one")
        if other.storage is not self.storage:
            raise InvalidPlaceError("the other session is in another store; nothing was written; copy it here first")
        if reason is not None:
            check_reason(reason)
        for _ in tries():
            view = self.view()
            made = self._merge_events(
                view,
                other,
                at,
                events,
                document=document,
                prefer=prefer,
                resolve=resolve or {},
                reason=reason,
                actor=actor,
            )
            request = Append(
                self._row.id,
                self._batch(made, Expected(view.branch.id, view.size, None if wanted is None else wanted.root)),
            )
            self._check_wanted(wanted, view, request)
            try:
                return self.noted(self.storage.write(request)).events[0]
            except StaleExpectationError as stale:
                if wanted is not None:
                    raise self.conflict(stale, request) from None
        raise busy_with_others(self.id)

    def _merge_events(
        self,
        view: View,
        other: StateReader,
        at: PlaceLike,
        events: Sequence[PlaceLike] | str,
        *,
        document: bool,
        prefer: Prefer | None,
        resolve: Mapping[str, Any],
        reason: str | None,
        actor: str | None,
    ) -> tuple[PreparedEvent, ...]:
        """Give the events of a merge at the end of a view."""
        theirs = other.view()
        cut = resolve_cut(self.storage, theirs, at)
        if theirs.branch.id == view.branch.id:
            raise InvalidPlaceError(
                "a line cannot be merged into itself; nothing was written; name another branch or session"
            )
        ancestor = common_ancestor(view.lineage, theirs.lineage, one_size=view.size, other_size=cut)
        related = view.lineage.segments[0].branch == theirs.lineage.segments[0].branch
        if isinstance(events, str):
            found = other.events(events, start=ancestor, stop=cut, limit=MERGED_EVENTS_MAX + 1)
            chosen = [event for event in found if not is_reserved(event.type) and event.raw is not None]
        else:
            places = sorted({resolve_event(self.storage, theirs, place) for place in events})
            chosen = [other.event(place) for place in places]
        check_chosen(chosen, ancestor, cut, related=related)
        chosen = [
            event
            for event in chosen
            if not comes_from(event, view.lineage, view.size) and self.find(merged_key(event)) is None
        ]
        data: dict[str, Any] = {
            "from": self._origin(theirs, base_at(self.storage, theirs, cut)),
            "into": self._origin(view, base_at(self.storage, view, view.size)),
            "ancestor": ancestor,
            "document": document,
            "events": [{"id": event.id, "hash": event.hash} for event in chosen],
        }
        ops: list[dict[str, Any]] = []
        if document:
            ours = self._built_here(view, DOCUMENT)[0].value
            built = Builder(self.storage, theirs, DOCUMENT, taking=None).build(cut)  # a writer waits for no snapshot
            merged, decided = merge_documents(
                common_document(self.storage, view, theirs, cut),
                ours,
                built.value,
                prefer=prefer,
                resolve=resolve,
                session=self.id,
                other=other._session_name,
            )
            ops = document_ops(ours, chosen, merged)
            if decided:
                data["conflicts"] = conflict_members(
                    decided, lambda pointer: get_member(merged, parse_pointer(pointer))
                )
        if reason is not None:
            data["reason"] = reason
        rest = [copied(event) for event in chosen]
        if ops:
            rest.append(NewEvent("state.patch", {"ops": ops}, rationale=reason, actor=actor))
        data["appended"] = len(rest)  # a cut among them has only a part of the merge
        first = self._prepare([NewEvent("session.merged", data, rationale=reason, actor=actor)], own_verb=True)
        return first + self._prepare(rest)

    def update(
        self,
        *,
        title: str | msgspec.UnsetType | None = msgspec.UNSET,
        labels: Mapping[str, str] | msgspec.UnsetType = msgspec.UNSET,
        metadata: Mapping[str, Any] | msgspec.UnsetType | None = msgspec.UNSET,
        actor: str | None = None,
        expected: int | Head | None = None,
        events: Sequence[NewEvent] = (),
    ) -> Event:
        """Change title, labels or metadata, each as a whole; give the `session.updated` event, which `events` follow. What is left out stays."""
        if title is labels is metadata is msgspec.UNSET:
            raise InvalidEventError(
                "an update of nothing says nothing; nothing was written; give title, labels or metadata"
            )
        shown, clean = clean_words(self._settings.redactor, title, labels, metadata)  # the event says what was redacted
        data: dict[str, Any] = {}
        if title is not msgspec.UNSET:
            data["title"] = check_title(title)
            check_title(shown)
        if not isinstance(labels, msgspec.UnsetType):
            data["labels"] = labels = check_labels(labels)
        encoded = msgspec.UNSET
        if not isinstance(metadata, msgspec.UnsetType):
            encoded = encode_metadata(clean)
            data["metadata"] = {} if metadata is None else dict(metadata)
        prepared = self._prepare([NewEvent("session.updated", data, actor=actor)], own_verb=True)
        request = Update(
            self._row.id,
            shown,
            labels if isinstance(labels, msgspec.UnsetType) else dict(labels),
            encoded,
            self._batch(prepared + self._prepare(events), self._expect(expected)),
        )
        event = self.write(request).events[0]
        self._row = self.storage.session_by_id(self._row.id)
        return event

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
        return Follower(self, start).run(idle=idle, stop=stop)

    # --- proof ---
    def verify(
        self,
        *,
        since: SinceLike | None = None,
        states: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Report:
        """Re-derive everything of the session from the stored bytes and compare; see `everlog.audit.Report`. since, states: as of `Store.verify`."""
        from everlog.audit import verify_sessions

        row = self.storage.session_by_id(self.uuid)
        return verify_sessions(self.storage, [row], since=since, states=states, progress=progress)

    def audit(self, *, verify: bool = False, limit: int = 100, progress: Callable[[int], None] | None = None) -> Audit:
        """Read what the record says of the session, for whoever examines it; see `everlog.auditing.Audit`. Changes nothing.

        verify: also re-derive its hashes, and the bytes of the recorded calls that are listed. limit: of each kind that is listed, at
        most AUDIT_LISTED_MAX; all are counted. progress: called with how many events were read.
        """
        from everlog.auditing import audit_session

        row = self.storage.session_by_id(self.uuid)
        if not verify:
            return audit_session(self.storage, row, limit=limit, progress=progress)
        lines = {line.name: line for line in self.branches()}
        return audit_session(
            self.storage,
            row,
            limit=limit,
            saw=lambda window: lines[window.branch].saw(window.position).exact,
            verification=self.verify(progress=progress),
            progress=progress,
        )

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        withhold: str | None = None,
        start: PlaceLike | None = None,
        stop: PlaceLike | None = None,
        branch: str | None = None,
    ) -> int:
        """Write the session, with every branch, as a bundle file; give the number of events in it.

        withhold: a query; the bodies of events that meet it are left out, and the receiver sees *withheld*.
        start, stop: cuts; only the events between them, of the current line or of `branch`, with what proves that they stand in it.
        """
        from everlog.bundle import export_range, export_session

        row = self.storage.session_by_id(self.uuid)
        if start is None and stop is None and branch is None:
            return export_session(self.storage, row, path, withhold=withhold)
        line = self if branch is None else self.branch(branch)

        def cuts(view: View) -> tuple[int, int]:
            low = line._clamped_cut(view, "start" if start is None else start)
            return low, line._clamped_cut(view, "end" if stop is None else stop)

        return export_range(self.storage, row, line.view, cuts, path, withhold=withhold)

    def slice(self, start: PlaceLike = "start", stop: PlaceLike = "end") -> list[Event]:
        """Give the events between two cuts, oldest first, all in memory. Positions past the ends are cut off."""
        lineage, size = self.line_seen()
        low, high = likely_cut(start, size), likely_cut(stop, size)
        if lineage is None or low is None or high is None or not 0 < high - low <= PAGE_EVENTS_MAX:
            return super().slice(start, stop)
        branch, events = self.storage.peek(self._row.id, lineage, low, high)
        if events is not None and (likely_cut(start, branch.size), likely_cut(stop, branch.size)) == (low, high):
            return events
        view = self._view_of(branch, self.id)
        return self._read_all(view, self._clamped_cut(view, start), self._clamped_cut(view, stop))

    # --- underneath ---
    def view(self) -> View:
        """Read the current branch as it is now, with its lineage."""
        return self._view_of(self.storage.current_branch(self._row.id), self.id)

    def view_seen(self, branch: BranchRow) -> View:
        """Give the current branch as this handle last saw it, `branch` being what it was a moment before."""
        branch_id, size, peaks = self._seen
        if branch_id != branch.id:
            return self.view()  # somebody rewound it in that moment
        return self._view_of(msgspec.structs.replace(branch, size=size, peaks=b"".join(peaks)), self.id)


def open_session(storage: Storage, settings: Settings, keepers: Keepers, name: str) -> Session:
    """Open a session by its name; NotFoundError."""
    check_session_id(name)
    found = storage.find(name)
    session = Session(storage, settings, keepers, found.session, found.branch)
    if found.branch.base is None:
        session._view_of(found.branch, name)  # of one that shares nothing it is known what it consists of
    return session


def session_info(row: SessionRow, branch: BranchRow, lease: LeaseInfo | None) -> SessionInfo:
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
        lease,
    )
