"""Rebuilding states: the nearest snapshot, then the events after it; and taking snapshots on the way.

1. A state is what the events before its cut give, whatever snapshots there are (law 10, law 14).
2. A snapshot is taken where it costs little beside the log that it spares reading: its bytes at most `share` of those
   events', and at least `events` of them. A caller that appends never waits for one.
3. A snapshot of what was erased meanwhile is refused by the store, in the transaction that would write it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from everlog.core.canonical import decode_state, encode_state
from everlog.core.event import Event
from everlog.core.limits import PAGE_EVENTS_MAX, STATE_BYTES_MAX
from everlog.core.lineage import Lineage
from everlog.core.query import Term, text_value
from everlog.core.snapshot import KEYFRAME_EVERY, NOTED_MAX, Kept, Notes, Snapshot, make_snapshot, read_snapshots
from everlog.errors import EverlogError, PatchError, ReducerError
from everlog.reader import View
from everlog.reducers.registry import Fold, Reducer
from everlog.storage import PutSnapshots, Storage

ROW_BYTES = 256  # of an event's row beside its body, about
_PUT_BYTES = 4 * 1024 * 1024  # of snapshots written in one transaction
_PUT_COUNT = 64


class SnapshotPolicy(msgspec.Struct, frozen=True):
    """When snapshots are taken.

    events: at least so many positions apart; fewer make reading faster and the store larger. share: of the bytes of the
    events that a snapshot spares reading, what it may take at most. reducers: those kept up in the background as sessions
    grow. automatic: False takes none, but for `everlog snapshots --rebuild`.
    """

    events: int = 500
    share: float = 0.04
    reducers: tuple[str, ...] = ("document", "pending")
    automatic: bool = True


class Built(msgspec.Struct, frozen=True):
    """A state at a cut, as built: the builder's own value, which whoever takes it on must not change."""

    size: int
    value: Any
    notes: Notes


class Builder:
    """Folds one reducer over one line of events. taking: how snapshots are taken, None for not at all. pause: called after each
    page of events.
    """

    def __init__(
        self,
        storage: Storage,
        view: View,
        reducer: Reducer,
        *,
        taking: SnapshotPolicy | None,
        pause: Callable[[], None] | None = None,
    ) -> None:
        self.storage = storage
        self.lineage: Lineage = view.lineage
        self.reducer = reducer
        self._erasures: int | None = None  # as they were before anything was read
        self._taking = None if taking is None else _Taking(self, taking)
        self._pause = pause
        self._notes = Notes()

    @property
    def snapshot_size(self) -> int:
        """The cut of the last snapshot that a build began with or took; 0 for none."""
        return 0 if self._taking is None else self._taking.last_size

    def build(self, cut: int, *, start: Built | None = None) -> Built:
        """Give the state at a cut, from the nearest of `start` (at or below it), the snapshots, and nothing."""
        kept, erasures = nearest_snapshot(self.storage, self.lineage, cut, self.reducer)
        self._erasures = erasures if self._erasures is None else self._erasures
        if start is not None and (kept is None or kept.size <= start.size):
            return self.fold(start, cut)
        if kept is None:
            return self.fold(Built(0, self.reducer.initial(), Notes()), cut)
        if self._taking is not None:
            self._taking.begin(kept)
        return self.fold(Built(kept.size, decode_state(kept.plain), kept.notes), cut)

    def fold(self, start: Built, cut: int) -> Built:
        """Fold the events from a state's cut to another."""
        if self._taking is not None and self._erasures is None:
            self._erasures = self.storage.erasures(self.lineage.branch)
        fold = self.reducer.start(start.value)
        self._notes = start.notes
        size = start.size
        for events, size in self._pages(start.size, cut):  # the last size is used
            for event in events:
                self._notes = take_event(self.reducer, fold, event, self._notes)
            if self._taking is not None:
                self._taking.passed(fold, size, sum(len(event.raw or b"") for event in events), self._notes)
            if self._pause is not None:
                self._pause()
        if self._taking is not None:
            self._taking.finish()
        return Built(cut, fold.value, self._notes)

    def _pages(self, start: int, cut: int) -> Iterator[tuple[list[Event], int]]:
        """Give the events that the reducer looks at, a page at a time, and the cut that each page leads to."""
        most = PAGE_EVENTS_MAX if self._taking is None else self._taking.page_events
        terms = type_terms(self.reducer)
        while start < cut:
            page = self.storage.read(self.lineage, start, cut, terms=terms, limit=most)
            start = cut if page.following is None else page.following
            yield page.events, start


class _Taking:
    """Decides which snapshots to take along a fold, and writes them some at a time."""

    def __init__(self, builder: Builder, policy: SnapshotPolicy) -> None:
        self._builder = builder
        self._policy = policy
        self.page_events = max(1, min(PAGE_EVENTS_MAX, policy.events))
        self._last: Kept | None = None
        self.last_size = 0
        self._bytes = 0
        self._plain = 0  # bytes of the state that was encoded last
        self._expected: dict[bool, int] = {False: 0, True: 0}  # bytes of the next delta, of the next keyframe
        self._waiting: list[Snapshot] = []
        self._off = False

    def begin(self, kept: Kept) -> None:
        """Go on from a snapshot that is there already."""
        self._last, self.last_size, self._plain, self._bytes = kept, kept.size, len(kept.plain), 0

    def passed(self, fold: Fold, size: int, bytes_read: int, notes: Notes) -> None:
        """Note that the fold has come to a cut; take a snapshot there where it is due."""
        events = size - self.last_size
        self._bytes += bytes_read
        log = self._bytes + events * ROW_BYTES
        spared = log * self._policy.share
        keyframe = self._last is None or self._last.row.depth + 1 >= KEYFRAME_EVERY
        # To encode a state costs its size: not before as much of the log has passed, or a large one would cost it again and again.
        if self._off or events < self._policy.events or spared < self._expected[keyframe] or log < self._plain:
            return
        try:
            plain = self._builder.reducer.encode(fold.value)
        except ReducerError:
            return  # whoever asks for this very state is told
        self._plain = len(plain)
        if len(plain) > STATE_BYTES_MAX:
            self._off = True
            return
        builder = self._builder
        made = make_snapshot(
            branch=builder.lineage.owner(size - 1).branch,
            size=size,
            reducer=builder.reducer.name,
            version=str(builder.reducer.version),
            fingerprint=builder.reducer.fingerprint(),
            plain=plain,
            notes=notes,
            base=self._last,
            taken=builder.storage.now(),
        )
        self._expected[keyframe] = made.stored
        if made.stored <= spared:
            self._waiting.append(made)
            self._last = Kept(size, plain, notes, made)
            self.last_size, self._bytes = size, 0
            if len(self._waiting) >= _PUT_COUNT or sum(item.stored for item in self._waiting) >= _PUT_BYTES:
                self.finish()

    def finish(self) -> None:
        """Write what was taken. A store that cannot be written now goes without: no answer needs a snapshot."""
        if not self._waiting:
            return
        storage = self._builder.storage
        snapshots, self._waiting = tuple(self._waiting), []
        try:
            session = storage.session_of(snapshots[-1].branch)
            erasures = self._builder._erasures
            assert erasures is not None, "they were read before the events"
            storage.write(PutSnapshots(session.id, snapshots, erasures))
        except EverlogError:
            self._off = True


def own_state(reducer: Reducer, built: Built) -> Built:
    """Give a state to fold on from; a user's reducer gets a copy, since it might change what it is given."""
    return built if reducer.builtin else Built(built.size, decode_state(encode_state(built.value)), built.notes)


def take_event(reducer: Reducer, fold: Fold, event: Event, notes: Notes) -> Notes:
    """Have a fold take an event; give the notes after it. Raises ReducerError naming the event where the reducer raises."""
    if event.raw is None:
        notes = msgspec.structs.replace(
            notes,
            incomplete=_noted(notes.incomplete, event.position),
            incomplete_count=notes.incomplete_count + 1,
        )
    try:
        fold.apply(event)
    except PatchError:
        return msgspec.structs.replace(
            notes, skipped=_noted(notes.skipped, event.position), skipped_count=notes.skipped_count + 1
        )
    except EverlogError:
        raise
    except Exception as error:
        raise reducer_failed(reducer, event, error) from error
    return notes


def reducer_failed(reducer: Reducer, event: Event, error: Exception) -> ReducerError:
    """Say which event a reducer could not take."""
    return ReducerError(
        f"reducer {reducer.name!r} version {reducer.version} raised {type(error).__name__}: {error} on event {event.id} "
        f"(position {event.position} of session {event.session!r}, type {event.type}); the log is as it was and stays "
        "readable; correct the reducer",
        event=event,
    )


def type_terms(reducer: Reducer) -> tuple[Term, ...]:
    """Give the condition that leaves out events that a reducer does not look at."""
    return () if reducer.types is None else (Term("type", tuple(map(text_value, reducer.types))),)


def nearest_snapshot(storage: Storage, lineage: Lineage, cut: int, reducer: Reducer) -> tuple[Kept | None, int | None]:
    """Give the newest good snapshot at or below a cut, and the number of erasures before it was read, where it was looked for."""
    fingerprint = reducer.fingerprint()
    erasures: int | None = None
    while cut > 0:
        chain, now = storage.snapshot_chain(lineage, cut, fingerprint)
        erasures = now if erasures is None else erasures
        kept = read_snapshots(chain) if chain else None
        if not chain or kept is not None:
            return kept, erasures
        cut = chain[-1].size - 1  # its base was dropped, or it is damaged: as if it were not there
    return None, erasures


def _noted(positions: tuple[int, ...], position: int) -> tuple[int, ...]:
    return positions if len(positions) >= NOTED_MAX else (*positions, position)
