"""From a path or URL to a store: the one place that chooses clock, randomness and where things lie."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from everlog.core import limits
from everlog.core.envelope import WrappingKey
from everlog.core.prepare import Draw
from everlog.core.redact import Mode, check_mode, compile_rules
from everlog.core.secret_rules import SecretRule
from everlog.errors import LimitError, NotFoundError, UnsupportedStoreError
from everlog.rebuild import SnapshotPolicy
from everlog.redaction import read_rules, redacting
from everlog.storage import Storage
from everlog.store import Store
from everlog.wrapping import read_wrapping_keys
from everlog.writer import Settings

Durability = Literal["full", "relaxed"]


def clock() -> int:
    """The wall clock, microseconds since 1970 UTC."""
    return time.time_ns() // 1_000


def open_store(
    url: str | os.PathLike[str] | None = None,
    *,
    durability: Durability = "full",
    make: bool = True,
    read_only: bool = False,
    body_bytes_max: int = limits.BODY_BYTES_MAX,
    snapshots: SnapshotPolicy | bool = True,
    redact: Mode | None = None,
    redact_rules: str | os.PathLike[str] | Sequence[SecretRule] | None = None,
    encrypt: str | Sequence[str] | None = None,
) -> Store:
    """Open a store, making it where there is none.

    url: a path to one SQLite file, "postgresql://user@host/database" (with `?schema=` for another than `everlog`), or "memory:"
        (also SQLite's ":memory:") for a store that ends with the process. None: $EVERLOG_STORE, else `everlog.db` in the user's data folder.
    durability: "full" syncs before an append is acknowledged; "relaxed" may lose the last moments on power loss.
    make: False fails where there is no store. read_only: never write, and fail where there is no store. A file whose folder cannot be
        written is read as it stands, and each read refused once it changes.
    body_bytes_max: the largest body of one event, at most BODY_BYTES_CEILING.
    snapshots: when snapshots of states are taken; False for never, but for those asked for.
    redact: what is done about secrets in what is appended: "redact" records a mark in the place of each, "reject" refuses with
        SecretError, "off" does neither. None: $EVERLOG_REDACT, else off; importers redact all the same.
    redact_rules: more rules than the standard ones, or a TOML or JSON file of them. None: the file that $EVERLOG_REDACT_RULES names.
    encrypt: where the key is that bodies are encrypted with: "file:PATH", "env:NAME" or "command:PROGRAM ARGUMENTS"; several while one is
        exchanged, the new one first. A store that is opened so once takes bodies with that key only. None: what $EVERLOG_ENCRYPT names, one
        a line, else off; a store that holds plain text already is not changed by that, and takes no bodies until it encrypts
        (`store.encryption.seal()`). "" for off. A store in memory, which is nowhere at rest, takes it and does nothing.
    Raises UnsupportedStoreError, UnavailableError, NotFoundError, BusyError, CorruptionError, KeyNeededError; InvalidQueryError for a rule.
    """
    if not 1 <= body_bytes_max <= limits.BODY_BYTES_CEILING:
        raise LimitError(f"body_bytes_max {body_bytes_max} is not in 1 .. {limits.BODY_BYTES_CEILING}; choose another")
    if durability not in ("full", "relaxed"):
        raise UnsupportedStoreError(f"durability {durability!r} is neither 'full' nor 'relaxed'; choose one")
    mode = check_mode(os.environ.get("EVERLOG_REDACT") or "off" if redact is None else redact)
    rules = _own_rules(redact_rules)
    if mode != "off":
        compile_rules(rules)  # what is wrong with one is said before anything is opened
    place = default_store() if url is None else _place_of(url)
    wrapping = read_wrapping_keys(encrypt)
    begins = encrypt is not None
    storage = _open_storage(place, durability, wrapping, begins=begins, make=make, read_only=read_only)
    policy = snapshots if isinstance(snapshots, SnapshotPolicy) else SnapshotPolicy(automatic=snapshots)
    if read_only or wrapping:  # states say what bodies say, and are not kept where those are encrypted
        policy = msgspec.structs.replace(policy, automatic=False)
    settings = Settings(os.urandom, body_bytes_max, policy, rules=rules, keys_folder=default_keys, wrapping=wrapping)
    return Store(storage, redacting(storage, settings, mode), url=shown_place(place))


def _place_of(url: str | os.PathLike[str]) -> str:
    """Give a path or URL as text. Raises UnsupportedStoreError for what is none, such as another library's connection or engine."""
    try:
        return os.fsdecode(url)
    except TypeError:
        raise UnsupportedStoreError(
            f"a {type(url).__name__} is no store; nothing was opened; give a path to a file, postgresql://…, or memory:"
        ) from None


def _own_rules(rules: str | os.PathLike[str] | Sequence[SecretRule] | None) -> tuple[SecretRule, ...]:
    named = os.environ.get("EVERLOG_REDACT_RULES") or () if rules is None else rules
    return read_rules(named) if isinstance(named, (str, os.PathLike)) else tuple(named)


def default_store() -> str:
    """Give $EVERLOG_STORE, else the file in the user's data folder."""
    chosen = os.environ.get("EVERLOG_STORE")
    if chosen:
        return chosen
    import platformdirs

    return str(Path(platformdirs.user_data_dir("everlog", appauthor=False)) / "everlog.db")


def default_keys() -> Path:
    """Give $EVERLOG_KEYS, else the folder of keys in the user's data folder."""
    chosen = os.environ.get("EVERLOG_KEYS")
    if chosen:
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_data_dir("everlog", appauthor=False)) / "keys"


def _open_storage(
    place: str, durability: Durability, keys: Sequence[WrappingKey], *, begins: bool, make: bool, read_only: bool
) -> Storage:
    draw: Draw = os.urandom
    if place in ("memory:", ":memory:"):  # who comes from SQLite writes the second, and would find a file of that name
        from everlog.stores.memory import MemoryStorage

        return MemoryStorage(clock=clock, draw=draw)
    if not place or "\x00" in place:
        raise UnsupportedStoreError(f"{place!r:.100} names no file; give a path, or memory:")
    if is_postgres(place):
        with needs_psycopg():
            from everlog.stores.postgres.opening import open_postgres
        relaxed = durability == "relaxed"
        return open_postgres(
            place, draw=draw, make=make, read_only=read_only, relaxed=relaxed, keys=keys, begins=begins
        )
    if "://" in place:
        raise UnsupportedStoreError(
            f"{place.partition('://')[0]}:// is no store that this Everlog knows; give a path to a file, postgresql://…, or memory:"
        )
    from everlog.stores.sqlite.store import open_sqlite

    if not make and not Path(place).exists():
        raise NotFoundError(f"there is no store at {place}; nothing was made")
    relaxed = durability == "relaxed"
    return open_sqlite(
        Path(place), clock=clock, draw=draw, read_only=read_only, relaxed=relaxed, keys=keys, begins=begins
    )


def is_postgres(place: str) -> bool:
    """Tell whether a place is in PostgreSQL."""
    return place.startswith(("postgresql://", "postgres://"))


def shown_place(place: str) -> str:
    """Give a place as it may be printed, without passwords."""
    if not is_postgres(place):
        return place
    with needs_psycopg():
        from everlog.stores.postgres.opening import read_address
    return read_address(place).shown


@contextmanager
def needs_psycopg() -> Generator[None]:
    """Say what to install where psycopg is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("psycopg"):
            raise
        raise UnsupportedStoreError(
            "a store in PostgreSQL needs psycopg; nothing was opened; install it: pip install 'everlog[postgres]'"
        ) from None
