"""A witness, as C2SP tlog-witness has it: what it cosigns, what it answers, and what it never forgets."""

import shutil
import threading
from base64 import b64encode
from contextlib import contextmanager
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import everlog
from everlog.core.note import Note, open_note, parse_note, parse_signatures, parse_verifier_key
from everlog.core.sealed_proof import read_sealed_proof
from everlog.errors import InvalidEventError, TamperedError
from everlog.seals import prove_ledger
from everlog.testing.clock import FixedClock
from everlog.witnessing import WitnessKeeper, serve

CLOCK = FixedClock()


def draw(count):
    return b"\x05" * count


class Log:
    """A store that is sealed, and what it would send to a witness."""

    def __init__(self, folder):
        self.store = everlog.open("memory:")
        self.keys = self.store.keys(folder / "keys")
        self.keys.new(origin="example.com/log")
        self.session = self.store.create("run")
        self.notes = {}

    def grow(self):
        """Seal something more; give the size of the ledger."""
        self.session.append("note", {"content": "x"})
        seal = self.store.seal(keys=self.keys)
        self.notes[seal.head.size] = seal.note
        return seal.head.size

    def request(self, old, new, *, path=None):
        proof = prove_ledger(self.store.storage, old, new) if path is None and 0 < old <= new else path or []
        lines = [f"old {old}", *(b64encode(step).decode() for step in proof), "", self.notes[new]]
        return "\n".join(lines).encode()


@pytest.fixture
def log(tmp_path):
    made = Log(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def keeper(log, tmp_path):
    return WitnessKeeper(tmp_path / "witness", "witness.example/w1", [log.keys.verifier], draw=draw, clock=CLOCK)


@contextmanager
def serving(keeper):
    """Serve a witness; gives its address."""
    with serve(keeper, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def status_of(url, content):
    try:
        with urlopen(Request(url, content, method="POST")) as answer:
            return answer.status
    except HTTPError as error:
        with error:
            return error.code


def test_it_cosigns_what_extends_what_it_saw(log, keeper):
    first, second = log.grow(), log.grow()
    key = parse_verifier_key(keeper.verifier)
    for request, size in ((log.request(0, first), first), (log.request(first, second), second)):
        answer = keeper.add_checkpoint(request)
        assert answer.status == 200
        note = parse_note(log.notes[size].encode())
        opened = open_note(Note(note.text, parse_signatures(answer.body.encode())), [key])
        assert opened.times == {"witness.example/w1": CLOCK() // 1_000_000}
    assert keeper.add_checkpoint(log.request(second, second)).status == 200  # the same once more


def test_each_refusal_has_the_status_that_the_specification_names(log, keeper, tmp_path):
    sizes = [log.grow() for _ in range(4)]
    assert keeper.add_checkpoint(log.request(0, sizes[1])).status == 200
    good = log.request(sizes[1], sizes[2])
    stranger = Log(tmp_path / "stranger")  # of the same origin, under another key
    assert (stranger.grow(), sizes[0]) == (sizes[0], sizes[0])
    other_origin = good.replace(b"example.com/log\n", b"example.com/lag\n", 1)
    for request, status, body in (
        (b"", 400, None),
        (good.replace(b"old ", b"ol ", 1), 400, None),
        (good.replace(b"old ", b"old 0", 1), 400, None),
        (log.request(sizes[3], sizes[2]), 400, None),
        (log.request(sizes[1], sizes[2], path=[b"x" * 31]), 400, None),
        (log.request(sizes[1], sizes[2], path=[b"x" * 32] * 64), 400, None),
        (other_origin, 404, None),
        (stranger.request(0, sizes[0]), 403, None),
        (log.request(0, sizes[2]), 409, f"{sizes[1]}\n"),
        (log.request(sizes[2], sizes[3]), 409, f"{sizes[1]}\n"),
        (log.request(sizes[1], sizes[2], path=[b"x" * 32]), 422, None),
        (log.request(sizes[1], sizes[2], path=[]).replace(b"\n\n\n", b"\n\n"), 422, None),
        (log.request(sizes[1], sizes[1], path=[b"x" * 32]), 422, None),
    ):
        answer = keeper.add_checkpoint(request)
        assert answer.status == status, request
        assert body is None or (answer.body, answer.content_type) == (body, "text/x.tlog.size")
        assert "\u2014" not in answer.body
    assert keeper.add_checkpoint(good).status == 200
    stranger.store.close()


def test_another_history_of_the_same_log_is_never_cosigned(log, keeper, tmp_path):
    """The same key signs two histories, as a thief of the key does, or its owner."""
    shutil.copytree(log.keys.folder.parent, tmp_path / "copied")
    first, second = log.grow(), log.grow()
    assert keeper.add_checkpoint(log.request(0, first)).status == 200
    assert keeper.add_checkpoint(log.request(first, second)).status == 200
    with everlog.open("memory:") as other:
        (tmp_path / "copied" / log.store.id).rename(tmp_path / "copied" / other.id)
        lie = Log.__new__(Log)
        lie.store, lie.keys, lie.notes = other, other.keys(tmp_path / "copied"), {}
        lie.session = other.create("run")
        sizes = [lie.grow() for _ in range(3)]
        assert sizes[:2] == [first, second]
        assert keeper.add_checkpoint(lie.request(second, second)).status == 409
        assert keeper.add_checkpoint(lie.request(second, sizes[2])).status == 422
        assert keeper.add_checkpoint(lie.request(first, second)).status == 409


def test_it_remembers_through_restarts_and_has_the_same_key(log, keeper, tmp_path):
    first, second = log.grow(), log.grow()
    assert keeper.add_checkpoint(log.request(0, second)).status == 200
    again = WitnessKeeper(
        tmp_path / "witness", "witness.example/w1", [log.keys.verifier], draw=lambda _: b"", clock=CLOCK
    )
    assert again.verifier == keeper.verifier
    assert again.add_checkpoint(log.request(0, first)).status == 409


def test_of_many_at_once_none_takes_it_back(log, keeper):
    sizes = [log.grow() for _ in range(9)]
    assert keeper.add_checkpoint(log.request(0, sizes[0])).status == 200
    answers = {}

    def ask(size):
        answers[size] = keeper.add_checkpoint(log.request(sizes[0], size)).status

    threads = [threading.Thread(target=ask, args=(size,)) for size in sizes[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers.values()) == [200] + [409] * 7
    won = next(size for size, status in answers.items() if status == 200)
    assert keeper.add_checkpoint(log.request(0, sizes[0])).body == f"{won}\n"


def test_seals_are_cosigned_over_http_and_a_quorum_is_asked_for(log, keeper, tmp_path):
    second = WitnessKeeper(
        tmp_path / "second", "witness.example/w2", [log.keys.verifier], draw=lambda count: b"\x06" * count, clock=CLOCK
    )
    log.session.append("note", {"content": "x"})
    with serving(keeper) as one, serving(second) as two:
        witnesses = [f"{keeper.verifier}@{one}", f"{second.verifier}@{two}"]
        assert log.store.seal(keys=log.keys, witnesses=witnesses).warnings == ()
        log.session.append("note", {"content": "y"})
        seal = log.store.seal(keys=log.keys, witnesses=witnesses)  # asked anew, it learns what they saw last
        assert seal.warnings == ()
        raw = log.session.prove_sealed(1).encode()
        assert status_of(f"{one}/add-checkpoint", b"x") == 400
        assert status_of(f"{one}/other", b"x") == 404
    pinned = [keeper.verifier, second.verifier]
    found = read_sealed_proof(raw).verify(log.keys.verifier, witnesses=pinned, quorum=2)
    assert found.times == {"witness.example/w1": CLOCK() // 1_000_000, "witness.example/w2": CLOCK() // 1_000_000}
    with pytest.raises(TamperedError, match="1 of the witnesses"):
        read_sealed_proof(raw).verify(log.keys.verifier, witnesses=pinned[:1], quorum=2)


def test_a_witness_that_is_gone_or_another_spoils_no_seal(log, keeper, tmp_path):
    other = WitnessKeeper(
        tmp_path / "other", "witness.example/w1", [log.keys.verifier], draw=lambda count: b"\x07" * count, clock=CLOCK
    )
    log.session.append("note", {"content": "x"})
    with serving(other) as url:
        seal = log.store.seal(
            keys=log.keys, witnesses=[f"{keeper.verifier}@{url}", f"{keeper.verifier}@http://127.0.0.1:1"]
        )
    assert len(seal.warnings) == 2
    assert len(parse_note(seal.note.encode()).signatures) == 1
    for text in ("", "x@http://y", keeper.verifier, f"{log.keys.verifier}@http://x"):
        with pytest.raises(InvalidEventError):
            log.store.seal(keys=log.keys, witnesses=[text])


def test_a_witness_of_what_is_no_key_is_refused(log, tmp_path):
    for name, logs in (("a b", [log.keys.verifier]), ("w", ["x"]), ("w", [log.keys.verifier + "A"])):
        with pytest.raises(InvalidEventError):
            WitnessKeeper(tmp_path / "w", name, logs, draw=draw, clock=CLOCK)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=120), st.integers(0, 400))
def test_whatever_comes_in_is_answered_and_only_what_is_proved_is_cosigned(log, keeper, content, at):
    if not log.notes:
        log.grow(), log.grow()
    size = max(log.notes)
    good = log.request(0, size)
    for request in (content, b"old 0\n\n" + content, good[:at] + content + good[at + len(content) :]):
        answer = keeper.add_checkpoint(request)
        assert answer.status in (200, 400, 403, 404, 409, 422)
        if answer.status == 200:
            assert str(parse_note(good.partition(b"\n\n")[2]).text).encode() in request
