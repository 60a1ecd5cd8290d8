"""The contract, through the async face: a small adapter runs each call on an event loop in a thread of its own."""

import asyncio
import inspect
import os
import threading

from databases import open_in
from everlog.aio import AsyncStore
from everlog.session import Settings
from everlog.store import Store
from everlog.stores.memory import MemoryStorage
from everlog.stores.sqlite.store import open_sqlite
from everlog.stores.ticks import read_ticks
from everlog.testing import StoreContract

DEADLINE_SECONDS = 60


class Loop:
    """An event loop in a thread."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE_SECONDS)

    def stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(DEADLINE_SECONDS)
        self.loop.close()


class Blocking:
    """Anything of the async face, with every await done for the caller. Sugar that has no await is made of what has."""

    def __init__(self, loop, wrapped):
        self._loop, self._wrapped = loop, wrapped

    def __getattr__(self, name):
        member = getattr(self._wrapped, name)
        return self._call(member) if callable(member) else self._adapt(member)

    def __enter__(self):
        self._call(self._wrapped.__aenter__)()
        return self

    def __exit__(self, kind, error, trace):
        self._call(self._wrapped.__aexit__)(kind, error, trace)

    def _call(self, member):
        def call(*args, **keywords):
            plain = [one._wrapped if isinstance(one, Blocking) else one for one in args]
            keywords = {name: one._wrapped if isinstance(one, Blocking) else one for name, one in keywords.items()}

            async def on_the_loop():  # feeds and followers are made there too
                result = member(*plain, **keywords)
                return await result if inspect.isawaitable(result) else result

            return self._adapt(self._loop.run(on_the_loop()))

        return call

    def _adapt(self, result):
        if hasattr(result, "__aiter__"):
            return Iterating(self._loop, result)
        if type(result).__name__.startswith("Async"):
            return Blocking(self._loop, result)
        if isinstance(result, list) and result and type(result[0]).__name__.startswith("Async"):
            return [Blocking(self._loop, one) for one in result]
        return result

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(
                "start" if index.start is None else index.start, "end" if index.stop is None else index.stop
            )
        return self.event(index)

    def __len__(self):
        return self.size()

    def __bool__(self):
        return True

    def __iter__(self):
        return self.events()


class Iterating:
    """An async iterator, iterated from outside the loop."""

    def __init__(self, loop, wrapped):
        self._loop, self._wrapped, self._iterator = loop, wrapped, None

    @property
    def cursor(self):
        return self._wrapped.cursor

    def __iter__(self):
        return self

    def __next__(self):
        if self._iterator is None:
            self._iterator = self._wrapped.__aiter__()
        try:
            return self._loop.run(self._iterator.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None


class AsyncContract(StoreContract):
    def open_storage(self, folder, clock, ticks=read_ticks):
        raise NotImplementedError

    def open_store(self, folder, clock):
        return self.open_store_with_ticks(folder, clock, read_ticks)

    def open_store_with_ticks(self, folder, clock, ticks):
        loop = Loop()
        sync = Store(self.open_storage(folder, clock, ticks), Settings(os.urandom), url="test")

        async def wrap():
            return AsyncStore(sync)

        store = Blocking(loop, loop.run(wrap()))
        self._loops.append(loop)
        return store

    _loops: list = []

    def teardown_method(self):
        while self._loops:
            self._loops.pop().stop()


class TestAsyncMemory(AsyncContract):
    def open_storage(self, folder, clock, ticks=read_ticks):
        return MemoryStorage(clock=clock, draw=os.urandom, ticks=ticks)


class TestAsyncSqlite(AsyncContract):
    def open_storage(self, folder, clock, ticks=read_ticks):
        return open_sqlite(folder / "store.db", clock=clock, draw=os.urandom, ticks=ticks)


class TestAsyncPostgres(AsyncContract):
    def open_storage(self, folder, clock, ticks=None):
        return open_in(folder, clock=clock, ticks=ticks)
