"""A step that is a decorated function or the body of a `with`, rather than a call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any

from everlog.errors import InvalidEventError
from everlog.scopes import Scope, StepName
from everlog.steps import NO_RESULT, Call, Driven, Driver, Step, Work, check_function, recorded_input

if TYPE_CHECKING:
    from everlog.runs import Run


class StepForm:
    """A step whose work is a function that is decorated, or the body of a `with`.

    done: whether it was recorded before, so that the body need not do it. result: what it gave; set it in the body.
    effect_key: to be handed to whatever must not happen twice. attempt: which try this is, from 1.
    """

    def __init__(self, run: Run, step: Step, timeout: float | None = None) -> None:
        self._run = run
        self._step = step
        self._timeout = timeout
        self._driver: Driven | None = None  # while the body runs
        self._name: StepName | None = None
        self._scope: Scope | None = None  # of a body that is recorded as finished
        self.done = False
        self.result: Any = None
        self.effect_key: str | None = None
        self.attempt = 0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        run, timeout = self._run, self._timeout
        check_function(function)

        @wraps(function)
        def recorded(*arguments: Any, **keywords: Any) -> Any:
            return run._drive(self._asked_with(arguments, keywords), partial(function, **keywords), arguments, timeout)

        return recorded

    def __enter__(self) -> StepForm:
        driver = Driver(self._run.session, self._open_body())
        self._driver = driver
        self._begin(driver.run(), driver.value)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        driver = self._driver
        assert isinstance(driver, Driver), "it was entered"
        if not self._ends(driver, error):
            return
        try:
            driver.run()
        except Exception as raised:
            if raised is not error:
                raise
            return
        self.result = driver.value

    # The parts of a form, which the async face puts together in its own way.
    def _asked_with(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Work:
        """Give the work of a decorated function that was called."""
        return self._run._perform(self._step._replace(input=recorded_input(self._run.session, arguments, keywords)))

    def _open_body(self) -> Work:
        """Give the work of a body that is about to begin. Refuses what a body cannot have."""
        if self._step.retries or self._timeout is not None:
            raise InvalidEventError(
                "the body of a `with` cannot be run again or cut short; nothing was written; give a function for retries and timeout"
            )
        if self._driver is not None:
            raise InvalidEventError(
                f"the body of {self._step.name!r} runs already; nothing was written; make a step of its own: run.step(…)"
            )
        self.done, self.result, self.effect_key, self.attempt = False, None, None, 0
        return self._run._perform(self._step, self._named)

    def _named(self, name: StepName) -> None:
        self._name = name

    def _begin(self, call: Call | None, value: Any) -> None:
        """Note that the body begins: that of a step that is called, or of one that gave a value before."""
        if call is None:
            assert self._name is not None, "it was asked for"
            self.done, self.result = True, value
            self._scope = self._run._enter_finished(self._name)
        else:
            self.effect_key, self.attempt = call

    def _ends(self, driver: Driven, error: BaseException | None) -> bool:
        """Tell what drives the work how the body ended; False where nothing is to be recorded."""
        if not self.done and error is None:
            driver.give(self.result)
        elif (
            not self.done
            and isinstance(error, Exception)
            and self._step.kind == "step"
            and not isinstance(error, NO_RESULT)
        ):
            driver.fail(error)
        else:
            self._leave(driver)
            return False
        self._driver = None
        return True

    def _leave(self, driver: Driven | None) -> None:
        """Leave it in flight, as a process that dies does."""
        self._driver = None
        if self._scope is not None and self._name is not None:
            self._run._leave_finished(self._name, self._scope)
            self._scope = None
        elif driver is not None and not self.done:
            driver.close()
