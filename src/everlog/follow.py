"""Following: read what is there, then wait for more. One session's current line, or the feed of all sessions.

1. `take` never waits: it gives the next page of what is new. `run` takes and waits in turn; the async face takes and
   waits in its own way.
2. A cursor holds the number and leaf of the last event read, so that a feed which was restored to an earlier state is
   noticed, and never read as if it went on (law 9).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

from everlog.core import limits
from everlog.core.event import Event
from everlog.core.lineage import common_ancestor
from everlog.errors import InvalidPlaceError, StaleCursorError
from everlog.storage import FeedPage, Storage

if TYPE_CHECKING:
    from everlog.reader import PlaceLike, View

_WAIT_SECONDS = 0.5  # between looks at `stop`, and what bounds a wait that nothing ends
_CURSOR: Final = re.compile(r"1:(\d{1,18}):([0-9a-f]{64})", re.ASCII)
CURSOR_START: Final = f"1:0:{'0' * 64}"


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
        self._last = parse_cursor(CURSOR_START if cursor is None else cursor)
        self._waits = waits
        self._idle = idle
        self._stop = stop

    @property
    def cursor(self) -> str:
        """Where the feed was read to: just after the event given last. Opaque."""
        number, leaf = self._last
        return f"1:{number}:{leaf.hex()}"

    def __iter__(self) -> Iterator[Event]:
        deadline = _deadline(self._idle)
        while self._stop is None or not self._stop():
            seen = self.storage.news()
            page = self.page()
            for number, event in page.events:
                self.passed(number, event)
                yield event
            if self.finished(page):
                deadline = _deadline(self._idle)
            elif not self._waits or time.monotonic() >= deadline:
                return
            else:
                self.storage.wait(seen, min(_WAIT_SECONDS, max(0.0, deadline - time.monotonic())))

    def page(self) -> FeedPage:
        """Read the next page without moving the cursor. Raises StaleCursorError."""
        number, leaf = self._last
        if number and self.storage.feed_leaf(number) != leaf:
            raise StaleCursorError(
                f"the feed has no event {number} with the leaf that the cursor names: the store was restored or replaced; "
                "nothing was read; read again from the start, or from a cursor made on this store"
            )
        return self.storage.feed(number, limits.PAGE_EVENTS_MAX)

    def passed(self, number: int, event: Event) -> None:
        """Move the cursor past an event, as it is handed on: what was not consumed is not passed over."""
        self._last = (number, event.leaf)

    def finished(self, page: FeedPage) -> bool:
        """Move the cursor past a page whose events were handed on; tell whether it held anything."""
        if page.last is not None:
            self._last = page.last
        return page.last is not None


def parse_cursor(cursor: object) -> tuple[int, bytes]:
    """Read a cursor; InvalidPlaceError for what is none."""
    match = _CURSOR.fullmatch(cursor) if isinstance(cursor, str) else None
    if match is None:
        raise InvalidPlaceError(f"{cursor!r:.100} is no cursor; give what Feed.cursor or Store.cursor() gave")
    return int(match[1]), bytes.fromhex(match[2])


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
