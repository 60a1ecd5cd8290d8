"""A run of fifty steps is killed at every moment: it always completes, and an outside witness has seen each effect as promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import everlog

WORKFLOW = Path(__file__).with_name("workflow.py")
KILLS = int(os.environ.get("EVERLOG_KILLS", "120"))  # for both policies together
STEPS = 50


@pytest.mark.timeout(600)
@pytest.mark.parametrize("policy", ["retry", "fail"])
def test_a_run_that_is_killed_at_any_moment_completes_and_each_effect_happens_as_its_policy_says(
    tmp_path: Path, policy: str
) -> None:
    path, witness = tmp_path / "s.db", tmp_path / "witness"
    told = killed_until_complete(path, witness, policy)
    assert told[-1]["killed"] == KILLS // 2
    effects = witnessed(witness)
    complete = {line["complete"]: line["results"] for line in told if "complete" in line}
    assert len(complete) == told[-1]["sessions"]
    for session, results in complete.items():
        assert len(results) == STEPS
        for number, result in enumerate(results):
            keys = effects[session, f"step{number}"]
            assert len(set(keys)) <= 1, "one step has one effect key"
            if policy == "retry":
                assert result == f"step{number}"
                assert len(keys) >= 1
                assert len(set(keys)) == 1, "a witness that deduplicates by key sees each effect once"
            else:
                assert len(keys) <= 1
                assert result == "unknown" or len(keys) == 1
    check_store(path, complete, effects)


def killed_until_complete(path: Path, witness: Path, policy: str) -> list[dict]:
    command = [sys.executable, str(WORKFLOW), str(path), str(witness), policy, "11", str(KILLS // 2)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (told[-1:], done.stderr)
    assert done.stderr == ""
    return told


def witnessed(witness: Path) -> dict[tuple[str, str], list[str]]:
    """Give the effect keys of all effects that happened, by session and step."""
    effects: dict[tuple[str, str], list[str]] = defaultdict(list)
    for line in witness.read_text().splitlines():
        session, step, key = line.split()
        effects[session, step].append(key)
    keys = [key for found in effects.values() for key in set(found)]
    assert len(keys) == len(set(keys)), "two steps have two effect keys"
    return effects


def check_store(path: Path, complete: dict[str, list], effects: dict) -> None:
    """The log is whole, nothing is in flight, and every effect's key stood in the log before it happened."""
    with everlog.open(path, snapshots=False) as store:
        assert store.verify().ok
        for name, results in complete.items():
            session = store.session(name)
            assert not session.in_flight()
            assert [event.data["name"] for event in session.events(types="checkpoint")] == [
                f"stage{number}" for number in range(5)
            ]
            started = defaultdict(set)
            for event in session.events(types="step.started"):
                started[event.data["step"]].add(event.data.get("effect_key"))
            for number, result in enumerate(results):
                step = f"step{number}"
                assert len(started[step]) == 1
                assert set(effects[name, step]) <= started[step]
                ends = list(session.events(types="step.finished", where={"data.step": step}))
                assert [event.outcome for event in ends] == ["unknown" if result == "unknown" else "ok"]
