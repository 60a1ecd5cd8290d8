"""The conversation as OpenAI's APIs take it: chat completions and responses.

Every tool call is followed by exactly one result, before anything else is said.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everlog.reducers.blocks import Ids, arguments_of, is_use, picture_url, result_of, shown, spoken, tool_name


def as_openai_chat(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Give `messages` for `client.chat.completions.create`. Thoughts have no place there and are left out."""
    made: list[dict[str, Any]] = []
    ids = Ids(length_max=40)
    for message in messages:
        if message["role"] == "assistant":
            made += _chat_turn(message, ids)
        elif message["role"] == "system":
            text = _joined(message["content"])
            made += [{"role": _system_role(message), "content": text}] if text else []
        else:
            content = _parts(message["content"], "text", _chat_picture)
            made += [{"role": "user", "content": content}] if content else []
    return {"messages": made}


def _system_role(message: dict[str, Any]) -> str:
    return "developer" if message.get("speaker") == "developer" else "system"


def _chat_turn(message: dict[str, Any], ids: Ids) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    texts: list[Any] = []
    for block in spoken(message):
        if is_use(block):
            given = ids.give(block["id"])
            function = {"name": tool_name(block["name"]), "arguments": _arguments(block)}
            calls.append({"id": given, "type": "function", "function": function})
            content, _ = result_of(block)
            results.append({"role": "tool", "tool_call_id": given, "content": _joined(content)})
        elif block.get("type") != "thinking":
            texts.append(block)
    text = _joined(texts)
    if not text and not calls:
        return []
    turn: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        turn["tool_calls"] = calls
    return [turn, *results]


def as_openai_responses(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Give `input` for `client.responses.create`. Thoughts go along where their encrypted form was recorded."""
    items: list[dict[str, Any]] = []
    ids = Ids(length_max=64)
    for message in messages:
        if message["role"] == "assistant":
            items += _response_items(message, ids)
            continue
        system = message["role"] == "system"
        text = _joined(message["content"]) if system else ""
        said = [{"type": "input_text", "text": text}] if text else []
        content = said if system else _parts(message["content"], "input_text", _response_picture)
        if content:
            role = _system_role(message) if system else "user"
            items.append({"type": "message", "role": role, "content": content})
    return {"input": items}


def _response_items(message: dict[str, Any], ids: Ids) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for block in spoken(message):
        if is_use(block):
            given = ids.give(block["id"])
            items.append(
                {
                    "type": "function_call",
                    "call_id": given,
                    "name": tool_name(block["name"]),
                    "arguments": _arguments(block),
                }
            )
            content, _ = result_of(block)
            results.append({"type": "function_call_output", "call_id": given, "output": _joined(content)})
        elif block.get("type") == "thinking":
            if isinstance(block.get("encrypted"), str):
                summary = [{"type": "summary_text", "text": block["text"]}] if block.get("text") else []
                items.append({"type": "reasoning", "summary": summary, "encrypted_content": block["encrypted"]})
        else:
            text = shown(block)
            if text.strip():
                items.append({"type": "message", "role": "assistant", "content": text})
    while items and items[-1]["type"] == "reasoning":
        items.pop()  # a thought without what it led to is refused
    return items + results


def _arguments(use: dict[str, Any]) -> str:
    return msgspec.json.encode(arguments_of(use)).decode()


def _joined(blocks: list[Any]) -> str:
    return "\n".join(
        "[image]" if picture_url(block) is not None else text for block in blocks if (text := shown(block)).strip()
    )


def _parts(blocks: list[Any], text_type: str, picture: Any) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for block in blocks:
        url = picture_url(block)
        if url is not None:
            parts.append(picture(url))
        elif (text := shown(block)).strip():
            parts.append({"type": text_type, "text": text})
    return parts


def _chat_picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _response_picture(url: str) -> dict[str, Any]:
    return {"type": "input_image", "image_url": url, "detail": "auto"}
