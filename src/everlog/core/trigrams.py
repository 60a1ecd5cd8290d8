"""What an index of trigrams holds of an event, and what it can be asked for a query.

1. An index finds candidates and no answers: whatever meets a query is among those that its needles find.
2. What is indexed is the stored body, and the needles are what the query's own matching looks for, folded as it folds.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from everlog.core import limits
from everlog.core.event import WITHHELD, decode_body
from everlog.core.query import Exact, Glob, Query, Term, Typed, Value, is_literal, strings_of

TRIGRAM: Final = 3  # characters; of shorter words an index knows nothing
_UNKEPT: Final = re.compile("[\0\ud800-\udfff]")  # what engines cut texts off at, or cannot encode

Needles = tuple[tuple[str, ...], ...]


def indexed_text(raw: bytes | None, gone: int | None) -> str | None:
    """Give the text of a body that an index holds, folded; empty where there is none, None where it is to be read each time.

    raw, gone: as of an Event. Read each time is what is longer than an index takes, was withheld, or cannot be decoded.
    """
    if gone == WITHHELD:
        return None
    if raw is None:
        return ""
    try:
        body = decode_body(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    strings = strings_of(body.data, body.rationale)
    if sum(map(len, strings)) > limits.SEARCH_TEXT_CHARACTERS_MAX:
        return None
    return _UNKEPT.sub("\n", "\n".join(strings).casefold())


def needles_of(query: Query) -> Needles:
    """Give texts of which each event that meets a query holds one of every group, all of at least TRIGRAM characters."""
    groups = [_needles(term) for term in query.terms if not term.negated]
    return tuple(group for group in groups if group and all(len(needle) >= TRIGRAM for needle in group))


def _needles(term: Term) -> tuple[str, ...]:
    if term.key not in ("text", "data", "rationale"):
        return ()
    return tuple(_needle(term.key, value) for value in term.values)


def _needle(key: str, value: Value) -> str:
    """Give the text that every match of a value holds; empty where there is none."""
    match value:
        case Exact(text):
            parts = [] if key == "data" and is_literal(text) else [text]
        case Typed(text):
            parts = [text] if isinstance(text, str) else []
        case Glob(pattern):
            parts = pattern.split("*")
        case _:
            parts = []
    pieces = [piece for part in parts for piece in _UNKEPT.split(part.casefold())]
    return max(pieces, key=len, default="")


def trigrams_of(needle: str) -> list[str]:
    """Give trigrams of a needle, at most SEARCH_TRIGRAMS_MAX, from all over it."""
    found = list(dict.fromkeys(needle[at : at + TRIGRAM] for at in range(len(needle) - TRIGRAM + 1)))
    most = limits.SEARCH_TRIGRAMS_MAX
    return found if len(found) <= most else [found[number * (len(found) - 1) // (most - 1)] for number in range(most)]
