"""Times, places and addresses: how a caller names a moment, a cut of a branch, or a session anywhere. Pure: `now` is given.

1. A *cut* is a gap between events: an integer p keeps [0, p); a negative one counts from the end.
2. A relative time always has a unit, so `-2` is a position and `-2h` a time.
3. `SESSION[~BRANCH][@PLACE]` says it all in one word; `%`, `@`, `~`, spaces and control characters in an id are
   percent-encoded there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import unquote_to_bytes

from everlog.core import limits
from everlog.errors import InvalidPlaceError, LimitError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_CALENDAR_MICROS: Final = (-62_135_596_800_000_000, 253_402_300_799_999_999)  # datetime's years 1 to 9999
_UNIT_MICROS: Final = {
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60 * 1_000_000,
    "h": 3_600 * 1_000_000,
    "d": 86_400 * 1_000_000,
    "w": 7 * 86_400 * 1_000_000,
}
_AGO: Final = re.compile(r"-?(\d{1,9})(ms|s|m|h|d|w)", re.ASCII)
_INTEGER: Final = re.compile(r"-?\d{1,16}", re.ASCII)
_EVENT_ID: Final = re.compile(r"ev_([0-9a-f]{32})_(\d{1,16})", re.ASCII)
_CHECKPOINT: Final = re.compile(rf"[A-Za-z][A-Za-z0-9._-]{{0,{limits.CHECKPOINT_NAME_CHARACTERS_MAX - 1}}}", re.ASCII)
_BRANCH: Final = re.compile(r"b\d{1,9}|[0-9a-f]{8,32}", re.ASCII)
_PLACE_FORMS: Final = (
    "a position (17, -3), an event's id (ev_…), a checkpoint's name, a time (2026-11-23T10:00Z, -2h), start or end"
)


# --- times ---------------------------------------------------------------------------------------
def to_micros(moment: datetime) -> int:
    """Give an aware datetime as microseconds since 1970 UTC, exactly; InvalidPlaceError without a zone."""
    if moment.utcoffset() is None:
        raise InvalidPlaceError(f"the time {moment.isoformat()} has no zone; give it one, such as tzinfo=timezone.utc")
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Give microseconds since 1970 UTC as an aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def format_micros(micros: int) -> str:
    """Give microseconds since 1970 UTC in RFC 3339, in UTC, with six digits of a second."""
    try:
        # Not strftime: its %Y leaves years below 1000 without their leading zeros on Linux.
        return from_micros(micros).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    except OverflowError:  # a writer's occurred_at may lie outside the calendar
        return f"{micros}us"


def parse_ago(text: str) -> int | None:
    """Give the microseconds of `2h`, `-2h`, `500ms`; None for what is no such duration."""
    match = _AGO.fullmatch(text)
    return None if match is None else int(match[1]) * _UNIT_MICROS[match[2]]


def parse_time(text: str, *, now: int, naive_is_utc: bool = False) -> int:
    """Give the microseconds since 1970 UTC of an ISO 8601 time with a zone, or of a time ago (`-2h`, counted from now).

    naive_is_utc: read a time without a zone as UTC instead of refusing it.
    """
    ago = parse_ago(text)
    if ago is not None:
        return _in_calendar(now - ago, text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidPlaceError(
            f"{text[:100]!r} is no time; write 2026-11-23T10:00Z, or -2h (units: {' '.join(_UNIT_MICROS)})"
        ) from None
    if moment.utcoffset() is None:
        if not naive_is_utc:
            raise InvalidPlaceError(f"the time {text!r} has no zone; write {moment.isoformat()}Z for UTC")
        moment = moment.replace(tzinfo=UTC)
    return _in_calendar(to_micros(moment), text)


def _in_calendar(micros: int, text: str) -> int:
    """Refuse what no datetime can say; it would also pass the 64 bits of a store's column."""
    if not _CALENDAR_MICROS[0] <= micros <= _CALENDAR_MICROS[1]:
        raise InvalidPlaceError(f"the time {text!r} lies outside the calendar; write one of years 1 to 9999")
    return micros


# --- places --------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class CutPlace:
    """The cut that keeps [0, position); negative from the end."""

    position: int


@dataclass(frozen=True, slots=True)
class EventPlace:
    """An event by its id; as a cut, the one before it."""

    writer: str
    position: int


@dataclass(frozen=True, slots=True)
class CheckpointPlace:
    """A checkpoint by its name; as a cut, the one just after its event."""

    name: str


@dataclass(frozen=True, slots=True)
class TimePlace:
    """The cut before the first event recorded at or after a time."""

    micros: int


@dataclass(frozen=True, slots=True)
class StartPlace:
    """The cut before everything."""


@dataclass(frozen=True, slots=True)
class EndPlace:
    """The cut after everything."""


Place = CutPlace | EventPlace | CheckpointPlace | TimePlace | StartPlace | EndPlace


def parse_event_id(text: str) -> EventPlace | None:
    """Read an event's id; None for what is none."""
    match = _EVENT_ID.fullmatch(text)
    return None if match is None else EventPlace(match[1], int(match[2]))


def parse_place(value: object, *, now: int, naive_is_utc: bool = False) -> Place:
    """Read a place: an integer, a datetime with a zone, or a string in one of the forms named in the error."""
    if isinstance(value, datetime):
        return TimePlace(to_micros(value))
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > limits.SAFE_INTEGER_MAX:
            raise InvalidPlaceError(f"position {value} is out of any range; a place is {_PLACE_FORMS}")
        return CutPlace(value)
    if not isinstance(value, str):
        raise InvalidPlaceError(f"{value!r:.100} is no place; a place is {_PLACE_FORMS}")
    if value == "start":
        return StartPlace()
    if value == "end":
        return EndPlace()
    if value == "now":
        return TimePlace(now)
    if _INTEGER.fullmatch(value):
        return CutPlace(int(value))
    if value.startswith("ev_"):
        found = parse_event_id(value)
        if found is None:
            raise InvalidPlaceError(f"{value[:100]!r} is no event's id; one is ev_, 32 hex digits, _ and a position")
        return found
    if _CHECKPOINT.fullmatch(value):
        return CheckpointPlace(value)
    if not value[:1].isdigit() and parse_ago(value) is None:
        raise InvalidPlaceError(f"{value[:100]!r} is no place; a place is {_PLACE_FORMS}")
    try:
        return TimePlace(parse_time(value, now=now, naive_is_utc=naive_is_utc))
    except InvalidPlaceError as error:
        raise InvalidPlaceError(f"{error.message}; a place is {_PLACE_FORMS}") from None


def check_checkpoint_name(name: object) -> None:
    """Refuse what cannot be told from other places, or is no name at all."""
    if (
        not isinstance(name, str)
        or _CHECKPOINT.fullmatch(name) is None
        or name in ("start", "end", "now")
        or name.startswith("ev_")
    ):
        raise InvalidPlaceError(
            f"checkpoint name {name!r:.200} is not of the form [A-Za-z][A-Za-z0-9._-]*, at most "
            f"{limits.CHECKPOINT_NAME_CHARACTERS_MAX} characters, other than start, end, now and ev_…; nothing was written"
        )


# --- sessions and addresses ----------------------------------------------------------------------
def check_session_id(name: object) -> None:
    """Refuse a session id that is not 1 to 256 printable characters."""
    if not isinstance(name, str) or not name or not name.isprintable():
        raise InvalidPlaceError(f"session id {name!r:.300} is not a string of printable characters; nothing was done")
    if len(name) > limits.SESSION_ID_CHARACTERS_MAX:
        raise LimitError(
            f"session id has {len(name)} characters where {limits.SESSION_ID_CHARACTERS_MAX} is the most; nothing was done"
        )


def is_branch_name(text: object) -> bool:
    """Tell whether a text can name a branch: `b2`, or at least 8 hex digits of its id."""
    return isinstance(text, str) and _BRANCH.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Address:
    """`SESSION[~BRANCH][@PLACE]`, taken apart."""

    session: str
    branch: str | None = None
    place: str | None = None


def parse_address(text: str) -> Address:
    """Read an address, decoding the session's id."""
    rest, at, place = text.partition("@")
    encoded, tilde, branch = rest.partition("~")
    try:
        session = unquote_to_bytes(encoded).decode("utf-8")
    except UnicodeError:
        raise InvalidPlaceError(f"address {text[:200]!r} does not decode to UTF-8; encode only what must be") from None
    check_session_id(session)
    if tilde and not is_branch_name(branch):
        raise InvalidPlaceError(
            f"address {text[:200]!r} names branch {branch[:50]!r}; write ~b2, or ~ and at least 8 hex digits of its id"
        )
    if at and not place:
        raise InvalidPlaceError(f"address {text[:200]!r} ends with @; write a place after it: {_PLACE_FORMS}")
    return Address(session, branch if tilde else None, place if at else None)


def format_address(session: str, branch: str | None = None, place: str | int | None = None) -> str:
    """Give the address that `parse_address` reads back."""
    encoded = "".join(
        "".join(f"%{byte:02X}" for byte in character.encode())
        if character in "%@~" or character.isspace() or not character.isprintable()
        else character
        for character in session
    )
    tilde = "" if branch is None else f"~{branch}"
    return f"{encoded}{tilde}" + ("" if place is None else f"@{place}")
