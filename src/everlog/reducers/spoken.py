"""Messages and items as providers' APIs take them, one by one and exactly, from the events that they were recorded as.

1. A message is made of the standard members of its events. Where that is not the message itself, `metadata.native` of the first event
   has what turns it into it: `ops`, a patch; or the `item` as a whole; or the name of an `attachment`.
2. A message is one event, or several, of which all but the first say so in `metadata.part`.
3. What has no standard type is the data of an event of type `x.FORMAT.KIND`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from everlog.core.event import Event, NewEvent
from everlog.core.patch import apply_patch, diff_values
from everlog.errors import EverlogError

ITEMS: Final = "openai-agents"  # items of the Responses API
CHAT: Final = "openai-chat"
ANTHROPIC: Final = "anthropic"
UNREADABLE: Final = "unreadable"  # kept by an import of what was no JSON
Said = Sequence[Event | NewEvent]


class NothingSaidError(Exception):
    """Events say no message: one was erased, or is of what the API does not take."""


# --- what is kept beside the standard members ----------------------------------------------------
def same_json(one: Any, other: Any) -> bool:
    """Tell whether two values are the same JSON but for the order of members: 1, 1.0 and true are three values."""
    if one != other:
        return False  # also for a tuple and a list, which JSON says alike: a native form is longer then, and as right
    try:
        return msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")
    except (ValueError, TypeError, OverflowError, RecursionError):  # what the log does not take as it is
        return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def native_of(format: str, base: Any, value: Any) -> dict[str, Any] | None:
    """Give what turns what events say into a value, in the fewest bytes; None where it is that already."""
    if same_json(base, value):
        return None
    if base is not None:
        ops = diff_values(base, value)
        if len(msgspec.json.encode(ops)) < len(msgspec.json.encode(value)) and same_json(_patched(base, ops), value):
            return {"format": format, "ops": ops}
    return {"format": format, "item": value}


def _patched(base: Any, ops: Any) -> Any:
    try:
        return apply_patch(base, ops)
    except EverlogError:
        return base  # of an event that was recorded with marks in the place of secrets


def groups(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Give events grouped by the message that they are of."""
    group: list[Event] = []
    for event in events:
        part = (event.metadata or {}).get("part")
        if group and not (isinstance(part, list) and part[:1] == [len(group)]):
            yield group
            group = []
        group.append(event)
    if group:
        yield group


def message_of(format: str, group: Sequence[Event]) -> Any:
    """Give the message, or item, that a group of events says. Raises NothingSaidError."""
    first, opaque = group[0], opaque_prefix(format)
    if any(event.erased for event in group) or first.type == f"{opaque}{UNREADABLE}":
        raise NothingSaidError
    native = (first.metadata or {}).get("native")
    if isinstance(native, dict) and native.get("format") == format:
        if "item" in native:
            return native["item"]
        if "attachment" in native:
            return json.loads(first.attachment(native["attachment"]))
        return _patched(base_of(format, group), native.get("ops", []))
    if first.type.startswith(opaque):
        return first.data
    message = base_of(format, group)
    if message is None:
        raise NothingSaidError
    return message


def opaque_prefix(format: str) -> str:
    """Give how the types of what has no standard type begin."""
    return f"x.{format.replace('-', '_')}."


def base_of(format: str, group: Said) -> dict[str, Any] | None:
    """Give the message that the standard members of events say; None where they say none."""
    if not all(isinstance(event.data, dict) for event in group):
        return None
    match format:
        case "anthropic":
            return _anthropic(group)
        case "openai-chat":
            return _chat(group)
        case _:
            return _item(group[0].type, group[0].data)


def _is_text(block: Any) -> bool:
    return (
        isinstance(block, dict)
        and cast("dict[str, Any]", block).keys() == {"type", "text"}
        and cast("dict[str, Any]", block)["type"] == "text"
    )


def _written(given: Any) -> str:
    return given if isinstance(given, str) else msgspec.json.encode(given).decode()


# --- items of the Responses API ------------------------------------------------------------------
def _item(type: str, said: Mapping[str, Any]) -> dict[str, Any] | None:
    match type:
        case "user.message":
            return {"role": "user", "content": _input(said["content"])}
        case "system.message":
            return {"role": said.get("role", "system"), "content": _input(said["content"])}
        case "agent.message":
            return _assistant(said)
        case "agent.thinking":
            return _reasoning(said)
        case "agent.tool_use":
            return _call(said)
        case "agent.tool_result":
            output = _input(said.get("content", ""))
            return {"type": "function_call_output", "call_id": said["tool_use_id"], "output": output}
        case _:
            return None


def _input(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    blocks = cast("list[Any]", content)
    return [{"type": "input_text", "text": block["text"]} if _is_text(block) else block for block in blocks]


def _assistant(said: Mapping[str, Any]) -> dict[str, Any]:
    content = said["content"]
    if not isinstance(content, list):
        return {"role": "assistant", "content": content}
    blocks = [
        {"type": "output_text", "text": block["text"], "annotations": [], "logprobs": []} if _is_text(block) else block
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
    call = {"type": "function_call", "call_id": said["id"], "name": said["name"], "arguments": _written(given)}
    return {**call, "status": "completed"}


# --- messages of chat completions ----------------------------------------------------------------
def _chat(group: Said) -> dict[str, Any] | None:
    first, said = group[0], group[0].data
    match first.type:
        case "user.message":
            return {"role": "user", **said}
        case "system.message":
            return {"role": "system", **said}
        case "agent.tool_result":
            return {"role": "tool", "tool_call_id": said["tool_use_id"], "content": said.get("content")}
        case "agent.message" | "agent.tool_use" | "agent.thinking":
            return _chat_turn(group)
        case _:
            return None


def _chat_turn(group: Said) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": "assistant", "content": None}
    calls: list[Any] = []
    for event in group:
        if event.type == "agent.message":
            turn["content"] = event.data["content"]
        elif event.type == "agent.tool_use":
            function = {"name": event.data["name"], "arguments": _written(event.data["input"])}
            calls.append({"id": event.data["id"], "type": "function", "function": function})
        elif event.type == "agent.thinking":
            turn["reasoning_content"] = event.data.get("text")
    return turn | ({"tool_calls": calls} if calls else {})


# --- messages of Anthropic's API -----------------------------------------------------------------
def _anthropic(group: Said) -> dict[str, Any] | None:
    types = {event.type for event in group}
    if types == {"system.message"}:
        return {"role": "system", "content": group[0].data["content"]}
    if types <= {"user.message", "agent.tool_result"}:
        return {"role": "user", "content": _blocks(group)}
    if types <= {
        "agent.message",
        "agent.thinking",
        "agent.tool_use",
        "agent.tool_result",
    }:  # a server's result stands in the turn
        return {"role": "assistant", "content": _blocks(group)}
    return None


def _blocks(group: Said) -> Any:
    if len(group) == 1 and isinstance(group[0].data.get("content"), str) and group[0].type != "agent.tool_result":
        return group[0].data["content"]
    blocks: list[Any] = []
    for event in group:
        said: dict[str, Any] = event.data
        match event.type:
            case "agent.tool_result":
                kept = {name: said[name] for name in ("tool_use_id", "content", "is_error") if name in said}
                blocks.append({"type": "tool_result", **kept})
            case "agent.tool_use":
                kind = "server_tool_use" if said.get("kind") == "server" else "tool_use"
                blocks.append({"type": kind, "id": said["id"], "name": said["name"], "input": said["input"]})
            case "agent.thinking":
                blocks.append(
                    {"type": "redacted_thinking", "data": said["encrypted"]}
                    if "encrypted" in said
                    else {"type": "thinking", "thinking": said.get("text"), "signature": said.get("signature")}
                )
            case _:
                content = said["content"]
                blocks += content if isinstance(content, list) else [{"type": "text", "text": content}]
    return blocks
