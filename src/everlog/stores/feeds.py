"""What a store checks of a place in the feed before it reads on from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from everlog.errors import StaleCursorError
from everlog.storage import FeedPlace


def number_after(after: Sequence[FeedPlace], leaf_at: Callable[[int], bytes | None]) -> int:
    """Give the number to read on after in a store of one bucket. leaf_at: the leaf at a number, None for none."""
    number = 0
    for place in after:
        check_place(place, None if place.bucket else leaf_at(place.number))
        number = place.number
    return number


def check_place(place: FeedPlace, leaf: bytes | None) -> None:
    """Raise StaleCursorError unless the event that stands at a place is the one that was read there."""
    if leaf is None or not leaf.startswith(place.leaf):
        raise StaleCursorError(
            f"the feed has no event {place.number} with the leaf that the cursor names: the store was restored or replaced; "
            "nothing was read; read again from the start, or from a cursor made on this store"
        )
