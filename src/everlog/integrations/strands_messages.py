"""Messages of Strands as events, and back: each block is an event of its own, and what the blocks do not say is kept beside the first.

A message is a `SessionMessage` as its `to_dict` gives it: bytes are base64 inside it. Its key is `message:ID`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from msgspec.structs import replace

from everlog.core.event import Event, NewEvent
from everlog.core.standard import ACTOR_PATTERN
from everlog.integrations.items import (
    ATTACHMENT,
    attached,
    can_say,
    canonical,
    fit,
    opaque_type,
    parse_moment,
    with_key,
    with_parts,
)

FORMAT: Final = "strands"
UPDATED: Final = "x.strands.message_updated"
ERASED_TEXT: Final = "[erased]"
_KEY: Final = re.compile(r"message:(-?\d+)(?::\d+)?", re.ASCII)
_BYTES: Final = "__bytes_encoded__"  # how Strands marks base64


def key_of(message_id: int) -> str:
    """Give the key of a message's first event."""
    return f"message:{message_id}"


def recorded_of(message: dict[str, Any], *, actor: str, body_bytes_max: int) -> list[NewEvent]:
    """Give the events that keep a message. actor: the agent's id, for what it says; left out where it cannot be an actor."""
    said, key, moment = message["message"], key_of(message["message_id"]), parse_moment(message.get("created_at"))
    if not can_say(message, bytes_max=body_bytes_max // 2):
        return _whole(message)
    agent = actor if ACTOR_PATTERN.fullmatch(actor) else None
    made = [_event_of(block, said["role"], agent) for block in said["content"]] or [_said(said["role"], [], agent)]
    made = with_key([replace(event, occurred_at=moment) for event in made], key)
    left = _left_of(message, made)
    native = {"format": FORMAT, **({"item": message} if left is None else {"rest": left})}
    usage = _usage_of(said)
    made[0] = replace(made[0], metadata={"native": native, **({"usage": usage} if usage else {})})
    return with_parts(made) if fit(made, body_bytes_max=body_bytes_max) else _whole(message)


def exactly_recorded_of(text: bytes, message_id: int, *, actor: str, body_bytes_max: int) -> list[NewEvent]:
    """Give the events that keep a message's JSON, which `text_of` gives again to the byte. actor: as of `recorded_of`."""
    made = _made_exactly(text, message_id, actor=actor, body_bytes_max=body_bytes_max)
    if made and fit(made, body_bytes_max=body_bytes_max):
        return made
    metadata = {"native": {"format": FORMAT, "attachment": ATTACHMENT}}
    kept = NewEvent(opaque_type(FORMAT, "message"), metadata=metadata, attachments={ATTACHMENT: text})
    return with_key([kept], key_of(message_id))


def _made_exactly(text: bytes, message_id: int, *, actor: str, body_bytes_max: int) -> list[NewEvent]:
    """Give the events that say a message's JSON to the byte; none where they cannot."""
    try:
        said = json.loads(text)
        exact = _is_message(said) and dumped(said) == text
    except (ValueError, RecursionError):  # a number of thousands of digits, half characters, what is no UTF-8
        return []
    if not exact:
        return []
    whole = {"message_id": message_id, "redact_message": None, "message": said}
    first, *others = recorded_of(whole, actor=actor, body_bytes_max=body_bytes_max)
    native = (first.metadata or {})["native"]
    if "attachment" in native:
        return []
    shown = _shown_of(native, [first, *others]) if "rest" in native else said
    if dumped(shown) != text:
        native = {**native, "order": _orders_of(said, shown)}
        if dumped(_shown_of(native, [first, *others])) != text:
            native = {"format": FORMAT, "item": whole}
    return [replace(first, metadata={**(first.metadata or {}), "native": native}), *others]


def _whole(message: dict[str, Any]) -> list[NewEvent]:
    """Give the event that keeps a message beside its body."""
    kept = replace(attached(FORMAT, "message", message), occurred_at=parse_moment(message.get("created_at")))
    return with_key([kept], key_of(message["message_id"]))


def text_of(group: Sequence[Event]) -> bytes:
    """Give the JSON that events were recorded for; of an erased one, that it is."""
    first = group[0]
    if any(event.erased for event in group):
        return dumped(message_of(group, None)["message"])
    native = (first.metadata or {})["native"]
    if "attachment" in native:
        return first.attachment(ATTACHMENT)
    return dumped(native["item"]["message"] if "item" in native else _shown_of(native, group))


def dumped(value: object) -> bytes:
    """Give a value's JSON as Strands writes it."""
    return json.dumps(value, ensure_ascii=False).encode()


def updated_of(update: dict[str, Any], first: Event | None, *, body_bytes_max: int) -> NewEvent:
    """Give the event that keeps an update. first: of the message that it is of."""
    if can_say(update, bytes_max=body_bytes_max // 2):
        return NewEvent(UPDATED, update, caused_by=first)
    return replace(attached(FORMAT, "update", update), type=UPDATED, caused_by=first)


def update_of(event: Event) -> dict[str, Any] | None:
    """Give the update that an event was recorded for; None where it was erased."""
    if event.erased:
        return None
    return event.data if not event.attachments else json.loads(event.attachment(ATTACHMENT))


def groups(events: Iterable[Event]) -> Iterator[tuple[int, list[Event]]]:
    """Give the events of each message, with its id: by their keys, which an erased event keeps."""
    group: list[Event] = []
    last = None
    for event in events:
        match = _KEY.fullmatch(event.key or "")
        found = None if match is None else int(match[1])
        if found is None:
            continue
        if found != last and last is not None:
            yield last, group
            group = []
        last = found
        group.append(event)
    if last is not None:
        yield last, group


def message_of(group: Sequence[Event], update: dict[str, Any] | None) -> dict[str, Any]:
    """Give the message that events were recorded for, as it was updated last. Of an erased one the update, else that it is erased."""
    first = group[0]
    message: dict[str, Any]
    if any(event.erased for event in group):
        role = "assistant" if first.type in ("agent.message", "agent.thinking", "agent.tool_use") else "user"
        message = {"message": {"role": role, "content": [{"text": ERASED_TEXT}]}, **_said_by(first)}
    else:
        native = (first.metadata or {})["native"]
        if "attachment" in native:
            message = json.loads(first.attachment(ATTACHMENT))
        elif "item" in native:
            message = native["item"]
        else:
            message = {**_said_by(first), **native["rest"]}
            message["message"] = {**message["message"], "content": _blocks_of(group)}
    if update is not None:
        message = {**message, **update}
        if any(event.erased for event in group) and message.get("redact_message") is not None:
            message["message"] = message["redact_message"]
    return message


def _left_of(message: dict[str, Any], events: Sequence[NewEvent]) -> dict[str, Any] | None:
    """Give what the events do not say of a message; None where they do not say its content exactly."""
    said = message["message"]
    if canonical(_blocks_of(events)) != canonical(said["content"]):
        return None
    known = _said_by(events[0])
    left = {name: member for name, member in message.items() if name not in known or known[name] != member}
    return left | {"message": {name: member for name, member in said.items() if name != "content"}}


def _said_by(first: NewEvent | Event) -> dict[str, Any]:
    """Give the members of a message that the key and the time of its first event say, and those that most messages have alike."""
    match = _KEY.fullmatch(first.key or "")
    said: dict[str, Any] = {"message_id": None if match is None else int(match[1]), "redact_message": None}
    if isinstance(first.occurred_at, datetime):
        said["created_at"] = said["updated_at"] = first.occurred_at.isoformat()
    return said


# --- to the byte ---------------------------------------------------------------------------------
def _is_message(said: Any) -> bool:
    if not isinstance(said, dict) or not isinstance(said.get("role"), str):
        return False
    content = said.get("content")
    return isinstance(content, list) and all(isinstance(block, dict) for block in content)


def _shown_of(native: dict[str, Any], group: Sequence[NewEvent] | Sequence[Event]) -> dict[str, Any]:
    """Give the message of which `native` has what its events do not say, with the members of its objects in their order."""
    orders = {frozenset(order): order for order in native.get("order", ())}
    return _ordered({**native["rest"]["message"], "content": _blocks_of(group)}, orders)


def _orders_of(said: Any, shown: Any) -> list[list[str]]:
    """Give the order of members of each object that stands in another order where it is shown; the same values otherwise."""
    found: dict[frozenset[str], list[str]] = {}
    left = [(said, shown)]
    while left:
        one, other = left.pop()
        if isinstance(one, dict):
            if list(one) != list(other):
                found[frozenset(one)] = list(one)
            left += [(member, other[name]) for name, member in one.items()]
        elif isinstance(one, list):
            left += zip(one, other, strict=True)
    return list(found.values())


def _ordered(value: Any, orders: dict[frozenset[str], list[str]]) -> Any:
    if not orders:
        return value
    if isinstance(value, dict):
        return {name: _ordered(value[name], orders) for name in orders.get(frozenset(value), value)}
    return [_ordered(each, orders) for each in value] if isinstance(value, list) else value


# --- blocks --------------------------------------------------------------------------------------
def _event_of(block: dict[str, Any], role: str, agent: str | None) -> NewEvent:
    """Give the event of one block."""
    match block:
        case {"toolUse": {"toolUseId": str(id), "name": str(name), "input": given}}:
            return NewEvent("agent.tool_use", {"id": id, "name": name, "input": given}, actor=agent)
        case {"toolResult": {"toolUseId": str(id), "content": list(content), "status": "success" | "error" as status}}:
            failed = status == "error"
            data = {"tool_use_id": id, "content": [_shown(each) for each in content], "is_error": failed}
            return NewEvent("agent.tool_result", data, outcome="error" if failed else "ok")
        case {"reasoningContent": {"reasoningText": {"text": str(text), **more}}}:
            signature = more.get("signature")
            data = {"text": text} | ({"signature": signature} if isinstance(signature, str) else {})
            return NewEvent("agent.thinking", data, actor=agent)
        case {"text": str(text)}:
            return _said(role, text, agent)
        case _:
            return _said(role, [_shown(block)], agent)


def _said(role: str, content: str | list[Any], agent: str | None) -> NewEvent:
    if role == "assistant":
        return NewEvent("agent.message", {"content": content}, actor=agent)
    return NewEvent("user.message", {"content": content})


def _blocks_of(events: Sequence[NewEvent] | Sequence[Event]) -> list[Any]:
    """Give the blocks that events were made of, as far as they say them."""
    blocks: list[Any] = []
    for event in events:
        data: Any = event.data
        if event.type == "agent.tool_use":
            blocks.append({"toolUse": {"toolUseId": data["id"], "name": data["name"], "input": data["input"]}})
        elif event.type == "agent.tool_result":
            status = "error" if data["is_error"] else "success"
            content = [_block_of(each) for each in data["content"]]
            blocks.append({"toolResult": {"toolUseId": data["tool_use_id"], "status": status, "content": content}})
        elif event.type == "agent.thinking":
            blocks.append({"reasoningContent": {"reasoningText": dict(data)}})
        elif isinstance(data["content"], str):
            blocks.append({"text": data["content"]})
        else:
            blocks += [_block_of(each) for each in data["content"]]
    return blocks


def _shown(block: Any) -> Any:
    """Give a block in the shape of Anthropic's Messages API where there is one for it, else as it is."""
    match block:
        case {"text": str(text)} if len(block) == 1:
            return {"type": "text", "text": text}
        case {"image": {"format": str(kind), "source": {"bytes": {"data": str(data), **rest}}}} if rest == {
            _BYTES: True
        }:
            source = {"type": "base64", "media_type": f"image/{kind}", "data": data}
            return {"type": "image", "source": source}
        case _:
            return block


def _block_of(shown: Any) -> Any:
    """Give the block that `_shown` showed."""
    match shown:
        case {"type": "text", "text": text} if len(shown) == 2:
            return {"text": text}
        case {"type": "image", "source": {"media_type": str(kind), "data": data}}:
            return {"image": {"format": kind.removeprefix("image/"), "source": {"bytes": {_BYTES: True, "data": data}}}}
        case _:
            return shown


def _usage_of(said: dict[str, Any]) -> dict[str, int]:
    """Give the tokens that a message says it took, in the standard shape."""
    usage = (said.get("metadata") or {}).get("usage") if isinstance(said.get("metadata"), dict) else None
    if not isinstance(usage, dict):
        return {}
    names = {"input_tokens": "inputTokens", "output_tokens": "outputTokens"}
    return {name: usage[theirs] for name, theirs in names.items() if type(usage.get(theirs)) is int}
