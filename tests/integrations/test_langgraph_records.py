"""How LangGraph's records are stored: short, without keys, and found all the same."""

import json

import pytest

pytest.importorskip("langgraph.graph", reason="langgraph is not installed")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import END, START, MessagesState, StateGraph

from everlog.integrations.langgraph import EverlogSaver
from everlog.integrations.langgraph_codec import Unsayable, is_json, to_json
from everlog.integrations.langgraph_record import fields_of, items_of, metadata_of, shorten, shorten_items, values_of
from everlog.stores.sqlite.store import SqliteStorage

ID = "1f1ed12d-236f-6e20-8255-276aab216bdb"
NAMES = st.sampled_from(["__start__", "__input__", "messages", "branch:to:agent", "agent", "$x", "n"])
VERSIONS = st.one_of(st.integers(1, 9), st.text(max_size=3), st.none(), st.booleans(), st.floats(1, 2))
TREES = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=3)), lambda inner: st.lists(inner, max_size=2)
)
FIELDS = st.one_of(
    st.fixed_dictionaries(
        {
            "v": st.sampled_from([1, 4, None]),
            "ts": st.sampled_from(
                ["2026-11-30T23:07:31.692283+00:00", "2026-11-30T23:07:31Z", "2026-11-30", "x", "", None, 7]
            ),
            "channel_versions": st.one_of(st.dictionaries(NAMES, VERSIONS), st.dictionaries(NAMES, st.integers(1, 3))),
            "versions_seen": st.dictionaries(NAMES, st.one_of(st.dictionaries(NAMES, VERSIONS), st.none())),
        },
        optional={"updated_channels": st.one_of(st.none(), st.lists(NAMES)), "other": TREES},
    ),
    TREES,
)
METADATA = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "source": st.sampled_from(["loop", "input", None]),
            "step": st.one_of(st.integers(), st.none()),
            "parents": st.one_of(st.just({}), st.just({"": "x"}), st.none()),
            "run_id": st.text(max_size=3),
        },
    ),
    TREES,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine that draws may be busy
@given(
    id=st.sampled_from([ID, "1", "00000000-0000-6000-8000-zzzzzzzzzzzz", ID.upper()]),
    fields=FIELDS,
    metadata=METADATA,
    values=st.dictionaries(NAMES, TREES),
    where=st.dictionaries(NAMES, st.integers(0, 9)),
)
def test_whatever_a_record_says_comes_back(id, fields, metadata, values, where):
    record = {"id": id, "where": where, "checkpoint": fields, "metadata": metadata, "values": values}
    stored = json.loads(json.dumps(shorten(record)))
    assert exactly(fields_of(stored)) == exactly(fields)
    assert exactly(metadata_of(stored)) == exactly(metadata)
    assert exactly(values_of(stored)) == exactly(values)


@given(st.lists(st.tuples(st.integers(-4, 5), st.sampled_from(["n", "__error__", "__resume__"]), TREES)))
def test_whatever_was_written_comes_back_with_its_index(items):
    assert items_of({"items": json.loads(json.dumps(shorten_items(items)))}) == items


def exactly(value):
    """What tells 1 from 1.0 and from True, too."""
    return json.dumps(value, sort_keys=True)


def test_a_record_says_only_what_does_not_follow():
    fields = {
        "v": 4,
        "ts": "2026-11-30T23:07:31.720949+00:00",
        "channel_versions": {"__start__": 599, "messages": 599, "branch:to:agent": 599},
        "versions_seen": {"__input__": {}, "__start__": {"__start__": 598}, "agent": {"branch:to:agent": 596}},
        "updated_channels": ["branch:to:agent", "messages"],
    }
    record = {
        "id": ID,
        "parent": 3,
        "checkpoint": fields,
        "metadata": {"source": "loop", "step": 597, "parents": {}},
        "values": {"messages": {"$l": [7, [8]]}, "branch:to:agent": None},
    }
    stored = shorten(record)
    assert stored.keys() == {"id", "parent", "ts", "channels", "seen", "step"}
    assert stored["seen"] == {"__start__": 598, "agent": 596}
    assert abs(stored["ts"]) < 1_000
    assert fields_of(stored) == fields


# --- threads -------------------------------------------------------------------------------------
def thread(id=None, namespace=""):
    named = {"thread_id": "t", "checkpoint_ns": namespace}
    return {"configurable": named | ({"checkpoint_id": id} if id else {})}


def put(saver, values, parent=None, *, id=None, namespace=""):
    checkpoint = empty_checkpoint() | {"id": id or str(uuid6()), "channel_values": values}
    config = saver.put(thread(parent, namespace), checkpoint, {"source": "loop", "step": 1, "parents": {}}, {})
    return config["configurable"]["checkpoint_id"]


def graph_of(saver):
    def agent(state):
        return {"messages": [AIMessage(f"{len(state['messages']):06} answered".ljust(512, "y"))]}

    graph = StateGraph(MessagesState).add_node("agent", agent)
    return graph.add_edge(START, "agent").add_edge("agent", END).compile(checkpointer=saver)


@pytest.mark.parametrize("durability", ["sync", "async"])
def test_a_turn_is_six_events_and_few_bytes_beside_the_text_which_is_stored_once(tmp_path, durability):
    with EverlogSaver(tmp_path / "s.db") as saver:
        graph = graph_of(saver)
        for number in range(20):
            text = f"{number:06} asked".ljust(512, "x")
            graph.invoke({"messages": [("user", text)]}, thread(), durability=durability)
        events = list(saver.session("t").events())
        assert len(events) == 20 * 6
        assert sum(len(event.raw) for event in events) < 20 * (1_024 + 1_300)
        stored = b"".join(event.raw for event in events)
        assert (stored.count(b" asked"), stored.count(b" answered")) == (20, 20)
        assert durability == "async" or {event.key for event in events} == {None}


def test_every_checkpoint_is_found_by_its_id_however_it_was_recorded(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver:
        ids = [put(saver, {"n": 0}, id="05000")]
        for number in range(1, 300):
            late = number % 50 == 49
            ids.append(put(saver, {"n": number}, ids[-1], id=f"{0 if late else 1}{number:04}"))
            put(saver, {"n": -number}, id=ids[-1], namespace="child")
            saver.put_writes(thread(ids[-1]), [("n", number)], "task")
    with EverlogSaver(tmp_path / "s.db") as saver:
        for number, id in enumerate(ids):
            found = saver.get_tuple(thread(id))
            assert found.checkpoint["channel_values"] == {"n": number}
            assert [write[2] for write in found.pending_writes] == [number][: number or None] * (number > 0)
            below = saver.get_tuple(thread(id, "child"))
            assert (below is None) if not number else below.checkpoint["channel_values"] == {"n": -number}
        for id in ("", "0", "10100x", "2"):
            assert saver.get_tuple(thread(id or "none")) is None
        assert [each.config["configurable"]["checkpoint_id"] for each in saver.list(thread(namespace=""))] == sorted(
            ids, reverse=True
        )


def test_what_is_written_after_an_older_checkpoint_is_its_own(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver:
        first = put(saver, {"n": 1})
        saver.put_writes(thread(first), [("n", "a")], "one")
        second = put(saver, {"n": 2}, first)
        saver.put_writes(thread(first), [("n", "b")], "two")
        saver.put_writes(thread(second), [("n", "c")], "three")
        expected = {first: ["a", "b"], second: ["c"]}
        assert {each.checkpoint["id"]: written(each) for each in saver.list(thread())} == expected
    with EverlogSaver(tmp_path / "s.db") as saver:
        saver.put_writes(thread(second), [("n", "d")], "two")
        assert {id: written(saver.get_tuple(thread(id))) for id in expected} == {first: ["a", "b"], second: ["c", "d"]}
        session = saver.session("t")
        [checkpoint, *_] = [event.position for event in session.events(types="langgraph.checkpoint", reverse=True)]
        session.erase([checkpoint], reason="a secret")
    with EverlogSaver(tmp_path / "s.db") as saver:
        assert {each.checkpoint["id"]: written(each) for each in saver.list(thread())} == {first: ["a", "b"]}


def test_what_was_written_first_counts_also_where_it_stands_long_before_the_end(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver:
        saver.put_writes(thread("9"), [("n", "first"), ("__interrupt__", "one")], "task")
        for number in range(100):
            put(saver, {"n": number}, id=f"1{number:03}")
    with EverlogSaver(tmp_path / "s.db") as saver:
        saver.put_writes(thread("9"), [("n", "again"), ("m", "new")], "task")
        saver.put_writes(thread("9"), [("__interrupt__", "two")], "task")
        put(saver, {"n": 100}, id="9")
        assert written(saver.get_tuple(thread("9"))) == ["first", "new", "two"]


@pytest.mark.parametrize("id", ["0", "9"])
def test_what_was_written_long_before_its_checkpoint_is_listed_with_it(tmp_path, id):
    with EverlogSaver(tmp_path / "s.db") as saver:
        saver.put_writes(thread(id), [("n", "early")], "one")
        saver.put_writes(thread("8"), [("n", "never put")], "one")
        for number in range(100):
            put(saver, {"n": number}, id=f"1{number:03}")
    with EverlogSaver(tmp_path / "s.db") as saver:
        for number in range(100, 200):
            put(saver, {"n": number}, id=f"1{number:03}")
    with EverlogSaver(tmp_path / "s.db") as saver:
        put(saver, {"n": 200}, id=id)
        listed = {each.checkpoint["id"]: written(each) for each in saver.list(thread())}
        assert listed == {id: ["early"]} | {f"1{number:03}": [] for number in range(200)}
        assert id == "0" or written(saver.get_tuple(thread())) == ["early"]


def test_special_writes_that_came_with_ordinary_ones_replace_nothing_also_where_what_they_repeat_stands_long_before(
    tmp_path,
):
    with EverlogSaver(tmp_path / "s.db") as saver:
        saver.put_writes(thread("9"), [("n", "first"), ("__interrupt__", "one")], "task")
        for number in range(100):
            put(saver, {"n": number}, id=f"1{number:03}")
    with EverlogSaver(tmp_path / "s.db") as saver:
        saver.put_writes(thread("9"), [("n", "again"), ("__interrupt__", "two"), ("m", "new")], "task")
        put(saver, {"n": 100}, id="9")
        assert written(saver.get_tuple(thread("9"))) == ["first", "new", "one"]


def test_what_was_written_and_rewound_by_another_is_written_again(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver, EverlogSaver(tmp_path / "s.db") as other:
        put(saver, {"n": 0}, id="1")
        saver.put_writes(thread("1"), [("n", "asked")], "task")
        other.session("t").rewind(1)
        saver.put_writes(thread("1"), [("n", "asked again")], "task")
        assert written(saver.get_tuple(thread("1"))) == ["asked again"]
        other.prune(["t"], strategy="keep_latest")
        saver.put_writes(thread("1"), [("n", "a third time")], "task")
        assert written(saver.get_tuple(thread("1"))) == ["asked again"]


@pytest.mark.parametrize("durability", ["sync", "async"])
def test_a_turn_of_a_graph_reads_no_more_than_the_thread_it_goes_on_with(tmp_path, durability, monkeypatch):
    with EverlogSaver(tmp_path / "s.db") as saver:
        graph, reads = graph_of(saver), []
        for _ in range(5):
            graph.invoke({"messages": [("user", "asked")]}, thread(), durability=durability)
        read = SqliteStorage.read
        monkeypatch.setattr(
            SqliteStorage, "read", lambda *given, **named: (reads.append(given), read(*given, **named))[1]
        )
        graph.invoke({"messages": [("user", "asked")]}, thread(), durability=durability)
        assert len(reads) <= 3


@pytest.mark.parametrize("value", [None, 1, "x", "é", [], {}, 1.5])
def test_what_is_taken_for_json_as_it_is_is_nested_no_deeper_than_what_is_made_json(value):
    for depth in range(45):
        deep = value
        for number in range(depth):
            deep = [deep] if number % 2 else {"a": deep}
        try:
            made = to_json(deep, lambda _: None)
        except Unsayable:
            assert not is_json(deep)
        else:
            assert made == deep
            assert is_json(deep) == (value not in ("é", 1.5))


def written(found):
    return sorted(write[2] for write in found.pending_writes)


@pytest.mark.parametrize("follows", [True, False])
def test_what_a_task_wrote_before_its_checkpoint_is_stored_once_where_it_follows_what_was_said(tmp_path, follows):
    asked, answered = HumanMessage("the question"), AIMessage("the answer")
    with EverlogSaver(tmp_path / "s.db") as saver:
        first = put(saver, {"__start__": {"messages": [asked]}})
        if follows:
            saver.put_writes(thread(first), [("messages", [asked])], "one", "~__pregel_pull, __start__")
        second = str(uuid6())
        saver.put_writes(thread(second), [("messages", [answered])], "two", "~__pregel_pull, agent")
        asked.id, answered.id = "1", "2"
        put(saver, {"messages": [asked]}, first, id=second)
        third = put(saver, {"messages": [asked, answered]}, second)
        events = list(saver.session("t").events())
        assert b"".join(event.raw for event in events).count(b"the answer") == (1 if follows else 2)
        said = [event.data["content"] for event in events if event.type in ("user.message", "agent.message")]
        assert said == ["the question", "the answer"]
    with EverlogSaver(tmp_path / "s.db") as saver:
        assert saver.get_tuple(thread(third)).checkpoint["channel_values"] == {"messages": [asked, answered]}
        assert [write[2][0].content for write in saver.get_tuple(thread(second)).pending_writes] == ["the answer"]


def test_what_a_graph_is_called_with_is_said_once_even_where_its_task_is_recorded_first(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver:
        before = put(saver, {"n": 1})
        saver.put_writes(thread(before), [("n", 2)], "one", "~__pregel_pull, agent")  # it was stopped after this
        asked, id = HumanMessage("the question"), str(uuid6())
        saver.put_writes(thread(id), [("messages", [asked])], "two", "~__pregel_pull, __start__")
        put(saver, {"__start__": {"messages": [asked]}}, before, id=id)
        said = [event.data["content"] for event in saver.session("t").events(types="user.message")]
        assert said == ["the question"]


def test_a_checkpoint_whose_parent_was_erased_has_none_and_the_thread_goes_on(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver:
        graph = graph_of(saver)
        graph.invoke({"messages": [("user", "hi")]}, thread(), durability="sync")
        session = saver.session("t")
        newest, parent, *_ = saver.list(thread())
        assert newest.parent_config == parent.config
        [position] = [
            event.position for event in session.events() if (event.data or {}).get("id") == parent.checkpoint["id"]
        ]
        session.erase([position], reason="a secret")
    with EverlogSaver(tmp_path / "s.db") as saver:
        found = saver.get_tuple(thread())
        assert (found.checkpoint["channel_versions"], found.parent_config) == (
            newest.checkpoint["channel_versions"],
            None,
        )
        graph = graph_of(saver)
        graph.invoke({"messages": [("user", "more")]}, thread(), durability="sync")
        assert len(graph.get_state(thread()).values["messages"]) == 3  # the first was new in what was erased
