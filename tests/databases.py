"""PostgreSQL for tests: one server a test run, a database for each process of it, and a schema for each folder of a test.

The server is what EVERLOG_TEST_POSTGRES names, else one that is started from the binaries that are found. Without either the tests
are skipped; where CI is set, they fail.
"""

import atexit
import os
import tempfile
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest

from everlog.stores.postgres.opening import open_postgres, read_address


@cache
def server():
    """The server that all processes of this test run share."""
    from everlog.testing.servers import VARIABLE, find_postgres, shared_server

    if VARIABLE not in os.environ and find_postgres() is None:
        what = f"no PostgreSQL is found; install the development requirements, or set {VARIABLE}"
        if os.environ.get("CI"):
            pytest.fail(what)
        pytest.skip(what)
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir()) / f"everlog-tests-{run}"
    folder.mkdir(exist_ok=True)
    return shared_server(folder)


@cache
def database():
    """This process's own database on it."""
    name = f"everlog_test_{os.getpid()}"
    server().create_database(name)
    atexit.register(server().drop_database, name)
    return name


def url_of(folder, **query):
    """The address of the store that belongs to a folder."""
    schema = f"t_{sha256(str(folder).encode()).hexdigest()[:16]}"
    return server().url(database(), **{**server().own, "schema": schema, **query})


def open_in(folder, **options):
    """Open the store that belongs to a folder."""
    return open_postgres(url_of(folder), draw=options.pop("draw", os.urandom), **options)


@contextmanager
def logins(url, **roles):
    """Make a login for each role, and give its address."""
    schema = read_address(url).schema
    made = {role: f"{role}_of_{schema}" for role in roles or ("app", "maintenance", "reader")}
    with psycopg.connect(read_address(url).conninfo, autocommit=True) as connection:
        for role, login in made.items():
            connection.execute(f"CREATE ROLE {login} LOGIN; GRANT {schema}_{role} TO {login}")
    yield {role: url.replace("user=postgres", f"user={login}") for role, login in made.items()}


def address(kind, folder):
    """The address of the store of a kind that belongs to a folder: "memory", "sqlite" or "postgres"."""
    match kind:
        case "memory":
            return "memory:"
        case "sqlite":
            folder.mkdir(exist_ok=True)
            return str(folder / "s.db")
        case _:
            return url_of(folder)
