"""The commands that write, as a person and a script use them."""

import json
import os
import signal
import subprocess
import sys

import pytest

import everlog
from databases import url_of
from everlog import NewEvent

DEADLINE_SECONDS = 60


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def everlog_process(path, *words, **streams):
    return subprocess.Popen([sys.executable, "-m", "everlog", "--store", path, *words], **streams)


def test_new_makes_a_session_and_prints_its_address(run, path):
    made = run("new", "run 42", "--title", "A title", "--label", "user=u7", "--metadata", '{"n": 1}')
    assert made.stdout == "run%2042\n"
    with everlog.open(path) as store:
        info = store.session("run 42").info()
    assert (info.title, info.labels, info.metadata) == ("A title", {"user": "u7"}, {"n": 1})


def test_new_without_an_id_gives_one(run, path):
    made = lines(run("new", "--json"))[0]
    with everlog.open(path) as store:
        assert store.session(made["session"]).size() == 0


def test_new_for_an_event_of_another_session_is_linked_to_it(run, path):
    run("new", "main")
    run("append", "main", "note", "--text", "start one")
    run("new", "sub", "--parent", "main@0")
    with everlog.open(path) as store:
        assert [info.id for info in store.sessions(parent="main")] == ["sub"]


def test_append_records_every_member(run, path, tmp_path):
    chart = tmp_path / "chart.png"
    chart.write_bytes(b"\x89PNG")
    run("append", "s", "note", "--text", "first", "--create")
    words = [
        "append",
        "s",
        "decision",
        '{"choice": "b"}',
        "--actor",
        "planner",
        "--outcome",
        "ok",
        "--rationale",
        "why",
    ]
    words += ["--metadata", '{"m": 1}', "--key", "k1", "--expected", "1", "--caused-by", "0"]
    words += ["--occurred-at", "2026-11-23T10:00", "--attach", f"chart.png={chart}"]
    event = lines(run(*words, "--json"))[0]
    assert event["data"] == {"choice": "b"}
    assert event["occurred_at"] == "2026-11-23T10:00:00.000000Z"
    assert event["caused_by"].endswith("_0")
    with everlog.open(path) as store:
        recorded = store.session("s")[1]
        assert recorded.attachment("chart.png") == b"\x89PNG"
        assert (recorded.actor, recorded.outcome, recorded.rationale, recorded.key) == ("planner", "ok", "why", "k1")
        assert recorded.metadata == {"m": 1}


def test_append_with_a_key_twice_is_recorded_once_and_says_so(run):
    run("append", "s", "note", "--text", "x", "--key", "k", "--create")
    assert "recorded before" in run("append", "s", "note", "--text", "x", "--key", "k").stdout
    assert "was used" in run("append", "s", "note", "--text", "y", "--key", "k", code=2).stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("append", "nobody", "note", "--text", "x"), 3, "no session 'nobody'"),
        (("append", "s", "note", "not json"), 2, 'for plain text write DATA as "not json"'),
        (("append", "s", "note"), 2, "takes an object"),
        (("append", "s", "note", "--text", "x", "--expected", "7"), 4, "nothing was written"),
        (("append", "s", "note", "--text", "x", "--expected", "seven"), 2, "not a head"),
        (("append", "s", "checkpoint", '{"name": "x"}'), 2, "only by checkpoint()"),
        (("append", "s", "note", '{"content": "x"}', "--text", "y"), 2, "not both"),
        (("append", "s", "note", "--text", "x", "--attach", "nothing"), 2, "NAME=VALUE"),
        (("append", "s", "note", "--text", "x", "--attach", "a=/no/such"), 3, "cannot be read"),
        (("append", "s@3", "note", "--text", "x"), 2, "more than a session"),
        (("append", "s", "-", "{}"), 2, "standard input"),
        (("new", "s"), 2, "exists"),
        (("new", "t", "--label", "x"), 2, "NAME=VALUE"),
        (("switch", "s"), 2, "name the branch"),
        (("switch", "s~b1"), 2, "current branch"),
        (("update", "s"), 2, "update of nothing"),
        (("erase", "s", "--reason", "r", "--yes"), 2, "SESSION@PLACE"),
        (("erase", "s@0", "t@0", "--reason", "r", "--yes"), 3, "no session 't'"),
        (("delete", "s"), 2, "--reason"),
    ],
)
def test_a_wrong_request_says_what_to_do_and_writes_nothing(run, path, words, code, said):
    run("append", "s", "note", "--text", "first", "--create")
    assert said in run(*words, code=code).stderr
    with everlog.open(path) as store:
        assert [info.size for info in store.sessions()] == [1]


# --- JSON lines from standard input --------------------------------------------------------------
def test_lines_from_standard_input_are_appended_with_their_members(path):
    given = [
        {"type": "user.message", "data": {"content": "hi"}, "actor": "u", "occurred_at": "2026-11-23T10:00Z"},
        {"type": "note", "data": {"content": "n"}, "key": "k", "metadata": {"m": 1}, "rationale": "r", "outcome": "ok"},
    ]
    text = "\n".join(json.dumps(each) for each in given)  # the last line has no end
    with everlog_process(
        path, "append", "s", "-", "--create", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        said, _ = process.communicate(text.encode(), timeout=DEADLINE_SECONDS)
    assert said == b"s: 2 events appended\n"
    with everlog.open(path) as store:
        first, second = store.session("s").slice()
    assert (first.data, first.actor, first.occurred_at.isoformat()) == (
        {"content": "hi"},
        "u",
        "2026-11-23T10:00:00+00:00",
    )
    assert (second.key, second.metadata, second.rationale, second.outcome) == ("k", {"m": 1}, "r", "ok")


def test_a_line_is_recorded_before_the_pipe_ends(path):
    with everlog.open(path) as store:
        session = store.create("s")
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with everlog_process(path, "append", "s", "-", "--json", **streams) as process:
            for number in range(3):
                process.stdin.write(b'{"type": "tick", "data": %d}\n' % number)
                process.stdin.flush()
                assert json.loads(process.stdout.readline())["position"] == number
                assert session.size() == number + 1
            process.stdin.close()
            assert process.wait(DEADLINE_SECONDS) == 0


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{", "not JSON"),
        ("3", 'no object with a "type"'),
        ('{"type": "Note"}', "not of the form"),
        ('{"type": "note", "data": {"content": "x"}, "position": 3}', "import jsonl"),
        ('{"type": "note", "data": {"content": "x"}, "caused_by": "ev_x"}', "no event's id"),
        ('{"type": "note", "data": {"content": "x"}, "occurred_at": "noon"}', "no time"),
    ],
)
def test_a_bad_line_is_named_and_the_lines_before_it_are_recorded(path, bad, said):
    good = '{"type": "note", "data": {"content": "x"}, "key": "%s"}\n'
    text = good % "a" + "\n" + good % "b" + bad + "\n" + good % "c"
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with everlog_process(path, "append", "s", "-", "--create", **streams) as process:
        out, err = process.communicate(text.encode(), timeout=DEADLINE_SECONDS)
    assert process.returncode in (2, 3)
    assert b"line 4: " in err
    assert said in err.decode()
    assert out == b"s: 2 events appended\n"
    with everlog.open(path) as store:
        assert [event.key for event in store.session("s").slice()] == ["a", "b"]


# --- moving about --------------------------------------------------------------------------------
@pytest.fixture
def session(path):
    with everlog.open(path) as store:
        made = store.create("s", labels={"a": "1", "b": "2"})
        made.extend([NewEvent("note", {"content": f"number {n}"}) for n in range(5)])
    return made


def test_switch_undoes_a_rewind(run, path, session):
    run("rewind", "s@2", "--reason", "wrong", "--actor", "me")
    assert "goes on at 5 as b1; what was left is b2" in run("switch", "s~b1", "--reason", "right").stdout
    with everlog.open(path) as store:
        last = store.session("s")[-1]
    assert (last.type, last.data["reason"]) == ("session.switched", "right")


def test_update_sets_and_takes_away_single_labels(run, path, session):
    run("update", "s", "--label", "c=3", "--unlabel", "a", "--title", "T")
    with everlog.open(path) as store:
        info = store.session("s").info()
    assert (info.title, info.labels) == ("T", {"b": "2", "c": "3"})
    run("update", "s", "--title", "")
    with everlog.open(path) as store:
        assert store.session("s").info().title is None


def test_erase_by_place_and_by_query(run, path, session):
    assert "erased 2 events: 0, 4" in run("erase", "s@0", "s@-1", "--reason", "r", "--yes").stdout
    assert lines(run("erase", "s", "--matching", "number", "--reason", "r", "--yes", "--json"))[0]["erased"] == [
        1,
        2,
        3,
    ]
    assert "nothing matches" in run("erase", "s", "--matching", "number", "--reason", "r", "--yes").stderr
    assert "5 erased" in run("verify").stdout


def test_delete_frees_the_name(run, path, session):
    run("fork", "s@2", "--id", "other")
    assert "other" in run("delete", "s", "--reason", "r", "--yes", code=2).stderr
    assert "deleted" in run("delete", "s", "--reason", "r", "--cascade", "--yes").stdout
    assert "no session" in run("show", "other", code=3).stderr
    run("new", "s")


def test_what_cannot_be_undone_is_not_done_unasked(run, path, session):
    for words in (("delete", "s"), ("erase", "s@0")):
        assert "add --yes" in run(*words, "--reason", "r", code=2).stderr
    with everlog.open(path) as store:
        assert not store.session("s")[0].erased


def test_copy_takes_all_sessions_or_those_named_and_again_only_what_is_new(run, path, session, tmp_path):
    run("new", "t")
    target = str(tmp_path / "copy.db")
    assert "5 events copied" in run("copy", path, target, "s", store=None).stdout
    assert [taken["events"] for taken in lines(run("copy", path, target, "--json", store=None))] == [0, 0]
    assert "no --store" in run("copy", path, target, code=2).stderr
    assert "no store at" in run("copy", f"{path}.none", target, store=None, code=3).stderr
    with everlog.open(path) as one, everlog.open(target) as other:
        assert one.session("s").head == other.session("s").head


# --- the command itself --------------------------------------------------------------------------
def test_the_store_may_be_named_behind_the_command(run, path, session):
    for words in (["ls", "--store", path, "--json"], ["ls", f"--store={path}", "--json"]):
        ran = subprocess.run([sys.executable, "-m", "everlog", *words], capture_output=True, check=True)
        assert json.loads(ran.stdout)["id"] == "s"


def test_ctrl_c_while_following_ends_with_130(path, session):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with everlog_process(path, "log", "s", "--follow", "--json", **streams) as process:
        assert [json.loads(process.stdout.readline())["position"] for _ in range(5)] == list(range(5))
        with everlog.open(path) as store:
            store.session("s").append("note", {"content": "live"})
        assert json.loads(process.stdout.readline())["position"] == 5
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_SECONDS) == 130


def test_a_reader_that_goes_away_is_no_error(path, session):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with everlog_process(path, "log", "s", **streams) as process:
        process.stdout.close()
        assert process.wait(DEADLINE_SECONDS) == 0
        assert process.stderr.read() == b""


def test_no_colour_goes_anywhere_but_to_a_terminal(path, session):
    ran = subprocess.run(
        [sys.executable, "-m", "everlog", "--store", path, "log", "s"], capture_output=True, check=True
    )
    assert b"\x1b" not in ran.stdout
    for setting, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        assert (b"\x1b[" in _on_a_terminal(path, setting)) is coloured


def _on_a_terminal(path, setting):
    """Run `log` on a pseudo-terminal; give what it printed."""
    import pty

    leader, follower = pty.openpty()
    environment = (
        {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"} | setting
    )
    words = [sys.executable, "-m", "everlog", "--store", path, "log", "s"]
    with subprocess.Popen(words, stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        said = b""
        while True:
            try:
                chunk = os.read(leader, 65536)
            except OSError:  # what Linux says at the end of a terminal
                break
            if not chunk:
                break
            said += chunk
        process.wait(DEADLINE_SECONDS)
    os.close(leader)
    return said


# --- making a store ---
def test_init_makes_a_store_once(run, path):
    first, again = (json.loads(run("init", "--json").stdout) for _ in range(2))
    assert first == again == {"store": path, "id": first["id"], "roles": [], "tenants": False}
    assert "up to date" in run("init").stdout
    assert "postgresql://" in run("init", "--roles", code=2).stderr


def test_init_doctor_and_copy_know_postgresql(run, path, session, tmp_path):
    url = url_of(tmp_path)
    assert "everlog init" in run("ls", store=url, code=3).stderr
    made = json.loads(run("init", "--roles", "--tenants", "--json", store=url).stdout)
    assert [role.rpartition("_")[2] for role in made["roles"]] == ["owner", "app", "maintenance", "reader"]
    assert made["tenants"]
    assert "5 events copied" in run("copy", path, url, store=None).stdout
    assert [taken["events"] for taken in lines(run("copy", path, url, "--json", store=None))] == [0]
    run("append", "s", "note", '{"content": "more"}', store=url)
    back = str(tmp_path / "back.db")
    assert "6 events copied" in run("copy", url, back, store=None).stdout
    checks = {check["what"]: check["verdict"] for check in lines(run("doctor", "--json", store=url, code=1))}
    assert checks["server"] == checks["store"] == checks["encoding"] == "good"
    assert checks["fsync"] == "bad"  # that of the tests does without
    for words in (
        ["ls"],
        ["log", "s"],
        ["show", "s@1"],
        ["ps"],
        ["wake", "s"],
        ["tree", "s"],
        ["verify"],
        ["state", "s"],
    ):
        run(*words, store=url)
