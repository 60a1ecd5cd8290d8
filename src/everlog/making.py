"""What a session is called: checked, without secrets, and as the request that makes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uuid_utils import uuid7

from everlog.core.decide import Batch
from everlog.core.labels import check_labels, check_title, encode_metadata
from everlog.core.position import check_session_id
from everlog.core.redact import Redactor
from everlog.storage import Base, Create, Family
from everlog.writer import Settings


def new_session(
    settings: Settings,
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
    made, draw = uuid7(), settings.draw
    session_id = made.hex
    name = str(made) if id is None else id
    if settings.redactor is not None:
        settings.redactor.refuse(name, "id")
    check_session_id(name)
    title, metadata = clean_words(settings.redactor, title, labels, metadata)
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


def clean_words(redactor: Redactor | None, title: Any, labels: Any, metadata: Any) -> tuple[Any, Any]:
    """Give a session's title and metadata without secrets. Labels are looked up by, so that those with one are refused: SecretError."""
    if redactor is None:
        return title, metadata
    for name, label in labels.items() if isinstance(labels, Mapping) else ():
        redactor.refuse(name, "the name of a label")
        redactor.refuse(label, f"label {name!r:.100}")
    return redactor.value(title, "title"), redactor.value(metadata, "metadata")


def clean_reason(redactor: Redactor | None, reason: str) -> str:
    """Give the reason for what is destroyed without secrets. Raises SecretError where they are refused."""
    return reason if redactor is None else redactor.value(reason, "reason")
