"""What sessions and branches promise: forks, rewinds, names, listing, deletion, erasure, the end."""

from __future__ import annotations

from typing import Any

import pytest

from everlog.core.event import NewEvent
from everlog.errors import (
    ConflictError,
    InvalidEventError,
    InvalidPlaceError,
    InvalidQueryError,
    KeyReusedError,
    LimitError,
    NotFoundError,
    SessionExistsError,
    UnavailableError,
)
from everlog.testing.clock import FixedClock
from everlog.testing.start import ContractStart, note, texts


class SessionContract(ContractStart):
    """What sessions and branches promise: forks, rewinds, names, listing, deletion, erasure, the end."""

    # --- branches ---
    def test_a_fork_shares_what_came_before_and_nothing_after(self, store: Any, ten: Any) -> None:
        fork = ten.fork(4, id="f", title="T", labels={"a": "b"}, reason="why", events=[note("first")])
        ten.append("note", {"content": "only here"})
        assert texts(fork) == ["n0", "n1", "n2", "n3", "first"]
        assert [event.hash for event in fork.slice(0, 4)] == [event.hash for event in ten.slice(0, 4)]
        origin = fork[4].data["from"]
        assert (fork[4].type, origin["position"], origin["root"]) == ("session.forked", 4, ten.head_at(4).root)
        assert (origin["session"], fork[4].data["reason"]) == (ten.uuid, "why")
        assert (fork.info().title, fork.info().labels) == ("T", {"a": "b"})
        fork.rewind(2)
        deeper = fork.fork("end", id="g")
        assert texts(deeper) == ["n0", "n1"]
        assert texts(ten.fork(0, id="h")) == []
        assert store.verify().ok

    def test_a_rewind_keeps_what_was_left_and_a_switch_returns_to_it(self, ten: Any) -> None:
        rewound = ten.rewind(3, reason="wrong path", events=[note("other")])
        assert (rewound.type, rewound.position, rewound.data["reason"]) == ("session.rewound", 3, "wrong path")
        assert texts(ten) == ["n0", "n1", "n2", "other"]
        first, second = ten.branches()
        assert [(each.name, each.current, each.base) for each in (first, second)] == [("b1", False, 0), ("b2", True, 3)]
        assert len(first) == 10
        switched = ten.switch("b1", reason="the first way was right")
        assert (switched.type, switched.position) == ("session.switched", 10)
        assert switched.data["from"]["branch"] == second.id
        assert texts(ten)[-1] == "n9"
        assert texts(ten.branch(second.id[:8])) == ["n0", "n1", "n2", "other"]
        for wrong in ("b1", "b9", "zz"):
            with pytest.raises((InvalidPlaceError, NotFoundError)):
                ten.switch(wrong)
        with pytest.raises(ConflictError):
            ten.rewind(1, expected=3)
        assert ten.verify().ok

    def test_rewinds_upon_rewinds_read_as_one_line(self, session: Any) -> None:
        model: list[str] = []
        for number in range(60):
            session.append("note", {"content": f"a{number}"})
            session.append("note", {"content": f"b{number}"})
            model += [f"a{number}", f"b{number}"]
            if number % 3 == 2:
                session.rewind(-2 if number % 2 else -1)
                del model[-2 if number % 2 else -1 :]
                model.append("rewound")
        said = [event.data.get("content", "rewound") for event in session]
        assert said == model
        assert session.head_at("end") == session.refresh()
        assert session.verify().ok

    def test_events_given_to_a_verb_come_with_it_or_nothing_does(self, store: Any, ten: Any) -> None:
        bad = [NewEvent("Bad Type", {})]
        for call in (
            lambda: store.create("new", events=bad),
            lambda: ten.fork(2, id="new", events=bad),
            lambda: ten.rewind(2, events=bad),
        ):
            with pytest.raises(InvalidEventError):
                call()
        assert [info.id for info in store.sessions()] == ["s"]
        assert len(ten.branches()) == 1
        assert texts(store.create("new", events=[note("a"), note("b")])) == ["a", "b"]

    # --- sessions ---
    def test_names_are_unique_and_any_printable_text(self, store: Any, session: Any) -> None:
        with pytest.raises(SessionExistsError):
            store.create("s")
        with pytest.raises(SessionExistsError):
            session.fork(0, id="s")
        assert store.session("a/b c~d@e%") if store.create("a/b c~d@e%") else None
        assert store.get_or_create("s").uuid == session.uuid
        assert len(store.create().id) == 36
        for wrong in ("", "a\nb", "x" * 257):
            with pytest.raises((InvalidPlaceError, LimitError)):
                store.create(wrong)
        with pytest.raises(NotFoundError):
            store.session("nobody")

    def test_updates_are_events_and_change_only_what_is_given(self, store: Any, session: Any) -> None:
        session.update(title="T", labels={"a": "1"}, metadata={"m": 1})
        event = session.update(labels={"b": "2"})
        assert (event.type, event.data) == ("session.updated", {"labels": {"b": "2"}})
        info = session.info()
        assert (info.title, info.labels, info.metadata, info.size) == ("T", {"b": "2"}, {"m": 1}, 2)
        session.update(title=None)
        assert store.sessions("label.b:2")[0].title is None
        assert store.sessions("label.a:1") == []

    def test_an_update_and_the_events_given_to_it_are_one_append(self, session: Any) -> None:
        event = session.update(title="T", events=[NewEvent("note", {"content": "a"}, key="k")], expected=0)
        assert [each.type for each in session.events()] == ["session.updated", "note"]
        assert (event.position, session.head.size) == (0, 2)
        for wrong in (
            lambda: session.update(title="U", events=[NewEvent("note", {"content": "b"})], expected=0),
            lambda: session.update(title="U", events=[NewEvent("note", {"content": "a"}, key="k")]),
            lambda: session.update(title="U", events=[NewEvent("checkpoint", {"name": "c"})]),
        ):
            with pytest.raises((ConflictError, KeyReusedError, InvalidEventError)):
                wrong()
        info = session.info()
        assert (info.title, info.size) == ("T", 2)

    def test_sessions_are_listed_by_label_prefix_words_and_order(self, store: Any, clock: FixedClock) -> None:
        for number in range(5):
            store.create(f"run-{number}", title=f"Title {number}", labels={"user": f"u{number % 2}"})
            clock.advance(seconds=60)
        store.create("other")
        store.session("run-1").append("note", {"content": "x"})
        ids = lambda **chosen: [info.id for info in store.sessions(**chosen)]  # noqa: E731
        assert ids(query="label.user:u1", order="id") == ["run-1", "run-3"]
        assert ids(query="label.user:u0,u1 -session:run-4", order="-id") == ["run-3", "run-2", "run-1", "run-0"]
        assert ids(prefix="run-", order="created") == [f"run-{number}" for number in range(5)]
        assert ids(query="title order", order="id") == []
        assert ids(query='"title 3"') == ["run-3"]
        assert ids(limit=1) == ["run-1"]
        assert ids(order="-created", limit=2) == ["other", "run-4"]
        with pytest.raises(InvalidQueryError):
            ids(query="type:note")
        with pytest.raises(InvalidQueryError):
            ids(order="size")

    @pytest.mark.parametrize("order", ["updated", "-updated", "created", "-created", "id", "-id"])
    def test_pages_of_sessions_hold_each_once(self, store: Any, clock: FixedClock, order: str) -> None:
        for number in range(7):
            store.create(f"s{number}", events=[note("x")])
            clock.advance(seconds=number % 3 * 0.4)  # some at the same moment, some within the same second
        whole = [info.id for info in store.sessions(order=order)]
        paged: list[str] = []
        after = None
        while page := store.sessions(order=order, limit=2, after=after):
            paged += [info.id for info in page]
            after = page[-1]
        assert paged == whole
        assert sorted(whole) == [f"s{number}" for number in range(7)]

    def test_a_session_may_be_made_for_an_event_of_another(self, store: Any, session: Any) -> None:
        cause = session.append("agent.tool_use", {"id": "c", "name": "research", "input": {}})
        child = store.create("child", parent=cause)
        store.create("other")
        assert child.info().parent == cause.id
        for parent in (cause, session, "s"):
            assert [info.id for info in store.sessions(parent=parent)] == ["child"]

    # --- deleting and erasing ---
    def test_a_deleted_name_is_free_and_old_handles_find_nothing(self, store: Any, ten: Any) -> None:
        store.delete("s", reason="asked for")
        for call in (lambda: ten.append("note", {"content": "x"}), ten.size, ten.refresh, lambda: ten.rewind(1)):
            with pytest.raises(NotFoundError):
                call()
        with pytest.raises(NotFoundError):
            store.delete("s", reason="again")
        again = store.create("s")
        assert (again.size(), again.uuid == ten.uuid) == (0, False)
        assert store.find("k") == []
        assert list(store.feed()) == []
        assert store.verify().ok

    def test_a_session_with_living_forks_is_not_deleted_unless_they_are_too(self, store: Any, ten: Any) -> None:
        fork = ten.fork(5, id="f")
        deeper = fork.fork(3, id="g")
        with pytest.raises(SessionExistsError, match="'f'"):
            store.delete("s", reason="x")
        assert texts(ten)[-1] == "n9"
        store.delete("f", reason="a fork may go")
        assert texts(deeper) == ["n0", "n1", "n2"]
        with pytest.raises(SessionExistsError, match="'g'"):
            store.delete("s", reason="x")
        store.delete("s", reason="x", cascade=True)
        assert store.sessions() == []

    def test_an_erased_event_keeps_its_place_and_its_hash(self, store: Any, ten: Any) -> None:
        ten.append("note", {"content": "secret"}, key="k", attachments={"a": b"secret"})
        fork = ten.fork("end", id="f")
        before, head = ten[10], ten.head
        assert ten.erase([10, before.id, 3], reason="asked for").positions == (3, 10)
        assert ten.erase([3], reason="again").positions == ()
        for line in (ten, fork):
            event = line[10]
            assert (event.hash, event.erased, event.data, event.raw) == (before.hash, True, None, None)
            with pytest.raises(NotFoundError):
                event.attachment("a")
            assert list(line.events("secret")) == []
            assert line.verify().ok
        assert ten.refresh() == head
        assert store.verify().erased == 2
        assert ten.append("note", {"content": "anything"}, key="k", attachments={"a": b"123456"}).repeated
        with pytest.raises(NotFoundError):
            ten.erase([99], reason="x")

    # --- the end ---
    def test_a_closed_store_says_so(self, store: Any, ten: Any) -> None:
        store.close()
        for call in (lambda: ten.append("note", {"content": "x"}), ten.size, lambda: store.session("s")):
            with pytest.raises(UnavailableError, match="closed"):
                call()
