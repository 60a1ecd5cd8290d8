"""Every session of a prefix, opened as a list showed it: what the integrations list by."""

import pytest

import everlog
from databases import address
from everlog import NewEvent
from everlog.core.limits import SESSIONS_PAGE_MAX
from everlog.errors import NotFoundError


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
