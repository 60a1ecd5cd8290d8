"""A research agent of five stages, which may be killed anywhere and goes on from exactly there: run it again.

python examples/research_agent.py STORE

STORE.effects stands for the outside world: every search and every mail is a line in it, under its effect key, and a world that knows
the key does nothing twice. Kill it as often as you like (KILL_AT=n makes it kill itself before its n-th durable write).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import everlog

SOURCES = ("papers", "news", "code")


class World:
    """What is outside: it does what it is asked once for each effect key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def do(self, what: str, effect_key: str) -> str:
        known = dict(line.split(" ", 1) for line in self.path.read_text().splitlines()) if self.path.exists() else {}
        if effect_key not in known:
            with self.path.open("a") as file:
                file.write(f"{effect_key} {what}\n")
        return what.upper()


def research(run: Any, world: World, question: str) -> str:
    """The agent's work. Everything that the world is asked for is a step."""

    def ask(what: str, effect_key: str) -> str:
        return world.do(what, effect_key)

    with run.stage("plan"):
        plan = run.step("plan", lambda q: [f"{source}: {q}" for source in SOURCES], question)
    with run.stage("collect"):
        found = [run.step(f"search {number}", ask, query) for number, query in enumerate(plan)]
    with run.stage("read"):
        notes = [run.step("note", lambda text: text.title(), text) for text in found]
    with run.stage("write"):
        report = run.step("draft", "; ".join, notes)
    with run.stage("send"):
        run.step("send", ask, f"mail {len(report)} characters")
    return report


def die_at(store: everlog.Store, writes: int) -> None:
    """Kill this process at its n-th write, before it is made: what `kill -9` does at the worst moment."""
    write, count = store.storage.write, iter(range(1, sys.maxsize))

    def write_or_die(request: Any) -> Any:
        if next(count) == writes:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(request)

    store.storage.write = write_or_die  # pyright: ignore[reportAttributeAccessIssue]  # an example may die as it likes


def main(store_path: str, effects: str) -> None:
    """Do the research, or go on with it."""
    with everlog.open(store_path) as store:
        store.get_or_create("research", title="What makes logs fast?")
        if "KILL_AT" in os.environ:
            die_at(store, int(os.environ["KILL_AT"]))
        # The lease of a process that was killed lapses after half a second; then this one takes over.
        with store.wake("research", holder=f"process {os.getpid()}", ttl=0.5, timeout=30) as woken:
            if woken.pending.steps:
                print(f"going on: {', '.join(step.name for step in woken.pending.steps)} had begun")
            with woken.run(policy="retry") as run:
                report = research(run, World(Path(effects)), "what makes logs fast?")
        print(report)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[1] + ".effects")
