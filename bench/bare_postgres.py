"""Bare PostgreSQL: the same rows into the same tables and indexes, and nothing else, as bench/bare.py does with SQLite.

One row is written as a plain program writes it: BEGIN, the two updates, the insert and COMMIT one after another. Statements are
prepared, and parameters go in binary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import psycopg

from everlog.stores.postgres.statements import Statements

Values = tuple[Any, ...]

SCHEMA: Final = "bare"
BUCKET: Final = 3
BRANCH: Final = BUCKET << 53 | 1
TYPES: Final = {
    "branch": "bigint",
    "position": "bigint",
    "feed": "bigint",
    "type": "text",
    "actor": "text",
    "outcome": "text",
    "recorded": "bigint",
    "occurred": "bigint",
    "cause": "bytea",
    "key": "text",
    "key_count": "integer",
    "key_hash": "bytea",
    "covers": "text",
    "gone": "smallint",
    "attached": "text",
    "commitments": "bytea",
    "leaf": "bytea",
    "nodes": "bytea",
    "salt": "bytea",
    "body": "bytea",
}
COLUMNS: Final = ", ".join(TYPES)
PLACES: Final = ", ".join(["%b"] * len(TYPES))
ARRAYS: Final = ", ".join(f"%b::{kind}[]" for kind in TYPES.values())
INSERT: Final = f"INSERT INTO bare.event (bucket, {COLUMNS}) VALUES (3, {PLACES})"
UNNEST: Final = f"INSERT INTO bare.event (bucket, {COLUMNS}) SELECT 3, * FROM unnest({ARRAYS})"
COPY: Final = f"COPY bare.event (bucket, {COLUMNS}) FROM STDIN (FORMAT BINARY)"
TIP: Final = (
    "UPDATE bare.tip SET size = %b, recorded = %b, minute = %b, leaf = %b, peaks = %b WHERE bucket = 3 AND branch = %b"
)
COUNT: Final = "UPDATE bare.bucket SET feed = feed + %b WHERE bucket = 3"
PEAKS: Final = os.urandom(32 * 10)
POSITION, RECORDED, LEAF = 1, 6, 16  # of a row's values


class Bare:
    """A schema with Everlog's tables, written to directly."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        statements = Statements(SCHEMA)
        self.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        self.execute(f"CREATE SCHEMA {SCHEMA}")
        for _, script in statements.migrations():
            self.connection.execute(script)
        self.connection.execute(statements["insert_buckets"], {"buckets": 16})
        tip = {"bucket": BUCKET, "branch": BRANCH, "size": 0, "recorded": 0, "leaf": None, "peaks": b""}
        self.connection.execute(statements["insert_tip"], tip)
        self.position = 0

    def execute(self, query: str, values: Sequence[Any] | None = None) -> None:
        """Send a statement and wait for it; it is prepared the first time that it has values."""
        self.connection.execute(query.encode(), values, prepare=values is not None)

    def rows(self, count: int, body: bytes) -> list[Values]:
        """Make rows for the next `count` events, before the clock starts."""
        made: list[Values] = []
        for position in range(self.position, self.position + count):
            nodes = os.urandom(32 * ((position + 1) & -(position + 1)).bit_length() - 32)
            digest = os.urandom(96)
            made.append(
                (
                    BRANCH, position, position + 1, "user.message", None, None, 1_795_000_000_000_000 + position, None, None,
                    None, None, None, None, None, None, None, digest[:32], nodes, digest[64:], body,
                )
            )  # fmt: skip
        self.position += count
        return made

    def append(self, row: Values) -> None:
        """Write one row, the branch's end and the bucket's counter, durably."""
        self.execute("BEGIN")
        self._end([row])
        self.execute(INSERT, row)
        self.execute("COMMIT")

    def extend(self, rows: list[Values]) -> None:
        """Write rows as one array a column."""
        self.execute("BEGIN")
        self._end(rows)
        self.execute(UNNEST, [list(column) for column in zip(*rows, strict=True)])
        self.execute("COMMIT")

    def copy(self, rows: list[Values]) -> None:
        """Write rows by COPY."""
        self.execute("BEGIN")
        self._end(rows)
        with self.connection.cursor() as cursor, cursor.copy(COPY.encode()) as copy:
            copy.set_types(["smallint", *TYPES.values()])
            for row in rows:
                copy.write_row((BUCKET, *row))
        self.execute("COMMIT")

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _end(self, rows: list[Values]) -> None:
        last = rows[-1]
        recorded: int = last[RECORDED]
        self.execute(TIP, (last[POSITION] + 1, recorded, recorded // 60_000_000, last[LEAF], PEAKS, BRANCH))
        self.execute(COUNT, (len(rows),))
