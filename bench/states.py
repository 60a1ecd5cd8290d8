"""States: at any position of a long session, at the head of a reopened one, what snapshots take, what a diff costs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import everlog
from bench.work import DATA, Row, median_of, timed

MEMBERS = 200  # of the document: about 100 kB
WORDS = [f"word{number}" for number in range(2_000)]
BATCH = 10_000
TURNS = 1_000
_READER = """
import json, random, statistics, sys, time
import everlog
def held():  # not ru_maxrss, which begins with what the process that started this one held
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
start = time.perf_counter()
store = everlog.open(sys.argv[1])
session = store.session("long")
state = session.state()
head = time.perf_counter() - start
memory = held()
size, random_places, spent = session.size(), random.Random(5), []
for _ in range(int(sys.argv[2])):
    place = random_places.randrange(size + 1)
    start = time.perf_counter()
    session.state(at=place)
    spent.append(time.perf_counter() - start)
spent.sort()
print(json.dumps({
    "head": head, "head_memory": memory, "median": statistics.median(spent), "p99": spent[int(len(spent) * 0.99)],
    "memory": held(), "state": len(json.dumps(state.value)),
}))
"""


def text_of(source: random.Random, characters: int) -> str:
    """Give so many characters of words in no order: what a plan or a list of findings is made of."""
    words: list[str] = []
    length = 0
    while length < characters:
        words.append(source.choice(WORDS))
        length += len(words[-1]) + 1
    return " ".join(words)[:characters]


def changes(count: int) -> Iterator[everlog.NewEvent]:
    """Give events of which every second changes a member of a document of 100 kB; the others are messages of 1 kB."""
    source = random.Random(3)
    yield everlog.NewEvent(
        "state.set", {"path": "", "value": {f"member{n}": {"text": text_of(source, 480)} for n in range(MEMBERS)}}
    )
    for number in range(1, count):
        if number % 2:
            yield everlog.NewEvent("user.message", DATA)
        else:
            value = {"text": text_of(source, 480), "number": number}
            yield everlog.NewEvent("state.set", {"path": f"/member{source.randrange(MEMBERS)}", "value": value})


def build_long(store: everlog.Store, size: int) -> everlog.Session:
    """Make the long session."""
    session = store.create("long")
    waiting: list[everlog.NewEvent] = []
    for event in changes(size):
        waiting.append(event)
        if len(waiting) == BATCH:
            session.extend(waiting)
            waiting.clear()
    if waiting:
        session.extend(waiting)
    return session


def states(folder: Path, quick: bool) -> Iterator[Row]:
    """A session of 1,000,000 events with a document of 100 kB."""
    size = 100_000 if quick else 1_000_000
    path = folder / "states.db"
    with everlog.open(path, durability="relaxed") as store:
        session = build_long(store, size)
        store.keeper.wait(600)
        bodies = sum(len(event.raw or b"") for page in session.pages() for event in page)
        kept = [info for info in store.snapshots(session) if info.reducer == "document"]
        share = sum(info.stored_bytes for info in kept) / bodies
        yield Row(f"snapshots of {size:,} events", len(kept), "")
        yield Row("snapshots, of the log's bytes", share * 100, "%", None, "", "< 5", share < 0.05)
        rebuilt = timed(lambda: store.rebuild_snapshots(session))
        yield Row(f"snapshots of {size:,} events taken anew", rebuilt, "s")
    ran = subprocess.run([sys.executable, "-c", _READER, str(path), "1000"], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    yield Row("the document", found["state"] / 1e3, "kB")
    head = found["head"] * 1e3
    yield Row(f"open {size:,} events, state at the head", head, "ms", None, "", "< 100", head < 100)
    median = found["median"] * 1e3
    yield Row("state at 1,000 random positions, median", median, "ms", None, "", "< 50", median < 50)
    yield Row("state at 1,000 random positions, p99", found["p99"] * 1e3, "ms")
    memory = found["memory"] / 1024
    yield Row("memory of that process, at most", memory, "MiB", None, "", "< 150", memory < 150)
    yield from _forks(path)


def _forks(path: Path) -> Iterator[Row]:
    with everlog.open(path) as store:
        session = store.session("long")
        forks = [session.fork(), session.fork()]
        for number, fork in enumerate(forks):
            source = random.Random(number)
            for _ in range(98):
                member = f"/member{source.randrange(MEMBERS)}/text"
                fork.append("state.set", {"path": member, "value": text_of(source, 480)})
        spent = median_of(21, lambda: forks[0].diff(forks[1], limit=100)) * 1e3
        yield Row("diff of two forks 100 events long", spent, "ms", None, "", "< 20", spent < 20)
        spent = median_of(5, lambda: session.why("/member7/number", limit=3)) * 1e3
        yield Row("why, the last 3 changes of a member", spent, "ms")
        spent = timed(lambda: session.bisect(lambda state: state.get("/member7/number", 0) > 1_000)) * 1e3
        yield Row("bisect of the whole session", spent, "ms")


def conversation(folder: Path, quick: bool) -> Iterator[Row]:
    """A conversation of 1,000 turns, a question and an answer each, its messages asked for as it grows: all that is stored."""
    path = folder / "talk.db"
    source = random.Random(2)
    text = 0
    spent: list[float] = []
    with everlog.open(path, durability="relaxed") as store:
        session = store.create("talk")
        for number in range(TURNS):
            for who, characters in (("user", 300), ("agent", 1_200)):
                said = text_of(source, source.randrange(characters // 2, characters * 3 // 2))
                text += len(said)
                session.append(f"{who}.message", {"content": said})
            if number % (50 if quick else 10) == 0:
                start = time.perf_counter()
                session.state("messages").as_anthropic()
                spent.append(time.perf_counter() - start)
        store.keeper.wait(60)
    stored = sum(file.stat().st_size for file in folder.glob("talk.db*"))
    ratio = stored / text
    yield Row(f"stored bytes of {TURNS:,} turns", stored / 1e3, "kB", ratio, "the text", "< 1.6", ratio < 1.6)
    yield Row("messages of the last turn, as Anthropic takes them", spent[-1] * 1e3, "ms")
