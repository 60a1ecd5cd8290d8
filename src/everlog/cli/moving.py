"""Commands that bring sessions in and take them out: import, export, copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from everlog.cli.main import (
    address_argument,
    everlog,
    exit_code,
    json_option,
    locate,
    locate_session,
    opened,
    say_error,
)
from everlog.cli.output import advance, counted, note, progress_bar, say, say_json, visible
from everlog.core.position import format_address
from everlog.core.redact import MODES, Mode
from everlog.errors import EverlogError, InvalidPlaceError, NotFoundError, UnavailableError
from everlog.open import open_store
from everlog.session import Branch, Session
from everlog.store import Store

if TYPE_CHECKING:
    from everlog.importers import Failure, Imported, Progress

_PROBLEMS_SHOWN = 10  # of one file
_SQLITE = b"SQLite format 3\x00"
_QUIET_FILES = 20  # beyond so many files, those that brought nothing new are only counted


@everlog.command(
    "import",
    epilog="Examples:  everlog import claude-code   |   everlog import codex ~/.codex/sessions --follow   |   "
    "everlog import swe-agent runs/*.traj   |   everlog import langgraph checkpoints.sqlite   |   everlog import run-42.everlog",
)
@click.argument("what", metavar="FORMAT|BUNDLE")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("-f", "--follow", is_flag=True, help="Then go on as the files grow and new ones come, until Ctrl-C.")
@click.option(
    "--redact",
    type=click.Choice(MODES),
    help="Secrets in transcripts: redact them (the default), reject what holds one, or off. A bundle is taken as it is.",
)
@click.option("--force", is_flag=True, help="Take a bundle's events even where they lie in the future.")
@json_option
@click.pass_context
def import_(
    ctx: click.Context,
    what: str,
    paths: tuple[Path, ...],
    follow: bool,
    redact: Mode | None,
    force: bool,
    as_json: bool,
) -> None:
    """Take in transcripts of other programs, databases of frameworks, or bundles.

    FORMAT is claude-code, codex, swe-agent, openai, jsonl, or of a framework's SQLite file openai-agents, langgraph, adk (`everlog help
    formats`); PATHS are files or folders. Without PATHS, claude-code and codex take all of yours. Importing again adds only what is new.
    Secrets that are found are not recorded: see `everlog secrets`.
    """
    from everlog.importers import FORMATS

    if what not in FORMATS and not Path(what).exists():
        raise NotFoundError(
            f"{what!r} is neither a format ({', '.join(FORMATS)}) nor a bundle that is there; nothing was imported"
        )
    with opened(ctx, make=True) as store:
        if what in FORMATS:
            code = _import_transcripts(store, what, paths, follow=follow, redact=redact, as_json=as_json)
        else:
            code = _import_bundles(store, (Path(what), *paths), force=force, as_json=as_json)
    if code:
        raise SystemExit(code)


def _import_bundles(store: Store, bundles: tuple[Path, ...], *, force: bool, as_json: bool) -> int:
    code = 0
    for bundle in bundles:
        try:
            kind = _other_kind(bundle)
            if kind is not None:
                raise InvalidPlaceError(
                    f"{str(bundle)!r} is {kind} where a bundle is a file that `everlog export` wrote; nothing was imported; name the "
                    f"format first: everlog import FORMAT {bundle} (everlog help formats)"
                )
            with progress_bar(f"checking and taking {bundle.name}", None) as progress:
                taken = store.import_bundle(bundle, force=force, progress=advance(progress))
        except EverlogError as error:  # one bad bundle stops none of the others
            say_error(error)
            code = code or exit_code(error)
            continue
        if as_json:
            say_json(taken)
        else:
            parted = f", parted from the history here as {', '.join(taken.diverged)}" if taken.diverged else ""
            name = visible(format_address(taken.session))
            say(f"{name}: {taken.events} events taken, {taken.known} were here{parted}")
    return code


def _other_kind(path: Path) -> str | None:
    """Tell what is taken for a bundle where a format was forgotten; None for what may be one."""
    if path.is_dir():
        return "a folder"
    if not path.is_file():
        return None  # what is read of a pipe is gone
    try:
        with path.open("rb") as file:
            start = file.read(len(_SQLITE))
    except OSError:
        return None  # told where it is read
    return "a SQLite database" if start == _SQLITE else "JSON" if start.lstrip()[:1] in (b"{", b"[") else None


def _import_transcripts(
    store: Store, format: str, paths: tuple[Path, ...], *, follow: bool, redact: Mode | None, as_json: bool
) -> int:
    """Import files, say what became of each, and give the exit code: that of the first file that could not be read."""
    from everlog.importers import follow_paths, import_paths

    told = _Told(as_json=as_json)
    if follow:
        note("following; Ctrl-C to stop")
        try:
            for result in follow_paths(store, format, paths, redact=redact):
                told.say(result)
        finally:
            told.sum_up()
        return told.code
    with progress_bar("importing", None) as bar:
        for result in import_paths(store, format, paths, progress=_show(bar), redact=redact):
            told.say(result)
    told.sum_up()
    return told.code


class _Told:
    """Says what became of each file, and at the end of all: a line for each that brought something, bounded."""

    def __init__(self, *, as_json: bool) -> None:
        self.code = 0
        self._as_json = as_json
        self._files = self._unchanged = self._events = self._known = self._problems = 0

    def say(self, result: Imported | Failure) -> None:
        from everlog.importers import Failure

        self._files += 1
        if isinstance(result, Failure):
            say_error(result.error)
            self.code = self.code or exit_code(result.error)
            return
        self._take(result)

    def _take(self, imported: Imported) -> None:
        self._events += imported.events
        self._known += imported.known
        self._problems += imported.problem_count
        if self._as_json:
            say_json(msgspec.to_builtins(imported))
            return
        if imported.events == 0:
            self._unchanged += 1
        if imported.events or self._files <= _QUIET_FILES:
            names = [visible(format_address(name)) for name in imported.sessions]
            more = f" and {counted(len(names) - 1, 'other session')}" if len(names) > 1 else ""
            name = names[0] if names else visible(imported.path)
            say(f"{name}{more}: {imported.events} events new, {imported.known} known")
        for problem in imported.problems[:_PROBLEMS_SHOWN]:
            note(visible(str(problem)))
        if imported.problem_count > _PROBLEMS_SHOWN:
            note(f"{imported.problem_count - _PROBLEMS_SHOWN} more in {visible(imported.path)}: --json lists them")

    def sum_up(self) -> None:
        if self._files == 0:
            note("no file was found; nothing was imported")
        if self._as_json or self._files <= 1:
            return
        kept = f"; {self._problems} entries kept as they are" if self._problems else ""
        say(
            f"{self._files} files: {self._events} events new, {self._known} known; {self._unchanged} files brought nothing "
            f"new{kept}"
        )


def _show(bar: Any) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        bar.update(
            bar.task_ids[0],
            completed=progress.bytes // 1024,
            total=max(1, progress.bytes_total // 1024),
            description=f"importing: file {progress.files} of {progress.files_total}, {progress.events} events, kB",
        )

    return show


@everlog.command(
    epilog='Examples:  everlog export run-42 run-42.everlog --withhold "label.private:*"   |   everlog export run-42~b1 --range 10..20   |   '
    "everlog export --subject label.user:u7 u7/"
)
@address_argument(required=False)
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--withhold", metavar="QUERY", help="Leave out the bodies of events that meet this query.")
@click.option(
    "--range", "cuts", metavar="A..B", help="Only the events between two cuts of a line, with what proves them."
)
@click.option(
    "--subject", metavar="QUERY", help="Each session that meets this: label.user:u7. The argument is a folder."
)
@json_option
@click.pass_context
def export(
    ctx: click.Context,
    address: str | None,
    path: Path | None,
    withhold: str | None,
    cuts: str | None,
    subject: str | None,
    as_json: bool,
) -> None:
    """Write a session, with every branch, as a bundle: one file that imports anywhere with every hash unchanged.

    Whoever gets it checks it with Python alone: `everlog verifier`. Where the store is sealed, it holds a seal and what that vouches for.
    """
    if subject is not None:
        if cuts is not None or path is not None or address is None:
            raise click.UsageError("with --subject give one argument, the folder, and no --range")
        _export_subject(ctx, subject, Path(address), withhold=withhold, as_json=as_json)
        return
    if address is None:
        raise click.UsageError("name a session, or several with --subject")
    with opened(ctx) as store:
        session, line, place = locate(store, address)
        if place is not None or (isinstance(line, Branch) and cuts is None):
            raise click.UsageError(f"{address} names more than a session; a part of it is given with --range A..B")
        part = "" if cuts is None else f"@{cuts}"  # a name of its own: it must not take the place of the whole
        target = path or Path(f"{session.id}{part}.everlog".replace("/", "_"))
        start, stop = _cuts(cuts)
        branch = None if isinstance(line, Session) else line.id
        count = session.export(target, withhold=withhold, start=start, stop=stop, branch=branch)
    if as_json:
        say_json({"session": session.id, "path": str(target), "events": count})
    else:
        say(f"{visible(str(target))}: {count} events, {target.stat().st_size} bytes")


def _cuts(text: str | None) -> tuple[str | None, str | None]:
    if text is None:
        return None, None
    start, dots, stop = text.partition("..")
    if not dots:
        raise click.UsageError(f"--range takes A..B, and {text!r} has no '..'")
    return start or "start", stop or "end"


def _export_subject(ctx: click.Context, query: str, folder: Path, *, withhold: str | None, as_json: bool) -> None:
    with opened(ctx) as store, progress_bar("writing bundles", None) as progress:
        exported = store.export(query, folder, withhold=withhold, progress=advance(progress))
    for each in exported:
        if as_json:
            say_json(each)
        elif len(exported) <= _QUIET_FILES:
            say(f"{visible(each.path)}: {each.events} events, {each.bytes} bytes")
    if not as_json:
        say(f"{len(exported)} sessions written to {visible(str(folder))}")


@everlog.command(
    epilog="Examples:  everlog verifier everlog_verify.py   |   python3 everlog_verify.py run-42.everlog --key 'everlog/30cb…+530d903a+Aeky…'"
)
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), required=False)
def verifier(path: Path | None) -> None:
    """Write the program that checks bundles without Everlog: one file of Python, to read and hand on with them. Printed by default."""
    from everlog import verifier as program

    content = Path(program.__file__).read_text(encoding="utf-8")
    if path is None:
        say(content.rstrip("\n"))
        return
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise UnavailableError(
            f"the verifier cannot be written to {path} ({error.strerror}); nothing is there; choose another place"
        ) from error
    say(f"{visible(str(path))}: python3 {visible(path.name)} BUNDLE --key KEY")


@everlog.command(
    epilog="Examples:  everlog copy agent.db backup.db   |   everlog copy agent.db postgresql://agent@db/agents run-42 run-43"
)
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@click.argument("addresses", metavar="[SESSION]...", nargs=-1)
@click.option(
    "--source-key",
    metavar="file:…|env:…|command:…",
    help="The key that SOURCE is encrypted with, where EVERLOG_ENCRYPT, which is TARGET's, names another or none.",
)
@json_option
@click.pass_context
def copy(
    ctx: click.Context, source: str, target: str, addresses: tuple[str, ...], source_key: str | None, as_json: bool
) -> None:
    """Copy sessions, all by default, from one store to another, every hash unchanged.

    Again copies only what is new, also after it was stopped. What went on differently in both places becomes a branch.
    """
    if ctx.obj:
        raise click.UsageError("copy takes SOURCE and TARGET, and no --store")
    reading = source_key is not None  # a source that is opened to be written to with a key encrypts from then on
    with (
        open_store(source, make=False, read_only=reading, encrypt=source_key) as store,
        open_store(target) as other,
    ):
        names = [locate_session(store, address).id for address in addresses] or None
        with progress_bar("copying", None) as progress:
            copied = store.copy(other, sessions=names, progress=advance(progress))
        there = other.url
    for taken in copied:
        if as_json:
            say_json(taken)
        elif taken.events or taken.diverged or len(copied) <= _QUIET_FILES:
            parted = f", parted from the history there as {', '.join(taken.diverged)}" if taken.diverged else ""
            say(
                f"{visible(format_address(taken.session))}: {taken.events} events copied, {taken.known} were there{parted}"
            )
    if not as_json:
        say(f"{len(copied)} sessions, {sum(taken.events for taken in copied)} events copied to {visible(there)}")
