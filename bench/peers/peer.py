"""The one interface that every peer is measured through. It knows no peer, and nothing beyond the standard library.

Each peer stands in a file of its own, and runs in a process of its own with the Python it is installed in. A method may be a
coroutine function: the worker then runs it on one event loop that it keeps.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

TEXT = "x" * 985  # the content of every event; as JSON a body of 1,000 bytes and a little, as in bench/work.py
MEMBERS = 200
DOCUMENT = {f"member{number}": {"text": f"{number:03d}" * 160} for number in range(MEMBERS)}  # about 100 kB as JSON
T = TypeVar("T")


def changed(number: int) -> tuple[str, dict[str, object]]:
    """Give the member of the document that a change sets, and its new value."""
    return f"member{number * 7 % MEMBERS}", {"text": f"{number:06d}" * 80, "number": number}


Maybe = T | Awaitable[T]


class LackingError(Exception):
    """The peer has no such thing; the text says what it has instead."""


class Peer(Protocol):
    """A store of sessions in one SQLite file."""

    tasks: bool  # whether many writers are asyncio tasks; threads where they are not

    def open(self, path: Path) -> Maybe[None]:
        """Make a store in a new file, with the peer's own defaults."""
        ...

    def settings(self) -> Maybe[str]:
        """Give SQLite's version, `journal_mode` and `synchronous` as a writing connection of the peer has them."""
        ...

    def writer(self) -> Maybe[Callable[[], Maybe[object]]]:
        """Begin a new session; give the function that appends one event to it, made from a dict or a text."""
        ...

    def batch(self, size: int) -> Maybe[object]:
        """Append `size` events to a session, in one call that succeeds or fails whole. Raises LackingError."""
        ...

    def build(self, size: int) -> Maybe[None]:
        """Make a session of `size` events by the fastest way there is, for the methods below."""
        ...

    def append(self) -> Maybe[object]:
        """Append one event to the built session."""
        ...

    def read(self, last: int | None) -> Maybe[list[str]]:
        """Give the contents of the last events of the built session, or of all, decoded, oldest first."""
        ...

    def build_for_fork(self, size: int) -> Maybe[None]:
        """Make a session of `size` events that can be forked. Raises LackingError."""
        ...

    def fork(self) -> Maybe[object]:
        """Fork that session at its end, or as near to it as the peer can."""
        ...

    def state_at(self, number: int) -> Maybe[int]:
        """Give how many messages the built session's state held after its first `number` events. Raises LackingError."""
        ...

    def build_document(self, changes: int) -> Maybe[None]:
        """Make a state of DOCUMENT, and change a member of it so many times, each durably. Raises LackingError."""
        ...

    def document_at(self, number: int) -> Maybe[int]:
        """Give the "number" that the change `number` (from 1) set, out of the state after it."""
        ...

    def close(self) -> Maybe[None]:
        """Close every connection."""
        ...


PEERS: dict[str, str] = {  # by name, the module of a `Peer` class named `Measured`; in the order of the table's columns
    "everlog": "bench.peers.everlog_store",
    "everlog-async": "bench.peers.everlog_async",
    "eventsourcing": "bench.peers.eventsourcing_sqlite",
    "openai-agents": "bench.peers.openai_agents",
    "langgraph": "bench.peers.langgraph_sqlite",
    "google-adk": "bench.peers.google_adk",
}
BESIDE = {  # the face of Everlog that a peer is compared with: the one that has writers of the same kind
    "eventsourcing": "everlog",
    "openai-agents": "everlog-async",
    "langgraph": "everlog",
    "google-adk": "everlog-async",
}


def describe(version: str, journal: str, synchronous: int) -> str:
    """Give settings as one line."""
    names = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}
    return f"SQLite {version}, {journal.upper()}, synchronous {names[synchronous]}"
