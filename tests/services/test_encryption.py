"""Bodies encrypted at rest: what the disk holds, what keys open, what erasing a key takes with it, and keys exchanged."""

import os
import shutil
import signal
import subprocess
import sys

import apsw
import pytest

import everlog
from databases import open_in, url_of
from everlog import NewEvent, SnapshotPolicy
from everlog.core.envelope import DataKey, WrappingKey, is_sealed
from everlog.encrypted import ForgetKey, Rewrap, TakeKey
from everlog.encryption import EncryptionKeys
from everlog.errors import BusyError, CorruptionError, KeyNeededError, NotFoundError, TamperedError, UnavailableError
from everlog.session import Settings
from everlog.store import Store
from everlog.stores.sealed_bodies import Sealing, take_key
from everlog.stores.sqlite import connections
from everlog.stores.sqlite.store import open_sqlite
from everlog.testing import FixedClock
from everlog.wrapping import read_wrapping_key, read_wrapping_keys
from services.cold import fill, note, told

OLD, NEW = (WrappingKey(bytes([fill]) * 32) for fill in (1, 2))
SECRET = "nobody may read this sentence"
ATTACHED = b"nor what is attached to it " * 1_000  # long enough to be kept once


@pytest.fixture
def opened(kind, tmp_path, clock):
    """Gives what opens the store of the test with keys, closing the one before."""
    stores = []

    def open_with(*keys, folder=tmp_path):
        if stores:
            stores.pop().close()
        clock.advance(seconds=60)  # so that what was written before is older
        settings = Settings(os.urandom, snapshots=SnapshotPolicy(events=50, share=1e9), wrapping=keys)
        if kind == "sqlite":
            storage = open_sqlite(folder / "store.db", clock=clock, draw=os.urandom, keys=keys)
        else:
            storage = open_in(folder, clock=clock, keys=keys)
        stores.append(Store(storage, settings, url=kind))
        return stores[-1]

    yield open_with
    for store in stores:
        store.close()


def compacted(store, clock):
    clock.advance(seconds=60)
    return store.compact(older_than=0)


def key_file(folder, name, key):
    path = folder / name
    path.write_bytes(key.hex().encode())
    path.chmod(0o600)
    return f"file:{path}"


def salts_of(store):
    """The salts of all bodies and attachments of a store."""
    found = []
    for info in store.sessions(limit=1_000):
        session = store.session(info.id)
        branch = store.storage.current_branch(session.uuid)
        lineage = store.storage.lineage(branch.key, "")
        at = 0
        while at < branch.size:
            rows = store.storage.rows(lineage, at, branch.size)
            for row in rows:
                found.append(row.salt)
                found += [each.salt for each in store.storage.attachments(lineage, row.position) if row.attached]
            at += len(rows)
    return [salt for salt in found if salt is not None]


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def looked_for(contents, markers):
    return [(path.name, marker[:20]) for path, content in contents.items() for marker in markers if marker in content]


# --- what the disk holds ---------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_no_file_of_a_store_that_encrypts_holds_a_body_or_a_salt_wherever_bodies_go(opened, tmp_path, clock):
    store = opened(OLD)
    session = store.create("s", events=[NewEvent("note", {"content": f"{SECRET} {n}"}) for n in range(200)])
    session.append("note", {"content": SECRET * 2_000}, attachments={"a.bin": ATTACHED, "b.bin": ATTACHED})
    session.fork(at=100, id="fork").append("note", {"content": SECRET})
    store.session("s").state()
    assert len(store.search("sentence", limit=50).hits) == 50
    assert not (tmp_path / "store.db-search").exists()
    markers = [SECRET.encode(), ATTACHED[:27], b"nobody", *salts_of(store)]
    assert len(markers) > 200
    assert looked_for(files_of(tmp_path), markers) == []
    assert compacted(store, clock).bodies == 203
    assert store.archive(tmp_path / "archive", older_than=0).objects > 0
    assert [event.data["content"] for event in session.events(limit=3)] == [f"{SECRET} {n}" for n in range(3)]
    assert session[200].attachment("b.bin") == ATTACHED
    assert looked_for(files_of(tmp_path), markers) == []
    store.restore()
    session.erase([5, 200], reason="asked for")
    opened().close()  # what a log held is in the file
    assert looked_for(files_of(tmp_path), markers) == []
    assert not (tmp_path / "store.db-search").exists()


def test_a_store_that_encrypts_answers_as_one_that_does_not(opened, tmp_path, clock):
    with Store(
        open_sqlite(tmp_path / "plain.db", clock=FixedClock(), draw=os.urandom), Settings(os.urandom), url="plain"
    ) as plain:
        fill(plain)
        before = told(plain)
        store = opened(OLD)
        plain.copy(store)
        after = told(store)
        feed, copied = before.pop("feed"), after.pop("feed")
        assert after == before
        assert sorted(copied) == sorted(feed)
        store.verify().raise_for_faults()
        compacted(store, clock)
        again = told(store)
        again.pop("feed")
        assert again == before
        store.verify().raise_for_faults()


def test_a_forked_session_and_a_copy_read_what_they_share(opened, tmp_path):
    store = opened(OLD)
    session = store.create("s", events=[note(number) for number in range(10)])
    fork = session.fork(at=5, id="fork")
    session.erase([7], reason="asked for")
    assert [event.data.get("n") for event in fork.events()] == [0, 1, 2, 3, 4, None]
    with everlog.open(tmp_path / "other.db", encrypt=key_file(tmp_path, "key", bytes(32))) as other:
        store.copy(other)
        assert other.session("s").head == session.refresh()
        assert other.session("s")[0].data == session[0].data
        other.verify().raise_for_faults()


def test_states_are_not_kept_and_are_folded_each_time(opened):
    store = opened()
    session = store.create("s", events=[note(number) for number in range(300)])
    session.state()
    before = session.state().hash
    assert store.snapshots()
    store = opened(OLD)
    assert store.snapshots() == []
    session = store.session("s")
    assert store.rebuild_snapshots(session) == 0
    assert store.snapshots() == []
    assert session.state().hash == before


# --- keys that are not there -----------------------------------------------------------------------
def test_without_the_key_all_that_needs_no_body_works_and_nothing_is_called_tampered(opened, clock):
    store = opened(OLD)
    store.create("s", events=[note(number) for number in range(10)]).append(
        "note", {"content": "x"}, attachments={"a": b"x"}
    )
    head = store.session("s").head
    store = opened()
    session = store.session("s")
    assert session.head == head
    assert len(session.prove_range(0, 5, body=False).events) == 5
    report = store.verify(states=True)
    assert (report.ok, report.events, report.encrypted) == (True, 11, 11)
    assert "11 bodies are encrypted, and were not looked at" in report.unchecked[0]
    with pytest.raises(
        KeyNeededError, match=f"encrypted under the key {OLD.id.hex()}, and the store was opened with no key"
    ):
        list(session.events())
    with pytest.raises(
        KeyNeededError, match=f"with the key {OLD.id.hex()}, and was opened with no key; nothing was written"
    ):
        session.append("note", {"content": "x"})
    with pytest.raises(KeyNeededError):
        store.create("other", events=[note(1)])
    with pytest.raises(NotFoundError):
        store.session("other")
    with pytest.raises(KeyNeededError):
        session.fork(at=3, id="fork")
    assert session.refresh() == head
    assert compacted(store, clock).bodies == 11  # sealed bodies are moved as they are
    assert store.verify().encrypted == 11
    session.erase([2], reason="asked for")
    assert (store.verify().encrypted, store.verify().erased) == (10, 1)
    store = opened(OLD)
    assert [event.data.get("n") for event in store.session("s").events() if not event.erased] == [
        0,
        1,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
        None,
    ]
    store.verify().raise_for_faults()


def test_a_wrong_key_is_told_when_the_store_is_opened_and_nothing_is_written(opened):
    opened(OLD).create("s", events=[note(1)])
    with pytest.raises(
        KeyNeededError, match=f"encrypts with the key {OLD.id.hex()}, and was opened with {NEW.id.hex()}"
    ):
        opened(NEW)
    assert opened(OLD).encryption.keys().current == OLD.id.hex()


def test_plain_bodies_stay_as_they_are_until_they_are_sealed(opened):
    opened().create("s", events=[note(1)])
    store = opened(OLD)
    store.session("s").append("note", {"content": "x", "n": 2})
    store = opened()
    assert store.session("s")[0].data["n"] == 1
    with pytest.raises(KeyNeededError):
        _ = store.session("s")[1].data


@pytest.mark.parametrize(
    ("content", "good"),
    [
        (b"\x07" * 32, True),
        (b"07" * 32 + b"\n", True),
        (b"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n", True),
        (b"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc", True),
        (b"\x07" * 31, False),
        (b"07" * 31, False),
        (b"", False),
        (b"zz" * 32, False),
        (b"A" * 44, False),
        (b"\x07" * 5_000, False),
    ],
)
def test_a_key_is_32_bytes_in_one_of_three_forms(tmp_path, content, good):
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    if good:
        assert read_wrapping_key(f"file:{path}").id == WrappingKey(b"\x07" * 32).id
        return
    with pytest.raises(KeyNeededError, match="is no key: it takes 32 bytes"):
        read_wrapping_key(f"file:{path}")


def test_a_key_comes_from_a_file_a_variable_or_a_command(tmp_path, monkeypatch):
    wanted = WrappingKey(bytes(32)).id
    monkeypatch.setenv("MY_KEY", "00" * 32)
    command = f"command:{sys.executable} -c 'print(\"00\" * 32)'"
    assert read_wrapping_key("env:MY_KEY").id == wanted
    assert read_wrapping_key(command).id == wanted
    monkeypatch.setenv("EVERLOG_ENCRYPT", f"env:MY_KEY\n{key_file(tmp_path, 'old', b'1' * 32)}")
    assert [key.id for key in read_wrapping_keys(None)] == [wanted, WrappingKey(b"1" * 32).id]
    assert read_wrapping_keys("") == ()
    for source, why in (
        ("file:/nowhere/at/all", "cannot be read"),
        ("env:NO_SUCH_VARIABLE", "the environment has no NO_SUCH_VARIABLE"),
        ("command:/no/such/program", "gave no key"),
        (f"command:{sys.executable} -c 'raise SystemExit(3)'", "ended with 3"),
        ("command:'unbalanced", "gave no key"),
        (f"command:{sys.executable} -c 'print(\"0\" * 5_000)'", "prints more than 4096 bytes"),
        ("command:''", "gave no key"),
        ("file:~nobody-of-this-name/key", "cannot be read"),
        ("file:/a\0b", "cannot be read"),
        ("kms:key", "names none"),
        ("file:", "names none"),
    ):
        with pytest.raises(KeyNeededError, match=why):
            read_wrapping_key(source)
    for mistaken in ("07" * 32, "env:" + "07" * 32, "07" * 32 + ":x", "command:/no/such/program " + "07" * 32):
        with pytest.raises(KeyNeededError) as refused:
            read_wrapping_key(mistaken)
        assert "0707" not in str(refused.value)
    (tmp_path / "old").chmod(0o644)
    with pytest.raises(KeyNeededError, match="can be read by others"):
        read_wrapping_key(f"file:{tmp_path / 'old'}")


def test_one_option_or_variable_switches_it_on(tmp_path, monkeypatch):
    source = key_file(tmp_path, "key", bytes(32))
    monkeypatch.setenv("EVERLOG_ENCRYPT", source)
    with everlog.open(tmp_path / "a.db") as store, everlog.open("memory:") as memory:
        store.create("s", events=[NewEvent("note", {"content": SECRET})])
        memory.create("s", events=[note(1)])
        assert store.encryption.keys().current == WrappingKey(bytes(32)).id.hex()
        assert memory.encryption.keys().current is None
    monkeypatch.delenv("EVERLOG_ENCRYPT")
    with everlog.open(tmp_path / "a.db", encrypt=source, read_only=True) as store:
        assert store.session("s")[0].data["content"] == SECRET
    assert "0000" not in repr(WrappingKey(bytes(32)))


# --- damage ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET body = CAST(substr(body, 1, 40) || x'0000000000000000' || substr(body, 49) AS BLOB) WHERE position = 1",
        "UPDATE event SET body = substr(body, 1, 20) WHERE position = 1",
        "UPDATE event SET body = (SELECT body FROM event WHERE position = 2) WHERE position = 1",
        "UPDATE data_key SET wrapped = (SELECT wrapped FROM data_key WHERE position = 2) WHERE position = 1",
        "UPDATE data_key SET wrapped = x'00' WHERE position = 1",
        "DELETE FROM data_key WHERE position = 1",
        # The envelope of another event with its key: only the leaf tells.
        """UPDATE event SET body = (SELECT body FROM event WHERE position = 2) WHERE position = 1;
        UPDATE data_key SET wrapped = (SELECT wrapped FROM data_key WHERE position = 2) WHERE position = 1""",
    ],
)
def test_a_changed_envelope_or_key_is_found_and_no_other_body_suffers(opened, tmp_path, statement):
    store = opened(OLD)
    store.create("s", events=[note(number) for number in range(3)])
    store.close()
    connection = apsw.Connection(str(tmp_path / "store.db"))
    connection.execute(statement)
    connection.close()
    session = opened(OLD).session("s")
    with pytest.raises(CorruptionError, match="position 1 (is encrypted, and its key is not|cannot be decrypted)"):
        _ = session[1].data
    assert [session[0].data["n"], session[2].data["n"]] == [0, 2]
    report = session.verify()
    assert [fault.position for fault in report.faults] == [1]
    with pytest.raises(TamperedError):
        report.raise_for_faults()


def test_an_envelope_opens_only_where_it_was_made_for_and_unchanged():
    key, leaf, salt, nonce = bytes(32), b"l" * 32, b"s" * 32, b"n" * 12
    for plain in (b"", b"{}", os.urandom(2_000), b"again " * 500):
        envelope = DataKey(key, leaf).seal(plain, salt, nonce)
        assert is_sealed(envelope)
        assert DataKey(key, leaf).open(envelope) == (plain, salt)
        for wrong in (DataKey(b"1" * 32, leaf), DataKey(key, b"m" * 32)):
            with pytest.raises(ValueError, match="not what was encrypted"):
                wrong.open(envelope)
        with pytest.raises(ValueError, match="not what was encrypted"):
            DataKey(key, leaf).open(envelope, 0)
        for place in range(7, min(len(envelope), 80)):
            changed = bytearray(envelope)
            changed[place] ^= 1
            with pytest.raises(ValueError, match="not what was encrypted"):
                DataKey(key, leaf).open(bytes(changed))
    assert len(DataKey(key, leaf).seal(b"again " * 500, salt, nonce)) < 200  # compressed, since nothing can do it later
    with pytest.raises(ValueError, match="not what was encrypted"):
        WrappingKey(bytes(32)).unwrap(WrappingKey(b"1" * 32).wrap(key, nonce).wrapped)


# --- erasing a key ---------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("packed", [False, True])
def test_an_old_backup_without_its_keys_gives_back_all_but_what_was_erased_since(opened, tmp_path, packed, clock):
    store = opened(OLD)
    session = store.create("s", events=[note(number) for number in range(100)])
    session.append("note", {"content": "x", "n": 100}, attachments={"a.bin": ATTACHED})
    fork = session.fork(at=50, id="fork")
    fork.append("note", {"content": "x", "n": 50})
    if packed:
        compacted(store, clock)
    store.close()
    backup = tmp_path / "backup.db"
    shutil.copyfile(tmp_path / "store.db", backup)
    held = apsw.Connection(str(backup))
    held.execute("DELETE FROM data_key")
    held.close()
    store = opened(OLD)
    store.session("s").erase([10, 100], reason="asked for")
    if not packed:
        compacted(store, clock)  # a body keeps its key, wherever it goes
    store.close()
    held = apsw.Connection(str(backup))
    held.execute(f"ATTACH '{tmp_path / 'store.db'}' AS today; INSERT INTO data_key SELECT * FROM today.data_key")
    held.close()
    with Store(
        open_sqlite(backup, clock=FixedClock(), draw=os.urandom, keys=[OLD]), Settings(os.urandom), url="backup"
    ) as restored:
        session, fork = restored.session("s"), restored.session("fork")
        for position in (10, 100):
            with pytest.raises(
                CorruptionError, match=f"position {position} is encrypted, and its key is not in the store"
            ):
                _ = session[position].data
        with pytest.raises(
            CorruptionError, match="attachment 0 at position 100 is encrypted, and its key is not in the store"
        ):
            restored.storage.attachments(restored.storage.lineage(1, ""), 100)
        assert [fork[position].data["n"] for position in range(50) if position != 10] == [
            n for n in range(50) if n != 10
        ]
        assert fork[51].data["n"] == 50
        assert [session[position].data["n"] for position in range(11, 100)] == list(range(11, 100))


def test_erasing_and_deleting_destroy_keys_and_nothing_else(opened):
    store = opened(OLD)
    session = store.create("s", events=[note(number) for number in range(10)])
    other = store.create("other", events=[note(number) for number in range(10)])
    session.erase([1, 2], reason="asked for")
    keys = [
        (each.branch, each.position)
        for bucket in store.storage.all_buckets()
        for each in store.storage.data_keys(bucket, OLD.id, (-1, -1), 100)
    ]
    assert len(keys) == 18
    store.delete("s", reason="asked for")
    assert [event.data["n"] for event in other.events()] == list(range(10))
    left = [
        each.position
        for bucket in store.storage.all_buckets()
        for each in store.storage.data_keys(bucket, OLD.id, (-1, -1), 100)
    ]
    assert sorted(left) == list(range(10))
    store.verify().raise_for_faults()


# --- exchanging keys -------------------------------------------------------------------------------
def test_after_a_rotation_the_old_key_is_needed_for_nothing_and_opens_nothing(opened, tmp_path, clock):
    store = opened(OLD)
    for number in range(4):
        store.create(f"s{number}", events=[note(n) for n in range(30)])
    compacted(store, clock)
    store.session("s0").append("note", {"content": "x", "n": 30}, attachments={"a": b"attached"})
    before = told(store)
    with pytest.raises(KeyNeededError, match="was not given; nothing was written"):
        Store(store.storage, Settings(os.urandom), url="").encryption.rotate(key_file(tmp_path, "new", bytes([2]) * 32))
    assert store.encryption.rotate(key_file(tmp_path, "new", bytes([2]) * 32)) == 121
    assert store.encryption.keys() == keys_of(NEW)
    with pytest.raises(KeyNeededError, match="nothing was written"):
        store.session("s1").append("note", {"content": "x"})  # open with the old key still
    store = opened(NEW)
    assert told(store) == before
    store.session("s1").append("note", {"content": "x", "n": 30})
    store.verify().raise_for_faults()
    with pytest.raises(KeyNeededError):
        opened(OLD)
    assert opened(NEW).encryption.rotate(key_file(tmp_path, "same", bytes([2]) * 32)) == 0


def test_of_two_rotations_at_once_one_is_refused_and_no_key_is_lost(opened, program, tmp_path):
    store = opened(OLD)
    store.create("s", events=[note(number) for number in range(5)])
    third = WrappingKey(bytes([3]) * 32)
    new, other = (key_file(tmp_path, name, bytes([fill]) * 32) for name, fill in (("new", 2), ("third", 3)))
    with program(OLD) as second:
        started = False

        def other_begins(page):
            nonlocal started
            if not started:  # the first has wrapped a page, and the second takes its key from there
                started = True
                for bucket in second.storage.all_buckets():
                    second.storage.write(TakeKey(bucket, third.id, first=False))
                with pytest.raises(KeyNeededError, match="nothing was written"):
                    for bucket in second.storage.all_buckets():
                        for key in second.storage.data_keys(bucket, NEW.id, (-1, -1), 1):
                            second.storage.write(Rewrap(bucket, NEW.id, OLD.id, (key,)))

        store.encryption.rotate(new, progress=other_begins)
        with pytest.raises(KeyNeededError, match="was not given"):
            second.encryption.rotate(other)
    with program(OLD, NEW, third) as all_keys:
        assert [event.data["n"] for event in all_keys.session("s").events()] == list(range(5))
        all_keys.encryption.rotate(other)
        assert all_keys.encryption.keys() == keys_of(third)
        assert all_keys.encryption.rotate(new) == 5  # and back
    store = opened(NEW)
    assert [event.data["n"] for event in store.session("s").events()] == list(range(5))


def test_a_rotation_that_was_given_up_before_it_wrapped_anything_needs_no_key(opened, tmp_path):
    store = opened(OLD)
    store.create("s", events=[note(0)])
    for id in (NEW.id, OLD.id):
        for bucket in store.storage.all_buckets():
            store.storage.write(TakeKey(bucket, id, first=False))
    assert store.encryption.keys() == keys_of(OLD, NEW)
    assert store.encryption.rotate(key_file(tmp_path, "third", bytes([3]) * 32)) == 1


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_after_a_rotation_no_file_holds_a_data_key_as_the_old_key_wrapped_it(opened, tmp_path):
    store = opened(OLD)
    store.create("s", events=[note(number) for number in range(300)])
    wrapped = [key.wrapped for key in store.storage.data_keys(0, OLD.id, (-1, -1), 1_000)]
    assert looked_for(files_of(tmp_path), wrapped)
    store.encryption.rotate(key_file(tmp_path, "new", bytes([2]) * 32))
    assert looked_for(files_of(tmp_path), wrapped) == []


def keys_of(current, *retired):
    return EncryptionKeys(current.id.hex(), tuple(key.id.hex() for key in retired))


@pytest.fixture
def program(kind, tmp_path):
    """Gives what opens the store of the test once more, with keys."""

    def open_with(*keys):
        if kind == "sqlite":
            storage = open_sqlite(tmp_path / "store.db", clock=FixedClock(), draw=os.urandom, keys=keys)
        else:
            storage = open_in(tmp_path, clock=FixedClock(), keys=keys)
        return Store(storage, Settings(os.urandom, wrapping=keys), url=kind)

    return open_with


def test_programs_with_both_keys_go_on_while_keys_are_exchanged_and_others_write_nothing(opened, program, tmp_path):
    store = opened(OLD)
    store.create("s", events=[note(0)])
    with program(OLD, NEW) as ready, program(OLD) as late:
        going, refused = ready.session("s"), late.session("s")
        going.append("note", {"content": "before", "n": 1})
        store.encryption.rotate(key_file(tmp_path, "new", bytes([2]) * 32))
        going.append("note", {"content": "after", "n": 2}, key="k")
        going.append("note", {"content": "after", "n": 2}, key="k")
        for attempt in (
            lambda: refused.refresh() and refused.append("note", {"content": "x"}),
            lambda: refused.extend([note(1), note(2)]),
            lambda: late.create("never", events=[note(1)]),
        ):
            with pytest.raises(KeyNeededError, match="nothing was written"):
                attempt()
        assert [event.data["n"] for event in going.events()] == [0, 1, 2]
    store = opened(NEW)
    assert [event.data["n"] for event in store.session("s").events()] == [0, 1, 2]
    assert [info.id for info in store.sessions()] == ["s"]
    store.verify().raise_for_faults()


def test_no_data_key_is_wrapped_with_a_retired_key_and_one_that_is_needed_stays(opened, program, tmp_path):
    store = opened(OLD)
    session = store.create("s", events=[note(0)])
    with program(OLD, NEW) as ready, program(OLD) as late:
        going, refused = ready.session("s"), late.session("s")
        for bucket in store.storage.all_buckets():  # as a rotation begins
            assert store.storage.write(TakeKey(bucket, NEW.id, first=False)).count == 1
            assert store.storage.write(TakeKey(bucket, NEW.id, first=False)).count == 0
        with pytest.raises(KeyNeededError, match="nothing was written"):
            refused.append("note", {"content": "x"})
        going.append("note", {"content": "meanwhile", "n": 1})
        forgotten = [store.storage.write(ForgetKey(bucket, OLD.id)).count for bucket in store.storage.all_buckets()]
        assert forgotten.count(0) == 1  # where the session is
        assert session[0].data["n"] == 0
        assert refused[0].data["n"] == 0
    store = opened(OLD)
    assert store.encryption.rotate(key_file(tmp_path, "new", bytes([2]) * 32)) == 1
    assert [event.data["n"] for event in opened(NEW).session("s").events()] == [0, 1]


ROTATE = """
import os, signal, sys
from everlog import encryption
import everlog

encryption._KEYS = 100
url, old, new, pages = sys.argv[1:5]
left = int(pages)

def reached(done):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

with everlog.open(url, encrypt=[old]) as store:
    if left == 0:
        reached(0)
    store.encryption.rotate(new, progress=reached)
"""


def test_a_rotation_that_is_killed_at_any_page_goes_on_where_it_was(opened, kind, tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    store = opened(OLD, folder=folder)
    session = store.create("s")
    for start in range(0, 500, 100):
        session.extend([note(start + number) for number in range(100)])
    head = session.head
    store.close()
    url = str(folder / "store.db") if kind == "sqlite" else url_of(folder)
    old, new = (key_file(tmp_path, name, bytes([fill]) * 32) for name, fill in (("old", 1), ("new", 2)))
    for pages in range(1, 7):
        done = subprocess.run([sys.executable, "-c", ROTATE, url, old, new, str(pages % 2 + 1)], check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        with everlog.open(url, encrypt=[new, old]) as between:  # both keys, and nothing is missing
            assert between.encryption.keys() == keys_of(NEW, OLD)
            assert between.session("s").head == head
            assert [event.data["n"] for event in between.session("s").events()] == list(range(500))
        with pytest.raises(KeyNeededError), everlog.open(url, encrypt=[old]) as before:
            before.session("s").append("note", {"content": "x"})
    assert done.returncode == 0
    store = opened(NEW, folder=folder)
    assert store.encryption.keys() == keys_of(NEW)
    assert [event.data["n"] for event in store.session("s").events()] == list(range(500))
    store.verify().raise_for_faults()


SEAL = ROTATE.replace("store.encryption.rotate(new, progress=reached)", "store.encryption.seal(progress=reached)")


def test_sealing_that_is_killed_at_any_page_goes_on_where_it_was(opened, kind, tmp_path, clock):
    folder = tmp_path / "store"
    folder.mkdir()
    store = opened(folder=folder)
    session = store.create("s", events=[note(number, size=number % 3 * 9_000) for number in range(200)])
    session.append("note", {"content": "x"}, attachments={"a": ATTACHED, "b": b"small"})
    compacted(store, clock)
    session.extend([note(number) for number in range(70)])
    before = told(store)
    store.close()
    url = str(folder / "store.db") if kind == "sqlite" else url_of(folder)
    source = key_file(tmp_path, "old", bytes([1]) * 32)
    for pages in range(1, 20):
        done = subprocess.run([sys.executable, "-c", SEAL, url, source, "", str(pages)], check=False)
        with everlog.open(url, encrypt=source) as between:
            assert told(between) == before
            between.verify().raise_for_faults()
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert done.returncode == 0
    assert pages > 4
    report = opened(folder=folder).verify()
    assert (report.ok, report.encrypted) == (True, 271)


# --- what was written before -----------------------------------------------------------------------
def test_sealing_what_was_written_before_changes_no_answer(opened, clock):
    store = opened()
    fill(store)
    store.session("of-200").append("note", {"content": SECRET}, attachments={"a": ATTACHED})
    compacted(store, clock)
    store.create("hot", events=[note(number) for number in range(130)])
    store.session("hot").append("note", {"content": SECRET * 1_000}, attachments={"a": ATTACHED, "b": b"small"})
    store.session("of-200").erase([3], reason="asked for")
    before = told(store)
    with pytest.raises(KeyNeededError, match="does not encrypt"):
        store.encryption.seal()
    store = opened(OLD)
    assert store.verify().encrypted == 0
    mixed = store.verify()
    assert store.stats().plain == mixed.plain == mixed.events - mixed.erased
    assert store.encryption.seal() > 1_000
    assert store.stats().plain == 0
    assert told(store) == before
    store.verify().raise_for_faults()
    store.encryption.seal()  # again changes nothing
    compacted(store, clock)
    assert told(store) == before
    store = opened()
    report = store.verify()
    assert report.ok
    assert report.encrypted + report.erased == report.events
    assert store.storage.kept_once([]) == []
    store = opened(OLD)
    assert told(store) == before
    store.verify(states=True).raise_for_faults()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_sealing_leaves_no_plain_text_in_any_file(opened, tmp_path, clock):
    store = opened()
    session = store.create("s", events=[NewEvent("note", {"content": f"{SECRET} {n}"}) for n in range(200)])
    session.append("note", {"content": SECRET * 2_000}, attachments={"a.bin": ATTACHED, "b.bin": b"nobody"})
    store.search("sentence")
    compacted(store, clock)
    session.extend([NewEvent("note", {"content": f"{SECRET} {n}"}) for n in range(70)])
    session.state()
    markers = [b"nobody", ATTACHED[:27], *salts_of(store)]
    assert looked_for(files_of(tmp_path), markers)
    store = opened(OLD)
    store.encryption.seal()
    assert store.session("s")[200].attachment("a.bin") == ATTACHED
    assert len(store.search("sentence", limit=300).hits) > 200
    store.close()
    assert looked_for(files_of(tmp_path), markers) == []


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_sealing_says_where_a_reader_keeps_plain_text_in_the_log(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "BUSY_MILLISECONDS", 50)
    opened().create("s", events=[NewEvent("note", {"content": f"{SECRET} {n}"}) for n in range(200)])
    store = opened(OLD)
    store.session("s").append("note", {"content": SECRET})
    reader = apsw.Connection(str(tmp_path / "store.db"))
    reader.execute("BEGIN; SELECT count(*) FROM event").fetchall()
    with pytest.raises(BusyError, match="deleted or sealed is gone from the store, but a reader keeps old bytes"):
        store.encryption.seal()
    assert store.stats().plain == 0
    assert looked_for(files_of(tmp_path), [SECRET.encode()])
    reader.close()
    store.encryption.seal()
    assert looked_for(files_of(tmp_path), [SECRET.encode()]) == []


def test_what_is_archived_is_not_sealed_and_that_is_said(opened, tmp_path, clock):
    store = opened()
    store.create("s", events=[note(number) for number in range(100)])
    compacted(store, clock)
    store.archive(tmp_path / "archive", older_than=0)
    store = opened(OLD)
    with pytest.raises(UnavailableError, match="nothing was encrypted; restore them first"):
        store.encryption.seal()
    store.restore()
    store.encryption.seal()
    assert opened().verify().encrypted == 100


# --- who is asked to encrypt -----------------------------------------------------------------------
def test_a_key_of_the_environment_encrypts_new_stores_and_never_makes_a_plain_one_mixed(kind, tmp_path, monkeypatch):
    url = str(tmp_path / "store.db") if kind == "sqlite" else url_of(tmp_path)
    source = key_file(tmp_path, "key", bytes(32))
    with everlog.open(url, encrypt="") as store:
        store.create("s", events=[note(1)])
    monkeypatch.setenv("EVERLOG_ENCRYPT", source)
    with everlog.open(url) as store:
        session = store.session("s")
        assert session[0].data["n"] == 1
        assert store.encryption.keys() == EncryptionKeys(None)
        with pytest.raises(KeyNeededError, match="keeps bodies in plain text; nothing was written; have it encrypt"):
            session.append("note", {"content": SECRET})
        with everlog.open(url, encrypt="") as other:  # which goes on as ever
            other.session("s").append("note", {"content": "x", "n": 2})
        session.refresh()
        assert store.encryption.seal() == 2
        session.append("note", {"content": SECRET, "n": 3})
        assert [event.data["n"] for event in session.events()] == [1, 2, 3]
        assert store.verify().ok
    with everlog.open(url, encrypt="") as without:
        assert without.verify().encrypted == 3
    with everlog.open(tmp_path / "new.db") as new:
        assert new.encryption.keys().current == WrappingKey(bytes(32)).id.hex()
    with everlog.open("memory:") as memory:
        assert memory.encryption.seal() == 0


def test_a_program_that_was_open_before_writes_no_plain_text_once_the_store_encrypts(opened, program, kind, tmp_path):
    store = opened()
    store.create("s", events=[note(number) for number in range(60)])
    late = store.session("s")
    url = str(tmp_path / "store.db") if kind == "sqlite" else url_of(tmp_path)
    with everlog.open(url, encrypt="") as other, program(OLD) as sealing:
        waiting = other.session("s")
        assert sealing.encryption.seal() == 60
        for attempt in (
            lambda: late.append("note", {"content": SECRET}),
            lambda: waiting.extend([note(number) for number in range(1_100)]),
            lambda: store.create("never", events=[note(1)]),
        ):
            with pytest.raises(KeyNeededError, match="nothing was written"):
                attempt()
        assert [info.id for info in sealing.sessions()] == ["s"]
        assert sealing.session("s").head.size == 60


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_program_that_was_open_before_keeps_no_words_for_searching_once_the_store_encrypts(opened, program, tmp_path):
    store = opened()
    store.create("s", events=[NewEvent("note", {"content": SECRET})])
    assert store.search("sentence").hits
    with program(OLD):
        assert not (tmp_path / "store.db-search").exists()
        assert store.search("sentence").hits  # in plain text until it is sealed
        assert not (tmp_path / "store.db-search").exists()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_program_that_encrypts_writes_no_plain_text_where_the_list_of_keys_is_gone(opened, tmp_path):
    store = opened(OLD)
    session = store.create("s", events=[note(0)])
    held = apsw.Connection(str(tmp_path / "store.db"))
    held.execute("DELETE FROM wrapping_key")
    held.close()
    with pytest.raises(KeyNeededError, match="nothing was written"):
        session.append("note", {"content": SECRET})


def test_of_two_programs_that_begin_with_different_keys_at_once_one_is_refused(opened, kind, tmp_path):
    plain = opened().storage
    others = open_sqlite if kind == "sqlite" else open_in
    place = tmp_path / "store.db" if kind == "sqlite" else tmp_path
    drawn = {"draw": os.urandom} if kind == "sqlite" else {}
    first = others(place, clock=FixedClock(), **drawn)

    class Begun:
        """The store as the slower of two sees it: without a key when it looks, and with one when it writes."""

        def __init__(self):
            self.looked = False

        def __getattr__(self, name):
            return getattr(plain, name)

        def wrapping_keys(self):
            if self.looked:
                return plain.wrapping_keys()
            self.looked = True
            found = plain.wrapping_keys()
            first.write(TakeKey(0, NEW.id, first=True))
            return found

    with pytest.raises(
        KeyNeededError, match=f"encrypts with the key {NEW.id.hex()}, and was opened with {OLD.id.hex()}"
    ):
        take_key(Begun(), Sealing([OLD]), read_only=False)
    assert {row.id for row in plain.wrapping_keys()} == {NEW.id}
    first.close()
