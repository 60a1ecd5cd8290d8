"""JSON Pointers (RFC 6901): the names of members inside a JSON value."""

from __future__ import annotations

import re
from typing import Any, Final

from everlog.errors import InvalidQueryError

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_ESCAPE: Final = re.compile(r"~(?![01])")


class Missing:
    """What stands at a pointer where nothing stands; None is a value."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing()


def parse_pointer(text: object) -> tuple[str, ...]:
    """Give the tokens of a JSON Pointer; "" is the whole. InvalidQueryError where it is none."""
    if not isinstance(text, str) or (text and not text.startswith("/")) or _ESCAPE.search(text):
        raise InvalidQueryError(
            f"{text!r:.100} is no JSON Pointer; write one as /plan/next or /items/0 (~1 for a slash, ~0 for a tilde), "
            'or "" for the whole'
        )
    if not text:
        return ()
    return tuple([token.replace("~1", "/").replace("~0", "~") for token in text[1:].split("/")])


def format_pointer(tokens: tuple[str | int, ...]) -> str:
    """Give the text of a pointer's tokens, which `parse_pointer` reads back."""
    return "".join(["/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens])


def read_index(token: str) -> int | None:
    """Give the array index that a token names (no leading zeros), None for none."""
    return int(token) if _INDEX.fullmatch(token) else None


def get_member(value: Any, tokens: tuple[str, ...]) -> Any:
    """Give what stands at a pointer inside a value, MISSING for nothing."""
    for token in tokens:
        if isinstance(value, dict):
            if token not in value:
                return MISSING
            value = value[token]
        elif isinstance(value, list):
            index = read_index(token)
            if index is None or index >= len(value):
                return MISSING
            value = value[index]
        else:
            return MISSING
    return value
