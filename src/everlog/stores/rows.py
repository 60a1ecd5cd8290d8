"""Rows as every store in SQL gives them, decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from everlog.core.decide import Tip
from everlog.core.merkle import split_digests
from everlog.core.snapshot import Snapshot
from everlog.errors import NotFoundError
from everlog.storage import BranchRow, Family, SessionRow

Row = Sequence[Any]

_decode_labels = msgspec.json.Decoder(dict[str, str]).decode


def session_row(row: Row) -> SessionRow:
    """Read the columns of a session."""
    key, id_, name, title, labels, metadata, current, parent, created, salt, family, key_salt = row
    return SessionRow(
        key,
        id_.hex(),
        name,
        title,
        _decode_labels(labels),
        metadata,
        current,
        parent,
        created,
        salt,
        Family(family.hex(), key_salt),
    )


def branch_row(row: Row) -> BranchRow:
    """Read the columns of a branch."""
    key, id_, session, number, writer, base, base_size, size, peaks, leaf, recorded, created = row
    return BranchRow(
        key, id_.hex(), session, number, writer.hex(), base, base_size, size, peaks, leaf, recorded, created
    )


def tip_of_branch(session: SessionRow, row: BranchRow | None) -> Tip:
    """Give the tip of one of a session's branches as it was read; NotFoundError where it is none of them."""
    if row is None or row.session != session.key:
        raise NotFoundError(f"session {session.name!r} has no such branch; nothing was written; see branches()")
    return Tip(
        session.key,
        session.id,
        session.name,
        row.key,
        row.id,
        row.writer,
        row.size,
        split_digests(row.peaks),
        row.leaf,
        row.recorded,
        session.family.key_salt,
    )


def snapshot_row(row: Row) -> Snapshot:
    """Read the columns of a snapshot: its content, or in its place the bytes that it takes."""
    (
        branch,
        size,
        reducer,
        version,
        fingerprint,
        base_branch,
        base_size,
        depth,
        plain,
        notes,
        taken,
        stored,
        checksum,
    ) = row
    base = None if base_branch is None else (base_branch, base_size)
    content, length = (b"", stored) if isinstance(stored, int) else (stored, len(stored))
    return Snapshot(
        branch, size, reducer, version, fingerprint, base, depth, plain, notes, taken, content, checksum, length
    )
