"""A holder that is stopped past its lease and goes on, or is killed: nothing of it is accepted once another may hold it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import everlog
from everlog.stores.ticks import read_ticks

HOLDER = Path(__file__).with_name("holder.py")
DEADLINE_SECONDS = 30.0
TTL = 1.0


class Holder:
    """A process that does as it is told. See holder.py."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def ask(self, **asked: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process ended; its standard error says why"
        return json.loads(line)

    def do(self, **asked: Any) -> dict[str, Any]:
        self.ask(**asked)
        return self.answer()


@contextmanager
def holder(path: Path, shift_hours: float = 0) -> Iterator[Holder]:
    process = subprocess.Popen(
        [sys.executable, str(HOLDER), str(path), str(shift_hours * 3600)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield Holder(process)
    finally:
        process.stdin.close()
        try:
            process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()


def until_of(path: Path) -> int:
    """Give the ticks up to which the session's lease lives."""
    with everlog.open(path) as store:
        lease = store.storage.lease(store.session("s").uuid)
    assert lease is not None
    return lease.until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with everlog.open(tmp_path / "s.db") as store:
        store.create("s")
    return tmp_path / "s.db"


@pytest.mark.parametrize(("one_hours", "other_hours"), [(0, 0), (1, -1), (-1, 1)])
def test_nothing_of_a_holder_that_was_stopped_past_its_lease_is_accepted(
    path: Path, one_hours: int, other_hours: int
) -> None:
    with holder(path, one_hours) as one, holder(path, other_hours) as other:
        assert one.do(take="one", ttl=TTL) == {"token": 1}
        first = one.do(append="before")
        assert abs(first["recorded"] / 1e6 - time.time() - one_hours * 3600) < 600, "the clock is wrong, as asked for"
        assert other.do(append="x") == {"error": "fenced"}
        os.kill(one.process.pid, signal.SIGSTOP)
        try:
            os.waitid(os.P_PID, one.process.pid, os.WSTOPPED | os.WNOWAIT)
            for number in range(20):
                one.ask(append=f"late {number}", type=("agent.message", "user.message", "note")[number % 3])
            one.ask(do="renew")
            until = until_of(path)
            assert other.do(take="other", ttl=60, timeout=DEADLINE_SECONDS) == {"token": 2}
            assert read_ticks().micros >= until, "it was taken over before its time"
            assert "at" in other.do(append="after")
        finally:
            os.kill(one.process.pid, signal.SIGCONT)
        assert [one.answer() for _ in range(21)] == [{"error": "fenced"}] * 21
        assert "at" in other.do(append="after that")
        assert other.do(do="release") == {"did": "release"}
        assert one.do(append="late, and nobody holds it") == {"error": "fenced"}
        assert one.do(take="one", ttl=TTL) == {"token": 3}
        assert "at" in one.do(append="with a new lease")
    with everlog.open(path) as store:
        said = [event.data["content"] for event in store.session("s") if "content" in event.data]
        assert said == ["before", "after", "after that", "with a new lease"]
        store.verify().raise_for_faults()


def test_the_lease_of_a_killed_holder_is_free_after_its_time_and_not_before(path: Path) -> None:
    with holder(path, 1) as one, holder(path, -1) as other:
        assert one.do(take="one", ttl=TTL) == {"token": 1}
        one.process.kill()
        one.process.wait(DEADLINE_SECONDS)
        until = until_of(path)
        refused = other.do(take="other", ttl=60)
        assert refused == {"error": "fenced"} or read_ticks().micros >= until
        assert other.do(take="other", ttl=60, timeout=DEADLINE_SECONDS) == {"token": 2}
        assert read_ticks().micros >= until, "it was taken over before its time"
        assert "at" in other.do(append="after")
    with everlog.open(path) as store:
        told = [(event.type, event.outcome) for event in store.session("s").events(types=["lease.*"])]
        assert told == [("lease.acquired", None), ("lease.released", "timeout"), ("lease.acquired", None)]
        store.verify().raise_for_faults()
