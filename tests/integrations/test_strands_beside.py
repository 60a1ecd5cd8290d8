"""Strands' own files and ours, asked the same in any order; and agents whose guardrail redacts what was said."""

import copy
import json
import random
import sys
from pathlib import Path

import pytest

pytest.importorskip("strands")

from strands import Agent
from strands.session.file_session_manager import FileSessionManager
from strands.session.repository_session_manager import RepositorySessionManager
from strands.types.exceptions import SessionException
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

import everlog
from everlog.integrations.strands import EverlogSessionManager, EverlogSessionRepository

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "integrations"
sys.path.insert(0, str(EXAMPLES))
from strands_agent import ScriptedModel  # noqa: E402


class Several:
    def __init__(self, state):
        self.id = "g"
        self.state = state

    def serialize_state(self):
        return self.state


class Both:
    """Two repositories that are asked the same; what both wrote is known, as a second message under one id is refused by ours alone."""

    def __init__(self, theirs, ours):
        self.repositories = (theirs, ours)
        self.asked = []
        self.written = set()

    def ask(self, verb, *given):
        answers = []
        for repository in self.repositories:
            own = copy.deepcopy(given)
            try:
                answer = getattr(repository, verb)(*own)
            except SessionException:
                answer = SessionException
            answers.append((answer, own[-1] if verb.startswith("update") and verb != "update_multi_agent" else None))
        self.asked.append((verb, given))
        assert answers[0] == answers[1], self.asked[-8:]
        return answers[0][0]


def step(draw, both):
    session, agent, number = draw.choice("pppq"), draw.choice("xxxy"), draw.randrange(4)
    when = f"2026-01-01T00:00:0{draw.randrange(10)}+00:00"
    picture = {"image": {"format": "png", "source": {"bytes": bytes([number])}}}
    content = [{"text": f"t{draw.randrange(4)}"}, *([picture] if draw.random() < 0.2 else [])]
    said = {"role": draw.choice(["user", "assistant"]), "content": content}
    theirs = both.repositories[0]
    there = theirs.read_session(session) is not None
    match draw.choice(
        [
            "session",
            "agent",
            "agent",
            "message",
            "message",
            "message",
            "update",
            "update",
            "list",
            "list",
            "several",
            "read",
        ]
    ):
        case "session" if not there or draw.random() < 0.9:
            both.ask("create_session", Session(session, SessionType.AGENT, when, when))
        case "session":
            both.ask("delete_session", session)
            both.written = {each for each in both.written if each[0] != session}
        case "agent" if there:
            given = SessionAgent(agent, {"k": number, "of": [None]}, {"n": 1}, {"model": {"b": b"\x00"}}, when, when)
            both.ask(draw.choice(["create_agent", "update_agent"]), session, given)
        case "message" if theirs.read_agent(session, agent) and (session, agent, number) not in both.written:
            both.written.add((session, agent, number))
            both.ask("create_message", session, agent, SessionMessage(said, number, None, when, when))
        case "update":
            before = theirs.read_message(session, agent, number)
            kept = before is not None and draw.random() < 0.5
            redacted = {"role": "user", "content": [{"text": "[redacted]"}]} if draw.random() < 0.4 else None
            given = SessionMessage(before.message if kept else said, number, redacted, when, when)
            both.ask("update_message", session, agent, given)
        case "list":
            both.ask("list_messages", session, agent, draw.choice([None, 0, 1, 9]), draw.choice([0, 0, 1, 2, 9]))
        case "several" if there:
            both.ask(draw.choice(["create_multi_agent", "update_multi_agent"]), session, Several({"status": number}))
        case _:
            both.ask("read_session", session)
            both.ask("read_agent", session, agent)
            both.ask("read_message", session, agent, number)
            both.ask("read_multi_agent", session, "g")


@pytest.mark.parametrize("seed", range(40))
def test_whatever_both_are_asked_they_say_the_same(tmp_path, seed):
    draw = random.Random(seed)
    with everlog.open("memory:") as store:
        both = Both(FileSessionManager("first", storage_dir=str(tmp_path)), EverlogSessionRepository(store))
        for _ in range(80):
            step(draw, both)
        assert store.verify().ok


# --- guardrails ------------------------------------------------------------------------------------
class Guarded(ScriptedModel):
    """Has what the user said redacted where it holds the word."""

    async def stream(self, messages, *given, **named):
        if "swordfish" in json.dumps(messages[-1]):
            yield {"redactContent": {"redactUserContentMessage": "[redacted]"}}
            yield {"messageStart": {"role": "assistant"}}
            yield {"contentBlockDelta": {"delta": {"text": "Not that."}}}
            yield {"contentBlockStop": {}}
            yield {"messageStop": {"stopReason": "guardrail_intervened"}}
        else:
            async for event in super().stream(messages, *given, **named):
                yield event


@pytest.mark.parametrize("kind", ["theirs", "ours", "erasing"])
def test_what_a_guardrail_redacts_reads_as_redacted_and_is_gone_where_it_is_to_be(tmp_path, kind):
    def make():
        if kind == "theirs":
            return FileSessionManager("s", storage_dir=str(tmp_path))
        return EverlogSessionManager("s", store=tmp_path / "s.db", erase_redacted=kind == "erasing")

    manager = make()
    Agent(agent_id="c", model=Guarded(), session_manager=manager, callback_handler=None)("The word is swordfish.")
    getattr(manager, "close", lambda: None)()
    manager = make()
    agent = Agent(agent_id="c", model=Guarded(), session_manager=manager, callback_handler=None)
    assert [message["content"] for message in agent.messages] == [[{"text": "[redacted]"}], [{"text": "Not that."}]]
    if kind == "theirs":
        assert all("swordfish" not in file.read_text() for file in tmp_path.rglob("*.json"))
        return
    bodies = [event.raw or b"" for event in manager.session_repository.session("s", "c")]
    assert any(b"swordfish" in body for body in bodies) == (kind == "ours")
    assert manager.session_repository.store.verify().ok
    manager.close()


def test_what_was_said_twice_and_redacted_once_is_gone_where_theirs_is(tmp_path):
    """As where a prompt was tried again: newer versions of Strands change both messages, and name only one of them redacted."""

    def redacted(repository):
        manager = RepositorySessionManager("s", session_repository=repository)
        agent = Agent(agent_id="c", model=Guarded(), session_manager=manager, callback_handler=None)
        said = {"role": "user", "content": [{"text": "The word is swordfish."}]}
        for _ in range(2):
            agent.messages.append(said)
            manager.append_message(said, agent)
        for _ in range(2):  # the second time nothing of it changes, and it stays redacted
            said["content"] = [{"text": "[redacted]"}]
            manager.redact_latest_message(said, agent)
        listed = [each.message["content"][0]["text"] for each in repository.list_messages("s", "c")]
        assert listed == [repository.read_message("s", "c", number).message["content"][0]["text"] for number in (0, 1)]
        return listed

    with everlog.open("memory:") as store:
        repository = EverlogSessionRepository(store, erase_redacted=True)
        left = redacted(repository)
        assert left == redacted(FileSessionManager("s", storage_dir=str(tmp_path)))
        kept = sum(b"swordfish" in (event.raw or b"") for event in repository.session("s", "c"))
        assert kept == left.count("The word is swordfish.")
