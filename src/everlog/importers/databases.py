"""SQLite files of other programs, read without changing anything of them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import apsw

from everlog.errors import InvalidEventError, NotFoundError

_BUSY_MILLISECONDS = 5_000  # the program may be writing


@contextmanager
def opened(path: Path, what: str, tables: Mapping[str, frozenset[str]]) -> Generator[apsw.Connection]:
    """Open a SQLite file to read, in one transaction, so that all of it is of one moment.

    what: whose it should be, for errors. tables: that it must have, with the columns that are read of each.
    Raises NotFoundError where it cannot be read, and InvalidEventError where it is no such file.
    """
    try:
        connection = _connect(path)
    except apsw.Error as error:
        raise _no_such(path, what, str(error)) from error
    try:
        connection.set_busy_timeout(_BUSY_MILLISECONDS)
        try:
            connection.execute("BEGIN")
            for table, columns in tables.items():
                lacking = columns - columns_of(connection, table)
                if lacking:
                    raise _no_such(path, what, f"it has no {table}.{min(lacking)}")
        except apsw.Error as error:
            raise _no_such(path, what, str(error)) from error
        yield connection
    except apsw.Error as error:
        raise NotFoundError(
            f"{path} cannot be read to its end ({error}); what was read before is imported; see that nothing else holds or changes "
            "it, and import again"
        ) from error
    finally:
        connection.close()


def columns_of(connection: apsw.Connection, table: str) -> frozenset[str]:
    """Give the columns of a table; none where there is no such table."""
    return frozenset(str(name) for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,)))


def _connect(path: Path) -> apsw.Connection:
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}; nothing of it was imported")
    name = f"file:{quote(str(path.absolute()))}"
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    try:
        connection = apsw.Connection(f"{name}?mode=ro", flags=flags)
        connection.execute("SELECT 1 FROM sqlite_schema").fetchall()
    except apsw.CantOpenError:
        # A write-ahead log needs files beside it: in a folder that cannot be written, a database without one is read as it stands.
        if path.with_name(f"{path.name}-wal").exists():
            raise
        connection = apsw.Connection(f"{name}?immutable=1", flags=flags)
    return connection


def _no_such(path: Path, what: str, why: str) -> InvalidEventError:
    return InvalidEventError(
        f"{path} is no database of {what}: {why}; nothing of it was imported; name another file or format"
    )
