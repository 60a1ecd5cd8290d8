"""What the tests of killed compacting run in processes of their own: a zygote that forks, for each line, a process that is killed.

    packer.py       a line is JSON: path, folder, what (compact, past, archive, restore, erase), at (the step to be killed at)

A step is before and behind each write to the store and each call to object storage. The zygote says how the process ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from everlog import archiving
from everlog.compacting import compact_past
from everlog.session import Settings
from everlog.store import Store
from everlog.stores.objects import Objects, connect
from everlog.stores.sqlite.store import open_sqlite

OBJECT_BYTES = 12_000  # so that there are a few


class Steps:
    """Counts steps, and ends the process at one of them as nothing can be done about."""

    def __init__(self, at: int) -> None:
        self.left = at

    def reach(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1

    def around(self, call: Any) -> Any:
        """Give a call with a step before it and one behind it."""

        def stepped(*given: Any, **named: Any) -> Any:
            self.reach()
            result = call(*given, **named)
            self.reach()
            return result

        return stepped


class SteppedPlace:
    """A place for objects, each of whose calls has steps."""

    def __init__(self, url: str, steps: Steps) -> None:
        place = connect(url)
        self.put, self.get, self.delete = (steps.around(call) for call in (place.put, place.get, place.delete))


def open_stepped(path: str, steps: Steps) -> Store:
    """Open a store whose writes and calls to object storage have steps."""
    objects = Objects(opening=lambda url: SteppedPlace(url, steps))
    storage = open_sqlite(Path(path), clock=lambda: time.time_ns() // 1_000, draw=os.urandom, objects=objects)
    storage.write = steps.around(storage.write)
    return Store(storage, Settings(os.urandom), url=path)


def act(store: Store, what: str, folder: str) -> None:
    """Do what a line asks for."""
    archiving.OBJECT_BYTES = OBJECT_BYTES
    match what:
        case "compact":
            store.compact(older_than=0)
        case "past":
            for branch in store.storage.cold(-1, 10):
                at = -1
                while at < (at := compact_past(store.storage, branch.branch, stop=branch.size, events_max=64)):
                    pass
        case "archive":
            store.archive(folder, older_than=0)
        case "restore":
            store.restore()
        case "erase":
            store.session("s").erase([5, 70, 141], reason="asked for")
        case _:
            store.delete("other", reason="asked for")


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                act(open_stepped(asked["path"], Steps(asked["at"])), asked["what"], asked["folder"])
                os._exit(0)
            finally:
                os._exit(70)
        _, status = os.waitpid(child, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()
