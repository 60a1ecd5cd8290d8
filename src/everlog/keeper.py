"""Keeping snapshots up in the background, so that a session that grew can be woken without folding it anew.

A thread of its own, started when the first session of this process has grown enough, follows sessions that grow: no caller
that appends waits for a snapshot. While somebody appends it works for a tenth of the time: Python runs one thread at a time, and
one that was always ready to run took a third of a batch's rate (2026-11).
"""

from __future__ import annotations

import time
from threading import Condition, Lock, Thread

from everlog.errors import EverlogError
from everlog.reader import View
from everlog.rebuild import Builder, SnapshotPolicy
from everlog.reducers.registry import find_reducer
from everlog.storage import Storage

_COUNTED_MAX = 10_000  # sessions whose growth is remembered; forgetting one delays its next snapshot
_JOIN_SECONDS = 10.0
_REST = 9.0  # for each second of work while somebody appends
_REST_SECONDS_MAX = 1.0


class SnapshotKeeper:
    """Takes snapshots of sessions that have grown by `policy.events` in this process."""

    def __init__(self, storage: Storage, policy: SnapshotPolicy) -> None:
        self._storage = storage
        self.policy = policy
        self._grown: dict[str, int] = {}
        self._appends = 0
        self._rested = (0, 0.0)  # appends up to the last rest, and when it ended
        self._needed: dict[
            str, int
        ] = {}  # growth after which a session is folded on, where it is more than `policy.events`
        self._waiting: dict[str, None] = {}  # in order
        self._lock = Lock()  # taken itself: Ctrl-C at the end of a condition's own methods would leave it taken
        self._changed = Condition(self._lock)
        self._thread: Thread | None = None
        self._working = False
        self._stopped = False

    def appended(self, session_id: str, events: int) -> None:
        """Note that a session has grown. Called after every append, so it only counts."""
        if not self.policy.automatic:
            return
        self._appends += 1
        grown = self._grown.get(session_id, 0) + events
        if grown < self._needed.get(session_id, self.policy.events):
            if len(self._grown) >= _COUNTED_MAX:
                self._grown.clear()
                self._needed.clear()
            self._grown[session_id] = grown
            return
        self._grown[session_id] = 0
        with self._lock:
            if self._stopped:
                return
            self._waiting[session_id] = None
            if self._thread is None:
                self._thread = Thread(target=self._run, name="everlog-snapshots", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Wait until every session that has grown enough was seen to; False where that takes longer."""
        with self._lock:
            return self._changed.wait_for(lambda: not self._waiting and not self._working, timeout)

    def stop(self) -> None:
        """Take nothing more. What is under way ends when the store is closed."""
        with self._lock:
            self._stopped = True
            self._waiting.clear()
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for what is under way."""
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        while True:
            with self._lock:
                self._working = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._stopped)
                if self._stopped:
                    return
                session_id = next(iter(self._waiting))
                del self._waiting[session_id]
                self._working = True
            self._rested = (self._appends, time.monotonic())
            folded = [self._take(session_id, name) for name in self.policy.reducers if not self._stopped]
            self._needed[session_id] = max([self.policy.events, *folded])

    def _rest(self) -> None:
        """Let those who append have the processor, where somebody does."""
        appends, since = self._rested
        if self._appends != appends:
            rest = min(_REST * (time.monotonic() - since), _REST_SECONDS_MAX)
            with self._lock:
                self._changed.wait_for(lambda: self._stopped, rest)
        self._rested = (self._appends, time.monotonic())

    def _take(self, session_id: str, name: str) -> int:
        """Fold what is new of a session; the fold takes the snapshots. Give how many events the next fold begins with.

        Where no snapshot was worth its bytes, that is all of them: the session is folded again when it has doubled, so that
        a session costs a few folds of itself, however it grows.
        """
        try:
            branch = self._storage.current_branch(session_id)
            view = View(branch, self._storage.lineage(branch.key, ""))
            builder = Builder(self._storage, view, find_reducer(name), taking=self.policy, pause=self._rest)
            builder.build(branch.size)
            return branch.size - builder.snapshot_size
        except EverlogError:
            return 0  # a reducer that raises, a store that is busy or closed: whoever asks for the state is told
        except Exception:  # noqa: BLE001  # one session's fault must not end the snapshots of all others
            return 0
