"""What retention promises: what is old enough goes, what is kept or held stays, and everything is recorded."""

from __future__ import annotations

from typing import Any

import pytest

from everlog.core.event import NewEvent
from everlog.errors import HeldError, InvalidEventError, InvalidQueryError, LimitError, NotFoundError
from everlog.testing.clock import FixedClock
from everlog.testing.start import ContractStart, note, texts

DAY = 86_400
HELD = "retention/policies"


class RetentionContract(ContractStart):
    """What retention promises: what is old enough goes, what is kept or held stays, and everything is recorded."""

    @pytest.fixture
    def retention(self, store: Any) -> Any:
        return store.retention

    # --- policies ---
    def test_policies_are_recorded_with_who_and_why_and_can_be_asked_about(self, store: Any, retention: Any) -> None:
        assert retention.policies() == []
        retention.set("u7", action="erase", query="label.user:u7", older_than="90d", reason="notice 4.2", actor="ada")
        retention.set("always", action="keep", query="session:*")
        retention.set("u7", action="erase", query="label.user:u7", older_than=3600, types="user.*")
        retention.set("u7", action="erase", query="label.user:u7", older_than="3600s", types=["user.*"])  # the same
        assert [(each.name, each.action, each.older_than, each.types) for each in retention.policies()] == [
            ("always", "keep", None, ()),
            ("u7", "erase", "3600s", ("user.*",)),
        ]
        retention.remove("always", reason="no more", actor="ada")
        changes = store.session(HELD).slice()
        assert [(event.type, event.rationale, event.actor) for event in changes] == [
            ("state.set", "notice 4.2", "ada"),
            ("state.set", None, None),
            ("state.set", None, None),
            ("state.patch", "no more", "ada"),
        ]
        assert [reason.event.position for reason in store.session(HELD).why("/u7")] == [2, 0]
        with pytest.raises(NotFoundError, match="no retention policy 'always'"):
            retention.remove("always", reason="again")

    @pytest.mark.parametrize(
        ("name", "members", "error", "said"),
        [
            ("U7", {"action": "keep", "query": "session:*"}, InvalidEventError, "names no policy"),
            ("a/b", {"action": "keep", "query": "session:*"}, InvalidEventError, "names no policy"),
            ("x" * 65, {"action": "keep", "query": "session:*"}, InvalidEventError, "names no policy"),
            (
                "p",
                {"action": "shred", "query": "session:*"},
                InvalidEventError,
                "choose one of archive erase keep hold",
            ),
            ("p", {"action": "keep", "query": " "}, InvalidEventError, "names no sessions"),
            ("p", {"action": "keep", "query": "type:note"}, InvalidQueryError, "speaks of events"),
            ("p", {"action": "keep", "query": 'label.a:"'}, InvalidQueryError, "never closed"),
            ("p", {"action": "keep", "query": "session:a\0"}, InvalidQueryError, "NUL"),
            ("p", {"action": "erase", "query": "session:*"}, InvalidEventError, "needs older_than"),
            ("p", {"action": "erase", "query": "session:*", "older_than": "soon"}, InvalidEventError, "is no age"),
            ("p", {"action": "erase", "query": "session:*", "older_than": "-1d"}, InvalidEventError, "is no age"),
            ("p", {"action": "erase", "query": "session:*", "older_than": "99999w"}, InvalidEventError, "is no age"),
            ("p", {"action": "erase", "query": "session:*", "older_than": float("nan")}, LimitError, "from 0 on"),
            (
                "p",
                {"action": "hold", "query": "session:*", "older_than": "1d"},
                InvalidEventError,
                "takes no older_than",
            ),
            ("p", {"action": "archive", "query": "session:*", "older_than": "1d"}, InvalidEventError, "needs to="),
            ("p", {"action": "keep", "query": "session:*", "to": "cold"}, InvalidEventError, "takes no place"),
            ("p", {"action": "keep", "query": "session:*", "types": ["note"]}, InvalidEventError, "goes by types"),
            (
                "p",
                {"action": "erase", "query": "session:*", "older_than": "1d", "types": ["No te"]},
                InvalidEventError,
                "names the type",
            ),
            ("p", {"action": "keep", "query": "session:*", "reason": "x" * 1_025}, LimitError, "shorten it"),
        ],
    )
    def test_a_policy_that_cannot_be_carried_out_is_refused_and_nothing_is_made(
        self, store: Any, retention: Any, name: str, members: dict[str, Any], error: type[Exception], said: str
    ) -> None:
        with pytest.raises(error, match=said):
            retention.set(name, **members)
        assert store.sessions() == []

    # --- erasing ---
    def test_what_is_older_is_erased_to_the_microsecond_and_what_is_not_stays(
        self, store: Any, retention: Any, clock: FixedClock
    ) -> None:
        session = store.create("s", labels={"user": "u7"}, events=[note("old")])
        other = store.create("other", events=[note("of nobody")])
        clock.micros += 1
        session.append("note", {"content": "as old as the age"})
        retention.set("u7", action="erase", query="label.user:u7", older_than="1d")
        clock.advance(seconds=DAY)
        assert texts(session) == ["old", "as old as the age"]
        assert [(work.sessions, work.events) for work in retention.plan().work] == [(1, 1)]
        assert [(work.sessions, work.events) for work in retention.apply()] == [(1, 1)]
        assert (texts(session), texts(other)) == (["as old as the age"], ["of nobody"])
        assert [work.events for work in retention.apply()] == [0]
        clock.micros += 1
        assert [work.events for work in retention.apply()] == [1]
        assert texts(session) == []
        assert store.verify().ok

    def test_a_plan_changes_nothing_and_what_was_done_is_recorded(
        self, store: Any, retention: Any, clock: FixedClock
    ) -> None:
        session = store.create("s", events=[note("a"), note("b")])
        fork = session.fork(1, id="f")
        retention.set("all", action="erase", query="session:*", older_than="1d", reason="old")
        retention.set("fork", action="keep", query="session:f")
        clock.advance(seconds=DAY + 1)
        plan = retention.plan()
        assert ([each.name for each in plan.policies], plan.at) == (["all", "fork"], clock.micros)
        work = plan.work[0]
        assert [(each.session, each.events) for each in work.due] == [("s", 1)]
        assert work.bytes > 0
        spared = {(each.session, each.events, each.by, each.shared_with) for each in work.spared}
        assert spared == {("s", 1, "fork", "f"), ("f", 1, "fork", None)}
        assert (texts(session), texts(fork)) == (["a", "b"], ["a"])
        assert store.session(HELD).size() == 2
        done = retention.apply()
        assert done == [plan.work[0]]
        started, applied = store.session(HELD).slice(2)
        assert (started.type, started.data) == ("retention.started", {"policies": ["all"]})
        assert (applied.type, applied.caused_by) == ("retention.applied", started.id)
        assert {name: applied.data[name] for name in ("policy", "action", "sessions", "events", "bytes")} == {
            "policy": "all", "action": "erase", "sessions": 1, "events": 1, "bytes": work.bytes,
        }  # fmt: skip
        assert applied.data["spared"] == {"sessions": 2, "events": 2, "by": ["fork"]}
        assert applied.data["first"] == applied.data["last"]
        assert texts(session) == ["a"]

    def test_only_the_types_that_are_named_are_erased(self, store: Any, retention: Any, clock: FixedClock) -> None:
        session = store.create("s", events=[NewEvent("user.message", {"content": "u"}), note("n")])
        retention.set("p", action="erase", query="session:s", older_than="0s", types=["user.*", "signal"])
        clock.advance(seconds=1)
        retention.apply()
        assert texts(session) == ["n"]

    def test_a_session_still_wakes_and_its_state_says_what_is_missing(
        self, store: Any, retention: Any, clock: FixedClock
    ) -> None:
        store.create("s")
        with store.wake("s", holder="w") as woken:
            woken.append("user.message", {"content": "hello"})
            woken.append("state.set", {"path": "/a", "value": 1})
            woken.append("agent.tool_use", {"id": "t", "name": "bash", "input": {}})
            woken.checkpoint("here")
            assert woken.run().step("fetch", lambda: "fetched") == "fetched"
        retention.set("p", action="erase", query="session:*", older_than="0s")
        clock.advance(seconds=1)
        retention.apply()
        with store.wake("s", holder="w") as woken:
            assert woken.state().incomplete == (2,)
            assert [tool.id for tool in woken.pending.tools] == []  # its use is erased: nothing says what to answer
            assert woken.run().step("fetch", lambda: "again") == "fetched"
            assert woken.event("here").data["name"] == "here"
        assert store.verify().ok

    def test_what_a_fork_shares_goes_by_the_session_it_was_recorded_in(
        self, store: Any, retention: Any, clock: FixedClock
    ) -> None:
        session = store.create("s", events=[note("a"), note("b")])
        fork = session.fork(1, id="f", events=[note("c")])
        fork.rewind(1, events=[note("d")])
        retention.set("p", action="erase", query="session:f", older_than="0s")
        clock.advance(seconds=1)
        assert [work.events for work in retention.apply()] == [2]
        assert (texts(session), texts(fork), texts(fork.branch("b1"))) == (["a", "b"], ["a"], ["a"])

    # --- keeping and holding ---
    def test_a_kept_session_and_what_it_shares_is_spared_from_policies_alone(
        self, store: Any, retention: Any, clock: FixedClock
    ) -> None:
        session = store.create("s", events=[note("a"), note("b"), note("c")])
        deeper = session.fork(2, id="f", events=[note("d")]).fork(1, id="g", labels={"keep": "yes"})
        retention.set("all", action="erase", query="session:*", older_than="0s")
        retention.set("kept", action="keep", query="label.keep:yes")
        clock.advance(seconds=1)
        retention.apply()
        assert (texts(session), texts(deeper)) == (["a"], ["a"])
        session.erase([0], reason="asked for")  # keeping is about policies
        assert texts(deeper) == []
        store.delete("g", reason="asked for")

    def test_a_held_session_is_neither_erased_nor_deleted_until_it_is_released(
        self, store: Any, retention: Any, clock: FixedClock
    ) -> None:
        session = store.create("s", events=[note("a"), note("b"), note("c")])
        held = session.fork(2, id="f", events=[note("d")], labels={"case": "7"})
        retention.set("all", action="erase", query="session:*", older_than="0s")
        retention.set("case-7", action="hold", query="label.case:7", reason="the court asked")
        clock.advance(seconds=1)
        retention.apply()
        assert (texts(session), texts(held)) == (["a", "b"], ["a", "b", "d"])
        for refused in (
            lambda: held.erase([3], reason="r"),
            lambda: held.erase([0], reason="r"),
            lambda: session.erase([1, 2], reason="r"),
            lambda: store.delete("f", reason="r"),
            lambda: store.delete("s", reason="r", cascade=True),
        ):
            with pytest.raises(
                HeldError, match=r"policy 'case-7' .* holds session 'f', because: the court asked"
            ) as caught:
                refused()
            assert (caught.value.policy, caught.value.session) == ("case-7", "f")
        assert (texts(session), texts(held)) == (["a", "b"], ["a", "b", "d"])
        session.append("note", {"content": "e"})
        assert session.erase([3], reason="not shared").positions == (3,)
        retention.remove("case-7", reason="closed")
        assert session.erase([0], reason="r").positions == (0,)
        store.delete("s", reason="r", cascade=True)

    def test_a_line_that_a_held_session_left_is_held_too(self, store: Any, retention: Any) -> None:
        session = store.create("s", events=[note("a"), note("b"), note("c")])
        fork = session.fork("end", id="f")
        fork.rewind(1)
        retention.set("h", action="hold", query="session:f")
        with pytest.raises(HeldError):
            session.erase([2], reason="r")
        with pytest.raises(HeldError):
            fork.erase([0], reason="r")

    def test_the_policies_are_protected_themselves(self, store: Any, retention: Any, clock: FixedClock) -> None:
        retention.set("all", action="erase", query="session:*", older_than="0s", types="*")
        retention.set("h", action="hold", query="session:x")
        policies = store.session(HELD)
        fork = policies.fork("end", id="copy")
        clock.advance(seconds=1)
        retention.apply()
        assert [event.raw is None for event in fork] == [False, False, True]
        for refused in (
            lambda: policies.erase([1], reason="r"),
            lambda: fork.erase([1], reason="r"),
            lambda: store.delete(HELD, reason="r", cascade=True),
        ):
            with pytest.raises(HeldError, match="says what is held"):
                refused()
        retention.remove("h", reason="r")
        store.delete(HELD, reason="r", cascade=True)
        assert retention.policies() == []

    def test_what_cannot_be_read_may_be_a_hold(self, store: Any, retention: Any) -> None:
        session = store.create("s", events=[note("a")])
        retention.set("h", action="keep", query="session:x")
        policies = store.session(HELD)
        for path, value in (
            ("/h", {"action": "hold"}),
            ("/h", 7),
            ("/h", {"action": "keep", "query": "session:x", "more": 1}),
        ):
            policies.append("state.set", {"path": path, "value": value})
            with pytest.raises(InvalidEventError, match="policy 'h' cannot be read"):
                session.erase([0], reason="r")
            with pytest.raises(InvalidEventError, match="may be a hold"):
                store.delete("s", reason="r")
            with pytest.raises(InvalidEventError, match="may be a hold"):
                retention.apply()
        retention.remove("h", reason="it was damaged")
        policies.append("state.set", {"path": "", "value": [1]})
        with pytest.raises(InvalidEventError, match="are a list where"):
            session.erase([0], reason="r")
        policies.rewind(1, reason="back to where they were good")
        assert session.erase([0], reason="r").positions == (0,)
