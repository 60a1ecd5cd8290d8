"""What a write transaction of a bucket locks, and which keys it looks for, told from its requests before it begins.

Sessions are locked first, in the order of their keys; the bucket's own row behind them, and only by what is about more than one session.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from everlog.cold import ColdRequest
from everlog.sealed import SealRequest
from everlog.storage import (
    Adopt,
    Append,
    Create,
    Delete,
    DropSnapshots,
    EndLease,
    Erase,
    PutSnapshots,
    Request,
    TakeLease,
    Update,
)
from everlog.stores.postgres.wire import Parameters

_HEAVY: Final = (Create, Delete, Erase, PutSnapshots, DropSnapshots)  # about more than one session, or none
_OfABucket = ColdRequest | SealRequest


def locks(bucket: int, ids: Sequence[str], branches: Sequence[int], *, heavy: bool) -> list[tuple[str, Parameters]]:
    """Give the queries that lock what requests are about, in the order that every transaction keeps."""
    asked: list[tuple[str, Parameters]] = []
    if branches:
        asked.append(("lock_owners", {"bucket": bucket, "branches": list(branches)}))
    if ids:
        asked.append(("lock_sessions", {"bucket": bucket, "ids": [bytes.fromhex(each) for each in ids]}))
    if heavy:
        asked.append(("lock_bucket", {"bucket": bucket}))
    return asked


def locked_by(requests: Sequence[Request]) -> tuple[list[str], list[int], bool]:
    """Give what requests lock: sessions by id, sessions by a branch that they own, and whether the bucket."""
    ids: dict[str, None] = {}
    branches: dict[int, None] = {}
    for request in requests:
        if isinstance(request, Adopt):
            branches[request.branch] = None
        elif isinstance(request, Create):
            if request.forked_from is not None:
                ids[request.forked_from] = None
        elif not isinstance(request, _OfABucket) and request.session_id is not None:
            ids[request.session_id] = None
    return list(ids), list(branches), any(isinstance(request, (*_HEAVY, _OfABucket)) for request in requests)


def keys_of(requests: Sequence[Request]) -> list[tuple[str, str]]:
    """Give the keys that requests on current branches bring, each with its session."""
    keyed: dict[tuple[str, str], None] = {}
    for request in requests:
        if isinstance(request, (Append, Update, TakeLease, EndLease)):
            keys = request.batch.keys()
            keyed.update(((request.session_id, key), None) for key in keys)
    return list(keyed)
