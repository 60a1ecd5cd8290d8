"""Which sessions a list gives, and in what order, where nothing but the rows themselves is there to tell."""

from __future__ import annotations

from typing import Any

from everlog.core.query import matches_session
from everlog.storage import BranchRow, SessionFilter, SessionRow


def is_chosen(chosen: SessionFilter, session: SessionRow, branch: BranchRow) -> bool:
    """Tell whether a filter lets a session through."""
    if not session.name.startswith(chosen.prefix):
        return False
    if chosen.parent is not None and not (session.parent or b"").startswith(chosen.parent):
        return False
    return matches_session(
        chosen.query, name=session.name, title=session.title, labels=session.labels, updated=branch.recorded
    )


def rank(order: str, session: SessionRow, branch: BranchRow) -> tuple[Any, int]:
    """Give what a session is sorted by; order: updated, created or id, with or without `-`."""
    match order.removeprefix("-"):
        case "updated":
            return branch.recorded, branch.key
        case "created":
            return session.created, session.key
        case _:
            return session.name, session.key
