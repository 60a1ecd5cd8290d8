"""Explaining a state: which events gave a member its value (`why`), and after which one something began to hold (`bisect`).

1. `why` looks at states, not at what events claim: an event counts where the member is another after it than before. So it
   holds for every reducer, and for members that moved.
2. It goes back from snapshot to snapshot, and where they are far apart by stretches that grow: to look at the member after
   every event costs its size each time, and the last changes are found in the last stretch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from everlog.core.canonical import decode_state
from everlog.core.event import Event
from everlog.core.limits import PAGE_EVENTS_MAX
from everlog.core.patch import same
from everlog.core.pointer import MISSING, get_member, parse_pointer
from everlog.core.snapshot import Notes
from everlog.errors import ReducerError
from everlog.reader import View
from everlog.rebuild import Builder, Built, nearest_snapshot, own_state, take_event, type_terms
from everlog.reducers.registry import Reducer
from everlog.storage import Storage

_STRETCH_EVENTS = 64  # of the last stretch; each before it is four times as long
WHY_MAX = 1_000  # reasons that one call gives


class Reason(msgspec.Struct, frozen=True):
    """An event that changed a member of a state. before, after: its value there, MISSING for none."""

    event: Event
    before: Any
    after: Any

    @property
    def rationale(self) -> str | None:
        """Why, in the words of who did it."""
        return self.event.rationale

    def to_dict(self) -> dict[str, Any]:
        """Give the reason as JSON values; a member that was not there is left out."""
        values = {"before": self.before, "after": self.after}
        return {"event": self.event.to_dict()} | {name: value for name, value in values.items() if value is not MISSING}


def why(storage: Storage, view: View, reducer: Reducer, pointer: str, cut: int, *, limit: int) -> list[Reason]:
    """Give the events that changed what stands at a pointer, the newest first, at most `limit`."""
    tokens = parse_pointer(pointer)
    found: list[Reason] = []
    for start, stop in _stretches(storage, view, reducer, cut):
        found += _changes(storage, view, reducer, tokens, start, stop, limit=limit - len(found))[::-1]
        if len(found) >= limit:
            break
    return found[:limit]


def _stretches(storage: Storage, view: View, reducer: Reducer, cut: int) -> Iterator[tuple[Built, int]]:
    """Give what lies between snapshots, the last first: the state that it starts from, and where it stops."""
    while cut > 0:
        kept, _ = nearest_snapshot(storage, view.lineage, cut - 1, reducer)
        start = Built(0, reducer.initial(), Notes())
        if kept is not None:
            start = Built(kept.size, decode_state(kept.plain), kept.notes)
        length = _STRETCH_EVENTS
        while cut - start.size > length:
            builder = Builder(storage, view, reducer, taking=None)
            yield builder.fold(own_state(reducer, start), cut - length), cut
            cut -= length
            length *= 4
        yield start, cut
        cut = start.size


def _changes(
    storage: Storage, view: View, reducer: Reducer, tokens: tuple[str, ...], start: Built, stop: int, *, limit: int
) -> list[Reason]:
    """Give the last `limit` events of a stretch after which the member is another than before, oldest first."""
    watch = _Watch(reducer, tokens, start)
    terms, position = type_terms(reducer), start.size
    found: deque[Reason] = deque(maxlen=limit)
    while position < stop:
        page = storage.read(view.lineage, position, stop, terms=terms, limit=PAGE_EVENTS_MAX)
        for event in page.events:
            before = watch.member
            if watch.changes(event):
                found.append(Reason(event, before, watch.member))
        position = stop if page.following is None else page.following
    return list(found)


class _Watch:
    """Watches one member of a state along a fold. member: as it is now, and stays."""

    def __init__(self, reducer: Reducer, tokens: tuple[str, ...], start: Built) -> None:
        self._reducer = reducer
        self._tokens = tokens
        self._fold = reducer.start(start.value)
        self._notes = start.notes
        self.member = self._kept(get_member(start.value, tokens))

    def changes(self, event: Event) -> bool:
        """Take an event; tell whether the member is another after it."""
        if self._reducer.starts_cheaply:  # a fold of its own changes nothing that an earlier one gave
            self._fold = self._reducer.start(self._fold.value)
        self._notes = take_event(self._reducer, self._fold, event, self._notes)
        member = get_member(self._fold.value, self._tokens)
        if same(self.member, member):
            return False
        self.member = self._kept(member)
        return True

    def _kept(self, member: Any) -> Any:
        """Give a value that stays, where the fold goes on changing what it shows."""
        if self._reducer.starts_cheaply or not isinstance(member, (dict, list)):
            return member
        return decode_state(self._reducer.encode(member))


def bisect(
    builder: Builder, predicate: Callable[[Any], object], start: int, stop: int, *, show: Callable[[Built], Any]
) -> int | None:
    """Give the position of the first event after which a predicate on the state holds; None where it never does.

    The predicate must hold from some event on and not before: O(log n) states are built. show: gives what it is shown.
    """

    def holds(cut: int) -> bool:
        built = builder.build(cut)
        try:
            return bool(predicate(show(built)))
        except Exception as error:
            raise ReducerError(
                f"the predicate raised {type(error).__name__}: {error} on the state of {builder.reducer.name!r} at "
                f"{builder.lineage.session!r}@{cut}; the log is as it was; have it take every state from the start"
            ) from error

    if start >= stop or not holds(stop):
        return None
    low, high = start, stop - 1  # the answer is in [low, high]
    while low < high:
        middle = (low + high) // 2
        if holds(middle + 1):
            high = middle
        else:
            low = middle + 1
    return low
