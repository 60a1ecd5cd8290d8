"""Items of another program's log as events: their keys, their parts, the types of what has no standard one.

1. An item's first event holds its key; the others are its parts, `metadata.part = [i, n]`, with the key and their number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec
from msgspec.structs import replace

from everlog.core import limits
from everlog.core.event import NewEvent
from everlog.core.standard import is_type
from everlog.core.values import check_value
from everlog.errors import EverlogError

ATTACHMENT = "native.json"  # its name, where an item is kept as one
_FRAME_BYTES = 100  # of an event's body, around its data and metadata
TITLE_READ = 2_000  # characters of what a title is made of
_TITLE_CHARACTERS = 120


def can_say(value: object, *, bytes_max: int) -> bool:
    """Tell whether the log says a value as it is, in at most so many bytes: not half characters, integers of 2^64, or what is deep."""
    try:
        check_value(value, what="the item")
        return len(msgspec.json.encode(value)) <= bytes_max
    except (EverlogError, UnicodeEncodeError):
        return False


def fit(events: Iterable[NewEvent], *, body_bytes_max: int) -> bool:
    """Tell whether the log takes events that were made of an item, which may say it twice, or deeper than it was."""
    return all(can_say([event.data, event.metadata], bytes_max=body_bytes_max - _FRAME_BYTES) for event in events)


def attached(format: str, name: object, value: object) -> NewEvent:
    """Give an event that keeps a value as JSON beside its body, for what the log cannot say."""
    metadata = {"native": {"format": format, "attachment": ATTACHMENT}}
    return NewEvent(opaque_type(format, name), metadata=metadata, attachments={ATTACHMENT: json.dumps(value).encode()})


def canonical(value: object) -> bytes:
    """Give the JSON of a value, the same for the same value."""
    return msgspec.json.encode(value, order="sorted")


def with_parts(events: Sequence[NewEvent]) -> list[NewEvent]:
    """Give an item's events with their places in it: all but the first say which of how many they are."""
    return [
        event if index == 0 else replace(event, metadata={**(event.metadata or {}), "part": [index, len(events)]})
        for index, event in enumerate(events)
    ]


def with_key(events: Sequence[NewEvent], key: str) -> list[NewEvent]:
    """Give an item's events with the item's key: the first the key itself, the others with their number behind it."""
    key = fit_key(key)
    return [replace(event, key=key if index == 0 else f"{key}:{index}") for index, event in enumerate(events)]


def fit_key(key: str) -> str:
    """Give a key as the log takes it: as it is, or a hash of it."""
    too_long = len(key.encode("utf-8", "replace")) > limits.KEY_BYTES_MAX - 16
    if too_long or "\x00" in key or not can_say(key, bytes_max=limits.KEY_BYTES_MAX):
        return f"sha256:{digest(key)}"
    return key


def opaque_type(format: str, name: object) -> str:
    """Give the type of an event that keeps an entry that has no standard type: `x.FORMAT.TYPE`."""
    kind = f"x.{opaque_name(format)}.{opaque_name(name) if isinstance(name, str) and name else 'entry'}"
    return kind if is_type(kind) else f"x.{opaque_name(format)}.entry"


def opaque_name(name: str) -> str:
    """Give a name as part of an event's type."""
    return "".join(character if character.isascii() and character.isalnum() else "_" for character in name.lower()[:64])


def text_of(content: Any) -> str | None:
    """Give the text of content; None where it has none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [block["text"] for block in content if isinstance(block, dict) and isinstance(block.get("text"), str)]
    return " ".join(texts) or None


def parse_moment(text: object) -> datetime | None:
    """Read a source's time; None where it is none, or has no zone."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def compact(value: object) -> str:
    """Give a value as JSON, the same for the same value."""
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))


def digest(value: object) -> str:
    """Give the SHA-256 of a value's JSON, or of bytes, in hex."""
    return sha256(value if isinstance(value, bytes) else compact(value).encode()).hexdigest()


def as_title(title: str | None) -> str | None:
    """Give a title that the store takes: what cannot be printed is a space."""
    if title is None:
        return None
    printable = "".join(character if character.isprintable() else " " for character in title[:TITLE_READ])
    return " ".join(printable.split())[:_TITLE_CHARACTERS].rstrip() or None
