"""Numbered migrations: files NNNN_name.sql beside a store, applied in order, each in a transaction of its own.

Data is never removed by a migration. schema.sql and the sum of all migrations are the same, proven by a test.
"""

from __future__ import annotations

from importlib.resources import files


def load_migrations(package: str) -> list[tuple[int, str]]:
    """Read a package's migrations: (number, script), from 1 on without a gap."""
    folder = files(package).joinpath("migrations")
    scripts = sorted((entry.name, entry) for entry in folder.iterdir() if entry.name.endswith(".sql"))
    migrations = [(int(name[:4]), entry.read_text(encoding="utf-8")) for name, entry in scripts]
    assert [number for number, _ in migrations] == list(range(1, len(migrations) + 1)), "migrations are numbered from 1"
    return migrations
