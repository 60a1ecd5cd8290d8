"""Certificates: what was erased, when, by whom and why, with the ledger's records that say so; and their checking.

1. A certificate names events by session (its internal id), position and leaf, and no words of what was erased. The reason is what was
   given with the erasure.
2. Its head is that of the line at the size before the erasure, derived again from what is stored after it: erasing changes no head.
3. It is made from the ledger, so it can be made at any time. Where its records are sealed it holds the last seal and the path of each:
   whoever holds only the certificate and pins a key checks that they were said, whoever holds the store all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from everlog.attesting import SealedRecord, last_seal, record_places, sealed_record, stands
from everlog.context.tree import read_positions
from everlog.core import limits
from everlog.core.decide import event_of
from everlog.core.event import Event, Head
from everlog.core.ledger import EraseRecord, read_erase_record, record_hash
from everlog.core.merkle import peak_places, root_of_peaks
from everlog.core.note import Checkpoint, parse_checkpoint, parse_note
from everlog.core.position import format_micros
from everlog.core.sealed_proof import open_pinned
from everlog.errors import CorruptionError, InvalidEventError, NotFoundError, TamperedError
from everlog.reader import View
from everlog.sealed import SealRow
from everlog.storage import SessionRow, Storage

CERTIFICATE_FORMAT: Final = "everlog/1/certificate"
_FAULTS_MAX: Final = 100
_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


class CertifiedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the ledger. entry: its number in this store. record: its canonical JSON. hash: its leaf in the ledger's tree, 64 hex digits.

    reason: as it was given; it is not part of what is hashed. index, path: of the record in the tree that is sealed, the path in hex.
    """

    entry: int
    hash: str
    index: int | None = None
    path: tuple[str, ...] = ()
    reason: str | None
    record: str


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """That events were erased. store, session, branch: internal ids. at: when this was made.

    size, root: the head of the line before the erasure, which is the same after it. positions: of the line's events whose bodies were
    destroyed now; before: of those that were asked for and had been erased before. records: that say all of it, and which summaries
    went with them; each names the time and, where it was given, the actor. seal: the signed checkpoint of a ledger that has all of
    them; None where there was none yet.
    """

    at: str
    before: tuple[int, ...]
    branch: str
    positions: tuple[int, ...]
    records: tuple[CertifiedRecord, ...]
    root: str
    seal: str | None = None
    session: str
    size: int
    store: str
    v: str = CERTIFICATE_FORMAT

    @property
    def head(self) -> Head:
        """The head of the line, before the erasure and after it."""
        return Head(self.size, self.root)

    def encode(self) -> bytes:
        """Give it as one line of JSON."""
        return msgspec.json.encode(self)

    def verify(self, key: str | Sequence[str], *, witnesses: Sequence[str] = (), quorum: int = 0) -> Checkpoint:
        """Raise TamperedError unless its records stand in a ledger sealed under a key that the caller trusts, and say what it says. Give the
        checkpoint.

        key, witnesses, quorum: as of `SealedProof.verify`. NotFoundError where it was made before its records were sealed. Whether the bodies are
        gone, and of what line the events are, the store alone can show.
        """
        if self.seal is None:
            raise NotFoundError(
                "this certificate was made before its records were sealed; nothing of it was checked; have it made again: `everlog certificate "
                "SESSION@PLACE`"
            )
        checkpoint = open_pinned(self.seal.encode(), key, witnesses=witnesses, quorum=quorum)[0]
        named: set[int] = set()
        for each in self.records:
            record = read_erase_record(each.record.encode())
            if record is None or not _is_sealed(each, checkpoint.head):
                raise _fails(f"record {each.entry} does not stand in the ledger that is sealed")
            named.update(position for position, _ in record.events)
        if missing := sorted({*self.positions, *self.before} - named):
            raise _fails(f"none of its records names event {missing[0]}")
        return checkpoint


class Checked(msgspec.Struct, frozen=True):
    """What checking a certificate found. events: that its records name. faults: in words, the first 100 of fault_count."""

    ok: bool
    events: int
    faults: tuple[str, ...]
    fault_count: int


def read_certificate(line: bytes) -> Certificate:
    """Read a certificate from its JSON. Raises InvalidEventError."""
    try:
        read = msgspec.json.decode(line, type=Certificate)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEventError(
            f"this is no certificate ({error!s:.200}); nothing was checked; give a file that `everlog erase --certificate` wrote"
        ) from error
    if read.v != CERTIFICATE_FORMAT:
        raise InvalidEventError(
            f"this is a certificate of format {read.v!r:.50} where {CERTIFICATE_FORMAT!r} is known; nothing was checked"
        )
    if _ID.fullmatch(read.branch) is None or not 0 <= read.size <= limits.SAFE_INTEGER_MAX:
        raise InvalidEventError(
            "this is no certificate (it names no line of events); nothing was checked; give a file that `everlog erase --certificate` wrote"
        )
    return read


def certify(
    storage: Storage,
    session: SessionRow,
    view: View,
    positions: Sequence[int],
    *,
    now_erased: Sequence[int] | None = None,
    beside: Sequence[tuple[View, Sequence[int]]] = (),
) -> Certificate:
    """Make the certificate of erased events of a line.

    positions: in order. now_erased: those that were erased just now; with None all are, and it is NotFoundError where one was not. beside: events of other
    lines that went with them, in order.
    """
    found = _Records(storage)
    certified = found.add(view, positions)
    if now_erased is None and len(certified) < len(positions):
        missing = next(position for position in positions if position not in certified)
        raise NotFoundError(
            f"event {missing} of session {session.name!r} was not erased, or nothing is on record of it; there is no certificate of "
            "that; erase it first"
        )
    for line, wanted in beside:
        found.add(line, wanted)
    now = frozenset(positions if now_erased is None else now_erased)
    head = _derived_head(storage, view, view.size)
    seal, records = _sealed(storage, found.in_order())
    return Certificate(
        at=format_micros(storage.now()),
        before=tuple(position for position in positions if position in certified and position not in now),
        branch=view.branch.id,
        positions=tuple(sorted(now)),
        records=records,
        root=head.root,
        seal=seal,
        session=session.id,
        size=head.size,
        store=storage.id,
    )


def _sealed(storage: Storage, records: tuple[CertifiedRecord, ...]) -> tuple[str | None, tuple[CertifiedRecord, ...]]:
    """Give the last seal, and the records with their places in what it is of; none where it is not of all of them."""
    seal = last_seal(storage)
    if seal is None or not records or not all(_was_there(each, seal) for each in records):
        return None, records
    places = record_places(storage, seal, [each.record.encode() for each in records])
    found = {each.record: each for each in (sealed_record(storage, seal, place) for place in places)}
    if len(found) < len(records):
        return None, records
    replace = msgspec.structs.replace
    return seal.note.decode(), tuple(
        replace(each, index=found[each.record].index, path=found[each.record].path) for each in records
    )


def _was_there(each: CertifiedRecord, seal: SealRow) -> bool:
    """Tell whether a record was written before a seal was kept, by the store's clock: otherwise it is looked for in vain."""
    record = read_erase_record(each.record.encode())
    return record is not None and record.t <= seal.made


def _is_sealed(each: CertifiedRecord, head: Head) -> bool:
    if each.hash != record_hash(each.record.encode()).hex():
        return False
    try:
        return each.index is not None and stands(SealedRecord(each.index, each.path, each.record), head)
    except ValueError:
        return False


def _fails(why: str) -> TamperedError:
    return TamperedError(
        f"the certificate does not hold: {why}; believe nothing in it; have it made again from its store"
    )


def _derived_head(storage: Storage, view: View, size: int) -> Head:
    return Head(size, root_of_peaks(storage.tree_nodes(view.lineage, peak_places(size))).hex())


class _Records:
    """Collects the records that say of events that they were erased, each once."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._found: dict[int, CertifiedRecord] = {}

    def add(self, view: View, positions: Sequence[int]) -> set[int]:
        """Look at events of a line; give the positions of those that were erased and are on record."""
        certified, named = set[int](), frozenset[str]()
        for event in _events_at(self._storage, view, positions):
            if event.erased and event.hash not in named:
                named = self._record_of(event)
            if event.erased and event.hash in named:
                certified.add(event.position)
        return certified

    def _record_of(self, event: Event) -> frozenset[str]:
        """Take in the record of an event; give the leaves that it names."""
        entry = self._storage.erasure(event.leaf)
        record = None if entry is None else read_erase_record(entry.record)
        if entry is None or record is None:
            return frozenset()
        self._found[entry.number] = CertifiedRecord(
            entry=entry.number,
            hash=record_hash(entry.record).hex(),
            reason=entry.reason,
            record=entry.record.decode(),
        )
        return frozenset(leaf for _, leaf in record.events)

    def in_order(self) -> tuple[CertifiedRecord, ...]:
        """Give the records, by number."""
        return tuple(self._found[entry] for entry in sorted(self._found))


def _events_at(storage: Storage, view: View, positions: Sequence[int]) -> Iterator[Event]:
    for start in range(0, len(positions), limits.PAGE_EVENTS_MAX):
        page = positions[start : start + limits.PAGE_EVENTS_MAX]
        try:
            yield from list(read_positions(storage, view, page))
        except CorruptionError:
            # Of what was damaged before it was erased, leaf and what became of it are what is asked for.
            for position in page:
                (row,) = storage.rows(view.lineage, position, position + 1, as_stored=True)
                writer = view.lineage.owner(position).writer
                yield event_of(row, session=view.lineage.session, branch_id=view.branch.id, writer=writer)


# --- checking ------------------------------------------------------------------------------------
class _Faults:
    """Collects what does not hold."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.count = 0

    def add(self, what: str) -> None:
        self.count += 1
        if len(self.first) < _FAULTS_MAX:
            self.first.append(what)


def check_certificate(storage: Storage, certificate: Certificate) -> Checked:
    """Compare a certificate with a store: its records, that what they name is gone, and its head."""
    faults, events = _Faults(), 0
    if certificate.store != storage.id:
        faults.add(f"it is of the store {certificate.store:.32}, and this is {storage.id}")
    named: set[str] = set()
    for each in certificate.records:
        record = read_erase_record(each.record.encode())
        if record is None or record_hash(each.record.encode()).hex() != each.hash:
            faults.add(f"record {each.entry} is not of the hash that it names")
            continue
        events += len(record.events)
        named.update(leaf for _, leaf in record.events)
        _check_record(storage, each, record, faults)
    _check_line(storage, certificate, frozenset(named), faults)
    _check_seal(storage, certificate, faults)
    return Checked(not faults.count, events, tuple(faults.first), faults.count)


def _check_record(storage: Storage, each: CertifiedRecord, record: EraseRecord, faults: _Faults) -> None:
    stored = storage.erasure(bytes.fromhex(record.events[0][1])) if record.events else None
    if stored is None or stored.record != each.record.encode():
        faults.add(f"record {each.entry} does not stand in this store's ledger")
        return  # what it says of events is anybody's word
    try:
        session = storage.session_by_id(record.session)
    except NotFoundError:
        return  # it was deleted since, and what it held with it
    left = dict(record.events)
    for row in storage.branches(session.key):
        view = View(row, storage.lineage(row.key, session.name))
        for event in _events_at(storage, view, sorted(at for at in left if at < row.size)):
            if event.hash == left[event.position]:
                if not event.erased:
                    faults.add(f"event {event.position} of session {session.id} has its body still")
                del left[event.position]
    for position in sorted(left):
        faults.add(f"event {position} of session {session.id} is not the one that record {each.entry} names")


def _check_line(storage: Storage, certificate: Certificate, named: frozenset[str], faults: _Faults) -> None:
    row = storage.branch_by_id(certificate.branch)
    if row is None or row.size < certificate.size:
        faults.add(f"its line {certificate.branch:.32} is not in this store up to {certificate.size}")
        return
    view = View(row, storage.lineage(row.key, ""))
    if _derived_head(storage, view, certificate.size) != certificate.head:
        faults.add(f"its line has another root at {certificate.size}")
    asked = sorted({*certificate.positions, *certificate.before})
    found = {event.position: event for event in _events_at(storage, view, asked)}
    for position in asked:
        if position not in found or found[position].hash not in named:
            faults.add(f"none of its records names event {position}")


def _check_seal(storage: Storage, certificate: Certificate, faults: _Faults) -> None:
    """Compare its seal with the store's ledger; who signed it, a reader with a pinned key decides."""
    if certificate.seal is None:
        return
    try:
        head = parse_checkpoint(parse_note(certificate.seal.encode()).text).head
    except ValueError as error:
        faults.add(f"its seal is none ({error})")
        return
    if head.size > storage.ledger_tree().size or _ledger_head(storage, head.size) != head:
        faults.add(
            f"its seal is of another ledger than this store's, or of more than its {storage.ledger_tree().size} records"
        )
    for each in certificate.records:
        if not _is_sealed(each, head):
            faults.add(f"record {each.entry} does not stand in the ledger that its seal is of")


def _ledger_head(storage: Storage, size: int) -> Head:
    return Head(size, root_of_peaks(storage.ledger_nodes(peak_places(size))).hex())
