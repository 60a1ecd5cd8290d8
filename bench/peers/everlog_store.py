"""Everlog with threads, as `everlog.open` gives it, with durability "full"."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import apsw

import everlog
from bench.peers.peer import DOCUMENT, TEXT, changed, describe

BATCH = 10_000  # the most that one append takes


class Measured:
    """A store, and the session that was built in it."""

    tasks = False

    def open(self, path: Path) -> None:
        self.store = everlog.open(path, durability="full")
        self.numbers = itertools.count()
        self.batched = self.store.create("batched")

    def settings(self) -> str:
        return describe_store(self.store)

    def writer(self) -> Callable[[], object]:
        session = self.store.create(f"w{next(self.numbers)}")
        return lambda: session.append("user.message", {"content": TEXT})

    def batch(self, size: int) -> object:
        return self.batched.extend([everlog.NewEvent("user.message", {"content": TEXT}) for _ in range(size)])

    def build(self, size: int) -> None:
        self.session = fill(self.store, size)

    def append(self) -> object:
        return self.session.append("user.message", {"content": TEXT})

    def read(self, last: int | None) -> list[str]:
        events = self.session.slice() if last is None else self.session[-last:]
        return [event.data["content"] for event in events]

    def build_for_fork(self, size: int) -> None:
        self.build(size)

    def fork(self) -> object:
        return self.session.fork()

    def state_at(self, number: int) -> int:
        return len(self.session.state("messages", at=number))

    def build_document(self, changes: int) -> None:
        self.session = self.store.create("document")
        self.session.append("state.set", {"path": "", "value": DOCUMENT})
        for number in range(1, changes + 1):
            member, value = changed(number)
            self.session.append("state.set", {"path": f"/{member}", "value": value})
        self.store.keeper.wait(60)

    def document_at(self, number: int) -> int:
        return self.session.state(at=number + 1)[changed(number)[0]]["number"]

    def close(self) -> None:
        self.store.close()


def fill(store: everlog.Store, size: int) -> everlog.Session:
    """Make a session of `size` events."""
    session = store.create(f"built-{size}")
    for start in range(0, size, BATCH):
        session.extend([everlog.NewEvent("user.message", {"content": TEXT})] * min(BATCH, size - start))
    return session


def describe_store(store: everlog.Store) -> str:
    """Read the settings of the connection that writes."""
    connection = store.storage._connections._writer  # type: ignore[attr-defined]
    read = lambda name: connection.execute(f"PRAGMA {name}").fetchone()[0]
    return describe(apsw.sqlite_lib_version(), read("journal_mode"), read("synchronous"))
