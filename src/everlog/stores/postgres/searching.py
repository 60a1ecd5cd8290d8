"""Finding candidates for a search in PostgreSQL: an index in tables of its own, which catches up from each bucket's feed.

1. An event is in it with its header and the hashes of its trigrams. No extension is needed, nor anything that only some servers have.
2. Who fills it for a bucket holds that bucket's place in it, and keeps others from destroying anything there: so it never holds
   words of what was destroyed. Nobody is kept from appending. What is erased leaves it in the same transaction.
3. Where it may not be filled (a role that reads, a server that takes no writes), what it lacks is looked at in the events themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import msgspec
import psycopg

from everlog.core import limits
from everlog.core.event import Event
from everlog.core.query import Range
from everlog.core.trigrams import TRIGRAM, indexed_text, trigrams_of
from everlog.storage import Bound, Candidates, CatchingUp, Wanted
from everlog.stores.postgres.cold import fill
from everlog.stores.postgres.connections import AGAIN, LOCKED, Connections, translate, was_lost
from everlog.stores.postgres.reading import compile_terms
from everlog.stores.postgres.statements import bucket_of
from everlog.stores.rows import Row

if TYPE_CHECKING:
    from everlog.stores.blocks import BlockCache
    from everlog.stores.postgres.transaction import Settings

_REFUSED: Final = ("42501", "25006")  # this role, or this server, writes nothing
_SHARE_MIN: Final = 20  # candidates that each bucket is asked for at least
_ASKED_MAX: Final = 20  # times in one page: what a bucket's unindexed events hold is looked at some at a time
_PAGE_BYTES: Final = limits.PAGE_BYTES_MAX
_GONE, _BODY = 13, 16  # columns of read_feed and read_chosen

_INDEXED: Final = """
SELECT e.feed, coalesce(e.recorded, 0)
FROM {{schema}}.search_entry AS e
WHERE e.bucket = %(bucket)s AND e.feed < %(below)s
  {conditions}
ORDER BY e.feed DESC
LIMIT %(limit)s
"""
_UNINDEXED: Final = """
SELECT e.feed, coalesce(e.recorded, 0)
FROM {{schema}}.event AS e
WHERE e.bucket = %(bucket)s AND e.feed < %(below)s AND e.feed >= %(low)s AND e.type IS NOT NULL
  {conditions}
ORDER BY e.feed DESC
LIMIT %(limit)s
"""
_OF_SESSIONS: Final = """AND e.branch IN (
    SELECT b.branch FROM {schema}.branch AS b WHERE b.bucket = %(bucket)s AND b.session = ANY(%(sessions)s::bigint[])
  )"""
_OF_LINE: Final = """AND e.branch = ANY(%(branches)s::bigint[]) AND EXISTS (
    SELECT 1
    FROM unnest(%(branches)s::bigint[], %(stops)s::bigint[]) AS r (branch, stop)
    WHERE r.branch = e.branch AND e.position < r.stop
  )"""


class _Found(msgspec.Struct):
    """What was found in a bucket: numbers and times, the last first. low: the number that was looked at down to; 0 for all."""

    rows: Sequence[Row]
    low: int


class Searching:
    """Finds candidates in one store. made: makes an event of the columns that read_chosen gives."""

    def __init__(
        self,
        connections: Connections,
        blocks: BlockCache,
        settings: Settings,
        made: Callable[[bytes, bytes, str, int, Sequence[Any]], Event],
    ) -> None:
        self._connections = connections
        self._blocks = blocks
        # What is lost of an index with the server's last moments is filled again.
        self._head = [("begin", None), *(each for each in settings if each[0] == "set_tenant"), ("sync_off", None)]
        self._made = made
        self._refused = connections.read_only
        self._catching_up = Lock()

    # --- catching up ---
    def catch_up(self, progress: CatchingUp | None) -> tuple[dict[int, int], dict[int, int]]:
        """Take in what was recorded since; give the number of the last event in each bucket, and in its index."""
        if not self._catching_up.acquire(timeout=limits.LOCK_SECONDS_MAX):
            counters, places = self._places()
            return {bucket: end for bucket, end, _ in counters}, places
        try:
            while True:
                counters, places = self._places()
                behind = {bucket: places.get(bucket, 0) for bucket, end, _ in counters if end > places.get(bucket, 0)}
                last = {bucket: end for bucket, end, _ in counters}
                if self._refused or not behind:
                    return last, places
                if progress is not None:
                    progress(sum(places.values()), sum(last.values()))
                ends = {bucket: (end, erasures) for bucket, end, erasures in counters}
                try:
                    for bucket, rows in self._read(behind).items():
                        self._add(bucket, behind[bucket], ends[bucket], rows)
                except psycopg.Error as error:
                    self._refused = error.sqlstate in _REFUSED
                    passing = error.sqlstate in (LOCKED, *AGAIN) or was_lost(error)
                    if not (self._refused or passing):
                        raise translate(error) from error
                    return last, places  # what the index lacks is looked at in the events
        finally:
            self._catching_up.release()

    def _places(self) -> tuple[list[Row], dict[int, int]]:
        named = self._connections.statements
        counters, places = self._connections.ask([(named["read_counters"], None), (named["read_search_places"], None)])
        return list(counters), dict(places)

    def _read(self, starts: dict[int, int]) -> dict[int, list[Row]]:
        """Read what is new in buckets, a share of a page each."""
        share = {"limit": max(1, limits.PAGE_EVENTS_MAX // len(starts)), "bytes": _PAGE_BYTES // len(starts)}
        statement = self._connections.statements["read_feed"]
        asked = [(statement, {"bucket": bucket, "after": start, **share}) for bucket, start in starts.items()]

        def read() -> dict[int, list[Row]]:
            found = zip(starts, self._connections.ask(asked), strict=True)
            # As stored: of what is encrypted the index holds no words, and it is looked at each time.
            return {bucket: self._filled(rows, share["bytes"], as_stored=True) for bucket, rows in found}

        return self._blocks.fetching(read)

    def _filled(self, rows: Sequence[Row], bytes_max: int, *, as_stored: bool = False) -> list[Row]:
        fetch, at = self._connections.fetch_all, {"gone": _GONE, "body": _BODY}
        return fill(self._blocks, fetch, rows, _place_of, **at, bytes_max=bytes_max, as_stored=as_stored)

    def _add(self, bucket: int, start: int, counter: tuple[int, int], rows: Sequence[Row]) -> None:
        """Write what was read of a bucket, unless another process has, or something was destroyed there since.

        counter: the bucket's number and its erasures, as they were before the rows were read.
        """
        end, erasures = counter
        words = [(row[0], _hashes(indexed_text(row[_BODY], row[_GONE]))) for row in rows if row[4] is not None]
        given: dict[str, Any] = {
            "bucket": bucket,
            "feeds": [feed for feed, _ in words],
            "trigrams": [None if found is None else _array(found) for _, found in words],
            "feed": rows[-1][0] if rows else end,  # none: they are other tenants'
        }
        head = [*self._head, ("limit_locks", None)]
        with self._connections.writer() as connection:
            try:
                locked = self._together(
                    connection,
                    [*head, *((name, given) for name in ("make_search_place", "share_bucket", "lock_search_place"))],
                )
                sound = locked[-2:] == [[(erasures,)], [(start,)]]
                changes = [("insert_search", given), ("set_search_place", given), ("commit", None)]
                self._together(connection, changes if sound else [("roll_back", None)])
            except BaseException:
                with suppress(psycopg.Error):  # lost; the pool makes another
                    connection.rollback()
                raise

    def _together(self, connection: Any, queries: Sequence[tuple[str, Any]]) -> list[list[Any]]:
        named = self._connections.statements
        return self._connections.together(connection, [(named[name], given) for name, given in queries])

    # --- finding ---
    def candidates(self, wanted: Wanted, below: Sequence[Bound], limit: int, progress: CatchingUp | None) -> Candidates:
        """See Storage.candidates."""
        last, places = self.catch_up(progress)
        bounds = {
            bound.bucket: min(bound.number, last[bound.bucket] + 1)
            for bound in below
            if bound.bucket in last and _may_hold(wanted, bound.bucket)
        }
        chosen, rest = self._choose(wanted, bounds, places, limit)
        return self._blocks.fetching(lambda: self._page(chosen, bounds, rest))

    def _choose(
        self, wanted: Wanted, bounds: dict[int, int], places: dict[int, int], limit: int
    ) -> tuple[list[tuple[int, int]], dict[int, int]]:
        """Give bucket and number of the candidates that come first by their time; and below what to go on in each bucket.

        A bucket is asked for its share, and again, for ever more, while it is the one whose events come next.
        """
        below, chosen = dict(bounds), list[tuple[int, int]]()
        rows: dict[int, deque[Row]] = {}
        lows: dict[int, int] = {}
        most = min(limit, max(_SHARE_MIN, 2 * limit // max(1, len(bounds))))
        for _ in range(_ASKED_MAX):
            lacking = {bucket: number for bucket, number in below.items() if not rows.get(bucket)}
            for bucket, found in self._ask(wanted, lacking, places, most).items():
                rows[bucket], lows[bucket] = deque(found.rows), found.low
                if not found.rows:
                    _pass(below, bucket, found.low)
            most = min(limit, 2 * most)
            while below and len(chosen) < limit and all(rows[bucket] for bucket in below):
                bucket = max(below, key=lambda each: (rows[each][0][1], each))
                below[bucket] = rows[bucket].popleft()[0]
                chosen.append((bucket, below[bucket]))
                if not rows[bucket]:
                    _pass(below, bucket, lows[bucket])
            if not below or len(chosen) == limit:
                break
        return chosen, below

    def _ask(self, wanted: Wanted, bounds: dict[int, int], places: dict[int, int], most: int) -> dict[int, _Found]:
        """Ask buckets for at most so many candidates each, in one round trip."""
        conditions, parameters = _compile(wanted)
        words, needles = _compile_words(wanted)
        asked: list[tuple[bytes, Any]] = []
        lows: dict[int, int] = {}
        for bucket, below in bounds.items():
            first = places.get(bucket, 0) + 1  # that the index lacks
            low = max(first, below - limits.SCAN_EVENTS_MAX)
            if below <= first:
                low, statement = 0, _INDEXED.format(conditions=f"{conditions}\n  {words}")
            else:
                statement = _UNINDEXED.format(conditions=conditions)
            lows[bucket] = low
            given = {"bucket": bucket, "below": below, "low": low, "limit": most, **parameters, **needles}
            asked.append((self._connections.statements.filled(statement), given))
        answers = self._connections.ask(asked, planned_anew=True) if asked else []
        return {
            bucket: _Found(rows, rows[-1][0] if len(rows) == most else low if low > 1 else 0)
            for (bucket, low), rows in zip(lows.items(), answers, strict=True)
        }

    def _page(self, chosen: Sequence[tuple[int, int]], bounds: dict[int, int], below: dict[int, int]) -> Candidates:
        """Read the events that were chosen, as many as fit into a page. below: where to go on if all do."""
        feeds: dict[int, list[int]] = {}
        for bucket, feed in chosen:
            feeds.setdefault(bucket, []).append(feed)
        share = _PAGE_BYTES // max(1, len(feeds))
        statement = self._connections.statements["read_chosen"]
        asked = [(statement, {"bucket": each, "feeds": own, "bytes": share}) for each, own in feeds.items()]
        answers = self._connections.ask(asked) if asked else []
        rows = {
            (bucket, row[0]): row
            for bucket, found in zip(feeds, answers, strict=True)
            for row in self._filled(found, share)
        }
        events: list[tuple[Bound, Event]] = []
        passed = dict(bounds)
        for bucket, feed in chosen:
            row = rows.get((bucket, feed))
            if row is None:  # it did not fit
                return Candidates(events, _bounds(passed), more=True)
            passed[bucket] = feed
            _, branch, branch_id, writer, session, *columns = row
            if session is not None and columns[1] is not None:
                event = self._made(branch_id, writer, session, branch, columns)
                events.append((Bound(bucket, feed), event))
        return Candidates(events, _bounds(below), more=bool(below))


def _place_of(row: Row) -> tuple[int, int]:
    """Give branch and position of a row of read_feed or read_chosen."""
    return row[1], row[5]


def _may_hold(wanted: Wanted, bucket: int) -> bool:
    """Tell whether a bucket may hold what is wanted: sessions and lines lie in one."""
    if wanted.line is not None:
        return any(bucket_of(segment.branch) == bucket for segment in wanted.line)
    return wanted.sessions is None or any(bucket_of(session) == bucket for session in wanted.sessions)


def _pass(below: dict[int, int], bucket: int, low: int) -> None:
    """Note that a bucket was looked at down to a number; 0 for all of it."""
    if low:
        below[bucket] = low
    else:
        del below[bucket]


def _bounds(below: dict[int, int]) -> tuple[Bound, ...]:
    return tuple(Bound(bucket, number) for bucket, number in below.items())


# --- what is wanted ------------------------------------------------------------------------------
def _compile(wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """Compile what is wanted to conditions on `e`, a row of events or of their index, but for words."""
    times = [term for term in wanted.terms if term.key in ("since", "until")]
    conditions, parameters = compile_terms([term for term in wanted.terms if term not in times])
    parts = [conditions]
    for number, term in enumerate(times):
        alternatives = [_within(value, f"t{number}_{place}", parameters) for place, value in enumerate(term.values)]
        parts.append(f"AND {'NOT ' if term.negated else ''}({' OR '.join(alternatives)})")
    if wanted.sessions is not None:
        parts.append(_OF_SESSIONS)
        parameters["sessions"] = list(wanted.sessions)
    if wanted.line is not None:
        parts.append(_OF_LINE)
        parameters["branches"] = [segment.branch for segment in wanted.line]
        parameters["stops"] = [segment.stop for segment in wanted.line]
    return "\n  ".join(parts), parameters


def _within(value: object, name: str, parameters: dict[str, Any]) -> str:
    assert isinstance(value, Range), "times are ranges"
    parts = ["true"]
    if value.low is not None:
        parts.append(f"e.recorded >= %({name}_low)s")
        parameters[f"{name}_low"] = int(value.low)
    if value.high is not None:
        parts.append(f"e.recorded < %({name}_high)s")
        parameters[f"{name}_high"] = int(value.high)
    return f"({' AND '.join(parts)})"


def _compile_words(wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """Compile needles to a condition on rows of the index."""
    parameters: dict[str, Any] = {}
    groups: list[str] = []
    for number, group in enumerate(wanted.needles):
        alternatives: list[str] = []
        for place, needle in enumerate(group):
            parameters[f"n{number}_{place}"] = sorted({_hash(trigram) for trigram in trigrams_of(needle)})
            alternatives.append(f"e.trigrams @> %(n{number}_{place})s::smallint[]")
        groups.append(f"({' OR '.join(alternatives)})")
    if not groups:
        return "", parameters
    ways = [" AND ".join(groups), "e.trigrams IS NULL"]
    if wanted.reshaped:
        ways.append("e.type = ANY(%(reshaped)s::text[])")
        parameters["reshaped"] = list(wanted.reshaped)
    return f"AND ({' OR '.join(f'({way})' for way in ways)})", parameters


@lru_cache(100_000)
def _hash(trigram: str) -> int:
    return (crc32(trigram.encode()) & 0xFFFF) - 0x8000


def _hashes(text: str | None) -> list[int] | None:
    if text is None:
        return None
    return sorted({_hash(text[at : at + TRIGRAM]) for at in range(len(text) - TRIGRAM + 1)})


def _array(numbers: Sequence[int]) -> str:
    return f"{{{','.join(map(str, numbers))}}}"
