"""Every example runs, twice on the same store."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_goes_on(example, tmp_path):
    words = [sys.executable, "-W", "error", str(example), str(tmp_path / "store.db")]
    first = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert first.returncode == 0, first.stderr
    if example.stem == "agent_loop":
        again = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert again.stdout == first.stdout
        assert "I looked 3 times." in again.stdout
