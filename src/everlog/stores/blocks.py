"""Bodies that left their rows, found again: the same for every store, over the few reads that a store gives.

1. What was decoded is kept by the checksum of its bytes, up to CACHE_BYTES a store, so a block that was written again is read again.
2. Content that is in object storage and not in this process raises AwayError, and is fetched where no transaction is open.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Mapping, Sequence
from hashlib import sha256
from threading import Lock, Thread
from typing import Final, Protocol, TypeVar

import msgspec

from everlog.cold import AwayError, ObjectRow, StoredBlock
from everlog.core import limits
from everlog.core.block import Codec, Compressed, Entry, dictionary_digest, unpack_shared
from everlog.core.decide import EventRow
from everlog.core.envelope import BODY, NO_SALT, WrappedKey, is_sealed
from everlog.core.event import PreparedAttachment
from everlog.core.header import commit_body
from everlog.core.merkle import DIGEST_BYTES, push_leaf
from everlog.errors import CorruptionError, EverlogError, UnavailableError
from everlog.storage import Receipt, Request, Resolve, Withdraw
from everlog.stores.objects import Objects
from everlog.stores.sealed_bodies import Sealing

CACHE_BYTES: Final = 16 * 1024 * 1024
TWIG_LEVELS: Final = 6
TWIG_LEAVES: Final = 1 << TWIG_LEVELS
_FETCHES_MAX: Final = 64  # objects that one write may need
PAGE_FETCHES_MAX: Final = 2 * limits.PAGE_EVENTS_MAX  # objects that one page of events may be spread over

T = TypeVar("T")


class BlockSource(Protocol):
    """What a store reads of blocks in one transaction. A block comes with its content, None where that is archived."""

    def block_at(self, branch: int, position: int) -> tuple[StoredBlock, bytes | None] | None: ...

    def shared(self, branch: int, digest: bytes) -> tuple[StoredBlock, bytes | None] | None: ...

    def dictionary(self, digest: bytes) -> bytes | None: ...

    def object(self, block: StoredBlock) -> ObjectRow | None: ...

    def data_key(self, branch: int, position: int) -> WrappedKey | None: ...


class BlockCache:
    """What one store has decoded lately, of what is encrypted as it is stored; the codecs of its dictionaries, and its keys. Safe for threads."""

    def __init__(self, objects: Objects, sealing: Sealing) -> None:
        self.objects = objects
        self.sealing = sealing
        self._kept: OrderedDict[bytes, tuple[int, object]] = OrderedDict()
        self._held = 0
        self._codecs: dict[bytes | None, Codec] = {None: Codec()}
        self._lock = Lock()

    def decoded(self, checksum: bytes, cost: int, decode: Callable[[], T]) -> T:
        """Give what a content decodes to. cost: bytes that it takes."""
        with self._lock:
            kept = self._kept.get(checksum)
            if kept is not None:
                self._kept.move_to_end(checksum)
                return kept[1]  # pyright: ignore[reportReturnType]  # a checksum is of one kind of content
        value = decode()
        with self._lock:
            if checksum not in self._kept and cost <= CACHE_BYTES:
                self._kept[checksum] = (cost, value)
                self._held += cost
            while self._held > CACHE_BYTES:
                self._held -= self._kept.popitem(last=False)[1][0]
        return value

    def fetching(self, read: Callable[[], T], *, fetches_max: int = _FETCHES_MAX) -> T:
        """Read, again each time that it needs an object of object storage, which is fetched while no transaction is open.

        Raises what fetching raised, where the store still says that it is there.
        """
        failed: tuple[bytes, EverlogError] | None = None
        for _ in range(fetches_max):
            try:
                return read()
            except AwayError as away:
                row = away.object
            if failed is not None and failed[0] == row.id:
                raise failed[1]
            try:
                self.objects.fetch(row)
            except EverlogError as error:
                failed = (row.id, error)  # it may have been brought home meanwhile
        raise _too_many(fetches_max)

    def resolving(self, request: Request, submit: Callable[[Request, Resolve], Withdraw], resolve: Resolve) -> Resolve:
        """Give what is to be called with a queued request's outcome: where an object is needed, it is fetched and the request queued again."""
        failed: dict[bytes, EverlogError] = {}
        tries = iter(range(_FETCHES_MAX))

        def fetch(away: AwayError) -> None:
            try:
                self.objects.fetch(away.object)
            except EverlogError as error:
                failed[away.object.id] = error  # it may have been brought home meanwhile
            try:
                submit(request, resolved)
            except EverlogError as error:
                resolve(error)

        def resolved(outcome: Receipt | Exception) -> None:
            if not isinstance(outcome, AwayError):
                resolve(outcome)
            elif outcome.object.id in failed:
                resolve(failed[outcome.object.id])
            elif next(tries, None) is None:
                resolve(_too_many(_FETCHES_MAX))
            else:  # not here: this thread commits for others
                Thread(target=fetch, args=(outcome,), name="everlog-fetch", daemon=True).start()

        return resolved

    def codec(self, source: BlockSource, digest: bytes | None) -> Codec:
        """Give the codec of a dictionary. Reading with it is safe for threads, packing is not."""
        found = self._codecs.get(digest)
        if found is None:
            assert digest is not None, "the codec without a dictionary is always there"
            found = self._codecs[digest] = Codec(_dictionary(source, digest))
        return found


class Fetched:
    """What one read found in object storage so far, kept while it is read again: each object is then fetched once, however many."""

    def __init__(self) -> None:
        self.bodies: dict[tuple[int, int], tuple[bytes, bytes]] = {}  # by branch and position, with their salts
        self.shared: dict[bytes, bytes] = {}  # by digest
        self.away: ObjectRow | None = None  # the object that is to be fetched next

    def check(self) -> None:
        """Raise AwayError where a body was not found, since its object is not here. Call when all was read that could be."""
        away, self.away = self.away, None
        if away is not None:
            raise AwayError(away)  # another one: that which was caught holds frames, and in them a reader's statement


class Bodies:
    """Finds bodies that left their rows, in one read transaction; the block found last is at hand for the next.

    fetched: where it is given, a body whose object is not here is None at first, and `fetched.check` raises at the end.
    """

    def __init__(self, cache: BlockCache, source: BlockSource, fetched: Fetched | None = None) -> None:
        self._cache = cache
        self._source = source
        self._fetched = fetched
        self._branch = 0
        self._start = self._stop = -1
        self._is_archived = False
        self._entries: dict[int, Entry] = {}

    def find(self, branch: int, position: int) -> tuple[bytes, bytes] | None:
        """Give an event's body and its salt; None where no block holds it. branch: that owns it. Raises AwayError, CorruptionError."""
        fetched = self._fetched
        if fetched is None:
            return self._find(branch, position)
        found = fetched.bodies.get((branch, position))
        if found is not None:
            return found
        try:
            found = self._find(branch, position)
        except AwayError as away:
            fetched.away = fetched.away or away.object
            return None
        if found is not None and self._is_archived:
            fetched.bodies[branch, position] = found
        return found

    def _find(self, branch: int, position: int) -> tuple[bytes, bytes] | None:
        if branch != self._branch or not self._start <= position < self._stop:
            found = self._source.block_at(branch, position)
            if found is None:
                return None
            self._entries = self.entries(*found)
            self._branch, self._start, self._stop = branch, found[0].start, found[0].stop
            self._is_archived = found[0].object is not None
        entry = self._entries.get(position)
        if entry is None:
            return None
        return entry.body(lambda digest: self.shared(branch, digest)), entry.salt

    def body(
        self,
        branch: int,
        position: int,
        stored: bytes | None,
        gone: int | None,
        leaf: bytes,
        *,
        as_stored: bool = False,
    ) -> bytes | None:
        """Give an event's body, as it was before it left its row or was encrypted; None where it is nowhere. stored: what its row holds."""
        body = stored
        if body is None and gone is None:
            found = self.find(branch, position)
            body = None if found is None else found[0]
        if not as_stored and body is not None and is_sealed(body):
            return self.opened(branch, position, leaf, body)[0]
        return body

    def opened(
        self, branch: int, position: int, leaf: bytes, envelope: bytes, number: int = BODY
    ) -> tuple[bytes, bytes]:
        """Open an envelope; give what is in it, and its salt. Raises KeyNeededError, CorruptionError."""
        if type(leaf) is not bytes:
            raise CorruptionError(
                f"the leaf at position {position} of branch {branch} of this store, which a body was encrypted for, is not what was "
                "written; nothing was changed; see what verify says, and restore a backup"
            )
        key = self._source.data_key(branch, position)
        return self._cache.sealing.open(envelope, key, leaf, position, number)

    def whole(self, branch: int, row: EventRow, *, as_stored: bool = False) -> EventRow:
        """Give a row with the body, the salt and the commitment that left it. as_stored: encrypted as it is, without a salt."""
        if row.gone is not None:
            return row
        body, salt = row.body, row.salt
        if body is None:
            found = self.find(branch, row.position)
            if found is None:
                return row
            body, salt = found
        if row.body is None or salt is None:
            if is_sealed(body):
                body, salt = (body, None) if as_stored else self.opened(branch, row.position, row.leaf, body)
            commitments = commit_body(salt, body) if row.commitments is None and salt is not None else row.commitments
            return msgspec.structs.replace(row, body=body, salt=salt, commitments=commitments)
        return row

    def attachment(
        self, branch: int, position: int, leaf: bytes, number: int, item: PreparedAttachment
    ) -> PreparedAttachment:
        """Give an attachment that may be encrypted as it was given. number: its place among the event's."""
        if item.content is None or item.salt is not None or not is_sealed(item.content):
            return item
        content, salt = self.opened(branch, position, leaf, item.content, number)
        return PreparedAttachment(item.name, item.size, salt, content)

    def shared(self, branch: int, digest: bytes) -> bytes:
        """Give what is kept once by the hash of its bytes. branch: of an event that holds it. Raises AwayError, CorruptionError."""
        if self._fetched is not None and digest in self._fetched.shared:
            return self._fetched.shared[digest]
        found = self._source.shared(branch, digest)
        if found is None:
            raise CorruptionError(
                f"content {digest.hex()} that events hold is not in the store; nothing was changed; restore a backup"
            )
        block, content = found
        _check_columns(block)

        def decode() -> bytes:
            return unpack_shared(self.checked(block, content), block.plain)

        plain = self._cache.decoded(block.checksum, block.plain, lambda: _sound(decode, block))
        if self._fetched is not None and block.object is not None:
            self._fetched.shared[digest] = plain
        return plain

    def entries(self, block: StoredBlock, content: bytes | None) -> dict[int, Entry]:
        """Decode a block; its entries by position."""
        _check_columns(block)

        def decode() -> dict[int, Entry]:
            codec = self._cache.codec(self._source, block.dictionary)
            return {entry.position: entry for entry in codec.unpack(self.checked(block, content), block.plain)}

        return self._cache.decoded(block.checksum, block.plain, lambda: _sound(decode, block))

    def checked(self, block: StoredBlock, content: bytes | None) -> bytes:
        """Give the bytes of a block, from where it is archived if they are not in the store, when they are what was written."""
        if content is None and block.object is not None and block.place is not None:
            row = self._source.object(block)
            if row is None:
                raise _damaged(block, "its object is not known")
            held = self._cache.objects.held(row)
            if held is None:
                raise AwayError(row)
            content = held[block.place : block.place + block.size]
        if type(content) is not bytes or sha256(content).digest() != block.checksum:
            raise _damaged(block, "its bytes are not what was written")
        return content

    def exchanged(self, block: StoredBlock, content: bytes | None, bodies: Mapping[int, bytes]) -> Compressed:
        """Give a block written again with other bodies at some positions, which are encrypted."""
        entries = self.entries(block, content)
        changed = {position: Entry(position, NO_SALT, (body,)) for position, body in bodies.items()}
        return self._packed(block, [changed.get(position, entry) for position, entry in sorted(entries.items())])

    def without(self, block: StoredBlock, content: bytes | None, gone: Container[int]) -> Compressed | None:
        """Give a block written again without the bodies at some positions; None where none is left."""
        left = [entry for position, entry in sorted(self.entries(block, content).items()) if position not in gone]
        if not left:
            return None
        return self._packed(block, left)

    def _packed(self, block: StoredBlock, entries: Sequence[Entry]) -> Compressed:
        # A codec of its own: the cache's may be packing in another thread.
        dictionary = None if block.dictionary is None else _dictionary(self._source, block.dictionary)
        return Codec(dictionary).pack(entries)


class Twigs:
    """The nodes of the lowest levels, which leave the rows with the bodies, made again from the leaves as rows are read in order."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        """leaves: from the last position that 64 divides up to the first row."""
        self._peaks: list[bytes] = []
        for position, leaf in enumerate(leaves):
            push_leaf(self._peaks, position, _placed(leaf))

    def grown(self, row: EventRow) -> EventRow:
        """Give the next row with the nodes that left it."""
        place = row.position % TWIG_LEAVES
        if place == 0:
            self._peaks.clear()
        nodes = push_leaf(self._peaks, place, _placed(row.leaf))
        return row if row.nodes or not nodes else msgspec.structs.replace(row, nodes=nodes)


def _placed(leaf: bytes) -> bytes:
    """Give a leaf as nodes are made of it. One that is damaged has no hash: what it lies under is then not what was written either."""
    return leaf if type(leaf) is bytes else b"\0" * DIGEST_BYTES


def stays(nodes: bytes) -> bytes:
    """Give what stays in a row of its nodes: all where one is above the lowest levels, else none."""
    return nodes if len(nodes) > TWIG_LEVELS * DIGEST_BYTES else b""


def twig(leaves: Sequence[bytes]) -> bytes:
    """Give the node over 2, 4 … 64 leaves."""
    peaks: list[bytes] = []
    for position, leaf in enumerate(leaves):
        push_leaf(peaks, position, leaf)
    assert len(peaks) == 1, "a node is over a power of two of leaves"
    return peaks[0]


def _dictionary(source: BlockSource, digest: bytes) -> bytes:
    content = source.dictionary(digest)
    if type(content) is not bytes or dictionary_digest(content) != digest:
        trouble = "is not in the store" if content is None else "is not what was written"
        raise CorruptionError(
            f"the dictionary {digest.hex()} that blocks were packed with {trouble}; nothing was changed; restore a backup"
        )
    return content


def _too_many(fetches_max: int) -> UnavailableError:
    return UnavailableError(
        f"more than {fetches_max} objects of object storage are needed at once; nothing was changed; restore the session's archive, "
        "or ask for fewer events at a time"
    )


def _sound(decode: Callable[[], T], block: StoredBlock) -> T:
    try:
        return decode()
    except ValueError as error:
        raise _damaged(block, str(error)) from error


def _check_columns(block: StoredBlock) -> None:
    """Raise CorruptionError where a column of a block is of another type than any that was written. Its content has a checksum."""
    whole = all(type(each) is int for each in (block.start, block.stop, block.plain, block.size))
    places = block.place is None or type(block.place) is int
    digests = all(each is None or type(each) is bytes for each in (block.dictionary, block.object))
    if not (whole and places and digests and type(block.checksum) is bytes):
        raise _damaged(block, "its columns are not what was written")


def _damaged(block: StoredBlock, why: str) -> CorruptionError:
    stop = block.stop - 1 if type(block.stop) is int else block.stop
    what = "what is kept once" if block.branch is None else f"the bodies of positions {block.start} to {stop}"
    return CorruptionError(f"block {block.key} with {what} is damaged: {why}; nothing was changed; restore a backup")
