"""Strands' `Storage` in Everlog: its protocol, asked of Strands' own too; its snapshots, to the byte; then what ours adds."""

import asyncio
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from core.secrets_made import TOKENS, drawn
from databases import address

pytest.importorskip("strands.storage")

from hypothesis import given, settings
from hypothesis import strategies as st
from strands import Agent
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.multiagent import GraphBuilder
from strands.storage import InMemoryStorage, LocalFileStorage, Storage
from strands.types.exceptions import StorageError

import everlog
from everlog.errors import FencedError, LimitError, NotFoundError, SessionExistsError, UnavailableError
from everlog.integrations import strands_storage
from everlog.integrations.strands_storage import EverlogStorage
from everlog.session import Session

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "integrations"
sys.path.insert(0, str(EXAMPLES))
from strands_agent import ScriptedModel, multiply  # noqa: E402

AT = "session/s/scopes/agent/a/snapshots/"
LATEST = f"{AT}snapshot_latest.json"


def kept(number):
    return f"{AT}immutable_history/snapshot_0190a5d0-0000-7000-8000-{number:012d}.json"


def run(coroutine):
    return asyncio.run(coroutine)


def message(number, *blocks, role=None):
    content = list(blocks) or [{"text": f"m{number}"}]
    return {"role": role or ("assistant" if number % 2 else "user"), "content": content}


def snapshot(messages, **data):
    """Give a snapshot as Strands writes it."""
    whole = {
        "scope": "agent",
        "schema_version": "1.0",
        "created_at": "2026-12-01T12:00:00Z",
        "data": {"messages": messages, "state": {}, "system_prompt": "Be brief.", **data},
        "app_data": {},
    }
    return json.dumps(whole, ensure_ascii=False).encode()


@pytest.fixture(params=["theirs, memory", "theirs, files", "memory", "sqlite", "postgres"])
def either(request, tmp_path):
    """Strands' own storages, or ours."""
    if request.param.startswith("theirs"):
        yield InMemoryStorage() if "memory" in request.param else LocalFileStorage(str(tmp_path / "files"))
        return
    with everlog.open(address(request.param, tmp_path / "store")) as store:
        yield EverlogStorage(store)


@pytest.fixture(params=["sqlite", "postgres"])
def ours(request, tmp_path):
    with everlog.open(address(request.param, tmp_path / "store")) as store:
        yield EverlogStorage(store)


# --- the protocol, sentence by sentence --------------------------------------------------------------
VALUES = [
    b"",
    b"\x00\xff",
    b"plain",
    b"{}",
    b"[]",
    b'{"a": 1, "a": 2}',
    b'{"n": NaN}',
    b'{"b":1}',
    snapshot([]),
    snapshot([message(0)]),
]


@pytest.mark.parametrize(
    "key",
    ["k", "a/b c/ü.json", LATEST, kept(1), f"{AT}x", "session/s/scopes/multiAgent/g/snapshots/snapshot_latest.json"],
)
def test_bytes_are_read_as_they_were_written(either, key):
    for value in VALUES:
        for each in (value, value + b" ", value):
            run(either.write(key, each))
            assert run(either.read(key)) == each


def test_a_missing_key_reads_as_none_and_is_deleted_without_an_error(either):
    for key in ("k", LATEST, kept(1)):
        assert run(either.read(key)) is None
        run(either.delete(key))
        run(either.write(key, b"{}"))
        run(either.delete(key))
        run(either.delete(key))
        assert run(either.read(key)) is None
        run(either.write(key, b"1"))
        assert run(either.read(key)) == b"1"
        run(either.delete(key))
    assert run(either.list("")) == []


def test_keys_are_listed_whole_by_their_beginning_and_in_order(either):
    keys = ["b", "a/z", "a/b/c", LATEST, kept(2), kept(1), "session/s2/x", "session/s/other", "a.b"]
    for key in keys:
        run(either.write(key, b"{}"))
    prefixes = [
        "",
        "a",
        "a/",
        "session/s/",
        "session/s",
        AT,
        f"{AT}immutable_history/",
        f"{AT}imm",
        "session/s/scopes/agent/a/sn",
        "nothing",
    ]
    for prefix in prefixes:
        assert run(either.list(prefix)) == sorted(key for key in keys if key.startswith(prefix)), prefix
    run(either.delete(LATEST))
    run(either.delete(kept(1)))
    assert run(either.list(AT)) == [kept(2)]


def test_a_key_that_no_session_is_named_by_is_listed_once(ours):
    keys = ["s\n", "sha256-0", "sha256-0/" + "x" * 300, "shack"]
    for key in keys:
        run(ours.write(key, b"{}"))
    for prefix in ("", "s", "sh", "sha256-", "sha256-0"):
        assert run(ours.list(prefix)) == [key for key in keys if key.startswith(prefix)], prefix


def test_an_empty_key_and_what_is_no_bytes_are_refused(either):
    with pytest.raises(StorageError):
        run(either.write("", b"x"))
    with pytest.raises((StorageError, TypeError)):
        run(either.write("k", "text"))
    run(either.write("k", bytearray(b"x")))
    assert run(either.read("k")) == b"x"


def test_words_are_found(either):
    if not hasattr(Storage, "search"):
        pytest.skip("this version of Strands searches no storage")
    run(either.write("one", b"apples and pears"))
    run(either.write("two", b"nothing of the kind"))
    assert [each.key for each in run(either.search("pears"))] == ["one"]


# --- snapshots, to the byte --------------------------------------------------------------------------
texts = st.text(max_size=8)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
results = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["success", "error"]),
        "toolUseId": texts,
        "content": st.lists(
            st.fixed_dictionaries({"text": texts}) | st.fixed_dictionaries({"json": values}), max_size=2
        ),
    }
)


def shuffled(values):
    """Give objects with their members in any order."""
    return values.flatmap(lambda value: st.permutations(list(value.items())).map(dict))


blocks = st.one_of(
    st.fixed_dictionaries({"text": texts}),
    st.fixed_dictionaries(
        {"toolUse": shuffled(st.fixed_dictionaries({"toolUseId": texts, "name": texts, "input": values}))}
    ),
    st.fixed_dictionaries({"toolResult": shuffled(results)}),
    st.fixed_dictionaries(
        {
            "reasoningContent": st.fixed_dictionaries(
                {"reasoningText": shuffled(st.fixed_dictionaries({"text": texts, "signature": texts}))}
            )
        }
    ),
    st.dictionaries(texts, values, max_size=3),
)
messages = shuffled(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant"]), "content": st.lists(blocks, max_size=3)},
        optional={"metadata": values},
    )
)
anything = messages | values


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(anything, max_size=5), values, st.sampled_from([LATEST, kept(1), kept(2), "k"])),
        min_size=1,
        max_size=5,
    )
)
def test_any_snapshots_are_read_to_the_byte(saves):
    with everlog.open(":memory:") as store:
        storage = EverlogStorage(store)
        last = {}
        for number, (said, state, key) in enumerate(saves):
            last[key] = snapshot(said, state=state)
            run(storage.write(key, last[key]))
            if number == 1:
                storage = EverlogStorage(store)  # which knows nothing of it yet
            assert {key: run(storage.read(key)) for key in last} == last
        assert {key: run(EverlogStorage(store).read(key)) for key in last} == last
        assert run(storage.list("")) == sorted(last)


def odd_json():
    """Give JSON that the log cannot say as it is, or only just, each where a message and where the state holds it."""
    odd = [
        "NaN",
        "1e400",
        "-0.0",
        "1E5",
        "1" * 5_000,
        '"\\ud800"',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        '{"a": 1, "a": 1}',
        '"\\u00e9"',
    ]
    odd += [f"{'[' * depth}1{']' * depth}" for depth in [*range(52, 68), 1_000, 100_000]]
    for each in odd:
        value = each if isinstance(each, bytes) else each.encode()
        yield b'{"a": ' + value + b"}"
        for where in [
            b'[], "state": %s',
            b"[%s]",
            b'[{"role": "user", "content": [{"n": %s}]}]',
            b'[{"content": [{"n": %s}], "role": "user"}]',
            b'[{"role": "user", "content": [{"text": "a"}], "metadata": %s}]',
            b'[{"role": "user", "content": [{"toolUse": {"toolUseId": "", "name": "", "input": %s, "more": 1}}]}]',
            b'[{"role": "user", "content": [{"toolResult": {"status": "error", "toolUseId": "", "content": [{"json": %s}]}}]}]',
        ]:
            yield b'{"data": {"messages": ' + where % value + b"}}"


def test_what_the_log_cannot_say_is_read_to_the_byte():
    with everlog.open("memory:") as store:
        storage = EverlogStorage(store)
        for number, data in enumerate(odd_json()):
            for key in (LATEST, f"k{number}"):
                run(storage.write(key, data))
                assert run(EverlogStorage(store).read(key)) == data, (key, data[:200])


def test_a_message_that_its_events_say_at_more_length_than_the_store_takes_is_kept():
    result = {"toolUseId": "", "status": "error", "content": [{"text": ""}] * 400}
    data = snapshot([message(0, {"toolResult": result})])
    for most in range(5_000, 16_000, 250):
        with everlog.open("memory:", body_bytes_max=most) as store:
            run(EverlogStorage(store).write(LATEST, data))
            assert run(EverlogStorage(store).read(LATEST)) == data


lists = st.lists(st.integers(0, 6), max_size=12)


@settings(max_examples=300, deadline=None)
@given(st.lists(lists, min_size=1, max_size=5))
def test_conversations_that_are_cut_repeated_and_put_otherwise_are_read_to_the_byte(conversations):
    with everlog.open(":memory:") as store:
        storage = EverlogStorage(store)
        for conversation in conversations:
            data = snapshot([message(number) for number in conversation])
            run(storage.write(LATEST, data))
            assert run(storage.read(LATEST)) == data
            assert run(EverlogStorage(store).read(LATEST)) == data


def test_each_message_is_recorded_once(ours):
    said = [message(number) for number in range(6)]
    run(ours.write(LATEST, snapshot(said)))
    for changed in (said[2:], [message(9), *said[3:]], [message(9), *said[4:]], said[4:], [*said[4:], message(7)]):
        run(ours.write(LATEST, snapshot(changed)))
        assert run(ours.read(LATEST)) == snapshot(changed)
    shown = [event.data["content"] for event in ours.session(LATEST).events(types=("user.message", "agent.message"))]
    assert shown == ["m0", "m1", "m2", "m3", "m4", "m5", "m9", "m7"]


def test_what_is_said_twice_is_recorded_twice(ours):
    said = [message(0), message(1), message(0), message(1)]
    run(ours.write(LATEST, snapshot(said[:2])))
    run(ours.write(LATEST, snapshot(said)))
    assert ours.session(LATEST).count(types=("user.message", "agent.message")) == 4


def test_a_save_says_what_changed_alone(ours):
    run(ours.write(LATEST, snapshot([message(0)], system_prompt="x" * 10_000)))
    before = ours.session(LATEST).head.size
    run(ours.write(LATEST, snapshot([message(0), message(1)], system_prompt="x" * 10_000, state={"n": 1})))
    said, save = ours.session(LATEST).events(start=before)
    assert (said.type, save.type) == ("agent.message", "state.patch")
    assert len(save.raw) < 300


def test_a_first_snapshot_may_be_longer_than_an_append(ours):
    data = snapshot([message(number) for number in range(11_000)])
    run(ours.write(LATEST, data))
    assert run(EverlogStorage(ours.store).read(LATEST)) == data


# --- with Strands' own manager -----------------------------------------------------------------------
def manager_in(storage, session="s", **named):
    module = pytest.importorskip("strands.session.snapshot_session_manager", reason="Strands has it from 1.51 on")
    return module.SnapshotSessionManager(session, storage=storage, **named)


def agent_in(storage, session="s", *, conversation_manager=None, **named):
    manager = manager_in(storage, session, **named)
    return Agent(
        agent_id="a",
        model=ScriptedModel(),
        tools=[multiply],
        session_manager=manager,
        conversation_manager=conversation_manager,
        callback_handler=None,
    )


def test_an_agent_goes_on_where_it_ended_as_with_their_own(ours):
    theirs = InMemoryStorage()
    for _ in range(3):
        one, other = agent_in(ours), agent_in(theirs)
        assert str(one("What is 6 times 7?")) == str(other("What is 6 times 7?"))
    assert len(one.messages) == 12
    session = ours.session(LATEST)
    assert session.count(types="agent.tool_use") == session.count(types="agent.tool_result") == 3
    assert len(session.state("messages").value) == 9  # a result is its tool's
    assert session.last("agent.message").actor == "a"
    assert [info.id for info in ours.store.sessions("label.framework:strands")] == [session.id]
    assert session.verify().ok
    assert run(ours.list("session/s/")) == run(theirs.list("session/s/")) == [LATEST]


def test_kept_snapshots_are_listed_restored_and_deleted_with_their_session(ours):
    agent = agent_in(ours, snapshot_trigger=lambda **_: True)
    agent("What is 6 times 7?")
    agent("And again?")
    manager = manager_in(ours)
    first, second = run(manager.list_snapshot_ids(agent))
    assert run(manager.restore_snapshot(agent, snapshot_id=first))
    assert len(agent.messages) == 4
    agent("Another way?")
    assert run(manager.restore_snapshot(agent, snapshot_id=second))
    assert agent.messages[4]["content"] == [{"text": "And again?"}]
    assert run(manager.restore_snapshot(agent))
    assert agent.messages[4]["content"] == [{"text": "Another way?"}]
    run(manager.delete_session())
    assert run(ours.list("")) == []
    assert not ours.store.sessions()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)])
def test_values_of_one_agent_are_deleted_in_any_order_and_all_is_destroyed_with_the_last(ours, order):
    keys = [LATEST, kept(1), kept(2), kept(3)]
    for number, key in enumerate(keys):
        run(ours.write(key, snapshot([message(number)])))
    left = set(keys)
    for number in order:
        assert len(ours.store.sessions()) == 1
        run(ours.delete(keys[number]))
        left.remove(keys[number])
        assert run(ours.list("")) == sorted(left)
        assert {key for key in keys if run(ours.read(key)) is not None} == left
    assert not ours.store.sessions()


def test_a_window_and_its_state_go_on(ours):
    for _ in range(4):
        agent = agent_in(ours, conversation_manager=SlidingWindowConversationManager(window_size=4))
        agent("What is 6 times 7?")
    assert len(agent.messages) == 4
    assert agent.conversation_manager.removed_message_count == 12
    assert ours.session(LATEST).count(keys="message:*") == 16  # the log has what the window let go


def test_a_graph_goes_on(ours):
    def make():
        builder = GraphBuilder()
        builder.add_node(
            Agent(agent_id="n", name="n", model=ScriptedModel(), tools=[multiply], callback_handler=None), "only"
        )
        builder.set_session_manager(manager_in(ours, "g"))
        builder.set_graph_id("graph")
        builder.set_max_node_executions(5)
        return builder.build()

    make()("What is 6 times 7?")
    key = "session/g/scopes/multiAgent/graph/snapshots/snapshot_latest.json"
    first = json.loads(run(ours.read(key)))
    assert first["scope"] == "multiAgent"
    make()("And again?")
    assert json.loads(run(ours.read(key)))["data"] != first["data"]


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from strands import Agent, tool
from strands.session.snapshot_session_manager import SnapshotSessionManager
from strands_agent import ScriptedModel
from everlog.integrations.strands_storage import EverlogStorage

@tool
def multiply(one: int, other: int) -> str:
    "Multiply two numbers."
    os.kill(os.getpid(), signal.SIGKILL)

manager = SnapshotSessionManager("s", storage=EverlogStorage(sys.argv[2]), save_latest_on="message")
Agent(agent_id="a", model=ScriptedModel(), tools=[multiply], session_manager=manager, callback_handler=None)("What is it?")
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_an_agent_that_is_killed_in_a_tool_goes_on_with_all_it_said(kind, tmp_path):
    place = address(kind, tmp_path / "store")
    manager_in(InMemoryStorage())  # or this is skipped
    killed = subprocess.run([sys.executable, "-c", KILLED, str(EXAMPLES), place], check=False, timeout=60)
    assert killed.returncode == -9
    storage = EverlogStorage(place)
    agent = agent_in(storage, save_latest_on="message")
    assert [each["role"] for each in agent.messages] == ["user", "assistant"]
    assert "toolUse" in agent.messages[-1]["content"][0]
    assert "It is" in str(agent("Are you there?"))
    uses = [b["toolUse"]["toolUseId"] for m in agent.messages for b in m["content"] if "toolUse" in b]
    results = [b["toolResult"]["toolUseId"] for m in agent.messages for b in m["content"] if "toolResult" in b]
    assert sorted(uses) == sorted(results)
    assert storage.store.verify().ok
    storage.close()


# --- what ours adds --------------------------------------------------------------------------------------
def race(place, writer):
    storage = EverlogStorage(place)
    for number in range(20):
        asyncio.run(storage.write(LATEST, snapshot([message(0), message(0, {"text": f"{writer}-{number}"})])))
    storage.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_two_processes_on_one_agent_lose_nothing(kind, tmp_path):
    place = address(kind, tmp_path / "store")
    with everlog.open(place) as store:
        spawn = multiprocessing.get_context("spawn")
        racers = [spawn.Process(target=race, args=(place, writer)) for writer in range(2)]
        for each in racers:
            each.start()
        for each in racers:
            each.join(60)
            assert each.exitcode == 0
        storage = EverlogStorage(store)
        session = storage.session(LATEST)
        said = {event.data["content"] for event in session.events(types="user.message")}
        assert {f"{writer}-{number}" for writer in range(2) for number in range(20)} <= said
        last = json.loads(run(storage.read(LATEST)))["data"]["messages"][-1]["content"][0]["text"]
        assert last in ("0-19", "1-19")
        saves = [event.position + 1 for event in session.events(types=("state.set", "state.patch"))]
        assert len({run(storage.read(LATEST, at=cut)) for cut in saves}) == 40
        assert session.verify().ok


def test_what_another_recorded_too_is_not_taken_for_ones_own(ours, monkeypatch):
    monkeypatch.setattr("everlog.integrations.strands_storage._APPENDED_MAX", 2)
    other = EverlogStorage(ours.store)
    run(ours.write(LATEST, snapshot([], system_prompt="x" * 1_000, state={"one": 0, "other": 0})))
    run(other.write(kept(1), b"knows all of it"))
    run(ours.write(LATEST, snapshot([message(0), message(1)], system_prompt="x" * 1_000, state={"one": 1, "other": 0})))
    data = snapshot([message(0), message(1), message(2)], system_prompt="x" * 1_000, state={"one": 0, "other": 2})
    run(other.write(LATEST, data))
    assert run(other.read(LATEST)) == run(EverlogStorage(ours.store).read(LATEST)) == data


def test_a_session_that_is_deleted_while_it_is_looked_at_is_made_again(ours, monkeypatch):
    run(EverlogStorage(ours.store).write(LATEST, b"{}"))
    refresh = Session.refresh

    def deleted(self):
        monkeypatch.setattr(Session, "refresh", refresh)
        run(EverlogStorage(ours.store).delete(LATEST))
        return refresh(self)

    monkeypatch.setattr(Session, "refresh", deleted)
    run(ours.write(LATEST, b"[]"))
    assert run(ours.read(LATEST)) == b"[]"


def test_what_is_rewound_while_it_is_looked_at_is_read_as_it_was_and_written_anew(ours, monkeypatch):
    known = strands_storage._known
    other = EverlogStorage(ours.store)
    values = [snapshot([message(number) for number in range(count)]) for count in (2, 4, 3)]
    for value in values[:2]:
        run(other.write(LATEST, value))

    def rewound(*given):
        monkeypatch.setattr(strands_storage, "_known", known)
        other.session(LATEST).rewind(3)
        run(other.write(LATEST, values[2]))
        return known(*given)

    monkeypatch.setattr(strands_storage, "_known", rewound)
    assert run(EverlogStorage(ours.store).read(LATEST)) == values[1]
    assert run(ours.read(LATEST)) == values[2]
    monkeypatch.setattr(strands_storage, "_known", rewound)
    run(EverlogStorage(ours.store).write(LATEST, values[1]))
    assert run(ours.read(LATEST)) == values[1]


def test_the_save_that_is_begun_last_is_the_latest():
    async def saved_at_once(storage):
        for number in range(400):
            values = [b'{"n": %d}' % (number * 20 + each) for each in range(20)]
            await asyncio.gather(*(storage.write("k", value) for value in values))
            assert await storage.read("k") == values[-1]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads overtake each other
    try:
        with everlog.open("memory:") as store:
            run(saved_at_once(EverlogStorage(store)))
    finally:
        sys.setswitchinterval(interval)


def test_many_tasks_save_at_once(ours):
    async def all_at_once():
        await asyncio.gather(
            *(
                ours.write(key, snapshot([message(number)]))
                for number in range(10)
                for key in (LATEST, kept(number), "k")
            )
        )
        found = await asyncio.gather(*(ours.read(kept(number)) for number in range(10)))
        await asyncio.gather(*(ours.delete(key) for key in await ours.list("")))
        return found

    assert run(all_at_once()) == [snapshot([message(number)]) for number in range(10)]
    assert run(ours.list("")) == []
    assert not ours.store.sessions()


def test_a_value_is_read_as_it_was_at_any_place(ours):
    saves = [snapshot([message(number) for number in range(count)], state={"n": count}) for count in (1, 3, 2, 5)]
    cuts = [(run(ours.write(LATEST, each)), ours.session(LATEST).head.size)[1] for each in saves]
    assert [run(ours.read(LATEST, at=cut)) for cut in cuts] == saves
    assert run(ours.read(LATEST, at=0)) is None
    with pytest.raises(StorageError, match="no-such-checkpoint"):
        run(ours.read(LATEST, at="no-such-checkpoint"))


def test_a_document_that_somebody_else_changed_keeps_nobody_from_saving(ours):
    first = snapshot([message(0), message(1)])
    run(ours.write(LATEST, first))
    for messages in ([[0, 10**15]], [[1, 1], [7, 2]], [[-1, 2]], "none", [[0]]):
        ours.session(LATEST).append("state.set", {"path": "/data/messages", "value": messages})
        assert run(EverlogStorage(ours.store).read(LATEST)) == first
        for storage in (ours, EverlogStorage(ours.store)):
            run(storage.write(LATEST, first))
            assert run(EverlogStorage(ours.store).read(LATEST)) == first


def test_a_rewind_takes_an_agent_back(ours):
    run(ours.write(LATEST, snapshot([message(0), message(1)])))
    session = ours.session(LATEST)
    cut = session.head.size
    run(ours.write(LATEST, snapshot([message(0), message(1), message(2)])))
    session.rewind(cut)
    assert run(ours.read(LATEST)) == snapshot([message(0), message(1)])
    run(ours.write(LATEST, snapshot([message(0), message(1), message(5)])))
    assert (
        run(ours.read(LATEST))
        == run(EverlogStorage(ours.store).read(LATEST))
        == snapshot([message(0), message(1), message(5)])
    )


@pytest.mark.parametrize("odd", [None, b"no JSON"])
def test_a_fork_has_the_value_and_goes_its_own_way(ours, odd):
    first, second = snapshot([message(0)]), odd or snapshot([message(0), message(1)])
    run(ours.write(LATEST, first))
    cut = ours.session(LATEST).head.size
    run(ours.write(kept(1), second))
    other = LATEST.replace("/s/", "/other/")
    ours.fork(kept(1), other)
    assert run(ours.read(other)) == second
    run(ours.write(other, snapshot([message(7)])))
    assert run(ours.read(LATEST)) == first
    assert run(ours.read(kept(1))) == second
    ours.fork(LATEST, "earlier", at=cut)
    assert run(ours.read("earlier")) == first
    with pytest.raises(SessionExistsError):
        ours.fork(LATEST, other)
    with pytest.raises(NotFoundError):
        ours.fork("nothing", "new")
    with pytest.raises(NotFoundError):
        ours.fork(LATEST, kept(5))
    for key in (LATEST, kept(1), "earlier"):
        run(ours.delete(key))
    assert run(ours.list("")) == [kept(1).replace("/s/", "/other/"), other]
    assert run(ours.read(other)) == snapshot([message(7)])
    assert run(ours.read(kept(1).replace("/s/", "/other/"))) == second


def test_an_interrupted_save_of_many_messages_is_made_good_by_the_next(ours, monkeypatch):
    said = [message(number) for number in range(6_000)]
    extend = Session.extend

    def once(self, events, **named):
        monkeypatch.setattr(Session, "extend", broken)
        return extend(self, events, **named)

    def broken(self, events, **named):
        raise UnavailableError("the power went")

    with monkeypatch.context() as monkeypatch:
        monkeypatch.setattr(Session, "extend", once)
        with pytest.raises(StorageError, match="the power went"):
            run(ours.write(LATEST, snapshot(said)))
    assert run(ours.read(LATEST)) is None
    other = snapshot([message(1), *said[:10]])
    for storage in (ours, EverlogStorage(ours.store)):
        run(storage.write(LATEST, other))
        assert run(storage.read(LATEST)) == other


def test_what_is_erased_says_so_and_the_rest_stays(ours):
    run(ours.write(LATEST, snapshot([message(0), message(1), message(2)])))
    session = ours.session(LATEST)
    session.erase([1], reason="asked for")
    read = json.loads(run(ours.read(LATEST)))["data"]["messages"]
    assert [each["content"][0]["text"] for each in read] == ["m0", "[erased]", "m2"]
    run(ours.write(LATEST, snapshot([*read, message(3)])))
    assert json.loads(run(EverlogStorage(ours.store).read(LATEST)))["data"]["messages"][3] == message(3)
    session = ours.session(LATEST)
    session.erase([session.last(("state.set", "state.patch")).position], reason="asked for")
    assert json.loads(run(EverlogStorage(ours.store).read(LATEST)))["data"]["messages"] == read[:3]


@pytest.mark.parametrize("warm_by", ["write", "read"])
def test_a_save_after_what_was_saved_was_erased_is_whole(ours, warm_by):
    said = [message(0)]
    for number in range(3):
        run(ours.write(LATEST, snapshot(said, state={"n": number, "long": "x" * 2_000})))
    warm = ours if warm_by == "write" else EverlogStorage(ours.store)
    run(warm.read(LATEST))
    session = ours.session(LATEST)
    session.erase([event.position for event in session.events(types=("state.set", "state.patch"))], reason="old")
    run(warm.write(LATEST, snapshot(said, state={"n": 3, "long": "x" * 2_000})))
    assert run(EverlogStorage(ours.store).read(LATEST)) == snapshot(said, state={"n": 3, "long": "x" * 2_000})


def test_what_is_remembered_of_agents_is_bounded_by_bytes(ours, monkeypatch):
    monkeypatch.setattr(strands_storage, "_SEEN_BYTES_MAX", 100_000)
    for number in range(5):
        run(ours.write(f"k{number}", json.dumps({"long": "x" * 10_000}).encode()))
    assert list(ours._seen) == ["strands-storage/k3", "strands-storage/k4"]
    run(ours.write("k5", json.dumps({"long": "x" * 200_000}).encode()))
    assert list(ours._seen) == ["strands-storage/k5"]


def test_an_agent_that_another_holds_is_not_saved(ours):
    run(ours.write(LATEST, b"{}"))
    with ours.store.wake(ours.session(LATEST).id, holder="another") as woken:
        with pytest.raises(StorageError) as refused:
            run(ours.write(LATEST, snapshot([message(0)])))
        assert isinstance(refused.value.__cause__, FencedError)
        holding = EverlogStorage(ours.store, lease=woken.lease)
        run(holding.write(LATEST, snapshot([message(1)])))
    assert run(ours.read(LATEST)) == snapshot([message(1)])
    with_lease = EverlogStorage(ours.store, lease="worker")
    run(with_lease.write(LATEST, snapshot([message(2)])))
    run(with_lease.write(kept(1), snapshot([message(2)])))
    assert ours.store.leases()[0].holder == "worker"
    with_lease.close()
    assert not ours.store.leases()


def test_a_store_that_redacts_keeps_no_secret(tmp_path):
    secret = TOKENS["github-token"](drawn(1))
    with everlog.open(tmp_path / "s.db", redact="redact") as store:
        storage = EverlogStorage(store)
        run(storage.write(LATEST, snapshot([message(0, {"text": f"my key {secret}"})], state={"k": secret})))
        assert secret.encode() not in run(storage.read(LATEST))
        run(
            storage.write(LATEST, snapshot([message(0, {"text": f"my key {secret}"}), message(1)], state={"k": secret}))
        )
        assert json.loads(run(EverlogStorage(store).read(LATEST)))["data"]["messages"][1] == message(1)


def test_a_value_beyond_what_the_store_takes_is_refused_and_the_one_before_stays(ours):
    run(ours.write(LATEST, b"{}"))
    with pytest.raises(StorageError) as refused:
        run(ours.write(LATEST, b"x" * (65 * 1024 * 1024)))
    assert isinstance(refused.value.__cause__, LimitError)
    assert run(ours.read(LATEST)) == b"{}"


def test_the_example_goes_on_where_it_ended(tmp_path):
    manager_in(InMemoryStorage())  # or this is skipped
    words = [sys.executable, "-W", "error", str(EXAMPLES / "strands_snapshots.py"), str(tmp_path / "s.db")]
    said = [subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout for _ in range(2)]
    assert said[0].startswith("It is 42; I was shown 3 messages.")
    assert ": 1 saves, " in said[0]
    assert said[0].endswith("; 0 bytes before this run\n")
    assert said[1].startswith("It is 42; I was shown 7 messages.")
    assert ": 2 saves, " in said[1]
