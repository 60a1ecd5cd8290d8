"""What clients in several processes are told of one session can be told in one order, also where some of them are killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import pytest
from msgspec.structs import replace

import everlog
from crash.linearize import FIRST, Model, Operation, explain, without_results
from crash.recorder import OPERATIONS, TTL, Client, labels_of
from databases import address
from everlog.session import Settings
from everlog.storage import Append, Request
from everlog.store import Store
from everlog.stores.memory import MemoryStorage

RECORDER = Path(__file__).with_name("recorder.py")
ROUNDS = {"sqlite": 14, "postgres": 6}  # those of PostgreSQL take three times as long
CLIENTS = 4
DEADLINE_SECONDS = 60.0


# --- from lines to histories ---------------------------------------------------------------------
def histories(store: everlog.Store, lines: list[dict[str, Any]]) -> dict[str, list[Operation]]:
    """Give the operations of each session."""
    asked: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines:
        place = (line["client"], line["number"])
        if "result" in line:
            asked[place]["returned"] = line["at"] / 1e9
            asked[place]["result"] = line["result"]
        else:
            asked[place] = line
    branches: dict[str, dict[str, str]] = {}
    found: dict[str, list[Operation]] = defaultdict(list)
    for line in asked.values():
        name = line["session"]
        if name not in branches:
            branches[name] = branch_labels(store.session(name))
        found[name].append(operation(line, branches[name]))
    return found


def branch_labels(session: everlog.Session) -> dict[str, str]:
    """Give for each branch's id the label of the rewind that made it."""
    first, *rest = session.branches()
    return {first.id: FIRST} | {branch.id: branch.event(branch.base).data["reason"] for branch in rest}


def operation(line: dict[str, Any], branches: dict[str, str]) -> Operation:
    expected = line.get("expected")
    made = Operation(
        line["kind"],
        line["label"],
        line["at"] / 1e9,
        keyed=line.get("keyed", False),
        inbox=line.get("inbox", False),
        token=line.get("token"),
        expected=None if expected is None else (branches[expected[0]], expected[1]),
        to=line.get("to", 0),
    )
    if "result" not in line or line["result"] == ["unknown"]:
        return made
    return dataclasses.replace(made, returned=line["returned"], result=tuple(line["result"]))


def final_read(session: everlog.Session) -> Operation:
    """What the session holds when all clients have ended: what was acknowledged and is gone fits nowhere then."""
    now = time.monotonic()
    return Operation("read", "in the end", now, now, ("labels", *labels_of(session.slice(0))))


def check(store: everlog.Store, lines: list[dict[str, Any]]) -> str | None:
    """Give None, or what is wrong with the history of a session."""
    for name, history in histories(store, lines).items():
        wrong = explain([*history, final_read(store.session(name))], ttl=TTL)
        if wrong is not None:
            return f"session {name}: {wrong}"
    return None


# --- the store, in processes that are killed -----------------------------------------------------
@contextmanager
def recorder(store: str) -> Iterator[Callable[[dict[str, Any]], list[int]]]:
    """Give a function that runs the clients of one history."""
    process = subprocess.Popen(
        [sys.executable, str(RECORDER), store],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def run(asked: dict[str, Any]) -> list[int]:
        stdin.write(json.dumps(asked).encode() + b"\n")
        stdin.flush()
        return json.loads(stdout.readline())

    try:
        yield run
    finally:
        stdin.close()
        process.wait(DEADLINE_SECONDS)
        stdout.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_histories_of_killed_clients_are_linearizable(kind: str, tmp_path: Path, record_property: Any) -> None:
    chance = Random(20261123)
    place = address(kind, tmp_path)
    told = killed = 0
    kinds: set[tuple[str, str]] = set()
    with everlog.open(place) as store, recorder(place) as run:
        for number in range(ROUNDS[kind]):
            sessions = [f"{number}-one", f"{number}-other"]
            for name in sessions:
                store.create(name)
            clients = [
                {
                    "name": f"c{each}",
                    "seed": number * CLIENTS + each,
                    "file": str(tmp_path / f"{number}-{each}.jsonl"),
                    "kill": chance.uniform(0.01, 0.15) if each < number % 3 else None,
                }
                for each in range(CLIENTS)
            ]
            ends = run({"sessions": sessions, "clients": clients})
            assert all(
                end == 0 or (end == -signal.SIGKILL and client["kill"])
                for end, client in zip(ends, clients, strict=True)
            )
            killed += sum(end != 0 for end in ends)
            lines = [json.loads(line) for client in clients for line in Path(client["file"]).read_bytes().splitlines()]
            wrong = check(store, lines)
            assert wrong is None, f"round {number}: {wrong}"
            told += sum("result" in line for line in lines)
            asked = {(line["client"], line["number"]): line["kind"] for line in lines if "kind" in line}
            kinds |= {(asked[line["client"], line["number"]], line["result"][0]) for line in lines if "result" in line}
        store.verify().raise_for_faults()
    record_property("operations", told)
    assert told > ROUNDS[kind] * OPERATIONS
    assert killed > ROUNDS[kind] // 4, "the moments come too late: no client was killed"
    for wanted in (
        ("append", "fenced"),
        ("append", "conflict"),
        ("append", "repeated"),
        ("rewind", "at"),
        ("rewind", "fenced"),
        ("take", "token"),
        ("take", "fenced"),
        ("release", "at"),
        ("fork", "labels"),
    ):
        assert wanted in kinds, "the clients meet too seldom"


# --- what the checker catches: histories by hand -------------------------------------------------
def at(kind: str, label: str, times: tuple[float, float], *result: Any, **members: Any) -> Operation:
    return Operation(kind, label, times[0], times[1], result, **members)


SOUND = [
    at("append", "x", (0, 1), "at", 0),
    at("append", "y", (0, 2), "at", 1),
    at("take", "A", (3, 4), "token", 1),
    at("append", "z", (5, 6), "fenced"),
    at("append", "n", (5, 6), "at", 3, inbox=True),
    at("append", "w", (7, 8), "at", 4, token=1),
    at("release", "r", (9, 10), "at", 5, token=1),
    at("read", "q", (11, 12), "labels", "x", "y", "acquired 1", "n", "w", "released 1"),
]


def test_a_sound_history_passes() -> None:
    assert explain(SOUND) is None
    assert explain(SOUND[::-1]) is None


def test_what_was_never_answered_may_have_happened_or_not() -> None:
    lost = without_results(at("append", "x", (0, 0)))
    after = [at("read", "q", (5, 6), "labels", "y"), at("read", "p", (7, 8), "labels", "y", "x")]
    first = at("append", "y", (1, 2), "at", 0)
    assert explain([lost, first]) is None
    assert explain([lost, first, *after]) is None, "it happened between the reads"
    assert explain([lost, first, after[1], at("read", "o", (9, 10), "labels", "y")]) is not None, "it came and went"


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("an acknowledged append is missing", {7: at("read", "q", (11, 12), "labels", "x", "acquired 1", "n", "w")}),
        ("events stand in another order", {0: at("append", "x", (0, 1), "at", 1)}),
        ("a position is given twice", {1: at("append", "y", (0, 2), "at", 0)}),
        ("a stranger appended under a lease", {3: at("append", "z", (5, 6), "at", 3)}),
        ("a token is given twice", {6: at("take", "B", (9, 10), "token", 1)}),
        ("a lease is taken while one lives", {6: at("take", "B", (9, 10), "token", 2)}),
        ("a read is stale", {7: at("read", "q", (11, 12), "labels", "x", "y")}),
        ("a holder is fenced", {5: at("append", "w", (7, 8), "fenced", token=1)}),
        ("an inbox type is fenced", {4: at("append", "n", (5, 6), "fenced", inbox=True)}),
        ("a size is of the future", {7: at("size", "q", (0, 0.5), "size", 6)}),
    ],
)
def test_a_history_with_a_fault_is_caught(what: str, changed: dict[int, Operation]) -> None:
    history = [changed.get(index, each) for index, each in enumerate(SOUND)]
    assert explain(history) is not None, what


def test_two_holders_who_both_append_are_caught() -> None:
    taken = [at("take", "A", (0, 1), "token", 1), at("append", "a", (2, 3), "at", 1, token=1)]
    over = at("take", "B", (12, 13), "token", 2)
    late = at("append", "late", (14, 15), "at", 4, token=1)
    stopped = at("append", "late", (2, 15), "at", 4, token=1)
    told = at("append", "late", (2, 15), "fenced", token=1)
    assert explain([*taken, over, told], ttl=10) is None
    assert explain([*taken, over, late], ttl=10) is not None
    assert explain([*taken, over, stopped], ttl=10) is not None, "it came after B's, wherever it was called"
    assert explain([*taken, over], ttl=20) is not None, "the lease was taken over before its time"


def test_keys_expectations_and_rewinds_are_checked() -> None:
    keyed = {"keyed": True}
    start = Model(("x", "y"))
    repeat = [at("append", "k", (0, 1), "at", 2, **keyed), at("append", "k", (2, 3), "repeated", 2, **keyed)]
    assert explain(repeat, start=start) is None
    assert explain([repeat[0], at("append", "k", (2, 3), "at", 3, **keyed)], start=start) is not None
    back = at("rewind", "b", (4, 5), "at", 1, to=1)
    again = at("append", "k", (6, 7), "at", 2, **keyed)
    assert explain([*repeat, back, again], start=start) is None, "a rewind below it frees a key"
    assert explain([*repeat, again], start=start) is not None
    for branch, size, result in (("b", 2, ("at", 2)), (FIRST, 2, ("conflict",)), ("b", 1, ("conflict",))):
        asked = at("append", "e", (6, 7), *result, expected=(branch, size))
        assert explain([back, asked], start=start) is None
        other = at("append", "e", (6, 7), *(("conflict",) if result[0] == "at" else ("at", 2)), expected=(branch, size))
        assert explain([back, other], start=start) is not None


# --- what the checker catches: stores that are broken on purpose ---------------------------------
class Forgetful(MemoryStorage):
    """Acknowledges one append in a few and does not keep it."""

    def write(self, request: Request) -> Any:
        with self._lock:
            if not isinstance(request, Append):
                return super().write(request)
            branch = self._branches[self.session_by_id(request.session_id).current]
            row, held = branch.row, len(branch.events)
            receipt = super().write(request)
            if receipt.size % 5 == 0 and len(branch.events) == held + 1 and branch.events[-1].key is None:
                branch.row = row
                branch.events.pop()
                self._feed.pop()
            return receipt


class Unfenced(MemoryStorage):
    """Looks at no lease when it appends."""

    def write(self, request: Request) -> Any:
        with self._lock:
            if not isinstance(request, Append):
                return super().write(request)
            leases, self._leases = self._leases, {}
            try:
                return super().write(replace(request, batch=replace(request.batch, lease=None)))
            finally:
                self._leases = leases


class Stale(MemoryStorage):
    """Gives heads as they were a moment ago, now and then."""

    kept: Any = None

    def current_branch(self, session_id: str) -> Any:
        now = super().current_branch(session_id)
        if self.kept is None or now.session != self.kept.session or now.size % 3 == 0:
            self.kept = now
        return self.kept


def recorded(storage: MemoryStorage, seed: int) -> tuple[Store, list[dict[str, Any]]]:
    """Run clients in threads on a store in memory."""
    store = Store(storage, Settings(os.urandom), url="memory:")
    store.create("s")
    lines: list[bytes] = []
    clients = [Client(store, ["s"], f"c{each}", seed * CLIENTS + each, lines.append) for each in range(CLIENTS)]
    threads = [Thread(target=client.run, args=(OPERATIONS,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    return store, [json.loads(line) for line in lines]


def wrong_of(kind: type[MemoryStorage], seed: int) -> str | None:
    store, lines = recorded(kind(clock=lambda: time.time_ns() // 1000, draw=os.urandom), seed)
    try:
        return check(store, lines)
    finally:
        store.close()


@pytest.mark.parametrize("kind", [Forgetful, Unfenced, Stale])
def test_a_store_that_is_broken_on_purpose_is_caught(kind: type[MemoryStorage]) -> None:
    assert any(wrong_of(kind, seed) for seed in range(10))


def test_threads_on_a_store_in_memory_are_linearizable() -> None:
    for seed in range(5):
        assert wrong_of(MemoryStorage, seed) is None
