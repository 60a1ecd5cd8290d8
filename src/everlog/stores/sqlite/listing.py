"""Listing sessions: by label, prefix and parent through their indexes, in the order of the last change, making or name."""

from __future__ import annotations

from itertools import chain
from typing import Any

import apsw

from everlog.core.lease import LeaseRow
from everlog.core.query import Exact, matches_session
from everlog.storage import Listed, SessionFilter
from everlog.stores.rows import branch_row, session_row
from everlog.stores.sqlite.run import Row

_ORDERS = {
    "updated": ("b.recorded", "b.branch", "ASC"),
    "-updated": ("b.recorded", "b.branch", "DESC"),
    "created": ("s.created", "s.session", "ASC"),
    "-created": ("s.created", "s.session", "DESC"),
    "id": ("s.name", "s.session", "ASC"),
    "-id": ("s.name", "s.session", "DESC"),
}
_SELECT = """
SELECT s.session, s.id, s.name, s.title, s.labels, s.metadata, s.current, s.parent, s.created, s.salt, f.id, f.key_salt,
  b.branch, b.id, b.session, b.number, b.writer, b.base, b.base_size, b.size, b.peaks, b.leaf, b.recorded, b.created,
  l.number, l.nonce, l.holder, l.boot, l.until, l.ttl, l.taken, l.floor
FROM {tables}
JOIN family AS f ON f.family = s.family
LEFT JOIN lease AS l ON l.session = s.session
WHERE s.deleted IS NULL
"""
_BY_SESSION = "session AS s JOIN branch AS b ON b.branch = s.current"
# In the order of the index on seconds, so that the newest of a million sessions are found by sorting those of a few seconds.
_BY_TIME = (
    "branch AS b INDEXED BY branch_second CROSS JOIN session AS s ON s.session = b.session AND s.current = b.branch"
)


def listed(row: Row) -> Listed:
    """Read the columns of a session, its current branch and its lease."""
    lease = None if row[24] is None else LeaseRow(*row[24:])
    return Listed(session_row(row[:12]), branch_row(row[12:24]), lease)


def list_sessions(connection: apsw.Connection, chosen: SessionFilter) -> list[Listed]:
    """List living sessions; see Storage.sessions."""
    statements, parameters = _compile(chosen)
    found: list[Listed] = []
    with connection:  # a session that gets its first event meanwhile is listed by one of two statements
        for row in chain.from_iterable(connection.execute(sql, parameters) for sql in statements):
            each = listed(row)
            session, updated = each.session, each.branch.recorded
            if matches_session(
                chosen.query, name=session.name, title=session.title, labels=session.labels, updated=updated
            ):
                found.append(each)
                if len(found) == chosen.limit:
                    break
    return found


def _compile(chosen: SessionFilter) -> tuple[list[str], dict[str, Any]]:
    """Give the statements that list what is chosen, one after another, and their parameters."""
    column, tie, direction = _ORDERS[chosen.order]
    compare = ">" if direction == "ASC" else "<"
    conditions: list[str] = []
    parameters: dict[str, Any] = {}
    for number, term in enumerate(chosen.query.terms):
        if term.key == "label" and not term.negated and all(isinstance(value, Exact) for value in term.values):
            names = [f":v{number}_{place}" for place in range(len(term.values))]
            conditions.append(
                f"AND s.session IN (SELECT session FROM label WHERE name = :l{number} AND value IN ({', '.join(names)}))"
            )
            parameters[f"l{number}"] = term.path[0]
            for name, value in zip(names, term.values, strict=True):
                parameters[name[1:]] = value.text if isinstance(value, Exact) else None
    if chosen.prefix:
        conditions.append("AND s.name >= :prefix AND s.name <= :prefix_end")
        parameters |= {"prefix": chosen.prefix, "prefix_end": chosen.prefix + "\U0010ffff"}
    if chosen.parent is not None:
        conditions.append("AND s.parent >= :parent AND s.parent < :parent_end")
        parameters |= {"parent": chosen.parent, "parent_end": chosen.parent + b"\xff" * 57}
    if chosen.after is not None:
        session, branch = chosen.after
        conditions.append(f"AND ({column}, {tie}) {compare} (:after, :after_tie)")
        parameters |= {
            "after": {"b": branch.recorded, "c": session.created, "n": session.name}[
                "b" if column == "b.recorded" else column[2]
            ],
            "after_tie": branch.key if tie == "b.branch" else session.key,
        }
    narrowed = chosen.prefix or chosen.parent is not None or any("FROM label" in each for each in conditions)
    if column != "b.recorded" or narrowed:
        order = f"ORDER BY {column} {direction}, {tie} {direction}"
        return ["\n".join([_SELECT.format(tables=_BY_SESSION), *conditions, order])], parameters
    if chosen.after is not None:
        conditions.append(f"AND b.second {compare}= (:after + 999999) / 1000000")
    chosen_by_time = [_SELECT.format(tables=_BY_TIME), *conditions]
    order = f"ORDER BY b.second {direction}, b.recorded {direction}, b.branch {direction}"
    changed = "\n".join([*chosen_by_time, "AND b.second > 0", order])
    # Those without an event, all of no time, are neither to be sorted nor to be passed: there may be a million.
    passed = chosen.after is not None and chosen.after[1].recorded == 0
    chosen_by_time.append("AND b.second = 0" + (f" AND b.branch {compare} :after_tie" if passed else ""))
    empty = "\n".join([*chosen_by_time, f"ORDER BY b.branch {direction}"])
    return [empty, changed] if direction == "ASC" else [changed, empty], parameters
