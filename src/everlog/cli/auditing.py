"""The command for who examines a session: audit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from everlog.cli.audit_page import audit_page
from everlog.cli.audit_tables import Table, tables
from everlog.cli.main import address_argument, everlog, json_option, locate_session, opened
from everlog.cli.output import advance, progress_bar, say, say_json, shorten, visible
from everlog.core.limits import AUDIT_LISTED_MAX
from everlog.errors import UnavailableError

_COLUMN_CHARACTERS = 44  # of a column that others stand behind


@everlog.command(
    epilog="Examples:  everlog audit run-42   |   everlog audit run-42 --verify --html run-42.html   |   everlog audit run-42 --json -n 1000"
)
@address_argument()
@click.option("--verify", is_flag=True, help="Also re-derive its hashes, and the bytes of the recorded calls listed.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page that prints well: one file, no scripts.",
)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, AUDIT_LISTED_MAX),
    default=20,
    show_default=True,
    help="List at most so many of each kind, the newest; all are counted.",
)
@json_option
@click.pass_context
def audit(ctx: click.Context, address: str, verify: bool, html: Path | None, limit: int, as_json: bool) -> None:
    """Answer an auditor's questions of one session: who acted, when, why, with what outcome, and what was changed afterwards.

    It reads all lines of the session, and the ledger. With --verify it exits with 1 where something does not hold.
    """
    with opened(ctx) as store, progress_bar("reading", None) as progress:
        found = locate_session(store, address).audit(verify=verify, limit=limit, progress=advance(progress))
    if html is not None:
        _write(html, audit_page(found))
    if as_json:
        say_json(found.to_dict() | ({} if html is None else {"path": str(html)}))
    elif html is not None:
        say(f"{visible(str(html))}: {found.events} events of {visible(found.session)}")
    else:
        for table in tables(found):
            for line in _lines(table):
                say(line)
    if found.verification is not None and not found.verification.ok:
        raise SystemExit(1)


def _lines(table: Table) -> Iterator[str]:
    """Give a table as lines for a terminal."""
    yield click.style(table.title, bold=True)
    if table.note:
        yield f"  {visible(table.note)}"
    rows = [tuple(visible(text) for text in row) for row in table.rows]
    if rows and any(table.columns):
        rows.insert(0, table.columns)
    widths = [
        min(_COLUMN_CHARACTERS, max(len(row[at]) for row in rows)) for at in range(len(table.columns) if rows else 0)
    ]
    for number, row in enumerate(rows):
        *front, last = row
        shown = [f"{shorten(text, width):<{width}}" for text, width in zip(front, widths, strict=False)]
        line = "  ".join([*shown, shorten(last)]).rstrip()
        yield f"  {click.style(line, dim=number == 0 and any(table.columns))}"
    if table.hidden:
        yield f"  … {table.hidden} more: --limit"
    yield ""


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UnavailableError(
            f"the page cannot be written to {path} ({error.strerror}); nothing else was changed; choose another place with --html"
        ) from error
