"""Scopes: what a step is asked for in: the run itself, a stage, or the function of another step.

1. Each counts what is asked for in it, so that a step's name and occurrence are the same whatever goes on beside it, however
   often the stage or step around it was begun, and whether its function is called again or not.
2. A thread or task is in the scopes that its context says (contextvars): tasks and `asyncio.to_thread` inherit it, threads
   that are started bare do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar
from hashlib import sha256
from threading import Lock
from typing import NamedTuple

from everlog.core import limits


class StepName(NamedTuple):
    """What names a step, stage, run or wait of a run. kind: "step", "stage", "run" or "wait". within: the scope's path."""

    kind: str
    name: str
    occurrence: int
    within: str = ""

    def __str__(self) -> str:
        times = "" if self.occurrence == 1 else f" #{self.occurrence}"
        places = self.within.split("/")[-2::-1]
        around = "".join(f" in {kind} {_unescape(name)!r}" for kind, name, _ in (each.split(":") for each in places))
        return f"{self.kind} {self.name!r}{times}{around}"

    @property
    def path(self) -> str:
        """The path of the scope that it is itself."""
        return f"{self.within}{self.kind}:{_escape(self.name)}:{self.occurrence}/"

    def key(self, run: str, what: str) -> str:
        """Give the idempotency key of one of its events."""
        key = f"{_escape(run)}:{self.path[:-1]}:{what}"
        return (
            key
            if len(key.encode()) <= limits.KEY_BYTES_MAX
            else f"{self.kind}:{sha256(key.encode()).hexdigest()}:{what}"
        )


class Scope:
    """One scope as it is gone through. path: that of the step or stage; "" of a run. stage: the innermost, for people.

    done: whether it is recorded as finished, so that nothing new belongs in it.
    """

    def __init__(self, run: object, path: str = "", stage: str | None = None, *, done: bool = False) -> None:
        self.run = run
        self.path = path
        self.stage = stage
        self.done = done
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = Lock()

    @property
    def asked(self) -> bool:
        """Whether anything was asked for in it."""
        return bool(self._counts)

    def next(self, kind: str, name: str) -> StepName:
        """Name what is asked for next."""
        with self._lock:
            self._counts[kind, name] += 1
            return StepName(kind, name, self._counts[kind, name], self.path)

    def peek(self, kind: str, name: str) -> StepName:
        """Name what would be asked for next."""
        return StepName(kind, name, self._counts[kind, name] + 1, self.path)


_INSIDE: ContextVar[tuple[Scope, ...]] = ContextVar("everlog_scopes", default=())


def innermost(root: Scope) -> Scope:
    """Give the scope of a run that this thread or task is in; `root` where it is in none."""
    return next((scope for scope in reversed(_INSIDE.get()) if scope.run is root.run), root)


def enter(scope: Scope) -> None:
    """Have this thread or task be in a scope."""
    _INSIDE.set((*_INSIDE.get(), scope))


def leave(scope: Scope) -> None:
    """Have this thread or task be in a scope no more."""
    _INSIDE.set(tuple(each for each in _INSIDE.get() if each is not scope))


def paths_around(name: StepName) -> Iterator[str]:
    """Give the paths of the scopes that a step is in, the innermost last."""
    end = 0
    while end := name.within.find("/", end) + 1:
        yield name.within[:end]


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace(":", "%3A").replace("/", "%2F")


def _unescape(text: str) -> str:
    return text.replace("%2F", "/").replace("%3A", ":").replace("%25", "%")
