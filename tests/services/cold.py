"""Stores whose bodies go cold: opened, filled, asked everything, and looked at on the disk."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import apsw
import pytest

from databases import open_in
from everlog import NewEvent
from everlog.core.block import Codec, unpack_shared
from everlog.session import Settings
from everlog.store import Store
from everlog.stores.sqlite.store import open_sqlite

STORES = ["sqlite", "postgres"]  # those whose bodies leave their rows
ON_DISK = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)  # of tests that look into the file
DEADLINE_SECONDS = 60


def open_cold(kind, folder, clock, **options):
    """Open the store of a kind that belongs to a folder. options: read_only, and on SQLite objects."""
    if kind == "postgres":
        return Store(open_in(folder, clock=clock, **options), Settings(os.urandom), url="postgresql:")
    storage = open_sqlite(folder / "store.db", clock=clock, draw=os.urandom, **options)
    return Store(storage, Settings(os.urandom), url=str(folder / "store.db"))


def note(number, *, size=0, **members):
    """An event that looks like one of an agent's."""
    content = f"step {number}: run the tests again, and look at what failed in module {number % 7}"
    return NewEvent("note", {"content": content, "n": number, "fill": "x" * size}, **members)


def large(number, **members):
    """An event of which 64 make a block."""
    return note(number, size=1_300, **members)


def told(store):
    """Everything that the store answers, in a form that can be compared."""
    found = {}
    for info in sorted(store.sessions(limit=1_000), key=lambda info: info.id):
        session = store.session(info.id)
        found[info.id] = (session.refresh(), info.title, info.labels, info.size)
        for branch in session.branches():
            events = [told_event(event) for event in branch.events()]
            found[info.id, branch.id] = (branch.head, branch.state().hash if branch.size() else None, events)
    found["feed"] = [(event.id, event.hash, event.raw) for event in store.feed(None)]
    return found


def told_event(event):
    files = [(each.name, None if event.erased else event.attachment(each.name)) for each in event.attachments]
    return (event.to_dict(), event.raw, files)


def fill(store):
    """Make sessions of all sizes, with forks, rewinds, erasures, attachments, keys, summaries and what repeats."""
    for size in (1, 2, 63, 64, 65, 191, 192, 193, 200):
        made = store.create(f"of-{size}", events=[note(number, key=f"k{number}") for number in range(size)])
        made.append("agent.message", {"content": "see"}, attachments={"a.txt": b"small", "b.bin": b"\x00\x01" * 20_000})
    long = store.create("long", title="A long one", labels={"team": "core"})
    long.extend([note(number, size=number % 5 * 900, actor=f"actor-{number % 3}") for number in range(400)])
    long.append("user.message", {"content": "image", "image": "iVBORw0KGgo" * 4_000}, outcome="ok", rationale="seen")
    long.checkpoint("here")
    for at in (1, 63, 64, 65, 130, 399):
        fork = store.session("long").fork(at=at, id=f"fork-{at}")
        fork.extend([note(number, caused_by=long[0]) for number in range(70)])
    long.rewind(100, reason="back into a block")
    long.extend([note(number) for number in range(70)])
    long.rewind(130, reason="on a block's border, and on the other line")
    long.append("user.message", {"content": "image", "image": "iVBORw0KGgo" * 4_000})
    long.erase([3, 64, 127], reason="asked for")
    long.summarize()


def stored(path):
    """What stands in the blocks of a SQLite store, in its rows or in its archive's folder: (branch, start, decoded)."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    dictionaries = dict(connection.execute("SELECT digest, content FROM dictionary"))
    found = []
    for branch, start, dictionary, plain, content in _blocks(connection):
        if branch is None:
            found.append((None, 0, unpack_shared(content, plain)))
        else:
            entries = Codec(dictionaries.get(dictionary)).unpack(content, plain)
            found.append((branch, start, b"".join(b"".join(entry.pieces) for entry in entries)))
    connection.close()
    return found


def blocks_on_disk(path):
    """The content of each block of a SQLite store, compressed, as it lies in its row or in its archive's folder."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    found = [content for *_, content in _blocks(connection)]
    connection.close()
    return found


def _blocks(connection):
    rows = connection.execute(
        "SELECT b.branch, b.start, b.dictionary, b.plain, b.content, b.place, b.size, o.url, o.name "
        "FROM block AS b LEFT JOIN object AS o ON o.id = b.object ORDER BY b.block"
    )
    for branch, start, dictionary, plain, content, place, size, url, name in rows.fetchall():
        held = content
        if url is not None:
            held = (Path(unquote(urlsplit(url).path)) / name).read_bytes()[place : place + size]
        yield branch, start, dictionary, plain, held


def check_replaced(folder, before):
    """What stood in blocks that were written again or removed stands nowhere on the disk. before: of `blocks_on_disk`."""
    now = b"".join(blocks_on_disk(folder / "store.db"))
    pieces = [block[at : at + 40] for block in before for at in range(0, len(block) - 40, 40)]
    left = [piece for piece in pieces if piece not in now]
    assert len(left) > 20, "something was replaced"
    disk = on_disk(folder)
    assert [piece for piece in left if piece in disk] == []


def on_disk(folder):
    """Every byte of every file below a folder. Read by another process: closing a file here would drop SQLite's locks on it."""
    files = [str(path) for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return subprocess.run(["cat", *files], capture_output=True, check=True).stdout


def objects_in(folder):
    """The names of files below an archive's folder."""
    return sorted(path.name for path in Path(folder).rglob("*") if path.is_file())


def run_python(code, *arguments):
    """Start a script in a process of its own, whose standard input and output are pipes."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
