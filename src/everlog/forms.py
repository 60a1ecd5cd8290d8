"""A step that is a decorated function or the body of a `with`, rather than a call."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from everlog.errors import InvalidEventError
from everlog.steps import Call, Driven, Driver, Step, recorded_input

if TYPE_CHECKING:
    from everlog.runs import Run


class StepForm:
    """A step whose work is a function that is decorated, or the body of a `with`.

    done: whether it was recorded before, so that the body need not do it. result: what it gave; set it in the body.
    """

    def __init__(self, run: Run, step: Step, timeout: float | None = None) -> None:
        self._run = run
        self._step = step
        self._timeout = timeout
        self.driver: Driver | None = None
        self.done = False
        self.result: Any = None
        self.effect_key: str | None = None
        self.attempt = 0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        run, step, timeout = self._run, self._step, self._timeout

        def recorded(*arguments: Any) -> Any:
            asked = step._replace(input=recorded_input(arguments))
            return run._drive(run.perform(asked), function, arguments, timeout)

        recorded.__name__ = getattr(function, "__name__", step.name)
        recorded.__doc__ = function.__doc__
        return recorded

    def __enter__(self) -> StepForm:
        self.check_body()
        self.driver = Driver(self._run.session, self._run.perform(self._step))
        self.begin(self.driver.run(), self.driver.value)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        driver = self.driver
        assert driver is not None, "it was entered"
        if not self.ends(driver, error):
            return
        try:
            driver.run()
        except Exception as raised:
            if raised is not error:
                raise
            return
        self.result = driver.value

    # The parts of a body, which the async face puts together in its own way.
    def check_body(self) -> None:
        """Refuse retries, which a body cannot have."""
        if self._step.retries:
            raise InvalidEventError(
                "the body of a `with` cannot be run again; nothing was written; give a function for retries"
            )

    def begin(self, call: Call | None, value: Any) -> None:
        """Note that the body begins: that of a step that is called, or of one that gave a value before."""
        if call is None:
            self.done, self.result = True, value
            self._run.enter_finished(self._step)
        else:
            self.effect_key, self.attempt = call

    def ends(self, driver: Driven, error: BaseException | None) -> bool:
        """Tell what drives the work how the body ended; False where nothing is to be recorded."""
        if error is None and not self.done:
            driver.give(self.result)
            return True
        if isinstance(error, Exception) and self._step.kind == "step" and not self.done:
            driver.fail(error)
            return True
        self.leave(driver)
        return False

    def leave(self, driver: Driven | None) -> None:
        """Leave it in flight, as a process that dies does."""
        if self.done:
            if self._step.kind == "stage":
                self._run.leave_stage()
        elif driver is not None:
            driver.close()
