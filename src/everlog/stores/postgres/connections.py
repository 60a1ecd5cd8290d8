"""Connections to one PostgreSQL: pools of readers and writers, what is tried again, and what an error means to a caller.

1. A read that failed because the connection or the server went away is made again on another connection, for a while.
2. Statements that need no answer of one another are sent together (a pipeline): one round trip.
3. Nothing is set for longer than a transaction, so that a pooler may stand between. One that keeps no prepared statements is noticed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from threading import Lock
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from everlog.core import limits
from everlog.errors import (
    BusyError,
    CorruptionError,
    EverlogError,
    InvalidEventError,
    KeyNeededError,
    LimitError,
    UnavailableError,
    UnsupportedStoreError,
)
from everlog.stores.postgres.statements import BUCKET_BITS, Statements
from everlog.stores.postgres.wire import Parameters, PreparedConnection, run
from everlog.stores.rows import Row

T = TypeVar("T")
Connection = PreparedConnection

READERS_MAX: Final = 8
WRITERS_MAX: Final = 8  # 8 threads on 8 sessions: a fifth more appends than with 4, and no fewer than with 16 (2026-11)
# Of every connection: wire.py prepares what is prepared, and no variable of the environment says how text comes.
PLAIN: Final[Mapping[str, Any]] = {"prepare_threshold": None, "client_encoding": "utf8"}
RETRY_SECONDS: Final = 10.0  # how long a server that cannot be reached is tried again, as while it is started anew
_LARGE_MAX: Final = 1_000
_PAUSE_SECONDS: Final = 0.05
# Whoever meets these may do the same again: a conflict of transactions, a deadlock, a key that another just took, and a prepared
# statement that is not there, from when on none is prepared.
LOCKED: Final = "55P03"  # a lock that somebody else holds was waited for in vain
AGAIN: Final = ("40001", "40P01", "23505", "26000")


class Connections:
    """The connections of one store in one process. prepare: whether statements are prepared on the server."""

    def __init__(
        self,
        conninfo: str,
        statements: Statements,
        *,
        buckets: int,
        prepare: bool,
        read_only: bool,
        tenant: str | None,
    ) -> None:
        self.statements = statements
        self.tenant = tenant
        self.buckets = buckets
        self.read_only = read_only
        self._lasting = frozenset(statements.values()) if prepare else None  # what is prepared; None for nothing
        self.round_trips = 0  # that this process has waited for; for tests and `doctor`
        self.copies = True  # until a server has refused it
        self.large: frozenset[int] = (
            frozenset()
        )  # branches of which a page was met that its bytes end, and not its events
        self._process = os.getpid()
        self._closed = False
        keywords: dict[str, Any] = {
            "autocommit": True,
            **PLAIN,
            "application_name": "everlog",
        }
        make: Callable[..., ConnectionPool[Connection]] = lambda name, most: ConnectionPool(  # noqa: E731
            conninfo,
            connection_class=PreparedConnection,
            min_size=0,
            max_size=most,
            kwargs=keywords,
            name=name,
            timeout=RETRY_SECONDS,
            reconnect_timeout=RETRY_SECONDS,
            num_workers=1,
            open=False,
        )
        self._key_lock = Lock()
        self._last_number = 0
        self._readers = make("everlog-read", READERS_MAX)
        self._writers = make("everlog-write", WRITERS_MAX)

    def open(self) -> None:
        """Let connections be made."""
        self._readers.open()
        self._writers.open()

    def close(self) -> None:
        """Close all that are idle, and the others when they come back."""
        if not self._closed and not self.inherited():
            self._closed = True
            self._readers.close(timeout=1.0)
            self._writers.close(timeout=1.0)

    def bucket_of_name(self, name: str) -> int:
        """Give the bucket of a name's directory row, and of a session of that name that is no fork."""
        return int.from_bytes(sha256(name.encode()).digest()[:4]) % self.buckets

    def new_key(self, bucket: int) -> int:
        """Make a key: of this bucket, and above those made before. Another process may make the same, and is refused."""
        with self._key_lock:
            self._last_number = max(self._last_number + 1, time.time_ns() // 1_000)
            return bucket << BUCKET_BITS | self._last_number

    def note_large(self, branch: int) -> None:
        """Remember that pages of a branch are to be bounded by their bytes."""
        if branch not in self.large:
            self.large = frozenset({branch, *self.large}) if len(self.large) < _LARGE_MAX else frozenset({branch})

    def stop_copying(self, error: psycopg.Error) -> bool:
        """Use arrays from now on, where a server refused COPY: for row-level security's sake, or since it has none. False: it did not."""
        refused = isinstance(error, pg.FeatureNotSupported)
        self.copies = self.copies and not refused
        return refused

    def inherited(self) -> bool:
        """Tell whether this process was forked from the one that opened the store."""
        return self._process != os.getpid()

    def check_usable(self) -> None:
        """Refuse a closed store, and one inherited by `fork()`."""
        if self.inherited():
            raise UnsupportedStoreError(
                "the store was opened before this process was forked; nothing was done; open it again in the child"
            )
        if self._closed:
            raise UnavailableError("the store is closed; nothing was done; open it again")

    @contextmanager
    def writer(self) -> Generator[Connection]:
        """Lend a connection to write with."""
        self.check_usable()
        if self.read_only:
            raise UnavailableError("the store was opened read-only; nothing was written; open it without read_only")
        with lent(self._writers) as connection:
            yield connection

    def read(self, work: Callable[[Connection], T]) -> T:
        """Do reading work on a connection; again, on another, where the first was lost."""
        deadline = time.monotonic() + RETRY_SECONDS
        while True:
            self.check_usable()
            try:
                with lent(self._readers) as connection:
                    return work(connection)
            except psycopg.Error as error:
                if not (was_lost(error) or error.sqlstate in AGAIN) or time.monotonic() >= deadline:
                    raise translate(error) from error
            time.sleep(_PAUSE_SECONDS)

    def ask(
        self, statements: Sequence[tuple[bytes, Parameters]], *, planned_anew: bool = False
    ) -> list[list[TupleRow]]:
        """Send statements that read, in one round trip; give the rows of each.

        planned_anew: for these parameters, where a plan that is good for some is bad for others; so they are not prepared.
        """
        if self.tenant is None:
            return self.read(lambda connection: self.together(connection, statements, prepare=not planned_anew))
        named = self.statements
        around = [(named["begin"], None), (named["set_tenant"], {"tenant": self.tenant})]
        asked = [*around, *statements, (named["commit"], None)]
        return self.read(lambda connection: self.together(connection, asked, prepare=not planned_anew))[2:-1]

    def fetch_all(self, query: str, parameters: Parameters = None) -> list[TupleRow]:
        """Run a named query that reads; give all of its rows."""
        return self.ask([(self.statements[query], parameters)])[0]

    def fetch_one(self, query: str, parameters: Parameters = None) -> Row | None:
        """Run a named query that reads; give its first row, or None."""
        rows = self.fetch_all(query, parameters)
        return rows[0] if rows else None

    def execute(self, connection: Connection, statement: bytes, parameters: Parameters = None) -> list[TupleRow]:
        """Send one statement; give its rows."""
        return self.together(connection, [(statement, parameters)])[0]

    def together(
        self, connection: Connection, statements: Sequence[tuple[bytes, Parameters]], *, prepare: bool = True
    ) -> list[list[TupleRow]]:
        """Send statements in one round trip; give the rows of each. Where one fails, those behind it are not carried out."""
        self.round_trips += 1
        try:
            return run(connection, statements, self._lasting if prepare else None)
        except pg.InvalidSqlStatementName:  # a pooler gave this transaction another of its connections
            self._lasting = None
            raise


@contextmanager
def lent(pool: ConnectionPool[Connection]) -> Generator[Connection]:
    """Lend a connection of a pool. An error of psycopg goes through as it is."""
    try:
        with _replaced(pool):
            connection = pool.getconn()
    except PoolTimeout as error:
        raise BusyError(
            f"no connection to PostgreSQL was free, or could be made, within {RETRY_SECONDS:.0f} s; nothing was done; see whether the "
            "server runs, and how many connections it allows"
        ) from error
    try:
        yield connection
    finally:
        with _replaced(pool):
            pool.putconn(connection)


@contextmanager
def _replaced(pool: ConnectionPool[Connection]) -> Generator[None]:
    """Let a pool make a connection more where Ctrl-C came while one was taken or given back: it counts that as lent for ever."""
    try:
        yield
    except KeyboardInterrupt:
        pool.resize(pool.min_size, pool.max_size + 1)
        raise


def was_lost(error: psycopg.Error) -> bool:
    """Tell whether a connection, or its server, went away: nothing is said about what was under way."""
    if isinstance(error, (pg.AdminShutdown, pg.CrashShutdown, pg.CannotConnectNow)):
        return True
    return (error.sqlstate is None and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))) or (
        error.sqlstate or ""
    ).startswith("08")


def was_rewrapped(error: psycopg.Error) -> bool:
    """Tell whether a data key was refused since what wraps it is not current any more."""
    return error.sqlstate == "23502" and error.diag.column_name == "wrapping"


def translate(error: psycopg.Error) -> EverlogError:
    """Say what an error of the server means. Nothing was written: an unknown outcome is told of by whoever committed."""
    said = str(error).strip().partition("\n")[0]
    state = error.sqlstate or ("22021" if isinstance(error, psycopg.DataError) else "")  # refused before it was sent
    match state:
        case "55P03" | "57014" | "40001" | "40P01" | "23505":
            return BusyError(
                f"the database was busy for {limits.LOCK_SECONDS_MAX:.0f} s ({said}); nothing was written; try again later"
            )
        case _ if was_rewrapped(error):
            return KeyNeededError(
                "the store encrypts with another key by now; nothing was written; open it with that key: encrypt=, or EVERLOG_ENCRYPT"
            )
        case "42501":
            return UnavailableError(
                f"the database role may not do this ({said}); nothing was written; connect as a role that may: see everlog init --roles"
            )
        case "25006":
            return UnavailableError(
                f"the server takes no writes ({said}); nothing was written; connect to the primary, or as a role whose "
                "default_transaction_read_only is off"
            )
        case "22P05" | "22021":
            return InvalidEventError(
                f"PostgreSQL cannot keep this text ({said}); nothing was written; take the character NUL out of it"
            )
        case "54000":
            return LimitError(f"this is larger than PostgreSQL takes ({said}); nothing was written; use a smaller one")
        case "XX001" | "XX002":
            return CorruptionError(
                f"the database says that its files are damaged ({said}); nothing was written; keep a copy, and restore a backup"
            )
        case "3F000" | "42P01":
            return UnsupportedStoreError(f"there is no store here ({said}); make one: everlog init")
        case "42703":
            return UnsupportedStoreError(
                f"the schema holds tables that are not of this Everlog ({said}); nothing was written; choose another schema: ?schema="
            )
        case "":
            return UnavailableError(
                f"the server cannot be used ({said}); nothing was written; see that it runs, and that the address is right: "
                "everlog doctor; then try again"
            )
        case _:
            return UnavailableError(f"the database cannot be used now ({said}); nothing was written; try again later")
