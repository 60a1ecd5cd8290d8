"""Decide an append: given a branch's tip and what is proposed, the rows to record, or a refusal. FORMAT §3's order.

1. Keys first: a repeated key gives back what it recorded, whatever else has happened since (law 5).
2. Then the lease (core/lease.py), then `expected` (law 4).
3. Then positions without gaps, times that never go back (law 7), headers, leaves and nodes.
Nothing is written before all of it holds, so a refusal writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from types import NoneType
from typing import Final, Literal, NoReturn, cast

import msgspec

from everlog.core.event import Cause, Event, Head, PreparedEvent, encode_attached
from everlog.core.header import FORMAT, Header, commit_key, encode_header
from everlog.core.lease import LeaseToken
from everlog.core.merkle import DIGEST_BYTES, leaf_hash, push_leaf, root_of_peaks
from everlog.errors import CorruptionError, KeyReusedError, SessionExistsError

Repeats = Literal["refuse", "skip"]


class Tip(msgspec.Struct):
    """The growing end of a branch, as read inside the transaction; appending moves it on.

    session, branch: the store's own keys. peaks: of the lineage's tree, largest first. leaf: of the last event.
    recorded: microseconds of the last event, 0 for none.
    """

    session: int
    session_id: str
    name: str
    branch: int
    branch_id: str
    writer: str
    size: int
    peaks: list[bytes]
    leaf: bytes | None
    recorded: int
    key_salt: bytes

    def head(self) -> Head:
        return Head(self.size, root_of_peaks(self.peaks).hex())


class EventRow(msgspec.Struct, frozen=True, gc=False):
    """An event's stored columns. Of an erased one body and salt are None; of a deleted one all but leaf and nodes."""

    position: int
    type: str | None
    actor: str | None
    outcome: str | None
    recorded: int | None
    occurred: int | None
    cause: bytes | None
    key: str | None
    key_count: int | None  # events that the key covers, when more than one
    key_hash: bytes | None  # only where the key is hashed in the header and its plain form is not known here
    covers: str | None  # JSON [[start, stop, hex hash], …] of a summary
    gone: int | None
    attached: str | None
    commitments: bytes | None
    leaf: bytes
    nodes: bytes
    salt: bytes | None
    body: bytes | None


# What a file may hold in an event's columns unless it is damaged: SQLite lets any value stand in any column.
_COLUMN_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "position": (int,),
    "type": (str,),
    "actor": (str, NoneType),
    "outcome": (str, NoneType),
    "recorded": (int,),
    "occurred": (int, NoneType),
    "cause": (bytes, NoneType),
    "key": (str, NoneType),
    "key_count": (int, NoneType),
    "key_hash": (bytes, NoneType),
    "covers": (str, NoneType),
    "gone": (int, NoneType),
    "attached": (str, NoneType),
    "commitments": (bytes, NoneType),
    "leaf": (bytes,),
    "nodes": (bytes,),
    "salt": (bytes, NoneType),
    "body": (bytes, NoneType),
}
EVENT_COLUMNS: Final = (
    "position", "type", "actor", "outcome", "recorded", "occurred", "cause", "key", "gone", "attached", "leaf", "body",
)  # fmt: skip
SOUND_COLUMNS: Final = frozenset(
    product(*(_COLUMN_TYPES[name] for name in EVENT_COLUMNS))
)  # all 256 that may stand together


def damaged_column(names: Sequence[str], values: Sequence[object]) -> str | None:
    """Give the first column that holds a value of another type than any that was written; None where all are of theirs."""
    for name, value in zip(names, values, strict=True):
        if type(value) not in _COLUMN_TYPES[name]:
            return name
    return None


def damaged_event(session: str, position: object, what: str) -> CorruptionError:
    """Give the error for an event whose stored columns are not what was written."""
    return CorruptionError(
        f"event {session!r}@{position} is damaged: {what}; nothing was changed; keep a copy of the store as it is, see what verify says, "
        "and restore a backup"
    )


def is_sound(row: EventRow) -> bool:
    """Tell whether each column that a row's hashes say holds what an append writes. A deleted row has no more than leaf and nodes."""
    # Written out, since it is asked of each event that is packed or exported: a loop over the names takes four times as long.
    return (
        type(row.type) is str
        and type(row.recorded) is int
        and type(row.leaf) is bytes
        and type(row.commitments) is bytes
        and (type(row.body) is bytes or row.body is None)
        and (type(row.salt) is bytes or row.salt is None)
        and (row.actor is None or type(row.actor) is str)
        and (row.outcome is None or type(row.outcome) is str)
        and (row.occurred is None or type(row.occurred) is int)
        and (row.cause is None or type(row.cause) is bytes)
        and (row.key is None or type(row.key) is str)
        and (row.key_count is None or type(row.key_count) is int)
        and (row.key_hash is None or type(row.key_hash) is bytes)
        and (row.covers is None or type(row.covers) is str)
        and (row.gone is None or type(row.gone) is int)
        and (row.attached is None or type(row.attached) is str)
    )


def check_row(row: EventRow, session: str) -> None:
    """Raise CorruptionError where a row is not sound."""
    if not is_sound(row):
        raise damaged_event(session, row.position, f"its {damaged_in(row) or 'commitments'} cannot be what was written")


def damaged_in(row: EventRow) -> str | None:
    """Give the first column of a row that holds a value of another type than any that was written."""
    return damaged_column(row.__struct_fields__, msgspec.structs.astuple(row))


def forked(session: str, forks: Sequence[str]) -> SessionExistsError:
    """Give the error for a session that is not deleted, since others that live were forked from it."""
    names = ", ".join(repr(fork) for fork in forks[:5])
    more = "" if len(forks) <= 5 else f" and {len(forks) - 5} more"
    return SessionExistsError(
        f"session {session!r} shares events with its forks {names}{more}; nothing was deleted; delete them first, "
        "or pass cascade=True to delete them too"
    )


class Expected(msgspec.Struct, frozen=True):
    """Where the writer last saw the session: branch (id), size, and the root (hex) where it gave a Head."""

    branch_id: str
    size: int
    root: str | None


class Batch(msgspec.Struct, frozen=True):
    """What one append proposes. key: of the whole append. repeats: what becomes of events whose key is recorded.

    lease: of the writer, where it holds one. branch: the id of the branch that must be current, for one who cares for no size.
    """

    events: tuple[PreparedEvent, ...]
    expected: Expected | None = None
    key: str | None = None
    repeats: Repeats = "refuse"
    lease: LeaseToken | None = None
    branch: str | None = None

    def keys(self) -> list[str]:
        """Give every key of the append, its own first."""
        own = [] if self.key is None else [self.key]
        return own + [event.key for event in self.events if event.key is not None]


class StaleExpectationError(Exception):
    """The tip is not where the writer expected it; the service turns this into a ConflictError with what was missed."""

    def __init__(self, *, branch_id: str, head: Head) -> None:
        super().__init__(branch_id, head)
        self.branch_id = branch_id
        self.head = head


class RecordedEvents(msgspec.Struct, frozen=True):
    """What a key has recorded: the events it covers, in order, and the writer that they were hashed under."""

    writer: str
    rows: Sequence[EventRow]


Recorded = Mapping[str, RecordedEvents]


class Decided(msgspec.Struct, frozen=True):
    """The rows that an append gives back, one for each event of the batch; writers: of those recorded before."""

    rows: list[EventRow]
    writers: Mapping[int, str] = {}


def decide_append(
    tip: Tip, batch: Batch, recorded: Recorded, *, now: int, guard: Callable[[Batch], None] | None = None
) -> Decided:
    """Give the rows that an append records, one for each event of the batch, in its order.

    tip: moved on past the new rows; unchanged where this raises. guard: raises FencedError where the lease refuses it.
    recorded: for each of the batch's keys that stands in the lineage, the events it covers.
    Rows that were recorded before stand in the result with their old, smaller positions.
    Raises KeyReusedError, or StaleExpectationError when `expected` is given and is not where the tip is.
    """
    rows: list[EventRow | None] = [None] * len(batch.events)
    writers: dict[int, str] = {}
    if recorded:
        writers = _match_repeats(tip, batch, recorded, rows)
        if None not in rows:
            return Decided(cast("list[EventRow]", rows), writers)
    if guard is not None:
        guard(batch)
    if batch.branch is not None and batch.branch != tip.branch_id:
        raise StaleExpectationError(branch_id=tip.branch_id, head=tip.head())
    expected = batch.expected
    if expected is not None:
        check_expected(tip, expected)
    append_key = batch.key
    count = len(batch.events)
    for index, event in enumerate(batch.events):
        if rows[index] is None:
            key = append_key if index == 0 and append_key is not None else event.key
            covered = count if key is append_key and append_key is not None and count > 1 else None
            rows[index] = record(tip, event, key=key, key_count=covered, now=now)
    return Decided(cast("list[EventRow]", rows), writers)


def check_expected(tip: Tip, expected: Expected) -> None:
    """Raise StaleExpectationError unless the tip is where the writer last saw it."""
    if tip.branch_id != expected.branch_id or tip.size != expected.size:
        raise StaleExpectationError(branch_id=tip.branch_id, head=tip.head())
    if expected.root is not None and root_of_peaks(tip.peaks).hex() != expected.root:
        raise StaleExpectationError(branch_id=tip.branch_id, head=tip.head())


def record(tip: Tip, event: PreparedEvent, *, key: str | None, key_count: int | None, now: int) -> EventRow:
    """Give an event its position, time, leaf and nodes at the tip, and move the tip past it."""
    position = tip.size
    recorded = max(tip.recorded, now)
    commitments = event.commitments
    cause = event.cause
    covers = event.covers
    header = Header(
        a=event.actor,
        b=tip.writer,
        c=[commitments.hex()] if len(commitments) == DIGEST_BYTES else split_commitments(commitments),
        g=[{"a": start, "h": digest.hex(), "z": stop} for start, stop, digest in covers] if covers else None,
        k=None if key is None else commit_key(tip.key_salt, key).hex(),
        m=key_count,
        n=position,
        o=event.outcome,
        p=None if tip.leaf is None else tip.leaf.hex(),
        r=None if cause is None else cause[-DIGEST_BYTES:].hex(),
        t=recorded,
        v=FORMAT,
        w=event.occurred,
        y=event.type,
    )
    leaf = leaf_hash(encode_header(header))
    nodes = push_leaf(tip.peaks, position, leaf)
    tip.size = position + 1
    tip.leaf = leaf
    tip.recorded = recorded
    return EventRow(
        position,
        event.type,
        event.actor,
        event.outcome,
        recorded,
        event.occurred,
        cause,
        key,
        key_count,
        None,
        _encode_covers(covers) if covers else None,
        None,
        encode_attached(event.attachments) if event.attachments else None,
        commitments,
        leaf,
        nodes,
        event.salt,
        event.body,
    )


def header_of(row: EventRow, *, writer: str, previous: bytes | None, key_salt: bytes) -> Header:
    """Rebuild the header of a stored row, from its columns alone.

    previous: leaf of the event before it in the lineage, None at 0.
    Raises ValueError where a deleted row has no columns left to rebuild it from.
    """
    if row.type is None or row.recorded is None or row.commitments is None:
        raise ValueError("the row's columns were destroyed")
    key_hash = row.key_hash if row.key is None else commit_key(key_salt, row.key)
    return Header(
        a=row.actor,
        b=writer,
        c=split_commitments(row.commitments),
        g=None if row.covers is None else [{"a": a, "h": h, "z": z} for a, z, h in decode_covers(row.covers)],
        k=None if key_hash is None else key_hash.hex(),
        m=row.key_count,
        n=row.position,
        o=row.outcome,
        p=None if previous is None else previous.hex(),
        r=None if row.cause is None else row.cause[-DIGEST_BYTES:].hex(),
        t=row.recorded,
        v=FORMAT,
        w=row.occurred,
        y=row.type,
    )


def event_of(row: EventRow, session: str, branch_id: str, writer: str, repeated: bool = False) -> Event:  # noqa: FBT001, FBT002
    """Give the event that a row holds, as read through a session and branch."""
    return Event(
        session,
        branch_id,
        writer,
        row.position,
        row.type or "",
        row.actor,
        row.outcome,  # pyright: ignore[reportArgumentType]  # checked when it was prepared
        row.recorded or 0,
        row.occurred,
        row.cause,
        row.key,
        row.gone,
        row.attached,
        row.leaf,
        row.body,
        repeated,
    )


def split_commitments(commitments: bytes) -> list[str]:
    """Give joined commitments as a list of hex digests."""
    if len(commitments) == DIGEST_BYTES:
        return [commitments.hex()]
    return [commitments[at : at + DIGEST_BYTES].hex() for at in range(0, len(commitments), DIGEST_BYTES)]


def decode_covers(covers: str) -> list[tuple[int, int, str]]:
    """Give the ranges of a summary's column: start, stop, hex tree hash. msgspec.MsgspecError where it holds none."""
    return msgspec.json.decode(covers, type=list[tuple[int, int, str]])


def _encode_covers(covers: Sequence[tuple[int, int, bytes]]) -> str:
    return msgspec.json.encode([(start, stop, digest.hex()) for start, stop, digest in covers]).decode()


def _match_repeats(tip: Tip, batch: Batch, recorded: Recorded, rows: list[EventRow | None]) -> dict[int, str]:
    """Fill in the rows that the batch's keys recorded before, or refuse; give their writers by position."""
    if batch.key is not None and batch.key in recorded:
        covered = recorded[batch.key]
        if len(covered.rows) != len(batch.events):
            _refuse_reuse(tip, batch.key, covered, _covering(covered, len(batch.events)))
        for index, event in enumerate(batch.events):
            _check_same(tip, batch.key, event, covered, index)
            rows[index] = covered.rows[index]
        return {row.position: covered.writer for row in covered.rows}
    writers: dict[int, str] = {}
    for index, event in enumerate(batch.events):
        if event.key is None or event.key not in recorded:
            continue
        covered = recorded[event.key]
        if len(covered.rows) != 1:
            _refuse_reuse(tip, event.key, covered, f"covered an append of {len(covered.rows)} events")
        _check_same(tip, event.key, event, covered, 0)
        rows[index] = covered.rows[0]
        writers[covered.rows[0].position] = covered.writer
    if None in rows and batch.repeats != "skip" and writers:
        first = next(event.key for event, row in zip(batch.events, rows, strict=True) if row is not None)
        raise KeyReusedError(
            f"{len(writers)} of the append's {len(rows)} events are recorded in session {tip.name!r} already (the first "
            f"under key {first!r:.100}); nothing was written; pass repeats='skip' to append only the others, or give "
            "the whole append one key="
        )
    return writers


def _covering(covered: RecordedEvents, events: int) -> str:
    recorded = covered.rows[0].key_count or 1
    here = "" if len(covered.rows) == recorded else f", of which {len(covered.rows)} are on this branch"
    return f"covered {recorded} events{here}, and this append has {events}"


def _check_same(tip: Tip, key: str, event: PreparedEvent, covered: RecordedEvents, index: int) -> None:
    """Refuse unless the event is the one that the key recorded; an erased body can no longer differ."""
    row = covered.rows[index]
    cause = None if event.cause is None else Cause.unpack(event.cause).leaf
    recorded_cause = None if row.cause is None else Cause.unpack(row.cause).leaf
    for what, new, old in (
        ("type", event.type, row.type),
        ("actor", event.actor, row.actor),
        ("outcome", event.outcome, row.outcome),
        ("occurred_at", event.occurred, row.occurred),
        ("caused_by", cause, recorded_cause),
        ("body", event.body, event.body if row.body is None else row.body),
        ("attachments", encode_attached(event.attachments) if row.body is not None else row.attached, row.attached),
    ):
        if new != old:
            _refuse_reuse(tip, key, covered, f"recorded another {what}")


def _refuse_reuse(tip: Tip, key: str, covered: RecordedEvents, difference: str) -> NoReturn:
    row = covered.rows[0]
    raise KeyReusedError(
        f"key {key!r:.100} was used at position {row.position} of session {tip.name!r} and {difference}; nothing was "
        "written; use a new key for new content, or repeat the append exactly",
        event=event_of(row, session=tip.name, branch_id=tip.branch_id, writer=covered.writer),
    )
