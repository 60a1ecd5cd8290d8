"""Every example runs, twice on the same store."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import everlog

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_goes_on(example, tmp_path):
    words = [sys.executable, "-W", "error", str(example), str(tmp_path / "store.db")]
    first = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert first.returncode == 0, first.stderr
    if example.stem == "research_agent":
        again = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert again.stdout == first.stdout
    if example.stem == "agent_loop":
        again = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert again.stdout == first.stdout
        assert "I looked 3 times." in again.stdout


def test_research_that_is_killed_at_every_step_is_done_once(tmp_path):
    (example,) = [path for path in EXAMPLES if path.stem == "research_agent"]
    words = [sys.executable, "-W", "error", str(example), str(tmp_path / "store.db")]
    kills = 0
    for number in range(60):
        environment = {**os.environ, "KILL_AT": str((5, 6, 9)[number % 3])}  # inside a step, behind it, a step later
        ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=60)
        if ran.returncode == 0:
            break
        assert ran.returncode == -signal.SIGKILL, ran.stderr
        kills += 1
    assert kills >= 8
    assert ran.stdout.splitlines()[-1].startswith("Papers: What Makes Logs Fast?")
    effects = [line.split(" ", 1)[1] for line in (tmp_path / "store.db.effects").read_text().splitlines()]
    assert effects == [
        *(f"{source}: what makes logs fast?" for source in ("papers", "news", "code")),
        "mail 87 characters",
    ]


def test_a_model_loop_that_is_killed_at_every_moment_ends_and_its_tool_runs_at_most_once(tmp_path):
    (example,) = [path for path in EXAMPLES if path.stem == "model_loop"]
    program = Path(__file__).with_name("killed_loop.py")
    words = [sys.executable, "-W", "error", str(program), str(example), str(tmp_path)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=280)
    assert ran.returncode == 0, (ran.stdout[-2_000:], ran.stderr)
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["moments"] > 40
    assert told["again"] > 3
    unknown = 0
    stores = [*(tmp_path / f"{number}.db" for number in range(told["moments"])), tmp_path / "again.db"]
    for path in stores:
        with everlog.open(path) as store:
            for provider in ("anthropic", "openai"):
                session = store.session(f"loop-{provider}")
                assert session.last("agent.message").data["content"].startswith("It is ")
                assert not session.in_flight()
                unknown += session.last("agent.tool_result").outcome == "unknown"
        effects = Path(f"{path}.effects")
        assert len(effects.read_text().splitlines() if effects.exists() else []) <= 2, "one of each provider's loop"
    assert unknown >= 4, "killed before the effect, and after it"


def test_an_approval_takes_a_restart_and_deploys_once(tmp_path):
    (example,) = [path for path in EXAMPLES if path.stem == "approval"]
    store = str(tmp_path / "store.db")
    words = [sys.executable, "-W", "error", str(example), store]

    def run(*more):
        return subprocess.run([*words, *more], capture_output=True, text=True, check=True, timeout=60).stdout

    assert "waits" in run("0")
    everlog = [sys.executable, "-m", "everlog", "--store", store]
    shown = subprocess.run([*everlog, "ps"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "waits for: approval" in shown
    said = [*everlog, "signal", "deploy", "approval", '{"ok": true, "by": "ann"}']
    subprocess.run(said, capture_output=True, check=True, timeout=60)
    assert "version 7 is live" in run()
    assert "deploying" not in run()
