"""JSON values: what is refused is refused by the path of its member, and what is taken comes back unchanged."""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict, namedtuple
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from everlog.core import limits
from everlog.core.values import check_value, decode_json, encode_json
from everlog.errors import InvalidEventError, LimitError

BOUND = 2**64
Pair = namedtuple("Pair", "left right")


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Name(str):
    pass


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(-BOUND + 1, BOUND - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | text | numbers,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=15,
)


def same(one: object, other: object) -> bool:
    """Equal in type and value all the way down: 1 is not 1.0, 0.0 is not -0.0, True is not 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


def nested(depth: int, inner: object = 1) -> Any:
    for _ in range(depth):
        inner = [inner]
    return inner


@settings(max_examples=300, deadline=None)
@given(values)
@example(-0.0)
@example([1, 1.0, True, 0, -0.0, 0.0, False])
@example(BOUND - 1)
@example(1 - BOUND)
@example(2**63)
@example(-(2**63) - 1)
@example(5e-324)
@example(1.7976931348623157e308)
@example({"": {"~": {"/": "\x00"}}})
@example("\u2028\u2029\x7f\x85\U0010ffff")
def test_what_is_encoded_decodes_to_the_same_value_in_every_library(value: object) -> None:
    encoded = encode_json(value, what="data")
    assert same(decode_json(encoded, what="data"), value)
    assert same(json.loads(encoded), value)
    assert same(msgspec.json.decode(encoded), value)


@settings(max_examples=200, deadline=None)
@given(values)
def test_received_json_of_another_encoder_is_taken_as_it_says(value: object) -> None:
    for ascii_only in (True, False):
        received = json.dumps(value, ensure_ascii=ascii_only, indent=1).encode()
        assert same(decode_json(received, what="line 1"), value)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30) | st.text('[]{}",:0123456789.eE+-truefalsn\\ud8', max_size=30).map(str.encode))
@example(b"9007199254740993")
@example(b"1e400")
@example(b"-1e400")
@example(b"1E5")
@example(b'"\\ud800"')
@example(b"18446744073709551615")
@example(b"18446744073709551616")
@example(b"1" * 5_000)
def test_any_bytes_are_refused_or_read_and_never_changed(received: bytes) -> None:
    try:
        value = decode_json(received, what="line 1")
    except (InvalidEventError, LimitError):
        return
    assert same(json.loads(received), value)
    assert same(decode_json(encode_json(value, what="line 1"), what="line 1"), value)


# --- refused, by path ----------------------------------------------------------------------------
REFUSED: list[tuple[str, object, str]] = [
    ("NaN", float("nan"), "nan, which JSON cannot say"),
    ("infinity", float("inf"), "inf, which JSON cannot say"),
    ("minus infinity", float("-inf"), "-inf, which JSON cannot say"),
    ("2^64", BOUND, r"2\^64 or beyond"),
    ("-2^64", -BOUND, r"2\^64 or beyond"),
    ("10^30", 10**30, r"2\^64 or beyond"),
    ("bytes", b"x", "type bytes"),
    ("bytearray", bytearray(b"x"), "type bytearray"),
    ("a set", {1}, "type set"),
    ("a frozenset", frozenset({1}), "type frozenset"),
    ("a datetime", datetime(2026, 11, 23, tzinfo=UTC), "type datetime"),
    ("a decimal", Decimal(1), "type Decimal"),
    ("a complex number", 1j, "type complex"),
    ("a path", PurePosixPath("/"), "type PurePosixPath"),
    ("an enum", Colour.RED, "type Colour"),
    ("an integer enum", Level.LOW, "type Level"),
    ("a str of another class", Name("x"), "type Name"),
    ("a function", len, "type builtin_function_or_method"),
    ("an object", object(), "type object"),
    ("a lone surrogate", "a\ud800", "lone surrogate"),
]


@pytest.mark.parametrize(("what", "value", "says"), REFUSED, ids=[what for what, _, _ in REFUSED])
@pytest.mark.parametrize(
    ("path", "wrap"),
    [
        ("data", lambda value: value),
        ("data/a", lambda value: {"a": value}),
        ("data/2", lambda value: [1, "x", value]),
        ("data/a/0/b~1c~0d", lambda value: {"x": 1, "a": [{"b/c~d": value}]}),
        ("data/1/1", lambda value: (0, (0, value))),
        ("data/", lambda value: {"": value}),
    ],
)
def test_a_refusal_names_the_path_of_the_member(what: str, value: object, says: str, path: str, wrap: Any) -> None:
    with pytest.raises(InvalidEventError, match=says) as refused:
        encode_json(wrap(value), what="data")
    assert str(refused.value).startswith(f"{path} "), what
    assert "nothing was written" in str(refused.value)


@pytest.mark.parametrize("key", [1, 1.5, None, True, ("a",), b"a", Name("a")])
def test_keys_that_are_no_strings_are_refused_by_path(key: object) -> None:
    with pytest.raises(InvalidEventError, match=r"^data/a has the key .* where JSON takes only strings"):
        encode_json({"a": {key: 1}}, what="data")


def test_a_lone_surrogate_in_a_key_is_refused_by_path() -> None:
    with pytest.raises(InvalidEventError, match=r"^data/a \(a key\) holds a lone surrogate"):
        encode_json({"a": {"\udc00": 1}}, what="data")


@pytest.mark.parametrize(
    "mapping", [OrderedDict(a=1.5), defaultdict(int, {"a": 1.5})], ids=["OrderedDict", "defaultdict"]
)
def test_kinds_of_dict_and_tuple_are_taken_as_what_json_says_of_them(mapping: object) -> None:
    assert encode_json({"m": mapping}, what="data") == b'{"m":{"a":1.5}}'
    assert encode_json(Pair(1, (2, [])), what="data") == b"[1,[2,[]]]"
    with pytest.raises(InvalidEventError, match="^data/1/a is nan"):
        encode_json(Pair(1, OrderedDict(a=float("nan"))), what="data")


@pytest.mark.parametrize("make", [nested, lambda depth: {"a": nested(depth - 1)}])
def test_nesting_is_taken_to_the_limit_and_refused_beyond(make: Any) -> None:
    deepest = make(limits.BODY_DEPTH_MAX)
    encoded = encode_json(deepest, what="data")
    assert decode_json(encoded, what="data") == deepest
    with pytest.raises(LimitError, match="nested deeper than 64 levels"):
        encode_json(make(limits.BODY_DEPTH_MAX + 1), what="data")
    with pytest.raises(LimitError, match="nested deeper than 64 levels"):
        decode_json(json.dumps(make(limits.BODY_DEPTH_MAX + 1)).encode(), what="data")


def test_nesting_that_would_exhaust_the_stack_is_refused_and_not_raised() -> None:
    with pytest.raises(LimitError, match="nested deeper"):
        decode_json(b"[" * 200_000 + b"]" * 200_000, what="line 3")
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(LimitError, match="nested deeper"):
        check_value(endless, what="data")


def test_nesting_counts_the_same_for_kinds_of_dict() -> None:
    inner: Any = 1
    for _ in range(limits.BODY_DEPTH_MAX + 1):
        inner = OrderedDict(a=inner)
    with pytest.raises(LimitError, match="nested deeper"):
        encode_json(inner, what="data")
    assert encode_json(inner["a"], what="data")


# --- received ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("received", "says"),
    [
        (b'{"a":1,"a":1}', "'a' twice"),
        (b'{"x":[{"b":1,"c":2,"b":3}]}', "'b' twice"),
        (b'{"a":1,"\\u0061":2}', "'a' twice"),
        (b"[NaN]", "NaN, which is not JSON"),
        (b"[Infinity]", "Infinity, which is not JSON"),
        (b"[-Infinity]", "-Infinity, which is not JSON"),
        (b'{"a":[1,1e400]}', "^line 7/a/1 is inf"),
        (b'{"a":18446744073709551616}', r"^line 7/a is an integer of 2\^64"),
        (b"[" + b"9" * 5_000 + b"]", "number that cannot be read"),
        (b'{"a":"\\ud800"}', "^line 7/a holds a lone surrogate"),
        (b'{"\\ud800":1}', "a key.* lone surrogate"),
        (b'"\xff"', "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b"", "is not JSON"),
        (b"{'a':1}", "is not JSON"),
        (b"[1,]", "is not JSON"),
        (b"01", "is not JSON"),
        (b"1 2", "is not JSON"),
        (b"\xef\xbb\xbf1", "is not JSON"),
        (b'"\n"', "is not JSON"),
    ],
)
def test_received_json_that_libraries_read_differently_is_refused(received: bytes, says: str) -> None:
    with pytest.raises(InvalidEventError, match=says) as refused:
        decode_json(received, what="line 7")
    assert str(refused.value).startswith("line 7")
    assert "nothing was written" in str(refused.value)


def test_the_first_member_that_cannot_be_said_is_named_whatever_stands_before_it() -> None:
    nan, fine = float("nan"), {"a": [1, 2.5, "x"]}
    for value, name in (
        ([fine, fine, {"b": (fine, nan)}, nan], "data/2/b/1 is nan"),
        ({"a": fine, "b": [nan, {1: 2}]}, "data/b/0 is nan"),
        ({"a": fine, "b": [fine, {"c": fine, 1: nan}, nan]}, "data/b/1 has the key 1 "),
        ({"a": {"b": [fine, {1}]}, 1: 2}, "data/a/b/1 is of type set"),
        ([fine, OrderedDict(a=fine, b=2**64)], "data/1/b is an integer"),
    ):
        with pytest.raises(InvalidEventError, match=f"^{name}"):
            check_value(value, what="data")


def test_what_cannot_be_said_is_refused_where_a_class_makes_its_members_anew() -> None:
    class Anew(dict[str, Any]):
        def values(self) -> Any:
            return [each for _, each in self.items()]

        def items(self) -> Any:
            return [(key, list(value)) for key, value in super().items()]

    with pytest.raises(InvalidEventError, match="^data/a/0 is nan"):
        check_value(Anew(a=[float("nan")]), what="data")
