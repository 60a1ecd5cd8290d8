"""What a run says where it parts from its record: both sides, and how to go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from everlog.core.event import Event
from everlog.errors import DivergenceError
from everlog.journal import Record
from everlog.scopes import StepName


class Named(Protocol):
    """A run, as far as it is spoken of."""

    name: str

    @property
    def session(self) -> HasId: ...


class HasId(Protocol):
    """A session's handle, as far as it is spoken of."""

    @property
    def id(self) -> str: ...


def left_out(run: Named, left: Sequence[tuple[StepName, Record]]) -> DivergenceError:
    """Say that a run ended without what stands in its record."""
    name, record = left[0]
    place = -1 if record.event is None else record.event.position
    more = "" if len(left) == 1 else f" and {len(left) - 1} more"
    return DivergenceError(
        f"{_of(run)} ended without {name}, which stands in its record at position {place}{more}; what it did otherwise is recorded; "
        f"run the code that recorded it, or fork there: session.fork({place}); what a thread does in a stage must know it: start it "
        "with contextvars.copy_context().run",
        recorded=record.event,
        asked=None,
    )


def left_line(run: Named) -> DivergenceError:
    """Say that a session was rewound or switched under a run."""
    return DivergenceError(
        f"session {run.session.id!r} was rewound or switched while run {run.name!r} was under way; nothing was written since; begin "
        "the run again, on the line that is current now",
        recorded=None,
        asked=None,
    )


def two_processes(run: Named, event: Event | None) -> DivergenceError:
    """Say that another process goes through the same run."""
    place = -1 if event is None else event.position
    return DivergenceError(
        f"another process goes through {_of(run)} at the same time, and recorded otherwise at position {place}; nothing was written; "
        "let one do so: store.wake(…).run()",
        recorded=event,
        asked=None,
    )


def not_recorded(run: Named, name: StepName) -> DivergenceError:
    """Say that something new is asked for inside what is recorded as finished."""
    return DivergenceError(
        f"{name} is not in the record of {_of(run)}, and what it is asked for in is recorded as finished; nothing was written; run the "
        "code that recorded it, or rewind or fork before that and go on otherwise: see everlog log SESSION 'type:step.*'",
        recorded=None,
        asked=name.name,
    )


def other_input(run: Named, name: StepName, event: Event, asked: Any) -> DivergenceError:
    """Say that a step is asked for with another input than was recorded."""
    return DivergenceError(
        f"{name} of {_of(run)} was recorded at position {event.position} with the input {event.data.get('input')!r:.300}, and is asked "
        f"for with {asked!r:.300}; nothing was written; run the code that recorded it, or fork there and go on otherwise: "
        f"session.fork({event.position}); steps that run side by side need names of their own",
        recorded=event,
        asked=asked,
    )


def other_wait(run: Named, name: StepName, event: Event, *, sleeps: bool) -> DivergenceError:
    """Say that a wait was recorded as a sleep, or a sleep as a wait."""
    what = ("wait for a signal", "sleep")
    return DivergenceError(
        f"{name} of {_of(run)} was recorded at position {event.position} as a {what[not sleeps]}, and is asked for as a {what[sleeps]}; "
        f"nothing was written; run the code that recorded it, or fork there and go on otherwise: session.fork({event.position})",
        recorded=event,
        asked=what[sleeps],
    )


def _of(run: Named) -> str:
    return f"run {run.name!r} of session {run.session.id!r}"
