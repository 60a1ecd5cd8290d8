"""Calls that have one name take turns, in the order in which they came.

Frameworks hand what belongs in an order to threads that run at the same time: LangGraph what a task wrote, and the checkpoint that
follows; the Claude Agent SDK's store what is appended to one transcript; ADK's agents what they append to the session that they share. An
ordinary lock lets any of those that wait go on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future as Submitted
from types import TracebackType
from typing import Concatenate, Final, ParamSpec, TypeVar

from everlog.errors import BusyError
from everlog.integrations.forked import begin_in_each_process
from everlog.integrations.threads import submitted

WAIT_SECONDS: Final = 60.0  # for one call, which may wait for its store more than once
_NOBODY_BEFORE: Final = threading.Event()  # of every turn that need not wait
_NOBODY_BEFORE.set()
P = ParamSpec("P")
T = TypeVar("T")


class Turn:
    """A place among the calls for a name: taken where the call came, entered and left in whatever thread carries it out."""

    __slots__ = ("_turns", "first", "left", "name")

    def __init__(self, turns: Turns, name: str, first: threading.Event) -> None:
        """first: set once all that came before have left, and where this one has."""
        self._turns = turns
        self.name = name
        self.first = first
        self.left = False

    def enter(self) -> None:
        """Wait until all that came before have left. Raises BusyError, and leaves, where none of them does for too long."""
        try:
            self._turns.wait(self)
        except BaseException:  # such as KeyboardInterrupt: who comes next must not wait for this one
            self.leave()
            raise

    def __enter__(self) -> None:
        self.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Let the next one go on; also where this one never did, and where it has left."""
        self._turns.end(self)


class Turns:
    """Lets one call for each name go on at a time. A call must not take a turn of its own name within itself.

    seconds: for which a call waits while none of those before it ends.
    """

    def __init__(self, seconds: float = WAIT_SECONDS) -> None:
        self._seconds = seconds
        begin_in_each_process(self._begin)

    def _begin(self) -> None:
        """Have nobody before the next call."""
        self._order = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Turn]] = {}

    def take(self, name: str) -> Turn:
        """Give the turn after all that were taken before. Whoever took it is to leave it."""
        with self._lock:
            queue = self._waiting.get(name)
            if queue is None:
                queue = self._waiting[name] = deque()
            turn = Turn(self, name, threading.Event() if queue else _NOBODY_BEFORE)
            queue.append(turn)
        return turn

    def submit(
        self, name: str, call: Callable[Concatenate[Turn, P], T], *args: P.args, **keywords: P.kwargs
    ) -> Submitted[T]:
        """Begin a call in a thread, with the turn after all that were taken before, which it is to enter and to leave.

        Threads are given as turns are, also from two loops: else the first might wait for a thread of those behind it. Raises as `submitted`.
        """
        with self._order:
            turn = self.take(name)
            try:
                return submitted(call, turn, *args, **keywords)
            except BaseException:
                turn.leave()
                raise

    def wait(self, turn: Turn) -> None:
        """Wait until a turn is the first. Raises BusyError; also where it was left meanwhile."""
        before = None if turn.first.is_set() else self._before(turn)
        while not (turn.first.is_set() or turn.first.wait(self._seconds)):
            now = self._before(turn)
            if now == before:
                raise BusyError(
                    f"for {self._seconds:g} seconds none of {now} calls of this process before this one ended; nothing was written; "
                    "try again"
                )
            before = now
        if turn.left:
            raise BusyError("whoever made this call went away before its turn; nothing was written; make it again")

    def _before(self, turn: Turn) -> int | None:
        """Give how many calls are before one; None where it has left."""
        with self._lock:
            queue = self._waiting.get(turn.name, ())
            return next((place for place, each in enumerate(queue) if each is turn), None)

    def end(self, turn: Turn) -> None:
        """Take a turn out, wherever it stands, and tell the one that is the first then."""
        with self._lock:
            turn.left = True
            if not turn.first.is_set():  # the one of all never is again: its lock might be held where a process forks
                turn.first.set()
            queue = self._waiting.get(turn.name)
            if queue is None:
                return
            if turn in queue:  # not where it was left before; what an interruption kept that from is made up for then
                queue.remove(turn)
            if not queue:
                del self._waiting[turn.name]
            elif not queue[0].first.is_set():
                queue[0].first.set()
