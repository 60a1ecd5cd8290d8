"""What a session may be called: title, labels, metadata, and the reasons given for what is done to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from everlog.core import limits
from everlog.core.values import encode_json, unreadable
from everlog.errors import InvalidEventError, LimitError


def check_title(title: object) -> str | None:
    """Give a title, or refuse what is no string of at most TITLE_CHARACTERS_MAX characters."""
    if title is None:
        return None
    if not isinstance(title, str):
        raise InvalidEventError(f"title is a {type(title).__name__} where it takes a string; nothing was written")
    return _check_text("title", title, limits.TITLE_CHARACTERS_MAX)


def check_reason(reason: object) -> str:
    """Give a reason, or refuse what is no string of at most REASON_CHARACTERS_MAX characters."""
    if not isinstance(reason, str) or not reason:
        raise InvalidEventError("reason takes a string of at least one character; nothing was written; say why")
    return _check_text("reason", reason, limits.REASON_CHARACTERS_MAX)


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Give labels as a dict, or refuse too many, too long or unprintable ones."""
    if not isinstance(labels, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidEventError(f"labels is a {type(labels).__name__} where it takes a mapping; nothing was written")
    if len(labels) > limits.LABELS_MAX:
        raise LimitError(
            f"{len(labels)} labels where {limits.LABELS_MAX} is the most; nothing was written; leave some out"
        )
    for name, value in labels.items():
        if not isinstance(name, str) or not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidEventError(f"label {name!r:.100} is not a string with a string; nothing was written")
        if not name or not name.isprintable() or any(character in ' :",' for character in name):
            raise InvalidEventError(
                f"label name {name!r:.200} is not printable, or holds a space, colon, comma or quote; nothing was written"
            )
        _check_text(f"label name {name[:50]!r}", name, limits.LABEL_NAME_CHARACTERS_MAX)
        _check_text(f"label {name!r}", value, limits.LABEL_VALUE_CHARACTERS_MAX)
    return dict(labels)


def encode_metadata(metadata: Mapping[str, Any] | None) -> bytes | None:
    """Give a session's metadata as JSON bytes, at most METADATA_BYTES_MAX; None for none."""
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidEventError(
            f"metadata is a {type(metadata).__name__} where it takes an object; nothing was written"
        )
    encoded = encode_json(dict(metadata), what="metadata")
    if len(encoded) > limits.METADATA_BYTES_MAX:
        raise LimitError(
            f"metadata has {len(encoded)} bytes where {limits.METADATA_BYTES_MAX} is the most; nothing was written"
        )
    return encoded


def _check_text(what: str, text: str, characters_max: int) -> str:
    if len(text) > characters_max:
        raise LimitError(f"{what} has {len(text)} characters where {characters_max} is the most; nothing was written")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidEventError(f"{what} holds a lone surrogate, which UTF-8 cannot say; nothing was written") from None
    if "\x00" in text:
        raise InvalidEventError(f"{what} holds a NUL, which databases refuse; nothing was written")
    return text


def decode_metadata(metadata: bytes, session: str) -> dict[str, Any]:
    """Read the stored metadata of a session. Raises CorruptionError."""
    try:
        return msgspec.json.decode(metadata, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(f"the metadata of session {session!r}", error) from error
