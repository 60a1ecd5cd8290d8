"""OpenAI's items as events: those of the Responses API, which Codex writes too, and chat completions' messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from everlog.core.event import NewEvent
from everlog.core.values import decode_json
from everlog.errors import EverlogError
from everlog.integrations.items import text_of

_TEXT_BLOCKS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


def as_content(content: Any) -> Any:
    """Give content in the shape of the standard events: texts as text blocks, other blocks as they are."""
    if not isinstance(content, list):
        return content
    return [
        {"type": "text", "text": block["text"]}
        if isinstance(block, dict) and block.get("type") in _TEXT_BLOCKS and isinstance(block.get("text"), str)
        else block
        for block in content
    ]


def parsed_input(arguments: Any) -> Any:
    """Give a call's arguments as the JSON they hold; as they are where they hold none."""
    if isinstance(arguments, str):
        try:
            return decode_json(arguments.encode("utf-8"), what="arguments")
        except EverlogError:
            return arguments
    return arguments


def message_event(item: Mapping[str, Any], actor: str | None) -> NewEvent | None:
    """Give an item with role and content as an event; None where it is no such item."""
    role, content = item.get("role"), as_content(item.get("content"))
    if not isinstance(content, (str, list)):
        return None
    match role:
        case "user":
            return NewEvent("user.message", {"content": content})
        case "system":
            return NewEvent("system.message", {"content": content})
        case "developer":
            return NewEvent("system.message", {"content": content, "role": "developer"})
        case "assistant":
            data: dict[str, Any] = {"content": content}
            if isinstance(item.get("id"), str):
                data["message_id"] = item["id"]
            if isinstance(item.get("phase"), str):
                data["phase"] = item["phase"]
            return NewEvent("agent.message", data, actor=actor)
        case _:
            return None


def response_events(item: Mapping[str, Any], actor: str | None) -> list[NewEvent]:
    """Give an item of the Responses API as events; none where it has no standard type."""
    kind = item.get("type", "message" if "role" in item else None)
    make = _MAKERS.get(kind) if isinstance(kind, str) else None
    event = None if make is None else make(item, actor)
    return [] if event is None else [event]


def _reasoning(item: Mapping[str, Any], actor: str | None) -> NewEvent:
    data: dict[str, Any] = {}
    text = text_of(item.get("content")) or text_of(item.get("summary"))
    if text is not None:
        data["text"] = text
    if item.get("encrypted_content") is not None:
        data["encrypted"], data["provider"] = item["encrypted_content"], "openai"
    if isinstance(item.get("id"), str):
        data["message_id"] = item["id"]
    return NewEvent("agent.thinking", data, actor=actor)


def _call(item: Mapping[str, Any], actor: str | None) -> NewEvent | None:
    call, name = item.get("call_id") or item.get("id"), item.get("name")
    if not isinstance(call, str) or not isinstance(name, str):
        return None
    custom = item["type"] == "custom_tool_call"
    given = item.get("input") if custom else parsed_input(item.get("arguments"))
    data: dict[str, Any] = {"id": call, "name": name, "input": given, "kind": "custom" if custom else "function"}
    return NewEvent("agent.tool_use", data, actor=actor)


def _server_call(item: Mapping[str, Any], actor: str | None) -> NewEvent | None:
    call = item.get("call_id") or item.get("id")
    if not isinstance(call, str):
        return None
    kind = str(item["type"])
    local = kind in ("local_shell_call", "shell_call", "computer_call")
    data: dict[str, Any] = {"id": call, "name": kind.removesuffix("_call"), "input": item.get("action")}
    return NewEvent("agent.tool_use", data | {"kind": "function" if local else "server"}, actor=actor)


def _output(item: Mapping[str, Any], _actor: str | None) -> NewEvent | None:
    call = item.get("call_id") or item.get("id")
    if not isinstance(call, str):
        return None
    output = item.get("output")
    data: dict[str, Any] = {"tool_use_id": call}
    outcome = None
    if isinstance(output, dict) and isinstance(output.get("content"), (str, list)):
        failed = output.get("success") is False
        data["content"] = as_content(output["content"])
        if failed:
            data["is_error"], outcome = True, "error"
    else:
        data["content"] = as_content(output)
    return NewEvent("agent.tool_result", data, outcome=outcome)


_MAKERS: Mapping[str, Callable[[Mapping[str, Any], str | None], NewEvent | None]] = {
    "message": message_event,
    "reasoning": _reasoning,
    "function_call": _call,
    "custom_tool_call": _call,
    "local_shell_call": _server_call,
    "shell_call": _server_call,
    "computer_call": _server_call,
    "web_search_call": _server_call,
    "file_search_call": _server_call,
    "function_call_output": _output,
    "custom_tool_call_output": _output,
    "local_shell_call_output": _output,
    "shell_call_output": _output,
    "computer_call_output": _output,
}


# --- chat completions ----------------------------------------------------------------------------
def chat_events(message: Mapping[str, Any]) -> list[NewEvent]:
    """Give a message of chat completions as events; none where it has no standard type."""
    role, content = message.get("role"), message.get("content")
    if role in ("tool", "function"):
        call = message.get("tool_call_id") if role == "tool" else message.get("name")
        if not isinstance(call, str):
            return []
        return [NewEvent("agent.tool_result", {"tool_use_id": call, "content": as_content(content)})]
    if role != "assistant":
        event = message_event(message, None)
        if event is None:
            return []
        named = isinstance(message.get("name"), str) and event.type == "user.message"
        return [NewEvent(event.type, {**event.data, "name": message["name"]}) if named else event]
    events: list[NewEvent] = []
    thought = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thought, str) and thought:
        events.append(NewEvent("agent.thinking", {"text": thought}))
    said = content if content not in (None, "", []) else message.get("refusal")
    if isinstance(said, (str, list)):
        events.append(NewEvent("agent.message", {"content": as_content(said)}))
    events += _chat_calls(message)
    return events


def _chat_calls(message: Mapping[str, Any]) -> Sequence[NewEvent]:
    calls = message.get("tool_calls")
    events: list[NewEvent] = []
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function", call.get("custom")) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not all(
            isinstance(text, str) for text in (call.get("id"), function.get("name"))
        ):
            return []
        given = function.get("arguments", function.get("input"))
        data = {"id": call["id"], "name": function["name"], "input": parsed_input(given), "kind": "function"}
        events.append(NewEvent("agent.tool_use", data))
    old = message.get("function_call")
    if isinstance(old, dict) and isinstance(old.get("name"), str):
        data = {"id": old["name"], "name": old["name"], "input": parsed_input(old.get("arguments")), "kind": "function"}
        events.append(NewEvent("agent.tool_use", data))
    return events
