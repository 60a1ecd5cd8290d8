"""Approving: where a policy asks for two persons, only what one of them proposed and another approved is destroyed.

1. Proposals and approvals are events of the session of the policies, so neither can be erased. A proposal names what it is about by
   internal ids; an approval names the proposal. Both name their actors, who must differ.
2. An approval counts for what its proposal names, or for less of it, until the proposal lapses.
3. What cannot be read as a proposal or an approval counts for nothing.
4. Actors are what programs say that they are. Nothing here tells who somebody is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from everlog.core.event import Event
from everlog.core.prepare import check_actor
from everlog.core.query import Term, text_value
from everlog.core.retention import Policies, Policy, protecting
from everlog.errors import ApprovalError, InvalidEventError, NotFoundError
from everlog.holding import POLICIES, Protectors
from everlog.reader import View
from everlog.storage import SessionRow, Storage

PROPOSED: Final = "retention.proposed"
APPROVED: Final = "retention.approved"
_TERMS: Final = (Term("type", (text_value(PROPOSED), text_value(APPROVED))),)

Range = tuple[int, int]


class Proposed(msgspec.Struct, frozen=True, kw_only=True):
    """What a proposal is about, as its event says it.

    action: to *erase* events: of branches, by id, ranges [start, stop); to *delete* sessions, by internal id; or to *change* a policy that
    asks for two persons. events: how many there are.
    """

    action: Literal["erase", "delete", "change"]
    branches: dict[str, list[Range]] = {}
    sessions: list[str] = []
    policy: str | None = None
    events: int = 0


class Proposal(msgspec.Struct, frozen=True):
    """A proposal as it stands. id: of its event. at: when it was made, microseconds. approved_by: an actor other than its own."""

    id: str
    what: Proposed
    actor: str
    reason: str | None
    at: int
    approved_by: str | None = None


class _Approved(msgspec.Struct):
    proposal: str


def read_proposals(storage: Storage, *, since: int) -> list[Proposal]:
    """Read the proposals that were made since a time, in order. since: microseconds."""
    try:
        found = storage.find(POLICIES)
    except NotFoundError:
        return []
    lineage, size = storage.lineage(found.branch.key, POLICIES), found.branch.size
    start, proposals = storage.cut_at(lineage, size, since), dict[str, Proposal]()
    while start < size:
        page = storage.read(lineage, start, size, terms=_TERMS)
        for event in page.events:
            _take_in(event, proposals)
        if page.following is None:
            break
        start = page.following
    return list(proposals.values())


def _take_in(event: Event, proposals: dict[str, Proposal]) -> None:
    if event.actor is None:
        return
    try:
        if event.type == PROPOSED:
            what = msgspec.convert(event.data, Proposed)
            proposals[event.id] = Proposal(event.id, what, event.actor, event.rationale, event.recorded_micros)
            return
        proposal = proposals.get(msgspec.convert(event.data, _Approved).proposal)
    except msgspec.ValidationError:
        return
    if proposal is not None and proposal.actor != event.actor:
        proposals[proposal.id] = msgspec.structs.replace(proposal, approved_by=event.actor)


# --- what is asked before anything is destroyed ---------------------------------------------------
def check_events_approved(
    storage: Storage, policies: Policies, view: View, positions: Sequence[int], *, together: int = 0
) -> None:
    """Refuse to erase events that a policy wants two persons for, where they did not both say so. Raises ApprovalError.

    positions: in order. together: how many events are erased for one reason, where this is a part of them.
    """
    for policy in policies.of("approve"):
        asked = _asked_for(storage, policies, policy, view, positions)
        count = sum(map(len, asked.values()))
        if count and max(count, together) > (policy.over or 0):
            approved = _approved(storage, policy, "erase")
            ranges = _by_branch([each.what.branches for each in approved])
            if any(not _covered(ranges.get(branch, []), own) for branch, own in asked.items()):
                raise _refused(
                    policy, f"erasing {max(count, together):,} events of session {view.lineage.session!r}", "erased"
                )


def _asked_for(
    storage: Storage, policies: Policies, policy: Policy, view: View, positions: Sequence[int]
) -> dict[str, list[int]]:
    """Give those of the events that a policy is about: by the id of the branch that owns them, positions."""
    protectors = Protectors(storage, Policies(policies.head, {policy.name: policy}), "approve")
    asked: dict[str, list[int]] = {}
    for segment in view.lineage.clip(positions[0], positions[-1] + 1):
        own = [at for at in positions if segment.start <= at < segment.stop]
        stop, _ = protectors.shared(storage.session_of(segment.branch)).get(segment.branch, (0, None))
        about = [at for at in own if at < stop]
        if about:
            asked[storage.branch(segment.branch).id] = about
    return asked


def check_deletion_approved(storage: Storage, policies: Policies, ending: Sequence[SessionRow]) -> None:
    """Refuse to delete sessions that a policy wants two persons for, where they did not both say so. Raises ApprovalError."""
    now = storage.now()
    for policy in policies.of("approve"):
        query = [(policy, policy.sessions(now))]
        asked = {
            row.id: sum(branch.size - branch.base_size for branch in storage.branches(row.key))
            for row in ending
            if protecting(
                query,
                name=row.name,
                title=row.title,
                labels=row.labels,
                updated=storage.current_branch(row.id).recorded,
            )
        }
        if sum(asked.values()) > (policy.over or 0):
            approved = {id_ for each in _approved(storage, policy, "delete") for id_ in each.what.sessions}
            if not approved.issuperset(asked):
                raise _refused(policy, f"deleting session {ending[0].name!r}", "deleted")


def check_change_approved(storage: Storage, policy: Policy) -> None:
    """Refuse to change or remove a policy that asks for two persons, where they did not both say so. Raises ApprovalError."""
    if not any(each.what.policy == policy.name for each in _approved(storage, policy, "change")):
        raise _refused(policy, f"changing policy {policy.name!r}", "changed")


def _approved(storage: Storage, policy: Policy, action: str) -> list[Proposal]:
    """Give what was approved and has not lapsed by a policy's reckoning."""
    found = read_proposals(storage, since=policy.lapses(storage.now()))
    return [each for each in found if each.what.action == action and each.approved_by is not None]


def _by_branch(named: Sequence[Mapping[str, list[Range]]]) -> dict[str, list[Range]]:
    """Put ranges together: by branch, in order, without overlaps."""
    found: dict[str, list[Range]] = {}
    for branches in named:
        for branch, ranges in branches.items():
            found.setdefault(branch, []).extend((start, stop) for start, stop in ranges)
    return {branch: _joined(sorted(ranges)) for branch, ranges in found.items()}


def _joined(ranges: Sequence[Range]) -> list[Range]:
    joined: list[Range] = []
    for start, stop in ranges:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        else:
            joined.append((start, stop))
    return joined


def ranges_of(storage: Storage, view: View, positions: Sequence[int]) -> dict[str, list[Range]]:
    """Give events of a line, in order, as ranges [start, stop) of the branches that own them, by their ids."""
    owned: dict[int, list[Range]] = {}
    for position in positions:
        owned.setdefault(view.lineage.owner(position).branch, []).append((position, position + 1))
    return {storage.branch(owner).id: _joined(own) for owner, own in owned.items()}


def _covered(ranges: Sequence[Range], positions: Sequence[int]) -> bool:
    starts = [start for start, _ in ranges]
    for position in positions:
        at = bisect_right(starts, position) - 1
        if at < 0 or position >= ranges[at][1]:
            return False
    return True


def _refused(policy: Policy, what: str, done: str) -> ApprovalError:
    because = "" if policy.reason is None else f", because: {policy.reason}"
    return ApprovalError(
        f"{what} needs two persons: policy {policy.name!r} ({policy.query}) asks for a proposal by one actor that another approved within "
        f"{policy.within}{because}; nothing was {done}; propose it (--propose --actor NAME), have somebody else approve it "
        "(everlog approve ID --actor OTHER), and ask for it again",
        policy=policy.name,
        session=POLICIES,
    )


def check_somebody(actor: object) -> str:
    """Give who proposes or approves, or refuse nobody."""
    if check_actor(actor) is None:
        raise InvalidEventError(
            "nobody says who proposes or approves this; nothing was recorded; give an actor, an opaque id"
        )
    assert isinstance(actor, str), "it was checked"
    return actor


def plain(what: Proposed) -> dict[str, Any]:
    """Give what a proposal is about as JSON values, without what is not said."""
    return {name: value for name, value in msgspec.to_builtins(what).items() if value}
