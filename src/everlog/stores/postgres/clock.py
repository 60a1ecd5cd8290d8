"""The server's time, which the log's times and its leases are of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from everlog.core.lease import Ticks

BOOT: Final = "server"  # whose clock leases are measured by; it goes on over restarts


def _since_start() -> int:
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000


class Clock:
    """Tells the server's time: in a transaction what it said there, elsewhere what it said last and what passed since.

    now, ticks: another clock, in tests only.
    """

    def __init__(self, now: Callable[[], int] | None, ticks: Callable[[], Ticks] | None) -> None:
        self._now = now
        self._ticks = ticks
        self._ahead = 0  # of the server's clock, before this machine's time since its start; microseconds

    def learn(self, server: int) -> tuple[int, Ticks]:
        """Take what the server says the time is, microseconds since 1970 UTC; give the time and the ticks of a transaction."""
        self._ahead = server - _since_start()
        now = server if self._now is None else self._now()
        return now, Ticks(BOOT, server) if self._ticks is None else self._ticks()

    def now(self) -> int:
        """Give the time, microseconds since 1970 UTC."""
        return _since_start() + self._ahead if self._now is None else self._now()

    def ticks(self) -> Ticks:
        """Give the time that leases are measured by."""
        return Ticks(BOOT, _since_start() + self._ahead) if self._ticks is None else self._ticks()
