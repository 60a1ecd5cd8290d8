"""The commands. Each reads its arguments, calls the public interface, and prints text or JSON lines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from everlog import __version__
from everlog.cli import tree as trees
from everlog.cli.output import compact, event_line, event_page, note, progress_bar, say, say_json, shorten, visible
from everlog.core.position import TimePlace, format_micros, from_micros, parse_address, parse_place
from everlog.errors import (
    BusyError,
    ConflictError,
    CorruptionError,
    EverlogError,
    FencedError,
    NotFoundError,
    OutcomeUnknownError,
    StaleCursorError,
    TamperedError,
    UnavailableError,
    UnsupportedStoreError,
)
from everlog.open import default_store, open_store
from everlog.session import Branch, Session
from everlog.store import ORDERS, Store

EXIT_CODES = """
Exit codes: 0 done; 1 verification found a fault, or stored bytes are damaged; 2 the request is wrong; 3 not found;
4 read again and decide (conflict, stale cursor); 5 try again later (busy, unavailable, outcome not known);
6 this file, version or place cannot be used.
"""
_CODES: tuple[tuple[tuple[type[EverlogError], ...], int], ...] = (
    ((TamperedError, CorruptionError), 1),
    ((NotFoundError,), 3),
    ((ConflictError, FencedError, StaleCursorError), 4),
    ((BusyError, UnavailableError, OutcomeUnknownError), 5),
    ((UnsupportedStoreError,), 6),
)
ADDRESS = "ADDRESS is SESSION[~BRANCH][@PLACE]: run-42, run-42@17, run-42@tests-green, run-42@-2h, run-42~b2@-3."
F = TypeVar("F", bound=Callable[..., Any])


def _fail(error: EverlogError) -> int:
    """Print an Everlog error as one line; give the exit code of its kind."""
    if "--json" in sys.argv:
        note(compact({"error": error.code, "message": error.message}))
    else:
        note(f"everlog: {visible(error.message)}")
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), 2)


class _Group(click.Group):
    """A group that lists commands in the order of their making, and turns Everlog's errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EverlogError as error:
            raise SystemExit(_fail(error)) from error
        except BrokenPipeError:
            sys.stderr.close()  # the reader went away, as `head` does; nothing is wrong
            raise SystemExit(0) from None


@click.group(
    cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EXIT_CODES
)
@click.version_option(__version__, prog_name="everlog")
@click.option(
    "--store", metavar="PATH", help="The store's file. Default: $EVERLOG_STORE, else one in your data folder."
)
@click.pass_context
def everlog(ctx: click.Context, store: str | None) -> None:
    """A durable session log for LLM agents.

    \b
    everlog demo                          see it work, in a minute
    everlog import swe-agent *.traj       take in transcripts
    everlog ls                            what is there
    everlog log SESSION                   read one
    """
    ctx.obj = store


def _json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")(function)


@contextmanager
def _store(ctx: click.Context, *, make: bool = False) -> Any:
    """Open the store that was chosen. make: where a command may begin a new one."""
    place = ctx.obj or default_store()
    if not make and not Path(place).exists():
        raise NotFoundError(
            f"there is no store at {place}; import something (everlog import …), see one made (everlog demo), or name another "
            "with --store"
        )
    with open_store(place) as store:
        yield store


def _open(store: Store, address: str) -> tuple[Session, Session | Branch, str | datetime | None]:
    """Open what an address names: the session, the line to read (a branch where one is named), and the place."""
    parsed = parse_address(address)
    session = store.session(parsed.session)
    line = session if parsed.branch is None else session.branch(parsed.branch)
    if parsed.place is None:
        return session, line, None
    place = parse_place(parsed.place, now=store.storage.now(), naive_is_utc=True)  # a time without a zone is UTC here
    return session, line, from_micros(place.micros) if isinstance(place, TimePlace) else parsed.place


# --- bringing in ---------------------------------------------------------------------------------
@everlog.command("import", epilog="Examples:  everlog import swe-agent runs/*.traj   |   everlog import run-42.everlog")
@click.argument("what", metavar="FORMAT|BUNDLE")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Take a bundle's events even where they lie in the future.")
@_json_option
@click.pass_context
def import_(ctx: click.Context, what: str, files: tuple[Path, ...], force: bool, as_json: bool) -> None:
    """Take in transcripts of another program, or bundles.

    FORMAT is swe-agent. Importing a file again adds only what is new.
    """
    from everlog.importers import importers

    known = importers()
    with _store(ctx, make=True) as store:
        if what in known:
            if not files:
                raise click.UsageError(f"name the files to import: everlog import {what} FILE…")
            _import_files(store, known[what], files, as_json)
            return
        if not Path(what).exists():
            raise NotFoundError(f"{what!r} is neither a format ({', '.join(known)}) nor a bundle that is there")
        for bundle in (Path(what), *files):
            with progress_bar(f"checking and taking {bundle.name}", None) as progress:
                taken = store.import_bundle(bundle, force=force, progress=_advance(progress))
            if as_json:
                say_json(taken)
            else:
                parted = f", parted from the history here as {', '.join(taken.diverged)}" if taken.diverged else ""
                say(f"{visible(taken.session)}: {taken.events} events taken, {taken.known} were here{parted}")


def _import_files(store: Store, importer: Any, files: tuple[Path, ...], as_json: bool) -> None:
    failed: EverlogError | None = None
    with progress_bar("importing", len(files)) as progress:
        for done, file in enumerate(files, start=1):
            try:
                imported = importer(store, file, None)
            except EverlogError as error:  # one bad file stops none of the others
                failed = error
                note(f"everlog: {visible(error.message)}")
                continue
            finally:
                _advance(progress)(done)
            if as_json:
                say_json(msgspec.to_builtins(imported))
            else:
                say(f"{visible(imported.session)}: {imported.events} events new, {imported.known} known")
    if failed is not None:
        raise failed


def _advance(progress: Any) -> Callable[[int], None]:
    return lambda done: progress.update(progress.task_ids[0], completed=done)


# --- reading -------------------------------------------------------------------------------------
@everlog.command(epilog="Examples:  everlog ls label.source:swe-agent   |   everlog ls --prefix run- --order id --json")
@click.argument("query", nargs=-1)
@click.option("--prefix", default="", help="Only ids that begin so.")
@click.option("--order", type=click.Choice(ORDERS), default="-updated", show_default=True)
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@_json_option
@click.pass_context
def ls(ctx: click.Context, query: tuple[str, ...], prefix: str, order: str, limit: int, as_json: bool) -> None:
    """List sessions: label.NAME:VALUE, since:2d, words in id and title."""
    with _store(ctx) as store:
        found = store.sessions(" ".join(query), prefix=prefix, order=order, limit=limit)
    for info in found:
        if as_json:
            members = msgspec.to_builtins(info)
            say_json(members | {name: format_micros(members[name]) for name in ("created_at", "updated_at")})
        else:
            title = shorten(visible(info.title or ""), 60)
            say(f"{visible(info.id):<40} {info.size:>7}  {format_micros(info.updated_at)[:19]}  {title}")
    if len(found) == limit and not as_json:
        note(f"the first {limit}; more with --limit, or ask for less with a query")


@everlog.command(
    epilog="Examples:  everlog log run-42 -n 50   |   everlog log run-42 type:agent.tool_* outcome:error since:2h   |   "
    "everlog log run-42 --follow"
)
@click.argument("address")
@click.argument("query", nargs=-1)
@click.option("-n", "--limit", type=click.IntRange(1), default=40, show_default=True, help="At most so many events.")
@click.option("--after", type=int, default=None, help="Begin after this position; else the newest are shown.")
@click.option("-f", "--follow", is_flag=True, help="Then wait for more, until Ctrl-C.")
@_json_option
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
    with _store(ctx) as store:
        session, line, place = _open(store, address)
        stop: Any = "end" if place is None else place
        text = " ".join(query)
        last = line.cut(stop)
        if after is not None:
            events = list(line.events(text, start=after + 1, stop=stop, limit=limit + 1))
            more = f"more: --after {events[limit - 1].position}" if len(events) > limit else None
            events = events[:limit]
        else:
            events = list(line.events(text, stop=stop, reverse=True, limit=limit + 1))
            more = f"earlier ones: --limit {limit * 4}, or from the start: --after -1" if len(events) > limit else None
            events = events[:limit][::-1]
        for event in events:
            _say_event(event.to_dict() if as_json else event, as_json)
        if more is not None and not as_json:
            note(more)
        if follow and place is None and line is session:
            _follow(session, text, last, as_json)


def _follow(session: Session, query: str, start: int, as_json: bool) -> None:
    from everlog.core.query import compile_query
    from everlog.core.query_text import parse

    meets = compile_query(parse(query, now=session.storage.now()))
    try:
        for event in session.follow(start=start):
            if meets(event):
                _say_event(event.to_dict() if as_json else event, as_json)
                sys.stdout.flush()
    except KeyboardInterrupt:
        note("stopped")


def _say_event(event: Any, as_json: bool) -> None:
    if as_json:
        say_json(event)
    else:
        say(event_line(event))


@everlog.command(epilog="Examples:  everlog show run-42@17   |   everlog show run-42@-1 --json")
@click.argument("address")
@click.option("--attachment", metavar="NAME", help="Write this attachment's bytes to standard output instead.")
@_json_option
@click.pass_context
def show(ctx: click.Context, address: str, attachment: str | None, as_json: bool) -> None:
    """Show a session, or one event in full where ADDRESS has a place."""
    with _store(ctx) as store:
        session, line, place = _open(store, address)
        if place is None:
            _show_session(session, as_json)
            return
        event = line.event(place)
        if attachment is not None:
            sys.stdout.buffer.write(event.attachment(attachment))
            return
        if as_json:
            say_json(event.to_dict())
            return
        for text in event_page(event):
            say(text)


def _show_session(session: Session, as_json: bool) -> None:
    info = session.info()
    branches = [
        {"name": branch.name, "id": branch.id, "base": branch.base, "size": branch.head.size, "current": branch.current}
        for branch in session.branches()
    ]
    members = msgspec.to_builtins(info)
    members |= {name: format_micros(members[name]) for name in ("created_at", "updated_at")}
    members["branches"] = branches
    if as_json:
        say_json(members)
        return
    for name, value in members.items():
        if value not in (None, {}, []):
            say(f"{click.style(f'{name:<12}', dim=True)}{visible(value if isinstance(value, str) else compact(value))}")


@everlog.command(epilog="Example:  everlog tree run-42")
@click.argument("address")
@_json_option
@click.pass_context
def tree(ctx: click.Context, address: str, as_json: bool) -> None:
    """Draw a session's branches, and the sessions forked from them."""
    with _store(ctx) as store:
        session, _, _ = _open(store, address)
        nodes = trees.family_of(store, session)
    for text in map(compact, trees.as_dicts(nodes)) if as_json else trees.draw(nodes):
        say(text)


# --- moving about --------------------------------------------------------------------------------
@everlog.command(epilog='Examples:  everlog fork run-42@17 --id other-way --title "try the other library"')
@click.argument("address")
@click.option("--id", "new_id", help="The new session's id; a UUID by default.")
@click.option("--title")
@click.option("--reason")
@_json_option
@click.pass_context
def fork(
    ctx: click.Context, address: str, new_id: str | None, title: str | None, reason: str | None, as_json: bool
) -> None:
    """Make a new session that shares everything before a place. Costs the same at ten events and at ten million."""
    with _store(ctx) as store:
        session, line, place = _open(store, address)
        branch = line if isinstance(line, Branch) else None
        forked = session.fork("end" if place is None else place, branch=branch, id=new_id, title=title, reason=reason)
        shared = forked.head.size - 1
        if as_json:
            say_json({"session": forked.id, "shares": shared, "head": str(forked.head)})
        else:
            say(f"{visible(forked.id)}  shares [0, {shared}) with {visible(session.id)}")


@everlog.command(
    epilog='Examples:  everlog rewind run-42@17 --reason "wrong path"   |   everlog rewind run-42@before-refactor'
)
@click.argument("address")
@click.option("--reason")
@_json_option
@click.pass_context
def rewind(ctx: click.Context, address: str, reason: str | None, as_json: bool) -> None:
    """Go back to a place in a session. What came after stays readable as a branch of its own (see tree)."""
    with _store(ctx) as store:
        session, line, place = _open(store, address)
        if place is None or line is not session:
            raise click.UsageError("name the place to go back to, on the current branch: everlog rewind SESSION@PLACE")
        left = session.branch()
        event = session.rewind(place, reason=reason)
        now = session.branch()
        if as_json:
            say_json({"session": session.id, "branch": now.name, "left": left.name, "position": event.position})
        else:
            say(f"{visible(session.id)} goes on at {event.position} as {now.name}; what was left is {left.name}")


# --- proof ---------------------------------------------------------------------------------------
@everlog.command(epilog='Examples:  everlog export run-42 run-42.everlog --withhold "label.private:*"')
@click.argument("address")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--withhold", metavar="QUERY", help="Leave out the bodies of events that meet this query.")
@_json_option
@click.pass_context
def export(ctx: click.Context, address: str, path: Path | None, withhold: str | None, as_json: bool) -> None:
    """Write a session, with every branch, as a bundle: one file that imports anywhere with every hash unchanged."""
    with _store(ctx) as store:
        session, _, _ = _open(store, address)
        target = path or Path(f"{session.id.replace('/', '_')}.everlog")
        count = session.export(target, withhold=withhold)
    if as_json:
        say_json({"session": session.id, "path": str(target), "events": count})
    else:
        say(f"{target}: {count} events, {target.stat().st_size} bytes")


@everlog.command(epilog="Examples:  everlog verify   |   everlog verify run-42 --json")
@click.argument("address", required=False)
@_json_option
@click.pass_context
def verify(ctx: click.Context, address: str | None, as_json: bool) -> None:
    """Re-derive every hash from the stored bytes, of one session or of all, and say what does not hold."""
    with _store(ctx) as store, progress_bar("verifying", None) as progress:
        what = store if address is None else _open(store, address)[0]
        report = what.verify(progress=_advance(progress))
    if as_json:
        say_json(report)
    else:
        for fault in report.faults:
            say(click.style(visible(str(fault)), fg="red"))
        verdict = (
            click.style("good", fg="green") if report.ok else click.style(f"{report.fault_count} faults", fg="red")
        )
        say(
            f"{verdict}: {report.events} events on {report.branches} branches of {report.sessions} sessions; "
            f"{report.erased} erased, {report.withheld} withheld"
        )
        say(f"not sealed yet: {report.unsealed} events")
        for text in report.unchecked:
            say(f"not checked: {text}")
    if not report.ok:
        raise SystemExit(1)


@everlog.command(epilog="Example:  everlog demo")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="Where to play; a new folder by default."
)
def demo(folder: Path | None) -> None:
    """A small agent works on a bug and records itself; it is killed midway, and another process goes on."""
    from everlog.cli.demo import run_demo

    raise SystemExit(run_demo(folder))
