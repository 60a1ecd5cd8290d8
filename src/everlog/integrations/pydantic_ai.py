"""Conversations of Pydantic AI, kept in Everlog: a `ConversationStore` where the version has one, and helpers for any.

A message is events, one for each of its parts, and what these do not say is kept beside the first, so that it is given back as it was.
Messages are written and read as `ModelMessagesTypeAdapter` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from everlog.integrations.versions import require

require("pydantic-ai-slim", "pydantic-ai", oldest="1.60", below="3")

from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter

from everlog.core.event import Event, NewEvent
from everlog.core.limits import BODY_BYTES_MAX
from everlog.errors import InvalidPlaceError
from everlog.integrations.items import ATTACHMENT, attached, can_say, canonical, fit, parse_moment, with_parts
from everlog.reducers.spoken import groups
from everlog.session import Session

if TYPE_CHECKING:
    from everlog.integrations.pydantic_ai_store import EverlogConversationStore

__all__ = ["EverlogConversationStore", "add_messages", "load_messages", "save_messages"]

FORMAT: Final = "pydantic-ai"
ERASED_TEXT: Final = "[erased]"
_EMPTY: Final = (None, 0, {}, [])
_IMAGE: Final = "pydantic_ai"  # a picture's other members, beside its source


def __getattr__(name: str) -> Any:
    """Give the store, where the version of Pydantic AI has what it is one of."""
    if name != "EverlogConversationStore":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from everlog.integrations.pydantic_ai_store import EverlogConversationStore
    except ModuleNotFoundError as error:
        if error.name != "pydantic_ai.conversation_store":
            raise
        raise ImportError(
            "this Pydantic AI has no conversation store; install one from 2.66: pip install 'pydantic-ai-slim>=2.66'; or use "
            "load_messages and save_messages"
        ) from None
    return EverlogConversationStore


# --- histories without a conversation store ------------------------------------------------------
def load_messages(session: Session) -> list[ModelMessage]:
    """Give the messages of a session, for `message_history=`. Those of which a part was erased are left out."""
    _check_session(session)
    return [message for _, message in _stored(session)]


def add_messages(session: Session, messages: Sequence[ModelMessage]) -> None:
    """Append messages, `result.new_messages()`, to a session, all or none."""
    _check_session(session)
    events = events_of(messages, body_bytes_max=BODY_BYTES_MAX)
    if events:
        session.extend(events)


def save_messages(session: Session, messages: Sequence[ModelMessage]) -> None:
    """Make a session's history these messages, `result.all_messages()`: what it has is left, and what is new appended.

    Where the history differs from the one that is stored, the session goes back to the last message that both share; what was left stays
    readable. Raises ConflictError where the session was appended to meanwhile: then load it again.
    """
    _check_session(session)
    head = session.refresh()
    stored = list(_stored(session))
    shared = 0
    while shared < min(len(stored), len(messages)) and stored[shared][1] == messages[shared]:
        shared += 1
    events = events_of(messages[shared:], body_bytes_max=BODY_BYTES_MAX)
    if shared < len(stored):
        session.rewind(stored[shared][0].position, reason="the history was rewritten", expected=head, events=events)
    elif events:
        session.extend(events, expected=head)


def _check_session(session: object) -> None:
    if not isinstance(session, Session):
        raise InvalidPlaceError(
            f"a {type(session).__name__} is no session; nothing was done; give one, such as everlog.open(path).get_or_create(id)"
        )


def _stored(session: Session) -> Iterable[tuple[Event, ModelMessage]]:
    for group in groups(session.events()):
        plain = plain_of(group)
        if plain is not None:
            yield group[0], read_message(plain)


# --- messages ------------------------------------------------------------------------------------
def events_of(messages: Sequence[ModelMessage], *, body_bytes_max: int) -> list[NewEvent]:
    """Give the events that keep messages, without keys."""
    return [event for message in messages for event in recorded_of(message, {}, body_bytes_max=body_bytes_max)]


def recorded_of(message: ModelMessage, beside: dict[str, Any], *, body_bytes_max: int) -> list[NewEvent]:
    """Give the events that keep one message. beside: members of `metadata.native` of its own."""
    whole: dict[str, Any] = ModelMessagesTypeAdapter.dump_python([message], mode="json")[0]
    moment = parse_moment(whole.get("timestamp"))
    if can_say(whole, bytes_max=body_bytes_max // 2):
        made = _said_events(whole, moment, beside)
        if fit(made, body_bytes_max=body_bytes_max):
            return made
    kept = attached(FORMAT, "message", whole)
    native: dict[str, Any] = {**(kept.metadata or {})["native"], **beside}
    return [replace(kept, occurred_at=moment, metadata={"native": native})]


def _said_events(whole: dict[str, Any], moment: datetime | None, beside: dict[str, Any]) -> list[NewEvent]:
    """Give the events that say a message, and beside the first what they leave out."""
    plain = _shorter(whole)
    if canonical(ModelMessagesTypeAdapter.dump_python([read_message(plain)], mode="json")[0]) != canonical(whole):
        plain = whole  # a member that was left out has another meaning than the one left out
    parts = plain.get("parts", [])
    made = [_event_of(part) for part in parts] or [_said(plain["kind"], [])]
    made = [replace(event, occurred_at=moment) for event in made]
    left = {name: member for name, member in plain.items() if (name, member) != ("timestamp", _time_of(made[0]))}
    left = {**left, "parts": [_left_of(part, event) for part, event in zip(parts, made, strict=False)]}
    kept = {"rest": left} if canonical(_put_back(left, made)) == canonical(plain) else {"item": plain}
    metadata: dict[str, Any] = {"native": {"format": FORMAT, **kept, **beside}}
    if isinstance(plain.get("model_name"), str):
        metadata["model"] = plain["model_name"]
    usage = _usage_of(plain.get("usage"))
    if usage:
        metadata["usage"] = usage
    made[0] = replace(made[0], metadata=metadata)
    return with_parts(made)


def plain_of(group: Sequence[Event]) -> dict[str, Any] | None:
    """Give the JSON of the message that events were recorded for; None where they were for none, or one of them was erased."""
    native = (group[0].metadata or {}).get("native")
    if not isinstance(native, dict) or native.get("format") != FORMAT or any(event.erased for event in group):
        return None
    if "attachment" in native:
        return json.loads(group[0].attachment(ATTACHMENT))
    return native["item"] if "item" in native else _put_back(native["rest"], group)


def erased_message(event_type: str) -> ModelMessage:
    """Give what stands for an erased message. event_type: of its first event."""
    if event_type in ("agent.message", "agent.thinking", "agent.tool_use"):
        return read_message({"kind": "response", "parts": [{"part_kind": "text", "content": ERASED_TEXT}]})
    return read_message({"kind": "request", "parts": [{"part_kind": "user-prompt", "content": ERASED_TEXT}]})


def read_message(plain: dict[str, Any]) -> ModelMessage:
    """Give the message of its JSON."""
    return ModelMessagesTypeAdapter.validate_python([plain])[0]


def _shorter(whole: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is empty of a message, its parts and its usage; the types fill it in again."""
    short = {name: without_empty(member) if name == "usage" else member for name, member in whole.items()}
    short["parts"] = [without_empty(part) if isinstance(part, dict) else part for part in whole.get("parts", [])]
    return {name: member for name, member in short.items() if name == "parts" or member not in _EMPTY}


def without_empty(value: Any) -> Any:
    """Leave out the empty members of an object, but for what a part says and a call's arguments."""
    if not isinstance(value, dict):
        return value
    return {name: member for name, member in value.items() if member not in _EMPTY or name in ("content", "args")}


# --- parts ---------------------------------------------------------------------------------------
def _event_of(part: dict[str, Any]) -> NewEvent:
    """Give the event of one part."""
    match part:
        case {"part_kind": "system-prompt", "content": str(content)}:
            return NewEvent("system.message", {"content": content})
        case {"part_kind": "user-prompt", "content": str() | list() as content}:
            shown = content if isinstance(content, str) else [_shown(each) for each in content]
            return NewEvent("user.message", {"content": shown})
        case {"part_kind": "tool-return", "tool_call_id": str(id), "content": content}:
            failed = part.get("outcome", "success") != "success"
            data = {"tool_use_id": id, "content": content}
            return NewEvent("agent.tool_result", data, outcome="error" if failed else "ok")
        case {"part_kind": "retry-prompt", "tool_call_id": str(id), "tool_name": str(), "content": content}:
            data = {"tool_use_id": id, "content": content, "is_error": True}
            return NewEvent("agent.tool_result", data, outcome="error")
        case {"part_kind": "retry-prompt", "content": str(content)}:
            return NewEvent("user.message", {"content": content})
        case {"part_kind": "text", "content": str(content)}:
            return NewEvent("agent.message", {"content": content})
        case {"part_kind": "thinking", "content": str(text)}:
            signature = part.get("signature")
            return NewEvent("agent.thinking", {"text": text, **({"signature": signature} if signature else {})})
        case {"part_kind": "tool-call", "tool_call_id": str(id), "tool_name": str(name)}:
            return NewEvent("agent.tool_use", {"id": id, "name": name, "input": _arguments(part.get("args"))})
        case {"part_kind": str(kind)} if kind.endswith(("prompt", "return")):
            return _said("request", [part])
        case _:
            return _said("response", [part])


# What an event's data says of a part: member of the part, member of the data.
_SAYS: Final = {
    "system.message": {"content": "content"},
    "user.message": {"content": "content"},
    "agent.message": {"content": "content"},
    "agent.thinking": {"content": "text", "signature": "signature"},
    "agent.tool_use": {"tool_call_id": "id", "tool_name": "name", "args": "input"},
    "agent.tool_result": {"tool_call_id": "tool_use_id", "content": "content"},
}


def _said(kind: str, content: list[Any]) -> NewEvent:
    return NewEvent("agent.message" if kind == "response" else "user.message", {"content": content})


def _left_of(part: dict[str, Any], event: NewEvent) -> dict[str, Any]:
    """Give what an event does not say of its part; nothing where it holds it whole."""
    if event.data.get("content") == [part]:
        return {}
    said = _part_of(event)
    return {
        name: member for name, member in part.items() if name not in said or canonical(said[name]) != canonical(member)
    }


def _put_back(left: dict[str, Any], events: Sequence[NewEvent] | Sequence[Event]) -> dict[str, Any]:
    """Give a message of what was left of it, and of its events."""
    pairs = zip(left["parts"], events, strict=False)
    time = _time_of(events[0])
    return {
        **({} if time is None else {"timestamp": time}),
        **left,
        "parts": [{**_part_of(event, part), **part} for part, event in pairs],
    }


def _time_of(first: NewEvent | Event) -> str | None:
    """Give a message's time as Pydantic writes it."""
    moment = first.occurred_at
    return moment.isoformat().replace("+00:00", "Z") if isinstance(moment, datetime) else None


def _part_of(event: NewEvent | Event, left: dict[str, Any] | None = None) -> dict[str, Any]:
    """Give the members of a part that an event says. left: what it does not say, where that is known: one without a kind is said whole."""
    data: Any = event.data
    content = data.get("content")
    if event.type in ("user.message", "agent.message") and isinstance(content, list):
        if left is None or "part_kind" in left:
            return {"content": [_element_of(each) for each in content]}
        return content[0]
    return {name: data[member] for name, member in _SAYS[event.type].items() if member in data}


def _arguments(args: Any) -> Any:
    """Give a tool call's arguments as an object, also where a model gave them as text."""
    if isinstance(args, str):
        try:
            return json.loads(args)
        except ValueError:
            return args
    return args


def _shown(element: Any) -> Any:
    """Give an element of what a user said, in the shape of Anthropic's Messages API where there is one for it, else as it is."""
    match element:
        case str():
            return {"type": "text", "text": element}
        case {"kind": "binary", "data": str(data), "media_type": str(kind), **more} if kind.startswith("image/"):
            return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}, _IMAGE: more}
        case _:
            return element


def _element_of(shown: Any) -> Any:
    """Give the element that `_shown` showed."""
    match shown:
        case {"type": "text", "text": text} if len(shown) == 2:
            return text
        case {"type": "image", "source": {"media_type": kind, "data": data}, "pydantic_ai": dict(more)}:
            return {"kind": "binary", "data": data, "media_type": kind, **more}
        case _:
            return shown


def _usage_of(usage: Any) -> dict[str, int]:
    """Give the tokens that a response took, in the standard shape."""
    if not isinstance(usage, dict):
        return {}
    names = {
        "input_tokens": "input_tokens",
        "output_tokens": "output_tokens",
        "cache_read_input_tokens": "cache_read_tokens",
        "cache_creation_input_tokens": "cache_write_tokens",
    }
    return {name: usage[theirs] for name, theirs in names.items() if type(usage.get(theirs)) is int and usage[theirs]}
