"""Snapshots: they come back byte for byte, as keyframes and deltas, and what is damaged is not there."""

import json
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlog.core.snapshot import KEYFRAME_EVERY, Notes, make_snapshot, read_snapshots


def chain_of(states):
    """Take snapshots of states, one after another; give the rows."""
    rows, kept, run = [], None, []
    for number, plain in enumerate(states, start=1):
        row = make_snapshot(
            branch=7, size=number, reducer="document", version="1", fingerprint=b"f" * 16, plain=plain,
            notes=Notes(), base=kept, taken=number,
        )  # fmt: skip
        run = [*run, row] if row.base is not None else [row]
        kept = read_snapshots(run)
        assert kept is not None
        assert kept.plain == plain
        rows.append(row)
    return rows


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=40))
def test_states_come_back_and_a_keyframe_stands_at_least_every_16(states):
    rows = chain_of(states)
    depths = [row.depth for row in rows]
    assert depths == [number % KEYFRAME_EVERY for number in range(len(rows))]
    assert all((row.base is None) == (row.depth == 0) for row in rows)


def big_states(count):
    random.seed(4)
    document = {f"key{number}": f"{random.getrandbits(200):x}" for number in range(1_500)}
    for _ in range(count):
        document[f"key{random.randrange(1_500)}"] = f"{random.getrandbits(200):x}"
        yield json.dumps(document).encode()


def test_a_delta_costs_what_changed_and_not_the_state():
    rows = chain_of(big_states(16))
    assert rows[0].stored > 40_000
    assert max(row.stored for row in rows[1:]) < 400


def test_a_large_state_is_a_delta_of_its_base_too():
    base = random.Random(1).randbytes(3_000_000)
    rows = chain_of([base, base[:1_500_000] + b"x" + base[1_500_000:]])
    assert rows[1].stored < 8_000


@pytest.mark.parametrize("change", [
    {"size": 99}, {"branch": 8}, {"content": b"junk"}, {"notes": b"{}x"}, {"plain": 5}, {"checksum": b"0" * 16},
    {"base": None}, {"depth": 0}, {"fingerprint": b"g" * 16}, {"plain": 1 << 60},
])  # fmt: skip
def test_a_row_that_was_changed_is_not_there(change):
    rows = chain_of(big_states(3))
    assert read_snapshots(rows) is not None
    assert read_snapshots([*rows[:2], msgspec.structs.replace(rows[2], **change)]) is None


def test_a_chain_with_a_hole_is_not_there():
    rows = chain_of(big_states(4))
    assert read_snapshots(rows[1:]) is None
    assert read_snapshots([rows[0], *rows[2:]]) is None
    assert read_snapshots([]) is None
