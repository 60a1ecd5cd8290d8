"""SQLite files of other programs, read without changing anything of them.

They are read with the SQLite that Python brings, as the programs do: where two SQLites in one process have a file open, one that
closes it takes the other's locks away.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from everlog.errors import BusyError, EverlogError, InvalidEventError, NotFoundError

_BUSY_SECONDS = 5  # the program may be writing
_NOTHING_BESIDE = (
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
)  # what SQLite says where it cannot make files beside the database


@contextmanager
def opened(path: Path, what: str, tables: Mapping[str, frozenset[str]]) -> Generator[sqlite3.Connection]:
    """Open a SQLite file to read, in one transaction, so that all of it is of one moment.

    what: whose it should be, for errors. tables: that it must have, with the columns that are read of each.
    Raises NotFoundError where it cannot be read, or not to its end, BusyError where it is locked, and InvalidEventError where it is no
    such file.
    """
    try:
        connection = _connect(path)
    except sqlite3.Error as error:
        raise _not_opened(path, what, error) from error
    try:
        try:
            connection.execute("BEGIN")
            for table, columns in tables.items():
                lacking = columns - columns_of(connection, table)
                if lacking:
                    raise no_database(path, what, f"it has no {table}.{min(lacking)}")
        except sqlite3.Error as error:
            raise _not_opened(path, what, error) from error
        yield connection
    except sqlite3.Error as error:
        raise NotFoundError(
            f"{path} cannot be read to its end ({error}); what was read before is imported; see that nothing else holds or changes "
            "it, and import again"
        ) from error
    finally:
        connection.close()


def columns_of(connection: sqlite3.Connection, table: str) -> frozenset[str]:
    """Give the columns of a table; none where there is no such table."""
    return frozenset(str(name) for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,)))


def _connect(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}; nothing of it was imported")
    try:
        return _connected(path, "mode=ro")
    except sqlite3.OperationalError as error:
        # A write-ahead log needs files beside it: in a folder that cannot be written, a database without one is read as it stands.
        if error.sqlite_errorcode & 0xFF not in _NOTHING_BESIDE or path.with_name(f"{path.name}-wal").exists():
            raise
        return _connected(path, "immutable=1")


def _connected(path: Path, how: str) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?{how}"
    connection = sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        connection.execute("SELECT 1 FROM sqlite_schema").fetchall()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _not_opened(path: Path, what: str, error: sqlite3.Error) -> EverlogError:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:  # Python's own have none
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return BusyError(
                f"{path} has been locked by another program for {_BUSY_SECONDS} s; nothing of it was imported; end that program, or "
                "import again when it has let go of it"
            )
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_IOERR:
            return NotFoundError(
                f"{path} cannot be read ({error}); nothing of it was imported; see to the permissions of the file and its folder, or "
                "import a copy of it and of what stands beside it"
            )
        case _:
            return no_database(path, what, str(error))


def no_database(path: Path, what: str, why: str) -> InvalidEventError:
    """Give the error for a file that is not what it should be."""
    return InvalidEventError(
        f"{path} is no database of {what}: {why}; nothing of it was imported; name another file or format"
    )
