"""Verification of states: each hash of a state on record is made again by its reducer, from the first event on, and compared.

1. A reducer is known by its name, and counts where its version is the recorded one. Where its code is not here, that is told.
2. Past an event whose body is gone, or that an upcaster gives another shape, hashes were made of what is there no more: they are counted.
3. Of a line the hashes on its own events are compared; those that it shares are compared with the line that they are of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from everlog.core.canonical import hash_state
from everlog.core.event import Event, StateHash
from everlog.core.snapshot import Notes
from everlog.core.upcast import is_upcast
from everlog.errors import ReducerError
from everlog.reader import View
from everlog.rebuild import take_event
from everlog.reducers.registry import Reducer, find_reducer
from everlog.storage import Storage

_MISSING_MAX: Final = 100  # reducers that are named; a log may name any number
_OTHERS: Final = "others"

Fault = Callable[[int, str], None]  # the position, and what does not hold


class StatesFound:
    """What was found of states: hashes compared, those past comparing, and by (reducer, version) those whose code is not here."""

    def __init__(self) -> None:
        self.compared = self.incomparable = 0
        self.missing: dict[str, int] = {}

    def miss(self, recorded: StateHash) -> None:
        """Count a hash whose reducer is not here."""
        name = f"{recorded.reducer} version {recorded.version}"
        if name not in self.missing and len(self.missing) >= _MISSING_MAX:
            name = _OTHERS
        self.missing[name] = self.missing.get(name, 0) + 1

    def unchecked(self) -> Iterator[str]:
        """Say what was not compared."""
        for name, count in sorted(self.missing.items()):
            yield f"{count} hashes of states by reducer {name}, whose code is not here: --reducers FILE.py loads it"
        if self.incomparable:
            yield f"{self.incomparable} hashes of states past events that were erased, withheld or upcast since"


def check_states(storage: Storage, view: View, start: int, found: StatesFound, fault: Fault) -> None:
    """Check the hashes that the events [start, size) of a line recorded. Folds each reducer from the first event on."""
    wanted: dict[str, int] = {}
    for event in _events(storage, view, start, view.size):
        for recorded in _recorded(event):
            if _known(recorded) is None:
                found.miss(recorded)
            else:
                wanted[recorded.reducer] = event.position
    for name, last in sorted(wanted.items()):
        _Comparing(find_reducer(name), start, found, fault).fold(_events(storage, view, 0, last + 1))


class _Comparing:
    """Folds one reducer, and compares what it comes to with what is on record."""

    def __init__(self, reducer: Reducer, start: int, found: StatesFound, fault: Fault) -> None:
        self._reducer, self._start = reducer, start
        self._found, self._fault = found, fault
        self._fold, self._notes = reducer.start(reducer.initial()), Notes()
        self._comparable = True

    def fold(self, events: Iterator[Event]) -> None:
        for event in events:
            if event.type == "checkpoint":
                self._compare(event, _of_checkpoint(event))
            if self._reducer.looks_at(event.type):
                try:
                    self._notes = take_event(self._reducer, self._fold, event, self._notes)
                except ReducerError as error:
                    self._fault(event.position, f"no state of {self._reducer.name!r} can be made: {error.message}")
                    return
                if self._notes.incomplete_count or is_upcast(event):
                    self._comparable = False
            if event.state_hash is not None:
                self._compare(event, [event.state_hash])

    def _compare(self, event: Event, hashes: list[StateHash]) -> None:
        if event.position < self._start:
            return
        for recorded in hashes:
            if _known(recorded) is not self._reducer:
                continue
            if not self._comparable:
                self._found.incomparable += 1
                continue
            self._found.compared += 1
            try:
                made = hash_state(self._fold.value)
            except ReducerError as error:
                made = f"none ({error.message})"
            if made != recorded.hash:
                self._fault(
                    event.position,
                    f"it recorded the hash {recorded.hash} of the state of {recorded.reducer!r} version {recorded.version}, and the "
                    f"events give {made}",
                )


def _events(storage: Storage, view: View, start: int, stop: int) -> Iterator[Event]:
    while start < stop:
        page = storage.read(view.lineage, start, stop)
        yield from page.events
        start = stop if page.following is None else page.following


def _recorded(event: Event) -> list[StateHash]:
    own = [] if event.state_hash is None else [event.state_hash]
    return own + (_of_checkpoint(event) if event.type == "checkpoint" else [])


def _of_checkpoint(event: Event) -> list[StateHash]:
    """Give the hashes that a checkpoint recorded of the states before it."""
    states = event.data.get("states") if isinstance(event.data, dict) else None
    if not isinstance(states, dict):
        return []
    return [
        StateHash(name, said["version"], said["hash"])
        for name, said in cast("dict[str, Any]", states).items()
        if isinstance(said, dict) and "version" in said and "hash" in said
    ]


def _known(recorded: StateHash) -> Reducer | None:
    """Give the reducer that a hash was made by; None where its code is not here."""
    try:
        reducer = find_reducer(recorded.reducer)
    except ReducerError:
        return None
    return reducer if str(reducer.version) == str(recorded.version) else None
