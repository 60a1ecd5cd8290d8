"""Snapshots in the SQLite file: reading chains and lists, putting and dropping."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from everlog.core.lineage import Lineage
from everlog.core.snapshot import KEYFRAME_EVERY, Snapshot
from everlog.stores.rows import snapshot_row
from everlog.stores.sqlite.run import fetch_all, fetch_one, run, run_many


def read_chain(connection: apsw.Connection, lineage: Lineage, size: int, fingerprint: bytes) -> list[Snapshot]:
    """Read the newest snapshot at or below a cut, behind those that it is a delta from."""
    chain: list[Snapshot] = []
    for segment in reversed(lineage.clip(0, size)):
        row = _read(connection, segment.branch, fingerprint, segment.start, segment.stop)
        if row is not None:
            chain.append(row)
            break
    while chain and chain[-1].base is not None and len(chain) < KEYFRAME_EVERY:
        branch, at = chain[-1].base
        row = _read(connection, branch, fingerprint, at - 1, at)
        if row is None:
            break
        chain.append(row)
    return chain[::-1]


def _read(connection: apsw.Connection, branch: int, fingerprint: bytes, start: int, stop: int) -> Snapshot | None:
    row = fetch_one(
        connection,
        "read_snapshot",
        {"branch": branch, "fingerprint": fingerprint, "start": start, "stop": stop},
    )
    return None if row is None else snapshot_row(row)


def list_snapshots(
    connection: apsw.Connection, branch: int | None, after: tuple[int, bytes, int], limit: int
) -> list[Snapshot]:
    """List snapshots without their contents, of which `plain` and the stored bytes stay to be seen."""
    query = "list_snapshots" if branch is None else "list_branch_snapshots"
    place = {"branch": after[0] if branch is None else branch, "fingerprint": after[1], "size": after[2]}
    return [snapshot_row(row) for row in fetch_all(connection, query, place | {"limit": limit})]


def put_snapshots(connection: apsw.Connection, snapshots: Sequence[Snapshot]) -> None:
    """Write snapshots, in the places of earlier ones."""
    run_many(
        connection,
        "put_snapshot",
        [
            {
                "branch": item.branch,
                "size": item.size,
                "reducer": item.reducer,
                "version": item.version,
                "fingerprint": item.fingerprint,
                "base_branch": None if item.base is None else item.base[0],
                "base_size": None if item.base is None else item.base[1],
                "depth": item.depth,
                "plain": item.plain,
                "notes": item.notes,
                "taken": item.taken,
                "content": item.content,
                "checksum": item.checksum,
            }
            for item in snapshots
        ],
    )


def drop_snapshots(connection: apsw.Connection, branches: Sequence[int] | None, reducer: str | None) -> int:
    """Drop snapshots of these branches (None for all) and this reducer (None for all); give how many."""
    before = connection.total_changes()
    if branches is None:
        run(connection, "drop_snapshots", {"reducer": reducer})
    else:
        run_many(connection, "drop_branch_snapshots", [{"branch": branch, "reducer": reducer} for branch in branches])
    return connection.total_changes() - before
