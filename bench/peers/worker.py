"""Measures one peer in a process of its own: takes orders as lines of JSON, gives an answer a line.

`python -m bench.peers.worker NAME` is started by bench/peers/run.py, with the Python that the peer is installed in.
`python -m bench.peers.worker NAME --syncs FILE WRITERS EACH` only appends, for strace to count. All clocks start and stop
here, the same for every peer.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from bench.peers.peer import PEERS, TEXT, LackingError, Maybe, Peer

SESSION = 200  # appends to a session before its writer begins a new one: LangGraph's cost grows with the session
T = TypeVar("T")


class Count:
    """Appends that were acknowledged, and what was said of the others."""

    def __init__(self) -> None:
        self.done = 0
        self.refused: list[str] = []

    def refuse(self, error: Exception) -> None:
        """Note an append that the peer did not take."""
        self.refused.append(f"{type(error).__name__}: {error}"[:120])


class Work:
    """The orders, by name. Each gives a dict."""

    def __init__(self, peer: Peer, runner: asyncio.Runner) -> None:
        self.peer = peer
        self.runner = runner

    def settle(self, value: Maybe[T]) -> T:
        """Give the value, running it on the loop where it is awaited."""
        return self.runner.run(settle(value)) if inspect.isawaitable(value) else value  # type: ignore[return-value]

    def open(self, path: str) -> dict[str, Any]:
        """Open a new file."""
        self.settle(self.peer.open(Path(path)))
        return {}

    def settings(self) -> dict[str, Any]:
        """Look at the connection; one append comes first, since some peers make their tables then."""
        self.appends(1, 1, 0)
        return {"settings": self.settle(self.peer.settings())}

    def appends(self, writers: int, each: int, seconds: float) -> dict[str, Any]:
        """Let writers append at the same time: `each`, or in sessions of SESSION until the time is over."""
        count, start = Count(), time.perf_counter()
        end = start + seconds if seconds else None
        rounds = each or SESSION
        if self.peer.tasks:
            self.runner.run(self._in_tasks(writers, rounds, end, count))
        else:
            self._in_threads(writers, rounds, end, count)
        spent = time.perf_counter() - start
        return {"rate": count.done / spent, "done": count.done, "refused": count.refused}

    async def _in_tasks(self, writers: int, rounds: int, end: float | None, count: Count) -> None:
        async def work() -> None:
            while True:
                append: Callable[[], Awaitable[object]] = await settle(self.peer.writer())  # type: ignore[assignment]
                for _ in range(rounds):
                    try:
                        await append()
                        count.done += 1
                    except Exception as error:
                        count.refuse(error)
                    if end is not None and time.perf_counter() > end:
                        return
                if end is None:
                    return

        await asyncio.gather(*(work() for _ in range(writers)))

    def _in_threads(self, writers: int, rounds: int, end: float | None, count: Count) -> None:
        def work(mine: Count) -> None:
            while True:
                append = self.settle(self.peer.writer())
                for _ in range(rounds):
                    try:
                        append()
                        mine.done += 1
                    except Exception as error:
                        mine.refuse(error)
                    if end is not None and time.perf_counter() > end:
                        return
                if end is None:
                    return

        counts = [Count() for _ in range(writers)]
        threads = [threading.Thread(target=work, args=(mine,)) for mine in counts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for mine in counts:
            count.done += mine.done
            count.refused += mine.refused

    def batches(self, calls: int, size: int) -> dict[str, Any]:
        """Append in batches."""

        def run() -> float:
            return timed(lambda: self.settle(self.peer.batch(size)))

        return {"value": size / statistics.median(run() for _ in range(calls))}

    def build(self, size: int) -> dict[str, Any]:
        """Make the session that the next orders are about."""
        return {"seconds": timed(lambda: self.settle(self.peer.build(size)))}

    def more(self, count: int) -> dict[str, Any]:
        """Append to the built session, one at a time, as one writer."""

        async def in_task() -> None:
            for _ in range(count):
                await settle(self.peer.append())

        def run() -> None:
            for _ in range(count):
                self.peer.append()

        return {"value": count / timed(lambda: self.runner.run(in_task()) if self.peer.tasks else run())}

    def read(self, last: int | None, times: int, size: int) -> dict[str, Any]:
        """Read the built session; what came is checked, outside of the clock."""
        spent: list[float] = []
        for _ in range(times):
            start = time.perf_counter()
            found = self.settle(self.peer.read(last))
            spent.append(time.perf_counter() - start)
            if len(found) != (last or size) or any(text != TEXT for text in found):
                raise AssertionError(f"{len(found)} events were read where {last or size} were written")
        return {"value": statistics.median(spent) * 1e3}

    def grow(self, count: int) -> dict[str, Any]:
        """Make a session of one event, and append the others one at a time; say what was written."""
        before = written()
        self.settle(self.peer.build(1))
        self.more(count - 1)
        return {"written": written() - before}

    def travel(self, count: int, times: int) -> dict[str, Any]:
        """Ask for the state at random places of a session that was grown to `count` events."""
        return self._travel("state_at", count, times)

    def document(self, changes: int) -> dict[str, Any]:
        """Change a state of 100 kB so many times."""
        if not hasattr(self.peer, "build_document"):
            raise LackingError("keeps no states")
        before = written()
        self.settle(self.peer.build_document(changes))
        return {"written": written() - before}

    def document_travel(self, count: int, times: int) -> dict[str, Any]:
        """Ask for the state after random changes."""
        return self._travel("document_at", count, times)

    def _travel(self, name: str, count: int, times: int) -> dict[str, Any]:
        ask = getattr(self.peer, name, None)
        if ask is None:
            raise LackingError("has no states of earlier places")
        places, spent = random.Random(1), []
        for _ in range(times):
            number = places.randrange(1, count + 1)
            start = time.perf_counter()
            found = self.settle(ask(number))
            spent.append(time.perf_counter() - start)
            if found != number:
                raise AssertionError(f"the state at {number} holds {found}")
        return {"value": statistics.median(spent) * 1e3}

    def forks(self, size: int, times: int) -> dict[str, Any]:
        """Fork a session near its end."""
        self.settle(self.peer.build_for_fork(size))
        return {"value": statistics.median(timed(lambda: self.settle(self.peer.fork())) for _ in range(times)) * 1e3}

    def close(self) -> dict[str, Any]:
        """Close the file."""
        self.settle(self.peer.close())
        return {}


def written() -> float:
    """Give the bytes that this process has passed to the system to write; NaN where the system does not say."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("nan")
    return float(next(line for line in lines if line.startswith("wchar")).split()[1])


async def settle(value: Maybe[T]) -> T:
    """Give the value, awaiting it where it is awaited."""
    return await value if inspect.isawaitable(value) else value  # type: ignore[return-value]


def timed(call: Callable[[], Any]) -> float:
    """Give the seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def load(name: str) -> Peer:
    """Import a peer and make it."""
    return importlib.import_module(PEERS[name]).Measured()


def count_syncs(work: Work, path: str, writers: int, each: int) -> None:
    """Only append, and say how many were acknowledged; whoever traces this process counts."""
    work.open(path)
    answer = work.appends(writers, each, 0) if each else {"done": 0}
    work.close()
    print(json.dumps(answer))


def main() -> None:
    """Take orders until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    if "--syncs" in sys.argv:
        with asyncio.Runner() as runner:
            path, writers, each = sys.argv[3:6]
            count_syncs(Work(load(sys.argv[1]), runner), path, int(writers), int(each))
        return
    os.dup2(2, 1)  # what a library prints is no answer
    with asyncio.Runner() as runner:
        work: Work | None = None
        for line in sys.stdin:
            order = json.loads(line)
            name = order.pop("do")
            try:
                work = Work(load(sys.argv[1]), runner) if work is None or name == "open" else work
                answer = getattr(work, name)(**order)
            except LackingError as lack:
                answer = {"lacks": str(lack)}
            except Exception as error:
                answer = {"failed": f"{type(error).__name__}: {error}"[:300]}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
