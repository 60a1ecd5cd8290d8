"""Encryption from the command line: a key, a store that needs it, and another key."""

import json
import stat

import everlog


def said(result):
    return json.loads(result.stdout.splitlines()[-1])


def test_a_store_is_encrypted_looked_at_and_given_another_key(run, path, tmp_path, monkeypatch):
    with everlog.open(path) as store:
        store.create("s", events=[everlog.NewEvent("note", {"content": "first"})])
    assert "does not encrypt" in run("encryption", "keys").stdout
    run("encryption", "seal", code=6)
    made = said(run("encryption", "new-key", str(tmp_path / "old.key"), "--json"))
    assert stat.S_IMODE((tmp_path / "old.key").stat().st_mode) == 0o600
    run("encryption", "new-key", str(tmp_path / "old.key"), code=6)
    shown = run("encryption", "new-key", str(tmp_path / "new.key")).output
    for name in ("old", "new"):
        assert (tmp_path / f"{name}.key").read_text().strip() not in shown

    monkeypatch.setenv("EVERLOG_ENCRYPT", f"file:{tmp_path}/old.key")
    assert "1 event looked at" in run("encryption", "seal").stdout
    assert said(run("encryption", "keys", "--json")) == {"current": made["id"], "retired": []}
    assert "first" in run("log", "s").stdout
    run("append", "s", "note", "--text", "second")
    assert "2 data keys wrapped with" in run("encryption", "rotate", "--to", f"file:{tmp_path}/new.key").stdout
    run("log", "s", code=6)
    monkeypatch.setenv("EVERLOG_ENCRYPT", f"file:{tmp_path}/new.key")
    assert "second" in run("log", "s").stdout
    assert said(run("verify", "--json"))["encrypted"] == 0

    plain = str(tmp_path / "plain.db")
    with everlog.open(plain, encrypt="") as store:
        store.create("p", events=[everlog.NewEvent("note", {"content": "third"})])
    run("copy", plain, path, store=None)
    assert "third" in run("log", "p").stdout

    monkeypatch.delenv("EVERLOG_ENCRYPT")
    assert "does not encrypt" in run("encryption", "keys", store=plain).stdout
    run("copy", path, plain, "s", store=None, code=6)
    run("copy", path, plain, "s", "--source-key", f"file:{tmp_path}/new.key", store=None)
    assert "second" in run("log", "s", store=plain).stdout
    found = run("verify").stdout
    assert "3 encrypted and not looked at" in found
    assert "3 bodies are encrypted, and were not looked at" in found
    assert "and the store was opened with no key" in run("log", "s", code=6).output
    run("erase", "s@1", "--reason", "asked for", "--yes")
    assert "2 encrypted and not looked at" in run("verify").stdout


def test_a_store_of_which_a_part_is_in_plain_text_says_so(run, path, tmp_path, monkeypatch):
    with everlog.open(path) as store:
        store.create("s", events=[everlog.NewEvent("note", {"content": "first"})])
    assert "off: bodies are in plain text" in run("doctor").stdout
    run("encryption", "new-key", str(tmp_path / "key"))
    source = f"file:{tmp_path}/key"
    with everlog.open(path, encrypt=source) as store:
        store.session("s").append("note", {"content": "second"})
    monkeypatch.setenv("EVERLOG_ENCRYPT", source)
    for command in ("doctor", "verify", "stats"):
        assert "everlog encryption seal" in run(command).stdout
    assert (said(run("verify", "--json"))["plain"], said(run("stats", "--json"))["plain"]) == (1, 1)
    run("encryption", "seal")
    for command in ("doctor", "verify", "stats"):
        assert "everlog encryption seal" not in run(command).stdout
    assert "every body is encrypted" in run("doctor").stdout
