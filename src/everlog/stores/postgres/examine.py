"""Examining a store in PostgreSQL and its server: what a person would look at first when something is wrong. Nothing is changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import psycopg
from psycopg.rows import TupleRow

from everlog.core.limits import CLOCK_AHEAD_MICROS_MAX
from everlog.errors import EverlogError
from everlog.stores.check import Check, encryption_check
from everlog.stores.postgres.connections import PLAIN
from everlog.stores.postgres.opening import OLDEST_SERVER, Address, read_address
from everlog.stores.postgres.statements import Statements

_DEAD_ROWS_LOOK: Final = 100_000
_SLOW_SECONDS: Final = 0.02  # of one round trip, above which appends one after another are slow
_MUST_BE: Final = {
    "fsync": ("on", "bad", "set fsync = on: without it a crash of the machine damages the database"),
    "full_page_writes": ("on", "bad", "set full_page_writes = on: without it a crash of the machine damages pages"),
    "synchronous_commit": (
        "on",
        "look",
        "this server acknowledges before it has synced; Everlog asks for the sync itself",
    ),
}

Connection = psycopg.Connection[TupleRow]


def examine_postgres(url: str) -> Iterator[Check]:
    """Give the checks of the store at an address, one after another."""
    try:
        address = read_address(url)
        statements = Statements(address.schema, "examine.sql")
    except EverlogError as error:
        yield Check("address", "bad", error.message.partition(";")[0], "postgresql://user@host/database?schema=everlog")
        return
    start = time.monotonic()
    try:
        connection = psycopg.connect(
            address.conninfo, autocommit=True, application_name="everlog-doctor", connect_timeout=10, **PLAIN
        )
    except psycopg.Error as error:
        said = str(error).strip().partition("\n")[0]
        yield Check("server", "bad", f"{address.shown} cannot be reached: {said}", "see that it runs, and the address")
        return
    with connection:
        yield _server(connection, address, time.monotonic() - start)
        yield from _pooler(connection, address)
        for look in (_settings, _clock, _trip, _store, _connections, _tables, _replicas):
            try:
                yield from look(connection, statements)
            except psycopg.Error as error:
                connection.rollback()
                found = f"cannot be seen: {str(error).strip().partition(chr(10))[0]}"
                denied = isinstance(error, psycopg.errors.InsufficientPrivilege)
                advice = "ask as another role" if denied else f"see what the schema {address.schema} holds"
                yield Check(look.__name__.removeprefix("_"), "look", found, advice)


def _server(connection: Connection, address: Address, spent: float) -> Check:
    version = connection.info.server_version
    found = f"PostgreSQL {version // 10_000}.{version % 10_000} at {address.shown}, connected in {spent * 1e3:.0f} ms"
    if version < OLDEST_SERVER:
        return Check("server", "bad", found, f"use PostgreSQL {OLDEST_SERVER // 10_000} or newer")
    return Check("server", "good", found)


def _pooler(connection: Connection, address: Address) -> Iterator[Check]:
    """Tell of a pooler: it names other processes than the server does."""
    ((process,),) = _all(connection, b"SELECT pg_backend_pid()")
    if process == connection.info.backend_pid:
        return
    advice: list[str] = []
    if address.prepare:
        advice.append("add prepare=no to the address, if it keeps no prepared statements, as PgBouncer before 1.21")
    if address.notify:
        advice.append("leave notify=yes out of it: what is told does not come through")
    yield Check("pooler", "look" if advice else "good", "one stands between", "; ".join(advice) or None)


def _settings(connection: Connection, statements: Statements) -> Iterator[Check]:
    found = dict(
        _all(connection, statements["read_settings"], {"names": [*_MUST_BE, "server_encoding", "citus.version"]})
    )
    for name, (wanted, verdict, advice) in _MUST_BE.items():
        value = found.get(name, "?")
        good = value == wanted or (name == "synchronous_commit" and value in ("remote_apply", "remote_write", "local"))
        yield Check(name, "good" if good else verdict, value, None if good else advice)  # pyright: ignore[reportArgumentType]
    encoding = found.get("server_encoding", "?")
    good = encoding == "UTF8"
    yield Check(
        "encoding", "good" if good else "bad", encoding, None if good else "make the database with ENCODING UTF8"
    )
    if "citus.version" in found:
        yield Check(
            "citus",
            "good",
            f"Citus {found['citus.version']}: tables are distributed by bucket where everlog init made them so",
        )


def _clock(connection: Connection, statements: Statements) -> Iterator[Check]:
    before = time.time_ns() // 1_000
    ((server,),) = _all(connection, statements["read_clock"])
    apart = server - (before + time.time_ns() // 1_000) // 2
    found = f"{abs(apart) / 1e6:.3f} s {'ahead of' if apart > 0 else 'behind'} this machine's"
    late = abs(apart) > min(CLOCK_AHEAD_MICROS_MAX, 60_000_000)
    yield Check(
        "clock", "look" if late else "good", found, "times in the log are the server's: set its clock" if late else None
    )


def _trip(connection: Connection, statements: Statements) -> Iterator[Check]:
    spent: list[float] = []
    for _ in range(5):
        start = time.monotonic()
        _all(connection, statements["read_clock"])
        spent.append(time.monotonic() - start)
    best = min(spent)
    found = f"{best * 1e3:.2f} ms a round trip; an append takes two"
    slow = best > _SLOW_SECONDS
    yield Check(
        "network",
        "look" if slow else "good",
        found,
        "bring the program nearer, or append several at once" if slow else None,
    )


def _store(connection: Connection, statements: Statements) -> Iterator[Check]:
    if not _all(connection, statements["has_store"], {"name": f"{statements.schema}.store"})[0][0]:
        yield Check("store", "look", f"there is no store in schema {statements.schema}", "everlog init makes one")
        return
    ((version, buckets),) = _all(connection, statements["read_store"])
    newest = len(statements.migrations())
    found = f"schema {statements.schema}, version {version}, {buckets} buckets"
    if version == newest:
        yield Check("store", "good", found)
    elif version < newest:
        yield Check("store", "look", found, f"this Everlog brings it to version {newest} when it is opened next")
    else:
        yield Check("store", "bad", found, "use a newer Everlog")
    ((sweeps,),) = _all(connection, statements["count_sweeps"])
    if sweeps:
        yield Check(
            "deletions",
            "look",
            f"{sweeps} branches of deleted sessions still hold events",
            "open the store once to go on",
        )
    if version == newest:
        ((encrypts, plain),) = _all(connection, statements["read_encryption"])
        yield encryption_check(plain if encrypts else None)


def _connections(connection: Connection, statements: Statements) -> Iterator[Check]:
    ((most, used, idle_in, oldest),) = _all(connection, statements["count_connections"])
    found = f"{used} of {most} connections are in use"
    full = used > most * 0.8
    yield Check("connections", "look" if full else "good", found, "use a pooler, such as PgBouncer" if full else None)
    if idle_in:
        yield Check(
            "transactions",
            "look",
            f"{idle_in} transactions stand open and do nothing, the oldest for {oldest:.0f} s",
            "they keep dead rows from being cleaned up: see pg_stat_activity, and set idle_in_transaction_session_timeout",
        )


def _tables(connection: Connection, statements: Statements) -> Iterator[Check]:
    rows = _all(connection, statements["read_tables"], {"name": statements.schema})
    if not rows:
        return
    total = sum(row[1] for row in rows)
    yield Check(
        "size",
        "good",
        f"{total / 1e6:,.1f} MB in {len(rows)} tables; the largest is {rows[0][0]} with {rows[0][1] / 1e6:,.1f} MB",
    )
    bloated = [(name, dead) for name, _, live, dead in rows if dead > max(_DEAD_ROWS_LOOK, live)]
    for name, dead in bloated:
        yield Check(
            "bloat",
            "look",
            f"{name} holds {dead:,} dead rows",
            f"see why autovacuum does not keep up: VACUUM {statements.schema}.{name}",
        )
    if not bloated:
        yield Check("bloat", "good", f"{sum(row[3] for row in rows):,} dead rows")


def _replicas(connection: Connection, statements: Statements) -> Iterator[Check]:
    ((standby,),) = _all(connection, statements["is_standby"])
    if standby:
        yield Check(
            "replica", "look", "this server is a standby: it can be read, and takes no writes", "append to the primary"
        )


def _all(connection: Connection, query: bytes, parameters: dict[str, Any] | None = None) -> list[Any]:
    return connection.execute(query, parameters).fetchall()
