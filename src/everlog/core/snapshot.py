"""Snapshots: a state at a cut, kept so that it need not be folded again; stored as the difference from the one before.

1. A snapshot answers for one cut of one history, one reducer and one fingerprint of its code. Deleting any changes no answer.
2. A keyframe stands alone; a delta is zstd's *patch-from*: what is new beside the base's plain bytes. At most
   KEYFRAME_EVERY - 1 deltas stand on a keyframe.
3. What does not decode, or whose checksum is not that of its row, is not there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec

from everlog.core.limits import STATE_BYTES_MAX

if sys.version_info >= (3, 14):
    from compression import zstd  # pyright: ignore[reportMissingImports]
else:
    from backports import zstd

KEYFRAME_EVERY: Final = 16
_LEVEL: Final = 3
_OPTIONS: Final[dict[int, int]] = {
    zstd.CompressionParameter.compression_level: _LEVEL,
    zstd.CompressionParameter.checksum_flag: 1,
}
_PREFIX_BYTES_MIN: Final = 64  # a shorter base helps nothing, and zstd takes none below 8
_WINDOW_LOG_MAX: Final = 27  # what every decoder takes: 128 MiB


class Notes(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a state does not hold. Positions of events, at most NOTED_MAX, and how many there are.

    incomplete: events whose body is gone. skipped: changes that could not be applied.
    """

    incomplete: tuple[int, ...] = ()
    incomplete_count: int = 0
    skipped: tuple[int, ...] = ()
    skipped_count: int = 0


NOTED_MAX: Final = 100


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot as stored.

    branch: the store's key of the branch that owns the event before the cut. size: the cut. fingerprint: 16 bytes.
    base: branch and size of the snapshot that this is a delta from, None for a keyframe. depth: deltas down to the keyframe.
    plain: bytes of the state's JSON. notes: JSON of Notes. taken: microseconds. content: zstd.
    checksum: of all of it.
    """

    branch: int
    size: int
    reducer: str
    version: str
    fingerprint: bytes
    base: tuple[int, int] | None
    depth: int
    plain: int
    notes: bytes
    taken: int
    content: bytes
    checksum: bytes
    stored: int

    def is_sound(self) -> bool:
        """Tell whether the row is what was written."""
        return self.checksum == _checksum(self)


class Kept(msgspec.Struct, frozen=True):
    """A snapshot that was read: the state's JSON at a cut, and the row that it is of."""

    size: int
    plain: bytes
    notes: Notes
    row: Snapshot


def make_snapshot(
    *,
    branch: int,
    size: int,
    reducer: str,
    version: str,
    fingerprint: bytes,
    plain: bytes,
    notes: Notes,
    base: Kept | None,
    taken: int,
) -> Snapshot:
    """Encode a state's JSON as a snapshot: a delta from `base`, or a keyframe where there is none or its run is full."""
    delta = base is not None and base.row.depth + 1 < KEYFRAME_EVERY
    made = Snapshot(
        branch,
        size,
        reducer,
        version,
        fingerprint,
        (base.row.branch, base.row.size) if base is not None and delta else None,
        base.row.depth + 1 if base is not None and delta else 0,
        len(plain),
        msgspec.json.encode(notes),
        taken,
        content := _compress(plain, base.plain if base is not None and delta else None),
        b"",
        len(content),
    )
    return msgspec.structs.replace(made, checksum=_checksum(made))


def read_snapshots(chain: Sequence[Snapshot]) -> Kept | None:
    """Decode a chain, keyframe first; give its last snapshot, None where any of it is missing or damaged."""
    plain: bytes | None = None
    before: Snapshot | None = None
    for row in chain:
        expected = None if before is None else (before.branch, before.size)
        if row.base != expected or not row.is_sound():
            return None
        try:
            plain = _decompress(row.content, plain, row.plain)
        except zstd.ZstdError:
            return None
        before = row
    if plain is None or before is None:
        return None
    return Kept(before.size, plain, msgspec.json.decode(before.notes, type=Notes), before)


def _compress(plain: bytes, base: bytes | None) -> bytes:
    if base is None or len(base) < _PREFIX_BYTES_MIN:
        return zstd.compress(plain, options=_OPTIONS)
    options = _OPTIONS
    if len(base) + len(plain) > 1 << 21:  # past the level's own window, the base would be out of sight
        window = min(_WINDOW_LOG_MAX, (len(base) + len(plain)).bit_length())
        options = {
            **_OPTIONS,
            zstd.CompressionParameter.window_log: window,
            zstd.CompressionParameter.enable_long_distance_matching: 1,
        }
    return zstd.compress(plain, options=options, zstd_dict=zstd.ZstdDict(base, is_raw=True).as_prefix)


def _decompress(content: bytes, base: bytes | None, size: int) -> bytes:
    if size > STATE_BYTES_MAX:
        raise zstd.ZstdError("the row claims more than a snapshot holds")
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
    given = None if base is None or len(base) < _PREFIX_BYTES_MIN else zstd.ZstdDict(base, is_raw=True).as_prefix
    reader = zstd.ZstdDecompressor(zstd_dict=given, options=options)
    plain = reader.decompress(content, max_length=size + 1)
    if len(plain) != size or not reader.eof:
        raise zstd.ZstdError("the state has another size than its row says")
    return plain


def _checksum(row: Snapshot) -> bytes:
    digest = sha256(
        msgspec.json.encode(
            [
                row.branch,
                row.size,
                row.reducer,
                row.version,
                row.fingerprint.hex(),
                row.base,
                row.depth,
                row.plain,
                row.taken,
            ]
        )
    )
    digest.update(row.notes + b"\x00" + row.content)
    return digest.digest()[:16]
