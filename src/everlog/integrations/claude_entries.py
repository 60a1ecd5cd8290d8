"""Entries of Claude Code's transcripts as events, and back: for what imports them, and for what keeps them as they come.

An entry is one JSON object of a transcript. `events_of` says what it is in standard events; `recorded_of` and `entry_of` keep
it whole beside them, and leave out of what is kept what those events say already.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

from msgspec.structs import replace

from everlog.core.event import Event, NewEvent
from everlog.integrations.anthropic_blocks import block_event
from everlog.integrations.items import (
    as_title,
    attached,
    can_say,
    canonical,
    fit,
    fit_key,
    opaque_type,
    parse_moment,
    text_of,
    with_key,
    with_parts,
)

FORMAT: Final = "claude-code"
# What Claude Code writes beside the conversation. Other types are kept just the same, and reported.
_KNOWN = {
    *("agent-name", "ai-title", "attachment", "custom-title", "file-history-snapshot", "last-prompt", "mode"),
    *("permission-mode", "pr-link", "progress", "queue-operation", "summary", "system", "tag", "worktree-state"),
    *("user", "assistant"),
}


def recorded_of(entry: dict[str, Any], *, body_bytes_max: int) -> list[NewEvent]:
    """Give the events that keep an entry: what `events_of` gives, with its key, its time, and what they leave out of it.

    One that JSON says and the log does not (half characters, integers of 2^64, deep or large ones) becomes an opaque event with its
    JSON attached.
    """
    moment, key = parse_moment(entry.get("timestamp")), key_of(entry)
    if can_say(entry, bytes_max=body_bytes_max // 2):
        made = _said_events(entry, moment, key)
        if fit(made, body_bytes_max=body_bytes_max):
            return made
    whole = replace(attached(FORMAT, entry.get("type"), entry), occurred_at=moment)
    return [whole] if key is None else with_key([whole], key)


def _said_events(entry: dict[str, Any], moment: datetime | None, key: str | None) -> list[NewEvent]:
    """Give the events that say an entry, and beside the first what they leave out."""
    made, _ = events_of(entry, FORMAT)
    if moment is not None:
        made = [replace(event, occurred_at=moment) for event in made]
    if key is not None:
        made = with_key(made, key)
    native = {"format": FORMAT, **_rest(entry, made)}
    made[0] = replace(made[0], metadata={**(made[0].metadata or {}), "native": native})
    return with_parts(made)


def key_of(entry: dict[str, Any]) -> str | None:
    """Give the key of an entry's first event; None for an entry without a uuid, which may stand in a transcript twice."""
    uuid = entry.get("uuid")
    return fit_key(f"{FORMAT}:{uuid}") if isinstance(uuid, str) and uuid else None


def title_of(entries: Sequence[dict[str, Any]], *, known: str | None = None) -> str | None:
    """Give what a transcript is called: the last title that its entries give it, else `known`, else what the user says first."""
    said: str | None = None
    for entry in entries:
        for member in ("customTitle", "aiTitle", "summary"):
            if isinstance(entry.get(member), str):
                known = as_title(entry[member]) or known
                break
        if known is said is None and entry.get("type") == "user" and entry.get("isMeta") is not True:
            text = text_of(member_of(entry.get("message"), "content"))
            if text and not text.lstrip().startswith("<"):  # <command-name> and its kin are Claude Code's own words
                said = as_title(text)
    return known or said


def entry_of(group: Sequence[Event]) -> dict[str, Any] | None:
    """Give the entry that events were recorded for; None where they were for none, or the first was erased."""
    first = group[0]
    native = member_of(first.metadata, "native")
    if member_of(native, "format") != FORMAT:
        return None
    if "attachment" in native:
        return json.loads(first.attachment(native["attachment"]))
    if "item" in native:
        return native["item"]
    rest = {**_said_by(first), **native["rest"]}
    rest["message"] = {**cast("dict[str, Any]", rest["message"]), "content": _content_of(rest.get("type"), group)}
    return rest


def _rest(entry: dict[str, Any], events: Sequence[NewEvent]) -> dict[str, Any]:
    """Give what must be kept beside an entry's events: where they say its content exactly, what they do not say, else all of it."""
    message = entry.get("message")
    if isinstance(message, dict) and "content" in message:
        content = _content_of(entry.get("type"), events)
        if canonical(content) == canonical(message["content"]):
            said = _said_by(events[0])
            rest = {name: member for name, member in entry.items() if name not in said or said[name] != member}
            return {"rest": rest | {"message": {name: member for name, member in message.items() if name != "content"}}}
    return {"item": entry}


def _said_by(first: NewEvent | Event) -> dict[str, str]:
    """Give the members of an entry that the key and the time of its first event say."""
    said: dict[str, str] = {}
    if first.key is not None and first.key.startswith(f"{FORMAT}:"):
        said["uuid"] = first.key.removeprefix(f"{FORMAT}:")
    if isinstance(first.occurred_at, datetime):
        said["timestamp"] = (
            f"{first.occurred_at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
        )
    return said


def _content_of(kind: Any, events: Sequence[NewEvent] | Sequence[Event]) -> Any:
    """Give the content of a message that events were made of, as far as they say it."""
    datas = [event.data for event in events]
    if kind == "user" and events[0].type == "user.message":
        return member_of(datas[0], "content")
    contents = [member_of(data, "content") for data in datas]
    if len(events) == 1 and isinstance(contents[0], str) and events[0].type == "agent.message":
        return contents[0]
    return [_block_of(event.type, data) for event, data in zip(events, datas, strict=True)]


def _block_of(event_type: str, data: Any) -> Any:
    """Give the block that one event was made of, as far as it says it."""
    if event_type == "agent.tool_result":
        return {"type": "tool_result", **data}
    if event_type == "agent.tool_use":
        return {"type": "tool_use", "id": data["id"], "name": data["name"], "input": data["input"]}
    if event_type == "agent.thinking":
        signature = {"signature": data["signature"]} if "signature" in data else {}
        return {"type": "thinking", "thinking": member_of(data, "text"), **signature}
    content = member_of(data, "content")
    return content[0] if isinstance(content, list) and len(content) == 1 else None


def events_of(entry: dict[str, Any], actor: str) -> tuple[list[NewEvent], str | None]:
    """Give an entry's events, at least one, and what is to be reported."""
    kind = entry.get("type")
    message = entry.get("message")
    content = member_of(message, "content")
    if kind in ("user", "assistant") and isinstance(content, (str, list)):
        if entry.get("isApiErrorMessage") is True:
            return [NewEvent("error", {"message": text_of(content) or "", "kind": "api"}, actor=actor)], None
        made = _user_events(content) if kind == "user" else _assistant_events(content, message, actor)
        if made:
            return made, None
    known = isinstance(kind, str) and kind in _KNOWN
    problem = None if known else f"has the type {kind!r:.100}, which is not known; kept as it is"
    return [NewEvent(opaque_type(FORMAT, kind), _opaque_data(entry))], problem


def _opaque_data(entry: dict[str, Any]) -> dict[str, Any] | None:
    """Give what a listing should show of an entry that has no standard type; the whole stands in `native`."""
    for member in ("content", "summary", "customTitle", "aiTitle", "lastPrompt", "operation", "subtype"):
        if isinstance(entry.get(member), str):
            return {member: entry[member]}
    return None


def _user_events(content: str | list[Any]) -> list[NewEvent]:
    if isinstance(content, str):
        return [NewEvent("user.message", {"content": content})]
    events: list[NewEvent] = []
    said: list[Any] = []
    for block in content:
        event = block_event(block) if member_of(block, "type") == "tool_result" else None
        if event is None:
            said.append(block)
        else:
            events.append(event)
    if said:
        events.append(NewEvent("user.message", {"content": said}))
    return events


def _assistant_events(content: str | list[Any], message: Any, actor: str) -> list[NewEvent]:
    turn: dict[str, Any] = {}
    if isinstance(member_of(message, "id"), str):
        turn["message_id"] = message["id"]
    metadata: dict[str, Any] = {}
    model, usage = member_of(message, "model"), usage_of(member_of(message, "usage"))
    if isinstance(model, str):
        metadata["model"] = model
    if usage is not None:
        metadata["usage"] = usage
    blocks = [content] if isinstance(content, str) else content
    events = [_block_event(block, turn, actor) for block in blocks]
    if events and metadata:
        first = events[0]
        events[0] = NewEvent(first.type, first.data, actor=actor, outcome=first.outcome, metadata=metadata)
    return events


def _block_event(block: Any, turn: dict[str, Any], actor: str) -> NewEvent:
    if isinstance(block, str):
        return NewEvent("agent.message", {"content": block, **turn}, actor=actor)
    event = block_event(block, turn=turn, actor=actor) if isinstance(block, dict) else None
    return event or NewEvent("agent.message", {"content": [block], **turn}, actor=actor)


def usage_of(usage: Any) -> dict[str, int] | None:
    """Give Anthropic's count of tokens in the standard shape, where input_tokens include what came from the cache."""
    if not isinstance(usage, dict):
        return None
    counted = {
        name: value
        for name in ("cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
        if type(value := usage.get(name)) is int
    }
    fresh = usage.get("input_tokens")
    if type(fresh) is int:
        cached = counted.get("cache_read_input_tokens", 0) + counted.get("cache_creation_input_tokens", 0)
        counted["input_tokens"] = fresh + cached
    return counted or None


def member_of(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
