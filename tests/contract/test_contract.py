"""The contract, on every store."""

import os

from databases import open_in
from everlog.core.envelope import WrappingKey
from everlog.session import Settings
from everlog.store import Store
from everlog.stores.memory import MemoryStorage
from everlog.stores.sqlite.store import open_sqlite
from everlog.testing import StoreContract
from everlog.testing.appending import AppendContract
from everlog.testing.erasing import ErasingContract
from everlog.testing.reading import ReadContract
from everlog.testing.searching import SearchContract


class TestMemory(StoreContract):
    def open_store(self, folder, clock):
        return Store(MemoryStorage(clock=clock, draw=os.urandom), Settings(os.urandom), url="memory:")

    def open_store_with_ticks(self, folder, clock, ticks):
        storage = MemoryStorage(clock=clock, draw=os.urandom, ticks=ticks)
        return Store(storage, Settings(os.urandom), url="memory:")


class TestSqlite(StoreContract):
    def open_store(self, folder, clock):
        storage = open_sqlite(folder / "store.db", clock=clock, draw=os.urandom)
        return Store(storage, Settings(os.urandom), url="store.db")

    def open_store_with_ticks(self, folder, clock, ticks):
        storage = open_sqlite(folder / "store.db", clock=clock, draw=os.urandom, ticks=ticks)
        return Store(storage, Settings(os.urandom), url="store.db")


class TestPostgres(StoreContract):
    def open_store(self, folder, clock):
        return Store(open_in(folder, clock=clock), Settings(os.urandom), url="postgresql:")

    def open_store_with_ticks(self, folder, clock, ticks):
        return Store(open_in(folder, clock=clock, ticks=ticks), Settings(os.urandom), url="postgresql:")


KEY = WrappingKey(bytes(range(32)))


class TestEncryptedSqlite(StoreContract):
    def open_store(self, folder, clock):
        storage = open_sqlite(folder / "store.db", clock=clock, draw=os.urandom, keys=[KEY])
        return Store(storage, Settings(os.urandom, wrapping=(KEY,)), url="store.db")

    def open_store_with_ticks(self, folder, clock, ticks):
        storage = open_sqlite(folder / "store.db", clock=clock, draw=os.urandom, ticks=ticks, keys=[KEY])
        return Store(storage, Settings(os.urandom, wrapping=(KEY,)), url="store.db")


class TestEncryptedPostgres(AppendContract, ReadContract, SearchContract, ErasingContract):
    def open_store(self, folder, clock):
        storage = open_in(folder, clock=clock, keys=[KEY])
        return Store(storage, Settings(os.urandom, wrapping=(KEY,)), url="postgresql:")
