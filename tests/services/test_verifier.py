"""The verifier for strangers: one file, run as it is handed out, that says of every bundle what the importer says of it."""

import ast
import json
import os
import random
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

import msgspec
import pytest

import everlog
from bundles import members, rebuild
from databases import address
from everlog import NewEvent, verifier
from everlog.core.header import commit_body
from everlog.core.merkle import leaf_hash, node_hash, range_root
from everlog.errors import InvalidEventError, TamperedError
from everlog.storage import Append

VERIFIER = verifier.__file__
VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "rfc6962-inclusion.json"
EVERY_BIT = os.environ.get("EVERLOG_FAULTS") == "1"


def run(path, *words):
    """Run it as a stranger does: without everlog, and without any library that is installed."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", VERIFIER, str(path), "--json", *words],
        capture_output=True,
        text=True,
    )
    assert done.stderr == "", done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def store(tmp_path):
    with everlog.open(tmp_path / "store.db") as opened:
        yield opened


@pytest.fixture
def session(store):
    made = store.create("s", title="Title", labels={"k": "v"}, metadata={"m": [1, 2]})
    made.extend([NewEvent("note", {"content": f"n{n} é\u2028"}, key=f"k{n}") for n in range(1200)])
    made.append("agent.message", {"content": "see"}, attachments={"a.bin": b"\x00\x01" * 50}, caused_by=made[3])
    made.rewind(1000, reason="back")
    made.append("note", {"content": "on b2"}, occurred_at=-5)
    return made


def exported(session, tmp_path, **how):
    path = tmp_path / f"{len(list(tmp_path.glob('*.everlog')))}.everlog"
    session.export(path, **how)
    return path


def test_a_session_of_many_shapes_holds_and_is_not_covered_by_a_seal(store, session, tmp_path):
    fork = session.fork(700, id="f")
    fork.append("note", {"content": "forked"})
    session.erase([7], reason="asked")
    code, report = run(exported(session, tmp_path))
    assert (code, report["verdict"], report["faults"]) == (3, "not covered by a seal", [])
    assert report["counts"] == {
        "events": 1203,
        "bodies": 1202,
        "attachments": 1,
        "keys": 1200,
        "erased": 1,
        "withheld": 0,
        "sealed": 0,
    }
    heads = {head["branch"]: head for head in report["heads"]}
    assert f"{session.size()}:{heads[session.branch().id]['root']}" == str(session.refresh())
    assert run(exported(fork, tmp_path))[0] == 3
    assert any("title" in line for line in report["unchecked"])


def test_what_is_withheld_is_incomplete_and_not_tampered(session, tmp_path):
    code, report = run(exported(session, tmp_path, withhold="type:agent.message"))
    assert (code, report["faults"], report["counts"]["withheld"]) == (2, [], 1)
    assert "withheld" in report["missing"][0]


@pytest.fixture
def keys(store, tmp_path):
    return store.keys(tmp_path / "keys")


def test_a_sealed_bundle_is_good_under_the_key_that_is_pinned_and_under_no_other(store, session, keys, tmp_path):
    key = keys.new()
    session.erase([7], reason="asked")
    store.seal(keys=keys)
    path = exported(session, tmp_path)
    code, report = run(path, "--key", key)
    assert (code, report["faults"], report["unsealed"], report["missing"]) == (0, [], [], [])
    assert (report["counts"]["sealed"], len(report["seal"]["signers"])) == (1203, 1)
    with everlog.open("memory:") as other:
        stranger = other.keys(tmp_path / "others").new()
    assert run(path)[0] == run(path, "--key", stranger)[0] == 3
    assert "no key" in run(path)[1]["unsealed"][0]
    with everlog.open("memory:") as target:
        assert target.import_bundle(path).events == 1203


def test_the_library_and_the_program_openssl_say_the_same_of_a_signature(store, session, keys, tmp_path):
    key = keys.new()
    store.seal(keys=keys)
    path = exported(session, tmp_path)
    assert verifier.verify_bundle(str(path), [key]).code == run(path, "--key", key)[0] == 0
    content = dict(members(path))
    forged = json.loads(content["sealed.json"])
    text, _, line = forged["note"].rpartition("\n\n")
    at = len(line) // 2
    forged["note"] = f"{text}\n\n{line[:at]}{'A' if line[at] != 'A' else 'B'}{line[at + 1 :]}"
    content["sealed.json"] = json.dumps(forged, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    rebuild(path, list(content.items()))
    assert verifier.verify_bundle(str(path), [key]).code == run(path, "--key", key)[0] == 1
    assert "not that key's" in run(path, "--key", key)[1]["faults"][0]


def test_what_was_recorded_after_the_seal_is_not_covered(store, session, keys, tmp_path):
    key = keys.new()
    store.seal(keys=keys)
    session.append("note", {"content": "later"})
    code, report = run(exported(session, tmp_path), "--key", key)
    assert (code, report["faults"], report["counts"]["sealed"]) == (3, [], 1203)
    assert report["unsealed"] == ["1 events that no such seal covers"]


def test_a_fork_s_seal_vouches_for_what_it_shares(store, session, keys, tmp_path):
    key = keys.new()
    fork = session.fork(700, id="f")
    fork.append("note", {"content": "forked"})
    store.seal(keys=keys)
    code, report = run(exported(fork, tmp_path), "--key", key)
    assert (code, report["counts"]["sealed"], report["counts"]["events"]) == (0, fork.size(), fork.size())


def test_an_erasure_whose_record_no_seal_covers_is_not_covered(store, session, keys, tmp_path):
    key = keys.new()
    store.seal(keys=keys)
    session.erase([7], reason="asked")
    code, report = run(exported(session, tmp_path), "--key", key)
    assert (code, report["faults"]) == (3, [])
    assert report["unsealed"] == ["records of erasures that no such seal covers"]


def test_events_taken_off_the_end_of_what_was_sealed_are_missed_by_both(store, session, keys, tmp_path):
    key = keys.new()
    store.seal(keys=keys)
    session.append("note", {"content": "last"})
    whole = dict(members(exported(session, tmp_path)))
    store.seal(keys=keys)
    path = exported(session, tmp_path)
    shorter = dict(members(path))
    store_now = shorter["sealed.json"]
    session_before = {name: data for name, data in whole.items() if name != "sealed.json"}
    manifest = json.loads(session_before["manifest.json"])
    branch = manifest["branches"][-1]
    headers = session_before["branches/0001/000001.headers"].splitlines(keepends=True)[:-1]
    bodies = session_before["branches/0001/000001.bodies"].splitlines(keepends=True)[:-1]
    branch["size"] -= 1
    branch["root"] = session.branch("b2").prove(0, at=branch["size"]).head.root
    session_before["manifest.json"] = json.dumps(manifest).encode()
    session_before["branches/0001/000001.headers"] = b"".join(headers)
    session_before["branches/0001/000001.bodies"] = b"".join(bodies)
    rebuild(path, [*list(session_before.items())[:-1], ("sealed.json", store_now)])
    code, report = run(path, "--key", key)
    assert (code, report["faults"]) == (2, [])
    assert "were sealed" in report["missing"][0]
    with everlog.open("memory:") as target, pytest.raises(TamperedError, match="were sealed"):
        target.import_bundle(path)


def test_a_seal_of_another_history_is_told_by_both(store, session, keys, tmp_path):
    key = keys.new()
    store.seal(keys=keys)
    path = exported(session, tmp_path)
    content = dict(members(path))
    sealed = json.loads(content["sealed.json"])
    record = json.loads(sealed["records"][0]["record"])
    record["size"] -= 1
    sealed["records"][0]["record"] = json.dumps(record, separators=(",", ":"))
    content["sealed.json"] = json.dumps(sealed, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    rebuild(path, list(content.items()))
    assert run(path, "--key", key)[0] == 1
    with everlog.open("memory:") as target, pytest.raises(TamperedError, match="does not stand in the ledger"):
        target.import_bundle(path)


@pytest.mark.parametrize("cuts", [(0, 1), (0, 1202), (3, 17), (511, 513), (1200, 1202), (-5, "end")])
def test_a_range_leads_to_a_head_by_what_lies_round_it(store, session, keys, tmp_path, cuts):
    path = exported(session, tmp_path, start=cuts[0], stop=cuts[1], branch="b1")
    code, report = run(path)
    assert (code, report["faults"]) == (3, [])
    assert {head["branch"]: f"{head['size']}:{head['root']}" for head in report["heads"]} == {
        session.branch("b1").id: str(session.branch("b1").head)
    }
    key = keys.new()
    store.seal(keys=keys)
    sealed = exported(session, tmp_path, start=cuts[0], stop=cuts[1], branch="b1")
    code, report = run(sealed, "--key", key)
    assert (code, report["faults"], report["kind"]) == (0, [], "range")
    with everlog.open("memory:") as target, pytest.raises(InvalidEventError, match="a range"):
        target.import_bundle(path)


def test_a_range_whose_events_or_hashes_were_changed_is_tampered(session, tmp_path):
    path = exported(session, tmp_path, start=5, stop=9)
    content = members(path)
    for place, (name, data) in enumerate(content):
        if name.startswith(("manifest", "branches")):
            for at in range(len(data) // 3, len(data), max(1, len(data) // 7)):
                changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
                rebuild(path, [*content[:place], (name, changed), *content[place + 1 :]])
                code = verifier.verify_bundle(str(path)).code
                assert code == 1 or (name == "manifest.json" and b'"id"' in data[:at] and code == 3), (name, at)


def test_all_sessions_of_a_subject_are_written_into_a_folder(store, session, tmp_path):
    for name in ("a/b", "A/B", "..", "other"):
        made = store.create(name, labels={} if name == "other" else {"user": "u7"})
        made.append("note", {"content": name})
    told = []
    exported_all = store.export("label.user:u7", tmp_path / "u7", progress=told.append)
    assert [each.session for each in exported_all] == ["a/b", "A/B", ".."]
    assert told == [1, 2, 3]
    assert len({each.path.lower() for each in exported_all}) == 3  # on a disk that takes them for the same too
    assert sorted(str(path) for path in (tmp_path / "u7").iterdir()) == sorted(each.path for each in exported_all)
    with everlog.open("memory:") as target:
        for each in exported_all:
            assert run(each.path)[0] == 3
            target.import_bundle(each.path)
        assert {info.id for info in target.sessions()} == {"a/b", "A/B", ".."}


@pytest.fixture
def sealed_fork(tmp_path):
    """The bundle of a fork with an attachment, keys, an erased event and a seal; and the key that sealed it."""
    path = tmp_path / "s.everlog"
    with everlog.open("memory:") as store:
        session = store.create("s", events=[NewEvent("note", {"content": "one"}, attachments={"a": b"x"})])
        session.append("note", {"content": "two"}, key="k", actor="a", outcome="ok")
        session.append("note", {"content": "three"})
        fork = session.fork(2, id="f")
        fork.append("note", {"content": "four"})
        fork.erase([1], reason="asked")
        keys = store.keys(tmp_path / "keys")
        key = keys.new()
        store.seal(keys=keys)
        fork.export(path)
    assert verifier.verify_bundle(str(path), [key]).code == 0
    return path, key


@pytest.mark.timeout(3_600)  # each bit takes a minute or ten
def test_no_bit_of_a_sealed_bundle_can_be_flipped(sealed_fork, tmp_path):
    """Each bit in turn with EVERLOG_FAULTS=1; else some thousands of them, all over it."""
    path, key = sealed_fork
    whole, changed = path.read_bytes(), tmp_path / "changed.everlog"
    changed.write_bytes(whole)
    with everlog.open("memory:") as target, changed.open("r+b", buffering=0) as file:
        for bit in range(0, 8 * len(whole), 1 if EVERY_BIT else 67):
            at = bit // 8
            os.pwrite(file.fileno(), bytes([whole[at] ^ 1 << bit % 8]), at)
            assert verifier.verify_bundle(str(changed), [key]).code == 1, bit
            with pytest.raises(TamperedError):
                target.import_bundle(changed)
            os.pwrite(file.fileno(), whole[at : at + 1], at)
        for size in range(0, len(whole), 509):
            changed.write_bytes(whole[:size])
            assert verifier.verify_bundle(str(changed), [key]).code == 2, size
            with pytest.raises(TamperedError):
                target.import_bundle(changed)
        changed.write_bytes(whole + b"\x00")
        assert verifier.verify_bundle(str(changed), [key]).code == 1
        assert target.sessions() == []


def test_the_verifier_and_the_importer_say_the_same_of_what_was_changed_on_purpose(session, tmp_path):
    session.erase([1], reason="asked")
    path = exported(session, tmp_path, start=None)
    content = members(path)
    said = set()
    for place, (name, data) in enumerate(content[:-1]):
        lines = data.splitlines(keepends=True)
        swapped = b"".join([*lines[1::-1], *lines[2:]])
        cases = [
            data[:-1],
            data.replace(b'"n":3', b'"n":4', 1),
            swapped,
            b"".join(lines[:-1]),
            data + lines[-1] if lines else b"",
        ]
        for change in cases:
            if change == data:
                continue
            rebuild(path, [*content[:place], (name, change), *content[place + 1 :]])
            with everlog.open("memory:") as target:
                try:
                    target.import_bundle(path)
                    taken = True
                except TamperedError:
                    taken = False
            assert (verifier.verify_bundle(str(path)).code == 3) is taken, (name, change[:200])
            said.add(taken)
    assert False in said


def test_pages_stand_in_their_order_and_causes_are_named_where_they_were_hashed(store, tmp_path):
    session = store.create("s", events=[NewEvent("note", {"content": f"{n}"}) for n in range(3)])
    session.rewind(2, reason="back")
    path = exported(session, tmp_path)
    parts = members(path)
    changes = [
        [parts[0], *parts[3:5], *parts[1:3], *parts[5:]],  # branches the other way round
        [parts[0], parts[2], parts[1], *parts[3:]],
        [(name.replace("/0001/", "/00001/"), data) for name, data in parts],
        [(name.replace("/000001.", "/000002."), data) for name, data in parts],
        [*parts[:3], *parts[4:]],
        [(name, data.replace(b'{"n":1,', b'{"n":1,"caused_by":"ev_%s_0",' % (b"ab" * 16))) for name, data in parts],
    ]
    assert run(path)[0] == 3
    for changed in changes:
        rebuild(path, changed)
        assert run(path)[0] == 1
        with everlog.open("memory:") as target, pytest.raises(TamperedError):
            target.import_bundle(path)


@pytest.mark.parametrize("content", [{"salt": "ab" * 32}, {"content": "eA=="}])
def test_what_is_withheld_brings_nothing_along(session, tmp_path, content):
    """Nothing would be held against the commitment of an attachment whose event is marked as withheld."""
    path = exported(session, tmp_path, withhold="type:agent.message")
    parts = dict(members(path))
    assert not any(b"a.bin" in data for data in parts.values()), "names of attachments are withheld too"
    name = next(name for name, data in parts.items() if b'"withheld"' in data)
    lines = parts[name].splitlines()
    place = next(at for at, line in enumerate(lines) if b'"withheld"' in line)
    event = json.loads(lines[place])
    event["attachments"] = [{"name": "a.bin", "size": 100, **content}]
    lines[place] = json.dumps(event).encode()
    parts[name] = b"\n".join(lines) + b"\n"
    rebuild(path, list(parts.items()))
    assert verifier.verify_bundle(str(path)).code == 1
    with everlog.open("memory:") as target, pytest.raises(TamperedError, match="some of it is there"):
        target.import_bundle(path)


def test_a_session_holds_from_wherever_it_was_written(store, session, keys, tmp_path):
    """Imported, compacted, archived and copied: what is hashed stays."""
    key = keys.new()
    store.compact(older_than=0)
    store.archive(tmp_path / "cold", older_than=0)
    store.seal(keys=keys)
    first = exported(session, tmp_path)
    assert run(first, "--key", key)[0] == 0
    with everlog.open(tmp_path / "other.db") as other:
        other.import_bundle(first)
        second = exported(other.session("s"), tmp_path)
        code, report = run(second)
        assert (code, report["faults"], report["counts"]["bodies"]) == (3, [], 1203)
        others = other.keys(tmp_path / "others")
        other_key = others.new()
        other.seal(keys=others)
        assert run(exported(other.session("s"), tmp_path), "--key", other_key)[0] == 0


@pytest.mark.parametrize("kind", ["memory", "postgres"])
def test_a_sealed_session_of_another_kind_of_store_is_good(kind, tmp_path):
    with everlog.open(address(kind, tmp_path / "store")) as store:
        session = store.create("s", events=[NewEvent("note", {"content": f"n{n}"}) for n in range(20)])
        session.rewind(10, reason="back")
        session.erase([3], reason="asked")
        keys = store.keys(tmp_path / "keys")
        key = keys.new()
        store.seal(keys=keys)
        assert run(exported(session, tmp_path), "--key", key)[0] == 0
        assert run(exported(session, tmp_path, start=2, stop=5), "--key", key)[0] == 0
        assert [each.events for each in store.export("session:s", tmp_path / "all")] == [21]


@pytest.mark.parametrize("fan_out", [2, 16])
def test_what_summaries_cover_is_checked_on_every_line(store, tmp_path, fan_out):
    session = store.create("s")
    for line in range(3):
        session.extend([NewEvent("user.message", {"content": f"{line} {n} " + "so it was. " * 9}) for n in range(150)])
        session.summarize(fan_out=fan_out, leaf_tokens=100)
        session.rewind(session.size() // 2 + line, reason="back")
    session.summarize(fan_out=fan_out, leaf_tokens=100)
    fork = session.fork(id="f")
    fork.extend([NewEvent("user.message", {"content": f"{n} " + "so it is. " * 9}) for n in range(150)])
    fork.summarize(fan_out=fan_out, leaf_tokens=100)
    assert store.verify().ok
    for each in (session, fork):
        path = exported(each, tmp_path)
        assert run(path)[1]["faults"] == []
        with everlog.open("memory:") as target:
            target.import_bundle(path)
    code, report = run(exported(fork, tmp_path, start=fork.size() - 40, stop="end"))
    assert (code, report["faults"]) == (3, [])


def test_ranges_that_are_made_up_to_take_for_ever_are_refused(tmp_path):
    path = tmp_path / "slow.everlog"
    with everlog.open("memory:") as store, everlog.open("memory:") as target:
        session = store.create("s", events=[NewEvent("note", {"content": f"{n}"}) for n in range(1_000)])
        line = session.view().lineage
        slow = (
            1,
            1_000,
            range_root(1, 1_000, lambda level, index: store.storage.tree_nodes(line, [(level, index)])[0]),
        )
        for _ in range(30):
            (prepared,) = session._prepare((NewEvent("note", {"content": "slow"}),))
            batch = session._batch((msgspec.structs.replace(prepared, covers=(slow,) * 16),))
            store.storage.write(Append(session.uuid, batch))
        session.export(path)
        with pytest.raises(TamperedError, match="reasonable time"):
            target.import_bundle(path)


def test_the_page_asks_nothing_of_anybody_and_runs_no_text_of_the_bundle(store, tmp_path):
    made = store.create("<script>alert(1)</script>", title="<b>")
    made.append("note", {"content": "x"})
    path, page = exported(made, tmp_path), tmp_path / "report.html"
    assert run(path, "--html", str(page))[0] == 3
    text = page.read_text()
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert "://" not in text


def test_a_key_that_is_none_and_a_file_that_is_not_there_decide_nothing(session, tmp_path):
    path = exported(session, tmp_path)
    for words in ([path, "--key", "no key"], [tmp_path / "none"], [], [path, "--nonsense"]):
        done = subprocess.run([sys.executable, "-I", "-S", VERIFIER, *map(str, words)], capture_output=True, text=True)
        assert done.returncode == 64
        assert done.stdout == ""
        assert done.stderr


def test_hostile_names_do_not_reach_the_terminal(store, tmp_path):
    made = store.create("s")
    made.append("note", {"content": "x"})
    path = exported(made, tmp_path)
    content = members(path)
    manifest = json.loads(content[0][1])
    manifest["id"] = "\x1b[2J\u202e"
    rebuild(path, [("manifest.json", json.dumps(manifest).encode()), *content[1:]])
    done = subprocess.run([sys.executable, "-I", "-S", VERIFIER, str(path)], capture_output=True, text=True)
    assert (done.returncode, "\x1b" in done.stdout, "\u202e" in done.stdout) == (3, False, False)
    assert "NOT COVERED BY A SEAL" in done.stdout


@pytest.mark.parametrize("letters", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_few_letters_changes_no_verdict(store, tmp_path, letters):
    made = store.create("sessi\u00f3n \u4e00")
    made.append("note", {"content": "x"})
    environment = {**os.environ, "PYTHONIOENCODING": letters, "PYTHONUTF8": "0"}
    words = [sys.executable, "-S", VERIFIER, str(exported(made, tmp_path))]
    done = subprocess.run(words, capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (3, b"")
    assert b"NOT COVERED BY A SEAL" in done.stdout


def test_a_bundle_in_which_nothing_holds_is_not_told_of_for_ever(session, tmp_path, monkeypatch):
    monkeypatch.setattr(verifier, "FAULTS_MAX", 50)
    path = exported(session, tmp_path)
    rebuild(path, [(name, data.replace(b'"v":"everlog/1/event"', b'"v":"x"')) for name, data in members(path)])
    report = verifier.verify_bundle(str(path))
    assert (report.code, len(report.faults)) == (1, 51)
    assert "the rest was not looked at" in report.faults[-1]


@pytest.mark.timeout(3_600)  # each bit takes a minute or ten
def test_every_change_is_told_even_where_the_digest_was_made_anew(sealed_fork):
    """Each bit in turn with EVERLOG_FAULTS=1, else each 17th. What nothing hashes is not among it: the manifest, ids of causes, names of attachments that are gone."""
    path, key = sealed_fork
    content = members(path)
    for place, (name, data) in enumerate(content[1:-1], start=1):
        for bit in range(0, 8 * len(data), 1 if EVERY_BIT else 17):
            at = bit // 8
            changed = data[:at] + bytes([data[at] ^ 1 << bit % 8]) + data[at + 1 :]
            rebuild(path, [*content[:place], (name, changed), *content[place + 1 :]])
            code = verifier.verify_bundle(str(path), [key]).code
            assert code == 1 or (name in ("ledger.jsonl", "sealed.json") and code == 3), (name, data[:at][-60:])


def test_a_history_made_anew_with_all_its_hashes_is_told_by_both(store, keys, tmp_path):
    session = store.create("s", events=[NewEvent("note", {"content": "one"}), NewEvent("note", {"content": "two"})])
    key = keys.new()
    store.seal(keys=keys)
    path = exported(session, tmp_path)
    parts = dict(members(path))
    first, last = parts["branches/0000/000001.headers"].splitlines()
    contents = [json.loads(line) for line in parts["branches/0000/000001.bodies"].splitlines()]
    contents[1]["body"] = contents[1]["body"].replace("two", "three")
    header = json.loads(last)
    header["c"] = [commit_body(bytes.fromhex(contents[1]["salt"]), contents[1]["body"].encode()).hex()]
    last = json.dumps(header, separators=(",", ":")).encode()
    manifest = json.loads(parts["manifest.json"])
    manifest["branches"][0]["root"] = node_hash(leaf_hash(first), leaf_hash(last)).hex()
    parts["manifest.json"] = json.dumps(manifest).encode()
    parts["branches/0000/000001.headers"] = first + b"\n" + last + b"\n"
    parts["branches/0000/000001.bodies"] = b"".join(json.dumps(each).encode() + b"\n" for each in contents)
    rebuild(path, [(name, data) for name, data in parts.items() if name != "sealed.json"])
    assert run(path, "--key", key)[0] == 3  # it holds together, and nobody vouches for it
    rebuild(path, list(parts.items()))
    code, report = run(path, "--key", key)
    assert code == 1
    assert "were sealed that are not these" in report["faults"][0]
    with everlog.open("memory:") as target, pytest.raises(TamperedError, match="not those that were sealed"):
        target.import_bundle(path)


def test_it_needs_nothing_but_python_3_9():
    tree = ast.parse(Path(VERIFIER).read_text(), feature_version=(3, 9))
    named = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in named} - sys.stdlib_module_names == {"cryptography"}


def test_whatever_is_put_into_a_bundle_both_say_the_same_of_it(keys, store, tmp_path):
    """But of a signature, which an importer without a key does not look at."""
    session = store.create("s", labels={"a": "b"}, metadata={"x": 1})
    session.append("note", {"content": "one é"}, key="k", attachments={"a": b"x"})
    session.append("note", {"content": "2"})
    session.append("note", {"content": "two"}, actor="a", outcome="ok", caused_by=session[0], occurred_at=5)
    session.erase([1], reason="asked")
    session.rewind(2, reason="back")
    key = keys.new()
    store.seal(keys=keys)
    path = exported(session, tmp_path)
    content, chance = members(path), random.Random(7)
    pieces = [
        b"null",
        b"[]",
        b'"',
        b"-1",
        b"1e999",
        b"true",
        b"\xff",
        b"\n",
        b",",
        b'"\\ud800"',
        b"9" * 30,
        b"0",
        b"A",
        b"e",
        b"f",
    ]
    said = set()
    for _ in range(600):
        place = chance.randrange(len(content) - 1)
        name, data = content[place]
        at = chance.randrange(len(data))
        changed = data[:at] + chance.choice(pieces) + data[at + chance.choice([0, 1, 1, 2, 5]) :]
        rebuild(path, [*content[:place], (name, changed), *content[place + 1 :]])
        code = verifier.verify_bundle(str(path), [key]).code
        with everlog.open("memory:") as target:
            try:
                target.import_bundle(path)
                taken = True
            except TamperedError:
                taken = False
        unsigned = name == "sealed.json" and verifier.verify_bundle(str(path)).code != 1
        uncalled = (
            name == "manifest.json" and not taken
        )  # what it is called is the bundle's word, which the verifier says
        assert uncalled or taken is (code != 1 or unsigned), (
            code,
            name,
            data[max(0, at - 40) : at],
            changed[at : at + 40],
        )
        said.add((code, taken))
    assert {(1, False), (3, True)} <= said


def test_paths_are_those_of_the_published_vectors():
    """Bad ones too: but for hashes of other lengths than 32 bytes, which are refused as they are read."""
    if not VECTORS.exists():
        pytest.skip(f"the shared test vectors are not beside this repository: no {VECTORS}")
    cases = json.loads(VECTORS.read_text())
    assert len(cases) == 98
    for case in cases:
        leaf, *path = (b64decode(step or "") for step in (case["leafHash"], *(case["proof"] or [])))
        try:
            root = verifier.root_from(leaf, case["leafIdx"], case["treeSize"], path)
            read = verifier.fits([step.hex() for step in (leaf, *path)], "hashes")
            holds = read and root == b64decode(case["root"] or "")
        except ValueError:
            holds = False
        assert holds is not case["wantErr"], case["case"]
