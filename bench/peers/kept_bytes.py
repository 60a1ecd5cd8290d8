"""What a framework's own SQLite store takes for a conversation: `python -m bench.peers.kept_bytes NAME MESSAGES.json FILE` prints bytes.

Each message is added when it is said, with the framework's own defaults; the file is measured once its log is copied into it.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import uuid
from pathlib import Path


def keep_by_langgraph(said: list[str], path: Path) -> None:
    """A checkpoint for each message, with the whole list of messages in it, as a graph with a list of messages has the saver keep."""
    from langchain_core.messages import AIMessage, HumanMessage
    from langgraph.checkpoint.sqlite import SqliteSaver

    from bench.peers.langgraph_sqlite import Thread

    with SqliteSaver.from_conn_string(str(path)) as saver:
        saver.setup()
        thread = Thread(saver, "t")
        for number, text in enumerate(said):
            make = AIMessage if number % 2 else HumanMessage
            thread.messages.append(make(content=text, id=str(uuid.uuid4())))
            thread.put()


def keep_by_openai_agents(said: list[str], path: Path) -> None:
    """An item for each message."""
    from agents import SQLiteSession

    async def add() -> None:
        session = SQLiteSession("s", path)
        for number, text in enumerate(said):
            role = "assistant" if number % 2 else "user"
            await session.add_items([{"role": role, "content": text}])  # type: ignore[list-item]
        session.close()

    asyncio.run(add())


def main() -> None:
    """Keep the conversation, and print how large the file is."""
    name, messages, path = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    said = json.loads(messages.read_text(encoding="utf-8"))
    {"langgraph": keep_by_langgraph, "openai_agents": keep_by_openai_agents}[name](said, path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    print(path.stat().st_size)


if __name__ == "__main__":
    main()
