"""Bodies of requests and answers as JSON says them, which is how a client sends them.

1. A caller may give iterators, which can be read once: they are read here first, and the client is given what gives their items again.
2. What JSON does not say, nor a client makes of it, is left out, and that is told.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from io import IOBase
from pathlib import Path
from typing import Any, Final, cast

import msgspec

LEFT_OUT: Final = "[left out]"
_TEXTS: Final = (bytes, bytearray, memoryview)  # what is no list, though it has items


class ReadOnceError(Exception):
    """A body holds an iterator, which the client is to read; `readable_again` gives one that can be."""


class _NotGivenError(Exception):
    """A value says that none was given."""


class _Again(Iterator[Any]):
    """The items of an iterator that was read, to be read once more; and then what it raised."""

    def __init__(self, read: Iterator[Any]) -> None:
        self.items: list[Any] = []
        self._given = 0
        self._error: Exception | None = None
        try:
            self.items.extend(readable_again(item) for item in read)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is raised where the client reads
            self._error = error

    def __next__(self) -> Any:
        if self._given < len(self.items):
            self._given += 1
            return self.items[self._given - 1]
        if self._error is not None:
            raise self._error
        raise StopIteration


def plain(value: Any) -> tuple[Any, bool]:
    """Give a value as JSON says it, in objects of its own, without what the caller did not give; and whether that says all of it.

    Raises ReadOnceError.
    """
    left_out: list[Any] = []

    def kept(each: Any) -> Any:
        try:
            return dumped(each)
        except (TypeError, OSError):
            left_out.append(each)
            return LEFT_OUT

    try:
        said = msgspec.json.decode(msgspec.json.encode(value, enc_hook=kept))
    except (_NotGivenError, UnicodeEncodeError, OverflowError, msgspec.MsgspecError):
        said = json.loads(json.dumps(_given(value), default=kept))
    return said, not left_out


def readable_again(value: Any) -> Any:
    """Give a value with each iterator in it replaced by one that `plain` reads too, and that can still be read."""
    if isinstance(value, dict):
        return {name: readable_again(each) for name, each in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [readable_again(each) for each in cast("list[Any]", value)]
    if isinstance(value, Iterator) and not isinstance(value, IOBase):
        return _Again(cast("Iterator[Any]", value))
    return value


def _is_given(value: Any) -> bool:
    return type(value).__name__ not in ("Omit", "NotGiven")  # as both clients name their own


def _given(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _given(each) for name, each in cast("dict[Any, Any]", value).items() if _is_given(each)}
    if isinstance(value, (list, tuple)):
        return [_given(each) for each in cast("list[Any]", value) if _is_given(each)]
    return value


def dumped(value: Any) -> Any:
    """Give what the clients send of a value that is not JSON's own. Raises TypeError where that is nothing, OSError for a file."""
    if not _is_given(value):
        raise _NotGivenError
    if hasattr(value, "model_dump"):
        without = getattr(value, "__api_exclude__", None)  # as Anthropic's client marks what it does not send
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude=without, warnings=False)
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, (Path, IOBase)):
        return b64encode(_read(value)).decode()
    if isinstance(value, _Again):
        return value.items
    if isinstance(value, Iterator):
        raise ReadOnceError("the request holds an iterator, which can be read only once")
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    if isinstance(value, Iterable) and not isinstance(value, _TEXTS):
        return list(cast("Iterable[Any]", value))
    raise TypeError(f"a {type(value).__name__} is nothing that is sent")


def _read(file: Path | IOBase) -> bytes:
    """Read a file from where it stands, and leave it there."""
    if isinstance(file, Path):
        return file.read_bytes()
    place = file.tell()
    content = cast("Any", file).read()
    file.seek(place)
    return content.encode() if isinstance(content, str) else content
