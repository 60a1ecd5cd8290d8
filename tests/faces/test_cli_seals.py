"""Keys, seals and witnesses on the command line."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

import everlog
from authority import Authority
from everlog import NewEvent
from everlog.core.sealed_proof import read_sealed_proof

DEADLINE_SECONDS = 60


@pytest.fixture
def folder(path, tmp_path, monkeypatch):
    """A store with a session, and where its keys are."""
    with everlog.open(path) as store:
        store.create("run", events=[NewEvent("note", {"content": f"n{n}"}) for n in range(30)])
    monkeypatch.setenv("EVERLOG_KEYS", str(tmp_path / "keys"))
    return tmp_path / "keys"


def test_a_key_is_made_shown_and_changed(run, folder):
    assert "everlog keys new" in run("keys", "show", code=3).stderr
    key = run("keys", "new", "--origin", "example.com/log").stdout.strip()
    assert re.fullmatch(r"example\.com/log\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44}", key)
    assert run("keys", "show").stdout.strip() == key
    run("keys", "new", code=2)
    rotated = json.loads(run("keys", "rotate", "--json").stdout)["key"]
    assert rotated != key
    assert "seal first" in run("keys", "rotate", code=2).stderr
    run("seal")
    assert run("keys", "revoke").stdout.startswith("example.com/log/2+")
    assert os.listdir(folder)
    run("keys", "new", "--sign-command", "sign me", "--keys", str(folder / "other"), code=2)


def test_what_is_sealed_is_verified_with_the_key(run, folder, tmp_path):
    assert "everlog keys new" in run("seal", code=3).stderr
    key = run("keys", "new").stdout.strip()
    assert "there is no seal yet" in run("seals").stderr
    assert "not sealed yet: 30 events" in run("verify").stdout
    copy = tmp_path / "copy.txt"
    assert "sealed 3 records" in run("seal", "--to", str(copy)).stdout
    assert json.loads(run("seal", "--json").stdout)["size"] == 3
    assert "1 signature" in run("seals").stdout
    said = run("verify", "--key", key, "--seals", str(copy)).stdout
    assert "not sealed yet: 0 events" in said
    assert "seals of your keys: 2" in said
    run("append", "run", "note", '{"content": "more"}')
    assert json.loads(run("verify", "--json", "--key", key).stdout)["unsealed"] == 1
    copy.write_text(copy.read_text().replace("\n3\n", "\n9\n"))
    assert "records are gone" in run("verify", "--key", key, "--seals", str(copy), code=1).stdout
    run("verify", "run", "--key", key, code=2)
    run("verify", "--key", "no key", code=2)
    run("verify", "--seals", str(tmp_path / "none"), code=3)


def test_a_sealed_proof_is_checked_with_the_key_alone(run, folder, tmp_path):
    key = run("keys", "new").stdout.strip()
    file = tmp_path / "17.tlog-proof"
    assert "no seal covers" in run("prove", "run@17", "--sealed", code=3).stderr
    run("seal")
    assert "which is sealed" in run("prove", "run@17", "--sealed", "--to", str(file)).stdout
    assert "good: event 17" in run("check-proof", str(file), "--key", key, store=None).stdout
    checked = json.loads(run("check-proof", str(file), "--key", key, "--json", store=None).stdout)
    assert (checked["ok"], checked["proof"], checked["position"]) == (True, "sealed", 17)
    run("check-proof", str(file), code=2, store=None)
    run("check-proof", str(file), "--key", key, "--quorum", "1", code=1, store=None)
    file.write_bytes(file.read_bytes().replace(b"index 2", b"index 1"))
    run("check-proof", str(file), "--key", key, code=1, store=None)
    run("prove", "run@17", "--sealed", "--stop", "19", code=2)


def test_the_ledger_is_written_as_tiles_and_checked_with_the_key_alone(run, folder, tmp_path):
    key = run("keys", "new").stdout.strip()
    served = str(tmp_path / "served")
    assert "seal first" in run("tiles", served, code=3).stderr
    run("seal")
    assert "3 records, 2 files new" in run("tiles", served).stdout
    assert json.loads(run("tiles", served, "--json").stdout) == {"size": 3, "files": 0}
    assert "good: 3 records" in run("check-tiles", served, "--key", key, store=None).stdout
    assert json.loads(run("check-tiles", served, "--key", key, "--json", store=None).stdout)["size"] == 3
    (tmp_path / "served" / "tile" / "0" / "000.p" / "3").write_bytes(b"x" * 96)
    assert "was changed" in run("check-tiles", served, "--key", key, code=1, store=None).stderr


@contextmanager
def started(*words):
    """Start a command that goes on until it is stopped."""
    with subprocess.Popen(
        [sys.executable, "-m", "everlog", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def stopped(process):
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 130, err
    return out


def test_it_seals_again_and_again_with_a_witness_until_it_is_stopped(run, path, folder, tmp_path):
    key = run("keys", "new").stdout.strip()
    words = ("witness", "--name", "w", "--log", key, "--folder", str(tmp_path / "w"), "--port", "0", "--json")
    with started(*words) as witness, everlog.open(path) as store:
        told = json.loads(witness.stdout.readline())
        asked = f"{told['key']}@{told['url']}"
        with started("--store", path, "seal", "--every", "1s", "--witness", asked, "--json") as sealing:
            assert json.loads(sealing.stdout.readline())["size"] == 3
            session = store.session("run")
            session.append("note", {"content": "more"})
            second = json.loads(sealing.stdout.readline())
            assert (second["size"], second["warnings"]) == (4, [])
            stopped(sealing)
        stopped(witness)
        proof = read_sealed_proof(session.prove_sealed(30).encode())
    assert list(proof.verify(key, witnesses=[told["key"]], quorum=1).times) == ["w"]


@pytest.mark.parametrize("every", ["0", "x", "-1s", "0.5s", "367d"])
def test_a_time_that_is_none_is_refused(run, folder, every):
    run("seal", "--every", every, code=2)


def test_a_seal_is_stamped_by_an_authority_and_the_stamp_is_checked(run, folder, tmp_path):
    key = run("keys", "new").stdout.strip()
    with Authority(tmp_path / "authority").serving() as authority:
        run("seal", "--timestamp", authority.url)
        authority.answers = [(500, b"")]
        run("append", "run", "note", '{"content": "later"}')
        assert "gave no time stamp" in run("seal", "--timestamp", authority.url).stderr
    (seals,) = folder.glob("*/seals.txt")
    trusted = ["--seals", str(seals), "--tsa-ca", str(authority.certificates)]
    said = run("verify", "--key", key, *trusted).stdout
    assert "time stamps: 1; the last of 3 records at 20" in said
    assert "1 seals have no time stamp" in said
    assert json.loads(run("verify", *trusted, "--json").stdout)["stamps"] == 1
    (stamp,) = folder.glob("*/timestamps/*")
    stamp.write_bytes(b"x")
    assert "the time stamp" in run("verify", *trusted, code=1).stdout
    assert "give both" in run("verify", "--tsa-ca", str(authority.certificates), code=2).stderr
    assert "no address" in run("seal", "--timestamp", "here", code=2).stderr
