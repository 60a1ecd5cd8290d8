"""How PostgreSQL is read: pages, buckets, listings and the feed, round trips, indexes."""

import os
import time

import msgspec
import pytest

import everlog
from databases import open_in
from everlog import NewEvent
from everlog.core import limits
from everlog.errors import (
    NotFoundError,
    SessionExistsError,
    StaleCursorError,
)
from everlog.reader import read_query
from everlog.session import Settings
from everlog.storage import SessionFilter
from everlog.store import Store
from everlog.stores.postgres.statements import bucket_of
from everlog.testing import FixedClock
from everlog.woken import Woken

BUCKETS = 16
DEADLINE_SECONDS = 60


def bucket(session):
    return bucket_of(session.view().branch.key)


# --- pages ---------------------------------------------------------------------------------------
def test_pages_end_where_they_hold_enough_bytes_whichever_way_they_are_read(store):
    session = store.create("s")
    large = limits.PAGE_BYTES_MAX // 3
    for size in (large, large, large, 10, limits.BODY_BYTES_MAX - 100, 10, large, large):
        session.append("note", {"content": "x" * (size - 30)})
    view = session.view()
    for reverse in (False, True):
        for terms in ((), read_query("type:note", now=0).terms):
            bounds, pages = [0, 8], []
            while bounds[0] is not None and bounds[1] is not None:
                page = store.storage.read(view.lineage, *bounds, terms=terms, reverse=reverse)
                bounds[reverse] = page.following
                pages.append([event.position for event in page.events])
                assert sum(len(event.raw) for event in page.events) <= limits.PAGE_BYTES_MAX
            assert [position for page in pages for position in page] == (
                list(range(8))[::-1] if reverse else list(range(8))
            )
            assert len(pages) == 3, pages
    page = store.storage.feed((), limits.PAGE_EVENTS_MAX)
    assert page.more
    assert sum(len(event.raw) for _, event in page.events) <= limits.PAGE_BYTES_MAX
    assert [event.position for event in store.feed()] == list(range(8))
    assert sum(len(row.body) for row in store.storage.rows(view.lineage, 0, 8)) <= limits.PAGE_BYTES_MAX


def test_nothing_that_is_searched_for_is_passed_over_behind_a_body_larger_than_a_page(url):
    with everlog.open(url, body_bytes_max=2 * limits.PAGE_BYTES_MAX) as store:
        session = store.create("s")
        for number in range(6):
            content = "x" * limits.PAGE_BYTES_MAX if number % 3 == 0 else "y"
            session.append("note", {"content": content}, key=f"k{number}")
        session.erase([2], reason="x")
        for asked in ({}, {"types": "note"}, {"keys": "k*"}):
            assert [event.position for event in session.events(**asked)] == list(range(6))
            assert [event.position for event in session.events(**asked, reverse=True)] == list(range(6))[::-1]


def test_a_body_and_an_append_may_be_as_large_as_they_may_be(store):
    session = store.create("s")
    body = {"content": "x" * (limits.BODY_BYTES_MAX - 64)}
    session.extend(
        [NewEvent("note", body, key="large", attachments={"a": os.urandom(1 << 20)})] * 1 + [NewEvent("note", body)]
    )
    assert session.append("note", body, key="large", attachments={"a": session.event(0).attachment("a")}).repeated
    assert session.event(1).data == body
    session.verify().raise_for_faults()


# --- buckets -------------------------------------------------------------------------------------
@pytest.fixture
def spread(tmp_path):
    """A store with sessions in every bucket, of which two were always made at the same time."""
    clock = FixedClock()
    with Store(open_in(tmp_path, clock=clock), Settings(os.urandom), url="postgresql:") as opened:
        for number in range(60):
            session = opened.create(f"s{number:02}", labels={"odd": str(number % 2)})
            session.extend([NewEvent("note", {"content": f"{number}.{n}"}) for n in range(number % 4 + 1)])
            if number % 2:
                clock.advance(seconds=1)
        opened.clock = clock
        yield opened


def test_sessions_are_in_every_bucket_and_forks_in_that_of_their_parent(spread):
    sessions = [spread.session(info.id) for info in spread.sessions(limit=1_000)]
    assert {bucket(session) for session in sessions} == set(range(BUCKETS))
    parent = spread.session("s07")
    forks = [parent.fork(2, id=f"f{number}") for number in range(40)]
    forks += [forks[-1].fork(1, id="f of f")]
    assert {bucket(fork) for fork in forks} == {bucket(parent)}
    for fork in forks:
        assert spread.session(fork.id).uuid == fork.uuid, "its name may be kept in another bucket"
        with pytest.raises(SessionExistsError):
            spread.create(fork.id)
    assert len(spread.storage.forks(parent.view().branch.session)) == 41


def test_a_name_is_taken_once_whatever_bucket_it_is_wanted_in(spread):
    parents = [spread.session(f"s{number:02}") for number in range(30)]
    made = [each for each in parents if _forked(each, "one")]
    assert len(made) == 1
    spread.delete("one", reason="x")
    assert spread.create("one").size() == 0
    spread.delete("one", reason="x")
    assert _forked(parents[-1], "one")


def _forked(session, name):
    try:
        return session.fork(1, id=name)
    except SessionExistsError:
        return None


def test_deletion_takes_forks_with_it_whose_names_are_elsewhere(spread, sql):
    parent = spread.session("s07")
    forks = [parent.fork(2, id=f"f{number}") for number in range(10)]
    forks[3].append("note", {"content": "own"})
    with pytest.raises(SessionExistsError, match="nothing was deleted"):
        spread.delete("s07", reason="x")
    spread.delete("s07", reason="x", cascade=True)
    for name in ("s07", *(fork.id for fork in forks)):
        with pytest.raises(NotFoundError):
            spread.session(name)
        spread.create(name)
    with pytest.raises(NotFoundError):
        forks[3].append("note", {"content": "x"})
    assert sql.execute("SELECT count(*) FROM branch WHERE swept IS NOT NULL").fetchone() == (0,)
    assert sql.execute("SELECT count(*) FROM event WHERE gone = 3 AND body IS NULL").fetchone() == (4 + 11,)
    spread.verify().raise_for_faults()


ORDERS = {
    "created": lambda info: (info.created_at,),
    "updated": lambda info: (info.updated_at,),
    "id": lambda info: (info.id,),
}


def test_listings_are_in_order_and_miss_nothing_wherever_a_page_ends(spread):
    for order in ("updated", "-updated", "created", "-created", "id", "-id"):
        for query in ("", "label.odd:1", "since:30s"):
            check_listing(spread, order, query)


def check_listing(spread, order, query):
    whole = spread.sessions(query, order=order, limit=1_000)
    assert len(whole) == {"": 60, "label.odd:1": 30}.get(query, len(whole))
    assert len(whole) > 20
    keys = [ORDERS[order.removeprefix("-")](info) for info in whole]
    assert keys == sorted(keys, reverse=order.startswith("-"))
    for limit in (7, 40):
        paged, last = [], None
        while page := spread.sessions(query, order=order, limit=limit, after=last):
            paged += page
            last = page[-1]
        assert [info.uuid for info in paged] == [info.uuid for info in whole]


def test_a_page_of_a_listing_that_few_meet_is_not_read_one_by_one(spread):
    before = spread.storage.connections.round_trips
    spread.storage.sessions(SessionFilter(read_query("s57", now=0), order="created", limit=1))
    assert spread.storage.connections.round_trips - before <= 3


def test_the_feed_is_the_same_wherever_a_page_ends(spread):
    spread.delete("s33", reason="x")
    whole = [event.id for event in spread.feed()]
    times = [event.recorded_micros for event in spread.feed()]
    assert times == sorted(times)
    assert len(whole) == len(set(whole)) == sum(info.size for info in spread.sessions(limit=1_000))
    for limit in (3, 16, 33, 200):
        read, places = [], {}
        while (page := spread.storage.feed(tuple(places.values()), limit)).passed:
            places.update((place.bucket, place) for place in page.passed)
            read += [event.id for _, event in page.events]
            assert len(page.events) <= max(limit, BUCKETS)
        assert read == whole
    cursor, read = None, []
    for _ in range(20):  # one event at a time, each with the cursor of the one before
        feed = spread.feed(cursor)
        read.append(next(iter(feed)).id)
        cursor = feed.cursor
    assert read == whole[:20]


def test_a_cursor_is_checked_in_each_bucket(spread, sql):
    cursor = spread.cursor()
    assert cursor.count(",") == BUCKETS - 1
    assert list(spread.feed(cursor)) == []
    words = cursor.removeprefix("1:").split(",")
    for place in (0, 7, 15):
        number, feed, leaf = words[place].split(".")
        for wrong in (f"{number}.{int(feed) + 1}.{leaf}", f"{number}.{feed}.{'0' * 16}", f"16.{feed}.{leaf}"):
            changed = [*words[:place], wrong, *words[place + 1 :]]
            with pytest.raises(StaleCursorError):
                list(spread.feed("1:" + ",".join(changed)))
    spread.delete("s11", reason="x")
    assert list(spread.feed(cursor)) == [], "a cursor at a deleted event goes on"


def test_a_session_that_was_deleted_elsewhere_and_taken_in_again_is_found_in_its_new_bucket(url, tmp_path):
    with everlog.open(url) as one, everlog.open(url) as other:
        session = one.create("s")
        session.append("note", {"content": "x"})
        session.export(tmp_path / "s.everlog")
        assert other.session("s").uuid == session.uuid
        one.delete("s", reason="x")
        with pytest.raises(NotFoundError):
            other.session("s")
        one.import_bundle(tmp_path / "s.everlog")
        assert other.session("s").append("note", {"content": "y"}).position == 1


# --- round trips ---------------------------------------------------------------------------------
def test_what_is_done_most_takes_few_round_trips(store):
    session, other = store.create("s"), store.create("o")
    session.extend([NewEvent("note", {"content": "x"}, key=f"k{number}") for number in range(200)])
    mark = session.checkpoint("here")
    lease = other.lease("w", 30)

    def taken(act):
        before = store.storage.connections.round_trips
        act()
        return store.storage.connections.round_trips - before

    view = session.view()
    assert taken(lambda: session.append("note", {"content": "x"})) == 2
    assert taken(lambda: session.append("note", {"content": "x"}, key="new")) == 2
    assert taken(lambda: session.append("note", {"content": "x"}, expected=session.head)) == 2
    assert taken(lambda: session.append("note", {"content": "x"}, attachments={"a": b"1"})) == 2
    assert taken(lambda: session.extend([NewEvent("note", {"content": "x"}, key=f"n{n}") for n in range(99)])) == 2
    assert taken(lambda: other.append("agent.message", {"content": "x"})) == 2, "under a lease"
    assert taken(lease.renew) == taken(lease.release) == 2
    assert taken(lambda: session.append("note", {"content": "x"}, key="k7")) <= 4, "a repeat reads what it repeats"
    assert taken(lambda: store.storage.read(view.lineage, 0, 100)) == 1
    assert taken(lambda: session.slice(0, 100)) == taken(lambda: session.slice(-3)) == 1
    assert taken(lambda: store.session("s").slice(5, 10)) == 2, "one opens it"
    assert taken(lambda: session.find("k9")) == taken(lambda: list(session.events(caused_by=mark))) == 2
    assert taken(session.refresh) == taken(store.sessions) == taken(store.cursor) == 1
    cursor = store.cursor()
    assert taken(lambda: list(store.feed(cursor))) == 2
    assert taken(lambda: store.create("made")) <= 6
    woken = list[Woken]()
    assert taken(lambda: woken.append(store.wake("o", holder="w"))) <= 6
    woken[0].lease.release()
    assert taken(lambda: session.fork(50, id="fork")) <= 13
    assert taken(lambda: session.rewind(50, reason="back")) <= 7
    assert taken(lambda: session.cut("-1h")) <= 3


def test_a_large_batch_is_copied_as_it_was_given(store, tmp_path):
    cause = store.create("first").append("note", {"content": "why"})
    batch = [
        NewEvent(
            ("note", "user.message", "agent.message")[number % 3],
            {"content": f"{number} ☃ \t\\N", "n": number},
            key=f"k{number}" if number % 2 else None,
            actor="planner" if number % 5 else None,
            outcome="error" if number % 7 == 0 else None,
            caused_by=cause if number % 11 == 0 else None,
            occurred_at=1_795_000_000_000_000 if number % 13 == 0 else None,
            attachments={"a": b"\x00" * number} if number % 100 == 0 else None,
            metadata={"m": number} if number % 17 == 0 else None,
        )
        for number in range(2_000)
    ]
    before = store.storage.connections.round_trips
    copied = store.create("s").extend(batch, key="all")
    assert store.storage.connections.round_trips - before <= 10
    with everlog.open(tmp_path / "s.db") as other:
        other.create("first").append("note", {"content": "why"})
        plain = other.create("s").extend([msgspec.structs.replace(each, caused_by=None) for each in batch], key="all")
        for ours, theirs in zip(copied, plain, strict=True):
            for name in (
                "position",
                "type",
                "actor",
                "outcome",
                "raw",
                "key",
                "occurred_at",
                "attachments",
                "metadata",
            ):
                assert getattr(ours, name) == getattr(theirs, name), (name, ours.position)
    assert store.session("s").slice(0, 2_000) == list(copied)
    assert [event.position for event in store.session("s").events(caused_by=cause)] == list(range(0, 2_000, 11))
    assert copied[300].attachment("a") == b"\x00" * 300
    assert store.session("s").extend(batch, key="all")[0].repeated
    assert [event.position for event in store.feed() if event.session == "s"] == list(range(2_000))
    store.verify().raise_for_faults()


def test_hundreds_of_rewinds_are_read_in_few_round_trips(store):
    session = store.create("s")
    for number in range(400):
        session.rewind("end", reason=str(number))
    with everlog.open(store.url) as fresh:
        before = fresh.storage.connections.round_trips
        again = fresh.session("s")
        assert [event.position for event in again] == list(range(400))
        assert again.find("nothing") is None
        assert fresh.storage.connections.round_trips - before <= 8
    assert [event.position for event in session.events(reverse=True, limit=3)] == [399, 398, 397]


# --- indexes -------------------------------------------------------------------------------------
def test_nothing_reads_fifty_thousand_events_from_end_to_end(url, sql):
    with everlog.open(url) as store:
        sessions = [store.create(f"s{number}") for number in range(10)]
        for session in sessions:
            first = session.append("note", {"content": "x"}).id
            for start in range(0, 5_000, 2_500):
                session.extend(
                    [
                        NewEvent(
                            "note",
                            {"content": str(number)},
                            key=None if number % 10 else f"k{number}",
                            caused_by=None if number % 100 else first,
                        )
                        for number in range(start, start + 2_500)
                    ]
                )
            session.checkpoint("here")
        cursor, mark = store.cursor(), sessions[0].event(0)
        sessions[0].fork(4_000, id="fork")
    sql.execute("VACUUM ANALYZE event")
    scans = "SELECT seq_scan, seq_tup_read, idx_tup_fetch + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relid = 'event'::regclass"
    others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'everlog' AND datname = current_database()"
    deadline = time.monotonic() + DEADLINE_SECONDS
    while sql.execute(others).fetchone() != (0,):  # a server's process tells what it read before it is gone
        assert time.monotonic() < deadline, "the connections do not end"
    before = sql.execute(scans).fetchone()
    with everlog.open(url) as store:
        session = store.session("s0")
        for _ in range(7):  # past the number at which statements are prepared, and their plans made without values
            session.append("note", {"content": "x"})
            session.append("note", {"content": "x"}, key="again")
            session.find("k4990"), session.find("none")
            store.find("k4990"), store.find("none")
            session.event(4_000), session.slice(2_000, 2_010), session.event("-1")
            session.last("checkpoint")
            list(session.events(keys="k499*"))
            list(session.events(caused_by=mark, limit=5))
            list(session.events("outcome:none", reverse=True, limit=5))
            session.cut("-1h"), session.head_at(3_000)
            list(store.feed(cursor))
            store.storage.feed((), 10)
            store.session("fork").slice(3_990)
            session.state()
        session.rewind(3_000, reason="back")
        session.erase([3], reason="x")
    deadline = time.monotonic() + DEADLINE_SECONDS
    while sql.execute(others).fetchone() != (0,):
        assert time.monotonic() < deadline, "the connections do not end"
    after = sql.execute(scans).fetchone()
    assert after[2] > before[2], "the statistics do not come"
    assert after[:2] == before[:2], "a sequential scan of events"
    assert after[2] - before[2] < 15_000, "a session is walked where an index serves"
