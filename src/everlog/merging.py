"""Merging: bringing chosen events of another line, and what it made of the document, into a session.

1. One append holds all of it: `session.merged` with both heads, copies of the chosen events, and one `state.patch`.
2. Documents are merged of three: what both changed differently is a conflict, reported and never guessed.
3. The third is where the two last met: an earlier merge of one into the other, else their common ancestor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from everlog.core.event import Event, NewEvent
from everlog.core.lineage import Lineage, common_ancestor
from everlog.core.patch import StateConflict, diff_values, merge_three
from everlog.core.pointer import MISSING
from everlog.core.query import Exact, Term
from everlog.core.standard import is_reserved
from everlog.errors import InvalidPlaceError, LimitError, MergeConflictError
from everlog.reader import View
from everlog.rebuild import Builder
from everlog.reducers.document import DOCUMENT, TYPES, DocumentFold
from everlog.storage import Storage

MERGED_EVENTS_MAX = 1_000
_MERGED = (Term("type", (Exact("session.merged"),)),)
Prefer = Literal["ours", "theirs"]


class Meeting(msgspec.Struct, frozen=True):
    """Where two lines last were the same. ancestor: the cut up to which they share events. base: the document there."""

    ancestor: int
    base: Any


def where_they_met(storage: Storage, ours: View, theirs: View, cut: int) -> Meeting:
    """Find the last common ground of two lines: the newer of the merges of one into the other, else the ancestor."""
    ancestor = common_ancestor(ours.lineage, theirs.lineage, one_size=ours.size, other_size=cut)
    last: Event | None = None
    met: tuple[View, int] = (ours, ancestor)
    for into, source, size in ((ours, theirs, ours.size), (theirs, ours, cut)):
        event = _last_merge(storage, into, source.lineage, ancestor, size)
        if event is not None and (last is None or event.recorded_micros > last.recorded_micros):
            last, met = event, (source, event.data["from"]["position"])
    view, at = met
    return Meeting(ancestor, Builder(storage, view, DOCUMENT, taking=None).build(at).value)


def _last_merge(storage: Storage, into: View, source: Lineage, start: int, stop: int) -> Event | None:
    """Find the newest merge of one line into another."""
    branches = {source.branch_id} | {segment.writer for segment in source.segments}
    while start < stop:
        page = storage.read(into.lineage, start, stop, terms=_MERGED, reverse=True)
        for event in page.events:
            origin = event.data.get("from") if isinstance(event.data, dict) else None
            if isinstance(origin, dict) and origin.get("branch") in branches:
                return event
        stop = start if page.following is None else page.following
    return None


def check_chosen(events: Sequence[Event], ancestor: int, *, related: bool) -> None:
    """Refuse events that cannot be brought over."""
    if len(events) > MERGED_EVENTS_MAX:
        raise LimitError(
            f"{len(events)} events are chosen where {MERGED_EVENTS_MAX} is the most; nothing was written; merge fewer"
        )
    for event in events:
        if related and event.position < ancestor:
            raise InvalidPlaceError(
                f"event {event.id} (position {event.position}) is in both lines already; nothing was written; leave it out"
            )
        if is_reserved(event.type):
            raise InvalidPlaceError(
                f"event {event.id} is of type {event.type!r}, which only its own verb writes; nothing was written; leave it out"
            )
        if event.raw is None:
            raise InvalidPlaceError(f"the body of event {event.id} is gone; nothing was written; leave it out")


def copied(event: Event) -> NewEvent:
    """Give an event as a new one, with the old one as its cause and a key that keeps it from being merged twice."""
    return NewEvent(
        event.type,
        event.data,
        rationale=event.rationale,
        actor=event.actor,
        outcome=event.outcome,
        metadata={**(event.metadata or {}), "merged_from": event.id},
        attachments={item.name: event.attachment(item.name) for item in event.attachments} or None,
        caused_by=event,
        occurred_at=event.recorded_micros if event.occurred_micros is None else event.occurred_micros,
        key=merged_key(event),
    )


def merged_key(event: Event) -> str:
    """Give the idempotency key of an event's copy."""
    return f"merged:{event.hash}"


def merge_documents(
    base: Any,
    ours: Any,
    theirs: Any,
    *,
    prefer: Prefer | None,
    resolve: Mapping[str, Any],
    session: str,
    other: str,
) -> tuple[Any, list[StateConflict]]:
    """Merge two documents from their base; give the result and the conflicts that were decided. MergeConflictError."""
    decided: list[StateConflict] = []
    unused = set(resolve)

    def decide(conflict: StateConflict) -> Any:
        if conflict.pointer in resolve:
            value = resolve[conflict.pointer]
            unused.discard(conflict.pointer)
        elif prefer is not None:
            value = conflict.ours if prefer == "ours" else conflict.theirs
        else:
            raise LookupError
        decided.append(conflict)
        return value

    merged, conflicts = merge_three(base, ours, theirs, decide=decide)
    if conflicts:
        shown = ", ".join(repr(conflict.pointer) for conflict in conflicts[:5])
        more = "" if len(conflicts) <= 5 else f" and {len(conflicts) - 5} more"
        raise MergeConflictError(
            f"sessions {session!r} and {other!r} changed {shown}{more} differently; nothing was written; decide with resolve= "
            "(a value for each pointer) or prefer='ours' or 'theirs'",
            conflicts=tuple(conflicts),
        )
    if unused:
        raise InvalidPlaceError(
            f"resolve= names {min(unused)!r:.100}, where there is no conflict; nothing was written; leave it out"
        )
    return merged, decided


def document_ops(ours: Any, chosen: Sequence[Event], merged: Any) -> list[dict[str, Any]]:
    """Give the patch that is left to do after the chosen events were applied to our document. PatchError."""
    fold = DocumentFold(ours)
    for event in chosen:
        if event.type in TYPES:
            fold.apply(event)
    return diff_values(fold.value, merged)


def conflict_members(decided: Sequence[StateConflict], merged: Callable[[str], Any]) -> list[dict[str, Any]]:
    """Give decided conflicts as they are recorded: pointer, and the values that there were and that now stand there."""
    members: list[dict[str, Any]] = []
    for conflict in decided:
        values = {
            "base": conflict.base,
            "ours": conflict.ours,
            "theirs": conflict.theirs,
            "merged": merged(conflict.pointer),
        }
        members.append(
            {"pointer": conflict.pointer} | {name: value for name, value in values.items() if value is not MISSING}
        )
    return members
