"""The conversation as Anthropic's Messages API takes it.

1. Turns of user and assistant alternate, the user's first; none is empty, and no text is.
2. The results of an assistant's tool uses stand first in the user's turn right after it, one for each.
3. A failed result holds text, and some.
4. A thought without its signature, or at the end of a turn, is refused by the API and left out; so is one that another
   provider encrypted.
5. What a tool that ran at the provider said stands before what the assistant said of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from everlog.reducers.blocks import (
    BEGINNING,
    NOTHING_SAID,
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

_KEPT: Final = {  # blocks of the API that are passed on as they are, with the members that it demands of them
    "document": ("source",),
    "search_result": ("source", "title", "content"),
    "container_upload": ("file_id",),
}
_PICTURES: Final = ("image/jpeg", "image/png", "image/gif", "image/webp")
_THOUGHTS: Final = ("thinking", "redacted_thinking")


def as_anthropic(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Give `system`, where there is one, and `messages`, for `client.messages.create`."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    ids = Ids(length_max=64)
    for message in messages:
        if message["role"] == "system" and not turns:
            system += _texts(message["content"])
        elif message["role"] == "assistant":
            for blocks in parts_of(message):
                _add_assistant(turns, blocks, ids)
        else:
            _extend(turns, "user", [_user_block(block) for block in flat(message["content"])])
    if turns and turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": [{"type": "text", "text": BEGINNING}]})
    _trim_end(turns)
    return ({"system": system} if system else {}) | {"messages": turns}


def _add_assistant(turns: list[dict[str, Any]], blocks: list[Any], ids: Ids) -> None:
    """Add what the assistant said, and the user's turn with the results of what it used."""
    content: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    beside: list[dict[str, Any]] = []  # what a result may not hold
    for block in blocks:
        if is_use(block):
            given = ids.give(block["id"])
            content.append(
                {"type": "tool_use", "id": given, "name": tool_name(block["name"]), "input": arguments_of(block)}
            )
            results.append(_result(given, block, beside))
        elif block.get("type") == "thinking":
            thought = _thought(block)
            if thought is not None:
                content.append(thought)
        else:
            content += _texts([block])
    while content and content[-1]["type"] in _THOUGHTS:
        content.pop()
    if turns and turns[-1]["role"] == "assistant" and content and content[0]["type"] in _THOUGHTS:
        # Two turns become one; a thought may stand only where that one begins.
        content = [block for block in content if block["type"] not in _THOUGHTS]
    _extend(turns, "assistant", content)
    _extend(turns, "user", results + beside)


def _result(given: str, use: dict[str, Any], beside: list[dict[str, Any]]) -> dict[str, Any]:
    """Give a use's result; what it may not hold goes into `beside`."""
    found, failed = result_of(use)
    parts: list[dict[str, Any]] = []
    for part in map(_user_block, found):
        if part is not None:
            (beside if part["type"] != "text" and (failed or part["type"] == "container_upload") else parts).append(
                part
            )
    if failed and not parts:
        parts.append({"type": "text", "text": NOTHING_SAID})
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": given, "is_error": failed}
    return result | ({"content": parts} if parts else {})


def _extend(turns: list[dict[str, Any]], role: str, content: Sequence[dict[str, Any] | None]) -> None:
    """Add blocks to the last turn of a role, or begin one."""
    given = [block for block in content if block is not None]
    if not given:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += given
    else:
        turns.append({"role": role, "content": given})


def _user_block(block: Any) -> dict[str, Any] | None:
    source = _source(block)
    if source is not None:
        return {"type": "image", "source": source}
    if isinstance(block, dict) and all(member in block for member in _KEPT.get(str(block.get("type")), ("never",))):
        return {**block}
    text = shown(block)
    return {"type": "text", "text": text} if text.strip() else None


def _source(block: Any) -> dict[str, Any] | None:
    """Give the source of a picture that the API takes; None for any other block."""
    url = picture_url(block)
    if url is None:
        source = block.get("source") if isinstance(block, dict) and block.get("type") == "image" else None
        is_file = isinstance(source, dict) and source.get("type") == "file" and isinstance(source.get("file_id"), str)
        return source if is_file else None
    if url.startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    kind, _, data = url.removeprefix("data:").partition(";base64,")
    if url.startswith("data:") and kind in _PICTURES and data:
        return {"type": "base64", "media_type": kind, "data": data}
    return None


def _texts(blocks: list[Any]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text} for block in blocks if (text := shown(block)).strip()]


def _thought(block: dict[str, Any]) -> dict[str, Any] | None:
    if isinstance(block.get("signature"), str) and isinstance(block.get("text"), str) and block["signature"]:
        return {"type": "thinking", "thinking": block["text"], "signature": block["signature"]}
    if isinstance(block.get("encrypted"), str) and block.get("provider") == "anthropic":
        return {"type": "redacted_thinking", "data": block["encrypted"]}
    return None


def _trim_end(turns: list[dict[str, Any]]) -> None:
    """Take white space from the end of an assistant's last text, which the API refuses there."""
    if turns and turns[-1]["role"] == "assistant" and turns[-1]["content"][-1]["type"] == "text":
        last = turns[-1]["content"][-1]
        turns[-1]["content"][-1] = {**last, "text": last["text"].rstrip()}
