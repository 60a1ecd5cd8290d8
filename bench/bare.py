"""Bare SQLite: the same rows into the same tables and indexes, with the same syncs, and nothing else.

No hashing, no heads, no decisions: rows are made before the clock starts, random bytes where a salt, a leaf or a node would
stand. What Everlog costs above this is what its laws cost.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import apsw

COLUMNS = (
    "branch, position, type, actor, outcome, recorded, occurred, cause, key, key_count, key_hash, covers, gone, attached, "
    "commitments, leaf, nodes, salt, body"
)
INSERT = f"INSERT INTO event ({COLUMNS}) VALUES ({', '.join('?' * 19)})"
TIP = "UPDATE branch SET size = ?, recorded = ?, leaf = ?, peaks = ? WHERE branch = 1"
PEAKS = os.urandom(32 * 10)


class Bare:
    """A file with Everlog's tables, written to directly."""

    def __init__(self, path: Path) -> None:
        self.connection = apsw.Connection(str(path))
        self.connection.execute("PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
        self.connection.wal_autocheckpoint(2_000)
        self.connection.execute(files("everlog.stores.sqlite").joinpath("schema.sql").read_text(encoding="utf-8"))
        self.connection.execute("INSERT INTO family VALUES (1, ?, ?)", (os.urandom(16), os.urandom(32)))
        self.connection.execute(
            "INSERT INTO session (id, family, name, labels, salt, created) VALUES (?, 1, 's', '{}', ?, 0)",
            (os.urandom(16), os.urandom(32)),
        )
        self.connection.execute(
            "INSERT INTO branch (id, session, number, writer, base_size, size, recorded, peaks, created) "
            "VALUES (?, 1, 1, ?, 0, 0, 0, x'', 0)",
            (os.urandom(16), os.urandom(16)),
        )
        self.position = 0

    def rows(self, count: int, body: bytes) -> list[tuple[object, ...]]:
        """Make rows for the next `count` events, before the clock starts."""
        made: list[tuple[object, ...]] = []
        for position in range(self.position, self.position + count):
            nodes = os.urandom(32 * ((position + 1) & -(position + 1)).bit_length() - 32)
            digest = os.urandom(96)
            made.append(
                (
                    1, position, "user.message", None, None, 1_795_000_000_000_000 + position, None, None, None, None, None,
                    None, None, None, digest[:32], digest[32:64], nodes, digest[64:], body,
                )
            )  # fmt: skip
        self.position += count
        return made

    def append(self, row: tuple[object, ...]) -> None:
        """Write one row and the branch's state, durably."""
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        execute(INSERT, row)  # pyright: ignore[reportArgumentType]
        execute(TIP, (row[1], row[5], row[15], PEAKS))  # pyright: ignore[reportArgumentType]
        execute("COMMIT")

    def extend(self, rows: list[tuple[object, ...]]) -> None:
        """Write rows and the branch's state, durably, in one transaction."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(INSERT, rows)  # pyright: ignore[reportArgumentType]
        last = rows[-1]
        self.connection.execute(TIP, (last[1], last[5], last[15], PEAKS))  # pyright: ignore[reportArgumentType]
        self.connection.execute("COMMIT")
