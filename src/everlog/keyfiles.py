"""Files of who signs: private keys, what was signed last, and the folder that holds them. All are their owner's alone, and durable."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from everlog.errors import UnavailableError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@contextmanager
def folder_lock(folder: Path, name: str = "lock", *, wait: bool = True) -> Generator[bool]:
    """Hold a folder, which is made where it is not there, until the end: one signs at a time. name: of the lock, for something else.

    Without waiting it tells whether it is held.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnavailableError(
            f"the folder of keys {folder} cannot be written ({error.strerror}); nothing was done; choose another folder"
        ) from error
    try:
        yield _flock(descriptor, wait=wait)
    finally:
        os.close(descriptor)


def _flock(descriptor: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 private key from a PKCS#8 file without a passphrase."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

    try:
        if path.stat().st_mode & 0o077:
            raise UnavailableError(
                f"the private key {path} can be read by others; nothing was done; make it yours alone: chmod 600"
            )
        content = path.read_bytes()
        load = load_pem_private_key if content.lstrip().startswith(b"-----") else load_der_private_key
        private = load(content, password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnavailableError(
            f"the private key {path} cannot be read ({error}); nothing was done; name a PKCS#8 file without a passphrase"
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise UnavailableError(f"the private key {path} is not of Ed25519; nothing was done; make another")
    return private


def write_private_key(path: Path, private: Ed25519PrivateKey) -> None:
    """Write a private key, which only its owner may read."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_synced(path, pem)


def write_synced(path: Path, content: bytes) -> None:
    """Put a file in the place of another, for its owner only, durably."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be written ({error.strerror}); nothing was signed; make room, or choose another folder"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have a file's name be durable too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
