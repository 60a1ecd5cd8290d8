"""Bytes that changed in blocks, in what is kept once, in dictionaries and in objects: named exactly, and the rest goes on."""

import os
from pathlib import Path

import apsw
import pytest

from everlog import NewEvent
from everlog.errors import CorruptionError
from everlog.stores.sqlite.examine import examine
from services.cold import large, note, open_cold, told


@pytest.fixture
def path(tmp_path, clock):
    """A closed store, packed: `s` in three blocks, `other` in one, one attachment that both hold."""
    attached = os.urandom(20_000)
    with open_cold("sqlite", tmp_path, clock) as store:
        session = store.create("s", events=[large(number, key=f"k{number}") for number in range(150)])
        session.append("agent.message", {"content": "see"}, attachments={"a": attached})
        other = store.create("other", events=[NewEvent("note", {"content": f"other {n}"}) for n in range(10)])
        other.append("agent.message", {"content": "see"}, attachments={"a": attached})
        clock.advance(seconds=1)
        store.compact(older_than=0)
    return tmp_path / "store.db"


def change(path, sql, *given):
    connection = apsw.Connection(str(path))
    connection.execute(sql, given)
    connection.close()


def flip(content):
    """The same bytes, but for one in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


def flip_row(path, table, column, where, *given):
    """Change a byte of the content of one row."""
    connection = apsw.Connection(str(path))
    ((content,),) = connection.execute(f"SELECT {column} FROM {table} WHERE {where} LIMIT 1", given).fetchall()
    connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (flip(content), *given))
    connection.close()


def faults_of(store):
    """What verify finds, by session: positions."""
    report = store.verify()
    assert not report.ok
    found = {}
    for fault in report.faults:
        found.setdefault(fault.session, []).append(fault.position)
    return found, report


def bodies_check(path):
    (check,) = [each for each in examine(path) if each.what == "bodies"]
    return check


def test_a_damaged_block_is_named_and_the_rest_goes_on(path, tmp_path, clock):
    assert bodies_check(path).verdict == "good"
    flip_row(path, "block", "content", "start = 64 AND branch = 1")
    with open_cold("sqlite", tmp_path, clock) as store:
        found, report = faults_of(store)
        assert found == {"s": list(range(64, 128))}
        assert report.events == 162, "all were looked at"
        assert "the bodies of positions 64 to 127 is damaged" in str(report.faults[0])
        session = store.session("s")
        with pytest.raises(CorruptionError, match="positions 64 to 127.*restore a backup"):
            session[70]
        with pytest.raises(CorruptionError):
            session.append(large(70).type, large(70).data, key="k70")
        with pytest.raises(CorruptionError):
            session.erase([70], reason="asked for")
        assert [event.data["n"] for event in session.slice(0, 64)] == list(range(64))
        assert [event.data["n"] for event in session.slice(128, 150)] == list(range(128, 150))
        assert session.append("note", {"content": "later"}).position == 151
        assert store.session("other").verify().ok
        assert session.erase([5], reason="in another block").positions == (5,)
        assert {fault.position for fault in session.verify().faults} == set(range(64, 128))
        clock.advance(seconds=1)
        store.compact(older_than=0)
        assert session.append("note", {"content": "and later"}).position == 152
    check = bodies_check(path)
    assert check.verdict == "bad"
    assert "positions 64 to 127 of 's'" in check.found


@pytest.mark.parametrize(
    "damage",
    ["salt = substr(salt, 1, 31)", "salt = 7", "commitments = NULL", "body = CAST(body || ' ' AS BLOB)"],
)
def test_a_damaged_event_stays_in_its_row_and_spoils_none_beside_it(tmp_path, clock, damage):
    with open_cold("sqlite", tmp_path, clock) as store:
        store.create("s", events=[note(number) for number in range(100)])
        clock.advance(seconds=1)
        before = told(store)
    change(tmp_path / "store.db", f"UPDATE event SET {damage} WHERE position = 6")
    with open_cold("sqlite", tmp_path, clock) as store:
        found, _ = faults_of(store)
        assert found == {"s": [6]}
        assert store.compact(older_than=0).bodies == 99
        assert faults_of(store)[0] == found
        changed = told(store)["feed"]
        assert [*changed[:6], *changed[7:]] == [*before["feed"][:6], *before["feed"][7:]]
        store.session("s").erase([6], reason="damaged")
        assert store.verify().ok or "commitments" in damage


def test_an_audit_counts_what_it_cannot_read_and_goes_on_behind_it(path, tmp_path, clock):
    flip_row(path, "block", "content", "start = 64 AND branch = 1")
    with open_cold("sqlite", tmp_path, clock) as store:
        audit = store.session("s").audit(verify=True)
        assert (audit.events, audit.unreadable) == (151, 64)
        assert audit.outcomes == {"none": 151 - 64}
        assert not audit.verification.ok
        assert any("64; `everlog verify` names them" in text for text in audit.untold)


def test_a_refused_erasure_in_a_damaged_block_changes_nothing(path, tmp_path, clock):
    """An event with attachments keeps its commitments in its row, so its body need not be read to make them."""
    flip_row(path, "block", "content", "start = 128 AND branch = 1")
    with open_cold("sqlite", tmp_path, clock) as store:
        session = store.session("s")
        with pytest.raises(CorruptionError):
            session.erase([3, 150], reason="asked for")
        assert not session[3].erased
        assert {fault.position for fault in session.verify().faults} == set(range(128, 151))
        assert store.session("other").event(10).attachment("a")
        assert session.verify().erased == 0


def test_what_is_kept_once_is_named_for_each_who_holds_it(path, tmp_path, clock):
    flip_row(path, "block", "content", "digest IS NOT NULL")
    with open_cold("sqlite", tmp_path, clock) as store:
        found, report = faults_of(store)
        assert found == {"s": [150], "other": [10]}
        assert "kept once" in str(report.faults[0])
        with pytest.raises(CorruptionError, match="kept once"):
            store.session("s").event(150).attachment("a")
        assert store.session("s").event(150).data == {"content": "see"}
    check = bodies_check(path)
    assert "what is kept once for 's'@150, 'other'@10" in check.found


def test_what_is_kept_once_is_mended_by_who_brings_it_again(path, tmp_path, clock):
    with open_cold("sqlite", tmp_path, clock) as store:
        attached = store.session("s").event(150).attachment("a")
    flip_row(path, "block", "content", "digest IS NOT NULL")
    with open_cold("sqlite", tmp_path, clock) as store:
        store.session("other").append("agent.message", {"content": "again"}, attachments={"b": attached})
        clock.advance(seconds=1)
        store.compact(older_than=0)
        assert store.session("other").event(11).attachment("b") == attached
        assert store.session("s").event(150).attachment("a") == attached
        store.verify().raise_for_faults()


def test_a_damaged_dictionary_is_named_and_no_body_is_wrong(path, tmp_path, clock):
    with open_cold("sqlite", tmp_path, clock) as store:
        names = [f"member_{number}_of_a_form" for number in range(30)]
        rich = [NewEvent("my.rich", {name: n * len(name) for name in names}) for n in range(200)]
        for number, new in enumerate(rich):
            store.create(f"rich-{number}", events=[new])
        clock.advance(seconds=1)
        store.compact(older_than=0)
        before = told(store)
    flip_row(path, "dictionary", "content", "true")
    assert "the dictionary" in bodies_check(path).found
    with open_cold("sqlite", tmp_path, clock) as store:
        found, report = faults_of(store)
        assert "" in found, "the store's own"
        assert any("the dictionary" in str(fault) and not fault.session for fault in report.faults)
        wrong = []
        for name in ("s", "other", "rich-10", "rich-199"):
            session = store.session(name)
            for position in range(session.size()):
                try:
                    event = session[position]
                except CorruptionError as error:
                    assert "dictionary" in error.message
                else:
                    of_before = next(each for key, each in before.items() if key[0] == name and len(key) == 2)[2]
                    wrong += [] if event.raw == of_before[position][1] else [position]
        assert wrong == []
        damaged = {name for name in found if name}
        assert len(damaged) > 100 and all(name.startswith("rich-") and found[name] == [0] for name in damaged)
        for number, new in enumerate(rich):
            store.create(f"again-{number}", events=[new])
        clock.advance(seconds=1)
        store.compact(older_than=0)
        assert store.session("again-190")[0].data == rich[190].data
        assert store.session("rich-190")[0].data == rich[190].data, (
            "the same dictionary was made again, and put in its place"
        )
        store.verify().raise_for_faults()
    assert bodies_check(path).verdict == "good"


@pytest.mark.parametrize("how", ["a byte", "cut", "gone", "another"])
def test_a_damaged_object_is_named_and_what_can_be_read_of_it_is(path, tmp_path, clock, how):
    with open_cold("sqlite", tmp_path, clock) as store:
        store.archive(tmp_path / "archive", older_than=0)
    (file,) = (tmp_path / "archive").rglob("*.blocks")
    whole = file.read_bytes()
    connection = apsw.Connection(str(path))
    ((place, size),) = connection.execute("SELECT place, size FROM block WHERE branch = 1 AND start = 64").fetchall()
    connection.close()
    match how:
        case "a byte":
            file.write_bytes(whole[:place] + flip(whole[place : place + size]) + whole[place + size :])
        case "cut":
            file.write_bytes(whole[:-1])
        case "gone":
            file.unlink()
        case _:
            file.write_bytes(bytes(len(whole)))
    assert bodies_check(path).verdict == "good" and str(1) in bodies_check(path).found
    with open_cold("sqlite", tmp_path, clock) as store:
        found, report = faults_of(store)
        expected = list(range(64, 128)) if how == "a byte" else list(range(151))
        assert found["s"] == expected
        assert report.events == 162
        assert ("other" in found) == (how != "a byte")
        with pytest.raises(CorruptionError, match="nothing was changed"):
            store.session("s")[70]
        with pytest.raises(CorruptionError, match=r"is not (at|what was written)"):
            store.restore()
        if how == "a byte":
            assert store.session("s")[5].data == large(5).data
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(whole)
        if how == "a byte":
            store.restore()
    with open_cold("sqlite", tmp_path, clock) as store:
        store.verify().raise_for_faults()
        store.restore()
        store.verify().raise_for_faults()
    assert list((tmp_path / "archive").rglob("*.blocks")) == []


def test_who_keeps_an_error_holds_nothing_up(path, tmp_path, clock):
    """An error holds the frames that it passed, and in them statements that are not at their end."""
    batch = [note(number) for number in range(5)]
    with open_cold("sqlite", tmp_path, clock) as store:
        store.create("batch").extend(batch, key="batch")
        clock.advance(seconds=1)
        store.compact(older_than=0)
    for where in ("start = 64 AND branch = 1", "branch = 3"):
        flip_row(path, "block", "content", where)
    with open_cold("sqlite", tmp_path, clock) as store, open_cold("sqlite", tmp_path, clock) as beside:
        session = store.session("s")
        kept = []
        acts = [
            lambda: session[70],
            lambda: session.slice(0, 150),
            lambda: session.append(large(70).type, large(70).data, key="k70"),
            lambda: store.session("batch").extend(batch, key="batch"),
            lambda: list(store.feed(None)),
            lambda: store.find("k70"),
            lambda: session.erase([70], reason="asked for"),
        ]
        for number, act in enumerate(acts):
            with pytest.raises(CorruptionError) as error:
                act()
            kept.append(error.value)
            beside.session("other").append("note", {"content": f"beside {number}"})
            assert store.session("other").event(-1).data == {"content": f"beside {number}"}
            session.append("note", {"content": f"here {number}"})


@pytest.mark.parametrize(
    "change_to", ["plain = -5", "plain = plain + 1", "start = start + 1", "dictionary = zeroblob(16)", "content = NULL"]
)
def test_a_changed_row_of_a_block_is_told(path, tmp_path, clock, change_to):
    change(path, f"UPDATE block SET {change_to} WHERE branch = 1 AND start = 64")
    with open_cold("sqlite", tmp_path, clock) as store:
        found, _ = faults_of(store)
        assert set(found) == {"s"} and 64 in found["s"] and set(found["s"]) <= set(range(64, 128))
        assert Path(path).exists()
