"""What is measured. Each function gives rows of the table."""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import everlog
from bench.bare import Bare
from everlog.core.decide import Tip, record
from everlog.core.prepare import prepare_batch

TEXT = "x" * 985  # a body of 1,000 bytes and a little
DATA = {"content": TEXT}
BODY = b'{"data":{"content":"' + TEXT.encode() + b'"}}'
EVENT = everlog.NewEvent("user.message", DATA)
ROUNDS = 5


class Row(NamedTuple):
    """A line of the table. ratio: to `beside`. target: what the design asks for, and whether it is met."""

    what: str
    value: float
    unit: str
    ratio: float | None = None
    beside: str = ""
    target: str = ""
    met: bool | None = None


def timed(call: Callable[[], Any]) -> float:
    """Give the seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def median_of(count: int, call: Callable[[], Any]) -> float:
    """Give the median seconds of several calls."""
    return statistics.median(timed(call) for _ in range(count))


# --- appending -----------------------------------------------------------------------------------
def singles(folder: Path, quick: bool) -> Iterator[Row]:
    """One writer, one append after another, beside the same rows written bare, in turns."""
    count = 200 if quick else 1_000
    store = everlog.open(folder / "single.db")
    session = store.create("s")
    bare = Bare(folder / "single-bare.db")
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS * 2):
        rows = bare.rows(count, BODY)
        theirs.append(timed(lambda rows=rows: [bare.append(row) for row in rows]) / count)
        ours.append(timed(lambda: [session.append("user.message", DATA) for _ in range(count)]) / count)
    one, other = statistics.median(ours), statistics.median(theirs)
    yield Row("bare SQLite, one writer", 1 / other, "/s")
    yield Row("durable append, one writer", 1 / one, "/s", other / one, "bare", "≥ 0.75", other / one >= 0.75)
    store.close()


def many(folder: Path, quick: bool) -> Iterator[Row]:
    """1, 8, 32 and 128 threads, then tasks, on one session."""
    total = 1_000 if quick else 6_000
    rates: dict[tuple[str, int], float] = {}
    for _ in range(1 if quick else 3):
        for writers in (1, 8, 32, 128):
            for kind, measure in (("threads", _threads), ("async tasks", _tasks)):
                amount = total // (10 if writers == 1 else 1)
                rate = measure(folder / f"{kind}-{writers}-{os.urandom(4).hex()}.db", writers, amount)
                rates[kind, writers] = max(rate, rates.get((kind, writers), 0.0))
    alone = rates["threads", 1]
    for (kind, writers), rate in sorted(rates.items()):
        wanted = {("threads", 32): 2.5, ("async tasks", 32): 6.0}.get((kind, writers))
        target = "" if wanted is None else f"≥ {wanted}"
        yield Row(
            f"durable append, {writers} {kind}", rate, "/s", rate / alone, "one writer", target,
            None if wanted is None else rate / alone >= wanted,
        )  # fmt: skip


def _threads(path: Path, writers: int, total: int) -> float:
    with everlog.open(path) as store:
        session = store.create("s")

        def work() -> None:
            for _ in range(total // writers):
                session.append("user.message", DATA)

        threads = [threading.Thread(target=work) for _ in range(writers)]

        def run() -> None:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        return total // writers * writers / timed(run)


def _tasks(path: Path, writers: int, total: int) -> float:
    async def main() -> float:
        async with await everlog.open_async(path) as store:
            session = await store.create("s")

            async def work() -> None:
                for _ in range(total // writers):
                    await session.append("user.message", DATA)

            start = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(writers)))
            return total // writers * writers / (time.perf_counter() - start)

    return asyncio.run(main())


def batches(folder: Path, quick: bool) -> Iterator[Row]:
    """Batches of 100 and 1,000, beside `executemany` of the same rows, in turns."""
    total = 10_000 if quick else 50_000
    for size in (100, 1_000):
        store = everlog.open(folder / f"batch-{size}.db")
        session = store.create("s")
        bare = Bare(folder / f"batch-{size}-bare.db")
        ours: list[float] = []
        theirs: list[float] = []
        events = [EVENT] * size
        for _ in range(ROUNDS):
            groups = [bare.rows(size, BODY) for _ in range(total // size // ROUNDS)]
            theirs.append(timed(lambda groups=groups: [bare.extend(rows) for rows in groups]) / (len(groups) * size))
            ours.append(timed(lambda groups=groups: [session.extend(events) for _ in groups]) / (len(groups) * size))
        one, other = statistics.median(ours), statistics.median(theirs)
        wanted = (f"≥ {0.4}", other / one >= 0.4) if size == 1_000 else ("", None)
        yield Row(f"bare executemany of {size}", 1 / other, "/s")
        yield Row(f"batches of {size}", 1 / one, "/s", other / one, "bare", *wanted)
        store.close()


def hashing(folder: Path, quick: bool) -> Iterator[Row]:
    """What the audit costs an event: salt, commitment, header, leaf, chain, nodes."""
    count = 20_000
    prepared = prepare_batch([EVENT], draw=os.urandom, read_cause=lambda _: b"", body_bytes_max=1 << 20)[0]
    tip = Tip(1, "0" * 32, "s", 1, "0" * 32, "0" * 32, 0, [], None, 0, os.urandom(32))
    salts = [os.urandom(32) for _ in range(count)]
    from everlog.core.header import commit_body

    spent = timed(lambda: [commit_body(salt, BODY) for salt in salts]) + timed(lambda: [os.urandom(32) for _ in salts])
    spent += timed(lambda: [record(tip, prepared, key=None, key_count=None, now=1) for _ in salts])
    micros = spent / count * 1e6
    yield Row("hashing, chaining, nodes", micros, "µs/event", None, "", "< 6", micros < 6)


def syncs(folder: Path, quick: bool) -> Iterator[Row]:
    """Syncs an acknowledged append costs, counted from outside by strace."""
    if shutil.which("strace") is None:
        yield Row("syncs an append (strace is not here)", float("nan"), "")
        return
    for writers in (1, 32):
        program = (
            "import everlog, sys, threading\n"
            "s = everlog.open(sys.argv[1]).create('s')\n"
            "work = lambda n: [s.append('note', {'content': 'x' * 985}) for _ in range(n)]\n"
            f"threads = [threading.Thread(target=work, args=(320 // {writers},)) for _ in range({writers})]\n"
            "[t.start() for t in threads]; [t.join() for t in threads]\n"
        )
        log = folder / f"strace-{writers}"
        path = str(folder / f"syncs-{writers}.db")
        command = [
            "strace",
            "-f",
            "-c",
            "-e",
            "trace=fsync,fdatasync",
            "-o",
            str(log),
            sys.executable,
            "-c",
            program,
            path,
        ]
        subprocess.run(command, check=True)
        calls = sum(
            int(line.split()[3]) for line in log.read_text().splitlines() if line.endswith(("fsync", "fdatasync"))
        )
        yield Row(f"syncs an append, {writers} threads", calls / 320, "")


# --- reading -------------------------------------------------------------------------------------
def long_session(folder: Path, quick: bool) -> Iterator[Row]:
    """One session of a million events (100,000 with --quick): slices, times, opening, forks."""
    size = 100_000 if quick else 1_000_000
    path = folder / "long.db"
    with everlog.open(path) as store:
        session = store.create("s")
        spent = timed(lambda: [session.extend([EVENT] * 1_000) for _ in range(size // 1_000)])
        yield Row(f"filling with {size:,} events", size / spent, "/s")
    bytes_held = size * len(BODY)
    on_disk = sum(file.stat().st_size for file in folder.glob("long.db*"))
    yield Row("bytes on disk", on_disk / bytes_held, "× bodies", None, "", "< 1.6", on_disk / bytes_held < 1.6)
    yield from _open(path, size)
    with everlog.open(path) as store:
        session = store.session("s")
        yield from _slices(session, size)
        for at, name in ((10, "10"), (size, f"{size:,}")):
            forks = median_of(100, lambda at=at: session.fork(at)) * 1e3
            yield Row(f"fork at {name}", forks, "ms", None, "", "< 1", forks < 1)
        for at, name in ((10, "10"), (size, f"{size:,}")):
            session.switch("b1") if session.branch().name != "b1" else None
            spent = []
            for _ in range(50):
                spent.append(timed(lambda at=at: session.rewind(at)))
                session.switch("b1")
            rewinds = statistics.median(spent) * 1e3
            yield Row(f"rewind to {name}", rewinds, "ms", None, "", "< 1", rewinds < 1)


def _slices(session: everlog.Session, size: int) -> Iterator[Row]:
    first = median_of(50, lambda: next(iter(session))) * 1e3
    yield Row("the first event", first, "ms", None, "", "< 1", first < 1)
    for length in (20, 500, 100_000):
        length = min(length, size)
        for name, start in (("front", 0), ("middle", (size - length) // 2), ("end", size - length)):
            seconds = median_of(3 if length > 1_000 else 50, lambda s=start, n=length: session.slice(s, s + n))
            wanted = ("≥ 400,000", length / seconds >= 400_000) if length > 1_000 else ("", None)
            yield Row(f"slice of {length:,}, {name}", length / seconds, "events/s", None, "", *wanted)
    middle = session[size // 2].recorded_at
    yield Row(
        "time range, its first 20", median_of(50, lambda: list(session.events(since=middle, limit=20))) * 1e3, "ms"
    )


def _open(path: Path, size: int) -> Iterator[Row]:
    program = (
        "import re, time, sys, everlog\n"
        "start = time.perf_counter()\n"
        "s = everlog.open(sys.argv[1]).session('s'); s[-20:]\n"
        "spent = (time.perf_counter() - start) * 1e3\n"
        "print(spent, int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024)\n"
    )
    read: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        ran = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
        millis, mebibytes = ran.stdout.split()
        read.append((float(millis), float(mebibytes)))
    millis, mebibytes = (statistics.median(values) for values in zip(*read, strict=True))
    yield Row(f"open {size:,} events, read the last 20", millis, "ms", None, "", "< 100", millis < 100)
    yield Row("memory of that process", mebibytes, "MiB", None, "", "< 60", mebibytes < 60)


def lineage(folder: Path, quick: bool) -> Iterator[Row]:
    """A lineage of a thousand rewinds beside a flat branch of the same size, read whole."""
    rewinds = 200 if quick else 1_000
    with everlog.open(folder / "lineage.db", durability="relaxed") as store:
        deep, flat = store.create("deep"), store.create("flat")
        for _ in range(rewinds):
            deep.extend([EVENT] * 10)
            deep.rewind(-2)
        flat.extend([EVENT] * min(10_000, deep.size()))
        for session in (deep, flat):
            session.slice()
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(ROUNDS * 2):
            ours.append(timed(deep.slice) / deep.size())
            theirs.append(timed(flat.slice) / flat.size())
        ratio = statistics.median(ours) / statistics.median(theirs)
        yield Row(
            f"a lineage of {rewinds:,} rewinds, read",
            1 / statistics.median(ours),
            "events/s",
            ratio,
            "flat, slower by",
            "≤ 2",
            ratio <= 2,
        )


def following(folder: Path, quick: bool) -> Iterator[Row]:
    """From an append in one process to its sight in another; both read one monotonic clock."""
    path = str(folder / "follow.db")
    count = 100 if quick else 400
    with everlog.open(path) as store:
        session = store.create("s")
        program = (
            "import everlog, sys, time, random\n"
            "s = everlog.open(sys.argv[1]).session('s')\n"
            "for _ in range(int(sys.argv[2])):\n"
            "    s.append('note', {'content': str(time.monotonic_ns())})\n"
            "    time.sleep(random.random() * 0.02)\n"
        )
        writer = subprocess.Popen([sys.executable, "-c", program, path, str(count)])
        seen: list[float] = []
        for event in session.follow("start", idle=20):
            seen.append((time.monotonic_ns() - int(event.data["content"])) / 1e6)
            if len(seen) == count:
                break
        writer.wait()
    seen.sort()
    p50, p99 = seen[len(seen) // 2], seen[int(len(seen) * 0.99)]
    yield Row("append to seen, across processes, p50", p50, "ms")
    yield Row("append to seen, across processes, p99", p99, "ms", None, "", "< 50", p99 < 50)


WORK: dict[str, Callable[[Path, bool], Iterator[Row]]] = {
    "single": singles,
    "many": many,
    "batches": batches,
    "hashing": hashing,
    "syncs": syncs,
    "lineage": lineage,
    "following": following,
    "long": long_session,
}
