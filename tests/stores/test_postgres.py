"""What is PostgreSQL's own: addresses, the schema, roles, text, connections."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from enum import StrEnum
from itertools import pairwise

import psycopg
import pytest
from psycopg import conninfo

import everlog
from databases import database, server, url_of
from everlog import NewEvent
from everlog.errors import (
    BusyError,
    ConflictError,
    EverlogError,
    FencedError,
    InvalidEventError,
    KeyReusedError,
    NotFoundError,
    SessionExistsError,
    UnavailableError,
    UnsupportedStoreError,
)
from everlog.reader import read_query
from everlog.storage import SessionFilter
from everlog.stores.postgres.connections import READERS_MAX
from everlog.stores.postgres.notify import PAUSE_SECONDS
from everlog.stores.postgres.opening import read_address
from everlog.stores.postgres.statements import bucket_of

BUCKETS = 16
DEADLINE_SECONDS = 60


def bucket(session):
    return bucket_of(session.view().branch.key)


# --- addresses -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://h/db?nosuch=1", "nosuch"),
        ("postgresql://h/db?buckets=0", "1 .. 1024"),
        ("postgresql://h/db?buckets=1025", "1 .. 1024"),
        ("postgresql://h/db?buckets=x", "1 .. 1024"),
        ("postgresql://h/db?prepare=maybe", "neither yes nor no"),
        ("postgresql://h/db?schema=Upper", "schema 'Upper'"),
        ("postgresql://h/db?schema=a;drop", "schema 'a;drop'"),
        ("postgresql://h/db?schema=pg_mine", "schema 'pg_mine'"),
        ("postgresql://h/db?schema=", "schema ''"),
        ("postgresql://[::1/db", "no address"),
        ("postgresql://h:port/db", "no number"),
        ("postgresql://u\ud800@h/db", "no address"),
    ],
)
def test_an_address_that_is_none_is_refused_and_says_why(address, said):
    with pytest.raises(UnsupportedStoreError, match=said):
        everlog.open(address)


SECRETS = [
    "postgresql://u:hunter2@127.0.0.1:1/db",
    "postgresql://u:hunter2%@127.0.0.1:1/db",
    "postgresql://u:hunter2 x@127.0.0.1:1/db",
    "postgresql://u:hunter2/x@127.0.0.1:1/db",
    "postgresql://u:hunter2#x@127.0.0.1:1/db",
    "postgresql://u:hunter2?x@127.0.0.1:1/db",
    "postgresql://u:hunter2@[::1/db",
    "postgresql://u@127.0.0.1:1/db?password=hunter2",
    "postgresql://u@127.0.0.1:1/db?password=hunter2&nosuch=1",
    "postgresql://u@127.0.0.1:1/db?sslpassword=hunter2",
]


@pytest.mark.parametrize("address", SECRETS)
def test_no_error_shows_a_password(address):
    with pytest.raises((UnsupportedStoreError, UnavailableError)) as refused:
        everlog.open(address)
    error = refused.value
    while error is not None:
        assert "hunter2" not in f"{error!r} {error}"
        error = error.__cause__


@pytest.mark.parametrize("address", [SECRETS[0], SECRETS[7], SECRETS[9]])
def test_an_address_is_shown_without_its_password(address):
    assert "hunter2" not in repr(read_address(address))
    assert "hunter2" in read_address(address).conninfo


def test_a_store_does_not_show_its_password_and_can_be_opened_by_what_it_shows(url):
    with everlog.open(f"{url}&password=hunter2&notify=yes") as store:
        assert "hunter2" not in f"{store.url} {store!r}"
        with everlog.open(store.url) as other:
            assert (other.id, other.url) == (store.id, store.url)


def test_what_an_address_asks_of_libpq_reaches_it(url):
    plain = conninfo.conninfo_to_dict(
        read_address("postgresql://u@h/a%20b?options=-c%20work_mem%3D5MB&host=/a%20b").conninfo
    )
    assert (plain["options"], plain["host"], plain["dbname"]) == ("-c work_mem=5MB", "/a b", "a b")
    with everlog.open(f"{url}&options=-c%20application_name%3Dmine%20-c%20work_mem%3D5MB") as store:
        with store.storage.connections.writer() as connection:
            assert connection.execute("SHOW work_mem").fetchone() == ("5MB",)


def test_every_wait_for_a_server_that_is_gone_ends():
    found = conninfo.conninfo_to_dict(read_address("postgresql://h/db?connect_timeout=3").conninfo)
    assert found["connect_timeout"] == "3"
    assert {"keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"} <= set(found)


# --- the schema ----------------------------------------------------------------------------------
OPEN = """
import sys, everlog
sys.stdin.readline()
with everlog.open(sys.argv[1]) as store:
    store.get_or_create("first").append("note", {"content": "x"})
    print(store.id)
"""


@pytest.mark.parametrize("processes", [2, 8])
def test_processes_that_make_one_store_at_once_make_one_store(url, processes):
    makers = [
        subprocess.Popen([sys.executable, "-c", OPEN, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    for maker in makers:
        maker.stdin.write(b"go\n")
        maker.stdin.flush()
    said = {maker.communicate(timeout=DEADLINE_SECONDS)[0] for maker in makers}
    assert [maker.returncode for maker in makers] == [0] * processes
    assert len(said) == 1
    with everlog.open(url) as store:
        assert len(store.session("first")) == processes
        store.verify().raise_for_faults()


def test_a_newer_schema_is_refused_and_left_alone(url, sql):
    everlog.open(url).close()
    sql.execute("UPDATE store SET version = 99")
    for read_only in (False, True):
        with pytest.raises(UnsupportedStoreError, match="schema version 99.*newer Everlog"):
            everlog.open(url, read_only=read_only)
    assert sql.execute("SELECT version FROM store").fetchall() == [(99,)]


def test_a_store_opened_read_only_is_neither_made_nor_written_to(url, sql):
    with pytest.raises(NotFoundError, match="no store"):
        everlog.open(url, read_only=True)
    assert sql.execute("SELECT to_regclass('store')").fetchone() == (None,)
    with everlog.open(url) as store:
        store.create("s").append("note", {"content": "x"})
    with everlog.open(url, read_only=True) as store:
        assert len(store.session("s")) == 1
        for write in (
            lambda: store.create("t"),
            lambda: store.session("s").append("note", {"content": "y"}),
            lambda: store.delete("s", reason="x"),
        ):
            with pytest.raises(UnavailableError, match="read-only; nothing was written"):
                write()


def test_a_schema_that_holds_something_else_is_refused(url, sql, tmp_path):
    schema = url.rpartition("schema=")[2]
    sql.execute(f"CREATE SCHEMA {schema}")
    sql.execute("CREATE TABLE event (mine integer)")
    with pytest.raises(UnsupportedStoreError, match=schema):
        everlog.open(url)
    assert sql.execute("SELECT to_regclass('session')").fetchone() == (None,), "nothing is left of what was begun"


def test_the_number_of_buckets_is_that_of_when_the_store_was_made(tmp_path):
    with everlog.open(url_of(tmp_path, buckets="3")) as store:
        assert {bucket(store.create(f"s{number}")) for number in range(30)} == {0, 1, 2}
    with everlog.open(url_of(tmp_path)) as store:
        assert store.storage.buckets == 3
        assert store.session("s7").append("note", {"content": "x"}).position == 0


@pytest.fixture
def role(sql):
    name = f"role_{os.getpid()}_{time.time_ns()}"
    sql.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    sql.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_a_role_without_rights_is_told_so(url, sql, role):
    as_role = url.replace("user=postgres", f"user={role}")
    assert as_role != url
    with pytest.raises(UnavailableError, match="role may not do this"):
        everlog.open(as_role)  # it may make no schema
    with everlog.open(url) as store:
        store.create("s").append("note", {"content": "x"})
    with pytest.raises(UnavailableError, match="role may not do this"):
        everlog.open(as_role)
    schema = url.rpartition("schema=")[2]
    sql.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    sql.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}")
    with everlog.open(as_role) as store:
        assert [event.data for event in store.session("s")] == [{"content": "x"}]
        with pytest.raises(UnavailableError, match="role may not do this.*nothing was written"):
            store.session("s").append("note", {"content": "y"})
        with pytest.raises(UnavailableError, match="role may not do this.*nothing was written"):
            store.create("t")


# --- text ----------------------------------------------------------------------------------------
TEXTS = [
    "%s",
    "%(bucket)s",
    "{schema}",
    "{}",
    "a'b\"c",
    "a\\b",
    "100%",
    "a_b",
    "é\u0301\u2028",
    "\U0010ffff" * 64,
    "$1",
]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_any_text_is_kept_as_it_is_and_found_again(store, text):
    printable = text.isprintable()
    session = store.create(text if printable else "s", title=text, labels={"l": text}, metadata={"m": text})
    event = session.append("note", {"content": text}, key=text, attachments={"a": text.encode()}, rationale=text)
    session.rewind("end", reason=text)
    session.lease(text if printable else "w", 30).release()
    if printable:
        assert [info.id for info in store.sessions(prefix=text)] == [text]
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    (info,) = store.sessions(f'label.l:"{quoted}"')
    assert (info.title, info.labels, info.metadata) == (text, {"l": text}, {"m": text})
    assert session.find(text).hash == event.hash
    assert [each.hash for each in store.find(text)] == [event.hash]
    assert session.event(0).data == {"content": text}
    assert session.event(0).rationale == text
    store.delete(info.id, reason=text)
    store.verify().raise_for_faults()


def test_what_postgresql_cannot_keep_is_refused_for_what_it_is(store):
    session = store.create("s")
    assert session.append("note", {"content": "a\x00b"}).data == {"content": "a\x00b"}, "bodies are bytes"
    for call in (
        lambda: store.storage.find_key("a\x00b", 1),  # at the door: the services refuse it before
        lambda: store.storage.session("a\x00b"),
        lambda: store.storage.sessions(SessionFilter(read_query("", now=0), prefix="a\x00b")),
    ):
        with pytest.raises(InvalidEventError, match="NUL"):
            call()
    session.append("note", {"content": "the connection is good"})


def test_texts_of_an_enumeration_are_texts(store):
    class Named(StrEnum):
        TYPE = "note"
        NAME = "name"

    name = Named.NAME
    session = store.create(name, title=name, labels={name: name})
    event = session.append(Named.TYPE, {"content": "x"}, actor=name, key=name)
    session.extend([NewEvent(Named.TYPE, {"content": "x"}, actor=name) for _ in range(1_000)])
    assert session.find(name).hash == event.hash
    assert [each.hash for each in store.find(name)] == [event.hash]
    assert len(list(session.events(types=Named.TYPE, actor=name))) == 1_001
    assert [info.title for info in store.sessions(prefix=name)] == ["name"]
    session.erase([0], reason=name)
    store.delete(name, reason=name)
    store.verify().raise_for_faults()


@pytest.mark.parametrize("special", ["_", "%", "\\", "\\%", "%_", "[a]", "?", ".", "{}", "%s"])
def test_a_glob_takes_what_is_special_elsewhere_for_itself(store, special):
    session = store.create("s")
    keys = [f"a{special}b", f"a{special}", f"{special}b", "axb", "axxb", "a", "b", "ab", f"a{special}b{special}c"]
    session.extend([NewEvent("note", {"content": key}, key=key) for key in keys])
    with everlog.open("memory:") as plain:
        twin = plain.create("s")
        twin.extend([NewEvent("note", {"content": key}, key=key) for key in keys])
        for glob in (f"a{special}*", f"*{special}b", f"*{special}*", f"a*{special}c", "a*b", f"{special}*", "*"):
            for reverse in (False, True):
                mine = [event.key for event in session.events(keys=glob, reverse=reverse)]
                assert mine == [event.key for event in twin.events(keys=glob, reverse=reverse)], glob
                assert mine


def test_text_is_ordered_as_python_orders_it(store):
    names = [
        "a",
        "B",
        "b",
        "A",
        "é",
        "e",
        "z",
        "_",
        "a-b",
        "ab",
        "a b",
        "Z",
        "ß",
        "ss",
        "\U0001f600",
        "\ufffd",
        "1",
        "10",
        "2",
    ]
    for name in names:
        store.create(name)
    assert [info.id for info in store.sessions(order="id")] == sorted(names)
    assert [info.id for info in store.sessions(order="-id")] == sorted(names, reverse=True)
    assert [info.id for info in store.sessions(order="id", prefix="a")] == ["a", "a b", "a-b", "ab"]


# --- connections ---------------------------------------------------------------------------------
def test_connections_go_on_after_refusals_and_errors_within_a_transaction(store, sql):
    """Statements that were prepared within what was rolled back are prepared again."""
    session, other = store.create("s"), store.create("o")
    for number in range(30):
        session.append("note", {"content": "x"}, key=f"k{number}")
        with pytest.raises(KeyReusedError):
            session.append("note", {"content": "other"}, key=f"k{number}")
        with pytest.raises(SessionExistsError):
            store.create("o")
        if number % 5 == 0:
            sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'everlog' AND datname = %s",
                [database()],
            )
        other.rewind("end", reason=str(number))
    assert len(session) == 30
    store.verify().raise_for_faults()


@pytest.fixture
def alarm():
    """Ctrl-C after so many seconds, in tests only."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.signal(signal.SIGALRM, before)


def test_ctrl_c_while_a_connection_is_waited_for_loses_none(store, alarm):
    session = store.create("s")
    with ExitStack() as busy:
        for _ in range(READERS_MAX):
            busy.enter_context(store.storage.connections._readers.connection())
        for _ in range(READERS_MAX):
            alarm(0.05)
            with pytest.raises(KeyboardInterrupt):
                session.size()
    with ThreadPoolExecutor(READERS_MAX) as threads:
        assert list(threads.map(lambda _: session.size(), range(READERS_MAX))) == [0] * READERS_MAX


@pytest.fixture
def held(store, sql):
    """A store whose transactions wait for a second, with two sessions of one bucket, the first of which somebody holds."""
    store.storage.connections.statements._queries["limit_locks"] = b"SET LOCAL lock_timeout = '1s'"
    session = store.create("s")
    session.append("note", {"content": "x"})
    session.fork(1, id="beside")
    schema = sql.execute("SHOW search_path").fetchone()[0]
    with psycopg.connect(server().url(database())) as holder:
        holder.execute(f"SELECT 1 FROM {schema}.session WHERE name = 's' FOR UPDATE")
        yield store


def test_a_session_that_somebody_else_holds_is_waited_for_and_then_busy(held):
    with pytest.raises(BusyError, match="nothing was written"):
        held.session("s").append("note", {"content": "y"})
    held.session("beside").append("note", {"content": "nobody holds this"})
    assert len(held.session("s")) == 1


def test_a_session_that_somebody_else_holds_has_no_other_one_refused(held):
    committer = held.storage._groups._of(bucket(held.session("s")))
    names = ["s", "s", "beside"]
    threads, said = [], {}
    for number, name in enumerate(names):
        session = held.session(name)
        threads.append(threading.Thread(target=note, args=(session, said, number)))
        threads[-1].start()
        until = time.monotonic() + DEADLINE_SECONDS  # the first goes alone, the others together after it
        while not (committer._commit_lock.locked() and len(committer._queue) == number) and time.monotonic() < until:
            time.sleep(0.001)
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert said == {0: "busy", 1: "busy", 2: "at 2"}


def test_a_key_is_recorded_once_however_often_it_stands_in_one_group(store):
    session = store.create("s")
    session.fork(0, id="f")
    committer = store.storage._groups._of_all
    calls = [("s", "k"), ("s", "k"), ("s", "k"), ("s", "l"), ("f", "k"), ("s", "k"), ("f", "k"), ("s", "l")]
    appends = []
    with ThreadPoolExecutor(len(calls)) as threads:
        with committer._commit_lock:  # the first waits to lead, and takes the others with it
            for name, key in calls:
                each = store.session(name)
                appends.append(threads.submit(each.append, "note", {"content": "x"}, key=key))
                until = time.monotonic() + DEADLINE_SECONDS
                while len(committer._queue) < len(appends) and time.monotonic() < until:
                    time.sleep(0.001)
        events = [append.result(DEADLINE_SECONDS) for append in appends]
    assert [event.position for event in events] == [0, 0, 0, 1, 1, 0, 1, 1]
    assert [event.repeated for event in events] == [False, True, True, False, False, True, True, True]
    assert (len(session), len(store.session("f"))) == (2, 2)


def test_a_session_that_somebody_else_holds_keeps_those_of_other_buckets_waiting_for_a_moment_only(held):
    others = [held.create(f"other-{number}") for number in range(6)]
    assert len({bucket(each) for each in others} - {bucket(held.session("s"))}) > 1
    said = {}
    waiting = threading.Thread(target=note, args=(held.session("s"), said, 0))
    waiting.start()
    start = time.monotonic()
    with ThreadPoolExecutor(len(others)) as threads:
        for _ in range(5):
            list(threads.map(lambda each: each.append("note", {"content": "x"}), others))
    assert time.monotonic() - start < 5, "an append of another session waits for a tenth of a second at most"
    waiting.join(DEADLINE_SECONDS)
    assert said == {0: "busy"}
    assert [len(each) for each in others] == [5] * 6


def test_appends_of_many_buckets_are_one_transaction_and_each_is_decided_by_itself(store):
    sessions = [store.create(f"s{number}") for number in range(12)]
    assert len({bucket(each) for each in sessions}) > 3
    for each in sessions[:3]:
        each.append("note", {"content": "first"}, key="k")
    stale = sessions[5]
    store.session("s5").append("note", {"content": "unseen"})
    held = sessions[6].lease("w", 30)
    committer, before = store.storage._groups._of_all, store.storage.connections.round_trips
    with ThreadPoolExecutor(len(sessions)) as threads:
        with committer._commit_lock:  # the first waits to lead, and takes the others with it
            appends = []
            for number, each in enumerate(sessions):
                content, key = ("first" if number < 2 else "other", "k") if number < 3 else ("x", None)
                handle = stale if number == 5 else store.session(each.id)
                expected = stale.head if number == 5 else None
                kind = "agent.message" if number == 6 else "note"
                appends.append(threads.submit(handle.append, kind, {"content": content}, key=key, expected=expected))
                until = time.monotonic() + DEADLINE_SECONDS
                while len(committer._queue) < len(appends) and time.monotonic() < until:
                    time.sleep(0.001)
            before = store.storage.connections.round_trips
        outcomes = [append.exception(DEADLINE_SECONDS) or append.result() for append in appends]
    assert [outcome.repeated for outcome in outcomes[:2]] == [True, True]
    assert [type(outcome) for outcome in (outcomes[2], outcomes[5], outcomes[6])] == [
        KeyReusedError,
        ConflictError,
        FencedError,
    ]
    assert all(outcomes[number].position == 0 for number in (3, 4, 7, 8, 9, 10, 11))
    assert store.storage.connections.round_trips - before <= 10, "what is refused or repeated reads more"
    held.release()
    assert len(list(store.feed())) == sum(each.size() for each in sessions)
    store.verify().raise_for_faults()


def note(session, said, number):
    try:
        said[number] = f"at {session.append('note', {'content': 'y'}).position}"
    except EverlogError as error:
        said[number] = error.code


def test_what_machines_whose_clocks_differ_made_is_copied_in_the_order_of_its_making(url, store):
    with everlog.open(url) as ahead, everlog.open("memory:") as copied:
        ahead.storage.connections._last_number = (time.time_ns() // 1_000) + 3_600_000_000
        ahead.create("s").append("note", {"content": "x"})
        session = store.session("s")
        session.rewind(1, reason="b2")
        ahead.session("s").rewind(1, reason="b3")
        fork = session.fork(2, id="f")
        fork.append("note", {"content": "y"})
        for name in ("f", "s"):
            assert store.copy(copied, sessions=[name])
        assert [row.data for row in copied.session("f")] == [row.data for row in fork]
        with everlog.open("memory:") as other:
            store.copy(other, sessions=["s"])
            made = [branch.id for branch in session.branches()]
            assert [branch.id for branch in other.session("s").branches()] == made
        assert copied.verify().ok


def test_keys_of_a_process_only_grow_and_hold_their_bucket(store):
    made = [store.storage.connections.new_key(number % BUCKETS) for number in range(1_000)]
    assert [bucket_of(key) for key in made] == [number % BUCKETS for number in range(1_000)]
    numbers = [key & ((1 << 53) - 1) for key in made]
    assert all(one < other for one, other in pairwise(numbers))


# --- notifications -------------------------------------------------------------------------------
@pytest.mark.parametrize("notify", ["yes", "no"])
def test_a_follower_is_told_at_once_where_it_is_asked_for(url, monkeypatch, notify):
    monkeypatch.setattr("everlog.stores.postgres.store.POLL_SECONDS", 3_600.0)  # nobody finds it by looking
    with everlog.open(f"{url}&notify={notify}") as writes, everlog.open(f"{url}&notify={notify}") as hears:
        session = writes.create("s")
        seen = hears.storage.news()
        hears.storage.wait(seen, 0.5)  # from now on it listens
        until = time.monotonic() + 10
        while hears.storage.notifier is not None and time.monotonic() < until:
            session.append("note", {"content": "x"})
            if hears.storage.wait(hears.storage.news(), 0.5) > seen + 1:
                break
        seen = hears.storage.news()
        session.append("note", {"content": "told"})
        assert (hears.storage.wait(seen, 5.0 if notify == "yes" else 0.5) > seen) == (notify == "yes")


def test_many_appends_are_told_of_in_few_notifications(url, monkeypatch):
    with everlog.open(f"{url}&notify=yes") as store:
        session, sent = store.create("s"), []
        execute = store.storage.connections.execute
        monkeypatch.setattr(
            store.storage.connections, "execute", lambda *a: sent.append(time.monotonic()) or execute(*a)
        )
        for _ in range(100):
            session.append("note", {"content": "x"})
    assert sent
    assert all(later - earlier >= PAUSE_SECONDS for earlier, later in pairwise(sent))


def test_a_session_taken_in_again_elsewhere_is_found_by_its_id(store, tmp_path):
    names = [f"n{number}" for number in range(40)]
    bucket_of_name = store.storage.connections.bucket_of_name
    other = next(name for name in names if bucket_of_name(name) != bucket_of_name("s"))
    session = store.create("s")
    session.append("note", {"content": "x"})
    homes = store.storage._homes
    homes[session.uuid] = bucket_of_name(other)  # as it would be remembered of another life
    assert store.storage.session_by_id(session.uuid).name == "s"
    assert homes[session.uuid] == bucket_of_name("s")
