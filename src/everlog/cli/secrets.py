"""The command that looks for secrets: in a file, or in what is recorded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import click

from everlog.cli.main import everlog, json_option, locate, opened
from everlog.cli.output import note, say, say_json, visible
from everlog.core.limits import ATTACHMENT_BYTES_MAX
from everlog.core.position import format_address
from everlog.core.redact import Finding, Redactor, compile_rules
from everlog.core.secret_rules import SecretRule
from everlog.errors import LimitError
from everlog.redaction import find_secrets, read_rules

_SHOWN = 200  # findings; the others are counted


@everlog.command(
    epilog="Examples:  everlog secrets notes.txt   |   git diff | everlog secrets -   |   everlog secrets --session run-42   |   "
    "everlog secrets --rules own.toml notes.txt"
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), required=False)
@click.option(
    "--session", "address", metavar="ADDRESS", help="Look at what a session, or one of its branches, has recorded."
)
@click.option(
    "--rules",
    type=click.Path(exists=True, dir_okay=False),
    help="A TOML or JSON file of more rules; else $EVERLOG_REDACT_RULES.",
)
@json_option
@click.pass_context
def secrets(ctx: click.Context, file: str | None, address: str | None, rules: str | None, as_json: bool) -> None:
    """Say where secrets stand, by which rule, and never what they are; exit code 1 where there are some.

    What is recorded already is not redacted: erase those events, and change the secret where it is in use.
    """
    if (file is None) == (address is None):
        raise click.UsageError("give a file (- for standard input), or --session")
    named = rules or os.environ.get("EVERLOG_REDACT_RULES")
    own: tuple[SecretRule, ...] = () if not named else read_rules(named)
    redactor = Redactor(
        compile_rules(own), "redact", lambda: bytes(32)
    )  # marks are not shown, so their key says nothing
    found = _in_file(redactor, file) if file is not None else _in_session(ctx, redactor, str(address))
    counts: Counter[str] = Counter()
    for place, finding in found:
        counts[finding.rule] += 1
        if counts.total() > _SHOWN:
            continue
        if as_json:
            say_json(
                {
                    "place": place,
                    "rule": finding.rule,
                    "path": finding.path,
                    "start": finding.start,
                    "stop": finding.stop,
                }
            )
        else:
            say(f"{visible(place)}  {finding.rule}  {visible(finding.path)} {finding.start}–{finding.stop}")
    if counts.total() > _SHOWN:
        note(
            f"and {counts.total() - _SHOWN} more; in all: "
            + ", ".join(f"{rule} {count}" for rule, count in counts.most_common())
        )
    if counts:
        raise SystemExit(1)
    if not as_json:
        say("no secrets were found")


def _in_file(redactor: Redactor, file: str) -> Iterator[tuple[str, Finding]]:
    with click.open_file(file, "rb") as opened_file:
        content = opened_file.read(ATTACHMENT_BYTES_MAX + 1)
    if len(content) > ATTACHMENT_BYTES_MAX:
        raise LimitError(f"the file is larger than {ATTACHMENT_BYTES_MAX} bytes; nothing was looked at; split it")
    text = content.decode("utf-8", "replace")
    line = at = 0
    for finding in redactor.findings(text, "characters"):
        line += text.count("\n", at, finding.start)
        at = finding.start
        yield f"{file}:{line + 1}", finding


def _in_session(ctx: click.Context, redactor: Redactor, address: str) -> Iterator[tuple[str, Finding]]:
    with opened(ctx) as store:
        session, line, place = locate(store, address)
        events = line.events() if place is None else [line.event(place)]  # pyright: ignore[reportArgumentType]
        for event in events:
            for finding in find_secrets(redactor, event):
                yield f"{format_address(session.id)}@{event.position}", finding
