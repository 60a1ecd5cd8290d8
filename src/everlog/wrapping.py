"""Wrapping keys, from where their owner keeps them: a file, a variable of the environment, or a command that prints one.

A key is 32 random bytes: as they are (in a file), as 64 hex digits, or as base64. It is never written, shown or recorded by Everlog,
but where a new one is asked for.
"""

from __future__ import annotations

import base64
import binascii
import os
import select
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from everlog.core.envelope import KEY_BYTES, WrappingKey
from everlog.errors import KeyNeededError, UnavailableError
from everlog.keyfiles import sync_folder

VARIABLE: Final = "EVERLOG_ENCRYPT"
_KEPT_BYTES_MAX: Final = 4096  # of a file or an answer that holds one key
_COMMAND_SECONDS_MAX: Final = 30.0
_NAME_CHARACTERS_MAX: Final = 40  # what is longer may be a key, given in the wrong place


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
        raise KeyNeededError(  # what was given is not shown: it may be the key itself
            "what was given as a key names none; nothing was opened; write file:/path/to/key, env:NAME or command:PROGRAM ARGUMENTS"
        )
    key = _decoded(read(rest.strip()))
    if key is None:
        raise KeyNeededError(
            f"what {kind}: leads to is no key: it takes {KEY_BYTES} bytes, as 64 hex digits or base64; nothing was opened; make one with: "
            "everlog encryption new-key FILE"
        )
    return WrappingKey(key)


def write_wrapping_key(path: Path, draw: Callable[[int], bytes]) -> WrappingKey:
    """Make a key, in a new file that only its owner can read. Raises KeyNeededError where there is a file; UnavailableError."""
    key = draw(KEY_BYTES)
    try:
        # Not through another file's place: of two who make a key there at once, one would have been shown a key that is gone.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.hex().encode() + b"\n")
            file.flush()
            os.fsync(descriptor)
        sync_folder(path.parent)
    except FileExistsError:
        raise KeyNeededError(
            f"{path} is there; nothing was written: a key that is lost takes all bodies with it; name another file"
        ) from None
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be written ({error.strerror}); no key was made; make room, or choose another folder"
        ) from error
    return WrappingKey(key)


def _read_file(rest: str) -> bytes:
    path = Path(rest)
    try:
        path = path.expanduser()
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise KeyNeededError(
                    f"the key {path} can be read by others; nothing was opened; make it yours alone: chmod 600"
                )
            return file.read(_KEPT_BYTES_MAX)
    except (OSError, RuntimeError, ValueError) as error:  # the last two: nobody's home, a NUL in the name
        why = error.strerror if isinstance(error, OSError) else error
        raise KeyNeededError(f"the key {path} cannot be read ({why}); nothing was opened") from error


def _read_variable(rest: str) -> bytes:
    value = os.environ.get(rest)
    if value is None:
        name = rest if len(rest) <= _NAME_CHARACTERS_MAX else "variable of the name given"
        raise KeyNeededError(f"the environment has no {name}, which is to hold the key; nothing was opened")
    return os.fsencode(value)


def _read_command(rest: str) -> bytes:
    """Run a program, without a shell, and take what it prints. What it says of errors goes where ours goes."""
    program = "the command"
    try:
        words = shlex.split(rest)
        program = f"the command {words[0]!r:.100}"  # its arguments may be secret
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:  # noqa: S603  # the owner's own
            try:
                answer = _answer_of(process)
            except BaseException:
                process.kill()
                raise
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        why = "it did not end in time" if isinstance(error, subprocess.TimeoutExpired) else str(error)
        raise KeyNeededError(
            f"{program} gave no key ({why}); nothing was opened"
        ) from None  # that may hold its arguments
    if process.returncode != 0:
        raise KeyNeededError(f"{program} ended with {process.returncode}; nothing was opened")
    return answer


def _answer_of(process: subprocess.Popen[bytes]) -> bytes:
    """Read what a program prints until it ends. Raises TimeoutExpired; ValueError where it is too much for a key."""
    assert process.stdout is not None, "it was asked for"
    deadline = time.monotonic() + _COMMAND_SECONDS_MAX
    answer = b""
    while select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
        piece = os.read(process.stdout.fileno(), _KEPT_BYTES_MAX)
        answer += piece
        if not piece:
            process.wait(max(0.0, deadline - time.monotonic()))
            return answer
        if len(answer) > _KEPT_BYTES_MAX:
            raise ValueError(f"it prints more than {_KEPT_BYTES_MAX} bytes")
    raise subprocess.TimeoutExpired("", _COMMAND_SECONDS_MAX)


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
