"""The async face of preferences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from everlog.aio.engine import Engine
from everlog.aio.session import AsyncSession
from everlog.core.event import Event, Head, NewEvent
from everlog.explain import Reason
from everlog.preferences import Preferences
from everlog.reader import PlaceLike
from everlog.state import State


class AsyncPreferences:
    """The preferences of one subject. The async face of `Preferences`."""

    def __init__(self, engine: Engine, sync: Preferences) -> None:
        self._engine = engine
        self.sync = sync
        self.session = AsyncSession(engine, sync.session)
        self.subject = sync.subject

    async def state(self, at: PlaceLike = "end") -> State:
        """See `Preferences.state`."""
        return await self._engine.run(self.sync.state, at)

    async def get(self, pointer: str, default: Any = None) -> Any:
        """See `Preferences.get`."""
        return await self._engine.run(self.sync.get, pointer, default)

    async def set(
        self,
        pointer: str,
        value: Any,
        *,
        source: Event | str | None = None,
        rationale: str | None = None,
        actor: str | None = None,
        expected: int | Head | None = None,
    ) -> Event:
        """See `Preferences.set`."""
        return await self._engine.run(
            self.sync.set, pointer, value, source=source, rationale=rationale, actor=actor, expected=expected
        )

    async def remove(
        self,
        pointer: str,
        *,
        source: Event | str | None = None,
        rationale: str | None = None,
        actor: str | None = None,
        expected: int | Head | None = None,
    ) -> Event:
        """See `Preferences.remove`."""
        return await self._engine.run(
            self.sync.remove, pointer, source=source, rationale=rationale, actor=actor, expected=expected
        )

    async def change(
        self,
        sets: Iterable[tuple[str, Any]] = (),
        *,
        remove: Iterable[str] = (),
        source: Event | str | None = None,
        rationale: str | None = None,
        actor: str | None = None,
        expected: int | Head | None = None,
    ) -> list[Event]:
        """See `Preferences.change`."""
        return await self._engine.run(
            self.sync.change, sets, remove=remove, source=source, rationale=rationale, actor=actor, expected=expected
        )

    async def changes(self, *, limit: int = 100) -> list[Event]:
        """See `Preferences.changes`."""
        return await self._engine.run(self.sync.changes, limit=limit)

    async def why(self, pointer: str, *, limit: int = 20) -> list[Reason]:
        """See `Preferences.why`."""
        return await self._engine.run(self.sync.why, pointer, limit=limit)

    async def rewind(self, to: PlaceLike, *, reason: str | None = None, actor: str | None = None) -> Event:
        """See `Preferences.rewind`."""
        return await self._engine.run(self.sync.rewind, to, reason=reason, actor=actor)

    async def reading(self) -> NewEvent:
        """See `Preferences.reading`."""
        return await self._engine.run(self.sync.reading)

    async def apply(self, session: AsyncSession) -> Event:
        """See `Preferences.apply`."""
        return await self._engine.run(self.sync.apply, session.sync)
