"""Sessions of Google ADK as they are read: their document, and their events, the newest first, of the line as it was opened.

Imports nothing of ADK.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, cast

from everlog.errors import PatchError
from everlog.integrations.adk_events import Item, newest_groups, time_of
from everlog.reducers.document import DOCUMENT, TYPES
from everlog.session import Session

if TYPE_CHECKING:
    from everlog.core.event import Event

SHORT: Final = 64  # events of a session that is read whole to tell its state: fewer reads than to look for a snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A session's current line as it was opened: its marker, its document, and its groups of events, to be read newest first."""

    marker: str
    document: Item
    groups: Iterator[list[Event]]


def look(opened: Session, events: list[Event] | None = None) -> Line:
    """Look at a session as it was opened: in one read where it is short. events: all of it, where they are read."""
    marker, size = marker_of(opened), opened.line_seen()[1]
    if size > SHORT:
        groups = newest_groups(opened.events(stop=size, reverse=True))
        return Line(marker=marker, document=document_at(opened, size), groups=groups)
    events = opened.slice(0, size) if events is None else events
    fold = DOCUMENT.start(DOCUMENT.initial())
    for event in events:
        if event.type in TYPES:
            with suppress(PatchError):  # what cannot be applied changes nothing
                fold.apply(event)
    return Line(marker=marker, document=_members(fold.value), groups=newest_groups(reversed(events)))


def choose(
    groups: Iterator[list[Event]], *, wanted: int | None, after: float | None
) -> tuple[list[Event] | None, list[list[Event]]]:
    """Give the newest group, and those that a read asks for, the newest first: at most so many, from a time on."""
    newest = next(groups, None)
    chosen: list[list[Event]] = []
    for group in () if newest is None else chain((newest,), groups):
        if wanted is not None and len(chosen) >= wanted:
            break
        if after is None or time_of(group) >= after:
            chosen.append(group)
    return newest, chosen


def document_at(opened: Session, size: int) -> Item:
    """Give a session's document at a cut."""
    return _members(opened.state("document", at=size).value)


def _members(document: Any) -> Item:
    """Give a document as a state; that which another program made something else of holds nothing."""
    return cast("Item", document) if isinstance(document, dict) else {}


def marker_of(opened: Session) -> str:
    """Give what marks a session object that was read where this handle looked last."""
    return f"{opened.branch_id}:{opened.head}"
