"""Calls for one thread take turns, in the order in which they came.

LangGraph hands what a task wrote, and the checkpoint that follows, to threads that run at the same time. Recorded in another order than
handed over, they would need keys and more events than they do.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager


class Turns:
    """Lets one call for each name go on at a time; an ordinary lock lets any of those that wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[threading.Lock]] = {}

    @contextmanager
    def of(self, name: str) -> Generator[None]:
        """Wait until all that came before are through. Not to be taken within itself."""
        mine = threading.Lock()
        mine.acquire()
        with self._lock:
            queue = self._waiting.setdefault(name, deque())
            queue.append(mine)
            is_first = len(queue) == 1
        try:
            if not is_first:
                mine.acquire()  # until the one before releases it
            yield
        finally:
            with self._lock:
                was_first = queue[0] is mine
                queue.remove(mine)
                if not queue:
                    del self._waiting[name]
                elif was_first:
                    queue[0].release()

    def count(self, name: str) -> int:
        """Give how many calls for a name are there: the one that goes on, and those that wait."""
        with self._lock:
            return len(self._waiting.get(name, ()))
