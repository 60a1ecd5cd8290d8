"""Conversations of Pydantic AI in Everlog, beside what its documentation has: the whole history as JSON, in a row of SQLite.

It has no store that lasts: each save writes the whole history anew. A save is that of a run: a request and a response. PYTHONPATH=src .venv/bin/python -m bench.frameworks_pydantic_ai
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic_ai.conversation import Conversation
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    TextPart,
    UserPromptPart,
)

from bench.framework_table import LAST, main, measure
from everlog.integrations.pydantic_ai import EverlogConversationStore


def messages_of(texts: Sequence[str], count: int) -> list[ModelMessage]:
    """Give a message for each text, of the user and the model in turns."""
    return [
        ModelResponse(parts=[TextPart(text)], model_name="m")
        if (count + number) % 2
        else ModelRequest(parts=[UserPromptPart(text)])
        for number, text in enumerate(texts)
    ]


class Ours:
    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.store = EverlogConversationStore(folder / "s.db")
        self.conversation = Conversation(conversation_id="c")

    def append(self, texts: Sequence[str]) -> None:
        self.conversation.messages += messages_of(texts, len(self.conversation.messages))
        self.loop.run_until_complete(self.store.save(self.conversation))

    def last(self) -> Sequence[Any]:
        loaded = self.loop.run_until_complete(self.store.load("c", limit=LAST))
        return [] if loaded is None else loaded.messages

    def close(self) -> None:
        self.loop.run_until_complete(self.store.close())
        self.loop.close()


class Row:
    """The history as JSON in one row, durable as ours is."""

    def __init__(self, folder: Path) -> None:
        self.connection = sqlite3.connect(folder / "s.db")
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("CREATE TABLE conversation (id TEXT PRIMARY KEY, messages BLOB)")
        self.messages: list[ModelMessage] = []

    def append(self, texts: Sequence[str]) -> None:
        self.messages += messages_of(texts, len(self.messages))
        with self.connection:
            self.connection.execute(
                "INSERT OR REPLACE INTO conversation VALUES ('c', ?)",
                (ModelMessagesTypeAdapter.dump_json(self.messages),),
            )

    def last(self) -> Sequence[Any]:
        (stored,) = self.connection.execute("SELECT messages FROM conversation WHERE id = 'c'").fetchone()
        return ModelMessagesTypeAdapter.validate_json(stored)[-LAST:]

    def close(self) -> None:
        self.connection.close()


def ours(folder: Path) -> dict[str, float]:
    """Measure Everlog."""
    return measure(folder, Ours, each=2)


def theirs(folder: Path) -> dict[str, float]:
    """Measure one row of SQLite."""
    return measure(folder, Row, each=2)


if __name__ == "__main__":
    main("Pydantic AI", {"Everlog": ours, "JSON in a row": theirs})
