"""The async face: the same names with `await` and `async for`, over the same objects.

1. An append becomes a future that the committer resolves; the loop never waits for a disk or a lock.
2. Reads, and what is rare, run in the store's small pool of threads, a page at a time.
3. Followers are woken by one thread a store, however many they are.
4. A cancelled append is withdrawn if it was not taken yet; otherwise it may still commit, and the same key tells.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

import msgspec

from everlog.audit import Report
from everlog.core import limits
from everlog.core.decide import Repeats, StaleExpectationError
from everlog.core.event import Event, Head, NewEvent, Outcome
from everlog.core.query import Query
from everlog.errors import UnavailableError
from everlog.follow import Feed, Follower
from everlog.open import Durability, open_store
from everlog.reader import BranchReader, PlaceLike
from everlog.session import Branch, Session, SessionInfo
from everlog.storage import Receipt, Request, Storage, Withdraw
from everlog.store import Store
from everlog.transfer import Transferred

_READERS = 4
_WAIT_SECONDS = 0.5

P = ParamSpec("P")
T = TypeVar("T")


# --- underneath ----------------------------------------------------------------------------------
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
            self._running = True
            Thread(target=self._watch, args=(seen,), name="everlog-follow", daemon=True).start()
        try:
            await asyncio.wait([future], timeout=timeout)
        finally:
            self._waiting.discard(future)

    def _watch(self, seen: int) -> None:
        while True:
            with suppress(UnavailableError):  # whoever waits reads, and learns it
                seen = self._storage.wait(seen, _WAIT_SECONDS)
            try:
                again = asyncio.run_coroutine_threadsafe(self._wake(), self._loop).result()
            except RuntimeError:
                return  # the loop was closed
            if not again:
                return

    async def _wake(self) -> bool:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)
        self._running = bool(waiting)
        return self._running


class _Engine:
    """What the async objects of one store share: the pool, the resolver, the waker."""

    def __init__(self, storage: Storage) -> None:
        loop = asyncio.get_running_loop()
        self.storage = storage
        self.loop = loop
        self.pool = ThreadPoolExecutor(_READERS, thread_name_prefix="everlog-read")
        self.resolver = _Resolver(loop)
        self.waker = _Waker(storage, loop)

    async def run(self, call: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
        """Run a blocking call in the pool."""
        return await self.loop.run_in_executor(self.pool, lambda: call(*args, **keywords))

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


class AsyncFeed:
    """The feed of all sessions, to be iterated with `async for`; `cursor` says how far it was read. See `Feed`."""

    def __init__(
        self, engine: _Engine, feed: Feed, *, waits: bool, idle: float | None, stop: Callable[[], bool] | None
    ) -> None:
        self._engine = engine
        self._feed = feed
        self._waits = waits
        self._idle = idle
        self._stop = stop

    @property
    def cursor(self) -> str:
        """Where the feed was read to: just after the event given last. Opaque."""
        return self._feed.cursor

    async def __aiter__(self) -> AsyncIterator[Event]:
        engine = self._engine
        deadline = _deadline(engine.loop, self._idle)
        while self._stop is None or not self._stop():
            seen = engine.storage.news()
            page = await engine.run(self._feed.page)
            for number, event in page.events:
                self._feed.passed(number, event)
                yield event
            if self._feed.finished(page):
                deadline = _deadline(engine.loop, self._idle)
            elif not self._waits or engine.loop.time() >= deadline:
                return
            else:
                await engine.waker.wait(seen, min(_WAIT_SECONDS, deadline - engine.loop.time()))


def _deadline(loop: asyncio.AbstractEventLoop, idle: float | None) -> float:
    return float("inf") if idle is None else loop.time() + idle


# --- reading -------------------------------------------------------------------------------------
R = TypeVar("R", bound=BranchReader)


class AsyncReader(Generic[R]):
    """Reads one line of events: the async face of `BranchReader`."""

    def __init__(self, engine: _Engine, sync: R) -> None:
        self._engine = engine
        self.sync = sync

    def __repr__(self) -> str:
        return f"<async {self.sync!r}>"

    async def size(self) -> int:
        """See `BranchReader.size`."""
        return await self._engine.run(self.sync.size)

    async def slice(self, start: PlaceLike = "start", stop: PlaceLike = "end") -> list[Event]:
        """See `BranchReader.slice`."""
        return await self._engine.run(self.sync.slice, start, stop)

    async def event(self, place: PlaceLike) -> Event:
        """See `BranchReader.event`."""
        return await self._engine.run(self.sync.event, place)

    def events(
        self,
        query: str | Query | None = None,
        *,
        start: PlaceLike = "start",
        stop: PlaceLike = "end",
        types: str | Sequence[str] | None = None,
        actor: str | Sequence[str] | None = None,
        outcome: str | Sequence[str] | None = None,
        since: str | datetime | None = None,
        until: str | datetime | None = None,
        where: Mapping[str, Any] | None = None,
        keys: str | Sequence[str] | None = None,
        caused_by: Event | str | None = None,
        has: str | Sequence[str] | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[Event]:
        """See `BranchReader.events`."""
        asked: dict[str, Any] = {
            "types": types,
            "actor": actor,
            "outcome": outcome,
            "since": since,
            "until": until,
            "where": where,
            "keys": keys,
            "caused_by": caused_by,
        }
        read = self.sync.pages
        return self._engine.iterate(
            lambda: read(query, start=start, stop=stop, reverse=reverse, limit=limit, has=has, **asked)
        )

    async def count(self, query: str | Query | None = None, **keywords: Any) -> int:
        """See `BranchReader.count`."""
        return await self._engine.run(self.sync.count, query, **keywords)

    async def last(self, types: str | Sequence[str] | None = None, **keywords: Any) -> Event | None:
        """See `BranchReader.last`."""
        return await self._engine.run(self.sync.last, types, **keywords)

    async def find(self, key: str) -> Event | None:
        """See `BranchReader.find`."""
        return await self._engine.run(self.sync.find, key)

    async def around(self, place: PlaceLike, *, before: int = 5, after: int = 5) -> list[Event]:
        """See `BranchReader.around`."""
        return await self._engine.run(self.sync.around, place, before=before, after=after)

    async def causes(self, place: PlaceLike, *, limit: int = 100) -> list[Event]:
        """See `BranchReader.causes`."""
        return await self._engine.run(self.sync.causes, place, limit=limit)

    async def effects(self, place: PlaceLike, *, limit: int = 1_000) -> list[Event]:
        """See `BranchReader.effects`."""
        return await self._engine.run(self.sync.effects, place, limit=limit)

    async def attachment(self, place: PlaceLike, name: str) -> bytes:
        """See `BranchReader.attachment`."""
        return await self._engine.run(self.sync.attachment, place, name)

    async def checkpoints(self) -> list[Event]:
        """See `BranchReader.checkpoints`."""
        return await self._engine.run(self.sync.checkpoints)

    async def cut(self, place: PlaceLike = "end") -> int:
        """See `BranchReader.cut`."""
        return await self._engine.run(self.sync.cut, place)

    async def head_at(self, place: PlaceLike = "end") -> Head:
        """See `BranchReader.head_at`."""
        return await self._engine.run(self.sync.head_at, place)


class AsyncBranch(AsyncReader[Branch]):
    """One line of events of a session, to read. The async face of `Branch`."""

    @property
    def id(self) -> str:
        return self.sync.id

    @property
    def name(self) -> str:
        return self.sync.name

    @property
    def base(self) -> int:
        return self.sync.base

    @property
    def current(self) -> bool:
        return self.sync.current

    @property
    def head(self) -> Head:
        return self.sync.head


# --- sessions ------------------------------------------------------------------------------------
class AsyncSession(AsyncReader[Session]):
    """A durable, append-only log of one agent's run. The async face of `Session`."""

    @property
    def id(self) -> str:
        """The user's name for the session."""
        return self.sync.id

    @property
    def uuid(self) -> str:
        """The session's internal id, 32 hex digits."""
        return self.sync.uuid

    @property
    def head(self) -> Head:
        """The head that this handle last saw. No I/O."""
        return self.sync.head

    @property
    def branch_id(self) -> str:
        """The id of the branch that this handle last saw as current. No I/O."""
        return self.sync.branch_id

    async def refresh(self) -> Head:
        """See `Session.refresh`."""
        return await self._engine.run(self.sync.refresh)

    async def info(self) -> SessionInfo:
        """See `Session.info`."""
        return await self._engine.run(self.sync.info)

    async def append(
        self,
        type: str,
        data: Any = None,
        *,
        rationale: str | None = None,
        actor: str | None = None,
        outcome: Outcome | None = None,
        metadata: Mapping[str, Any] | None = None,
        attachments: Mapping[str, bytes] | None = None,
        caused_by: Event | str | None = None,
        occurred_at: datetime | int | None = None,
        key: str | None = None,
        expected: int | Head | None = None,
    ) -> Event:
        """See `Session.append`. Cancelled, it is withdrawn if it was not taken yet; else it may commit, and a key tells."""
        new = NewEvent(
            type,
            data,
            rationale=rationale,
            actor=actor,
            outcome=outcome,
            metadata=metadata,
            attachments=attachments,
            caused_by=caused_by,
            occurred_at=occurred_at,
            key=key,
        )
        return (await self._append((new,), expected=expected)).events[0]

    async def extend(
        self,
        events: Sequence[NewEvent],
        *,
        expected: int | Head | None = None,
        key: str | None = None,
        repeats: Repeats = "refuse",
    ) -> list[Event]:
        """See `Session.extend`."""
        return list((await self._append(tuple(events), expected=expected, key=key, repeats=repeats)).events)

    async def _append(
        self,
        events: Sequence[NewEvent],
        *,
        expected: int | Head | None = None,
        key: str | None = None,
        repeats: Repeats = "refuse",
    ) -> Receipt:
        make = self.sync.append_request
        # A cause by its id is looked up, and much is encoded for long: neither belongs on the loop.
        if len(events) > 8 or any(isinstance(event.caused_by, str) for event in events):
            request = await self._engine.run(make, events, expected=expected, key=key, repeats=repeats)
        else:
            request = make(events, expected=expected, key=key, repeats=repeats)
        try:
            receipt = await self._engine.submit(request)
        except StaleExpectationError as stale:
            raise await self._engine.run(self.sync.conflict, stale, request) from None
        return self.sync.saw(receipt)

    async def branches(self) -> list[AsyncBranch]:
        """See `Session.branches`."""
        return [AsyncBranch(self._engine, branch) for branch in await self._engine.run(self.sync.branches)]

    async def branch(self, name: str | None = None) -> AsyncBranch:
        """See `Session.branch`."""
        return AsyncBranch(self._engine, await self._engine.run(self.sync.branch, name))

    async def fork(
        self,
        at: PlaceLike = "end",
        *,
        branch: str | Branch | AsyncBranch | None = None,
        id: str | None = None,
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        reason: str | None = None,
        actor: str | None = None,
        events: Sequence[NewEvent] = (),
    ) -> AsyncSession:
        """See `Session.fork`."""
        forked = await self._engine.run(
            self.sync.fork,
            at,
            branch=branch.sync if isinstance(branch, AsyncBranch) else branch,
            id=id,
            title=title,
            labels=labels,
            metadata=metadata,
            reason=reason,
            actor=actor,
            events=events,
        )
        return AsyncSession(self._engine, forked)

    async def rewind(
        self,
        to: PlaceLike,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected: int | Head | None = None,
        events: Sequence[NewEvent] = (),
    ) -> Event:
        """See `Session.rewind`."""
        return await self._engine.run(
            self.sync.rewind, to, reason=reason, actor=actor, expected=expected, events=events
        )

    async def switch(
        self,
        branch: str | Branch | AsyncBranch,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected: int | Head | None = None,
    ) -> Event:
        """See `Session.switch`."""
        target = branch.sync if isinstance(branch, AsyncBranch) else branch
        return await self._engine.run(self.sync.switch, target, reason=reason, actor=actor, expected=expected)

    async def checkpoint(
        self, name: str, *, data: Any = None, actor: str | None = None, expected: int | Head | None = None
    ) -> Event:
        """See `Session.checkpoint`."""
        return await self._engine.run(self.sync.checkpoint, name, data=data, actor=actor, expected=expected)

    async def update(
        self,
        *,
        title: str | msgspec.UnsetType | None = msgspec.UNSET,
        labels: Mapping[str, str] | msgspec.UnsetType = msgspec.UNSET,
        metadata: Mapping[str, Any] | msgspec.UnsetType | None = msgspec.UNSET,
        actor: str | None = None,
        expected: int | Head | None = None,
    ) -> Event:
        """See `Session.update`."""
        return await self._engine.run(
            self.sync.update, title=title, labels=labels, metadata=metadata, actor=actor, expected=expected
        )

    async def erase(self, places: Sequence[PlaceLike], *, reason: str) -> list[int]:
        """See `Session.erase`."""
        return await self._engine.run(self.sync.erase, places, reason=reason)

    async def follow(
        self,
        start: PlaceLike = "end",
        *,
        idle: float | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> AsyncIterator[Event]:
        """See `Session.follow`."""
        engine = self._engine
        follower = await engine.run(Follower, self.sync, start)
        deadline = _deadline(engine.loop, idle)
        while stop is None or not stop():
            seen = engine.storage.news()
            events = await engine.run(follower.take)
            for event in events:
                yield event
            if events:
                deadline = _deadline(engine.loop, idle)
            elif engine.loop.time() >= deadline:
                return
            else:
                await engine.waker.wait(seen, min(_WAIT_SECONDS, deadline - engine.loop.time()))

    async def verify(self, *, progress: Callable[[int], None] | None = None) -> Report:
        """See `Session.verify`."""
        return await self._engine.run(self.sync.verify, progress=progress)

    async def export(self, path: str | os.PathLike[str], *, withhold: str | None = None) -> int:
        """See `Session.export`."""
        return await self._engine.run(self.sync.export, path, withhold=withhold)


# --- stores --------------------------------------------------------------------------------------
class AsyncStore:
    """Sessions in one place. The async face of `Store`; made by `await everlog.open_async(…)`, closed by `async with`."""

    def __init__(self, sync: Store) -> None:
        self.sync = sync
        self._engine = _Engine(sync.storage)

    def __repr__(self) -> str:
        return f"<async {self.sync!r}>"

    async def __aenter__(self) -> AsyncStore:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def id(self) -> str:
        """The store's own id, 32 hex digits."""
        return self.sync.id

    async def close(self) -> None:
        """See `Store.close`."""
        await self._engine.run(self.sync.close)
        self._engine.pool.shutdown(wait=False)

    async def create(
        self,
        id: str | None = None,
        *,
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        parent: Event | None = None,
        events: Sequence[NewEvent] = (),
    ) -> AsyncSession:
        """See `Store.create`."""
        made = await self._engine.run(
            self.sync.create, id, title=title, labels=labels, metadata=metadata, parent=parent, events=events
        )
        return AsyncSession(self._engine, made)

    async def session(self, id: str) -> AsyncSession:
        """See `Store.session`."""
        return AsyncSession(self._engine, await self._engine.run(self.sync.session, id))

    async def get_or_create(self, id: str, **made_with: Any) -> AsyncSession:
        """See `Store.get_or_create`."""
        return AsyncSession(self._engine, await self._engine.run(self.sync.get_or_create, id, **made_with))

    async def sessions(
        self,
        query: str | Query | None = None,
        *,
        prefix: str = "",
        parent: Event | Session | AsyncSession | str | None = None,
        order: str = "-updated",
        limit: int = 50,
        after: SessionInfo | None = None,
    ) -> list[SessionInfo]:
        """See `Store.sessions`."""
        plain = parent.sync if isinstance(parent, AsyncSession) else parent
        return await self._engine.run(
            self.sync.sessions, query, prefix=prefix, parent=plain, order=order, limit=limit, after=after
        )

    async def delete(self, id: str, *, reason: str, cascade: bool = False) -> None:
        """See `Store.delete`."""
        await self._engine.run(self.sync.delete, id, reason=reason, cascade=cascade)

    async def find(self, key: str, *, limit: int = 100) -> list[Event]:
        """See `Store.find`."""
        return await self._engine.run(self.sync.find, key, limit=limit)

    def feed(self, cursor: str | None = None) -> AsyncFeed:
        """See `Store.feed`."""
        return AsyncFeed(self._engine, self.sync.feed(cursor), waits=False, idle=None, stop=None)

    def follow(
        self, cursor: str | None = None, *, idle: float | None = None, stop: Callable[[], bool] | None = None
    ) -> AsyncFeed:
        """See `Store.follow`."""
        return AsyncFeed(self._engine, self.sync.feed(cursor), waits=True, idle=idle, stop=stop)

    async def cursor(self) -> str:
        """See `Store.cursor`."""
        return await self._engine.run(self.sync.cursor)

    async def verify(self, *, progress: Callable[[int], None] | None = None) -> Report:
        """See `Store.verify`."""
        return await self._engine.run(self.sync.verify, progress=progress)

    async def import_bundle(
        self, path: str | os.PathLike[str], *, force: bool = False, progress: Callable[[int], None] | None = None
    ) -> Transferred:
        """See `Store.import_bundle`."""
        return await self._engine.run(self.sync.import_bundle, path, force=force, progress=progress)

    async def copy(
        self,
        target: Store | AsyncStore,
        *,
        sessions: Sequence[str] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Transferred]:
        """See `Store.copy`."""
        plain = target.sync if isinstance(target, AsyncStore) else target
        return await self._engine.run(self.sync.copy, plain, sessions=sessions, progress=progress)


async def open_async(
    url: str | os.PathLike[str] | None = None,
    *,
    durability: Durability = "full",
    read_only: bool = False,
    body_bytes_max: int = limits.BODY_BYTES_MAX,
) -> AsyncStore:
    """Open a store for use on this event loop; see `everlog.open`."""
    loop = asyncio.get_running_loop()
    sync = await loop.run_in_executor(
        None, lambda: open_store(url, durability=durability, read_only=read_only, body_bytes_max=body_bytes_max)
    )
    return AsyncStore(sync)
