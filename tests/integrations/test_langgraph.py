"""LangGraph's checkpoints in Everlog: its makers' checks, the same calls beside their own saver, and the conversation."""

import asyncio
import random
import sqlite3

import pytest

pytest.importorskip("langgraph.checkpoint.conformance", reason="langgraph-checkpoint-conformance is not installed")
pytest.importorskip("langgraph.graph", reason="langgraph is not installed")

from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Interrupt, Send

import databases
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
            saver.put(config, checkpoint, {"source": "loop", "step": step, "run_id": f"r{step % 3}"}, {"n": step + 1})
            saver.put_writes(stored, writes, task, f"path{step % 4}")
            saver.put_writes(stored, [("__resume__", step)], task, "p")
            if number and draw.random() < 0.1:
                savers[number] = reopen(saver)
    return places


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
