"""Retention policies as values: what one says, how it is checked, and which of several protects a session.

1. `keep` protects the sessions that it matches from policies; `hold` protects them from everybody. Both may match; a hold counts first.
   `approve` lets nobody destroy anything of them alone.
2. A policy that cannot be read may be a hold, so whoever asks is refused rather than told that there is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, cast

import msgspec

from everlog.core import limits
from everlog.core.labels import check_reason
from everlog.core.position import parse_ago
from everlog.core.query import Query, Term, check_session_query, matches_session, text_value
from everlog.core.query_text import parse
from everlog.errors import EverlogError, InvalidEventError, LimitError

Action = Literal["archive", "erase", "keep", "hold", "approve"]
ACTIONS: Final = ("archive", "erase", "keep", "hold", "approve")
ACTING: Final = ("erase", "archive")  # in this order: what is to be destroyed is not moved first
NAME_PATTERN: Final = re.compile(r"[a-z][a-z0-9-]{0,63}", re.ASCII)
# What says how a session came to be, who held it, and what was done already: without it a run would do finished steps again.
BOOKKEEPING: Final = ("session.*", "lease.*", "step.*", "wait.*", "checkpoint")
_AGE_MICROS_MAX: Final = 36_500 * 86_400_000_000  # a hundred years


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to happen to the sessions that a query matches.

    query: of sessions, as `Store.sessions` takes it; times in it count from each run. action: *erase* bodies or *archive* them,
    of events recorded longer ago than `older_than` ("90d"); *keep* sessions from both; *hold* them from erasure by anybody; *approve*:
    have whoever erases more than `over` events of them, or deletes as many, be approved by a second actor `within` a time.
    to: where archived blocks go. types: of events to erase, globs; none for all but BOOKKEEPING. reason: for whoever asks later.
    """

    name: str
    action: Action
    query: str
    older_than: str | None = None
    to: str | None = None
    types: tuple[str, ...] = ()
    reason: str | None = None
    over: int | None = None
    within: str | None = None

    def members(self) -> dict[str, Any]:
        """Give what is recorded of it under its name."""
        members: dict[str, Any] = {name: getattr(self, name) for name in self.__struct_fields__ if name != "name"}
        members["types"] = list(self.types) or None
        return {name: value for name, value in members.items() if value is not None}

    def sessions(self, now: int) -> Query:
        """Give its query. now: microseconds, which times in it count from."""
        return check_session_query(parse(self.query, now=now))

    def before(self, now: int) -> int:
        """Give the time, microseconds, before which what was recorded is due: with no age, all that was recorded until now."""
        return now + 1 if self.older_than is None else now - age_micros(self.older_than)

    def lapses(self, now: int) -> int:
        """Give the time, microseconds, before which what was proposed has lapsed."""
        assert self.within is not None, "a policy that wants approval says how soon"
        return now - age_micros(self.within, "within")

    def type_term(self) -> Term:
        """Give the condition on events that it erases."""
        return Term("type", tuple(map(text_value, self.types or BOOKKEEPING)), negated=not self.types)


def check_name(name: object) -> str:
    """Give a policy's name, or refuse it."""
    if not isinstance(name, str) or NAME_PATTERN.fullmatch(name) is None:
        raise InvalidEventError(
            f"{name!r:.100} names no policy; nothing was written; a name is 1 to 64 of a-z, 0-9 and -, and begins with a letter"
        )
    return name


def check_order(query: str, types: tuple[str, ...], *, now: int) -> Policy:
    """Give what erases events of any age, once, as a policy that is not recorded; or refuse it. now: microseconds."""
    order = Policy(name="order", action="erase", query=query, types=types)
    if not isinstance(query, str) or not query.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidEventError(
            "the query names no sessions; nothing was erased; give one, such as label.user:u7, or session:* for all"
        )
    order.sessions(now)
    _check_types("what is to be erased", order)
    return order


def check_policy(policy: Policy, *, now: int) -> Policy:
    """Give a policy, or refuse one that cannot be carried out. now: microseconds."""
    what = f"policy {check_name(policy.name)!r}"
    if policy.action not in ACTIONS:
        raise InvalidEventError(
            f"{what} has the action {policy.action!r:.50}; nothing was written; choose one of {' '.join(ACTIONS)}"
        )
    if not isinstance(policy.query, str) or not policy.query.strip():
        raise InvalidEventError(
            f"{what} names no sessions; nothing was written; give a query, such as label.user:u7, or session:* for all"
        )
    policy.sessions(now)
    if policy.reason is not None and len(check_reason(policy.reason)) > limits.POLICY_REASON_CHARACTERS_MAX:
        raise LimitError(
            f"the reason of {what} has {len(policy.reason)} characters where {limits.POLICY_REASON_CHARACTERS_MAX} is the most; "
            "nothing was written; shorten it"
        )
    acting = policy.action in ACTING
    if acting is (policy.older_than is None):
        wanted = "needs older_than, such as 90d" if acting else "takes no older_than: it counts for events of any age"
        raise InvalidEventError(f"{what}, which is to {policy.action}, {wanted}; nothing was written")
    if policy.older_than is not None:
        age_micros(policy.older_than)
    if (policy.action == "archive") is (policy.to is None):
        wanted = "needs to=, a place for archives" if policy.action == "archive" else "takes no place for archives (to)"
        raise InvalidEventError(f"{what}, which is to {policy.action}, {wanted}; nothing was written")
    _check_types(what, policy)
    _check_approving(what, policy)
    return policy


def _check_approving(what: str, policy: Policy) -> None:
    if policy.action != "approve":
        if policy.over is not None or policy.within is not None:
            raise InvalidEventError(
                f"{what} says over or within, and only approving knows those; nothing was written; leave them out"
            )
        return
    if type(policy.over) is not int or not 0 <= policy.over <= limits.SAFE_INTEGER_MAX:
        raise InvalidEventError(
            f"{what} has over {policy.over!r:.50}, which is no number of events from 0 on; nothing was written; correct it"
        )
    if policy.within is None or age_micros(policy.within, "within") == 0:
        raise InvalidEventError(f"{what}, which is to approve, needs within, such as 7d; nothing was written")


def _check_types(what: str, policy: Policy) -> None:
    if policy.types and policy.action != "erase":
        raise InvalidEventError(
            f"{what} names types, and only erasing goes by types; nothing was written; leave them out"
        )
    if len(policy.types) > limits.QUERY_TERMS_MAX:
        raise LimitError(
            f"{what} names {len(policy.types)} types where {limits.QUERY_TERMS_MAX} is the most; nothing was written; use globs"
        )
    for each in policy.types:
        if not isinstance(each, str) or re.fullmatch(r"[a-z*][a-z0-9_.*]{0,127}", each) is None:
            raise InvalidEventError(
                f"{what} names the type {each!r:.100}; nothing was written; write agent.message, user.* or *"
            )


def age_micros(text: str, what: str = "older_than") -> int:
    """Read an age: "90d", "12h", "0s"; at most a hundred years, in microseconds."""
    micros = parse_ago(text) if isinstance(text, str) and len(text) <= 32 else None
    if micros is None or text.startswith("-") or micros > _AGE_MICROS_MAX:
        raise InvalidEventError(
            f"{what} {text!r:.50} is no age of up to a hundred years; nothing was written; write 12h, 90d or 0s"
        )
    return micros


class Policies(msgspec.Struct, frozen=True):
    """The policies of a store at one moment, by name. head: of the branch that they were read from: its id and size."""

    head: tuple[str, int] | None
    named: dict[str, Policy]

    def of(self, *actions: str) -> list[Policy]:
        """Give those with any of these actions, in the order of the actions, then of names."""
        return [each for action in actions for _, each in sorted(self.named.items()) if each.action == action]


def read_document(document: object, *, now: int) -> dict[str, Policy]:
    """Read the policies that a document holds; refused where one of them cannot be read."""
    if not isinstance(document, dict):
        raise InvalidEventError(
            f"the policies are a {type(document).__name__} where they should be an object; nothing was done; rewind the session "
            "that holds them to where they were good"
        )
    found: dict[str, Policy] = {}
    for name, members in cast("dict[str, Any]", document).items():
        try:
            policy = msgspec.convert({**members, "name": name}, Policy)
            found[name] = check_policy(policy, now=now)
        except (EverlogError, msgspec.ValidationError, TypeError) as error:
            raise InvalidEventError(
                f"policy {name!r:.100} cannot be read ({error!s:.300}); nothing was done, since it may be a hold; set it again, "
                "or remove it: everlog retain remove"
            ) from None
    return found


def protecting(
    policies: Iterable[tuple[Policy, Query]], *, name: str, title: str | None, labels: Mapping[str, str], updated: int
) -> Policy | None:
    """Give the first of these policies whose query matches a session. updated: microseconds."""
    for policy, query in policies:
        if matches_session(query, name=name, title=title, labels=labels, updated=updated):
            return policy
    return None
