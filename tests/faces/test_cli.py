"""The command line as a person and a script use it."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

import everlog
from everlog import NewEvent
from everlog.cli.commands import everlog as command
from everlog.cli.output import visible

RUN = {
    "trajectory": [{"action": "ls", "observation": "a.py", "response": "", "state": "{}", "thought": "Look around."}],
    "history": [{"role": "user", "content": "Mend it."}],
}


@pytest.fixture
def session(path):
    with everlog.open(path) as store:
        made = store.create("run 42@x", title="A title", labels={"k": "v"})
        made.extend([NewEvent("note", {"content": f"number {n}"}) for n in range(30)])
        made.append("agent.tool_use", {"id": "c1", "name": "bash", "input": {"cmd": "ls"}}, rationale="to look")
        made.checkpoint("here")
        yield made


ADDRESS = "run%2042%40x"


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_import_then_again_then_list(run, tmp_path):
    file = tmp_path / "a run.traj"
    file.write_text(json.dumps(RUN), encoding="utf-8")
    assert "5 events new" in run("import", "swe-agent", str(file)).stdout
    assert lines(run("import", "swe-agent", str(file), "--json"))[0]["events"] == 0
    assert [info["id"] for info in lines(run("ls", "label.source:swe-agent", "--json"))] == ["a run"]


def test_one_bad_file_stops_none_of_the_others(run, tmp_path):
    good, bad = tmp_path / "good.traj", tmp_path / "bad.traj"
    good.write_text(json.dumps(RUN), encoding="utf-8")
    bad.write_text("{", encoding="utf-8")
    result = run("import", "swe-agent", str(bad), str(good), code=2)
    assert "good: 5 events new" in result.stdout
    assert "bad.traj" in result.stderr


def test_log_is_bounded_and_says_how_to_see_more(run, session):
    result = run("log", ADDRESS, "-n", "5")
    assert len(result.stdout.splitlines()) == 5
    assert "27 earlier: -n 20" in result.stderr
    first = run("log", ADDRESS, "--after", "-1", "-n", "3")
    assert "number 2" in first.stdout
    assert "number 3" not in first.stdout
    assert "29 more: --after 2" in first.stderr


def test_log_up_to_a_place_with_a_query(run, session):
    assert [event["position"] for event in lines(run("log", f"{ADDRESS}@10", "number", "-n", "2", "--json"))] == [8, 9]
    assert [event["type"] for event in lines(run("log", ADDRESS, "rationale:*look*", "--json"))] == ["agent.tool_use"]
    assert run("log", f"{ADDRESS}@here", "type:checkpoint").stdout.count("checkpoint") == 1


def test_calls_of_models_and_what_stands_only_in_attachments_read_as_a_line_each(run, path):
    with everlog.open(path) as store:
        made = store.create("calls")
        call = made.append("model.request", {"model": "m-1", "provider": "anthropic", "params": {"max_tokens": 9}})
        usage = {"input_tokens": 3, "output_tokens": 2, "cache": {"read": 1}}
        made.append(
            "model.response",
            {"request": call.id, "model": "m-1", "stop_reason": "end_turn", "usage": usage},
            outcome="ok",
        )
        error = {"kind": "BadRequestError", "message": "400 - no \x1b[31m"}
        made.append("model.response", {"request": call.id, "is_error": True, "error": error}, outcome="error")
        made.append("model.response", {"request": call.id})
        made.append("x.item", attachments={"native.json": bytes(30_000)})
    said = [line[44:].strip() for line in run("log", "calls").stdout.splitlines()]
    assert said == [
        "m-1 at anthropic",
        "ok  m-1, end_turn, 3 input tokens, 2 output tokens",
        r"error  BadRequestError: 400 - no \x1b[31m",
        f'{{"request":"{call.id}"}}',
        "native.json (30.0 kB)",
    ]


def test_a_list_of_sessions_stands_in_columns_as_wide_as_their_names(run, path):
    with everlog.open(path) as store:
        for name in ("a", "adk/trips/u7/565bad5b-1c78-4712-aac4-1ac8861612de", "x" * 200):
            store.create(name)
    first, second, third = run("ls", "--order", "id").stdout.splitlines()
    assert first.index(" 0  20") == second.index(" 0  20") < third.index(" 0  20")


def test_show_of_a_session_and_of_an_event(run, session):
    shown = lines(run("show", ADDRESS, "--json"))[0]
    assert (shown["size"], shown["labels"]) == (32, {"k": "v"})
    event = lines(run("show", f"{ADDRESS}@30", "--json"))[0]
    assert event["data"]["input"] == {"cmd": "ls"}
    assert "to look" in run("show", f"{ADDRESS}@-2").stdout


def test_fork_rewind_and_tree(run, session):
    assert "shares [0, 17)" in run("fork", f"{ADDRESS}@17", "--id", "other").stdout
    assert "b2" in run("rewind", f"{ADDRESS}@20", "--reason", "wrong path").stdout
    drawn = run("tree", ADDRESS).stdout
    assert "other~b1" in drawn
    assert "b2  [20, 21)" in drawn
    assert {(node["session"], node["branch"], node["current"]) for node in lines(run("tree", ADDRESS, "--json"))} == {
        ("run 42@x", "b1", False),
        ("run 42@x", "b2", True),
        ("other", "b1", True),
    }
    assert [event["position"] for event in lines(run("log", f"{ADDRESS}~b1", "-n", "1", "--json"))] == [31]


def test_a_lineage_of_very_many_rewinds_is_drawn(run, session):
    for _ in range(1200):
        session.rewind("end")
    drawn = run("tree", ADDRESS)
    assert len(drawn.stdout.splitlines()) == 200
    assert "1001 more: -n 1201" in drawn.stderr
    assert len(run("tree", ADDRESS, "-n", "1201").stdout.splitlines()) == 1201


def test_export_and_import_into_another_store(run, session, tmp_path):
    bundle = str(tmp_path / "b.everlog")
    run("export", ADDRESS, bundle)
    result = CliRunner().invoke(command, ["--store", str(tmp_path / "other.db"), "import", bundle, "--json"])
    assert json.loads(result.stdout)["events"] == 32
    with everlog.open(tmp_path / "other.db") as other:
        assert other.session("run 42@x").head == session.refresh()


def test_verify_says_good_and_what_it_did_not_check(run, session):
    result = run("verify")
    assert "good: 32 events" in result.stdout
    assert "not checked" in result.stdout
    assert lines(run("verify", ADDRESS, "--json"))[0]["ok"]


def test_verify_of_a_changed_body_names_it_and_exits_with_1(run, session, path):
    import apsw

    connection = apsw.Connection(path)
    connection.execute("UPDATE event SET body = CAST('{}' AS BLOB) WHERE position = 7")
    connection.close()
    assert "@7: its body is not the one" in run("verify", code=1).stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("log", "nobody"), 3, "no session 'nobody'"),
        (("show", f"{ADDRESS}@99"), 3, "no event 99"),
        (("log", ADDRESS, "colour:red"), 2, "is no key of a query"),
        (("log", f"{ADDRESS}~zz"), 2, "names branch"),
        (("fork", ADDRESS, "--id", "run 42@x"), 2, "exists"),
        (("rewind", ADDRESS), 2, "name the place"),
        (("import", "nothing.everlog"), 3, "neither a format"),
    ],
)
def test_errors_say_what_to_do_and_have_exit_codes(run, session, words, code, said):
    assert said in run(*words, code=code).stderr


@pytest.mark.parametrize(
    ("content", "kind"), [(b"SQLite format 3\x00" + bytes(500), "a SQLite database"), (b' {"type": "user"}\n', "JSON")]
)
def test_a_file_that_is_imported_without_its_format_is_no_damaged_bundle(run, tmp_path, content, kind):
    (tmp_path / "theirs").write_bytes(content)
    said = run("import", str(tmp_path / "theirs"), code=2).stderr
    assert (
        f"is {kind} where a bundle is a file that `everlog export` wrote; nothing was imported; name the format first"
        in said
    )


def test_a_mistyped_format_makes_no_store(run, path):
    run("import", "langgraf", "checkpoints.sqlite", code=3)
    assert not os.path.exists(path)


def test_errors_are_json_where_json_is_asked_for(path, session):
    words = [sys.executable, "-m", "everlog", "--store", path, "log", "nobody", "--json"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 3
    assert json.loads(ran.stderr)["error"] == "not_found"


def test_a_store_that_is_not_there_is_not_made_by_reading(run, path):
    assert "there is no store" in run("ls", code=3).stderr
    assert not os.path.exists(path)


def test_hostile_text_is_made_visible(run, path):
    hostile = "\x1b[2J\u202egnp.exe\x07"
    with everlog.open(path) as store:
        store.create("s", title=hostile).append("note", {"content": hostile}, rationale=hostile)
    shown = "".join(
        run(*words).stdout for words in (("log", "s"), ("show", "s@0"), ("show", "s"), ("ls",), ("tree", "s"))
    )
    assert visible(hostile) in shown
    assert "\u202e" not in shown
    assert "\x07" not in shown
    assert "\x1b" not in shown
    assert "\\x1b" in shown
    assert "\\u{202e}" in shown


def test_every_command_has_help_with_an_example(run):
    for name, each in command.commands.items():
        assert "Example" in run(name, "--help").stdout, name
        assert each.help, name


def test_the_demo_kills_its_agent_and_ends_well(tmp_path):
    words = [sys.executable, "-m", "everlog", "demo", "--folder", str(tmp_path)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert "the process is gone" in ran.stdout
    assert "in flight when it died: run_tests" in ran.stdout
    assert "good: 19 events" in ran.stdout
