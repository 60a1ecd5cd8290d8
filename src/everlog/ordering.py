"""Giving the ledger its order: pending records get their places, and each branch that changed a record of its head.

1. What is put into the tree is decided here, from what the store tells; the store compares and swaps. So this may stop anywhere, and
   several may do it at once: one goes on, and the others read again.
2. How far heads are in the tree is moved on with the last of them: after a stop between two, some stand there twice, which says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from everlog.core.ledger import HeadRecord, KeyRecord, encode_record
from everlog.core.merkle import leaf_hash, push_leaf, split_digests
from everlog.errors import BusyError
from everlog.sealed import BranchHead, LedgerTree, Placed, PlaceRecords
from everlog.storage import Storage

RECORDS_MAX: Final = 1_000  # that one transaction places
TRIES: Final = 100

_Record = tuple[int | None, bytes, str | None, int | None]  # entry, record, and of a head its branch and size


class _OvertakenError(Exception):
    """Another has put records into the tree meanwhile."""


def order_ledger(storage: Storage, own: KeyRecord | None = None) -> LedgerTree:
    """Give all that is pending its places, and changed branches records of their heads; give the tree then.

    own: the sealer's own record, which comes first. Raises BusyError where others are always quicker.
    """
    for _ in range(TRIES):
        try:
            return _order(storage, own)
        except _OvertakenError:
            continue
    raise BusyError(
        f"others gave the ledger's records their places {TRIES} times before this could; nothing of it was done here; seal again"
    )


def _order(storage: Storage, own: KeyRecord | None) -> LedgerTree:
    tree = storage.ledger_tree()
    if own is not None:
        tree = _place(storage, tree, [(None, encode_record(own), None, None)])
    while entries := storage.pending(RECORDS_MAX):
        tree = _place(storage, tree, [(entry.number, entry.record, None, None) for entry in entries])
    branches, feeds = _changed(storage, tree)
    now = storage.now()
    for start in range(0, len(branches), RECORDS_MAX):
        chosen = branches[start : start + RECORDS_MAX]
        records = [_head_record(head, now) for head in storage.branch_heads(chosen)]
        tree = _place(storage, tree, records, feeds if start + RECORDS_MAX >= len(branches) else tree.feeds)
    return tree


def _changed(storage: Storage, tree: LedgerTree) -> tuple[list[int], tuple[tuple[int, int], ...]]:
    """Give the branches that changed since their heads were put into the tree, and how far that was looked for."""
    branches: set[int] = set()
    feeds = tree.feeds
    while True:
        found = storage.changed(feeds)
        branches |= found.branches
        feeds = found.feeds
        if not found.more:
            return sorted(branches), feeds


def _head_record(head: BranchHead, now: int) -> _Record:
    record = HeadRecord(
        base=msgspec.UNSET if head.base is None else head.base,
        base_size=msgspec.UNSET if head.base is None else head.base_size,
        branch=head.branch,
        root=head.head.root,
        session=head.session,
        size=head.head.size,
        t=now,
    )
    return None, encode_record(record), head.branch, head.head.size


def _place(
    storage: Storage, tree: LedgerTree, records: Sequence[_Record], feeds: tuple[tuple[int, int], ...] | None = None
) -> LedgerTree:
    """Put records at the end of the tree; give the tree with them. feeds: None for as they were."""
    if not records:
        return tree
    peaks = split_digests(tree.peaks)
    rows: list[Placed] = []
    for size, (entry, record, branch, head_size) in enumerate(records, tree.size):
        leaf = leaf_hash(record)
        rows.append(Placed(entry, record, leaf, push_leaf(peaks, size, leaf), branch, head_size))
    after = LedgerTree(tree.size + len(rows), b"".join(peaks), tree.feeds if feeds is None else feeds)
    if storage.write(PlaceRecords(tree.size, tuple(rows), after)).count == 0:
        raise _OvertakenError
    return after
