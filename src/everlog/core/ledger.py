"""The ledger's records: what happened to sessions themselves, as canonical JSON (FORMAT §4).

1. A record is written as *pending* in the same transaction as what it records; sealing gives it its place in the tree.
2. The ledger is for ever, so names, titles and labels stand in it only as a commitment under a salt that `delete`
   destroys.
3. Members are in alphabetical order, so that msgspec's bytes are RFC 8785's.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from hmac import new as hmac

import msgspec

LEDGER_FORMAT = "everlog/1/ledger"

_encode = msgspec.json.Encoder().encode


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A session was made, or its name, title or labels changed."""

    commitment: str
    kind: str = "session"
    session: str
    t: int
    v: str = LEDGER_FORMAT


class CurrentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A session's current branch was moved to this one, at this head."""

    branch: str
    kind: str = "current"
    root: str
    session: str
    size: int
    t: int
    v: str = LEDGER_FORMAT


class EraseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Bodies were destroyed: for each, [position, leaf hash]. actor: an opaque id of who had it done, absent if not told."""

    actor: str | msgspec.UnsetType = msgspec.UNSET
    events: list[tuple[int, str]]
    kind: str = "erase"
    session: str
    t: int
    v: str = LEDGER_FORMAT


class DeleteRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A session ended; of its own branches only leaves are left. branches: [id, size, root] of each. actor: as of an erasure."""

    actor: str | msgspec.UnsetType = msgspec.UNSET
    branches: list[tuple[str, int, str]]
    kind: str = "delete"
    session: str
    t: int
    v: str = LEDGER_FORMAT


class HoldRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An event said what is held, or that something is held no more: [position, leaf hash] of it.

    What is held may be personal (a label, a name), so it stands in that event, which may be asked for its body.
    """

    event: tuple[int, str]
    held: bool
    kind: str = "hold"
    session: str
    t: int
    v: str = LEDGER_FORMAT


LedgerRecord = SessionRecord | CurrentRecord | EraseRecord | DeleteRecord | HoldRecord


def encode_record(record: LedgerRecord) -> bytes:
    """Give the canonical bytes of a record, the leaf's content in the ledger's tree."""
    return _encode(record)


def read_erase_record(record: bytes) -> EraseRecord | None:
    """Read a record that bodies were destroyed; None for a record of another kind or format."""
    try:
        read = msgspec.json.decode(record, type=EraseRecord)
    except msgspec.MsgspecError:
        return None
    return read if (read.v, read.kind) == (LEDGER_FORMAT, "erase") else None


def record_hash(record: bytes) -> bytes:
    """Give the hash of a record as a leaf of the ledger's tree."""
    return sha256(b"\x00" + record).digest()


def commit_session(salt: bytes, name: str, title: str | None, labels: Mapping[str, str]) -> str:
    """Give the hex commitment to what a session is called, under its salt of 32 random bytes."""
    message = _encode([name, title, sorted(labels.items())])
    return hmac(salt, b"everlog/1/session\x00" + message, "sha256").hexdigest()
