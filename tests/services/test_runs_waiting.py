"""Waiting: signals from outside, times, and people who decide about steps; all of it goes on in another process."""

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest

from everlog.errors import (
    DivergenceError,
    InvalidEventError,
    LimitError,
    StepUnknownError,
    WaitingError,
    WaitTimeoutError,
)
from services.restarts import DEADLINE_SECONDS, EVERYWHERE, Killed, die, in_time

HOUR = 3_600


def waits(world, run=None, name="go", **options):
    """Ask for a wait in the next process, which has no patience."""
    return (run or world.run()).wait(name, **({"patience": 0} | options))


# --- signals ---
def test_a_signal_that_came_before_the_wait_counts(world):
    world.session().signal("go", {"ok": True})
    assert waits(world) == {"ok": True}
    assert world.types() == ["signal", "wait.started", "wait.finished"]
    finished = world.events()[-1]
    assert finished.data == {"name": "go", "occurrence": 1, "signal": 0}
    assert finished.caused_by == world.events()[0].id


@EVERYWHERE
def test_a_wait_goes_on_in_another_process_and_is_recorded_once(world):
    for _ in range(3):
        with pytest.raises(WaitingError, match="everlog signal s go") as waiting:
            waits(world)
        assert waiting.value.name == "go"
    assert world.types() == ["wait.started"]
    world.session().signal("go", 5)
    assert waits(world) == 5
    assert waits(world) == 5
    assert world.types() == ["wait.started", "signal", "wait.finished"]


@EVERYWHERE
def test_a_signal_wakes_who_waits_for_it(world):
    result = []
    run = world.run()
    waiter = threading.Thread(target=lambda: result.append(run.wait("go", patience=DEADLINE_SECONDS)))
    waiter.start()
    world.beside().signal("other", 1)
    world.beside().signal("go", 2)
    waiter.join(DEADLINE_SECONDS)
    assert result == [2]


def test_the_first_signal_wins_and_two_waits_take_two(world):
    for number in (1, 2):
        world.session().signal("go", number)
    world.session().signal("stop", 9)
    for _ in range(2):
        run = world.run()
        assert [waits(world, run), waits(world, run)] == [1, 2]
        with pytest.raises(WaitingError):
            waits(world, run)
    world.session().signal("go", 3)
    run = world.run()
    assert [waits(world, run), waits(world, run), waits(world, run), waits(world, run, "stop")] == [1, 2, 3, 9]


@EVERYWHERE
def test_waits_side_by_side_never_take_the_same_signal(world):
    for number in range(8):
        world.session().signal("go", number)
    run, taken = world.run(), []
    threads = [threading.Thread(target=lambda: taken.append(waits(world, run))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert sorted(taken) == list(range(8))


@EVERYWHERE
def test_two_runs_do_not_take_the_same_signal(world):
    one, other = world.beside().run("one"), world.beside().run("other")
    for run in (one, other):
        with pytest.raises(WaitingError):
            waits(world, run)
    world.beside().signal("go", 1)
    world.beside().signal("go", 2)
    one, other = world.beside().run("one"), world.beside().run("other")
    assert [waits(world, one), waits(world, other)] == [1, 2]
    assert [waits(world, world.beside().run(name)) for name in ("one", "other")] == [1, 2]


@EVERYWHERE
def test_anyone_may_signal_while_another_holds_the_lease(world):
    with world.store().wake(world.beside().id, holder="one") as woken:
        with pytest.raises(WaitingError):
            waits(world, woken.run())
        world.beside().signal("go", "from outside", actor="ann")
        assert waits(world, woken.run()) == "from outside"
    assert world.events("signal")[0].actor == "ann"


@EVERYWHERE
def test_a_signal_that_is_sent_twice_under_one_key_is_one(world):
    for _ in range(2):
        world.session().signal("go", 1, key="k")
    run = world.run()
    assert waits(world, run) == 1
    with pytest.raises(WaitingError):
        waits(world, run)


def test_a_signal_needs_no_data(world):
    world.session().signal("go")
    assert waits(world) is None


@pytest.mark.parametrize("data", [{1}, float("nan"), b"x", object()])
def test_a_signal_takes_json(world, data):
    with pytest.raises(InvalidEventError):
        world.session().signal("go", data)
    assert world.types() == []


@EVERYWHERE
def test_an_erased_signal_ends_no_wait_but_that_which_took_it_before(world):
    world.session().signal("go", "secret")
    world.session().signal("go", "secret too")
    assert waits(world) == "secret"
    world.session().erase([0, 1], reason="secret")
    run = world.run()
    assert waits(world, run) is None
    with pytest.raises(WaitingError):
        waits(world, run)


# --- timeouts ---
@EVERYWHERE
def test_a_timeout_counts_from_the_first_time_it_was_asked_for_and_is_recorded_once(world):
    with pytest.raises(WaitingError):
        waits(world, timeout="2h")
    assert world.events()[0].data["until"] == world.clock.micros + 2 * HOUR * 1_000_000
    world.clock.advance(seconds=HOUR)
    with pytest.raises(WaitingError):
        waits(world, timeout="2h")
    world.clock.advance(seconds=HOUR)
    with pytest.raises(WaitTimeoutError, match="that is recorded"):
        waits(world, timeout="2h")
    assert world.types() == ["wait.started", "wait.finished"]
    assert world.events()[1].outcome == "timeout"
    world.session().signal("go", "late")
    run = world.run()
    with pytest.raises(WaitTimeoutError) as over:
        waits(world, run, timeout="2h")
    assert over.value.event == world.events()[1]
    assert isinstance(over.value, TimeoutError)
    assert waits(world, run) == "late"  # of the next wait


def test_a_signal_in_time_counts_though_nobody_looked_until_later(world):
    with pytest.raises(WaitingError):
        waits(world, timeout=60)
    world.session().signal("go", 1)
    world.clock.advance(seconds=61)
    assert waits(world, timeout=60) == 1


def test_a_wait_without_a_signal_ends_at_its_time(world):
    run = world.run()
    ended = []

    def wait():
        try:
            run.wait("go", timeout=60)
        except WaitTimeoutError:
            ended.append("timeout")

    waiter = threading.Thread(target=wait)
    waiter.start()
    world.see("wait.started")
    world.clock.advance(seconds=61)
    world.beside().append("note", {"content": "news, so that it looks"})
    waiter.join(DEADLINE_SECONDS)
    assert ended == ["timeout"]


@pytest.mark.parametrize("timeout", ["", "2", "soon", "-2h", -1, True, float("nan"), 1e12])
def test_a_timeout_that_is_none_is_refused(world, timeout):
    with pytest.raises((InvalidEventError, LimitError), match="nothing was written"):
        waits(world, timeout=timeout)
    assert world.types() == []


@pytest.mark.parametrize("patience", ["1", -1, True, float("nan")])
def test_a_patience_that_is_none_is_refused(world, patience):
    for ask in (waits, lambda world, patience: world.run().sleep_until(60, patience=patience)):
        with pytest.raises((InvalidEventError, LimitError)):
            in_time(lambda ask=ask: ask(world, patience=patience))
    assert world.types() == []


# --- sleeping ---
@EVERYWHERE
@pytest.mark.parametrize("form", ["seconds", "text", "datetime"])
def test_a_sleep_counts_from_the_first_time_and_survives_restarts(world, slept, form):
    until = world.clock.micros / 1_000_000 + 2 * HOUR
    when = {
        "seconds": 2 * HOUR,
        "text": "2h",
        "datetime": datetime.fromtimestamp(until, timezone(timedelta(hours=5))),
    }[form]
    with pytest.raises(WaitingError, match="7200 more seconds"):
        world.run().sleep_until(when, patience=60)
    world.clock.advance(seconds=2 * HOUR - 30)
    world.run().sleep_until(when, patience=60)
    assert sum(slept) == pytest.approx(30)
    slept.clear()
    world.run().sleep_until(when)
    assert slept == []
    assert world.types() == ["wait.started", "wait.finished"]


def test_a_sleep_is_ended_by_no_signal(world):
    world.session().signal("sleep", 1)
    with pytest.raises(WaitingError):
        world.run().sleep_until(60, patience=0)


def test_sleeps_of_one_name_are_counted(world, slept):
    run = world.run()
    for _ in range(3):
        run.sleep_until(10)
    assert sum(slept) == pytest.approx(30)
    again = world.run()
    for _ in range(3):
        again.sleep_until(10)
    assert sum(slept) == pytest.approx(30)


def test_a_time_that_is_over_is_not_slept_for(world, slept):
    world.run().sleep_until(datetime(2001, 1, 1, tzinfo=UTC))
    world.run().sleep_until(0, name="other")
    assert slept == []


@pytest.mark.parametrize("when", [datetime(2030, 1, 1), "soon", -1, True, None, float("nan"), [1]], ids=str)
def test_a_time_that_is_none_is_refused(world, when):
    with pytest.raises((InvalidEventError, LimitError), match="nothing was written"):
        world.run().sleep_until(when, patience=0)
    assert world.types() == []


# --- asking about an unknown step ---
@pytest.fixture
def unknown(world):
    """A run whose step `pay` died."""
    with pytest.raises(Killed):
        pay(world, die)


def pay(world, function=die):
    opened = world.run()  # here: opening it closes what others have open

    def work():
        with opened as run:
            return run.step("pay", function, policy="ask")

    return in_time(work, DEADLINE_SECONDS)


def test_ask_waits_for_a_signal_that_decides(world, unknown, calls):
    key = world.events("step.started")[1].data["effect_key"]
    opened = world.run()

    def ask():
        with opened as run:
            run.step("pay", calls.giving("paid"), policy="ask")

    asking = threading.Thread(target=ask)
    asking.start()
    world.see("wait.started")
    assert world.beside().in_flight().waits[0].name == "step:pay"
    world.beside().signal("step:pay", "retry")
    asking.join(DEADLINE_SECONDS)
    assert calls == [key]
    assert pay(world) == "paid"


def test_ask_may_be_told_what_the_step_gave(world, unknown):
    world.session().signal("step:pay", {"decision": "finished", "result": {"receipt": 7}})
    assert pay(world) == {"receipt": 7}
    assert pay(world) == {"receipt": 7}


def test_ask_may_be_told_that_it_failed(world, unknown):
    world.session().signal("step:pay", "fail")
    for _ in range(2):
        with pytest.raises(StepUnknownError):
            pay(world)
    assert world.events("step.finished")[-1].outcome == "unknown"


@EVERYWHERE
def test_a_run_that_asked_can_go_on_and_end_in_another_process(world, unknown):
    world.session().signal("step:pay", "retry")
    with pytest.raises(Killed), world.run() as run:
        run.step("pay", lambda: "paid", policy="ask")
        run.step("send", die, policy="retry")
    for _ in range(2):
        with world.run() as run:
            assert run.step("pay", die, policy="ask") == "paid"
            assert run.step("send", lambda: "sent", policy="retry") == "sent"


def test_a_decision_counts_for_one_time_only(world, unknown):
    world.session().signal("step:pay", "retry")
    with pytest.raises(Killed):
        pay(world, die)
    world.session().signal("step:pay", "fail")
    with pytest.raises(StepUnknownError):
        pay(world, lambda: pytest.fail("it was not asked again"))


@pytest.mark.parametrize("data", ["Retry", None, 3, ["retry"], {"decision": "no"}, {"result": 1}])
def test_a_signal_that_decides_nothing_is_refused_and_the_next_one_counts(world, unknown, data):
    world.session().signal("step:pay", data)
    with pytest.raises(InvalidEventError, match="nothing was decided"):
        pay(world)
    world.session().signal("step:pay", "retry")
    assert pay(world, lambda: "paid") == "paid"


# --- in a finished run ---
def test_a_finished_run_that_waits_for_something_new_diverges(world):
    with world.run():
        pass
    before = world.types()
    for ask in (lambda run: run.wait("go", patience=0), lambda run: run.sleep_until(60, patience=0)):
        with pytest.raises(DivergenceError, match="nothing was written"), world.run() as run:
            ask(run)
    assert world.types() == before
