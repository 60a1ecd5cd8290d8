"""States: exact at every position, whatever snapshots there are; compared, explained, searched through and merged."""

import copy
import threading
import time

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import everlog
from databases import address
from everlog import NewEvent
from everlog.core.patch import same
from everlog.core.pointer import MISSING, format_pointer, get_member, parse_pointer
from everlog.core.snapshot import Notes, make_snapshot
from everlog.core.upcast import UPCASTERS
from everlog.errors import (
    ConflictError,
    InvalidEventError,
    InvalidPlaceError,
    KeyReusedError,
    LimitError,
    MergeConflictError,
    NotFoundError,
    PatchError,
    ReducerError,
    StateMismatchError,
)
from everlog.keeper import SnapshotKeeper
from everlog.reducers.registry import find_reducer
from everlog.storage import DropSnapshots, PutSnapshots
from everlog.testing import check_reducer

OFTEN = everlog.SnapshotPolicy(events=2, share=1e9)
POINTERS = st.sampled_from(["/a", "/b", "/b/c", "/b/d/e", "/l", "/l/-", "/l/0", "/l/1/x", "", "/a~1b"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "x", 0.5]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcdel"), inner, max_size=3),
    max_leaves=6,
)
OPS = st.one_of(
    st.builds(lambda p, v: {"op": "add", "path": p, "value": v}, POINTERS, VALUES),
    st.builds(lambda p: {"op": "remove", "path": p}, POINTERS),
    st.builds(lambda p, v: {"op": "replace", "path": p, "value": v}, POINTERS, VALUES),
    st.builds(lambda f, p: {"op": "move", "from": f, "path": p}, POINTERS, POINTERS),
    st.builds(lambda f, p: {"op": "copy", "from": f, "path": p}, POINTERS, POINTERS),
)
CHANGES = st.one_of(
    st.builds(lambda p, v: NewEvent("state.set", {"path": p, "value": v}, rationale="set"), POINTERS, VALUES),
    st.builds(
        lambda ops: NewEvent("state.patch", {"ops": ops}, rationale="patch"), st.lists(OPS, min_size=1, max_size=3)
    ),
    st.builds(lambda p, v: NewEvent("state.patch", {"merge": v, "path": p}), POINTERS, VALUES),
    st.just(NewEvent("note", {"content": "x"})),
)
LOGS = st.lists(CHANGES, min_size=1, max_size=15)
ANY = settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=80)
# What folds many made-up logs is about folding, which no store has code of its own for.
FOLDING = pytest.mark.parametrize("store", ["memory", "sqlite"], indirect=True)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request, tmp_path):
    with everlog.open(address(request.param, tmp_path), snapshots=OFTEN, durability="relaxed") as opened:
        yield opened


@pytest.fixture
def session(store):
    return store.create("s")


def put(session, pointer, value, **members):
    return session.append("state.set", {"path": pointer, "value": value}, **members)


def snapshots(store):
    return store.storage.snapshots(None, (0, b"", 0), 1_000)


# --- exact at every position ---
@FOLDING
@ANY
@given(events=LOGS, cut=st.integers(0, 15))
def test_folding_a_slice_and_then_the_rest_is_folding_all(store, events, cut):
    session = store.create()
    session.extend(events)
    for name in ("document", "messages", "usage"):
        reducer = find_reducer(name)
        fold = reducer.start(session.state(name, at=min(cut, len(events))).value)
        for event in session.events(start=min(cut, len(events))):
            if reducer.looks_at(event.type):
                try:
                    fold.apply(event)
                except PatchError:
                    continue
        assert same(fold.value, session.state(name).value)
        check_reducer(reducer, session)


@FOLDING
@ANY
@given(events=LOGS, data=st.data(), masks=st.lists(st.integers(0, 2**24), min_size=3, max_size=3))
def test_with_any_snapshots_deleted_every_answer_is_the_same(store, events, data, masks):
    session = store.create()
    session.extend(events)
    plain = everlog.open("memory:", snapshots=False)
    twin = plain.create("twin")
    twin.extend(events)
    expected = [repr(twin.state(at=cut).value) for cut in range(len(events) + 1)]
    for mask in masks:
        order = data.draw(st.permutations(range(len(events) + 1)))
        assert {cut: repr(session.state(at=cut).value) for cut in order} == dict(enumerate(expected))
        kept = store.storage.snapshots(None, (0, b"", 0), 1_000)
        everything = [whole(store, row) for row in kept]
        store.storage.write(DropSnapshots(None, None))
        survivors = tuple(row for index, row in enumerate(everything) if mask >> index & 1)
        store.storage.write(PutSnapshots(session.uuid, survivors, store.storage.erasures(0)))
    plain.close()


def whole(store, row):
    """Give a listed snapshot with its content."""
    lineage = store.storage.lineage(row.branch, "")
    return store.storage.snapshot_chain(lineage, row.size, row.fingerprint)[0][-1]


def test_a_fork_shares_the_snapshots_below_it(store, session):
    for number in range(10):
        put(session, f"/k{number}", number)
    session.state()
    store.keeper.wait(10)
    before = {(row.branch, row.size) for row in snapshots(store)}
    fork = session.fork(7)
    assert fork.state(at=7).value == {f"k{number}": number for number in range(7)}
    put(fork, "/own", 1)
    put(fork, "/own", 2)
    assert fork.state().value == {f"k{number}": number for number in range(7)} | {"own": 2}
    store.keeper.wait(10)
    added = {(row.branch, row.size) for row in snapshots(store)} - before
    assert added
    assert all(size > 7 for _, size in added)


def test_the_keeper_rests_while_somebody_appends():
    keeper = SnapshotKeeper(everlog.open("memory:").storage, everlog.SnapshotPolicy())

    def rested(appends):
        keeper._rested = (0, time.monotonic() - 0.01)
        keeper._appends = appends
        start = time.monotonic()
        keeper._rest()
        return time.monotonic() - start

    assert rested(0) < 0.05
    assert 0.09 <= rested(1) < 1
    keeper.stop()
    assert rested(1) < 0.05, "it is wanted to end"


def test_snapshots_follow_a_growing_session_in_the_background(store, session):
    session.extend([NewEvent("state.set", {"path": f"/k{number}", "value": "v"}) for number in range(6)])
    assert store.keeper.wait(20)
    assert max(row.size for row in snapshots(store)) == 6
    assert {row.reducer for row in snapshots(store)} == {"document", "pending"}


def test_a_store_that_takes_no_snapshots_answers_the_same(tmp_path):
    with everlog.open(tmp_path / "s.db", snapshots=False) as store:
        session = store.create("s")
        session.extend([NewEvent("state.set", {"path": "/n", "value": number}) for number in range(2_000)])
        assert session.state(at=1_000)["n"] == 999
        assert snapshots(store) == []
    with everlog.open(tmp_path / "s.db", read_only=True) as store:
        assert store.session("s").state()["n"] == 1_999
        assert snapshots(store) == []


def test_snapshots_take_little_beside_the_log(tmp_path):
    with everlog.open(tmp_path / "s.db", durability="relaxed") as store:
        session = store.create("s")
        put(session, "", {f"key{number}": "some text that stays" * 5 for number in range(500)})
        for _ in range(20):
            session.extend(
                [NewEvent("state.set", {"path": f"/key{n % 500}/x", "value": "v" * 300}) for n in range(300)]
            )
        session.state()
        store.keeper.wait(20)
        taken = sum(row.stored for row in snapshots(store))
        log = sum(len(event.raw) for event in session)
        assert 0 < taken < 0.05 * log


# --- erasure ---
def test_erasing_an_event_takes_it_out_of_states_and_snapshots_also_of_forks(store, session):
    put(session, "/a", 1)
    put(session, "/secret", "hush")
    put(session, "/b", 2)
    fork = session.fork(3)
    put(fork, "/c", 3)
    fork.state()
    session.state()
    assert store.keeper.wait(20)
    session.erase([1], reason="asked")
    assert all(row.size <= 1 for row in snapshots(store))
    for line in (session, fork):
        state = line.state()
        assert "secret" not in state
        assert state.incomplete == (1,)
        assert state.incomplete_count == 1
    store.delete("s", reason="over", cascade=True)
    assert snapshots(store) == []


def test_a_snapshot_of_what_was_erased_meanwhile_is_not_kept(store, session):
    put(session, "/secret", "hush")
    put(session, "/b", 2)
    before = store.storage.erasures(0)
    row = make_snapshot(
        branch=1, size=2, reducer="document", version="1", fingerprint=b"f" * 16, plain=b'{"secret":"hush"}',
        notes=Notes(), base=None, taken=0,
    )  # fmt: skip
    session.erase([0], reason="asked")
    assert store.storage.write(PutSnapshots(session.uuid, (row,), before)).count == 0
    assert all(row.fingerprint != b"f" * 16 for row in snapshots(store))


def test_a_handle_forgets_what_was_erased(store, session):
    put(session, "/secret", "hush", state="document")
    other = store.session("s")
    other.erase([0], reason="asked")
    put(session, "/b", 2, state="document")
    assert session.state(verify=True).value == {"b": 2}


# --- recorded hashes ---
def test_an_append_records_the_hash_of_the_state_after_it(store, session):
    event = put(session, "/a", 1, state="document")
    assert event.state_hash == session.state_hash() == session[0].state_hash
    assert event.state_hash.hash == session.state().hash
    events = session.extend([NewEvent("state.set", {"path": "/b", "value": n}) for n in range(3)], state="document")
    assert [event.state_hash for event in events[:2]] == [None, None]
    assert events[2].state_hash == session.state_hash()
    assert session.state(verify=True).value == {"a": 1, "b": 2}
    assert session.append("note", {"content": "x"}, state="document").state_hash == session.state_hash()


def test_a_test_that_does_not_hold_refuses_the_append_that_asks_for_the_state(session):
    put(session, "/a", 1)
    ops = [{"op": "test", "path": "/a", "value": 2}, {"op": "add", "path": "/b", "value": 1}]
    with pytest.raises(PatchError, match="nothing was written"):
        session.append("state.patch", {"ops": ops}, state="document")
    assert session.size() == 1
    session.append("state.patch", {"ops": ops})  # recorded all the same where nobody asks: it changes nothing
    state = session.state()
    assert state.value == {"a": 1}
    assert state.skipped == (1,)


def test_a_repeated_key_gives_the_first_event_though_the_state_has_moved_on(session):
    first = put(session, "/a", 1, state="document", key="k")
    put(session, "/b", 2, state="document")
    again = put(session, "/a", 1, state="document", key="k")
    assert (again.position, again.repeated, again.state_hash) == (0, True, first.state_hash)
    with pytest.raises(KeyReusedError):
        put(session, "/a", 2, state="document", key="k")
    pair = [NewEvent("state.set", {"path": "/c", "value": n}) for n in (1, 2)]
    recorded = session.extend(pair, state="document", key="pair")
    put(session, "/d", 2)
    assert [event.position for event in session.extend(pair, state="document", key="pair")] == [
        event.position for event in recorded
    ]
    with pytest.raises(InvalidEventError, match="skip"):
        session.extend(pair, state="document", repeats="skip")


def test_expected_is_kept_by_an_append_with_a_state(store, session):
    seen = session.head
    put(store.session("s"), "/x", 1)
    with pytest.raises(ConflictError) as caught:
        put(session, "/a", 1, state="document", expected=seen)
    assert caught.value.missed == 1
    assert session.size() == 1
    put(session, "/a", 1, state="document", expected=session.refresh())


def test_many_writers_record_states_that_are_true(store, session):
    def write(name):
        own = store.session("s")
        for number in range(8):
            put(own, f"/{name}/{number}", number, state="document")

    threads = [threading.Thread(target=write, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert session.size() == 32
    state = session.state(verify=True)
    assert {name: len(state[name]) for name in state} == {f"w{number}": 8 for number in range(4)}


def test_a_wrong_recorded_hash_is_named_with_its_position(store, session):
    put(session, "/a", 1, state="document")
    put(session, "/a", 2, state="document")

    @everlog.reducer("test.mismatch", 1, initial=0)
    def counting(state, event):
        return state + 1

    session.append("note", {"content": "x"}, state="test.mismatch")
    session.append("note", {"content": "x"}, state="test.mismatch")

    @everlog.reducer("test.mismatch", 1, initial=0)
    def counting_otherwise(state, event):
        return state + (1 if event.position < 3 else 2)

    with pytest.raises(StateMismatchError, match="position 3") as caught:
        session.state("test.mismatch", verify=True)
    assert caught.value.position == 3
    assert session.state(verify=True).value == {"a": 2}

    @everlog.reducer("test.mismatch", 2, initial=0)
    def newer(state, event):
        return 7

    assert session.state("test.mismatch", verify=True).value == 7  # another version's hashes say nothing of this one


def test_hashes_recorded_with_what_was_erased_since_are_no_mismatch(session):
    put(session, "/a", 1, state="document")
    put(session, "/b", 2, state="document")
    session.checkpoint("here")
    put(session, "/c", 3, state="document")
    session.erase([1], reason="asked")
    put(session, "/d", 4, state="document")
    found = session.state(verify=True)
    assert found.value == {"a": 1, "c": 3, "d": 4}
    assert found.incomplete == (1,)


def test_what_a_checkpoint_recorded_is_compared_too(session):
    @everlog.reducer("test.checked", 1, initial=0)
    def counting(state, event):
        return state + 1

    session.append("note", {"content": "x"})
    session.checkpoint("here", states=["test.checked"])
    session.append("note", {"content": "x"})
    assert session.state("test.checked", verify=True).value == 3

    @everlog.reducer("test.checked", 1, initial=0)
    def otherwise(state, event):
        return state + 2

    with pytest.raises(StateMismatchError) as caught:
        session.state("test.checked", verify=True)
    assert caught.value.position == 1


def test_a_wrong_snapshot_is_named_with_its_position(store, session):
    for number in range(6):
        put(session, "/a", number)
    reducer = find_reducer("document")
    branch = store.storage.current_branch(session.uuid)
    row = make_snapshot(
        branch=branch.key, size=3, reducer="document", version="1", fingerprint=reducer.fingerprint(),
        plain=b'{"a":77}', notes=Notes(), base=None, taken=0,
    )  # fmt: skip
    store.storage.write(DropSnapshots(None, None))
    store.storage.write(PutSnapshots(session.uuid, (row,), store.storage.erasures(0)))
    with pytest.raises(StateMismatchError) as caught:
        session.state(verify=True)
    assert caught.value.position == 2


# --- reducers ---
def test_a_reducer_that_raises_names_the_event_and_leaves_the_log_readable(session):
    @everlog.reducer("test.raises", 1, initial=0)
    def raises(state, event):
        return state + event.data["n"]

    session.append("note", {"content": "x", "n": 1})
    session.append("note", {"content": "x"})
    with pytest.raises(ReducerError, match=r"KeyError: 'n' on event ev_.*position 1") as caught:
        session.state("test.raises")
    assert caught.value.event == session[1]
    with pytest.raises(ReducerError, match="KeyError"):
        session.append("note", {"content": "x"}, state="test.raises")
    assert session.size() == 2
    assert session.state("test.raises", at=1).value == 1


def test_a_state_that_is_not_json_is_a_clear_error(session):
    @everlog.reducer("test.set", 1, initial=[])
    def collects(state, event):
        return {event.type}

    session.append("note", {"content": "x"})
    with pytest.raises(ReducerError, match="of type set"):
        session.state("test.set")
    assert session.state("test.set", at=0).value == []
    with pytest.raises(ReducerError, match="not JSON"):
        everlog.reducer("test.start", 1, initial=object())(lambda state, event: state)


def test_a_reducer_that_changes_its_input_is_caught(session):
    @everlog.reducer("test.mutates", 1, initial=[])
    def mutates(state, event):
        state.append(event.type)
        return state

    @everlog.reducer("test.mutates.event", 1, initial=None)
    def mutates_event(state, event):
        event.data["content"] = "changed"
        return None

    count = iter(range(100))

    @everlog.reducer("test.counts", 1, initial=None)
    def depends(state, event):
        return next(count)

    session.append("note", {"content": "x"})
    for reducer, what in ((mutates, "changed the state"), (mutates_event, "the event's data"), (depends, "two states")):
        with pytest.raises(AssertionError, match=what):
            check_reducer(reducer, session)


def test_a_state_that_depends_on_the_time_of_recording_cannot_be_recorded_with_it(session):
    @everlog.reducer("test.times", 1)
    def times(state, event):
        return event.recorded_micros

    with pytest.raises(ReducerError, match="when its last event is recorded"):
        session.append("note", {"content": "x"}, state="test.times")
    assert session.size() == 0
    session.append("note", {"content": "x"})
    assert session.state("test.times").value == session[0].recorded_micros


def test_names_of_reducers_are_checked_and_built_in_ones_kept(session):
    for bad in ("", "A", "a b", "x" * 65, 3):
        with pytest.raises(ReducerError, match="name"):
            everlog.reducer(bad, 1)(lambda state, event: state)
    for bad in ("", 1.5, True, "x" * 65):
        with pytest.raises(ReducerError, match="version"):
            everlog.reducer("test.version", bad)(lambda state, event: state)
    with pytest.raises(ReducerError, match="built in"):
        everlog.reducer("document", 2)(lambda state, event: state)
    with pytest.raises(ReducerError, match="known: .*document"):
        session.state("nobody")


def test_what_a_caller_does_to_a_state_changes_nothing(session):
    put(session, "/l", [1])
    state = session.state()
    state.value["l"].append(2)
    put(session, "/m", 1, state="document")
    assert session.state().value == {"l": [1], "m": 1}
    assert session[0].data["value"] == [1]
    assert session.state(verify=True)["l"] == [1]


def test_a_state_reads_like_its_value(session):
    put(session, "/plan", {"next": "x"})
    state = session.state()
    assert state["plan"] == {"next": "x"}
    assert "plan" in state
    assert list(state) == ["plan"]
    assert len(state) == 1
    assert state == {"plan": {"next": "x"}}
    assert state.get("/plan/next") == "x"
    assert state.get("/plan/last", 3) == 3
    assert (state.session, state.size, state.reducer, state.version) == ("s", 1, "document", 1)
    assert "plan" in repr(state)
    assert not session.state(at="start")


# --- usage ---
def test_usage_counts_turns_once_by_model_and_errors_by_tool(session):
    turn = {"message_id": "m1"}
    session.append("agent.message", {"content": "a", **turn}, metadata={"model": "x", "usage": {"output_tokens": 5}})
    session.append(
        "agent.tool_use", {"id": "c", "name": "bash", "input": {}, **turn},
        metadata={"model": "x", "usage": {"output_tokens": 9, "input_tokens": 3}},
    )  # fmt: skip
    session.append("agent.tool_result", {"tool_use_id": "c", "content": "no"}, outcome="error")
    session.append(
        "agent.message", {"content": "b"}, metadata={"model": "y", "usage": {"output_tokens": 1}, "cost": 0.25}
    )
    session.append(
        "model.response", {"request": session[0].id, "model": "x", "usage": {"input_tokens": 7}}, outcome="error"
    )
    session.append("error", {"message": "broke"})
    usage = session.state("usage")
    assert usage["models"]["x"] == {"calls": 2, "errors": 1, "output_tokens": 9, "input_tokens": 10}
    assert usage["models"]["y"] == {"calls": 1, "errors": 0, "output_tokens": 1, "cost": 0.25}
    assert usage["tools"] == {"bash": {"calls": 1, "errors": 1}}
    assert usage["total"] == {"calls": 3, "errors": 1, "output_tokens": 10, "input_tokens": 10, "cost": 0.25}
    assert usage["errors"] == 1


def test_usage_counts_what_a_turn_said_last_wherever_its_events_stand(session):
    for turn, tokens in (("m1", 5), ("m2", 7), ("m1", 6)):
        session.append(
            "agent.message", {"content": "a", "message_id": turn}, metadata={"model": "x", "usage": {"output_tokens": tokens}}
        )  # fmt: skip
    for outcome in ("error", "error", None):
        session.append("model.response", {"request": session[0].id, "model": "x", "response_id": "r"}, outcome=outcome)
    assert session.state("usage")["models"]["x"] == {"calls": 3, "errors": 0, "output_tokens": 13}
    session.append("x.run", {}, metadata={"message_id": "run", "cost": 0.5, "calls": 5})
    session.append("x.run", {}, metadata={"message_id": "run", "cost": 1.25, "calls": 11})
    assert session.state("usage")["models"]["unknown"] == {"calls": 11, "errors": 0, "cost": 1.25}
    assert session.state("usage")["total"]["calls"] == 14


@pytest.mark.parametrize("outcome", ["error", "timeout", "denied", "cancelled"])
def test_usage_counts_a_use_that_failed_once(session, outcome):
    session.append("agent.tool_use", {"id": "a", "name": "t", "input": {}}, outcome=outcome)
    session.append("agent.tool_result", {"tool_use_id": "a", "content": "no"}, outcome=outcome)
    session.append("agent.tool_use", {"id": "b", "name": "t", "input": {}})
    session.append("agent.tool_result", {"tool_use_id": "b", "content": "no"}, outcome=outcome)
    assert session.state("usage")["tools"] == {"t": {"calls": 2, "errors": 2}}


def test_usage_counts_tools_in_messages_recorded_as_the_api_gives_them(session):
    session.append("agent.message", {"content": [{"type": "tool_use", "id": "a", "name": "t", "input": {}}]})
    session.append("user.message", {"content": [{"type": "tool_result", "tool_use_id": "a", "is_error": True}]})
    assert session.state("usage")["tools"] == {"t": {"calls": 1, "errors": 1}}


# --- checkpoints ---
def test_a_checkpoint_records_head_and_states_and_moves_on(session):
    put(session, "/a", 1)
    head = session.refresh()
    first = session.checkpoint("tests-green", data={"n": 1}, states=["document", "usage"])
    assert first.data["head"] == {"size": 1, "root": head.root}
    assert first.data["states"]["document"] == {"version": 1, "hash": session.state(at=1).hash}
    assert set(first.data["states"]) == {"document", "usage"}
    put(session, "/a", 2)
    session.checkpoint("tests-green")
    assert session.state(at="tests-green")["a"] == 2
    assert [event.data["name"] for event in session.checkpoints()] == ["tests-green"] * 2
    assert session.state(at=first).value == {"a": 1}
    put(session, "/big", 2**60)
    assert session.checkpoint("no-hash").data["states"] == {}
    with pytest.raises(ReducerError, match="as strings"):
        session.checkpoint("no-hash", states=["document"])


# --- diff ---
def test_forks_part_at_their_ancestor(store, session):
    put(session, "", {"a": 1, "b": [1, 2], "gone": 1})
    one, other = session.fork(id="one"), session.fork(id="other")
    put(one, "/a", 2)
    other.append("state.patch", {"ops": [{"op": "remove", "path": "/gone"}, {"op": "add", "path": "/b/-", "value": 3}]})
    found = one.diff(other)
    assert (found.related, found.ancestor, found.only_a_count, found.only_b_count) == (True, 1, 2, 2)
    assert found.first_a.type == "session.forked"
    assert [event.position for event in found.only_b] == [1, 2]
    assert found.state_lines() == ["- /gone: 1", "~ /a: 2 -> 1", "+ /b/2: 3"]
    assert not found.same
    assert one.diff(one).same
    assert found.to_dict()["patch"] == list(found.patch)


def test_two_places_of_one_session_and_two_branches(session):
    for number in range(5):
        put(session, "/n", number)
    found = session.diff(2, 4)
    assert (found.ancestor, found.only_a_count, found.only_b_count) == (2, 0, 2)
    assert found.patch == ({"op": "replace", "path": "/n", "value": 3},)
    session.rewind(1)
    found = session.branch("b1").diff(session)
    assert (found.ancestor, found.only_a_count, found.only_b_count) == (1, 4, 1)
    assert session.diff(0, 1, limit=0).only_b == ()
    with pytest.raises(LimitError):
        session.diff(0, 1, limit=5_000)


def test_unrelated_runs_are_aligned_by_type_name_and_input(store):
    def run(name, commands):
        made = store.create(name)
        for number, command in enumerate(commands):
            made.append("agent.tool_use", {"id": f"{name}{number}", "name": "bash", "input": {"cmd": command}})
            made.append("agent.tool_result", {"tool_use_id": f"{name}{number}", "content": f"did {command}"})
        return made

    one, other = run("one", ["ls", "cat a", "rm x", "ls", "ls"]), run("other", ["ls", "cat b", "rm x", "ls", "pwd"])
    found = one.diff(other)
    assert (found.related, found.aligned) == (False, 6)
    assert [event.data["input"]["cmd"] for event in found.only_a if event.type == "agent.tool_use"] == ["cat a", "ls"]
    assert [event.data["input"]["cmd"] for event in found.only_b if event.type == "agent.tool_use"] == ["cat b", "pwd"]


def test_sessions_of_two_stores_are_not_compared(store, session):
    with everlog.open("memory:") as elsewhere, pytest.raises(InvalidPlaceError, match="different stores"):
        session.diff(elsewhere.create("x"))


# --- why ---
def leaves(value, path=()):
    if isinstance(value, dict) and value:
        for key, member in value.items():
            yield from leaves(member, (*path, key))
    elif isinstance(value, list) and value:
        for index, member in enumerate(value):
            yield from leaves(member, (*path, index))
    else:
        yield format_pointer(path), value


@FOLDING
@ANY
@given(events=LOGS)
def test_why_explains_every_leaf_of_every_document(store, events):
    session = store.create()
    session.extend(events)
    states = [session.state(at=cut).value for cut in range(len(events) + 1)]
    for pointer, value in leaves(states[-1]):
        reasons = session.why(pointer, limit=100)
        tokens = parse_pointer(pointer)
        if pointer or value != {}:
            assert reasons, pointer
        if reasons:
            assert same(reasons[0].after, value)
        for reason in reasons:
            assert reason.event.type.startswith("state.")
            assert same(reason.before, get_member(states[reason.event.position], tokens))
            assert same(reason.after, get_member(states[reason.event.position + 1], tokens))
            assert not same(reason.before, reason.after)
        changed = [
            cut
            for cut in range(len(events))
            if not same(get_member(states[cut], tokens), get_member(states[cut + 1], tokens))
        ]
        assert [reason.event.position for reason in reasons] == changed[::-1]


def test_why_gives_rationales_back_in_time_and_for_any_reducer(session):
    put(session, "/plan/next", "a", rationale="first idea")
    put(session, "/plan", {"next": "b"}, rationale="better")
    session.append("state.patch", {"merge": {"plan": {"next": None}}}, rationale="done")
    reasons = session.why("/plan/next")
    assert [(reason.rationale, reason.before, reason.after) for reason in reasons] == [
        ("done", "b", MISSING),
        ("better", "a", "b"),
        ("first idea", MISSING, "a"),
    ]
    assert len(session.why("/plan/next", limit=1)) == 1
    assert session.why("/plan/next", at=1)[0].after == "a"
    assert session.why("/nothing/here") == []
    assert "after" not in reasons[0].to_dict()
    session.append("agent.tool_use", {"id": "a", "name": "ls", "input": {}})
    assert session.why("/tools/ls/calls", reducer="usage")[0].event.position == 3
    with pytest.raises(LimitError):
        session.why("/a", limit=0)


# --- bisect ---
@FOLDING
@ANY
@given(events=LOGS, data=st.data())
def test_bisect_finds_what_a_scan_finds(store, events, data):
    session = store.create()
    session.extend(events)
    first = data.draw(st.integers(0, len(events)))
    start = data.draw(st.integers(0, len(events)))
    asked = []

    def holds(state):  # from some event on, and never before
        asked.append(state.size)
        return state.size > first

    scanned = next((at for at in range(start, len(events)) if at + 1 > first), None)
    found = session.bisect(holds, start=start)
    assert (None if found is None else found.position) == scanned
    assert len(asked) <= 2 + len(events).bit_length()


def test_bisect_finds_where_a_bug_came_in_and_names_a_predicate_that_raises(session):
    for number in range(50):
        put(session, f"/k{number}", number)
    put(session, "/bug", True)
    for number in range(30):
        put(session, "/later", number)
    assert session.bisect(lambda state: "bug" in state).position == 50
    assert session.bisect(lambda state: "nothing" in state) is None
    with pytest.raises(ReducerError, match="the predicate raised KeyError"):
        session.bisect(lambda state: state["nothing"])


def test_why_finds_the_last_changes_of_a_long_conversation_without_snapshots(store, session):
    session.extend([NewEvent("user.message", {"content": str(number)}) for number in range(900)])
    reasons = session.why("", reducer="messages", limit=3)
    assert [(reason.event.position, len(reason.before), len(reason.after)) for reason in reasons] == [
        (899, 899, 900), (898, 898, 899), (897, 897, 898),
    ]  # fmt: skip
    put(session, "/a", 1)
    session.extend([NewEvent("note", {"content": "x"})] * 600)
    assert [reason.event.position for reason in session.why("/a")] == [900]
    assert session.why("/0/content/0/text", reducer="messages")[0].event.position == 0


# --- keeping up ---
def test_one_session_that_cannot_be_folded_ends_the_snapshots_of_no_other(tmp_path):
    @everlog.reducer("test.strange", 1, initial=0)
    def strange(state, event):
        if event.data["content"] == "bad":
            raise SystemError("strange")
        return state + 1

    policy = everlog.SnapshotPolicy(events=100, share=1e9, reducers=("test.strange",))
    with everlog.open(tmp_path / "s.db", snapshots=policy) as store:
        for name in ("bad", "good"):
            store.create(name).extend([NewEvent("note", {"content": name})] * 300)
            assert store.keeper.wait(20)
        assert {info.session for info in store.snapshots()} == {"good"}


def test_a_session_of_which_no_snapshot_is_worth_it_is_folded_a_few_times_only(store, monkeypatch):
    folded = []

    @everlog.reducer("test.growing", 1, initial=[])
    def growing(state, event):
        folded.append(event.position)
        return [*state[-50:], event.data["content"]]

    keeper = SnapshotKeeper(store.storage, everlog.SnapshotPolicy(events=50, share=0.0, reducers=("test.growing",)))
    session = store.create("s")
    for _ in range(40):
        session.extend([NewEvent("note", {"content": "x" * 50})] * 50)
        keeper.appended(session.uuid, 50)
        assert keeper.wait(20)
    keeper.stop()
    keeper.join()
    assert session.size() == 2_000
    assert len(folded) <= 3 * 2_000


# --- merge ---
def test_chosen_events_and_the_document_come_back_with_both_heads(store, session):
    put(session, "", {"a": 1, "b": 1})
    fork = session.fork(id="fork")
    put(fork, "/a", 2, rationale="better")
    answer = fork.append(
        "agent.message", {"content": "42"}, attachments={"x.txt": b"x"}, metadata={"model": "m"}, outcome="ok"
    )
    put(session, "/b", 2)
    ours = session.refresh()
    merged = session.merge(fork, events=[answer], reason="it worked", actor="ann")
    assert merged.type == "session.merged"
    assert (merged.data["from"]["position"], merged.data["from"]["root"]) == (fork.size(), fork.refresh().root)
    assert (merged.data["into"]["position"], merged.data["into"]["root"]) == (ours.size, ours.root)
    assert merged.data["events"] == [{"id": answer.id, "hash": answer.hash}]
    assert session.state().value == {"a": 2, "b": 2}
    copied = session[-2]
    assert (copied.data, copied.outcome, copied.caused_by) == (answer.data, "ok", answer.id)
    assert copied.attachment("x.txt") == b"x"
    assert copied.metadata == {"model": "m", "merged_from": answer.id}
    before = session.size()
    session.merge(fork, events="type:agent.*")
    assert [event.type for event in session.events(start=before)] == ["session.merged"]  # brought already


def test_what_both_changed_differently_is_reported_and_never_guessed(store, session):
    put(session, "", {"a": 1, "l": [1], "o": {"x": 1}})
    fork = session.fork(id="fork")
    put(fork, "/a", 2)
    put(fork, "/l/-", 2)
    put(fork, "/o/y", 2)
    put(session, "/a", 3)
    put(session, "/l/-", 3)
    put(session, "/o/z", 3)
    size = session.size()
    with pytest.raises(MergeConflictError, match="nothing was written") as caught:
        session.merge(fork)
    assert {(c.pointer, c.base, c.ours, c.theirs) for c in caught.value.conflicts if c.pointer == "/a"} == {
        ("/a", 1, 3, 2)
    }
    assert {c.pointer for c in caught.value.conflicts} == {"/a", "/l"}
    assert session.size() == size
    with pytest.raises(InvalidPlaceError, match="no conflict"):
        session.merge(fork, resolve={"/a": 4, "/l": [], "/nope": 1})
    event = session.merge(fork, resolve={"/a": 4}, prefer="theirs")
    assert session.state().value == {"a": 4, "l": [1, 2], "o": {"x": 1, "z": 3, "y": 2}}
    assert {conflict["pointer"]: conflict["merged"] for conflict in event.data["conflicts"]} == {"/a": 4, "/l": [1, 2]}
    put(fork, "/o/y", 5)  # goes on after the merge: only what is new since counts
    session.merge(fork)
    assert session.state()["o"] == {"x": 1, "z": 3, "y": 5}


@FOLDING
@ANY
@given(
    base=st.dictionaries(st.sampled_from("xyz"), VALUES),
    mine=st.dictionaries(st.sampled_from("abc"), VALUES),
    yours=st.dictionaries(st.sampled_from("def"), VALUES),
)
def test_merging_disjoint_changes_gives_the_same_in_both_orders(store, base, mine, yours):
    results = []
    for order in (0, 1):
        root = store.create()
        put(root, "", base)
        forks = [root.fork(), root.fork()]
        for fork, changes in zip(forks, (mine, yours), strict=True):
            for key, value in changes.items():
                put(fork, f"/{key}", value)
        for fork in forks if order else forks[::-1]:
            root.merge(fork)
        results.append(root.state().value)
    assert same(results[0], results[1])
    assert same(results[0], base | mine | yours)


def test_a_merge_of_what_a_fork_of_the_fork_shares_hides_nothing_of_its_own(store, session):
    put(session, "/base", 0)
    fork = session.fork()
    put(fork, "/f", 0)
    other = fork.fork()
    for number in range(6):
        put(fork, f"/f{number}", number)
        put(other, f"/g{number}", number)
    put(other, "/x", "theirs")
    put(session, "/x", "ours")
    session.merge(fork)
    with pytest.raises(MergeConflictError, match="/x"):
        session.merge(other)
    session.merge(other, prefer="ours")
    assert set(session.state()) == {"base", "f", "x"} | {f"{line}{number}" for line in "fg" for number in range(6)}


def test_what_a_line_did_after_it_was_rewound_comes_too(store, session):
    put(session, "/base", 0)
    fork = session.fork()
    for number in range(5):
        put(fork, f"/old{number}", number)
    session.merge(fork)
    fork.rewind(3)
    put(fork, "/new", 1)
    session.merge(fork)
    assert session.state()["new"] == 1
    assert session.state()["old4"] == 4  # it was brought before, and nobody took it away


def test_an_older_place_of_what_was_merged_takes_nothing_back(store, session):
    put(session, "/base", 0)
    fork = session.fork()
    for number in range(5):
        put(fork, f"/f{number}", number)
    session.merge(fork)
    value = session.state().value
    session.merge(fork, at=3)
    assert session.state().value == value
    with pytest.raises(InvalidPlaceError, match="past the place"):
        session.merge(fork, at=3, events=[4])


def test_a_merge_without_the_document_leaves_it_to_be_merged(store, session):
    put(session, "/base", 0)
    fork = session.fork()
    note = put(fork, "/x", 1)
    session.merge(fork, events=[note], document=False)
    assert session.state()["x"] == 1
    put(fork, "/y", 2)
    session.merge(fork, document=False)
    assert "y" not in session.state().value
    session.merge(fork)
    assert session.state().value == {"base": 0, "x": 1, "y": 2}


def test_lines_that_merged_each_others_past_keep_what_each_did_since(store, session):
    fork = session.fork()
    put(session, "/x", 1)
    before = session.size()
    put(fork, "/y", 1)
    session.merge(fork)
    fork.merge(session, at=before)
    session.append("state.patch", {"ops": [{"op": "remove", "path": "/y"}]})
    session.merge(fork)
    assert session.state().value == {"x": 1}


def test_where_the_past_is_not_known_it_is_a_conflict(store, session):
    fork = session.fork()
    put(session, "/x", "a")
    put(fork, "/x", "b")
    at_s, at_f = session.size(), fork.size()
    session.merge(fork, at=at_f, prefer="ours")
    fork.merge(session, at=at_s, prefer="ours")
    with pytest.raises(MergeConflictError) as caught:
        session.merge(fork)
    (conflict,) = caught.value.conflicts
    assert (conflict.pointer, conflict.base, conflict.ours, conflict.theirs) == ("/x", MISSING, "a", "b")


LINES = st.integers(0, 3)
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), LINES),
        st.tuples(st.just("take"), LINES, st.integers(0, 30)),
        st.tuples(st.just("merge"), LINES, LINES, st.one_of(st.none(), st.integers(0, 30))),
        st.tuples(st.just("fork"), LINES, LINES, st.integers(0, 30)),
        st.tuples(st.just("rewind"), LINES, st.integers(0, 30)),
    ),
    min_size=4,
    max_size=24,
)


@FOLDING
@ANY
@given(moves=MOVES)
def test_merges_bring_whatever_the_other_line_knows_and_undo_nothing(store, moves):
    """Beside a model in which a line is the set of changes that it knows: members are put once, by one line, and taken once."""
    root = store.create()
    lines = [root, *(root.fork() for _ in range(3))]
    known = [[frozenset()] * (line.size() + 1) for line in lines]  # by cut
    puts = 0
    for move, number, *rest in moves:
        line, history = lines[number], known[number]
        have = {key for sign, key in history[-1] if sign == "+"} - {key for sign, key in history[-1] if sign == "-"}
        if move == "put":
            put(line, f"/k{puts}", puts)
            history.append(history[-1] | {("+", f"k{puts}")})
            puts += 1
        elif move == "take" and have:
            key = sorted(have)[rest[0] % len(have)]
            line.append("state.patch", {"ops": [{"op": "remove", "path": f"/{key}"}]})
            history.append(history[-1] | {("-", key)})
        elif move == "merge" and rest[0] != number:
            other = lines[rest[0]]
            cut = other.size() if rest[1] is None else min(rest[1], other.size())
            before = line.size()
            line.merge(other, at=cut)
            history.extend([history[-1]] * (line.size() - before - 1))  # a cut within it has no patch yet
            history.append(history[-1] | known[rest[0]][cut])
        elif move == "fork":
            cut = min(rest[1], line.size())
            lines[rest[0]] = line.fork(cut)
            known[rest[0]] = [*history[: cut + 1], history[cut]]
        elif move == "rewind":
            cut = min(rest[0], line.size())
            line.rewind(cut)
            known[number] = [*history[: cut + 1], history[cut]]
        changes = known[number][-1]
        gone = {key for sign, key in changes if sign == "-"}
        assert set(lines[number].state().value) == {key for sign, key in changes if sign == "+"} - gone


def test_an_event_that_comes_back_as_a_copy_is_left_where_it_was(store, session):
    fork = session.fork()
    said = session.append("user.message", {"content": "mine"})
    fork.merge(session, events=[said])
    session.merge(fork, events="type:user.message")
    assert session.count(types="user.message") == 1


def test_what_cannot_be_merged_is_refused(store, session):
    put(session, "/a", 1)
    mark = session.checkpoint("m")
    fork = session.fork(id="fork")
    with pytest.raises(InvalidPlaceError, match="in both lines"):
        session.merge(fork, events=[0])
    with pytest.raises(InvalidPlaceError, match="only its own verb"):
        session.merge(fork, events=[mark.position + 1])
    with pytest.raises(InvalidPlaceError, match="into itself"):
        session.merge(session)
    with pytest.raises(NotFoundError):
        session.merge(fork, events=[99])
    with pytest.raises(InvalidPlaceError, match="neither 'ours' nor 'theirs'"):
        session.merge(fork, prefer="our")
    with pytest.raises(InvalidPlaceError, match="neither a session"):
        session.merge(5)
    failing = fork.append("state.patch", {"ops": [{"op": "test", "path": "/a", "value": 9}]})
    with pytest.raises(PatchError, match="nothing was written") as caught:
        session.merge(fork, events=[failing])
    assert failing.id in str(caught.value)
    fork.append("note", {"content": "x"})
    fork.erase([-1], reason="r")
    with pytest.raises(InvalidPlaceError, match="gone"):
        session.merge(fork, events=[-1])
    with everlog.open("memory:") as elsewhere, pytest.raises(InvalidPlaceError, match="another store"):
        session.merge(elsewhere.create("x"))
    assert session.size() == 2
    other = store.create("unrelated")
    put(other, "/b", 2)
    session.merge(other)
    assert session.state().value == {"a": 1, "b": 2}


def test_a_merged_event_is_in_the_newest_shape_once(store, session):
    everlog.upcast("test.merged", 1)(lambda data: {"new": data})
    try:
        fork = session.fork()
        fork.append("test.merged", "old", metadata={"type_version": 1})
        assert fork[-1].data == {"new": "old"}
        session.merge(fork, events=[-1])
        assert session[-1].data == {"new": "old"}
    finally:
        del UPCASTERS["test.merged"]


# --- preferences ---
def test_preferences_have_sources_and_are_recorded_where_they_are_read(store, session):
    said = session.append("user.message", {"content": "Call me Ann, be brief"})
    known = store.preferences("user:u7")
    known.set("/name", "Ann", source=said, rationale="she said so")
    known.set("/tone", "brief", source=said)
    known.set("/tone", "very brief")
    known.remove("/name")
    assert known.state().value == {"tone": "very brief"}
    assert [event.caused_by for event in known.changes()][::-1][:2] == [said.id, said.id]
    assert known.why("/name")[-1].rationale == "she said so"
    head = known.session.refresh()
    new = store.create("run-2", preferences="user:u7")
    assert new.state().value == {"preferences": {"tone": "very brief"}}
    origin = new[0].metadata["preferences"]
    assert (origin["session"], origin["position"], origin["root"]) == (known.session.uuid, head.size, head.root)
    known.rewind(1, reason="start over")
    assert known.get("/name") == "Ann"
    assert known.get("/tone", "none") == "none"
    assert new.state().value == {"preferences": {"tone": "very brief"}}
    known.apply(new)
    assert new.state()["preferences"] == {"name": "Ann"}
    with pytest.raises(PatchError):
        known.remove("/nothing")
    for bad in ("", "x" * 300, None, "a\nb"):
        with pytest.raises(InvalidPlaceError):
            store.preferences(bad)


# --- upcasting ---
def test_old_shapes_are_new_ones_when_they_are_read_and_the_stored_bytes_stay(session):
    UPCASTERS.pop("test.upcast", None)
    session.append("test.upcast", {"name": "a b"})
    raw = session[0].raw

    @everlog.upcast("test.upcast", 1)
    def split(data):
        first, _, last = data["name"].partition(" ")
        return {"first": first, "last": last}

    @everlog.upcast("test.upcast", 2)
    def join(data):
        return {**data, "full": f"{data['last']}, {data['first']}"}

    assert session[0].data == {"first": "a", "last": "b", "full": "b, a"}
    assert session[0].raw == raw
    new = session.append("test.upcast", {"first": "c", "last": "d", "full": "d, c"})
    assert new.metadata == {"type_version": 3}
    assert session[1].data["full"] == "d, c"
    assert [event.position for event in session.events("data.full:*")] == [0, 1]

    @everlog.upcast("test.upcast", 1)
    def broken(data):
        raise KeyError("x")

    with pytest.raises(ReducerError, match=r"upcaster of 'test.upcast' from version 1 raised KeyError.*position 0"):
        _ = session[0].data
    assert session[0].raw == raw
    for bad in ((3, 1), ("A", 1), ("a", 0), ("a", True)):
        with pytest.raises(InvalidEventError):
            everlog.upcast(*bad)


def test_deep_copies_are_not_needed_for_what_is_given(session):
    value = {"a": [1]}
    put(session, "/x", value, state="document")
    kept = copy.deepcopy(value)
    put(session, "/x/a/-", 2, state="document")
    assert value == kept
    assert session[0].data["value"] == kept


def test_runs_that_are_all_loops_are_aligned_loop_by_loop(store):
    loop = [
        NewEvent("agent.tool_use", {"id": "a", "name": "bash", "input": {"cmd": "pytest"}}),
        NewEvent("agent.tool_result", {"tool_use_id": "a", "content": "3 failed"}),
    ]
    runs = [
        store.create(
            events=[NewEvent("user.message", {"content": name}), *loop * 3, NewEvent("note", {"content": name})]
        )
        for name in ("one", "other")
    ]
    found = runs[0].diff(runs[1])
    assert (found.aligned, found.only_a_count, found.only_b_count) == (6, 2, 2)


def test_hashes_recorded_before_an_upcaster_are_not_compared_with_what_it_gives(store, session):
    session.append("test.shaped", {"n": 1}, state="test.shapes")
    assert session.state("test.shapes", verify=True).value == [{"n": 1}]
    everlog.upcast("test.shaped", 1)(lambda data: {"number": data["n"]})
    try:
        assert session.state("test.shapes", verify=True).value == [{"number": 1}]
    finally:
        del UPCASTERS["test.shaped"]


@everlog.reducer("test.shapes", 1, initial=[], types=["test.shaped"])
def shapes(state, event):
    return [*state, event.data]


def test_what_an_upcaster_gives_is_json_and_only_data_meets_one_that_is_not(store, session):
    session.append("test.set", {"n": 1}, rationale="r", metadata={"m": 1})
    everlog.upcast("test.set", 1)(lambda data: {1, 2})
    try:
        event = session[0]
        assert (event.rationale, event.metadata) == ("r", {"m": 1})
        with pytest.raises(ReducerError, match=r"gave no JSON .*position 0"):
            _ = event.data
        assert list(session.events("rationale:r"))
    finally:
        del UPCASTERS["test.set"]


@pytest.mark.parametrize("types", [(), 5, "", ["x.?"], ["x.[ab]"], [1]])
def test_types_that_name_no_events_are_refused(types):
    with pytest.raises(ReducerError, match="names no event types"):
        everlog.reducer("test.types", types=types)(lambda state, event: state)


def test_a_reducer_that_raises_on_what_is_to_be_appended_names_no_event_that_is_not_there(store, session):
    everlog.reducer("test.raises", 1)(lambda state, event: 1 / 0)
    with pytest.raises(ReducerError, match="nothing was written") as caught:
        session.append("note", {"content": "x"}, state="test.raises")
    assert caught.value.event is None
    assert session.size() == 0
