"""Which store an integration keeps its sessions in: a place, which it opens and closes, or an open store, which it only uses."""

from __future__ import annotations

import os
from hashlib import sha256

from everlog.aio.store import AsyncStore
from everlog.open import open_store
from everlog.store import Store

Place = str | os.PathLike[str] | Store | AsyncStore
_HASHED = "sha256-"


def store_at(place: Place | None) -> tuple[Store, bool]:
    """Give the store of a place, and whether it was opened here, so that whoever asked is to close it. None: as `everlog.open`."""
    if isinstance(place, Store):
        return place, False
    if isinstance(place, AsyncStore):
        return place.sync, False
    return open_store(place), True


def id_part(text: str, characters_max: int, *, slashes: bool = False) -> str:
    """Give a framework's id as part of a session's id: as it is where it can stand there, else its hash.

    slashes: the part may hold them, since it stands last.
    """
    plain = text.isprintable() and 0 < len(text) <= characters_max and (slashes or "/" not in text)
    if plain and not text.startswith(_HASHED):
        return text
    return f"{_HASHED}{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
