"""`dev.py bench --peers --only frameworks`: each framework's history on Everlog beside its own, a process a framework."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.framework_table import show

HERE = Path(__file__).parent
NAMES = sorted(path.stem.removeprefix("frameworks_") for path in HERE.glob("frameworks_*.py"))


def frameworks() -> list[dict[str, Any]]:
    """Measure all frameworks, and print a table of each; one that does not run is told, and the others go on."""
    found: list[dict[str, Any]] = []
    for name in NAMES:
        command = [sys.executable, "-W", "ignore", "-m", f"bench.frameworks_{name}", "--json"]
        done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name} does not run: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr, flush=True)
            continue
        measured = json.loads(done.stdout.splitlines()[-1])
        show(measured["title"], measured["columns"])
        found.append(measured)
    return found
