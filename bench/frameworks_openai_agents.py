"""The session of OpenAI's Agents SDK: Everlog's beside the SDK's own `SQLiteSession`, each as it is when nothing is set.

PYTHONPATH=src python -m bench.frameworks_openai_agents
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
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
        found[f"reading the last 20 of {size:,}, µs"] = await _timed(lambda: session.get_items(20))
    found["adding one item, µs"] = await _timed(lambda: session.add_items([_said(0)]))
    found["taking one off, µs"] = await _timed(session.pop_item)
    session.close()
    return found


async def _fill(folder: Path, make: Callable[[str, Path], Any], turns: int) -> None:
    session: Session = make("s", folder / "s.db")
    await session.get_items()
    for number in range(turns):
        await session.add_items([{"role": "user", "content": TEXT[:500]}, _said(number)])
    session.close()  # type: ignore[attr-defined]


def _said(number: int) -> Any:
    part = {"type": "output_text", "text": TEXT[:500], "annotations": [], "logprobs": []}
    return {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed", "content": [part]}


async def _timed(call: Callable[[], Any]) -> float:
    spent: list[float] = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        await call()
        spent.append(time.perf_counter() - started)
    return 1e6 * statistics.median(spent)


if __name__ == "__main__":
    main("OpenAI Agents SDK", {"Everlog": ours, "SQLiteSession": theirs})
