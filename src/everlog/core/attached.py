"""How events read their attachments, whatever the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import force_setattr

from everlog.core.event import Event, PreparedAttachment
from everlog.errors import NotFoundError


def set_attachment_readers(events: Sequence[Event], load: Callable[[Event], list[PreparedAttachment]]) -> None:
    """Let events that have attachments read them. load: gives an event's attachments, with their content."""

    def read(event: Event, name: str) -> bytes:
        return pick_attachment(load(event), event, name)

    for event in events:
        if event.attached is not None:
            force_setattr(event, "attachment_reader", read)


def pick_attachment(attachments: Sequence[PreparedAttachment], event: Event, name: str) -> bytes:
    """Give the content of the attachment of a name; NotFoundError where there is none, or it was destroyed."""
    for item in attachments:
        if item.name == name:
            if item.content is None:
                raise NotFoundError(f"attachment {name!r} of event {event.id} was erased or withheld")
            return item.content
    names = ", ".join(repr(item.name) for item in attachments) or "none"
    raise NotFoundError(f"event {event.id} has no attachment {name!r}; its names: {names}")
