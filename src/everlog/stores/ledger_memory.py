"""The ledger in memory: the specification of what a store does with its records, their tree, and seals."""

from __future__ import annotations

from collections.abc import Sequence
from threading import RLock

from everlog.core.ledger import EraseRecord, LedgerRecord, encode_record
from everlog.core.limits import PAGE_EVENTS_MAX
from everlog.core.merkle import node_in_row, node_position
from everlog.sealed import LedgerEntry, LedgerTree, Placed, PlaceRecords, PutSeal, SealRequest, SealRow


class MemoryLedger:
    """Implements everlog.sealed.SealedStorage but for what it says of branches, and what `Storage` says of the ledger."""

    def __init__(self) -> None:
        self._ledger: list[LedgerEntry] = []
        self._erasures: dict[bytes, LedgerEntry] = {}  # by leaf
        self._placed: list[Placed] = []
        self._seals: dict[bytes, SealRow] = {}  # by note
        self._tree = LedgerTree(0, b"")
        self._ordered = 0  # number of the last entry that has a place

    def _open(self) -> RLock:
        """Give the lock, where the store is open."""
        raise NotImplementedError

    def ledger(self, after: int, limit: int) -> list[LedgerEntry]:
        with self._open():
            return self._ledger[after : after + limit]

    def erasure(self, leaf: bytes) -> LedgerEntry | None:
        with self._open():
            return self._erasures.get(leaf)

    def ledger_tree(self) -> LedgerTree:
        with self._open():
            return self._tree

    def pending(self, limit: int) -> list[LedgerEntry]:
        with self._open():
            return self._ledger[self._ordered : self._ordered + limit]

    def placed(self, start: int, stop: int) -> list[Placed]:
        with self._open():
            return self._placed[start : min(stop, start + PAGE_EVENTS_MAX)]

    def ledger_nodes(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        with self._open():
            rows = [(level, self._placed[node_position(level, index)]) for level, index in places]
            return [node_in_row(level, row.leaf, row.nodes) for level, row in rows]

    def head_place(self, branch: str, size: int, below: int) -> int | None:
        with self._open():
            rows = enumerate(self._placed[:below])
            return next((place for place, row in rows if row.branch == branch and (row.size or 0) >= size), None)

    def seals(self, before: int, limit: int) -> list[SealRow]:
        with self._open():
            found = [row for row in reversed(self._seals.values()) if row.size < before]
            return sorted(found, key=lambda row: -row.size)[:limit]

    # --- inside a transaction ---
    def insert_ledger(self, record: LedgerRecord, reason: str | None) -> None:
        """See Transaction.insert_ledger."""
        self._ledger.append(LedgerEntry(len(self._ledger) + 1, encode_record(record), reason))
        if isinstance(record, EraseRecord):
            for _, leaf in record.events:
                self._erasures.setdefault(bytes.fromhex(leaf), self._ledger[-1])

    def seal(self, request: SealRequest, now: int) -> int:
        """See Transaction.seal."""
        if isinstance(request, PutSeal):
            row = SealRow(request.origin, request.size, now, request.note)
            return int(self._seals.setdefault(request.note, row) is row)
        if request.size != self._tree.size:
            return 0
        assert isinstance(request, PlaceRecords), "there are two such requests"
        self._placed.extend(request.rows)
        self._tree = request.after
        self._ordered = max(self._ordered, *(row.entry or 0 for row in request.rows))
        return len(request.rows)
