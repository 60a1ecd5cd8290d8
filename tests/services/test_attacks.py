"""What whoever can write the store's file, and has not its key, may try: checksums made anew, ledger cut, the store put back. It is told.

What is told only to those who hold a seal that was kept elsewhere is tested from both sides.
"""

import shutil

import apsw
import pytest

import everlog
from everlog import NewEvent
from everlog.stores.sqlite.damage import checksum_of
from everlog.stores.sqlite.run import QUERIES

ALL_OF_A_SESSION = (
    "DELETE FROM event WHERE branch IN (SELECT branch FROM branch WHERE session = 3)",
    "DELETE FROM branch WHERE session = 3",
    "DELETE FROM session WHERE session = 3",
)


@pytest.fixture
def attacked(tmp_path):
    """A sealed store, closed: its folder and its verifier key. A session with two lines, a fork of it, and another session."""
    with everlog.open(tmp_path / "store.db") as store:
        run = store.create("run", events=[NewEvent("note", {"content": f"n{at}"}, actor="planner") for at in range(6)])
        run.rewind(3, reason="wrong path")
        run.append("decision", {"choice": "the other way"}, rationale="it is shorter")
        run.fork(2, id="fork")
        store.create("third", events=[NewEvent("note", {"content": "of no interest"})])
        keys = store.keys(tmp_path / "keys")
        key = keys.new()
        store.seal(keys=keys)
        assert store.verify(keys=[key]).ok
    return tmp_path, key


def attack(folder, *statements):
    """Change the file, and make the checksums of sessions and branches anew, as an attacker would."""
    connection = apsw.Connection(str(folder / "store.db"))
    for statement in statements:
        connection.execute(statement)
        assert connection.changes(), statement
    for session, _, *row in connection.execute(QUERIES["read_session_sums"]).fetchall():
        given = {"session": session, "checksum": checksum_of(tuple(row))}
        connection.execute(QUERIES["set_session_checksum"], given)
    for branch, _, *row in connection.execute(QUERIES["read_branch_sums"]).fetchall():
        given = {"branch": branch, "checksum": checksum_of(tuple(row))}
        connection.execute(QUERIES["set_branch_checksum"], given)
    connection.close()


def told(folder, key, **options):
    with everlog.open(folder / "store.db") as store:
        return [str(fault) for fault in store.verify(keys=[key], **options).faults]


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(["UPDATE event SET body = replace(body, 'n1', 'n9') WHERE position = 1"], id="a body"),
        pytest.param(["UPDATE event SET actor = 'boss' WHERE position = 1"], id="an actor"),
        pytest.param(["UPDATE event SET outcome = 'ok' WHERE position = 1"], id="an outcome"),
        pytest.param(["UPDATE event SET recorded = recorded - 1 WHERE position = 1"], id="a time"),
        pytest.param(
            [
                "UPDATE event SET position = -1 WHERE branch = 1 AND position = 1",
                "UPDATE event SET position = 1 WHERE branch = 1 AND position = 2",
                "UPDATE event SET position = 2 WHERE branch = 1 AND position = -1",
            ],
            id="two events swapped",
        ),
        pytest.param(["UPDATE event SET body = NULL, salt = NULL WHERE position = 1"], id="a body dropped"),
        pytest.param(
            ["UPDATE event SET body = NULL, salt = NULL, gone = 1 WHERE position = 1"], id="a body called erased"
        ),
        pytest.param(["UPDATE session SET current = 1 WHERE session = 1"], id="current moved back"),
        pytest.param(["UPDATE branch SET base_size = 1, size = size - 1 WHERE base_size = 2"], id="a fork cut lower"),
        pytest.param(["UPDATE branch SET base = 2 WHERE base = 1 AND session = 2"], id="a fork of another branch"),
        pytest.param(["UPDATE session SET name = 'innocent' WHERE name = 'third'"], id="a name"),
        pytest.param(ALL_OF_A_SESSION, id="a session"),
    ],
)
def test_what_is_changed_in_the_store_is_told(attacked, statements):
    folder, key = attacked
    attack(folder, *statements)
    assert told(folder, key)


# --- what needs a seal that was kept elsewhere ---------------------------------------------------
def kept_elsewhere(folder):
    return list((folder / "keys").glob("*/seals.txt"))


def check_only_seals_tell(folder, key):
    """The store agrees with itself, and says what it could not check; a seal from elsewhere tells."""
    with everlog.open(folder / "store.db") as store:
        report = store.verify(keys=[key])
        assert report.ok
        assert any("seal" in what for what in report.unchecked)
    assert any("records" in fault for fault in told(folder, key, seals=kept_elsewhere(folder)))


UNSEAL = ("DELETE FROM placed", "DELETE FROM tree", "DELETE FROM seal")


def test_a_session_that_goes_with_all_that_is_on_record_of_it_is_told_by_a_seal_alone(attacked):
    folder, key = attacked
    with everlog.open(folder / "store.db") as store:
        session = store.session("third").uuid
    attack(folder, *ALL_OF_A_SESSION, f"DELETE FROM ledger WHERE instr(record, '{session}')", *UNSEAL)
    check_only_seals_tell(folder, key)


def test_an_earlier_store_in_the_place_of_a_later_one_is_told_by_a_seal_alone(attacked):
    folder, key = attacked
    shutil.copy(folder / "store.db", folder / "earlier.db")
    with everlog.open(folder / "store.db") as store:
        store.session("run").append("note", {"content": "what is to be forgotten"})
        store.seal(keys=store.keys(folder / "keys"))
    shutil.copy(folder / "earlier.db", folder / "store.db")
    check_only_seals_tell(folder, key)


def test_a_store_that_is_sealed_anew_with_another_key_is_told_under_the_first(attacked):
    folder, key = attacked
    attack(folder, *UNSEAL)
    with everlog.open(folder / "store.db") as store:
        store.session("third").append("note", {"content": "what was not said"})
        keys = store.keys(folder / "others")
        other = keys.new()
        store.seal(keys=keys)
        assert store.verify(keys=[other]).seals == 1
    check_only_seals_tell(folder, key)
