"""`python -m bench [--quick] [--only NAME] [--json FILE]`: measure, and print one table."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import apsw
from rich.console import Console
from rich.table import Table

from bench.contexts import contexts
from bench.encryption import encryption
from bench.postgres import postgres
from bench.proofs import proofs
from bench.redaction import redaction
from bench.search import search
from bench.states import conversation, states
from bench.steps import steps
from bench.storage import storage
from bench.work import WORK, Row

ALL = WORK | {
    "states": states,
    "conversation": conversation,
    "steps": steps,
    "contexts": contexts,
    "search": search,
    "storage": storage,
    "redaction": redaction,
    "encryption": encryption,
    "postgres": postgres,
    "proofs": proofs,
}


def main() -> int:
    """Measure what was asked for; give an exit code."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure Everlog beside bare SQLite, in one run.")
    parser.add_argument("--quick", action="store_true", help="smaller amounts: two minutes instead of eight")
    parser.add_argument("--only", action="append", choices=sorted(ALL), help="only this; may be given again")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to a file too")
    chosen = parser.parse_args()
    base = os.environ.get("EVERLOG_BENCH_DIR")  # a folder on the disk that matters; a RAM disk would measure nothing
    folder = Path(tempfile.mkdtemp(prefix="everlog-bench-", dir=base))
    rows: list[Row] = []
    try:
        for name, measure in ALL.items():
            if chosen.only and name not in chosen.only:
                continue
            place = folder / name
            place.mkdir()
            for row in measure(place, chosen.quick):
                print(f"{name}: {row.what}: {row.value:,.3f} {row.unit}", file=sys.stderr, flush=True)
                rows.append(row)
            shutil.rmtree(place)
    except KeyboardInterrupt:
        print("stopped; what was measured so far:", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(rows)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([row._asdict() for row in rows], indent=1), encoding="utf-8")
    return 0


def show(rows: list[Row]) -> None:
    """Print the table."""
    title = f"Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()}, {os.cpu_count()} cores"
    table = Table(title=title)
    for heading in ("what", "median", "", "ratio", "to", "wanted", ""):
        table.add_column(heading, justify="right" if heading in ("median", "ratio") else "left")
    for row in rows:
        value = "–" if math.isnan(row.value) else f"{row.value:,.0f}" if row.value >= 1_000 else f"{row.value:.3g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        met = "" if row.met is None else "yes" if row.met else "NO"
        table.add_row(row.what, value, row.unit, ratio, row.beside, row.target, met)
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
