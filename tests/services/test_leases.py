"""Leases beyond one store: copies and bundles, renewal in the background, the async face, the end of a process's store."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import everlog
from databases import address, open_in
from everlog import NewEvent
from everlog.aio import AsyncStore
from everlog.errors import (
    BusyError,
    FencedError,
    InvalidEventError,
    LimitError,
    UnavailableError,
    UnsupportedStoreError,
)
from everlog.session import Settings
from everlog.storage import TakeLease
from everlog.store import Store
from everlog.stores.memory import MemoryStorage
from everlog.stores.sqlite.store import open_sqlite
from everlog.testing import FixedClock, FixedTicks

DEADLINE_SECONDS = 20.0
TTL = 30.0
SHORT = 0.25


def eventually(condition, seconds=DEADLINE_SECONDS):
    """Wait until a condition holds; tell whether it did in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture
def source(tmp_path):
    with everlog.open(tmp_path / "source.db") as opened:
        yield opened


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def target(request, tmp_path):
    with everlog.open(address(request.param, tmp_path / "target")) as opened:
        yield opened


@pytest.fixture
def ticks():
    return FixedTicks()


@pytest.fixture
def wall():
    return FixedClock()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def timed(request, tmp_path, ticks, wall):
    """A store whose ticks and clock are set."""
    if request.param == "memory":
        storage = MemoryStorage(clock=wall, draw=os.urandom, ticks=ticks)
    elif request.param == "sqlite":
        storage = open_sqlite(tmp_path / "timed.db", clock=wall, draw=os.urandom, ticks=ticks)
    else:
        storage = open_in(tmp_path, clock=wall, ticks=ticks)
    with Store(storage, Settings(os.urandom), url=request.param) as opened:
        yield opened


def agent(session, text="x"):
    return session.append("agent.message", {"content": text})


def lease_some(session, count=3):
    """Take and give back so many leases; give the last token."""
    for _ in range(count):
        held = session.lease("worker", TTL)
        held.release()
    return held.token


# --- copies, bundles -----------------------------------------------------------------------------
def test_a_copy_begins_without_a_lease_above_the_tokens_on_record(source, target):
    session = source.create("s")
    lease_some(session)
    held = session.lease("worker", TTL)
    source.copy(target)
    there = target.session("s")
    assert target.leases() == []
    agent(there)
    assert there.lease("other", TTL).token > held.token
    agent(session)
    assert held.alive


def test_an_imported_session_begins_without_a_lease_above_the_tokens_on_record(source, target, tmp_path):
    session = source.create("s", events=[NewEvent("note", {"content": "x"})] * 1500)  # more than a page
    lease_some(session)
    session.rewind(10)
    agent(session)
    token = session.lease("worker", TTL).token
    session.rewind(5)  # the highest token stands on a line that is not current
    session.export(tmp_path / "s.everlog")
    target.import_bundle(tmp_path / "s.everlog")
    there = target.session("s")
    agent(there)
    assert there.lease("other", TTL).token > token


def test_what_a_copy_takes_later_raises_its_token_too(source, target):
    session = source.create("s")
    lease_some(session, 1)
    source.copy(target)
    token = lease_some(session, 4)
    source.copy(target)
    assert target.session("s").lease("other", TTL).token > token


def test_a_copied_fork_begins_above_the_tokens_that_its_parent_recorded(source, target):
    session = source.create("s")
    token = lease_some(session, 4)
    session.fork(id="f")
    source.copy(target, sessions=["f"])
    assert target.session("f").lease("other", TTL).token > token


def test_a_fork_copied_after_its_parent_begins_above_the_tokens_in_its_lineage(source, target):
    session = source.create("s")
    token = lease_some(session, 4)
    session.fork(id="f")
    source.copy(target, sessions=["s"])
    source.copy(target, sessions=["f"])
    assert target.session("f").lease("other", TTL).token > token


def test_a_token_of_one_store_is_no_token_of_a_copy(source, target):
    session = source.create("s")
    source.copy(target)
    here, there = session.lease("worker", TTL), target.session("s").lease("worker", TTL)
    assert here.token == there.token
    stranger = target.session("s")
    stranger._lease = here  # its number is right, its nonce is not
    with pytest.raises(FencedError):
        agent(stranger)


def test_adopting_into_the_current_branch_of_a_leased_session_is_refused_and_writes_nothing(source, target):
    source.create("s")
    source.copy(target)
    there = target.session("s")
    held = there.lease("worker", TTL)
    target.copy(source)  # the source then holds all that the target does, and goes on
    session = source.session("s")
    session.extend([NewEvent("agent.message", {"content": str(number)}) for number in range(5)])
    before = there.refresh()
    with pytest.raises(FencedError) as refused:
        source.copy(target)
    assert refused.value.holder == "worker"
    assert there.refresh() == before
    assert len(there.branches()) == 1
    agent(there)
    held.release()
    assert [one.diverged for one in source.copy(target)] == [("b2",)]
    assert target.verify().ok


def test_adopting_where_a_lease_was_given_back_goes_on(source, target):
    source.create("s")
    source.copy(target)
    target.session("s").lease("worker", TTL).release()
    target.copy(source)
    agent(source.session("s"))
    assert [one.events for one in source.copy(target)] == [1]
    assert target.session("s").refresh() == source.session("s").head


def test_taking_in_another_line_leaves_a_living_lease_alone(source, target):
    session = source.create("s")
    source.copy(target)
    there = target.session("s")
    held = there.lease("worker", TTL)
    lease_some(session, 3)
    assert [one.diverged for one in source.copy(target)] == [("b2",)]
    agent(there)
    held.renew()


# --- taking one ----------------------------------------------------------------------------------
def test_a_lease_given_back_while_another_takes_it_is_not_told_of_as_lapsed(tmp_path):
    given = []

    def draw(count):
        """What the taker draws its nonce with, after it looked at the lease and before it takes it."""
        if count == 16 and held:
            given.append(held.pop().release())
        return os.urandom(count)

    held = []
    with everlog.open(tmp_path / "s.db") as store:
        session = store.create("s")
        held.append(session.lease("worker-1", TTL))
        other = Store(store.storage, Settings(draw), url="s.db").session("s")
        other.lease("worker-2", TTL).release()
        assert given
        told = [(event.type, event.data["token"]) for event in session.events(types=["lease.*"])]
        assert told[:3] == [("lease.acquired", 1), ("lease.released", 1), ("lease.acquired", 2)]


def test_a_lease_that_was_given_back_was_not_lost(timed):
    held = timed.create("s").lease("worker", TTL)
    held.release()
    assert held.lost is None


def test_a_renewal_that_comes_after_the_release_notes_no_loss(timed):
    held = timed.create("s").lease("worker", TTL)
    held.release()
    with pytest.raises(FencedError):
        held.renew()
    assert held.lost is None


def test_leases_that_lapsed_take_no_place_in_the_list(timed, ticks, wall):
    wall.advance(seconds=1)
    timed.create("lives").lease("worker", 1000.0)
    for number in range(3):
        wall.advance(seconds=1)
        timed.create(f"dead-{number}").lease("worker", TTL)
    ticks.advance(seconds=TTL + 1)
    assert [each.session for each in timed.leases(limit=2)] == ["lives"]


def test_whoever_cannot_be_a_holder_is_refused_before_anything_is_written(timed):
    session = timed.create("s")
    for holder in ("", "x" * 129, "a\x00b", b"worker"):
        with pytest.raises(InvalidEventError):
            timed.wake("s", holder=holder)
    for ttl in (0.0999, 24 * 3600 + 1, float("nan"), "1"):
        with pytest.raises(LimitError):
            timed.wake("s", holder="worker", ttl=ttl)
    for ttl in (0.1, 24 * 3600, 7):
        session.lease("w" * 128, ttl).release()
    assert session.size() == 6


# --- renewal in the background -------------------------------------------------------------------
def test_a_lease_is_renewed_in_the_background_while_it_is_held(target):
    session = target.create("s")
    other = target.session("s")
    with session.lease("worker", SHORT) as held:
        first = target.storage.lease(session.uuid).until

        def renewed():
            with pytest.raises(FencedError):
                agent(other)
            return target.storage.lease(session.uuid).until - first > 3 * SHORT * 1_000_000

        assert eventually(renewed)
        agent(session)
        assert held.alive
        assert held.lost is None
    agent(other)


def test_many_leases_are_renewed_by_one_thread_that_ends_with_them(target):
    held = [target.create(f"s{number}").lease("worker", SHORT) for number in range(5)]
    firsts = [target.storage.lease(each._session.uuid).until for each in held]
    assert eventually(
        lambda: all(
            target.storage.lease(each._session.uuid).until - first > SHORT * 1_000_000
            for each, first in zip(held, firsts, strict=True)
        )
    )
    assert len(renewing()) == 1
    for each in held:
        each.release()
    assert eventually(lambda: not renewing())
    again = target.session("s0").lease("worker", SHORT)
    assert len(renewing()) == 1
    again.release()


def renewing():
    return [thread for thread in threading.enumerate() if thread.name == "everlog-leases"]


def test_a_loss_is_noticed_in_the_background(timed, ticks):
    session = timed.create("s")
    held = session.lease("worker", SHORT)
    ticks.advance(seconds=TTL)
    assert not held.alive
    assert eventually(lambda: held.lost)
    assert held.lost.code == "fenced"
    assert "lost" not in repr(held)
    assert "ended" in repr(held)
    with pytest.raises(FencedError):
        agent(session)


def test_a_loss_is_noticed_where_the_store_cannot_be_reached():
    store = everlog.open("memory:")
    held = store.create("s").lease("worker", SHORT)
    store.storage.close()  # and not the store, which would renew no more
    assert eventually(lambda: held.lost)
    assert "could not be renewed in time" in held.lost.message
    store.close()


def test_a_wall_clock_that_is_set_back_ends_no_renewal(tmp_path):
    clock = FixedClock()
    with Store(open_sqlite(tmp_path / "s.db", clock=clock, draw=os.urandom), Settings(os.urandom), url="s.db") as store:
        session = store.create("s")
        with session.lease("worker", SHORT) as held:
            clock.advance(seconds=-7200)
            first = store.storage.lease(session.uuid).until
            assert eventually(lambda: store.storage.lease(session.uuid).until - first > SHORT * 1_000_000)
            agent(session)
            assert held.alive


# --- the end of a store, fork() ------------------------------------------------------------------
def test_a_store_closed_with_a_lease_held_lets_it_lapse(tmp_path):
    store = everlog.open(tmp_path / "s.db")
    session = store.create("s")
    held = session.lease("worker", SHORT)
    store.close()
    for call in (held.release, held.renew, lambda: agent(session)):
        with pytest.raises(UnavailableError):
            call()
    assert eventually(lambda: not renewing())
    with everlog.open(tmp_path / "s.db") as store:
        with store.wake("s", holder="next", ttl=TTL, timeout=DEADLINE_SECONDS) as woken:
            assert woken.lease.token == held.token + 1
            assert woken[-2].outcome == "timeout"
            agent(woken)


def test_leaving_a_lease_after_its_store_was_closed_says_so(tmp_path):
    store = everlog.open(tmp_path / "s.db")
    session = store.create("s")
    with pytest.raises(UnavailableError):
        with session.lease("worker", TTL):
            store.close()


def in_child(work):
    """Run work in a forked child; give its exit status. A child that hangs is ended by its alarm."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(10)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_after_fork_the_lease_is_the_parents_alone(tmp_path):
    with everlog.open(tmp_path / "s.db") as store:
        session = store.create("s")
        with session.lease("worker", TTL) as held:

            def work():
                for call in (held.renew, lambda: agent(session)):
                    with pytest.raises(UnsupportedStoreError):
                        call()
                with everlog.open(tmp_path / "s.db") as own:
                    with pytest.raises(FencedError):
                        agent(own.session("s"))
                    own.session("s").append("note", {"content": "from the child"})

            assert in_child(work) == 0
            agent(session, "the parent's")
            held.renew()
        assert [event.data.get("content") for event in session.slice(1, -1)] == ["from the child", "the parent's"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("what", ["release", "close"])
def test_a_child_forked_while_leases_are_looked_after_does_not_hang(what):
    with everlog.open("memory:") as store:
        held = store.create("s").lease("worker", TTL)
        holds, done = threading.Event(), threading.Event()

        def look():  # as the background does, a moment at a time
            with store._keepers.leases._changed:
                holds.set()
                done.wait(DEADLINE_SECONDS)

        looking = threading.Thread(target=look)
        looking.start()
        holds.wait(DEADLINE_SECONDS)

        def work():
            signal.alarm(1)
            if what == "close":
                store.close()
            else:
                with pytest.raises(UnsupportedStoreError):
                    held.release()

        status = in_child(work)
        done.set()
        looking.join(DEADLINE_SECONDS)
        assert status == 0


# --- the async face ------------------------------------------------------------------------------
def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


async def soon(condition, seconds=DEADLINE_SECONDS):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.005)
    return True


def test_the_async_lease_is_held_renewed_lost_and_given_back():
    ticks = FixedTicks()

    async def story():
        sync = Store(MemoryStorage(clock=FixedClock(), draw=os.urandom, ticks=ticks), Settings(os.urandom), url="m")
        async with AsyncStore(sync) as store:
            session, other = await store.create("s"), await store.session("s")
            async with await session.lease("worker", TTL) as held:
                assert (held.holder, held.token, held.alive, held.lost) == ("worker", 1, True, None)
                with pytest.raises(FencedError):
                    await other.append("agent.message", {"content": "x"})
                with pytest.raises(FencedError):
                    await other.extend([NewEvent("agent.message", {"content": "x"})])
                await asyncio.gather(*(session.append("agent.message", {"content": str(n)}) for n in range(20)))
                await held.renew()
                assert [each.holder for each in await store.leases()] == ["worker"]
            assert not held.alive
            assert await held.release() is None
            held = await other.lease("next", SHORT)
            ticks.advance(seconds=TTL)
            assert await soon(lambda: held.lost)
            with pytest.raises(FencedError):
                await other.append("agent.message", {"content": "x"})
            with pytest.raises(FencedError):
                await held.release()

    run(story())


def test_the_async_woken_session_is_given_back_also_where_its_task_is_cancelled(tmp_path):
    async def story():
        async with await everlog.open_async(tmp_path / "s.db") as store:
            session = await store.create("s")
            await session.append("agent.tool_use", {"id": "c", "name": "n", "input": {}})
            inside = asyncio.Event()

            async def work():
                async with await store.wake("s", holder="worker", ttl=TTL) as woken:
                    assert [tool.id for tool in woken.pending.tools] == ["c"]
                    assert woken.last_checkpoint is None
                    assert len(await woken.repair()) == 1
                    inside.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(work())
            await inside.wait()
            with pytest.raises(FencedError):
                await store.wake("s", holder="other")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await store.leases() == []
            last = await session.last("lease.released")
            assert last.data["reason"] == "CancelledError was raised"

    run(story())


@pytest.mark.parametrize("how", ["lease", "wake"])
def test_a_cancelled_wait_for_a_lease_takes_none_later(tmp_path, how):
    async def story():
        async with await everlog.open_async(tmp_path / "s.db") as store:
            session, other = await store.create("s"), await store.session("s")
            held = await session.lease("worker", TTL)
            task = asyncio.create_task(
                other.lease("cancelled", TTL, timeout=DEADLINE_SECONDS)
                if how == "lease"
                else store.wake("s", holder="cancelled", ttl=TTL, timeout=DEADLINE_SECONDS)
            )
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await held.release()
            taken = await soon(lambda: any(each.holder == "cancelled" for each in store.sync.leases()), 1.0)
            assert not taken

    run(story())


def test_a_lease_whose_taking_was_cancelled_is_held_by_nobody(tmp_path):
    async def story():
        async with await everlog.open_async(tmp_path / "s.db") as store:
            session = await store.create("s")
            for _ in range(10):
                task = asyncio.create_task(session.lease("cancelled", TTL))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            taken = await soon(lambda: store.sync.leases(), 0.5)
            assert not taken or await soon(lambda: not store.sync.leases(), 2.0)

    run(story())


# --- what is forgotten, interrupted, or gives no way ---
def test_a_lease_that_nobody_can_use_any_more_is_not_renewed_and_harms_no_other(timed, ticks):
    timed.create("s")
    timed.create("t")
    with timed.session("t").lease("worker", TTL) as kept:
        timed.session("s").lease("forgotten", TTL)  # no name for it, nor for its handle
        assert list(timed._keepers.leases._held) == [kept]
        ticks.advance(seconds=TTL + 1)
        assert timed.session("s").lease("another", TTL).token == 2


def test_the_thread_that_renews_is_there_again_after_every_lease_was_forgotten(target):
    for name in ("s", "t"):
        target.create(name)
    for _ in range(20):
        target.session("s").lease("forgotten", 0.1)
        time.sleep(0.12)
    session = target.session("t")
    with session.lease("worker", SHORT) as lease:
        time.sleep(SHORT * 3)
        assert lease.alive
        agent(session)


@pytest.mark.parametrize("others", [True, False])
def test_a_lease_that_lapsed_before_its_holder_could_look_is_shown_and_refused(timed, ticks, monkeypatch, others):
    session = timed.create("s")
    keeper = type(timed._keepers.leases)
    keep = keeper.keep

    def late(self, lease):
        ticks.advance(seconds=TTL + 1)
        if others:
            monkeypatch.setattr(keeper, "keep", keep)
            with timed.session("s").lease("another", TTL):
                pass
        keep(self, lease)

    monkeypatch.setattr(keeper, "keep", late)
    session.lease("slow", TTL)
    for _ in range(2):
        with pytest.raises(FencedError):
            agent(session)


def test_the_error_of_a_block_is_not_hidden_by_a_lease_that_cannot_be_given_back(timed, monkeypatch):
    session = timed.create("s")

    def refuse(*_):
        raise BusyError("the store was busy; nothing was written; try again later")

    with pytest.raises(KeyboardInterrupt) as caught, session.lease("worker", TTL) as lease:
        monkeypatch.setattr(type(timed.storage), "write", refuse)
        raise KeyboardInterrupt
    assert "could not be given back" in "".join(caught.value.__notes__)
    assert lease not in timed._keepers.leases._held


def test_a_lease_whose_taking_is_interrupted_is_given_back(timed, monkeypatch):
    session = timed.create("s")
    write = type(timed.storage).write

    def interrupted(self, request):
        receipt = write(self, request)
        if isinstance(request, TakeLease):
            raise KeyboardInterrupt
        return receipt

    with monkeypatch.context() as patch:
        patch.setattr(type(timed.storage), "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.lease("worker", TTL)
    assert timed.leases() == []
    agent(session)


def test_a_lease_given_back_by_two_threads_was_not_lost(timed):
    session = timed.create("s")
    lease = session.lease("worker", TTL)
    errors = []

    def release():
        try:
            lease.release()
        except FencedError as error:
            errors.append(error)

    threads = [threading.Thread(target=release) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert errors == []
    assert lease.lost is None
    assert session.count(types="lease.released") == 1


@pytest.mark.parametrize("number", [10**5_000, -(10**5_000)], ids=["large", "small"])
def test_a_number_that_cannot_be_written_out_is_refused_as_any_other(timed, number):
    session = timed.create("s")
    for use in (
        lambda: session.lease("a", number),
        lambda: session.lease("a", TTL, timeout=number),
        lambda: session.run().step("a", int, timeout=number),
    ):
        with pytest.raises(LimitError, match="of type int"):
            use()


def test_many_waiters_on_a_loop_do_not_keep_the_holder_from_giving_it_back(tmp_path):
    async def story():
        async with await everlog.open_async(tmp_path / "s.db") as store:
            held = await (await store.create("s")).lease("holder", TTL)

            async def waits(number):
                lease = await (await store.session("s")).lease(f"w{number}", TTL, timeout=DEADLINE_SECONDS)
                await lease.release()

            waiters = [asyncio.ensure_future(waits(number)) for number in range(8)]
            await asyncio.sleep(0.3)
            began = time.monotonic()
            await held.release()
            took = time.monotonic() - began
            await asyncio.gather(*waiters)
            return took

    assert run(story()) < 2.0


def test_a_lease_whose_block_is_cancelled_while_it_is_left_is_given_back(tmp_path):
    async def story():
        async with await everlog.open_async(tmp_path / "s.db") as store:
            session = await store.create("s")
            gate = threading.Event()

            async def works():
                async with await session.lease("worker", TTL):
                    for _ in range(8):  # the pool has no thread left for giving it back
                        store._engine.loop.run_in_executor(store._engine.pool, gate.wait, DEADLINE_SECONDS)
                    await asyncio.sleep(DEADLINE_SECONDS)

            task = asyncio.ensure_future(works())
            await asyncio.sleep(0.2)
            task.cancel()
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.set()
            assert await soon(lambda: store.sync.leases() == [])

    run(story())


INTERRUPTED = """
import signal, sys
import everlog

with everlog.open(sys.argv[1]) as store:
    session, caught = store.create("s"), 0
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for number in range(1_000):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.00002 + number % 60 * 0.00001)
            while True:
                session.size()
        except KeyboardInterrupt:
            caught += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(caught, session.size(), len(store.storage._connections._lent))
"""


def test_an_interrupted_read_leaves_the_store_as_it_was(tmp_path):
    """Interrupts at every moment of a read, as Ctrl-C gives them; each is caught by whoever reads."""
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "s.db")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.stdout.split(), ran.returncode) == (["1000", "0", "0"], 0), ran.stderr
