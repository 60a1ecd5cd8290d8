"""State: what a session has come to at any of its positions, and what a line of events offers beside reading them.

A state is a value as JSON says it, the caller's own to change. `session.state("messages")` and others are read like the
value itself: `state["plan"]`, `"bug" in state`, `len(state)`, `state == {...}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, overload

from everlog.compare import Difference, compare
from everlog.core.canonical import decode_state, hash_state
from everlog.core.event import Event, StateHash
from everlog.core.limits import PAGE_EVENTS_MAX
from everlog.core.patch import same
from everlog.core.pointer import MISSING, get_member, parse_pointer
from everlog.core.snapshot import Notes
from everlog.core.upcast import is_upcast
from everlog.errors import InvalidPlaceError, LimitError, StateMismatchError
from everlog.explain import WHY_MAX, Reason, bisect, why
from everlog.proving import ProofReader
from everlog.reader import PlaceLike, View, resolve_cut
from everlog.rebuild import Builder, Built, SnapshotPolicy, nearest_snapshot, take_event
from everlog.reducers.anthropic import as_anthropic
from everlog.reducers.document import DOCUMENT
from everlog.reducers.messages import MESSAGES
from everlog.reducers.openai import as_openai_chat, as_openai_responses
from everlog.reducers.pending import PENDING
from everlog.reducers.registry import Reducer, encoded_state, find_reducer
from everlog.reducers.usage import USAGE
from everlog.storage import Storage

BUILT_IN = (DOCUMENT, MESSAGES, PENDING, USAGE)
ReducerLike = str | Reducer


class State:
    """A state at a cut.

    value: JSON values, the caller's own. session, size: where: the events [0, size) of the line gave it.
    reducer, version: what made it. incomplete: positions of erased or withheld events that went into it without their data;
    skipped: positions of changes that could not be applied; each at most 100 of `incomplete_count`, `skipped_count`.
    """

    def __init__(self, value: Any, *, session: str, size: int, reducer: Reducer, notes: Notes) -> None:
        self.value = value
        self.session = session
        self.size = size
        self.reducer = reducer.name
        self.version = reducer.version
        self.incomplete = notes.incomplete
        self.incomplete_count = notes.incomplete_count
        self.skipped = notes.skipped
        self.skipped_count = notes.skipped_count

    @property
    def hash(self) -> str:
        """SHA-256 over the value's canonical JSON (RFC 8785), 64 hex digits."""
        return hash_state(self.value)

    def get(self, pointer: str, default: Any = None) -> Any:
        """Give what stands at a JSON Pointer ("/plan/next"), or the default."""
        found = get_member(self.value, parse_pointer(pointer))
        return default if found is MISSING else found

    def __getitem__(self, key: Any) -> Any:
        return self.value[key]

    def __contains__(self, key: object) -> bool:
        return key in self.value

    def __iter__(self) -> Iterator[Any]:
        return iter(self.value)

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __eq__(self, other: object) -> bool:
        return same(self.value, other.value if isinstance(other, State) else other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # it holds what may change

    def __repr__(self) -> str:
        return f"<State {self.reducer!r} of {self.session!r}@{self.size}: {self.value!r:.200}>"


class Messages(State):
    """The conversation at a cut: a list of messages, in no provider's shape (see the reference of reducers)."""

    def as_anthropic(self) -> dict[str, Any]:
        """Give `messages` and, where there is one, `system`, for Anthropic's Messages API: `create(**state.as_anthropic(), …)`.

        Turns alternate, and every tool use has one result; one that was not recorded is said to be unknown.
        """
        return as_anthropic(self.value)

    def as_openai_chat(self) -> dict[str, Any]:
        """Give `messages` for OpenAI's chat completions. Thoughts are left out."""
        return as_openai_chat(self.value)

    def as_openai_responses(self) -> dict[str, Any]:
        """Give `input` for OpenAI's responses."""
        return as_openai_responses(self.value)


class StateReader(ProofReader):
    """A line of events whose states can be rebuilt, compared and explained."""

    _policy: SnapshotPolicy

    @overload
    def state(self, reducer: Literal["messages"], at: PlaceLike = "end", *, verify: bool = False) -> Messages: ...
    @overload
    def state(self, reducer: ReducerLike = "document", at: PlaceLike = "end", *, verify: bool = False) -> State: ...
    def state(self, reducer: ReducerLike = "document", at: PlaceLike = "end", *, verify: bool = False) -> State:
        """Give the state at a place.

        reducer: "document", "messages", "usage", a name registered by `@everlog.reducer`, or a Reducer.
        verify: fold from the first event, and compare with snapshots and with the hashes that appends recorded;
            StateMismatchError names the first event after which they differ.
        Raises ReducerError where the reducer raises (naming the event), or its state is not JSON.
        """
        view = self.view()
        chosen, cut = find_reducer(reducer), resolve_cut(self.storage, view, at)
        built = verify_state(self.storage, view, chosen, cut) if verify else self._builder(view, chosen).build(cut)
        return self._as_state(chosen, built)

    def state_hash(self, reducer: ReducerLike = "document", at: PlaceLike = "end") -> StateHash:
        """Give the hash of the state at a place, with the reducer's name and version, as appends record it."""
        state = self.state(reducer, at)
        return StateHash(state.reducer, state.version, state.hash)

    def diff(
        self,
        a: PlaceLike | StateReader,
        b: PlaceLike | StateReader | None = None,
        *,
        at: PlaceLike = "end",
        reducer: ReducerLike = "document",
        limit: int = 100,
    ) -> Difference:
        """Compare two places: `diff(17, 42)` of this line; `diff(other)` this line's end with another session's or branch's.

        at: where in a line that is given as a whole. limit: events of each side that are given; all are counted.
        Lines that share events part at their common ancestor; unrelated sessions are aligned by type, name and input.
        """
        one, other = (self, a) if b is None else (a, b)
        first, first_cut = self._side(one, "end" if b is None else at)
        second, second_cut = self._side(other, at)
        taking = self._policy if self._policy.automatic else None
        return compare(
            self.storage, first, second, first_cut, second_cut, find_reducer(reducer), limit=limit, taking=taking
        )

    def _side(self, chosen: PlaceLike | StateReader, at: PlaceLike) -> tuple[View, int]:
        line, place = (chosen, at) if isinstance(chosen, StateReader) else (self, chosen)
        if line.storage is not self.storage:
            raise InvalidPlaceError(
                "the two sessions are in different stores; nothing was compared; copy one beside the other first (Store.copy)"
            )
        view = line.view()
        return view, resolve_cut(self.storage, view, place)

    def why(
        self, pointer: str, *, at: PlaceLike = "end", reducer: ReducerLike = "document", limit: int = 20
    ) -> list[Reason]:
        """Give the events that gave a member of the state its value, the newest first: what it was before and after, and why.

        pointer: a JSON Pointer, "/plan/next". limit: 1 .. WHY_MAX. The first of them explains the value that stands there.
        """
        if not 1 <= limit <= WHY_MAX:
            raise LimitError(f"limit {limit!r:.50} is not in 1 .. {WHY_MAX}; ask on from an earlier place with at=")
        view = self.view()
        cut = resolve_cut(self.storage, view, at)
        return why(self.storage, view, find_reducer(reducer), pointer, cut, limit=limit)

    def bisect(
        self,
        predicate: Callable[[State], object],
        *,
        start: PlaceLike = "start",
        stop: PlaceLike = "end",
        reducer: ReducerLike = "document",
    ) -> Event | None:
        """Give the first event of [start, stop) after which a predicate on the state holds; None where it does not at `stop`.

        Builds O(log n) states, and so finds the first only where what began to hold goes on holding.
        """
        view, chosen = self.view(), find_reducer(reducer)
        low, high = resolve_cut(self.storage, view, start), resolve_cut(self.storage, view, stop)
        show = partial(self._as_state, chosen)
        found = bisect(self._builder(view, chosen), predicate, low, high, show=show)
        return None if found is None else self._read_one(view, found)

    # --- underneath ---
    def _builder(self, view: View, reducer: Reducer) -> Builder:
        """Give what folds a reducer over this line, taking snapshots as the store's policy says."""
        return Builder(self.storage, view, reducer, taking=self._policy if self._policy.automatic else None)

    def _as_state(self, reducer: Reducer, built: Built) -> State:
        """Give a built state as the caller's own; ReducerError where it is not JSON."""
        session = self._session_name
        made = Messages if reducer is MESSAGES else State
        encoded = encoded_state(reducer, built.value, session=session, size=built.size)
        value = decode_state(encoded)  # a copy: what events hold is not the caller's to change
        return made(value, session=session, size=built.size, reducer=reducer, notes=built.notes)

    @property
    def _session_name(self) -> str:
        """The user's name for the session."""
        raise NotImplementedError


class Still(StateReader):
    """A line of events as it was at one moment: what is asked of it is asked of that, without another look."""

    def __init__(self, storage: Storage, policy: SnapshotPolicy, view: View) -> None:
        self.storage = storage
        self._policy = policy
        self._view = view

    def view(self) -> View:
        """Give the line as it was."""
        return self._view

    @property
    def _session_name(self) -> str:
        return self._view.lineage.session


def verify_state(storage: Storage, view: View, reducer: Reducer, cut: int) -> Built:
    """Fold from the first event to a cut; compare with every snapshot on the way and every hash that was recorded.

    Past an erased event, and past one whose data an upcaster gives another shape, recorded hashes can no longer be compared:
    they were made before. Reads events of every type, since any may have recorded one.
    Raises StateMismatchError at the first difference.
    """
    snapshots = _snapshot_sizes(storage, view, reducer, cut)
    fold, notes = reducer.start(reducer.initial()), Notes()
    start, comparable = 0, True
    while start < cut:
        stop = min(cut, start + PAGE_EVENTS_MAX, *snapshots[-1:])
        page = storage.read(view.lineage, start, stop)
        for event in page.events:
            if comparable and event.type == "checkpoint":
                _check_recorded(reducer, fold.value, event, _of_checkpoint(event, reducer))
            if reducer.looks_at(event.type):
                notes = take_event(reducer, fold, event, notes)
                comparable = comparable and not notes.incomplete_count and not is_upcast(event)
            if comparable:
                _check_recorded(reducer, fold.value, event, event.state_hash)
        start = stop if page.following is None else page.following
        if snapshots and snapshots[-1] == start:
            kept, _ = nearest_snapshot(storage, view.lineage, snapshots.pop(), reducer)
            if kept is not None and kept.size == start and kept.plain != reducer.encode(fold.value):
                raise StateMismatchError(
                    f"the snapshot of {reducer.name!r} at {view.lineage.session!r}@{start} is not what its events give; the "
                    "events are as they were; drop it (everlog snapshots --drop), and see whether the reducer is pure",
                    position=start - 1,
                )
    return Built(cut, fold.value, notes)


def _snapshot_sizes(storage: Storage, view: View, reducer: Reducer, cut: int) -> list[int]:
    """Give the cuts that have a good snapshot, the last first."""
    sizes: list[int] = []
    while (kept := nearest_snapshot(storage, view.lineage, cut, reducer)[0]) is not None:
        sizes.append(kept.size)
        cut = kept.size - 1
    return sizes


def _of_checkpoint(event: Event, reducer: Reducer) -> StateHash | None:
    """Give the hash that a checkpoint recorded of the state before it."""
    states = event.data.get("states") if isinstance(event.data, dict) else None
    found = states.get(reducer.name) if isinstance(states, dict) else None
    if not isinstance(found, dict) or "version" not in found or "hash" not in found:
        return None
    return StateHash(reducer.name, found["version"], found["hash"])


def _check_recorded(reducer: Reducer, value: Any, event: Event, recorded: StateHash | None) -> None:
    if recorded is None or recorded.reducer != reducer.name or str(recorded.version) != str(reducer.version):
        return
    found = hash_state(value)
    if found != recorded.hash:
        raise StateMismatchError(
            f"event {event.id} (position {event.position} of session {event.session!r}) recorded the hash {recorded.hash} of "
            f"the state of {reducer.name!r} version {reducer.version}, and the events give {found}; the log is as it "
            "was; either the reducer changed without a new version, or what was recorded did: see what verify says",
            position=event.position,
        )
