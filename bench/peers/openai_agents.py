"""The OpenAI Agents SDK's `SQLiteSession`, and for forks its `AdvancedSQLiteSession`, with their own defaults."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from agents import SQLiteSession
from agents.extensions.memory import AdvancedSQLiteSession

from bench.peers.peer import TEXT, describe


class Measured:
    """Sessions in one file, and the one that was built."""

    tasks = True

    def open(self, path: Path) -> None:
        self.path = path
        self.numbers = itertools.count()
        self.opened: list[SQLiteSession] = []
        self.batched = self.session("batched")

    def session(self, name: str) -> SQLiteSession:
        self.opened.append(SQLiteSession(name, self.path))
        return self.opened[-1]

    def settings(self) -> str:
        connection = self.batched._get_connection()
        read = lambda name: connection.execute(f"PRAGMA {name}").fetchone()[0]
        return describe(sqlite3.sqlite_version, read("journal_mode"), read("synchronous"))

    def writer(self) -> Callable[[], Awaitable[None]]:
        session = self.session(f"w{next(self.numbers)}")
        return lambda: session.add_items([item("user")])

    async def batch(self, size: int) -> None:
        await self.batched.add_items([item("user") for _ in range(size)])

    async def build(self, size: int) -> None:
        self.built = self.session(f"built-{size}")
        await self.built.add_items([item("user") for _ in range(size)])

    async def append(self) -> None:
        await self.built.add_items([item("user")])

    async def read(self, last: int | None) -> list[str]:
        return [item["content"] for item in await self.built.get_items(last)]

    async def build_for_fork(self, size: int) -> None:
        advanced = AdvancedSQLiteSession(
            session_id="fork", db_path=self.path.with_suffix(".advanced.db"), create_tables=True
        )
        self.opened.append(advanced)
        self.advanced, self.turns = advanced, size // 2
        await advanced.add_items([item("assistant" if number % 2 else "user") for number in range(size)])

    async def fork(self) -> None:
        """Branch before the last turn of two items: a branch begins before a turn of the user."""
        await self.advanced.create_branch_from_turn(self.turns)
        await self.advanced.switch_to_branch("main")

    def close(self) -> None:
        for session in self.opened:
            session.close()


def item(role: str) -> Any:
    """Make an item as the runner gives it."""
    return {"role": role, "content": TEXT}
