"""Erasing with the key at hand: the record is sealed before anything is destroyed."""

import apsw
import msgspec
import pytest

import everlog
from databases import address
from everlog import NewEvent
from everlog.certificates import read_certificate
from everlog.errors import HeldError, NotFoundError, TamperedError, UnavailableError
from everlog.storage import Erase


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request, tmp_path):
    with everlog.open(address(request.param, tmp_path / "store")) as opened:
        yield opened


@pytest.fixture
def session(store):
    said = [NewEvent("user.message", {"content": f"{number} so it was."}) for number in range(70)]
    made = store.create("run", events=said, labels={"user": "u7"})
    made.summarize(leaf_tokens=100)
    return made


@pytest.fixture
def keys(store, tmp_path):
    made = store.keys(tmp_path / "keys")
    made.new()
    return made


def sealed_records(store):
    """The entries that a seal covers."""
    return {row.entry for row in store.storage.placed(0, store.seals()[0].head.size)} if store.seals() else set()


def left(keys):
    return keys.folder / "erasing.json"


@pytest.fixture
def stopped(store, monkeypatch):
    """Have the store stop before a step of an erasure, as a process does that dies there."""

    class DiedError(BaseException):
        pass

    write = store.storage.write

    def stop_before(step):
        def stopping(request):
            if isinstance(request, Erase) and request.step == step:
                raise DiedError
            return write(request)

        monkeypatch.setattr(store.storage, "write", stopping)
        return pytest.raises(DiedError)

    stop_before.go_on = monkeypatch.undo
    return stop_before


def test_the_record_is_sealed_before_the_body_goes_and_is_there_once(store, session, keys, stopped):
    with stopped("destroy"):
        session.erase([3, 5], reason="asked for", actor="ada", keys=keys)
    stopped.go_on()
    assert session[3].data is not None
    assert store.storage.erasure(session[3].leaf).number in sealed_records(store)
    assert store.verify().ok
    certificate = session.erase([3, 4, 5], reason="again", actor="bob", keys=keys)
    assert session[3].data is session[4].data is None
    assert (certificate.positions, certificate.before) == ((4,), (3, 5))
    records = [record.record for record in certificate.records]
    assert sum('"ada"' in record for record in records) == 2, "the events, and the summary that stood for them"
    assert sum('"bob"' in record for record in records) == 1
    assert not left(keys).exists()
    assert store.check_certificate(certificate).ok
    assert all(record.entry in sealed_records(store) for record in certificate.records)
    report = store.verify(keys=[keys.verifier])
    assert (report.faults, report.erased) == ((), 4)


def test_what_was_recorded_is_finished_by_whoever_seals_next(store, session, keys, stopped):
    with stopped("destroy"):
        session.erase([3], reason="asked for", keys=keys)
    stopped.go_on()
    assert store.seal(keys=keys).warnings == ()
    assert session[3].erased
    assert not left(keys).exists()


def test_what_was_not_begun_is_forgotten(store, session, keys, stopped):
    with stopped("record"):
        session.erase([3], reason="asked for", keys=keys)
    stopped.go_on()
    assert left(keys).exists()
    store.seal(keys=keys)
    assert not session[3].erased
    assert not left(keys).exists()


def test_the_erasure_of_a_session_that_was_deleted_meanwhile_is_done(store, session, keys, stopped):
    with stopped("destroy"):
        session.erase([3], reason="asked for", keys=keys)
    stopped.go_on()
    store.delete("run", reason="no more")
    assert store.seal(keys=keys).warnings == ()
    assert not left(keys).exists()


def test_what_cannot_be_read_of_an_intent_spoils_no_seal_and_is_told(store, session, keys):
    session.append("note", {"content": "x"})
    left(keys).write_bytes(b"{")
    assert "which erasure is to be finished" in store.seal(keys=keys).warnings[0]
    with pytest.raises(UnavailableError, match="nothing was done"):
        session.erase([3], reason="asked for", keys=keys)
    assert not session[3].erased


def test_where_it_cannot_be_sealed_nothing_is_destroyed_and_the_next_seal_finishes_it(store, session, keys):
    seals = keys.folder / "seals.txt"
    seals.mkdir()
    with pytest.raises(UnavailableError, match=r"on record and could not be sealed .* nothing was destroyed"):
        session.erase([3], reason="asked for", keys=keys)
    assert not session[3].erased
    seals.rmdir()
    assert store.seal(keys=keys).warnings == ()
    assert session[3].erased


def test_what_is_refused_is_neither_recorded_nor_sealed(store, session, keys, tmp_path):
    for erase in (
        lambda: session.erase([3], reason="asked for", keys=tmp_path / "none"),
        lambda: store.erase("label.user:u7", reason="asked for", keys=tmp_path / "none"),
    ):
        with pytest.raises(NotFoundError, match="no key"):
            erase()
    session.hold(reason="a court")
    with pytest.raises(HeldError):
        session.erase([3], reason="asked for", keys=keys)
    with pytest.raises(NotFoundError, match="no key"):
        store.seal(keys=tmp_path / "none")
    assert store.storage.erasure(session[3].leaf) is None
    assert not session[3].erased
    assert not left(keys).exists()
    assert not (tmp_path / "none").exists()


def test_erasing_by_subject_seals_each_transaction_before_it_destroys(store, session, keys):
    certified = []
    work = store.erase("label.user:u7", reason="asked for", keys=keys.folder.parent, certified=certified.append)
    assert work.events >= 70
    assert session[3].erased
    assert all(record.entry in sealed_records(store) for each in certified for record in each.records)


# --- certificates, with nothing but a key --------------------------------------------------------
def test_a_certificate_holds_under_the_key_alone_where_its_records_are_sealed(store, session, keys):
    made = session.erase([3, 5], reason="asked for", actor="ada", keys=keys)
    read = read_certificate(made.encode())
    assert str(read.verify(keys.verifier)) in store.seals()[0].note
    assert [record.reason for record in read.records] == ["asked for"] * 2, "of the summary, and of the events"
    session.append("note", {"content": "x"})
    store.seal(keys=keys)
    again = session.certificate([3, 5])
    assert again.seal == store.seals()[0].note, "the last seal, of a larger ledger"
    again.verify([keys.verifier])
    for each in (read, again):
        assert store.check_certificate(each).ok


def test_without_a_key_it_is_made_before_the_seal_and_again_after_it(store, session, keys):
    store.seal(keys=keys)
    made = session.erase([3], reason="asked for")
    assert made.seal is None
    with pytest.raises(NotFoundError, match="before its records were sealed"):
        made.verify(keys.verifier)
    store.seal(keys=keys)
    session.certificate([3]).verify(keys.verifier)
    both = session.erase([3, 4], reason="more")
    assert (both.before, both.seal) == ((3,), None), "a seal is of all of its records, or it has none"


def test_a_certificate_that_was_changed_or_is_sealed_by_another_is_told(store, session, keys, tmp_path):
    session.append("note", {"content": "x"})
    made = session.erase([3], reason="asked for", keys=keys)
    other = session.erase([4], reason="asked for", keys=keys)
    replace = msgspec.structs.replace
    record = made.records[-1]
    for wrong, said in (
        ({"positions": (3, 4)}, "none of its records names event 4"),
        ({"before": (9,)}, "none of its records names event 9"),
        (
            {"records": (replace(record, record=record.record.replace('"kind"', '"king"')),)},
            "does not stand in the ledger",
        ),
        (
            {"records": (replace(record, record=record.record.replace('"t":1', '"t":2')),)},
            "does not stand in the ledger",
        ),
        ({"records": (replace(record, index=record.index + 1),)}, "does not stand in the ledger"),
        ({"records": (replace(record, hash="0" * 64),)}, "does not stand in the ledger"),
        ({"records": (replace(record, index=None),)}, "does not stand in the ledger"),
        ({"records": (replace(record, path=record.path[:-1]),)}, "does not stand in the ledger"),
        ({"records": (replace(record, path=("x", *record.path[1:])),)}, "does not stand in the ledger"),
        ({"seal": other.seal}, "does not stand in the ledger"),
        ({"seal": made.seal.replace("\n", " \n", 1)}, "is pinned"),
        ({"seal": "x"}, "no signed checkpoint"),
    ):
        changed = replace(made, **wrong)
        with pytest.raises(TamperedError, match=said):
            changed.verify(keys.verifier)
        assert not store.check_certificate(changed).ok or said == "is pinned", (wrong, store.check_certificate(changed))
    stranger = store.keys(tmp_path / "others")
    with pytest.raises(TamperedError):
        made.verify(stranger.new())


def test_records_of_the_ledger_that_are_gone_stop_neither_a_certificate_nor_an_export(tmp_path):
    with everlog.open(tmp_path / "gone.db") as store:
        keys = store.keys(tmp_path / "keys")
        keys.new()
        session = store.create("run", events=[NewEvent("note", {"content": str(number)}) for number in range(9)])
        session.erase([3], reason="asked for", keys=keys)
        rows = apsw.Connection(str(tmp_path / "gone.db"))
        rows.execute("DELETE FROM placed")
        rows.close()
        assert session.certificate([3]).seal is None
        session.export(tmp_path / "run.everlog")
        assert not store.verify().ok
