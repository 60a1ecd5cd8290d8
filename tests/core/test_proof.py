"""Proofs, held against trees that are computed anew; none holds for anything else than what it was made for."""

from contextlib import suppress
from functools import cache
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlog.core.event import Head
from everlog.core.header import FORMAT, Header, commit_body, encode_header
from everlog.core.merkle import leaf_hash, node_in_row, node_position, push_leaf, root_of_peaks
from everlog.core.proof import (
    ForkProof,
    ProvenEvent,
    TlogProof,
    describe,
    hashes_around,
    parse_tlog_proof,
    prove_consistency,
    prove_event,
    prove_range,
    read_proof,
    root_around,
)
from everlog.errors import TamperedError

SIZE = 80
SALT = b"s" * 32


def event(number, writer="a"):
    body = f'{{"data":{number}}}'
    header = Header(
        b=writer * 32, c=[commit_body(SALT, body.encode()).hex()], n=number, t=number, v=FORMAT, y="user.message"
    )
    return ProvenEvent(header=encode_header(header).decode(), body=body, salt=SALT.hex())


class Line:
    """A line of events, with rows as a store has them. forked: where its events begin to be of another writer."""

    def __init__(self, forked=SIZE):
        self.events = [event(number, "a" if number < forked else "b") for number in range(SIZE)]
        self.rows, peaks, self.roots = [], [], [root_of_peaks([])]
        for size, each in enumerate(self.events):
            self.rows.append((each.leaf, push_leaf(peaks, size, each.leaf)))
            self.roots.append(root_of_peaks(peaks))
        self.reads = []

    def read(self, places):
        self.reads.append(len(places))
        return [node_in_row(level, *self.rows[node_position(level, index)]) for level, index in places]

    def node(self, level, index):
        return self.read([(level, index)])[0]

    def head(self, size):
        return Head(size, self.roots[size].hex())


LINE = Line()


@cache
def defined_root(start, stop):
    """RFC 6962 §2.1, word by word."""
    if stop - start == 1:
        return LINE.events[start].leaf
    split = 1
    while split * 2 < stop - start:
        split *= 2
    return sha256(b"\x01" + defined_root(start, start + split) + defined_root(start + split, stop)).digest()


def test_every_event_of_every_size_is_proved_with_one_read():
    for size in range(1, SIZE + 1):
        for position in {0, size // 3, size // 2, size - 1}:
            LINE.reads.clear()
            proof = prove_event(LINE.events[position], position, LINE.head(size), LINE.read)
            assert len(LINE.reads) == 1 and LINE.reads[0] <= 2 * SIZE.bit_length()
            proof.verify(LINE.head(size))
            assert proof.position == position
            with pytest.raises(TamperedError, match="of another head"):
                proof.verify(LINE.head(size - 1))


def test_every_range_is_proved_by_hashes_in_the_logarithm_of_the_size():
    leaves = [each.leaf for each in LINE.events]
    for size in (1, 2, 3, 7, 8, 13, 31, 32, 33, SIZE):
        for start in range(size):
            for stop in range(start + 1, size + 1):
                hashes = hashes_around(start, stop, size, LINE.node)
                assert len(hashes) <= 2 * size.bit_length()
                assert root_around(start, leaves[start:stop], size, hashes) == defined_root(0, size)
                assert root_around(start, leaves[start:stop], size, [*hashes, leaves[0]]) is None
                if hashes:
                    assert root_around(start, leaves[start:stop], size, hashes[:-1]) is None


def test_a_range_holds_for_its_head_and_its_events_only():
    proof = prove_range(LINE.events[5:19], 5, LINE.head(50), LINE.read)
    proof.verify(LINE.head(50))
    assert proof.start == 5
    with pytest.raises(TamperedError):
        proof.verify(LINE.head(49))
    replace = msgspec.structs.replace
    for events in (
        proof.events[1:],
        proof.events[:-1],
        proof.events[::-1],
        (),
        (*proof.events[:-1], event(18, "c")),
        (*proof.events[:-1], replace(proof.events[-1], body='{"data":0}')),
        (*proof.events[:-1], replace(proof.events[-1], salt=None)),
    ):
        with pytest.raises(TamperedError):
            replace(proof, events=events).verify(LINE.head(50))
    without_bodies = tuple(replace(each, body=None, salt=None) for each in proof.events)
    replace(proof, events=without_bodies).verify(LINE.head(50))


def test_consistency_holds_between_every_two_heads_of_a_line():
    for old in range(1, SIZE + 1):
        for new in {old, min(old + 1, SIZE), SIZE}:
            proof = prove_consistency(LINE.head(old), LINE.head(new), LINE.read)
            proof.verify(old=LINE.head(old), new=LINE.head(new))
            with pytest.raises(TamperedError):
                proof.verify(old=LINE.head(old - 1), new=LINE.head(new))


def fork_of(one, other, cut):
    first = prove_consistency(one.head(cut), one.head(SIZE), one.read)
    second = prove_consistency(other.head(cut), other.head(SIZE), other.read)
    return ForkProof(cut=one.head(cut), one=first.new, one_path=first.path, other=second.new, other_path=second.path)


def test_a_fork_shares_what_lies_below_its_cut_and_nothing_more_can_be_claimed():
    other = Line(forked=37)
    proof = fork_of(LINE, other, 37)
    proof.verify(one=LINE.head(SIZE), other=other.head(SIZE))
    with pytest.raises(TamperedError):
        fork_of(LINE, other, 38).verify(one=LINE.head(SIZE), other=other.head(SIZE))
    with pytest.raises(TamperedError):
        proof.verify(one=other.head(SIZE), other=LINE.head(SIZE))


def proofs():
    other = Line(forked=37)
    return [
        (prove_event(LINE.events[5], 5, LINE.head(13), LINE.read), {"head": LINE.head(13)}),
        (prove_range(LINE.events[5:8], 5, LINE.head(13), LINE.read), {"head": LINE.head(13)}),
        (
            prove_consistency(LINE.head(5), LINE.head(13), LINE.read),
            {"old": LINE.head(5), "new": LINE.head(13)},
        ),
        (fork_of(LINE, other, 37), {"one": LINE.head(SIZE), "other": other.head(SIZE)}),
    ]


@pytest.mark.parametrize("kind", range(4))
def test_no_bit_of_a_proof_can_be_flipped(kind):
    proof, heads = proofs()[kind]
    raw = proof.encode()
    assert read_proof(raw) == proof
    read_proof(raw).verify(**heads)
    assert describe(proof)["proof"] == ("event", "range", "consistency", "fork")[kind]
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TamperedError):
            read_proof(bytes(flipped)).verify(**heads)


def test_the_same_values_in_another_form_are_no_proof():
    raw = proofs()[0][0].encode()
    for other in (msgspec.json.format(raw, indent=0), raw + b" ", raw.replace(b'"v"', b'"x":1,"v"', 1)):
        with pytest.raises(TamperedError):
            read_proof(other)


def test_an_event_proves_only_the_header_and_body_that_it_was_made_of():
    proof = prove_event(LINE.events[5], 5, LINE.head(13), LINE.read)
    replace = msgspec.structs.replace
    for other in (
        replace(proof.event, body='{"data":6}'),
        replace(proof.event, salt=("t" * 32).encode().hex()),
        replace(proof.event, salt=SALT.hex() + "00"),
        replace(proof.event, body=None),
        replace(proof.event, header=proof.event.header + " "),
        replace(proof.event, header="{}"),
        event(6),
    ):
        with pytest.raises(TamperedError):
            replace(proof, event=other).verify(LINE.head(13))
    replace(proof, event=replace(proof.event, body=None, salt=None)).verify(LINE.head(13))


def test_hashes_of_another_length_or_in_other_letters_are_refused():
    proof = prove_consistency(LINE.head(5), LINE.head(13), LINE.read)
    for path in (("",), ("ab",), (proof.path[0].upper(), *proof.path[1:]), (*proof.path, proof.path[0]), ()):
        with pytest.raises(TamperedError):
            msgspec.structs.replace(proof, path=path).verify(old=LINE.head(5), new=LINE.head(13))
    with pytest.raises(TamperedError):
        msgspec.structs.replace(proof, path=("ab" * 32,) * 200).verify(old=LINE.head(5), new=LINE.head(13))


NOTE = b"origin\n1\nroot\n\n\xe2\x80\x94 name AAAAAAE=\n"


def test_a_tlog_proof_is_the_text_that_its_specification_shows():
    proof = TlogProof(73894, (b"a" * 32, b"b" * 32), NOTE, b"more")
    assert proof.encode() == (
        b"c2sp.org/tlog-proof@v1\nextra bW9yZQ==\nindex 73894\n"
        b"YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=\nYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI=\n\n" + NOTE
    )
    for each in (proof, TlogProof(0, (), NOTE), TlogProof(1, (b"c" * 32,), NOTE, b"")):
        assert parse_tlog_proof(each.encode()) == each


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"c2sp.org/tlog-proof@v1\nindex 0\n",
        b"c2sp.org/tlog-proof@v2\nindex 0\n\nx",
        b"c2sp.org/tlog-proof@v1\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 00\n\nx",
        b"c2sp.org/tlog-proof@v1\nextra AB==\nindex 0\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 0\nextra AA==\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 1\nYQ==\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 1\n" + b"YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=\n" * 64 + b"\nx",
        b"c2sp.org/tlog-proof@v1\nindex \xd9\xa1\n\nx",
    ],
)
def test_what_is_not_exactly_a_tlog_proof_is_refused(raw):
    with pytest.raises(ValueError):
        parse_tlog_proof(raw)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400), st.sampled_from(range(4)))
def test_whatever_comes_in_is_refused_or_read_and_holds_for_nothing(raw, at, kind):
    proof, heads = proofs()[kind]
    whole = proof.encode()
    changed = whole[:at] + raw + whole[at + len(raw) :]
    for each in (raw, changed):
        with suppress(TamperedError):
            read_proof(each).verify(**heads)
            assert each == whole
    for each in (raw, b"c2sp.org/tlog-proof@v1\n" + raw):
        with suppress(ValueError):
            assert parse_tlog_proof(each).encode() == each


def test_leaves_of_headers_are_what_the_tree_holds():
    assert LINE.events[3].leaf == leaf_hash(LINE.events[3].header.encode()) == LINE.rows[3][0]
