"""Object storage that answers, fails, refuses, hangs and lies: an S3 server on loopback, and places that misbehave on purpose."""

import http.server
import os
import socket
import threading
from contextlib import contextmanager
from datetime import timedelta

import obstore.store
import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

import everlog
from everlog.errors import CorruptionError, UnavailableError, UnsupportedStoreError
from everlog.stores import objects
from everlog.stores.objects import Objects, connect
from everlog.testing.clock import FixedClock
from services.cold import note, open_cold, told

SECRET = "wJalrXUtnFEMI-K7MDENG-bPxRfiCY"  # of these tests only
KEY_ID = "AKIAIOSFODNN7EXAMPLE"


@pytest.fixture
def clock():
    return FixedClock()


@pytest.fixture
def small(monkeypatch):
    """Objects of a few blocks, so that there are a few."""
    monkeypatch.setattr("everlog.archiving.OBJECT_BYTES", 4_000)


def filled(folder, clock, **options):
    """A store with packed blocks that are old enough."""
    store = open_cold("sqlite", folder, clock, **options)
    session = store.create("s", events=[note(number, key=f"k{number}") for number in range(200)])
    session.append("agent.message", {"content": "see"}, attachments={"a": os.urandom(20_000)})
    clock.advance(seconds=1)
    store.compact(older_than=0)
    return store


# --- S3 ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def s3():
    """The address of an S3 server of this test run."""
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def environment(monkeypatch):
    """Say in the environment where S3 is, as its users do."""

    def at(address):
        for name, value in {
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": address,
            "AWS_ALLOW_HTTP": "true",
        }.items():
            monkeypatch.setenv(name, value)

    return at


@pytest.fixture
def bucket(s3, environment, tmp_path):
    """A bucket of this test."""
    environment(s3)
    name = f"bucket-{tmp_path.name.replace('_', '-').lower()[:40]}"
    urllib_put(f"{s3}/{name}")
    return name


def urllib_put(url):
    import urllib.request

    with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=30):
        pass


def names(bucket):
    return sorted(each["path"] for page in connect(f"s3://{bucket}").list() for each in page)


def test_seals_go_to_s3_one_object_each_and_what_s3_refuses_spoils_none(bucket, tmp_path):
    with everlog.open(tmp_path / "s.db") as store:
        session = store.create("s", events=[note(1)])
        keys = store.keys(tmp_path / "keys")
        key = keys.new()
        place = f"s3://{bucket}/seals"
        first = store.seal(keys=keys, to=[place])
        session.append("note", {"content": "x"})
        second = store.seal(keys=keys, to=[place, "s3://no-such-bucket/seals"])
        assert first.warnings == ()
        assert ["no-such-bucket" in warning for warning in second.warnings] == [True]
        assert names(bucket) == [f"seals/{seal.origin}/{seal.head.size:016d}.note" for seal in (first, second)]
        copy = tmp_path / "copy.txt"
        copy.write_text("\n".join(fetched(bucket, name) for name in names(bucket)))
        assert copy.read_text() == (keys.folder / "seals.txt").read_text()
        report = store.verify(keys=[key], seals=[copy])
        assert (report.faults, report.seals) == ((), 4), "two that the store keeps, and two from there"
        assert SECRET not in str(second.warnings)


def fetched(bucket, name):
    return bytes(connect(f"s3://{bucket}").get(name).bytes()).decode()


def test_blocks_go_to_s3_are_read_from_there_and_come_home(bucket, tmp_path, clock, small):
    with filled(tmp_path, clock) as store:
        before = told(store)
        done = store.archive(f"s3://{bucket}/some/prefix", older_than=0)
        assert done.objects > 2
        assert len(names(bucket)) == done.objects
        assert all(name.startswith(f"some/prefix/{store.storage.id}/") for name in names(bucket))
        with open_cold("sqlite", tmp_path, clock) as fresh:
            assert told(fresh) == before
            fresh.verify().raise_for_faults()
            assert fresh.session("s").append(note(7).type, note(7).data, key="k7").repeated
            assert fresh.session("s").erase([70], reason="asked for").positions == (70,)
        assert len(names(bucket)) == done.objects - 1
        store.restore()
        assert names(bucket) == []
        store.verify().raise_for_faults()


def test_a_bucket_that_is_not_there_is_said_and_leaves_nothing(s3, environment, tmp_path, clock):
    environment(s3)
    with filled(tmp_path, clock) as store:
        before = told(store)
        with pytest.raises(UnavailableError, match="nothing left the store"):
            store.archive("s3://no-such-bucket/x", older_than=0)
        assert store.stats().sizes.objects == 0
        assert told(store) == before


def test_an_object_that_went_away_is_said_and_what_comes_back_is_read(bucket, tmp_path, clock):
    with filled(tmp_path, clock) as store:
        before = told(store)
        store.archive(f"s3://{bucket}", older_than=0)
        place = connect(f"s3://{bucket}")
        (name,) = names(bucket)
        content = place.get(name).bytes().to_bytes()
        place.delete(name)
        with open_cold("sqlite", tmp_path, clock) as fresh:
            for act in (
                lambda: fresh.session("s")[0],
                fresh.restore,
                lambda: fresh.session("s").erase([1], reason="x"),
            ):
                with pytest.raises(CorruptionError, match=r"is not at s3://\S+ any more; nothing was changed") as error:
                    act()
                assert no_credentials(error.value)
            place.put(name, content)
            assert told(fresh) == before


def no_credentials(error):
    """Neither an error nor what it came from, as it is said, holds a credential."""
    return SECRET not in str(error) and KEY_ID not in str(error)


# --- servers that refuse, hang and break off -----------------------------------------------------
@contextmanager
def serving(answer):
    """An HTTP server on loopback. answer: called with each request's handler."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle_one_request(self):
            self.raw_requestline = self.rfile.readline(65_537)
            if self.raw_requestline and self.parse_request():
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer(self)
            self.close_connection = True

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def refuse(handler):
    """Answer as S3 does: with the id of the key in the text."""
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SignatureDoesNotMatch</Code><Message>no</Message>'
        f"<AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId></Error>"
    ).encode()
    handler.send_response(403)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def test_a_refusal_says_what_to_correct_and_no_credentials(environment, tmp_path, clock):
    with serving(refuse) as address, filled(tmp_path, clock) as store:
        environment(address)
        before = told(store)
        with pytest.raises(UnsupportedStoreError, match=r"refuses to be written .*; nothing left the store") as error:
            store.archive("s3://bucket", older_than=0)
        assert "SignatureDoesNotMatch" in str(error.value)
        assert no_credentials(error.value)
        assert store.stats().sizes.objects == 0, "nothing was written there, so nothing is to be removed"
        assert told(store) == before
        assert store.session("s").erase([5], reason="works as ever").positions == (5,)


@pytest.fixture
def impatient(monkeypatch):
    """Wait a quarter of a second for an answer, and half a second in all."""
    monkeypatch.setattr(objects, "_TIMEOUT", timedelta(seconds=0.25))
    monkeypatch.setattr(objects, "_RETRY", timedelta(seconds=0.5))


def test_a_server_that_never_answers_is_given_up_on(environment, tmp_path, clock, impatient):
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent, filled(tmp_path, clock) as store:
        environment(f"http://127.0.0.1:{silent.getsockname()[1]}")
        before = told(store)
        with pytest.raises(
            UnavailableError, match=r"failed for .*; nothing left the store; see to it and try again"
        ) as error:
            store.archive("s3://bucket", older_than=0)
        ended.set()
        assert no_credentials(error.value)
        assert told(store) == before
        assert [row.state for row in store.storage.objects()] == ["writing"], "what may be there is removed later"
        assert store.session("s").erase([5], reason="not held up by it").positions == (5,)


def test_a_server_that_is_not_there_keeps_no_read_waiting(bucket, environment, tmp_path, clock, impatient):
    with filled(tmp_path, clock) as store:
        store.archive(f"s3://{bucket}", older_than=0)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    environment(f"http://127.0.0.1:{port}")
    with open_cold("sqlite", tmp_path, clock) as store:
        for act in (lambda: store.session("s")[0], store.restore, lambda: store.session("s").erase([1], reason="x")):
            with pytest.raises(UnavailableError, match="nothing was changed") as error:
                act()
            assert no_credentials(error.value)
        assert store.session("s").append("note", {"content": "appending goes on"}).position == 201
        report = store.verify()
        assert not report.ok and report.fault_count == 1, "it does not wait for each event anew"
        assert "cannot be read" in str(report.faults[0]) and report.faults[0].position == 0


# --- places that lie -----------------------------------------------------------------------------
class Place:
    """A place in memory that misbehaves as it is told."""

    def __init__(self, how=None):
        self.how = how
        self.inner = obstore.store.MemoryStore()
        self.calls = []

    def put(self, name, contents, *, mode):
        self.calls.append("put")
        match self.how:
            case "put fails":
                raise GenericError("500 on purpose")
            case "put fails late":
                self.inner.put(name, contents, mode=mode)
                raise GenericError("the connection broke on purpose")
            case "refuses":
                raise PermissionDeniedError("403 on purpose")
            case "stores nothing":
                return None
            case "stores half":
                contents = contents[: len(contents) // 2]
            case "stores other bytes":
                contents = contents[:-1] + bytes([contents[-1] ^ 1])
            case "has another there":
                self.inner.put(name, bytes(len(contents)))
            case "stored it before":
                self.inner.put(name, contents)
        return self.inner.put(name, contents, mode=mode)

    def get(self, name):
        self.calls.append("get")
        if self.how == "get fails":
            raise GenericError("500 on purpose")
        return self.inner.get(name)

    def delete(self, name):
        self.calls.append("delete")
        if self.how in ("delete fails", "all fails"):
            raise GenericError("500 on purpose")
        return self.inner.delete(name)

    def names(self):
        return [each["path"] for page in self.inner.list() for each in page]


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("put fails", UnavailableError),
        ("put fails late", UnavailableError),
        ("get fails", UnavailableError),
        ("refuses", UnsupportedStoreError),
        ("stores nothing", CorruptionError),
        ("stores half", CorruptionError),
        ("stores other bytes", CorruptionError),
        ("has another there", CorruptionError),
    ],
)
def test_nothing_leaves_the_store_that_is_not_there_when_it_is_read_back(tmp_path, clock, small, how, error):
    place = Place(how)
    with filled(tmp_path, clock, objects=Objects(opening=lambda url: place)) as store:
        before = told(store)
        sizes = store.stats().sizes
        with pytest.raises(error, match="nothing (left the store|was changed)"):
            store.archive("s3://bucket", older_than=0)
        assert store.stats().sizes == sizes
        assert told(store) == before
        assert place.names() == []
        place.how = None
        assert store.archive("s3://bucket", older_than=0).objects > 2
        assert told(store) == before
        store.verify().raise_for_faults()


def test_an_answer_that_was_lost_and_a_request_that_was_repeated_are_no_trouble(tmp_path, clock):
    place = Place("stored it before")
    with filled(tmp_path, clock, objects=Objects(opening=lambda url: place)) as store:
        before = told(store)
        assert store.archive("s3://bucket", older_than=0).objects == 1
        assert told(store) == before


def test_what_cannot_be_removed_is_removed_by_the_next(tmp_path, clock, small):
    place = Place("delete fails")
    with filled(tmp_path, clock, objects=Objects(opening=lambda url: place)) as store:
        before = told(store)
        count = store.archive("s3://bucket", older_than=0).objects
        with pytest.raises(UnavailableError, match="it is removed by the next archive, restore or erase"):
            store.restore()
        assert told(store) == before
        assert store.stats().sizes.archived == 0, "all came home"
        assert len(place.names()) == count
        place.how = None
        store.restore()
        assert place.names() == []
        assert store.stats().sizes.objects == 0


def test_an_object_that_nobody_finished_is_removed_when_nobody_can_be_writing_it(tmp_path, clock, small):
    place = Place("put fails late")
    with filled(tmp_path, clock, objects=Objects(opening=lambda url: place)) as store:
        delete, place.delete = place.delete, fail
        with pytest.raises(UnavailableError):
            store.archive("s3://bucket", older_than=0)
        place.delete, place.how = delete, None
        assert len(place.names()) == 1
        store.session("s").erase([5], reason="others may still be writing it")
        assert len(place.names()) == 1
        clock.advance(seconds=3_600)
        store.session("s").erase([6], reason="an hour later")
        assert place.names() == []
        assert store.stats().sizes.objects == 0


def fail(_name):
    raise GenericError("500 on purpose")


def test_an_object_that_is_much_larger_than_what_was_written_is_not_read(tmp_path, clock):
    place = Place()
    with filled(tmp_path, clock, objects=Objects(opening=lambda url: place)) as store:
        store.archive("s3://bucket", older_than=0)
    (name,) = place.names()
    read = []

    class Result:
        meta = {"size": 10**12}

        def bytes(self):
            read.append(name)
            raise AssertionError("a terabyte was asked for")

    place.get = lambda name: Result()
    with open_cold("sqlite", tmp_path, clock, objects=Objects(opening=lambda url: place)) as store:
        with pytest.raises(CorruptionError, match="1,000,000,000,000 bytes are there where"):
            store.session("s")[0]
    assert read == []


def test_restoring_goes_on_past_an_object_that_fails(tmp_path, clock, small):
    place = Place()
    with filled(tmp_path, clock, objects=Objects(opening=lambda url: place)) as store:
        before = told(store)
        count = store.archive("s3://bucket", older_than=0).objects
    lost = place.names()[0]
    content = place.inner.get(lost).bytes().to_bytes()
    place.inner.delete(lost)
    with open_cold("sqlite", tmp_path, clock, objects=Objects(opening=lambda url: place)) as store:
        with pytest.raises(CorruptionError, match=lost):
            store.restore()
        assert place.names() == [] and count > 2
        assert store.stats().sizes.objects == 1
        place.inner.put(lost, content)
        assert store.restore().objects == 1
        assert told(store) == before
        assert place.names() == []


def test_what_was_read_lately_is_not_read_again(tmp_path, clock):
    place = Place()
    with filled(tmp_path, clock, objects=Objects(opening=lambda url: place)) as store:
        before = told(store)
        store.archive("s3://bucket", older_than=0)
    with open_cold("sqlite", tmp_path, clock, objects=Objects(opening=lambda url: place)) as store:
        place.calls.clear()
        assert told(store) == before
        assert place.calls == ["get"]
