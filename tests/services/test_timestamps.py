"""Time stamps of seals: what an authority signs is kept and checked, and whatever it does, the seal is made."""

import shutil
import socket
import threading
from hashlib import sha256

import pytest

import everlog
from authority import Authority, openssl
from everlog import NewEvent
from everlog.errors import InvalidEventError, NotFoundError, TamperedError
from everlog.timestamps import check_stamp, read_authorities

LONG = b"\x30" * 1_000_000


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    with Authority(tmp_path_factory.mktemp("tsa") / "authority").serving() as served:
        yield served


@pytest.fixture
def store(tmp_path):
    with everlog.open(tmp_path / "store.db") as opened:
        opened.create("run", events=[NewEvent("note", {"content": "one"})])
        opened.keys(tmp_path / "keys").new()
        yield opened


@pytest.fixture
def keys(store, tmp_path):
    return store.keys(tmp_path / "keys")


def stamps(keys):
    return sorted((keys.folder / "timestamps").glob("*"))


def verify(store, keys, authority):
    return store.verify(keys=[keys.verifier], seals=[keys.folder / "seals.txt"], authorities=authority.certificates)


def test_a_seal_is_stamped_and_the_stamp_says_when_it_was_there(store, keys, authority):
    seal = store.seal(keys=keys, timestamp=authority.url)
    assert seal.warnings == ()
    (kept,) = stamps(keys)
    digest = sha256(seal.note.encode()).hexdigest()
    assert kept.name == f"{seal.head.size:016d}-{digest}.tsr"
    report = verify(store, keys, authority)
    assert (report.ok, report.stamps, report.faults) == (True, 1, ())
    assert report.stamped.startswith(f"{seal.head.size} records at 20")
    said = openssl("ts", "-verify", "-digest", digest, "-in", kept, "-CAfile", authority.certificates)
    assert b"Verification: OK" in said.stdout
    store.session("run").append("note", {"content": "two"})
    later = store.seal(keys=keys)
    report = verify(store, keys, authority)
    assert (report.ok, report.stamps) == (True, 1)
    assert any("1 seals have no time stamp" in text for text in report.unchecked)
    store.seal(keys=keys, timestamp=authority.url)  # nothing is new, and it is stamped all the same
    assert verify(store, keys, authority).stamped.startswith(f"{later.head.size} records")
    assert len(stamps(keys)) == 2


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((500, b""), "500"),
        ((200, b""), "no time stamp"),
        ((200, b"<html>"), "no time stamp"),
        ((200, LONG), "no time stamp"),
        ((200, bytes.fromhex("30053003020102")), "status is 2"),
        ((200, bytes.fromhex("30053003020100")), "no time stamp"),
    ],
)
def test_an_authority_that_gives_no_stamp_spoils_no_seal(store, keys, authority, answer, why):
    authority.answers = [answer]
    seal = store.seal(keys=keys, timestamp=authority.url)
    assert len(seal.warnings) == 1 and why in seal.warnings[0] and "the seal is made without it" in seal.warnings[0]
    assert stamps(keys) == [] and len(store.seals()) == 1
    assert verify(store, keys, authority).ok


def test_an_authority_that_is_not_there_spoils_no_seal(store, keys):
    seal = store.seal(keys=keys, timestamp="http://127.0.0.1:1/tsa")
    assert "gave no time stamp" in seal.warnings[0]


def test_an_authority_that_stops_midway_is_not_waited_for(store, keys, monkeypatch):
    monkeypatch.setattr("everlog.publishing.SECONDS_MAX", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked = []  # kept open until the seal is made

        def answer():
            asked.append(server.accept()[0])
            asked[0].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")

        thread = threading.Thread(target=answer)
        thread.start()
        seal = store.seal(keys=keys, timestamp=f"http://127.0.0.1:{server.getsockname()[1]}/tsa")
        thread.join()
        asked[0].close()
    assert "timed out" in seal.warnings[0] and len(store.seals()) == 1


def test_a_stamp_that_cannot_be_kept_spoils_no_seal(store, keys, authority):
    (keys.folder / "timestamps").write_text("in the way")
    seal = store.seal(keys=keys, timestamp=authority.url)
    assert "cannot be kept" in seal.warnings[0] and len(store.seals()) == 1
    report = verify(store, keys, authority)
    assert (report.ok, report.stamps) == (False, 0)
    assert "cannot be read" in report.faults[0].what


def test_a_stamp_of_something_else_or_of_an_earlier_question_is_not_kept(store, keys, authority):
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    other = TimestampRequestBuilder(b"other", HashAlgorithm.SHA256).build()
    authority.answers = [(200, authority.stamp(other.as_bytes()))]
    seal = store.seal(keys=keys, timestamp=authority.url)
    assert "of something else" in seal.warnings[0]
    earlier = TimestampRequestBuilder(seal.note.encode(), HashAlgorithm.SHA256).build()
    authority.answers = [(200, authority.stamp(earlier.as_bytes()))]
    assert "of something else" in store.seal(keys=keys, timestamp=authority.url).warnings[0]
    assert stamps(keys) == []


def test_a_sealer_asks_once_for_each_seal(store, keys, authority):
    sealer = store.sealer(keys=keys, timestamp=authority.url)
    authority.asked, authority.answers = 0, [(500, b"")]
    assert len(sealer.seal().warnings) == 1
    assert sealer.seal().warnings == ()
    assert authority.asked == 1
    store.session("run").append("note", {"content": "two"})
    assert sealer.seal().warnings == ()
    assert (authority.asked, len(stamps(keys))) == (2, 1)


def test_a_stamp_that_was_changed_or_moved_is_a_fault_and_so_is_one_of_another_authority(
    store, keys, authority, tmp_path
):
    store.seal(keys=keys, timestamp=authority.url)
    store.session("run").append("note", {"content": "two"})
    store.seal(keys=keys, timestamp=authority.url)
    first, second = stamps(keys)
    good = first.read_bytes()
    for bad in (second.read_bytes(), good[:-1], b"", LONG):
        first.write_bytes(bad)
        report = verify(store, keys, authority)
        assert (report.ok, report.fault_count, report.stamps) == (False, 1, 1)
        assert str(first) in report.faults[0].what
    first.write_bytes(good)
    assert verify(store, keys, authority).ok
    report = verify(store, keys, Authority(tmp_path / "another"))
    assert (report.ok, report.fault_count, report.stamped) == (False, 2, None)


def test_no_bit_of_a_stamp_can_be_flipped_to_say_another_time_or_another_seal(store, keys, authority):
    seal = store.seal(keys=keys, timestamp=authority.url)
    raw = stamps(keys)[0].read_bytes()
    trusted = read_authorities(authority.certificates)
    at = check_stamp(raw, seal.note.encode(), trusted)
    with pytest.raises(TamperedError):
        check_stamp(raw, seal.note.encode() + b" ", trusted)
    refused = 0
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert check_stamp(bytes(flipped), seal.note.encode(), trusted) == at
        except TamperedError:
            refused += 1
    assert refused > 7 * len(raw)  # some bits of a signature's wrapping say the same


def test_a_copy_of_seals_and_stamps_is_checked_where_it_lies(store, keys, authority, tmp_path):
    store.seal(keys=keys, timestamp=authority.url)
    shutil.copytree(keys.folder, tmp_path / "copy")
    shutil.rmtree(keys.folder / "timestamps")
    report = store.verify(seals=[tmp_path / "copy" / "seals.txt"], authorities=authority.certificates)
    assert (report.ok, report.stamps) == (True, 1)


def test_what_is_no_authority_is_refused_before_anything_is_sealed(store, keys, tmp_path):
    with pytest.raises(InvalidEventError, match="no address of an authority"):
        store.seal(keys=keys, timestamp="ftp://example.com")
    assert store.seals() == []
    seals = tmp_path / "seals.txt"
    seals.write_bytes(b"")
    with pytest.raises(NotFoundError, match="no file of certificates"):
        store.verify(seals=[seals], authorities=tmp_path / "none")
    (tmp_path / "text").write_text("no certificate")
    with pytest.raises(InvalidEventError, match="no certificates"):
        store.verify(seals=[seals], authorities=tmp_path / "text")
    with pytest.raises(InvalidEventError, match="none was given"):
        store.verify(authorities=tmp_path / "text")
