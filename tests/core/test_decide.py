"""Deciding an append: keys first, then `expected`, then rows that the next one can be checked against (FORMAT §3)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlog.core.decide import (
    Batch,
    EventRow,
    Expected,
    RecordedEvents,
    StaleExpectationError,
    Tip,
    decide_append,
    event_of,
    header_of,
)
from everlog.core.event import Cause, NewEvent, PreparedEvent
from everlog.core.header import commit_key, encode_header
from everlog.core.merkle import leaf_hash, push_leaf, root_of_peaks
from everlog.core.prepare import prepare_batch
from everlog.errors import KeyReusedError

WRITER = "cd" * 16
BRANCH = "ef" * 16
KEY_SALT = b"k" * 32


def empty_tip() -> Tip:
    return Tip(1, "ab" * 16, "s", 1, BRANCH, WRITER, 0, [], None, 0, KEY_SALT)


def prepared(*events: NewEvent, key: str | None = None) -> tuple[PreparedEvent, ...]:
    return prepare_batch(events, draw=bytes, read_cause=str.encode, body_bytes_max=10_000, key=key)


def note(content: str = "x", **members: Any) -> NewEvent:
    return NewEvent("note", {"content": content}, **members)


def batch(*events: NewEvent, key: str | None = None, **members: Any) -> Batch:
    return Batch(prepared(*events, key=key), key=key, **members)


def append(tip: Tip, *events: NewEvent, now: int = 100, recorded: Any = None, **members: Any) -> list[EventRow]:
    known = {key: RecordedEvents(WRITER, rows) for key, rows in (recorded or {}).items()}
    return decide_append(tip, batch(*events, **members), known, now=now).rows


def snapshot(tip: Tip) -> bytes:
    return msgspec.json.encode(tip)


# --- rows ----------------------------------------------------------------------------------------
new_events = st.builds(
    NewEvent,
    st.sampled_from(["my.fact", "a", "x.y_z"]),
    st.none() | st.integers(-5, 5) | st.dictionaries(st.text("ab"), st.text("é\x00")),
    rationale=st.none() | st.text("why"),
    actor=st.none() | st.sampled_from(["ada", "user:1"]),
    outcome=st.none() | st.sampled_from(["ok", "error"]),
    attachments=st.none() | st.just({"a.txt": b"1", "b.txt": b"22"}),
    occurred_at=st.none() | st.integers(-(2**53) + 1, 2**53 - 1),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(new_events, min_size=1, max_size=4), max_size=5),
    st.lists(st.integers(0, 1_000), min_size=5, max_size=5),
)
def test_every_rows_leaf_is_that_of_the_header_rebuilt_from_its_columns(
    appends: list[list[NewEvent]], clock: list[int]
) -> None:
    tip, rows = empty_tip(), []
    for number, (events, now) in enumerate(zip(appends, clock, strict=False)):
        rows += append(tip, *events, now=now, key=f"key {number}")
    peaks: list[bytes] = []
    previous = None
    latest = 0
    for position, row in enumerate(rows):
        assert row.position == position
        assert row.recorded is not None and row.recorded >= latest, "time never goes back"
        header = header_of(row, writer=WRITER, previous=previous, key_salt=KEY_SALT)
        assert row.leaf == leaf_hash(encode_header(header))
        assert row.nodes == push_leaf(peaks, position, row.leaf)
        previous, latest = row.leaf, row.recorded
    assert (tip.size, tip.peaks, tip.leaf, tip.recorded) == (len(rows), peaks, previous, latest)
    assert tip.head().root == root_of_peaks(peaks).hex()
    assert tip.head().size == len(rows)


def test_a_clock_that_went_back_gives_the_time_of_the_event_before() -> None:
    tip = empty_tip()
    times = [append(tip, note(), now=now)[0].recorded for now in (100, 50, 100, 101)]
    assert times == [100, 100, 100, 101]


@pytest.mark.parametrize(
    "change",
    [
        {"type": "other"},
        {"actor": "eve"},
        {"outcome": "error"},
        {"recorded": 101},
        {"occurred": 6},
        {"position": 1},
        {"key": "another"},
        {"key_count": 2},
        {"commitments": b"c" * 32},
        {"cause": Cause(WRITER, 0, b"L" * 32).pack()},
        {"covers": '[[0,2,"' + "a" * 64 + '"]]'},
    ],
)
def test_any_changed_column_changes_the_leaf(change: dict[str, Any]) -> None:
    row = append(empty_tip(), note(actor="ada", outcome="ok", occurred_at=5, key="k"))[0]
    changed = msgspec.structs.replace(row, **change)
    header = header_of(changed, writer=WRITER, previous=None, key_salt=KEY_SALT)
    assert leaf_hash(encode_header(header)) != row.leaf
    same = header_of(row, writer=WRITER, previous=None, key_salt=KEY_SALT)
    assert leaf_hash(encode_header(same)) == row.leaf
    for writer, previous, salt in [
        ("0" * 32, None, KEY_SALT),
        (WRITER, b"p" * 32, KEY_SALT),
        (WRITER, None, b"s" * 32),
    ]:
        other = header_of(row, writer=writer, previous=previous, key_salt=salt)
        assert leaf_hash(encode_header(other)) != row.leaf


def test_a_key_known_only_by_its_hash_gives_the_same_header() -> None:
    row = append(empty_tip(), note(key="k"))[0]
    hashed = msgspec.structs.replace(row, key=None, key_hash=commit_key(KEY_SALT, "k"))
    headers = [header_of(one, writer=WRITER, previous=None, key_salt=KEY_SALT) for one in (row, hashed)]
    assert headers[0] == headers[1]


@pytest.mark.parametrize("gone", [{"type": None}, {"recorded": None}, {"commitments": None}])
def test_a_deleted_row_has_no_header(gone: dict[str, Any]) -> None:
    row = msgspec.structs.replace(append(empty_tip(), note())[0], **gone)
    with pytest.raises(ValueError, match="columns were destroyed"):
        header_of(row, writer=WRITER, previous=None, key_salt=KEY_SALT)


def test_an_event_shows_what_its_row_holds() -> None:
    row = append(empty_tip(), note("hello", actor="ada", key="k", attachments={"a": b"12"}), now=7)[0]
    event = event_of(row, session="s", branch_id=BRANCH, writer=WRITER)
    assert (event.session, event.branch, event.id) == ("s", BRANCH, f"ev_{WRITER}_0")
    assert (event.data, event.actor, event.key, event.recorded_micros) == ({"content": "hello"}, "ada", "k", 7)
    assert [(item.name, item.size) for item in event.attachments] == [("a", 2)]
    assert event.hash == row.leaf.hex()


# --- expected ------------------------------------------------------------------------------------
def test_an_append_where_the_writer_expected_it_is_recorded() -> None:
    tip = empty_tip()
    append(tip, note(), expected=Expected(BRANCH, 0, None))
    append(tip, note(), expected=Expected(BRANCH, 1, None))
    rows = append(tip, note(), expected=Expected(BRANCH, 2, tip.head().root))
    assert rows[0].position == 2


@pytest.mark.parametrize(
    "expected",
    [Expected(BRANCH, 0, None), Expected(BRANCH, 2, None), Expected("00" * 16, 1, None), Expected(BRANCH, 1, "0" * 64)],
    ids=["an older size", "a size to come", "another branch", "another root"],
)
def test_an_append_elsewhere_than_expected_is_refused_and_changes_nothing(expected: Expected) -> None:
    tip = empty_tip()
    append(tip, note())
    before = snapshot(tip)
    with pytest.raises(StaleExpectationError) as stale:
        append(tip, note(), expected=expected)
    assert (stale.value.branch_id, stale.value.head) == (BRANCH, tip.head())
    assert snapshot(tip) == before


# --- keys ----------------------------------------------------------------------------------------
def test_a_repeat_gives_the_recorded_row_and_changes_nothing() -> None:
    tip = empty_tip()
    first = append(tip, note(key="k"))
    append(tip, note("later"))
    before = snapshot(tip)
    assert append(tip, note(key="k"), recorded={"k": first}, now=999) == first
    assert snapshot(tip) == before


def test_a_repeat_is_answered_even_where_the_writer_expected_another_size() -> None:
    tip = empty_tip()
    first = append(tip, note(key="k"), expected=Expected(BRANCH, 0, None))
    assert append(tip, note(key="k"), recorded={"k": first}, expected=Expected(BRANCH, 0, None)) == first
    rows = append(tip, note("a"), note("b"), key="all")
    again = append(tip, note("a"), note("b"), key="all", recorded={"all": rows}, expected=Expected("00" * 16, 77, None))
    assert again == rows


def test_a_repeat_of_what_was_erased_since_is_still_a_repeat() -> None:
    tip = empty_tip()
    erased = [msgspec.structs.replace(row, body=None, salt=None, gone=1) for row in append(tip, note(key="k"))]
    assert append(tip, note(key="k"), recorded={"k": erased}) == erased
    with pytest.raises(KeyReusedError, match="recorded another type"):
        append(tip, NewEvent("my.note", {}, key="k"), recorded={"k": erased})


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (note("another"), "body"),
        (note(rationale="why"), "body"),
        (NewEvent("my.note", {"content": "x"}), "type"),
        (note(actor="eve"), "actor"),
        (note(outcome="error"), "outcome"),
        (note(occurred_at=6), "occurred_at"),
        (note(attachments={"a": b""}), "attachments"),
    ],
)
def test_a_key_used_again_for_something_else_is_refused(other: NewEvent, what: str) -> None:
    tip = empty_tip()
    first = append(tip, note(key="k"))
    before = snapshot(tip)
    with pytest.raises(
        KeyReusedError, match=f"key 'k' was used at position 0 .* another {what}; nothing was written"
    ) as reused:
        append(tip, msgspec.structs.replace(other, key="k"), recorded={"k": first})
    assert reused.value.event is not None and reused.value.event.hash == first[0].leaf.hex()
    assert snapshot(tip) == before


def test_a_key_of_a_whole_append_stands_in_its_first_event_with_the_number_it_covers() -> None:
    tip = empty_tip()
    rows = append(tip, note("a"), note("b", key="own"), note("c"), key="all")
    assert [(row.key, row.key_count) for row in rows] == [("all", 3), ("own", None), (None, None)]
    single = append(tip, note("d"), key="one")
    assert [(row.key, row.key_count) for row in single] == [("one", None)]


def test_a_key_of_a_whole_append_repeats_only_the_same_append() -> None:
    tip = empty_tip()
    rows = append(tip, note("a"), note("b"), key="all")
    for events, says in [
        ((note("a"),), "covered 2 events, and this append has 1"),
        ((note("a"), note("b"), note("c")), "covered 2 events, and this append has 3"),
        ((note("a"), note("c")), "recorded another body"),
    ]:
        with pytest.raises(KeyReusedError, match=says):
            append(tip, *events, key="all", recorded={"all": rows})
    with pytest.raises(KeyReusedError, match="covered an append of 2 events"):
        append(tip, note("a", key="all"), recorded={"all": rows})


def test_an_append_of_which_some_events_are_recorded_is_refused_or_skips_them() -> None:
    tip = empty_tip()
    first = append(tip, note("a", key="a"))
    events = (note("a", key="a"), note("b", key="b"), note("c"))
    before = snapshot(tip)
    with pytest.raises(KeyReusedError, match=r"1 of the append's 3 events are recorded.*repeats='skip'"):
        append(tip, *events, recorded={"a": first})
    assert snapshot(tip) == before
    rows = append(tip, *events, recorded={"a": first}, repeats="skip")
    assert [row.position for row in rows] == [0, 1, 2]
    assert rows[0] == first[0]
    with pytest.raises(KeyReusedError, match="another body"):
        append(tip, note("other", key="a"), note("d"), recorded={"a": first}, repeats="skip")


def test_an_append_that_skips_repeats_must_still_be_where_the_writer_expected_it() -> None:
    tip = empty_tip()
    first = append(tip, note("a", key="a"))
    with pytest.raises(StaleExpectationError):
        append(
            tip,
            note("a", key="a"),
            note("b"),
            recorded={"a": first},
            repeats="skip",
            expected=Expected(BRANCH, 0, None),
        )
    assert tip.size == 1


def test_a_repeat_says_under_which_writer_its_events_were_recorded() -> None:
    tip = empty_tip()
    first = append(tip, note("a", key="a"))
    decided = decide_append(
        tip,
        batch(note("a", key="a"), note("b"), repeats="skip"),
        {"a": RecordedEvents("99" * 16, first)},
        now=1,
    )
    assert [decided.writers.get(row.position) for row in decided.rows] == ["99" * 16, None]
