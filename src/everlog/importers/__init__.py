"""Importers: transcripts that other programs wrote, as Everlog sessions. One file a format; how they are read, in run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from everlog.errors import NotFoundError
from everlog.importers.formats import FORMATS, Format
from everlog.importers.record import Failure, Imported, Problem, item_of
from everlog.importers.run import Progress, follow_paths, import_paths
from everlog.reducers.spoken import groups
from everlog.session import Session

__all__ = [
    "FORMATS",
    "Failure",
    "Format",
    "Imported",
    "Problem",
    "Progress",
    "follow_paths",
    "import_paths",
    "originals",
]


def originals(session: Session) -> Iterator[Any]:
    """Give the items of the source that a session was imported from, in order; bytes for lines that could not be read.

    Events of the session's own verbs, and those that an agent appended without an item, come as they encode, or as None.
    Raises NotFoundError for a session that was imported from no format whose items are kept.
    """
    source = session.info().labels.get("source", "")
    if source not in FORMATS:
        raise NotFoundError(
            f"session {session.id!r} says none of {', '.join(FORMATS)} as its source; nothing was read; what a framework "
            "kept is read by its integration"
        )
    encode = FORMATS[source].encode
    for group in groups(session.events()):
        if not group[0].type.startswith("session."):
            yield item_of(group, encode)
