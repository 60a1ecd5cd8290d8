"""Reading events: one statement a page, over as many segments of a lineage as the page overlaps.

1. The segments go in as one JSON array and lead the join, so a lineage of a thousand rewinds is one statement too.
2. Rows come in the order of segments, then positions, because the array leads (CROSS JOIN) and the index follows; the
   order is checked when they are decoded, since SQL does not promise it without a sort that would cost more.
3. Terms on key, caused_by and type:checkpoint go through their indexes while they match few enough events; else, as all
   others, the page looks at a bounded number of positions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from typing import Any

import apsw
import msgspec

from everlog.core import limits
from everlog.core.decide import EVENT_COLUMNS, SOUND_COLUMNS, EventRow, damaged_column, damaged_event
from everlog.core.envelope import is_sealed
from everlog.core.event import DELETED, Cause, Event
from everlog.core.lineage import Lineage, Segment
from everlog.core.merkle import node_in_row, node_position
from everlog.core.position import parse_event_id
from everlog.core.query import Exact, Glob, Term, Value
from everlog.errors import CorruptionError
from everlog.storage import Page
from everlog.stores.blocks import TWIG_LEAVES, TWIG_LEVELS, Bodies, Twigs, twig
from everlog.stores.sqlite.run import Row, fetch_each, fetch_one, fetch_row

INDEXED_EVENTS_MAX = 5_000  # matches that are worth finding by index and sorting; past that a scan is no slower
REVERSE_SCAN_EVENTS = (
    1_000  # positions that a filtered page looks at from the end: few, as the last match is often near
)
# Types that are looked for from far away: the index of each, and the constant that it is declared with.
_OWN_INDEX = {
    "checkpoint": ("event_checkpoint", "e.type = 'checkpoint'"),
    "summary": ("event_summary", "e.type = 'summary'"),
}
_COLUMNS = (
    "e.position, e.type, e.actor, e.outcome, e.recorded, e.occurred, e.cause, e.key, e.gone, e.attached, e.leaf, e.body"
)
_READ = """
SELECT {columns}
FROM json_each(:segments) AS s
CROSS JOIN event AS e {index}
WHERE e.branch = s.value ->> '$[0]'
  AND e.position >= s.value ->> '$[1]'
  AND e.position < s.value ->> '$[2]'
  {terms}
"""

_BACKWARDS = """
SELECT e.feed, e.branch, e.position, e.type, e.actor, e.outcome, e.recorded, e.occurred, e.cause, e.key, e.gone,
  e.attached, e.leaf, e.body
FROM event AS e
WHERE e.feed >= :low AND e.feed < :below
  {terms}
ORDER BY e.feed DESC
"""


def read_page(
    connection: apsw.Connection,
    bodies: Bodies,
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
    index = _index_of(terms)
    if index is not None and _few(connection, lineage, start, stop, conditions, parameters, index):
        return _read_indexed(
            connection, bodies, lineage, start, stop, conditions, parameters, index, reverse=reverse, limit=limit
        )
    span = limit if not terms else REVERSE_SCAN_EVENTS if reverse else limits.SCAN_EVENTS_MAX
    low, high = (max(start, stop - span), stop) if reverse else (start, min(stop, start + span))
    sql = _READ.format(columns=_COLUMNS, index="", terms=conditions)
    while True:
        segments = lineage.clip(low, high)
        rows = connection.execute(sql, {"segments": _encode(segments), **parameters})
        events = _decoded(rows, bodies, lineage, segments)
        if not reverse:
            return _collect(events, lineage, segments, high=high, stop=stop, limit=limit, gapless=not terms)
        try:
            return _collect_reverse(events, lineage, segments, low=low, start=start, limit=limit, gapless=not terms)
        except CorruptionError:
            if high - low <= 1:
                raise
            low = high - (high - low) // 2  # what lies behind the damaged event is read without it


def read_short(
    connection: apsw.Connection, bodies: Bodies, asked: Sequence[tuple[Lineage, int]]
) -> list[list[Event] | None]:
    """Read several lines of a segment each, from their beginnings; see Storage.read_short."""
    found: list[list[Event] | None] = [None] * len(asked)
    segments = [segment for lineage, size in asked for segment in lineage.clip(0, size)]
    sql = _READ.format(columns=f"s.key, {_COLUMNS}", index="", terms="")
    held = 0
    for place, rows in groupby(connection.execute(sql, {"segments": _encode(segments)}), itemgetter(0)):
        lineage, size = asked[place]
        events: list[Event] = []
        with suppress(CorruptionError):  # `read` says what is damaged, to whom it comes to it
            for event in _decoded((row[1:] for row in rows), bodies, lineage, segments[place : place + 1]):
                held += len(event.raw or b"")
                if held > limits.PAGE_BYTES_MAX:
                    return found
                events.append(event)
        if [event.position for event in events] == list(range(size)):  # else `read` says what is missing
            found[place] = events
    return found


def _decoded(rows: Iterable[Row], bodies: Bodies, lineage: Lineage, segments: Sequence[Segment]) -> Iterator[Event]:
    """Give the events of rows, which come in the order of the segments."""
    session, branch = lineage.session, lineage.branch_id
    remaining = iter(segments)
    writer, owner, segment_stop = "", 0, -1
    for row in rows:
        position, type_, actor, outcome, recorded, occurred, cause, key, gone, attached, leaf, body = row
        while position >= segment_stop:
            segment = next(remaining)
            writer, owner, segment_stop = segment.writer, segment.branch, segment.stop
        # Written out, since it is asked of every event that is read: with SOUND_COLUMNS reading takes a fifth longer (measured).
        if not (
            type(position) is int
            and type(type_) is str
            and type(recorded) is int
            and type(leaf) is bytes
            and (type(body) is bytes or body is None)
            and (actor is None or type(actor) is str)
            and (outcome is None or type(outcome) is str)
            and (occurred is None or type(occurred) is int)
            and (cause is None or type(cause) is bytes)
            and (key is None or type(key) is str)
            and (gone is None or type(gone) is int)
            and (attached is None or type(attached) is str)
        ):
            check_columns(row, session)
        if body is None or (body[:1] == b"\x00" and is_sealed(body)):
            body = bodies.body(owner, position, body, gone, leaf)
        yield Event(
            session, branch, writer, position, type_, actor, outcome, recorded, occurred, cause, key, gone, attached, leaf, body  # pyright: ignore[reportArgumentType]
        )  # fmt: skip


def check_columns(row: Sequence[Any], session: str) -> None:
    """Raise CorruptionError where a column of a row holds what no append writes there. row: as of EVENT_COLUMNS."""
    if tuple(map(type, row)) in SOUND_COLUMNS or (row[8] == DELETED and row[1] is None):
        return
    raise damaged_event(session, row[0], f"its {damaged_column(EVENT_COLUMNS, row)} cannot be what was written")


def _collect(
    decoded: Iterable[Event],
    lineage: Lineage,
    segments: Sequence[Segment],
    *,
    high: int,
    stop: int,
    limit: int,
    gapless: bool,
) -> Page:
    """Take events from the front of a window that ends at `high`, up to a page."""
    events: list[Event] = []
    held = 0
    try:
        for event in decoded:
            held += len(event.raw or b"")
            if held > limits.PAGE_BYTES_MAX and events:
                break
            events.append(event)
            if len(events) == limit:
                break
        else:
            if gapless and len(events) != high - segments[0].start:
                raise _gap(lineage, segments[0].start, high, len(events))
            return Page(events, high if high < stop else None)
    except CorruptionError:  # of what comes next: who goes on meets it there
        start = segments[0].start
        if gapless:
            events = [event for place, event in enumerate(events) if event.position == start + place]
        if not events:
            raise
    following = events[-1].position + 1
    return Page(events, following if following < stop else None)


def _collect_reverse(
    decoded: Iterable[Event],
    lineage: Lineage,
    segments: Sequence[Segment],
    *,
    low: int,
    start: int,
    limit: int,
    gapless: bool,
) -> Page:
    """Take a page from the end of a window that starts at `low`: read in its order, since the other way would need a sort."""
    kept: deque[Event] = deque()
    held = read = 0
    for event in decoded:
        kept.append(event)
        read += 1
        held += len(event.raw or b"")
        while len(kept) > limit or (held > limits.PAGE_BYTES_MAX and len(kept) > 1):
            held -= len(kept.popleft().raw or b"")
    if gapless and read != segments[-1].stop - low:
        raise _gap(lineage, low, segments[-1].stop, read)
    following = kept[0].position if len(kept) < read else low
    return Page(list(reversed(kept)), following if following > start else None)


def _read_indexed(
    connection: apsw.Connection,
    bodies: Bodies,
    lineage: Lineage,
    start: int,
    stop: int,
    conditions: str,
    parameters: dict[str, Any],
    index: str,
    *,
    reverse: bool,
    limit: int,
) -> Page:
    segments = lineage.clip(start, stop)
    sql = _READ.format(columns="e.position", index=f"INDEXED BY {index}", terms=conditions)
    found: list[Any] = connection.execute(sql, {"segments": _encode(segments), **parameters}).fetchall()
    positions = sorted((position for (position,) in found), reverse=reverse)[:limit]
    events: list[Event] = []
    held = 0
    for position in positions:
        segment = lineage.owner(position)
        one = Segment(segment.branch, segment.writer, position, position + 1)
        rows = connection.execute(_READ.format(columns=_COLUMNS, index="", terms=""), {"segments": _encode([one])})
        decoded = _decoded(rows, bodies, lineage, [one])
        try:
            page = _collect(decoded, lineage, [one], high=position + 1, stop=position + 1, limit=1, gapless=True)
        except CorruptionError:
            if not events:
                raise
            break
        event = page.events[0]
        held += len(event.raw or b"")
        if held > limits.PAGE_BYTES_MAX and events:
            break
        events.append(event)
    if len(events) == len(found) or not events:
        return Page(events, None)
    last = events[-1].position
    return Page(events, last if reverse else last + 1)


def _few(
    connection: apsw.Connection,
    lineage: Lineage,
    start: int,
    stop: int,
    conditions: str,
    parameters: dict[str, Any],
    index: str,
) -> bool:
    inner = _READ.format(columns="1", index=f"INDEXED BY {index}", terms=conditions)
    sql = f"SELECT count(*) FROM ({inner} LIMIT {INDEXED_EVENTS_MAX + 1})"  # fragments of this file only
    row = connection.execute(sql, {"segments": _encode(lineage.clip(start, stop)), **parameters}).fetchone()
    return row is not None and row[0] <= INDEXED_EVENTS_MAX


def _index_of(terms: Sequence[Term]) -> str | None:
    for term in terms:
        if term.negated or len(term.values) != 1:
            continue
        value = term.values[0]
        if term.key == "key" and (isinstance(value, Exact) or (isinstance(value, Glob) and value.prefix)):
            return "event_key"
        if term.key == "caused_by":
            return "event_cause"
        if term.key == "type" and isinstance(value, Exact) and value.text in _OWN_INDEX:
            return _OWN_INDEX[value.text][0]
    return None


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
        conditions.append(f"AND NOT coalesce({condition}, 0)" if term.negated else f"AND ({condition})")
    return "\n  ".join(conditions), parameters


def _compile_value(key: str, value: Value, name: str, parameters: dict[str, Any]) -> str:
    if key == "caused_by" and isinstance(value, Exact):
        place = parse_event_id(value.text)
        assert place is not None, "check_term lets only event ids through"
        prefix = Cause(place.writer, place.position, b"").pack()
        parameters[name] = prefix
        parameters[f"{name}_end"] = prefix + b"\xff" * 33
        return f"(e.cause >= :{name} AND e.cause < :{name}_end)"
    if key == "type" and isinstance(value, Exact) and value.text in _OWN_INDEX:
        return _OWN_INDEX[value.text][1]
    if isinstance(value, Glob):
        parameters[name] = value.pattern.replace("[", "[[]").replace("?", "[?]")
        column = {"type": "e.type", "actor": "e.actor", "key": "e.key", "outcome": "coalesce(e.outcome, 'none')"}[key]
        condition = f"{column} GLOB :{name}"
        if key == "key" and value.prefix:
            parameters[f"{name}_low"] = value.prefix
            parameters[f"{name}_high"] = value.prefix + "\U0010ffff"
            return f"(e.key >= :{name}_low AND e.key <= :{name}_high AND {condition})"
        return condition
    assert isinstance(value, Exact), "header terms hold texts and globs"
    parameters[name] = value.text
    match key:
        case "type":
            return f"e.type = :{name}"
        case "actor":
            return f"e.actor = :{name}"
        case "key":
            return f"e.key = :{name}"
        case _:
            return f"coalesce(e.outcome, 'none') = :{name}"


def read_whole_rows(
    connection: apsw.Connection, bodies: Bodies, lineage: Lineage, start: int, stop: int, *, as_stored: bool
) -> list[EventRow]:
    """Read a page of whole rows from `start` on; see Storage.rows."""
    rows: list[EventRow] = []
    held = 0
    twigs = Twigs(_leaves(connection, lineage, start - start % TWIG_LEAVES, start))
    for segment in lineage.clip(start, min(stop, start + limits.PAGE_EVENTS_MAX)):
        at = {"branch": segment.branch, "start": segment.start, "stop": segment.stop}
        for columns in fetch_each(connection, "read_rows", at):
            row = bodies.whole(segment.branch, EventRow(*columns), as_stored=as_stored)
            if type(row.body) is bytes:  # else it is gone, or damaged: whoever uses it says so
                held += len(row.body)
            if held > limits.PAGE_BYTES_MAX and rows:
                return rows
            if row.position != start + len(rows):
                raise _gap(lineage, start, segment.stop, len(rows))
            rows.append(twigs.grown(row))
    if start < stop and not rows:
        raise _gap(lineage, start, stop, 0)
    return rows


def read_leaf(connection: apsw.Connection, lineage: Lineage, position: int) -> tuple[bytes, bytes, int]:
    """Read an event's leaf, the nodes stored with it, and its time (0 where its columns were destroyed)."""
    at = {"branch": lineage.owner(position).branch, "position": position}
    row = fetch_one(connection, "read_leaf", at)
    if row is None:
        raise _gap(lineage, position, position + 1, 0)
    leaf, nodes, recorded, _, _ = row
    recorded = recorded or 0  # a time may be destroyed
    for name, value, kind in (("leaf", leaf, bytes), ("nodes", nodes, bytes), ("recorded", recorded, int)):
        if type(value) is not kind:
            raise damaged_event(lineage.session, position, f"its {name} cannot be what was written")
    return leaf, nodes, recorded


def read_leaves(connection: apsw.Connection, lineage: Lineage, start: int, stop: int) -> list[bytes]:
    """Read the leaves of [start, stop), in order."""
    leaves = _leaves(connection, lineage, start, stop)
    for position, leaf in enumerate(leaves, start):
        if type(leaf) is not bytes:
            raise damaged_event(lineage.session, position, "its leaf cannot be what was written")
    return leaves


def _leaves(connection: apsw.Connection, lineage: Lineage, start: int, stop: int) -> list[bytes]:
    """Read leaves as they stand in their rows, which may be damaged."""
    leaves: list[bytes] = []
    for segment in lineage.clip(start, stop):
        at = {"branch": segment.branch, "start": segment.start, "stop": segment.stop}
        leaves += [leaf for (leaf,) in fetch_each(connection, "read_leaves", at)]
    if len(leaves) != stop - start:
        raise _gap(lineage, start, stop, len(leaves))
    return leaves


def read_node(connection: apsw.Connection, lineage: Lineage, level: int, index: int) -> bytes:
    """Read a node of the lineage's tree, or make it from its leaves where it left its row."""
    leaf, stored, _ = read_leaf(connection, lineage, node_position(level, index))
    node = node_in_row(level, leaf, stored)
    if node or level > TWIG_LEVELS:
        return node
    return twig(read_leaves(connection, lineage, index << level, (index + 1) << level))


def read_feed_leaf(connection: apsw.Connection, number: int) -> bytes | None:
    """Give the leaf of the event of a number; None where there is none."""
    row = fetch_one(connection, "read_feed_leaf", {"feed": number})
    return None if row is None else row[0]


def read_feed(
    connection: apsw.Connection, bodies: Bodies, after: int, limit: int
) -> tuple[list[tuple[Any, ...]], bool]:
    """Read a page of feed rows, and whether more may follow."""
    rows: list[tuple[Any, ...]] = []
    held = 0
    for columns in fetch_each(connection, "read_feed", {"after": after, "limit": limit}):
        row = _with_body(columns, bodies)
        if type(row[13]) is bytes:  # else it is gone, or damaged: whoever makes an event of it says so
            held += len(row[13])
        if held > limits.PAGE_BYTES_MAX and rows:
            return rows, True
        rows.append(row)
    return rows, len(rows) == limit


def read_backwards(
    connection: apsw.Connection,
    bodies: Bodies,
    low: int,
    below: int,
    conditions: str,
    parameters: dict[str, Any],
    inside: Callable[[int, int], bool],
) -> Iterator[tuple[Any, ...]]:
    """Read rows of the feed in [low, below) that meet conditions on `e`, the newest first; see `read_feed`."""
    rows = connection.execute(_BACKWARDS.format(terms=conditions), {"low": low, "below": below, **parameters})
    return _with_bodies(rows, bodies, inside)


def read_feed_rows(connection: apsw.Connection, bodies: Bodies, feeds: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """Read rows of the feed by their numbers, in the order given; see `read_feed`."""
    rows = fetch_each(connection, "read_feed_rows", {"feeds": msgspec.json.encode(feeds).decode()})
    return _with_bodies(rows, bodies, lambda _branch, _position: True)


def living(
    connection: apsw.Connection, rows: Iterable[tuple[Any, ...]], owners: dict[int, int]
) -> Iterator[tuple[int, Event | None]]:
    """Give the events of rows of the feed by their numbers, None for one of a deleted session. owners: their branches, noted."""
    names: dict[int, tuple[Any, ...]] = {}
    for feed, branch, *columns in rows:
        if branch not in names:
            names[branch] = fetch_row(connection, "read_feed_branch", {"branch": branch})
        branch_id, writer, session = names[branch]
        owners[feed] = branch
        if session is None or columns[1] is None:
            yield feed, None
        else:
            check_columns(columns, session)
            yield feed, Event(session, branch_id.hex(), writer.hex(), *columns)


def _with_bodies(
    rows: Iterable[tuple[Any, ...]], bodies: Bodies, inside: Callable[[int, int], bool]
) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        if inside(row[1], row[2]):
            yield _with_body(row, bodies)


def _with_body(row: Row, bodies: Bodies) -> Row:
    if row[13] is not None and not is_sealed(row[13]):
        return row
    return (*row[:13], bodies.body(row[1], row[2], row[13], row[10], row[12]))


def _encode(segments: Sequence[Segment]) -> str:
    return msgspec.json.encode([(each.branch, each.start, each.stop) for each in segments]).decode()


def _gap(lineage: Lineage, start: int, stop: int, found: int) -> CorruptionError:
    return CorruptionError(
        f"session {lineage.session!r} holds {found} events in [{start}, {stop}) where each position should hold one; nothing "
        "was changed; run verify() and restore a backup"
    )
