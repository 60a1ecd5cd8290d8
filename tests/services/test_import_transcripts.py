"""What other programs' transcripts become: every item is there, as standard events, and can be given back as it was."""

import json
from datetime import UTC, datetime

import pytest

import everlog
from databases import address
from everlog.importers import Failure, import_paths, originals

TIME = "2026-01-02T03:04:05.678Z"


EVERYWHERE = pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def store(request, tmp_path):
    with everlog.open(address(getattr(request, "param", "sqlite"), tmp_path / "store")) as opened:
        yield opened


def lines(path, *entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def run(store, format, *paths):
    results = list(import_paths(store, format, paths))
    for result in results:
        assert not isinstance(result, Failure), result
    return results


# --- Codex ---------------------------------------------------------------------------------------
def rollout(kind, **payload):
    return {"timestamp": TIME, "type": kind, "payload": payload}


CODEX = [
    rollout("session_meta", id="thread-1", cwd="/w", cli_version="1"),
    rollout("turn_context", model="gpt-x", cwd="/w"),
    rollout("response_item", type="message", role="user", content=[{"type": "input_text", "text": "Mend it."}]),
    rollout("response_item", type="reasoning", id="rs_1", summary=[{"type": "summary_text", "text": "hm"}]),
    rollout(
        "response_item",
        type="function_call",
        call_id="c1",
        name="shell",
        arguments='{"command": ["spawn", "thread-2"]}',
    ),
    rollout("response_item", type="function_call_output", call_id="c1", output="started thread-2"),
    rollout("event_msg", type="token_count", info={"last_token_usage": {"input_tokens": 9, "cached_input_tokens": 4}}),
    rollout("event_msg", type="turn_aborted", reason="interrupted"),
    rollout("response_item", type="message", role="assistant", content=[{"type": "output_text", "text": "Done."}]),
]


@EVERYWHERE
def test_a_rollout_of_codex_becomes_standard_events(store, tmp_path):
    run(store, "codex", lines(tmp_path / "rollout-1-thread-1.jsonl", *CODEX))
    session = store.session("thread-1")
    assert [event.type for event in session.slice()] == [
        "x.codex.session_meta",
        "x.codex.turn_context",
        "user.message",
        "agent.thinking",
        "agent.tool_use",
        "agent.tool_result",
        "x.codex.event_token_count",
        "user.interrupt",
        "agent.message",
    ]
    assert session[3].data == {"text": "hm", "message_id": "rs_1"}
    assert session[4].data["input"] == {"command": ["spawn", "thread-2"]}
    assert session[4].metadata["model"] == "gpt-x"
    assert session[6].metadata["usage"] == {"input_tokens": 9, "cache_read_input_tokens": 4}
    assert session.info().title == "Mend it."
    assert list(originals(session)) == CODEX


def test_a_thread_that_codex_spawned_knows_the_call_that_spawned_it(store, tmp_path):
    source = {"subagent": {"thread_spawn": {"parent_thread_id": "thread-1"}}}
    lines(tmp_path / "a" / "rollout-1.jsonl", *CODEX)
    lines(tmp_path / "a" / "rollout-2.jsonl", rollout("session_meta", id="thread-2", source=source))
    run(store, "codex", tmp_path / "a")
    call = next(store.session("thread-1").events(types="agent.tool_use"))
    assert store.session("thread-2").info().parent == call.id


def test_what_codex_writes_that_is_not_known_is_kept_and_reported(store, tmp_path):
    odd = [
        rollout("response_item", type="brand_new", x=1),
        {"type": "message", "role": "user", "content": "old"},
        3,
        rollout("response_item", type=[], role={}),
        rollout(["event_msg"], type="error"),
    ]
    (imported,) = run(store, "codex", lines(tmp_path / "rollout-1.jsonl", *odd))
    assert [problem.line for problem in imported.problems] == [1, 3, 4, 5]
    assert list(originals(store.session("rollout-1"))) == odd


# --- OpenAI --------------------------------------------------------------------------------------
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "w", "arguments": '{"at": "x"}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    {"role": "assistant", "content": "Rain."},
    {"role": "assistant", "content": "", "reasoning_content": "hm", "refusal": "No."},
    {"role": "nobody"},
]


@EVERYWHERE
@pytest.mark.parametrize("shape", ["list", "object", "lines"])
def test_chat_messages_become_standard_events_and_come_back(store, tmp_path, shape):
    path = tmp_path / ("chat.jsonl" if shape == "lines" else "chat.json")
    if shape == "lines":
        lines(path, *CHAT)
    else:
        path.write_text(json.dumps(CHAT if shape == "list" else {"model": "m", "messages": CHAT}, indent=1))
    (imported,) = run(store, "openai", path)
    session = store.session("chat")
    rest = [{"model": "m"}] if shape == "object" else []
    assert list(originals(session)) == CHAT + rest
    assert imported.problem_count == 1
    assert [event.type for event in session.slice()][:7] == [
        "system.message",
        "user.message",
        "agent.tool_use",
        "agent.tool_result",
        "agent.message",
        "agent.thinking",
        "agent.message",
    ]
    assert session[2].data == {"id": "c1", "name": "w", "input": {"at": "x"}, "kind": "function"}
    (again,) = run(store, "openai", path)
    assert again.events == 0


def test_lines_that_are_conversations_become_a_session_each(store, tmp_path):
    run(store, "openai", lines(tmp_path / "train.jsonl", {"messages": CHAT[:2]}, {"messages": CHAT[1:5]}))
    assert list(originals(store.session("train/1"))) == CHAT[:2]
    assert list(originals(store.session("train/2"))) == CHAT[1:5]


@EVERYWHERE
def test_a_conversation_that_has_grown_adds_only_what_is_new(store, tmp_path):
    path = tmp_path / "chat.json"
    for size in range(1, len(CHAT) + 1):
        path.write_text(json.dumps(CHAT[:size]))
        run(store, "openai", path)
        assert list(originals(store.session("chat"))) == CHAT[:size]


# --- Everlog's own shape -------------------------------------------------------------------------
def test_what_log_prints_can_be_imported_and_says_the_same(store, tmp_path):
    source = store.create("first", title="t")
    source.append("user.message", {"content": "hello"}, key="k", occurred_at=datetime(2026, 1, 1, tzinfo=UTC))
    source.append("agent.tool_use", {"id": "1", "name": "n", "input": {}}, rationale="why", outcome="ok", actor="a")
    source.append("note", {"content": "x"}, metadata={"m": 1})
    printed = [event.to_dict() for event in source]
    with everlog.open(tmp_path / "other.db") as other:
        run(other, "jsonl", lines(tmp_path / "log.jsonl", *printed))
        copy = other.session("first")
        assert list(originals(copy)) == printed
        kept = ("type", "data", "actor", "outcome", "rationale")
        assert [[getattr(event, name) for name in kept] for event in copy if not event.type.startswith("x.")] == [
            [getattr(event, name) for name in kept] for event in source if not event.type.startswith("session.")
        ]


@EVERYWHERE
def test_lines_written_by_hand_are_events_and_what_the_log_refuses_is_kept(store, tmp_path):
    odd = [
        {"type": "note", "data": {"content": "x"}},
        {"type": "NOT A TYPE"},
        {"type": "agent.tool_use", "data": {"no": "id"}},
        {"type": "note", "outcome": 5},
        {"data": 1},
        "text",
        {"type": "session.created"},
        {"type": "note", "data": {"content": "y"}, "session": "elsewhere"},
    ]
    (imported,) = run(store, "jsonl", lines(tmp_path / "hand.jsonl", *odd))
    assert {problem.line for problem in imported.problems} >= {2, 4, 5, 6}
    assert list(originals(store.session("hand"))) == odd[:-1]
    assert list(originals(store.session("elsewhere"))) == odd[-1:]
