"""Snapshots of an agent of Strands in Everlog, beside its own files: each append saves the whole conversation once more.

PYTHONPATH=src .venv/bin/python -m bench.frameworks_strands_storage
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strands.storage import LocalFileStorage, Storage

from bench.framework_table import LAST, main, measure
from everlog.integrations.strands_storage import EverlogStorage

KEY = "session/s/scopes/agent/a/snapshots/snapshot_latest.json"


class Saved:
    """A conversation in a storage, saved as `SnapshotSessionManager` does."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.messages: list[Any] = []

    def append(self, texts: Sequence[str]) -> None:
        for text in texts:
            role = "assistant" if len(self.messages) % 2 else "user"
            self.messages.append({"role": role, "content": [{"text": text}]})
        whole = {
            "scope": "agent",
            "schema_version": "1.0",
            "created_at": f"2026-12-01T12:00:{len(self.messages):09}Z",
            "data": {"messages": self.messages, "state": {}, "system_prompt": "Be brief."},
            "app_data": {},
        }
        asyncio.run(self.storage.write(KEY, json.dumps(whole, ensure_ascii=False).encode()))

    def last(self) -> Sequence[Any]:
        return json.loads(asyncio.run(self.storage.read(KEY)) or b"")["data"]["messages"][-LAST:]

    def close(self) -> None:
        close: Any = getattr(self.storage, "close", None)
        if close is not None:
            close()


def ours(folder: Path) -> dict[str, float]:
    """Measure Everlog, where each save survives power loss and keeps those before it."""
    return measure(folder, lambda path: Saved(EverlogStorage(path / "s.db")))


def theirs(folder: Path) -> dict[str, float]:
    """Measure files, which are never synced, and hold the last save alone."""
    return measure(folder, lambda path: Saved(LocalFileStorage(str(path))))


if __name__ == "__main__":
    main("Strands Agents: snapshots", {"Everlog": ours, "files, not synced": theirs})
