"""Lineages: which rows a branch consists of, its own and the prefixes it shares with the branches below it.

1. A branch is empty of its own events, or shares [0, base_size) with its base and owns what comes after.
2. A lineage is the chain of bases flattened to segments, in the order of positions, without gaps, starting at 0.
3. Ancestors' shared prefixes never change, so a lineage, once read, stays true; only its last segment grows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import msgspec

from everlog.core.limits import SAFE_INTEGER_MAX

OPEN = SAFE_INTEGER_MAX  # the stop of a segment that still grows


class Segment(msgspec.Struct, frozen=True):
    """The events [start, stop) of a lineage, owned by one branch. branch: the store's own key for it."""

    branch: int
    writer: str
    start: int
    stop: int


class Lineage(msgspec.Struct, frozen=True):
    """A branch's segments. branch: its key; branch_id: its 32 hex digits; session: the id of the session read through."""

    branch: int
    branch_id: str
    session: str
    segments: tuple[Segment, ...]

    def clip(self, start: int, stop: int) -> list[Segment]:
        """Give the parts of segments that lie in [start, stop), in order. O(log segments + result)."""
        if start >= stop:
            return []
        segments = self.segments
        index = bisect_right(segments, start, key=_start) - 1
        clipped: list[Segment] = []
        while index < len(segments) and segments[index].start < stop:
            segment = segments[index]
            low, high = max(segment.start, start), min(segment.stop, stop)
            if low < high:
                whole = low == segment.start and high == segment.stop
                clipped.append(segment if whole else Segment(segment.branch, segment.writer, low, high))
            index += 1
        return clipped

    def owner(self, position: int) -> Segment:
        """Give the segment that holds a position (of this lineage, at least 0)."""
        index = bisect_right(self.segments, position, key=_start) - 1
        while self.segments[index].start == self.segments[index].stop:
            index -= 1
        return self.segments[index]

    def writers(self) -> Iterator[tuple[str, int, int]]:
        """Give (writer, start, stop) of each segment."""
        for segment in self.segments:
            yield segment.writer, segment.start, segment.stop


def _start(segment: Segment) -> int:
    return segment.start


def lineage_of_one(branch: int, branch_id: str, writer: str, session: str) -> Lineage:
    """Give the lineage of a branch that shares nothing."""
    return Lineage(branch, branch_id, session, (Segment(branch, writer, 0, OPEN),))


def flatten(chain: list[tuple[int, str, int]]) -> tuple[Segment, ...]:
    """Turn a chain of bases into segments.

    chain: (branch, writer, base_size) from the branch itself down to the one without a base (base_size 0).
    Returns segments from position 0 on; branches that contribute nothing are left out, but the branch itself stays.
    """
    segments: list[Segment] = []
    stop = OPEN
    for branch, writer, base_size in chain:
        if base_size < stop:
            segments.append(Segment(branch, writer, base_size, stop))
            stop = base_size
    segments.reverse()
    return tuple(segments)


def common_ancestor(one: Lineage, other: Lineage, *, one_size: int, other_size: int) -> int:
    """Give the cut up to which two lineages of these sizes hold the same rows."""
    shared = 0
    for mine, theirs in zip(one.segments, other.segments, strict=False):
        if mine.branch != theirs.branch or mine.start != theirs.start:
            break
        shared = min(mine.stop, theirs.stop)
        if mine.stop != theirs.stop:
            break
    return min(shared, one_size, other_size)
