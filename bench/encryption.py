"""What encrypting costs: of an append, of a page that is read, on the disk, and exchanging a wrapping key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import everlog
from bench.storage import pieces
from bench.work import Row, timed
from everlog import NewEvent

BATCH = 100


def encryption(folder: Path, quick: bool) -> Iterator[Row]:
    """Rows of encryption, each beside the same without."""
    events = [NewEvent("note", {"content": text}) for text in pieces(2_000 if quick else 10_000)]
    sources: list[str] = []
    for name in ("key", "other"):
        path = folder / name
        path.write_text(bytes(range(32)).hex() if name == "key" else "11" * 32)
        path.chmod(0o600)
        sources.append(f"file:{path}")
    plain = _measured(folder / "plain.db", events, "")
    sealed = _measured(folder / "sealed.db", events, sources[0])
    for what, unit in _UNITS.items():
        yield Row(f"{what}, encrypted", sealed[what], unit, sealed[what] / plain[what], "without")
    with everlog.open(folder / "sealed.db", encrypt=sources[0]) as store:
        seconds = timed(lambda: store.encryption.rotate(sources[1]))
    yield Row("wrapping data keys with another key", len(events) / seconds, "keys/s")
    with everlog.open(folder / "plain.db", encrypt=sources[0]) as store:
        seconds = timed(store.encryption.seal)
    yield Row("encrypting what was packed before", len(events) / seconds, "events/s")


_UNITS = {
    "appending 1 kB, one a commit, relaxed": "events/s",
    "appending 1 kB, 100 a commit, relaxed": "events/s",
    "reading pages": "events/s",
    "the store's file, by event": "B",
    "the store's file once packed, by event": "B",
}


def _measured(path: Path, events: list[NewEvent], source: str) -> dict[str, float]:
    """Fill a store, read and pack it; give what each takes, by its name."""
    single = events[: len(events) // 10]
    with everlog.open(path, durability="relaxed", snapshots=False, encrypt=source) as store:
        session = store.create("s")
        session.append("note", {"content": "first"})  # what is imported once, is
        one = timed(lambda: [session.append(event.type, event.data) for event in single])
        rest = events[len(single) :]
        many = timed(lambda: [session.extend(rest[at : at + BATCH]) for at in range(0, len(rest), BATCH)])
        read = min(timed(lambda: [event.raw for event in session.events()]) for _ in range(3))
        taken = store.stats().sizes
        store.compact(older_than=0)
        packed = store.stats().sizes
    values = (
        len(single) / one,
        len(rest) / many,
        len(events) / read,
        (taken.file - taken.free) / len(events),
        (packed.file - packed.free) / len(events),
    )
    return dict(zip(_UNITS, values, strict=True))
