"""The async face of leases, woken sessions and runs: the work of `everlog.runs`, driven by the event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from datetime import datetime
from functools import partial, wraps
from types import TracebackType
from typing import Any

from everlog.aio.engine import Engine
from everlog.aio.session import AsyncSession
from everlog.claims import Claim
from everlog.core.decide import StaleExpectationError
from everlog.core.event import Event
from everlog.core.position import check_checkpoint_name
from everlog.errors import FencedError
from everlog.forms import StepForm
from everlog.leases import Lease
from everlog.pending import Pending
from everlog.runs import Run
from everlog.steps import (
    MICROS,
    Call,
    Driven,
    Policy,
    Read,
    Sleep,
    Step,
    Work,
    Write,
    call_function,
    check_function,
    check_patience,
    check_step,
    keywords_of,
    recorded_input,
    seconds_of,
)
from everlog.woken import Woken


class AsyncLease:
    """The sole right to append to a session. The async face of `Lease`."""

    def __init__(self, engine: Engine, sync: Lease) -> None:
        self._engine = engine
        self.sync = sync
        self.holder = sync.holder
        self.token = sync.token

    def __repr__(self) -> str:
        return f"<async {self.sync!r}>"

    async def __aenter__(self) -> AsyncLease:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._engine.finish(self.sync.__exit__, kind, error, trace)

    @property
    def session_uuid(self) -> str:
        """See `Lease.session_uuid`."""
        return self.sync.session_uuid

    @property
    def alive(self) -> bool:
        """See `Lease.alive`."""
        return self.sync.alive

    @property
    def lost(self) -> FencedError | None:
        """See `Lease.lost`."""
        return self.sync.lost

    @property
    def released(self) -> bool:
        """See `Lease.released`."""
        return self.sync.released

    async def renew(self) -> None:
        """See `Lease.renew`."""
        await self._engine.run(self.sync.renew)

    async def release(self, reason: str = "done") -> Event | None:
        """See `Lease.release`."""
        return await self._engine.run(self.sync.release, reason)


class AsyncWoken(AsyncSession):
    """A session whose lease this process holds. The async face of `Woken`."""

    lease: AsyncLease  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]  # taken already

    def __init__(self, engine: Engine, sync: Woken) -> None:
        super().__init__(engine, sync)
        self.lease = AsyncLease(engine, sync.lease)  # pyright: ignore[reportIncompatibleMethodOverride]  # taken already
        self.pending: Pending = sync.pending
        self.last_checkpoint: Event | None = sync.last_checkpoint

    async def __aenter__(self) -> AsyncWoken:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.lease.__aexit__(kind, error, trace)


class AsyncClaim:
    """A message that this worker alone works on. The async face of `Claim`."""

    def __init__(self, engine: Engine, sync: Claim) -> None:
        self._engine = engine
        self.sync = sync
        self.session = AsyncSession(engine, sync.session)
        self.message = sync.message
        self.work = AsyncWoken(engine, sync.work)

    def __repr__(self) -> str:
        return f"<async {self.sync!r}>"

    async def __aenter__(self) -> AsyncClaim:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.work.__aexit__(kind, error, trace)

    async def answer(self, content: Any, *, actor: str | None = None, **members: Any) -> Event:
        """See `Claim.answer`."""
        return await self._engine.run(self.sync.answer, content, actor=actor, **members)


class AsyncRun:
    """One piece of work on a session, in steps. The async face of `Run`. Functions may be coroutine functions or plain ones."""

    def __init__(self, engine: Engine, sync: Run) -> None:
        self._engine = engine
        self.sync = sync
        self._form: AsyncStepForm | None = None

    def __repr__(self) -> str:
        return f"<async {self.sync!r}>"

    @property
    def name(self) -> str:
        """The run's name."""
        return self.sync.name

    async def __aenter__(self) -> AsyncRun:
        self._form = AsyncStepForm(self, Step(self.name, kind="run", policy="retry"))
        await self._form.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._form is not None, "it was entered"
        if error is None:
            await self.check_left()
            await self._form.__aexit__(None, None, None)
        else:
            self._form._leave()

    def step(
        self,
        name: str,
        function: Callable[..., Any] | None = None,
        *arguments: Any,
        policy: Policy | None = None,
        retries: int = 0,
        backoff: float = 1.0,
        timeout: float | None = None,
    ) -> Any:
        """See `Run.step`. Awaited with a function; else a decorator of a coroutine function, or for `async with`."""
        chosen = self.sync.policy if policy is None else policy
        check_step(name, chosen, retries, backoff, timeout)
        step = Step(name, recorded_input(self.sync.session, arguments), chosen, retries, backoff)
        if function is None:
            return AsyncStepForm(self, step, timeout)
        check_function(function, asynchronous=True)
        return self._drive(self.sync._perform(step), function, arguments, timeout)

    def stage(self, name: str, function: Callable[..., Any] | None = None, *arguments: Any) -> Any:
        """See `Run.stage`."""
        check_checkpoint_name(name)
        step = Step(name, recorded_input(self.sync.session, arguments), "retry", kind="stage")
        if function is None:
            return AsyncStepForm(self, step)
        check_function(function, asynchronous=True)
        return self._drive(self.sync._perform(step), function, arguments, None)

    async def wait(self, name: str, *, timeout: float | str | None = None, patience: float | None = None) -> Any:
        """See `Run.wait`."""
        check_step(name, "retry", 0, 1.0, None)
        check_patience(patience)
        return await self._drive(self.sync._waiting(name, seconds_of(timeout), patience), None, (), None)

    async def sleep_until(
        self, when: datetime | str | float, *, name: str = "sleep", patience: float | None = None
    ) -> None:
        """See `Run.sleep_until`."""
        check_step(name, "retry", 0, 1.0, None)
        check_patience(patience)
        await self._drive(self.sync._sleeping(name, when, patience), None, (), None)

    async def check_left(self) -> None:
        """See `Run.check_left`."""
        await self._engine.run(self.sync.check_left)

    async def _drive(
        self, work: Work, function: Callable[..., Any] | None, arguments: Sequence[Any], timeout: float | None
    ) -> Any:
        """Do what the work asks for, on this event loop."""
        driver = AsyncDriver(self._engine, self.sync, work)
        with closing(work):  # what is no result, such as cancellation, leaves it in flight
            while (call := await driver.run()) is not None:
                assert function is not None, "a wait calls nothing"
                try:
                    value = await _within(timeout, _called(function, arguments, keywords_of(function, call)))
                except Exception as error:  # noqa: BLE001  # the work records it, and raises it again
                    driver.fail(error)
                else:
                    driver.give(value)
        return driver.value


async def _within(timeout: float | None, called: Coroutine[Any, Any, Any]) -> Any:
    """Await what was called; TimeoutError that says so where it takes longer."""
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            return await called
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"the step took longer than {timeout:g} seconds; it may still take effect") from None
        raise


async def _called(function: Callable[..., Any], arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
    """Await a coroutine function; a plain one runs in a thread, so that the loop goes on."""
    if inspect.iscoroutinefunction(function):
        return await function(*arguments, **keywords)
    value = await asyncio.to_thread(call_function, function, arguments, keywords)
    return await value if inspect.isawaitable(value) else value


class AsyncDriver(Driven):
    """Drives work on an event loop up to where the step's function is called. value: what it gave, when it is done."""

    def __init__(self, engine: Engine, run: Run, work: Work) -> None:
        super().__init__(work)
        self._engine = engine
        self._run = run

    async def run(self) -> Call | None:
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
                self.give(await self._do(asked))
            except Exception as error:  # noqa: BLE001  # the work says what it means to the step, or raises it
                self.fail(error)

    async def _do(self, asked: Any) -> Any:
        session, storage = self._run.session, self._engine.storage
        match asked:
            case Read():
                return await self._engine.run(asked.call)
            case Write():
                try:
                    return session.noted(await self._engine.submit(asked.request))
                except StaleExpectationError as stale:
                    raise await self._engine.run(session.conflict, stale, asked.request) from None
            case Sleep():
                left = asked.until - storage.now()
                return None if left <= 0 else await asyncio.sleep(left / MICROS)
            case _:
                return await self._engine.waker.wait(asked.seen, asked.seconds)


class AsyncStepForm:
    """A step whose work is a coroutine function that is decorated, or the body of an `async with`. See `StepForm`."""

    def __init__(self, run: AsyncRun, step: Step, timeout: float | None = None) -> None:
        self._run = run
        self._timeout = timeout
        self._form = StepForm(run.sync, step, timeout)

    @property
    def done(self) -> bool:
        """Whether it was recorded before."""
        return self._form.done

    @property
    def effect_key(self) -> str | None:
        """What is handed to whatever must not happen twice."""
        return self._form.effect_key

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        return self._form.attempt

    @property
    def result(self) -> Any:
        """What it gave; set it in the body."""
        return self._form.result

    @result.setter
    def result(self, value: Any) -> None:
        self._form.result = value

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        run, form, timeout = self._run, self._form, self._timeout
        check_function(function, asynchronous=True)

        @wraps(function)
        async def recorded(*arguments: Any, **keywords: Any) -> Any:
            called = partial(function, **keywords)
            return await run._drive(form._asked_with(arguments, keywords), called, arguments, timeout)

        return recorded

    async def __aenter__(self) -> AsyncStepForm:
        driver = AsyncDriver(self._run._engine, self._run.sync, self._form._open_body())
        self._form._driver = driver
        self._form._begin(await driver.run(), driver.value)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        driver = self._form._driver
        assert isinstance(driver, AsyncDriver), "it was entered"
        if not self._form._ends(driver, error):
            return
        try:
            await driver.run()
        except Exception as raised:
            if raised is not error:
                raise
            return
        self._form.result = driver.value

    def _leave(self) -> None:
        """Leave it in flight, as a process that dies does."""
        self._form._leave(self._form._driver)
