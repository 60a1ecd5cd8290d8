"""Lineages, held against the naive model: a branch is the list of (branch, position) rows that it consists of."""

from __future__ import annotations

from random import Random

import pytest

from everlog.core.lineage import OPEN, Lineage, Segment, common_ancestor, flatten

Row = tuple[int, int]  # the branch that owns the event, its position


class Model:
    """A forest of branches as lists of rows, and the chain that a store would keep for each."""

    def __init__(self) -> None:
        self.rows: list[list[Row]] = []
        self.bases: list[tuple[int | None, int]] = []

    def grow(self, branch: int, count: int) -> None:
        for _ in range(count):
            self.rows[branch].append((branch, len(self.rows[branch])))

    def fork(self, parent: int, at: int) -> int:
        branch = len(self.rows)
        self.rows.append(self.rows[parent][:at])
        # base is the branch that owns the event at base_size - 1, as in schema.sql
        self.bases.append((self.rows[parent][at - 1][0] if at else None, at))
        return branch

    def fork_keeping_parent(self, parent: int, at: int) -> int:
        """A store might also name the parent itself, which then contributes nothing or less than it has."""
        branch = len(self.rows)
        self.rows.append(self.rows[parent][:at])
        self.bases.append((parent, at))
        return branch

    def lineage(self, branch: int) -> Lineage:
        chain: list[tuple[int, str, int]] = []
        at: int | None = branch
        while at is not None:
            base, base_size = self.bases[at]
            chain.append((at, f"w{at}", base_size))
            at = base
        return Lineage(branch, f"id{branch}", "s", flatten(chain))


def grown(seed: int, *, branches: int) -> Model:
    random, model = Random(seed), Model()
    model.rows.append([])
    model.bases.append((None, 0))
    model.grow(0, random.randrange(6))
    for _ in range(branches):
        parent = random.randrange(len(model.rows))
        make = random.choice([model.fork, model.fork_keeping_parent])
        at = random.choice([0, len(model.rows[parent]), random.randint(0, len(model.rows[parent]))])
        branch = make(parent, at)
        model.grow(branch, random.choice([0, 0, 1, 2, 7]))
        model.grow(random.randrange(len(model.rows)), random.randrange(3))
    return model


MODELS = [grown(seed, branches=12) for seed in range(60)]


def rows_of(segments: list[Segment]) -> list[Row]:
    return [(segment.branch, position) for segment in segments for position in range(segment.start, segment.stop)]


def test_segments_run_from_the_start_without_gaps_and_end_with_the_branch_itself_open() -> None:
    for model in MODELS:
        for branch in range(len(model.rows)):
            lineage = model.lineage(branch)
            segments = lineage.segments
            assert segments[0].start == 0
            assert segments[-1].branch == branch
            assert segments[-1].stop == OPEN
            assert all(one.stop == other.start for one, other in zip(segments, segments[1:], strict=False))
            assert all(one.start < one.stop for one in segments)
            assert all(segment.writer == f"w{segment.branch}" for segment in segments)
            assert list(lineage.writers()) == [(one.writer, one.start, one.stop) for one in segments]


def test_clipping_gives_exactly_the_rows_of_a_naive_slice() -> None:
    for model in MODELS:
        for branch, rows in enumerate(model.rows):
            lineage = model.lineage(branch)
            for start in range(len(rows) + 1):
                for stop in range(start, len(rows) + 1):
                    clipped = lineage.clip(start, stop)
                    assert rows_of(clipped) == rows[start:stop]
                    assert all(one.start < one.stop for one in clipped)
            assert lineage.clip(3, 2) == []


def test_the_owner_of_a_position_is_the_branch_that_wrote_it() -> None:
    for model in MODELS:
        for branch, rows in enumerate(model.rows):
            lineage = model.lineage(branch)
            assert [lineage.owner(position).branch for position in range(len(rows))] == [owner for owner, _ in rows]
            assert lineage.owner(len(rows) + 1_000).branch == branch


def test_two_lineages_share_what_two_naive_lists_share() -> None:
    for model in MODELS:
        random = Random(3)
        for one, mine in enumerate(model.rows):
            for other, theirs in enumerate(model.rows):
                sizes = [(len(mine), len(theirs)), (random.randint(0, len(mine)), random.randint(0, len(theirs)))]
                for one_size, other_size in sizes:
                    shared = 0
                    for left, right in zip(mine[:one_size], theirs[:other_size], strict=False):
                        if left != right:
                            break
                        shared += 1
                    found = common_ancestor(
                        model.lineage(one), model.lineage(other), one_size=one_size, other_size=other_size
                    )
                    assert found == shared


def test_a_lineage_stays_true_while_the_branches_below_it_grow() -> None:
    model = Model()
    model.rows.append([])
    model.bases.append((None, 0))
    model.grow(0, 5)
    fork = model.fork(0, 3)
    model.grow(fork, 2)
    before = model.lineage(fork)
    model.grow(0, 10)
    assert model.lineage(fork) == before
    assert rows_of(before.clip(0, 5)) == [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4)]


def test_branches_that_contribute_nothing_are_left_out() -> None:
    assert flatten([(3, "w3", 4), (2, "w2", 4), (1, "w1", 0)]) == (Segment(1, "w1", 0, 4), Segment(3, "w3", 4, OPEN))
    assert flatten([(2, "w2", 0), (1, "w1", 0)]) == (Segment(2, "w2", 0, OPEN),)
    assert flatten([(1, "w1", 0)]) == (Segment(1, "w1", 0, OPEN),)


@pytest.mark.parametrize("depth", [1_000])
def test_a_thousand_branches_deep_is_read_by_bisection(depth: int) -> None:
    lineage = Lineage(depth, "id", "s", flatten([(at, f"w{at}", at) for at in range(depth, -1, -1)]))
    assert len(lineage.segments) == depth + 1
    assert [lineage.owner(position).branch for position in range(0, depth, 97)] == list(range(0, depth, 97))
    assert [one.branch for one in lineage.clip(500, 503)] == [500, 501, 502]
