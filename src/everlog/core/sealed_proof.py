"""Proofs of sealed events: from an event to the head of its line, from the ledger's record of that head to a signed checkpoint.

1. The file is a C2SP tlog-proof of the ledger's record of a head: whatever reads those can check that part. Its extra data hold the
   record, the event, and the event's path to the head that the record says.
2. It is checked against a key that the reader pinned, whose name is the ledger's origin, and nothing that the file brings along.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from everlog.core.event import Head
from everlog.core.ledger import HeadRecord, read_record
from everlog.core.merkle import leaf_hash, verify_inclusion
from everlog.core.note import Checkpoint, Opened, VerifierKey, open_checkpoint, parse_verifier_key
from everlog.core.proof import EventProof, ProvenEvent, TlogProof, parse_tlog_proof
from everlog.errors import InvalidEventError, TamperedError

SEALED_FORMAT: Final = "everlog/1/sealed"


class _Extra(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands in a proof's extra data. record: canonical JSON of the head's record. path: hex, of the event."""

    event: ProvenEvent
    path: tuple[str, ...]
    record: str
    v: str


_encode: Final = msgspec.json.Encoder().encode
_decoder: Final = msgspec.json.Decoder(_Extra)


class Sealing(msgspec.Struct, frozen=True):
    """What a sealed proof was found to say. times: of cosignatures, seconds since 1970 UTC by the name of the witness."""

    checkpoint: Checkpoint
    record: HeadRecord
    signers: tuple[str, ...]
    times: dict[str, int]


class SealedProof(msgspec.Struct, frozen=True):
    """That an event stands in a line whose head is sealed. index, path: of the record in the ledger. note: the seal."""

    event: ProvenEvent
    event_path: tuple[str, ...]
    record: bytes
    index: int
    path: tuple[bytes, ...]
    note: bytes

    def encode(self) -> bytes:
        """Give the text of the file, a tlog-proof; `read_sealed_proof` reads it."""
        extra = _encode(_Extra(self.event, self.event_path, self.record.decode(), SEALED_FORMAT))
        return TlogProof(self.index, self.path, self.note, extra).encode()

    @property
    def head(self) -> Head:
        """The head that the record says, of the line that the event stands in."""
        try:
            return read_record(self.record, HeadRecord).head
        except ValueError as error:
            raise _fails(str(error)) from error

    @property
    def position(self) -> int:
        """The position of the event, as its header says."""
        return EventProof(event=self.event, head=self.head, path=self.event_path).position

    def verify(self, key: str | Sequence[str], *, witnesses: Sequence[str] = (), quorum: int = 0) -> Sealing:
        """Raise TamperedError unless the proof holds under a key that the caller trusts.

        key: the verifier key of the ledger, or several of one origin. witnesses: verifier keys, of which at least `quorum` must have cosigned.
        """
        checkpoint, opened = open_pinned(self.note, key, witnesses=witnesses, quorum=quorum)
        leaf, root = leaf_hash(self.record), bytes.fromhex(checkpoint.head.root)
        size = checkpoint.head.size
        if not verify_inclusion(leaf=leaf, index=self.index, size=size, proof=self.path, root=root):
            raise _fails("the record of the head does not stand in the ledger that is sealed")
        head = self.head
        EventProof(event=self.event, head=head, path=self.event_path).verify(head)
        signers = tuple(str(each) for each in opened.signers)
        return Sealing(checkpoint, read_record(self.record, HeadRecord), signers, opened.times)


def read_sealed_proof(raw: bytes) -> SealedProof:
    """Read what `encode` gave; TamperedError where it is not exactly that."""
    try:
        outer = parse_tlog_proof(raw)
        extra = _decoder.decode(outer.extra or b"")
        if extra.v != SEALED_FORMAT or _encode(extra) != outer.extra:
            raise ValueError(f"its extra data are not in the one form of {SEALED_FORMAT}")
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise _fails(str(error)) from error
    return SealedProof(extra.event, extra.path, extra.record.encode(), outer.index, outer.path, outer.note)


def open_pinned(
    note: bytes, key: str | Sequence[str], *, witnesses: Sequence[str] = (), quorum: int = 0
) -> tuple[Checkpoint, Opened]:
    """Open a seal under a key that the caller trusts; see `SealedProof.verify`. TamperedError where it is not signed as it must be."""
    keys, seen_by = _keys([key] if isinstance(key, str) else key), _keys(witnesses)
    origins = {each.name for each in keys}
    if len(origins) != 1:
        raise InvalidEventError(
            "the keys that are pinned are of no ledger, or of several; nothing was checked; give those of one"
        )
    return open_checkpoint(note, origin=origins.pop(), keys=keys, witnesses=seen_by, quorum=quorum)


def _keys(texts: Sequence[str]) -> list[VerifierKey]:
    try:
        return [parse_verifier_key(text) for text in texts]
    except ValueError as error:
        raise InvalidEventError(f"this is no key to pin: {error}; nothing was checked; give a verifier key") from error


def _fails(why: str) -> TamperedError:
    return TamperedError(
        f"the proof of a sealed event does not hold: {why}; believe nothing in it; get it again from where it was made"
    )
