"""What test_examples.py runs in a process of its own: examples/model_loop.py, killed at every moment that it has.

    killed_loop.py EXAMPLE FOLDER

A moment is before and after each write to the store is committed, and before and after the tool's effect, a line in a file. A
life that is killed (SIGKILL) at moment N, for N = 0, 1, …, is followed by one that is not, on the same store; at last one store is
gone on with by lives that are each a moment longer than the last. Leases of the dead have lapsed: each life's clock of leases is an
hour ahead of the last. The last line on standard output is JSON: how many moments there are, and how many lives that one store took.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socketserver
import sys
from functools import partial
from typing import Any

import everlog
from everlog.core.lease import Ticks
from everlog.stores.sqlite import store as sqlite
from everlog.stores.ticks import read_ticks

FAR = 1_000_000
lives = 0


class Mortal:
    """Counts the moments of a life, and ends it at one of them."""

    def __init__(self, last: int) -> None:
        self.left = last

    def moment(self) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def live(example: str, path: str, mortal: Mortal) -> None:
    """Run the example on a store whose every write is two moments, and whose tool has an effect between two."""
    socketserver.BaseServer.serve_forever.__defaults__ = (0.01,)  # the seconds that its end takes
    plain_open, plain_sqlite = everlog.open, sqlite.open_sqlite
    sqlite.open_sqlite = partial(plain_sqlite, ticks=lambda: Ticks("boot", read_ticks().micros + lives * 3_600_000_000))

    def opened(path: str) -> everlog.Store:
        store = plain_open(path, durability="relaxed", snapshots=False)  # SIGKILL takes nothing from the system's cache
        plain = store.storage.write

        def write(request: Any) -> Any:
            mortal.moment()
            receipt = plain(request)
            mortal.moment()
            return receipt

        store.storage.write = write
        return store

    def add(given: dict[str, int]) -> str:
        mortal.moment()
        with open(f"{path}.effects", "a") as effects:
            effects.write("added\n")
        mortal.moment()
        return str(given["a"] + given["b"])

    everlog.open = opened
    module = runpy.run_path(example)
    module["TOOLS"]["add"] = add
    module["main"](path)


def alive(example: str, path: str, last: int) -> bool:
    """Live once, in a child; tell whether it came to its end."""
    global lives
    lives += 1
    child = os.fork()
    if child == 0:
        try:
            live(example, path, Mortal(last))
            sys.stdout.flush()
            os._exit(0)
        except BaseException as error:
            print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), flush=True)
            os._exit(70)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert os.WEXITSTATUS(status) == 0, "a life failed"
        return True
    assert os.WTERMSIG(status) == signal.SIGKILL
    return False


def main(example: str, folder: str) -> None:
    moments = 0
    while not alive(example, f"{folder}/{moments}.db", moments):
        assert alive(example, f"{folder}/{moments}.db", FAR)
        moments += 1
    again = 0
    while not alive(example, f"{folder}/again.db", again):
        again += 1
    print(json.dumps({"moments": moments, "again": again}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
