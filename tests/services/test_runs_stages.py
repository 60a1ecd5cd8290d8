"""Stages, whole runs, and what becomes of them in forks, after rewinds and beside one another."""

import threading

import pytest

from everlog.errors import DivergenceError, InvalidPlaceError, StepUnknownError, WaitingError
from services.restarts import DEADLINE_SECONDS, EVERYWHERE, Killed, die


def in_stages(run, calls, *names, last="z"):
    """A workflow: a stage for each name, with two steps each, and one step at its end."""
    results = []
    with run:
        for name in names:
            with run.stage(name):
                results += [run.step(f"{name}{number}", calls.giving(f"{name}{number}")) for number in (1, 2)]
        results.append(run.step(last, calls.giving(last)))
    return results


# --- stages ---
@EVERYWHERE
def test_a_stage_groups_its_steps_and_ends_with_a_checkpoint(world, calls):
    in_stages(world.run(), calls, "collect", "write")
    events = world.events()
    stages = [(event.type, event.data.get("kind"), event.data.get("step"), event.data.get("stage")) for event in events]
    assert stages[:7] == [
        ("step.started", "run", "main", None),
        ("step.started", "stage", "collect", None),
        ("step.started", None, "collect1", "collect"),
        ("step.finished", None, "collect1", "collect"),
        ("step.started", None, "collect2", "collect"),
        ("step.finished", None, "collect2", "collect"),
        ("step.finished", "stage", "collect", None),
    ]
    assert [event.data["name"] for event in events if event.type == "checkpoint"] == ["collect", "write"]
    assert events[7].type == "checkpoint"
    assert stages[-2:] == [("step.finished", None, "z", None), ("step.finished", "run", "main", None)]


def test_a_finished_stage_that_is_a_function_is_not_called_again(world, calls):
    def collect(run, topic):
        return run.step("look", calls.giving([topic]))

    def use(function):
        with world.run() as run:
            return run.stage("collect", lambda topic: function(run, topic), "birds")

    assert use(collect) == use(die) == ["birds"]
    assert len(calls) == 1


def test_what_a_finished_stage_did_is_not_given_to_steps_of_the_same_name_after_it(world, calls):
    def use(look):
        results = []
        with world.run() as run:
            for number in range(2):
                run.stage("round", lambda number=number: run.step("look", look(f"in {number}")), number)
                results.append(run.step("look", look(f"after {number}")))
        return results

    assert use(calls.giving) == ["after 0", "after 1"]
    assert use(lambda _: die) == ["after 0", "after 1"]
    assert len(calls) == 4


def test_of_a_finished_stage_the_body_runs_again_and_its_steps_give_what_they_gave(world, calls):
    first = in_stages(world.run(), calls, "a", "b")
    before, bodies = world.types(), []
    with world.run() as run:
        for name in ("a", "b"):
            with run.stage(name) as stage:
                bodies.append(stage.done)
                assert [run.step(f"{name}{number}", die) for number in (1, 2)] == [f"{name}1", f"{name}2"]
        run.step("z", die)
    assert first == ["a1", "a2", "b1", "b2", "z"]
    assert bodies == [True, True]
    assert world.types() == before


def test_a_stage_has_a_result(world):
    for _ in range(2):
        with world.run().stage("a") as stage:
            if not stage.done:
                stage.result = [1]
        assert stage.result == [1]


@EVERYWHERE
def test_a_stage_that_was_cut_short_goes_on_where_it_was(world, calls):
    with pytest.raises(Killed), world.run() as run, run.stage("a"):
        run.step("a1", calls.giving("a1"))
        run.step("a2", calls.raising(Killed()), policy="retry")
    assert "checkpoint" not in world.types()
    with world.run() as run:
        with run.stage("a") as stage:
            assert not stage.done
            assert run.step("a1", die) == "a1"
            assert run.step("a2", calls.giving("a2"), policy="retry") == "a2"
    assert calls[1] == calls[2]
    assert world.types().count("checkpoint") == 1


@pytest.mark.parametrize("as_function", [True, False])
def test_a_stage_in_which_something_fails_stays_in_flight(world, as_function):
    def use(run):
        if as_function:
            run.stage("a", lambda: run.step("x", lambda: 1 / 0))
        else:
            with run.stage("a"):
                run.step("x", lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError), world.run() as run:
        use(run)
    assert [(step.kind, step.name) for step in world.session().in_flight().steps] == [("run", "main"), ("stage", "a")]
    assert "checkpoint" not in world.types()
    with world.run(retry_failed=True) as run, run.stage("a"):
        run.step("x", lambda: 1)
    assert not world.session().in_flight().steps


@pytest.mark.parametrize(
    ("error", "as_function"),
    [
        (ValueError, True),
        (ValueError, False),
        (Killed, False),
        (Killed, True),
    ],
)
def test_what_follows_a_stage_that_ended_early_is_not_in_it(world, error, as_function):
    run = world.run()

    def fail():
        raise error

    with pytest.raises(error):
        if as_function:
            run.stage("a", fail)
        else:
            with run.stage("a"):
                fail()
    run.step("after", lambda: 1)
    with run.stage("b"):
        run.step("in b", lambda: 1)
    inside = {event.data["step"]: event.data.get("stage") for event in world.events("step.finished")}
    assert inside == {"after": None, "b": None, "in b": "b"}


def test_stages_may_stand_in_stages(world, calls):
    def use():
        with world.run() as run, run.stage("outer"):
            run.step("before", calls.giving(1))
            with run.stage("inner"):
                run.step("within", calls.giving(2))
            run.step("behind", calls.giving(3))

    use()
    use()
    assert len(calls) == 3
    inside = {event.data["step"]: event.data.get("stage") for event in world.events("step.finished")}
    assert inside == {
        "before": "outer",
        "within": "inner",
        "inner": "outer",
        "behind": "outer",
        "outer": None,
        "main": None,
    }
    assert [event.data["name"] for event in world.events("checkpoint")] == ["inner", "outer"]


def test_a_stage_that_comes_again_moves_its_checkpoint_on(world, calls):
    with world.run() as run:
        for number in range(3):
            with run.stage("round"):
                run.step("x", calls.giving(number))
    assert len(world.events("checkpoint")) == 3
    assert world.session().fork("round").size() == world.events("checkpoint")[2].position + 2


def in_threads(*functions):
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    if errors:
        raise errors[0]


def test_stages_side_by_side_each_know_their_own_steps(world):
    run, both = world.run(), threading.Barrier(2, timeout=DEADLINE_SECONDS)

    def work(name):
        with run.stage(name):
            both.wait()
            run.step(f"in {name}", lambda: 1)
            both.wait()

    in_threads(lambda: work("a"), lambda: work("b"))
    inside = {event.data["step"]: event.data.get("stage") for event in world.events("step.finished")}
    assert inside == {"in a": "a", "in b": "b", "a": None, "b": None}


def test_a_finished_stage_does_not_keep_one_beside_it_from_going_on(world):
    run = world.run()
    with run.stage("a"):
        run.step("in a", lambda: 1)
    with pytest.raises(Killed), run.stage("b"):
        raise Killed
    run, both = world.run(), threading.Barrier(2, timeout=DEADLINE_SECONDS)

    def again():
        with run.stage("a"):
            both.wait()
            assert run.step("in a", die) == 1
            both.wait()

    def on():
        with run.stage("b"):
            both.wait()
            try:
                run.step("in b", lambda: 2)
            finally:
                both.wait()

    in_threads(again, on)


@pytest.mark.parametrize("name", ["", "1a", "a b", "start", "end", "now", "ev_x", "x" * 129, "é", None, 3])
def test_a_stage_is_named_as_a_checkpoint_is(world, name):
    with pytest.raises(InvalidPlaceError):
        world.run().stage(name, die)
    assert world.types() == []


# --- resumed and forked at a stage ---
@EVERYWHERE
def test_a_run_is_resumed_from_a_stage_with_changed_code(world, calls):
    in_stages(world.run(), calls, "collect", "write")
    del calls[:]
    session = world.session()
    session.rewind("collect", reason="write better")
    assert in_stages(session.run(), calls, "collect", "rewrite", last="y") == [
        "collect1", "collect2", "rewrite1", "rewrite2", "y",
    ]  # fmt: skip
    assert len(calls) == 3
    assert in_stages(world.run(), calls, "collect", "rewrite", last="y")[-1] == "y"
    assert len(calls) == 3
    assert world.session().verify().ok


@EVERYWHERE
def test_what_is_done_anew_after_a_rewind_has_new_effect_keys(world, calls):
    in_stages(world.run(), calls, "collect", "write")
    first = list(calls)
    world.session().rewind("collect")
    in_stages(world.run(), calls, "collect", "write")
    assert len(calls) == 5 + 3
    assert len(set(calls)) == 8
    assert calls[:5] == first


@EVERYWHERE
def test_a_run_is_forked_at_a_stage_and_the_first_is_as_it_was(world, calls):
    in_stages(world.run(), calls, "collect", "write")
    before = world.types()
    fork = world.session().fork("collect", id="other")
    assert in_stages(fork.run(), calls, "collect", "send", last="y")[2:] == ["send1", "send2", "y"]
    assert len(calls) == len(set(calls)) == 5 + 3
    assert world.types() == before
    assert in_stages(world.run(), calls, "collect", "write")[-1] == "z"
    assert len(calls) == 8


@EVERYWHERE
def test_a_step_that_is_unknown_where_a_fork_begins_is_retried_under_its_effect_key(world, calls):
    with pytest.raises(Killed):
        world.run().step("pay", calls.raising(Killed()), policy="retry")
    session = world.session()
    fork = session.fork()
    for each in (session, fork):
        assert each.run().step("pay", calls.giving("paid"), policy="retry") == "paid"
    assert len(calls) == 3
    assert len(set(calls)) == 1
    early = session.fork(0)
    early.run().step("pay", calls.giving("paid"), policy="retry")
    assert len(set(calls)) == 2


@EVERYWHERE
def test_a_rewind_within_a_step_leaves_it_unknown(world, calls):
    world.run().step("a", calls.giving(1))
    session = world.session()
    session.rewind(1)
    with pytest.raises(StepUnknownError):
        world.run().step("a", die)


@EVERYWHERE
def test_a_finished_step_of_a_line_that_was_left_is_there_again_after_a_switch(world, calls):
    world.run().step("a", calls.giving("first"))
    session = world.session()
    session.rewind(0)
    assert session.run().step("a", calls.giving("second")) == "second"
    session.switch("b1")
    assert session.run().step("a", die) == "first"
    session.switch("b2")
    assert session.run().step("a", die) == "second"


# --- whole runs ---
def test_a_run_records_its_end_and_one_that_fails_stays_in_flight(world):
    with pytest.raises(ZeroDivisionError), world.run():
        1 / 0
    assert [(step.kind, step.name) for step in world.session().in_flight().steps] == [("run", "main")]
    with world.run():
        pass
    assert not world.session().in_flight().steps
    with world.run():
        pass
    assert [event.type for event in world.events("step.finished")] == ["step.finished"]


@pytest.mark.parametrize("name", ["main", "other"])
def test_a_finished_run_that_is_asked_for_more_diverges(world, calls, name):
    with world.run(name) as run:
        run.step("a", calls.giving(1))
    before = world.types()
    with pytest.raises(DivergenceError, match="recorded as finished") as diverged, world.run(name) as run:
        assert run.step("a", die) == 1
        run.step("b", die)
    assert (diverged.value.recorded, diverged.value.asked) == (None, "b")
    assert world.types() == before


def test_a_finished_stage_that_is_asked_for_more_diverges(world, calls):
    run = world.run()
    with run.stage("a"):
        run.step("x", calls.giving(1))
    before = world.types()
    run = world.run()
    with pytest.raises(DivergenceError, match="recorded as finished"), run.stage("a"):
        run.step("x", die)
        run.step("x", die)
    assert world.types() == before
    run = world.run()
    with run.stage("a"):
        run.step("x", die)
    assert run.step("y", calls.giving(2)) == 2  # after it there is more to come


def test_a_run_that_leaves_out_what_was_recorded_diverges_and_can_be_forked_there(world, calls):
    with pytest.raises(Killed), world.run() as run:
        for name in ("a", "b", "c"):
            run.step(name, calls.giving(name))
        raise Killed
    before = world.types()
    with pytest.raises(DivergenceError, match="ended without step 'b'.*and 1 more") as diverged, world.run() as run:
        run.step("a", die)
    assert diverged.value.recorded.data["step"] == "b"
    assert diverged.value.asked is None
    assert f"session.fork({diverged.value.recorded.position})" in diverged.value.message
    assert world.types() == [*before, "step.started"]  # the run's own next attempt
    with world.session().fork(diverged.value.recorded.position).run() as run:
        assert run.step("a", die) == "a"
    with world.run() as run:
        assert [run.step(name, die) for name in "abc"] == ["a", "b", "c"]


def test_a_wait_that_is_left_out_is_a_divergence_too(world):
    with pytest.raises(WaitingError), world.run() as run:
        run.wait("go", patience=0)
    with pytest.raises(DivergenceError, match="ended without wait 'go'"), world.run():
        pass


def test_a_stage_with_another_input_diverges(world):
    world.run().stage("a", lambda _: 1, "birds")
    with pytest.raises(DivergenceError) as diverged:
        world.run().stage("a", die, "fish")
    assert diverged.value.asked == ["fish"]
    assert diverged.value.recorded.data["input"] == ["birds"]


# --- side by side ---
@pytest.mark.parametrize("names", [("main", "other"), ("other", "main"), ("one", "other")])
def test_runs_of_other_names_know_nothing_of_one_another(world, calls, names):
    for name in names:
        with world.run(name) as run:
            run.step("x", calls.giving(name), name)
    for name in names:
        with world.run(name) as run:
            assert run.step("x", die, name) == name
    assert len(calls) == len(set(calls)) == 2


def test_of_two_runs_in_flight_the_end_of_one_does_not_end_the_other(world):
    for name in ("main", "other"):
        with pytest.raises(Killed), world.run(name) as run:
            run.step(f"in {name}", die, policy="retry")
    steps = {(step.run, step.kind, step.name) for step in world.session().in_flight().steps}
    assert {name for _, kind, name in steps if kind == "run"} == {"main", "other"}
    with world.run() as run:
        run.step("in main", lambda: 1, policy="retry")
    left = {(step.kind, step.name) for step in world.session().in_flight().steps}
    assert left == {("run", "other"), ("step", "in other")}


@EVERYWHERE
def test_two_runs_of_one_session_go_on_at_the_same_time(world, calls):
    session = world.session()

    def work(name):
        with session.run(name) as run, run.stage(f"stage-{name}"):
            for number in range(20):
                run.step("x", calls.giving(number))

    in_threads(lambda: work("one"), lambda: work("other"))
    for name in ("one", "other"):
        with world.run(name) as run, run.stage(f"stage-{name}"):
            assert [run.step("x", die) for _ in range(20)] == list(range(20))
    assert len(set(calls)) == 40


def test_names_that_look_like_others_are_not_taken_for_them(world):
    assert world.run("a").step("1:step:b", lambda: "one") == "one"
    assert world.run("a:step:1").step("b", lambda: "other") == "other"
    assert world.run("a").step("1:step:b", die) == "one"
