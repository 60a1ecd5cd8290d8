"""What a model saw: the very bytes of a recorded call, wherever the log went since, and how two calls differ."""

import copy

import pytest

import everlog
from databases import address
from everlog import NewEvent
from everlog.context.manifest import FORMATS
from everlog.errors import InvalidEventError, InvalidPlaceError, NotFoundError


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request, tmp_path):
    with everlog.open(address(request.param, tmp_path)) as opened:
        yield opened


@pytest.fixture
def session(store):
    made = store.create("s", events=[NewEvent("system.message", {"content": "Be brief."})])
    talk(made, 40)
    return made


def talk(session, count):
    for number in range(count):
        session.extend(
            [
                NewEvent("user.message", {"content": f"Case {number} 請 never forget fact_{number}. " + "word " * 40}),
                NewEvent("agent.tool_use", {"id": f"c{number}", "name": "t", "input": {"n": number}}),
                NewEvent("agent.tool_result", {"tool_use_id": f"c{number}", "content": "out " * 30}),
            ]
        )


@pytest.mark.parametrize("format", FORMATS)
def test_a_call_is_seen_byte_for_byte_whatever_was_recorded_since(store, session, tmp_path, format):
    pinned = store.create("other").append("user.message", {"content": "tea, always"})
    session.summarize(leaf_tokens=300, fan_out=3)
    context = session.context(3_000, pins=[5, pinned, "fact_7 type:user.*"], query="fact_2", format=format)
    request = session.record_request(
        context, model="m", provider="p", params={"temperature": 0.5}, tools=[{"name": "t"}]
    )
    answer = session.append(
        "model.response", {"request": request.id, "usage": {"input_tokens": 900}}, caused_by=request
    )
    said = session.append("agent.message", {"content": "done"}, caused_by=answer)
    talk(session, 20)
    session.summarize(leaf_tokens=300, fan_out=3)
    for place in (request, request.id, request.position, answer, said.id):
        seen = session.saw(place)
        assert (seen.encoded, seen.exact) == (context.encoded, True)
        assert seen.payload == context.payload
        assert seen.request.id == request.id
        assert seen.manifest == context.manifest
        assert seen.request.data["params"] == {"temperature": 0.5}
    assert request.data["manifest_hash"] == context.manifest.hash
    fork = session.fork(at=said.position + 1, id="way")
    assert fork.saw(request).encoded == context.encoded
    session.rewind(20, reason="wrong")
    with pytest.raises(NotFoundError):
        session.saw(request.position)
    session.switch(session.branches()[0].name, reason="right after all")
    with everlog.open("memory:") as target:
        store.copy(target)
        assert target.session("s").saw(request.id).encoded == context.encoded
    session.export(tmp_path / "s.everlog")
    store.session("other").export(tmp_path / "o.everlog")
    with everlog.open("memory:") as target:
        target.import_bundle(tmp_path / "s.everlog")
        target.import_bundle(tmp_path / "o.everlog")
        found = target.session("s").saw(request.id)
        assert (found.encoded, found.exact) == (context.encoded, True)


def test_what_was_erased_since_is_missed_and_that_is_said(session):
    session.summarize(leaf_tokens=300, fan_out=3)
    context = session.context(3_000, pins=[1])
    request = session.record_request(context, model="m")
    session.erase([1], reason="asked")
    seen = session.saw(request)
    assert not seen.exact
    assert "fact_0" not in seen.payload["messages"][0]["content"][0]["text"]
    session.summarize(leaf_tokens=300, fan_out=3)  # those that stood for it are gone with it
    again = session.record_request(session.context(3_000), model="m")
    assert session.saw(again).exact
    last = max(item.start for item in session.saw(again).manifest.items if item.why == "recent")
    session.erase([last], reason="asked")
    assert not session.saw(again).exact
    summary = next(item.event for item in session.saw(again).manifest.items if item.why == "summary" and item.event)
    session.erase([summary], reason="asked")
    assert not session.saw(again).exact


def test_what_a_pin_of_another_session_said_is_missed_where_that_session_is_not(store, session, tmp_path):
    pinned = store.create("other").append("user.message", {"content": "tea"})
    request = session.record_request(session.context(pins=[pinned]), model="m")
    session.export(tmp_path / "s.everlog")
    with everlog.open("memory:") as target:
        target.import_bundle(tmp_path / "s.everlog")
        with pytest.raises(NotFoundError, match="not in this store"):
            target.session("s").saw(request.id)


def test_two_calls_are_compared(session):
    first = session.record_request(session.context(3_000), model="m")
    same = session.record_request(session.context(3_000, at=first), model="m")
    change = session.context_diff(first, same)
    assert (change.added, change.removed) == ((), ())
    assert change.same_bytes == change.bytes[0] == change.bytes[1]
    session.append("user.message", {"content": "And now?"})
    second = session.record_request(session.context(3_000, pins=[1]), model="m")
    change = session.context_diff(first, second)
    assert "pinned" in {item.why for item in change.added}
    back = session.context_diff(second, first)
    assert (back.added, back.removed) == (change.removed, change.added)
    assert change.same_bytes == back.same_bytes < min(change.bytes)


def test_what_is_no_context_is_not_recorded(session):
    head = session.head
    for wrong in ("x", None, session.context(2_000).payload):
        with pytest.raises(InvalidEventError, match="with a Context, not with"):
            session.record_request(wrong, model="m")
    assert session.head == head


def test_a_context_of_another_session_is_not_recorded_and_what_led_from_no_call_is_said(store, session):
    other = store.create("other", events=[NewEvent("user.message", {"content": "hi"})])
    size = session.refresh().size
    with pytest.raises(InvalidEventError, match="another session"):
        session.record_request(other.context(), model="m")
    with pytest.raises(InvalidEventError):
        session.record_request(session.context(), model=None)
    for odd in ({"t": float("nan")}, {"n": 2**70}, {"o": object()}):
        with pytest.raises(InvalidEventError, match="nothing was written"):
            session.record_request(session.context(), model="m", params=odd)
    assert session.refresh().size == size
    with pytest.raises(NotFoundError, match="no recorded call led to"):
        session.saw(1)
    with pytest.raises(NotFoundError, match="no recorded call led to"):
        session.saw(session.append("model.request", {"model": "m"}))
    with pytest.raises(InvalidPlaceError):
        session.saw(5.5)
    dangling = session.append("model.response", {"request": "ev_" + "0" * 32 + "_7"})
    with pytest.raises(NotFoundError):
        session.saw(dangling)
    bare = session.append("model.response", {"request": "nonsense"})
    with pytest.raises(NotFoundError):
        session.saw(bare)


HUGE = (10**18, 2**63, 10**19)
PLANS = [
    *({"cut": huge} for huge in HUGE), {"cut": -5}, {"start": -3}, {"start": 10**18}, *({"system": [huge]} for huge in HUGE),
    {"system": [-1]}, {"digest": [10**18]}, {"digest": [4, 4]}, {"summaries": [-4]}, {"summaries": [4] * 10_000}, {"pins": ["x"]},
    {"pins": [5]}, {"retrieved": ["nope"]}, {"pulled": [5, -4]}, {"clipped": -7}, {"format": "xml"}, {"pins": ["ev_" + "0" * 32 + "_4"] * 300},
]  # fmt: skip


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: str(plan)[:40])
def test_a_plan_that_another_program_made_up_is_refused(store, session, plan):
    manifest = copy.deepcopy(session.context(2_000).manifest.to_dict())
    manifest["plan"].update(plan)
    request = session.append("model.request", {"model": "m", "manifest": manifest})
    with pytest.raises(InvalidEventError, match="no manifest that can be read"):
        session.saw(request)
    with pytest.raises(InvalidEventError, match="no manifest that can be read"):
        session.context_diff(request, request)


def test_manifests_of_another_make_are_refused_or_told_not_to_be_exact(session):
    good = session.context(2_000).manifest.to_dict()
    for garbage in (None, 5, "x", [], {}, {**good, "items": 3}, {**good, "version": 2}, {**good, "plan": None}):
        with pytest.raises(InvalidEventError, match="nothing was made"):
            session.saw(session.append("model.request", {"model": "m", "manifest": garbage}))
    for plan in (
        {"digest": [3]},
        {"summaries": [3]},
        {"digest": [1, 2], "digest_tokens": -9},
        {"start": 0},
        {"pulled": [1, 2]},
    ):
        seen = session.saw(
            session.append("model.request", {"model": "m", "manifest": {**good, "plan": {**good["plan"], **plan}}})
        )
        assert not seen.exact
    with pytest.raises(NotFoundError):
        pins = {**good, "plan": {**good["plan"], "pins": ["ev_" + "0" * 32 + "_4"]}}
        session.saw(session.append("model.request", {"model": "m", "manifest": pins}))
