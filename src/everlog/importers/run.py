"""Importing files and folders: which files, in what order, how far, and again when they grow.

One file that cannot be read stops none of the others. Of JSON lines one batch is held in memory, whatever the file's
size; a file that is JSON as a whole is held whole, up to WHOLE_BYTES_MAX; of a database one row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from everlog.core.redact import Mode
from everlog.core.values import decode_json
from everlog.errors import EverlogError, InvalidEventError, LimitError, NotFoundError
from everlog.importers.formats import Database, Format, Lines, Translator, Whole
from everlog.importers.lines import Line, LineFile
from everlog.importers.record import PROBLEMS_MAX, Failure, Imported, Problem, Recorder, unreadable
from everlog.store import Store

WHOLE_BYTES_MAX = 512 * 1024 * 1024
_UNREADABLE_FIRST_MAX = 100  # lines at a file's start that are no JSON, before the file is taken for something else
_POLL_SECONDS = 0.5  # between looks at files that are followed
_LOOK_SECONDS = 5.0  # between looks for new files
_SNIFF_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an import is. Sizes in bytes; events: recorded and known."""

    files: int
    files_total: int
    bytes: int
    bytes_total: int
    events: int


def import_paths(
    store: Store,
    format: str,
    paths: Sequence[str | Path] = (),
    *,
    progress: Callable[[Progress], None] | None = None,
    redact: Mode | None = None,
) -> Iterator[Imported | Failure]:
    """Import files, and those in folders, one after another; give what became of each as it is done.

    format: a name in FORMATS. paths: none means the folder where the program keeps the user's own.
    redact: "redact" records marks in the place of secrets, "reject" leaves out and reports what holds one, "off" takes all as it is.
    None: as the store was opened, and "redact" where that says nothing.
    Importing again adds only what is new. Raises NotFoundError where there is no such path.
    """
    run = _Run(_redacting(store, redact), format)
    files = find_files(run.format, paths)
    sizes = {file: file.stat().st_size for file in files if file.exists()}
    total = sum(sizes.values())
    done = events = 0
    for number, file in enumerate(files):

        def tell(offset: int, recorded: int, number: int = number, done: int = done, events: int = events) -> None:
            if progress is not None:
                progress(
                    Progress(
                        files=number,
                        files_total=len(files),
                        bytes=done + offset,
                        bytes_total=total,
                        events=events + recorded,
                    )
                )

        tell(0, 0)
        result = run.advance(file, final=True, tell=tell)
        run.forget(file)
        done += sizes.get(file, 0)
        events += result.events + result.known if isinstance(result, Imported) else 0
        yield result
    if progress is not None:
        progress(Progress(files=len(files), files_total=len(files), bytes=total, bytes_total=total, events=events))


def follow_paths(
    store: Store,
    format: str,
    paths: Sequence[str | Path] = (),
    *,
    stop: Callable[[], bool] | None = None,
    idle: float | None = None,
    redact: Mode | None = None,
) -> Iterator[Imported | Failure]:
    """Import as `import_paths` does, then go on as the files grow and new ones come; give what each look brought.

    A torn last line is waited for. stop: asked at every look, twice a second; True ends it.
    idle: end after so many seconds without news.
    """
    run = _Run(_redacting(store, redact), format)
    seen: dict[Path, tuple[int, int] | None] = {}
    looked = float("-inf")
    news = time.monotonic()
    while stop is None or not stop():
        now = time.monotonic()
        if now - looked >= _LOOK_SECONDS:
            looked = now
            for file in find_files(run.format, paths):
                seen.setdefault(file, None)
        for file, before in list(seen.items()):
            state = _state(file)
            if state is None or state == before:
                continue
            seen[file] = state
            result = run.advance(file, final=False, tell=None)
            if isinstance(result, Failure) or result.events or result.known or result.problems:
                news = time.monotonic()
                yield result
        if idle is not None and time.monotonic() - news >= idle:
            return
        time.sleep(_POLL_SECONDS)


def _redacting(store: Store, mode: Mode | None) -> Store:
    """Give a store as one that does about secrets what is wanted of an import."""
    if mode is not None:
        return store.redacting(mode)
    return store if store.settings.redactor is not None else store.redacting("redact")


def find_files(format: Format, paths: Sequence[str | Path]) -> list[Path]:
    """Give the files that paths name: files as they are, of folders those that the format's patterns match."""
    if not paths:
        if format.default is None:
            raise NotFoundError("no path was named, and this format has no folder of its own; name files or folders")
        paths = [format.default()]
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = {file for pattern in format.patterns for file in path.rglob(pattern) if file.is_file()}
            found.update(dict.fromkeys(sorted(inside, key=format.order)))
        elif path.is_file():
            found[path] = None
        elif path.exists():
            raise NotFoundError(f"{path} is neither a file nor a folder; nothing was imported; name another")
        else:
            raise NotFoundError(f"there is no file or folder {path}; nothing was imported; name another")
    return sorted(found, key=format.order) if len(paths) > 1 else list(found)


def _state(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:  # it may come back
        return None
    return status.st_size, status.st_mtime_ns


class _Run:
    """One run of imports of one format: the files that are being read, and what they share."""

    def __init__(self, store: Store, format: str) -> None:
        from everlog.importers.formats import FORMATS

        if format not in FORMATS:
            raise NotFoundError(f"{format!r:.50} is no format that can be imported; choose one of {', '.join(FORMATS)}")
        self.format = FORMATS[format]
        self._store = store
        self._name = format
        self._lines = None if self.format.lines is None else self.format.lines(store)
        self._whole = None if self.format.whole is None else self.format.whole(store)
        self._files: dict[Path, _LinesReader | _WholeReader | _DatabaseReader] = {}

    def advance(self, file: Path, *, final: bool, tell: Callable[[int, int], None] | None) -> Imported | Failure:
        """Import what is new of a file. final: there will be no more of it in this run."""
        try:
            reader = self._files.get(file)
            if reader is None:
                reader = self._files[file] = self._reader(file)
            return reader.advance(final=final, tell=tell)
        except EverlogError as error:
            self._files.pop(file, None)  # so that it is read from its start the next time: keys tell what is known
            return Failure(path=str(file), error=error)

    def forget(self, file: Path) -> None:
        """Let go of a file."""
        self._files.pop(file, None)

    def _reader(self, file: Path) -> _LinesReader | _WholeReader | _DatabaseReader:
        if self.format.database is not None:
            return _DatabaseReader(self._store, file, self.format.database)
        recorder = Recorder(self._store, self._name, file)
        if self._lines is None or (self._whole is not None and not _has_lines(file)):
            assert self._whole is not None, "a format reads lines, or a whole"
            return _WholeReader(recorder, self._whole)
        return _LinesReader(recorder, self._lines)


class _LinesReader:
    """One file of JSON lines as it is being imported."""

    def __init__(self, recorder: Recorder, begin: Lines) -> None:
        self._recorder = recorder
        self._begin = begin
        self._file = LineFile(recorder.path)
        self._translator: Translator | None = None
        self._first: list[Line] = []  # lines that cannot be read, until one can

    def advance(self, *, final: bool, tell: Callable[[int, int], None] | None) -> Imported:
        recorder = self._recorder
        for line in self._file.read(final=final):
            if self._translator is None:
                if line.value is None:
                    self._first.append(line)
                    self._refuse_if_foreign(final=False)
                    continue
                self._translator = self._begin(recorder.path, line, sha256(line.raw).hexdigest()[:32])
                for earlier in self._first:
                    recorder.add(self._translator.home, unreadable(recorder.format, earlier))
                self._first.clear()
            if line.value is None:
                recorder.add(self._translator.home, unreadable(recorder.format, line))
                continue
            for target, item in self._translator.translate(line):
                if recorder.add(target, item) and tell is not None:
                    tell(self._file.offset, recorder.events + recorder.known)
        if final and self._translator is None:
            self._refuse_if_foreign(final=True)
        recorder.flush()
        return recorder.take()

    def _refuse_if_foreign(self, *, final: bool) -> None:
        if len(self._first) > _UNREADABLE_FIRST_MAX or (final and self._first):
            raise InvalidEventError(
                f"{self._recorder.path} is no file of JSON lines: its first {len(self._first)} cannot be read (line "
                f"{self._first[0].number} {self._first[0].fault}); nothing of it was imported; name another file or format"
            )


class _WholeReader:
    """One file that is JSON as a whole as it is being imported."""

    def __init__(self, recorder: Recorder, begin: Whole) -> None:
        self._recorder = recorder
        self._begin = begin

    def advance(self, *, final: bool, tell: Callable[[int, int], None] | None) -> Imported:
        recorder = self._recorder
        try:
            value = decode_json(self._read(), what=str(recorder.path))
        except InvalidEventError:
            if final:
                raise
            return recorder.take()  # it is being written; the next look tells
        first = Line(number=1, raw=b"", value=value)
        translator = self._begin(recorder.path, first, "")
        for target, item in translator.translate_whole(value):
            if recorder.add(target, item) and tell is not None:
                tell(0, recorder.events + recorder.known)
        recorder.flush()
        return recorder.take()

    def _read(self) -> bytes:
        path = self._recorder.path
        try:
            if path.stat().st_size > WHOLE_BYTES_MAX:
                raise LimitError(
                    f"{path} is larger than {WHOLE_BYTES_MAX} bytes, and JSON as a whole is read whole; nothing of it was "
                    "imported; write it as JSON lines"
                )
            return path.read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"there is no file {path}; nothing of it was imported") from None
        except OSError as error:
            raise NotFoundError(f"{path} cannot be read ({error.strerror}); nothing of it was imported") from error


class _DatabaseReader:
    """One file that is a database as it is being imported."""

    def __init__(self, store: Store, path: Path, take: Database) -> None:
        self._store = store
        self._path = path
        self._take = take

    def advance(self, *, final: bool, tell: Callable[[int, int], None] | None) -> Imported:  # noqa: ARG002  # as the others
        sessions: dict[str, None] = {}
        events = known = problem_count = 0
        problems: list[Problem] = []
        for each in self._take(self._store, self._path):
            sessions |= dict.fromkeys(each.sessions)
            events += each.events
            known += each.known
            problem_count += each.problem_count
            problems += each.problems[: PROBLEMS_MAX - len(problems)]
            if tell is not None:
                tell(0, events + known)
        return Imported(
            path=str(self._path),
            sessions=tuple(sessions),
            events=events,
            known=known,
            problems=tuple(problems),
            problem_count=problem_count,
        )


def _has_lines(file: Path) -> bool:
    """Tell whether a file is JSON lines, by its first line: an object that ends there, or begins past what is read here."""
    try:
        with file.open("rb") as opened:
            start = opened.read(_SNIFF_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError:
        return True  # what is wrong with it is said where it is read
    if not start.startswith(b"{"):
        return not start.startswith(b"[")
    line, found, _ = start.partition(b"\n")
    if not found:
        return file.suffix == ".jsonl"
    try:
        decode_json(line, what="the line")
    except EverlogError:
        return file.suffix == ".jsonl"
    return True
