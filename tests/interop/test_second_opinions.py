"""What libraries of others say of our proofs, seals and time stamps: those of a real store they accept, altered ones they refuse."""

import json
import os
import shutil
import subprocess
from base64 import b64decode
from collections import Counter
from pathlib import Path

import pytest

from authority import Authority, openssl
from everlog.core.note import open_checkpoint, parse_note, parse_verifier_key
from interop import cases as made

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parents[1] / ".venv-interop"
GO = Path("/usr/share/gocode/src/golang.org/x/mod")
SECONDS_MAX = 240


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interop")
    found = made.make(folder, Authority(folder / "authority"))
    (folder / "cases.json").write_text(json.dumps(found), encoding="utf-8")
    return found | {"path": folder / "cases.json", "scratch": folder}


def ask(*words, **environment):
    ran = subprocess.run(
        list(map(str, words)), capture_output=True, env=os.environ | environment, timeout=SECONDS_MAX, check=False
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return json.loads(ran.stdout)


def check(library, cases, said):
    """Hold what a library says against what is so; tell how many cases of each kind there were."""
    counts = Counter()
    for kind in ("inclusion", "consistency", "notes", "stamps"):
        for case, accepted in zip(cases[kind], said.get(kind, cases[kind]), strict=True):
            if kind in said:
                expected = case["good"] or library in case.get("lax", ())
                assert accepted == expected, f"{library} {'took' if accepted else 'refused'} {case['name']}"
                counts[f"{kind}, {'accepted' if accepted else 'refused'}"] += 1
    assert all(said.get("roots", [True]))
    assert counts and all(any(word.endswith(verdict) for word in counts) for verdict in ("accepted", "refused"))
    print(f"{library}: {dict(counts)}")


def test_go(cases):
    if shutil.which("go") is None or not GO.exists():
        pytest.skip("Go's x/mod is not on this machine; on Debian: apt-get install golang-go golang-golang-x-mod-dev")
    said = ask(
        "go", "run", HERE / "opinions.go", cases["path"],
        GO111MODULE="off", GOPATH="/usr/share/gocode", GOCACHE=str(cases["scratch"] / "cache"), GOFLAGS="",
    )  # fmt: skip
    check("go", cases, said)
    assert set(said) == {"inclusion", "consistency", "notes", "roots", "tiles", "theirs"}
    assert said["tiles"] is True
    theirs = parse_verifier_key(said["theirs"]["key"])
    checkpoint, _ = open_checkpoint(said["theirs"]["note"].encode(), origin=theirs.name, keys=[theirs])
    assert checkpoint.head.size == cases["tiles"]["size"]


def test_python(cases):
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        pytest.skip("sigstore and pymerkle are not installed: python3 dev.py interop does it")
    said = ask(python, HERE / "opinions.py", cases["path"])
    check("sigstore", cases, said)
    assert len(said["roots"]) == 2


def test_npm(cases):
    folder = ENVIRONMENT / "npm"
    if shutil.which("node") is None or not (folder / "node_modules").exists():
        pytest.skip("npm's @sigstore/verify is not installed: python3 dev.py interop does it where there is npm")
    check("npm", cases, ask("node", HERE / "opinions.mjs", cases["path"], folder))


def test_openssl(cases):
    folder = cases["scratch"]
    key_file, text_file, signature_file = (folder / name for name in ("key.der", "text", "signature"))
    counts = Counter()
    for case in cases["notes"]:
        try:
            note = parse_note(case["note"].encode())
        except ValueError:
            continue
        key = parse_verifier_key(case["keys"][0])
        signature = note.signatures[0]
        if len(case["keys"]) > 1 or (signature.name, signature.id) != (key.name, key.id):
            continue  # openssl knows signatures, and nothing of names and of who else must sign
        key_file.write_bytes(bytes.fromhex("302a300506032b6570032100") + key.key)
        text_file.write_text(note.text, encoding="utf-8")
        signature_file.write_bytes(signature.content)
        words = ["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-rawin", "-inkey", key_file]
        ran = openssl(*words, "-in", text_file, "-sigfile", signature_file, check=False)
        assert (ran.returncode == 0) == case["good"], case["name"]
        counts[f"notes, {case['good']}"] += 1
    for case in cases["stamps"]:
        text_file.write_text(case["note"], encoding="utf-8")
        signature_file.write_bytes(b64decode(case["stamp"]))
        trusted = folder / "authority" / "ca.pem"
        ran = openssl("ts", "-verify", "-data", text_file, "-in", signature_file, "-CAfile", trusted, check=False)
        assert (ran.returncode == 0) == case["good"], case["name"]
        counts[f"stamps, {case['good']}"] += 1
    assert len(counts) == 4
    print(f"openssl: {dict(counts)}")
