"""What the work of a step asks for, and what drives it on a thread.

The work is a generator: it yields what it needs next and is sent the answer, so that threads and event loops share it.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from datetime import datetime
from hashlib import sha256
from threading import Thread
from types import CodeType, FunctionType, MethodType
from typing import Any, Final, Literal, NamedTuple

from everlog.core import limits
from everlog.core.canonical import canonical_json, decode_state
from everlog.core.position import parse_ago, parse_time
from everlog.core.values import check_value, encode_json, shown
from everlog.errors import (
    DivergenceError,
    InvalidEventError,
    InvalidPlaceError,
    LimitError,
    ReducerError,
    WaitingError,
)
from everlog.storage import Append
from everlog.writer import SessionWriter

Policy = Literal["fail", "retry", "ask"]
MICROS: Final = 1_000_000
NO_RESULT: Final = (WaitingError, DivergenceError)  # of a step: they say that it is to go on later, or cannot
_GENERATES: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
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
            except Exception as error:  # noqa: BLE001  # the work says what it means to the step, or raises it
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
            f"name {name!r:.100} is not 1 to {limits.STEP_NAME_CHARACTERS_MAX} printable characters; nothing was written; "
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
        raise LimitError(f"{what} {shown(value)} is not in 0 .. {most}; nothing was written; choose another")


def check_patience(patience: object) -> None:
    """Refuse what is neither a number of seconds nor None."""
    if patience is not None:
        check_number("patience", patience, 86_400 * 365)


def recorded_input(session: SessionWriter, arguments: Sequence[Any], keywords: Mapping[str, Any] | None = None) -> Any:
    """Give a step's arguments as they are recorded and compared, keywords last; None where there are none, or they are not JSON."""
    values = [*arguments, keywords] if keywords else list(arguments)
    if not values:
        return None
    try:
        check_value(values, what="the input")
        value = decode_state(encoded := encode_json(session._clean(values), what="the input"))
    except (InvalidEventError, LimitError):
        return None
    if len(encoded) <= limits.STEP_INPUT_BYTES_MAX:
        return value
    with suppress(ReducerError):  # an integer past 2^53 has no canonical form
        encoded = canonical_json(value)
    return {"sha256": sha256(encoded).hexdigest(), "bytes": len(encoded)}


def _code_of(function: Callable[..., Any]) -> CodeType | None:
    """Give the code of a plain function, which says all about it: `inspect` would take 30 µs of every step. None for others."""
    plain = isinstance(function, (FunctionType, MethodType)) and not function.__dict__  # which wraps no other
    return getattr(function, "__code__", None) if plain else None


def check_function(function: Callable[..., Any], *, asynchronous: bool = False) -> None:
    """Refuse functions that would only make a generator or a coroutine when they are called: nobody would run that."""
    code = _code_of(function)
    if code is not None and not code.co_flags & (_GENERATES if asynchronous else _GENERATES | inspect.CO_COROUTINE):
        return
    kinds = "generator" if asynchronous else "coroutine or generator"
    made = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    if made or (not asynchronous and inspect.iscoroutinefunction(function)):
        raise InvalidEventError(
            f"{getattr(function, '__qualname__', function)!s:.100} is a {kinds} function; nothing was written; give a function that does "
            "the work itself" + ("" if asynchronous else ", or run on the async face: everlog.open_async")
        )


def call_function(function: Callable[..., Any], arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
    """Call a function. StopIteration cannot be raised through what drives it, and becomes a RuntimeError."""
    try:
        return function(*arguments, **keywords)
    except StopIteration as error:
        raise RuntimeError("the step's function raised StopIteration") from error


def keywords_of(function: Callable[..., Any], call: Call) -> dict[str, Any]:
    """Give the effect key where a function wants it."""
    code = _code_of(function)
    if code is not None and "effect_key" not in code.co_varnames:
        return {}
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
        return call_function(function, arguments, keywords)
    outcome: list[tuple[bool, Any]] = []

    def call() -> None:
        try:
            outcome.append((True, call_function(function, arguments, keywords)))
        except BaseException as error:  # noqa: BLE001  # it is raised where the step was asked for
            outcome.append((False, error))

    thread = Thread(target=copy_context().run, args=(call,), name="everlog-step", daemon=True)
    thread.start()
    thread.join(timeout)
    if not outcome:
        raise TimeoutError(f"the step took longer than {timeout:g} seconds; it may still take effect")
    good, value = outcome[0]
    if not good:
        raise value
    return value


def seconds_of(timeout: float | str | None, *, what: str = "timeout") -> float | None:
    """Read a length of time: seconds, or "90s", "2h", "2d"; at most a hundred years. what: it is called in errors."""
    if isinstance(timeout, str):
        micros = parse_ago(timeout)
        if micros is None or timeout.startswith("-"):
            raise InvalidEventError(f"{what} {timeout!r:.50} is no time; nothing was written; write 90s, 15m, 2h or 2d")
        timeout = micros / MICROS
    if timeout is not None:
        check_number(what, timeout, 86_400 * 36_500)
    return timeout


def time_of(when: datetime | str | float, now: int) -> int:
    """Read the time of the store's clock at which a sleep ends, microseconds: a time, or how long from now."""
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise InvalidEventError(f"{when} has no zone; nothing was written; give a datetime with one")
        return int(when.timestamp() * MICROS)
    if isinstance(when, str) and parse_ago(when) is None:
        try:
            return parse_time(when, now=now)
        except InvalidPlaceError as error:
            raise InvalidEventError(f"{error.message}; nothing was written") from None
    seconds = seconds_of(when)
    if seconds is None:
        raise InvalidEventError("a sleep takes a time, not None; nothing was written; give seconds, 2h, or a datetime")
    return now + int(seconds * MICROS)
