"""What is in flight, as whoever wakes a session is told it; beside a model that is as plain as can be."""

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import everlog
from everlog import NewEvent
from everlog.core.canonical import decode_state, encode_state
from everlog.errors import FencedError, NotFoundError, WaitingError
from everlog.reducers.pending import MOST, PENDING
from everlog.testing import check_reducer
from services.conversations import check_all
from services.restarts import EVERYWHERE, Killed, die

ANY = settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=150)

IDS, NAMES, RUNS = (
    st.sampled_from(["u1", "u2", "u3"]),
    st.sampled_from(["a", "b"]),
    st.sampled_from([None, "main", "r"]),
)
USES = st.builds(lambda use: {"type": "tool_use", "id": use, "name": "t", "input": {}}, IDS)
RESULTS = st.builds(lambda use: {"type": "tool_result", "tool_use_id": use}, IDS)
BLOCKS = st.lists(st.one_of(USES, RESULTS, st.just({"type": "text", "text": "x"})), max_size=3)
CONTENT = st.just("hello") | BLOCKS


def with_run(run, data):
    return data if run is None else data | {"run": run}


STEPS = st.builds(
    lambda run, name, occurrence, kind: with_run(run, {"step": name, "occurrence": occurrence, "attempt": 1} | kind),
    RUNS, NAMES, st.integers(1, 2), st.sampled_from([{}, {"kind": "stage"}]),
)  # fmt: skip
WAITS = st.builds(
    lambda run, name, occurrence: with_run(run, {"name": name, "occurrence": occurrence}),
    RUNS,
    NAMES,
    st.integers(1, 2),
)
NEW = st.one_of(
    st.tuples(st.just("user.message"), st.builds(lambda content: {"content": content}, CONTENT)),
    st.tuples(st.just("agent.message"), st.builds(lambda content: {"content": content}, CONTENT)),
    st.tuples(st.just("agent.tool_use"), st.builds(lambda use: {"id": use, "name": "t", "input": {}}, IDS)),
    st.tuples(st.just("agent.tool_result"), st.builds(lambda use: {"tool_use_id": use}, IDS)),
    st.tuples(st.just("step.started"), STEPS),
    st.tuples(st.just("step.finished"), STEPS | st.builds(lambda step: step | {"retry_at": 5}, STEPS)),
    st.tuples(st.just("wait.started"), WAITS),
    st.tuples(st.just("wait.finished"), WAITS | st.builds(lambda wait, taken: wait | {"signal": taken}, WAITS, st.integers(0, 25))),
    st.tuples(st.just("signal"), st.builds(lambda name: {"name": name, "data": None}, NAMES)),
    st.tuples(st.just("note"), st.just({"content": "x"})),
    st.tuples(st.sampled_from(["user.message", "step.started", "agent.tool_use", "signal"]), st.none()),  # erased
)  # fmt: skip
LOGS = st.lists(st.tuples(NEW, st.none() | st.integers(0, 25)), max_size=25)


def made(log):
    """Give events as a store gives them. Of each: type and data (None where it was erased), and perhaps the position of its cause."""
    events = []
    with everlog.open("memory:", snapshots=False) as store:
        session = store.create()
        for position, ((type, data), cause) in enumerate(log):
            caused_by = events[cause].id if cause is not None and cause < position else None
            new = NewEvent(type, {"content": "x"} if data is None else data, caused_by=caused_by)
            if data is None:
                session.write_own([NewEvent("note", {"content": "x"})], lambda batch: append(session, batch))
            else:
                session.write_own([new], lambda batch: append(session, batch))
            events.append(session.event(position))
        for position, ((_, data), _) in enumerate(log):
            if data is None:
                session.erase([position], reason="x")
        return list(session)


def append(session, batch):
    from everlog.storage import Append

    return Append(session.uuid, batch)


def plain(events):
    """The model: what was begun, less what was ended, as lists."""
    uses, steps, waits, messages, signals, answered = [], [], [], [], [], set()
    for event in events:
        data = event.data
        if data is None:
            continue
        blocks = data["content"] if isinstance(data.get("content"), list) else []
        if event.type == "agent.tool_use":
            blocks = [{"type": "tool_use", **data}]
        elif event.type == "agent.tool_result":
            blocks = [{"type": "tool_result", **data}]
        for block in blocks:
            if block["type"] == "tool_use" and event.type.startswith("agent."):
                uses.append((block["id"], event.position))
            elif block["type"] == "tool_result":
                found = next((use for use in uses if use[0] == block["tool_use_id"]), None)
                uses = [use for use in uses if use is not found]
        name = (data.get("run", "main"), data.get("kind"), data.get("step", data.get("name")), data.get("occurrence"))
        match event.type:
            case "user.message":
                messages.append(event.position)
            case "agent.message":
                causes = [place for place in messages if event.caused_by == f"ev_{event.writer}_{place}"]
                answered |= {event.caused_by} if causes else set()
                messages = [place for place in messages if event.caused_by in answered and place not in causes]
            case "step.started":
                steps = [*(step for step in steps if step[0] != name), (name, event.position, None)]
            case "step.finished":
                begun = [step for step in steps if step[0] == name]
                steps = [step for step in steps if step[0] != name]
                if "retry_at" in data:
                    steps += [(name, position, data["retry_at"]) for _, position, _ in begun]
            case "wait.started":
                waits = [*(wait for wait in waits if wait[0] != name), (name, event.position)]
            case "wait.finished":
                waits = [wait for wait in waits if wait[0] != name]
                signals = [signal for signal in signals if signal[1] != data.get("signal")]
            case "signal":
                signals.append((data["name"], event.position))
    return uses, steps, waits, messages, signals


def told(events):
    """Give what the reducer says, in the model's shape."""
    from everlog.pending import read_pending

    found = read_pending(check_reducer(PENDING, events), len(events))
    steps = [
        (
            (step.run, "stage" if step.kind == "stage" else None, step.name, step.occurrence),
            step.position,
            step.retry_at,
        )
        for step in found.steps
    ]
    return (
        [(tool.id, tool.position) for tool in found.tools],
        steps,
        [((wait.run, None, wait.name, wait.occurrence), wait.position) for wait in found.waits],
        list(found.messages),
        [(signal.name, signal.position) for signal in found.signals],
    )


@ANY
@given(log=LOGS)
def test_what_is_in_flight_is_what_was_begun_less_what_was_ended(log):
    events = made(log)
    for expected, found in zip(plain(events), told(events), strict=True):
        assert sorted(found, key=lambda row: row if isinstance(row, int) else row[1]) == found, "oldest first"
        assert sorted(map(repr, found)) == sorted(map(repr, expected))


@ANY
@given(log=LOGS, cut=st.integers(0, 25))
def test_folding_a_slice_and_then_the_rest_is_folding_all(log, cut):
    events = made(log)
    whole = PENDING.start(PENDING.initial())
    for event in events:
        if PENDING.looks_at(event.type):
            whole.apply(event)
    first = PENDING.start(PENDING.initial())
    for event in events[:cut]:
        if PENDING.looks_at(event.type):
            first.apply(event)
    rest = PENDING.start(decode_state(encode_state(first.value)))
    for event in events[cut:]:
        if PENDING.looks_at(event.type):
            rest.apply(event)
    assert encode_state(rest.value) == encode_state(whole.value)


# --- bounds ---
def test_of_each_kind_the_newest_thousand_are_kept_and_the_others_counted():
    with everlog.open("memory:", snapshots=False) as store:
        session = store.create()
        count = MOST + 5
        for kind in (
            lambda number: NewEvent("user.message", {"content": "x"}),
            lambda number: NewEvent("signal", {"name": "n", "data": number}),
            lambda number: NewEvent("agent.tool_use", {"id": f"u{number}", "name": "t", "input": {}}),
        ):
            session.extend([kind(number) for number in range(count)])
        found = session.in_flight()
        assert [len(rows) for rows in (found.messages, found.signals, found.tools)] == [MOST] * 3
        assert found.messages[0] == 5
        assert found.tools[0].id == "u5"
        assert found.dropped == 15
        assert found.dropped_of == {"messages": 5, "signals": 5, "tools": 5}


def test_one_id_used_without_end_stays_bounded():
    with everlog.open("memory:", snapshots=False) as store:
        session = store.create()
        session.extend([NewEvent("agent.tool_use", {"id": "u", "name": "t", "input": {}}) for _ in range(MOST + 5)])
        assert len(session.in_flight().tools) == MOST


# --- waking ---
@EVERYWHERE
def test_waking_tells_what_was_in_flight(world):
    session = world.session()
    session.append("user.message", {"content": "Pay it."})
    use = session.append("agent.tool_use", {"id": "c1", "name": "pay", "input": {}})
    session.checkpoint("here")
    session.signal("go", 1)
    run = session.run()
    with pytest.raises(Killed), run, run.stage("send"):
        with pytest.raises(TimeoutError):
            run.wait("other", timeout=0)
        run.step("post", die)
    with world.store().wake("s", holder="next", ttl=30) as woken:
        found = woken.pending
        assert woken.lease.alive
        assert found
        assert (found.size, found.dropped) == (woken.size(), 0)
        assert [(tool.id, tool.name, tool.position, tool.event) for tool in found.tools] == [("c1", "pay", 1, use.id)]
        assert [(step.kind, step.name, step.attempt) for step in found.steps] == [
            ("run", "main", 1),
            ("stage", "send", 1),
            ("step", "post", 1),
        ]
        assert found.steps[2].effect_key.startswith("ef_")
        assert found.messages == (0,)
        assert [(signal.name, signal.position) for signal in found.signals] == [("go", 3)]
        assert woken.last_checkpoint.data["name"] == "here"
        assert set(found.to_dict()) == {
            "size",
            "tools",
            "steps",
            "waits",
            "messages",
            "signals",
            "dropped",
            "dropped_of",
        }
        with pytest.raises(FencedError):
            world.store().wake("s", holder="other")
    assert not woken.lease.alive


@EVERYWHERE
def test_waking_tells_of_waits_and_until_when(world):
    run = world.run()
    for name, timeout in (("go", None), ("stop", 60)):
        with pytest.raises(everlog.errors.WaitingError):
            run.wait(name, timeout=timeout, patience=0)
    with world.store().wake("s", holder="next") as woken:
        assert [(wait.run, wait.name, wait.until) for wait in woken.pending.waits] == [
            ("main", "go", None),
            ("main", "stop", world.clock.micros + 60_000_000),
        ]


@EVERYWHERE
def test_an_idle_session_wakes_with_nothing_in_flight(world):
    session = world.session()
    session.append("user.message", {"content": "Hello"})
    session.append("agent.message", {"content": "Hello!"})
    with world.store().wake("s", holder="next") as woken:
        assert not woken.pending
        assert woken.last_checkpoint is None
        assert woken.repair() == []


@EVERYWHERE
def test_waking_what_is_not_there_is_an_error_and_takes_no_lease(world):
    with pytest.raises(NotFoundError):
        world.store().wake("no", holder="next")


def test_an_answer_answers_its_cause_and_one_without_a_cause_answers_all(world):
    session = world.session()
    messages = [session.append("user.message", {"content": str(number)}) for number in range(3)]
    session.append("agent.message", {"content": "to the second"}, caused_by=messages[1])
    assert session.in_flight().messages == (0, 2)
    session.append("agent.message", {"content": "more to the second"}, caused_by=messages[1])
    assert session.in_flight().messages == (0, 2)
    session.append("agent.message", {"content": "to all"})
    assert session.in_flight().messages == ()


def test_an_answer_to_a_message_of_another_session_does_not_answer_one_of_the_same_position(world):
    other = world.store().create("other").append("user.message", {"content": "elsewhere"})
    session = world.session()
    session.extend([NewEvent("user.message", {"content": str(number)}) for number in range(2)])
    session.append("agent.message", {"content": "to the first"}, caused_by=session[0])
    session.append("agent.message", {"content": "of another"}, caused_by=other)
    assert session.in_flight().messages == ()  # it is no word about one of ours: so it answers all


FOREIGN = [
    ("step.started", {}), ("step.started", {"step": {"a": 1}, "run": 7}), ("step.started", {"step": "a", "attempt": "x"}),
    ("step.finished", {}), ("step.finished", {"kind": "run"}), ("step.finished", {"step": "a", "retry_at": "soon"}),
    ("wait.started", {"run": "m"}), ("wait.started", {"name": "w", "until": "zz"}), ("wait.finished", {"signal": {}}),
    ("wait.finished", {"name": "w", "signal": "x"}), ("signal", {"name": {"x": 1}}), ("signal", {}), ("checkpoint", {}),
    ("agent.tool_use", {"id": 5, "name": {}}), ("agent.tool_result", {}), ("agent.message", {}), ("user.message", {"content": 5}),
]  # fmt: skip


@pytest.mark.parametrize("foreign", [[event] for event in FOREIGN] + [FOREIGN], ids=lambda events: repr(events)[:40])
def test_events_of_another_shape_are_as_if_they_had_not_been(world, foreign, monkeypatch):
    session = world.session()
    monkeypatch.setattr("everlog.core.prepare.check_standard", lambda *_, **__: None)  # as what is imported is
    session.write(session.own_request([NewEvent(type, data) for type, data in foreign], branch=session.branch_id))
    monkeypatch.undo()
    with world.store().wake("s", holder="next") as woken:
        woken.repair()
        run = woken.run()
        assert run.step("mine", lambda: 1) == 1
        with pytest.raises(WaitingError):
            run.wait("w", patience=0)
    assert world.run().step("mine", die) == 1


# --- repairing ---
@EVERYWHERE
def test_repair_closes_each_use_once_with_an_unknown_outcome(world):
    session = world.session()
    session.append("user.message", {"content": "Do both."})
    uses = [session.append("agent.tool_use", {"id": f"c{n}", "name": "pay", "input": {}}) for n in (1, 2)]
    with world.store().wake("s", holder="next") as woken:
        repaired = woken.repair(actor="next")
        assert [(event.data["tool_use_id"], event.outcome, event.actor, event.caused_by) for event in repaired] == [
            ("c1", "unknown", "next", uses[0].id),
            ("c2", "unknown", "next", uses[1].id),
        ]
        assert all(event.data["is_error"] and "not known" in event.data["content"] for event in repaired)
        assert woken.repair() == []
        check_all(woken.state("messages"))
        woken.append("agent.tool_result", {"tool_use_id": "c1", "content": "paid after all"}, outcome="ok")
        check_all(woken.state("messages"))
        assert "paid after all" in str(woken.state("messages").as_anthropic())


@EVERYWHERE
def test_two_that_repair_at_once_close_each_use_once(world):
    session = world.session()
    session.append("agent.tool_use", {"id": "c1", "name": "pay", "input": {}})
    one, other = world.beside(), world.beside()
    stale = one.in_flight()
    assert len(other.repair()) == 1
    assert stale.tools
    assert one.repair() == []
    assert session.count(types="agent.tool_result") == 1


def test_an_id_that_is_used_twice_is_closed_twice(world):
    session = world.session()
    for _ in range(2):
        session.append("agent.tool_use", {"id": "c1", "name": "pay", "input": {}})
    block = {"type": "tool_use", "id": "c2", "name": "pay", "input": {}}
    session.append("agent.message", {"content": [block, block]})
    session.repair()
    assert not session.in_flight().tools
    check_all(session.state("messages"))


def test_repair_closes_every_use_also_past_what_is_kept_track_of(world):
    session = world.session()
    count = 2 * MOST + 5
    session.extend(
        [NewEvent("agent.tool_use", {"id": f"u{number}", "name": "t", "input": {}}) for number in range(count)]
    )
    session.extend([NewEvent("agent.tool_use", {"id": "same", "name": "t", "input": {}}) for _ in range(MOST)])
    session.append("agent.tool_result", {"tool_use_id": "u0", "content": "done"})
    session.append("user.tool_confirmation", {"tool_use_id": "u1", "result": "deny"})
    session.append("user.message", {"content": [{"type": "tool_result", "tool_use_id": "u2", "content": "done"}]})
    repaired = session.repair()
    assert len(repaired) == count - 3 + MOST
    assert len({event.caused_by for event in repaired}) == len(repaired)
    assert session.repair() == []
    session.append("agent.tool_use", {"id": "u9", "name": "t", "input": {}})
    assert [event.data["tool_use_id"] for event in session.repair()] == ["u9"]
    check_all(session.state("messages"))


def test_a_denied_use_is_not_in_flight(world):
    session = world.session()
    session.append("agent.tool_use", {"id": "c1", "name": "rm", "input": {}})
    session.append("user.tool_confirmation", {"tool_use_id": "c1", "result": "allow"})
    assert len(session.in_flight().tools) == 1
    session.append("agent.tool_use", {"id": "c2", "name": "rm", "input": {}})
    session.append("user.tool_confirmation", {"tool_use_id": "c2", "result": "deny", "deny_message": "not that"})
    assert [tool.id for tool in session.in_flight().tools] == ["c1"]
    session.repair()
    assert "not that" in str(session.state("messages").as_anthropic())
    check_all(session.state("messages"))


@EVERYWHERE
def test_an_erased_use_is_repaired_by_nobody(world):
    session = world.session()
    session.append("agent.tool_use", {"id": "c1", "name": "rm", "input": {"secret": 1}})
    session.erase([0], reason="secret")
    assert session.repair() == []
    check_all(session.state("messages"))
