"""Proofs on the command line: made from a store, checked without one."""

import json

import pytest

import everlog
from everlog import NewEvent


@pytest.fixture
def heads(path):
    """A session of 30 events, and a fork of it at 20; the heads of both, and of the first at 10."""
    with everlog.open(path) as store:
        session = store.create("run", events=[NewEvent("note", {"content": f"n{n}\u202e"}) for n in range(30)])
        fork = session.fork(at=20, id="fork")
        return {"run": str(session.head), "ten": str(session.head_at(10)), "fork": str(fork.head)}


def test_an_event_is_proved_to_a_file_and_checked_without_the_store(run, heads, tmp_path):
    file = tmp_path / "17.proof"
    assert "event 17 stands in the line" in run("prove", "run@17", "--to", str(file)).stdout
    checked = run("check-proof", str(file), "--head", heads["run"], store=None).stdout
    assert "good: event 17" in checked
    assert '"content":"n17\\u{202e}"' in checked
    assert "body" not in json.loads(run("prove", "run@17", "--no-body").stdout)["event"]
    again = json.loads(run("check-proof", str(file), "--head", heads["run"], "--json", store=None).stdout)
    assert again == {"ok": True, "proof": "event", "position": 17, "head": heads["run"]}


def test_a_changed_proof_and_another_head_are_told_with_exit_code_1(run, heads, tmp_path):
    file = tmp_path / "17.proof"
    run("prove", "run@17", "--to", str(file))
    assert "of another head" in run("check-proof", str(file), "--head", heads["ten"], code=1, store=None).stderr
    file.write_bytes(file.read_bytes().replace(b"n17", b"n18"))
    assert "does not hold" in run("check-proof", str(file), "--head", heads["run"], code=1, store=None).stderr
    file.write_bytes(b"\xff" * 100)
    assert "no proof" in run("check-proof", str(file), "--head", heads["run"], code=1, store=None).stderr


def test_ranges_growth_and_forks_are_proved_too(run, heads, tmp_path):
    file = str(tmp_path / "a.proof")
    run("prove", "run@5", "--stop", "9", "--to", file)
    assert "events 5 to 8" in run("check-proof", file, "--head", heads["run"], store=None).stdout
    run("prove", "run", "--since", heads["ten"], "--to", file)
    checked = run("check-proof", file, "--old", heads["ten"], "--head", heads["run"], store=None)
    assert "begins with all of" in checked.stdout
    run("prove", "run", "--fork", "fork", "--to", file)
    forked = run("check-proof", file, "--head", heads["run"], "--other", heads["fork"], store=None)
    assert "the same up to 20" in forked.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("run",),
        ("run@3", "--fork", "fork"),
        ("run@3", "--stop", "5", "--fork", "fork"),
        ("run", "--since", "nothing"),
        ("run@3", "--stop", "3"),
        ("run", "--fork", "fork@2"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(run, heads, words):
    run("prove", *words, code=2)


def test_a_proof_is_never_checked_against_its_own_word(run, heads, tmp_path):
    file = str(tmp_path / "a.proof")
    for made, option in ((("run@3",), "--head"), (("run", "--fork", "fork"), "--head")):
        run("prove", *made, "--to", file)
        assert option in run("check-proof", file, code=2, store=None).stderr
    assert "no file" in run("check-proof", str(tmp_path / "none"), code=3, store=None).stderr
