"""Sessions at work on the command line: who holds them, what is in flight, signals."""

import json
import os
import signal
import subprocess
import sys

import pytest

import everlog
from everlog import NewEvent
from everlog.errors import FencedError


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def session(path):
    with everlog.open(path) as store:
        made = store.create("run")
        made.append("user.message", {"content": "Fix\x1b[2J it"})
        made.append("agent.tool_use", {"id": "a\x1b", "name": "bash", "input": {"cmd": "ls"}})
        yield made


def leave_a_run(session):
    """Leave a run as a process that died leaves it: in a step, another waiting."""
    run = session.run("deploy")
    run.__enter__()
    run.step("build", lambda: 7)
    with pytest.raises(KeyboardInterrupt):
        run.step("ship", interrupted)
    with pytest.raises(everlog.errors.WaitingError):
        run.wait("approval", timeout="2d", patience=0)


def interrupted():
    raise KeyboardInterrupt


def test_what_was_in_flight_is_shown_and_nothing_is_written(run, session):
    leave_a_run(session)
    session.checkpoint("green")
    size = session.size()
    shown = run("wake", "run").stdout
    for text in ("nobody's", "green at", "bash a\\x1b at 1: no result", "ship of run deploy", "started and not finished",
                 "everlog signal run approval JSON", "Fix\\x1b[2J it"):  # fmt: skip
        assert text in shown
    assert "\x1b" not in shown
    found = lines(run("wake", "run", "--json"))[0]
    assert [step["name"] for step in found["steps"]] == ["deploy", "ship"]
    assert (found["lease"], found["checkpoint"]["name"], found["messages"]) == (None, "green", [0])
    assert session.size() == size


def test_repair_closes_what_is_open_once(run, session):
    (event,) = lines(run("wake", "run", "--repair", "--json", "--actor", "ann"))
    assert (event["type"], event["outcome"], event["data"]["tool_use_id"]) == ("agent.tool_result", "unknown", "a\x1b")
    size = session.size()
    assert "nothing was written" in run("wake", "run", "--repair").stderr
    assert session.size() == size
    with session.lease("somebody"):
        session.append("agent.tool_use", {"id": "b", "name": "t", "input": {}})
        assert "'somebody' holds the lease" in run("wake", "run", "--repair", code=4).stderr


def test_sessions_at_work_are_listed(run, session):
    assert "no session is at work" in run("ps").stderr
    leave_a_run(session)
    shown = run("ps").stdout
    assert "runs: deploy" in shown
    assert "steps: ship" in shown
    assert "waits for: approval" in shown
    with session.lease("worker-2"):
        shown = run("ps").stdout
        assert "worker-2 (" in shown
        assert lines(run("ps", "--json"))[0]["lease"]["holder"] == "worker-2"
        assert "worker-2, for" in run("wake", "run").stdout
    assert lines(run("ps", "--json"))[0]["lease"] is None


def test_a_signal_is_sent_and_taken(run, session):
    result = run("signal", "run", "approval", '{"ok": true}', "--key", "once", "--actor", "ann")
    assert "signal" in result.stdout
    run("signal", "run", "approval", '{"ok": true}', "--key", "once", "--actor", "ann")
    assert session.run().wait("approval", patience=0) == {"ok": True}
    with pytest.raises(everlog.errors.WaitingError):
        session.run().wait("other", patience=0)
    assert "JSON" in run("signal", "run", "approval", "{", code=2).stderr
    assert "no session" in run("signal", "nobody", "x", code=3).stderr


def test_a_lease_is_shown_and_held_until_it_is_given_back(run, session, path):
    assert "nobody holds" in run("lease", "run").stdout
    assert lines(run("lease", "run", "--json"))[0] == {"session": "run", "token": 0, "lives": False}
    words = [
        sys.executable,
        "-m",
        "everlog",
        "--store",
        str(path),
        "lease",
        "run",
        "--hold",
        "--holder",
        "ann",
        "--ttl",
        "5",
    ]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as holding:
        assert "ann holds the lease" in holding.stderr.readline()
        assert "ann holds the lease" in run("lease", "run").stdout
        assert lines(run("lease", "run", "--json"))[0]["holder"] == "ann"
        with pytest.raises(FencedError):
            session.append("agent.message", {"content": "no"})
        session.append("user.message", {"content": "yes"})
        assert "ann" in run("lease", "run", "--hold", code=4).stderr
        holding.send_signal(signal.SIGINT)
        assert holding.wait(30) == 0
    session.append("agent.message", {"content": "again"})
    assert "nobody holds" in run("lease", "run").stdout


def test_a_run_that_waits_exits_with_a_message_that_says_what_to_send(session):
    with pytest.raises(everlog.errors.WaitingError, match="everlog signal run go JSON"):
        session.run().wait("go", patience=0)
    session.extend([NewEvent("signal", {"name": "go", "data": 5})])
    assert session.run().wait("go", patience=0) == 5
