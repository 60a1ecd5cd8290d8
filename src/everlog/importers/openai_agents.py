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
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from everlog.errors import InvalidEventError, NotFoundError
from everlog.importers.lines import Line
from everlog.importers.record import Imported, Item, Recorder, Target, digest, first_words, make_item, unreadable
from everlog.integrations.openai_items import text_of
from everlog.integrations.openai_native import FORMAT, event_of, session_name
from everlog.store import Store

PATTERNS: Final = ("*.db", "*.sqlite", "*.sqlite3")
MAIN: Final = "main"
_ROWS = "SELECT m.id, CAST(m.message_data AS BLOB), m.created_at FROM agent_messages AS m"


def import_database(store: Store, path: Path, *, tell: Callable[[int, int], None] | None = None) -> Iterator[Imported]:
    """Import a database file, one session after another; give what became of each as it is done.

    store: with secrets as it is to treat them. tell: called with how many sessions are done, and how many events were read.
    Raises NotFoundError where there is no such file, InvalidEventError where it is no database of the SDK, or a damaged one.
    """
    with closing(_opened(path)) as source:
        try:
            yield from _imported(store, path, source, tell)
        except sqlite3.Error as error:
            raise InvalidEventError(
                f"{path} cannot be read to its end ({error}); what was imported of it before stays; import it again when it can"
            ) from error


def _imported(
    store: Store, path: Path, source: sqlite3.Connection, tell: Callable[[int, int], None] | None
) -> Iterator[Imported]:
    structured = _has(source, "table", "message_structure")
    branches = list(source.execute(_BRANCHES if structured else _SESSIONS))
    by_time = _has(source, "index", "idx_agent_messages_session_time")
    read = 0
    for done, (session, created, branch) in enumerate(branches, start=1):
        recorder = Recorder(store, FORMAT, path)
        for target, item in _items(source, session, created, branch, by_time=by_time):
            recorder.add(target, item)
        recorder.flush()
        imported = recorder.take()
        read += imported.events + imported.known
        if tell is not None:
            tell(done, read)
        yield imported


# Items without a row of their session are read by the SDK all the same.
_SESSIONS = """
SELECT session_id, created_at, NULL FROM agent_sessions
UNION ALL
SELECT DISTINCT session_id, NULL, NULL FROM agent_messages WHERE session_id NOT IN (SELECT session_id FROM agent_sessions)
ORDER BY 2, 1
"""
_BRANCHES = """
SELECT DISTINCT s.session_id, s.created_at, b.branch_id FROM agent_sessions AS s
JOIN message_structure AS b ON b.session_id = s.session_id ORDER BY s.created_at, s.session_id, b.branch_id <> 'main', b.branch_id
"""


def _opened(path: Path) -> sqlite3.Connection:
    """Open a database to read it, with the SQLite that the SDK has too: two of them in one process break each other's locks."""
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}; nothing was imported; name another")
    source: sqlite3.Connection | None = None
    try:
        source = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        if _has(source, "table", "agent_sessions") and _has(source, "table", "agent_messages"):
            return source
        what = "it has no tables agent_sessions and agent_messages"
    except sqlite3.Error as error:
        what = str(error)
    if source is not None:
        source.close()
    raise InvalidEventError(
        f"{path} is no database of the Agents SDK's sessions: {what}; nothing was imported; name another file"
    )


def _has(source: sqlite3.Connection, kind: str, name: str) -> bool:
    asked = "SELECT 1 FROM sqlite_schema WHERE type = ? AND name = ?"
    return source.execute(asked, (kind, name)).fetchone() is not None


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
    target = Target(name=session_name(name), identity=digest([known, str(created), branch])[:32], title=lambda: title)
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
