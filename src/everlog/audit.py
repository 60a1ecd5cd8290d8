"""Verification: re-derive everything from the stored bytes up, and compare.

1. Every own event of every branch of a session, and of the branches below that it shares, is checked: position, body
   and attachments against commitments, header against leaf, chain, order of times, nodes; then the branch's size, root,
   last leaf and base.
2. It goes on after a fault and names each exactly; it streams, a page of rows at a time.
3. A body that is missing is *erased* where the ledger says so, *withheld* where it came so, and a fault otherwise.
4. The ledger is checked with the store (ledger_audit.py), and what no seal covers is counted.
5. Since a seal: what it covers is bound to it by its hashes, and not read again (anchors.py). With states, the hashes of states on
   record are made again too (state_audit.py).
6. What it did not check is said too: without a seal, a rewrite of everything by whoever holds the file is not excluded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import msgspec

from everlog.anchors import SinceLike, anchor_holds, anchored_size, find_anchor
from everlog.context.tree import range_hashes
from everlog.core import limits
from everlog.core.decide import EventRow, decode_covers, header_of
from everlog.core.envelope import is_sealed
from everlog.core.event import DELETED, ERASED, WITHHELD, Head, PreparedAttachment, decode_attached
from everlog.core.header import commit_attachment, commit_body, encode_header
from everlog.core.ledger import read_erase_record
from everlog.core.lineage import Lineage
from everlog.core.merkle import DIGEST_BYTES, leaf_hash, push_leaf, root_of_peaks, split_digests
from everlog.core.query import EVERYTHING, Query
from everlog.errors import CorruptionError, EverlogError, InvalidEventError, KeyNeededError, TamperedError
from everlog.ledger_audit import SEALS_CHECKED_MAX, LedgerFound, OnRecord, check_ledger, covered
from everlog.reader import View, base_at
from everlog.seals import Seal
from everlog.state_audit import StatesFound, check_states
from everlog.storage import BranchRow, SessionFilter, SessionRow, Storage

FAULTS_MAX = 1_000  # after so many, more are counted but not listed
_DAMAGED = (
    ValueError,
    TypeError,
    AttributeError,
    msgspec.MsgspecError,
    CorruptionError,
    RecursionError,  # nested deeper than anything that was appended
)  # a byte may make a text a number
Progress = Callable[[int], None]


class Fault(msgspec.Struct, frozen=True):
    """One thing that does not hold. branch: its id; position: of the event, None where it is of the branch.

    session and branch are empty where it is of the store.
    """

    session: str
    branch: str
    position: int | None
    what: str

    def __str__(self) -> str:
        if not self.session:
            return f"the store: {self.what}"
        place = "" if self.position is None else f"@{self.position}"
        return f"{self.session}~{self.branch[:8]}{place}: {self.what}"


class Report(msgspec.Struct, frozen=True):
    """What verification found. ok: no fault. Counts are of events, branches and sessions looked at.

    erased, withheld: bodies that are not there, for a recorded reason. unsealed: events that no seal covers yet. seals: that were checked
    under a key that the caller pinned. states: hashes of states that were made again. unchecked: what could not be checked, in words.
    stamps: time stamps of seals that are good; stamped: of the largest such seal, its size and when it was there, in words.
    encrypted: bodies that were not looked at, since the store was opened without their key. plain: events in plain text of a store that
    encrypts, where the whole of it was verified.
    """

    ok: bool
    events: int
    branches: int
    sessions: int
    erased: int
    withheld: int
    unsealed: int
    faults: tuple[Fault, ...]
    fault_count: int
    unchecked: tuple[str, ...]
    seals: int = 0
    states: int = 0
    stamps: int = 0
    stamped: str | None = None
    encrypted: int = 0
    plain: int = 0

    def raise_for_faults(self) -> None:
        """Raise TamperedError where there is a fault."""
        if self.faults:
            raise TamperedError(
                f"{self.fault_count} faults; the first: {self.faults[0]}; keep a copy of the store as it is, and compare with a "
                "backup or a bundle"
            )


class _Checker:
    """Collects what is found while walking."""

    def __init__(self, storage: Storage, progress: Progress | None, *, since: Head | None, states: bool) -> None:
        self.storage = storage
        self.since = since  # what is covered by the seal of this head is not read again
        self.states = StatesFound() if states else None
        self.progress = progress
        self.faults: list[Fault] = []
        self.fault_count = self.events = self.branches = self.sessions = self.erased = self.withheld = 0
        self.encrypted = 0
        self.unsealed = 0
        self.ledger: LedgerFound | None = None  # where it was checked
        self.sealed = 0  # records of the ledger that a seal covers
        self._record: tuple[int, frozenset[str]] = (0, frozenset())  # the erase record read last
        self._branches_seen: set[int] = set()

    def fault(self, session: str, branch: str, position: int | None, what: str) -> None:
        self.fault_count += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(Fault(session, branch, position, what))

    def was_erased(self, leaf: bytes) -> bool:
        """Tell whether the ledger holds a record that this event's body was erased."""
        entry = self.storage.erasure(leaf)
        if entry is None:
            return False
        if entry.number != self._record[0]:
            self._record = (entry.number, frozenset(erased_leaves(entry.record)))
        return leaf.hex() in self._record[1]

    def first_look(self, branch: int) -> bool:
        """Tell whether a branch was not checked yet: forks share theirs."""
        if branch in self._branches_seen:
            return False
        self._branches_seen.add(branch)
        return True

    def counted(self, rows: int) -> None:
        self.events += rows
        if self.progress is not None:
            self.progress(self.events)

    def report(self) -> Report:
        return Report(
            not self.fault_count,
            self.events,
            self.branches,
            self.sessions,
            self.erased,
            self.withheld,
            self.unsealed,
            tuple(self.faults),
            self.fault_count,
            tuple(self._unchecked()),
            0 if self.ledger is None else self.ledger.seals,
            0 if self.states is None else self.states.compared,
            encrypted=self.encrypted,
            plain=0 if self.ledger is None else self.storage.plain_bodies(),
        )

    def _unchecked(self) -> Iterator[str]:
        """Say what this verification leaves open."""
        ledger = self.ledger
        if self.encrypted:
            yield f"{self.encrypted} bodies are encrypted, and were not looked at: open the store with their key"
        if ledger is None:
            yield "the ledger and its seals: verify the whole store, with the key that seals it"
        elif ledger.seals:
            yield (
                "whoever holds both the store and its key can rewrite both: compare with seals that were kept elsewhere, if these were not"
            )
        elif ledger.unknown:
            yield "no key is pinned that signed its seals: a rewrite of the whole store, seals too, is not excluded"
        else:
            yield "no seal was supplied: a rewrite of the whole store by whoever can write its file is not excluded"
        if ledger is not None and ledger.seals and ledger.unknown:
            yield f"{ledger.unknown} seals of keys that are not pinned"
        if ledger is not None and ledger.older:
            yield f"seals before the last {SEALS_CHECKED_MAX}, which those extend"
        if ledger is not None and ledger.pending:
            yield "records of the ledger that have no place in it yet: seal"
        if self.since is not None:
            yield (
                f"what the seal of {self.since.size} records covers, and what was erased of it since: of that, only that each line still has "
                "the head that was sealed; nor names, labels and current branches; verify all of it from time to time"
            )
        if self.withheld:
            yield (
                f"whether the {self.withheld} bodies that are called withheld were left out of a bundle, or taken away here: nothing records it"
            )
        if self.states is None:
            yield "the state hashes of checkpoints and events: --states makes them again and compares"
        else:
            yield from self.states.unchecked()


def verify_store(
    storage: Storage,
    *,
    keys: Sequence[str] = (),
    seals: Sequence[Seal] = (),
    since: SinceLike | None = None,
    states: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Verify every living session of a store, that each stored branch belongs to one that was made here, and the ledger.

    keys: verifier keys that are trusted to seal it. seals: that were kept elsewhere. since: only what came after this seal. states: also
    make the hashes of states again.
    """
    checker = _checker(storage, progress, since=since, states=states)
    start = 0 if checker.since is None else checker.since.size

    def fault(what: str) -> None:
        checker.fault("", "", None, what)

    on_record: OnRecord | None = None
    try:
        for what in storage.damage() if checker.since is None else ():
            fault(what)
        checker.ledger = check_ledger(storage, keys=keys, seals=seals, fault=fault, start=start)
        checker.sealed = checker.ledger.sealed
        on_record = OnRecord(storage) if checker.since is None else None
    except InvalidEventError:
        raise  # it is about a key that the caller gave
    except (EverlogError, *_DAMAGED) as error:
        fault(f"cannot be read: {error}")
    return _verify(checker, all_sessions(storage), on_record)


def all_sessions(storage: Storage, query: Query = EVERYTHING) -> Iterator[SessionRow]:
    """Give every living session that meets a query on sessions, in the order of their making."""
    after: tuple[SessionRow, BranchRow] | None = None
    while True:
        chosen = SessionFilter(query, order="created", limit=limits.SESSIONS_PAGE_MAX, after=after)
        page = storage.sessions(chosen)
        for each in page:
            after = (each.session, each.branch)
            yield each.session
        if len(page) < limits.SESSIONS_PAGE_MAX:
            return


def verify_sessions(
    storage: Storage,
    sessions: Iterable[SessionRow],
    *,
    since: SinceLike | None = None,
    states: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Verify sessions, each with all its branches and what they share. Seals count as they are kept: who signed them is not checked."""
    checker = _checker(storage, progress, since=since, states=states)
    checker.sealed = next((row.size for row in storage.seals(limits.SAFE_INTEGER_MAX, 1)), 0)
    return _verify(checker, sessions)


def _checker(storage: Storage, progress: Progress | None, *, since: SinceLike | None, states: bool) -> _Checker:
    """Give a checker that begins at a seal. One that the ledger does not begin with is a fault, and all is checked."""
    anchor = None if since is None else find_anchor(storage, since)
    checker = _Checker(storage, progress, since=anchor, states=states)
    if anchor is not None and not anchor_holds(storage, anchor, lambda what: checker.fault("", "", None, what)):
        checker.since = None
    return checker


def _verify(checker: _Checker, sessions: Iterable[SessionRow], on_record: OnRecord | None = None) -> Report:
    """Verify sessions. on_record: what the ledger says of them, where it can be read."""
    storage = checker.storage
    for session in sessions:
        checker.sessions += 1
        branches = storage.branches(session.key)
        if all(branch.key != session.current for branch in branches):
            checker.fault(session.name, "", None, "its current branch is none of its own")
        for what in () if on_record is None else on_record.faults(session, branches):
            checker.fault(session.name, "", None, what)
        for branch in branches:
            try:
                _check_branch(checker, session, branch)
            except (EverlogError, *_DAMAGED) as error:
                checker.fault(session.name, branch.id, None, f"cannot be read: {error}")
    return checker.report()


def _check_branch(checker: _Checker, session: SessionRow, branch: BranchRow) -> None:
    """Check a branch's own events, and those below it that no other branch has brought to light yet."""
    lineage = checker.storage.lineage(branch.key, session.name)
    *shared, own = lineage.segments
    for segment in shared:
        if checker.first_look(segment.branch):
            row = checker.storage.branch(segment.branch)
            _check_own(checker, session, row, checker.storage.lineage(segment.branch, session.name))
    if own.branch != branch.key:
        checker.fault(session.name, branch.id, None, "its chain of bases does not end in itself")
    if checker.first_look(branch.key):
        _check_own(checker, session, branch, lineage)


def _check_own(checker: _Checker, session: SessionRow, branch: BranchRow, lineage: Lineage) -> None:
    checker.branches += 1
    start = max(branch.base_size, _anchored(checker, session, branch, lineage))
    peaks, previous, recorded = _state_at(checker.storage, branch, lineage, start)
    for rows in _pages(checker.storage, lineage, start, branch.size):
        if isinstance(rows, _Unreadable):
            checker.fault(session.name, branch.id, rows.position, rows.what)
            if rows.is_last:
                return
            previous, time = checker.storage.leaf_at(lineage, rows.position)
            push_leaf(peaks, rows.position, previous)
            recorded = max(recorded, time)
            checker.counted(1)
            continue
        for row in rows:
            try:
                _check_row(checker, session, branch, lineage, row, previous, recorded)
            except _DAMAGED as error:
                checker.fault(session.name, branch.id, row.position, str(error))
            if push_leaf(peaks, row.position, row.leaf) != row.nodes:
                checker.fault(session.name, branch.id, row.position, "its stored nodes are not those of the tree")
            previous = row.leaf
            recorded = max(recorded, row.recorded or 0)
        checker.counted(len(rows))
    _check_tip(checker, session, branch, peaks, previous, recorded)
    if checker.states is not None and not checker.encrypted:
        report = partial(checker.fault, session.name, branch.id)
        check_states(checker.storage, View(branch, lineage), start, checker.states, report)
    reached = covered(checker.storage, branch.id, branch.size, checker.sealed)
    checker.unsealed += branch.size - max(branch.base_size, min(reached, branch.size))


def _anchored(checker: _Checker, session: SessionRow, branch: BranchRow, lineage: Lineage) -> int:
    """Give up to where a branch is bound to the seal that the verification begins at."""
    if checker.since is None:
        return 0
    try:
        return anchored_size(checker.storage, View(branch, lineage), checker.since)
    except _DAMAGED as error:
        checker.fault(session.name, branch.id, None, str(error))
        return 0


class _Unreadable(msgspec.Struct, frozen=True):
    """An event that cannot be read, and why. is_last: nor can what follows it, for now."""

    position: int
    what: str
    is_last: bool = False


def _pages(storage: Storage, lineage: Lineage, start: int, stop: int) -> Iterator[list[EventRow] | _Unreadable]:
    """Give rows, a page at a time, and each event by itself whose body cannot be had: pages grow small round it, and large again."""
    position, span = start, limits.PAGE_EVENTS_MAX
    while position < stop:
        try:
            rows = _rows(storage, lineage, position, min(stop, position + span))
        except _DAMAGED as error:
            if span > 1:
                span //= 2
                continue
            yield _Unreadable(position, str(error))
            position += 1
        except EverlogError as error:  # each try may wait for as long
            yield _Unreadable(position, f"cannot be read from here on: {error}", is_last=True)
            return
        else:
            yield rows
            position += len(rows)
            span = min(limits.PAGE_EVENTS_MAX, 2 * span)


def _rows(storage: Storage, lineage: Lineage, start: int, stop: int) -> list[EventRow]:
    """Read a page, of which what is encrypted stays so where its key was not given."""
    try:
        return storage.rows(lineage, start, stop)
    except KeyNeededError:
        return storage.rows(lineage, start, stop, as_stored=True)


def _state_at(
    storage: Storage, branch: BranchRow, lineage: Lineage, size: int
) -> tuple[list[bytes], bytes | None, int]:
    """Give peaks, last leaf and its time where a check begins, from nodes that are checked with the branch below, or with a seal."""
    base = base_at(storage, View(branch, lineage), size)
    if base is None:
        return [], None, 0
    return split_digests(base.peaks), base.leaf, base.recorded


def _check_tip(
    checker: _Checker, session: SessionRow, branch: BranchRow, peaks: list[bytes], leaf: bytes | None, recorded: int
) -> None:
    if split_digests(branch.peaks) != peaks:
        stored, derived = branch.head().root, root_of_peaks(peaks).hex()
        checker.fault(session.name, branch.id, None, f"its root is stored as {stored} and derived as {derived}")
    if branch.leaf != leaf:
        checker.fault(session.name, branch.id, None, "its last leaf is not that of its last event")
    if branch.recorded != recorded:
        checker.fault(session.name, branch.id, None, "its last time is not that of its last event")


def _check_row(
    checker: _Checker,
    session: SessionRow,
    branch: BranchRow,
    lineage: Lineage,
    row: EventRow,
    previous: bytes | None,
    recorded: int,
) -> None:
    """Check one event; ValueError says what differs."""
    if row.gone == DELETED:
        raise ValueError("only its leaf is left, in a session that was not deleted")
    header = header_of(row, writer=branch.writer, previous=previous, key_salt=session.family.key_salt)
    if leaf_hash(encode_header(header)) != row.leaf:
        raise ValueError(
            "its header (type, actor, outcome, times, key, cause, commitments, position or the event before) is not what its "
            "leaf was made of"
        )
    if (row.recorded or 0) < recorded:
        raise ValueError("its time lies before that of the event before it")
    if row.covers is not None:
        _check_covers(checker.storage, View(branch, lineage), row, row.covers)
    if row.gone is None and row.salt is None and is_sealed(row.body):
        checker.encrypted += 1
    elif row.gone is None:
        attachments = checker.storage.attachments(lineage, row.position) if row.attached else []
        check_contents(row, attachments)
    elif row.gone == ERASED:
        checker.erased += 1
        if row.body is not None or row.salt is not None:
            raise ValueError("it is marked as erased, and its body or salt is still there")
        if not checker.was_erased(row.leaf):
            raise ValueError("its body is missing, and the ledger has no record that it was erased")
    elif row.gone == WITHHELD:
        checker.withheld += 1
    else:
        raise ValueError(f"its body is missing for the unknown reason {row.gone}")


def _check_covers(storage: Storage, view: View, row: EventRow, covers: str) -> None:
    """Check the hashes of what a summary covers against the nodes below it, which are checked with their own leaves."""
    said = decode_covers(covers)
    ranges = [(start, stop) for start, stop, _ in said]
    whole = all(0 <= start < stop <= row.position for start, stop in ranges)
    if not whole or range_hashes(storage, view, ranges) != [each for _, _, each in said]:
        raise ValueError("the hashes of what it covers are not those of the events there")


def check_contents(row: EventRow, attachments: list[PreparedAttachment]) -> None:
    """Check a body and attachments against the commitments in the header; ValueError says what differs."""
    assert row.commitments is not None, "the header was rebuilt from them"
    commitments = split_digests(row.commitments)
    if row.body is None or row.salt is None:
        raise ValueError("its body is missing, and nothing says why")
    if len(row.salt) != DIGEST_BYTES or commit_body(row.salt, row.body) != commitments[0]:
        raise ValueError("its body is not the one that was committed to")
    named = [] if row.attached is None else decode_attached(row.attached)
    if [(item.name, item.size) for item in attachments] != named or len(attachments) != len(commitments) - 1:
        raise ValueError("its attachments are not those that were committed to")
    for item, commitment in zip(attachments, commitments[1:], strict=True):
        if item.content is None or item.salt is None:
            raise ValueError(f"its attachment {item.name!r} is missing, and nothing says why")
        if len(item.content) != item.size or commit_attachment(item.salt, item.name, item.content) != commitment:
            raise ValueError(f"its attachment {item.name!r} is not the one that was committed to")


def erased_leaves(record: bytes) -> list[str]:
    """Give the leaves (hex) that a ledger record says were erased; none for a record of another kind."""
    read = read_erase_record(record)
    return [] if read is None else [leaf for _, leaf in read.events]
