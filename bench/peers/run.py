"""Runs the peers in turns and gathers what they measured: a process a peer, a new file a step."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.peers.peer import PEERS

ROOT = Path(__file__).resolve().parents[2]
ANSWER_SECONDS_MAX = 180.0  # after that a peer's step is given up, and the others go on
TURNS = 200
SIZES = (1_000, 10_000, 100_000)
FORKED = 10_000
SYNCED = 200
GROWN = (250, 500, 1_000)
CHANGES = 2_000


class StepError(Exception):
    """A peer could not do a step. The text is what it said."""


class Cell(NamedTuple):
    """What one peer measured in one row. note: why there is no value, or what to know of it."""

    value: float = math.nan
    note: str = ""


class Row(NamedTuple):
    """One kind of work. better: whether more or less is better."""

    what: str
    unit: str
    better: str
    cells: dict[str, Cell]


class Worker:
    """A peer's process. It is started with the first order, and again where it died."""

    def __init__(self, name: str, python: Path, folder: Path) -> None:
        self.name = name
        self.python = python
        self.said = folder / f"{name}.stderr"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *words: str) -> list[str]:
        """Give the command that starts a worker."""
        return [str(self.python), "-m", "bench.peers.worker", self.name, *words]

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Send an order and wait for its answer. Raises StepError."""
        if self.process is None:
            with self.said.open("wb") as said:
                self.process = subprocess.Popen(
                    self.command(), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
                )
        assert self.process.stdin is not None and self.process.stdout is not None
        line = b""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"do": do, **order}).encode() + b"\n")
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], ANSWER_SECONDS_MAX)[0]:
                self.stop()
                raise StepError(f"no answer in {ANSWER_SECONDS_MAX:.0f} s")
            line = self.process.stdout.readline()
        if not line:
            self.stop()
            raise StepError("its process ended: " + last_line(self.said.read_bytes()))
        answer = json.loads(line)
        if "failed" in answer:
            raise StepError(answer["failed"])
        return answer

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Run:
    """The steps, in the order of the table's rows."""

    def __init__(self, names: list[str], pythons: dict[str, Path], folder: Path, *, quick: bool) -> None:
        self.folder = folder
        self.quick = quick
        self.rounds = 1 if quick else 3
        self.workers = {name: Worker(name, pythons[name], folder) for name in names}
        self.settings: dict[str, str] = {}
        self.broken: dict[str, str] = {}
        self.files = 0

    def rows(self) -> Iterator[Row]:
        """Measure, row by row."""
        self._begin()
        for writers in (1, 8):
            yield self._appends(writers)
        yield self._row("append to a session of 10,000", "/s", "more", self._more)
        yield self._row("batches of 1,000 events", "/s", "more", self._batches)
        yield from self._reads()
        yield self._row(f"bytes on disk, {TURNS} turns of 1 kB", "kB", "less", self._bytes, rounds=1)
        yield from self._conversations()
        yield from self._documents()
        yield self._row("fork of a session of 10,000", "ms", "less", self._forks, rounds=1)
        for writers in (1, 8):
            note = f"syncs an append, {writers} writer{'s' * (writers > 1)}"
            yield self._row(note, "", "less", lambda worker, w=writers: self._syncs(worker, w), rounds=1)

    def stop(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            worker.stop()

    def _place(self, worker: Worker) -> Path:
        self.files += 1
        place = self.folder / f"{worker.name}-{self.files}"
        place.mkdir()
        return place

    @contextlib.contextmanager
    def _opened(self, worker: Worker) -> Iterator[Path]:
        place = self._place(worker)
        worker.ask("open", path=str(place / "store.db"))
        try:
            yield place
            if worker.process is not None:
                worker.ask("close")
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _begin(self) -> None:
        """See which peers run at all, and how they set SQLite up."""
        for name, worker in self.workers.items():
            try:
                with self._opened(worker):
                    self.settings[name] = worker.ask("settings")["settings"]
            except StepError as failed:
                self.broken[name] = str(failed)
                say(f"{name} does not run: {failed}")

    def _row(
        self, what: str, unit: str, better: str, measure: Callable[[Worker], Cell], rounds: int | None = None
    ) -> Row:
        """Give the median of a few rounds; in each round the peers take turns."""
        found: dict[str, list[Cell]] = {}
        for _ in range(rounds or self.rounds):
            for name, worker in self.workers.items():
                if name in self.broken or any(math.isnan(cell.value) for cell in found.get(name, [])):
                    continue
                try:
                    cell = measure(worker)
                except StepError as failed:
                    cell = Cell(math.nan, f"failed: {failed}")
                found.setdefault(name, []).append(cell)
        cells = {name: Cell(math.nan, f"does not run: {why}") for name, why in self.broken.items()}
        for name, several in found.items():
            value = statistics.median(cell.value for cell in several) if not math.isnan(several[-1].value) else math.nan
            cells[name] = Cell(value, next((cell.note for cell in reversed(several) if cell.note), ""))
            say(f"{what}: {name}: {value:,.3f} {unit} {cells[name].note}")
        return Row(what, unit, better, cells)

    def _appends(self, writers: int) -> Row:
        def measure(worker: Worker) -> Cell:
            with self._opened(worker):
                answer = worker.ask("appends", writers=writers, each=0, seconds=1 if self.quick else 3)
            refused = answer["refused"]
            note = f"{len(refused)} of {len(refused) + answer['done']} failed: {refused[0]}" if refused else ""
            return Cell(answer["rate"], note)

        what = f"durable append, {writers} writer" + ("s, a session each" if writers > 1 else "")
        return self._row(what, "/s", "more", measure)

    def _more(self, worker: Worker) -> Cell:
        with self._opened(worker):
            worker.ask("build", size=FORKED)
            return Cell(worker.ask("more", count=20 if worker.name == "langgraph" else 200)["value"])

    def _batches(self, worker: Worker) -> Cell:
        with self._opened(worker):
            return cell_of(worker.ask("batches", calls=5 if self.quick else 15, size=1_000))

    def _reads(self) -> Iterator[Row]:
        sizes = SIZES[:2] if self.quick else SIZES
        held: dict[str, dict[tuple[int, int | None], Cell]] = {}
        for name, worker in self.workers.items():
            if name not in self.broken:
                held[name] = {}
                for size in sizes:
                    self._read(worker, size, held[name])
        for last in (20, None):
            for size in sizes:
                what = f"read {'all' if last is None else 'the last 20'} of {size:,}"
                cells = {name: cells[size, last] for name, cells in held.items()}
                for name, cell in cells.items():
                    say(f"{what}: {name}: {cell.value:,.3f} ms {cell.note}")
                broken = {name: Cell(math.nan, f"does not run: {why}") for name, why in self.broken.items()}
                yield Row(what, "ms", "less", cells | broken)

    def _read(self, worker: Worker, size: int, cells: dict[tuple[int, int | None], Cell]) -> None:
        lasts = (20, None)
        try:
            with self._opened(worker):
                worker.ask("build", size=size)
                for last in lasts:
                    times = 3 if last is None or worker.name == "langgraph" else 21
                    cells[size, last] = Cell(worker.ask("read", last=last, times=times, size=size)["value"])
        except StepError as failed:
            for last in lasts:
                cells.setdefault((size, last), Cell(math.nan, f"failed: {failed}"))

    def _bytes(self, worker: Worker) -> Cell:
        with self._opened(worker) as place:
            worker.ask("appends", writers=1, each=TURNS, seconds=0)
            return self._held(worker, place)

    def _conversations(self) -> Iterator[Row]:
        """Conversations that grow a turn at a time: what is on disk, and the state as it was at an earlier turn."""
        sizes = GROWN[:2] if self.quick else GROWN

        def measure(worker: Worker, size: int) -> Cell:
            with self._opened(worker) as place:
                grown = worker.ask("grow", count=size)
                if size == sizes[-1]:
                    wrote[worker.name] = Cell(grown["written"] / 1e3)
                    travels[worker.name] = cell_of(worker.ask("travel", count=size, times=51))
                return self._held(worker, place)

        travels: dict[str, Cell] = {}
        wrote: dict[str, Cell] = {}
        for size in sizes:
            what = f"bytes on disk, a conversation of {size:,} turns of 1 kB"
            yield self._row(what, "kB", "less", lambda worker, size=size: measure(worker, size), rounds=1)
        yield Row(f"bytes written for {sizes[-1]:,} turns of 1 kB", "kB", "less", wrote)
        yield Row(f"the conversation as it was at a random turn of {sizes[-1]:,}", "ms", "less", travels)

    def _documents(self) -> Iterator[Row]:
        """A state of 100 kB that changes: what is on disk, and the state as it was after an earlier change."""
        count = 200 if self.quick else CHANGES

        def measure(worker: Worker) -> Cell:
            with self._opened(worker) as place:
                answer = worker.ask("document", changes=count)
                if "lacks" in answer:
                    travels[worker.name] = Cell(math.nan, answer["lacks"])
                    return travels[worker.name]
                wrote[worker.name] = Cell(answer["written"] / 1e3)
                travels[worker.name] = cell_of(worker.ask("document_travel", count=count, times=51))
                return self._held(worker, place)

        travels: dict[str, Cell] = {}
        wrote: dict[str, Cell] = {}
        yield self._row(f"bytes on disk, {count:,} changes of a 100 kB state", "kB", "less", measure, rounds=1)
        yield Row(f"bytes written for {count:,} changes of a 100 kB state", "kB", "less", wrote)
        yield Row(f"that state as it was after a random change of {count:,}", "ms", "less", travels)

    def _held(self, worker: Worker, place: Path) -> Cell:
        """Give the bytes that a worker's store takes once it is closed; the worker goes on with another."""
        worker.ask("close")
        held = sum(file.stat().st_size for file in place.iterdir())
        worker.ask("open", path=str(place / "other.db"))
        return Cell(held / 1e3)

    def _forks(self, worker: Worker) -> Cell:
        with self._opened(worker):
            return cell_of(worker.ask("forks", size=FORKED, times=3 if worker.name == "langgraph" else 11))

    def _syncs(self, worker: Worker, writers: int) -> Cell:
        """Count the appends' syncs from outside, less those of opening and closing a file that holds nothing."""
        if shutil.which("strace") is None:
            return Cell(math.nan, "strace is not here")
        counted: list[tuple[int, int]] = []
        for each in (0, SYNCED // writers):
            place = self._place(worker)
            log = place / "strace"
            words = worker.command("--syncs", str(place / "store.db"), str(writers), str(each))
            trace = ["strace", "-f", "--seccomp-bpf", "-c", "-e", "trace=fsync,fdatasync", "-o", str(log)]
            ran = subprocess.run(trace + words, cwd=ROOT, capture_output=True, check=False)
            if ran.returncode or not log.exists():
                raise StepError(last_line(ran.stderr))
            lines = log.read_text().splitlines()
            calls = sum(int(line.split()[3]) for line in lines if line.endswith(("fsync", "fdatasync")))
            counted.append((calls, json.loads(ran.stdout.splitlines()[-1])["done"]))
            shutil.rmtree(place)
        (before, _), (after, done) = counted
        return Cell((after - before) / done if done else math.nan)


def cell_of(answer: dict[str, Any]) -> Cell:
    """Make a cell of an answer that may say that the peer has no such thing."""
    return Cell(math.nan, answer["lacks"]) if "lacks" in answer else Cell(answer["value"])


def last_line(output: bytes) -> str:
    """Give the last line of what a process said."""
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def choose(only: list[str] | None) -> list[str]:
    """Give the peers to run: those asked for, and always Everlog beside them."""
    return [name for name in PEERS if not only or name in only or name.startswith("everlog")]


def place_of_files() -> str | None:
    """Give the folder on the disk that matters, as bench does; a RAM disk would measure nothing."""
    return os.environ.get("EVERLOG_BENCH_DIR")
