"""The in-memory store: the specification of the door, on lists and dicts under one lock. It ends with the process.

Read this to learn what a store does; the others do the same on their engines. Nothing here is quadratic: a slice costs
its result, a time is found by bisection, a key by dict.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from threading import Condition, RLock
from typing import Any

import msgspec

from everlog.cold import ColdRequest, Day, Sizes
from everlog.core import limits
from everlog.core.attached import set_attachment_readers
from everlog.core.decide import EventRow, Recorded, RecordedEvents, StaleExpectationError, Tip, event_of
from everlog.core.event import DELETED, ERASED, Event, PreparedAttachment
from everlog.core.lease import LeaseRow, Ticks
from everlog.core.ledger import LedgerRecord
from everlog.core.lineage import Lineage, flatten
from everlog.core.merkle import node_in_row, node_position
from everlog.core.query import Query, Term, compile_query
from everlog.core.snapshot import Snapshot
from everlog.errors import EverlogError, NotFoundError, UnavailableError, UnsupportedStoreError
from everlog.sealed import BranchHead, Changed, SealRequest
from everlog.storage import (
    Bound,
    BranchRow,
    Candidates,
    CatchingUp,
    Create,
    Family,
    FeedPage,
    FeedPlace,
    Listed,
    Page,
    Receipt,
    Request,
    Resolve,
    SessionFilter,
    SessionRow,
    StaleLeaseError,
    Wanted,
    Withdraw,
)
from everlog.stores.feeds import candidates_page, number_after, number_below, place_test
from everlog.stores.kept import KeptBranch, KeptSession, heads_of, leaf_only
from everlog.stores.ledger_memory import MemoryLedger
from everlog.stores.never_cold import NeverCold, days_of
from everlog.stores.order import is_chosen, rank
from everlog.stores.rows import tip_of_branch
from everlog.stores.shelf import Shelf
from everlog.stores.ticks import read_ticks
from everlog.stores.transact import NewBranch, carry_out


class MemoryStorage(NeverCold, MemoryLedger):
    """Implements everlog.storage.Storage. clock: microseconds since 1970 UTC. draw: gives random bytes. ticks: for leases."""

    def __init__(
        self, *, clock: Callable[[], int], draw: Callable[[int], bytes], ticks: Callable[[], Ticks] = read_ticks
    ) -> None:
        super().__init__()
        self.id = draw(16).hex()
        self._clock = clock
        self.ticks = ticks
        self._process = os.getpid()
        self._closed = False
        self._lock = RLock()
        self._changed = Condition(self._lock)
        self._commits = 0
        self._families: dict[str, Family] = {}
        self._sessions: list[KeptSession] = []  # by key
        self._names: dict[str, int] = {}  # keys of living sessions
        self._ids: dict[str, int] = {}
        self._branch_ids: dict[str, int] = {}
        self._branches: list[KeptBranch] = []  # by key
        self._keyed: dict[str, dict[int, int]] = {}  # by idempotency key: position by branch, in the order recorded
        self._feed: list[tuple[int, int]] = []  # (branch, position); the first has feed number 1
        self._erasure_count = 0
        self._shelf = Shelf()
        self._leases: dict[str, LeaseRow] = {}  # by session id

    # --- writing ---
    def write(self, request: Request) -> Receipt:
        with self._open():
            receipt = carry_out(_Transaction(self, self._clock()), request)
            self._commits += 1
            self._changed.notify_all()
            return receipt

    def submit(self, request: Request, resolve: Resolve) -> Withdraw:
        self._open()
        try:
            outcome = self.write(request)
        except (EverlogError, StaleExpectationError, StaleLeaseError) as refusal:
            outcome = refusal
        resolve(outcome)  # outside of `try`: what it raises is no refusal, and it is called once
        return lambda: False

    def _open(self) -> RLock:
        if self._process != os.getpid():
            raise UnsupportedStoreError(
                "this store in memory was made before this process was forked; nothing was done; open another in the child"
            )
        if self._closed:
            raise UnavailableError("the store is closed; nothing was done; open it again")
        return self._lock  # pyright: ignore[reportReturnType]  # RLock is a factory in older stubs

    # --- sessions and branches ---
    def session(self, name: str) -> SessionRow:
        with self._open():
            key = self._names.get(name)
            if key is not None:
                return self._sessions[key].row
            raise NotFoundError(f"there is no session {name!r} in this store; create it, or see sessions()")

    def find(self, name: str) -> Listed:
        with self._open():
            row = self.session(name)
            return Listed(row, self._branches[row.current].row, self._leases.get(row.id))

    def session_by_id(self, session_id: str) -> SessionRow:
        with self._open():
            key = self._ids.get(session_id)
            if key is not None:
                return self._sessions[key].row
            raise NotFoundError(f"session {session_id} is not in this store any more: it was deleted, or never here")

    def lease(self, session_id: str) -> LeaseRow | None:
        with self._open():
            return self._leases.get(self.session_by_id(session_id).id)

    def leases(self, now: Ticks, limit: int) -> list[tuple[SessionRow, LeaseRow]]:
        with self._open():
            held = [(self.session_by_id(id_), lease) for id_, lease in self._leases.items() if lease.lives(now)]
            return sorted(held, key=lambda each: -each[1].taken)[:limit]

    def session_of(self, branch: int) -> SessionRow:
        with self._open():
            session = self._sessions[self._branches[branch].row.session]
            if session.deleted:
                raise NotFoundError("the session that owned this branch was deleted")
            return session.row

    def sessions(self, chosen: SessionFilter) -> list[Listed]:
        with self._open():
            found = [
                (session.row, self._branches[session.row.current].row)
                for session in self._sessions
                if not session.deleted
            ]
        descending = chosen.order.startswith("-")
        order = chosen.order.removeprefix("-")
        found = [pair for pair in found if is_chosen(chosen, *pair)]
        found.sort(key=lambda pair: rank(order, *pair), reverse=descending)
        if chosen.after is not None:
            last = rank(order, *chosen.after)
            found = [pair for pair in found if (rank(order, *pair) < last if descending else rank(order, *pair) > last)]
        return [Listed(row, branch, self._leases.get(row.id)) for row, branch in found[: chosen.limit]]

    def forks(self, session: int) -> list[SessionRow]:
        with self._open():
            based = [fork for own in self._sessions[session].branches for fork in self._branches[own].forks]
            forks = {self._branches[fork].row.session for fork in based} - {session}
            return [self._sessions[fork].row for fork in sorted(forks) if not self._sessions[fork].deleted]

    def branches(self, session: int) -> list[BranchRow]:
        with self._open():
            return [self._branches[branch].row for branch in self._sessions[session].branches]

    def branch(self, branch: int) -> BranchRow:
        with self._open():
            return self._branches[branch].row

    def current_branch(self, session_id: str) -> BranchRow:
        with self._open():
            return self._branches[self.session_by_id(session_id).current].row

    def peek(self, session_id: str, lineage: Lineage, start: int, stop: int) -> tuple[BranchRow, list[Event] | None]:  # noqa: ARG002
        # To ask again for the events costs nothing here.
        return self.current_branch(session_id), None

    def branch_by_id(self, branch_id: str) -> BranchRow | None:
        with self._open():
            key = self._branch_ids.get(branch_id)
            return None if key is None else self._branches[key].row

    def lineage(self, branch: int, session: str) -> Lineage:
        with self._open():
            chain: list[tuple[int, str, int]] = []
            at: int | None = branch
            while at is not None:
                row = self._branches[at].row
                chain.append((row.key, row.writer, row.base_size))
                at = row.base
            return Lineage(branch, self._branches[branch].row.id, session, flatten(chain))

    # --- events ---
    def read(
        self,
        lineage: Lineage,
        start: int,
        stop: int,
        *,
        terms: tuple[Term, ...] = (),
        reverse: bool = False,
        limit: int = limits.PAGE_EVENTS_MAX,
    ) -> Page:
        meets = compile_query(Query(terms))
        events: list[Event] = []
        held = 0
        positions = range(stop - 1, start - 1, -1) if reverse else range(start, stop)
        with self._open():
            for looked_at, position in enumerate(positions):
                event = self._event(lineage, position)
                held += len(event.raw or b"") if meets(event) else 0
                if (
                    len(events) == limit
                    or (events and held > limits.PAGE_BYTES_MAX)
                    or looked_at == limits.SCAN_EVENTS_MAX
                ):
                    return Page(events, position + 1 if reverse else position)
                if meets(event):
                    events.append(event)
        return Page(events, None)

    def read_short(self, asked: Sequence[tuple[Lineage, int]]) -> list[list[Event] | None]:
        pages = [self.read(lineage, 0, size) for lineage, size in asked]
        return [page.events if page.following is None else None for page in pages]

    def _event(self, lineage: Lineage, position: int) -> Event:
        owner = self._branches[lineage.owner(position).branch]
        return self._event_through(owner, position, session=lineage.session, branch_id=lineage.branch_id)

    def _own_event(self, branch: int, position: int) -> Event:
        """Give an event as read through the branch and session on which it was recorded, without a lineage."""
        row = self._branches[branch].row
        session = self._sessions[row.session].row.name
        return self._event_through(self._branches[branch], position, session=session, branch_id=row.id)

    def _event_through(self, owner: KeptBranch, position: int, *, session: str, branch_id: str) -> Event:
        event = event_of(owner.at(position), session=session, branch_id=branch_id, writer=owner.row.writer)
        set_attachment_readers([event], lambda event: self._attachments(owner, event.position))
        return event

    def rows(self, lineage: Lineage, start: int, stop: int, *, as_stored: bool = False) -> list[EventRow]:  # noqa: ARG002
        rows: list[EventRow] = []
        held = 0
        with self._open():
            for position in range(start, min(stop, start + limits.PAGE_EVENTS_MAX)):
                row = self._branches[lineage.owner(position).branch].at(position)
                held += len(row.body or b"")
                if rows and held > limits.PAGE_BYTES_MAX:
                    break
                rows.append(row)
        return rows

    def tree_nodes(self, lineage: Lineage, places: Sequence[tuple[int, int]]) -> list[bytes]:
        nodes: list[bytes] = []
        with self._open():
            for level, index in places:
                position = node_position(level, index)
                row = self._branches[lineage.owner(position).branch].at(position)
                nodes.append(node_in_row(level, row.leaf, row.nodes))
        return nodes

    def leaf_at(self, lineage: Lineage, position: int) -> tuple[bytes, int]:
        with self._open():
            row = self._branches[lineage.owner(position).branch].at(position)
        return row.leaf, row.recorded or 0

    def cut_at(self, lineage: Lineage, size: int, micros: int) -> int:
        with self._open():
            return bisect_left(
                range(size),
                micros,
                key=lambda position: self._branches[lineage.owner(position).branch].at(position).recorded or 0,
            )

    def find_key(self, key: str, limit: int) -> list[Event]:
        with self._open():
            newest = islice(reversed(self._keyed.get(key, {}).items()), limit)
            return [self._own_event(branch, position) for branch, position in newest]

    def attachments(self, lineage: Lineage, position: int, *, as_stored: bool = False) -> list[PreparedAttachment]:  # noqa: ARG002
        return self._attachments(self._branches[lineage.owner(position).branch], position)

    def _attachments(self, owner: KeptBranch, position: int) -> list[PreparedAttachment]:
        with self._open():
            return owner.attachments.get(position, [])

    # --- snapshots ---
    def snapshot_chain(self, lineage: Lineage, size: int, fingerprint: bytes) -> tuple[list[Snapshot], int]:
        with self._open():
            return self._shelf.chain(lineage, size, fingerprint), self._erasure_count

    def snapshots(self, branch: int | None, after: tuple[int, bytes, int], limit: int) -> list[Snapshot]:
        with self._open():
            return self._shelf.listed(branch, after, limit)

    def erasures(self, branch: int) -> int:  # noqa: ARG002  # one number for all branches
        with self._open():
            return self._erasure_count

    # --- cold bodies ---
    def sizes(self) -> Sizes:
        with self._open():
            events, held = len(self._feed), sum(branch.bytes_held() for branch in self._branches)
            return Sizes(events=events, sessions=len(self._names), file=held, hot=held)

    def growth(self) -> list[Day]:
        with self._open():
            return days_of([row for branch in self._branches for row in branch.events])

    # --- the feed ---
    def feed(self, after: Sequence[FeedPlace], limit: int) -> FeedPage:
        events: list[tuple[FeedPlace, Event]] = []
        last: FeedPlace | None = None
        held = 0
        with self._open():
            start = number_after(after, self._feed_leaf)
            for number, (branch, position) in enumerate(self._feed[start : start + limit], start=start + 1):
                row = self._branches[branch].at(position)
                held += len(row.body or b"")
                if events and held > limits.PAGE_BYTES_MAX:
                    break
                last = FeedPlace(0, number, row.leaf)
                if row.gone != DELETED:
                    events.append((last, self._own_event(branch, position)))
            passed = () if last is None else (last,)
            return FeedPage(events, passed, last is not None and last.number < len(self._feed))

    def _feed_leaf(self, number: int) -> bytes | None:
        for branch, position in self._feed[max(number - 1, 0) : number]:
            return self._branches[branch].at(position).leaf
        return None

    def feed_end(self) -> tuple[FeedPlace, ...]:
        with self._open():
            leaf = self._feed_leaf(len(self._feed))
            return () if leaf is None else (FeedPlace(0, len(self._feed), leaf),)

    def candidates(
        self,
        wanted: Wanted,
        below: Sequence[Bound],
        limit: int,
        progress: CatchingUp | None = None,  # noqa: ARG002  # it keeps no index
    ) -> Candidates:
        with self._open():
            return candidates_page(self._backwards(wanted, number_below(below)), limit)

    def _backwards(self, wanted: Wanted, below: int) -> Iterator[tuple[int, Event | None]]:
        meets = compile_query(Query(wanted.terms))
        sessions = wanted.sessions
        owned = None if sessions is None else [branch for key in sessions for branch in self._sessions[key].branches]
        inside = place_test(wanted, owned)
        for number in range(min(below, len(self._feed) + 1) - 1, 0, -1):
            branch, position = self._feed[number - 1]
            living = self._branches[branch].at(position).gone != DELETED and inside(branch, position)
            event = self._own_event(branch, position) if living else None
            yield number, event if event is not None and meets(event) else None

    def news(self) -> int:
        return self._commits

    def wait(self, seen: int, timeout: float) -> int:
        with self._open():
            self._changed.wait_for(lambda: self._commits > seen or self._closed, timeout)
            return self._commits

    # --- the ledger ---
    def changed(self, feeds: Sequence[tuple[int, int]]) -> Changed:
        with self._open():
            start = dict(feeds).get(0, 0)
            read = self._feed[start : start + limits.SCAN_EVENTS_MAX]
            end = start + len(read)
            return Changed(frozenset(branch for branch, _ in read), ((0, end),), end < len(self._feed))

    def branch_heads(self, branches: Sequence[int]) -> list[BranchHead]:
        with self._open():
            return heads_of(branches, self._branches, self._sessions)

    # --- the rest ---
    def damage(self) -> Iterator[str]:
        return iter(())

    def now(self) -> int:
        return self._clock()

    def close(self) -> None:
        if self._process != os.getpid():
            return  # its lock may be held by a thread that this process does not have
        with self._lock:
            self._closed = True
            self._changed.notify_all()


class _Transaction:
    """Implements everlog.stores.transact.Transaction. Needs no way back, since nothing is written before it is decided."""

    def __init__(self, store: MemoryStorage, now: int) -> None:
        self.now = now
        self._store = store
        self._sessions = store._sessions
        self._branches = store._branches
        self._tips: dict[int, Tip] = {}

    def tip(self, session_id: str) -> Tip:
        session = self.session(session_id)
        return self.tip_of(session, session.current)

    def tip_of(self, session: SessionRow, branch: int) -> Tip:
        row = self._branches[branch].row if branch < len(self._branches) else None
        if branch not in self._tips or row is None or row.session != session.key:
            self._tips[branch] = tip_of_branch(session, row)
        return self._tips[branch]

    def session(self, session_id: str) -> SessionRow:
        return self._store.session_by_id(session_id)

    def session_of(self, branch: int) -> SessionRow:
        return self._store.session_of(branch)

    def branches(self, session: int) -> list[BranchRow]:
        return self._store.branches(session)

    def ticks(self) -> Ticks:
        return self._store.ticks()

    def lease(self, session_id: str) -> LeaseRow | None:
        return self._store._leases.get(session_id)

    def set_lease(self, session_id: str, lease: LeaseRow) -> None:
        self._store._leases[session_id] = lease

    def name_taken(self, name: str) -> bool:
        return name in self._store._names

    def recorded(self, branch: int | None, size: int, keys: Sequence[str]) -> Recorded:
        found: dict[str, RecordedEvents] = {}
        if branch is None:
            return found
        for segment in self._store.lineage(branch, "").clip(0, size):
            own = self._branches[segment.branch]
            for key in keys:
                position = self._store._keyed.get(key, {}).get(segment.branch)
                if position is not None and segment.start <= position < segment.stop:
                    # A fork or rewind may have cut through what the key covers: the rest is not in this lineage.
                    stop = min(position + (own.at(position).key_count or 1), segment.stop)
                    rows = [own.at(covered) for covered in range(position, stop)]
                    found[key] = RecordedEvents(segment.writer, rows)
        return found

    def insert_session(self, create: Create) -> int:
        key = len(self._sessions)
        family = self._store._families.setdefault(create.family.id, create.family)
        row = SessionRow(
            key,
            create.session_id,
            create.name,
            create.title,
            create.labels,
            create.metadata,
            -1,
            create.parent,
            self.now,
            create.salt,
            family,
        )
        self._sessions.append(KeptSession(row, []))
        self._store._names[row.name] = self._store._ids[row.id] = key
        return key

    def insert_branch(self, session: int, branch: NewBranch) -> int:
        key, tip = len(self._branches), branch.tip
        siblings = self._sessions[session].branches
        row = BranchRow(
            key,
            branch.id,
            session,
            len(siblings) + 1,
            branch.writer,
            branch.base,
            branch.base_size,
            branch.base_size,
            b"",
            None,
            0,
            self.now,
        )
        self._branches.append(KeptBranch(row, [], {}, []))
        siblings.append(key)
        if branch.base is not None:
            self._branches[branch.base].forks.append(key)
        self._store._branch_ids[row.id] = key
        tip.session, tip.branch = session, key
        self._tips[key] = tip
        self._store_tip(tip)
        return key

    def set_current(self, session: int, branch: int) -> None:
        self._replace(session, current=branch)

    def set_names(self, session: int, title: str | None, labels: dict[str, str], metadata: bytes | None) -> None:
        self._replace(session, title=title, labels=labels, metadata=metadata)

    def insert_events(
        self, tip: Tip, rows: Sequence[EventRow], attachments: Sequence[tuple[int, Sequence[PreparedAttachment]]]
    ) -> None:
        branch = self._branches[tip.branch]
        for row in rows:
            branch.events.append(row)
            if row.key is not None:
                self._store._keyed.setdefault(row.key, {})[tip.branch] = row.position
            self._store._feed.append((tip.branch, row.position))
        branch.attachments.update((position, list(own)) for position, own in attachments)
        self._store_tip(tip)

    def erase(self, branch: int, positions: Sequence[int]) -> list[tuple[int, bytes]]:
        lineage = self._store.lineage(branch, "")
        erased: list[tuple[int, bytes]] = []
        for position in sorted(set(positions)):
            own = self._branches[lineage.owner(position).branch]
            row = own.at(position)
            if row.gone is None:
                own.events[position - own.row.base_size] = msgspec.structs.replace(
                    row, body=None, salt=None, attached=None, gone=ERASED
                )
                own.attachments.pop(position, None)
                erased.append((position, row.leaf))
                self._erase_snapshots(own.row.key, position)
        self._store._erasure_count += bool(erased)
        return erased

    def _erase_snapshots(self, branch: int, position: int) -> None:
        """Drop the snapshots of states that an event went into, on its own branch and those that share it."""
        below = [branch]
        for key in below:  # grows while it is walked
            below += [fork for fork in self._branches[key].forks if self._branches[fork].row.base_size > position]
        self._store._shelf.drop(set(below), above=position)

    def erasures(self, branch: int) -> int:  # noqa: ARG002  # one number for all branches
        return self._store._erasure_count

    def put_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        self._store._shelf.put(snapshots)

    def drop_snapshots(self, branches: Sequence[int] | None, reducer: str | None) -> int:
        return self._store._shelf.drop(branches, reducer)

    def cold(self, request: ColdRequest) -> int:
        raise AssertionError(f"nothing of this store is ever packed, and {type(request).__name__} was asked for")

    def living_forks(self, session: int) -> list[SessionRow]:
        return self._store.forks(session)

    def end_session(self, session: int) -> None:
        ended = self._sessions[session]
        ended.deleted = True
        del self._store._names[ended.row.name], self._store._ids[ended.row.id]
        self._store._leases.pop(ended.row.id, None)
        self._replace(session, name="", title=None, labels={}, metadata=None, parent=None, salt=b"")
        for row in self.branches(session):
            branch = self._branches[row.key]
            for key in {event.key for event in branch.events if event.key is not None}:
                positions = self._store._keyed[key]
                del positions[row.key]
                if not positions:
                    del self._store._keyed[key]
            branch.events = [leaf_only(event) for event in branch.events]
            branch.attachments = {}
        self.drop_snapshots(ended.branches, None)
        self._store._erasure_count += 1

    def insert_ledger(self, record: LedgerRecord, reason: str | None = None) -> None:
        self._store.insert_ledger(record, reason)

    def seal(self, request: SealRequest) -> int:
        return self._store.seal(request, self.now)

    def _replace(self, session: int, **members: Any) -> None:
        kept = self._sessions[session]
        kept.row = msgspec.structs.replace(kept.row, **members)

    def _store_tip(self, tip: Tip) -> None:
        branch = self._branches[tip.branch]
        branch.row = msgspec.structs.replace(
            branch.row, size=tip.size, peaks=b"".join(tip.peaks), leaf=tip.leaf, recorded=tip.recorded
        )
