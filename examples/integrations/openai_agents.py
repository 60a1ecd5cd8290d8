"""An agent of OpenAI's Agents SDK whose conversation is an Everlog session. The model is a script, so no key is needed.

python examples/integrations/openai_agents.py STORE

Run it again on the same store: the agent goes on with all that was said before.
"""

from __future__ import annotations

import asyncio
import sys

from agents import Agent, Runner, function_tool, set_tracing_disabled
from agents.testing import ScriptedModel, assistant_message, function_call

from everlog.integrations.openai_agents import EverlogSession


@function_tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def main(store: str) -> None:
    """Ask once, look at the log, take back the last turn, and try it another way in a fork."""
    session = EverlogSession("user-123", store)  # instead of SQLiteSession("user-123", "conversations.db")
    before = await session.get_items()
    print(f"{len(before)} items from before")

    turn = len(before)
    model = ScriptedModel([[function_call("add", {"a": 20, "b": 22}, call_id=f"c{turn}")], [assistant_message("42.")]])
    agent = Agent(name="adder", model=model, tools=[add])
    result = await Runner.run(agent, "What is 20 + 22?", session=session)
    print(result.final_output)

    log = session.log  # the same conversation, as Everlog has it
    for event in log.events(start=-4):
        print(f"  {event.position:>3} {event.type}")
    print("uses of add:", len(log.search("type:agent.tool_use data.name:add", limit=100).hits))

    fork = log.fork(at=-1)  # everything but the answer, in a session of its own
    other = EverlogSession(fork.id, session.store)
    agent = Agent(name="adder", model=ScriptedModel([[assistant_message("Forty-two.")]]))
    print((await Runner.run(agent, "In words, please.", session=other)).final_output)
    assert len(await session.get_items()) == turn + 4, "the fork changed nothing here"
    assert session.store.verify().ok
    session.close()


if __name__ == "__main__":
    set_tracing_disabled(True)
    asyncio.run(main(sys.argv[1]))
