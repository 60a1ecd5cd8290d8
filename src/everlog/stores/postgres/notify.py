"""Optional notifications, which lower the latency of following; polling is what is promised.

1. They are sent outside of the transactions that append, at most one in PAUSE_SECONDS a process: inside, they would have every
   commit of the database wait for the one before it.
2. They are heard on a connection of its own, while somebody waits; where it is lost, polling goes on, and it is made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from typing import Final

import psycopg

from everlog.errors import EverlogError
from everlog.stores.postgres.connections import Connections

PAUSE_SECONDS: Final = 0.01
_LOOK_SECONDS: Final = 0.5  # between looks at whether the store was closed
_AGAIN_SECONDS: Final = 5.0  # before a lost connection is made again


class Notifier:
    """Tells other processes that something was recorded, and hears it from them. heard: called from a thread of its own."""

    def __init__(self, connections: Connections, conninfo: str, heard: Callable[[], None]) -> None:
        self._connections = connections
        self._conninfo = conninfo
        self._heard = heard
        self._due = Event()
        self._closed = Event()
        self._sender: Thread | None = None
        self._listener: Thread | None = None

    def tell(self) -> None:
        """Have a notification be sent soon."""
        if self._sender is None:
            self._sender = Thread(target=self._send, name="everlog-notify", daemon=True)
            self._sender.start()
        self._due.set()

    def listen(self) -> None:
        """Hear notifications from now on."""
        if self._listener is None:
            self._listener = Thread(target=self._hear, name="everlog-listen", daemon=True)
            self._listener.start()

    def close(self) -> None:
        """Send and hear no more."""
        self._closed.set()
        self._due.set()
        for thread in (self._sender, self._listener):
            if thread is not None:
                thread.join(2 * _LOOK_SECONDS)

    def _send(self) -> None:
        while self._due.wait() and not self._closed.is_set():
            self._due.clear()
            with suppress(psycopg.Error, EverlogError), self._connections.writer() as connection:
                self._connections.execute(connection, self._connections.statements["notify"])
            time.sleep(PAUSE_SECONDS)

    def _hear(self) -> None:
        while not self._closed.is_set():
            with suppress(psycopg.Error):
                self._hear_on_one()
            self._closed.wait(_AGAIN_SECONDS)

    def _hear_on_one(self) -> None:
        with psycopg.connect(self._conninfo, autocommit=True, application_name="everlog-listen") as connection:
            connection.execute(self._connections.statements["listen"])
            while not self._closed.is_set():
                for _ in connection.notifies(timeout=_LOOK_SECONDS):
                    self._heard()
                    if self._closed.is_set():
                        return
