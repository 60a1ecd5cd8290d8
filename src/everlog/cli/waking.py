"""Commands for sessions at work: ps, wake, lease, signal."""

from __future__ import annotations

import os
import signal as signals
import socket
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import click

from everlog.cli.in_flight import DECISIONS, FIRST, in_flight_members, say_in_flight
from everlog.cli.main import actor_option, address_argument, everlog, json_option, limit_option, locate_session, opened
from everlog.cli.output import advance, ago, event_line, note, progress_bar, say, say_json, shorten, visible
from everlog.cli.writing import read_json
from everlog.core.limits import LEASE_SECONDS_MAX, LEASE_SECONDS_MIN, SESSIONS_PAGE_MAX
from everlog.core.position import format_address, format_micros, parse_event_id
from everlog.core.query import Query
from everlog.errors import FencedError, NotFoundError
from everlog.journal import DECISION
from everlog.leases import Lease, LeaseInfo
from everlog.pending import Pending
from everlog.session import Session, SessionInfo
from everlog.storage import BranchRow, SessionFilter, SessionRow, Storage
from everlog.store import Store

_NAMES_CHARACTERS = 100
_LOOKED_AT = 200  # sessions that changed last: a second or two where none of them has a snapshot
_TTL_SECONDS = 30.0
_STOPS = (signals.SIGINT, signals.SIGTERM, signals.SIGHUP)


def default_holder() -> str:
    """Give who works, where nobody says: this process on this machine."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}"


# --- ps ---
class _AtWork(NamedTuple):
    """A session at work. made_for: the address of the event that it was made for."""

    info: SessionInfo
    found: Pending
    made_for: str | None


class _Look:
    """A look at a store's sessions. looked: at how many. partial: whether there are others."""

    def __init__(self, store: Store, *, every: bool, progress: Callable[[int], None]) -> None:
        self._store = store
        self._every = every
        self._progress = progress
        self.looked = 0
        self.partial = False

    def at_work(self) -> Iterator[_AtWork]:
        """Give the sessions at work: those with a lease, then those with tools, steps or waits in flight."""
        leases = dict.fromkeys(lease.session for lease in self._store.leases(limit=SESSIONS_PAGE_MAX))
        for name in leases:
            yield from self._look_at(name, held=True)
        for name, held in self._listed():
            if name not in leases:
                yield from self._look_at(name, held=held)

    def _look_at(self, name: str, *, held: bool) -> Iterator[_AtWork]:
        self.looked += 1
        self._progress(self.looked)
        try:
            session = self._store.session(name)
            found = session.in_flight()
            if held or found.tools or found.steps or found.waits:
                info = session.info()
                yield _AtWork(info, found, _made_for(self._store.storage, info.parent))
        except NotFoundError:
            return  # deleted meanwhile

    def _listed(self) -> Iterator[tuple[str, bool]]:
        """Give the sessions that changed last, or every one, in an order in which none moves while it is gone through."""
        storage = self._store.storage
        order, last = "-created" if self._every else "-updated", None
        size = SESSIONS_PAGE_MAX if self._every else _LOOKED_AT
        while True:
            page = storage.sessions(_filter(order, size, last))
            now = storage.ticks()
            yield from ((each.session.name, each.lease is not None and each.lease.lives(now)) for each in page)
            if len(page) < size:
                return
            last = (page[-1].session, page[-1].branch)
            if not self._every:
                self.partial = bool(storage.sessions(_filter(order, 1, last)))
                return


def _filter(order: str, limit: int, last: tuple[SessionRow, BranchRow] | None) -> SessionFilter:
    return SessionFilter(Query(()), order=order, limit=limit, after=last)


def _made_for(storage: Storage, parent: str | None) -> str | None:
    place = None if parent is None else parse_event_id(parent)
    branch = None if place is None else storage.branch_by_id(place.writer)
    if place is None or branch is None:
        return parent
    try:
        return format_address(storage.session_of(branch.key).name, None, place.position)
    except NotFoundError:
        return parent


@everlog.command(epilog="Examples:  everlog ps   |   everlog ps --all   |   everlog ps -n 500 --json")
@limit_option(50)
@click.option("--all", "every", is_flag=True, help="Look at every session, not at those alone that changed last.")
@json_option
@click.pass_context
def ps(ctx: click.Context, limit: int, every: bool, as_json: bool) -> None:
    """List sessions at work: those with a lease, and of those that changed last those with tools, steps or waits in flight."""
    with opened(ctx) as store:
        with progress_bar("looking at sessions", None) as progress:
            look = _Look(store, every=every, progress=advance(progress))
            rows = list(islice(look.at_work(), limit + 1))
        now = store.storage.now()
    for row in rows[:limit]:
        say_json(_ps_members(row)) if as_json else say(_ps_line(row, now))
    if as_json:
        return
    where = f"the {_LOOKED_AT:,} sessions that changed last"
    if len(rows) > limit:
        note(f"the first {limit}; more: -n {limit * 4}")
    elif look.partial:
        note(f"{f'looked at {where}' if rows else f'none of {where}'}; --all looks at every one")
    elif not rows:
        note("no session is at work")


def _ps_members(row: _AtWork) -> dict[str, Any]:
    lease = None if row.info.lease is None else _lease_members(row.info.lease)
    members = {"session": row.info.id, "size": row.found.size, "updated": format_micros(row.info.updated_at)}
    return members | {"for": row.made_for, "lease": lease, "pending": row.found.to_dict()}


def _lease_members(lease: LeaseInfo) -> dict[str, Any]:
    return {"holder": lease.holder, "token": lease.token, "until": format_micros(lease.until), "ttl": lease.ttl}


def _ps_line(row: _AtWork, now: int) -> str:
    info, found = row.info, row.found
    held = "-" if info.lease is None else f"{visible(info.lease.holder)} ({ago(info.lease.until - now)} left)"
    runs = sorted({step.run if step.kind != "run" else step.name for step in found.steps})
    parts = [
        f"{visible(format_address(info.id)):<30}",
        f"{held:<30}",
        f"{found.size:>8} events",
        f"{ago(now - info.updated_at):>7} ago",
    ]
    if row.made_for is not None:
        parts.append(f"for {visible(row.made_for)}")
    for what, names in (
        ("runs", runs),
        ("steps", [step.name for step in found.steps if step.kind == "step"]),
        ("waits for", [wait.name for wait in found.waits]),
    ):
        if names:
            parts.append(f"{what}: {shorten(', '.join(map(visible, names)), _NAMES_CHARACTERS)}")
    if found.tools:
        parts.append(f"tools: {len(found.tools)} open")
    return "  ".join(parts)


# --- wake ---
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
        if repair:
            _repair(store, session, holder or default_holder(), actor, as_json=as_json)
        elif as_json:
            say_json(in_flight_members(session, session.in_flight()))
        else:
            say_in_flight(session, session.in_flight(), store=ctx.obj)


def _repair(store: Store, session: Session, holder: str, actor: str | None, *, as_json: bool) -> None:
    if not session.conversation_in_flight().tools:
        note("every tool use has a result already; nothing was written")
        return
    with store.wake(session.id, holder=holder) as woken:
        events = woken.repair(actor=actor)
    for event in events if as_json else events[:FIRST]:
        say_json(event.to_dict()) if as_json else say(event_line(event))
    if not as_json and len(events) > FIRST:
        say(f"and {len(events) - FIRST:,} more; --json gives all")
    if not events:
        note("no tool use was closed: what closed them was erased since")


# --- lease ---
@everlog.command(
    epilog="Examples:  everlog lease run-42   |   everlog lease run-42 --hold --holder ann   |   everlog lease run-42 --json"
)
@address_argument()
@click.option(
    "--hold",
    is_flag=True,
    help="Take it and keep it until Ctrl-C. Everybody else, you in another shell too, appends inbox types only: user.*, "
    "system.message, signal, note.",
)
@click.option("--holder", help="With --hold: who takes it. Default: this machine and process.")
@click.option(
    "--ttl",
    type=click.FloatRange(LEASE_SECONDS_MIN, LEASE_SECONDS_MAX),
    help=f"With --hold: seconds it outlives a crash. Default: {_TTL_SECONDS:g}.",
)
@click.option(
    "--wait",
    "timeout",
    type=click.FloatRange(0, LEASE_SECONDS_MAX),
    help="With --hold: seconds to wait for the lease of another. Default: 0.",
)
@json_option
@click.pass_context
def lease(
    ctx: click.Context,
    address: str,
    hold: bool,
    holder: str | None,
    ttl: float | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Show who holds a session's lease; or hold it, so that no agent goes on meanwhile."""
    if not hold and (holder, ttl, timeout) != (None, None, None):
        raise click.UsageError("--holder, --ttl and --wait say how the lease is held: give --hold too")
    with opened(ctx) as store:
        session = locate_session(store, address)
        if hold:
            terms = (holder or default_holder(), _TTL_SECONDS if ttl is None else ttl, timeout or 0.0)
            _hold(session, *terms, as_json=as_json)
        else:
            _show_lease(session, as_json=as_json)


def _show_lease(session: Session, *, as_json: bool) -> None:
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


def _hold(session: Session, holder: str, ttl: float, timeout: float, *, as_json: bool) -> None:
    """Hold a lease until this process is told to end, by whatever signal; then give it back."""
    with _told_to_end() as told:
        try:
            held = session.lease_unless(lambda: bool(told), holder, ttl, timeout=timeout)
        except FencedError:
            if told:  # while it waited for another's
                raise KeyboardInterrupt from None
            raise
        if as_json:
            _say_event(session, held, "acquired")
        else:
            note(
                f"{visible(holder)} holds the lease of {visible(session.id)} (token {held.token}); Ctrl-C gives it back"
            )
        while held.alive and not told:
            session.storage.wait(session.storage.news(), 0.5)
        if held.lost is not None:
            raise held.lost
        held.release("done" if not told else f"{told[0].name} was received")
        if as_json:
            _say_event(session, held, "released")
        else:
            note("given back")


def _say_event(session: Session, held: Lease, what: str) -> None:
    event = session.last(f"lease.{what}", where={"data.token": held.token})
    if event is not None:
        say_json(event.to_dict())


@contextmanager
def _told_to_end() -> Generator[list[signals.Signals]]:
    """Give what notes the signals that ask this process to end, instead of ending it."""
    told: list[signals.Signals] = []
    before = {number: signals.getsignal(number) for number in _STOPS}
    heard = [number for number in _STOPS if before[number] is not signals.SIG_IGN]  # as nohup has it
    for number in heard:
        signals.signal(number, lambda found, _: told.append(signals.Signals(found)))
    try:
        yield told
    finally:
        for number in heard:
            signals.signal(number, before[number])


# --- signal ---
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
    """Send a signal to a run that waits for it, or will. DATA is JSON.

    To step:NAME it decides about a step that was started and did not finish: DATA is '"retry"', '"fail"', or
    '{"decision": "finished", "result": …}'.
    """
    value: Any = None if data is None else read_json(data, what="DATA")
    if name.startswith(DECISION) and not _decides(value):
        raise click.UsageError(
            f"a signal {visible(name)} decides about a step: DATA is '\"retry\"', '\"fail\"', or "
            '\'{"decision": "finished", "result": …}\'; nothing was sent'
        )
    with opened(ctx) as store:
        session = locate_session(store, address)
        waits = dict.fromkeys(wait.name for wait in session.in_flight().waits)
        event = session.signal(name, value, actor=actor, key=key)
    if as_json:
        say_json(event.to_dict())
        return
    say(event_line(event, address=format_address(event.session, None, event.position)))
    if name not in waits and not event.repeated:
        others = shorten(", ".join(map(visible, waits)), _NAMES_CHARACTERS)
        note(f"no wait {visible(name)!r} is open yet; {f'open: {others}; ' if waits else ''}the signal waits for one")


def _decides(value: Any) -> bool:
    decision = value.get("decision") if isinstance(value, dict) else value
    return isinstance(decision, str) and decision in DECISIONS
