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
from typing import TYPE_CHECKING, Any, Final

import msgspec

from everlog.archiving import check_url
from everlog.core import limits
from everlog.core.labels import check_reason
from everlog.core.pointer import format_pointer
from everlog.core.position import format_micros
from everlog.core.retention import ACTING, Action, Policy, check_policy
from everlog.errors import ConflictError, EverlogError, InvalidEventError, LimitError, NotFoundError
from everlog.holding import POLICIES, read_policies
from everlog.retaining import Progress, Run, Work, carry_out
from everlog.writer import busy_with_others, tries

if TYPE_CHECKING:
    from everlog.session import Session
    from everlog.store import Store

TITLE: Final = "Retention policies"


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
        actor: str | None = None,
    ) -> Policy:
        """Make a policy, or change it as a whole. It does nothing by itself but to keep and to hold; see `plan` and `apply`.

        name: `[a-z][a-z0-9-]*`. query: which sessions, as `sessions` takes it: "label.user:u7", "session:*" for all.
        action: "erase" bodies or "archive" them (to an object store's url, or a folder), of events recorded longer ago than older_than
        ("90d", or seconds); "keep" sessions from such policies; "hold" them, so that nobody can erase or delete what they hold.
        types: globs of the events to erase; by default all but what a session needs to wake: session.* lease.* step.* wait.*
        checkpoint. Erasing cannot be undone. Raises InvalidEventError, InvalidQueryError, LimitError.
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
            ),
            now=self._store.storage.now(),
        )
        for _ in tries():
            session = self._store.get_or_create(POLICIES, title=TITLE)
            known = _document(session)
            if known.get(name) == policy.members():
                return policy
            if name not in known and len(known) >= limits.POLICIES_MAX:
                raise LimitError(
                    f"the store has {len(known)} policies where {limits.POLICIES_MAX} is the most; nothing was written; remove some"
                )
            data = {"path": format_pointer((name,)), "value": policy.members()}
            try:
                session.append("state.set", data, rationale=reason, actor=actor, expected=session.head)
            except ConflictError:
                continue  # somebody else recorded something: count again
            return policy
        raise busy_with_others(POLICIES)

    def remove(self, name: str, *, reason: str, actor: str | None = None) -> None:
        """Remove a policy; what it held is held no more. Recorded, with the reason. NotFoundError where there is none."""
        check_reason(reason)
        missing = NotFoundError(f"there is no retention policy {name!r:.100}; nothing was removed")
        for _ in tries():
            try:
                session = self._store.session(POLICIES)
            except NotFoundError:
                raise missing from None
            if name not in _document(session):
                raise missing
            ops = [{"op": "remove", "path": format_pointer((name,))}]
            try:
                session.append("state.patch", {"ops": ops}, rationale=reason, actor=actor, expected=session.head)
            except ConflictError:
                continue
            return
        raise busy_with_others(POLICIES)

    def policies(self) -> list[Policy]:
        """Give the policies, by name. Raises InvalidEventError where one of them cannot be read."""
        return [policy for _, policy in sorted(read_policies(self._store.storage).named.items())]

    # --- what they do ---
    def plan(self, *, progress: Progress | None = None) -> Plan:
        """Tell what the policies would do now, and what they would spare and why. Changes nothing.

        progress: called with the number of events found due. Reads the events that would be erased, to tell their bytes.
        """
        storage = self._store.storage
        policies = read_policies(storage)
        run = Run(storage, policies, progress)
        chosen = policies.of(*ACTING, "hold", "keep")
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


def _age_text(older_than: str | float | None) -> str | None:
    """Give an age with its unit: a number is of seconds."""
    if older_than is None or isinstance(older_than, str):
        return older_than
    if isinstance(older_than, bool) or not 0 <= older_than <= 999_999_999:
        raise LimitError(f"older_than {older_than!r:.50} is no number of seconds from 0 on; nothing was written")
    return f"{int(older_than)}s"


def _document(session: Session) -> dict[str, Any]:
    value = session.state("document").value
    if not isinstance(value, dict):
        raise InvalidEventError(
            f"the document of {POLICIES} is a {type(value).__name__} where policies are an object; nothing was written; rewind it"
        )
    return value


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
