"""What a store keeps from one transaction to the next is what stands in the file, whatever others do to it in between."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import everlog

MEDDLER = Path(__file__).with_name("meddler.py")
PROCESSES = 2
SECONDS = 3
DEADLINE_SECONDS = 120


@pytest.mark.parametrize("kind", ["plain", "restores", "encrypts"])
def test_nothing_that_is_kept_is_stale(tmp_path: Path, kind: str) -> None:
    path, keys = tmp_path / "store.db", list[str]()
    for number in range(2 if kind == "encrypts" else 0):
        file = tmp_path / f"key-{number}"
        file.write_bytes(bytes([number + 1] * 32).hex().encode())
        file.chmod(0o600)
        keys.append(f"file:{file}")
    everlog.open(path, encrypt=keys or None).close()
    restores = "restores" if kind == "restores" else "keeps"
    meddlers = [
        subprocess.Popen(
            [sys.executable, str(MEDDLER), str(path), str(seed), str(SECONDS), restores, *keys],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for seed in range(PROCESSES)
    ]
    done: Counter[str] = Counter()
    for meddler in meddlers:
        said, errors = meddler.communicate(timeout=DEADLINE_SECONDS)
        assert meddler.returncode == 0, errors.decode()
        done.update(json.loads(said))
    assert done["kept"], "some was kept, and looked at"
    with everlog.open(path, encrypt=keys or None) as store:
        store.verify().raise_for_faults()
