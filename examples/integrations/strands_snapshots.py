"""An agent of Strands whose snapshots are kept in Everlog: each run goes on where the last one ended.

python examples/integrations/strands_snapshots.py STORE

Its model is a script. Leave out `model` to talk to a real one.
"""

from __future__ import annotations

import asyncio
import sys

from strands import Agent
from strands.session.snapshot_session_manager import SnapshotSessionManager
from strands_agent import ScriptedModel, multiply

from everlog.integrations.strands_storage import EverlogStorage


def main(place: str) -> None:
    """Ask once, in the session that was asked before; then tell the saves, and what the last but one had."""
    storage = EverlogStorage(place)
    agent = Agent(
        agent_id="calculator",
        model=ScriptedModel(),
        tools=[multiply],
        session_manager=SnapshotSessionManager("calculations", storage=storage),
        callback_handler=None,
    )
    print(agent("What is 6 times 7?"), end="")
    (key,) = asyncio.run(storage.list("session/calculations/"))
    session = storage.session(key)
    saves = [event.position for event in session.events(types=("state.set", "state.patch"))]
    before = asyncio.run(storage.read(key, at=saves[-1]))
    print(f"{session.id}: {len(saves)} saves, {session.head.size} events; {len(before or b'')} bytes before this run")
    storage.close()


if __name__ == "__main__":
    main(sys.argv[1])
