"""Comparing two lines of events: where they part, what each has alone, and what became of the state in each.

Of lines that share events the common ancestor is known from their lineages. Unrelated ones, two runs of one task, are
aligned: events are the same where type, name and input are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import msgspec

from everlog.core.event import Event
from everlog.core.limits import PAGE_EVENTS_MAX
from everlog.core.lineage import common_ancestor
from everlog.core.patch import diff_values
from everlog.core.pointer import MISSING, get_member, parse_pointer
from everlog.errors import LimitError
from everlog.reader import View
from everlog.rebuild import Builder, SnapshotPolicy, own_state
from everlog.reducers.registry import Reducer, encoded_state
from everlog.storage import Storage

ALIGNED_EVENTS_MAX = 200_000  # of one line: aligning holds a key of each in memory
_DEPTH_MAX = 32  # of stretches within stretches: enough for what runs look like, and no input makes it quadratic
WHOLE = "(the whole)"  # the pointer "", in words
SHOWN_EVENTS_MAX = 1_000  # of those that one line has alone
_encode = msgspec.json.Encoder(order="sorted").encode
_INPUTS = {  # members that say what an event is, beside its type
    "agent.tool_use": ("name", "input"),
    "agent.tool_result": ("content", "is_error"),
}
_PASSING = ("id", "tool_use_id", "message_id", "request", "response_id", "signature", "usage")  # of one run only


class Side(msgspec.Struct, frozen=True):
    """One of the two lines: its session, its branch's id, and the cut that it is compared at."""

    session: str
    branch: str
    size: int


class Difference(msgspec.Struct, frozen=True):
    """What tells one line (a) from another (b).

    related: whether they share events. ancestor: the cut up to which they are the same events; 0 where unrelated.
    first_a, first_b: the first event of each that the other lacks, None for none.
    only_a, only_b: such events, at most `limit` of only_a_count, only_b_count. aligned: unrelated events found in both.
    reducer, patch: the RFC 6902 patch that turns the state of a into that of b. removed: values that the patch takes away.
    """

    a: Side
    b: Side
    related: bool
    ancestor: int
    only_a: tuple[Event, ...]
    only_b: tuple[Event, ...]
    only_a_count: int
    only_b_count: int
    aligned: int
    reducer: str
    patch: tuple[dict[str, Any], ...]
    removed: dict[str, Any]

    @property
    def first_a(self) -> Event | None:
        return self.only_a[0] if self.only_a else None

    @property
    def first_b(self) -> Event | None:
        return self.only_b[0] if self.only_b else None

    @property
    def same(self) -> bool:
        """Whether neither has an event that the other lacks, and the states are the same."""
        return not (self.only_a_count or self.only_b_count or self.patch)

    def to_dict(self) -> dict[str, Any]:
        """Give the difference as JSON values."""
        return {
            "a": msgspec.to_builtins(self.a),
            "b": msgspec.to_builtins(self.b),
            "related": self.related,
            "ancestor": self.ancestor,
            "only_a": [event.to_dict() for event in self.only_a],
            "only_b": [event.to_dict() for event in self.only_b],
            "only_a_count": self.only_a_count,
            "only_b_count": self.only_b_count,
            "aligned": self.aligned,
            "reducer": self.reducer,
            "patch": list(self.patch),
        }

    def state_lines(self) -> list[str]:
        """Give the difference of the states in words, a line a member: `~ /plan/next: "a" -> "b"`."""
        lines: list[str] = []
        for op in self.patch:
            path, new = op["path"] or WHOLE, _shown(op.get("value"))
            old = _shown(self.removed.get(op["path"]))
            match op["op"]:
                case "add":
                    lines.append(f"+ {path}: {new}")
                case "remove":
                    lines.append(f"- {path}: {old}")
                case _:
                    lines.append(f"~ {path}: {old} -> {new}")
        return lines


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else f"{text[:199]}…"


def compare(
    storage: Storage,
    one: View,
    other: View,
    one_cut: int,
    other_cut: int,
    reducer: Reducer,
    *,
    limit: int,
    taking: SnapshotPolicy | None,
) -> Difference:
    """Compare two lines at two cuts. limit: events of each that the other lacks, 0 .. SHOWN_EVENTS_MAX."""
    if not 0 <= limit <= SHOWN_EVENTS_MAX:
        raise LimitError(
            f"limit {limit!r:.50} is not in 0 .. {SHOWN_EVENTS_MAX}; compare a shorter range, or read on with events()"
        )
    ancestor = common_ancestor(one.lineage, other.lineage, one_size=one_cut, other_size=other_cut)
    related = one.lineage.segments[0].branch == other.lineage.segments[0].branch
    if related:
        only_a = _read(storage, one, ancestor, min(one_cut, ancestor + limit))
        only_b = _read(storage, other, ancestor, min(other_cut, ancestor + limit))
        counts, aligned = (one_cut - ancestor, other_cut - ancestor), 0
    else:
        places_a, places_b, aligned = _align(storage, one, other, one_cut, other_cut)
        only_a = [event for place in places_a[:limit] for event in _read(storage, one, place, place + 1)]
        only_b = [event for place in places_b[:limit] for event in _read(storage, other, place, place + 1)]
        counts = (len(places_a), len(places_b))
    value_a, value_b = _states(storage, one, other, one_cut, other_cut, reducer, ancestor if related else 0, taking)
    patch = diff_values(value_a, value_b)
    removed = {
        op["path"]: found
        for op in patch
        if op["op"] != "add" and (found := get_member(value_a, parse_pointer(op["path"]))) is not MISSING
    }
    return Difference(
        Side(one.lineage.session, one.branch.id, one_cut),
        Side(other.lineage.session, other.branch.id, other_cut),
        related,
        ancestor,
        tuple(only_a),
        tuple(only_b),
        *counts,
        aligned,
        reducer.name,
        tuple(patch),
        removed,
    )


def _states(
    storage: Storage,
    one: View,
    other: View,
    one_cut: int,
    other_cut: int,
    reducer: Reducer,
    ancestor: int,
    taking: SnapshotPolicy | None,
) -> tuple[Any, Any]:
    """Build both states; what they share is folded once, and stays one value, so that comparing passes over it."""
    base = Builder(storage, one, reducer, taking=taking).build(ancestor)
    values: list[Any] = []
    for view, cut in ((one, one_cut), (other, other_cut)):
        built = Builder(storage, view, reducer, taking=None).build(cut, start=own_state(reducer, base))
        encoded_state(reducer, built.value, session=view.lineage.session, size=cut)  # refuses what is no JSON
        values.append(built.value)
    return values[0], values[1]


def _read(storage: Storage, view: View, start: int, stop: int) -> list[Event]:
    return [event for page in _pages(storage, view, start, stop) for event in page]


def _pages(storage: Storage, view: View, start: int, stop: int) -> Iterator[list[Event]]:
    while start < stop:
        page = storage.read(view.lineage, start, stop, limit=min(PAGE_EVENTS_MAX, stop - start))
        yield page.events
        start = stop if page.following is None else page.following


# --- aligning unrelated runs ---------------------------------------------------------------------
def _align(storage: Storage, one: View, other: View, one_cut: int, other_cut: int) -> tuple[list[int], list[int], int]:
    """Give the positions of events that only one of two unrelated lines has, and how many both have."""
    for view, cut in ((one, one_cut), (other, other_cut)):
        if cut > ALIGNED_EVENTS_MAX:
            raise LimitError(
                f"session {view.lineage.session!r} has {cut} events where {ALIGNED_EVENTS_MAX} is the most that unrelated "
                "sessions are aligned by; compare them at earlier places"
            )
    a, b = _keys(storage, one, one_cut), _keys(storage, other, other_cut)
    pairs = align(a, b)
    of_a, of_b = {i for i, _ in pairs}, {j for _, j in pairs}
    return [i for i in range(len(a)) if i not in of_a], [j for j in range(len(b)) if j not in of_b], len(pairs)


def _keys(storage: Storage, view: View, cut: int) -> list[bytes]:
    return [alignment_key(event) for page in _pages(storage, view, 0, cut) for event in page]


def alignment_key(event: Event) -> bytes:
    """Give what two runs must have alike for their events to be the same: type, name and input, or the whole data."""
    data = event.data
    if isinstance(data, dict):
        members = _INPUTS.get(event.type)
        chosen = (
            {name: data.get(name) for name in members}
            if members
            else {name: value for name, value in data.items() if name not in _PASSING}
        )
    else:
        chosen = data
    return blake2b(_encode([event.type, chosen]), digest_size=16).digest()


def align(a: list[bytes], b: list[bytes]) -> list[tuple[int, int]]:
    """Match equal keys of two lists in order (patience: what is there once in both holds the rest). O(n log n)."""
    pairs: list[tuple[int, int]] = []
    stretches = [(0, len(a), 0, len(b), 0)]
    while stretches:
        a_low, a_high, b_low, b_high, depth = stretches.pop()
        while a_low < a_high and b_low < b_high and a[a_low] == b[b_low]:
            pairs.append((a_low, b_low))
            a_low, b_low = a_low + 1, b_low + 1
        while a_low < a_high and b_low < b_high and a[a_high - 1] == b[b_high - 1]:
            a_high, b_high = a_high - 1, b_high - 1
            pairs.append((a_high, b_high))
        anchors = _anchors(a, b, a_low, a_high, b_low, b_high) if depth < _DEPTH_MAX else []
        for i, j in anchors:
            stretches.append((a_low, i, b_low, j, depth + 1))
            pairs.append((i, j))
            a_low, b_low = i + 1, j + 1
        if anchors:
            stretches.append((a_low, a_high, b_low, b_high, depth + 1))
    return sorted(pairs)


def _anchors(a: list[bytes], b: list[bytes], a_low: int, a_high: int, b_low: int, b_high: int) -> list[tuple[int, int]]:
    """Give the longest rising run of keys that stand once in each of two stretches, or that stand as often before."""
    if a_low >= a_high or b_low >= b_high:
        return []
    once_a, once_b = _once(a, a_low, a_high), _once(b, b_low, b_high)
    shared = [(i, once_b[key]) for key, i in once_a.items() if key in once_b]
    if not shared:  # loops only: the first of each in one is taken for the first in the other, and so on
        numbered_b = {name: j for j, name in _numbered(b, b_low, b_high)}
        shared = [(i, numbered_b[name]) for i, name in _numbered(a, a_low, a_high) if name in numbered_b]
    tails: list[int] = []
    ends: list[int] = []  # index into `shared` of the best run of each length
    before: list[int] = [-1] * len(shared)
    for index, (_, j) in enumerate(shared):  # in the order of a, since dicts keep it
        place = bisect_left(tails, j)
        before[index] = ends[place - 1] if place else -1
        if place == len(tails):
            tails.append(j)
            ends.append(index)
        else:
            tails[place], ends[place] = j, index
    run: list[tuple[int, int]] = []
    index = ends[-1] if ends else -1
    while index >= 0:
        run.append(shared[index])
        index = before[index]
    return run[::-1]


def _numbered(keys: list[bytes], low: int, high: int) -> Iterator[tuple[int, tuple[bytes, int]]]:
    """Give places with the key there and how often it stood before."""
    counts: dict[bytes, int] = {}
    for place in range(low, high):
        number = counts.get(keys[place], 0)
        counts[keys[place]] = number + 1
        yield place, (keys[place], number)


def _once(keys: list[bytes], low: int, high: int) -> dict[bytes, int]:
    places: dict[bytes, int] = {}
    for place in range(low, high):
        places[keys[place]] = -1 if keys[place] in places else place
    return {key: place for key, place in places.items() if place >= 0}
