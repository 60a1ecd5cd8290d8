"""Write the generated pages of the reference from the code: `python3 dev.py docs`. A test sees that they are current."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import everlog
from everlog import errors
from everlog import pending as in_flight
from everlog.approving import Proposal, Proposed
from everlog.auditing import Audit, Deletion, Erasure, Fork, Hold, Line, SealedTo
from everlog.bundle import Exported
from everlog.certificates import Certificate, CertifiedRecord, Checked
from everlog.cli.commands import everlog as command
from everlog.cli.main import EXIT_CODES, exit_code
from everlog.cli.topics import TOPICS
from everlog.core.redact import Finding
from everlog.core.retention import Policy
from everlog.core.sealed_proof import Sealing
from everlog.core.standard import STANDARD_TYPES, is_reserved
from everlog.encryption import Encryption, EncryptionKeys
from everlog.forms import StepForm
from everlog.planning import ErasurePlan, PlannedEvent, PlannedHold, PlannedSummary
from everlog.retaining import Due, Spared, Work
from everlog.retention import Plan, Retention
from everlog.sealing import Sealer
from everlog.seals import Seal
from everlog.signing import Keys
from everlog.tally import Acting, Fact, Facts, Tenure, Tenures, Window, Windows
from everlog.tiles import TilesWritten

FOLDER = Path(__file__).parent / "reference"
LIMITS = Path(inspect.getfile(everlog)).parent / "core" / "limits.py"
# What the modules of Everlog call of each other, and users do not.
INTERNAL = frozenset(
    {
        *("Branch.view", "Feed.finished", "Feed.page", "Feed.passed", "Lease.due", "Lease.over", "Lease.shown"),
        *("Query.range_terms", "Query.split", "Store.opened", "Store.read_short", "Store.wake_unless"),
        *(
            "Session.append_request",
            "Session.conflict",
            "Session.conversation_in_flight",
            "Session.gave_back",
            "Session.under",
        ),
        *(
            "Session.lease_shown",
            "Session.lease_unless",
            "Session.line_seen",
            "Session.own_request",
            "Session.saw",
            "Session.view",
            "Session.view_seen",
        ),
        *("Session.write", "Session.write_own"),
        *("Keys.record", "Keys.settle", "Keys.sign", "Keys.was_last"),
        *("Policy.before", "Policy.members", "Policy.sessions", "Policy.type_term", "Policy.lapses"),
    }
)
# Classes that users meet and do not import: what gives them.
_GIVEN: dict[type[Any], str] = {
    StepForm: "What `run.step(name)` and `run.stage(name)` give where they are given no function; on the async face the same names.",
    in_flight.PendingTool: "In `Pending.tools`.",
    in_flight.PendingStep: "In `Pending.steps`.",
    in_flight.PendingWait: "In `Pending.waits`.",
    in_flight.PendingSignal: "In `Pending.signals`.",
    Finding: "In `SecretError.findings`.",
    Retention: "What `store.retention` gives; on the async face the same names.",
    Policy: "In `Retention.policies()`.",
    Plan: "What `Retention.plan()` gives.",
    Work: "In `Plan.work`, and what `Retention.apply()` gives.",
    Due: "In `Work.due`.",
    Spared: "In `Work.spared`.",
    Keys: "What `store.keys()` gives, on both faces.",
    Seal: "What `store.seal()` gives, and in `store.seals()`.",
    Sealer: "What `store.sealer()` gives, on both faces.",
    TilesWritten: "What `store.write_tiles()` gives.",
    Sealing: "What `SealedProof.verify()` gives.",
    Exported: "In what `store.export()` gives.",
    Encryption: "What `store.encryption` gives; on the async face the same names.",
    EncryptionKeys: "What `Encryption.keys()` gives.",
    ErasurePlan: "What `session.plan_erasure()` gives.",
    PlannedEvent: "In `ErasurePlan.listed`.",
    PlannedSummary: "In `ErasurePlan.summaries`.",
    PlannedHold: "In `ErasurePlan.holds`.",
    Certificate: "What `session.erase()` and `session.certificate()` give.",
    CertifiedRecord: "In `Certificate.records`.",
    Checked: "What `store.check_certificate()` gives.",
    Audit: "What `session.audit()` gives.",
    Line: "In `Audit.lines`.",
    Acting: "In `Audit.actors`.",
    Facts: "`Audit.decisions`, `troubles`, `moves` and `redactions`.",
    Fact: "In `Facts.newest`.",
    Windows: "`Audit.windows`.",
    Window: "In `Windows.newest`.",
    Fork: "In `Audit.forks`.",
    Tenures: "`Audit.leases`.",
    Tenure: "In `Tenures.newest`.",
    Erasure: "In `Audit.erasures`.",
    Deletion: "In `Audit.deletions`.",
    Hold: "In `Audit.holds`.",
    SealedTo: "`Audit.seal`.",
    Proposal: "What `Retention.propose_erasure()` and its kin give.",
    Proposed: "In `Proposal.what`.",
}
_MADE = "<!-- Made from the code by `python3 dev.py docs`. -->"
_LIMIT = re.compile(r"^([A-Z_]+) = (.+?)(?:  # (.*))?$")
_SECTION = re.compile(r"^# --- (.*?) -+$")


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"docs/reference/{name}", file=sys.stderr)


def pages() -> dict[str, str]:
    """Give the text of every generated page, by its file's name."""
    makers: dict[str, Callable[[], Iterator[str]]] = {
        "python.md": python_page,
        "command-line.md": command_line_page,
        "events.md": events_page,
        "errors.md": errors_page,
        "limits.md": limits_page,
    }
    return {name: "\n".join([_MADE, "", *make()]).rstrip("\n") + "\n" for name, make in makers.items()}


# --- Python --------------------------------------------------------------------------------------
def python_page() -> Iterator[str]:
    """Give the public names with their signatures and docstrings."""
    yield from ("# Python", "", "The public names of `everlog`. The async face has the same methods, awaited.", "")
    for name in sorted(everlog.__all__, key=str.lower):
        member = getattr(everlog, name)
        yield from (f"## `{name}`", "")
        if inspect.isclass(member):
            yield from _class(name, member)
        elif callable(member):
            yield from (*_signature(name, member), *_quoted(member))
        else:
            yield from (f"`{name} = {member!r}`", "")
    for kind, given in _GIVEN.items():
        yield from (f"## `{kind.__name__}`", "", given, "", *_class(kind.__name__, kind))


def _class(name: str, kind: type[Any]) -> Iterator[str]:
    if name.startswith("Async"):
        yield from (
            f"The async face of `{name.removeprefix('Async')}`: the same names, with `await` and `async for`.",
            "",
        )
        return
    if name in ("NewEvent", "Head", "SessionInfo", "Attachment", "StateHash"):
        yield from _signature(name, kind)
    yield from _quoted(kind)
    if kind is everlog.Woken:
        yield from ("It has all that a `Session` has.", "")
        return
    for each, member in _members(kind):
        if f"{name}.{each}" in INTERNAL:
            continue
        if isinstance(member, property):
            returns = inspect.get_annotations(member.fget).get("return", "") if member.fget else ""
            yield from (f"**`{each}`**: `{returns}`", "", *_quoted(member))
        else:
            function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            yield from (*_signature(f"{name}.{each}", function), *_quoted(function))


def _members(kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """Give the documented public members of a class and of its own bases, each once, in the order of their writing."""
    seen: set[str] = set()
    for base in kind.__mro__:
        if not base.__module__.startswith("everlog"):
            continue
        for name, member in vars(base).items():
            plain = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            if name.startswith("_") or name in seen or not (inspect.isfunction(plain) or isinstance(member, property)):
                continue
            seen.add(name)
            if inspect.getdoc(plain):
                yield name, member


def _signature(name: str, member: Any) -> list[str]:
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(member)))
    text = re.sub(r"\((self|cls)(, )?", "(", text, count=1)
    text = re.sub(r"\b(?:everlog|datetime|collections\.abc|typing)(?:\.\w+)*\.(?=[A-Z])", "", text)
    if len(name) + len(text) > 110 and "(" in text:
        inside, _, after = text[1:].rpartition(")")
        arguments = ",\n    ".join(_split_arguments(inside))
        text = f"(\n    {arguments},\n){after}"
    return ["```text", f"{name}{text}", "```", ""]


def _split_arguments(text: str) -> list[str]:
    found, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            found.append(text[start:index].strip())
            start = index + 1
    return [*found, text[start:].strip()]


def _quoted(member: Any) -> list[str]:
    """Give a docstring as a paragraph, with its lines as they are: each names a parameter, a bound or an error."""
    text = inspect.getdoc(member) or ""
    if isinstance(member, type) and text.startswith(f"{member.__name__}("):
        text = ""
    lines = [_escaped(line) for line in text.splitlines()]
    return [
        *(f"{line}  " if line and following else line for line, following in zip(lines, [*lines[1:], ""], strict=True)),
        "",
    ]


def _escaped(text: str) -> str:
    """Keep Markdown from reading globs, names and types as its own marks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<>\[\]|])", r"\\\1", part) for part in parts)


# --- the command line ----------------------------------------------------------------------------
def command_line_page() -> Iterator[str]:
    """Give the help of every command and topic, as it is printed."""
    yield from ("# Command line", "", "What `everlog help` prints.", "")
    settings: Any = {"max_content_width": 100, "terminal_width": 100, "help_option_names": ["-h", "--help"]}
    with click.Context(command, info_name="everlog", **settings) as root:
        yield from ("```text", *_trimmed(command.get_help(root)), "```", "")
        for name, each in command.commands.items():
            with click.Context(each, info_name=name, parent=root, **settings) as inner:
                yield from (f"## {name}", "", "```text", *_trimmed(each.get_help(inner)), "```", "")
                for word, part in each.commands.items() if isinstance(each, click.Group) else ():
                    with click.Context(part, info_name=word, parent=inner, **settings) as innermost:
                        yield from (f"### {name} {word}", "", "```text", *_trimmed(part.get_help(innermost)), "```", "")
    for name, text in TOPICS.items():
        yield from (f"## Topic: {name}", "", "```text", *_trimmed(text.strip("\n")), "```", "")


def _trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


# --- events, errors, limits ----------------------------------------------------------------------
def events_page() -> Iterator[str]:
    """Give the standard event types and their members."""
    yield from ("# Standard event types", "")
    yield "Any type `[a-z][a-z0-9_.]*` may be appended. Of these the members are checked; `?` is optional, more are kept."
    yield from ("", "| type | data | written by |", "| --- | --- | --- |")
    for name, members in STANDARD_TYPES.items():
        shown = ", ".join(f"`{member}` {kind}" for member, (_, kind) in members.items())
        yield f"| `{name}` | {shown} | {'its own verb' if is_reserved(name) else 'append'} |"


def errors_page() -> Iterator[str]:
    """Give the errors by what to do next."""
    document = inspect.getdoc(errors) or ""
    yield from ("# Errors", "", "In `everlog.errors`.", "", "```text", *document.splitlines()[2:-3], "```", "")
    yield from ("| error | code | exit code | means |", "| --- | --- | --- | --- |")
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.EverlogError) and not kind.__name__.startswith("_"):
            first = (inspect.getdoc(kind) or "").splitlines()[0]
            try:
                code = str(exit_code(kind("x")))
            except TypeError:  # it takes more than a message; its kind decides
                code = str(exit_code(kind.__new__(kind)))
            yield f"| `{kind.__name__}` | `{kind.code}` | {code} | {_escaped(first)} |"
    yield from ("", "## Exit codes", "", "| code | means |", "| --- | --- |")
    yield from (f"| {code} | {meaning} |" for code, meaning in EXIT_CODES)


def limits_page() -> Iterator[str]:
    """Give every bound, with its reason."""
    yield from ("# Limits", "", "Passing one raises `LimitError`, which names the member and the bound.", "")
    for line in LIMITS.read_text(encoding="utf-8").splitlines():
        if section := _SECTION.match(line):
            yield from ("", f"## {section[1].capitalize()}", "", "| limit | value | because |", "| --- | --- | --- |")
        elif limit := _LIMIT.match(line):
            yield f"| `{limit[1]}` | `{limit[2]}` | {limit[3] or ''} |"


if __name__ == "__main__":
    main()
