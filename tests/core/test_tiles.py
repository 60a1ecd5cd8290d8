"""Tiles: their paths, and what stands in them, as C2SP tlog-tiles has it."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlog.core.tiles import (
    Tile,
    decode_records,
    decode_tile,
    encode_records,
    parse_tile,
    tiles_of,
)


def test_paths_are_those_of_the_specification():
    assert str(Tile(0, 1_234_067, 256)) == "tile/0/x001/x234/067"
    assert str(Tile(2, 0, 1)) == "tile/2/000.p/1"
    assert str(Tile(None, 1_000, 112)) == "tile/entries/x001/000.p/112"
    for path in ("tile/0/x001/x234/067", "tile/63/000.p/255", "tile/entries/999", "tile/entries/x001/000.p/1"):
        assert str(parse_tile(path)) == path


@pytest.mark.parametrize(
    "path",
    [
        *("", "tile/0/0", "tile/0/x000/001", "tile/00/000", "tile/64/000", "tile/0/000.p/0", "tile/0/000.p/256"),
        *(
            "tile/0/000.p/01",
            "tile/0/001/000",
            "tile/0/../000",
            "tile/0/000/",
            "tile/entries/-01",
            "tile/0/\u0661\u0662\u0663",
        ),
    ],
)
def test_what_is_not_the_path_of_a_tile_is_refused(path):
    with pytest.raises(ValueError):
        parse_tile(path)


def test_a_tree_has_the_tiles_that_the_specification_counts():
    tiles = list(tiles_of(70_000))
    for level in (0, None):
        assert [tile.width for tile in tiles if tile.level == level] == [256] * 273 + [112]
    assert [tile.width for tile in tiles if tile.level == 1] == [256, 17]
    assert [tile.width for tile in tiles if tile.level == 2] == [1]
    assert max(tile.level or 0 for tile in tiles) == 2
    assert [str(tile) for tile in tiles_of(256)] == ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]
    assert list(tiles_of(0)) == []


def test_records_and_hashes_come_back_and_nothing_else_is_taken():
    records = [b"", b"one", b"x" * 65_535]
    content = encode_records(records)
    assert decode_records(content, 3) == records
    for width, changed in ((2, content), (4, content), (3, content[:-1]), (3, content + b"\x00"), (3, b"")):
        with pytest.raises(ValueError):
            decode_records(changed, width)
    with pytest.raises(ValueError):
        encode_records([b"x" * 65_536])
    assert decode_tile(b"a" * 64, 2) == [b"a" * 32] * 2
    for width in (1, 3):
        with pytest.raises(ValueError):
            decode_tile(b"a" * 64, width)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(1, 256), st.text(max_size=30))
def test_whatever_comes_in_is_refused_or_given_back(content, width, text):
    with suppress(ValueError):
        assert encode_records(decode_records(content, width)) == content
    with suppress(ValueError):
        assert b"".join(decode_tile(content, width)) == content
    for path in (text, f"tile/0/{text}", f"tile/entries/{text}"):
        with suppress(ValueError):
            assert str(parse_tile(path)) == path
