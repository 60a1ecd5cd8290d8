"""Messages of providers' APIs as events: each comes back as it was, and what a server's tool answered stands as its result."""

import pytest

import everlog
from everlog.integrations.provider_messages import events_of
from everlog.reducers.spoken import ANTHROPIC, groups, message_of, same_json

USE = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "tea"}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [{"type": "web_search_result", "url": "u"}]}
FAILED = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": {"error_code": "unavailable"}}
SHARED = {"type": "mcp_tool_use", "id": "m1", "name": "look", "server_name": "maps", "input": {}}
ANSWERED = {"type": "mcp_tool_result", "tool_use_id": "m1", "is_error": False, "content": []}
TEXT = {"type": "text", "text": "It is green.", "cache_control": {"type": "ephemeral"}}
THOUGHTS = [{"type": "thinking", "thinking": "so"}, {"type": "redacted_thinking", "data": "x1"}]


@pytest.mark.parametrize(
    ("role", "content", "types"),
    [
        ("assistant", [USE, FOUND, TEXT], ["tool_use", "tool_result", "message"]),
        ("assistant", [USE, FAILED], ["tool_use", "tool_result"]),
        ("assistant", [*THOUGHTS, SHARED, ANSWERED], ["thinking", "thinking", "tool_use", "tool_result"]),
        ("assistant", [FOUND], ["tool_result"]),
        ("assistant", [{"type": "tool_use", "id": 7, "name": "n", "input": {}}], ["message"]),
        ("user", [{"type": "tool_result", "tool_use_id": "t1"}, TEXT], ["tool_result", None]),
    ],
)
def test_a_message_of_anthropics_comes_back_as_it_was(tmp_path, role, content, types):
    message = {"role": role, "content": content}
    with everlog.open(tmp_path / "s.db") as store:
        session = store.create("s")
        session.extend(events_of(ANTHROPIC, message))
        recorded = list(session.events())
        assert [event.type for event in recorded] == [f"agent.{each}" if each else "user.message" for each in types]
        assert [message_of(ANTHROPIC, group) for group in groups(recorded)] == [message]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": [1], "b": 2}, {"b": 2, "a": [1]}, True),
        ({"a": 1}, {"a": 1.0}, False),
        ([1], [True], False),
        ([0], [False], False),
        ([0.0], [-0.0], False),
        ([None], [float("nan")], False),
        ([2**70], [2**70], True),
        ([2**70], [float(2**70)], False),
        (["\ud800"], ["\ud800"], True),
        (["\ud800", 1], ["\ud800", 1.0], False),
    ],
)
def test_values_are_the_same_json_only_where_it_says_their_kinds_alike(one, other, same):
    assert same_json(one, other) is same
    assert same_json({"in": one}, {"in": other}) is same
