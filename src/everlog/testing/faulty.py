"""A faulty file system: SQLite's files on the real one, with faults at chosen points, and a disk that can lose power.

1. Every write, truncation, removal and sync of a file is a *point*, numbered from 0. Run a workload once to count them, then
   again with a fault at each.
2. The *disk* holds what was synced. What was written since is in the system's memory only: `power_loss` gives the disk's
   files with none, some or all of it, each write whole, torn or not at all.
3. After a failed sync the writes that it should have made durable stay in memory and never reach the disk, whatever is
   synced later, unless they are written again: so Linux does it.

    disk = FaultyDisk()
    store = open_faulty(folder / "store.db", disk)
    disk.fault = Fault("sync", at=17)
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import apsw

from everlog.session import Settings
from everlog.store import Store
from everlog.stores.sqlite.files import Disk
from everlog.stores.sqlite.store import open_sqlite

Kind = Literal["write", "short", "full", "sync", "power"]
KINDS: tuple[Kind, ...] = ("write", "short", "full", "sync", "power")
_SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong at a point.

    write: a write fails. short: half of it is written, then it fails. full: it fails as on a full disk.
    sync: a sync fails. power: this and every later call fails, until the process is gone.
    At a point of another kind (a sync where a write should fail) the call fails all the same, as an I/O error.
    lasting: every later call of the same kind fails too, until the disk is `mend`ed.
    """

    kind: Kind
    at: int
    lasting: bool = False


@dataclass(slots=True)
class _File:
    """What the disk holds of a file, and what was written since: (offset, bytes), or (size, None) for a truncation."""

    synced: bytearray = field(default_factory=bytearray)
    written: list[tuple[int, bytes | None]] = field(default_factory=list)

    def make_durable(self) -> None:
        """Bring to the disk what was written."""
        for offset, written in self.written:
            _apply(self.synced, offset, written)
        self.written.clear()


class FaultyDisk(Disk):
    """One disk. `kinds` lists its points so far; `fault` is what is to go wrong next; `failed` tells whether it did."""

    def __init__(self) -> None:
        self.kinds: list[Literal["write", "truncate", "delete", "sync"]] = []  # of the points so far
        self.fault: Fault | None = None
        self.failed = False
        name = f"everlog-faulty-{id(self):x}-{time.monotonic_ns():x}"
        self.name = name
        self._files: dict[str, _File] = {}
        self._system = _FileSystem(self, name)

    def mend(self) -> None:
        """Let everything succeed from now on."""
        self.fault = None

    def close(self) -> None:
        """Take the file system away again; its connections must be closed."""
        self._system.unregister()

    def power_loss(self, seed: int) -> dict[str, bytes]:
        """Give the files as a restarted machine finds them, by name.

        seed: 0 loses all that was not synced, 1 keeps all of it; others keep each write whole, torn or not, by chance.
        """
        chance = random.Random(seed)  # repeatable, and no secret
        return {name: bytes(_survived(file, seed, chance)) for name, file in self._files.items()}

    def rewrite(self, path: Path) -> None:
        """Write a file's bytes again, which stay the same in memory whatever fails, and sync them."""
        content = path.read_bytes()
        if not content:
            return
        file = self.opened(str(path), lambda: content)
        fault = self.reach("write")
        if fault is not None:
            if fault.kind == "short":
                file.written.append((0, content[: len(content) // 2]))
            raise OSError(errno.ENOSPC if fault.kind == "full" else errno.EIO, f"{fault.kind} (on purpose)")
        file.written.append((0, content))
        fault = self.reach("sync")
        if fault is not None:
            file.written.clear()
            raise OSError(errno.EIO, f"{fault.kind} (on purpose)")
        file.make_durable()

    # --- for the files below ---
    def reach(self, kind: Literal["write", "truncate", "delete", "sync"]) -> Fault | None:
        """Count a point; give the fault that is to happen at it."""
        point = len(self.kinds)
        self.kinds.append(kind)
        fault = self.fault
        if fault is None or point < fault.at:
            return None
        if point > fault.at and fault.kind != "power" and not (fault.lasting and _is_of(kind, fault.kind)):
            return None
        self.failed = True
        return fault

    def opened(self, path: str, content: Callable[[], bytes]) -> _File:
        """Give the disk's record of a file; one that it did not see before is on the disk as it is."""
        name = Path(path).name
        if name not in self._files:
            self._files[name] = _File(bytearray(content()))
        return self._files[name]

    def removed(self, path: str) -> None:
        """Forget a file. The removal is on the disk at once, which is what harms most."""
        self._files.pop(Path(path).name, None)


def _is_of(kind: str, fault: Kind) -> bool:
    return kind == "sync" if fault == "sync" else kind != "sync"


def _survived(file: _File, seed: int, chance: random.Random) -> bytearray:
    content = bytearray(file.synced)
    for offset, written in file.written:
        if seed == 0 or (seed > 1 and chance.random() < 0.5):
            continue
        kept = written
        if seed > 1 and written is not None and len(written) > _SECTOR_BYTES and chance.random() < 0.3:
            kept = written[: chance.randrange(len(written) // _SECTOR_BYTES + 1) * _SECTOR_BYTES]
        _apply(content, offset, kept)
    return content


def _apply(content: bytearray, offset: int, written: bytes | None) -> None:
    if written is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(written)] = written


class _OpenFile(apsw.VFSFile):
    """One open file: each call that changes it is a point."""

    def __init__(self, disk: FaultyDisk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        super().__init__("", name, flags)
        self._disk = disk
        self._file = disk.opened(path, self._content) if path else _File()

    def _content(self) -> bytes:
        size = self.xFileSize()
        return self.xRead(size, 0) if size else b""

    def xWrite(self, data: bytes, offset: int) -> None:
        fault = self._disk.reach("write")
        if fault is None:
            super().xWrite(data, offset)
            self._file.written.append((offset, bytes(data)))
            return
        if fault.kind == "short":
            half = bytes(data[: len(data) // 2])
            super().xWrite(half, offset)
            self._file.written.append((offset, half))
        raise _error(fault, apsw.SQLITE_IOERR_WRITE)

    def xTruncate(self, newsize: int) -> None:
        fault = self._disk.reach("truncate")
        if fault is not None:
            raise _error(fault, apsw.SQLITE_IOERR_TRUNCATE)
        super().xTruncate(newsize)
        self._file.written.append((newsize, None))

    def xSync(self, flags: int) -> None:
        fault = self._disk.reach("sync")
        if fault is not None:
            self._file.written.clear()  # marked as written, and never to be
            raise _error(fault, apsw.SQLITE_IOERR_FSYNC)
        super().xSync(flags)
        self._file.make_durable()


class _FileSystem(apsw.VFS):
    """SQLite's own file system, with a disk's files in it."""

    def __init__(self, disk: FaultyDisk, name: str) -> None:
        super().__init__(name, "")
        self._disk = disk

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _OpenFile(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # SQLite's own signature
        fault = self._disk.reach("delete")
        if fault is not None:
            raise _error(fault, apsw.SQLITE_IOERR_DELETE)
        super().xDelete(filename, syncdir)
        self._disk.removed(filename)


def _error(fault: Fault, code: int) -> apsw.Error:
    if fault.kind == "full" and code != apsw.SQLITE_IOERR_FSYNC:
        return apsw.FullError("the disk is full (on purpose)")
    error = apsw.IOError(f"{fault.kind} (on purpose)")
    error.extendedresult = code  # pyright: ignore[reportAttributeAccessIssue]  # apsw reads it, and does not declare it
    return error


def open_faulty(path: Path, disk: FaultyDisk) -> Store:
    """Open a store whose file lies on a faulty disk. Its commits are durable ("full")."""
    storage = open_sqlite(
        path,
        clock=lambda: time.time_ns() // 1_000,
        draw=os.urandom,
        read_only=False,
        relaxed=False,
        disk=disk,
    )
    return Store(storage, Settings(os.urandom), url=str(path))


@contextmanager
def faulty_disk() -> Generator[FaultyDisk]:
    """Give a disk, and take it away again."""
    disk = FaultyDisk()
    try:
        yield disk
    finally:
        disk.close()
