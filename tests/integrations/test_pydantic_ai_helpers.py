"""Histories of Pydantic AI in Everlog, also of versions that have no conversation store."""

import asyncio
import json

import pytest

pytest.importorskip("pydantic_ai")

from pydantic_ai import Agent, ModelRetry
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel

import everlog
from everlog.errors import ConflictError, InvalidPlaceError
from everlog.integrations.pydantic_ai import add_messages, load_messages, save_messages
from integrations.pydantic_messages import answered, asked, texts


def run(awaitable):
    return asyncio.run(awaitable)


def test_a_history_is_saved_by_its_new_messages_or_as_a_whole(tmp_path):
    agent = Agent(FunctionModel(lambda messages, info: answered(f"{len(messages)} shown")))
    with everlog.open(tmp_path / "s.db") as store:
        session = store.create("s")
        first = run(agent.run("one", message_history=load_messages(session)))
        add_messages(session, first.new_messages())
        second = run(agent.run("two", message_history=load_messages(session)))
        save_messages(session, second.all_messages())
        save_messages(session, second.all_messages())
        assert load_messages(session) == second.all_messages()
        assert session.head.size == 4
        save_messages(session, [*second.all_messages()[:2], asked("otherwise")])
        assert texts(load_messages(session)) == ["one", "1 shown", "otherwise"]
        add_messages(session, [])
        assert len(session.branches()) == 2


def test_messages_that_are_nested_as_deep_as_the_log_goes_come_back(tmp_path):
    with everlog.open(tmp_path / "s.db") as store:
        for levels in range(55, 68):
            deep = "x"
            for _ in range(levels):
                deep = [deep]
            said = answered("hi")
            said.provider_details = {"deep": deep}
            session = store.create(f"s{levels}")
            add_messages(session, [said])
            assert load_messages(session) == [said]


def test_a_history_that_another_saved_meanwhile_is_a_conflict(tmp_path, monkeypatch):
    with everlog.open(tmp_path / "s.db") as store:
        one, other = store.create("s"), store.session("s")
        seen = one.head
        add_messages(other, [asked("theirs")])
        monkeypatch.setattr(type(one), "refresh", lambda session: seen)
        with pytest.raises(ConflictError):
            save_messages(one, [asked("theirs"), answered("mine")])
        assert texts(load_messages(one)) == ["theirs"]


def test_a_tool_that_asks_for_a_retry_is_kept(tmp_path):
    tried = []
    agent = Agent(TestModel())

    @agent.tool_plain
    def look() -> str:
        tried.append(1)
        if len(tried) == 1:
            raise ModelRetry("once more")
        return "seen"

    result = run(agent.run("go"))
    with everlog.open(tmp_path / "s.db") as store:
        session = store.create("s")
        save_messages(session, result.all_messages())
        assert load_messages(session) == result.all_messages()
        failed = [event.outcome for event in session.events(types="agent.tool_result")]
        assert failed == ["error", "ok"]
        assert json.dumps(session.context(8_000).messages)


def test_what_is_no_session_is_told(tmp_path):
    with everlog.open(tmp_path / "s.db") as store:
        for given in (str(tmp_path / "s.db"), store):
            for call in (load_messages, lambda it: add_messages(it, []), lambda it: save_messages(it, [])):
                with pytest.raises(InvalidPlaceError, match=r"is no session; nothing was done; give one"):
                    call(given)
