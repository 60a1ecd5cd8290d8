"""Connections to one SQLite file: a writer, a few readers, and what must hold of the file before any of them is used.

1. The SQLite that is linked must be 3.51.3 or newer: 3.7.0 to 3.51.2 have the WAL-reset bug, which loses commits.
2. The file is Everlog's, of a version that this code knows, on a local disk, and stays the one that was opened.
3. A file that is read where nothing can be written beside it, and that nobody has open, is read as one that does not change: each read
   is refused where it did.
4. A connection is never carried across `fork()`: all are closed before it, and the child's copy of the store raises.
   SQLite keeps its locks in memory that the child would inherit, without holding them.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition, Lock, RLock, local

import apsw
import msgspec

from everlog.cold import AwayError
from everlog.core import limits
from everlog.errors import (
    BusyError,
    CorruptionError,
    EverlogError,
    NotFoundError,
    UnavailableError,
    UnsupportedStoreError,
)
from everlog.stores.migrate import load_migrations
from everlog.stores.sqlite import files
from everlog.stores.sqlite.turn import Turn

SQLITE_VERSION_MIN = 3051003
APPLICATION_ID = 0x4576_6C67  # "Evlg"
PAGE_BYTES = 8192  # with 4096 reading is 5 to 10 % slower, batches 3 to 9, single appends 4 quicker (2026-12)
READERS_MAX = 4
BUSY_MILLISECONDS = 5_000
CHECKPOINT_PAGES = 250  # WAL pages (2 MiB) after which a commit copies them into the file: a log that no longer grows syncs in half the time
RESTART_PAGES = 8_192  # WAL pages (64 MiB) after which it waits for readers, so that the WAL starts again (law 13)
CACHE_KIBIBYTES = 16 * 1024  # of the writer; the session's memory bound stays far above it

UNREADABLE = (UnicodeDecodeError, msgspec.MsgspecError)  # what stands in a row is not what was written

_stores: weakref.WeakSet[Connections] = weakref.WeakSet()
_numbers = itertools.count()


class Connections:
    """Opens, hands out and closes the connections of one store in one process.

    relaxed: sync at checkpoints only; power loss may then lose the last moments.
    disk: where the files lie; another than the system's in tests only.
    """

    def __init__(self, path: Path, *, read_only: bool, relaxed: bool, disk: files.Disk) -> None:
        self.path = path
        self._place = str(path)
        self.read_only = read_only
        self._relaxed = relaxed
        self._disk = disk
        self._process = os.getpid()
        self._identity = (0, 0)
        self._keeps_log = False
        self._still: tuple[int, ...] | None = (
            None  # what told the file's content, where it is read as one that does not change
        )
        self._writer: apsw.Connection | None = None
        self._wal_renewed = False
        self._watcher: apsw.Connection | None = None
        self._turn: Turn | None = None
        self._readers: list[apsw.Connection] = []
        self._lent: set[object] = set()  # one for each reader that is out
        # Taken itself, and not through the condition, whose methods are Python: Ctrl-C at their end would leave it taken.
        self._lock = Lock()
        self._reader_back = Condition(self._lock)
        self._closed = False
        self.wal_pages = 0  # after the writer's last commit
        self.writing = RLock()  # held while the writer is used
        self.number = next(_numbers)
        _stores.add(self)

    def open(self, *, make: Callable[[apsw.Connection], None] | None) -> None:
        """Check the library, the place and the file; make or migrate the file where `make` is given."""
        refuse_old_sqlite(apsw.sqlite_lib_version())
        files.refuse_network_file_system(self.path)
        if self.path.is_dir():
            raise UnsupportedStoreError(f"{self.path} is a folder where a store is one file; name a file in it")
        files.refuse_foreign_file(self.path)
        fresh = make is not None and not self.read_only and files.create_file(self.path)
        self._identity = files.identity(self._place)
        with translated(self.path):
            if not self.read_only:
                self._prepare(make)
            with self.reader() as connection:
                _check_version(connection, self.path)
        if fresh:
            files.sync_folder(self.path.parent)

    def open_beside(self) -> None:
        """Open a file that stands beside a store and can be made anew, making it where there is none; whoever uses it prepares it.

        Since it may be removed while it is open, its log stays when it is closed: SQLite would remove the log of the file that is made
        in its place.
        """
        self._keeps_log = True
        if not self.read_only:
            files.create_file(self.path)
        self._identity = files.identity(self._place)

    def is_there(self) -> bool:
        """Tell whether the file is still the one that was opened."""
        try:
            return files.identity(self._place) == self._identity
        except NotFoundError:
            return False

    def _prepare(self, make: Callable[[apsw.Connection], None] | None) -> None:
        """Bring the file to the schema of this version, one process at a time: SQLite does not wait for who makes a log."""
        with self.writing:
            writer = self.writer()
            if make is None or not _read_version(writer)[2]:
                _check_version(writer, self.path, older_allowed=True)
            if _is_current(writer):
                return
            turn = self.turn()
            turn.take(limits.LOCK_SECONDS_MAX)
            try:
                _prepare_file(writer, self.path, make=make)
            finally:
                turn.release()

    def writer(self) -> apsw.Connection:
        """Give the writer, opening it where it was closed. Call with `writing` held."""
        self.check_usable()
        if self.read_only:
            raise UnavailableError(f"{self.path} was opened read-only; nothing was written; open it without read_only")
        if self._writer is None:
            self._writer = self._connect(apsw.SQLITE_OPEN_READWRITE)
            self._wal_renewed = False
            self._writer.set_wal_hook(self._note_wal)
            self._writer.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
            # Of the log's file, once it starts again: else it would keep for good what one long reader made it take.
            self._writer.execute(f"PRAGMA journal_size_limit = {RESTART_PAGES * PAGE_BYTES}")
        return self._writer

    def renew_wal(self) -> None:
        """See once that what the write-ahead log held when the writer was opened is on the disk. Call in a write transaction,
        which keeps every other writer from the log.

        A commit whose sync failed may stand in the log whole. The next process takes it up, answers a repeated key from
        it and writes behind it; but the system counts its pages as written, and no sync brings them to the disk. Written
        again, byte for byte, they are new pages, and are synced.
        """
        if self._wal_renewed:
            return
        try:
            self._disk.rewrite(Path(f"{self.path}-wal"))
        except FileNotFoundError:
            pass  # nothing stands in it
        except OSError as error:
            raise UnavailableError(
                f"{self.path}-wal cannot be written ({error.strerror}); nothing was written; see to the disk and try again"
            ) from error
        self._wal_renewed = True

    def drop_writer(self) -> None:
        """Close the writer, after a commit or sync that failed: what it holds in memory is not to be trusted."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(apsw.Error):
                writer.close(True)

    def roll_back(self) -> None:
        """Undo what the writer has not committed; a writer that cannot is closed, which undoes it too."""
        if self._writer is not None:
            try:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
            except apsw.Error:
                self.drop_writer()

    def keep_wal_short(self) -> None:
        """Copy the write-ahead log into the file where it has grown. Call with the turn taken."""
        pages, connection = self.wal_pages, self._writer
        if pages < CHECKPOINT_PAGES or connection is None:
            return
        mode = apsw.SQLITE_CHECKPOINT_PASSIVE if pages < RESTART_PAGES else apsw.SQLITE_CHECKPOINT_RESTART
        connection.set_busy_timeout(0)  # a long reader of another program must not make every commit wait
        try:
            connection.wal_checkpoint(mode=mode)
        except apsw.Error:
            return  # what was committed is safe in the WAL; the next commit tries again, or fails itself
        finally:
            connection.set_busy_timeout(BUSY_MILLISECONDS)

    def _note_wal(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        """SQLite's hook after a commit. It replaces the automatic checkpoint, which the store does itself."""
        self.wal_pages = pages
        return apsw.SQLITE_OK

    @contextmanager
    def reader(self) -> Generator[apsw.Connection]:
        """Lend a reader. Reads are short: nobody keeps one while waiting."""
        mine = object()
        connection: apsw.Connection | None = None
        sound = False
        try:
            connection = self._take_reader(mine)
            with translated(self.path):
                try:
                    yield connection
                finally:
                    self._check_still()  # also where it seems damaged: it may have been written to half
            sound = True
        except EverlogError as error:
            # Who keeps the error of a damaged row keeps the frames that read it, and in them a statement that is not at its end.
            sound = not isinstance(error, CorruptionError) and not isinstance(error.__cause__, apsw.Error)
            raise
        except AwayError:
            sound = True
            raise
        finally:
            with self._lock:
                self._lent.discard(mine)
                if connection is not None and sound and not self._closed:
                    self._readers.append(connection)
                elif connection is not None:
                    connection.close(True)
                self._reader_back.notify()

    def data_version(self) -> int:
        """Give a number that changes when any other connection commits, this process's own included. 4 µs."""
        with self._lock:
            self.check_usable()
            if self._watcher is None:
                self._watcher = self._connect(self._read_mode())
            return self._watcher.pragma("data_version")

    def turn(self) -> Turn:
        """Give the turn that processes take to write this file. Call with `writing` held."""
        if self._turn is None:
            side = f"{self.path}-lock"
            try:
                self._turn = Turn(side)
            except OSError as error:
                raise UnavailableError(
                    f"{side} cannot be opened ({error.strerror}), so that nobody can take a turn to write; nothing was written; "
                    "see that the file and its folder may be written"
                ) from error
        return self._turn

    def _take_reader(self, borrower: object) -> apsw.Connection:
        with self._lock:
            self.check_usable()
            if not self._reader_back.wait_for(
                lambda: len(self._lent) < READERS_MAX or self._closed, limits.LOCK_SECONDS_MAX
            ):
                raise BusyError(f"all {READERS_MAX} readers of {self.path} are busy; try again later")
            self.check_usable()
            self._lent.add(borrower)
            if self._readers:
                return self._readers.pop()
        with translated(self.path):
            return self._connect(self._read_mode())

    def check_usable(self) -> None:
        """Refuse a closed store, one inherited by `fork()`, and a file that is not the one that was opened."""
        self.check_process()
        if self._closed:
            raise UnavailableError(f"the store {self.path} is closed; nothing was done; open it again")
        if self._identity != (0, 0):
            try:
                found = files.identity(self._place)
            except NotFoundError:
                found = None
            if found != self._identity:
                raise UnavailableError(
                    f"the file {self.path} was {'removed' if found is None else 'replaced'} while it was open; nothing was "
                    "written to what is there now; close this store and open it again"
                )

    def inherited(self) -> bool:
        """Tell whether this process was forked from the one that opened the store."""
        return self._process != os.getpid()

    def check_process(self) -> None:
        """Refuse a store inherited by `fork()`."""
        if self.inherited():
            raise UnsupportedStoreError(
                f"the store {self.path} was opened before this process was forked; nothing was done; open it again in the child"
            )

    def close(self) -> None:
        """Close every connection; readers that are lent are closed when they come back."""
        with self.writing, self._lock:
            self._closed = True
            if self._process == os.getpid():
                self._close_idle()
            self._reader_back.notify_all()

    def _close_idle(self) -> None:
        self.drop_writer()
        idle = self._readers if self._watcher is None else [*self._readers, self._watcher]
        for connection in idle:
            with suppress(apsw.Error):
                connection.close(True)
        self._readers.clear()
        self._watcher = None
        if self._turn is not None:
            self._turn.close()
            self._turn = None

    def before_fork(self) -> None:
        """Close every connection and keep others from opening one until the fork is done."""
        self.writing.acquire()
        self._lock.acquire()
        if not self._closed and self._process == os.getpid():
            self._reader_back.wait_for(lambda: not self._lent, limits.LOCK_SECONDS_MAX)
            self._close_idle()

    def after_fork(self) -> None:
        """Go on, in the parent; in the child the store only raises."""
        self._lock.release()
        self.writing.release()

    def _read_mode(self) -> int:
        """Readers of a store that is written to may have to make its WAL index, so they too open it for writing."""
        return apsw.SQLITE_OPEN_READONLY if self.read_only else apsw.SQLITE_OPEN_READWRITE

    def _connect(self, mode: int) -> apsw.Connection:
        try:
            return self._connected(mode)
        except (apsw.ReadOnlyError, apsw.CantOpenError):
            found = files.content(self.path) if self.read_only else None
            if found is None or (self._still is not None and found != self._still):
                raise
            self._still = found  # a write-ahead log needs files beside it, which cannot be made here
            return self._connected(mode)

    def _check_still(self) -> None:
        """Refuse what was read of a file as one that does not change, where it has."""
        if self._still is not None and files.content(self.path) != self._still:
            raise UnavailableError(
                f"{self.path} was read where nothing can be written beside it, and is written to by another program; close this "
                "store and open it again"
            )

    def _connected(self, mode: int) -> apsw.Connection:
        place = str(self.path)
        if self._still is not None:
            place, mode = files.unchanging(self.path), mode | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(place, flags=mode, vfs=self._disk.name, statementcachesize=100)
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
        if self._keeps_log:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if self._relaxed else 'FULL'}")
        connection.execute("PRAGMA cell_size_check = ON")
        if mode == apsw.SQLITE_OPEN_READWRITE:
            connection.execute("PRAGMA secure_delete = ON")
            if files.full_sync_needed() and not self._relaxed:
                connection.execute("PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON")
        return connection


class _Held(local):
    """What this thread holds while it forks. Meanwhile other threads open stores, and other threads fork."""

    connections: tuple[Connections, ...] = ()


_held = _Held()


def _hold_for_fork() -> None:
    """Hold all, a store before what stands beside it: who writes to both takes its locks in this order."""
    for connections in sorted(_stores, key=lambda connections: connections.number):
        connections.before_fork()
        _held.connections += (connections,)


def _let_go_after_fork() -> None:
    held, _held.connections = _held.connections, ()
    for connections in held:
        connections.after_fork()


os.register_at_fork(before=_hold_for_fork, after_in_parent=_let_go_after_fork, after_in_child=_let_go_after_fork)


def refuse_old_sqlite(version: str) -> None:
    """Raise UnsupportedStoreError for an SQLite older than 3.51.3."""
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    if major * 1_000_000 + minor * 1_000 + patch < SQLITE_VERSION_MIN:
        raise UnsupportedStoreError(
            f"the SQLite linked here is {version}; versions before 3.51.3 can lose commits (the WAL-reset bug); nothing was "
            "opened; install a current apsw: pip install --upgrade apsw"
        )


def _prepare_file(connection: apsw.Connection, path: Path, *, make: Callable[[apsw.Connection], None] | None) -> None:
    """Bring a fresh or older file to the schema of this version. Call with the turn taken."""
    application, version, empty = _read_version(connection)
    if _is_current(connection):  # another process was quicker
        return
    migrations = load_migrations("everlog.stores.sqlite")
    if empty and application == 0:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute(
            "PRAGMA auto_vacuum = INCREMENTAL"
        )  # what compacting frees can be given back a part at a time
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != ("wal",):
        raise UnsupportedStoreError(
            f"{path} cannot use a write-ahead log here ({mode}); nothing was written; use a local disk"
        )
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)  # a migration edits the statement that a table was made with
    try:
        connection.execute("BEGIN IMMEDIATE")
        for number, script in migrations[version:]:
            connection.execute(script)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        if empty and make is not None:
            make(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk ends it, and the error of a ROLLBACK would hide why
            connection.execute("ROLLBACK")
        raise
    finally:
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)


def _is_current(connection: apsw.Connection) -> bool:
    application, version, _ = _read_version(connection)
    return (application, version) == (APPLICATION_ID, len(load_migrations("everlog.stores.sqlite")))


def _read_version(connection: apsw.Connection) -> tuple[int, int, bool]:
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    return connection.pragma("application_id"), connection.pragma("user_version"), tables == [(0,)]


def _check_version(connection: apsw.Connection, path: Path, *, older_allowed: bool = False) -> None:
    known = len(load_migrations("everlog.stores.sqlite"))
    application, version, _ = _read_version(connection)
    if application != APPLICATION_ID:
        raise UnsupportedStoreError(
            f"{path} is a database of something else (application id {application:#x}); nothing was written; name another file"
        )
    if version > known:
        raise UnsupportedStoreError(
            f"{path} has schema version {version} and this Everlog knows up to {known}; nothing was written; upgrade everlog"
        )
    if version < known and not older_allowed:
        raise UnsupportedStoreError(
            f"{path} has schema version {version} where {known} is needed; nothing was written; open it once for writing"
        )


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Turn SQLite's errors into Everlog's, once, at the store's edge."""
    try:
        yield
    except (apsw.Error, *UNREADABLE) as error:
        raise translate(error, path) from error


def translate(error: Exception, path: Path) -> EverlogError:
    """Give the error that tells a caller what an error of SQLite means. Nothing was written, in each case."""
    match error:
        case apsw.BusyError() | apsw.LockedError():
            return BusyError(
                f"{path} is locked by another program for more than {BUSY_MILLISECONDS / 1000:.0f} s; nothing was written; see "
                "what holds it, or try again later"
            )
        case apsw.FullError():
            return UnavailableError(
                f"the disk that holds {path} is full; nothing was written; free some space and try again"
            )
        case apsw.ReadOnlyError():
            return UnavailableError(
                f"{path} or its folder cannot be written ({error}); nothing was written; correct its permissions, or open it "
                "with read_only=True to read it"
            )
        case apsw.CantOpenError():
            return UnavailableError(
                f"{path} cannot be opened ({error}); nothing was written; correct the permissions of the file and its folder"
            )
        case apsw.NotADBError():
            return UnsupportedStoreError(f"{path} is no SQLite database; nothing was written; name another file")
        case apsw.CorruptError() | UnicodeDecodeError() | msgspec.MsgspecError():
            return CorruptionError(
                f"{path} is damaged ({error}); nothing was written; keep a copy of it with its -wal file, and restore a backup"
            )
        case _:
            return UnavailableError(f"{path} cannot be used now: {error}; nothing was written; try again later")
