"""The file itself: made private and durable, refused where SQLite cannot keep its promises, watched for replacement."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from everlog.errors import NotFoundError, UnavailableError, UnsupportedStoreError

_CHUNK_BYTES = 1024 * 1024

# File systems whose locks or shared memory do not hold between machines; SQLite's WAL needs both.
NETWORK_FILE_SYSTEMS = frozenset(
    [
        "9p",
        "afs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "fuse.ceph",
        "fuse.davfs",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "smb3",
        "smbfs",
        "virtiofs",
        "webdav",
        "beegfs",
    ]
)
_MOUNTS = "/proc/self/mountinfo"
_OCTAL = re.compile(r"\\([0-7]{3})")  # how that table writes spaces, tabs, line breaks and backslashes
SQLITE_FILE_BYTES_MIN = 512  # a page of the smallest size


def refuse_network_file_system(path: Path, *, mounts: str = _MOUNTS) -> None:
    """Raise UnsupportedStoreError where a path lies on a network file system. Linux only: elsewhere nothing is known."""
    kind = file_system_of(path, mounts=mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise UnsupportedStoreError(
            f"{path} lies on a network file system ({kind}), whose locks cannot keep two machines from corrupting it; "
            "nothing was written; use a local disk, or a PostgreSQL store"
        )


def file_system_of(path: Path, *, mounts: str = _MOUNTS) -> str | None:
    """Give the type of the file system that a path lies on, None where it cannot be told."""
    try:
        table = Path(mounts).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    folder = os.path.realpath(path if path.exists() else path.parent)
    found: tuple[int, str] | None = None
    for line in table.splitlines():  # later lines of the same length mount over earlier ones
        fields, _, kinds = line.partition(" - ")
        mount = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields.split(" ")[4])
        if folder == mount or folder.startswith(mount.rstrip("/") + "/"):
            length = len(mount)
            if found is None or length >= found[0]:
                found = (length, kinds.split(" ")[0])
    return None if found is None else found[1]


def create_file(path: Path) -> bool:
    """Make an empty file that only its owner can read, durably; False where it exists already."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be made ({error.strerror}); nothing was written; choose a folder that you may write to, or set "
            "EVERLOG_STORE"
        ) from error
    os.close(descriptor)
    sync_folder(path.parent)
    return True


def refuse_foreign_file(path: Path) -> None:
    """Raise UnsupportedStoreError for a file too short to be SQLite's, which SQLite would take as empty and overwrite.

    The file is not opened: closing it would drop every lock that this process holds on it (POSIX), and with them the
    protection of a store that is open already.
    """
    if path.is_file() and 0 < path.stat().st_size < SQLITE_FILE_BYTES_MIN:
        raise UnsupportedStoreError(f"{path} is no SQLite database; nothing was written; name another file")


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # some file systems refuse it; they have nothing better either
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def identity(path: str) -> tuple[int, int]:
    """Give what tells this file from another of the same name: device and inode."""
    try:
        status = os.stat(path)  # noqa: PTH116  # a str is looked up in half the time
    except FileNotFoundError:
        raise NotFoundError(f"there is no store at {path}") from None
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read ({error.strerror})") from error
    return status.st_dev, status.st_ino


def content(path: Path) -> tuple[int, ...] | None:
    """Give what tells a file's content from what it was; None where a write-ahead log holds more of it, or it is gone."""
    try:
        status = path.stat()
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            return None
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def unchanging(path: Path) -> str:
    """Give the URI by which SQLite reads a file as one that does not change: without locks, and without files beside it."""
    return f"{path.absolute().as_uri()}?immutable=1"


def full_sync_needed() -> bool:
    """Tell whether fsync alone does not reach the disk: on macOS it needs F_FULLFSYNC."""
    return sys.platform == "darwin"


class Disk:
    """Where a store's files lie. name: of the apsw VFS through which SQLite sees it; None for SQLite's own."""

    name: str | None = None

    def rewrite(self, path: Path) -> None:
        """Write a file's bytes again where they stand, and sync them. Raises OSError."""
        with path.open("r+b", buffering=0) as file:
            for start in itertools.count(0, _CHUNK_BYTES):
                chunk = os.pread(file.fileno(), _CHUNK_BYTES, start)
                if not chunk:
                    break
                if os.pwrite(file.fileno(), chunk, start) != len(chunk):
                    raise OSError(errno.EIO, "it was written in part")
            if full_sync_needed():
                fcntl.fcntl(file.fileno(), getattr(fcntl, "F_FULLFSYNC"))  # noqa: B009  # macOS only
            os.fsync(file.fileno())


SYSTEM = Disk()
