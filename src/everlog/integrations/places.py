"""Which store an integration keeps its sessions in, and what they are called there: a place, which it opens and closes, or an open store, which it only uses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from threading import Lock
from typing import Final

from everlog.aio.store import AsyncStore
from everlog.core.limits import SESSION_ID_CHARACTERS_MAX
from everlog.erasing import check_deletions
from everlog.errors import InvalidPlaceError, NotFoundError, UnavailableError
from everlog.integrations.forked import begin_in_each_process
from everlog.open import open_store
from everlog.storage import SessionRow
from everlog.store import Store

# The label of every session that an integration makes, or an importer makes for it; its value names the framework, as the extra does.
FRAMEWORK_LABEL: Final = "framework"

Place = str | os.PathLike[str] | Store | AsyncStore
HASHED: Final = "sha256-"  # how the id of what cannot be one begins


def store_at(place: Place | None) -> tuple[Store, bool]:
    """Give the store of a place, and whether it was opened here, so that whoever asked is to close it. None: as `everlog.open`."""
    if isinstance(place, Store):
        return place, False
    if isinstance(place, AsyncStore):
        return place.sync, False
    return open_store(place), True


class LazyStore:
    """The store of a place, opened when it is first needed. May be used from any thread."""

    def __init__(self, place: Place | None) -> None:
        self._place = place
        self._found: tuple[Store, bool] | None = None
        self.closed = False
        begin_in_each_process(self._begin)

    def _begin(self) -> None:
        """Have nobody open it; one that is open stays, and says in a child what became of it."""
        self._lock = Lock()

    def get(self) -> Store:
        """Give the store. Raises UnavailableError once this is closed."""
        with self._lock:
            if self.closed:
                raise UnavailableError("what opened this store is closed; nothing was done; make another")
            if self._found is None:
                self._found = store_at(self._place)
            return self._found[0]

    def close(self) -> None:
        """Close the store, where it was opened here; it is given no more."""
        with self._lock:
            self.closed = True
            if self._found is not None and self._found[1]:
                self._found[0].close()


def delete_together(store: Store, ids: Sequence[str], *, reason: str) -> None:
    """Delete sessions that a framework has as one, in this order; none of them where one is refused. Those that are not there are passed over.

    Raises HeldError, ApprovalError, SessionExistsError.
    """
    there: list[SessionRow] = []
    for each in ids:
        with suppress(NotFoundError):
            there.append(store.storage.session(each))
    check_deletions(store.storage, there)
    for each in ids:
        with suppress(NotFoundError):
            store.delete(each, reason=reason)


def id_of(text: str) -> str:
    """Give a framework's id as a session's id: as it is where it can be one, else its hash."""
    return id_part(text, SESSION_ID_CHARACTERS_MAX, slashes=True)


def id_part(text: str, characters_max: int, *, slashes: bool = False) -> str:
    """Give a framework's id as part of a session's id: as it is where it can stand there, else its hash.

    slashes: the part may hold them, since it stands last. Raises InvalidPlaceError for what is no text, such as a number.
    """
    if not isinstance(text, str):
        raise InvalidPlaceError(f"id {text!r:.100} is no string; nothing was done; give it as one")
    plain = text.isprintable() and 0 < len(text) <= characters_max and (slashes or "/" not in text)
    if plain and not text.startswith(HASHED):
        return text
    return hashed_id(text)


def hashed_id(text: str) -> str:
    """Give the hash of a framework's id as a session's id, or a part of one."""
    return f"{HASHED}{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
