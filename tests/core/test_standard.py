"""The standard types: each required member must be there and of its kind, and an error names it."""

from __future__ import annotations

from typing import Any

import pytest

from everlog.core.event import NewEvent
from everlog.core.prepare import prepare_batch
from everlog.core.standard import (
    ACTOR_PATTERN,
    STANDARD_TYPES,
    TYPE_PATTERN,
    check_reserved,
    check_standard,
    is_reserved,
)
from everlog.errors import InvalidEventError

# One value of each kind, by what the errors call it, and one that is not.
GOOD = {
    "a string": "text",
    "a string or a list of blocks": [{"type": "text", "text": "hi"}],
    "an object": {"a": 1},
    "a list": [1],
    "true or false": False,
    "an integer of at least 0": 0,
    "a number": 1.5,
    "any value": None,
}
BAD: dict[str, list[Any]] = {
    "a string": [None, 1, ["text"], {"text": 1}, True],
    "a string or a list of blocks": [None, 1, {"type": "text"}, True],
    "an object": [None, [], "x", 1],
    "a list": [None, {}, "x", 1],
    "true or false": [None, 0, 1, "true", []],
    "an integer of at least 0": [None, -1, 1.0, True, "1"],
    "a number": [None, True, "1"],
    "any value": [],
}
MEMBERS = [
    (event_type, declared.removesuffix("?"), kind, not declared.endswith("?"))
    for event_type, members in STANDARD_TYPES.items()
    for declared, (_, kind) in members.items()
]
REQUIRED = [(event_type, member) for event_type, member, _, required in MEMBERS if required]


# The types and required members that were released: taking one away breaks readers, adding one breaks writers.
RELEASED = {
    "user.message": "content",
    "user.interrupt": "",
    "user.tool_confirmation": "tool_use_id result",
    "system.message": "content",
    "agent.message": "content",
    "agent.thinking": "",
    "agent.tool_use": "id name input",
    "agent.tool_result": "tool_use_id",
    "model.request": "model",
    "model.response": "request",
    "decision": "choice",
    "state.set": "path value",
    "state.patch": "",
    "checkpoint": "name",
    "summary": "content start stop level method",
    "step.started": "step occurrence attempt",
    "step.finished": "step occurrence attempt",
    "wait.started": "name",
    "wait.finished": "name",
    "signal": "name data",
    "lease.acquired": "holder token until",
    "lease.released": "token reason",
    "session.forked": "from",
    "session.rewound": "from",
    "session.switched": "from",
    "session.merged": "from",
    "session.updated": "",
    "retention.started": "policies",
    "retention.applied": "policy action sessions events bytes",
    "note": "content",
    "error": "message",
}


def whole(event_type: str, *, optional: bool = True) -> dict[str, Any]:
    data = {member: GOOD[kind] for of, member, kind, required in MEMBERS if of == event_type and (optional or required)}
    if event_type == "user.tool_confirmation":
        data["result"] = "allow"
    if event_type == "state.patch":
        data.pop("merge", None)
        data["ops"] = []
    return data


def test_standard_types_and_their_required_members_are_those_that_were_released() -> None:
    required = {event_type: " ".join(own for of, own in REQUIRED if of == event_type) for event_type in STANDARD_TYPES}
    assert required == RELEASED


def test_every_kind_that_a_member_may_have_is_tried() -> None:
    assert {kind for _, _, kind, _ in MEMBERS} <= set(GOOD)


@pytest.mark.parametrize("event_type", STANDARD_TYPES)
def test_data_with_all_members_is_taken_and_so_is_data_with_only_the_required_ones(event_type: str) -> None:
    check_standard(event_type, whole(event_type))
    check_standard(event_type, whole(event_type, optional=False))
    check_standard(event_type, {**whole(event_type), "not_named_anywhere": {"kept": True}})


@pytest.mark.parametrize(("event_type", "member"), REQUIRED)
def test_a_required_member_that_is_missing_is_named(event_type: str, member: str) -> None:
    data = whole(event_type)
    del data[member]
    with pytest.raises(InvalidEventError, match=f"data of '{event_type}' lacks '{member}' .*; nothing was written"):
        check_standard(event_type, data)


@pytest.mark.parametrize(("event_type", "member", "kind", "required"), MEMBERS)
def test_a_member_of_another_kind_is_named(event_type: str, member: str, kind: str, required: bool) -> None:
    data = whole(event_type)
    for bad in BAD[kind]:
        with pytest.raises(InvalidEventError, match=f"^data/{member} of '{event_type}' is .* where it takes {kind}"):
            check_standard(event_type, {**data, member: bad})


@pytest.mark.parametrize("event_type", STANDARD_TYPES)
@pytest.mark.parametrize("data", [None, [], "text", 1, True])
def test_data_that_is_no_object_is_refused_with_the_members_it_takes(event_type: str, data: object) -> None:
    with pytest.raises(InvalidEventError, match="where it takes an object with") as refused:
        check_standard(event_type, data)
    assert all(declared in str(refused.value) for declared in STANDARD_TYPES[event_type])


@pytest.mark.parametrize("data", [{}, {"path": "/a"}, {"ops": [], "merge": {}}])
def test_a_state_patch_takes_exactly_one_of_its_forms(data: dict[str, Any]) -> None:
    with pytest.raises(InvalidEventError, match="exactly one of 'ops'"):
        check_standard("state.patch", data)
    check_standard("state.patch", {"merge": None})


def test_a_tool_confirmation_allows_or_denies() -> None:
    for result in ("allow", "deny"):
        check_standard("user.tool_confirmation", {"tool_use_id": "t1", "result": result})
    with pytest.raises(InvalidEventError, match="data/result .* 'allow' or 'deny'"):
        check_standard("user.tool_confirmation", {"tool_use_id": "t1", "result": "maybe"})


@pytest.mark.parametrize("event_type", ["my.type", "user.messages", "x"])
@pytest.mark.parametrize("data", [None, [], "text", {"any": "thing"}])
def test_types_of_ones_own_take_any_data(event_type: str, data: object) -> None:
    check_standard(event_type, data)


# --- names ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["a", "a1", "a_b.c", "z" * 128, "a..b", "a."])
def test_names_of_the_right_form_are_types(name: str) -> None:
    assert TYPE_PATTERN.fullmatch(name)


@pytest.mark.parametrize("name", ["", "A", "1a", ".a", "_a", "a-b", "a b", "a\n", "ä", "a٣", "z" * 129, "a\x00"])
def test_names_of_another_form_are_no_types(name: str) -> None:
    assert TYPE_PATTERN.fullmatch(name) is None


@pytest.mark.parametrize("name", ["a", "user:42/x+y-z", "A.B_c", "a" * 128])
def test_opaque_ids_are_actors(name: str) -> None:
    assert ACTOR_PATTERN.fullmatch(name)


@pytest.mark.parametrize("name", ["", "ada@example.org", "a b", "ä", "a" * 129, "a\n", "a٣"])
def test_addresses_and_unprintable_names_are_no_actors(name: str) -> None:
    assert ACTOR_PATTERN.fullmatch(name) is None


RESERVED = [
    "session.forked",
    "session.anything",
    "lease.acquired",
    "step.started",
    "wait.started",
    "checkpoint",
    "summary",
]


@pytest.mark.parametrize("event_type", RESERVED)
def test_reserved_types_are_written_only_by_their_own_verbs(event_type: str) -> None:
    assert is_reserved(event_type)
    with pytest.raises(InvalidEventError, match=f"'{event_type}' are written only by .*nothing was written"):
        check_reserved(event_type)
    new = NewEvent(event_type, whole(event_type) if event_type in STANDARD_TYPES else {})
    for own_verb in (True, False):
        arguments: dict[str, Any] = {"draw": bytes, "read_cause": str.encode, "body_bytes_max": 1_000}
        if own_verb:
            assert prepare_batch([new], own_verb=True, **arguments)[0].type == event_type
        else:
            with pytest.raises(InvalidEventError, match="written only by"):
                prepare_batch([new], **arguments)


@pytest.mark.parametrize(
    "event_type", ["sessions.x", "session", "steps", "checkpoints", "checkpoint.x", "signal", "note"]
)
def test_types_that_only_look_like_reserved_ones_are_free(event_type: str) -> None:
    assert not is_reserved(event_type)
    check_reserved(event_type)
