"""The auditor's questions of one session: who acted, when, on what grounds, with what outcome, and what was changed afterwards.

1. Every line of the session is read once, with what it shares of other sessions: in pages, with bounded memory (tally.py).
2. What was erased, deleted and held comes from the ledger, which says who asked for it and why.
3. Of each kind at most `limit` are listed, the newest; all are counted.
4. It says what it cannot tell. It is a reading of the record, not a verdict: whether the record is as it was written, `verify` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from everlog.audit import Report
from everlog.core.event import Event, Head
from everlog.core.ledger import DeleteRecord, HoldRecord, read_erase_record
from everlog.core.limits import AUDIT_LISTED_MAX, PAGE_EVENTS_MAX, SAFE_INTEGER_MAX
from everlog.core.lineage import Lineage
from everlog.core.pointer import parse_pointer
from everlog.core.position import format_micros
from everlog.core.query import Exact, Term
from everlog.core.retention import Policy, check_policy
from everlog.errors import CorruptionError, EverlogError, LimitError, NotFoundError
from everlog.holding import POLICIES, holds_of, holds_session
from everlog.ledger_audit import covered
from everlog.sealed import LedgerEntry
from everlog.seals import read_seal
from everlog.storage import BranchRow, SessionRow, Storage
from everlog.tally import Acting, Fact, Facts, Tally, Tenures, Window, Windows, cut_short, fact_of

AUDIT_FORMAT: Final = "everlog/1/audit"
_DELETIONS_LOOKED_MAX: Final = 1_000  # of the store, the newest: each is looked up
_POLICY_TERMS: Final = (Term("type", (Exact("state.set"), Exact("state.patch"))),)

# Tells whether the very bytes of a recorded call can be made again.
Saw = Callable[[Window], bool]


class Line(msgspec.Struct, frozen=True):
    """A branch. size, root: its head; base: how much of it is shared with the branch below. sealed: up to which size a seal covers it."""

    id: str
    name: str
    current: bool
    base: int
    size: int
    root: str
    sealed: int


class Fork(msgspec.Struct, frozen=True):
    """A living session that shares events with this one. made: the event that says who forked it, why and from where, where it does."""

    session: str
    made: Fact | None


class Erasure(msgspec.Struct, frozen=True):
    """A record of the ledger that bodies were destroyed. entry: its number. events: how many of this session's it names."""

    entry: int
    at: str
    actor: str | None
    reason: str | None
    events: int
    first: int
    last: int


class Deletion(msgspec.Struct, frozen=True):
    """A record of the ledger that a fork of this session was deleted. session: its internal id; its name went with it."""

    entry: int
    at: str
    actor: str | None
    reason: str | None
    session: str


class Hold(msgspec.Struct, frozen=True):
    """That the session was held from some time on, or no more. recorded: the ledger names the event that says so."""

    policy: str
    held: bool
    at: str
    actor: str | None
    reason: str | None
    query: str | None
    recorded: bool


class SealedTo(msgspec.Struct, frozen=True):
    """The last seal that the store keeps, and what it leaves open. events: of this session that no seal covers."""

    origin: str | None
    size: int
    root: str | None
    made: str | None
    events: int


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What the record says of one session. Times are those of the store's clock, in UTC.

    events: on all its lines, and what they share; each once. outcomes, types: how many events of each, types by outcome.
    decisions: events with a rationale, and those of type decision. troubles: events whose outcome is not ok, and errors. moves: forks,
    rewinds, switches, merges, updates of the session itself. redactions, rules: what was taken out before it was recorded.
    summaries: how many by method, model where it is told, and level. models: how many calls, and turns that were imported, by model. verification: where it was asked for.
    untold: what this cannot tell, in words.
    """

    store: str
    session: str
    uuid: str
    title: str | None
    labels: dict[str, str]
    made: str
    created: str
    head: Head
    events: int
    erased: int
    withheld: int
    unreadable: int
    lines: tuple[Line, ...]
    line_count: int
    actors: tuple[Acting, ...]
    outcomes: dict[str, int]
    types: dict[str, dict[str, int]]
    with_rationale: int
    bare_decisions: int
    decisions: Facts
    troubles: Facts
    moves: Facts
    forks: tuple[Fork, ...]
    fork_count: int
    windows: Windows
    models: dict[str, int]
    summaries: dict[str, int]
    leases: Tenures
    redactions: Facts
    rules: dict[str, int]
    erasures: tuple[Erasure, ...]
    erasure_count: int
    deletions: tuple[Deletion, ...]
    deletion_count: int
    holds: tuple[Hold, ...]
    hold_count: int
    held_by: tuple[str, ...]
    seal: SealedTo
    verification: Report | None
    untold: tuple[str, ...]
    v: str = AUDIT_FORMAT

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return msgspec.to_builtins(self)


def audit_session(
    storage: Storage,
    session: SessionRow,
    *,
    limit: int,
    saw: Saw | None = None,
    verification: Report | None = None,
    progress: Callable[[int], None] | None = None,
) -> Audit:
    """Read what the record says of a session. limit: of each kind, at most AUDIT_LISTED_MAX. Raises LimitError, and what reading raises."""
    if type(limit) is not int or not 1 <= limit <= AUDIT_LISTED_MAX:
        raise LimitError(f"limit {limit!r:.50} is not in 1 .. {AUDIT_LISTED_MAX}; nothing was read; choose another")
    branches = storage.branches(session.key)
    current = next(branch for branch in branches if branch.key == session.current)
    tally, destroyed = Tally(limit), _Destroyed(storage, limit)
    for event, branch in _events(storage, session, branches, tally):
        tally.add(event, f"b{branch.number}", branch.size)
        if event.erased:
            destroyed.add(event)
        if progress is not None and tally.events % PAGE_EVENTS_MAX == 0:
            progress(tally.events)
    ledger = _from_ledger(storage, frozenset(branch.key for branch in branches))
    untold = list(_untold(tally, verification))
    untold += _untold_of_ledger(ledger, destroyed, pending=bool(storage.pending(1)))
    held_by = _held_by(storage, session, current, untold)
    holds = tuple(_holds(storage, session, current, ledger.holding))
    forks = storage.forks(session.key)
    seal, lines = _sealed(storage, session, branches)
    return Audit(
        store=storage.id,
        session=session.name,
        uuid=session.id,
        title=session.title,
        labels=session.labels,
        made=format_micros(storage.now()),
        created=format_micros(session.created),
        head=current.head(),
        events=tally.events,
        erased=tally.erased,
        withheld=tally.withheld,
        unreadable=tally.unreadable,
        lines=tuple(lines[-limit:]),
        line_count=len(lines),
        actors=tally.actors(),
        outcomes=tally.outcomes,
        types=tally.types,
        with_rationale=tally.with_rationale,
        bare_decisions=tally.bare_decisions,
        decisions=tally.decisions,
        troubles=tally.troubles,
        moves=tally.moves,
        forks=tuple(_fork(storage, fork) for fork in forks[-limit:]),
        fork_count=len(forks),
        windows=_tried(tally.windows, saw),
        models=tally.models,
        summaries=tally.summaries,
        leases=tally.tenures(),
        redactions=tally.redactions,
        rules=tally.rules,
        erasures=destroyed.newest(),
        erasure_count=destroyed.count,
        deletions=tuple(ledger.deletions[-limit:]),
        deletion_count=len(ledger.deletions),
        holds=holds[-limit:],
        hold_count=len(holds),
        held_by=held_by,
        seal=seal,
        verification=verification,
        untold=tuple(untold),
    )


def _events(
    storage: Storage, session: SessionRow, branches: list[BranchRow], tally: Tally
) -> Iterator[tuple[Event, BranchRow]]:
    """Give each event of all lines once, with the line that it is read through; those that are shared with the first that has them."""
    told: dict[int, int] = {}  # by branch: up to where
    for branch in branches:
        lineage = storage.lineage(branch.key, session.name)
        for segment in lineage.segments:
            start, stop = max(segment.start, told.get(segment.branch, 0)), min(segment.stop, branch.size)
            told[segment.branch] = max(stop, told.get(segment.branch, 0))
            for event in _read(storage, lineage, start, stop, tally):
                yield event, branch


def _read(storage: Storage, lineage: Lineage, start: int, stop: int, tally: Tally) -> Iterator[Event]:
    """Read events a page at a time; one that is damaged is counted, and reading goes on behind it."""
    most = PAGE_EVENTS_MAX
    while start < stop:
        try:
            page = storage.read(lineage, start, min(stop, start + most), limit=most)
        except CorruptionError:
            if most > 1:
                most //= 2
                continue
            tally.events += 1
            tally.unreadable += 1
            start += 1
            continue
        yield from page.events
        start = min(stop, start + most) if page.following is None else page.following
        most = min(PAGE_EVENTS_MAX, 2 * most)


def _tried(windows: Windows, saw: Saw | None) -> Windows:
    """Try whether the calls that are listed can be made again."""
    if saw is None:
        return windows
    tried: list[Window] = []
    for window in windows.newest:
        try:
            found = window if window.note else msgspec.structs.replace(window, exact=saw(window))
        except EverlogError as error:
            found = msgspec.structs.replace(window, exact=False, note=cut_short(error.message))
        tried.append(found)
    return msgspec.structs.replace(windows, newest=tuple(tried))


def _fork(storage: Storage, fork: SessionRow) -> Fork:
    """Tell of a fork what its first own event says."""
    branch = next(iter(storage.branches(fork.key)))
    if branch.base_size >= branch.size:
        return Fork(fork.name, None)
    lineage = storage.lineage(branch.key, fork.name)
    first = storage.read(lineage, branch.base_size, branch.base_size + 1, limit=1).events[0]
    try:
        return Fork(fork.name, fact_of(first, f"b{branch.number}", None) if first.type == "session.forked" else None)
    except EverlogError:
        return Fork(fork.name, None)


def _untold(tally: Tally, verification: Report | None) -> Iterator[str]:
    """Say what the record cannot tell, and what was not asked of it."""
    yield "who stood behind an actor: an actor is what the program that wrote the event said"
    yield "when something happened in the world: times are those of recording, by the store's clock"
    if verification is None:
        yield "whether the record is as it was written: verify it"
        if tally.windows.count:
            yield "whether the bytes of recorded calls can be made again: verify it"
    if tally.windows.unknown:
        yield f"what models were given in calls without a manifest: {tally.windows.unknown}"
    if tally.erased or tally.withheld:
        yield f"what was said by events whose bodies are gone: {tally.erased} erased, {tally.withheld} withheld"
    if tally.unreadable:
        yield f"what is said by events whose bodies cannot be read: {tally.unreadable}; `everlog verify` names them"


def _untold_of_ledger(ledger: _FromLedger, destroyed: _Destroyed, *, pending: bool) -> Iterator[str]:
    """Say what the ledger cannot tell, and what of it was not read."""
    if destroyed.count or ledger.deletions:
        yield "whether the reasons of erasures and deletions are those that were given: nothing hashes them"
    if pending:
        yield "whether the ledger's last records stay: some have no place in its tree yet, and no seal covers them"
    if ledger.older:
        yield f"which forks were deleted before the last {_DELETIONS_LOOKED_MAX} deletions in the store"


# --- what was destroyed and held -----------------------------------------------------------------
class _Destroyed:
    """Finds the records that say that events were erased: a read for each record, not for each event."""

    def __init__(self, storage: Storage, limit: int) -> None:
        self._storage, self._limit = storage, limit
        self._found: dict[int, Erasure] = {}  # the newest; of the others there stays the number
        self._entries: set[int] = set()
        self._named: frozenset[str] = frozenset()
        self._entry = 0

    @property
    def count(self) -> int:
        return len(self._entries)

    def add(self, event: Event) -> None:
        """Take in an erased event."""
        if event.hash not in self._named and not self._find(event):
            return  # `verify` tells it as a fault
        found = self._found.get(self._entry)
        if found is not None:
            self._found[self._entry] = msgspec.structs.replace(
                found,
                events=found.events + 1,
                first=min(found.first, event.position),
                last=max(found.last, event.position),
            )

    def _find(self, event: Event) -> bool:
        """Find the record of an event."""
        entry = self._storage.erasure(event.leaf)
        record = None if entry is None else read_erase_record(entry.record)
        if entry is None or record is None:
            return False
        self._entry, self._named = entry.number, frozenset(leaf for _, leaf in record.events)
        if entry.number not in self._entries:
            self._entries.add(entry.number)
            actor = record.actor if isinstance(record.actor, str) else None
            reason = None if entry.reason is None else cut_short(entry.reason)
            place = event.position
            self._found[entry.number] = Erasure(entry.number, format_micros(record.t), actor, reason, 0, place, place)
            if len(self._found) > self._limit:
                del self._found[min(self._found)]
        return True

    def newest(self) -> tuple[Erasure, ...]:
        """Give the newest records."""
        return tuple(self._found[entry] for entry in sorted(self._found))


class _FromLedger(msgspec.Struct, frozen=True):
    """What the ledger says. holding: hashes of events that hold something. older: there were deletions that were not looked at."""

    deletions: list[Deletion]
    holding: frozenset[str]
    older: bool


def _from_ledger(storage: Storage, keys: frozenset[int]) -> _FromLedger:
    """Read the ledger for deletions of forks of these branches, and for holds of whatever session."""
    deleted: list[tuple[LedgerEntry, DeleteRecord]] = []
    holding: set[str] = set()
    after, older = 0, False
    while entries := storage.ledger(after, PAGE_EVENTS_MAX):
        after = entries[-1].number
        for entry in entries:
            match _read_record(entry.record):
                case HoldRecord() as record:
                    holding.add(record.event[1])
                case DeleteRecord() as record:
                    deleted.append((entry, record))
                case None:
                    pass
        older = older or len(deleted) > _DELETIONS_LOOKED_MAX
        del deleted[:-_DELETIONS_LOOKED_MAX]
    found = [_deletion(entry, record) for entry, record in deleted if _shared(storage, record, keys)]
    return _FromLedger(found, frozenset(holding), older)


def _read_record(raw: bytes) -> HoldRecord | DeleteRecord | None:
    """Read a record of a hold or of a deletion; None for one of another kind, or damaged, which `verify` tells."""
    kind = HoldRecord if b'"kind":"hold"' in raw else DeleteRecord if b'"kind":"delete"' in raw else None
    if kind is None:
        return None
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _shared(storage: Storage, record: DeleteRecord, keys: frozenset[int]) -> bool:
    """Tell whether what was deleted was forked from one of these branches: its first branch says."""
    branch = storage.branch_by_id(record.branches[0][0]) if record.branches else None
    return branch is not None and branch.base in keys


def _deletion(entry: LedgerEntry, record: DeleteRecord) -> Deletion:
    actor = record.actor if isinstance(record.actor, str) else None
    reason = None if entry.reason is None else cut_short(entry.reason)
    return Deletion(entry.number, format_micros(record.t), actor, reason, record.session)


def _held_by(storage: Storage, session: SessionRow, current: BranchRow, untold: list[str]) -> tuple[str, ...]:
    """Name the policies that hold the session now. untold: what to say where they cannot be read is put there."""
    try:
        return tuple(policy.name for policy in holds_of(storage, session, current))
    except EverlogError as error:
        untold.append(f"what holds the session now: {error.message}")
        return ()


def _holds(storage: Storage, session: SessionRow, current: BranchRow, holding: frozenset[str]) -> Iterator[Hold]:
    """Give when policies began to hold the session, as it is called now, and when they ended, in order."""
    try:
        found = storage.find(POLICIES)
    except NotFoundError:
        return
    lineage = storage.lineage(found.branch.key, POLICIES)
    held: set[str] = set()
    start: int | None = 0
    while start is not None and start < found.branch.size:
        page = storage.read(lineage, start, found.branch.size, terms=_POLICY_TERMS)
        start = page.following
        for event in page.events:
            for name, policy in _policies_said(event):
                if policy is not None and _matches(policy, session, current, storage.now()):
                    held.add(name)
                    yield _hold(event, policy, name, is_held=True, recorded=event.hash in holding)
                elif name in held:
                    held.remove(name)
                    yield _hold(event, None, name, is_held=False, recorded=event.hash in holding)


def _hold(event: Event, policy: Policy | None, name: str, *, is_held: bool, recorded: bool) -> Hold:
    reason = None if event.rationale is None else cut_short(event.rationale)
    query = None if policy is None else cut_short(policy.query)
    return Hold(name, is_held, format_micros(event.recorded_micros), event.actor, reason, query, recorded)


def _policies_said(event: Event) -> Iterator[tuple[str, Policy | None]]:
    """Give the names of the policies that an event sets or removes, with what each is then; None for one that holds nothing."""
    try:
        data = event.data
        said = [data] if event.type == "state.set" else data.get("ops", [])
        for each in said:
            (name,) = parse_pointer(each["path"])
            value = each.get("value")
            is_hold = isinstance(value, dict) and value.get("action") == "hold"
            yield name, msgspec.convert({**value, "name": name}, Policy) if is_hold else None
    except (EverlogError, msgspec.ValidationError, ValueError, TypeError, KeyError, AttributeError):
        return  # it names no policy; whoever is asked whether something is held says so


def _matches(policy: Policy, session: SessionRow, current: BranchRow, now: int) -> bool:
    try:
        return holds_session(check_policy(policy, now=now), session, current, now)
    except EverlogError:
        return False  # nor does it hold anything: while it stands so, nothing at all is erased


# --- what is sealed ------------------------------------------------------------------------------
def _sealed(storage: Storage, session: SessionRow, branches: list[BranchRow]) -> tuple[SealedTo, list[Line]]:
    """Give the last seal, and of each line up to where seals cover it."""
    row = next(iter(storage.seals(SAFE_INTEGER_MAX, 1)), None)
    size = 0 if row is None else row.size
    lines: list[Line] = []
    for branch in branches:
        head = branch.head()
        reached = covered(storage, branch.id, branch.size, size)
        is_current = branch.key == session.current
        name = f"b{branch.number}"
        lines.append(Line(branch.id, name, is_current, branch.base_size, head.size, head.root, reached))
    left = sum(line.size - max(line.base, line.sealed) for line in lines)
    if row is None:
        return SealedTo(None, 0, None, None, left), lines
    seal = read_seal(row)
    return SealedTo(seal.origin, seal.head.size, seal.head.root, format_micros(seal.made), left), lines
