"""What the in-memory store keeps of a session and of a branch."""

from __future__ import annotations

import msgspec

from everlog.core.decide import EventRow
from everlog.core.event import DELETED, PreparedAttachment
from everlog.storage import BranchRow, SessionRow


class KeptSession(msgspec.Struct):
    """A session and its branches."""

    row: SessionRow
    branches: list[int]  # keys, by number
    deleted: bool = False


class KeptBranch(msgspec.Struct):
    """A branch and its own events; the one at position p stands at index p - base_size. forks: branches based on it."""

    row: BranchRow
    events: list[EventRow]
    attachments: dict[int, list[PreparedAttachment]]
    forks: list[int]

    def at(self, position: int) -> EventRow:
        return self.events[position - self.row.base_size]


def leaf_only(row: EventRow) -> EventRow:
    """Give what is left of a deleted event."""
    return EventRow(
        row.position, None, None, None, None, None, None, None, None, None, None, DELETED, None, None, row.leaf, row.nodes,
        None, None,
    )  # fmt: skip
