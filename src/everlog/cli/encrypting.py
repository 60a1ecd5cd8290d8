"""Commands about encryption: keys, sealing what was written before, wrapping data keys with another key."""

from __future__ import annotations

import os
from pathlib import Path

import click

from everlog.cli.main import everlog, json_option, opened
from everlog.cli.output import advance, counted, progress_bar, say, say_json, visible

_EPILOG = (
    "Examples:  everlog encryption new-key ~/everlog.key   |   export EVERLOG_ENCRYPT=file:$HOME/everlog.key   |   everlog encryption seal"
    "   |   everlog encryption rotate --to file:$HOME/new.key"
)


@everlog.group(epilog=_EPILOG)
def encryption() -> None:
    """Encrypt bodies and attachments at rest, each under a key of its own.

    The key that wraps those is named by EVERLOG_ENCRYPT: file:PATH, env:NAME or command:PROGRAM ARGUMENTS; while one is exchanged, the new
    one and the old one, one a line. New stores then encrypt, and take bodies with that key only; of one that holds plain text, `seal`
    makes one that does. Types, actors, keys, times, names, titles, labels and sizes stay readable.
    """


@encryption.command(
    "new-key", epilog="Examples:  everlog encryption new-key ~/everlog.key   |   everlog encryption new-key key --json"
)
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def new_key(path: Path, as_json: bool) -> None:
    """Make a key of 32 random bytes, in a new file that only you can read."""
    from everlog.wrapping import write_wrapping_key

    made = write_wrapping_key(path, os.urandom)
    if as_json:
        say_json({"id": made.id.hex(), "path": str(path)})
        return
    say(f"made {visible(str(path))}, key {made.id.hex()}")
    say("without it no body can be read: keep a copy, and keep it apart from backups of the store")
    say(f"to use it: export EVERLOG_ENCRYPT=file:{visible(str(path.absolute()))}")


@encryption.command(epilog="Examples:  everlog encryption keys   |   everlog encryption keys --json")
@json_option
@click.pass_context
def keys(ctx: click.Context, as_json: bool) -> None:
    """Say which keys the store needs, by their ids."""
    with opened(ctx) as store:
        found = store.encryption.keys()
    if as_json:
        say_json(found)
        return
    say("this store does not encrypt" if found.current is None else f"current  {found.current}")
    for each in found.retired:
        say(f"retired  {each}  still needed: everlog encryption rotate")


@encryption.command(epilog="Examples:  everlog encryption seal   |   everlog encryption seal --json")
@json_option
@click.pass_context
def seal(ctx: click.Context, as_json: bool) -> None:
    """Have the store encrypt, and encrypt what was written before. Stop it and run it again at any time, beside whatever else uses it."""
    with opened(ctx) as store, progress_bar("encrypting events", None) as bar:
        done = store.encryption.seal(progress=advance(bar))
    if as_json:
        say_json({"events": done})
    else:
        say(f"{counted(done, 'event')} looked at: their bodies and attachments are encrypted")


@encryption.command(
    epilog="Examples:  everlog encryption rotate --to file:$HOME/new.key   |   everlog encryption rotate --to env:NEW_KEY --json"
)
@click.option("--to", required=True, metavar="file:…|env:…|command:…", help="The new key.")
@json_option
@click.pass_context
def rotate(ctx: click.Context, to: str, as_json: bool) -> None:
    """Wrap every data key with another key; no body is touched. EVERLOG_ENCRYPT names the key that the store has.

    Stop it and run it again at any time. Then name the new key in EVERLOG_ENCRYPT; the old one is needed for nothing here, and
    whoever destroys it has shredded what backups of before hold.
    """
    with opened(ctx) as store, progress_bar("wrapping keys", None) as bar:
        done = store.encryption.rotate(to, progress=advance(bar))
        current = store.encryption.keys().current
    if as_json:
        say_json({"keys": done, "current": current})
    else:
        say(f"{counted(done, 'data key')} wrapped with {current}")
