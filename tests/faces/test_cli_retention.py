"""`everlog retain`, as a person and a schedule use it."""

import json
import signal
import subprocess
import sys

import pytest

import everlog
from everlog import NewEvent

DEADLINE_SECONDS = 60
U7 = ("retain", "set", "u7", "--query", "label.user:u7", "--action", "erase", "--older-than", "0", "--reason", "notice")
CASE = ("retain", "set", "case", "--query", "session:f", "--action", "hold", "--reason", "the court asked")


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def everlog_process(path, *words):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "everlog", "--store", path, "retain", "run", *words], **streams)


@pytest.fixture
def session(path):
    with everlog.open(path) as store:
        events = [NewEvent("note", {"content": f"secret {number}"}) for number in range(3)]
        session = store.create("run 42", labels={"user": "u7"}, events=events)
        session.fork(1, id="f")
        yield session


def bodies(session):
    return [event.raw is not None for event in session]


def test_a_policy_is_set_shown_run_and_removed(run, session):
    assert run(*U7).stdout == "u7: erase what is older than 0s, of label.user:u7  (notice)\n"
    assert "it counts from now on" in run(*CASE).stderr
    shown = run("retain", "show").stdout
    assert "2 events of 1 session to erase" in shown
    assert "run%2042  1 event  for case, shared with f" in shown
    assert "1 session held" in shown
    assert "2 events of 1 session to erase" in run("retain", "run", "--dry-run").stdout
    assert bodies(session) == [True, True, True]
    assert "2 events of 1 session erased" in run("retain", "run", "--yes").stdout
    assert bodies(session) == [True, False, False]
    assert "nothing erased" in run("retain", "run").stdout  # nothing is destroyed: nobody is asked
    run("retain", "remove", "case", "--reason", "closed")
    assert lines(run("retain", "run", "--yes", "--json"))[0]["events"] == 1
    assert "retention.applied" in run("log", "retention/policies").stdout


def test_erasing_is_asked_about_and_nothing_happens_where_nobody_can_be_asked(run, session):
    run(*U7)
    refused = run("retain", "run", code=2)
    assert "Erase 3 events?" in refused.stderr
    assert "add --yes" in refused.stderr
    assert bodies(session) == [True, True, True]


def test_every_answer_is_json_where_json_is_asked_for(run, session):
    assert lines(run(*U7, "--json"))[0] == {
        "name": "u7", "action": "erase", "query": "label.user:u7", "older_than": "0s", "reason": "notice",
    }  # fmt: skip
    plan = lines(run("retain", "show", "--json"))[0]
    assert [work["events"] for work in plan["work"]] == [3]
    assert lines(run("retain", "run", "--dry-run", "--json"))[0]["policy"] == "u7"
    assert lines(run("retain", "remove", "u7", "--reason", "r", "--json")) == [{"name": "u7", "removed": True}]
    assert "no policy erases" in run("retain", "run").stderr
    assert "there are no retention policies" in run("retain", "show").stdout


def test_what_is_held_says_by_which_policy_and_exits_with_4(run, session, path):
    run(*CASE)
    said = run("erase", "run%2042@0", "--reason", "r", "--yes", code=4).stderr
    assert "policy 'case' (session:f) holds session 'f', because: the court asked; nothing was erased" in said
    assert "everlog retain remove case" in said
    words = [sys.executable, "-m", "everlog", "--store", path, "delete", "f", "--reason", "r", "--yes", "--json"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 4
    assert {name: json.loads(ran.stderr)[name] for name in ("error", "policy")} == {"error": "held", "policy": "case"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("set", "P", "--query", "x", "--action", "hold"), 2, "names no policy"),
        (("set", "p", "--query", "x", "--action", "erase"), 2, "needs older_than"),
        (("set", "p", "--query", "x", "--action", "erase", "--older-than", "x"), 2, "older_than 'x' is no age"),
        (("set", "p", "--query", "x", "--action", "shred"), 2, "is not one of"),
        (("remove", "p", "--reason", "r"), 3, "no retention policy 'p'"),
        (("run", "--every", "0s"), 2, "a second to a year"),
        (("run", "--every", "often"), 2, "--every 'often' is no time"),
        (("run", "--every", "1h", "--dry-run"), 2, "leave out --every"),
    ],
)
def test_what_cannot_be_done_says_so(run, session, words, code, said):
    assert said in run("retain", *words, code=code).stderr


def test_hostile_text_of_policies_is_made_visible(run, session):
    hostile = "\x1b[2J\u202e"
    run("retain", "set", "p", "--query", f'"{hostile}"', "--action", "hold", "--reason", hostile)
    shown = run("retain", "show").stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\x1b[2J" in shown


def test_every_command_of_it_has_help_with_an_example(run):
    for name in ("set", "show", "run", "remove"):
        assert "Example" in run("retain", name, "--help").stdout


def test_a_schedule_runs_says_when_it_runs_again_and_ends_with_ctrl_c(path, session, run):
    run(*U7)
    with everlog_process(path, "--yes", "--every", "1h") as process:
        assert "the next run is in 1h" in process.stderr.readline()
        assert bodies(session) == [False, False, False]
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_SECONDS) == 130


def test_a_schedule_goes_on_after_a_run_that_failed(path, session, run):
    run(*U7)
    with everlog.open(path) as store:
        store.session("retention/policies").append("state.set", {"path": "/u7", "value": 7})
        with everlog_process(path, "--yes", "--every", "1s") as process:
            assert "policy 'u7' cannot be read" in process.stderr.readline()
            assert "this run failed; the next one is in 1s" in process.stderr.readline()
            store.retention.set("u7", action="erase", query="label.user:u7", older_than=0)
            while "the next run is in 1s" not in process.stderr.readline():
                pass
            assert bodies(session) == [False, False, False]
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE_SECONDS) == 130


def test_a_folder_without_a_format_is_told_how_to_be_imported(run, session, tmp_path):
    said = run("import", str(tmp_path), code=2).stderr
    assert "is a folder where a bundle is a file" in said
    assert "everlog import FORMAT" in said


def test_an_age_that_is_none_is_called_so(run, session):
    assert "older_than 'x' is no time" in run("compact", "--older-than", "x", code=2).stderr


def test_one_of_a_thing_is_not_said_in_the_plural(run, session, tmp_path):
    assert "in 2 blocks" in run("compact", "--older-than", "0").stdout
    said = run("archive", "--to", str(tmp_path / "cold"), "--older-than", "0", "--session", "run 42").stdout
    assert said.startswith("1 block,")
    assert "is in 1 object\n" in said
    assert "is home from 1 object\n" in run("restore").stdout
