"""Object storage: S3, Google Cloud Storage, Azure or a folder, by obstore, with what was read lately kept in memory.

1. An object is written only where none of its name is, and is read back and compared before anybody relies on it.
2. What is read is compared with its checksum: what was stored otherwise, or in part, is CorruptionError.
3. Credentials come from the environment of the process, as the clouds' own tools take them; a url never holds any.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from everlog.errors import CorruptionError, UnavailableError, UnsupportedStoreError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from everlog.cold import ObjectRow

CACHE_BYTES: Final = 64 * 1024 * 1024
_TIMEOUT: Final = timedelta(seconds=30)  # of one request
_RETRY: Final = timedelta(seconds=60)  # of one request and its repetitions


def connect(url: str) -> ObjectStore:
    """Open a place for objects. UnsupportedStoreError where the library is not installed or the url is not understood."""
    try:
        import obstore.store as stores
        from obstore.exceptions import BaseError
    except ImportError as error:
        raise UnsupportedStoreError(
            "archives need the library obstore; nothing was done; install it: pip install 'everlog[archive]'"
        ) from error
    try:
        if url.startswith("file://"):
            folder = _folder(url)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # bodies in clear will lie there
            return stores.LocalStore(folder)
        retry: Any = {"max_retries": 5, "retry_timeout": _RETRY}
        return stores.from_url(url, client_options={"timeout": _TIMEOUT}, retry_config=retry)
    except (BaseError, ValueError, OSError) as error:
        raise UnsupportedStoreError(
            f"{url} cannot be used as an archive ({_first_line(error)}); nothing was done; correct the url, or what it needs in the "
            "environment"
        ) from error


class Objects:
    """Reads and writes objects for one store. opening: makes the connection to a url; another than `connect` in tests only."""

    def __init__(self, opening: Callable[[str], ObjectStore] = connect) -> None:
        self._opening = opening
        self._places: dict[str, ObjectStore] = {}
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._held = 0
        self._lock = Lock()

    def held(self, row: ObjectRow) -> bytes | None:
        """Give an object where it was read lately."""
        with self._lock:
            found = self._kept.get(row.id)
            if found is not None:
                self._kept.move_to_end(row.id)
            return found

    def get(self, row: ObjectRow) -> bytes:
        """Read an object whole; see ColdStorage.get_object."""
        found = self.held(row)
        if found is None:
            found = self._read(row)
            self._keep(row.id, found)
        return found

    def put(self, row: ObjectRow, contents: bytes) -> None:
        """Write an object and read it back; see ColdStorage.put_object."""
        from obstore.exceptions import AlreadyExistsError

        place = self._place(row.url)
        with _translated(row, "nothing left the store"):
            # It is there where a request was repeated because its answer was lost; what is there is compared.
            with suppress(AlreadyExistsError):
                place.put(row.name, contents, mode="create")
            if row.url.startswith("file://"):
                _sync(_folder(row.url) / row.name)
        self._read(row)

    def remove(self, row: ObjectRow) -> None:
        """Remove an object; see ColdStorage.remove_object."""
        place = self._place(row.url)
        with _translated(row, "it is removed by the next archive, restore or erase"):
            try:
                place.delete(row.name)
            except FileNotFoundError:
                return
        self.forget(row.id)

    def forget(self, id: bytes) -> None:
        """Keep an object in memory no longer."""
        with self._lock:
            self._held -= len(self._kept.pop(id, b""))

    def _read(self, row: ObjectRow) -> bytes:
        place = self._place(row.url)
        with _translated(row, "nothing was changed"):
            found = place.get(row.name).bytes().to_bytes()
        if len(found) != row.size or sha256(found).digest() != row.checksum:
            raise CorruptionError(
                f"the object {row.name} at {row.url} is not what was written ({len(found):,} bytes came back where {row.size:,} were "
                "written, or others); nothing was changed; see who writes there, and restore the object from a backup"
            )
        return found

    def _keep(self, id: bytes, contents: bytes) -> None:
        with self._lock:
            if id not in self._kept and len(contents) <= CACHE_BYTES:
                self._kept[id] = contents
                self._held += len(contents)
            while self._held > CACHE_BYTES:
                self._held -= len(self._kept.popitem(last=False)[1])

    def _place(self, url: str) -> ObjectStore:
        with self._lock:
            found = self._places.get(url)
        if found is None:
            found = self._opening(url)
            with self._lock:
                found = self._places.setdefault(url, found)
        return found


class ObjectStorage:
    """The part of everlog.cold.ColdStorage that is the same for every store."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def put_object(self, row: ObjectRow, contents: bytes) -> None:
        self._objects.put(row, contents)

    def get_object(self, row: ObjectRow) -> bytes:
        return self._objects.get(row)

    def remove_object(self, row: ObjectRow) -> None:
        self._objects.remove(row)


def _folder(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _sync(path: Path) -> None:
    """Have a file of a folder survive power loss, which the library leaves to the system."""
    for place in (path, path.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _translated(row: ObjectRow, data: str) -> Generator[None]:
    """Turn errors of object storage into Everlog's. data: what became of the data."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise UnavailableError(
            f"object storage at {row.url} failed for {row.name} ({_first_line(error)}); {data}; see to it and try again"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
