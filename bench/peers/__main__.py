"""`python3 dev.py bench --peers [--quick] [--only PEER] [--json FILE]`: measure Everlog and its peers, and print one table."""

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

from rich.console import Console
from rich.table import Table

from bench.frameworks import frameworks
from bench.peers.peer import BESIDE, PEERS
from bench.peers.run import ROOT, Cell, Row, Run, choose, place_of_files

LEGEND = (
    "In brackets: how many times better Everlog is (more than 1: Everlog is ahead; less than 1: the peer is). openai-agents and "
    "google-adk are compared with everlog-async, the others with everlog."
)
FRAMEWORKS = "frameworks"  # a table of each, in this environment, which has them; not with --quick
NOTES = {
    "eventsourcing": "its recorder alone, without mapper and aggregates. No hashes, no keys, no times, no forks.",
    "openai-agents": "no hashes, no keys, no versions: a retry adds the item again. Forks are of AdvancedSQLiteSession.",
    "langgraph": "one checkpoint a message with all messages in it; sessions begin anew every 200 appends. What is read was "
    "built as one checkpoint. A batch is one checkpoint of a new thread. A fork saves the state again, as update_state does.",
    "google-adk": "not always durable: rollback journal with synchronous FULL, where SQLite does not sync the folder after it "
    "has removed the journal, so power loss may undo the last commit. What is read was written straight into its table.",
}


def main() -> int:
    """Measure what was asked for; give an exit code."""
    parser = argparse.ArgumentParser(prog="dev.py bench --peers", description="Measure Everlog beside its peers.")
    parser.add_argument("--quick", action="store_true", help="smaller amounts, once: two minutes instead of eight")
    parser.add_argument(
        "--only", action="append", choices=[*BESIDE, FRAMEWORKS], metavar="PEER", help=" | ".join([*BESIDE, FRAMEWORKS])
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to a file too")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the Python that has the peers")
    chosen = parser.parse_args()
    if chosen.only == [FRAMEWORKS]:
        return told({"frameworks": frameworks()}, chosen.json)
    names = choose(None if chosen.only is None else [name for name in chosen.only if name != FRAMEWORKS])
    pythons = {name: Path(sys.executable) if name.startswith("everlog") else chosen.python for name in PEERS}
    folder = Path(tempfile.mkdtemp(prefix="everlog-peers-", dir=place_of_files()))
    run = Run(names, pythons, folder, quick=chosen.quick)
    rows: list[Row] = []
    try:
        for row in run.rows():
            rows.append(row)
    except KeyboardInterrupt:
        print("stopped; what was measured so far:", file=sys.stderr)
    finally:
        run.stop()
        shutil.rmtree(folder, ignore_errors=True)
    show(rows, names, run.settings)
    beside = frameworks() if FRAMEWORKS in (chosen.only or ()) or not (chosen.only or chosen.quick) else []
    return told({**report(rows, run), "frameworks": beside}, chosen.json)


def told(measured: dict[str, object], file: Path | None) -> int:
    """Write everything to a file, where one is wanted."""
    if file is not None:
        file.write_text(json.dumps(measured, indent=1), encoding="utf-8")
    return 0


def show(rows: list[Row], names: list[str], settings: dict[str, str]) -> None:
    """Print the table, and under it what it takes to read it."""
    console = Console(width=160)
    table = Table(title=f"Python {platform.python_version()}, {os.cpu_count()} cores", caption=LEGEND)
    for heading in ("what", "", *names):
        table.add_column(heading, justify="left" if heading in ("what", "") else "right")
    for row in rows:
        table.add_row(row.what, row.unit, *(shown(row, name) for name in names))
    console.print(table)
    pins = dict(line.split("==") for line in (ROOT / "bench/peers.txt").read_text().splitlines() if "==" in line)
    for name in names:
        version = next((f" {pin}" for package, pin in pins.items() if package.startswith(name)), "")
        console.print(f"{name}{version}: {settings.get(name, 'does not run')}. {NOTES.get(name, '')}", highlight=False)
    for row in rows:
        for name, cell in row.cells.items():
            if cell.note:
                console.print(f"{row.what}, {name}: {cell.note}", highlight=False)


def shown(row: Row, name: str) -> str:
    """Give a cell as text: the value, and how many times better Everlog is."""
    value = row.cells.get(name, Cell()).value
    if math.isnan(value):
        return "–"
    text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    times = ratio(row, name)
    return text if times is None else f"{text} ({times:,.0f}×)" if times >= 10 else f"{text} ({times:.2g}×)"


def ratio(row: Row, name: str) -> float | None:
    """Give how many times better Everlog is than a peer; None for Everlog itself and where either measured nothing."""
    if name not in BESIDE:
        return None
    ours, theirs = row.cells.get(BESIDE[name], Cell()).value, row.cells.get(name, Cell()).value
    if math.isnan(ours) or math.isnan(theirs) or not ours or not theirs:
        return None
    return ours / theirs if row.better == "more" else theirs / ours


def report(rows: list[Row], run: Run) -> dict[str, object]:
    """Give everything as JSON has it."""
    measured = [
        {
            "what": row.what,
            "unit": row.unit,
            "better": row.better,
            "peers": {
                name: {
                    "value": None if math.isnan(cell.value) else cell.value,
                    "everlog_is_better_by": ratio(row, name),
                    "note": cell.note,
                }
                for name, cell in row.cells.items()
            },
        }
        for row in rows
    ]
    return {"settings": run.settings, "does_not_run": run.broken, "rows": measured}


if __name__ == "__main__":
    sys.exit(main())
