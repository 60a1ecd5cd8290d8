"""Items of OpenAI's Agents SDK as events, one event an item, and back: what comes out is what went in.

1. An event says the item in the standard members of its type, so that everything of Everlog works on it. `encode` makes an item of
   those alone, also of events that other programs recorded.
2. Where that is not the item itself, `metadata.native` has what turns it into it: `ops`, a patch; or the `item` as a whole, where
   that is smaller; or the name of an `attachment`, where the log takes the item neither way.
3. An item of a kind that has no standard type is the data of an event of type `x.openai_agents.KIND`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, cast

import msgspec

from everlog.core.event import Event, NewEvent
from everlog.core.limits import SESSION_ID_CHARACTERS_MAX
from everlog.core.patch import apply_patch, diff_values
from everlog.core.standard import is_standard, is_type
from everlog.core.values import encode_json
from everlog.errors import EverlogError, InvalidEventError, LimitError
from everlog.integrations.openai_items import response_events

FORMAT: Final = "openai-agents"
ITEM_TYPES: Final = (
    "user.message",
    "system.message",
    "agent.message",
    "agent.thinking",
    "agent.tool_use",
    "agent.tool_result",
    "x.openai_agents.*",
)
_OPAQUE: Final = "x.openai_agents."
_INLINE_BYTES_MAX: Final = 4 * 1024 * 1024  # of an item beside what is said of it, below the bound of a body
_ATTACHMENT: Final = "native.json"
_UNREADABLE: Final = "unreadable"  # kept by an import of a row that was no JSON, which the SDK passes over too


def session_name(session_id: str) -> str:
    """Give the id of Everlog's session for one of the SDK's: itself, or its hash where a log's id cannot be that."""
    if session_id.isprintable() and 0 < len(session_id) <= SESSION_ID_CHARACTERS_MAX:
        return session_id
    return f"sha256:{sha256(session_id.encode('utf-8', 'surrogatepass')).hexdigest()}"


def title_of(session_id: str) -> str | None:
    """Give as a session's title what can be read of an id that is no log's."""
    return "".join(filter(str.isprintable, session_id))[:200] or None


class NoItemError(Exception):
    """An event says no item: it was erased, or is of what the API does not take."""


# --- an item as an event -------------------------------------------------------------------------
def event_of(item: Any) -> NewEvent:
    """Give an item as an event. Raises TypeError or ValueError where JSON cannot say it at all."""
    try:
        encode_json(item, what="item")
        made = _said(item)
        if len(encode_json([made.data, made.metadata], what="item")) <= _INLINE_BYTES_MAX:
            return made
    except (InvalidEventError, LimitError):
        pass  # a lone surrogate, a number or a nesting that the log does not take in a body
    return NewEvent(
        _opaque_type(item),
        {"attachment": _ATTACHMENT},
        metadata={"native": {"format": FORMAT, "attachment": _ATTACHMENT}},
        attachments={_ATTACHMENT: json.dumps(item).encode()},
    )


def _said(item: Any) -> NewEvent:
    events = response_events(item, None) if isinstance(item, dict) else []
    if len(events) != 1 or not is_standard(events[0].type, events[0].data):
        return NewEvent(_opaque_type(item), item)
    event = events[0]
    base = encode(event.type, event.data)
    if same_json(base, item):
        return event
    native: dict[str, Any] = {"format": FORMAT, "item": item}
    if base is not None:
        ops = diff_values(base, item)
        if len(msgspec.json.encode(ops)) < len(msgspec.json.encode(item)) and same_json(_patched(base, ops), item):
            native = {"format": FORMAT, "ops": ops}
    return NewEvent(event.type, event.data, outcome=event.outcome, metadata={"native": native})


def _opaque_type(item: Any) -> str:
    kind = cast("dict[str, Any]", item).get("type") if isinstance(item, dict) else None
    named = f"{_OPAQUE}{kind}"
    return named if isinstance(kind, str) and kind != _UNREADABLE and is_type(named) else f"{_OPAQUE}item"


def same_json(one: Any, other: Any) -> bool:
    """Tell whether two values are the same JSON but for the order of members: 1, 1.0 and true are three values."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


# --- an event as an item -------------------------------------------------------------------------
def item_of(event: Event) -> Any:
    """Give the item that an event says. Raises NoItemError."""
    if event.erased or event.type == f"{_OPAQUE}{_UNREADABLE}":
        raise NoItemError
    native = (event.metadata or {}).get("native")
    if isinstance(native, dict) and native.get("format") == FORMAT:
        if "item" in native:
            return native["item"]
        if "attachment" in native:
            return json.loads(event.attachment(native["attachment"]))
        return _patched(encode(event.type, event.data), native.get("ops", []))
    if event.type.startswith(_OPAQUE):
        return event.data
    item = encode(event.type, event.data)
    if item is None:
        raise NoItemError
    return item


def _patched(base: Any, ops: Any) -> Any:
    try:
        return apply_patch(base, ops)
    except EverlogError:
        return base  # of an event that was recorded with marks in the place of secrets


def encode(type: str, data: Any) -> dict[str, Any] | None:
    """Give the item of the Responses API that the standard members of an event say; None where it has none."""
    if not isinstance(data, dict):
        return None
    said = cast("dict[str, Any]", data)
    match type:
        case "user.message":
            return {"role": "user", "content": _content(said["content"])}
        case "system.message":
            return {"role": said.get("role", "system"), "content": _content(said["content"])}
        case "agent.message":
            return _assistant(said)
        case "agent.thinking":
            return _reasoning(said)
        case "agent.tool_use":
            return _call(said)
        case "agent.tool_result":
            return {
                "type": "function_call_output",
                "call_id": said["tool_use_id"],
                "output": _content(said.get("content", "")),
            }
        case _:
            return None


def _content(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [
        {"type": "input_text", "text": block["text"]} if is_text(block) else block
        for block in cast("list[Any]", content)
    ]


def is_text(block: Any) -> bool:
    """Tell whether a block is one of text and nothing else."""
    return (
        isinstance(block, dict)
        and cast("dict[str, Any]", block).keys() == {"type", "text"}
        and cast("dict[str, Any]", block)["type"] == "text"
    )


def _assistant(said: Mapping[str, Any]) -> dict[str, Any]:
    content = said["content"]
    if not isinstance(content, list):
        return {"role": "assistant", "content": content}
    blocks = [
        {"type": "output_text", "text": block["text"], "annotations": [], "logprobs": []} if is_text(block) else block
        for block in cast("list[Any]", content)
    ]
    item: dict[str, Any] = {"type": "message", "role": "assistant", "status": "completed", "content": blocks}
    if "message_id" in said:
        item["id"] = said["message_id"]
    if "phase" in said:
        item["phase"] = said["phase"]
    return item


def _reasoning(said: Mapping[str, Any]) -> dict[str, Any] | None:
    if "message_id" not in said and said.get("provider") != "openai":
        return None  # another provider's thought
    summary = [{"type": "summary_text", "text": said["text"]}] if "text" in said else []
    item: dict[str, Any] = {"type": "reasoning", "summary": summary}
    if "message_id" in said:
        item["id"] = said["message_id"]
    if said.get("provider") == "openai":
        item["encrypted_content"] = said.get("encrypted")
    return item


def _call(said: Mapping[str, Any]) -> dict[str, Any]:
    kind, given = said.get("kind"), said["input"]
    if kind == "custom":
        return {"type": "custom_tool_call", "call_id": said["id"], "name": said["name"], "input": given}
    arguments = given if isinstance(given, str) else msgspec.json.encode(given).decode()
    call = {"type": "function_call", "call_id": said["id"], "name": said["name"], "arguments": arguments}
    return {**call, "status": "completed"}
