"""Messages of one session shared out among workers: each to one, and to another where that one died."""

import asyncio
import os
import threading

import pytest

import everlog
from everlog.core.lease import Ticks
from everlog.errors import FencedError
from everlog.open import clock
from everlog.store import Store
from everlog.stores.memory import MemoryStorage
from everlog.writer import Settings


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    with everlog.open("memory:" if request.param == "memory" else tmp_path / "s.db") as opened:
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
                await claim.answer("a")
            assert await store.claim("inbox", holder="ann") is None
            return await inbox.count(types="agent.message")

    assert asyncio.run(asyncio.wait_for(work(), 60)) == 1
