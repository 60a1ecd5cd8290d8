"""Google ADK's `SqliteSessionService`, with its own defaults."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from google.adk.events.event import Event
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.genai import types

from bench.peers.peer import TEXT, LackingError, describe

APP = {"app_name": "bench", "user_id": "u"}


class Measured:
    """A service, and the session that was built in it."""

    tasks = True

    def open(self, path: Path) -> None:
        self.path = path
        self.service = SqliteSessionService(str(path))

    async def settings(self) -> str:
        async with self.service._get_db_connection() as connection:
            values = []
            for name in ("journal_mode", "synchronous"):
                async with connection.execute(f"PRAGMA {name}") as cursor:
                    row = await cursor.fetchone()
                    assert row is not None
                    values.append(row[0])
        return describe(sqlite3.sqlite_version, *values)

    async def writer(self) -> Callable[[], Awaitable[Event]]:
        session = await self.service.create_session(**APP)
        return lambda: self.service.append_event(session, event())

    def batch(self, size: int) -> None:
        raise LackingError("append_event takes one event")

    async def build(self, size: int) -> None:
        """Write the rows straight into its table: one append_event after another takes minutes."""
        session = await self.service.create_session(**APP)
        self.id = session.id
        start = time.time() - 1 - size / 1e6
        rows = []
        for number in range(size):
            made = event()
            made.timestamp = start + number / 1e6
            data = made.model_dump_json(exclude_none=True)
            rows.append((made.id, *APP.values(), session.id, made.invocation_id, made.timestamp, data))
        connection = sqlite3.connect(self.path)
        with connection:
            connection.executemany(f"INSERT INTO events ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        connection.close()
        found = await self.service.get_session(**APP, session_id=self.id)
        assert found is not None
        self.session = found

    async def append(self) -> Event:
        return await self.service.append_event(self.session, event())

    async def read(self, last: int | None) -> list[str]:
        config = None if last is None else GetSessionConfig(num_recent_events=last)
        session = await self.service.get_session(**APP, session_id=self.id, config=config)
        assert session is not None
        return [event.content.parts[0].text or "" for event in session.events if event.content and event.content.parts]

    def build_for_fork(self, size: int) -> None:
        raise LackingError("it has no forks")

    def fork(self) -> None:
        raise LackingError("it has no forks")

    async def close(self) -> None:
        await self.service.close()


COLUMNS = "id, app_name, user_id, session_id, invocation_id, timestamp, event_data"


def event() -> Event:
    """Make an event as the runner gives it."""
    return Event(author="user", invocation_id="i", content=types.Content(role="user", parts=[types.Part(text=TEXT)]))
