"""The seal that a bundle carries: records of heads and of erasures, each with its path to one seal of the store's ledger.

1. The seal is read before what it is to vouch for: no head that it covers is then of more events than the bundle holds.
2. A head vouches for its whole line, so only a session's own branches need one.
3. Whoever imports holds the records against the seal, and the heads against the events. Who signed the seal, a reader with a pinned key
   decides (verifier.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

import msgspec

from everlog.core.event import Head
from everlog.core.ledger import HeadRecord, read_record
from everlog.core.limits import PAGE_EVENTS_MAX, SAFE_INTEGER_MAX
from everlog.core.merkle import DIGEST_BYTES, NodeReader, inclusion_proof, leaf_hash, verify_inclusion
from everlog.core.note import parse_checkpoint, parse_note
from everlog.core.proof import by_one_read
from everlog.ledger_audit import covered
from everlog.sealed import SealRow
from everlog.storage import Storage

SEALS_FORMAT: Final = "everlog/1/seals"


class SealedRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record of the ledger at its place. path: hex, to the root of what is sealed. record: canonical JSON."""

    index: int
    path: tuple[str, ...]
    record: str


class Attestation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A seal and what it vouches for. note: the signed checkpoint."""

    note: str
    records: tuple[SealedRecord, ...]
    v: str


_encode: Final = msgspec.json.Encoder().encode
_decoder: Final = msgspec.json.Decoder(Attestation)


def last_seal(storage: Storage) -> SealRow | None:
    """Read the newest seal that a store keeps."""
    return next(iter(storage.seals(SAFE_INTEGER_MAX, 1)), None)


def head_places(storage: Storage, seal: SealRow, branches: Iterable[tuple[str, int]]) -> list[int]:
    """Find the places of the largest heads that a seal covers. branches: (id, size) of each; where there is none, none."""
    places: list[int] = []
    for branch, size in branches:
        reached = covered(storage, branch, size, seal.size)
        place = storage.head_place(branch, reached, seal.size) if reached else None
        if place is not None:
            places.append(place)
    return places


def record_places(storage: Storage, seal: SealRow, records: Iterable[bytes]) -> list[int]:
    """Find the places of records below a seal. It reads the ledger back from the seal to the first of them.

    Where records of the ledger are gone it ends: what lies below them is in no place that can be told.
    """
    leaves = {leaf_hash(record) for record in records}
    places: list[int] = []
    stop = seal.size
    while leaves and stop > 0:
        start = max(0, stop - PAGE_EVENTS_MAX)
        rows = storage.placed(start, stop)
        if len(rows) != stop - start:
            break
        for place, row in enumerate(rows, start):
            if row.leaf in leaves:
                leaves.discard(row.leaf)
                places.append(place)
        stop = start
    return places


def sealed_record(storage: Storage, seal: SealRow, place: int) -> SealedRecord:
    """Give the record at a place below a seal, with its path."""
    path = by_one_read(partial(_path, place, seal.size), storage.ledger_nodes)
    return SealedRecord(place, tuple(step.hex() for step in path), storage.placed(place, place + 1)[0].record.decode())


def attest(storage: Storage, seal: SealRow, places: Iterable[int]) -> bytes:
    """Give a seal with the records at these places, in its one form."""
    records = tuple(sealed_record(storage, seal, place) for place in sorted(set(places)))
    return _encode(Attestation(seal.note.decode(), records, SEALS_FORMAT)) + b"\n"


def _path(place: int, size: int, node: NodeReader) -> Sequence[bytes]:
    return inclusion_proof(place, size, node)


def read_attestation(raw: bytes) -> list[HeadRecord]:
    """Check that the records of an attestation stand in what is sealed; give the heads among them. ValueError."""
    try:
        read = _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"its seal cannot be read ({error})") from error
    if read.v != SEALS_FORMAT or _encode(read) + b"\n" != raw:
        raise ValueError(f"its seal is not in the one form of {SEALS_FORMAT}")
    head = parse_checkpoint(parse_note(read.note.encode()).text).head
    heads: list[HeadRecord] = []
    for each in read.records:
        record = each.record.encode()
        if not stands(each, head):
            raise ValueError(f"the record {each.index} of its seal does not stand in the ledger that is sealed")
        if b'"kind":"head"' in record:
            heads.append(read_record(record, HeadRecord))
    return heads


def stands(each: SealedRecord, head: Head) -> bool:
    """Tell whether a record stands in the ledger with this head. ValueError where its path is none."""
    path = [bytes.fromhex(step) for step in each.path]
    exact = all(len(step) == DIGEST_BYTES and step.hex() == text for step, text in zip(path, each.path, strict=True))
    leaf, root = leaf_hash(each.record.encode()), bytes.fromhex(head.root)
    return exact and verify_inclusion(leaf=leaf, index=each.index, size=head.size, proof=path, root=root)
