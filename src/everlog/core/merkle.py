"""Merkle trees of RFC 6962, over leaf hashes: roots, stored nodes, inclusion and consistency proofs.

1. leaf = SHA-256(0x00 ‖ header), node = SHA-256(0x01 ‖ left ‖ right), the empty tree is SHA-256("") (RFC 6962 §2.1).
2. The node at (level, index) covers the leaves [index << level, (index + 1) << level). Level 0 is the leaf itself.
3. The leaf at position n completes as many nodes as n + 1 has trailing zero bits; they are stored beside it, lowest
   level first. So the node at (level, index) stands at position ((index + 1) << level) - 1, and a root or a proof at
   any size takes O(log n) reads.
4. The *peaks* of a size are the roots of its perfect subtrees, largest first: one for each set bit of the size.

Proof checks follow RFC 9162 §2.1.3.2 and §2.1.4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

DIGEST_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

# Gives the hash of the node at (level, index); level 0 is a leaf.
NodeReader = Callable[[int, int], bytes]


def leaf_hash(header: bytes) -> bytes:
    """Give the leaf hash of a header's bytes (32 bytes)."""
    return sha256(b"\x00" + header).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Give the hash of an inner node (32 bytes)."""
    return sha256(b"\x01" + left + right).digest()


def push_leaf(peaks: list[bytes], size: int, leaf: bytes) -> bytes:
    """Add a leaf to the tree of `size` leaves with these peaks, in place; give the nodes that it completes.

    peaks: changed to those of size + 1.
    Returns the completed nodes, lowest level first, joined: 32 bytes for each trailing zero bit of size + 1.
    """
    if not size & 1:  # an even size: nothing is completed; half of all leaves
        peaks.append(leaf)
        return b""
    nodes: list[bytes] = []
    node = leaf
    while size & 1:
        node = sha256(b"\x01" + peaks.pop() + node).digest()
        nodes.append(node)
        size >>= 1
    peaks.append(node)
    return b"".join(nodes)


def root_of_peaks(peaks: Sequence[bytes]) -> bytes:
    """Fold peaks, right to left, to the RFC 6962 root; no peaks give the empty tree's root."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = sha256(b"\x01" + peak + root).digest()
    return root


def split_digests(joined: bytes) -> list[bytes]:
    """Give digests that are stored joined as a list."""
    return [joined[at : at + DIGEST_BYTES] for at in range(0, len(joined), DIGEST_BYTES)]


def root_of_joined(peaks: bytes) -> bytes:
    """Fold peaks that are stored joined to the root."""
    return root_of_peaks(split_digests(peaks))


def peak_places(size: int) -> list[tuple[int, int]]:
    """Give (level, index) of each peak of a tree of `size` leaves, largest first."""
    places: list[tuple[int, int]] = []
    start = 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            places.append((level, start >> level))
            start += 1 << level
    return places


def subtree_places(start: int, stop: int) -> list[tuple[int, int]]:
    """Give (level, index) of the perfect subtrees that cover the leaves [start, stop), each as large as it can be, left to right."""
    places: list[tuple[int, int]] = []
    while start < stop:
        level = (stop - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        places.append((level, start >> level))
        start += 1 << level
    return places


def node_position(level: int, index: int) -> int:
    """Give the position of the leaf whose row holds the node at (level, index)."""
    return ((index + 1) << level) - 1


def node_in_row(level: int, leaf: bytes, nodes: bytes) -> bytes:
    """Pick the node of `level` from a row's leaf hash and its stored nodes."""
    if level == 0:
        return leaf
    return nodes[(level - 1) * DIGEST_BYTES : level * DIGEST_BYTES]


def peaks_at(size: int, read: NodeReader) -> list[bytes]:
    """Give the peaks of the first `size` leaves, by O(log size) reads of stored nodes."""
    return [read(level, index) for level, index in peak_places(size)]


def range_root(start: int, stop: int, read: NodeReader) -> bytes:
    """Give the RFC 6962 tree hash of the leaves [start, stop) taken as a tree of their own.

    O(log n) reads where the range is aligned as it lies in the tree, O(stop - start) at worst.
    """
    if start == stop:
        return EMPTY_ROOT
    count = stop - start
    if count & (count - 1) == 0 and start % count == 0:
        level = count.bit_length() - 1
        return read(level, start >> level)
    split = start + _largest_power_below(count)
    return node_hash(range_root(start, split, read), range_root(split, stop, read))


class Nodes:
    """The nodes that the leaves of a line complete, in memory: 64 bytes a leaf. below: the line that it shares its first `start` leaves with."""

    def __init__(self, below: Nodes | None = None, start: int = 0) -> None:
        self.below = below
        self.start = start
        self._levels: list[bytearray] = []  # joined; the first of a level is that at start >> level

    def add(self, leaf: bytes, nodes: bytes) -> None:
        """Add the next leaf, with the nodes that it completes, as `push_leaf` gives them."""
        for level, node in enumerate([leaf, *split_digests(nodes)]):
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += node

    def read(self, level: int, index: int) -> bytes:
        """Give the node at (level, index). IndexError where it is not complete."""
        line = self
        while (index + 1) << level <= line.start and line.below is not None:
            line = line.below
        at = (index - (line.start >> level)) * DIGEST_BYTES
        node = bytes(line._levels[level][at : at + DIGEST_BYTES])
        if len(node) != DIGEST_BYTES:
            raise IndexError(f"there is no node {index} at level {level}")
        return node


def inclusion_proof(index: int, size: int, read: NodeReader) -> list[bytes]:
    """Give the audit path of leaf `index` in the tree of `size` leaves (RFC 9162 §2.1.3.1), leaf's side first."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size} leaves")
    path: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        split = start + _largest_power_below(stop - start)
        if index < split:
            path.append(range_root(split, stop, read))
            stop = split
        else:
            path.append(range_root(start, split, read))
            start = split
    path.reverse()
    return path


def consistency_proof(old_size: int, size: int, read: NodeReader) -> list[bytes]:
    """Give the proof that the first `old_size` of `size` leaves are the older tree's (RFC 9162 §2.1.4.1)."""
    if not 1 <= old_size <= size:
        raise ValueError(f"no consistency proof from {old_size} to {size} leaves")
    proof: list[bytes] = []
    start, stop, complete = 0, size, True
    while old_size < stop:
        split = start + _largest_power_below(stop - start)
        if old_size <= split:
            proof.append(range_root(split, stop, read))
            stop = split
        else:
            proof.append(range_root(start, split, read))
            start, complete = split, False
    if not complete:
        proof.append(range_root(start, stop, read))
    proof.reverse()
    return proof


def verify_inclusion(*, leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Tell whether `proof` shows that `leaf` stands at `index` in the tree (size, root). Never raises on bad proofs."""
    if not 0 <= index < size or not _all_digests(leaf, root, *proof):
        return False
    last, node = size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if index & 1 or index == last:
            node = node_hash(step, node)
            while not index & 1 and index:
                index >>= 1
                last >>= 1
        else:
            node = node_hash(node, step)
        index >>= 1
        last >>= 1
    return last == 0 and node == root


def verify_consistency(*, old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Tell whether `proof` shows that the tree (size, root) begins with the tree (old_size, old_root).

    old_size: at least 1 (FORMAT §4). Never raises on bad proofs.
    """
    if old_size == size >= 1:  # nothing is hashed, so nothing but equality is asked of the roots
        return not proof and old_root == root
    if not 1 <= old_size < size or not _all_digests(old_root, root, *proof):
        return False
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    index, last = old_size - 1, size - 1
    while index & 1:
        index >>= 1
        last >>= 1
    old_node = node = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if index & 1 or index == last:
            old_node = node_hash(step, old_node)
            node = node_hash(step, node)
            while not index & 1 and index:
                index >>= 1
                last >>= 1
        else:
            node = node_hash(node, step)
        index >>= 1
        last >>= 1
    return last == 0 and old_node == old_root and node == root


def _largest_power_below(count: int) -> int:
    return 1 << ((count - 1).bit_length() - 1)


def _all_digests(*digests: bytes) -> bool:
    return all(len(digest) == DIGEST_BYTES for digest in digests)
