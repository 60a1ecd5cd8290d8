"""What reading promises: slices, places, queries, times, the feed, followers."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from everlog.errors import (
    InvalidPlaceError,
    InvalidQueryError,
    NotFoundError,
    StaleCursorError,
)
from everlog.testing.clock import FixedClock
from everlog.testing.start import DEADLINE_SECONDS, ContractStart, note, texts


class ReadContract(ContractStart):
    """What reading promises: slices, places, queries, times, the feed, followers."""

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
        for cursor in (f"1:0.5.{'0' * 16}", f"1:0.99.{'0' * 16}"):
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


def _end(feed: Any) -> str:
    for _ in feed:
        continue
    return feed.cursor
