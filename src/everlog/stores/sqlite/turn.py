"""Turns: processes that write one file take turns by `flock` on a side file.

SQLite's own busy handler starves: of four processes appending, one got one append in four seconds. With `flock` round
each write transaction the longest wait was 63 ms (measured November 2026).

The wait has a deadline, which `flock` has not. So a process that finds the lock taken lets a thread of its own wait for
it; at the deadline the caller goes away, and the thread, once it gets the lock, lets go of it at once.
"""

from __future__ import annotations

import fcntl
import os
from threading import Condition, Lock, Thread
from typing import Final
from weakref import finalize

from everlog.errors import BusyError

_FREE, _WAITING, _HELD, _ABANDONED = range(4)
_IDLE_SECONDS: Final = 1.0  # for which the thread waits to be asked again, and keeps a store that nobody uses any more


class Turn:
    """The right of one process to write a file. Called by one thread at a time (the committer's)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._let_go = finalize(self, os.close, self._descriptor)  # once: by `close`, or where a store is dropped open
        self._let_go.atexit = False
        self._lock = Lock()  # taken itself: Ctrl-C at the end of a condition's own methods would leave it taken
        self._changed = Condition(self._lock)
        self._state = _FREE
        self._waiter: Thread | None = None
        self._closed = False

    def take(self, timeout: float) -> None:
        """Take the turn, or raise BusyError after `timeout` seconds."""
        if self._state == _FREE:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                return
        self._take_slowly(timeout)

    def release(self) -> None:
        """Let the next process write."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the side file. The file stays: removing it would let two processes hold two locks."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
        if self._waiter is None or self._state == _FREE:
            self._let_go()

    def _take_slowly(self, timeout: float) -> None:
        with self._lock:
            if self._waiter is None:
                self._begin_waiter()
            if self._state in (_FREE, _ABANDONED):
                self._state = _WAITING
                self._changed.notify_all()  # also where it was abandoned: the thread may not have heard of that wait at all
            try:
                held = self._changed.wait_for(lambda: self._state == _HELD, timeout)
            except BaseException:  # Ctrl-C: the thread lets go of the lock, now or when it gets it
                if self._state == _HELD:
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                self._state = _FREE if self._state == _HELD else _ABANDONED
                raise
            self._state = _FREE if held else _ABANDONED
        if held:
            return  # the lock is ours; nobody waits in the thread any more
        raise BusyError(
            f"another process has held {self._path} for {timeout:.0f} s; nothing was written; see what it is doing, or try "
            "again later"
        )

    def _begin_waiter(self) -> None:
        self._waiter = Thread(target=self._wait_for_lock, name="everlog-turn", daemon=True)
        try:
            self._waiter.start()
        except Exception as error:  # RuntimeError, MemoryError: the next that finds the lock taken tries again
            self._waiter = None
            raise BusyError(
                f"another process holds {self._path}, and this one may begin no thread that waits for it ({error}); nothing was "
                "written; try again later"
            ) from error

    def _wait_for_lock(self) -> None:
        while True:
            with self._lock:
                self._changed.wait_for(lambda: self._state == _WAITING or self._closed, _IDLE_SECONDS)
                if self._state != _WAITING:
                    self._waiter = None
                    return
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            with self._lock:
                if self._state == _WAITING and not self._closed:
                    self._state = _HELD
                    self._changed.notify_all()
                else:
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # before the state: a caller may take it at once
                    self._state = _FREE
