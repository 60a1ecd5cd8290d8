"""Counting tokens: by the caller's counter, else by an estimate that is marked as one.

The estimate is a quarter of the UTF-8 bytes of what is sent; a picture that is sent inside counts PICTURE_TOKENS. `scale` is what
the provider counted for each token that was estimated, where a session has recorded both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from everlog.core.event import Event
from everlog.errors import LimitError

TokenCounter = Callable[[str], int]
BYTES_PER_TOKEN: Final = 4
PICTURE_TOKENS: Final = 1_600  # of one picture; providers count 85 to 3,000, by its size
SCALE_MIN, SCALE_MAX = 0.5, 3.0
_FRAME_BYTES: Final = 40  # measured on tool uses and results in Anthropic's format, which puts most round them
_INLINE = re.compile(rb'"(?:data:[\w/+.-]+;base64,)?[A-Za-z0-9+/]{4000,}={0,2}"')


class Tokens:
    """Counts what is sent. counter: given text, gives tokens; None to estimate. scale: of the estimate."""

    def __init__(self, counter: TokenCounter | None = None, scale: float = 1.0) -> None:
        self._counter = counter
        self.scale = scale

    @property
    def method(self) -> str:
        """How tokens are counted: "counter", "usage" (estimated, and put right by what a provider counted) or "estimate"."""
        if self._counter is not None:
            return "counter"
        return "estimate" if self.scale == 1.0 else "usage"

    def of(self, sent: Any) -> int:
        """Count a value as it is sent, as JSON; a string as it is."""
        encoded = sent.encode() if isinstance(sent, str) else msgspec.json.encode(sent)
        if self._counter is None:
            return self.of_bytes(estimated_bytes(encoded))
        counted = self._counter(encoded.decode())
        if isinstance(counted, bool) or not isinstance(counted, int) or counted < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LimitError(
                f"token_counter gave {counted!r:.50} where it gives an integer of at least 0; nothing was written; correct it"
            )
        return counted

    def of_bytes(self, count: int) -> int:
        """Estimate the tokens of so many bytes, rounded up."""
        return int(-(-count * self.scale // BYTES_PER_TOKEN))


def estimated_bytes(encoded: bytes) -> int:
    """Give the bytes of what is sent, a picture's as those of as many tokens as it counts."""
    if len(encoded) < BYTES_PER_TOKEN * PICTURE_TOKENS:
        return len(encoded)
    size = len(encoded)
    for found in _INLINE.finditer(encoded):
        size += BYTES_PER_TOKEN * PICTURE_TOKENS - len(found[0])
    return size


def sent_bytes(event: Event) -> int:
    """Give about how many bytes an event takes where it is sent: those of its data and of what a provider's format puts round it.

    Its metadata, in which importers keep what it was read from, is not sent.
    """
    if event.raw is None:
        return 0
    return _FRAME_BYTES + estimated_bytes(msgspec.json.encode([event.data, event.rationale]))


def next_scale(counted: int, estimated: int) -> float | None:
    """Give the scale that a provider's count of an estimated request asks for, in steps of an eighth; None where it says nothing."""
    if counted <= 0 or estimated <= 0:
        return None
    return min(max(round(8 * counted / estimated) / 8, SCALE_MIN), SCALE_MAX)
