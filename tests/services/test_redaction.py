"""Redaction through every verb of a store: nothing of a secret reaches what lasts, and everything else works as before."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import everlog
from core.secrets_made import TOKENS, drawn
from databases import address
from everlog import NewEvent, SecretRule
from everlog.errors import (
    DivergenceError,
    InvalidEventError,
    InvalidQueryError,
    KeyReusedError,
    LimitError,
    NotFoundError,
    SecretError,
    StepFailedError,
    UnsupportedStoreError,
)
from everlog.redaction import MARKS, find_secrets

DEADLINE_SECONDS = 60
TOKEN = TOKENS["github-token"](drawn(1))
PASSWORD = "cargo-" + "PLANE481"


def traces(folder: Path, *secrets: str):
    """Give the files below a folder that hold a secret."""
    return [
        file.name
        for file in folder.rglob("*")
        if file.is_file()
        for each in secrets
        if each.encode() in file.read_bytes()
    ]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request, tmp_path):
    with everlog.open(address(request.param, tmp_path), redact="redact") as opened:
        yield opened


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.db"


def mark_of(session):
    session.append("note", {"content": TOKEN})
    return session[-1].data["content"]


def test_by_default_nothing_is_looked_for(tmp_path):
    with everlog.open("memory:") as plain:
        assert plain.create("s").append("note", {"content": TOKEN}).data["content"] == TOKEN


def test_every_verb_redacts_and_says_so(store):
    session = store.create(
        "s", title=f"see {TOKEN}", metadata={"m": TOKEN}, events=[NewEvent("note", {"content": TOKEN})]
    )
    mark = session[0].data["content"]
    assert mark.startswith("[redacted:github-token:")
    assert (session.info().title, session.info().metadata) == (f"see {mark}", {"m": mark})
    session.extend([NewEvent("note", {"content": TOKEN}), NewEvent("note", {"content": "x"}, rationale=TOKEN)])
    session.append("state.set", {"path": "/a", "value": TOKEN}, state="document")
    assert session.state("document").value == {"a": mark}
    session.checkpoint("here", data={"token": TOKEN})
    session.signal("go", TOKEN)
    fork = session.fork(1, id="f", title=TOKEN, reason=f"for {TOKEN}", events=[NewEvent("note", {"content": TOKEN})])
    assert fork.info().title == mark
    session.rewind(2, reason=f"as {TOKEN}", events=[NewEvent("note", {"content": TOKEN})])
    session.update(title=f"now {TOKEN}", metadata={"x": [TOKEN]})
    assert (session.info().title, session.info().metadata) == (f"now {mark}", {"x": [mark]})
    session.merge(fork, events="type:note", reason=TOKEN)
    for line in (*session.branches(), *fork.branches()):
        for event in line:
            assert TOKEN not in event.raw.decode()
            if event.raw.decode().find(mark) >= 0:
                assert event.metadata["redacted"][0]["rule"] == "github-token"
    store.verify().raise_for_faults()


def test_equal_secrets_have_equal_marks_in_all_of_a_store_and_others_in_another(store):
    marks = {mark_of(store.create(name)) for name in ("a", "b")}
    assert len(marks) == 1
    with everlog.open("memory:", redact="redact") as other:
        assert mark_of(other.create("a")) not in marks


def test_marks_are_the_same_in_another_process_and_in_a_copy(path):
    with everlog.open(path, redact="redact") as store:
        mark = mark_of(store.create("a"))
    code = (
        "import sys, everlog; s = everlog.open(sys.argv[1], redact='redact').create('b'); "
        "print(s.append('note', {'content': sys.argv[2]}).data['content'])"
    )
    words = [sys.executable, "-c", code, str(path), TOKEN]
    assert subprocess.check_output(words, text=True, timeout=DEADLINE_SECONDS).strip() == mark
    with everlog.open(path) as store, everlog.open("memory:", redact="redact") as target:
        store.copy(target)
        assert mark_of(target.create("c")) == mark


def test_nothing_of_a_secret_is_in_any_file(path, tmp_path):
    with everlog.open(path, redact="redact") as store:
        session = store.create("s", title=TOKEN, metadata={"m": TOKEN})
        for number in range(50):
            session.append(
                "note", {"content": f"{number} {TOKEN}", "password": PASSWORD}, attachments={"a.txt": TOKEN.encode()}
            )
        session.summarize(leaf_tokens=100)
        session.state("messages")
        session.erase([3], reason=f"held {TOKEN}")
        store.create("gone")
        store.delete("gone", reason=f"held {TOKEN}")
        with pytest.raises(SecretError):
            session.append("note", {"content": ""}, key=TOKEN)
        assert not traces(tmp_path, TOKEN, PASSWORD)
        store.compact(older_than=0)
        session.export(tmp_path / "s.everlog")
    assert not traces(tmp_path, TOKEN, PASSWORD)


def test_a_bundle_does_not_hold_the_key_of_marks(path, tmp_path):
    with everlog.open(path, redact="redact") as store:
        mark_of(session := store.create("s"))
        key = store.storage.session(MARKS).family.key_salt
        session.export(tmp_path / "s.everlog")
        bundle = (tmp_path / "s.everlog").read_bytes()
        assert key not in bundle
        assert key.hex().encode() not in bundle


def test_where_nothing_is_found_no_key_is_made(store):
    store.create("s").append("note", {"content": "none"})
    assert [info.id for info in store.sessions()] == ["s"]


@pytest.mark.parametrize(
    "act",
    [
        lambda session, _: session.append("note", {"content": TOKEN}),
        lambda session, _: session.extend([NewEvent("note", {"content": "x"}), NewEvent("note", {"content": TOKEN})]),
        lambda session, _: session.update(title=TOKEN),
        lambda session, _: session.update(metadata={"x": TOKEN}),
        lambda session, _: session.rewind(0, reason=TOKEN),
        lambda session, _: session.fork(0, title=TOKEN),
        lambda session, _: session.erase([0], reason=TOKEN),
        lambda session, _: session.signal("go", TOKEN),
        lambda _, store: store.create("new", metadata={"x": TOKEN}),
        lambda _, store: store.create("new", events=[NewEvent("note", {"content": TOKEN})]),
        lambda _, store: store.delete("s", reason=TOKEN),
    ],
)
def test_where_secrets_are_rejected_nothing_is_written(store, act):
    store = store.redacting("reject")
    session = store.create("s", events=[NewEvent("note", {"content": "x"})])
    ledger = len(store.storage.ledger(0, 100))
    with pytest.raises(SecretError, match="nothing was written") as refused:
        act(session, store)
    assert TOKEN not in str(refused.value)
    assert refused.value.findings
    assert session.refresh().size == 1
    assert [info.id for info in store.sessions()] == ["s"]
    assert len(store.storage.ledger(0, 100)) == ledger


@pytest.mark.parametrize("mode", ["redact", "reject"])
@pytest.mark.parametrize(
    "act",
    [
        lambda session, _: session.append("note", {"content": ""}, key=TOKEN),
        lambda session, _: session.update(labels={"a": TOKEN}),
        lambda session, _: session.update(labels={TOKEN: "a"}),
        lambda session, _: session.checkpoint(TOKEN),
        lambda session, _: session.signal(TOKEN),
        lambda session, _: session.lease(TOKEN),
        lambda session, _: session.run().step(TOKEN, int),
        lambda _, store: store.create(TOKEN),
        lambda _, store: store.create("new", labels={"a": TOKEN}),
    ],
)
def test_names_that_hold_a_secret_are_refused_in_either_mode(store, mode, act):
    store = store.redacting(mode)
    session = store.create("s")
    with pytest.raises(SecretError, match="it names something") as refused:
        act(session, store)
    assert TOKEN not in str(refused.value)
    assert session.refresh().size == 0


def test_a_repeated_key_is_compared_after_redaction(store):
    session = store.create("s")
    first = session.append("note", {"content": TOKEN}, key="k")
    again = session.append("note", {"content": TOKEN}, key="k")
    assert again.repeated
    assert again == first
    with pytest.raises(KeyReusedError) as refused:
        session.append("note", {"content": f"other {TOKEN}"}, key="k")
    assert TOKEN not in str(refused.value)


# --- runs ----------------------------------------------------------------------------------------
def test_a_step_gives_the_first_time_what_it_gives_again(store):
    session = store.create("s")
    given = session.run().step("login", lambda who: f"{who} {TOKEN}", TOKEN)
    assert TOKEN not in given
    assert session.run().step("login", lambda who: 1 / 0, TOKEN) == given
    with pytest.raises(DivergenceError) as refused:
        session.run().step("login", str, f"other {TOKEN}")
    assert TOKEN not in str(refused.value)


def test_a_run_that_was_recorded_without_redaction_goes_on_with_it(store):
    plain = store.redacting("off").create("s")
    plain.run().step("login", str, TOKEN)
    assert store.session("s").run().step("login", lambda _: 1 / 0, TOKEN) == TOKEN


def test_what_a_step_raises_is_recorded_without_its_secret(store):
    def fail():
        raise ValueError(f"bad {TOKEN} {' ' * 4_040}{TOKEN}")  # the second is cut by the limit of what is recorded

    for mode, name in (("redact", "a"), ("reject", "b")):
        session = store.redacting(mode).create(name)
        with pytest.raises(ValueError, match="bad"):
            session.run().step("x", fail)
        with pytest.raises(StepFailedError) as refused:
            session.run().step("x", fail)
        assert TOKEN not in str(refused.value)
        assert all(TOKEN[:12] not in event.raw.decode() for event in session)


def test_where_secrets_are_rejected_a_result_with_one_fails_its_step_and_says_that_it_took_effect(store):
    session = store.redacting("reject").create("s")
    with pytest.raises(InvalidEventError, match="it took effect") as refused:
        session.run().step("login", lambda: TOKEN)
    assert TOKEN not in str(refused.value)
    assert all(TOKEN not in event.raw.decode() for event in session)
    calls = []
    with pytest.raises(SecretError):
        session.run("other").step("login", calls.append, TOKEN)
    assert calls == [], "the start could not be recorded"


# --- settings ------------------------------------------------------------------------------------
def test_settings_come_from_the_environment_and_arguments_come_first(tmp_path, monkeypatch):
    rules = tmp_path / "own.toml"
    rules.write_text('[[rule]]\nid = "acme"\npattern = "acme-[0-9]{6}"\n')
    monkeypatch.setenv("EVERLOG_REDACT", "redact")
    monkeypatch.setenv("EVERLOG_REDACT_RULES", str(rules))
    with everlog.open("memory:") as store:
        assert (
            store.create("s").append("note", {"content": "acme-123456"}).data["content"].startswith("[redacted:acme:")
        )
    with everlog.open("memory:", redact="off") as store:
        assert store.create("s").append("note", {"content": "acme-123456"}).data["content"] == "acme-123456"
    with everlog.open("memory:", redact="reject", redact_rules=[SecretRule("other", "xyz+")]) as store:
        store.create("s").append("note", {"content": "acme-123456"})
        with pytest.raises(SecretError, match="'other'"):
            store.session("s").append("note", {"content": "xyzz"})
    monkeypatch.setenv("EVERLOG_REDACT", "sometimes")
    with pytest.raises(UnsupportedStoreError, match="none of redact reject off"):
        everlog.open("memory:")


def test_rules_are_read_from_toml_and_json(tmp_path):
    (tmp_path / "a.toml").write_text('[[rule]]\nid = "a"\npattern = "q([0-9a-z]{10,})"\nentropy = 2.0\nnamed = false\n')
    (tmp_path / "a.json").write_text(json.dumps({"rule": [{"id": "a", "pattern": "q([0-9a-z]{10,})", "entropy": 2.0}]}))
    for name in ("a.toml", "a.json"):
        with everlog.open("memory:", redact="redact", redact_rules=tmp_path / name) as store:
            session = store.create("s")
            assert session.append("note", {"content": "q1a2b3c4d5e6"}).data["content"].startswith("q[redacted:a:")
            assert session.append("note", {"content": "qaaaaaaaaaaaa"}).data["content"] == "qaaaaaaaaaaaa"


@pytest.mark.parametrize(
    ("name", "text", "error", "says"),
    [
        ("a.toml", "[[rule]]\nid=", InvalidQueryError, "holds no rules"),
        ("a.toml", '[[rule]]\nid = "a"\n', InvalidQueryError, "pattern"),
        ("a.toml", '[[rule]]\nid = "a"\npattern = "a"\nmore = 1\n', InvalidQueryError, "more"),
        ("a.json", "{", InvalidQueryError, "holds no rules"),
        ("a.json", '{"rule": [{"id": "a", "pattern": "(a"}]}', InvalidQueryError, "RE2"),
        ("a.toml", "#" * 300_000, LimitError, "larger than"),
        ("absent.toml", None, NotFoundError, "cannot be read"),
    ],
)
def test_rules_that_cannot_be_read_are_refused_before_anything_is_opened(tmp_path, path, name, text, error, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=says) as refused:
        everlog.open(path, redact="redact", redact_rules=tmp_path / name)
    assert "no rule is in force" in str(refused.value)
    assert not path.exists()


def test_what_is_recorded_already_can_be_looked_for(store):
    plain = store.redacting("off").create("s")
    event = plain.append(
        "note", {"content": f"x {TOKEN}"}, attachments={"a.txt": TOKEN.encode()}, metadata={"m": TOKEN}
    )
    found = find_secrets(store.settings.redactor, event)
    assert [(each.path, each.start) for each in found] == [
        ("data/content", 2),
        ("metadata/m", 0),
        ("attachment 'a.txt'", 0),
    ]
    plain.erase([0], reason="held a secret")
    assert find_secrets(store.settings.redactor, plain[0]) == []


async def _async_round(path):
    async with await everlog.open_async(path, redact="redact") as store:
        session = await store.create("s")
        first = await session.append("note", {"content": TOKEN})
        run = await session.run()
        given = await run.step("login", lambda who: who, TOKEN)
        rejecting = await store.redacting("reject")
        with pytest.raises(SecretError):
            await (await rejecting.session("s")).append("note", {"content": TOKEN})
        return first.data["content"], given


def test_the_async_face_redacts_and_has_its_key_before_it_is_needed(path):
    import asyncio

    first, given = asyncio.run(_async_round(path))
    assert first == given
    assert first.startswith("[redacted:github-token:")


def test_many_processes_that_find_the_first_secret_at_once_agree_on_its_mark(path):
    everlog.open(path).close()
    code = (
        "import sys, everlog; s = everlog.open(sys.argv[1], redact='redact').create(); "
        "print(s.append('note', {'content': sys.argv[2]}).data['content'])"
    )
    words = [sys.executable, "-c", code, str(path), TOKEN]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) for _ in range(4)]
    marks = {process.communicate(timeout=DEADLINE_SECONDS)[0] for process in running}
    assert len(marks) == 1
    assert marks.pop().startswith("[redacted:github-token:")
