"""Pydantic AI's own store and ours, asked the same in any order: loads, saves, branches, forks and deletions give the same."""

import asyncio
import random

import pytest

pytest.importorskip("pydantic_ai")
pytest.importorskip("pydantic_ai.conversation_store")

from pydantic_ai import Agent
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import InMemoryConversationStore
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.usage import RunUsage

import everlog
from everlog.integrations.pydantic_ai import EverlogConversationStore

IDS = ["a", "b", "c/d"]


def message(text):
    return (
        ModelResponse(parts=[TextPart(text)])
        if text.islower()
        else ModelRequest(parts=[UserPromptPart(text), UserPromptPart("more")])
    )


def texts(messages):
    return [each.parts[0].content for each in messages]


class Side:
    """One store, and the conversations that were loaded of it and may be stale by now."""

    def __init__(self, store):
        self.store = store
        self.loaded = {}

    async def entry(self, id, line, place):
        """Give the id of an entry by where it is: on a line that was left, or on the current one."""
        record = await self.store.read_record(id)
        if record is None:
            return "nobody"
        tips = [*record.branches, record.head_id]
        entries = await self.store.read_history(tips[line % len(tips)])
        return entries[place % len(entries)].id if entries else "nobody"

    async def do(self, verb, id, said, number, other):
        match verb:
            case "load":
                self.loaded[id] = await self.store.load(id, limit=number if number < 3 else None)
                return self.loaded[id] and texts(self.loaded[id].messages)
            case "save" | "rewrite" | "again":
                conversation = self.loaded.get(id) or Conversation(conversation_id=id)
                if verb == "again":  # as it comes back from JSON: compared with all that is stored
                    conversation = Conversation(
                        conversation_id=id, messages=[*conversation.messages], revision=conversation.revision
                    )
                kept = conversation.messages[:number] if verb == "rewrite" else conversation.messages
                conversation.messages = [*kept, *map(message, said)]
                conversation.usage = RunUsage(requests=number)
                self.loaded[id] = conversation
                return texts(each.message for each in await self.store.save(conversation, scope=other or None))
            case "branch":
                revision = getattr(self.loaded.get(id), "revision", None)
                self.loaded[id] = await self.store.branch(id, at=number, expected_revision=revision)
                return texts(self.loaded[id].messages)
            case "back":
                revision = getattr(await self.store.read_record(id), "revision", None)
                entry = await self.entry(id, number, len(said))
                self.loaded[id] = await self.store.branch(id, from_entry=entry, expected_revision=revision)
                return texts(self.loaded[id].messages)
            case "fork":
                at = {"at": number} if number % 2 else {"from_entry": await self.entry(id, number, len(said))}
                self.loaded[other or "f"] = await self.store.fork(id, **at, new_conversation_id=other or "f")
                return texts(self.loaded[other or "f"].messages)
            case _:
                return await self.store.delete(id, scope=other or None)

    async def tried(self, *asked):
        try:
            return await self.do(*asked)
        except UserError as error:
            return type(error)

    async def shown(self):
        """Give all that the store says of what it holds, but for ids that it drew itself."""
        found = []
        for record in await self.store.list_conversations():
            lines = [
                texts(e.message for e in await self.store.read_history(t)) for t in [record.head_id, *record.branches]
            ]
            end = [texts(e.message for e in await self.store.read_history(record.head_id, limit=n)) for n in (0, 1, 2)]
            found.append([record.conversation_id, lines, end, record.usage, record.scope, record.forked_from])
        return found


@pytest.mark.parametrize("seed", range(14, 24))
def test_whatever_both_are_asked_they_say_the_same(seed):
    draw = random.Random(seed)

    async def story(store):
        theirs, ours = Side(InMemoryConversationStore()), Side(EverlogConversationStore(store))
        asked = []
        for turn in range(40):
            verb = draw.choice(
                ["load", "load", "save", "save", "save", "rewrite", "again", "branch", "back", "fork", "gone"]
            )
            said = [draw.choice([f"S{turn}", f"s{turn}"]) for _ in range(draw.randrange(4))]
            other = draw.choice(["", "", *IDS]) if verb == "fork" else draw.choice(["", "", "", "x"])
            asked.append((verb, draw.choice(IDS), said, draw.randrange(6), other))
            assert await theirs.tried(*asked[-1]) == await ours.tried(*asked[-1]), asked
            assert await theirs.shown() == await ours.shown(), asked

    with everlog.open("memory:") as store:
        asyncio.run(story(store))
        assert store.verify().ok


# --- what loads and saves by itself ----------------------------------------------------------------
def test_a_chat_of_a_page_is_loaded_and_saved_turn_by_turn():
    """Pydantic AI's adapters of user interfaces take a store, and save what each request adds."""
    pytest.importorskip("pydantic_ai.ui.vercel_ai")
    from pydantic_ai.ui.vercel_ai import VercelAIAdapter
    from pydantic_ai.ui.vercel_ai.request_types import SubmitMessage, TextUIPart, UIMessage

    agent = Agent(FunctionModel(stream_function=shown_much))

    async def chat(store):
        told = []
        for number, text in enumerate(["One?", "Two?"]):
            said = UIMessage(id=f"u{number}", role="user", parts=[TextUIPart(text=text)])
            asked = SubmitMessage(id="c", trigger="submit-message", messages=[said])
            adapter = VercelAIAdapter(agent=agent, run_input=asked, conversation_store=store)
            told.append([type(event).__name__ async for event in adapter.run_stream()])
        conversation = await store.load("c")
        return told, texts(conversation.messages), conversation.usage.requests

    with everlog.open("memory:") as store:
        theirs, ours = (
            asyncio.run(chat(each)) for each in (InMemoryConversationStore(), EverlogConversationStore(store))
        )
        assert ours == theirs
        assert ours[1] == ["One?", "1 shown", "Two?", "3 shown"]
        assert store.session("pydantic-ai/c").count(types="user.message") == 2


async def shown_much(messages, _):
    yield f"{len(messages)} shown"
