"""The SQLite file itself: who may read it, what is refused, and what it does when its place fails it.

While a store is open here, its files are read only through apsw or by another process: closing a file drops every lock
that the process holds on it, and Python's own sqlite3 links another SQLite, which does not see apsw's locks.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import apsw
import pytest

import everlog
from everlog.errors import (
    BusyError,
    CorruptionError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
    UnsupportedStoreError,
)
from everlog.rebuild import SnapshotPolicy
from everlog.reducers.registry import find_reducer
from everlog.store import Store
from everlog.stores.migrate import load_migrations
from everlog.stores.sqlite import connections
from everlog.stores.sqlite.connections import APPLICATION_ID, refuse_old_sqlite
from everlog.stores.sqlite.files import NETWORK_FILE_SYSTEMS, file_system_of, refuse_network_file_system
from everlog.stores.sqlite.store import open_sqlite
from everlog.testing.clock import FixedClock
from everlog.testing.faulty import Fault, faulty_disk, open_faulty
from everlog.writer import Settings

NOBODY = 65534
DEADLINE_SECONDS = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "everlog.db"


def beside(path: Path) -> list[Path]:
    """The store's file and those that stand beside it."""
    return sorted(path.parent.glob(f"{path.name}*"))


def run_python(code: str, *arguments: object, expect: int = 0) -> str:
    """Run a script in a process of its own; give what it wrote."""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert process.returncode == expect, process.stderr
    return process.stdout


def filled(path: Path, count: int = 3) -> None:
    with everlog.open(path) as store:
        store.create("s", events=[everlog.NewEvent("note", {"content": f"note {number}"}) for number in range(count)])


# --- modes ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_every_file_of_a_store_is_its_owners_alone(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "new" / "folder" / "everlog.db"
    before = os.umask(mask)
    try:
        with everlog.open(path) as store:
            store.create("s").append("note", {"content": "x"})
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in beside(path)}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("everlog.db", "everlog.db-lock", "everlog.db-shm", "everlog.db-wal"), 384)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in beside(path)] == ["everlog.db", "everlog.db-lock"], "closing folds the log in"


# --- what is refused -----------------------------------------------------------------------------
def refused(path: Path, kind: type[Exception], says: str, **options: Any) -> None:
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(kind, match=says):
        everlog.open(path, **options)
    assert (path.read_bytes() if path.is_file() else None) == before, "a refused file stays as it was"


@pytest.mark.parametrize("read_only", [False, True])
def test_a_database_of_something_else_is_refused_untouched(path: Path, read_only: bool) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE other (x)")
    other.commit()
    other.close()
    refused(path, UnsupportedStoreError, "database of something else", read_only=read_only)
    assert beside(path) == [path]


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "content", [b"a text file that is no database\n" * 100, b"xy", b"SQLite format 4\x00" + bytes(500)]
)
def test_a_file_that_is_no_database_is_refused_untouched(path: Path, content: bytes, read_only: bool) -> None:
    path.write_bytes(content)
    refused(path, UnsupportedStoreError, "no SQLite database|something else", read_only=read_only)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, UnsupportedStoreError, "is a folder where a store is one file")


@pytest.mark.parametrize("read_only", [False, True])
def test_a_store_of_a_newer_schema_is_refused_untouched(path: Path, read_only: bool) -> None:
    filled(path)
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    refused(path, UnsupportedStoreError, "schema version 99 .* upgrade everlog", read_only=read_only)


def test_a_store_of_an_older_schema_is_not_opened_read_only(path: Path) -> None:
    other = sqlite3.connect(path)
    other.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 0; CREATE TABLE t (x);")
    other.close()
    refused(path, UnsupportedStoreError, "open it once for writing", read_only=True)


@pytest.mark.parametrize("version", ["3.51.2", "3.51.0", "3.7.0", "3.50.4", "2.99.99"])
def test_an_sqlite_that_can_lose_commits_is_refused(version: str) -> None:
    with pytest.raises(UnsupportedStoreError, match=f"linked here is {re.escape(version)}.*nothing was opened"):
        refuse_old_sqlite(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.52.0", "3.100.0", "4.0.0", apsw.sqlite_lib_version()])
def test_an_sqlite_without_that_bug_is_taken(version: str) -> None:
    refuse_old_sqlite(version)


def test_a_damaged_store_is_called_damaged(path: Path) -> None:
    filled(path, 200)
    content = bytearray(path.read_bytes())
    content[8192 * 2 : 8192 * 12] = b"\xaa" * (8192 * 10)
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match="is damaged .* restore a backup"), everlog.open(path) as store:
        list(store.session("s"))


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:50 / /home rw shared:2 - nfs4 server:/home rw
41 40 8:2 / /home/ada/local rw shared:3 - xfs /dev/sdb1 rw
42 22 0:51 / /mnt/with\\040space rw - cifs //server/share rw
43 22 0:52 / /over rw - ext4 /dev/sdc1 rw
44 22 0:53 / /over rw shared:4 - fuse.sshfs host:/ rw
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/var/x.db", "ext4"),
        ("/home/ada/x.db", "nfs4"),
        ("/homes/x.db", "ext4"),
        ("/home/ada/local/x.db", "xfs"),
        ("/mnt/with space/x.db", "cifs"),
        ("/over/x.db", "fuse.sshfs"),
    ],
)
def test_a_network_file_system_is_refused_by_the_mount_that_covers_the_file(
    tmp_path: Path, place: str, kind: str
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert file_system_of(Path(place), mounts=str(mounts)) == kind
    if kind in NETWORK_FILE_SYSTEMS:
        with pytest.raises(
            UnsupportedStoreError, match=f"network file system \\({re.escape(kind)}\\).*nothing was written"
        ):
            refuse_network_file_system(Path(place), mounts=str(mounts))
    else:
        refuse_network_file_system(Path(place), mounts=str(mounts))


def test_where_mounts_cannot_be_read_nothing_is_refused(tmp_path: Path) -> None:
    assert file_system_of(tmp_path / "x.db", mounts=str(tmp_path / "absent")) is None
    refuse_network_file_system(tmp_path / "x.db", mounts=str(tmp_path / "absent"))


# --- read-only -----------------------------------------------------------------------------------
def test_a_store_opened_read_only_reads_and_never_writes(path: Path) -> None:
    filled(path)
    before = path.read_bytes()
    with everlog.open(path, read_only=True) as store:
        session = store.session("s")
        assert [event.data["content"] for event in session] == ["note 0", "note 1", "note 2"]
        session.verify().raise_for_faults()
        for write in (
            lambda: session.append("note", {"content": "x"}),
            lambda: store.create("t"),
            lambda: session.fork(),
            lambda: session.erase([0], reason="x"),
            lambda: store.delete("s", reason="x"),
        ):
            with pytest.raises(UnavailableError, match="was opened read-only; nothing was written"):
                write()
    assert path.read_bytes() == before


def test_a_store_opened_read_only_sees_what_a_writer_appends(path: Path) -> None:
    filled(path)
    with everlog.open(path) as writer, everlog.open(path, read_only=True) as reader:
        writer.session("s").append("note", {"content": "later"})
        assert len(reader.session("s")) == 4


def test_a_missing_store_is_not_made_read_only(path: Path) -> None:
    with pytest.raises(NotFoundError, match="no store at"):
        everlog.open(path, read_only=True)
    assert beside(path) == []


AS_NOBODY = """
import os, sys
import everlog
path, mode, warm = sys.argv[1:]
everlog.open(warm).close()  # imports all that it takes, from where nobody may not be able to read it
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    with everlog.open(path, read_only=mode == "read") as store:
        if mode == "write":
            store.create("t")
        print(len(store.session("s")))
except everlog.EverlogError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="everlog-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(os.getuid() == NOBODY, reason="runs as nobody, whose own folder cannot be another's")
def test_a_folder_that_cannot_be_written_is_said_to_be_the_trouble(open_folder: Path, tmp_path: Path) -> None:
    path = open_folder / "everlog.db"
    filled(path)
    path.chmod(0o444)
    for lock in open_folder.glob("*-lock"):
        lock.unlink()
    open_folder.chmod(0o555)
    before = path.read_bytes()
    said = run_python(AS_NOBODY, path, "write", tmp_path / "warm.db")
    assert said.startswith("UnavailableError ")
    assert "permissions" in said
    said = run_python(AS_NOBODY, open_folder / "new.db", "write", tmp_path / "warm.db")
    assert said.startswith("UnavailableError ")
    assert "cannot be made (Permission denied); nothing was written" in said
    assert path.read_bytes() == before
    assert beside(path) == [path]


@pytest.mark.skipif(os.getuid() == NOBODY, reason="runs as nobody, whose own folder cannot be another's")
def test_another_users_store_is_not_readable(open_folder: Path, tmp_path: Path) -> None:
    path = open_folder / "everlog.db"
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    filled(path)
    assert run_python(AS_NOBODY, path, "read", tmp_path / "warm.db").startswith("UnavailableError ")


@pytest.fixture
def kept_from_writing(open_folder: Path) -> Iterator[Path]:
    """A store that anyone may read, in a folder that others cannot write."""
    path = open_folder / "every log.db"
    filled(path)
    path.chmod(0o444)
    for lock in open_folder.glob("*-lock"):
        lock.unlink()
    open_folder.chmod(0o555)
    yield path
    open_folder.chmod(0o755)


@pytest.mark.skipif(os.getuid() == NOBODY, reason="runs as nobody, whose own folder cannot be another's")
def test_a_store_is_read_where_nothing_can_be_written_beside_it(kept_from_writing: Path, tmp_path: Path) -> None:
    before = kept_from_writing.read_bytes()
    assert run_python(AS_NOBODY, kept_from_writing, "read", tmp_path / "warm.db") == "3\n"
    assert kept_from_writing.read_bytes() == before
    assert beside(kept_from_writing) == [kept_from_writing]


READS_TWICE = """
import os, sys
import everlog
path, warm = sys.argv[1:]
everlog.open(warm).close()
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
with everlog.open(path, read_only=True) as store:
    print(len(store.session("s")), flush=True)
    sys.stdin.readline()
    try:
        print(list(store.feed()), flush=True)
    except everlog.EverlogError as error:
        print(type(error).__name__, error, flush=True)
"""


@pytest.mark.skipif(os.getuid() == NOBODY, reason="runs as nobody, whose own folder cannot be another's")
@pytest.mark.parametrize("how", ["in its log", "in the file", "by half"])
def test_what_is_read_so_is_refused_once_the_file_changes(kept_from_writing: Path, tmp_path: Path, how: str) -> None:
    reads = [sys.executable, "-W", "error", "-c", READS_TWICE, str(kept_from_writing), str(tmp_path / "warm.db")]
    with subprocess.Popen(reads, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "3\n"
        kept_from_writing.parent.chmod(0o755)
        kept_from_writing.chmod(0o644)
        with ExitStack() as writing:
            if how == "by half":
                with kept_from_writing.open("r+b") as file:
                    file.seek(2 * connections.PAGE_BYTES)
                    file.write(os.urandom(kept_from_writing.stat().st_size - file.tell()))
            else:
                store = writing.enter_context(everlog.open(kept_from_writing))
                store.session("s").append("note", {"content": "more"})
            if how == "in the file":
                writing.close()
            reader.stdin.write("\n")
            reader.stdin.flush()
            said = reader.stdout.readline()
    assert "is written to by another program; close this store and open it again" in said


AT_THE_COMMAND_LINE = """
import os, sys
import everlog
from everlog.cli.commands import everlog as command
path, warm, *words = sys.argv[1:]
with everlog.open(warm) as store:
    store.create("s")
command(["--store", warm, "log", "s"], standalone_mode=False)
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
command(["--store", path, *words], standalone_mode=False)
"""


@pytest.mark.skipif(os.getuid() == NOBODY, reason="runs as nobody, whose own folder cannot be another's")
def test_the_command_reads_a_store_that_it_cannot_write_and_says_why_it_writes_nothing(
    kept_from_writing: Path, tmp_path: Path
) -> None:
    said = run_python(AT_THE_COMMAND_LINE, kept_from_writing, tmp_path / "warm.db", "log", "s")
    assert [line.split()[-1] for line in said.splitlines()] == ["0", "1", "2"]
    said = run_python(AT_THE_COMMAND_LINE, kept_from_writing, tmp_path / "warm2.db", "doctor", expect=1)
    assert "1 session" in said
    with pytest.raises(AssertionError, match="or its folder cannot be written .*; nothing was written; correct its"):
        run_python(AT_THE_COMMAND_LINE, kept_from_writing, tmp_path / "warm3.db", "fork", "s")


@pytest.mark.skipif(os.getuid() == NOBODY, reason="runs as nobody, whose own folder cannot be another's")
def test_a_lock_that_cannot_be_opened_is_said_to_be_the_trouble(open_folder: Path, tmp_path: Path) -> None:
    path = open_folder / "everlog.db"
    filled(path)
    path.chmod(0o666)
    path.with_name("everlog.db-lock").chmod(0o444)
    open_folder.chmod(0o777)
    said = run_python(AS_NOBODY.replace("read_only=", "make="), path, "write", tmp_path / "warm.db")
    assert re.match(
        r"UnavailableError .*everlog\.db-lock cannot be opened \(Permission denied\).*nothing was written", said
    )


# --- the file goes away --------------------------------------------------------------------------
def test_a_removed_file_is_noticed_and_not_made_again(path: Path) -> None:
    filled(path)
    store = everlog.open(path)
    session = store.session("s")
    path.unlink()
    for use in (lambda: session.append("note", {"content": "x"}), lambda: len(session), store.cursor):
        with pytest.raises(UnavailableError, match="was removed while it was open.*close this store and open it again"):
            use()
    assert not path.exists()
    store.close()


def test_a_replaced_file_is_noticed_and_left_alone(path: Path, tmp_path: Path) -> None:
    filled(path)
    other = tmp_path / "other.db"
    filled(other, 1)
    store = everlog.open(path)
    session = store.session("s")
    path.rename(tmp_path / "moved.db")
    other.rename(path)
    before = path.read_bytes()
    for use in (lambda: session.append("note", {"content": "x"}), lambda: len(session)):
        with pytest.raises(UnavailableError, match="was replaced while it was open"):
            use()
    store.close()
    assert path.read_bytes() == before


# --- a full disk ---------------------------------------------------------------------------------
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = os.getuid() == 0 and shutil.which("mount") is not None
    if made:
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "everlog-test", str(folder)]
        made = subprocess.run(command, capture_output=True).returncode == 0
    if not made:
        pytest.skip("only root, outside a locked-down container, can mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("body_bytes", [2_000, 300_000])
def test_a_full_disk_refuses_appends_and_keeps_what_was_acknowledged(small_disk: Path, body_bytes: int) -> None:
    path = small_disk / "everlog.db"
    with everlog.open(path) as store:
        session = store.create("s")
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(1_500_000))
        kept: list[everlog.Event] = []
        with pytest.raises(UnavailableError, match="is full; nothing was written; free some space"):
            while True:
                kept.append(session.append("my.fill", {"n": len(kept), "x": os.urandom(body_bytes // 2).hex()}))
        assert kept
        assert list(session) == kept
        ballast.unlink()
        later = session.append("my.fill", {"n": len(kept)})
        assert later.position == len(kept)
        session.verify().raise_for_faults()
    with everlog.open(path) as store:
        assert list(store.session("s")) == [*kept, later]
        store.verify().raise_for_faults()


UNDER_A_FILE_LIMIT = """
import resource, signal, sys
import everlog
from everlog.errors import OutcomeUnknownError, UnavailableError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
with everlog.open(sys.argv[1]) as store:
    session = store.create("s")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    kept = []
    try:
        while True:
            kept.append(session.append("my.fill", {"x": "y" * 20_000}, key=f"k{len(kept)}"))
    except (UnavailableError, OutcomeUnknownError) as error:
        print(type(error).__name__)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    again = session.append("my.fill", {"x": "y" * 20_000}, key=f"k{len(kept)}")
    assert again.position == len(kept), (again, len(kept))
    assert [event.hash for event in session] == [event.hash for event in [*kept, again]]
    session.verify().raise_for_faults()
    print(len(kept))
"""


def test_a_file_that_may_grow_no_further_loses_and_doubles_nothing(path: Path) -> None:
    said, kept = run_python(UNDER_A_FILE_LIMIT, path).split()
    assert said in (UnavailableError.__name__, OutcomeUnknownError.__name__)
    assert int(kept) > 3
    with everlog.open(path) as store:
        assert len(store.session("s")) == int(kept) + 1
        store.verify().raise_for_faults()


# --- fork() --------------------------------------------------------------------------------------
def in_child(work: Callable[[], None]) -> int:
    """Run work in a forked child; give its exit status, 0 if it raised nothing."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\n".encode())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_after_fork_the_child_opens_its_own_store_and_the_parent_goes_on(path: Path) -> None:
    store = everlog.open(path)
    session = store.create("s")
    session.append("note", {"content": "parent, before"})

    def work() -> None:
        for use in (lambda: session.append("note", {"content": "x"}), lambda: len(session), lambda: list(store.feed())):
            with pytest.raises(UnsupportedStoreError, match="opened before this process was forked"):
                use()
        store.close()
        with everlog.open(path) as own:
            own.session("s").append("note", {"content": "child"})

    assert in_child(work) == 0
    session.append("note", {"content": "parent, after"})
    assert [event.data["content"] for event in session] == ["parent, before", "child", "parent, after"]
    store.close()
    with everlog.open(path) as store:
        store.verify().raise_for_faults()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_parent_and_child_append_at_once_after_fork(path: Path) -> None:
    store = everlog.open(path)
    session = store.create("s")
    session.append("note", {"content": "first"})

    def append_fifty(session: everlog.Session, who: str) -> None:
        for number in range(50):
            session.append("note", {"content": f"{who} {number}"})

    def work() -> None:
        with everlog.open(path) as own:
            append_fifty(own.session("s"), "child")

    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    append_fifty(session, "parent")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(session) == 101
    store.verify().raise_for_faults()
    store.close()


# --- the schema ----------------------------------------------------------------------------------
def schema_of(scripts: list[str]) -> dict[str, str]:
    connection = sqlite3.connect(":memory:")
    for script in scripts:
        connection.executescript(script)
    rows = connection.execute("SELECT type || ' ' || name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {name: re.sub(r"\s*([,()])\s*", r"\1", " ".join(re.sub(r"--[^\n]*", "", sql).split())) for name, sql in rows}


def test_the_schema_is_the_sum_of_its_migrations(path: Path) -> None:
    truth = package_files("everlog.stores.sqlite").joinpath("schema.sql").read_text(encoding="utf-8")
    migrated = schema_of([script for _, script in load_migrations("everlog.stores.sqlite")])
    assert migrated == schema_of([truth])
    assert "table event" in migrated
    filled(path)
    stored = sqlite3.connect(path)
    (version,) = stored.execute("PRAGMA user_version").fetchone()
    (application,) = stored.execute("PRAGMA application_id").fetchone()
    stored.close()
    assert (version, application) == (len(load_migrations("everlog.stores.sqlite")), APPLICATION_ID)


def as_version_7(path: Path) -> None:
    """Undo what migration 8 does."""
    raw = sqlite3.connect(path, isolation_level=None)
    raw.executescript(
        "DROP TRIGGER branch_made; DROP TRIGGER branch_grown; DROP INDEX branch_second; ALTER TABLE branch DROP second; "
        "CREATE INDEX branch_recorded ON branch (recorded); PRAGMA writable_schema = ON; "
        "UPDATE sqlite_schema SET sql = replace(sql, 'feed INTEGER PRIMARY KEY', 'feed INTEGER PRIMARY KEY AUTOINCREMENT'); "
        "PRAGMA writable_schema = RESET; INSERT INTO sqlite_sequence SELECT 'event', max(feed) FROM event; PRAGMA user_version = 7"
    )
    raw.close()
    raw = sqlite3.connect(path)
    raw.execute("INSERT INTO event (branch, position, leaf, nodes) VALUES (99, 0, x'', x'')")
    assert raw.execute("SELECT seq = max(feed) FROM sqlite_sequence, event WHERE name = 'event'").fetchone() == (1,)
    raw.rollback()
    raw.close()


def test_a_store_of_schema_version_7_goes_on_where_it_was(path: Path) -> None:
    clock = FixedClock()

    def opened() -> Store:
        return Store(open_sqlite(path, clock=clock, draw=os.urandom), Settings(os.urandom), url=str(path))

    with opened() as store:
        for number in range(40):
            store.create(f"s{number:02}").append("note", {"content": str(number)})
            clock.advance(seconds=number % 5 * 0.3)
        (end,) = store.storage.feed_end()
        listed = {order: [each.id for each in store.sessions(order=order)] for order in ("updated", "-updated")}
    as_version_7(path)
    with opened() as store:
        assert {order: [each.id for each in store.sessions(order=order)] for order in listed} == listed
        clock.advance(seconds=1)
        store.session("s07").append("note", {"content": "later"})
        assert [each.id for each in store.sessions(limit=2)] == ["s07", listed["-updated"][0]]
        assert [place.number for place, _ in store.storage.feed([end], 10).events] == [end.number + 1]
        store.verify().raise_for_faults()
    raw = sqlite3.connect(path)
    assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert raw.execute("SELECT count(*) FROM sqlite_sequence WHERE name = 'event'").fetchone() == (0,)
    assert raw.execute("SELECT count(*) FROM branch WHERE second <> (recorded + 999999) / 1000000").fetchone() == (0,)
    raw.close()


def test_a_disk_that_is_full_while_a_store_is_migrated_is_said_to_be(path: Path, tmp_path: Path) -> None:
    with everlog.open(path) as store:
        store.create("s").append("note", {"content": "x"})
    as_version_7(path)
    told = set()
    for at in range(4, 12):
        copy = tmp_path / f"{at}.db"
        shutil.copyfile(path, copy)
        with faulty_disk() as disk:
            disk.fault = Fault("full", at)
            with pytest.raises(UnavailableError) as refused:
                open_faulty(copy, disk)
            told.add("full" in str(refused.value))
            assert "rollback" not in str(refused.value)
        with everlog.open(copy) as store:
            store.verify().raise_for_faults()
    assert told == {True}


def test_sessions_without_events_are_not_passed_to_list_others(path: Path) -> None:
    """A page costs the same with four and with four thousand of them, wherever it begins."""
    with everlog.open(path, durability="relaxed") as store:
        reader: apsw.Connection
        steps = 0

        def count() -> bool:
            nonlocal steps
            steps += 1
            return False

        def costs() -> list[int]:
            nonlocal steps
            found: list[int] = []
            for order in ("updated", "-updated"):
                every = [each.id for each in store.sessions("-nobody", order=order, limit=1000)]
                assert [each.startswith("empty") for each in every[:4]] == [order == "updated"] * 4
                for after in (None, "full-2", "empty-0", "empty-1"):
                    last = None if after is None else store.session(after).info()
                    steps = 0
                    store.sessions(order=order, limit=2, after=last)
                    found.append(steps)
            return found

        for number in range(4):
            store.create(f"full-{number}", events=[everlog.NewEvent("note", {"content": "x"})])
            store.create(f"empty-{number}")
        with store.storage._connections.reader() as reader:  # type: ignore[attr-defined]
            pass  # the one that is lent again
        reader.set_progress_handler(count, 10)
        few = costs()
        writer = store.storage._connections.writer()  # type: ignore[attr-defined]
        writer.execute(
            "BEGIN; "
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) "
            "INSERT INTO branch (branch, id, session, number, writer, base_size, size, recorded, leaf, peaks, created) "
            "SELECT 100 + i, randomblob(16), 100 + i, 0, randomblob(16), 0, 0, 0, x'', x'', 0 FROM n; "
            "INSERT INTO session (session, id, family, name, labels, current, salt, created) "
            "SELECT branch, id, 1, 'empty-more-' || branch, '{}', branch, randomblob(16), 0 FROM branch WHERE branch > 100; "
            "COMMIT"
        )
        many = costs()
        assert max(many) < 2 * max(few), (few, many)


def test_what_may_change_the_schema_may_do_so_only_while_the_store_is_made(path: Path) -> None:
    with everlog.open(path) as store:
        writer = store.storage._connections.writer()  # type: ignore[attr-defined]
        with pytest.raises(apsw.SQLError, match="may not be modified"):
            writer.execute("PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = '' WHERE name = 'event'")


# --- nothing left behind -------------------------------------------------------------------------
def traces(path: Path, *secrets: bytes) -> dict[str, int]:
    """How often any of the secrets stands in each file of the store."""
    found: dict[str, int] = {}
    for file in beside(path):
        content = subprocess.run(["cat", file], capture_output=True, check=True).stdout
        found[file.name] = sum(content.count(secret) for secret in secrets)
    return {name: count for name, count in found.items() if count}


def test_erased_bodies_and_attachments_leave_no_plaintext_in_any_file(path: Path) -> None:
    with everlog.open(path) as store:
        session = store.create("s")
        for number in range(120):
            session.append(
                "my.secret",
                {"x": "hunter2" * (number % 7 * 60 + 1), "n": number},
                rationale="hunter2 too",
                attachments={"a.txt": b"attached hunter2" * (number % 5 * 300)} if number % 3 == 0 else None,
            )
        keeper = session.append("note", {"content": "keeps"})
        assert traces(path, b"hunter2")
        assert session.erase(list(range(120)), reason="asked for").positions == tuple(range(120))
        assert traces(path, b"hunter2") == {}
        assert session[120] == keeper
        assert all(event.erased and event.data is None for event in session.slice(0, 120))
        store.verify().raise_for_faults()
    assert traces(path, b"hunter2") == {}


def test_salts_are_destroyed_with_what_they_hid(path: Path) -> None:
    with everlog.open(path) as store:
        session = store.create("s")
        session.append("my.secret", {"x": 1}, attachments={"a": b"1"})
        stored = apsw.Connection(str(path))
        salts = [salt for (salt,) in stored.execute("SELECT salt FROM event UNION ALL SELECT salt FROM attachment")]
        stored.close()
        assert len(salts) == 2
        assert traces(path, *salts)
        session.erase([0], reason="x")
        assert traces(path, *salts) == {}


def test_a_deleted_session_leaves_no_plaintext_in_any_file(path: Path) -> None:
    with everlog.open(path) as store:
        names = [f"{os.urandom(8).hex()}-hunter2-{number}" for number in range(150)]
        for name in names:
            session = store.create(
                name,
                title=f"title hunter2 {name}",
                labels={f"label-hunter2-{name[:6]}": f"hunter2 {name}"},
                metadata={"m": "hunter2"},
            )
            for _ in range(3):
                session.append(
                    "my.secret",
                    {"x": "hunter2"},
                    key=f"hunter2-{os.urandom(20).hex()}",
                    actor="hunter2",
                    attachments={"hunter2.txt": b"hunter2"},
                )
            session.update(title="another hunter2", labels={name[:9]: "hunter2"})
        assert traces(path, b"hunter2")
        for name in names:
            store.delete(name, reason="asked for")
        assert traces(path, b"hunter2") == {}
        store.verify().raise_for_faults()
    assert traces(path, b"hunter2") == {}


INTERRUPTED_DELETE = """
import os, sys
import everlog
from everlog.stores.sqlite import store as sqlite_store
sqlite_store.SWEEP_EVENTS = 10
store = everlog.open(sys.argv[1])
commits = iter(range(int(sys.argv[2])))
def before_commit():
    if next(commits, None) is None:
        os._exit(9)
    return False
store.storage._connections.writer().set_commit_hook(before_commit)
store.delete("s", reason="asked for")
"""


@pytest.mark.parametrize("commits", [1, 2, 4, 6])
def test_a_deletion_that_was_interrupted_is_finished_at_the_next_open(path: Path, commits: int) -> None:
    with everlog.open(path) as store:
        other = store.create("other")
        other.append("note", {"content": "keeps"})
        session = store.create("s")
        session.extend([everlog.NewEvent("my.secret", {"x": "hunter2"}, key=f"hunter2-{n}") for n in range(45)])
        session.append("my.secret", {"x": "hunter2"}, attachments={"a": b"hunter2"})
    run_python(INTERRUPTED_DELETE, path, commits, expect=9)
    assert traces(path, b"hunter2")
    with everlog.open(path) as store:
        assert traces(path, b"hunter2") == {}, "while it is open, and not only once it was closed"
        with pytest.raises(NotFoundError):
            store.session("s")
        assert [event.session for event in store.feed()] == ["other"]
        store.create("s").append("note", {"content": "the name is free"})
        store.verify().raise_for_faults()
    assert traces(path, b"hunter2") == {}


def test_a_deletion_killed_before_its_commit_did_not_happen(path: Path) -> None:
    filled(path)
    run_python(INTERRUPTED_DELETE, path, 0, expect=9)
    with everlog.open(path) as store:
        assert len(store.session("s")) == 3
        store.verify().raise_for_faults()


INTERRUPTED_ERASURE = """
import os, sys
import everlog
store = everlog.open(sys.argv[1])
session = store.session("s")
store.storage._connections.writer().set_wal_hook(lambda *after_commit: os._exit(9))
session.erase([0], reason="asked for")
"""


def test_an_erasure_killed_after_its_commit_leaves_no_plaintext_once_the_store_is_open_again(path: Path) -> None:
    with everlog.open(path) as store:
        store.create("s").append("my.secret", {"x": "hunter2"})
    run_python(INTERRUPTED_ERASURE, path, expect=9)
    with everlog.open(path) as store:
        assert store.session("s")[0].erased
        assert traces(path, b"hunter2") == {}


def long_reader(path: Path) -> apsw.Connection:
    """Give a connection that reads the store as it is now, until it is told to COMMIT or closed."""
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM event").fetchone()
    return reader


def test_an_erasure_that_a_reader_hinders_says_so_and_can_be_repeated(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everlog.stores.sqlite.connections.BUSY_MILLISECONDS", 20)
    with everlog.open(path) as store:
        session = store.create("s")
        session.append("my.secret", {"x": "hunter2"})
        reader = long_reader(path)
        with pytest.raises(BusyError, match="gone from the store, but a reader keeps old bytes in .*-wal"):
            session.erase([0], reason="asked for")
        assert session[0].erased
        reader.execute("COMMIT")
        reader.close()
        session.erase([0], reason="asked for")
        assert traces(path, b"hunter2") == {}


# --- what things cost ----------------------------------------------------------------------------
def test_the_write_ahead_log_stays_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CHECKPOINT_PAGES", 40)
    monkeypatch.setattr(connections, "RESTART_PAGES", 160)
    wal = path.with_name(path.name + "-wal")
    longest = 0
    with everlog.open(path, durability="relaxed") as store:
        session = store.create("s")
        for _ in range(400):
            session.append("my.fill", {"x": "y" * 30_000})
            len(session)
            longest = max(longest, wal.stat().st_size)
        assert path.stat().st_size > 400 * 30_000
    assert longest < 80 * 8_300, "one checkpoint's pages, and those of the appends until the next"


def test_the_write_ahead_log_starts_again_once_a_reader_lets_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CHECKPOINT_PAGES", 20)
    monkeypatch.setattr(connections, "RESTART_PAGES", 10_000)
    wal = path.with_name(path.name + "-wal")
    with everlog.open(path, durability="relaxed") as store:
        session = store.create("s")
        reader = long_reader(path)
        for _ in range(60):
            session.append("my.fill", {"x": "y" * 30_000})
        kept = wal.stat().st_size
        assert kept > 60 * 30_000, "the reader keeps the log from starting again"
        reader.execute("COMMIT")
        reader.close()
        for _ in range(30):
            session.append("my.fill", {"x": "y" * 30_000})
        assert wal.stat().st_size <= kept + 20 * 8_300 + 5 * 8_300
        assert len(session) == 90


def test_the_write_ahead_log_gives_back_what_a_long_reader_made_it_take(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CHECKPOINT_PAGES", 20)
    monkeypatch.setattr(connections, "RESTART_PAGES", 40)
    wal = path.with_name(path.name + "-wal")
    with everlog.open(path) as store:
        session = store.create("s")
        reader = long_reader(path)
        for _ in range(60):
            session.append("my.fill", {"x": "y" * 30_000})
        assert wal.stat().st_size > 60 * 30_000
        reader.close()
        for _ in range(3):
            session.append("note", {"content": "x"})
        assert wal.stat().st_size <= 40 * connections.PAGE_BYTES
        assert (len(session), store.verify().ok) == (63, True)


def rows_written(store: everlog.Store, act: Callable[[], object]) -> int:
    connection = store.storage._connections.writer()  # type: ignore[attr-defined]
    before = connection.total_changes()
    act()
    return connection.total_changes() - before


def test_forks_and_rewinds_write_as_many_rows_at_ten_events_as_at_three_thousand(path: Path) -> None:
    storage = open_sqlite(path, clock=FixedClock(), draw=os.urandom, relaxed=True)  # a new second would be noted too
    with Store(storage, Settings(os.urandom, snapshots=SnapshotPolicy(automatic=False)), url=str(path)) as store:
        costs = []
        for size in (10, 3_000):
            session = store.create(f"s{size}")
            session.extend([everlog.NewEvent("note", {"content": str(number)}) for number in range(size)])
            costs.append(
                (
                    rows_written(store, lambda: session.fork(size // 2)),
                    rows_written(store, lambda: session.fork()),
                    rows_written(store, lambda: session.rewind(size - 2)),
                    rows_written(store, lambda: session.rewind(3)),
                    rows_written(store, lambda: session.append("note", {"content": "x"})),
                )
            )
        assert costs[0] == costs[1]
        assert max(costs[0]) <= 9
        assert costs[0][-1] == 2, "an append writes its event and the end of its branch"


def test_a_session_of_a_thousand_rewinds_reads_right(path: Path) -> None:
    with everlog.open(path, durability="relaxed") as store:
        session = store.create("s")
        expected: list[str] = []
        for number in range(1_000):
            expected.append(session.append("note", {"content": str(number)}).hash)
            expected.append(session.append("note", {"content": "to be rewound"}).hash)
            cut = len(expected) - 1
            session.rewind(cut)
            del expected[cut:]
            expected.append(session[-1].hash)
        assert [event.hash for event in session] == expected
        assert [event.type for event in session] == ["note", "session.rewound"] * 1_000
        assert [event.data["content"] for event in session.events(types="note")] == [str(n) for n in range(1_000)]
        assert [event.hash for event in session.slice(990, 1_010)] == expected[990:1_010]
        assert session.event(1_234).hash == expected[1_234]
        assert len(session.branches()) == 1_001
        session.verify().raise_for_faults()


def test_erased_bodies_leave_no_trace_in_snapshots(path: Path) -> None:
    often = everlog.SnapshotPolicy(events=2, share=1e9)
    with everlog.open(path, snapshots=often) as store:
        session = store.create("s")
        for number in range(6):
            value = os.urandom(40).hex() if number != 3 else "a secret that must go, in a state of its own"
            session.append("state.set", {"path": f"/k{number}", "value": value})
        session.state()
        assert store.keeper.wait(20)
        reducer = find_reducer("document")
        lineage = session.view().lineage
        kept = [store.storage.snapshot_chain(lineage, size, reducer.fingerprint())[0][-1] for size in range(4, 7)]
        contents = {row.content for row in kept if row.size > 3}
        assert contents
        session.erase([3], reason="asked")
        assert store.keeper.wait(20)
        found = b"".join(file.read_bytes() for file in path.parent.iterdir())
        assert b"a secret that must go" not in found
        assert [content for content in contents if content in found] == []
        assert session.state().incomplete == (3,)
