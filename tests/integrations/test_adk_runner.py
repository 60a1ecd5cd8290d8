"""Google ADK's own Runner with a scripted model on Everlog's sessions: runs, tools, rewinds, compaction, kills, two processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("google.adk", reason="google-adk is not installed")

from google.adk.agents import LlmAgent, ParallelAgent
from google.adk.apps import App
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import Runner
from google.adk.sessions import InMemorySessionService
from google.adk.tools.tool_context import ToolContext
from google.genai import types

import everlog
from everlog.integrations.adk import EverlogSessionService, app_state_name, session_name

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "integrations" / "adk.py"
WHO = {"user_id": "u7", "session_id": "s"}
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:google.*"),
    pytest.mark.filterwarnings("ignore:.*EXPERIMENTAL.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Scripted(BaseLlm):
    """Says what stands in its script, one line a call; notes what it was shown."""

    script: list[types.Part]
    shown: list[list[str]] = []

    async def generate_content_async(self, llm_request, stream=False):
        self.shown.append([shown(content) for content in llm_request.contents])
        yield LlmResponse(content=types.Content(role="model", parts=[self.script.pop(0)]))


def shown(content):
    part = content.parts[0]
    if part.function_call:
        return f"call {part.function_call.name}"
    return f"result {part.function_response.response}" if part.function_response else part.text


def text(said):
    return types.Part(text=said)


def call(**arguments):
    return types.Part(function_call=types.FunctionCall(name="remember", args=arguments))


def remember(what: str, tool_context: ToolContext) -> dict:
    """Remember something."""
    tool_context.state["what"] = what
    tool_context.state["app:last"] = what
    tool_context.state["temp:now"] = what
    return {"remembered": what}


def runner_of(service, *script, **of_app):
    model = Scripted(model="scripted", script=list(script), shown=[])
    agent = LlmAgent(name="guide", model=model, tools=[remember])
    return Runner(app=App(name="trips", root_agent=agent, **of_app), session_service=service), model


async def ask(runner, question):
    message = types.Content(role="user", parts=[text(question)])
    return [event async for event in runner.run_async(**WHO, new_message=message)]


async def kept(service):
    return await service.get_session(app_name="trips", **WHO)


def running(test):
    def wrapped(tmp_path):
        async def run():
            async with EverlogSessionService(tmp_path / "agent.db") as service:
                await service.create_session(app_name="trips", **WHO)
                await test(service)

        asyncio.run(run())

    wrapped.__name__ = test.__name__
    return wrapped


@running
async def test_an_agent_that_calls_a_tool_finds_its_history_when_it_is_asked_again(service):
    runner, model = runner_of(service, call(what="Lima"), text("Noted."))
    await ask(runner, "Remember Lima")
    session = await kept(service)
    assert [shown(event.content) for event in session.events] == [
        "Remember Lima",
        "call remember",
        "result {'remembered': 'Lima'}",
        "Noted.",
    ]
    assert session.state == {"what": "Lima", "app:last": "Lima"}
    other, model = runner_of(EverlogSessionService(service.store), text("It was Lima."))
    await ask(other, "What was it?")
    assert model.shown == [
        ["Remember Lima", "call remember", "result {'remembered': 'Lima'}", "Noted.", "What was it?"]
    ]


@running
async def test_a_rewind_of_adks_is_an_event_and_what_was_rewound_is_not_shown_to_the_model(service):
    runner, model = runner_of(
        service, call(what="Lima"), text("Noted."), call(what="Quito"), text("Noted too."), text("Lima.")
    )
    await ask(runner, "Remember Lima")
    await ask(runner, "Remember Quito")
    second = (await kept(service)).events[4].invocation_id
    await runner.rewind_async(**WHO, rewind_before_invocation_id=second)
    session = await kept(service)
    assert len(session.events) == 9
    assert session.events[-1].actions.rewind_before_invocation_id == second
    assert session.state == {"what": "Lima", "app:last": "Quito"}
    await ask(runner, "Which?")
    assert model.shown[-1] == ["Remember Lima", "call remember", "result {'remembered': 'Lima'}", "Noted.", "Which?"]
    log = service.store.session(session_name("trips", "u7", "s"))
    assert [event.type for event in log.events("type:x.adk.*")] == ["x.adk.rewind"]


async def compacting(service):
    """Ask twice where ADK makes a summary after two questions. Gives runner, model and session."""
    from google.adk.apps.app import EventsCompactionConfig
    from google.adk.apps.llm_event_summarizer import LlmEventSummarizer

    summarizer = LlmEventSummarizer(llm=Scripted(model="scripted", script=[text("They spoke of Lima.")], shown=[]))
    config = EventsCompactionConfig(compaction_interval=2, overlap_size=0, summarizer=summarizer)
    runner, model = runner_of(service, text("one"), text("two"), text("three"), events_compaction_config=config)
    await ask(runner, "first")
    await ask(runner, "second")
    return runner, model, await kept(service)


@running
async def test_a_compaction_is_an_event_and_the_events_that_it_stands_for_stay(service):
    own = InMemorySessionService()
    await own.create_session(app_name="trips", **WHO)
    if not any(event.actions.compaction for event in (await compacting(own))[2].events):
        pytest.skip("this version of ADK's runner compacts nothing, in ADK's own service neither")
    runner, model, session = await compacting(service)
    compactions = [event.actions.compaction for event in session.events if event.actions.compaction]
    assert [each.compacted_content.parts[0].text for each in compactions] == ["They spoke of Lima."]
    assert [event.content.parts[0].text for event in session.events if event.content] == [
        "first",
        "one",
        "second",
        "two",
    ]
    await ask(runner, "third")
    assert model.shown[-1] == ["They spoke of Lima.", "third"]
    assert [hit.event.type for hit in service.store.search("spoke").hits] == ["x.adk.compaction"]


def test_agents_that_run_in_parallel_share_a_session(tmp_path):
    async def run():
        async with EverlogSessionService(tmp_path / "agent.db") as service:
            await service.create_session(app_name="trips", **WHO)
            agents = [
                LlmAgent(
                    name=f"guide{n}", model=Scripted(model="scripted", script=[text(f"{n}")]), output_key=f"said{n}"
                )
                for n in range(4)
            ]
            team = ParallelAgent(name="team", sub_agents=agents)
            await ask(Runner(app_name="trips", agent=team, session_service=service), "go")
            session = await kept(service)
            assert session.state == {f"said{n}": f"{n}" for n in range(4)}

    asyncio.run(run())


def test_the_synchronous_runner_which_brings_a_loop_of_its_own_each_time_runs_twice(tmp_path):
    service = EverlogSessionService(tmp_path / "agent.db")
    asyncio.run(service.create_session(app_name="trips", **WHO))
    runner, _ = runner_of(service, text("one"), text("two"))
    for _ in range(2):
        list(runner.run(**WHO, new_message=types.Content(role="user", parts=[text("go")])))
    assert [shown(event.content) for event in asyncio.run(kept(service)).events] == ["go", "one", "go", "two"]
    asyncio.run(service.close())


# --- processes -----------------------------------------------------------------------------------
def program(*words, **environment):
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "ignore", **environment}
    return subprocess.Popen(
        [sys.executable, *map(str, words)], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


SAID = "That is Lima.\nThat is Santiago.\n12 events, asked about {'asked': ['Peru', 'Chile']}\n"


def test_the_example_runs_and_runs_again_on_the_same_store(tmp_path):
    for _ in range(2):
        assert program(EXAMPLE, tmp_path / "agent.db").communicate()[0] == SAID
    with everlog.open(tmp_path / "agent.db") as store:
        assert store.verify().ok


# The writes of the example: 1 makes the session, then a question, a call, its result with the state, the user's state (made, then
# changed), the answer, the end.
@pytest.mark.parametrize("writes", [3, 5, 7])
def test_an_agent_that_was_killed_goes_on_with_its_history_whole(tmp_path, writes):
    killed = program(EXAMPLE, tmp_path / "agent.db", KILL_AT=f"{writes}")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert program(EXAMPLE, tmp_path / "agent.db").communicate()[0] == SAID
    with everlog.open(tmp_path / "agent.db") as store:
        log = store.session(session_name("trips", "u7", "holiday"))
        uses = [
            block for message in log.state("messages") for block in message["content"] if block["type"] == "tool_use"
        ]
        assert [use["input"]["country"] for use in uses if "result" in use] == ["Peru", "Chile"]
        assert store.verify().ok


def test_two_processes_on_one_session_lose_nothing(tmp_path):
    with everlog.open(tmp_path / "agent.db") as store:
        service = EverlogSessionService(store)
        asyncio.run(service.create_session(app_name="trips", user_id="u7", session_id="race"))
        racer = Path(__file__).with_name("adk_racer.py")
        racers = [program(racer, tmp_path / "agent.db", name, 20) for name in "ab"]
        for each in racers:
            assert each.stdout.readline() == "ready\n"
        for each in racers:
            each.stdin.write("go\n")
            each.stdin.flush()
        refused = [int(each.communicate()[0]) for each in racers]
        assert sum(refused) > 0
        session = asyncio.run(service.get_session(app_name="trips", user_id="u7", session_id="race"))
        said = [event.content.parts[0].text for event in session.events]
        for name in "ab":
            assert [each for each in said if each[0] == name] == [f"{name}{number}" for number in range(20)]
        assert session.state == {"a": 19, "b": 19, "app:a": 19, "app:b": 19}
        assert store.session(app_state_name("trips")).size() == 40
