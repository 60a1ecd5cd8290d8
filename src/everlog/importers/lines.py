"""Files of JSON lines, also while they grow: each read goes on where the last one ended, with one line in memory.

1. A line is whole when its line break is there. What comes after the last line break is *torn*: it is left for the next
   read, unless the reader says that there will be none.
2. A torn rest that is a JSON object is a line whose break is missing, and read as one.
3. A line that is no JSON comes as its bytes, with the reason. A line past LINE_BYTES_MAX comes in pieces of that size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everlog.core.values import decode_json
from everlog.errors import EverlogError, NotFoundError

LINE_BYTES_MAX = 32 * 1024 * 1024  # fits an attachment, so that even what cannot be read is kept byte for byte
REASON_CHARACTERS_MAX = 500
_CHUNK_BYTES = 1024 * 1024
_MARK = b"\xef\xbb\xbf"  # that some editors put before UTF-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line.

    number: from 1. value: what the JSON says; None where it cannot be read.
    fault: why it cannot be read; where there is a value all the same, why that is not quite what the bytes say.
    piece: of a line that is too long for one.
    """

    number: int
    raw: bytes
    value: Any = None
    fault: str | None = None
    piece: int = 0


class LineFile:
    """One file of JSON lines, and how far it has been read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0  # of the first byte that was not given out
        self._number = 0
        self._piece = 0
        self._identity: tuple[int, int] | None = None

    def read(self, *, final: bool) -> Iterator[Line]:
        """Give the lines that came since the last read. final: give a torn rest too, instead of leaving it.

        A file that was replaced, or became shorter, is read from its start. Raises NotFoundError.
        """
        try:
            with self.path.open("rb") as file:
                self._find_place(os.fstat(file.fileno()))
                file.seek(self.offset)
                held = bytearray()
                searched = 0
                while chunk := file.read(_CHUNK_BYTES):
                    held += chunk
                    start = 0
                    while (stop := held.find(b"\n", max(start, searched))) >= 0:
                        yield from self._line(bytes(held[start:stop]), taken=stop + 1 - start)
                        start = stop + 1
                    del held[:start]
                    searched = len(held)
                    if len(held) >= LINE_BYTES_MAX:
                        yield self._piece_of(bytes(held))
                        held.clear()
                        searched = 0
                if final and held:
                    yield from self._line(bytes(held), taken=len(held), torn=True)
        except FileNotFoundError:
            raise NotFoundError(f"there is no file {self.path}; nothing of it was imported") from None
        except OSError as error:
            raise NotFoundError(
                f"{self.path} cannot be read ({error.strerror}); what was imported of it before stays; correct that and "
                "import it again"
            ) from error

    def _find_place(self, status: os.stat_result) -> None:
        identity = (status.st_dev, status.st_ino)
        if self._identity not in (None, identity) or status.st_size < self.offset:
            self.offset = self._number = self._piece = 0
        self._identity = identity

    def _line(self, raw: bytes, *, taken: int, torn: bool = False) -> Iterator[Line]:
        if self._piece:
            yield self._piece_of(raw)
            self._piece = 0
            return
        number = self._number + 1
        text = raw.removeprefix(_MARK) if number == 1 else raw
        self.offset += taken
        self._number = number
        if text.strip():
            yield _decode(number, text, torn=torn)

    def _piece_of(self, raw: bytes) -> Line:
        if self._piece == 0:
            self._number += 1
        self._piece += 1
        self.offset += len(raw)
        return Line(number=self._number, raw=raw, fault=f"is longer than {LINE_BYTES_MAX} bytes", piece=self._piece - 1)


def _decode(number: int, raw: bytes, *, torn: bool) -> Line:
    try:
        value = decode_json(raw, what="the line")
    except EverlogError as error:
        value = _mend(raw)
        why = "is torn: it ends before its JSON does" if torn and value is None else _reason(error)
        return Line(number=number, raw=raw, value=value, fault=why)
    if value is None:
        return Line(number=number, raw=raw, fault="is null, which says nothing")
    if torn and not isinstance(value, dict):  # 12 may be the beginning of 123
        return Line(number=number, raw=raw, fault="is torn: it has no end")
    return Line(number=number, raw=raw, value=value)


def _mend(raw: bytes) -> Any:
    """Read JSON that cannot be kept as it is: halves of characters become question marks, of double keys the last counts."""
    try:
        value = json.loads(raw.decode("utf-8", "replace"))
        return decode_json(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), what="the line")
    except (ValueError, RecursionError):
        return None


def _reason(error: EverlogError) -> str:
    return error.message.removeprefix("the line ").partition("; nothing was written")[0][:REASON_CHARACTERS_MAX]
