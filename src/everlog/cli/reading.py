"""Commands that read: ls, log, show, tree, search."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from everlog.cli import tree as trees
from everlog.cli.main import address_argument, everlog, json_option, limit_option, locate, opened
from everlog.cli.output import (
    advance_of,
    compact,
    event_line,
    event_page,
    highlighted,
    note,
    progress_bar,
    say,
    say_json,
    shorten,
    visible,
)
from everlog.core.event import Event
from everlog.core.position import format_address, format_micros
from everlog.core.query import compile_query
from everlog.core.query_text import parse
from everlog.errors import InvalidPlaceError
from everlog.search import ORDERS as ORDERS_FOUND
from everlog.search import Order
from everlog.session import Branch, Session
from everlog.store import ORDERS, Store

_BRANCHES_SHOWN = 20
_ADDRESS_CHARACTERS = (
    72  # of a column of them: the integrations' names hold a UUID or two; longer ones push the rest of their line
)


@everlog.command(
    epilog="Examples:  everlog ls label.source:claude-code since:2d   |   everlog ls --prefix run- --order id --json"
)
@click.argument("query", nargs=-1)
@click.option("--prefix", default="", help="Only ids that begin so.")
@click.option("--order", type=click.Choice(ORDERS), default="-updated", show_default=True)
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@click.option("--after", metavar="SESSION", help="Go on after this session, in the same order.")
@json_option
@click.pass_context
def ls(
    ctx: click.Context, query: tuple[str, ...], prefix: str, order: str, limit: int, after: str | None, as_json: bool
) -> None:
    """List sessions: label.NAME:VALUE, since:2d, words in id and title. `everlog help queries` has more."""
    with opened(ctx) as store:
        last = None if after is None else locate(store, after)[0].info()
        found = store.sessions(" ".join(query), prefix=prefix, order=order, limit=limit, after=last)
    addresses = [visible(format_address(info.id)) for info in found]
    wide = min(max(map(len, addresses), default=0), _ADDRESS_CHARACTERS)
    for info, address in zip(found, addresses, strict=True):
        if as_json:
            members = msgspec.to_builtins(info)
            say_json(members | {name: format_micros(members[name]) for name in ("created_at", "updated_at")})
        else:
            title = shorten(visible(info.title or ""), 60)
            say(f"{address:<{wide}} {info.size:>7}  {format_micros(info.updated_at)[:19]}  {title}")
    if len(found) == limit and not as_json:
        note(f"the first {limit}; more: --after {visible(format_address(found[-1].id))}")


@everlog.command(
    epilog="Examples:  everlog log run-42 -n 50   |   everlog log run-42 type:agent.tool_* outcome:error since:2h   |   "
    "everlog log run-42 --follow"
)
@address_argument()
@click.argument("query", nargs=-1)
@limit_option(40)
@click.option("--after", type=int, default=None, help="Begin after this position; else the newest are shown.")
@click.option("-f", "--follow", is_flag=True, help="Then wait for more, until Ctrl-C.")
@json_option
@click.pass_context
def log(
    ctx: click.Context,
    address: str,
    query: tuple[str, ...],
    limit: int,
    after: int | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Show a session's events, oldest first: the newest of them, up to a place, that meet a query.

    ADDRESS is SESSION[~BRANCH][@PLACE]; a place shows what came before it.
    """
    with opened(ctx) as store:
        session, line, place = locate(store, address)
        if follow and (place is not None or line is not session):
            raise click.UsageError("--follow goes on at the end of a session: give it without branch and place")
        stop: Any = "end" if place is None else place
        text = " ".join(query)
        last = line.cut(stop)
        if after is None:
            events = list(line.events(text, stop=last, reverse=True, limit=limit + 1))
            more = _earlier(events, limit, text)
            events = events[:limit][::-1]
        else:
            events = []
            more = None
            for event in line.events(text, start=min(after + 1, last), stop=last, limit=limit + 1):
                if len(events) == limit:
                    left = "more" if text else f"{last - event.position} more"
                    more = f"{left}: --after {events[-1].position}"
                else:
                    events.append(event)
        for event in events:
            _say_event(event, as_json=as_json)
        if more is not None and not as_json:
            note(more)
        if follow:
            _follow(session, text, last, as_json=as_json)


def _earlier(events: list[Event], limit: int, query: str) -> str | None:
    """Say how to see what came before the newest `limit` events."""
    if len(events) <= limit:
        return None
    count = "" if query else f"{events[limit].position + 1} "
    return f"{count}earlier: -n {limit * 4}, or from the start: --after -1"


def _follow(session: Session, query: str, start: int, *, as_json: bool) -> None:
    meets = compile_query(parse(query, now=session.storage.now()))
    for event in session.follow(start=start):
        if meets(event):
            _say_event(event, as_json=as_json)
            sys.stdout.flush()


def _say_event(event: Event, *, as_json: bool, address: str | None = None) -> None:
    if as_json:
        say_json(event.to_dict())
    else:
        say(event_line(event, address=address))


@everlog.command(
    epilog="Examples:  everlog show run-42@17   |   everlog show run-42@-1 --json   |   "
    "everlog show run-42@3 --attachment chart.png > chart.png"
)
@address_argument()
@click.option("--attachment", metavar="NAME", help="Write this attachment's bytes to standard output instead.")
@click.option("--full", is_flag=True, help="Print long texts whole.")
@json_option
@click.pass_context
def show(ctx: click.Context, address: str, attachment: str | None, full: bool, as_json: bool) -> None:
    """Show a session, or one event in full where ADDRESS has a place."""
    with opened(ctx) as store:
        session, line, place = locate(store, address)
        if place is None:
            _show_session(session, as_json=as_json)
            return
        event = line.event(place)
        if attachment is not None:
            sys.stdout.buffer.write(event.attachment(attachment))
            return
        if as_json:
            say_json(event.to_dict())
            return
        for text in event_page(event, full=full):
            say(text)


def _show_session(session: Session, *, as_json: bool) -> None:
    info = session.info()
    branches = [
        {"name": branch.name, "id": branch.id, "base": branch.base, "size": branch.head.size, "current": branch.current}
        for branch in session.branches()
    ]
    members = msgspec.to_builtins(info)
    members |= {name: format_micros(members[name]) for name in ("created_at", "updated_at")}
    if as_json:
        say_json(members | {"branches": branches})
        return
    for name, value in members.items():
        if value not in (None, {}, []):
            _say_member(name, visible(value if isinstance(value, str) else compact(value)))
    for branch in branches[:_BRANCHES_SHOWN]:
        mark = " ← current" if branch["current"] else ""
        _say_member(str(branch["name"]), f"[{branch['base']}, {branch['size']}){mark}")
    if len(branches) > _BRANCHES_SHOWN:
        note(f"{len(branches) - _BRANCHES_SHOWN} more branches: everlog tree {visible(format_address(session.id))}")


def _say_member(name: str, text: str) -> None:
    say(f"{click.style(f'{name:<12}', dim=True)}{text}")


@everlog.command(epilog="Example:  everlog tree run-42")
@address_argument()
@limit_option(200)
@json_option
@click.pass_context
def tree(ctx: click.Context, address: str, limit: int, as_json: bool) -> None:
    """Draw a session's branches, and the sessions forked from them."""
    with opened(ctx) as store:
        session, _, _ = locate(store, address)
        nodes = trees.family_of(store, session)
    lines = list(map(compact, trees.as_dicts(nodes)) if as_json else trees.draw(nodes))
    for text in lines if as_json else lines[:limit]:
        say(text)
    if len(lines) > limit and not as_json:
        note(f"{len(lines) - limit} more: -n {len(lines)}")


@everlog.command(
    epilog='Examples:  everlog search "constant time compare"   |   everlog search timeout type:agent.tool_result '
    "outcome:error session:run-* since:7d   |   everlog search timeout --session run-42 --order newest"
)
@click.argument("query", nargs=-1, required=True)
@click.option("--session", "address", metavar="ADDRESS", help="Search this session's line alone, what it shares too.")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many.")
@click.option("--order", type=click.Choice(ORDERS_FOUND), default="rank", show_default=True, help="What comes first.")
@click.option("--after", metavar="TOKEN", help="Go on where an earlier search ended.")
@json_option
@click.pass_context
def search(
    ctx: click.Context,
    query: tuple[str, ...],
    address: str | None,
    limit: int,
    order: Order,
    after: str | None,
    as_json: bool,
) -> None:
    """Find events of all sessions: words, "phrases" and key:value pairs; what fits best first.

    Words are looked for in what the events say. session:run-* and label.NAME:VALUE narrow the sessions.
    """
    with opened(ctx) as store, progress_bar("reading what is new", None) as progress:
        line = None if address is None else _line_of(store, address)
        find = (store if line is None else line).search
        page = find(" ".join(query), limit=limit, order=order, after=after, progress=advance_of(progress))
        while not page.hits and page.following is not None:  # what was looked at so far holds nothing
            page = find(" ".join(query), limit=limit, order=order, after=page.following)
        events = [hit.event for hit in page.hits]
        addresses = _addresses(store, events) if line is None else [_address_on(line, event) for event in events]
    for hit, shown in zip(page.hits, addresses, strict=True):
        if as_json:
            snippet = {"text": hit.snippet.text, "matches": hit.snippet.matches}
            say_json(hit.event.to_dict() | {"score": hit.score, "snippet": snippet})
        else:
            says = highlighted(hit.snippet) if hit.snippet.matches else None
            say(event_line(hit.event, address=shown, says=says))
    if not page.hits and not as_json:
        note("nothing was found")
    if page.following is not None:
        note(f"{len(page.hits)} so far; more: --after {page.following}")


def _line_of(store: Store, address: str) -> Session | Branch:
    _, line, place = locate(store, address)
    if place is not None:
        raise InvalidPlaceError(
            f"{address!r:.100} has a place, where a session or a branch of it is searched; leave it out"
        )
    return line


def _address_on(line: Session | Branch, event: Event) -> str:
    branch = line.name if isinstance(line, Branch) and not line.current else None
    return format_address(event.session, branch, event.position)


def _addresses(store: Store, events: list[Event]) -> list[str]:
    """Give the address of each event: with its branch where that is not on its session's current line."""
    lines: dict[str, tuple[Session, dict[str, Branch]]] = {}
    found: list[str] = []
    for event in events:
        if event.session not in lines:
            session = store.session(event.session)
            lines[event.session] = session, {branch.id: branch for branch in session.branches()}
        session, branches = lines[event.session]
        view = session.view()
        here = event.position < view.size and view.lineage.owner(event.position).writer == event.writer
        branch = branches.get(event.branch)
        found.append(format_address(event.session, None if here or branch is None else branch.name, event.position))
    return found
