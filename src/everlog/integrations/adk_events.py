"""Google ADK's events as Everlog's, and back: the conversation in standard events, the rest of an event beside it.

1. An ADK event is one append: a group of events. The first holds the key `adk:<the ADK event's id>`; the others say which part
   they are, `metadata.part = [i, n]`.
2. What the group says is not said twice: `metadata.native.item` holds the ADK event without its content, its state delta,
   its author, id and time wherever those give the same ADK event again, and with them where they do not.
3. A state delta is a `state.patch` of whole keys, so that `None` is a value and nothing is merged. What is the app's or the
   user's stands under one key of its own (SHARED), for the sessions that hold those states to take over.

Works on the JSON of ADK's events and imports nothing of ADK.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from math import isfinite
from typing import Any, Final, cast

import msgspec
from msgspec.structs import replace

from everlog.core.event import Event, NewEvent
from everlog.core.limits import APPEND_BYTES_MAX, APPEND_EVENTS_MAX, KEY_BYTES_MAX, SAFE_INTEGER_MAX
from everlog.core.standard import ACTOR_PATTERN
from everlog.errors import InvalidEventError
from everlog.integrations.items import ATTACHMENT, can_say, fit, with_parts

FORMAT: Final = "adk"
KEY: Final = "adk:"
SHARED: Final = (
    "temp:shared"  # ADK never persists a key that begins with temp:, so no state of a program holds this one
)
APP: Final = "app:"
USER: Final = "user:"
TEMP: Final = "temp:"
ERASED_TEXT: Final = "[erased]"
_OPAQUE: Final = "x.adk."
_MESSAGE: Final = f"{_OPAQUE}message"  # says something, and is kept beside its body
Item = dict[str, Any]


# --- states --------------------------------------------------------------------------------------
def split_state(delta: Mapping[str, Any], salt: str) -> Item:
    """Give a delta as a session's document takes it: its own keys, and under SHARED what is the app's and the user's.

    salt: what tells this delta from every other; the shared part is taken over once for it. Not the values: they may be secret.
    """
    own = {key: value for key, value in delta.items() if not key.startswith((APP, USER, TEMP))}
    app = {key.removeprefix(APP): value for key, value in delta.items() if key.startswith(APP)}
    user = {key.removeprefix(USER): value for key, value in delta.items() if key.startswith(USER)}
    if app or user:
        own[SHARED] = {"id": sha256(salt.encode("utf-8", "surrogatepass")).hexdigest()[:32], "app": app, "user": user}
    return own


def patch_of(document: Mapping[str, Any]) -> Item:
    """Give the data of a `state.patch` that sets whole keys of a document."""
    return {"ops": [{"op": "add", "path": f"/{_escaped(key)}", "value": value} for key, value in document.items()]}


def _delta_of(data: Item) -> Item:
    """Give the ADK delta that a `state.patch` of `patch_of` says."""
    delta: Item = {_unescaped(op["path"][1:]): op["value"] for op in data["ops"]}
    shared = delta.pop(SHARED, None)
    if shared is not None:
        delta |= {APP + key: value for key, value in shared["app"].items()}
        delta |= {USER + key: value for key, value in shared["user"].items()}
    return delta


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _unescaped(token: str) -> str:
    return token.replace("~1", "/").replace("~0", "~")


# --- to Everlog ----------------------------------------------------------------------------------
def key_of(event_id: str) -> str:
    """Give the key of an ADK event's append."""
    key = KEY + event_id
    if len(key.encode("utf-8", "replace")) > KEY_BYTES_MAX or "\x00" in key:
        return f"{KEY}sha256:{sha256(event_id.encode('utf-8', 'surrogatepass')).hexdigest()}"
    return key


def encode_event(item: Item, session: str, *, body_bytes_max: int) -> tuple[str, list[NewEvent]]:
    """Give an ADK event's JSON as a key and the events of one append. session: the id of Everlog's session it goes to.

    What JSON says of it and the log does not (integers of 2^64, what is deep or large) is attached, but of its state. Raises
    InvalidEventError for half characters, and for integers of more digits than Python writes.
    """
    rest = dict(item)
    key = key_of(item["id"])
    micros = round(item["timestamp"] * 1_000_000) if isfinite(item["timestamp"]) else -1
    author = rest.get("author", "")
    actor = author if ACTOR_PATTERN.fullmatch(author) else None
    occurred = micros if 0 <= micros <= SAFE_INTEGER_MAX else None
    if key == KEY + item["id"]:
        del rest["id"]
    if actor is not None:
        del rest["author"]
    if occurred is not None and occurred / 1_000_000 == item["timestamp"]:
        del rest["timestamp"]
    delta = _take_delta(rest)
    patches = [patch_of(split_state(delta, f"{session}\n{item['id']}\n{item['timestamp']!r}"))] if delta else []
    events = _said_events(item, dict(rest), patches) if can_say(rest, bytes_max=APPEND_BYTES_MAX) else []
    if not 0 < len(events) <= APPEND_EVENTS_MAX or not fit(events, body_bytes_max=body_bytes_max):
        events = [_whole(rest), *(NewEvent("state.patch", patch) for patch in patches)]
    return key, [replace(event, actor=actor, occurred_at=occurred) for event in with_parts(events)]


def _said_events(item: Item, rest: Item, patches: Sequence[Item]) -> list[NewEvent]:
    """Give the events that say an ADK event, and beside the first what they leave out. rest: of the event, without what these all say."""
    made = [*_content_events(item, rest), *(("state.patch", patch) for patch in patches)]
    if not made or (made[0][0] == "state.patch" and rest.get("actions")):
        made.insert(0, (_opaque_type(rest), rest))
    first = None if made[0][1] is rest else {"native": {"format": FORMAT, "item": rest}}
    return [
        NewEvent(
            kind,
            data,
            outcome="error" if data.get("is_error") is True else None,
            metadata=first if index == 0 else None,
        )
        for index, (kind, data) in enumerate(made)
    ]


def _whole(rest: Item) -> NewEvent:
    """Give the event that keeps an ADK event beside its body."""
    native: Item = {"format": FORMAT, "attachment": ATTACHMENT}
    native |= {"timestamp": rest["timestamp"]} if "timestamp" in rest else {}  # which is asked for by itself
    kind = _MESSAGE if rest.get("content") else _opaque_type(rest)
    try:
        content = json.dumps(rest, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidEventError("the event holds half a character, which no JSON has; nothing was written") from None
    except ValueError as error:
        raise InvalidEventError(f"the event has no JSON: {error}; nothing was written") from None
    return NewEvent(kind, metadata={"native": native}, attachments={ATTACHMENT: content})


def _opaque_type(rest: Item) -> str:
    actions = rest.get("actions") or {}
    if actions.get("compaction") is not None:
        return f"{_OPAQUE}compaction"
    return f"{_OPAQUE}rewind" if actions.get("rewind_before_invocation_id") is not None else f"{_OPAQUE}event"


def _take_delta(rest: Item) -> Item:
    """Take the state delta out of what remains of an ADK event."""
    actions = dict(rest.get("actions") or {})
    delta = actions.pop("state_delta", None)
    if delta:
        rest.pop("actions")
        if actions:
            rest["actions"] = actions
    return delta or {}


def _content_events(item: Item, rest: Item) -> list[tuple[str, Item]]:
    """Give an ADK event's content as types and data; what they do not say of it stays in `rest`."""
    content: Item = item.get("content") or {}
    parts: list[Item] = content.get("parts") or []
    if not parts:
        return []
    said = "user.message" if item.get("author") == "user" else "agent.message"
    made: list[tuple[str, Item]] = []
    blocks: list[Item] = []

    def close() -> None:
        if blocks:
            alone = len(blocks) == 1 and blocks[0].get("type") == "text"
            made.append((said, {"content": blocks[0]["text"] if alone else list(blocks)}))
            blocks.clear()

    for part in parts:
        event = _part_event(part, f"{item['id']}-{len(made)}")
        if event is None:
            blocks.append(_block_of(part))
        else:
            close()
            made.append(event)
    close()
    kept = {"role": None} | {name: value for name, value in content.items() if name != "parts"}
    if [part for kind, data in made for part in _parts_of(kind, data)] != parts:
        kept["parts"] = parts
    if kept["role"] == _role_of(kind for kind, _ in made):
        del kept["role"]
    del rest["content"]
    if kept:
        rest["content"] = kept
    if len(made) > 1:
        for kind, data in made:
            if kind.startswith("agent.") and kind != "agent.tool_result":
                data["message_id"] = item["id"]
    return made


def _role_of(kinds: Iterable[str]) -> str:
    """Give the role that content of such events has, as a rule."""
    return "user" if all(kind in ("user.message", "agent.tool_result") for kind in kinds) else "model"


def _part_event(part: Item, call: str) -> tuple[str, Item] | None:
    """Give a thought, a call or a response as an event; None for what is said. call: the id of a call that has none."""
    if part.get("thought") is True and isinstance(part.get("text"), str):
        signed = {"signature": part["thought_signature"]} if "thought_signature" in part else {}
        return "agent.thinking", {"text": part["text"], **signed}
    used = part.get("function_call")
    if used is not None:
        signed = {"signature": part["thought_signature"]} if "thought_signature" in part else {}
        name = used.get("name") or "unknown"
        return "agent.tool_use", {"id": used.get("id") or call, "name": name, "input": used.get("args", {}), **signed}
    answer = part.get("function_response")
    if answer is None:
        return None
    response = answer.get("response", {})
    data: Item = {"tool_use_id": answer.get("id") or call, "name": answer.get("name") or "unknown"}
    if list(response) == ["result"] and isinstance(response["result"], str):
        data["content"] = response["result"]
    else:
        data |= {"content": msgspec.json.encode(response).decode(), "format": "json"}
    if list(response) == ["error"]:
        data["is_error"] = True
    return "agent.tool_result", data


def _block_of(part: Item) -> Item:
    """Give a part that is said as a block of content."""
    picture: Item = part.get("inline_data") or {}
    if len(part) == 1 and set(picture) == {"mime_type", "data"} and picture["mime_type"].startswith("image/"):
        data = picture["data"].replace("-", "+").replace("_", "/")
        return {"type": "image", "source": {"type": "base64", "media_type": picture["mime_type"], "data": data}}
    return {"type": next(iter(part), "part"), **part}


# --- and back ------------------------------------------------------------------------------------
def _parts_of(kind: str, data: Item) -> Iterator[Item]:
    """Give the parts that an event of a group says."""
    match kind:
        case "user.message" | "agent.message":
            content = data["content"]
            yield from [{"text": content}] if isinstance(content, str) else map(_part_of, content)
        case "agent.thinking":
            yield {"text": data["text"], "thought": True, **_signature(data)}
        case "agent.tool_use":
            call = {"id": data["id"], "args": data["input"], "name": data["name"]}
            yield {"function_call": call, **_signature(data)}
        case "agent.tool_result":
            as_json = data.get("format") == "json"
            response = msgspec.json.decode(data["content"]) if as_json else {"result": data["content"]}
            yield {"function_response": {"id": data["tool_use_id"], "name": data["name"], "response": response}}
        case _:
            return


def _signature(data: Item) -> Item:
    return {"thought_signature": data["signature"]} if "signature" in data else {}


def _part_of(block: Item) -> Item:
    source = block.get("source")
    if block["type"] == "image" and source is not None:
        data = source["data"].replace("+", "-").replace("/", "_")
        return {"inline_data": {"mime_type": source["media_type"], "data": data}}
    return {name: value for name, value in block.items() if name != "type"}


def is_first(event: Event) -> bool:
    """Tell whether an event is the first of an ADK event's."""
    return event.key is not None and event.key.startswith(KEY)


def newest_groups(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Give the groups of a line that is read backwards, the newest first, each in its order. Other events are left out."""
    after: list[Event] = []  # those behind the one that is read
    for event in events:
        if is_first(event):
            yield [event, *_parts_behind(event, after)]
            after = []
        elif event.raw is None or "part" in (event.metadata or {}):
            after.insert(0, event)


def _parts_behind(first: Event, after: Sequence[Event]) -> Iterator[Event]:
    for index, event in enumerate(after, 1):
        part = (event.metadata or {}).get("part")
        erased = event.raw is None
        if event.position != first.position + index or not (erased or (isinstance(part, list) and part[0] == index)):
            return
        yield event


def decode_group(group: Sequence[Event]) -> Item:
    """Give the JSON of the ADK event that a group says. What was erased is said to be."""
    first = group[0]
    assert first.key is not None, "a group begins with its key"
    rest = _rest_of(first)
    item: Item = {"id": first.key.removeprefix(KEY), "author": first.actor or "", "timestamp": time_of(group), **rest}
    parts: list[Item] = []
    for event in group:
        if event.type == "state.patch" and event.raw is not None:
            item["actions"] = {**item.get("actions", {}), "state_delta": _delta_of(cast("Item", event.data))}
        elif event.raw is None and (event.type == _MESSAGE or not event.type.startswith(("state.", _OPAQUE))):
            parts.append({"text": ERASED_TEXT})
        else:
            parts.extend(_parts_of(event.type, cast("Item", event.data)))
    if parts:
        item["content"] = {
            "role": _role_of(event.type for event in group if event.type != "state.patch"),
            "parts": parts,
        } | (rest.get("content") or {})
    return item


def time_of(group: Sequence[Event]) -> float:
    """Give the time of the ADK event that a group says, in seconds; when it was recorded, where it is erased and the log has no such time."""
    first = group[0]
    native = _native_of(first)
    given = (native if "attachment" in native else _rest_of(first)).get("timestamp")
    if given is not None:
        return given
    return (first.recorded_micros if first.occurred_micros is None else first.occurred_micros) / 1_000_000


def _rest_of(first: Event) -> Item:
    """Give what the events of a group do not say of the ADK event."""
    if first.raw is None:
        return {}
    native = _native_of(first)
    if "attachment" in native:
        return json.loads(first.attachment(ATTACHMENT))
    return cast("Item", first.data if first.type.startswith(_OPAQUE) else native["item"])


def _native_of(first: Event) -> Item:
    return cast("Item", (first.metadata or {}).get("native", {}))
