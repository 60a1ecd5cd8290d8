"""From NewEvent to PreparedEvent: every check on an event, its body's bytes, its salts and its commitments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlog.core import limits
from everlog.core.event import OUTCOMES, Cause, Event, NewEvent, PreparedEvent, decode_body
from everlog.core.header import commit_attachment, commit_body
from everlog.core.prepare import check_key, finish_body, prepare_batch
from everlog.errors import EverlogError, InvalidEventError, LimitError

WRITER = "ab" * 16
CAUSE = Cause(WRITER, 7, b"\x07" * 32)


def draws() -> Any:
    """Random bytes that are not: each draw is another, and says its number."""
    numbers = count(1)

    def draw(size: int) -> bytes:
        number = next(numbers)
        return b"".join(bytes([number, at // 32]) + bytes(30) for at in range(0, size, 32))[:size]

    return draw


def read_cause(event_id: str) -> bytes:
    assert event_id == CAUSE.id
    return CAUSE.pack()


def prepare(*events: NewEvent, key: str | None = None, body_bytes_max: int = 10_000) -> Sequence[PreparedEvent]:
    return prepare_batch(events, draw=draws(), read_cause=read_cause, body_bytes_max=body_bytes_max, key=key)


def event(**members: Any) -> NewEvent:
    return NewEvent(members.pop("type", "my.fact"), members.pop("data", None), **members)


# --- bodies --------------------------------------------------------------------------------------
def test_the_body_holds_what_was_given_and_leaves_out_what_was_not() -> None:
    assert prepare(event())[0].body == b"{}"
    assert prepare(event(data=[1, "é"]))[0].body == '{"data":[1,"é"]}'.encode()
    full = prepare(event(data={"b": 1, "a": 2}, rationale="why", metadata={"m": None}))[0]
    assert full.body == b'{"data":{"b":1,"a":2},"rationale":"why","metadata":{"m":null}}'


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc~/é\x00"), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(
    json_values,
    st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    st.none() | st.dictionaries(st.text("xy"), json_values),
)
def test_a_body_decodes_to_what_was_given(data: Any, rationale: str | None, metadata: dict[str, Any] | None) -> None:
    body = decode_body(prepare(event(data=data, rationale=rationale, metadata=metadata))[0].body)
    assert (body.data, body.rationale, body.metadata, body.state) == (data, rationale, metadata, None)


def test_the_commitments_are_those_of_the_body_and_then_of_each_attachment() -> None:
    prepared = prepare(event(data=1, attachments={"b.txt": b"bee", "a.txt": memoryview(b"ay")}))[0]
    salts = [prepared.salt, *(item.salt for item in prepared.attachments)]
    assert len(set(salts)) == 3
    assert all(salt is not None and len(salt) == 32 for salt in salts)
    assert [(item.name, item.size, item.content) for item in prepared.attachments] == [
        ("b.txt", 3, b"bee"),
        ("a.txt", 2, b"ay"),
    ]
    expected = commit_body(prepared.salt, prepared.body)
    expected += commit_attachment(prepared.attachments[0].salt or b"", "b.txt", b"bee")
    expected += commit_attachment(prepared.attachments[1].salt or b"", "a.txt", b"ay")
    assert prepared.commitments == expected
    assert prepared.bytes_held == len(prepared.body) + 5


def test_each_event_of_an_append_has_a_salt_of_its_own() -> None:
    prepared = prepare(*(event(data="same") for _ in range(20)))
    assert len({one.salt for one in prepared}) == 20
    assert len({one.commitments for one in prepared}) == 20


def test_a_body_past_the_stores_bound_is_refused_and_one_at_it_is_taken() -> None:
    fits = event(data="x" * 88)
    assert len(prepare(fits, body_bytes_max=100)[0].body) == 99
    assert len(prepare(event(data="x" * 89), body_bytes_max=100)[0].body) == 100
    with pytest.raises(LimitError, match=r"101 bytes where 100 is the most.*nothing was written"):
        prepare(event(data="x" * 90), body_bytes_max=100)


def test_a_body_that_was_checked_before_can_carry_a_state_hash() -> None:
    from everlog.core.event import StateHash

    body = finish_body({"a": 1}, None, None, StateHash("plan", 3, "f" * 64), 1_000)
    assert json.loads(body) == {"data": {"a": 1}, "state": {"reducer": "plan", "version": 3, "hash": "f" * 64}}


# --- columns -------------------------------------------------------------------------------------
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_is_kept(outcome: str) -> None:
    assert prepare(event(outcome=outcome))[0].outcome == outcome


def test_times_are_kept_in_microseconds() -> None:
    moment = datetime(2026, 11, 23, 10, tzinfo=UTC)
    assert prepare(event(occurred_at=moment))[0].occurred == 1_795_428_000_000_000
    shifted = moment.astimezone(timezone(timedelta(hours=-5)))
    assert prepare(event(occurred_at=shifted))[0].occurred == 1_795_428_000_000_000
    for micros in (0, -5, limits.SAFE_INTEGER_MAX, -limits.SAFE_INTEGER_MAX):
        assert prepare(event(occurred_at=micros))[0].occurred == micros


def test_a_cause_is_kept_by_where_it_was_written_and_its_leaf() -> None:
    by_id = prepare(event(caused_by=CAUSE.id))[0]
    recorded = Event("s", "b", WRITER, 7, "x", None, None, 0, None, None, None, None, None, CAUSE.leaf, b"{}")
    assert by_id.cause == prepare(event(caused_by=recorded))[0].cause == CAUSE.pack()
    assert Cause.unpack(CAUSE.pack()) == CAUSE


REFUSED: list[tuple[dict[str, Any], type[EverlogError], str]] = [
    ({"type": "Not.Lower"}, InvalidEventError, "type 'Not.Lower' is not of the form"),
    ({"type": 5}, InvalidEventError, "type 5 is not of the form"),
    ({"type": "a" * 129}, InvalidEventError, "at most 128 characters"),
    ({"type": "session.forked"}, InvalidEventError, r"written only by fork\(\)"),
    ({"type": "user.message", "data": {}}, InvalidEventError, "lacks 'content'"),
    ({"actor": "ada@example.org"}, InvalidEventError, "never an e-mail address"),
    ({"actor": ""}, InvalidEventError, "actor '' is not of the form"),
    ({"actor": 5}, InvalidEventError, "actor 5 is not of the form"),
    ({"outcome": "fine"}, InvalidEventError, "none of ok error denied"),
    ({"outcome": ["ok"]}, InvalidEventError, "none of ok error denied"),
    ({"data": float("nan")}, InvalidEventError, "^data is nan"),
    ({"data": {"a": ["\ud800"]}}, InvalidEventError, "^data/a/0 holds a lone surrogate"),
    ({"data": {"a": [{1, 2}]}}, InvalidEventError, "^data/a/0 is of type set"),
    ({"rationale": "\udfff"}, InvalidEventError, "^rationale holds a lone surrogate"),
    ({"rationale": 5}, InvalidEventError, "rationale is a int where it takes a string"),
    ({"rationale": "x" * (limits.RATIONALE_BYTES_MAX + 1)}, LimitError, "rationale has"),
    ({"metadata": [1]}, InvalidEventError, "metadata is a list where it takes an object"),
    ({"metadata": {"a": 2**64}}, InvalidEventError, r"^metadata/a is an integer of 2\^64"),
    ({"metadata": {"a": "\ud800"}}, InvalidEventError, "^metadata/a holds a lone surrogate"),
    ({"metadata": {1: 2}}, InvalidEventError, "metadata has the key 1"),
    ({"occurred_at": datetime(2026, 11, 23)}, EverlogError, "zone"),
    ({"occurred_at": "2026"}, InvalidEventError, "occurred_at '2026' is neither"),
    ({"occurred_at": 1.5}, InvalidEventError, "occurred_at 1.5 is neither"),
    ({"occurred_at": True}, InvalidEventError, "occurred_at True is neither"),
    ({"occurred_at": 2**53}, InvalidEventError, "occurred_at 9007199254740992 is neither"),
    ({"caused_by": 5}, InvalidEventError, "caused_by is a int"),
    ({"key": ""}, InvalidEventError, "at least one character"),
    ({"key": 5}, InvalidEventError, "key 5 is not a string"),
    ({"key": "a\x00"}, InvalidEventError, "NUL"),
    ({"key": "\ud800"}, InvalidEventError, "lone surrogate"),
    ({"key": "é" * 257}, LimitError, "514 bytes where 512"),
    ({"attachments": {"": b""}}, InvalidEventError, "attachment name ''"),
    ({"attachments": {"a/b": b""}}, InvalidEventError, "without a slash"),
    ({"attachments": {"a\nb": b""}}, InvalidEventError, "printable"),
    ({"attachments": {"a\x00b": b""}}, InvalidEventError, "printable"),
    ({"attachments": {"é" * 128: b""}}, InvalidEventError, "1 to 255 bytes"),
    ({"attachments": {"\ud800": b""}}, InvalidEventError, "printable"),
    ({"attachments": {5: b""}}, InvalidEventError, "attachment name 5"),
    ({"attachments": {"a.txt": "text"}}, InvalidEventError, "'a.txt' is a str where it takes bytes"),
    ({"attachments": {str(n): b"" for n in range(17)}}, LimitError, "17 attachments where 16"),
]


@pytest.mark.parametrize(("members", "kind", "says"), REFUSED)
def test_what_is_refused_says_what_and_that_nothing_was_written(
    members: dict[str, Any], kind: type[EverlogError], says: str
) -> None:
    with pytest.raises(kind, match=says) as refused:
        prepare(event(**members))
    assert isinstance(refused.value, EverlogError)
    if not isinstance(members.get("occurred_at"), datetime):
        assert "nothing was written" in str(refused.value)


@pytest.mark.parametrize("given_instead", [("note", {}), {"type": "note"}, "note", None])
def test_what_is_no_new_event_is_refused(given_instead: Any) -> None:
    with pytest.raises(InvalidEventError, match="is no NewEvent; nothing was written"):
        prepare(given_instead)


def test_an_attachment_past_its_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ATTACHMENT_BYTES_MAX", 4)
    assert prepare(event(attachments={"a": b"1234"}))
    with pytest.raises(LimitError, match="'a' has 5 bytes where 4 is the most"):
        prepare(event(attachments={"a": b"12345"}))


def test_metadata_may_be_any_mapping_of_json() -> None:
    assert prepare(event(metadata=MappingProxyType({"a": 1})))[0].body == b'{"metadata":{"a":1}}'


# --- appends of several --------------------------------------------------------------------------
def test_a_refusal_in_an_append_of_several_names_the_events_index() -> None:
    with pytest.raises(InvalidEventError, match="^event 1 of 3: data is nan"):
        prepare(event(), event(data=float("nan")), event())
    with pytest.raises(LimitError, match="^event 2 of 3: the body has"):
        prepare(event(), event(), event(data="x" * 10_001))


def test_an_append_past_its_number_of_events_or_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "APPEND_EVENTS_MAX", 3)
    assert len(prepare(*[event()] * 3)) == 3
    with pytest.raises(LimitError, match="holds 4 events where 3"):
        prepare(*[event()] * 4)
    monkeypatch.setattr(limits, "APPEND_BYTES_MAX", 20)
    assert len(prepare(event(data=1), event(data=2))) == 2
    with pytest.raises(LimitError, match="holds 24 bytes where 20"):
        prepare(event(data=123), event(data=456))
    with pytest.raises(LimitError, match="holds 27 bytes where 20"):
        prepare(event(data=1), event(data=1, attachments={"a": b"1234567"}))


def test_a_key_stands_once_in_an_append() -> None:
    prepared = prepare(event(key="a"), event(), event(key="b"))
    assert [one.key for one in prepared] == ["a", None, "b"]
    with pytest.raises(InvalidEventError, match="key 'a' stands twice"):
        prepare(event(key="a"), event(), event(key="a"))
    with pytest.raises(InvalidEventError, match="key 'all' stands twice"):
        prepare(event(), event(key="all"), key="all")
    with pytest.raises(InvalidEventError, match="one event holds one key"):
        prepare(event(key="a"), event(), key="all")
    assert prepare(event(), event(key="b"), key="all")[1].key == "b"


@pytest.mark.parametrize("key", ["a", "x" * 512, "é" * 256, "a b\n", "😀"])
def test_keys_are_any_text_within_their_bound(key: str) -> None:
    check_key(key)
    assert prepare(event(key=key))[0].key == key
    prepare(event(), key=key)
