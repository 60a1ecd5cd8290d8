"""Waking a session: its lease, its head, and what was in flight, at the cost of its tail."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from everlog.core.event import Event
from everlog.leases import Lease
from everlog.pending import Pending
from everlog.session import Session, open_session
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
    opened = open_session(storage, settings, keepers, id)
    row = storage.session_by_id(opened.uuid)
    woken = Woken(storage, settings, keepers, row, storage.current_branch(row.id))
    woken.lease = woken.lease_unless(stop, holder, ttl, timeout=timeout)
    try:
        woken.refresh()
        woken.pending = woken.in_flight()
        woken.last_checkpoint = woken.last("checkpoint")
    except BaseException:
        woken.lease.release("it could not be woken")
        raise
    return woken
