"""Google ADK's sessions: Everlog's service beside ADK's own on SQLite. python -m bench.frameworks_adk

Turns of 1 kB: an event of the user, or of the agent. All services sync before an append is acknowledged: ADK's because SQLite does so
where nobody asks otherwise, Everlog's because that is its default.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import sqlite3
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.framework_table import main

TURNS = 200
TURN_BYTES = 1_000
SHORT, LONG = 100, 10_000
LAST = 20
APPENDS = 100
READS = 15
LISTED = 1_000
WHO = {"app_name": "trips", "user_id": "u7"}


def turn(number: int) -> Any:
    """An event with a text of 1 kB that does not compress to nothing."""
    from google.adk.events.event import Event
    from google.genai import types

    words = random.Random(number).choices(_WORDS, k=300)
    author, role = ("user", "user") if number % 2 == 0 else ("guide", "model")
    content = types.Content(role=role, parts=[types.Part(text=" ".join(words)[:TURN_BYTES])])
    return Event(author=author, invocation_id=f"e-{number // 2:032d}", content=content)


_WORDS = [f"word{number}" for number in range(2_000)]


async def measure(
    make: Callable[[], Any], folder: Path, fill: Callable[[Any, str, int], Awaitable[None]]
) -> dict[str, float]:
    """Measure one service: bytes that TURNS take, an append, reading the last LAST events, and listing sessions."""
    from google.adk.sessions.base_session_service import GetSessionConfig

    service = make()
    session = await service.create_session(**WHO, session_id="grown")
    await service.close()  # which takes the log of the file in
    empty = bytes_of(folder)
    service = make()
    for number in range(TURNS):
        await service.append_event(session, turn(number))
    await service.close()
    found: dict[str, float] = {
        "bytes for each of text": (bytes_of(folder) - empty) / (TURNS * TURN_BYTES),
        "kB before the first": empty / 1_000,
    }
    service = make()
    took: list[float] = []
    for number in range(APPENDS):
        event = turn(number)
        started = time.perf_counter()
        await service.append_event(session, event)
        took.append(time.perf_counter() - started)
    found["append µs"] = statistics.median(took) * 1e6
    for size in (SHORT, LONG):
        name = f"s{size}"
        await service.create_session(**WHO, session_id=name)
        await fill(service, name, size)
        took.clear()
        for _ in range(READS):
            started = time.perf_counter()
            read = await service.get_session(**WHO, session_id=name, config=GetSessionConfig(num_recent_events=LAST))
            took.append(time.perf_counter() - started)
            assert len(read.events) == LAST, "it was filled"
        found[f"last {LAST} of {size} µs"] = statistics.median(took) * 1e6
    for number in range(LISTED):
        await service.create_session(app_name="many", user_id="u", session_id=f"{number}", state={"n": number})
    for what in ("first", "next"):
        started = time.perf_counter()
        listed = await service.list_sessions(app_name="many", user_id="u")
        assert len(listed.sessions) == LISTED, "they were made"
        found[f"{what} list of {LISTED} sessions, ms"] = (time.perf_counter() - started) * 1e3
    await service.close()
    return found


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def ours(folder: Path) -> dict[str, float]:
    """Measure Everlog's service."""
    from everlog.core.event import NewEvent
    from everlog.integrations.adk import EverlogSessionService, json_of, session_name
    from everlog.integrations.adk_events import encode_event

    async def fill(service: Any, name: str, size: int) -> None:
        log = service.store.session(session_name(**WHO, session_id=name))
        for start in range(0, size, 500):
            made: list[NewEvent] = []
            for number in range(start, min(start + 500, size)):
                key, events = encode_event(
                    json_of(turn(number)), log.id, body_bytes_max=service.store.settings.body_bytes_max
                )
                made.append(NewEvent(events[0].type, events[0].data, **_members(events[0], key)))
            log.extend(made)

    return asyncio.run(measure(lambda: EverlogSessionService(folder / "agent.db"), folder, fill))


def _members(event: Any, key: str) -> dict[str, Any]:
    return {"actor": event.actor, "metadata": event.metadata, "occurred_at": event.occurred_at, "key": key}


def theirs(folder: Path, name: str) -> dict[str, float]:
    """Measure one of ADK's own services."""
    from google.adk.sessions.database_session_service import DatabaseSessionService
    from google.adk.sessions.sqlite_session_service import SqliteSessionService

    makers: dict[str, Callable[[Path], Any]] = {
        "DatabaseSessionService": lambda path: DatabaseSessionService(f"sqlite+aiosqlite:///{path}"),
        "SqliteSessionService": lambda path: SqliteSessionService(str(path)),
    }
    fill = functools.partial(fill_rows, folder, name.startswith("Sqlite"))
    return asyncio.run(measure(functools.partial(makers[name], folder / "adk.db"), folder, fill))


async def fill_rows(folder: Path, real: bool, _service: Any, session: str, size: int) -> None:
    """Write the rows that so many appends leave, without the appends."""
    with closing(sqlite3.connect(folder / "adk.db")) as opened:
        start = time.time()
        for number in range(size):
            event = turn(number)
            event.timestamp = start + number / 1000
            moment = event.timestamp
            if not real:
                moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1e6):06d}"
            opened.execute(
                "INSERT INTO events (id, app_name, user_id, session_id, invocation_id, timestamp, event_data) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(event.id, WHO["app_name"], WHO["user_id"], session, event.invocation_id, moment),
                    json.dumps(event.model_dump(exclude_none=True, mode="json")),
                ),
            )
        opened.commit()


if __name__ == "__main__":
    main(
        "Google ADK",
        {
            "Everlog": ours,
            "DatabaseSessionService": lambda folder: theirs(folder, "DatabaseSessionService"),
            "SqliteSessionService": lambda folder: theirs(folder, "SqliteSessionService"),
        },
    )
