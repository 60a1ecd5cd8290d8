"""The async face of retention."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from everlog.aio.engine import Engine
from everlog.core.retention import Action, Policy

if TYPE_CHECKING:
    from everlog.retaining import Work
    from everlog.retention import Plan, Retention


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
            actor=actor,
        )

    async def remove(self, name: str, *, reason: str, actor: str | None = None) -> None:
        """See `Retention.remove`."""
        await self._engine.run(self.sync.remove, name, reason=reason, actor=actor)

    async def policies(self) -> list[Policy]:
        """See `Retention.policies`."""
        return await self._engine.run(self.sync.policies)

    async def plan(self, *, progress: Callable[[int], None] | None = None) -> Plan:
        """See `Retention.plan`."""
        return await self._engine.run(self.sync.plan, progress=progress)

    async def apply(self, *, progress: Callable[[int], None] | None = None) -> list[Work]:
        """See `Retention.apply`."""
        return await self._engine.run(self.sync.apply, progress=progress)
