"""The session of OpenAI's Agents SDK: Everlog's beside the SDK's own `SQLiteSession`, each as it is when nothing is set.

What is added and taken off takes turns between the two, call by call, so that whatever else the machine does slows both.

PYTHONPATH=src python -m bench.frameworks_openai_agents
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agents import SQLiteSession
from agents.memory import Session

from bench.framework_table import main
from everlog.integrations.openai_agents import EverlogSession

TEXT = "word " * 200  # 1 kB
TURNS = 200
_TIMES = 200


def ours(folder: Path) -> dict[str, float]:
    """Measure Everlog's session; every append is synced."""
    return _kept(folder, EverlogSession) | asyncio.run(_measured(folder, EverlogSession))


def theirs(folder: Path) -> dict[str, float]:
    """Measure the SDK's; it leaves `synchronous` as SQLite has it, so every commit is synced too."""
    return _kept(folder, SQLiteSession) | asyncio.run(_measured(folder, SQLiteSession))


def _kept(folder: Path, make: Callable[[str, Path], Any]) -> dict[str, float]:
    sizes: list[int] = []
    for turns in (0, TURNS):
        place = folder / str(turns)
        place.mkdir()
        asyncio.run(_fill(place, make, turns))
        sizes.append(sum(file.stat().st_size for file in place.iterdir()))
    empty, full = sizes
    return {f"bytes of {TURNS} turns of 1 kB beyond an empty store's": full - empty, "bytes of an empty store": empty}


async def _measured(folder: Path, make: Callable[[str, Path], Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    session = make("read", folder / "read.db")
    for size in (100, 10_000):
        while (held := len(await session.get_items())) < size:
            await session.add_items([_said(number) for number in range(min(1_000, size - held))])
        found[f"reading the last 20 of {size:,}, µs"] = (await _timed([lambda: session.get_items(20)]))[0]
    session.close()
    return found


async def _in_turns(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Add items to both, and take them off again, in turns; give the figures of each, Everlog's first."""
    sessions = [make("turns", folder / f"{make.__name__}.db") for make in (EverlogSession, SQLiteSession)]
    for session in sessions:
        for _ in range(10):  # until the write-ahead log of either has stopped growing
            await session.add_items([_said(number) for number in range(1_000)])
    adding = await _timed([lambda session=session: session.add_items([_said(0)]) for session in sessions])
    taking = await _timed([session.pop_item for session in sessions])
    for session in sessions:
        session.close()
    ours, theirs = (
        {"adding one item, µs": adding[place], "taking one off, µs": taking[place]} for place in range(len(sessions))
    )
    return ours, theirs


async def _fill(folder: Path, make: Callable[[str, Path], Any], turns: int) -> None:
    session: Session = make("s", folder / "s.db")
    await session.get_items()
    for number in range(turns):
        await session.add_items([{"role": "user", "content": TEXT[:500]}, _said(number)])
    session.close()  # type: ignore[attr-defined]


def _said(number: int) -> Any:
    part = {"type": "output_text", "text": TEXT[:500], "annotations": [], "logprobs": []}
    return {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed", "content": [part]}


async def _timed(calls: list[Callable[[], Any]]) -> list[float]:
    """Make each call, one after the other and again; give the median of each in µs."""
    spent: list[list[float]] = [[] for _ in calls]
    for _ in range(_TIMES):
        for call, times in zip(calls, spent, strict=True):
            started = time.perf_counter()
            await call()
            times.append(time.perf_counter() - started)
    return [1e6 * statistics.median(times) for times in spent]


def _with(
    measured: Callable[[Path], dict[str, float]], others: Mapping[str, float]
) -> Callable[[Path], dict[str, float]]:
    return lambda folder: measured(folder) | dict(others)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        own, beside = asyncio.run(_in_turns(Path(place)))
    main("OpenAI Agents SDK", {"Everlog": _with(ours, own), "SQLiteSession": _with(theirs, beside)})
