"""Every command on a store of many sessions and on a session of many events: in bounded memory, and quick where it can be.

A store of 100,000 sessions and one session of 1,000,000 events takes a minute and a half: EVERLOG_SCALE=1 gives it. Without,
both are a tenth, which bounds that grow with the store would still miss by far.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import everlog
from everlog import NewEvent

FULL = os.environ.get("EVERLOG_SCALE") == "1"
SESSIONS, EVENTS = (100_000, 1_000_000) if FULL else (10_000, 100_000)
BATCH = 10_000
MEMORY_BYTES_MAX = 64_000_000  # measured: 26 to 32 MB, copy and verify of a million events up to 70
MEMORY_BYTES_MAX_WHOLE = 110_000_000
QUICK_SECONDS_MAX = 1.0  # of a processor; measured: 0.2 to 0.4 s
PROGRAM = """
import sys
from everlog.cli import main
try:
    main()
finally:
    status = open("/proc/self/status").read()
    print("peak", status.partition("VmHWM:")[2].split()[0], file=sys.stderr)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read as Linux tells it")


@pytest.fixture(scope="module")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scale") / "store.db"
    with everlog.open(path, durability="relaxed") as store:
        for number in range(SESSIONS):
            store.create(f"s-{number}", title=f"Session {number}", labels={"team": f"t{number % 10}"})
        large = store.create("large")
        for start in range(0, EVENTS, BATCH):
            large.extend([NewEvent("note", {"content": f"line {start + number}"}) for number in range(BATCH)])
    return path


QUICK = [
    ["ls"],
    ["ls", "--json", "label.team:t3"],
    ["ls", "--after", "s-5000"],
    ["log", "large"],
    ["log", f"large@{EVENTS // 2}"],
    ["log", "large", "--json", "--limit", "1000"],
    ["show", "large"],
    ["show", f"large@{EVENTS - 5}"],
    ["tree", "large"],
    ["fork", "large", "--id", "large-fork"],
    ["append", "large-fork", "note", '{"content": "more"}'],
    ["rewind", "large-fork@10"],
    ["new", "fresh"],
    ["update", "fresh", "--title", "A title"],
    ["erase", "large-fork@5", "--reason", "asked for", "--yes"],
    ["delete", "large-fork", "--reason", "asked for", "--yes"],
]
WHOLE = [
    ["search", "line"],
    ["log", "large", "data.content:*99999*"],
    ["verify", "large"],
    ["export", "large", "OUT/large.bundle"],
    ["import", "OUT/taken-in.bundle", "--store", "OUT/other.db"],
    ["copy", "STORE", "OUT/copy.db"],
    ["doctor"],
]


def call(path: Path, words: list[str]) -> tuple[float, int]:
    """Run a command in a process of its own; give its seconds and the peak of its memory in bytes."""
    words = [word.replace("OUT", str(path.parent)).replace("STORE", str(path)) for word in words]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "EVERLOG_STORE": str(path)},
        stdin=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # others may keep the machine busy
    lines = ran.stderr.splitlines()
    assert ran.returncode == 0, (words, ran.stdout[-500:], ran.stderr[-1_000:])
    assert len(ran.stdout) < 1_000_000, "what is printed is bounded"
    return spent, int(lines[-1].removeprefix("peak ")) * 1024


def test_every_command_answers_quickly_in_bounded_memory(store_path: Path) -> None:
    for words in QUICK:
        spent, peak = call(store_path, words)
        assert peak < MEMORY_BYTES_MAX, (words, peak)
        assert spent < QUICK_SECONDS_MAX, (words, spent)


@pytest.mark.parametrize("words", WHOLE, ids=lambda words: words[0])
def test_a_command_that_reads_everything_does_so_in_bounded_memory(store_path: Path, words: list[str]) -> None:
    if words[0] == "import":
        call(store_path, ["export", "large", "OUT/taken-in.bundle"])  # by itself, whichever process runs the test above
    _, peak = call(store_path, words)
    assert peak < MEMORY_BYTES_MAX_WHOLE, (words, peak)
