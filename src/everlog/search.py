"""Search: the events of every session that meet a query, newest sessions first.

Each event is looked at once, on the branch that it was recorded on: what a fork shares is found in its origin, and what a
rewind left is found too. Header terms are answered by the store; words and paths are read from the bodies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from everlog.core import limits
from everlog.core.event import Event
from everlog.core.query import Query, Range, check_session_query
from everlog.errors import LimitError
from everlog.rebuild import SnapshotPolicy
from everlog.session import Branch
from everlog.storage import BranchRow, SessionFilter, SessionRow, Storage

_SESSION_KEYS = ("session", "label")


def search_store(
    storage: Storage, query: Query, *, limit: int, progress: Callable[[int], None] | None = None
) -> list[Event]:
    """Give at most `limit` events, of the session that changed last first, and in it the newest first.

    progress: called with the number of sessions looked at.
    """
    if not 1 <= limit <= limits.PAGE_EVENTS_MAX:
        raise LimitError(f"limit {limit!r:.50} is not in 1 .. {limits.PAGE_EVENTS_MAX}; ask for less, or more narrowly")
    of_sessions = check_session_query(Query(tuple(term for term in query.terms if term.key in _SESSION_KEYS)))
    of_events = Query(tuple(term for term in query.terms if term.key not in _SESSION_KEYS))
    found: list[Event] = []
    for number, (session, _) in enumerate(_sessions(storage, of_sessions)):
        if progress is not None:
            progress(number)
        for row in sorted(storage.branches(session.key), key=lambda branch: -branch.recorded):
            if _may_hold(row, of_events):
                branch = Branch(storage, row, session.name, current=row.key == session.current, policy=SnapshotPolicy())
                found += branch.events(of_events, start=row.base_size, reverse=True, limit=limit - len(found))
            if len(found) == limit:
                return found
    return found


def _sessions(storage: Storage, query: Query) -> Iterator[tuple[SessionRow, BranchRow]]:
    last: tuple[SessionRow, BranchRow] | None = None
    while True:
        page = storage.sessions(SessionFilter(query, "", None, "-updated", limits.SESSIONS_PAGE_MAX, last))
        for each in page:
            last = (each.session, each.branch)
            yield last
        if len(page) < limits.SESSIONS_PAGE_MAX:
            return


def _may_hold(branch: BranchRow, query: Query) -> bool:
    """Tell whether a branch has events of its own, and any so new as the query asks for."""
    if branch.size == branch.base_size:
        return False
    for term in query.range_terms():
        bounds = term.values[0]
        if term.key != "position" and isinstance(bounds, Range) and bounds.low is not None:
            return branch.recorded >= bounds.low
    return True
