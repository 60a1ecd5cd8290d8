"""Items of OpenAI's Agents SDK as events, one event an item: what `everlog.reducers.spoken` gives back is what went in.

An item of a kind that has no standard type is the data of an event of type `x.openai_agents.KIND`. What the log takes neither way
(half characters, integers of 2^64, deep or large ones) is attached.
"""

from __future__ import annotations

from typing import Any, Final, cast

from everlog.core.event import Event, NewEvent
from everlog.core.standard import is_standard
from everlog.core.values import check_value, encode_json
from everlog.errors import InvalidEventError, LimitError
from everlog.integrations.items import attached, opaque_name, opaque_type
from everlog.integrations.openai_items import response_events
from everlog.reducers.spoken import ITEMS, UNREADABLE, base_of, message_of, native_of

FORMAT: Final = ITEMS
INLINE_BYTES_MAX: Final = 4 * 1024 * 1024  # of an item beside what is said of it, below the bound of a body
_GROWTH_MAX: Final = 16  # bytes of an event for each byte of its item: no more, so that few are measured


def title_of(session_id: str) -> str | None:
    """Give as a session's title what can be read of an id that is no log's."""
    return "".join(filter(str.isprintable, session_id))[:200] or None


def event_of(item: Any) -> NewEvent:
    """Give an item as an event. Raises TypeError or ValueError where JSON cannot say it at all."""
    try:
        size = len(encode_json(item, what="item"))
        made = _said(item)
        check_value([made.data, made.metadata], what="item")
        small = size * _GROWTH_MAX <= INLINE_BYTES_MAX
        if small or len(encode_json([made.data, made.metadata], what="item")) <= INLINE_BYTES_MAX:
            return made
    except (InvalidEventError, LimitError):
        pass
    return attached(FORMAT, _kind_of(item), item)


def item_of(event: Event) -> Any:
    """Give the item that an event says. Raises NothingSaidError."""
    return message_of(FORMAT, [event])


def _said(item: Any) -> NewEvent:
    events = response_events(item, None) if isinstance(item, dict) else []
    if len(events) != 1 or not is_standard(events[0].type, events[0].data):
        return NewEvent(opaque_type(FORMAT, _kind_of(item)), item)
    event = events[0]
    native = native_of(FORMAT, base_of(FORMAT, [event]), item)
    metadata = None if native is None else {"native": native}
    return NewEvent(event.type, event.data, outcome=event.outcome, metadata=metadata)


def _kind_of(item: Any) -> str:
    """Give what an item is called that has no standard type."""
    kind = cast("dict[str, Any]", item).get("type") if isinstance(item, dict) else None
    return kind if isinstance(kind, str) and kind and opaque_name(kind) != UNREADABLE else "item"
