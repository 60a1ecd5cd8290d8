"""Importers: transcripts that other programs wrote, as Everlog sessions. One file a format, on the public names only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from everlog.store import Store

# Called with (done, total) of the file's items.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of one file. events: newly recorded; known: recorded by an import before."""

    session: str
    path: str
    events: int
    known: int


Importer = Callable[[Store, Path, Progress | None], Imported]


def importers() -> dict[str, Importer]:
    """Give the importers by the format's name."""
    from everlog.importers import swe_agent

    return {"swe-agent": swe_agent.import_file}
