"""Commands that check and show: verify, doctor, demo."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from everlog.cli.main import address_argument, everlog, json_option, locate_session, opened
from everlog.cli.output import advance, progress_bar, say, say_json, visible
from everlog.core.position import from_micros, parse_time
from everlog.open import default_store, is_postgres, needs_psycopg, open_store
from everlog.reducers.registry import load_reducers
from everlog.store import Store

if TYPE_CHECKING:
    from everlog.audit import Report
    from everlog.stores.check import Check

_COLOURS = {"good": "green", "look": "yellow", "bad": "red"}


@everlog.command(
    epilog="Examples:  everlog verify   |   everlog verify run-42 --json   |   everlog verify --since -1d   |   everlog verify --states   |   everlog verify --key 'everlog/30cb…+530d903a+Aeky…' --seals copy.txt"
)
@address_argument(required=False)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="KEY",
    help="A verifier key that you trust to seal this store; may be given again.",
)
@click.option(
    "--seals",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file of seals that was kept elsewhere; may be given again.",
)
@click.option(
    "--tsa-ca",
    "authorities",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Certificates (PEM) of authorities that you trust: checks the time stamps that lie beside files of --seals.",
)
@click.option(
    "--since",
    metavar="SEAL",
    help="Read only what came after a seal: last, its size, its head SIZE:ROOT, or a time, the last made until then.",
)
@click.option("--states", is_flag=True, help="Also make the hashes of states on record again, by their reducers.")
@click.option(
    "--reducers",
    "modules",
    multiple=True,
    metavar="FILE.py|MODULE",
    help="With --states: load your reducers first; runs its code.",
)
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    address: str | None,
    keys: tuple[str, ...],
    seals: tuple[Path, ...],
    authorities: Path | None,
    since: str | None,
    states: bool,
    modules: tuple[str, ...],
    as_json: bool,
) -> None:
    """Re-derive every hash from the stored bytes, of one session or of all, and say what does not hold.

    Of the whole store the ledger is checked too, and its seals: with --key, that the key signed them. With --since, of what the seal
    covers only that each line has the head that was sealed: quick enough for every day.
    """
    if modules and not states:
        raise click.UsageError("--reducers is for --states: give both")
    for module in modules:
        load_reducers(module)
    if address is not None and (keys or seals):
        raise click.UsageError("--key and --seals are about the whole store: leave out the address")
    if authorities is not None and not seals:
        raise click.UsageError("--tsa-ca is for time stamps, which lie beside a file of --seals: give both")
    with opened(ctx) as store, progress_bar("verifying", None) as progress:
        if address is None:
            seal = _since(store, since)
            report = store.verify(
                keys=keys,
                seals=seals,
                authorities=authorities,
                since=seal,
                states=states,
                progress=advance(progress),
            )
        else:
            session = locate_session(store, address)
            report = session.verify(since=_since(store, since), states=states, progress=advance(progress))
    if as_json:
        say_json(report)
    else:
        _say_report(report, states=states)
    if not report.ok:
        raise SystemExit(1)


def _since(store: Store, text: str | None) -> str | datetime | None:
    """Give what names a seal; a time without a zone is UTC here."""
    if text is None or re.match(r"\d{4}-", text) is None:
        return text
    return from_micros(parse_time(text, now=store.storage.now(), naive_is_utc=True))


def _say_report(report: Report, *, states: bool) -> None:
    for fault in report.faults:
        say(click.style(visible(str(fault)), fg="red"))
    verdict = click.style("good", fg="green") if report.ok else click.style(f"{report.fault_count} faults", fg="red")
    say(
        f"{verdict}: {report.events} events on {report.branches} branches of {report.sessions} sessions; "
        f"{report.erased} erased, {report.withheld} withheld"
        + (f", {report.encrypted} encrypted and not looked at" if report.encrypted else "")
    )
    if report.plain:
        say(f"in plain text, though the store encrypts: {report.plain} events; everlog encryption seal")
    say(f"not sealed yet: {report.unsealed} events")
    if report.seals:
        say(f"seals of your keys: {report.seals}")
    if report.stamped is not None:
        say(f"time stamps: {report.stamps}; the last of {visible(report.stamped)}")
    if states:
        say(f"hashes of states made again: {report.states}")
    for text in report.unchecked:
        say(f"not checked: {visible(text)}")


@everlog.command(epilog="Examples:  everlog doctor   |   everlog doctor --json   |   everlog doctor --store agent.db")
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Look at the store and the machine, and say what to do.

    Of a file: SQLite, permissions, locks, log, disk, damage. Of PostgreSQL: settings, clock, round trips, connections, bloat.
    """
    worst = 0
    for check in _examine(ctx.obj or default_store()):
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


def _examine(place: str) -> Iterator[Check]:
    if is_postgres(place):
        with needs_psycopg():
            from everlog.stores.postgres.examine import examine_postgres
        return examine_postgres(place)
    from everlog.stores.sqlite.examine import examine

    return examine(Path(place))


@everlog.command(
    epilog="Examples:  everlog init   |   everlog --store postgresql://admin@db/agents init --roles   |   everlog init --json"
)
@click.option("--roles", is_flag=True, help="PostgreSQL: make the roles of the store, and give each its rights.")
@click.option(
    "--tenants", is_flag=True, help="PostgreSQL: have the server keep tenants apart, by ?tenant= in addresses."
)
@json_option
@click.pass_context
def init(ctx: click.Context, roles: bool, tenants: bool, as_json: bool) -> None:
    """Make the store where there is none, or bring it up to date; again changes nothing."""
    place = ctx.obj or default_store()
    if (roles or tenants) and not is_postgres(place):
        raise click.UsageError(
            "--roles and --tenants are for a store in PostgreSQL: name it with --store postgresql://…"
        )
    with open_store(place) as store:
        made = {"store": store.url, "id": store.id}
    names: list[str] = []
    if roles or tenants:
        with needs_psycopg():
            from everlog.stores.postgres.administer import keep_tenants_apart, make_roles
        names = make_roles(place) if roles else []
        if tenants:
            keep_tenants_apart(place)
    if as_json:
        say_json(made | {"roles": names, "tenants": tenants})
        return
    say(f"{visible(store.url)} is there, and up to date")
    if names:
        say(f"roles {', '.join(names)}: give them to logins, as in GRANT {names[1]} TO agent")
    if tenants:
        say("tenants are kept apart: each program names its own with ?tenant= in its address")


@everlog.command(epilog="Example:  everlog demo")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="Where to play; a new folder by default."
)
def demo(folder: Path | None) -> None:
    """A small agent works on a bug and records itself; it is killed midway, and another process goes on."""
    from everlog.cli.demo import run_demo

    raise SystemExit(run_demo(folder))
