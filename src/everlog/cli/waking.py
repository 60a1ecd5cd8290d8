"""Commands for sessions at work: ps, wake, lease, signal."""

from __future__ import annotations

import os
import socket
from typing import Any

import click

from everlog.cli.main import actor_option, address_argument, everlog, json_option, limit_option, locate_session, opened
from everlog.cli.output import compact, event_line, note, say, say_json, shorten, visible
from everlog.cli.writing import read_json
from everlog.core.position import format_address, format_micros
from everlog.leases import LeaseInfo
from everlog.pending import Pending
from everlog.session import Session

VALUE_CHARACTERS = 100
_SECOND = 1_000_000


def default_holder() -> str:
    """Give who works, where nobody says: this process on this machine."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}"


def ago(micros: int) -> str:
    """Give a length of time in words: 3 s, 12 min, 5 h, 3 d."""
    seconds = max(micros, 0) / _SECOND
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


@everlog.command(epilog="Examples:  everlog ps   |   everlog ps -n 500 --json")
@limit_option(50)
@json_option
@click.pass_context
def ps(ctx: click.Context, limit: int, as_json: bool) -> None:
    """List sessions at work: those with a lease, and of those that changed last those with steps or waits in flight."""
    with opened(ctx) as store:
        now = store.storage.now()
        leases = {lease.session: lease for lease in store.leases(limit=min(limit, 1_000))}
        names = dict.fromkeys(leases)
        names |= dict.fromkeys(info.id for info in store.sessions(limit=min(limit, 1_000)))
        shown = 0
        for name in names:
            session = store.session(name)
            found, lease = session.in_flight(), leases.get(name)
            if lease is None and not (found.steps or found.waits):
                continue
            shown += 1
            updated = session.info().updated_at
            if as_json:
                held = None if lease is None else _lease_members(lease)
                say_json({"session": name, "size": found.size, "updated": format_micros(updated), "lease": held}
                         | {"pending": found.to_dict()})  # fmt: skip
            else:
                say(_ps_line(name, found, lease, now=now, updated=updated))
        if not shown and not as_json:
            note("no session is at work")


def _ps_line(name: str, found: Pending, lease: LeaseInfo | None, *, now: int, updated: int) -> str:
    held = "-" if lease is None else f"{visible(lease.holder)} ({ago(lease.until - now)} left)"
    runs = sorted({step.run if step.kind != "run" else step.name for step in found.steps})
    steps = [step.name for step in found.steps if step.kind == "step"]
    parts = [
        f"{visible(format_address(name)):<30}",
        f"{held:<30}",
        f"{found.size:>8} events",
        f"{ago(now - updated):>7} ago",
    ]
    if runs:
        parts.append(f"runs: {', '.join(map(visible, runs))}")
    if steps:
        parts.append(f"steps: {shorten(', '.join(map(visible, steps)), VALUE_CHARACTERS)}")
    if found.waits:
        parts.append(f"waits for: {shorten(', '.join(visible(wait.name) for wait in found.waits), VALUE_CHARACTERS)}")
    return "  ".join(parts)


@everlog.command(
    epilog="Examples:  everlog wake run-42   |   everlog wake run-42 --repair   |   everlog wake run-42 --json"
)
@address_argument()
@click.option(
    "--repair", is_flag=True, help="Close tool uses without a result, so that every provider takes the conversation."
)
@click.option("--holder", help="Who takes the lease for that. Default: this machine and process.")
@actor_option
@json_option
@click.pass_context
def wake(ctx: click.Context, address: str, repair: bool, holder: str | None, actor: str | None, as_json: bool) -> None:
    """Show what was in flight when whoever worked on a session last stopped. Writes nothing, but with --repair."""
    with opened(ctx) as store:
        session = locate_session(store, address)
        found = session.in_flight()
        if not repair:
            _say_in_flight(session, found, as_json=as_json)
            return
        if not found.tools:
            note("every tool use has a result already; nothing was written")
            return
        with store.wake(session.id, holder=holder or default_holder()) as woken:
            events = woken.repair(actor=actor)
        for event in events:
            say_json(event.to_dict()) if as_json else say(event_line(event))


def _say_in_flight(session: Session, found: Pending, *, as_json: bool) -> None:
    lease = session.storage.lease(session.uuid)
    now, wall = session.storage.ticks(), session.storage.now()
    lives = lease is not None and lease.lives(now)
    checkpoint = session.last("checkpoint")
    if as_json:
        named = None if checkpoint is None else {"name": checkpoint.data["name"], "position": checkpoint.position}
        held = None if lease is None or not lives else {"holder": lease.holder, "token": lease.number,
                                                        "until": format_micros(wall + lease.left(now))}  # fmt: skip
        say_json({"session": session.id, "lease": held, "checkpoint": named} | found.to_dict())
        return
    say(f"{visible(format_address(session.id))}: {found.size} events")
    if lease is not None and lives:
        say(f"lease       {visible(lease.holder or '')}, for {ago(lease.left(now))} more (token {lease.number})")
    else:
        say("lease       nobody's")
    if checkpoint is not None and isinstance(checkpoint.data, dict):
        say(f"checkpoint  {visible(checkpoint.data['name'])} at {checkpoint.position}")
    for tool in found.tools:
        say(f"tool use    {visible(str(tool.name))} {visible(tool.id)} at {tool.position}: no result")
    for step in found.steps:
        state = "waits to be tried again" if step.retry_at is not None else "started and not finished"
        say(f"{step.kind:<11} {visible(step.name)} of run {visible(step.run)} at {step.position}: {state}")
    for wait in found.waits:
        until = "for ever" if wait.until is None else f"until {format_micros(wait.until)}"
        say(f"wait        {visible(wait.name)} at {wait.position}, {until}: everlog signal {visible(format_address(session.id))} "
            f"{visible(wait.name)} JSON")  # fmt: skip
    for position in found.messages:
        event = session.event(position)
        content = "" if not isinstance(event.data, dict) else event.data.get("content")
        text = content if isinstance(content, str) else compact(content)
        say(f"message     at {position}, not answered: {shorten(visible(text), VALUE_CHARACTERS)}")
    for signal in found.signals:
        say(f"signal      {visible(signal.name)} at {signal.position}, taken by no wait yet")
    if not found and not found.signals:
        note("nothing is in flight")


@everlog.command(
    epilog="Examples:  everlog lease run-42   |   everlog lease run-42 --hold --holder ann   |   everlog lease run-42 --json"
)
@address_argument()
@click.option("--hold", is_flag=True, help="Take it and keep it until Ctrl-C: others append inbox types only.")
@click.option("--holder", help="Who takes it. Default: this machine and process.")
@click.option(
    "--ttl", type=click.FloatRange(1, 86_400), default=30.0, show_default=True, help="Seconds it outlives a crash."
)
@click.option(
    "--wait", "timeout", type=click.FloatRange(0), default=0.0, help="Seconds to wait for the lease of another."
)
@json_option
@click.pass_context
def lease(
    ctx: click.Context, address: str, hold: bool, holder: str | None, ttl: float, timeout: float, as_json: bool
) -> None:
    """Show who holds a session's lease; or hold it, so that no agent goes on meanwhile."""
    with opened(ctx) as store:
        session = locate_session(store, address)
        if hold:
            _hold(session, holder or default_holder(), ttl, timeout)
            return
        row = session.storage.lease(session.uuid)
        now, wall = session.storage.ticks(), session.storage.now()
    lives = row is not None and row.lives(now)
    if as_json:
        held = {"holder": row.holder, "until": format_micros(wall + row.left(now))} if row is not None and lives else {}
        say_json({"session": session.id, "token": 0 if row is None else row.number, "lives": lives, **held})
    elif row is None or not lives:
        say(f"nobody holds the lease of {visible(format_address(session.id))}")
    else:
        say(f"{visible(row.holder or '')} holds the lease of {visible(format_address(session.id))} for {ago(row.left(now))} more "
            f"(token {row.number})")  # fmt: skip


def _hold(session: Session, holder: str, ttl: float, timeout: float) -> None:
    with session.lease(holder, ttl, timeout=timeout) as held:
        note(f"{visible(holder)} holds the lease of {visible(session.id)} (token {held.token}); Ctrl-C gives it back")
        try:
            while held.alive:
                session.storage.wait(session.storage.news(), 0.5)
        except KeyboardInterrupt:
            note("given back")
            return
    if held.lost is not None:
        raise held.lost


@everlog.command(
    epilog="Examples:  everlog signal run-42 approval '{\"ok\": true}'   |   everlog signal run-42 step:pay '\"retry\"'"
)
@address_argument()
@click.argument("name")
@click.argument("data", required=False)
@click.option("--key", help="An idempotency key, where it may be sent twice.")
@actor_option
@json_option
@click.pass_context
def signal(
    ctx: click.Context, address: str, name: str, data: str | None, key: str | None, actor: str | None, as_json: bool
) -> None:
    """Send a signal to a run that waits for it, or will. DATA is JSON."""
    value: Any = None if data is None else read_json(data, what="DATA")
    with opened(ctx) as store:
        event = locate_session(store, address).signal(name, value, actor=actor, key=key)
    if as_json:
        say_json(event.to_dict())
    else:
        say(event_line(event, address=format_address(event.session, None, event.position)))


def _lease_members(lease: LeaseInfo) -> dict[str, Any]:
    return {"holder": lease.holder, "token": lease.token, "until": format_micros(lease.until), "ttl": lease.ttl}
