"""Merging: bringing chosen events of another line, and what it made of the document, into a session.

1. One append holds all of it: `session.merged` with both heads, copies of the chosen events, and one `state.patch`.
2. Documents are merged of three: what both changed differently is a conflict, reported and never guessed.
3. The third is where the two last met (meeting.py): an earlier merge, else their common ancestor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from everlog.core.event import Event, NewEvent
from everlog.core.lineage import Lineage
from everlog.core.patch import StateConflict, diff_values, merge_three
from everlog.core.pointer import MISSING
from everlog.core.position import parse_event_id
from everlog.core.standard import is_reserved
from everlog.core.upcast import VERSION_MEMBER
from everlog.errors import InvalidPlaceError, LimitError, MergeConflictError, PatchError
from everlog.meeting import holds_unsure
from everlog.reducers.document import TYPES, DocumentFold

MERGED_EVENTS_MAX = 1_000
Prefer = Literal["ours", "theirs"]


def check_chosen(events: Sequence[Event], ancestor: int, cut: int, *, related: bool) -> None:
    """Refuse events that cannot be brought over. ancestor: where the lines part; cut: how much of the other is merged."""
    if len(events) > MERGED_EVENTS_MAX:
        raise LimitError(
            f"{len(events)} events are chosen where {MERGED_EVENTS_MAX} is the most; nothing was written; merge fewer"
        )
    for event in events:
        if related and event.position < ancestor:
            raise InvalidPlaceError(
                f"event {event.id} (position {event.position}) is in both lines already; nothing was written; leave it out"
            )
        if event.position >= cut:
            raise InvalidPlaceError(
                f"event {event.id} (position {event.position}) lies past the place that is merged ({cut}); nothing was written; "
                "choose an earlier event, or a later at="
            )
        if is_reserved(event.type):
            raise InvalidPlaceError(
                f"event {event.id} is of type {event.type!r}, which only its own verb writes; nothing was written; leave it out"
            )
        if event.raw is None:
            raise InvalidPlaceError(f"the body of event {event.id} is gone; nothing was written; leave it out")


def copied(event: Event) -> NewEvent:
    """Give an event as a new one, with the old one as its cause and a key that keeps it from being merged twice."""
    # Its data was read in the newest shape, which is the one that the copy says it has.
    metadata = {name: value for name, value in (event.metadata or {}).items() if name != VERSION_MEMBER}
    return NewEvent(
        event.type,
        event.data,
        rationale=event.rationale,
        actor=event.actor,
        outcome=event.outcome,
        metadata={**metadata, "merged_from": event.id},
        attachments={item.name: event.attachment(item.name) for item in event.attachments} or None,
        caused_by=event,
        occurred_at=event.recorded_micros if event.occurred_micros is None else event.occurred_micros,
        key=merged_key(event),
    )


def comes_from(event: Event, lineage: Lineage, size: int) -> bool:
    """Tell whether an event is the copy of one that stands in the first `size` of a line already."""
    origin = (event.metadata or {}).get("merged_from")
    place = parse_event_id(origin) if isinstance(origin, str) else None
    return place is not None and place.position < size and lineage.owner(place.position).writer == place.writer


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
    if prefer not in (None, "ours", "theirs"):
        raise InvalidPlaceError(
            f"prefer is {prefer!r:.50}, neither 'ours' nor 'theirs'; nothing was written; choose one"
        )
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
        decided.append(_told(conflict))
        return value

    merged, conflicts = merge_three(base, ours, theirs, decide=decide)
    if conflicts:
        shown = ", ".join(repr(conflict.pointer) for conflict in conflicts[:5])
        more = "" if len(conflicts) <= 5 else f" and {len(conflicts) - 5} more"
        raise MergeConflictError(
            f"sessions {session!r} and {other!r} changed {shown}{more} differently; nothing was written; decide with resolve= "
            "(a value for each pointer) or prefer='ours' or 'theirs'",
            conflicts=tuple(map(_told, conflicts)),
        )
    if unused:
        raise InvalidPlaceError(
            f"resolve= names {min(unused)!r:.100}, where there is no conflict; nothing was written; leave it out"
        )
    return merged, decided


def _told(conflict: StateConflict) -> StateConflict:
    """Give a conflict as it is shown: a base that is not known is none."""
    return (
        StateConflict(conflict.pointer, MISSING, conflict.ours, conflict.theirs)
        if holds_unsure(conflict.base)
        else conflict
    )


def document_ops(ours: Any, chosen: Sequence[Event], merged: Any) -> list[dict[str, Any]]:
    """Give the patch that is left to do after the chosen events were applied to our document. PatchError."""
    fold = DocumentFold(ours)
    for event in chosen:
        if event.type in TYPES:
            try:
                fold.apply(event)
            except PatchError as error:
                raise PatchError(
                    f"event {event.id} (position {event.position} of session {event.session!r}) changes what our document does "
                    f"not have: {error.message}; nothing was written; leave it out, since documents are merged as they are"
                ) from None
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
