"""What a store checks of places in the feed before it reads on from there, forwards or backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from everlog.core import limits
from everlog.core.event import Event
from everlog.errors import CorruptionError, StaleCursorError
from everlog.storage import Bound, Candidates, FeedPlace, Wanted


def number_after(after: Sequence[FeedPlace], leaf_at: Callable[[int], bytes | None]) -> int:
    """Give the number to read on after in a store of one bucket. leaf_at: the leaf at a number, None for none."""
    number = 0
    for place in after:
        check_place(place, None if place.bucket else leaf_at(place.number))
        number = place.number
    return number


def check_place(place: FeedPlace, leaf: bytes | None) -> None:
    """Raise StaleCursorError unless the event that stands at a place is the one that was read there."""
    # A store gives a place without a leaf where that is damaged, to itself alone: cursors have one.
    if leaf is None or (place.leaf and not (type(leaf) is bytes and leaf.startswith(place.leaf))):
        raise StaleCursorError(
            f"the feed has no event {place.number} with the leaf that the cursor names: the store was restored or replaced; "
            "nothing was read; read again from the start, or from a cursor made on this store"
        )


def number_below(below: Sequence[Bound]) -> int:
    """Give the number that a search is below in a store of one bucket; 0 where nothing is left."""
    return next((bound.number for bound in below if bound.bucket == 0), 0)


def place_test(wanted: Wanted, branches: Iterable[int] | None) -> Callable[[int, int], bool]:
    """Give a test of whether a branch's own event at a position is where a search looks. branches: those of its sessions."""
    if wanted.line is not None:
        stops = {segment.branch: segment.stop for segment in wanted.line}  # of its own events, none is below the start
        return lambda branch, position: position < stops.get(branch, 0)
    if branches is None:
        return lambda _branch, _position: True
    chosen = frozenset(branches)
    return lambda branch, _position: branch in chosen


def candidates_page(found: Iterable[tuple[int, Event | None]], limit: int, *, end: int = 0) -> Candidates:
    """Make a page of what a store of one bucket looks at, backwards: numbers with their events, None for what is not wanted.

    end: the number that it was to be looked at down to; above 0 where more stands below it.
    """
    events: list[tuple[Bound, Event]] = []
    held = 0
    number = 0
    try:
        for looked_at, (number, event) in enumerate(found):
            held += len((event and event.raw) or b"")
            if len(events) == limit or (events and held > limits.PAGE_BYTES_MAX) or looked_at == limits.SCAN_EVENTS_MAX:
                return Candidates(events, (Bound(0, number + 1),), more=True)
            if event is not None:
                events.append((Bound(0, number), event))
    except CorruptionError:  # of what lies below: who goes on meets it there
        if not events:
            raise
        return Candidates(events, (Bound(0, number),), more=True)
    return Candidates(events, (Bound(0, end),) if end else (), more=end > 0)
