"""Messages of one session shared out among workers: each to one, and to another where that one died."""

import asyncio
import os
import threading

import pytest

import everlog
from databases import address
from everlog import NewEvent
from everlog.core.lease import Ticks
from everlog.errors import FencedError
from everlog.open import clock
from everlog.reducers.pending import MOST
from everlog.store import Store
from everlog.stores.memory import MemoryStorage
from everlog.writer import Settings


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request, tmp_path):
    with everlog.open(address(request.param, tmp_path)) as opened:
        yield opened


@pytest.fixture
def inbox(store):
    session = store.create("inbox")
    for number in range(4):
        session.append("user.message", {"content": f"q{number}"})
    return session


def test_each_message_is_claimed_by_one_and_answered_once(store, inbox):
    answered = []

    def work(name):
        while (claim := store.claim("inbox", holder=name)) is not None:
            with claim:
                answered.append(claim.message.data["content"])
                claim.answer("a", actor=name)

    workers = [threading.Thread(target=work, args=(name,)) for name in ("ann", "bob", "cid")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sorted(answered) == ["q0", "q1", "q2", "q3"]
    causes = [event.caused_by for event in inbox.events(types="agent.message")]
    assert sorted(causes) == sorted(event.id for event in inbox.events(types="user.message"))
    assert store.claim(inbox, holder="ann") is None


def test_the_oldest_that_nobody_works_on_comes_first_whatever_was_answered_meanwhile(store, inbox):
    first = store.claim(inbox, holder="ann")
    second = store.claim(inbox, holder="bob")
    assert (first.message.position, second.message.position) == (0, 1)
    second.answer("b")
    second.work.lease.release()
    with store.claim(inbox, holder="bob") as third:
        assert third.message.position == 2
    first.work.lease.release()  # without an answer: it is given back
    with store.claim(inbox, holder="cid") as again:
        assert again.message.position == 0


def test_work_goes_on_where_a_worker_that_died_left_it():
    ticks = [0]
    storage = MemoryStorage(clock=clock, draw=os.urandom, ticks=lambda: Ticks("boot", ticks[0]))
    with Store(storage, Settings(os.urandom), url="memory:") as store:
        inbox = store.create("inbox", events=[everlog.NewEvent("user.message", {"content": "q"})])
        died = store.claim(inbox, holder="ann", ttl=60)
        died.work.run().step("half", lambda: 21)
        store._keepers.leases.forget(died.work.lease)  # nobody renews it any more
        assert store.claim(inbox, holder="bob") is None
        ticks[0] += 61_000_000
        with store.claim(inbox, holder="bob") as claim:
            assert claim.work.run().step("half", lambda: 1 / 0) * 2 == 42
            with pytest.raises(FencedError):
                died.answer("too late")
            claim.answer("42")
        assert inbox.count(types="agent.message") == 1
        assert store.sessions(parent=inbox[0])[0].id == claim.work.id


def test_a_message_left_without_an_answer_is_given_again_and_its_tries_are_counted(store, inbox):
    for number in range(1, 4):
        with pytest.raises(ValueError, match="cannot"), store.claim(inbox, holder="ann") as claim:
            assert (claim.message.position, claim.work.lease.token) == (0, number)
            raise ValueError("cannot")
    assert store.session(claim.work.id).last("lease.released").data["reason"] == "ValueError was raised"


def test_an_answer_without_a_cause_answers_all_before_it_however_many_there_were(store, inbox):
    inbox.append("agent.message", {"content": "to all"})
    assert store.claim(inbox, holder="ann") is None
    inbox.extend([NewEvent("user.message", {"content": "q"}) for _ in range(MOST + 1)])
    with store.claim(inbox, holder="ann") as claim:
        assert claim.message.position == 5, "the oldest of more than are kept track of"
    inbox.append("agent.message", {"content": "to all of those"})
    assert inbox.in_flight().dropped
    assert store.claim(inbox, holder="ann") is None
    message = inbox.append("user.message", {"content": "one more"})
    with store.claim(inbox, holder="ann") as claim:
        assert claim.message.position == message.position
        claim.answer("a")
    assert store.claim(inbox, holder="ann") is None


def test_nothing_is_claimed_from_a_session_that_another_holds(store, inbox):
    with store.wake("inbox", holder="bob") as woken:
        with pytest.raises(FencedError, match="from sessions that nobody holds") as refused:
            store.claim("inbox", holder="ann")
        assert refused.value.holder == "bob"
        with store.claim(woken, holder="bob") as claim:
            claim.answer("by who holds it")
    assert [info.id for info in store.sessions(prefix="claims/")] == [claim.work.id]


def test_work_says_which_message_it_is_for(store, inbox):
    with store.claim(inbox, holder="ann") as claim:
        assert claim.work.info().title == "work on inbox@0"
        assert repr(claim) == "<Claim of 'inbox'@0 held by 'ann'>"
        assert repr(claim.work).startswith("<Woken 'claims/")
        assert repr(claim.work).endswith("held by 'ann'>")
    assert repr(claim.work).endswith("held by 'ann', ended>")


def test_an_answer_is_recorded_once(store, inbox):
    claim = store.claim(inbox, holder="ann")
    event = claim.answer("a")
    assert claim.answer("a").repeated
    assert event.caused_by == claim.message.id


def test_messages_are_claimed_from_an_event_loop(tmp_path):
    async def work():
        async with await everlog.open_async(tmp_path / "s.db") as store:
            inbox = await store.create("inbox")
            await inbox.append("user.message", {"content": "q"})
            async with await store.claim(inbox, holder="ann") as claim:
                await claim.work.append("note", {"content": "thinking"})
                run = await claim.work.run()
                assert repr(claim) == "<async <Claim of 'inbox'@0 held by 'ann'>>"
                assert repr(claim.work.lease).startswith("<async <Lease 1 of 'claims/")
                assert repr(claim.work).startswith("<async <Woken 'claims/")
                assert repr(run).startswith("<async <Run 'main' of 'claims/")
                await claim.answer("a")
            assert await store.claim("inbox", holder="ann") is None
            return await inbox.count(types="agent.message")

    assert asyncio.run(asyncio.wait_for(work(), 60)) == 1


def test_a_claim_that_is_cancelled_is_given_back(tmp_path):
    """The claim is cancelled while it is taken: at the moment when the work session has its lease."""
    taken, go = threading.Event(), threading.Event()

    async def work():
        async with await everlog.open_async(tmp_path / "s.db") as store:
            inbox = await store.create("inbox", events=[NewEvent("user.message", {"content": "q"})])
            plain = store.sync.claim

            def slow(*arguments, **keywords):
                claim = plain(*arguments, **keywords)
                taken.set()
                assert go.wait(60)
                return claim

            store.sync.claim = slow
            claiming = asyncio.ensure_future(store.claim(inbox, holder="ann", ttl=3600))
            await asyncio.to_thread(taken.wait, 60)
            claiming.cancel()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await claiming
            store.sync.claim = plain
            (info,) = await store.sessions(prefix="claims/")
            work = await store.session(info.id)
            async for event in work.follow(start="start", idle=60):
                if event.type == "lease.released":
                    return event.data["reason"]

    assert asyncio.run(asyncio.wait_for(work(), 60)) == "whoever took it was cancelled"
