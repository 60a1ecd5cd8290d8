"""Closing, deleting and opening a store in the middle of things."""

import asyncio
import fcntl
import gc
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

import everlog
from everlog.errors import BusyError, NotFoundError, UnavailableError
from everlog.stores.sqlite.turn import Turn

DEADLINE_SECONDS = 20


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.db"


def test_closing_while_others_append_loses_nothing_that_was_acknowledged(path):
    for _ in range(5):
        store = everlog.open(path)
        session = store.get_or_create("s")
        acknowledged, refusals = [], []
        started = threading.Barrier(9)

        def work(session=session, acknowledged=acknowledged, refusals=refusals, started=started):
            started.wait(DEADLINE_SECONDS)
            try:
                while True:
                    acknowledged.append(session.append("note", {"content": "x"}).hash)
            except UnavailableError as refusal:
                refusals.append(refusal)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        started.wait(DEADLINE_SECONDS)
        session.append("note", {"content": "y"})
        store.close()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        assert len(refusals) == 8
        with everlog.open(path) as again:
            assert set(acknowledged) <= {event.hash for event in again.session("s")}
            assert again.verify().ok


def test_a_store_opened_by_two_names_is_one_store(path, tmp_path):
    (tmp_path / "link.db").symlink_to(path)
    with everlog.open(path) as one, everlog.open(tmp_path / "link.db") as other:
        mine, theirs = one.create("s"), other.session("s")

        def work(session):
            for _ in range(50):
                session.append("note", {"content": "x"})

        threads = [threading.Thread(target=work, args=(session,)) for session in (mine, theirs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        assert mine.size() == theirs.size() == 100
        assert one.verify().ok
        assert not (tmp_path / "link.db-lock").exists()


def test_a_follower_of_a_session_that_is_deleted_is_told(path):
    with everlog.open(path) as store:
        session = store.create("s")
        followed = session.follow(idle=DEADLINE_SECONDS)
        told = []

        def follow():
            try:
                next(followed)
            except NotFoundError as error:
                told.append(error)

        thread = threading.Thread(target=follow)
        thread.start()
        store.delete("s", reason="over")
        thread.join(DEADLINE_SECONDS)
        assert len(told) == 1


def test_appends_that_are_awaited_while_the_store_is_closed_are_carried_out(path):
    async def story():
        store = await everlog.open_async(path)
        session = await store.create("s")
        tasks = [asyncio.create_task(session.append("note", {"content": str(number)})) for number in range(100)]
        await asyncio.sleep(0)
        await store.close()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(asyncio.wait_for(story(), 60))
    recorded = [result.hash for result in results if isinstance(result, everlog.Event)]
    with everlog.open(path) as store:
        assert set(recorded) <= {event.hash for event in store.session("s")}


def test_many_that_make_one_store_at_once_all_get_it(tmp_path: Path) -> None:
    """SQLite does not wait for who turns a fresh file's journal into a log: it says busy at once."""
    for attempt in range(15):
        path = tmp_path / f"{attempt}.db"
        barrier = threading.Barrier(8)

        def make(path: Path = path, barrier: threading.Barrier = barrier) -> int:
            barrier.wait()
            with everlog.open(path) as store:
                return store.get_or_create("s").size()

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(lambda _: make(), range(8))) == [0] * 8


def open_files(path):
    """Give the open files of this process that a store of this path uses."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [name for name in found if name.startswith(str(path))]


def until(is_so):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="open files are listed in /proc")
def test_a_store_that_an_event_loop_drops_open_gives_back_its_files_and_threads(path):
    async def story():
        store = await everlog.open_async(path)
        session = await store.create("s")
        for _ in range(2):
            await asyncio.gather(*(session.append("note", {"content": "x"}) for _ in range(8)))
            await asyncio.to_thread(until, lambda: "everlog-commit" not in names_of_threads())
        return await session.size()

    def names_of_threads():
        return [thread.name for thread in threading.enumerate()]

    def all_is_gone():
        gc.collect()
        return not (open_files(path) or set(threading.enumerate()) - before)

    before = set(threading.enumerate())
    assert asyncio.run(story()) == 16
    until(all_is_gone)


@pytest.mark.skipif(sys.platform != "linux", reason="open files are listed in /proc")
@pytest.mark.parametrize("waited", [False, True])
def test_a_store_that_is_dropped_open_gives_back_its_files_and_threads(path, waited):
    before = set(threading.enumerate())
    store = everlog.open(path)
    session, appending = store.create("s"), None
    if waited:  # for its turn: another process is writing
        with Path(f"{path}-lock").open() as side:
            fcntl.flock(side, fcntl.LOCK_EX)
            appending = threading.Thread(target=session.append, args=("note", {"content": "x"}))
            appending.start()
            until(lambda: "everlog-turn" in [thread.name for thread in threading.enumerate()])
        appending.join(DEADLINE_SECONDS)
        assert not appending.is_alive()
    assert (session.size(), bool(open_files(path))) == (int(waited), True)
    del store, session, appending
    until(lambda: not set(threading.enumerate()) - before)
    gc.collect()
    gc.collect()  # what a cycle of the first kept alive
    assert open_files(path) == []


@pytest.fixture
def give_threads(monkeypatch):
    """Let no thread of a store begin, as where the system gives a process no more; until it is called."""
    start, refused = threading.Thread.start, {"everlog-commit", "everlog-turn"}

    def begin(thread):
        if thread.name in refused:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", begin)
    return refused.clear


def test_an_append_of_an_event_loop_that_no_thread_can_commit_writes_nothing_and_the_next_one_is_recorded(
    path, give_threads
):
    async def story():
        store = await everlog.open_async(path)
        session = await store.create("s")
        with pytest.raises(BusyError, match="no further thread"):
            await session.append("note", {"content": "refused"})
        give_threads()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await session.append("note", {"content": "x"})
            await store.close()

    asyncio.run(story())
    with everlog.open(path) as store:
        assert [event.data for event in store.session("s").events()] == [{"content": "x"}]


def test_a_turn_that_no_thread_can_wait_for_is_refused_and_the_next_one_is_waited_for(path, give_threads):
    turn = Turn(str(path))
    with path.open() as side:
        fcntl.flock(side, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="no thread that waits"):
            turn.take(DEADLINE_SECONDS)
        give_threads()
        with pytest.raises(BusyError, match="has held"):
            turn.take(0.01)
    turn.take(DEADLINE_SECONDS)
    turn.release()
    turn.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork processes")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # that threads run here is the point
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_store_that_is_opened_while_a_fork_waits_for_another_is_not_let_go_of_by_that_fork(path):
    with everlog.open(path) as first:
        session, writing, opened = first.create("s"), threading.Event(), []
        held = first.storage._connections.writing

        def write():
            with held:
                writing.set()
                until(lambda: opened)

        def open_another():
            until(lambda: forking.is_set())
            opened.append(everlog.open(path.with_name("other.db")))

        forking = threading.Event()
        threads = [threading.Thread(target=each) for each in (write, open_another)]
        for thread in threads:
            thread.start()
        assert writing.wait(DEADLINE_SECONDS)
        os.register_at_fork(before=forking.set)  # what is registered last runs first
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        with opened[0] as other:
            other.create("t")
            session.append("note", {"content": "x"})
            assert [len(store.sessions()) for store in (first, other)] == [1, 1]


def test_a_turn_that_was_given_up_at_once_is_waited_for_by_the_next_call(path, monkeypatch):
    monkeypatch.setattr("everlog.stores.sqlite.turn._IDLE_SECONDS", 2 * DEADLINE_SECONDS)
    turn = Turn(str(path))
    with path.open() as side:
        for seconds in (0.01, 0):  # the second does not even let the thread hear of it
            interval = sys.getswitchinterval()
            sys.setswitchinterval(1)
            try:
                fcntl.flock(side, fcntl.LOCK_EX)
                with pytest.raises(BusyError):
                    turn.take(seconds)
            finally:
                sys.setswitchinterval(interval)
            fcntl.flock(side, fcntl.LOCK_UN)
            time.sleep(0.01)
            turn.take(DEADLINE_SECONDS / 4)
            turn.release()
    turn.close()
