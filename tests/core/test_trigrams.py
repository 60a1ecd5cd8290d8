"""What an index holds and is asked for: whatever meets a query is among what its needles find."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from everlog.core import limits
from everlog.core.event import ERASED, WITHHELD
from everlog.core.query import Exact, Glob, Query, Term, Typed, compile_query
from everlog.core.query_text import parse
from everlog.core.trigrams import TRIGRAM, indexed_text, needles_of, trigrams_of

LETTERS = st.text(st.sampled_from("abcABCßİ空の\0"), max_size=8)
DATA: st.SearchStrategy[Any] = st.recursive(
    LETTERS | st.sampled_from([1, 1.5, True, None, "true", "1", "null"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("pq"), inner, max_size=2),
    max_leaves=6,
)
VALUES = st.one_of(
    LETTERS.map(Exact),
    LETTERS.map(lambda text: Glob(f"{text}*")),
    st.tuples(LETTERS, LETTERS).map(lambda two: Glob(f"*{two[0]}*{two[1]}")),
    (LETTERS | st.sampled_from([1, True, None])).map(Typed),
    st.sampled_from(["true", "1", "null"]).map(Exact),
)


class Told(msgspec.Struct):
    """As much of an event as words and paths look at."""

    data: Any
    rationale: str | None
    metadata: Any = None
    erased: bool = False
    withheld: bool = False


@settings(max_examples=400, deadline=None)
@given(
    data=st.dictionaries(st.sampled_from("pq"), DATA, max_size=2),
    rationale=st.none() | LETTERS,
    key=st.sampled_from(["text", "data", "rationale"]),
    values=st.lists(VALUES, min_size=1, max_size=3),
    negated=st.booleans(),
)
@example(data={"p": True}, rationale=None, key="data", values=[Exact("true")], negated=False)
@example(data={"p": [1234]}, rationale=None, key="data", values=[Exact("1234"), Typed("abcd")], negated=False)
@example(data={"p": "a\0bcd"}, rationale=None, key="data", values=[Exact("a\0bcd")], negated=False)
def test_whatever_meets_a_query_holds_a_needle_of_every_group(
    data: Any, rationale: str | None, key: str, values: list[Any], negated: bool
) -> None:
    chosen = [value for value in values if key == "data" or not isinstance(value, Typed)]
    chosen = [value for value in chosen if key != "text" or isinstance(value, Exact)] or [Exact("abc")]
    query = Query((Term(key, tuple(chosen), ("p",) if key == "data" else (), negated),))
    if compile_query(query)(Told(data, rationale)):  # pyright: ignore[reportArgumentType]
        text = indexed_text(msgspec.json.encode({"data": data, "rationale": rationale}), None)
        assert text is not None
        for group in needles_of(query):
            assert any(all(trigram in text for trigram in trigrams_of(needle)) for needle in group)


def test_a_group_that_a_short_word_is_in_asks_for_nothing() -> None:
    assert needles_of(parse("ab timeout Straße -not type:note", now=0)) == (("timeout",), ("strasse",))
    assert needles_of(Query((Term("text", (Exact("timeout"), Exact("ab"))),))) == ()
    assert needles_of(parse("data.n:1234 data.x:*ab*timeout* meta.x:timeout", now=0)) == (("timeout",),)


def test_long_words_are_asked_for_by_some_of_their_trigrams_from_all_over_them() -> None:
    word = "".join(chr(0x4E00 + number) for number in range(500))
    found = trigrams_of(word)
    assert len(found) == limits.SEARCH_TRIGRAMS_MAX
    assert found[0] == word[:TRIGRAM]
    assert found[-1] == word[-TRIGRAM:]
    assert trigrams_of("abcabcabc") == ["abc", "bca", "cab"]
    assert trigrams_of("ab") == []


def test_what_an_index_cannot_hold_is_read_each_time() -> None:
    long = msgspec.json.encode({"data": {"x": "y" * (limits.SEARCH_TEXT_CHARACTERS_MAX + 1)}})
    assert indexed_text(long, None) is None
    assert indexed_text(None, WITHHELD) is None
    assert indexed_text(b"{not json", None) is None
    assert indexed_text(None, ERASED) == ""
    assert indexed_text(b"{}", None) == ""
    assert indexed_text(b'{"data":{"a":"One\\u0000Two"},"rationale":"Why"}', None) == "one\ntwo\nwhy"
