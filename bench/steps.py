"""Steps one after another, beside DBOS's; replaying many; waking a long session."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import everlog
from bench.work import EVENT, Row, timed

ROOT = Path(__file__).resolve().parents[1]
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
REPLAYED = 10_000
BATCH = 10_000
_WAKER = """
import json, sys, time
import everlog
start = time.perf_counter()
store = everlog.open(sys.argv[1])
woken = store.wake("long", holder="bench")
state = woken.state()
spent = time.perf_counter() - start
print(json.dumps({
    "spent": spent, "memory": int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]), "size": woken.size(),
    "in_flight": len(woken.pending.steps) + len(woken.pending.tools) + len(woken.pending.messages),
}))
woken.lease.release()
"""


def number_of(number: int) -> int:
    """What a step does here."""
    return number


def steps(folder: Path, quick: bool) -> Iterator[Row]:
    """Durable steps a second, one after another under a lease; and the same with DBOS where it is installed."""
    count = 200 if quick else 2_000
    with everlog.open(folder / "steps.db") as store:
        store.create("s")
        with store.wake("s", holder="bench") as woken:
            run = woken.run()
            for number in range(20):
                run.step("warm", number_of, number)
            spent = timed(lambda: [run.step("step", number_of, number) for number in range(count)])
    ours = count / spent
    theirs = _dbos(folder, count)
    ratio = None if theirs is None else ours / theirs
    yield Row("durable steps, one after another", ours, "/s", ratio, "DBOS", "> 640", ours > 640)
    if theirs is not None:
        yield Row("durable steps of DBOS with SQLite", theirs, "/s")
    yield from _replay(folder, quick)
    yield from _wake(folder, quick)


def _dbos(folder: Path, count: int) -> float | None:
    """Measure DBOS in the same run; None where it is not installed (`dev.py bench --peers` installs it)."""
    if not PEERS_PYTHON.exists():
        return None
    words = [str(PEERS_PYTHON), "-m", "bench.peers.dbos_steps", str(folder / "dbos.db"), str(count)]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return None if ran.returncode else float(ran.stdout.split()[-1])


def _replay(folder: Path, quick: bool) -> Iterator[Row]:
    count = REPLAYED // 10 if quick else REPLAYED
    with everlog.open(folder / "replay.db", durability="relaxed") as store:
        session = store.create("s")
        run = session.run()
        for number in range(count):
            run.step("step", number_of, number)
    with everlog.open(folder / "replay.db") as store:
        start = time.perf_counter()
        run = store.session("s").run()
        for number in range(count):
            assert run.step("step", number_of, number) == number
        spent = time.perf_counter() - start
    yield Row(f"replay of {count:,} finished steps", spent * 1e3, "ms", None, "", "< 1,000", spent < 1)


def _wake(folder: Path, quick: bool) -> Iterator[Row]:
    size = 100_000 if quick else 1_000_000
    path = folder / "long.db"
    with everlog.open(path, durability="relaxed") as store:
        session = store.create("long")
        session.append("state.set", {"path": "/plan", "value": {"next": "x" * 1_000}})
        for _ in range(size // BATCH):
            session.extend([EVENT] * BATCH)
        session.append("agent.tool_use", {"id": "a", "name": "bash", "input": {}})
        store.keeper.wait(600)
    ran = subprocess.run([sys.executable, "-c", _WAKER, str(path)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    spent, memory = found["spent"] * 1e3, found["memory"] / 1024
    yield Row(f"open and wake {size:,} events, with its state", spent, "ms", None, "", "< 100", spent < 100)
    yield Row("memory of that process, at most", memory, "MiB", None, "", "< 60", memory < 60)
