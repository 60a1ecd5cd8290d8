"""Every error that Everlog raises on purpose, split by what the caller should do next.

EverlogError
├── change the request
│   ├── InvalidEventError      an event, or a value in it, is not of the form that the log takes
│   ├── SecretError            an event, or what names a thing, holds what a rule takes for a secret
│   ├── InvalidQueryError      a query does not parse, or asks what cannot be asked here
│   ├── InvalidPlaceError      a position, time, name or address does not parse or does not exist there
│   ├── NotFoundError          no such session, branch, event, checkpoint or attachment
│   ├── SessionExistsError     the session's name is taken
│   ├── KeyReusedError         an idempotency key was used before, for other content
│   ├── ReducerError           a reducer or upcaster raised, or its state is not JSON
│   ├── PatchError             a change to a state cannot be made: its path or its `test` does not hold
│   ├── DivergenceError        a run asks for other steps than its record holds
│   └── LimitError             a documented bound was passed
├── read again and decide
│   ├── ConflictError          the branch is not where the writer last saw it
│   ├── MergeConflictError     two lines changed the same member of the state
│   ├── HeldError              a retention policy holds what was to be destroyed
│   │   └── ApprovalError      two persons must say so, and did not
│   ├── FencedError            somebody else holds the session's lease, or the holder's own was lost
│   ├── StepUnknownError       a step was started, and nothing says whether it took effect
│   ├── StepFailedError        a step raised when it ran, and is not run again
│   ├── WaitTimeoutError       no signal came in time
│   └── StaleCursorError       the feed is not the one that the cursor was made on
├── retry later
│   ├── BusyError              a wait passed its deadline
│   ├── WaitingError           a run waits for a signal, longer than this process will
│   ├── UnavailableError       the store cannot be reached or written now
│   └── OutcomeUnknownError    a commit's fate is hidden; the same key tells
└── call a person
    ├── CorruptionError        stored bytes contradict each other
    │   └── StateMismatchError a recorded state hash, or a snapshot, is not what the events give
    ├── TamperedError          stored bytes contradict their hashes
    ├── KeyNeededError         a body is encrypted, and the key that it needs was not given
    └── UnsupportedStoreError  this file, file system, version or process cannot be used

Each class has a stable `code` for programs that cannot match on Python classes (JSON output, HTTP).
Every message says what happened, what became of the data, and what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everlog.core.event import Event, Head
    from everlog.core.patch import StateConflict
    from everlog.core.redact import Finding


class EverlogError(Exception):
    """Base of all errors raised on purpose; `code` is stable, `message` is for people."""

    code = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidEventError(EverlogError, ValueError):
    """An event, or a value in it, is not of the form that the log takes; nothing was written."""

    code = "invalid_event"


class SecretError(EverlogError, ValueError):
    """An event, or what names a thing, holds what a rule takes for a secret; nothing was written.

    findings: where, by which rule; never the secret.
    """

    code = "secret"

    def __init__(self, message: str, *, findings: tuple[Finding, ...]) -> None:
        super().__init__(message)
        self.findings = findings


class InvalidQueryError(EverlogError, ValueError):
    """A query does not parse, or asks what cannot be asked here."""

    code = "invalid_query"


class InvalidPlaceError(EverlogError, ValueError):
    """A position, time, checkpoint name or address does not parse, or lies outside the branch."""

    code = "invalid_place"


class NotFoundError(EverlogError, LookupError):
    """There is no such session, branch, event, checkpoint or attachment in this store."""

    code = "not_found"


class SessionExistsError(EverlogError):
    """The session's name is taken; nothing was written."""

    code = "session_exists"


class KeyReusedError(EverlogError):
    """An idempotency key was recorded before with other content; nothing was written.

    event: the event that the key recorded, or None where it cannot be shown.
    """

    code = "key_reused"

    def __init__(self, message: str, *, event: Event | None = None) -> None:
        super().__init__(message)
        self.event = event


class ReducerError(EverlogError, ValueError):
    """A reducer or upcaster raised, is not known, or gave what is not JSON; the log is as it was.

    event: the event that it was given, or None.
    """

    code = "reducer"

    def __init__(self, message: str, *, event: Event | None = None) -> None:
        super().__init__(message)
        self.event = event


class PatchError(EverlogError, ValueError):
    """A change cannot be made to a state: nothing stands at its path, or a `test` does not hold; nothing was written."""

    code = "patch"


class LimitError(EverlogError, ValueError):
    """A documented bound was passed; nothing was written."""

    code = "limit"


class ConflictError(EverlogError):
    """The branch is not where the writer last saw it; nothing was written.

    head: the actual head of the session's current branch.
    events: what the writer had not seen, oldest first; at most CONFLICT_EVENTS_MAX and CONFLICT_BYTES_MAX.
    missed: number of events that the writer had not seen, of which `events` are the first.
    moved: True where the session's current branch is another one than the writer saw.
    ancestor: the cut up to which the branch that the writer saw and the current one are the same.
    """

    code = "conflict"

    def __init__(
        self,
        message: str,
        *,
        head: Head,
        events: tuple[Event, ...] = (),
        missed: int = 0,
        moved: bool = False,
        ancestor: int,
    ) -> None:
        super().__init__(message)
        self.head = head
        self.events = events
        self.missed = missed
        self.moved = moved
        self.ancestor = ancestor


class MergeConflictError(EverlogError):
    """Two lines changed the same member of the state differently; nothing was written.

    conflicts: each with pointer, base, ours and theirs.
    """

    code = "merge_conflict"

    def __init__(self, message: str, *, conflicts: tuple[StateConflict, ...]) -> None:
        super().__init__(message)
        self.conflicts = conflicts


class FencedError(EverlogError):
    """Somebody else holds the session's lease, or the lease that was shown is good no more; nothing was written.

    holder: who holds it now, None for nobody; until: when it lapses, microseconds since 1970 UTC, None for never.
    """

    code = "fenced"

    def __init__(self, message: str, *, holder: str | None, until: int | None) -> None:
        super().__init__(message)
        self.holder = holder
        self.until = until


class HeldError(EverlogError):
    """A retention policy holds a session, or one that shares its events; nothing was destroyed.

    policy: the name of the policy; None where it is the policies themselves that were to be destroyed. session: the id of the one that is held.
    """

    code = "held"

    def __init__(self, message: str, *, policy: str | None, session: str) -> None:
        super().__init__(message)
        self.policy = policy
        self.session = session


class ApprovalError(HeldError):
    """A policy asks for two persons, one to propose and another to approve, and they did not; nothing was destroyed.

    policy: its name. session: the id of the one that proposals are recorded in.
    """

    code = "approval"


class DivergenceError(EverlogError):
    """A run asks for another step, or for one with another input, than its record holds; nothing was written.

    recorded: the event that stands in the record; None where nothing does, and where the session's line was left. asked: the name,
    the input or the kind of wait that was asked for instead; None where what is recorded was not asked for.
    """

    code = "divergence"

    def __init__(self, message: str, *, recorded: Event | None, asked: object) -> None:
        super().__init__(message)
        self.recorded = recorded
        self.asked = asked


class _StepError(EverlogError):
    """event: the event that says so, or None."""

    def __init__(self, message: str, *, event: Event | None) -> None:
        super().__init__(message)
        self.event = event


class StepUnknownError(_StepError):
    """A step was started, and nothing says whether it took effect; it was not run again.

    event: its last start, or the record that it is unknown.
    """

    code = "step_unknown"


class StepFailedError(_StepError):
    """A step raised when it ran, in this process or another, and is not run again.

    type: the name of what it raised. event: the record of that.
    """

    code = "step_failed"

    def __init__(self, message: str, *, event: Event | None, type: str | None) -> None:
        super().__init__(message, event=event)
        self.type = type


class WaitTimeoutError(_StepError, TimeoutError):
    """A run waited for a signal, and none came in its time; that is recorded.

    event: the record of that, or None where it was made just now.
    """

    code = "wait_timeout"


class WaitingError(EverlogError):
    """A run waits for a signal, longer than this process was to wait; the wait is recorded. name: of the signal."""

    code = "waiting"

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


class StaleCursorError(EverlogError):
    """The feed does not hold the event that the cursor stands on: the store was restored or replaced."""

    code = "stale_cursor"


class BusyError(EverlogError):
    """A wait passed its deadline; the message says what was and was not done."""

    code = "busy"


class UnavailableError(EverlogError):
    """The store cannot be reached or written now (closed, disk full, file replaced); nothing was written."""

    code = "unavailable"


class OutcomeUnknownError(EverlogError):
    """A commit failed in a way that hides whether it took effect; append again with the same key to learn."""

    code = "outcome_unknown"


class CorruptionError(EverlogError):
    """Stored bytes contradict each other; nothing was written."""

    code = "corruption"


class StateMismatchError(CorruptionError):
    """A recorded state hash, or a snapshot, is not what folding the events gives.

    position: the first event after which they differ.
    """

    code = "state_mismatch"

    def __init__(self, message: str, *, position: int) -> None:
        super().__init__(message)
        self.position = position


class TamperedError(EverlogError):
    """Stored bytes contradict the hashes that were recorded for them."""

    code = "tampered"


class KeyNeededError(EverlogError):
    """Bodies are encrypted under a key that was not given, or that is not the one; nothing was written."""

    code = "key_needed"


class UnsupportedStoreError(EverlogError):
    """What was named, or this version or process, cannot be used as a store."""

    code = "unsupported_store"
