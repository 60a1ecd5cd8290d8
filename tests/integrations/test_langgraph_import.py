"""Databases of LangGraph's own savers, taken in whole: both read back the same through the framework."""

import asyncio
import json
import sqlite3
import sys
from contextlib import closing

import pytest

pytest.importorskip("langgraph.checkpoint.sqlite", reason="langgraph-checkpoint-sqlite is not installed")
pytest.importorskip("langgraph.graph", reason="langgraph is not installed")

from click.testing import CliRunner
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

import databases
import everlog
from everlog.cli.commands import everlog as command
from everlog.importers import Failure, import_paths, langgraph
from everlog.integrations.langgraph import EverlogSaver


class Opaque:
    """A class that a reader of the database may not have."""

    def model_dump(self):
        return {"secret": 1}


def build(saver):
    def ask(state):
        return {"messages": [AIMessage(f"answer {len(state['messages'])} {interrupt('sure?')}")]}

    inner = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END).compile()
    outer = StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner").add_edge("inner", END)
    return outer.compile(checkpointer=saver)


def fill(path):
    connection = sqlite3.connect(path, check_same_thread=False)
    saver = SqliteSaver(connection)
    graph = build(saver)
    for name in ("a", "line\nbreak"):
        config = {"configurable": {"thread_id": name}, "metadata": {"user": "u7"}}
        for number in range(3):
            graph.invoke({"messages": [HumanMessage(f"question {number}")]}, config)
            graph.invoke(Command(resume="yes"), config)
        past = list(graph.get_state_history(config))[4]
        graph.update_state(past.config, {"messages": [HumanMessage("another way")]})
        graph.invoke({"messages": [HumanMessage("waits")]}, config)
    return connection, saver


def plain(saver):
    found = [
        (each.config["configurable"], each.checkpoint, each.metadata, each.parent_config, each.pending_writes)
        for each in saver.list(None)
    ]
    return sorted(found, key=lambda each: (each[0]["thread_id"], each[0]["checkpoint_ns"], each[0]["checkpoint_id"]))


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_database_of_theirs_reads_back_the_same_through_the_framework(tmp_path, kind):
    connection, theirs = fill(tmp_path / "theirs.db")
    with everlog.open(databases.address(kind, tmp_path)) as store:
        (result,) = import_paths(store, "langgraph", [tmp_path / "theirs.db"])
        assert (result.problem_count, result.known) == (0, 0)
        assert len(result.sessions) == 2
        ours = EverlogSaver(store)
        assert plain(ours) == plain(theirs)
        said = [message["content"][0]["text"] for message in ours.session("a").state("messages").value[:3]]
        assert said == ["question 0", "answer 1 yes", "question 1"]  # where it went another way depends on the version
        assert store.verify().ok
        graph = build(ours)
        config = {"configurable": {"thread_id": "a"}}
        graph.invoke(Command(resume="on"), config)
        assert graph.get_state(config).values["messages"][-1].content.endswith("on")
    connection.close()


def test_importing_again_adds_only_what_is_new(tmp_path):
    connection, theirs = fill(tmp_path / "theirs.db")
    with everlog.open(tmp_path / "s.db") as store:
        (first,) = import_paths(store, "langgraph", [tmp_path / "theirs.db"])
        (again,) = import_paths(store, "langgraph", [tmp_path / "theirs.db"])
        assert (again.events, again.known) == (0, first.events)
        build(theirs).invoke({"messages": [HumanMessage("more")]}, {"configurable": {"thread_id": "a"}})
        (more,) = import_paths(store, "langgraph", [tmp_path / "theirs.db"])
        assert more.events > 0
        assert more.known == first.events
        assert plain(EverlogSaver(store)) == plain(theirs)
    connection.close()


def test_the_async_saver_s_database_is_the_same_format(tmp_path):
    async def work():
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "theirs.db")) as saver:
            await build(saver).ainvoke({"messages": [HumanMessage("hi")]}, {"configurable": {"thread_id": "a"}})
            return [(each.checkpoint, each.pending_writes) async for each in saver.alist(None)]

    theirs = asyncio.run(work())
    with everlog.open(tmp_path / "s.db") as store:
        (result,) = import_paths(store, "langgraph", [tmp_path / "theirs.db"])
        assert result.problem_count == 0
        found = EverlogSaver(store).list(None)
        by_id = sorted((each.checkpoint["id"], each.checkpoint, each.pending_writes) for each in found)
        assert by_id == sorted((checkpoint["id"], checkpoint, writes) for checkpoint, writes in theirs)


def test_the_command_says_what_it_did_and_reports_what_it_left(tmp_path):
    connection, _ = fill(tmp_path / "theirs.db")
    connection.execute("UPDATE checkpoints SET type = 'pickle' WHERE rowid = 1")
    connection.execute("UPDATE writes SET type = 'pickle' WHERE rowid = 2")
    connection.execute("UPDATE checkpoints SET checkpoint = x'93' WHERE rowid = 3")
    connection.commit()
    connection.close()
    arguments = ["--store", str(tmp_path / "s.db"), "import", "langgraph", str(tmp_path / "theirs.db"), "--json"]
    done = CliRunner().invoke(command, arguments)
    said = json.loads(done.stdout.splitlines()[0])
    assert said["problem_count"] == 3
    assert "pickle" in said["problems"][0]["reason"]


def test_secrets_are_marked_by_default(tmp_path):
    secret = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
    connection = sqlite3.connect(tmp_path / "theirs.db", check_same_thread=False)
    build(SqliteSaver(connection)).invoke(
        {"messages": [HumanMessage(f"use {secret}")]}, {"configurable": {"thread_id": "a"}}
    )
    connection.close()
    with everlog.open(tmp_path / "s.db") as store:
        list(import_paths(store, "langgraph", [tmp_path / "theirs.db"]))
        assert all(secret.encode() not in (event.raw or b"") for event in store.feed())
        values = EverlogSaver(store).get_tuple({"configurable": {"thread_id": "a"}}).checkpoint["channel_values"]
        assert secret not in str(values)
    assert secret.encode() not in (tmp_path / "s.db").read_bytes()


@pytest.mark.parametrize("content", [b"", b"no database", b'{"type": "note"}'])
def test_what_is_no_such_database_is_refused(tmp_path, content):
    (tmp_path / "x.db").write_bytes(content)
    with everlog.open(tmp_path / "s.db") as store:
        (result,) = import_paths(store, "langgraph", [tmp_path / "x.db"])
        assert isinstance(result, Failure)
        assert "no database of LangGraph's SqliteSaver" in result.error.message


def test_a_database_of_another_program_is_refused_and_nothing_of_it_is_changed(tmp_path):
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.execute("CREATE TABLE checkpoints (thread_id TEXT)")
    connection.close()
    before = (tmp_path / "x.db").read_bytes()
    with everlog.open(tmp_path / "s.db") as store:
        (result,) = import_paths(store, "langgraph", [tmp_path / "x.db"])
        assert "checkpoints." in result.error.message
        assert store.sessions() == []
    assert (tmp_path / "x.db").read_bytes() == before


def test_without_the_framework_it_says_what_to_install(tmp_path, monkeypatch):
    connection, _ = fill(tmp_path / "theirs.db")
    connection.close()
    monkeypatch.setitem(sys.modules, "everlog.integrations.langgraph", None)
    with everlog.open(tmp_path / "s.db") as store:
        (result,) = import_paths(store, "langgraph", [tmp_path / "theirs.db"])
        assert result.error.code == "unsupported_store"


def test_rows_of_other_types_are_reported_and_the_rest_is_imported(tmp_path):
    source, _ = fill(tmp_path / "theirs.db")
    with closing(source), source:
        count = source.execute("SELECT count(*) FROM checkpoints").fetchone()[0]
        source.execute("UPDATE checkpoints SET checkpoint = 7 WHERE rowid = 1")
        source.execute("UPDATE checkpoints SET checkpoint_ns = x'ff' WHERE rowid = 2")
        source.execute("UPDATE checkpoints SET metadata = '{' WHERE rowid = 3")
        source.execute("UPDATE writes SET value = 'text' WHERE rowid = 4")
        source.execute("UPDATE writes SET idx = 'first' WHERE rowid = 5")
    with everlog.open(tmp_path / "ours.db") as store:
        imported = list(langgraph.import_database(store, tmp_path / "theirs.db"))
        problems = [problem.reason for each in imported for problem in each.problems]
        assert len(problems) == 5
        with EverlogSaver(store) as saver:
            assert len(list(saver.list(None))) == count - 3
        assert store.verify().ok
