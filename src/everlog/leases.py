"""Holding a lease: taken, renewed in the background while it is held, given back. The law is in core/lease.py.

1. A handle that holds a lease shows it with every append, rewind and switch; the store decides.
2. One thread a store renews what is held, at a third of each lease's time. Where a renewal is refused, or cannot be made before
   the time is over, the lease is lost: `Lease.lost` says so, and the store refuses the holder's next append.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from threading import Condition, Lock, Thread
from types import TracebackType
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

import msgspec

from everlog.core.decide import Batch
from everlog.core.event import Event, NewEvent
from everlog.core.lease import MICROS, NONCE_BYTES, LeaseRow, LeaseToken, Ticks, check_terms
from everlog.core.limits import LEASE_SECONDS_MAX
from everlog.core.position import format_micros
from everlog.core.values import shown
from everlog.errors import EverlogError, FencedError, LimitError
from everlog.storage import EndLease, Receipt, RenewLease, Request, SessionRow, StaleLeaseError, Storage, TakeLease

RENEW_SHARE = 1 / 3  # of a lease's time after which it is renewed: two more tries follow before it ends
_LOOK_SECONDS = 5.0  # between looks at whether anything is held still
_WAIT_SECONDS = 0.5  # between looks at whether the lease of another ended, and whether to go on
_RETRY_SHARE = 1 / 12  # of it, after a renewal that could not be made


class Leased(Protocol):
    """A session's handle, as a lease needs it."""

    @property
    def id(self) -> str: ...
    @property
    def uuid(self) -> str: ...
    @property
    def storage(self) -> Storage: ...
    def write_own(
        self, events: Sequence[NewEvent], make: Callable[[Batch], Request], *, lease: LeaseToken | None = None
    ) -> Receipt: ...
    def gave_back(self, lease: Lease, receipt: Receipt) -> None: ...


class Lease:
    """The sole right to append to a session. Use as a context manager, or release it.

    holder: who holds it. token: a number that grows with every lease of the session.
    """

    def __init__(
        self, session: Leased, handle: Leased, keeper: LeaseKeeper, holder: str, token: LeaseToken, ttl: int, until: int
    ) -> None:
        self.holder = holder
        self.token = token.number
        self._session = (
            session  # a handle of its own: the user's refers to this lease, and both go when nobody uses them
        )
        self._handle = ref(handle)
        self._keeper = keeper
        self._shown = token
        self.ttl_micros = ttl
        self._until = until  # ticks up to which it lives at least
        self._error: FencedError | None = None
        self._ended = False
        self._ending = Lock()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keeper.forget(self)  # whatever comes of giving it back, it is not renewed behind the block
        if self._ended or self._error is not None:
            return
        try:
            self._release("done" if error is None else f"{type(error).__name__} was raised")
        except FencedError:
            return  # lost without notice: what was appended since was refused
        except EverlogError as trouble:
            if error is None:
                raise
            error.add_note(
                f"the lease of session {self._session.id!r} could not be given back, and lapses: {trouble.message}"
            )

    def __repr__(self) -> str:
        return f"<Lease {self.token} of {self._session.id!r} held by {self.holder!r}{'' if self.alive else ', ended'}>"

    @property
    def session_uuid(self) -> str:
        """The internal id of the session that it is of."""
        return self._session.uuid

    @property
    def alive(self) -> bool:
        """Whether it is held, as far as is known here without asking the store."""
        return not self._ended and self._error is None and self._session.storage.ticks().micros < self._until

    @property
    def released(self) -> bool:
        """Whether it was given back."""
        return self._ended

    @property
    def lost(self) -> FencedError | None:
        """Why it is held no more, where it was lost."""
        return self._error

    def shown(self) -> LeaseToken:
        """Give what is shown to the store, which decides: a repeated key is answered even where the lease was lost."""
        return self._shown

    def renew(self) -> None:
        """Have it live for its whole time from now. The background does so; FencedError where it was lost."""
        ticks: Ticks = self._session.storage.ticks()
        try:
            self._session.storage.write(RenewLease(self._session.uuid, self.shown(), self.ttl_micros))
        except FencedError as error:
            if not self._ended:  # it may have been given back meanwhile
                self._error = error
            raise
        self._until = ticks.micros + self.ttl_micros

    def release(self, reason: str = "done") -> Event | None:
        """Give it back, so that others need not wait; give the event. None where it was given back already."""
        self._keeper.forget(self)
        try:
            return self._release(reason)
        except EverlogError as error:
            if not isinstance(error, FencedError):
                self._keeper.keep(self)  # it could not be given back: it is held still
            raise

    def _release(self, reason: str) -> Event | None:
        with self._ending:
            if self._ended:
                return None
            self._ended = True
            try:
                receipt = end_lease(self._session, self.shown(), reason)
            except BaseException as error:
                self._ended = False
                if isinstance(error, FencedError):
                    self._error = error
                raise
        handle = self._handle()
        if handle is not None:
            handle.gave_back(self, receipt)
        return receipt.events[0]

    def due(self) -> float:
        """Give the ticks at which it is to be renewed next."""
        return self._until - self.ttl_micros * (1 - RENEW_SHARE)

    def over(self, now: int) -> bool:
        """Note that it ended where nobody could renew it; tell whether it did."""
        if now >= self._until and self._error is None:
            self._error = FencedError(
                f"the lease with token {self.token} of session {self._session.id!r} could not be renewed in time; nothing was "
                "written; wake the session again, and see what happened meanwhile",
                holder=None,
                until=None,
            )
        return self._error is not None


class LeaseInfo(msgspec.Struct, frozen=True):
    """A lease that lives. token: its number. until, taken_at: microseconds since 1970 UTC. ttl: seconds."""

    session: str
    holder: str
    token: int
    until: int
    ttl: float
    taken_at: int


def lease_info(storage: Storage, session: SessionRow, lease: LeaseRow | None, now: Ticks) -> LeaseInfo | None:
    """Give what users see of a session's last lease; None where it does not live."""
    return _lease_info(storage, session, lease, now) if lease is not None and lease.lives(now) else None


def _lease_info(storage: Storage, session: SessionRow, lease: LeaseRow, now: Ticks) -> LeaseInfo:
    until = storage.now() + lease.left(now)
    return LeaseInfo(session.name, lease.holder or "", lease.number, until, lease.ttl / MICROS, lease.taken)


def living_leases(storage: Storage, limit: int) -> list[LeaseInfo]:
    """List the leases that live, the last taken first."""
    now = storage.ticks()
    return [_lease_info(storage, session, lease, now) for session, lease in storage.leases(now, limit)]


class LeaseKeeper:
    """Renews the leases that this process holds in one store, from one thread that is there while any is held."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        # Ticks at which each is renewed next. A lease that nobody can use any more is not kept alive.
        self._held: WeakKeyDictionary[Lease, float] = WeakKeyDictionary()
        self._lock = Lock()  # taken itself: Ctrl-C at the end of a condition's own methods would leave it taken
        self._changed = Condition(self._lock)
        self._thread: Thread | None = None
        self._stopped = False
        self._process = os.getpid()  # in a child that was forked its lock may be held by a thread that is not there

    def keep(self, lease: Lease) -> None:
        """Renew a lease from now on."""
        if self._process != os.getpid():
            return
        with self._lock:
            self._held[lease] = lease.due()
            if self._thread is None:
                self._thread = Thread(target=self._run, name="everlog-leases", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def forget(self, lease: Lease) -> None:
        """Renew it no more."""
        if self._process != os.getpid():
            return
        with self._lock:
            self._held.pop(lease, None)
            self._changed.notify_all()

    def stop(self) -> None:
        """Renew nothing more: the leases that are still held lapse."""
        if self._process != os.getpid():
            return
        with self._lock:
            self._stopped = True
            self._held.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._lock:
                held = list(self._held.items())  # fewer than it counts, where some are about to go
                if not held or self._stopped:
                    self._thread = None
                    return
                now = self._storage.ticks().micros
                lease, due = min(held, key=lambda item: item[1])
                del held
                if due > now:
                    del lease
                    self._changed.wait(min((due - now) / MICROS, _LOOK_SECONDS))
                    continue
            self._renew(lease, now)
            del lease

    def _renew(self, lease: Lease, now: int) -> None:
        try:
            lease.renew()
            due = lease.due()
        except FencedError:
            due = None
        except Exception:  # noqa: BLE001  # the store is busy, or cannot be reached now; others are renewed all the same
            due = None if lease.over(now) else now + lease.ttl_micros * _RETRY_SHARE
        with self._lock:
            if lease in self._held:
                if due is None:
                    del self._held[lease]
                else:
                    self._held[lease] = due


def take_lease(
    session: Leased,
    handle: Leased,
    keeper: LeaseKeeper,
    draw: Callable[[int], bytes],
    holder: str,
    ttl: float,
    *,
    timeout: float,
    stop: Callable[[], bool],
    last: LeaseRow | msgspec.UnsetType | None = msgspec.UNSET,
) -> Lease:
    """Take the lease of a session, waiting for one that lives for at most `timeout` seconds, or until `stop` says so.

    session: a handle that the lease keeps. handle: the user's, which is to show it. Where this is interrupted, or `stop` says
    so, what was taken is given back. last: the session's last lease, where it was just read.
    """
    micros = check_terms(holder, ttl)
    check_timeout(timeout)
    storage: Storage = session.storage
    deadline = time.monotonic() + timeout
    while True:
        if isinstance(last, msgspec.UnsetType):
            last = storage.lease(session.uuid)
        token = LeaseToken((0 if last is None else last.highest) + 1, draw(NONCE_BYTES))
        events, lapsed = _taking(last, holder, token, format_micros(storage.now() + micros))
        last = msgspec.UNSET
        started = storage.ticks()
        try:
            session.write_own(events, partial(TakeLease, session.uuid, token, holder, micros, lapsed))
            lease = Lease(session, handle, keeper, holder, token, micros, started.micros + micros)
            if stop():
                lease.release("whoever took it was cancelled")
            else:
                keeper.keep(lease)
            return lease
        except StaleLeaseError:
            continue
        except FencedError:
            if time.monotonic() >= deadline:
                raise
            row = storage.lease(session.uuid)
            left = 0.0 if row is None else row.left(storage.ticks()) / MICROS
            storage.wait(storage.news(), min(max(left, 0.01), max(deadline - time.monotonic(), 0.0), _WAIT_SECONDS))
            if stop():
                raise
        except Exception:
            raise
        except BaseException:  # Ctrl-C: it may have been taken, and nobody would know
            with suppress(Exception):
                end_lease(session, token, "whoever took it was interrupted")
            raise


def _taking(last: LeaseRow | None, holder: str, token: LeaseToken, until: str) -> tuple[list[NewEvent], bool]:
    """Give the events that say that a lease was taken, and whether one of them says that the last one lapsed."""
    taken = NewEvent("lease.acquired", {"holder": holder, "token": token.number, "until": until}, actor=None)
    if last is None or last.holder is None:
        return [taken], False
    ended = {"token": last.number, "reason": f"the lease of {last.holder} lapsed"}
    return [NewEvent("lease.released", ended, outcome="timeout"), taken], True


def check_timeout(timeout: Any) -> None:
    """Refuse what is no time to wait, in seconds."""
    number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not number or not 0 <= timeout <= LEASE_SECONDS_MAX:
        raise LimitError(
            f"timeout {shown(timeout)} is not in 0 .. {LEASE_SECONDS_MAX:g} seconds; nothing was written; choose how long to wait"
        )


def end_lease(session: Leased, token: LeaseToken, reason: str) -> Receipt:
    """Give a lease back."""
    event = NewEvent("lease.released", {"token": token.number, "reason": reason})
    return session.write_own([event], partial(EndLease, session.uuid), lease=token)
