"""States on the command line: shown, compared, explained, searched, merged; preferences and snapshots."""

import json

import pytest

import everlog
from everlog import NewEvent

MINE = """
import everlog

@everlog.reducer("types", 1, initial={})
def types(state, event):
    return {**state, event.type: state.get(event.type, 0) + 1}
"""


@pytest.fixture
def session(path):
    with everlog.open(path) as store:
        made = store.create("run")
        made.append("user.message", {"content": "Fix\x1b[2J it"})
        made.append("state.set", {"path": "/plan/next", "value": "look"}, rationale="first look")
        made.append("agent.tool_use", {"id": "a", "name": "bash", "input": {"cmd": "ls"}})
        made.append("agent.tool_result", {"tool_use_id": "a", "content": "x.py"}, outcome="ok")
        made.append("state.set", {"path": "/plan/next", "value": "mend\u202e"}, rationale="found it")
        made.append("state.set", {"path": "/failed", "value": 0})
        yield made


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_state_is_shown_at_any_place_whole_or_in_part(run, session):
    assert json.loads(run("state", "run@2").stdout) == {"plan": {"next": "look"}}
    result = run("state", "run", "--json")
    assert lines(result)[0]["value"] == {"plan": {"next": "mend\u202e"}, "failed": 0}
    assert lines(result)[0]["size"] == 6
    assert run("state", "run", "--pointer", "/failed").stdout == "0\n"
    assert run("state", "run", "--hash").stdout.strip() == session.state().hash
    assert lines(run("state", "run", "--hash", "--json"))[0]["hash"] == session.state().hash
    shown = run("state", "run", "--verify")
    assert "\u202e" not in shown.stdout
    assert "verified" in shown.stderr
    assert "nothing stands" in run("state", "run", "--pointer", "/nope", code=2).stderr
    assert "no reducer" in run("state", "run", "-r", "nobody", code=2).stderr
    assert "JSON Pointer" in run("state", "run", "--pointer", "x", code=2).stderr


def test_the_conversation_is_shown_for_people_and_for_each_provider(run, session):
    shown = run("state", "run", "-r", "messages").stdout
    assert 'bash {"cmd":"ls"} -> x.py' in shown
    assert "\x1b" not in shown
    for shape, member in (("anthropic", "messages"), ("openai-chat", "messages"), ("openai-responses", "input")):
        assert member in json.loads(run("state", "run", "-r", "messages", "--as", shape).stdout)
    role = run("state", "run", "-r", "messages", "--as", "anthropic", "--pointer", "/messages/0/role").stdout
    assert role == '"user"\n'
    assert "--as goes with" in run("state", "run", "--as", "anthropic", code=2).stderr


def test_a_request_is_printed_whole_as_json_that_a_terminal_may_be_given(run, session):
    text = "\u202e\x7f\U000e0001é" + "x" * 5_000
    session.extend([NewEvent("user.message", {"content": f"{number} {text}"}) for number in range(120)])
    shown = run("state", "run", "-r", "messages", "--as", "openai-chat").stdout
    assert json.loads(shown)["messages"][-1]["content"][0]["text"] == f"119 {text}"
    assert not {"\u202e", "\x7f", "\U000e0001"} & set(shown)
    session.append("state.set", {"path": "/plan", "value": text})
    assert json.loads(run("state", "run", "--full").stdout)["plan"] == text


def test_a_failed_result_is_seen_in_the_conversation(run, session):
    session.append("agent.tool_use", {"id": "b", "name": "bash", "input": {"cmd": "y" * 500}})
    session.append("agent.tool_result", {"tool_use_id": "b", "content": "gone"}, outcome="error")
    assert "-> (failed) gone" in run("state", "run", "-r", "messages").stdout


def test_a_module_of_reducers_is_named_and_a_broken_one_says_what_is_wrong(run, session, tmp_path):
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    result = run("state", "run", "--reducers", str(tmp_path / "mine.py"), "-r", "types", "--json")
    assert lines(result)[0]["value"]["state.set"] == 3
    (tmp_path / "bad.py").write_text("1/0", encoding="utf-8")
    assert "ZeroDivisionError" in run("state", "run", "--reducers", str(tmp_path / "bad.py"), code=2).stderr
    assert "cannot be loaded" in run("state", "run", "--reducers", "no.such.module", code=2).stderr
    assert "cannot be loaded" in run("state", "run", "--reducers", "nofile.py", code=2).stderr


def test_what_a_state_lacks_is_said(run, session):
    session.erase([1], reason="asked")
    session.append("state.patch", {"ops": [{"op": "remove", "path": "/nothing"}]})
    said = run("state", "run").stderr
    assert "incomplete: 1 events" in said
    assert "1 changes could not be applied" in said
    assert lines(run("state", "run", "--json"))[0]["incomplete"] == [1]


def test_two_places_forks_and_unrelated_sessions_are_compared(run, session):
    with everlog.open(session.storage._connections.path) as store:
        store.create("other", events=[NewEvent("user.message", {"content": "else"})])
    assert "~ /plan/next" in run("diff", "run@2", "run@5").stdout
    run("fork", "run@5", "--id", "way")
    run("append", "way", "state.set", '{"path": "/failed", "value": 3}')
    result = run("diff", "run", "way")
    assert "share 5 events" in result.stdout
    assert "~ /failed: 0 -> 3" in result.stdout
    assert "share no events" in run("diff", "run", "other").stdout
    assert "the same 6 events" in run("diff", "run", "run").stdout
    found = lines(run("diff", "run", "way", "--json"))[0]
    assert (found["ancestor"], found["only_b_count"], len(found["patch"])) == (5, 2, 1)
    bounded = run("diff", "run@0", "run@6", "-n", "2")
    assert "4 more" in bounded.stderr


def test_why_shows_reasons_newest_first(run, session):
    shown = run("why", "run", "/plan/next")
    assert shown.stdout.index("found it") < shown.stdout.index("first look")
    assert '(nothing) -> "look"' in shown.stdout
    assert "\u202e" not in shown.stdout
    assert [reason["after"] for reason in lines(run("why", "run@3", "/plan/next", "--json"))] == ["look"]
    assert "no event has changed" in run("why", "run", "/nope").stderr
    assert lines(run("why", "run", "/tools/bash/calls", "-r", "usage", "--json"))[0]["event"]["position"] == 2


def test_bisect_takes_an_expression_on_the_state_or_a_query(run, session):
    assert "run@4" in run("bisect", "run", "state.plan.next:mend*").stdout
    assert "run@5" in run("bisect", "run", "state.failed:0").stdout
    assert "run@2" in run("bisect", "run", "type:agent.*").stdout
    assert lines(run("bisect", "run", "state/plan/next:*", "--json"))[0]["position"] == 1
    assert "does not hold" in run("bisect", "run", "state.nope:1").stderr
    assert "no event meets it" in run("bisect", "run", "type:error").stderr
    assert "one kind" in run("bisect", "run", "state.failed:0", "type:note", code=2).stderr
    run("append", "run", "note", "--text", "look at state.md please")
    assert "run@6" in run("bisect", "run", '"at state.md"').stdout
    assert "run@4" in run("bisect", "run", '"mend" state.plan:*').stdout
    assert "holds at 2 already" in run("bisect", "run", "state.plan.next:look", "--after", "2").stderr


def test_checkpoints_are_made_listed_and_move_on(run, session):
    run("checkpoint", "run", "green", "--data", '{"n": 1}', "--state", "usage")
    run("append", "run", "note", "--text", "x")
    run("checkpoint", "run", "green")
    shown = run("checkpoints", "run").stdout.splitlines()
    assert len(shown) == 2
    assert "moved on" in shown[0]
    assert "moved on" not in shown[1]
    first = lines(run("checkpoints", "run", "--json"))[0]
    assert (first["data"]["data"], list(first["data"]["states"])) == ({"n": 1}, ["usage"])
    assert "earlier ones" in run("checkpoints", "run", "-n", "1").stderr
    assert run("state", "run@green", "--hash").stdout == run("state", "run", "--hash").stdout
    assert "not of the form" in run("checkpoint", "run", "2bad", code=2).stderr


def test_merge_brings_a_fork_back_and_reports_conflicts(run, session):
    run("fork", "run", "--id", "way")
    run("append", "way", "state.set", '{"path": "/failed", "value": 3}')
    run("append", "way", "agent.message", '{"content": "42"}')
    run("append", "run", "state.set", '{"path": "/failed", "value": 4}')
    refused = run("merge", "run", "way", code=4)
    assert "/failed: 0 became 4 here and 3 there" in refused.stderr
    assert "nothing was written" in refused.stderr
    result = run("merge", "run", "way", "--event", "-1", "--resolve", "/failed=5", "--reason", "good")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["run@7", "run@8", "run@9"]
    assert session.state()["failed"] == 5
    assert session[8].data == {"content": "42"}
    assert "not both" in run("merge", "run", "way", "--event", "1", "--events", "x", code=2).stderr
    assert (
        lines(run("merge", "run", "way", "--events", "type:agent.*", "--no-document", "--json"))[0]["type"]
        == "session.merged"
    )


def test_preferences_are_set_shown_explained_and_taken_away(run, session, path):
    assert "nothing is known" in run("prefs", "user:u7", code=3).stderr
    run("prefs", "user:u7", "--set", "/tone=brief", "--set", "/age=41", "--source", "run@0", "--rationale", "said so")
    assert json.loads(run("prefs", "user:u7").stdout) == {"tone": "brief", "age": 41}
    assert "because: said so" in run("prefs", "user:u7", "--why", "/tone").stdout
    run("prefs", "user:u7", "--remove", "/age")
    assert len(lines(run("prefs", "user:u7", "--history", "--json"))) == 3
    assert lines(run("prefs", "user:u7", "--json"))[0]["value"] == {"tone": "brief"}
    assert "--source names an event" in run("prefs", "user:u7", "--set", "/a=1", "--source", "run", code=2).stderr
    assert "nothing stands" in run("prefs", "user:u7", "--remove", "/nope", code=2).stderr
    run("prefs", "user:u7", "--set", "/a=1", "--set", "/tone/x=3", code=2)  # all of it, or nothing
    run("prefs", "user:u7", "--set", "/a=1", "--remove", "/gone", code=2)
    assert json.loads(run("prefs", "user:u7").stdout) == {"tone": "brief"}
    assert "no event has changed /zzz" in run("prefs", "user:u7", "--why", "/zzz").stderr


def test_looking_at_preferences_makes_none(run, session):
    run("prefs", "user:u7", "--set", "/tone=brief")
    for words in (["user"], ["zed", "--remove", "/x"], ["zed", "--why", "/x"]):
        assert "nothing is known" in run("prefs", *words, code=3).stderr
    run("prefs", "zed", "--set", "/y", code=2)
    run("prefs", "zed", "--set", "y=1", code=2)
    assert [info["id"] for info in lines(run("ls", "--json"))] == ["preferences/user:u7", "run"]


def test_snapshots_are_listed_dropped_and_rebuilt(run, path):
    with everlog.open(path, snapshots=everlog.SnapshotPolicy(events=100, share=1.0, reducers=("document",))) as store:
        session = store.create("run")
        session.extend([NewEvent("state.set", {"path": "/n", "value": n}) for n in range(1_000)])
        assert store.keeper.wait(20)
    assert len(lines(run("snapshots", "--json"))) == 10
    assert "keyframe" in run("snapshots", "run").stdout
    assert "10 snapshots dropped" in run("snapshots", "--drop").stdout
    assert "0 snapshots" in run("snapshots").stderr
    assert lines(run("snapshots", "run", "--rebuild", "--json"))[0]["taken"] >= 1
    assert "more" in run("snapshots", "-n", "1").stderr
    assert "takes one session" in run("snapshots", "--rebuild", code=2).stderr
    assert lines(run("snapshots", "run", "--drop", "-r", "messages", "--json"))[0] == {"dropped": 0}
