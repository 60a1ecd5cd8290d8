"""What a LangGraph thread leaves behind is packed as it grows, and nothing reads otherwise."""

import sqlite3

import pytest

pytest.importorskip("langgraph.graph", reason="langgraph is not installed")

from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import END, START, MessagesState, StateGraph

import databases
import everlog
from everlog.compacting import PAST_BYTES_MAX
from everlog.core.block import BLOCK_EVENTS
from everlog.integrations.langgraph import EverlogSaver

TEXT = "said " * 100
TURNS = 80
HOT = 16  # events at the end of a thread that are never packed while it grows
CONFIG = {"configurable": {"thread_id": "t"}}


def talk(saver, turns=TURNS):
    """Run turns of a graph; give each checkpoint as it was read just after its turn, by id."""
    graph = StateGraph(MessagesState).add_node("agent", lambda _: {"messages": [AIMessage(TEXT)]})
    graph = graph.add_edge(START, "agent").add_edge("agent", END).compile(checkpointer=saver)
    seen = {}
    for number in range(turns):
        graph.invoke({"messages": [("user", f"{number} {TEXT}")]}, CONFIG, durability="sync")
        seen |= read(saver, limit=3)
    return seen


def read(saver, **named):
    return {each.checkpoint["id"]: each for each in saver.list(CONFIG, **named)}


def sizes(saver):
    return saver.store.storage.sizes()


def spoiled(path, sql):
    """Make a store with a thread of 40 events, and do something to its file."""
    with everlog.open(path) as store:
        store.create("t", events=[everlog.NewEvent("x.noted", {"n": number}) for number in range(40)])
    with sqlite3.connect(path) as connection:
        connection.execute(sql)


def hot_events(path):
    with sqlite3.connect(path) as connection:
        return [
            row[0] for row in connection.execute("SELECT position FROM event WHERE body IS NOT NULL ORDER BY position")
        ]


def test_the_past_of_a_thread_is_packed_as_it_grows_and_every_checkpoint_reads_as_before(tmp_path):
    with EverlogSaver(tmp_path / "s.db") as saver:
        seen = talk(saver)
        events = len(saver.session("t"))
        assert len(seen) == 3 * TURNS
    with EverlogSaver(tmp_path / "s.db") as saver:
        assert read(saver) == seen
        middle = list(seen)[len(seen) // 2]
        assert saver.get_tuple({"configurable": {"thread_id": "t", "checkpoint_id": middle}}) == seen[middle]
        assert saver.session("t").verify().ok
        assert sizes(saver).blocks >= (events - 2 * BLOCK_EVENTS) // BLOCK_EVENTS
    left = hot_events(tmp_path / "s.db")
    assert left == list(range(left[0], events))
    assert HOT <= len(left) < HOT + 2 * BLOCK_EVENTS


def test_a_long_thread_that_was_never_packed_is_caught_up_with_a_little_at_each_write(tmp_path):
    with EverlogSaver(tmp_path / "s.db", compact=False) as saver:
        seen = talk(saver)
        assert sizes(saver).blocks == 0
    with EverlogSaver(tmp_path / "s.db") as saver:
        packed = []
        for number in range(4):
            saver.put_writes(saver.get_tuple(CONFIG).config, [("note", number)], f"task {number}")
            packed.append(saver.store.storage.cold(-1, 1)[0].start)
        assert 3 * BLOCK_EVENTS < packed[0] <= 4 * BLOCK_EVENTS
        assert HOT <= len(saver.session("t")) - packed[-1] < HOT + 2 * BLOCK_EVENTS
        now = read(saver)
        assert {id: each._replace(pending_writes=[]) for id, each in now.items()} == {
            id: each._replace(pending_writes=[]) for id, each in seen.items()
        }


def test_of_long_events_that_were_never_packed_one_write_packs_a_few(tmp_path):
    length = 200 * 1024
    with everlog.open(tmp_path / "s.db") as store, EverlogSaver(store) as saver:
        store.create("t", events=[everlog.NewEvent("x.noted", {"n": f"{n:0{length}}"}) for n in range(20)])
        attached = [{"a": f"{n:0{length}}".encode()} for n in range(60)]
        store.session("t").extend([everlog.NewEvent("x.noted", {}, attachments=each) for each in attached])
        before = 0
        for number in range(3):
            saver.put(CONFIG, empty_checkpoint() | {"id": f"1{number}"}, {}, {})
            found = sizes(saver)
            packed = found.packed_plain + found.shared_plain
            assert length < packed - before < PAST_BYTES_MAX + 2 * length
            before = packed
        assert store.verify().ok


def test_what_cannot_be_packed_stays_where_it_is_and_the_thread_goes_on(tmp_path):
    spoiled(tmp_path / "s.db", "CREATE TRIGGER full BEFORE INSERT ON block BEGIN SELECT RAISE(ABORT, 'no room'); END")
    with EverlogSaver(tmp_path / "s.db") as saver:
        talk(saver, turns=30)
        assert len(saver.get_tuple(CONFIG).checkpoint["channel_values"]["messages"]) == 60
        assert sizes(saver).blocks == 0


def test_a_damaged_event_stays_where_it_is_and_those_beside_it_are_packed(tmp_path):
    spoiled(tmp_path / "s.db", "UPDATE event SET salt = substr(salt, 1, 31) WHERE position = 7")
    with EverlogSaver(tmp_path / "s.db") as saver:
        talk(saver, turns=30)
        assert [event.data["n"] for event in saver.session("t")[:40]] == list(range(40))
        assert [fault.position for fault in saver.session("t").verify().faults] == [7]
    assert hot_events(tmp_path / "s.db")[0] == 7
    assert hot_events(tmp_path / "s.db")[1] > 100


@pytest.mark.parametrize("kind", ["encrypted", "postgres", "memory"])
def test_where_packing_gains_little_nothing_is_packed(tmp_path, kind):
    with opened(tmp_path, kind) as store, EverlogSaver(store) as saver:
        talk(saver, turns=30)
        assert sizes(saver).blocks == 0


def opened(folder, kind):
    match kind:
        case "encrypted":
            key = folder / "key"
            key.write_text("00" * 32)
            key.chmod(0o600)
            return everlog.open(folder / "s.db", encrypt=f"file:{key}")
        case _:
            return everlog.open("memory:" if kind == "memory" else databases.address(kind, folder))
