"""Appends of several buckets in one transaction of PostgreSQL."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psycopg
import pytest

import everlog
from everlog import NewEvent
from everlog.stores.postgres.statements import bucket_of

DEADLINE_SECONDS = 60


def bucket(session):
    return bucket_of(session.view().branch.key)


@pytest.fixture
def sessions(store):
    made = [store.create(f"s{number}") for number in range(9)]
    assert len({bucket(each) for each in made}) > 3
    return made


@pytest.fixture
def sent(store, monkeypatch):
    """The number of statements of each round trip."""
    numbers, together = [], store.storage.connections.together

    def noted(connection, statements):
        numbers.append(len(statements))
        return together(connection, statements)

    monkeypatch.setattr(store.storage.connections, "together", noted)
    return numbers


def in_one_group(store, calls):
    """Make calls that append, in this order and in one transaction; give what they gave."""
    committer, queued = store.storage._groups._of_all, []
    with ThreadPoolExecutor(len(calls)) as threads:
        with committer._commit_lock:  # the first waits to lead, and takes the others with it
            for call in calls:
                queued.append(threads.submit(call))
                until = time.monotonic() + DEADLINE_SECONDS
                while len(committer._queue) < len(queued) and time.monotonic() < until:
                    time.sleep(0.001)
        return [each.result(DEADLINE_SECONDS) for each in queued]


def check_feed(store, sql):
    """Every bucket numbers its events from 1 on without a gap, in the order of each line."""
    rows = sql.execute("SELECT bucket, feed, branch, position FROM event ORDER BY bucket, feed").fetchall()
    counters = dict(sql.execute("SELECT bucket, feed FROM bucket").fetchall())
    last = {}
    for number in counters:
        own = [row for row in rows if row[0] == number]
        assert [feed for _, feed, _, _ in own] == list(range(1, len(own) + 1))
        assert counters[number] == len(own)
    for _, _, branch, position in rows:
        assert position == last.get(branch, position - 1) + 1
        last[branch] = position
    assert len(list(store.feed())) == len(rows)
    store.verify().raise_for_faults()


def test_appends_of_several_buckets_take_few_statements_more_than_one(store, sessions, sent):
    in_one_group(store, [partial(sessions[0].append, "note", {"content": "x"}, key="alone")])
    alone = list(sent)
    sent.clear()
    in_one_group(store, [partial(each.append, "note", {"content": "x"}, key="k") for each in sessions])
    assert len(sent) == len(alone) == 2
    assert sum(sent) == sum(alone) + 1, "buckets are locked in their order before they count"


def test_what_an_append_asks_is_planned_once_whatever_it_is_asked_with(store, sessions):
    for number in range(8):
        sessions[0].append("note", {"content": "x"}, key=f"{number}")
        in_one_group(store, [partial(each.append, "note", {"content": "y"}) for each in sessions[: number + 1]])
    planned = b"SELECT statement, custom_plans FROM pg_prepared_statements WHERE generic_plans + custom_plans > 5"
    connections = store.storage.connections
    with connections.writer() as connection:
        found = dict(connections.execute(connection, planned))
    if not found:
        pytest.skip("a pooler is between, or prepares nothing")
    assert not {statement for statement, number in found.items() if number}


def test_keys_are_looked_up_by_their_index_before_the_server_knows_how_many_there_are(store, sessions, sql):
    sql.execute("ALTER TABLE event SET (autovacuum_enabled = false)")
    session = sessions[0]
    session.append("note", {"content": "x"}, key="first")
    for start in range(0, 5_000, 2_500):
        session.extend([NewEvent("note", {"content": "x"}, key=f"{start + n}") for n in range(2_500)])
    for names in ("read_keyed", "read_joined_keyed"):
        query = store.storage.connections.statements[names].decode()
        own = f"'\\x{session.uuid}'::bytea"
        values = {
            "bucket": f"{bucket(session)}::smallint",
            "ids": f"ARRAY[{own}]",
            "owners": f"ARRAY[{own}]",
            "keys": "ARRAY['7']",
        }
        for name, value in values.items():
            query = query.replace(f"%({name})s", value)
        plan = "\n".join(line for (line,) in sql.execute(f"EXPLAIN (ANALYZE) {query}"))
        assert "event_key" in plan, plan
        assert "Seq Scan on event" not in plan
        assert "key = k.key" in plan.partition("Index Scan using event_key")[2], plan


def test_events_of_several_buckets_are_numbered_in_the_order_of_each(store, sessions, sql):
    batches = [[NewEvent("note", {"content": f"{n}-{m}"}) for m in range(n % 4 + 1)] for n in range(len(sessions))]
    calls = [partial(each.extend, batch) for each, batch in zip(sessions, batches, strict=True)]
    in_one_group(store, [*calls, *calls, partial(sessions[4].append, "note", {"content": "last"})])
    assert [each.size() for each in sessions] == [2 * len(b) + (n == 4) for n, b in enumerate(batches)]
    assert sessions[4][-1].data == {"content": "last"}
    check_feed(store, sql)


def test_so_many_events_of_several_buckets_that_copy_pays_are_numbered_alike(store, sessions, sql):
    calls = [partial(each.extend, [NewEvent("note", {"content": "x"})] * 250) for each in sessions]
    in_one_group(store, calls)
    assert {each.size() for each in sessions} == {250}
    check_feed(store, sql)


def test_attachments_of_several_buckets_are_kept_each_with_its_event(store, sessions, sql):
    kept = [{"a": f"a of {n}".encode(), "b": f"b of {n}".encode()} for n in range(len(sessions))]
    calls = [
        partial(each.append, "note", {"content": "x"}, attachments=own)
        for each, own in zip(sessions, kept, strict=True)
    ]
    events = in_one_group(store, calls)
    assert [{name: event.attachment(name) for name in ("a", "b")} for event in events] == kept
    check_feed(store, sql)


def test_keys_of_several_buckets_are_found_below_forks_and_nowhere_else(store, sessions, sql):
    for each in sessions[:4]:
        each.append("note", {"content": "x"}, key="k")
    forks = [each.fork(1) for each in sessions[:2]] + [each.fork(0) for each in sessions[2:4]]
    calls = [partial(each.append, "note", {"content": "x"}, key="k") for each in [*sessions, *forks]]
    events = in_one_group(store, calls)
    assert [event.repeated for event in events] == [True] * 4 + [False] * 5 + [True, True, False, False]
    check_feed(store, sql)


@pytest.mark.parametrize("same", ["sessions", "buckets"])
def test_processes_whose_groups_overlap_lock_in_one_order(url, store, sessions, sql, monkeypatch, same):
    others = sessions if same == "sessions" else [each.fork(0) for each in sessions]
    failed = []

    def noted(groups, *about):
        try:
            return type(groups)._try(groups, *about)
        except psycopg.Error as error:
            failed.append(error)
            raise

    with everlog.open(url) as other:
        for each in (store, other):
            queries = each.storage.connections.statements._queries
            # A deadlock is not found within a tenth of a second.
            queries["limit_locks_briefly"] = queries["limit_locks"]
            monkeypatch.setattr(each.storage._groups, "_try", partial(noted, each.storage._groups))
        handles = [*sessions, *(other.session(each.id) for each in others)]
        start = threading.Barrier(len(handles))

        def work(session):
            start.wait(DEADLINE_SECONDS)
            for number in range(20):
                session.append("note", {"content": "x"}, key=f"{number}")
                session.append("note", {"content": "y"})

        with ThreadPoolExecutor(len(handles)) as threads:
            list(threads.map(work, handles))
    assert not failed
    assert {each.count(types=["note"]) for each in [*sessions, *others]} == {60 if same == "sessions" else 40}
    check_feed(store, sql)
