"""Claude Code's transcripts: every line is kept, turns become standard events, sub-agents sessions that know their origin."""

import json
from datetime import UTC, datetime
from hashlib import sha256
from itertools import product
from pathlib import Path

import pytest

import everlog
from everlog.core.standard import check_standard
from everlog.importers import Failure, import_paths, originals

TRANSCRIPTS = Path(__file__).resolve().parents[3] / "shared" / "transcripts" / "claude-code"
FILES = sorted(TRANSCRIPTS.glob("*.jsonl"))
needs_transcripts = pytest.mark.skipif(
    not FILES, reason="the real transcripts lie beside the project, and are not here"
)
TIME = "2026-01-02T03:04:05.678Z"


@pytest.fixture
def store():
    with everlog.open("memory:") as opened:
        yield opened


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    path.write_bytes(b"".join(line + b"\n" for line in encoded))
    return path


def run(store, *paths):
    results = list(import_paths(store, "claude-code", paths))
    assert not [result for result in results if isinstance(result, Failure)]
    return results


def entry(uuid, content, kind="user", **more):
    message = {"role": kind, "content": content, **more.pop("message", {})}
    return {"uuid": uuid, "type": kind, "sessionId": "s", "timestamp": TIME, "message": message, **more}


def task(id, prompt):
    return {"type": "tool_use", "id": id, "name": "Task", "input": {"description": "d", "prompt": prompt}}


def parent_use(store, name):
    """Give the id that the tool use has which a session was made for."""
    parent = store.session(name).info().parent
    uses = {event.id: event.data["id"] for info in store.sessions() for event in uses_of(store, info.id)}
    return None if parent is None else uses[parent]


def uses_of(store, name):
    return store.session(name).events(types="agent.tool_use")


def types_of(session):
    return [event.type for event in session.slice()]


# --- real transcripts ----------------------------------------------------------------------------
@needs_transcripts
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_line_of_a_real_transcript_is_in_the_store_in_order(store, path):
    source = [json.loads(line) for line in path.read_bytes().splitlines()]
    (imported,) = run(store, path)
    session = store.session(path.stem)
    assert imported.sessions == (path.stem,)
    assert [json.dumps(item) for item in originals(session)] == [json.dumps(item) for item in source]
    assert imported.events == session.size()
    assert (imported.problem_count, imported.known) == (0, 0)
    assert session.info().labels == {"source": "claude-code"}
    assert session.verify().ok


@needs_transcripts
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_texts_calls_results_times_ids_and_models_of_a_real_transcript_stand_in_standard_events(store, path):
    run(store, path)
    events = list(store.session(path.stem).events())
    for line in path.read_bytes().splitlines():
        source = json.loads(line)
        if source["type"] == "summary":
            assert [event.data for event in events if event.type == "x.claude_code.summary"] == [
                {"summary": source["summary"]}
            ]
            continue
        first = next(event for event in events if event.key == f"claude-code:{source['uuid']}")
        assert first.occurred_at == datetime.fromisoformat(source["timestamp"])
        assert (first.metadata or {}).get("model") == source["message"].get("model")
        usage = source["message"].get("usage")
        if usage is not None:
            assert first.metadata["usage"]["output_tokens"] == usage["output_tokens"]
        content = source["message"]["content"]
        for block in content if isinstance(content, list) else [content]:
            assert said(events, block), block


def said(events, block):
    if isinstance(block, str):
        return any(event.data == {"content": block} for event in events if event.type == "user.message")
    if block["type"] == "text":
        said = [event.data["content"] for event in events if event.type in ("user.message", "agent.message")]
        return any(isinstance(content, list) and block in content for content in said)
    if block["type"] == "tool_use":
        kind, members = "agent.tool_use", ("id", "name", "input")
    else:
        kind, members = "agent.tool_result", ("tool_use_id", "content")
    wanted = [block[member] for member in members]
    return any([event.data[member] for member in members] == wanted for event in events if event.type == kind)


@needs_transcripts
def test_importing_a_folder_again_and_again_adds_nothing(store):
    first = run(store, TRANSCRIPTS)
    for _ in range(2):
        again = run(store, TRANSCRIPTS)
        assert [result.events for result in again] == [0] * len(FILES)
        assert [result.known for result in again] == [result.events for result in first]
    assert sorted(info.id for info in store.sessions()) == [path.stem for path in FILES]


@needs_transcripts
def test_a_real_transcript_that_grows_line_by_line_ends_as_one_import_of_it(store, tmp_path):
    lines = FILES[-1].read_bytes().splitlines(keepends=True)
    path = tmp_path / FILES[-1].name
    for size in range(1, len(lines) + 1):
        path.write_bytes(b"".join(lines[:size]))
        (imported,) = run(store, path)
        assert (imported.events > 0, imported.problem_count) == (True, 0)
    with everlog.open("memory:") as other:
        run(other, path)
        shown = [
            [(event.type, event.data, event.key, event.metadata) for event in each.session(path.stem).slice()]
            for each in (store, other)
        ]
    assert shown[0] == shown[1]


# --- turns ---------------------------------------------------------------------------------------
BLOCKS = [
    ({"type": "thinking", "thinking": "hm", "signature": "s"}, "agent.thinking", {"text": "hm", "signature": "s"}),
    ({"type": "text", "text": "t"}, "agent.message", {"content": [{"type": "text", "text": "t"}]}),
    ("plain", "agent.message", {"content": "plain"}),
    ({"type": "thinking", "thinking": "hm"}, "agent.thinking", {"text": "hm"}),
    ({"type": "redacted_thinking", "data": "Zm9v"}, "agent.thinking", {"encrypted": "Zm9v", "provider": "anthropic"}),
    (
        {"type": "tool_use", "id": "1", "name": "n", "input": [1]},
        "agent.tool_use",
        {"id": "1", "name": "n", "input": [1]},
    ),
    (
        {"type": "server_tool_use", "id": "1", "name": "web", "input": {}},
        "agent.tool_use",
        {"id": "1", "name": "web", "input": {}, "kind": "server"},
    ),
    (
        {"type": "mcp_tool_use", "id": "1", "name": "m", "input": None, "server_name": "x"},
        "agent.tool_use",
        {"id": "1", "name": "m", "input": None, "kind": "mcp"},
    ),
    (
        {"type": "image", "source": {"type": "url"}},
        "agent.message",
        {"content": [{"type": "image", "source": {"type": "url"}}]},
    ),
]


@pytest.mark.parametrize(("block", "kind", "data"), BLOCKS, ids=[str(index) for index in range(len(BLOCKS))])
def test_a_block_of_a_turn_becomes_its_standard_event_with_the_turn_s_id(store, tmp_path, block, kind, data):
    path = write(tmp_path / "s.jsonl", entry("u", [block], "assistant", message={"id": "msg_1", "model": "m"}))
    run(store, path)
    (event,) = store.session("s").slice()
    turn = {} if kind == "agent.tool_result" else {"message_id": "msg_1"}
    assert (event.type, event.data) == (kind, data | turn)
    assert (event.actor, event.metadata["model"]) == ("claude-code", "m")


def test_parts_of_an_item_are_numbered_share_its_time_and_only_the_first_keeps_the_item(store, tmp_path):
    blocks = [{"type": "text", "text": str(number)} for number in range(3)]
    run(store, write(tmp_path / "s.jsonl", entry("u", blocks, "assistant", message={"model": "m"})))
    first, *others = store.session("s").slice()
    assert first.metadata["native"]["format"] == "claude-code"
    assert [event.metadata for event in others] == [{"part": [1, 3]}, {"part": [2, 3]}]
    assert [event.key for event in (first, *others)] == ["claude-code:u", "claude-code:u:1", "claude-code:u:2"]
    assert {event.occurred_at for event in (first, *others)} == {datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)}


@pytest.mark.parametrize(
    ("failed", "outcome"), [(True, "error"), (False, "ok"), (None, None), ("yes", None), (..., None)], ids=str
)
def test_a_result_says_whether_it_failed_only_where_the_source_does(store, tmp_path, failed, outcome):
    block = {"type": "tool_result", "tool_use_id": "1", "content": "c"} | (
        {} if failed is ... else {"is_error": failed}
    )
    run(store, write(tmp_path / "s.jsonl", entry("u", [block, {"type": "text", "text": "and"}])))
    result, message = store.session("s").slice()
    assert (result.type, result.outcome) == ("agent.tool_result", outcome)
    assert result.data.get("is_error") is (failed if isinstance(failed, bool) else None)
    assert message.data == {"content": [{"type": "text", "text": "and"}]}


USAGES = [
    ({"input_tokens": 5}, {"input_tokens": 5}),
    ({"input_tokens": 5, "cache_read_input_tokens": 7}, {"input_tokens": 12, "cache_read_input_tokens": 7}),
    ({"output_tokens": 3, "service_tier": "standard"}, {"output_tokens": 3}),
    ({"input_tokens": "5", "output_tokens": True, "cache_read_input_tokens": None}, None),
    ({}, None),
    ([1], None),
    ("many", None),
]


@pytest.mark.parametrize(("usage", "counted"), USAGES, ids=[str(index) for index in range(len(USAGES))])
def test_usage_is_counted_the_standard_way_with_what_came_from_the_cache(store, tmp_path, usage, counted):
    run(store, write(tmp_path / "s.jsonl", entry("u", [{"type": "text"}], "assistant", message={"usage": usage})))
    (event,) = store.session("s").slice()
    assert event.metadata.get("usage") == counted
    assert event.metadata["native"]["item"]["message"]["usage"] == usage


def test_an_error_of_the_api_is_an_error(store, tmp_path):
    failed = entry("u", [{"type": "text", "text": "API Error: 529"}], "assistant", isApiErrorMessage=True)
    run(store, write(tmp_path / "s.jsonl", failed))
    (event,) = store.session("s").slice()
    assert (event.type, event.data) == ("error", {"message": "API Error: 529", "kind": "api"})


TITLES = [
    ([entry("a", "Mend\n it.\u0007")], "Mend it."),
    ([entry("a", "<command-name>/clear</command-name>"), entry("b", "Really")], "Really"),
    ([entry("a", "meta", isMeta=True), entry("b", [{"type": "text", "text": "Said"}])], "Said"),
    ([entry("a", "said"), {"type": "ai-title", "aiTitle": "Given"}], "Given"),
    ([{"type": "custom-title", "customTitle": "Chosen"}, entry("a", "said")], "Chosen"),
    ([{"type": "mode"}], None),
    ([entry("a", "word " * 500)], ("word " * 24).strip()),
]


@pytest.mark.parametrize(("entries", "title"), TITLES, ids=[str(index) for index in range(len(TITLES))])
def test_a_session_is_called_what_claude_code_calls_it_or_what_the_user_said_first(store, tmp_path, entries, title):
    run(store, write(tmp_path / "s.jsonl", *entries))
    assert store.session("s").info().title == title


# --- odd but valid entries -----------------------------------------------------------------------
ODD = [None, "", "x", "\x00", 0, -1, True, 1.5, 2**64 - 1, [], {}, [None], [[]], {"a": {}}]
ODD_BLOCKS = [
    *({"type": kind} for kind in (None, "", 7, "text", "thinking", "redacted_thinking", "tool_use", "tool_result")),
    *({"type": "text", "text": odd} for odd in ODD),
    *({"type": "thinking", "thinking": odd, "signature": odd} for odd in ODD),
    *({"type": "redacted_thinking", "data": odd} for odd in ODD),
    *({"type": "tool_use", "id": odd, "name": "n", "input": odd} for odd in ODD),
    *({"type": "mcp_tool_use", "id": "i", "name": odd, "input": odd} for odd in ODD),
    *({"type": "tool_result", "tool_use_id": odd, "content": odd} for odd in ODD),
    *({"type": "web_search_tool_result", "tool_use_id": "t", "content": odd, "is_error": odd} for odd in ODD),
]


def odd_entries():
    kinds = ("user", "assistant", "system", "summary")
    for index, (kind, content) in enumerate(product(kinds, [*ODD, *([block] for block in ODD_BLOCKS)])):
        yield entry(f"c{index}", content, kind, message={"id": f"m{index}", "model": "m"})
    for index, (name, odd) in enumerate(product(("message", "timestamp", "cwd", "agentId", "parentUuid"), ODD)):
        yield entry(f"e{index}", "x") | {name: odd}
    for index, (name, odd) in enumerate(product(("id", "model", "usage", "role"), ODD)):
        yield entry(f"m{index}", [{"type": "text", "text": "x"}], "assistant", message={name: odd})
    for index, odd in enumerate(ODD):
        yield entry(f"a{index}", odd, "assistant", isApiErrorMessage=True)
        yield entry(f"u{index}", odd) | {"uuid": odd, "place": index}
        yield {"type": "summary", "summary": odd, "leafUuid": odd}


def test_every_odd_but_valid_entry_becomes_events_of_a_valid_shape_and_comes_back(store, tmp_path):
    entries = list(odd_entries())
    (imported,) = run(store, write(tmp_path / "s.jsonl", *entries))
    session = store.session("s")
    assert [json.dumps(item) for item in originals(session)] == [json.dumps(each) for each in entries]
    assert "x.claude_code.refused" not in types_of(session)
    assert imported.problem_count == 0
    for event in session.events():
        check_standard(event.type, event.data)
    assert run(store, tmp_path / "s.jsonl")[0].events == 0


@pytest.mark.parametrize("kind", [None, 7, True, "", "brand-new", "Ünïcode", "a" * 300, "x.y"], ids=repr)
def test_an_entry_of_an_unknown_type_is_kept_and_reported_with_file_and_line(store, tmp_path, kind):
    source = [entry("a", "1"), {"type": kind, "uuid": "odd", "n": 1}, entry("b", "2")]
    path = write(tmp_path / "s.jsonl", *source)
    (imported,) = run(store, path)
    (problem,) = imported.problems
    assert (problem.path, problem.line) == (str(path), 2)
    assert "not known" in problem.reason
    assert str(problem).startswith(f"{path}:2: ")
    assert list(originals(store.session("s"))) == source
    assert types_of(store.session("s"))[1].startswith("x.claude_code.")


@pytest.mark.parametrize("kind", [[], {}], ids=repr)
def test_an_entry_whose_type_is_no_text_is_kept_and_stops_nothing(store, tmp_path, kind):
    source = [entry("a", "1"), {"type": kind}, entry("b", "2")]
    (imported,) = run(store, write(tmp_path / "s.jsonl", *source))
    assert [problem.line for problem in imported.problems] == [2]
    assert list(originals(store.session("s"))) == source


# --- keys ----------------------------------------------------------------------------------------
def test_entries_without_an_id_are_told_apart_by_their_lines(store, tmp_path):
    same = {"type": "file-history-snapshot", "messageId": "x"}
    path = write(tmp_path / "s.jsonl", same, entry("a", "1"), same)
    run(store, path)
    assert list(originals(store.session("s"))) == [same, entry("a", "1"), same]
    assert run(store, path)[0].events == 0


def test_the_same_entry_twice_is_one_and_another_of_its_id_is_kept_beside_it(store, tmp_path):
    source = [entry("a", "1"), entry("a", "1"), entry("a", "other"), entry("b", "2")]
    path = write(tmp_path / "s.jsonl", *source)
    (imported,) = run(store, path)
    assert (imported.events, imported.known) == (3, 1)
    assert list(originals(store.session("s"))) == [source[0], *source[2:]]
    assert [result.events for result in run(store, path)] == [0]


def test_ids_that_look_like_the_parts_of_others_lose_nothing(store, tmp_path):
    two = [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]
    source = [
        entry("a", two, "assistant"),
        entry("a:1", "late"),
        entry("b:1", "early"),
        entry("b", two, "assistant"),
        entry("ж" * 300, "long"),
        entry("n\x00ul", "nul"),
    ]
    path = write(tmp_path / "s.jsonl", *source)
    run(store, path)
    assert list(originals(store.session("s"))) == source
    assert run(store, path)[0].events == 0


def test_another_entry_of_a_known_id_is_kept_also_after_a_rewind(store, tmp_path):
    path = write(tmp_path / "s.jsonl", entry("a", "1"), entry("b", "2"))
    run(store, path)
    store.session("s").rewind(1)
    write(path, entry("a", "1"), entry("b", "2"), entry("a", "other"))
    assert run(store, path)[0].events == 1
    assert list(originals(store.session("s")))[-1] == entry("a", "other")


def made_by_another_version(store, first, **older):
    """Make the session of a file whose first line is `first`, with an entry of id `u` as another version would."""
    identity = sha256(json.dumps(first).encode()).hexdigest()[:32]
    session = store.create("s", labels={"source": "claude-code"}, metadata={"source": identity})
    session.append("note", {"content": "as it was then"}, key="claude-code:u", **older)


def test_what_another_version_made_of_an_entry_is_left_as_it_is(store, tmp_path):
    first, second = entry("a", "1"), entry("u", "2")
    made_by_another_version(store, first, metadata={"native": {"format": "claude-code", "item": second}})
    (imported,) = run(store, write(tmp_path / "s.jsonl", first, second))
    assert (imported.events, imported.known) == (1, 1)


def test_what_another_version_made_of_a_mended_line_is_left_as_it_is(store, tmp_path):
    first, second = entry("a", "1"), b'{"uuid": "u", "type": "user", "n": 1, "n": 2, "message": {"content": "x"}}'
    native = {"format": "claude-code", "attachment": "native.json"}
    made_by_another_version(store, first, metadata={"native": native}, attachments={"native.json": second})
    (imported,) = run(store, write(tmp_path / "s.jsonl", first, second))
    assert (imported.events, imported.known) == (1, 1)


# --- sub-agents ----------------------------------------------------------------------------------
def result_of(uuid, use, agent, **more):
    block = {"type": "tool_result", "tool_use_id": use, "content": more.pop("content", "done")}
    return entry(uuid, [block], toolUseResult={"agentId": agent, "status": "completed"}, **more)


def side(uuid, content, agent=None, **more):
    return entry(uuid, content, isSidechain=True, **({} if agent is None else {"agentId": agent}), **more)


MAIN = [
    entry("u1", "Help."),
    entry("u2", [task("t1", "Look here."), task("t2", "Look here.")], "assistant"),
    result_of("u3", "t1", "aa"),
    result_of("u4", "t2", "bb"),
]


@pytest.mark.parametrize("place", ["agent-{}.jsonl", "s/subagents/agent-{}.jsonl"])
def test_files_of_sub_agents_become_sessions_made_for_the_tool_use_whose_result_names_them(store, tmp_path, place):
    write(tmp_path / "s.jsonl", *MAIN)
    for agent in ("aa", "bb"):
        write(tmp_path / place.format(agent), side(f"{agent}1", "Look here.", agent))
    results = run(store, tmp_path)
    assert [result.sessions for result in results] == [("s",), ("s/agent-aa",), ("s/agent-bb",)]
    assert [parent_use(store, f"s/agent-{agent}") for agent in ("aa", "bb")] == ["t1", "t2"]
    assert store.session("s/agent-aa").info().title == "Look here."
    assert store.session("s").info().parent is None
    assert [result.events for result in run(store, tmp_path)] == [0, 0, 0]


def test_inline_side_chains_become_sessions_by_agent_or_by_where_they_began(store, tmp_path):
    chains = [
        side("x1", "Look here.", "aa", parentUuid=None),
        side("y1", "Look there.", parentUuid=None),
        side("z1", "And there.", parentUuid=None),
        side("y2", [{"type": "text", "text": "I do."}], parentUuid="y1") | {"type": "assistant"},
        side("z2", "More", parentUuid="z1"),
        side("x2", "Done.", "aa", parentUuid="x1"),
    ]
    source = [*MAIN, entry("u5", [task("t3", "Look there.")], "assistant"), *chains, entry("u6", "Thanks.")]
    path = write(tmp_path / "s.jsonl", *source)
    (imported,) = run(store, path)
    assert imported.sessions == ("s", "s/agent-aa", "s/side-y1", "s/side-z1")
    assert list(originals(store.session("s"))) == [*MAIN, source[4], source[-1]]
    assert list(originals(store.session("s/agent-aa"))) == [chains[0], chains[5]]
    assert list(originals(store.session("s/side-y1"))) == [chains[1], chains[3]]
    assert list(originals(store.session("s/side-z1"))) == [chains[2], chains[4]]
    assert [parent_use(store, f"s/{name}") for name in ("agent-aa", "side-y1", "side-z1")] == ["t1", "t3", None]
    assert run(store, path)[0].events == 0


def test_the_actor_of_a_sub_agent_is_told_from_the_main_one(store, tmp_path):
    turn = side("x1", [{"type": "text", "text": "I do."}], "aa") | {"type": "assistant"}
    odd = side("x2", [{"type": "text", "text": "I do."}], "a b\n") | {"type": "assistant"}
    write(tmp_path / "s.jsonl", *MAIN)
    write(tmp_path / "agent-aa.jsonl", turn)
    run(store, tmp_path, write(tmp_path / "o" / "o.jsonl", entry("q", "x"), odd))
    assert [event.actor for event in store.session("s/agent-aa")] == ["claude-code/aa"]
    assert {event.actor for event in uses_of(store, "s")} == {"claude-code"}
    assert [event.actor for event in store.session("o/side-x2")] == ["claude-code"]


def test_a_sub_agent_whose_session_is_not_there_is_imported_without_a_parent(store, tmp_path):
    run(store, write(tmp_path / "agent-aa.jsonl", side("x1", "Look here.", "aa")))
    assert store.session("s/agent-aa").info().parent is None
    nameless = write(tmp_path / "agent-cc.jsonl", {"type": "user", "message": {"content": "x"}})
    assert run(store, nameless)[0].sessions == ("agent-cc",)


def test_sub_agents_are_told_apart_in_a_session_that_was_rewound_meanwhile(store, tmp_path):
    write(tmp_path / "s.jsonl", *MAIN)
    for agent in ("aa", "bb"):
        write(tmp_path / f"agent-{agent}.jsonl", side(f"{agent}1", "Look here.", agent))
    results = import_paths(store, "claude-code", [tmp_path])
    assert [next(results).events, next(results).events] == [5, 1]
    store.session("s").rewind(1)
    assert next(results).sessions == ("s/agent-bb",)


def test_agents_whose_prompts_begin_alike_are_made_for_the_uses_that_started_them(store, tmp_path):
    one, other = ("You are a careful reader of code. " * 5 + end for end in ("Read a.py.", "Read b.py."))
    write(tmp_path / "s.jsonl", entry("u1", "Help."), entry("u2", [task("t1", one), task("t2", other)], "assistant"))
    write(tmp_path / "agent-aa.jsonl", side("x1", one, "aa"))
    write(tmp_path / "agent-bb.jsonl", side("y1", other, "bb"))
    run(store, tmp_path)
    assert [parent_use(store, f"s/agent-{agent}") for agent in ("aa", "bb")] == ["t1", "t2"]


def test_a_long_result_still_names_the_agent_that_its_use_started(store, tmp_path):
    write(tmp_path / "s.jsonl", *MAIN[:2], result_of("u3", "t1", "aa", content="long " * 250_000))
    write(tmp_path / "agent-aa.jsonl", side("x1", "Look here.", "aa"))
    run(store, tmp_path)
    assert parent_use(store, "s/agent-aa") == "t1"


def test_the_main_session_is_named_first_also_where_a_side_chain_comes_first(store, tmp_path):
    (imported,) = run(store, write(tmp_path / "s.jsonl", side("x1", "Look here.", "aa"), *MAIN))
    assert imported.sessions == ("s", "s/agent-aa")


# --- where they are ------------------------------------------------------------------------------
def test_without_a_path_the_user_s_own_folder_is_imported(store, tmp_path, monkeypatch):
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path))
    write(tmp_path / "projects" / "-w-one" / "s.jsonl", entry("a", "1"))
    write(tmp_path / "projects" / "-w-two" / "agent-aa.jsonl", side("x1", "Look here.", "aa"))
    write(tmp_path / "history.jsonl", entry("h", "elsewhere"))
    assert [result.sessions for result in run(store)] == [("s",), ("s/agent-aa",)]
