"""LangGraph's checkpoints in Everlog: its makers' checks, the same calls beside their own saver, and the conversation."""

import asyncio
import importlib.metadata
import importlib.util
import random
import sqlite3

import pytest

pytest.importorskip("langgraph.checkpoint.conformance", reason="langgraph-checkpoint-conformance is not installed")
pytest.importorskip("langgraph.graph", reason="langgraph is not installed")

from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Interrupt, Send, interrupt

import databases
import everlog
from everlog.integrations.langgraph import EverlogSaver
from everlog.integrations.langgraph_codec import Unsayable, from_json, pack, pack_message, to_json, unpack

KINDS = ["sqlite", "postgres"]


class BySync(EverlogSaver):
    """The sync methods, where the makers' checks call the async ones."""

    async def aget_tuple(self, *args, **named):
        return self.get_tuple(*args, **named)

    async def alist(self, *args, **named):
        for each in self.list(*args, **named):
            yield each

    async def aput(self, *args, **named):
        return self.put(*args, **named)

    async def aput_writes(self, *args, **named):
        return self.put_writes(*args, **named)

    async def adelete_thread(self, *args, **named):
        return self.delete_thread(*args, **named)

    async def adelete_for_runs(self, *args, **named):
        return self.delete_for_runs(*args, **named)

    async def acopy_thread(self, *args, **named):
        return self.copy_thread(*args, **named)

    async def aprune(self, *args, **named):
        return self.prune(*args, **named)


@pytest.fixture(params=KINDS)
def address(request, tmp_path):
    return databases.address(request.param, tmp_path)


@pytest.mark.parametrize("kind", [EverlogSaver, BySync])
def test_the_makers_checks_pass_all_that_they_detect(address, kind):
    @checkpointer_test(name="EverlogSaver")
    async def ours():
        async with kind(address) as saver:
            yield saver

    report = asyncio.run(validate(ours))
    failures = {name: result.failures for name, result in report.results.items() if result.failures}
    assert failures == {}
    assert report.passed_all()
    assert sum(result.tests_passed for result in report.results.values()) >= 81


# --- beside their own saver ----------------------------------------------------------------------
def simple(saver, config=None, **named):
    """What a saver lists, as plain values that compare."""
    return [
        (each.config["configurable"], each.checkpoint, each.metadata, each.parent_config, each.pending_writes)
        for each in saver.list(config, **named)
    ]


def config_of(thread, namespace, checkpoint_id):
    return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}}


def drive(savers, seed, *, reopen):
    """Put the same random checkpoints and writes into savers; lists grow, shrink and change on the way."""
    draw = random.Random(seed)
    places = {}
    lists = {}
    for step in range(60):
        thread, namespace = draw.choice(["a", "b"]), draw.choice(["", "", "child:1"])
        place = (thread, namespace)
        made = places.setdefault(place, [])
        parent = draw.choice(made) if made and draw.random() < 0.2 else (made[-1] if made else None)
        messages = lists.setdefault(place, [])
        match draw.random():
            case chance if chance < 0.6:
                messages.append(AIMessage(f"text {step}", id=f"m{step}"))
                messages.append(
                    draw.choice(
                        [
                            HumanMessage(f"human {step}"),
                            {"role": "user", "content": "x"},
                            ("user", "y"),
                            step,
                            None,
                            b"z",
                        ]
                    )
                )
            case chance if chance < 0.7 and messages:
                messages.pop(draw.randrange(len(messages)))
            case chance if chance < 0.8 and messages:
                messages[draw.randrange(len(messages))] = ToolMessage(f"changed {step}", tool_call_id="c")
            case chance if chance < 0.85:
                messages.clear()
            case _:
                draw.shuffle(messages)
        late = draw.random() < 0.1
        checkpoint = empty_checkpoint() | {
            "id": f"{0 if late else 1}{step:06}",
            "channel_values": {
                "messages": list(messages),
                "n": step,
                "same": {"k": [1, 2]},
                "odd": {1: {"$b": float(step)}},
            },
            "channel_versions": {"messages": step + 1, "n": step + 1, "same": 1},
        }
        config = {"configurable": {"thread_id": thread, "checkpoint_ns": namespace}}
        if parent:
            config["configurable"]["checkpoint_id"] = parent
        made.append(checkpoint["id"])
        stored = {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": draw.choice(made)}}
        writes = [
            ("messages", [HumanMessage(f"w{step}")]),
            ("n", step),
            ("__interrupt__", (Interrupt(value="q", id="i"),)),
        ][: draw.randrange(4)]
        task = f"task{draw.randrange(3)}"
        for number, saver in enumerate(savers):
            if step % 7 == 6:  # before the checkpoint that it belongs to
                saver.put_writes(
                    config_of(thread, namespace, checkpoint["id"]), [("n", 1), ("m", [AIMessage("early")])], task
                )
            saver.put(config, checkpoint, {"source": "loop", "step": step, "run_id": f"r{step % 3}"}, {"n": step + 1})
            saver.put_writes(stored, writes, task, f"path{step % 4}")
            saver.put_writes(stored, [("__resume__", step)], task, "p")
            if step % 9 == 8:  # the same checkpoint again, changed
                saver.put(config, checkpoint | {"channel_values": {"n": -step}}, {"source": "fork", "step": step}, {})
            if number and draw.random() < 0.1:
                savers[number] = reopen(saver)
    return places


@pytest.mark.skipif(
    not hasattr(SqliteSaver, "_has_task_path"),
    reason="this SqliteSaver gives writes in another order: by task, not by its path",
)
@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_put_reads_back_as_from_their_own_saver(tmp_path, seed):
    def reopen(saver):
        saver.close()
        return EverlogSaver(tmp_path / "ours.db")

    connection = sqlite3.connect(tmp_path / "theirs.db", check_same_thread=False)
    savers = [SqliteSaver(connection), EverlogSaver(tmp_path / "ours.db")]
    places = drive(savers, seed, reopen=reopen)
    theirs, ours = savers
    for (thread, namespace), ids in places.items():
        config = {"configurable": {"thread_id": thread, "checkpoint_ns": namespace}}
        assert simple(ours, config) == simple(theirs, config)
        assert simple(ours, config, limit=3, before={"configurable": {"checkpoint_id": ids[-2 % len(ids)]}}) == simple(
            theirs, config, limit=3, before={"configurable": {"checkpoint_id": ids[-2 % len(ids)]}}
        )
        assert simple(ours, config, filter={"run_id": "r1"}) == simple(theirs, config, filter={"run_id": "r1"})
        for id in ids:
            one = {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": id}}
            assert ours.get_tuple(one)[1:] == theirs.get_tuple(one)[1:]
    ids = [each[1]["id"] for each in simple(ours)]
    assert ids == sorted(ids, reverse=True) == [each[1]["id"] for each in simple(theirs)]
    ours.close()
    connection.close()


VALUES = [
    HumanMessage("hi", name="bob"),
    AIMessage(
        "x",
        id="1",
        tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    ),
    AIMessage(
        "",
        id="1",
        tool_calls=[{"name": "f", "args": {"a": float(1)}, "id": "c"}, {"name": "g", "args": {}, "id": None}],
    ),
    AIMessage(
        [{"type": "text", "text": "q"}, {"type": "tool_use", "id": "c", "name": "f", "input": {}}],
        tool_calls=[{"name": "f", "args": {}, "id": "c"}],
    ),
    ToolMessage("r", tool_call_id="c", status="error", artifact={"k": 1}),
    SystemMessage("s", additional_kwargs={"k": True}),
    RemoveMessage(id="x"),
    Send("node", {"a": [HumanMessage("inside")]}),
    {1: 2, "$a": 3, (1, 2): 4},
    {1, 2},
    [b"x", 1.0, True, None, 2**63],
    ("user", "hi"),
    {"role": "assistant", "content": "x"},
    {"$m": 1},
    {"content": "x", "role": "user"},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value)[:30])
def test_json_of_a_value_gives_the_serializers_bytes_again(value):
    _, data = JsonPlusSerializer().dumps_typed(value)
    kept = []

    def record(message):
        kept.append(message)
        return len(kept) - 1

    tree = to_json(unpack(data), record)
    assert pack(from_json(tree, lambda at: pack_message(kept[at].parts, kept[at].native))) == data


def test_what_json_does_not_say_is_kept_as_bytes(tmp_path):
    with pytest.raises(Unsayable):
        to_json(float("nan"), lambda _: None)
    deep = value = {}
    for _ in range(100):
        value["k"] = {}
        value = value["k"]
    with EverlogSaver(tmp_path / "s.db") as saver:
        put(saver, {"deep": deep, "big": "x" * 400_000, "bytes": b"\x00" * 400_000, "list": ["y" * 300_000]})
    with EverlogSaver(tmp_path / "s.db") as saver:
        assert saver.get_tuple(thread("t")).checkpoint["channel_values"] == {
            "deep": deep,
            "big": "x" * 400_000,
            "bytes": b"\x00" * 400_000,
            "list": ["y" * 300_000],
        }


def thread(name, checkpoint_id=None, namespace=""):
    named = {"thread_id": name, "checkpoint_ns": namespace}
    return {"configurable": named | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}


def put(saver, values, name="t", parent=None):
    checkpoint = empty_checkpoint() | {"id": str(uuid6()), "channel_values": values}
    return saver.put(thread(name, parent), checkpoint, {"source": "loop", "step": 1}, {})


# --- graphs --------------------------------------------------------------------------------------
def build(saver, **named):
    def agent(state):
        number = len(state["messages"])
        return {
            "messages": [
                AIMessage(f"answer {number}", tool_calls=[{"name": "look", "args": {"n": number}, "id": f"c{number}"}])
            ]
        }

    def tools(state):
        call = state["messages"][-1].tool_calls[0]
        return {"messages": [ToolMessage(f"found {call['args']['n']}", tool_call_id=call["id"])]}

    graph = StateGraph(MessagesState).add_node("agent", agent).add_node("tools", tools)
    return (
        graph.add_edge(START, "agent")
        .add_edge("agent", "tools")
        .add_edge("tools", END)
        .compile(checkpointer=saver, **named)
    )


def texts(state):
    return [message.content for message in state.values["messages"]]


def test_a_thread_may_be_named_by_a_number_as_with_their_saver(address):
    with EverlogSaver(address) as saver:
        build(saver).invoke({"messages": [("user", "first")]}, thread(7))
        assert saver.session(7).id == "7"


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_thread_reads_as_a_conversation_in_its_order(address, durability):
    with EverlogSaver(address) as saver:
        graph = build(saver)
        for question in ("first", "second", "first"):
            graph.invoke({"messages": [("user", question)]}, thread("t"), durability=durability)
        session = saver.session("t")
        said = [
            (each["role"], [block["type"] for block in each["content"]]) for each in session.state("messages").value
        ]
        assert said == [("user", ["text"]), ("assistant", ["text", "tool_use"])] * 3
        uses = [
            block
            for each in session.state("messages").value
            for block in each["content"]
            if block["type"] == "tool_use"
        ]
        assert [use["result"]["content"][0]["text"] for use in uses] == ["found 1", "found 4", "found 7"]
        assert [hit.event.type for hit in session.search("second").hits] == ["user.message"]
        assert len(list(graph.get_state_history(thread("t")))) == (12 if durability != "exit" else 3)
        assert session.verify().ok
        assert texts(graph.get_state(thread("t")))[:3] == ["first", "answer 1", "found 1"]


def test_a_thread_goes_on_in_another_process_and_in_a_fork(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver:
        build(saver).invoke({"messages": [("user", "one")]}, thread("t"))
        saver.session("t").fork(id="other")
    with EverlogSaver(tmp_path / "s.db") as saver:
        graph = build(saver)
        graph.invoke({"messages": [("user", "two")]}, thread("other"))
        assert texts(graph.get_state(thread("other"))) == ["one", "answer 1", "found 1", "two", "answer 4", "found 4"]
        assert texts(graph.get_state(thread("t"))) == ["one", "answer 1", "found 1"]
        assert {each.config["configurable"]["thread_id"] for each in saver.list(None)} == {"t", "other"}


def test_a_rewound_session_is_a_thread_that_goes_on_from_there(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver:
        graph = build(saver)
        graph.invoke({"messages": [("user", "one")]}, thread("t"), durability="sync")
        cut = saver.session("t").size()
        graph.invoke({"messages": [("user", "wrong")]}, thread("t"), durability="sync")
        saver.session("t").rewind(cut, reason="wrong question")
        assert texts(graph.get_state(thread("t"))) == ["one", "answer 1", "found 1"]
        graph.invoke({"messages": [("user", "right")]}, thread("t"))
        assert texts(graph.get_state(thread("t")))[3:] == ["right", "answer 4", "found 4"]


def test_time_travel_and_interrupts_are_as_with_their_own_saver(tmp_path):
    def run(saver):
        def ask(state):
            return {"messages": [AIMessage(f"you said {interrupt('sure?')}", id=f"a{len(state['messages'])}")]}

        graph = (
            StateGraph(MessagesState)
            .add_node("ask", ask)
            .add_edge(START, "ask")
            .add_edge("ask", END)
            .compile(checkpointer=saver)
        )
        graph.invoke({"messages": [HumanMessage("hi", id="h")]}, thread("t"))
        waiting = graph.get_state(thread("t"))
        graph.invoke(Command(resume="yes"), thread("t"))
        graph.invoke(Command(resume="no"), waiting.config)
        graph.update_state(thread("t"), {"messages": [RemoveMessage(id="h")]})
        history = [
            (texts(state), state.next, len(state.tasks), state.metadata["source"])
            for state in graph.get_state_history(thread("t"))
        ]
        return [each.value for each in waiting.interrupts], history

    with EverlogSaver(tmp_path / "s.db") as saver:
        assert run(saver) == run(InMemorySaver())


def test_an_erased_message_is_said_to_be_erased_and_the_thread_goes_on(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver:
        graph = build(saver)
        graph.invoke({"messages": [("user", "one")]}, thread("t"), durability="sync")
        session = saver.session("t")
        found = [event.position for event in session.events(types="agent.tool_result")]
        session.erase(found, reason="a secret")
        graph.update_state(thread("t"), {"messages": [("user", "more of it"), ("user", "and this")]}, as_node="tools")
        graph.invoke({"messages": [("user", "two")]}, thread("t"), durability="sync")
        more = [event.position for event in session.events('"more of it"')]
        session.erase(more, reason="a secret")
    with EverlogSaver(tmp_path / "s.db") as saver:
        state = build(saver).get_state(thread("t"))
        assert texts(state) == ["one", "answer 1", "[erased]", "[erased]", "and this", "two", "answer 6", "found 6"]
        assert b"more of it" not in (tmp_path / "s.db").read_bytes()


def test_a_saver_that_has_read_a_message_does_not_give_it_once_it_is_erased(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver, everlog.open(tmp_path / "s.db") as elsewhere:
        graph = build(saver)
        graph.invoke({"messages": [("user", "a secret")]}, thread("t"), durability="sync")
        found = [event.position for event in elsewhere.session("t").events(types="user.message")]
        elsewhere.session("t").erase(found, reason="a secret")
        assert texts(graph.get_state(thread("t")))[0] == "[erased]"
        graph.invoke({"messages": [("user", "on")]}, thread("t"), durability="sync")
        assert texts(graph.get_state(thread("t")))[0] == "[erased]"


def test_bytes_grow_with_what_is_said_and_not_with_its_square(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver:
        graph = build(saver)
        sizes = []
        for number in range(60):
            graph.invoke({"messages": [("user", f"{number} " + "x" * 1_000)]}, thread("t"))
            sizes.append(sum(len(event.raw) for event in saver.session("t").events()))
        first, second = sizes[29] - sizes[0], sizes[59] - sizes[30]
        assert second < 1.1 * first


def test_pruning_keeps_what_the_newest_is_made_of_and_the_thread_goes_on(address):
    with EverlogSaver(address) as saver:
        graph = build(saver)
        for question in ("one", "two"):
            graph.invoke({"messages": [("user", question)]}, thread("t"))
        before = saver.get_tuple(thread("t"))
        saver.prune(["t"])
        assert [each.checkpoint for each in saver.list(thread("t"))] == [before.checkpoint]
        assert saver.get_tuple(before.parent_config) is None
        graph.invoke({"messages": [("user", "three")]}, thread("t"))
        assert texts(graph.get_state(thread("t")))[-3:] == ["three", "answer 7", "found 7"]
        assert len(list(saver.list(thread("t")))) == 5
        with pytest.raises(ValueError, match="keep_latest"):
            saver.prune(["t"], strategy="other")


def test_a_deleted_thread_is_gone_and_its_copy_stays(address):
    with EverlogSaver(address) as saver:
        graph = build(saver)
        graph.invoke({"messages": [("user", "one")]}, thread("t"))
        saver.copy_thread("t", "copy")
        saver.copy_thread("none", "nothing")
        saver.delete_thread("t")
        assert saver.get_tuple(thread("t")) is None
        assert list(saver.list(thread("t"))) == []
        assert texts(graph.get_state(thread("copy"))) == ["one", "answer 1", "found 1"]
        graph.invoke({"messages": [("user", "anew")]}, thread("t"))
        assert texts(graph.get_state(thread("t"))) == ["anew", "answer 1", "found 1"]
        saver.copy_thread("copy", "t")
        assert len(list(saver.list(thread("t")))) == 8


def test_a_thread_s_id_is_any_text(address):
    names = ["x" * 400, "line\nbreak", "nul\x00", "☃/%~@", "00", "ü"]
    with EverlogSaver(address) as saver:
        for name in names:
            put(saver, {"k": name}, name=name)
        titles = {
            "x" * 400: "x" * 120,
            "line\nbreak": "line break",
            "nul\x00": "nul",
        }  # of those that no session can be called
        assert [saver.session(name).info().title for name in names] == [titles.get(name) for name in names]
        assert [saver.get_tuple(thread(name)).checkpoint["channel_values"]["k"] for name in names] == names
        assert {each.config["configurable"]["thread_id"] for each in saver.list(None)} == set(names)


def test_a_thread_that_is_called_as_a_memory_is_does_not_meet_it(tmp_path):
    from everlog.integrations.langgraph_store import EverlogStore

    with everlog.open(tmp_path / "s.db") as store:
        memory, saver = EverlogStore(store), EverlogSaver(store)
        memory.put(("x",), "k", {"v": 1})
        put(saver, {"k": "thread"}, name="langgraph-store:x")
        assert saver.get_tuple(thread("langgraph-store:x")).checkpoint["channel_values"]["k"] == "thread"
        saver.delete_thread("langgraph-store:x")
        assert EverlogStore(store).get(("x",), "k").value == {"v": 1}


def test_delta_channels_are_rebuilt_from_what_was_written(address):
    types = pytest.importorskip("langgraph.channels.delta", reason="this langgraph has no delta channels")
    from typing import Annotated, TypedDict

    def collected(values, new):
        return [*(values or []), *[each for batch in new for each in batch]]

    class State(TypedDict):
        items: Annotated[list, types.DeltaChannel(collected, list, snapshot_frequency=3)]

    def run(saver):
        graph = StateGraph(State).add_node("n", lambda state: {"items": [len(state["items"])]})
        graph = graph.add_edge(START, "n").add_edge("n", END).compile(checkpointer=saver)
        for number in range(4):
            graph.invoke({"items": [f"in {number}"]}, thread("t"))
        return [state.values.get("items") for state in graph.get_state_history(thread("t"))]

    with EverlogSaver(address) as saver:
        assert run(saver) == run(InMemorySaver())


def test_a_serializer_of_another_kind_keeps_what_it_gives(tmp_path):
    class Reversed(JsonPlusSerializer):
        def dumps_typed(self, obj):
            type_, data = super().dumps_typed(obj)
            return f"{type_}+r", data[::-1]

        def loads_typed(self, data):
            return super().loads_typed((data[0].removesuffix("+r"), data[1][::-1]))

    with EverlogSaver(tmp_path / "s.db", serde=Reversed()) as saver:
        graph = build(saver)
        graph.invoke({"messages": [("user", "one")]}, thread("t"))
        assert texts(graph.get_state(thread("t"))) == ["one", "answer 1", "found 1"]
        assert all(b"found" not in event.raw for event in saver.session("t").events())


def test_a_serializer_that_pickles_is_refused(tmp_path):
    with pytest.raises(ValueError, match="pickle"):
        EverlogSaver(tmp_path / "s.db", serde=JsonPlusSerializer(pickle_fallback=True))


def test_two_savers_on_one_thread_lose_no_turn(tmp_path):
    from threading import Thread

    with EverlogSaver(tmp_path / "s.db") as one, EverlogSaver(tmp_path / "s.db") as other:
        graphs = build(one), build(other)
        runs = [
            Thread(
                target=lambda graph=graph, name=name: [
                    graph.invoke({"messages": [("user", f"{name} {number}")]}, thread("t")) for number in range(5)
                ]
            )
            for graph, name in zip(graphs, "ab", strict=True)
        ]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        said = [event.data["content"] for event in one.session("t").events(types="user.message")]
        assert sorted(said) == sorted(f"{name} {number}" for name in "ab" for number in range(5))
        everything = list(one.list(thread("t")))
        assert len(everything) == len(list(other.list(thread("t")))) == 40
        held = {
            text
            for each in everything
            for message in each.checkpoint["channel_values"].get("messages", [])
            for text in [message.content]
        }
        assert set(said) <= held
        assert one.session("t").verify().ok


def test_versions_go_on_in_the_kind_that_a_thread_was_begun_with():
    saver = EverlogSaver(everlog.open("memory:"))
    assert saver.get_next_version(None, None) == 1
    assert saver.get_next_version(1, None) == 2
    theirs = InMemorySaver()
    version = theirs.get_next_version(None, None)
    assert version < saver.get_next_version(version, None)
    assert saver.get_next_version("00000009.1", None) > "00000009.1"


def test_erased_checkpoints_are_gone_and_what_was_new_in_them_reads_as_erased(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver:
        graph = build(saver)
        graph.invoke({"messages": [("user", "one")]}, thread("t"), durability="sync")
        session = saver.session("t")
        *others, _ = [event.position for event in session.events(types="langgraph.checkpoint")]
        session.erase(others, reason="a secret")
    with EverlogSaver(tmp_path / "s.db") as saver:
        found = list(saver.list(thread("t")))
        assert [each.metadata["step"] for each in found] == [2]
        assert len(found[0].checkpoint["channel_values"]["messages"]) == 1
        assert saver.session("t").verify().ok


def test_a_graph_on_an_event_loop_does_the_same(address):
    async def work():
        async with await everlog.open_async(address) as store:
            saver = EverlogSaver(store)
            graph = build(saver)
            await graph.ainvoke({"messages": [("user", "one")]}, thread("t"))
            await asyncio.gather(
                *(graph.ainvoke({"messages": [("user", f"{number}")]}, thread(f"t{number}")) for number in range(8))
            )
            await graph.ainvoke({"messages": [("user", "two")]}, thread("t"))
            states = [await graph.aget_state(thread(f"t{number}")) for number in range(8)]
            assert [texts(state)[0] for state in states] == [str(number) for number in range(8)]
            assert len([each async for each in saver.alist(thread("t"), limit=3)]) == 3
            return texts(await graph.aget_state(thread("t")))

    assert asyncio.run(work()) == ["one", "answer 1", "found 1", "two", "answer 4", "found 4"]


@pytest.mark.parametrize("name", ["langgraph", "langgraph_store"])
@pytest.mark.parametrize("version", ["3.9.9", "5.0"])
def test_another_version_of_the_framework_is_refused_by_its_name(monkeypatch, name, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    spec = importlib.util.find_spec(f"everlog.integrations.{name}")
    with pytest.raises(ImportError, match=rf"langgraph-checkpoint from 4.0 to below 5, and {version} is installed"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
