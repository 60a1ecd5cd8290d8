"""Keys, seals, and what a signer refuses: nothing that was sealed can be taken back without it being told."""

import json
import os
import shutil
import sqlite3
import stat
import sys
import threading
from base64 import b64encode
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

import apsw
import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import everlog
from databases import address
from everlog import NewEvent
from everlog.core.note import parse_note
from everlog.errors import InvalidEventError, NotFoundError, TamperedError, UnavailableError
from everlog.seals import read_seals_file
from everlog.session import Settings
from everlog.signing import Keys
from everlog.store import Store
from everlog.stores.sqlite.store import open_sqlite
from everlog.testing import FixedClock


@pytest.fixture
def store(tmp_path):
    with everlog.open(tmp_path / "store.db") as opened:
        yield opened


@pytest.fixture
def session(store):
    return store.create("run", events=[NewEvent("note", {"content": f"n{number}"}) for number in range(10)])


@pytest.fixture
def keys(store, tmp_path):
    made = store.keys(tmp_path / "keys")
    made.new()
    return made


def kept(keys):
    """The seals in seals.txt."""
    return read_seals_file((keys.folder / "seals.txt").read_bytes())


def signatures(seal):
    return len(parse_note(seal.note.encode()).signatures)


# --- keys ----------------------------------------------------------------------------------------
def test_a_key_is_its_owners_alone_and_there_is_one(store, keys):
    assert keys.origin == f"everlog/{store.id}"
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.folder.iterdir()} == {0o600}
    with pytest.raises(InvalidEventError, match="has a key already"):
        keys.new()
    assert keys.verifier == store.keys(keys.folder.parent).verifier


def test_without_a_key_nothing_is_sealed(store, session, tmp_path):
    with pytest.raises(NotFoundError, match="everlog keys new"):
        store.seal(keys=tmp_path / "none")
    assert store.storage.ledger_tree().size == 0


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb", "x" * 256])
def test_what_cannot_be_an_origin_is_refused(store, tmp_path, origin):
    keys = store.keys(tmp_path / "keys")
    with pytest.raises(InvalidEventError):
        keys.new(origin=origin or " ")
    assert not keys.exists


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_key_may_be_in_a_pkcs8_file_of_others(store, session, tmp_path, encoding):
    private = Ed25519PrivateKey.generate()
    path = tmp_path / "theirs"
    path.write_bytes(private.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption()))
    keys = store.keys(tmp_path / "keys")
    path.chmod(0o640)
    with pytest.raises(UnavailableError, match="can be read by others"):
        keys.new(file=path)
    path.chmod(0o600)
    key = keys.new(file=path, origin="example.com/log")
    assert b64encode(b"\x01" + private.public_key().public_bytes_raw()).decode() in key
    store.seal(keys=keys)
    keys.rotate()
    store.seal(keys=keys)
    assert path.exists()  # it was not made here
    assert store.verify(keys=[key]).seals == 2


def test_a_file_that_holds_no_such_key_is_refused(store, tmp_path):
    keys = store.keys(tmp_path / "keys")
    path = tmp_path / "theirs"
    private = Ed448PrivateKey.generate()
    for content in (b"", b"text", private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(UnavailableError):
            keys.new(file=path)
    with pytest.raises(UnavailableError):
        keys.new(file=tmp_path / "none")


SIGNER = """
import sys
from base64 import b64encode
from contextlib import closing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
signature = Ed25519PrivateKey.from_private_bytes(bytes([int(sys.argv[1])]) * 32).sign(sys.stdin.buffer.read())
sys.stdout.write(b64encode(signature).decode() + "\\n") if sys.argv[2] == "text" else sys.stdout.buffer.write(signature)
"""


@pytest.mark.parametrize("form", ["text", "raw"])
def test_a_program_may_sign_and_what_it_gives_is_looked_at(store, session, tmp_path, form):
    program = tmp_path / "signer.py"
    program.write_text(SIGNER)
    public = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32).public_key().public_bytes_raw()
    keys = store.keys(tmp_path / "keys")
    with pytest.raises(InvalidEventError):
        keys.new(command=[sys.executable], public_key="AAAA")
    keys.new(command=[sys.executable, str(program), "7", form], public_key=b64encode(public).decode())
    store.seal(keys=keys)
    assert store.verify(keys=[keys.verifier]).seals == 1
    session.append("note", {"content": "more"})
    program.write_text(SIGNER.replace("int(sys.argv[1])", "8"))
    with pytest.raises(UnavailableError, match="gave no signature"):
        store.seal(keys=keys)
    program.write_text("raise SystemExit(3)")
    with pytest.raises(UnavailableError, match="did not"):
        store.seal(keys=keys)
    assert len(store.seals()) == 1
    program.write_text(SIGNER)
    assert store.seal(keys=keys).head.size == 4


# --- rotation and revocation ---------------------------------------------------------------------
def test_a_key_that_gives_way_signs_the_other_and_readers_follow(store, session, keys):
    first = keys.verifier
    store.seal(keys=keys)
    second = keys.rotate()
    with pytest.raises(InvalidEventError, match="not sealed yet"):
        keys.rotate()
    both = store.seal(keys=keys)
    assert signatures(both) == 2
    third = keys.rotate()
    store.seal(keys=keys)
    session.append("note", {"content": "more"})
    assert signatures(store.seal(keys=keys)) == 1
    assert len({first, second, third}) == 3
    assert len({key.partition("+")[0] for key in (first, second, third)}) == 1
    for key, seals in ((first, 4), (second, 3), (third, 2)):  # each follows to those behind it
        report = store.verify(keys=[key])
        assert (report.ok, report.seals, report.unsealed) == (True, seals, 0)
    assert len(list(keys.folder.glob("*.pem"))) == 1


def test_a_rotation_that_the_old_key_did_not_sign_is_told(store, session, keys, tmp_path):
    pinned = keys.verifier
    store.seal(keys=keys)
    thief = Keys(tmp_path / "thief", store.id, draw=os.urandom, clock=store.storage.now)
    thief.new(origin=keys.origin)
    config = json.loads((thief.folder / "config.json").read_text())
    record = json.loads(config["record"]) | {"action": "rotate", "previous": pinned, "signature": "AAAA" * 21 + "AA=="}
    config["record"] = json.dumps(dict(sorted(record.items())), separators=(",", ":"))
    (thief.folder / "config.json").write_text(json.dumps(config))
    store.seal(keys=thief)
    report = store.verify(keys=[pinned])
    assert "did not sign" in report.faults[0].what
    assert report.seals == 1


def test_after_a_revocation_the_ledger_goes_on_under_a_new_origin(store, session, keys):
    stolen, origin = keys.verifier, keys.origin
    store.seal(keys=keys)
    new = keys.revoke()
    assert keys.origin == f"{origin}/2"
    assert len(list(keys.folder.glob("*.pem"))) == 1
    seal = store.seal(keys=keys)
    assert (seal.origin, signatures(seal)) == (f"{origin}/2", 1)
    assert store.verify(keys=[stolen]).seals == 1  # what it signs now says nothing of the new one
    assert store.verify(keys=[new]).seals == 1
    keys.revoke(origin="example.com/again")
    assert store.seal(keys=keys).origin == "example.com/again"
    with pytest.raises(InvalidEventError, match="is the origin that is revoked"):
        keys.revoke(origin="example.com/again")


# --- what a signer refuses -----------------------------------------------------------------------
def test_an_earlier_store_put_in_the_place_of_a_later_one_is_not_sealed(tmp_path):
    path, older = tmp_path / "store.db", tmp_path / "older.db"
    with everlog.open(path) as store:
        store.create("run", events=[NewEvent("note", {"content": "one"})])
        keys = store.keys(tmp_path / "keys")
        keys.new()
        store.seal(keys=keys)
    shutil.copy(path, older)
    with everlog.open(path) as store:
        store.session("run").append("note", {"content": "two"})
        last = store.seal(keys=keys)
    shutil.copy(older, path)
    with everlog.open(path) as store:
        store.session("run").append("note", {"content": "another two"})
        with pytest.raises(TamperedError, match="does not extend"):
            store.seal(keys=keys)
        store.create("more", events=[NewEvent("note", {"content": "x"})])
        with pytest.raises(TamperedError, match="everlog keys revoke"):
            store.seal(keys=keys)  # nor is it once it is larger
        assert store.seals()[0].head.size == 3
        report = store.verify(keys=[keys.verifier], seals=[keys.folder / "seals.txt"])
        assert "they were changed" in report.faults[0].what
        new = keys.revoke()
        store.seal(keys=keys)  # an earlier state was meant, and that is on record
        assert store.verify(keys=[new]).seals == 1
    assert last.note in [seal.note for seal in kept(keys)]


def test_a_shorter_ledger_is_not_sealed(tmp_path):
    path, older = tmp_path / "store.db", tmp_path / "older.db"
    with everlog.open(path) as store:
        store.create("run", events=[NewEvent("note", {"content": "x"})])
        keys = store.keys(tmp_path / "keys")
        keys.new()
        store.seal(keys=keys)
    shutil.copy(path, older)
    with everlog.open(path) as store:
        store.create("other", events=[NewEvent("note", {"content": "x"})])
        store.seal(keys=keys)
    shutil.copy(older, path)
    with everlog.open(path) as store:
        store.session("run").append("note", {"content": "x"})
        with pytest.raises(TamperedError, match="4:"):
            store.seal(keys=keys)


def test_an_earlier_store_to_which_nothing_was_added_is_told_too(tmp_path):
    path, older = tmp_path / "store.db", tmp_path / "older.db"
    with everlog.open(path) as store:
        store.create("run", events=[NewEvent("note", {"content": "one"})])
        keys = store.keys(tmp_path / "keys")
        keys.new()
        store.seal(keys=keys)
    shutil.copy(path, older)
    with everlog.open(path) as store:
        store.session("run").append("note", {"content": "two"})
        store.seal(keys=keys)
    shutil.copy(older, path)
    with everlog.open(path) as store, pytest.raises(TamperedError, match="does not extend"):
        store.seal(keys=keys)


def test_without_its_memory_the_signer_signs_nothing(store, session, keys):
    store.seal(keys=keys)
    session.append("note", {"content": "x"})
    memory = keys.folder / "signed.json"
    signed = memory.read_bytes()
    memory.write_bytes(b"{")
    with pytest.raises(UnavailableError, match="bring it back"):
        store.seal(keys=keys)
    memory.unlink()
    with pytest.raises(UnavailableError, match="bring it back"):
        store.seal(keys=keys)
    keys.rotate()
    with pytest.raises(UnavailableError, match="bring it back"):
        store.seal(keys=keys)
    memory.write_bytes(signed)
    store.seal(keys=keys)
    memory.unlink()
    keys.revoke()
    store.seal(keys=keys)  # under a new origin nothing was signed yet


# --- what stops, and several at once -------------------------------------------------------------
def test_a_seal_that_could_not_be_kept_is_made_again_with_the_same_bytes(store, session, keys):
    (keys.folder / "seals.txt").mkdir()
    with pytest.raises(UnavailableError, match="seals.txt"):
        store.seal(keys=keys)
    assert store.seals() == []
    signed = (keys.folder / "signed.json").read_bytes()
    (keys.folder / "seals.txt").rmdir()
    assert keys.record() is not None
    seal = store.seal(keys=keys)  # the record of the key stands in the ledger twice, which says the same
    assert seal.head.size == json.loads(signed)["head"]["size"] + 1
    assert [each.note for each in kept(keys)] == [each.note for each in store.seals()] == [seal.note]
    assert store.verify(keys=[keys.verifier]).ok


def test_what_a_loss_of_power_left_of_a_seal_is_cut_off(store, session, keys):
    path = keys.folder / "seals.txt"
    first = store.seal(keys=keys)
    session.append("note", {"content": "x"})
    second = store.seal(keys=keys)
    whole = path.read_bytes()
    session.append("note", {"content": "x"})
    third = store.seal(keys=keys)
    for cut in range(len(whole) - len(second.note), len(whole)):
        path.write_bytes(whole[:cut])
        from everlog.seals import append_seal

        append_seal(path, third.note.encode())
        assert [seal.note for seal in kept(keys)] == [first.note, third.note]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_sealers_at_once_give_each_record_one_place(tmp_path, kind):
    path = address(kind, tmp_path / "store")
    with everlog.open(path) as store:
        keys = store.keys(tmp_path / "keys")
        keys.new()
    failed = []

    def work(number):
        try:
            with everlog.open(path) as mine:
                for turn in range(8):
                    mine.create(f"s{number}-{turn}", events=[NewEvent("note", {"content": "x"})])
                    mine.seal(keys=mine.keys(tmp_path / "keys"))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with everlog.open(path) as store:
        store.seal(keys=keys)
        report = store.verify(keys=[keys.verifier], seals=[keys.folder / "seals.txt"])
        assert (report.ok, report.unsealed) == (True, 0)
        rows = store.storage.placed(0, 1_000)
        entries = [row.entry for row in rows if row.entry is not None]
        assert sorted(entries) == sorted(set(entries)) == [each.number for each in store.storage.ledger(0, 100)]


def test_more_records_than_one_transaction_takes_get_their_places(tmp_path):
    with everlog.open("memory:") as store:
        for number in range(1_020):
            store.create(f"s{number}", events=[NewEvent("note", {"content": "x"})])
        keys = store.keys(tmp_path)
        keys.new()
        assert store.seal(keys=keys).head.size == 1 + 2 * 1_020
        assert store.verify(keys=[keys.verifier]).unsealed == 0


def test_it_seals_again_and_again_and_at_once_where_much_was_recorded(store, session, keys):
    made = []
    counts = [session.size()]

    def sealed(seal):
        made.append(seal)
        session.extend([NewEvent("note", {"content": "x"})] * 300)  # more than are waited for: an hour is not
        counts.append(session.size())

    store.sealer(keys=keys).run(every=3_600, sealed=sealed, stop=lambda: len(made) >= 3)
    assert [seal.head.size for seal in made] == [3, 4, 5]


# --- changes to a sealed store -------------------------------------------------------------------
def changed(path, *statements):
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.fixture
def sealed(tmp_path):
    """A sealed store of a session of two events, closed: its path, its verifier key, and its branch at one event."""
    path = tmp_path / "store.db"
    with everlog.open(path) as store:
        store.create("run", events=[NewEvent("note", {"content": "one"})])
        row = store.storage.branch(1)
    shutil.copy(path, tmp_path / "before.db")
    with everlog.open(path) as store:
        store.session("run").append("note", {"content": "two"})
        keys = store.keys(tmp_path / "keys")
        keys.new()
        store.seal(keys=keys)
    return path, keys.verifier, row


def faults(path, key):
    with everlog.open(path) as store:
        return [str(fault) for fault in store.verify(keys=[key]).faults]


def test_an_event_taken_off_the_end_of_a_sealed_line_is_told(sealed):
    path, key, row = sealed
    changed(
        path,
        "DELETE FROM event WHERE position = 1",
        f"UPDATE branch SET size = 1, recorded = {row.recorded}, leaf = x'{row.leaf.hex()}', peaks = x'{row.peaks.hex()}'",
    )
    assert any("had 2 events, and has 1" in fault for fault in faults(path, key))


def test_a_history_written_anew_with_all_its_hashes_is_told(sealed, tmp_path):
    path, key, _ = sealed
    other = tmp_path / "before.db"
    with everlog.open(other) as store:
        store.session("run").append("note", {"content": "another two"})
    changed(
        path,
        f"ATTACH '{other}' AS other",
        "DELETE FROM event WHERE position = 1",
        "INSERT INTO event SELECT * FROM other.event WHERE position = 1",
        "UPDATE branch SET (recorded, leaf, peaks) = (SELECT recorded, leaf, peaks FROM other.branch)",
    )
    assert [fault for fault in faults(path, key) if "its events are others" not in fault] == []
    assert len(faults(path, key)) == 1


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE ledger SET record = CAST(replace(record, '1', '2') AS BLOB) WHERE entry = 1", "not what its leaf"),
        ("UPDATE ledger SET record = replace(record, '1', '2') WHERE entry = 1", "cannot be read"),
        ("DELETE FROM placed WHERE place = 1", ""),
        ("DELETE FROM placed WHERE place = 2", "is missing"),
        ("UPDATE placed SET leaf = zeroblob(32) WHERE place = 0", "not what its leaf"),
        ("UPDATE placed SET nodes = zeroblob(32) WHERE place = 1", "the nodes stored with record 1"),
        ("UPDATE placed SET size = 1 WHERE size = 2", "another head than"),
        ("UPDATE tree SET peaks = zeroblob(length(peaks))", "root is not that of its records"),
        ("UPDATE tree SET size = size - 1", "is of more than the ledger has"),
        ("UPDATE seal SET note = replace(note, '3', '4')", ""),
        ("UPDATE seal SET size = 2", "stored as another"),
        ("UPDATE seal SET note = x'00'", "is none"),
        ("UPDATE seal SET note = 'x'", "cannot be read"),
    ],
)
def test_a_change_of_the_ledger_is_told(sealed, statement, said):
    path, key, _ = sealed
    assert faults(path, key) == []
    changed(path, statement)
    assert any(said in fault for fault in faults(path, key))


# --- other places --------------------------------------------------------------------------------
def test_a_clock_that_goes_back_between_two_records_of_a_session_is_no_fault_of_the_ledger(tmp_path):
    clock = FixedClock()
    storage = open_sqlite(tmp_path / "store.db", clock=clock, draw=os.urandom)
    with Store(storage, Settings(os.urandom), url="store.db") as store:
        session = store.create("run", title="first", events=[NewEvent("note", {"content": f"n{n}"}) for n in range(9)])
        for number in range(4):
            session.rewind(7 - number)
            session.update(title=f"title {number}")
            clock.advance(seconds=-86_400)
            assert store.verify().ok
    with closing(sqlite3.connect(tmp_path / "store.db")) as file, file:
        file.execute("UPDATE session SET current = (SELECT min(branch) + 2 FROM branch), title = 'title 1'")
    with everlog.open(tmp_path / "store.db") as store:
        assert {fault.what for fault in store.verify().faults} >= {
            "its name, title or labels are not those on record",
            "its current branch is not the one on record",
        }


def test_seals_are_sent_to_files_objects_and_web_addresses(store, session, keys, tmp_path):
    taken = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            taken.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204 if self.path == "/seals" else 500)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        (tmp_path / "objects").mkdir()
        places = [str(tmp_path / "copy.txt"), f"{url}/seals", (tmp_path / "objects").as_uri()]
        seal = store.seal(keys=keys, to=places)
        assert seal.warnings == ()
        session.append("note", {"content": "x"})
        bad = store.seal(
            keys=keys, to=[f"{url}/other", str(tmp_path / "no" / "folder"), "http://127.0.0.1:1/", *places]
        )
        server.shutdown()
        thread.join()
    assert len(bad.warnings) == 3  # the seal is made all the same
    assert [each.note for each in kept(keys)] == [seal.note, bad.note]
    assert taken[0] == seal.note.encode()
    assert (tmp_path / "copy.txt").read_bytes() == (keys.folder / "seals.txt").read_bytes()
    objects = sorted(path.read_text() for path in (tmp_path / "objects").rglob("*.note"))
    assert objects == sorted([seal.note, bad.note])
    assert store.verify(keys=[keys.verifier], seals=[tmp_path / "copy.txt"]).seals == 4


def test_what_fails_for_now_is_told_and_tried_again(store, session, keys, monkeypatch):
    made, failures = [], []
    (keys.folder / "seals.txt").mkdir()

    def failed(error):
        failures.append(error)
        (keys.folder / "seals.txt").rmdir()

    monkeypatch.setattr("everlog.sealing.RETRY_SECONDS", 0.0)
    store.sealer(keys=keys).run(every=3_600, sealed=made.append, failed=failed, stop=lambda: bool(made))
    assert [type(error) for error in failures] == [UnavailableError]
    assert len(made) == len(store.seals()) == 1
    (keys.folder / "signed.json").write_bytes(b"{}")
    session.append("note", {"content": "x"})
    with pytest.raises(UnavailableError):
        store.sealer(keys=keys).run(every=3_600, sealed=made.append)
