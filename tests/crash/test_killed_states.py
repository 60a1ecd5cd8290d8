"""A process that records states and takes snapshots is killed: every state is what its events give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import everlog

ROUNDS = 12
PROGRAM = """
import random, sys
import everlog
policy = everlog.SnapshotPolicy(events=3, share=1e9, reducers=("document", "messages"))
with everlog.open(sys.argv[1], snapshots=policy) as store:
    session = store.get_or_create("s")
    source = random.Random(int(sys.argv[2]))
    print("ready", flush=True)
    while True:
        path = f"/k{source.randrange(20)}"
        event = session.append("state.set", {"path": path, "value": source.random()}, state="document")
        if source.random() < 0.1:
            session.checkpoint("here")
        if source.random() < 0.05:
            session.rewind(max(0, event.position - 5))
        print(event.position, event.state_hash.hash, flush=True)
"""


def test_states_and_snapshots_are_true_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    source = Random(7)
    acknowledged: dict[str, str] = {}
    for seed in range(ROUNDS):
        child = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path), str(seed)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        for _ in range(source.randrange(5, 40)):
            position, digest = child.stdout.readline().split()
            acknowledged[digest] = position
        child.kill()
        child.wait()
        child.stdout.close()
        with everlog.open(path, snapshots=False) as store:
            session = store.session("s")
            for branch in session.branches():
                for reducer in ("document", "messages"):
                    found = branch.state(reducer, verify=True)
                    assert found == branch.state(reducer)
    with everlog.open(path, snapshots=False) as store:
        assert store.snapshots()
        hashes = {
            event.state_hash.hash
            for branch in store.session("s").branches()
            for event in branch
            if event.state_hash is not None
        }
        assert set(acknowledged) <= hashes
        assert store.verify().ok
