"""What the work of a step asks for, and what drives it on a thread.

The work is a generator: it yields what it needs next and is sent the answer, so that threads and event loops share it.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from hashlib import sha256
from threading import Thread
from typing import Any, Final, Literal, NamedTuple

from everlog.core import limits
from everlog.core.canonical import decode_state
from everlog.core.position import parse_ago
from everlog.core.values import encode_json
from everlog.errors import ConflictError, InvalidEventError, LimitError
from everlog.storage import Append
from everlog.writer import SessionWriter

Policy = Literal["fail", "retry", "ask"]
MICROS: Final = 1_000_000
WAIT_SECONDS: Final = 0.5  # between looks at what a wait is for, where the store gives no news


class Read(NamedTuple):
    """Call a function that reads the store."""

    call: Callable[[], Any]


class Write(NamedTuple):
    """Append."""

    request: Append


class Call(NamedTuple):
    """Call the step's function."""

    effect_key: str
    attempt: int


class Sleep(NamedTuple):
    """Go on at a time of the store's clock, microseconds."""

    until: int


class News(NamedTuple):
    """Go on when something was recorded, or at a time of the store's clock (None for never), or after `patience` seconds."""

    seen: int
    seconds: float


Work = Generator[Read | Write | Call | Sleep | News, Any, Any]


class Step(NamedTuple):
    """A step as it is asked for. retries: more tries after one that raised; backoff: seconds before the first of them, doubled each time."""

    name: str
    input: Any = None
    policy: Policy = "fail"
    retries: int = 0
    backoff: float = 1.0
    kind: str = "step"


class Driven:
    """Work, and how it goes on. value: what it gave, when it is done."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._next: Callable[[], Any] = lambda: next(work)
        self.value: Any = None

    def give(self, value: Any) -> None:
        """Go on with what the function gave."""
        self._next = lambda: self._work.send(value)

    def fail(self, error: BaseException) -> None:
        """Go on with what it raised."""
        self._next = lambda: self._work.throw(error)

    def close(self) -> None:
        """Let the work end where it is."""
        self._work.close()


class Driver(Driven):
    """Drives work on a thread up to where the step's function is called."""

    def __init__(self, session: SessionWriter, work: Work) -> None:
        super().__init__(work)
        self._session = session

    def run(self) -> Call | None:
        """Go on to the next call of the function; None where the work is done."""
        while True:
            try:
                asked = self._next()
            except StopIteration as end:
                self.value = end.value
                return None
            if isinstance(asked, Call):
                return asked
            try:
                self.give(self._do(asked))
            except ConflictError as error:
                self.fail(error)

    def _do(self, asked: Any) -> Any:
        storage = self._session.storage
        match asked:
            case Read():
                return asked.call()
            case Write():
                return self._session.write(asked.request)
            case Sleep():
                while (left := asked.until - storage.now()) > 0:
                    time.sleep(min(left / MICROS, WAIT_SECONDS))
                return None
            case _:
                return storage.wait(asked.seen, asked.seconds)


def check_step(name: object, policy: object, retries: object, backoff: object, timeout: object) -> None:
    """Refuse what is no step."""
    if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name) <= limits.STEP_NAME_CHARACTERS_MAX:
        raise InvalidEventError(
            f"step name {name!r:.100} is not 1 to {limits.STEP_NAME_CHARACTERS_MAX} printable characters; nothing was written; "
            "name what it does"
        )
    if policy not in ("fail", "retry", "ask"):
        raise InvalidEventError(f"policy {policy!r:.50} is none of fail, retry, ask; nothing was written; choose one")
    check_number("retries", retries, 1_000, int)
    check_number("backoff", backoff, 86_400)
    if timeout is not None:
        check_number("timeout", timeout, 86_400 * 365)


def check_number(what: str, value: object, most: int, kind: type | tuple[type, ...] = (int, float)) -> None:
    """Refuse what is no number of 0 .. most."""
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 <= value <= most:  # pyright: ignore[reportOperatorIssue]
        raise LimitError(f"{what} {value!r:.50} is not in 0 .. {most}; nothing was written; choose another")


def check_patience(patience: object) -> None:
    """Refuse what is neither a number of seconds nor None."""
    if patience is not None:
        check_number("patience", patience, 86_400 * 365)


def recorded_input(arguments: Sequence[Any]) -> Any:
    """Give a step's arguments as they are recorded and compared; None where there are none, or they are not JSON."""
    if not arguments:
        return None
    try:
        encoded = encode_json(list(arguments), what="the input")
    except (InvalidEventError, LimitError):
        return None
    if len(encoded) > limits.STEP_INPUT_BYTES_MAX:
        return {"sha256": sha256(encoded).hexdigest(), "bytes": len(encoded)}
    return decode_state(encoded)


def keywords_of(function: Callable[..., Any], call: Call) -> dict[str, Any]:
    """Give the effect key where a function wants it."""
    try:
        wants = "effect_key" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {"effect_key": call.effect_key} if wants else {}


def call_within(
    timeout: float | None, function: Callable[..., Any], arguments: Sequence[Any], keywords: dict[str, Any]
) -> Any:
    """Call a function; TimeoutError where it takes longer: then it goes on by itself, and nobody waits for it."""
    if timeout is None:
        return function(*arguments, **keywords)
    outcome: list[tuple[bool, Any]] = []

    def call() -> None:
        try:
            outcome.append((True, function(*arguments, **keywords)))
        except BaseException as error:  # noqa: BLE001  # it is raised where the step was asked for
            outcome.append((False, error))

    thread = Thread(target=call, name="everlog-step", daemon=True)
    thread.start()
    thread.join(timeout)
    if not outcome:
        raise TimeoutError(f"the step took longer than {timeout:g} seconds; it may still take effect")
    good, value = outcome[0]
    if not good:
        raise value
    return value


def seconds_of(timeout: float | str | None) -> float | None:
    """Read a time to wait: seconds, or "90s", "2h", "2d"."""
    if isinstance(timeout, str):
        micros = parse_ago(timeout)
        if micros is None or timeout.startswith("-"):
            raise InvalidEventError(
                f"timeout {timeout!r:.50} is no time; nothing was written; write 90s, 15m, 2h or 2d"
            )
        return micros / MICROS
    check_step("wait", "retry", 0, 1.0, timeout)
    return timeout


def time_of(when: datetime | str | float, now: int) -> int:
    """Read the time of the store's clock at which a sleep ends, microseconds."""
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise InvalidEventError(f"{when} has no zone; nothing was written; give a datetime with one")
        return int(when.timestamp() * MICROS)
    seconds = seconds_of(when)
    if seconds is None:
        raise InvalidEventError("a sleep takes a time, not None; nothing was written; give seconds, 2h, or a datetime")
    return now + int(seconds * MICROS)
