"""Which of the events that a search found come first, and what is shown of them. The same for every store.

1. A score counts how often an event holds the words, in the manner of BM25: each further time counts less, and so does each in a
   longer text; a word that is rarer among what was found weighs more; a whole word counts twice.
2. Of equal scores the newest comes first: whoever sorts keeps the order in which they were found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import msgspec

from everlog.core.limits import SNIPPET_CHARACTERS
from everlog.core.query import Exact, Query

_SATURATION: Final = 1.2  # BM25's k1 and b, as they are most often set
_LENGTH: Final = 0.75
_BEFORE: Final = 60  # characters of a snippet before the first match
_MARK: Final = "…"


class Snippet(msgspec.Struct, frozen=True):
    """A part of what an event says. matches: [start, stop) ranges of `text` that the words stand at, in order."""

    text: str
    matches: tuple[tuple[int, int], ...] = ()


class Measure(msgspec.Struct, frozen=True):
    """How often a text holds each word, and how often as a whole word; length: its characters."""

    counts: tuple[int, ...]
    whole: tuple[int, ...]
    length: int


def words_of(query: Query) -> tuple[str, ...]:
    """Give the words and phrases that a query looks for, folded, each once."""
    values = [value for term in query.terms if term.key == "text" and not term.negated for value in term.values]
    return tuple(dict.fromkeys(value.text.casefold() for value in values if isinstance(value, Exact) and value.text))


def measure(strings: Sequence[str], words: Sequence[str]) -> Measure:
    """Measure a text, given as strings that are not folded. words: folded."""
    folded = [text.casefold() for text in strings]
    found = [_count(folded, word) for word in words]
    return Measure(tuple(count for count, _ in found), tuple(whole for _, whole in found), sum(map(len, folded)))


def _count(texts: Sequence[str], word: str) -> tuple[int, int]:
    """Count how often texts hold a word, and how often as a whole word."""
    count = whole = 0
    for text in texts:
        at = text.find(word)
        while at >= 0:
            end = at + len(word)
            count += 1
            whole += not (text[at - 1 : at].isalnum() or text[end : end + 1].isalnum())
            at = text.find(word, end)
    return count, whole


def scores(measures: Sequence[Measure]) -> list[float]:
    """Give a score for each text of those that were found together; at least 0."""
    if not measures:
        return []
    total = sum(each.length for each in measures)
    mean = max(total / len(measures), 1.0)
    held = [sum(counts) for counts in zip(*(each.counts for each in measures), strict=True)]
    weights = [math.log(2.0 + total / count) if count else 0.0 for count in held]
    return [_score(each, mean, weights) for each in measures]


def _score(measured: Measure, mean: float, weights: Sequence[float]) -> float:
    damping = _SATURATION * (1 - _LENGTH + _LENGTH * measured.length / mean)
    score = 0.0
    for count, whole, weight in zip(measured.counts, measured.whole, weights, strict=True):
        times = count + whole
        score += weight * times * (_SATURATION + 1) / (times + damping)
    return round(score, 6)


# --- snippets ------------------------------------------------------------------------------------
def snippet(strings: Sequence[str], words: Sequence[str]) -> Snippet:
    """Give the part of a text round the first match, of the string that holds most of the words; else its beginning.

    strings: not folded. words: folded. At most SNIPPET_CHARACTERS of the text, with … where more stands before or behind.
    """
    best = max(strings, key=lambda text: sum(word in text.casefold() for word in words), default="") if words else ""
    first = _first_match(best, words)
    if first is None:
        text = next((each for each in strings if each.strip()), "")
        return Snippet(text if len(text) <= SNIPPET_CHARACTERS else text[:SNIPPET_CHARACTERS] + _MARK)
    start = max(0, first - _BEFORE)
    stop = min(len(best), start + SNIPPET_CHARACTERS)
    start = max(0, stop - SNIPPET_CHARACTERS)
    before = _MARK if start else ""
    matches = _matches(best[start:stop], words)
    if not matches:  # a phrase longer than a snippet
        matches = [(first - start, stop - start)]
    shown = before + best[start:stop] + (_MARK if stop < len(best) else "")
    return Snippet(shown, tuple((low + len(before), high + len(before)) for low, high in matches))


def _first_match(text: str, words: Sequence[str]) -> int | None:
    """Give where the first of the words stands, in characters of the text as it is."""
    folded = text.casefold()
    places = [at for at in (folded.find(word) for word in words) if at >= 0]
    return _place_in(text, folded, min(places)) if places else None


def _place_in(text: str, folded: str, at: int) -> int:
    """Give which character of a text a place of its folded form comes from. Folding makes some characters two or three."""
    if len(text) == len(folded):
        return at
    return next(place for place, end in enumerate(accumulate(len(each.casefold()) for each in text)) if end > at)


def _matches(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """Give where words stand in a short text; what overlaps is one."""
    folded = text.casefold()
    found: list[tuple[int, int]] = []
    for word in words:
        at = folded.find(word)
        while at >= 0:
            found.append((_place_in(text, folded, at), _place_in(text, folded, at + len(word) - 1) + 1))
            at = folded.find(word, at + len(word))
    merged: list[tuple[int, int]] = []
    for low, high in sorted(found):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged
