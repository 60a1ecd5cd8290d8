"""Making proofs of one line of events, from the tree nodes that its events store: O(log n) rows read, in one go."""

from __future__ import annotations

from functools import partial

from everlog.core.decide import EventRow, damaged_in, header_of
from everlog.core.event import Head
from everlog.core.header import encode_header
from everlog.core.ledger import HeadRecord, read_record
from everlog.core.limits import PROOF_EVENTS_MAX, SAFE_INTEGER_MAX
from everlog.core.lineage import common_ancestor
from everlog.core.merkle import inclusion_proof, leaf_hash
from everlog.core.proof import (
    ConsistencyProof,
    EventProof,
    ForkProof,
    ProvenEvent,
    RangeProof,
    by_one_read,
    prove_consistency,
    prove_event,
    prove_range,
)
from everlog.core.sealed_proof import SealedProof
from everlog.errors import CorruptionError, InvalidPlaceError, LimitError, NotFoundError
from everlog.reader import BranchReader, PlaceLike, View, head_at, resolve_cut, resolve_event
from everlog.storage import Storage


class ProofReader(BranchReader):
    """Proves what one line of events holds."""

    def prove(self, place: PlaceLike, *, at: PlaceLike | Head = "end", body: bool = True) -> EventProof:
        """Prove that an event stands in this line at a head, which is the one that the proof is checked against.

        at: a head, or a cut; the end by default. body: show the event's body and its salt too. O(log size) reads.
        """
        view = self.view()
        position = resolve_event(self.storage, view, place)
        return _prove_event(self.storage, view, position, self._size_at(view, at), body=body)

    def prove_sealed(self, place: PlaceLike, *, body: bool = True) -> SealedProof:
        """Prove that an event stands in this line, up to a seal: it is checked with the key of the ledger alone, offline.

        body: show the event's body and its salt too. NotFoundError where no seal covers it yet.
        """
        view = self.view()
        return _prove_sealed(self.storage, view, resolve_event(self.storage, view, place), body=body)

    def prove_range(
        self, start: PlaceLike, stop: PlaceLike, *, at: PlaceLike | Head = "end", body: bool = True
    ) -> RangeProof:
        """Prove that the events between two cuts, at most PROOF_EVENTS_MAX, stand in this line one after another; see `prove`."""
        view = self.view()
        low, high = self._clamped_cut(view, start), self._clamped_cut(view, stop)
        return _prove_range(self.storage, view, low, high, self._size_at(view, at), body=body)

    def prove_consistency(self, old: PlaceLike | Head, new: PlaceLike | Head = "end") -> ConsistencyProof:
        """Prove that this line at the head `new` begins with all that it was at the head `old`: nothing was changed since."""
        view = self.view()
        return _prove_consistency(self.storage, view, self._size_at(view, old), self._size_at(view, new))

    def prove_fork(self, other: ProofReader) -> ForkProof:
        """Prove that this line and another of the same store are the same up to where they part. Both as they are now."""
        if other.storage is not self.storage:
            raise InvalidPlaceError("the other line is in another store; nothing was made; copy it here first")
        return _prove_fork(self.storage, self.view(), other.view())

    def _size_at(self, view: View, place: PlaceLike | Head) -> int:
        if not isinstance(place, Head):
            return resolve_cut(self.storage, view, place)
        return _check_head(self.storage, view, place)


def _prove_event(storage: Storage, view: View, position: int, size: int, *, body: bool) -> EventProof:
    """Prove that an event stands in the first `size` events of a line. body: show it too."""
    _check_within(position, position + 1, size)
    (event,) = _proven(storage, view, position, position + 1, body=body)
    return prove_event(event, position, head_at(storage, view, size), partial(storage.tree_nodes, view.lineage))


def _prove_sealed(storage: Storage, view: View, position: int, *, body: bool) -> SealedProof:
    seal = next(iter(storage.seals(SAFE_INTEGER_MAX, 1)), None)
    index = None if seal is None else storage.head_place(view.branch.id, position + 1, seal.size)
    if seal is None or index is None:
        raise NotFoundError(
            f"no seal covers event {position} of session {view.lineage.session!r} on this line yet; nothing was made; seal first: "
            "`everlog seal`"
        )
    record = storage.placed(index, index + 1)[0].record
    try:
        head = read_record(record, HeadRecord).head
    except ValueError as error:
        raise CorruptionError(
            f"the ledger's record {index} is not what the index of heads says ({error}); nothing was made; `everlog verify`"
        ) from error
    inner = _prove_event(storage, view, position, head.size, body=body)
    path = by_one_read(lambda node: inclusion_proof(index, seal.size, node), storage.ledger_nodes)
    return SealedProof(inner.event, inner.path, record, index, tuple(path), seal.note)


def _prove_range(storage: Storage, view: View, start: int, stop: int, size: int, *, body: bool) -> RangeProof:
    """Prove that the events [start, stop) stand in the first `size` events of a line. body: show them too."""
    _check_within(start, stop, size)
    if stop - start > PROOF_EVENTS_MAX:
        raise LimitError(
            f"a proof of {stop - start} events was asked for where one holds at most {PROOF_EVENTS_MAX}; nothing was made; make several"
        )
    events = _proven(storage, view, start, stop, body=body)
    return prove_range(events, start, head_at(storage, view, size), partial(storage.tree_nodes, view.lineage))


def _check_head(storage: Storage, view: View, head: Head) -> int:
    """Give the size of a head of a line; InvalidPlaceError where it is none of it."""
    if not 0 <= head.size <= view.size or head_at(storage, view, head.size) != head:
        raise InvalidPlaceError(
            f"{str(head)[:100]} is no head of this line, which has {view.size} events; nothing was made; it may be of another branch, or "
            "not of this session"
        )
    return head.size


def _prove_consistency(storage: Storage, view: View, old: int, new: int) -> ConsistencyProof:
    """Prove that the first `new` events of a line begin with its first `old`."""
    if not 1 <= old <= new:
        raise InvalidPlaceError(
            f"there is no proof from {old} to {new} events of a line; nothing was made; the older head has at least one event, and not "
            "more than the newer"
        )
    heads = head_at(storage, view, old), head_at(storage, view, new)
    return prove_consistency(*heads, partial(storage.tree_nodes, view.lineage))


def _prove_fork(storage: Storage, one: View, other: View) -> ForkProof:
    """Prove that two lines are the same up to where they part."""
    cut = common_ancestor(one.lineage, other.lineage, one_size=one.size, other_size=other.size)
    if cut == 0:
        raise InvalidPlaceError(
            "the two lines share no event, so none is a fork of the other; nothing was made; name lines of one family"
        )
    first = _prove_consistency(storage, one, cut, one.size)
    second = _prove_consistency(storage, other, cut, other.size)
    return ForkProof(cut=first.old, one=first.new, one_path=first.path, other=second.new, other_path=second.path)


def _check_within(start: int, stop: int, size: int) -> None:
    if not 0 <= start < stop <= size:
        raise InvalidPlaceError(
            f"the events {start} to {stop} do not stand in a line of {size}; nothing was made; name at least one that does"
        )


def _proven(storage: Storage, view: View, start: int, stop: int, *, body: bool) -> list[ProvenEvent]:
    """Give the events [start, stop) with the headers that their leaves were made of, as they are rebuilt from their columns."""
    previous = None if start == 0 else storage.leaf_at(view.lineage, start - 1)[0]
    key_salt = storage.session_of(view.branch.key).family.key_salt
    events: list[ProvenEvent] = []
    while len(events) < stop - start:
        for row in storage.rows(view.lineage, start + len(events), stop, as_stored=not body):
            writer = view.lineage.owner(row.position).writer
            events.append(_proven_row(row, writer=writer, previous=previous, key_salt=key_salt, body=body))
            previous = row.leaf
    return events


def _proven_row(row: EventRow, *, writer: str, previous: bytes | None, key_salt: bytes, body: bool) -> ProvenEvent:
    try:
        column = damaged_in(row)
        if column is not None:
            raise ValueError(f"its {column} cannot be what was written")
        text = row.body.decode() if body and row.body is not None else ""
        header = encode_header(header_of(row, writer=writer, previous=previous, key_salt=key_salt))
    except ValueError as error:
        raise CorruptionError(
            f"event {row.position} has no proof: {error}; nothing was made; `everlog verify` says what else does not hold"
        ) from error
    if leaf_hash(header) != row.leaf:
        raise CorruptionError(
            f"event {row.position} has no proof: its columns are not what its leaf was made of; nothing was made; `everlog verify` says "
            "what else does not hold"
        )
    if not body or row.body is None or row.salt is None:
        return ProvenEvent(header=header.decode())
    return ProvenEvent(header=header.decode(), body=text, salt=row.salt.hex())
