"""What the shapes of all providers need of the neutral conversation: texts, pictures, results, ids."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from everlog.core.event import Event

NO_RESULT: Final = "No result of this tool call is on record; whether it took effect is not known."
NOTHING_SAID: Final = "(It failed and said nothing.)"
ORPHAN: Final = "[Result of a tool call that is not shown]"
BEGINNING: Final = "(The conversation begins with the assistant.)"
_TEXTS: Final = ("text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal")
_FAILED: Final = ("error", "denied", "timeout", "cancelled")
_NOT_NAME: Final = re.compile(r"[^A-Za-z0-9_-]", re.ASCII)


def is_use(block: dict[str, Any]) -> bool:
    """Tell whether a block is a tool use."""
    return block.get("type") == "tool_use"


def has_failed(event: Event, data: dict[str, Any]) -> bool:
    """Tell whether an event says that what it tells of failed."""
    return data.get("is_error") is True or event.outcome in _FAILED


def text_of(block: Any) -> str | None:
    """Give a block's text; None where it is no text."""
    if isinstance(block, str):
        return block
    if isinstance(block, dict) and block.get("type") in _TEXTS:
        text = block.get("text", block.get("refusal"))
        return text if isinstance(text, str) else None
    return None


def shown(block: Any) -> str:
    """Give any block as text: its text, or what it is as JSON."""
    text = text_of(block)
    if text is not None:
        return text
    return msgspec.json.encode(block).decode()


def picture_url(block: Any) -> str | None:
    """Give the address of a picture block of any provider (a data: URL for one held inside); None for other blocks."""
    if not isinstance(block, dict):
        return None
    source, address = block.get("source"), block.get("image_url")
    if block.get("type") == "image" and isinstance(source, dict):
        if isinstance(source.get("url"), str):
            return source["url"]
        if isinstance(source.get("data"), str) and isinstance(source.get("media_type"), str):
            return f"data:{source['media_type']};base64,{source['data']}"
    if block.get("type") in ("image_url", "input_image"):
        address = address.get("url") if isinstance(address, dict) else address
        return address if isinstance(address, str) else None
    return None


def flat(blocks: list[Any]) -> list[Any]:
    """Give the blocks of a user's turn; a result whose use is not there as what it says."""
    given: list[Any] = []
    for block in blocks:
        if isinstance(block, dict) and block.get("type") == "tool_result":
            given += [{"type": "text", "text": ORPHAN}, *block["content"]]
        else:
            given.append(block)
    return given


def result_of(use: dict[str, Any]) -> tuple[list[Any], bool]:
    """Give the content of a tool use's result, and whether it failed; a stand-in where none was recorded."""
    result = use.get("result")
    if result is None:
        return [{"type": "text", "text": NO_RESULT}], True
    return list(result["content"]), bool(result["is_error"])


def parts_of(message: dict[str, Any]) -> list[list[Any]]:
    """Give the blocks of an assistant's turn in the parts that its results stand between.

    One part, but where a tool ran at the provider: what was said after it is another. A turn that says nothing beside its
    tool uses says their rationales.
    """
    blocks: list[Any] = message["content"]
    silent = not any((text_of(block) or "").strip() for block in blocks)
    parts: list[list[Any]] = [[]]
    ran = False
    for block in blocks:
        if is_use(block):
            ran = ran or block.get("kind") == "server"
            if silent and block.get("rationale"):
                parts[-1].append({"type": "text", "text": block["rationale"]})
        elif ran:
            parts.append([])
            ran = False
        parts[-1].append(block)
    return parts


class Ids:
    """Gives tool uses ids that a provider takes: of its characters, short enough, each once."""

    def __init__(self, *, length_max: int) -> None:
        self._length_max = length_max
        self._given: set[str] = set()
        self._numbers: dict[str, int] = {}  # how often each was wanted

    def give(self, wanted: str) -> str:
        """Give the id itself where it may be used, else one like it."""
        clean = _NOT_NAME.sub("_", wanted)[: self._length_max] or "call"
        number = self._numbers.get(clean, 0) + 1
        chosen = clean
        while chosen in self._given:
            number += 1
            ending = f"_{number}"
            chosen = clean[: self._length_max - len(ending)] + ending
        self._numbers[clean] = number
        self._given.add(chosen)
        return chosen


def tool_name(name: Any) -> str:
    """Give a tool's name of the characters that every provider takes, 1 to 64 of them."""
    return _NOT_NAME.sub("_", name if isinstance(name, str) else "")[:64] or "tool"


def arguments_of(use: dict[str, Any]) -> dict[str, Any]:
    """Give a tool use's input as the object that providers ask for."""
    given = use.get("input")
    if isinstance(given, dict):
        return given
    return {} if given is None else {"input": given}
