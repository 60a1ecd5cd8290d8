"""Opening a store in PostgreSQL: its address, its schema, and making it where there is none."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec
import psycopg
from psycopg import conninfo
from psycopg.rows import TupleRow

from everlog.core.envelope import WrappingKey
from everlog.core.lease import Ticks
from everlog.errors import EverlogError, NotFoundError, UnsupportedStoreError
from everlog.stores.objects import Objects
from everlog.stores.postgres.clock import Clock
from everlog.stores.postgres.connections import AGAIN, PLAIN, Connections, translate
from everlog.stores.postgres.rights import after_migration
from everlog.stores.postgres.statements import Statements
from everlog.stores.postgres.store import PostgresStorage
from everlog.stores.sealed_bodies import Sealing, take_key

Connection = psycopg.Connection[TupleRow]

SCHEMA: Final = "everlog"
BUCKETS: Final = 16
BUCKETS_MAX: Final = 1_024  # of a key's bits, ten are for the bucket
TENANT_CHARACTERS_MAX: Final = 128
_HOST: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:[0-9]*)?", re.ASCII)
OLDEST_SERVER: Final = 140_000
_MADE_MEANWHILE: Final = (*AGAIN, "42P06", "42P07", "42710", "23505")  # another process makes the same thing


class Address(msgspec.Struct, frozen=True):
    """Where a store is. conninfo: for libpq, secrets included. shown: for people, without them."""

    conninfo: str
    schema: str
    buckets: int
    prepare: bool
    notify: bool
    tenant: str | None
    shown: str

    def __repr__(self) -> str:
        return f"<Address {self.shown}>"


# What libpq waits without, for as long as the system lets it: servers that are gone are noticed within 15 seconds.
_DEADLINES: Final = {
    "connect_timeout": "10",
    "keepalives_idle": "5",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "15000",
}


def read_address(url: str) -> Address:
    """Read `postgresql://user@host/database?schema=everlog&buckets=16&prepare=yes&notify=no`; what else it asks for is libpq's."""
    try:
        url.encode()
        parts = urlsplit(url)
    except ValueError:  # a lone surrogate, a bracket without its other
        raise _no_address("it cannot be read") from None
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if parts.fragment or not all(_HOST.fullmatch(host) for host in hosts):
        raise _no_address("a port is no number, or a password holds one of / ? # that is not percent-encoded")
    usual = {"schema": SCHEMA, "buckets": str(BUCKETS), "prepare": "yes", "notify": "no", "tenant": ""}
    own = dict(usual)
    others: list[tuple[str, str]] = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in own:
            own[name] = value
        else:
            others.append((name, value))
    if not own["buckets"].isascii() or not own["buckets"].isdigit() or not 1 <= int(own["buckets"]) <= BUCKETS_MAX:
        raise UnsupportedStoreError(
            f"buckets={own['buckets']!r:.20} is not in 1 .. {BUCKETS_MAX}; nothing was opened; leave it out for {BUCKETS}"
        )
    for name in ("prepare", "notify"):
        if own[name] not in ("yes", "no"):
            raise UnsupportedStoreError(
                f"{name}={own[name]!r:.20} is neither yes nor no; nothing was opened; choose one"
            )
    tenant = own["tenant"] or None
    if tenant is not None and (len(tenant) > TENANT_CHARACTERS_MAX or not tenant.isprintable()):
        raise UnsupportedStoreError(
            f"tenant={tenant!r:.80} is not 1 to {TENANT_CHARACTERS_MAX} printable characters; nothing was opened"
        )
    given = {name for name, _ in others}
    deadlines = [(name, value) for name, value in _DEADLINES.items() if name not in given]
    plain = _joined(parts.netloc, parts.path, [*others, *deadlines])
    try:
        conninfo.conninfo_to_dict(plain)
    except psycopg.Error as error:
        said, password = str(error).strip(), parts.netloc.rpartition("@")[0].partition(":")[2]
        raise _no_address(said.replace(password, "…") if password else said) from None
    chosen = {name: own[name] == "yes" for name in ("prepare", "notify")}
    unusual = [(name, value) for name, value in own.items() if value != usual[name]]
    shown = _without_secrets(parts, [*others, *unusual])
    return Address(plain, own["schema"], int(own["buckets"]), **chosen, tenant=tenant, shown=shown)


def _no_address(why: str) -> UnsupportedStoreError:
    return UnsupportedStoreError(
        f"this is no address of a PostgreSQL ({why}); nothing was opened; write postgresql://user@host/database"
    )


def _without_secrets(parts: Any, others: list[tuple[str, str]]) -> str:
    user, at, host = parts.netloc.rpartition("@")
    netloc = user.partition(":")[0] + at + host
    shown = [(name, value) for name, value in others if "password" not in name and name != "sslkey"]
    return _joined(netloc, parts.path, shown)


def _joined(netloc: str, path: str, query: list[tuple[str, str]]) -> str:
    return f"postgresql://{netloc}{path}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")


def open_postgres(
    url: str,
    *,
    draw: Callable[[int], bytes],
    make: bool = True,
    read_only: bool = False,
    relaxed: bool = False,
    clock: Callable[[], int] | None = None,
    ticks: Callable[[], Ticks] | None = None,
    objects: Objects | None = None,
    keys: Sequence[WrappingKey] = (),
    begins: bool = True,
) -> PostgresStorage:
    """Open the store at an address, making it where there is none, `make` is given and the role may; bring its schema up to date.

    clock, ticks: other ones than the server's, in tests only; so is `objects`, another way to object storage. keys, begins: see
    `Sealing`; KeyNeededError where the store knows none of the keys.
    Raises NotFoundError (no store, and none is made), UnsupportedStoreError, UnavailableError, BusyError.
    """
    address = read_address(url)
    statements = Statements(address.schema)
    time_of = Clock(clock, ticks)
    try:
        with psycopg.connect(address.conninfo, autocommit=True, application_name="everlog", **PLAIN) as connection:
            store_id, buckets = _prepare(connection, statements, address, draw, make=make and not read_only)
            time_of.learn(connection.execute(statements["read_clock"]).fetchall()[0][0])
            if address.tenant is not None:
                _check_tenants(connection, statements, address)
            distributed = bool(connection.execute(statements["has_citus"]).fetchall())
            synced = connection.execute("SHOW synchronous_commit").fetchall()[0][0] != "off"
    except psycopg.Error as error:
        raise translate(error) from error
    sync = "sync_off" if relaxed else None if synced else "sync_on"
    settings: list[tuple[str, Any]] = [] if sync is None else [(sync, None)]
    if address.tenant is not None:
        settings.append(("set_tenant", {"tenant": address.tenant}))
    connections = Connections(
        address.conninfo,
        statements,
        buckets=buckets,
        prepare=address.prepare,
        read_only=read_only,
        tenant=address.tenant,
    )
    connections.open()
    store = PostgresStorage(
        connections,
        store_id=store_id,
        buckets=buckets,
        clock=time_of,
        settings=settings,
        distributed=distributed,
        objects=objects or Objects(),
        sealing=(sealing := Sealing(keys, draw, begins=begins)),
    )
    try:
        take_key(store, sealing, read_only=read_only)
    except BaseException:
        store.close()
        raise
    if address.notify:
        store.notify_by(address.conninfo)
    if not read_only:
        with suppress(EverlogError):  # a role that may not; the store is good to use
            store.finish_sweeps()
    return store


def _check_tenants(connection: Connection, statements: Statements, address: Address) -> None:
    rows = connection.execute(statements["keeps_tenants"], {"name": f"{statements.schema}.event"}).fetchall()
    if not rows or not rows[0][0]:
        raise UnsupportedStoreError(
            f"the store {address.shown} does not keep tenants apart; nothing was opened; make it do so: everlog init --tenants"
        )
    if not rows[0][1]:
        raise UnsupportedStoreError(
            f"a superuser, or a role with BYPASSRLS, sees every tenant of {address.shown}; nothing was opened; connect as another role"
        )


def _prepare(
    connection: Connection, statements: Statements, address: Address, draw: Callable[[int], bytes], *, make: bool
) -> tuple[str, int]:
    """Find the store, or make it; give its id and its number of buckets."""
    if connection.info.server_version < OLDEST_SERVER:
        raise UnsupportedStoreError(
            f"the server is PostgreSQL {connection.info.server_version // 10_000}, and Everlog needs "
            f"{OLDEST_SERVER // 10_000} or newer; nothing was opened"
        )
    newest = len(statements.migrations())
    for _ in range(40):
        found = _read_store(connection, statements)
        if found is not None and found[1] > newest:
            raise UnsupportedStoreError(
                f"the store {address.shown} has schema version {found[1]}, and this Everlog knows {newest}; nothing was opened; "
                "use a newer Everlog"
            )
        if found is not None and found[1] == newest:
            return found[0].hex(), found[2]
        if found is None and not make:
            raise NotFoundError(
                f"there is no store in schema {address.schema} of {address.shown}; make one: everlog init"
            )
        encoding = connection.info.parameter_status("server_encoding")
        if found is None and encoding not in (None, "UTF8"):
            raise UnsupportedStoreError(
                f"the database at {address.shown} keeps text as {encoding}; nothing was made; make one with ENCODING UTF8"
            )
        try:
            _migrate(connection, statements, address, draw, start=0 if found is None else found[1])
        except psycopg.Error as error:
            connection.rollback()
            if error.sqlstate not in _MADE_MEANWHILE:
                raise
            time.sleep(0.05)  # another process makes it
    raise UnsupportedStoreError(
        f"the store {address.shown} could not be made; see what its schema {address.schema} holds"
    )


def _read_store(connection: Connection, statements: Statements) -> tuple[bytes, int, int] | None:
    try:
        rows = connection.execute(statements["read_version"]).fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return None
    return None if not rows else rows[0]


def _migrate(
    connection: Connection, statements: Statements, address: Address, draw: Callable[[int], bytes], *, start: int
) -> None:
    """Carry out what migrations are missing, each with its version in one transaction."""
    migrations = statements.migrations()
    for number, script in migrations[start:]:
        with connection.transaction():
            if number == 1:
                if not connection.execute(statements["has_schema"], {"name": statements.schema}).fetchall():
                    connection.execute(statements["make_schema"])
                connection.execute(script)
                row = {
                    "id": draw(16),
                    "version": number,
                    "buckets": address.buckets,
                    "created": time.time_ns() // 1_000,
                }
                connection.execute(statements["insert_store"], row)
                connection.execute(statements["insert_buckets"], {"buckets": address.buckets})
            else:
                connection.execute(script)
                connection.execute(statements["set_version"], {"version": number})
            after_migration(connection, statements, number, last=number == len(migrations))
