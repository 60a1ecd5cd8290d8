"""Choosing events by the index beside a store: which of its indexes to walk, backwards, and what to leave out on the way.

1. What is given are feed numbers, the newest first. Only as many are looked at as are asked for, and those passed over.
2. The narrowest way is walked: a type, actor, outcome or branch with few events, else the table of words, else the narrowest of the
   others, else all. How many there are is counted up to a bound.
3. Several values of a column are walked side by side, and merged, since SQLite would sort them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final

import apsw
import msgspec

from everlog.core.query import Exact, Glob, Range, Term, glob_pattern
from everlog.core.trigrams import trigrams_of
from everlog.storage import Wanted
from everlog.stores.queries import load_queries
from everlog.stores.sqlite.reading import compile_terms

QUERIES: Final = load_queries("everlog.stores.sqlite", "search.sql")

FEW: Final = 2_000  # events that are looked at one by one rather than asking the table of words
_COUNTED: Final = 20_000  # events up to which ways are told apart
_VALUES_MAX: Final = 64  # of one column that are walked side by side
_LISTED_MAX: Final = 1_000  # values of a column among which those of a glob are looked for

_WALK: Final = """
SELECT e.feed, e.branch, e.position
FROM entry AS e {index}
WHERE e.feed < :below
  {conditions}
ORDER BY e.feed DESC
"""
_BY_WORDS: Final = """
SELECT e.feed, e.branch, e.position
FROM word AS w
CROSS JOIN entry AS e ON e.feed = w.rowid
WHERE w.word MATCH :match AND w.rowid < :below
  {conditions}
ORDER BY w.rowid DESC
"""
_COUNT: Final = "SELECT count(*) FROM (SELECT 1 FROM entry AS e INDEXED BY {index} WHERE {condition} LIMIT :most)"

_Found = tuple[int, int, int]  # feed number, branch, position


class _Way(msgspec.Struct, frozen=True):
    """An index to walk: the values of its column, and how many events they have, counted up to _COUNTED."""

    column: str
    values: tuple[Any, ...]
    count: int

    @property
    def index(self) -> str:
        return f"INDEXED BY entry_{self.column}"


def choose(
    connection: apsw.Connection,
    wanted: Wanted,
    branches: Sequence[int] | None,
    inside: Callable[[int, int], bool],
    below: int,
    limit: int,
) -> list[int]:
    """Give the feed numbers of at most `limit` candidates below a number, the newest first.

    branches: that the events were recorded on; None for all. inside: whether a branch's event at a position is wanted.
    """
    conditions, parameters = compile_wanted(wanted)
    given = {"below": below, **parameters}
    if branches is not None:
        conditions += "\n  AND e.branch IN (SELECT value FROM json_each(:branches))"
        given["branches"] = msgspec.json.encode(branches).decode()
    ways = list(_ways(connection, wanted.terms, branches))
    narrowest = min(ways, key=lambda way: way.count, default=None)
    if narrowest is not None and narrowest.count <= FEW:
        found = _walk(connection, narrowest, conditions, given)
    elif wanted.needles:
        found = _by_words(connection, wanted, conditions, given)
    elif narrowest is not None and narrowest.count < _COUNTED:
        found = _walk(connection, narrowest, conditions, given)
    else:
        walkable = [way for way in ways if len(way.values) <= _VALUES_MAX]
        found = _walk(connection, min(walkable, key=_breadth, default=None), conditions, given)
    return [feed for feed, _, _ in islice((each for each in found if inside(each[1], each[2])), limit)]


def _breadth(way: _Way) -> int:
    """Order ways with more events than are counted: by what mostly has fewer of them."""
    return ("branch", "outcome", "actor", "type").index(way.column)


def _walk(connection: apsw.Connection, way: _Way | None, conditions: str, given: dict[str, Any]) -> Iterator[_Found]:
    if way is None:
        return connection.execute(_WALK.format(index="NOT INDEXED", conditions=conditions), given)
    if len(way.values) > _VALUES_MAX:  # few events in all, which are sorted
        condition = f"{conditions}\n  AND e.{way.column} IN (SELECT value FROM json_each(:driving))"
        driving = msgspec.json.encode(way.values).decode()
        return connection.execute(_WALK.format(index=way.index, conditions=condition), given | {"driving": driving})
    condition = f"AND e.{way.column} = :driving\n  {conditions}"
    sql = _WALK.format(index=way.index, conditions=condition)
    return _merged([connection.execute(sql, given | {"driving": value}) for value in way.values])


def _by_words(connection: apsw.Connection, wanted: Wanted, conditions: str, given: dict[str, Any]) -> Iterator[_Found]:
    """Walk the table of words, and beside it the events of which it says nothing."""
    match = " AND ".join(f"({' OR '.join(map(_all_of, group))})" for group in wanted.needles)
    ways = [connection.execute(_BY_WORDS.format(conditions=conditions), given | {"match": match})]
    unread = f"AND e.words = 2\n  {conditions}"
    ways.append(connection.execute(_WALK.format(index="INDEXED BY entry_unread", conditions=unread), given))
    reshaped = f"AND e.type = :reshaped AND e.words = 1\n  {conditions}"
    for type in wanted.reshaped:
        sql = _WALK.format(index="INDEXED BY entry_type", conditions=reshaped)
        ways.append(connection.execute(sql, given | {"reshaped": type}))
    return _merged(ways)


def _merged(ways: Sequence[Iterator[_Found]]) -> Iterator[_Found]:
    last = -1
    for found in merge(*ways, reverse=True):
        if found[0] != last:  # what stands on two ways
            yield found
        last = found[0]


def _all_of(needle: str) -> str:
    quoted = ['"' + trigram.replace('"', '""') + '"' for trigram in trigrams_of(needle)]
    return f"({' AND '.join(quoted)})"


# --- ways ----------------------------------------------------------------------------------------
def _ways(connection: apsw.Connection, terms: Sequence[Term], branches: Sequence[int] | None) -> Iterator[_Way]:
    if branches is not None:
        yield _Way("branch", tuple(branches), _count(connection, "branch", branches))
    for term in terms:
        if term.key in ("type", "actor", "outcome") and not term.negated:
            values = _values(connection, term)
            if values is not None:
                yield _Way(term.key, values, _count(connection, term.key, values))


def _values(connection: apsw.Connection, term: Term) -> tuple[str, ...] | None:
    """Give the values that a term lets through; None where the column's index does not find them."""
    exact = [value.text for value in term.values if isinstance(value, Exact)]
    globs = [glob_pattern(value) for value in term.values if isinstance(value, Glob)]
    if term.key == "outcome" and ("none" in exact or any(glob.fullmatch("none") for glob in globs)):
        return None
    if globs:
        listed = [value for (value,) in connection.execute(QUERIES[f"list_{term.key}s"], {"limit": _LISTED_MAX})]
        if len(listed) >= _LISTED_MAX - 1:  # the end of the list is counted too
            return None
        exact += [value for value in listed if any(glob.fullmatch(value) for glob in globs)]
    return tuple(dict.fromkeys(exact))


def _count(connection: apsw.Connection, column: str, values: Sequence[Any]) -> int:
    condition = f"e.{column} IN (SELECT value FROM json_each(:values))"
    sql = _COUNT.format(index=f"entry_{column}", condition=condition)
    values_ = msgspec.json.encode(values).decode()
    row = connection.execute(sql, {"values": values_, "most": _COUNTED}).fetchone()
    assert row is not None, "a count is a row"
    return row[0]


def compile_wanted(wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """Compile the terms of what is wanted to conditions on `e`, a row of events or of their index."""
    times = [term for term in wanted.terms if term.key in ("since", "until")]
    conditions, parameters = compile_terms([term for term in wanted.terms if term not in times])
    parts = [conditions]
    for number, term in enumerate(times):
        alternatives = [_within(value, f"t{number}_{place}", parameters) for place, value in enumerate(term.values)]
        parts.append(f"AND {'NOT ' if term.negated else ''}({' OR '.join(alternatives)})")
    return "\n  ".join(parts), parameters


def _within(value: object, name: str, parameters: dict[str, Any]) -> str:
    assert isinstance(value, Range), "times are ranges"
    parts = ["1"]
    if value.low is not None:
        parts.append(f"e.recorded >= :{name}_low")
        parameters[f"{name}_low"] = value.low
    if value.high is not None:
        parts.append(f"e.recorded < :{name}_high")
        parameters[f"{name}_high"] = value.high
    return f"({' AND '.join(parts)})"
