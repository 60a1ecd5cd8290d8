"""The `everlog` command itself: its options, how errors become exit codes, and how commands find the store."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from everlog import __version__
from everlog.cli.output import compact, note, visible
from everlog.core.position import TimePlace, format_address, format_micros, from_micros, parse_address, parse_place
from everlog.errors import (
    BusyError,
    ConflictError,
    CorruptionError,
    EverlogError,
    FencedError,
    HeldError,
    KeyNeededError,
    MergeConflictError,
    NotFoundError,
    OutcomeUnknownError,
    StaleCursorError,
    StepFailedError,
    StepUnknownError,
    TamperedError,
    UnavailableError,
    UnsupportedStoreError,
)
from everlog.open import default_store, is_postgres, open_store, shown_place
from everlog.session import Branch, Session
from everlog.store import Store

EXIT_CODES = (
    (0, "done"),
    (1, "verification found a fault, or stored bytes are damaged"),
    (2, "the request is wrong: change it"),
    (3, "not found"),
    (4, "read again and decide: somebody else wrote, or a cursor is stale"),
    (5, "try again later: busy, unavailable, or an outcome that is not known"),
    (6, "this file, version or place cannot be used, or not without its key"),
    (130, "stopped by Ctrl-C"),
)
_CODES: tuple[tuple[tuple[type[EverlogError], ...], int], ...] = (
    ((TamperedError, CorruptionError), 1),
    ((NotFoundError,), 3),
    (
        (
            *(ConflictError, FencedError, HeldError, StaleCursorError),
            *(MergeConflictError, StepUnknownError, StepFailedError),
        ),
        4,
    ),
    ((BusyError, UnavailableError, OutcomeUnknownError), 5),
    ((UnsupportedStoreError, KeyNeededError), 6),
)
_COMPLETIONS_MAX = 50
F = TypeVar("F", bound=Callable[..., Any])


def exit_code(error: EverlogError) -> int:
    """Give the exit code of an error's kind."""
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), 2)


def say_error(error: EverlogError) -> None:
    """Print an error as one line: JSON where JSON was asked for."""
    message = error.message.replace("see sessions()", "see `everlog ls`")  # a name of Python's
    if "--json" in sys.argv:
        members: dict[str, Any] = {"error": error.code, "message": message}
        if isinstance(error, FencedError) and error.holder is not None:
            members["holder"] = error.holder
        if isinstance(error, FencedError) and error.until is not None:
            members["until"] = format_micros(error.until)
        if isinstance(error, HeldError) and error.policy is not None:
            members["policy"] = error.policy
        note(compact(members))
    else:
        note(f"everlog: {visible(message)}")


class _Group(click.Group):
    """A group that lists commands in the order of their making, and turns Everlog's errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _store_first(args))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EverlogError as error:
            say_error(error)
            raise SystemExit(exit_code(error)) from error
        except click.UsageError as error:
            if "--json" not in sys.argv:
                raise
            note(compact({"error": "usage", "message": error.format_message()}))
            raise SystemExit(error.exit_code) from None
        except BrokenPipeError:
            sys.stderr.close()  # the reader went away, as `head` does; nothing is wrong
            raise SystemExit(0) from None
        except KeyboardInterrupt:
            note("stopped")
            raise SystemExit(130) from None


def _store_first(args: list[str]) -> list[str]:
    """Let --store stand behind the command too, where people write it."""
    end = args.index("--") if "--" in args else len(args)
    for index, word in enumerate(args[:end]):
        if word == "--store" and index + 1 < end:
            return [*args[index : index + 2], *args[:index], *args[index + 2 :]]
        if word.startswith("--store="):
            return [word, *args[:index], *args[index + 1 :]]
    return args


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="`everlog help TOPIC` explains addresses, places, queries, states, waking, sealing, formats and exit-codes; `everlog help COMMAND` a command.",
)
@click.version_option(__version__, prog_name="everlog")
@click.option(
    "--store",
    metavar="STORE",
    help="The store: a file, or postgresql://…. Default: $EVERLOG_STORE, else a file in your data folder.",
)
@click.pass_context
def everlog(ctx: click.Context, store: str | None) -> None:
    """A durable session log for LLM agents.

    \b
    everlog demo                          see it work, in a minute
    everlog import claude-code            take in your own transcripts (or codex, swe-agent, openai, jsonl)
    everlog import langgraph FILE.db      take in what a framework kept (or openai-agents, adk)
    everlog ls                            what is there
    everlog search WORDS                  find something said or done
    everlog log SESSION                   read one
    """
    ctx.obj = store
    logging.getLogger("psycopg").addHandler(
        logging.NullHandler()
    )  # what it warns of is tried again, or told as an error
    if os.environ.get("NO_COLOR"):
        ctx.color = False


# --- what commands share -------------------------------------------------------------------------
def json_option(function: F) -> F:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")(function)


def limit_option(default: int) -> Callable[[F], F]:
    """Add -n/--limit."""
    return click.option(
        "-n",
        "--limit",
        type=click.IntRange(1, 1_000_000),
        default=default,
        show_default=True,
        help="At most so many.",
    )


def actor_option(function: F) -> F:
    """Add --actor."""
    return click.option("--actor", help="Who does it: an opaque id, never an e-mail address.")(function)


def address_argument(name: str = "address", *, many: bool = False, required: bool = True) -> Callable[[F], F]:
    """Add an argument that is an address, completed with the sessions that are there."""
    return click.argument(name, nargs=-1 if many else 1, required=required, shell_complete=_complete_session)


def _complete_session(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Give the addresses of sessions that begin so; none where the store cannot be read."""
    try:
        place = ctx.find_root().params.get("store") or default_store()
        prefix = parse_address(incomplete).session if incomplete else ""
        with open_store(place, read_only=True) as store:
            found = store.sessions(prefix=prefix, order="-updated", limit=_COMPLETIONS_MAX)
    except EverlogError:
        return []
    return [format_address(info.id) for info in found]


@contextmanager
def opened(ctx: click.Context, *, make: bool = False) -> Generator[Store]:
    """Open the store that was chosen, to read only where it cannot be written. make: where a command may begin a new one."""
    place = ctx.obj or default_store()
    unwritable: UnavailableError | None = None
    try:
        store = open_store(place, make=make)
    except UnavailableError as error:
        if make or is_postgres(place) or os.access(Path(place).parent, os.W_OK):
            raise
        unwritable = error
        store = open_store(place, read_only=True)
    except NotFoundError as error:
        raise NotFoundError(
            f"there is no store at {shown_place(place)}; import something (everlog import …), see one made (everlog demo), make one "
            "(everlog init), or name another with --store"
        ) from error
    with store:
        try:
            yield store
        except UnavailableError as error:
            if unwritable is None:
                raise
            raise unwritable from error  # of a command that writes after all


def locate(store: Store, address: str) -> tuple[Session, Session | Branch, str | datetime | None]:
    """Open what an address names: the session, the line to read (a branch where one is named), and the place."""
    parsed = parse_address(address)
    session = store.session(parsed.session)
    line = session if parsed.branch is None else session.branch(parsed.branch)
    if parsed.place is None:
        return session, line, None
    place = parse_place(parsed.place, now=store.storage.now(), naive_is_utc=True)  # a time without a zone is UTC here
    return session, line, from_micros(place.micros) if isinstance(place, TimePlace) else parsed.place


def locate_session(store: Store, address: str) -> Session:
    """Open the session that an address names, which has neither branch nor place."""
    session, line, place = locate(store, address)
    if line is not session or place is not None:
        raise click.UsageError(f"{address} names more than a session; give {format_address(session.id)} alone")
    return session


def pairs(texts: Sequence[str], *, option: str) -> dict[str, str]:
    """Read NAME=VALUE pairs."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{option} takes NAME=VALUE, and {text!r} has no name or no '='")
        found[name] = value
    return found


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone; where nobody can be asked, --yes must have been given."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} It cannot be undone: add --yes to do it without being asked.")
    click.confirm(question, abort=True, err=True)
