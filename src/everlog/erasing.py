"""Erasing: what is destroyed, and all that was derived from it.

1. The store destroys bodies, salts, attachments, snapshots and what blocks hold, in one transaction with the ledger's record; with a
   sealer, once the record is sealed (intents.py).
2. Summaries that stand for an event are erased with it, on every line that shares it, and before it: whoever is stopped between
   has erased too much rather than too little.
3. Objects of an archive that hold what was destroyed are replaced at once. Where that fails it is said, and done by whoever erases,
   archives or restores next.
4. What a retention policy holds is neither erased nor deleted, by whoever asks. A hold counts from the next erasure on: one that is being
   written just now is not stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from everlog.approving import check_deletion_approved, check_events_approved
from everlog.archiving import finish
from everlog.certificates import Certificate, certify
from everlog.context.tree import summaries_over
from everlog.core.decide import forked
from everlog.core.labels import check_reason
from everlog.core.prepare import check_actor
from everlog.holding import check_deletion_held, check_events_held, family_of, read_policies
from everlog.intents import erase_sealed
from everlog.reader import View
from everlog.storage import BranchRow, Delete, Erase, SessionRow, Storage

if TYPE_CHECKING:
    from everlog.sealing import Sealer


class Erased(msgspec.Struct, frozen=True):
    """What was erased: positions, of those that were there; and the summaries that went before, by session and branch."""

    positions: tuple[int, ...]
    summaries: tuple[tuple[SessionRow, BranchRow, tuple[int, ...]], ...]


def erase_events(
    storage: Storage,
    session: SessionRow,
    view: View,
    positions: Sequence[int],
    reason: str,
    *,
    actor: str | None = None,
    together: int = 0,
    sealer: Sealer | None = None,
) -> Erased:
    """Erase events of a branch. See `Session.erase`. together: with how many others, for one reason. HeldError; ApprovalError."""
    check_reason(reason)
    check_actor(actor)
    if not positions:
        return Erased((), ())
    wanted = tuple(sorted(set(positions)))
    policies = read_policies(storage)
    check_events_held(storage, policies, view, wanted)
    check_events_approved(storage, policies, view, wanted, together=together)
    summaries = summaries_over(storage, view, wanted)
    erasures = [Erase(other.id, row.key, found, reason, actor) for other, row, found in summaries]
    erasures.append(Erase(session.id, view.branch.key, wanted, reason, actor))
    if sealer is not None:
        _ = sealer.keys.verifier  # NotFoundError where there is none, before anything is recorded
        erased = erase_sealed(storage, sealer.keys.folder, sealer.seal, erasures)[-1]
    else:
        erased = [storage.write(each).positions for each in erasures][-1]
        finish(storage)
    return Erased(erased, tuple(summaries))


def certify_erasure(
    storage: Storage, session: SessionRow, view: View, positions: Sequence[int], erased: Erased
) -> Certificate:
    """Give the certificate of what `erase_events` did. positions: that it was asked to erase, in order."""
    beside = [(View(branch, storage.lineage(branch.key, row.name)), over) for row, branch, over in erased.summaries]
    return certify(storage, session, view, positions, now_erased=erased.positions, beside=beside)


def delete_session(
    storage: Storage, session: SessionRow, reason: str, *, cascade: bool, actor: str | None = None
) -> None:
    """End a session. See `Store.delete`. HeldError; ApprovalError."""
    check_reason(reason)
    check_actor(actor)
    policies = read_policies(storage)
    if policies.head is not None:
        ending = list(family_of(storage, session)) if cascade else [session]
        check_deletion_held(storage, policies, ending)
        check_deletion_approved(storage, policies, ending)
    storage.write(Delete(session.id, reason, cascade, actor))
    finish(storage)


def check_deletions(storage: Storage, sessions: Sequence[SessionRow]) -> None:
    """Raise what deleting sessions one after another, in this order, would be refused with. HeldError; ApprovalError; SessionExistsError."""
    policies, gone = read_policies(storage), set[int]()
    for session in sessions:
        if policies.head is not None:
            check_deletion_held(storage, policies, [session])
            check_deletion_approved(storage, policies, [session])
        forks = [fork.name for fork in storage.forks(session.key) if fork.key not in gone]
        if forks:
            raise forked(session.name, forks)
        gone.add(session.key)
