"""The command line on a store in PostgreSQL: every command once, on one session's story."""

import json
import subprocess
import sys

import pytest

import everlog
from databases import url_of
from everlog import NewEvent


@pytest.fixture
def path(tmp_path):
    return url_of(tmp_path)


@pytest.fixture
def session(path):
    with everlog.open(path) as store:
        made = store.create("run", title="A title", labels={"k": "v"})
        made.append("state.set", {"path": "/plan", "value": "look"}, rationale="first look")
        made.extend([NewEvent("note", {"content": f"number {n}"}) for n in range(9)])
        yield made


def test_reading(run, session):
    assert "A title" in run("ls", "label.k:v").stdout
    assert "number 8" in run("log", "run", "-n", "2").stdout
    assert "first look" in run("show", "run@0").stdout
    assert "number 3" in run("search", "number 3").stdout
    assert "b1" in run("tree", "run").stdout
    assert json.loads(run("state", "run").stdout) == {"plan": "look"}
    assert "plan" in run("diff", "run@0", "run").stdout
    assert "first look" in run("why", "run", "/plan").stdout
    assert "first look" in run("bisect", "run", "state.plan:look").stdout
    assert "nobody" in run("wake", "run").stdout
    assert "nobody" in run("lease", "run").stdout


def test_writing(run, session):
    assert "made" in run("new", "made", "--title", "T").stdout
    run("append", "run", "note", '{"content": "by hand"}', "--key", "k")
    run("checkpoint", "run", "green")
    assert "green" in run("checkpoints", "run").stdout
    assert "shares [0, 5)" in run("fork", "run@5", "--id", "other").stdout
    run("append", "other", "state.set", '{"path": "/plan", "value": "mend"}')
    run("merge", "run", "other", "--prefer", "theirs")
    assert json.loads(run("state", "run").stdout) == {"plan": "mend"}
    assert "b2" in run("rewind", "run@3", "--reason", "wrong path").stdout
    run("switch", "run~b1", "--reason", "right after all")
    run("update", "run", "--title", "Another")
    run("signal", "run", "approval", "true")
    run("prefs", "user:u7", "--set", "/tone=brief")
    assert "brief" in run("prefs", "user:u7").stdout
    run("erase", "run@1", "--reason", "asked", "--yes")
    run("delete", "made", "--reason", "over", "--yes")
    assert "Another" in run("show", "run").stdout
    run("snapshots", "run")
    run("ps")
    assert "good" in run("verify").stdout


def test_moving(run, path, session, tmp_path):
    bundle, other = str(tmp_path / "b.everlog"), str(tmp_path / "other.db")
    run("export", "run", bundle)
    run("copy", path, other, store=None)
    with everlog.open(other) as copied:
        assert copied.session("run").head == session.refresh()
    run("delete", "run", "--reason", "over", "--yes")
    run("import", bundle)
    assert "number 8" in run("log", "run", "-n", "1").stdout


def test_doctor_says_what_it_can_of_a_store_that_is_no_file(run, session):
    found = [json.loads(line) for line in run("doctor", "--json", code=1).stdout.splitlines()]  # fsync is off
    assert not any("there is no store" in check["found"] for check in found)


def test_nothing_of_connections_is_printed_beside_errors(path):
    """As of one that was cut and made again, where standard error is to be JSON."""
    warned = "import logging, sys; from everlog.cli.commands import everlog as command; sys.argv[0] = 'everlog'\n"
    warned += "command(standalone_mode=False); logging.getLogger('psycopg.pool').warning('discarding')"
    words = [sys.executable, "-c", warned, "--store", path, "init", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["id"]
    assert done.stderr == ""
