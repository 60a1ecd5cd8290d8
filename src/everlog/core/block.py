"""Blocks: the bodies of neighbouring events in one zstd frame, and long strings that repeat kept once.

1. A block gives every body and salt back byte for byte. What does not decode, or has another checksum, is damage.
2. A string of SHARED_BYTES_MIN bytes or more leaves its body and is kept by the hash of its bytes, once a store. Attachments too.
3. A dictionary is trained on bodies whose strings and numbers are masked, and of names in them holds only those that many bodies
   share: it stays when the bodies are erased, so it must hold no secret.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Final

import msgspec

from everlog.core.envelope import is_sealed
from everlog.core.header import SALT_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd  # pyright: ignore[reportMissingImports]
else:
    from backports import zstd

BLOCK_EVENTS: Final = 64
BLOCK_EVENTS_MAX: Final = 192  # where they are small: more than BLOCK_EVENTS only as long as they are BLOCK_BYTES
BLOCK_BYTES: Final = 80 * 1024  # what one read decodes then; 64 of 1 kB, and room to end where a page does
BLOCK_BYTES_MAX: Final = 1024 * 1024  # of bodies; one larger body makes a block of its own
SHARED_BYTES_MIN: Final = 16 * 1024  # of a string or attachment that is kept by its hash
DICTIONARY_BYTES_MAX: Final = 16 * 1024  # names and punctuation of bodies fill no more
DICTIONARY_SAMPLES_MIN: Final = 64  # bodies; fewer teach nothing
_LEVEL: Final = 11
_SHARED_LEVEL: Final = 6  # of long strings, where a higher one takes twice the time for a hundredth
_SHARED_NAME_BODIES: Final = 8  # bodies in which a name must stand to go into a dictionary
_STRING: Final = re.compile(rb'"((?:[^"\\]|\\.)*+)"')  # of valid JSON, its quotes included
_NAME: Final = re.compile(rb"[A-Za-z_][A-Za-z0-9_.-]{0,31}")


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A body in a block: what stands between its long strings, and the SHA-256 of each of those; and its salt of 32 bytes."""

    position: int
    salt: bytes
    pieces: tuple[bytes, ...]
    digests: tuple[bytes, ...] = ()

    def body(self, shared: Callable[[bytes], bytes]) -> bytes:
        """Put the body together. shared: gives a long string by its hash."""
        if not self.digests:
            return self.pieces[0]
        parts = [self.pieces[0]]
        for digest, piece in zip(self.digests, self.pieces[1:], strict=True):
            parts += [shared(digest), piece]
        return b"".join(parts)


_Packed = tuple[int, tuple[bytes, ...], tuple[bytes, ...]]  # an entry without its salt
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Packed]).decode


class Compressed(msgspec.Struct, frozen=True):
    """What a store keeps: a zstd frame, its SHA-256, and how many bytes it gives back."""

    content: bytes
    checksum: bytes
    plain: int


def make_entry(position: int, salt: bytes, body: bytes) -> tuple[Entry, dict[bytes, bytes]]:
    """Take a body's long strings out of it, where it is not encrypted; give the entry, and the strings by their hashes."""
    if len(body) < SHARED_BYTES_MIN or is_sealed(body):
        return Entry(position, salt, (body,)), {}
    pieces: list[bytes] = []
    digests: list[bytes] = []
    shared: dict[bytes, bytes] = {}
    at = 0
    for match in _STRING.finditer(body):  # each, since what stands between two strings may be long too
        if match.end(1) - match.start(1) < SHARED_BYTES_MIN:
            continue
        pieces.append(body[at : match.start(1)])
        digest = sha256(match[1]).digest()
        shared[digest] = match[1]
        digests.append(digest)
        at = match.end(1)
    pieces.append(body[at:])
    return Entry(position, salt, tuple(pieces), tuple(digests)), shared


class Codec:
    """Makes blocks and reads them, with one dictionary or none. Not for two threads at once."""

    def __init__(self, dictionary: bytes | None = None) -> None:
        given = None if dictionary is None else zstd.ZstdDict(dictionary)
        # Digested once, and not at each block: 30 times as fast (measured).
        self._packing = zstd.ZstdCompressor(_LEVEL, zstd_dict=None if given is None else given.as_digested_dict)
        self._given = given

    def pack(self, entries: Sequence[Entry]) -> Compressed:
        """Make a block of entries, which stand in the order of their positions."""
        plain = _encode([(entry.position, entry.pieces, entry.digests) for entry in entries])
        frame = self._packing.compress(plain, mode=zstd.ZstdCompressor.FLUSH_FRAME)
        # Behind the frame: random bytes in it cost more than their length, of the bodies' own (a twentieth, measured).
        content = frame + b"".join([entry.salt for entry in entries])
        return Compressed(content, sha256(content).digest(), len(plain))

    def unpack(self, content: bytes, plain: int) -> list[Entry]:
        """Read a block. plain: bytes that it gives back. ValueError where it is damaged."""
        try:
            found, salts = _decompress(content, plain, self._given)
            packed = _decode(found)
            if len(salts) != SALT_BYTES * len(packed):
                raise EOFError(f"it has {len(packed)} bodies, and {len(salts)} bytes of salts")
            if any(len(pieces) != len(digests) + 1 for _, pieces, digests in packed):
                raise EOFError("pieces and long strings of a body do not alternate")
        except (zstd.ZstdError, msgspec.MsgspecError, EOFError) as error:
            raise ValueError(f"a block does not decode ({error})") from error
        return [
            Entry(position, salts[SALT_BYTES * place : SALT_BYTES * (place + 1)], pieces, digests)
            for place, (position, pieces, digests) in enumerate(packed)
        ]


def pack_shared(plain: bytes) -> Compressed:
    """Make what is kept of a long string or an attachment."""
    content = zstd.compress(plain, _SHARED_LEVEL)
    return Compressed(content, sha256(content).digest(), len(plain))


def unpack_shared(content: bytes, plain: int) -> bytes:
    """Read a long string or an attachment. ValueError where it is damaged."""
    try:
        found, rest = _decompress(content, plain, None)
        if rest:
            raise EOFError(f"{len(rest)} bytes stand behind it")
    except (zstd.ZstdError, EOFError) as error:
        raise ValueError(f"what is kept once does not decode ({error})") from error
    return found


def _decompress(content: bytes, plain: int, given: zstd.ZstdDict | None) -> tuple[bytes, bytes]:
    """Give what a frame of `plain` bytes holds, and what stands behind it."""
    if plain < 0:
        raise EOFError(f"{plain} bytes cannot have been packed")
    reader = zstd.ZstdDecompressor(zstd_dict=given)
    found = reader.decompress(content, max_length=plain + 1)
    if len(found) != plain or not reader.eof:
        raise EOFError(f"{plain} bytes were packed, and other than that came back")
    return found, reader.unused_data


# --- dictionaries --------------------------------------------------------------------------------
def mask(body: bytes, names: Mapping[bytes, int] | None = None) -> bytes:
    """Give a body without what it says: strings empty, digits zero. names: those that are kept; None keeps what looks like one."""

    def masked(match: re.Match[bytes]) -> bytes:
        is_name = body[match.end() : match.end() + 1] == b":" and _NAME.fullmatch(match[1])
        return match[0] if is_name and (names is None or match[1] in names) else b'""'

    pieces: list[bytes] = []
    at = 0
    for match in _STRING.finditer(body):
        pieces += [_DIGIT.sub(b"0", body[at : match.start()]), masked(match)]
        at = match.end()
    pieces.append(_DIGIT.sub(b"0", body[at:]))
    return b"".join(pieces)


_DIGIT: Final = re.compile(rb"[0-9]")


def dictionary_digest(content: bytes) -> bytes:
    """Give what a dictionary is known by: the first 16 bytes of its SHA-256."""
    return sha256(content).digest()[:16]


def train(bodies: Iterable[bytes]) -> bytes | None:
    """Make a dictionary of what bodies have in common beside what they say; None where that is too little.

    Deterministic. A name that stands in fewer than 8 of the bodies is left out.
    """
    loose = [mask(body) for body in bodies]
    counts = Counter(name for body in loose for name in {match[1] for match in _STRING.finditer(body)})
    names = {name: count for name, count in counts.items() if count >= _SHARED_NAME_BODIES}
    samples = [mask(body, names) for body in loose]
    if len(samples) < DICTIONARY_SAMPLES_MIN or sum(map(len, samples)) < 8 * DICTIONARY_SAMPLES_MIN:
        return None
    try:
        return zstd.train_dict(samples, DICTIONARY_BYTES_MAX).dict_content
    except zstd.ZstdError:
        return None  # zstd finds nothing that is worth it
