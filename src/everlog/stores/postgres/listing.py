"""Listing sessions over all buckets: by label, prefix and parent through their indexes, in the order asked for."""

from __future__ import annotations

from typing import Any, Final

from everlog.core.query import Exact, matches_session
from everlog.storage import Listed, SessionFilter
from everlog.stores.order import rank
from everlog.stores.postgres.connections import Connections
from everlog.stores.postgres.statements import BRANCH_COLUMNS, SESSION_COLUMNS, lease_row
from everlog.stores.rows import Row, branch_row, session_row

LISTED_AT_ONCE: Final = 100  # sessions, of which a query may choose few
_ORDERS: Final = {
    "updated": ("t.recorded", "t.branch", "t.minute, t.recorded, t.branch"),
    "-updated": ("t.recorded", "t.branch", "t.minute DESC, t.recorded DESC, t.branch DESC"),
    "created": ("s.created", "s.session", "s.created, s.session"),
    "-created": ("s.created", "s.session", "s.created DESC, s.session DESC"),
    "id": ("s.name", "s.session", "s.name, s.session"),
    "-id": ("s.name", "s.session", "s.name DESC, s.session DESC"),
}
_SELECT: Final = """
SELECT {{session}}, {{branch}}, {{lease}}
FROM {{schema}}.session AS s
JOIN {{schema}}.branch AS b ON b.bucket = s.bucket AND b.branch = s.current
JOIN {{schema}}.tip AS t ON t.bucket = s.bucket AND t.branch = s.current
LEFT JOIN {{schema}}.lease AS l ON l.bucket = s.bucket AND l.session = s.session
WHERE s.deleted IS NULL AND s.name IS NOT NULL
{conditions}
ORDER BY {order}
LIMIT %(limit)s
"""


_HAS_LABEL: Final = """
AND EXISTS (
  SELECT 1 FROM {{schema}}.label AS m{number}
  WHERE m{number}.bucket = s.bucket AND m{number}.session = s.session
    AND m{number}.name = %(l{number})s AND m{number}.value = ANY(%(v{number})s::text[])
)
"""


def list_sessions(connections: Connections, chosen: SessionFilter) -> list[Listed]:
    """List living sessions; see Storage.sessions. What SQL cannot tell of a query is told here, page by page."""
    found: list[Listed] = []
    after = None if chosen.after is None else rank(chosen.order, *chosen.after)
    while True:
        rows = _page(connections, chosen, after)
        for row in rows:
            each = listed(row)
            after = rank(chosen.order, each.session, each.branch)
            if _matches(chosen, each):
                found.append(each)
                if len(found) == chosen.limit:
                    return found
        if len(rows) < _rows_of_a_page(chosen):
            return found


def _rows_of_a_page(chosen: SessionFilter) -> int:
    """Give how many rows are looked at a round trip: few of them may meet what SQL cannot tell of."""
    return max(chosen.limit, LISTED_AT_ONCE) if chosen.query.terms else chosen.limit


def listed(row: Row) -> Listed:
    """Read the columns of a session, its current branch and its lease."""
    session, branch = row[:SESSION_COLUMNS], row[SESSION_COLUMNS : SESSION_COLUMNS + BRANCH_COLUMNS]
    return Listed(session_row(session), branch_row(branch), lease_row(row[SESSION_COLUMNS + BRANCH_COLUMNS :]))


def _matches(chosen: SessionFilter, each: Listed) -> bool:
    session, updated = each.session, each.branch.recorded
    return matches_session(chosen.query, name=session.name, title=session.title, labels=session.labels, updated=updated)


def _page(connections: Connections, chosen: SessionFilter, after: tuple[Any, int] | None) -> list[Row]:
    column, tie, order = _ORDERS[chosen.order]
    conditions: list[str] = []
    parameters: dict[str, Any] = {"limit": _rows_of_a_page(chosen)}
    for number, term in enumerate(chosen.query.terms):
        if term.key == "label" and not term.negated and all(isinstance(value, Exact) for value in term.values):
            conditions.append(_HAS_LABEL.format(number=number))
            parameters[f"l{number}"] = term.path[0]
            parameters[f"v{number}"] = [value.text for value in term.values if isinstance(value, Exact)]
    if chosen.prefix:
        conditions.append("AND s.name >= %(prefix)s AND s.name <= %(prefix_end)s")
        parameters |= {"prefix": chosen.prefix, "prefix_end": chosen.prefix + "\U0010ffff"}
    if chosen.parent is not None:
        conditions.append("AND s.parent >= %(parent)s AND s.parent < %(parent_end)s")
        parameters |= {"parent": chosen.parent, "parent_end": chosen.parent + b"\xff" * 57}
    if after is not None:
        compare = "<" if chosen.order.startswith("-") else ">"
        conditions.append(f"AND ({column}, {tie}) {compare} (%(after)s, %(after_tie)s)")
        parameters |= {"after": after[0], "after_tie": after[1]}
        if column == "t.recorded":  # the column that its index is on
            conditions.append(f"AND t.minute {compare}= %(after)s / 60000000")
    query = connections.statements.filled(_SELECT.format(conditions="\n".join(conditions), order=order))
    return list(connections.ask([(query, parameters)])[0])
