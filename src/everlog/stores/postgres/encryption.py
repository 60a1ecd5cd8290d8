"""Encryption in PostgreSQL: which keys wrap data keys, data keys wrapped anew, and bodies sealed that were written before.

Whoever exchanges a wrapping key or seals holds the bucket's row. Whoever appends writes data keys behind that row's counter, with the
current key as it is then: an append that was under way with the one before fails, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from everlog.cold import StoredBlock
from everlog.core.block import BLOCK_EVENTS
from everlog.core.decide import EventRow
from everlog.core.event import PreparedAttachment
from everlog.encrypted import EncryptionRequest, ForgetKey, Rewrap, SealBodies, StoredKey, TakeKey, WrappingRow
from everlog.errors import UnavailableError
from everlog.stores.blocks import BlockCache, Bodies
from everlog.stores.postgres.cold import SWEEP_SHARED, ColdWriter, Fetch, PostgresBlocks
from everlog.stores.postgres.connections import Connections


class PostgresEncryption:
    """Implements everlog.encrypted.EncryptedStorage."""

    connections: Connections

    def wrapping_keys(self) -> list[WrappingRow]:
        return [WrappingRow(*row) for row in self.connections.fetch_all("list_wrapping_keys")]

    def remove_traces(self) -> None:
        pass  # old rows stay until the server cleans them up

    def plain_bodies(self) -> int:
        return self.connections.fetch_all("count_plain")[0][0]

    def data_keys(self, bucket: int, wrapping: bytes, after: tuple[int, int], limit: int) -> list[StoredKey]:
        given = {"bucket": bucket, "wrapping": wrapping, "branch": after[0], "position": after[1], "limit": limit}
        return [StoredKey(*row) for row in self.connections.fetch_all("list_data_keys", given)]


class EncryptionWriter:
    """What a write transaction of a bucket, whose row it holds, does about encryption; as `ColdWriter`."""

    def __init__(
        self,
        cache: BlockCache,
        fetch: Fetch,
        write: Callable[[str, dict[str, Any]], None],
        cold: ColdWriter,
        *,
        now: int,
    ) -> None:
        self._cache = cache
        self._fetch = fetch
        self._write = write
        self._cold = cold
        self._now = now

    def carry_out(self, request: EncryptionRequest, current: bytes | None) -> int:
        """Carry out a request; give what its receipt counts. current: id of the key that data keys are wrapped with."""
        match request:
            case TakeKey():
                return self._take(request)
            case Rewrap():
                keys = request.keys
                given = {
                    "retired": request.retired,
                    "wrapping": request.id,
                    "branches": [each.branch for each in keys],
                    "positions": [each.position for each in keys],
                    "wrapped": [each.wrapped for each in keys],
                }
                return len(self._fetch("rewrap_data_keys", given))
            case ForgetKey():
                return len(self._fetch("forget_wrapping_key", {"id": request.id}))
            case SealBodies():
                assert current is not None, "only what encrypts is asked to seal"
                return self._seal(request, current)

    def _take(self, request: TakeKey) -> int:
        known = [WrappingRow(*row) for row in self._fetch("read_wrapping_keys", {})]
        if known and (request.first or (known[0].id == request.id and known[0].retired is None)):
            return 0
        if known:
            self._write("retire_wrapping_keys", {"now": self._now})
        if any(row.id == request.id for row in known):
            self._write("renew_wrapping_key", {"id": request.id})
        else:
            self._write("insert_wrapping_key", {"id": request.id, "made": self._now})
        if not known:
            self._write("drop_snapshots", {"branches": None, "reducer": None})
            self._write("raise_erasures", {})
        return 1

    # --- bodies that were written before ---
    def _seal(self, request: SealBodies, current: bytes) -> int:
        """Seal a page: a block, or the rows before the next one."""
        branch, start = request.branch, request.start
        source = PostgresBlocks(self._fetch)
        at = source.block_at(branch, start)
        if at is not None and at[1] is None:
            raise UnavailableError(
                "bodies were archived meanwhile, and are encrypted only in the store; what was encrypted stays so; restore them, and "
                "encrypt again"
            )
        if at is not None:
            stop = at[0].stop
        else:
            stop = min(request.stop, start + BLOCK_EVENTS)
            following = source.over(branch, start, stop)
            stop = min([stop, *(block.start for block, _ in following)])
        bounds = {"branches": [branch], "starts": [start], "stops": [stop], "bytes": 2**62}
        found = Bodies(self._cache, source)
        sealed: dict[int, EventRow] = {}
        for columns in self._fetch("read_rows", bounds):
            row = EventRow(*columns)
            whole = found.whole(branch, row, as_stored=True)
            if whole.gone is None and whole.salt is not None:
                sealed[row.position] = self._seal_event(found, branch, whole, current, in_row=row.body is not None)
        if sealed:
            places = {"branches": [branch] * len(sealed), "positions": list(sealed)}
            self._write("unindex_words", places)
            self._write("raise_erasures", {})
        if sealed and at is not None:
            self._write_block(found, *at, sealed)
        return stop - start

    def _seal_event(self, found: Bodies, branch: int, row: EventRow, current: bytes, *, in_row: bool) -> EventRow:
        """Seal an event's body and attachments; give its row."""
        at = {"branch": branch, "position": row.position}
        items: list[PreparedAttachment] = []
        for name, size, salt, content, digest, _ in self._fetch("read_attachments", at) if row.attached else ():
            kept = content if digest is None else found.shared(branch, digest)
            items.append(PreparedAttachment(name, size, salt, kept))
        sealed, attachments, key = self._cache.sealing.seal(row, items, current)
        assert key is not None, "there is a body"
        self._write("seal_event", {**at, "body": sealed.body if in_row else None})
        for number, item in enumerate(attachments):
            self._write("seal_attachment", {**at, "number": number, "content": item.content})
        keys = {"branches": [branch], "positions": [row.position], "wrapped": [key.wrapped]}
        self._write("insert_data_keys", {"wrapping": key.wrapping, **keys})
        return sealed

    def _write_block(
        self, found: Bodies, block: StoredBlock, content: bytes | None, sealed: Mapping[int, EventRow]
    ) -> None:
        """Write a block again with sealed bodies, and let go of what these kept once."""
        exchanged = found.exchanged(block, content, {at: row.body or b"" for at, row in sealed.items()})
        self._cold.write_left(block, exchanged)
        for name in SWEEP_SHARED:
            self._write(name, {"branch": block.branch, "start": block.start, "stop": block.stop})
