"""Erasing: what is destroyed, and all that was derived from it.

1. The store destroys bodies, salts, attachments, snapshots and what blocks hold, in one transaction with the ledger's record.
2. Summaries that stand for an event are erased with it, on every line that shares it, and before it: whoever is stopped between
   has erased too much rather than too little.
3. Objects of an archive that hold what was destroyed are replaced at once. Where that fails it is said, and done by whoever erases,
   archives or restores next.
4. What a retention policy holds is neither erased nor deleted, by whoever asks. A hold counts from the next erasure on: one that is being
   written just now is not stopped.
"""

from __future__ import annotations

from collections.abc import Sequence

from everlog.archiving import finish
from everlog.context.tree import summaries_over
from everlog.core.labels import check_reason
from everlog.holding import check_events_held, check_session_held
from everlog.reader import View
from everlog.storage import Delete, Erase, SessionRow, Storage


def erase_events(storage: Storage, session: SessionRow, view: View, positions: Sequence[int], reason: str) -> list[int]:
    """Erase events of a branch; give the positions of those that were there. See `Session.erase`. HeldError."""
    check_reason(reason)
    if not positions:
        return []
    wanted = tuple(sorted(set(positions)))
    check_events_held(storage, view, wanted)
    for other, row, found in summaries_over(storage, view, wanted):
        storage.write(Erase(other.id, row.key, found, reason))
    erased = storage.write(Erase(session.id, view.branch.key, wanted, reason)).positions
    finish(storage)
    return list(erased)


def delete_session(storage: Storage, session: SessionRow, reason: str, *, cascade: bool) -> None:
    """End a session. See `Store.delete`. HeldError."""
    check_reason(reason)
    check_session_held(storage, session, cascade=cascade)
    storage.write(Delete(session.id, reason, cascade))
    finish(storage)
