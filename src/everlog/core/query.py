"""The query language as a value, and what it means: which events, or sessions, a query matches.

1. A query is a list of terms that must all hold; a term holds where any of its values does; `negated` turns it round.
2. `matches` is the meaning, for every store. A store may answer header terms (`split`) by its own means, with the same
   result.
3. An erased or withheld event has no data: no term on data, metadata, rationale or words holds for it.

The text form stands in query_text.py. Programs use keyword arguments and `where=`, never string building.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

import msgspec

from everlog.core import limits
from everlog.core.pointer import MISSING, get_member
from everlog.core.position import parse_event_id
from everlog.errors import InvalidQueryError, LimitError

HEADER_KEYS: Final = frozenset({"type", "actor", "outcome", "key", "caused_by"})
RANGE_KEYS: Final = frozenset({"since", "until", "position"})
BODY_KEYS: Final = frozenset({"data", "meta", "rationale", "text"})
HAS_VALUES: Final = (
    "attachments",
    "rationale",
    "metadata",
    "outcome",
    "actor",
    "key",
    "caused_by",
    "occurred_at",
    "data",
    "state",
    "erased",
    "withheld",
)


class Exact(msgspec.Struct, frozen=True):
    """Equal to this text. On data it also equals the number, true, false or null that is written so."""

    text: str


class Glob(msgspec.Struct, frozen=True):
    """Like this pattern, in which `*` is any run of characters and nothing else is special."""

    pattern: str

    @property
    def prefix(self) -> str:
        """What every match starts with."""
        return self.pattern.partition("*")[0]


class Range(msgspec.Struct, frozen=True):
    """Within bounds, None for open. Positions and times are half-open [low, high); data holds both bounds."""

    low: float | int | None
    high: float | int | None


class Typed(msgspec.Struct, frozen=True):
    """Equal to this JSON scalar, by value and kind: 1 equals 1.0, but neither true nor "1"."""

    value: str | int | float | bool | None


Value = Exact | Glob | Range | Typed


class Term(msgspec.Struct, frozen=True):
    """One condition. path: tokens below data or meta, or the label's name."""

    key: str
    values: tuple[Value, ...]
    path: tuple[str, ...] = ()
    negated: bool = False


class Query(msgspec.Struct, frozen=True):
    """Terms that must all hold; none at all matches everything."""

    terms: tuple[Term, ...] = ()

    def __and__(self, other: Query) -> Query:
        return Query(self.terms + other.terms)

    def split(self) -> tuple[tuple[Term, ...], Query]:
        """Give the terms that a store can answer from header columns, and the query of all others."""
        header = tuple(term for term in self.terms if term.key in HEADER_KEYS)
        return header, Query(tuple(term for term in self.terms if term.key not in HEADER_KEYS))

    def range_terms(self) -> tuple[Term, ...]:
        """Give the terms that bound positions or times of recording, so that a reader need not scan."""
        return tuple(
            term for term in self.terms if term.key in RANGE_KEYS and not term.negated and len(term.values) == 1
        )


EVERYTHING: Final = Query()


class EventLike(Protocol):
    """What a query looks at in an event."""

    @property
    def session(self) -> str: ...
    @property
    def branch(self) -> str: ...
    @property
    def position(self) -> int: ...
    @property
    def type(self) -> str: ...
    @property
    def actor(self) -> str | None: ...
    @property
    def outcome(self) -> str | None: ...
    @property
    def recorded_micros(self) -> int: ...
    @property
    def occurred_micros(self) -> int | None: ...
    @property
    def key(self) -> str | None: ...
    @property
    def caused_by(self) -> str | None: ...
    @property
    def data(self) -> Any: ...
    @property
    def metadata(self) -> Any: ...
    @property
    def rationale(self) -> str | None: ...
    @property
    def state_hash(self) -> object: ...
    @property
    def attachments(self) -> Sequence[object]: ...
    @property
    def erased(self) -> bool: ...
    @property
    def withheld(self) -> bool: ...


Predicate = Callable[[EventLike], bool]


# --- making --------------------------------------------------------------------------------------
def from_keywords(
    *,
    types: str | Sequence[str] | None = None,
    actor: str | Sequence[str] | None = None,
    outcome: str | Sequence[str] | None = None,
    since: int | None = None,
    until: int | None = None,
    where: Mapping[str, Any] | None = None,
    keys: str | Sequence[str] | None = None,
    caused_by: str | None = None,
    has: str | Sequence[str] | None = None,
) -> Query:
    """Make a query of keyword arguments. since, until: microseconds. types, actor and keys may be globs.

    where: "data.PATH" or "meta.PATH" (dots, or a JSON Pointer as in "data/a/0") to a JSON scalar or several of them.
    """
    terms: list[Term] = []
    for key, given in (("type", types), ("actor", actor), ("outcome", outcome), ("key", keys), ("has", has)):
        if given is not None:
            if not isinstance(given, (str, list, tuple, set, frozenset)):
                raise InvalidQueryError(
                    f"{key} is {given!r:.50} where it takes a string or a list of strings; correct it"
                )
            texts = (given,) if isinstance(given, str) else tuple(given)
            terms.append(check_term(Term(key, tuple(text_value(text) for text in texts))))
    if since is not None:
        terms.append(Term("since", (Range(since, None),)))
    if until is not None:
        terms.append(Term("until", (Range(None, until),)))
    if caused_by is not None:
        terms.append(check_term(Term("caused_by", (Exact(caused_by),))))
    if where is not None and not isinstance(where, Mapping):
        raise InvalidQueryError(
            f"where is {where!r:.50} where it takes a mapping, as in {{'data.name': 'bash'}}; correct it"
        )
    for name, given in (where or {}).items():
        root, path = split_path(name)
        values = list(cast("Sequence[Any]", given)) if isinstance(given, (list, tuple, set, frozenset)) else [given]
        terms.append(check_term(Term(root, tuple(_typed(name, value) for value in values), path)))
    return check_query(Query(tuple(terms)))


def text_value(text: object) -> Value:
    """Give the value of a text: a glob where it holds `*`."""
    if not isinstance(text, str):
        raise InvalidQueryError(f"{text!r:.100} is not a string; nothing was read; give a string or a list of strings")
    check_text(text)
    return Glob(text) if "*" in text else Exact(text)


def check_text(text: str) -> None:
    """Refuse NUL and lone surrogates: no header column holds them, and engines cut off or cannot encode them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidQueryError(
            f"a lone surrogate stands at column {error.start + 1} of {text!r:.100}; "
            "decode the text with errors='replace'"
        ) from None
    if "\0" in text:
        column = text.index("\0") + 1
        raise InvalidQueryError(f"NUL stands at column {column} of {text!r:.100}; leave it out or use where=")


def split_path(name: str) -> tuple[str, tuple[str, ...]]:
    """Take "data.a.b" or "data/a/b" apart into its root and tokens. Dots are sugar for a JSON Pointer."""
    match = re.fullmatch(r"(data|meta|metadata)([./])(.+)", name, re.DOTALL) if isinstance(name, str) else None
    if match is None:
        raise InvalidQueryError(f"{name!r:.100} names no member; write data.PATH or meta.PATH, as in data.name")
    root = "data" if match[1] == "data" else "meta"
    if match[2] == ".":
        return root, tuple(match[3].split("."))
    return root, tuple(token.replace("~1", "/").replace("~0", "~") for token in match[3].split("/"))


def _typed(name: str, value: object) -> Value:
    if value is None or isinstance(value, (str, int, float, bool)):
        return Typed(value)
    raise InvalidQueryError(
        f"where[{name!r}] is a {type(value).__name__} where it takes a string, number, true, false, None or a list of these"
    )


def check_term(term: Term) -> Term:
    """Refuse a term that cannot hold for anything because it is written wrongly."""
    if not term.values:
        raise InvalidQueryError(f"{term.key} has no value; give at least one")
    for value in term.values:
        if term.key == "outcome" and isinstance(value, Exact) and value.text not in (
            "ok", "error", "denied", "cancelled", "timeout", "unknown", "none",
        ):  # fmt: skip
            raise InvalidQueryError(
                f"outcome {value.text[:50]!r} is none of ok error denied cancelled timeout unknown none; correct it"
            )
        if term.key == "has" and not (isinstance(value, Exact) and value.text in HAS_VALUES):
            raise InvalidQueryError(f"has: takes one of {' '.join(HAS_VALUES)}; correct it")
        if term.key == "caused_by" and not (isinstance(value, Exact) and parse_event_id(value.text)):
            raise InvalidQueryError("caused_by takes an event's id, ev_ and so on; copy it from the event")
    return term


def check_query(query: Query) -> Query:
    """Refuse a query of too many terms or values."""
    size = sum(len(term.values) for term in query.terms)
    if size > limits.QUERY_TERMS_MAX:
        raise LimitError(f"the query has {size} values where {limits.QUERY_TERMS_MAX} is the most; split it")
    return query


# --- meaning, on events --------------------------------------------------------------------------
def matches(query: Query, event: EventLike) -> bool:
    """Tell whether an event meets every term."""
    return compile_query(query)(event)


def compile_query(query: Query) -> Predicate:
    """Give one predicate for a query, cheap tests first: for walking many events."""
    ordered = sorted(query.terms, key=lambda term: term.key in BODY_KEYS or term.key == "has")
    predicates = [_compile_term(term) for term in ordered]
    if not predicates:
        return lambda _event: True
    if len(predicates) == 1:
        return predicates[0]
    return lambda event: all(predicate(event) for predicate in predicates)


def _compile_term(term: Term) -> Predicate:
    test = _term_test(term)
    if not term.negated:
        return test
    if term.key in BODY_KEYS:  # of what is gone nothing is said, also not that it lacks something
        return lambda event: not (event.erased or event.withheld) and not test(event)
    return lambda event: not test(event)


def _term_test(term: Term) -> Predicate:
    values = term.values
    match term.key:
        case "type":
            return _text_test(values, lambda event: event.type)
        case "actor":
            return _text_test(values, lambda event: event.actor)
        case "outcome":
            return _text_test(values, lambda event: event.outcome or "none")
        case "key":
            return _text_test(values, lambda event: event.key)
        case "caused_by":
            return _text_test(values, lambda event: event.caused_by)
        case "session":
            return _text_test(values, lambda event: event.session)
        case "branch":
            return _branch_test(values)
        case "rationale":
            return _text_test(values, lambda event: event.rationale)
        case "position":
            return _range_test(values, lambda event: event.position)
        case "since" | "until":
            return _range_test(values, lambda event: event.recorded_micros)
        case "occurred":
            return _range_test(values, lambda event: event.occurred_micros)
        case "has":
            names = [value.text for value in values if isinstance(value, Exact)]
            return lambda event: any(_has(event, name) for name in names)
        case "data" | "meta":
            return _member_test(term)
        case "text":
            folded = [value.text.casefold() for value in values if isinstance(value, Exact)]
            return lambda event: any(word in text for text in _texts(event) for word in folded)
        case _:
            raise InvalidQueryError(f"{term.key}: speaks of sessions, not of events; use it where sessions are listed")


def glob_pattern(glob: Glob) -> re.Pattern[str]:
    """Give a glob as a regular expression for `fullmatch`."""
    return re.compile(".*".join(re.escape(part) for part in glob.pattern.split("*")), re.DOTALL)


def _text_test(values: tuple[Value, ...], member: Callable[[EventLike], str | None]) -> Predicate:
    exact = frozenset(value.text for value in values if isinstance(value, Exact))
    patterns = [glob_pattern(value) for value in values if isinstance(value, Glob)]

    def test(event: EventLike) -> bool:
        text = member(event)
        return text is not None and (text in exact or any(pattern.fullmatch(text) for pattern in patterns))

    return test


def _branch_test(values: tuple[Value, ...]) -> Predicate:
    for value in values:
        if isinstance(value, Exact) and len(value.text) < 8:  # `b2` would pass for the first digits of an id
            raise InvalidQueryError(
                f"branch {value.text!r} cannot be told from an event alone; "
                "write at least 8 hex digits of the branch's id"
            )
    begins = tuple(Glob(value.text + "*") if isinstance(value, Exact) else value for value in values)
    return _text_test(begins, lambda event: event.branch)


def _range_test(values: tuple[Value, ...], member: Callable[[EventLike], int | None]) -> Predicate:
    ranges = [value for value in values if isinstance(value, Range)]

    def test(event: EventLike) -> bool:
        number = member(event)
        return number is not None and any(
            (each.low is None or number >= each.low) and (each.high is None or number < each.high) for each in ranges
        )

    return test


def _has(event: EventLike, name: str) -> bool:
    match name:
        case "attachments":
            return bool(event.attachments)
        case "state":
            return event.state_hash is not None
        case "erased" | "withheld":
            return bool(getattr(event, name))
        case "occurred_at":
            return event.occurred_micros is not None
        case _:
            return getattr(event, name) is not None


def _member_test(term: Term) -> Predicate:
    tests = [_member_value_test(value) for value in term.values]
    path = term.path
    in_data = term.key == "data"
    present = Glob("*") in term.values  # also an empty list is there

    def test(event: EventLike) -> bool:
        member: object = get_member(event.data if in_data else event.metadata, path)
        if member is MISSING or present:
            return member is not MISSING
        candidates = cast("list[object]", member) if isinstance(member, list) else [member]
        return any(one(candidate) for candidate in candidates for one in tests)

    return test


def _member_value_test(value: Value) -> Callable[[object], bool]:
    match value:
        case Glob():
            pattern = glob_pattern(value)
            return lambda member: isinstance(member, str) and pattern.fullmatch(member) is not None
        case Range(low, high):
            return lambda member: (
                isinstance(member, (int, float))
                and not isinstance(member, bool)
                and (low is None or member >= low)
                and (high is None or member <= high)
            )
        case Typed(wanted):
            return lambda member: member == wanted and isinstance(member, bool) == isinstance(wanted, bool)
        case Exact(text):
            literal = _literal(text)
            return lambda member: (
                member == text
                or (
                    literal is not _NOT_LITERAL
                    and member == literal
                    and isinstance(member, bool) == isinstance(literal, bool)
                )
            )


_NOT_LITERAL: Final = object()
_LITERALS: Final[Mapping[str, object]] = {"true": True, "false": False, "null": None}
_NUMBER: Final = re.compile(r"-?\d{1,30}(\.\d{1,30})?([eE][+-]?\d{1,3})?", re.ASCII)


def is_literal(text: str) -> bool:
    """Tell whether a text may also mean a number, true, false or null."""
    return _literal(text) is not _NOT_LITERAL


def _literal(text: str) -> object:
    if text in _LITERALS:
        return _LITERALS[text]
    return parse_number(text) if _NUMBER.fullmatch(text) else _NOT_LITERAL


def parse_number(text: str) -> int | float | None:
    """Read a JSON-like number; None for what is none."""
    if _NUMBER.fullmatch(text) is None:
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _texts(event: EventLike) -> list[str]:
    """Give every string value of an event's data and its rationale, case folded."""
    return [text.casefold() for text in strings_of(event.data, event.rationale)]


def strings_of(data: object, rationale: str | None) -> list[str]:
    """Give what words are looked for in: every string value of data, in its order, then the rationale."""
    strings: list[str] = []
    pending: list[object] = [data]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            strings.append(value)
        elif isinstance(value, dict):
            pending.extend(reversed(cast("dict[str, object]", value).values()))
        elif isinstance(value, list):
            pending.extend(reversed(cast("list[object]", value)))
    if rationale is not None:
        strings.append(rationale)
    return strings


# --- meaning, on sessions ------------------------------------------------------------------------
def matches_session(query: Query, *, name: str, title: str | None, labels: Mapping[str, str], updated: int) -> bool:
    """Tell whether a session meets every term: session, label, since, until (of its last change) and words."""
    return all(_session_term(term, name, title or "", labels, updated) is not term.negated for term in query.terms)


def check_session_query(query: Query) -> Query:
    """Refuse terms that speak of events where sessions are listed."""
    for term in query.terms:
        if term.key not in ("session", "label", "since", "until", "text"):
            raise InvalidQueryError(
                f"{term.key}: speaks of events, not of sessions; here session: label.NAME: since: until: and words are known"
            )
    return query


def _session_term(term: Term, name: str, title: str, labels: Mapping[str, str], updated: int) -> bool:
    match term.key:
        case "session":
            return any(_text_equals(value, name) for value in term.values)
        case "label":
            label = labels.get(term.path[0])
            return label is not None and any(_text_equals(value, label) for value in term.values)
        case "since" | "until":
            return any(
                (value.low is None or updated >= value.low) and (value.high is None or updated < value.high)
                for value in term.values
                if isinstance(value, Range)
            )
        case _:
            texts = (name.casefold(), title.casefold())
            return any(
                value.text.casefold() in text for value in term.values if isinstance(value, Exact) for text in texts
            )


def _text_equals(value: Value, text: str) -> bool:
    if isinstance(value, Glob):
        return glob_pattern(value).fullmatch(text) is not None
    return isinstance(value, Exact) and value.text == text
