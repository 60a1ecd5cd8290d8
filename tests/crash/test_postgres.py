"""PostgreSQL under load, as its connections, its server and its writers end at any moment, and as it is restored to an earlier state."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

import everlog
from crash.link import Link
from crash.writers import FOR_EVER, Writers, check
from everlog.errors import (
    BusyError,
    ConflictError,
    EverlogError,
    OutcomeUnknownError,
    StaleCursorError,
    UnavailableError,
)
from everlog.stores.postgres import wire
from everlog.testing.servers import PostgresServer, find_postgres

TERMINATED = int(os.environ.get("EVERLOG_TERMINATED", "60"))  # backends
RESTARTS = int(os.environ.get("EVERLOG_RESTARTS", "2"))
CUTS = int(os.environ.get("EVERLOG_CUTS", "8"))  # of each kind
EVENTS = int(os.environ.get("EVERLOG_EVENTS", "1000"))
PROCESSES = 8
TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND random() < %(share)s
"""
DEADLINE_SECONDS = 60.0

pytestmark = pytest.mark.skipif(find_postgres() is None, reason="no PostgreSQL is installed")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer.start(fsync=True) as started:
        yield started


@pytest.fixture
def database(server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"d{abs(hash(request.node.name))}"
    server.create_database(name)
    yield name
    server.drop_database(name)


@pytest.fixture
def link(server: PostgresServer) -> Iterator[Link]:
    made = Link(server)
    yield made
    made.close()


def eventually(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


def make_sessions(url: str, count: int) -> list[str]:
    names = [f"s{number}" for number in range(count)]
    with everlog.open(url) as store:
        for name in names:
            store.create(name)
    return names


@contextmanager
def writing(
    url: str, folder: Path, names: list[str], *, processes: int, threads: int, count: int = FOR_EVER
) -> Iterator[list[Writers]]:
    """Run writers, which have all begun."""
    made = [
        Writers(url, folder / f"{seed}.jsonl", names, seed=seed, threads=threads, count=count)
        for seed in range(processes)
    ]
    try:
        for each in made:
            each.begun()
        yield made
    finally:
        for each in made:
            if each.process.poll() is None and not each.process.stdin.closed:  # a test that failed
                each.kill()
                each.process.communicate()


def acknowledged(writers: list[Writers]) -> int:
    return sum("at" in line for each in writers for line in each.lines())


# --- connections and servers that end ------------------------------------------------------------
def test_what_was_told_is_true_while_backends_are_terminated(
    server: PostgresServer, database: str, tmp_path: Path, record_property: Any
) -> None:
    chance = Random(20261125)
    url = server.url(database)
    names = make_sessions(url, 4)
    with writing(url, tmp_path, names, processes=3, threads=3) as writers:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            ended = 0
            while ended < TERMINATED:
                time.sleep(chance.uniform(0, 0.05))
                ended += len(connection.execute(TERMINATE, {"share": chance.choice([0.2, 0.5, 1.0])}).fetchall())
            eventually(lambda: acknowledged(writers) > TERMINATED, "writers do not go on")
        told = [line for each in writers for line in each.end()]
    with everlog.open(url) as store:
        counted = check(store, writers, told)
    record_property("told", counted)
    assert counted["at"] > TERMINATED
    assert counted["unknown"] == counted["refused"] == 0, [line for line in told if "at" not in line]


def test_writers_go_on_by_themselves_after_a_crash_of_the_server(
    server: PostgresServer, database: str, tmp_path: Path, record_property: Any
) -> None:
    chance = Random(7)
    url = server.url(database)
    names = make_sessions(url, 4)
    with writing(url, tmp_path, names, processes=3, threads=3) as writers:
        for _ in range(RESTARTS):
            time.sleep(chance.uniform(0.1, 0.5))
            server.restart("immediate")
            before = [len(each.lines()) for each in writers]
            for each, said in zip(writers, before, strict=True):
                eventually(lambda: len(each.lines()) > said + 9, "a writer does not go on")
        told = [line for each in writers for line in each.end()]
    with everlog.open(url) as store:
        counted = check(store, writers, told)
    record_property("told", counted)
    assert counted["unknown"] == counted["refused"] == 0


# --- connections that are cut within a commit ----------------------------------------------------
@pytest.mark.parametrize("cut", ["before", "within", "behind", "answering", "late"])
def test_an_append_whose_commit_was_cut_off_is_recorded_once_and_gives_its_event(
    link: Link, database: str, cut: Any
) -> None:
    with everlog.open(link.url(database)) as store:
        session = store.create("s")
        for number in range(CUTS):
            link.cuts.append(cut)
            event = session.append("note", {"content": f"n{number}"})
            assert (event.position, event.data["content"], event.repeated) == (number, f"n{number}", False)
        assert link.made == CUTS
        assert [event.data["content"] for event in session] == [f"n{number}" for number in range(CUTS)]
        assert session.head == session.refresh()
        store.verify().raise_for_faults()


@pytest.mark.parametrize("cut", ["copying", "before", "within", "behind", "answering", "late"])
def test_a_large_batch_that_was_cut_off_is_recorded_once(link: Link, database: str, cut: Any) -> None:
    with everlog.open(link.url(database)) as store:
        session = store.create("s")
        for number in range(3):
            link.cuts.append(cut)
            batch = [everlog.NewEvent("note", {"content": f"{number} {place}"}) for place in range(1_500)]
            events = session.extend(batch)
            assert [event.position for event in events] == list(range(1_500 * number, 1_500 * (number + 1)))
        assert link.made == 3
        assert [event.data["content"] for event in session] == [
            f"{number} {place}" for number in range(3) for place in range(1_500)
        ]
        assert [event.position for event in store.feed()] == list(range(4_500))
        store.verify().raise_for_faults()


@pytest.mark.parametrize("cut", ["before", "behind", "late"])
def test_every_verb_does_its_work_once_where_its_commit_is_cut_off(
    link: Link, database: str, cut: Any, tmp_path: Path
) -> None:
    def cut_off(act: Callable[[], Any]) -> Any:
        link.cuts.append(cut)
        given = act()
        assert not link.cuts, "it did not commit"
        return given

    with everlog.open(link.url(database), snapshots=False) as store:
        session = cut_off(lambda: store.create("s", labels={"a": "b"}))
        session.extend([everlog.NewEvent("note", {"content": f"n{number}"}) for number in range(5)])
        assert cut_off(lambda: session.append("note", {"content": "x"}, attachments={"a": b"1"})).position == 5
        assert cut_off(lambda: session.append("note", {"content": "k"}, key="k")).repeated is False
        fork = cut_off(lambda: session.fork(3, id="f"))
        assert fork.size() == 4
        cut_off(lambda: session.rewind(2, reason="back"))
        assert len(session.branches()) == 2
        cut_off(lambda: session.switch("b1"))
        assert session.size() == 8
        cut_off(lambda: session.update(title="T", labels={"c": "d"}))
        assert (store.sessions()[0].title, session.size()) == ("T", 9)
        cut_off(lambda: session.checkpoint("here"))
        with cut_off(lambda: session.lease("w", 30)) as lease:
            cut_off(lease.renew)
            cut_off(lease.release)
        assert session.count(types="lease.acquired") == session.count(types="lease.released") == 1
        assert cut_off(lambda: session.erase([0], reason="asked")).positions == (0,)
        cut_off(lambda: store.delete("f", reason="over"))
        assert [info.id for info in store.sessions()] == ["s"]
        records = [entry.record for entry in store.storage.ledger(0, 100)]
        assert len(records) == len(set(records)) == 7, (
            "two made, two moves of current, one update, one erasure, one end"
        )
        keys = store.keys(tmp_path)
        keys.new()
        cut_off(lambda: store.seal(keys=keys))
        placed = [row.entry for row in store.storage.placed(0, 100) if row.entry is not None]
        assert len(placed) == len(set(placed)) == 7
        report = store.verify(keys=[keys.verifier])
        report.raise_for_faults()
        assert (report.unsealed, report.seals) == (0, 1)


def test_many_writers_whose_commits_are_cut_off_lose_and_repeat_nothing(
    link: Link, database: str, tmp_path: Path
) -> None:
    chance = Random(5)
    names = make_sessions(link.url(database), 4)
    with writing(link.url(database), tmp_path, names, processes=2, threads=4) as writers:
        while link.made < 4 * CUTS:
            link.cuts.append(chance.choice(["before", "within", "behind", "answering", "late"]))
            time.sleep(chance.uniform(0, 0.02))
        link.cuts.clear()
        told = [line for each in writers for line in each.end()]
    with everlog.open(link.url(database)) as store:
        counted = check(store, writers, told)
    assert counted["unknown"] == counted["refused"] == 0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are given up soon."""
    monkeypatch.setattr("everlog.stores.postgres.connections.RETRY_SECONDS", 0.5)
    monkeypatch.setattr("everlog.stores.postgres.groups.RETRY_SECONDS", 0.25)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("cut", ["before", "behind"])
def test_where_nobody_can_be_asked_the_outcome_is_unknown_and_its_key_tells_later(
    link: Link, database: str, cut: Any
) -> None:
    with everlog.open(link.url(database)) as store:
        session = store.create("s")
        session.append("note", {"content": "first"})
        link.cuts_are_final = True
        link.cuts.append(cut)
        with pytest.raises(OutcomeUnknownError, match="append again with the same key"):
            session.append("note", {"content": "x"}, key="k")
        with pytest.raises((BusyError, UnavailableError), match="nothing was"):
            session.append("note", {"content": "y"})
        link.drop()
        with pytest.raises((BusyError, UnavailableError)):
            session.refresh()
        link.reachable = True
        event = session.append("note", {"content": "x"}, key="k")
        assert event.repeated == (cut == "behind")
        assert [event.data["content"] for event in session.slice(0)] == ["first", "x"]


# --- failover ------------------------------------------------------------------------------------
def test_whoever_is_ahead_of_the_server_after_a_failover_is_told(tmp_path: Path) -> None:
    with PostgresServer.start() as primary, primary.standby() as standby:
        link = Link(primary)
        with everlog.open(link.url("postgres")) as store:
            session, other = store.create("s"), store.create("other")
            session.extend([everlog.NewEvent("note", {"content": f"n{number}"}) for number in range(5)])
            kept = store.cursor()
            caught_up(primary, standby)
            standby.stop()
            session.append("note", {"content": "lost"}, key="lost")
            session.extend([everlog.NewEvent("note", {"content": f"lost {number}"}) for number in range(3)])
            ahead, seen = store.cursor(), session.head
            branch = other.rewind(0, reason="lost").branch
            made = store.create("lost")
            feed = store.follow(ahead, idle=DEADLINE_SECONDS)
            primary.kill()
            standby.restart()
            standby.promote()
            link.server = standby
            link.drop()

            with pytest.raises(ConflictError) as refused:
                session.append("note", {"content": "y"}, expected=seen)
            assert refused.value.head.size == 5
            with pytest.raises(StaleCursorError):
                next(iter(feed))
            with pytest.raises(StaleCursorError):
                list(store.feed(ahead))
            assert list(store.feed(kept)) == []
            for act in (
                lambda: made.append("note", {"content": "x"}),
                lambda: list(made),
                lambda: list(store.session("lost")),
            ):
                with pytest.raises(EverlogError) as gone:
                    act()
                assert gone.value.code == "not_found"
            assert list(store.session("other")) == []
            assert branch not in {each.id for each in store.session("other").branches()}

            session.refresh()
            again = session.append("note", {"content": "lost"}, key="lost")
            assert (again.position, again.repeated) == (5, False), "what was lost is not there, and so is no repeat"
            session.extend([everlog.NewEvent("note", {"content": f"new {number}"}) for number in range(9)])
            with pytest.raises(ConflictError):
                session.append("note", {"content": "y"}, expected=seen)
            with pytest.raises(StaleCursorError):
                list(store.feed(ahead))  # the numbers are past it by now, and the leaf is another
            assert [event.position for event in store.feed(kept)] == list(range(5, 15))
            store.verify().raise_for_faults()
        link.close()


def caught_up(primary: PostgresServer, standby: PostgresServer) -> None:
    (place,) = primary._ask("SELECT pg_current_wal_lsn()::text")[0]
    eventually(
        lambda: standby._ask("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", place) == [(True,)], "it does not follow"
    )


# Whose keys are more bytes than the way to a backend holds that takes none.
MANY_KEYS = [everlog.NewEvent("note", {"content": "x"}, key=f"{number:0500}") for number in range(8_000)]


def stop(server: PostgresServer) -> set[int]:
    """Stop every backend where it is; give their processes."""
    stopped = set(server.backends())
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    return stopped


def test_a_backend_that_hangs_is_not_waited_for_for_ever(
    server: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "ANSWER_SECONDS_MAX", 1.0)
    with everlog.open(server.url(database)) as store:
        session = store.create("s")
        session.append("note", {"content": "before"})
        stopped = stop(server)
        try:
            assert session.append("note", {"content": "by another connection"}).position == 1
            assert [event.position for event in session] == [0, 1]
            stopped |= stop(server)
            assert session.extend(MANY_KEYS)[-1].position == 1 + len(MANY_KEYS)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)


def test_a_standby_is_read_and_takes_no_writes() -> None:
    with PostgresServer.start() as primary:
        with everlog.open(primary.url()) as store:
            store.create("s").append("note", {"content": "x"})
        with primary.standby() as standby, everlog.open(standby.url(), read_only=True) as store:
            assert [event.data["content"] for event in store.session("s")] == ["x"]
            assert len(list(store.feed())) == 1
            with pytest.raises(UnavailableError, match="read-only"):
                store.session("s").append("note", {"content": "y"})
            with (
                everlog.open(standby.url()) as writable,
                pytest.raises(UnavailableError, match="connect to the primary"),
            ):
                writable.session("s").append("note", {"content": "y"})


# --- followers -----------------------------------------------------------------------------------
class Reader:
    """Follows the feed in a thread, from where another left off."""

    def __init__(self, url: str, cursor: str | None, writers: list[Writers]) -> None:
        self.url, self.cursor, self.writers = url, cursor, writers
        self.seen: list[everlog.Event] = []
        self.stopped = threading.Event()
        self.failed: BaseException | None = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        try:
            with everlog.open(self.url) as store:
                feed = store.follow(self.cursor, stop=self.stopped.is_set)
                for event in feed:
                    self.seen.append(event)
                self.cursor = feed.cursor
        except BaseException as error:
            self.failed = error

    def stop(self) -> None:
        self.stopped.set()
        self.thread.join(DEADLINE_SECONDS)
        assert not self.thread.is_alive()
        if self.failed is not None:
            raise self.failed


@pytest.mark.timeout(300 + EVENTS // 50)
def test_a_follower_sees_each_event_once_and_in_order_whoever_writes_waits_or_dies(
    server: PostgresServer, database: str, tmp_path: Path, record_property: Any
) -> None:
    url = server.url(database)
    names = make_sessions(url, 12)
    count = EVENTS // 36  # appends of each of 32 threads, of 1.5 events; a quarter of them are killed early
    with writing(url, tmp_path, names, processes=PROCESSES, threads=4, count=count) as writers:
        first = Reader(url, None, writers)
        with psycopg.connect(url_of_libpq(url)) as idle, psycopg.connect(url_of_libpq(url)) as holder:
            idle.execute("CREATE TABLE elsewhere (n integer)")  # and stays in its transaction
            holder.execute("SELECT 1 FROM everlog.session WHERE name = 's3' FOR UPDATE")
            before = acknowledged(writers)
            eventually(lambda: acknowledged(writers) >= before + 2 * PROCESSES, "one held session holds up all")
            time.sleep(2.0)
            for each in writers[:2]:
                each.kill()
            first.stop()
            holder.rollback()
            second = Reader(url, first.cursor, writers)
            told = [line for each in writers for line in each.end()]
        with everlog.open(url) as store:
            counted = check(store, writers, told)
            everything = [event.id for event in store.feed()]
        eventually(lambda: len(first.seen) + len(second.seen) >= len(everything), "the follower misses events")
        second.stop()
    seen = first.seen + second.seen
    record_property("events", len(seen))
    assert counted["refused"] == counted["unknown"] == 0
    assert sorted(event.id for event in seen) == sorted(everything)
    positions: dict[str, list[int]] = defaultdict(list)
    for event in seen:
        positions[event.session].append(event.position)
    assert all(each == list(range(len(each))) for each in positions.values())


def url_of_libpq(url: str) -> str:
    return (
        url.partition("?")[0]
        + "?"
        + "&".join(word for word in url.partition("?")[2].split("&") if not word.startswith(("prepare=", "schema=")))
    )


# --- restored to an earlier state ----------------------------------------------------------------
def test_an_earlier_state_that_was_restored_refuses_later_cursors(server: PostgresServer, database: str) -> None:
    url, restored = server.url(database), f"{database}_restored"
    binaries = find_postgres()
    assert binaries is not None
    with everlog.open(url) as store:
        sessions = [store.create(f"s{number}") for number in range(8)]
        for session in sessions:
            session.append("note", {"content": "kept"}, key="k")
        kept = store.cursor()
        dumped = subprocess.run(
            [binaries / "pg_dump", "-d", url_of_libpq(url)], check=True, capture_output=True, timeout=DEADLINE_SECONDS
        ).stdout
        for session in sessions:
            session.append("note", {"content": "lost"})
        ahead, store_id = store.cursor(), store.id
    server.create_database(restored)
    subprocess.run(
        [binaries / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", server.url(restored)],
        input=dumped,
        check=True,
        capture_output=True,
        timeout=DEADLINE_SECONDS,
    )
    with everlog.open(server.url(restored)) as store:
        assert store.id == store_id
        assert list(store.feed(kept)) == []
        for _ in range(2):
            with pytest.raises(StaleCursorError, match="restored"):
                list(store.feed(ahead))
            for number in range(8):  # then the numbers are there again
                assert store.session(f"s{number}").append("note", {"content": "kept"}, key="k").repeated
                store.session(f"s{number}").append("note", {"content": "new"})
        assert len(list(store.feed(kept))) == 16
        store.verify().raise_for_faults()
    server.drop_database(restored)
