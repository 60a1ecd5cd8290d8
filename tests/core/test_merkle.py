"""The Merkle tree of RFC 6962, held against pymerkle, against its definition, and against published test vectors."""

from __future__ import annotations

import json
from base64 import b64decode
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pymerkle import InmemoryTree

from everlog.core.merkle import (
    DIGEST_BYTES,
    EMPTY_ROOT,
    Nodes,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    node_in_row,
    node_position,
    peak_places,
    peaks_at,
    push_leaf,
    range_root,
    root_of_joined,
    root_of_peaks,
    split_digests,
    verify_consistency,
    verify_inclusion,
)

VECTORS = Path(__file__).parents[3] / "shared" / "vectors"
SIZE = 300
HEADERS = [f"header {number}".encode() for number in range(SIZE)]
LEAVES = [leaf_hash(header) for header in HEADERS]


class GrownTree:
    """A tree grown as a store grows it: each leaf's row keeps the nodes that it completes; peaks move along."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.rows: list[tuple[bytes, bytes]] = []
        self.peaks: list[bytes] = []
        self.roots = [root_of_peaks(self.peaks)]
        for size, leaf in enumerate(leaves):
            self.rows.append((leaf, push_leaf(self.peaks, size, leaf)))
            self.roots.append(root_of_peaks(self.peaks))
        self.reads = 0

    def read(self, level: int, index: int) -> bytes:
        self.reads += 1
        return node_in_row(level, *self.rows[node_position(level, index)])


TREE = GrownTree(LEAVES)


@cache
def defined_root(start: int, stop: int) -> bytes:
    """RFC 6962 §2.1, word by word."""
    if start == stop:
        return sha256(b"").digest()
    if stop - start == 1:
        return LEAVES[start]
    split = 1
    while split * 2 < stop - start:
        split *= 2
    return sha256(b"\x01" + defined_root(start, start + split) + defined_root(start + split, stop)).digest()


def vectors(name: str) -> list[dict[str, Any]]:
    path = VECTORS / name
    if not path.exists():
        pytest.skip(f"the shared test vectors are not beside this repository: no {path}")
    return json.loads(path.read_text())


def test_roots_are_those_of_pymerkle_at_every_size() -> None:
    other = InmemoryTree(algorithm="sha256")
    for header in HEADERS:
        other.append_entry(header)
    assert [other.get_root(size) for size in range(1, SIZE + 1)] == TREE.roots[1:]


def test_roots_are_those_of_the_definition_at_every_size() -> None:
    assert [defined_root(0, size) for size in range(SIZE + 1)] == TREE.roots


def test_the_empty_trees_root_is_the_hash_of_nothing() -> None:
    assert EMPTY_ROOT == sha256(b"").digest() == root_of_peaks([]) == root_of_joined(b"")


def test_leaves_and_nodes_are_hashed_apart() -> None:
    assert leaf_hash(b"ab") == sha256(b"\x00ab").digest()
    assert node_hash(b"a" * 32, b"b" * 32) == sha256(b"\x01" + b"a" * 32 + b"b" * 32).digest()


def test_a_leaf_completes_as_many_nodes_as_the_new_size_has_trailing_zero_bits() -> None:
    for position, (_, nodes) in enumerate(TREE.rows):
        size = position + 1
        assert len(nodes) == DIGEST_BYTES * ((size & -size).bit_length() - 1)


def test_every_stored_node_is_the_tree_hash_of_the_leaves_it_covers() -> None:
    for level in range(SIZE.bit_length()):
        for index in range(SIZE >> level):
            assert TREE.read(level, index) == defined_root(index << level, (index + 1) << level)


def test_peaks_read_from_stored_nodes_are_those_that_growing_left() -> None:
    peaks: list[bytes] = []
    for size, leaf in enumerate(LEAVES):
        assert peaks_at(size, TREE.read) == peaks
        assert split_digests(b"".join(peaks)) == peaks
        assert root_of_joined(b"".join(peaks)) == TREE.roots[size]
        push_leaf(peaks, size, leaf)


def test_peaks_cover_the_tree_without_gaps_one_for_each_set_bit() -> None:
    for size in [*range(SIZE + 1), 2**40 + 5, 2**53 - 1]:
        places = peak_places(size)
        assert len(places) == size.bit_count()
        end = 0
        for level, index in places:
            assert index << level == end
            end = (index + 1) << level
        assert end == size


def test_range_roots_are_those_of_a_tree_of_just_those_leaves() -> None:
    random = Random(1)
    ranges = [(start, stop) for stop in range(41) for start in range(stop + 1)]
    ranges += [tuple(sorted((random.randrange(SIZE + 1), random.randrange(SIZE + 1)))) for _ in range(1_000)]  # type: ignore[misc]
    for start, stop in ranges:
        assert range_root(start, stop, TREE.read) == defined_root(start, stop)


def test_inclusion_proofs_hold_for_every_leaf_of_every_size_and_for_no_other() -> None:
    for size in range(1, SIZE + 1):
        indexes = range(size) if size <= 70 else sorted({0, 1, size // 3, size // 2, size - 2, size - 1})
        for index in indexes:
            proof = inclusion_proof(index, size, TREE.read)
            good = {"leaf": LEAVES[index], "index": index, "size": size, "proof": proof, "root": TREE.roots[size]}
            assert verify_inclusion(**good)
            assert not verify_inclusion(**{**good, "index": index + 1})
            assert not verify_inclusion(**{**good, "leaf": leaf_hash(b"another")})
            assert not verify_inclusion(**{**good, "root": TREE.roots[size - 1]})
            assert not verify_inclusion(**{**good, "proof": [*proof, LEAVES[0]]})
            assert not proof or not verify_inclusion(**{**good, "proof": proof[:-1]})


def test_consistency_proofs_hold_between_every_two_sizes() -> None:
    for size in range(1, SIZE + 1):
        olds = range(1, size + 1) if size <= 130 else sorted({1, 2, 63, 64, 65, 127, 128, 129, size - 1, size})
        for old_size in olds:
            proof = consistency_proof(old_size, size, TREE.read)
            assert verify_consistency(
                old_size=old_size, old_root=TREE.roots[old_size], size=size, root=TREE.roots[size], proof=proof
            )


def test_a_consistency_proof_holds_for_nothing_else_than_what_it_was_made_for() -> None:
    for size in range(2, 66):
        for old_size in range(1, size):
            proof = consistency_proof(old_size, size, TREE.read)
            good = {
                "old_size": old_size,
                "old_root": TREE.roots[old_size],
                "size": size,
                "root": TREE.roots[size],
                "proof": proof,
            }
            assert not verify_consistency(**{**good, "old_root": TREE.roots[old_size - 1]})
            assert not verify_consistency(**{**good, "root": TREE.roots[size - 1]})
            assert not verify_consistency(**{**good, "proof": proof[:-1]})
            assert not verify_consistency(**{**good, "proof": [*proof, LEAVES[0]]})
            for at in range(len(proof)):
                broken = [*proof[:at], leaf_hash(proof[at]), *proof[at + 1 :]]
                assert not verify_consistency(**{**good, "proof": broken})


def test_proofs_and_roots_take_reads_in_the_logarithm_of_the_size() -> None:
    size = 1 << 40 | 0x5_5555
    reads: list[tuple[int, int]] = []

    def read(level: int, index: int) -> bytes:
        reads.append((level, index))
        return leaf_hash(b"%d %d" % (level, index))

    peaks_at(size, read)
    assert len(reads) <= 41
    reads.clear()
    inclusion_proof(size // 3, size, read)
    assert len(reads) <= 2 * 41
    reads.clear()
    consistency_proof(size // 3, size, read)
    assert len(reads) <= 3 * 41
    assert all((index + 1) << level <= size for level, index in reads)


@pytest.mark.parametrize("digest", [b"", b"a" * 31, b"a" * 33])
def test_digests_of_another_length_are_refused(digest: bytes) -> None:
    leaf, root = LEAVES[0], TREE.roots[2]
    proof = inclusion_proof(0, 2, TREE.read)
    assert not verify_inclusion(leaf=digest, index=0, size=1, proof=[], root=digest)
    assert not verify_inclusion(leaf=leaf, index=0, size=2, proof=[digest], root=node_hash(leaf, digest))
    assert not verify_inclusion(leaf=leaf, index=0, size=2, proof=proof, root=root + digest if digest else b"")
    assert not verify_consistency(old_size=1, old_root=leaf, size=2, root=node_hash(leaf, digest), proof=[digest])


def test_places_outside_the_tree_have_no_proof() -> None:
    for index, size in [(0, 0), (3, 3), (-1, 3)]:
        with pytest.raises(ValueError, match="not in a tree"):
            inclusion_proof(index, size, TREE.read)
        assert not verify_inclusion(leaf=LEAVES[0], index=index, size=size, proof=[], root=LEAVES[0])
    for old_size, size in [(0, 3), (4, 3), (-1, 3)]:
        with pytest.raises(ValueError, match="no consistency proof"):
            consistency_proof(old_size, size, TREE.read)
        assert not verify_consistency(old_size=old_size, old_root=EMPTY_ROOT, size=size, root=TREE.roots[3], proof=[])


def test_published_inclusion_vectors_agree_good_and_bad() -> None:
    cases = vectors("rfc6962-inclusion.json")
    seen = set()
    for case in cases:
        holds = verify_inclusion(
            leaf=b64decode(case["leafHash"] or ""),
            index=case["leafIdx"],
            size=case["treeSize"],
            proof=[b64decode(step) for step in case["proof"] or []],
            root=b64decode(case["root"] or ""),
        )
        assert holds is not case["wantErr"], case["case"]
        seen.add(holds)
    assert len(cases) == 98 and seen == {True, False}


def test_published_consistency_vectors_agree_good_and_bad() -> None:
    cases = vectors("rfc6962-consistency.json")
    seen = set()
    for case in cases:
        holds = verify_consistency(
            old_size=case["size1"],
            old_root=b64decode(case["root1"] or ""),
            size=case["size2"],
            root=b64decode(case["root2"] or ""),
            proof=[b64decode(step) for step in case["proof"] or []],
        )
        assert holds is not case["wantErr"], case["case"]
        seen.add(holds)
    assert len(cases) == 98 and seen == {True, False}


def test_nodes_in_memory_are_those_of_the_line_that_has_them_and_of_those_below() -> None:
    leaves = [leaf_hash(bytes([number])) for number in range(40)]
    lines, peaks = [Nodes()], list[bytes]()
    for size, leaf in enumerate(leaves):
        if size in (3, 11, 24):
            lines.append(Nodes(lines[-1], size))
        lines[-1].add(leaf, push_leaf(peaks, size, leaf))
    for start in range(40):
        for stop in range(start + 1, 41):
            expected: list[bytes] = []
            for size, leaf in enumerate(leaves[start:stop]):
                push_leaf(expected, size, leaf)
            assert range_root(start, stop, lines[-1].read) == root_of_peaks(expected)
    with pytest.raises(IndexError, match="no node 5 at level 3"):
        lines[-1].read(3, 5)
