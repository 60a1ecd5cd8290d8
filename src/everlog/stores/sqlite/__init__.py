"""The embedded store: one SQLite file, no service."""

from everlog.stores.sqlite.store import SqliteStorage as SqliteStorage
