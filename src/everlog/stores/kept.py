"""What the in-memory store keeps of a session and of a branch."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from everlog.core.decide import EventRow
from everlog.core.event import DELETED, PreparedAttachment
from everlog.sealed import BranchHead
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

    def bytes_held(self) -> int:
        """Give the bytes of its own bodies and attachments."""
        attached = sum(len(each.content or b"") for own in self.attachments.values() for each in own)
        return attached + sum(len(row.body or b"") for row in self.events)


def heads_of(keys: Sequence[int], branches: Sequence[KeptBranch], sessions: Sequence[KeptSession]) -> list[BranchHead]:
    """Give the heads of branches of living sessions. keys: their places in `branches`."""
    found: list[BranchHead] = []
    for key in keys:
        row = branches[key].row
        session = sessions[row.session]
        if not session.deleted:
            base = None if row.base is None else branches[row.base].row.id
            found.append(BranchHead(row.id, session.row.id, row.head(), base, row.base_size))
    return found


def leaf_only(row: EventRow) -> EventRow:
    """Give what is left of a deleted event."""
    return EventRow(
        row.position, None, None, None, None, None, None, None, None, None, None, DELETED, None, None, row.leaf, row.nodes,
        None, None,
    )  # fmt: skip
