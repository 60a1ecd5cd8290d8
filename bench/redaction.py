"""What looking for secrets costs: for each kB that has none, for one that has, of an append, and the first time; and what it finds in real text."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import everlog
from bench.storage import TRANSCRIPTS, pieces
from bench.work import Row, timed
from everlog import NewEvent
from everlog.core.prepare import prepare_batch
from everlog.core.redact import Redactor, Rules
from everlog.core.secret_rules import RULES

SECRET = "gh" + "p_aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fG5"


def redaction(folder: Path, quick: bool) -> Iterator[Row]:
    """Rows of redaction."""
    seconds = timed(lambda: Rules(RULES))
    yield Row(f"compiling {len(RULES)} rules, once a process", 1e3 * seconds, "ms")
    redactor = Redactor(Rules(RULES), "redact", lambda: bytes(32))
    said = pieces(1_000 if quick else 4_000)
    for name, events in (
        ("an event of 1 kB", [NewEvent("note", {"content": text}) for text in said]),
        (
            "an event of 10 kB",
            [NewEvent("note", {"content": "".join(said[at : at + 10])}) for at in range(0, len(said), 10)],
        ),
        (
            "an event of 20 members of 50 B",
            [NewEvent("note", {str(n): text[n * 50 : n * 50 + 50] for n in range(20)}) for text in said],
        ),
    ):
        kilobytes = sum(len(json.dumps(event.data)) for event in events) / 1e3
        cost = 1e6 * _best(lambda events=events: [redactor.event(event) for event in events]) / kilobytes
        yield Row(f"looking through {name} without a secret", cost, "µs/kB", None, "", "< 5", cost < 5)
    held = [NewEvent("note", {"content": f"{text[:500]} {SECRET} {text[500:]}"}) for text in said]
    cost = 1e6 * _best(lambda: [redactor.event(event) for event in held]) / len(held)
    yield Row("redacting an event of 1 kB that holds one", cost, "µs")
    yield from _real(redactor)
    events = [NewEvent("note", {"content": text}) for text in said]
    yield _prepared(events, redactor)
    yield from _appends(folder, events[: 300 if quick else 1_000])


def _best(work: Callable[[], object]) -> float:
    """Give the processor's seconds of the best of several: others may use the machine."""
    work()  # the automaton's states are made as texts ask for them
    took: list[float] = []
    for _ in range(7):
        started = time.process_time()
        work()
        took.append(time.process_time() - started)
    return min(took)


def _real(redactor: Redactor) -> Iterator[Row]:
    """Real transcripts, where they lie beside the project, which hold no secret."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in TRANSCRIPTS.rglob("*") if path.is_file()]
    if not texts:
        return
    found = sum(len(redactor.findings(text, "text")) for text in texts)
    kilobytes = sum(len(text) for text in texts) / 1e3
    cost = 1e6 * _best(lambda: [redactor.findings(text, "text") for text in texts]) / kilobytes
    yield Row(f"real transcripts, {kilobytes:,.0f} kB of JSON", cost, "µs/kB", None, "", "< 5", cost < 5)
    yield Row("  taken for a secret in them", found, "", None, "", "0", found == 0)


def _prepared(events: Sequence[NewEvent], redactor: Redactor) -> Row:
    """What checking, encoding and hashing an event takes with redaction, beside without."""

    def prepare(chosen: Redactor | None) -> float:
        return _best(
            lambda: prepare_batch(events, draw=bytes, read_cause=lambda _: b"", body_bytes_max=1 << 20, redactor=chosen)
        )

    plain, looked = prepare(None), prepare(redactor)
    return Row(
        "checking, encoding, hashing 1 kB, redacting", 1e6 * looked / len(events), "µs", looked / plain, "without"
    )


def _appends(folder: Path, events: Sequence[NewEvent]) -> Iterator[Row]:
    """Durable appends in turns, with and without."""
    with everlog.open(folder / "s.db", redact="redact") as store:
        with_, without = store.create("with"), store.redacting("off").create("without")
        took: dict[str, list[float]] = {"with": [], "without": []}
        for event in events:
            for session in (with_, without):
                started = time.perf_counter()
                session.append(event.type, event.data)
                took[session.id].append(time.perf_counter() - started)
        one, other = statistics.median(took["with"]), statistics.median(took["without"])
        yield Row("durable append of 1 kB, redacting", 1e6 * one, "µs", one / other, "without")
        batches = [
            min(timed(lambda session=session: session.extend(events)) for _ in range(5)) for session in (with_, without)
        ]
        yield Row(
            f"batch of {len(events):,}, redacting",
            len(events) / batches[0],
            "events/s",
            batches[1] / batches[0],
            "without",
        )
