"""What test_killed_runs.py runs in a process of its own: a zygote that forks workers on one run until it is complete.

    workflow.py PATH WITNESS POLICY SEED KILLS

A worker opens the store, goes on with the run, and is killed (SIGKILL) at one moment of its life. Moments are counted: before
and after each write to the store is committed, and in each step before and after its effect. An effect is one line with the effect
key, appended to the witness with one write to a file opened with O_APPEND. When a session's run is complete the next session is
begun, until so many workers were killed. One line of JSON for each life goes to standard output.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from typing import Any

import everlog
from everlog.errors import StepUnknownError

STEPS = 50
FAR = 1_000_000


class Mortal:
    """Counts the moments of a life, and ends it at one of them."""

    def __init__(self, last: int) -> None:
        self.left = last

    def moment(self) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def mortal_store(path: str, mortal: Mortal) -> everlog.Store:
    """Open a store whose every write is a moment before and a moment after."""
    store = everlog.open(path, durability="relaxed", snapshots=False)  # SIGKILL takes nothing from the system's cache
    plain = store.storage.write

    def write(request: Any) -> Any:
        mortal.moment()
        receipt = plain(request)
        mortal.moment()
        return receipt

    store.storage.write = write
    return store


def live(path: str, witness: str, policy: Any, name: str, last: int) -> None:
    """Go on with the run of a session to its end."""
    mortal = Mortal(last)
    store = mortal_store(path, mortal)
    out = os.open(witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def act(step: str, effect_key: str) -> str:
        mortal.moment()
        os.write(out, f"{name} {step} {effect_key}\n".encode())
        mortal.moment()
        return step

    def work(number: int) -> Any:
        try:
            return run.step(f"step{number}", act, f"step{number}", policy=policy)
        except StepUnknownError:
            return "unknown"

    with store.get_or_create(name).run() as run:
        results = []
        for stage in range(5):
            with run.stage(f"stage{stage}"):
                results += [work(stage * STEPS // 5 + number) for number in range(STEPS // 5)]
    store.close()
    print(json.dumps({"complete": name, "results": results}), flush=True)


def fork_workers(path: str, witness: str, policy: str, seed: int, kills: int) -> None:
    chance = random.Random(seed)
    number = killed = 0
    while killed < kills:
        life = chance.choice([chance.randrange(8), chance.randrange(60), chance.randrange(250)])
        if killed < 20:
            life = killed  # each of the first moments once
        child = os.fork()
        if child == 0:
            try:
                live(path, witness, policy, f"s{number}", life)
            except BaseException as error:
                print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), flush=True)
                os._exit(70)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            killed += 1
        elif os.WEXITSTATUS(status) == 0:
            number += 1
        else:
            sys.exit("a worker failed")
    if os.fork() == 0:  # the last session is completed by one that is not killed
        live(path, witness, policy, f"s{number}", FAR)
        os._exit(0)
    _, status = os.wait()
    assert os.WEXITSTATUS(status) == 0 and not os.WIFSIGNALED(status)
    print(json.dumps({"killed": killed, "sessions": number + 1}), flush=True)


if __name__ == "__main__":
    place, lines, chosen, source, times = sys.argv[1:]
    fork_workers(place, lines, chosen, int(source), int(times))
