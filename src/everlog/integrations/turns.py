"""Calls that have one name take turns, in the order in which they came.

Frameworks hand what belongs in an order to threads that run at the same time: LangGraph what a task wrote, and the checkpoint that
follows; the Claude Agent SDK's store what is appended to one transcript. An ordinary lock lets any of those that wait go on.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class Turn:
    """A place among the calls for a name: taken where the call came, entered and left in whatever thread carries it out."""

    def __init__(self, turns: Turns, name: str) -> None:
        self._turns = turns
        self.name = name
        self.first = threading.Event()  # set once all that came before have left

    def __enter__(self) -> None:
        self.first.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Let the next one go on; also where this one never did, and where it has left."""
        self._turns.end(self)


class Turns:
    """Lets one call for each name go on at a time. A call must not take a turn of its own name within itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Turn]] = {}

    def take(self, name: str) -> Turn:
        """Give the turn after all that were taken before. Whoever took it is to leave it."""
        turn = Turn(self, name)
        with self._lock:
            queue = self._waiting.setdefault(name, deque())
            queue.append(turn)
            if len(queue) == 1:
                turn.first.set()
        return turn

    def end(self, turn: Turn) -> None:
        with self._lock:
            queue = self._waiting.get(turn.name, deque())
            if turn in queue:
                queue.remove(turn)
            if queue:
                queue[0].first.set()
            else:
                self._waiting.pop(turn.name, None)

    def count(self, name: str) -> int:
        """Give how many calls for a name are there: the one that goes on, and those that wait."""
        with self._lock:
            return len(self._waiting.get(name, ()))
