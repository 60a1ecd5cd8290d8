"""Writing the sealed ledger as tiles, for any web server to serve, and checking such a copy without the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from everlog.core.limits import NOTE_BYTES_MAX, SAFE_INTEGER_MAX
from everlog.core.merkle import leaf_hash, push_leaf, root_of_peaks
from everlog.core.note import Checkpoint, open_checkpoint, parse_verifier_key
from everlog.core.tiles import (
    HEIGHT,
    RECORD_BYTES_MAX,
    WIDTH,
    Tile,
    decode_records,
    decode_tile,
    encode_records,
    tiles_of,
)
from everlog.errors import CorruptionError, InvalidEventError, NotFoundError, TamperedError, UnavailableError
from everlog.keyfiles import write_synced
from everlog.storage import Storage


class TilesWritten(msgspec.Struct, frozen=True):
    """What was written. size: of the ledger as it is sealed. files: that were new."""

    size: int
    files: int


def write_tiles(storage: Storage, folder: Path) -> TilesWritten:
    """Write what is not there yet of the ledger up to its last seal, then that seal; NotFoundError where there is none.

    The checkpoint goes last, so that a reader finds what it speaks of. Again writes only what is new.
    """
    seal = next(iter(storage.seals(SAFE_INTEGER_MAX, 1)), None)
    if seal is None:
        raise NotFoundError("there is no seal yet, so there is nothing to serve; seal first: `everlog seal`")
    files = 0
    for tile in tiles_of(seal.size):
        path = folder / str(tile)
        if not path.exists():
            _write(path, _content(storage, tile))
            files += 1
    _write(folder / "checkpoint", seal.note)
    return TilesWritten(seal.size, files)


def _content(storage: Storage, tile: Tile) -> bytes:
    if tile.level is not None:
        return b"".join(storage.ledger_nodes(tile.places()))
    first = tile.index * WIDTH
    try:
        return encode_records([row.record for row in storage.placed(first, first + tile.width)])
    except (ValueError, TypeError) as error:
        raise CorruptionError(
            f"records of the ledger between {first} and {first + tile.width} are none ({error}); {tile} was not written; `everlog verify`"
        ) from error


def _write(path: Path, content: bytes) -> None:
    """Write a file that others may read, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, content)
        path.chmod(0o644)
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be written ({error.strerror}); choose another folder, and write again"
        ) from error


def check_tiles(folder: Path, keys: Sequence[str]) -> Checkpoint:
    """Check a copy of a ledger: its checkpoint against pinned keys of one origin, every record and hash against the checkpoint.

    Gives the checkpoint. TamperedError names the first file that does not hold; NotFoundError, that is not there.
    """
    try:
        pinned = [parse_verifier_key(key) for key in keys]
    except ValueError as error:
        raise InvalidEventError(f"this is no key to pin: {error}; nothing was checked; give a verifier key") from error
    if len({key.name for key in pinned}) != 1:
        raise InvalidEventError(
            "the keys that are pinned are not of one ledger; nothing was checked; give those of one"
        )
    note = _read(folder / "checkpoint", NOTE_BYTES_MAX)
    checkpoint, _ = open_checkpoint(note, origin=pinned[0].name, keys=pinned)
    size = checkpoint.head.size
    nodes: dict[int, list[bytes]] = {}  # by level of tiles: hashes of all that lies below
    peaks: list[bytes] = []
    for tile in tiles_of(size):
        path = folder / str(tile)
        most = WIDTH * (RECORD_BYTES_MAX + 2)
        try:
            if tile.level is None:
                for record in decode_records(_read(path, most), tile.width):
                    nodes.setdefault(0, []).append(leaf_hash(record))
                    push_leaf(peaks, len(nodes[0]) - 1, nodes[0][-1])
                continue
            if tile.level not in nodes:
                nodes[tile.level] = _above(nodes[tile.level - 1])
            hashes = decode_tile(_read(path, most), tile.width)
            if hashes != nodes[tile.level][tile.index * WIDTH : tile.index * WIDTH + tile.width]:
                raise ValueError("its hashes are not those of the records")
        except ValueError as error:
            raise TamperedError(f"{path} was changed: {error}; get the copy again from where it was made") from error
    if root_of_peaks(peaks).hex() != checkpoint.head.root:
        raise TamperedError(
            f"the records in {folder} are not those that the checkpoint of {size} was signed over; get the copy again from where it was made"
        )
    return checkpoint


def _above(below: Sequence[bytes]) -> list[bytes]:
    """Give the hashes of full tiles, each of what it holds."""
    found: list[bytes] = []
    for first in range(0, len(below) - WIDTH + 1, WIDTH):
        peaks: list[bytes] = []
        for count, node in enumerate(below[first : first + (1 << HEIGHT)]):
            push_leaf(peaks, count, node)
        found.append(root_of_peaks(peaks))
    return found


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there is no {path}; the copy is not whole; get it again from where it was made") from None
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read ({error.strerror}); nothing was checked") from error
    if len(content) > bytes_max:
        raise TamperedError(f"{path} is larger than any such file; get it again from where it was made")
    return content
