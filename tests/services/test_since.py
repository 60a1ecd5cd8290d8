"""Verification since a seal, and of the states on record: what each finds, and what it says that it did not look at."""

import json
import os

import apsw
import msgspec
import pytest

import everlog
from databases import address
from everlog import NewEvent
from everlog.core.merkle import root_of_joined
from everlog.errors import CorruptionError, InvalidPlaceError, NotFoundError
from everlog.reducers import registry


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.db"


@pytest.fixture
def sealed(path, tmp_path):
    """A store of two sessions and a fork, sealed after ten events of each, with five more of each after it: the seal and its key."""
    with everlog.open(path) as store:
        for name in ("one", "two"):
            store.create(name, events=[NewEvent("note", {"content": f"{name} {number}"}) for number in range(10)])
        store.session("one").fork(at=5, id="fork")
        keys = store.keys(tmp_path / "keys")
        key = keys.new()
        seal = store.seal(keys=keys)
        for name in ("one", "two"):
            store.session(name).extend([NewEvent("note", {"content": f"late {number}"}) for number in range(5)])
    return seal, key


def damage(path, statement, *values):
    connection = apsw.Connection(str(path))
    connection.execute(statement, values)
    assert connection.changes() > 0
    connection.close()


def faults(path, **options):
    with everlog.open(path, make=False) as store:
        return [str(fault) for fault in store.verify(**options).faults]


BODY = """
UPDATE event SET body = CAST(replace(CAST(body AS TEXT), ?, ?) AS BLOB)
WHERE CAST(body AS TEXT) LIKE '%' || ? || '%'
"""


def test_only_what_came_after_the_seal_is_read_and_that_is_said(path, sealed):
    seal, key = sealed
    with everlog.open(path) as store:
        whole = store.verify(keys=[key])
        assert whole.ok
        for since in (seal, seal.head, str(seal.head), seal.head.size, str(seal.head.size), "last", "now"):
            report = store.verify(since=since, keys=[key])
            assert report.ok
            assert report.events == 10
            assert (report.sessions, report.branches, report.unsealed) == (3, 3, 10)
            assert any(f"the seal of {seal.head.size} records" in text for text in report.unchecked)
        assert store.session("two").verify(since="last").events == 5
        assert whole.events == 31


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
def test_every_store_can_be_verified_since_a_seal_and_with_its_states(kind, tmp_path):
    with everlog.open(address(kind, tmp_path)) as store:
        session = store.create("run", events=[NewEvent("note", {"content": f"n{number}"}) for number in range(10)])
        keys = store.keys(tmp_path / "keys")
        keys.new()
        first = store.seal(keys=keys)
        session.append("state.set", {"path": "/a", "value": 1}, state="document")
        session.rewind(4)
        session.append("state.set", {"path": "/a", "value": 2}, state="document")
        second = store.seal(keys=keys)
        session.append("note", {"content": "late"})
        found = [store.verify(since=since, states=True) for since in (None, first, second)]
        assert all(report.ok for report in found)
        assert [(report.events, report.states) for report in found] == [(14, 2), (4, 2), (1, 0)]


def test_a_seal_that_is_not_there_is_refused(path, sealed):
    with everlog.open(path) as store:
        for since in (10_000, "-1d", "2020-01-01T00:00Z"):
            with pytest.raises(NotFoundError, match="keeps no seal"):
                store.verify(since=since)
        for since in ("start", "a-name", -1.5):
            with pytest.raises(InvalidPlaceError):
                store.verify(since=since)


def test_a_change_after_the_seal_is_found_and_one_before_it_only_by_verifying_all(path, sealed):
    damage(path, BODY, "late 3", "late 4", "late 3")
    assert len(faults(path, since="last")) == 2
    damage(path, BODY, "two 7", "two 8", "two 7")
    assert len(faults(path, since="last")) == 2
    assert len(faults(path)) == 3


def test_a_line_that_lost_what_was_sealed_is_found_though_its_events_are_not_read(path, sealed):
    (before,) = apsw.Connection(str(path)).execute("SELECT hex(peaks) FROM branch WHERE size = 15 LIMIT 1")
    damage(path, "UPDATE branch SET size = 9 WHERE hex(peaks) = ?", before[0])
    assert any("had 10 events, and has 9" in fault for fault in faults(path, since="last"))


def test_a_record_of_a_head_that_is_not_in_what_was_sealed_is_found(path, sealed):
    seal, _ = sealed
    other = "".join("1" if digit == "0" else "0" for digit in seal.head.root)
    with everlog.open(path) as store:
        report = store.verify(since=f"{seal.head.size}:{other}")
        assert "the ledger has" in str(report.faults[0])
        assert report.events == 31  # all was checked then
        report = store.verify(since=f"{seal.head.size + 50}:{other}")
        assert "records are gone" in str(report.faults[0])


def test_records_of_the_ledger_that_are_gone_are_a_fault_and_stop_nothing(path, sealed):
    places = [place for (place,) in apsw.Connection(str(path)).execute("SELECT place FROM placed ORDER BY place")]
    for place in reversed(places):  # at first one that a path leads over, at last all
        damage(path, "DELETE FROM placed WHERE place = ?", place)
        assert any("is gone" in each for each in faults(path, since="last"))
        with everlog.open(path) as store:
            for ask in (lambda: store.write_tiles(path.parent / "tiles"), lambda: store.session("one").prove_sealed(0)):
                with pytest.raises((CorruptionError, NotFoundError)):
                    ask()


def test_a_record_that_is_none_is_told_by_whoever_writes_tiles(path, sealed):
    damage(path, "UPDATE placed SET record = ? WHERE record IS NOT NULL", b"x" * 70_000)
    with everlog.open(path) as store, pytest.raises(CorruptionError, match="everlog verify"):
        store.write_tiles(path.parent / "tiles")


def test_a_line_written_anew_is_found_whether_its_record_is_changed_with_it_or_not(path, sealed):
    """Of the fork all is sealed, so that none of its events is read."""
    peaks = os.urandom(64)
    damage(path, "UPDATE branch SET peaks = ? WHERE size = 6", peaks)
    first, *_ = faults(path, since="last")
    assert first.startswith("fork~")
    assert "its events are others" in first
    ((place, record),) = apsw.Connection(str(path)).execute(
        "SELECT place, CAST(record AS TEXT) FROM placed WHERE branch IS NOT NULL AND size = 6"
    )
    other = msgspec.json.encode(json.loads(record) | {"root": root_of_joined(peaks).hex()})
    damage(path, "UPDATE placed SET record = ? WHERE place = ?", other, place)
    first, *_ = faults(path, since="last")
    assert "is not in what the seal is of" in first


def test_an_index_of_heads_that_claims_more_than_was_sealed_hides_nothing(path, sealed):
    damage(path, BODY, "late 3", "late 4", "late 3")
    damage(path, "UPDATE placed SET size = 15 WHERE branch IS NOT NULL AND size = 10")
    found = faults(path, since="last")
    assert len([fault for fault in found if "its body is not the one" in fault]) == 2


# --- states --------------------------------------------------------------------------------------
@pytest.fixture
def reducer():
    """A reducer of a test's own, known for as long as it runs."""

    @everlog.reducer("notes", 1, initial=0, types="note")
    def notes(state, event):
        return state + 1

    yield notes
    registry._KNOWN.pop("notes", None)


def test_every_hash_of_a_state_is_made_again_and_compared(path, reducer):
    with everlog.open(path) as store:
        session = store.create("run")
        session.append("state.set", {"path": "/a", "value": 1}, state="document")
        session.append("note", {"content": "x"}, state=reducer)
        session.checkpoint("here", states=["document", reducer])
        fork = session.fork(at=2, id="fork")
        fork.append("state.set", {"path": "/a", "value": 2}, state="document")
        report = store.verify(states=True)
        assert report.ok
        assert report.states == 5
        assert store.verify().states == 0
        assert store.session("run").verify(states=True).states == 4


def test_a_reducer_that_gives_another_state_is_told_with_the_events(path, reducer):
    with everlog.open(path) as store:
        session = store.create("run")
        session.append("note", {"content": "x"}, state=reducer)
        session.append("note", {"content": "y"}, state=reducer)

        @everlog.reducer("notes", 1, initial=0, types="note")
        def changed(state, event):
            return state + (2 if event.position else 1)

        report = store.verify(states=True)
        assert [fault.position for fault in report.faults] == [1]
        assert "the state of 'notes' version 1" in str(report.faults[0])

        @everlog.reducer("notes", 1, initial=0, types="note")
        def raising(state, event):
            raise RuntimeError("no")

        report = store.verify(states=True)
        assert [fault.position for fault in report.faults] == [0]
        assert "no state of 'notes' can be made" in str(report.faults[0])


def test_a_reducer_whose_code_is_missing_or_of_another_version_is_named(path, reducer):
    with everlog.open(path) as store:
        store.create("run").append("note", {"content": "x"}, state=reducer)

        @everlog.reducer("notes", 2, initial=0, types="note")
        def newer(state, event):
            return state

        for _ in range(2):
            report = store.verify(states=True)
            assert report.ok
            assert report.states == 0
            assert any("1 hashes of states by reducer notes version 1" in text for text in report.unchecked)
            registry._KNOWN.pop("notes", None)


def test_hashes_past_an_erased_event_are_counted_as_not_compared(path):
    with everlog.open(path) as store:
        session = store.create("run")
        for number in range(4):
            session.append("state.set", {"path": "/a", "value": number}, state="document")
        session.erase([1], reason="asked for")
        report = store.verify(states=True)
        assert report.ok
        assert report.states == 1
        assert any(text.startswith("2 hashes of states past events") for text in report.unchecked)
