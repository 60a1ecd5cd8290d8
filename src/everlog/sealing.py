"""Sealing the ledger: its records are put in order, its head is signed, and the seal is kept in more places than one.

1. order (ordering.py) → sign (signing.py) → ask witnesses → append to seals.txt, outside the store → keep in the store → have it
   stamped → send on.
   Whatever stops it, the next seal makes good: the tree only grows, and the same head signed again gives the same bytes.
2. A seal that is not in `seals.txt` is not in the store either.
3. A witness or an authority that does not answer, or a place that takes no copy, spoils no seal: it is told of, and asked again with
   the next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from everlog.core.event import Head
from everlog.core.ledger import KeyRecord
from everlog.core.limits import SAFE_INTEGER_MAX
from everlog.core.note import Note
from everlog.core.prepare import Draw
from everlog.errors import BusyError, EverlogError, OutcomeUnknownError, UnavailableError
from everlog.intents import unfinished
from everlog.ordering import order_ledger
from everlog.publishing import publish
from everlog.sealed import PutSeal
from everlog.seals import Seal, append_seal, prove_ledger, read_seal
from everlog.signing import Keys
from everlog.storage import Storage
from everlog.timestamps import Stamper
from everlog.witnesses import Witness, cosign

EVENTS_MAX: Final = 256  # after so many it is not waited until the time has come
RETRY_SECONDS: Final = 1.0  # after what failed and may work later


class Sealer:
    """Seals the ledger of a store. to: further places that each seal is sent to; see publishing.py. stamper: has each stamped."""

    def __init__(
        self,
        storage: Storage,
        keys: Keys,
        *,
        witnesses: Sequence[Witness] = (),
        to: Sequence[str] = (),
        stamper: Stamper | None = None,
    ) -> None:
        self.storage = storage
        self.keys = keys
        self.witnesses = witnesses
        self.to = to
        self.stamper = stamper

    def seal(self) -> Seal:
        """Seal all that was recorded until now; where that is sealed already, give the last seal.

        An erasure that another process recorded, and died before it was done, is finished behind it.
        """
        warnings: list[str] = []
        record = self.keys.record()  # NotFoundError where there is no key, before anything is made
        with unfinished(self.storage, self.keys.folder) as finish:
            seal = self._seal(record, warnings)
            _try(warnings, finish)
        return seal if not warnings else msgspec.structs.replace(seal, warnings=tuple(warnings))

    def _seal(self, record: KeyRecord | None, warnings: list[str]) -> Seal:
        tree = order_ledger(self.storage, record)
        origin = self.keys.origin
        last = next((row for row in self.storage.seals(SAFE_INTEGER_MAX, 1)), None)
        sealed = record is None and last is not None and (last.origin, last.size) == (origin, tree.size)
        if sealed and last is not None and self.keys.was_last(origin, tree.head()):  # else an earlier store may be here
            self._stamp(last.note, last.size, warnings)
            return read_seal(last)
        checkpoint, note = self.keys.sign(lambda: self.storage.ledger_tree().head(), self._prove)
        origin, head = checkpoint.origin, checkpoint.head
        note = self._cosigned(note, head, warnings)
        encoded = str(note).encode()
        append_seal(self.keys.folder / "seals.txt", encoded)
        self.storage.write(PutSeal(origin, head.size, encoded))
        if record is not None:
            self.keys.settle(record)
        self._stamp(encoded, head.size, warnings)
        for place in self.to:
            _try(warnings, lambda place=place: publish(place, encoded, origin=origin, size=head.size))
        return Seal(origin, head, self.storage.now(), str(note))

    def run(
        self,
        *,
        every: float,
        sealed: Callable[[Seal], None],
        failed: Callable[[EverlogError], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        """Seal whenever something was recorded: `every` seconds, or sooner where EVENTS_MAX events wait. Until `stop` says so.

        sealed: called with each new seal. failed: called where it is to be tried again later; raised where it is not given, as all else is.
        """
        previous: Head | None = None
        while stop is None or not stop():
            try:
                seal = self.seal()
                if seal.head != previous:
                    previous = seal.head
                    sealed(seal)
                self._wait(every, stop)
            except (BusyError, UnavailableError, OutcomeUnknownError) as error:
                if failed is None:
                    raise
                failed(error)
                time.sleep(min(every, RETRY_SECONDS))

    def _wait(self, seconds: float, stop: Callable[[], bool] | None) -> None:
        """Wait until the time has come and something happened, or EVENTS_MAX events wait."""
        due = time.monotonic() + seconds
        seen = self.storage.news()
        known = sum(number for _, number in self.storage.ledger_tree().feeds)
        while stop is None or not stop():
            left = due - time.monotonic()
            if left <= 0:
                return
            seen = self.storage.wait(seen, min(left, 0.5))
            if sum(place.number for place in self.storage.feed_end()) - known >= EVENTS_MAX:
                return

    def _prove(self, old: int, new: int) -> Sequence[bytes]:
        return prove_ledger(self.storage, old, new)

    def _stamp(self, note: bytes, size: int, warnings: list[str]) -> None:
        """Have a seal stamped, where that is asked for."""
        if (stamper := self.stamper) is not None:
            _try(warnings, lambda: stamper.stamp(note, size))

    def _cosigned(self, note: Note, head: Head, warnings: list[str]) -> Note:
        """Give the note with what the witnesses add to it."""
        for witness in self.witnesses:
            lines = _try(warnings, lambda witness=witness, note=note: cosign(witness, note, head, self._prove))
            if lines is not None:
                note = Note(note.text, (*note.signatures, *lines))
        return note


def _try(warnings: list[str], call: Callable[[], Any]) -> Any:
    try:
        return call()
    except EverlogError as error:
        warnings.append(error.message)
        return None


def make_sealer(storage: Storage, draw: Draw, keys: Keys | str | os.PathLike[str]) -> Sealer:
    """Give a sealer without witnesses. keys: of the store's seals, or their folder."""
    chosen = keys if isinstance(keys, Keys) else Keys(Path(keys), storage.id, draw=draw, clock=storage.now)
    return Sealer(storage, chosen)
