"""Importing transcripts that hold secrets: none is recorded, nothing that stands for one either, and again adds nothing."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

import everlog
from core.secrets_made import TOKENS, drawn
from databases import address
from everlog.importers import Failure, follow_paths, import_paths, originals

TOKEN = TOKENS["github-token"](drawn(1))
PASSWORD = "postgresql://app:" + "hunter2x" + "@db/app"


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    with everlog.open(address(request.param, tmp_path / "store")) as opened:
        yield opened


def run(store, *paths, format="claude-code", **options):
    results = list(import_paths(store, format, paths, **options))
    assert not [result for result in results if isinstance(result, Failure)], results
    return results


def counts(results):
    return sum(each.events for each in results), sum(each.known for each in results)


def lines(path, *values):
    path.write_bytes(
        b"".join(value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n" for value in values)
    )
    return path


def claude(number, text):
    return {"uuid": f"u{number}", "type": "user", "message": {"role": "user", "content": text}, "token": TOKEN}


def codex(text):
    payload = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    return {"timestamp": "2026-01-01T00:00:00Z", "type": "response_item", "payload": payload}


SOURCES = {
    "claude-code": lambda path: lines(
        path,
        claude(1, f"use {TOKEN}"),
        {"type": "summary", "summary": PASSWORD},
        b"{torn " + TOKEN.encode() + b"\xff\n",
    ),
    "codex": lambda path: lines(path, codex(f"use {TOKEN}"), codex(PASSWORD), codex("nothing")),
    "jsonl": lambda path: lines(
        path, {"type": "user.message", "data": {"content": PASSWORD}}, {"type": "note", "data": {"content": "x"}}
    ),
    "openai": lambda path: lines(
        path, {"messages": [{"role": "user", "content": PASSWORD}, {"role": "assistant", "content": TOKEN}], "x": TOKEN}
    ),
}


def everything(store):
    """Give all that is recorded, as text."""
    said: list[str] = []
    for info in store.sessions(limit=1_000):
        said += [info.id, str(info.title), json.dumps(info.labels), json.dumps(info.metadata)]
        for event in store.session(info.id):
            said += [event.raw.decode(), str(event.key), str(event.actor)]
            said += [event.attachment(each.name).decode("latin-1") for each in event.attachments]
    return "\n".join(said)


def hashes(path):
    """Give the hashes by which whoever knows the rest of a line could try out what was in it."""
    return [sha256(line).hexdigest()[:16] for line in Path(path).read_bytes().splitlines()]


@pytest.mark.parametrize("format", SOURCES)
def test_importers_redact_by_default_and_again_adds_nothing(store, tmp_path, format):
    path = SOURCES[format](tmp_path / "rollout-s.jsonl")
    events, known = counts(run(store, path, format=format))
    assert events
    assert not known
    said = everything(store)
    assert TOKEN not in said
    assert "hunter2x" not in said
    assert "[redacted:" in said
    assert counts(run(store, path, format=format)) == (0, events)
    assert everything(store) == said
    store.verify().raise_for_faults()


@pytest.mark.parametrize("format", ["claude-code", "codex", "jsonl"])
def test_no_hash_of_a_line_that_held_a_secret_is_recorded(store, tmp_path, format):
    path = SOURCES[format](tmp_path / "rollout-s.jsonl")
    run(store, path, format=format)
    said = everything(store)
    secret = [
        each for each, line in zip(hashes(path), path.read_bytes().splitlines(), strict=True) if b"hunter2x" in line
    ]
    assert secret
    assert not [each for each in secret if each in said]


@pytest.mark.parametrize("format", SOURCES)
def test_what_was_imported_before_is_known_however_secrets_were_dealt_with(store, tmp_path, format):
    path = SOURCES[format](tmp_path / "rollout-s.jsonl")
    events, _ = counts(run(store, path, format=format, redact="off"))
    assert TOKEN in everything(store) or "hunter2x" in everything(store)
    assert counts(run(store, path, format=format)) == (0, events)


def test_with_new_rules_what_was_imported_is_known(tmp_path):
    path = lines(
        tmp_path / "s.jsonl", claude(1, "the word is swordfish-123"), {"type": "summary", "summary": "swordfish-123"}
    )
    url = str(tmp_path / "s.db")
    with everlog.open(url) as store:
        events, _ = counts(run(store, path))
    with everlog.open(url, redact_rules=[everlog.SecretRule("fish", "swordfish-[0-9]+")]) as store:
        assert counts(run(store, path)) == (0, events)
        other = lines(tmp_path / "t.jsonl", claude(1, "the word is swordfish-123"))
        run(store, other)
        assert "[redacted:fish:" in store.session("t")[0].data["content"]
    with everlog.open(url) as store:
        assert counts(run(store, path)) == (0, events)
        assert counts(run(store, other)) == (0, 1)


def test_where_secrets_are_rejected_what_holds_one_is_left_out_and_reported(store, tmp_path):
    path = lines(tmp_path / "s.jsonl", claude(1, f"use {TOKEN}"), {**claude(2, "nothing"), "token": None})
    (result,) = run(store, path, redact="reject")
    assert result.events == 1
    assert result.problem_count == 1
    assert result.problems[0].line == 1
    assert "is left out" in result.problems[0].reason
    assert "github-token" in result.problems[0].reason
    assert TOKEN not in str(result) + everything(store)
    assert counts(run(store, path)) == (1, 1), "redacted, it is taken"


def test_the_store_s_own_choice_counts_where_an_import_says_nothing(tmp_path):
    path = lines(tmp_path / "s.jsonl", claude(1, f"use {TOKEN}"))
    with everlog.open("memory:", redact="reject") as store:
        assert run(store, path)[0].problem_count == 1


def test_an_import_leaves_other_appends_to_the_store_as_they_were(store, tmp_path):
    run(store, lines(tmp_path / "s.jsonl", claude(1, TOKEN)))
    assert store.create("plain").append("note", {"content": TOKEN}).data["content"] == TOKEN


def test_what_is_followed_is_redacted_too(store, tmp_path):
    path = lines(tmp_path / "s.jsonl", claude(1, f"use {TOKEN}"))
    looks = iter([False, True])
    (result,) = follow_paths(store, "claude-code", [path], stop=lambda: next(looks))
    assert result.events == 1
    assert TOKEN not in everything(store)


def test_a_source_s_item_comes_back_with_marks(store, tmp_path):
    run(store, lines(tmp_path / "s.jsonl", claude(1, f"use {TOKEN}")))
    (item,) = originals(store.session("s"))
    assert item["uuid"] == "u1"
    assert item["message"]["content"].startswith("use [redacted:github-token:")


def test_an_id_that_holds_a_secret_is_hidden_and_still_known(store, tmp_path):
    path = lines(tmp_path / "s.jsonl", {**claude(1, "x"), "uuid": TOKEN})
    assert counts(run(store, path)) == (1, 0)
    assert TOKEN not in everything(store)
    assert counts(run(store, path)) == (0, 1)


def test_a_title_is_cut_after_its_secret_became_a_mark(store, tmp_path):
    text = "words " * 18 + TOKEN
    assert len(text[:120]) == 120 < len(text)
    run(store, lines(tmp_path / "s.jsonl", claude(1, text)))
    assert TOKEN[:12] not in everything(store)
    assert len(store.session("s").info().title) == 120


def test_an_entry_that_is_nested_too_deep_for_an_event_is_kept_without_its_secret(store, tmp_path):
    deep = TOKEN
    for _ in range(62):
        deep = [deep]
    path = lines(tmp_path / "s.jsonl", {**claude(1, "x"), "deep": deep}, claude(2, "y"))
    (result,) = run(store, path)
    assert (result.events, result.problem_count) == (2, 1)
    assert "is kept as it is" in result.problems[0].reason
    assert TOKEN not in everything(store)
    first, second = originals(store.session("s"))
    assert (first["uuid"], second["uuid"]) == ("u1", "u2")
    assert counts(run(store, path)) == (0, 2)


def test_a_problem_that_shows_a_secret_shows_its_mark(store, tmp_path):
    path = lines(tmp_path / "s.jsonl", {**codex("x"), "payload": {"type": TOKEN, "x": 1}})
    (result,) = run(store, path, format="codex")
    assert result.problem_count
    assert TOKEN not in str(result)
