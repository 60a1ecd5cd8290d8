"""A process that seals is killed at any moment: each record has one place, each seal that was made is true, and sealing goes on."""

import os
import signal
import subprocess
import sys
from random import Random

import everlog
from everlog import NewEvent
from everlog.seals import read_seals_file

ROUNDS = 12
SEALER = """
import sys
import everlog
from everlog import NewEvent
with everlog.open(sys.argv[1]) as store:
    keys = store.keys(sys.argv[2])
    session = store.get_or_create("run")
    print("ready", flush=True)
    while True:
        session.extend([NewEvent("note", {"content": "x"})] * 3)
        store.create(events=[NewEvent("note", {"content": "y"})])
        store.seal(keys=keys)
        print("sealed", flush=True)
"""


def test_whenever_a_sealer_is_killed_the_next_one_goes_on(tmp_path):
    path, folder = tmp_path / "store.db", tmp_path / "keys"
    with everlog.open(path) as store:
        keys = store.keys(folder)
        keys.new()
    first = keys.verifier
    random = Random(11)
    for number in range(ROUNDS):
        words = [sys.executable, "-c", SEALER, str(path), str(folder)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as sealer:
            assert sealer.stdout.readline() == "ready\n"
            for _ in range(random.randrange(4)):
                assert sealer.stdout.readline() == "sealed\n"
            for _ in range(random.randrange(20_000)):  # somewhere within what it does next
                pass
            os.kill(sealer.pid, signal.SIGKILL)
        if number == ROUNDS // 2:
            keys.rotate()
    with everlog.open(path) as store:
        store.create("last", events=[NewEvent("note", {"content": "z"})])
        store.seal(keys=keys)
        report = store.verify(keys=[first], seals=[keys.folder / "seals.txt"])
        assert (report.faults, report.unsealed) == ((), 0)
        entries = [row.entry for row in store.storage.placed(0, 1_000) if row.entry is not None]
        assert sorted(entries) == sorted(set(entries))
        assert store.storage.pending(10) == []
        kept = {seal.note for seal in read_seals_file((keys.folder / "seals.txt").read_bytes())}
        assert {seal.note for seal in store.seals(limit=1_000)} <= kept
