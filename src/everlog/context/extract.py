"""The summarizer that needs no model: it picks sentences and counts, and rewords nothing.

A summary is lines of text. Each begins with what it is, the position that it comes from and who said it: `- [constraint @5 user]
never touch the billing module`. Behind them stand what is counted: tools, files, addresses. A summary of summaries picks among their
lines. The same events give the same text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from everlog.context.tokens import BYTES_PER_TOKEN
from everlog.core.event import Event
from everlog.reducers.blocks import has_failed, text_of

METHOD: Final = "extract/1"
LEAF_TOKENS: Final = 240  # of a summary of events, at most
NODE_TOKENS: Final = 480  # of a summary of summaries
_LINE_CHARACTERS: Final = 240
_SENTENCES_MAX: Final = 400  # of one event that are looked at
_TEXT_CHARACTERS_MAX: Final = 200_000  # of one event that are looked at
_LISTED_MAX: Final = 24  # files, and as many addresses
_WEIGHTS: Final = {
    "constraint": 9,
    "goal": 8,
    "open": 8,
    "decision": 7,
    "error": 6,
    "stated": 6,  # a fact that a person or a note said
    "fact": 5,
    "state": 4,
    "note": 4,
    "user": 3,
    "said": 2,
    "summary": 1,
}
_SHARE: Final = 0.45  # of the room that lines of one kind take past the first, where others want it
_CONSTRAINT: Final = re.compile(
    r"\b(never|always|must(?:n't)?|do not|don't|cannot|can't|only|required?|forbidden|avoid|make sure|ensure|remember|important|prefers?|"
    r"constraint|deadline|at (?:most|least)|no more than|before you|without)\b|不要|必须|務必|禁止|必ず|しないで|ください",
    re.IGNORECASE,
)
_GOAL: Final = re.compile(
    r"\b(please|we need|i need|i want|i would like|i'd like|goal|task|implement|fix|add|write|build|create|find|investigate|refactor)\b|请|請|希望|目標",
    re.IGNORECASE,
)
_FACT: Final = re.compile(r"[A-Za-z_-]*\d[\w.:/-]{2,}|`[^`\n]{2,80}`|https?://\S+|\b[A-Z][A-Z0-9_]{4,}\b")
_SENTENCE: Final = re.compile(r"[^.!?。！？\n]*(?:[.!?。！？](?=\S)[^.!?。！？\n]*)*[.!?。！？\n]?")
_PATH: Final = re.compile(r"(?<![\w:/.@~-])(?:~|\.{1,2})?/?(?:[\w.@-]+/)+[\w.@-]*\.\w{1,8}\b")
_ADDRESS: Final = re.compile(r"https?://[^\s\"'<>()\\]{3,200}")
_LINE: Final = re.compile(r"- \[(\w+) @(\d{1,15})(?: ([^\]]*))?\] (.*)")
# Bounded, so that a text of another make takes time that grows with its length only.
_COUNTED: Final = re.compile(r"(\S{1,64}) (\d{1,15})(?: \((\d{1,15}) failed\))?")


class _Line(NamedTuple):
    """A line of a summary: what it is, the position it comes from, who said it, and its text."""

    kind: str
    position: int
    actor: str
    text: str

    def __str__(self) -> str:
        return f"- [{self.kind} @{self.position}{' ' + self.actor if self.actor else ''}] {self.text}"


class _Gathered:
    """What a range offers: lines to pick from, and what is counted."""

    def __init__(self) -> None:
        self.lines: list[_Line] = []
        self.tools: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.files: dict[str, None] = {}
        self.addresses: dict[str, None] = {}
        self.open: dict[str, tuple[int, str]] = {}  # uses without results, by id: position and tool

    def list_in(self, text: str) -> None:
        """List the files and addresses of a text."""
        for pattern, listed in ((_PATH, self.files), (_ADDRESS, self.addresses)):
            for found in pattern.finditer(text):
                if len(listed) >= 4 * _LISTED_MAX:
                    break
                listed.setdefault(found[0][:200].rstrip(".,;:"))


def extract_events(events: Sequence[Event], *, tokens: int = LEAF_TOKENS) -> str:
    """Summarize events, oldest first, in at most so many estimated tokens."""
    gathered = _Gathered()
    for event in events:
        if event.raw is not None and isinstance(event.data, dict):
            _gather(gathered, event, event.data)
    gathered.lines += [_Line("open", at, "", f"{name} has no result yet") for at, name in gathered.open.values()]
    return _written(gathered, tokens)


def extract_summaries(texts: Iterable[tuple[int, str]], *, tokens: int = NODE_TOKENS) -> str:
    """Summarize summaries, oldest first: each the position that it begins at, and its text."""
    gathered = _Gathered()
    for start, text in texts:
        for line in text.splitlines():
            _gather_line(gathered, start, line)
    return _written(gathered, tokens)


def _gather(gathered: _Gathered, event: Event, data: dict[str, Any]) -> None:
    add = gathered.lines.append
    position, actor = event.position, event.actor or ""
    match event.type:
        case "user.message":
            _gather_said(gathered, position, actor or "user", data.get("content"), "user")
        case "agent.message":
            _gather_said(gathered, position, actor or "agent", data.get("content"), "said")
        case "agent.tool_use":
            name = _one_line(data.get("name"))[:64].replace(" ", "_") or "tool"
            gathered.tools[name] += 1
            gathered.open[str(data.get("id"))] = (position, name)
            gathered.list_in(_json(data.get("input"))[:_TEXT_CHARACTERS_MAX])
        case "agent.tool_result":
            _gather_result(gathered, event, data)
        case "decision":
            add(_Line("decision", position, actor, _one_line(data.get("choice"))))
        case "note":
            _gather_said(gathered, position, actor, data.get("content"), "note")
        case "error":
            add(_Line("error", position, actor, _one_line(data.get("message"))))
        case "state.set":
            add(_Line("state", position, actor, f"{_one_line(data.get('path'))} = {_one_line(data.get('value'))}"))
        case "step.finished" if "error" in data:
            add(_Line("error", position, actor, f"step {_one_line(data.get('step'))}: {_one_line(data['error'])}"))
        case _:
            pass
    if event.rationale:
        add(
            _Line(
                "decision" if event.type == "decision" else "said",
                position,
                actor,
                f"because {_one_line(event.rationale)}",
            )
        )


def _gather_result(gathered: _Gathered, event: Event, data: dict[str, Any]) -> None:
    _, name = gathered.open.pop(str(data.get("tool_use_id")), (0, "tool"))
    if has_failed(event, data):
        gathered.failed[name] += 1
        said = next((line for line in _text(data.get("content")).splitlines() if line.strip()), "failed")
        gathered.lines.append(_Line("error", event.position, event.actor or "", f"{name}: {_one_line(said)}"))


def _gather_said(gathered: _Gathered, position: int, actor: str, content: Any, kind: str) -> None:
    """Add the sentences of what was said, each as what it seems to be."""
    text = _text(content)[:_TEXT_CHARACTERS_MAX]
    gathered.list_in(text)
    first = True
    for sentence in _sentences(text):
        if kind in {"user", "note"} and _CONSTRAINT.search(sentence):
            found = "constraint"
        elif kind == "user" and _GOAL.search(sentence):
            found = "goal"
        elif _FACT.search(sentence):
            found = "fact" if kind == "said" else "stated"
        elif first:
            found = kind
        else:
            continue
        gathered.lines.append(_Line(found, position, actor, sentence))
        first = False


def _gather_line(gathered: _Gathered, start: int, line: str) -> None:
    """Add a line of a summary, ours or a model's."""
    found = _LINE.fullmatch(line)
    name, _, listed = line.partition(": ")
    if found is not None:
        kind = found[1] if found[1] in _WEIGHTS else "summary"
        gathered.lines.append(_Line(kind, int(found[2]), found[3] or "", found[4]))
    elif name == "Tools":
        for tool, count, failed in _COUNTED.findall(listed):
            gathered.tools[tool] += int(count)
            gathered.failed[tool] += int(failed or 0)
    elif name in {"Files", "Addresses"}:
        into = gathered.files if name == "Files" else gathered.addresses
        into.update(dict.fromkeys(listed.split(", ")))
    elif line.strip():
        gathered.lines.append(_Line("summary", start, "", _one_line(line)))


def _written(gathered: _Gathered, tokens: int) -> str:
    """Write the weightiest lines that fit, in the order of their positions, and what was counted."""
    counted = _counted(gathered)
    left = tokens * BYTES_PER_TOKEN - sum(len(line.encode()) + 1 for line in counted)
    chosen: dict[int, str] = {}
    said: set[str] = set()
    room, taken = left, Counter[str]()
    ranked = sorted(enumerate(gathered.lines), key=lambda each: (-_WEIGHTS[each[1].kind], each[1].position, each[0]))
    for share in (_SHARE, 1.0):
        for place, line in ranked:
            written = str(line)
            size = len(written.encode()) + 1
            full = taken[line.kind] > 0 and taken[line.kind] + size > share * room
            if size > left or line.text in said or full:
                continue
            said.add(line.text)
            chosen[place] = written
            taken[line.kind] += size
            left -= size
    return "\n".join([written for _, written in sorted(chosen.items())] + counted)


def _counted(gathered: _Gathered) -> list[str]:
    lines: list[str] = []
    if gathered.tools:
        tools = sorted(gathered.tools.items(), key=lambda each: (-each[1], each[0]))[:_LISTED_MAX]
        lines.append("Tools: " + ", ".join(f"{name} {count}{_failed(gathered.failed[name])}" for name, count in tools))
    for title, listed in (("Files", gathered.files), ("Addresses", gathered.addresses)):
        if listed:
            lines.append(f"{title}: " + ", ".join(list(listed)[-_LISTED_MAX:]))
    return [line[: 4 * _LINE_CHARACTERS] for line in lines]


def _failed(count: int) -> str:
    return f" ({count} failed)" if count else ""


def _sentences(text: str) -> Iterator[str]:
    given = 0
    for found in _SENTENCE.finditer(text):
        said = found[0].strip()
        if len(said) > 1:
            yield _one_line(said)
            given += 1
        if given >= _SENTENCES_MAX:
            return


def _one_line(value: Any) -> str:
    """Give a value as one line of bounded length."""
    line = " ".join((value if isinstance(value, str) else _json(value))[: 16 * _LINE_CHARACTERS].split())
    return line if len(line) <= _LINE_CHARACTERS else line[: _LINE_CHARACTERS - 1] + "…"


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(text for block in content if (text := text_of(block)))
    return content if isinstance(content, str) else ""


def _json(value: Any) -> str:
    return "" if value is None else msgspec.json.encode(value).decode()
