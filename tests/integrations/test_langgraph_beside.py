"""LangGraph's checkpoints in Everlog beside SqliteSaver: the same calls, drawn at random, give the same answers.

Two savers stand on one store and take turns, so that each meets what the other wrote; now and then one is made anew. What SqliteSaver
does not have (`prune`, `copy_thread`, `delete_for_runs`) is said of it in SQL.
"""

import random
import sqlite3

import pytest

pytest.importorskip("langgraph.checkpoint.sqlite", reason="langgraph-checkpoint-sqlite is not installed")

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.sqlite import SqliteSaver

import databases
import everlog
from everlog.integrations.langgraph import EverlogSaver

pytestmark = pytest.mark.skipif(
    not hasattr(SqliteSaver, "_has_task_path"),
    reason="this SqliteSaver gives writes in another order: by task, not by its path",
)

NAMESPACES = ["", "child:1", "child:1|x:2"]
CHANNELS = ["n", "m", "x", "__error__", "__interrupt__", "__resume__", "__scheduled__"]
PATHS = ["", "p1", "~__pregel_pull, agent", "~__pregel_pull, __start__"]
FILTERS = [
    *({"run_id": "r1"}, {"source": "loop"}, {"step": 2}, {"none": None}, {"user": "ü"}, {"extra": "e1"}, {"tag": "t"}),
    *({"source": "loop", "step": 1}, {"parents": {"": "x"}}, {"absent": 1}),
]
VALUES = [
    *(None, "text", b"z", 1.5, True, [1, "x"], {"k": [1]}, (1, 2), {1: 2}, {"$m": 1}, {1, 2}, {1: {"$b": 2.0}}),
    *(HumanMessage("v"), [AIMessage("a", id="1")], ("user", "y"), {"role": "user", "content": "q"}),
]
HIDING = ["delete", "copy", "runs", "prune"]


class Theirs(SqliteSaver):
    """SqliteSaver, with what it leaves to others."""

    def prune(self, thread_ids, *, strategy="keep_latest"):
        older = """FROM {} AS o WHERE thread_id = ?1 AND EXISTS (SELECT 1 FROM checkpoints AS c WHERE c.thread_id = ?1
            AND c.checkpoint_ns = o.checkpoint_ns AND c.checkpoint_id > o.checkpoint_id)"""
        known = "AND (checkpoint_ns, checkpoint_id) IN (SELECT checkpoint_ns, checkpoint_id FROM checkpoints WHERE thread_id = ?1)"
        for thread in thread_ids:
            if strategy == "delete":
                self.delete_thread(thread)
                continue
            with self.cursor() as cursor:
                cursor.execute(f"DELETE {older.format('writes')} {known}", (thread,))
                cursor.execute(f"DELETE {older.format('checkpoints')}", (thread,))

    def delete_for_runs(self, run_ids):
        of_run = "json_extract(CAST(metadata AS TEXT), '$.run_id') = ?"
        place = "thread_id, checkpoint_ns, checkpoint_id"
        with self.cursor() as cursor:
            for run in run_ids:
                cursor.execute(
                    f"DELETE FROM writes WHERE ({place}) IN (SELECT {place} FROM checkpoints WHERE {of_run})", (run,)
                )
                cursor.execute(f"DELETE FROM checkpoints WHERE {of_run}", (run,))

    def copy_thread(self, source_thread_id, target_thread_id):
        tables = {
            "checkpoints": "checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata",
            "writes": "checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, value",
        }
        with self.cursor() as cursor:
            for table, columns in tables.items():
                cursor.execute(
                    f"INSERT OR IGNORE INTO {table} (thread_id, {columns}) SELECT ?, {columns} FROM {table} WHERE thread_id = ?",
                    (target_thread_id, source_thread_id),
                )


def config(thread, namespace=None, checkpoint_id=None):
    named = {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
    return {"configurable": {name: value for name, value in named.items() if value is not None}}


def listed(saver, asked=None, **named):
    """What a saver lists, as plain values that compare. Of one id in several places, the order is nobody's."""
    found = [
        (each.config["configurable"], each.checkpoint, each.metadata, each.parent_config, each.pending_writes)
        for each in saver.list(asked, **named)
    ]
    assert [each[0]["checkpoint_id"] for each in found] == sorted(
        (each[0]["checkpoint_id"] for each in found), reverse=True
    )
    return sorted(found, key=lambda each: (each[0]["checkpoint_id"], each[0]["thread_id"], each[0]["checkpoint_ns"]))


class Story:
    """Calls drawn at random, made of both."""

    def __init__(self, seed, store, kinds):
        self.draw = random.Random(seed)
        self.connection = sqlite3.connect(":memory:", check_same_thread=False)
        self.theirs = Theirs(self.connection)
        self.store = store
        self.savers = [EverlogSaver(store), EverlogSaver(store)]
        self.kinds = kinds
        self.made = {}
        self.lists = {}
        self.step = 0

    def ours(self):
        if self.draw.random() < 0.05:
            self.savers[self.draw.randrange(2)] = EverlogSaver(self.store)
        return self.draw.choice(self.savers)

    def place(self):
        return self.draw.choice("abc"), self.draw.choice(["", *NAMESPACES])

    def messages(self, place):
        """The list of a place's messages, which grows, shrinks and changes on the way."""
        messages = self.lists.setdefault(place, [])
        match self.draw.random():
            case chance if chance < 0.6:
                messages += [AIMessage(f"text {self.step}", id=f"m{self.step}"), self.draw.choice(VALUES)]
            case chance if chance < 0.7 and messages:
                messages.pop(self.draw.randrange(len(messages)))
            case chance if chance < 0.8 and messages:
                messages[self.draw.randrange(len(messages))] = ToolMessage(f"changed {self.step}", tool_call_id="c")
            case chance if chance < 0.85:
                messages.clear()
            case _:
                self.draw.shuffle(messages)
        return list(messages)

    def put(self):
        draw, place = self.draw, self.place()
        self.step += 1
        made = self.made.setdefault(place, [])
        again = made and draw.random() < 0.1
        id = draw.choice(made) if again else f"{0 if draw.random() < 0.1 else 1}{self.step:06}"
        parent = draw.choice(["nowhere", *made[-3:], *made[-1:] * 8]) if made else None
        if parent is not None and parent >= id:
            parent = None
        values = {"messages": self.messages(place), "n": self.step}
        values |= {name: draw.choice(VALUES) for name in ("x", "y", "__start__") if draw.random() < 0.4}
        versions = (
            dict.fromkeys(values, self.step) if draw.random() < 0.9 else dict.fromkeys(values, f"{self.step:032}.5")
        )
        checkpoint = empty_checkpoint() | {"id": id, "channel_values": values, "channel_versions": versions}
        if draw.random() < 0.5:  # as graphs make them
            checkpoint |= {"v": 4, "updated_channels": sorted(values)[: draw.randrange(3)]}
            checkpoint |= {"versions_seen": {"__input__": {}, "n": {"branch:to:n": self.step}}}
            del checkpoint["pending_sends"]
        metadata = {
            "source": draw.choice(["loop", "input"]),
            "step": draw.randrange(4),
            "run_id": f"r{draw.randrange(4)}",
        }
        metadata |= draw.choice(
            [{}, {"parents": {}}, {"parents": {"": "x"}}, {"none": None}, {"user": "ü"}, {"user": "u\0v"}]
        )
        asked = config(*place, parent)
        asked["configurable"] |= draw.choice([{}, {}, {"extra": "e1"}])
        asked |= draw.choice([{}, {}, {"metadata": {"tag": "t", "list": [1]}}])
        if id not in made:
            made.append(id)
        assert self.ours().put(asked, checkpoint, metadata, versions) == self.theirs.put(
            asked, checkpoint, metadata, versions
        )

    def put_writes(self):
        draw, place = self.draw, self.place()
        made = self.made.get(place, [])
        if self.kinds:  # what becomes of writes without a checkpoint where others are hidden or copied, nobody says
            made = [each[0]["checkpoint_id"] for each in listed(self.theirs, config(*place))]
        coming = [] if self.kinds else [f"1{self.step + 1:06}"]
        if not made and not coming:
            return
        asked = config(*place, draw.choice([*coming, *made, *made[-2:] * 3]))
        channels = CHANNELS[3:] if draw.random() < 0.3 else CHANNELS
        writes = [(draw.choice(channels), draw.choice(VALUES)) for _ in range(draw.randrange(4))]
        task, path = f"task{draw.randrange(3)}", draw.choice(PATHS)
        for saver in (self.ours(), self.theirs):
            saver.put_writes(asked, writes, task, path)

    def look(self):
        draw, (thread, namespace) = self.draw, self.place()
        ids = self.made.get((thread, namespace), [])
        one = config(thread, namespace, draw.choice([None, "nowhere", *ids]))
        named = {}
        if draw.random() < 0.4:
            named["before"] = {"configurable": {"checkpoint_id": draw.choice([*ids, "1", "0"])}}
        if draw.random() < 0.4:
            named["filter"] = draw.choice(FILTERS)
        ours = self.ours()
        assert ours.get_tuple(one) == self.theirs.get_tuple(one)
        for asked in (one, config(thread), None):
            assert listed(ours, asked, **named) == listed(self.theirs, asked, **named)
        limited = named | {"limit": draw.randrange(4)}
        assert listed(ours, config(thread, namespace), **limited) == listed(
            self.theirs, config(thread, namespace), **limited
        )
        if not self.kinds:
            channels = draw.sample(["n", "m", "x", "y", "messages"], draw.randrange(4))
            assert ours.get_delta_channel_history(
                config=one, channels=channels
            ) == BaseCheckpointSaver.get_delta_channel_history(self.theirs, config=one, channels=channels)

    def hide(self):
        first, second = self.draw.sample("abc", 2)
        ours, runs = self.ours(), [f"r{self.draw.randrange(4)}"]
        for saver in (ours, self.theirs):
            match kind := self.kinds[self.step % len(self.kinds)]:
                case "delete":
                    saver.delete_thread(first)
                case "copy":
                    saver.copy_thread(first, second)
                case "runs":
                    saver.delete_for_runs(runs)
                case _:
                    saver.prune([first], strategy="delete" if self.step % 5 == 0 else "keep_latest")
        if kind == "copy":
            for namespace in NAMESPACES:
                known = self.made.setdefault((second, namespace), [])
                known += [id for id in self.made.get((first, namespace), []) if id not in known]

    def run(self, calls):
        kinds = [self.put] * 6 + [self.put_writes] * 6 + [self.look] * 2 + [self.hide] * (2 if self.kinds else 0)
        for _ in range(calls):
            self.draw.choice(kinds)()
        for saver in self.savers:
            assert listed(saver) == listed(self.theirs)
        self.connection.close()


@pytest.mark.parametrize("kinds", [[], HIDING], ids=["put", "hide"])
@pytest.mark.parametrize("seed", range(10))
def test_whatever_is_called_answers_as_their_own_saver(seed, kinds):
    with everlog.open("memory:") as store:
        Story(seed, store, kinds).run(80)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_whatever_is_called_answers_as_their_own_saver_on_a_store_that_lasts(kind, tmp_path):
    with everlog.open(databases.address(kind, tmp_path)) as store:
        Story(0, store, HIDING).run(60)
        assert store.verify().ok
