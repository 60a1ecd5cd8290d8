"""How a request is carried out inside a store's transaction, the same for every store.

1. Every check comes before the first write, so a refused request leaves nothing behind and spoils no other request of
   the same group (law 4).
2. New branches are decided whole, then written: a constant number of rows for a fork or rewind at any position (law 6).
3. What the ledger must say is written in the same transaction as what it says.

A store gives a `Transaction`: the few reads and writes below, against one open transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import msgspec

from everlog.cold import ColdRequest
from everlog.core.decide import (
    Batch,
    Decided,
    EventRow,
    Recorded,
    StaleExpectationError,
    Tip,
    check_expected,
    decide_append,
    event_of,
    forked,
)
from everlog.core.event import ERASED, PreparedAttachment, decode_body
from everlog.core.lease import LeaseRow, Ticks, check_lease, held
from everlog.core.ledger import (
    CurrentRecord,
    DeleteRecord,
    EraseRecord,
    HoldRecord,
    LedgerRecord,
    SessionRecord,
    commit_session,
)
from everlog.core.limits import SAFE_INTEGER_MAX
from everlog.core.merkle import push_leaf, split_digests
from everlog.core.snapshot import Snapshot
from everlog.errors import NotFoundError, SessionExistsError
from everlog.sealed import PlaceRecords, PutSeal, SealRequest
from everlog.storage import (
    Adopt,
    Append,
    Base,
    BranchRow,
    Create,
    Delete,
    DropSnapshots,
    EndLease,
    Erase,
    Family,
    Graft,
    PutSnapshots,
    Receipt,
    RenewLease,
    Request,
    Rewind,
    SessionRow,
    StaleLeaseError,
    Switch,
    TakeLease,
    Update,
)

ERASE_RECORD_EVENTS = 700  # that one ledger record names: at most 86 bytes each, and a tile's record ends at 65,535
DELETE_RECORD_BRANCHES = 500  # at most 124 bytes each


class NewBranch(msgspec.Struct, frozen=True):
    """A branch to be written with its events already decided. base: key of the branch that owns base_size - 1."""

    id: str
    writer: str
    base: int | None
    base_size: int
    tip: Tip


class Transaction(Protocol):
    """What a store offers inside one open transaction. Reads see the transaction's own writes."""

    now: int

    def ticks(self) -> Ticks:
        """Give the time that leases are measured by."""
        ...

    def lease(self, session_id: str) -> LeaseRow | None:
        """Give the last lease of a session, the same object each time; None for none ever."""
        ...

    def set_lease(self, session_id: str, lease: LeaseRow) -> None:
        """Write a session's lease in the place of its last."""
        ...

    def tip(self, session_id: str) -> Tip:
        """Give the tip of a living session's current branch, the same object each time; NotFoundError."""
        ...

    def tip_of(self, session: SessionRow, branch: int) -> Tip:
        """Give the tip of one of a session's branches, the same object each time; NotFoundError."""
        ...

    def session(self, session_id: str) -> SessionRow:
        """Read a living session; NotFoundError."""
        ...

    def session_of(self, branch: int) -> SessionRow:
        """Read the living session that owns a branch; NotFoundError."""
        ...

    def branches(self, session: int) -> list[BranchRow]:
        """Read a session's branches by number."""
        ...

    def name_taken(self, name: str) -> bool: ...

    def recorded(self, branch: int | None, size: int, keys: Sequence[str]) -> Recorded:
        """Find which of the keys stand in the first `size` events of a branch's lineage, with the events they cover."""
        ...

    def insert_session(self, create: Create) -> int:
        """Write a session (and its family, where it is new), without a current branch; give its key."""
        ...

    def insert_branch(self, session: int, branch: NewBranch) -> int:
        """Write a branch with the state of its tip; give its key, and set the tip's."""
        ...

    def set_current(self, session: int, branch: int) -> None: ...

    def set_names(self, session: int, title: str | None, labels: dict[str, str], metadata: bytes | None) -> None: ...

    def insert_events(
        self, tip: Tip, rows: Sequence[EventRow], attachments: Sequence[tuple[int, Sequence[PreparedAttachment]]]
    ) -> None:
        """Write rows at the end of the tip's branch, and the branch's new state. attachments: (position, its own)."""
        ...

    def erase(self, branch: int, positions: Sequence[int]) -> list[tuple[int, bytes]]:
        """Destroy bodies in a branch's lineage, and every snapshot of a state that they went into.

        Gives (position, leaf) of those that were there. NotFoundError.
        """
        ...

    def living_forks(self, session: int) -> list[SessionRow]:
        """List other living sessions that share events owned by this one's branches."""
        ...

    def end_session(self, session: int) -> None:
        """Destroy name, title, labels, metadata and snapshots, and have the events that its branches own destroyed."""
        ...

    def insert_ledger(self, record: LedgerRecord, reason: str | None = None) -> None: ...

    def erasures(self, branch: int) -> int:
        """Give the number that `erase` and `end_session` raise."""
        ...

    def put_snapshots(self, snapshots: Sequence[Snapshot]) -> None: ...

    def drop_snapshots(self, branches: Sequence[int] | None, reducer: str | None) -> int:
        """Drop snapshots of these branches (None for all) and this reducer (None for all); give how many."""
        ...

    def cold(self, request: ColdRequest) -> int:
        """Carry out what is asked about cold bodies; give what the receipt counts."""
        ...

    def seal(self, request: SealRequest) -> int:
        """Carry out what is asked about the ledger's tree; give what the receipt counts."""
        ...


def carry_out(tx: Transaction, request: Request) -> Receipt:
    """Carry out one request in a transaction, or raise before anything of it is written."""
    match request:
        case Append():
            return _append(tx, request)
        case Create():
            return _create(tx, request)
        case Rewind():
            return _rewind(tx, request)
        case Switch():
            return _switch(tx, request)
        case Update():
            return _update(tx, request)
        case TakeLease():
            return _take_lease(tx, request)
        case RenewLease():
            return _renew_lease(tx, request)
        case EndLease():
            return _end_lease(tx, request)
        case Graft():
            return _graft(tx, request)
        case Adopt():
            return _adopt(tx, request)
        case Erase():
            return _erase(tx, request)
        case Delete():
            return _delete(tx, request)
        case PutSnapshots():
            return _put_snapshots(tx, request)
        case DropSnapshots():
            branches = None if request.session_id is None else tx.branches(tx.session(request.session_id).key)
            keys = None if branches is None else [branch.key for branch in branches]
            return Receipt("", "", 0, (), count=tx.drop_snapshots(keys, request.reducer))
        case PlaceRecords() | PutSeal():
            return Receipt("", "", 0, (), count=tx.seal(request))
        case _:
            return Receipt("", "", 0, (), count=tx.cold(request))


def _append(tx: Transaction, request: Append) -> Receipt:
    receipt = _append_at(tx, tx.tip(request.session_id), request.batch)
    last = receipt.events[-1] if receipt.events else None
    if request.holds is not None and last is not None and not last.repeated:
        at = (last.position, last.hash)
        tx.insert_ledger(HoldRecord(event=at, held=request.holds, session=request.session_id, t=tx.now))
    return receipt


def _append_at(tx: Transaction, tip: Tip, batch: Batch) -> Receipt:
    keys = batch.keys()
    recorded: Recorded = tx.recorded(tip.branch, tip.size, keys) if keys else {}
    before = tip.size
    decided = decide_append(tip, batch, recorded, now=tx.now, guard=partial(_check_lease, tx, tip))
    if tip.size > before:
        _insert(tx, tip, batch, decided.rows, before)
    return _receipt(tip, decided, before)


def _check_lease(tx: Transaction, tip: Tip, batch: Batch, moves: str | None = None) -> None:
    """Raise FencedError where the session's lease is another's; most sessions have none. moves: how `current` does."""
    lease = tx.lease(tip.session_id)
    if lease is not None or batch.lease is not None:
        types = [event.type for event in batch.events] + ([] if moves is None else [moves])
        check_lease(lease, batch.lease, tx.ticks(), types=types, session=tip.name, wall=tx.now)


def _insert(tx: Transaction, tip: Tip, batch: Batch, rows: Sequence[EventRow], before: int) -> None:
    """Write the rows that are new, with their attachments."""
    new = rows if len(rows) == tip.size - before else [row for row in rows if row.position >= before]
    attachments = [
        (row.position, event.attachments)
        for event, row in zip(batch.events, rows, strict=True)
        if event.attachments and row.position >= before
    ]
    tx.insert_events(tip, new, attachments)


def _receipt(tip: Tip, decided: Decided, before: int) -> Receipt:
    writers = decided.writers
    name, branch_id, writer = tip.name, tip.branch_id, tip.writer
    events = tuple(
        [
            event_of(
                row, name, branch_id, writers.get(row.position, writer) if writers else writer, row.position < before
            )
            for row in decided.rows
        ]
    )
    return Receipt(tip.session_id, tip.branch_id, tip.size, tuple(tip.peaks), events)


def _new_tip(
    session_id: str, name: str, branch_id: str, writer: str, base: Base | None, family: Family, session: int = 0
) -> Tip:
    """Give the tip of a branch that is not written yet; its keys are set when it is."""
    if base is None:
        return Tip(session, session_id, name, 0, branch_id, writer, 0, [], None, 0, family.key_salt)
    return Tip(
        session,
        session_id,
        name,
        0,
        branch_id,
        writer,
        base.size,
        split_digests(base.peaks),
        base.leaf,
        base.recorded,
        family.key_salt,
    )


def _grow(tx: Transaction, tip: Tip, base: Base | None, batch: Batch) -> tuple[NewBranch, Decided]:
    """Decide the first events of a new branch."""
    keys = batch.keys()
    size = tip.size
    recorded: Recorded = tx.recorded(base.branch, size, keys) if keys and base is not None else {}
    decided = decide_append(tip, msgspec.structs.replace(batch, expected=None), recorded, now=tx.now)
    return NewBranch(tip.branch_id, tip.writer, None if base is None else base.branch, size, tip), decided


def _write_branch(tx: Transaction, session: int, branch: NewBranch, batch: Batch, decided: Decided) -> int:
    key = tx.insert_branch(session, branch)
    if branch.tip.size > branch.base_size:
        _insert(tx, branch.tip, batch, decided.rows, branch.base_size)
    return key


def _create(tx: Transaction, request: Create) -> Receipt:
    if tx.name_taken(request.name):
        raise SessionExistsError(
            f"a session {request.name!r} exists; nothing was written; open it with session() or get_or_create(), or choose "
            "another id"
        )
    floor = _floor_of(tx, request.base)
    if request.forked_from is not None:
        parent = tx.lease(tx.session(request.forked_from).id)
        floor = max(floor, 0 if parent is None else parent.highest)
    tip = _new_tip(request.session_id, request.name, request.branch_id, request.writer, request.base, request.family)
    branch, decided = _grow(tx, tip, request.base, request.batch)
    session = tx.insert_session(request)
    tip.session = session
    tx.set_current(session, _write_branch(tx, session, branch, request.batch, decided))
    _record_names(tx, request.session_id, request.salt, request.name, request.title, request.labels)
    _raise_floor(tx, request.session_id, floor)  # a fork begins without a lease, above the tokens of what it shares
    return _receipt(tip, decided, branch.base_size)


def _floor_of(tx: Transaction, base: Base | None) -> int:
    """Give the highest token that the session which owns a base has on record."""
    if base is None:
        return 0
    try:
        lease = tx.lease(tx.session_of(base.branch).id)
    except NotFoundError:
        return 0  # it was deleted, and its leases with it: the nonce tells old tokens from new ones
    return 0 if lease is None else lease.highest


def _raise_floor(tx: Transaction, session_id: str, number: int) -> None:
    """Have the next token of a session be above a number. A lease that lives goes on."""
    lease = tx.lease(session_id)
    if number > (0 if lease is None else lease.highest):
        tx.set_lease(session_id, msgspec.structs.replace(lease or LeaseRow(0), floor=number))


def _record_names(
    tx: Transaction, session_id: str, salt: bytes, name: str, title: str | None, labels: dict[str, str]
) -> None:
    commitment = commit_session(salt, name, title, labels)
    tx.insert_ledger(SessionRecord(commitment=commitment, session=session_id, t=tx.now))


def _rewind(tx: Transaction, request: Rewind) -> Receipt:
    session = tx.session(request.session_id)
    left = tx.tip(request.session_id)
    _check_lease(tx, left, request.batch, "session.rewound")
    if left.branch != request.left:
        raise StaleExpectationError(branch_id=left.branch_id, head=left.head())
    if request.batch.expected is not None:
        check_expected(left, request.batch.expected)
    base = request.base
    tip = _new_tip(session.id, session.name, request.branch_id, request.branch_id, base, session.family, session.key)
    branch, decided = _grow(tx, tip, base, request.batch)
    tx.set_current(session.key, _write_branch(tx, session.key, branch, request.batch, decided))
    _record_current(tx, tip)
    return _receipt(tip, decided, branch.base_size)


def _record_current(tx: Transaction, tip: Tip) -> None:
    head = tip.head()
    tx.insert_ledger(
        CurrentRecord(branch=tip.branch_id, root=head.root, session=tip.session_id, size=head.size, t=tx.now)
    )


def _switch(tx: Transaction, request: Switch) -> Receipt:
    session = tx.session(request.session_id)
    left = tx.tip(request.session_id)
    _check_lease(tx, left, request.batch, "session.switched")
    if request.left is not None:
        check_expected(left, request.left)
    target = tx.tip_of(session, request.target)
    if target.branch == left.branch:
        return Receipt(session.id, left.branch_id, left.size, tuple(left.peaks))
    receipt = _append_at(tx, target, request.batch)
    tx.set_current(session.key, target.branch)
    _record_current(tx, target)
    return receipt


def _update(tx: Transaction, request: Update) -> Receipt:
    session = tx.session(request.session_id)
    receipt = _append_at(tx, tx.tip(request.session_id), request.batch)
    title = session.title if isinstance(request.title, msgspec.UnsetType) else request.title
    labels = session.labels if isinstance(request.labels, msgspec.UnsetType) else request.labels
    metadata = session.metadata if isinstance(request.metadata, msgspec.UnsetType) else request.metadata
    tx.set_names(session.key, title, labels, metadata)
    _record_names(tx, session.id, session.salt, session.name, title, labels)
    return receipt


def _take_lease(tx: Transaction, request: TakeLease) -> Receipt:
    tip, now = tx.tip(request.session_id), tx.ticks()
    last = tx.lease(request.session_id)
    if last is not None and last.lives(now):
        raise held(last, now, session=tip.name, wall=tx.now)
    lapsed = last is not None and last.holder is not None  # it may have been given back since the taker looked
    if (request.lease.number, request.lapsed) != ((0 if last is None else last.highest) + 1, lapsed):
        raise StaleLeaseError
    receipt = _append_at(tx, tip, request.batch)
    until = now.micros + request.ttl
    number, nonce = request.lease.number, request.lease.nonce
    tx.set_lease(request.session_id, LeaseRow(number, nonce, request.holder, now.boot, until, request.ttl, tx.now))
    return receipt


def _renew_lease(tx: Transaction, request: RenewLease) -> Receipt:
    tip, now = tx.tip(request.session_id), tx.ticks()
    lease = tx.lease(request.session_id)
    check_lease(lease, request.lease, now, types=(), session=tip.name, wall=tx.now)
    assert lease is not None, "a token was good"
    tx.set_lease(request.session_id, msgspec.structs.replace(lease, until=now.micros + request.ttl, ttl=request.ttl))
    return Receipt(tip.session_id, tip.branch_id, tip.size, tuple(tip.peaks))


def _end_lease(tx: Transaction, request: EndLease) -> Receipt:
    receipt = _append_at(tx, tx.tip(request.session_id), request.batch)
    lease = tx.lease(request.session_id)
    assert lease is not None, "a token was good"
    tx.set_lease(request.session_id, msgspec.structs.replace(lease, holder=None, until=0))
    return receipt


def _graft(tx: Transaction, request: Graft) -> Receipt:
    session = tx.session(request.session_id)
    tip = _new_tip(
        session.id, session.name, request.branch_id, request.writer, request.base, session.family, session.key
    )
    base = request.base
    branch = NewBranch(
        tip.branch_id, tip.writer, None if base is None else base.branch, 0 if base is None else base.size, tip
    )
    floor = _floor_of(tx, base)
    tx.insert_branch(session.key, branch)
    _raise_floor(tx, session.id, floor)
    return Receipt(session.id, tip.branch_id, tip.size, tuple(tip.peaks))


def _adopt(tx: Transaction, request: Adopt) -> Receipt:
    tip = tx.tip_of(tx.session_of(request.branch), request.branch)
    assert request.events, "the service takes pages, and no page is empty"
    lease = tx.lease(tip.session_id)
    if lease is not None and lease.lives(tx.ticks()) and tx.tip(tip.session_id) is tip:
        raise held(lease, tx.ticks(), session=tip.name, wall=tx.now, what="this would add to its current branch")
    if tip.leaf != request.previous or tip.size != request.events[0].row.position:
        raise StaleExpectationError(branch_id=tip.branch_id, head=tip.head())
    rows: list[EventRow] = []
    for event in request.events:
        row = event.row
        nodes = push_leaf(tip.peaks, tip.size, row.leaf)
        rows.append(row if row.nodes == nodes else msgspec.structs.replace(row, nodes=nodes))
        tip.size += 1
        tip.recorded = max(tip.recorded, row.recorded or 0)
    tip.leaf = rows[-1].leaf
    attachments = [(event.row.position, event.attachments) for event in request.events if event.attachments]
    tx.insert_events(tip, rows, attachments)
    number = max((_token_of(row) for row in rows if row.type == "lease.acquired"), default=0)
    _raise_floor(tx, tip.session_id, number)  # a copy begins without a lease, above the tokens on record
    erased = [(row.position, row.leaf) for row in rows if row.gone == ERASED]
    _record_erased(tx, tip.session_id, erased, "erased where it came from")
    return Receipt(tip.session_id, tip.branch_id, tip.size, tuple(tip.peaks))


def _token_of(row: EventRow) -> int:
    """Give the token that a lease.acquired event names; 0 where its body is gone, or is not ours."""
    try:
        data = None if row.body is None else decode_body(row.body).data
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0
    token = data.get("token") if isinstance(data, dict) else None
    return token if type(token) is int and 0 <= token <= SAFE_INTEGER_MAX else 0


def _erase(tx: Transaction, request: Erase) -> Receipt:
    session = tx.session(request.session_id)
    tip = tx.tip_of(session, request.branch)
    outside = [position for position in request.positions if not 0 <= position < tip.size]
    if outside:
        raise NotFoundError(
            f"session {session.name!r} has no event at position {outside[0]} (its size is {tip.size}); nothing was erased"
        )
    if request.step == "record":
        erased = list(zip(request.positions, request.leaves, strict=True))
        _record_erased(tx, session.id, erased, request.reason, request.actor)
    else:
        erased = tx.erase(request.branch, request.positions)
        on_record = frozenset(request.leaves)
        unrecorded = [each for each in erased if each[1] not in on_record]
        _record_erased(tx, session.id, unrecorded, request.reason, request.actor)
    return Receipt(
        session.id, tip.branch_id, tip.size, tuple(tip.peaks), positions=tuple(position for position, _ in erased)
    )


def _record_erased(
    tx: Transaction, session_id: str, erased: Sequence[tuple[int, bytes]], reason: str, actor: str | None = None
) -> None:
    for start in range(0, len(erased), ERASE_RECORD_EVENTS):
        events = [(position, leaf.hex()) for position, leaf in erased[start : start + ERASE_RECORD_EVENTS]]
        tx.insert_ledger(EraseRecord(actor=_named(actor), events=events, session=session_id, t=tx.now), reason)


def _named(actor: str | None) -> str | msgspec.UnsetType:
    return msgspec.UNSET if actor is None else actor


def _delete(tx: Transaction, request: Delete) -> Receipt:
    session = tx.session(request.session_id)
    ending = [session]
    known = {session.key}
    for dying in ending:  # grows while it is walked: forks of forks
        forks = [fork for fork in tx.living_forks(dying.key) if fork.key not in known]
        known.update(fork.key for fork in forks)
        ending.extend(forks)
    if len(ending) > 1 and not request.cascade:
        raise forked(session.name, [fork.name for fork in ending[1:]])
    tip = tx.tip(session.id)
    for dying in reversed(ending):
        branches = [(branch.id, branch.size, branch.head().root) for branch in tx.branches(dying.key)]
        for start in range(0, max(1, len(branches)), DELETE_RECORD_BRANCHES):
            some = branches[start : start + DELETE_RECORD_BRANCHES]
            tx.insert_ledger(
                DeleteRecord(actor=_named(request.actor), branches=some, session=dying.id, t=tx.now), request.reason
            )
        tx.end_session(dying.key)
    return Receipt(session.id, tip.branch_id, tip.size, tuple(tip.peaks))


def _put_snapshots(tx: Transaction, request: PutSnapshots) -> Receipt:
    tip = tx.tip(request.session_id)
    kept = request.snapshots if tx.erasures(tip.branch) == request.erasures else ()
    tx.put_snapshots(kept)
    return Receipt(request.session_id, tip.branch_id, tip.size, tuple(tip.peaks), count=len(kept))
