"""What `everlog wake` shows: a session's lease, why work last stopped, what is in flight, and what to type about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from shlex import quote
from typing import Any, NamedTuple

from everlog.cli.output import ago, compact, note, say, shorten, visible
from everlog.core.event import Event
from everlog.core.lease import LeaseRow, Ticks
from everlog.core.limits import SCAN_EVENTS_MAX
from everlog.core.position import format_address, format_micros
from everlog.journal import DECISION
from everlog.pending import Pending, PendingStep, PendingTool, PendingWait
from everlog.reducers.pending import DEFAULT_RUN, MOST
from everlog.scopes import StepName
from everlog.session import Session

FIRST = 20  # of each kind, that people are shown
DECISIONS = ("retry", "fail", "finished")
_TEXT_CHARACTERS = 100
_ID_CHARACTERS = 40  # providers' ids of tool uses have about 30


class Unknown(NamedTuple):
    """A step that is recorded as unknown, and about which nobody decided."""

    run: str
    name: str
    occurrence: int
    position: int


class Stop(NamedTuple):
    """Why whoever worked last stopped. position: of the event that says so; None where a lease lapsed, and nobody has said so yet."""

    position: int | None
    reason: str


def in_flight_members(session: Session, found: Pending) -> dict[str, Any]:
    """Give what is in flight as JSON values."""
    now, wall = session.storage.ticks(), session.storage.now()
    lease = session.storage.lease(session.uuid)
    held = None
    if lease is not None and lease.lives(now):
        held = {"holder": lease.holder, "token": lease.number, "until": format_micros(wall + lease.left(now))}
    checkpoint, stopped = session.last("checkpoint"), _last_stop(session, found.size, lease, now)
    return {
        "session": session.id,
        "lease": held,
        "stopped": None if stopped is None else stopped._asdict(),
        "checkpoint": None if checkpoint is None else {"name": _name_of(checkpoint), "position": checkpoint.position},
        "unknown": [step._asdict() for step in _undecided(session, found.size)],
    } | found.to_dict()


def say_in_flight(session: Session, found: Pending, *, store: str | None) -> None:
    """Print what is in flight, the first of each kind. store: as it was given on the command line."""
    _say_place(session, found)
    signal = _SignalLine(session, found, store)
    unknown = _undecided(session, found.size)
    _say_first(found.tools, _tool_line)
    _say_first(found.steps, _step_line)
    _say_first(unknown, _unknown_line)
    _say_first(found.waits, signal.line)
    _say_first(found.messages, lambda position: _message_line(session.event(position)))
    _say_first(found.signals, lambda row: f"signal      {visible(row.name)} at {row.position}, taken by no wait yet")
    if found.dropped:
        say(
            f"dropped     {found.dropped} older ones over time, which are counted and not listed: of each kind {MOST:,} are kept"
        )
    if not found and not found.signals and not unknown:
        note("nothing is in flight")


def _say_place(session: Session, found: Pending) -> None:
    now, lease = session.storage.ticks(), session.storage.lease(session.uuid)
    say(f"{visible(format_address(session.id))}: {found.size} events")
    if lease is not None and lease.lives(now):
        say(f"lease       {visible(lease.holder or '')}, for {ago(lease.left(now))} more (token {lease.number})")
    else:
        say("lease       nobody's")
        stopped = _last_stop(session, found.size, lease, now)
        if stopped is not None:
            place = "" if stopped.position is None else f"at {stopped.position}: "
            say(f"stopped     {place}{shorten(visible(stopped.reason), _TEXT_CHARACTERS)}")
    checkpoint = session.last("checkpoint")
    if checkpoint is not None and not checkpoint.erased:
        say(f"checkpoint  {visible(str(_name_of(checkpoint)))} at {checkpoint.position}")


def _say_first(rows: Sequence[Any], line: Callable[[Any], str]) -> None:
    for row in rows[:FIRST]:
        say(line(row))
    if len(rows) > FIRST:
        say(f"            and {len(rows) - FIRST:,} more; --json gives all")


# --- lines ---
def _tool_line(tool: PendingTool) -> str:
    name, use = shorten(visible(str(tool.name)), _TEXT_CHARACTERS), shorten(visible(tool.id), _ID_CHARACTERS)
    return f"tool use    {name} {use} at {tool.position}: no result"


def _step_line(step: PendingStep) -> str:
    state = "waits to be tried again" if step.retry_at is not None else "started and not finished"
    run = "" if step.kind == "run" else _of_run(step.run)
    return f"{step.kind:<11} {visible(step.name)}{run} at {step.position}: {state}"


def _unknown_line(step: Unknown) -> str:
    return (
        f"unknown     {visible(step.name)}{_of_run(step.run)} at {step.position}: it may have taken effect, and nobody decided; run "
        "it with policy='retry', or with 'ask' and decide"
    )


def _message_line(event: Event) -> str:
    content = "" if not isinstance(event.data, dict) else event.data.get("content")
    text = content if isinstance(content, str) else compact(content)
    return f"message     at {event.position}, not answered: {shorten(visible(text), _TEXT_CHARACTERS)}"


class _SignalLine:
    """Says of a wait what it waits for, and what to type."""

    def __init__(self, session: Session, found: Pending, store: str | None) -> None:
        self._session = session
        self._found = found
        self._store = store

    def line(self, wait: PendingWait) -> str:
        event = self._session.event(wait.position)
        until = "for ever" if wait.until is None else f"until {format_micros(wait.until)}"
        sleeps = isinstance(event.data, dict) and event.data.get("sleep") is True
        begun = (
            f"{'sleep' if sleeps else 'wait':<11} {visible(wait.name)}{_of_run(wait.run)} at {wait.position}, {until}"
        )
        if not sleeps and any(self._fits(wait, name, position) for name, position in self._signals()):
            return f"{begun}: a fitting signal waits already: run it again"
        if wait.until is not None and wait.until <= self._session.storage.now():
            return f"{begun}: its time is over: run it again"
        return begun if sleeps else f"{begun}: {self._command(wait.name)}"

    def _signals(self) -> list[tuple[str, int]]:
        return [(signal.name, signal.position) for signal in self._found.signals]

    def _fits(self, wait: PendingWait, name: str, position: int) -> bool:
        if name != wait.name:
            return False
        if name.startswith(DECISION):  # what was decided before the step was started is no answer
            asked = {"data.step": name.removeprefix(DECISION)}
            start = max(0, wait.position - SCAN_EVENTS_MAX)
            began = self._session.last("step.started", where=asked, start=start, stop=wait.position)
            if began is not None and position < began.position:
                return False
        return wait.until is None or self._session.event(position).recorded_micros < wait.until

    def _command(self, name: str) -> str:
        store = "" if self._store is None else f" --store {quote(self._store)}"
        words = [format_address(self._session.id), name]
        dashes = "-- " if any(word.startswith("-") for word in words) else ""
        data = "JSON"
        if name.startswith(DECISION):
            data = """'"retry"', or '"fail"', or '{"decision": "finished", "result": …}'"""
        return visible(f"everlog{store} signal {dashes}{' '.join(map(quote, words))} {data}")


def _of_run(run: str) -> str:
    return f" of run {visible(run)}"


def _name_of(checkpoint: Event) -> Any:
    return checkpoint.data["name"] if isinstance(checkpoint.data, dict) else None


# --- what is read besides ---
def _last_stop(session: Session, size: int, lease: LeaseRow | None, now: Ticks) -> Stop | None:
    """Give why the last lease ended, where nobody holds one: it lapsed, or a `lease.released` of the newest events says why."""
    if lease is None or lease.lives(now):
        return None
    if lease.holder is not None:
        return Stop(None, f"the lease of {lease.holder} lapsed: its process died, or slept")
    event = session.last("lease.released", start=max(0, size - SCAN_EVENTS_MAX))
    return Stop(event.position, event.data["reason"]) if event is not None and isinstance(event.data, dict) else None


def _undecided(session: Session, size: int) -> list[Unknown]:
    """Give the steps recorded as unknown that were neither tried again nor decided on, of the newest events."""
    found: list[Unknown] = []
    start = max(0, size - SCAN_EVENTS_MAX)
    for event in session.events(types="step.finished", outcome="unknown", start=start, reverse=True):
        data = event.data
        if not isinstance(data, dict):
            continue
        run, attempt = data.get("run", DEFAULT_RUN), data["attempt"]
        name = StepName(data.get("kind", "step"), data["step"], data["occurrence"], data.get("within", ""))
        later = (f"{attempt + 1}:started", f"{attempt}:decided")
        if all(session.find(name.key(run, what)) is None for what in later):
            found.append(Unknown(run, name.name, name.occurrence, event.position))
    return found[::-1]
