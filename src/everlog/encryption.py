"""Encryption of a store's bodies: what it does, wrapping data keys anew, and sealing what was written before.

1. Wrapping anew touches no body. Whoever kills it loses nothing: each page is a transaction, and the next run goes on with what is left.
2. The new key is the current one before the first data key is wrapped with it, and the old one is forgotten when none is wrapped with it,
   so at any time every data key is wrapped with one of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from everlog.core.block import BLOCK_EVENTS
from everlog.core.envelope import NONCE_BYTES, WrappingKey
from everlog.encrypted import ForgetKey, Rewrap, SealBodies, StoredKey, TakeKey, WrappingRow, begin_encrypting
from everlog.errors import CorruptionError, KeyNeededError, UnavailableError
from everlog.storage import Storage

if TYPE_CHECKING:
    from everlog.writer import Settings

_KEYS: Final = 1_000  # wrapped anew in one transaction


class EncryptionKeys(msgspec.Struct, frozen=True):
    """Which keys data keys are wrapped with, by their ids (hex). current: None where the store does not encrypt."""

    current: str | None
    retired: tuple[str, ...] = ()


class Encryption:
    """What can be done about a store's encryption. Get it as `Store.encryption`."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._settings = settings

    def keys(self) -> EncryptionKeys:
        """Tell which keys the store wraps with. Those that are retired are still needed, until `rotate` has run to its end."""
        rows = self._storage.wrapping_keys()
        current = next((row.id for row in rows if row.retired is None), None)
        retired = sorted({row.id.hex() for row in rows if row.retired is not None})
        return EncryptionKeys(None if current is None else current.hex(), tuple(retired))

    def rotate(self, to: str, *, progress: Callable[[int], None] | None = None) -> int:
        """Wrap every data key with another key, and forget the ones before; give how many were wrapped now.

        to: file:PATH, env:NAME or command:WORDS, as `everlog.open` takes them. The store is open with the key that it has. Programs that are
        open with both keys go on; others are refused what needs the new one. Run it again where it was killed. progress: told how many so
        far.
        Raises KeyNeededError where the store does not encrypt, or an old key was not given: nothing was written. UnavailableError where
        another rotation, to another key, runs.
        """
        from everlog.wrapping import read_wrapping_key

        new = read_wrapping_key(to)
        given = {key.id: key for key in (*self._settings.wrapping, new)}
        self._forget(self._storage.wrapping_keys())  # what a rotation that was given up left behind
        self._check(given)
        for bucket in self._storage.all_buckets():
            self._storage.write(TakeKey(bucket, new.id, first=False))
        rows = self._storage.wrapping_keys()
        if any(row.id not in given or (row.retired is None and row.id != new.id) for row in rows):
            raise UnavailableError(
                "another rotation, to another key, began at the same time; no data key was changed by this one; when the other has ended, "
                "see which key is current (everlog encryption keys), and run it again if that is not the one"
            )
        retired = [row for row in rows if row.retired is not None]
        done = 0
        for row in retired:
            for keys in self._data_keys(row):
                self._storage.write(Rewrap(row.bucket, row.id, new.id, self._wrapped(given[row.id], new, keys)))
                done += len(keys)
                if progress is not None:
                    progress(done)
        self._forget(retired)
        return done

    def seal(self, *, progress: Callable[[int], None] | None = None) -> int:
        """Encrypt the bodies and attachments that were written in plain text; give how many events were looked at.

        The store is open with its key, and encrypts from now on where it did not. Run it again where it was killed, and beside everything
        else. progress: told how many so far.
        Raises KeyNeededError where no key was given; UnavailableError while bodies are archived: nothing was written. BusyError where all is
        encrypted, but a reader of the file keeps its log from being emptied of what stood there before.
        """
        begun = self.keys().current
        if begun is None and not self._settings.wrapping:
            raise _off()
        if self._storage.objects():
            raise UnavailableError(
                "bodies are archived, and would stay in plain text there; nothing was encrypted; restore them first: everlog restore"
            )
        from everlog.audit import all_sessions

        first = self._settings.wrapping[0].id if begun is None else bytes.fromhex(begun)
        begin_encrypting(self._storage, self._storage.all_buckets(), first)
        if self.keys().current is None:
            return 0  # it is in memory: nothing is at rest
        done = 0
        for session in all_sessions(self._storage):
            for branch in self._storage.branches(session.key):
                start = branch.base_size
                while start < branch.size:
                    stop = min(branch.size, start + BLOCK_EVENTS)
                    count = self._storage.write(SealBodies(branch.key, start, stop)).count
                    start += count
                    done += count
                    if progress is not None:
                        progress(done)
        self._storage.remove_traces()
        return done

    # --- underneath ---
    def _forget(self, rows: Sequence[WrappingRow]) -> None:
        """Forget retired keys that nothing needs."""
        for row in rows:
            if row.retired is not None:
                self._storage.write(ForgetKey(row.bucket, row.id))

    def _check(self, given: dict[bytes, WrappingKey]) -> None:
        rows = self._storage.wrapping_keys()
        if not rows:
            raise _off()
        for row in rows:
            if row.id not in given:
                raise KeyNeededError(
                    f"data keys are wrapped with the key {row.id.hex()}, which was not given; nothing was written; open the store with it"
                )

    def _data_keys(self, wrapping: WrappingRow) -> Iterator[list[StoredKey]]:
        after = (-1, -1)
        while page := self._storage.data_keys(wrapping.bucket, wrapping.id, after, _KEYS):
            yield page
            after = (page[-1].branch, page[-1].position)

    def _wrapped(self, old: WrappingKey, new: WrappingKey, keys: list[StoredKey]) -> tuple[StoredKey, ...]:
        """Give data keys wrapped with another key."""
        wrapped: list[StoredKey] = []
        for each in keys:
            try:
                key = old.unwrap(each.wrapped)
            except ValueError as error:
                raise CorruptionError(
                    f"the data key at position {each.position} of branch {each.branch} is damaged: {error}; what was done stays; restore a "
                    "backup of the table of keys, or erase that event"
                ) from error
            wrapped.append(
                StoredKey(each.branch, each.position, new.wrap(key, self._settings.draw(NONCE_BYTES)).wrapped)
            )
        return tuple(wrapped)


def _off() -> KeyNeededError:
    return KeyNeededError(
        "this store does not encrypt; nothing was written; open it with a key: encrypt=, or EVERLOG_ENCRYPT"
    )
