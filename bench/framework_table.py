"""What is measured of a framework's history, ours beside its own: bytes, appends, and reading the end of it."""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

TURNS = 200
TEXT_BYTES = 1_000
SMALL, LARGE, LAST = 100, 10_000, 20


class History(Protocol):
    """A conversation that is kept somewhere."""

    def append(self, texts: Sequence[str]) -> None:
        """Append a message for each text, in one call where there is one."""

    def last(self) -> Sequence[Any]:
        """Read the last LAST messages, as the framework would."""

    def close(self) -> None:
        """Let go of it."""


def text_of(number: int) -> str:
    """Give a text that no other number has, so that nothing is stored once for many."""
    return f"{number:08} " + "".join(f"{(number * 7_919 + place * 104_729) % 99_991:05} " for place in range(165))[:991]


def measure(folder: Path, make: Callable[[Path], History], *, each: int = 1) -> dict[str, float]:
    """Give the figures of one way to keep a history. each: messages of one append, where a framework saves a run as a whole."""
    empty, _ = _filled(folder / "empty", make, 1, each)
    stored, seconds = _filled(folder / "small", make, TURNS + 1, each)
    large = folder / "large"
    large.mkdir()
    history = make(large)
    reads: dict[int, float] = {}
    for size in (SMALL, LARGE):
        for start in range(0 if size == SMALL else SMALL, size, 100):
            history.append([text_of(number) for number in range(start, start + 100)])
        reads[size] = _median(history.last)
    history.close()
    return {
        "bytes for each of text": (stored - empty) / (TURNS * each * TEXT_BYTES),
        "kB before the first": empty / 1_000,
        "append µs": statistics.median(seconds) * 1e6,
        f"last {LAST} of {SMALL} µs": reads[SMALL] * 1e6,
        f"last {LAST} of {LARGE} µs": reads[LARGE] * 1e6,
    }


def _filled(folder: Path, make: Callable[[Path], History], count: int, each: int) -> tuple[int, list[float]]:
    """Append some messages at a time; give the bytes stored once it is closed, and the seconds of each."""
    folder.mkdir(parents=True)
    history = make(folder)
    seconds: list[float] = []
    for number in range(count):
        start = time.perf_counter()
        history.append([text_of(number * each + place) for place in range(each)])
        seconds.append(time.perf_counter() - start)
    history.close()
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()), seconds


def _median(call: Callable[[], Sequence[Any]]) -> float:
    seconds: list[float] = []
    for _ in range(7):
        start = time.perf_counter()
        assert len(call()) == LAST, "the last messages are read"
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main(title: str, columns: Mapping[str, Callable[[Path], dict[str, float]]]) -> None:
    """Measure each column in a folder of its own, and print the table; with `--json`, what stands in it."""
    with tempfile.TemporaryDirectory(prefix="everlog-bench-", dir=os.environ.get("EVERLOG_BENCH_DIR")) as folder:
        found: dict[str, dict[str, float]] = {}
        for number, (name, measured) in enumerate(columns.items()):
            place = Path(folder) / str(number)
            place.mkdir()
            found[name] = measured(place)
    if "--json" in sys.argv[1:]:
        print(json.dumps({"title": title, "columns": found}))
    else:
        show(title, found)


def show(title: str, columns: Mapping[str, Mapping[str, float]]) -> None:
    """Print the figures side by side. In brackets: how many times Everlog's figure each other one is."""
    first, *others = columns
    table = Table(title=title, caption="in brackets: times Everlog's; in all rows less is better")
    for heading in ("", first, *others):
        table.add_column(heading, justify="right" if heading else "left")
    for row, own in columns[first].items():
        cells = [columns[name].get(row, math.nan) for name in others]
        table.add_row(row, _figure(own), *("–" if math.isnan(cell) else _beside(cell, own) for cell in cells))
    Console(width=140).print(table)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _beside(value: float, own: float) -> str:
    return f"{_figure(value)} ({value / own:.2g}×)" if own else _figure(value)
