"""Cold bodies in PostgreSQL: what is read of blocks, and what a write transaction does with them.

1. A bucket has its own blocks, objects and content that is kept once; dictionaries are in bucket 0.
2. Whoever packs, archives or destroys holds the bucket's row, so that none of these comes between two others.
3. Rows keep commitments and nodes here, unlike in SQLite: a row's own overhead is more than they take.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from everlog.cold import (
    Archive,
    AwayError,
    BringHome,
    Cold,
    Day,
    Dictionary,
    ForgetObject,
    GiveUpObject,
    ObjectRow,
    OpenObject,
    Pack,
    PackingRequest,
    PutDictionary,
    Sizes,
    StoredBlock,
)
from everlog.core.block import BLOCK_EVENTS, Compressed
from everlog.core.decide import EventRow
from everlog.core.envelope import WrappedKey, is_sealed
from everlog.core.limits import PAGE_BYTES_MAX
from everlog.stores.blocks import BlockCache, Bodies
from everlog.stores.objects import Objects, ObjectStorage
from everlog.stores.postgres.connections import Connections
from everlog.stores.postgres.statements import bucket_of
from everlog.stores.rows import Row
from everlog.stores.sealed_bodies import Sealing

Fetch = Callable[[str, dict[str, Any]], Sequence[Row]]


class PostgresBlocks:
    """Implements everlog.stores.blocks.BlockSource. fetch: runs a named query that reads."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._ahead: list[tuple[StoredBlock, bytes | None]] = []
        self._keys: dict[tuple[int, int], WrappedKey | None] = {}

    def read_keys(self, places: Sequence[tuple[int, int]]) -> None:
        """Read the data keys of several events of one bucket, by branch and position, in one round trip."""
        branches, positions = (list(column) for column in zip(*places, strict=True))
        given = {"bucket": bucket_of(branches[0]), "branches": branches, "positions": positions}
        self._keys = dict.fromkeys(places)
        self._keys |= {(row[0], row[1]): WrappedKey(row[2], row[3]) for row in self._fetch("read_data_keys", given)}

    def data_key(self, branch: int, position: int) -> WrappedKey | None:
        if (branch, position) not in self._keys:
            self.read_keys([(branch, position)])
        return self._keys[branch, position]

    def over(self, branch: int, start: int, stop: int) -> list[tuple[StoredBlock, bytes | None]]:
        """Read the blocks that hold bodies of a range of a branch's own events."""
        return self._over([(branch, start, stop)])

    def read_ahead(self, places: Iterable[tuple[int, int]]) -> None:
        """Read the blocks of several events, by branch and position, in one round trip."""
        ranges: list[tuple[int, int, int]] = []
        for branch, position in sorted(places):
            if ranges and ranges[-1][0] == branch and position <= ranges[-1][2] + BLOCK_EVENTS:
                ranges[-1] = (branch, ranges[-1][1], position + 1)
            else:
                ranges.append((branch, position, position + 1))
        self._ahead = self._over(ranges)

    def _over(self, ranges: Sequence[tuple[int, int, int]]) -> list[tuple[StoredBlock, bytes | None]]:
        """Read the blocks that hold bodies of ranges: branch, start, stop."""
        branches, starts, stops = (list(column) for column in zip(*ranges, strict=True))
        given = {"bucket": bucket_of(branches[0]), "branches": branches, "starts": starts, "stops": stops}
        return [(StoredBlock(*row[:-1]), row[-1]) for row in self._fetch("read_blocks_over", given)]

    def block_at(self, branch: int, position: int) -> tuple[StoredBlock, bytes | None] | None:
        for found in self._ahead:
            if found[0].branch == branch and found[0].start <= position < found[0].stop:
                return found
        return next(iter(self._over([(branch, position, position + 1)])), None)

    def shared(self, branch: int, digest: bytes) -> tuple[StoredBlock, bytes | None] | None:
        rows = self._fetch("read_shared", {"bucket": bucket_of(branch), "digest": digest})
        return (StoredBlock(*rows[0][:-1]), rows[0][-1]) if rows else None

    def dictionary(self, digest: bytes) -> bytes | None:
        rows = self._fetch("read_dictionary", {"digest": digest})
        return rows[0][0] if rows else None

    def object(self, block: StoredBlock) -> ObjectRow | None:
        rows = self._fetch("read_object", {"bucket": bucket_of(block.key), "id": block.object})
        return ObjectRow(*rows[0]) if rows else None


class PostgresCold(ObjectStorage):
    """Implements everlog.cold.ColdStorage. buckets: of the store."""

    def __init__(self, connections: Connections, objects: Objects, sealing: Sealing, buckets: int) -> None:
        super().__init__(objects)
        self.connections = connections
        self.buckets = buckets
        self._blocks = BlockCache(objects, sealing)

    def cold(self, after: int, limit: int) -> list[Cold]:
        return [Cold(*row) for row in self.connections.fetch_all("list_cold", {"after": after, "limit": limit})]

    def dictionaries(self) -> list[Dictionary]:
        return [Dictionary(*row) for row in self.connections.fetch_all("read_dictionaries")]

    def blocks(self, bucket: int, after: int, newest: int, session: int | None, limit: int) -> list[StoredBlock]:
        given = {"bucket": bucket, "after": after, "newest": newest, "session": session, "limit": limit}
        return [StoredBlock(*row) for row in self.connections.fetch_all("list_blocks", given)]

    def blocks_of(self, object: bytes) -> list[StoredBlock]:
        return [StoredBlock(*row) for row in self.connections.fetch_all("list_object_blocks", {"object": object})]

    def block_content(self, block: StoredBlock) -> bytes | None:
        given = {"bucket": bucket_of(block.key), "block": block.key, "checksum": block.checksum}
        row = self.connections.fetch_one("read_block", given)
        return None if row is None else row[0]

    def objects(self, session: int | None = None) -> list[ObjectRow]:
        given = {"bucket": None if session is None else bucket_of(session), "session": session}
        return [ObjectRow(*row) for row in self.connections.fetch_all("list_objects", given)]

    def kept_once(self, places: Sequence[tuple[int, int]]) -> list[tuple[bytes, int, int]]:
        if not places:
            return []
        branches, positions = (list(column) for column in zip(*places, strict=True))
        given = {"bucket": bucket_of(branches[0]), "branches": branches, "positions": positions}
        return [(row[0], row[1], row[2]) for row in self.connections.fetch_all("count_holders", given)]

    def all_buckets(self) -> Sequence[int]:
        return range(self.buckets)

    def free(self) -> int:
        return 0  # autovacuum keeps what is free for new rows, and gives back what it can

    def give_back(self, pages: int) -> int:  # noqa: ARG002
        return 0

    def growth(self) -> list[Day]:
        packed: dict[int, int] = {row[0]: row[1] for row in self.connections.fetch_all("read_packed_growth")}
        rows = self.connections.fetch_all("read_growth")
        return [Day(day, events, held + packed.get(day, 0)) for day, events, held in rows]

    def sizes(self) -> Sizes:
        rows = self.connections.fetch_all("read_sizes", {"name": self.connections.statements.schema})
        events, sessions, hot, packed, packed_plain, shared, shared_plain, archived, blocks, objects, file = rows[0]
        return Sizes(
            events=events,
            sessions=sessions,
            file=file,
            hot=hot,
            packed=packed,
            packed_plain=packed_plain,
            shared=shared,
            shared_plain=shared_plain,
            archived=archived,
            blocks=blocks,
            objects=objects,
        )


def fill(
    cache: BlockCache,
    fetch: Fetch,
    rows: Sequence[Row],
    place: Callable[[Row], tuple[int, int]],
    *,
    gone: int,
    body: int,
    bytes_max: int = PAGE_BYTES_MAX,
    as_stored: bool = False,
) -> list[Row]:
    """Put bodies that left their rows or are encrypted back into them; fewer rows where they pass `bytes_max` in all, but for the first.

    The rows end as well before one whose body is in object storage and not here; of the first that raises AwayError.
    place: gives a row's branch and position. gone, body: columns; the leaf stands before the body. as_stored: leave what is encrypted so.
    Raises CorruptionError, KeyNeededError.
    """
    away = [place(row) for row in rows if row[body] is None and row[gone] is None]
    sealed = [] if as_stored else [place(row) for row in rows if is_sealed(row[body])]
    if not away and not sealed:
        return list(rows)
    source = PostgresBlocks(fetch)
    bodies = Bodies(cache, source)
    _read_ahead(cache, source, away, sealed)
    filled: list[Row] = []
    held = 0
    for row in rows:
        whole = row
        if row[gone] is None and (row[body] is None or (sealed and is_sealed(row[body]))):
            try:
                read = bodies.body(*place(row), row[body], row[gone], row[body - 1], as_stored=as_stored)
                whole = (*row[:body], read, *row[body + 1 :])
            except AwayError:
                if filled:
                    break
                raise
        held += len(whole[body] or b"")
        if held > bytes_max and filled:
            break
        filled.append(whole)
    return filled


def _read_ahead(
    cache: BlockCache, source: PostgresBlocks, away: Sequence[tuple[int, int]], sealed: Sequence[tuple[int, int]]
) -> None:
    """Read what several rows need: blocks of bodies that left them, and the keys of those that are encrypted, in blocks too."""
    if away:
        source.read_ahead(away)
    if sealed or (away and cache.sealing.current):
        source.read_keys([*away, *sealed])


def whole_rows(
    cache: BlockCache,
    fetch: Fetch,
    rows: Sequence[EventRow],
    owner: Callable[[int], int],
    bytes_max: int,
    *,
    all_or_none: bool = False,
    as_stored: bool = False,
) -> list[EventRow]:
    """As `fill`, of whole rows. owner: gives the branch that owns the event at a position. all_or_none: AwayError of any of them."""
    away = [(owner(row.position), row.position) for row in rows if row.body is None and row.gone is None]
    sealed = [] if as_stored else [(owner(row.position), row.position) for row in rows if is_sealed(row.body)]
    if not away and not sealed:
        return list(rows)
    source = PostgresBlocks(fetch)
    bodies = Bodies(cache, source)
    _read_ahead(cache, source, away, sealed)
    filled: list[EventRow] = []
    held = 0
    for row in rows:
        try:
            whole = bodies.whole(owner(row.position), row, as_stored=as_stored)
        except AwayError:
            if filled and not all_or_none:
                break
            raise
        held += len(whole.body or b"")
        if held > bytes_max and filled:
            break
        filled.append(whole)
    return filled


class ColdWriter:
    """What a write transaction does with blocks of one bucket, whose row it holds.

    fetch: runs a named query that sees what was written. write: runs one that gives nothing. new_key: makes the key of a block.
    now: microseconds.
    """

    def __init__(
        self,
        cache: BlockCache,
        fetch: Fetch,
        write: Callable[[str, dict[str, Any]], None],
        new_key: Callable[[], int],
        *,
        now: int,
    ) -> None:
        self._cache = cache
        self._fetch = fetch
        self._write = write
        self._new_key = new_key
        self._now = now

    def carry_out(self, request: PackingRequest, erasures: int) -> int:
        """Carry out a request; give what its receipt counts. erasures: the number that the bucket has now."""
        match request:
            case Pack():
                return self._pack(request) if request.erasures == erasures else 0
            case PutDictionary(digest, kind, content):
                self._write(
                    "insert_dictionary", {"digest": digest, "kind": kind, "made": self._now, "content": content}
                )
                return 1
            case OpenObject(row):
                self._write("insert_object", {name: getattr(row, name) for name in row.__struct_fields__})
                return 1
            case Archive():
                return self._archive(request)
            case BringHome():
                return self._bring_home(request)
            case GiveUpObject():
                return len(self._fetch("give_up_object", {"id": request.object}))
            case ForgetObject():
                return len(self._fetch("delete_object", {"id": request.object}))

    def _pack(self, request: Pack) -> int:
        rows = self._fetch("read_packed", {"branch": request.branch})
        if not rows or rows[0][0] != request.start or rows[0][1] < request.stop:
            return 0
        newest = max((block.newest for block in request.blocks), default=0)
        for shared in request.shared:
            columns = {"block": self._new_key(), "digest": shared.digest, "newest": newest}
            self._write("insert_shared", columns | _stored(shared.stored))
        positions: list[int] = []
        sharing = {(position, digest) for position, _, digest in request.attachments}
        for block in request.blocks:
            columns = {"block": self._new_key(), "branch": request.branch, "start": block.start, "stop": block.stop}
            columns |= {"kind": block.kind, "newest": block.newest, "dictionary": block.dictionary}
            self._write("insert_block", columns | _stored(block.stored))
            positions += block.positions
            sharing.update(block.sharing)
        self._write("empty_rows", {"branch": request.branch, "positions": positions})
        self._write_sharing(request, sorted(sharing))
        self._write("set_packed", {"branch": request.branch, "packed": request.stop})
        return request.stop - request.start

    def _write_sharing(self, request: Pack, sharing: Sequence[tuple[int, bytes]]) -> None:
        if request.attachments:
            columns = zip(*request.attachments, strict=True)
            given = dict(zip(("positions", "numbers", "digests"), map(list, columns), strict=True))
            self._write("empty_attachments", {"branch": request.branch, **given})
        if sharing:
            positions, digests = (list(column) for column in zip(*sharing, strict=True))
            self._write("insert_sharings", {"branch": request.branch, "positions": positions, "digests": digests})

    def _archive(self, request: Archive) -> int:
        if self._state(request.object) != "writing":
            return 0  # another process took it for abandoned, and removes it
        columns = zip(*request.places, strict=True)
        given = dict(zip(("blocks", "checksums", "places"), map(list, columns), strict=True))
        moved = len(self._fetch("archive_blocks", {"object": request.object, **given}))
        state = "kept" if moved == len(request.places) else "tainted"
        self._write("set_object", {"id": request.object, "state": state})
        return moved

    def _state(self, object: bytes) -> str | None:
        rows = self._fetch("read_object", {"id": object})
        return ObjectRow(*rows[0]).state if rows else None

    def _bring_home(self, request: BringHome) -> int:
        if self._state(request.object) is None:
            return 0  # another process was quicker
        bodies = Bodies(self._cache, PostgresBlocks(self._fetch))
        left: list[tuple[StoredBlock, Compressed | None]] = []
        for row in self._fetch("list_object_blocks", {"object": request.object}):
            block = StoredBlock(*row)
            assert block.place is not None, "an archived block has a place"
            content = bodies.checked(block, request.contents[block.place : block.place + block.size])
            left.append((block, self._left(bodies, block, content, ())))
        for block, stored in left:
            self.write_left(block, stored)
        self._write("set_object", {"id": request.object, "state": "leaving"})
        return len(left)

    def _left(self, bodies: Bodies, block: StoredBlock, content: bytes, going: Collection[int]) -> Compressed | None:
        """Give what is left of a block without the bodies of events that are gone, or going; None where that is nothing."""
        if block.branch is not None:
            at = {"branch": block.branch, "start": block.start, "stop": block.stop}
            gone = {row[0] for row in self._fetch("read_gone", at)} | set(going)
            if gone and any(position in gone for position in bodies.entries(block, content)):
                return bodies.without(block, content, gone)
        return Compressed(content, block.checksum, block.plain)

    def write_left(self, block: StoredBlock, stored: Compressed | None) -> None:
        """Put what is left of a block in its place; None for nothing."""
        if stored is None:
            self._write("delete_block", {"block": block.key})
        else:
            self._write("write_block", {"block": block.key} | _stored(stored))

    def erasing(self, branch: int, positions: Sequence[int]) -> Callable[[], None]:
        """Read what blocks hold of a branch's own events; give what destroys it. Raises CorruptionError before anything is written."""
        sharing = self._fetch("read_sharing", {"branch": branch, "positions": list(positions)})
        source = PostgresBlocks(self._fetch)
        bodies = Bodies(self._cache, source)
        tainted: list[bytes | None] = []
        left: list[tuple[StoredBlock, Compressed | None]] = []
        done = -1
        for position in sorted(positions):
            found = None if position < done else source.block_at(branch, position)
            if found is None:
                continue
            block, content = found
            done = block.stop
            if content is None:
                tainted.append(block.object)
            else:
                left.append((block, self._left(bodies, block, content, positions)))

        def destroy() -> None:
            for (position,) in sharing:
                for name in SWEEP_SHARED:
                    self._write(name, {"branch": branch, "start": position, "stop": position + 1})
            for each in tainted:
                self._write("set_object", {"id": each, "state": "tainted"})
            for block, stored in left:
                self.write_left(block, stored)

        return destroy


# What destroys blocks of a range of a branch's own events, and what only these hold; in this order.
SWEEP_SHARED = ("taint_shared", "sweep_shared", "end_sharing")
SWEEP = ("taint_blocks", "sweep_blocks", *SWEEP_SHARED)


def _stored(stored: Compressed) -> dict[str, Any]:
    return {
        "plain": stored.plain,
        "size": len(stored.content),
        "checksum": stored.checksum,
        "content": stored.content,
    }
