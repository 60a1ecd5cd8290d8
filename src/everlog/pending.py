"""What is in flight in a session, as whoever wakes it is told: read off the reducer `pending`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from everlog.core.event import Event
from everlog.reducers.pending import DEFAULT_RUN, WholeFold

# What says which tool uses have no result, and which messages no answer.
CONVERSATION_TYPES: Final = (
    "user.message",
    "agent.message",
    "agent.tool_use",
    "agent.tool_result",
    "user.tool_confirmation",
)


class PendingTool(msgspec.Struct, frozen=True):
    """A tool use without a result. id: of the use; event: the id of its event."""

    id: str
    name: str | None
    position: int
    event: str


class PendingStep(msgspec.Struct, frozen=True):
    """A step, stage or run that was started and has not finished. kind: step, stage or run. within: the path of what it is in.

    retry_at: microseconds; where it failed and is to be tried again then.
    """

    run: str
    kind: str
    name: str
    occurrence: int
    attempt: int
    position: int
    effect_key: str | None = None
    retry_at: int | None = None
    within: str = ""


class PendingWait(msgspec.Struct, frozen=True):
    """A wait that is open. until: microseconds; None for ever."""

    run: str
    name: str
    occurrence: int
    position: int
    until: int | None = None
    within: str = ""


class PendingSignal(msgspec.Struct, frozen=True):
    """A signal that no wait has taken."""

    name: str
    position: int


class Pending(msgspec.Struct, frozen=True):
    """What is in flight at a cut, each kind oldest first. size: the cut.

    messages: positions of user.message events that no agent.message has answered: one that is caused by such a message answers that
    one, any other answers all before it. dropped: how many more there were, of all kinds and ever, than are kept of one (1,000);
    dropped_of: by kind, as in {"messages": 3}.
    """

    size: int
    tools: tuple[PendingTool, ...]
    steps: tuple[PendingStep, ...]
    waits: tuple[PendingWait, ...]
    messages: tuple[int, ...]
    signals: tuple[PendingSignal, ...]
    dropped: int
    dropped_of: dict[str, int]

    def __bool__(self) -> bool:
        """Whether anything is: tools, steps, waits or messages."""
        return bool(self.tools or self.steps or self.waits or self.messages)

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return msgspec.to_builtins(self)


def whole_conversation(events: Iterable[Event]) -> Pending:
    """Fold all of a session's events of CONVERSATION_TYPES: every tool and message in flight, also past what `pending` keeps."""
    fold, size = WholeFold(), 0
    for event in events:
        fold.apply(event)
        size = event.position + 1
    return read_pending(fold.value, size)


def read_pending(value: Any, size: int) -> Pending:
    """Read a state of the reducer `pending`."""
    tools = [
        PendingTool(use, place["name"], place["position"], place["event"])
        for use, places in value["tools"].items()
        for place in places
    ]
    steps = [
        PendingStep(
            row.get("run", DEFAULT_RUN),
            row.get("kind", "step"),
            row["step"],
            row.get("occurrence", 1),
            row.get("attempt", 1),
            row["position"],
            row.get("effect_key"),
            row.get("retry_at"),
            row.get("within", ""),
        )
        for row in value["steps"].values()
    ]
    waits = [
        PendingWait(
            row.get("run", DEFAULT_RUN),
            row["name"],
            row.get("occurrence", 1),
            row["position"],
            row.get("until"),
            row.get("within", ""),
        )
        for row in value["waits"].values()
    ]
    signals = [PendingSignal(row["name"], row["position"]) for row in value["signals"]]
    by_position = lambda row: row.position  # noqa: E731
    return Pending(
        size,
        tuple(sorted(tools, key=by_position)),
        tuple(sorted(steps, key=by_position)),
        tuple(sorted(waits, key=by_position)),
        tuple(message["position"] for message in value["messages"]),
        tuple(signals),
        sum(value["dropped"].values()),
        dict(value["dropped"]),
    )
