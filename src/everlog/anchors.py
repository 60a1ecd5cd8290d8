"""Where a verification begins that does not begin at the beginning: at a seal, and for each line at the head that it covers.

1. A line's head is the one in the ledger's record, which is proved to be in the tree that the seal is of, by its own hashes.
2. The nodes that are stored of the line must give that head. What lies below is then bound to the seal, and not read again.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from everlog.core.event import Head
from everlog.core.ledger import HeadRecord, read_record
from everlog.core.limits import PAGE_EVENTS_MAX, SAFE_INTEGER_MAX
from everlog.core.merkle import inclusion_proof, leaf_hash, peak_places, root_of_peaks, verify_inclusion
from everlog.core.position import TimePlace, parse_place
from everlog.core.proof import by_one_read
from everlog.errors import CorruptionError, InvalidPlaceError, NotFoundError
from everlog.ledger_audit import check_head, covered
from everlog.reader import View
from everlog.seals import Seal, read_seal
from everlog.storage import Storage

# A seal, as users name it: itself, its head (SIZE:ROOT), its size, "last", or a time: the last that was made until then.
SinceLike = Seal | Head | str | int | datetime


def find_anchor(storage: Storage, since: SinceLike) -> Head:
    """Give the head of the ledger that the seal which is meant is of. NotFoundError where the store keeps none such; InvalidPlaceError where it names none."""
    if isinstance(since, Seal):
        return since.head
    if isinstance(since, Head):
        return since
    if isinstance(since, str) and ":" in since and since.partition(":")[0].isdigit() and len(since) >= 64:
        return Head.parse(since)
    if isinstance(since, str) and since.isascii() and since.isdigit():
        since = int(since)
    if isinstance(since, int) and not isinstance(since, bool):
        return _kept(storage, lambda seal: seal.head.size == since, f"of {since} records")
    if since == "last":
        return _kept(storage, lambda _: True, "at all")
    place = parse_place(since, now=storage.now())
    if not isinstance(place, TimePlace):
        raise InvalidPlaceError(
            f"{since!r:.100} names no seal; nothing was checked; write last, a size, SIZE:ROOT, or a time such as -1d"
        )
    return _kept(storage, lambda seal: seal.made <= place.micros, "made until then")


def _kept(storage: Storage, is_meant: Callable[[Seal], bool], which: str) -> Head:
    """Give the newest seal that the store keeps and that is meant."""
    before = SAFE_INTEGER_MAX
    while rows := storage.seals(before, PAGE_EVENTS_MAX):
        for seal in map(read_seal, rows):
            if is_meant(seal):
                return seal.head
        before = rows[-1].size
    raise NotFoundError(
        f"the store keeps no seal {which}; nothing was checked; see `everlog seals`, or verify all of it"
    )


def anchor_holds(storage: Storage, anchor: Head, fault: Callable[[str], None]) -> bool:
    """Tell whether the ledger begins with what the anchor is of; what does not hold is a fault."""
    size = storage.ledger_tree().size
    if anchor.size > size:
        fault(f"the seal of {anchor.size} records is of more than the ledger has, which is {size}: records are gone")
        return False
    try:
        root = root_of_peaks(storage.ledger_nodes(peak_places(anchor.size))).hex()
    except CorruptionError as error:
        fault(error.message)
        return False
    if root != anchor.root:
        fault(
            f"the seal of {anchor.size} records says the root {anchor.root}, and the ledger has {root}: it was changed"
        )
        return False
    return True


def anchored_size(storage: Storage, view: View, anchor: Head) -> int:
    """Give up to which size of a line the anchor covers it; ValueError says what does not hold. 0 where it does not cover it."""
    branch = view.branch
    reached = covered(storage, branch.id, branch.size, anchor.size)
    index = None if reached == 0 else storage.head_place(branch.id, reached, anchor.size)
    if index is None:
        return 0
    row = storage.placed(index, index + 1)[0]
    record = read_record(row.record, HeadRecord)
    path = by_one_read(lambda node: inclusion_proof(index, anchor.size, node), storage.ledger_nodes)
    if not verify_inclusion(
        leaf=leaf_hash(row.record),
        index=index,
        size=anchor.size,
        proof=path,
        root=bytes.fromhex(anchor.root),
    ):
        raise ValueError(f"record {index} of the ledger, which says its head, is not in what the seal is of")
    if record.branch != branch.id:
        raise ValueError(f"record {index} of the ledger is of another branch than the one that it is found by")
    check_head(storage, record)
    return record.size  # not what it was found by, which nothing hashes
