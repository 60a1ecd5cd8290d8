"""Retention beyond the contract: the ledger, summaries, archives, many at once, changes in the middle, failures, SIGKILL."""

import json
import subprocess
import sys
import threading
from random import Random

import pytest

import everlog
from everlog import NewEvent
from everlog.cold import StoredBlock
from everlog.core import limits
from everlog.errors import EverlogError, InvalidEventError, LimitError
from services.restarts import World

DEADLINE_SECONDS = 60
DAY = 86_400


def notes(count, text="secret"):
    return [NewEvent("note", {"content": f"{text} {number}"}) for number in range(count)]


def left(store, *, prefix="run"):
    """How many bodies there are in the sessions that begin so."""
    sessions = store.sessions(prefix=prefix, limit=1_000)
    return sum(event.raw is not None for info in sessions for event in store.session(info.id))


@pytest.fixture
def store(world):
    return world.store()


def blocks(store, session):
    """The session's blocks, by where they are: in the store or in an object."""
    branches = {row.key for row in store.storage.branches(store.storage.session(session).key)}
    here = store.storage.blocks(0, -1, store.storage.now() + 1, None, 500) if store.storage.all_buckets() else []
    away = [block for row in store.storage.objects() for block in store.storage.blocks_of(row.id)]

    def own(block: StoredBlock):
        return block.branch in branches

    return len(list(filter(own, here))), len(list(filter(own, away)))


def test_each_erasure_stands_in_the_ledger_with_the_policy_s_name_and_reason(world, store):
    store.create("run-1", events=notes(3))
    store.retention.set("p", action="erase", query="session:run-*", older_than="1d", reason="notice 4.2")
    world.clock.advance(seconds=2 * DAY)
    store.retention.apply()
    assert [entry.reason for entry in store.storage.ledger(0, 100) if entry.reason] == ["retention:p notice 4.2"]


def test_each_hold_and_release_stands_in_the_ledger_with_the_event_that_says_so(store):
    session = store.create("run-1", events=notes(1))
    session.hold(reason="the court asked", actor="ada")
    store.retention.set("case-7", action="hold", query="label.case:7")
    store.retention.set("case-7", action="hold", query="label.case:8")
    store.retention.set("case-7", action="keep", query="label.case:8")
    store.retention.set("other", action="keep", query="session:*")
    session.release(reason="closed")
    policies = store.session("retention/policies")
    records = [json.loads(entry.record) for entry in store.storage.ledger(0, 100)]
    said = [(record["held"], *record["event"]) for record in records if record["kind"] == "hold"]
    assert said == [
        (True, 0, policies[0].hash),
        (True, 1, policies[1].hash),
        (True, 2, policies[2].hash),
        (False, 3, policies[3].hash),
        (False, 5, policies[5].hash),
    ]
    assert all(record["session"] == policies.uuid for record in records if record["kind"] == "hold")
    assert not any(b"case" in entry.record or b"run-1" in entry.record for entry in store.storage.ledger(0, 100))


def test_who_erases_and_who_deletes_stands_in_the_ledger(store):
    session = store.create("run-1", events=notes(2))
    session.erase([0], reason="r", actor="ada")
    session.erase([1], reason="r")
    store.delete("run-1", reason="r", actor="bob")
    records = [json.loads(entry.record) for entry in store.storage.ledger(0, 100)]
    assert [record.get("actor") for record in records if record["kind"] in ("erase", "delete")] == ["ada", None, "bob"]


def test_summaries_go_with_what_they_stand_for(world, store):
    said = [NewEvent("user.message", {"content": f"we must keep number {number}. " * 20}) for number in range(40)]
    session = store.create("run-1", events=said)
    assert session.summarize(leaf_tokens=100)
    world.clock.advance(seconds=2)
    session.append("note", {"content": "new"})
    store.retention.set("p", action="erase", query="session:run-1", older_than="1s", types=["user.*"])
    store.retention.apply()
    assert all(event.raw is None for event in session.events("type:summary"))
    assert store.verify().ok


def test_a_query_s_times_count_from_each_run(world, store):
    store.create("run-1", events=notes(1))
    store.retention.set("resting", action="erase", query="until:7d", older_than="0s")
    world.clock.advance(seconds=DAY)
    assert store.retention.plan().work[0].events == 0
    world.clock.advance(seconds=7 * DAY)
    assert store.retention.plan().work[0].events == 1


def test_hostile_labels_and_names_are_matched_as_they_are(world, store):
    hostile = "a\"b,c*:\\ %' --"
    store.create(hostile, labels={"user": hostile}, events=notes(1))
    store.create("run-1", labels={"user": "a"}, events=notes(1))
    quoted = '"' + hostile.replace("\\", "\\\\").replace('"', '\\"') + '"'
    store.retention.set("p", action="erase", query=f"label.user:{quoted}", older_than="0s")
    world.clock.advance(seconds=1)
    assert [each.session for each in store.retention.plan().work[0].due] == [hostile]
    store.retention.set("h", action="hold", query=f"session:{quoted}", reason="\u202e\x1b[2J")
    assert [each.by for each in store.retention.plan().work[0].spared] == ["h"]
    with pytest.raises(EverlogError, match="holds session"):
        store.session(hostile).erase([0], reason="r")


def test_a_plan_counts_all_and_names_the_first(world, store):
    for number in range(limits.RETENTION_LISTED_MAX + 5):
        store.create(f"run-{number}", events=notes(1))
        store.create(f"kept-{number}", events=notes(1))
    store.retention.set("p", action="erase", query="session:*", older_than="0s")
    store.retention.set("k", action="keep", query="session:kept-*")
    world.clock.advance(seconds=1)
    work, kept = store.retention.plan().work
    assert (work.sessions, work.events, len(work.due)) == (105, 105, 100)
    assert (work.spared_sessions, work.spared_events, len(work.spared)) == (105, 105, 100)
    assert kept.sessions == 105


def test_a_store_has_so_many_policies_and_no_more(store):
    for number in range(limits.POLICIES_MAX):
        store.retention.set(f"p{number}", action="keep", query="session:x")
    with pytest.raises(LimitError, match="has 200 policies"):
        store.retention.set("one-more", action="keep", query="session:x")
    store.retention.set("p7", action="keep", query="session:y")
    assert len(store.retention.policies()) == limits.POLICIES_MAX


def test_policies_whose_events_have_no_body_are_not_taken_for_none(tmp_path):
    with everlog.open(tmp_path / "a.db") as store:
        store.retention.set("h", action="hold", query="session:run-1")
        store.session("retention/policies").export(tmp_path / "b.everlog", withhold="type:state.set")
    with everlog.open(tmp_path / "b.db") as other:
        session = other.create("run-1", events=notes(1))
        other.import_bundle(tmp_path / "b.everlog")
        with pytest.raises(InvalidEventError, match="retention/policies@0"):
            session.erase([0], reason="r")
        other.session("retention/policies").rewind(0, reason="they came without their bodies")
        assert session.erase([0], reason="r").positions == (0,)


def test_policies_are_copied_with_a_store(world, store):
    store.retention.set("h", action="hold", query="session:run-1")
    store.create("run-1")
    with everlog.open("memory:") as other:
        store.copy(other)
        assert other.retention.policies() == store.retention.policies()
        with pytest.raises(EverlogError, match="policy 'h'"):
            other.delete("run-1", reason="r")


# --- archives ------------------------------------------------------------------------------------
@pytest.fixture
def packing(tmp_path):
    world = World("sqlite", tmp_path)
    yield world
    world.close()


def test_old_blocks_are_packed_and_archived_and_read_as_before(packing, tmp_path):
    store = packing.store()
    for name in ("run-1", "run-2", "other"):
        store.create(name, events=notes(100, text=name * 50))
    store.retention.set("cold", action="archive", query="session:run-*", older_than="30d", to=tmp_path / "cold")
    assert store.retention.plan().work[0].events == 0
    packing.clock.advance(seconds=31 * DAY)
    assert store.retention.plan().work[0].events == 200
    (work,) = store.retention.apply()
    assert (work.sessions, work.events, work.blocks) == (2, 200, 2)
    assert blocks(store, "run-1") == (0, 1)
    assert blocks(store, "other") == (0, 0)
    assert [event.data["content"] for event in store.session("run-1")][:1] == [f"{'run-1' * 50} 0"]
    assert [work.events for work in store.retention.apply()] == [0]
    applied = store.session("retention/policies")[2].data
    assert (applied["blocks"], applied["events"], applied["bytes"]) == (2, 200, work.bytes)
    assert store.verify().ok


def test_what_is_kept_is_not_archived_and_neither_is_a_block_that_a_kept_fork_shares(packing, tmp_path):
    store = packing.store()
    session = store.create("run-1", events=notes(200))
    session.fork(70, id="kept")
    store.retention.set("cold", action="archive", query="session:*", older_than="1d", to=tmp_path / "cold")
    store.retention.set("k", action="keep", query="session:kept")
    packing.clock.advance(seconds=2 * DAY)
    planned = store.retention.plan().work[0]
    (work,) = store.retention.apply()
    assert (planned.events, work.events, work.blocks) == (200 - 70, 200 - 70, 1)
    assert {(each.session, each.shared_with) for each in work.spared} == {("run-1", "kept"), ("kept", None)}
    assert blocks(store, "run-1") == (1, 1)


def test_what_was_archived_is_erased_there_too(packing, tmp_path):
    store = packing.store()
    store.create("run-1", events=notes(100, text="personal"))
    store.retention.set("cold", action="archive", query="session:*", older_than="1d", to=tmp_path / "cold")
    store.retention.set("gone", action="erase", query="session:*", older_than="9d")
    packing.clock.advance(seconds=2 * DAY)
    store.retention.apply()
    assert blocks(store, "run-1") == (0, 1)
    packing.clock.advance(seconds=8 * DAY)
    assert [(work.policy, work.events) for work in store.retention.apply()] == [("gone", 100), ("cold", 0)]
    assert [file for file in (tmp_path / "cold").rglob("*") if file.is_file()] == []
    assert store.verify().ok


def test_a_policy_that_fails_is_recorded_and_stops_no_other(packing, tmp_path):
    store = packing.store()
    store.create("run-1", events=notes(100))
    (tmp_path / "file").write_text("no folder")
    store.retention.set("a", action="archive", query="session:*", older_than="0s", to=tmp_path / "file")
    store.retention.set("b", action="archive", query="session:*", older_than="0s", to=tmp_path / "cold")
    packing.clock.advance(seconds=1)
    with pytest.raises(EverlogError):
        store.retention.apply()
    first, second = (event.data for event in store.session("retention/policies").events("type:retention.applied"))
    assert first["policy"] == "a"
    assert first["error"]
    assert (second["policy"], second["blocks"]) == ("b", 1)
    assert "error" not in second


# --- at once, and in the middle ------------------------------------------------------------------
def test_a_hold_that_is_set_in_the_middle_of_a_run_counts_from_the_next_session_on(world, store):
    for number in range(3):
        store.create(f"run-{number}", events=notes(2))
        world.clock.advance(seconds=1)
    store.retention.set("p", action="erase", query="session:run-*", older_than="0s")

    def hold(_):
        store.retention.set("h", action="hold", query="session:run-2")

    (work,) = store.retention.apply(progress=hold)
    assert [(each.session, each.by) for each in work.spared] == [("run-2", "h")]
    assert (work.sessions, work.events, left(store)) == (2, 4, 2)


def test_a_session_that_is_labelled_held_or_deleted_in_the_middle_is_left_alone(world, store):
    for number in range(4):
        store.create(f"run-{number}", events=notes(2))
        world.clock.advance(seconds=1)
    store.retention.set("p", action="erase", query="session:run-*", older_than="0s")
    store.retention.set("h", action="hold", query="label.case:7")
    waiting = [True]

    def change(_):
        if waiting.pop() if waiting else False:
            store.session("run-1").update(labels={"case": "7"})
            store.delete("run-2", reason="r")

    (work,) = store.retention.apply(progress=change)
    assert (work.events, left(store, prefix="run-1")) == (4, 3)
    assert left(store, prefix="run-3") == 0


def test_a_policy_that_is_removed_in_the_middle_ends_there(world, store):
    for number in range(3):
        store.create(f"run-{number}", events=notes(2))
        world.clock.advance(seconds=1)
    store.retention.set("p", action="erase", query="session:run-*", older_than="0s")
    (work,) = store.retention.apply(progress=lambda _: store.retention.remove("p", reason="no"))
    assert (work.events, left(store)) == (2, 4)
    assert store.session("retention/policies")[-1].data["events"] == 2


def test_two_runs_at_once_erase_each_event_once(tmp_path):
    path = tmp_path / "s.db"
    with everlog.open(path) as store, everlog.open(path) as other:
        for number in range(40):
            store.create(f"run-{number}", events=notes(5))
        store.retention.set("p", action="erase", query="session:run-*", older_than="0s")
        counts = []
        both = threading.Barrier(2)

        def apply(opened):
            both.wait(DEADLINE_SECONDS)
            counts.extend(work.events for work in opened.retention.apply())

        threads = [threading.Thread(target=apply, args=(each,)) for each in (store, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        assert (sum(counts), left(store)) == (200, 0)
        assert store.verify().ok


def test_two_who_set_policies_at_once_both_do(tmp_path):
    with everlog.open(tmp_path / "s.db") as store:

        def set_ten(who):
            for number in range(10):
                store.retention.set(f"{who}{number}", action="keep", query="session:x")

        threads = [threading.Thread(target=set_ten, args=(who,)) for who in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        assert len(store.retention.policies()) == 20


PROGRAM = """
import sys
import everlog
with everlog.open(sys.argv[1]) as store:
    print("ready", flush=True)
    store.retention.apply(progress=lambda count: (print(count, flush=True), input()))
"""


def test_a_run_that_is_killed_is_finished_by_the_next_one(tmp_path):
    path, cold = tmp_path / "s.db", tmp_path / "cold"
    with everlog.open(path) as store:
        for number in range(60):
            store.create(f"run-{number}", events=notes(3))
        for number in range(3):
            store.create(f"cold-{number}", events=notes(130))
        store.retention.set("p", action="erase", query="session:run-*", older_than="0s")
        store.retention.set("q", action="archive", query="session:cold-*", older_than="0s", to=cold)
    source = Random(7)
    for _ in range(4):
        words = [sys.executable, "-c", PROGRAM, str(path)]
        child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "ready\n"
        for _ in range(source.randrange(3, 12)):
            assert child.stdout.readline()
            child.stdin.write("go on\n")
            child.stdin.flush()
        child.kill()
        child.wait(DEADLINE_SECONDS)
        child.stdin.close()
        child.stdout.close()
    with everlog.open(path) as store:
        assert 0 < left(store) < 180
        store.retention.apply()
        assert left(store) == 0
        assert left(store, prefix="cold") == 390
        assert [blocks(store, f"cold-{number}")[0] for number in range(3)] == [0, 0, 0]
        erased = [entry for entry in store.storage.ledger(0, 1_000) if entry.reason == "retention:p"]
        assert len(erased) == 60
        policies = store.session("retention/policies")
        assert policies.count("type:retention.started") == 5
        assert store.verify().ok
