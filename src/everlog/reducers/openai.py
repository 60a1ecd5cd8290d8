"""The conversation as OpenAI's APIs take it: chat completions and responses.

Every tool call is followed by exactly one result, before anything else is said.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everlog.reducers.blocks import (
    Ids,
    arguments_of,
    flat,
    is_use,
    parts_of,
    picture_url,
    result_of,
    shown,
    tool_name,
)


def as_openai_chat(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Give `messages` for `client.chat.completions.create`. Thoughts have no place there and are left out."""
    made: list[dict[str, Any]] = []
    ids = Ids(length_max=40)
    for message in messages:
        if message["role"] == "assistant":
            for blocks in parts_of(message):
                made += _chat_turn(blocks, ids)
        elif message["role"] == "system":
            text = _joined(message["content"])
            made += [{"role": _system_role(message), "content": text}] if text else []
        else:
            content = _parts(message["content"], "text", _chat_picture)
            made += [{"role": "user", "content": content} | _name(message)] if content else []
    return {"messages": made}


def _system_role(message: dict[str, Any]) -> str:
    return "developer" if message.get("speaker") == "developer" else "system"


def _name(message: dict[str, Any]) -> dict[str, Any]:
    return {"name": tool_name(message["name"])} if isinstance(message.get("name"), str) else {}


def _chat_turn(blocks: list[Any], ids: Ids) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    texts: list[Any] = []
    for block in blocks:
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
    """Give `input` for `client.responses.create`. Thoughts go along where OpenAI's encrypted form of them was recorded."""
    items: list[dict[str, Any]] = []
    ids = Ids(length_max=64)
    for message in messages:
        if message["role"] == "assistant":
            for blocks in parts_of(message):
                items += _response_items(blocks, ids)
            continue
        system = message["role"] == "system"
        text = _joined(message["content"]) if system else ""
        said = [{"type": "input_text", "text": text}] if text else []
        content = said if system else _parts(message["content"], "input_text", _response_picture)
        if content:
            role = _system_role(message) if system else "user"
            items.append({"type": "message", "role": role, "content": content})
    return {"input": _without_loose_thoughts(items)}


def _without_loose_thoughts(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out thoughts that what they led to does not follow: the API refuses them."""
    kept: list[dict[str, Any]] = []
    leads = False
    for item in reversed(items):
        if item["type"] == "reasoning":
            if not leads:
                continue
        else:
            leads = item["type"] == "function_call" or item.get("role") == "assistant"
        kept.append(item)
    return kept[::-1]


def _response_items(blocks: list[Any], ids: Ids) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for block in blocks:
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
            if isinstance(block.get("encrypted"), str) and block.get("provider") == "openai":
                summary = [{"type": "summary_text", "text": block["text"]}] if block.get("text") else []
                items.append({"type": "reasoning", "summary": summary, "encrypted_content": block["encrypted"]})
        else:
            text = shown(block)
            if text.strip():
                items.append({"type": "message", "role": "assistant", "content": text})
    return items + results


def _arguments(use: dict[str, Any]) -> str:
    return msgspec.json.encode(arguments_of(use)).decode()


def _joined(blocks: list[Any]) -> str:
    return "\n".join(
        "[image]" if picture_url(block) is not None else text for block in blocks if (text := shown(block)).strip()
    )


def _parts(blocks: list[Any], text_type: str, picture: Any) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for block in flat(blocks):
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
