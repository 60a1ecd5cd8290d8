"""The label that says whose a session is: the same on every framework, and of what is imported from its own store."""

import asyncio
import sqlite3
from contextlib import closing

import pytest

import everlog
from everlog.importers import import_paths
from everlog.integrations.places import FRAMEWORK_LABEL
from integrations.leased import NAMES, WRITERS

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:google.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
CALLED = {
    "claude_agent": "claude-agent-sdk",
    "strands_storage": "strands",
}  # the others as the module, with hyphens: as the extra that installs it


def called(framework):
    return CALLED.get(framework, framework.replace("_", "-"))


@pytest.fixture
def store(tmp_path):
    with everlog.open(tmp_path / "agent.db") as store:
        yield store


def of(store, framework):
    return [info.id for info in store.sessions(f"label.framework:{called(framework)}", order="id")]


@pytest.mark.parametrize("framework", NAMES)
def test_all_sessions_of_a_framework_are_listed_by_its_name(store, framework):
    writer = WRITERS[framework](store, None)
    writer.write("one")
    writer.close()
    assert of(store, framework) == [info.id for info in store.sessions(order="id")]
    assert writer.name in of(store, framework)


@pytest.mark.parametrize("framework", NAMES)
def test_a_session_that_was_made_before_is_gone_on_from(store, framework):
    first = WRITERS[framework](store, None)
    first.write("one")
    first.close()
    for info in store.sessions():
        store.session(info.id).update(labels={"source": "of before", "mine": "yes"})
    second = WRITERS[framework](store, None)
    second.write("two")
    second.close()
    said = " ".join(str(event.data) for event in store.session(first.name).events())
    assert "one" in said
    assert "two" in said
    assert store.session(first.name).info().labels["mine"] == "yes"


def test_names_that_no_label_takes_keep_none_from_being_listed(store):
    pytest.importorskip("google.adk")
    from everlog.integrations.adk import EverlogSessionService

    service = EverlogSessionService(store)
    asyncio.run(service.create_session(app_name="a\nb" * 200, user_id="u" * 300, session_id="s", state={"app:k": 1}))
    asyncio.run(service.close())
    assert len(of(store, "adk")) == len(store.sessions()) == 2


def test_a_fork_through_a_framework_is_one_of_its_own_also_of_a_session_that_was_not(store):
    pytest.importorskip("claude_agent_sdk")
    from everlog.integrations.claude_agent import EverlogSessionStore

    kept, key = EverlogSessionStore(store), {"project_key": "p", "session_id": "s"}
    asyncio.run(kept.append(key, [{"type": "user"}]))
    kept.session(key).update(labels={"mine": "yes"})
    fork = asyncio.run(kept.fork_session(key))
    assert kept.session(fork).info().labels == {"mine": "yes", FRAMEWORK_LABEL: "claude-agent-sdk"}


def test_a_conversation_that_changes_its_scope_keeps_what_others_labelled_it(store):
    pytest.importorskip("pydantic_ai.conversation_store")
    from pydantic_ai.conversation_store import ConversationRecord

    from everlog.integrations.pydantic_ai import EverlogConversationStore

    kept, before = EverlogConversationStore(store), None
    for revision, scope in (("1", "a"), ("2", "b"), ("3", None)):
        record = ConversationRecord(conversation_id="c", head_id=None, revision=revision, scope=scope)
        asyncio.run(kept.write_record(record, expected_revision=before))
        session, before = kept.session("c"), revision
        if revision == "1":
            session.update(labels=session.info().labels | {"mine": "yes"})
    assert session.info().labels == {"mine": "yes", FRAMEWORK_LABEL: "pydantic-ai"}


def test_what_a_frameworks_own_store_held_is_listed_by_its_name_too(store, tmp_path):
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as theirs:
        theirs.executescript("""
            CREATE TABLE agent_sessions (session_id TEXT PRIMARY KEY, created_at TEXT, updated_at TEXT);
            CREATE TABLE agent_messages (id INTEGER PRIMARY KEY, session_id TEXT, message_data TEXT, created_at TEXT);
            INSERT INTO agent_sessions VALUES ('s', '2026-11-30 10:00:00', '2026-11-30 10:00:00');
            INSERT INTO agent_messages VALUES (1, 's', '{"role": "user", "content": "hello"}', '2026-11-30 10:00:00');
        """)
    list(import_paths(store, "openai-agents", [path]))
    assert of(store, "openai_agents") == ["s"]
    assert store.session("s").info().labels["source"] == "openai-agents"
