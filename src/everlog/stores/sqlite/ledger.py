"""The ledger in SQLite: its records, their tree, and seals."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import apsw

from everlog.core.event import Head
from everlog.core.limits import PAGE_EVENTS_MAX, SCAN_EVENTS_MAX
from everlog.core.merkle import node_in_row, node_position, root_of_joined
from everlog.sealed import (
    BranchHead,
    Changed,
    LedgerEntry,
    LedgerTree,
    Placed,
    PlaceRecords,
    PutSeal,
    SealRequest,
    SealRow,
    record_is_gone,
)
from everlog.stores.sqlite.connections import Connections
from everlog.stores.sqlite.run import fetch_all, fetch_each, fetch_one, run, run_many


class SqliteLedger:
    """Implements everlog.sealed.SealedStorage, and what `Storage` says of the ledger, on one file."""

    _connections: Connections

    def ledger(self, after: int, limit: int) -> list[LedgerEntry]:
        with self._connections.reader() as connection:
            return [
                LedgerEntry(*row) for row in fetch_each(connection, "read_ledger", {"after": after, "limit": limit})
            ]

    def erasure(self, leaf: bytes) -> LedgerEntry | None:
        with self._connections.reader() as connection:
            row = fetch_one(connection, "read_erasure", {"leaf": leaf})
        return None if row is None else LedgerEntry(*row)

    def ledger_tree(self) -> LedgerTree:
        with self._connections.reader() as connection:
            return _read_tree(connection)

    def pending(self, limit: int) -> list[LedgerEntry]:
        with self._connections.reader() as connection:
            return [LedgerEntry(*row) for row in fetch_each(connection, "read_pending", {"limit": limit})]

    def changed(self, feeds: Sequence[tuple[int, int]]) -> Changed:
        after = dict(feeds).get(0, 0)
        with self._connections.reader() as connection:
            rows = fetch_all(connection, "read_fed_branches", {"after": after, "limit": SCAN_EVENTS_MAX})
        end: int = rows[-1][0] if rows else after
        return Changed(frozenset(branch for _, branch in rows), ((0, end),), len(rows) == SCAN_EVENTS_MAX)

    def branch_heads(self, branches: Sequence[int]) -> list[BranchHead]:
        with self._connections.reader() as connection:
            rows = [fetch_one(connection, "read_branch_head", {"branch": branch}) for branch in branches]
        return [
            BranchHead(
                branch.hex(),
                session.hex(),
                Head(size, root_of_joined(peaks).hex()),
                None if base is None else base.hex(),
                base_size,
            )
            for branch, session, size, peaks, base, base_size in (row for row in rows if row is not None)
        ]

    def placed(self, start: int, stop: int) -> list[Placed]:
        bounds = {"start": start, "stop": min(stop, start + PAGE_EVENTS_MAX)}
        with self._connections.reader() as connection:
            rows = fetch_all(connection, "read_placed", bounds)
        return [
            Placed(entry, record, leaf, nodes, None if branch is None else branch.hex(), size)
            for entry, record, leaf, nodes, branch, size in rows
        ]

    def ledger_nodes(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        with self._connections.reader() as connection:
            return [_node(connection, level, index) for level, index in places]

    def head_place(self, branch: str, size: int, below: int) -> int | None:
        given = {"branch": bytes.fromhex(branch), "size": size, "below": below}
        with self._connections.reader() as connection:
            row = fetch_one(connection, "read_head_place", given)
        return None if row is None else row[0]

    def seals(self, before: int, limit: int) -> list[SealRow]:
        with self._connections.reader() as connection:
            return [SealRow(*row) for row in fetch_each(connection, "list_seals", {"before": before, "limit": limit})]


def _node(connection: apsw.Connection, level: int, index: int) -> bytes:
    place = node_position(level, index)
    row = fetch_one(connection, "read_placed_node", {"place": place})
    if row is None:
        raise record_is_gone(place)
    return node_in_row(level, *row)


def _read_tree(connection: apsw.Connection) -> LedgerTree:
    row = fetch_one(connection, "read_tree")
    if row is None:
        return LedgerTree(0, b"")
    size, peaks, feed = row
    return LedgerTree(size, peaks, ((0, feed),))


def carry_out_seal(connection: apsw.Connection, request: SealRequest, now: int) -> int:
    """Carry out a request about the tree in an open write transaction; give what its receipt counts."""
    match request:
        case PutSeal(origin, size, note):
            digest = sha256(note).digest()
            run(
                connection,
                "insert_seal",
                {"origin": origin, "size": size, "made": now, "digest": digest, "note": note},
            )
            return connection.changes()
        case PlaceRecords(size, rows, after):
            if _read_tree(connection).size != size:
                return 0
            run(connection, "insert_tree")
            run_many(connection, "insert_placed", [_columns(place, row) for place, row in enumerate(rows, size)])
            feed = dict(after.feeds).get(0, 0)
            run(connection, "set_tree", {"size": after.size, "peaks": after.peaks, "feed": feed})
            return len(rows)


def _columns(place: int, row: Placed) -> dict[str, Any]:
    return {
        "place": place,
        "entry": row.entry,
        "record": row.record if row.entry is None else None,
        "branch": None if row.branch is None else bytes.fromhex(row.branch),
        "size": row.size,
        "leaf": row.leaf,
        "nodes": row.nodes,
    }
