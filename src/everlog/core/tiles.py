"""The ledger as files that any web server serves: C2SP tlog-tiles. Which files there are, and what stands in them.

    checkpoint                       the last seal
    tile/LEVEL/NNN[.p/WIDTH]         up to 256 hashes of the tree's nodes of level 8 × LEVEL, side by side
    tile/entries/NNN[.p/WIDTH]       the records below a tile of level 0, each behind its length in 2 bytes

1. A tile that is not full is named by its width, and another stands beside it once there is more: no file ever changes but the checkpoint.
2. A tile's number is written in groups of three digits, all but the last behind an x, each a folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from everlog.core.merkle import DIGEST_BYTES, split_digests

WIDTH: Final = 256
HEIGHT: Final = 8  # levels of the tree that a tile stands for
RECORD_BYTES_MAX: Final = 65_535  # that two bytes can say
_PATH: Final = re.compile(
    r"tile/(entries|0|[1-9]|[1-5][0-9]|6[0-3])/((?:x[0-9]{3}/){0,4}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII
)


class Tile(msgspec.Struct, frozen=True):
    """A tile, or where level is None a bundle of records. width: 1 .. WIDTH hashes or records."""

    level: int | None
    index: int
    width: int

    def __str__(self) -> str:
        """Give its path."""
        digits = f"{self.index:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        number = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        part = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{'entries' if self.level is None else self.level}/{number}{part}"

    def places(self) -> list[tuple[int, int]]:
        """Give (level, index) of the nodes of the tree that a tile holds."""
        assert self.level is not None, "records are no nodes"
        first = self.index * WIDTH
        return [(HEIGHT * self.level, index) for index in range(first, first + self.width)]


def parse_tile(path: str) -> Tile:
    """Read a path; ValueError where it is not exactly one."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise ValueError(f"{path[:100]!r} is no path of a tile")
    level = None if match[1] == "entries" else int(match[1])
    tile = Tile(level, int(re.sub("[x/]", "", match[2])), WIDTH if match[3] is None else int(match[3]))
    if str(tile) != path:  # leading groups of zeros, a width of 256 and more
        raise ValueError(f"{path[:100]!r} is not the one path of a tile")
    return tile


def tiles_of(size: int) -> Iterator[Tile]:
    """Give every tile and bundle of the tree of `size` leaves."""
    for index, width in _parts(size):
        yield Tile(None, index, width)
    level = 0
    while size:
        for index, width in _parts(size):
            yield Tile(level, index, width)
        size >>= HEIGHT
        level += 1


def _parts(count: int) -> Iterator[tuple[int, int]]:
    for first in range(0, count, WIDTH):
        yield first // WIDTH, min(WIDTH, count - first)


def encode_records(records: Sequence[bytes]) -> bytes:
    """Give the content of a bundle; ValueError where a record is too long for one."""
    for record in records:
        if len(record) > RECORD_BYTES_MAX:
            raise ValueError(f"a record has {len(record)} bytes where a bundle's have at most {RECORD_BYTES_MAX}")
    return b"".join(len(record).to_bytes(2, "big") + record for record in records)


def decode_records(content: bytes, width: int) -> list[bytes]:
    """Read a bundle of so many records; ValueError where it is not exactly that."""
    records: list[bytes] = []
    at = 0
    while at < len(content) and len(records) < width:
        stop = at + 2 + int.from_bytes(content[at : at + 2], "big")
        records.append(content[at + 2 : stop])
        at = stop
    if at != len(content) or len(records) != width:
        raise ValueError(f"it does not hold {width} records")
    return records


def decode_tile(content: bytes, width: int) -> list[bytes]:
    """Read a tile of so many hashes; ValueError where it is not exactly that."""
    if len(content) != DIGEST_BYTES * width:
        raise ValueError(f"it does not hold {width} hashes")
    return split_digests(content)
