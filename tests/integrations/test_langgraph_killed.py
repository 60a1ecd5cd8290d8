"""An agent on LangGraph that is killed, and two of them on one thread, each a process of its own."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("langgraph.graph", reason="langgraph is not installed")

import databases
from everlog.integrations.langgraph import EverlogSaver

AGENT = """
import os, signal, sys
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from everlog.integrations.langgraph import EverlogSaver

address, name, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
turn = f"{name}{os.getpid()}"  # two turns may begin from states of one length, and what they say is not the same message


def agent(state):
    count = len(state["messages"])
    return {"messages": [AIMessage(f"look {count}", id=f"a{turn}{count}", tool_calls=[{"name": "look", "args": {}, "id": f"c{turn}{count}"}])]}


def tools(state):
    if kill_at == len(state["messages"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"messages": [ToolMessage("seen", tool_call_id=state["messages"][-1].tool_calls[0]["id"])]}


def answer(state):
    return {"messages": [AIMessage(f"answer {len(state['messages'])}", id=f"b{turn}{len(state['messages'])}")]}


graph = StateGraph(MessagesState).add_node("agent", agent).add_node("tools", tools).add_node("answer", answer)
graph.add_edge(START, "agent").add_edge("agent", "tools").add_edge("tools", "answer").add_edge("answer", END)
config = {"configurable": {"thread_id": "t"}}
with EverlogSaver(address) as saver:
    compiled = graph.compile(checkpointer=saver)
    if sys.argv[5] == "goes on" and compiled.get_state(config).next:
        compiled.invoke(None, config, durability="sync")
    for number in range(int(sys.argv[4])):
        turn = f"{name}{os.getpid()}.{number}."
        compiled.invoke({"messages": [("user", f"{name} {number}")]}, config, durability="sync")
"""


@pytest.fixture(params=["sqlite", "postgres"])
def address(request, tmp_path):
    return databases.address(request.param, tmp_path)


def start(tmp_path, address, name, *, kill_at=-1, turns, goes_on=True):
    """Begin a process. goes_on: whether with what it finds unfinished, which may be at work in another."""
    program = tmp_path / "agent.py"
    program.write_text(AGENT)
    environment = {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "PATH": ""}
    given = [address, name, str(kill_at), str(turns), "goes on" if goes_on else "begins"]
    return subprocess.Popen([sys.executable, str(program), *given], env=environment)


def conversation(saver):
    return [
        (
            each["role"],
            [
                block["text"] if block["type"] == "text" else block["result"]["content"][0]["text"]
                for block in each["content"]
            ],
        )
        for each in saver.session("t").state("messages").value
    ]


def test_a_graph_that_is_killed_in_a_node_goes_on_from_there(tmp_path, address):
    assert start(tmp_path, address, "u", kill_at=6, turns=2).wait(60) == -signal.SIGKILL
    with EverlogSaver(address) as saver:
        state = saver.get_tuple({"configurable": {"thread_id": "t"}})
        assert [message.content for message in state.checkpoint["channel_values"]["messages"]] == [
            *("u 0", "look 1", "seen", "answer 3"),
            *("u 1", "look 5"),
        ]
    assert start(tmp_path, address, "u", turns=1).wait(60) == 0
    with EverlogSaver(address) as saver:
        assert conversation(saver) == [
            ("user", ["u 0"]),
            ("assistant", ["look 1", "seen"]),
            ("assistant", ["answer 3"]),
            ("user", ["u 1"]),
            ("assistant", ["look 5", "seen"]),
            ("assistant", ["answer 7"]),
            ("user", ["u 0"]),
            ("assistant", ["look 9", "seen"]),
            ("assistant", ["answer 11"]),
        ]
        assert saver.session("t").verify().ok


def test_two_processes_on_one_thread_lose_no_turn(tmp_path, address):
    runs = [start(tmp_path, address, name, turns=3, goes_on=False) for name in "uv"]
    assert [run.wait(120) for run in runs] == [0, 0]
    with EverlogSaver(address) as saver:
        session = saver.session("t")
        said = [event.data["content"] for event in session.events(types="user.message")]
        assert sorted(said) == ["u 0", "u 1", "u 2", "v 0", "v 1", "v 2"]
        results = [event.data["tool_use_id"] for event in session.events(types="agent.tool_result")]
        uses = [event.data["id"] for event in session.events(types="agent.tool_use")]
        assert sorted(results) == sorted(uses)
        steps = [each.metadata["step"] for each in saver.list({"configurable": {"thread_id": "t"}})]
        assert len(steps) >= 30
        assert session.verify().ok


def test_the_example_runs_and_goes_on(tmp_path):
    root = Path(__file__).parents[2]
    example = root / "examples" / "integrations" / "langgraph_agent.py"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(example), str(tmp_path / "s.db")],
            env={"PYTHONPATH": str(root / "src"), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert "waits: deploy to production?" in done.stdout
        assert "answer: Done: deployed, as Ada said." in done.stdout
        assert "remembered: ['Ada']" in done.stdout
