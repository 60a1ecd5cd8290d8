"""Cold bodies in SQLite: what is read of blocks, and what a write transaction does with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final, TypeVar

import apsw
import msgspec

from everlog.cold import (
    Archive,
    BringHome,
    Cold,
    Day,
    Dictionary,
    ForgetObject,
    GiveUpObject,
    NewBlock,
    ObjectRow,
    OpenObject,
    Pack,
    PackingRequest,
    PutDictionary,
    Shared,
    Sizes,
    StoredBlock,
)
from everlog.core import limits
from everlog.core.block import Compressed
from everlog.core.envelope import WrappedKey
from everlog.core.header import commit_body
from everlog.core.merkle import DIGEST_BYTES
from everlog.stores.blocks import PAGE_FETCHES_MAX, TWIG_LEAVES, BlockCache, Bodies, Fetched, stays
from everlog.stores.objects import Objects, ObjectStorage
from everlog.stores.sealed_bodies import Sealing
from everlog.stores.sqlite.connections import Connections, translate
from everlog.stores.sqlite.run import Row, fetch_all, fetch_each, fetch_one, fetch_row, run, run_many

T = TypeVar("T")
KEYS_AHEAD: Final = 64  # positions whose data keys are read at once
_INCREMENTAL: Final = 2  # SQLite's number for the way of vacuuming that stores are made with


class SqliteBlocks:
    """Implements everlog.stores.blocks.BlockSource on one connection."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._keys: dict[int, WrappedKey] = {}
        self._keys_at = (0, -1)  # whose they are: a branch, and which KEYS_AHEAD of its positions
        self._asked = 0  # the branch whose key was asked for last

    def block_at(self, branch: int, position: int) -> tuple[StoredBlock, bytes | None] | None:
        row = fetch_one(self._connection, "read_block_at", {"branch": branch, "position": position})
        return (
            None if row is None or (type(row[3]) is int and row[3] <= position) else (StoredBlock(*row[:-1]), row[-1])
        )

    def shared(self, branch: int, digest: bytes) -> tuple[StoredBlock, bytes | None] | None:  # noqa: ARG002
        row = fetch_one(self._connection, "read_shared", {"digest": digest})
        return None if row is None else (StoredBlock(*row[:-1]), row[-1])

    def dictionary(self, digest: bytes) -> bytes | None:
        row = fetch_one(self._connection, "read_dictionary", {"digest": digest})
        return None if row is None else row[0]

    def object(self, block: StoredBlock) -> ObjectRow | None:
        row = fetch_one(self._connection, "read_object", {"id": block.object})
        return None if row is None else ObjectRow(*row)

    def data_key(self, branch: int, position: int) -> WrappedKey | None:
        at = (branch, position // KEYS_AHEAD)
        if at != self._keys_at:
            # In a feed of many sessions the next event is another branch's, and what was read ahead would be of no use.
            ahead = branch == self._asked
            start, stop = (at[1] * KEYS_AHEAD, (at[1] + 1) * KEYS_AHEAD) if ahead else (position, position + 1)
            self._asked = branch
            rows = fetch_each(self._connection, "read_data_keys", {"branch": branch, "start": start, "stop": stop})
            keys = {row[0]: WrappedKey(row[1], row[2]) for row in rows}
            if not ahead:
                return keys.get(position)
            self._keys, self._keys_at = keys, at
        return self._keys.get(position)


def bodies(connection: apsw.Connection, cache: BlockCache, fetched: Fetched | None = None) -> Bodies:
    """Give what finds bodies that left their rows, for one read."""
    return Bodies(cache, SqliteBlocks(connection), fetched)


class SqliteCold(ObjectStorage):
    """Implements everlog.cold.ColdStorage on one file."""

    def __init__(self, connections: Connections, objects: Objects, sealing: Sealing) -> None:
        super().__init__(objects)
        self._connections = connections
        self._blocks = BlockCache(objects, sealing)

    def _reading(self, read: Callable[[apsw.Connection, Bodies], T]) -> T:
        """Read bodies, wherever they stand."""
        fetched = Fetched()

        def once() -> T:
            with self._connections.reader() as connection:
                found = read(connection, bodies(connection, self._blocks, fetched))
            fetched.check()
            return found

        return self._blocks.fetching(once, fetches_max=PAGE_FETCHES_MAX)

    def cold(self, after: int, limit: int) -> list[Cold]:
        with self._connections.reader() as connection:
            return list_cold(connection, after, limit)

    def dictionaries(self) -> list[Dictionary]:
        with self._connections.reader() as connection:
            return read_dictionaries(connection)

    def blocks(self, bucket: int, after: int, newest: int, session: int | None, limit: int) -> list[StoredBlock]:  # noqa: ARG002
        with self._connections.reader() as connection:
            return list_blocks(connection, after, newest, session, limit)

    def blocks_of(self, object: bytes) -> list[StoredBlock]:
        with self._connections.reader() as connection:
            return blocks_of(connection, object)

    def block_content(self, block: StoredBlock) -> bytes | None:
        with self._connections.reader() as connection:
            return block_content(connection, block)

    def objects(self, session: int | None = None) -> list[ObjectRow]:
        with self._connections.reader() as connection:
            return list_objects(connection, session)

    def kept_once(self, places: Sequence[tuple[int, int]]) -> list[tuple[bytes, int, int]]:
        given = {"places": msgspec.json.encode(places).decode()}
        with self._connections.reader() as connection:
            return [(row[0], row[1], row[2]) for row in fetch_all(connection, "count_holders", given)]

    def all_buckets(self) -> Sequence[int]:
        return (0,)

    def give_back(self, pages: int) -> int:
        with self._connections.writing:
            connection = self._connections.writer()
            if connection.pragma("auto_vacuum") != _INCREMENTAL:
                return 0
            turn = self._connections.turn()
            turn.take(limits.LOCK_SECONDS_MAX)
            try:
                connection.pragma("incremental_vacuum", pages)
                left: int = connection.pragma("freelist_count")
                if left == 0:
                    fetch_row(connection, "truncate_wal")  # the file shrinks when its log is copied into it
                else:
                    self._connections.keep_wal_short()
            except apsw.Error as error:
                raise translate(error, self._connections.path) from error
            finally:
                turn.release()
        return left

    def free(self) -> int:
        with self._connections.reader() as connection:
            return connection.pragma("freelist_count") * connection.pragma("page_size")

    def growth(self) -> list[Day]:
        with self._connections.reader() as connection:
            packed: dict[int, int] = dict(fetch_each(connection, "read_packed_growth"))
            rows = fetch_all(connection, "read_growth")
        return [Day(day, events, held + packed.get(day, 0)) for day, events, held in rows]

    def sizes(self) -> Sizes:
        with self._connections.reader() as connection:
            return read_sizes(connection)


# --- reading -------------------------------------------------------------------------------------
def list_cold(connection: apsw.Connection, after: int, limit: int) -> list[Cold]:
    """See ColdStorage.cold."""
    return [Cold(*row) for row in fetch_each(connection, "list_cold", {"after": after, "limit": limit})]


def read_dictionaries(connection: apsw.Connection) -> list[Dictionary]:
    """See ColdStorage.dictionaries."""
    return [Dictionary(*row) for row in fetch_each(connection, "read_dictionaries")]


def list_blocks(
    connection: apsw.Connection, after: int, newest: int, session: int | None, limit: int
) -> list[StoredBlock]:
    """See ColdStorage.blocks."""
    given: dict[str, Any] = {"after": after, "newest": newest, "limit": limit}
    if session is None:
        return [StoredBlock(*row) for row in fetch_each(connection, "list_blocks", given)]
    return [StoredBlock(*row) for row in fetch_each(connection, "list_session_blocks", given | {"session": session})]


def blocks_of(connection: apsw.Connection, object: bytes) -> list[StoredBlock]:
    """See ColdStorage.blocks_of."""
    return [StoredBlock(*row) for row in fetch_each(connection, "list_object_blocks", {"object": object})]


def block_content(connection: apsw.Connection, block: StoredBlock) -> bytes | None:
    """See ColdStorage.block_content."""
    row = fetch_one(connection, "read_block", {"block": block.key, "checksum": block.checksum})
    return None if row is None else row[0]


def list_objects(connection: apsw.Connection, session: int | None) -> list[ObjectRow]:
    """See ColdStorage.objects."""
    if session is None:
        return [ObjectRow(*row) for row in fetch_each(connection, "list_objects")]
    return [ObjectRow(*row) for row in fetch_each(connection, "list_session_objects", {"session": session})]


def read_sizes(connection: apsw.Connection) -> Sizes:
    """See ColdStorage.sizes."""
    page_bytes, pages, free = (connection.pragma(name) for name in ("page_size", "page_count", "freelist_count"))
    events, sessions, hot, packed, packed_plain, shared, shared_plain, archived, blocks, objects = fetch_row(
        connection, "read_sizes"
    )
    return Sizes(
        events=events,
        sessions=sessions,
        file=page_bytes * pages,
        free=page_bytes * free,
        hot=hot,
        packed=packed,
        packed_plain=packed_plain,
        shared=shared,
        shared_plain=shared_plain,
        archived=archived,
        blocks=blocks,
        objects=objects,
    )


# --- writing -------------------------------------------------------------------------------------
class ColdWriter:
    """What a write transaction does with blocks. now: microseconds."""

    def __init__(self, connection: apsw.Connection, cache: BlockCache, *, now: int) -> None:
        self._connection = connection
        self._cache = cache
        self._now = now

    def carry_out(self, request: PackingRequest, erasures: int) -> int:
        """Carry out a request; give what its receipt counts. erasures: the number that the store has now."""
        match request:
            case Pack():
                return self._pack(request) if request.erasures == erasures else 0
            case PutDictionary(digest, kind, content):
                row = {"digest": digest, "kind": kind, "made": self._now, "content": content}
                run(self._connection, "insert_dictionary", row)
                return 1
            case OpenObject(row):
                columns = {name: getattr(row, name) for name in row.__struct_fields__ if name != "bucket"}
                run(self._connection, "insert_object", columns)
                return 1
            case Archive():
                return self._archive(request)
            case BringHome():
                return self._bring_home(request)
            case GiveUpObject():
                run(self._connection, "give_up_object", {"id": request.object})
                return self._connection.changes()
            case ForgetObject():
                run(self._connection, "delete_object", {"id": request.object})
                return self._connection.changes()

    def _pack(self, request: Pack) -> int:
        row = fetch_one(self._connection, "read_packed", {"branch": request.branch})
        if row is None or row[0] != request.start or row[1] < request.stop:
            return 0
        newest = max((block.newest for block in request.blocks), default=0)
        for shared in request.shared:
            self._mend(shared)
            self._insert(None, shared, newest)
        sharing = {(position, digest) for position, _, digest in request.attachments}
        for block in request.blocks:
            if block.positions:
                self._insert(request.branch, block, block.newest)
            sharing.update(block.sharing)
        branch = request.branch
        self._empty_rows(request)
        run_many(
            self._connection,
            "empty_attachment",
            [
                {"digest": digest, "branch": branch, "position": position, "number": number}
                for position, number, digest in request.attachments
            ],
        )
        run_many(self._connection, "insert_sharing", [(branch, *each) for each in sorted(sharing)])
        run(self._connection, "set_packed", {"branch": branch, "packed": request.stop})
        return request.stop - request.start

    def _mend(self, new: Shared) -> None:
        """Write what is kept once again where it was damaged: the events of this request are about to rely on it."""
        found = fetch_one(self._connection, "read_shared", {"digest": new.digest})
        if found is None or found[-1] is None:
            return
        block = StoredBlock(*found[:-1])
        if type(found[-1]) is not bytes or sha256(found[-1]).digest() != block.checksum:
            self.write_left(block, new.stored)

    def _empty_rows(self, request: Pack) -> None:
        """Write the rows of packed events again, without bodies and salts."""
        at = {"branch": request.branch, "start": request.start, "stop": request.stop}
        rows = [row for row in fetch_all(self._connection, "read_range", at) if row[2] not in request.left]
        packed = {position for block in request.blocks for position in block.positions}
        assert packed == {row[2] for row in rows}, "nothing was erased since, so each row with a body is in a block"
        start = request.start
        for stop in (*request.left, request.stop):
            run(self._connection, "delete_range", {"branch": request.branch, "start": start, "stop": stop})
            start = stop + 1
        # What can be made again leaves too: the commitment, from body and salt, where it is the only one and they are not encrypted;
        # nodes, from leaves that are not damaged.
        broken = [
            at
            for (at,) in fetch_each(self._connection, "read_broken_leaves", at | {"start": at["start"] - TWIG_LEAVES})
        ]
        left = [
            (
                *row[:15],
                None if len(row[15]) == DIGEST_BYTES and row[18] else row[15],
                row[16],
                _staying(row[2], row[17], broken),
            )
            for row in rows
        ]
        run_many(self._connection, "insert_range", left)

    def _insert(self, branch: int | None, new: NewBlock | Shared, newest: int) -> None:
        is_block = isinstance(new, NewBlock)
        run(
            self._connection,
            "insert_block",
            {
                "branch": branch,
                "start": new.start if is_block else 0,
                "stop": new.stop if is_block else 0,
                "digest": None if is_block else new.digest,
                "kind": new.kind if is_block else None,
                "newest": newest,
                "dictionary": new.dictionary if is_block else None,
                "plain": new.stored.plain,
                "size": len(new.stored.content),
                "checksum": new.stored.checksum,
                "content": new.stored.content,
            },
        )

    def _archive(self, request: Archive) -> int:
        row = fetch_one(self._connection, "read_object", {"id": request.object})
        if row is None or ObjectRow(*row).state != "writing":
            return 0  # another process took it for abandoned, and removes it
        leaving: list[Row] = []
        for block, checksum, place in request.places:
            at = {"block": block, "checksum": checksum, "object": request.object, "place": place}
            leaving += fetch_all(self._connection, "read_leaving", at)
        run_many(self._connection, "delete_block", [{"block": row[0]} for row in leaving])
        run_many(self._connection, "insert_archived", leaving)
        state = "kept" if len(leaving) == len(request.places) else "tainted"
        run(self._connection, "set_object", {"id": request.object, "state": state})
        return len(leaving)

    def _bring_home(self, request: BringHome) -> int:
        if fetch_one(self._connection, "read_object", {"id": request.object}) is None:
            return 0  # another process was quicker
        found = bodies(self._connection, self._cache)
        left: list[tuple[StoredBlock, Compressed | None]] = []
        for block in blocks_of(self._connection, request.object):
            assert block.place is not None, "an archived block has a place"
            content = found.checked(block, request.contents[block.place : block.place + block.size])
            left.append((block, self._left(found, block, content)))
        for block, stored in left:
            self.write_left(block, stored)
        run(self._connection, "set_object", {"id": request.object, "state": "leaving"})
        return len(left)

    def _left(self, found: Bodies, block: StoredBlock, content: bytes) -> Compressed | None:
        """Give what is left of a block without the bodies of events that are gone; None where that is nothing."""
        if block.branch is not None:
            at = {"branch": block.branch, "start": block.start, "stop": block.stop}
            gone = {position for (position,) in fetch_all(self._connection, "read_gone", at)}
            if gone and any(position in gone for position in found.entries(block, content)):
                return found.without(block, content, gone)
        return Compressed(content, block.checksum, block.plain)

    def write_left(self, block: StoredBlock, stored: Compressed | None) -> None:
        """Put what is left of a block in its place; None for nothing."""
        if stored is None:
            run(self._connection, "delete_block", {"block": block.key})
            return
        run(
            self._connection,
            "write_block",
            {
                "block": block.key,
                "plain": stored.plain,
                "size": len(stored.content),
                "checksum": stored.checksum,
                "content": stored.content,
            },
        )

    # --- destroying ---
    def commitments(self, branch: int, position: int, stored: bytes | None) -> bytes | None:
        """Give the commitments that stay for a body that is to be destroyed: as stored, or made from the body that left its row.

        Raises AwayError, and CorruptionError where the body's block cannot be written again without it.
        """
        found = bodies(self._connection, self._cache)
        if stored is not None:
            at = SqliteBlocks(self._connection).block_at(branch, position)
            if at is not None and at[1] is not None:
                found.entries(*at)
            return stored
        body = found.find(branch, position)
        return None if body is None else commit_body(body[1], body[0])

    def erase(self, branch: int, positions: Sequence[int]) -> None:
        """Destroy what blocks hold of a branch's own events, whose rows say already that they are gone."""
        found = bodies(self._connection, self._cache)
        source = SqliteBlocks(self._connection)
        done = -1
        for position in sorted(positions):
            self.end_sharing(branch, position, position + 1)
            at = None if position < done else source.block_at(branch, position)
            if at is None:
                continue
            block, content = at
            done = block.stop
            if content is None:
                self._taint(block.object)
            else:
                self.write_left(block, self._left(found, block, content))

    def sweep(self, branch: int, start: int, stop: int) -> None:
        """Destroy the blocks of a deleted session's own events that begin in a range, and what only these events hold."""
        self.end_sharing(branch, start, stop)
        at = {"branch": branch, "start": start, "stop": stop}
        for row in fetch_all(self._connection, "read_blocks_between", at):
            self._destroy(StoredBlock(*row[:-1]))

    def end_sharing(self, branch: int, start: int, stop: int) -> None:
        """Destroy what is kept once for a branch's own events in a range, and for no others."""
        at = {"branch": branch, "start": start, "stop": stop}
        for digest in {digest for (digest,) in fetch_all(self._connection, "end_sharing", at)}:
            if fetch_one(self._connection, "is_shared", {"digest": digest}) is None:
                found = fetch_one(self._connection, "read_shared", {"digest": digest})
                if found is not None:
                    self._destroy(StoredBlock(*found[:-1]))

    def _destroy(self, block: StoredBlock) -> None:
        self._taint(block.object)
        run(self._connection, "delete_block", {"block": block.key})

    def _taint(self, object: bytes | None) -> None:
        if object is not None:
            run(self._connection, "set_object", {"id": object, "state": "tainted"})


def _staying(position: int, nodes: bytes, broken: Sequence[int]) -> bytes:
    """Give what stays in a row of its nodes. broken: positions of damaged leaves, which no node over them can be made of again."""
    stop = position + 1
    first = stop - (stop & -stop)  # that its highest node is over
    return nodes if any(first <= at < stop for at in broken) else stays(nodes)
