"""Runs: an agent's work in named steps, each recorded once, so that another process goes on from exactly there.

1. `step.started` is durable before a step's function runs, `step.finished` after. Finished steps are not run again: what they
   gave is given again.
2. A step that was started and not finished is *unknown*: it may have taken effect. Its policy decides: `fail` records that and
   raises, `retry` runs it again under the same effect key, `ask` waits for a signal that says what to do.
3. Steps are known by name and occurrence, so those that run side by side may replay in any order. What is asked for otherwise
   than it was recorded is a DivergenceError.
4. The work of a step is a generator of what it needs next (`Read`, `Write`, `Call`, `Sleep`, `News`), which the face drives: one
   implementation for threads and for event loops.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from contextvars import ContextVar
from datetime import datetime
from hashlib import sha256
from types import TracebackType
from typing import Any, NamedTuple

from everlog.core import limits
from everlog.core.canonical import decode_state
from everlog.core.event import Event, NewEvent
from everlog.core.patch import same
from everlog.core.position import check_checkpoint_name
from everlog.core.values import encode_json
from everlog.errors import (
    ConflictError,
    DivergenceError,
    EverlogError,
    InvalidEventError,
    LimitError,
    StepFailedError,
    StepUnknownError,
    WaitingError,
    WaitTimeoutError,
)
from everlog.forms import StepForm
from everlog.journal import DECISION, Journal, Record, StepName
from everlog.reducers.pending import DEFAULT_RUN
from everlog.steps import (
    MICROS,
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
    check_patience,
    check_step,
    keywords_of,
    recorded_input,
    seconds_of,
    time_of,
)
from everlog.storage import Receipt
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
        self._counts: Counter[tuple[str, str]] = Counter()
        self._finished = False  # whether the run is recorded as finished
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
            self._form.__exit__(
                None, None, None
            )  # one that ended by an error stays in flight: the next process goes on
        else:
            self._form.leave(self._form.driver)

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
        step = Step(name, recorded_input(arguments), chosen, retries, backoff)
        if function is None:
            return StepForm(self, step, timeout)
        return self._drive(self.perform(step), function, arguments, timeout)

    def stage(self, name: str, function: Callable[..., Any] | None = None, *arguments: Any) -> Any:
        """Group steps: `with run.stage("collect"): …`, or `run.stage("collect", collect, topic)`.

        At its end it makes a checkpoint of its name: a place to resume from (`session.rewind("collect")`) or to fork at, also
        with other code for what follows. Of a finished stage the function is not called; the body of a `with` runs again, and its
        steps give what they gave.
        """
        check_checkpoint_name(name)
        step = Step(name, recorded_input(arguments), "retry", kind="stage")
        if function is None:
            return StepForm(self, step)
        return self._drive(self.perform(step, whole=True), function, arguments, None)

    # --- waiting ---
    def wait(self, name: str, *, timeout: float | str | None = None, patience: float | None = None) -> Any:
        """Wait for a signal from outside (`session.signal(name, data)`); give its data.

        The first signal of that name that no wait has taken counts, also one that came before. timeout: seconds, or "2d", counted
        from the first time that this wait was asked for, in whatever process; then WaitTimeoutError. patience: how many
        seconds this process waits before it gives up with WaitingError, to come back later; None for ever, 0 for not at all.
        """
        check_step(name, "retry", 0, 1.0, None)
        check_patience(patience)
        return self._drive(self.waiting(name, seconds_of(timeout), patience), None, (), None)

    def sleep_until(self, when: datetime | str | float, *, name: str = "sleep", patience: float | None = None) -> None:
        """Sleep until a time, or for so many seconds or "2h", counted from the first time that it was asked for."""
        check_step(name, "retry", 0, 1.0, None)
        check_patience(patience)
        self._drive(self.sleeping(name, when, patience), None, (), None)

    def check_left(self) -> None:
        """Raise DivergenceError where something was recorded that this run has not asked for."""
        with self._journal.lock:
            left = self._journal.left()
        if left:
            name, record = left[0]
            event = record.started or record.finished
            more = "" if len(left) == 1 else f" and {len(left) - 1} more"
            raise DivergenceError(
                f"run {self.name!r} of session {self.session.id!r} ended without {name}, which stands in its record at position "
                f"{_place(event)}{more}; the record is as it was; run the code that recorded it, or fork there: "
                f"session.fork({_place(event)})",
                recorded=event,
                asked=None,
            )

    # --- the work, driven by a face ---
    def perform(self, step: Step, *, whole: bool = False) -> Work:
        """The work of one step. whole: what was recorded in it is not asked for where it is finished, as of a stage's function."""
        name = self._next(step.kind, step.name)
        record: Record = yield Read(lambda: self._find(name))
        self._check_same(name, record, step)
        self._check_open(name, record)
        if record.is_final and not self._may_retry(record):
            self._journal.give_out(name)
            if whole:
                self._pass_stage(record)
            return self._given_again(name, record)
        self._journal.give_out(name)
        effect_key = record.effect_key or f"ef_{self._draw(16).hex()}"
        attempt = record.attempt
        if record.started is not None and record.is_unknown:
            known = yield from self._unknown(name, step, record.started, attempt)
            if known is not None:
                return known.value
        elif record.finished is not None and not record.is_final:
            yield Sleep(record.finished.data["retry_at"])
        while True:
            attempt += 1
            receipt: Receipt = yield self._started(name, step, attempt, effect_key)
            started = receipt.events[0]
            if started.repeated and started.erased:  # only its key says that it was started before
                if step.kind == "stage":
                    self.leave_stage()
                known = yield from self._unknown(name, step, started, attempt)
                if known is not None:
                    return known.value
                continue
            try:
                value = yield Call(effect_key, attempt)
            except BaseException as error:
                if step.kind == "stage":
                    self.leave_stage()  # it stays in flight: what failed in it is recorded there
                if step.kind != "step" or not isinstance(error, Exception):
                    raise
                delay = None if attempt > step.retries else step.backoff * 2 ** min(attempt - 1, 20)
                yield self._failed(name, attempt, error, delay)
                if delay is None:
                    raise
                yield Sleep(self.session.storage.now() + int(delay * MICROS))
                continue
            try:
                encoded = encode_json(value, what="the result")
                ended = self._ended(name, attempt, {"result": value}, "ok")
            except (InvalidEventError, LimitError) as error:
                refused = _is_refused(error)
                yield self._failed(name, attempt, refused, None)
                raise refused from None
            yield ended
            return decode_state(encoded)

    def waiting(self, name: str, timeout: float | None, patience: float | None) -> Work:
        """The work of one wait."""
        place = self._next("wait", name)
        record: Record = yield Read(lambda: self._find(place))
        self._check_same(place, record, None)
        self._check_open(place, record)
        self._journal.give_out(place)
        if record.finished is not None:
            return self._waited(place, record.finished)
        until = None if record.started is None else record.started.data.get("until")
        if record.started is None:
            until = None if timeout is None else self.session.storage.now() + int(timeout * MICROS)
            yield self._waits(place, {} if until is None else {"until": until})
        gives_up = None if patience is None else time.monotonic() + patience
        while True:
            seen = self.session.storage.news()
            signal: Event | None
            signal, size = yield Read(lambda: self._signal(name))
            if signal is not None:
                data = signal.data["data"] if isinstance(signal.data, dict) else None
                try:
                    yield self._wait_ended(place, {"signal": signal.position}, caused_by=signal, expected=size)
                except ConflictError:
                    continue  # another wait may have taken it meanwhile
                self._journal.take(name, signal.position)
                return data
            now = self.session.storage.now()
            if until is not None and now >= until:
                try:
                    yield self._wait_ended(place, {}, outcome="timeout", expected=size)
                except ConflictError:
                    continue  # something was recorded meanwhile: it may be the signal
                raise self._timed_out(place, None)
            if gives_up is not None and time.monotonic() >= gives_up:
                raise WaitingError(
                    f"{place} of session {self.session.id!r} has no signal yet; the wait is recorded and goes on when the run is "
                    f"resumed; send it: everlog signal {self.session.id} {name} JSON",
                    name=name,
                )
            left = [WAIT_SECONDS] + ([] if until is None else [(until - now) / MICROS])
            left += [] if gives_up is None else [gives_up - time.monotonic()]
            yield News(seen, max(0.0, min(left)))

    def sleeping(self, name: str, when: datetime | str | float, patience: float | None) -> Work:
        """The work of one sleep: a wait that no signal ends."""
        place = self._next("wait", name)
        record: Record = yield Read(lambda: self._find(place))
        self._check_same(place, record, None)
        self._check_open(place, record)
        self._journal.give_out(place)
        if record.finished is not None:
            return
        until = None if record.started is None else record.started.data.get("until")
        if until is None:
            until = time_of(when, self.session.storage.now())
            yield self._waits(place, {"until": until, "sleep": True})
        now = self.session.storage.now()
        if patience is not None and until - now > patience * MICROS:
            raise WaitingError(
                f"{place} of session {self.session.id!r} goes on for {(until - now) / MICROS:.0f} more seconds; it is recorded, and "
                "over when the run is resumed after that",
                name=name,
            )
        yield Sleep(until)
        yield self._wait_ended(place, {}, outcome="timeout")

    # --- underneath ---
    def _next(self, kind: str, name: str) -> StepName:
        with self._journal.lock:
            self._counts[kind, name] += 1
            return StepName(kind, name, self._counts[kind, name])

    def _find(self, name: StepName) -> Record:
        with self._journal.lock:
            return self._journal.find(name)

    def _signal(self, name: str) -> tuple[Event | None, int]:
        """Give the first signal that no wait has taken, and the size that was looked at."""
        with self._journal.lock:
            return self._journal.signal(name), self._journal.size

    def _pass_stage(self, record: Record) -> None:
        """Count what a finished stage asked for, so that what follows it has the occurrences that it had."""
        with self._journal.lock:
            for name in self._journal.pass_stage(record):
                self._counts[name.kind, name.name] = max(self._counts[name.kind, name.name], name.occurrence)

    def _may_retry(self, record: Record) -> bool:
        return self._retry_failed and record.finished is not None and "error" in record.finished.data

    def _check_open(self, name: StepName, record: Record) -> None:
        """Raise DivergenceError where something new is asked for inside what is recorded as finished."""
        over = self._finished or any(stage.done for stage in self._inside())
        if over and record.started is None:
            raise DivergenceError(
                f"{name} is not in the record of run {self.name!r} of session {self.session.id!r}, and what it is asked for in is "
                "recorded as finished; nothing was written; run the code that recorded it, or rewind or fork before that and go on "
                "otherwise",
                recorded=None,
                asked=name.name,
            )

    def enter_finished(self, step: Step) -> None:
        """Note that the body of a stage or of the run begins that is recorded as finished."""
        self._finished = self._finished or step.kind == "run"
        if step.kind == "stage":
            self._enter_stage(step.name, done=True)

    def _enter_stage(self, name: str, *, done: bool) -> None:
        _INSIDE.set((*_INSIDE.get(), _Inside(id(self), name, done)))

    def leave_stage(self) -> None:
        """Note that the innermost stage is no longer under way here."""
        stages = _INSIDE.get()
        last = max((place for place, stage in enumerate(stages) if stage.run == id(self)), default=None)
        if last is not None:
            _INSIDE.set((*stages[:last], *stages[last + 1 :]))

    def _inside(self) -> list[_Inside]:
        """Give the stages of this run that this thread or task is in, the innermost last."""
        return [stage for stage in _INSIDE.get() if stage.run == id(self)]

    def _check_same(self, name: StepName, record: Record, step: Step | None) -> None:
        """Raise DivergenceError where the record of this name is of another thing."""
        event = record.started
        if event is None or step is None or step.kind == "run":
            return
        recorded = event.data.get("input")
        if same(recorded, step.input):
            return
        raise DivergenceError(
            f"{name} of run {self.name!r} of session {self.session.id!r} was recorded at position {event.position} with the input "
            f"{recorded!r:.300}, and is asked for with {step.input!r:.300}; nothing was written; run the code that recorded it, or "
            f"fork there and go on otherwise: session.fork({event.position})",
            recorded=event,
            asked=step.input,
        )

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

    def _unknown(self, name: StepName, step: Step, event: Event, attempt: int) -> Generator[Any, Any, _Known | None]:
        """Decide about a step that was started and not finished; None to run it again. event: its last start."""
        decision: Any = step.policy
        if step.policy == "ask":
            asked = DECISION + name.name
            yield from self._pass_over(asked, event)
            decision = yield from self.waiting(asked, None, None)
        result: Any = None
        if isinstance(decision, dict):
            decision, result = decision.get("decision"), decision.get("result")
        match decision:
            case "retry":
                return None
            case "finished":
                yield self._ended(name, attempt, {"result": result, "decided": True}, "ok")
                return _Known(result)
            case "fail":
                error = {"type": "StepUnknownError", "message": "it was started, and nothing says how that went"}
                yield self._ended(name, attempt, {"error": error}, "unknown")
                raise self._is_unknown(name, event)
            case _:
                raise InvalidEventError(
                    f'the signal \'step:{name.name}\' says {decision!r:.100}; nothing was decided; send "retry", "fail", or '
                    '{"decision": "finished", "result": …}'
                )

    def _pass_over(self, asked: str, started: Event) -> Generator[Any, Any, None]:
        """Count the decisions that are no answer: those about what was started before, and those that decide nothing."""
        while True:
            place = StepName("wait", asked, self._counts["wait", asked] + 1)
            record: Record = yield Read(lambda place=place: self._find(place))
            if record.finished is None:
                return
            if record.finished.position > started.position:
                finished = record.finished
                if _decides((yield Read(lambda: self._waited(place, finished)))):  # noqa: B023
                    return
            self._journal.give_out(self._next("wait", asked))

    def _is_unknown(self, name: StepName, event: Event) -> StepUnknownError:
        return StepUnknownError(
            f"{name} of session {self.session.id!r} was started (position {event.position}) and nothing says whether it took effect; "
            "it was not run again; give it policy='retry' where it may run twice, or policy='ask' to decide each time",
            event=event,
        )

    # --- events ---
    def _members(self, name: StepName, **members: Any) -> dict[str, Any]:
        what = "name" if name.kind == "wait" else "step"
        base: dict[str, Any] = {what: name.name, "occurrence": name.occurrence, **members}
        if name.kind in ("stage", "run"):
            base["kind"] = name.kind
        if self.name != DEFAULT_RUN:
            base["run"] = self.name
        stages = self._inside()
        if stages and name.kind != "run":
            base["stage"] = stages[-1].name
        return base

    def _key(self, name: StepName, what: str) -> str:
        run, step = (text.replace("%", "%25").replace(":", "%3A") for text in (self.name, name.name))
        key = f"{run}:{name.kind}:{step}:{name.occurrence}:{what}"
        return (
            key
            if len(key.encode()) <= limits.KEY_BYTES_MAX
            else f"{name.kind}:{sha256(key.encode()).hexdigest()}:{what}"
        )

    def _started(self, name: StepName, step: Step, attempt: int, effect_key: str) -> Write:
        data = self._members(name, attempt=attempt)
        if step.kind == "step":
            data["effect_key"] = effect_key
        if step.input is not None:
            data["input"] = step.input
        if step.kind == "stage":
            self._enter_stage(name.name, done=False)
        event = NewEvent("step.started", data, key=self._key(name, f"{attempt}:started"))
        return Write(self.session.own_request([event]))

    def _failed(self, name: StepName, attempt: int, error: Exception, delay: float | None) -> Write:
        said: dict[str, Any] = {"error": {"type": type(error).__name__, "message": _message_of(error)}}
        if delay is not None:
            said["retry_at"] = self.session.storage.now() + int(delay * MICROS)
        return self._ended(name, attempt, said, "timeout" if isinstance(error, TimeoutError) else "error")

    def _ended(self, name: StepName, attempt: int, said: dict[str, Any], outcome: Any) -> Write:
        if name.kind == "stage":
            self.leave_stage()
        data = self._members(name, attempt=attempt, **said)
        end = "decided" if outcome == "unknown" or "decided" in said else "finished"  # of one whose own end was erased
        events = [NewEvent("step.finished", data, outcome=outcome, key=self._key(name, f"{attempt}:{end}"))]
        if name.kind == "stage" and outcome == "ok":
            events.append(
                NewEvent("checkpoint", {"name": name.name, "data": {"run": self.name, "stage": name.occurrence}})
            )
        return Write(self.session.own_request(events))

    def _waits(self, name: StepName, members: dict[str, Any]) -> Write:
        event = NewEvent("wait.started", self._members(name, **members), key=self._key(name, "started"))
        return Write(self.session.own_request([event]))

    def _wait_ended(
        self,
        name: StepName,
        members: dict[str, Any],
        *,
        outcome: Any = "ok",
        caused_by: Event | None = None,
        expected: int | None = None,
    ) -> Write:
        data = self._members(name, **members)
        event = NewEvent("wait.finished", data, outcome=outcome, caused_by=caused_by, key=self._key(name, "finished"))
        return Write(self.session.own_request([event], expected=expected))

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


class _Inside(NamedTuple):
    """A stage that a thread or task is in. run: of which run, by id. done: whether it is recorded as finished."""

    run: int
    name: str
    done: bool


_INSIDE: ContextVar[tuple[_Inside, ...]] = ContextVar("everlog_stages", default=())


class _Known(NamedTuple):
    """What a step is decided to have given."""

    value: Any


def _place(event: Event | None) -> int:
    return -1 if event is None else event.position


def _decides(data: Any) -> bool:
    """Tell whether a signal decides about an unknown step."""
    decision = data.get("decision") if isinstance(data, dict) else data
    return isinstance(decision, str) and decision in ("retry", "fail", "finished")


def _message_of(error: Exception) -> str:
    """Give what an error says, as it can be recorded."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001  # whatever is wrong with it, that it was raised is recorded
        return ""
    return said[: limits.REASON_CHARACTERS_MAX].encode("utf-8", "replace").decode()


def _is_refused(error: EverlogError) -> InvalidEventError:
    return InvalidEventError(
        f"what the step gave cannot be recorded: {error.message.partition('; ')[0]}; it took effect; give JSON values"
    )
