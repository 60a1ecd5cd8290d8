"""What whoever can write a store's rows, and has not its key, may try, in SQLite and in PostgreSQL: it is told, or a seal from elsewhere tells.

Each attack is made thrice: on the rows alone; with all made anew that can be without the key (hashes, trees, the ledger's records); and
with the seals that the store keeps taken away as well. The table in docs/explanation/proof.md names the same attacks.
"""

import re
from pathlib import Path

import msgspec
import pytest

import everlog
from databases import address
from everlog import NewEvent, verifier
from everlog.errors import TamperedError
from services.attacker import ATTACKERS

DOC = Path(__file__).parents[2] / "docs" / "explanation" / "proof.md"


def note(number):
    return NewEvent("note", {"content": f"n{number}"}, actor="planner")


@pytest.fixture(params=sorted(ATTACKERS))
def attacker(request, tmp_path):
    """Who attacks a sealed store, closed, of a session with two lines, forks of it, another session, and an erased event."""
    with everlog.open(address(request.param, tmp_path / "store")) as store:
        run = store.create("run", events=[note(number) for number in range(6)])
        run.rewind(3, reason="wrong path")
        run.append("decision", {"choice": "the other way"}, rationale="it is shorter")
        other = run.fork(1, id="other")
        other.extend([note(7), note(8)])
        other.erase([2], reason="asked for")
        run.fork(2, id="fork")
        store.create("third", events=[NewEvent("note", {"content": "of no interest"})])
        keys = store.keys(tmp_path / "keys")
        key = keys.new()
        store.seal(keys=keys)
        assert store.verify(keys=[key], seals=[keys.folder / "seals.txt"]).ok
    made = ATTACKERS[request.param](tmp_path)
    made.key, made.keys, made.seals = key, tmp_path / "keys", [keys.folder / "seals.txt"]
    yield made
    made.close()


def verified(attacker, **options):
    with everlog.open(attacker.url) as store:
        return store.verify(keys=[attacker.key], **options)


# --- the table -----------------------------------------------------------------------------------
def edit_a_body(rows):
    body = rows.one("SELECT body FROM event WHERE branch = ? AND position = 1", rows.branch("run"))
    changed = bytes(body).replace(b"n1", b"n9")
    rows.all("UPDATE event SET body = ? WHERE branch = ? AND position = 1", changed, rows.branch("run"))


def edit_a_header_column(rows):
    rows.all("UPDATE event SET outcome = 'error' WHERE branch = ? AND position = 1", rows.branch("run"))


def edit_an_actor(rows):
    rows.all("UPDATE event SET actor = 'boss' WHERE branch = ? AND position = 1", rows.branch("run"))


def edit_a_time(rows):
    rows.all("UPDATE event SET recorded = recorded + 1 WHERE branch = ? AND position = 5", rows.branch("run"))


def swap_two_events(rows):
    for old, new in ((1, -1), (2, 1), (-1, 2)):
        statement = "UPDATE event SET position = ? WHERE branch = ? AND position = ?"
        rows.all(statement, new, rows.branch("run"), old)


def cut_the_tail(rows):
    line = rows.branch("run", 2)
    rows.all("DELETE FROM event WHERE branch = ? AND position = 4", line)
    rows.all(f"UPDATE {rows.tips} SET size = 4 WHERE branch = ?", line)


def delete_a_session(rows):
    rows.delete("third")


def re_parent_a_fork(rows):
    rows.all("UPDATE branch SET base = ? WHERE branch = ?", rows.branch("other"), rows.branch("fork"))


def move_current_back(rows):
    rows.all("UPDATE session SET current = ? WHERE name = 'run'", rows.branch("run"))


def rename_a_session(rows):
    rows.all("UPDATE session SET name = 'innocent' WHERE name = 'third'")


def drop_a_body(rows):
    rows.all("UPDATE event SET body = NULL, salt = NULL WHERE branch = ? AND position = 1", rows.branch("run"))


def call_a_body_erased(rows):
    drop_a_body(rows)
    rows.all("UPDATE event SET gone = 1 WHERE branch = ? AND position = 1", rows.branch("run"))


ATTACKS = {
    "edit a body": edit_a_body,
    "edit a header column": edit_a_header_column,
    "edit an actor": edit_an_actor,
    "edit a time": edit_a_time,
    "swap two events": swap_two_events,
    "cut the tail": cut_the_tail,
    "delete a session": delete_a_session,
    "re-parent a fork": re_parent_a_fork,
    "move `current` back": move_current_back,
    "rename a session": rename_a_session,
    "drop a body": drop_a_body,
    "call a body erased": call_a_body_erased,
}
NEVER_WHOLE = {"drop a body", "call a body erased"}  # nothing that can be made anew makes up for what is missing
every_attack = pytest.mark.parametrize("name", ATTACKS)


@every_attack
def test_what_is_changed_in_the_rows_is_told(attacker, name):
    ATTACKS[name](attacker)
    attacker.settle()
    assert verified(attacker).faults


@every_attack
def test_with_all_made_anew_the_seals_tell(attacker, name):
    ATTACKS[name](attacker)
    attacker.make_anew()
    attacker.settle()
    report = verified(attacker)
    assert report.faults
    if name not in NEVER_WHOLE:
        assert all("the seal of" in str(fault) for fault in report.faults), "nothing else is left that would tell"


@every_attack
def test_with_the_seals_gone_too_a_seal_from_elsewhere_tells(attacker, name):
    ATTACKS[name](attacker)
    attacker.make_anew()
    attacker.unseal()
    attacker.settle()
    if name in NEVER_WHOLE:
        assert verified(attacker).faults
    else:
        check_only_seals_from_elsewhere_tell(attacker)


def check_only_seals_from_elsewhere_tell(attacker):
    """The store agrees with itself, and says what it could not check; a seal from elsewhere tells."""
    report = verified(attacker)
    assert [str(fault) for fault in report.faults] == []
    assert any("seal" in what for what in report.unchecked)
    faults = verified(attacker, seals=attacker.seals).faults
    assert any("the seal of" in str(fault) and "records" in str(fault) for fault in faults)


def test_an_old_copy_of_the_store_is_told_by_a_seal_from_elsewhere(attacker):
    kept = attacker.keep()
    with everlog.open(attacker.url) as store:
        store.session("run").append("note", {"content": "what is to be forgotten"})
        store.seal(keys=attacker.keys)
    attacker.put_back(kept)
    check_only_seals_from_elsewhere_tell(attacker)


def test_another_key_is_told_under_the_first_by_a_seal_from_elsewhere(attacker):
    """All that was sealed is sealed anew, with what was not said in it."""
    edit_a_body(attacker)
    attacker.make_anew()
    attacker.unseal()
    attacker.settle()
    with everlog.open(attacker.url) as store:
        keys = store.keys(attacker.folder / "others")
        other = keys.new()
        store.seal(keys=keys)
        assert store.verify(keys=[other]).seals == 1
    check_only_seals_from_elsewhere_tell(attacker)


def test_what_is_added_to_a_store_is_on_record_and_takes_nothing_back(attacker):
    """Who can write rows can do what every program may: erase, move `current`, append. It comes after what was sealed."""
    drop_a_body(attacker)
    call_a_body_erased(attacker)
    with everlog.open(attacker.url) as store:
        run = store.session("run")
        leaf, session = run.branch("b1")[1].hash, run.uuid
    record = {"events": [[1, leaf]], "kind": "erase", "session": session, "t": 1, "v": "everlog/1/ledger"}
    attacker.add_record(msgspec.json.encode(record), bytes.fromhex(leaf))
    attacker.settle()
    report = verified(attacker, seals=attacker.seals)
    assert (report.faults, report.erased) == ((), 2)
    assert any("no place in it yet" in what for what in report.unchecked), "it is after what was sealed"
    with everlog.open(attacker.url) as store:
        assert store.session("run").certificate([1]).records[0].record.encode() == msgspec.json.encode(record)


def test_a_summary_that_says_that_it_covers_what_it_does_not_is_told_by_the_store_and_in_bundles(attacker, tmp_path):
    """Also where its own hash, and all behind it, is made anew."""
    with everlog.open(attacker.url) as store:
        said = [NewEvent("user.message", {"content": f"{number} so it was."}) for number in range(70)]
        talk = store.create("talk", events=said)
        summary = talk.summarize(leaf_tokens=100)[-1]
    line = attacker.branch("talk")
    covers = msgspec.json.decode(
        attacker.one("SELECT covers FROM event WHERE branch = ? AND position = ?", line, summary.position)
    )
    covers[0][2] = "00" * 32
    said = msgspec.json.encode(covers).decode()
    attacker.all("UPDATE event SET covers = ? WHERE branch = ? AND position = ?", said, line, summary.position)
    attacker.make_anew()
    attacker.unseal()
    attacker.settle()
    (fault,) = verified(attacker).faults
    assert (fault.position, fault.session) == (summary.position, "talk")
    assert "what it covers" in fault.what
    path = tmp_path / "talk.everlog"
    with everlog.open(attacker.url) as store, everlog.open("memory:") as other:
        store.session("talk").export(path)
        assert any("what it covers" in fault for fault in verifier.verify_bundle(str(path)).faults)
        with pytest.raises(TamperedError, match="what it covers"):
            other.import_bundle(path)
        with pytest.raises(TamperedError, match="what it covers"):
            store.copy(other, sessions=["talk"])


def test_a_body_that_is_called_withheld_is_counted_and_it_is_said_that_nothing_records_why(attacker):
    drop_a_body(attacker)
    attacker.all("UPDATE event SET gone = 2 WHERE branch = ? AND position = 1", attacker.branch("run"))
    attacker.settle()
    report = verified(attacker, seals=attacker.seals)
    assert (report.faults, report.withheld) == ((), 1)
    assert any("1 bodies that are called withheld" in what for what in report.unchecked)


def test_the_documented_table_names_every_attack():
    table = DOC.read_text().partition("## Attacks\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)[2:]
    others = ["call a body withheld", "restore an old copy of the store", "replace the key", "add to the store"]
    assert named == [*ATTACKS, *others]
