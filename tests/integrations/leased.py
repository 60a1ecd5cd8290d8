"""One writer on each framework, over the integration that it is for: what test_holding.py writes under leases.

python leased.py FRAMEWORK STORE: writes once under a lease of two seconds, and waits to be killed.
"""

import asyncio
import json
import sys
import uuid

import pytest

import everlog
from everlog.integrations.holding import Holder

NAMES = ("adk", "claude_agent", "langgraph", "openai_agents", "pydantic_ai", "strands", "strands_storage")
DECIDES = ("adk", "pydantic_ai")  # whose appends say what they have read of the session


class Adk:
    """Reads the session when it is made, as a runner does when a run begins, and again after each that it makes of itself."""

    def __init__(self, store, lease):
        pytest.importorskip("google.adk")
        from google.adk.events.event import Event

        from everlog.integrations.adk import EverlogSessionService, session_name

        self.make = Event
        self.service = EverlogSessionService(store, lease=lease)
        self.who = {"app_name": "a", "user_id": "u", "session_id": "s"}
        self.name = session_name("a", "u", "s")
        self.session = asyncio.run(self._session())

    async def _session(self):
        return await self.service.get_session(**self.who) or await self.service.create_session(**self.who)

    def write(self, text):
        content = {"role": "model", "parts": [{"text": text}]}
        event = self.make(author="agent", invocation_id="e", content=content)
        asyncio.run(self.service.append_event(self.session, event))

    def close(self):
        asyncio.run(self.service.close())


class ClaudeAgent:
    def __init__(self, store, lease):
        pytest.importorskip("claude_agent_sdk")
        from everlog.integrations.claude_agent import EverlogSessionStore

        self.kept = EverlogSessionStore(store, lease=lease)
        self.name = "claude/p/s"

    def write(self, text):
        message = {"role": "assistant", "content": [{"type": "text", "text": text}]}
        entry = {"type": "assistant", "uuid": str(uuid.uuid4()), "message": message}
        asyncio.run(self.kept.append({"project_key": "p", "session_id": "s"}, [entry]))

    def close(self):
        asyncio.run(self.kept.close())


class Langgraph:
    def __init__(self, store, lease):
        pytest.importorskip("langgraph.checkpoint.base")
        from langgraph.checkpoint.base import empty_checkpoint

        from everlog.integrations.langgraph import EverlogSaver

        self.make = empty_checkpoint
        self.saver = EverlogSaver(store, lease=lease)
        self.name = "t"

    def write(self, text):
        checkpoint = self.make() | {"channel_values": {"said": text}, "channel_versions": {"said": 1}}
        config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        self.saver.put(config, checkpoint, {"source": "loop", "step": 1}, {"said": 1})

    def close(self):
        self.saver.close()


class OpenaiAgents:
    def __init__(self, store, lease):
        pytest.importorskip("agents")
        from everlog.integrations.openai_agents import EverlogSession

        self.session = EverlogSession("s", store, lease=lease)
        self.name = "s"

    def write(self, text):
        asyncio.run(self.session.add_items([{"role": "assistant", "content": text}]))

    def close(self):
        self.session.close()


class PydanticAi:
    def __init__(self, store, lease):
        pytest.importorskip("pydantic_ai.conversation_store")
        from pydantic_ai.conversation_store import ConversationEntry, ConversationRecord
        from pydantic_ai.messages import ModelResponse, TextPart

        from everlog.integrations.pydantic_ai import EverlogConversationStore

        self.entry = lambda text, parent: ConversationEntry(
            id=str(uuid.uuid4()), parent_id=parent, message=ModelResponse(parts=[TextPart(text)])
        )
        self.record = ConversationRecord
        self.kept = EverlogConversationStore(store, lease=lease)
        self.name = "pydantic-ai/c"
        self.read = asyncio.run(self.kept.read_record("c"))

    def write(self, text):
        entry = self.entry(text, None if self.read is None else self.read.head_id)
        record = self.record(conversation_id="c", head_id=entry.id, revision=str(uuid.uuid4()))
        expected = None if self.read is None else self.read.revision
        asyncio.run(self.kept.write_record(record, new_entries=[entry], expected_revision=expected))
        self.read = record

    def close(self):
        asyncio.run(self.kept.close())


class Strands:
    def __init__(self, store, lease):
        pytest.importorskip("strands")
        from strands.types.session import SessionAgent, SessionMessage

        from everlog.integrations.strands import EverlogSessionRepository

        self.agent = SessionAgent("a", {}, {})
        self.make = SessionMessage
        self.kept = EverlogSessionRepository(store, lease=lease)
        self.name = "strands/s/a"

    def write(self, text):
        found = self.kept.read_agent("s", "a")
        if found is None:
            self.kept.create_agent("s", self.agent)
        number = len(self.kept.list_messages("s", "a"))
        self.kept.create_message("s", "a", self.make({"role": "assistant", "content": [{"text": text}]}, number))

    def close(self):
        self.kept.close()


class StrandsStorage:
    def __init__(self, store, lease):
        pytest.importorskip("strands.storage")
        from strands.types.exceptions import StorageError

        from everlog.integrations.strands_storage import EverlogStorage

        self.wrapped = StorageError
        self.kept = EverlogStorage(store, lease=lease)
        self.name = "strands-storage/k"

    def write(self, text):
        try:
            value = json.loads(asyncio.run(self.kept.read("k")) or b'{"data": {"messages": []}}')
            value["data"]["messages"].append({"role": "assistant", "content": [{"text": text}]})
            asyncio.run(self.kept.write("k", json.dumps(value).encode()))
        except self.wrapped as error:  # all others raise what Everlog does
            raise error.__cause__ from error

    def close(self):
        self.kept.close()


WRITERS = dict(
    zip(NAMES, (Adk, ClaudeAgent, Langgraph, OpenaiAgents, PydanticAi, Strands, StrandsStorage), strict=True)
)


def main(name, place):
    """Write under a lease, say so, and wait to be killed."""
    with everlog.open(place) as store:
        writer = WRITERS[name](store, Holder(name="worker-1", ttl=2.0))
        writer.write("one")
        print("written", flush=True)
        sys.stdin.read()
        writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
