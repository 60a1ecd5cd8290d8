"""Bundles on the command line: a session, a range, a subject's sessions, and the program that checks them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import everlog
from everlog import NewEvent


@pytest.fixture
def _sessions(path):
    with everlog.open(path) as store:
        labels = {"user": "u7"}
        session = store.create("s", labels=labels, events=[NewEvent("note", {"content": f"n{n}"}) for n in range(20)])
        session.rewind(10, reason="back")
        store.create("of nobody", events=[NewEvent("note", {"content": "x"})])
        store.create("t", labels=labels, events=[NewEvent("note", {"content": "x", "private": True})])


def check(program, bundle):
    words = [sys.executable, "-I", "-S", str(program), str(bundle), "--json"]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.usefixtures("_sessions")
def test_what_is_exported_is_checked_by_the_program_that_is_written_beside_it(run, tmp_path):
    program = tmp_path / "everlog_verify.py"
    run("export", "s", str(tmp_path / "s.everlog"))
    run("export", "s~b1", str(tmp_path / "range.everlog"), "--range", "12..15")
    assert "everlog_verify.py BUNDLE --key KEY" in run("verifier", str(program), store=None).stdout
    assert program.read_text() == run("verifier", store=None).stdout
    for name, events in (("s.everlog", 21), ("range.everlog", 3)):
        code, report = check(program, tmp_path / name)
        assert (code, report["counts"]["events"]) == (3, events)
    assert "can be checked and not taken in" in run("import", str(tmp_path / "range.everlog"), code=2).stderr


@pytest.mark.usefixtures("_sessions")
def test_all_of_a_subject_s_sessions_are_exported_into_a_folder(run, tmp_path):
    folder = tmp_path / "u7"
    told = run("export", "--subject", "label.user:u7", str(folder), "--withhold", "data.private:true").stdout
    assert "2 sessions written to" in told
    assert len(list(folder.iterdir())) == 2
    lines = run("export", "--subject", "label.user:u7", str(folder), "--json").stdout.splitlines()
    assert [json.loads(line)["session"] for line in lines] == ["s", "t"]
    run("import", *map(str, folder.iterdir()), store=str(tmp_path / "other.db"))
    assert "2 sessions" in run("verify", store=str(tmp_path / "other.db")).stdout


@pytest.mark.usefixtures("_sessions")
def test_a_range_that_is_given_no_name_does_not_take_the_place_of_the_whole(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("export", "s")
    whole = Path("s.everlog").read_bytes()
    assert "s@12..15.everlog: 3 events" in run("export", "s~b1", "--range", "12..15").stdout
    assert Path("s.everlog").read_bytes() == whole
    assert Path("s@12..15.everlog").exists()


@pytest.mark.usefixtures("_sessions")
@pytest.mark.parametrize(
    "words",
    [
        ("s~b1",),
        ("s@3",),
        ("s", "--range", "3"),
        ("s", "--range", "5..5"),
        ("s", "--range", "3..4", "--subject", "x"),
        ("--subject", "x"),
        (),
    ],
)
def test_what_names_no_session_or_range_is_refused_and_writes_nothing(run, tmp_path, words):
    run("export", *words, code=2)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".everlog"] == []
