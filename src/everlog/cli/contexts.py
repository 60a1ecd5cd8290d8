"""Commands that make contexts: summarize, outline, expand, context build, explain, diff and saw."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from everlog.cli.main import (
    actor_option,
    address_argument,
    everlog,
    json_option,
    limit_option,
    locate,
    locate_session,
    opened,
)
from everlog.cli.output import event_line, note, progress_bar, say, say_json, shorten, visible, visible_json
from everlog.context.manifest import FORMATS, Format, Item, Manifest
from everlog.context.reader import BUDGET_MAX, Context, Summary
from everlog.core.event import Event
from everlog.errors import InvalidPlaceError
from everlog.summaries import (
    FAN_OUT,
    FAN_OUT_MAX,
    FAN_OUT_MIN,
    LEAF_TOKENS,
    LEAF_TOKENS_MAX,
    LEAF_TOKENS_MIN,
    SUMMARIES_MAX,
)

_ITEMS_MAX = 200


@everlog.command(epilog="Examples:  everlog summarize run-42   |   everlog summarize run-42 --fan-out 8 --json")
@address_argument("session")
@click.option(
    "--fan-out",
    type=click.IntRange(FAN_OUT_MIN, FAN_OUT_MAX),
    default=FAN_OUT,
    show_default=True,
    help="Summaries that one more covers.",
)
@click.option(
    "--leaf-tokens",
    type=click.IntRange(LEAF_TOKENS_MIN, LEAF_TOKENS_MAX),
    default=LEAF_TOKENS,
    show_default=True,
    help="That the finest cover, about.",
)
@limit_option(SUMMARIES_MAX)
@actor_option
@json_option
@click.pass_context
def summarize(
    ctx: click.Context, session: str, fan_out: int, leaf_tokens: int, limit: int, actor: str | None, as_json: bool
) -> None:
    """Bring a session's summaries up to date, as events of their own. No model is used: sentences are picked, none reworded.

    Contexts are made of them. Nothing that they stand for is changed or removed, and what is summarized costs nothing again.
    """
    with opened(ctx) as store:
        found = locate_session(store, session)
        with progress_bar("summarizing events", found.size()) as bar:
            written = found.summarize(
                fan_out=fan_out,
                leaf_tokens=leaf_tokens,
                limit=limit,
                actor=actor,
                progress=lambda done, _: bar.update(bar.task_ids[0], completed=done),
            )
        roots = found.outline()
    if as_json:
        say_json(
            {
                "written": len(written),
                "events": [event.position for event in written],
                "covered": roots[-1].stop if roots else 0,
            }
        )
        return
    covered = (
        f"events 0 to {roots[-1].stop - 1} are summarized"
        if roots
        else "there is too little yet that could be summarized"
    )
    count = len(written)
    say(f"{count} {'summary' if count == 1 else 'summaries'} written; {covered}: everlog outline {visible(session)}")


@everlog.command(
    epilog="Examples:  everlog outline run-42   |   everlog outline run-42 --level 0   |   everlog outline run-42@500 --json"
)
@address_argument()
@click.option(
    "--level", type=click.IntRange(0, 32), help="Those of one level; 0 are the finest. Default: the coarsest."
)
@limit_option(50)
@click.option("--full", is_flag=True, help="Print their texts whole.")
@json_option
@click.pass_context
def outline(ctx: click.Context, address: str, level: int | None, limit: int, full: bool, as_json: bool) -> None:
    """Show a session's summaries, oldest first: together they cover it up to where it was summarized last."""
    with opened(ctx) as store:
        _, line, place = locate(store, address)
        found = line.outline(level, at="end" if place is None else place)
    _say_summaries(found[:limit], full=full, as_json=as_json)
    if len(found) > limit:
        note(f"{len(found) - limit} more: -n {len(found)}")
    if not found and not as_json:
        note("there are no summaries here: everlog summarize")


@everlog.command(epilog="Examples:  everlog expand run-42@811   |   everlog expand run-42@ev_4f…_811 --json")
@address_argument()
@limit_option(100)
@click.option("--full", is_flag=True, help="Print summaries whole.")
@json_option
@click.pass_context
def expand(ctx: click.Context, address: str, limit: int, full: bool, as_json: bool) -> None:
    """Show what a summary stands for: the address is that of its event, as outline prints it."""
    with opened(ctx) as store:
        _, line, place = locate(store, address)
        if place is None:
            raise InvalidPlaceError(
                f"{address} names no summary; nothing was read; give SESSION@POSITION, as outline prints it"
            )
        found: Sequence[Summary | Event] = line.expand(
            int(place) if isinstance(place, str) and place.isdecimal() else place
        )
    for each in found[:limit]:
        if isinstance(each, Summary):
            _say_summaries([each], full=full, as_json=as_json)
        else:
            say_json(each.to_dict()) if as_json else say(event_line(each))
    if len(found) > limit:
        note(f"{len(found) - limit} more: -n {len(found)}")


def _say_summaries(found: Sequence[Summary], *, full: bool, as_json: bool) -> None:
    for each in found:
        if as_json:
            say_json({name: getattr(each, name) for name in each.__struct_fields__})
            continue
        place = click.style(f"@{each.position:<7}", dim=True)
        what = f"level {each.level}  events {each.start}–{each.stop - 1}  {each.covered:,} → {each.tokens:,} tokens  {visible(each.method)}"
        say(f"{place} {what}")
        content = each.content if each.content is not None else "(erased)"
        lines = content.splitlines()
        for text in lines if full else lines[:3]:
            say(f"          {visible(text) if full else shorten(visible(text[:400]))}")
        if not full and len(lines) > 3:
            say(click.style(f"          … {len(lines) - 3} more lines: --full", dim=True))


# --- contexts ------------------------------------------------------------------------------------
@everlog.group(epilog="Examples:  everlog context build run-42 -b 20000   |   everlog context saw run-42@118")
def context() -> None:
    """Make a context for a model's window, and see what a model was given.

    \b
    everlog context build SESSION        the messages, as a provider takes them
    everlog context explain SESSION      what would be in and what not, and why
    everlog context saw SESSION@EVENT    exactly what a recorded call was given
    everlog context diff SESSION@A @B    how two recorded calls differ
    """


def _choices(function: Any) -> Any:
    for option in (
        click.option("--query", metavar="QUERY", help="Recall events that meet it: everlog help queries."),
        click.option("--pin", "pins", multiple=True, metavar="PLACE|QUERY", help="Always in; may be given again."),
        click.option(
            "--format", "shape", type=click.Choice(FORMATS), default="anthropic", show_default=True, help="Whose API."
        ),
        click.option(
            "-b",
            "--budget",
            type=click.IntRange(1, BUDGET_MAX),
            default=8_000,
            show_default=True,
            help="Tokens at most.",
        ),
        address_argument(),
    ):
        function = option(function)
    return function


def _made(
    ctx: click.Context, address: str, budget: int, shape: Format, pins: tuple[str, ...], query: str | None
) -> Context:
    with opened(ctx) as store:
        _, line, place = locate(store, address)
        return line.context(
            budget,
            at="end" if place is None else place,
            pins=[int(pin) if pin.lstrip("-").isdecimal() else pin for pin in pins],
            query=query,
            format=shape,
        )


@context.command(
    epilog="Examples:  everlog context build run-42 -b 20000   |   everlog context build run-42@500 --format openai_chat   |   "
    "everlog context build run-42 --pin type:decision --query 'deploy key'"
)
@_choices
@json_option
@click.pass_context
def build(
    ctx: click.Context,
    address: str,
    budget: int,
    shape: Format,
    pins: tuple[str, ...],
    query: str | None,
    as_json: bool,
) -> None:
    """Print the messages for a model's window, as JSON that a provider's API takes. --json adds the manifest."""
    made = _made(ctx, address, budget, shape, pins, query)
    if as_json:
        say_json({"payload": made.payload, "tokens": made.tokens, "manifest": made.manifest.to_dict()})
    else:
        say(visible_json(made.payload))
    note(_said(made.manifest))


@context.command(
    epilog="Examples:  everlog context explain run-42   |   everlog context explain run-42 -b 2000 --pin 12"
)
@_choices
@json_option
@click.pass_context
def explain(
    ctx: click.Context,
    address: str,
    budget: int,
    shape: Format,
    pins: tuple[str, ...],
    query: str | None,
    as_json: bool,
) -> None:
    """Show what would be in a context and what not, and why."""
    _say_manifest(_made(ctx, address, budget, shape, pins, query).manifest, as_json=as_json)


@context.command(epilog="Examples:  everlog context saw run-42@118   |   everlog context saw run-42@118 --manifest")
@address_argument()
@click.option("--manifest", "only_manifest", is_flag=True, help="What was in and what was not, and why.")
@json_option
@click.pass_context
def saw(ctx: click.Context, address: str, only_manifest: bool, as_json: bool) -> None:
    """Print exactly what a recorded call was given. The address names its event, or one that the call led to."""
    with opened(ctx) as store:
        _, line, place = locate(store, address)
        found = line.saw("-1" if place is None else place)
    if only_manifest:
        if found.manifest is None:
            raise click.UsageError(
                "this call was recorded at a provider's client, without a manifest; leave out --manifest"
            )
        _say_manifest(found.manifest, as_json=as_json)
    elif as_json:
        sys.stdout.write(found.encoded.decode() + "\n")
    else:
        say(visible_json(found.payload))
    note(
        f"call at {found.request.position}, {'as it was sent' if found.manifest is None else _said(found.manifest)}"
        if found.exact
        else f"call at {found.request.position}: not byte for byte what was sent, since part of it is gone from the log"
    )


@context.command("diff", epilog="Examples:  everlog context diff run-42@118 run-42@131")
@address_argument("one")
@address_argument("other")
@json_option
@click.pass_context
def diff_calls(ctx: click.Context, one: str, other: str, as_json: bool) -> None:
    """Compare what two recorded calls of a session were given."""
    with opened(ctx) as store:
        (session, line, first), (same, _, second) = locate(store, one), locate(store, other)
        if session.id != same.id or first is None or second is None:
            raise click.UsageError("name two calls of one session: SESSION@A SESSION@B")
        found = line.context_diff(first, second)
    if as_json:
        say_json(found)
        return
    shared = 100 * found.same_bytes // max(found.bytes[0], 1)
    say(
        f"{found.tokens[0]:,} and {found.tokens[1]:,} tokens; the same bytes at the front: {found.same_bytes:,} ({shared} % of the first)"
    )
    for sign, items in (("-", found.removed), ("+", found.added)):
        for item in items[:_ITEMS_MAX]:
            say(f"{sign} {_item(item)}")
        if len(items) > _ITEMS_MAX:
            note(f"{len(items) - _ITEMS_MAX} more: --json")


def _said(manifest: Manifest) -> str:
    counts = Counter(item.why for item in manifest.items)
    parts = ", ".join(f"{count} {why}" for why, count in counts.items())
    how = {"counter": "counted", "usage": "estimated, by the provider's usage", "estimate": "estimated"}[
        manifest.counted
    ]
    return f"{manifest.tokens:,} of {manifest.budget:,} tokens ({how}): {parts or 'nothing'}"


def _say_manifest(manifest: Manifest, *, as_json: bool) -> None:
    if as_json:
        say_json(manifest.to_dict())
        return
    say(_said(manifest))
    for item in manifest.items[:_ITEMS_MAX]:
        say(f"+ {_item(item)}")
    for left in manifest.left_out[:_ITEMS_MAX]:
        say(f"- {left.why:<10} {_range(left.start, left.stop)}")
    more = max(len(manifest.items) - _ITEMS_MAX, 0) + max(len(manifest.left_out) - _ITEMS_MAX, 0)
    if more:
        note(f"{more} more: --json")


def _item(item: Item) -> str:
    of = f"  by {visible(str(item.event))}" if item.event is not None and item.why in {"summary", "pinned"} else ""
    return f"{item.why:<10} {_range(item.start, item.stop)}  {item.tokens:,} tokens{of}" + (
        " (clipped)" if item.clipped is not None else ""
    )


def _range(start: int, stop: int) -> str:
    return f"event {start}" if stop == start + 1 else f"events {start}–{stop - 1}"
