"""Claims: messages of one session shared out among workers, each to one, on nothing but leases and keys.

1. The work on a message is a session named after the message's event, made for it. Its lease is the claim, so exactly one worker
   has it, and another takes it over when that one died.
2. The answer is appended to the shared session under a key of the message, so it is there once, whoever is slow.
3. A message is answered by an `agent.message` that it caused, and by any `agent.message` behind it without such a cause: that
   one answers all before it, as in the reducer `pending`.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from everlog.core.event import Event
from everlog.core.lease import held
from everlog.core.limits import TITLE_CHARACTERS_MAX
from everlog.core.position import format_address
from everlog.errors import FencedError
from everlog.session import Session
from everlog.woken import Woken

if TYPE_CHECKING:
    from everlog.store import Store

PREFIX = "claims/"


class Claim:
    """A message that this worker alone works on. Use as a context manager: leaving it gives the message back.

    message: the event. work: a woken session for what is done about it, with all that an earlier worker did.

    Left without an answer, also by an exception, the message is given to whoever claims next, at once and without end:
    `work.lease.token` counts the tries, from 1.
    """

    def __init__(self, session: Session, message: Event, work: Woken) -> None:
        self.session = session
        self.message = message
        self.work = work

    def __repr__(self) -> str:
        return f"<Claim of {self.session.id!r}@{self.message.position} held by {self.work.lease.holder!r}>"

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.work.__exit__(kind, error, trace)

    def answer(self, content: Any, *, actor: str | None = None, **members: Any) -> Event:
        """Append the answer to the shared session, caused by the message; once: a second answer gives the first.

        members: of append. Raises FencedError where the lease was lost: then another worker has the message; and where
        somebody else holds the lease of the shared session by now.
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
    _check_shared(session)
    for position in session.conversation_in_flight().messages:
        message = session.event(position)
        if is_answered(session, message):
            continue
        name = f"{PREFIX}{session.uuid[:8]}{message.hash[:24]}"  # a fork of the session has claims of its own
        store.get_or_create(name, parent=message, title=_title(session, message))
        try:
            work = store.wake(name, holder=holder, ttl=ttl)
        except FencedError:
            continue  # somebody works on it
        if is_answered(session, message):  # somebody was done between the look and the lease
            work.lease.release("it was answered already")
            continue
        return Claim(session, message, work)
    return None


def _check_shared(session: Session) -> None:
    """Raise FencedError where another holds the shared session: no answer could be appended."""
    lease, now, shown = session.storage.lease(session.uuid), session.storage.ticks(), session.lease_shown
    if lease is None or not lease.lives(now) or (shown is not None and lease.is_held_by(shown)):
        return
    raise held(
        lease,
        now,
        session=session.id,
        wall=session.storage.now(),
        what="messages are claimed from sessions that nobody holds",
    )


def _title(session: Session, message: Event) -> str:
    return f"work on {format_address(session.id, None, message.position)}"[:TITLE_CHARACTERS_MAX]


def is_answered(session: Session, message: Event) -> bool:
    """Tell whether an answer to a message is recorded."""
    return session.find(f"answer:{message.hash}") is not None
