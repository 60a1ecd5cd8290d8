"""Waking a session: its lease, its head, and what was in flight, at the cost of its tail."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from everlog.core.event import Event
from everlog.core.position import check_session_id
from everlog.leases import Lease
from everlog.pending import Pending, read_pending
from everlog.reducers.pending import PENDING
from everlog.session import Session
from everlog.state import Still
from everlog.storage import Storage
from everlog.writer import Keepers, Settings


class Woken(Session):
    """A session whose lease this process holds. Use as a context manager: leaving it gives the lease back.

    lease: of this handle. pending: what was in flight when it was woken. last_checkpoint: its event, None where there is none.
    """

    lease: Lease  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]  # taken already
    pending: Pending
    last_checkpoint: Event | None

    def __repr__(self) -> str:
        return f"<Woken {self.id!r} size={self.head.size} held by {self.lease.holder!r}{'' if self.lease.alive else ', ended'}>"

    def __enter__(self) -> Woken:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lease.__exit__(kind, error, trace)


def wake_session(
    storage: Storage,
    settings: Settings,
    keepers: Keepers,
    id: str,
    *,
    holder: str,
    ttl: float,
    timeout: float,
    stop: Callable[[], bool] = lambda: False,
) -> Woken:
    """Take a session's lease, and look at what was in flight. stop: as in `SessionWorker.lease_unless`."""
    check_session_id(id)
    found = storage.find(id)
    woken = Woken(storage, settings, keepers, found.session, found.branch)
    woken.lease = woken.lease_unless(stop, holder, ttl, timeout=timeout, last=found.lease)
    try:
        still = Still(storage, settings.snapshots, woken.view_seen(found.branch))
        state = still.state(PENDING)
        woken.pending = read_pending(state.value, state.size)
        woken.last_checkpoint = still.last("checkpoint")
    except BaseException:
        woken.lease.release("it could not be woken")
        raise
    return woken
