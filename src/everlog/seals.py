"""Seals as they are read: from the store, and from files of them. Nothing here says that a signature is good."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from everlog.core.event import Head
from everlog.core.limits import NOTE_BYTES_MAX, PAGE_EVENTS_MAX, SAFE_INTEGER_MAX
from everlog.core.merkle import consistency_proof
from everlog.core.note import parse_checkpoint, parse_note
from everlog.core.proof import by_one_read
from everlog.errors import LimitError, NotFoundError, TamperedError, UnavailableError
from everlog.keyfiles import sync_folder
from everlog.sealed import SealRow
from everlog.storage import Storage

_BETWEEN: Final = re.compile(rb"(?<=\n)\n(?!\xe2\x80\x94 )")  # two seals: an empty line that no signature follows


class Seal(msgspec.Struct, frozen=True):
    """A signed statement of all heads at one time. note: the C2SP checkpoint as it was signed, with all signatures.

    origin: of the log. head: of the ledger. made: microseconds since 1970 UTC; 0 where only its note is known.
    warnings: what did not work beside it, in words: a witness that did not answer, a copy that was not taken.
    """

    origin: str
    head: Head
    made: int
    note: str
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {
            "origin": self.origin,
            "size": self.head.size,
            "root": self.head.root,
            "made": self.made,
            "note": self.note,
        }


def read_seals_file(content: bytes) -> list[Seal]:
    """Read a file of seals, as `seals.txt` is one; TamperedError where one of them is none. No signature is checked."""
    return [_seal_of(part, 0) for part in _BETWEEN.split(content) if part]


def append_seal(path: Path, note: bytes) -> None:
    """Append a seal to a file of them, durably; what a loss of power left of another there is cut off. UnavailableError."""
    try:
        there = path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
            end = _whole(file)
            file.truncate(end)
            file.seek(end)
            file.write((b"\n" if end else b"") + note)
            file.flush()
            os.fsync(file.fileno())
        if not there:
            sync_folder(path.parent)
    except OSError as error:
        raise UnavailableError(
            f"the seal cannot be written to {path} ({error.strerror}); it was signed, and is not kept there; make room, and seal again"
        ) from error


def _whole(file: BinaryIO) -> int:
    """Give where the last whole seal of a file ends."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - 2 * NOTE_BYTES_MAX)
    file.seek(start)
    parts = _BETWEEN.split(file.read())
    while parts:
        try:
            parse_note(parts[-1])
        except ValueError:
            parts.pop()
        else:
            break
    return start + sum(map(len, parts)) + max(0, len(parts) - 1)


def read_seal(row: SealRow) -> Seal:
    """Give a stored seal as users see it; TamperedError where it is none. No signature is checked."""
    return _seal_of(row.note, row.made)


def _seal_of(raw: bytes, made: int) -> Seal:
    try:
        note = parse_note(raw)
        checkpoint = parse_checkpoint(note.text)
    except ValueError as error:
        raise TamperedError(
            f"what is kept as a seal is none: {error}; nothing was changed; compare it with copies of seals elsewhere"
        ) from error
    return Seal(checkpoint.origin, checkpoint.head, made, str(note))


def prove_ledger(storage: Storage, old: int, new: int) -> Sequence[bytes]:
    """Prove that the ledger of `new` records begins with that of `old`; 1 <= old <= new <= its size."""
    return by_one_read(lambda node: consistency_proof(old, new, node), storage.ledger_nodes)


def list_seals(storage: Storage, limit: int) -> list[Seal]:
    """Give the last seals that a store keeps, the last first."""
    if not 1 <= limit <= PAGE_EVENTS_MAX:
        raise LimitError(f"limit {limit!r:.50} is not in 1 .. {PAGE_EVENTS_MAX}; ask for fewer")
    return [read_seal(row) for row in storage.seals(SAFE_INTEGER_MAX, limit)]


def read_seals_files(paths: Sequence[str | os.PathLike[str]]) -> list[Seal]:
    """Read files of seals; NotFoundError, UnavailableError, and TamperedError where one holds what is none."""
    found: list[Seal] = []
    for path in map(Path, paths):
        try:
            found += read_seals_file(path.read_bytes())
        except FileNotFoundError:
            raise NotFoundError(f"there is no file of seals at {path}; nothing was checked; name another") from None
        except OSError as error:
            raise UnavailableError(f"{path} cannot be read ({error.strerror}); nothing was checked") from error
    return found
