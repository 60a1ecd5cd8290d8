"""`everlog secrets` and `everlog import --redact`, as a person and a check before a commit use them."""

import json

import pytest

import everlog
from core.secrets_made import TOKENS, drawn

TOKEN = TOKENS["github-token"](drawn(1))


@pytest.fixture
def transcript(tmp_path):
    file = tmp_path / "s.jsonl"
    file.write_text(
        json.dumps({"uuid": "u1", "type": "user", "message": {"role": "user", "content": f"use {TOKEN}"}}) + "\n"
    )
    return str(file)


def test_a_file_is_looked_through_and_what_is_found_is_never_shown(run, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(f"one\ntwo\x1b {TOKEN}\n")
    found = run("secrets", str(file), code=1).stdout
    assert found.endswith(f"a.txt:2  github-token  characters 9–{9 + len(TOKEN)}\n")
    assert TOKEN not in found
    assert run("secrets", "-", given="nothing").stdout == "no secrets were found\n"
    said = json.loads(run("secrets", "-", "--json", given=f"x {TOKEN}", code=1).stdout)
    assert said == {"place": "-:1", "rule": "github-token", "path": "characters", "start": 2, "stop": 2 + len(TOKEN)}


def test_one_s_own_rules_are_looked_for_too(run, tmp_path):
    rules = tmp_path / "own.toml"
    rules.write_text('[[rule]]\nid = "acme"\npattern = "acme-[0-9]+"\n')
    assert "acme" in run("secrets", "--rules", str(rules), "-", given="acme-12", code=1).stdout
    rules.write_text('[[rule]]\nid = "acme"\npattern = "(acme"\n')
    assert "none that RE2 takes" in run("secrets", "--rules", str(rules), "-", given="", code=2).stderr


def test_what_a_session_has_recorded_is_looked_through(run, path):
    with everlog.open(path) as store:
        session = store.create("run 42")
        session.append("note", {"content": "fine"})
        session.append("note", {"content": TOKEN}, rationale=f"as {TOKEN}")
    found = run("secrets", "--session", "run%2042", code=1).stdout.splitlines()
    assert [line.split("  ")[:2] for line in found] == [["run%2042@1", "github-token"]] * 2
    run("erase", "run%2042@1", "--reason", "held a token", "--yes")
    assert run("secrets", "--session", "run%2042").stdout == "no secrets were found\n"


def test_many_finds_are_counted(run):
    found = run("secrets", "-", given=f"{TOKEN}\n" * 300, code=1)
    assert len(found.stdout.splitlines()) == 200
    assert "and 100 more; in all: github-token 300" in found.stderr


def test_a_file_or_a_session_is_to_be_named(run):
    assert "give a file" in run("secrets", code=2).stderr


def test_an_import_redacts_unless_it_is_told_otherwise(run, path, transcript):
    run("import", "claude-code", transcript)
    assert "[redacted:github-token:" in run("log", "s").stdout
    assert run("secrets", "--session", "s").stdout == "no secrets were found\n"
    with everlog.open(path) as store:
        store.delete("s", reason="again")
    run("import", "claude-code", transcript, "--redact", "off")
    assert TOKEN in run("log", "s").stdout


def test_an_import_that_rejects_says_what_is_left_out(run, transcript):
    said = run("import", "claude-code", transcript, "--redact", "reject")
    assert "is left out" in said.stdout + said.stderr
    assert TOKEN not in said.stdout + said.stderr


def test_what_the_environment_says_counts_for_every_command(run, monkeypatch):
    monkeypatch.setenv("EVERLOG_REDACT", "redact")
    run("new", "s")
    run("append", "s", "note", json.dumps({"content": TOKEN}))
    assert TOKEN not in run("log", "s").stdout
    monkeypatch.setenv("EVERLOG_REDACT", "reject")
    refused = run("append", "s", "note", json.dumps({"content": TOKEN}), code=2).stderr
    assert "data/content holds what rule 'github-token' takes for a secret" in refused
    assert TOKEN not in refused
