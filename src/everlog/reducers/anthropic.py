"""The conversation as Anthropic's Messages API takes it.

1. Turns of user and assistant alternate, the user's first; none is empty, and no text is.
2. The results of an assistant's tool uses stand first in the user's turn right after it, one for each.
3. A thought without its signature, or at the end of a turn, is refused by the API and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from everlog.reducers.blocks import (
    BEGINNING,
    Ids,
    arguments_of,
    is_use,
    picture_url,
    result_of,
    shown,
    spoken,
    tool_name,
)

_KEPT: Final = ("document", "search_result", "container_upload")  # blocks of the API that are passed on as they are


def as_anthropic(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Give `messages`, and `system` where there is one, for `client.messages.create`."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    ids = Ids(length_max=64)
    for message in messages:
        if message["role"] == "system" and not turns:
            system += _texts(message["content"])
        elif message["role"] == "assistant":
            _add_assistant(turns, message, ids)
        else:
            _extend(turns, "user", [_user_block(block) for block in message["content"]])
    if turns and turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": [{"type": "text", "text": BEGINNING}]})
    _trim_end(turns)
    return {"messages": turns} | ({"system": system} if system else {})


def _add_assistant(turns: list[dict[str, Any]], message: dict[str, Any], ids: Ids) -> None:
    content: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for block in spoken(message):
        if is_use(block):
            given = ids.give(block["id"])
            content.append(
                {"type": "tool_use", "id": given, "name": tool_name(block["name"]), "input": arguments_of(block)}
            )
            found, failed = result_of(block)
            parts = [part for part in map(_user_block, found) if part is not None]
            result: dict[str, Any] = {"type": "tool_result", "tool_use_id": given, "is_error": failed}
            results.append(result | ({"content": parts} if parts else {}))
        elif block.get("type") == "thinking":
            thought = _thought(block)
            if thought is not None:
                content.append(thought)
        else:
            content += _texts([block])
    while content and content[-1]["type"] in ("thinking", "redacted_thinking"):
        content.pop()
    if turns and turns[-1]["role"] == "assistant" and content and content[0]["type"].endswith("thinking"):
        # Two turns become one; a thought may stand only where that one begins.
        content = [block for block in content if not block["type"].endswith("thinking")]
    _extend(turns, "assistant", content)
    _extend(turns, "user", results)


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
    url = picture_url(block)
    if url is not None:
        return {"type": "image", "source": _source(url)}
    if isinstance(block, dict) and block.get("type") in _KEPT:
        return block
    text = shown(block)
    return {"type": "text", "text": text} if text.strip() else None


def _source(url: str) -> dict[str, Any]:
    if url.startswith("data:") and ";base64," in url:
        kind, _, data = url.removeprefix("data:").partition(";base64,")
        return {"type": "base64", "media_type": kind, "data": data}
    return {"type": "url", "url": url}


def _texts(blocks: list[Any]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text} for block in blocks if (text := shown(block)).strip()]


def _thought(block: dict[str, Any]) -> dict[str, Any] | None:
    if isinstance(block.get("signature"), str) and isinstance(block.get("text"), str) and block["signature"]:
        return {"type": "thinking", "thinking": block["text"], "signature": block["signature"]}
    if isinstance(block.get("encrypted"), str) and "text" not in block:
        return {"type": "redacted_thinking", "data": block["encrypted"]}
    return None


def _trim_end(turns: list[dict[str, Any]]) -> None:
    """Take white space from the end of an assistant's last text, which the API refuses there."""
    if turns and turns[-1]["role"] == "assistant" and turns[-1]["content"][-1]["type"] == "text":
        last = turns[-1]["content"][-1]
        turns[-1]["content"][-1] = {**last, "text": last["text"].rstrip()}
