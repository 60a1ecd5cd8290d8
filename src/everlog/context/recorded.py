"""Calls that were recorded where they were made, at a provider's client: what was sent, made again from the log.

1. A `model.request` says in `recorded` what its messages are: those of the event `after` (an earlier request, or the answer to one), then
   those of the `new` events that stand right before it, then `ops`, a patch, where the caller said earlier ones otherwise.
2. A `model.response` that says `recorded` adds the `new` events right before it to those of its request.
3. `unchanged` names the events that hold what is sent beside the messages and did not change since.
4. `unsaid` names the members, of the model and of the messages, that were not sent: a stored prompt has them.
5. `request_hash` is SHA-256 over the JSON of all that was sent, its members in order (`sent_hash`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final, cast

import msgspec

from everlog.core.event import Event
from everlog.core.patch import apply_patch
from everlog.errors import EverlogError, InvalidEventError
from everlog.reducers.spoken import ANTHROPIC, CHAT, ITEMS, NothingSaidError, groups, message_of

MESSAGES: Final = {ANTHROPIC: "messages", CHAT: "messages", ITEMS: "input"}  # the member of a request that holds them
SYSTEM: Final = {ANTHROPIC: "system", CHAT: None, ITEMS: "instructions"}  # and the one that stands beside them
Find = Callable[[str], Event]
Slice = Callable[[int, int], list[Event]]


def encode_sent(payload: Any) -> bytes:
    """Give what was sent as JSON, the same for the same value."""
    try:
        return msgspec.json.encode(payload, order="sorted")
    except (UnicodeEncodeError, OverflowError):  # half a character, or an integer of 2^64
        return json.dumps(payload, sort_keys=True).encode()


def sent_hash(payload: Any) -> str:
    """Give the hash of what was sent, 64 hex digits."""
    return sha256(encode_sent(payload)).hexdigest()


def said_until(event: Event, find: Find, read: Slice) -> list[Any]:
    """Give the messages of a recorded request, or those and its answer for a recorded response."""
    line: list[Event] = [event]
    while (before := _before(line[-1])) is not None:
        line.append(find(before))
    messages: list[Any] = []
    for each in reversed(line):
        kept = _recorded(each)
        for group in groups(read(each.position - int(kept.get("new", 0)), each.position)):
            with suppress(NothingSaidError):
                messages.append(message_of(str(_api_of(line)), group))
        if "ops" in kept:
            messages = apply_patch(messages, kept["ops"])
    return messages


def sent_by(request: Event, find: Find, read: Slice) -> tuple[dict[str, Any], bool]:
    """Give the body that a recorded request was sent with, and whether it is that exactly: nothing of it was erased or left out."""
    data, kept = cast("dict[str, Any]", request.data), _recorded(request)
    try:
        api = str(kept["api"])
        beside = {name: find(place).data[name] for name, place in kept.get("unchanged", {}).items()}
        messages: Any = said_until(request, find, read)
        if kept.get("text"):
            messages = messages[-1]["content"]
        payload = {**data.get("params", {}), "model": data["model"], MESSAGES[api]: messages}
        for name, member in (("system", SYSTEM[api]), ("tools", "tools")):
            given = data.get(name, beside.get(name))
            if member is not None and given is not None:
                payload[member] = given
        for name in kept.get("unsaid", ()):
            payload.pop(name, None)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise InvalidEventError(
            f"event {request.position} says of its call what cannot be read ({error!r:.100}); nothing was made"
        ) from error
    except EverlogError as error:
        raise InvalidEventError(
            f"what event {request.position} was sent with cannot be made again ({error.message}); nothing was made"
        ) from error
    return payload, sent_hash(payload) == data.get("request_hash") and not kept.get("left_out")


def is_recorded(event: Event) -> bool:
    """Tell whether an event is of a call that was recorded at a client."""
    return (
        event.type in ("model.request", "model.response") and isinstance(event.data, dict) and "recorded" in event.data
    )


def _recorded(event: Event) -> dict[str, Any]:
    kept = event.data.get("recorded") if isinstance(event.data, dict) else None
    return cast("dict[str, Any]", kept) if isinstance(kept, dict) else {}


def _before(event: Event) -> str | None:
    return event.data.get("request") if event.type == "model.response" else _recorded(event).get("after")


def _api_of(line: Sequence[Event]) -> str | None:
    return next((_recorded(each)["api"] for each in line if "api" in _recorded(each)), None)
