"""What the command line prints: bounded, escaped, coloured only on a terminal, or JSON.

Transcripts hold hostile text. Control characters could move the cursor or rewrite what was printed, and bidirectional
marks could make text read as what it is not; both are made visible before anything reaches a terminal.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

import click
import msgspec

from everlog.compare import WHOLE
from everlog.core.event import Event
from everlog.core.position import format_micros
from everlog.core.ranking import Snippet

TEXT_CHARACTERS = 160  # of one event in a listing
PAGE_CHARACTERS = 8_000  # of each text of one event that is shown
_UNUSUAL = re.compile(r"[^\x20-\x7e\n]")
_COLOURS = {"user": "green", "agent": "cyan", "system": "magenta", "session": "yellow", "checkpoint": "yellow"}


def visible(text: str, *, lines: bool = False) -> str:
    """Make control characters, bidirectional and other format marks visible. lines: let line breaks and tabs be."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible_character(character, lines=lines) for character in text)


def _visible_character(character: str, *, lines: bool) -> str:
    if character.isprintable() or (lines and character in "\n\t"):
        return character
    if character == "\n":
        return "⏎"
    if unicodedata.category(character) == "Zs":
        return " "
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{{{code:x}}}"


def visible_json(value: Any) -> str:
    """Give a value as indented JSON in which what `visible` shows otherwise is escaped as JSON has it."""
    return _escaped(_pretty(value))


def _escaped(json: str) -> str:
    return _UNUSUAL.sub(lambda found: found[0] if found[0].isprintable() else _json_escape(found[0]), json)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def shorten(text: str, characters: int = TEXT_CHARACTERS) -> str:
    """Cut a text to so many characters, saying so with an ellipsis."""
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def say(text: str = "") -> None:
    """Print a line to standard output."""
    click.echo(text)


def say_json(value: Any) -> None:
    """Print a value as one line of JSON, in which what `visible` shows otherwise is escaped as JSON has it."""
    line = msgspec.json.encode(value).decode()
    click.echo(line if line.isprintable() else _escaped(line))


def note(text: str) -> None:
    """Print a line to standard error: progress, and what is not the answer itself."""
    click.echo(text, err=True)


def size_of(count: int) -> str:
    """Give a number of bytes in words: 512 B, 4.2 kB, 1.5 GB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1_000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1_000
    return f"{value:,.1f} TB"


def counted(count: int, one: str, several: str | None = None) -> str:
    """Give a number of things in words: 1 object, 1,200 objects."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def ago(micros: int) -> str:
    """Give a length of time in words: 3 s, 12 min, 5 h, 3 d."""
    seconds = max(micros, 0) / 1_000_000
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def event_line(event: Event, *, address: str | None = None, says: str | None = None) -> str:
    """Give an event as one line: position, time, type, who, outcome, and the beginning of what it says.

    address: stands in place of the position. says: already made visible, in place of that beginning.
    """
    kind = event.type.partition(".")[0]
    position = click.style(f"{event.position:>6}" if address is None else visible(address), dim=address is None)
    # What the writer says, where it does: of an imported transcript the time of recording is that of the import.
    micros = event.recorded_micros if event.occurred_micros is None else event.occurred_micros
    moment = click.style(format_micros(micros)[5:19].replace("T", " "), dim=True)
    name = click.style(f"{visible(event.type):<18}", fg=_COLOURS.get(kind))
    parts = [position, moment, name]
    if event.outcome is not None:
        parts.append(click.style(event.outcome, fg="green" if event.outcome == "ok" else "red"))
    if event.actor is not None:
        parts.append(click.style(visible(event.actor), fg="blue"))
    parts.append(shorten(visible(gist(event)[: 4 * TEXT_CHARACTERS])) if says is None else says)
    return "  ".join(parts)


def highlighted(snippet: Snippet) -> str:
    """Give a snippet made visible, with what was looked for in bold."""
    parts: list[str] = []
    at = 0
    for start, stop in snippet.matches:
        parts += [visible(snippet.text[at:start]), click.style(visible(snippet.text[start:stop]), bold=True)]
        at = stop
    return "".join([*parts, visible(snippet.text[at:])])


def gist(event: Event) -> str:
    """Give what an event says, in short: its text, its tool's name and input, its state."""
    if event.erased:
        return "(erased)"
    if event.withheld:
        return "(withheld)"
    data = event.data
    if not isinstance(data, dict):
        return _attached(event) if data is None else compact(data)
    match event.type:
        case "model.request":
            return " ".join([data["model"], *([f"at {data['provider']}"] if "provider" in data else [])])
        case "model.response":
            return _answer(data)
        case "agent.tool_use":
            return f"{data['name']} {_text(data['input'])}"
        case "agent.tool_result":
            return _text(data.get("content"))
        case "state.set":
            return f"{data['path'] or WHOLE} = {compact(data['value'])}"
        case "checkpoint":
            return str(data["name"])
        case "state.patch":
            return f"{data.get('path') or WHOLE} ~ {compact(data.get('ops', data.get('merge')))}"
        case "session.forked" | "session.rewound" | "session.switched" | "session.merged":
            origin = data["from"]
            reason = f": {data['reason']}" if "reason" in data else ""
            return f"from {str(origin['branch'])[:8]}@{origin['position']}{reason}"
        case _:
            return _text(data.get("content", data.get("message", data)))


def _attached(event: Event) -> str:
    """Give what an event holds beside a body that says nothing."""
    return ", ".join(f"{item.name} ({size_of(item.size)})" for item in event.attachments)


def _answer(data: dict[str, Any]) -> str:
    """Give what is known of a model's answer: the model, why it ended, the numbers of tokens; or its error."""
    error = data.get("error")
    if isinstance(error, dict):
        return ": ".join(str(error[name]) for name in ("kind", "message") if name in error)
    told = [str(data[name]) for name in ("model", "stop_reason") if name in data]
    usage = data.get("usage", {})
    spent = [f"{usage[name + '_tokens']} {name} tokens" for name in ("input", "output") if name + "_tokens" in usage]
    return ", ".join([*told, *spent]) or compact(data)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and len(value) == 1:
        (only,) = value.values()
        if isinstance(only, str):
            return only
    if isinstance(value, list):
        texts = [block["text"] for block in value if isinstance(block, dict) and isinstance(block.get("text"), str)]
        if texts:
            return " ".join(texts)
    return compact(value)


def compact(value: Any) -> str:
    """Give a value as one line of JSON."""
    return msgspec.json.encode(value).decode()


def event_page(event: Event, *, full: bool) -> Iterable[str]:
    """Give an event, a line at a time; long texts whole only where `full` asks for it."""
    members = event.to_dict()
    body = {name: members.pop(name, None) for name in ("data", "metadata", "rationale")}
    for name, value in members.items():
        shown = value if isinstance(value, str) else compact(value)
        yield f"{click.style(f'{name:<12}', dim=True)}{visible(shown)}"
    for name, value in body.items():
        if value is not None:
            yield click.style(name, bold=True)
            text = value if isinstance(value, str) else _pretty(value)
            cut = len(text) if full else PAGE_CHARACTERS
            yield visible(text[:cut], lines=True)
            if len(text) > cut:
                yield f"… {len(text) - cut} more characters: --full"


def _pretty(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def progress_bar(label: str, total: int | None) -> Any:
    """Give a progress bar on standard error, or something that shows nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    progress.add_task(label, total=total)
    return progress


def working(label: str) -> Any:
    """Give what shows on standard error, for as long as it lasts, that work goes on, and how long it has."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    progress.add_task(label, total=None)
    return progress


def advance(progress: Any) -> Callable[[int], None]:
    """Give what moves a progress bar on to so many done."""
    return lambda done: progress.update(progress.task_ids[0], completed=done)


def advance_of(progress: Any) -> Callable[[int, int], None]:
    """Give what moves a progress bar on to so many of so many done."""
    return lambda done, total: progress.update(progress.task_ids[0], completed=done, total=total)
