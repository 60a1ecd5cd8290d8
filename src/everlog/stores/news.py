"""News: one counter that grows when something may have been recorded, and the threads that wait for it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Lock, Thread

POLL_SECONDS = 0.008  # between looks at what other processes did; follow promises 50 ms
_IDLE_SECONDS = 1.0  # how long the polling thread outlives the last one who waited


class News:
    """Wakes who waits. Other processes' commits are noticed by one polling thread, which runs only while somebody waits.

    look: tells, each time it is called, whether another process committed since the last call. poll: seconds between looks.
    """

    def __init__(self, look: Callable[[], bool] | None = None, poll: float = POLL_SECONDS) -> None:
        self._look = look
        self._poll_seconds = poll
        self._lock = Lock()  # taken itself: Ctrl-C at the end of a condition's own methods would leave it taken
        self._changed = Condition(self._lock)
        self._count = 0
        self._waiting = 0
        self._watcher: Thread | None = None
        self._closed = False

    @property
    def count(self) -> int:
        return self._count

    def announce(self) -> None:
        """Something was committed by this process."""
        self._count += 1  # one writer at a time; a reader that misses it by a moment polls
        if self._waiting:
            with self._lock:
                self._changed.notify_all()

    def wait(self, seen: int, timeout: float) -> int:
        """Wait until the counter passes `seen`, at most `timeout` seconds; give the counter."""
        with self._lock:
            if self._count <= seen and not self._closed:
                self._waiting += 1
                try:
                    self._watch()
                    self._changed.wait_for(lambda: self._count > seen or self._closed, timeout)
                finally:
                    self._waiting -= 1
            return self._count

    def close(self) -> None:
        """Wake everybody for the last time."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
            watcher = self._watcher
        if watcher is not None:
            watcher.join(1.0)

    def _watch(self) -> None:
        if self._look is not None and self._watcher is None:
            self._watcher = Thread(target=self._poll, args=(self._look,), name="everlog-news", daemon=True)
            self._watcher.start()

    def _poll(self, look: Callable[[], bool]) -> None:
        idle = 0.0
        while True:
            changed = look()
            with self._lock:
                if changed:
                    self._count += 1
                    self._changed.notify_all()
                idle = 0.0 if self._waiting else idle + self._poll_seconds
                if self._closed or idle > _IDLE_SECONDS:
                    self._watcher = None  # decided under the lock, so that nobody counts on a thread that ends
                    return
                self._changed.wait_for(lambda: self._closed, self._poll_seconds)
