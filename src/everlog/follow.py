"""Following: read what is there, then wait for more. One session's current line, or the feed of all sessions.

1. `take` never waits: it gives the next page of what is new. `run` takes and waits in turn; the async face takes and
   waits in its own way.
2. A cursor holds, for each of the store's buckets, number and leaf of the last event read, so that a feed which was restored
   to an earlier state is noticed, and never read as if it went on (law 9).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

from everlog.core import limits
from everlog.core.event import Event
from everlog.core.lineage import common_ancestor
from everlog.errors import InvalidPlaceError
from everlog.storage import FeedPage, FeedPlace, Storage

if TYPE_CHECKING:
    from everlog.reader import PlaceLike, View

_WAIT_SECONDS = 0.5  # between looks at `stop`, and what bounds a wait that nothing ends
_CURSOR_CHARACTERS_MAX: Final = 65_536
_PLACE: Final = re.compile(r"(\d{1,4})\.(\d{1,18})\.([0-9a-f]{16})", re.ASCII)  # bucket, number, the leaf's first bytes
_LEAF_BYTES: Final = 8
_CURSOR: Final = "1:"  # begins every cursor; places follow, with commas between them


class Followable(Protocol):
    """A session, as far as a follower needs it."""

    @property
    def storage(self) -> Storage: ...

    def view(self) -> View: ...

    def cut(self, place: PlaceLike = "end") -> int: ...


class Follower:
    """Follows a session's current line from a cut on."""

    def __init__(self, session: Followable, start: PlaceLike) -> None:
        self.storage = session.storage
        self._read_view = session.view
        self._line = self._read_view()
        self._next = session.cut(start)

    def take(self) -> list[Event]:
        """Give the next page of new events, or none."""
        view = self._read_view()
        if view.branch.key != self._line.branch.key:
            shared = common_ancestor(self._line.lineage, view.lineage, one_size=self._next, other_size=view.size)
            self._next = min(self._next, shared)
        self._line = view
        if self._next >= view.size:
            return []
        page = self.storage.read(view.lineage, self._next, view.size)
        self._next = page.events[-1].position + 1
        return page.events

    def run(self, *, idle: float | None, stop: Callable[[], bool] | None) -> Iterator[Event]:
        """Iterate, waiting where there is nothing new."""
        return run_waiting(self.storage, self.take, idle=idle, stop=stop)


class Feed:
    """The events of all sessions, in the order in which they were recorded. Iterate it; `cursor` says how far it was read.

    Give `cursor` to `Store.feed` or `Store.follow` later, in any process, to go on with the next event.
    """

    def __init__(
        self,
        storage: Storage,
        cursor: str | None,
        *,
        waits: bool = False,
        idle: float | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.storage = storage
        self._last = {} if cursor is None else {place.bucket: place for place in parse_cursor(cursor)}
        self._waits = waits
        self._idle = idle
        self._stop = stop

    @property
    def cursor(self) -> str:
        """Where the feed was read to: just after the event given last. Opaque."""
        return format_cursor(self._last.values())

    def __iter__(self) -> Iterator[Event]:
        deadline = _deadline(self._idle)
        while self._stop is None or not self._stop():
            seen = self.storage.news()
            page = self.page()
            for place, event in page.events:
                self.passed(place)
                yield event
            if self.finished(page):
                deadline = _deadline(self._idle)
            elif not self._waits or time.monotonic() >= deadline:
                return
            else:
                self.storage.wait(seen, min(_WAIT_SECONDS, max(0.0, deadline - time.monotonic())))

    def page(self) -> FeedPage:
        """Read the next page without moving the cursor. Raises StaleCursorError."""
        return self.storage.feed(tuple(self._last.values()), limits.PAGE_EVENTS_MAX)

    def passed(self, place: FeedPlace) -> None:
        """Move the cursor past an event, as it is handed on: what was not consumed is not passed over."""
        self._last[place.bucket] = place

    def finished(self, page: FeedPage) -> bool:
        """Move the cursor past a page whose events were handed on; tell whether it held anything."""
        self._last.update((place.bucket, place) for place in page.passed)
        return bool(page.passed)


def format_cursor(places: Iterable[FeedPlace]) -> str:
    """Write places of the feed as a cursor."""
    shown = sorted((place.bucket, place.number, place.leaf[:_LEAF_BYTES].hex()) for place in places)
    return _CURSOR + ",".join(f"{bucket}.{number}.{leaf}" for bucket, number, leaf in shown)


def parse_cursor(cursor: object) -> list[FeedPlace]:
    """Read a cursor; InvalidPlaceError for what is none."""
    if isinstance(cursor, str) and cursor.startswith(_CURSOR) and len(cursor) <= _CURSOR_CHARACTERS_MAX:
        words = cursor.removeprefix(_CURSOR).split(",") if cursor != _CURSOR else []
        found = [match for word in words if (match := _PLACE.fullmatch(word)) is not None]
        buckets = {int(match[1]) for match in found}
        if len(buckets) == len(words):
            return [FeedPlace(int(match[1]), int(match[2]), bytes.fromhex(match[3])) for match in found]
    raise InvalidPlaceError(f"{cursor!r:.100} is no cursor; give what Feed.cursor or Store.cursor() gave")


def run_waiting(
    storage: Storage,
    take: Callable[[], list[Event]],
    *,
    idle: float | None,
    stop: Callable[[], bool] | None,
) -> Iterator[Event]:
    """Iterate what `take` gives, waiting for news where it gives nothing."""
    deadline = _deadline(idle)
    while stop is None or not stop():
        seen = storage.news()  # before the read: what is recorded after it makes the wait end at once
        events = take()
        if events:
            yield from events
            deadline = _deadline(idle)
        elif time.monotonic() >= deadline:
            return
        else:
            storage.wait(seen, min(_WAIT_SECONDS, max(0.0, deadline - time.monotonic())))


def _deadline(idle: float | None) -> float:
    return float("inf") if idle is None else time.monotonic() + idle
