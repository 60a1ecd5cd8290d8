"""Searching: filling the index, finding with it and without, and what it costs who appends."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final

import everlog
from bench.contexts import WORDS
from bench.work import Row, timed
from everlog import NewEvent

LONG: Final = 100_000
SESSIONS: Final = 200
BATCH: Final = 500
PLANTED: Final = 37  # the event, among the first, that a word stands in which no other holds
QUERIES: Final = {
    "a word that stands in one of the first events": "quizzaciously",
    "a word that most events hold, ranked": "parser",
    "two words": "timeout parser",
    "a word of one label's sessions": "parser label.user:u7",
    "two Chinese characters and more": "解析器崩溃",
    "words and filters": "timeout type:agent.tool_result outcome:error session:run-1*",
    "type": "type:agent.tool_result",
    "outcome": "outcome:error",
    "actor": "actor:planner",
    "label": "label.user:u7",
    "two letters, which no index finds": "qz",
}
_WORDS: Final = [*dict.fromkeys(WORDS), "result", "of", "command"]
_RARE: Final = 20_000  # names and numbers, of which each event holds a few


def events(start: int, count: int, chance: Random) -> list[NewEvent]:
    """Give events of about 1 kB."""
    made: list[NewEvent] = []
    for number in range(start, start + count):
        words = chance.choices(_WORDS, k=110) + [f"name_{chance.randrange(_RARE)}" for _ in range(30)]
        if number % 50 == 0:
            words.append("timeout")
        if number % 1_000 == 0:
            words.append("解析器崩溃了")
        if number == PLANTED:
            words.append("quizzaciously")
        chance.shuffle(words)
        kind = "agent.tool_result" if number % 3 == 0 else "agent.message"
        data = {"content": " ".join(words), **({"tool_use_id": f"c{number}"} if number % 3 == 0 else {})}
        made.append(
            NewEvent(
                kind, data, actor="planner" if number % 7 == 0 else None, outcome="error" if number % 40 == 0 else None
            )
        )
    return made


def filled(store: everlog.Store, count: int) -> None:
    """Fill a store with sessions of the same length."""
    chance = Random(5)
    sessions = [store.create(f"run-{number}", labels={"user": f"u{number % 50}"}) for number in range(SESSIONS)]
    for place, start in enumerate(range(0, count, BATCH)):
        sessions[place % SESSIONS].extend(events(start, BATCH, chance))


def _size(file: Path) -> int:
    return file.stat().st_size


def median_of(call: Callable[[], object], times: int = 11) -> float:
    return statistics.median(timed(call) for _ in range(times))


def search(folder: Path, quick: bool) -> Iterator[Row]:
    """Searching in SQLite."""
    count = LONG // 10 if quick else LONG
    path = folder / "s.db"
    with everlog.open(path) as store:
        filled(store, count)
        taken = timed(lambda: store.search("quizzaciously"))
        yield Row("events taken into an index", count / taken, "a second")
        index, whole = (sum(map(_size, folder.glob(f"{name}*"))) for name in ("s.db-search", "s.db"))
        yield Row("  bytes of the index, to those of the store", index / (whole - index), "")
        for what, query in QUERIES.items():
            yield Row(f"search: {what}", 1e3 * median_of(lambda query=query: store.search(query)), "ms")
        yield from _beside_a_scan(store)
    yield from _appending(folder)


def _beside_a_scan(store: everlog.Store) -> Iterator[Row]:
    """The same, by looking at every event of every session."""

    def scan(query: str) -> list[everlog.Event]:
        return [event for info in store.sessions(limit=1_000) for event in store.session(info.id).events(query)]

    for query in ("quizzaciously", "outcome:error"):
        assert len(scan(query)) >= len(store.search(query).hits) > 0
        scanned, found = timed(lambda query=query: scan(query)), median_of(lambda query=query: store.search(query))
        yield Row(f"scan of all sessions: {query}", 1e3 * scanned, "ms", scanned / found, "search")


def _appending(folder: Path) -> Iterator[Row]:
    """Appends of one event to two stores in turns; one of them is searched and summarized after every fifty."""
    chance = Random(6)
    with everlog.open(folder / "never.db") as never, everlog.open(folder / "searched.db") as searched:
        taken: dict[everlog.Store, list[float]] = {never: [], searched: []}
        sessions = {store: store.create("appends") for store in taken}
        for turn in range(60):
            new = events(turn * 50, 50, chance)
            for store in (never, searched) if turn % 2 else (searched, never):
                session = sessions[store]
                taken[store] += [timed(lambda each=each: session.append(each.type, each.data)) for each in new]
            assert searched.search("parser").hits
            sessions[searched].summarize()
    plain, used = (statistics.median(taken[store]) for store in (never, searched))
    yield Row("append to a store that is never searched or summarized", 1e6 * plain, "µs")
    what = "append to one that is searched and summarized after every fifty"
    yield Row(what, 1e6 * used, "µs", used / plain, "the one before", "< 1.05", used / plain < 1.05)
