"""PgBouncer in transaction mode between stores and their server, with fewer connections to it than there are writers."""

import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import psycopg
import pytest

import everlog
from everlog.errors import UnavailableError
from everlog.stores.postgres.administer import keep_tenants_apart, make_roles
from everlog.stores.postgres.examine import examine_postgres
from everlog.stores.postgres.wire import PreparedConnection, run
from everlog.testing.servers import NOBODY, PostgresServer, find_postgres

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SETTINGS = """
[databases]
* = host={server} port=5432 user=postgres
[pgbouncer]
pool_mode = transaction
default_pool_size = 2
auth_type = any
listen_port = 6432
unix_socket_dir = {folder}
logfile = {folder}/log
"""
WRITERS, EVENTS = 8, 25

pytestmark = [
    pytest.mark.skipif(find_postgres() is None, reason="no PostgreSQL is installed"),
    pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer is installed"),
]


@pytest.fixture(scope="module")
def server():
    with PostgresServer.start() as started:
        yield started


@pytest.fixture(scope="module")
def pooler(server):
    """The folder of its socket."""
    folder = Path(tempfile.mkdtemp(prefix="everlog-pooler-", dir="/tmp"))
    settings = folder / "settings"
    settings.write_text(SETTINGS.format(server=server.folder, folder=folder))
    options = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    if options:
        os.chown(folder, NOBODY, NOBODY)
    with (folder / "said").open("wb") as said:
        running = subprocess.Popen([PROGRAM, settings], stdout=said, stderr=said, **options)
    try:
        until = time.monotonic() + 30
        while not (folder / ".s.PGSQL.6432").exists():
            assert running.poll() is None, (folder / "said").read_text()
            assert time.monotonic() < until
            time.sleep(0.01)
        yield folder
    finally:
        running.kill()
        running.wait()
        shutil.rmtree(folder)


@pytest.fixture
def url(server, pooler, request):
    name = f"d{abs(hash(request.node.name))}"
    server.create_database(name)
    yield f"postgresql://postgres@/{name}?host={pooler}&port=6432"
    server.drop_database(name)


@pytest.mark.parametrize("prepare", ["no", "yes"])
def test_writers_followers_and_whoever_wakes_share_few_connections(url, prepare):
    url += f"&prepare={prepare}"
    stores = [everlog.open(url) for _ in range(3)]
    for number in range(4):
        stores[0].create(f"s{number}")

    def follow():
        seen = islice(stores[2].follow(stores[2].cursor()), WRITERS * EVENTS)
        return [event.data["content"] for event in seen]

    def write(writer):
        session = stores[writer % 2].session(f"s{writer % 4}")
        for number in range(EVENTS):
            event = session.append("note", {"content": f"{writer}-{number}"}, key=f"{writer}-{number}")
            assert session.branch("b1")[event.position].data == {"content": f"{writer}-{number}"}

    with ThreadPoolExecutor(WRITERS + 1) as pool:
        followed = pool.submit(follow)
        time.sleep(0.1)
        list(pool.map(write, range(WRITERS)))
        seen = followed.result(30)
    assert sorted(seen) == sorted(f"{writer}-{number}" for writer in range(WRITERS) for number in range(EVENTS))
    with stores[1].wake("s0", holder="w") as woken:
        assert woken.run().step("a", lambda: 1) == 1
    assert stores[2].verify().ok
    for store in stores:
        store.close()


def test_a_statement_is_never_taken_for_another_s(url):
    one, two = (b"SELECT 1", None), (b"SELECT 2", None)
    lasting = frozenset({one[0], two[0]})
    options = {"autocommit": True, "prepare_threshold": None}
    with PreparedConnection.connect(url, **options) as first, PreparedConnection.connect(url, **options) as second:
        assert run(first, [one], lasting) == [[(1,)]]
        with psycopg.connect(url, prepare_threshold=None) as holder:
            holder.execute("SELECT 1")  # holds the connection that this was prepared on
            assert run(second, [two], lasting) == [[(2,)]]
            with pytest.raises(psycopg.errors.InvalidSqlStatementName):
                run(first, [one], lasting)
            assert run(first, [one], None) == [[(1,)]]


def test_whoever_administers_and_examines_leaves_nothing_on_the_server_s_connections(server, url):
    store = f"{url}&schema=pooled"
    everlog.open(f"{store}&prepare=no").close()
    for _ in range(2):
        assert len(make_roles(store)) == 4
        keep_tenants_apart(store)
        found = {check.what: check for check in examine_postgres(f"{store}&notify=yes")}
        assert found["network"].verdict == "good"
        assert found["pooler"].verdict == "look"
        assert "prepare=no" in found["pooler"].advice
        assert "notify=yes" in found["pooler"].advice
        assert {check.what: check for check in examine_postgres(f"{store}&prepare=no")}["pooler"].verdict == "good"
    assert "pooler" not in {check.what for check in examine_postgres(server.url())}
    with psycopg.connect(url, prepare_threshold=None) as connection:
        assert connection.execute("SELECT name FROM pg_prepared_statements").fetchall() == []


def test_what_a_pooler_refuses_is_said(url):
    with pytest.raises(UnavailableError, match="unsupported startup parameter: options"):
        everlog.open(url + "&options=-c%20work_mem%3D5MB")
