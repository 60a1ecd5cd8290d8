"""Steps: recorded before and after, done once, and what becomes of those that nobody saw the end of."""

import asyncio
import threading
from collections import OrderedDict

import pytest

from everlog.errors import (
    DivergenceError,
    FencedError,
    InvalidEventError,
    LimitError,
    StepFailedError,
    StepUnknownError,
)
from services.restarts import DEADLINE_SECONDS, EVERYWHERE, Killed, die, nested

ENDS = [Killed, KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit]


def failing(error):
    def fail():
        raise error

    return fail


def called(run, name, function, **options):
    return run.step(name, function, **options)


def decorated(run, name, function, **options):
    return run.step(name, **options)(function)()


def in_a_body(run, name, function, **options):
    with run.step(name, **options) as step:
        if not step.done:
            step.result = function(effect_key=step.effect_key)
    return step.result


FORMS = pytest.mark.parametrize("form", [called, decorated, in_a_body])


# --- recorded before and after ---
@EVERYWHERE
@FORMS
def test_the_start_is_durable_before_the_function_runs_and_the_end_after(world, form):
    seen = []

    def fetch(effect_key):
        seen.extend(world.events())
        assert [event.data["effect_key"] for event in seen] == [effect_key]
        return {"text": "x"}

    assert form(world.run(), "fetch", fetch) == {"text": "x"}
    assert [event.type for event in seen] == ["step.started"]
    started, finished = world.events()
    assert started == seen[0]
    assert {name: started.data[name] for name in ("step", "occurrence", "attempt")} == {
        "step": "fetch",
        "occurrence": 1,
        "attempt": 1,
    }
    assert finished.type == "step.finished"
    assert finished.data == {"step": "fetch", "occurrence": 1, "attempt": 1, "result": {"text": "x"}}
    assert finished.outcome == "ok"


@EVERYWHERE
@FORMS
def test_a_finished_step_gives_what_was_recorded_and_is_not_called(world, calls, form):
    first = form(world.run(), "a", calls.giving([1, {"b": None}]))
    before = world.types()
    assert form(world.run(), "a", die) == first == [1, {"b": None}]
    assert len(calls) == 1
    assert world.types() == before


def test_a_function_without_the_parameter_is_not_given_the_effect_key(world):
    assert world.run().step("add", lambda one, other: one + other, 1, 2) == 3
    assert world.run().step("count", len, [1, 2]) == 2  # whose signature is the interpreter's own
    assert world.events()[0].data["input"] == [1, 2]


def test_every_call_of_a_decorated_function_is_an_occurrence_of_its_own(world):
    def use(run):
        @run.step("double")
        def double(number):
            """Twice as much."""
            return 2 * number

        assert (double.__name__, double.__doc__) == ("double", "Twice as much.")
        return [double(number) for number in (1, 2, 3)]

    assert use(world.run()) == use(world.run()) == [2, 4, 6]
    assert [event.data["occurrence"] for event in world.events("step.started")] == [1, 2, 3]


def test_a_body_knows_its_attempt_and_whether_it_was_done(world):
    with pytest.raises(Killed), world.run().step("a", policy="retry") as step:
        assert (step.done, step.attempt) == (False, 1)
        key = step.effect_key
        raise Killed
    with world.run().step("a", policy="retry") as step:
        assert (step.done, step.attempt, step.effect_key) == (False, 2, key)
        step.result = 5
    with world.run().step("a", policy="retry") as step:
        assert (step.done, step.result) == (True, 5)


def test_steps_are_known_by_name_and_occurrence_in_any_order(world, calls):
    run = world.run()
    for name in ("a", "b", "a", "c"):
        run.step(name, calls.giving(f"{name}{len(calls)}"))
    again = world.run()
    assert [again.step(name, die) for name in ("c", "a", "a", "b")] == ["c3", "a0", "a2", "b1"]


@EVERYWHERE
def test_steps_of_many_threads_replay_in_any_order(world, calls):
    def work(run, names):
        results = {}

        def one(name):
            for number in range(3):
                results[name, number] = run.step(name, calls.giving([name, number]))

        threads = [threading.Thread(target=one, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        return results

    names = [f"n{number}" for number in range(6)]
    first = work(world.run(), names)
    assert len(first) == len(set(calls)) == 18
    before = world.types()
    assert work(world.run(), names[::-1]) == first
    assert len(calls) == 18
    assert world.types() == before


@EVERYWHERE
def test_a_name_as_long_as_may_be_is_a_step(world):
    name = "é😀" * 64
    assert world.run("r" * 128).step(name, lambda: 1) == 1
    assert world.run("r" * 128).step(name, die) == 1


# --- unknown ---
@pytest.mark.parametrize("end", ENDS)
@FORMS
def test_what_is_no_exception_leaves_the_step_unknown(world, form, end):
    with pytest.raises(end):
        form(world.run(), "pay", lambda effect_key: die() if end is Killed else (_ for _ in ()).throw(end()))
    assert world.types() == ["step.started"]
    with pytest.raises(StepUnknownError, match="nothing says whether it took effect") as unknown:
        world.run().step("pay", die)
    assert unknown.value.event.position == 0
    finished = world.events()[1]
    assert (finished.outcome, finished.data["error"]["type"]) == ("unknown", "StepUnknownError")


def test_an_unknown_step_under_fail_stays_so_and_is_recorded_once(world):
    with pytest.raises(Killed):
        world.run().step("pay", die)
    for _ in range(3):
        with pytest.raises(StepUnknownError):
            world.run().step("pay", die)
    assert world.types() == ["step.started", "step.finished"]


@EVERYWHERE
@FORMS
def test_an_unknown_step_under_retry_runs_again_under_the_same_effect_key(world, calls, form):
    for _ in range(2):
        with pytest.raises(Killed):
            form(world.run(), "pay", calls.raising(Killed()), policy="retry")
    assert form(world.run(), "pay", calls.giving("paid"), policy="retry") == "paid"
    assert form(world.run(), "pay", die, policy="retry") == "paid"
    assert len(calls) == 3
    assert len(set(calls)) == 1
    assert [event.data["attempt"] for event in world.events("step.started")] == [1, 2, 3]


def test_each_step_has_an_effect_key_of_its_own(world, calls):
    run = world.run()
    for name in ("a", "a", "b"):
        run.step(name, calls.giving(0))
    assert len(set(calls)) == 3


# --- errors, tries, time ---
@FORMS
def test_an_error_is_recorded_with_type_and_message_and_not_run_again(world, calls, form):
    with pytest.raises(ValueError, match="no such page"):
        form(world.run(), "fetch", calls.raising(ValueError("no such page")))
    finished = world.events()[1]
    assert finished.data["error"] == {"type": "ValueError", "message": "no such page"}
    assert finished.outcome == "error"
    for _ in range(2):
        with pytest.raises(StepFailedError, match="no such page") as failed:
            form(world.run(), "fetch", die)
        assert failed.value.type == "ValueError"
        assert failed.value.event == finished
    assert len(calls) == 1
    assert len(world.types()) == 2


def test_retry_failed_tries_once_more_under_the_same_effect_key(world, calls):
    with pytest.raises(ValueError):
        world.run().step("a", calls.raising(ValueError("1")))
    with pytest.raises(KeyError):
        world.run(retry_failed=True).step("a", calls.raising(KeyError("2")))
    assert world.run(retry_failed=True).step("a", calls.giving("at last")) == "at last"
    for retry_failed in (False, True):
        assert world.run(retry_failed=retry_failed).step("a", die) == "at last"
    assert len(calls) == 3
    assert len(set(calls)) == 1


def test_what_was_tried_again_much_later_is_what_counts(world):
    with pytest.raises(ValueError):
        world.run().step("a", failing(ValueError()))
    for _ in range(2):
        world.session().extend([signal(number) for number in range(1_100)])  # more than a page of a journal
        with pytest.raises(ValueError):
            world.run(retry_failed=True).step("a", failing(ValueError()))
    assert world.run(retry_failed=True).step("a", lambda: "good") == "good"
    assert world.run().step("a", die) == "good"


def signal(number):
    from everlog import NewEvent

    return NewEvent("signal", {"name": "n", "data": number})


def test_tries_have_a_back_off_that_doubles_and_one_effect_key(world, calls, slept):
    at = []

    def flaky(effect_key):
        calls.append(effect_key)
        at.append(world.clock.micros)
        if len(calls) < 4:
            raise OSError(f"down {len(calls)}")
        return "up"

    assert world.run().step("call", flaky, retries=3, backoff=1.5) == "up"
    assert [(later - sooner) / 1_000_000 for sooner, later in zip(at, at[1:], strict=False)] == [1.5, 3.0, 6.0]
    assert len(set(calls)) == 1
    ends = world.events("step.finished")
    assert [event.outcome for event in ends] == ["error"] * 3 + ["ok"]
    assert [event.data["error"]["message"] for event in ends[:3]] == ["down 1", "down 2", "down 3"]
    assert [event.data["retry_at"] for event in ends[:3]] == at[1:]
    assert world.run().step("call", die) == "up"


def test_the_last_try_that_fails_is_final(world, calls, slept):
    with pytest.raises(OSError, match="down"):
        world.run().step("call", calls.raising(OSError("down")), retries=2, backoff=1)
    assert len(calls) == 3
    assert "retry_at" not in world.events()[-1].data
    with pytest.raises(StepFailedError):
        world.run().step("call", die, retries=2, backoff=1)


def test_a_process_that_ends_in_the_back_off_leaves_the_next_try_to_another(world, calls, monkeypatch):
    monkeypatch.setattr("time.sleep", die)
    with pytest.raises(Killed):
        world.run().step("call", calls.raising(OSError("down")), retries=2, backoff=100)
    due = world.events()[-1].data["retry_at"]
    assert world.session().in_flight().steps[0].retry_at == due
    world.clock.advance(seconds=40)
    slept = []
    monkeypatch.setattr("time.sleep", lambda seconds: (slept.append(seconds), world.clock.advance(seconds=seconds)))
    assert world.run().step("call", calls.giving("up"), retries=2, backoff=100) == "up"
    assert sum(slept) == pytest.approx(60)
    assert len(set(calls)) == 1
    assert [event.data["attempt"] for event in world.events("step.started")] == [1, 2]


def test_a_try_that_takes_too_long_is_a_timeout_and_may_be_tried_again(world, calls, slept):
    stop = threading.Event()

    def slow(effect_key):
        calls.append(effect_key)
        if len(calls) == 1:
            stop.wait(DEADLINE_SECONDS)
        return len(calls)

    try:
        assert world.run().step("slow", slow, timeout=0.2, retries=1) == 2
    finally:
        stop.set()
    first = world.events("step.finished")[0]
    assert (first.outcome, first.data["error"]["type"]) == ("timeout", "TimeoutError")
    assert "longer than 0.2 seconds" in first.data["error"]["message"]
    assert len(set(calls)) == 1


def test_a_function_with_a_timeout_gives_and_raises_as_one_without(world):
    run = world.run()
    assert run.step("a", lambda: 1, timeout=DEADLINE_SECONDS) == 1
    with pytest.raises(KeyError):
        run.step("b", failing(KeyError("k")), timeout=DEADLINE_SECONDS)
    with pytest.raises(KeyboardInterrupt):
        run.step("c", failing(KeyboardInterrupt()), timeout=DEADLINE_SECONDS)
    assert world.types()[-1] == "step.started"


@EVERYWHERE
@pytest.mark.parametrize("text", ["x" * 100_000, "no \udcff", "\x00", "é" * 9_000])
def test_an_error_is_recorded_whatever_its_message(world, text):
    with pytest.raises(ValueError) as raised:
        world.run().step("a", failing(ValueError(text)))
    assert str(raised.value) == text
    assert world.events()[-1].data["error"]["type"] == "ValueError"
    with pytest.raises(StepFailedError):
        world.run().step("a", die)


def test_an_error_that_cannot_say_what_it_is_is_recorded_all_the_same(world):
    class MuteError(Exception):
        def __str__(self):
            raise TypeError("mute")

    with pytest.raises(MuteError):
        world.run().step("a", failing(MuteError()))
    assert world.events()[-1].data["error"]["type"] == "MuteError"


# --- refused ---
@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "\x00", None, 3, b"a", ["a"]])
def test_what_is_no_name_is_refused_and_nothing_is_written(world, name):
    run = world.run()
    for call in (
        lambda: run.step(name, die),
        lambda: run.step(name),
        lambda: run.wait(name),
        lambda: run.sleep_until(0, name=name),
        lambda: world.beside().run(name),
        lambda: world.beside().signal(name),
    ):
        with pytest.raises(InvalidEventError, match="nothing was (written|done)"):
            call()
    assert world.types() == []


@pytest.mark.parametrize("policy", ["", "Retry", True, 1, ["retry"]])
def test_a_policy_that_is_none_is_refused(world, policy):
    with pytest.raises(InvalidEventError, match="none of fail, retry, ask"):
        world.run().step("a", die, policy=policy)
    with pytest.raises(InvalidEventError, match="none of fail, retry, ask"):
        world.session().run(policy=policy)
    assert world.types() == []


def test_a_run_has_a_policy_for_the_steps_that_say_none(world, calls):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            world.session().run(policy="retry").step("a", interrupted)
    assert world.session().run(policy="retry").step("a", lambda: 7) == 7


def interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "options",
    [{name: value} for name in ("retries", "backoff", "timeout") for value in (-1, "1", True, float("nan"), 1e12)]
    + [{"retries": 1.5}, {"retries": None}, {"backoff": None}, {"retries": 1_001}],
    ids=str,
)
def test_numbers_out_of_bounds_are_refused(world, options):
    with pytest.raises(LimitError, match="nothing was written"):
        world.run().step("a", die, **options)
    assert world.types() == []


def test_a_body_cannot_be_retried(world):
    with pytest.raises(InvalidEventError, match="give a function for retries"), world.run().step("a", retries=1):
        pytest.fail("it was entered")
    assert world.types() == []


@pytest.mark.parametrize(
    "value",
    [
        {1},
        object(),
        b"x",
        float("nan"),
        float("inf"),
        {1: 2},
        "\ud800",
        2**64,
        nested(70),
        nested(200),
        "x" * 1_100_000,
    ],
    ids=lambda value: repr(value)[:20],
)
@FORMS
def test_a_result_that_cannot_be_recorded_fails_the_step_and_says_that_it_took_effect(world, calls, form, value):
    with pytest.raises(InvalidEventError, match="it took effect"):
        form(world.run(), "a", calls.giving(value))
    finished = world.events()[-1]
    assert (finished.type, finished.outcome) == ("step.finished", "error")
    with pytest.raises(StepFailedError):
        form(world.run(), "a", die)
    assert len(calls) == 1


@EVERYWHERE
@pytest.mark.parametrize("value", [0.1, -0.0, 2**53, 2**63, "é\x00", nested(40), {"": [None, True]}, None])
def test_a_result_is_the_same_when_it_is_given_again(world, value):
    first = world.run().step("a", lambda: value)
    again = world.run().step("a", die)
    assert repr(first) == repr(again) == repr(value)


@pytest.mark.parametrize(("value", "given"), [((1, 2), [1, 2]), ([(1,)], [[1]]), (OrderedDict(a=()), {"a": []})])
def test_a_tuple_is_a_list_the_first_time_already(world, value, given):
    first = world.run().step("a", lambda: value)
    again = world.run().step("a", die)
    assert repr(first) == repr(again) == repr(given)


def test_a_result_that_is_changed_afterwards_is_recorded_as_it_was(world):
    kept: list[int] = [1]
    first = world.run().step("a", lambda: kept)
    first.append(2)
    assert kept == [1]
    assert world.run().step("a", die) == [1]


# --- divergence ---
@pytest.mark.parametrize(
    ("recorded", "asked"),
    [((1,), (2,)), ((1,), ()), ((), (1,)), ((1,), (True,)), (([1],), ([1, 1],)), (("x" * 99_000,), ("y" * 99_000,))],
    ids=str,
)
def test_another_input_is_a_divergence_that_shows_both_sides(world, recorded, asked):
    world.run().step("a", lambda *_: "kept", *recorded)
    before = world.types()
    with pytest.raises(DivergenceError, match=r"session\.fork\(0\)") as diverged:
        world.run().step("a", die, *asked)
    assert diverged.value.recorded == world.events()[0]
    assert "nothing was written" in diverged.value.message
    if sum(len(repr(each)) for each in asked) < 1_000:
        assert repr(list(asked)) in diverged.value.message or asked == ()
        assert diverged.value.asked == (list(asked) or None)
    assert world.types() == before
    fork = world.session().fork(diverged.value.recorded.position)
    assert fork.run().step("a", lambda *_: "otherwise", *asked) == "otherwise"
    assert world.run().step("a", die, *recorded) == "kept"


def test_an_unknown_step_with_another_input_is_a_divergence_too(world):
    with pytest.raises(Killed):
        world.run().step("a", die, 1, policy="retry")
    with pytest.raises(DivergenceError):
        world.run().step("a", die, 2, policy="retry")


def test_inputs_that_are_not_json_are_not_compared(world):
    world.run().step("a", lambda _: 1, {1, 2})
    assert "input" not in world.events()[0].data
    assert world.run().step("a", die, object()) == 1


@EVERYWHERE
def test_a_large_input_is_compared_by_its_hash(world):
    world.run().step("a", lambda _: 1, "x" * 99_000)
    assert set(world.events()[0].data["input"]) == {"sha256", "bytes"}
    assert world.run().step("a", die, "x" * 99_000) == 1


def test_the_policy_of_the_code_that_asks_counts_not_that_of_the_code_that_died(world):
    with pytest.raises(Killed):
        world.run().step("a", die, policy="fail")
    assert world.run().step("a", lambda: 1, policy="retry") == 1


# --- leases ---
@EVERYWHERE
def test_a_lease_that_lapsed_within_a_step_leaves_it_unknown(world):
    woken = world.store().wake(world.beside().id, holder="one", ttl=30)

    def slow():
        world.boot += 31
        world.store().wake("s", holder="two", ttl=30)

    with pytest.raises(FencedError) as fenced:
        woken.run().step("pay", slow)
    assert fenced.value.holder == "two"
    assert world.types() == ["lease.acquired", "step.started", "lease.released", "lease.acquired"]
    world.boot += 31
    next_one = world.store().wake("s", holder="three")
    assert [step.name for step in next_one.pending.steps] == ["pay"]
    with pytest.raises(StepUnknownError):
        next_one.run().step("pay", die)


@EVERYWHERE
def test_a_step_is_not_begun_while_another_holds_the_lease(world):
    world.store().wake(world.beside().id, holder="one", ttl=30)
    with pytest.raises(FencedError):
        world.beside().run().step("pay", die)
    assert world.types() == ["lease.acquired"]


def test_an_error_of_the_log_within_a_body_is_shown_not_that_of_the_body(world):
    woken = world.store().wake(world.beside().id, holder="one", ttl=30)
    with pytest.raises(FencedError) as fenced, woken.run().step("pay"):
        world.boot += 31
        raise ValueError("while it was lost")
    assert isinstance(fenced.value.__context__, ValueError)


# --- erased ---
@EVERYWHERE
def test_a_step_whose_end_was_erased_is_unknown(world, calls):
    world.run().step("a", calls.giving("secret"))
    world.session().erase([1], reason="secret")
    with pytest.raises(StepUnknownError):
        world.run().step("a", die)
    with pytest.raises(StepUnknownError):
        world.run().step("a", die)


def test_a_step_whose_end_was_erased_runs_again_under_retry_with_its_effect_key(world, calls):
    world.run().step("a", calls.giving("secret"))
    world.session().erase([1], reason="secret")
    assert world.run().step("a", calls.giving("public"), policy="retry") == "public"
    assert world.run().step("a", die, policy="retry") == "public"
    assert len(set(calls)) == 1


def test_a_step_whose_start_was_erased_still_gives_what_was_recorded(world):
    world.run().step("a", lambda _: "kept", "secret input")
    world.session().erase([0], reason="secret")
    assert world.run().step("a", die, "any input") == "kept"


@EVERYWHERE
def test_a_step_whose_start_was_erased_in_flight_is_unknown(world, calls):
    with pytest.raises(Killed):
        world.run().step("a", die, "secret input")
    world.session().erase([0], reason="secret")
    for _ in range(2):
        with pytest.raises(StepUnknownError):
            world.run().step("a", die)
    assert world.types() == ["step.started", "step.finished"]


def test_a_step_whose_start_was_erased_in_flight_runs_again_under_retry(world, calls):
    with pytest.raises(Killed):
        world.run().step("a", die, "secret input")
    world.session().erase([0], reason="secret")
    assert world.run().step("a", calls.giving("done"), policy="retry") == "done"
    assert world.run().step("a", die, policy="retry") == "done"
    assert [event.data and event.data["attempt"] for event in world.events()] == [None, 2, 2]


# --- cost ---
def test_replaying_reads_each_event_once(world, monkeypatch):
    read = []
    plain = type(world.store().storage).read

    def counted(storage, *arguments, **keywords):
        page = plain(storage, *arguments, **keywords)
        if threading.current_thread() is threading.main_thread():  # others take snapshots
            read.append(len(page.events))
        return page

    costs = {}
    for steps in (200, 2_000):
        session = world.store().create(f"s{steps}")
        run = session.run()
        for number in range(steps):
            run.step(f"n{number % 7}", lambda number=number: number)
        monkeypatch.setattr(type(session.storage), "read", counted)
        again = session.run()
        read.clear()
        assert [again.step(f"n{number % 7}", die) for number in range(steps)] == list(range(steps))
        assert sum(read) == 2 * steps
        costs[steps] = len(read)
        monkeypatch.undo()
    assert costs[2_000] <= 10 * costs[200]


@EVERYWHERE
def test_a_run_that_goes_on_reads_nothing(world, monkeypatch):
    session = world.session()
    run = session.run()
    run.step("a", lambda: 0)
    monkeypatch.setattr(type(session.storage), "read", die)
    monkeypatch.setattr(type(session), "view", die)
    for number in range(50):
        assert run.step("a", lambda number=number: number) == number
