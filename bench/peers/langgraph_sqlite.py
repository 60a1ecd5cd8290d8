"""LangGraph's `SqliteSaver`, with its own defaults: a checkpoint for each message, with the whole list of messages in it.

That is what the saver is given by a graph whose state is a list of messages. A graph also writes the steps between (pending
writes and a checkpoint for the input): they are left out, in its favour.
"""

from __future__ import annotations

import itertools
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite import SqliteSaver

from bench.peers.peer import DOCUMENT, TEXT, changed, describe


class Thread:
    """A thread of a graph: the list of its messages, and the checkpoint that was saved last."""

    def __init__(self, saver: SqliteSaver, name: str) -> None:
        self.saver = saver
        self.start: Any = {"configurable": {"thread_id": name, "checkpoint_ns": ""}}
        self.config = self.start
        self.messages: list[AnyMessage] = []
        self.version: str | None = None
        self.step = -1
        self.saved: list[Any] = []  # what names each checkpoint, as get_state_history gives it

    def extend(self, size: int) -> None:
        for _ in range(size):
            make = AIMessage if len(self.messages) % 2 else HumanMessage
            self.messages.append(make(content=TEXT, id=str(uuid.uuid4())))
        self.put()

    def put(self) -> None:
        self.save("messages", self.messages)

    def save(self, channel: str, value: Any) -> None:
        self.step += 1
        self.version = self.saver.get_next_version(self.version, None)
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {channel: value}
        checkpoint["channel_versions"] = {channel: self.version}
        metadata: Any = {"source": "loop", "step": self.step, "parents": {}}
        self.config = self.saver.put(self.config, checkpoint, metadata, {channel: self.version})
        self.saved.append(self.config)

    def at(self, number: int, channel: str) -> Any:
        """Give a channel as it was saved the `number`th time, as time travel does."""
        found = self.saver.get_tuple(self.saved[number - 1])
        assert found is not None
        return found.checkpoint["channel_values"][channel]

    def read(self) -> list[AnyMessage]:
        latest = self.saver.get_tuple(self.start)
        assert latest is not None
        return latest.checkpoint["channel_values"]["messages"]


class Measured:
    """A saver, and the thread that was built in it."""

    tasks = False

    def open(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, check_same_thread=False)  # as from_conn_string opens it
        self.saver = SqliteSaver(self.connection)
        self.saver.setup()
        self.numbers = itertools.count()

    def settings(self) -> str:
        read = lambda name: self.connection.execute(f"PRAGMA {name}").fetchone()[0]
        return describe(sqlite3.sqlite_version, read("journal_mode"), read("synchronous"))

    def thread(self) -> Thread:
        return Thread(self.saver, f"t{next(self.numbers)}")

    def writer(self) -> Callable[[], None]:
        thread = self.thread()
        return lambda: thread.extend(1)

    def batch(self, size: int) -> None:
        self.thread().extend(size)

    def build(self, size: int) -> None:
        self.built = self.thread()
        self.built.extend(size)

    def append(self) -> None:
        self.built.extend(1)

    def read(self, last: int | None) -> list[str]:
        messages = self.built.read()
        return [str(message.content) for message in (messages if last is None else messages[-last:])]

    def build_for_fork(self, size: int) -> None:
        self.build(size)

    def fork(self) -> None:
        """Save the state of a checkpoint once more, with that checkpoint as its parent, as `update_state` does."""
        fork = self.thread()
        fork.config, fork.messages, fork.version = self.built.config, self.built.read(), self.built.version
        fork.put()

    def state_at(self, number: int) -> int:
        return len(self.built.at(number, "messages"))

    def build_document(self, changes: int) -> None:
        self.built = self.thread()
        document: dict[str, Any] = dict(DOCUMENT)
        for number in range(1, changes + 1):
            member, value = changed(number)
            document[member] = value
            self.built.save("document", document)

    def document_at(self, number: int) -> int:
        return self.built.at(number, "document")[changed(number)[0]]["number"]

    def close(self) -> None:
        self.connection.close()
