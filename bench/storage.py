"""What a session takes on the disk, as it is written, compacted and archived; what repeats; beside two frameworks' own SQLite stores."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import everlog
from bench.postgres import PEERS_PYTHON, ROOT
from bench.work import Row, timed
from everlog import NewEvent, Session, Store

PIECE: Final = 1_000  # characters of a message
MESSAGES: Final = 400  # of the conversation that the frameworks keep too
COPIES: Final = 40
ATTACHED: Final = 1_000_000
TRANSCRIPTS: Final = ROOT.parent / "shared" / "transcripts"


def pieces(count: int) -> list[str]:
    """Give text of a message's length, no two of them the same: the code and words of Python's own library, in its order."""
    said: list[str] = []
    for path in sorted(
        path for path in Path(sysconfig.get_path("stdlib")).rglob("*.py") if "site-packages" not in path.parts
    ):
        text = path.read_text(encoding="utf-8", errors="replace")
        said += [text[at : at + PIECE] for at in range(0, len(text) - PIECE, PIECE)]
    return said[:count]


def converse(session: Session, said: list[str]) -> int:
    """Append messages, as a conversation with tools has them; give the bytes of their bodies."""
    types = ("user.message", "agent.message", "agent.tool_result")
    for start in range(0, len(said), 100):
        events = [
            NewEvent(
                types[number % 3],
                {"content": text, "tool_use_id": f"c{number}"} if number % 3 == 2 else {"content": text},
            )
            for number, text in enumerate(said[start : start + 100])
        ]
        session.extend(events)
    return sum(len(event.raw or b"") for event in session.events())


def storage(folder: Path, quick: bool) -> Iterator[Row]:
    """Bytes for each byte of the bodies, what packing and reading packed events takes, and what repeats."""
    said = pieces(2_500 if quick else 10_000)
    with everlog.open(folder / "s.db") as store:
        session = store.create("s")
        bodies = converse(session, said)
        hot = _bytes(store) / bodies
        yield Row(f"stored for a byte of {len(said):,} bodies of 1 kB, hot", hot, "×", None, "", "< 1.6", hot < 1.6)
        read = _reads(session, len(said))
        seconds = timed(lambda: store.compact(older_than=0))
        packed = _bytes(store) / bodies
        yield Row("  compacted", packed, "×", None, "", "< 0.4", packed < 0.4)
        yield Row("compacting", len(said) / seconds, "events/s")
        yield Row("read of slices of 20, anywhere, hot", 1e3 * read, "ms")
        cold = _reads(session, len(said))
        yield Row("  compacted", 1e3 * cold, "ms", cold / read, "hot")
        seconds = timed(lambda: store.archive(str(folder / "archive"), older_than=0))
        yield Row("archiving to a folder", len(said) / seconds, "events/s")
        yield Row("  left in the file", _bytes(store) / bodies, "×")
    with everlog.open(folder / "s.db") as store:
        session = store.session("s")
        yield Row("  the first slice of 20, from the folder", 1e3 * timed(lambda: session.slice(10, 30)), "ms")
        yield Row("  slices of 20 after it", 1e3 * _reads(session, len(said)), "ms")
    with everlog.open(folder / "empty.db") as store:
        empty = _bytes(store)
    yield Row("a store without a session", empty / 1e3, "kB")
    yield from _transcripts(folder / "real.db", empty)
    yield _copies(folder)
    yield from _frameworks(folder, said[:MESSAGES])


def _bytes(store: Store) -> int:
    sizes = store.storage.sizes()
    return sizes.file - sizes.free


def _reads(session: Session, size: int) -> float:
    """Give the median seconds of a slice, bodies decoded."""
    chance = Random(5)

    def read() -> None:
        start = chance.randrange(size - 20)
        assert all(event.data for event in session.slice(start, start + 20))

    read()
    return statistics.median(timed(read) for _ in range(50))


def _transcripts(path: Path, empty: int) -> Iterator[Row]:
    """Real sessions of two agents, where they lie beside the project; beside what a store without a session takes."""
    folders = [folder for folder in TRANSCRIPTS.glob("*") if folder.is_dir()]
    if not folders:
        return
    with everlog.open(path) as store:
        for folder in folders:
            command = [sys.executable, "-m", "everlog", "--store", str(path), "import", folder.name, str(folder)]
            subprocess.run(command, check=True, capture_output=True)
        sessions = [store.session(info.id) for info in store.sessions(limit=1_000)]
        bodies = sum(len(event.raw or b"") for session in sessions for event in session.events())
        events = sum(session.size() for session in sessions)
        hot = (_bytes(store) - empty) / bodies
        yield Row(f"real transcripts, {events:,} events of {bodies / events / 1e3:.1f} kB, hot", hot, "×")
        store.compact(older_than=0)
        packed = (_bytes(store) - empty) / bodies
        yield Row("  compacted", packed, "×", None, "", "< 0.4", packed < 0.4)


def _copies(folder: Path) -> Row:
    """How much larger a store is whose events have the same attachment."""
    content = Random(1).randbytes(ATTACHED)
    took: list[int] = []
    for attachments in (None, {"chart.png": content}):
        with everlog.open(folder / f"{len(took)}.db") as store:
            session = store.create("s")
            for _ in range(COPIES):
                session.append("user.message", {"content": "see"}, attachments=attachments)
            store.compact(older_than=0)
            took.append(_bytes(store))
    megabytes = (took[1] - took[0]) / 1e6
    return Row(f"{COPIES} copies of an attachment of 1 MB, compacted", megabytes, "MB", None, "", "1", megabytes < 1.05)


def _frameworks(folder: Path, said: list[str]) -> Iterator[Row]:
    with everlog.open(folder / "ours.db") as store:
        bodies = converse(store.create("s"), said)
        text = sum(len(each.encode()) for each in said)
        yield Row(f"a conversation of {len(said)} messages of 1 kB, for a byte of text, hot", _bytes(store) / text, "×")
        store.compact(older_than=0)
        ours = _bytes(store) / text
        assert bodies > text
        yield Row("  compacted", ours, "×")
    conversation = folder / "said.json"
    conversation.write_text(json.dumps(said), encoding="utf-8")
    for name, what in (
        ("openai_agents", "OpenAI Agents SDK's SQLiteSession"),
        ("langgraph", "LangGraph's SqliteSaver"),
    ):
        took = _framework(name, conversation, folder / f"{name}.db")
        if took is not None:
            yield Row(f"  {what}", took / text, "×", took / text / ours, "ours, compacted")


def _framework(name: str, conversation: Path, path: Path) -> int | None:
    """Have a framework keep the conversation; give the bytes that it took, or None where it is not installed."""
    if not PEERS_PYTHON.exists():
        return None
    command = [str(PEERS_PYTHON), "-m", "bench.peers.kept_bytes", name, str(conversation), str(path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        print(f"{name} does not run: {ran.stderr.strip()[-300:]}", file=sys.stderr)
        return None
    return int(ran.stdout.split()[-1])
