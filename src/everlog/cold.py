"""The door's part for bodies that went cold: packed into blocks, archived to object storage, brought back.

1. Where a body stands changes no answer: hashes are over the bytes that come back.
2. What is destroyed is destroyed in blocks too: an erased body leaves its block in the same transaction, or where the block is
   archived, its object is *tainted*: it is to be brought home without that body, and removed.
3. An object has a row before it has bytes, and its row goes after its bytes, so none is left behind unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

import msgspec

from everlog.core.block import Compressed
from everlog.encrypted import EncryptedStorage, EncryptionRequest, Rewrap

DAY_MICROS: Final = 86_400_000_000

ObjectState = Literal["writing", "kept", "tainted", "leaving"]


class Cold(msgspec.Struct, frozen=True):
    """A branch with own events that are not packed: those from `start` on, up to `size`. recorded: microseconds of its last."""

    branch: int
    start: int
    size: int
    recorded: int


class NewBlock(msgspec.Struct, frozen=True):
    """A block of the bodies of a branch's own events in [start, stop).

    newest: microseconds of the last. dictionary: the first 16 bytes of its SHA-256, or None. kind: of event, that most of the
    bytes are of. positions: whose bodies it holds. sharing: (position, SHA-256) of what its bodies hold of what is kept once.
    """

    start: int
    stop: int
    newest: int
    kind: str
    dictionary: bytes | None
    stored: Compressed
    positions: tuple[int, ...]
    sharing: tuple[tuple[int, bytes], ...] = ()


class Shared(msgspec.Struct, frozen=True):
    """A long string, or the bytes of an attachment, kept once. digest: SHA-256 of its bytes."""

    digest: bytes
    stored: Compressed


class Pack(msgspec.Struct, frozen=True):
    """Take the bodies of a branch's own events in [start, stop) out of their rows, into blocks.

    attachments: (position, number, digest) of those that are kept once. left: positions whose bodies stay in their rows.
    Nothing is done, and the receipt counts 0, where anything was erased or deleted since `erasures` was read, or another has packed
    these events.
    """

    branch: int
    start: int
    stop: int
    erasures: int
    blocks: tuple[NewBlock, ...]
    shared: tuple[Shared, ...] = ()
    attachments: tuple[tuple[int, int, bytes], ...] = ()
    left: tuple[int, ...] = ()


class Dictionary(msgspec.Struct, frozen=True):
    """What blocks of one kind are packed with. digest: the first 16 bytes of the content's SHA-256. made: microseconds."""

    digest: bytes
    kind: str
    made: int
    content: bytes


class PutDictionary(msgspec.Struct, frozen=True):
    """Keep a dictionary, for as long as the store: blocks need it."""

    digest: bytes
    kind: str
    content: bytes


class StoredBlock(msgspec.Struct, frozen=True):
    """A block, or something kept once, as stored.

    branch, start, stop: None and 0 for what is kept once. size: bytes stored. object, place: where its bytes are, once archived.
    """

    key: int
    branch: int | None
    start: int
    stop: int
    newest: int
    dictionary: bytes | None
    plain: int
    size: int
    checksum: bytes
    object: bytes | None
    place: int | None


class ObjectRow(msgspec.Struct, frozen=True):
    """An object in object storage that holds blocks. id: 16 random bytes. url: of where it lies, without credentials.

    size: bytes; checksum: SHA-256 of them. state: *writing* until it is read back and its blocks have left the store; *kept*;
    *tainted* while it holds what was destroyed; *leaving* once nothing of it is needed. made: microseconds.
    """

    id: bytes
    bucket: int
    url: str
    name: str
    size: int
    checksum: bytes
    state: ObjectState
    made: int


class OpenObject(msgspec.Struct, frozen=True):
    """Note that an object is about to be written."""

    object: ObjectRow


class Archive(msgspec.Struct, frozen=True):
    """Have blocks be in an object, which was read back, and no more in the store. places: (block, its checksum, where it begins).

    A block whose bytes changed meanwhile stays, and the object is tainted. The receipt counts the blocks that left.
    """

    object: bytes
    bucket: int
    places: tuple[tuple[int, bytes, int], ...]


class BringHome(msgspec.Struct, frozen=True):
    """Have the blocks of an object be in the store again, without what was destroyed; the object is then *leaving*.

    contents: the object's bytes. The receipt counts the blocks.
    """

    object: bytes
    bucket: int
    contents: bytes


class GiveUpObject(msgspec.Struct, frozen=True):
    """Have an object that nobody finished writing be *leaving*, so that nobody can rely on it any more.

    The receipt counts 0 where it is not *writing*: who wrote it was quicker.
    """

    object: bytes
    bucket: int


class ForgetObject(msgspec.Struct, frozen=True):
    """Drop the row of an object whose bytes are gone. Refused, counting 0, while a block is in it."""

    object: bytes
    bucket: int


PackingRequest = Pack | PutDictionary | OpenObject | Archive | BringHome | GiveUpObject | ForgetObject
ColdRequest = PackingRequest | EncryptionRequest


def cold_bytes(request: ColdRequest) -> int:
    """Give the bytes that a request brings."""
    match request:
        case Pack():
            stored = [each.stored for each in (*request.blocks, *request.shared)]
            return sum(len(each.content) for each in stored)
        case PutDictionary():
            return len(request.content)
        case BringHome():
            return len(request.contents)
        case Rewrap():
            return sum(len(each.wrapped) for each in request.keys)
        case _:
            return 0


class AwayError(Exception):
    """A body is in object storage, and was not fetched yet. Internal: the store fetches it without a transaction and reads again."""

    def __init__(self, object_row: ObjectRow) -> None:
        super().__init__(object_row.name)
        self.object = object_row


class Day(msgspec.Struct, frozen=True):
    """What was recorded on one day. day: days since 1970-01-01, UTC. bytes: of bodies, as they were given."""

    day: int
    events: int
    bytes: int


class Sizes(msgspec.Struct, frozen=True):
    """What a store holds, in bytes, but for counts.

    file: all of it, indexes and free space too. free: inside it, given back by compacting. hot: bodies and attachments in rows.
    packed, packed_plain: in blocks, and what they give back. shared, shared_plain: kept once. archived: in object storage.
    """

    events: int
    sessions: int
    file: int
    hot: int
    free: int = 0
    packed: int = 0
    packed_plain: int = 0
    shared: int = 0
    shared_plain: int = 0
    archived: int = 0
    blocks: int = 0
    objects: int = 0


class ColdStorage(EncryptedStorage, Protocol):
    """What a store promises of cold bodies, and of encrypted ones, beside what `Storage` says."""

    def cold(self, after: int, limit: int) -> list[Cold]:
        """List branches of living sessions with own events that are not packed, by key, after one; none where it never packs."""
        ...

    def dictionaries(self) -> list[Dictionary]:
        """Give the newest dictionary of each kind."""
        ...

    def blocks(self, bucket: int, after: int, newest: int, session: int | None, limit: int) -> list[StoredBlock]:
        """List blocks in the store itself whose events were all recorded before `newest`, by key, after one.

        session: the key of the one whose blocks are wanted; None for all, and for what is kept once.
        """
        ...

    def blocks_of(self, object: bytes) -> list[StoredBlock]:
        """List the blocks of an object, in the order of their places."""
        ...

    def block_content(self, block: StoredBlock) -> bytes | None:
        """Read the bytes of a block; None where it is not in the store any more, or changed."""
        ...

    def objects(self, session: int | None = None) -> list[ObjectRow]:
        """List the objects that the store knows of, by id; where a session is given, those that its events and what they share need."""
        ...

    def kept_once(self, places: Sequence[tuple[int, int]]) -> list[tuple[bytes, int, int]]:
        """Tell what is kept once of events of one family: its digest, how many of these events hold it, and how many hold it at all.

        places: (branch, position), at most PAGE_EVENTS_MAX, each of the branch that owns the event.
        """
        ...

    def all_buckets(self) -> Sequence[int]:
        """Give the buckets of the store: an object holds blocks of one."""
        ...

    def give_back(self, pages: int) -> int:
        """Give free space inside the store back to the system, at most so many pages; give how many pages remain. 0 where there are none."""
        ...

    def free(self) -> int:
        """Give the bytes of free space inside the store."""
        ...

    def sizes(self) -> Sizes:
        """Measure. Reads the whole store where the engine keeps no sums: seconds for a gigabyte."""
        ...

    def growth(self) -> list[Day]:
        """Give what was recorded on each day that anything was, in order. Reads every row, as `sizes` does."""
        ...

    # --- object storage ---
    def put_object(self, row: ObjectRow, contents: bytes) -> None:
        """Write an object where there is none of its name, read it back whole, and compare. UnavailableError; CorruptionError."""
        ...

    def get_object(self, row: ObjectRow) -> bytes:
        """Read an object whole, from the cache where it is there. UnavailableError; CorruptionError where it is not what was written."""
        ...

    def remove_object(self, row: ObjectRow) -> None:
        """Remove an object; nothing where it is gone. UnavailableError."""
        ...
