"""Reading events: one statement a page, and one round trip.

1. A page of one branch's own events goes along its primary key and stops at the limit; one that overlaps several segments joins
   them, and sorts what is at most a page or a scan.
2. A page of bodies that are all within their share of its bytes is read as it is. Where one is not, bytes are added up on the
   server, so that the page ends there; that takes twice as long a row (2026-11: 4.8 ms and 2.8 for 1,000 of 1 kB).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from everlog.core import limits
from everlog.core.decide import EventRow
from everlog.core.envelope import is_sealed
from everlog.core.event import Cause, Event
from everlog.core.lineage import Lineage, Segment
from everlog.core.position import parse_event_id
from everlog.core.query import Exact, Glob, Term, Value
from everlog.errors import CorruptionError
from everlog.storage import BranchRow, Page
from everlog.stores.blocks import BlockCache
from everlog.stores.postgres.cold import fill, whole_rows
from everlog.stores.postgres.connections import Connections
from everlog.stores.postgres.statements import bucket_of
from everlog.stores.rows import Row, branch_row

REVERSE_SCAN_EVENTS: Final = (
    1_000  # positions that a filtered page looks at from the end first, where the last match often is
)

_ONE = """{schema}.event AS e
WHERE e.bucket = %(bucket)s AND e.branch = %(branch)s AND e.position >= %(start)s AND e.position < %(stop)s
  {terms}"""
_SEVERAL = """unnest(%(branches)s::bigint[], %(starts)s::bigint[], %(stops)s::bigint[]) AS r (branch, start, stop)
CROSS JOIN LATERAL (
  SELECT * FROM {schema}.event AS e
  WHERE e.bucket = %(bucket)s AND e.branch = r.branch AND e.position >= r.start AND e.position < r.stop
    {terms}
  OFFSET 0
) AS e"""
_SMALL = """
SELECT e.position, e.type, e.actor, e.outcome, e.recorded, e.occurred, e.cause, e.key,
  CASE WHEN octet_length(e.body) > %(share)s THEN -1 ELSE e.gone END, e.attached, e.leaf,
  CASE WHEN octet_length(e.body) <= %(share)s THEN e.body END
FROM {range}
ORDER BY e.position {order}
LIMIT %(limit)s
"""
# A page holds as many bytes as it may, or one larger event. The event that it had no room for comes last, marked and without its body.
_PAGE = """
SELECT position, type, actor, outcome, recorded, occurred, cause, key,
  CASE WHEN held <= %(bytes)s OR held = own THEN gone ELSE -1 END, attached, leaf,
  CASE WHEN held <= %(bytes)s OR held = own THEN body END
FROM (
  SELECT *, sum(own) OVER (ORDER BY position {order}) AS held
  FROM (
    SELECT e.*, coalesce(octet_length(e.body), 0) AS own
    FROM {range}
    ORDER BY e.position {order}
    LIMIT %(limit)s
  ) AS chosen
) AS counted
WHERE held - own <= %(bytes)s
ORDER BY position {order}
"""
_GONE, _BODY = 8, 11  # of a row's columns
# Types that are looked for from far away: the constant that the index of each is declared with.
_OWN_INDEX: Final = {"checkpoint": "e.type = 'checkpoint'", "summary": "e.type = 'summary'"}
_NO_ROOM: Final = -1  # in the place of what became of a body: it is too large to be read here


def read_page(
    connections: Connections,
    blocks: BlockCache,
    lineage: Lineage,
    start: int,
    stop: int,
    *,
    terms: tuple[Term, ...],
    reverse: bool,
    limit: int,
) -> Page:
    """Read one page; see Storage.read."""
    if start >= stop:
        return Page([], None)
    conditions, parameters = compile_terms(terms)
    span = limit if not terms else REVERSE_SCAN_EVENTS if reverse else limits.SCAN_EVENTS_MAX
    if _is_indexed(terms):
        span = stop - start
    low, high = (max(start, stop - span), stop) if reverse else (start, min(stop, start + span))
    events, full = _fetch(connections, blocks, lineage, low, high, conditions, parameters, reverse=reverse, limit=limit)
    if reverse:
        following = events[-1].position if events and (full or not terms) else low
        if not terms:
            _check_gapless(lineage, events[::-1], following, high)
        return Page(events, following if following > start else None)
    following = events[-1].position + 1 if events and (full or not terms) else high
    if not terms:
        _check_gapless(lineage, events, low, following)
    return Page(events, following if following < stop else None)


def _check_gapless(lineage: Lineage, events: Sequence[Event], low: int, high: int) -> None:
    if len(events) != high - low or (events and events[0].position != low):
        raise gap(lineage, low, high, len(events))


def _fetch(
    connections: Connections,
    blocks: BlockCache,
    lineage: Lineage,
    low: int,
    high: int,
    conditions: str,
    parameters: dict[str, Any],
    *,
    reverse: bool,
    limit: int,
) -> tuple[list[Event], bool]:
    """Read events of a range, as many as fit into a page; tell whether it is full."""
    segments = lineage.clip(low, high)
    order = "DESC" if reverse else "ASC"
    range_, bounds = _bounds(segments, conditions)
    given: dict[str, Any] = {**bounds, **parameters, "bucket": bucket_of(lineage.branch), "limit": limit}

    def ask(template: str, **bytes_: int) -> Sequence[Row]:
        asked = connections.statements.filled(template.format(range=range_, order=order))
        return connections.ask([(asked, given | bytes_)])[0]

    large = lineage.branch in connections.large
    found = [] if large else ask(_SMALL, share=limits.PAGE_BYTES_MAX // limit)
    if large or _lacks_bodies(found):
        connections.note_large(lineage.branch)
        found = ask(_PAGE, bytes=limits.PAGE_BYTES_MAX)
    full = len(found) == limit or bool(found and len(found[-1][_BODY] or b"") > limits.PAGE_BYTES_MAX)
    if found and found[-1][_GONE] == _NO_ROOM:
        found, full = found[:-1], True
    whole = _fill(connections, blocks, lineage, found)
    return _events(whole, lineage, segments, reverse=reverse), full or len(whole) < len(found)


def _lacks_bodies(rows: Sequence[Row]) -> bool:
    """Tell whether bodies were too large to be read as they are."""
    return any(row[_GONE] == _NO_ROOM for row in rows)


def _fill(connections: Connections, blocks: BlockCache, lineage: Lineage, rows: Sequence[Row]) -> Sequence[Row]:
    """Put bodies that are in blocks into the rows of a page, as far as they fit into one."""
    return fill(
        blocks,
        connections.fetch_all,
        rows,
        lambda row: (lineage.owner(row[0]).branch, row[0]),
        gone=_GONE,
        body=_BODY,
    )


def peek(
    connections: Connections, blocks: BlockCache, session_id: str, bucket: int, lineage: Lineage, start: int, stop: int
) -> tuple[BranchRow | None, list[Event] | None]:
    """Read a session's current branch, and events of a line; see Storage.peek. No branch: the session is not there."""
    segments, count = lineage.clip(start, stop), stop - start
    range_, bounds = _bounds(segments, "")
    asked = connections.statements.filled(_SMALL.format(range=range_, order="ASC"))
    share = limits.PAGE_BYTES_MAX // count
    statements: list[tuple[bytes, Any]] = [
        (connections.statements["read_current_branch"], {"bucket": bucket, "id": bytes.fromhex(session_id)}),
        (asked, {**bounds, "bucket": bucket_of(lineage.branch), "limit": count, "share": share}),
    ]
    found, rows = connections.ask(statements)
    branch = branch_row(found[0]) if found else None
    if branch is None or branch.key != lineage.branch or branch.size < stop or _lacks_bodies(rows):
        return branch, None
    whole = _fill(connections, blocks, lineage, rows)
    if len(whole) < len(rows):
        return branch, None
    events = _events(whole, lineage, segments, reverse=False)
    _check_gapless(lineage, events, start, stop)
    return branch, events


def read_short(connections: Connections, asked: Sequence[tuple[Lineage, int]]) -> list[list[Event] | None]:
    """Read several lines of a segment each, from their beginnings; see Storage.read_short. What is cold or encrypted is left."""
    if not asked:
        return []
    statement = connections.statements.filled(_SMALL.format(range=_ONE.replace("{terms}", ""), order="ASC"))
    share = limits.PAGE_BYTES_MAX // sum(size for _, size in asked)
    given = [
        {
            "bucket": bucket_of(lineage.branch),
            "branch": lineage.branch,
            "start": 0,
            "stop": size,
            "limit": size,
            "share": share,
        }
        for lineage, size in asked
    ]
    found: list[list[Event] | None] = []
    for (lineage, size), rows in zip(asked, connections.ask([(statement, each) for each in given]), strict=True):
        is_here = all(row[_GONE] not in (None, _NO_ROOM) or _is_plain(row[_BODY]) for row in rows)
        is_whole = is_here and [row[0] for row in rows] == list(range(size))
        found.append(_events(rows, lineage, lineage.clip(0, size), reverse=False) if is_whole else None)
    return found


def _is_plain(body: bytes | None) -> bool:
    return body is not None and not is_sealed(body)


def _bounds(segments: Sequence[Segment], conditions: str) -> tuple[str, dict[str, Any]]:
    """Give what is read from, with conditions on it, and its parameters."""
    if len(segments) == 1:
        (segment,) = segments
        one = {"branch": segment.branch, "start": segment.start, "stop": segment.stop}
        return _ONE.replace("{terms}", conditions), one
    # Each range by the index: planned without its bounds a join would read all of the bucket.
    return _SEVERAL.replace("{terms}", conditions), ranges_of(segments)


def ranges_of(segments: Sequence[Segment]) -> dict[str, list[int]]:
    """Give segments as the arrays that statements take."""
    return {
        "branches": [each.branch for each in segments],
        "starts": [each.start for each in segments],
        "stops": [each.stop for each in segments],
    }


def _events(rows: Sequence[Row], lineage: Lineage, segments: Sequence[Segment], *, reverse: bool) -> list[Event]:
    """Give the events of rows, which come in the order of positions."""
    session, branch = lineage.session, lineage.branch_id
    if len(segments) == 1:
        writer = segments[0].writer
        return [Event(session, branch, writer, *row) for row in rows]
    events: list[Event] = []
    remaining = iter(reversed(segments) if reverse else segments)
    segment = next(remaining, None)
    for row in rows:
        while segment is not None and not segment.start <= row[0] < segment.stop:
            segment = next(remaining, None)
        if segment is None:
            raise gap(lineage, row[0], row[0] + 1, 0)
        events.append(Event(session, branch, segment.writer, *row))
    return events


def _is_indexed(terms: Sequence[Term]) -> bool:
    """Tell whether an index finds what terms ask for."""
    for term in terms:
        if term.negated or len(term.values) != 1:
            continue
        value = term.values[0]
        if term.key == "key" and (isinstance(value, Exact) or (isinstance(value, Glob) and value.prefix)):
            return True
        if term.key == "caused_by" or (term.key == "type" and isinstance(value, Exact) and value.text in _OWN_INDEX):
            return True
    return False


def compile_terms(terms: Sequence[Term]) -> tuple[str, dict[str, Any]]:
    """Compile header terms to SQL conditions and their parameters. Only fragments of this file are put together."""
    conditions: list[str] = []
    parameters: dict[str, Any] = {}
    for number, term in enumerate(terms):
        alternatives = [
            _compile_value(term.key, value, f"p{number}_{place}", parameters) for place, value in enumerate(term.values)
        ]
        condition = " OR ".join(alternatives)
        # A NULL column meets no term, and so every negated one.
        conditions.append(f"AND NOT coalesce({condition}, false)" if term.negated else f"AND ({condition})")
    return "\n  ".join(conditions), parameters


def _compile_value(key: str, value: Value, name: str, parameters: dict[str, Any]) -> str:
    if key == "caused_by" and isinstance(value, Exact):
        place = parse_event_id(value.text)
        assert place is not None, "check_term lets only event ids through"
        prefix = Cause(place.writer, place.position, b"").pack()
        parameters[name] = prefix
        parameters[f"{name}_end"] = prefix + b"\xff" * 33
        return f"(e.cause >= %({name})s AND e.cause < %({name}_end)s)"
    if key == "type" and isinstance(value, Exact) and value.text in _OWN_INDEX:
        return _OWN_INDEX[value.text]
    column = {"type": "e.type", "actor": "e.actor", "key": "e.key", "outcome": "coalesce(e.outcome, 'none')"}[key]
    if isinstance(value, Glob):
        parameters[name] = _like(value.pattern)
        condition = f"{column} LIKE %({name})s::text"
        if key == "key" and value.prefix:
            parameters[f"{name}_low"] = value.prefix
            parameters[f"{name}_high"] = value.prefix + "\U0010ffff"
            return f"(e.key >= %({name}_low)s::text AND e.key <= %({name}_high)s::text AND {condition})"
        return condition
    assert isinstance(value, Exact), "header terms hold texts and globs"
    parameters[name] = value.text
    return f"{column} = %({name})s::text"


def _like(pattern: str) -> str:
    """Write a glob, in which only `*` is special, as a pattern of LIKE."""
    for special in ("\\", "%", "_"):
        pattern = pattern.replace(special, "\\" + special)
    return pattern.replace("*", "%")


def read_whole_rows(
    connections: Connections, blocks: BlockCache, lineage: Lineage, start: int, stop: int, *, as_stored: bool = False
) -> list[EventRow]:
    """Read a page of whole rows from `start` on; see Storage.rows."""
    if start >= stop:
        return []
    segments = lineage.clip(start, min(stop, start + limits.PAGE_EVENTS_MAX))
    given = {**ranges_of(segments), "bucket": bucket_of(lineage.branch), "bytes": limits.PAGE_BYTES_MAX}
    found = [EventRow(*columns) for columns in connections.fetch_all("read_rows", given)]
    rows = whole_rows(
        blocks,
        connections.fetch_all,
        found,
        lambda position: lineage.owner(position).branch,
        limits.PAGE_BYTES_MAX,
        as_stored=as_stored,
    )
    if not rows or any(row.position != start + place for place, row in enumerate(rows)):
        raise gap(lineage, start, stop, len(rows))
    return rows


def read_leaves(
    connections: Connections, lineage: Lineage, positions: Sequence[int]
) -> dict[int, tuple[bytes, bytes, int]]:
    """Read leaf, stored nodes and time (0 where the columns were destroyed) of events, by position."""
    given = {
        "bucket": bucket_of(lineage.branch),
        "branches": [lineage.owner(position).branch for position in positions],
        "positions": list(positions),
    }
    found = {row[0]: (row[1], row[2], row[3] or 0) for row in connections.fetch_all("read_leaves", given)}
    for position in positions:
        if position not in found:
            raise gap(lineage, position, position + 1, 0)
    return found


def gap(lineage: Lineage, start: int, stop: int, found: int) -> CorruptionError:
    """Say that events are missing."""
    return CorruptionError(
        f"session {lineage.session!r} holds {found} events in [{start}, {stop}) where each position should hold one; nothing "
        "was changed; run verify() and restore a backup"
    )
