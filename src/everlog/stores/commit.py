"""Group commit: many writers of one process share one transaction and one fsync, as LevelDB queues its writers.

1. A caller queues its request. If nobody leads, it leads: it commits what is queued, in one transaction, and wakes the
   next, which wakes the one behind it: woken all at once they would only wait for one another, for Python runs one at a time.
   A caller alone pays no thread hop.
2. Whoever led hands the lead to the first request still queued. Should a leader be interrupted (Ctrl-C), whoever waits
   notices and takes over; a request that it had taken then has an unknown outcome. Nor does anybody wait for long to be woken by one
   that was interrupted.
3. Requests from event loops are led by one background thread, so that no loop ever waits for a disk. It alone tells them what became of
   them, whoever led: Ctrl-C never comes to it. They do not look for themselves, so after each interruption it leads, and answers what was taken.
4. A request that was not taken yet can be withdrawn; once taken, it is carried out or refused, and never both.
5. Where it is asked to gather, whoever leads waits for as many requests as were under way together when the last group was done: those
   that were just answered are about to ask for more. It waits half as long as that group took, at most, counted from its end, and seldom
   where that was in vain. One writer alone is never kept waiting: nothing else was under way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar

from everlog.cold import ColdRequest, cold_bytes
from everlog.core import limits
from everlog.errors import BusyError, OutcomeUnknownError, UnavailableError
from everlog.sealed import PlaceRecords, PutSeal
from everlog.storage import (
    Adopt,
    Delete,
    DropSnapshots,
    Erase,
    Graft,
    PutSnapshots,
    Receipt,
    RenewLease,
    Request,
    Withdraw,
)

_LOOK_SECONDS = 0.2  # between looks at whether whoever leads is still there
_IDLE_SECONDS = 1.0  # for which the background thread waits for more, and keeps a store that nobody uses any more
_PATIENCE = 0.5  # times what the last group took: 8 threads, and 32, were there again by then (2026-11)
_GATHER_SECONDS_MAX = 0.002  # where a sync takes far longer, others come during it
_GROUPS_PASSED_MAX = 63  # that go without waiting after one that waited in vain
INTERRUPTED = "the commit was interrupted; whether it took effect is not known; append again with the same key to learn"

Outcome = Receipt | Exception
Q = TypeVar("Q")  # what is queued: a request, with what its store needs to know of it


class _Entry(Generic[Q]):
    """One queued request. `wake` is released when it is done, or when its caller is to lead. following: whom its caller wakes."""

    __slots__ = ("done", "following", "leads", "outcome", "request", "resolve", "wake")

    def __init__(self, request: Q, resolve: Callable[[Outcome], None] | None) -> None:
        self.request = request
        self.resolve = resolve
        self.outcome: Outcome | None = None
        self.following: _Entry[Q] | None = None
        self.done = False
        self.leads = False
        self.wake = Lock()
        self.wake.acquire()

    def rouse(self) -> None:
        """Wake whoever waits for it."""
        if self.wake.locked():
            self.wake.release()


class Committer(Generic[Q]):
    """A queue of one store in one process.

    commit_group: carries out what is queued in one transaction; gives one outcome each, in order, and raises only what befell all of
    them. held: the bytes that one brings. gathers: whether a group waits a moment for those that are about to come.
    """

    def __init__(
        self, commit_group: Callable[[Sequence[Q]], list[Outcome]], held: Callable[[Q], int], *, gathers: bool = False
    ) -> None:
        self._commit_group = commit_group
        self._held = held
        self._gathers = gathers
        self._mutex = Lock()  # guards all below; never held while a transaction runs
        self._queue: deque[_Entry[Q]] = deque()
        self._leading = False  # a hint, so that one leads and the others wait; the lock is what keeps leaders apart
        self._commit_lock = Lock()
        self._closed = False
        self._background: Thread | None = None
        # No Semaphore: Ctrl-C in its `release` may leave it locked.
        self._background_turn: SimpleQueue[None] = SimpleQueue()
        self._background_leads = False
        self._taken: list[_Entry[Q]] = []  # by the leader; of one that was interrupted, until the next one leads
        self._answered: deque[_Entry[Q]] = deque()  # of event loops, which the background thread is to tell
        # What follows is for gathering. `_gathered` is released when as many as `_wanted` are queued.
        self._gathered = Lock()
        self._gathered.acquire()
        self._wanted = 0
        self._under_way = 1  # requests, when the last group was done
        self._patience = 0.0  # the moment up to which the next group waits
        self._passed = 0  # groups that are still to go without waiting
        self._in_vain = 0  # groups that went so, or are to, since one waited in vain

    def write(self, request: Q) -> Receipt:
        """Carry out a request with whatever else is queued; give its receipt or raise its refusal."""
        entry = _Entry(request, None)
        try:
            with self._mutex:
                self._check_open()
                self._add(entry)
                entry.leads = not self._leading
                self._leading = True
            self._see_through(entry)
        except BaseException:  # KeyboardInterrupt: let the next writer lead, without waiting for one that went away
            with self._mutex:
                self._leading = False
                self._background_leads = True
                self._background_turn.put(None)
            raise
        finally:
            following, entry.following = entry.following, None
            if following is not None:
                following.rouse()
        outcome = entry.outcome
        if isinstance(outcome, Receipt):
            return outcome
        assert outcome is not None, "a request that was taken has an outcome"
        raise outcome

    def _see_through(self, entry: _Entry[Q]) -> None:
        """Lead, or wait for whoever leads, until the entry is done. At the deadline it is withdrawn, unless it was taken."""
        deadline = time.monotonic() + limits.LOCK_SECONDS_MAX
        while not entry.done:
            if entry.leads:
                entry.leads = False
                self._lead()
                if self._answered:
                    self._background_turn.put(None)
            elif not entry.wake.acquire(timeout=_LOOK_SECONDS):
                self._look(entry, late=time.monotonic() >= deadline)

    def _look(self, entry: _Entry[Q], *, late: bool) -> None:
        """Take over where whoever led was interrupted; give up where it takes too long."""
        if late and self._withdraw(entry):
            raise BusyError(
                f"the store was busy for {limits.LOCK_SECONDS_MAX:.0f} s; nothing was written; try again later"
            )
        with self._mutex:
            nobody_leads = not self._commit_lock.locked()
            if nobody_leads and entry in self._queue:
                entry.leads = True
            elif nobody_leads and not entry.done:
                raise OutcomeUnknownError(INTERRUPTED)

    def submit(self, request: Q, resolve: Callable[[Outcome], None]) -> Withdraw:
        """Queue a request and return at once; `resolve` is called once, from the background thread."""
        entry = _Entry(request, resolve)
        with self._mutex:
            self._check_open()
            if len(self._queue) >= limits.QUEUE_REQUESTS_MAX:
                raise BusyError(
                    f"{len(self._queue)} appends wait in this process already; nothing was written; append fewer at once"
                )
            if self._background is None:
                self._begin_background()
            self._add(entry)
            if not self._leading:
                self._leading = self._background_leads = True
                self._background_turn.put(None)
        return lambda: self._withdraw(entry)

    def _begin_background(self) -> None:
        """Begin the background thread, before anything is queued for it."""
        self._background = Thread(target=self._run_background, name="everlog-commit", daemon=True)
        try:
            self._background.start()
        except Exception as error:  # RuntimeError, MemoryError: the next that is submitted tries again
            self._background = None
            raise BusyError(
                f"this process may begin no further thread ({error}); nothing was written; try again later"
            ) from error

    def close(self) -> None:
        """Refuse new requests, let what is queued be carried out, and end the background thread."""
        with self._mutex:
            self._closed = True
            background = self._background
            self._background = None
        if background is not None:
            self._background_turn.put(None)
            background.join(limits.LOCK_SECONDS_MAX)

    def _check_open(self) -> None:
        if self._closed:
            raise UnavailableError("the store is closed; nothing was written; open it again")

    def _add(self, entry: _Entry[Q]) -> None:
        self._queue.append(entry)
        if self._wanted and len(self._queue) >= self._wanted:
            self._wanted = 0
            self._gathered.release()

    def _withdraw(self, entry: _Entry[Q]) -> bool:
        """Take an entry out of the queue; False if it was taken, or is the one to lead."""
        with self._mutex:
            if entry.leads or entry not in self._queue:
                return False
            self._queue.remove(entry)
            return True

    def _lead(self) -> None:
        """Commit one group and hand the lead on. The lock makes a second leader, should there be one, wait its turn."""
        with self._commit_lock:
            if self._taken:
                self._recover()
            if self._gathers and self._under_way > 1:
                self._gather()
            with self._mutex:
                group = self._take()
            begun = time.monotonic()
            try:
                outcomes = self._commit_group([entry.request for entry in group]) if group else []
            except Exception as error:  # noqa: BLE001  # whatever befell the group is told to each who waits for it
                outcomes = [error] * len(group)
            except BaseException:
                self._finish(group, [OutcomeUnknownError(INTERRUPTED)] * len(group))
                raise
            ended = time.monotonic()
            self._patience = ended + min(_PATIENCE * (ended - begun), _GATHER_SECONDS_MAX)
            self._under_way = len(group) + len(self._queue)
            self._finish(group, outcomes)

    def _gather(self) -> None:
        """Wait until as many are queued as were under way when the last group was done, or for a moment after that."""
        with self._mutex:
            had, left = len(self._queue), self._patience - time.monotonic()
            missing = self._under_way - had
            if missing <= 0 or left <= 0:
                return
            if self._passed:
                self._passed -= 1
                return
            self._wanted = self._under_way
        try:
            complete = self._gathered.acquire(timeout=left)
        finally:
            with self._mutex:
                if not self._wanted:
                    self._gathered.acquire(blocking=False)  # the last came as the wait ended
                self._wanted = 0
                came = len(self._queue) - had
        self._in_vain = 0 if complete or 2 * came >= missing else min(2 * self._in_vain + 1, _GROUPS_PASSED_MAX)
        self._passed = self._in_vain

    def _take(self) -> list[_Entry[Q]]:
        queue = self._queue
        if not queue:
            return []
        self._taken = group = [queue[0]]  # before it leaves the queue: an interruption between is not to lose it
        queue.popleft()
        if queue:  # what a lone request holds need not be added up
            held = self._held(group[0].request)
            while queue and (held := held + self._held(queue[0].request)) <= limits.GROUP_BYTES_MAX:
                group.append(queue[0])
                queue.popleft()
        return group

    def _finish(self, group: list[_Entry[Q]], outcomes: Sequence[Outcome]) -> None:
        following = None  # of those that wait: each wakes the one behind it, and is to know it before it is done
        for entry, outcome in zip(reversed(group), reversed(outcomes), strict=True):
            if entry.resolve is None:
                entry.following, following = following, entry
            entry.outcome = outcome
            entry.done = True
        if following is not None:
            following.rouse()
        self._answered.extend(entry for entry in group if entry.resolve is not None)
        self._taken = []
        self._hand_on()

    def _recover(self) -> None:
        """Answer what a leader had taken that was interrupted before it had answered all. Whoever waits looks for itself."""
        with self._mutex:
            taken = [entry for entry in self._taken if entry not in self._queue]
        for entry in taken:
            if not entry.done:
                entry.outcome = OutcomeUnknownError(INTERRUPTED)
                entry.done = True
        self._answered.extend(entry for entry in taken if entry.resolve is not None)
        self._taken = []

    def _answer(self) -> None:
        """Tell event loops what became of their requests; each once, though it stand here twice after an interruption."""
        while self._answered:
            entry = self._answered.popleft()
            resolve, entry.resolve = entry.resolve, None
            if resolve is not None and entry.outcome is not None:
                resolve(entry.outcome)

    def _hand_on(self) -> None:
        """Let the first request still queued lead, or nobody."""
        with self._mutex:
            following = self._queue[0] if self._queue else None
            if following is None:
                self._leading = False
                if self._closed:
                    self._background_turn.put(None)
            elif following.resolve is None:
                following.leads = True
                following.rouse()
            else:
                self._background_leads = True
                self._background_turn.put(None)

    def _run_background(self) -> None:
        while True:
            try:
                self._background_turn.get(timeout=_IDLE_SECONDS)
                idle = False
            except Empty:
                idle = True
            with self._mutex:
                leads, self._background_leads = self._background_leads, False
                ends = self._closed and not self._leading and not self._queue
                # A request stands in one of these until it is answered; the next that is submitted begins this thread anew.
                if idle and not (leads or self._leading or self._queue or self._taken or self._answered):
                    ends, self._background = True, None
            if leads:
                self._lead()
            self._answer()
            if ends and not leads:
                return


def bytes_held(request: Request) -> int:
    """Give the bytes of bodies and attachments that a request brings."""
    if isinstance(request, Adopt):
        return sum(
            len(event.row.body or b"") + sum(item.size for item in event.attachments) for event in request.events
        )
    if isinstance(request, (Graft, Erase, Delete, DropSnapshots, RenewLease)):
        return 0
    if isinstance(request, ColdRequest):
        return cold_bytes(request)
    if isinstance(request, (PlaceRecords, PutSeal)):
        return 0
    if isinstance(request, PutSnapshots):
        return sum(len(snapshot.content) for snapshot in request.snapshots)
    return sum(event.bytes_held for event in request.batch.events)
