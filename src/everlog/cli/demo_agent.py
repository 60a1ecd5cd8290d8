"""The demo's agent: a scripted model, real tools, and a session in which everything stands.

`python -m everlog.cli.demo_agent STORE FOLDER`. It holds nothing in memory that the session does not: the next thing to do
follows from the events alone, so that any process can go on where another was killed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import everlog
from everlog.core.event import Event
from everlog.session import Session

SESSION = "fix-the-parser"
TASK = "numbers('') crashes. Make it give an empty list, and keep the tests passing."

BROKEN = '''def numbers(text):
    """Read comma-separated integers."""
    return [int(part) for part in text.split(",")]
'''
MENDED = '''def numbers(text):
    """Read comma-separated integers; an empty text holds none."""
    return [int(part) for part in text.split(",")] if text.strip() else []
'''
TESTS = """import time, unittest
from numbers_text import numbers

class TestNumbers(unittest.TestCase):
    def test_several(self):
        time.sleep(0.5)  # a suite that takes its time, as suites do
        self.assertEqual(numbers("1,2"), [1, 2])
"""
NEW_TEST = """
    def test_empty(self):
        self.assertEqual(numbers(""), [])
"""


class Turn(NamedTuple):
    """What the scripted model answers: why, which tool, with what."""

    rationale: str
    tool: str
    input: dict[str, Any]


SCRIPT = (
    Turn("First I look at the code.", "read_file", {"path": "numbers_text.py"}),
    Turn("Are the tests passing as they are?", "run_tests", {}),
    Turn("A failing test before a fix.", "append_file", {"path": "test_numbers.py", "text": NEW_TEST}),
    Turn("It should fail now.", "run_tests", {}),
    Turn(
        "int('') is what fails, so an empty text must not be split.",
        "write_file",
        {"path": "numbers_text.py", "text": MENDED},
    ),
    Turn("And now it should pass.", "run_tests", {}),
)


def prepare(folder: Path) -> None:
    """Lay out the code that the agent works on."""
    (folder / "numbers_text.py").write_text(BROKEN, encoding="utf-8")
    (folder / "test_numbers.py").write_text(TESTS, encoding="utf-8")


def use_tool(folder: Path, turn: Turn) -> tuple[str, bool]:
    """Do what the model asked for; give what came of it, and whether it went well."""
    match turn.tool:
        case "read_file":
            return (folder / turn.input["path"]).read_text(encoding="utf-8"), True
        case "write_file":
            (folder / turn.input["path"]).write_text(turn.input["text"], encoding="utf-8")
            return "written", True
        case "append_file":
            file = folder / turn.input["path"]
            before = file.read_text(encoding="utf-8")
            if turn.input["text"] not in before:  # a repeat after a crash must not append twice
                file.write_text(before + turn.input["text"], encoding="utf-8")
            return "appended", True
        case _:
            command = [sys.executable, "-m", "unittest", "-q"]
            ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            return ran.stderr.strip()[-400:], ran.returncode == 0


def unanswered(session: Session) -> list[Event]:
    """Give the tool uses that have no result: what was in flight when a process died."""
    answered = {event.data["tool_use_id"] for event in session.events(types="agent.tool_result")}
    return [event for event in session.events(types="agent.tool_use") if event.data["id"] not in answered]


def work(store_path: str, folder: Path) -> None:
    """Work on the task to its end, from wherever the session stands."""
    with everlog.open(store_path) as store:
        session = store.get_or_create(SESSION, title="Empty text crashes the parser", labels={"demo": "yes"})
        session.append("user.message", {"content": TASK}, key="task")
        for orphan in unanswered(session):
            session.append(
                "agent.tool_result",
                {"tool_use_id": orphan.data["id"], "content": "interrupted: whether it took effect is not known"},
                outcome="unknown",
                caused_by=orphan,
                key=f"result:{orphan.data['id']}",
            )
        done = session.count(types="agent.tool_result", outcome=["ok", "error"])
        for number in range(done, len(SCRIPT)):
            step(session, folder, SCRIPT[number])
            if number == 2:
                session.checkpoint("test-written")
        session.append("agent.message", {"content": "Mended: an empty text holds no numbers."}, key="answer")


def step(session: Session, folder: Path, turn: Turn) -> None:
    """Record what is to be done, do it, record what came of it."""
    call = f"call-{session.size()}"
    use = session.append(
        "agent.tool_use",
        {"id": call, "name": turn.tool, "input": turn.input},
        rationale=turn.rationale,
        actor="agent",
        key=f"use:{call}",
    )
    said, well = use_tool(folder, turn)
    session.append(
        "agent.tool_result",
        {"tool_use_id": call, "content": said},
        outcome="ok" if well else "error",
        caused_by=use,
        key=f"result:{call}",
    )


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
