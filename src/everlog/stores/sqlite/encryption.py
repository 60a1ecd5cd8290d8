"""Encryption in SQLite: which keys wrap data keys, data keys wrapped anew, and bodies sealed that were written before."""

from __future__ import annotations

from collections.abc import Mapping

import apsw
import msgspec

from everlog.cold import StoredBlock
from everlog.core.block import BLOCK_EVENTS
from everlog.core.decide import EventRow, damaged_event, damaged_in
from everlog.core.event import PreparedAttachment
from everlog.encrypted import EncryptionRequest, ForgetKey, Rewrap, SealBodies, StoredKey, TakeKey, WrappingRow
from everlog.errors import KeyNeededError, UnavailableError
from everlog.stores.blocks import BlockCache, Bodies
from everlog.stores.sqlite.cold import ColdWriter, SqliteBlocks, bodies
from everlog.stores.sqlite.connections import Connections
from everlog.stores.sqlite.run import fetch_all, fetch_each, fetch_one, fetch_row, run, run_many
from everlog.stores.sqlite.snapshots import drop_snapshots


class SqliteEncryption:
    """Implements everlog.encrypted.EncryptedStorage on one file."""

    _connections: Connections

    def wrapping_keys(self) -> list[WrappingRow]:
        with self._connections.reader() as connection:
            return [WrappingRow(0, *row) for row in fetch_each(connection, "read_wrapping_keys")]

    def plain_bodies(self) -> int:
        with self._connections.reader() as connection:
            return fetch_row(connection, "count_plain")[0]

    def data_keys(self, bucket: int, wrapping: bytes, after: tuple[int, int], limit: int) -> list[StoredKey]:  # noqa: ARG002
        given = {"wrapping": wrapping, "branch": after[0], "position": after[1], "limit": limit}
        with self._connections.reader() as connection:
            return [StoredKey(*row) for row in fetch_each(connection, "list_data_keys", given)]


class EncryptionWriter:
    """What a write transaction does about encryption. now: microseconds."""

    def __init__(self, connection: apsw.Connection, cache: BlockCache, *, now: int) -> None:
        self._connection = connection
        self._cache = cache
        self._now = now

    def carry_out(self, request: EncryptionRequest, current: bytes | None) -> int:
        """Carry out a request; give what its receipt counts. current: id of the key that data keys are wrapped with."""
        match request:
            case TakeKey():
                return self._take(request)
            case Rewrap():
                if request.id != current:
                    raise KeyNeededError(
                        "the store encrypts with another key by now; nothing was written; open it with that key: encrypt=, or EVERLOG_ENCRYPT"
                    )
                before = self._connection.total_changes()
                about = {"wrapping": request.id, "retired": request.retired}
                rows = [about | msgspec.structs.asdict(each) for each in request.keys]
                run_many(self._connection, "rewrap_data_key", rows)
                return self._connection.total_changes() - before
            case ForgetKey():
                run(self._connection, "forget_wrapping_key", {"id": request.id})
                return self._connection.changes()
            case SealBodies():
                assert current is not None, "only what encrypts is asked to seal"
                return self._seal(request, current)

    def _take(self, request: TakeKey) -> int:
        known = [WrappingRow(0, *row) for row in fetch_all(self._connection, "read_wrapping_keys")]
        if known and (request.first or (known[0].id == request.id and known[0].retired is None)):
            return 0
        run(self._connection, "insert_wrapping_key", {"id": request.id, "made": self._now})
        run(self._connection, "retire_wrapping_keys", {"id": request.id, "now": self._now})
        if not known:
            drop_snapshots(self._connection, None, None)
        return 1

    # --- bodies that were written before ---
    def _seal(self, request: SealBodies, current: bytes) -> int:
        """Seal a page: a block, or the rows before the next one."""
        branch, start = request.branch, request.start
        at = SqliteBlocks(self._connection).block_at(branch, start)
        if at is not None and at[1] is None:
            raise UnavailableError(
                "bodies were archived meanwhile, and are encrypted only in the store; what was encrypted stays so; restore them, and "
                "encrypt again"
            )
        if at is not None:
            stop = at[0].stop
        else:
            span = {"branch": branch, "start": start, "stop": request.stop}
            following = fetch_one(self._connection, "read_blocks_between", span)
            stop = min(request.stop, start + BLOCK_EVENTS, request.stop if following is None else following[2])
        found = bodies(self._connection, self._cache)
        wholes: dict[int, EventRow] = {}
        for columns in fetch_all(self._connection, "read_rows", {"branch": branch, "start": start, "stop": stop}):
            row = EventRow(*columns)
            whole = found.whole(branch, row, as_stored=True)
            column = damaged_in(whole) if whole.gone is None else None
            if column is not None:
                session = fetch_row(self._connection, "read_session_of", {"branch": branch})[2]
                raise damaged_event(session, row.position, f"its {column} cannot be what was written")
            if whole.gone is None and whole.salt is not None:
                wholes[row.position] = self._seal_event(found, branch, whole, current, in_row=row.body is not None)
        if wholes and at is not None:
            self._write_block(found, *at, wholes)
        return stop - start

    def _seal_event(self, found: Bodies, branch: int, row: EventRow, current: bytes, *, in_row: bool) -> EventRow:
        """Seal an event's body and attachments; give its row."""
        at = {"branch": branch, "position": row.position}
        items: list[PreparedAttachment] = []
        for name, size, salt, content, digest, _ in fetch_all(self._connection, "read_attachments", at):
            kept = content if digest is None else found.shared(branch, digest)
            items.append(PreparedAttachment(name, size, salt, kept))
        sealed, attachments, key = self._cache.sealing.seal(row, items, current)
        assert key is not None, "there is a body"
        body = sealed.body if in_row else None
        run(self._connection, "seal_event", {**at, "body": body, "commitments": sealed.commitments})
        for number, item in enumerate(attachments):
            run(self._connection, "seal_attachment", {**at, "number": number, "content": item.content})
        run_many(self._connection, "insert_data_key", [(branch, row.position, key.wrapping, key.wrapped)])
        return sealed

    def _write_block(
        self, found: Bodies, block: StoredBlock, content: bytes | None, sealed: Mapping[int, EventRow]
    ) -> None:
        """Write a block again with sealed bodies, and let go of what these kept once."""
        writer = ColdWriter(self._connection, self._cache, now=self._now)
        writer.write_left(block, found.exchanged(block, content, {at: row.body or b"" for at, row in sealed.items()}))
        writer.end_sharing(block.branch or 0, block.start, block.stop)
