"""Erasing in the order of who has the key at hand: the record is sealed before anything is destroyed (FORMAT §5).

1. What is intended is written into a file beside the key and synced → the ledger's records → a seal over them → the bodies are destroyed
   → the file goes. The file is beside the key and not in the store, which keeps no list of what was only intended.
2. Whoever is killed before the records has begun nothing. From there on whoever erases or seals next with the same keys finishes it.
   Nobody is asked again: an erasure is authorised when its record is written.
3. One at a time, by a lock that dies with its process. Who seals does not wait for it: what a living process is at is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from everlog.archiving import finish
from everlog.context.tree import read_positions
from everlog.errors import EverlogError, NotFoundError, TamperedError, UnavailableError
from everlog.keyfiles import folder_lock, sync_folder, write_synced
from everlog.reader import View
from everlog.storage import Erase, Storage

_FILE: Final = "erasing.json"
_LOCK: Final = "erasing.lock"

Seal = Callable[[], object]


def erase_sealed(storage: Storage, folder: Path, seal: Seal, erasures: Sequence[Erase]) -> list[tuple[int, ...]]:
    """Erase; give the positions of each that were still there. folder: of the keys. seal: seals all that is on record."""
    with folder_lock(folder, _LOCK):
        begun = _begun(storage, folder)
        if begun:  # by another
            _sealed(seal)
            _destroy(storage, folder, begun)
        there = [_with_leaves(storage, each) for each in erasures]
        intended = [each for each in there if each.positions]
        if intended:
            write_synced(folder / _FILE, msgspec.json.encode(intended))
            for each in intended:
                storage.write(msgspec.structs.replace(each, step="record"))
            _sealed(seal)
            _destroy(storage, folder, intended)
    return [each.positions for each in there]


@contextmanager
def unfinished(storage: Storage, folder: Path) -> Generator[Callable[[], None]]:
    """Give what finishes an erasure that a process left when it died, once its record is sealed: it does nothing where there is none.

    What is in the way it raises, so that the seal is made all the same.
    """
    with folder_lock(folder, _LOCK, wait=False) as is_mine:
        erasures: Sequence[Erase] = ()
        trouble: EverlogError | None = None
        try:
            erasures = _begun(storage, folder) if is_mine else ()
        except EverlogError as error:
            trouble = error

        def destroy() -> None:
            if trouble is not None:
                raise trouble
            if erasures:
                _destroy(storage, folder, erasures)

        yield destroy


def _sealed(seal: Seal) -> None:
    """Seal; where that cannot be, say what became of the erasure."""
    try:
        seal()
    except EverlogError as error:
        kind = TamperedError if isinstance(error, TamperedError) else UnavailableError
        raise kind(
            f"an erasure is on record and could not be sealed ({error.message}); nothing was destroyed; the next seal with these keys finishes "
            "it: everlog seal"
        ) from error


def _with_leaves(storage: Storage, erasure: Erase) -> Erase:
    """Give an erasure of those events whose bodies are still there, with their leaves."""
    row = storage.branch(erasure.branch)
    view = View(row, storage.lineage(row.key, ""))
    found = [event for event in read_positions(storage, view, erasure.positions) if not event.erased]
    positions, leaves = tuple(event.position for event in found), tuple(event.leaf for event in found)
    return msgspec.structs.replace(erasure, positions=positions, leaves=leaves)


def _destroy(storage: Storage, folder: Path, erasures: Sequence[Erase]) -> None:
    for each in erasures:
        try:
            storage.write(msgspec.structs.replace(each, step="destroy"))
        except NotFoundError:
            continue  # its session was deleted since, and its bodies with it
    finish(storage)
    (folder / _FILE).unlink(missing_ok=True)
    sync_folder(folder)


def _begun(storage: Storage, folder: Path) -> Sequence[Erase]:
    """Give the erasure that was left, where something of it is on record, and have all of it be. One that was not begun is forgotten."""
    path = folder / _FILE
    try:
        erasures = msgspec.json.decode(path.read_bytes(), type=tuple[Erase, ...])
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.MsgspecError) as error:
        raise UnavailableError(
            f"{path} cannot be read ({error}); nothing was done; it says which erasure is to be finished: bring it back, or remove it and "
            "erase again"
        ) from error
    left = [each for each in erasures if storage.erasure(each.leaves[0]) is None]
    if len(left) == len(erasures):
        path.unlink()
        return ()
    for each in left:
        storage.write(msgspec.structs.replace(each, step="record"))
    return erasures
