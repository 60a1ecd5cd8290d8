"""Does what it pleases with one file, for as long as it is told, among others that do so too, and looks at what its stores keep.

meddler.py PATH SEED SECONDS restores|keeps KEYS…     restores: puts old copies of the file back; KEYS: where the keys are that the store encrypts with, as EVERLOG_ENCRYPT has them; none for none

In each transaction, what is kept of the ones before is compared with what stands in the file: it ends with an error where they
differ. It says how often it did what, as JSON.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import apsw

import everlog
from everlog import NewEvent
from everlog.errors import CorruptionError, EverlogError
from everlog.stores.sqlite.transaction import Tips, read_branch, read_current_key, read_lease, read_lineage

NAMES = ("a", "b", "c", "d")
looked: Counter[str] = Counter()


class Stale(BaseException):
    """What is kept is not what stands in the file. Not caught by whoever deals with errors of a store."""


def look(tips: Tips, connection: apsw.Connection) -> None:
    """Compare all that is kept with the file. In a write transaction."""
    for branch, tip in tips.by_branch.items():
        row = read_branch(connection, branch)
        assert row is not None
        found = (row.size, row.recorded, row.leaf, row.peaks)
        kept = (tip.size, tip.recorded, tip.leaf, b"".join(tip.peaks))
        same(found, kept, f"tip of branch {branch}")
    for session, tip in tips.by_session.items():
        rows = connection.execute(
            "SELECT current FROM session WHERE id = ? AND deleted IS NULL", (bytes.fromhex(session),)
        )
        same(
            rows.fetchall(), [(tip.branch,)], f"current branch of {session}"
        )  # to its end: a read left open is in the way
    for session, lease in tips.leases.items():
        same(read_lease(connection, session), lease, f"lease of {session}")
    for branch, lineage in tips.lineages.items():
        same(read_lineage(connection, branch, ""), lineage, f"lineage of branch {branch}")
    same(read_current_key(connection), tips.wrapping, "the key that wraps")
    fed, last = connection.execute("SELECT count(*), max(feed) FROM event").fetchone()
    same(
        fed, last or 0, "number of the last event"
    )  # what is fed once stays: no row goes for good, and no number is given twice
    looked["kept" if tips.by_branch else "nothing kept"] += 1


def same(found: Any, kept: Any, what: str) -> None:
    if found != kept:
        raise Stale(f"{what}: {kept} is kept where {found} stands")


def looking() -> None:
    """Have every transaction begin with a look."""
    renew = Tips.renew

    def renew_and_look(self: Tips, connection: apsw.Connection) -> None:
        renew(self, connection)
        look(self, connection)

    Tips.renew = renew_and_look  # type: ignore[method-assign]


class Meddler:
    """Two stores on one file, a connection that is no store's, and what can be done with them."""

    def __init__(self, path: str, seed: int, keys: list[str]) -> None:
        self.path, self.keys = path, keys
        self.chance = random.Random(seed)  # no secret
        self.stores = [self.opened(), self.opened()]
        self.raw = apsw.Connection(path)
        self.raw.set_busy_timeout(2_000)
        self.old: apsw.Connection | None = None  # a copy of the file in memory

    def opened(self) -> everlog.Store:
        return everlog.open(self.path, durability="relaxed", encrypt=self.keys or None)

    @property
    def store(self) -> everlog.Store:
        return self.chance.choice(self.stores)

    @property
    def session(self) -> everlog.Session:
        return self.store.get_or_create(self.chance.choice(NAMES))

    @property
    def writer(self) -> apsw.Connection:
        return self.store.storage._connections.writer()  # type: ignore[attr-defined]

    # --- what anybody does ---
    def append(self) -> None:
        session = self.session
        for _ in range(self.chance.randint(1, 6)):
            key = self.chance.choice([None, None, f"k{self.chance.randrange(40)}"])
            session.append("note", {"content": "x"}, key=key)

    def append_expecting(self) -> None:
        session = self.session
        head = session.refresh()
        event = session.append("note", {"content": "y"}, expected=head)
        assert event.position == head.size

    def extend(self) -> None:
        self.session.extend([NewEvent("note", {"content": "z"}), NewEvent("note", {"content": "z"})])

    def rewind(self) -> None:
        session = self.session
        session.rewind(self.chance.randint(0, session.size()), reason="chance")

    def fork(self) -> None:
        session = self.session
        fork = session.fork(self.chance.randint(0, session.size()))
        fork.append("note", {"content": "on the fork"})
        if self.chance.random() < 0.8:
            self.store.delete(fork.id, reason="chance")

    def delete(self) -> None:
        self.store.delete(self.session.id, reason="chance", cascade=True)

    def erase(self) -> None:
        session = self.session
        session.erase([self.chance.randrange(session.size() or 1)], reason="chance")

    def lease(self) -> None:
        with self.store.wake(self.chance.choice(NAMES), holder=str(os.getpid()), ttl=1) as session:
            session.append("note", {"content": "held"})
            for _ in range(self.chance.randint(0, 3)):
                session.append("note", {"content": "held"})

    def compact(self) -> None:
        self.store.compact(older_than=0)

    def rotate(self) -> None:
        if self.keys:
            self.store.encryption.rotate(self.chance.choice(self.keys))

    def reopen(self) -> None:
        place = self.chance.randrange(len(self.stores))
        self.stores[place].close()
        self.stores[place] = self.opened()

    # --- what goes wrong ---
    def commit_fails(self) -> None:
        writer = self.writer
        writer.set_commit_hook(lambda: True)
        self.append_somewhere()
        with suppress(apsw.Error):
            writer.set_commit_hook(None)

    def interrupted(self) -> None:
        writer, left = self.writer, [self.chance.randint(1, 60)]

        def stop() -> bool:
            left[0] -= 1
            return left[0] == 0

        writer.set_progress_handler(stop, 20)
        self.append_somewhere()
        with suppress(apsw.Error):
            writer.set_progress_handler(None)

    def append_somewhere(self) -> None:
        """Append through each store what may be lost."""
        for store in self.stores:
            with suppress(EverlogError):
                store.get_or_create(self.chance.choice(NAMES)).append("note", {"content": "may be lost"})

    def process_forks(self) -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

    # --- what another program does ---
    def copy_log(self) -> None:
        modes = (apsw.SQLITE_CHECKPOINT_PASSIVE, apsw.SQLITE_CHECKPOINT_RESTART, apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self.raw.wal_checkpoint(mode=self.chance.choice(modes))

    def vacuum(self) -> None:
        self.raw.execute("VACUUM")

    def keep(self) -> None:
        self.old = apsw.Connection(":memory:")
        with self.old.backup("main", self.raw, "main") as backup:
            backup.step()

    def put_back(self) -> None:
        """Have the file be what it was when it was kept, as a restored backup is."""
        if self.old is not None:
            with self.raw.backup("main", self.old, "main") as backup:
                backup.step()
            self.old = None


OFTEN = ("append", "append", "append", "append_expecting", "extend", "lease")
SELDOM = (
    *(
        "rewind",
        "fork",
        "delete",
        "erase",
        "compact",
        "rotate",
        "reopen",
        "commit_fails",
        "interrupted",
        "process_forks",
    ),
    *("copy_log", "copy_log", "vacuum"),
)


def meddle(path: str, seed: int, seconds: float, keys: list[str], *, restores: bool) -> dict[str, int]:
    looking()
    meddler = Meddler(path, seed, keys)
    done: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        names = OFTEN if meddler.chance.random() < 0.8 else (*SELDOM, *(("keep", "put_back") if restores else ()))
        name = meddler.chance.choice(names)
        act: Callable[[], None] = getattr(meddler, name)
        try:
            act()
        except CorruptionError:
            if not restores:  # by which what is being read may go
                raise
        except (EverlogError, apsw.BusyError, apsw.LockedError, apsw.SQLError) as refusal:
            done[f"{name}: {type(refusal).__name__}"] += 1
        else:
            done[name] += 1
    for store in meddler.stores:
        store.close()
    return {**done, **looked}


if __name__ == "__main__":
    print(
        json.dumps(
            meddle(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[5:], restores=sys.argv[4] == "restores")
        )
    )
