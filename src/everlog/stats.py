"""Statistics: what a store holds, how it grows, and what compacting would give."""

from __future__ import annotations

from typing import Final

import msgspec

from everlog.cold import Day, Sizes
from everlog.compacting import estimate
from everlog.storage import Storage

SAMPLE_EVENTS: Final = 20_000  # packed in memory for an estimate: a second or two


class Stats(msgspec.Struct, frozen=True):
    """Bytes, but for counts. bodies: of all events, as they were given, but for attachments that are kept once.

    ratio: bytes stored for each byte of bodies and attachments; of an empty store None. would_take: what the hot bytes would take after
    compacting, estimated from `sample` events; None where nothing is hot. days: what was recorded on each. plain: events in plain text of a
    store that encrypts.
    """

    sizes: Sizes
    bodies: int
    ratio: float | None
    would_take: int | None
    sample: int
    days: list[Day]
    plain: int = 0


def measure_store(storage: Storage) -> Stats:
    """Measure a store. Reads it whole where the engine keeps no sums."""
    sizes = storage.sizes()
    bodies = sizes.hot + sizes.packed_plain + sizes.shared_plain
    tried = estimate(storage, SAMPLE_EVENTS)
    would_take = round(sizes.hot * tried.stored / tried.plain) if tried.plain else None
    ratio = sizes.file / bodies if bodies else None
    return Stats(sizes, bodies, ratio, would_take, tried.events, storage.growth(), storage.plain_bodies())
