"""Search: the events that meet a query, of all sessions or of one line, ranked or the newest first, a page at a time.

1. The store finds candidates, with an index where it keeps one; each is looked at here, with the query's own matching. So an index
   changes no answer, only how many events are looked at.
2. Each event of a store is found once, on the branch that it was recorded on: what a fork shares is found in its origin, and what a
   rewind left is found too. A line is searched with all that it shares.
3. A page costs a bounded amount of work. Where that did not suffice it holds fewer hits than asked for, and says where to go on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from everlog.core import limits
from everlog.core.event import Event
from everlog.core.lineage import Lineage
from everlog.core.query import Predicate, Query, check_session_query, compile_query, matches_session, strings_of
from everlog.core.ranking import Measure, Snippet, measure, scores, snippet, words_of
from everlog.core.trigrams import needles_of
from everlog.core.upcast import UPCASTERS
from everlog.errors import InvalidPlaceError, InvalidQueryError, LimitError, NotFoundError
from everlog.storage import Bound, CatchingUp, SessionFilter, Storage, Wanted

Order = Literal["rank", "newest"]
ORDERS: Final = ("rank", "newest")

_SESSION_KEYS: Final = frozenset({"session", "label"})
_INDEXED_KEYS: Final = frozenset({"type", "actor", "outcome", "since", "until"})
_TOKEN: Final = re.compile(r"1:(\d{1,6}):((?:\d{1,4}\.\d{1,18}(?:,(?=\d)|$))*)", re.ASCII)
_TOKEN_CHARACTERS_MAX: Final = 65_536


class Hit(msgspec.Struct, frozen=True):
    """An event that was found. score: to compare with those of the same page; 0 where no words were looked for."""

    event: Event
    score: float
    snippet: Snippet


class SearchPage(msgspec.Struct, frozen=True):
    """What was found, in order. following: what to give as `after` to go on; None where all was looked at."""

    hits: list[Hit]
    following: str | None


class _Scope(msgspec.Struct, frozen=True):
    """What is searched. seen: the event as it is read there, or None for one that is not looked for."""

    wanted: Wanted
    query: Query
    seen: Callable[[Event], Event | None]


class _Place(msgspec.Struct, frozen=True):
    """Where a page begins: hits of a ranked block that were given already, and below what the block begins."""

    given: int
    below: tuple[Bound, ...]


class _Block(msgspec.Struct, frozen=True):
    """Events that meet a query, the newest first, and below what to go on; None where all was looked at."""

    events: list[Event]
    below: tuple[Bound, ...] | None


def search_store(
    storage: Storage,
    query: Query,
    *,
    limit: int = 20,
    after: str | None = None,
    order: Order = "rank",
    progress: CatchingUp | None = None,
) -> SearchPage:
    """Search all sessions; see Store.search."""
    of_sessions = check_session_query(Query(tuple(term for term in query.terms if term.key in _SESSION_KEYS)))
    of_events = Query(tuple(term for term in query.terms if term.key not in _SESSION_KEYS))
    chosen = _sessions(storage, of_sessions) if of_sessions.terms else None
    test = _session_test(storage, of_sessions) if of_sessions.terms and chosen is None else None

    def seen(event: Event) -> Event | None:
        return event if test is None or test(event.session) else None

    scope = _Scope(_wanted(of_events, sessions=chosen), of_events, seen)
    return _page(storage, scope, limit=limit, after=after, order=order, progress=progress)


def search_line(
    storage: Storage,
    lineage: Lineage,
    size: int,
    query: Query,
    *,
    limit: int = 20,
    after: str | None = None,
    order: Order = "rank",
    progress: CatchingUp | None = None,
) -> SearchPage:
    """Search the first `size` events of a line; see BranchReader.search."""

    def seen(event: Event) -> Event:
        return msgspec.structs.replace(event, session=lineage.session, branch=lineage.branch_id)

    scope = _Scope(_wanted(query, line=lineage, size=size), query, seen)
    return _page(storage, scope, limit=limit, after=after, order=order, progress=progress)


# --- what is wanted ------------------------------------------------------------------------------
def _wanted(
    query: Query, *, sessions: tuple[int, ...] | None = None, line: Lineage | None = None, size: int = 0
) -> Wanted:
    terms = tuple(term for term in query.terms if term.key in _INDEXED_KEYS)
    segments = None if line is None else tuple(line.clip(0, size))
    return Wanted(terms, needles_of(query), tuple(UPCASTERS), sessions, segments)


def _sessions(storage: Storage, query: Query) -> tuple[int, ...] | None:
    """Give the keys of the sessions that a query chooses; None for more than SEARCH_SESSIONS_MAX."""
    most = limits.SEARCH_SESSIONS_MAX
    found = storage.sessions(SessionFilter(query, limit=most))
    return None if len(found) == most else tuple(each.session.key for each in found)


def _session_test(storage: Storage, query: Query) -> Callable[[str], bool]:
    known: dict[str, bool] = {}

    def test(name: str) -> bool:
        if name not in known:
            try:
                row = storage.session(name)
                known[name] = matches_session(query, name=name, title=row.title, labels=row.labels, updated=0)
            except NotFoundError:  # deleted meanwhile
                known[name] = False
        return known[name]

    return test


# --- pages ---------------------------------------------------------------------------------------
def _page(
    storage: Storage, scope: _Scope, *, limit: int, after: str | None, order: str, progress: CatchingUp | None
) -> SearchPage:
    if not 1 <= limit <= limits.PAGE_EVENTS_MAX:
        raise LimitError(f"limit {limit!r:.50} is not in 1 .. {limits.PAGE_EVENTS_MAX}; page on with after=")
    if order not in ORDERS:
        raise InvalidQueryError(f"order {order!r:.50} is none of {' '.join(ORDERS)}; choose one")
    place = _parse_token(after) if after is not None else _Place(0, _now(storage))
    words = words_of(scope.query)
    ranked = order == "rank" and bool(words)
    count = limits.SEARCH_RANKED_MAX if ranked else limit
    block = _find(storage, scope, place.below, count, progress)
    if not ranked:
        return SearchPage([_hit(event, 0.0, words) for event in block.events], _token(0, block.below))
    found = _ranked(block.events, words)
    given = place.given + limit
    hits = [_hit(event, score, words) for event, score in found[place.given : given]]
    following = _token(given, place.below) if given < len(found) else _token(0, block.below)
    return SearchPage(hits, following)


def _now(storage: Storage) -> tuple[Bound, ...]:
    return tuple(Bound(place.bucket, place.number + 1) for place in storage.feed_end())


def _find(storage: Storage, scope: _Scope, below: tuple[Bound, ...], count: int, progress: CatchingUp | None) -> _Block:
    """Find the newest `count` events below a bound that meet a query, looking at a bounded number of candidates."""
    meets: Predicate = compile_query(scope.query)
    nowhere = () in (scope.wanted.sessions, scope.wanted.line)
    bounds = {} if nowhere else {bound.bucket: bound for bound in below}
    events: list[Event] = []
    looked, held, size = 0, 0, count
    while bounds:
        rest = limits.SEARCH_LOOKED_EVENTS_MAX - looked
        if rest <= 0 or held >= limits.SEARCH_LOOKED_BYTES_MAX:
            return _Block(events, tuple(bounds.values()))
        size = min(limits.PAGE_EVENTS_MAX, 2 * size)
        page = storage.candidates(scope.wanted, tuple(bounds.values()), min(size, rest), progress)
        for bound, event in page.events:
            seen = scope.seen(event)
            if seen is not None and meets(seen):
                if len(events) == count:
                    return _Block(events, tuple(bounds.values()))
                events.append(seen)
            bounds[bound.bucket] = bound
            held += len(event.raw or b"")
        looked += max(len(page.events), 1)
        bounds = {bound.bucket: bound for bound in page.below} if page.more else {}
    return _Block(events, None)


def _ranked(events: Sequence[Event], words: Sequence[str]) -> list[tuple[Event, float]]:
    measures: list[Measure] = [measure(strings_of(event.data, event.rationale), words) for event in events]
    found = list(zip(events, scores(measures), strict=True))
    return sorted(found, key=lambda each: -each[1])  # which keeps the order of those with equal scores


def _hit(event: Event, score: float, words: Sequence[str]) -> Hit:
    return Hit(event, score, snippet(strings_of(event.data, event.rationale), words))


# --- where to go on ------------------------------------------------------------------------------
def _token(given: int, below: Sequence[Bound] | None) -> str | None:
    if below is None:
        return None
    places = ",".join(f"{bound.bucket}.{bound.number}" for bound in sorted(below, key=lambda bound: bound.bucket))
    return f"1:{given}:{places}"


def _parse_token(after: object) -> _Place:
    """Read what `SearchPage.following` gave; InvalidPlaceError for what is none."""
    match = _TOKEN.fullmatch(after) if isinstance(after, str) and len(after) <= _TOKEN_CHARACTERS_MAX else None
    if match is None:
        raise InvalidPlaceError(f"after {after!r:.100} is none that a search gave; give SearchPage.following")
    words = [word.split(".") for word in match[2].split(",") if word]
    return _Place(int(match[1]), tuple(Bound(int(bucket), int(number)) for bucket, number in words))
