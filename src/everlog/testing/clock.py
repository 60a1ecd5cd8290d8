"""A clock that moves only when it is told to, backwards too."""

from __future__ import annotations

START_MICROS = 1_795_000_000_000_000  # in November 2026


class FixedClock:
    """Give it where a store takes a clock: microseconds since 1970 UTC."""

    def __init__(self, micros: int = START_MICROS) -> None:
        self.micros = micros

    def __call__(self) -> int:
        return self.micros

    def advance(self, *, seconds: float) -> None:
        """Move on; a negative number moves back, as clocks that are set do."""
        self.micros += round(seconds * 1_000_000)
