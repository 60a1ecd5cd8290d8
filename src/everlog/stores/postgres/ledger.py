"""The ledger in PostgreSQL: its records, their tree, and seals.

1. Records are pending in their sessions' buckets; the tree is in bucket 0, one a tenant, and whoever puts records into it holds that
   bucket's row. With them they leave what is pending, in the same transaction: the one that touches several buckets.
2. Entries' keys do not grow in the order of commits, so what is pending is a table, and not all behind the last that has a place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import msgspec

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
from everlog.stores.postgres.connections import Connections
from everlog.stores.postgres.statements import bucket_of
from everlog.stores.rows import Row

_decode_feeds = msgspec.json.Decoder(tuple[tuple[int, int], ...]).decode


class PostgresLedger:
    """Implements everlog.sealed.SealedStorage, and what `Storage` says of the ledger."""

    connections: Connections

    def ledger(self, after: int, limit: int) -> list[LedgerEntry]:
        rows = self.connections.fetch_all("read_ledger", {"after": after, "limit": limit})
        return [LedgerEntry(*row) for row in rows]

    def erasure(self, leaf: bytes) -> LedgerEntry | None:
        row = self.connections.fetch_one("read_erasure", {"leaf": leaf})
        return None if row is None else LedgerEntry(*row)

    def ledger_tree(self) -> LedgerTree:
        return _tree(self.connections.fetch_all("read_tree", {}))

    def pending(self, limit: int) -> list[LedgerEntry]:
        query = "read_pending" if self.connections.fetch_all("read_tree", {}) else "read_first_pending"
        return [LedgerEntry(*row) for row in self.connections.fetch_all(query, {"limit": limit})]

    def changed(self, feeds: Sequence[tuple[int, int]]) -> Changed:
        after = dict(feeds)
        ends: dict[int, int] = {bucket: end for bucket, end, _ in self.connections.fetch_all("read_counters")}
        reached = {bucket: min(end, after.get(bucket, 0) + SCAN_EVENTS_MAX) for bucket, end in ends.items()}
        query = self.connections.statements["read_fed_branches"]
        asked = [
            (query, {"bucket": bucket, "after": after.get(bucket, 0), "end": end})
            for bucket, end in reached.items()
            if end > after.get(bucket, 0)
        ]
        found = self.connections.ask(asked) if asked else []
        branches = frozenset(branch for rows in found for _, branch in rows)
        return Changed(branches, tuple(sorted(reached.items())), reached != ends)

    def branch_heads(self, branches: Sequence[int]) -> list[BranchHead]:
        if not branches:
            return []
        owned: dict[int, list[int]] = {}
        for branch in branches:
            owned.setdefault(bucket_of(branch), []).append(branch)
        query = self.connections.statements["read_branch_heads"]
        found = self.connections.ask([(query, {"bucket": at, "branches": own}) for at, own in sorted(owned.items())])
        return [_branch_head(row) for rows in found for row in rows]

    def placed(self, start: int, stop: int) -> list[Placed]:
        rows = self.connections.fetch_all("read_placed", {"start": start, "stop": min(stop, start + PAGE_EVENTS_MAX)})
        return [
            Placed(entry, record, leaf, nodes, None if branch is None else branch.hex(), size)
            for entry, record, leaf, nodes, branch, size in rows
        ]

    def ledger_nodes(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        positions = [node_position(level, index) for level, index in places]
        rows = self.connections.fetch_all("read_placed_nodes", {"places": positions})
        found = {place: (leaf, nodes) for place, leaf, nodes in rows}
        if missing := sorted(set(positions) - found.keys()):
            raise record_is_gone(missing[0])
        return [node_in_row(level, *found[at]) for (level, _), at in zip(places, positions, strict=True)]

    def head_place(self, branch: str, size: int, below: int) -> int | None:
        given = {"branch": bytes.fromhex(branch), "size": size, "below": below}
        row = self.connections.fetch_one("read_head_place", given)
        return None if row is None else row[0]

    def seals(self, before: int, limit: int) -> list[SealRow]:
        rows = self.connections.fetch_all("list_seals", {"before": before, "limit": limit})
        return [SealRow(*row) for row in rows]


def _tree(rows: Sequence[Row]) -> LedgerTree:
    if not rows:
        return LedgerTree(0, b"")
    size, peaks, feeds = rows[0]
    return LedgerTree(size, peaks, _decode_feeds(feeds))


def _branch_head(row: Row) -> BranchHead:
    branch, session, size, peaks, base, base_size = row
    head = Head(size, root_of_joined(peaks).hex())
    return BranchHead(branch.hex(), session.hex(), head, None if base is None else base.hex(), base_size)


class LedgerWriter:
    """What a write transaction of bucket 0 does with the tree. fetch, write: run a named query that reads, or that writes."""

    def __init__(
        self,
        fetch: Callable[[str, dict[str, Any]], Sequence[Row]],
        write: Callable[[str, dict[str, Any]], None],
        *,
        now: int,
    ) -> None:
        self._fetch = fetch
        self._write = write
        self._now = now

    def carry_out(self, request: SealRequest) -> int:
        """Carry out a request about the tree; give what its receipt counts."""
        match request:
            case PutSeal(origin, size, note):
                digest = sha256(note).digest()
                seal = {"origin": origin, "size": size, "made": self._now, "digest": digest, "note": note}
                self._write("insert_seal", seal)
                return 1
            case PlaceRecords(size, rows, after):
                there = self._fetch("read_tree", {})
                if _tree(there).size != size:
                    return 0
                if not there:
                    self._write("fill_pending", {})
                    self._write("insert_tree", {})
                self._place(size, rows)
                feeds = msgspec.json.encode(after.feeds).decode()
                self._write("set_tree", {"size": after.size, "peaks": after.peaks, "feeds": feeds})
                return len(rows)

    def _place(self, start: int, rows: Sequence[Placed]) -> None:
        columns: dict[str, Any] = {
            "places": list(range(start, start + len(rows))),
            "entries": [row.entry for row in rows],
            "records": [row.record for row in rows],
            "branches": [None if row.branch is None else bytes.fromhex(row.branch) for row in rows],
            "sizes": [row.size for row in rows],
            "leaves": [row.leaf for row in rows],
            "nodes": [row.nodes for row in rows],
        }
        self._write("insert_placed", columns)
        entries = [row.entry for row in rows if row.entry is not None]
        if entries:
            buckets = sorted({bucket_of(entry) for entry in entries})
            self._write("drop_pending", {"buckets": buckets, "entries": entries})
