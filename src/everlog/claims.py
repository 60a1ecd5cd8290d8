"""Claims: messages of one session shared out among workers, each to one, on nothing but leases and keys.

1. The work on a message is a session named after the message's event, made for it. Its lease is the claim, so exactly one worker
   has it, and another takes it over when that one died.
2. The answer is appended to the shared session under a key of the message, so it is there once, whoever is slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from everlog.core.event import Event
from everlog.errors import FencedError
from everlog.session import Session
from everlog.woken import Woken

if TYPE_CHECKING:
    from everlog.store import Store

PREFIX = "claims/"


class Claim:
    """A message that this worker alone works on. Use as a context manager: leaving it without an answer gives it back.

    message: the event. work: a woken session for what is done about it, with all that an earlier worker did.
    """

    def __init__(self, session: Session, message: Event, work: Woken) -> None:
        self.session = session
        self.message = message
        self.work = work

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.work.__exit__(kind, error, trace)

    def answer(self, content: Any, *, actor: str | None = None, **members: Any) -> Event:
        """Append the answer to the shared session, caused by the message; once: a second answer gives the first.

        members: of append. Raises FencedError where the lease was lost: then another worker has the message.
        """
        self.work.lease.renew()
        return self.session.append(
            "agent.message",
            {"content": content},
            caused_by=self.message,
            actor=actor,
            key=f"answer:{self.message.hash}",
            **members,
        )


def claim_message(store: Store, session: Session, *, holder: str, ttl: float) -> Claim | None:
    """Take the oldest message that waits, for one worker."""
    for message in _waiting(session):
        if is_answered(session, message):
            continue
        name = f"{PREFIX}{message.hash[:32]}"
        store.get_or_create(name, parent=message)
        try:
            work = store.wake(name, holder=holder, ttl=ttl)
        except FencedError:
            continue  # somebody works on it
        if is_answered(session, message):  # somebody was done between the look and the lease
            work.lease.release("it was answered already")
            continue
        return Claim(session, message, work)
    return None


def _waiting(session: Session) -> Iterator[Event]:
    """Give the messages that may not be answered yet, oldest first."""
    found = session.in_flight()
    if found.dropped:  # more wait than are kept track of: look at all
        yield from session.events(types="user.message")
        return
    for position in found.messages:
        yield session.event(position)


def is_answered(session: Session, message: Event) -> bool:
    """Tell whether an answer to a message is recorded."""
    return session.find(f"answer:{message.hash}") is not None
