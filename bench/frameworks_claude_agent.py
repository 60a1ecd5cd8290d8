"""Transcripts of the Claude Agent SDK in Everlog, beside the JSON lines that Claude Code writes (the SDK has no store that lasts).

PYTHONPATH=src .venv/bin/python -m bench.frameworks_claude_agent
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench.framework_table import LAST, main, measure
from everlog.integrations.claude_agent import EverlogSessionStore

KEY: Any = {"project_key": "-home-me-work", "session_id": "5f0c54a6-30d5-4b4c-9f8e-3a1f6f1c1a01"}


def entry(text: str) -> dict[str, Any]:
    """Give an entry as Claude Code writes one."""
    return {
        "type": "user",
        "uuid": str(uuid4()),
        "parentUuid": str(uuid4()),
        "sessionId": KEY["session_id"],
        "timestamp": "2026-11-30T10:00:00.000Z",
        "cwd": "/home/me/work",
        "version": "2.1.0",
        "gitBranch": "main",
        "isSidechain": False,
        "userType": "external",
        "message": {"role": "user", "content": text},
    }


class Ours:
    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.store = EverlogSessionStore(folder / "s.db")

    def append(self, texts: Sequence[str]) -> None:
        self.loop.run_until_complete(self.store.append(KEY, [entry(text) for text in texts]))  # pyright: ignore[reportArgumentType]

    def last(self) -> Sequence[Any]:
        return list(self.store.session(KEY).events(reverse=True, limit=LAST))

    def close(self) -> None:
        self.loop.run_until_complete(self.store.close())
        self.loop.close()


class Lines:
    """A transcript as a file of JSON lines. synced: each append survives power loss, as ours do."""

    def __init__(self, folder: Path, *, synced: bool) -> None:
        self.path = folder / "s.jsonl"
        self.file = self.path.open("ab")
        self.synced = synced

    def append(self, texts: Sequence[str]) -> None:
        self.file.write(b"".join(json.dumps(entry(text)).encode() + b"\n" for text in texts))
        self.file.flush()
        if self.synced:
            os.fsync(self.file.fileno())

    def last(self) -> Sequence[Any]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()][-LAST:]

    def close(self) -> None:
        self.file.close()


def ours(folder: Path) -> dict[str, float]:
    """Measure Everlog."""
    return measure(folder, Ours)


def theirs(folder: Path, *, synced: bool = False) -> dict[str, float]:
    """Measure a file of JSON lines. synced: with a sync for each append."""
    return measure(folder, lambda path: Lines(path, synced=synced))


if __name__ == "__main__":
    main(
        "Claude Agent SDK",
        {"Everlog": ours, "JSON lines": theirs, "JSON lines, synced": lambda folder: theirs(folder, synced=True)},
    )
