"""The conversation: as one neutral list, and valid for every provider wherever a session is cut."""

import os
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import everlog
from everlog import NewEvent
from everlog.core.canonical import decode_state, encode_state
from everlog.core.event import Body, Event, encode_body
from everlog.importers import import_paths
from everlog.reducers.messages import MESSAGES
from everlog.testing import check_reducer
from services.conversations import check_all

SHARED = Path(os.environ.get("EVERLOG_SHARED", Path(__file__).parents[3] / "shared")) / "transcripts"
TRANSCRIPTS = sorted(SHARED.glob("*/*.traj")) + sorted(SHARED.glob("*/*.jsonl"))


@pytest.fixture
def store():
    with everlog.open("memory:") as opened:
        yield opened


@pytest.fixture
def session(store):
    return store.create("s")


def say(session, who, content, **members):
    return session.append(f"{who}.message", {"content": content, **members})


# --- real transcripts ---
@pytest.mark.skipif(not TRANSCRIPTS, reason="the shared transcripts do not lie beside this checkout")
@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem[:40])
def test_every_transcript_is_valid_for_every_provider_cut_at_every_position(store, path):
    format = "swe-agent" if path.suffix == ".traj" else "claude-code"
    list(import_paths(store, format, [path]))
    for info in store.sessions():
        session = store.session(info.id)
        for cut in range(info.size + 1):
            check_all(session.state("messages", at=cut))
        whole = session.state("messages")
        check_reducer(MESSAGES, session)
        uses = session.count(types="agent.tool_use")
        blocks = [block for message in whole for block in message["content"]]
        assert sum(block.get("type") == "tool_use" for block in blocks) == uses
        said = "".join(str(turn) for turn in whole.as_anthropic()["messages"])
        for event in session.events(types=["user.message", "agent.message"]):
            if isinstance(event.data["content"], str) and event.data["content"].strip():
                assert repr(event.data["content"].rstrip())[1:-1] in said


# --- the neutral form ---
def test_a_turn_of_one_message_id_is_one_message_and_results_stand_beside_their_uses(session):
    say(session, "system", "Be brief.")
    say(session, "user", "Fix it", name="ann")
    session.append("agent.thinking", {"text": "hm", "signature": "sig", "message_id": "m1"})
    say(session, "agent", "I look.", message_id="m1")
    session.append("agent.tool_use", {"id": "a", "name": "ls", "input": {}, "message_id": "m1"})
    session.append("agent.tool_result", {"tool_use_id": "a", "content": "x.py"}, outcome="ok")
    session.append("agent.tool_use", {"id": "b", "name": "cat", "input": {"f": "x.py"}, "message_id": "m1"})
    session.append("agent.tool_result", {"tool_use_id": "b", "content": "no", "is_error": True}, outcome="error")
    say(session, "agent", "Done.", message_id="m2")
    messages = session.state("messages")
    assert [(message["role"], message["start"], message["stop"]) for message in messages] == [
        ("system", 0, 1),
        ("user", 1, 2),
        ("assistant", 2, 8),
        ("assistant", 8, 9),
    ]
    assert messages[1]["name"] == "ann"
    turn = messages[2]["content"]
    assert [block["type"] for block in turn] == ["thinking", "text", "tool_use", "tool_use"]
    assert turn[2]["result"] == {
        "content": [{"type": "text", "text": "x.py"}], "is_error": False, "position": 5, "outcome": "ok",
    }  # fmt: skip
    assert turn[3]["result"]["is_error"] is True
    anthropic = messages.as_anthropic()
    assert anthropic["system"] == [{"type": "text", "text": "Be brief."}]
    assert anthropic["messages"][1]["content"][0] == {"type": "thinking", "thinking": "hm", "signature": "sig"}
    check_all(messages)


def test_parallel_uses_without_message_ids_are_one_turn_until_a_result_comes(session):
    for call in ("a", "b"):
        session.append("agent.tool_use", {"id": call, "name": "t", "input": 3})
    for call in ("b", "a"):
        session.append("agent.tool_result", {"tool_use_id": call, "content": call})
    session.append("agent.tool_use", {"id": "c", "name": "t", "input": None})
    messages = session.state("messages")
    assert [len(message["content"]) for message in messages] == [2, 1]
    check_all(messages)
    turns = messages.as_anthropic()["messages"]
    assert [block["tool_use_id"] for block in turns[2]["content"]] == ["a", "b"]
    assert turns[1]["content"][0]["input"] == {"input": 3}
    assert turns[4]["content"][0]["is_error"] is True  # no result was recorded, and that is said


def test_a_late_result_takes_the_place_of_an_unknown_one(session):
    session.append("agent.tool_use", {"id": "a", "name": "t", "input": {}})
    session.append("agent.tool_result", {"tool_use_id": "a", "content": "?"}, outcome="unknown")
    say(session, "user", "and?")
    session.append("agent.tool_result", {"tool_use_id": "a", "content": "42"}, outcome="ok")
    session.append("agent.tool_result", {"tool_use_id": "a", "content": "again"}, outcome="ok")
    messages = session.state("messages")
    assert messages[0]["content"][0]["result"]["content"] == [{"type": "text", "text": "42"}]
    assert messages[2]["content"][0]["type"] == "tool_result"  # one too many: kept, as what it says
    check_all(messages)


def test_a_denied_use_has_the_denial_as_its_result(session):
    session.append("agent.tool_use", {"id": "a", "name": "rm", "input": {}})
    session.append("user.tool_confirmation", {"tool_use_id": "a", "result": "deny", "deny_message": "not that"})
    result = session.state("messages")[0]["content"][0]["result"]
    assert (result["outcome"], result["content"][0]["text"]) == ("denied", "not that")


def test_what_was_rewound_is_not_in_the_conversation(session):
    say(session, "user", "one")
    say(session, "agent", "wrong")
    session.rewind(1)
    say(session, "agent", "right")
    said = [message["content"][0]["text"] for message in session.state("messages")]
    assert said == ["one", "right"]


def test_erased_events_are_said_to_be_erased(session):
    say(session, "user", "secret")
    session.append("agent.tool_use", {"id": "a", "name": "t", "input": {"k": "secret"}})
    session.append("agent.tool_result", {"tool_use_id": "a", "content": "secret"})
    session.erase([0, 1], reason="asked")
    messages = session.state("messages")
    assert messages.incomplete == (0, 1)
    assert "secret" in str(messages.value)
    session.erase([2], reason="asked")
    assert "secret" not in str(session.state("messages").value)
    check_all(session.state("messages"))


def test_an_erased_result_is_the_result_of_the_only_use_that_waits(session):
    session.append("agent.tool_use", {"id": "a", "name": "t", "input": {}})
    session.append("agent.tool_result", {"tool_use_id": "a", "content": "secret"}, outcome="ok")
    session.erase([1], reason="asked")
    messages = session.state("messages")
    assert len(messages) == 1
    assert messages[0]["content"][0]["result"]["content"] == [{"type": "text", "text": "[erased]"}]


def test_a_failed_result_says_something_in_text_and_its_pictures_stand_beside_it(session):
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    for call, content in (("a", ""), ("b", "  "), ("c", [picture]), ("d", ["no", picture])):
        session.append("agent.tool_use", {"id": call, "name": "t", "input": {}, "message_id": "m"})
        session.append(
            "agent.tool_result", {"tool_use_id": call, "content": content, "is_error": True}, outcome="error"
        )
    messages = session.state("messages")
    check_all(messages)
    answer = messages.as_anthropic()["messages"][2]["content"]
    assert [block["type"] for block in answer] == ["tool_result"] * 4 + ["image"] * 2
    assert answer[3]["content"] == [{"type": "text", "text": "no"}]


@pytest.mark.parametrize("outcome", ["error", "denied", "timeout", "cancelled", "unknown"])
def test_a_result_that_did_not_succeed_is_an_error_to_the_model(session, outcome):
    session.append("agent.tool_use", {"id": "a", "name": "t", "input": {}})
    session.append("agent.tool_result", {"tool_use_id": "a", "content": "x"}, outcome=outcome)
    assert session.state("messages").as_anthropic()["messages"][2]["content"][0]["is_error"] is True


def test_results_of_one_id_go_to_the_oldest_use_without_one_wherever_the_fold_began(session):
    use = NewEvent("agent.tool_use", {"id": "a", "name": "t", "input": {}})
    results = [NewEvent("agent.tool_result", {"tool_use_id": "a", "content": text}) for text in ("1", "2")]
    session.extend([use, use, *results])
    value = session.state("messages").value
    given = [block["result"]["content"][0]["text"] for message in value for block in message["content"]]
    assert given == ["1", "2"]
    fold = MESSAGES.start(session.state("messages", at=3).value)
    fold.apply(session[3])
    assert fold.value == value


def test_what_only_an_agent_does_is_text_where_others_say_it(session):
    say(session, "user", [{"type": "tool_use"}, {"type": "tool_use", "id": [1]}, {"type": "thinking", "thinking": "x"}])
    say(session, "system", [{"type": "tool_use", "id": "a", "name": "t", "input": {}}])
    session.append("agent.tool_result", {"tool_use_id": "a", "content": "x"}, state="messages")
    session.append("note", {"content": "n"}, state="messages")
    messages = session.state("messages")
    assert {block["type"] for block in messages[0]["content"]} == {"text"}
    assert messages[2]["content"][0]["type"] == "tool_result"
    check_all(messages)


@pytest.mark.parametrize("content", ["hello world", 5, None, [{"type": "text", "text": "hello world"}]])
def test_a_result_without_its_use_is_what_it_says(session, content):
    say(session, "user", [{"type": "tool_result", "tool_use_id": "x", "content": content}])
    messages = session.state("messages")
    check_all(messages)
    said = messages.as_anthropic()["messages"][0]["content"]
    assert [block["text"] for block in said][1:] == (
        [] if content is None else ["5" if content == 5 else "hello world"]
    )


def test_what_one_provider_encrypted_is_given_to_no_other(session):
    say(session, "user", "go")
    session.append("agent.thinking", {"encrypted": "of-openai", "provider": "openai", "message_id": "rs_1"})
    session.append("agent.tool_use", {"id": "a", "name": "t", "input": {}})
    session.append("agent.tool_result", {"tool_use_id": "a", "content": "x"})
    say(session, "agent", [{"type": "redacted_thinking", "data": "of-anthropic"}, {"type": "text", "text": "so"}])
    session.append("agent.thinking", {"encrypted": "of-nobody"})
    say(session, "agent", "done")
    messages = session.state("messages")
    check_all(messages)
    anthropic, responses = str(messages.as_anthropic()), messages.as_openai_responses()["input"]
    assert "of-anthropic" in anthropic
    assert "of-openai" not in anthropic
    assert [item["type"] for item in responses][1:3] == ["reasoning", "function_call"]  # it leads to the call
    assert "of-anthropic" not in str(responses)
    assert "of-nobody" not in anthropic + str(responses)


def test_what_a_tool_at_the_provider_gave_stands_before_what_was_said_of_it(session):
    say(session, "user", "when?")
    session.append("agent.tool_use", {"id": "a", "name": "clock", "input": {}, "kind": "server", "message_id": "m"})
    session.append("agent.tool_result", {"tool_use_id": "a", "content": "16:00"})
    say(session, "agent", "It is 4.", message_id="m")
    messages = session.state("messages")
    check_all(messages)
    assert messages.as_anthropic()["messages"][-1] == {
        "role": "assistant", "content": [{"type": "text", "text": "It is 4."}],
    }  # fmt: skip
    assert messages.as_openai_chat()["messages"][-1]["content"] == "It is 4."
    assert messages.as_openai_responses()["input"][-1]["content"] == "It is 4."


def test_a_use_that_waits_for_its_result_is_kept_beside_a_summary(session):
    say(session, "user", "go")
    session.append("agent.tool_use", {"id": "a", "name": "t", "input": {}})
    say(session, "user", "and?")
    value = fold_with(session, summary_event(0, 3, "early"))
    assert [message["role"] for message in value] == ["summary", "assistant"]
    value = fold_with(
        session,
        summary_event(0, 3, [{"type": "tool_use"}, "early"]),
        NewEvent("agent.tool_result", {"tool_use_id": "a"}),
    )
    assert "result" in value[1]["content"][0]
    assert {block["type"] for block in value[0]["content"]} == {"text"}


def test_changing_a_request_changes_no_state(session):
    say(session, "user", [{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}])
    messages = session.state("messages")
    messages.as_anthropic()["messages"][0]["content"][0]["cache_control"] = {"type": "ephemeral"}
    assert "cache_control" not in str(messages.as_anthropic())


def summary_event(start, stop, text):
    """Give what the verb that writes summaries will record."""
    return NewEvent("summary", {"content": text, "start": start, "stop": stop, "level": 1, "method": "test"})


def events_with(session, *events):
    """Give a session's events and then some that only their own verb may append."""
    made = list(session)
    for new in events:
        made.append(
            Event("s", "0" * 32, "0" * 32, len(made), new.type, None, new.outcome, 0, None, None, None, None, None,
                  b"\0" * 32, encode_body(Body(new.data)))
        )  # fmt: skip
    return made


def fold_with(session, *events):
    """Fold a session and then events that only their own verb may append."""
    fold = MESSAGES.start([])
    for event in events_with(session, *events):
        fold.apply(event)
    return fold.value


def test_a_summary_stands_for_the_messages_in_its_range_and_parts_no_use_from_its_result(session):
    say(session, "system", "rules")
    for number in range(3):
        say(session, "user", f"q{number}")
        session.append("agent.tool_use", {"id": f"c{number}", "name": "t", "input": {}})
        session.append("agent.tool_result", {"tool_use_id": f"c{number}", "content": "r"})
    value = fold_with(session, summary_event(0, 6, "early"))
    assert [message["role"] for message in value] == ["system", "summary", "assistant", "user", "assistant"]
    assert value[1]["content"] == [{"type": "text", "text": "early"}]
    assert value[2]["content"][0]["id"] == "c1"  # its result, at 6, is outside of the range
    value = fold_with(session, summary_event(0, 6, "early"), summary_event(0, 10, "all"))
    assert [message["role"] for message in value] == ["system", "summary"]
    state = everlog.Messages(value, session="s", size=0, reducer=MESSAGES, notes=everlog.core.snapshot.Notes())
    check_all(state)


def test_messages_recorded_as_the_api_gives_them_are_understood(session):
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    use = {"type": "tool_use", "id": "a", "name": "t", "input": {"x": 1}}
    say(session, "user", "go")
    say(session, "agent", [thought, {"type": "text", "text": "I try"}, use])
    say(
        session,
        "user",
        [{"type": "tool_result", "tool_use_id": "a", "content": "ok"}, {"type": "text", "text": "more"}],
    )
    say(session, "agent", [{**use, "id": "b"}])
    say(session, "user", [{"type": "tool_result", "tool_use_id": "b", "content": "ok", "is_error": True}])
    messages = session.state("messages")
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    check_all(messages)
    turns = messages.as_anthropic()["messages"]
    assert turns[1]["content"] == [thought, {"type": "text", "text": "I try"}, use]
    assert turns[2]["content"][0]["content"] == [{"type": "text", "text": "ok"}]
    assert turns[4]["content"][0]["is_error"] is True


def test_pictures_and_unknown_blocks_reach_each_provider_in_its_own_shape(session):
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    other = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    strange = {"type": "hologram", "depth": 3}
    say(session, "user", [picture, other, strange, "plain"])
    messages = session.state("messages")
    check_all(messages)
    content = messages.as_anthropic()["messages"][0]["content"]
    assert content[0] == picture
    assert content[1] == {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    assert "hologram" in content[2]["text"]
    chat = messages.as_openai_chat()["messages"][0]["content"]
    assert chat[0] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert messages.as_openai_responses()["input"][0]["content"][1]["image_url"] == "https://example.org/a.png"


def test_a_turn_that_says_nothing_says_its_rationale(session):
    session.append("agent.tool_use", {"id": "a", "name": "t", "input": {}}, rationale="to see")
    assert session.state("messages").as_anthropic()["messages"][1]["content"][0] == {"type": "text", "text": "to see"}


def test_a_conversation_that_begins_with_the_agent_is_given_a_first_word(session):
    say(session, "agent", "Hello.  ")
    turns = session.state("messages").as_anthropic()["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"]
    assert turns[1]["content"][0]["text"] == "Hello."
    assert everlog.open("memory:").create("e").state("messages").as_anthropic() == {"messages": []}


# --- whatever comes ---
IDS = st.sampled_from(["a", "a", "a", "b", "a b", "x" * 80, ""])
CONTENT = st.sampled_from(["", "  ", "hi", [], ["x"], [{"type": "text", "text": ""}], [{"type": "text"}], [{"a": 1}], [None],
                           [{"type": "tool_use", "id": "a"}], [{"type": "tool_use"}], [{"type": "thinking"}],
                           [{"type": "tool_result"}], [{"type": "tool_result", "tool_use_id": "a", "content": "r"}],
                           [{"type": "tool_result", "tool_use_id": "a", "content": 5, "is_error": True}],
                           [{"type": "image", "source": {"type": "base64", "media_type": "image/svg+xml", "data": "A"}}],
                           [{"type": "document"}], [{"type": "container_upload", "file_id": "f"}]])  # fmt: skip
EVENTS = st.one_of(
    st.builds(lambda c, n: NewEvent("user.message", {"content": c, **n}), CONTENT, st.sampled_from([{}, {"name": "n"}])),
    st.builds(lambda c: NewEvent("system.message", {"content": c}), CONTENT),
    st.builds(
        lambda c, m: NewEvent("agent.message", {"content": c, **m}), CONTENT, st.sampled_from([{}, {"message_id": "m"}])
    ),
    st.builds(
        lambda t, m: NewEvent("agent.thinking", {**t, **m}),
        st.sampled_from([{}, {"text": "t"}, {"text": "t", "signature": "s"}, {"encrypted": "e", "provider": "anthropic"},
                         {"encrypted": "e", "provider": "openai"}, {"text": ""}]),
        st.sampled_from([{}, {"message_id": "m"}]),
    ),
    st.builds(
        lambda i, n, v, m, r: NewEvent("agent.tool_use", {"id": i, "name": n, "input": v, **m}, rationale=r),
        IDS, st.sampled_from(["t", "", "a.b c"]), st.sampled_from([{}, None, "x", [1]]),
        st.sampled_from([{}, {"message_id": "m"}, {"kind": "server"}]), st.sampled_from([None, "why"]),
    ),
    st.builds(
        lambda i, c, o: NewEvent("agent.tool_result", {"tool_use_id": i, "content": c}, outcome=o),
        IDS, CONTENT, st.sampled_from([None, "ok", "error", "unknown", "denied"]),
    ),
    st.builds(lambda i: NewEvent("user.tool_confirmation", {"tool_use_id": i, "result": "deny"}), IDS),
)  # fmt: skip


SUMMARIES = st.builds(lambda a, z: summary_event(min(a, z), max(a, z), "sum"), st.integers(0, 12), st.integers(0, 12))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(events=st.lists(EVENTS, min_size=1, max_size=14), more=st.lists(st.one_of(SUMMARIES, EVENTS), max_size=6))
def test_whatever_is_recorded_is_valid_for_every_provider_and_folds_on_from_any_state(store, events, more):
    session = store.create()
    session.extend(events)
    messages = session.state("messages")
    check_all(messages)
    check_reducer(MESSAGES, session)
    made = events_with(session, *more)
    states = [[]]
    for event in made:
        fold = MESSAGES.start(states[-1])  # a fold that knows nothing but the state
        fold.apply(event)
        states.append(decode_state(encode_state(fold.value)))
    for start in range(0, len(made), 3):
        fold = MESSAGES.start(states[start])
        for event in made[start:]:
            fold.apply(event)
        assert fold.value == states[-1]
    check_all(everlog.Messages(states[-1], session="s", size=0, reducer=MESSAGES, notes=everlog.core.snapshot.Notes()))
