"""The hash of a state: canonical JSON, against the vectors and another implementation."""

import hashlib
import json
import os
from pathlib import Path

import hypothesis.strategies as st
import msgspec
import pytest
import rfc8785
from hypothesis import given

from everlog.core.canonical import canonical_json, check_state, decode_state, encode_state, hash_state
from everlog.errors import ReducerError

VECTORS = Path(os.environ.get("EVERLOG_SHARED", Path(__file__).parents[3] / "shared")) / "vectors" / "jcs"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=15,
)  # fmt: skip


@pytest.mark.skipif(not VECTORS.is_dir(), reason="the shared vectors do not lie beside this checkout")
@pytest.mark.parametrize("name", ["arrays", "french", "structures", "unicode", "values", "weird"])
def test_the_canonical_form_is_that_of_the_vectors(name):
    value = json.loads((VECTORS / f"input-{name}.json").read_text(encoding="utf-8"))
    expected = (VECTORS / f"output-{name}.json").read_bytes().rstrip(b"\n")
    assert canonical_json(value) == expected


@given(JSON)
def test_the_quick_encoder_and_the_exact_one_give_the_same(value):
    assert canonical_json(value) == rfc8785.dumps(value)
    assert hash_state(value) == hashlib.sha256(rfc8785.dumps(value)).hexdigest()


@given(JSON)
def test_a_stored_state_comes_back_the_same(value):
    again = decode_state(encode_state(value))
    assert repr(again) == repr(value)  # kinds and the order of members too
    assert hash_state(again) == hash_state(value)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"a": {1}}, "/a is of type set"),
        ({"a": (1,)}, "/a is of type tuple"),
        ({1: 2}, "key 1 of type int"),
        ([float("nan")], "/0 is nan"),
        ({"x": [float("-inf")]}, "/x/0 is -inf"),
        (2**64, "2\\^64"),
        (b"x", "of type bytes"),
        (msgspec.UNSET, "UnsetType"),
        ({"a": "\ud800"}, "lone surrogate"),
    ],
)
def test_what_is_no_json_is_refused_and_named(value, what):
    with pytest.raises(ReducerError, match=what):
        encode_state(value)


def test_depth_is_bounded():
    deep = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ReducerError, match="nested deeper"):
        check_state(deep)
    with pytest.raises(ReducerError):
        hash_state(deep)


def test_an_integer_without_a_canonical_form_has_no_hash_but_is_stored():
    assert decode_state(encode_state({"id": 2**60})) == {"id": 2**60}
    with pytest.raises(ReducerError, match="as strings"):
        hash_state({"id": 2**60})
