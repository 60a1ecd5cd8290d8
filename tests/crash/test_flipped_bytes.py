"""Bytes of a closed store's file that changed on the disk: harmless, or told by opening, reading or verifying; never silent."""

import itertools
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

import everlog
from everlog.errors import CorruptionError, EverlogError

STEP = (
    401  # every byte was tried by hand; here one in so many, each time with another bit, since all would take an hour
)
BITS = (255, 1, 4, 32, 128, 2, 16, 64, 8)


def fill(path: Path) -> None:
    """Make a small store that uses every table."""
    with everlog.open(path) as store:
        session = store.create("one", title="Title", labels={"team": "core"}, metadata={"m": [1, 2]})
        for number in range(12):
            session.append(
                "user.message",
                {"content": f"message number {number} {'x' * 50}"},
                key=f"key-{number}",
                actor="alice",
                rationale="because",
                metadata={"n": number},
            )
        call = {"id": "t", "name": "n", "input": {}}
        session.append("agent.tool_use", call, outcome="ok", attachments={"file.txt": b"z" * 9_000})
        session.append("note", {"content": "large " * 3_000})
        session.checkpoint("here")
        session.fork(at=5, id="fork", title="A fork").append("note", {"content": "on the fork"}, key="fork-key")
        session.rewind(8)
        session.append("note", {"content": "after"})
        session.erase([1], reason="asked for")
        session.update(title="Another title", labels={"label": "value"})
        store.create("two", parent=session[2]).append("note", {"content": "child"})
        store.create("gone").append("note", {"content": "gone"})
        store.delete("gone", reason="asked for")
        keys = store.keys(path.parent / "keys")
        keys.new()
        store.seal(keys=keys)
        store.create("held").lease("a holder", 3_600)


def look(store: everlog.Store) -> list[object]:
    """Give everything that can be asked of the store."""
    seen: list[object] = []
    for info in store.sessions(limit=100):
        session = store.session(info.id)
        lease = info.lease
        seen.append(repr(msgspec.structs.replace(info, lease=None)))  # when a lease ends is counted anew each time
        seen.append(None if lease is None else (lease.holder, lease.token, lease.ttl, lease.taken_at))
        for branch in session.branches():
            seen.append(repr(branch))
            for event in branch.events():
                files = () if event.erased else event.attachments or ()
                seen.append((event.to_dict(), [(file.name, event.attachment(file.name)) for file in files]))
            for asked in ("type:user.message", "actor:alice", "key:key-3", "outcome:ok"):
                seen.append([event.id for event in branch.events(asked)])
    for key in ("key-3", "key-11", "fork-key"):
        seen.append(([event.id for event in store.find(key)], repr(store.session("one").find(key))))
    seen.append([info.id for info in store.sessions("label.label:value")])
    seen.append([(seal.head, seal.note) for seal in store.seals()])
    seen.append([store.session("fork").prove_sealed(position).encode() for position in (3, 5, 6)])
    return seen


def outcome_of(path: Path, before: list[object]) -> str:
    """Tell how a changed file comes out. An error of another kind than Everlog's is loud too, and only in reading."""
    try:
        with everlog.open(path) as store:
            sound = store.verify().ok
            try:
                same = look(store) == before
            except (EverlogError, TypeError, ValueError):
                return "read" if sound else "verify"
            return "verify" if not sound else "harmless" if same else "silent"
    except EverlogError as error:
        assert len(error.message) > 20
        return "corruption" if isinstance(error, CorruptionError) else "open"


def test_no_changed_byte_passes_silently(tmp_path: Path) -> None:
    base = tmp_path / "base.db"
    fill(base)
    with everlog.open(base) as store:
        before = look(store)
        assert store.verify().ok
    content = bytearray(base.read_bytes())
    (tmp_path / "flipped").mkdir()
    path = tmp_path / "flipped" / "store.db"
    bits = itertools.cycle(BITS)
    outcomes: dict[str, list[int]] = {}
    for offset in range(0, len(content), STEP):
        for left in path.parent.iterdir():
            left.unlink()
        bit = next(bits)
        content[offset] ^= bit
        path.write_bytes(content)
        content[offset] ^= bit
        outcomes.setdefault(outcome_of(path, before), []).append(offset)
    assert "silent" not in outcomes, outcomes["silent"]
    assert len(outcomes["verify"]) > 100, "the test changes what matters"
    assert len(outcomes["open"] + outcomes["corruption"]) > 10


def test_a_changed_lease_is_told_by_verify(tmp_path: Path) -> None:
    with everlog.open(tmp_path / "s.db") as store:
        store.create("s").lease("a holder", 3_600)
        store.create("given").lease("another", 60).release()
        store.verify().raise_for_faults()
    for column, value in {
        "number": "number + 1",
        "nonce": "zeroblob(16)",
        "holder": "'someone'",
        "boot": "'another'",
        "until": "until + 1",
        "ttl": "ttl - 1",
        "taken": "0",
        "checksum": "zeroblob(16)",
    }.items():
        path = tmp_path / f"{column}.db"
        path.write_bytes((tmp_path / "s.db").read_bytes())
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute(f"UPDATE lease SET {column} = {value} WHERE session = 1")
        with everlog.open(path) as store:
            faults = store.verify().faults
            assert any("lease" in str(fault) for fault in faults), column
