"""A clock that moves only when it is told to, backwards too, and ticks that do so forwards only."""

from __future__ import annotations

from everlog.core.lease import Ticks

START_MICROS = 1_795_000_000_000_000  # in November 2026
START_TICKS = 60_000_000  # a minute after the machine started


class FixedClock:
    """Give it where a store takes a clock: microseconds since 1970 UTC."""

    def __init__(self, micros: int = START_MICROS) -> None:
        self.micros = micros

    def __call__(self) -> int:
        return self.micros

    def advance(self, *, seconds: float) -> None:
        """Move on; a negative number moves back, as clocks that are set do."""
        self.micros += round(seconds * 1_000_000)


class FixedTicks:
    """Give it where a store takes ticks, which leases are measured by. They move on when they are told to, and never back."""

    def __init__(self) -> None:
        self.starts = 1
        self.micros = START_TICKS

    def __call__(self) -> Ticks:
        return Ticks(f"start-{self.starts}", self.micros)

    def advance(self, *, seconds: float) -> None:
        """Move on by 0 or more seconds."""
        assert seconds >= 0, "ticks never go back"
        self.micros += round(seconds * 1_000_000)

    def restart(self) -> None:
        """Start the machine anew: its ticks begin again, under another name."""
        self.starts += 1
        self.micros = START_TICKS
