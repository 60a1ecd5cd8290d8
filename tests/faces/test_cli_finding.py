"""search, ls by pages, help, completion and doctor."""

import itertools
import json
import os
import subprocess
import sys

import pytest

import everlog
from everlog import NewEvent
from everlog.cli.commands import everlog as command
from everlog.cli.topics import ADDRESSES, PLACES, QUERIES, TOPICS
from everlog.core.position import parse_address, parse_place
from everlog.core.query_text import parse
from everlog.errors import LimitError


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


# --- search --------------------------------------------------------------------------------------
@pytest.fixture
def store(path):
    with everlog.open(path) as opened:
        for number in range(3):
            made = opened.create(f"run-{number}", labels={"user": f"u{number}"})
            made.append("user.message", {"content": f"please mend the Parser, try {number}"})
            made.append("agent.tool_result", {"tool_use_id": "c", "content": "timeout"}, outcome="error")
        yield opened


def test_search_finds_words_in_all_sessions_newest_first(run, store):
    found = lines(run("search", "parser", "--json"))
    assert [event["session"] for event in found] == ["run-2", "run-1", "run-0"]
    assert run("search", "parser").stdout.splitlines()[0].startswith("run-2@0")


def test_search_is_narrowed_by_session_label_type_and_outcome(run, store):
    assert [event["session"] for event in lines(run("search", "timeout", "session:run-1", "--json"))] == ["run-1"]
    assert [event["session"] for event in lines(run("search", "label.user:u2", "outcome:error", "--json"))] == ["run-2"]
    assert lines(run("search", "timeout", "type:user.*", "--json")) == []
    assert "nothing was found" in run("search", "absent").stderr


def test_search_finds_each_event_once_also_what_forks_share_and_rewinds_left(run, store):
    session = store.session("run-0")
    fork = session.fork(at=1, id="fork")
    fork.append("note", {"content": "only here: xyzzy"})
    session.rewind(1, reason="wrong")
    assert [hit.event.session for hit in store.search("mend session:run-0,fork").hits] == ["run-0"]
    assert [(hit.event.session, hit.event.position) for hit in store.search("xyzzy").hits] == [("fork", 2)]
    assert "run-0~b1@1" in run("search", "timeout", "session:run-0").stdout
    assert "run-0@0" in run("search", "mend", "session:run-0").stdout


def test_search_is_bounded(run, store):
    found = run("search", "type:*", "-n", "2")
    assert len(found.stdout.splitlines()) == 2
    token = found.stderr.strip().rpartition(" ")[2]
    assert f"2 so far; more: --after {token}" in found.stderr
    assert len(run("search", "type:*", "-n", "100", "--after", token).stdout.splitlines()) == 6 - 2
    with pytest.raises(LimitError):
        store.search("x", limit=0)
    with pytest.raises(LimitError):
        store.search("x", limit=1001)


def test_search_by_time_leaves_out_older_sessions(store):
    assert store.search("since:2200-01-01").hits == []
    assert len(store.search("since:-1h timeout").hits) == 3


def test_search_goes_through_one_line_alone_with_what_it_shares(run, store):
    fork = store.session("run-0").fork(at=1, id="fork")
    fork.append("note", {"content": "the parser again"})
    assert [line.split()[0] for line in run("search", "parser", "--session", "fork").stdout.splitlines()] == [
        "fork@2",
        "fork@0",
    ]
    assert "leave it out" in run("search", "parser", "--session", "fork@1", code=2).stderr


def test_search_shows_what_stands_round_a_match_and_marks_it(run, store):
    store.session("run-0").append("note", {"content": f"{'far ' * 100}the \x1b[31mNEEDLE stands {'here ' * 100}"})
    shown = run("search", "needle").stdout
    assert "\\x1b[31mNEEDLE stands" in shown
    assert "…" in shown
    assert len(shown) < 400
    (found,) = lines(run("search", "needle", "--json"))
    ((start, stop),) = found["snippet"]["matches"]
    assert found["snippet"]["text"][start:stop] == "NEEDLE"


# --- ls ------------------------------------------------------------------------------------------
def test_ls_goes_on_after_the_last_of_a_page(run, store):
    first = run("ls", "-n", "2")
    assert "more: --after run-1" in first.stderr
    assert [info["id"] for info in lines(run("ls", "--after", "run-1", "--json"))] == ["run-0"]


# --- help ----------------------------------------------------------------------------------------
def test_every_topic_is_explained_and_every_command(run):
    for topic in TOPICS:
        assert run("help", topic).stdout.strip(), topic
    for name in command.commands:
        assert "Usage: everlog" in run("help", name).stdout, name
    assert run("help", "query").stdout == run("help", "queries").stdout
    assert "topics are addresses" in run("help", "nothing", code=2).stderr


def test_the_addresses_places_and_queries_that_help_shows_can_be_read():
    shown = [line.split()[0] for line in ADDRESSES.splitlines() if line.startswith("  run-42")]
    assert len(shown) == 8
    for address in shown:
        parsed = parse_address(address.replace("ev_…_17", f"ev_{'0' * 32}_17"))
        if parsed.place:
            parse_place(parsed.place, now=0, naive_is_utc=True)
    places = [line.split("  ")[1].split() for line in PLACES.splitlines() if "     " in line and "cut " in line]
    assert sum(map(len, places)) >= 9
    for place in itertools.chain(*places):
        if "…" not in place and place not in ("a", "time"):
            parse_place(place, now=0)
    queries = [line[2:31].strip() for line in QUERIES.splitlines() if line.startswith("  ") and line[2] != " "]
    assert len(queries) >= 15
    for query in queries:
        assert parse(query, now=10**15).terms, query


def test_completion_completes_commands_and_sessions(path, store):
    for shell in ("bash", "zsh", "fish"):
        ran = subprocess.run([sys.executable, "-m", "everlog", "completion", shell], capture_output=True, check=True)
        assert b"_EVERLOG_COMPLETE" in ran.stdout
    assert "search" in _completed(path, "everlog sea")
    assert _completed(path, "everlog log run-") == ["run-0", "run-1", "run-2"]
    assert "queries" in _completed(path, "everlog help q")
    assert _completed(path + "-not-there", "everlog log run-") == []


def _completed(path, words):
    """Ask for completions as bash does."""
    environment = {
        **os.environ,
        "_EVERLOG_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "EVERLOG_STORE": path,
    }
    program = "from everlog.cli import main; import sys; sys.argv = ['everlog']; main()"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    return sorted(line.partition(",")[2] for line in ran.stdout.splitlines() if line)


# --- doctor --------------------------------------------------------------------------------------
def checks(result):
    return {check["what"]: check for check in lines(result)}


def test_doctor_of_a_sound_store_finds_all_good(run, store):
    found = checks(run("doctor", "--json"))
    assert set(found) == {
        *(
            "sqlite",
            "file",
            "place",
            "disk",
            "permissions",
            "lock",
            "log",
            "search",
            "schema",
            "contents",
            "bodies",
            "encryption",
            "structure",
        ),
    }
    assert {check["verdict"] for name, check in found.items() if name not in ("disk", "lock")} == {"good"}
    assert "3 sessions" in run("doctor").stdout


def test_doctor_without_a_store_says_how_to_get_one(run):
    assert "everlog import" in checks(run("doctor", "--json"))["file"]["advice"]


def test_doctor_sees_a_file_that_others_may_read(run, path):
    everlog.open(path).close()
    os.chmod(path, 0o644)
    found = checks(run("doctor", "--json"))["permissions"]
    assert found["verdict"] == "look"
    assert "chmod 600" in found["advice"]


def test_doctor_sees_who_holds_the_lock(run, path, store):
    if not os.path.exists("/proc/locks"):
        pytest.skip("this system does not tell who holds a lock")
    program = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", program, f"{path}-lock"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        found = checks(run("doctor", "--json"))["lock"]
        process.stdin.close()
        assert process.wait(60) == 0
    assert found["verdict"] == "look"
    assert str(process.pid) in found["found"]
    assert checks(run("doctor", "--json"))["lock"]["verdict"] == "good"


def test_doctor_of_a_damaged_file_exits_with_1_and_says_what_to_do(run, path):
    with everlog.open(path) as store:
        store.create("s").extend([NewEvent("note", {"content": "x" * 5000}) for _ in range(100)])
    with open(path, "r+b") as file:
        file.seek(8192 * 20)
        file.write(b"\xff" * 8192 * 20)
    assert "restore a backup" in run("doctor", code=1).stdout


def test_doctor_of_something_else_says_so(run, path):
    import apsw

    connection = apsw.Connection(path)
    connection.execute("CREATE TABLE other (a)")
    connection.close()
    assert checks(run("doctor", "--json", code=1))["schema"]["found"].startswith("this is a database of something else")


def test_doctor_of_no_database_says_that_it_cannot_be_opened(run, path):
    with open(path, "w") as file:
        file.write("hello " * 1000)
    assert any(check["verdict"] == "bad" for check in lines(run("doctor", "--json", code=1)))
