"""Proofs of sealed events: no bit can be flipped, and nothing is believed but the keys that were pinned."""

from base64 import b64decode, b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import everlog
from everlog import NewEvent
from everlog.core.sealed_proof import read_sealed_proof
from everlog.errors import InvalidEventError, TamperedError


@pytest.fixture(scope="module")
def proved(tmp_path_factory):
    """A sealed proof as a file, and the verifier key of its ledger."""
    with everlog.open("memory:") as store:
        keys = store.keys(tmp_path_factory.mktemp("keys"))
        key = keys.new()
        session = store.create("run", events=[NewEvent("note", {"content": f"n{number}"}) for number in range(5)])
        store.create("other", events=[NewEvent("note", {"content": "x"})])
        store.seal(keys=keys)
        return session.prove_sealed(3).encode(), key


def test_a_sealed_proof_says_of_which_line_and_head_it_is(proved):
    raw, key = proved
    proof = read_sealed_proof(raw)
    found = proof.verify(key)
    assert (proof.position, proof.head.size) == (3, 5)
    assert (found.record.head, found.signers) == (proof.head, (key,))
    assert found.checkpoint.head.size == 5
    assert proof.encode() == raw
    assert raw.startswith(b"c2sp.org/tlog-proof@v1\nextra ")


def test_no_bit_of_a_sealed_proof_can_be_flipped(proved):
    raw, key = proved
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TamperedError):
            read_sealed_proof(bytes(flipped)).verify(key)


def test_no_bit_of_what_stands_in_base64_can_be_flipped(proved):
    raw, key = proved
    before, extra, rest = raw.split(b"\n", 2)
    inner = b64decode(extra.removeprefix(b"extra "))
    for bit in range(8 * len(inner)):
        flipped = bytearray(inner)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TamperedError):
            read_sealed_proof(b"\n".join([before, b"extra " + b64encode(flipped), rest])).verify(key)


def test_only_pinned_keys_count(proved, tmp_path):
    raw, key = proved
    with everlog.open("memory:") as other:
        stranger = other.keys(tmp_path).new()
    proof = read_sealed_proof(raw)
    with pytest.raises(TamperedError, match="is of the log"):
        proof.verify(stranger)
    for keys in ([], [key, stranger], ["x"]):
        with pytest.raises(InvalidEventError):
            proof.verify(keys)
    with pytest.raises(TamperedError, match="0 of the witnesses"):
        proof.verify(key, quorum=1)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100), st.integers(0, 2_000))
def test_whatever_comes_in_is_refused(proved, content, at):
    raw, key = proved
    changed = raw[:at] + content + raw[at + len(content) :]
    extra = b"c2sp.org/tlog-proof@v1\nextra " + b64encode(content) + b"\nindex 0\n\nnote"
    for each in (content, changed, extra):
        try:
            read_sealed_proof(each).verify(key)
        except TamperedError:
            continue
        assert each == raw
