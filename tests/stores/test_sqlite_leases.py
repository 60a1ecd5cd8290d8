"""Leases in the SQLite file: a store made before there were any, many processes, what stays when they end."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import everlog
from everlog.errors import FencedError, UnsupportedStoreError
from everlog.stores.migrate import load_migrations


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store as schema version 3 left it: without the table of leases."""
    path = tmp_path / "old.db"
    with everlog.open(path) as store:
        store.create("s", title="Title", labels={"a": "b"}).append("note", {"content": "kept"}, key="k")
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.executescript(
            "DROP TABLE lease; DROP TABLE block; DROP TABLE sharing; DROP TABLE object; DROP TABLE dictionary; "
            "DROP TABLE placed; DROP TABLE tree; DROP TABLE seal; DROP TABLE wrapping_key; DROP TABLE data_key"
        )
        raw.executescript(
            "DROP INDEX event_summary; ALTER TABLE branch DROP packed; ALTER TABLE attachment DROP digest"
        )
        raw.executescript(
            "DROP TRIGGER branch_made; DROP TRIGGER branch_grown; DROP INDEX branch_second; ALTER TABLE branch DROP second; "
            "CREATE INDEX branch_recorded ON branch (recorded)"
        )
        raw.execute("PRAGMA user_version = 3")
        found = raw.execute("SELECT name FROM sqlite_schema WHERE name LIKE 'lease%'").fetchall()
    assert found == []
    return path


def test_a_store_of_schema_version_3_takes_leases_once_it_was_opened_for_writing(old: Path) -> None:
    with pytest.raises(UnsupportedStoreError, match="open it once for writing"):
        everlog.open(old, read_only=True)
    with everlog.open(old) as store:
        session = store.session("s")
        assert store.leases() == []
        assert (session.info().title, session.info().labels, session[0].data) == (
            "Title",
            {"a": "b"},
            {"content": "kept"},
        )
        with store.wake("s", holder="worker") as woken:
            with pytest.raises(FencedError):
                session.append("agent.message", {"content": "x"})
            woken.append("agent.message", {"content": "x"})
        store.verify().raise_for_faults()
        keys = store.keys(old.parent)
        keys.new()
        store.seal(keys=keys)  # what was recorded before there were seals too
        assert (store.verify(keys=[keys.verifier]).seals, store.verify().unsealed) == (1, 0)
    with closing(sqlite3.connect(old)) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (len(load_migrations("everlog.stores.sqlite")),)
    with everlog.open(old, read_only=True) as store:
        assert store.leases() == []
        assert store.session("s").size() == 4


def test_a_lease_taken_by_one_open_store_is_known_to_another_at_once(tmp_path: Path) -> None:
    with everlog.open(tmp_path / "s.db") as one, everlog.open(tmp_path / "s.db") as other:
        here = one.create("s")
        there = other.session("s")
        for number in range(3):
            there.append("agent.message", {"content": f"free {number}"})  # so that it remembers that nobody holds it
            held = here.lease("worker", 60)
            with pytest.raises(FencedError):
                there.append("agent.message", {"content": "fenced"})
            assert [each.token for each in other.leases()] == [held.token]
            held.release()
            with there.lease("next", 60):
                with pytest.raises(FencedError):
                    here.append("agent.message", {"content": "fenced"})
                there.append("agent.message", {"content": f"held {number}"})


def test_a_deleted_session_leaves_no_row_of_its_lease(tmp_path: Path) -> None:
    with everlog.open(tmp_path / "s.db") as store:
        store.create("s").lease("a secret holder", 60)
        store.delete("s", reason="over")
        store.verify().raise_for_faults()
    with closing(sqlite3.connect(tmp_path / "s.db")) as raw:
        assert raw.execute("SELECT count(*) FROM lease").fetchone() == (0,)
    assert b"a secret holder" not in (tmp_path / "s.db").read_bytes()
