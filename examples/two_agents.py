"""Two agents on one session: each decides on what it saw, and decides again where the other was quicker.

python examples/two_agents.py STORE
"""

from __future__ import annotations

import asyncio
import sys

import everlog
from everlog.errors import ConflictError

TURNS = 10


async def agent(store_path: str, name: str) -> int:
    """Count up in turns with the other; give how often the other was quicker."""
    conflicts = 0
    async with await everlog.open_async(store_path) as store:
        session = await store.get_or_create("shared")
        for _ in range(TURNS):
            while True:
                seen = await session.refresh()
                data = {"content": f"{name} says {seen.size}"}
                try:
                    await session.append("agent.message", data, actor=name, expected=seen)
                except ConflictError:
                    conflicts += 1  # the error carries what was missed; here it is enough to look again
                    continue
                break
    return conflicts


async def main(store_path: str) -> None:
    """Let two agents talk, and check that what each said was true."""
    conflicts = await asyncio.gather(agent(store_path, "ada"), agent(store_path, "bob"))
    with everlog.open(store_path) as store:
        said = [event.data["content"].rpartition(" ")[2] for event in store.session("shared")]
    assert said == [str(position) for position in range(2 * TURNS)]
    print(f"{len(said)} messages, each in its place; {sum(conflicts)} were decided again")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
