"""Running named queries: rows come as tuples of Any, since SQL's types are not Python's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apsw

from everlog.stores.queries import load_queries

QUERIES = load_queries("everlog.stores.sqlite")

Row = tuple[Any, ...]


def fetch_one(connection: apsw.Connection, query: str, parameters: Mapping[str, Any] | None = None) -> Row | None:
    """Run a named query; give its first row, or None."""
    return connection.execute(QUERIES[query], parameters).fetchone()


def fetch_row(connection: apsw.Connection, query: str, parameters: Mapping[str, Any] | None = None) -> Row:
    """Run a named query that always gives a row; give it."""
    row = fetch_one(connection, query, parameters)
    assert row is not None, f"{query} gives a row"
    return row


def fetch_all(connection: apsw.Connection, query: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
    """Run a named query; give all of its rows."""
    return connection.execute(QUERIES[query], parameters).fetchall()


def fetch_each(connection: apsw.Connection, query: str, parameters: Mapping[str, Any] | None = None) -> Iterator[Row]:
    """Run a named query; give its rows one by one, as they are read."""
    return connection.execute(QUERIES[query], parameters)


def run(connection: apsw.Connection, query: str, parameters: Mapping[str, Any] | None = None) -> None:
    """Run a named query that gives nothing."""
    connection.execute(QUERIES[query], parameters)


def run_many(connection: apsw.Connection, query: str, rows: Iterable[Any]) -> None:
    """Run a named query once for each row of parameters."""
    connection.executemany(QUERIES[query], rows)
