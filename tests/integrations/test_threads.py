"""The threads that integrations wait for the disk in."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from types import ModuleType

import pytest

from everlog.integrations.threads import begun, in_thread, read_in_thread

who = ContextVar("who", default="nobody")


def on_a_loop(test):
    @wraps(test)
    def run(*given, **named):
        asyncio.run(test(*given, **named))

    return run


@asynccontextmanager
async def all_taken():
    """Fill the threads that asyncio gives to all, as a program does that waits for models in them."""
    done = threading.Event()
    late = threading.Timer(30, done.set)  # else who waits in vain would wait for ever
    late.start()
    waiting = [
        asyncio.get_running_loop().run_in_executor(None, done.wait) for _ in range(2 * (os.cpu_count() or 1) + 32)
    ]
    try:
        yield
    finally:
        late.cancel()
        done.set()
        await asyncio.gather(*waiting)


@on_a_loop
async def test_a_call_goes_on_where_a_program_has_filled_the_threads_of_asyncio():
    async with all_taken():
        assert await asyncio.wait_for(in_thread(divmod, 7, 2), 5) == (3, 1)
        assert await asyncio.wait_for(begun(lambda: who.get()), 5) == "nobody"
        with pytest.raises(ZeroDivisionError):
            await in_thread(divmod, 7, 0)


@on_a_loop
async def test_a_call_runs_in_the_context_of_its_caller():
    token = who.set("ada")
    try:
        assert await in_thread(who.get) == "ada"
    finally:
        who.reset(token)


@on_a_loop
async def test_who_writes_learns_of_a_cancellation_once_it_is_done_and_who_reads_at_once():
    for call, waits in ((in_thread, True), (begun, False)):
        begins, ends, done = threading.Event(), threading.Event(), []

        def work(begins=begins, ends=ends, done=done):
            begins.set()
            ends.wait(5)
            done.append("it is done")

        async def calling(call=call, work=work):
            return await call(work)

        task = asyncio.create_task(calling())
        await asyncio.to_thread(begins.wait, 5)
        task.cancel()
        finished, _ = await asyncio.wait([task], timeout=0.05)
        assert bool(finished) is not waits
        ends.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done or not waits


def test_a_scope_of_anyio_that_is_over_neither_hides_what_was_written_nor_keeps_the_loop_turning(monkeypatch):
    anyio = pytest.importorskip("anyio", reason="anyio is not installed")
    waited, waits, ends = asyncio.wait, [], threading.Event()

    async def counted(*given, **named):
        waits.append(given)
        return await waited(*given, **named)

    async def write():
        with anyio.move_on_after(0.01):
            threading.Timer(0.2, ends.set).start()
            assert await in_thread(ends.wait, 5)
            await asyncio.sleep(5)
            pytest.fail("the scope is over")
        return "went on"

    monkeypatch.setattr(asyncio, "wait", counted)
    assert asyncio.run(write()) == "went on"
    assert len(waits) < 5


def test_what_is_dropped_with_its_loop_says_nothing_of_it():
    pytest.importorskip("anyio", reason="anyio is not installed")
    ends = threading.Event()

    async def main():
        loop.call_soon(loop.stop)
        await in_thread(ends.wait, 5)

    loop, going = asyncio.new_event_loop(), main()
    task = loop.create_task(going)
    loop.run_forever()
    loop.close()
    going.close()  # raises nothing
    task._log_destroy_pending = False
    ends.set()


def test_programs_of_trio_wait_in_the_same_threads_and_learn_of_a_cancellation_as_those_of_asyncio():
    trio = pytest.importorskip("trio", reason="trio is not installed")

    async def main():
        token = who.set("ada")
        assert await in_thread(who.get) == await read_in_thread(who.get) == "ada"
        who.reset(token)
        with pytest.raises(ZeroDivisionError):
            await in_thread(divmod, 7, 0)
        name = await in_thread(lambda: threading.current_thread().name)
        assert name.startswith("everlog-integration")
        for call, waits in ((in_thread, True), (read_in_thread, False)):
            ends, told = threading.Event(), []
            with trio.move_on_after(0.01):
                threading.Timer(0.2, ends.set).start()
                told.append(await call(ends.wait, 5))
            assert told == ([True] if waits else [])
            ends.wait(5)

    trio.run(main)


def test_a_forked_child_has_threads_of_its_own():
    program = """
import asyncio, os, sys
from everlog.integrations.threads import in_thread
assert asyncio.run(in_thread(os.getpid)) == os.getpid()
child = os.fork()
if not child:
    os._exit(0 if asyncio.run(in_thread(os.getpid)) == os.getpid() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


@on_a_loop
async def test_frameworks_record_where_a_program_has_filled_the_threads_of_asyncio(tmp_path):
    agents = pytest.importorskip("agents", reason="openai-agents is not installed")
    pytest.importorskip("langgraph.graph", reason="langgraph is not installed")
    from langgraph.checkpoint.base import empty_checkpoint

    from everlog.integrations.langgraph import EverlogSaver
    from everlog.integrations.openai_agents import EverlogSession

    assert agents
    saver, session = EverlogSaver(tmp_path / "graph.db"), EverlogSession("s", tmp_path / "agent.db")
    config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}

    async def record():
        put = await saver.aput(config, empty_checkpoint(), {"source": "input", "step": -1, "parents": {}}, {})
        await saver.aput_writes(put, [("n", 1)], "task")
        await session.add_items([{"role": "user", "content": "hello"}])
        return await saver.aget_tuple(config), await session.get_items()

    async with all_taken():
        found, items = await asyncio.wait_for(record(), 20)
    assert [write[2] for write in found.pending_writes] == [1]
    assert [item["content"] for item in items] == ["hello"]
    saver.close()
    session.close()


@on_a_loop
async def test_a_transcript_is_appended_to_where_a_program_has_filled_the_threads_of_anyio(tmp_path):
    pytest.importorskip("claude_agent_sdk")
    anyio = pytest.importorskip("anyio")
    from everlog.integrations.claude_agent import EverlogSessionStore

    kept, done = EverlogSessionStore(tmp_path / "s.db"), threading.Event()
    limiter = anyio.to_thread.current_default_thread_limiter()
    async with anyio.create_task_group() as group:
        for _ in range(int(limiter.total_tokens)):
            group.start_soon(anyio.to_thread.run_sync, done.wait, 30)
        try:
            async with asyncio.timeout(10):
                await kept.append({"project_key": "p", "session_id": "s"}, [{"type": "user"}])
                assert await kept.load({"project_key": "p", "session_id": "s"}) == [{"type": "user"}]
        finally:
            done.set()
    await kept.close()


class Entry(dict):
    """What a call is given: a dictionary that may be referred to weakly."""


async def still_held(call, sleep=asyncio.sleep):
    """Tell whether what a call is given is held after it failed, while Python looks for no cycles."""
    gc.collect()
    gc.disable()
    try:
        given = Entry(type="user", role="user", content="x", bad={1})
        held = weakref.ref(given)
        with suppress(Exception, asyncio.CancelledError):
            await call(given)
        del given
        for _ in range(100):  # the thread lets go of it a moment later
            if held() is None:
                return False
            await sleep(0.01)
        return True
    finally:
        gc.enable()


def fails(_given):
    raise OSError("the disk is gone")


@pytest.mark.parametrize("way", [in_thread, read_in_thread, begun])
def test_what_a_call_was_given_that_failed_is_not_held_in_a_cycle(way):
    async def failing(given):
        await way(fails, given)

    assert not asyncio.run(still_held(failing))
    if way is not begun:
        trio = pytest.importorskip("trio", reason="trio is not installed")
        assert not trio.run(still_held, failing, trio.sleep)


def test_what_a_call_was_given_that_was_cancelled_is_not_held_in_a_cycle():
    async def cancelled(given):
        task = asyncio.create_task(in_thread(lambda _given: ends.wait(5), given))
        del given
        await asyncio.sleep(0.01)
        task.cancel()
        ends.set()
        await task

    ends = threading.Event()
    assert not asyncio.run(still_held(cancelled))


@pytest.mark.parametrize("framework", ["adk", "claude_agent", "openai_agents"])
def test_what_a_framework_could_not_record_is_not_held_in_a_cycle(tmp_path, framework):
    async def story():
        if framework == "adk":
            events = pytest.importorskip("google.adk.events.event")
            from everlog.integrations.adk import EverlogSessionService

            kept = EverlogSessionService(tmp_path / "s.db")
            session = await kept.create_session(app_name="a", user_id="u")

            async def record(given):
                event = events.Event(author="user", custom_metadata={"x": given["content"] * 10_000_000})
                given["event"] = event
                await kept.append_event(session, event)

        elif framework == "claude_agent":
            pytest.importorskip("claude_agent_sdk")
            from everlog.integrations.claude_agent import EverlogSessionStore

            kept = EverlogSessionStore(tmp_path / "s.db")

            async def record(given):
                await kept.append({"project_key": "p", "session_id": "s"}, [given])

        else:
            pytest.importorskip("agents")
            from everlog.integrations.openai_agents import EverlogSession

            kept = EverlogSession("s", tmp_path / "s.db")

            async def record(given):
                await kept.add_items([given])

        held = await still_held(record)
        closing = kept.close()
        if closing is not None:
            await closing
        return held

    assert not asyncio.run(story())


@pytest.mark.parametrize("name", ["anyio", "trio"])
def test_a_call_goes_on_while_another_thread_imports_what_programs_wait_with(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, ModuleType(name))  # an import has given it nothing yet
    assert asyncio.run(in_thread(divmod, 7, 2)) == asyncio.run(read_in_thread(divmod, 7, 2)) == (3, 1)
