"""A workload on a disk that fails at every point in turn: nothing acknowledged is lost, nothing wrong is served.

Each round does the same work, with one fault at one point. What the round was told (heads and hashes of acknowledged
appends) is compared with what a fresh process of thought finds: on the disk as power loss leaves it, and on the disk as it
is. The points are counted by a round without a fault, so none is left out.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import everlog
from everlog import NewEvent
from everlog.errors import (
    BusyError,
    CorruptionError,
    EverlogError,
    InvalidPlaceError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
)
from everlog.testing.faulty import Fault, FaultyDisk, faulty_disk, open_faulty

# Of the points at which a write can fail one in so many is tried, another for each kind of fault; syncs are all tried.
STRIDE = int(os.environ.get("EVERLOG_FAULTS", "4"))
SEEDS = 5 if STRIDE == 1 else 3  # of what is left of what was not synced, at each point
BODY = "x" * 3000
NAMES = ("s", "fork")
ALLOWED = (UnavailableError, OutcomeUnknownError, BusyError, CorruptionError)
CONSEQUENCES = (NotFoundError, InvalidPlaceError)  # of an append that was refused before


@dataclass
class Told:
    """What a round was told."""

    events: dict[tuple[str, str], str] = field(default_factory=dict)  # (session, key): hash, acknowledged
    unknown: list[str] = field(default_factory=list)  # keys whose append ended with OutcomeUnknownError
    refused: list[str] = field(default_factory=list)  # keys whose append ended with another error
    errors: list[EverlogError] = field(default_factory=list)
    erased: bool = False


def append(told: Told, session: everlog.Session, key: str, **members: Any) -> None:
    try:
        event = session.append("work.done", {"key": key, "fill": BODY}, key=key, **members)
    except OutcomeUnknownError as error:
        told.unknown.append(key)
        told.errors.append(error)
    except EverlogError as error:
        told.refused.append(key)
        told.errors.append(error)
    else:
        told.events[session.id, key] = event.hash


def attempt(told: Told, work: Any) -> Any:
    try:
        return work()
    except EverlogError as error:
        told.errors.append(error)
        return None


def work(store: everlog.Store, told: Told) -> None:
    """Use every request once, and go on after whatever fails."""
    session = attempt(told, lambda: store.get_or_create("s", title="A title"))
    if session is None:
        return
    append(told, session, "a")
    append(told, session, "b", attachments={"f": BODY.encode()})
    batch = [NewEvent("work.part", {"fill": BODY}, key=f"part-{number}") for number in range(5)]
    parts = attempt(told, lambda: session.extend(batch))
    for event in parts or ():
        told.events["s", event.key] = event.hash
    fork = attempt(told, lambda: session.fork(at=1, id="fork"))
    if fork is not None:
        append(told, fork, "on-fork")
    attempt(told, lambda: session.checkpoint("here"))
    attempt(told, lambda: session.update(labels={"l": "v"}))
    append(told, session, "c")
    if attempt(told, lambda: session.erase([0], reason="asked for")) is not None:
        told.erased = True
    attempt(told, lambda: session.rewind("end"))
    append(told, session, "d")


def close(store: everlog.Store) -> None:
    store.close()


def prepared(folder: Path) -> Path:
    """Make the store that every round begins with."""
    path = folder / "base.db"
    with everlog.open(path) as store:
        store.create("before").append("note", {"content": "before"})
    return path


def round_of(base: Path, folder: Path, fault: Fault | None) -> tuple[Told, FaultyDisk, Path]:
    """Do the work with one fault; give what was told. The disk's fault is over, its files are as they were left."""
    folder.mkdir()
    path = folder / "store.db"
    shutil.copyfile(base, path)
    told = Told()
    with faulty_disk() as disk:
        disk.fault = fault
        store = attempt(told, lambda: open_faulty(path, disk))
        if store is not None:
            work(store, told)
            check_served(store, told)
            if fault is None or fault.kind != "power":
                disk.mend()
                go_on(store, told)
            close(store)
    return told, disk, path


def check_served(store: everlog.Store, told: Told) -> None:
    """While the fault is there, what can be read is right, or an error."""
    for name in NAMES:
        try:
            events = store.session(name).slice()
        except NotFoundError:
            assert not any(session == name for session, _ in told.events)
            continue
        except EverlogError as error:
            assert isinstance(error, ALLOWED), error
            continue
        hashes = {event.key: event.hash for event in events}
        for (session, key), hash_ in told.events.items():
            if session == name:
                assert hashes[key] == hash_


def go_on(store: everlog.Store, told: Told) -> None:
    """After the fault the same store goes on: every key that was refused or unknown is recorded once."""
    session = store.get_or_create("s", title="A title")
    for key in [*told.unknown, *told.refused]:
        target = session if key != "on-fork" else store.session("fork")
        attachments = {"f": BODY.encode()} if key == "b" else None
        event = target.append("work.done", {"key": key, "fill": BODY}, key=key, attachments=attachments)
        told.events[target.id, key] = event.hash
    told.unknown.clear()
    told.refused.clear()
    told.events["s", "after"] = session.append("work.done", {"fill": BODY}, key="after").hash


def check_found(path: Path, told: Told) -> None:
    """Open what the disk holds as a new process would: everything acknowledged is there, once, and verifies."""
    with everlog.open(path) as store:
        assert store.verify().ok, store.verify().faults
        assert store.session("before").size() == 1
        for (name, key), hash_ in told.events.items():
            session = store.session(name)
            found = [event.hash for branch in session.branches() for event in branch.events(keys=key)]
            assert set(found) == {hash_}, (name, key)
        for info in store.sessions():
            parts = sum(1 for event in store.session(info.id).events(types="work.part"))
            assert parts in (0, 5), "an append is all or nothing"
        if told.erased:
            assert store.session("s").branches()[0].event(0).erased
        session = store.get_or_create("s", title="A title")
        for key in [*told.unknown, *told.refused]:
            if key in ("b", "on-fork"):
                continue
            first = session.append("work.done", {"key": key, "fill": BODY}, key=key)
            again = session.append("work.done", {"key": key, "fill": BODY}, key=key)
            assert again.repeated
            assert again.hash == first.hash


def points_of(tmp_path: Path, base: Path, kind: str) -> list[int]:
    """Give the points of the work at which a fault of a kind can happen."""
    told, disk, path = round_of(base, tmp_path / "count", None)
    assert told.errors == []
    check_found(path, told)
    points = [point for point, each in enumerate(disk.kinds) if kind == "power" or (kind == "sync") == (each == "sync")]
    assert len(points) >= 15
    return points


def restored(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / "store.db"


@pytest.mark.parametrize(
    ("kind", "lasting"),
    [
        ("write", False),
        ("write", True),
        ("short", False),
        ("full", False),
        ("full", True),
        ("sync", False),
        ("sync", True),
    ],
)
def test_a_fault_at_any_point_loses_nothing_that_was_acknowledged(tmp_path: Path, kind: Any, lasting: bool) -> None:
    base = prepared(tmp_path)
    failed = 0
    points = points_of(tmp_path, base, kind)
    for point in points if kind == "sync" else points[(kind == "short") ^ lasting :: STRIDE]:
        folder = tmp_path / str(point)
        told, disk, path = round_of(base, folder, Fault(kind, at=point, lasting=lasting))
        failed += disk.failed
        for error in told.errors:
            assert isinstance(error, (*ALLOWED, *CONSEQUENCES)), (point, error)
            assert len(error.message) > 20
        if not path.exists():
            continue
        for seed in (0, 2):
            check_found(restored(folder / f"power-{seed}", disk.power_loss(seed)), told)
        check_found(path, told)
        shutil.rmtree(folder)
    assert failed >= 15


def test_power_loss_at_any_point_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    base = prepared(tmp_path)
    for point in points_of(tmp_path, base, "power"):
        folder = tmp_path / str(point)
        told, disk, _ = round_of(base, folder, Fault("power", at=point))
        for seed in range(SEEDS):
            check_found(restored(folder / f"power-{seed}", disk.power_loss(seed)), told)
        shutil.rmtree(folder)


def test_what_a_failed_sync_left_in_memory_is_not_acknowledged_by_the_next_process_before_it_is_durable(
    tmp_path: Path,
) -> None:
    """The next process finds a commit whose sync failed, and answers a repeated key from it. Then the power goes."""
    base = prepared(tmp_path)
    repeated = 0
    for point in points_of(tmp_path, base, "sync"):
        folder = tmp_path / str(point)
        folder.mkdir()
        path = folder / "store.db"
        shutil.copyfile(base, path)
        told = Told()
        with faulty_disk() as disk:
            disk.fault = Fault("sync", at=point, lasting=True)
            store = attempt(told, lambda: open_faulty(path, disk))
            if store is not None:
                work(store, told)
                close(store)
            disk.mend()
            with open_faulty(path, disk) as store:
                session = attempt(told, lambda: store.session("s"))
                for key in told.unknown if session is not None else ():
                    if key not in ("b", "on-fork"):
                        event = session.append("work.done", {"key": key, "fill": BODY}, key=key)
                        repeated += event.repeated
                        told.events["s", key] = event.hash
                found: set[str | None] = set()
                if session is not None:
                    session.append("work.done", key="after")
                    found = {event.key for event in session.slice()}
                lost = disk.power_loss(0)
        with everlog.open(restored(folder / "lost", lost)) as store:
            assert store.verify().ok
            if session is not None:
                kept = {event.key for event in store.session("s").slice()}
                assert found <= kept, "what stands before an acknowledged append is on the disk with it"
        shutil.rmtree(folder)
    assert repeated, "no key was answered from what a failed sync left"
