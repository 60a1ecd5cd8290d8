"""A TCP address before a PostgreSQL's socket, that cuts connections where a test says so, and leads to another server later.

It knows the end of a transaction by its words, so the addresses of tests have `prepare=no`: then every COMMIT is sent in full.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Literal

from everlog.testing.servers import PostgresServer

# Where a connection is cut: where it is asked to COPY; or the server gets no COMMIT, or a part of it, or all of it and the client not its answer, or half of that;
# or all of it LATE_SECONDS after the client saw its connection end.
Cut = Literal["copying", "before", "within", "behind", "answering", "late"]
LATE_SECONDS = 0.2
COPY = b"FORMAT BINARY"  # a statement that the rows follow
COMMIT = b"COMMIT\x00"  # ends what asks for it, and what says that it was done


class Link:
    """One address; connections lead to `server` as it is when they are made. cuts: where the next COMMITs are cut.

    With `cuts_are_final`, nobody reaches the server from a cut on.
    """

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.reachable = True
        self.cuts_are_final = False
        self.cuts: deque[Cut] = deque()
        self.made = 0  # cuts that were
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, database: str, **query: str) -> str:
        port = str(self._listener.getsockname()[1])
        plain = {"host": "127.0.0.1", "port": port, "sslmode": "disable", "gssencmode": "disable", "prepare": "no"}
        return self.server.url(database, **plain, **query)

    def close(self) -> None:
        self.reachable = False
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """End every connection."""
        for each in list(self._open):
            self._end(each)

    def _accept(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                client, _ = self._listener.accept()
                upstream = socket.socket(socket.AF_UNIX)
                try:
                    if not self.reachable:
                        raise ConnectionRefusedError
                    upstream.connect(str(Path(self.server.folder) / ".s.PGSQL.5432"))
                except OSError:
                    client.close()
                    upstream.close()
                    continue
                self._open |= {client, upstream}
                pair = _Pair(self, client, upstream)
                for pump in (pair.ask, pair.answer):
                    threading.Thread(target=pump, daemon=True).start()

    def _end(self, *sockets: socket.socket) -> None:
        for each in sockets:
            self._open.discard(each)
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class _Pair:
    def __init__(self, link: Link, client: socket.socket, upstream: socket.socket) -> None:
        self.link, self.client, self.upstream = link, client, upstream
        self.cut: Cut | None = None

    def ask(self) -> None:
        with suppress(OSError):
            while asked := self.client.recv(1 << 20):
                copying = bool(self.link.cuts) and self.link.cuts[0] == "copying"
                end = asked.find(COPY if copying else COMMIT)
                if end >= 0 and self.link.cuts:
                    self.cut = self.link.cuts.popleft()
                    self.link.made += 1
                    if self.link.cuts_are_final:
                        self.link.reachable = False
                    if self.cut in {"before", "within"}:
                        self.upstream.sendall(asked[: 0 if self.cut == "before" else end + 3])
                        break
                    if self.cut == "late":
                        self.link._end(self.client)
                        time.sleep(LATE_SECONDS)
                        self.upstream.sendall(asked)
                        return  # `answer` ends what is left
                    if self.cut == "copying":
                        self.upstream.sendall(asked)
                        break
                self.upstream.sendall(asked)
        self.link._end(self.client, self.upstream)

    def answer(self) -> None:
        with suppress(OSError):
            while answered := self.upstream.recv(1 << 20):
                end = answered.find(COMMIT)
                if end >= 0 and self.cut is not None:
                    if self.cut == "answering":
                        self.client.sendall(answered[: end + 3])
                    break
                self.client.sendall(answered)
        self.link._end(self.client, self.upstream)
