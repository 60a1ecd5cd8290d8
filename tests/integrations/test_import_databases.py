"""`everlog import FORMAT FILE.db`, for each framework whose databases are taken in: what the command says and leaves in the store."""

import asyncio
import importlib.util
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

import everlog
from core.secrets_made import TOKENS, drawn
from everlog.cli.commands import everlog as command
from everlog.importers import FORMATS, databases, import_paths, originals

SECRET = TOKENS["anthropic-key"](drawn(7))
SAID = [f"question about {SECRET}", "and another one"]
NEEDS = {"openai-agents": "agents", "langgraph": "langgraph.checkpoint.sqlite", "adk": "google.adk"}
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:google.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def fill_openai_agents(path):
    from agents import SQLiteSession

    session = SQLiteSession("talk", path)
    asyncio.run(session.add_items([{"role": "user", "content": text} for text in SAID]))
    session.close()


def fill_langgraph(path):
    from langchain_core.messages import HumanMessage
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.graph import END, START, MessagesState, StateGraph

    connection = sqlite3.connect(path, check_same_thread=False)
    builder = StateGraph(MessagesState).add_node("idle", lambda _: {}).add_edge(START, "idle").add_edge("idle", END)
    graph = builder.compile(checkpointer=SqliteSaver(connection))
    for text in SAID:
        graph.invoke({"messages": [HumanMessage(text)]}, {"configurable": {"thread_id": "talk"}})
    connection.close()


def fill_adk(path):
    from google.adk.events.event import Event
    from google.adk.sessions.sqlite_session_service import SqliteSessionService
    from google.genai import types

    async def work():
        service = SqliteSessionService(str(path))
        session = await service.create_session(app_name="app", user_id="u7", session_id="talk")
        for text in SAID:
            content = types.Content(role="user", parts=[types.Part(text=text)])
            await service.append_event(session, Event(author="user", content=content))

    asyncio.run(work())


FILL = {"openai-agents": fill_openai_agents, "langgraph": fill_langgraph, "adk": fill_adk}


@pytest.fixture(params=NEEDS)
def format(request, tmp_path, monkeypatch):
    """A format; its database stands as theirs.db in a folder that holds nothing else, which is the working one."""
    try:
        found = importlib.util.find_spec(NEEDS[request.param])
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"{NEEDS[request.param]} is not installed")
    monkeypatch.chdir(tmp_path)
    FILL[request.param](tmp_path / "theirs.db")
    return request.param


def run(*words):
    return CliRunner().invoke(command, ["--store", "log.db", "import", *words])


def test_a_database_is_taken_in_once_and_nothing_of_it_is_changed(format, tmp_path):
    before = (tmp_path / "theirs.db").read_bytes()
    first = json.loads(run(format, "theirs.db", "--json").stdout.splitlines()[0])
    assert first["events"] > 0
    assert (first["known"], first["problem_count"], len(first["sessions"])) == (0, 0, 1)
    again = json.loads(run(format, "theirs.db", "--json").stdout.splitlines()[0])
    assert (again["events"], again["known"], again["sessions"]) == (0, first["events"], first["sessions"])
    assert (tmp_path / "theirs.db").read_bytes() == before
    with everlog.open("log.db") as store:
        session = store.session(first["sessions"][0])
        said = [message["content"] for message in session.state("messages").value]
        assert "and another one" in json.dumps(said)
        assert store.verify().ok


def test_secrets_are_marked_unless_they_are_asked_for(format, tmp_path):
    assert run(format, "theirs.db").exit_code == 0
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in tmp_path.glob("log.db*"))
    with everlog.open("other.db") as store:
        list(import_paths(store, format, ["theirs.db"], redact="off"))
        assert any(SECRET.encode() in (event.raw or b"") for event in store.feed())


def test_progress_is_told_with_what_was_recorded(format):
    told = []
    with everlog.open("log.db") as store:
        (result,) = import_paths(store, format, ["theirs.db"], progress=told.append)
    assert told[-1].events == result.events
    assert (told[-1].files, told[-1].bytes) == (1, told[-1].bytes_total)


def test_a_database_of_another_framework_is_refused_with_the_exit_code_of_what_is_wrong(format):
    for other in FILL.keys() - {format}:
        done = run(other, "theirs.db")
        assert done.exit_code == 2
        assert "nothing of it was imported" in done.stderr
    assert run("adk", "missing.db").exit_code != 0


def test_a_database_that_another_program_has_locked_is_said_to_be(format, monkeypatch):
    monkeypatch.setattr(databases, "_BUSY_SECONDS", 0)
    holder = sqlite3.connect("theirs.db", isolation_level=None)
    holder.execute("PRAGMA journal_mode = DELETE")
    holder.execute("BEGIN EXCLUSIVE")
    done = run(format, "theirs.db")
    assert done.exit_code == 5
    assert "theirs.db has been locked by another program" in done.stderr
    holder.close()
    assert run(format, "theirs.db").exit_code == 0


IMPORTS_AS_NOBODY = """
import os, sys
import everlog
from everlog.importers import Failure, import_paths
theirs, warm = sys.argv[1:]
store = everlog.open("memory:")
assert not isinstance(next(import_paths(store, "openai-agents", [warm])), Failure)
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
(result,) = import_paths(store, "openai-agents", [theirs])
print(result.error if isinstance(result, Failure) else result.known)
"""


@pytest.mark.skipif(os.getuid() == 65534, reason="runs as nobody, whose own folder cannot be another's")
@pytest.mark.parametrize(("mode", "says"), [(0o444, "2"), (0, "theirs.db cannot be read (unable to open")])
def test_a_database_is_read_where_nothing_can_be_written_beside_it_and_else_said_to_be_unreadable(tmp_path, mode, says):
    pytest.importorskip("agents")
    with tempfile.TemporaryDirectory(prefix="everlog-test-") as folder:
        theirs = Path(folder) / "theirs.db"
        fill_openai_agents(theirs)
        shutil.copy(theirs, tmp_path / "warm.db")
        theirs.chmod(mode)
        Path(folder).chmod(0o555)
        program = [sys.executable, "-c", IMPORTS_AS_NOBODY, str(theirs), str(tmp_path / "warm.db")]
        done = subprocess.run(program, capture_output=True, text=True, timeout=60)
        Path(folder).chmod(0o755)
    assert says in done.stdout, done.stderr


def test_several_sessions_of_one_database_are_counted(tmp_path, monkeypatch):
    pytest.importorskip("agents")
    from agents import SQLiteSession

    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        session = SQLiteSession(name, "theirs.db")
        asyncio.run(session.add_items([{"role": "user", "content": "Hello."}]))
        session.close()
    assert "a and 2 other sessions: 3 events new, 0 known" in run("openai-agents", "theirs.db").stdout


def test_a_folder_is_searched_for_databases(format):
    assert FORMATS[format].database is not None
    done = run(format, ".")
    assert "events new" in done.stdout


def test_items_of_the_agents_sdk_are_given_back_as_they_were(tmp_path):
    pytest.importorskip("agents")
    fill_openai_agents(tmp_path / "theirs.db")
    with everlog.open(tmp_path / "log.db") as store:
        list(import_paths(store, "openai-agents", [tmp_path / "theirs.db"], redact="off"))
        assert list(originals(store.session("talk"))) == [{"role": "user", "content": text} for text in SAID]
