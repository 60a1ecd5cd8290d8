"""The store in PostgreSQL, beside a bare loop, SQLite and other libraries: all on one server of the run's own, with fsync."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import everlog
from bench.bare_postgres import Bare
from bench.steps import PEERS_PYTHON, ROOT, number_of
from bench.work import BODY, DATA, EVENT, ROUNDS, Row, median_of, timed
from everlog.testing.servers import PostgresServer

BATCH: Final = 1_000
FILL: Final = 10_000  # events that one append takes at most
ROUND_TRIPS: Final = {"append": 2, "slice": 1, "wake": 6}  # the most that are wanted

# What a new process takes to go on with a long session: once as it is found, then again and again. trip: an empty question.
_WAKER: Final = """
import json, statistics, sys, time
import everlog
def wake(store):
    start = time.perf_counter()
    woken = store.wake("long", holder="bench")
    state = woken.state()
    spent = time.perf_counter() - start
    woken.lease.release()
    return spent
start = time.perf_counter()
store = everlog.open(sys.argv[1])
opened = time.perf_counter() - start
first = wake(store)
again = statistics.median(wake(store) for _ in range(21))
trip = 0.0
if hasattr(store.storage, "connections"):
    def ask():
        start = time.perf_counter()
        store.storage.connections.fetch_all("read_clock")
        return time.perf_counter() - start
    trip = statistics.median(ask() for _ in range(51))
print(json.dumps({"opened": opened, "first": first, "again": again, "trip": trip}))
"""


def postgres(folder: Path, quick: bool) -> Iterator[Row]:
    """Appends, batches, reads, forks, waking, steps."""
    with PostgresServer.start(fsync=True) as server:
        url = server.url()
        yield from _singles(url, quick)
        yield from _many(url, quick)
        yield from _batches(url, quick)
        yield from _forks(url)
        yield from _feed(url, quick)
        yield from _long(url, folder, quick)
        yield from _peers(server, url, quick)


def _singles(url: str, quick: bool) -> Iterator[Row]:
    """One writer, one append after another, beside the bare loop, in turns."""
    count = 200 if quick else 500
    bare = Bare(url)
    ours: list[float] = []
    theirs: list[float] = []
    with everlog.open(url) as store:
        session = store.create("single")
        for _ in range(ROUNDS * 2):
            rows = bare.rows(count, BODY)
            theirs.append(timed(lambda rows=rows: [bare.append(row) for row in rows]) / count)
            ours.append(timed(lambda: [session.append("user.message", DATA) for _ in range(count)]) / count)
    bare.close()
    one, other = statistics.median(ours), statistics.median(theirs)
    yield Row("bare PostgreSQL, one writer", 1 / other, "/s")
    yield Row("durable append, one writer", 1 / one, "/s", other / one, "bare", "≥ 0.7", other / one >= 0.7)


# --- many writers --------------------------------------------------------------------------------
def _many(url: str, quick: bool) -> Iterator[Row]:
    """1, 8 and 32 threads on one session and on as many, and tasks, in turns."""
    total = 1_600 if quick else 4_800
    kinds: list[tuple[str, int, Callable[[], float]]] = []
    for writers in (1, 8, 32):
        amount = total // (4 if writers == 1 else 1)
        kinds.append((f"{writers} threads on one session", writers, lambda w=writers, n=amount: _threads(url, w, n, 1)))
        if writers > 1:
            spread = lambda w=writers, n=amount: _threads(url, w, n, w)
            kinds.append((f"{writers} threads on {writers} sessions", writers, spread))
        kinds.append((f"{writers} async tasks on one session", writers, lambda w=writers, n=amount: _tasks(url, w, n)))
    found: dict[str, list[float]] = {}
    for _ in range(1 if quick else 3):
        for what, _, measure in kinds:
            found.setdefault(what, []).append(measure())
    rates = {what: statistics.median(several) for what, several in found.items()}
    alone = rates["1 threads on one session"]
    for what, _, _ in kinds:
        yield Row(f"durable append, {what}", rates[what], "/s", rates[what] / alone, "one writer")


def _threads(url: str, writers: int, total: int, sessions: int) -> float:
    with everlog.open(url) as store:
        made = [store.create(f"threads-{os.urandom(6).hex()}") for _ in range(sessions)]

        def work(session: everlog.Session) -> None:
            for _ in range(total // writers):
                session.append("user.message", DATA)

        threads = [threading.Thread(target=work, args=(made[number % sessions],)) for number in range(writers)]

        def run() -> None:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        return total // writers * writers / timed(run)


def _tasks(url: str, writers: int, total: int) -> float:
    async def main() -> float:
        async with await everlog.open_async(url) as store:
            session = await store.create(f"tasks-{os.urandom(6).hex()}")

            async def work() -> None:
                for _ in range(total // writers):
                    await session.append("user.message", DATA)

            start = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(writers)))
            return total // writers * writers / (time.perf_counter() - start)

    return asyncio.run(main())


# --- batches, forks, the feed --------------------------------------------------------------------
def _batches(url: str, quick: bool) -> Iterator[Row]:
    """Batches of 1,000, beside the same rows as arrays and by COPY, in turns."""
    groups = 5 if quick else 10
    bare = Bare(url)
    spent: dict[str, list[float]] = {"unnest": [], "COPY": [], "ours": []}
    with everlog.open(url) as store:
        session = store.create("batches")
        for _ in range(ROUNDS):
            for name, write in (("unnest", bare.extend), ("COPY", bare.copy)):
                made = [bare.rows(BATCH, BODY) for _ in range(groups)]
                spent[name].append(timed(lambda made=made, write=write: [write(rows) for rows in made]))
            spent["ours"].append(timed(lambda: [session.extend([EVENT] * BATCH) for _ in range(groups)]))
    bare.close()
    rates = {name: groups * BATCH / statistics.median(several) for name, several in spent.items()}
    yield Row(f"bare unnest of {BATCH:,}", rates["unnest"], "/s")
    yield Row(f"bare COPY of {BATCH:,}", rates["COPY"], "/s")
    ratio = rates["ours"] / rates["unnest"]
    met = ratio >= 0.5 or rates["ours"] >= 60_000
    yield Row(f"batches of {BATCH:,}", rates["ours"], "/s", ratio, "unnest", "≥ 0.5 or 60,000", met)


def _forks(url: str) -> Iterator[Row]:
    with everlog.open(url) as store:
        session = store.create("forked")
        session.extend([EVENT] * 10_000)
        for at in (10, 10_000):
            yield Row(f"fork at {at:,}", median_of(100, lambda at=at: session.fork(at)) * 1e3, "ms")


def _feed(url: str, quick: bool) -> Iterator[Row]:
    """The feed of a store of its own: its sessions are spread over all buckets."""
    sessions, each = (32, 500) if quick else (64, 1_000)
    with everlog.open(f"{url}&schema=feed") as store:
        for number in range(sessions):
            store.create(f"feed-{number}").extend([EVENT] * each)
        rates: list[float] = []
        for _ in range(3):
            start = time.perf_counter()
            count = sum(1 for _ in store.feed())
            rates.append(count / (time.perf_counter() - start))
            assert count >= sessions * each
        yield Row(f"feed of {sessions} sessions", statistics.median(rates), "events/s")


# --- one long session ----------------------------------------------------------------------------
def _long(url: str, folder: Path, quick: bool) -> Iterator[Row]:
    """Slices of a session of a million events (100,000 with --quick), and waking it, beside the same in SQLite."""
    size = 100_000 if quick else 1_000_000
    path = str(folder / "long.db")
    places = {"PostgreSQL": f"{url}&schema=long", "SQLite": path}
    trips: dict[str, int] = {}
    for name, place in places.items():
        with everlog.open(place) as store:
            session = store.create("long")
            session.append("state.set", {"path": "/plan", "value": {"next": "x" * 1_000}})
            spent = timed(lambda session=session: [session.extend([EVENT] * FILL) for _ in range(size // FILL)])
            session.append("agent.tool_use", {"id": "a", "name": "bash", "input": {}})
            store.keeper.wait(600)
            yield Row(f"filling {name} with {size:,} events", size / spent, "/s")
    with everlog.open(places["PostgreSQL"]) as store, everlog.open(path) as beside:
        yield from _slices(store.session("long"), beside.session("long"), size)
        yield from _round_trips(store, trips)
    yield from _wake(places, size, trips["wake"] + trips["state"])


def _slices(ours: everlog.Session, beside: everlog.Session, size: int) -> Iterator[Row]:
    for length in (20, 500, 100_000):
        length = min(length, size)
        start = (size - length) // 2
        times = 5 if length > 1_000 else 50
        here, there = (median_of(times, lambda s=session: s.slice(start, start + length)) for session in (ours, beside))
        yield Row(f"slice of {length:,}, middle", length / here, "events/s", there / here, "SQLite")


def _round_trips(store: everlog.Store, trips: dict[str, int]) -> Iterator[Row]:
    """trips: takes how many each kind of work makes."""
    storage: Any = store.storage
    session = store.session("long")
    end = session.size()

    held: list[Any] = []
    work: dict[str, Callable[[], Any]] = {
        "append": lambda: session.append("user.message", DATA),
        "slice": lambda: session.slice(end - 500, end),
        "wake": lambda: held.append(store.wake("long", holder="bench")),
        "state": lambda: held[0].state("document"),
    }
    for name, call in work.items():
        before = storage.connections.round_trips
        call()
        count = storage.connections.round_trips - before
        most = ROUND_TRIPS.get(name)
        target, met = ("", None) if most is None else (f"≤ {most}", count <= most)
        yield Row(f"round trips: {name}", count, "", None, "", target, met)
        trips[name] = count
    held[0].lease.release()


def _wake(places: dict[str, str], size: int, trips: int) -> Iterator[Row]:
    found: dict[str, dict[str, float]] = {}
    for name, place in places.items():
        several: list[dict[str, float]] = []
        for _ in range(3):
            ran = subprocess.run([sys.executable, "-c", _WAKER, place], capture_output=True, text=True, check=True)
            several.append(json.loads(ran.stdout))
        found[name] = {key: statistics.median(each[key] for each in several) * 1e3 for key in several[0]}
    ours, theirs = found["PostgreSQL"], found["SQLite"]
    yield Row("one round trip, with nothing to do", ours["trip"], "ms")
    for key, what in (("opened", "open"), ("first", "first wake, with its state"), ("again", "wake, with its state")):
        yield Row(f"{what}, {size:,} events, SQLite", theirs[key], "ms")
        ratio = ours[key] / theirs[key]
        most = 2 * theirs[key] + trips * ours["trip"]
        wanted = (f"≤ 2 × and {trips} trips", ours[key] <= most) if key == "again" else ("", None)
        yield Row(f"{what}, {size:,} events", ours[key], "ms", ratio, "SQLite, slower by", *wanted)


# --- peers ---------------------------------------------------------------------------------------
def _peers(server: PostgresServer, url: str, quick: bool) -> Iterator[Row]:
    """Other libraries, each in a database of its own, where `dev.py bench --peers` has installed them; in turns with ours."""
    seconds, rounds = ("2", 1) if quick else ("3", 3)
    for module, what, writers, target in (
        ("eventsourcing_postgres", "eventsourcing, 1 writer", 1, None),
        ("eventsourcing_postgres", "eventsourcing, 8 writers", 8, 3.0),
        ("langgraph_postgres", "LangGraph's PostgresSaver, puts", 1, None),
    ):
        words = (str(writers), seconds) if module == "eventsourcing_postgres" else (seconds,)
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(rounds):
            found = _peer(server, module, *words)
            if found is not None:
                theirs.append(found)
                ours.append(_threads(url, writers, 800 if writers == 1 else 2_400, writers))
        if theirs:
            ratio = statistics.median(ours) / statistics.median(theirs)
            yield Row(what, statistics.median(theirs), "/s")
            wanted = ("", None) if target is None else (f"≥ {target:.0f}", ratio >= target)
            shown = f"ours beside it, {writers} thread{'s' * (writers > 1)} on as many sessions"
            yield Row(shown, statistics.median(ours), "/s", ratio, what.partition(",")[0], *wanted)
    yield from _steps(server, url, quick)


def _steps(server: PostgresServer, url: str, quick: bool) -> Iterator[Row]:
    count = 200 if quick else 1_000
    with everlog.open(url) as store:
        store.create("steps")
        with store.wake("steps", holder="bench") as woken:
            run = woken.run()
            for number in range(20):
                run.step("warm", number_of, number)
            ours = count / timed(lambda: [run.step("step", number_of, number) for number in range(count)])
    theirs = _peer(server, "dbos_steps", str(count))
    ratio = None if theirs is None else ours / theirs
    yield Row("durable steps, one after another", ours, "/s", ratio, "DBOS")
    if theirs is not None:
        yield Row("durable steps of DBOS with PostgreSQL", theirs, "/s")


def _peer(server: PostgresServer, module: str, *words: str) -> float | None:
    """Run a peer in a new database; give what it measured, or None where it does not run."""
    if not PEERS_PYTHON.exists():
        return None
    name = f"{module}_{os.urandom(4).hex()}"
    server.create_database(name)
    command = [str(PEERS_PYTHON), "-m", f"bench.peers.{module}", server.url(name), *words]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        print(f"{module} does not run: {ran.stderr.strip()[-300:]}", file=sys.stderr)
        return None
    return float(ran.stdout.split()[-1])
