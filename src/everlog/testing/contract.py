"""The contract that every store keeps, as tests: subclass `StoreContract`, say how to open a store, run it with pytest.

    class TestMyStore(StoreContract):
        def open_store(self, folder, clock):
            return Store(MyStorage(folder, clock=clock), Settings(os.urandom), url="mine")

It speaks to the public interface only, so it holds for the async face and for a server just as well.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from everlog.core import limits
from everlog.core.event import Event, Head, NewEvent
from everlog.errors import (
    ConflictError,
    InvalidEventError,
    InvalidPlaceError,
    InvalidQueryError,
    KeyReusedError,
    LimitError,
    NotFoundError,
    SessionExistsError,
    StaleCursorError,
    UnavailableError,
)
from everlog.testing.clock import FixedClock

DEADLINE_SECONDS = 20.0


def note(text: str, **members: Any) -> NewEvent:
    return NewEvent("note", {"content": text}, **members)


def texts(events: Any) -> list[str]:
    return [event.data["content"] for event in events if event.data and "content" in event.data]


class StoreContract:
    """One test for each promise. A subclass gives `open_store`."""

    def open_store(self, folder: Path, clock: FixedClock) -> Any:
        """Open an empty store that takes its time from this clock."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> FixedClock:
        return FixedClock()

    @pytest.fixture
    def store(self, tmp_path: Path, clock: FixedClock) -> Iterator[Any]:
        opened = self.open_store(tmp_path, clock)
        yield opened
        opened.close()

    @pytest.fixture
    def session(self, store: Any) -> Any:
        return store.create("s")

    @pytest.fixture
    def ten(self, session: Any) -> Any:
        session.extend([note(f"n{number}") for number in range(10)])
        return session

    # --- appending ---
    def test_an_append_is_given_back_as_it_was_recorded(self, session: Any, clock: FixedClock) -> None:
        occurred = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
        cause = session.append("user.message", {"content": "hi"})
        event = session.append(
            "agent.tool_use",
            {"id": "c1", "name": "bash", "input": {"cmd": "ls"}},
            rationale="to see",
            actor="planner",
            outcome="ok",
            metadata={"trace_id": "t"},
            caused_by=cause,
            occurred_at=occurred,
            key="c1",
        )
        read = session[1]
        assert event == read
        for each in (event, read):
            assert each.id == f"ev_{each.writer}_1"
            assert (each.session, each.position, each.type, each.actor, each.outcome) == (
                "s",
                1,
                "agent.tool_use",
                "planner",
                "ok",
            )
            assert (each.data, each.rationale, each.metadata) == (
                {"id": "c1", "name": "bash", "input": {"cmd": "ls"}},
                "to see",
                {"trace_id": "t"},
            )
            assert (each.caused_by, each.occurred_at, each.key) == (cause.id, occurred, "c1")
            assert each.recorded_micros == clock.micros
            assert (each.erased, each.withheld, each.repeated) == (False, False, False)

    def test_an_append_of_several_is_all_or_nothing(self, session: Any) -> None:
        with pytest.raises(InvalidEventError, match="event 1 of 2"):
            session.extend([note("good"), NewEvent("Bad Type", {})])
        assert session.size() == 0
        assert [event.position for event in session.extend([note("a"), note("b")])] == [0, 1]

    def test_an_append_of_nothing_is_refused(self, session: Any) -> None:
        with pytest.raises(LimitError):
            session.extend([])

    def test_bodies_are_kept_byte_for_byte(self, session: Any) -> None:
        odd = {"content": "\u2028 \x00 \U0001f600 é", "n": [1, -0.0, 1e300, 2**63, None, True, {"": {}}]}
        event = session.append("note", odd)
        assert session[0].raw == event.raw
        assert session[0].data == odd

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            ({"content": "x", "a": {"b": [1, float("nan")]}}, "data/a/b/1"),
            ({"content": "x", "a": float("inf")}, "data/a"),
            ({"content": "x", "a": "\ud800"}, "data/a"),
            ({"content": "x", "a": 2**64}, "data/a"),
            ({"content": "x", 1: 2}, "the key 1"),
            ({"content": "x", "a": {1, 2}}, "data/a"),
            ({"content": "x", "a": b"bytes"}, "data/a"),
            ({"content": 3}, "data/content"),
            ({}, "'content'"),
            ("text", "an object"),
        ],
    )
    def test_what_json_cannot_say_or_a_type_lacks_is_refused_by_name(self, session: Any, data: Any, said: str) -> None:
        with pytest.raises(InvalidEventError, match=said):
            session.append("note", data)
        assert session.size() == 0

    def test_every_bound_is_named(self, session: Any) -> None:
        deep: Any = "x"
        for _ in range(limits.BODY_DEPTH_MAX + 1):
            deep = [deep]
        for call in (
            lambda: session.append("my.deep", {"d": deep}),
            lambda: session.append("note", {"content": "x" * (limits.BODY_BYTES_MAX + 1)}),
            lambda: session.append("note", {"content": "x"}, key="k" * 513),
            lambda: session.extend([note("x")] * (limits.APPEND_EVENTS_MAX + 1)),
            lambda: session.append("note", {"content": "x"}, attachments={f"a{n}": b"" for n in range(17)}),
            lambda: session.update(title="t" * 1025),
            lambda: session.update(labels={f"l{n}": "v" for n in range(65)}),
        ):
            with pytest.raises(LimitError, match=r"\d"):
                call()
        for call in (
            lambda: session.append("t" * 129, {}),
            lambda: session.append("note", {"content": "x"}, actor="me@example.org"),
            lambda: session.append("note", {"content": "x"}, outcome="fine"),
            lambda: session.append("note", {"content": "x"}, key=""),
            lambda: session.append("note", {"content": "x"}, attachments={"a/b": b""}),
        ):
            with pytest.raises(InvalidEventError):
                call()
        assert session.size() == 0

    @pytest.mark.parametrize(
        "reserved", ["session.forked", "lease.acquired", "step.started", "wait.started", "checkpoint", "summary"]
    )
    def test_types_of_a_verb_are_written_only_by_it(self, session: Any, reserved: str) -> None:
        with pytest.raises(InvalidEventError, match="only by"):
            session.append(reserved, {})

    def test_the_head_is_a_prefix_of_every_later_one(self, session: Any) -> None:
        heads: list[Head] = []
        for number in range(20):
            session.append("note", {"content": str(number)})
            heads.append(session.head)
        assert [head.size for head in heads] == list(range(1, 21))
        assert [session.head_at(head.size) for head in heads] == heads

    # --- expected ---
    @pytest.mark.parametrize("by_head", [True, False])
    def test_a_writer_that_missed_something_is_refused_with_what_it_missed(
        self, store: Any, session: Any, *, by_head: bool
    ) -> None:
        other = store.session("s")
        other.extend([note("a"), note("b")])
        with pytest.raises(ConflictError) as refused:
            session.append("note", {"content": "c"}, expected=session.head if by_head else 0)
        assert texts(refused.value.events) == ["a", "b"]
        assert (refused.value.head, refused.value.missed, refused.value.moved) == (other.head, 2, False)
        assert refused.value.ancestor == 0
        assert session.size() == 2
        session.refresh()
        assert session.append("note", {"content": "c"}, expected=session.head).position == 2

    def test_what_was_missed_is_bounded(self, store: Any, session: Any) -> None:
        store.session("s").extend([note(str(number)) for number in range(250)])
        with pytest.raises(ConflictError) as refused:
            session.append("note", {"content": "x"}, expected=0)
        assert (len(refused.value.events), refused.value.missed) == (limits.CONFLICT_EVENTS_MAX, 250)
        store.session("s").extend([note("y" * 300_000) for _ in range(10)])
        session.refresh()
        with pytest.raises(ConflictError) as large:
            session.append("note", {"content": "x"}, expected=250)
        assert sum(len(event.raw or b"") for event in large.value.events) <= limits.CONFLICT_BYTES_MAX
        assert large.value.missed == 10

    def test_expecting_more_than_there_is_is_refused_too(self, session: Any) -> None:
        with pytest.raises(ConflictError) as refused:
            session.append("note", {"content": "x"}, expected=5)
        assert (refused.value.missed, refused.value.head.size) == (0, 0)

    def test_a_rewind_by_another_is_a_move_with_its_common_ancestor(self, store: Any, ten: Any) -> None:
        other = store.session("s")
        other.rewind(4, reason="back")
        other.append("note", {"content": "other way"})
        with pytest.raises(ConflictError) as refused:
            ten.append("note", {"content": "x"}, expected=ten.head)
        assert (refused.value.moved, refused.value.ancestor) == (True, 4)
        assert [event.type for event in refused.value.events] == ["session.rewound", "note"]
        assert refused.value.head == other.head

    def test_another_history_of_the_same_size_is_not_taken_for_the_same(self, store: Any, ten: Any) -> None:
        other = store.session("s")
        with pytest.raises(ConflictError):
            ten.append("note", {"content": "x"}, expected=Head(10, "0" * 64))
        assert other.append("note", {"content": "x"}, expected=other.head).position == 10

    # --- keys ---
    def test_a_repeated_key_gives_the_first_event(self, session: Any) -> None:
        first = session.append("note", {"content": "x"}, key="k")
        session.append("note", {"content": "y"})
        again = session.append("note", {"content": "x"}, key="k", expected=0)
        assert again == first
        assert (first.repeated, again.repeated) == (False, True)
        assert session.size() == 2

    @pytest.mark.parametrize(
        "other",
        [
            {"data": {"content": "z"}},
            {"type": "error", "data": {"message": "x"}},
            {"actor": "b"},
            {"outcome": "ok"},
            {"occurred_at": 5},
            {"rationale": "why"},
            {"metadata": {"m": 1}},
            {"attachments": {"a": b"x"}},
        ],
    )
    def test_a_key_used_for_other_content_is_refused(self, session: Any, other: dict[str, Any]) -> None:
        session.append("note", {"content": "x"}, key="k", actor="a")
        members: dict[str, Any] = {"type": "note", "data": {"content": "x"}, "actor": "a", "key": "k"} | other
        with pytest.raises(KeyReusedError, match="'k'") as refused:
            session.append(**members)
        assert refused.value.event == session[0]
        assert session.size() == 1

    def test_one_key_may_cover_a_whole_append(self, session: Any) -> None:
        first = session.extend([note("a"), note("b"), note("c")], key="turn")
        again = session.extend([note("a"), note("b"), note("c")], key="turn")
        assert again == first
        assert all(event.repeated for event in again)
        for events in ([note("a"), note("b")], [note("a"), note("b"), note("z")]):
            with pytest.raises(KeyReusedError):
                session.extend(events, key="turn")
        assert session.size() == 3
        assert session.find("turn") == first[0]

    def test_recorded_events_are_left_out_where_that_is_asked_for(self, session: Any) -> None:
        session.extend([note("a", key="a"), note("b", key="b")])
        mixed = [note("a", key="a"), note("c", key="c"), note("b", key="b"), note("d")]
        with pytest.raises(KeyReusedError, match="skip"):
            session.extend(mixed)
        recorded = session.extend(mixed, repeats="skip")
        assert [(event.position, event.repeated) for event in recorded] == [
            (0, True),
            (2, False),
            (1, True),
            (3, False),
        ]
        assert texts(session) == ["a", "b", "c", "d"]

    def test_a_key_is_inherited_by_forks_and_freed_by_a_rewind_below_it(self, session: Any) -> None:
        first = session.append("note", {"content": "x"}, key="k")
        session.append("note", {"content": "y"}, key="l")
        fork = session.fork(1, id="f")
        repeated = fork.append("note", {"content": "x"}, key="k")
        assert (repeated.repeated, repeated.id) == (True, first.id)
        assert not fork.append("note", {"content": "another y"}, key="l").repeated
        session.rewind("start")
        assert not session.append("note", {"content": "z"}, key="k").repeated

    def test_an_append_that_a_cut_went_through_is_not_taken_for_the_whole(self, session: Any) -> None:
        three = [note("a"), note("b"), note("c")]
        session.extend(three, key="turn")
        fork = session.fork(2, id="f")
        session.rewind(1)
        for line, held in ((fork, 3), (session, 2)):
            with pytest.raises(KeyReusedError, match="covered 3 events, of which"):
                line.extend(three, key="turn")
            assert line.size() == held

    def test_a_key_of_the_whole_append_leaves_nothing_out(self, session: Any) -> None:
        session.append("note", {"content": "y"}, key="k")
        with pytest.raises(InvalidEventError, match="whole append"):
            session.extend([note("x"), note("y", key="k")], key="turn", repeats="skip")
        assert session.size() == 1

    def test_a_key_stands_once_in_an_append(self, session: Any) -> None:
        with pytest.raises(InvalidEventError, match="twice"):
            session.extend([note("a", key="k"), note("b", key="k")])
        with pytest.raises(InvalidEventError):
            session.extend([note("a", key="k"), note("b")], key="turn")

    def test_find_is_by_key_in_a_session_and_in_the_store(self, store: Any, session: Any) -> None:
        event = session.append("note", {"content": "x"}, key="c*1")
        other = store.create("t").append("note", {"content": "y"}, key="c*1")
        assert session.find("c*1") == event
        assert session.find("c2") is None
        assert [found.id for found in store.find("c*1")] == [other.id, event.id]
        session.extend([note(str(number), key=f"write:cp1:{number}") for number in range(3)])
        assert texts(session.events(keys="write:cp1:*")) == ["0", "1", "2"]

    # --- time ---
    def test_times_never_go_back_whatever_the_clock_does(self, session: Any, clock: FixedClock) -> None:
        for seconds in (10, -100, 5, -1, 200, -300):
            session.append("note", {"content": "x"})
            clock.advance(seconds=seconds)
        fork = session.fork(3, id="f")
        fork.append("note", {"content": "y"})
        for line in (session, fork):
            times = [event.recorded_micros for event in line]
            assert times == sorted(times)

    def test_a_range_of_time_is_a_range_of_positions(self, session: Any, clock: FixedClock) -> None:
        start = clock.micros
        for number in range(10):
            session.append("note", {"content": str(number)})
            clock.advance(seconds=60)
        assert texts(session.events(since="-3m")) == ["7", "8", "9"]
        assert texts(session.events("since:5m until:3m")) == ["5", "6"]
        moment = datetime.fromtimestamp(start / 1_000_000, UTC) + timedelta(minutes=4)
        assert session.cut(moment) == 4
        assert texts(session.events(until=moment.isoformat())) == ["0", "1", "2", "3"]
        with pytest.raises(InvalidPlaceError, match="zone"):
            session.cut("2026-11-23T10:00")

    # --- reading ---
    def test_slices_are_those_of_a_list(self, ten: Any) -> None:
        model = list(range(10))
        for start in (None, 0, 3, -3, 10, 99, -99):
            for stop in (None, 0, 7, -2, 10, 99, -99):
                expected = model[start:stop]
                assert [event.position for event in ten[start:stop]] == expected
        assert [event.position for event in ten] == model
        assert len(ten) == 10
        assert ten[-1].position == 9
        for missing in (10, -11):
            with pytest.raises(NotFoundError):
                ten.event(missing)

    def test_every_kind_of_place_names_a_cut(self, ten: Any) -> None:
        checkpoint = ten.checkpoint("here", data={"x": 1})
        ten.append("note", {"content": "after"})
        for place, cut in (
            (4, 4),
            ("4", 4),
            (-2, 10),
            ("-2", 10),
            ("start", 0),
            ("end", 12),
            ("here", 11),
            (checkpoint, 10),
            (checkpoint.id, 10),
            ("-1h", 0),
            ("2100-01-01T00:00Z", 12),
        ):
            assert ten.cut(place) == cut, place
        assert ten.event("here") == ten.event(10) == ten.event(checkpoint.id) == checkpoint
        for place in (13, -13, "no such", "2026-01-01", True, 1.5, "ev_xyz", "-2 h"):
            with pytest.raises((InvalidPlaceError, NotFoundError)):
                ten.cut(place)

    def test_a_checkpoints_name_used_again_moves_on(self, ten: Any) -> None:
        ten.checkpoint("mark")
        ten.append("note", {"content": "x"})
        ten.checkpoint("mark")
        assert ten.cut("mark") == 13
        assert [event.position for event in ten.checkpoints()] == [10, 12]
        for name in ("start", "end", "now", "ev_x", "9a", "", "a b"):
            with pytest.raises(InvalidPlaceError):
                ten.checkpoint(name)

    def test_queries_by_keyword_and_by_text_agree(self, session: Any) -> None:
        session.append("user.message", {"content": "Please list"}, actor="u7")
        session.append(
            "agent.tool_use", {"id": "c1", "name": "bash", "input": {"n": 3}}, rationale="To Look", actor="a1"
        )
        session.append("agent.tool_result", {"tool_use_id": "c1", "content": "timed OUT"}, outcome="error")
        session.append("agent.tool_use", {"id": "c2", "name": "read", "input": {"n": 30}}, actor="a2")
        for text, keywords, positions in (
            ("", {}, [0, 1, 2, 3]),
            ("type:agent.tool_use", {"types": "agent.tool_use"}, [1, 3]),
            ("type:agent.*,user.message", {"types": ["agent.*", "user.message"]}, [0, 1, 2, 3]),
            ("-type:agent.*", {"types": "user.*"}, [0]),
            ("outcome:error", {"outcome": "error"}, [2]),
            ("outcome:none type:agent.tool_*", {"outcome": "none", "types": "agent.tool_*"}, [1, 3]),
            ("data.name:bash", {"where": {"data.name": "bash"}}, [1]),
            ("data.input.n:1..5", {"where": {"data/input/n": 3}}, [1]),
            ("actor:a*", {"actor": ["a1", "a2"]}, [1, 3]),
            ("has:rationale", {"has": "rationale"}, [1]),
            ("position:1..3", {"start": 1, "stop": 3}, [1, 2]),
        ):
            assert [event.position for event in session.events(text)] == positions, text
            assert [event.position for event in session.events(**keywords)] == positions, keywords
            assert session.count(text) == session.count(**keywords) == len(positions)
        assert [event.position for event in session.events('"timed out"')] == [2]
        assert [event.position for event in session.events("look type:agent.*")] == [1]
        assert [event.position for event in session.events(types="agent.*", reverse=True, limit=2)] == [3, 2]
        assert session.last("agent.tool_use", where={"data.name": "bash"}).position == 1
        assert session.last("error") is None
        with pytest.raises(InvalidQueryError, match="quotes"):
            list(session.events("colour:red"))

    def test_long_sessions_are_read_page_by_page(self, session: Any) -> None:
        for start in range(0, 3_000, 1_000):
            session.extend(
                [
                    note(str(number), outcome="error" if number % 700 == 0 else None)
                    for number in range(start, start + 1_000)
                ]
            )
        session.extend([note("z" * 3_000_000) for _ in range(4)])
        assert [event.position for event in session] == list(range(3_004))
        assert [event.position for event in session.events(reverse=True)] == list(range(3_003, -1, -1))
        assert [event.position for event in session.events(outcome="error")] == [0, 700, 1400, 2100, 2800]
        assert [event.position for event in session.events(outcome="error", reverse=True, limit=2)] == [2800, 2100]
        assert len(session.slice(990, 2_010)) == 1_020

    def test_causes_and_effects(self, session: Any) -> None:
        asked = session.append("user.message", {"content": "?"})
        use = session.append("agent.tool_use", {"id": "c", "name": "n", "input": 1}, caused_by=asked)
        result = session.append("agent.tool_result", {"tool_use_id": "c"}, caused_by=use.id)
        assert session.causes(result) == [use, asked]
        assert session.effects(asked) == [use]
        assert [event.position for event in session.events(caused_by=use)] == [2]
        assert [event.position for event in session.around(1, before=1, after=0)] == [0, 1]
        with pytest.raises(NotFoundError):
            session.append("note", {"content": "x"}, caused_by=f"ev_{'0' * 32}_0")

    def test_attachments_are_kept_beside_the_body(self, session: Any) -> None:
        event = session.append("note", {"content": "x"}, attachments={"b": b"2" * 10, "a": b""})
        session.extend([note("y", attachments={"c": b"3"})], key="k")
        for each in (event, session[0]):
            assert [(item.name, item.size) for item in each.attachments] == [("b", 10), ("a", 0)]
            assert (each.attachment("b"), each.attachment("a")) == (b"2" * 10, b"")
        assert session.attachment(1, "c") == b"3"
        for missing in (lambda: event.attachment("c"), lambda: session.attachment(1, "a")):
            with pytest.raises(NotFoundError):
                missing()

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
            clock.advance(seconds=number % 2)  # some at the same moment
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
        assert ten.erase([10, before.id, 3], reason="asked for") == [3, 10]
        assert ten.erase([3], reason="again") == []
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

    # --- feed and following ---
    def test_the_feed_gives_every_event_once_in_order(self, store: Any, ten: Any) -> None:
        other = store.create("t")
        for number in range(1_500):
            (ten if number % 2 else other).append("note", {"content": str(number)})
        feed = store.feed()
        events = list(feed)
        assert len(events) == 1_510
        for name in ("s", "t"):
            positions = [event.position for event in events if event.session == name]
            assert positions == list(range(len(positions)))
        assert list(store.feed(feed.cursor)) == []
        other.append("note", {"content": "later"})
        assert texts(store.feed(feed.cursor)) == ["later"]
        partial = store.feed()
        assert [event for _, event in zip(range(700), partial, strict=False)] == events[:700]
        assert list(store.feed(partial.cursor)) == events[700:] + list(store.feed(feed.cursor))
        assert store.cursor() == _end(store.feed(feed.cursor))

    def test_a_cursor_of_another_history_is_stale(self, store: Any, session: Any) -> None:
        session.append("note", {"content": "x"})
        for cursor in (f"1:5:{'0' * 64}", f"1:99:{'0' * 64}"):
            with pytest.raises(StaleCursorError):
                list(store.feed(cursor))
        with pytest.raises(InvalidPlaceError):
            list(store.feed("nonsense"))

    def test_a_follower_sees_what_is_appended_after_it_began(self, store: Any, ten: Any) -> None:
        seen: list[int] = []
        done = threading.Event()

        def follow() -> None:
            for event in store.session("s").follow(start=8):
                seen.append(event.position)
                if event.position == 109:
                    break
            done.set()

        thread = threading.Thread(target=follow)
        thread.start()
        for number in range(100):
            ten.append("note", {"content": str(number)})
        assert done.wait(DEADLINE_SECONDS)
        thread.join()
        assert seen == list(range(8, 110))

    def test_a_follower_goes_on_where_a_rewound_line_parts(self, ten: Any) -> None:
        followed = ten.follow(start=5, idle=5.0)
        assert [next(followed).position for _ in range(5)] == [5, 6, 7, 8, 9]
        ten.rewind(7)
        ten.append("note", {"content": "on"})
        assert [(event.position, event.type) for event in (next(followed), next(followed))] == [
            (7, "session.rewound"),
            (8, "note"),
        ]

    def test_a_follower_of_the_store_sees_every_session(self, store: Any, session: Any) -> None:
        followed = iter(store.follow(store.cursor(), idle=5.0))
        session.append("note", {"content": "a"})
        assert next(followed).session == "s"
        store.create("t").append("note", {"content": "b"})
        assert next(followed).session == "t"

    def test_following_ends_after_so_long_without_an_event(self, store: Any, ten: Any) -> None:
        assert [event.position for event in ten.follow(start=9, idle=0.05)] == [9]
        assert texts(store.follow(store.cursor(), idle=0.05)) == []

    # --- many at once ---
    def test_threads_that_append_lose_nothing_and_double_nothing(self, store: Any, session: Any) -> None:
        failures: list[BaseException] = []

        def work(name: int) -> None:
            try:
                mine = store.session("s")
                for number in range(25):
                    mine.append("note", {"content": f"{name} {number}"}, key=f"{name}-{number}")
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        assert failures == []
        said = texts(session)
        assert sorted(said) == sorted(f"{name} {number}" for name in range(12) for number in range(25))
        for name in range(12):
            mine = [text for text in said if text.startswith(f"{name} ")]
            assert mine == [f"{name} {number}" for number in range(25)]
        assert session.verify().ok

    def test_of_writers_that_expect_the_same_head_one_wins(self, store: Any, session: Any) -> None:
        won: list[Event] = []
        lost: list[ConflictError] = []
        ready = threading.Barrier(8)

        def work() -> None:
            mine = store.session("s")
            ready.wait(DEADLINE_SECONDS)
            try:
                won.append(mine.append("note", {"content": "x"}, expected=0))
            except ConflictError as conflict:
                lost.append(conflict)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        assert (len(won), len(lost), session.size()) == (1, 7, 1)

    # --- the end ---
    def test_a_closed_store_says_so(self, store: Any, ten: Any) -> None:
        store.close()
        for call in (lambda: ten.append("note", {"content": "x"}), ten.size, lambda: store.session("s")):
            with pytest.raises(UnavailableError, match="closed"):
                call()


def _end(feed: Any) -> str:
    for _ in feed:
        continue
    return feed.cursor
