"""Conversations that OpenAI's Agents SDK kept in SQLite: `SQLiteSession`, `AsyncSQLiteSession`, `SQLAlchemySession`, `AdvancedSQLiteSession`.

1. A session of the SDK becomes a session that `everlog.integrations.openai_agents.EverlogSession` goes on with under the same id. A
   branch of `AdvancedSQLiteSession` becomes a session of its own, `ID/BRANCH`; its `main` is `ID`.
2. A row's key is its id and its content. Ids are never given twice, so importing again adds what is new; what was popped or cleared
   in the source meanwhile stays.
3. The order is the one in which the SDK's class reads: by row id; by time, then row id, where SQLAlchemy made the table; by the branch.
4. A row that is no JSON, which the SDK passes over, is kept as bytes and reported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from everlog.core.event import Event
from everlog.importers.databases import columns_of, opened
from everlog.importers.lines import Line
from everlog.importers.record import Imported, Item, Recorder, Target, digest, first_words, make_item, unreadable
from everlog.integrations.items import text_of
from everlog.integrations.openai_native import FORMAT, event_of
from everlog.integrations.places import FRAMEWORK_LABEL, id_of
from everlog.reducers.spoken import NothingSaidError, message_of
from everlog.store import Store

if TYPE_CHECKING:
    import sqlite3

PATTERNS: Final = ("*.db", "*.sqlite", "*.sqlite3")
MAIN: Final = "main"
_WHAT: Final = "the Agents SDK's sessions"
_TABLES: Final = {
    "agent_sessions": frozenset({"session_id", "created_at"}),
    "agent_messages": frozenset({"id", "session_id", "message_data", "created_at"}),
}
_BY_TIME = "SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = 'idx_agent_messages_session_time'"
_ROWS = "SELECT m.id, CAST(m.message_data AS BLOB), m.created_at FROM agent_messages AS m"
# Items without a row of their session are read by the SDK all the same.
_SESSIONS = """
    SELECT session_id, created_at, NULL FROM agent_sessions
     UNION ALL
    SELECT DISTINCT session_id, NULL, NULL FROM agent_messages WHERE session_id NOT IN (SELECT session_id FROM agent_sessions)
     ORDER BY 2, 1"""
_BRANCHES = """
    SELECT DISTINCT s.session_id, s.created_at, b.branch_id FROM agent_sessions AS s
      JOIN message_structure AS b ON b.session_id = s.session_id
     ORDER BY s.created_at, s.session_id, b.branch_id <> 'main', b.branch_id"""


def import_database(store: Store, path: Path) -> Iterator[Imported]:
    """Import a database, a session at a time; give what became of each."""
    with opened(path, _WHAT, _TABLES) as source:
        structured = bool(columns_of(source, "message_structure"))
        by_time = source.execute(_BY_TIME).fetchone() is not None
        for session, created, branch in source.execute(_BRANCHES if structured else _SESSIONS).fetchall():
            recorder = Recorder(store, FORMAT, path, labels={FRAMEWORK_LABEL: FORMAT})
            for target, item in _items(source, session, created, branch, by_time=by_time):
                recorder.add(target, item)
            recorder.flush()
            yield recorder.take()


def encode(group: Sequence[Event]) -> Any:
    """Give the SDK's item that events say; None where they say none."""
    try:
        return message_of(FORMAT, group)
    except NothingSaidError:
        return None


def _items(
    source: sqlite3.Connection, session: Any, created: Any, branch: str | None, *, by_time: bool
) -> Iterator[tuple[Target, Item]]:
    if branch is None:
        order = "m.created_at, m.id" if by_time else "m.id"
        rows = source.execute(f"{_ROWS} WHERE m.session_id = ? ORDER BY {order}", (session,))
    else:
        rows = source.execute(
            f"{_ROWS} JOIN message_structure AS b ON b.message_id = m.id AND b.session_id = m.session_id "
            "WHERE m.session_id = ? AND b.branch_id = ? ORDER BY b.sequence_number",
            (session, branch),
        )
    title: str | None = None
    known = str(session)
    name = known if branch in (None, MAIN) else f"{known}/{branch}"
    target = Target(name=id_of(name), identity=digest([known, str(created), branch])[:32], title=lambda: title)
    for number, raw, recorded in rows:
        item = _item(number, bytes(raw), recorded)
        if title is None and isinstance(item.value, dict) and item.value.get("role") == "user":
            title = first_words(text_of(item.value.get("content")) or "") or None
        yield target, item


def _item(number: int, raw: bytes, recorded: Any) -> Item:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return unreadable(FORMAT, Line(number=number, raw=raw, fault=f"is no JSON ({error})"))
    key = f"{FORMAT}:{number}:{digest(raw)[:32]}"
    line = Line(number=number, raw=raw, value=value)
    return make_item(FORMAT, line, key, [event_of(value)], occurred_at=_moment(recorded), native=False)


def _moment(text: Any) -> datetime | None:
    """Read a time as SQLite's CURRENT_TIMESTAMP writes it, in UTC without saying so."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except (TypeError, ValueError):
        return None
