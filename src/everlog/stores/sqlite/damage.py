"""Damage: bytes of the file that changed without the store, where no event's hash would tell.

1. Tables and indexes must agree, page by page: SQLite looks.
2. What stands in the rows of sessions, branches and leases beside the events has a checksum, written with the row. It is no
   proof, since whoever can write the file can write a checksum: hashes and seals are that.
3. A dictionary is known by its hash. What blocks hold is compared as the events are verified.
4. Labels stand twice, in the session's row and in a table of their own for listing.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import apsw
import msgspec

from everlog.core.block import dictionary_digest
from everlog.stores.sqlite.run import Row, fetch_each

_CHECKSUM_BYTES = 16


def checksum_of(row: Row) -> bytes:
    """Give the checksum of what a row says."""
    return sha256(msgspec.json.encode(row)).digest()[:_CHECKSUM_BYTES]


def find_damage(connection: apsw.Connection) -> Iterator[str]:
    """Give what is damaged, in words; a thing at a time, as the file is read."""
    for (what,) in fetch_each(connection, "check_integrity"):
        if what != "ok":
            yield f"the file is damaged: {what}"
    for number, checksum, *row in fetch_each(connection, "read_session_sums"):
        if checksum is not None and checksum != checksum_of(tuple(row)):
            yield (
                f"session {row[1]!r:.250} (row {number}): its name, title, labels, metadata, parent, times or current branch "
                "are not what was written"
            )
    for number, checksum, *row in fetch_each(connection, "read_branch_sums"):
        if checksum is not None and checksum != checksum_of(tuple(row)):
            yield f"branch {bytes(row[0]).hex():.8} (row {number}): its id, session, number, base or time is not what was written"
    for checksum, *row in fetch_each(connection, "read_lease_sums"):
        if checksum != checksum_of(tuple(row)):
            yield f"the lease of the session in row {row[0]} is not what was written"
    for digest, kind, content in fetch_each(connection, "read_dictionary_sums"):
        if dictionary_digest(content) != digest:
            yield f"the dictionary {digest.hex()} of blocks of {kind!r:.128} is not what was written"
    for name, value, session in fetch_each(connection, "read_label_damage"):
        yield f"label {name!r:.100} = {value!r:.100} of the session in row {session} stands in one of its two places only"
    for size, digest, note in fetch_each(connection, "read_seal_sums"):
        if digest != sha256(bytes(note)).digest():
            yield f"the seal of {size} records is not what was written"
