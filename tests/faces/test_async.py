"""The async face: the same names and signatures, cancellation, followers, many tasks."""

import asyncio
import inspect

import pytest

import everlog
from databases import address
from everlog import aio
from everlog.aio.preferences import AsyncPreferences
from everlog.aio.retention import AsyncRetention
from everlog.aio.runs import AsyncClaim, AsyncLease, AsyncRun
from everlog.claims import Claim
from everlog.context.reader import ContextReader
from everlog.erasure import SessionEraser
from everlog.errors import ConflictError
from everlog.leases import Lease
from everlog.preferences import Preferences
from everlog.reader import BranchReader
from everlog.retention import Retention
from everlog.runs import Run
from everlog.session import Branch, Session
from everlog.state import StateReader
from everlog.store import Store
from everlog.summaries import SessionSummarizer
from everlog.worker import SessionWorker
from everlog.writer import SessionWriter

# Sugar that cannot await, and what the async face builds on.
SYNC_ONLY = {
    "keeper",
    "view",
    "pages",
    "append_request",
    "conflict",
    "noted",
    "storage",
    "conversation_in_flight",
    "lease_shown",
    "lease_unless",
    "wake_unless",
    "own_request",
    "write_own",
    "write",
    "gave_back",
    "under",
    "opened",
    "read_short",
    "line_seen",
    "view_seen",
    "shown",
    "due",
    "over",
    "settings",
    "session_id",
    "writer",
}


@pytest.mark.parametrize(
    ("sync", "async_"),
    [
        (BranchReader, aio.AsyncReader),
        (StateReader, aio.AsyncReader),
        (ContextReader, aio.AsyncReader),
        (SessionWriter, aio.AsyncSession),
        (Preferences, AsyncPreferences),
        (Branch, aio.AsyncBranch),
        (SessionWorker, aio.AsyncSession),
        (SessionSummarizer, aio.AsyncSession),
        (SessionEraser, aio.AsyncSession),
        (Session, aio.AsyncSession),
        (Lease, AsyncLease),
        (Run, AsyncRun),
        (Claim, AsyncClaim),
        (Retention, AsyncRetention),
        (Store, aio.AsyncStore),
    ],
)
def test_both_faces_have_the_same_names_and_parameters(sync, async_):
    for name in (name for name in vars(sync) if not name.startswith("_") and name not in SYNC_ONLY):
        assert hasattr(async_, name), name
        one, other = getattr(sync, name), getattr(async_, name)
        if callable(one):
            mine = {key: value.default for key, value in inspect.signature(one).parameters.items()}
            theirs = {key: value.default for key, value in inspect.signature(other).parameters.items()}
            assert mine == theirs, name
    parts = {BranchReader, StateReader, ContextReader, SessionWriter, SessionWorker, SessionSummarizer, SessionEraser}
    if sync not in parts:  # of a part, the other face has more
        for name in (name for name in vars(async_) if not name.startswith("_") and name != "sync"):
            assert hasattr(sync, name) or name in sync.__init__.__code__.co_names, name


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
def test_appends_reads_and_followers_on_one_loop(tmp_path, kind):
    async def story():
        async with await everlog.open_async(address(kind, tmp_path)) as store:
            session = await store.create("s")
            seen = []

            async def follow():
                async for event in session.follow("start"):
                    seen.append(event.position)
                    if len(seen) == 200:
                        return

            following = asyncio.create_task(follow())
            await asyncio.gather(*(append_ten(session, number) for number in range(20)))
            await following
            assert seen == list(range(200))
            assert [event.position async for event in session.events(types="note", reverse=True, limit=2)] == [199, 198]
            assert len([event async for event in store.feed()]) == 200
            assert (await session.verify()).ok

    async def append_ten(session, number):
        for each in range(10):
            await session.append("note", {"content": f"{number} {each}"}, key=f"{number}-{each}")

    run(story())


def test_a_conflict_carries_what_was_missed(tmp_path):
    async def story():
        async with await everlog.open_async(tmp_path / "a.db") as store:
            one, other = await store.create("s"), await store.session("s")
            await one.append("note", {"content": "first"})
            with pytest.raises(ConflictError) as refused:
                await other.append("note", {"content": "second"}, expected=other.head)
            assert [event.data["content"] for event in refused.value.events] == ["first"]

    run(story())


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_cancelled_append_may_commit_and_its_key_tells(tmp_path, kind):
    async def story():
        async with await everlog.open_async(address(kind, tmp_path)) as store:
            session = await store.create("s")
            for number in range(60):
                task = asyncio.create_task(session.append("note", {"content": "x"}, key=f"k{number}"))
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                recorded = await session.append("note", {"content": "x"}, key=f"k{number}")
                assert recorded.position == number  # once, whether the cancelled one committed or not
            assert await session.size() == 60

    run(story())


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_follower_on_the_loop_does_not_keep_it_from_working(tmp_path, kind):
    async def story():
        async with await everlog.open_async(address(kind, tmp_path)) as store:
            session = await store.create("s")
            followers = [asyncio.create_task(first_of(session)) for _ in range(50)]
            await asyncio.sleep(0)
            await session.append("note", {"content": "x"})
            assert {event.position for event in await asyncio.gather(*followers)} == {0}

    async def first_of(session):
        async for event in session.follow("start"):
            return event

    run(story())


def test_a_follower_that_no_thread_could_be_begun_for_does_not_keep_the_next_from_one(tmp_path, monkeypatch):
    class NoThread:
        def __init__(self, **named):
            pass

        def start(self):
            raise RuntimeError("can't start new thread")

    async def story():
        async with await everlog.open_async(tmp_path / "a.db") as store:
            session = await store.create("s")
            with monkeypatch.context() as patched:
                patched.setattr("everlog.aio.engine.Thread", NoThread)
                assert [event async for event in session.follow(idle=0.05)] == []
            heard = asyncio.create_task(anext(aiter(session.follow("start"))))
            await asyncio.sleep(0.1)
            await session.append("note", {"content": "x"})
            assert (await asyncio.wait_for(heard, 5)).type == "note"

    run(story())


def test_follow_ends_after_so_long_without_an_event(tmp_path):
    async def story():
        async with await everlog.open_async(tmp_path / "a.db") as store:
            session = await store.create("s")
            assert [event async for event in session.follow(idle=0.05)] == []
            assert [event async for event in store.follow(idle=0.05)] == []

    run(story())
