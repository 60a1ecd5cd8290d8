"""Contexts of a long session: what summarizing costs, what a context costs, how much of its front stays, what summaries keep."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import everlog
from bench.work import Row
from everlog import NewEvent

LONG: Final = 100_000
BUDGETS: Final = (2_000, 8_000, 32_000, 200_000)
WANTED_MS: Final = 50
TURNS: Final = 200
WORDS: Final = tuple(
    "look the parser fails when input is empty so a test was added and run again with the new flag set".split()  # noqa: SIM905
)
_MAKER: Final = """
import json, statistics, sys, time
import everlog
store = everlog.open(sys.argv[1])
session = store.session("long")
budget = int(sys.argv[2])
first = time.perf_counter()
context = session.context(budget)
first = time.perf_counter() - first
again = []
for _ in range(11):
    start = time.perf_counter()
    context = session.context(budget)
    again.append(time.perf_counter() - start)
memory = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
print(json.dumps({"first": first, "again": statistics.median(again), "memory": memory, "tokens": context.tokens}))
"""


def turn(number: int, chance: Random) -> list[NewEvent]:
    """Give the events of one turn: what is said, and what a tool says."""
    said = " ".join(chance.choices(WORDS, k=chance.randint(5, 40)))
    events = [NewEvent("user.message", {"content": said})] if number % 6 == 0 else []
    answer = {"content": " ".join(chance.choices(WORDS, k=chance.randint(5, 30))), "message_id": f"m{number}"}
    use = {
        "id": f"c{number}",
        "name": "bash",
        "input": {"cmd": f"pytest tests/test_{number % 50}.py"},
        "message_id": f"m{number}",
    }
    result = {"tool_use_id": f"c{number}", "content": " ".join(chance.choices(WORDS, k=chance.randint(5, 200)))}
    return [
        *events,
        NewEvent("agent.message", answer),
        NewEvent("agent.tool_use", use),
        NewEvent("agent.tool_result", result),
    ]


def contexts(folder: Path, quick: bool) -> Iterator[Row]:
    """A session of 100,000 events, summarized as it grew; then one of 200 turns."""
    wanted = LONG // 10 if quick else LONG
    path, chance = folder / "long.db", Random(7)
    appended = summarized = 0.0
    summaries = number = 0
    with everlog.open(path) as store:
        session = store.create("long")
        session.append("system.message", {"content": "You mend parsers, carefully."})
        while session.head.size < wanted:
            events = [event for each in range(number, number + 100) for event in turn(each, chance)]
            number += 100
            start = time.perf_counter()
            session.extend(events)
            appended += time.perf_counter() - start
            start = time.perf_counter()
            summaries += len(session.summarize())
            summarized += time.perf_counter() - start
        size = session.size()
        start = time.perf_counter()
        session.summarize()
        nothing = time.perf_counter() - start
    yield Row("a summary, written durably", 1e3 * summarized / summaries, "ms")
    yield Row("summarizing, where nothing is due", 1e3 * nothing, "ms")
    for budget in BUDGETS:
        ran = subprocess.run(
            [sys.executable, "-c", _MAKER, str(path), str(budget)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ,
        )
        found = json.loads(ran.stdout)
        milliseconds = 1e3 * found["again"]
        what = f"context of {budget:,} tokens, {size:,} events"
        yield Row(what, milliseconds, "ms", None, "", f"< {WANTED_MS}", milliseconds < WANTED_MS)
        yield Row(f"  the first in a process, for {budget:,} tokens", 1e3 * found["first"], "ms")
        yield Row(f"  memory of that process, for {budget:,} tokens", found["memory"] / 1024, "MiB")
        yield Row(f"  of the budget used, for {budget:,} tokens", 100 * found["tokens"] / budget, "%")
    for budget in (2_000, 8_000, 32_000):
        yield from _stable(budget)


def _stable(budget: int) -> Iterator[Row]:
    """How much of the bytes of one turn's context the next begins with, on turns where no summary was written."""
    chance = Random(3)
    kept: list[float] = []
    with everlog.open("memory:") as store:
        session = store.create("s")
        session.append("system.message", {"content": "You mend parsers, carefully."})
        before = b""
        for number in range(TURNS):
            session.extend(turn(number, chance))
            written = session.summarize(leaf_tokens=min(2_000, budget // 4))
            now = session.context(budget).encoded
            if before and not written:
                differs = (at for at, (one, other) in enumerate(zip(before, now, strict=False)) if one != other)
                kept.append(next(differs, min(len(before), len(now))) / len(before))
            before = now
    stays = 100 * sum(each >= 0.9 for each in kept) / len(kept)
    yield Row(f"turns that keep 90 % of the front, {budget:,} tokens", stays, "%", None, "", "100", stays == 100)
    yield Row(f"  the front that stays, {budget:,} tokens, median", 100 * statistics.median(kept), "%")
