"""Reading one line of events: slices, queries, places. What Session and Branch have in common.

1. Every read looks at the branch as it is at the call, and is handed on in pages (law 13); memory is bounded by a page
   where events are iterated, by the answer where a list is asked for.
2. Ancestors never change, so a branch's lineage is read once and kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, overload

import msgspec

from everlog.core import limits
from everlog.core.event import Cause, Event, Head
from everlog.core.lineage import Lineage, lineage_of_one
from everlog.core.merkle import DIGEST_BYTES, peak_places, root_of_peaks
from everlog.core.position import (
    CheckpointPlace,
    CutPlace,
    EndPlace,
    EventPlace,
    StartPlace,
    TimePlace,
    parse_event_id,
    parse_place,
)
from everlog.core.prepare import check_key
from everlog.core.query import EVERYTHING, Exact, Query, Range, Term, compile_query, from_keywords
from everlog.core.query_text import parse
from everlog.errors import CorruptionError, InvalidPlaceError, InvalidQueryError, LimitError, NotFoundError
from everlog.search import Order, SearchPage, search_line
from everlog.storage import Base, BranchRow, CatchingUp, Storage

# A cut, as users name it: see DESIGN "Places".
PlaceLike = int | str | Event | datetime
FIRST_PAGE_EVENTS = 100  # small, so that the first event of an iteration is there at once
LINEAGES_KEPT = 8  # by a handle: of the branches that it read
_CHECKPOINTS = (Term("type", (Exact("checkpoint"),)),)


class View(msgspec.Struct, frozen=True):
    """A branch as it was read: its row and its lineage."""

    branch: BranchRow
    lineage: Lineage

    @property
    def size(self) -> int:
        return self.branch.size


class BranchReader:
    """Reads one line of events. Subclasses say which: a session's current branch, or a branch that was named."""

    storage: Storage
    _lineages: dict[int, Lineage]

    def view(self) -> View:
        """Read the branch as it is now, with its lineage."""
        raise NotImplementedError

    def _view_of(self, branch: BranchRow, session: str) -> View:
        lineage = self._lineages.get(branch.key)
        if lineage is None:
            if branch.base is None:
                lineage = lineage_of_one(branch.key, branch.id, branch.writer, session)
            else:
                lineage = self.storage.lineage(branch.key, session)
            # A new dict rather than a change: other threads may be reading this one.
            self._lineages = {**(self._lineages if len(self._lineages) < LINEAGES_KEPT else {}), branch.key: lineage}
        return View(branch, lineage)

    # --- slices ---
    def size(self) -> int:
        """Give the number of events in the lineage as it is now."""
        return self.view().size

    def slice(self, start: PlaceLike = "start", stop: PlaceLike = "end") -> list[Event]:
        """Give the events between two cuts, oldest first, all in memory. Positions past the ends are cut off."""
        view = self.view()
        low, high = self._clamped_cut(view, start), self._clamped_cut(view, stop)
        return self._read_all(view, low, high)

    def _read_all(self, view: View, start: int, stop: int) -> list[Event]:
        pages = self._read_pages(view, start, stop, EVERYTHING, first=limits.PAGE_EVENTS_MAX)
        return [event for page in pages for event in page]

    def event(self, place: PlaceLike) -> Event:
        """Give one event: by position (negative from the end), id, or checkpoint's name; NotFoundError."""
        view = self.view()
        return self._read_one(view, resolve_event(self.storage, view, place))

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        if isinstance(index, slice):
            if index.step is not None:
                raise InvalidPlaceError("a slice of a session takes no step; slice first, then step through the list")
            return self.slice(
                "start" if index.start is None else index.start, "end" if index.stop is None else index.stop
            )
        return self.event(index)

    def __len__(self) -> int:
        return self.size()

    def __bool__(self) -> bool:
        return True  # an empty session is still a session

    def __iter__(self) -> Iterator[Event]:
        return self.events()

    # --- queries ---
    def events(
        self,
        query: str | Query | None = None,
        *,
        start: PlaceLike = "start",
        stop: PlaceLike = "end",
        types: str | Sequence[str] | None = None,
        actor: str | Sequence[str] | None = None,
        outcome: str | Sequence[str] | None = None,
        since: str | datetime | None = None,
        until: str | datetime | None = None,
        where: Mapping[str, Any] | None = None,
        keys: str | Sequence[str] | None = None,
        caused_by: Event | str | None = None,
        has: str | Sequence[str] | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[Event]:
        """Iterate the events that meet the query and every keyword, oldest first unless `reverse`.

        query: the query language, or a Query. start, stop: cuts. types, actor, keys: names or globs, any of several.
        outcome: any of several, "none" for events without one. since, until: times, [since, until) by the store's clock.
        where: "data.PATH" or "meta.PATH" to a JSON scalar, or any of several. limit: at most so many events.
        Reads a page at a time; what is recorded after the call is not among them.
        """
        pages = self.pages(
            query,
            start=start,
            stop=stop,
            reverse=reverse,
            limit=limit,
            types=types,
            actor=actor,
            outcome=outcome,
            since=since,
            until=until,
            where=where,
            keys=keys,
            caused_by=caused_by,
            has=has,
        )
        return (event for page in pages for event in page)

    def pages(
        self,
        query: str | Query | None = None,
        *,
        start: PlaceLike = "start",
        stop: PlaceLike = "end",
        reverse: bool = False,
        limit: int | None = None,
        **keywords: Any,
    ) -> Iterator[list[Event]]:
        """Iterate what `events` with the same arguments gives, a page at a time; no page is empty."""
        asked = self._query(query, **keywords)
        view = self.view()
        low, high = self._clamped_cut(view, start), self._clamped_cut(view, stop)
        return self._read_pages(view, low, high, asked, reverse=reverse, limit=limit)

    def count(self, query: str | Query | None = None, **keywords: Any) -> int:
        """Count the events that `events` with the same arguments would give."""
        return sum(len(page) for page in self.pages(query, **keywords))

    def last(self, types: str | Sequence[str] | None = None, **keywords: Any) -> Event | None:
        """Give the newest event of these types (and that meets the other keywords of `events`), or None."""
        keywords |= {"types": types, "reverse": True, "limit": 1}
        pages = self.pages(**keywords)
        return next((event for page in pages for event in page), None)

    def find(self, key: str) -> Event | None:
        """Give the event with an idempotency key (of an append of several: the first it covers), or None. By index."""
        check_key(key)
        return next(self.events(Query((Term("key", (Exact(key),)),)), limit=1), None)

    def search(
        self,
        query: str | Query,
        *,
        limit: int = 20,
        after: str | None = None,
        order: Order = "rank",
        progress: CatchingUp | None = None,
    ) -> SearchPage:
        """Find the events of this line that meet a query, also those that it shares; as `Store.search` finds those of all sessions."""
        asked = read_query(query, now=self.storage.now())
        view = self.view()
        return search_line(
            self.storage, view.lineage, view.size, asked, limit=limit, after=after, order=order, progress=progress
        )

    def around(self, place: PlaceLike, *, before: int = 5, after: int = 5) -> list[Event]:
        """Give an event with those before and after it."""
        view = self.view()
        position = resolve_event(self.storage, view, place)
        start, stop = max(0, position - _count(before)), min(view.size, position + 1 + _count(after))
        return self._read_all(view, start, stop)

    def causes(self, place: PlaceLike, *, limit: int = 100) -> list[Event]:
        """Give the chain of events that led to one, nearest first, as far as it lies in this lineage."""
        event: Event | None = self.event(place)
        chain: list[Event] = []
        while event is not None and event.cause is not None and len(chain) < _count(limit):
            event = self._caused_from(Cause.unpack(event.cause))
            if event is not None:
                chain.append(event)
        return chain

    def effects(self, place: PlaceLike, *, limit: int = 1_000) -> list[Event]:
        """Give the events that name one as their cause, oldest first. By index."""
        return list(self.events(caused_by=self.event(place), limit=limit))

    def attachment(self, place: PlaceLike, name: str) -> bytes:
        """Read an attachment's content; NotFoundError where there is none of that name, or it was erased."""
        return self.event(place).attachment(name)

    def checkpoints(self) -> list[Event]:
        """Give the checkpoint events of the lineage, oldest first; a name's last one is where the name points."""
        return list(self.events(types="checkpoint"))

    def cut(self, place: PlaceLike = "end") -> int:
        """Give the cut that a place names in this line now, 0 .. size; InvalidPlaceError or NotFoundError."""
        return resolve_cut(self.storage, self.view(), place)

    def head_at(self, place: PlaceLike = "end") -> Head:
        """Give the head (size and root) at a place. O(log size) reads."""
        view = self.view()
        return head_at(self.storage, view, resolve_cut(self.storage, view, place))

    # --- underneath ---
    def _query(
        self,
        query: str | Query | None,
        *,
        since: str | datetime | None = None,
        until: str | datetime | None = None,
        caused_by: Event | str | None = None,
        **others: Any,
    ) -> Query:
        now = self.storage.now()
        text = read_query(query, now=now)
        keywords = from_keywords(
            since=None if since is None else _time(since, now),
            until=None if until is None else _time(until, now),
            caused_by=caused_by.id if isinstance(caused_by, Event) else caused_by,
            **others,
        )
        return text & keywords

    def _read_pages(
        self,
        view: View,
        start: int,
        stop: int,
        query: Query,
        *,
        reverse: bool = False,
        limit: int | None = None,
        first: int = FIRST_PAGE_EVENTS,
    ) -> Iterator[list[Event]]:
        for low, high in self._branch_bounds(view, query):
            start, stop = max(start, low), min(stop, high)
        terms, rest = query.split()
        meets = compile_query(rest) if rest.terms else None
        left = None if limit is None else _count(limit)
        most = first
        while start < stop and left != 0:
            # With a test of our own, how many rows make `left` events is not known.
            size = most if left is None or meets else min(left, most)
            most = limits.PAGE_EVENTS_MAX
            page = self.storage.read(view.lineage, start, stop, terms=terms, reverse=reverse, limit=size)
            events = page.events if meets is None else [event for event in page.events if meets(event)]
            if left is not None:
                events = events[:left]
                left -= len(events)
            if events:
                yield events
            if page.following is None:
                return
            if reverse:
                stop = page.following
            else:
                start = page.following

    def _branch_bounds(self, view: View, query: Query) -> Iterator[tuple[int, int]]:
        """Turn terms on position and time into position ranges: by law 7 a time range is one."""
        for term in query.range_terms():
            bounds = term.values[0]
            assert isinstance(bounds, Range), "range terms hold ranges"
            low, high = bounds.low, bounds.high
            if term.key != "position":
                low = None if low is None else self.storage.cut_at(view.lineage, view.size, int(low))
                high = None if high is None else self.storage.cut_at(view.lineage, view.size, int(high))
            yield int(low or 0), view.size if high is None else int(high)

    def _clamped_cut(self, view: View, place: PlaceLike) -> int:
        if isinstance(place, int) and not isinstance(place, bool):
            return min(place, view.size) if place >= 0 else max(0, view.size + place)
        return resolve_cut(self.storage, view, place)

    def _read_one(self, view: View, position: int) -> Event:
        return self.storage.read(view.lineage, position, position + 1, limit=1).events[0]

    def _caused_from(self, cause: Cause) -> Event | None:
        view = self.view()
        place = EventPlace(cause.writer, cause.position)
        if not _holds(view, place):
            return None
        event = self._read_one(view, place.position)
        return event if event.leaf == cause.leaf else None

    def _pack_cause(self, event_id: str) -> bytes:
        """Find the leaf of an event by its id: in this lineage, else anywhere in the store."""
        place = parse_event_id(event_id)
        if place is None:
            raise InvalidPlaceError(
                f"caused_by {event_id!r:.100} is no event's id; nothing was written; give an Event or its id"
            )
        view = self.view()
        if not _holds(view, place):
            branch = self.storage.branch_by_id(place.writer)
            if branch is None or not branch.base_size <= place.position < branch.size:
                raise NotFoundError(f"caused_by names {event_id}, which is not in this store; nothing was written")
            view = View(branch, self.storage.lineage(branch.key, ""))
        leaf, _ = self.storage.leaf_at(view.lineage, place.position)
        return Cause(place.writer, place.position, leaf).pack()


# --- places --------------------------------------------------------------------------------------
def likely_cut(place: PlaceLike, size: int) -> int | None:
    """Give the cut that a place of a slice names where a line has this size; None where that is not told by its size."""
    if isinstance(place, int) and not isinstance(place, bool):
        return min(place, size) if place >= 0 else max(0, size + place)
    return {"start": 0, "end": size}.get(place) if isinstance(place, str) else None


def resolve_cut(storage: Storage, view: View, place: object) -> int:
    """Give the cut that a place names in a branch, 0 .. size; InvalidPlaceError or NotFoundError where there is none."""
    if isinstance(place, Event):
        place = place.id
    match parse_place(place, now=storage.now()):
        case StartPlace():
            return 0
        case EndPlace():
            return view.size
        case TimePlace(micros):
            return storage.cut_at(view.lineage, view.size, micros)
        case CheckpointPlace(name):
            return _checkpoint_position(storage, view, name) + 1
        case CutPlace(position):
            cut = position if position >= 0 else view.size + position
            if not 0 <= cut <= view.size:
                raise InvalidPlaceError(
                    f"position {position} lies outside session {view.lineage.session!r}, which has {view.size} events; "
                    f"give one from {-view.size} to {view.size}"
                )
            return cut
        case EventPlace() as event:
            if not _holds(view, event):
                raise _no_event(view, str(place))
            return event.position


def resolve_event(storage: Storage, view: View, place: object) -> int:
    """Give the position of the event that a place names: a position, an id, or a checkpoint's name."""
    if isinstance(place, Event):
        place = place.id
    match parse_place(place, now=storage.now()):
        case CutPlace(position):
            found = position if position >= 0 else view.size + position
            if not 0 <= found < view.size:
                raise _no_event(view, str(place))
            return found
        case EventPlace() as event:
            if not _holds(view, event):
                raise _no_event(view, str(place))
            return event.position
        case CheckpointPlace(name):
            return _checkpoint_position(storage, view, name)
        case _:
            raise InvalidPlaceError(
                f"{place!r:.100} names a cut, not an event; give a position, an event's id or a checkpoint"
            )


def _holds(view: View, place: EventPlace) -> bool:
    return place.position < view.size and view.lineage.owner(place.position).writer == place.writer


def _no_event(view: View, place: str) -> NotFoundError:
    return NotFoundError(
        f"session {view.lineage.session!r} has no event {place[:100]} on this branch; its size is {view.size}; see branches()"
    )


def _checkpoint_position(storage: Storage, view: View, name: str) -> int:
    stop: int | None = view.size
    while stop is not None and stop > 0:
        page = storage.read(view.lineage, 0, stop, terms=_CHECKPOINTS, reverse=True)
        for event in page.events:
            if isinstance(event.data, dict) and event.data.get("name") == name:
                return event.position
        stop = page.following
    raise NotFoundError(
        f"session {view.lineage.session!r} has no checkpoint {name!r} on this branch; see checkpoints()"
    )


def head_at(storage: Storage, view: View, cut: int) -> Head:
    """Give the head at a cut, from stored nodes."""
    if cut == view.size:
        return view.branch.head()
    return Head(cut, root_of_peaks(storage.tree_nodes(view.lineage, peak_places(cut))).hex())


def base_at(storage: Storage, view: View, cut: int) -> Base | None:
    """Give the base of a new branch at a cut; None at the start, where nothing is shared."""
    if cut == 0:
        return None
    owner = view.lineage.owner(cut - 1).branch
    if cut == view.size:
        branch = view.branch
        return Base(owner, cut, branch.peaks, branch.leaf, branch.recorded)
    leaf, recorded = storage.leaf_at(view.lineage, cut - 1)
    peaks = b"".join(storage.tree_nodes(view.lineage, peak_places(cut)))
    if len(peaks) != DIGEST_BYTES * cut.bit_count():
        raise CorruptionError(
            f"the hashes stored with the first {cut} events of session {view.lineage.session!r} are not those of their tree; nothing was "
            "written; run verify() and restore a backup"
        )
    return Base(owner, cut, peaks, leaf, recorded)


def read_query(query: object, *, now: int) -> Query:
    """Give a Query from what a caller gave: the query language, a Query, or None for everything."""
    if query is None:
        return EVERYTHING
    if isinstance(query, str):
        return parse(query, now=now)
    if isinstance(query, Query):
        return query
    raise InvalidQueryError(f"{query!r:.100} is no query; give a string in the query language, or a Query")


def _time(value: str | datetime, now: int) -> int:
    place = parse_place(value, now=now)
    if not isinstance(place, TimePlace):
        raise InvalidPlaceError(
            f"{value!r:.100} is no time; write 2026-11-23T10:00Z, -2h, or give a datetime with a zone"
        )
    return place.micros


def _count(number: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LimitError(f"{number!r:.50} is no count; give an integer of at least 0")
    return number
