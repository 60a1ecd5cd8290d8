"""Snapshots in memory: the specification of what a store does with them."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Container, Sequence

import msgspec

from everlog.core.lineage import Lineage
from everlog.core.snapshot import Snapshot

Place = tuple[int, bytes, int]  # branch, fingerprint, size


class Shelf:
    """Snapshots by branch, fingerprint and size."""

    def __init__(self) -> None:
        self._rows: dict[Place, Snapshot] = {}
        self._sizes: dict[tuple[int, bytes], list[int]] = {}  # in order

    def chain(self, lineage: Lineage, size: int, fingerprint: bytes) -> list[Snapshot]:
        """See Storage.snapshot_chain."""
        for segment in reversed(lineage.clip(0, size)):
            sizes = self._sizes.get((segment.branch, fingerprint), [])
            index = bisect_right(sizes, segment.stop) - 1
            if index >= 0 and sizes[index] > segment.start:
                return self._bases(segment.branch, fingerprint, sizes[index])
        return []

    def _bases(self, branch: int, fingerprint: bytes, size: int) -> list[Snapshot]:
        chain = [self._rows[branch, fingerprint, size]]
        while (base := chain[-1].base) is not None and (base[0], fingerprint, base[1]) in self._rows:
            chain.append(self._rows[base[0], fingerprint, base[1]])
        return chain[::-1]

    def listed(self, branch: int | None, after: Place, limit: int) -> list[Snapshot]:
        """See Storage.snapshots."""
        low = after if branch is None else (branch, after[1], after[2])
        places = sorted(place for place in self._rows if place > low and (branch is None or place[0] == branch))
        return [msgspec.structs.replace(self._rows[place], content=b"") for place in places[:limit]]

    def put(self, snapshots: Sequence[Snapshot]) -> None:
        """Keep snapshots, in the places of earlier ones."""
        for snapshot in snapshots:
            place = (snapshot.branch, snapshot.fingerprint, snapshot.size)
            if place not in self._rows:
                insort(self._sizes.setdefault(place[:2], []), snapshot.size)
            self._rows[place] = snapshot

    def drop(self, branches: Container[int] | None, reducer: str | None = None, *, above: int = 0) -> int:
        """Drop those of these branches (None for all), this reducer (None for all) and cuts past `above`; give how many."""
        gone = [
            place
            for place, row in self._rows.items()
            if (branches is None or place[0] in branches) and reducer in (None, row.reducer) and place[2] > above
        ]
        for place in gone:
            del self._rows[place]
            self._sizes[place[:2]].remove(place[2])
        return len(gone)
