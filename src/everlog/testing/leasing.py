"""What leases promise (law 8): one a session, tokens that only grow, old ones refused for ever; and what waking gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from everlog.core.event import NewEvent
from everlog.errors import (
    ConflictError,
    EverlogError,
    FencedError,
    InvalidEventError,
    KeyReusedError,
    LimitError,
    NotFoundError,
)
from everlog.testing.clock import FixedClock, FixedTicks
from everlog.testing.start import DEADLINE_SECONDS, ContractStart, note, texts

TTL = 30.0
LAPSE = TTL + 1.0
INBOX = ("user.message", "user.x.y", "system.message", "signal", "note")
NOT_INBOX = (
    "agent.message",
    "agent.tool_use",
    "user",
    "users.message",
    "notes",
    "note.x",
    "signal.x",
    "system.messages",
)


def agent(text: str, **members: Any) -> NewEvent:
    return NewEvent("agent.message", {"content": text}, **members)


def fenced(call: Callable[[], Any]) -> FencedError:
    """Give the error with which a call is refused."""
    with pytest.raises(FencedError) as caught:
        call()
    assert caught.value.code == "fenced"
    assert "nothing was written" in caught.value.message
    return caught.value


def told(session: Any) -> list[tuple[str, int, str | None]]:
    """Give the leases that a session's events tell of: (type, token, outcome)."""
    return [(event.type, event.data["token"], event.outcome) for event in session.events(types=["lease.*"])]


def writes(session: Any) -> list[Callable[[], Any]]:
    """Give calls that only a holder may make, each of which would change something. The session has branches b1 and b2."""
    return [
        lambda: session.append("agent.message", {"content": "x"}),
        lambda: session.extend([agent("x"), agent("y")]),
        lambda: session.rewind(1, reason="back"),
        lambda: session.rewind(1, events=[note("x")]),
        lambda: session.switch("b1", reason="over"),
        lambda: session.update(title="other"),
        lambda: session.update(labels={"a": "b"}),
        lambda: session.checkpoint("mark"),
        lambda: session.append("state.set", {"path": "/a", "value": 1}, state="document"),
    ]


def check_refused(session: Any, holder: str | None) -> None:
    """Every write of a handle is refused, and nothing changes."""
    before = session.info()
    for call in writes(session):
        assert fenced(call).holder == holder
    after = session.info()
    assert (after.head, after.branch, after.title, after.labels) == (
        before.head,
        before.branch,
        before.title,
        before.labels,
    )


class LeasingContract(ContractStart):
    """What leases and waking promise. What needs a lease to lapse runs where `open_store_with_ticks` gives a store."""

    @pytest.fixture
    def ticks(self) -> FixedTicks:
        return FixedTicks()

    @pytest.fixture
    def timed(self, tmp_path: Path, clock: FixedClock, ticks: FixedTicks) -> Iterator[Any]:
        folder = tmp_path / "timed"
        folder.mkdir()
        opened = self.open_store_with_ticks(folder, clock, ticks)
        if opened is None:
            pytest.skip("this store's ticks cannot be set: no lease of it lapses before its time")
        yield opened
        opened.close()

    @pytest.fixture
    def pair(self, timed: Any) -> tuple[Any, Any]:
        """Two handles of a session of four events on two branches, in a store whose ticks are set."""
        made = timed.create("s", events=[note(f"n{number}") for number in range(3)])
        made.rewind(3)
        return made, timed.session("s")

    # --- one lease a session ---
    def test_one_lease_a_session(self, store: Any, session: Any, clock: FixedClock) -> None:
        held = session.lease("worker-1", TTL)
        assert (held.holder, held.alive, held.lost) == ("worker-1", True, None)
        for taker in (store.session("s"), session):
            error = fenced(lambda taker=taker: taker.lease("worker-2", TTL))
            assert error.holder == "worker-1"
            assert error.until is not None
            assert clock() < error.until <= clock() + TTL * 1_000_000
        assert store.create("other").lease("worker-2", TTL).alive
        assert told(session) == [("lease.acquired", held.token, None)]

    def test_while_a_lease_lives_nobody_else_writes(self, store: Any, ten: Any) -> None:
        ten.rewind(8)
        held = ten.lease("worker-1", TTL)
        other = store.session("s")
        check_refused(other, "worker-1")
        fork = other.fork(3, id="f")
        fork.append("agent.message", {"content": "a fork is another session"})
        fenced(lambda: other.merge(fork))
        assert held.alive
        assert store.verify().ok

    def test_anyone_may_append_inbox_types_while_a_lease_lives(self, store: Any, ten: Any) -> None:
        ten.lease("worker-1", TTL)
        other = store.session("s")
        for kind in INBOX:
            assert other.append(kind, {"name": "n", "data": 1, "content": "c"}).type == kind
        other.signal("approval", {"yes": True})
        batch = [NewEvent(kind, {"name": "n", "data": 1, "content": "c"}) for kind in INBOX]
        assert len(other.extend(batch)) == len(batch)
        size = other.size()
        for kind in NOT_INBOX:
            wrong = NewEvent(kind, {"content": "x", "id": "i", "name": "n", "input": {}})
            assert kind in fenced(lambda wrong=wrong: other.append(wrong.type, wrong.data)).message
            for mixed in ([*batch, wrong], [wrong, *batch]):
                fenced(lambda mixed=mixed: other.extend(mixed))
        assert other.size() == size
        with pytest.raises(ConflictError):
            other.append("note", {"content": "late"}, expected=1)

    def test_the_holder_does_all_that_a_writer_may(self, store: Any, ten: Any) -> None:
        ten.rewind(8)
        held = ten.lease("worker-1", TTL)
        for call in writes(ten):
            call()
        assert ten.info().title == "other"
        assert ten.append("agent.message", {"content": "x"}, expected=ten.head).position == ten.size() - 1
        with pytest.raises(ConflictError):
            ten.append("agent.message", {"content": "x"}, expected=0)
        held.release()
        assert store.verify().ok

    def test_the_lease_is_shown_by_the_handle_that_took_it_and_by_no_other(self, store: Any, session: Any) -> None:
        session.lease("worker-1", TTL)
        fenced(lambda: store.session("s").append("agent.message", {"content": "same holder, other handle"}))
        assert session.append("agent.message", {"content": "x"}).type == "agent.message"

    def test_keys_are_looked_up_before_the_lease_and_the_lease_before_expected(self, store: Any, session: Any) -> None:
        first = session.append("agent.message", {"content": "x"}, key="a")
        batch = session.extend([agent("y"), agent("z")], key="b")
        session.lease("worker-1", TTL)
        other = store.session("s")
        again = other.append("agent.message", {"content": "x"}, key="a", expected=0)
        assert again.repeated
        assert again == first
        assert other.extend([agent("y"), agent("z")], key="b") == batch
        assert other.extend([agent("x", key="a")], repeats="skip") == [first]
        with pytest.raises(KeyReusedError):
            other.append("agent.message", {"content": "else"}, key="a")
        fenced(lambda: other.append("agent.message", {"content": "new"}, key="c"))
        fenced(lambda: other.extend([agent("x", key="a"), agent("new", key="c")], repeats="skip"))
        fenced(lambda: other.append("agent.message", {"content": "new"}, expected=0))
        fenced(lambda: other.rewind(0, expected=0))
        fenced(lambda: other.update(title="t"))

    # --- tokens ---
    def test_tokens_only_grow(self, pair: tuple[Any, Any], ticks: FixedTicks) -> None:
        tokens: list[int] = []
        for number in range(6):
            held = pair[number % 2].lease(f"worker-{number}", TTL)
            tokens.append(held.token)
            if number % 3 == 1:
                ticks.advance(seconds=LAPSE)
            elif number % 3 == 2:
                ticks.restart()
            else:
                held.release()
        assert tokens == sorted(set(tokens))
        assert tokens[0] > 0

    def test_a_lapsed_lease_is_refused_for_ever(self, pair: tuple[Any, Any], ticks: FixedTicks) -> None:
        late, other = pair
        late.append("agent.message", {"content": "x"}, key="a")
        held = late.lease("worker-1", TTL)
        ticks.advance(seconds=LAPSE)
        check_refused(late, None)  # nobody followed, and yet
        assert not held.alive
        fenced(lambda: late.append("user.message", {"content": "a token that is good no more is told of"}))
        followed = other.lease("worker-2", TTL)
        check_refused(late, "worker-2")
        followed.release()
        check_refused(late, None)
        other.append("agent.message", {"content": "free again"})
        other.lease("worker-1", TTL).release()
        check_refused(late, None)
        fenced(held.renew)
        fenced(held.release)
        assert isinstance(held.lost, FencedError)
        assert late.append("agent.message", {"content": "x"}, key="a").repeated
        assert late.lease("worker-1", TTL).token > followed.token
        assert late.append("agent.message", {"content": "with a new lease"}).type == "agent.message"

    def test_a_lease_of_another_start_of_the_machine_has_lapsed(self, pair: tuple[Any, Any], ticks: FixedTicks) -> None:
        late, other = pair
        late.lease("worker-1", TTL)
        ticks.restart()
        check_refused(late, None)
        assert other.append("agent.message", {"content": "free"}).type == "agent.message"
        other.lease("worker-2", TTL)
        check_refused(late, "worker-2")

    @pytest.mark.parametrize("left", [1, 0])
    def test_a_lease_lives_to_its_last_tick_and_no_longer(
        self, pair: tuple[Any, Any], ticks: FixedTicks, left: int
    ) -> None:
        late, other = pair
        late.lease("worker-1", 2.5)
        ticks.micros += 2_500_000 - left  # in one go: in two the background may renew it between them
        keeps, ends = (late, other) if left else (other, late)
        fenced(lambda: ends.append("agent.message", {"content": "x"}))
        assert keeps.append("agent.message", {"content": "x"}).type == "agent.message"

    def test_renewing_extends_a_lease_and_cannot_bring_one_back(self, pair: tuple[Any, Any], ticks: FixedTicks) -> None:
        holder, other = pair
        held = holder.lease("worker-1", TTL)
        for _ in range(5):
            ticks.advance(seconds=TTL * 0.9)
            held.renew()
        fenced(lambda: other.lease("worker-2", TTL))
        assert holder.append("agent.message", {"content": "x"}).type == "agent.message"
        assert held.alive
        size = holder.size()
        ticks.advance(seconds=LAPSE)
        fenced(held.renew)
        assert not held.alive
        assert isinstance(held.lost, FencedError)
        fenced(lambda: holder.append("agent.message", {"content": "x"}))
        assert other.size() == size

    def test_the_wall_clock_neither_ends_nor_lengthens_a_lease(
        self, pair: tuple[Any, Any], ticks: FixedTicks, clock: FixedClock
    ) -> None:
        holder, other = pair
        holder.lease("worker-1", TTL)
        for hours in (1, -2, 48):
            clock.advance(seconds=hours * 3600)
            error = fenced(lambda: other.lease("worker-2", TTL))
            assert error.until == clock() + TTL * 1_000_000
            holder.append("agent.message", {"content": "x"})
        clock.advance(seconds=-100 * 3600)
        ticks.advance(seconds=LAPSE)
        assert other.lease("worker-2", TTL).alive
        check_refused(holder, "worker-2")

    # --- giving it back ---
    def test_a_released_lease_lets_others_write_at_once(self, store: Any, session: Any) -> None:
        other = store.session("s")
        held = session.lease("worker-1", TTL)
        given = held.release("over")
        assert (given.type, given.data) == ("lease.released", {"token": held.token, "reason": "over"})
        assert held.release() is None
        assert (held.alive, held.lost) == (False, None)
        assert other.append("agent.message", {"content": "x"}).position == given.position + 1
        assert session.append("agent.message", {"content": "x"}).type == "agent.message"
        following = other.lease("worker-2", TTL)
        fenced(lambda: session.append("agent.message", {"content": "x"}))
        fenced(held.renew)
        assert following.alive

    def test_a_lease_is_given_back_by_leaving_it_also_with_an_exception(self, store: Any, session: Any) -> None:
        with session.lease("worker-1", TTL) as held:
            session.append("agent.message", {"content": "x"})
            assert held.alive
        with pytest.raises(ZeroDivisionError), session.lease("worker-1", TTL):
            raise ZeroDivisionError
        with session.lease("worker-1", TTL) as held:
            held.release("in the body")
        reasons = [event.data["reason"] for event in session.events(types=["lease.released"])]
        assert reasons == ["done", "ZeroDivisionError was raised", "in the body"]
        assert store.leases() == []

    def test_an_exception_in_the_body_is_not_hidden_by_a_lease_that_was_lost(
        self, pair: tuple[Any, Any], ticks: FixedTicks
    ) -> None:
        def die() -> None:
            with pair[0].lease("worker-1", TTL):
                ticks.advance(seconds=LAPSE)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            die()
        assert told(pair[1]) == [("lease.acquired", 1, None)]

    def test_events_tell_of_leases_and_of_those_that_lapsed_at_the_next(
        self, pair: tuple[Any, Any], ticks: FixedTicks, clock: FixedClock
    ) -> None:
        one, other = pair
        one.lease("worker-1", TTL).release()
        one.lease("worker-1", TTL)
        ticks.advance(seconds=LAPSE)
        clock.advance(seconds=LAPSE)
        assert told(other) == [("lease.acquired", 1, None), ("lease.released", 1, None), ("lease.acquired", 2, None)]
        other.lease("worker-2", TTL)
        assert told(other)[3:] == [("lease.released", 2, "timeout"), ("lease.acquired", 3, None)]
        lapsed, taken = other.slice(-2)
        assert "worker-1" in lapsed.data["reason"]
        assert taken.data["holder"] == "worker-2"
        assert taken.data["until"].startswith("20")
        assert taken.actor is None
        for own in ("lease.acquired", "lease.released"):
            with pytest.raises(InvalidEventError):
                other.append(own, {"holder": "x", "token": 9, "until": "2026-01-01T00:00:00Z", "reason": "x"})

    # --- waiting for one ---
    def test_who_waits_gets_the_lease_when_it_is_given_back(self, store: Any, session: Any) -> None:
        held = session.lease("worker-1", TTL)
        other = store.session("s")
        fenced(lambda: other.lease("worker-2", TTL, timeout=0.05))
        got: list[Any] = []
        waiter = Thread(target=lambda: got.append(other.lease("worker-2", TTL, timeout=DEADLINE_SECONDS)))
        waiter.start()
        held.release()
        waiter.join(DEADLINE_SECONDS)
        assert [lease.token for lease in got] == [held.token + 1]
        assert other.append("agent.message", {"content": "x"}).type == "agent.message"

    def test_who_waits_gets_the_lease_when_it_lapses(self, pair: tuple[Any, Any], ticks: FixedTicks) -> None:
        held = pair[0].lease("worker-1", TTL)
        got: list[Any] = []
        waiter = Thread(target=lambda: got.append(pair[1].lease("worker-2", TTL, timeout=DEADLINE_SECONDS)))
        waiter.start()
        ticks.advance(seconds=LAPSE)
        waiter.join(DEADLINE_SECONDS)
        assert [lease.token for lease in got] == [held.token + 1]

    def test_of_many_who_wait_one_holds_at_a_time_and_all_come_to_it(self, store: Any, session: Any) -> None:
        def work(number: int) -> None:
            own = store.session("s")
            with own.lease(f"worker-{number}", TTL, timeout=DEADLINE_SECONDS) as held:
                own.extend([agent(f"{held.token}"), agent(f"{held.token}")])

        workers = [Thread(target=work, args=(number,)) for number in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(DEADLINE_SECONDS)
        kinds = [event.type for event in session]
        assert kinds == ["lease.acquired", "agent.message", "agent.message", "lease.released"] * 4
        assert texts(session) == ["1", "1", "2", "2", "3", "3", "4", "4"]

    # --- what begins without one ---
    def test_a_fork_begins_without_a_lease_above_its_parents_tokens(self, store: Any, session: Any) -> None:
        for _ in range(3):
            session.lease("worker-1", TTL).release()
        held = session.lease("worker-1", TTL)
        fork = store.session("s").fork("end", id="f")
        assert fork.append("agent.message", {"content": "free"}).type == "agent.message"
        deeper = fork.fork(0, id="g")
        assert fork.lease("worker-2", TTL).token > held.token
        assert deeper.lease("worker-3", TTL).token > held.token
        assert session.append("agent.message", {"content": "still the holder"}).type == "agent.message"

    def test_a_session_made_anew_has_nothing_of_the_lease_of_the_deleted(self, store: Any, session: Any) -> None:
        held = session.lease("worker-1", TTL)
        store.delete("s", reason="over")
        anew = store.create("s")
        assert store.leases() == []
        anew.append("agent.message", {"content": "free"})
        following = anew.lease("worker-2", TTL)
        for call in (lambda: session.append("agent.message", {"content": "x"}), held.renew):
            with pytest.raises(NotFoundError):
                call()
        assert following.alive
        assert [lease.holder for lease in store.leases()] == ["worker-2"]

    # --- listing, terms ---
    def test_the_leases_that_live_are_listed_the_last_taken_first(
        self, timed: Any, ticks: FixedTicks, clock: FixedClock
    ) -> None:
        held: dict[str, Any] = {}
        for name in ("a", "b", "c", "d"):
            clock.advance(seconds=1)
            held[name] = timed.create(name).lease(f"at-{name}", 100.0 if name == "d" else TTL)
        held["b"].release()
        assert [(each.session, each.holder) for each in timed.leases()] == [
            ("d", "at-d"),
            ("c", "at-c"),
            ("a", "at-a"),
        ]
        first = timed.leases(limit=1)[0]
        assert (first.session, first.token, first.ttl, first.taken_at) == ("d", held["d"].token, 100.0, clock())
        assert first.until == clock() + 100_000_000
        ticks.advance(seconds=LAPSE)
        assert [each.session for each in timed.leases()] == ["d"]
        ticks.restart()
        assert timed.leases() == []
        for wrong in (0, -1, 10**9):
            with pytest.raises(LimitError):
                timed.leases(limit=wrong)

    def test_a_lease_with_bad_terms_is_refused_and_nothing_is_written(self, store: Any, session: Any) -> None:
        for holder in ("", "a\nb", "x" * 129, None, 7):
            with pytest.raises(InvalidEventError):
                session.lease(holder, TTL)
        for ttl in (0, -1, 0.01, 10**9, float("nan"), float("inf"), "30", None, True):
            with pytest.raises(LimitError):
                session.lease("worker-1", ttl)
            with pytest.raises(EverlogError):
                store.wake("s", holder="worker-1", ttl=ttl)
        assert session.size() == 0
        assert store.leases() == []

    # --- waking ---
    def test_waking_takes_the_lease_and_says_what_was_in_flight(self, store: Any, session: Any) -> None:
        session.append("user.message", {"content": "go"})
        mark = session.checkpoint("mark")
        call = session.append("agent.tool_use", {"id": "c1", "name": "bash", "input": {"cmd": "x"}})
        with store.wake("s", holder="worker-1", ttl=TTL) as woken:
            assert (woken.id, woken.lease.holder, woken.lease.alive) == ("s", "worker-1", True)
            assert woken.last_checkpoint == mark
            assert [(tool.id, tool.name, tool.event) for tool in woken.pending.tools] == [("c1", "bash", call.id)]
            assert woken.head.size == woken.size()
            fenced(lambda: session.append("agent.message", {"content": "x"}))
            (closed,) = woken.repair()
            assert (closed.type, closed.outcome, closed.data["tool_use_id"]) == ("agent.tool_result", "unknown", "c1")
            assert woken.repair() == []
            assert not woken.in_flight().tools
        assert told(session) == [("lease.acquired", 1, None), ("lease.released", 1, None)]
        with store.wake("s", holder="worker-2", ttl=TTL) as woken:
            assert not woken.pending.tools
        assert store.verify().ok

    def test_waking_while_another_holds_it_is_refused_or_waits(self, store: Any) -> None:
        store.create("s")
        with store.wake("s", holder="worker-1", ttl=TTL) as woken:
            error = fenced(lambda: store.wake("s", holder="worker-2", ttl=TTL))
            assert error.holder == "worker-1"
            got: list[Any] = []
            waiter = Thread(
                target=lambda: got.append(store.wake("s", holder="worker-2", ttl=TTL, timeout=DEADLINE_SECONDS))
            )
            waiter.start()
            woken.append("agent.message", {"content": "mine"})
        waiter.join(DEADLINE_SECONDS)
        assert texts(got[0]) == ["mine"]
        got[0].append("agent.message", {"content": "after"})
        with pytest.raises(NotFoundError):
            store.wake("none", holder="worker-1")

    def test_who_wakes_a_session_whose_worker_died_takes_over(
        self, timed: Any, pair: tuple[Any, Any], ticks: FixedTicks
    ) -> None:
        died = timed.wake("s", holder="worker-1", ttl=TTL)
        died.append("agent.message", {"content": "before"})
        ticks.advance(seconds=LAPSE)
        with timed.wake("s", holder="worker-2", ttl=TTL) as woken:
            assert woken.lease.token > died.lease.token
            check_refused(died, "worker-2")
            woken.append("agent.message", {"content": "after"})
        check_refused(died, None)
        assert told(pair[0])[1] == ("lease.released", 1, "timeout")
        assert texts(woken)[-2:] == ["before", "after"]
