"""Commands that check and show: verify, doctor, demo."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from everlog.cli.main import address_argument, everlog, json_option, locate_session, opened
from everlog.cli.output import advance, progress_bar, say, say_json, visible
from everlog.open import default_store

_COLOURS = {"good": "green", "look": "yellow", "bad": "red"}


@everlog.command(epilog="Examples:  everlog verify   |   everlog verify run-42 --json")
@address_argument(required=False)
@json_option
@click.pass_context
def verify(ctx: click.Context, address: str | None, as_json: bool) -> None:
    """Re-derive every hash from the stored bytes, of one session or of all, and say what does not hold."""
    with opened(ctx) as store, progress_bar("verifying", None) as progress:
        what = store if address is None else locate_session(store, address)
        report = what.verify(progress=advance(progress))
    if as_json:
        say_json(report)
    else:
        for fault in report.faults:
            say(click.style(visible(str(fault)), fg="red"))
        verdict = (
            click.style("good", fg="green") if report.ok else click.style(f"{report.fault_count} faults", fg="red")
        )
        say(
            f"{verdict}: {report.events} events on {report.branches} branches of {report.sessions} sessions; "
            f"{report.erased} erased, {report.withheld} withheld"
        )
        say(f"not sealed yet: {report.unsealed} events")
        for text in report.unchecked:
            say(f"not checked: {text}")
    if not report.ok:
        raise SystemExit(1)


@everlog.command(epilog="Examples:  everlog doctor   |   everlog doctor --json   |   everlog doctor --store agent.db")
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Look at the store's file and the machine, and say what to do: SQLite, permissions, locks, log, disk, damage."""
    from everlog.stores.sqlite.examine import examine

    worst = 0
    for check in examine(Path(ctx.obj or default_store())):
        worst = max(worst, 1 if check.verdict == "bad" else 0)
        if as_json:
            say_json(msgspec.to_builtins(check))
            continue
        verdict = click.style(f"{check.verdict:<5}", fg=_COLOURS[check.verdict])
        say(f"{verdict} {check.what:<12} {visible(check.found)}")
        if check.advice is not None:
            say(f"{'':<18} → {visible(check.advice)}")
    if worst:
        raise SystemExit(worst)


@everlog.command(epilog="Example:  everlog demo")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="Where to play; a new folder by default."
)
def demo(folder: Path | None) -> None:
    """A small agent works on a bug and records itself; it is killed midway, and another process goes on."""
    from everlog.cli.demo import run_demo

    raise SystemExit(run_demo(folder))
