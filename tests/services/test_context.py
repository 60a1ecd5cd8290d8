"""Contexts: within the budget, valid for every provider, whole turns, and told of position by position."""

import os
import random
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import everlog
from databases import address
from everlog import NewEvent
from everlog.errors import InvalidEventError, InvalidPlaceError, LimitError, NotFoundError
from everlog.importers import import_paths
from services.conversations import check_anthropic, check_openai_chat, check_openai_responses

SHARED = Path(os.environ.get("EVERLOG_SHARED", Path(__file__).parents[3] / "shared")) / "transcripts"
TRANSCRIPTS = sorted(SHARED.glob("*/*.traj")) + sorted(SHARED.glob("*/*.jsonl"))
CHECKS = {
    "anthropic": check_anthropic,
    "openai_chat": check_openai_chat,
    "openai_responses": check_openai_responses,
    "plain": lambda payload: [message["content"][0] for message in payload["messages"]],
}
BUDGETS = (500, 2_000, 8_000, 32_000, 200_000)
SCALE = os.environ.get("EVERLOG_SCALE") == "1"


def characters(text):
    return len(text) // 3


def words(text):
    return len(text.split())


COUNTERS = (None, characters, words)


@pytest.fixture(scope="module")
def memory():
    with everlog.open("memory:", snapshots=False) as opened:
        yield opened


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request, tmp_path):
    with everlog.open(address(request.param, tmp_path)) as opened:
        yield opened


@pytest.fixture
def session(store):
    return store.create("s")


def say(session, who, content, **members):
    return session.append(f"{who}.message", {"content": content, **members})


def talk(session, count, *, first=0):
    """Append turns: a question, two tool uses at once, their results, an answer."""
    for number in range(first, first + count):
        turn = {"message_id": f"m{number}"}
        session.extend(
            [
                NewEvent(
                    "user.message",
                    {"content": f"Please look at case {number} in /src/case{number}.py. " + "word " * 30},
                ),
                NewEvent(
                    "agent.tool_use", {"id": f"a{number}", "name": "bash", "input": {"cmd": f"ls {number}"}, **turn}
                ),
                NewEvent("agent.tool_use", {"id": f"b{number}", "name": "cat", "input": {"file": f"{number}"}, **turn}),
                NewEvent("agent.tool_result", {"tool_use_id": f"b{number}", "content": "text " * 40}),
                NewEvent("agent.tool_result", {"tool_use_id": f"a{number}", "content": f"{number} files"}),
                NewEvent("agent.message", {"content": f"Case {number} is done.", "message_id": f"n{number}"}),
            ]
        )


def tool_ids(value, kinds):
    """Give the ids of tool uses or results that stand anywhere in a payload."""
    found = []
    if isinstance(value, list):
        for each in value:
            found += tool_ids(each, kinds)
    elif isinstance(value, dict):
        found += [value[kinds[value["type"]]]] if value.get("type") in kinds else []
        for each in value.values():
            found += tool_ids(each, kinds)
    return found


def check_context(session, context, *, counter=None):
    """Check what holds of every context."""
    manifest = context.manifest
    assert context.tokens == manifest.tokens <= context.budget
    if counter is not None:
        assert counter(context.encoded.decode()) == context.tokens
    CHECKS[context.format](context.payload)
    told = [*manifest.items, *manifest.left_out]
    covered = {position for each in told for position in range(each.start, each.stop)}
    assert covered >= set(range(manifest.size)), "every position is told of"
    assert all(0 <= each.start < each.stop for each in told)
    taken = {p for item in manifest.items if item.why in {"summary", "recent"} for p in range(item.start, item.stop)}
    left = [position for each in manifest.left_out for position in range(each.start, each.stop)]
    unsaid = {event.position for event in session.events(types="system.message")}  # of which summaries tell nothing
    assert not taken & set(left) - unsaid, "no position is both in and left out"
    assert len(left) == len(set(left))
    if context.format == "anthropic":
        uses = tool_ids(context.payload, {"tool_use": "id"})
        assert sorted(uses) == sorted(tool_ids(context.payload, {"tool_result": "tool_use_id"}))


# --- whatever was recorded ---
LONG = "the quick brown fox " * 4_000
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD" * 4_000}}
TEXTS = st.sampled_from(
    [
        "",
        " ",
        "ok",
        "fix it in /src/a.py",
        "never touch the billing module",
        "請不要修改 billing 模組。" * 40,
        "word " * 300,
        LONG,
    ]
)
CONTENT = st.one_of(
    TEXTS, st.lists(st.one_of(TEXTS.map(lambda text: {"type": "text", "text": text}), st.just(PICTURE)), max_size=2)
)
IDS = st.sampled_from(["a", "b", "c", "d"])
TURN = st.sampled_from([{}, {}, {"message_id": "m"}, {"message_id": "n"}])
EVENTS = st.one_of(
    st.builds(lambda c: NewEvent("user.message", {"content": c}), CONTENT),
    st.builds(lambda c: NewEvent("system.message", {"content": c}), st.sampled_from(["Be brief.", "rule " * 100])),
    st.builds(lambda c, t: NewEvent("agent.message", {"content": c, **t}), CONTENT, TURN),
    st.builds(lambda i, t, n: NewEvent("agent.tool_use", {"id": i, "name": "t", "input": {"n": n}, **t}), IDS, TURN, TEXTS),
    st.builds(lambda i, c, o: NewEvent("agent.tool_result", {"tool_use_id": i, "content": c}, outcome=o), IDS, CONTENT,
              st.sampled_from([None, "ok", "error", "unknown"])),
    st.builds(lambda i: NewEvent("user.message", {"content": [{"type": "tool_result", "tool_use_id": i, "content": "r"}]}), IDS),
    st.builds(lambda i: NewEvent("agent.message", {"content": [{"type": "tool_use", "id": i, "name": "t", "input": {}}]}), IDS),
    st.builds(lambda i: NewEvent("user.tool_confirmation", {"tool_use_id": i, "result": "deny"}), IDS),
    st.sampled_from([NewEvent("note", {"content": "n"}), NewEvent("decision", {"choice": "x"}, rationale="since"),
                     NewEvent("x.foreign.kind", {"content": {"deep": [1, None]}}), NewEvent("agent.thinking", {"text": "hm"}),
                     NewEvent("state.set", {"path": "/a", "value": 1})]),
)  # fmt: skip


@settings(suppress_health_check=list(HealthCheck), max_examples=120, deadline=None)
@given(
    events=st.lists(EVENTS, min_size=1, max_size=40),
    erased=st.sets(st.integers(0, 39), max_size=3),
    summarized=st.booleans(),
    budget=st.sampled_from([60, 500, 700, 2_000, 8_000, 32_000, 200_000]),
    format=st.sampled_from(sorted(CHECKS)),
    counter=st.sampled_from(COUNTERS),
    part=st.floats(0.3, 1),
    pinned=st.sets(st.integers(0, 39), max_size=2),
)
def test_whatever_was_recorded_the_laws_hold(memory, events, erased, summarized, budget, format, counter, part, pinned):
    session = memory.create()
    session.extend(events)
    if summarized:
        session.summarize(leaf_tokens=100, fan_out=2)
    size = session.refresh().size
    if erased:
        session.erase(sorted(position for position in erased if position < len(events)), reason="asked")
    at = max(1, int(part * size))
    pins = [position for position in pinned if position < len(events) and position not in erased]
    try:
        context = session.context(budget, at=at, pins=pins, format=format, token_counter=counter)
    except LimitError:
        assert pins
        return
    check_context(session, context, counter=counter)
    again = session.context(budget, at=at, pins=pins, format=format, token_counter=counter)
    assert (again.encoded, again.manifest) == (context.encoded, context.manifest)
    assert {item.start for item in context.manifest.items if item.why == "pinned"} >= set(pins)
    at_once = session.record_request(context, model="m")
    assert session.saw(at_once).encoded == context.encoded


@pytest.mark.parametrize("size", [10, 1_000, 100_000])
def test_the_laws_hold_on_sessions_of_any_length(tmp_path, size):
    chance, turn = random.Random(size), 0
    with everlog.open(tmp_path / "s.db", durability="relaxed", snapshots=False) as store:
        session = store.create("s")
        say(session, "system", "Be brief.")
        while session.head.size < size:
            talk(session, min(250, -(-(size - session.head.size) // 6)), first=turn)
            turn += 250
            session.summarize()
        end = session.refresh().size
        for budget in BUDGETS:
            # Of the longest one format each: looking at all of it takes long.
            for format in sorted(CHECKS) if size < 100_000 or SCALE else [chance.choice(sorted(CHECKS))]:
                at, counter = chance.choice([end, chance.randrange(end // 2, end)]), chance.choice(COUNTERS)
                pins = [chance.randrange(at)] if budget > 500 else []
                context = session.context(budget, at=at, pins=pins, format=format, token_counter=counter)
                check_context(session, context, counter=counter)
                again = session.context(budget, at=at, pins=pins, format=format, token_counter=counter)
                assert again.encoded == context.encoded
                assert {item.start for item in context.manifest.items if item.why == "pinned"} >= set(pins)


@pytest.mark.skipif(not TRANSCRIPTS, reason="the shared transcripts do not lie beside this checkout")
@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem[:40])
def test_the_laws_hold_on_every_transcript(path):
    format = "swe-agent" if path.suffix == ".traj" else "claude-code"
    with everlog.open("memory:") as store:
        list(import_paths(store, format, [path]))
        for info in store.sessions(limit=1_000):
            session = store.session(info.id)
            for place in ("bare", "summarized"):
                if place == "summarized":
                    session.summarize()
                for shape in CHECKS:
                    for budget in BUDGETS:
                        for counter in COUNTERS:
                            context = session.context(budget, format=shape, token_counter=counter)
                            check_context(session, context, counter=counter)
                for cut in range(0, info.size, 7):
                    check_context(session, session.context(2_000, at=cut))


# --- what is in ---
def test_a_short_session_is_in_whole_and_nothing_is_in_twice(session):
    say(session, "system", "Be brief.")
    talk(session, 2)
    context = session.context()
    check_context(session, context)
    assert context.payload == session.state("messages").as_anthropic()
    assert [item.why for item in context.manifest.items].count("system") == 1
    assert not context.manifest.left_out


def test_the_last_message_is_in_even_where_it_is_larger_than_the_budget(session):
    say(session, "user", "Look.")
    session.append("agent.tool_use", {"id": "a", "name": "cat", "input": {}})
    session.append("agent.tool_result", {"tool_use_id": "a", "content": "word " * 100_000})
    for budget in (500, 8_000):
        context = session.context(budget)
        check_context(session, context)
        assert tool_ids(context.payload, {"tool_use": "id"}) == ["a"]
        assert "more characters are in the session" in context.encoded.decode()
        assert context.manifest.items[-1].clipped is not None
    say(session, "user", "text " * 100_000)
    assert "text text" in session.context().encoded.decode()


def test_a_picture_or_a_signed_thought_is_whole_or_not_there(session):
    say(session, "user", "Look.")
    session.append("agent.thinking", {"text": "hm " * 4_000, "signature": "sig", "message_id": "m"})
    session.append("agent.tool_use", {"id": "a", "name": "see", "input": {}, "message_id": "m"})
    session.append("agent.tool_result", {"tool_use_id": "a", "content": [PICTURE, {"type": "text", "text": LONG}]})
    for budget in (300, 1_000, 3_000, 8_000):
        context = session.context(budget)
        check_context(session, context)
        assert "see" in context.encoded.decode()
        said = context.encoded.decode()
        assert ("QUJD" in said) == (PICTURE["source"]["data"] in said)
        assert ('"sig"' in said) == ("hm " * 4_000 in said)


def test_a_late_result_brings_its_use_along_and_the_manifest_claims_no_more(session):
    session.append("agent.tool_use", {"id": "far", "name": "build", "input": {}})
    say(session, "user", "Meanwhile:")
    talk(session, 40)
    session.append("agent.tool_result", {"tool_use_id": "far", "content": "built"})
    context = session.context(2_000)
    check_context(session, context)
    assert "far" in tool_ids(context.payload, {"tool_use": "id"})
    assert context.manifest.plan.pulled == (0,)
    taken = {p for item in context.manifest.items for p in range(item.start, item.stop)}
    assert 0 in taken
    assert not taken & set(range(1, context.manifest.plan.start)), "what lies between is not in"
    assert any(each.start <= 1 < each.stop and each.why == "budget" for each in context.manifest.left_out)


def test_hundreds_of_open_uses_and_one_turn_of_thousands_of_events_keep_the_laws(memory):
    session = memory.create()
    session.extend([NewEvent("agent.tool_use", {"id": f"u{n}", "name": "t", "input": {}}) for n in range(300)])
    say(session, "user", "Go on.")
    session.extend(
        [NewEvent("agent.tool_result", {"tool_use_id": f"u{n}", "content": "r " * 50}) for n in range(0, 300, 7)]
    )
    for budget in BUDGETS:
        check_context(session, session.context(budget))
    session.summarize()
    for budget in BUDGETS:
        check_context(session, session.context(budget))
    whole = memory.create()
    turn = {"message_id": "one"}
    for start in range(0, 10_000, 1_000):
        whole.extend([NewEvent("agent.message", {"content": f"part {n}", **turn}) for n in range(start, start + 1_000)])
    check_context(whole, whole.context(8_000))
    whole.summarize()
    check_context(whole, whole.context(8_000))


def test_of_hundreds_of_late_results_the_newest_are_in_with_their_uses(memory):
    session = memory.create()
    session.extend([NewEvent("agent.tool_use", {"id": f"u{n}", "name": "t", "input": {}}) for n in range(300)])
    for start in range(0, 3_000, 1_000):
        session.extend(
            [NewEvent("user.message", {"content": f"{n} " + "w " * 20}) for n in range(start, start + 1_000)]
        )
    session.extend(
        [NewEvent("agent.tool_result", {"tool_use_id": f"u{n}", "content": "r " * 80}) for n in range(299, -1, -1)]
    )
    for budget in (500, 2_000, 8_000):
        context = session.context(budget)
        check_context(session, context)
        assert "u0" in tool_ids(context.payload, {"tool_use": "id"})


# --- pins and queries ---
def test_pins_are_in_whole_wherever_they_are_from(store, session):
    rule = say(session, "user", "never touch the billing module")
    use = session.append("agent.tool_use", {"id": "a", "name": "t", "input": {"secret": "vault item wxyz7731"}})
    talk(session, 60)
    result = session.append("agent.tool_result", {"tool_use_id": "a", "content": "opened"})
    talk(session, 60, first=60)
    session.append("decision", {"choice": "blue"}, rationale="it is calm")
    other = store.create("o").append("user.message", {"content": "the user likes tea"})
    for pins in ([rule], [rule.id], rule, rule.id, 0, [0], ["billing type:user.message"]):
        context = session.context(2_000, pins=pins)
        check_context(session, context)
        assert "never touch the billing module" in context.encoded.decode()
        assert [item.event for item in context.manifest.items if item.why == "pinned"] == [rule.id]
    context = session.context(2_000, pins=[other, "type:decision", use])
    check_context(session, context)
    for said in ("the user likes tea", "blue", "it is calm", "vault item wxyz7731", "opened"):
        assert said in context.encoded.decode()
    assert {use.id, result.id} <= set(context.manifest.plan.pins)
    assert "vault item wxyz7731" in session.context(2_000, pins=[result]).encoded.decode()


def test_what_cannot_be_pinned_is_refused_and_says_so(store, session):
    talk(session, 60)
    event = say(session, "user", "gone")
    session.erase([event], reason="asked")
    with pytest.raises(NotFoundError, match="was erased"):
        session.context(pins=[event])
    with pytest.raises(NotFoundError, match="not in this store"):
        session.context(pins=["ev_" + "0" * 32 + "_4"])
    with pytest.raises(LimitError, match="more than 100 events"):
        session.context(pins=["type:*"])
    with pytest.raises(LimitError, match="more than 100 events"):
        session.context(pins=range(300))
    with pytest.raises(LimitError, match="more than 100 events"):
        session.context(pins=[0] * 10_000)
    with pytest.raises(LimitError, match="raise budget="):
        session.context(100, pins=[0, 6, 12])
    for pins in (None, 3.5):
        with pytest.raises(InvalidPlaceError, match="are no list"):
            session.context(pins=pins)
    for wrong in (0, -1, True, None, "8000", 1.5, 10**30):
        with pytest.raises(LimitError, match="nothing was made"):
            session.context(wrong)
    for wrong in (None, "xml", [], 5):
        with pytest.raises(InvalidEventError, match="choose one"):
            session.context(format=wrong)
    for wrong in (None, -1, True, 1.5, "9"):
        with pytest.raises(LimitError, match="token_counter gave"):
            session.context(token_counter=lambda _, wrong=wrong: wrong)


def test_what_a_query_finds_is_recalled_before_the_last_message_and_only_once(session):
    say(session, "user", "the deploy key is in vault item wxyz7731")
    talk(session, 60)
    assert "wxyz7731" not in session.context(2_000).encoded.decode()
    context = session.context(2_000, query="deploy key")
    check_context(session, context)
    assert [item.start for item in context.manifest.items if item.why == "retrieved"] == [0]
    assert context.encoded.decode().count("wxyz7731") == 1
    again = session.context(2_000, query="deploy key", pins=[0])
    assert "retrieved" not in {item.why for item in again.manifest.items}
    assert session.context(2_000, query="no such thing").encoded == session.context(2_000).encoded


# --- lines ---
def test_contexts_in_the_past_on_branches_forks_and_after_rewinds_are_those_of_that_line(session):
    talk(session, 30)
    session.summarize(leaf_tokens=300, fan_out=4)
    early = session.context(4_000)
    cut = session.refresh().size
    talk(session, 30, first=30)
    session.summarize(leaf_tokens=300, fan_out=4)
    assert session.context(4_000, at=cut).encoded == early.encoded
    late = session.context(4_000)
    fork = session.fork(at=100, id="way")
    assert fork.outline() == []
    check_context(fork, fork.context(2_000))
    branch = session.branches()[0].name
    session.rewind(40, reason="wrong path")
    assert session.outline() == []
    talk(session, 30, first=60)
    assert session.summarize(leaf_tokens=300, fan_out=4)
    context = session.context(2_000)
    check_context(session, context)
    assert "case 20" not in context.encoded.decode()
    assert session.branch(branch).context(4_000).encoded == late.encoded


def test_what_importers_keep_beside_an_event_takes_no_room(memory):
    session = memory.create()
    for number in range(40):
        session.append(
            "user.message", {"content": f"{number} " + "word " * 100}, metadata={"native": {"item": "x" * 4_000}}
        )
    context = session.context(8_000)
    check_context(session, context)
    assert context.manifest.plan.start == 0, "all of it takes less than the budget"


# --- from turn to turn ---
@pytest.mark.parametrize(
    ("budget", "format", "counter", "longest"),
    [
        (8_000, "anthropic", None, 0),
        (8_000, "openai_chat", words, 0),
        (8_000, "plain", None, 600),
        (32_000, "openai_responses", None, 0),
        (32_000, "anthropic", None, 1_800),
    ],
)
def test_the_front_stays_the_same_bytes_until_something_more_is_summarized(memory, budget, format, counter, longest):
    session, chance = memory.create(), random.Random(7)
    say(session, "system", "Be brief.")
    contexts, quiet = [], []
    for turn in range(200):
        talk(session, 1, first=turn)
        say(session, "user", "word " * chance.randint(0, longest))
        contexts.append(session.context(budget, format=format, token_counter=counter).encoded)
        quiet.append(not session.summarize())
    assert sum(quiet) > 40
    for (before, after), still in zip(pairwise(contexts), quiet, strict=False):
        if still:
            same = next((at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
            assert same >= 0.9 * len(before)


def test_a_counter_that_counts_less_gets_more_in(memory):
    session = memory.create()
    talk(session, 200)
    session.summarize()
    one, other = session.context(8_000), session.context(8_000, token_counter=words)
    assert len(other.encoded) > 1.5 * len(one.encoded)


def test_where_more_was_said_than_fits_much_of_the_budget_is_used(memory):
    session = memory.create()
    for turn in range(0, 900, 100):
        talk(session, 100, first=turn)
        session.summarize()
    for budget in (2_000, 8_000, 32_000):
        assert 0.4 * budget < session.context(budget).tokens <= budget, budget


def test_what_stands_word_for_word_is_not_recalled_too_however_much_a_query_finds():
    with everlog.open("memory:") as store:
        session = store.create("s")
        session.extend(
            [NewEvent("user.message", {"content": f"needle_{number:03} " + "word " * 30}) for number in range(60)]
        )
        for budget in range(600, 3_000, 300):
            text = str(session.context(budget, query="needle").payload)
            found = [text.count(f"needle_{number:03} ") for number in range(60)]
            assert max(found) == 1, (budget, found)
            assert found[-1] == 1
