"""The query language's text form, in the manner of mail and code search.

    type:agent.tool_* outcome:error data.name:bash since:2h -actor:planner "timed out"

1. Terms stand apart by spaces and must all hold. `-` before a term negates it.
2. `key:value`; a comma in a value is *or* (quote it to mean a comma); `*` is a glob; `low..high` a range.
3. Words and "phrases" are full text: case-insensitive, anywhere in the strings of data and in the rationale.
4. An unknown `word:` is an error that says how to quote it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from everlog.core import limits
from everlog.core.position import parse_ago, parse_time
from everlog.core.query import (
    Exact,
    Glob,
    Query,
    Range,
    Term,
    Value,
    check_query,
    check_term,
    check_text,
    parse_number,
    split_path,
)
from everlog.errors import InvalidPlaceError, InvalidQueryError, LimitError

KEYS: Final = "type actor outcome since until occurred position branch key has caused_by data.PATH meta.PATH session label.NAME rationale"
_PLAIN: Final = frozenset({"type", "actor", "outcome", "key", "has", "caused_by", "session", "rationale", "branch"})
_MEMBERS: Final = ("data.", "data/", "meta.", "meta/", "metadata.", "metadata/")
_KEY: Final = re.compile(r"([A-Za-z_][^\s:\"]*):")


class _Piece(NamedTuple):
    """A part of a value: its text, and whether it was quoted, so that nothing in it is special."""

    text: str
    quoted: bool


def parse(text: str, *, now: int) -> Query:
    """Read a query. now: microseconds, from which `since:2h` counts.

    Raises InvalidQueryError, which names the term and its column, or LimitError.
    """
    if len(text) > limits.QUERY_CHARACTERS_MAX:
        raise LimitError(
            f"the query has {len(text)} characters where {limits.QUERY_CHARACTERS_MAX} is the most; shorten it"
        )
    check_text(text)
    terms: list[Term] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        term, at = _read_term(text, at, now)
        terms.append(term)
    return check_query(Query(tuple(terms)))


def quoted(text: str) -> str:
    """Give a text as a value of which nothing is special."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _read_term(text: str, start: int, now: int) -> tuple[Term, int]:
    at = start
    negated = text[at] == "-" and at + 1 < len(text) and not text[at + 1].isspace()
    if negated:
        at += 1
    match = _KEY.match(text, at)
    key = None if match is None else match[1]
    if match is not None:
        at = match.end()
    pieces, at = _read_values(text, at, commas=key is not None)
    shown = text[start:at]
    try:
        return _make_term(key, pieces, now, shown, negated=negated), at
    except (InvalidQueryError, InvalidPlaceError) as error:
        raise InvalidQueryError(f"{error.message} (in {shown[:100]!r} at column {start + 1})") from None


def _read_values(text: str, at: int, *, commas: bool) -> tuple[list[list[_Piece]], int]:
    """Read alternatives up to the next space outside quotes; each is a list of pieces."""
    alternatives: list[list[_Piece]] = [[]]
    plain = ""
    while at < len(text) and not text[at].isspace():
        character = text[at]
        if character == '"':
            quoted, at = _read_quoted(text, at)
            alternatives[-1].extend([_Piece(plain, quoted=False), _Piece(quoted, quoted=True)])
            plain = ""
            continue
        if character == "," and commas:
            alternatives[-1].append(_Piece(plain, quoted=False))
            alternatives.append([])
            plain = ""
        else:
            plain += character
        at += 1
    alternatives[-1].append(_Piece(plain, quoted=False))
    return [[piece for piece in pieces if piece.text or piece.quoted] for pieces in alternatives], at


def _read_quoted(text: str, start: int) -> tuple[str, int]:
    read: list[str] = []
    at = start + 1
    while at < len(text):
        if text[at] == "\\" and at + 1 < len(text):
            read.append(text[at + 1])
            at += 2
        elif text[at] == '"':
            return "".join(read), at + 1
        else:
            read.append(text[at])
            at += 1
    raise InvalidQueryError(f'a quote is opened at column {start + 1} and never closed; close it with "')


def _make_term(key: str | None, pieces: list[list[_Piece]], now: int, shown: str, *, negated: bool) -> Term:
    if key is None:
        word = "".join(piece.text for piece in pieces[0])
        if not word:
            raise InvalidQueryError("an empty phrase matches everything; write a word")
        return Term("text", (Exact(word),), (), negated)
    if not _is_key(key):
        _refuse_key(key, shown)
    if not all(pieces):
        raise InvalidQueryError(f'{key}: has no value; write {key}:VALUE, or {key}:"" for the empty text')
    if key in _PLAIN:
        return check_term(Term(key, tuple(_text(each) for each in pieces), (), negated))
    if key in ("since", "until"):
        micros = [_time("".join(piece.text for piece in each), now) for each in pieces]
        ranges = [Range(each, None) if key == "since" else Range(None, each) for each in micros]
        return Term(key, tuple(ranges), (), negated)
    if key in ("occurred", "position"):
        texts = ["".join(piece.text for piece in each) for each in pieces]

        def read(text: str) -> int:
            return _position(text) if key == "position" else _time(text, now)

        return Term(key, tuple(_range(text, read) for text in texts), (), negated)
    if key.startswith(_MEMBERS):
        root, path = split_path(key)
        return Term(root, tuple(_member(each) for each in pieces), path, negated)
    return Term("label", tuple(_text(each) for each in pieces), (key.removeprefix("label."),), negated)


def _is_key(key: str) -> bool:
    """Tell whether a term may begin so; `split_path` judges what stands below data and meta."""
    return (
        key in _PLAIN
        or key in ("since", "until", "occurred", "position")
        or key.startswith(_MEMBERS)
        or (key.startswith("label.") and key != "label.")
    )


def _refuse_key(key: str, shown: str) -> NoReturn:
    quoted = shown.lstrip("-").replace("\\", "\\\\").replace('"', '\\"')
    raise InvalidQueryError(
        f'{key}: is no key of a query; to search for the text itself write "{quoted[:100]}" in quotes; the keys are {KEYS}'
    )


def _text(pieces: list[_Piece]) -> Value:
    text = "".join(piece.text for piece in pieces)
    globs = any("*" in piece.text for piece in pieces if not piece.quoted)
    if globs and any("*" in piece.text for piece in pieces if piece.quoted):
        raise InvalidQueryError("a value holds * both quoted and not; write it without the quoted *")
    return Glob(text) if globs else Exact(text)


def _member(pieces: list[_Piece]) -> Value:
    text = "".join(piece.text for piece in pieces)
    low, dots, high = text.partition("..")
    if dots and not any(piece.quoted for piece in pieces):
        bounds = (parse_number(low) if low else None, parse_number(high) if high else None)
        if (bounds[0] is not None or not low) and (bounds[1] is not None or not high) and bounds != (None, None):
            return Range(*bounds)
    return _text(pieces)


def _range(text: str, read: Callable[[str], int]) -> Range:
    low, dots, high = text.partition("..")
    if not dots:
        return Range(read(text), read(text) + 1)
    return Range(read(low) if low else None, read(high) if high else None)


def _position(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise InvalidQueryError(
            f"position {text[:50]!r} is no integer of at least 0; write position:10..20 for [10, 20)"
        )
    return int(text)


def _time(text: str, now: int) -> int:
    if parse_ago(text) is None and not text[:1].isdigit():
        raise InvalidQueryError(f"{text[:50]!r} is no time; write 2026-11-23T10:00Z or 2h for two hours ago")
    return parse_time(text, now=now, naive_is_utc=True)
