"""Clients that do random operations on shared sessions, and write down what they call and what they are told.

    recorder.py STORE         a process that forks clients before any store is opened: for each line of JSON on standard input,
                              {"sessions": …, "clients": [{"name", "seed", "file", "kill"}]}, it lets the clients begin together,
                              kills those with a time in "kill" after so many seconds, and says how each ended

A client writes a line before each operation and one after it, with the time of a clock that all processes share. What was
written outlives a kill: it is in the kernel.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import everlog
from everlog.errors import BusyError, ConflictError, FencedError, InvalidPlaceError, OutcomeUnknownError

TTL = 0.25  # of leases: others wait so long for a client that was killed
OPERATIONS = 14
KEYS = ("a", "b", "c")


def label_of(event: everlog.Event) -> str:
    """Give what `linearize.Model` calls an event."""
    if event.type.startswith("lease."):
        return f"{event.type.removeprefix('lease.')} {event.data['token']}"
    return event.data["reason"] if event.type == "session.rewound" else event.data["label"]


def labels_of(events: Iterable[everlog.Event]) -> list[str]:
    return [label_of(event) for event in events]


class Client:
    """Does random operations. write: takes a line."""

    def __init__(
        self, store: everlog.Store, sessions: Sequence[str], name: str, seed: int, write: Callable[[bytes], Any]
    ) -> None:
        self.store = store
        self.sessions = {each: store.session(each) for each in sessions}
        self.name = name
        self.chance = random.Random(seed)
        self.write = write
        self.count = 0

    def run(self, operations: int) -> None:
        while self.count < operations:
            name = self.chance.choice(list(self.sessions))
            act = self.chance.choices(
                [self.append, self.keyed, self.rewind, self.fork, self.read, self.size, self.work],
                [4, 3, 1, 1, 2, 1, 2],
            )[0]
            act(name)

    def record(self, session: str, kind: str, label: str, call: Callable[[], list[Any]], **asked: Any) -> list[Any]:
        """Do one operation, with a line before and a line after it."""
        number = self.count
        self.count += 1
        self._say({"number": number, "session": session, "kind": kind, "label": label, **asked})
        try:
            result = call()
        except FencedError:
            result = ["fenced"]
        except ConflictError:
            result = ["conflict"]
        except InvalidPlaceError:
            result = ["place"]
        except (BusyError, OutcomeUnknownError):
            result = ["unknown"]
        self._say({"number": number, "result": result})
        return result

    def _say(self, line: dict[str, Any]) -> None:
        self.write(json.dumps({"client": self.name, "at": time.monotonic_ns(), **line}).encode() + b"\n")

    def label(self) -> str:
        return f"{self.name}:{self.count}"

    def append(self, name: str, token: int | None = None) -> None:
        session, label = self.sessions[name], self.label()
        asked: dict[str, Any] = {"token": token, "inbox": self.chance.random() < 0.3}
        expected = None
        if self.chance.random() < 0.5:
            expected = session.head
            asked["expected"] = [session.branch_id, expected.size]

        def call() -> list[Any]:
            kind = "note" if asked["inbox"] else "agent.message"
            return ["at", session.append(kind, {"content": "x", "label": label}, expected=expected).position]

        if self.record(name, "append", label, call, **asked) == ["conflict"]:
            session.refresh()

    def keyed(self, name: str, token: int | None = None) -> None:
        session, key = self.sessions[name], self.chance.choice(KEYS)

        def call() -> list[Any]:
            event = session.append("agent.message", {"content": "x", "label": f"key {key}"}, key=key)
            return ["repeated" if event.repeated else "at", event.position]

        self.record(name, "append", f"key {key}", call, keyed=True, token=token)

    def rewind(self, name: str, token: int | None = None) -> None:
        session, label = self.sessions[name], self.label()
        to = self.chance.randint(session.head.size // 2, session.head.size)
        self.record(
            name, "rewind", label, lambda: ["at", session.rewind(to, reason=label).position], token=token, to=to
        )

    def fork(self, name: str) -> None:
        session, label = self.sessions[name], self.label()
        to = self.chance.randint(0, session.head.size)

        def call() -> list[Any]:
            fork = session.fork(to, id=f"{name}/{label}")
            return ["labels", *labels_of(fork.slice(0, to))]

        self.record(name, "fork", label, call, to=to)

    def read(self, name: str) -> None:
        self.record(name, "read", self.label(), lambda: ["labels", *labels_of(self.sessions[name].slice(0))])

    def size(self, name: str) -> None:
        self.record(name, "size", self.label(), lambda: ["size", self.sessions[name].refresh().size])

    def work(self, name: str) -> None:
        """Take the lease, write with it, give it back."""
        held: list[Any] = []
        patience = self.chance.choice([0.0, 2 * TTL])

        def take() -> list[Any]:
            held.append(self.sessions[name].lease(self.name, TTL, timeout=patience))
            return ["token", held[0].token]

        if self.record(name, "take", self.label(), take)[0] != "token":
            return
        token = held[0].token
        for _ in range(self.chance.randint(1, 4)):
            self.chance.choice([self.append, self.append, self.keyed, self.rewind])(name, token)
        self.record(name, "release", self.label(), lambda: ["at", held[0].release().position], token=token)
        self.sessions[name] = self.store.session(name)  # a handle whose lease was lost is refused for ever


def child(path: str, sessions: Sequence[str], client: dict[str, Any], ready: int, go: int) -> None:
    """Be one client, in a process of its own."""
    file = os.open(client["file"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with everlog.open(path) as store:
        made = Client(store, sessions, client["name"], client["seed"], lambda line: os.write(file, line))
        os.write(ready, b"r")
        os.read(go, 1)  # ends when the parent closes its end
        made.run(OPERATIONS)


def fork_clients(path: str, asked: dict[str, Any]) -> list[int]:
    """Run the clients of one history to their ends; give these."""
    ready, said = os.pipe()
    go, begin = os.pipe()
    children: list[int] = []
    for client in asked["clients"]:
        made = os.fork()
        if made == 0:
            status = 70
            try:
                os.close(begin)
                child(path, asked["sessions"], client, said, go)
                status = 0
            finally:
                os._exit(status)
        children.append(made)
    os.close(go)
    os.close(said)
    waiting = len(children)
    while waiting and (heard := os.read(ready, waiting)):
        waiting -= len(heard)
    os.close(ready)
    os.close(begin)
    began = time.monotonic()
    for moment, made in sorted(
        (client["kill"], made)
        for client, made in zip(asked["clients"], children, strict=True)
        if client["kill"] is not None
    ):
        time.sleep(max(0.0, began + moment - time.monotonic()))
        os.kill(made, signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(made, 0)[1]) for made in children]


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(fork_clients(sys.argv[1], json.loads(line))), flush=True)
