"""Under which lease an integration writes: under one that is held already, or under those that a holder takes of each session it writes.

1. A holder takes a session's lease with its first write to it, renews it in the background, and gives it back when the integration
   is closed. Where another's lease lives, that write is refused with FencedError, and the next one asks again.
2. What is written under a lease that was lost is refused, also where nobody took the next one: whoever was away so long does not
   know what happened meanwhile. Where an append says what it has read of the session (`anew`), the next lease is taken instead, and
   what was read decides.
3. Reading takes no lease.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from copy import copy
from dataclasses import dataclass
from threading import Lock
from typing import Final

from everlog.aio.runs import AsyncLease
from everlog.core.event import Event, Head, NewEvent
from everlog.core.lease import check_terms
from everlog.errors import BusyError, ConflictError, FencedError, InvalidEventError, NotFoundError
from everlog.integrations.forked import begin_in_each_process
from everlog.leases import Lease, check_timeout
from everlog.session import Session

_TRIES: Final = 20  # of an append just before which leases are taken or given back


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who takes a lease of each session that an integration writes.

    name: for people. ttl: seconds after which a lease lapses where this process dies. timeout: seconds to wait for that of another.
    """

    name: str
    ttl: float = 30.0
    timeout: float = 0.0


LeaseLike = Lease | AsyncLease | Holder | str


class Holding:
    """The leases that an integration writes under. May be used from any thread.

    lease: one that is held, of the one session that it is of; or a holder, by its name alone or with its terms; None for none.
    """

    def __init__(self, lease: LeaseLike | None) -> None:
        self._given = lease.sync if isinstance(lease, AsyncLease) else lease if isinstance(lease, Lease) else None
        self._holder = Holder(name=lease) if isinstance(lease, str) else lease if isinstance(lease, Holder) else None
        if lease is not None and self._given is None and self._holder is None:
            raise InvalidEventError(
                f"lease {lease!r:.100} is neither a lease nor who is to hold one; nothing was opened; give one that `wake` or "
                "`lease` gave, a name, or a Holder"
            )
        if self._holder is not None:
            check_terms(self._holder.name, self._holder.ttl)
            check_timeout(self._holder.timeout)
        begin_in_each_process(self._begin)

    def _begin(self) -> None:
        """Hold no lease but one that was given."""
        self._places: dict[str, _Place] = {}  # by the session's uuid
        self._lock = Lock()

    @property
    def timeout(self) -> float:
        """Seconds for which a write may wait for another's lease."""
        return 0.0 if self._holder is None else self._holder.timeout

    def hold(self, session: Session, *, anew: bool = False) -> None:
        """Have what a handle writes be under the lease, which is taken where it is not; what the handle saw stays as it is.

        Raises FencedError where another lives, NotFoundError.
        """
        if self._given is not None:
            if self._given.session_uuid == session.uuid:
                session.under(self._given)
            return
        if self._holder is None:
            return
        with self._lock:
            place = self._places.setdefault(session.uuid, _Place())
        with place.lock:
            if place.lease is None or (anew and not place.lease.alive):
                name, ttl = self._holder.name, self._holder.ttl
                place.lease = copy(session).lease(name, ttl, timeout=self._holder.timeout)
            session.under(place.lease)

    def release(self) -> None:
        """Give back the leases that were taken here. One that was given stays its holder's."""
        with self._lock:
            places, self._places = list(self._places.values()), {}
        with ExitStack() as each:  # where one cannot be given back, the others are
            for place in places:
                each.callback(place.release)


class _Place:
    """A session's lease, and whose turn it is to take it."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.lease: Lease | None = None

    def release(self) -> None:
        with self.lock:
            lease, self.lease = self.lease, None
        if lease is not None:
            with suppress(FencedError, NotFoundError):  # it was lost, or its session deleted
                lease.release()


def extend_past_leases(
    session: Session, events: list[NewEvent], *, key: str, expected: Head
) -> tuple[list[Event], Head]:
    """Append at a head, or where since then leases were taken and given back and nothing else; give what was recorded, and its cut.

    Raises ConflictError where there was more.
    """
    for _ in range(_TRIES):
        try:
            return session.extend(events, key=key, expected=expected), expected
        except ConflictError as conflict:
            if not _only_leases(session, expected, conflict):
                raise
            expected = conflict.head
    raise BusyError(
        f"the lease of session {session.id!r} changed hands during each of {_TRIES} tries to append; nothing was written; try again"
    )


def _only_leases(session: Session, seen: Head, conflict: ConflictError) -> bool:
    events = conflict.events
    if conflict.moved or not events or len(events) < conflict.missed:
        return False
    return all(event.type.startswith("lease.") for event in events) and session.head_at(seen.size) == seen
