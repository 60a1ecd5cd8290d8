"""Holding: what retention policies protect. Every erasure and deletion asks here first.

1. The policies of a store are the document of one session in it. Where that session is not there, nothing is held: one lookup.
2. An event that a protected session shares is protected on every line; a fork shares what lies before its cut.
3. The session that holds the policies is protected itself: what it says is not erased, and it is not deleted while anything is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from everlog.core.lineage import OPEN
from everlog.core.query import Query
from everlog.core.retention import Policies, Policy, protecting, read_document
from everlog.errors import HeldError, InvalidEventError, NotFoundError
from everlog.reader import View
from everlog.rebuild import Builder
from everlog.reducers.document import DOCUMENT
from everlog.storage import BranchRow, SessionRow, Storage

POLICIES: Final = "retention/policies"  # the id of the session that holds them


class Protection(msgspec.Struct, frozen=True):
    """Why something is protected: the session, and the policy that protects it; None for the session of the policies."""

    session: str
    policy: Policy | None

    @property
    def why(self) -> str:
        """Name the policy, or the session of the policies."""
        return POLICIES if self.policy is None else self.policy.name


class Protectors:
    """The policies of some actions at one moment, ready to be asked about sessions."""

    def __init__(self, storage: Storage, policies: Policies, *actions: str) -> None:
        self._storage = storage
        now = storage.now()
        self.policies: list[tuple[Policy, Query]] = [(each, each.sessions(now)) for each in policies.of(*actions)]

    def of(self, session: SessionRow, current: BranchRow) -> Protection | None:
        """Tell what protects a session, whose current branch this is."""
        if session.name == POLICIES:
            return Protection(POLICIES, None)
        found = protecting(
            self.policies, name=session.name, title=session.title, labels=session.labels, updated=current.recorded
        )
        return None if found is None else Protection(session.name, found)

    def shared(self, session: SessionRow) -> dict[int, tuple[int, Protection]]:
        """Tell how much of what a session recorded is protected: for each of its branches, by key, up to which cut, and why.

        A session that is protected itself is so on all its branches; else it is what protected forks of it share.
        """
        protected: dict[int, tuple[int, Protection]] = {}
        if not self.policies and session.name != POLICIES:
            return protected
        for sharing in family_of(self._storage, session):
            protection = self.of(sharing, self._storage.current_branch(sharing.id))
            if protection is None:
                continue
            for branch in self._storage.branches(sharing.key):
                if sharing.key == session.key:
                    protected[branch.key] = (OPEN, protection)
                    continue
                for segment in self._storage.lineage(branch.key, sharing.name).segments:
                    if segment.stop > protected.get(segment.branch, (0, protection))[0]:
                        protected[segment.branch] = (segment.stop, protection)
        return protected


def family_of(storage: Storage, session: SessionRow) -> Iterator[SessionRow]:
    """Give a session, its forks, their forks and so on."""
    family, known = [session], {session.key}
    for each in family:  # grows while it is walked
        yield each
        forks = [fork for fork in storage.forks(each.key) if fork.key not in known]
        known.update(fork.key for fork in forks)
        family += forks


def read_policies(storage: Storage, known: Policies | None = None) -> Policies:
    """Read the policies of a store. known: as they were read before, which are given again where nothing was recorded since.

    Raises InvalidEventError where one of them cannot be read.
    """
    try:
        found = storage.find(POLICIES)
    except NotFoundError:
        return Policies(None, {})
    branch = found.branch
    if known is not None and known.head == (branch.id, branch.size):
        return known
    view = View(branch, storage.lineage(branch.key, POLICIES))
    built = Builder(storage, view, DOCUMENT, taking=None).build(branch.size)
    if built.notes.incomplete_count:
        raise InvalidEventError(
            f"{built.notes.incomplete_count} of the events that say what the policies are have no body any more (the first at "
            f"{POLICIES}@{built.notes.incomplete[0]}); nothing was done, since they may hold something; rewind that session to before "
            "them, and set the policies again"
        )
    return Policies((branch.id, branch.size), read_document(built.value, now=storage.now()))


def holds_of(storage: Storage, session: SessionRow, current: BranchRow) -> list[Policy]:
    """Give the policies that hold a session now, by name. Raises InvalidEventError where one cannot be read."""
    now = storage.now()
    return [policy for policy in read_policies(storage).of("hold") if holds_session(policy, session, current, now)]


def holds_session(policy: Policy, session: SessionRow, current: BranchRow, now: int) -> bool:
    """Tell whether a policy's query matches a session, whose current branch this is. now: microseconds."""
    named = [(policy, policy.sessions(now))]
    found = protecting(named, name=session.name, title=session.title, labels=session.labels, updated=current.recorded)
    return found is not None


def check_events_held(storage: Storage, policies: Policies, view: View, positions: Sequence[int]) -> None:
    """Refuse to erase events that a held session shares. positions: in order. Raises HeldError."""
    if policies.head is None:
        return
    holds = Protectors(storage, policies, "hold")
    for segment in view.lineage.clip(positions[0], positions[-1] + 1):
        own = [at for at in positions if segment.start <= at < segment.stop]
        if not own:
            continue
        stop, protection = holds.shared(storage.session_of(segment.branch)).get(segment.branch, (0, None))
        if protection is not None and own[0] < stop:
            raise _held(protection, f"event {own[0]} of session {view.lineage.session!r}", "erased")


def check_deletion_held(storage: Storage, policies: Policies, ending: Sequence[SessionRow]) -> None:
    """Refuse to delete sessions of which one is held. Raises HeldError.

    The session of the policies is, while anything is held, or must be approved.
    """
    if not policies.of("hold", "approve"):
        return
    holds = Protectors(storage, policies, "hold")
    for row in ending:
        protection = holds.of(row, storage.current_branch(row.id))
        if protection is not None:
            raise _held(protection, f"session {ending[0].name!r}", "deleted")


def _held(protection: Protection, what: str, done: str) -> HeldError:
    policy = protection.policy
    if policy is None:
        return HeldError(
            f"{what} cannot be {done}: session {POLICIES!r} says what is held; nothing was {done}; remove policies instead: "
            "everlog retain remove NAME",
            policy=None,
            session=protection.session,
        )
    because = "" if policy.reason is None else f", because: {policy.reason}"
    return HeldError(
        f"{what} cannot be {done}: policy {policy.name!r} ({policy.query}) holds session {protection.session!r}{because}; nothing "
        f"was {done}; to release it: everlog retain remove {policy.name}",
        policy=policy.name,
        session=protection.session,
    )
