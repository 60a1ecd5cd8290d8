"""Eight processes on one file: positions without gaps, nothing lost or doubled, nobody starved, every head a prefix."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import everlog
from everlog.core import limits

APPENDER = Path(__file__).with_name("appender.py")
PROCESSES = 8
APPENDS = 150
# A process waits for its turn at most LOCK_SECONDS_MAX before BusyError; with turns it is far below this (law 3).
WAIT_SECONDS_MAX = 1.0
DEADLINE_SECONDS = 60  # for appends that take about two
WAITS_ALLOWED = 3  # of 1,200, for a machine that stops everything for a moment


def finished(process: subprocess.Popen[bytes]) -> bytes:
    """Wait for a process to end; give what it said."""
    try:
        return process.communicate(timeout=DEADLINE_SECONDS)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


def run_writers(path: Path, names: list[str]) -> list[list[dict[str, Any]]]:
    """Run a writer for each name, all at once; give what each was told."""
    writers = [
        subprocess.Popen(
            [sys.executable, str(APPENDER), "append", str(path), name, f"w{number}", str(APPENDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for number, name in enumerate(names)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert "ready" in json.loads(writer.stdout.readline())
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    said = [[json.loads(line) for line in finished(writer).splitlines()] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * len(writers)
    for number, lines in enumerate(said):
        assert lines.pop() == {"done": f"w{number}"}
        assert [line["number"] for line in lines] == list(range(APPENDS))
    return said


def check_told(session: everlog.Session, told: list[dict[str, Any]]) -> None:
    """Every acknowledgement was true, and every head that was given is that of a prefix of what there is now."""
    events = {event.position: event for event in session}
    for line in told:
        assert events[line["at"]].hash == line["hash"]
        assert events[line["at"]].data["number"] == line["number"]
        assert not line["repeated"]
        size, root = line["head"]
        assert size == line["at"] + 1
        assert session.head_at(size) == everlog.Head(size, root)


def check_waits(said: list[list[dict[str, Any]]], record: Any) -> None:
    longest = [max(line["waited"] for line in told) for told in said]
    record("longest_wait_seconds", longest)
    assert max(longest) < limits.LOCK_SECONDS_MAX
    slow = [line["waited"] for told in said for line in told if line["waited"] > WAIT_SECONDS_MAX]
    assert len(slow) <= WAITS_ALLOWED, f"a process starved: it waited {slow} s for its turns"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "many.db"


def test_eight_processes_append_to_one_session(path: Path, record_property: Any) -> None:
    with everlog.open(path) as store:
        store.create("shared")
    said = run_writers(path, ["shared"] * PROCESSES)
    with everlog.open(path) as store:
        session = store.session("shared")
        events = list(session)
        assert [event.position for event in events] == list(range(PROCESSES * APPENDS))
        found = [(event.data["writer"], event.data["number"]) for event in events]
        assert sorted(found) == sorted(
            (f"w{writer}", number) for writer in range(PROCESSES) for number in range(APPENDS)
        )
        for writer in range(PROCESSES):
            own = [number for name, number in found if name == f"w{writer}"]
            assert own == list(range(APPENDS)), "a writer's own appends lie in its order"
        assert [event.recorded_micros for event in events] == sorted(event.recorded_micros for event in events)
        for told in said:
            check_told(session, told)
        check_waits(said, record_property)
        session.verify().raise_for_faults()


def test_eight_processes_append_to_eight_sessions(path: Path, record_property: Any) -> None:
    names = [f"own-{number}" for number in range(PROCESSES)]
    with everlog.open(path) as store:
        for name in names:
            store.create(name)
    said = run_writers(path, names)
    with everlog.open(path) as store:
        for number, (name, told) in enumerate(zip(names, said, strict=True)):
            session = store.session(name)
            assert [event.position for event in session] == list(range(APPENDS))
            assert [event.data["number"] for event in session] == list(range(APPENDS))
            assert {event.data["writer"] for event in session} == {f"w{number}"}
            assert [line["head"][0] for line in told] == list(range(1, APPENDS + 1))
            check_told(session, told)
        fed = list(store.feed())
        assert len(fed) == PROCESSES * APPENDS
        assert len({event.id for event in fed}) == len(fed)
        check_waits(said, record_property)
        store.verify().raise_for_faults()


def test_eight_processes_that_make_one_store_at_once_make_one_store(path: Path) -> None:
    code = (
        "import sys, everlog\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "with everlog.open(sys.argv[1]) as store:\n"
        "    session = store.get_or_create('first')\n"
        "    session.append('note', {'content': 'x'})\n"
        "    print(store.id, session.uuid)\n"
    )
    makers = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(PROCESSES)
    ]
    for maker in makers:
        assert maker.stdout is not None and maker.stdout.readline() == b"ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write(b"go\n")
        maker.stdin.flush()
    said = {finished(maker) for maker in makers}
    assert [maker.returncode for maker in makers] == [0] * PROCESSES
    assert len(said) == 1
    with everlog.open(path) as store:
        assert len(store.session("first")) == PROCESSES
        store.verify().raise_for_faults()
