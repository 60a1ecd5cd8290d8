"""Everlog with asyncio tasks, as `everlog.open_async` gives it, with durability "full"."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import everlog
from bench.peers.everlog_store import describe_store, fill
from bench.peers.peer import TEXT


class Measured:
    """A store, and the session that was built in it."""

    tasks = True

    async def open(self, path: Path) -> None:
        self.store = await everlog.open_async(path, durability="full")
        self.numbers = itertools.count()
        self.batched = await self.store.create("batched")

    def settings(self) -> str:
        return describe_store(self.store.sync)

    async def writer(self) -> Callable[[], Awaitable[object]]:
        session = await self.store.create(f"w{next(self.numbers)}")
        return lambda: session.append("user.message", {"content": TEXT})

    async def batch(self, size: int) -> object:
        return await self.batched.extend([everlog.NewEvent("user.message", {"content": TEXT}) for _ in range(size)])

    async def build(self, size: int) -> None:
        fill(self.store.sync, size)
        self.session = await self.store.session(f"built-{size}")

    async def append(self) -> object:
        return await self.session.append("user.message", {"content": TEXT})

    async def read(self, last: int | None) -> list[str]:
        events = await self.session.slice("start" if last is None else -last)
        return [event.data["content"] for event in events]

    async def build_for_fork(self, size: int) -> None:
        await self.build(size)

    async def fork(self) -> object:
        return await self.session.fork()

    async def close(self) -> None:
        await self.store.close()
