"""A session's handle as one who works on it: its lease, signals, runs, and what is in flight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import copy
from hashlib import sha256
from typing import Any, Final

from msgspec import UNSET, UnsetType

from everlog.core.event import Event, NewEvent
from everlog.core.lease import LeaseRow
from everlog.core.limits import PAGE_EVENTS_MAX
from everlog.errors import InvalidEventError
from everlog.leases import Lease, take_lease
from everlog.pending import CONVERSATION_TYPES, Pending, PendingTool, read_pending, whole_conversation
from everlog.reader import PlaceLike
from everlog.reducers.pending import DEFAULT_RUN, PENDING
from everlog.runs import Run
from everlog.steps import Policy, check_step
from everlog.storage import Receipt
from everlog.writer import SessionWriter

UNKNOWN_TEXT: Final = (
    "The process that ran this ended before a result was recorded. It is not known whether it took effect."
)


class SessionWorker(SessionWriter):
    """A session's handle as one who works on it."""

    def lease(self, holder: str, ttl: float = 30.0, *, timeout: float = 0.0) -> Lease:
        """Take the sole right to append, for this handle: others may append inbox types only, until it is given back.

        holder: who, for people. ttl: seconds after which it lapses if this process dies; while it lives the lease is renewed
        in the background. timeout: seconds to wait for the lease of another. Recorded as `lease.acquired`.
        Raises FencedError (holder, until) where another lives.
        """
        return self.lease_unless(lambda: False, holder, ttl, timeout=timeout)

    def lease_unless(
        self,
        stop: Callable[[], bool],
        holder: str,
        ttl: float,
        *,
        timeout: float,
        last: LeaseRow | UnsetType | None = UNSET,
    ) -> Lease:
        """As `lease`; where `stop` says so, it waits no longer, and gives back what it has taken.

        last: the session's last lease, where it was just read.
        """
        self._refuse_secret(holder, "holder")
        own, keeper, draw = copy(self), self._keepers.leases, self._settings.draw
        taken = take_lease(own, self, keeper, draw, holder, ttl, timeout=timeout, stop=stop, last=last)
        self._seen = own._seen
        if not taken.released:
            self._lease = taken  # also one that lapsed since: it is shown, and refused
        return taken

    def under(self, lease: Lease) -> None:
        """Show a lease of this session that another handle took with what this one writes."""
        self._lease = lease

    def gave_back(self, lease: Lease, receipt: Receipt) -> None:
        """Note that a lease was given back."""
        if self._lease is lease:
            self._lease = None
        self.noted(receipt)

    def signal(self, name: str, data: Any = None, *, actor: str | None = None, key: str | None = None) -> Event:
        """Send a signal: the first wait of that name that has none gets it, also one that is asked for later.

        Anyone may, while another holds the lease. Give key= where it may be sent twice.
        """
        self._refuse_secret(name, "name")
        check_step(name, "retry", 0, 1.0, None)
        return self.append("signal", {"name": name, "data": data}, actor=actor, key=key)

    def in_flight(self, at: PlaceLike = "end") -> Pending:
        """Give what is in flight: tool uses without results, steps, waits, messages that nobody answered."""
        state = self.state(PENDING, at=at)
        return read_pending(state.value, state.size)

    def run(self, name: str = DEFAULT_RUN, *, policy: Policy = "fail", retry_failed: bool = False) -> Run:
        """Begin a run, or go on with it: what it has recorded is given again and not done again.

        name: of the run, where a session has several. policy: of steps that say none: what becomes of one that was started when
        its process died: "fail" never runs it twice, "retry" runs it again, "ask" waits for a signal that decides.
        retry_failed: try steps once more that raised.
        """
        if not isinstance(name, str):
            raise InvalidEventError(f"run name {name!r:.100} is no string; nothing was done; name it")
        check_step(name, policy, 0, 1.0, None)
        return Run(self, name, self._settings.draw, policy=policy, retry_failed=retry_failed)

    def repair(self, *, actor: str | None = None) -> list[Event]:
        """Close every tool use that has no result with one whose outcome is `unknown`; give the events.

        Every provider then accepts the conversation, and the model is told that it is not known whether they took effect.
        """
        tools = self.conversation_in_flight().tools
        seen: Counter[tuple[str, str]] = Counter()  # a turn may hold one id twice
        repaired: list[Event] = []
        for start in range(0, len(tools), PAGE_EVENTS_MAX):
            results: list[NewEvent] = []
            for tool in tools[start : start + PAGE_EVENTS_MAX]:
                results.append(_unknown_result(tool, actor, seen[tool.event, tool.id]))
                seen[tool.event, tool.id] += 1
            repaired += self.extend(results, repeats="skip")
        return repaired

    def conversation_in_flight(self) -> Pending:
        """As `in_flight`, with every tool use and message: where more were in flight than it keeps, all events are looked at."""
        found = self.in_flight()
        if not found.dropped_of.keys() & {"tools", "messages"}:
            return found
        return whole_conversation(self.events(types=CONVERSATION_TYPES))


def _unknown_result(tool: PendingTool, actor: str | None, number: int) -> NewEvent:
    return NewEvent(
        "agent.tool_result",
        {"tool_use_id": tool.id, "content": UNKNOWN_TEXT, "is_error": True},
        outcome="unknown",
        caused_by=tool.event,
        actor=actor,
        key=f"repair:{tool.event}:{sha256(tool.id.encode()).hexdigest()[:16]}" + (f":{number}" if number else ""),
    )
