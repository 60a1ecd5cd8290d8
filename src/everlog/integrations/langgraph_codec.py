"""What LangGraph's serializer gives, as JSON that a person can read, and back to the same bytes.

1. JSON stands for a value only where it gives the serializer's bytes again, which is tried at once; otherwise the bytes themselves
   are kept. So nothing is lost, and the serializer's list of what may be made again decides when a value is read.
2. In that JSON an object whose members begin with "$" is no plain one: `$x` an extension of msgpack [code, content], `$b` bytes,
   `$d` an object's members as pairs, `$t` bytes of the serializer with their type, `$m` a message, which is an event of its own.
3. A message is one event of the conversation, or several where it calls tools; what they do not say of it stands in its *native*
   form beside them. A pair ("user", "text") and an object of role and content, as graphs are called with, are messages too.
"""

from __future__ import annotations

import binascii
import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ormsgpack

from everlog.core.patch import same

MSGPACK: Final = "msgpack"
ERASED_TEXT: Final = "[erased]"
_PYDANTIC: Final = 5  # the extension that LangGraph keeps pydantic's models under
_DEPTH_MAX: Final = 40  # deeper, and the event's body would pass what a log takes with what stands round it
_INTEGER_MAX: Final = 1 << 53  # the greatest that every reader of JSON takes; what a log takes is looked at there
_CLASSES: Final = {
    "HumanMessage": "human",
    "AIMessage": "ai",
    "SystemMessage": "system",
    "ToolMessage": "tool",
}
_MODULE: Final = "langchain_core.messages."
_METHOD: Final = "model_validate_json"
_EVENT_TYPES: Final = {
    "human": "user.message",
    "user": "user.message",
    "ai": "agent.message",
    "assistant": "agent.message",
    "system": "system.message",
    "tool": "agent.tool_result",
}
_CLASS_OF: Final = {
    "user.message": "HumanMessage",
    "agent.message": "AIMessage",
    "agent.tool_use": "AIMessage",
    "system.message": "SystemMessage",
    "agent.tool_result": "ToolMessage",
}
_ROLES: Final = ("user", "human", "ai", "assistant", "system")


class Unsayable(Exception):  # noqa: N818  # it is caught where it may come from, and is no failure
    """A value that JSON does not say."""


@dataclass(frozen=True, slots=True)
class Extension:
    """One of msgpack's extensions, its content unpacked."""

    code: int
    content: Any


@dataclass(frozen=True, slots=True)
class Message:
    """A message as events. parts: their types and data, in order. native: what they do not say. id: None where it has none yet."""

    parts: Sequence[tuple[str, dict[str, Any]]]
    native: dict[str, Any]
    id: str | None


# Gives what stands for a message in JSON; None where it is to stay what it is.
Recorded = Callable[[Message], Any]
# Gives a message back as it was packed, from what stands for it.
Resolved = Callable[[Any], Any]


# --- msgpack -------------------------------------------------------------------------------------
def unpack(data: bytes) -> Any:
    """Give packed bytes as plain values and extensions."""
    return ormsgpack.unpackb(data, ext_hook=_extension, option=ormsgpack.OPT_NON_STR_KEYS)


def pack(value: Any) -> bytes:
    """Give what `unpack` gave as bytes."""
    return ormsgpack.packb(
        value, default=_packed, option=ormsgpack.OPT_NON_STR_KEYS | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    )


def _extension(code: int, data: bytes) -> Extension:
    return Extension(code, unpack(data))


def _packed(value: Any) -> ormsgpack.Ext:
    if isinstance(value, Extension):
        return ormsgpack.Ext(value.code, pack(value.content))
    raise TypeError(f"a {type(value).__name__} is nothing that unpack gives")


def split_array(data: bytes) -> tuple[int, int] | None:
    """Give a packed list's number of items and the length of its header in bytes; None where it is no list."""
    first = data[0] if data else 0
    if first & 0xF0 == 0x90:
        return first & 0x0F, 1
    if first == 0xDC:
        return int.from_bytes(data[1:3], "big"), 3
    if first == 0xDD:
        return int.from_bytes(data[1:5], "big"), 5
    return None


def join_array(count: int, items: bytes) -> bytes:
    """Give a packed list of so many packed items."""
    if count < 16:
        return bytes([0x90 | count]) + items
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big") + items
    return b"\xdd" + count.to_bytes(4, "big") + items


# --- values as JSON ------------------------------------------------------------------------------
def to_json(value: Any, recorded: Recorded, depth: int = 0) -> Any:
    """Give an unpacked value as JSON. Raises Unsayable."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if depth > _DEPTH_MAX:
        raise Unsayable
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Unsayable
        return value
    message = message_of(value)
    if message is not None:
        reference = recorded(message)
        if reference is not None:
            return {"$m": reference}
    if isinstance(value, list):
        return [to_json(item, recorded, depth + 1) for item in value]
    if isinstance(value, dict):
        return _object_to_json(value, recorded, depth)
    if isinstance(value, bytes):
        return {"$b": b64encode(value).decode()}
    if isinstance(value, Extension):
        return {"$x": [value.code, to_json(value.content, recorded, depth + 2)]}
    raise Unsayable


def is_json(value: Any, depth: int = 0) -> bool:
    """Tell whether a value is what `to_json` would give of it."""
    kind = type(value)
    if kind is dict:
        for name in value:
            if type(name) is not str or name[:1] == "$" or not name.isascii():
                return False
        items = value.values()
    else:
        items = value if kind is list else (value,)
    for item in items:  # a loop over all that has no members: nearly everything, and half as long as a call for each
        kind = type(item)
        if kind is str:
            if not item.isascii():
                return False
        elif kind is int:
            if not -_INTEGER_MAX < item < _INTEGER_MAX:
                return False
        elif kind is dict or kind is list:
            if depth >= _DEPTH_MAX or not is_json(item, depth + 1):
                return False
        elif not (item is None or kind is bool):
            return False
    return True


def _object_to_json(value: dict[Any, Any], recorded: Recorded, depth: int) -> Any:
    if all(isinstance(name, str) and not name.startswith("$") for name in value):
        return {name: to_json(item, recorded, depth + 1) for name, item in value.items()}
    pairs = [
        [
            to_json(list(name) if isinstance(name, tuple) else name, recorded, depth + 3),
            to_json(item, recorded, depth + 3),
        ]
        for name, item in value.items()
    ]
    return {"$d": pairs}


def from_json(tree: Any, resolved: Resolved) -> Any:
    """Give the unpacked value that JSON says."""
    if isinstance(tree, list):
        return [from_json(item, resolved) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        (name, content), *_ = tree.items()
        match name:
            case "$m":
                return resolved(content)
            case "$b":
                return b64decode(content)
            case "$x":
                return Extension(content[0], from_json(content[1], resolved))
            case "$d":
                return {_name(from_json(key, resolved)): from_json(item, resolved) for key, item in content}
            case _:
                pass
    return {name: from_json(item, resolved) for name, item in tree.items()}


def _name(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key


def typed_to_json(type_: str, data: bytes) -> dict[str, Any]:
    """Give a serializer's bytes as they are."""
    return {"$t": [type_, b64encode(data).decode()]}


def typed_from_json(tree: Any) -> tuple[str, bytes] | None:
    """Give the serializer's bytes where JSON holds them as they are."""
    if isinstance(tree, dict) and len(tree) == 1 and isinstance(tree.get("$t"), list):
        type_, data = tree["$t"]
        if isinstance(data, str):
            try:
                return type_, b64decode(data)
            except binascii.Error:
                return None
    return None


# --- messages as events --------------------------------------------------------------------------
def message_of(value: Any) -> Message | None:
    """Give a value as a message; None where it is none."""
    if isinstance(value, Extension):
        return _model_message(value) if value.code == _PYDANTIC else None
    if isinstance(value, list) and len(value) == 2 and value[0] in _ROLES and isinstance(value[1], str):
        return Message([(_EVENT_TYPES[value[0]], {"content": value[1]})], {"class": "pair", "role": value[0]}, None)
    if isinstance(value, dict) and value.keys() == {"role", "content"} and value["role"] in _ROLES:
        content = value["content"]
        if isinstance(content, str):
            native = {"class": "object", "role": value["role"], "order": list(value)}
            return Message([(_EVENT_TYPES[value["role"]], {"content": content})], native, None)
    return None


def pack_message(parts: Sequence[tuple[str, Any]], native: Mapping[str, Any]) -> Any:
    """Give a message from its events and its native form, as `unpack` gave it. data None: an erased event."""
    data = [item if isinstance(item, dict) else {"content": ERASED_TEXT} for _, item in parts]
    content = data[0].get("content", "")
    match native["class"]:
        case "pair":
            return [native["role"], content]
        case "object":
            return {name: content if name == "content" else native["role"] for name in native["order"]}
        case name:
            if "model" in native:
                return from_json(native["model"], no_message)
            fields = from_json(native.get("fields", {}), no_message)
            module = native.get("module", _MODULE + _CLASSES[name])
            return Extension(_PYDANTIC, [module, name, _fields(name, parts[0][0], data, fields), _METHOD])


def short_native(native: Mapping[str, Any], event_type: str) -> dict[str, Any]:
    """Give a native form as it is stored: without what the event's type says."""
    if native["class"] == "pair":
        return {"pair": native["role"]}
    usual = native["class"] == _CLASS_OF.get(event_type)
    return {name: item for name, item in native.items() if not (usual and name == "class")}


def long_native(short: Mapping[str, Any], event_type: str) -> dict[str, Any]:
    """Give a native form from how it is stored. An erased message has none: {} is the least one."""
    if "pair" in short:
        return {"class": "pair", "role": short["pair"]}
    return {"class": _CLASS_OF.get(event_type, "HumanMessage")} | dict(short)


def called(native: Mapping[str, Any], id: str) -> dict[str, Any]:
    """Give the native form that a message has once a graph took it up and gave it an id."""
    if native["class"] in ("pair", "object"):
        native = {"class": _CLASS_OF[_EVENT_TYPES[native["role"]]]}
    return dict(native) | {"fields": (native.get("fields") or {}) | {"id": id}}


def _model_message(value: Extension) -> Message | None:
    content = value.content
    if not isinstance(content, list) or len(content) != 4:
        return None
    module, name, kwargs, method = content
    if name not in _CLASSES or not module.startswith(_MODULE) or method != _METHOD or not isinstance(kwargs, dict):
        return None
    try:
        return _split(value, module, name, kwargs)
    except (Unsayable, KeyError, TypeError):
        return None


def _split(value: Extension, module: str, name: str, kwargs: dict[str, Any]) -> Message | None:
    said = to_json(kwargs["content"], _as_it_is)
    if not isinstance(said, (str, list)):
        return None
    given = kwargs.get("id")
    identity = given if isinstance(given, str) else None
    calls = kwargs.get("tool_calls") or []
    parts: list[tuple[str, dict[str, Any]]] = []
    if name == "ToolMessage":
        result: dict[str, Any] = {"tool_use_id": kwargs["tool_call_id"], "content": said}
        if kwargs.get("status") == "error":
            result["is_error"] = True
        parts.append(("agent.tool_result", result))
    else:
        if isinstance(said, list) and calls:
            said = [block for block in said if not (isinstance(block, dict) and block.get("type") == "tool_use")]
        if said or not calls:
            parts.append((_EVENT_TYPES[_CLASSES[name]], {"content": said}))
        parts += [("agent.tool_use", use) for call in calls if (use := _use(call)) is not None]
        if len(parts) > 1 and identity is not None:
            parts = [(kind, data | {"message_id": identity}) for kind, data in parts]
    if not parts or not isinstance(parts[0][1].get("tool_use_id", ""), str):
        return None
    native: dict[str, Any] = {"class": name}
    if len(parts) > 1:
        native["parts"] = len(parts)
    if module != _MODULE + _CLASSES[name]:
        native["module"] = module
    guessed = _fields(name, parts[0][0], [data for _, data in parts], {})
    fields = {key: item for key, item in kwargs.items() if key not in guessed or not same(guessed[key], item)}
    if fields:
        native["fields"] = to_json(fields, _as_it_is)
    if pack_message(parts, native) != value or list(guessed | fields) != list(kwargs):
        native = {"class": name, "parts": len(parts), "model": to_json(value, _as_it_is)}
    return Message(parts, native, identity)


def _fields(name: str, first: str, data: Sequence[dict[str, Any]], others: dict[str, Any]) -> dict[str, Any]:
    """Give a message's fields: what its events say, what is usual, and the others, which count most."""
    content = "" if first == "agent.tool_use" else from_json(data[0].get("content", ""), no_message)
    made: dict[str, Any] = {
        "content": content,
        "additional_kwargs": {},
        "response_metadata": {},
        "type": _CLASSES[name],
        "name": None,
        "id": None,
    }
    if name == "AIMessage":
        uses = data if first == "agent.tool_use" else data[1:]
        made["tool_calls"] = [
            {
                "name": use.get("name"),
                "args": from_json(use.get("input"), no_message),
                "id": use.get("id"),
                "type": "tool_call",
            }
            for use in uses
        ]
        made |= {"invalid_tool_calls": [], "usage_metadata": None}
    if name == "ToolMessage":
        status = "error" if data[0].get("is_error") else "success"
        made |= {"tool_call_id": data[0].get("tool_use_id"), "artifact": None, "status": status}
    return made | others


def _use(call: Any) -> dict[str, Any] | None:
    if not isinstance(call, dict) or not isinstance(call.get("id"), str) or not isinstance(call.get("name"), str):
        return None
    return {"id": call["id"], "name": call["name"], "input": to_json(call.get("args"), _as_it_is)}


def _as_it_is(_: Message) -> None:
    return None


def no_message(_: Any) -> Any:
    """Refuse a message where there can be none."""
    raise Unsayable
