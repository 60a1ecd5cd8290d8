"""What the async objects of one store share: how appends, reads and waits come to the event loop and back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from threading import Event as Flag
from threading import Lock, Thread
from typing import ParamSpec, TypeVar

from everlog.core.event import Event
from everlog.errors import UnavailableError
from everlog.storage import Receipt, Request, Storage, Withdraw

_READERS = 4
_TAKERS = 64
WAIT_SECONDS = 0.5  # between looks at whether a follower is to stop

P = ParamSpec("P")
T = TypeVar("T")


class _Resolver:
    """Brings what the committer's thread decided to the event loop, many at a time: one wake-up a group, not an append."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._decided: deque[tuple[asyncio.Future[Receipt], Receipt | Exception]] = deque()
        self._lock = Lock()
        self._scheduled = False

    def resolve(self, future: asyncio.Future[Receipt], outcome: Receipt | Exception) -> None:
        """Called from the committer's thread."""
        with self._lock:
            self._decided.append((future, outcome))
            if self._scheduled:
                return
            self._scheduled = True
        try:
            self._loop.call_soon_threadsafe(self._hand_over)
        except RuntimeError:
            return  # the loop was closed, and nobody awaits any more

    def _hand_over(self) -> None:
        with self._lock:
            decided, self._decided = self._decided, deque()
            self._scheduled = False
        for future, outcome in decided:
            if not future.done():
                if isinstance(outcome, Receipt):
                    future.set_result(outcome)
                else:
                    future.set_exception(outcome)


class _Waker:
    """Wakes everything on an event loop that waits for news of a store, from one thread."""

    def __init__(self, storage: Storage, loop: asyncio.AbstractEventLoop) -> None:
        self._storage = storage
        self._loop = loop
        self._waiting: set[asyncio.Future[None]] = set()
        self._running = False

    async def wait(self, seen: int, timeout: float) -> None:
        """Wait until the store's news pass `seen`, at most `timeout` seconds."""
        if self._storage.news() > seen or timeout <= 0:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.add(future)
        if not self._running:
            with suppress(RuntimeError, MemoryError):  # no thread is to be had: who waits looks when its time is over
                Thread(target=self._watch, args=(seen,), name="everlog-follow", daemon=True).start()
                self._running = True
        try:
            await asyncio.wait([future], timeout=timeout)
        finally:
            self._waiting.discard(future)

    def _watch(self, seen: int) -> None:
        while True:
            with suppress(UnavailableError):  # whoever waits reads, and learns it
                seen = self._storage.wait(seen, WAIT_SECONDS)
            woken: Future[bool] = Future()
            try:
                self._loop.call_soon_threadsafe(self._wake, woken)
            except RuntimeError:
                return  # the loop was closed
            if not self._goes_on(woken):
                return

    def _wake(self, woken: Future[bool]) -> None:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)
        self._running = bool(waiting)
        woken.set_result(self._running)

    def _goes_on(self, woken: Future[bool]) -> bool:
        """Tell whether anybody waits on; not where the loop ended before it could say."""
        while True:
            try:
                return woken.result(WAIT_SECONDS)
            except FutureTimeoutError:
                if self._loop.is_closed():
                    return False


class Engine:
    """What the async objects of one store share: the pool, the resolver, the waker."""

    def __init__(self, storage: Storage) -> None:
        loop = asyncio.get_running_loop()
        self.storage = storage
        self.loop = loop
        self.pool = ThreadPoolExecutor(_READERS, thread_name_prefix="everlog-read")
        self._takers = ThreadPoolExecutor(
            _TAKERS, thread_name_prefix="everlog-take"
        )  # who waits here keeps no reader waiting
        self.resolver = _Resolver(loop)
        self.waker = _Waker(storage, loop)
        self.closed = False

    async def close(self, close_store: Callable[[], None]) -> None:
        """Close the store, then the pool."""
        if not self.closed:
            await self.run(close_store)
            self.closed = True
            self.pool.shutdown(wait=False)
            self._takers.shutdown(wait=False)

    async def run(self, call: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
        """Run a blocking call in the pool."""
        if self.closed:
            raise UnavailableError("the store is closed; nothing was done; open it again")
        return await self.loop.run_in_executor(self.pool, lambda: call(*args, **keywords))

    async def finish(self, call: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
        """Run a blocking call that is carried out even where whoever awaits it is cancelled."""
        return await asyncio.shield(asyncio.ensure_future(self.run(call, *args, **keywords)))

    async def take(self, call: Callable[[Callable[[], bool]], T], give_back: Callable[[T], object]) -> T:
        """Run a blocking call that takes something. Cancelled, it is told to stop, and what it has taken is given back."""
        if self.closed:
            raise UnavailableError("the store is closed; nothing was done; open it again")
        stopped = Flag()
        taking = self.loop.run_in_executor(self._takers, call, stopped.is_set)

        def late(taken: asyncio.Future[T]) -> None:
            if not taken.cancelled() and taken.exception() is None:
                with suppress(RuntimeError):  # the store was closed meanwhile: what is held lapses
                    self._takers.submit(give_back, taken.result())

        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            stopped.set()
            taking.add_done_callback(late)
            raise

    async def submit(self, request: Request) -> Receipt:
        """Queue a request; withdrawn on cancellation, if it was not taken yet."""
        future: asyncio.Future[Receipt] = self.loop.create_future()
        withdraw: Withdraw = self.storage.submit(request, lambda outcome: self.resolver.resolve(future, outcome))
        try:
            return await future
        except asyncio.CancelledError:
            withdraw()
            raise

    async def iterate(self, make_pages: Callable[[], Iterator[list[Event]]]) -> AsyncIterator[Event]:
        """Iterate the events of pages that are read in the pool."""
        pages = await self.run(make_pages)
        while (page := await self.run(next, pages, None)) is not None:
            for event in page:
                yield event


def deadline_after(loop: asyncio.AbstractEventLoop, idle: float | None) -> float:
    return float("inf") if idle is None else loop.time() + idle
