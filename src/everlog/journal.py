"""A run's journal: the steps, waits and signals that a session has recorded, read once and in order, found by name and occurrence.

1. What a process asks for in another order than was recorded is found all the same: the journal is read on until it is there.
2. What was given out is forgotten here, so that a run that goes through its record in order holds little of it.
3. It is of one line of events: a rewind or a switch ends it.
"""

from __future__ import annotations

from threading import RLock
from typing import Any, Final

import msgspec

from everlog.core.event import Event
from everlog.core.query import Exact, Term
from everlog.core.standard import is_standard
from everlog.reducers.pending import DEFAULT_RUN
from everlog.scopes import StepName, paths_around
from everlog.writer import SessionWriter

DECISION: Final = "step:"  # begins the names of waits that decide about an unknown step; a replay does not ask again
_TYPES: Final = ("step.started", "step.finished", "wait.started", "wait.finished", "signal")
_TERMS: Final = (Term("type", tuple(Exact(name) for name in _TYPES)),)


class LeftLineError(Exception):
    """The session was rewound or switched; the run says so."""


class Record(msgspec.Struct):
    """What is recorded of a step or a wait. started: its last start; finished: its last end, which may ask for another try."""

    started: Event | None = None
    finished: Event | None = None

    @property
    def event(self) -> Event | None:
        """What says that it was asked for; the start may have been erased."""
        return self.started or self.finished

    @property
    def attempt(self) -> int:
        """How often it was started."""
        return 0 if self.event is None else self.event.data.get("attempt", 1)

    @property
    def effect_key(self) -> str | None:
        return None if self.started is None else self.started.data.get("effect_key")

    @property
    def is_final(self) -> bool:
        return self.finished is not None and "retry_at" not in self.finished.data

    @property
    def is_unknown(self) -> bool:
        """Whether it was started, and nothing says how that went; or it is recorded that nothing does."""
        if self.finished is None:
            return self.started is not None
        return self.finished.outcome == "unknown"


class Journal:
    """Reads one run's record of the line that is current when it is made. Used by one thread at a time, which `lock` sees to."""

    def __init__(self, session: SessionWriter, run: str) -> None:
        self._session = session
        self._run = run
        self._view = session.view()
        self._read = 0  # the position that it is read up to
        self._records: dict[StepName, Record] = {}
        self._below: dict[str, dict[StepName, None]] = {}  # the names of those within each scope, by its path
        self._signals: dict[str, list[Event]] = {}  # by name, those that no wait has taken, in order
        self._taken: set[int] = set()
        self.lock = RLock()
        self.branch_id = self._view.branch.id
        self.recorded = self._view.size  # what was there when this run began to work

    def find(self, name: StepName) -> Record:
        """Give what is recorded of a step; an empty record where nothing is."""
        while True:
            record = self._records.get(name)
            if record is not None and record.finished is not None:
                failed = "error" in record.finished.data
                if not failed or not self._was_tried_again(name, record.attempt, record.finished.position):
                    return record
            if not self._read_on():
                return record or Record()

    def _was_tried_again(self, name: StepName, attempt: int, after: int) -> bool:
        """Tell, by index, whether a step that failed was started once more, further on than was read."""
        if self._read >= self.recorded:
            return False
        term = Term("key", (Exact(name.key(self._run, f"{attempt + 1}:started")),))
        return bool(self._session.storage.read(self._view.lineage, after, self.recorded, terms=(term,), limit=1).events)

    def give_out(self, name: StepName) -> None:
        """Forget a step that was asked for."""
        self._records.pop(name, None)
        for path in paths_around(name):
            self._below.get(path, {}).pop(name, None)

    def pass_over(self, path: str) -> None:
        """Forget what was recorded in a scope that is finished, and whose function is not called again."""
        for name in list(self._below.pop(path, {})):
            self._records.pop(name, None)

    def reload(self, name: StepName) -> None:
        """Read again what was recorded in a step that is gone through once more."""
        view, path = self._session.view(), name.path
        first = self._session.find(name.key(self._run, "1:started"))
        start = 0 if first is None else first.position
        while start < view.size:
            page = self._session.storage.read(view.lineage, start, view.size, terms=_TERMS)
            start = view.size if page.following is None else page.following
            for event in page.events:
                if isinstance(event.data, dict) and event.data.get("within", "").startswith(path):
                    self._keep(event, event.data)

    def left(self) -> list[tuple[StepName, Record]]:
        """Give the steps that were recorded and not asked for; not the decisions about steps, which are asked for once."""
        while self._read_on():
            pass
        left = [
            (name, record)
            for name, record in list(self._records.items())
            if name.kind != "wait" or not name.name.startswith(DECISION)
        ]
        return sorted(left, key=lambda item: _position(item[1]))

    def signal(self, name: str, after: int) -> Event | None:
        """Give the first signal of a name behind a position that no wait has taken; looks for new ones."""
        self.look()
        return next((event for event in self._signals.get(name, ()) if event.position > after), None)

    @property
    def size(self) -> int:
        """The size that was looked at last."""
        return self._view.size

    def take(self, name: str, position: int) -> None:
        """Note that a wait took a signal."""
        self._taken.add(position)
        self._signals[name] = [event for event in self._signals.get(name, []) if event.position != position]

    def look(self) -> None:
        """Read what was recorded since. Raises LeftLineError where the session is on another line by now."""
        view = self._session.view()
        if view.branch.id != self.branch_id:
            raise LeftLineError
        self._view = view
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
        if not is_standard(event.type, data):
            return  # erased, or none of ours: as if it had not been, but for its key
        if event.type == "signal":
            if event.position not in self._taken:
                self._signals.setdefault(data["name"], []).append(event)
            return
        if event.type == "wait.finished" and "signal" in data:
            self.take(data["name"], data["signal"])
        if event.position < self.recorded:  # this run's own are known to whoever asked for them
            self._keep(event, data)

    def _keep(self, event: Event, data: dict[str, Any]) -> None:
        if data.get("run", DEFAULT_RUN) != self._run:
            return
        name = _named(event, data)
        record = self._records.setdefault(name, Record())
        for path in paths_around(name):
            self._below.setdefault(path, {})[name] = None
        if event.type.endswith(".started"):
            record.started, record.finished = event, None
        else:
            record.finished = event


def _named(event: Event, data: dict[str, Any]) -> StepName:
    kind = "wait" if event.type.startswith("wait.") else data.get("kind", "step")
    return StepName(kind, data.get("step", data.get("name", "")), data.get("occurrence", 1), data.get("within", ""))


def _position(record: Record) -> int:
    return 0 if record.event is None else record.event.position
