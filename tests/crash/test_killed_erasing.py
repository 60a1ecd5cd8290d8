"""An erasure is killed at every point of the disk, or the power goes there: nothing is half erased once the store is open again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import everlog
from crash.eraser import ERASED
from everlog.errors import EverlogError
from everlog.store import Store
from everlog.testing.faulty import Fault, FaultyDisk, faulty_disk, open_faulty

ERASER = Path(__file__).with_name("eraser.py")
POINTS_MAX = 400
EVERY = 1 if os.environ.get("EVERLOG_FAULTS") == "1" else 3
SECRETS = [f"keep the secret number {position} and " for position in ERASED]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with events in blocks and in rows, summaries, snapshots, and a fork."""
    path = tmp_path_factory.mktemp("base") / "s.db"
    with everlog.open(path) as store:
        session = store.create("s")
        for number in range(70):
            session.append(
                "user.message", {"content": f"We must keep the secret number {number} and {os.urandom(16).hex()}."}
            )
        store.compact(older_than=0)
        for number in range(70, 80):
            session.append(
                "user.message", {"content": f"We must keep the secret number {number} and {os.urandom(16).hex()}."}
            )
        session.fork(id="f")
        session.state("messages")
        session.summarize(leaf_tokens=100)
    return path


@pytest.fixture(scope="module")
def eraser() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "error", str(ERASER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def laid_out(base: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    return Path(shutil.copyfile(base, folder / "s.db"))


def on_disk(folder: Path) -> bytes:
    """Every byte of every file of a folder. Read by another process: closing a file here would drop SQLite's locks on it."""
    files = [str(path) for path in sorted(folder.iterdir())]
    return subprocess.run(["cat", *files], capture_output=True, check=True).stdout


def check(path: Path) -> bool:
    """What is left is whole: all of it is erased, or none; erasing again finishes. Tell whether it was erased."""
    with everlog.open(path) as store:
        store.verify().raise_for_faults()
        session = store.session("s")
        erased = {session[position].erased for position in ERASED}
        assert len(erased) == 1, "the events of one erasure go together"
        (done,) = erased
        for summary in session.events("type:summary"):
            covered = {} if summary.data is None else summary.data
            assert summary.erased or not done or not any(covered["start"] <= at < covered["stop"] for at in ERASED)
        if done:
            assert [secret for secret in SECRETS if secret.encode() in on_disk(path.parent)] == []
            assert store.check_certificate(session.certificate(ERASED)).ok
        else:
            assert SECRETS[0] in session[ERASED[0]].data["content"]
        session.erase(ERASED, reason="again")
        assert [secret for secret in SECRETS if secret.encode() in on_disk(path.parent)] == []
        report = store.verify()
        assert (report.ok, report.erased >= len(ERASED)) == (True, True)
        assert store.session("f")[ERASED[0]].erased
    return done


def test_an_erasure_that_is_killed_at_any_point_is_done_or_not_begun(
    base: Path, tmp_path: Path, eraser: subprocess.Popen[str]
) -> None:
    assert eraser.stdin is not None and eraser.stdout is not None
    outcomes: list[bool] = []
    for at in range(0, POINTS_MAX, EVERY):
        path = laid_out(base, tmp_path / "round")
        eraser.stdin.write(json.dumps({"path": str(path), "at": at}) + "\n")
        eraser.stdin.flush()
        ended = int(eraser.stdout.readline())
        outcomes.append(check(path))
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
    else:
        raise AssertionError("an erasure has fewer points")
    assert {True, False} == set(outcomes), "some were killed before their commit, and some behind it"


def test_a_sealed_erasure_that_is_killed_at_any_point_is_done_not_begun_or_finished_by_the_next_seal(
    base: Path, tmp_path: Path, eraser: subprocess.Popen[str]
) -> None:
    """And no body is destroyed before a seal covers the record that says so."""
    assert eraser.stdin is not None and eraser.stdout is not None
    with everlog.open(laid_out(base, tmp_path / "round")) as store:
        key = store.keys(tmp_path / "keys").new()
    outcomes: set[tuple[bool, bool]] = set()
    for at in range(0, POINTS_MAX, 1 if EVERY == 1 else 3 * EVERY):
        path, folder = laid_out(base, tmp_path / "round"), tmp_path / f"keys-{at}"
        shutil.copytree(tmp_path / "keys", folder)
        eraser.stdin.write(json.dumps({"path": str(path), "at": at, "keys": str(folder)}) + "\n")
        eraser.stdin.flush()
        ended = int(eraser.stdout.readline())
        outcomes.add(check_sealed(path, folder, key))
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
    else:
        raise AssertionError("an erasure has fewer points")
    assert outcomes == {(False, False), (False, True), (True, True)}


def check_sealed(path: Path, folder: Path, key: str) -> tuple[bool, bool]:
    """Tell whether it was destroyed when the process died, and whether it is after the next seal."""
    with everlog.open(path) as store:
        destroyed = destroyed_under_seal(store)
        seal = store.seal(keys=folder)
        assert seal.warnings == ()
        done = destroyed_under_seal(store)
        assert not list(folder.rglob("erasing.json"))
        report = store.verify(keys=[key], seals=list(folder.rglob("seals.txt")))
        assert (report.faults, report.unsealed) == ((), 0)
    check(path)
    return destroyed, done


def destroyed_under_seal(store: Store) -> bool:
    session = store.session("s")
    erased = {session[position].erased for position in ERASED}
    assert len(erased) == 1
    if True in erased:
        sealed = store.seals()[0].head.size
        placed = {row.entry for row in store.storage.placed(0, sealed)}
        entries = {store.storage.erasure(session[position].leaf) for position in ERASED}
        assert all(entry is not None and entry.number in placed for entry in entries)
    return erased == {True}


def test_an_erasure_whose_power_goes_at_any_point_is_done_or_not_begun(base: Path, tmp_path: Path) -> None:
    at, outcomes = 0, list[bool]()
    while True:
        with faulty_disk() as disk:
            failed = erase_with_power_off(disk, laid_out(base, tmp_path / "round"), at)
            left = disk.power_loss(seed=at % 5)
        path = laid_out(base, tmp_path / "after")
        for name, content in left.items():
            if name.startswith("s.db") and not name.endswith("-shm"):
                path.with_name(name).write_bytes(content)
        outcomes.append(check(path))
        if not failed:
            break
        at += 2 * EVERY
    assert {True, False} == set(outcomes)


def erase_with_power_off(disk: FaultyDisk, path: Path, at: int) -> bool:
    """Erase, with the power off from a point on. Tell whether it came to that."""
    store = open_faulty(path, disk)
    session = store.session("s")
    disk.fault = Fault("power", at=len(disk.kinds) + at)
    with suppress(EverlogError):
        session.erase(ERASED, reason="asked for")
    failed = disk.failed
    with suppress(EverlogError):
        store.close()
    return failed
