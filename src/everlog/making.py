"""Making a session: what it is called is checked, its ids are drawn, and the request that makes it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uuid_utils import uuid7

from everlog.core.decide import Batch
from everlog.core.labels import check_labels, check_title, encode_metadata
from everlog.core.position import check_session_id
from everlog.core.prepare import Draw
from everlog.storage import Base, Create, Family


def new_session(
    draw: Draw,
    *,
    id: str | None,
    title: str | None,
    labels: Mapping[str, str] | None,
    metadata: Mapping[str, Any] | None,
    family: Family,
    base: Base | None,
    forked_from: str | None,
    batch: Batch,
    parent: bytes | None = None,
) -> Create:
    """Check what a new session is called, and give the request that makes it."""
    made = uuid7()
    session_id = made.hex
    name = str(made) if id is None else id
    check_session_id(name)
    branch_id = draw(16).hex()
    return Create(
        session_id,
        name,
        check_title(title),
        check_labels(labels or {}),
        encode_metadata(metadata),
        parent,
        draw(32),
        family,
        branch_id,
        branch_id,
        base,
        forked_from,
        batch,
    )
