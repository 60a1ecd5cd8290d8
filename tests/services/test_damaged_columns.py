"""A column of an event that holds a value of another SQL type: told by name to whom it comes to it, and no other event is in its way."""

import shutil
from contextlib import suppress

import apsw
import pytest

import everlog
from everlog import NewEvent
from everlog.errors import CorruptionError, EverlogError
from everlog.wrapping import write_wrapping_key

AT = 5  # the damaged event, in the middle of the lowest 64
EVENTS = 70
OF_TYPE = {
    "position": (int,),
    "type": (str,),
    "actor": (str, None),
    "outcome": (str, None),
    "recorded": (int,),
    "occurred": (int, None),
    "cause": (bytes, None),
    "key": (str, None),
    "key_count": (int, None),
    "key_hash": (bytes, None),
    "covers": (str, None),
    "gone": (int, None),
    "attached": (str, None),
    "commitments": (bytes, None),
    "leaf": (bytes,),
    "nodes": (bytes,),
    "salt": (bytes, None),
    "body": (bytes, None),
}
SEEN = {
    *(
        "position",
        "type",
        "actor",
        "outcome",
        "recorded",
        "occurred",
        "cause",
        "key",
        "gone",
        "attached",
        "leaf",
        "body",
    )
}
TEXTS = {"type", "actor", "outcome", "key", "covers", "attached"}  # SQLite makes texts of numbers in these
VALUES = {"text": "text", "number": 12, "bytes": b"\x00\xff", "fraction": 1.5, "null": None}


def is_sound(column, value):
    """Tell whether a value is of a type that the column may hold."""
    if value is None:
        return None in OF_TYPE[column]
    kind = str if column in TEXTS and type(value) in (int, float) else type(value)
    return kind in OF_TYPE[column]


def can_stand(column, value):
    return not (value is None and column in ("position", "leaf", "nodes")) and (column, value) != ("position", 12)


DAMAGES = [
    pytest.param(column, value, id=f"{column}-{name}")
    for column in OF_TYPE
    for name, value in VALUES.items()
    if can_stand(column, value)
]
WRONG = [each for each in DAMAGES if not is_sound(*each.values)]
VERBS = {
    "read": lambda store, _: [(e.data, e.hash, e.recorded_at, e.caused_by, e.to_dict()) for e in store.session("s")],
    "backwards": lambda store, _: store.session("s")[-60:],
    "where": lambda store, _: list(store.session("s").events(types="note")),
    "key": lambda store, _: list(store.session("s").events(keys=f"k{AT}")),
    "messages": lambda store, _: store.session("s").state("messages"),
    "context": lambda store, _: store.session("s").context(budget=10_000),
    "search": lambda store, _: store.search("word"),
    "feed": lambda store, _: list(store.feed()),
    "find": lambda store, _: store.find(f"key:k{AT}"),
    "audit": lambda store, _: store.session("s").audit(),
    "export": lambda store, folder: store.session("s").export(folder / "s.tar"),
    "copy": lambda store, folder: _copy(store, folder),
    "prove": lambda store, _: store.session("s").prove(AT),
    "compact": lambda store, _: store.compact(older_than=0),
    "append": lambda store, _: store.session("s").append("note", {"content": "later"}),
    "again": lambda store, _: store.session("s").append("note", {"content": f"word {AT}"}, key=f"k{AT}"),
    "fork": lambda store, _: store.session("s").fork(AT + 3),
    "rewind": lambda store, _: store.session("s").rewind(AT + 1),
    "wake": lambda store, _: store.wake("s", holder="me").__enter__(),
    "erase": lambda store, _: store.session("s").erase([AT], reason="asked for"),
    "verify": lambda store, _: store.verify(),
    "delete": lambda store, _: store.delete("s", reason="asked for"),
}


def _copy(store, folder):
    with everlog.open(folder / "copy.db") as target:
        store.copy(target)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "store.db"
    with everlog.open(path) as store:
        events = [NewEvent("note", {"content": f"word {number}"}, key=f"k{number}") for number in range(EVENTS)]
        store.create("s").extend(events)
        store.create(
            "other", events=[NewEvent("note", {"content": f"word of another {number}"}) for number in range(3)]
        )
    return path


@pytest.fixture
def path(whole, tmp_path):
    shutil.copy(whole, tmp_path / "store.db")
    return tmp_path / "store.db"


def damage(path, column, value, table="event", where=f"branch = 1 AND position = {AT}"):
    connection = apsw.Connection(str(path))
    connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (value,))
    assert connection.changes() >= 1
    connection.close()


@pytest.mark.parametrize(("column", "value"), DAMAGES)
def test_no_verb_fails_with_another_error_than_ours(whole, tmp_path, column, value):
    for name, verb in VERBS.items():
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(whole, folder / "store.db")
        damage(folder / "store.db", column, value)
        with everlog.open(folder / "store.db") as store:
            try:
                verb(store, folder)
            except EverlogError as error:
                assert error.code in ("corruption", "not_found", "tampered", "key_reused"), (name, error)
            assert [event.data["content"][:4] for event in store.session("other")] == ["word"] * 3


@pytest.mark.parametrize(("column", "value"), [each for each in WRONG if each.values[0] in SEEN - {"position"}])
def test_reading_names_the_damaged_event_when_it_comes_to_it(path, column, value):
    damage(path, column, value)
    with everlog.open(path) as store:
        session = store.session("s")
        events = iter(session)
        assert [next(events).position for _ in range(AT)] == list(range(AT))
        with pytest.raises(CorruptionError, match=rf"'s'@{AT} is damaged: its {column} .*see what verify says"):
            next(events)
        assert [event.position for event in session[AT + 1 :]] == list(range(AT + 1, EVENTS))
        assert session[-1].position == EVENTS - 1
        assert [event.position for event in session.events(reverse=True, limit=EVENTS - AT - 1)][-1] == AT + 1
        with pytest.raises(CorruptionError, match=f"@{AT} is damaged"):
            list(session.events(reverse=True))
        assert [event.data["content"] for event in store.session("other")][2] == "word of another 2"
        assert any(fault.position == AT for fault in store.verify().faults)


@pytest.mark.parametrize(("column", "value"), [each for each in WRONG if each.values[0] not in ("position", "nodes")])
def test_an_export_names_the_damaged_event(path, tmp_path, column, value):
    damage(path, column, value)
    with everlog.open(path) as store:
        with pytest.raises(CorruptionError, match=f"'s'@{AT} is damaged"):
            store.session("s").export(tmp_path / "s.tar")
        with pytest.raises(CorruptionError, match=f"'s'@{AT} is damaged"):
            _copy(store, tmp_path)
        store.session("other").export(tmp_path / "other.tar")


@pytest.mark.parametrize(("column", "value"), [each for each in WRONG if each.values[0] != "position"])
def test_compacting_leaves_the_damaged_event_and_packs_the_others(path, column, value):
    damage(path, column, value)
    with everlog.open(path) as store:
        before = [fault.position for fault in store.verify().faults if fault.session == "s"]
        assert store.compact(older_than=0).bodies == EVENTS - 1 + 3
        assert [fault.position for fault in store.verify().faults if fault.session == "s"] == before
        assert len(store.session("s")[AT + 1 :]) == EVENTS - AT - 1
    connection = apsw.Connection(str(path))
    assert connection.execute("SELECT position FROM event WHERE body IS NOT NULL").fetchall() == [(AT,)]
    connection.close()


@pytest.mark.parametrize(("column", "value"), [each for each in WRONG if each.values[0] not in ("position", "leaf")])
def test_an_erasure_destroys_a_damaged_body_where_leaf_and_commitments_allow_it(path, column, value):
    damage(path, column, value)
    with everlog.open(path) as store:
        if column == "commitments" and value is not None:
            with pytest.raises(CorruptionError, match=f"'s'@{AT} is damaged: its leaf and commitments"):
                store.session("s").erase([AT], reason="asked for")
            return
        assert store.session("s").erase([AT], reason="asked for").positions == (AT,)
    connection = apsw.Connection(str(path))
    row = connection.execute(f"SELECT body, salt, gone FROM event WHERE branch = 1 AND position = {AT}").fetchone()
    assert row == (None, None, 1)
    connection.close()


@pytest.mark.parametrize("value", ["text", 12, 1.5])
def test_a_damaged_leaf_keeps_an_erasure_and_a_cut_at_it_from_what_is_needed(path, value):
    damage(path, "leaf", value)
    with everlog.open(path) as store:
        session = store.session("s")
        with pytest.raises(CorruptionError, match=f"'s'@{AT} is damaged"):
            session.erase([AT], reason="asked for")
        assert session.erase([AT + 1], reason="asked for").positions == (AT + 1,)
        assert session.fork(AT) is not None
        assert session.append("note", {"content": "later"}).position == EVENTS


@pytest.mark.parametrize(
    "column", ["start", "stop", "plain", "dictionary", "checksum", "content", "size", "object", "place"]
)
@pytest.mark.parametrize("value", ["text", 12.5, b"\x00\xff"])
def test_damaged_columns_of_a_block_are_told_too(path, tmp_path, column, value):
    with everlog.open(path) as store:
        store.compact(older_than=0)
    damage(path, column, value, "block", "branch = 1 AND start = 0")
    for name in (
        "read",
        "backwards",
        "where",
        "messages",
        "export",
        "search",
        "append",
        "fork",
        "verify",
        "erase",
        "again",
    ):
        with everlog.open(path) as store:
            with suppress(EverlogError):
                VERBS[name](store, tmp_path)
            assert len(store.session("other")[:]) == 3


def test_a_damaged_leaf_of_an_encrypted_body_is_told(tmp_path):
    write_wrapping_key(tmp_path / "key", bytes)
    key, path = f"file:{tmp_path / 'key'}", tmp_path / "store.db"
    with everlog.open(path, encrypt=key) as store:
        store.create("s", events=[NewEvent("note", {"content": f"word {number}"}) for number in range(3)])
    damage(path, "leaf", "text", where="position = 1")
    with everlog.open(path, encrypt=key) as store:
        with pytest.raises(CorruptionError, match="position 1 of branch 1"):
            store.session("s").export(tmp_path / "s.tar")
        assert not store.verify().ok
