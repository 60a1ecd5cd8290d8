"""What is asked for within a stage or within another step, side by side and again; and the line of events that a run is on."""

import threading
from contextvars import copy_context

import pytest

from everlog.errors import (
    DivergenceError,
    InvalidEventError,
    StepFailedError,
    StepUnknownError,
    WaitingError,
    WaitTimeoutError,
)
from services.restarts import DEADLINE_SECONDS, EVERYWHERE, Killed, die


def once(calls, value, fails=()):
    """A function that notes its calls, and ends its process at those numbered in `fails`, counted over all that share `calls`."""

    def work(effect_key):
        calls.append((value, effect_key))
        if len(calls) in fails:
            raise Killed
        return value

    return work


# --- within a stage that is a function ---
@EVERYWHERE
@pytest.mark.parametrize("killed", [(), (1,), (2,), (3,), (1, 3), (2, 4), (3, 4)])
def test_a_stage_as_a_function_that_was_cut_short_replays(world, killed):
    calls = []

    def work(run):
        def collect():
            return [run.step(name, once(calls, name, killed), policy="retry") for name in ("a", "b")]

        with run:
            return run.stage("collect", collect), run.step("a", once(calls, "after", killed), policy="retry")

    for _ in killed:
        with pytest.raises(Killed):
            work(world.run())
    for _ in range(3):
        assert work(world.run()) == (["a", "b"], "after")
    assert len(calls) == 3 + len(killed)
    assert len({key for _, key in calls}) == 3


def test_what_is_left_out_of_a_stage_that_was_cut_short_and_then_finished_is_no_matter(world):
    def first(run):
        run.step("a", lambda: 1)
        raise Killed

    with pytest.raises(Killed):
        run = world.run()
        run.stage("s", lambda: first(run))
    run = world.run()
    run.stage("s", lambda: run.step("a", die))
    run = world.run()
    assert run.stage("s", die) == 1
    run.check_left()


# --- steps within steps ---
@pytest.mark.parametrize("form", ["call", "decorator"])
def test_a_step_within_a_step_replays_and_is_not_given_to_one_beside_it(world, form):
    calls = []

    def work(run):
        def outer():
            return ["outer", run.step("fetch", once(calls, "inner"))]

        with run:
            got = run.step("outer", outer) if form == "call" else run.step("outer")(outer)()
            return got, run.step("fetch", once(calls, "other"))

    for _ in range(3):
        assert work(world.run()) == (["outer", "inner"], "other")
    assert [value for value, _ in calls] == ["inner", "other"]


@EVERYWHERE
def test_a_recursive_step_replays(world, calls):
    def work(run):
        @run.step("fact")
        def fact(number):
            calls.append(number)
            return 1 if number == 0 else number * fact(number - 1)

        with run:
            return fact(4)

    assert [work(world.run()) for _ in range(3)] == [24, 24, 24]
    assert calls == [4, 3, 2, 1, 0]


def test_what_is_within_a_step_is_not_done_again_when_the_step_is_tried_again(world, slept):
    calls, tries = [], []

    def outer(run):
        tries.append(run.step("inner", once(calls, "inner")))
        if len(tries) < 3:
            raise ValueError("not yet")
        return tries

    run = world.run()
    assert run.step("outer", lambda: outer(run), retries=5) == ["inner"] * 3
    assert len(calls) == 1
    assert world.run().step("outer", die) == ["inner"] * 3


def test_a_step_with_nothing_within_reads_nothing_when_it_is_tried_again(world, slept, monkeypatch):
    monkeypatch.setattr(
        "everlog.journal.Journal.reload", lambda *_: pytest.fail("it would cost all that was recorded since")
    )
    tries = []

    def fails():
        tries.append(1)
        if len(tries) < 4:
            raise ValueError("not yet")
        return len(tries)

    assert world.run().step("a", fails, retries=5) == 4


def test_what_is_within_an_unknown_step_is_not_done_again_when_it_is_retried(world):
    calls = []

    def outer(run, ends):
        return [run.step(name, once(calls, name, ends), policy="retry") for name in ("a", "b")]

    run = world.run()
    with pytest.raises(Killed):
        run.step("outer", lambda: outer(run, (2,)), policy="retry")
    run = world.run()
    assert run.step("outer", lambda: outer(run, ()), policy="retry") == ["a", "b"]
    assert [value for value, _ in calls] == ["a", "b", "b"]


def test_a_body_that_is_done_need_not_ask_for_what_is_within(world, calls):
    def work(run):
        with run:
            with run.step("outer") as outer:
                if not outer.done:
                    outer.result = run.step("inner", calls.giving("in"))
            return outer.result, run.step("inner", calls.giving("beside"))

    assert [work(world.run()) for _ in range(3)] == [("in", "beside")] * 3
    assert len(calls) == 2


# --- side by side ---
def side_by_side(*functions):
    errors, threads = [], []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    for function in functions:
        threads.append(threading.Thread(target=copy_context().run, args=(guarded, function)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    return errors


def test_stages_of_one_name_within_others_side_by_side_know_their_own_steps(world):
    calls, both = [], threading.Barrier(2, timeout=DEADLINE_SECONDS)

    def work(run, name, end):
        with run.stage(name):
            if end is not None:
                both.wait()
            with run.stage("fetch"):
                run.step("pay", once(calls, name))
            if end == name:
                raise Killed

    run = world.run()
    errors = side_by_side(*[lambda name=name: work(run, name, "bees") for name in ("birds", "bees")])
    assert [type(error) for error in errors] == [Killed]
    run = world.run()
    with run:
        for name in ("bees", "birds"):
            work(run, name, None)
    assert sorted(value for value, _ in calls) == ["bees", "birds"]


def test_threads_that_carry_the_context_are_in_the_stage(world):
    calls = []

    def collect(run):
        side_by_side(*[lambda name=name: run.step(name, once(calls, name)) for name in ("a", "b", "c")])
        return sorted(value for value, _ in calls)

    for _ in range(2):
        with world.run() as run:
            assert run.stage("collect", lambda run=run: collect(run)) == ["a", "b", "c"]
            run.step("a", once(calls, "after"))
    assert len(calls) == 4


def test_a_timeout_does_not_take_what_is_asked_for_out_of_its_stage(world):
    def use(run):
        with run:
            return run.stage("s", lambda: run.step("a", lambda: run.step("b", lambda: 1), timeout=DEADLINE_SECONDS))

    assert use(world.run()) == use(world.run()) == 1


# --- forms ---
def test_a_form_that_is_used_again_is_the_next_step(world, calls):
    def work(run, kill):
        form, got = run.step("x"), []
        for number in range(3):
            with form as step:
                if not step.done:
                    step.result = calls.giving(number)(effect_key=step.effect_key)
            got.append(step.result)
            if number == kill:
                raise Killed
        return got

    with pytest.raises(Killed):
        work(world.run(), 0)
    assert work(world.run(), None) == work(world.run(), None) == [0, 1, 2]
    assert len(calls) == 3


def test_a_form_whose_body_runs_is_not_entered_again(world):
    form = world.run().step("x")
    with pytest.raises(InvalidEventError, match="runs already"), form:
        form.__enter__()


@pytest.mark.parametrize("options", [{"retries": 1}, {"timeout": 1.0}])
def test_a_body_is_neither_retried_nor_cut_short(world, options):
    with pytest.raises(InvalidEventError, match="nothing was written"), world.run().step("a", **options):
        pass
    assert world.types() == []


def test_a_decorated_function_takes_keywords_which_are_compared_too(world, calls):
    def use(run, **keywords):
        @run.step("add")
        def add(one, *, other=0):
            """Add."""
            calls.append(one)
            return one + other

        assert (add.__name__, add.__doc__) == ("add", "Add.")
        return add(1, **keywords)

    assert use(world.run(), other=2) == use(world.run(), other=2) == 3
    assert len(calls) == 1
    with pytest.raises(DivergenceError):
        use(world.run(), other=3)


async def a_coroutine():
    pass


def a_generator():
    yield 1


@pytest.mark.parametrize("function", [a_coroutine, a_generator])
def test_a_function_that_nobody_would_run_is_refused(world, function):
    run = world.run()
    for use in (lambda: run.step("a", function), lambda: run.stage("a", function), lambda: run.step("a")(function)):
        with pytest.raises(InvalidEventError, match="nothing was written"):
            use()
    assert world.types() == []


def test_stop_iteration_is_recorded_and_raised_as_an_error(world):
    with pytest.raises(RuntimeError, match="StopIteration"):
        world.run().step("a", lambda: next(iter([])))
    with pytest.raises(StepFailedError, match="RuntimeError"):
        world.run().step("a", die)


# --- what is no result ---
@EVERYWHERE
def test_a_wait_within_a_step_leaves_it_to_be_gone_on_with(world):
    for form in ("call", "body"):
        name = f"ask in a {form}"

        def ask(run, name=name):
            return run.wait(name, patience=0)

        def use(run, form=form, name=name, ask=ask):
            if form == "call":
                return run.step(name, lambda: ask(run), policy="retry")
            with run.step(name, policy="retry") as step:
                if not step.done:
                    step.result = ask(run)
            return step.result

        with pytest.raises(WaitingError):
            use(world.run())
        world.session().signal(name, "yes")
        assert use(world.run()) == use(world.run()) == "yes"


def test_a_divergence_within_a_step_does_not_fail_it(world):
    run = world.run()
    run.step("outer", lambda: run.step("inner", lambda _: 1, "recorded"), policy="retry")
    session = world.session()
    session.rewind(session.find("main:step:outer:1:1:finished").position)
    run = world.run()
    with pytest.raises(DivergenceError):
        run.step("outer", lambda: run.step("inner", die, "asked"), policy="retry")
    run = world.run()
    assert run.step("outer", lambda: run.step("inner", die, "recorded"), policy="retry") == 1


# --- unknown, and decided later ---
def unknown(world):
    with pytest.raises(Killed):
        world.run().step("pay", die)
    with pytest.raises(StepUnknownError, match="policy='retry'"):
        world.run().step("pay", die)


def test_what_is_recorded_as_unknown_stays_so_under_fail_whatever_is_retried(world):
    unknown(world)
    for options in ({}, {"retry_failed": True}):
        with pytest.raises(StepUnknownError):
            world.run(**options).step("pay", die)


def test_what_is_recorded_as_unknown_runs_again_where_the_code_says_by_now_that_it_may(world, calls):
    unknown(world)
    assert world.run().step("pay", calls.giving("paid"), policy="retry") == "paid"
    assert world.run().step("pay", die) == "paid"
    assert calls == [world.events("step.started")[0].data["effect_key"]]


def test_what_is_recorded_as_unknown_can_be_decided_on_later(world, calls):
    unknown(world)
    world.session().signal("step:pay", {"decision": "finished", "result": "paid by hand"})
    for _ in range(2):
        assert world.run().step("pay", die, policy="ask") == "paid by hand"


def test_a_decision_of_before_the_step_was_started_decides_nothing(world, calls):
    for _ in range(2):
        world.session().signal("step:pay", "retry")
    with pytest.raises(Killed):
        world.run().step("pay", die, policy="ask")
    waits = threading.Thread(target=lambda: world.beside().run().step("pay", calls.giving("paid"), policy="ask"))
    waits.start()
    world.see("wait.started")
    world.beside().signal("step:pay", "retry")
    waits.join(DEADLINE_SECONDS)
    assert [event.data["signal"] for event in world.events("wait.finished")] == [world.events("signal")[-1].position]
    assert len(calls) == 1


def test_a_step_that_failed_in_a_finished_run_is_not_tried_again(world, calls):
    def work(run):
        with run:
            try:
                return run.step("a", calls.raising(ValueError("no")))
            except (ValueError, StepFailedError):
                return run.step("b", calls.giving("fallback"))

    assert work(world.run()) == work(world.run(retry_failed=True)) == work(world.run()) == "fallback"
    assert len(calls) == 2


# --- the line ---
@EVERYWHERE
@pytest.mark.parametrize("moves", ["rewind", "switch"])
def test_the_end_of_a_step_does_not_land_on_another_line(world, calls, moves):
    session = world.session()
    session.append("note", {"content": "first"})
    if moves == "switch":
        session.rewind(0)
    run = world.run()

    def move(*_):
        beside = world.beside()
        beside.rewind(1) if moves == "rewind" else beside.switch("b1")
        return "of the other line"

    with pytest.raises(DivergenceError, match="rewound or switched") as left:
        run.step("pay", move, 100)
    assert "had run" in "".join(left.value.__notes__)
    with pytest.raises(DivergenceError, match="rewound or switched"):
        run.step("more", die)
    with pytest.raises(DivergenceError, match="rewound or switched"):
        run.wait("go", patience=0)
    assert world.run().step("pay", calls.giving("of this line"), 5) == "of this line"
    assert [event.type for event in world.events("step.*")] == ["step.started", "step.finished"]


@EVERYWHERE
def test_two_processes_that_go_through_one_run_are_told(world):
    one, other = world.beside().run(), world.beside().run()
    one.step("a", lambda: 1)
    with pytest.raises(DivergenceError, match="another process goes through") as diverged:
        other.step("a", die)
    assert diverged.value.recorded.position == 0


# --- erased ---
@EVERYWHERE
def test_a_finished_step_of_which_both_events_were_erased_is_unknown_once_and_for_all(world, calls):
    world.run().step("pay", calls.giving("secret"))
    world.session().erase([0, 1], reason="secret")
    for _ in range(3):
        with pytest.raises(StepUnknownError):
            world.run().step("pay", die)
    assert len(calls) == 1


def test_a_failed_step_whose_start_was_erased_is_tried_again_and_recorded(world, calls):
    with pytest.raises(ValueError, match="no"):
        world.run().step("pay", calls.raising(ValueError("no")))
    world.session().erase([0], reason="secret")
    assert world.run(retry_failed=True).step("pay", calls.giving("paid")) == "paid"
    assert world.run().step("pay", die) == "paid"


def test_what_a_finished_run_holds_is_there_though_starts_were_erased(world):
    def work(run, function):
        with run:
            run.stage("s", lambda: run.step("in", function))
            return run.step("a", function)

    assert work(world.run(), lambda: 1) == 1
    starts = [event.position for event in world.events("step.started")]
    world.session().erase(starts, reason="secret")
    assert work(world.run(), die) == 1


# --- waits and sleeps ---
def test_a_signal_that_came_too_late_does_not_end_a_wait(world):
    with pytest.raises(WaitingError):
        world.run().wait("go", timeout=5, patience=0)
    world.clock.advance(seconds=10)
    world.session().signal("go", "late")
    with pytest.raises(WaitTimeoutError):
        world.run().wait("go", timeout=5)
    run = world.run()
    with pytest.raises(WaitTimeoutError):
        run.wait("go", timeout=5)
    assert run.wait("go") == "late"


def test_a_wait_in_the_place_of_a_sleep_is_a_divergence_and_the_reverse(world):
    world.run().sleep_until(0, name="a")
    with pytest.raises(WaitingError):
        world.run().wait("b", patience=0)
    with pytest.raises(DivergenceError, match="as a sleep, and is asked for as a wait"):
        world.run().wait("a")
    with pytest.raises(DivergenceError, match="as a wait for a signal, and is asked for as a sleep"):
        world.run().sleep_until(0, name="b")


def test_a_sleep_ends_at_a_time_that_is_written_out(world):
    world.run().sleep_until("2020-01-01T00:00Z")
    assert world.events("wait.started")[0].data["until"] == 1_577_836_800_000_000


def test_a_step_whose_name_looks_like_a_decision_is_missed_all_the_same(world):
    world.run().step("step:a", lambda: 1)
    with pytest.raises(DivergenceError, match="ended without step 'step:a'"):
        world.run().check_left()


# --- inputs and cost ---
def test_a_finished_step_costs_nothing_for_the_others_that_are_recorded(world):
    """Of a thousand steps that are read and not asked for yet, one that is done looks at none but its own."""
    run = world.run()
    for number in range(300):
        run.step(f"s{number}", lambda: run.step("within", lambda: 1))
    run = world.run()
    run.step("s299", die)

    class Walked(dict):
        walks = 0

        def __iter__(self):
            self.walks += 1
            return super().__iter__()

    run._journal._records = records = Walked(run._journal._records)
    for number in (298, 150, 0):
        run.step(f"s{number}", die)
    assert records.walks == 0
    assert len(records) == 2 * 300 - 2 * 4


def test_a_large_input_is_compared_as_a_value(world):
    def large(*keys):
        return dict.fromkeys(keys, "x" * 40_000)

    world.run().step("a", lambda _: 1, [large("b", "c"), 1.0])
    assert world.run().step("a", die, [large("c", "b"), 1.0]) == 1


def test_a_step_that_failed_early_does_not_make_a_replay_read_ahead(world):
    run = world.run()
    with pytest.raises(ValueError, match="no"):
        run.step("first", lambda: int("no"))
    for number in range(1_200):
        run.step("s", lambda _: 1, number)
    run = world.run()
    with pytest.raises(StepFailedError):
        run.step("first", die)
    assert len(run._journal._records) < 600
