"""The async face of a store, and of the feed of all its sessions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from copy import copy
from types import TracebackType
from typing import TYPE_CHECKING, Any

from everlog.aio.encryption import AsyncEncryption
from everlog.aio.engine import WAIT_SECONDS, Engine, deadline_after
from everlog.aio.preferences import AsyncPreferences
from everlog.aio.retention import AsyncRetention
from everlog.aio.session import AsyncSession, plain_session
from everlog.audit import Report
from everlog.core import limits
from everlog.core.event import Event, NewEvent
from everlog.core.query import Query
from everlog.core.redact import Mode
from everlog.core.secret_rules import SecretRule
from everlog.follow import Feed
from everlog.leases import LeaseInfo
from everlog.open import Durability, open_store
from everlog.rebuild import SnapshotPolicy
from everlog.reducers.registry import Reducer
from everlog.search import Order, SearchPage
from everlog.session import Session, SessionInfo
from everlog.snapshots import SnapshotInfo
from everlog.storage import CatchingUp
from everlog.store import Store
from everlog.transfer import Transferred

if TYPE_CHECKING:
    from everlog.aio.runs import AsyncClaim, AsyncWoken
    from everlog.anchors import SinceLike
    from everlog.archiving import Archived
    from everlog.bundle import Exported
    from everlog.certificates import Certificate, Checked
    from everlog.compacting import Compacted
    from everlog.retaining import Work
    from everlog.sealing import Sealer
    from everlog.seals import Seal
    from everlog.signing import Keys
    from everlog.stats import Stats
    from everlog.tiles import TilesWritten


class AsyncFeed:
    """The feed of all sessions, to be iterated with `async for`; `cursor` says how far it was read. See `Feed`."""

    def __init__(
        self, engine: Engine, feed: Feed, *, waits: bool, idle: float | None, stop: Callable[[], bool] | None
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
        deadline = deadline_after(engine.loop, self._idle)
        while self._stop is None or not self._stop():
            seen = engine.storage.news()
            page = await engine.run(self._feed.page)
            for place, event in page.events:
                self._feed.passed(place)
                yield event
            if self._feed.finished(page):
                deadline = deadline_after(engine.loop, self._idle)
            elif not self._waits or engine.loop.time() >= deadline:
                return
            else:
                await engine.waker.wait(seen, min(WAIT_SECONDS, deadline - engine.loop.time()))


class AsyncStore:
    """Sessions in one place. The async face of `Store`; made by `await everlog.open_async(…)`, closed by `async with`."""

    def __init__(self, sync: Store) -> None:
        self.sync = sync
        self._engine = Engine(sync.storage)

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
        await self._engine.close(self.sync.close)

    async def redacting(self, mode: Mode) -> AsyncStore:
        """See `Store.redacting`."""
        other = copy(self)
        other.sync = await self._engine.run(lambda: _ready(self.sync.redacting(mode)))
        return other

    async def create(
        self,
        id: str | None = None,
        *,
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        parent: Event | None = None,
        preferences: str | None = None,
        events: Sequence[NewEvent] = (),
    ) -> AsyncSession:
        """See `Store.create`."""
        made = await self._engine.run(
            self.sync.create,
            id,
            title=title,
            labels=labels,
            metadata=metadata,
            parent=parent,
            preferences=preferences,
            events=events,
        )
        return AsyncSession(self._engine, made)

    async def preferences(self, subject: str) -> AsyncPreferences:
        """See `Store.preferences`."""
        return AsyncPreferences(self._engine, await self._engine.run(self.sync.preferences, subject))

    async def snapshots(self, session: AsyncSession | Session | str | None = None) -> list[SnapshotInfo]:
        """See `Store.snapshots`."""
        return await self._engine.run(self.sync.snapshots, plain_session(session))

    async def drop_snapshots(
        self, session: AsyncSession | Session | str | None = None, *, reducer: str | None = None
    ) -> int:
        """See `Store.drop_snapshots`."""
        return await self._engine.run(self.sync.drop_snapshots, plain_session(session), reducer=reducer)

    async def rebuild_snapshots(
        self, session: AsyncSession | Session | str, *, reducers: Sequence[str | Reducer] = ("document",)
    ) -> int:
        """See `Store.rebuild_snapshots`."""
        chosen = session.sync if isinstance(session, AsyncSession) else session
        return await self._engine.run(self.sync.rebuild_snapshots, chosen, reducers=reducers)

    async def session(self, id: str) -> AsyncSession:
        """See `Store.session`."""
        return AsyncSession(self._engine, await self._engine.run(self.sync.session, id))

    async def wake(self, id: str, *, holder: str, ttl: float = 30.0, timeout: float = 0.0) -> AsyncWoken:
        """See `Store.wake`."""
        from everlog.aio.runs import AsyncWoken

        woken = await self._engine.take(
            lambda stop: self.sync.wake_unless(stop, id, holder=holder, ttl=ttl, timeout=timeout),
            lambda woken: woken.lease.release("whoever took it was cancelled"),
        )
        return AsyncWoken(self._engine, woken)

    async def claim(
        self, session: AsyncSession | Session | str, *, holder: str, ttl: float = 30.0
    ) -> AsyncClaim | None:
        """See `Store.claim`."""
        from everlog.aio.runs import AsyncClaim

        chosen = session.sync if isinstance(session, AsyncSession) else session
        claim = await self._engine.take(
            lambda _: self.sync.claim(chosen, holder=holder, ttl=ttl),
            lambda claim: None if claim is None else claim.work.lease.release("whoever took it was cancelled"),
        )
        return None if claim is None else AsyncClaim(self._engine, claim)

    async def leases(self, *, limit: int = 50) -> list[LeaseInfo]:
        """See `Store.leases`."""
        return await self._engine.run(self.sync.leases, limit=limit)

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

    async def delete(self, id: str, *, reason: str, cascade: bool = False, actor: str | None = None) -> None:
        """See `Store.delete`."""
        await self._engine.run(self.sync.delete, id, reason=reason, cascade=cascade, actor=actor)

    async def erase(
        self,
        query: str,
        *,
        reason: str,
        types: str | Sequence[str] = "*",
        actor: str | None = None,
        keys: Keys | str | os.PathLike[str] | None = None,
        dry_run: bool = False,
        certified: Callable[[Certificate], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Work:
        """See `Store.erase`."""
        return await self._engine.run(
            self.sync.erase,
            query,
            reason=reason,
            types=types,
            actor=actor,
            keys=keys,
            dry_run=dry_run,
            certified=certified,
            progress=progress,
        )

    async def check_certificate(self, certificate: Certificate) -> Checked:
        """See `Store.check_certificate`."""
        return await self._engine.run(self.sync.check_certificate, certificate)

    async def find(self, key: str, *, limit: int = 100) -> list[Event]:
        """See `Store.find`."""
        return await self._engine.run(self.sync.find, key, limit=limit)

    async def search(
        self,
        query: str | Query,
        *,
        limit: int = 20,
        after: str | None = None,
        order: Order = "rank",
        progress: CatchingUp | None = None,
    ) -> SearchPage:
        """See `Store.search`."""
        return await self._engine.run(self.sync.search, query, limit=limit, after=after, order=order, progress=progress)

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

    async def verify(
        self,
        *,
        keys: Sequence[str] = (),
        seals: Sequence[str | os.PathLike[str]] = (),
        authorities: str | os.PathLike[str] | None = None,
        since: SinceLike | None = None,
        states: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Report:
        """See `Store.verify`."""
        return await self._engine.run(
            self.sync.verify,
            keys=keys,
            seals=seals,
            authorities=authorities,
            since=since,
            states=states,
            progress=progress,
        )

    def keys(self, folder: str | os.PathLike[str] | None = None) -> Keys:
        """See `Store.keys`."""
        return self.sync.keys(folder)

    async def seal(
        self,
        *,
        keys: Keys | str | os.PathLike[str] | None = None,
        witnesses: Sequence[str] = (),
        to: Sequence[str] = (),
        timestamp: str | None = None,
    ) -> Seal:
        """See `Store.seal`."""
        return await self._engine.run(self.sync.seal, keys=keys, witnesses=witnesses, to=to, timestamp=timestamp)

    def sealer(
        self,
        *,
        keys: Keys | str | os.PathLike[str] | None = None,
        witnesses: Sequence[str] = (),
        to: Sequence[str] = (),
        timestamp: str | None = None,
    ) -> Sealer:
        """See `Store.sealer`. What it gives blocks: run it in a thread."""
        return self.sync.sealer(keys=keys, witnesses=witnesses, to=to, timestamp=timestamp)

    async def write_tiles(self, folder: str | os.PathLike[str]) -> TilesWritten:
        """See `Store.write_tiles`."""
        return await self._engine.run(self.sync.write_tiles, folder)

    async def seals(self, *, limit: int = 50) -> list[Seal]:
        """See `Store.seals`."""
        return await self._engine.run(self.sync.seals, limit=limit)

    async def export(
        self,
        query: str | Query,
        folder: str | os.PathLike[str],
        *,
        withhold: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Exported]:
        """See `Store.export`."""
        return await self._engine.run(self.sync.export, query, folder, withhold=withhold, progress=progress)

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

    async def compact(
        self,
        *,
        older_than: float | str = "1d",
        dry_run: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Compacted:
        """See `Store.compact`."""
        return await self._engine.run(self.sync.compact, older_than=older_than, dry_run=dry_run, progress=progress)

    async def archive(
        self,
        to: str | os.PathLike[str],
        *,
        older_than: float | str = "90d",
        session: AsyncSession | Session | str | None = None,
        dry_run: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Archived:
        """See `Store.archive`."""
        chosen = plain_session(session)
        return await self._engine.run(
            self.sync.archive, to, older_than=older_than, session=chosen, dry_run=dry_run, progress=progress
        )

    async def restore(
        self,
        *,
        session: AsyncSession | Session | str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Archived:
        """See `Store.restore`."""
        return await self._engine.run(self.sync.restore, session=plain_session(session), progress=progress)

    @property
    def retention(self) -> AsyncRetention:
        """See `Store.retention`."""
        return AsyncRetention(self._engine, self.sync.retention)

    @property
    def encryption(self) -> AsyncEncryption:
        """See `Store.encryption`."""
        return AsyncEncryption(self._engine, self.sync.encryption)

    async def stats(self) -> Stats:
        """See `Store.stats`."""
        return await self._engine.run(self.sync.stats)


async def open_async(
    url: str | os.PathLike[str] | None = None,
    *,
    durability: Durability = "full",
    make: bool = True,
    read_only: bool = False,
    body_bytes_max: int = limits.BODY_BYTES_MAX,
    snapshots: SnapshotPolicy | bool = True,
    redact: Mode | None = None,
    redact_rules: str | os.PathLike[str] | Sequence[SecretRule] | None = None,
    encrypt: str | Sequence[str] | None = None,
) -> AsyncStore:
    """Open a store for use on this event loop; see `everlog.open`."""
    loop = asyncio.get_running_loop()

    def opened() -> Store:
        store = open_store(
            url,
            durability=durability,
            make=make,
            read_only=read_only,
            body_bytes_max=body_bytes_max,
            snapshots=snapshots,
            redact=redact,
            redact_rules=redact_rules,
            encrypt=encrypt,
        )
        return store if read_only else _ready(store)

    sync = await loop.run_in_executor(None, opened)
    return AsyncStore(sync)


def _ready(store: Store) -> Store:
    """Give a store that has what it redacts with: events are encoded on the loop, where nothing is read or written."""
    if store.settings.redactor is not None:
        store.settings.redactor.get_ready()
    return store
