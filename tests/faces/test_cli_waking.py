"""Sessions at work on the command line: who holds them, what is in flight, signals."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

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
                 "signal run approval JSON", "Fix\\x1b[2J it"):  # fmt: skip
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
    assert "tools: 1 open" in run("ps").stdout
    session.repair()
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
    assert session.last("lease.released").data["reason"] == "SIGINT was received"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_lease_that_is_held_is_given_back_whatever_ends_it_and_told_as_json(session, path, number):
    words = [sys.executable, "-m", "everlog", "--store", path, "lease", "run", "--hold", "--ttl", "3600", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as holding:
        taken = json.loads(holding.stdout.readline())
        assert (taken["type"], taken["session"], taken["data"]["token"]) == ("lease.acquired", "run", 1)
        holding.send_signal(number)
        assert holding.wait(30) == 0, holding.stderr.read()
        released = json.loads(holding.stdout.readline())
        assert (released["type"], released["data"]["token"]) == ("lease.released", 1)
    session.append("agent.message", {"content": "again"})


def test_waiting_for_the_lease_of_another_can_be_stopped(session, path):
    words = [sys.executable, "-m", "everlog", "--store", path, "lease", "run", "--hold", "--wait", "3600"]
    with session.lease("ann"), subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as waiting:
        status = Path(f"/proc/{waiting.pid}/status")
        if not status.exists():
            pytest.skip("only /proc says when a process listens to a signal")
        while int(status.read_text().split("SigCgt:")[1].split()[0], 16) & (1 << (signal.SIGTERM - 1)) == 0:
            assert waiting.poll() is None
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(30) == 130
    assert session.last("lease.acquired").data["holder"] == "ann"


def test_how_a_lease_is_held_is_asked_for_with_hold_alone(run, session):
    for words in (("--holder", "ann"), ("--ttl", "5"), ("--wait", "0")):
        assert "give --hold too" in run("lease", "run", *words, code=2).stderr
    assert "0.1" in run("lease", "run", "--hold", "--ttl", "0.05", code=2).stderr


def test_who_fences_is_told_as_json(session, path):
    words = [sys.executable, "-m", "everlog", "--store", path, "wake", "run", "--repair", "--json"]
    with session.lease("ann"):
        ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 4
    error = json.loads(ran.stderr)
    assert (error["error"], error["holder"]) == ("fenced", "ann")
    assert error["until"].endswith("Z")


# --- ps ---
@pytest.fixture
def crowd(path):
    """A session that waits, behind 400 that changed since."""
    with everlog.open(path, durability="relaxed") as store:
        with pytest.raises(everlog.errors.WaitingError):
            store.create("waits").run().wait("go", patience=0)
        for number in range(400):
            store.create(f"idle-{number}", events=[NewEvent("note", {"content": "x"})])
        yield store


def test_a_partial_look_says_so_and_every_session_is_looked_at_where_asked(run, crowd):
    result = run("ps")
    assert (result.stdout, "none of the 200 sessions that changed last; --all" in result.stderr) == ("", True)
    assert "waits for: go" in run("ps", "--all").stdout
    crowd.session("idle-390").append("agent.tool_use", {"id": "u", "name": "t", "input": {}})
    result = run("ps")
    assert "idle-390" in result.stdout
    assert "looked at the 200 sessions that changed last; --all" in result.stderr
    for name in ("idle-7", "idle-8"):
        crowd.session(name).signal("x")
        crowd.session(name).append("agent.tool_use", {"id": "u", "name": "t", "input": {}})
    result = run("ps", "--all", "-n", "2")
    assert len(result.stdout.splitlines()) == 2
    assert "the first 2; more: -n 8" in result.stderr
    assert len(run("ps", "--all", "-n", "4").stdout.splitlines()) == 4
    with crowd.session("idle-3").lease("ann"):
        assert run("ps", "--all").stdout.count("idle-3 ") == 1


def test_work_on_a_message_says_which_session_it_is_for(run, path):
    with everlog.open(path) as store:
        message = store.create("the inbox").append("user.message", {"content": "q"})
        with store.claim("the inbox", holder="ann"):
            assert f"for the%20inbox@{message.position}" in run("ps").stdout
            assert lines(run("ps", "--json"))[0]["for"] == "the%20inbox@0"


# --- wake ---
def test_what_is_shown_to_be_typed_is_quoted_for_a_shell(run, path):
    with everlog.open(path) as store, pytest.raises(everlog.errors.WaitingError):
        store.create("it's; $HOME").run("r").wait("-go $(x)", patience=0)
    shown = run("wake", "it's;%20$HOME").stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("wait")]
    typed = shlex.split(line.partition("for ever: ")[2])
    assert typed == ["everlog", "--store", path, "signal", "--", "it's;%20$HOME", "-go $(x)", "JSON"]
    run(*typed[3:-1], "5")
    assert "a fitting signal waits already: run it again" in run("wake", "it's;%20$HOME").stdout
    assert "of run r at" in shown


def test_an_unknown_step_shows_what_may_be_decided_and_whether_it_was(run, session):
    session.signal("step:pay", "retry")  # before it was started, which decides nothing
    with pytest.raises(KeyboardInterrupt):
        session.run().step("pay", interrupted)
    session.signal("other")
    with pytest.raises(everlog.errors.StepUnknownError):
        session.run().step("pay", interrupted)
    shown = run("wake", "run").stdout
    assert "unknown     pay of run main at" in shown
    assert lines(run("wake", "run", "--json"))[0]["unknown"][0]["name"] == "pay"
    given = []
    asking = threading.Thread(target=lambda: given.append(session.run().step("pay", interrupted, policy="ask")))
    asking.start()
    assert "wait.started" in (event.type for event in session.follow("start", idle=20))
    shown = run("wake", "run").stdout
    assert """run step:pay '"retry"', or '"fail"', or '{"decision": "finished", "result": …}'""" in shown
    assert run("signal", "run", "step:pay", '{"decision": "finished", "result": 7}').stderr == ""
    asking.join(20)
    assert given == [7]
    assert "unknown" not in run("wake", "run").stdout


def test_a_run_says_that_it_is_one_and_a_sleep_that_no_signal_ends_it(run, session):
    with pytest.raises(everlog.errors.WaitingError), session.run() as main:
        main.sleep_until("2d", patience=0)
    with pytest.raises(everlog.errors.WaitingError):
        session.run().wait("soon", timeout=0.2, patience=0)
    while session.storage.now() < session.in_flight().waits[-1].until:
        session.storage.wait(session.storage.news(), 0.05)
    shown = run("wake", "run").stdout
    assert "run         main at 2: started and not finished" in shown
    assert "sleep       sleep of run main at 3, until " in shown
    assert "its time is over: run it again" in shown
    assert shown.count("signal") == 0


def test_why_work_stopped_is_shown_while_nobody_works(run, session):
    with pytest.raises(ValueError, match="no"), session.lease("ann"):
        raise ValueError("no")
    assert "stopped     at 3: ValueError was raised" in run("wake", "run").stdout
    assert lines(run("wake", "run", "--json"))[0]["stopped"] == {"position": 3, "reason": "ValueError was raised"}
    with session.lease("ann"):
        assert "stopped" not in run("wake", "run").stdout


def test_a_lease_that_lapsed_is_told_of_before_anybody_records_it(run, session):
    lease = session.lease("ann", ttl=0.1)
    session._keepers.leases.forget(lease)  # nobody renews it any more, as where its process died
    while session.info().lease is not None:
        session.storage.wait(session.storage.news(), 0.02)
    assert "stopped     the lease of ann lapsed" in run("wake", "run").stdout
    assert lines(run("wake", "run", "--json"))[0]["stopped"]["position"] is None


def test_what_people_are_shown_is_bounded(run, session):
    uses = [NewEvent("agent.tool_use", {"id": "x" * 500, "name": "t" * 500, "input": {}}) for _ in range(30)]
    session.extend(uses)
    for words in (("wake", "run"), ("wake", "run", "--repair")):
        shown = run(*words).stdout
        assert "and 11 more; --json gives all" in shown
        assert max(map(len, shown.splitlines())) < 400
    session.extend([NewEvent("signal", {"name": "s", "data": 0})] * 1_001)
    assert "dropped     1 older" in run("wake", "run").stdout


def test_repair_closes_more_than_are_kept_track_of(run, session):
    session.extend([NewEvent("agent.tool_use", {"id": f"u{n}", "name": "t", "input": {}}) for n in range(1_300)])
    assert len(lines(run("wake", "run", "--repair", "--json"))) == 1_301
    assert "every tool use has a result already" in run("wake", "run", "--repair").stderr


# --- signal ---
def test_a_signal_that_nothing_waits_for_yet_is_sent_and_said_to_be(run, session):
    with pytest.raises(everlog.errors.WaitingError):
        session.run().wait("approval", patience=0)
    said = run("signal", "run", "aproval", "1").stderr
    assert said == "no wait 'aproval' is open yet; open: approval; the signal waits for one\n"
    assert run("signal", "run", "approval", "1").stderr == ""


@pytest.mark.parametrize("data", [(), ("7",), ('"again"',), ('{"decision": "no"}',), ('["retry"]',)])
def test_what_decides_nothing_about_a_step_is_not_sent(run, session, data):
    size = session.size()
    assert "nothing was sent" in run("signal", "run", "step:pay", *data, code=2).stderr
    assert session.size() == size


def test_a_session_that_is_not_there_is_told_in_words_of_the_command_line(run, session):
    assert "see `everlog ls`" in run("wake", "nobody", code=3).stderr


def test_a_run_that_waits_exits_with_a_message_that_says_what_to_send(session):
    with pytest.raises(everlog.errors.WaitingError, match="everlog signal run go JSON"):
        session.run().wait("go", patience=0)
    session.extend([NewEvent("signal", {"name": "go", "data": 5})])
    assert session.run().wait("go", patience=0) == 5
