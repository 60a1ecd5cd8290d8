"""LangGraph's checkpoints in Everlog: its makers' checks, graphs beside their own saver, and the conversation."""

import asyncio
import importlib.metadata
import importlib.util
import threading

import pytest

pytest.importorskip("langgraph.checkpoint.conformance", reason="langgraph-checkpoint-conformance is not installed")
pytest.importorskip("langgraph.graph", reason="langgraph is not installed")

from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt

import databases
import everlog
from everlog import NewEvent
from everlog.errors import LimitError
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


# --- values --------------------------------------------------------------------------------------
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


def test_a_record_takes_more_than_an_event_s_body_does(tmp_path):
    large = {f"channel {number}": f"{number} " + "x" * 300_000 for number in range(30)}
    lists = {"list": ["y" * 10_000] * 100, "messages": [HumanMessage("hi", id="1")], "n": 1}
    more = lists | {"list": [*lists["list"], "z"], "messages": [*lists["messages"], AIMessage("well", id="2")]}
    with EverlogSaver(tmp_path / "s.db") as saver:
        first = put(saver, large | lists)
        saver.put_writes(first, list(large.items()), "task")
        second = put(saver, large | more, parent=first["configurable"]["checkpoint_id"])
        said = [event.data["content"] for event in saver.session("t").events(types=("user.message", "agent.message"))]
        assert said == ["hi", "well"]
    with EverlogSaver(tmp_path / "s.db") as saver:
        assert saver.get_tuple(second).checkpoint["channel_values"] == large | more
        [_, found] = saver.list(thread("t"))
        assert found.checkpoint["channel_values"] == large | lists
        assert [(channel, value) for _, channel, value in found.pending_writes] == list(large.items())
        with pytest.raises(LimitError, match="nothing was written"):
            saver.put_writes(second, [("n", "x" * 70_000_000)], "task")
        assert saver.get_tuple(second).pending_writes == []


def thread(name, checkpoint_id=None, namespace=""):
    named = {"thread_id": name, "checkpoint_ns": namespace}
    return {"configurable": named | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}


def put(saver, values, name="t", parent=None):
    checkpoint = empty_checkpoint() | {"id": str(uuid6()), "channel_values": values}
    return saver.put(thread(name, parent), checkpoint, {"source": "loop", "step": 1}, {})


def id_of(config):
    return config["configurable"]["checkpoint_id"]


@pytest.mark.parametrize("written", ["the same", "another"])
def test_two_savers_that_write_after_one_old_checkpoint_at_one_place_are_both_right(written):
    with everlog.open("memory:") as store:
        one, other = EverlogSaver(store), EverlogSaver(store)
        old = put(one, {"n": 1})
        newest = put(one, {"n": 2}, parent=id_of(old))
        other.put_writes(old, [("n", 0)], "first")
        one.put_writes(old, [("n", "the same")], "task")
        put(one, {"n": 3}, parent=id_of(newest))
        other.put_writes(old, [("n", written)], "task")
        for count in (4, 5):
            newest = put(other, {"n": 4, "list": list(range(count))}, parent=id_of(newest))
        again = EverlogSaver(store)
        assert again.get_tuple(old).pending_writes == [("first", "n", 0), ("task", "n", "the same")]
        assert again.get_tuple(newest).checkpoint["channel_values"] == {"n": 4, "list": [0, 1, 2, 3, 4]}
        assert len(list(again.list(thread("t")))) == 5


def test_two_savers_that_hide_at_one_place_both_do():
    with everlog.open("memory:") as store:
        one, other = EverlogSaver(store), EverlogSaver(store)
        for number in range(2):
            put(one, {"n": number})
        behind = other._read("t")
        one.prune(["t"])
        behind.prune(lambda: {"dropped": [1]})
        assert list(one.list(thread("t"))) == []


def test_what_another_thread_puts_while_a_thread_is_pruned_is_not_hidden(tmp_path, monkeypatch):
    with EverlogSaver(tmp_path / "s.db") as saver:
        for number in range(3):
            newest = put(saver, {"n": number})
        puts = threading.Thread(target=lambda: put(saver, {"n": 3}, parent=id_of(newest)))
        latest = EverlogSaver._latest

        def slowly(*given):
            kept = latest(*given)
            puts.start()
            puts.join(0.3)  # it waits for the prune, or was faster
            return kept

        monkeypatch.setattr(EverlogSaver, "_latest", slowly)
        saver.prune(["t"])
        puts.join(10)
        assert [each.checkpoint["channel_values"]["n"] for each in saver.list(thread("t"))] == [3, 2]


def test_a_config_names_a_thread_by_text_or_number_and_what_is_written_names_its_checkpoint():
    for saver in (InMemorySaver(), EverlogSaver(everlog.open("memory:"))):
        config = put(saver, {"n": 1}, name=5)
        assert config["configurable"] == {"thread_id": 5, "checkpoint_ns": "", "checkpoint_id": id_of(config)}
        assert saver.get_tuple(thread(5)).checkpoint["channel_values"].keys() <= {"n"}
        with pytest.raises(KeyError, match="checkpoint_id"):
            saver.put_writes(thread(5), [("n", 2)], "task")
        saver.delete_thread(5)
        assert saver.get_tuple(config) is None


def test_of_writes_of_one_index_in_one_call_the_first_counts_and_where_all_are_special_the_last(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver:
        config = put(saver, {})
        saver.put_writes(config, [("__interrupt__", 1), ("n", 2), ("__interrupt__", 3)], "mixed")
        saver.put_writes(config, [("__interrupt__", 1), ("__resume__", 2), ("__interrupt__", 3)], "special")
        assert saver.get_tuple(config).pending_writes == [
            *(("mixed", "__interrupt__", 1), ("mixed", "n", 2)),
            *(("special", "__resume__", 2), ("special", "__interrupt__", 3)),
        ]


def test_a_thread_that_is_rewound_while_it_is_listed_is_listed_as_it_was(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver, everlog.open(tmp_path / "s.db") as other:
        messages = []
        for number in range(100):
            messages.append(AIMessage(f"said {number}", id=f"m{number}"))
            put(saver, {"messages": list(messages), "n": number})
        before = list(saver.list(thread("t")))
        for cut in (1, 150):
            listing = EverlogSaver(saver.store).list(thread("t"))
            found = [next(listing)]
            other.session("t").rewind(cut)
            other.session("t").extend([NewEvent("x.noted", {}) for _ in range(40)])
            found += listing
            assert found == before
            session = other.session("t")
            session.switch(session.branches()[0].id)
            before = list(EverlogSaver(saver.store).list(thread("t")))


def test_a_prune_whose_event_is_erased_hides_nothing(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver:
        for number in range(3):
            saver.put(thread("t"), empty_checkpoint() | {"id": f"{number}"}, {}, {})
        saver.prune(["t"])
        saver.session("t").erase([3], reason="asked for")
        saver.put_writes(thread("t", "2"), [("n", 1)], "task")
        assert [each.checkpoint["id"] for each in saver.list(thread("t"))] == ["2", "1", "0"]
        assert saver.get_tuple(thread("t")).pending_writes == [("task", "n", 1)]


def test_a_checkpoint_that_was_put_again_goes_with_its_run_and_stays_with_its_writes_when_pruned(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver:
        for run in ("first", "second"):
            for name in ("goes", "stays"):
                checkpoint = empty_checkpoint() | {"id": "1", "channel_values": {"run": run}}
                config = saver.put(thread(name), checkpoint, {"run_id": run}, {})
                saver.put_writes(config, [("n", run)], run)
        saver.delete_for_runs(["none", "first"])
        saver.prune(["stays"])
        [found] = saver.list(thread("stays"))
        assert found.pending_writes == [("first", "n", "first"), ("second", "n", "second")]
        saver.delete_for_runs(["second"])
        assert list(saver.list(None)) == []


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
        return graph, [state.values.get("items") for state in graph.get_state_history(thread("t"))]

    with EverlogSaver(address) as saver:
        graph, history = run(saver)
        assert history == run(InMemorySaver())[1]
        saver.copy_thread("t", "copy")
        saver.prune(["t"])
        for name in ("t", "copy"):
            assert graph.get_state(thread(name)).values["items"] == history[0]
        graph.invoke({"items": ["more"]}, thread("t"))
        assert graph.get_state(thread("t")).values["items"][: len(history[0]) + 1] == [*history[0], "more"]


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


def test_what_channels_of_many_threads_hold_is_remembered_up_to_a_bound_of_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("everlog.integrations.langgraph._LOGS_BYTES_MAX", 50_000)
    with EverlogSaver(tmp_path / "graph.db") as saver:
        configs = {}
        for turn in range(3):
            for number in range(10):
                config = configs.get(number) or {"configurable": {"thread_id": f"t{number}", "checkpoint_ns": ""}}
                said = [f"{number}.{each}" * 1_000 for each in range(turn + 1)]
                made = empty_checkpoint() | {"channel_values": {"said": said}, "channel_versions": {"said": turn + 1}}
                configs[number] = saver.put(config, made, {"source": "loop", "step": turn}, {"said": turn + 1})
                assert list(saver._logs)[-1] == f"t{number}"
                assert sum(log.held for log in list(saver._logs.values())[:-1]) <= 50_000
                for log in saver._logs.values():
                    assert log.held == sum(len(value.data) for value in log._values.values())
        assert 1 < len(saver._logs) < 10
        for number in range(10):
            values = saver.get_tuple({"configurable": {"thread_id": f"t{number}"}}).checkpoint["channel_values"]
            assert values == {"said": [f"{number}.{each}" * 1_000 for each in range(3)]}
            assert len(list(saver.list({"configurable": {"thread_id": f"t{number}"}}))) == 3


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
