"""The eventsourcing library at the level of its SQLite application recorder, with its own defaults.

Its mapper and its aggregates are left out: an event is a dict that is made into JSON here, as Everlog makes it, and a version
that the writer counts. The recorder refuses a version that is taken, so each writer has a stream of its own.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path

from eventsourcing.persistence import StoredEvent
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

from bench.peers.peer import TEXT, LackingError, describe


class Measured:
    """A recorder, and the stream that was built in it."""

    tasks = False

    def open(self, path: Path) -> None:
        self.datastore = SQLiteDatastore(db_name=str(path))
        self.recorder = SQLiteApplicationRecorder(self.datastore)
        self.recorder.create_table()
        self.batched, self.size_batched = uuid.uuid4(), 0

    def settings(self) -> str:
        with self.datastore.transaction(commit=False) as cursor:
            values = []
            for name in ("journal_mode", "synchronous"):
                cursor.execute(f"PRAGMA {name}")
                values.append(cursor.fetchone()[0])
        return describe(sqlite3.sqlite_version, *values)

    def writer(self) -> Callable[[], object]:
        stream, version = uuid.uuid4(), 0

        def append() -> None:
            nonlocal version
            self.recorder.insert_events([event(stream, version)])
            version += 1

        return append

    def batch(self, size: int) -> object:
        start, self.size_batched = self.size_batched, self.size_batched + size
        return self.recorder.insert_events([event(self.batched, start + number) for number in range(size)])

    def build(self, size: int) -> None:
        self.stream, self.size = uuid.uuid4(), size
        self.recorder.insert_events([event(self.stream, version) for version in range(size)])

    def append(self) -> object:
        self.size += 1
        return self.recorder.insert_events([event(self.stream, self.size - 1)])

    def read(self, last: int | None) -> list[str]:
        if last is None:
            events = self.recorder.select_events(self.stream)
        else:
            events = reversed(self.recorder.select_events(self.stream, desc=True, limit=last))
        return [json.loads(event.state)["content"] for event in events]

    def build_for_fork(self, size: int) -> None:
        raise LackingError("it has no forks")

    def fork(self) -> object:
        raise LackingError("it has no forks")

    def close(self) -> None:
        self.datastore.close()


def event(stream: uuid.UUID, version: int) -> StoredEvent:
    """Make an event of it."""
    return StoredEvent(stream, version, "user.message", json.dumps({"content": TEXT}).encode())
