"""A run's journal: the steps, waits and signals that a session has recorded, read once and in order, found by name and occurrence.

1. What a process asks for in another order than was recorded is found all the same: the journal is read on until it is there.
2. What was given out is forgotten here, so that a run that goes through its record in order holds little of it.
"""

from __future__ import annotations

from threading import RLock
from typing import Any, Final, NamedTuple

import msgspec

from everlog.core.event import Event
from everlog.core.query import Exact, Term
from everlog.reducers.pending import DEFAULT_RUN
from everlog.writer import SessionWriter

DECISION: Final = "step:"  # begins the names of waits that decide about an unknown step; a replay does not ask again
_TYPES: Final = ("step.started", "step.finished", "wait.started", "wait.finished", "signal")
_TERMS: Final = (Term("type", tuple(Exact(name) for name in _TYPES)),)


class StepName(NamedTuple):
    """What names a step, stage, run or wait of a run. kind: "step", "stage", "run" or "wait"."""

    kind: str
    name: str
    occurrence: int

    def __str__(self) -> str:
        times = "" if self.occurrence == 1 else f" #{self.occurrence}"
        return f"{self.kind} {self.name!r}{times}"


class Record(msgspec.Struct):
    """What is recorded of a step or a wait. started: its last start; finished: its last end, which may ask for another try."""

    started: Event | None = None
    finished: Event | None = None

    @property
    def attempt(self) -> int:
        """How often it was started."""
        event = self.started or self.finished  # the start may have been erased
        return 0 if event is None else event.data.get("attempt", 1)

    @property
    def effect_key(self) -> str | None:
        return None if self.started is None else self.started.data.get("effect_key")

    @property
    def is_final(self) -> bool:
        return self.finished is not None and "retry_at" not in self.finished.data

    @property
    def is_unknown(self) -> bool:
        """Whether it was started, and nothing says how that went."""
        return self.started is not None and self.finished is None


class Journal:
    """Reads one run's record of a session's current branch. Used by one thread at a time, which `lock` sees to."""

    def __init__(self, session: SessionWriter, run: str) -> None:
        self._session = session
        self._run = run
        self._view = session.view()
        self._read = 0  # the position that it is read up to
        self._records: dict[StepName, Record] = {}
        self._signals: dict[str, list[Event]] = {}  # by name, those that no wait has taken, in order
        self._taken: set[int] = set()
        self.lock = RLock()
        self.recorded = self._view.size  # what was there when this run began to work

    def find(self, name: StepName) -> Record:
        """Give what is recorded of a step; an empty record where nothing is."""
        while True:
            record = self._records.get(name)
            if record is not None and record.is_final and "error" not in record.finished.data:  # pyright: ignore[reportOptionalMemberAccess]
                return record  # one that failed may have been tried once more, further on
            if not self._read_on():
                return record or Record()

    def give_out(self, name: StepName) -> None:
        """Forget a step that was asked for."""
        self._records.pop(name, None)

    def pass_stage(self, stage: Record) -> list[StepName]:
        """Forget what was recorded in a finished stage, and in stages within it; give their names."""
        started, finished = stage.started, stage.finished
        if started is None or finished is None:
            return []  # erased: what stood in it is not known
        inside, passed = {started.data["step"]}, list[StepName]()
        for name, record in sorted(self._records.items(), key=lambda item: _position(item[1])):
            event = record.started or record.finished
            if event is None or not started.position < event.position < finished.position:
                continue
            if event.data.get("stage") in inside:
                passed.append(name)
                inside |= {name.name} if name.kind == "stage" else set()
        for name in passed:
            del self._records[name]
        return passed

    def left(self) -> list[tuple[StepName, Record]]:
        """Give the steps that were recorded and not asked for; not the decisions about steps, which are asked for once."""
        while self._read_on():
            pass
        left = [(name, record) for name, record in self._records.items() if not name.name.startswith(DECISION)]
        return sorted(left, key=lambda item: _position(item[1]))

    def signal(self, name: str) -> Event | None:
        """Give the first signal of a name that no wait has taken; looks for new ones."""
        self.look()
        waiting = self._signals.get(name)
        return waiting[0] if waiting else None

    @property
    def size(self) -> int:
        """The size that was looked at last."""
        return self._view.size

    def take(self, name: str, position: int) -> None:
        """Note that a wait took a signal."""
        self._taken.add(position)
        self._signals[name] = [event for event in self._signals.get(name, []) if event.position != position]

    def look(self) -> None:
        """Read what was recorded since."""
        self._view = self._session.view()
        while self._read_on():
            pass

    def _read_on(self) -> bool:
        """Read another page; False at the end of what is known to be there."""
        if self._read >= self._view.size:
            return False
        page = self._session.storage.read(self._view.lineage, self._read, self._view.size, terms=_TERMS)
        self._read = self._view.size if page.following is None else page.following
        for event in page.events:
            self._note(event)
        return True

    def _note(self, event: Event) -> None:
        data = event.data
        if not isinstance(data, dict):
            return  # erased: as if it had not been
        if event.type == "signal":
            if event.position not in self._taken:
                self._signals.setdefault(data["name"], []).append(event)
            return
        if event.type == "wait.finished" and "signal" in data:
            self.take(data["name"], data["signal"])
        if event.position >= self.recorded:
            return  # this run's own, which whoever asked for it knows
        if data.get("run", DEFAULT_RUN) == self._run:
            record = self._records.setdefault(_named(event, data), Record())
            if event.type.endswith(".started"):
                record.started, record.finished = event, None
            else:
                record.finished = event


def _named(event: Event, data: dict[str, Any]) -> StepName:
    kind = "wait" if event.type.startswith("wait.") else data.get("kind", "step")
    return StepName(kind, data.get("step", data.get("name", "")), data.get("occurrence", 1))


def _position(record: Record) -> int:
    event = record.started or record.finished
    return 0 if event is None else event.position
