"""Messages of providers' APIs as events: what `everlog.reducers.spoken` gives back is what went in.

A message of Anthropic's API or of chat completions is one event a block or call; an item of the Responses API is one event.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, cast

from msgspec.structs import replace

from everlog.core.event import NewEvent
from everlog.core.standard import is_standard
from everlog.core.values import encode_json
from everlog.errors import InvalidEventError, LimitError
from everlog.integrations.anthropic_blocks import block_event
from everlog.integrations.items import attached, opaque_type, with_parts
from everlog.integrations.openai_items import chat_events
from everlog.integrations.openai_native import INLINE_BYTES_MAX, event_of
from everlog.reducers.spoken import ANTHROPIC, ITEMS, base_of, native_of


def events_of(format: str, message: Any) -> list[NewEvent]:
    """Give a message as events, which together say it exactly. Raises TypeError or ValueError where JSON cannot say it."""
    if format == ITEMS:
        return [event_of(message)]
    try:
        encode_json(message, what="message")
        made = _said(format, message)
        if made:
            native = native_of(format, base_of(format, made), message)
            if native is not None:
                made[0] = replace(made[0], metadata={"native": native})
        else:
            made = [NewEvent(opaque_type(format, "message"), message)]
        if len(encode_json([[event.data, event.metadata] for event in made], what="message")) > INLINE_BYTES_MAX:
            return [attached(format, "message", message)]
    except (InvalidEventError, LimitError):
        return [attached(format, "message", message)]
    return with_parts(made)


def _said(format: str, message: Any) -> list[NewEvent]:
    if not isinstance(message, dict):
        return []
    given = cast("dict[str, Any]", message)
    made = _anthropic(given) if format == ANTHROPIC else chat_events(given)
    return made if all(is_standard(event.type, event.data) for event in made) else []


def _anthropic(message: Mapping[str, Any]) -> list[NewEvent]:
    role, content = message.get("role"), message.get("content")
    if role == "system":
        return [NewEvent("system.message", {"content": content})]
    if role not in ("user", "assistant") or not isinstance(content, (str, list)) or content == []:
        return []
    said = "user.message" if role == "user" else "agent.message"
    if isinstance(content, str):
        return [NewEvent(said, {"content": content})]
    events: list[NewEvent] = []
    for block in cast("list[Any]", content):
        event = block_event(block) if isinstance(block, dict) else None
        if event is not None and (role == "assistant" or event.type == "agent.tool_result"):
            events.append(event)
        elif role == "user" and events and events[-1].type == said:
            events[-1] = NewEvent(said, {"content": [*events[-1].data["content"], block]})
        else:
            events.append(NewEvent(said, {"content": [block]}))
    return events


# --- telling messages apart ----------------------------------------------------------------------
def chained(before: bytes, format: str, message: Any) -> bytes:
    """Give what stands for a conversation with one message more: the same however the message is written down.

    A thought, a cache mark, an id of a message do not count: callers leave them out, or put them elsewhere, when they say it again.
    """
    essence = [found for event in events_of(format, message) if (found := _essence(event)) is not None]
    if not essence:
        return before
    return sha256(before + json.dumps(essence, sort_keys=True).encode()).digest()


def _essence(event: NewEvent) -> Any:
    if event.type == "agent.thinking":
        return None
    if event.attachments:
        return [event.type, *(sha256(kept).hexdigest() for kept in event.attachments.values())]
    if not isinstance(event.data, dict) or event.type.startswith("x."):
        return [event.type, event.data]
    data = cast("dict[str, Any]", event.data)
    names = ("id", "name", "input", "tool_use_id", "role")
    return [event.type, _words(data.get("content")), *(data.get(name) for name in names)]


def _words(content: Any) -> Any:
    """Give content as texts and other blocks, without what is no part of what is said."""
    if not isinstance(content, list):
        return [content]
    said: list[Any] = []
    for block in cast("list[Any]", content):
        text = cast("dict[str, Any]", block) if isinstance(block, dict) else {}
        if isinstance(text.get("text"), str):
            said.append(text["text"])
        else:
            said.append({name: text[name] for name in text if name != "cache_control"} if text else block)
    return said
