"""Proofs about a line of events: that an event, or a range of them, stands in it; that a head extends another; that a line is a fork.

1. A proof is checked against heads that the reader holds already, and never against a head that it brings along.
2. It holds what was hashed: a header, byte for byte, and where it is shown, the body under its salt. An event of it is the one that its
   header says, at that position.
3. A range [start, stop) of a tree is proved by the hashes of what lies left and right of it: for each subtree, largest first as the
   root is split, that has no leaf in the range. O(log n) hashes, as with one event.
4. A fork is two consistency proofs from the cut up to which two lines are the same.
5. As JSON a proof has one form, byte for byte: what is not exactly that is refused, and so is a flipped bit that says the same.
6. Within another file a proof is a C2SP tlog-proof: an index, a path, a checkpoint, and opaque data.

Making and checking a path is RFC 9162's, in merkle.py.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from everlog.core.event import Head
from everlog.core.header import Header, check_header, commit_body, decode_header
from everlog.core.limits import PATH_DIGESTS_MAX, PROOF_BYTES_MAX, PROOF_EVENTS_MAX
from everlog.core.merkle import (
    DIGEST_BYTES,
    NodeReader,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    push_leaf,
    range_root,
    root_of_peaks,
    verify_consistency,
    verify_inclusion,
)
from everlog.core.note import decode_base64, parse_number
from everlog.errors import TamperedError

PROOF_FORMAT: Final = "everlog/1/proof"
_TLOG_PROOF: Final = "c2sp.org/tlog-proof@v1"
T = TypeVar("T")


class ProvenEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What an event's leaf was made of. header: its canonical JSON. body, salt: as hashed, and hex; None where they are not shown."""

    header: str
    body: str | None = None
    salt: str | None = None

    @property
    def leaf(self) -> bytes:
        return leaf_hash(self.header.encode())

    def read(self) -> Header:
        """Read the header, and hold the body against it; ValueError."""
        header = decode_header(self.header.encode())
        check_header(header)
        if (self.body is None) != (self.salt is None):
            raise ValueError("a body stands without its salt, or a salt without its body")
        if self.body is None or self.salt is None:
            return header
        if commit_body(_digest(self.salt), self.body.encode()).hex() != header.c[0]:
            raise ValueError("its body is not the one that its header commits to")
        return header


class _Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """What all proofs have. v: PROOF_FORMAT."""

    what: ClassVar[str]
    v: str = PROOF_FORMAT

    def encode(self) -> bytes:
        """Give the proof as JSON, in its one form; `read_proof` reads it."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


class EventProof(_Proof, frozen=True, tag="event"):
    """That an event stands at a position of the line with this head. path: hex, the leaf's side first (RFC 9162 §2.1.3)."""

    what: ClassVar[str] = "an event"
    event: ProvenEvent
    head: Head
    path: tuple[str, ...]

    @property
    def position(self) -> int:
        return _checked(self.event.read, self).n

    def verify(self, head: Head) -> None:
        """Raise TamperedError unless the proof holds for a head that the caller trusts."""
        header = _checked(self.event.read, self)
        path = _checked(lambda: _digests(self.path), self)
        _hold(self, head == self.head, "it is of another head")
        root = _checked(lambda: _digest(head.root), self)
        holds = verify_inclusion(leaf=self.event.leaf, index=header.n, size=head.size, proof=path, root=root)
        _hold(self, holds, "its path does not lead to the head's root")


class RangeProof(_Proof, frozen=True, tag="range"):
    """That these events, one after another, stand in the line with this head. hashes: hex, from left to right."""

    what: ClassVar[str] = "a range"
    events: tuple[ProvenEvent, ...]
    hashes: tuple[str, ...]
    head: Head

    @property
    def start(self) -> int:
        return _checked(self.events[0].read, self).n

    def verify(self, head: Head) -> None:
        """Raise TamperedError unless the proof holds for a head that the caller trusts."""
        _hold(self, 0 < len(self.events) <= PROOF_EVENTS_MAX, "it holds no events, or too many")
        headers = [_checked(event.read, self) for event in self.events]
        hashes = _checked(lambda: _digests(self.hashes), self)
        _hold(self, head == self.head, "it is of another head")
        start = headers[0].n
        stop = start + len(headers)
        in_order = all(header.n == position for position, header in enumerate(headers, start=start))
        _hold(self, in_order and stop <= head.size, "its events do not follow one another")
        root = root_around(start, [event.leaf for event in self.events], head.size, hashes)
        _hold(self, root is not None and root.hex() == head.root, "its hashes do not lead to the head's root")


class ConsistencyProof(_Proof, frozen=True, tag="consistency"):
    """That the line with head `new` begins with all of the line with head `old`. path: hex (RFC 9162 §2.1.4)."""

    what: ClassVar[str] = "consistency"
    new: Head
    old: Head
    path: tuple[str, ...]

    def verify(self, *, old: Head, new: Head) -> None:
        """Raise TamperedError unless the proof holds for two heads that the caller trusts."""
        path = _checked(lambda: _digests(self.path), self)
        _hold(self, (old, new) == (self.old, self.new), "it is of other heads")
        holds = verify_consistency(
            old_size=old.size,
            old_root=_checked(lambda: _digest(old.root), self),
            size=new.size,
            root=_checked(lambda: _digest(new.root), self),
            proof=path,
        )
        _hold(self, holds, "its path does not lead from the one root to the other")


class ForkProof(_Proof, frozen=True, tag="fork"):
    """That two lines are the same up to a cut. cut: the head there. one, other: of the lines; the paths lead to them from the cut."""

    what: ClassVar[str] = "a fork"
    cut: Head
    one: Head
    one_path: tuple[str, ...]
    other: Head
    other_path: tuple[str, ...]

    def verify(self, *, one: Head, other: Head) -> None:
        """Raise TamperedError unless the proof holds for the heads of the two lines, which the caller trusts."""
        ConsistencyProof(old=self.cut, new=self.one, path=self.one_path).verify(old=self.cut, new=one)
        ConsistencyProof(old=self.cut, new=self.other, path=self.other_path).verify(old=self.cut, new=other)


Proof = EventProof | RangeProof | ConsistencyProof | ForkProof
_decoder: Final = msgspec.json.Decoder(Proof)


def read_proof(raw: bytes) -> Proof:
    """Read what `encode` gave; TamperedError where it is not exactly that."""
    try:
        if len(raw) > PROOF_BYTES_MAX:
            raise ValueError(f"it has {len(raw)} bytes where at most {PROOF_BYTES_MAX} are read")
        proof = _decoder.decode(raw)
        if proof.v != PROOF_FORMAT or proof.encode() != raw:
            raise ValueError(f"it is not in the one form of {PROOF_FORMAT}")
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise TamperedError(
            f"this is no proof: {error}; believe nothing in it; get it again from where it was made"
        ) from error
    return proof


def _checked(read: Callable[[], T], proof: _Proof) -> T:
    try:
        return read()
    except (ValueError, UnicodeError) as error:
        raise _fails(proof, str(error)) from error


def _hold(proof: _Proof, holds: bool, otherwise: str) -> None:  # noqa: FBT001
    if not holds:
        raise _fails(proof, otherwise)


def _fails(proof: _Proof, why: str) -> TamperedError:
    return TamperedError(
        f"the proof of {proof.what} does not hold: {why}; believe nothing in it; get it again from where it was made"
    )


def _digest(text: str) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != DIGEST_BYTES or digest.hex() != text:
        raise ValueError(f"{text[:80]!r} is not {DIGEST_BYTES} bytes in lower-case hex")
    return digest


def _digests(texts: Sequence[str]) -> list[bytes]:
    if len(texts) > 2 * PATH_DIGESTS_MAX:
        raise ValueError(f"it has {len(texts)} hashes, which no proof has")
    return [_digest(text) for text in texts]


# --- making --------------------------------------------------------------------------------------
NodesReader = Callable[[Sequence[tuple[int, int]]], Sequence[bytes]]  # gives the nodes at places, in their order


def by_one_read(make: Callable[[NodeReader], T], read: NodesReader) -> T:
    """Make what reads single nodes with one read of all of them: it is run twice, at first to learn what it reads."""
    places: dict[tuple[int, int], bytes] = {}

    def note(level: int, index: int) -> bytes:
        places[level, index] = b""
        return b""

    make(note)
    wanted = list(places)
    places.update(zip(wanted, read(wanted), strict=True))
    return make(lambda level, index: places[level, index])


def prove_event(event: ProvenEvent, position: int, head: Head, read: NodesReader) -> EventProof:
    """Prove that an event stands at a position of a line; 0 <= position < head.size."""
    path = by_one_read(lambda node: inclusion_proof(position, head.size, node), read)
    return EventProof(event=event, head=head, path=_hex(path))


def prove_range(events: Sequence[ProvenEvent], start: int, head: Head, read: NodesReader) -> RangeProof:
    """Prove that events stand in a line from `start` on; at least one, and all of them below head.size."""
    stop = start + len(events)
    hashes = by_one_read(lambda node: hashes_around(start, stop, head.size, node), read)
    return RangeProof(events=tuple(events), hashes=_hex(hashes), head=head)


def prove_consistency(old: Head, new: Head, read: NodesReader) -> ConsistencyProof:
    """Prove that a line with head `new` begins with that with head `old`; 1 <= old.size <= new.size."""
    path = by_one_read(lambda node: consistency_proof(old.size, new.size, node), read)
    return ConsistencyProof(old=old, new=new, path=_hex(path))


def _hex(digests: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(digest.hex() for digest in digests)


def hashes_around(start: int, stop: int, size: int, read: NodeReader) -> list[bytes]:
    """Give the hashes that lead from the leaves [start, stop) to the root of the tree of `size` leaves, from left to right."""
    return [range_root(low, high, read) for low, high, apart in _split(start, stop, 0, size) if apart]


def root_around(start: int, leaves: Sequence[bytes], size: int, hashes: Sequence[bytes]) -> bytes | None:
    """Give the root that `hashes` lead to from leaves at `start`; None where they are too few or too many.

    0 <= start, at least one leaf, and all of them below size.
    """
    stop = start + len(leaves)
    left = iter(hashes)

    def root(low: int, high: int) -> bytes | None:
        if high <= start or stop <= low:
            return next(left, None)
        if start <= low and high <= stop:
            peaks: list[bytes] = []
            for count, leaf in enumerate(leaves[low - start : high - start]):
                push_leaf(peaks, count, leaf)
            return root_of_peaks(peaks)
        middle = _middle(low, high)
        one = root(low, middle)
        other = root(middle, high)
        return None if one is None or other is None else node_hash(one, other)

    found = root(0, size)
    return found if next(left, None) is None else None


def _split(start: int, stop: int, low: int, high: int) -> Iterator[tuple[int, int, bool]]:
    """Give the subtrees of [low, high) that lie whole in or whole outside of [start, stop), and which are outside."""
    apart = high <= start or stop <= low
    if apart or (start <= low and high <= stop):
        yield low, high, apart
    else:
        middle = _middle(low, high)
        yield from _split(start, stop, low, middle)
        yield from _split(start, stop, middle, high)


def _middle(low: int, high: int) -> int:
    return low + (1 << ((high - low - 1).bit_length() - 1))


# --- within other files --------------------------------------------------------------------------
class TlogProof(msgspec.Struct, frozen=True):
    """A C2SP tlog-proof, not checked yet: that an entry stands at `index` of a log. extra: opaque. note: a signed checkpoint."""

    index: int
    path: tuple[bytes, ...]
    note: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        """Give the text of the file."""
        extra = [] if self.extra is None else [f"extra {b64encode(self.extra).decode()}"]
        lines = [_TLOG_PROOF, *extra, f"index {self.index}", *(b64encode(step).decode() for step in self.path), "", ""]
        return "\n".join(lines).encode() + self.note


def parse_tlog_proof(raw: bytes) -> TlogProof:
    """Read the text of a tlog-proof; ValueError where it is not exactly of the form."""
    if len(raw) > PROOF_BYTES_MAX:
        raise ValueError(f"it has {len(raw)} bytes where at most {PROOF_BYTES_MAX} are read")
    before, separator, note = raw.partition(b"\n\n")
    if not separator or not before.isascii():
        raise ValueError("it is not lines of ASCII, an empty line, and a checkpoint")
    lines = before.decode().split("\n")
    if lines.pop(0) != _TLOG_PROOF:
        raise ValueError(f"it does not begin with {_TLOG_PROOF}")
    extra = decode_base64(lines.pop(0).removeprefix("extra ")) if lines and lines[0].startswith("extra ") else None
    if not lines or not lines[0].startswith("index "):
        raise ValueError("it does not say an index")
    index = parse_number(lines.pop(0).removeprefix("index "))
    path = tuple(decode_base64(line) for line in lines)
    if len(path) > PATH_DIGESTS_MAX or any(len(step) != DIGEST_BYTES for step in path):
        raise ValueError("its path is not of hashes of 32 bytes each")
    return TlogProof(index, path, note, extra)


def describe(proof: Proof) -> dict[str, Any]:
    """Give what a proof says, for people: of what, and of which heads."""
    match proof:
        case EventProof():
            return {"proof": "event", "position": proof.position, "head": str(proof.head)}
        case RangeProof():
            start = proof.start
            return {"proof": "range", "start": start, "stop": start + len(proof.events), "head": str(proof.head)}
        case ConsistencyProof():
            return {"proof": "consistency", "old": str(proof.old), "new": str(proof.new)}
        case ForkProof():
            return {"proof": "fork", "cut": str(proof.cut), "one": str(proof.one), "other": str(proof.other)}
