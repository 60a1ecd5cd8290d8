"""Google ADK's contract of a session service, sentence by sentence: on Everlog's, and on ADK's own where it holds there."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, closing, contextmanager, suppress

import pytest

pytest.importorskip("google.adk", reason="google-adk is not installed")

from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.sessions.base_session_service import BaseSessionService, GetSessionConfig
from google.adk.sessions.database_session_service import DatabaseSessionService
from google.adk.sessions.in_memory_session_service import InMemorySessionService
from google.adk.sessions.session import Session
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.genai import types

import everlog
from databases import url_of
from everlog.errors import BusyError, FencedError, InvalidEventError, KeyReusedError, NotFoundError, UnavailableError
from everlog.integrations.adk import (
    EverlogSessionService,
    StaleSessionError,
    app_state_name,
    session_name,
    user_state_name,
)

OURS = ("everlog", "everlog-postgres")
KEPT = (*OURS, "database", "sqlite")  # that keep sessions beyond the process, and so objects of their own
ALL = (*KEPT, "memory")
# The sentences are those of the newest contract. ADK's own services of older versions keep others; ours keeps these with every version.
NEWEST = hasattr(SqliteSessionService, "get_user_state")
WHO = {"app_name": "trips", "user_id": "u7"}
pytestmark = [
    # What ADK says of its own features and of the versions of what it uses is not about what is tested here.
    pytest.mark.filterwarnings("ignore::UserWarning:google.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    # An aiosqlite thread of ADK's service that is dropped without an end of its own.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@asynccontextmanager
async def opened(kind, folder):
    match kind:
        case "everlog":
            service = EverlogSessionService(folder / "agent.db")
        case "everlog-postgres":
            service = EverlogSessionService(url_of(folder))
        case "database":
            service = DatabaseSessionService(f"sqlite+aiosqlite:///{folder}/adk.db")
        case "sqlite":
            service = SqliteSessionService(str(folder / "adk.db"))
        case _:
            service = InMemorySessionService()
    try:
        yield service
    finally:
        if hasattr(service, "close"):
            await service.close()


def contract(*kinds):
    """Run a sentence, an async function of a service, on each of these kinds."""

    def wrap(sentence):
        @pytest.mark.parametrize("kind", [kind for kind in kinds if NEWEST or kind in OURS])
        def test(kind, tmp_path, monkeypatch):
            given = {"monkeypatch": monkeypatch} if "monkeypatch" in inspect.signature(sentence).parameters else {}

            async def run():
                async with opened(kind, tmp_path) as service:
                    await sentence(service, **given)

            asyncio.run(run())

        test.__name__ = sentence.__name__
        test.__doc__ = sentence.__doc__
        return test

    return wrap


def said(text, *, author="user", delta=None, id="", timestamp=None, invocation="e-1"):
    role = "user" if author == "user" else "model"
    given = {} if timestamp is None else {"timestamp": timestamp}
    return Event(
        id=id,
        author=author,
        invocation_id=invocation,
        content=types.Content(role=role, parts=[types.Part(text=text)]),
        actions=EventActions(state_delta=delta or {}),
        **given,
    )


def texts(session):
    return [event.content.parts[0].text for event in session.events]


async def got(service, session, **config):
    chosen = GetSessionConfig(**config) if config else None
    return await service.get_session(
        app_name=session.app_name, user_id=session.user_id, session_id=session.id, config=chosen
    )


# --- the interface -------------------------------------------------------------------------------
def test_the_service_takes_every_argument_of_the_interface():
    for name, method in inspect.getmembers(BaseSessionService, inspect.isfunction):
        if not name.startswith("_") and name != "append_event":
            assert (
                inspect.signature(getattr(EverlogSessionService, name)).parameters.keys()
                == inspect.signature(method).parameters.keys()
            ), name


# --- create --------------------------------------------------------------------------------------
@contract(*ALL)
async def test_a_created_session_is_got_as_it_was_given(service):
    made = await service.create_session(**WHO, state={"k": 1, "app:a": 2, "user:u": None})
    assert made.state == {"k": 1, "app:a": 2, "user:u": None}
    assert made.events == []
    assert await got(service, made) == made


@contract(*ALL)
async def test_a_taken_id_is_refused_and_changes_nothing(service):
    await service.create_session(**WHO, session_id="s", state={"k": 1})
    with pytest.raises(AlreadyExistsError):
        await service.create_session(**WHO, session_id="s", state={"k": 2})
    kept = await service.get_session(**WHO, session_id="s")
    assert kept.state == {"k": 1}


@contract(*ALL)
async def test_one_id_may_be_used_by_several_users_and_apps(service):
    for app, user in (("a", "u"), ("a", "v"), ("b", "u"), ("a/u", ""), ("a", "u/s"), ("a%2Fu", "v")):
        await service.create_session(app_name=app, user_id=user, session_id="s", state={"whose": [app, user]})
    for app, user in (("a", "u"), ("a", "v"), ("b", "u"), ("a/u", ""), ("a", "u/s"), ("a%2Fu", "v")):
        session = await service.get_session(app_name=app, user_id=user, session_id="s")
        assert session.state == {"whose": [app, user]}


@contract(*OURS, "sqlite", "memory")
async def test_ids_are_stripped(service):
    made = await service.create_session(**WHO, session_id="  s ")
    assert made.id == "s"
    assert (await service.get_session(**WHO, session_id="  s ")).id == "s"
    await service.delete_session(**WHO, session_id=" s")
    assert await service.get_session(**WHO, session_id="s") is None


@contract(*ALL)
async def test_a_session_without_an_id_gets_one(service):
    one, other = [await service.create_session(**WHO) for _ in range(2)]
    assert one.id
    assert one.id != other.id


@contract(*ALL)
async def test_temp_state_of_a_new_session_is_not_kept(service):
    made = await service.create_session(**WHO, state={"temp:t": 1, "k": 2})
    assert (await got(service, made)).state == {"k": 2}


# --- get -----------------------------------------------------------------------------------------
@contract(*ALL)
async def test_a_missing_session_is_none(service):
    assert await service.get_session(**WHO, session_id="none") is None


@contract(*ALL)
async def test_events_are_given_oldest_first(service):
    session = await service.create_session(**WHO)
    for number in range(5):
        await service.append_event(session, said(f"{number}", timestamp=1_800_000_000.0 + number))
    assert texts(await got(service, session)) == ["0", "1", "2", "3", "4"]


@contract(*OURS, "sqlite", "memory")  # ADK's database service orders by time and id
async def test_events_of_one_time_are_given_in_the_order_of_their_appends(service):
    session = await service.create_session(**WHO)
    for name in "zma":
        await service.append_event(session, said(name, id=name, timestamp=1_800_000_000.5))
    assert texts(await got(service, session)) == ["z", "m", "a"]


@contract(*OURS, "memory")  # ADK's others order by time
async def test_events_whose_time_goes_back_are_given_in_the_order_of_their_appends(service):
    session = await service.create_session(**WHO)
    for name, time in (("first", 1_800_000_002.0), ("second", 1_800_000_001.0)):
        await service.append_event(session, said(name, timestamp=time))
    assert texts(await got(service, session)) == ["first", "second"]
    assert (await got(service, session)).last_update_time == 1_800_000_001.0


@contract(*ALL)
async def test_the_most_recent_events_are_given_where_so_many_are_asked_for(service):
    session = await service.create_session(**WHO)
    for number in range(5):
        await service.append_event(session, said(f"{number}", timestamp=1_800_000_000.0 + number, delta={"n": number}))
    last = await got(service, session, num_recent_events=2)
    assert texts(last) == ["3", "4"]
    assert last.state == {"n": 4}
    assert last.last_update_time == 1_800_000_004.0
    assert texts(await got(service, session, num_recent_events=9)) == ["0", "1", "2", "3", "4"]


@contract(*ALL)
async def test_no_events_are_given_where_none_are_asked_for(service):
    session = await service.create_session(**WHO)
    await service.append_event(session, said("one", timestamp=1_800_000_000.0, delta={"k": 1}))
    none = await got(service, session, num_recent_events=0)
    assert (none.events, none.state, none.last_update_time) == ([], {"k": 1}, 1_800_000_000.0)


@contract(*ALL)
async def test_events_from_a_time_on_are_given_that_time_included(service):
    session = await service.create_session(**WHO)
    for number in range(5):
        await service.append_event(session, said(f"{number}", timestamp=1_800_000_000.25 + number))
    assert texts(await got(service, session, after_timestamp=1_800_000_002.25)) == ["2", "3", "4"]
    assert texts(await got(service, session, after_timestamp=1_800_000_009.0)) == []


@contract(*ALL)
async def test_both_limits_hold_together(service):
    session = await service.create_session(**WHO)
    for number in range(5):
        await service.append_event(session, said(f"{number}", timestamp=1_800_000_000.0 + number))
    assert texts(await got(service, session, after_timestamp=1_800_000_001.0, num_recent_events=2)) == ["3", "4"]
    assert texts(await got(service, session, after_timestamp=1_800_000_004.0, num_recent_events=2)) == ["4"]


@pytest.mark.skipif(not NEWEST, reason="this version of ADK takes one")
def test_a_negative_number_of_events_is_refused():
    with pytest.raises(ValueError, match="greater than or equal"):
        GetSessionConfig(num_recent_events=-1)


# --- append --------------------------------------------------------------------------------------
@contract(*KEPT)
async def test_what_is_got_after_an_append_is_the_object_that_was_appended_to(service):
    session = await service.create_session(**WHO, state={"k": 1})
    for delta in ({"k": {"deep": [1, 2.5, None]}, "app:a": 1}, {}, {"user:u": "x", "other": None}):
        event = said("hello", delta=delta)
        assert await service.append_event(session, event) is event
        assert session.last_update_time == pytest.approx(event.timestamp, abs=1e-6)
        assert session.events[-1] is event
        assert await got(service, session) == session


@contract(*OURS, "sqlite", "memory")  # ADK's database service cuts it to microseconds
async def test_a_sessions_last_update_is_the_time_of_its_last_event_exactly(service):
    session = await service.create_session(**WHO)
    await service.append_event(session, said("one", timestamp=1_800_000_000.1234567))
    assert session.last_update_time == 1_800_000_000.1234567
    assert (await got(service, session)).last_update_time == 1_800_000_000.1234567


@contract(*ALL)
async def test_a_partial_event_is_given_back_and_not_kept(service):
    session = await service.create_session(**WHO)
    event = Event(author="agent", invocation_id="e-1", partial=True, actions=EventActions(state_delta={"k": 1}))
    assert await service.append_event(session, event) is event
    assert session.events == []
    kept = await got(service, session)
    assert (kept.events, kept.state) == ([], {})


@contract(*ALL)
async def test_temp_state_is_the_objects_and_not_the_events(service):
    session = await service.create_session(**WHO)
    event = said("one", delta={"temp:t": 1, "k": 2})
    await service.append_event(session, event)
    assert session.state == {"temp:t": 1, "k": 2}
    assert event.actions.state_delta == {"k": 2}
    kept = await got(service, session)
    assert kept.state == {"k": 2}
    assert kept.events[0].actions.state_delta == {"k": 2}


@contract(*ALL)
async def test_a_delta_replaces_values_whole_and_none_is_a_value(service):
    session = await service.create_session(**WHO, state={"k": {"a": 1, "b": 2}, "app:x": {"a": 1}, "user:y": 1})
    await service.append_event(
        session, said("one", delta={"k": {"b": 3}, "app:x": None, "user:y": [], "a/b~c": 1, "": 2})
    )
    expected = {"k": {"b": 3}, "app:x": None, "user:y": [], "a/b~c": 1, "": 2}
    assert session.state == expected
    assert (await got(service, session)).state == expected


@contract(*ALL)
async def test_app_state_is_the_apps_and_user_state_the_users(service):
    one = await service.create_session(**WHO, session_id="one")
    await service.append_event(one, said("x", delta={"app:a": 1, "user:u": 2, "k": 3}))
    same_user = await service.create_session(**WHO, session_id="two")
    assert same_user.state == {"app:a": 1, "user:u": 2}
    other_user = await service.create_session(app_name="trips", user_id="u8")
    assert other_user.state == {"app:a": 1}
    other_app = await service.create_session(app_name="meals", user_id="u7")
    assert other_app.state == {}
    assert await service.get_user_state(**WHO) == {"u": 2}
    assert await service.get_user_state(app_name="trips", user_id="u8") == {}


@contract(*KEPT)
async def test_a_stale_session_is_refused_and_nothing_is_lost(service):
    made = await service.create_session(**WHO, session_id="s")
    stale = await got(service, made)
    await service.append_event(made, said("first", timestamp=made.last_update_time + 1))
    with pytest.raises(StaleSessionError) as refused:
        await service.append_event(
            stale, said("second", timestamp=made.last_update_time + 2, delta={"k": 1, "app:a": 1})
        )
    assert isinstance(refused.value, ValueError)
    kept = await got(service, made)
    assert (texts(kept), kept.state) == (["first"], {})
    assert texts(stale) == []


@contract(*OURS)  # ADK's take the second of two appends of one time: their marker is that time
async def test_a_stale_session_is_refused_also_where_times_are_equal(service):
    made = await service.create_session(**WHO, session_id="s")
    await service.append_event(made, said("zero", timestamp=1_800_000_000.0))
    one, other = await got(service, made), await got(service, made)
    await service.append_event(one, said("one", timestamp=1_800_000_000.0))
    with pytest.raises(StaleSessionError):
        await service.append_event(other, said("other", timestamp=1_800_000_000.0))
    assert texts(await got(service, made)) == ["zero", "one"]


@contract(*ALL)
async def test_an_append_to_a_deleted_session_is_refused(service):
    session = await service.create_session(**WHO)
    await service.delete_session(**WHO, session_id=session.id)
    with pytest.raises(SessionNotFoundError) as refused:
        await service.append_event(session, said("late"))
    assert isinstance(refused.value, ValueError)


@contract(*OURS)  # ADK's database services raise their driver's error
async def test_an_event_appended_again_adds_nothing(service):
    session = await service.create_session(**WHO)
    before = await got(service, session)
    event = said("one", delta={"k": 1, "app:a": 1}, timestamp=1_800_000_000.123456789)
    await service.append_event(session, event)
    await service.append_event(session, event)
    assert texts(session) == ["one"]
    await service.append_event(
        before, event.model_copy(deep=True)
    )  # by a process that did not learn that it was appended
    assert before == session == await got(service, session)
    await service.append_event(before, said("two"))
    assert texts(await got(service, session)) == ["one", "two"]


@contract(*OURS)
async def test_another_event_of_the_same_id_is_refused(service):
    session = await service.create_session(**WHO)
    await service.append_event(session, said("one", id="x"))
    with pytest.raises(KeyReusedError):
        await service.append_event(session, said("two", id="x"))
    assert texts(await got(service, session)) == ["one"]


@contract(*OURS, "database")  # the SQLite service compares times, and refuses some of what comes at once
async def test_tasks_that_share_a_session_object_take_turns(service):
    session = await service.create_session(**WHO)
    await asyncio.gather(*(service.append_event(session, said(f"{number}")) for number in range(20)))
    kept = await got(service, session)
    assert sorted(texts(kept), key=int) == [f"{number}" for number in range(20)]
    if isinstance(service, EverlogSessionService):
        assert kept == session


class Noted(dict):
    """State that notes in which thread it is changed."""

    threads = ()

    def update(self, *given):
        self.threads = (*self.threads, threading.get_ident())
        super().update(*given)


@contract(*KEPT)
async def test_a_session_object_is_changed_where_its_loop_runs_so_that_others_may_read_it_meanwhile(service):
    session = await service.create_session(**WHO)
    session.state = Noted(session.state)
    await asyncio.gather(*(service.append_event(session, said("x", delta={f"{number}": 1})) for number in range(5)))
    assert session.state == {f"{number}": 1 for number in range(5)}
    assert session.state.threads == (threading.get_ident(),) * 5


@contract(*OURS)
async def test_whoever_is_cancelled_learns_it_when_the_append_is_settled_and_holds_what_was_recorded(service):
    session = await service.create_session(**WHO)
    for number in range(3):
        event = said(f"{number}", delta={"n": number})
        task = asyncio.ensure_future(service.append_event(session, event))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert session.events[-1] is event
        assert await got(service, session) == session
    await service.append_event(session, said("3"))
    assert texts(await got(service, session)) == ["0", "1", "2", "3"]


@contract(*OURS)
async def test_an_append_that_fails_gives_its_turn_to_the_next(service):
    session = await service.create_session(**WHO)
    stale = await got(service, session)
    await service.append_event(session, said("one"))
    failures = [service.append_event(stale, said(f"{number}")) for number in range(20)]
    refused = await asyncio.gather(*failures, service.append_event(session, said("two")), return_exceptions=True)
    assert [type(each) for each in refused] == [StaleSessionError] * 20 + [Event]
    assert texts(await got(service, session)) == ["one", "two"]


@contract(*OURS)
async def test_an_append_waits_for_the_one_before_it_so_long_and_no_longer(service, monkeypatch):
    session = await service.create_session(**WHO)
    with monkeypatch.context() as patched, service._turns.take(f"{id(session)}"):
        patched.setattr(service._turns, "_seconds", 0.01)
        with pytest.raises(BusyError, match="nothing was written"):
            await service.append_event(session, said("one"))
    await service.append_event(session, said("two"))
    assert texts(await got(service, session)) == texts(session) == ["two"]


@contract(*OURS)
async def test_a_session_object_that_a_program_made_is_taken_where_it_holds_the_last_event(service):
    made = await service.create_session(**WHO, session_id="s")
    own = Session(app_name="trips", user_id="u7", id="s")
    await service.append_event(own, said("one"))
    with pytest.raises(StaleSessionError):
        await service.append_event(Session(app_name="trips", user_id="u7", id="s"), said("two"))
    own._storage_update_marker = "2026-11-30T10:00:00.000000"  # as ADK's database service marks what it read
    with pytest.raises(StaleSessionError):
        await service.append_event(own, said("two"))
    assert texts(await got(service, made)) == ["one"]


# --- list ----------------------------------------------------------------------------------------
@contract(*ALL)
async def test_sessions_are_listed_without_events_with_merged_state_the_least_recently_active_first(service):
    made = {}
    for name in ("a", "b", "c"):
        made[name] = await service.create_session(**WHO, session_id=name, state={"name": name})
    for name, time in (("b", 1_900_000_001.0), ("a", 1_900_000_003.0), ("c", 1_900_000_002.0)):
        await service.append_event(made[name], said(name, timestamp=time, delta={"app:last": name, "user:u": 1}))
    listed = (await service.list_sessions(**WHO)).sessions
    assert [session.id for session in listed] == ["b", "c", "a"]
    for session in listed:
        assert session.events == []
        assert session.state == {"name": session.id, "app:last": "c", "user:u": 1}
        assert session.last_update_time == made[session.id].last_update_time


@contract(*ALL)
async def test_all_users_of_an_app_are_listed_where_none_is_named(service):
    for app, user, name in (("a", "u", "1"), ("a", "v", "2"), ("b", "u", "3"), ("ab", "u", "4"), ("a", "uv", "5")):
        await service.create_session(app_name=app, user_id=user, session_id=name, state={"user:mine": name})
    listed = (await service.list_sessions(app_name="a")).sessions
    assert {(session.user_id, session.id) for session in listed} == {("u", "1"), ("v", "2"), ("uv", "5")}
    assert {session.id: session.state["user:mine"] for session in listed} == {"1": "1", "2": "2", "5": "5"}
    mine = (await service.list_sessions(app_name="a", user_id="u")).sessions
    assert [session.id for session in mine] == ["1"]
    assert (await service.list_sessions(app_name="none")).sessions == []


@contract(*ALL)
async def test_a_list_shows_what_was_appended_since_the_last(service):
    session = await service.create_session(**WHO, session_id="s", state={"deep": {"n": [0]}})
    for number in range(45):
        await service.append_event(session, said(f"{number}", timestamp=1_900_000_000.0 + number, delta={"n": number}))
        if number in (0, 20, 44):
            (listed,) = (await service.list_sessions(**WHO)).sessions
            assert (listed.state, listed.last_update_time) == (
                {"deep": {"n": [0]}, "n": number},
                1_900_000_000.0 + number,
            )
            listed.state["deep"]["n"].append("changed by whoever has it")
    (listed,) = (await service.list_sessions(**WHO)).sessions
    assert listed.state == {"deep": {"n": [0]}, "n": 44}
    assert texts(await got(service, session)) == [f"{number}" for number in range(45)]
    assert texts(await got(service, session, num_recent_events=40)) == [f"{number}" for number in range(5, 45)]


@contract(*OURS)
async def test_a_list_reads_no_session_again_that_nobody_appended_to(service):
    made = [await service.create_session(**WHO, session_id=f"{number}", state={"n": number}) for number in range(5)]
    await service.list_sessions(**WHO)
    await service.append_event(made[3], said("one", timestamp=1.0))
    storage, read = service.store.storage, []
    one, several = storage.read, storage.read_short
    storage.read = lambda line, *others, **terms: read.append(line.session) or one(line, *others, **terms)
    storage.read_short = lambda asked: read.extend(line.session for line, _ in asked) or several(asked)
    listed = (await service.list_sessions(**WHO)).sessions
    assert [session.id for session in listed] == ["3", "0", "1", "2", "4"]
    assert read == [session_name("trips", "u7", "3")]


# --- delete --------------------------------------------------------------------------------------
@contract(*ALL)
async def test_a_deleted_session_is_gone_and_what_is_missing_is_deleted_without_a_word(service):
    session = await service.create_session(**WHO, session_id="s", state={"k": 1, "user:u": 2})
    await service.append_event(session, said("secret plan"))
    await service.delete_session(**WHO, session_id="s")
    await service.delete_session(**WHO, session_id="s")
    assert await service.get_session(**WHO, session_id="s") is None
    assert (await service.list_sessions(**WHO)).sessions == []
    assert await service.get_user_state(**WHO) == {"u": 2}
    again = await service.create_session(**WHO, session_id="s")
    assert (again.state, again.events) == ({"user:u": 2}, [])


def test_deleting_erases(tmp_path):
    async def run():
        async with opened("everlog", tmp_path) as service:
            session = await service.create_session(**WHO)
            await service.append_event(session, said("the secret plan of the night"))
            await service.delete_session(**WHO, session_id=session.id)

    asyncio.run(run())
    assert b"secret plan of the night" not in b"".join(
        path.read_bytes() for path in tmp_path.iterdir() if path.is_file()
    )


@contract(*ALL)
async def test_flush_may_be_called(service):
    await service.flush()


# --- what an event holds -------------------------------------------------------------------------
SIGNED = b"\xff\xfe\xfb signed"
CONTENTS = {
    "no parts": [],
    "a text": [types.Part(text="hello")],
    "an empty text": [types.Part(text="")],
    "texts": [types.Part(text="a"), types.Part(text="b")],
    "a picture": [
        types.Part(text="see"),
        types.Part(inline_data=types.Blob(mime_type="image/png", data=b"\xff\xfe\xfb\x00")),
    ],
    "a picture with a name": [
        types.Part(inline_data=types.Blob(mime_type="image/png", data=b"\xfb\xff", display_name="x.png"))
    ],
    "a sound": [types.Part(inline_data=types.Blob(mime_type="audio/wav", data=b"\x00\xff"))],
    "a file": [types.Part(file_data=types.FileData(file_uri="gs://x/y", mime_type="text/plain"))],
    "code": [
        types.Part(executable_code=types.ExecutableCode(code="1+1", language="PYTHON")),
        types.Part(code_execution_result=types.CodeExecutionResult(outcome="OUTCOME_OK", output="2")),
    ],
    "a signed thought and a call": [
        types.Part(text="let me see", thought=True, thought_signature=SIGNED),
        types.Part(text="I look it up"),
        types.Part(
            function_call=types.FunctionCall(id="c1", name="look", args={"deep": {"a": [1, 2.5, None]}}),
            thought_signature=SIGNED,
        ),
        types.Part(function_call=types.FunctionCall(id="c2", name="look", args={})),
    ],
    "a call without an id": [types.Part(function_call=types.FunctionCall(name="look", args={"x": 1}))],
    "a call without arguments": [types.Part(function_call=types.FunctionCall(id="c1", name="look"))],
    "responses": [
        types.Part(function_response=types.FunctionResponse(id="c1", name="look", response={"result": "42"})),
        types.Part(function_response=types.FunctionResponse(id="c2", name="look", response={"error": "no such place"})),
        types.Part(
            function_response=types.FunctionResponse(id="c3", name="look", response={"result": {"x": 1.0}, "y": None})
        ),
        types.Part(function_response=types.FunctionResponse(id="c4", name="look", response={})),
        types.Part(function_response=types.FunctionResponse(id="c5", name="look", will_continue=True)),
    ],
    "a call between texts": [
        types.Part(text="a"),
        types.Part(function_call=types.FunctionCall(id="c1", name="look", args={"x": 1})),
        types.Part(text="b", thought_signature=SIGNED),
    ],
}


@pytest.mark.parametrize("what", CONTENTS)
@pytest.mark.parametrize(
    ("author", "role"), [("user", "user"), ("agent", "model"), ("agent", "user"), ("Ein Helfer", None)]
)
def test_an_event_is_given_back_as_it_was(tmp_path, what, author, role):
    event = Event(
        author=author,
        invocation_id="e-1",
        content=types.Content(role=role, parts=CONTENTS[what]),
        custom_metadata={"none": None, "n": 1.0},
        usage_metadata=types.GenerateContentResponseUsageMetadata(prompt_token_count=7),
        long_running_tool_ids={"c2", "c1"},
        branch="a.b",
        actions=EventActions(state_delta={"k": None, "app:a": {"x": None}}, artifact_delta={"f": 0}, escalate=True),
        timestamp=1_800_000_000.1234567,
    )

    async def run():
        async with opened("everlog", tmp_path) as service:
            session = await service.create_session(**WHO)
            await service.append_event(session, event.model_copy(deep=True))
            assert (await got(service, session)).events == [event]
            assert service.store.verify().ok

    asyncio.run(run())


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"actions": EventActions(state_delta={"k": 1})},
        {"actions": EventActions(state_delta={"app:k": 1}, end_of_agent=True)},
        {"actions": EventActions(agent_state={"step": 1})},
        {"error_code": "500", "error_message": "broken"},
        {"id": "x" * 600},
        {"id": "ü/\n ", "author": "agent"},
        {"timestamp": -3.25},
        {"timestamp": 0.0},
        {"timestamp": 1e30},
        {"output": {"any": ["thing", 1.5, None]}},
    ],
)
def test_an_event_without_content_is_given_back_as_it_was(tmp_path, given):
    event = Event(**{"author": "agent", "invocation_id": "e-1", **given})

    async def run():
        async with opened("everlog", tmp_path) as service:
            session = await service.create_session(**WHO)
            await service.append_event(session, event.model_copy(deep=True))
            assert (await got(service, session)).events == [event]
            assert (await got(service, session)).last_update_time == event.timestamp

    asyncio.run(run())


@contract(*ALL)
async def test_state_that_is_no_json_is_kept_as_what_it_prints(service):
    session = await service.create_session(**WHO)
    await service.append_event(session, said("x", delta={"when": print, "k": 1}))
    kept = await got(service, session)
    assert kept.state["k"] == 1
    if not isinstance(service, InMemorySessionService):
        assert kept.state["when"] == repr(print)


@contract(*OURS)
async def test_what_json_cannot_say_is_refused_and_nothing_is_written(service):
    def answered(text):
        event = said("x")
        answer = types.FunctionResponse(id="c", name="f", response={"half": text})
        event.content.parts = [types.Part(function_response=answer)]
        return event

    session = await service.create_session(**WHO)
    nameless = said("x")
    nameless.id = ""
    endless = said("x")
    endless.custom_metadata = {"digits": 10**5000}
    for refused in (
        nameless,
        said("x", delta={"k\ud83d": 1}),
        said("x", delta={"k": float("nan")}),
        said("x", timestamp=float("nan")),
        said("x", timestamp=float("inf")),
        said("half \ud83d"),
        said("half \ud83d" * 2_000_000),
        answered("half \ud83d"),
        endless,
        said("x", delta={"k": 2**64}),
    ):
        with pytest.raises(InvalidEventError, match="nothing was written"):
            await service.append_event(session, refused)
    assert (await got(service, session)).events == session.events == []


def nested(levels):
    value = "x"
    for _ in range(levels):
        value = {"a": value}
    return value


@contract(*ALL)
async def test_large_and_deep_events_are_read_as_they_were_appended(service):
    session = await service.create_session(**WHO)
    picture = types.Part(inline_data=types.Blob(mime_type="image/png", data=bytes(9_000_000)))
    hard = [types.Part(text="x" * 4_200_000), picture, types.Part(text="x" * 8_388_500)]
    hard += [
        types.Part(function_call=types.FunctionCall(id="c", name="f", args=nested(deep))) for deep in range(55, 72)
    ]
    for number, part in enumerate(hard):
        event = said("", author="agent", timestamp=1_700_000_000.25 + number)
        event.content.parts = [part]
        await service.append_event(session, event)
    assert (await got(service, session)).events == session.events
    assert len(session.events) == len(hard)


@contract(*OURS)
async def test_what_an_event_says_beyond_the_log_is_kept_beside_it(service):
    session = await service.create_session(**WHO)
    for odd in (
        said("x" * 9_000_000, delta={"k": 1}),
        said("y" * 9_000_000, timestamp=-1.5, author="not an actor\n"),
    ):
        odd.custom_metadata = {"many": 2**80}
        await service.append_event(session, odd)
    read = await got(service, session)
    assert read.events == session.events
    assert read.state == {"k": 1}
    recent = GetSessionConfig(num_recent_events=1, after_timestamp=-2.0)
    assert len((await service.get_session(**WHO, session_id=session.id, config=recent)).events) == 1
    service.store.session(session_name("trips", "u7", session.id)).erase([0], reason="asked for")
    first, second = texts(await got(service, session))
    assert (first, second[:2]) == ("[erased]", "yy")


@contract(*OURS)
async def test_what_no_content_says_is_kept_beside_it_too(service):
    session = await service.create_session(**WHO)
    for number, odd in enumerate(({"deep": nested(70)}, {"many": 2**80}, {"long": "x" * 5_000_000})):
        event = said("", delta={"k": f"{number}" * 5_000_000})
        event.content, event.custom_metadata = None, odd
        await service.append_event(session, event)
    many = said("", author="agent")
    many.content.parts = [
        types.Part(text="x", thought=True),
        types.Part(text="y"),
    ] * 5_001  # more events than one append takes
    await service.append_event(session, many)
    read = await got(service, session)
    assert (read.events, read.state) == (session.events, session.state)


@contract(*OURS)
async def test_what_each_part_says_within_the_bounds_is_said_however_large_all_are(service):
    session = await service.create_session(**WHO)
    answers = [types.FunctionResponse(id=f"{n}", name="f", response={"result": "x" * 5_000_000}) for n in range(3)]
    event = said("", author="agent")
    event.content.parts = [types.Part(function_response=answer) for answer in answers]
    await service.append_event(session, event)
    assert (await got(service, session)).events == session.events
    recorded = service.store.session(session_name("trips", "u7", session.id))
    assert [each.type for each in recorded.events()] == ["agent.tool_result"] * 3


@pytest.mark.parametrize("name", ["x" * 300, "a/b", "~", "tab\there", "é\u2028", "%2F", " lead"])
def test_names_of_any_text_are_kept_apart_and_given_back(tmp_path, name):
    async def run():
        async with opened("everlog", tmp_path) as service:
            for user in (name, name + "2"):
                await service.create_session(
                    app_name=name, user_id=user, session_id=name.strip(), state={"user:u": user[-1]}
                )
            listed = (await service.list_sessions(app_name=name)).sessions
            assert {(each.app_name, each.user_id, each.id) for each in listed} == {
                (name, user, name.strip()) for user in (name, name + "2")
            }
            assert (await service.get_user_state(app_name=name, user_id=name + "2")) == {"u": "2"}

    asyncio.run(run())


# --- what Everlog adds ---------------------------------------------------------------------------
@contract(*OURS)
async def test_a_session_reads_as_a_conversation(service):
    session = await service.create_session(**WHO, session_id="s")
    await service.append_event(session, said("Where is Lima?", delta={"topic": "Lima"}))
    for name in ("a signed thought and a call", "responses"):
        content = types.Content(role="model" if name[0] == "a" else "user", parts=CONTENTS[name])
        await service.append_event(session, Event(author="guide", invocation_id="e-1", content=content))
    log = service.store.session(session_name("trips", "u7", "s"))
    assert [event.type for event in log.events()] == [
        "user.message",
        "state.patch",
        "agent.thinking",
        "agent.message",
        *["agent.tool_use"] * 2,
        *["agent.tool_result"] * 5,
    ]
    messages = log.state("messages").value
    assert messages[0]["content"] == [{"type": "text", "text": "Where is Lima?"}]
    uses = [block for message in messages for block in message["content"] if block.get("type") == "tool_use"]
    assert [use["result"]["content"] for use in uses] == [
        [{"type": "text", "text": "42"}],
        [{"type": "text", "text": '{"error":"no such place"}'}],
    ]
    assert log.state().value == {"topic": "Lima"}
    assert [reason.event.position for reason in log.why("/topic")] == [1]
    assert [hit.event.position for hit in service.store.search("Lima").hits][-1] == 0


@contract(*OURS)
async def test_a_fork_is_a_session_of_its_own(service):
    session = await service.create_session(**WHO, session_id="s", state={"k": 0})
    await service.append_event(session, said("one", delta={"k": 1, "app:a": 1}))
    await service.append_event(session, said("two", delta={"k": 2, "app:a": 2}))
    second = service.store.session(session_name("trips", "u7", "s")).last("user.message")
    fork = await service.fork_session(**WHO, session_id="s", fork_id="f", at=second)
    assert (texts(fork), fork.state) == (["one"], {"k": 1, "app:a": 2})
    await service.append_event(fork, said("other", delta={"k": 3}))
    assert texts(await got(service, session)) == ["one", "two"]
    assert texts(await got(service, fork)) == ["one", "other"]
    assert {each.id for each in (await service.list_sessions(**WHO)).sessions} == {"s", "f"}
    with pytest.raises(AlreadyExistsError):
        await service.fork_session(**WHO, session_id="s", fork_id="f")
    with pytest.raises(SessionNotFoundError):
        await service.fork_session(**WHO, session_id="none")


@contract(*OURS)
async def test_a_fork_that_everlog_made_is_a_session_of_who_its_id_says(service):
    session = await service.create_session(**WHO, session_id="s", state={"k": 0})
    await service.append_event(session, said("one", delta={"k": 1}))
    service.store.session(session_name("trips", "u7", "s")).fork(id=session_name("trips", "u8", "f"))
    fork = await service.get_session(app_name="trips", user_id="u8", session_id="f")
    assert (texts(fork), fork.state) == (["one"], {"k": 1})
    listed = (await service.list_sessions(app_name="trips")).sessions
    assert {(each.user_id, each.id, each.state["k"]) for each in listed} == {("u7", "s", 1), ("u8", "f", 1)}
    await service.append_event(fork, said("two"))
    assert await got(service, fork) == fork


@contract(*OURS)
async def test_what_is_deleted_while_it_is_read_or_listed_or_appended_to_is_as_if_it_had_been_before(service):
    store = service.store
    find, read_short = store.session, store.read_short

    def deleting(call):
        def then_delete(given):
            found = call(given)
            with suppress(NotFoundError):
                store.delete(session_name("trips", "u7", "s"), reason="test")
            return found

        return then_delete

    for events in (1, 40):
        session = await service.create_session(**WHO, session_id="s")
        other = await service.create_session(**WHO, session_id=f"other {events}")
        for number in range(events):
            await service.append_event(session, said(f"{number}", delta={"n": number}))
        store.session = deleting(find)
        assert await service.get_session(**WHO, session_id="s") is None
        store.session = find
        session = await service.create_session(**WHO, session_id="s")
        await service.append_event(session, said("one"))
        store.session = deleting(find)
        with pytest.raises(SessionNotFoundError):
            await service.append_event(session, said("two"))
        store.session = find
        session = await service.create_session(**WHO, session_id="s")
        await service.append_event(session, said("one", delta={"n": 1}))
        store.read_short = lambda given: deleting(lambda _: None)(given) or read_short(given)
        listed = (await service.list_sessions(**WHO)).sessions
        assert "s" not in {each.id for each in listed}
        assert other.id in {each.id for each in listed}
        store.read_short = read_short


@contract(*OURS)
async def test_a_document_that_another_program_made_a_list_of_is_no_state(service):
    session = await service.create_session(**WHO, session_id="s", state={"k": 1})
    service.store.session(session_name("trips", "u7", "s")).append("state.set", {"path": "", "value": [1]})
    shown = await got(service, session)
    assert shown.state == (await service.list_sessions(**WHO)).sessions[0].state == {}
    await service.append_event(shown, said("x"))


@contract(*OURS)
async def test_a_rewind_of_everlogs_takes_events_and_state_back_and_makes_what_was_read_stale(service):
    session = await service.create_session(**WHO, state={"k": 0})
    await service.append_event(session, said("one", delta={"k": 1}))
    await service.append_event(session, said("two", delta={"k": 2}))
    log = service.store.session(session_name("trips", "u7", session.id))
    log.rewind(log.last("user.message"))
    with pytest.raises(StaleSessionError):
        await service.append_event(session, said("three"))
    back = await got(service, session)
    assert (texts(back), back.state) == (["one"], {"k": 1})
    await service.append_event(back, said("other"))
    assert texts(await got(service, back)) == ["one", "other"]


@contract(*OURS)
async def test_what_others_record_in_the_session_is_not_shown_and_makes_it_stale(service):
    session = await service.create_session(**WHO)
    await service.append_event(session, said("one"))
    log = service.store.session(session_name("trips", "u7", session.id))
    log.append("note", {"content": "seen"}, metadata={"part": [1, 2]})
    with pytest.raises(StaleSessionError):
        await service.append_event(session, said("two"))
    assert texts(await got(service, session)) == ["one"]


@contract(*OURS)
async def test_an_erased_event_is_given_as_erased(service):
    session = await service.create_session(**WHO)
    for text in ("one", "two", "three"):
        await service.append_event(session, said(text, delta={text: 1}, timestamp=1_800_000_000.5))
    log = service.store.session(session_name("trips", "u7", session.id))
    log.erase([2, 3], reason="asked for")
    kept = await got(service, session)
    assert texts(kept) == ["one", "[erased]", "three"]
    assert [event.id for event in kept.events] == [event.id for event in session.events]
    assert kept.state == {"one": 1, "three": 1}


@contract(*OURS)
async def test_a_session_that_another_holds_is_fenced(service):
    session = await service.create_session(**WHO)
    with service.store.wake(session_name("trips", "u7", session.id), holder="other", ttl=30):
        held = await got(service, session)
        with pytest.raises(FencedError):
            await service.append_event(held, said("one", author="agent"))
    assert (await got(service, session)).events == []


# --- state that sessions share -------------------------------------------------------------------
class Died(BaseException):
    """The process ends here."""


def dying(service):
    """Have the service die after it wrote the session, before the app's and the user's state take anything over."""

    def die(*_):
        raise Died

    service._share = die


@contract(*OURS)
async def test_shared_state_that_a_crash_left_out_is_taken_over_by_the_next_read(service):
    session = await service.create_session(**WHO, session_id="s", state={"app:a": 0})
    other = EverlogSessionService(service.store)
    dying(other)
    event = said("one", delta={"app:a": 1, "user:u": 2, "k": 3})
    with pytest.raises(Died):
        await other.append_event(await got(service, session), event)
    kept = await got(service, session)
    assert kept.state == {"app:a": 1, "user:u": 2, "k": 3}
    assert kept.events == [event]
    assert await service.get_user_state(**WHO) == {"u": 2}
    # Once: what others set since is not undone.
    await service.append_event(kept, said("two", delta={"app:a": 5}))
    assert (await got(service, session)).state["app:a"] == 5
    log = service.store.session(app_state_name("trips"))
    assert log.size() == 3


@contract(*OURS)
async def test_shared_state_that_a_crash_left_out_is_taken_over_by_a_list_a_deletion_and_a_repeat(service):
    for act in ("list", "delete", "repeat", "create"):
        who = {"app_name": "trips", "user_id": act}
        other = EverlogSessionService(service.store)
        if act == "create":
            dying(other)
            with pytest.raises(Died):
                await other.create_session(**who, session_id="s", state={"user:u": 2})
        else:
            read = await service.create_session(**who, session_id="s")
            dying(other)
            event = said("one", delta={"user:u": 2})
            with pytest.raises(Died):
                await other.append_event(read, event)
        if act == "delete":
            await service.delete_session(**who, session_id="s")
        elif act == "repeat":
            again = Session(app_name="trips", user_id=act, id="s")
            again._storage_update_marker = read._storage_update_marker
            await service.append_event(again, event)
            assert again == await got(service, again)
        else:
            assert (await service.list_sessions(**who)).sessions[0].state == {"user:u": 2}
        assert await service.get_user_state(**who) == {"u": 2}


@contract(*OURS)
async def test_an_old_delta_does_not_come_back_with_a_fork_or_a_read(service):
    one = await service.create_session(**WHO, session_id="one")
    await service.append_event(one, said("x", delta={"app:a": 1}))
    two = await service.create_session(**WHO, session_id="two")
    await service.append_event(two, said("x", delta={"app:a": 2}))
    assert (await got(service, one)).state == {"app:a": 2}
    fork = await service.fork_session(**WHO, session_id="one")
    assert fork.state == {"app:a": 2}


@contract(*OURS)
async def test_many_sessions_set_shared_state_at_once_and_none_is_lost(service):
    sessions = [await service.create_session(**WHO) for _ in range(8)]
    await asyncio.gather(
        *(
            service.append_event(each, said("x", delta={f"user:{number}": number}))
            for number, each in enumerate(sessions)
        )
    )
    assert await service.get_user_state(**WHO) == {f"{number}": number for number in range(8)}
    assert service.store.session(user_state_name("trips", "u7")).size() == 8


# --- opening and closing -------------------------------------------------------------------------
def test_a_store_that_was_given_stays_open_and_one_that_was_opened_is_closed(tmp_path):
    async def run():
        with everlog.open(tmp_path / "agent.db") as store:
            async with EverlogSessionService(store) as service:
                await service.create_session(**WHO, session_id="s")
            assert store.session(session_name("trips", "u7", "s")).size() == 0
        async with await everlog.open_async(tmp_path / "agent.db") as store:
            async with EverlogSessionService(store) as service:
                assert (await service.get_session(**WHO, session_id="s")).id == "s"
        service = EverlogSessionService(str(tmp_path / "agent.db"))
        store = service.store
        await service.close()
        with pytest.raises(UnavailableError):
            store.session(session_name("trips", "u7", "s"))

    asyncio.run(run())


def test_a_service_that_was_closed_says_so_and_may_be_closed_again(tmp_path):
    async def run():
        with everlog.open(tmp_path / "given.db") as store:
            for place in (store, tmp_path / "agent.db"):
                service = EverlogSessionService(place)
                session = await service.create_session(**WHO, session_id="s")
                await service.close()
                await service.close()
                for call in (
                    service.append_event(session, said("x")),
                    service.get_session(**WHO, session_id="s"),
                    service.list_sessions(app_name="trips"),
                ):
                    with pytest.raises(UnavailableError, match="closed; nothing was done"):
                        await call
        never = EverlogSessionService(tmp_path / "never.db")
        await never.close()
        with pytest.raises(UnavailableError):
            never.store
        assert not (tmp_path / "never.db").exists()

    asyncio.run(run())


@contextmanager
def an_append_whose_loop_stands_still(service, session, event):
    """Give the task of an append that is recorded, and the loop that does not run on to show it."""
    with closing(asyncio.new_event_loop()) as loop:
        task = loop.create_task(service.append_event(session, event))
        loop.run_until_complete(asyncio.sleep(0))
        next(service.store.session(session_name("trips", "u7", session.id)).follow(start=0))
        yield loop, task


def test_a_loop_that_stands_still_holds_up_nobody_who_read_the_session_for_himself(tmp_path):
    service = EverlogSessionService(tmp_path / "agent.db")
    session = asyncio.run(service.create_session(**WHO, session_id="s"))
    with an_append_whose_loop_stands_still(service, session, said("one")) as (loop, task):
        other = asyncio.run(got(service, session))
        asyncio.run(service.append_event(other, said("two")))
        assert texts(other) == ["one", "two"]
        loop.run_until_complete(task)
    assert texts(session) == ["one"]
    asyncio.run(service.close())


def test_an_append_that_is_dropped_with_its_loop_leaves_its_turn(tmp_path):
    service = EverlogSessionService(tmp_path / "agent.db")
    session = asyncio.run(service.create_session(**WHO, session_id="s"))
    with an_append_whose_loop_stands_still(service, session, said("one")) as (_, task):
        task.get_coro().close()
    with pytest.raises(StaleSessionError):
        asyncio.run(service.append_event(session, said("two")))
    session = asyncio.run(got(service, session))
    asyncio.run(service.append_event(session, said("two")))
    assert texts(session) == ["one", "two"]
    assert service._turns._waiting == {}
    asyncio.run(service.close())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_service_that_a_process_was_forked_with_answers_there_and_says_what_became_of_its_store(tmp_path):
    script = """
import asyncio, os, sys
from everlog.errors import UnsupportedStoreError
from everlog.integrations.adk import EverlogSessionService
who = {"app_name": "trips", "user_id": "u7", "session_id": "s"}
used, fresh = (EverlogSessionService(f"{sys.argv[1]}/{name}.db") for name in ("used", "fresh"))
asyncio.run(used.create_session(**who))
child = os.fork()
if not child:
    try:
        asyncio.run(used.get_session(**who))
    except UnsupportedStoreError:
        assert asyncio.run(fresh.create_session(**who)).id == "s"
        os._exit(7)
    os._exit(8)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    # A group of its own, so that a child that never answers ends with it.
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script, tmp_path], start_new_session=True)
    try:
        assert process.wait(30) == 7
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@contract(*OURS)
async def test_what_lists_are_remembered_by_is_bounded_by_its_bytes(service, monkeypatch):
    monkeypatch.setattr("everlog.integrations.adk._TOLD_BYTES_MAX", 10_000)
    for number in range(30):
        await service.create_session(**WHO, session_id=f"{number}", state={"text": "x" * 1_000})
    for _ in range(2):
        listed = await service.list_sessions(app_name="trips")
        assert len(listed.sessions) == 30
        assert 0 < sum(len(told.document) for told in service._told.values()) == service._told_bytes <= 10_000


def test_a_service_may_be_used_from_several_event_loops(tmp_path):
    service = EverlogSessionService(tmp_path / "agent.db")
    session = asyncio.run(service.create_session(**WHO, session_id="s"))
    failed = []

    def work():
        try:
            asyncio.run(service.append_event(session, said("from a thread")))
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed
    assert texts(asyncio.run(got(service, session))) == ["from a thread"]
    asyncio.run(service.close())
