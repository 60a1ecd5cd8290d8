"""What the Agents SDK's runner does with a session when something goes wrong or grows: on Everlog as on the SDK's own."""

import asyncio
import json
import logging

import pytest

import everlog
from everlog.errors import UnavailableError
from integrations.agents_items import numbered, said, user

pytest.importorskip("agents.testing", reason="openai-agents is not installed, or brings no scripted model")
import httpx2
import openai
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    RunState,
    SessionSettings,
    SQLiteSession,
    function_tool,
    input_guardrail,
    output_guardrail,
    set_tracing_disabled,
)
from agents.extensions.memory import EncryptedSession
from agents.memory import OpenAIResponsesCompactionSession
from agents.run_internal.session_persistence import rewind_session_items
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call

from everlog.integrations.openai_agents import EverlogSession

set_tracing_disabled(True)


@pytest.fixture(params=[SQLiteSession, EverlogSession])
def kind(request):
    return request.param


def locked():
    response = httpx2.Response(400, request=httpx2.Request("POST", "http://localhost/v1/responses"))
    body = {"code": "conversation_locked", "message": "locked"}
    return openai.BadRequestError("locked", response=response, body=body)


def test_a_run_whose_conversation_was_locked_says_everything_once(kind, tmp_path):
    def refused(call):
        raise locked()

    seen = []

    def answered(call):
        seen.append(call.input)
        return [assistant_message("Here I am.")]

    async def story():
        session = kind("s", tmp_path / "s.db")
        await session.add_items([user("before"), said("yes")])
        model = ScriptedModel([ModelStep.respond(refused), ModelStep.respond(refused), ModelStep.respond(answered)])
        result = await Runner.run(Agent(name="a", model=model), "hello", session=session)
        items = await session.get_items()
        session.close()
        return result.final_output, items

    output, items = asyncio.run(story())
    assert output == "Here I am."
    assert [item["content"] for item in items[:3:2]] == ["before", "hello"]
    assert [item["role"] for item in items] == ["user", "assistant", "user", "assistant"]
    assert [item["role"] for item in seen[0]] == ["user", "assistant", "user"]


def test_the_runner_takes_back_exactly_what_it_added(kind, tmp_path):
    async def story():
        session = kind("s", tmp_path / "s.db")
        await session.add_items([*numbered(3), user("x"), user("x"), said("y")])
        await rewind_session_items(session, [user("x"), said("y")])
        left = await session.get_items()
        session.close()
        return left

    assert asyncio.run(story()) == [*numbered(3), user("x")]


def test_what_another_added_while_the_runner_took_back_is_put_back(kind, tmp_path, caplog):
    class Raced(kind):
        raced = False

        async def get_items(self, *given, **named):
            found = await super().get_items(*given, **named)
            if not self.raced:
                self.raced = True
                await self.add_items([user("another's")])
            return found

    async def story():
        session = Raced("s", tmp_path / "s.db")
        await session.add_items(numbered(3))
        with caplog.at_level(logging.CRITICAL, "openai.agents"):
            await rewind_session_items(session, numbered(3)[1:])
        left = await session.get_items()
        session.close()
        return left

    assert asyncio.run(story()) == [*numbered(3), user("another's")]


class Provider:
    """Stands in for the provider's one call: makes one item of all it is given."""

    def __init__(self):
        self.responses = self
        self.given = []

    async def compact(self, **named):
        self.given.append(named.get("input"))
        output = ({"type": "compaction", "id": f"cmp_{len(self.given)}", "encrypted_content": f"{len(self.given)}"},)
        return type("Answer", (), {"output": output, "usage": None})()


def test_runs_that_compact_as_they_go_leave_what_they_leave_on_the_sdks_own(tmp_path):
    async def story(kind):
        provider = Provider()
        under = kind("s", tmp_path / f"{kind.__name__}.db")
        session = OpenAIResponsesCompactionSession(
            "s",
            under,
            client=provider,
            model="gpt-4.1",
            compaction_mode="input",
            should_trigger_compaction=lambda context: len(context["compaction_candidate_items"]) >= 2,
        )
        left = []
        for turn in range(5):
            model = ScriptedModel([ModelStep.respond(lambda call, turn=turn: [assistant_message(f"answer {turn}")])])
            await Runner.run(Agent(name="a", model=model), f"question {turn}", session=session)
            left.append([item.get("type", item.get("role")) for item in await session.get_items()])
        under.close()
        return left, len(provider.given)

    theirs, ours = asyncio.run(story(SQLiteSession)), asyncio.run(story(EverlogSession))
    assert ours == theirs
    assert ours[1] > 1


def test_reading_alone_does_not_need_a_store_that_can_be_written(tmp_path):
    async def story():
        with everlog.open(tmp_path / "s.db") as store:
            await EverlogSession("s", store).add_items(numbered(3))
        with everlog.open(tmp_path / "s.db", read_only=True) as store:
            session, other = EverlogSession("s", store), EverlogSession("nobody", store)
            assert await session.get_items(2) == numbered(3)[1:]
            assert await other.get_items() == []
            assert await other.pop_item() is None
            for change in (session.pop_item, session.clear_session, lambda: session.add_items(numbered(1))):
                with pytest.raises(UnavailableError, match="read-only"):
                    await change()

    asyncio.run(story())


# --- whatever a run does, it leaves and is shown on ours what it leaves and is shown on the SDK's own -------------
@function_tool(needs_approval=True)
def book(city: str) -> str:
    """Book."""
    return f"booked {city}"


@function_tool
def fails(city: str) -> str:
    """Fail."""
    raise ValueError(city)


CALLS = [function_call("book", {"city": "Lima"}, call_id="c1"), function_call("fails", {"city": "Quito"}, call_id="c2")]


class Run:
    """Runs of one agent with a session, and what its model was shown in each call."""

    def __init__(self, session, again, *script, **of_agent):
        self.session, self.again = session, again
        self.model = ScriptedModel(script)
        self.agent = Agent(name="a", model=self.model, tools=[book, fails], **of_agent)

    async def ask(self, said="go", **named):
        return await Runner.run(self.agent, said, session=self.session, **named)


async def approved(run, *, approves=True):
    result = await run.ask()
    state = await RunState.from_json(run.agent, result.to_state().to_json())  # as another process reads it
    (interruption,) = result.interruptions
    (state.approve if approves else state.reject)(state.get_interruptions()[0])
    assert interruption.raw_item.call_id == "c1"
    run.session = run.again()
    return (await run.ask(state)).final_output


async def rejected(run):
    return await approved(run, approves=False)


async def left_for_another_question(run):
    await run.ask()
    return (await run.ask("never mind")).final_output


async def streamed(run):
    result = Runner.run_streamed(run.agent, "go", session=run.session)
    kinds = [event.type async for event in result.stream_events()]
    return kinds, result.final_output


async def stopped_after_a_turn(run):
    result = Runner.run_streamed(run.agent, "go", session=run.session)
    async for event in result.stream_events():
        if event.type == "run_item_stream_event":
            result.cancel(mode="after_turn")
    return (await run.ask("on")).final_output


async def limited(run):
    await run.session.add_items([*numbered(4), CALLS[1].model_dump()])
    return (await run.ask(run_config=RunConfig(session_settings=SessionSettings(limit=2)))).final_output


async def merged_by_a_callback(run):
    await run.session.add_items([*numbered(3), user("go")])
    chosen = RunConfig(session_input_callback=lambda history, new: [*new, user("made up"), *history[::-1][:2]])
    return (await run.ask(run_config=chosen)).final_output


async def tripped(run):
    @input_guardrail(run_in_parallel=False)
    def no(context, agent, given):
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    run.agent.input_guardrails = [no]
    with pytest.raises(InputGuardrailTripwireTriggered):
        await run.ask()


async def tripped_at_the_end(run):
    @output_guardrail
    def no(context, agent, given):
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    run.agent.output_guardrails = [no]
    with pytest.raises(OutputGuardrailTripwireTriggered):
        await run.ask()


async def of_too_many_turns(run):
    with pytest.raises(MaxTurnsExceeded):
        await run.ask(max_turns=1)
    return (await run.ask("on")).final_output


async def handed_over(run):
    other = Agent(name="other", model=run.model)
    run.agent.handoffs = [other]
    return (await run.ask()).last_agent.name


def encrypted(session):
    return EncryptedSession("s", session, encryption_key="key" * 20, ttl=600)


async def of_an_encrypted_session(run):
    run.session = encrypted(run.session)
    await run.ask()
    await run.session.pop_item()
    run.session = encrypted(run.again())
    return (await run.ask("on")).final_output


SAYS = [assistant_message("one"), assistant_message("two")]
RUNS = {
    approved: [CALLS[:1], *SAYS],
    rejected: [CALLS[:1], *SAYS],
    left_for_another_question: [CALLS[:1], *SAYS],
    streamed: [CALLS[1:], *SAYS],
    stopped_after_a_turn: [CALLS[1:], *SAYS],
    limited: SAYS,
    merged_by_a_callback: SAYS,
    tripped: SAYS,
    tripped_at_the_end: SAYS,
    of_too_many_turns: [CALLS[1:], *SAYS],
    handed_over: [[function_call("transfer_to_other", {}, call_id="c3")], *SAYS],
    of_an_encrypted_session: SAYS,
}


@pytest.mark.parametrize("act", RUNS, ids=lambda act: act.__name__)
def test_a_run_leaves_and_is_shown_what_it_is_on_the_sdks_own(act, tmp_path):
    async def story(kind):
        made = []

        def again():
            made.append(kind("s", tmp_path / f"{kind.__name__}.db"))
            return made[-1]

        run = Run(again(), again, *([step] if not isinstance(step, list) else step for step in RUNS[act]))
        gave = await act(run)
        left, shown = await run.session.get_items(), [call.input for call in run.model.calls]
        for each in made:
            each.close()
        return gave, left, shown

    theirs, ours = asyncio.run(story(SQLiteSession)), asyncio.run(story(EverlogSession))
    assert json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)
    assert ours[1]
