"""Appending to a session's current branch: requests, receipts, and what a refused writer is told.

1. `head` is what this handle last *saw*: when it was opened, by its own appends, by `refresh()`. Reading it does no I/O,
   and that is what makes `expected=session.head` mean something.
2. Without `expected`, an append goes to the current branch as it is inside the transaction.
3. An append that records the state after it is computed at a head and refused at another, so it is tried again there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import msgspec

from everlog.context.reader import ContextReader
from everlog.core import limits
from everlog.core.attached import set_attachment_readers
from everlog.core.canonical import hash_state
from everlog.core.decide import Batch, Expected, Repeats, StaleExpectationError
from everlog.core.envelope import WrappingKey
from everlog.core.event import (
    Event,
    Head,
    NewEvent,
    Outcome,
    PreparedAttachment,
    PreparedEvent,
    StateHash,
    encode_attached,
)
from everlog.core.lease import LeaseToken
from everlog.core.lineage import Lineage, common_ancestor
from everlog.core.merkle import root_of_peaks, split_digests
from everlog.core.patch import same
from everlog.core.prepare import Draw, prepare_batch, with_state
from everlog.core.redact import Redactor
from everlog.core.secret_rules import SecretRule
from everlog.errors import (
    BusyError,
    ConflictError,
    EverlogError,
    InvalidEventError,
    InvalidPlaceError,
    KeyReusedError,
    LimitError,
    PatchError,
    ReducerError,
)
from everlog.keeper import SnapshotKeeper
from everlog.leases import LeaseKeeper
from everlog.reader import View
from everlog.rebuild import Builder, Built, SnapshotPolicy, own_state
from everlog.reducers.registry import Reducer, find_reducer
from everlog.state import ReducerLike
from everlog.storage import Append, BranchRow, Receipt, Request, Rewind, SessionRow, Storage, Switch, Update

STATES_KEPT = 4  # of different reducers, which a handle remembers for its next append


class Settings(msgspec.Struct, frozen=True):
    """What `open` chose for a store.

    draw: gives random bytes. body_bytes_max: of one event. snapshots: when they are taken. redactor: what is done about
    secrets. rules: for secrets, more than the standard ones. keys_folder: gives where the keys of
    seals are, where no other is named. wrapping: the keys that the store was opened with, to encrypt bodies.
    """

    draw: Draw
    body_bytes_max: int = limits.BODY_BYTES_MAX
    snapshots: SnapshotPolicy = SnapshotPolicy()
    redactor: Redactor | None = None
    rules: tuple[SecretRule, ...] = ()
    keys_folder: Callable[[], Path] = Path.cwd
    wrapping: tuple[WrappingKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Keepers:
    """What a store does in the background for its sessions."""

    snapshots: SnapshotKeeper
    leases: LeaseKeeper


class Shown(Protocol):
    """A lease as a writer needs it."""

    def shown(self) -> LeaseToken:
        """Give what is shown to the store, which decides: a repeated key is answered even where the lease was lost."""
        ...


class SessionWriter(ContextReader):
    """A session's handle as a writer: what it saw, and its appends."""

    def __init__(
        self, storage: Storage, settings: Settings, keepers: Keepers, row: SessionRow, branch: BranchRow
    ) -> None:
        self.storage = storage
        self._settings = settings
        self._keepers = keepers
        self._lineages = {}
        self._row = row
        self._seen = (branch.id, branch.size, tuple(split_digests(branch.peaks)))
        self._policy = settings.snapshots
        self._lease: Shown | None = None
        self._folded: dict[bytes, tuple[str, int, Built]] = {}  # by fingerprint: branch, erasures, what was built last

    @property
    def id(self) -> str:
        """The user's name for the session."""
        return self._row.name

    @property
    def _session_name(self) -> str:
        return self._row.name

    @property
    def uuid(self) -> str:
        """The session's internal id, 32 hex digits; the same in every copy."""
        return self._row.id

    @property
    def head(self) -> Head:
        """The head that this handle last saw. No I/O."""
        _, size, peaks = self._seen
        return Head(size, root_of_peaks(peaks).hex())

    @property
    def branch_id(self) -> str:
        """The id of the branch that this handle last saw as current. No I/O."""
        return self._seen[0]

    def line_seen(self) -> tuple[Lineage | None, int]:
        """Give the line that this handle last saw as current, None where it is not known, and its size. No I/O."""
        branch_id, size, _ = self._seen
        return next((line for line in self._lineages.values() if line.branch_id == branch_id), None), size

    @property
    def lease_shown(self) -> LeaseToken | None:
        """The token of the lease that this handle holds, as far as is known here. No I/O."""
        return None if self._lease is None else self._lease.shown()

    def refresh(self) -> Head:
        """Look at the session as it is now; give the head that was seen."""
        branch = self.storage.current_branch(self._row.id)
        self._seen = (branch.id, branch.size, tuple(split_digests(branch.peaks)))
        return self.head

    # --- appending ---
    def append(
        self,
        type: str,
        data: Any = None,
        *,
        rationale: str | None = None,
        actor: str | None = None,
        outcome: Outcome | None = None,
        metadata: Mapping[str, Any] | None = None,
        attachments: Mapping[str, bytes] | None = None,
        caused_by: Event | str | None = None,
        occurred_at: datetime | int | None = None,
        key: str | None = None,
        expected: int | Head | None = None,
        state: ReducerLike | None = None,
    ) -> Event:
        """Append one event, durably; give it as it was recorded. The members are those of NewEvent.

        state: a reducer ("document"); the hash of its state after the event is recorded in the event's body, and a change
        that cannot be applied (a `test` that does not hold) is refused with PatchError.

        expected: the size or Head that the writer last saw; another one is refused.
        A repeated key gives the first event, with `repeated` set (law 5).
        Raises ConflictError, KeyReusedError, InvalidEventError, SecretError, LimitError, NotFoundError (the session was deleted),
        BusyError, UnavailableError; in all these nothing was written. OutcomeUnknownError: append again with the same key.
        """
        new = NewEvent(
            type,
            data,
            rationale=rationale,
            actor=actor,
            outcome=outcome,
            metadata=metadata,
            attachments=attachments,
            caused_by=caused_by,
            occurred_at=occurred_at,
            key=key,
        )
        if state is not None:
            return self._append_with_state((new,), state, expected=expected)[0]
        return self.write(self.append_request((new,), expected=expected)).events[0]

    def extend(
        self,
        events: Sequence[NewEvent],
        *,
        expected: int | Head | None = None,
        key: str | None = None,
        repeats: Repeats = "refuse",
        state: ReducerLike | None = None,
    ) -> list[Event]:
        """Append several events, all or none; give them as they were recorded, in order.

        events: 1 .. APPEND_EVENTS_MAX. key: one idempotency key for the whole append.
        repeats: where some of the events' own keys are recorded already, "refuse" the append or "skip" those events
            (not together with `key`, which covers the append as a whole).
        state: as in `append`; the last event records the hash after all of them.
        Raises what `append` raises.
        """
        if state is not None:
            if repeats != "refuse":
                raise InvalidEventError(
                    "state= records what all of the events give, and repeats='skip' leaves some out; nothing was written; "
                    "leave out one of the two"
                )
            return self._append_with_state(tuple(events), state, expected=expected, key=key)
        return list(self.write(self.append_request(tuple(events), expected=expected, key=key, repeats=repeats)).events)

    # The three parts of an append, which the async face puts together in its own way.
    def append_request(
        self,
        events: Sequence[NewEvent],
        *,
        expected: int | Head | None = None,
        key: str | None = None,
        repeats: Repeats = "refuse",
    ) -> Append:
        """Check and encode an append of 1 .. APPEND_EVENTS_MAX events."""
        if not events:
            raise LimitError("an append of no events says nothing; nothing was written; give at least one")
        if repeats not in ("refuse", "skip"):
            raise InvalidEventError(
                f"repeats is {repeats!r:.50}, neither 'refuse' nor 'skip'; nothing was written; choose one"
            )
        if key is not None and repeats != "refuse":
            raise InvalidEventError(
                "key= covers the whole append, and repeats='skip' leaves some of it out; nothing was written; give the events "
                "keys of their own, or leave out one of the two"
            )
        prepared = self._prepare(events, key=key)
        return Append(self._row.id, self._batch(prepared, self._expect(expected), key, repeats))

    def own_request(self, events: Sequence[NewEvent], *, branch: str, expected: int | None = None) -> Append:
        """As `append_request`, of types that only their own verbs write. branch: the id of the one that must be current."""
        prepared = self._prepare(events, own_verb=True)
        return Append(self._row.id, self._batch(prepared, self._expect(expected), branch=branch))

    def write_own(
        self, events: Sequence[NewEvent], make: Callable[[Batch], Request], *, lease: LeaseToken | None = None
    ) -> Receipt:
        """Write a request that appends events of types that only their own verbs write. lease: what it shows."""
        return self.noted(self.storage.write(make(Batch(self._prepare(events, own_verb=True), lease=lease))))

    def _batch(
        self,
        events: tuple[PreparedEvent, ...],
        expected: Expected | None = None,
        key: str | None = None,
        repeats: Repeats = "refuse",
        branch: str | None = None,
    ) -> Batch:
        """Give what an append proposes, with the lease that this handle holds."""
        return Batch(events, expected, key, repeats, self.lease_shown, branch)

    def _prepare(
        self, events: Sequence[NewEvent], *, key: str | None = None, own_verb: bool = False
    ) -> tuple[PreparedEvent, ...]:
        return prepare_batch(
            events,
            draw=self._settings.draw,
            read_cause=self._pack_cause,
            body_bytes_max=self._settings.body_bytes_max,
            key=key,
            own_verb=own_verb,
            redactor=self._settings.redactor,
        )

    def _clean(self, value: Any) -> Any:
        """Give a value as it will be recorded: with marks for its secrets, where the store redacts."""
        redactor = self._settings.redactor
        return value if redactor is None or redactor.mode == "reject" else redactor.marked(value)

    def _marked(self, text: str) -> str:
        """Give a text as `_clean` does, also where what holds secrets is refused: for what an error said, which is to be recorded."""
        redactor = self._settings.redactor
        return text if redactor is None else redactor.marked(text)

    def _refuse_secret(self, name: str, what: str) -> None:
        """Refuse a name that holds a secret, where the store looks for them: a mark would name another thing."""
        if self._settings.redactor is not None:
            self._settings.redactor.refuse(name, what)

    def _expect(self, expected: int | Head | None) -> Expected | None:
        if expected is None:
            return None
        branch_id = self._seen[0]
        if isinstance(expected, Head):
            return Expected(branch_id, expected.size, expected.root)
        if isinstance(expected, bool) or not isinstance(expected, int) or expected < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidPlaceError(f"expected {expected!r:.50} is neither a size nor a Head; nothing was written")
        return Expected(branch_id, expected, None)

    def write(self, request: Request) -> Receipt:
        """Write a request that this handle made; ConflictError with what was missed where it expected another head."""
        try:
            receipt = self.storage.write(request)
        except StaleExpectationError as stale:
            raise self.conflict(stale, request) from None
        return self.noted(receipt)

    # --- appends that record the state after them ---
    def _append_with_state(
        self,
        events: Sequence[NewEvent],
        reducer: ReducerLike,
        *,
        expected: int | Head | None,
        key: str | None = None,
    ) -> list[Event]:
        chosen, wanted = find_reducer(reducer), self._expect(expected)
        plain = self.append_request(events, expected=expected, key=key)
        batch = plain.batch
        last = batch.events[-1]
        body_bytes_max = self._settings.body_bytes_max
        for _ in tries():
            view = self.view()
            recorded = self._recorded_state(batch, chosen)
            built, erasures = None, 0
            if recorded is None:
                self._check_wanted(wanted, view, plain)
                recorded, built, erasures = self._state_after(view, batch.events, chosen)
                wanted_here = Expected(view.branch.id, view.size, None if wanted is None else wanted.root)
            else:
                wanted_here = wanted  # a repeat: the state is that of the first time
            finished = (*batch.events[:-1], with_state(last, recorded, body_bytes_max))
            request = Append(plain.session_id, msgspec.structs.replace(batch, events=finished, expected=wanted_here))
            try:
                receipt = self.noted(self.storage.write(request))
            except StaleExpectationError as stale:
                if wanted is not None:
                    raise self.conflict(stale, request) from None
                continue
            except KeyReusedError:
                if built is None or self._recorded_state(batch, chosen) is None:
                    raise
                continue  # another writer recorded the same append meanwhile
            if built is not None:
                self._keep_built(chosen, (receipt.branch_id, erasures, built))
            return list(receipt.events)
        raise busy_with_others(self.id)

    def _check_wanted(self, wanted: Expected | None, view: View, request: Append) -> None:
        if wanted is not None and (wanted.branch_id, wanted.size) != (view.branch.id, view.size):
            stale = StaleExpectationError(branch_id=view.branch.id, head=view.branch.head())
            raise self.conflict(stale, request)

    def _recorded_state(self, batch: Batch, reducer: Reducer) -> StateHash | None:
        """Give the state that an earlier append with the same key recorded; None where it is no repeat."""
        key = batch.events[-1].key if batch.key is None else batch.key
        recorded = None if key is None else self.find(key)
        if recorded is None:
            return None
        if batch.key is not None and len(batch.events) > 1:
            position = recorded.position + len(batch.events) - 1
            if position >= self.size():
                return None
            recorded = self.event(position)
        state = recorded.state_hash
        return state if state is not None and state.reducer == reducer.name else None

    def _state_after(
        self, view: View, events: Sequence[PreparedEvent], reducer: Reducer
    ) -> tuple[StateHash, Built, int]:
        """Give the hash of the state after events that are not recorded yet, that state, and the erasures it knows of."""
        before, erasures = self._built_here(view, reducer)
        after = _fold_prepared(view, events, reducer, before, recorded=view.branch.recorded, leaf=b"\x00" * 32)
        if not reducer.builtin:
            other = _fold_prepared(view, events, reducer, before, recorded=limits.SAFE_INTEGER_MAX, leaf=b"\xff" * 32)
            if not same(after, other):
                raise ReducerError(
                    f"the state of reducer {reducer.name!r} depends on when its last event is recorded, or on its hash, which "
                    "are not known before; nothing was written; append without state=, or use occurred_at"
                )
        state = StateHash(reducer.name, reducer.version, hash_state(after))
        return state, Built(view.size + len(events), after, before.notes), erasures

    def _built_here(self, view: View, reducer: Reducer) -> tuple[Built, int]:
        """Give the state at the end of a view, from what this handle built last where it may, and the store's erasures before.

        Takes no snapshots: whoever appends does not wait for them.
        """
        fingerprint, erasures = reducer.fingerprint(), self.storage.erasures(view.branch.key)
        kept = self._folded.get(fingerprint)
        start = None
        if kept is not None and kept[0] == view.branch.id and kept[1] == erasures and kept[2].size <= view.size:
            start = kept[2]
        if start is None or start.size < view.size:
            builder = Builder(self.storage, view, reducer, taking=None)
            start = builder.build(view.size, start=None if start is None else own_state(reducer, start))
        self._keep_built(reducer, (view.branch.id, erasures, start))
        return start, erasures

    def _keep_built(self, reducer: Reducer, kept: tuple[str, int, Built]) -> None:
        """Remember a state as the newest of a few."""
        others = {key: value for key, value in self._folded.items() if key != reducer.fingerprint()}
        while len(others) >= STATES_KEPT:
            del others[next(iter(others))]
        self._folded = others | {reducer.fingerprint(): kept}

    def noted(self, receipt: Receipt) -> Receipt:
        """Note what a receipt says of the session's head; give the receipt."""
        self._seen = (receipt.branch_id, receipt.size, receipt.peaks)
        self._keepers.snapshots.appended(receipt.session_id, len(receipt.events))
        set_attachment_readers(receipt.events, self._load_attachments)
        return receipt

    def _load_attachments(self, event: Event) -> list[PreparedAttachment]:
        branch = self.storage.branch_by_id(event.branch)
        assert branch is not None, "a branch that was appended to is in the store"
        return self.storage.attachments(self.storage.lineage(branch.key, self.id), event.position)

    def conflict(self, stale: StaleExpectationError, request: Request) -> ConflictError:
        """Say what a refused writer had not seen, so that it can decide again without another read (law 4)."""
        expected = request.batch.expected if isinstance(request, (Append, Rewind, Update)) else None
        if isinstance(request, Switch):
            expected = request.left
        branch_id, size, _ = self._seen
        if expected is not None:
            branch_id, size = expected.branch_id, expected.size
        actual = self.storage.branch_by_id(stale.branch_id)
        assert actual is not None, "a branch that refused is in the store"
        view = View(actual, self.storage.lineage(actual.key, self.id))
        ancestor, moved = min(size, stale.head.size), stale.branch_id != branch_id
        if moved:
            seen = self.storage.branch_by_id(branch_id)
            if seen is not None:
                line = self.storage.lineage(seen.key, self.id)
                ancestor = common_ancestor(line, view.lineage, one_size=size, other_size=stale.head.size)
        missed = stale.head.size - ancestor
        events: list[Event] = []
        if missed:
            page = self.storage.read(
                view.lineage, ancestor, stale.head.size, limit=min(missed, limits.CONFLICT_EVENTS_MAX)
            )
            held = 0
            for event in page.events:
                held += len(event.raw or b"")
                if events and held > limits.CONFLICT_BYTES_MAX:
                    break
                events.append(event)
        what = "moved to another branch" if moved else f"has {stale.head.size} events where the writer expected {size}"
        if not moved and stale.head.size == size:
            what = f"has another history of {size} events than the writer saw"
        return ConflictError(
            f"session {self.id!r} {what}; nothing was written; look at the error's events, call refresh() and decide again",
            head=stale.head,
            events=tuple(events),
            missed=missed,
            moved=moved,
            ancestor=ancestor,
        )


def tries() -> Iterator[int]:
    """Count tries of a write that is computed at a head, until LOCK_SECONDS_MAX have passed; wait a little between them."""
    deadline = time.monotonic() + limits.LOCK_SECONDS_MAX
    for number in count():
        if number > 2:
            time.sleep(random.random() * 0.001 * 2 ** min(number, 6))  # noqa: S311  # so that who collided do not again
        if number and time.monotonic() > deadline:
            return
        yield number


def busy_with_others(session: str) -> BusyError:
    """Say that a state could not be recorded beside other writers."""
    return BusyError(
        f"for {limits.LOCK_SECONDS_MAX:g} seconds others appended to session {session!r} faster than the state there could be "
        "computed; nothing was written; try again, or append without a state"
    )


def _fold_prepared(
    view: View, events: Sequence[PreparedEvent], reducer: Reducer, before: Built, *, recorded: int, leaf: bytes
) -> Any:
    """Give the state after events that are not recorded yet, as if they were recorded at the end of a view."""
    fold = reducer.start(own_state(reducer, before).value)
    for index, prepared in enumerate(events):
        event = Event(
            view.lineage.session,
            view.branch.id,
            view.branch.writer,
            view.size + index,
            prepared.type,
            prepared.actor,
            prepared.outcome,  # pyright: ignore[reportArgumentType]  # checked when it was prepared
            recorded,
            prepared.occurred,
            prepared.cause,
            prepared.key,
            None,
            encode_attached(prepared.attachments),
            leaf,
            prepared.body,
        )
        if not reducer.looks_at(event.type):
            continue
        try:
            fold.apply(event)
        except PatchError as error:
            raise PatchError(
                f"the state of {reducer.name!r} at {view.lineage.session!r}@{view.size} does not take this change: "
                f"{error.message}; nothing was written; read the state and decide again"
            ) from None
        except EverlogError:
            raise
        except Exception as error:
            raise ReducerError(
                f"reducer {reducer.name!r} version {reducer.version} raised {type(error).__name__}: {error} on the event of type "
                f"{event.type} that was to be appended to session {view.lineage.session!r}; nothing was written; correct the "
                "reducer, or append without state="
            ) from error
    return fold.value
