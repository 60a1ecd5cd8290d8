"""The ledger as tiles: written from a store, checked without it."""

import pytest

import everlog
from everlog import NewEvent
from everlog.core.tiles import RECORD_BYTES_MAX, parse_tile
from everlog.errors import EverlogError, InvalidEventError, NotFoundError, TamperedError
from everlog.tiles import check_tiles


@pytest.fixture
def store():
    with everlog.open("memory:") as opened:
        yield opened


@pytest.fixture
def keys(store, tmp_path):
    made = store.keys(tmp_path / "keys")
    made.new()
    return made


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_ledger_is_written_as_tiles_and_checked_without_the_store(store, keys, tmp_path):
    folder = tmp_path / "served"
    with pytest.raises(NotFoundError, match="no seal yet"):
        store.write_tiles(folder)
    session = store.create("run", events=[NewEvent("note", {"content": "x"})])
    store.seal(keys=keys)
    written = store.write_tiles(folder)
    assert (written.size, written.files) == (3, 2)
    assert files(folder) == ["checkpoint", "tile/0/000.p/3", "tile/entries/000.p/3"]
    assert check_tiles(folder, [keys.verifier]).head == store.seals()[0].head
    for number in range(400):
        session.update(title=f"title {number}")
    store.seal(keys=keys)
    assert store.write_tiles(folder).files == 5
    assert store.write_tiles(folder).files == 0
    assert check_tiles(folder, [keys.verifier]).head.size == 404
    assert {str(parse_tile(path)) for path in files(folder) if path != "checkpoint"} == set(files(folder)) - {
        "checkpoint"
    }


def test_a_copy_that_was_changed_or_is_not_whole_is_told(store, keys, tmp_path):
    folder = tmp_path / "served"
    for number in range(300):
        store.create(f"s{number}")
    store.seal(keys=keys)
    store.write_tiles(folder)
    for name in files(folder):
        path = folder / name
        content = path.read_bytes()
        for at in {0, len(content) // 2, len(content) - 1}:
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            with pytest.raises(TamperedError):
                check_tiles(folder, [keys.verifier])
        path.unlink()
        with pytest.raises(NotFoundError):
            check_tiles(folder, [keys.verifier])
        path.write_bytes(content)
    assert check_tiles(folder, [keys.verifier]).head.size == 301
    for pinned in ([], ["x"], [keys.verifier, keys.verifier.replace("everlog", "other")]):
        with pytest.raises((InvalidEventError, EverlogError)):
            check_tiles(folder, pinned)


def test_the_largest_records_fit_into_tiles(store, keys, tmp_path):
    session = store.create("run", events=[NewEvent("note", {"content": "x"})] * 1_500)
    session.erase(list(range(1_500)), reason="all of it")
    store.seal(keys=keys)
    records = [entry.record for entry in store.storage.ledger(0, 100)]
    assert max(map(len, records)) < RECORD_BYTES_MAX - 700 * 16  # positions may have 16 digits
    assert store.write_tiles(tmp_path / "served").size == store.seals()[0].head.size
