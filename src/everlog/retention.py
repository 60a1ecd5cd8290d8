"""Retention: policies by label and age, shown before they act, carried out when they are asked to, recorded.

1. The policies are the document of the session `retention/policies`: each change is an event with its reason, can be asked why, and is
   copied with the store.
2. A policy is about the events that were recorded in the sessions it matches. What a fork shares belongs to the session in which it was
   recorded, and what a kept or held session shares is spared.
3. Nothing acts by itself. Each run records that it began, and for each policy what it did; each erasure stands in the ledger with the
   policy's name. A run that was killed is finished by the next one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from everlog.approving import APPROVED, PROPOSED, Proposal, Proposed, check_somebody, plain, ranges_of, read_proposals
from everlog.archiving import check_url
from everlog.core.labels import check_reason
from everlog.core.position import format_micros
from everlog.core.retention import ACTING, Action, Policy, check_order, check_policy
from everlog.errors import EverlogError, InvalidEventError, LimitError, NotFoundError
from everlog.holding import POLICIES, family_of, read_policies
from everlog.policies import TITLE, drop_policy, put_policy
from everlog.reader import PlaceLike, resolve_event
from everlog.retaining import Progress, Run, Work, carry_out, matching_ranges

if TYPE_CHECKING:
    from everlog.session import Session
    from everlog.store import Store


class Plan(msgspec.Struct, frozen=True):
    """What the policies would do now, in this order. at: microseconds."""

    at: int
    policies: tuple[Policy, ...]
    work: tuple[Work, ...]


class Retention:
    """The retention policies of a store: what they are, what they would do, and their doing it. Given by `Store.retention`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"<Retention of {self._store!r}>"

    # --- policies ---
    def set(
        self,
        name: str,
        *,
        action: Action,
        query: str,
        older_than: str | float | None = None,
        to: str | os.PathLike[str] | None = None,
        types: str | Sequence[str] = (),
        reason: str | None = None,
        over: int | None = None,
        within: str | float | None = None,
        actor: str | None = None,
    ) -> Policy:
        """Make a policy, or change it as a whole. It does nothing by itself but to keep, hold and approve; see `plan` and `apply`.

        name: `[a-z][a-z0-9-]*`. query: which sessions, as `sessions` takes it: "label.user:u7", "session:*" for all.
        action: "erase" bodies or "archive" them (to an object store's url, or a folder), of events recorded longer ago than older_than
        ("90d", or seconds); "keep" sessions from such policies; "hold" them, so that nobody can erase or delete what they hold; "approve":
        whoever erases more than `over` events of them (0 by default), or deletes as many, needs another actor's word, no longer than
        `within` ("7d" by default) after it was proposed; see `propose_erasure`.
        types: globs of the events to erase; by default all but what a session needs to wake: session.* lease.* step.* wait.*
        checkpoint. Erasing cannot be undone. Raises InvalidEventError, InvalidQueryError, LimitError; ApprovalError where the policy there is
        asks for two persons.
        """
        policy = check_policy(
            Policy(
                name=name,
                action=action,
                query=query,
                older_than=_age_text(older_than),
                to=None if to is None else check_url(os.fspath(to)),
                types=(types,) if isinstance(types, str) else tuple(types),
                reason=reason,
                over=0 if over is None and action == "approve" else over,
                within="7d" if within is None and action == "approve" else _age_text(within, "within"),
            ),
            now=self._store.storage.now(),
        )
        return put_policy(self._book, policy, actor=actor)

    def _book(self) -> Session:
        return self._store.get_or_create(POLICIES, title=TITLE)

    def remove(self, name: str, *, reason: str, actor: str | None = None) -> None:
        """Remove a policy; what it held is held no more. Recorded, with the reason. NotFoundError where there is none."""
        drop_policy(lambda: self._store.session(POLICIES), name, reason=reason, actor=actor)

    def policies(self) -> list[Policy]:
        """Give the policies, by name. Raises InvalidEventError where one of them cannot be read."""
        return [policy for _, policy in sorted(read_policies(self._store.storage).named.items())]

    # --- two persons ---
    def propose_erasure(
        self,
        session: Session | str | None = None,
        places: Sequence[PlaceLike] = (),
        *,
        query: str | None = None,
        reason: str,
        actor: str,
    ) -> Proposal:
        """Propose to erase events, where a policy wants two persons for it: these of a session, or all of the sessions that a query matches.

        Recorded. Once another actor approved it, whoever asks may erase them, or some of them, until the proposal lapses.
        """
        storage = self._store.storage
        if (session is None) is (query is None):
            raise InvalidEventError(
                "propose to erase events of one session, or of those that a query matches; give one of both"
            )
        if query is not None:
            found = matching_ranges(storage, check_order(query, ("*",), now=storage.now()))
        else:
            assert session is not None, "one of both is given"
            view = self._named(session).view()
            found = ranges_of(storage, view, sorted({resolve_event(storage, view, place) for place in places}))
        events = sum(stop - start for ranges in found.values() for start, stop in ranges)
        if not events:
            raise NotFoundError("no event is named; nothing was proposed; name those to erase")
        return self._propose(Proposed(action="erase", branches=found, events=events), reason, actor)

    def propose_deletion(self, session: Session | str, *, reason: str, actor: str, cascade: bool = False) -> Proposal:
        """Propose to delete a session, with cascade every session forked from it too, where a policy wants two persons for it."""
        storage = self._store.storage
        row = storage.session_by_id(self._named(session).uuid)
        ending = list(family_of(storage, row)) if cascade else [row]
        events = sum(branch.size - branch.base_size for each in ending for branch in storage.branches(each.key))
        what = Proposed(action="delete", sessions=[each.id for each in ending], events=events)
        return self._propose(what, reason, actor)

    def propose_change(self, name: str, *, reason: str, actor: str) -> Proposal:
        """Propose to change or remove a policy that asks for two persons."""
        if name not in {policy.name for policy in self.policies() if policy.action == "approve"}:
            raise NotFoundError(f"there is no policy {name!r:.100} that asks for two persons; nothing was proposed")
        return self._propose(Proposed(action="change", policy=name), reason, actor)

    def approve(self, proposal: str, *, actor: str, reason: str | None = None) -> Proposal:
        """Approve of what another actor proposed. proposal: its id. Recorded; nothing is destroyed by it.

        Raises NotFoundError where there is none, or it has lapsed; InvalidEventError where it is the actor's own.
        """
        check_somebody(actor)
        found = next((each for each in self.proposals() if each.id == proposal), None)
        if found is None:
            raise NotFoundError(
                f"there is no proposal {proposal!r:.100}, or it has lapsed; nothing was approved; see proposals()"
            )
        if found.actor == actor:
            raise InvalidEventError(
                f"{actor!r} proposed this, and two persons must say so; nothing was approved; have somebody else approve it"
            )
        self._book().append(APPROVED, {"proposal": proposal}, rationale=reason, actor=actor, caused_by=proposal)
        return msgspec.structs.replace(found, approved_by=actor)

    def proposals(self) -> list[Proposal]:
        """Give the proposals that have not lapsed, in order: what is proposed, by whom, and who approved it."""
        storage = self._store.storage
        policies = read_policies(storage).of("approve")
        if not policies:
            return []
        return read_proposals(storage, since=min(policy.lapses(storage.now()) for policy in policies))

    def _propose(self, what: Proposed, reason: str, actor: str) -> Proposal:
        check_reason(reason)
        check_somebody(actor)
        if not read_policies(self._store.storage).of("approve"):
            raise InvalidEventError(
                "no policy asks for two persons; nothing was proposed; do it, or make one: everlog retain set NAME --action approve"
            )
        event = self._book().append(PROPOSED, plain(what), rationale=reason, actor=actor)
        return Proposal(event.id, what, actor, reason, event.recorded_micros)

    def _named(self, session: Session | str) -> Session:
        return self._store.session(session) if isinstance(session, str) else session

    # --- what they do ---
    def plan(self, *, progress: Progress | None = None) -> Plan:
        """Tell what the policies would do now, and what they would spare and why. Changes nothing.

        progress: called with the number of events found due. Reads the events that would be erased, to tell their bytes.
        """
        storage = self._store.storage
        policies = read_policies(storage)
        run = Run(storage, policies, progress)
        chosen = policies.of(*ACTING, "hold", "keep", "approve")
        return Plan(run.now, tuple(chosen), tuple(run.planned(policy) for policy in chosen))

    def apply(self, *, progress: Progress | None = None) -> list[Work]:
        """Do what the policies say now: erase, then archive; give what was done, by policy. Recorded; cannot be undone.

        progress: called with the number of events erased, packed or moved. May be interrupted and run again, also beside another run.
        Policies that change meanwhile count from the next 5,000 events on. Where a policy fails, the others are carried out, and
        the first failure is raised then.
        """
        storage = self._store.storage
        names = [policy.name for policy in read_policies(storage).of(*ACTING)]
        if not names:
            return []
        session = self._store.session(POLICIES)
        started = session.append("retention.started", {"policies": names})
        failed: EverlogError | None = None
        done: list[Work] = []
        for name in names:
            work, error = carry_out(storage, self._store.settings.draw, name, progress)
            failed = failed or error
            if work is not None:
                done.append(work)
                session.append("retention.applied", _recorded(work), caused_by=started)
        if failed is not None:
            raise failed
        return done


def _age_text(older_than: str | float | None, what: str = "older_than") -> str | None:
    """Give an age with its unit: a number is of seconds."""
    if older_than is None or isinstance(older_than, str):
        return older_than
    if isinstance(older_than, bool) or not 0 <= older_than <= 999_999_999:
        raise LimitError(f"{what} {older_than!r:.50} is no number of seconds from 0 on; nothing was written")
    return f"{int(older_than)}s"


def _recorded(work: Work) -> dict[str, Any]:
    """Give the data of the event that says what a policy did."""
    data: dict[str, Any] = {
        name: getattr(work, name) for name in ("policy", "action", "sessions", "events", "bytes", "blocks")
    }
    for name, micros in (("first", work.first), ("last", work.last)):
        if micros is not None:
            data[name] = format_micros(micros)
    if work.spared_sessions:
        by = sorted({each.by for each in work.spared})
        data["spared"] = {"sessions": work.spared_sessions, "events": work.spared_events, "by": by}
    if work.error is not None:
        data["error"] = work.error
    return data
