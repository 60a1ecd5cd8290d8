"""The time that leases are measured by: since this machine started, sleep included, with the name of that start.

Nobody sets it, so a wall clock that jumps shortens and lengthens no lease. On Linux it is CLOCK_BOOTTIME and the kernel's
boot_id; on macOS CLOCK_MONOTONIC, which goes on in sleep there, and kern.bootsessionuuid.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from everlog.core.lease import Ticks
from everlog.errors import UnsupportedStoreError

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def read_ticks() -> Ticks:
    """Give the time now. 0.4 µs."""
    return Ticks(_boot(), time.clock_gettime_ns(_CLOCK) // 1_000)


@cache
def _boot() -> str:
    """Give the name of this start of the machine."""
    try:
        if sys.platform == "darwin":
            words = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise UnsupportedStoreError(
            f"this machine does not say which of its starts this is ({error}); no lease was taken; leases need it to know how old "
            "they are"
        ) from error
