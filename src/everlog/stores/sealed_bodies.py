"""What every store does about encryption: the wrapping keys it was opened with, what it seals with them, and what it refuses.

1. A store that encrypts takes no body that it cannot seal: who opened it without the key that it wraps with may read what needs none,
   erase and delete. Who opened one with a key writes no body in plain text either.
2. States are not kept there: a snapshot says what bodies said, and would outlive their keys in a backup.
3. A data key is unwrapped where it is needed, and kept no longer than that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from threading import local
from typing import Protocol

import msgspec

from everlog.core.decide import EventRow
from everlog.core.envelope import BODY, KEY_BYTES, NONCE_BYTES, DataKey, Packer, WrappedKey, WrappingKey, make_packer
from everlog.core.event import PreparedAttachment
from everlog.encrypted import Encrypts, SealBodies, WrappingRow, begin_encrypting
from everlog.errors import CorruptionError, KeyNeededError
from everlog.storage import (
    Adopt,
    Append,
    Create,
    EndLease,
    FeedPlace,
    PutSnapshots,
    Request,
    Rewind,
    Switch,
    TakeLease,
    Update,
)

Attached = Sequence[tuple[int, Sequence[PreparedAttachment]]]  # of events, by their positions
_BRINGS_BODIES = Append | Create | Rewind | Switch | Update | TakeLease | EndLease | Adopt | SealBodies


class Sealing:
    """The wrapping keys that a store was opened with, the first to begin with. draw: gives random bytes.

    begins: whether a store that holds events in plain text is to encrypt from now on; else only one that holds none yet does.
    """

    def __init__(
        self, keys: Sequence[WrappingKey] = (), draw: Callable[[int], bytes] = os.urandom, *, begins: bool = True
    ) -> None:
        self.first = keys[0] if keys else None
        self.begins = begins
        self.current: dict[
            int, bytes
        ] = {}  # by bucket, the key that data keys were wrapped with when that was last looked at
        self._keys = {key.id: key for key in keys}
        self._draw = draw
        self._of_thread = local()

    def has(self, id: bytes) -> bool:
        """Tell whether a wrapping key was given."""
        return id in self._keys

    # --- writing ---
    def admit(self, request: Request, current: bytes | None) -> Request:
        """Give a request as the store is to carry it out, or refuse it. current: id of the key that the store wraps with, None for none."""
        if current is None:
            if self.first is not None and isinstance(request, _BRINGS_BODIES):
                raise KeyNeededError(
                    "the store was opened with a key, and keeps bodies in plain text; nothing was written; have it encrypt: everlog "
                    "encryption seal; or open it without a key: encrypt='', or EVERLOG_ENCRYPT empty"
                )
            return request
        if isinstance(request, _BRINGS_BODIES) and current not in self._keys:
            raise KeyNeededError(
                f"the store encrypts with the key {current.hex()}, and was opened with {self._given()}; nothing was written; open it "
                "with that key: encrypt=, or EVERLOG_ENCRYPT"
            )
        return msgspec.structs.replace(request, snapshots=()) if isinstance(request, PutSnapshots) else request

    def seal_all(
        self, rows: Sequence[EventRow], attachments: Attached, wrapping: bytes
    ) -> tuple[tuple[list[EventRow], Attached], list[tuple[int, WrappedKey]]]:
        """Give events' rows and attachments sealed, and their keys by their positions. wrapping: id of the key to wrap these with."""
        by_position = dict(attachments)
        sealed: list[EventRow] = []
        kept: list[tuple[int, Sequence[PreparedAttachment]]] = []
        keys: list[tuple[int, WrappedKey]] = []
        for row in rows:
            own, items, key = self.seal(row, by_position.get(row.position, ()), wrapping)
            sealed.append(own)
            if items:
                kept.append((row.position, items))
            if key is not None:
                keys.append((row.position, key))
        return (sealed, kept), keys

    def seal(
        self, row: EventRow, attachments: Sequence[PreparedAttachment], wrapping: bytes
    ) -> tuple[EventRow, list[PreparedAttachment], WrappedKey | None]:
        """Give an event's row and attachments sealed under a key of their own, with that; all as it was where nothing is there to hide."""
        if row.body is None and all(item.content is None for item in attachments):
            return row, list(attachments), None
        key = self._draw(KEY_BYTES)
        cipher = DataKey(key, row.leaf)
        sealed = row
        if row.body is not None:
            assert row.salt is not None, "a body that was checked has its salt"
            body = cipher.seal(row.body, row.salt, self._draw(NONCE_BYTES), packer=self._packer())
            sealed = msgspec.structs.replace(row, body=body, salt=None)
        return sealed, self._seal_each(cipher, attachments), self._keys[wrapping].wrap(key, self._draw(NONCE_BYTES))

    def _packer(self) -> Packer:
        packer = getattr(self._of_thread, "packer", None)
        if packer is None:
            packer = self._of_thread.packer = make_packer()
        return packer

    def _seal_each(self, cipher: DataKey, attachments: Sequence[PreparedAttachment]) -> list[PreparedAttachment]:
        sealed: list[PreparedAttachment] = []
        for number, item in enumerate(attachments):
            kept = item
            if item.content is not None:
                assert item.salt is not None, "an attachment that was checked has its salt"
                content = cipher.seal(item.content, item.salt, self._draw(NONCE_BYTES), number, self._packer())
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
            raise KeyNeededError(
                f"{what} is encrypted under the key {key.wrapping.hex()}, and the store was opened with {self._given()}; nothing was changed; "
                "open it with that key: encrypt=, or EVERLOG_ENCRYPT"
            )
        try:
            return DataKey(wrapping.unwrap(key.wrapped), leaf).open(envelope, number)
        except ValueError as error:
            raise CorruptionError(
                f"{what} cannot be decrypted: {error}; nothing was changed; restore a backup"
            ) from error

    def _given(self) -> str:
        return ", ".join(each.hex() for each in self._keys) or "no key"


class Taking(Encrypts, Protocol):
    """What taking a key needs of a store."""

    def feed_end(self) -> tuple[FeedPlace, ...]: ...

    def all_buckets(self) -> Sequence[int]: ...


def take_key(store: Taking, sealing: Sealing, *, read_only: bool) -> None:
    """Have a store encrypt with the first of the keys it was opened with, where it is to and does not yet; refuse keys that it does not know.

    Raises KeyNeededError, and nothing was written.
    """
    known = store.wrapping_keys()
    sealing.current = _current(known)
    first = sealing.first
    if first is None:
        return
    if known and not any(sealing.has(row.id) for row in known):
        raise _other_key(known[0].id, first)
    if not known and not sealing.begins and store.feed_end():
        return  # a key that every program is given says nothing about a store that others write to in plain text
    begun = next(iter(sealing.current.values()), first.id)  # by whoever was killed in the middle
    missing = [] if read_only else [bucket for bucket in store.all_buckets() if bucket not in sealing.current]
    if missing:
        begun = begin_encrypting(store, missing, begun)
        sealing.current = _current(store.wrapping_keys())
        if not sealing.has(begun):
            raise _other_key(begun, first)


def renew_keys(store: Encrypts, sealing: Sealing) -> bool:
    """Look again at which keys a store wraps with; tell whether these are others, which were all given: it goes on with them."""
    found = _current(store.wrapping_keys())
    changed = found != sealing.current and all(sealing.has(each) for each in found.values())
    if changed:
        sealing.current = found
    return changed


def _other_key(wanted: bytes, given: WrappingKey) -> KeyNeededError:
    return KeyNeededError(
        f"the store encrypts with the key {wanted.hex()}, and was opened with {given.id.hex()}; nothing was written; give that key"
    )


def _current(rows: Sequence[WrappingRow]) -> dict[int, bytes]:
    return {row.bucket: row.id for row in rows if row.retired is None}
