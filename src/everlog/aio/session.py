"""The async face of a session."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from everlog.aio.engine import WAIT_SECONDS, deadline_after
from everlog.aio.reader import AsyncBranch, AsyncReader
from everlog.audit import Report
from everlog.context.reader import Context
from everlog.core.decide import Repeats, StaleExpectationError
from everlog.core.event import Event, Head, NewEvent, Outcome
from everlog.follow import Follower
from everlog.merging import Prefer
from everlog.pending import Pending
from everlog.reader import PlaceLike
from everlog.reducers.pending import DEFAULT_RUN
from everlog.session import Branch, Session, SessionInfo
from everlog.state import ReducerLike, StateReader
from everlog.steps import Policy as StepPolicy
from everlog.storage import Receipt
from everlog.summaries import FAN_OUT, LEAF_TOKENS, SUMMARIES_MAX, Covered, Summarizer

if TYPE_CHECKING:
    from everlog.aio.runs import AsyncLease, AsyncRun
    from everlog.anchors import SinceLike
    from everlog.auditing import Audit
    from everlog.certificates import Certificate
    from everlog.core.retention import Policy
    from everlog.planning import ErasurePlan
    from everlog.signing import Keys


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
        state: ReducerLike | None = None,
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
        if state is not None:
            return (await self._engine.run(self.sync.extend, (new,), expected=expected, state=state))[0]
        return (await self._append((new,), expected=expected)).events[0]

    async def extend(
        self,
        events: Sequence[NewEvent],
        *,
        expected: int | Head | None = None,
        key: str | None = None,
        repeats: Repeats = "refuse",
        state: ReducerLike | None = None,
    ) -> list[Event]:
        """See `Session.extend`."""
        if state is not None:
            return await self._engine.run(
                self.sync.extend, events, expected=expected, key=key, repeats=repeats, state=state
            )
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
        return self.sync.noted(receipt)

    async def lease(self, holder: str, ttl: float = 30.0, *, timeout: float = 0.0) -> AsyncLease:
        """See `Session.lease`."""
        from everlog.aio.runs import AsyncLease

        taken = await self._engine.take(
            lambda stop: self.sync.lease_unless(stop, holder, ttl, timeout=timeout),
            lambda taken: taken.release("whoever took it was cancelled"),
        )
        return AsyncLease(self._engine, taken)

    async def signal(self, name: str, data: Any = None, *, actor: str | None = None, key: str | None = None) -> Event:
        """See `Session.signal`."""
        return await self._engine.run(self.sync.signal, name, data, actor=actor, key=key)

    async def in_flight(self, at: PlaceLike = "end") -> Pending:
        """See `Session.in_flight`."""
        return await self._engine.run(self.sync.in_flight, at)

    async def run(
        self, name: str = DEFAULT_RUN, *, policy: StepPolicy = "fail", retry_failed: bool = False
    ) -> AsyncRun:
        """See `Session.run`."""
        from everlog.aio.runs import AsyncRun

        return AsyncRun(
            self._engine, await self._engine.run(self.sync.run, name, policy=policy, retry_failed=retry_failed)
        )

    async def repair(self, *, actor: str | None = None) -> list[Event]:
        """See `Session.repair`."""
        return await self._engine.run(self.sync.repair, actor=actor)

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
        self,
        name: str,
        *,
        data: Any = None,
        states: Sequence[ReducerLike] | None = None,
        actor: str | None = None,
        expected: int | Head | None = None,
    ) -> Event:
        """See `Session.checkpoint`."""
        return await self._engine.run(
            self.sync.checkpoint, name, data=data, states=states, actor=actor, expected=expected
        )

    async def merge(
        self,
        other: StateReader | AsyncReader[Any],
        *,
        at: PlaceLike = "end",
        events: Sequence[PlaceLike] | str = (),
        document: bool = True,
        prefer: Prefer | None = None,
        resolve: Mapping[str, Any] | None = None,
        reason: str | None = None,
        actor: str | None = None,
        expected: int | Head | None = None,
    ) -> Event:
        """See `Session.merge`."""
        return await self._engine.run(
            self.sync.merge,
            other.sync if isinstance(other, AsyncReader) else other,
            at=at,
            events=events,
            document=document,
            prefer=prefer,
            resolve=resolve,
            reason=reason,
            actor=actor,
            expected=expected,
        )

    async def summarize(
        self,
        summarizer: Summarizer | None = None,
        *,
        fan_out: int = FAN_OUT,
        leaf_tokens: int = LEAF_TOKENS,
        limit: int = SUMMARIES_MAX,
        actor: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Event]:
        """See `Session.summarize`. A summarizer that is a coroutine function is awaited on this event loop."""
        loop = self._engine.loop

        def called(covered: Covered) -> Any:
            assert summarizer is not None, "it is only called where there is one"
            made = summarizer(covered)
            return (
                asyncio.run_coroutine_threadsafe(_awaited(made), loop).result() if inspect.isawaitable(made) else made
            )

        given = None if summarizer is None else functools.wraps(summarizer)(called)
        return await self._engine.run(
            self.sync.summarize,
            given,
            fan_out=fan_out,
            leaf_tokens=leaf_tokens,
            limit=limit,
            actor=actor,
            progress=progress,
        )

    async def record_request(
        self,
        context: Context,
        *,
        model: str,
        provider: str | None = None,
        params: Mapping[str, Any] | None = None,
        system: Any = None,
        tools: Sequence[Any] | None = None,
        actor: str | None = None,
        caused_by: Event | str | None = None,
        key: str | None = None,
    ) -> Event:
        """See `Session.record_request`."""
        return await self._engine.run(
            self.sync.record_request,
            context,
            model=model,
            provider=provider,
            params=params,
            system=system,
            tools=tools,
            actor=actor,
            caused_by=caused_by,
            key=key,
        )

    async def update(
        self,
        *,
        title: str | msgspec.UnsetType | None = msgspec.UNSET,
        labels: Mapping[str, str] | msgspec.UnsetType = msgspec.UNSET,
        metadata: Mapping[str, Any] | msgspec.UnsetType | None = msgspec.UNSET,
        actor: str | None = None,
        expected: int | Head | None = None,
        events: Sequence[NewEvent] = (),
    ) -> Event:
        """See `Session.update`."""
        return await self._engine.run(
            self.sync.update,
            title=title,
            labels=labels,
            metadata=metadata,
            actor=actor,
            expected=expected,
            events=events,
        )

    async def erase(
        self,
        places: Sequence[PlaceLike],
        *,
        reason: str,
        actor: str | None = None,
        keys: Keys | str | os.PathLike[str] | None = None,
    ) -> Certificate:
        """See `Session.erase`."""
        return await self._engine.run(self.sync.erase, places, reason=reason, actor=actor, keys=keys)

    async def plan_erasure(self, places: Sequence[PlaceLike]) -> ErasurePlan:
        """See `Session.plan_erasure`."""
        return await self._engine.run(self.sync.plan_erasure, places)

    async def certificate(self, places: Sequence[PlaceLike]) -> Certificate:
        """See `Session.certificate`."""
        return await self._engine.run(self.sync.certificate, places)

    async def hold(self, *, reason: str, name: str | None = None, actor: str | None = None) -> Policy:
        """See `Session.hold`."""
        return await self._engine.run(self.sync.hold, reason=reason, name=name, actor=actor)

    async def release(self, *, reason: str, name: str | None = None, actor: str | None = None) -> None:
        """See `Session.release`."""
        await self._engine.run(self.sync.release, reason=reason, name=name, actor=actor)

    async def holds(self) -> list[Policy]:
        """See `Session.holds`."""
        return await self._engine.run(self.sync.holds)

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
        deadline = deadline_after(engine.loop, idle)
        while stop is None or not stop():
            seen = engine.storage.news()
            events = await engine.run(follower.take)
            for event in events:
                yield event
            if events:
                deadline = deadline_after(engine.loop, idle)
            elif engine.loop.time() >= deadline:
                return
            else:
                await engine.waker.wait(seen, min(WAIT_SECONDS, deadline - engine.loop.time()))

    async def verify(
        self,
        *,
        since: SinceLike | None = None,
        states: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Report:
        """See `Session.verify`."""
        return await self._engine.run(self.sync.verify, since=since, states=states, progress=progress)

    async def audit(
        self, *, verify: bool = False, limit: int = 100, progress: Callable[[int], None] | None = None
    ) -> Audit:
        """See `Session.audit`."""
        return await self._engine.run(self.sync.audit, verify=verify, limit=limit, progress=progress)

    async def export(
        self,
        path: str | os.PathLike[str],
        *,
        withhold: str | None = None,
        start: PlaceLike | None = None,
        stop: PlaceLike | None = None,
        branch: str | None = None,
    ) -> int:
        """See `Session.export`."""
        return await self._engine.run(self.sync.export, path, withhold=withhold, start=start, stop=stop, branch=branch)


async def _awaited(made: Awaitable[Any]) -> Any:
    return await made


def plain_session(session: AsyncSession | Session | str | None) -> Session | str | None:
    """Give a session as the sync face takes it."""
    return session.sync if isinstance(session, AsyncSession) else session
