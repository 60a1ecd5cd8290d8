"""What the tests of killed erasing run in processes of their own: a zygote that forks, for each line, a process that is killed.

    eraser.py       a line is JSON: path, and at: the point of the disk (a write, a truncation, a removal, a sync) to be killed at;
                    keys: a folder, that seals what is on record before it is destroyed: its files' syncs are points too

The zygote says how the process ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from everlog.testing.faulty import Fault, FaultyDisk, open_faulty

ERASED = [2, 5, 70, 75, 77]


class KillingDisk(FaultyDisk):
    """A disk at one of whose points the process is killed. at: counted from when it is set; None for never."""

    at: int | None = None

    def reach(self, kind: str) -> Fault | None:  # type: ignore[override]
        if self.at == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.at is not None:
            self.at -= 1
        return super().reach(kind)  # type: ignore[arg-type]


def counted(fsync: Callable[[int], None], disk: KillingDisk) -> Callable[[int], None]:
    """A sync of files of the library's own, before and behind each of which it may be killed."""

    def sync(descriptor: int) -> None:
        disk.reach("sync")
        fsync(descriptor)
        disk.reach("sync")

    return sync


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                disk = KillingDisk()
                store = open_faulty(Path(asked["path"]), disk)
                session = store.session("s")
                disk.at = asked["at"]
                os.fsync = counted(os.fsync, disk)
                session.erase(ERASED, reason="asked for", actor="ada", keys=asked.get("keys"))
                os._exit(0)
            finally:
                os._exit(70)
        _, status = os.waitpid(child, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()
