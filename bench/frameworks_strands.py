"""Sessions of Strands in Everlog, beside its own files: it has no SQLite storage.

PYTHONPATH=src .venv/bin/python -m bench.frameworks_strands
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strands.session.file_session_manager import FileSessionManager
from strands.session.session_repository import SessionRepository
from strands.types.session import SessionAgent, SessionMessage

from bench.framework_table import LAST, main, measure
from everlog.integrations.strands import EverlogSessionManager


class Kept:
    """An agent's messages in a repository, as the session manager appends and reads them."""

    def __init__(self, repository: SessionRepository) -> None:
        self.repository = repository
        self.count = 0
        repository.create_agent("s", SessionAgent("a", {}, {}))

    def append(self, texts: Sequence[str]) -> None:
        for text in texts:
            said: Any = {"role": "assistant" if self.count % 2 else "user", "content": [{"text": text}]}
            self.repository.create_message("s", "a", SessionMessage.from_message(said, self.count))
            self.count += 1

    def last(self) -> Sequence[Any]:
        return self.repository.list_messages("s", "a", offset=self.count - LAST)

    def close(self) -> None:
        close: Any = getattr(self.repository, "close", None)
        if close is not None:
            close()


def ours(folder: Path) -> dict[str, float]:
    """Measure Everlog, where each append survives power loss."""
    return measure(folder, lambda path: Kept(EverlogSessionManager("s", store=path / "s.db").session_repository))


def theirs(folder: Path) -> dict[str, float]:
    """Measure files, which are never synced."""
    return measure(folder, lambda path: Kept(FileSessionManager("s", storage_dir=str(path))))


if __name__ == "__main__":
    main("Strands Agents", {"Everlog": ours, "files, not synced": theirs})
