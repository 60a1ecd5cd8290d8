"""Times, places and addresses: what is read, what is refused, and what comes back from a round trip."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from everlog.core import limits
from everlog.core.position import (
    Address,
    CheckpointPlace,
    CutPlace,
    EndPlace,
    EventPlace,
    Place,
    StartPlace,
    TimePlace,
    check_checkpoint_name,
    check_session_id,
    format_address,
    format_micros,
    from_micros,
    is_branch_name,
    parse_address,
    parse_event_id,
    parse_place,
    parse_time,
    to_micros,
)
from everlog.errors import InvalidPlaceError, LimitError

SECOND = 1_000_000
NOW = 1_795_428_000 * SECOND  # 2026-11-23T10:00Z
WRITER = "0123456789abcdef" * 2
FIRST_MICROS = to_micros(datetime.min.replace(tzinfo=UTC))
LAST_MICROS = to_micros(datetime.max.replace(tzinfo=UTC))

moderate = settings(max_examples=60, deadline=None)
micros_of_the_calendar = st.integers(FIRST_MICROS, LAST_MICROS)
session_ids = st.text(min_size=1, max_size=20).filter(str.isprintable)
branch_names = st.from_regex(r"b[0-9]{1,9}|[0-9a-f]{8,32}", fullmatch=True)
place_texts = st.sampled_from(["17", "-3", "-2h", "tests-green", "start", "2026-11-23T10:00+01:00", "a@b~c%"])


# --- times ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2026-11-23T10:00Z", NOW),
        ("2026-11-23T10:00:00Z", NOW),
        ("2026-11-23T11:00+01:00", NOW),
        ("2026-11-23T04:30-05:30", NOW),
        ("2026-11-23T10:00:00.000001Z", NOW + 1),
        ("2026-11-23T10:00:00.5+00:00", NOW + SECOND // 2),
        ("-500ms", NOW - SECOND // 2),
        ("-45s", NOW - 45 * SECOND),
        ("-30m", NOW - 1_800 * SECOND),
        ("-2h", NOW - 7_200 * SECOND),
        ("2h", NOW - 7_200 * SECOND),
        ("-3d", NOW - 259_200 * SECOND),
        ("-1w", NOW - 604_800 * SECOND),
        ("-0s", NOW),
    ],
)
def test_times_with_a_zone_and_times_ago_are_read(text: str, micros: int) -> None:
    assert parse_time(text, now=NOW) == micros


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2026-11-23T10:00", NOW),
        ("2026-11-23", NOW - 36_000 * SECOND),
        ("2026-11-23T11:00+01:00", NOW),
    ],
)
def test_a_time_without_zone_is_utc_only_where_that_is_asked_for(text: str, micros: int) -> None:
    assert parse_time(text, now=NOW, naive_is_utc=True) == micros
    if "+" not in text:
        with pytest.raises(InvalidPlaceError, match="has no zone"):
            parse_time(text, now=NOW)


@pytest.mark.parametrize("text", ["2026-11-23", "20261123", "2026-11-23T10:00", "2026-11-23T10:00:00.25"])
def test_the_time_that_a_refused_naive_time_is_told_to_write_is_taken(text: str) -> None:
    with pytest.raises(InvalidPlaceError) as caught:
        parse_time(text, now=NOW)
    advice = re.search(r"write (\S+) for UTC", caught.value.message)
    assert advice is not None
    assert parse_time(advice[1], now=NOW) == parse_time(text, now=NOW, naive_is_utc=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "2",
        "-2",
        "- 2h",
        "--2h",
        "2 h",
        "-2y",
        "1.5h",
        "٢h",
        "tomorrow",
        "2026-13-01T00:00Z",
        "\ud800",
        "10:00Z",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidPlaceError, match="is no time"):
        parse_time(text, now=NOW)


@pytest.mark.parametrize("text", ["-999999999w", "0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00"])
def test_a_time_outside_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(InvalidPlaceError, match="outside the calendar"):
        parse_time(text, now=NOW)


@moderate
@given(micros_of_the_calendar)
@example(FIRST_MICROS)
@example(LAST_MICROS)
@example(-1)
def test_microseconds_survive_datetimes_and_texts_exactly(micros: int) -> None:
    assert to_micros(from_micros(micros)) == micros
    assert parse_time(format_micros(micros), now=0) == micros
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", format_micros(micros))


def test_microseconds_of_another_zone_are_those_of_utc() -> None:
    assert to_micros(datetime(2026, 11, 23, 11, 0, tzinfo=timezone(timedelta(hours=1)))) == NOW
    assert from_micros(NOW).tzinfo is UTC
    with pytest.raises(InvalidPlaceError, match="has no zone"):
        to_micros(datetime(2026, 11, 23, 10, 0))  # the refused


# --- places --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "place"),
    [
        (17, CutPlace(17)),
        (-3, CutPlace(-3)),
        ("17", CutPlace(17)),
        ("-2", CutPlace(-2)),
        ("-2h", TimePlace(NOW - 7_200 * SECOND)),
        ("2026-11-23T10:00Z", TimePlace(NOW)),
        (from_micros(NOW), TimePlace(NOW)),
        ("now", TimePlace(NOW)),
        ("start", StartPlace()),
        ("end", EndPlace()),
        (f"ev_{WRITER}_5", EventPlace(WRITER, 5)),
        ("tests-green", CheckpointPlace("tests-green")),
        ("v1.2_rc", CheckpointPlace("v1.2_rc")),
        ("h2", CheckpointPlace("h2")),
        ("Start", CheckpointPlace("Start")),
    ],
)
def test_every_form_of_place_is_told_from_the_others(value: int | str | datetime, place: Place) -> None:
    assert parse_place(value, now=NOW) == place


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "+3",
        "--2",
        "tests green",
        "9x",
        "٣",
        "a" * 129,
        "a@b",
        "9" * 17,
        True,
        1.5,
        None,
        b"17",
        10**30,
    ],
)
def test_what_is_no_place_is_refused_with_the_list_of_places(value: object) -> None:
    with pytest.raises(InvalidPlaceError, match=r"a place is a position .*, start or end"):
        parse_place(value, now=NOW)


@pytest.mark.parametrize("text", ["ev_", "ev_x", f"ev_{WRITER}", f"ev_{WRITER}_-1", f"ev_{WRITER.upper()}_1"])
def test_a_broken_event_id_is_no_checkpoint(text: str) -> None:
    assert parse_event_id(text) is None
    with pytest.raises(InvalidPlaceError, match="no event's id"):
        parse_place(text, now=NOW)


def test_a_place_in_time_without_zone_follows_the_same_rule() -> None:
    assert parse_place("2026-11-23T10:00", now=0, naive_is_utc=True) == TimePlace(NOW)
    with pytest.raises(InvalidPlaceError, match="has no zone"):
        parse_place("2026-11-23T10:00", now=0)


@moderate
@given(st.text(max_size=30) | st.from_regex(r"[-0-9TZ:.+hdwms]{1,20}", fullmatch=True), st.booleans())
def test_any_text_is_a_place_or_an_invalid_place(text: str, naive_is_utc: bool) -> None:
    with contextlib.suppress(InvalidPlaceError):
        parse_place(text, now=NOW, naive_is_utc=naive_is_utc)


@moderate
@given(st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,20}", fullmatch=True))
def test_a_name_that_may_be_given_to_a_checkpoint_names_it(name: str) -> None:
    try:
        check_checkpoint_name(name)
    except InvalidPlaceError:
        assert name in ("start", "end", "now") or name.startswith("ev_")
    else:
        assert parse_place(name, now=NOW) == CheckpointPlace(name)


@pytest.mark.parametrize("name", ["start", "end", "now", "ev_1", "", "1a", "-a", "a b", "é", "a\n", "a" * 129, 7, None])
def test_a_name_that_would_be_another_place_is_refused_for_a_checkpoint(name: object) -> None:
    with pytest.raises(InvalidPlaceError, match="nothing was written"):
        check_checkpoint_name(name)


# --- sessions and addresses ----------------------------------------------------------------------
@pytest.mark.parametrize("name", ["run-42", "a b", "日本", "%@~", "x" * limits.SESSION_ID_CHARACTERS_MAX])
def test_printable_session_ids_are_taken(name: str) -> None:
    check_session_id(name)


@pytest.mark.parametrize("name", ["", "a\n", "\0", "\ud800", "a\u2028", 5, None])
def test_unprintable_session_ids_are_refused(name: object) -> None:
    with pytest.raises(InvalidPlaceError):
        check_session_id(name)


def test_a_session_id_past_its_limit_is_a_limit_error() -> None:
    with pytest.raises(LimitError, match="257 characters where 256"):
        check_session_id("x" * 257)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("run-42", Address("run-42")),
        ("run-42@17", Address("run-42", None, "17")),
        ("run-42~b2@-3", Address("run-42", "b2", "-3")),
        ("run-42~0123abcd", Address("run-42", "0123abcd")),
        ("a%20b%40c%7Ed%25", Address("a b@c~d%")),
        ("%C3%A9", Address("é")),
        ("é", Address("é")),
        ("a@2026-11-23T10:00+01:00", Address("a", None, "2026-11-23T10:00+01:00")),
    ],
)
def test_addresses_are_taken_apart(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "@17",
        "~b2",
        "a~",
        "a~@3",
        "a~x",
        "a~b",
        "a~0123abc",
        "a~b1~b2",
        "a@",
        "a%00",
        "a%ff",
        "a%ED%A0%80",
        "\ud800",
    ],
)
def test_broken_addresses_are_refused(text: str) -> None:
    with pytest.raises(InvalidPlaceError):
        parse_address(text)


@moderate
@given(session_ids, st.none() | branch_names, st.none() | place_texts)
@example("a%20b", None, None)
@example("~b2@3", "b2", "a@b")
def test_a_formatted_address_reads_back_as_it_was(session: str, branch: str | None, place: str | None) -> None:
    text = format_address(session, branch, place)
    assert parse_address(text) == Address(session, branch, place)
    assert " " not in format_address(session)


@moderate
@given(st.text(max_size=40) | st.from_regex(r"[a%~@0-9A-Fb]{1,20}", fullmatch=True))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except InvalidPlaceError:
        return
    check_session_id(address.session)
    assert address.branch is None or is_branch_name(address.branch)
    assert address.place is None or address.place
