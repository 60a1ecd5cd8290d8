"""Calls of Anthropic's and OpenAI's Python clients, recorded as they are made: `with record(session, client) as client:`.

1. What the client returns and raises is what it would: the same objects, read by nobody else. Its streams are looked at piece by piece as
   their reader takes them.
2. Only the client that `record` gives records: it is a copy (`client.copy()`), which shares the connections. The one that was given, and
   every other, stay as they are.
3. Where recording fails, the call goes on as if nothing were recorded; `failures` has the error, and the log `everlog.recorder` names it.
4. Importing this imports neither client.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import aclosing, suppress
from functools import cache, wraps
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar, cast
from weakref import ref

from everlog.aio import AsyncSession
from everlog.core.event import Outcome
from everlog.errors import LimitError
from everlog.integrations.recorder_answers import Body, pieces_of
from everlog.integrations.recorder_bodies import ReadOnceError, dumped, readable_again
from everlog.integrations.recorder_calls import Call, Calls, format_of
from everlog.integrations.threads import finished, submitted
from everlog.reducers.spoken import ANTHROPIC
from everlog.session import Session

_RECORDER: Final = "_everlog_recorder"  # of a copy: what records its calls
_FAILURES_MAX: Final = 100
STREAM_CHARACTERS_MAX: Final = (
    256 * 1024 * 1024
)  # of a stream's pieces with their names: 700,000 tokens, more than any model says
_STRICT: Final = "_strict_response_validation"  # of a client: what `copy()` of either leaves as it is by default
_KEYS: Final = ("api_key", "auth_token", "admin_api_key")  # of a client
_SECRET: Final = re.compile("auth|key|token|secret|cookie|signature|credential", re.IGNORECASE)  # in a header's name
_SECRET_CHARACTERS_MIN: Final = 6  # of a header's value: a shorter one is taken out of too much
_TIMEOUTS: Final = {"APITimeoutError", "TimeoutException", "TimeoutError"}  # of a client, what it sends with, Python
_log: Final = logging.getLogger("everlog.recorder")
C = TypeVar("C")
T = TypeVar("T")
P = ParamSpec("P")


class Recorder:
    """Records the calls of one client, from `with` to its end; see `record`."""

    def __init__(self, session: Session | AsyncSession, client: Any, *, actor: str | None = None) -> None:
        if not callable(getattr(client, "copy", None)) or not callable(getattr(client, "post", None)):
            raise TypeError(
                f"{type(client).__name__} is no client of Anthropic's or OpenAI's: it has no copy() and post(); nothing is recorded"
            )
        if not isinstance(session, (Session, AsyncSession)):
            raise TypeError(
                f"{session!r:.100} is no session; nothing is recorded; give one of a store: store.get_or_create(…)"
            )
        self.failures: list[Exception] = []
        self._client = client
        self._calls = Calls(session.sync if isinstance(session, AsyncSession) else session, actor)
        self._open: dict[int, _Tap] = {}
        self._entered = 0

    def __enter__(self) -> Any:
        self._entered += 1
        outer = vars(self._client).get(_RECORDER) if hasattr(self._client, "__dict__") else None
        if isinstance(outer, Recorder) and outer.records(self._calls.session):
            return self._client  # whoever called records its calls already
        copied = self._client.copy()
        if hasattr(self._client, _STRICT):
            setattr(copied, _STRICT, getattr(self._client, _STRICT))
        return self._recording(copied)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered -= 1
        for tap in () if self._entered else list(self._open.values()):
            tap.end("cancelled")

    async def __aenter__(self) -> Any:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _aside(self.__exit__, kind, error, trace)

    def records(self, session: Session) -> bool:
        """Tell whether calls are being recorded in this session."""
        return (
            self._entered > 0
            and self._calls.session.id == session.id
            and self._calls.session.storage is session.storage
        )

    # --- the client ---
    def _recording(self, client: Any) -> Any:
        """Make a copy of the client record: whatever it is asked for, it posts."""
        post, copy = client.post, client.copy
        client.post = self._awaiting(client, post) if inspect.iscoroutinefunction(post) else self._calling(client, post)
        setattr(client, _RECORDER, self)
        for name, resource in list(vars(client).items()):
            if (
                getattr(resource, "_client", None) is client
            ):  # made with the client, as those of Bedrock and Vertex: with its own post
                setattr(client, name, type(resource)(client))

        @wraps(copy)
        def copied(*given: Any, **named: Any) -> Any:
            return self._recording(copy(*given, **named))

        client.copy = client.with_options = copied
        return client

    def _calling(self, client: Any, post: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(post)
        def recorded(path: str, *given: Any, **named: Any) -> Any:
            call = self._ask(path, named)
            try:
                answer = post(path, *given, **named)
            except BaseException as error:
                self._failed(call, error, client)
                raise
            if call is not None and not self._listens(call, answer, named, client):
                self._answered(call, answer)
            return answer

        return recorded

    def _awaiting(self, client: Any, post: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(post)
        async def recorded(path: str, *given: Any, **named: Any) -> Any:
            call = await _aside(self._ask, path, named)
            try:
                answer = await post(path, *given, **named)
            except BaseException as error:
                await _told(error, self._failed, call, error, client)
                raise
            if call is not None and not self._listens(call, answer, named, client):
                await self._kept(call, answer)
            return answer

        return recorded

    async def _kept(self, call: Call, answer: Any) -> None:
        """Record an answer; where the caller is cancelled meanwhile, who would close what is still open of it never gets it."""
        try:
            await _aside(self._answered, call, answer)
        except asyncio.CancelledError:
            response = getattr(answer, "http_response", None)
            if response is not None:
                await response.aclose()
            raise

    # --- what is recorded; none of it raises ---
    def _ask(self, path: str, named: dict[str, Any]) -> Call | None:
        def asked() -> Call | None:
            format = format_of(str(path)) if self._entered else None
            if format is None:
                return None
            for tap in list(self._open.values()):
                if tap.left:
                    tap.end("cancelled")
            with suppress(ReadOnceError):
                return self._calls.ask(format, _body_of(named))
            if (
                format == ANTHROPIC
            ):  # OpenAI's client sends none: it fails, and what it did not read is still there to be read
                named["body"] = readable_again(named["body"])
            return self._calls.ask(format, _body_of(named))

        return self.guarded(asked)

    def _failed(self, call: Call | None, error: BaseException, client: Any) -> None:
        if call is not None:
            late = any(each.__name__ in _TIMEOUTS for each in type(error).__mro__)
            outcome: Outcome = "timeout" if late else "error" if isinstance(error, Exception) else "cancelled"
            self.guarded(lambda: self._calls.fail(call, error, outcome=outcome, secrets=_secrets_of(client, error)))

    def _listens(self, call: Call, answer: Any, named: Mapping[str, Any], client: Any) -> bool | None:
        """Begin to listen to an answer that is still to be read; tell whether it is. Nothing is written."""

        def begin() -> bool:
            if named.get("stream") and hasattr(answer, "_iterator"):
                _Tap(self, call, client).listen(answer)
                return True
            response = getattr(answer, "http_response", answer)
            closed = getattr(response, "is_closed", None)
            if closed is False or (closed is not None and named.get("stream")):
                return _BytesTap(self, call, client).watch(answer, response)
            return False

        return self.guarded(begin)

    def _answered(self, call: Call, answer: Any) -> None:
        def read() -> object:
            said = _said(answer)
            return self._calls.unread(call) if said is None else self._calls.answer(call, said)

        self.guarded(read)

    def guarded(self, write: Callable[[], T]) -> T | None:
        """Do what must not disturb the call; note where it failed."""
        try:
            return write()
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller's answer comes first
            if len(self.failures) < _FAILURES_MAX:
                self.failures.append(error)
            _log.error("a call was not recorded, and went on all the same: %s: %s", type(error).__name__, error)
            return None

    # --- streams ---
    def opened(self, tap: _Tap) -> None:
        """Note a stream that is being read."""
        self._open[id(tap)] = tap

    def ended(self, tap: _Tap) -> bool:
        """Note that one is not read any more; tell whether this is the first time, of whichever thread."""
        return self._open.pop(id(tap), None) is not None

    def said(self, tap: _Tap, outcome: Outcome) -> None:
        """Record what came of a stream, or of bytes. outcome: where their own end did not come."""

        def write() -> object:
            said = tap.pieces.said()
            if said is None and (tap.ran_out or not tap.seen):
                return self._calls.unread(tap.call)
            known: Outcome | None = None if tap.cut else "ok" if tap.pieces.complete else outcome
            return self._calls.answer(tap.call, said or {}, streamed=tap.streamed, outcome=known)

        self.guarded(write)

    def broke(self, tap: _Tap, error: BaseException, client: Any) -> None:
        """Record that a stream raised."""
        self._failed(tap.call, error, client)


class _Tap:
    """Stands between a stream and its bytes, and sees each piece that its reader takes. It keeps neither: who drops a stream ends it.

    Nothing is written when a reader goes away, as it may be the garbage collector that closes a stream, wherever it runs: the next call does.
    """

    def __init__(self, recorder: Recorder, call: Call, client: Any) -> None:
        self.call = call
        self.pieces = pieces_of(call.format)
        self.streamed = True
        self.seen = 0  # characters, or bytes
        self.ran_out = False
        self.cut = False  # it is longer than what is held of one
        self._recorder = recorder
        self._client = client
        self._stepping = False
        self.told = False  # what came was recorded, or another hears it, though its reader may go on

    def listen(self, stream: Any) -> None:
        """Begin: the stream's own iterator, and the closing of its response, pass by here from now on."""
        inner = stream._iterator
        self._response = ref(stream.response)
        self._recorder.opened(self)
        stream._iterator = self.each_async(inner) if hasattr(inner, "__anext__") else self.each(inner)

    @property
    def left(self) -> bool:
        """Whether the reader went away before the end: its response is closed, or gone."""
        response = self._response()
        return response is None or (response.is_closed and not self._stepping)

    def end(self, outcome: Outcome) -> None:
        """Record what came, once. outcome: where the stream's own end did not come."""
        if self._recorder.ended(self):
            self.told = True
            self._recorder.said(self, outcome)

    def each(self, inner: Iterator[Any]) -> Iterator[Any]:
        """Give the pieces as they are taken."""
        while True:
            self._stepping = True
            try:
                piece = next(inner)
            except StopIteration:
                self.ran_out = True
                self.end("cancelled")
                return
            except BaseException as error:
                self._broke(error)
                raise
            finally:
                self._stepping = False
            self._take(piece)
            yield piece

    async def each_async(self, inner: AsyncIterator[Any]) -> AsyncGenerator[Any]:
        """Give the pieces as they are taken."""
        while True:
            self._stepping = True
            try:
                piece = await anext(inner)
            except StopAsyncIteration:
                self.ran_out = True
                await _aside(self.end, "cancelled")
                return
            except BaseException as error:
                await _told(error, self._broke, error)
                raise
            finally:
                self._stepping = False
            self._take(piece)
            yield piece

    def _take(self, piece: Any) -> None:
        if not self.told and not self.cut:
            self._recorder.guarded(lambda: self._hold(piece))

    def _hold(self, given: Any) -> None:
        piece = given if isinstance(given, bytes) else dumped(given)
        self.seen += len(piece if isinstance(piece, bytes) else str(piece))
        if self.seen > STREAM_CHARACTERS_MAX:
            self.cut = True
            raise LimitError(
                f"a stream has more than {STREAM_CHARACTERS_MAX} characters, which is the most that is held of one; the call goes "
                "on, and is recorded as far as it is held"
            )
        self.pieces.add(piece)

    def _broke(self, error: BaseException) -> None:
        """Record what came before a stream raised, and that it did."""
        if self._recorder.ended(self):
            self.told = True
            self._recorder.broke(self, error, self._client)


class _BytesTap(_Tap):
    """Stands between a response and its bytes. Where a stream is made of them before any was read, that is listened to in its place."""

    def watch(self, answer: Any, response: Any) -> bool:
        """Begin: the response's bytes pass by here from now on. False: it is none that can be watched, and is as it was."""
        stream = getattr(response, "stream", None)
        kind = _bytes_kind(type(stream))
        if kind is None:
            return False
        self._newest: _Tap = self
        self._response = ref(response)
        self.pieces = Body(self.call.format, response)
        self.streamed = self.pieces.streamed
        options = getattr(answer, "_options", None)
        theirs = getattr(options, "post_parser", None)  # what the client itself does with what it parsed

        def parsed(made: Any) -> Any:
            made = theirs(made) if callable(theirs) else made
            self._recorder.guarded(lambda: self._hand_over(made))
            return made

        if theirs is not None:
            cast("Any", options).post_parser = parsed
        response.stream = kind(stream, self)
        self._recorder.opened(self)
        return True

    def _hand_over(self, made: Any) -> None:
        if hasattr(made, "_iterator") and not self._newest.seen and self._recorder.ended(self._newest):
            self._newest.told = True
            self._newest = _Tap(self._recorder, self.call, self._client)
            self._newest.listen(made)

    async def each_async(self, inner: AsyncIterator[Any]) -> AsyncGenerator[Any]:
        """Give the bytes as they are taken. Who ends it early ends what is below in the same task, as the clients do."""
        async with aclosing(super().each_async(inner)) as pieces:
            try:
                async for piece in pieces:
                    yield piece
            finally:
                if isinstance(inner, AsyncGenerator):
                    await inner.aclose()


class _Bytes:
    """A response's bytes, which pass by a tap. In all else they are what they were."""

    def __init__(self, passed: Any, tap: _BytesTap) -> None:
        self._passed = passed
        self._tap = tap

    def __getattr__(self, name: str) -> Any:
        if name == "_passed":
            raise AttributeError(name)
        return getattr(self._passed, name)

    def __iter__(self) -> Iterator[bytes]:
        inner = iter(self._passed)
        return inner if self._tap.told else self._tap.each(inner)

    def __aiter__(self) -> AsyncIterator[bytes]:
        inner = aiter(self._passed)
        return inner if self._tap.told else self._tap.each_async(inner)

    def close(self) -> None:
        self._passed.close()

    async def aclose(self) -> None:
        await self._passed.aclose()


@cache
def _bytes_kind(kind: type) -> type[_Bytes] | None:
    """Give what stands for bytes of this kind: a response asks whether they are read with or without `await`. None: neither."""
    bases = [each for each in kind.__mro__ if each.__name__ in ("SyncByteStream", "AsyncByteStream")]
    return type(kind.__name__, (_Bytes, *bases), {}) if bases else None


def record(session: Session | AsyncSession, client: Any, *, actor: str | None = None) -> Recorder:
    """Give what records a client's calls in a session for as long as its `with` (or `async with`) lasts; it gives the client to use there.

    client: Anthropic's or OpenAI's, sync or async; of its calls those of `messages`, `chat.completions` and `responses` are recorded,
    however they are made. actor: of the events of the agent.
    """
    return Recorder(session, client, actor=actor)


def recorded(
    session: Session | AsyncSession | Callable[[], Session | AsyncSession],
    *,
    argument: str = "client",
    actor: str | None = None,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Record, for as long as the decorated function runs, the calls of the client that it is given as `argument`.

    session: or what gives one, asked at each call of the function.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        if argument not in signature.parameters:
            raise TypeError(f"{function.__qualname__} takes no argument {argument!r}; name the one that is the client")

        def bound_of(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[inspect.BoundArguments, Recorder]:
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            chosen = session if isinstance(session, (Session, AsyncSession)) else session()
            return bound, record(chosen, bound.arguments[argument], actor=actor)

        return wraps(function)(_wrapped(function, argument, bound_of))

    return decorate


def _wrapped(
    function: Callable[..., Any],
    argument: str,
    bound_of: Callable[[tuple[Any, ...], dict[str, Any]], tuple[inspect.BoundArguments, Recorder]],
) -> Any:
    """Give a function of the same kind that records for as long as it runs, or is iterated."""

    async def awaited(*given: Any, **named: Any) -> Any:
        bound, recording = bound_of(given, named)
        async with recording as bound.arguments[argument]:
            return await function(*bound.args, **bound.kwargs)

    async def iterated(*given: Any, **named: Any) -> AsyncGenerator[Any]:
        bound, recording = bound_of(given, named)
        async with recording as bound.arguments[argument], aclosing(function(*bound.args, **bound.kwargs)) as pieces:
            step = pieces.asend(None)
            while True:  # `yield from`, which async generators have not
                try:
                    piece = await step
                except StopAsyncIteration:
                    return
                try:
                    step = pieces.asend((yield piece))
                except GeneratorExit:
                    raise
                except BaseException as error:  # noqa: BLE001  # it is the function's to catch
                    step = pieces.athrow(error)

    def generated(*given: Any, **named: Any) -> Generator[Any, Any, Any]:
        bound, recording = bound_of(given, named)
        with recording as bound.arguments[argument]:
            return (yield from function(*bound.args, **bound.kwargs))

    def called(*given: Any, **named: Any) -> Any:
        bound, recording = bound_of(given, named)
        with recording as bound.arguments[argument]:
            return function(*bound.args, **bound.kwargs)

    if inspect.iscoroutinefunction(function):
        return awaited
    if inspect.isasyncgenfunction(function):
        return iterated
    return generated if inspect.isgeneratorfunction(function) else called


async def _aside(write: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Do in a thread what blocks; under another event loop than asyncio's or trio's, where it is."""
    try:
        wrote = submitted(write, *given, **named)
    except RuntimeError:  # there is no such loop, or the interpreter ends
        return write(*given, **named)
    try:
        return await finished(wrote)
    finally:
        del wrote  # see law 4 of threads.py


async def _told(raised: BaseException, write: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Do it as `_aside`, or where it is if what raised is being closed, as nothing can be awaited there."""
    return write(*given, **named) if isinstance(raised, GeneratorExit) else await _aside(write, *given, **named)


def _secrets_of(client: Any, error: BaseException) -> tuple[str, ...]:
    """Give what a message must not show: the client's keys as they are now, and what the request that failed logged in with."""
    found = [getattr(client, name, None) for name in _KEYS]
    headers: Mapping[str, str] = {}
    with suppress(RuntimeError):  # an error of what the clients send with, which has not been told its request yet
        headers = getattr(getattr(error, "request", None), "headers", None) or {}
    for name, value in headers.items():
        if _SECRET.search(name) and len(value) >= _SECRET_CHARACTERS_MIN:
            found += [value, value.rpartition(" ")[2]]
    return tuple(sorted({each for each in found if isinstance(each, str) and each}, key=len, reverse=True))


def _body_of(named: Mapping[str, Any]) -> dict[str, Any]:
    """Give the body that a request is sent with. Raises TypeError where it is no JSON object."""
    options, content = named.get("options") or {}, named.get("content")
    body = named.get("body") if content is None else json.loads(content)
    if not isinstance(body, Mapping):
        raise TypeError(f"the body of the request is {type(body).__name__}, and no JSON object")
    return {**cast("Mapping[str, Any]", body), **(options.get("extra_json") or {})}


def _said(answer: Any) -> Any:
    """Give an answer as its JSON says it; None where the caller reads the bytes alone."""
    if isinstance(answer, Mapping) or hasattr(answer, "model_dump"):
        return answer
    response = getattr(answer, "http_response", answer)
    try:
        said = json.loads(response if isinstance(response, (str, bytes)) else response.content)
    except Exception:  # noqa: BLE001  # it has no content, or none yet: each client raises an error of its own
        return None
    return said if isinstance(said, dict) else None
