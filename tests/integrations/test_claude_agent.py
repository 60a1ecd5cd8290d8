"""Sessions of the Claude Agent SDK in Everlog: its makers' suite, and each sentence of its contract that the suite leaves out."""

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.secrets_made import TOKENS, drawn
from databases import address

pytest.importorskip("claude_agent_sdk")

import claude_agent_sdk
from claude_agent_sdk import (
    ClaudeAgentOptions,
    InMemorySessionStore,
    fold_session_summary,
    fork_session_via_store,
    get_session_info_from_store,
    get_session_messages_from_store,
    get_subagent_messages_from_store,
    list_sessions_from_store,
    list_subagents_from_store,
    project_key_for_directory,
    rename_session_via_store,
    tag_session_via_store,
)
from claude_agent_sdk.testing import run_session_store_conformance
from hypothesis import given, settings
from hypothesis import strategies as st

import everlog
from everlog.errors import FencedError, HeldError, NotFoundError, SessionExistsError
from everlog.integrations.claude_agent import EverlogSessionStore
from everlog.making import Settings
from everlog.store import Store
from everlog.stores.memory import MemoryStorage
from everlog.testing import FixedClock

KEY = {"project_key": "-home-me-work", "session_id": "5f0c54a6-30d5-4b4c-9f8e-3a1f6f1c1a01"}
SUB = {**KEY, "subpath": "subagents/agent-a1"}


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    return address(request.param, tmp_path / "store")


@pytest.fixture
def kept(place):
    with everlog.open(place) as store:
        yield EverlogSessionStore(store)


def run(awaitable):
    return asyncio.run(awaitable)


def entry(number, text=None, **members):
    role = "user" if number % 2 == 0 else "assistant"
    content = text if role == "user" else [{"type": "text", "text": text or ""}]
    return {
        "type": role,
        "uuid": str(uuid.UUID(int=number)),
        "parentUuid": None if number == 0 else str(uuid.UUID(int=number - 1)),
        "sessionId": KEY["session_id"],
        "timestamp": f"2026-11-30T10:00:{number % 60:02}.000Z",
        "cwd": "/home/me/work",
        "message": {"role": role, "content": content},
        **members,
    }


def texts(entries):
    return [each["message"]["content"] for each in entries]


# --- the makers' own suite ------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["sqlite", "postgres", "memory"])
def test_the_makers_suite_passes(kind, tmp_path):
    stores = []

    def make():
        stores.append(everlog.open(address(kind, tmp_path / f"s{len(stores)}")))
        return EverlogSessionStore(stores[-1])

    run(run_session_store_conformance(make))
    assert len(stores) > 13
    for store in stores:
        store.close()


# --- idempotency -----------------------------------------------------------------------------------
def test_a_batch_that_is_retried_is_recorded_once(kept):
    batch = [entry(0, "a"), entry(1, "b")]
    run(kept.append(KEY, batch))
    run(kept.append(KEY, batch))
    assert run(kept.load(KEY)) == batch


def test_a_retry_that_overlaps_leaves_out_what_is_recorded_and_keeps_the_order_of_the_rest(kept):
    run(kept.append(KEY, [entry(0, "a"), entry(1, "b")]))
    run(kept.append(KEY, [entry(1, "b"), entry(2, "c"), entry(2, "c"), entry(0, "a"), entry(3, "d")]))
    assert run(kept.load(KEY)) == [entry(0, "a"), entry(1, "b"), entry(2, "c"), entry(3, "d")]


def test_an_entry_with_a_recorded_uuid_and_other_content_is_left_out(kept):
    run(kept.append(KEY, [entry(0, "first")]))
    run(kept.append(KEY, [entry(0, "second"), entry(1, "next")]))
    assert texts(run(kept.load(KEY))) == ["first", [{"type": "text", "text": "next"}]]


def test_entries_without_a_uuid_are_never_left_out(kept):
    title = {"type": "custom-title", "customTitle": "T"}
    run(kept.append(KEY, [title, title]))
    run(kept.append(KEY, [title]))
    assert run(kept.load(KEY)) == [title] * 3


def test_the_same_uuid_in_another_session_is_another_entry(kept):
    other = {**KEY, "session_id": "other"}
    run(kept.append(KEY, [entry(0, "a")]))
    run(kept.append(other, [entry(0, "a")]))
    run(kept.append(SUB, [entry(0, "a")]))
    assert len(run(kept.load(other))) == len(run(kept.load(SUB))) == 1


@pytest.mark.parametrize(
    "id", ["u" * 600, "a\0b", "half \ud83d", "ü" * 300, " "], ids=["long", "nul", "half", "wide", "space"]
)
def test_a_uuid_is_any_text(kept, id):
    entries = [entry(0, "a", uuid=id), entry(1, "b", uuid=f"{id}b")]
    run(kept.append(KEY, entries[:1]))
    run(kept.append(KEY, entries))
    assert run(kept.load(KEY)) == entries
    assert run(kept.load(run(kept.fork_session(KEY, up_to=id)))) == entries[:1]


# --- what is called at once ------------------------------------------------------------------------
@pytest.mark.parametrize("theirs", [False, True], ids=["ours", "theirs"])
def test_entries_are_recorded_in_the_order_in_which_append_was_called(kept, theirs):
    store = InMemorySessionStore() if theirs else kept

    async def work():
        calls = [
            asyncio.ensure_future(store.append(KEY, [{"type": "x", "call": call, "n": n} for n in range(1 + call % 3)]))
            for call in range(60)  # more than there are threads for
        ]
        await asyncio.sleep(0)
        calls[50].cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        return [each["call"] for each in await store.load(KEY)]

    calls = run(work())
    assert calls == sorted(calls)
    assert set(calls) >= set(range(60)) - {50}


def test_appends_from_two_loops_never_wait_for_a_thread_that_those_behind_them_hold(kept, monkeypatch):
    """Else the first of all, whose loop was held up, has no thread, and those that have one wait for it."""
    taken, go_on, take = threading.Event(), threading.Event(), kept._turns.take
    kept._turns._seconds = 2

    def slow(name):
        turn = take(name)
        if not taken.is_set():
            taken.set()
            go_on.wait(0.5)  # until all others are begun, where they can be
        return turn

    async def many():
        calls = [asyncio.ensure_future(kept.append(KEY, [{"type": "x", "call": call}])) for call in range(1, 40)]
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*calls)

    monkeypatch.setattr(kept._turns, "take", slow)
    first = threading.Thread(target=run, args=(kept.append(KEY, [{"type": "x", "call": 0}]),))
    first.start()
    assert taken.wait(5)
    run(many())
    first.join(10)
    assert [each["call"] for each in run(kept.load(KEY))] == list(range(40))


def test_a_program_of_trio_keeps_its_transcripts_here_too(kept):
    trio = pytest.importorskip("trio", reason="trio is not installed")

    async def main():
        await kept.append(KEY, [entry(0, "a")])
        async with trio.open_nursery() as nursery:
            for number in range(1, 30):
                nursery.start_soon(kept.append, KEY, [entry(number, "b")])
        assert len(await kept.list_sessions(KEY["project_key"])) == 1
        return await kept.load(KEY)

    assert len(trio.run(main)) == 30


class Both:
    """The same calls, drawn at random, of their store and of two of ours on one Everlog store."""

    def __init__(self, seed, store):
        self.draw = random.Random(seed)
        self.theirs = InMemorySessionStore()
        self.ours = [EverlogSessionStore(store), EverlogSessionStore(store)]

    def key(self):
        key = {"project_key": self.draw.choice(["p", "p/q", "q"]), "session_id": self.draw.choice(["s", "t"])}
        return self.draw.choice([key, key, key | {"subpath": self.draw.choice(["subagents/a", "subagents/x/b"])}])

    def entries(self):
        draw = self.draw
        return [
            draw.choice(
                [
                    entry(draw.randrange(12), f"text {draw.randrange(3)}", gitBranch=f"b{draw.randrange(3)}"),
                    entry(draw.randrange(12), "<command-name>x</command-name>", isMeta=draw.random() < 0.5),
                    {"type": draw.choice(["custom-title", "ai-title"]), "customTitle": f"title {draw.randrange(9)}"},
                    {"type": "tag", "tag": draw.choice(["", "t"])},
                    {"type": "summary", "summary": "s", "leafUuid": "u", "isSidechain": draw.random() < 0.2},
                ]
            )
            for _ in range(draw.randrange(5))
        ]

    async def append(self):
        key, entries, firsts = self.key(), self.entries(), []
        known = {each.get("uuid") for each in await self.theirs.load(key) or ()}
        for each in entries:
            if "uuid" not in each or each["uuid"] not in known:  # theirs keeps every one
                firsts.append(each)
                known.add(each.get("uuid"))
        await self.draw.choice(self.ours).append(key, entries)
        if firsts:
            await self.theirs.append(key, firsts)

    async def delete(self):
        key = self.key()
        for store in (self.draw.choice(self.ours), self.theirs):
            await store.delete(key)

    async def look(self):
        ours, key = self.draw.choice(self.ours), self.key()
        assert await ours.load(key) == await self.theirs.load(key)
        assert sorted(await ours.list_subkeys(key)) == sorted(await self.theirs.list_subkeys(key))
        for project in ("p", "p/q", "q", "none"):
            listed = {each["session_id"]: each["mtime"] for each in await ours.list_sessions(project)}
            summaries = {each["session_id"]: each for each in await ours.list_session_summaries(project)}
            expected = {each["session_id"]: each["data"] for each in await self.theirs.list_session_summaries(project)}
            assert {id: each["data"] for id, each in summaries.items()} == expected
            assert {id: each["mtime"] for id, each in summaries.items()} == listed

    async def run(self, calls):
        for _ in range(calls):
            await self.draw.choice([self.append] * 6 + [self.look] * 3 + [self.delete])()


@pytest.mark.parametrize("seed", range(10))
def test_whatever_is_called_answers_as_their_own_store(seed):
    with everlog.open("memory:") as store:
        run(Both(seed, store).run(60))


def test_whatever_is_called_answers_as_their_own_store_on_a_store_that_lasts(place):
    with everlog.open(place) as store:
        run(Both(0, store).run(40))


# --- what is given back ----------------------------------------------------------------------------
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
BLOCK = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "thinking", "tool_use", "tool_result", "image", "redacted_thinking"])},
    optional={
        **dict.fromkeys(("text", "thinking", "signature", "id", "name", "tool_use_id", "data"), TEXT),
        "input": JSON,
        "content": JSON,
        "is_error": JSON,
        "more": JSON,
    },
)
ENTRY = st.fixed_dictionaries(
    {"type": st.sampled_from(["user", "assistant", "system", "summary", "new-kind"])},
    optional={
        "message": st.fixed_dictionaries({}, optional={"id": JSON, "usage": JSON, "model": JSON, "content": JSON})
        | st.fixed_dictionaries({"content": TEXT | st.lists(BLOCK | JSON, max_size=4)}),
        **dict.fromkeys(("summary", "isApiErrorMessage", "timestamp", "toolUseResult", "native", "part"), JSON),
    },
)


def same(one, other):
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@settings(max_examples=150, deadline=None)
@given(st.lists(ENTRY, min_size=1, max_size=4))
def test_any_entry_comes_back_as_it_was(entries):
    with everlog.open("memory:") as store:
        kept = EverlogSessionStore(store)
        kept._append(KEY, entries)
        assert same(kept._load(KEY), entries)


def test_what_the_log_cannot_say_comes_back_all_the_same(kept):
    deep = []
    for _ in range(200):
        deep = [deep]
    hard = [
        entry(0, "half a \ud83d character"),
        entry(1, "x", many=2**80),
        entry(2, "y", deep=deep),
        entry(3, "z" * 5_000_000),
        entry(4, "nul \x00 there"),
    ]
    for levels in range(55, 68):
        deep = "x"
        for _ in range(levels):
            deep = [deep]
        hard.append(entry(len(hard), "d", toolUseResult=deep))
        hard.append(entry(len(hard), message={"role": "user", "content": {"deep": deep}}))
    run(kept.append(KEY, hard))
    assert same(run(kept.load(KEY)), hard)


def test_a_transcript_reads_as_a_conversation(kept):
    use = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}}
    said = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "I look"}, use]
    entries = [
        entry(0, "what is here?"),
        entry(1, message={"role": "assistant", "id": "m1", "model": "claude", "content": said}),
        entry(
            2, message={"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "a.py"}]}
        ),
    ]
    run(kept.append(KEY, entries))
    assert run(kept.load(KEY)) == entries
    session = kept.session(KEY)
    assert [event.type for event in session.events()] == [
        *("user.message", "agent.thinking", "agent.message", "agent.tool_use", "agent.tool_result"),
    ]
    assert all("item" not in (event.metadata or {}).get("native", {}) for event in session.events())
    messages = session.state("messages").value
    assert messages[1]["content"][-1]["result"]["content"][0]["text"] == "a.py"
    assert [hit.event.position for hit in kept.store.search("what here").hits] == [0]
    assert session.info().title == "what is here?"
    assert session.events(limit=1).__next__().occurred_at == datetime(2026, 11, 30, 10, tzinfo=UTC)


def test_a_fork_of_the_log_is_a_transcript_too(kept):
    run(kept.append(KEY, [entry(0, "a"), entry(1, "b"), entry(2, "c")]))
    session = kept.session(KEY)
    session.fork(2, id=f"{session.id}-other")
    other = {**KEY, "session_id": f"{KEY['session_id']}-other"}
    run(kept.append(other, [entry(9, "another way")]))
    assert run(kept.load(other)) == [entry(0, "a"), entry(1, "b"), entry(9, "another way")]
    session.rewind(1)
    assert run(kept.load(KEY)) == [entry(0, "a")]


def test_what_others_record_in_the_session_is_no_entry(kept):
    run(kept.append(KEY, [entry(0, "a")]))
    session = kept.session(KEY)
    session.append("note", {"content": "looked at by a person"})
    session.checkpoint("here")
    run(kept.append(KEY, [entry(1, "b")]))
    assert run(kept.load(KEY)) == [entry(0, "a"), entry(1, "b")]


# --- summaries -------------------------------------------------------------------------------------
def summary_of(kept, key=KEY):
    return {each["session_id"]: each for each in run(kept.list_session_summaries(key["project_key"]))}[
        key["session_id"]
    ]


def test_a_summary_is_that_of_all_entries_however_they_came(kept):
    entries = [
        entry(0, "what do you say?", gitBranch="main"),
        {"type": "custom-title", "customTitle": "one"},
        entry(1, "this", gitBranch="other"),
        {"type": "tag", "tag": "t"},
        {"type": "last-prompt", "lastPrompt": "p"},
    ]
    for start in range(len(entries)):
        run(kept.append(KEY, entries[start : start + 1]))
    assert summary_of(kept)["data"] == fold_session_summary(None, KEY, entries)["data"]
    assert kept.session(KEY).info().title == "one"


def test_a_retried_entry_does_not_take_a_summary_back(kept):
    run(kept.append(KEY, [entry(0, "a", gitBranch="old")]))
    run(kept.append(KEY, [entry(1, "b", gitBranch="new")]))
    run(kept.append(KEY, [entry(0, "a", gitBranch="old"), {"type": "tag", "tag": "x"}]))
    data = summary_of(kept)["data"]
    assert (data["git_branch"], data["tag"]) == ("new", "x")


def test_a_summary_and_its_entries_are_one_transaction_and_one_time(kept):
    run(kept.append(KEY, [entry(0, "a")]))
    run(kept.append(KEY, [entry(1, "b", gitBranch="b1")]))
    listed = run(kept.list_sessions(KEY["project_key"]))
    assert [each["mtime"] for each in listed] == [summary_of(kept)["mtime"]]
    events = list(kept.session(KEY).events())
    assert [event.type for event in events[-2:]] == ["session.updated", "agent.message"]
    assert events[-1].recorded_at == events[-2].recorded_at


def test_the_session_that_was_appended_to_last_is_the_newest_whichever_was_made_first():
    clock = FixedClock()
    with Store(MemoryStorage(clock=clock, draw=os.urandom), Settings(os.urandom), url="memory:") as store:
        kept, at = EverlogSessionStore(store), []
        for session in ("a", "b", "a"):
            clock.advance(seconds=1)
            run(kept.append({"project_key": "p", "session_id": session}, [{"type": "x"}]))
            at.append(clock() // 1_000)
        mtimes = {each["session_id"]: each["mtime"] for each in run(kept.list_sessions("p"))}
        assert mtimes == {"a": at[2], "b": at[1]}


def test_a_summary_that_grew_too_long_is_left_to_the_sdk_to_make(kept):
    run(kept.append(KEY, [entry(0, "a")]))
    run(kept.append(KEY, [{"type": "last-prompt", "lastPrompt": "p" * 70_000}, entry(1, "b")]))
    run(kept.append(KEY, [entry(2, "c", customTitle="T")]))
    assert run(kept.list_session_summaries(KEY["project_key"])) == []
    assert len(run(kept.list_sessions(KEY["project_key"]))) == 1
    assert len(run(kept.load(KEY))) == 4


def test_summaries_of_writers_that_race_hold_what_each_wrote(kept):
    run(kept.append(KEY, [entry(0, "a")]))

    async def race():
        for number in range(1, 9):
            await asyncio.gather(
                kept.append(KEY, [entry(100 + number, "x", gitBranch=f"branch-{number}")]),
                kept.append(KEY, [{"type": "custom-title", "customTitle": f"title {number}"}]),
            )

    run(race())
    entries = run(kept.load(KEY))
    assert len(entries) == 17
    assert summary_of(kept)["data"] == fold_session_summary(None, KEY, entries)["data"]


# --- processes -------------------------------------------------------------------------------------
APPENDER = """
import asyncio, sys, uuid
from everlog.integrations.claude_agent import EverlogSessionStore
place, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
async def main():
    store = EverlogSessionStore(place)
    key = {"project_key": "-home-me-work", "session_id": "5f0c54a6-30d5-4b4c-9f8e-3a1f6f1c1a01"}
    for number in range(count):
        await store.append(key, [{"type": "user", "uuid": f"{name}-{number}", "gitBranch": f"{name}-{number}",
            "message": {"role": "user", "content": f"{name} {number}"}}])
        print(number, flush=True)
    await store.close()
asyncio.run(main())
"""


def test_two_processes_on_one_session_lose_nothing_and_keep_each_ones_order(place):
    writers = [subprocess.Popen([sys.executable, "-c", APPENDER, place, name, "20"]) for name in ("a", "b")]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    kept = EverlogSessionStore(place)
    entries = run(kept.load(KEY))
    for name in ("a", "b"):
        assert [each["uuid"] for each in entries if each["uuid"].startswith(name)] == [f"{name}-{n}" for n in range(20)]
    assert summary_of(kept)["data"] == fold_session_summary(None, KEY, entries)["data"]
    run(kept.close())


def test_a_writer_that_is_killed_leaves_every_entry_it_was_told_of(place):
    command = [sys.executable, "-c", APPENDER, place, "k", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        told = [writer.stdout.readline() for _ in range(10)]
        writer.kill()
    kept = EverlogSessionStore(place)
    entries = run(kept.load(KEY))
    assert [each["uuid"] for each in entries] == [f"k-{number}" for number in range(len(entries))]
    assert len(entries) >= len(told)
    run(kept.append(KEY, [{"type": "user", "uuid": f"k-{len(entries) - 1}", "message": {"content": "retried"}}]))
    assert len(run(kept.load(KEY))) == len(entries)
    assert kept.session(KEY).verify().ok
    run(kept.close())


def test_a_session_that_another_holds_refuses_entries_and_takes_them_later(kept):
    run(kept.append(KEY, [entry(0, "a")]))
    with kept.store.wake(kept.session(KEY).id, holder="somebody"):
        with pytest.raises(FencedError):
            run(kept.append(KEY, [entry(1, "b")]))
    run(kept.append(KEY, [entry(1, "b")]))
    assert len(run(kept.load(KEY))) == 2


# --- keys ------------------------------------------------------------------------------------------
LONG = "-home-" + "very-long-" * 40
ODD = [
    {"project_key": LONG, "session_id": "s"},
    {"project_key": LONG + "x", "session_id": "s"},
    {"project_key": "a/b", "session_id": "c"},
    {"project_key": "a", "session_id": "b/c"},
    {"project_key": "a\nb", "session_id": "s" * 300},
    {"project_key": "a", "session_id": ""},
    {"project_key": "sha256-x", "session_id": "sha256-y"},
    {"project_key": "p", "session_id": "s", "subpath": "subagents/" + "x" * 300},
    {"project_key": "p", "session_id": "s", "subpath": "subagents/sp\tace"},
]


def test_keys_of_any_text_are_kept_apart_and_listed_as_they_were(kept):
    for number, key in enumerate(ODD):
        run(kept.append(key, [entry(0, f"text {number}")]))
    for number, key in enumerate(ODD):
        assert texts(run(kept.load(key))) == [f"text {number}"]
        if "subpath" in key:
            assert key["subpath"] in run(kept.list_subkeys({**key, "subpath": None}))
        else:
            assert key["session_id"] in [each["session_id"] for each in run(kept.list_sessions(key["project_key"]))]


def test_listing_a_project_is_a_read_for_each_thousand_sessions_and_none_of_their_events(tmp_path, monkeypatch):
    with everlog.open("memory:") as store:
        kept = EverlogSessionStore(store)
        for number in range(1_050):
            kept._append({"project_key": "p", "session_id": f"s{number}"}, [entry(0, "a")])
        reads = []
        listing = store.storage.sessions
        monkeypatch.setattr(store.storage, "sessions", lambda chosen: reads.append(chosen) or listing(chosen))
        monkeypatch.setattr(store.storage, "read", None)
        assert len(run(kept.list_sessions("p"))) == len(run(kept.list_session_summaries("p"))) == 1_050
        assert len(reads) == 4


def test_a_fork_shares_what_came_before_and_is_listed_and_resumed_as_any_other(kept):
    long = entry(1)
    long["message"]["content"] = [
        {"type": "text", "text": "b"},
        {"type": "tool_use", "id": "c", "name": "f", "input": {}},
    ]
    entries = [entry(0, "a"), long, entry(2, "c")]
    run(kept.append(KEY, entries))
    fork = run(kept.fork_session(KEY, up_to=entries[1]["uuid"], reason="another way"))
    assert uuid.UUID(fork["session_id"])
    assert run(kept.load(fork)) == entries[:2]
    run(kept.append(fork, [entry(2, "otherwise")]))
    assert texts(run(kept.load(fork)))[-1] == "otherwise"
    assert run(kept.load(KEY)) == entries
    whole = run(kept.fork_session(KEY, "0c0c54a6-30d5-4b4c-9f8e-3a1f6f1c1a01"))
    assert run(kept.load(whole)) == entries
    listed = {each["session_id"] for each in run(kept.list_sessions(KEY["project_key"]))}
    assert listed == {KEY["session_id"], fork["session_id"], whole["session_id"]}
    shown = run(list_sessions_from_store(kept, directory="/home/me/work"))
    assert {each.session_id for each in shown} == listed
    with pytest.raises(NotFoundError):
        run(kept.fork_session(KEY, up_to="none such"))
    with pytest.raises(SessionExistsError):
        run(kept.fork_session(KEY, whole["session_id"]))
    for key in (fork, whole, KEY):  # a fork goes first
        run(kept.delete(key))
    assert run(kept.list_sessions(KEY["project_key"])) == []


def test_an_entry_whose_uuid_holds_half_a_character_is_recorded_once(kept):
    odd = entry(0, "a", uuid="u-\ud83d")
    for _ in range(2):
        run(kept.append(KEY, [odd, entry(1, "b")]))
    assert run(kept.load(KEY)) == [odd, entry(1, "b")]


def test_a_missing_session_has_nothing_to_list_and_deleting_it_does_nothing(kept):
    run(kept.append(KEY, []))
    assert run(kept.load(KEY)) is None
    assert run(kept.list_subkeys(KEY)) == []
    run(kept.delete(KEY))


def test_deleting_a_session_destroys_its_bodies_and_those_of_its_agents(kept):
    for key in (KEY, SUB):
        run(kept.append(key, [entry(0, "the word is swordfish")]))
    run(kept.delete(KEY))
    assert run(kept.load(KEY)) is None and run(kept.load(SUB)) is None
    assert kept.store.search("swordfish").hits == []
    run(kept.append(KEY, [entry(0, "again")]))
    assert texts(run(kept.load(KEY))) == ["again"]
    assert kept.store.verify().ok


@pytest.mark.parametrize("held", [True, False], ids=["held", "forked"])
def test_deleting_a_session_that_is_refused_destroys_nothing_of_its_agents(kept, held):
    for key in (KEY, SUB):
        run(kept.append(key, [entry(0, "the word is swordfish")]))
    if held:
        kept.session(KEY).hold(reason="a case")
    else:
        run(kept.fork_session(KEY))
    with pytest.raises(HeldError if held else SessionExistsError, match="nothing was deleted"):
        run(kept.delete(KEY))
    assert [texts(run(kept.load(key))) for key in (KEY, SUB)] == [["the word is swordfish"]] * 2


# --- what the SDK does with it ---------------------------------------------------------------------
def conversation(session_id):
    given = [entry(0, "how are you?"), entry(1, "well"), entry(2, "and now?"), entry(3, "still")]
    return [{**each, "sessionId": session_id} for each in given]


@pytest.mark.parametrize("theirs", [False, True], ids=["ours", "theirs"])
def test_the_helpers_of_the_sdk_give_the_same_as_on_its_own_store(theirs, kept, tmp_path):
    store, folder = InMemorySessionStore() if theirs else kept, str(tmp_path)
    key = {"project_key": project_key_for_directory(folder), "session_id": KEY["session_id"]}
    agent = {**key, "subpath": "subagents/agent-a1"}

    async def story():
        await store.append(key, conversation(key["session_id"]))
        await store.append(agent, [entry(0, "you are an agent", isSidechain=True, agentId="a1"), entry(1, "done")])
        await rename_session_via_store(store, key["session_id"], "My title", folder)
        await tag_session_via_store(store, key["session_id"], "mine", folder)
        fork = await fork_session_via_store(store, key["session_id"], folder, up_to_message_id=str(uuid.UUID(int=1)))
        listed = {each.session_id: each for each in await list_sessions_from_store(store, folder)}
        info = await get_session_info_from_store(store, key["session_id"], folder)
        messages = await get_session_messages_from_store(store, key["session_id"], folder)
        forked = await get_session_messages_from_store(store, fork.session_id, folder)
        agents = await list_subagents_from_store(store, key["session_id"], folder)
        said = await get_subagent_messages_from_store(store, key["session_id"], "a1", folder)
        return listed, fork, info, messages, forked, agents, said

    listed, fork, info, messages, forked, agents, said = run(story())
    assert set(listed) == {key["session_id"], fork.session_id}
    assert (listed[key["session_id"]].custom_title, listed[key["session_id"]].tag) == ("My title", "mine")
    assert (info.custom_title, info.first_prompt) == ("My title", "how are you?")
    assert [each.message["content"] for each in messages] == texts(conversation(""))
    assert [each.message["content"] for each in forked] == texts(conversation(""))[:2]
    assert (agents, len(said)) == (["a1"], 2)


@pytest.mark.skipif(
    not hasattr(claude_agent_sdk, "import_session_to_store"), reason="this version of the SDK imports no files"
)
def test_a_session_on_disk_is_imported_once_and_deleted_with_its_agents(kept, tmp_path, monkeypatch):
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path))
    key = {"project_key": project_key_for_directory(str(tmp_path)), "session_id": KEY["session_id"]}
    agent = {**key, "subpath": "subagents/agent-a1"}
    project = tmp_path / "projects" / key["project_key"]
    said = {project / f"{key['session_id']}.jsonl": conversation(key["session_id"])}
    said[project / key["session_id"] / "subagents" / "agent-a1.jsonl"] = [
        entry(0, "you are an agent"),
        entry(1, "done"),
    ]
    for file, entries in said.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(each) + "\n" for each in entries))
    for _ in range(2):  # as to close a gap of the mirror
        run(claude_agent_sdk.import_session_to_store(key["session_id"], kept, directory=str(tmp_path), batch_size=3))
    assert [run(kept.load(each)) for each in (key, agent)] == list(said.values())
    assert summary_of(kept, key)["data"] == fold_session_summary(None, key, conversation(key["session_id"]))["data"]
    run(claude_agent_sdk.delete_session_via_store(kept, key["session_id"], str(tmp_path)))
    assert [run(kept.load(each)) for each in (key, agent)] == [None, None]


def test_a_resume_is_materialised_from_ours_as_from_theirs(kept, tmp_path, monkeypatch):
    from claude_agent_sdk._internal.session_resume import materialize_resume_session

    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "config"))
    project = project_key_for_directory(str(tmp_path))
    key = {"project_key": project, "session_id": KEY["session_id"]}
    run(kept.append(key, conversation(KEY["session_id"])))
    run(kept.append({**key, "subpath": "subagents/agent-a1"}, [entry(0, "you are an agent")]))
    options = ClaudeAgentOptions(session_store=kept, resume=KEY["session_id"], cwd=str(tmp_path))

    async def story():
        made = await materialize_resume_session(options)
        files = sorted(made.config_dir.rglob("*.jsonl"))
        lines = {file.stem: [json.loads(line) for line in file.read_text().splitlines()] for file in files}
        await made.cleanup()
        return lines

    lines = run(story())
    assert lines[KEY["session_id"]] == conversation(KEY["session_id"])
    assert lines["agent-a1"] == [entry(0, "you are an agent")]


def test_a_store_that_redacts_keeps_no_secret_in_titles_and_summaries(tmp_path):
    token = TOKENS["github-token"](drawn(1))
    with everlog.open(tmp_path / "s.db", redact="redact") as store:
        kept = EverlogSessionStore(store)
        run(kept.append(KEY, [entry(0, "x" * 100 + " my token is " + token)]))
        run(kept.append(KEY, [entry(0, "x" * 100 + " my token is " + token)]))
        assert len(run(kept.load(KEY))) == 1
        shown = json.dumps([run(kept.load(KEY)), summary_of(kept), kept.session(KEY).info().title])
    assert token[:12] not in shown


def test_a_place_is_opened_and_closed_and_a_store_that_was_given_stays_open(tmp_path):
    kept = EverlogSessionStore(tmp_path / "s.db")
    run(kept.append(KEY, [entry(0, "a")]))
    run(kept.close())
    with everlog.open(tmp_path / "s.db") as store:
        given = EverlogSessionStore(store)
        run(given.close())
        assert len(run(given.load(KEY))) == 1

    async def on_a_loop():
        async with await everlog.open_async(tmp_path / "s.db") as store:
            return await EverlogSessionStore(store).load(KEY)

    assert len(run(on_a_loop())) == 1


# --- the SDK itself, with a script in place of Claude Code ------------------------------------------
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "integrations"
ASKER = """
import asyncio, os, sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from claude_agent import scripted_cli
from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, query
from everlog.integrations.claude_agent import EverlogSessionStore

async def main(place, prompt):
    kept = EverlogSessionStore(place)
    with tempfile.TemporaryDirectory() as folder:
        options = ClaudeAgentOptions(session_store=kept, continue_conversation=True, session_store_flush="eager",
            cli_path=scripted_cli(Path(folder)), env={"CLAUDE_CONFIG_DIR": folder})
        async for message in query(prompt=prompt, options=options):
            if isinstance(message, ResultMessage):
                print(message.result, flush=True)
    await kept.close()

asyncio.run(main(*sys.argv[2:]))
"""


def test_the_example_goes_on_where_it_ended(tmp_path):
    words = [sys.executable, "-W", "error", str(EXAMPLES / "claude_agent.py"), str(tmp_path / "s.db")]
    said = [subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout for _ in range(2)]
    assert said[0].startswith("You asked 0 times before")
    assert said[1].startswith("You asked 1 times before, first 'what was said before?'")


@pytest.mark.skipif(
    not hasattr(ClaudeAgentOptions, "session_store_flush"),
    reason="this version of the SDK mirrors a turn at its end only",
)
def test_an_agent_that_is_killed_in_a_turn_goes_on_with_all_that_was_mirrored(tmp_path):
    place = str(tmp_path / "s.db")

    def words(prompt):
        return [sys.executable, "-c", ASKER, str(EXAMPLES), place, prompt]

    subprocess.run(words("first"), cwd=tmp_path, capture_output=True, check=True, timeout=60)
    key = {"project_key": project_key_for_directory(str(tmp_path))}
    with everlog.open(place) as store:
        kept = EverlogSessionStore(store)
        (only,) = run(kept.list_sessions(key["project_key"]))
        key["session_id"] = only["session_id"]
        seen = kept.session(key).head
        with subprocess.Popen(words("never finish"), cwd=tmp_path, stdout=subprocess.DEVNULL) as asker:
            for event in kept.session(key).follow(seen.size, idle=60):
                if event.type == "agent.message":
                    break
            asker.kill()
        before = run(kept.load(key))
    said = subprocess.run(words("again"), cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60).stdout
    assert said == "You asked 2 times before, first 'first'\n"
    with everlog.open(place) as store:
        after = run(EverlogSessionStore(store).load(key))
        assert store.verify().ok
    assert after[: len(before)] == before
    assert [each["message"]["content"] for each in after if each["type"] == "user"] == [
        "first",
        "never finish",
        "again",
    ]
