"""Proofs of a long session: made from the store, and checked, each at random places."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import everlog
from bench.work import DATA, Row, median_of, timed

BATCH = 10_000
RANGE = 100
EVENT = everlog.NewEvent("user.message", {"content": "x" * 100})


def proofs(folder: Path, quick: bool) -> Iterator[Row]:
    """Of 1,000,000 events: an event, a range, consistency; each made and checked."""
    size, count = (100_000, 200) if quick else (1_000_000, 1_000)
    with everlog.open(folder / "proofs.db", durability="relaxed") as store:
        session = store.create("long")
        for _ in range(size // BATCH):
            session.extend([EVENT] * BATCH)
        head = session.head
        places = random.Random(7)

        def measured(make: Callable[[], Any], check: Callable[[Any], Any]) -> tuple[float, float]:
            made: list[Any] = []
            making = statistics.median(timed(lambda: made.append(make())) for _ in range(count))
            return making * 1e3, statistics.median(timed(lambda proof=proof: check(proof)) for proof in made) * 1e6

        making, checking = measured(
            lambda: session.prove(places.randrange(size)),
            lambda proof: proof.verify(head),
        )
        yield Row(f"proof of one of {size:,} events", making, "ms", None, "", "< 1", making < 1)
        yield Row("the same, checked with its body", checking, "µs", None, "", "< 50", checking < 50)

        def grown() -> Any:
            return session.prove_consistency(1 + places.randrange(size))

        making, checking = measured(grown, lambda proof: proof.verify(old=proof.old, new=head))
        yield Row(f"proof that {size:,} events extend an older head", making, "ms", None, "", "< 1", making < 1)
        yield Row("the same, checked", checking, "µs", None, "", "< 50", checking < 50)

        def spanned() -> Any:
            start = places.randrange(size - RANGE)
            return session.prove_range(start, start + RANGE)

        making, checking = measured(spanned, lambda proof: proof.verify(head))
        yield Row(f"proof of a range of {RANGE} of them", making, "ms")
        yield Row("the same, checked with bodies", checking, "µs")
        yield from _seals(store, session, folder, quick=quick)
    yield from _while_sealed(folder, quick=quick)


def _seals(store: everlog.Store, session: everlog.Session, folder: Path, *, quick: bool) -> Iterator[Row]:
    """Seal: all of it for the first time, one event more, and many sessions that changed; and prove up to a seal."""
    keys = store.keys(folder / "keys")
    key = keys.new()
    yield Row("first seal of them", timed(lambda: store.seal(keys=keys)), "s")

    def again() -> None:
        session.append("user.message", {"content": "x"})
        store.seal(keys=keys)

    yield Row("an append and a seal of it", median_of(20, again) * 1e3, "ms")
    yield Row("a seal of nothing new", median_of(100, lambda: store.seal(keys=keys)) * 1e3, "ms")
    count = 100 if quick else 1_000
    for number in range(count):
        store.create(f"s{number}", events=[EVENT])
    yield Row(f"seal of {count:,} sessions that changed", timed(lambda: store.seal(keys=keys)) * 1e3, "ms")
    proof = session.prove_sealed(7)
    yield Row("sealed proof, made", median_of(200, lambda: session.prove_sealed(7)) * 1e3, "ms")
    yield Row("sealed proof, checked with its signature", median_of(200, lambda: proof.verify(key)) * 1e6, "µs")


def _while_sealed(folder: Path, *, quick: bool) -> Iterator[Row]:
    """Durable appends, one after another, to two stores in turns; another process seals one of them once a second."""
    seconds, turns = (1.5, 2) if quick else (3.0, 6)
    rates: dict[bool, list[float]] = {False: [], True: []}
    with everlog.open(folder / "plain.db") as plain, everlog.open(folder / "sealed.db") as sealed:
        sealed.keys(folder / "sealing").new()
        sessions = {False: plain.create("s"), True: sealed.create("s")}
        words = ("--store", str(folder / "sealed.db"), "seal", "--every", "1s", "--keys", str(folder / "sealing"))
        sealer = subprocess.Popen([sys.executable, "-m", "everlog", *words], stdout=subprocess.PIPE)
        try:
            assert sealer.stdout is not None
            sealer.stdout.readline()  # it is at work
            for turn in range(2 * turns):
                session, count = sessions[bool(turn % 2)], 0
                start = time.perf_counter()
                while time.perf_counter() < start + seconds:
                    session.append("user.message", DATA)
                    count += 1
                rates[bool(turn % 2)].append(count / (time.perf_counter() - start))
        finally:
            sealer.terminate()
            sealer.wait()
        assert sealed.seals()
    without, while_sealed = statistics.median(rates[False]), statistics.median(rates[True])
    ratio = while_sealed / without
    yield Row("durable append, one writer", without, "/s")
    what = "the same while another process seals once a second"
    yield Row(what, while_sealed, "/s", ratio, "without", "≥ 0.85", ratio >= 0.85)
