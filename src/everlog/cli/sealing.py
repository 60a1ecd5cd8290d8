"""Commands about seals: keys, seal, seals, witness."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from everlog.cli.main import everlog, json_option, limit_option, opened, say_error
from everlog.cli.output import note, say, say_json, shorten, visible
from everlog.core.position import format_micros
from everlog.open import clock, default_keys
from everlog.seals import Seal
from everlog.steps import seconds_of

F = TypeVar("F", bound=Callable[..., Any])
_EVERY_SECONDS = (1.0, 366 * 86_400.0)

keys_option = click.option(
    "--keys",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of keys. Default: $EVERLOG_KEYS, else in your data folder.",
)


def _source_options(function: F) -> F:
    """Add the options that say where a private key is."""
    for option in (
        click.option("--public-key", metavar="BASE64", help="With --sign-command: the public key, 32 bytes in base64."),
        click.option(
            "--sign-command",
            metavar="COMMAND",
            help="A program that has the private key: message on its input, signature on its output, raw or base64.",
        ),
        click.option(
            "--file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="A PKCS#8 file that holds the private key, in the place of one made here.",
        ),
    ):
        function = option(function)
    return function


@everlog.group(epilog="Examples:  everlog keys new   |   everlog keys show   |   everlog keys rotate")
def keys() -> None:
    """The key that seals the store's ledger: kept outside the store, its verifier key given to whoever checks seals.

    \b
    everlog keys new       make it
    everlog keys show      print its verifier key
    everlog keys rotate    have a new one go on in its place; the old one signs that
    everlog keys revoke    after a loss or a theft: a new one, under a new origin
    """


@keys.command(
    "new",
    epilog="Examples:  everlog keys new   |   everlog keys new --origin example.com/agents   |   "
    "everlog keys new --sign-command 'ssh hsm sign' --public-key AekyeR…",
)
@click.option("--origin", metavar="NAME", help="What seals are made under; a URL without its scheme reads well.")
@_source_options
@keys_option
@json_option
@click.pass_context
def new_(
    ctx: click.Context,
    origin: str | None,
    file: Path | None,
    sign_command: str | None,
    public_key: str | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Make the store's first key, and print its verifier key."""
    with opened(ctx) as store:
        kept = store.keys(folder)
        made = kept.new(origin=origin, file=file, command=shlex.split(sign_command or ""), public_key=public_key)
        _say_key(made, kept.folder, as_json=as_json)


@keys.command(epilog="Examples:  everlog keys show   |   everlog keys show --json")
@keys_option
@json_option
@click.pass_context
def show(ctx: click.Context, folder: Path | None, as_json: bool) -> None:
    """Print the verifier key: what `verify`, `check-proof` and witnesses are given. It is no secret."""
    with opened(ctx) as store:
        kept = store.keys(folder)
        _say_key(kept.verifier, kept.folder, as_json=as_json)


@keys.command(epilog="Examples:  everlog keys rotate && everlog seal")
@_source_options
@keys_option
@json_option
@click.pass_context
def rotate(
    ctx: click.Context,
    file: Path | None,
    sign_command: str | None,
    public_key: str | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Have a new key go on in the place of the current one, which signs it; the next seal is signed by both.

    Whoever pinned the old key can follow to the new one by that seal.
    """
    with opened(ctx) as store:
        kept = store.keys(folder)
        made = kept.rotate(file=file, command=shlex.split(sign_command or ""), public_key=public_key)
        _say_key(made, kept.folder, as_json=as_json)
    note("seal now: the old key is needed until then")


@keys.command(
    epilog="Examples:  everlog keys revoke && everlog seal   |   everlog keys revoke --origin example.com/agents-2"
)
@click.option("--origin", metavar="NAME", help="The new origin; the old one with a number behind it by default.")
@_source_options
@keys_option
@json_option
@click.pass_context
def revoke(
    ctx: click.Context,
    origin: str | None,
    file: Path | None,
    sign_command: str | None,
    public_key: str | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Put a new key in the place of one that is lost or stolen. The ledger goes on under a new origin.

    Tell whoever checks seals to trust the new verifier key, by another way than the store.
    """
    with opened(ctx) as store:
        kept = store.keys(folder)
        made = kept.revoke(origin=origin, file=file, command=shlex.split(sign_command or ""), public_key=public_key)
        _say_key(made, kept.folder, as_json=as_json)


def _say_key(key: str, folder: Path, *, as_json: bool) -> None:
    if as_json:
        say_json({"key": key, "folder": str(folder)})
        return
    say(visible(key))
    note(f"kept in {visible(str(folder))}: back it up, apart from the store")


@everlog.command(
    epilog="Examples:  everlog seal   |   everlog seal --every 1s   |   everlog seal --to /mnt/other/seals.txt --to https://example.com/seals   |   everlog seal --timestamp https://tsa.example.com"
)
@click.option(
    "--every", metavar="TIME", help="Seal again whenever something was recorded, so far apart (1s, 1m), until Ctrl-C."
)
@click.option(
    "--witness",
    "witnesses",
    multiple=True,
    metavar="KEY@URL",
    help="A witness that is to cosign it; may be given again.",
)
@click.option(
    "--to",
    multiple=True,
    metavar="PLACE",
    help="Where else it is sent: a file, https://…, s3://bucket/prefix; may be given again.",
)
@click.option(
    "--timestamp",
    metavar="URL",
    help="An authority (RFC 3161) that is to stamp it. Needs everlog[timestamps]; best with --every 1h.",
)
@keys_option
@json_option
@click.pass_context
def seal(
    ctx: click.Context,
    every: str | None,
    witnesses: tuple[str, ...],
    to: tuple[str, ...],
    timestamp: str | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Sign the head of the ledger, which holds the head of every branch: from then on a change of what was recorded shows.

    Every seal is also in seals.txt, beside the key. It proves something to those alone who hold the verifier key and a seal that the
    holder of the store cannot change: send seals elsewhere, or have witnesses cosign them. See `everlog help sealing`.
    """
    seconds = None if every is None else seconds_of(every, what="--every")
    if every is not None and (seconds is None or not _EVERY_SECONDS[0] <= seconds <= _EVERY_SECONDS[1]):
        raise click.UsageError("--every takes a second to a year: 1s, 1m, 1h")
    with opened(ctx) as store:
        sealer = store.sealer(keys=folder, witnesses=witnesses, to=to, timestamp=timestamp)
        if seconds is None:
            _say_seal(sealer.seal(), as_json=as_json)
        else:
            sealer.run(every=seconds, sealed=lambda made: _say_seal(made, as_json=as_json), failed=say_error)


def _say_seal(made: Seal, *, as_json: bool) -> None:
    if as_json:
        say_json(made.to_dict() | {"warnings": made.warnings})
    else:
        say(f"sealed {made.head.size} records of {visible(made.origin)}, root {made.head.root}")
        for warning in made.warnings:
            note(f"not all went well: {visible(warning)}")


@everlog.command(epilog="Examples:  everlog seals   |   everlog seals -n 1 --json")
@limit_option(20)
@json_option
@click.pass_context
def seals(ctx: click.Context, limit: int, as_json: bool) -> None:
    """List the seals that the store keeps, the last first. `everlog verify --key KEY` checks them."""
    with opened(ctx) as store:
        kept = store.seals(limit=min(limit, 1_000))
    for each in kept:
        if as_json:
            say_json(each.to_dict())
        else:
            lines = each.note.count("\n\u2014 ")
            signed = f"{lines} signature{'' if lines == 1 else 's'}"
            say(
                f"{format_micros(each.made)[:19]}  {each.head.size:>9}  {each.head.root[:16]}  {signed}  {shorten(visible(each.origin))}"
            )
    if not kept and not as_json:
        note("there is no seal yet: everlog keys new, then everlog seal")


@everlog.command(epilog="Examples:  everlog tiles /srv/ledger   |   everlog seal && everlog tiles /srv/ledger")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@json_option
@click.pass_context
def tiles(ctx: click.Context, folder: Path, as_json: bool) -> None:
    """Write the sealed ledger as files that any web server serves (C2SP tlog-tiles); again writes only what is new.

    It holds ids, sizes, hashes and times of what happened to sessions, and neither names nor bodies.
    """
    with opened(ctx) as store:
        written = store.write_tiles(folder)
    if as_json:
        say_json(written)
    else:
        say(f"{visible(str(folder))}: {written.size} records, {written.files} files new")


@everlog.command(
    "check-tiles", epilog="Examples:  everlog check-tiles /srv/ledger --key 'everlog/30cb…+530d903a+Aeky…'"
)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--key",
    "keys",
    multiple=True,
    required=True,
    metavar="KEY",
    help="The verifier key that you trust; may be given again.",
)
@json_option
def check_tiles(folder: Path, keys: tuple[str, ...], as_json: bool) -> None:
    """Check a copy of a ledger as tiles: its checkpoint against a key, every record and hash against the checkpoint. It needs no store."""
    from everlog.tiles import check_tiles as check

    checkpoint = check(folder, keys)
    if as_json:
        say_json({"ok": True, "origin": checkpoint.origin, "size": checkpoint.head.size, "root": checkpoint.head.root})
    else:
        say(f"{click.style('good', fg='green')}: {checkpoint.head.size} records of {visible(checkpoint.origin)}")


@everlog.command(
    epilog="Examples:  everlog witness --name example.org/w1 --log 'everlog/30cb…+530d903a+Aeky…' --port 8700"
)
@click.option("--name", required=True, help="The witness's own name; a URL without its scheme reads well.")
@click.option(
    "--log",
    "logs",
    multiple=True,
    required=True,
    metavar="KEY",
    help="A verifier key of a log that it cosigns; may be given again.",
)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where its key and its memory are.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address that it listens on.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8700, show_default=True, help="0 for any that is free.")
@json_option
def witness(name: str, logs: tuple[str, ...], folder: Path | None, host: str, port: int, as_json: bool) -> None:
    """Be a witness of other stores' seals: cosign each that extends the last one seen, until Ctrl-C. It needs no store.

    It speaks C2SP tlog-witness: POST /add-checkpoint. Run it on another machine, under other hands than the store.
    """
    from everlog.witnessing import WitnessKeeper, serve

    chosen = folder or default_keys() / "witness"
    keeper = WitnessKeeper(chosen, name, logs, draw=os.urandom, clock=clock)
    with serve(keeper, host, port) as server:
        url = f"http://{host}:{server.server_address[1]}"
        if as_json:
            say_json({"key": keeper.verifier, "url": url, "folder": str(chosen)})
        else:
            say(f"{visible(keeper.verifier)}@{url}")
            note("give that to `everlog seal --witness`; Ctrl-C to stop")
        server.serve_forever(poll_interval=0.1)
