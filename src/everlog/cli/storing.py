"""Commands about what the store takes: stats, compact, archive, restore."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from everlog.archiving import Archived
from everlog.cli.main import everlog, json_option, opened
from everlog.cli.output import advance, counted, progress_bar, say, say_json, size_of, working
from everlog.cold import DAY_MICROS, Day
from everlog.stats import Stats

_DAYS_SHOWN = 14
_BAR_CHARACTERS = 30


@everlog.command(
    epilog="Examples:  everlog stats   |   everlog stats --json   |   everlog stats --plot growth.svg   |   everlog stats --plot growth.png"
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png|svg",
    help="Draw size and growth into a file too.",
)
@json_option
@click.pass_context
def stats(ctx: click.Context, plot: Path | None, as_json: bool) -> None:
    """Say what the store holds, how it grows, and what compacting it would give.

    Reads the whole store: seconds for a gigabyte. The estimate packs up to 20,000 events in memory, and changes nothing.
    """
    with opened(ctx) as store:
        with working("measuring"):
            found = store.stats()
        if plot is not None:
            from everlog.cli.plots import draw_stats

            draw_stats(found, plot)
    if as_json:
        say_json(found)
        return
    _say_stats(found)
    if plot is not None:
        say(f"drawn into {plot}")


def _say_stats(found: Stats) -> None:
    sizes = found.sizes
    ratio = "" if found.ratio is None else f", {found.ratio:.2f} × what was recorded"
    say(f"{counted(sizes.sessions, 'session')}, {counted(sizes.events, 'event')}, {size_of(sizes.file)}{ratio}")
    rows = [
        ("hot", sizes.hot, "in rows, as they were recorded"),
        ("packed", sizes.packed, f"in {counted(sizes.blocks, 'block')}, of {size_of(sizes.packed_plain)}"),
        ("kept once", sizes.shared, f"long strings and attachments, of {size_of(sizes.shared_plain)}"),
        ("archived", sizes.archived, f"in {counted(sizes.objects, 'object')} elsewhere"),
        ("free", sizes.free, "inside the store, for new events"),
    ]
    for name, count, what in rows:
        if count or name == "hot":
            say(f"  {name:<10}{size_of(count):>9}  {what}")
    if found.plain:
        say(
            f"{counted(found.plain, 'event')} in plain text, though the store encrypts what is recorded now: everlog encryption seal"
        )
    if found.would_take is not None:
        # Half of the sample may be too new to be packed by default; the estimate is of all.
        say(
            f"compacting all of it would make the hot {size_of(sizes.hot)} about {size_of(found.would_take)} "
            f"(tried with {counted(found.sample, 'event')}): everlog compact"
        )
    if len(found.days) > 1:
        _say_days(found.days[-_DAYS_SHOWN:])


def _say_days(days: list[Day]) -> None:
    most = max(day.bytes for day in days) or 1
    say("recorded, by day:")
    for day in days:
        bar = "█" * max(1, round(_BAR_CHARACTERS * day.bytes / most))
        say(f"  {date_of(day)}  {day.events:>9,} events  {size_of(day.bytes):>9}  {bar}")


def date_of(day: Day) -> str:
    """Give a day as 2026-11-26."""
    return datetime.fromtimestamp(day.day * DAY_MICROS / 1_000_000, UTC).strftime("%Y-%m-%d")


@everlog.command(
    epilog="Examples:  everlog compact   |   everlog compact --older-than 0 --dry-run   |   everlog compact --older-than 12h --json"
)
@click.option(
    "--older-than", default="1d", show_default=True, metavar="TIME", help="What is newer stays as it is: 0, 12h, 30d."
)
@click.option("--dry-run", is_flag=True, help="Pack in memory only, and say what it would give.")
@json_option
@click.pass_context
def compact(ctx: click.Context, older_than: str, dry_run: bool, as_json: bool) -> None:
    """Pack old bodies into compressed blocks, and give the free space back. No answer and no hash changes.

    The end of a session that was at work since then stays as it is. Long strings and attachments that repeat are kept once. Stop it
    and run it again at any time, beside whatever else uses the store.
    """
    with opened(ctx) as store, progress_bar("packing events", None) as bar:
        done = store.compact(older_than=age_option(older_than), dry_run=dry_run, progress=advance(bar))
    if as_json:
        say_json(done)
        return
    if not done.bodies and not done.attachments:
        say(f"nothing to pack: no bodies older than {older_than} stand in rows")
    else:
        would = "would take" if dry_run else "take"
        kept = f" and {counted(done.attachments, 'attachment')}" if done.attachments else ""
        say(
            f"{counted(done.bodies, 'body', 'bodies')}{kept} of {size_of(done.plain)} {would} {size_of(done.stored)} in "
            f"{counted(done.blocks, 'block')} "
            f"({done.stored / max(done.plain, 1):.2f} ×)"
        )
    if done.given_back:
        say(f"{size_of(done.given_back)} given back to the system")
    if done.free:
        say(f"{size_of(done.free)} free inside the store, for new events")
    if done.free and not dry_run:  # all of it went back, but where the file was made without the way to
        say(
            "this file was made by an older Everlog and cannot give space back; a smaller one: everlog copy OLD.db NEW.db"
        )


def age_option(text: str) -> float | str:
    """Read an age: a number without a unit is of seconds."""
    return float(text) if text.replace(".", "", 1).isdigit() else text


@everlog.command(
    epilog="Examples:  everlog archive --to s3://bucket/everlog --older-than 90d   |   everlog archive --to ./cold --dry-run   |   "
    "everlog archive --to gs://bucket --session run-42 --older-than 0"
)
@click.option(
    "--to", "url", required=True, metavar="URL|FOLDER", help="s3://bucket/prefix, gs://…, az://…, or a folder."
)
@click.option(
    "--older-than", default="90d", show_default=True, metavar="TIME", help="What is newer stays here: 0, 12h, 30d."
)
@click.option("--session", metavar="SESSION", help="Only this one's.")
@click.option("--dry-run", is_flag=True, help="Only say what would be moved.")
@json_option
@click.pass_context
def archive(ctx: click.Context, url: str, older_than: str, session: str | None, dry_run: bool, as_json: bool) -> None:
    """Move packed blocks to object storage. What reads them later fetches them from there.

    `everlog compact` packs them first. Credentials come from the environment (AWS_ACCESS_KEY_ID and the like). A block leaves the
    store when its object was written and read back; stop it and run it again at any time.
    """
    with opened(ctx) as store, progress_bar("moving blocks", None) as bar:
        done = store.archive(
            url, older_than=age_option(older_than), session=session, dry_run=dry_run, progress=advance(bar)
        )
    if as_json:
        say_json(done)
    elif not done.blocks:
        say(f"nothing to move: no blocks older than {older_than} are here (everlog compact makes them)")
    else:
        one = "is" if done.blocks == 1 else "are"
        would = "would be" if dry_run else one
        say(f"{counted(done.blocks, 'block')}, {size_of(done.bytes)}, {would} in {counted(done.objects, 'object')}")
        _say_rest(done)


@everlog.command(
    epilog="Examples:  everlog restore   |   everlog restore --session run-42   |   everlog restore --json"
)
@click.option(
    "--session", metavar="SESSION", help="Only what this one needs; other blocks of its objects come with it."
)
@json_option
@click.pass_context
def restore(ctx: click.Context, session: str | None, as_json: bool) -> None:
    """Bring archived blocks home from object storage, and remove their objects."""
    with opened(ctx) as store, progress_bar("bringing blocks home", None) as bar:
        done = store.restore(session=session, progress=advance(bar))
    if as_json:
        say_json(done)
    elif not done.objects:
        say("nothing to bring home: all bodies are here")
    else:
        one = "is" if done.blocks == 1 else "are"
        say(
            f"{counted(done.blocks, 'block')}, {size_of(done.bytes)}, {one} home from {counted(done.objects, 'object')}"
        )
        _say_rest(done)


def _say_rest(done: Archived) -> None:
    if done.removed:
        say(f"{counted(done.removed, 'object')} removed")
    if done.given_back:
        say(f"{size_of(done.given_back)} given back to the system")
