"""What every store does about encryption: the wrapping keys it was opened with, what it seals with them, and what it refuses.

1. A store that encrypts takes no body that it cannot seal: who opened it without the key that it wraps with may read what needs none,
   erase and delete.
2. States are not kept there: a snapshot says what bodies said, and would outlive their keys in a backup.
3. A data key is unwrapped where it is needed, and kept no longer than that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from everlog.core.decide import EventRow
from everlog.core.envelope import BODY, KEY_BYTES, NONCE_BYTES, DataKey, WrappedKey, WrappingKey
from everlog.core.event import PreparedAttachment
from everlog.encrypted import EncryptionRequest, SealBodies, TakeKey, WrappingRow
from everlog.errors import CorruptionError, KeyNeededError
from everlog.storage import (
    Adopt,
    Append,
    Create,
    EndLease,
    PutSnapshots,
    Receipt,
    Request,
    Rewind,
    Switch,
    TakeLease,
    Update,
)

Attached = Sequence[tuple[int, Sequence[PreparedAttachment]]]  # of events, by their positions
_BRINGS_BODIES = Append | Create | Rewind | Switch | Update | TakeLease | EndLease | Adopt | SealBodies


class Sealing:
    """The wrapping keys that a store was opened with; the first is the one to seal with. draw: gives random bytes."""

    def __init__(self, keys: Sequence[WrappingKey] = (), draw: Callable[[int], bytes] = os.urandom) -> None:
        self.first = keys[0] if keys else None
        self.current: bytes | None = None  # the key that the store wrapped with when it was opened
        self._keys = {key.id: key for key in keys}
        self._draw = draw

    def has(self, id: bytes) -> bool:
        """Tell whether a wrapping key was given."""
        return id in self._keys

    # --- writing ---
    def admit(self, request: Request, current: bytes | None) -> Request:
        """Give a request as the store is to carry it out, or refuse it. current: id of the key that the store wraps with, None for none."""
        if current is None:
            return request
        if isinstance(request, _BRINGS_BODIES) and (self.first is None or self.first.id != current):
            had = "without a key" if self.first is None else f"with {self.first.id.hex()}"
            raise KeyNeededError(
                f"the store encrypts what is written with the key {current.hex()}, and was opened {had}; nothing was written; open it "
                "with that key: encrypt=, or EVERLOG_ENCRYPT"
            )
        return msgspec.structs.replace(request, snapshots=()) if isinstance(request, PutSnapshots) else request

    def seal_all(
        self, rows: Sequence[EventRow], attachments: Attached
    ) -> tuple[tuple[list[EventRow], Attached], list[tuple[int, WrappedKey]]]:
        """Give events' rows and attachments sealed, and their keys by their positions."""
        by_position = dict(attachments)
        sealed: list[EventRow] = []
        kept: list[tuple[int, Sequence[PreparedAttachment]]] = []
        keys: list[tuple[int, WrappedKey]] = []
        for row in rows:
            own, items, key = self.seal(row, by_position.get(row.position, ()))
            sealed.append(own)
            if items:
                kept.append((row.position, items))
            if key is not None:
                keys.append((row.position, key))
        return (sealed, kept), keys

    def seal(
        self, row: EventRow, attachments: Sequence[PreparedAttachment]
    ) -> tuple[EventRow, list[PreparedAttachment], WrappedKey | None]:
        """Give an event's row and attachments sealed under a key of their own, with that; all as it was where nothing is there to hide."""
        assert self.first is not None, "what cannot be sealed was refused"
        if row.body is None and all(item.content is None for item in attachments):
            return row, list(attachments), None
        key = self._draw(KEY_BYTES)
        cipher = DataKey(key, row.leaf)
        sealed = row
        if row.body is not None and row.salt is not None:
            body = cipher.seal(row.body, row.salt, self._draw(NONCE_BYTES))
            sealed = msgspec.structs.replace(row, body=body, salt=None)
        return sealed, self._seal_each(cipher, attachments), self.first.wrap(key, self._draw(NONCE_BYTES))

    def _seal_each(self, cipher: DataKey, attachments: Sequence[PreparedAttachment]) -> list[PreparedAttachment]:
        sealed: list[PreparedAttachment] = []
        for number, item in enumerate(attachments):
            kept = item
            if item.content is not None and item.salt is not None:
                content = cipher.seal(item.content, item.salt, self._draw(NONCE_BYTES), number)
                kept = PreparedAttachment(item.name, item.size, None, content)
            sealed.append(kept)
        return sealed

    # --- reading ---
    def open(
        self, envelope: bytes, key: WrappedKey | None, leaf: bytes, position: int, number: int = BODY
    ) -> tuple[bytes, bytes]:
        """Give what is in an envelope, and its salt. key: of the event, None where the store does not have it.

        Raises KeyNeededError where the wrapping key was not given, CorruptionError where the envelope or its key is damaged or gone.
        """
        what = f"the body at position {position}" if number == BODY else f"attachment {number} at position {position}"
        if key is None:
            raise CorruptionError(
                f"{what} is encrypted, and its key is not in the store; nothing was changed; it cannot be read, unless a backup has the "
                "table of keys"
            )
        wrapping = self._keys.get(key.wrapping)
        if wrapping is None:
            had = "none was given" if not self._keys else f"{', '.join(each.hex() for each in self._keys)} was given"
            raise KeyNeededError(
                f"{what} is encrypted under the key {key.wrapping.hex()}, and {had}; nothing was changed; open the store with that key: "
                "encrypt=, or EVERLOG_ENCRYPT"
            )
        try:
            return DataKey(wrapping.unwrap(key.wrapped), leaf).open(envelope, number)
        except ValueError as error:
            raise CorruptionError(
                f"{what} cannot be decrypted: {error}; nothing was changed; restore a backup"
            ) from error


class Encrypts(Protocol):
    """What taking a key needs of a store."""

    def wrapping_keys(self, bucket: int) -> list[WrappingRow]: ...

    def all_buckets(self) -> Sequence[int]: ...

    def write(self, request: EncryptionRequest) -> Receipt: ...


def take_key(store: Encrypts, sealing: Sealing, *, read_only: bool) -> None:
    """Have a store encrypt with the first of the keys it was opened with, where it does not encrypt yet; refuse keys that it does not know.

    Raises KeyNeededError, and nothing was written.
    """
    first = sealing.first
    for bucket in store.all_buckets():
        known = store.wrapping_keys(bucket)
        if not known and first is not None and not read_only:
            store.write(TakeKey(bucket, first.id, first=True))
            known = store.wrapping_keys(bucket)
        sealing.current = known[0].id if known else None
        if known and first is not None and not any(sealing.has(row.id) for row in known):
            raise KeyNeededError(
                f"the store encrypts with the key {known[0].id.hex()}, and was opened with {first.id.hex()}; nothing was written; give "
                "that key"
            )
