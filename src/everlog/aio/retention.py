"""The async face of retention."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from everlog.aio.engine import Engine
from everlog.aio.session import AsyncSession, plain_session
from everlog.core.retention import Action, Policy

if TYPE_CHECKING:
    from everlog.approving import Proposal
    from everlog.reader import PlaceLike
    from everlog.retaining import Work
    from everlog.retention import Plan, Retention
    from everlog.session import Session


class AsyncRetention:
    """The retention policies of a store. The async face of `Retention`."""

    def __init__(self, engine: Engine, sync: Retention) -> None:
        self._engine = engine
        self.sync = sync

    async def set(
        self,
        name: str,
        *,
        action: Action,
        query: str,
        older_than: str | float | None = None,
        to: str | os.PathLike[str] | None = None,
        types: str | Sequence[str] = (),
        reason: str | None = None,
        over: int | None = None,
        within: str | float | None = None,
        actor: str | None = None,
    ) -> Policy:
        """See `Retention.set`."""
        return await self._engine.run(
            self.sync.set,
            name,
            action=action,
            query=query,
            older_than=older_than,
            to=to,
            types=types,
            reason=reason,
            over=over,
            within=within,
            actor=actor,
        )

    async def remove(self, name: str, *, reason: str, actor: str | None = None) -> None:
        """See `Retention.remove`."""
        await self._engine.run(self.sync.remove, name, reason=reason, actor=actor)

    async def policies(self) -> list[Policy]:
        """See `Retention.policies`."""
        return await self._engine.run(self.sync.policies)

    async def propose_erasure(
        self,
        session: AsyncSession | Session | str | None = None,
        places: Sequence[PlaceLike] = (),
        *,
        query: str | None = None,
        reason: str,
        actor: str,
    ) -> Proposal:
        """See `Retention.propose_erasure`."""
        return await self._engine.run(
            self.sync.propose_erasure, plain_session(session), places, query=query, reason=reason, actor=actor
        )

    async def propose_deletion(
        self, session: AsyncSession | Session | str, *, reason: str, actor: str, cascade: bool = False
    ) -> Proposal:
        """See `Retention.propose_deletion`."""
        plain = plain_session(session)
        assert plain is not None, "a session was given"
        return await self._engine.run(self.sync.propose_deletion, plain, reason=reason, actor=actor, cascade=cascade)

    async def propose_change(self, name: str, *, reason: str, actor: str) -> Proposal:
        """See `Retention.propose_change`."""
        return await self._engine.run(self.sync.propose_change, name, reason=reason, actor=actor)

    async def approve(self, proposal: str, *, actor: str, reason: str | None = None) -> Proposal:
        """See `Retention.approve`."""
        return await self._engine.run(self.sync.approve, proposal, actor=actor, reason=reason)

    async def proposals(self) -> list[Proposal]:
        """See `Retention.proposals`."""
        return await self._engine.run(self.sync.proposals)

    async def plan(self, *, progress: Callable[[int], None] | None = None) -> Plan:
        """See `Retention.plan`."""
        return await self._engine.run(self.sync.plan, progress=progress)

    async def apply(self, *, progress: Callable[[int], None] | None = None) -> list[Work]:
        """See `Retention.apply`."""
        return await self._engine.run(self.sync.apply, progress=progress)
