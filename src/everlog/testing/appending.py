"""What an append promises: atomic, in order, expected heads, keys, many writers."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from everlog.core import limits
from everlog.core.event import Event, Head, NewEvent
from everlog.errors import (
    ConflictError,
    InvalidEventError,
    KeyReusedError,
    LimitError,
)
from everlog.testing.clock import FixedClock
from everlog.testing.start import DEADLINE_SECONDS, ContractStart, note, texts


class AppendContract(ContractStart):
    """What an append promises: atomic, in order, expected heads, keys, many writers."""

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

    def test_find_is_by_key_in_a_session_and_in_the_store(self, store: Any, session: Any, clock: FixedClock) -> None:
        event = session.append("note", {"content": "x"}, key="c*1")
        clock.advance(seconds=1)
        other = store.create("t").append("note", {"content": "y"}, key="c*1")
        assert session.find("c*1") == event
        assert session.find("c2") is None
        assert [found.id for found in store.find("c*1")] == [other.id, event.id]
        session.extend([note(str(number), key=f"write:cp1:{number}") for number in range(3)])
        assert texts(session.events(keys="write:cp1:*")) == ["0", "1", "2"]

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
