"""What providers answered: messages, usage, how it ended; also of what came in pieces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

from everlog.reducers.spoken import ANTHROPIC, CHAT

_CACHED: Final = ("cache_read_input_tokens", "cache_creation_input_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer. messages: as the next request says them again. others: choices beside the first."""

    messages: list[Any]
    response_id: str | None
    model: str | None
    stop_reason: str | None
    usage: dict[str, int]
    others: list[Any] = field(default_factory=list[Any])


def answer_of(format: str, said: Mapping[str, Any]) -> Answer:
    """Read a response's JSON."""
    usage = _members(said.get("usage"))
    others: list[Any] = []
    if format == ANTHROPIC:
        messages: list[Any] = [{"role": "assistant", "content": said["content"]}] if said.get("content") else []
        counted, stop = _anthropic_usage(usage), said.get("stop_reason")
    elif format == CHAT:
        choices = _members_of(said.get("choices"))
        first, others = (choices[0] if choices else {}), list(choices[1:])
        messages = [first["message"]] if isinstance(first.get("message"), dict) else []
        counted, stop = _openai_usage(usage, "prompt", "completion"), first.get("finish_reason")
    else:
        messages = list(_members_of(said.get("output")))
        counted, stop = _openai_usage(usage, "input", "output"), said.get("status")
    return Answer(
        messages=messages,
        response_id=_text(said.get("id")),
        model=_text(said.get("model")),
        stop_reason=_text(stop),
        usage=counted,
        others=others,
    )


def _anthropic_usage(usage: Mapping[str, Any]) -> dict[str, int]:
    """Give Anthropic's count in the standard shape, where input_tokens include what came from the cache."""
    counted = {name: usage[name] for name in (*_CACHED, "output_tokens") if type(usage.get(name)) is int}
    if type(usage.get("input_tokens")) is int:
        counted["input_tokens"] = usage["input_tokens"] + sum(counted.get(name, 0) for name in _CACHED)
    return counted


def _openai_usage(usage: Mapping[str, Any], given: str, made: str) -> dict[str, int]:
    named = {
        "input_tokens": usage.get(f"{given}_tokens"),
        "output_tokens": usage.get(f"{made}_tokens"),
        "cache_read_input_tokens": _members(usage.get(f"{given}_tokens_details")).get("cached_tokens"),
        "reasoning_tokens": _members(usage.get(f"{made}_tokens_details")).get("reasoning_tokens"),
    }
    return {name: value for name, value in named.items() if type(value) is int}


def _members(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _members_of(value: Any) -> list[dict[str, Any]]:
    return [_members(each) for each in cast("list[Any]", value)] if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


# --- pieces --------------------------------------------------------------------------------------
class Pieces(Protocol):
    """An answer as it comes in pieces. complete: whether its end came."""

    complete: bool

    def add(self, piece: Any) -> None:
        """Take a piece."""
        ...

    def said(self) -> dict[str, Any] | None:
        """Give the response, as far as it came, in the shape of one that came at once; None where that is nothing that can be told."""
        ...


def pieces_of(format: str) -> Pieces:
    """Give what puts the pieces of a stream together."""
    return _MAKERS.get(format, ItemPieces)()


class _Text(list[str]):
    """A text as it comes: put together once, at the end, as a long one would else be copied with each piece."""


def _add(said: dict[str, Any], name: str, text: str) -> None:
    there = said.get(name)
    if not isinstance(there, _Text):
        there = said[name] = _Text([there] if isinstance(there, str) else [])
    there.append(text)


def _whole(value: Any) -> Any:
    """Give a value with its texts put together."""
    if isinstance(value, _Text):
        return "".join(value)
    if isinstance(value, list):
        return [_whole(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in cast("dict[str, Any]", value).items()}
    return value


class AnthropicPieces:
    """Server-sent events of the Messages API."""

    def __init__(self) -> None:
        self.complete = False
        self._message: dict[str, Any] = {"content": []}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, list[str]] = {}

    def add(self, piece: dict[str, Any]) -> None:
        """Take an event."""
        at, delta = piece.get("index", 0), _members(piece.get("delta"))
        match piece.get("type"):
            case "message_start":
                self._message = deepcopy(piece["message"])
            case "content_block_start":
                self._blocks[at] = dict(piece["content_block"])
            case "content_block_delta":
                self._extend(self._blocks.setdefault(at, {"type": "text", "text": ""}), at, delta)
            case "message_delta":
                self._message |= delta
                counted = {name: each for name, each in _members(piece.get("usage")).items() if each is not None}
                self._message["usage"] = {**_members(self._message.get("usage")), **counted}
            case "message_stop":
                self.complete = True
            case _:
                pass

    def _extend(self, block: dict[str, Any], at: int, delta: Mapping[str, Any]) -> None:
        match delta.get("type"):
            case "text_delta":
                _add(block, "text", delta["text"])
            case "thinking_delta":
                _add(block, "thinking", delta["thinking"])
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "citations_delta":
                block["citations"] = [*(block.get("citations") or []), delta["citation"]]
            case "input_json_delta":
                self._inputs.setdefault(at, []).append(delta["partial_json"])
            case _:  # a compaction comes at once
                block |= {name: value for name, value in delta.items() if name != "type"}

    def said(self) -> dict[str, Any]:
        """Give the message. A tool's input that did not come whole is its text so far."""
        for at, parts in self._inputs.items():
            self._blocks[at]["input"] = _parsed("".join(parts))
        return {**self._message, "content": [_whole(self._blocks[at]) for at in sorted(self._blocks)]}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text) if text else {}
    except ValueError:
        return text


class ChatPieces:
    """Chunks of chat completions."""

    def __init__(self) -> None:
        self.complete = False
        self._response: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._calls: dict[int, dict[int, dict[str, Any]]] = {}

    def add(self, piece: dict[str, Any]) -> None:
        """Take a chunk."""
        self._response |= {name: piece[name] for name in ("id", "model", "usage") if piece.get(name) is not None}
        for given in _members_of(piece.get("choices")):
            at = given.get("index", 0)
            choice = self._choices.setdefault(at, {"index": at, "message": {"role": "assistant", "content": None}})
            self._extend(choice["message"], self._calls.setdefault(at, {}), _members(given.get("delta")))
            if given.get("finish_reason") is not None:
                choice["finish_reason"] = given["finish_reason"]
        self.complete = bool(self._choices) and all("finish_reason" in each for each in self._choices.values())

    def _extend(self, message: dict[str, Any], calls: dict[int, dict[str, Any]], delta: Mapping[str, Any]) -> None:
        for name, value in delta.items():
            if name == "tool_calls":
                for part in _members_of(value):
                    _join(calls.setdefault(part.get("index", 0), {}), part.items())
            elif isinstance(value, str) and name != "role":
                _add(message, name, value)
            elif value is not None:
                message[name] = value

    def said(self) -> dict[str, Any]:
        """Give the completion."""
        for at, calls in self._calls.items():
            if calls:
                self._choices[at]["message"]["tool_calls"] = [calls[place] for place in sorted(calls)]
        return {**self._response, "choices": [_whole(self._choices[at]) for at in sorted(self._choices)]}


def _join(call: dict[str, Any], part: Iterable[tuple[str, Any]]) -> None:
    for name, value in part:
        if isinstance(value, dict):
            _join(call.setdefault(name, {}), cast("dict[str, Any]", value).items())
        elif name in ("arguments", "input") and isinstance(value, str):
            _add(call, name, value)
        elif name != "index" and value is not None:
            call[name] = value


class ItemPieces:
    """Events of the Responses API, whose last one says all again."""

    def __init__(self) -> None:
        self.complete = False
        self._response: dict[str, Any] = {}
        self._items: dict[int, dict[str, Any]] = {}
        self._texts: dict[int, list[str]] = {}

    def add(self, piece: dict[str, Any]) -> None:
        """Take an event."""
        kind, at = piece.get("type"), piece.get("output_index", 0)
        if isinstance(piece.get("response"), dict):
            self._response = piece["response"]
        if kind == "response.output_item.done":
            self._items[at] = piece["item"]
            self._texts.pop(at, None)
        elif kind == "response.output_text.delta":
            self._texts.setdefault(at, []).append(piece["delta"])
        self.complete = self.complete or kind in ("response.completed", "response.incomplete", "response.failed")

    def said(self) -> dict[str, Any]:
        """Give the response; of one that did not come whole, the items that did, and the text of the one that came last."""
        if self.complete:
            return self._response
        texts = {at: {"role": "assistant", "content": "".join(text)} for at, text in self._texts.items()}
        items = self._items | texts
        return {**self._response, "output": [items[at] for at in sorted(items)]}


_MAKERS: Final = {ANTHROPIC: AnthropicPieces, CHAT: ChatPieces}


UNPACKED_BYTES_MAX: Final = 256 * 1024 * 1024  # of bytes that came packed: a few kilobytes may say gigabytes


class Body:
    """The bytes of an answer: JSON, or a stream's events."""

    def __init__(self, format: str, response: Any) -> None:
        self.complete = False
        self._format = format
        self._kind, self._headers = type(response), response.headers
        self.streamed = str(response.headers.get("content-type", "")).startswith("text/event-stream")
        self._parts: list[bytes] = []

    def add(self, piece: bytes) -> None:
        """Take bytes, as they were sent."""
        self._parts.append(piece)

    def said(self) -> dict[str, Any] | None:
        """Give the response; None of JSON that did not come whole, and of all else."""
        content = b"".join(self._unpacked())
        if not self.streamed or not content:
            said = _parsed_bytes(content)
            self.complete = said is not None
            return said
        pieces, failed = pieces_of(self._format), {}
        for event in _events_of(content):
            pieces.add(event)
            failed = {"error": event["error"]} if isinstance(event.get("error"), dict) else failed
        self.complete = pieces.complete
        return {**(pieces.said() or {}), **failed}

    def _unpacked(self) -> list[bytes]:
        """Give the bytes as their reader had them, by a response of the same kind."""
        if "content-encoding" not in self._headers:
            return self._parts
        unpacked: list[bytes] = []
        size = 0
        with suppress(Exception):  # they were cut: what came before is there
            for piece in self._kind(200, headers=self._headers, content=iter(self._parts)).iter_bytes():
                size += len(piece)
                if size > UNPACKED_BYTES_MAX:
                    break
                unpacked.append(piece)
        return unpacked


def _events_of(content: bytes) -> Iterator[dict[str, Any]]:
    """Give the JSON of a stream's events."""
    data: list[bytes] = []
    for line in [*content.splitlines(), b""]:
        if line.startswith(b"data:"):
            data.append(line[5:])
        elif not line:
            event, data = _parsed_bytes(b"\n".join(data)), []
            if event is not None:
                yield event


def _parsed_bytes(content: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None
