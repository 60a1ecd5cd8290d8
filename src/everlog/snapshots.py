"""Snapshots as people see them: listed, dropped, taken anew. No answer needs one; they make answers quick."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from everlog.core.snapshot import Snapshot
from everlog.errors import NotFoundError, ReducerError
from everlog.reader import View
from everlog.rebuild import Builder, SnapshotPolicy
from everlog.reducers.registry import Reducer, find_reducer
from everlog.storage import DropSnapshots, Storage

_PAGE = 1_000
_START = (-1, b"", 0)


class SnapshotInfo(msgspec.Struct, frozen=True):
    """A snapshot. size: the cut. current: whether the reducer's code as it is now reads it.

    keyframe: whether it stands alone. state_bytes: of the state's JSON; stored_bytes: what it takes. taken_at: microseconds.
    """

    session: str
    branch: str
    size: int
    reducer: str
    version: str
    current: bool
    keyframe: bool
    state_bytes: int
    stored_bytes: int
    taken_at: int


def list_snapshots(storage: Storage, session_id: str | None) -> Iterator[SnapshotInfo]:
    """Iterate the snapshots of one session's branches (its internal id), or of all, by branch, code and cut."""
    if session_id is None:
        yield from _infos(storage, None)
        return
    for branch in storage.branches(storage.session_by_id(session_id).key):
        yield from _infos(storage, branch.key)


def _infos(storage: Storage, branch: int | None) -> Iterator[SnapshotInfo]:
    names: dict[int, tuple[str, str]] = {}
    after = _START
    while page := storage.snapshots(branch, after, _PAGE):
        for row in page:
            if row.branch not in names:
                names[row.branch] = _names(storage, row.branch)
            yield _info(row, *names[row.branch])
        after = (page[-1].branch, page[-1].fingerprint, page[-1].size)


def _names(storage: Storage, branch: int) -> tuple[str, str]:
    try:
        session = storage.session_of(branch).name
    except NotFoundError:
        session = ""
    return session, f"b{storage.branch(branch).number}"


def _info(row: Snapshot, session: str, branch: str) -> SnapshotInfo:
    try:
        current = find_reducer(row.reducer).fingerprint() == row.fingerprint
    except ReducerError:
        current = False
    return SnapshotInfo(
        session,
        branch,
        row.size,
        row.reducer,
        row.version,
        current,
        row.base is None,
        row.plain,
        row.stored,
        row.taken,
    )


def drop_snapshots(storage: Storage, session_id: str | None, reducer: str | None) -> int:
    """Drop snapshots of a session or of all, of a reducer or of all; give how many."""
    return storage.write(DropSnapshots(session_id, reducer)).count


def rebuild_snapshots(
    storage: Storage, session_id: str, reducers: Sequence[str | Reducer], policy: SnapshotPolicy
) -> int:
    """Drop a session's snapshots of some reducers, fold each of its branches anew, and give how many were taken."""
    session = storage.session_by_id(session_id)
    chosen = [find_reducer(reducer) for reducer in reducers]
    for reducer in chosen:
        drop_snapshots(storage, session_id, reducer.name)
        for branch in storage.branches(session.key):
            view = View(branch, storage.lineage(branch.key, session.name))
            Builder(storage, view, reducer, taking=policy).build(branch.size)
    names = {reducer.name for reducer in chosen}
    return sum(info.reducer in names for info in list_snapshots(storage, session_id))
