"""Verification of the ledger: its tree from its records up, the heads that they say against the branches, and seals against it all.

1. Every record with a place is hashed, and the nodes beside it and the tree's own row compared; the root at each seal's size is held
   against what the seal says.
2. Every head on record must be that of its branch at that size, and the branch's base the one on record: a branch that lost events, or
   has others, is named. So is a session that is called otherwise than the last record says, or whose current branch is another.
3. A seal counts as genuine under a key that the caller pinned, or one that such a key signed in a rotation. Without pinned keys seals are
   held against the records all the same, and it is said that anybody may have signed them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice, takewhile
from typing import Final

import msgspec

from everlog.core.ed25519 import is_signed
from everlog.core.ledger import HeadRecord, KeyRecord, commit_session, read_record, rotation_message
from everlog.core.limits import PAGE_EVENTS_MAX, SAFE_INTEGER_MAX
from everlog.core.merkle import leaf_hash, peak_places, push_leaf, root_of_peaks, split_digests
from everlog.core.note import VerifierKey, decode_base64, open_checkpoint, parse_note, parse_verifier_key
from everlog.errors import EverlogError, InvalidEventError, TamperedError
from everlog.sealed import Placed
from everlog.seals import Seal, read_seal
from everlog.storage import BranchRow, SessionRow, Storage

SEALS_CHECKED_MAX: Final = (
    10_000  # of those that the store keeps, the last: all are held in memory, and each extends those before it
)

Fault = Callable[[str], None]


class LedgerFound(msgspec.Struct, frozen=True):
    """What was found of the ledger. size: of the tree. sealed: how many of its records a seal covers, a genuine one where keys were pinned.

    seals: that were checked under a pinned key. unknown: those of other keys. pending: whether records have no place yet; older: whether
    the store keeps more seals than were checked.
    """

    size: int
    sealed: int
    seals: int
    unknown: int
    pending: bool
    older: bool


def check_ledger(
    storage: Storage, *, keys: Sequence[str], seals: Sequence[Seal], fault: Fault, start: int = 0
) -> LedgerFound:
    """Check the ledger of a store. keys: verifier keys to trust. seals: that were kept elsewhere. fault: called with each, in words.

    start: how many of its first records are taken as they are; seals of fewer are left out.
    """
    trusted = _pinned(keys)
    told = takewhile(lambda seal: seal.head.size >= start, _stored_seals(storage, fault))
    stored = list(islice(told, SEALS_CHECKED_MAX + 1))
    older = len(stored) > SEALS_CHECKED_MAX
    claims = [*stored[:SEALS_CHECKED_MAX], *(seal for seal in seals if seal.head.size >= start)]
    roots: dict[int, str] = dict.fromkeys((seal.head.size for seal in claims), "")
    size = _check_tree(storage, start, roots, trusted, fault)
    genuine = unknown = sealed = 0
    for seal in claims:
        if not _holds(seal, size, roots, fault):
            continue
        if trusted:
            known = _is_genuine(seal, trusted, fault)
            genuine += known
            unknown += not known
            sealed = max(sealed, seal.head.size if known else 0)
        else:
            unknown += 1
            sealed = max(sealed, seal.head.size)
    return LedgerFound(size, sealed, genuine, unknown, bool(storage.pending(1)), older)


def _pinned(keys: Sequence[str]) -> dict[str, VerifierKey]:
    try:
        return {key: parse_verifier_key(key) for key in keys}
    except ValueError as error:
        raise InvalidEventError(f"this is no key to pin: {error}; nothing was checked; give a verifier key") from error


def _stored_seals(storage: Storage, fault: Fault) -> Iterator[Seal]:
    """Give the seals that the store keeps, the largest first; what is none is a fault."""
    before = SAFE_INTEGER_MAX
    while rows := storage.seals(before, PAGE_EVENTS_MAX):
        for row in rows:
            try:
                seal = read_seal(row)
            except TamperedError as error:
                fault(error.message)
                continue
            if (seal.origin, seal.head.size) != (row.origin, row.size):
                fault(f"the seal of {row.size} records is stored as another than it is")
            yield seal
        before = rows[-1].size  # of one size there are few: the same head, signed or cosigned once more


def _check_tree(
    storage: Storage, start: int, roots: dict[int, str], trusted: dict[str, VerifierKey], fault: Fault
) -> int:
    """Check the tree and what its records say, from a place on; fill in the roots at the sizes that are asked for; give the tree's size."""
    tree = storage.ledger_tree()
    peaks = storage.ledger_nodes(peak_places(start))
    heads: dict[str, int] = {}
    place = start
    if place in roots:
        roots[place] = root_of_peaks(peaks).hex()
    while place < tree.size:
        rows = storage.placed(place, tree.size)
        for row in rows:
            if leaf_hash(row.record) != row.leaf:
                fault(f"record {place} of the ledger is not what its leaf was made of")
            if push_leaf(peaks, place, row.leaf) != row.nodes:
                fault(f"the nodes stored with record {place} of the ledger are not those of its tree")
            try:
                _check_record(storage, row, heads, trusted)
            except (ValueError, EverlogError) as error:
                fault(f"record {place} of the ledger: {error}")
            place += 1
            if place in roots:
                roots[place] = root_of_peaks(peaks).hex()
        if not rows:
            fault(f"record {place} of the ledger is missing")
            break
    if split_digests(tree.peaks) != peaks:
        fault("the ledger's root is not that of its records")
    ends = {end.bucket: end.number for end in storage.feed_end()}
    if any(number > ends.get(bucket, 0) for bucket, number in tree.feeds):
        fault("the ledger says that it holds the heads after more events than there are: some will not be sealed")
    return place


def _check_record(storage: Storage, row: Placed, heads: dict[str, int], trusted: dict[str, VerifierKey]) -> None:
    """Check what a record of a head or a key says; ValueError says what differs. heads: the size last seen of each branch."""
    if row.branch is not None:
        record = read_record(row.record, HeadRecord)
        if (record.branch, record.size) != (row.branch, row.size):
            raise ValueError("it is of another head than the one that it is found by")
        if record.size < heads.get(record.branch, 0):
            raise ValueError(
                f"branch {record.branch} has {record.size} events in it, and had more in a record before it"
            )
        heads[record.branch] = record.size
        check_head(storage, record)
    elif b'"kind":"key"' in row.record:
        _take_key(read_record(row.record, KeyRecord), trusted)


def check_head(storage: Storage, record: HeadRecord) -> None:
    """Check that a branch begins and goes on as a record of its head says; ValueError says what differs."""
    branch = storage.branch_by_id(record.branch)
    if branch is None or branch.size < record.size:
        size = 0 if branch is None else branch.size
        raise ValueError(f"branch {record.branch} had {record.size} events, and has {size}")
    base = (msgspec.UNSET, msgspec.UNSET)
    if branch.base is not None:
        base = (storage.branch(branch.base).id, branch.base_size)
    if base != (record.base, record.base_size):
        raise ValueError(f"branch {record.branch} began elsewhere than it says now: its base was changed")
    if branch.size == record.size:
        root = branch.head().root
    else:
        lineage = storage.lineage(branch.key, "")
        root = root_of_peaks(storage.tree_nodes(lineage, peak_places(record.size))).hex()
    if root != record.root:
        raise ValueError(
            f"branch {record.branch} had the root {record.root} at {record.size} events, and has {root}: its events are others"
        )


class _Said(msgspec.Struct, frozen=True):
    """What a record says of a session, whatever its kind."""

    kind: str
    session: str = ""
    t: int = 0
    commitment: str = ""
    branch: str = ""


class _Last(msgspec.Struct, frozen=True):
    """What the last records of one kind say of a session: those with the greatest time, and the one with the greatest number."""

    t: int = 0
    number: int = 0
    newest: frozenset[str] = frozenset()
    latest: str = ""

    def says(self, what: str) -> bool:
        return what in self.newest or what == self.latest

    def is_before(self, other: _Last) -> bool:
        return self.t < other.t and self.number <= other.number


_NEVER: Final = _Last()


class OnRecord:
    """What the ledger's records say last of each session: what it is called, which branch is current, whether it was deleted.

    Where time and number do not agree on which of two is the last, or both are of one microsecond, either counts: the clock may have
    gone back between them, and processes on several machines give numbers as they come.
    """

    def __init__(self, storage: Storage) -> None:
        self._last: dict[tuple[str, str], _Last] = {}  # by kind and session
        after = 0
        while page := storage.ledger(after, PAGE_EVENTS_MAX):
            for entry in page:
                self._take(entry.number, entry.record)
            after = page[-1].number

    def _take(self, number: int, record: bytes) -> None:
        try:
            said = msgspec.json.decode(record, type=_Said)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return  # its leaf tells
        if said.kind in ("session", "current", "delete"):
            key, what = (said.kind, said.session), said.commitment or said.branch
            was = self._last.get(key, _NEVER)
            newest = {what} if said.t > was.t else was.newest | {what} if said.t == was.t else was.newest
            self._last[key] = _Last(max(said.t, was.t), number, frozenset(newest), what)

    def faults(self, session: SessionRow, branches: Sequence[BranchRow]) -> Iterator[str]:
        """Tell what of a living session is not as it stands on record, since it was deleted last: it may have been taken in again."""
        deleted, called, moved = (
            self._last.get((kind, session.id), _NEVER) for kind in ("delete", "session", "current")
        )
        commitment = commit_session(session.salt, session.name, session.title, session.labels)
        if called.is_before(deleted):
            yield "it was deleted, and is here"
        elif not called.says(commitment):
            yield "its name, title or labels are not those on record"
        was_moved = moved.latest != "" and not moved.is_before(deleted)
        is_current = [branch for branch in branches if branch.key == session.current]
        if not all(moved.says(branch.id) if was_moved else branch.number == 1 for branch in is_current):
            yield "its current branch is not the one on record"


def _take_key(record: KeyRecord, trusted: dict[str, VerifierKey]) -> None:
    """Trust a key that a trusted one signed in a rotation."""
    if record.action != "rotate" or not isinstance(record.previous, str) or not isinstance(record.signature, str):
        return
    previous, key = parse_verifier_key(record.previous), parse_verifier_key(record.key)
    signature = decode_base64(record.signature)
    if key.name != previous.name or not is_signed(
        key=previous.key, message=rotation_message(record.key), signature=signature
    ):
        raise ValueError(f"the key {record.previous} did not sign that {record.key} goes on in its place")
    if record.previous in trusted:
        trusted[record.key] = key


def _holds(seal: Seal, size: int, roots: dict[int, str], fault: Fault) -> bool:
    """Tell whether a seal says of the ledger what its records say."""
    if seal.head.size > size:
        fault(f"the seal of {seal.head.size} records is of more than the ledger has, which is {size}: records are gone")
    elif seal.head.size and roots[seal.head.size] != seal.head.root:
        fault(
            f"the seal of {seal.head.size} records says the root {seal.head.root}, and they give {roots[seal.head.size]}: they were changed"
        )
    else:
        return True
    return False


def _is_genuine(seal: Seal, trusted: dict[str, VerifierKey], fault: Fault) -> bool:
    """Tell whether a trusted key signed a seal; a bad signature of one is a fault."""
    signed_by = {(signature.name, signature.id) for signature in parse_note(seal.note.encode()).signatures}
    keys = [key for key in trusted.values() if key.name == seal.origin and (key.name, key.id) in signed_by]
    if not keys:
        return False
    try:
        open_checkpoint(seal.note.encode(), origin=seal.origin, keys=keys)
    except TamperedError as error:
        fault(f"the seal of {seal.head.size} records: {error.message}")
        return False
    return True


def covered(storage: Storage, branch: str, size: int, sealed: int) -> int:
    """Give up to which size of a branch, at most `size`, heads stand among the first `sealed` records of the ledger."""
    if sealed == 0:
        return 0
    low, high = 0, size
    while low < high:
        middle = high if low == 0 and high == size else (low + high + 1) // 2  # mostly all of it is
        if storage.head_place(branch, middle, sealed) is not None:
            low = middle
        else:
            high = middle - 1
    return low
