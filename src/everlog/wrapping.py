"""Wrapping keys, from where their owner keeps them: a file, a variable of the environment, or a command that prints one.

A key is 32 random bytes: as they are (in a file), as 64 hex digits, or as base64. It is never written, shown or recorded by Everlog,
but where a new one is asked for.
"""

from __future__ import annotations

import base64
import binascii
import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from everlog.core.envelope import KEY_BYTES, WrappingKey
from everlog.errors import KeyNeededError
from everlog.keyfiles import write_synced

VARIABLE: Final = "EVERLOG_ENCRYPT"
_KEPT_BYTES_MAX: Final = 4096  # of a file or an answer that holds one key
_COMMAND_SECONDS_MAX: Final = 30.0


def read_wrapping_keys(sources: str | Sequence[str] | None) -> tuple[WrappingKey, ...]:
    """Read keys; the first is the one to encrypt with. sources: None for those that $EVERLOG_ENCRYPT names, one a line.

    Raises KeyNeededError where one cannot be had.
    """
    named = os.environ.get(VARIABLE, "").splitlines() if sources is None else sources
    each = [named] if isinstance(named, str) else named
    return tuple(read_wrapping_key(source) for source in each if source.strip())


def read_wrapping_key(source: str) -> WrappingKey:
    """Read a key from file:PATH, env:NAME or command:WORDS. Raises KeyNeededError."""
    kind, colon, rest = source.strip().partition(":")
    read = _READERS.get(kind) if colon and rest.strip() else None
    if read is None:
        raise KeyNeededError(
            f"{source!r:.100} names no key; nothing was opened; write file:/path/to/key, env:NAME or command:PROGRAM ARGUMENTS"
        )
    key = _decoded(read(rest.strip()))
    if key is None:
        raise KeyNeededError(
            f"{kind}:{rest.strip():.100} gives no key: it takes {KEY_BYTES} bytes, as 64 hex digits or base64; nothing was opened; make "
            "one with: everlog encryption new-key FILE"
        )
    return WrappingKey(key)


def write_wrapping_key(path: Path, draw: Callable[[int], bytes]) -> WrappingKey:
    """Make a key, in a new file that only its owner can read. Raises KeyNeededError where there is a file; UnavailableError."""
    if path.exists():
        raise KeyNeededError(
            f"{path} is there; nothing was written: a key that is lost takes all bodies with it; name another file"
        )
    key = draw(KEY_BYTES)
    write_synced(path, key.hex().encode() + b"\n")
    return WrappingKey(key)


def _read_file(rest: str) -> bytes:
    path = Path(rest).expanduser()
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise KeyNeededError(
                    f"the key {path} can be read by others; nothing was opened; make it yours alone: chmod 600"
                )
            return file.read(_KEPT_BYTES_MAX)
    except OSError as error:
        raise KeyNeededError(f"the key {path} cannot be read ({error.strerror}); nothing was opened") from error


def _read_variable(rest: str) -> bytes:
    value = os.environ.get(rest)
    if value is None:
        raise KeyNeededError(f"the environment has no {rest:.100}, which is to hold the key; nothing was opened")
    return os.fsencode(value)


def _read_command(rest: str) -> bytes:
    """Run a program, without a shell, and take what it prints. What it says of errors goes where ours goes."""
    try:
        words = shlex.split(rest)
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:  # noqa: S603  # the owner's own
            try:
                answer, _ = process.communicate(timeout=_COMMAND_SECONDS_MAX)
            except BaseException:
                process.kill()
                raise
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        why = "it did not end in time" if isinstance(error, subprocess.TimeoutExpired) else str(error)
        raise KeyNeededError(
            f"the command {rest!r:.100} gave no key ({why}); nothing was opened"
        ) from None  # what it printed may be part of a key
    if process.returncode != 0:
        raise KeyNeededError(f"the command {rest!r:.100} ended with {process.returncode}; nothing was opened")
    return answer[:_KEPT_BYTES_MAX]


_READERS: Final = {"file": _read_file, "env": _read_variable, "command": _read_command}


def _decoded(given: bytes) -> bytes | None:
    text = given.strip()
    if len(text) == 2 * KEY_BYTES:
        try:
            return bytes.fromhex(text.decode("ascii"))
        except ValueError:
            return None
    if len(text) in (43, 44):
        try:
            found = base64.b64decode(text.rstrip(b"=").translate(_URL_SAFE) + b"=", validate=True)
        except binascii.Error:
            return None
        return found if len(found) == KEY_BYTES else None
    return given if len(given) == KEY_BYTES else None


_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
