"""LangGraph: EverlogSaver beside its makers' SqliteSaver, each in a file of its own.

A turn is a question and an answer, of 512 bytes each or of 1 kB each, through a graph of one node: three checkpoints and what was
written between them. Bytes are those beyond an empty store's. What is appended is what a graph calls its saver with in these turns,
recorded once and played to both; and, alone, a checkpoint with 1 kB in one channel, and 1 kB written after it. An item that is read is
such a checkpoint. Both sync every append: SqliteSaver leaves `synchronous` as SQLite has it, which is FULL. Appends of the two take turns,
and in who is first of them, so that whatever else the machine does, and what the first leaves to the second, slows both.
"""

from __future__ import annotations

import copy
import random
import sqlite3
import statistics
import string
import tempfile
import time
from pathlib import Path

from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph

import everlog
from bench.framework_table import main
from everlog.integrations.langgraph import EverlogSaver

TURNS = 200
TEXTS = (512, 1_024)  # characters of a question, and of an answer
ITEMS = (100, 10_000)
READ = 20
APPENDS = 600
SKIPPED = 300  # of these, at first, while the write-ahead log of either grows


def ours(folder):
    """Measure EverlogSaver in a folder."""
    return _measure(folder, EverlogSaver, _close, compact=True)


def theirs(folder):
    """Measure SqliteSaver in a folder."""

    return _measure(folder, _theirs, _close, compact=False)


def appends(folder):
    """Measure appends of both, in turns; give what each takes, by row and saver."""
    return _loop(folder) | _replayed(folder)


class _Recorder(InMemorySaver):
    """Notes how a graph calls its saver."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def put(self, config, checkpoint, metadata, new_versions):
        self.calls.append(("put", (config, copy.deepcopy(checkpoint), metadata, new_versions)))
        return super().put(config, checkpoint, metadata, new_versions)

    def put_writes(self, config, writes, task_id, task_path=""):
        # The graph gives an id to a message that is written without one, later, in the very object.
        self.calls.append(("put_writes", (config, copy.deepcopy(list(writes)), task_id, task_path)))
        return super().put_writes(config, writes, task_id, task_path)


def _replayed(folder):
    """Play what graphs called their saver with; give the means in µs, and what a turn takes of all its appends."""
    found = {}
    for size in TEXTS:
        recorder = _Recorder()
        _talk(recorder, TURNS, size)
        savers = _both(folder, f"replayed-{size}")
        spent = {(name, call): [] for name in savers for call in ("put", "put_writes")}
        for number, (call, given) in enumerate(recorder.calls):
            for name, saver in _in_turns(savers, number):
                begun = time.perf_counter()
                getattr(saver, call)(*given)
                spent[name, call].append(time.perf_counter() - begun)
        for name, saver in savers.items():
            _close(saver)
            for call in ("put", "put_writes"):
                found[f"{call}, {TURNS} turns of {size} + {size}, mean µs", name] = (
                    statistics.mean(spent[name, call]) * 1e6
                )
            in_all = sum(spent[name, "put"]) + sum(spent[name, "put_writes"])
            found[f"a turn's appends, {TURNS} turns of {size} + {size}, µs", name] = in_all / TURNS * 1e6
    return found


def _both(folder, name):
    return {
        "ours": EverlogSaver(Path(folder) / f"{name}-ours.db"),
        "theirs": _theirs(Path(folder) / f"{name}-theirs.db"),
    }


def _in_turns(savers, number):
    """Give both savers, first the one that was second before."""
    return list(savers.items())[:: -1 if number % 2 else 1]


def _loop(folder):
    """Append a checkpoint and a write after it, again and again; give the medians in µs."""
    savers = _both(folder, "loop")
    configs = dict.fromkeys(savers, _config())
    times = {}
    for number in range(APPENDS):
        for name, saver in _in_turns(savers, number):
            checkpoint = _checkpoint(number)
            begun = time.perf_counter()
            configs[name] = _put(saver, configs[name], number, checkpoint)
            put = time.perf_counter()
            saver.put_writes(configs[name], [("note", f"{number:06} " + "y" * 1_000)], f"task-{number}", "path")
            times.setdefault(("put", name), []).append(put - begun)
            times.setdefault(("put_writes", name), []).append(time.perf_counter() - put)
    for saver in savers.values():
        _close(saver)
    return {
        (f"{call} of 1 kB, alone, median µs", name): statistics.median(each[SKIPPED:]) * 1e6
        for (call, name), each in times.items()
    }


def _theirs(path):
    return SqliteSaver(sqlite3.connect(path, check_same_thread=False))


def _close(saver):
    (saver if isinstance(saver, EverlogSaver) else saver.conn).close()


def _measure(folder, make, close, *, compact):
    found = {}
    for size in TEXTS:
        sizes = {}
        for turns in (0, TURNS, 2 * TURNS):
            path = Path(folder) / f"turns-{size}-{turns}.db"
            saver = make(path)
            begun = time.perf_counter()
            _talk(saver, turns, size)
            if turns:
                found[f"ms a turn, {size} + {size} bytes"] = (time.perf_counter() - begun) / turns * 1e3
            close(saver)
            sizes[turns] = _bytes(path)
            if compact and turns == TURNS:
                with everlog.open(path) as store:
                    store.compact(older_than=0)
                cold = (_bytes(path) - sizes[0]) / (turns * 2 * size)
                found[f"bytes / text, {size} + {size}, {turns} turns, compacted"] = cold
        for turns in (TURNS, 2 * TURNS):
            beyond = (sizes[turns] - sizes[0]) / (turns * 2 * size)
            found[f"bytes / text, {size} + {size}, {turns} turns"] = beyond
    for items in ITEMS:
        path = Path(folder) / f"items-{items}.db"
        saver = make(path)
        config = _config()
        for number in range(items):
            config = _put(saver, config, number)
        close(saver)
        saver = make(path)
        begun = time.perf_counter()
        assert len(list(saver.list(_config(), limit=READ))) == READ
        found[f"last {READ} of {items}, ms, opened anew"] = (time.perf_counter() - begun) * 1e3
        begun = time.perf_counter()
        assert len(list(saver.list(_config(), limit=READ))) == READ
        found[f"last {READ} of {items}, ms"] = (time.perf_counter() - begun) * 1e3
        close(saver)
    return found


def _talk(saver, turns, size):
    draw = random.Random(7)
    graph = StateGraph(MessagesState)
    graph.add_node("agent", lambda _: {"messages": [AIMessage(_words(draw, size))]})
    graph.add_edge(START, "agent")
    graph.add_edge("agent", END)
    compiled = graph.compile(checkpointer=saver)
    for _ in range(turns):
        compiled.invoke({"messages": [("user", _words(draw, size))]}, _config())


def _words(draw, size):
    words = " ".join("".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9))) for _ in range(size // 3))
    return words[:size]


def _checkpoint(number):
    return empty_checkpoint() | {
        "id": str(uuid6(clock_seq=number)),
        "channel_values": {"note": f"{number:06} " + "x" * 1_000},
        "channel_versions": {"note": number + 1},
    }


def _put(saver, config, number, checkpoint=None):
    made = checkpoint or _checkpoint(number)
    return saver.put(config, made, {"source": "loop", "step": number}, {"note": number + 1})


def _config():
    return {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}


def _bytes(path):
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*") if not file.name.endswith("-lock"))


def _with_appends(measured, whose, paired):
    return lambda folder: measured(folder) | {row: figure for (row, name), figure in paired.items() if name == whose}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found = appends(place)
    main(
        "LangGraph",
        {"Everlog": _with_appends(ours, "ours", found), "SqliteSaver": _with_appends(theirs, "theirs", found)},
    )
