"""A store that is left and opened again, as the next process does, and what ends a process in the middle of a step."""

import os
import threading

import pytest

from databases import open_in
from everlog.core.lease import Ticks
from everlog.store import Store
from everlog.stores.memory import MemoryStorage
from everlog.stores.sqlite.store import open_sqlite
from everlog.testing.clock import FixedClock
from everlog.writer import Settings

DEADLINE_SECONDS = 20.0
# What is about the store beside the run: of the rest, no store has code of its own.
EVERYWHERE = pytest.mark.parametrize("world", ["memory", "sqlite", "postgres"], indirect=True)


class Killed(BaseException):
    """Ends a process where it is raised, as far as a run can tell: nothing more is recorded."""


def die(*_, **__):
    raise Killed


class World:
    """A place that outlives the stores that are opened on it. clock: of the store; boot: seconds of the clock of leases."""

    def __init__(self, kind, folder, body_bytes_max=1_000_000):
        self.clock = FixedClock()
        self.boot = 1_000.0
        self.settings = Settings(os.urandom, body_bytes_max)
        self._kind, self._folder = kind, folder
        self._opened = []
        self._memory = self._storage() if kind == "memory" else None

    def _ticks(self):
        return Ticks("one", round(self.boot * 1_000_000))

    def _storage(self):
        tools = {"clock": self.clock, "draw": os.urandom, "ticks": self._ticks}
        match self._kind:
            case "memory":
                return MemoryStorage(**tools)
            case "sqlite":
                return open_sqlite(self._folder / "s.db", relaxed=True, **tools)
            case _:
                return open_in(self._folder, **tools)

    def store(self):
        """Open another handle, beside those that there are."""
        store = Store(self._memory or self._storage(), self.settings, url="world")
        self._opened.append(store)
        return store

    def beside(self):
        """Open the session as another process does that runs at the same time."""
        return self.store().get_or_create("s")

    def session(self):
        """Open the session as the next process does, when the ones before have ended."""
        if self._memory is None:
            self.close()
        return self.beside()

    def run(self, *arguments, **keywords):
        """Go on with a run in the next process."""
        return self.session().run(*arguments, **keywords)

    def events(self, types="*"):
        """Read what is recorded, from outside."""
        return list(self.beside().events(types=types))

    def types(self):
        return [event.type for event in self.events()]

    def see(self, type):
        """Wait until an event of this type is recorded."""
        assert type in (event.type for event in self.beside().follow("start", idle=DEADLINE_SECONDS)), type

    def close(self):
        for store in self._opened:
            store.close()
        self._opened.clear()


class Calls(list):
    """Functions for steps that note their calls: the effect keys that they were given."""

    def giving(self, value):
        def give(*_, effect_key):
            self.append(effect_key)
            return value

        return give

    def raising(self, error):
        def fail(*_, effect_key):
            self.append(effect_key)
            raise error

        return fail


def in_time(function, seconds=5.0):
    """Call what may wait without end; AssertionError where it does."""
    outcome = []

    def call():
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"it still waits after {seconds:g} seconds"
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def nested(depth):
    """Give lists in lists."""
    value = 1
    for _ in range(depth):
        value = [value]
    return value
