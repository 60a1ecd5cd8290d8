"""Writers in a process of their own, and whether what they were told is true.

writers.py URL SEED THREADS COUNT FILE SESSION…     each thread appends COUNT times, or until standard input ends; FILE gets a line
                                                    for each append, when it is known what became of it
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import everlog
from everlog.errors import BusyError, OutcomeUnknownError, UnavailableError

DEADLINE_SECONDS = 1_200.0
FOR_EVER = 1_000_000


class Writers:
    """A process of writers, as the test holds it."""

    def __init__(self, url: str, file: Path, sessions: Sequence[str], *, seed: int, threads: int, count: int) -> None:
        self.file, self.threads = file, threads
        self.killed = False
        words = [sys.executable, __file__, url, str(seed), str(threads), str(count), str(file), *sessions]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )

    def begun(self) -> None:
        """Wait until its store is open."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n", self.process.communicate()[1].decode()

    def kill(self) -> None:
        self.killed = True
        self.process.kill()

    def lines(self) -> list[dict[str, Any]]:
        """Give what was said so far."""
        said = self.file.read_bytes() if self.file.exists() else b""
        return [json.loads(line) for line in said.splitlines()]

    def end(self) -> list[dict[str, Any]]:
        """Let it end; give all that it said."""
        errors = self.process.communicate(timeout=DEADLINE_SECONDS)[1]
        assert self.killed or self.process.returncode == 0, errors.decode()
        return self.lines()


def check(store: everlog.Store, writers: Sequence[Writers], told: Sequence[dict[str, Any]]) -> dict[str, int]:
    """What was acknowledged is there once and as it was told, what was refused is not, and nothing is there twice or in part."""
    found: dict[str, list[everlog.Event]] = defaultdict(list)
    for info in store.sessions(limit=1_000):
        events = list(store.session(info.id))
        assert [event.position for event in events] == list(range(len(events)))
        for event in events:
            if event.type == "written":
                found[event.data["name"]].append(event)
    for name, events in found.items():
        assert [event.data["part"] for event in events] == list(range(events[0].data["parts"])), name
        at = events[0].position
        assert [event.position for event in events] == list(range(at, at + len(events))), name
    for line in told:
        events = found.get(line["name"], [])
        if "at" in line:
            assert [[event.position, event.hash] for event in events] == line["at"], line
        else:
            assert "unknown" in line or not events, f"it was said to be refused: {line}"
    for line in [line for line in told if line.get("key") and "at" in line][-40:]:
        assert store.session(line["session"]).find(line["key"]).position == line["at"][0][0]
    unsaid = set(found) - {line["name"] for line in told}
    assert len(unsaid) <= sum(each.threads for each in writers if each.killed), unsaid
    fed = [event.id for event in store.feed()]
    assert len(fed) == len(set(fed)) == sum(info.size for info in store.sessions(limit=1_000))
    store.verify().raise_for_faults()
    return {kind: sum(kind in line for line in told) for kind in ("at", "unknown", "refused")}


class Writing:
    """Appends one after the other, in a thread of its own."""

    def __init__(self, store: everlog.Store, names: Sequence[str], file: int, stopped: threading.Event) -> None:
        self.sessions = [store.session(name) for name in names]
        self.file, self.stopped = file, stopped

    def run(self, seed: str, count: int) -> None:
        chance = random.Random(seed)
        for number in range(count):
            if self.stopped.is_set():
                return
            name, session = f"{seed}-{number}", chance.choice(self.sessions)
            parts = chance.choice([1, 1, 1, 3])
            fill = "x" * chance.choice([0, 10, 500, 5_000])
            data = [{"name": name, "part": part, "parts": parts, "fill": fill} for part in range(parts)]
            key = name if chance.random() < 0.5 else None
            self.append(session, name, [everlog.NewEvent("written", each) for each in data], key)

    def append(self, session: everlog.Session, name: str, events: list[everlog.NewEvent], key: str | None) -> None:
        line: dict[str, Any] = {"name": name, "session": session.id, "key": key}
        while not line.keys() & {"at", "refused"}:
            try:
                line["at"] = [[event.position, event.hash] for event in session.extend(events, key=key)]
            except OutcomeUnknownError as error:
                line["unknown"] = error.message
                if key is None:
                    break  # what has a key can be asked for
            except (BusyError, UnavailableError) as error:
                if "unknown" not in line:
                    line["refused"] = error.message
        os.write(self.file, json.dumps(line).encode() + b"\n")


def main(url: str, seed: str, threads: str, count: str, path: str, *names: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    stopped = threading.Event()
    with everlog.open(url) as store:
        writing = Writing(store, names, file, stopped)
        running = [
            threading.Thread(target=writing.run, args=(f"{seed}-{number}", int(count)))
            for number in range(int(threads))
        ]
        print("ready", flush=True)
        for thread in running:
            thread.start()
        if int(count) == FOR_EVER:
            with suppress(KeyboardInterrupt):
                sys.stdin.read()
            stopped.set()
        for thread in running:
            thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
