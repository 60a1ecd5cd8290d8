"""What the crash tests run in processes of their own: a zygote that forks appenders, and appenders that say what was kept.

    appender.py zygote PATH                     for each line SEED on standard input, fork an appender that goes on until
                                                it is killed; the zygote says its process id, the appender all it was told
    appender.py append PATH SESSION WRITER N    append N times, then end

Every line goes out with one write of less than a pipe's buffer, so lines of several threads never mix. A line is written
only after the append was acknowledged: what stands in it must be in the store, whatever happens after.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import everlog

THREADS = 3


def say(line: dict[str, Any]) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def append_until_killed(path: str, seed: int) -> None:
    store = everlog.open(path)
    threads = [
        threading.Thread(target=append_one_after_the_other, args=(store.session("crash"), seed, number))
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def append_one_after_the_other(session: everlog.Session, seed: int, thread: int) -> None:
    chance = random.Random(seed * THREADS + thread)
    for number in range(1_000_000):
        name = f"{seed}-{thread}-{number}"
        body = {"name": name, "fill": "x" * chance.choice([0, 10, 500, 20_000])}
        kind = chance.randrange(4)
        if kind == 0:
            batch = [everlog.NewEvent("crash.batch", {**body, "part": part}) for part in range(chance.randint(2, 5))]
            events = session.extend(batch, key=f"batch-{name}")
        elif kind == 1:
            events = [session.append("crash.keyed", body, key=f"key-{name}")]
        elif kind == 2:
            events = [session.append("crash.attached", body, attachments={"a.bin": name.encode()})]
        else:
            events = [session.append("crash.plain", body)]
        say({"at": [[event.position, event.hash] for event in events], "key": events[0].key, "name": name})


def fork_appenders(path: str) -> None:
    """Fork before any store is opened: a round then costs what an appender costs, not what starting Python costs."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                append_until_killed(path, int(line))
            finally:
                os._exit(70)
        say({"pid": child})
        _, status = os.waitpid(child, 0)
        say({"ended": status})


def append_many(path: str, name: str, writer: str, count: int) -> None:
    """Append, one after the other, and say for each how long it took."""
    with everlog.open(path) as store:
        session = store.session(name)
        say({"ready": writer})
        sys.stdin.readline()  # all writers begin together
        for number in range(count):
            began = time.monotonic()
            event = session.append("many.appended", {"writer": writer, "number": number}, key=f"{writer}-{number}")
            waited = time.monotonic() - began
            head = session.head
            say(
                {
                    "at": event.position,
                    "hash": event.hash,
                    "number": number,
                    "waited": waited,
                    "head": [head.size, head.root],
                    "repeated": event.repeated,
                }
            )
        say({"done": writer})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["zygote", path]:
            fork_appenders(path)
        case ["append", path, name, writer, count]:
            append_many(path, name, writer, int(count))
        case _:
            sys.exit(f"{Path(__file__).name}: see the top of this file")
