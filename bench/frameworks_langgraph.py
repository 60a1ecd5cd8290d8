"""LangGraph: EverlogSaver beside its makers' SqliteSaver, each in a file of its own.

A turn is a question and an answer that are 1 kB of text together, through a graph of one node: three checkpoints and what was written
between them. An item that is read or appended is a checkpoint with 1 kB in one channel.
"""

from __future__ import annotations

import random
import sqlite3
import string
import time
from pathlib import Path

from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph

import everlog
from bench.framework_table import main
from everlog.integrations.langgraph import EverlogSaver

TURNS = 200
TEXT = 512  # characters of a question, and of an answer
ITEMS = (100, 10_000)
READ = 20
APPENDS = 300


def ours(folder):
    """Measure EverlogSaver in a folder."""
    return _measure(folder, EverlogSaver, lambda saver: saver.close(), compact=True)


def theirs(folder):
    """Measure SqliteSaver in a folder."""

    def make(path):
        return SqliteSaver(sqlite3.connect(path, check_same_thread=False))

    return _measure(folder, make, lambda saver: saver.conn.close(), compact=False)


def _measure(folder, make, close, *, compact):
    found = {}
    sizes = {}
    for turns in (0, TURNS, 2 * TURNS):
        path = Path(folder) / f"turns-{turns}.db"
        saver = make(path)
        begun = time.perf_counter()
        _talk(saver, turns)
        found["ms a turn"] = (time.perf_counter() - begun) / max(turns, 1) * 1e3
        close(saver)
        sizes[turns] = _bytes(path)
        if compact and turns:
            with everlog.open(path) as store:
                store.compact(older_than=0)
            found[f"bytes / text, {turns} turns, compacted"] = _bytes(path) / (turns * 2 * TEXT)
    for turns in (TURNS, 2 * TURNS):
        found[f"bytes / text, {turns} turns"] = sizes[turns] / (turns * 2 * TEXT)
    found["bytes / text, of the second half"] = (sizes[2 * TURNS] - sizes[TURNS]) / (TURNS * 2 * TEXT)
    for items in ITEMS:
        path = Path(folder) / f"items-{items}.db"
        saver = make(path)
        config = _config()
        for number in range(items):
            config = _put(saver, config, number)
        if items == ITEMS[-1]:
            found["append, µs"] = _append(saver, config)
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


def _append(saver, config):
    times = []
    for number in range(APPENDS):
        begun = time.perf_counter()
        config = _put(saver, config, number)
        times.append(time.perf_counter() - begun)
    return sorted(times)[APPENDS // 2] * 1e6


def _talk(saver, turns):
    draw = random.Random(7)
    graph = StateGraph(MessagesState)
    graph.add_node("agent", lambda _: {"messages": [AIMessage(_words(draw))]})
    graph.add_edge(START, "agent")
    graph.add_edge("agent", END)
    compiled = graph.compile(checkpointer=saver)
    for _ in range(turns):
        compiled.invoke({"messages": [("user", _words(draw))]}, _config())


def _words(draw):
    words = " ".join("".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9))) for _ in range(TEXT))
    return words[:TEXT]


def _put(saver, config, number):
    checkpoint = empty_checkpoint() | {
        "id": str(uuid6(clock_seq=number)),
        "channel_values": {"note": f"{number:06} " + "x" * 1_000},
        "channel_versions": {"note": number + 1},
    }
    return saver.put(config, checkpoint, {"source": "loop", "step": number}, {"note": number + 1})


def _config():
    return {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}


def _bytes(path):
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*") if not file.name.endswith("-lock"))


if __name__ == "__main__":
    main("LangGraph", {"Everlog": ours, "SqliteSaver": theirs})
