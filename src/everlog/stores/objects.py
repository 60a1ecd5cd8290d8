"""Object storage: S3, Google Cloud Storage, Azure or a folder, by obstore, with what was read lately kept in memory.

1. An object is written only where none of its name is, and is read back and compared before anybody relies on it.
2. What is read is compared: an object with its checksum where it is relied on whole, and each block with its own, so that of an
   object that was damaged the other blocks can be read.
3. Credentials come from the environment of the process, as the clouds' own tools take them; neither a url nor an error holds any.
"""

from __future__ import annotations

import os
import re
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
_CODE: Final = re.compile(r"<Code>(\w+)</Code>")  # in what S3 answers, beside the id of the key that was used
_SIGNED: Final = re.compile(r"\?[^\s)'\"]+")  # what follows a url may be a signature


def connect(url: str) -> ObjectStore:
    """Open a place for objects.

    Raises UnsupportedStoreError where the library is not installed or the url is not understood, UnavailableError where its folder is
    not there.
    """
    try:
        import obstore.store as stores
        from obstore.exceptions import BaseError
    except ImportError as error:
        raise UnsupportedStoreError(
            "archives need the library obstore; nothing was done; install it: pip install 'everlog[archive]'"
        ) from error
    try:
        if _is_folder(url):
            if not _folder(url).is_dir():
                raise UnavailableError(
                    f"the folder {_folder(url)} that holds archived bodies is not there; nothing was changed; see that its disk is "
                    "mounted, or bring it back"
                )
            return stores.LocalStore(_folder(url))
        retry: Any = {"max_retries": 5, "retry_timeout": _RETRY}
        client: Any = {"timeout": _TIMEOUT}
        if os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true":  # the library reads it only where no option is given
            client["allow_http"] = True
        return stores.from_url(url, client_options=client, retry_config=retry)
    except (BaseError, ValueError, OSError) as error:
        raise UnsupportedStoreError(
            f"{url} cannot be used as an archive ({_said(error)}); nothing was done; correct the url, or what it needs in the "
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
        if found is None or sha256(found).digest() != row.checksum:
            found = self._read(row)
        if sha256(found).digest() != row.checksum:
            raise _other(row, "others")
        self._keep(row.id, found)
        return found

    def fetch(self, row: ObjectRow) -> None:
        """Have an object be held. Of its blocks, those that are what was written can be read, whatever became of the others."""
        self._keep(row.id, self._read(row))

    def put(self, row: ObjectRow, contents: bytes) -> None:
        """Write an object and read it back; see ColdStorage.put_object."""
        from obstore.exceptions import AlreadyExistsError, PermissionDeniedError, UnauthenticatedError

        if _is_folder(row.url):
            _make_folders(row)
        place = self._place(row.url)
        with _translated(row, "nothing left the store"):
            try:
                place.put(row.name, contents, mode="create")
            except AlreadyExistsError:
                pass  # where a request was repeated because its answer was lost; what is there is compared below
            except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
                raise UnsupportedStoreError(
                    f"{row.url} refuses to be written ({_said(error)}); nothing left the store; correct the url, or the credentials in "
                    "the environment"
                ) from error
            if _is_folder(row.url):
                _sync(row)
        if self._read(row) != contents:
            raise _other(row, "others")

    def remove(self, row: ObjectRow) -> None:
        """Remove an object; see ColdStorage.remove_object."""
        self.forget(row.id)
        place = self._place(row.url)
        with _translated(row, "it is removed by the next archive, restore or erase"):
            with suppress(FileNotFoundError):
                place.delete(row.name)
            if _is_folder(row.url):
                _remove_traces(row)

    def forget(self, id: bytes) -> None:
        """Keep an object in memory no longer."""
        with self._lock:
            self._held -= len(self._kept.pop(id, b""))

    def _read(self, row: ObjectRow) -> bytes:
        """Read as many bytes as were written; a place that holds fewer or more is not read."""
        place = self._place(row.url)
        with _translated(row, "nothing was changed"):
            try:
                result = place.get(row.name)
            except FileNotFoundError as error:
                raise CorruptionError(
                    f"the object {row.name} is not at {row.url} any more; nothing was changed; see that the place is the one it was, "
                    "and restore the object from a backup"
                ) from error
            size = result.meta["size"]
            if size != row.size:
                raise _other(row, f"{size:,} bytes")
            found = result.bytes().to_bytes()
        if len(found) != row.size:
            raise _other(row, f"{len(found):,} bytes")
        return found

    def _keep(self, id: bytes, contents: bytes) -> None:
        with self._lock:
            self._held += len(contents) - len(self._kept.pop(id, b""))
            self._kept[id] = contents
            # One that is larger is held alone: who asked for it reads it next.
            while self._held > CACHE_BYTES and len(self._kept) > 1:
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


def _is_folder(url: str) -> bool:
    return url.startswith("file://")


def _folder(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _make_folders(row: ObjectRow) -> None:
    """Make the folder that an object will lie in, for its owner alone: bodies in clear will be there."""
    folder = _folder(row.url)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / row.name).parent.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UnsupportedStoreError(
            f"{row.url} cannot be used as an archive ({error.strerror}); nothing was done; name a folder that you can write"
        ) from error


def _sync(row: ObjectRow) -> None:
    """Have a file of a folder, and the folders that lead to it, survive power loss, which the library leaves to the system."""
    folder = _folder(row.url)
    path = folder / row.name
    for place in (path, path.parent, folder, folder.parent):
        _sync_one(place)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_traces(row: ObjectRow) -> None:
    """Remove what the library was writing of an object when its process was killed, and have no removed file come back."""
    path = _folder(row.url) / row.name
    for left in path.parent.glob(f"{path.name}#*"):
        left.unlink(missing_ok=True)
    if path.parent.is_dir():
        _sync_one(path.parent)


@contextmanager
def _translated(row: ObjectRow, data: str) -> Generator[None]:
    """Turn errors of object storage into Everlog's. data: what became of the data."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise UnavailableError(
            f"object storage at {row.url} failed for {row.name} ({_said(error)}); {data}; see to it and try again"
        ) from error


def _other(row: ObjectRow, found: str) -> CorruptionError:
    return CorruptionError(
        f"the object {row.name} at {row.url} is not what was written: {found} are there where {row.size:,} bytes were written; nothing was "
        "changed; see who writes there, and restore the object from a backup"
    )


def _said(error: Exception) -> str:
    """Give an error's first line, without what may hold credentials."""
    text = str(error).strip()
    line = _SIGNED.sub("", (text.splitlines() or [type(error).__name__])[0].partition("<")[0]).strip()[:300]
    code = _CODE.search(text)
    return line if code is None else f"{line} {code[1]}"
