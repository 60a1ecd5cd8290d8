"""Examining a store's file and the machine that it lies on: what a person would look at first when something is wrong.

Nothing is changed, and nothing is assumed to work: each check says what it found, and goes on to the next.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import apsw

from everlog.core import limits
from everlog.core.block import dictionary_digest
from everlog.errors import EverlogError
from everlog.stores.check import Check, encryption_check
from everlog.stores.migrate import load_migrations
from everlog.stores.sqlite import connections, files
from everlog.stores.sqlite.run import fetch_each, fetch_one, fetch_row

FREE_BYTES_LOW = 1024 * 1024 * 1024
LOG_BYTES_LARGE = 256 * 1024 * 1024  # four times what the store lets its write-ahead log grow to
_LOCKS = Path("/proc/locks")
_FAULTS_SHOWN = 5
_CLOCK_AHEAD_MICROS = limits.CLOCK_AHEAD_MICROS_MAX


def examine(path: Path) -> Iterator[Check]:
    """Give the checks of the store at a path, one after another; the slow one, of the whole file, last."""
    yield _sqlite()
    if not path.exists():
        yield Check(
            "file",
            "look",
            f"there is no store at {path}",
            "everlog demo makes one to look at; everlog import fills one",
        )
        yield _disk(path)
        return
    yield _file(path)
    yield _place(path)
    yield _disk(path)
    yield _permissions(path)
    yield _lock(path)
    yield _log(path)
    yield _index(path)
    try:
        connection = _opened(path)
    except apsw.Error as error:
        yield Check(
            "open", "bad", f"SQLite cannot open it: {error}", "see the checks above; restore a backup, or a copy"
        )
        return
    try:
        yield from _inside(connection)
    finally:
        connection.close(True)


def _opened(path: Path) -> apsw.Connection:
    """Open the file to read, also where nothing can be written beside it. What else is wrong is told with the contents."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.execute("SELECT 1 FROM sqlite_schema").fetchall()
    except (apsw.ReadOnlyError, apsw.CantOpenError):
        connection.close(True)
        if files.content(path) is None:
            raise
        return apsw.Connection(files.unchanging(path), flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    except apsw.Error:
        pass
    return connection


def _sqlite() -> Check:
    version = apsw.sqlite_lib_version()
    try:
        connections.refuse_old_sqlite(version)
    except EverlogError as error:
        return Check("sqlite", "bad", error.message.partition(";")[0], "pip install --upgrade apsw")
    return Check("sqlite", "good", f"SQLite {version}, apsw {apsw.apsw_version()}")


def _file(path: Path) -> Check:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return Check("file", "bad", f"{path} is no file", "name the store's file with --store or EVERLOG_STORE")
    link = f" (a link to {os.path.realpath(path)})" if path.is_symlink() else ""
    return Check("file", "good", f"{path}{link}, {_bytes(status.st_size)}")


def _place(path: Path) -> Check:
    kind = files.file_system_of(path)
    if kind in files.NETWORK_FILE_SYSTEMS:
        return Check(
            "place",
            "bad",
            f"on {kind}, a network file system: SQLite's locks do not hold there",
            "move it to a local disk",
        )
    return Check("place", "good", f"on {kind}" if kind else "on a file system that cannot be told here")


def _disk(path: Path) -> Check:
    folder = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    usage = shutil.disk_usage(folder)
    found = f"{_bytes(usage.free)} free of {_bytes(usage.total)}"
    if usage.free < FREE_BYTES_LOW:
        return Check(
            "disk", "look", found, "free some space: when the disk is full appends are refused, and nothing is lost"
        )
    return Check("disk", "good", found)


def _permissions(path: Path) -> Check:
    open_to_others: list[str] = []
    beside = ("", "-wal", "-shm", "-lock", *(f"-search{ending}" for ending in ("", "-wal", "-shm", "-lock")))
    for each in (Path(f"{path}{ending}") for ending in beside):
        with suppress(FileNotFoundError):
            if each.stat().st_mode & 0o077:
                open_to_others.append(each.name)
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(path.parent, os.W_OK):
        return Check(
            "permissions",
            "bad",
            f"you cannot write {path} or its folder",
            "run as its owner, or correct the permissions",
        )
    if open_to_others:
        names = " ".join(open_to_others)
        return Check(
            "permissions", "look", f"other users may read: {names}", f"transcripts hold secrets: chmod 600 {names}"
        )
    return Check("permissions", "good", "only you can read and write it")


def _lock(path: Path) -> Check:
    """Tell who writes just now. Asked of the kernel, since trying the lock would hold others up."""
    side = Path(f"{path}-lock")
    try:
        status = side.stat()
        table = _LOCKS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return Check("lock", "good", "no process has a lock that can be seen here")
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    holders = [
        fields[4]
        for line in table.splitlines()
        if len(fields := line.split()) >= 6 and fields[1] == "FLOCK" and fields[5] == place
    ]
    if not holders:
        return Check("lock", "good", "no process is writing")
    return Check(
        "lock",
        "look",
        f"process {', '.join(holders)} is writing just now",
        f"if it stays so, see what it does: ps -fp {holders[0]}",
    )


def _index(path: Path) -> Check:
    side = Path(f"{path}-search")
    try:
        found = f"{side.name}, {_bytes(side.stat().st_size)}: may be removed, and is made anew by who searches next"
    except FileNotFoundError:
        found = "none yet: who searches first makes it"
    return Check("search", "good", found)


def _log(path: Path) -> Check:
    try:
        size = Path(f"{path}-wal").stat().st_size
    except FileNotFoundError:
        return Check("log", "good", "no write-ahead log: the store was closed")
    if size > LOG_BYTES_LARGE:
        return Check(
            "log",
            "look",
            f"the write-ahead log has {_bytes(size)}",
            "some program keeps a read open for long, or died; close what reads the file, then open the store once",
        )
    return Check("log", "good", f"the write-ahead log has {_bytes(size)}; it is part of the store, do not remove it")


def _inside(connection: apsw.Connection) -> Iterator[Check]:
    connection.set_busy_timeout(connections.BUSY_MILLISECONDS)
    try:
        application, version = connection.pragma("application_id"), connection.pragma("user_version")
        known = len(load_migrations("everlog.stores.sqlite"))
        if application != connections.APPLICATION_ID:
            yield Check(
                "schema", "bad", "this is a database of something else", "name the store's own file with --store"
            )
            return
        if version > known:
            yield Check("schema", "bad", f"schema version {version}, and this Everlog knows {known}", "upgrade everlog")
            return
        yield Check(
            "schema", "good", f"schema version {version} of {known}; {connection.pragma('page_size')} byte pages"
        )
        yield _contents(connection)
        if version == known:
            yield _bodies(connection)
            yield _encryption(connection)
        yield _whole(connection)
    except apsw.Error as error:
        yield Check("contents", "bad", f"cannot be read: {error}", _RESTORE)


_RESTORE = (
    "keep a copy of the file as it is; then copy what can be read (everlog copy OLD.db NEW.db), or restore a backup"
)


def _contents(connection: apsw.Connection) -> Check:
    sessions = connection.execute("SELECT count(*) FROM session WHERE deleted IS NULL").get
    newest = connection.execute("SELECT max(recorded) FROM branch").get
    ahead = (newest or 0) - time.time_ns() // 1_000
    if ahead > _CLOCK_AHEAD_MICROS:
        return Check(
            "contents",
            "look",
            f"{sessions} sessions; the newest event lies {ahead // 1_000_000} s in the future",
            "see whether this machine's clock is right; new events get that time until the clock has passed it",
        )
    return Check("contents", "good", f"{sessions} sessions")


def _bodies(connection: apsw.Connection) -> Check:
    """Compare what was packed with its checksums. What is archived is fetched by verify only."""
    count = 0
    faults: list[str] = []
    for digest, kind, content in fetch_each(connection, "read_dictionary_sums"):
        if dictionary_digest(content) != digest:
            faults.append(f"the dictionary {digest.hex()} of blocks of {kind!r:.128}")
    for name, start, stop, digest, checksum, content in fetch_each(connection, "read_block_sums"):
        count += 1
        if type(content) is bytes and sha256(content).digest() == checksum:
            continue
        if digest is None:
            faults.append(f"positions {start} to {stop - 1} of {name!r:.250}")
        else:
            held = [
                f"{holder!r:.250}@{at}" for holder, at in fetch_each(connection, "read_holders", {"digest": digest})
            ]
            faults.append(f"what is kept once for {', '.join(held)}")
    if faults:
        more = f", and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        return Check("bodies", "bad", f"packed bodies are damaged: {'; '.join(faults[:_FAULTS_SHOWN])}{more}", _RESTORE)
    places = [f"{objects} at {url} ({_bytes(size)})" for url, objects, size in fetch_each(connection, "read_places")]
    away = f"; archived objects: {', '.join(places)}; everlog verify reads them" if places else ""
    return Check("bodies", "good", f"{count:,} packed blocks are what was written{away}")


def _encryption(connection: apsw.Connection) -> Check:
    plain = fetch_row(connection, "count_plain")[0]
    return encryption_check(plain if fetch_one(connection, "read_current_key") is not None else None)


def _whole(connection: apsw.Connection) -> Check:
    faults = [str(row[0]) for row in connection.execute(f"PRAGMA quick_check({_FAULTS_SHOWN})")]
    if faults != ["ok"]:
        return Check("structure", "bad", "; ".join(faults), _RESTORE)
    return Check("structure", "good", "every page of the file is in order; everlog verify checks what the events say")


def _bytes(count: int) -> str:
    size, unit = float(count), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):  # the one that fits is used below
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
