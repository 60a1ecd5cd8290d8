"""erase, certificate, hold, release and holds, as a person and a script use them."""

import json

import pytest

import everlog
from everlog import NewEvent


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def session(path):
    with everlog.open(path) as store:
        events = [NewEvent("note", {"content": f"secret {number}"}) for number in range(6)]
        session = store.create("run 42", labels={"user": "u7"}, events=events)
        session.fork(1, id="f")
        yield session


def gone(session):
    return [event.position for event in session if event.erased]


def test_a_dry_run_says_what_would_go_and_changes_nothing(run, session):
    shown = run("erase", "run%2042@0..3", "--dry-run").stdout
    assert "3 events to erase, " in shown
    assert "run%2042@2  note" in shown
    assert "gone too in f, which share them" in shown
    (plan,) = lines(run("erase", "run%2042@0..3", "--reason", "r", "--dry-run", "--json"))
    assert (plan["events"], plan["sharing"], len(plan["listed"])) == (3, ["f"], 3)
    assert gone(session) == []


@pytest.mark.parametrize(
    ("address", "positions"),
    [("@1..3", [1, 2]), ("@..2", [0, 1]), ("@4..", [4, 5]), ("@-2..", [4, 5]), ("@..", list(range(6)))],
)
def test_a_range_of_positions_is_erased(run, session, address, positions):
    run("erase", f"run%2042{address}", "--reason", "r", "--yes")
    assert gone(session) == positions


def test_with_seal_the_record_is_sealed_before(run, session, path, tmp_path):
    words = ("erase", "run%2042@1", "--reason", "r", "--yes")
    assert "everlog keys new" in run(*words, "--seal", "--keys", str(tmp_path / "k"), code=3).stderr
    assert "--seal" in run(*words, "--keys", str(tmp_path / "k"), code=2).stderr
    assert gone(session) == []
    run("keys", "new", "--keys", str(tmp_path / "k"))
    run(*words, "--seal", "--keys", str(tmp_path / "k"))
    assert gone(session) == [1]
    with everlog.open(path) as store:
        entry = store.storage.erasure(session[1].leaf).number
        assert entry in {row.entry for row in store.storage.placed(0, store.seals()[0].head.size)}


def test_what_is_asked_about_is_shown_first_and_refused_where_nobody_can_be_asked(run, session):
    refused = run("erase", "run%2042@1", "--reason", "r", code=2)
    assert "1 event to erase" in refused.stdout
    assert "add --yes" in refused.stderr
    assert gone(session) == []


def test_a_certificate_is_written_checked_and_made_again(run, session, tmp_path):
    file = str(tmp_path / "certificate.json")
    words = ("erase", "run%2042@1", "run%2042@3", "--reason", "asked", "--actor", "ada", "--yes", "--certificate", file)
    assert "check it: everlog certificate --check" in run(*words).stderr
    assert "good: 1 certificate, 2 events erased and on record" in run("certificate", "--check", file).stdout
    assert lines(run("certificate", "--check", file, "--json")) == [
        {"ok": True, "certificates": 1, "events": 2, "faults": [], "fault_count": 0}
    ]
    assert "is there already; nothing was erased" in run(*words, code=2).stderr
    (again,) = lines(run("certificate", "run%2042@1", "run%2042@3"))
    (first,) = map(json.loads, (tmp_path / "certificate.json").read_text().splitlines())
    assert (again["records"], again["root"]) == (first["records"], first["root"])
    assert "was not erased" in run("certificate", "run%2042@0", code=3).stderr
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(first | {"root": "0" * 64}))
    assert "another root" in run("certificate", "--check", str(changed), code=1).stdout
    assert "1 fault" in run("certificate", "--check", str(changed), code=1).stderr
    changed.write_text("")
    assert "holds no certificate" in run("certificate", "--check", str(changed), code=3).stderr
    changed.write_text("{}")
    assert "this is no certificate" in run("certificate", "--check", str(changed), code=2).stderr


def test_a_certificate_is_checked_under_a_key_without_the_store(run, session, tmp_path):
    folder, file = str(tmp_path / "k"), str(tmp_path / "sealed.json")
    key = run("keys", "new", "--keys", folder).stdout.strip()
    run("erase", "run%2042@1", "--reason", "r", "--yes", "--seal", "--keys", folder, "--certificate", file)
    run("erase", "run%2042@2", "--reason", "r", "--yes", "--certificate", str(tmp_path / "early.json"))
    none = str(tmp_path / "none.db")
    found = run("certificate", "--check", file, "--key", key, store=none)
    assert "good: 1 certificate, 1 event on record as erased, and sealed" in found.stdout
    assert "not checked: that the bodies are gone" in found.stdout
    (said,) = lines(run("certificate", "--check", file, "--key", key, "--json", store=none))
    assert (said["ok"], said["certificates"], said["events"], len(said["seals"])) == (True, 1, 1, 1)
    made = json.loads((tmp_path / "sealed.json").read_text())
    (tmp_path / "sealed.json").write_text(json.dumps(made | {"positions": [1, 3]}))
    assert "none of its records names event 3" in run("certificate", "--check", file, "--key", key, code=1).stderr
    early = run("certificate", "--check", str(tmp_path / "early.json"), "--key", key, code=3).stderr
    assert "before its records were sealed" in early
    assert "--check FILE" in run("certificate", "run%2042@1", "--key", key, code=2).stderr
    assert not (tmp_path / "none.db").exists()


def test_a_refused_erasure_leaves_no_certificate(run, session, tmp_path):
    run("hold", "run%2042", "--reason", "r")
    file = tmp_path / "certificate.json"
    run("erase", "run%2042@1", "--reason", "r", "--yes", "--certificate", str(file), code=4)
    assert not file.exists()


def test_a_subject_is_erased_with_what_is_held_told(run, path, session, tmp_path):
    with everlog.open(path) as store:
        store.create("b", labels={"user": "u7"}, events=[NewEvent("note", {"content": "secret"})])
    run("hold", "b", "--reason", "the court asked")
    words = ("erase", "--subject", "label.user:u7", "--reason", "asked for by u7")
    shown = run(*words, "--dry-run")
    assert "6 events of 1 session to erase" in shown.stdout
    assert "1 event of 1 session held, and not erase" in shown.stderr
    assert "Erase 6 events of 1 session? It cannot be undone: add --yes" in run(*words, code=2).stderr
    assert gone(session) == []
    file = str(tmp_path / "u7.json")
    assert "6 events of 1 session erased" in run(*words, "--yes", "--certificate", file).stdout
    assert gone(session) == list(range(6))
    assert "good: 1 certificate, 6 events" in run("certificate", "--check", file).stdout
    assert lines(run(*words, "--yes", "--json"))[0]["events"] == 0


def test_a_session_is_held_listed_and_released(run, session):
    assert "nothing is held" in run("holds").stderr
    assert "run%2042 is held by session-" in run("hold", "run%2042", "--reason", "the court asked").stdout
    run("hold", "run%2042", "--name", "audit-7", "--reason", "the \u202e auditor asked")
    shown = run("holds").stdout
    assert 'audit-7: session:"run 42"  (the \\u{202e} auditor asked)' in shown
    assert len(lines(run("holds", "--json"))) == 2
    refused = run("erase", "run%2042@1", "--reason", "r", "--dry-run")
    assert "refused: run%2042 is held (policy audit-7: the" in refused.stderr
    assert "holds session" in run("erase", "run%2042@1", "--reason", "r", "--yes", code=4).stderr
    assert "it is held still, by audit-7" in run("release", "run%2042", "--reason", "closed").stderr
    assert lines(run("release", "run%2042", "--name", "audit-7", "--reason", "done", "--json")) == [
        {"session": "run 42", "held": False, "held_by": []}
    ]
    assert "not held by a policy" in run("release", "run%2042", "--reason", "again", code=3).stderr
    run("erase", "run%2042@1", "--reason", "r", "--yes")
    assert gone(session) == [1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("erase",), "not both"),
        (("erase", "run%2042@1", "--subject", "session:*"), "not both"),
        (("erase", "run%2042@1", "--types", "note"), "goes with --subject"),
        (("erase", "--subject", "session:*", "--matching", "x"), "give one of them"),
        (("erase", "run%2042~b1@1"), "leave out the branch"),
        (("erase", "run%2042@1", "f@0"), "of one session"),
        (("erase", "run%2042@1", "--matching", "x"), "without a place"),
        (("erase", "run%2042"), "SESSION@.. for all"),
    ],
)
def test_a_wrong_request_says_what_to_do(run, session, words, said):
    assert said in run(*words, "--reason", "r", "--yes", code=2).stderr
    assert "say why" in run("erase", "run%2042@1", "--yes", code=2).stderr
    assert "not both" in run("certificate", code=2).stderr


def test_two_persons_propose_and_approve(run, path, session):
    run("retain", "set", "two", "--query", "label.user:u7", "--action", "approve", "--over", "1", "--reason", "rule 7")
    assert "two: approve what erases more than 1, within 7d" in run("retain", "show").stdout
    words = ("erase", "run%2042@1..4", "--reason", "asked for", "--yes")
    assert "needs two persons" in run(*words, code=4).stderr
    assert "say who" in run(*words, "--propose", code=2).stderr
    said = run(*words, "--propose", "--actor", "ada").stdout
    assert "ada proposes to erase 3 events on 1 branch (asked for): not approved yet" in said
    proposal = said.split()[0]
    assert run("proposals").stdout == f"{said}    run%2042  [1, 4)\n"
    assert "'ada' proposed this" in run("approve", proposal, "--actor", "ada", "--yes", code=2).stderr
    assert "Approve of it as bob?" in run("approve", proposal, "--actor", "bob", code=2).stderr
    assert "approved by bob" in run("approve", proposal, "--actor", "bob", "--yes").stdout
    assert lines(run("proposals", "--json"))[0]["approved_by"] == "bob"
    assert "erased 3 events" in run(*words).stdout
    assert "needs two persons" in run("retain", "remove", "two", "--reason", "r", code=4).stderr
    change = run("retain", "remove", "two", "--reason", "r", "--propose", "--actor", "ada").stdout
    assert "ada proposes to change policy two (r)" in change
    delete = ("delete", "run%2042", "--reason", "r", "--cascade", "--yes")
    assert "needs two persons" in run(*delete, code=4).stderr
    assert "to delete 2 sessions with " in run(*delete, "--propose", "--actor", "ada").stdout
    assert run("proposals").stdout.endswith("    run%2042\n    f\n")
    subject = run("erase", "--subject", "label.user:u7", "--reason", "r", "--propose", "--actor", "ada")
    assert "ada proposes to erase 6 events" in subject.stdout
    run("approve", change.split()[0], "--actor", "bob", "--yes")
    assert "two is removed" in run("retain", "remove", "two", "--reason", "r").stdout
    assert "nothing is proposed" in run("proposals").stderr
    assert "no policy asks for two persons" in run(*words, "--propose", "--actor", "ada", code=2).stderr
