"""Every session of a prefix, opened as a list showed it: what the integrations list by."""

import sqlite3
from contextlib import closing

import pytest

import everlog
from databases import address
from everlog import NewEvent
from everlog.core.limits import PAGE_BYTES_MAX, SESSIONS_PAGE_MAX
from everlog.errors import CorruptionError, NotFoundError


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request, tmp_path):
    with everlog.open(address(request.param, tmp_path / "store")) as opened:
        yield opened


def test_sessions_are_opened_by_their_ids_with_what_they_held_when_they_were_listed(store):
    for name in ("a/2", "a/1", "b/1", "a"):
        store.create(name, title=name, events=[NewEvent("note", {"content": name})])
    store.session("a/1").fork(id="a/3")
    store.session("a/2").rewind(0)
    found = list(store.opened("a/"))
    assert [info.id for info, _ in found] == ["a/1", "a/2", "a/3"]
    for info, handle in found:
        assert (handle.id, handle.uuid, handle.head, handle.branch_id) == (info.id, info.uuid, info.head, info.branch)
        assert info == store.session(info.id).info()
        assert [event.position for event in handle.slice(0, handle.head.size)] == list(range(info.size))
    _, first = found[0]
    first.append("note", {"content": "more"}, expected=first.head)
    assert store.session("a/1").size() == 2


def test_a_session_that_is_deleted_while_pages_of_them_are_read_spoils_nothing(tmp_path):
    with everlog.open("memory:") as store:
        for number in range(SESSIONS_PAGE_MAX + 2):
            store.create(f"s/{number:05}")
        seen = []
        for info, handle in store.opened("s/"):
            seen.append(info.id)
            if len(seen) == SESSIONS_PAGE_MAX:  # the last of the first page
                store.delete(info.id, reason="test")
                with pytest.raises(NotFoundError):
                    handle.refresh()
        assert seen == [f"s/{number:05}" for number in range(SESSIONS_PAGE_MAX + 2)]


def opened(store):
    return [handle for _, handle in store.opened("s/")]


def texts(events):
    return events if events is None else [event.data["content"] for event in events]


def test_short_sessions_are_read_together_as_each_by_itself(store):
    for number in range(5):
        notes = [NewEvent("note", {"content": f"{number}.{place}"}) for place in range(number)]
        store.create(f"s/{number}", events=notes)
    handles = opened(store)
    store.session("s/2").append("note", {"content": "later"})
    store.session("s/3").rewind(1)
    read = store.read_short(handles)
    assert read[1:] == [store.session(f"s/{number}").branches()[0].slice(0, number) for number in range(1, 5)]
    assert [texts(events) for events in read] == [None, *([f"{n}.{place}" for place in range(n)] for n in range(1, 5))]
    assert store.read_short([]) == []
    assert store.read_short(handles[:1]) == [None]


def test_what_is_not_read_together_is_left_to_its_handle_and_spoils_nothing(store):
    for name in ("s/1", "s/2", "s/3"):
        store.create(name, events=[NewEvent("note", {"content": name}, attachments={"a": name.encode()})])
    store.session("s/1").fork(id="s/4")
    handles = opened(store)
    store.session("s/4").erase([0], reason="test")
    store.delete("s/2", reason="test")
    read = store.read_short(handles)
    assert read[1] is None
    assert read[3] is None
    assert read[0][0].erased
    assert read[2][0].attachment("a") == b"s/3"
    with pytest.raises(NotFoundError):
        handles[1].slice(0, 1)


def test_sessions_whose_bodies_are_more_than_a_page_are_not_all_read_together(store):
    for number in range(3):
        store.create(f"s/{number}", events=[NewEvent("note", {"content": f"{number}" * (PAGE_BYTES_MAX * 3 // 8)})])
    read = store.read_short(opened(store))
    assert store.url == "memory:" or None in read
    assert [texts(events) for events in read if events] == [
        [f"{number}" * (PAGE_BYTES_MAX * 3 // 8)] for number, events in enumerate(read) if events
    ]


def test_no_more_sessions_are_read_together_than_a_page_has_events(store):
    for number in range(3):
        store.create(f"s/{number}", events=[NewEvent("note", {"content": f"{place}"}) for place in range(400)])
    store.create("s/9", events=[NewEvent("note", {"content": "last"})])
    read = store.read_short(opened(store))
    assert [events and len(events) for events in read] == [400, 400, None, 1]


def test_of_a_session_whose_bodies_are_more_than_a_page_no_more_is_read_together(tmp_path):
    with everlog.open(tmp_path / "s.db") as store:
        long = PAGE_BYTES_MAX * 3 // 8
        store.create("s/1", events=[NewEvent("note", {"content": f"{number}" * long}) for number in range(4)])
        store.compact(older_than=0)
        with closing(sqlite3.connect(tmp_path / "s.db")) as file, file:
            file.execute("DELETE FROM block WHERE digest = (SELECT digest FROM sharing WHERE position = 3)")
        assert store.read_short(opened(store)) == [None]
        with pytest.raises(CorruptionError, match="not in the store"):
            store.session("s/1").slice()


def test_what_is_cold_is_read_as_if_it_were_not(store):
    store.create("s/1", events=[NewEvent("note", {"content": "cold " * 50}) for _ in range(70)])
    store.compact(older_than=0)
    (read,) = store.read_short(opened(store))
    assert (read or store.session("s/1").slice()) == store.session("s/1").slice()
    assert {event.data["content"] for event in read or ()} <= {"cold " * 50}


def test_where_an_event_is_missing_the_session_is_left_to_its_handle_which_says_so(tmp_path):
    with everlog.open(tmp_path / "s.db") as store:
        for name in ("s/1", "s/2"):
            store.create(name, events=[NewEvent("note", {"content": f"{name} {place}"}) for place in range(3)])
    with closing(sqlite3.connect(tmp_path / "s.db")) as file, file:
        file.execute("DELETE FROM event WHERE position = 1 AND branch = (SELECT min(branch) FROM event)")
    with everlog.open(tmp_path / "s.db") as store:
        handles = opened(store)
        assert [texts(events) for events in store.read_short(handles)] == [None, ["s/2 0", "s/2 1", "s/2 2"]]
        with pytest.raises(CorruptionError, match=r"holds 1 events in \[1, 3\)"):
            handles[0].slice(0, 3)
