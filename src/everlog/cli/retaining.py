"""Commands about retention: retain set, show, run, remove."""

from __future__ import annotations

from threading import Event as Flag
from typing import Any

import click

from everlog.cli.erasing import needed, propose_option, say_proposal
from everlog.cli.main import actor_option, confirm, everlog, json_option, opened, say_error
from everlog.cli.output import advance, counted, note, progress_bar, say, say_json, shorten, size_of, visible
from everlog.cli.storing import age_option
from everlog.core.position import format_address, format_micros
from everlog.core.retention import ACTING, ACTIONS, Action, Policy
from everlog.errors import EverlogError
from everlog.retaining import Work
from everlog.steps import seconds_of
from everlog.store import Store

_SHOWN = 10  # sessions of one policy
_EVERY_SECONDS = (1.0, 366 * 86_400.0)
_DONE = {"erase": "erased", "archive": "archived"}
_OF = {
    "keep": "kept from policies",
    "hold": "held, also from erase and delete",
    "approve": "of which nobody destroys anything alone",
}


@everlog.group(
    epilog="Examples:  everlog retain set u7 --query label.user:u7 --action erase --older-than 90d   |   everlog retain show   |   "
    "everlog retain run"
)
def retain() -> None:
    """Keep events for as long as policies say: by label and age, shown before anything happens, recorded.

    \b
    everlog retain set NAME …     archive or erase what is older, keep for ever, or hold
    everlog retain show           what the policies are, and what they would do now
    everlog retain run            do it; with --every again and again
    everlog retain remove NAME    remove a policy, and release what it held

    The policies are the session retention/policies: `everlog log retention/policies` lists every change and every run.
    """


@retain.command(
    "set",
    epilog="Examples:  everlog retain set u7 --query label.user:u7 --action erase --older-than 90d --reason 'privacy notice 4.2'   |   "
    "everlog retain set cold --query 'session:*' --action archive --older-than 180d --to s3://bucket/everlog   |   "
    "everlog retain set case-7 --query 'session:run-4*' --action hold --reason 'asked for by the court'",
)
@click.argument("name")
@click.option(
    "--query", required=True, metavar="QUERY", help="Which sessions: label.user:u7, session:run-*; session:* for all."
)
@click.option(
    "--action",
    type=click.Choice(ACTIONS),
    required=True,
    help="Erase bodies, archive them, keep sessions from both, hold them from everybody, or have two persons approve.",
)
@click.option("--older-than", metavar="TIME", help="To erase or archive: events recorded longer ago: 90d, 12h, 0.")
@click.option("--to", "url", metavar="URL|FOLDER", help="To archive: s3://bucket/prefix, gs://…, az://…, or a folder.")
@click.option(
    "--types",
    multiple=True,
    metavar="TYPE",
    help="To erase: only events of these types, as in user.*; may be given again. Default: all but what a session needs to wake.",
)
@click.option("--over", type=click.IntRange(min=0), help="To approve: erasing more events than this. Default: 0.")
@click.option("--within", metavar="TIME", help="To approve: a proposal lapses after this. Default: 7d.")
@click.option("--reason", help="Recorded, and shown to whoever meets the policy.")
@actor_option
@json_option
@click.pass_context
def set_(
    ctx: click.Context,
    name: str,
    query: str,
    action: Action,
    older_than: str | None,
    url: str | None,
    types: tuple[str, ...],
    over: int | None,
    within: str | None,
    **given: Any,
) -> None:
    """Make a policy, or change it as a whole. Nothing is erased or archived before `everlog retain run`.

    Without --types, what is erased is all but session.*, lease.*, step.*, wait.* and checkpoint: the session still wakes, and its
    state says that it is incomplete. Summaries of what is erased go with it, whatever the types.
    """
    as_json = given.pop("as_json")
    with opened(ctx) as store:
        age = None if older_than is None else age_option(older_than)
        policy = store.retention.set(
            name, action=action, query=query, older_than=age, to=url, types=types, over=over, within=within, **given
        )
    if as_json:
        say_json({"name": policy.name, **policy.members()})
        return
    say(_said(policy))
    note(
        "nothing happens before `everlog retain run`; `everlog retain show` says what would"
        if action in ACTING
        else "it counts from now on"
    )


def _said(policy: Policy) -> str:
    """Give what a policy says as one line."""
    age = "" if policy.older_than is None else f" what is older than {policy.older_than}"
    approving = "" if policy.over is None else f" what erases more than {policy.over:,}, within {policy.within}"
    types = f" of types {', '.join(policy.types)}" if policy.types else ""
    to = "" if policy.to is None else f" to {visible(policy.to)}"
    reason = "" if policy.reason is None else f"  ({shorten(visible(policy.reason))})"
    return f"{policy.name}: {policy.action}{age}{approving}{types}, of {shorten(visible(policy.query))}{to}{reason}"


@retain.command(epilog="Examples:  everlog retain show   |   everlog retain show --json")
@json_option
@click.pass_context
def show(ctx: click.Context, as_json: bool) -> None:
    """Show the policies, what they would do now, and what they would spare and why. Changes nothing."""
    with opened(ctx) as store, progress_bar("looking for what is due", None) as bar:
        plan = store.retention.plan(progress=advance(bar))
    if as_json:
        say_json(plan)
        return
    if not plan.policies:
        say("there are no retention policies; make one: everlog retain set NAME --query … --action …")
    for policy, work in zip(plan.policies, plan.work, strict=True):
        say(_said(policy))
        _say_work(work, done=False)


def _say_work(work: Work, *, done: bool) -> None:
    """Say what a policy did or would do, bounded."""
    if work.action not in ACTING:
        say(f"  {counted(work.sessions, 'session')} {_OF[work.action]}")
        return
    verb = _DONE[work.action] if done else f"to {work.action}"
    if work.events:
        size = f", {size_of(work.bytes)}" if work.bytes else ""
        say(f"  {counted(work.events, 'event')} of {counted(work.sessions, 'session')} {verb}{size}{_recorded(work)}")
        _say_sessions([(each.session, each.events, "") for each in work.due], work.sessions)
    else:
        say(f"  nothing {verb}")
    if work.spared_sessions:
        say(f"  {counted(work.spared_events, 'event')} of {counted(work.spared_sessions, 'session')} spared")
        spared = [(each.session, each.events, f"  for {each.by}{_shared(each.shared_with)}") for each in work.spared]
        _say_sessions(spared, work.spared_sessions)


def _recorded(work: Work) -> str:
    if work.first is None or work.last is None:
        return ""
    days = [format_micros(micros)[:10] for micros in (work.first, work.last)]
    return f", recorded {days[0]}" if days[0] == days[1] else f", recorded {days[0]} to {days[1]}"


def _shared(session: str | None) -> str:
    return "" if session is None else f", shared with {shorten(visible(format_address(session)), 60)}"


def _say_sessions(sessions: list[tuple[str, int, str]], total: int) -> None:
    for name, events, more in sessions[:_SHOWN]:
        say(f"    {shorten(visible(format_address(name)), 60)}  {counted(events, 'event')}{more}")
    if total > _SHOWN:
        say(f"    … and {total - _SHOWN:,} more: --json names {min(total, len(sessions))}")


@retain.command(
    epilog="Examples:  everlog retain run --dry-run   |   everlog retain run --yes   |   everlog retain run --yes --every 1d"
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--every", metavar="TIME", help="Run again and again, so far apart (15m, 1h, 1d), until Ctrl-C.")
@json_option
@click.pass_context
def run(ctx: click.Context, dry_run: bool, yes: bool, every: str | None, as_json: bool) -> None:
    """Do what the policies say now: erase, then archive. Recorded in the session retention/policies, erasures in the ledger too.

    Asks before it erases, with --every only at its beginning. Stop it at any time; the next run goes on where it stopped. With --every
    a run that fails is told of, and the next one tries again.
    """
    if every is not None and dry_run:
        raise click.UsageError("--dry-run looks once: leave out --every")
    seconds = _seconds_between(every)
    with opened(ctx) as store:
        if dry_run or not yes:
            with progress_bar("looking for what is due", None) as bar:
                plan = store.retention.plan(progress=advance(bar))
            if dry_run:
                _say_all(list(plan.work), as_json=as_json, done=False)
                return
            erasing = [work for work in plan.work if work.action == "erase" and work.events]
            if erasing or seconds is not None:
                if not as_json:
                    _say_all(erasing, as_json=False, done=False)
                events = sum(work.events for work in erasing)
                again = "" if seconds is None else f" now, and what will be due every {every}"
                confirm(f"Erase {counted(events, 'event')}{again}?", yes=False)
        if seconds is None:
            _run_once(store, as_json=as_json)
            return
    while True:
        try:
            with opened(ctx) as store:
                _run_once(store, as_json=as_json)
        except EverlogError as error:
            say_error(error)
            note(f"this run failed; the next one is in {every}")
        else:
            note(f"the next run is in {every}; Ctrl-C to stop")
        assert seconds is not None, "it was given"
        Flag().wait(seconds)


def _seconds_between(every: str | None) -> float | None:
    if every is None:
        return None
    seconds = seconds_of(every, what="--every")
    low, high = _EVERY_SECONDS
    if seconds is None or not low <= seconds <= high:
        raise click.UsageError("--every takes a second to a year: 15m, 1h, 1d")
    return seconds


def _run_once(store: Store, *, as_json: bool) -> None:
    with progress_bar("erasing and archiving", None) as bar:
        done = store.retention.apply(progress=advance(bar))
    _say_all(done, as_json=as_json, done=True)
    if not done:
        note("no policy erases or archives anything; nothing was done (everlog retain set)")


def _say_all(found: list[Work], *, as_json: bool, done: bool) -> None:
    for work in found:
        if as_json:
            say_json(work)
        else:
            say(work.policy)
            _say_work(work, done=done)


@retain.command(epilog="Examples:  everlog retain remove case-7 --reason 'the case is closed'")
@click.argument("name")
@click.option("--reason", required=True, help="Recorded, for whoever asks later.")
@propose_option
@actor_option
@json_option
@click.pass_context
def remove(ctx: click.Context, name: str, reason: str, propose: bool, actor: str | None, as_json: bool) -> None:
    """Remove a policy. What it kept or held is kept or held no more; what it erased stays erased."""
    with opened(ctx) as store:
        if propose:
            say_proposal(store.retention.propose_change(name, reason=reason, actor=needed(actor)), as_json=as_json)
            return
        store.retention.remove(name, reason=reason, actor=actor)
    if as_json:
        say_json({"name": name, "removed": True})
    else:
        say(f"{visible(name)} is removed")
