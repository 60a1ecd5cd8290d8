"""The Agents SDK's session: each sentence of its interface, on Everlog and on the SDK's own SQLiteSession, and what Everlog adds."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import everlog
from databases import address
from everlog.errors import UnavailableError
from integrations.agents_items import ITEMS, numbered, said, user

pytest.importorskip("agents")
from agents import Agent, Runner, SessionSettings, SQLiteSession, function_tool, set_tracing_disabled
from agents.memory import OpenAIResponsesCompactionSession, Session
from agents.memory import session as memory

try:
    from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
except ModuleNotFoundError:
    ModelStep = None

from everlog.integrations import openai_agents
from everlog.integrations.openai_agents import EverlogSession
from everlog.integrations.places import id_of

set_tracing_disabled(True)
HERE = Path(__file__).parent
SNAPSHOTS = pytest.mark.skipif(
    not hasattr(memory, "_CompactionSnapshot"), reason="this version of the SDK asks for no snapshot"
)
SCRIPTED = pytest.mark.skipif(ModelStep is None, reason="this version of the SDK brings no scripted model")


def run(coroutine):
    return asyncio.run(coroutine)


@pytest.fixture(params=["sdk", "sqlite", "postgres"])
def make(request, tmp_path):
    """Gives sessions by id, all of one store: of the SDK's own, or of ours."""
    made = []

    def session(name="s", **options):
        if request.param == "sdk":
            made.append(SQLiteSession(name, tmp_path / "sdk.db", **options))
        else:
            made.append(EverlogSession(name, address(request.param, tmp_path), **options))
        return made[-1]

    yield session
    for each in made:
        each.close()


@pytest.fixture
def ours(tmp_path):
    session = EverlogSession("s", tmp_path / "s.db")
    yield session
    session.close()


# --- the interface, sentence by sentence -----------------------------------------------------------
def test_it_is_a_session_by_the_sdks_own_protocol(make):
    session = make()
    assert isinstance(session, Session)
    assert session.session_id == "s"
    assert session.session_settings == SessionSettings()


def test_items_come_in_the_order_they_were_added_whatever_batch_they_were_in(make):
    async def story():
        session = make()
        await session.add_items(numbered(3))
        await session.add_items(numbered(1, 3))
        await session.add_items(numbered(2, 4))
        assert await session.get_items() == numbered(6)

    run(story())


def test_a_session_that_nobody_wrote_to_is_empty_and_reading_makes_nothing(make):
    async def story():
        session = make()
        assert await session.get_items() == []
        assert await session.pop_item() is None
        await session.clear_session()
        assert await session.get_items(5) == []

    run(story())


@pytest.mark.parametrize("limit", [1, 2, 6, 7, 100])
def test_a_limit_gives_the_newest_oldest_first(make, limit):
    async def story():
        session = make()
        await session.add_items(numbered(6))
        assert await session.get_items(limit) == numbered(6)[-limit:]
        assert await session.get_items(limit=limit) == numbered(6)[-limit:]

    run(story())


def test_no_limit_asks_the_settings_and_a_limit_given_counts_before_them(make):
    async def story():
        session = make(session_settings=SessionSettings(limit=2))
        await session.add_items(numbered(6))
        assert await session.get_items() == numbered(2, 4)
        assert await session.get_items(4) == numbered(4, 2)
        session.session_settings = SessionSettings(limit=3)
        assert await session.get_items() == numbered(3, 3)
        session.session_settings = None
        assert await session.get_items() == numbered(6)

    run(story())


def test_settings_may_be_a_mapping(make):
    assert make(session_settings={"limit": 4}).session_settings == SessionSettings(limit=4)


def test_a_limit_of_zero_gives_none_and_a_negative_one_all(make):
    async def story():
        session = make()
        await session.add_items(numbered(3))
        assert await session.get_items(0) == []
        assert await session.get_items(-1) == numbered(3)

    run(story())


def test_adding_nothing_does_nothing(make):
    async def story():
        session = make()
        await session.add_items([])
        await session.add_items(numbered(1))
        await session.add_items([])
        assert await session.get_items() == numbered(1)

    run(story())


def test_the_same_item_twice_is_two_items(make):
    async def story():
        session = make()
        await session.add_items([user("again"), user("again")])
        await session.add_items([user("again")])
        assert await session.get_items() == [user("again")] * 3

    run(story())


def test_arguments_that_are_nested_as_deep_as_an_event_may_be_or_deeper_come_back(make):
    session = make()
    calls = [
        {"type": "function_call", "call_id": f"c{depth}", "name": "f", "arguments": "[" * depth + "]" * depth}
        for depth in range(58, 70)
    ]
    for call in calls:
        run(session.add_items([call]))
    assert run(session.get_items()) == calls


def test_a_batch_with_an_item_that_json_cannot_say_adds_none_of_it(make):
    async def story():
        session = make()
        with pytest.raises(TypeError):
            await session.add_items([user("one"), {"role": "user", "content": object()}])
        assert await session.get_items() == []

    run(story())


def test_pop_takes_the_newest_and_adding_it_again_restores_it(make):
    async def story():
        session = make()
        items = [user("a"), said("b"), {"type": "new_kind", "x": [1, 1.0, True, None]}]
        await session.add_items(items)
        assert [await session.pop_item() for _ in range(2)] == items[:0:-1]
        assert await session.get_items() == items[:1]
        await session.add_items(items[1:])
        assert await session.get_items() == items
        assert [await session.pop_item() for _ in range(4)] == [*reversed(items), None]

    run(story())


def spoil(session, *places):
    """Have items be none that can be read: erased, or of torn JSON."""
    if isinstance(session, EverlogSession):
        session.log.erase(list(places), reason="test")
    else:
        with closing(sqlite3.connect(session.db_path)) as file, file:
            file.executemany("UPDATE agent_messages SET message_data = '{' WHERE id = ?", [(at + 1,) for at in places])


def test_what_cannot_be_read_counts_for_no_limit_and_goes_with_what_is_taken_before_it(make):
    async def story():
        session = make()
        await session.add_items(numbered(6))
        spoil(session, 1, 4, 5)
        readable = [user("item 0"), *numbered(2, 2)]
        assert await session.get_items(1) == readable[-1:]
        assert await session.get_items(2) == readable[-2:]
        assert await session.get_items(6) == await session.get_items() == readable
        assert await session.pop_item() == user("item 3")
        assert await session.get_items(2) == readable[:2]
        assert [await session.pop_item() for _ in range(3)] == [user("item 2"), user("item 0"), None]

    run(story())


def test_poppers_at_once_each_get_an_item_of_their_own(make):
    async def story():
        one, other = make(), make()
        await one.add_items(numbered(8))
        popped = await asyncio.gather(*(session.pop_item() for session in (one, other) * 5))
        taken = [item["content"] for item in popped if item is not None]
        assert sorted(taken) == [item["content"] for item in numbered(8)]
        assert popped.count(None) == 2

    run(story())


def test_clearing_takes_all_and_the_session_is_used_on(make):
    async def story():
        session = make()
        await session.add_items(numbered(3))
        await session.clear_session()
        assert await session.get_items() == []
        assert await session.pop_item() is None
        await session.add_items(numbered(2, 7))
        assert await session.get_items() == numbered(2, 7)

    run(story())


def test_sessions_of_one_store_do_not_see_each_other(make):
    async def story():
        one, other = make("one"), make("other")
        await one.add_items(numbered(2))
        await other.add_items(numbered(1, 5))
        await one.clear_session()
        assert await one.get_items() == []
        assert await other.get_items() == numbered(1, 5)

    run(story())


def test_two_objects_of_one_session_see_what_the_other_did(make):
    async def story():
        one, other = make(), make()
        await one.add_items(numbered(2))
        assert await other.pop_item() == user("item 1")
        assert await one.get_items() == numbered(1)
        await one.clear_session()
        await other.add_items(numbered(1, 9))
        assert await one.get_items() == numbered(1, 9)

    run(story())


def test_it_is_kept_when_everything_is_closed_and_opened_again(make):
    async def story():
        session = make()
        await session.add_items(numbered(3))
        session.close()
        assert await make().get_items() == numbered(3)

    run(story())


def test_what_was_closed_refuses_everything_also_adding_nothing(make):
    async def story():
        session = make()
        await session.add_items(numbered(1))
        session.close()
        for call in (session.get_items, session.pop_item, session.clear_session, lambda: session.add_items([])):
            with pytest.raises((RuntimeError, UnavailableError), match="closed"):
                await call()

    run(story())


@pytest.mark.parametrize("verb", ["add", "pop", "clear"])
def test_whoever_is_cancelled_learns_it_when_the_outcome_is_settled(make, verb):
    async def story():
        session = make()
        await session.add_items(numbered(2))
        calls = {
            "add": lambda: session.add_items(numbered(1, 2)),
            "pop": session.pop_item,
            "clear": session.clear_session,
        }
        task = asyncio.ensure_future(calls[verb]())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await session.get_items() == {"add": numbered(3), "pop": numbered(1), "clear": []}[verb]

    run(story())


def test_whoever_is_cancelled_with_all_the_loops_tasks_learns_it_when_the_outcome_is_settled(tmp_path):
    store = everlog.open(tmp_path / "agents.db")
    recording, goes_on = threading.Event(), threading.Event()

    class Slow(EverlogSession):
        def _add(self, items, described):
            recording.set()
            goes_on.wait()
            super()._add(items, described)

    async def story():
        session = Slow("s", store)
        task = asyncio.ensure_future(session.add_items(numbered(1)))
        await asyncio.to_thread(recording.wait)
        for each in asyncio.all_tasks() - {asyncio.current_task()}:  # as `asyncio.run` does at its end
            each.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        early = task.done()
        goes_on.set()
        assert not early
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await session.get_items() == numbered(1)

    with closing(store):
        run(story())


def test_one_object_is_used_from_one_event_loop_after_another(make):
    session = make()
    run(session.add_items(numbered(1)))
    run(session.add_items(numbered(1, 1)))
    assert run(session.get_items()) == numbered(2)


# --- what an item is ---------------------------------------------------------------------------------
@pytest.mark.parametrize("item", ITEMS, ids=range(len(ITEMS)))
def test_each_kind_of_item_comes_back_as_it_was(make, item):
    async def story():
        session = make()
        await session.add_items([item])
        for found in (*await session.get_items(), await session.pop_item()):
            assert json.dumps(found, sort_keys=True) == json.dumps(item, sort_keys=True)

    run(story())


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
strange = st.dictionaries(
    st.sampled_from(["type", "role", "content", "id", "call_id", "name", "arguments", "output", "summary", "status", "x"]),
    values
    | st.sampled_from([item["type"] for item in ITEMS if "type" in item] + ["user", "assistant", "system", "{}", "[1]"])
    | st.lists(st.fixed_dictionaries({"type": st.sampled_from(["output_text", "input_text", "text"]), "text": st.text()})),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(items=st.lists(strange | st.dictionaries(st.text(), values), min_size=1, max_size=4))
def test_any_json_comes_back_as_it_was(items):
    async def story(session):
        await session.add_items(items)
        return await session.get_items(), await session.pop_item()

    with everlog.open("memory:") as store:
        found, popped = run(story(EverlogSession("s", store)))
    assert json.dumps(found, sort_keys=True) == json.dumps(items, sort_keys=True)
    assert json.dumps(popped, sort_keys=True) == json.dumps(items[-1], sort_keys=True)


def test_an_item_larger_than_a_body_is_kept_beside_it(ours):
    large = {"role": "user", "content": [{"type": "input_image", "image_url": "data:" + "A" * (9 * 1024 * 1024)}]}
    run(ours.add_items([large]))
    assert run(ours.get_items()) == [large]


def test_the_usual_items_cost_less_than_twice_their_text(ours, tmp_path):
    text = "word " * 200
    with everlog.open(tmp_path / "empty.db"):
        pass
    for number in range(100):
        run(ours.add_items([user(text), said(text, number)]))
    ours.close()
    kept, empty = ((tmp_path / name).stat().st_size for name in ("s.db", "empty.db"))
    assert kept - empty < 2 * 200 * len(text)


# --- with the runner ---------------------------------------------------------------------------------
@function_tool
def add(a: int, b: int) -> str:
    """Add."""
    return str(a + b)


def scripted(*answers):
    """Give an agent whose model calls the tool, then says what it gave; it refuses what the Responses API does."""

    def step(output):
        def respond(call):
            check_valid(call.input)
            return [output]

        return ModelStep.respond(respond)

    model = ScriptedModel([step(answer) for answer in answers])
    return Agent(name="adder", model=model, tools=[add])


def check_valid(items):
    """Raise where an output has no call before it, or a call no output."""
    if isinstance(items, str):
        return
    calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
    outputs = [item["call_id"] for item in items if item.get("type") == "function_call_output"]
    assert Counter(calls) == Counter(outputs), items


@SCRIPTED
def test_the_runner_goes_on_with_what_it_said_and_the_log_is_a_conversation(ours):
    agent = scripted(function_call("add", {"a": 20, "b": 22}, call_id="c1"), assistant_message("It is 42."))
    assert run(Runner.run(agent, "What is 20 + 22?", session=ours)).final_output == "It is 42."
    agent = scripted(assistant_message("Yes, 42."))
    assert run(Runner.run(agent, "Sure?", session=ours)).final_output == "Yes, 42."
    seen = agent.model.last_call.input
    assert [item.get("type", item.get("role")) for item in seen] == [
        "user", "function_call", "function_call_output", "message", "user",
    ]  # fmt: skip
    types = ["user.message", "agent.tool_use", "agent.tool_result", "agent.message", "user.message", "agent.message"]
    assert [event.type for event in ours.log.events()] == types
    assert [message["role"] for message in ours.log.state("messages").value] == [
        "user", "assistant", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert ours.log.search("42").hits
    fork = ours.log.fork(at=4, id="other-way")
    assert run(EverlogSession(fork.id, ours.store).get_items()) == run(ours.get_items())[:4]


@SCRIPTED
def test_the_runners_context_reaches_what_describes_each_item(tmp_path):
    with everlog.open(tmp_path / "s.db") as store:
        session = EverlogSession("s", store, describe=lambda wrapper: {"tenant": wrapper.context["tenant"]})
        run(Runner.run(scripted(assistant_message("Hi.")), "Hello", session=session, context={"tenant": "t7"}))
        assert [event.metadata["tenant"] for event in session.log.events()] == ["t7", "t7"]
        session.close()
        assert store.session("s").size() == 2  # a store that was given stays open


def test_events_that_are_no_items_stand_beside_them(ours):
    run(ours.add_items(numbered(2)))
    ours.log.append("note", {"content": "for people"})
    ours.log.checkpoint("here")
    ours.log.append("agent.tool_use", {"id": "c1", "name": "f", "input": {}})
    assert len(run(ours.get_items())) == 3
    ours.log.repair()
    call, output = run(ours.get_items(2))
    assert (call["call_id"], output["call_id"], output["type"]) == ("c1", "c1", "function_call_output")
    check_valid(run(ours.get_items()))


def test_what_was_cleared_or_popped_can_be_read_and_what_was_erased_is_gone(ours):
    run(ours.add_items(numbered(3)))
    run(ours.pop_item())
    before = [branch for branch in ours.log.branches() if branch.size() == 3]
    assert [event.data["content"] for event in before[0].events()] == ["item 0", "item 1", "item 2"]
    ours.log.erase([0], reason="asked for")
    assert run(ours.get_items()) == [user("item 1")]
    assert run(ours.get_items(1)) == [user("item 1")]
    assert (run(ours.pop_item()), run(ours.pop_item())) == (user("item 1"), None)


def test_a_lease_keeps_other_processes_from_taking_part(tmp_path):
    with everlog.open(tmp_path / "s.db") as one, everlog.open(tmp_path / "s.db") as other:
        mine, theirs = EverlogSession("s", one), EverlogSession("s", other)
        run(mine.add_items(numbered(1)))
        with mine.log.lease("worker-1"):
            run(mine.add_items([said("mine")]))
            with pytest.raises(everlog.errors.FencedError):
                run(theirs.add_items([said("theirs")]))
            with pytest.raises(everlog.errors.FencedError):
                run(theirs.pop_item())
            assert run(mine.pop_item()) == said("mine")
        run(theirs.add_items([said("theirs")]))
        assert run(mine.get_items()) == [*numbered(1), said("theirs")]


def test_a_session_that_was_deleted_is_begun_anew(ours):
    run(ours.add_items(numbered(2)))
    ours.store.delete("s", reason="asked for")
    assert run(ours.get_items()) == []
    assert run(ours.pop_item()) is None
    run(ours.add_items(numbered(1, 5)))
    ours.store.delete("s", reason="asked for")
    run(ours.add_items(numbered(1, 6)))
    assert run(ours.get_items()) == numbered(1, 6)


@pytest.mark.parametrize("name", ["", "two\nlines", "x" * 300, "\ud800"])
def test_an_id_that_no_log_can_have_is_kept_by_its_hash(tmp_path, name):
    with everlog.open(tmp_path / "s.db") as store:
        session = EverlogSession(name, store)
        run(session.add_items(numbered(1)))
        assert store.session(id_of(name)).size() == 1
        assert run(EverlogSession(name, store).get_items()) == numbered(1)


# --- compaction --------------------------------------------------------------------------------------
def test_all_items_are_replaced_at_once(ours):
    replace = type(ours)._atomic_replace_items
    assert run(replace(ours, []))
    assert run(replace(ours, numbered(1, 9)))
    run(ours.add_items(numbered(2)))
    assert run(replace(ours, [{"type": "compaction", "encrypted_content": "x"}]))
    assert run(ours.get_items()) == [{"type": "compaction", "encrypted_content": "x"}]


def test_a_subclass_is_not_bypassed(tmp_path):
    class Own(EverlogSession):
        pass

    session = Own("s", tmp_path / "s.db")
    assert not run(Own._atomic_replace_items(session, []))
    assert run(session._get_compaction_snapshot(1)) is None


@SNAPSHOTS
def test_no_item_is_made_an_event_on_the_event_loop(tmp_path, monkeypatch):
    where, made = [], openai_agents.event_of

    def noted(item):
        where.append(threading.current_thread())
        return made(item)

    monkeypatch.setattr(openai_agents, "event_of", noted)

    async def story():
        session = EverlogSession("s", tmp_path / "agents.db")
        await session.add_items(numbered(3))
        assert await session._atomic_replace_items(numbered(4))
        snapshot = await session._get_compaction_snapshot(3)
        assert await snapshot.replace_suffix(1, numbered(1))
        assert await session.get_items() == [*numbered(2), *numbered(1)]
        session.close()

    run(story())
    assert len(where) == 8
    assert threading.main_thread() not in where


@SNAPSHOTS
def test_the_end_is_replaced_unless_somebody_wrote_meanwhile(ours):
    async def story():
        await ours.add_items(numbered(5))
        snapshot = await ours._get_compaction_snapshot(3)
        assert (snapshot.items, snapshot.complete) == (numbered(3, 2), False)
        assert (await ours._get_compaction_snapshot(5)).complete
        assert await snapshot.replace_suffix(1, [user("short")])
        assert await ours.get_items() == [*numbered(3), user("short")]
        assert not await snapshot.replace_suffix(1, [user("again")])
        assert not await snapshot.replace_suffix(3, [user("of nothing")])
        late = await ours._get_compaction_snapshot(2)
        await ours.add_items(numbered(1, 8))
        assert not await late.replace_suffix(0, [])
        assert await ours.get_items() == [*numbered(3), user("short"), *numbered(1, 8)]

    run(story())


@SNAPSHOTS
def test_replacing_the_end_drops_what_is_expired_at_the_front(ours):
    async def story():
        await ours.add_items(numbered(5))
        snapshot = await ours._get_compaction_snapshot(
            2, prune_prefix=lambda item: item["content"] in ("item 0", "item 2")
        )
        assert await snapshot.replace_suffix(0, [user("short")])
        assert await ours.get_items() == [*numbered(2, 1), user("short")]

    run(story())


def test_the_sdks_compaction_replaces_through_it(ours):
    class Client:
        """Stands in for the provider's one call."""

        class Answer:
            output = ({"type": "compaction", "id": "cmp_1", "encrypted_content": "all of it"},)
            usage = None

        def __init__(self):
            self.responses = self

        async def compact(self, **_):
            return self.Answer()

    async def story():
        await ours.add_items([user("a"), said("b"), user("c"), said("d")])
        session = OpenAIResponsesCompactionSession("s", ours, client=Client(), model="gpt-4.1")
        await session.run_compaction({"force": True})
        assert [item["type"] for item in await ours.get_items()] == ["compaction"]
        assert [event.type for event in ours.log.events()] == ["session.rewound", "x.openai_agents.compaction"]

    run(story())


# --- processes ---------------------------------------------------------------------------------------
def child(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, cwd=HERE, env=os.environ
    )


TAKER = """
import asyncio, json, sys
from everlog.integrations.openai_agents import EverlogSession
async def work(path, name):
    session, popped = EverlogSession("s", path), []
    for number in range(25):
        await session.add_items([{"role": "user", "content": f"{name} {number}"}])
        if number % 2:
            popped.append((await session.pop_item())["content"])
    print(json.dumps(popped))
asyncio.run(work(*sys.argv[1:]))
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_two_processes_at_once_lose_nothing_and_take_nothing_twice(tmp_path, kind):
    place = address(kind, tmp_path)
    everlog.open(place).close()
    children = [child(TAKER, place, name) for name in ("one", "other")]
    popped = [json.loads(each.communicate(timeout=60)[0]) for each in children]
    with everlog.open(place) as store:
        left = [item["content"] for item in run(EverlogSession("s", store).get_items())]
        assert store.verify().ok
    assert sorted([*popped[0], *popped[1], *left]) == sorted(
        f"{name} {number}" for name in ("one", "other") for number in range(25)
    )


KILLED = """
import asyncio, sys, threading
sys.path.insert(0, ".")
from agents import Runner, Agent, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from everlog.integrations.openai_agents import EverlogSession

@function_tool
def add(a: int, b: int) -> str:
    if a == 2:
        print("inside", flush=True)
        threading.Event().wait(60)
    return str(a + b)

calls = [function_call("add", {"a": a, "b": 1}, call_id=f"c{a}") for a in (1, 2)]
agent = Agent(name="adder", model=ScriptedModel([[calls[0]], [calls[1]]]), tools=[add])
asyncio.run(Runner.run(agent, "Add.", session=EverlogSession("s", sys.argv[1])))
"""


@SCRIPTED
def test_a_run_that_was_killed_in_a_tool_goes_on_with_a_whole_history(tmp_path):
    place = tmp_path / "s.db"
    process = child(KILLED, place)
    assert process.stdout.readline() == "inside\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    session = EverlogSession("s", place)
    kept = run(session.get_items())
    assert [item.get("type", "user") for item in kept[:3]] == ["user", "function_call", "function_call_output"]
    assert session.store.verify().ok
    session.log.repair()
    check_valid(run(session.get_items()))
    agent = scripted(assistant_message("Done."))
    assert run(Runner.run(agent, "Go on.", session=session)).final_output == "Done."
    session.close()


@SCRIPTED
def test_the_example_runs_and_goes_on(tmp_path):
    example = HERE.parents[1] / "examples" / "integrations" / "openai_agents.py"
    for before in (0, 4):
        ran = subprocess.run(
            [sys.executable, "-W", "error", example, tmp_path / "s.db"], capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == 0, ran.stderr
        assert f"{before} items from before" in ran.stdout
