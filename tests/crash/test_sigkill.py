"""A process that appends is killed at any moment: what it was told is kept is there, with its hash, and the log is whole."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import everlog

APPENDER = Path(__file__).with_name("appender.py")
ROUNDS = 200
VERIFY_EVERY = 20
DEADLINE_SECONDS = 30.0


class Zygote:
    """A process that forks appenders on one store; lines are what it and they say."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.process = process
        self._ask, self._out = process.stdin, process.stdout.fileno()
        os.set_blocking(self._out, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)
        self._held = b""

    def start(self, seed: int) -> None:
        self._ask.write(f"{seed}\n".encode())
        self._ask.flush()

    def lines(self, seconds: float) -> Iterator[dict[str, Any]]:
        """Give what is said within so many seconds from now, as it is said."""
        deadline = time.monotonic() + seconds
        while True:
            line, newline, rest = self._held.partition(b"\n")
            if newline:
                self._held = rest
                yield json.loads(line)
            elif self._selector.select(max(0.0, deadline - time.monotonic())):
                said = os.read(self._out, 1 << 16)
                assert said, "the zygote ended; its standard error says why"
                self._held += said
            else:
                return

    def close(self) -> None:
        self._selector.close()
        self._ask.close()
        self.process.wait(DEADLINE_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def zygote(path: Path) -> Iterator[Zygote]:
    command = [sys.executable, str(APPENDER), "zygote", str(path)]
    made = Zygote(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    try:
        yield made
    finally:
        made.close()


def killed_round(forker: Zygote, seed: int, moment: float) -> list[dict[str, Any]]:
    """Let an appender run, kill it so many seconds after its first acknowledgement; give all that it was told."""
    told: list[dict[str, Any]] = []
    child = 0
    forker.start(seed)
    for line in forker.lines(DEADLINE_SECONDS):
        if "at" in line:
            told.append(line)
        else:
            child = line["pid"]
        if told and child:
            break
    assert told and child, f"no append was acknowledged within {DEADLINE_SECONDS} s"
    told += forker.lines(moment)
    os.kill(child, signal.SIGKILL)
    for line in forker.lines(DEADLINE_SECONDS):
        if "ended" in line:
            assert line["ended"] == signal.SIGKILL, "the appender failed before it was killed; standard error says why"
            return told
        told.append(line)
    raise AssertionError("the killed appender did not end")


def check_round(session: everlog.Session, told: list[dict[str, Any]], before: int) -> None:
    """What was acknowledged stands where it was said to; nothing is half there, doubled or out of order."""
    events = session.slice(before)
    assert [event.position for event in events] == list(range(before, session.size()))
    found = {event.position: event for event in events}
    for line in told:
        for number, (position, digest) in enumerate(line["at"]):
            event = found[position]
            assert event.hash == digest
            assert event.data["name"] == line["name"]
            assert event.data.get("part", 0) == number
        assert found[line["at"][0][0]].key == line["key"]
    names = [(event.data["name"], event.data.get("part", 0)) for event in events]
    assert len(set(names)) == len(names)
    for event in events:
        if event.type == "crash.attached":
            assert event.attachment("a.bin") == event.data["name"].encode()
        if event.key is not None:
            assert session.find(event.key) == event


def check_batches_are_whole(session: everlog.Session, before: int) -> None:
    """A batch's events follow one another from part 0 on, each batch under one key that covers as many as are there."""
    parts: list[tuple[str, int]] = []
    for event in session.slice(before):
        if event.type == "crash.batch":
            parts.append((event.data["name"], event.data["part"]))
    for (name, part), (following, next_part) in zip(parts, parts[1:], strict=False):
        assert next_part == (part + 1 if following == name else 0)


def test_what_was_acknowledged_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    path = tmp_path / "crash.db"
    random = Random(20261123)
    with everlog.open(path) as store:
        store.create("crash")
    acknowledged: list[tuple[int, str]] = []
    lost_acknowledgements = 0
    with zygote(path) as forker:
        size = 0
        for number in range(ROUNDS):
            told = killed_round(forker, number, random.uniform(0.0, 0.06) if number % 4 else random.uniform(0.0, 0.003))
            with everlog.open(path) as store:
                session = store.session("crash")
                check_round(session, told, size)
                check_batches_are_whole(session, size)
                told_here = [(position, digest) for line in told for position, digest in line["at"]]
                lost_acknowledgements += session.size() - size - len(told_here)
                acknowledged += told_here
                after = session.append("crash.resumed", {"name": f"after round {number}"})
                assert after.position == session.size() - 1
                size = session.size()
                if number % VERIFY_EVERY == VERIFY_EVERY - 1:
                    session.verify().raise_for_faults()
    assert len(acknowledged) >= ROUNDS
    assert len({position for position, _ in acknowledged}) == len(acknowledged)
    assert lost_acknowledgements > 0, (
        "no kill came between a commit and its acknowledgement: the moments are not random"
    )
    with everlog.open(path) as store:
        session = store.session("crash")
        hashes = [event.hash for event in session]
        assert all(hashes[position] == digest for position, digest in acknowledged)
        report = store.verify()
        report.raise_for_faults()
        assert report.events == len(hashes) == session.size()


def test_an_append_repeated_after_a_kill_is_recorded_once(tmp_path: Path) -> None:
    path = tmp_path / "crash.db"
    with everlog.open(path) as store:
        store.create("crash")
    with zygote(path) as forker:
        told = [line for number in range(5) for line in killed_round(forker, number, 0.02)]
    with everlog.open(path) as store:
        session = store.session("crash")
        size = session.size()
        for event in [event for event in session if event.type == "crash.keyed"]:
            again = session.append("crash.keyed", event.data, key=event.key)
            assert again.repeated and again == event
        assert session.size() == size
        assert any(line["key"] for line in told)
