"""Runs: an agent's work in named steps, each recorded once, so that another process goes on from exactly there.

1. `step.started` is durable before a step's function runs, `step.finished` after. Finished steps are not run again: what they
   gave is given again.
2. A step that was started and not finished is *unknown*: it may have taken effect. Its policy decides: `fail` records that and
   raises, `retry` runs it again under the same effect key, `ask` waits for a signal that says what to do.
3. Steps are known by name and occurrence within what they are asked for in (scopes.py), so those that run side by side may
   replay in any order. What is asked for otherwise than it was recorded is a DivergenceError.
4. The work of a step is a generator of what it needs next (`Read`, `Write`, `Call`, `Sleep`, `News`), which the face drives: one
   implementation for threads and for event loops.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from datetime import datetime
from shlex import quote as shell_quote
from types import TracebackType
from typing import Any, NamedTuple

from everlog import divergence
from everlog.core import limits
from everlog.core.canonical import decode_state
from everlog.core.event import Event, NewEvent
from everlog.core.patch import same
from everlog.core.position import check_checkpoint_name, format_address
from everlog.core.values import check_value, encode_json
from everlog.errors import (
    ConflictError,
    DivergenceError,
    EverlogError,
    FencedError,
    InvalidEventError,
    KeyReusedError,
    LimitError,
    OutcomeUnknownError,
    SecretError,
    StepFailedError,
    StepUnknownError,
    UnavailableError,
    WaitingError,
    WaitTimeoutError,
)
from everlog.forms import StepForm
from everlog.journal import DECISION, Journal, LeftLineError, Record
from everlog.reducers.pending import DEFAULT_RUN
from everlog.scopes import Scope, StepName, enter, innermost, leave
from everlog.steps import (
    MICROS,
    NO_RESULT,
    WAIT_SECONDS,
    Call,
    Driver,
    News,
    Policy,
    Read,
    Sleep,
    Step,
    Work,
    Write,
    call_within,
    check_function,
    check_patience,
    check_step,
    keywords_of,
    recorded_input,
    seconds_of,
    time_of,
)
from everlog.storage import Append, Receipt
from everlog.writer import SessionWriter


class Run:
    """One piece of work on a session, in steps. `session.run()` gives it; use as a context manager to record its end too."""

    def __init__(
        self,
        session: SessionWriter,
        name: str,
        draw: Callable[[int], bytes],
        *,
        policy: Policy,
        retry_failed: bool,
    ) -> None:
        self.name = name
        self.session = session
        self.policy: Policy = policy
        self._draw = draw
        self._retry_failed = retry_failed
        self._journal = Journal(session, name)
        self._root = Scope(self)
        self._form: StepForm | None = None

    def __repr__(self) -> str:
        return f"<Run {self.name!r} of {self.session.id!r}>"

    def __enter__(self) -> Run:
        self._form = StepForm(self, Step(self.name, kind="run", policy="retry"))
        self._form.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._form is not None, "it was entered"
        if error is None:
            self.check_left()
            self._form.__exit__(None, None, None)
        else:
            self._form._leave(self._form._driver)  # it stays in flight: the next process goes on

    # --- steps ---
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
        """Run a step, or give what it gave: `run.step("fetch", fetch, url)`.

        The function gets the arguments, and `effect_key=` where it has a parameter of that name: the same for every try of
        this step, to be handed to whatever must not happen twice. What it gives is JSON (a tuple becomes a list, also the first time). Without a function: a decorator, or
        a context manager whose body is the step (`if not step.done: step.result = …`).
        policy: what becomes of a step that was started and not finished: "fail", "retry" or "ask"; the run's by default.
        retries: tries after one that raised, after `backoff` seconds, doubled each time. timeout: seconds for one try; a
            function that goes on after it is not stopped, but nobody waits for it.
        Raises what the function raises; StepFailedError where that was recorded by an earlier process; StepUnknownError;
        DivergenceError; FencedError where the lease was lost.
        """
        chosen = self.policy if policy is None else policy
        check_step(name, chosen, retries, backoff, timeout)
        step = Step(name, recorded_input(self.session, arguments), chosen, retries, backoff)
        if function is None:
            return StepForm(self, step, timeout)
        check_function(function)
        return self._drive(self._perform(step), function, arguments, timeout)

    def stage(self, name: str, function: Callable[..., Any] | None = None, *arguments: Any) -> Any:
        """Group steps: `with run.stage("collect"): …`, or `run.stage("collect", collect, topic)`.

        At its end it makes a checkpoint of its name: a place to resume from (`session.rewind("collect")`) or to fork at, also
        with other code for what follows. Of a finished stage the function is not called; the body of a `with` runs again, and its
        steps give what they gave.
        """
        check_checkpoint_name(name)
        step = Step(name, recorded_input(self.session, arguments), "retry", kind="stage")
        if function is None:
            return StepForm(self, step)
        check_function(function)
        return self._drive(self._perform(step), function, arguments, None)

    # --- waiting ---
    def wait(self, name: str, *, timeout: float | str | None = None, patience: float | None = None) -> Any:
        """Wait for a signal from outside (`session.signal(name, data)`); give its data.

        The first signal of that name that no wait has taken counts, also one that came before. timeout: seconds, or "2d", counted
        from the first time that this wait was asked for, in whatever process; then WaitTimeoutError. patience: how many
        seconds this process waits before it gives up with WaitingError, to come back later; None for ever, 0 for not at all.
        """
        check_step(name, "retry", 0, 1.0, None)
        check_patience(patience)
        return self._drive(self._waiting(name, seconds_of(timeout), patience), None, (), None)

    def sleep_until(self, when: datetime | str | float, *, name: str = "sleep", patience: float | None = None) -> None:
        """Sleep until a time, or for so many seconds or "2h", counted from the first time that it was asked for."""
        check_step(name, "retry", 0, 1.0, None)
        check_patience(patience)
        self._drive(self._sleeping(name, when, patience), None, (), None)

    def check_left(self) -> None:
        """Raise DivergenceError where something was recorded that this run has not asked for."""
        with self._journal.lock:
            left = self._journal.left()
        if left:
            raise divergence.left_out(self, left)

    # --- the work, driven by a face ---
    def _perform(self, step: Step, body: Callable[[StepName], None] | None = None) -> Work:
        """The work of one step. body: is told the name where the work is the body of a `with`, which runs also where it is done."""
        scope = innermost(self._root)
        name = scope.next(step.kind, step.name)
        if body is not None:
            body(name)
        record: Record = yield Read(lambda: self._find(name))
        self._check_same(name, record, step)
        self._check_open(scope, name, record)
        self._journal.give_out(name)
        if record.is_final and not self._may_run_again(scope, step, record):
            if body is None:
                self._journal.pass_over(name.path)
            return self._given_again(name, record)
        effect_key = record.effect_key or f"ef_{self._draw(16).hex()}"
        attempt = record.attempt
        if record.is_unknown:
            known = yield from self._unknown(scope, name, step, _event(record), attempt)
            if known is not None:
                return known.value
        elif record.finished is not None and not record.is_final:
            yield Sleep(record.finished.data["retry_at"])
        while True:
            attempt += 1
            receipt: Receipt = yield from self._write(self._started(scope, name, step, attempt, effect_key))
            started = receipt.events[0]
            if started.repeated and started.erased:  # only its key says that it was started before
                known = yield from self._unknown(scope, name, step, started, attempt)
                if known is not None:
                    return known.value
                continue
            inner = None if step.kind == "run" else _scope_of(name, scope)
            if inner is not None:
                enter(inner)
            try:
                value = yield Call(effect_key, attempt)
            except BaseException as error:
                # A stage stays in flight: what failed in it is recorded there. So does what is no result.
                if step.kind != "step" or not isinstance(error, Exception) or isinstance(error, NO_RESULT):
                    raise
                delay = None if attempt > step.retries else step.backoff * 2 ** min(attempt - 1, 20)
                yield from self._end(name, self._failed(scope, name, attempt, error, delay))
                if delay is None:
                    raise
            else:
                return (yield from self._gave(scope, name, attempt, value))
            finally:
                if inner is not None:
                    leave(inner)
            yield Sleep(self.session.storage.now() + int(delay * MICROS))
            if inner is not None and inner.asked:
                yield Read(lambda: self._reload(name))

    def _gave(self, scope: Scope, name: StepName, attempt: int, value: Any) -> Generator[Any, Any, Any]:
        """Record what a step gave; give that as a replay will. What cannot be recorded fails the step."""
        try:
            check_value(value, what="the result")
            encoded = encode_json(value := self.session._clean(value), what="the result")
            ended = self._ended(scope, name, attempt, {"result": value}, "ok")
        except (InvalidEventError, LimitError, SecretError) as error:
            refused = _is_refused(error)
            yield from self._end(name, self._failed(scope, name, attempt, refused, None))
            raise refused from None
        yield from self._end(name, ended)
        return decode_state(encoded)

    def _waiting(self, name: str, timeout: float | None, patience: float | None, *, after: int = -1) -> Work:
        """The work of one wait. after: signals up to this position are not for it."""
        scope = innermost(self._root)
        place = scope.next("wait", name)
        record: Record = yield Read(lambda: self._find(place))
        self._check_wait(place, record, sleeps=False)
        self._check_open(scope, place, record)
        self._journal.give_out(place)
        if record.finished is not None:
            return self._waited(place, record.finished)
        until = None if record.started is None else record.started.data.get("until")
        if record.started is None:
            until = None if timeout is None else self.session.storage.now() + int(timeout * MICROS)
            yield from self._write(self._waits(scope, place, {} if until is None else {"until": until}))
        gives_up = None if patience is None else time.monotonic() + patience
        while True:
            seen = self.session.storage.news()
            signal: Event | None
            signal, size = yield Read(lambda: self._signal(name, after))
            if signal is not None and (until is None or signal.recorded_micros < until):
                data = signal.data["data"] if isinstance(signal.data, dict) else None
                members = {"signal": signal.position}
                try:
                    yield from self._write(self._wait_ended(scope, place, members, caused_by=signal, expected=size))
                except ConflictError:
                    continue  # another wait may have taken it meanwhile
                yield Read(lambda: self._take(name, signal))  # noqa: B023  # it is called at once
                return data
            now = self.session.storage.now()
            if until is not None and now >= until:
                try:
                    yield from self._write(self._wait_ended(scope, place, {}, outcome="timeout", expected=size))
                except ConflictError:
                    continue  # something was recorded meanwhile: it may be the signal
                raise self._timed_out(place, None)
            if gives_up is not None and time.monotonic() >= gives_up:
                raise WaitingError(
                    f"{place} of session {self.session.id!r} has no signal yet; the wait is recorded and goes on when the run is "
                    f"resumed; send it: everlog signal {shell_quote(format_address(self.session.id))} {shell_quote(name)} JSON",
                    name=name,
                )
            left = [WAIT_SECONDS] + ([] if until is None else [(until - now) / MICROS])
            left += [] if gives_up is None else [gives_up - time.monotonic()]
            yield News(seen, max(0.0, min(left)))

    def _sleeping(self, name: str, when: datetime | str | float, patience: float | None) -> Work:
        """The work of one sleep: a wait that no signal ends."""
        scope = innermost(self._root)
        place = scope.next("wait", name)
        record: Record = yield Read(lambda: self._find(place))
        self._check_wait(place, record, sleeps=True)
        self._check_open(scope, place, record)
        self._journal.give_out(place)
        if record.finished is not None:
            return
        until = None if record.started is None else record.started.data.get("until")
        if until is None:
            until = time_of(when, self.session.storage.now())
            yield from self._write(self._waits(scope, place, {"until": until, "sleep": True}))
        now = self.session.storage.now()
        if patience is not None and until - now > patience * MICROS:
            raise WaitingError(
                f"{place} of session {self.session.id!r} goes on for {(until - now) / MICROS:.0f} more seconds; it is recorded, and "
                "over when the run is resumed after that",
                name=name,
            )
        yield Sleep(until)
        yield from self._write(self._wait_ended(scope, place, {}, outcome="timeout"))

    # --- underneath ---
    def _write(self, request: Append) -> Generator[Any, Any, Receipt]:
        """Append on the line that this run began on."""
        try:
            return (yield Write(request))
        except ConflictError as conflict:
            if request.batch.expected is None:  # so it was the branch
                raise divergence.left_line(self) from conflict
            raise
        except KeyReusedError as reused:
            raise divergence.two_processes(self, reused.event) from reused

    def _end(self, name: StepName, request: Append) -> Generator[Any, Any, Receipt]:
        """Append how a step ended; an error says that its function ran all the same."""
        try:
            return (yield from self._write(request))
        except (FencedError, DivergenceError, UnavailableError, OutcomeUnknownError) as error:
            error.add_note(
                f"{name} of run {self.name!r} had run, and how it ended is not recorded: whoever resumes finds it unknown"
            )
            raise

    def _find(self, name: StepName) -> Record:
        with self._journal.lock:
            return self._journal.find(name)

    def _reload(self, name: StepName) -> None:
        with self._journal.lock:
            self._journal.reload(name)

    def _signal(self, name: str, after: int) -> tuple[Event | None, int]:
        """Give the first signal that no wait has taken, and the size that was looked at."""
        with self._journal.lock:
            try:
                return self._journal.signal(name, after), self._journal.size
            except LeftLineError:
                raise divergence.left_line(self) from None

    def _take(self, name: str, signal: Event) -> None:
        with self._journal.lock:
            self._journal.take(name, signal.position)

    def _may_run_again(self, scope: Scope, step: Step, record: Record) -> bool:
        """Tell whether a step is run once more that is recorded as failed, or as unknown."""
        if self._root.done or scope.done or record.finished is None or "error" not in record.finished.data:
            return False
        return step.policy != "fail" if record.is_unknown else self._retry_failed

    def _check_open(self, scope: Scope, name: StepName, record: Record) -> None:
        """Raise DivergenceError where something new is asked for inside what is recorded as finished."""
        if (self._root.done or scope.done) and record.event is None:
            raise divergence.not_recorded(self, name)

    def _enter_finished(self, name: StepName) -> Scope | None:
        """Note that the body begins of a step, stage or run that is recorded as finished; give the scope that is entered."""
        if name.kind == "run":
            self._root.done = True
            return None
        scope = _scope_of(name, innermost(self._root), done=True)
        enter(scope)
        return scope

    def _leave_finished(self, name: StepName, scope: Scope) -> None:
        """Note that it has ended. What was recorded in a step need not be asked for by a body that sees that it is done."""
        leave(scope)
        if name.kind == "step":
            self._journal.pass_over(name.path)

    def _check_same(self, name: StepName, record: Record, step: Step) -> None:
        """Raise DivergenceError where the record of this name is of another input."""
        event = record.started
        if event is None or step.kind == "run":
            return
        recorded = event.data.get("input")
        if not same(recorded, step.input) and not same(self.session._clean(recorded), step.input):
            raise divergence.other_input(self, name, event, step.input)

    def _check_wait(self, name: StepName, record: Record, *, sleeps: bool) -> None:
        """Raise DivergenceError where a wait was recorded as a sleep, or a sleep as a wait."""
        event = record.started
        if event is not None and event.data.get("sleep", False) != sleeps:
            raise divergence.other_wait(self, name, event, sleeps=sleeps)

    def _given_again(self, name: StepName, record: Record) -> Any:
        event = record.finished
        assert event is not None, "the record is final"
        error = event.data.get("error")
        if error is None:
            return event.data.get("result")
        if event.outcome == "unknown":
            raise self._is_unknown(name, event)
        raise StepFailedError(
            f"{name} of session {self.session.id!r} raised {error.get('type')} when it ran (position {event.position}): "
            f"{error.get('message')}; it is not run again; resume with retry_failed=True to try it once more",
            event=event,
            type=error.get("type"),
        )

    def _unknown(
        self, scope: Scope, name: StepName, step: Step, event: Event, attempt: int
    ) -> Generator[Any, Any, _Known | None]:
        """Decide about a step that was started and not finished; None to run it again. event: its last start."""
        decision: Any = step.policy
        if step.policy == "ask":
            asked = DECISION + name.name
            yield from self._pass_over(scope, asked, event)
            decision = yield from self._waiting(asked, None, None, after=event.position)
        result: Any = None
        if isinstance(decision, dict):
            decision, result = decision.get("decision"), decision.get("result")
        match decision:
            case "retry":
                return None
            case "finished":
                yield from self._write(self._ended(scope, name, attempt, {"result": result, "decided": True}, "ok"))
                return _Known(result)
            case "fail":
                error = {"type": "StepUnknownError", "message": "it was started, and nothing says how that went"}
                yield from self._write(self._ended(scope, name, attempt, {"error": error}, "unknown"))
                raise self._is_unknown(name, event)
            case _:
                raise InvalidEventError(
                    f'the signal \'step:{name.name}\' says {decision!r:.100}; nothing was decided; send "retry", "fail", or '
                    '{"decision": "finished", "result": …}'
                )

    def _pass_over(self, scope: Scope, asked: str, started: Event) -> Generator[Any, Any, None]:
        """Count the decisions that are no answer: those about what was started before, and those that decide nothing."""
        while True:
            place = scope.peek("wait", asked)
            record: Record = yield Read(lambda place=place: self._find(place))
            if record.finished is None:
                return
            if record.finished.position > started.position:
                finished = record.finished
                if _decides((yield Read(lambda: self._waited(place, finished)))):  # noqa: B023
                    return
            self._journal.give_out(scope.next("wait", asked))

    def _is_unknown(self, name: StepName, event: Event) -> StepUnknownError:
        return StepUnknownError(
            f"{name} of session {self.session.id!r} was started (position {event.position}) and nothing says whether it took effect; "
            "it was not run again; resume with policy='retry' for it where it may run twice, or with policy='ask' to decide",
            event=event,
        )

    # --- events ---
    def _members(self, scope: Scope, name: StepName, **members: Any) -> dict[str, Any]:
        what = "name" if name.kind == "wait" else "step"
        base: dict[str, Any] = {what: name.name, "occurrence": name.occurrence, **members}
        if name.kind in ("stage", "run"):
            base["kind"] = name.kind
        if self.name != DEFAULT_RUN:
            base["run"] = self.name
        if name.within:
            base["within"] = name.within
        if scope.stage is not None:
            base["stage"] = scope.stage
        return base

    def _request(self, events: list[NewEvent], expected: int | None = None) -> Append:
        return self.session.own_request(events, branch=self._journal.branch_id, expected=expected)

    def _started(self, scope: Scope, name: StepName, step: Step, attempt: int, effect_key: str) -> Append:
        data = self._members(scope, name, attempt=attempt)
        if step.kind == "step":
            data["effect_key"] = effect_key
        if step.input is not None:
            data["input"] = step.input
        return self._request([NewEvent("step.started", data, key=name.key(self.name, f"{attempt}:started"))])

    def _failed(self, scope: Scope, name: StepName, attempt: int, error: Exception, delay: float | None) -> Append:
        said: dict[str, Any] = {"error": {"type": type(error).__name__, "message": self._message_of(error)}}
        if delay is not None:
            said["retry_at"] = self.session.storage.now() + int(delay * MICROS)
        return self._ended(scope, name, attempt, said, "timeout" if isinstance(error, TimeoutError) else "error")

    def _message_of(self, error: Exception) -> str:
        """Give what an error says, as it can be recorded: cut only after its secrets became marks."""
        try:
            said = str(error)
        except Exception:  # noqa: BLE001  # whatever is wrong with it, that it was raised is recorded
            return ""
        return self.session._marked(said)[: limits.REASON_CHARACTERS_MAX].encode("utf-8", "replace").decode()

    def _ended(self, scope: Scope, name: StepName, attempt: int, said: dict[str, Any], outcome: Any) -> Append:
        data = self._members(scope, name, attempt=attempt, **said)
        # One that is recorded as unknown may be decided on later, and one whose own end was erased as well.
        end = "unknown" if outcome == "unknown" else "decided" if "decided" in said else "finished"
        events = [NewEvent("step.finished", data, outcome=outcome, key=name.key(self.name, f"{attempt}:{end}"))]
        if name.kind == "stage" and outcome == "ok":
            events.append(
                NewEvent("checkpoint", {"name": name.name, "data": {"run": self.name, "stage": name.occurrence}})
            )
        return self._request(events)

    def _waits(self, scope: Scope, name: StepName, members: dict[str, Any]) -> Append:
        data = self._members(scope, name, **members)
        return self._request([NewEvent("wait.started", data, key=name.key(self.name, "started"))])

    def _wait_ended(
        self,
        scope: Scope,
        name: StepName,
        members: dict[str, Any],
        *,
        outcome: Any = "ok",
        caused_by: Event | None = None,
        expected: int | None = None,
    ) -> Append:
        data, key = self._members(scope, name, **members), name.key(self.name, "finished")
        event = NewEvent("wait.finished", data, outcome=outcome, caused_by=caused_by, key=key)
        return self._request([event], expected)

    def _waited(self, name: StepName, event: Event) -> Any:
        """Give what a wait that is over gave."""
        if "signal" not in event.data:
            raise self._timed_out(name, event)
        signal = self.session.event(event.data["signal"])
        return signal.data["data"] if isinstance(signal.data, dict) else None

    def _timed_out(self, name: StepName, event: Event | None) -> WaitTimeoutError:
        return WaitTimeoutError(
            f"{name} of session {self.session.id!r} had no signal in its time; that is recorded; handle it as the end of the wait",
            event=event,
        )

    def _drive(
        self, work: Work, function: Callable[..., Any] | None, arguments: Sequence[Any], timeout: float | None
    ) -> Any:
        """Do what the work asks for, on this thread."""
        driver = Driver(self.session, work)
        with closing(work):  # what is no result, such as Ctrl-C, leaves it in flight
            while (call := driver.run()) is not None:
                assert function is not None, "a wait calls nothing"
                try:
                    value = call_within(timeout, function, arguments, keywords_of(function, call))
                except Exception as error:  # noqa: BLE001  # the work records it, and raises it again
                    driver.fail(error)
                else:
                    driver.give(value)
        return driver.value


class _Known(NamedTuple):
    """What a step is decided to have given."""

    value: Any


def _scope_of(name: StepName, around: Scope, *, done: bool = False) -> Scope:
    """Give the scope that a step or stage is, asked for in another."""
    return Scope(around.run, name.path, name.name if name.kind == "stage" else around.stage, done=done or around.done)


def _event(record: Record) -> Event:
    assert record.event is not None, "it is recorded"
    return record.event


def _decides(data: Any) -> bool:
    """Tell whether a signal decides about an unknown step."""
    decision = data.get("decision") if isinstance(data, dict) else data
    return isinstance(decision, str) and decision in ("retry", "fail", "finished")


def _is_refused(error: EverlogError) -> InvalidEventError:
    return InvalidEventError(
        f"what the step gave cannot be recorded: {error.message.partition('; ')[0]}; it took effect; give JSON values"
    )
