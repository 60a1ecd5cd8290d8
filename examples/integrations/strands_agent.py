"""An agent of Strands whose session is kept in Everlog: each run goes on where the last one ended.

python examples/integrations/strands_agent.py STORE

Its model is a script. Leave out `model` to talk to a real one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator
from typing import Any

from strands import Agent, tool
from strands.models.model import Model

from everlog.integrations.strands import EverlogSessionManager


@tool
def multiply(one: int, other: int) -> str:
    """Multiply two numbers."""
    return str(one * other)


class ScriptedModel(Model):
    """Uses the tool where it is asked, then says what the tool gave and how much it was shown."""

    def update_config(self, **model_config: Any) -> None:
        """Take nothing: there is nothing to set."""

    def get_config(self) -> dict[str, Any]:
        """Give nothing: there is nothing to set."""
        return {}

    def structured_output(self, *args: Any, **kwargs: Any) -> AsyncGenerator[dict[str, Any], None]:
        """Refuse: the script says only text."""
        raise NotImplementedError

    async def stream(self, messages: Any, *_: Any, **__: Any) -> AsyncGenerator[Any, None]:
        """Answer the last message."""
        yield {"messageStart": {"role": "assistant"}}
        last = messages[-1]["content"][0]
        if "toolResult" in last:
            text = f"It is {last['toolResult']['content'][0]['text']}; I was shown {len(messages)} messages."
            yield {"contentBlockDelta": {"delta": {"text": text}}}
        else:
            use = {"toolUseId": f"use-{len(messages)}", "name": "multiply"}
            yield {"contentBlockStart": {"start": {"toolUse": use}}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps({"one": 6, "other": 7})}}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn" if "toolResult" in last else "tool_use"}}
        yield {
            "metadata": {"usage": {"inputTokens": 5, "outputTokens": 3, "totalTokens": 8}, "metrics": {"latencyMs": 1}}
        }


def main(place: str) -> None:
    """Ask once, in the session that was asked before."""
    manager = EverlogSessionManager("calculations", store=place)
    agent = Agent(
        agent_id="calculator",
        model=ScriptedModel(),
        tools=[multiply],
        session_manager=manager,
        callback_handler=None,
    )
    print(agent("What is 6 times 7?"), end="")
    session = manager.session_repository.session("calculations", "calculator")
    print(f"{session.id}: {len(session.state('messages').value)} messages, {session.head.size} events")
    manager.close()


if __name__ == "__main__":
    main(sys.argv[1])
