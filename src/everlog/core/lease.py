"""Leases: a time-limited sole right to append to a session, checked inside the transaction of every append. Law 8.

1. A session has one at a time. Its token only grows; a nonce beside it tells it from one of a copied or restored store.
2. While it lives, a request without its token is refused, but for one that appends nothing but inbox types.
3. A token is good while its lease lives, and never again: not after it lapsed, even if nobody took the next.
4. Times are of a clock that nobody sets: since the machine started, with the name of that start. After another start, or on
   another machine, every lease has lapsed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from everlog.core.limits import ACTOR_CHARACTERS_MAX, LEASE_SECONDS_MAX, LEASE_SECONDS_MIN
from everlog.core.values import shown
from everlog.errors import FencedError, InvalidEventError, LimitError

NONCE_BYTES: Final = 16
MICROS: Final = 1_000_000


class Ticks(msgspec.Struct, frozen=True):
    """A time that no one sets: microseconds since a start, and the name of that start."""

    boot: str
    micros: int


class LeaseToken(msgspec.Struct, frozen=True):
    """What a holder shows with every request. number: grows with each lease of a session. nonce: 16 random bytes."""

    number: int
    nonce: bytes


class LeaseRow(msgspec.Struct, frozen=True):
    """The last lease of a session, as stored; it stays when it has ended, so that its number is not given again.

    holder: None once it was released, and for a session that begins above the tokens of another. until: ticks of `boot`.
    ttl: microseconds. taken: microseconds since 1970 UTC, for people. floor: the highest token on record that came from elsewhere.
    """

    number: int
    nonce: bytes = b""
    holder: str | None = None
    boot: str = ""
    until: int = 0
    ttl: int = 0
    taken: int = 0
    floor: int = 0

    @property
    def highest(self) -> int:
        """The highest token on record."""
        return max(self.number, self.floor)

    def lives(self, now: Ticks) -> bool:
        """Tell whether it keeps others out."""
        return self.holder is not None and self.boot == now.boot and now.micros < self.until

    def is_held_by(self, token: LeaseToken) -> bool:
        """Tell whether a token is this lease's."""
        return self.holder is not None and (self.number, self.nonce) == (token.number, token.nonce)

    def left(self, now: Ticks) -> int:
        """Give the microseconds that it still lives."""
        return self.until - now.micros if self.lives(now) else 0


def check_lease(
    lease: LeaseRow | None, token: LeaseToken | None, now: Ticks, *, types: Iterable[str], session: str, wall: int
) -> None:
    """Raise FencedError unless a request may go on. types: of the events that it appends. wall: the time, for people."""
    if token is not None:
        if lease is None or not lease.is_held_by(token) or not lease.lives(now):
            raise lost(lease, token, now, session=session, wall=wall)
        return
    if lease is not None and lease.lives(now):
        refused = next((name for name in types if not is_inbox(name)), None)
        if refused is not None:
            raise held(lease, now, session=session, wall=wall, what=f"{refused!r} is no inbox type")


def is_inbox(event_type: str) -> bool:
    """Tell whether anyone may append events of a type while a lease is held."""
    return event_type.startswith("user.") or event_type in ("system.message", "signal", "note")


def held(lease: LeaseRow, now: Ticks, *, session: str, wall: int, what: str = "") -> FencedError:
    """Say who holds the lease, and how long."""
    until = wall + lease.left(now)
    return FencedError(
        f"{lease.holder!r} holds the lease of session {session!r} for {lease.left(now) / MICROS:.1f} more seconds"
        f"{f', and {what}' if what else ''}; nothing was written; append an inbox type (user.*, system.message, signal, note), "
        "or wait and take the lease",
        holder=lease.holder,
        until=until,
    )


def lost(lease: LeaseRow | None, token: LeaseToken, now: Ticks, *, session: str, wall: int) -> FencedError:
    """Say that a token is good no more."""
    if lease is not None and lease.is_held_by(token):
        why, holder, until = "lapsed", None, None
    elif lease is not None and lease.lives(now):
        why, holder, until = f"was followed by that of {lease.holder!r}", lease.holder, wall + lease.left(now)
    else:
        why, holder, until = "has ended", None, None
    return FencedError(
        f"the lease with token {token.number} of session {session!r} {why}; nothing was written; wake the session again, and see "
        "what happened meanwhile",
        holder=holder,
        until=until,
    )


def check_terms(holder: object, ttl: object) -> int:
    """Check who wants a lease and for how many seconds; give microseconds."""
    if (
        not isinstance(holder, str)
        or not holder.isprintable()
        or not holder.strip()
        or len(holder) > ACTOR_CHARACTERS_MAX
    ):
        raise InvalidEventError(
            f"holder {holder!r:.100} is not 1 to {ACTOR_CHARACTERS_MAX} printable characters; nothing was written; name who "
            "works, as in worker-2"
        )
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not LEASE_SECONDS_MIN <= ttl <= LEASE_SECONDS_MAX:
        raise LimitError(
            f"ttl {shown(ttl)} is not in {LEASE_SECONDS_MIN:g} .. {LEASE_SECONDS_MAX:g} seconds; nothing was written; choose how "
            "long others wait for a holder that died"
        )
    return int(ttl * MICROS)
