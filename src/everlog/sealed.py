"""The door's part for the ledger as a tree: records get their places in it, heads of branches are added, seals are kept.

1. A record has one place, and places have no gap. What gives records their places compares and swaps the tree's size: of several at
   once one goes on, and the others read again.
2. The tree stores the nodes that each leaf completes, as lines of events do.
3. A store orders what it is given; which records are pending and which branches changed it only tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from everlog.core.event import Head
from everlog.core.merkle import root_of_joined
from everlog.errors import CorruptionError


class LedgerEntry(msgspec.Struct, frozen=True):
    """A record as it was written: its number, canonical bytes, and the reason given, which is not part of what is hashed."""

    number: int
    record: bytes
    reason: str | None


class LedgerTree(msgspec.Struct, frozen=True):
    """The ledger's tree. peaks: joined. feeds: (bucket, number) of the last event in each whose branch's head is in the tree."""

    size: int
    peaks: bytes
    feeds: tuple[tuple[int, int], ...] = ()

    def head(self) -> Head:
        return Head(self.size, root_of_joined(self.peaks).hex())


class Changed(msgspec.Struct, frozen=True):
    """Branches that events were added to. feeds: how far this was read on, of every bucket. more: whether it is not all yet."""

    branches: frozenset[int]
    feeds: tuple[tuple[int, int], ...]
    more: bool


class BranchHead(msgspec.Struct, frozen=True):
    """A branch of a living session as it is now, by ids. base: of the branch below it, with the size that is shared."""

    branch: str
    session: str
    head: Head
    base: str | None
    base_size: int


class Placed(msgspec.Struct, frozen=True):
    """A record with its leaf and the nodes that it completes. entry: its number; None for what the sealer adds.

    branch, size: of a record of a head, to find it by.
    """

    entry: int | None
    record: bytes
    leaf: bytes
    nodes: bytes
    branch: str | None = None
    size: int | None = None


class PlaceRecords(msgspec.Struct, frozen=True):
    """Put records at the end of the tree, of `size` leaves until then; after: what it is then.

    Nothing is done, and the receipt counts 0, where the tree has another size.
    """

    size: int
    rows: tuple[Placed, ...]
    after: LedgerTree


class SealRow(msgspec.Struct, frozen=True):
    """A seal as stored. note: the signed checkpoint. made: microseconds since 1970 UTC, by the store's clock."""

    origin: str
    size: int
    made: int
    note: bytes


class PutSeal(msgspec.Struct, frozen=True):
    """Keep a seal; again changes nothing."""

    origin: str
    size: int
    note: bytes


SealRequest = PlaceRecords | PutSeal


def record_is_gone(place: int) -> CorruptionError:
    """Give the error of a store that has no record where its ledger's tree has one."""
    return CorruptionError(
        f"the record {place} of the ledger is gone; nothing was made; `everlog verify` says what else does not hold"
    )


class SealedStorage(Protocol):
    """What a store promises of its ledger's tree, beside what `Storage` says."""

    def ledger_tree(self) -> LedgerTree:
        """Read the tree's size and peaks."""
        ...

    def pending(self, limit: int) -> list[LedgerEntry]:
        """Read records that have no place in the tree yet, in the order in which they are to have them: those of a session as made."""
        ...

    def changed(self, feeds: Sequence[tuple[int, int]]) -> Changed:
        """Tell which branches events were added to after a number in each bucket, 0 for those not given. Reads SCAN_EVENTS_MAX a bucket."""
        ...

    def branch_heads(self, branches: Sequence[int]) -> list[BranchHead]:
        """Read branches by their keys, without those of deleted sessions, whose heads stand in the record of that."""
        ...

    def placed(self, start: int, stop: int) -> list[Placed]:
        """Read records by their places in the tree, from `start` on; at most PAGE_EVENTS_MAX, in their order, without gaps."""
        ...

    def ledger_nodes(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read stored nodes of the ledger's tree by (level, index), in the order asked for."""
        ...

    def head_place(self, branch: str, size: int, below: int) -> int | None:
        """Find the place, below a size of the tree, of the first record of a branch's head of at least a size."""
        ...

    def seals(self, before: int, limit: int) -> list[SealRow]:
        """List seals of trees smaller than `before`, the largest first, and of one size the newest first."""
        ...
