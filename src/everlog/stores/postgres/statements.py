"""The statements of one store: the named queries, with its schema and the columns that several of them give."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from everlog.core.lease import LeaseRow
from everlog.core.lineage import Lineage, flatten
from everlog.errors import NotFoundError, UnsupportedStoreError
from everlog.stores.migrate import load_migrations
from everlog.stores.queries import load_queries
from everlog.stores.rows import Row

BUCKET_BITS: Final = 53  # of a key, below those of its bucket
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}", re.ASCII)
_PACKAGE: Final = "everlog.stores.postgres"

EVENT: Final = (
    "e.position, e.type, e.actor, e.outcome, e.recorded, e.occurred, e.cause, e.key, e.gone, e.attached, e.leaf, e.body"
)
SESSION: Final = "s.session, s.id, s.name, s.title, s.labels, s.metadata, s.current, s.parent, s.created, s.salt, s.family, s.key_salt"
BRANCH: Final = (
    "b.branch, b.id, b.session, b.number, b.writer, b.base, b.base_size, t.size, t.peaks, t.leaf, t.recorded, b.created"
)
LEASE: Final = "l.number, l.nonce, l.holder, l.boot, l.until, l.ttl, l.taken, l.floor"
_FRAGMENTS: Final = {
    "event": EVENT,
    "session": SESSION,
    "branch": BRANCH,
    "lease": LEASE,
    "block": "k.block, k.branch, k.start, k.stop, k.newest, k.dictionary, k.plain, k.size, k.checksum, k.object, k.place",
    "object": "o.id, o.bucket, o.url, o.name, o.size, o.checksum, o.state, o.made",
    "snapshot": "n.branch, n.size, n.reducer, n.version, n.fingerprint, n.base_branch, n.base_size, n.depth, n.plain, n.notes, n.taken",
}
SESSION_COLUMNS: Final = 12
BRANCH_COLUMNS: Final = 12


def check_schema(name: str) -> str:
    """Refuse what is no plain name of a schema."""
    if _SCHEMA.fullmatch(name) is None or name.startswith("pg_"):
        raise UnsupportedStoreError(
            f"schema {name!r:.80} is not 1 to 63 of a-z, 0-9 and _, beginning with a letter; nothing was opened; choose another"
        )
    return name


class Statements(Mapping[str, bytes]):
    """Named queries of one of this package's files, as they are sent."""

    def __init__(self, schema: str, file: str = "queries.sql") -> None:
        self.schema = check_schema(schema)
        self._texts = load_queries(_PACKAGE, file)
        self._queries = {name: self.filled(query) for name, query in self._texts.items() if "{table}" not in query}

    def filled(self, query: str) -> bytes:
        """Put the store's schema and the named columns into a query that is put together from this package's own fragments."""
        return query.format(schema=self.schema, **_FRAGMENTS).encode()

    def about(self, name: str, table: str) -> bytes:
        """Give a named query about one of the schema's tables."""
        return self._texts[name].format(schema=self.schema, table=f"{self.schema}.{check_schema(table)}").encode()

    def migrations(self) -> list[tuple[int, bytes]]:
        """Give the migrations: number and script."""
        return [
            (number, script.replace("{schema}", self.schema).encode()) for number, script in load_migrations(_PACKAGE)
        ]

    def __getitem__(self, name: str) -> bytes:
        return self._queries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._queries)

    def __len__(self) -> int:
        return len(self._queries)


def bucket_of(key: int) -> int:
    """Give the bucket of a session, branch or ledger entry."""
    return key >> BUCKET_BITS


def lease_row(row: Row) -> LeaseRow | None:
    """Read the columns of a lease, which are all NULL where there is none."""
    return None if row[0] is None else LeaseRow(*row)


def lineage_of(chain: Sequence[Row], session: str) -> Lineage:
    """Flatten a branch's chain of bases, as read_chain gives it."""
    if not chain:
        raise NotFoundError("there is no such branch in this store")
    segments = flatten([(key, writer.hex(), base_size) for key, _, writer, base_size in chain])
    return Lineage(chain[0][0], chain[0][1].hex(), session, segments)
