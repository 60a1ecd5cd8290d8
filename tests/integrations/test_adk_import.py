"""Importing what Google ADK kept in SQLite: read back through ADK's service and through ours, it is the same."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest

pytest.importorskip("google.adk", reason="google-adk is not installed")

from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.sessions.database_session_service import DatabaseSessionService
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.genai import types

import everlog
from core.secrets_made import TOKENS, drawn
from everlog.errors import InvalidEventError, NotFoundError
from everlog.importers.adk import import_database
from everlog.integrations.adk import EverlogSessionService, session_name

SECRET = TOKENS["anthropic-key"](drawn(7))
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:google.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def service_of(kind, path):
    if kind == "sqlite":
        return SqliteSessionService(str(path))
    service = DatabaseSessionService(f"sqlite+aiosqlite:///{path}")
    if kind == "database-0":
        service._db_schema_version = "0"  # as ADK before 1.22 made its tables
    return service


def event(number, author="user", delta=None, **others):
    text = types.Part(text=f"said {number}")
    role = "user" if author == "user" else "model"
    given = {"content": types.Content(role=role, parts=[text]), "timestamp": 1_800_000_000.1234567 + number} | others
    return Event(author=author, invocation_id=f"e-{number}", actions=EventActions(state_delta=delta or {}), **given)


async def fill(service):
    """Two users' sessions of one app, one of another, with all kinds of events and states."""
    for user, name in (("u7", "one"), ("u7", "two"), ("u8", "one")):
        state = {"kept": [user, name], "app:from": name, "user:u": user, "n": 0}
        session = await service.create_session(app_name="trips", user_id=user, session_id=name, state=state)
        call = types.FunctionCall(id="c1", name="look", args={"x": [1, 2.5, None]})
        response = types.FunctionResponse(id="c1", name="look", response={"result": {"found": True}})
        picture = types.Part(inline_data=types.Blob(mime_type="image/png", data=b"\x89PNG\xff\xfe\xfb"))
        for each in (
            event(0, delta={"n": 1, "none": None}),
            event(
                1, "guide", content=types.Content(role="model", parts=[types.Part(function_call=call)]), branch="a.b"
            ),
            event(
                2, "guide", content=types.Content(role="user", parts=[types.Part(function_response=response), picture])
            ),
            event(3, "guide", content=None, delta={"app:last": f"{user}/{name}", "user:u": name}),
            event(4, "guide", error_code="500", error_message="broken", long_running_tool_ids={"c1"}),
        ):
            await service.append_event(session, each)
    await service.create_session(app_name="meals", user_id="u7", session_id="empty", state={"only": "state"})


async def read(service, apps=("trips", "meals")):
    """Everything that a service gives of its sessions."""
    found = {}
    for app in apps:
        for listed in (await service.list_sessions(app_name=app)).sessions:
            session = await service.get_session(app_name=app, user_id=listed.user_id, session_id=listed.id)
            assert listed.state == session.state
            found[app, listed.user_id, listed.id] = (session.state, session.events, round(session.last_update_time, 5))
    return found, await service.get_user_state(app_name="trips", user_id="u7")


async def filled(kind, path, act=fill):
    service = service_of(kind, path)
    result = await act(service)
    await service.close()
    return result


@pytest.mark.parametrize("kind", ["database", "database-0", "sqlite"])
def test_what_is_imported_reads_as_it_read_before(tmp_path, kind):
    asyncio.run(filled(kind, tmp_path / "adk.db"))
    before = (tmp_path / "adk.db").read_bytes()
    with everlog.open(tmp_path / "agent.db") as store:
        told = []
        results = list(import_database(store, tmp_path / "adk.db", tell=lambda *done: told.append(done)))
        assert [(each.problem_count, each.known) for each in results] == [(0, 0)] * 4
        assert told[-1][0] == 4
        assert (tmp_path / "adk.db").read_bytes() == before
        expected = asyncio.run(filled(kind, tmp_path / "adk.db", read))
        assert asyncio.run(read(EverlogSessionService(store))) == expected
        assert len(expected[0]) == 4
        # Again, and nothing is new.
        size = store.cursor()
        again = list(import_database(store, tmp_path / "adk.db"))
        assert sum(each.events for each in again) == 0
        assert [each.known for each in again] == [each.events for each in results]
        assert store.cursor() == size
        assert store.verify().ok


def test_what_the_source_gained_is_added_and_what_was_rewound_here_stays_so(tmp_path):
    async def more(service):
        session = await service.get_session(app_name="trips", user_id="u7", session_id="one")
        await service.append_event(session, event(9, delta={"n": 9, "app:last": "late"}))

    asyncio.run(filled("sqlite", tmp_path / "adk.db"))
    with everlog.open(tmp_path / "agent.db") as store:
        list(import_database(store, tmp_path / "adk.db"))
        log = store.session(session_name("trips", "u8", "one"))
        log.rewind(log.last("agent.tool_use"))
        asyncio.run(filled("sqlite", tmp_path / "adk.db", more))
        assert [each.events for each in import_database(store, tmp_path / "adk.db")].count(2) == 1
        service = EverlogSessionService(store)
        added = asyncio.run(service.get_session(app_name="trips", user_id="u7", session_id="one"))
        assert (added.state["n"], added.state["app:last"], len(added.events)) == (9, "late", 6)
        rewound = asyncio.run(service.get_session(app_name="trips", user_id="u8", session_id="one"))
        assert [each.invocation_id for each in rewound.events] == ["e-0"]


def test_a_session_that_went_on_here_keeps_its_state(tmp_path):
    asyncio.run(filled("database", tmp_path / "adk.db"))
    with everlog.open(tmp_path / "agent.db") as store:
        list(import_database(store, tmp_path / "adk.db"))
        service = EverlogSessionService(store)
        session = asyncio.run(service.get_session(app_name="trips", user_id="u7", session_id="one"))
        asyncio.run(service.append_event(session, event(20, delta={"n": 20, "app:last": "here"})))
        list(import_database(store, tmp_path / "adk.db"))
        assert asyncio.run(service.get_session(app_name="trips", user_id="u7", session_id="one")) == session


def test_shared_state_that_went_back_to_what_it_was_goes_back_here_too(tmp_path):
    asyncio.run(filled("sqlite", tmp_path / "adk.db"))
    with everlog.open(tmp_path / "agent.db") as store:
        for value in ("a", "b", "a", "a"):
            with closing(sqlite3.connect(tmp_path / "adk.db")) as source:
                source.execute("UPDATE app_states SET state = ? WHERE app_name = 'trips'", (f'{{"last": "{value}"}}',))
                source.execute("UPDATE user_states SET state = ? WHERE user_id = 'u7'", (f'{{"u": "{value}"}}',))
                source.commit()
            list(import_database(store, tmp_path / "adk.db"))
            found = asyncio.run(
                EverlogSessionService(store).get_session(app_name="trips", user_id="u7", session_id="one")
            )
            assert (found.state["app:last"], found.state["user:u"]) == (value, value)
        # What changed here meanwhile stays, for the source did not.
        service = EverlogSessionService(store)
        asyncio.run(service.append_event(found, event(20, delta={"app:last": "here"})))
        list(import_database(store, tmp_path / "adk.db"))
        found = asyncio.run(service.get_session(app_name="trips", user_id="u7", session_id="one"))
        assert found.state["app:last"] == "here"


def test_state_that_the_events_do_not_give_is_set_after_them(tmp_path):
    asyncio.run(filled("sqlite", tmp_path / "adk.db"))
    with closing(sqlite3.connect(tmp_path / "adk.db")) as source:
        source.execute("""UPDATE sessions SET state = '{"n": "other"}' WHERE id = 'two'""")
        source.commit()
    with everlog.open(tmp_path / "agent.db") as store:
        for _ in range(2):
            list(import_database(store, tmp_path / "adk.db"))
            expected = asyncio.run(filled("sqlite", tmp_path / "adk.db", read))
            assert asyncio.run(read(EverlogSessionService(store))) == expected


def test_an_event_that_adk_does_not_read_is_kept_as_bytes_and_reported(tmp_path):
    asyncio.run(filled("sqlite", tmp_path / "adk.db"))
    with closing(sqlite3.connect(tmp_path / "adk.db")) as source:
        source.execute("""UPDATE events SET event_data = '{"content": 7' WHERE invocation_id = 'e-1'""")
        source.commit()
    with everlog.open(tmp_path / "agent.db") as store:
        results = list(import_database(store, tmp_path / "adk.db"))
        assert [each.problem_count for each in results].count(1) == 3
        kept = store.session(session_name("trips", "u7", "one")).last("x.adk.refused")
        assert kept.attachment("event") == b'{"content": 7'
        assert sum(each.events for each in import_database(store, tmp_path / "adk.db")) == 0


def test_secrets_are_not_imported_where_the_store_redacts(tmp_path):
    async def leak(service):
        session = await service.create_session(app_name="trips", user_id="u7", session_id="s", state={"k": SECRET})
        await service.append_event(session, event(0, delta={"app:k": SECRET, "n": SECRET}, error_message=SECRET))

    asyncio.run(filled("sqlite", tmp_path / "adk.db", leak))
    with everlog.open(tmp_path / "agent.db") as store:
        for _ in range(2):
            list(import_database(store.redacting("redact"), tmp_path / "adk.db"))
        assert store.session(session_name("trips", "u7", "s")).size() == 3
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("agent.db*"))


def test_another_file_is_refused_and_nothing_is_imported(tmp_path):
    with everlog.open(tmp_path / "agent.db") as store:
        with pytest.raises(NotFoundError):
            list(import_database(store, tmp_path / "none.db"))
        (tmp_path / "text.db").write_text("no database")
        with pytest.raises(InvalidEventError, match="no database of Google ADK"):
            list(import_database(store, tmp_path / "text.db"))
        with closing(sqlite3.connect(tmp_path / "other.db")) as other:
            other.execute("CREATE TABLE sessions (id TEXT)")
        with pytest.raises(InvalidEventError, match="no database of Google ADK"):
            list(import_database(store, tmp_path / "other.db"))
        assert store.sessions() == []
