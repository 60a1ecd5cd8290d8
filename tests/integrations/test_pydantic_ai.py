"""Conversations of Pydantic AI in Everlog: each sentence of the store's contract, asked of Pydantic AI's own too, then what ours adds."""

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from databases import address

pytest.importorskip("pydantic_ai")
pytest.importorskip("pydantic_ai.conversation_store")

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_ai import Agent, BinaryContent, DeferredToolRequests, ImageUrl
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    InMemoryConversationStore,
)
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import (
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RunUsage

import everlog
from everlog.core.position import from_micros
from everlog.errors import FencedError
from everlog.integrations.pydantic_ai import EverlogConversationStore, add_messages, load_messages
from everlog.store import Store
from everlog.stores.memory import MemoryStorage
from everlog.testing.clock import FixedClock
from everlog.writer import Settings
from integrations.pydantic_messages import answered, asked, texts

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "integrations"


@pytest.fixture(params=["theirs", "sqlite", "postgres"])
def either(request, tmp_path):
    """Pydantic AI's own store, or ours."""
    if request.param == "theirs":
        yield InMemoryConversationStore()
        return
    with everlog.open(address(request.param, tmp_path / "store")) as store:
        yield EverlogConversationStore(store)


@pytest.fixture(params=["sqlite", "postgres"])
def ours(request, tmp_path):
    with everlog.open(address(request.param, tmp_path / "store")) as store:
        yield EverlogConversationStore(store)


def run(awaitable):
    return asyncio.run(awaitable)


def talk(store, id, *said, scope=None):
    """Save a conversation with these messages at its end."""
    conversation = run(store.load(id)) or Conversation(conversation_id=id)
    conversation.messages += [asked(text) if number % 2 == 0 else answered(text) for number, text in enumerate(said)]
    run(store.save(conversation, scope=scope))
    return conversation


def entries(*said, parent=None):
    made = []
    for text in said:
        made.append(ConversationEntry(parent_id=made[-1].id if made else parent, message=asked(text)))
    return made


# --- the primitives --------------------------------------------------------------------------------
def test_what_was_never_written_is_not_there(either):
    assert run(either.read_record("c")) is None
    assert run(either.load("c")) is None
    assert list(run(either.read_records())) == []
    assert run(either.read_history(None)) == []
    with pytest.raises(LookupError):
        run(either.read_entry("nobody"))
    with pytest.raises(LookupError):
        run(either.read_history("nobody"))


def test_a_record_is_read_as_it_was_written_with_all_it_holds(either):
    made = entries("a", "b")
    record = ConversationRecord(
        conversation_id="c",
        head_id=made[-1].id,
        usage=RunUsage(requests=2, input_tokens=10, output_tokens=3, details={"reasoning": 5}),
        deferred_tool_requests=DeferredToolRequests(
            calls=[ToolCallPart("f", {"x": 1}, tool_call_id="t1")], metadata={"t1": {"why": [1, None]}}
        ),
        scope="user:1",
        forked_from="other",
        forked_at="e",
        branches=["tip1", "tip2"],
    )
    run(either.write_record(record, new_entries=made, expected_revision=None))
    assert run(either.read_record("c")) == record
    assert run(either.read_history(record.head_id)) == made
    assert run(either.read_entry(made[0].id)) == made[0]
    empty = ConversationRecord(conversation_id="e", head_id=None)
    run(either.write_record(empty, expected_revision=None))
    assert run(either.read_record("e")) == empty


def test_a_write_that_expects_another_revision_is_refused_and_leaves_nothing(either):
    first = entries("a")
    record = ConversationRecord(conversation_id="c", head_id=first[0].id)
    run(either.write_record(record, new_entries=first, expected_revision=None))
    second = entries("b", parent=first[0].id)
    later = ConversationRecord(conversation_id="c", head_id=second[0].id)
    for expected in (None, "another", later.revision):
        with pytest.raises(ConversationConflict) as refused:
            run(either.write_record(later, new_entries=second, expected_revision=expected))
        assert refused.value.conversation_id == "c"
    assert run(either.read_record("c")) == record
    with pytest.raises(LookupError):
        run(either.read_entry(second[0].id))
    run(either.write_record(later, new_entries=second, expected_revision=record.revision))
    assert texts([entry.message for entry in run(either.read_history(later.head_id))]) == ["a", "b"]


def test_a_write_to_what_is_not_there_expects_nothing(either):
    with pytest.raises(ConversationConflict):
        run(either.write_record(ConversationRecord(conversation_id="c", head_id=None), expected_revision="some"))


def test_a_head_that_nobody_has_is_a_conflict(either):
    with pytest.raises(ConversationConflict):
        run(either.write_record(ConversationRecord(conversation_id="c", head_id="nobody"), expected_revision=None))
    assert run(either.read_record("c")) is None


def test_what_is_given_and_what_is_got_are_not_what_is_stored(either):
    made = entries("a")
    record = ConversationRecord(conversation_id="c", head_id=made[0].id, branches=["t"])
    run(either.write_record(record, new_entries=made, expected_revision=None))
    record.branches.append("u")
    made[0].message.parts[0].content = "changed"
    run(either.read_record("c")).branches.append("v")
    assert run(either.read_record("c")).branches == ["t"]
    assert texts([run(either.read_entry(made[0].id)).message]) == ["a"]


def test_records_are_listed_the_newest_first_by_scope_and_limit(either):
    start = datetime.now(UTC) - timedelta(hours=1)
    for number in (2, 0, 3, 1):
        record = ConversationRecord(
            conversation_id=f"c{number}",
            head_id=None,
            scope=f'user:{number % 2}, "x"',
            updated_at=start + timedelta(minutes=number),
        )
        run(either.write_record(record, expected_revision=None))

    def listed(**given):
        return [record.conversation_id for record in run(either.read_records(**given))]

    assert listed() == ["c3", "c2", "c1", "c0"]
    assert listed(limit=2) == ["c3", "c2"]
    assert listed(limit=0) == []
    assert listed(scope='user:1, "x"') == ["c3", "c1"]
    assert listed(scope='user:1, "x"', limit=1) == ["c3"]
    assert listed(scope="nobody") == []


def test_a_conversation_that_is_deleted_is_gone_and_its_name_is_free(either):
    talk(either, "c", "a", "b")
    record = run(either.read_record("c"))
    for revision in ("another", ""):
        with pytest.raises(ConversationConflict):
            run(either.delete_record("c", expected_revision=revision))
    run(either.delete_record("c", expected_revision=record.revision))
    assert run(either.load("c")) is None
    assert list(run(either.read_records())) == []
    with pytest.raises(ConversationConflict):
        run(either.delete_record("c", expected_revision=record.revision))
    with pytest.raises(LookupError):
        run(either.read_entry(record.head_id))
    talk(either, "c", "again")
    assert texts(run(either.load("c")).messages) == ["again"]


def test_entries_that_a_fork_shares_outlive_the_conversation(either):
    talk(either, "c", "a", "b")
    run(either.fork("c", new_conversation_id="f"))
    run(either.delete("c"))
    assert run(either.load("c")) is None
    assert [record.conversation_id for record in run(either.read_records())] == ["f"]
    assert texts(run(either.load("f")).messages) == ["a", "b"]
    talk(either, "c", "new")
    assert texts(run(either.load("c")).messages) == ["new"]
    assert texts(run(either.load("f")).messages) == ["a", "b"]


# --- what the base class makes of them ----------------------------------------------------------------
def test_a_conversation_grows_by_what_is_new(either):
    conversation = talk(either, "c", "a", "b")
    again = run(either.load("c"))
    assert again == conversation
    again.messages.append(asked("c"))
    new = run(either.save(again))
    assert texts([entry.message for entry in new]) == ["c"]
    assert run(either.load_entries("c"))[-1] == new[0]
    assert run(either.save(run(either.load("c")))) == []


def test_a_limit_gives_the_last_messages_and_saving_on_keeps_the_others(either):
    talk(either, "c", "a", "b", "c", "d")
    last = run(either.load("c", limit=1))
    assert texts(last.messages) == ["d"]
    last.messages.append(asked("e"))
    run(either.save(last))
    assert texts(run(either.load("c")).messages) == ["a", "b", "c", "d", "e"]
    assert texts(run(either.load("c", limit=0)).messages) == []
    assert len(run(either.load("c", limit=99)).messages) == 5
    with pytest.raises(UserError):
        run(either.load("c", limit=-1))
    assert run(either.read_history(run(either.read_record("c")).head_id, limit=-1)) == []


def test_of_two_that_loaded_one_conversation_the_second_conflicts_and_nothing_is_lost(either):
    talk(either, "c", "a", "b")
    one, other = run(either.load("c")), run(either.load("c"))
    one.messages.append(asked("one"))
    other.messages.append(asked("other"))
    run(either.save(one))
    with pytest.raises(ConversationConflict):
        run(either.save(other))
    assert texts(run(either.load("c")).messages) == ["a", "b", "one"]
    with pytest.raises(ConversationConflict):
        run(either.save(Conversation(conversation_id="c", messages=[asked("x")])))


def test_a_rewritten_history_leaves_the_old_one_as_a_branch(either):
    talk(either, "c", "a", "b", "c", "d")
    old = run(either.read_record("c")).head_id
    conversation = run(either.load("c"))
    conversation.messages = [*conversation.messages[:2], asked("otherwise")]
    run(either.save(conversation))
    assert texts(run(either.load("c")).messages) == ["a", "b", "otherwise"]
    assert run(either.read_record("c")).branches == [old]
    assert texts([entry.message for entry in run(either.read_history(old))]) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("at", [0, 1, 3, 4])
def test_a_branch_goes_on_from_an_earlier_message_and_back(either, at):
    first = talk(either, "c", "a", "b", "c", "d")
    old = run(either.read_record("c")).head_id
    branch = run(either.branch("c", at=at, expected_revision=first.revision))
    branch.messages.append(asked("new"))
    run(either.save(branch))
    assert texts(run(either.load("c")).messages) == [*"abcd"[:at], "new"]
    newer = run(either.read_record("c")).head_id
    back = run(either.branch("c", from_entry=old, expected_revision=branch.revision))
    assert texts(back.messages) == ["a", "b", "c", "d"]
    back.messages.append(asked("on"))
    run(either.save(back))
    assert texts(run(either.load("c")).messages) == ["a", "b", "c", "d", "on"]
    there = run(either.branch("c", from_entry=newer, expected_revision=back.revision))
    assert texts(there.messages) == [*"abcd"[:at], "new"] == texts(run(either.load("c")).messages)
    with pytest.raises(ConversationConflict):
        run(either.branch("c", at=0, expected_revision="stale"))
    with pytest.raises(UserError):
        run(either.branch("c", at=99, expected_revision=there.revision))


@pytest.mark.parametrize("at", [None, 0, 1, 3])
def test_a_fork_shares_what_came_before_and_each_goes_on_alone(either, at):
    talk(either, "c", "a", "b", "c", scope="s")
    fork = run(either.fork("c", at=at, new_conversation_id="f"))
    talk(either, "f", "of the fork")
    talk(either, "c", "of the first")
    shared = list("abc"[: 3 if at is None else at])
    assert texts(fork.messages) == shared
    assert texts(run(either.load("f")).messages) == [*shared, "of the fork"]
    assert texts(run(either.load("c")).messages) == ["a", "b", "c", "of the first"]
    record = run(either.read_record("f"))
    assert (record.forked_from, record.scope) == ("c", "s")
    with pytest.raises(ConversationConflict):
        run(either.fork("c", new_conversation_id="f"))
    deeper = run(either.fork("f", new_conversation_id="g"))
    assert texts(deeper.messages) == [*shared, "of the fork"]


def test_a_fork_of_a_line_that_was_left_starts_there(either):
    first = talk(either, "c", "a", "b", "c", "d")
    left = run(either.load_entries("c"))[2].id
    branch = run(either.branch("c", at=1, expected_revision=first.revision))
    branch.messages.append(asked("new"))
    run(either.save(branch))
    fork = run(either.fork("c", from_entry=left, new_conversation_id="f"))
    assert texts(fork.messages) == ["a", "b", "c"] == texts(run(either.load("f")).messages)


def test_a_scope_keeps_others_out(either):
    talk(either, "c", "a", scope="mine")
    assert run(either.load("c", scope="theirs")) is None
    assert texts(run(either.load("c", scope="mine")).messages) == ["a"]
    run(either.delete("c", scope="theirs"))
    assert run(either.load("c")) is not None
    assert [record.conversation_id for record in run(either.list_conversations(scope="mine"))] == ["c"]


# --- what ours adds --------------------------------------------------------------------------------
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
NAME = st.text("abc", min_size=1, max_size=3)  # an empty id is drawn anew whenever it is read
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=5,
)
USER = st.one_of(
    TEXT,
    st.lists(
        st.one_of(
            TEXT,
            st.builds(ImageUrl, url=st.just("https://x.org/a.png")),
            st.builds(
                BinaryContent, data=st.binary(max_size=4), media_type=st.sampled_from(["image/png", "audio/wav"])
            ),
        ),
        max_size=3,
    ),
)
REQUEST_PART = st.one_of(
    st.builds(SystemPromptPart, content=TEXT),
    st.builds(UserPromptPart, content=USER),
    st.builds(
        ToolReturnPart,
        tool_name=NAME,
        content=JSON,
        tool_call_id=NAME,
        metadata=JSON,
        outcome=st.sampled_from(["success", "failed", "denied"]),
    ),
    st.builds(RetryPromptPart, content=TEXT, tool_name=NAME | st.none(), tool_call_id=NAME),
)
RESPONSE_PART = st.one_of(
    st.builds(TextPart, content=TEXT, id=TEXT | st.none()),
    st.builds(ThinkingPart, content=TEXT, signature=TEXT | st.none()),
    st.builds(
        ToolCallPart, tool_name=NAME, args=st.none() | TEXT | st.dictionaries(TEXT, JSON, max_size=2), tool_call_id=NAME
    ),
)
MESSAGE = st.one_of(
    st.builds(ModelRequest, parts=st.lists(REQUEST_PART, max_size=3), instructions=TEXT | st.none()),
    st.builds(
        ModelResponse,
        parts=st.lists(RESPONSE_PART, max_size=3),
        model_name=TEXT | st.none(),
        provider_details=st.none() | st.dictionaries(TEXT, JSON, max_size=2),
    ),
)


@pytest.mark.filterwarnings("ignore:`RetryPromptPart` is deprecated")
@settings(max_examples=150, deadline=None)
@given(st.lists(MESSAGE, min_size=1, max_size=3))
def test_any_message_comes_back_as_the_adapter_gives_it(messages):
    through = ModelMessagesTypeAdapter.validate_python(ModelMessagesTypeAdapter.dump_python(messages, mode="json"))
    with everlog.open("memory:") as store:
        kept = EverlogConversationStore(store)
        made = []
        for message in messages:
            made.append(ConversationEntry(parent_id=made[-1].id if made else None, message=message))
        record = ConversationRecord(conversation_id="c", head_id=made[-1].id)
        kept._write(record, made, None)
        read = [entry.message for entry in kept._line(record.head_id, None)[0]]
        session = store.create("helper")
        add_messages(session, messages)
        loaded = load_messages(session)
    assert ModelMessagesTypeAdapter.dump_json(read) == ModelMessagesTypeAdapter.dump_json(through)
    assert ModelMessagesTypeAdapter.dump_json(loaded) == ModelMessagesTypeAdapter.dump_json(through)


def test_what_the_log_cannot_say_comes_back_all_the_same(ours):
    hard = [asked("x" * 5_000_000), ModelResponse(parts=[ToolCallPart("f", {"n": 2**70})])]
    conversation = Conversation(conversation_id="c", messages=hard)
    run(ours.save(conversation))
    assert run(ours.load("c")).messages == hard


def test_a_conversation_is_read_as_one(ours):
    agent = Agent(TestModel(call_tools="all"), system_prompt="be brief")

    @agent.tool_plain
    def look(at: int) -> str:
        return "seen"

    result = run(agent.run("what is there?", conversation=Conversation(conversation_id="c")))
    run(ours.save(result))
    session = ours.session("c")
    assert [event.type for event in session.events()] == [
        *(
            "system.message",
            "user.message",
            "agent.tool_use",
            "agent.tool_result",
            "agent.message",
            "x.pydantic_ai.record",
        ),
    ]
    assert all("item" not in (event.metadata or {}).get("native", {}) for event in session.events())
    messages = session.state("messages").value
    assert messages[2]["content"][0]["result"]["content"][0]["text"] == "seen"
    assert session.state("usage").value
    assert ours.store.search("what is there").hits[0].event.session == session.id


def test_a_history_is_read_a_page_at_a_time_and_its_end_alone(tmp_path, monkeypatch):
    with everlog.open(tmp_path / "s.db", snapshots=False) as store:
        kept = EverlogConversationStore(store)
        talk(kept, "c", *(f"m{number}" for number in range(3_000)))
        read = []
        reading = store.storage.read
        monkeypatch.setattr(
            store.storage, "read", lambda *args, **given: read.append(found := reading(*args, **given)) or found
        )
        assert texts(run(kept.load("c", limit=20)).messages) == [f"m{number}" for number in range(2_980, 3_000)]
        assert sum(len(page.events) for page in read) < 200
        read.clear()
        assert len(run(kept.load("c")).messages) == 3_000
        assert len(read) < 30


def test_the_newest_of_many_conversations_are_found_without_reading_all(monkeypatch):
    clock = FixedClock()
    store = Store(MemoryStorage(clock=clock, draw=os.urandom), Settings(os.urandom), url="memory:")
    kept = EverlogConversationStore(store)
    for number in range(40):
        clock.advance(seconds=600)
        record = ConversationRecord(conversation_id=f"c{number}", head_id=None, updated_at=from_micros(clock()))
        run(kept.write_record(record, expected_revision=None))
    read = []
    opening = store.session
    monkeypatch.setattr(store, "session", lambda name: read.append(name) or opening(name))
    assert [record.conversation_id for record in run(kept.list_conversations(limit=3))] == ["c39", "c38", "c37"]
    assert len(read) < 6
    assert len(run(kept.list_conversations())) == 40
    store.close()


def test_a_rewind_of_the_log_takes_a_conversation_back(ours):
    talk(ours, "c", "a", "b")
    size = ours.session("c").head.size
    talk(ours, "c", "c", "d")
    ours.session("c").rewind(size)
    assert texts(run(ours.load("c")).messages) == ["a", "b"]
    talk(ours, "c", "otherwise")
    assert texts(run(ours.load("c")).messages) == ["a", "b", "otherwise"]


def test_the_line_of_the_log_is_the_history_of_the_conversation(ours):
    first = talk(ours, "c", "a", "b", "c", "d")
    branch = run(ours.branch("c", at=2, expected_revision=first.revision))
    assert [message["content"][0]["text"] for message in ours.session("c").state("messages").value] == ["a", "b"]
    branch.messages.append(asked("new"))
    run(ours.save(branch))
    assert [message["content"][0]["text"] for message in ours.session("c").state("messages").value] == ["a", "b", "new"]
    assert ours.store.verify().ok


def test_an_erased_message_says_so_and_the_others_stay(ours):
    talk(ours, "c", "a", "b", "c")
    session = ours.session("c")
    session.erase([1], reason="asked to")
    assert texts(run(ours.load("c")).messages) == ["a", "[erased]", "c"]
    talk(ours, "c", "d")
    assert texts(run(ours.load("c")).messages) == ["a", "[erased]", "c", "d"]


def test_what_a_fork_kept_alive_goes_with_the_last_fork(ours):
    talk(ours, "c", "the word is swordfish", "b")
    run(ours.fork("c", new_conversation_id="f"))
    run(ours.delete("c"))
    assert len(ours.store.search("swordfish").hits) == 1
    run(ours.delete("f"))
    assert ours.store.search("swordfish").hits == []
    assert ours.store.sessions(prefix="pydantic-ai/") == []
    assert ours.store.verify().ok


def test_a_conversation_that_another_holds_is_not_saved(ours):
    conversation = talk(ours, "c", "a")
    with ours.store.wake(ours.session("c").id, holder="somebody"):
        held = run(ours.load("c"))
        held.messages.append(asked("b"))
        with pytest.raises(FencedError):
            run(ours.save(held))
    conversation.messages.append(asked("b"))
    assert texts(run(ours.load("c")).messages) == ["a"]


@pytest.mark.parametrize("id", ["a/b", "x" * 400, "", "sp\tace", "sha256-x", "ü", "@~%"])
def test_ids_and_scopes_may_be_any_text(ours, id):
    talk(ours, id, "a", scope=id)
    assert texts(run(ours.load(id, scope=id)).messages) == ["a"]
    (record,) = run(ours.list_conversations(scope=id))
    assert (record.conversation_id, record.scope) == (id, id)
    named = ours.session(id).info()
    assert named.title == (None if named.id.endswith(id) else " ".join(id.split())[:120] or None), "what `ls` shows"
    made = replace(entries("b", parent=record.head_id)[0], id=f"{id}:1")
    later = replace(record, head_id=made.id, revision="r2")
    run(ours.write_record(later, new_entries=[made], expected_revision=record.revision))
    assert run(ours.read_entry(made.id)) == made
    assert texts([entry.message for entry in run(ours.read_history(made.id))]) == ["a", "b"]


def test_writers_that_race_each_have_their_turn_or_a_conflict(ours):
    talk(ours, "c", "a")

    async def save(name):
        saved = []
        for number in range(8):
            conversation = await ours.load("c")
            conversation.messages.append(asked(f"{name}{number}"))
            try:
                await ours.save(conversation)
                saved.append(f"{name}{number}")
            except ConversationConflict:
                continue
        return saved

    async def race():
        return await asyncio.gather(save("one"), save("other"))

    one, other = run(race())
    assert sorted(texts(run(ours.load("c")).messages)) == sorted(["a", *one, *other])


# --- agents ----------------------------------------------------------------------------------------
def test_an_agent_goes_on_with_its_history_and_usage(ours):
    agent = Agent(FunctionModel(lambda messages, info: answered(f"{len(messages)} shown")))
    for number in range(3):
        conversation = run(ours.load("c")) or Conversation(conversation_id="c")
        result = run(agent.run("well?", conversation=conversation))
        run(ours.save(result))
        assert result.output == f"{2 * number + 1} shown"
    assert run(ours.load("c")).usage.requests == 3


KILLED = """
import asyncio, os, signal, sys
sys.path.insert(0, sys.argv[1])
from pydantic_ai import Agent
from pydantic_ai.conversation import Conversation
from pydantic_ai.models.function import FunctionModel
from pydantic_agent import script
from everlog.integrations.pydantic_ai import EverlogConversationStore

agent = Agent(FunctionModel(script))

@agent.tool_plain
def multiply(one: int, other: int) -> int:
    if run == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return one * other

async def main():
    global run
    store = EverlogConversationStore(sys.argv[2])
    for run in range(3):
        conversation = await store.load("c") or Conversation(conversation_id="c")
        await store.save(await agent.run(f"ask {run}", conversation=conversation))

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_an_agent_that_is_killed_in_a_run_goes_on_from_its_last_save(kind, tmp_path):
    place = address(kind, tmp_path / "store")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(EXAMPLES), place], check=False, timeout=60)
    assert killed.returncode == -9
    store = EverlogConversationStore(place)
    conversation = run(store.load("c"))
    assert [part.content for m in conversation.messages for part in m.parts if isinstance(part, UserPromptPart)] == [
        *("ask 0", "ask 1"),
    ]
    agent = Agent(FunctionModel(lambda messages, info: answered(str(len(messages)))))
    result = run(agent.run("ask 2", conversation=conversation))
    run(store.save(result))
    assert result.output == "9"
    assert store.store.verify().ok
    run(store.close())


def test_the_example_goes_on_where_it_ended(tmp_path):
    words = [sys.executable, "-W", "error", str(EXAMPLES / "pydantic_agent.py"), str(tmp_path / "s.db")]
    said = [subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout for _ in range(2)]
    assert said[0].startswith("It is 42; I was shown 3 messages.")
    assert said[1].startswith("It is 42; I was shown 7 messages.")
