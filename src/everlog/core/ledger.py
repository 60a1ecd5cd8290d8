"""The ledger's records: what happened to sessions themselves, as canonical JSON (FORMAT §4).

1. A record is written as *pending* in the same transaction as what it records; sealing gives it its place in the tree. Records of
   heads and of keys are the sealer's own, and have one at once.
2. The ledger is for ever, so names, titles and labels stand in it only as a commitment under a salt that `delete`
   destroys.
3. Members are in alphabetical order, so that msgspec's bytes are RFC 8785's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hmac import new as hmac
from typing import Final, Literal, TypeVar

import msgspec

from everlog.core.event import Head
from everlog.core.merkle import leaf_hash

LEDGER_FORMAT = "everlog/1/ledger"

_HASH: Final = re.compile(r"[0-9a-f]{64}")
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


class HeadRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A branch had this head. base, base_size: of what it shares with the branch below it, where there is one."""

    base: str | msgspec.UnsetType = msgspec.UNSET
    base_size: int | msgspec.UnsetType = msgspec.UNSET
    branch: str
    kind: str = "head"
    root: str
    session: str
    size: int
    t: int
    v: str = LEDGER_FORMAT

    @property
    def head(self) -> Head:
        return Head(self.size, self.root)


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From here on the ledger is sealed under this verifier key: its first, one that another gave way to, or one after another was revoked.

    previous: the verifier key before it. signature: base64, of that one over `rotation_message`; a revoked key signs nothing.
    """

    action: Literal["add", "rotate", "revoke"]
    key: str
    kind: str = "key"
    previous: str | msgspec.UnsetType = msgspec.UNSET
    signature: str | msgspec.UnsetType = msgspec.UNSET
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


LedgerRecord = SessionRecord | CurrentRecord | EraseRecord | DeleteRecord | HoldRecord | HeadRecord | KeyRecord
R = TypeVar("R", HeadRecord, KeyRecord)
_KINDS: Final[dict[type, str]] = {HeadRecord: "head", KeyRecord: "key"}


def encode_record(record: LedgerRecord) -> bytes:
    """Give the canonical bytes of a record, the leaf's content in the ledger's tree."""
    return _encode(record)


def read_record(raw: bytes, kind: type[R]) -> R:
    """Read a record that is of a kind; ValueError where it is not, or its bytes are not the canonical ones."""
    try:
        record = msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it is not such a record: {error}") from error
    if record.v != LEDGER_FORMAT or record.kind != _KINDS[kind] or _encode(record) != raw:
        raise ValueError(f"it is not a canonical record of kind {_KINDS[kind]} of {LEDGER_FORMAT}")
    return record


def rotation_message(key: str) -> bytes:
    """Give what a key signs to have another, a verifier key, go on in its place."""
    return b"everlog/1/key\x00" + key.encode()


def read_erase_record(record: bytes) -> EraseRecord | None:
    """Read a record that bodies were destroyed; None for a record of another kind or format, or of leaves that are no hashes."""
    try:
        read = msgspec.json.decode(record, type=EraseRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    whole = (read.v, read.kind) == (LEDGER_FORMAT, "erase") and all(_HASH.fullmatch(leaf) for _, leaf in read.events)
    return read if whole else None


def record_hash(record: bytes) -> bytes:
    """Give the hash of a record as a leaf of the ledger's tree."""
    return leaf_hash(record)


def commit_session(salt: bytes, name: str, title: str | None, labels: Mapping[str, str]) -> str:
    """Give the hex commitment to what a session is called, under its salt of 32 random bytes."""
    message = _encode([name, title, sorted(labels.items())])
    return hmac(salt, b"everlog/1/session\x00" + message, "sha256").hexdigest()
