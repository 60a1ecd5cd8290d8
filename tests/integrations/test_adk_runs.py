"""Whatever ADK's Runner does, it leaves and shows its model on Everlog's sessions what it does on ADK's own."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("google.adk", reason="google-adk is not installed")

from google.adk.agents import LlmAgent, LoopAgent, SequentialAgent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.apps import App
from google.adk.events.event import Event
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import Runner
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.adk.tools import FunctionTool, LongRunningFunctionTool
from google.adk.tools.agent_tool import AgentTool
from google.adk.tools.tool_context import ToolContext
from google.genai import types

from everlog.integrations.adk import EverlogSessionService
from integrations.adk_scripted import call, scripted, text

try:
    from google.adk.apps import ResumabilityConfig
except ImportError:
    ResumabilityConfig = None

WHO = {"user_id": "u7", "session_id": "s"}
pytestmark = [
    pytest.mark.skipif(
        not hasattr(SqliteSessionService, "get_user_state"), reason="this version of ADK keeps another contract"
    ),
    pytest.mark.filterwarnings("ignore::UserWarning:google.*"),
    pytest.mark.filterwarnings("ignore:.*EXPERIMENTAL.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


class Story:
    """Runs of one app on the sessions of one place: each run opens a service of its own, as another process would."""

    def __init__(self, opened, *script):
        self.opened = opened
        self.model = scripted(*script)

    async def ask(self, agent, said=None, *, invocation=None, plugins=(), resumes=False, **named):
        content = types.Content(role="user", parts=[text(said)]) if isinstance(said, str) else said
        config = {"resumability_config": ResumabilityConfig(is_resumable=True)} if resumes else {}
        async with self.opened() as service:
            app = App(name="trips", root_agent=agent, plugins=list(plugins), **config)
            runner = Runner(app=app, session_service=service, auto_create_session=True)
            given = {"new_message": content} | ({} if invocation is None else {"invocation_id": invocation})
            return [event async for event in runner.run_async(**WHO, **given, **named)]

    async def left(self):
        async with self.opened() as service:
            session = await service.get_session(app_name="trips", **WHO)
            listed = await service.list_sessions(app_name="trips")
        # ADK's own gives events by their times. Ours gives them as they were appended, as a session in memory does.
        events = sorted(session.events, key=lambda event: event.timestamp)
        return {
            "events": [event.model_dump(mode="json", exclude={"timestamp"}) for event in events],
            "state": session.state,
            "listed": [[each.user_id, each.id, each.state] for each in listed.sessions],
            "shown": self.model.shown,
        }

    def agent(self, name="guide", **named):
        return LlmAgent(name=name, model=self.model, **named)


def plain(value):
    """Give a value as JSON in which what is drawn at random is called by when it came first."""
    names = {}
    drawn = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    written = json.dumps(value, sort_keys=True, default=repr)
    return re.sub(drawn, lambda found: names.setdefault(found[0], f"id {len(names)}"), written)


def remember(what: str, tool_context: ToolContext) -> dict:
    """Remember something."""
    for scope in ("", "app:", "user:", "temp:"):
        tool_context.state[f"{scope}last"] = {"what": what, "none": None}
    return {"remembered": what}


def failing():
    """Give a tool that fails once."""
    failed = []

    def fails(what: str) -> dict:
        """Fail."""
        if not failed:
            failed.append(what)
            raise ValueError(what)
        return {"what": what}

    return fails


def waits(what: str) -> None:
    """Be answered later."""


async def calls_a_tool_and_goes_on(story):
    agent = story.agent(tools=[remember], output_key="said")
    await story.ask(agent, "Remember", state_delta={"given": 1, "user:given": 2})
    await story.ask(agent, "What was it?")


async def streams(story):
    events = await story.ask(story.agent(), "go", run_config=RunConfig(streaming_mode=StreamingMode.SSE))
    assert [event.partial for event in events[:2]] == [True, None]


async def fails_in_a_tool_and_goes_on(story):
    agent = story.agent(tools=[failing()])
    with pytest.raises(ValueError, match="Lima"):
        await story.ask(agent, "go")
    await story.ask(agent, "and now?")


async def hands_over(story):
    other = story.agent("other", description="other")
    await story.ask(story.agent(sub_agents=[other]), "go")
    await story.ask(story.agent(sub_agents=[story.agent("other", description="other")]), "still there?")


async def runs_agents_one_after_another(story):
    first = story.agent("first", output_key="temp:note")
    second = story.agent("second", instruction="They said {temp:note}.", output_key="app:note")
    await story.ask(SequentialAgent(name="team", sub_agents=[first, second]), "go")


async def loops(story):
    await story.ask(LoopAgent(name="loop", sub_agents=[story.agent(output_key="said")], max_iterations=3), "go")


async def asks_an_agent_as_a_tool(story):
    other = story.agent("other", tools=[remember], description="other")
    await story.ask(story.agent(tools=[AgentTool(other)]), "go")


async def rewinds(story):
    agent = story.agent(tools=[remember])
    await story.ask(agent, "first")
    second = await story.ask(agent, "second")
    async with story.opened() as service:
        runner = Runner(app=App(name="trips", root_agent=agent), session_service=service)
        await runner.rewind_async(**WHO, rewind_before_invocation_id=second[0].invocation_id)
    await story.ask(agent, "third")


async def is_answered_later(story):
    agent = story.agent(tools=[LongRunningFunctionTool(waits)])
    await story.ask(agent, "go")
    answer = types.FunctionResponse(id="c1", name="waits", response={"result": "done"})
    await story.ask(agent, types.Content(role="user", parts=[types.Part(function_response=answer)]))


async def is_resumed(story):
    agent = story.agent(tools=[LongRunningFunctionTool(waits)])
    events = await story.ask(agent, "go", resumes=True)
    answer = types.FunctionResponse(id="c1", name="waits", response={"result": "done"})
    content = types.Content(role="user", parts=[types.Part(function_response=answer)])
    await story.ask(agent, content, invocation=events[0].invocation_id, resumes=True)


async def is_resumed_where_it_failed(story):
    fails = failing()

    def team():
        agents = [story.agent("first"), story.agent("second", tools=[fails])]
        return SequentialAgent(name="team", sub_agents=agents)

    with pytest.raises(ValueError, match="Lima"):
        await story.ask(team(), "go", resumes=True)
    async with story.opened() as service:
        last = (await service.get_session(app_name="trips", **WHO)).events[-1]
    await story.ask(team(), invocation=last.invocation_id, resumes=True)


async def asks_for_leave(story):
    agent = story.agent(tools=[FunctionTool(remember, require_confirmation=True)])
    events = await story.ask(agent, "go")
    (asked,) = [each for event in events for each in event.get_function_calls() if "confirmation" in each.name]
    answer = types.FunctionResponse(id=asked.id, name=asked.name, response={"confirmed": True})
    await story.ask(agent, types.Content(role="user", parts=[types.Part(function_response=answer)]))


class Changes(BasePlugin):
    async def on_event_callback(self, *, invocation_context, event):
        return Event(author="changed", content=event.content, custom_metadata={"n": {"none": None}})


async def is_changed_by_a_plugin(story):
    await story.ask(story.agent(), "go", plugins=[Changes(name="changes")])


STORIES = {
    calls_a_tool_and_goes_on: [call("remember", what="Lima"), text("Noted."), text("Lima.")],
    streams: [text("Here I am.")],
    fails_in_a_tool_and_goes_on: [call("fails", what="Lima"), text("It failed.")],
    hands_over: [call("transfer_to_agent", agent_name="other"), text("I am other."), text("I am.")],
    runs_agents_one_after_another: [text("one"), text("two")],
    loops: [text("one"), text("two"), text("three")],
    asks_an_agent_as_a_tool: [call("other", request="do"), call("remember", what="Lima"), text("done"), text("so")],
    rewinds: [call("remember", what="Lima"), text("a"), call("remember", what="Quito"), text("b"), text("c")],
    is_answered_later: [call("waits", id="c1", what="x"), text("I wait."), text("It is done.")],
    is_resumed: [call("waits", id="c1", what="x"), text("It is done.")],
    is_resumed_where_it_failed: [text("one"), call("fails", what="Lima"), text("three")],
    asks_for_leave: [call("remember", what="Lima"), text("I ask."), text("Noted.")],
    is_changed_by_a_plugin: [text("one")],
}


@pytest.mark.parametrize("act", STORIES, ids=lambda act: act.__name__)
def test_a_run_leaves_and_is_shown_what_it_is_on_adks_own(act, tmp_path):
    if ResumabilityConfig is None and "resumed" in act.__name__:
        pytest.skip("this version of ADK resumes nothing")

    async def told(opened):
        story = Story(opened, *[part.model_copy(deep=True) for part in STORIES[act]])
        await act(story)
        return await story.left()

    @asynccontextmanager
    async def theirs():
        yield SqliteSessionService(str(tmp_path / "adk.db"))

    expected = asyncio.run(told(theirs))
    found = asyncio.run(told(lambda: EverlogSessionService(tmp_path / "agent.db")))
    assert plain(found) == plain(expected)
    assert len(found["events"]) > 1
