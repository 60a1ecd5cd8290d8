"""Runs on an event loop: the same records as on threads, tasks side by side, cancellation."""

import asyncio
import gc
import inspect
import threading
from contextlib import asynccontextmanager

import pytest

import everlog
from everlog.aio.runs import AsyncRun, AsyncStepForm, AsyncWoken
from everlog.errors import (
    DivergenceError,
    FencedError,
    InvalidEventError,
    LimitError,
    StepFailedError,
    StepUnknownError,
    WaitingError,
    WaitTimeoutError,
)
from everlog.runs import Run, StepForm
from everlog.woken import Woken
from services.restarts import DEADLINE_SECONDS, Killed

# How the sync face is put together; what the async face builds on.
SYNC_ONLY = {"recorded", "session"}


def run(story):
    """Run a story on a loop of its own; what ends a process is raised outside of it, as it would end the loop too."""

    async def guarded():
        try:
            async with asyncio.timeout(60):
                return await story, None
        except BaseException as error:
            return None, error

    value, error = asyncio.run(guarded())
    if error is not None:
        raise error
    return value


@pytest.fixture(autouse=True)
def nothing_is_forgotten(caplog):
    """No task is left with an exception that nobody looked at."""
    yield
    gc.collect()
    records = [*caplog.get_records("call"), *caplog.records]
    assert [record.message for record in records if record.name == "asyncio"] == []


@asynccontextmanager
async def opened(path):
    async with await everlog.open_async(path, durability="relaxed") as store:
        yield await store.get_or_create("s")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.db"


def types(path):
    with everlog.open(path) as store:
        return [event.type for event in store.session("s")]


def members(path, type="step.finished"):
    with everlog.open(path) as store:
        return [event.data for event in store.session("s").events(types=type)]


async def give(value):
    await asyncio.sleep(0)
    return value


async def dies(*_):
    raise Killed


@pytest.mark.parametrize(("sync", "other"), [(Run, AsyncRun), (StepForm, AsyncStepForm), (Woken, AsyncWoken)])
def test_both_faces_have_the_same_names_and_parameters(sync, other):
    for name in (name for name in vars(sync) if not name.startswith("_") and name not in SYNC_ONLY):
        assert hasattr(other, name), name
        one, two = getattr(sync, name), getattr(other, name)
        if callable(one):
            mine = {key: value.default for key, value in inspect.signature(one).parameters.items()}
            assert mine == {key: value.default for key, value in inspect.signature(two).parameters.items()}, name


def test_a_form_on_the_loop_has_the_attributes_of_one_on_a_thread(path):
    async def story():
        async with opened(path) as session:
            form = (await session.run()).step("a")
            for name in ("done", "result", "effect_key", "attempt"):
                assert hasattr(form, name), name

    run(story())


async def called(run, name, function, **options):
    return await run.step(name, function, **options)


async def decorated(run, name, function, **options):
    return await run.step(name, **options)(function)()


async def in_a_body(run, name, function, **options):
    async with run.step(name, **options) as step:
        if not step.done:
            step.result = await function()
    return step.result


FORMS = pytest.mark.parametrize("form", [called, decorated, in_a_body])


@FORMS
def test_a_finished_step_gives_what_was_recorded_and_is_not_called(path, form):
    async def story(function):
        async with opened(path) as session:
            return await form(await session.run(), "a", function)

    async def look():
        assert types(path) == ["step.started"]
        return {"x": [1]}

    assert run(story(look)) == run(story(dies)) == {"x": [1]}
    assert types(path) == ["step.started", "step.finished"]


def test_plain_functions_run_in_a_thread_and_all_get_the_effect_key(path):
    seen = {}

    def plain(value, effect_key):
        seen["plain"] = effect_key
        assert threading.current_thread() is not threading.main_thread()
        return value

    async def coroutine(value, *, effect_key):
        seen["coroutine"] = effect_key
        return value

    async def story():
        async with opened(path) as session:
            work = await session.run()
            assert await work.step("plain", plain, 1) == 1
            assert await work.step("coroutine", coroutine, 2) == 2
            assert await work.step("gives a coroutine", lambda: give(3)) == 3

    run(story())
    assert seen == {event["step"]: event["effect_key"] for event in members(path, "step.started")[:2]}


def test_tasks_side_by_side_replay_in_any_order(path):
    async def story(order, function):
        async with opened(path) as session, await session.run() as work:
            return dict(await asyncio.gather(*(one(work, name, function) for name in order)))

    async def one(work, name, function):
        for number in range(3):
            await work.step(name, function, number)
        async with work.step(f"{name} body") as step:
            step.result = step.result or name
        return name, step.result

    names = [f"n{number}" for number in range(20)]
    first = run(story(names, give))
    before = types(path)
    assert run(story(names[::-1], dies)) == first
    assert types(path) == before


@pytest.mark.parametrize("end", [Killed, KeyboardInterrupt, asyncio.CancelledError])
@FORMS
def test_what_is_no_exception_leaves_the_step_unknown(path, form, end):
    async def ends():
        raise end

    async def story(function, **options):
        async with opened(path) as session:
            return await form(await session.run(), "pay", function, **options)

    with pytest.raises(end):
        run(story(ends))
    assert types(path) == ["step.started"]
    with pytest.raises(StepUnknownError):
        run(story(dies))
    assert members(path)[0]["error"]["type"] == "StepUnknownError"


@FORMS
def test_a_step_that_is_cancelled_in_the_middle_is_retried_under_its_effect_key(path, form):
    async def story():
        async with opened(path) as session:
            begun = asyncio.Event()

            async def slow():
                begun.set()
                await asyncio.sleep(DEADLINE_SECONDS)

            task = asyncio.create_task(form(await session.run(), "pay", slow, policy="retry"))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await form(await session.run(), "pay", lambda: give("paid"), policy="retry")

    assert run(story()) == "paid"
    started = members(path, "step.started")
    assert [event["attempt"] for event in started] == [1, 2]
    assert len({event["effect_key"] for event in started}) == 1


@FORMS
def test_an_error_is_recorded_and_not_run_again(path, form):
    async def fails():
        raise ValueError("no such page")

    async def story(function, error):
        async with opened(path) as session:
            with pytest.raises(error, match="no such page"):
                await form(await session.run(), "a", function)

    run(story(fails, ValueError))
    run(story(dies, StepFailedError))
    assert members(path)[0]["error"] == {"type": "ValueError", "message": "no such page"}


def test_tries_and_timeouts(path):
    tries = []

    async def flaky(effect_key):
        tries.append(effect_key)
        if len(tries) < 3:
            await asyncio.sleep(DEADLINE_SECONDS if len(tries) == 1 else 0)
            raise OSError("down")
        return "up"

    async def story():
        async with opened(path) as session:
            assert await (await session.run()).step("a", flaky, retries=2, backoff=0.01, timeout=0.2) == "up"

    run(story())
    errors = [event["error"] for event in members(path)[:2]]
    assert [error["type"] for error in errors] == ["TimeoutError", "OSError"]
    assert "longer than 0.2 seconds" in errors[0]["message"]
    assert len(set(tries)) == 1


def test_what_is_refused_is_refused_here_too(path):
    async def story():
        async with opened(path) as session:
            work = await session.run()
            for refused in (
                lambda: work.step("", dies),
                lambda: work.step("a", dies, policy="no"),
                lambda: work.step("a", dies, retries=-1),
                lambda: work.wait("a\n"),
                lambda: work.wait("a", timeout="soon"),
                lambda: work.wait("a", patience=-1),
                lambda: work.sleep_until(None),
                lambda: session.run(""),
            ):
                with pytest.raises((InvalidEventError, LimitError)):
                    await asyncio.wait_for(refused(), 5)
            with pytest.raises(InvalidEventError):
                async with work.step("a", retries=1):
                    pytest.fail("it was entered")
            assert await session.size() == 0
            with pytest.raises(InvalidEventError, match="it took effect"):
                await work.step("a", give, {1})

    run(story())


def test_another_input_is_a_divergence(path):
    async def story():
        async with opened(path) as session:
            await (await session.run()).step("a", give, 1)
            with pytest.raises(DivergenceError) as diverged:
                await (await session.run()).step("a", give, 2)
            fork = await session.fork(diverged.value.recorded)
            assert await (await fork.run()).step("a", give, 2) == 2

    run(story())


# --- waiting ---
def test_a_signal_wakes_the_task_that_waits_for_it(path):
    async def story():
        async with opened(path) as session:
            work = await session.run()
            waiting = asyncio.create_task(work.wait("go"))
            async for _ in session.follow("start"):
                break
            await session.signal("go", 5)
            assert await waiting == 5
            with pytest.raises(WaitingError):
                await work.wait("go", patience=0)
            with pytest.raises(WaitTimeoutError):
                await work.wait("stop", timeout=0.01)
            await work.sleep_until(0.01)

    run(story())


def test_waits_of_tasks_side_by_side_never_take_the_same_signal(path):
    async def story():
        async with opened(path) as session:
            for number in range(6):
                await session.signal("go", number)
            work = await session.run()
            assert sorted(await asyncio.gather(*(work.wait("go", patience=0) for _ in range(6)))) == list(range(6))

    run(story())


def test_a_wait_that_is_cancelled_goes_on_later(path):
    async def story():
        async with opened(path) as session:
            work = await session.run()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(work.wait("go"), 0.1)
            await session.signal("go", 1)
            assert await (await session.run()).wait("go", patience=0) == 1
        assert types(path).count("wait.started") == 1

    run(story())


# --- stages, whole runs ---
def test_stages_and_runs_end_once_and_are_resumed(path):
    async def story(function):
        async with opened(path) as session, await session.run() as work:
            async with work.stage("collect"):
                await work.step("look", function, 1)
            return await work.stage("write", function, 2)

    assert run(story(give)) == 2
    before = types(path)
    assert run(story(dies)) == 2
    assert types(path) == before
    assert before.count("checkpoint") == 2

    async def rewound():
        async with opened(path) as session:
            await session.rewind("collect")

    run(rewound())
    assert run(story(give)) == 2
    assert types(path) == [*before[: before.index("checkpoint") + 1], "session.rewound", "step.started", *before[-4:]]


def test_stages_of_tasks_side_by_side_each_know_their_own_steps(path):
    async def work_in(work, name, function, *, dies_after=False):
        async with work.stage(name):
            for number in range(3):
                await work.step(f"in {name}", function, number, policy="retry")
                if dies_after:
                    raise Killed

    async def story(**options):
        async with opened(path) as session:
            work = await session.run()
            await asyncio.gather(work_in(work, "a", give), work_in(work, "b", give, **options), return_exceptions=False)

    with pytest.raises(Killed):
        run(story(dies_after=True))
    run(story())
    inside = {(event["step"], event.get("stage")) for event in members(path)}
    assert inside == {("in a", "a"), ("in b", "b"), ("a", None), ("b", None)}


def test_what_follows_a_stage_that_was_cancelled_is_not_in_it(path):
    async def story():
        async with opened(path) as session:
            work = await session.run()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(work.stage("a", asyncio.sleep, DEADLINE_SECONDS), 0.1)
            await work.step("after", give, 1)

    run(story())
    assert [event.get("stage") for event in members(path)] == [None]


def test_a_finished_run_that_is_asked_for_more_diverges(path):
    async def story(more):
        async with opened(path) as session, await session.run() as work:
            await work.step("a", give, 1)
            if more:
                await work.step("b", dies)

    run(story(more=False))
    with pytest.raises(DivergenceError):
        run(story(more=True))


def test_a_run_that_leaves_out_what_was_recorded_diverges(path):
    async def story(names):
        async with opened(path) as session, await session.run() as work:
            for name in names:
                await work.step(name, give, 1)
            if len(names) > 1:
                raise Killed

    with pytest.raises(Killed):
        run(story("ab"))
    with pytest.raises(DivergenceError, match="ended without step 'b'"):
        run(story("a"))


def test_a_woken_session_works_under_its_lease_and_stops_when_it_lost_it(path):
    async def story():
        async with await everlog.open_async(path) as store:
            session = await store.create("s")
            await session.append("agent.tool_use", {"id": "c1", "name": "t", "input": {}})
            async with await store.wake("s", holder="one") as woken:
                assert [tool.id for tool in woken.pending.tools] == ["c1"]
                assert len(await woken.repair()) == 1
                work = await woken.run()
                with pytest.raises(FencedError):
                    await (await session.run()).step("b", dies)

                async def loses():
                    await woken.lease.release()
                    await store.wake("s", holder="two")

                with pytest.raises(FencedError) as fenced:
                    await work.step("pay", loses)
                assert fenced.value.holder == "two"
        assert types(path)[-1] == "lease.acquired"

    run(story())


@pytest.mark.parametrize("form", ["plain", "coroutine"])
def test_stop_iteration_ends_a_step_as_an_error_and_not_never(path, form):
    async def empty():
        return next(iter([]))

    async def story():
        async with opened(path) as session:
            function = empty if form == "coroutine" else lambda: next(iter([]))
            with pytest.raises(RuntimeError, match="StopIteration"):
                await asyncio.wait_for((await session.run()).step("a", function), 10)

    run(story())
    assert types(path) == ["step.started", "step.finished"]


def test_steps_and_stages_of_tasks_are_named_within_what_they_are_asked_for_in(path):
    calls = []

    async def story(kill):
        async with opened(path) as session, await session.run() as run_:

            async def work(name):
                async with run_.stage(name), run_.stage("fetch"):
                    await asyncio.sleep(0)
                    await run_.step("pay", lambda: calls.append(name))
                    await asyncio.to_thread(lambda: None)
                    if name == kill:
                        raise Killed

            await asyncio.gather(*[work(name) for name in ("birds", "bees")])

    with pytest.raises(Killed):
        run(story("bees"))
    run(story(None))
    run(story(None))
    assert sorted(calls) == ["bees", "birds"]
