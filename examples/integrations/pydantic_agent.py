"""An agent of Pydantic AI whose conversation is kept in Everlog: each run goes on where the last one ended.

python examples/integrations/pydantic_agent.py STORE

Its model is a script. Give `Agent` the name of a real one instead.
"""

from __future__ import annotations

import asyncio
import sys

from pydantic_ai import Agent
from pydantic_ai.conversation import Conversation
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from everlog.integrations.pydantic_ai import EverlogConversationStore


def script(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:  # noqa: ARG001  # as FunctionModel calls it
    """Use the tool where it is asked, then say what the tool gave and how much it was shown."""
    last = messages[-1].parts[-1]
    if isinstance(last, ToolReturnPart):
        return ModelResponse(parts=[TextPart(f"It is {last.content}; I was shown {len(messages)} messages.")])
    return ModelResponse(parts=[ToolCallPart("multiply", {"one": 6, "other": 7})])


agent = Agent(FunctionModel(script))


@agent.tool_plain
def multiply(one: int, other: int) -> int:
    """Multiply two numbers."""
    return one * other


async def main(place: str) -> None:
    """Ask once, in the conversation that was asked before."""
    store = EverlogConversationStore(place)
    conversation = await store.load("calculations") or Conversation(conversation_id="calculations")
    result = await agent.run("What is 6 times 7?", conversation=conversation)
    await store.save(result)
    print(result.output)
    session = store.session("calculations")
    print(f"{session.id}: {len(session.state('messages').value)} messages, {session.head.size} events")
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
