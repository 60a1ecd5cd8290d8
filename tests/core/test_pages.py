"""What is said of SQLite's pages is what SQLite does."""

import random

import apsw
import pytest

from everlog.core.pages import fill_leaves, filled, in_leaf, odd_bytes

CHANCE = random.Random(20261201)
SIZES = [900, 8_065, 8_066, 8_067, 8_078, 9_110, 9_111, 9_112, 16_300, 17_298, 17_299, 30_000]
SIZES += [CHANCE.randrange(40_000) for _ in range(60)]


def pages_of(sizes):
    """Insert rows of a block's columns; give what SQLite has used: leaves, overflow pages, and the bytes that stay empty."""
    connection = apsw.Connection(":memory:")
    connection.execute(
        "PRAGMA page_size = 8192; CREATE TABLE block (block INTEGER PRIMARY KEY, rest BLOB, content BLOB)"
    )
    rows = [
        (bytes(80 - (6 if size < 8_186 else 7)), bytes(size)) for size in sizes
    ]  # 6 or 7 bytes say how long each is
    connection.executemany("INSERT INTO block (rest, content) VALUES (?, ?)", rows)
    used = "SELECT pagetype, count(*), sum(unused) FROM dbstat WHERE name = 'block' GROUP BY 1"
    found = {kind: (count, unused) for kind, count, unused in connection.execute(used)}
    connection.close()
    return found["leaf"][0], found.get("overflow", (0, 0))[0], sum(unused for _, unused in found.values())


@pytest.mark.parametrize("size", SIZES)
def test_a_leaf_holds_as_many_rows_as_is_said(size):
    rows = 8_184 // in_leaf(size)
    assert pages_of([size] * rows)[0] == 1
    assert pages_of([size] * (rows + 1))[0] == 2


@pytest.mark.parametrize("size", [size for size in SIZES if size > 9_200])
def test_what_is_filled_takes_an_eighth_of_a_leaf_and_whole_pages(size):
    best = filled(size)
    assert size - 8_188 < best <= size
    assert in_leaf(best) == odd_bytes(best) == 1_014
    _, overflow, empty = pages_of([best] * 8)
    assert overflow == 8 * (best // 8_188)
    assert empty < 200


def test_a_block_that_no_page_is_filled_by_is_said():
    assert [filled(size) for size in (0, 1, 5_000, 8_188, 9_110)] == [0] * 5
    assert filled(9_111) == 9_111


def test_bytes_at_the_end_of_an_overflow_page_are_odd_too():
    assert in_leaf(filled(20_000) - 500) == in_leaf(filled(20_000))
    assert odd_bytes(filled(20_000) - 500) == odd_bytes(filled(20_000)) + 500


def test_blocks_in_the_order_that_fills_leaves_take_fewer_of_them():
    ordered = fill_leaves(SIZES)
    assert sorted(ordered) == list(range(len(SIZES)))
    least = sum(map(in_leaf, SIZES)) / 8_184
    assert pages_of(SIZES)[0] > 1.2 * least
    assert pages_of([SIZES[place] for place in ordered])[0] < 1.1 * least
    assert fill_leaves([]) == []
