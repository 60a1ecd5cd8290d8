"""The door's part for encryption: which keys data keys are wrapped with, and what changes that.

1. A store that encrypts has one wrapping key by which new data keys are wrapped, known by an id; the key itself it never holds.
2. Others are *retired*: data keys may still be wrapped with them, until each is wrapped anew. One that nothing needs is forgotten.
3. In every bucket of a store the same wrapping key is current, but while keys are being exchanged.
4. Who reads bodies gets them in plain text, or KeyNeededError where the key was not given. Rows and attachments that are read `as_stored`
   have their envelopes instead, and no salt: for that no key is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class WrappingRow(msgspec.Struct, frozen=True):
    """A wrapping key that a bucket knows of. id: 16 bytes made from the key. retired: microseconds, None for the current one."""

    bucket: int
    id: bytes
    made: int
    retired: int | None


class StoredKey(msgspec.Struct, frozen=True):
    """The data key of an event, wrapped. branch: that owns the event."""

    branch: int
    position: int
    wrapped: bytes


class TakeKey(msgspec.Struct, frozen=True):
    """Have data keys be wrapped with a key from now on, and retire the one before. first: only where there is none yet.

    With the first, snapshots are dropped: states say what bodies said. The receipt counts 0 where nothing was to be done.
    """

    bucket: int
    id: bytes
    first: bool


class Rewrap(msgspec.Struct, frozen=True):
    """Put wrapped data keys in the place of those that a retired key wraps; keys that were destroyed meanwhile stay so.

    KeyNeededError where `id` is not the current one: another rotation began.
    """

    bucket: int
    retired: bytes
    id: bytes
    keys: tuple[StoredKey, ...]


class ForgetKey(msgspec.Struct, frozen=True):
    """Forget a retired key. Refused, counting 0, while a data key is wrapped with it."""

    bucket: int
    id: bytes


class SealBodies(msgspec.Struct, frozen=True):
    """Encrypt what stands in plain text of a branch's own events from `start` on, in rows or in a block; a page that ends before `stop`.

    The receipt counts the events that the page holds. UnavailableError where they are archived.
    """

    branch: int
    start: int
    stop: int


class Encrypts(Protocol):
    """What beginning to encrypt needs of a store."""

    def wrapping_keys(self) -> list[WrappingRow]: ...

    def write(self, request: TakeKey) -> object: ...


def begin_encrypting(store: Encrypts, buckets: Sequence[int], id: bytes) -> bytes:
    """Have buckets encrypt that do not yet; give the id of the key that they wrap with: another where somebody else was quicker.

    Of two who begin with different keys at once, both go by the first bucket: law 3.
    """
    for bucket in buckets:
        store.write(TakeKey(bucket, id, first=True))
        if bucket == buckets[0]:
            id = next(row.id for row in store.wrapping_keys() if row.bucket == bucket and row.retired is None)
    return id


EncryptionRequest = TakeKey | Rewrap | ForgetKey | SealBodies


class EncryptedStorage(Protocol):
    """What a store promises of encryption, beside what `Storage` says."""

    def wrapping_keys(self) -> list[WrappingRow]:
        """List the wrapping keys that each bucket knows of, its current one first; none where the store does not encrypt."""
        ...

    def remove_traces(self) -> None:
        """Destroy what the engine still keeps of what was erased, deleted or sealed, as far as it can. BusyError where a reader keeps it."""
        ...

    def plain_bodies(self) -> int:
        """Count events in plain text of a store that encrypts; 0 where it does not. Walks tables, as `sizes` does."""
        ...

    def data_keys(self, bucket: int, wrapping: bytes, after: tuple[int, int], limit: int) -> list[StoredKey]:
        """List data keys that a key wraps, by branch and position, after a place."""
        ...
