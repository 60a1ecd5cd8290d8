"""The formats that can be imported, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from everlog.core.event import Event
from everlog.importers import claude_code, codex, jsonl, langgraph, openai_chat, swe_agent
from everlog.importers.lines import Line
from everlog.importers.record import Imported, Item, Target
from everlog.store import Store


class Translator(Protocol):
    """Reads one file: what its lines, or its one value, are as events."""

    home: Target

    def translate(self, line: Line) -> Iterator[tuple[Target, Item]]:
        """Give the items of a line, each with the session that it goes to."""
        ...


class WholeTranslator(Protocol):
    """Reads one file that is JSON as a whole."""

    home: Target

    def translate_whole(self, value: Any) -> Iterator[tuple[Target, Item]]:
        """Give the items of the file's value, each with the session that it goes to."""
        ...


# From a file's path, its first line that can be read, and a digest of that.
Lines = Callable[[Path, Line, str], Translator]
Whole = Callable[[Path, Line, str], WholeTranslator]
# Imports a database into a store, a session at a time, and gives what became of each; it opens it to read only.
Database = Callable[[Store, Path], Iterator[Imported]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One program's format.

    what: in a word or two. patterns: of the file names that are looked for in a folder. default: the user's own folder.
    lines, whole: give, for one run of imports, how files of JSON lines are read, and files that are JSON as a whole.
    database: imports files that are databases; a format reads either these or JSON.
    encode: gives the item that events say, where no item is kept beside them. order: of a folder's files.
    """

    what: str
    patterns: tuple[str, ...]
    default: Callable[[], Path] | None = None
    lines: Callable[[Store], Lines] | None = None
    whole: Callable[[Store], Whole] | None = None
    database: Database | None = None
    encode: Callable[[Sequence[Event]], Any] = lambda _: None
    order: Callable[[Path], Any] = str


def _claude_lines(store: Store) -> Lines:
    starters = claude_code.Starters(store)
    return lambda path, first, identity: claude_code.Translator(starters, path, first, identity)


FORMATS: Mapping[str, Format] = {
    claude_code.FORMAT: Format(
        what="Claude Code's transcripts",
        patterns=(claude_code.PATTERN,),
        default=claude_code.default_folder,
        lines=_claude_lines,
        order=claude_code.order,
    ),
    codex.FORMAT: Format(
        what="Codex's rollouts",
        patterns=(codex.PATTERN,),
        default=codex.default_folder,
        lines=lambda store: lambda path, first, identity: codex.Translator(store, path, first, identity),
        order=lambda path: path.name,
    ),
    swe_agent.FORMAT: Format(
        what="SWE-agent's trajectories",
        patterns=(swe_agent.PATTERN,),
        whole=lambda store: lambda path, first, identity: swe_agent.Translator(store, path, first, identity),
    ),
    openai_chat.FORMAT: Format(
        what="conversations in the shape of OpenAI's API",
        patterns=openai_chat.PATTERNS,
        lines=lambda store: lambda path, first, identity: openai_chat.Translator(store, path, first, identity),
        whole=lambda store: lambda path, first, identity: openai_chat.Translator(store, path, first, identity),
        encode=openai_chat.encode,
    ),
    langgraph.FORMAT: Format(
        what="databases of LangGraph's SqliteSaver",
        patterns=langgraph.PATTERNS,
        database=langgraph.import_database,
    ),
    jsonl.FORMAT: Format(
        what="Everlog's own event shape",
        patterns=(jsonl.PATTERN,),
        lines=lambda store: lambda path, first, identity: jsonl.Translator(store, path, first, identity),
        encode=jsonl.encode,
    ),
}
