"""The door: what every store promises, and what the services may ask of it.

Writes are requests, each decided on its own inside the store's transaction: all of it is recorded, or nothing is.
Reads return immutable facts, in pages. `Store` and `Session`, in session.py, are what users hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol

import msgspec

from everlog.cold import ColdRequest, ColdStorage
from everlog.core.decide import Batch, EventRow, Expected
from everlog.core.event import Event, Head, PreparedAttachment
from everlog.core.lease import LeaseRow, LeaseToken, Ticks
from everlog.core.limits import PAGE_EVENTS_MAX
from everlog.core.lineage import Lineage, Segment
from everlog.core.merkle import root_of_joined, root_of_peaks
from everlog.core.query import Query, Term
from everlog.core.snapshot import Snapshot
from everlog.core.trigrams import Needles
from everlog.sealed import LedgerEntry, SealedStorage, SealRequest


# --- what is stored ------------------------------------------------------------------------------
class Family(msgspec.Struct, frozen=True):
    """Every session forked from one. id: 32 hex digits. key_salt: 32 random bytes that hash its idempotency keys."""

    id: str
    key_salt: bytes


class SessionRow(msgspec.Struct, frozen=True):
    """A session as stored. key: the store's own; id: 32 hex digits; name: what users call it; times in microseconds."""

    key: int
    id: str
    name: str
    title: str | None
    labels: dict[str, str]
    metadata: bytes | None
    current: int  # key of the current branch
    parent: bytes | None  # Cause.pack() of the event that this session was made for
    created: int
    salt: bytes  # of the commitment to name, title and labels in the ledger
    family: Family


class BranchRow(msgspec.Struct, frozen=True):
    """A branch as stored. number: 1 for the session's first. base: key of the parent branch, or None.

    leaf, recorded: of the last event of the lineage. peaks: joined, of the lineage's tree, largest first.
    """

    key: int
    id: str
    session: int
    number: int
    writer: str
    base: int | None
    base_size: int
    size: int
    peaks: bytes
    leaf: bytes | None
    recorded: int
    created: int

    def head(self) -> Head:
        return Head(self.size, root_of_joined(self.peaks).hex())


class Base(msgspec.Struct, frozen=True):
    """The cut that a new branch starts from: all facts of it that never change, read before the transaction."""

    branch: int
    size: int
    peaks: bytes
    leaf: bytes | None
    recorded: int


# --- what is asked -------------------------------------------------------------------------------
class Append(msgspec.Struct, frozen=True):
    """Append a batch to a session's current branch. holds: its last event holds something, or releases it, which the ledger is to say."""

    session_id: str
    batch: Batch
    holds: bool | None = None


class Create(msgspec.Struct, frozen=True):
    """Make a session, with its first branch and events.

    base: what it is forked from, of the session `forked_from`, which must be alive; the family is then the base's.
    writer: the branch's id, except for what comes from elsewhere.
    """

    session_id: str
    name: str
    title: str | None
    labels: dict[str, str]
    metadata: bytes | None
    parent: bytes | None
    salt: bytes
    family: Family
    branch_id: str
    writer: str
    base: Base | None
    forked_from: str | None
    batch: Batch


class Rewind(msgspec.Struct, frozen=True):
    """Make a branch of a session at a base, make it current and append to it.

    left: key of the branch that must be current. expected in the batch speaks of that branch.
    """

    session_id: str
    branch_id: str
    left: int
    base: Base | None
    batch: Batch


class Switch(msgspec.Struct, frozen=True):
    """Make another branch of a session current and append to it; nothing at all where it is current already.

    left: the branch (id), size and root that must be current where given. The batch may be empty.
    """

    session_id: str
    target: int
    left: Expected | None
    batch: Batch


class Update(msgspec.Struct, frozen=True):
    """Change a session's title, labels and metadata, of which UNSET stays as it is, and append to it."""

    session_id: str
    title: str | msgspec.UnsetType | None
    labels: dict[str, str] | msgspec.UnsetType
    metadata: bytes | msgspec.UnsetType | None
    batch: Batch


class TakeLease(msgspec.Struct, frozen=True):
    """Take the lease of a session for a time, and append to its current branch that it was taken.

    lease: its number, one above the last, which the batch names too. ttl: microseconds. lapsed: whether the batch says that
    the last lease lapsed. StaleLeaseError where the number or `lapsed` is not true any more; FencedError while another lives.
    """

    session_id: str
    lease: LeaseToken
    holder: str
    ttl: int
    lapsed: bool
    batch: Batch


class RenewLease(msgspec.Struct, frozen=True):
    """Have a lease that lives end `ttl` microseconds from now; FencedError where it lives no more."""

    session_id: str
    lease: LeaseToken
    ttl: int


class EndLease(msgspec.Struct, frozen=True):
    """Give a lease back, and append that it was; FencedError where it lives no more. The batch shows its token."""

    session_id: str
    batch: Batch


class Graft(msgspec.Struct, frozen=True):
    """Make an empty branch of a session at a base, not current: a place for what comes from elsewhere."""

    session_id: str
    branch_id: str
    writer: str
    base: Base | None


class AdoptedEvent(msgspec.Struct, frozen=True):
    """An event that was recorded elsewhere, to be stored as it is. The row's `nodes` are made anew."""

    row: EventRow
    attachments: tuple[PreparedAttachment, ...] = ()


class Adopt(msgspec.Struct, frozen=True):
    """Store events that were recorded elsewhere at the end of a branch.

    previous: the leaf before the first of them, which must be the branch's last. The service has checked the hashes.
    """

    branch: int
    previous: bytes | None
    events: tuple[AdoptedEvent, ...]


class Erase(msgspec.Struct, frozen=True):
    """Destroy bodies, salts and attachments of events of a branch's lineage; recorded in the ledger, with the actor, an opaque id.

    step: "record" writes the record alone, of all the events, whose leaves are given; "destroy" destroys them, and records those whose leaves are
    not among the given: those are on record. "both" is one transaction.
    """

    session_id: str
    branch: int
    positions: tuple[int, ...]
    reason: str
    actor: str | None = None
    leaves: tuple[bytes, ...] = ()
    step: Literal["both", "record", "destroy"] = "both"


class Delete(msgspec.Struct, frozen=True):
    """End a session: its name is free at once, what only it holds is destroyed, its leaves stay.

    cascade: also end every session that was forked from it; otherwise a living fork refuses the deletion. actor: as of Erase.
    """

    session_id: str
    reason: str
    cascade: bool
    actor: str | None = None


class PutSnapshots(msgspec.Struct, frozen=True):
    """Keep snapshots of a session's states. Nothing is kept where anything was erased or deleted since `erasures` was read.

    Deltas stand behind what they are deltas from. One for a place that has one already replaces it.
    """

    session_id: str
    snapshots: tuple[Snapshot, ...]
    erasures: int


class DropSnapshots(msgspec.Struct, frozen=True):
    """Drop snapshots: of one session's branches or of all, of one reducer (by name) or of all."""

    session_id: str | None
    reducer: str | None


Request = (
    Append
    | Create
    | Rewind
    | Switch
    | Update
    | TakeLease
    | RenewLease
    | EndLease
    | Graft
    | Adopt
    | Erase
    | Delete
    | PutSnapshots
    | DropSnapshots
    | ColdRequest
    | SealRequest
)


class StaleLeaseError(Exception):
    """A lease was taken meanwhile; the service looks again."""


class Receipt(msgspec.Struct, frozen=True):
    """What a request recorded: an event for each of its batch, in order, and the head after it.

    size, peaks, branch_id: of the branch that was appended to; `head` is folded from them when it is asked for.
    positions: those whose bodies an Erase destroyed now. count: snapshots that were put or dropped; what a ColdRequest or a SealRequest counts.
    """

    session_id: str
    branch_id: str
    size: int
    peaks: tuple[bytes, ...]
    events: tuple[Event, ...] = ()
    positions: tuple[int, ...] = ()
    count: int = 0

    @property
    def head(self) -> Head:
        return Head(self.size, root_of_peaks(self.peaks).hex())


# Called once with what became of a request, from whichever thread committed it; must not block.
Resolve = Callable[[Receipt | Exception], None]
# Withdraws a queued request: True if it was not taken yet, and its Resolve is then never called.
Withdraw = Callable[[], bool]


class Listed(msgspec.Struct, frozen=True):
    """A living session in a list: its current branch, and its last lease, whether that lives or has ended."""

    session: SessionRow
    branch: BranchRow
    lease: LeaseRow | None


class SessionFilter(msgspec.Struct, frozen=True):
    """Which sessions to list.

    query: label, session, since, until and words, as `core.query` matches them against a session. after: the session and branch listed last.
    order: one of updated -updated created -created id -id. parent: prefix of a packed Cause: of a writer (16 bytes) or an event (24).
    """

    query: Query
    prefix: str = ""
    parent: bytes | None = None
    order: str = "-updated"
    limit: int = 50
    after: tuple[SessionRow, BranchRow] | None = None


class Page(msgspec.Struct, frozen=True):
    """Events of one read transaction, in the order asked for.

    following: the bound to go on from: the next `start`, or in reverse the next `stop`; None where the range is done.
    """

    events: list[Event]
    following: int | None


class FeedPlace(msgspec.Struct, frozen=True):
    """Where an event stands in the feed. A store numbers the events of each of its buckets from 1; leaf: of the event there."""

    bucket: int
    number: int
    leaf: bytes


class FeedPage(msgspec.Struct, frozen=True):
    """Events of all sessions in the order in which they were recorded, each with its place.

    Within a bucket, and so within a session, the order is exact; among buckets it is that of the clock, within a page.
    passed: the last place in each bucket that the page read on in, also of events left out. more: whether another page is there.
    """

    events: list[tuple[FeedPlace, Event]]
    passed: tuple[FeedPlace, ...]
    more: bool


class Wanted(msgspec.Struct, frozen=True):
    """What a search looks for, as far as an index can tell.

    terms: on type, actor, outcome, since and until. needles: see core/trigrams.py. reshaped: types of event whose data is not read as it is
    stored, so that needles say nothing of them. sessions: keys of those that they were recorded in, line: segments; None for all.
    """

    terms: tuple[Term, ...] = ()
    needles: Needles = ()
    reshaped: tuple[str, ...] = ()
    sessions: tuple[int, ...] | None = None
    line: tuple[Segment, ...] | None = None


class Bound(msgspec.Struct, frozen=True):
    """How far a search has come in a bucket's feed: events of smaller numbers are still to be looked at."""

    bucket: int
    number: int


class Candidates(msgspec.Struct, frozen=True):
    """Events that may be what is wanted, each with its place in the feed, the newest first: as `FeedPage`, the other way round.

    below: where to go on, in each bucket. more: whether there may be more.
    """

    events: list[tuple[Bound, Event]]
    below: tuple[Bound, ...]
    more: bool


# Told how many of how many events an index holds, while it catches up.
CatchingUp = Callable[[int, int], None]


class Storage(ColdStorage, SealedStorage, Protocol):
    """One store. Every method may be called from any thread; none promises an order between calls of two threads.

    Errors are those of everlog.errors. After `fork()` every call that reads or writes raises UnsupportedStoreError in the
    child, and after close() UnavailableError.
    """

    id: str  # of the store, 32 hex digits; a copy of the file has the same

    # --- writing ---
    def write(self, request: Request) -> Receipt:
        """Carry out a request, durably, or raise and change nothing.

        Promised: laws 1 to 8. A refusal spoils no other request. Not promised: an order among concurrent requests.
        Raises StaleExpectationError (the service makes a ConflictError of it), NotFoundError, SessionExistsError, KeyReusedError, BusyError
        after LOCK_SECONDS_MAX, UnavailableError, OutcomeUnknownError.
        """
        ...

    def submit(self, request: Request, resolve: Resolve) -> Withdraw:
        """Queue a request and return at once; `resolve` is called with its receipt or its refusal.

        Raises BusyError where QUEUE_REQUESTS_MAX requests wait already, and UnavailableError where the store is closed.
        """
        ...

    # --- sessions and branches ---
    def session(self, name: str) -> SessionRow:
        """Find a session by its name, or raise NotFoundError."""
        ...

    def find(self, name: str) -> Listed:
        """Find a session by its name, with its current branch and its last lease, in one go; or raise NotFoundError."""
        ...

    def session_by_id(self, session_id: str) -> SessionRow:
        """Find a session by its internal id (32 hex digits); NotFoundError once it is deleted."""
        ...

    def session_of(self, branch: int) -> SessionRow:
        """Read the living session that owns a branch; NotFoundError once it is deleted."""
        ...

    def sessions(self, chosen: SessionFilter) -> list[Listed]:
        """List living sessions, at most `limit`, in `order`, then by key."""
        ...

    def forks(self, session: int) -> list[SessionRow]:
        """List the other living sessions that share events owned by this one's branches."""
        ...

    def branches(self, session: int) -> list[BranchRow]:
        """List a session's branches by number, also those of a deleted session."""
        ...

    def branch(self, branch: int) -> BranchRow:
        """Read a branch as it is now."""
        ...

    def current_branch(self, session_id: str) -> BranchRow:
        """Read a living session's current branch as it is now; NotFoundError once the session is deleted."""
        ...

    def peek(self, session_id: str, lineage: Lineage, start: int, stop: int) -> tuple[BranchRow, list[Event] | None]:
        """Give what `current_branch` does and, where that costs less than asking again, the events [start, stop) of a line.

        stop: at most PAGE_EVENTS_MAX behind start. Events only where the line is the current branch's and holds them all.
        """
        ...

    def branch_by_id(self, branch_id: str) -> BranchRow | None:
        """Find a branch by its id (32 hex digits)."""
        ...

    def lineage(self, branch: int, session: str) -> Lineage:
        """Flatten a branch's chain of bases. session: the name that events are to be read through."""
        ...

    # --- leases ---
    def lease(self, session_id: str) -> LeaseRow | None:
        """Read the last lease of a living session, whether it lives or has ended; None where none was ever taken."""
        ...

    def leases(self, now: Ticks, limit: int) -> list[tuple[SessionRow, LeaseRow]]:
        """List the leases that live, with their sessions, the last taken first. now: what `ticks` gave."""
        ...

    def ticks(self) -> Ticks:
        """Give the time that leases are measured by, which nobody sets."""
        ...

    # --- events ---
    def read(
        self,
        lineage: Lineage,
        start: int,
        stop: int,
        *,
        terms: tuple[Term, ...] = (),
        reverse: bool = False,
        limit: int = PAGE_EVENTS_MAX,
    ) -> Page:
        """Read events of [start, stop) that meet all of the header terms, oldest first unless `reverse`.

        stop: at most the branch's size as the caller read it. terms: as `Query.split()` gives them.
        limit: 1 .. PAGE_EVENTS_MAX. A page ends at `limit` events, PAGE_BYTES_MAX of bodies (one larger event makes a page of its own), or
        after SCAN_EVENTS_MAX positions; `following` says where to go on. Terms on key, caused_by and type:checkpoint go by index.
        """
        ...

    def read_short(self, asked: Sequence[tuple[Lineage, int]]) -> list[list[Event] | None]:
        """Read the events [0, size) of several lines of one segment together, at most PAGE_EVENTS_MAX; None for those to `read` alone."""
        ...

    def rows(self, lineage: Lineage, start: int, stop: int, *, as_stored: bool = False) -> list[EventRow]:
        """Read stored rows from `start` on, whole, for verification and copies; never an empty page while start < stop. as_stored: see encrypted.py."""
        ...

    def tree_nodes(self, lineage: Lineage, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read stored nodes of the lineage's tree by (level, index), in the order asked for (32 bytes each)."""
        ...

    def leaf_at(self, lineage: Lineage, position: int) -> tuple[bytes, int]:
        """Read an event's leaf and its time in microseconds (0 where its columns were destroyed)."""
        ...

    def cut_at(self, lineage: Lineage, size: int, micros: int) -> int:
        """Give the cut before the first event recorded at or after a time, in [0, size]. O(log size) reads."""
        ...

    def find_key(self, key: str, limit: int) -> list[Event]:
        """Find events of all living sessions by idempotency key, by index, those recorded last first."""
        ...

    def attachments(self, lineage: Lineage, position: int, *, as_stored: bool = False) -> list[PreparedAttachment]:
        """Read an event's attachments, in order; content and salt are None where they were destroyed. as_stored: see encrypted.py."""
        ...

    # --- snapshots ---
    def snapshot_chain(self, lineage: Lineage, size: int, fingerprint: bytes) -> tuple[list[Snapshot], int]:
        """Read the newest snapshot at or below a cut, behind those that it is a delta from, keyframe first; and `erasures`.

        Empty where there is none. The number of erasures was read before them. Not promised: that the chain's front is there.
        """
        ...

    def snapshots(self, branch: int | None, after: tuple[int, bytes, int], limit: int) -> list[Snapshot]:
        """List snapshots by (branch, fingerprint, size) after a place, with empty contents. branch: that one's only."""
        ...

    def erasures(self, branch: int) -> int:
        """Give a number that grows whenever anything is erased or deleted that a branch may hold: what PutSnapshots checks."""
        ...

    # --- the feed ---
    def feed(self, after: Sequence[FeedPlace], limit: int) -> FeedPage:
        """Read on after at most one place a bucket, from the start of buckets that none is of.

        Skips nothing that was committed; deleted events are left out. StaleCursorError where a place holds another event,
        or none: leaves may be given by their first bytes.
        """
        ...

    def feed_end(self) -> tuple[FeedPlace, ...]:
        """Give the place of the last event recorded in each bucket that has any."""
        ...

    def candidates(
        self, wanted: Wanted, below: Sequence[Bound], limit: int, progress: CatchingUp | None = None
    ) -> Candidates:
        """Give at most `limit` events of living sessions that may be what is wanted, the newest of those below a bound first.

        Promised: whatever was recorded before the call, stands below a bound and meets the terms, the place (sessions, line) and the
        needles is among them; what is given meets the terms and the place. Not promised: that it meets the needles. An index that the
        store keeps catches up first, where it may be written. A page ends as that of `read` does; `below` then says where to go on.
        """
        ...

    def news(self) -> int:
        """Give a number that grows with what this process knows to have happened; for `wait`."""
        ...

    def wait(self, seen: int, timeout: float) -> int:
        """Wait until news() passes `seen`, at most `timeout` seconds; give the news number then.

        Promised: wakes within 50 ms of a commit by any process. Not promised: that there is something to read.
        """
        ...

    # --- the rest ---
    def ledger(self, after: int, limit: int) -> list[LedgerEntry]:
        """Read the ledger's records by number, but for those that the sealer added."""
        ...

    def erasure(self, leaf: bytes) -> LedgerEntry | None:
        """Find the record that says that the body of the event with this leaf was destroyed."""
        ...

    def damage(self) -> Iterator[str]:
        """Give what is damaged in how the store keeps its rows, in words, beside what the events' hashes tell."""
        ...

    def now(self) -> int:
        """Give the store's clock, microseconds since 1970 UTC."""
        ...

    def close(self) -> None:
        """Finish what was queued and let go of everything; later calls raise UnavailableError."""
        ...
