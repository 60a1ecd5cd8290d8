"""A guide made with Google ADK whose sessions are in Everlog: killed anywhere, it goes on where it was when it is run again.

python examples/integrations/adk.py STORE

The model is scripted, so that it runs without a key; put `model="gemini-…"` in its place. KILL_AT=n makes the program kill itself
before its n-th durable write, which is what a crash at the worst moment does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from typing import Any

from google.adk.agents import LlmAgent
from google.adk.apps import App, ResumabilityConfig
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import Runner
from google.adk.tools.tool_context import ToolContext
from google.genai import types

from everlog import Store
from everlog.integrations.adk import EverlogSessionService, session_name

APP, USER, SESSION = "trips", "u7", "holiday"
CAPITALS = {"Peru": "Lima", "Chile": "Santiago"}


class ScriptedModel(BaseLlm):
    """Looks up what it is asked for, then says what it found: what a model would do, without one."""

    async def generate_content_async(
        self,
        llm_request: LlmRequest,
        stream: bool = False,  # noqa: ARG002, FBT001, FBT002  # the interface is ADK's
    ) -> AsyncGenerator[LlmResponse, None]:
        last = ((llm_request.contents[-1].parts) or [types.Part()])[-1]
        answer = last.function_response
        if answer is not None:
            said = types.Part(text=f"That is {(answer.response or {}).get('result')}.")
        else:
            country = next((name for name in CAPITALS if name in (last.text or "")), "Peru")
            said = types.Part(function_call=types.FunctionCall(name="find_capital", args={"country": country}))
        yield LlmResponse(content=types.Content(role="model", parts=[said]))


def find_capital(country: str, tool_context: ToolContext) -> str:
    """Find the capital of a country."""
    tool_context.state["country"] = country  # the session's own state
    tool_context.state["user:asked"] = [
        *tool_context.state.get("user:asked", []),
        country,
    ]  # this user's, in every session
    return CAPITALS[country]


def make_app() -> App:
    agent = LlmAgent(name="guide", model=ScriptedModel(model="scripted"), tools=[find_capital])
    return App(name=APP, root_agent=agent, resumability_config=ResumabilityConfig(is_resumable=True))


async def talk(service: EverlogSessionService, *questions: str) -> list[str]:
    """Ask the questions that were not asked yet, after what was left unfinished; give all that the guide ever said."""
    runner = Runner(app=make_app(), session_service=service)
    session = await service.get_session(app_name=APP, user_id=USER, session_id=SESSION)
    if session is None:
        session = await service.create_session(app_name=APP, user_id=USER, session_id=SESSION)
    last = session.events[-1] if session.events else None
    if last and not last.actions.end_of_agent and (last.author == "user" or not last.is_final_response()):
        async for _ in runner.run_async(user_id=USER, session_id=SESSION, invocation_id=last.invocation_id):
            pass
    asked = {part.text for event in session.events if event.author == "user" for part in parts_of(event)}
    for question in questions:
        if question not in asked:
            message = types.Content(role="user", parts=[types.Part(text=question)])
            async for _ in runner.run_async(user_id=USER, session_id=SESSION, new_message=message):
                pass
    session = await service.get_session(app_name=APP, user_id=USER, session_id=SESSION)
    assert session is not None, "it was made above"
    return [part.text for event in session.events if event.author == "guide" for part in parts_of(event) if part.text]


def parts_of(event: Any) -> list[types.Part]:
    return list(event.content.parts or []) if event.content else []


def die_at(store: Store, writes: int) -> None:
    """Kill this process at its n-th write, before it is made."""
    write, left = store.storage.write, [writes]

    def write_or_die(request: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(request)

    store.storage.write = write_or_die


async def main(place: str) -> None:
    async with EverlogSessionService(place) as service:
        if "KILL_AT" in os.environ:
            die_at(service.store, int(os.environ["KILL_AT"]))
        for said in await talk(service, "What is the capital of Peru?", "And of Chile?"):
            print(said)
        log = service.store.session(session_name(APP, USER, SESSION))
        print(f"{log.size()} events, asked about {await service.get_user_state(app_name=APP, user_id=USER)}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
