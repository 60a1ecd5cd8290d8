"""Leases under which the integrations write: one that is held, or those that a holder takes. The same on every framework."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import everlog
from databases import open_in
from everlog import NewEvent
from everlog.errors import EverlogError, FencedError, InvalidEventError, LimitError, NotFoundError, UnavailableError
from everlog.integrations.holding import Holder, Holding
from everlog.session import Settings
from everlog.store import Store
from everlog.stores.sqlite.store import open_sqlite
from everlog.testing import FixedClock, FixedTicks
from integrations.leased import DECIDES, NAMES, WRITERS

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:google.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
TTL = 30.0


@pytest.fixture
def ticks():
    return FixedTicks()


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path, ticks):
    """A store whose ticks are set, so that leases lapse when a test says so."""
    clock = FixedClock()
    if request.param == "sqlite":
        storage = open_sqlite(tmp_path / "timed.db", clock=clock, draw=os.urandom, ticks=ticks)
    else:
        storage = open_in(tmp_path, clock=clock, ticks=ticks)
    with Store(storage, Settings(os.urandom), url=request.param) as opened:
        yield opened


@pytest.fixture(params=NAMES)
def framework(request):
    return request.param


@pytest.fixture
def writer(store, framework):
    """Make writers on one session; those that are not closed are at the end."""
    made = []

    def make(lease=None):
        made.append(WRITERS[framework](store, lease))
        return made[-1]

    yield make
    for each in made:
        each.close()


def holders(store, name):
    return [each.holder for each in store.leases() if each.session == name]


def said(store, name):
    """Give the words of a session, whatever its framework says of them."""
    text = " ".join(str(event.data) for event in store.session(name).events())
    return [word for word in ("one", "two", "three", "four") if word in text]


# --- a holder ------------------------------------------------------------------------------------
def test_a_holder_keeps_others_out_from_its_first_write_until_it_is_closed(store, writer):
    writer().write("one")
    first, second = writer("worker-1"), writer("worker-2")
    first.write("two")
    assert holders(store, first.name) == ["worker-1"]
    for other in (second, writer()):
        with pytest.raises(FencedError) as refused:
            other.write("three")
        assert refused.value.holder == "worker-1"
    first.write("four")
    assert said(store, first.name) == ["one", "two", "four"]
    first.close()
    assert holders(store, first.name) == []
    assert store.session(first.name).last("lease.released").data["reason"] == "done"
    writer("worker-2").write("three")
    assert holders(store, first.name) == ["worker-2"]


def test_what_a_holder_takes_is_one_lease_however_often_it_writes(store, writer):
    first = writer("worker-1")
    for word in ("one", "two", "three"):
        first.write(word)
    assert store.session(first.name).count(types=["lease.acquired"]) == 1


def test_another_without_a_lease_goes_on_once_it_was_given_back(store, writer):
    """It read the session before: taking a lease and giving it back changes nothing of what it read."""
    writer().write("one")
    other = writer()
    with store.session(other.name).lease("worker-1", TTL):
        with pytest.raises(FencedError):
            other.write("two")
    other.write("three")
    assert said(store, other.name) == ["one", "three"]


def test_a_killed_holder_is_followed_once_its_lease_lapsed(store, writer, ticks):
    killed = writer("worker-1")
    killed.write("one")
    with pytest.raises(FencedError):
        writer("worker-2").write("two")
    ticks.advance(seconds=TTL + 1)
    writer(Holder(name="worker-2", ttl=60.0)).write("two")
    assert said(store, killed.name) == ["one", "two"]
    with pytest.raises(FencedError):  # it was no corpse: it only slept
        killed.write("three")


def test_whoever_slept_through_what_others_wrote_never_writes_behind_it(store, writer, ticks, framework):
    sleeper = writer("worker-1")
    sleeper.write("one")
    ticks.advance(seconds=TTL + 1)
    awake = writer("worker-2")
    awake.write("two")
    awake.close()
    for _ in range(2):
        with pytest.raises(Exception) as refused:  # the frameworks' own, where the append says what it read
            sleeper.write("three")
        assert isinstance(refused.value, FencedError) == (framework not in DECIDES)
    assert said(store, sleeper.name) == ["one", "two"]
    sleeper.close()
    writer("worker-1").write("four")
    assert said(store, sleeper.name) == ["one", "two", "four"]


def test_one_that_was_closed_takes_a_lease_again_or_says_that_it_is_closed(store, writer, framework):
    first = writer("worker-1")
    first.write("one")
    first.write("two")
    first.close()
    if framework in ("adk", "openai_agents"):
        with pytest.raises(UnavailableError, match="closed"):
            first.write("three")
    else:
        first.write("three")
        assert holders(store, first.name) == ["worker-1"]


def test_closing_after_the_session_was_deleted_or_its_lease_lost_is_quiet(store, writer, ticks):
    first = writer("worker-1")
    first.write("one")
    ticks.advance(seconds=TTL + 1)
    first.close()
    second = writer("worker-2")
    second.write("two")
    store.delete(second.name, reason="test")
    second.close()


def test_after_a_kill_the_next_process_waits_for_the_lease_and_goes_on(tmp_path, framework):
    with everlog.open("memory:") as store:
        WRITERS[framework](
            store, "worker-0"
        ).close()  # where it cannot be made, this skips, and the other process could not
    place = str(tmp_path / "s.db")
    program = [sys.executable, str(Path(__file__).with_name("leased.py")), framework, place]
    with (
        subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killed,
        everlog.open(place) as store,
    ):
        try:
            assert killed.stdout.readline() == "written\n"
            with pytest.raises(FencedError):  # it lives
                WRITERS[framework](store, "worker-2").write("two")
        finally:
            killed.kill()
        following = WRITERS[framework](store, Holder(name="worker-2", timeout=20.0))
        following.write("two")
        following.close()
        assert said(store, following.name) == ["one", "two"]
        lapsed, *_ = store.session(following.name).events(types=["lease.released"])
        assert lapsed.outcome == "timeout"


# --- a lease that is held ------------------------------------------------------------------------
def test_under_a_lease_that_is_held_the_framework_writes_and_no_one_else_does(store, writer):
    writer().write("one")
    name = writer().name
    with store.wake(name, holder="worker-1", ttl=TTL) as woken:
        under = writer(woken.lease)
        under.write("two")
        with pytest.raises(FencedError):
            writer().write("three")
        woken.append("agent.message", {"content": "four"})
        under.close()
        assert woken.lease.alive  # it is its holder's
    assert said(store, name) == ["one", "two", "four"]
    with pytest.raises((FencedError, RuntimeError, EverlogError)):
        under.write("three")
    assert said(store, name) == ["one", "two", "four"]


def test_after_a_lease_that_was_given_ends_the_framework_writes_nothing(store, writer):
    writer().write("one")
    name = writer().name
    with store.session(name).lease("worker-1", TTL) as held:
        under = writer(held)
        under.write("two")
    with pytest.raises(FencedError, match="ended"):
        under.write("three")
    assert said(store, name) == ["one", "two"]


def test_a_lease_is_of_one_session_and_others_are_written_without_it(store, writer):
    with store.create("other").lease("worker-1", TTL) as held:
        under = writer(held)
        under.write("one")
        assert holders(store, under.name) == []


# --- what all rest on ----------------------------------------------------------------------------
def test_threads_that_write_at_once_share_the_one_lease_that_is_taken(store):
    session, holding = store.create("s"), Holding("worker-1")
    start = threading.Barrier(4)

    def write():
        start.wait()
        own = store.session("s")
        holding.hold(own)
        own.append("agent.message", {"content": "x"})

    threads = [threading.Thread(target=write) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert session.count(types=["agent.message"]) == 4
    assert session.count(types=["lease.acquired"]) == 1
    holding.release()
    holding.release()
    assert store.leases() == []


def test_taking_a_lease_moves_nothing_that_the_handle_saw(store):
    session = store.create("s")
    head = session.head
    Holding("worker-1").hold(session)
    assert session.head == head
    assert session.refresh().size == 1


def test_a_lease_of_a_session_that_was_deleted_is_not_shown_for_the_next_of_its_name(store):
    holding = Holding("worker-1")
    holding.hold(store.create("s"))
    store.delete("s", reason="test")
    again = store.create("s")
    holding.hold(again)
    again.append("agent.message", {"content": "x"})
    gone = store.create("t")
    store.delete("t", reason="test")
    with pytest.raises(NotFoundError):
        holding.hold(gone)


def test_what_is_no_lease_and_no_holder_is_refused_before_anything_is_opened(tmp_path):
    for wrong, error in (
        (7, InvalidEventError),
        ("", InvalidEventError),
        ("x" * 129, InvalidEventError),
        (Holder(name="w", ttl=0.01), LimitError),
        (Holder(name="w", timeout=-1), LimitError),
    ):
        with pytest.raises(error):
            Holding(wrong)


def test_an_async_lease_is_taken_as_well(tmp_path):
    import asyncio

    async def main():
        async with await everlog.open_async(tmp_path / "s.db") as store:
            session = await store.create("s", events=[NewEvent("note", {"content": "x"})])
            async with await session.lease("worker-1", TTL) as held:
                own = store.sync.session("s")
                Holding(held).hold(own)
                await asyncio.to_thread(own.append, "agent.message", {"content": "x"})

    asyncio.run(main())
