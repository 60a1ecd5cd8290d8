"""What the Agents SDK's runner does with a session when something goes wrong or grows: on Everlog as on the SDK's own."""

import asyncio
import logging

import pytest

import everlog
from everlog.errors import UnavailableError
from integrations.agents_items import numbered, said, user

pytest.importorskip("agents.testing", reason="openai-agents is not installed, or brings no scripted model")
import httpx2
import openai
from agents import Agent, Runner, SQLiteSession, set_tracing_disabled
from agents.memory import OpenAIResponsesCompactionSession
from agents.run_internal.session_persistence import rewind_session_items
from agents.testing import ModelStep, ScriptedModel, assistant_message

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
