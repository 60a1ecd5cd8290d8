"""Ranking and snippets: what comes first, and what is shown of it."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from everlog.core import limits
from everlog.core.query import strings_of
from everlog.core.query_text import parse
from everlog.core.ranking import Measure, measure, scores, snippet, words_of

moderate = settings(max_examples=200, deadline=None)
TEXTS = st.text(st.sampled_from("abAB ßẞİıΣς…é\n"), max_size=300) | st.text(max_size=30)
WORDS = st.lists(st.text(st.sampled_from("abßiσé "), min_size=1, max_size=6).map(str.casefold), min_size=1, max_size=3)


def ranks(texts: list[str], *words: str) -> list[int]:
    found = scores([measure([text], words) for text in texts])
    return sorted(range(len(texts)), key=lambda number: -found[number])


def test_a_text_that_says_a_word_more_often_or_is_shorter_comes_first() -> None:
    assert ranks(["word and other things", "word word and other", "nothing"], "word") == [1, 0, 2]
    assert ranks(["word " + "far " * 100, "word near"], "word") == [1, 0]


def test_a_whole_word_counts_more_than_a_part_of_one() -> None:
    assert ranks(["keywords of it", "key words of it"], "key") == [1, 0]
    assert ranks(["空の入力です", "空 入力 です"], "入力") == [1, 0]


def test_a_rarer_word_weighs_more() -> None:
    texts = ["common common common rare", "common rare rare rare"]
    assert ranks([*texts, *["common common"] * 20], "common", "rare")[0] == 1


def test_saying_a_word_ever_more_often_adds_ever_less() -> None:
    measures = [Measure((count,), (count,), 100) for count in (1, 2, 4, 8, 16, 1000)]
    found = scores(measures)
    assert found == sorted(found)
    assert found[-1] < 2.2 * found[0]


@moderate
@given(st.lists(TEXTS, max_size=6), WORDS)
def test_scores_are_finite_not_negative_and_depend_on_nothing_but_the_texts(texts: list[str], words: list[str]) -> None:
    measures = [measure([text], words) for text in texts]
    found = scores(measures)
    assert all(0 <= score < 1e6 for score in found)
    assert [score > 0 for score in found] == [any(word in text.casefold() for word in words) for text in texts]
    assert scores(measures[::-1]) == found[::-1]
    doubled = [measure([*[text], ""], words) for text in texts]
    assert [each.counts for each in doubled] == [each.counts for each in measures]


@moderate
@given(st.lists(TEXTS, max_size=4), WORDS)
@example(["x" * 500 + "ßß" + "y" * 500], ["ss"])
@example(["İ" * 300 + "needle"], ["needle"])
@example(["a" * 400], ["a" * 300])
def test_a_snippet_is_bounded_and_its_matches_are_what_was_looked_for(texts: list[str], words: list[str]) -> None:
    found = snippet(texts, words)
    assert len(found.text) <= limits.SNIPPET_CHARACTERS + 2
    inner = found.text.removeprefix("…").removesuffix("…")
    assert inner == "" or any(inner in text or found.text in text for text in texts)
    last = -1
    for start, stop in found.matches:
        assert last < start < stop <= len(found.text)
        last = stop
        shown = found.text[start:stop].casefold()
        assert any(word in shown or shown in word for word in words)
    assert bool(found.matches) == any(word in text.casefold() for text in texts for word in words)


def test_a_snippet_is_of_the_string_that_holds_most_of_the_words() -> None:
    assert snippet(["one here", "one and two here"], ["one", "two"]).text == "one and two here"
    assert snippet(["", " ", "the first that says anything"], []).text == "the first that says anything"
    assert snippet([], ["x"]).text == ""


def test_words_are_those_that_are_looked_for_and_not_those_that_are_not_to_be_there() -> None:
    assert words_of(parse('Straße "two words" -not type:note strasse', now=0)) == ("strasse", "two words")


def test_strings_come_in_the_order_in_which_they_stand() -> None:
    data: Any = {"a": "1", "b": [{"c": "2"}, "3", 4, None], "d": {"e": "5"}}
    assert strings_of(data, "6") == ["1", "2", "3", "5", "6"]
    assert strings_of(None, None) == []
