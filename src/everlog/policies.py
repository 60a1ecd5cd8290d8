"""Writing retention policies: into the document of the session that holds them, each change with its reason.

1. What is held from now on, and what no more, stands in the ledger too, in the transaction that records it.
2. A hold of one session is a policy like others, whose query names that session alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from everlog.approving import check_change_approved
from everlog.core import limits
from everlog.core.event import NewEvent
from everlog.core.labels import check_reason
from everlog.core.pointer import format_pointer
from everlog.core.query_text import quoted
from everlog.core.retention import Policy, check_name, check_policy
from everlog.errors import ConflictError, EverlogError, InvalidEventError, LimitError, NotFoundError
from everlog.holding import POLICIES
from everlog.summaries import SessionSummarizer
from everlog.writer import busy_with_others, tries

TITLE: Final = "Retention policies"

Book = Callable[[], SessionSummarizer]  # opens the session that holds the policies
Check = Callable[[Any], None]  # is given what stands under the name now, None for nothing, and refuses


def put_policy(book: Book, policy: Policy, *, actor: str | None, check: Check | None = None) -> Policy:
    """Make a policy, or change it as a whole. Raises LimitError where there are too many."""
    for _ in tries():
        session = book()
        known = _document(session)
        was = known.get(policy.name)
        if was == policy.members():
            return policy
        _check_change(session, was, policy.name)
        if check is not None:
            check(was)
        if policy.name not in known and len(known) >= limits.POLICIES_MAX:
            raise LimitError(
                f"the store has {len(known)} policies where {limits.POLICIES_MAX} is the most; nothing was written; remove some"
            )
        data = {"path": format_pointer((policy.name,)), "value": policy.members()}
        event = NewEvent("state.set", data, rationale=policy.reason, actor=actor)
        try:
            _append(session, event, holds=True if policy.action == "hold" else _ends(was))
        except ConflictError:
            continue  # somebody else recorded something: count again
        return policy
    raise busy_with_others(POLICIES)


def drop_policy(book: Book, name: str, *, reason: str, actor: str | None, check: Check | None = None) -> None:
    """Remove a policy. NotFoundError where there is none."""
    check_reason(reason)
    missing = NotFoundError(f"there is no retention policy {name!r:.100}; nothing was removed")
    for _ in tries():
        try:
            session = book()
        except NotFoundError:
            raise missing from None
        known = _document(session)
        if name not in known:
            raise missing
        _check_change(session, known[name], name)
        if check is not None:
            check(known[name])
        ops = [{"op": "remove", "path": format_pointer((name,))}]
        event = NewEvent("state.patch", {"ops": ops}, rationale=reason, actor=actor)
        try:
            _append(session, event, holds=_ends(known[name]))
        except ConflictError:
            continue
        return
    raise busy_with_others(POLICIES)


def _append(session: SessionSummarizer, event: NewEvent, *, holds: bool | None) -> None:
    request = session.append_request((event,), expected=session.head)
    session.write(msgspec.structs.replace(request, holds=holds))


def _check_change(session: SessionSummarizer, was: Any, name: str) -> None:
    """Refuse one person alone the change of a policy that asks for two. Raises ApprovalError."""
    if isinstance(was, dict) and was.get("action") == "approve":
        try:
            policy = check_policy(msgspec.convert({**was, "name": name}, Policy), now=session.storage.now())
        except (EverlogError, msgspec.ValidationError):
            return  # it says nothing that can be kept to: until it is set again or removed, nothing is erased
        check_change_approved(session.storage, policy)


def _ends(was: Any) -> bool | None:
    """Tell what the change of a policy says of what is held: False where it was a hold, or cannot be read and may have been."""
    return (
        None
        if was is None or (isinstance(was, dict) and was.get("action") in ("archive", "erase", "keep", "approve"))
        else False
    )


def _document(session: SessionSummarizer) -> dict[str, Any]:
    value = session.state("document").value
    if not isinstance(value, dict):
        raise InvalidEventError(
            f"the document of {POLICIES} is a {type(value).__name__} where policies are an object; nothing was written; rewind it"
        )
    return value


# --- holds of one session ------------------------------------------------------------------------
def hold_session(
    book: Book, session: SessionSummarizer, name: str | None, *, reason: str, actor: str | None, now: int
) -> Policy:
    """Hold a session by a policy of its own. See `Session.hold`. now: microseconds."""
    check_reason(reason)
    policy = Policy(name=_name(session, name), action="hold", query=_query(session), reason=reason)
    check_policy(policy, now=now)
    return put_policy(book, policy, actor=actor, check=lambda was: _check_own(was, session, policy.name))


def release_session(
    book: Book, session: SessionSummarizer, name: str | None, *, reason: str, actor: str | None
) -> None:
    """Remove a session's own hold. See `Session.release`."""
    chosen = _name(session, name)
    try:
        drop_policy(book, chosen, reason=reason, actor=actor, check=lambda was: _check_own(was, session, chosen))
    except NotFoundError:
        raise NotFoundError(
            f"session {session.id!r:.100} is not held by a policy {chosen!r} of its own; nothing was released; `everlog holds` lists "
            "what is held and by what"
        ) from None


def _name(session: SessionSummarizer, name: str | None) -> str:
    return f"session-{session.uuid}" if name is None else check_name(name)


def _query(session: SessionSummarizer) -> str:
    return f"session:{quoted(session.id)}"


def _check_own(was: Any, session: SessionSummarizer, name: str) -> None:
    """Refuse to change a policy that says something of other sessions."""
    if was is not None and (was.get("action"), was.get("query")) != ("hold", _query(session)):
        raise InvalidEventError(
            f"policy {name!r} is no hold of session {session.id!r:.100} alone; nothing was changed; choose another name, or change that "
            "policy itself: everlog retain set, everlog retain remove"
        )
