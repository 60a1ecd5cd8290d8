"""Wrong values get an error of Everlog's own that says what is wrong, and nothing is written."""

import datetime as dt

import pytest

import everlog
from everlog.errors import EverlogError

CALLS = {
    "a type that is none": lambda store, s: s.append(None),
    "data that is no object": lambda store, s: s.append("note", 5),
    "metadata that is a list": lambda store, s: s.append("my", {}, metadata=[1]),
    "a cause that is a number": lambda store, s: s.append("my", {}, caused_by=5),
    "a time without a zone": lambda store, s: s.append("my", {}, occurred_at=dt.datetime(2020, 1, 1)),
    "a time out of range": lambda store, s: s.append("my", {}, occurred_at=10**20),
    "attachments that are a list": lambda store, s: s.append("my", {}, attachments=[1]),
    "a key that is a number": lambda store, s: s.append("my", {}, key=5),
    "an expected size that is a text": lambda store, s: s.append("my", {}, expected="1"),
    "events that are a text": lambda store, s: s.extend("abc"),
    "an unknown way with repeats": lambda store, s: s.extend([everlog.NewEvent("my")], repeats="maybe"),
    "types that are a number": lambda store, s: list(s.events(types=5)),
    "where that is a number": lambda store, s: list(s.events(where=5)),
    "where with a number as its path": lambda store, s: list(s.events(where={5: 1})),
    "a query that is a number": lambda store, s: list(s.events(5)),
    "a limit below none": lambda store, s: list(s.events(limit=-1)),
    "a since that is a number": lambda store, s: list(s.events(since=5)),
    "a place with a space": lambda store, s: s.fork("x y"),
    "a fork named by a number": lambda store, s: s.fork(1, id=5),
    "labels that are a list": lambda store, s: s.fork(1, labels=[1]),
    "a rewind to nothing": lambda store, s: s.rewind(None),
    "a branch that is a number": lambda store, s: s.switch(5),
    "a label that is a number": lambda store, s: s.update(labels={"a": 5}),
    "an update of nothing": lambda store, s: s.update(),
    "an erasure without a reason": lambda store, s: s.erase([1], reason=""),
    "a cursor that is a number": lambda store, s: list(store.feed(5)),
    "a key to find with a lone surrogate": lambda store, s: s.find("\ud800"),
    "a key to find with a NUL": lambda store, s: s.find("a\x00b"),
    "a key to find in the store with a lone surrogate": lambda store, s: store.find("\ud800"),
    "a prefix with a lone surrogate": lambda store, s: store.sessions(prefix="\ud800"),
    "a session to delete with a lone surrogate": lambda store, s: store.delete("\ud800", reason="r"),
    "snapshots of a session with a lone surrogate": lambda store, s: store.snapshots("\ud800"),
    "a session named by a surrogate": lambda store, s: store.session("\ud800"),
    "a title with a surrogate": lambda store, s: s.update(title="\ud800"),
    "a query with a surrogate": lambda store, s: list(s.events("\ud800")),
    "a parent that is a text": lambda store, s: store.create("child", parent="x"),
    "a list of no sessions": lambda store, s: store.sessions(limit=0),
    "a bundle that is a folder": lambda store, s: store.import_bundle("."),
    "a bundle to nowhere": lambda store, s: s.export("/nonexistent/folder/x"),
    "a step in a slice": lambda store, s: s[::2],
    "a store at a URL": lambda store, s: everlog.open("gopher://x"),
    "a store at NUL": lambda store, s: everlog.open("a\x00b"),
    "a store that is an object": lambda store, s: everlog.open(object()),
    "a store that is a number": lambda store, s: everlog.open(5),
    "an unknown durability": lambda store, s: everlog.open("memory:", durability="some"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_wrong_value_is_refused_in_words_and_writes_nothing(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with everlog.open(tmp_path / "store.db") as store:
        session = store.create("s", events=[everlog.NewEvent("note", {"content": "x"})] * 3)
        with pytest.raises(EverlogError) as refused:
            call(store, session)
        assert len(refused.value.message) > 20
        assert session.size() == 3
        assert len(store.sessions()) == 1
