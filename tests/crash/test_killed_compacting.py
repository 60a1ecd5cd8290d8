"""A process that packs, archives, brings home or erases is killed at each of its steps, and the power goes at points of its disk.

Whatever it was doing: every event is what it was, the log verifies, who does it again finishes, and no block, no row and no file of
the archive is left that nobody knows of.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

import everlog
from crash.packer import OBJECT_BYTES, act
from everlog import archiving
from everlog.cold import ForgetObject
from everlog.core.block import BLOCK_EVENTS
from everlog.errors import EverlogError, NotFoundError
from everlog.session import Settings
from everlog.storage import Receipt, Request
from everlog.store import Store
from everlog.stores.sqlite.store import open_sqlite
from everlog.testing.faulty import Fault, faulty_disk, open_faulty
from services.cold import blocks_on_disk, note, objects_in, stored, told

STEPS_MAX = 200
POINTS = 10_000 if os.environ.get("EVERLOG_FAULTS") == "1" else 9  # of a disk, at which the power goes
LATER_SECONDS = 3_600.0  # after which nobody writes an object any more
SECRET = "a secret of event"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that was packed in part, in each state that the work begins with."""
    folder = tmp_path_factory.mktemp("base")
    attached = os.urandom(20_000)
    with everlog.open(folder / "hot.db") as store:
        session = store.create("s")
        for number in range(140):
            session.append("note", {"content": f"{SECRET} {number}", "random": os.urandom(60).hex()}, key=f"k{number}")
        for number in range(3):
            session.append("agent.message", {"content": f"{number}"}, attachments={"a": attached})
        session.fork(at=70, id="fork").extend([note(number) for number in range(70)])
        other = store.create("other", events=[note(number, size=300) for number in range(80)])
        other.append("agent.message", {"content": "see"}, attachments={"a": attached, "b": os.urandom(20_000)})
        session.rewind(141)
        session.erase([3], reason="asked for")
    for name in ("packed", "archived"):
        shutil.copyfile(folder / "hot.db", folder / f"{name}.db")
        with everlog.open(folder / f"{name}.db") as store:
            store.compact(older_than=0)
    with everlog.open(folder / "archived.db") as store, small_objects():
        store.archive(folder / "archive", older_than=0)
    return folder


class small_objects:
    """Objects of a few blocks, so that there are a few, as in the processes that are killed."""

    def __enter__(self) -> None:
        self.size, archiving.OBJECT_BYTES = archiving.OBJECT_BYTES, OBJECT_BYTES

    def __exit__(self, *_: object) -> None:
        archiving.OBJECT_BYTES = self.size


BEGINS_WITH = {
    "compact": "hot",
    "past": "hot",
    "archive": "packed",
    "restore": "archived",
    "erase": "archived",
    "delete": "archived",
}


def prepared(base: Path, folder: Path, what: str) -> Path:
    """Lay out what a round begins with. Objects are known by their address, so each round has its own."""
    folder.mkdir()
    path = folder / "store.db"
    shutil.copyfile(base / f"{BEGINS_WITH[what]}.db", path)
    if (base / "archive").exists() and BEGINS_WITH[what] == "archived":
        shutil.copytree(base / "archive", folder / "archive")
        connection = apsw.Connection(str(path))
        connection.execute("UPDATE object SET url = ?", ((folder / "archive").as_uri(),))
        connection.close()
    return path


def open_later(path: Path) -> Store:
    """Open a store as who comes an hour later."""
    storage = open_sqlite(path, clock=lambda: time.time_ns() // 1_000 + int(LATER_SECONDS * 1e6), draw=os.urandom)
    return Store(storage, Settings(os.urandom), url=str(path))


def check(path: Path, folder: Path, what: str, before: dict[str, Any]) -> None:
    """What a killed process left is whole; who does it again finishes, and nothing is left over."""
    with open_later(path) as store, small_objects():
        store.verify().raise_for_faults()
        if what not in ("erase", "delete"):
            assert told(store) == before
        try:
            act(store, what, str(folder / "archive"))
        except NotFoundError:
            assert what == "delete", "which was done already"
            store.restore()
        store.verify().raise_for_faults()
        check_done(store, path, folder, what, before)
    check_nothing_left(path, folder)


def check_done(store: Store, path: Path, folder: Path, what: str, before: dict[str, Any]) -> None:
    """All of it was done, and no more."""
    sizes = store.stats().sizes
    after = told(store)
    if what == "erase":
        decoded = b"".join(content for _, _, content in stored(path))
        assert f'{SECRET} 5"'.encode() not in decoded and f'{SECRET} 70"'.encode() not in decoded
        assert f'{SECRET} 6"'.encode() in decoded
        changed = [one for one, other in zip(after["feed"], before["feed"], strict=True) if one != other]
        assert len(changed) == 3 and all(raw is None for _, _, raw in changed)
    elif what == "delete":
        assert {name for name in after if name != "feed"} == {
            name for name in before if name != "feed" and "other" not in name
        }
        assert all(each in before["feed"] for each in after["feed"])
    else:
        assert after == before
    if what == "compact":
        assert sizes.hot < 100
    elif what == "past":
        assert all(branch.size - branch.start < BLOCK_EVENTS for branch in store.storage.cold(-1, 10))
    elif what == "archive":
        assert (sizes.hot, sizes.packed, sizes.shared) == (sizes.hot, 0, 0) and sizes.archived > 0
    elif what == "restore":
        assert sizes.archived == sizes.objects == 0 and objects_in(folder / "archive") == []


def check_nothing_left(path: Path, folder: Path) -> None:
    """The store knows each object, and each object each block; what is kept once is held, and nothing lies outside its branch."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    rows = connection.execute("SELECT id, name, state FROM object").fetchall()
    assert sorted(Path(name).name for _, name, _ in rows) == objects_in(folder / "archive")
    assert {state for *_, state in rows} <= {"kept"}
    known = {id for id, *_ in rows}
    assert {id for (id,) in connection.execute("SELECT object FROM block WHERE object IS NOT NULL")} == known
    assert (
        connection.execute(
            "SELECT digest FROM block WHERE digest IS NOT NULL AND digest NOT IN (SELECT digest FROM sharing)"
        ).fetchall()
        == []
    )
    outside = (
        "SELECT b.block FROM block AS b LEFT JOIN branch AS own ON own.branch = b.branch "
        "WHERE b.branch IS NOT NULL AND (own.branch IS NULL OR b.start < own.base_size OR b.stop > own.packed)"
    )
    assert connection.execute(outside).fetchall() == []
    both = "SELECT e.position FROM event AS e JOIN branch AS b USING (branch) WHERE e.position < b.packed AND e.body IS NOT NULL"
    assert connection.execute(both).fetchall() == []
    connection.close()
    assert len(blocks_on_disk(path)) == len(set(blocks_on_disk(path)))


# --- killed --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def zygote() -> Iterator[Callable[..., int]]:
    """Gives what has a process do something and be killed at a step; it gives how that process ended."""
    command = [sys.executable, str(Path(__file__).with_name("packer.py"))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    ask, answers = process.stdin, process.stdout

    def killed(**asked: Any) -> int:
        ask.write(json.dumps(asked) + "\n")
        ask.flush()
        return int(answers.readline())

    yield killed
    ask.close()
    process.wait(30)
    answers.close()


@pytest.mark.parametrize("what", BEGINS_WITH)
def test_who_is_killed_at_any_step_loses_nothing_and_leaves_nothing(
    what: str, base: Path, zygote: Callable[..., int], tmp_path: Path
) -> None:
    path = prepared(base, tmp_path / "before", what)
    with everlog.open(path) as store:
        before = told(store)
    for at in range(STEPS_MAX):
        folder = tmp_path / str(at)
        path = prepared(base, folder, what)
        ended = zygote(path=str(path), folder=str(folder / "archive"), what=what, at=at)
        check(path, folder, what, before)
        shutil.rmtree(folder)
        if ended != -signal.SIGKILL:
            break
    assert ended == 0
    assert at >= {"compact": 8, "past": 8, "archive": 20, "restore": 20, "erase": 8, "delete": 8}[what], (
        "the steps were reached"
    )


# --- the power goes ------------------------------------------------------------------------------
@pytest.mark.parametrize("what", BEGINS_WITH)
def test_power_loss_at_any_point_loses_nothing_and_leaves_nothing(what: str, base: Path, tmp_path: Path) -> None:
    path = prepared(base, tmp_path / "before", what)
    with everlog.open(path) as store:
        before = told(store)
    points = points_of(base, tmp_path / "count", what)
    for point in sorted({*points[:: max(1, len(points) // POINTS)], points[-1]}):
        folder = tmp_path / str(point)
        path = prepared(base, folder, what)
        with faulty_disk() as disk:
            disk.fault = Fault("power", at=point)
            interrupted(path, folder, disk, what)
            for seed in (0, 3):
                lost = folder / f"power-{seed}"
                lost.mkdir()
                for name, content in disk.power_loss(seed).items():
                    (lost / name).write_bytes(content)
                if (folder / "archive").exists():
                    shutil.copytree(folder / "archive", lost / "archive")
                connection = apsw.Connection(str(lost / "store.db"))
                connection.execute("UPDATE object SET url = ?", ((lost / "archive").as_uri(),))
                connection.close()
                check(lost / "store.db", lost, what, before)
        shutil.rmtree(folder)


def interrupted(path: Path, folder: Path, disk: Any, what: str) -> None:
    try:
        with open_faulty(path, disk) as store, small_objects():
            act(store, what, str(folder / "archive"))
    except EverlogError as error:
        assert len(error.message) > 20


def points_of(base: Path, folder: Path, what: str) -> list[int]:
    """Give the points of the disk that the work passes when nothing goes wrong."""
    path = prepared(base, folder, what)
    with faulty_disk() as disk:
        with open_faulty(path, disk) as store, small_objects():
            act(store, what, str(folder / "archive"))
        count = len(disk.kinds)
    assert count >= 10
    return list(range(count))


# --- two at once ---------------------------------------------------------------------------------
@pytest.mark.parametrize("killed", [False, True])
def test_an_object_whose_writer_slept_too_long_is_not_relied_on(base: Path, tmp_path: Path, killed: bool) -> None:
    """One process has written an object and read it back; another takes it for abandoned, and is killed or not when its bytes are gone."""
    path = prepared(base, tmp_path / "slow", "archive")
    folder = tmp_path / "slow" / "archive"
    with everlog.open(path) as slow, small_objects():
        before = told(slow)
        put = slow.storage.put_object

        def sleep_then(row: Any, contents: bytes) -> None:
            slow.storage.put_object = put
            put(row, contents)
            with open_later(path) as other, suppress(KeyboardInterrupt):
                write = other.storage.write

                def stop_before_the_row_goes(request: Request) -> Receipt:
                    if killed and isinstance(request, ForgetObject):
                        raise KeyboardInterrupt
                    return write(request)

                other.storage.write = stop_before_the_row_goes
                archiving.finish(other.storage)
            assert objects_in(folder) == []

        slow.storage.put_object = sleep_then
        done = slow.archive(folder, older_than=0)
        assert len(objects_in(folder)) == done.objects - 1
        assert told(slow) == before
        assert slow.archive(folder, older_than=0).objects == 1
    with everlog.open(path) as store:
        assert told(store) == before
    check_nothing_left(path, tmp_path / "slow")


def test_two_that_bring_home_at_once_do_not_fail(base: Path, tmp_path: Path) -> None:
    path = prepared(base, tmp_path / "both", "restore")
    with everlog.open(path) as one, everlog.open(path) as other:
        before = told(other)
        remove = one.storage.remove_object

        def let_the_other_go_first(row: Any) -> None:
            one.storage.remove_object = remove
            other.restore()
            remove(row)

        one.storage.remove_object = let_the_other_go_first
        one.restore()
        assert told(one) == before
    check_nothing_left(path, tmp_path / "both")
    assert objects_in(tmp_path / "both" / "archive") == []
