"""Group commit on PostgreSQL: what is queued goes in one transaction, tried again where another came between.

1. Every bucket has a queue, whose transactions touch that bucket alone. Several buckets commit at once, on connections of their own.
2. Appends of all buckets have one queue before those, whose transactions touch as many buckets as were asked for, with statements about
   all of them at once: with eight threads on eight sessions that is four times as many appends (2026-11). Locks are taken in the order of
   keys, which begin with their bucket, and counters last, in the order of buckets. Where one of them waits for a lock, all go to their buckets' queues,
   and for APART_SECONDS whatever comes for these buckets: nobody waits long for a session of somebody else. On Citus a transaction of
   two buckets would be a two-phase commit, so there is no such queue.
3. A commit whose answer was lost is looked for behind its locks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import Any, Final, NamedTuple

import psycopg

from everlog.cold import AwayError, ColdRequest
from everlog.core import limits
from everlog.core.decide import StaleExpectationError
from everlog.errors import EverlogError, OutcomeUnknownError
from everlog.sealed import SealRequest
from everlog.storage import Adopt, Append, Receipt, Request, Resolve, StaleLeaseError, Withdraw
from everlog.stores.blocks import BlockCache
from everlog.stores.commit import Committer, Outcome, bytes_held
from everlog.stores.postgres.clock import Clock
from everlog.stores.postgres.connections import (
    AGAIN,
    LOCKED,
    RETRY_SECONDS,
    Connection,
    Connections,
    translate,
    was_lost,
    was_rewrapped,
)
from everlog.stores.postgres.kept import Kept
from everlog.stores.postgres.locking import locked_by, locks
from everlog.stores.postgres.statements import bucket_of
from everlog.stores.postgres.transaction import Mark, PostgresTransaction, Query, Settings
from everlog.stores.transact import carry_out

APART_SECONDS: Final = 1.0
_JOINED_BYTES_MAX: Final = 1024 * 1024  # of an append that goes with those of other buckets
_JOINED: Final = {  # what an append begins with, about one bucket and about several
    "lock_sessions": "lock_joined_sessions",
    "read_tips": "read_joined_tips",
    "read_keyed": "read_joined_keyed",
}
_KEY_PLACES: Final = {  # in rows of those about several: of a key, which tells the bucket
    "lock_joined_sessions": 0,
    "read_joined_tips": 0,
    "read_joined_keyed": 2,
}
_Part = tuple[int, Sequence[Request]]  # a bucket, and what is about it


class _Joined(NamedTuple):
    """An append, and the bucket that it is about."""

    bucket: int
    request: Request


class _ApartError(Exception):
    """It was not carried out with others: its own bucket's queue is to."""


class Groups:
    """The queues of one store in one process. committed: called after each commit; whether it ended sessions.

    renew_keys: called where another wrapping key is current by now; tells whether it finds others.
    """

    def __init__(
        self,
        connections: Connections,
        clock: Clock,
        settings: Settings,
        blocks: BlockCache,
        *,
        joined: bool,
        committed: Callable[[bool], None],
        renew_keys: Callable[[], bool],
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._settings = settings
        self._blocks = blocks
        self._committed = committed
        self._renew_keys = renew_keys
        self._mutex = Lock()
        self._of_buckets: dict[int, Committer[Request]] = {}
        held: Callable[[_Joined], int] = lambda each: bytes_held(each.request)  # noqa: E731
        self._of_all = Committer(self._commit_joined, held, gathers=True) if joined else None
        self._apart: dict[int, float] = {}  # buckets that go by themselves, and until when

    def write(self, bucket: int, request: Request) -> Receipt:
        """Carry out a request with whatever else is queued; give its receipt or raise its refusal."""
        if self._of_all is not None and self._may_join(bucket, request):
            try:
                return self._of_all.write(_Joined(bucket, request))
            except _ApartError:
                pass
        return self._of(bucket).write(request)

    def submit(self, bucket: int, request: Request, resolve: Resolve) -> Withdraw:
        """Queue a request and return at once; `resolve` is called once."""
        if self._of_all is None or not self._may_join(bucket, request):
            return self._of(bucket).submit(request, resolve)

        def resolved(outcome: Outcome) -> None:
            if not isinstance(outcome, _ApartError):
                resolve(outcome)
                return
            try:
                self._of(bucket).submit(request, resolve)
            except EverlogError as refusal:
                resolve(refusal)

        return self._of_all.submit(_Joined(bucket, request), resolved)

    def close(self) -> None:
        """Let what is queued be carried out, and refuse more."""
        if self._of_all is not None:
            self._of_all.close()
        for committer in list(self._of_buckets.values()):
            committer.close()

    # --- queues ---
    def _of(self, bucket: int) -> Committer[Request]:
        committer = self._of_buckets.get(bucket)
        if committer is None:
            with self._mutex:
                committer = self._of_buckets.setdefault(
                    bucket, Committer(partial(self._commit_one, bucket), bytes_held, gathers=True)
                )
        return committer

    def _may_join(self, bucket: int, request: Request) -> bool:
        if not isinstance(request, Append) or bytes_held(request) > _JOINED_BYTES_MAX:
            return False
        until = self._apart.get(bucket)
        return until is None or until <= time.monotonic()

    def _commit_joined(self, queued: Sequence[_Joined]) -> list[Outcome]:
        """Carry out appends of several buckets in one transaction."""
        places: dict[int, list[int]] = {}
        for place, each in enumerate(queued):
            places.setdefault(each.bucket, []).append(place)
        parts = [(bucket, [queued[place].request for place in places[bucket]]) for bucket in sorted(places)]
        try:
            done = self._until_done(parts, "limit_locks_briefly")
        except psycopg.Error as error:
            if error.sqlstate != LOCKED:
                raise translate(error) from error
            until = time.monotonic() + APART_SECONDS
            self._apart = {bucket: end for bucket, end in self._apart.items() if end > time.monotonic()}
            self._apart |= dict.fromkeys(places, until)
            return [_ApartError() for _ in queued]
        order = [place for bucket in sorted(places) for place in places[bucket]]
        return [outcome for _, outcome in sorted(zip(order, done, strict=True), key=lambda each: each[0])]

    def _commit_one(self, bucket: int, requests: Sequence[Request], limit: str = "limit_locks") -> list[Outcome]:
        """Carry out requests about one bucket. limit: the query that limits waits for locks."""
        try:
            return self._until_done([(bucket, requests)], limit)
        except psycopg.Error as error:
            if error.sqlstate == LOCKED and len(apart := _apart(requests)) > 1:
                return self._commit_apart(bucket, requests, apart)
            raise translate(error) from error

    def _commit_apart(self, bucket: int, requests: Sequence[Request], apart: Sequence[Sequence[int]]) -> list[Outcome]:
        """Carry out what is about one session after another: somebody holds one of them, and the others are not refused with it."""
        outcomes = dict[int, Outcome]()
        for places in apart:
            try:
                done = self._commit_one(bucket, [requests[place] for place in places], "limit_locks_briefly")
            except EverlogError as error:
                done = [error] * len(places)
            outcomes.update(zip(places, done, strict=True))
        return [outcomes[place] for place in range(len(requests))]

    # --- one transaction ---
    def _until_done(self, parts: Sequence[_Part], limit: str) -> list[Outcome]:
        """Carry out requests in one transaction, again where another came between; give the outcomes, part after part.

        Raises what the server said where that does not help.
        """
        deadline = time.monotonic() + limits.LOCK_SECONDS_MAX
        pause = 0.002
        while True:
            copies = self._connections.copies  # as this attempt began: others may stop it meanwhile
            try:
                return self._try(parts, limit)
            except psycopg.Error as error:
                if copies and self._connections.stop_copying(error):
                    continue
                if was_rewrapped(error) and self._renew_keys():
                    continue
                lost = was_lost(error)
                if (not lost and error.sqlstate not in AGAIN) or time.monotonic() >= deadline:
                    raise
                time.sleep(0.05 if lost else random.uniform(0, pause))  # noqa: S311
                pause = min(2 * pause, 0.5)

    def _try(self, parts: Sequence[_Part], limit: str) -> list[Outcome]:
        with self._connections.writer() as connection:
            kept = Kept(self._connections)
            txs = [
                PostgresTransaction(self._connections, connection, bucket, kept, self._blocks) for bucket, _ in parts
            ]
            try:
                outcomes = self._carry_out(connection, txs, parts, limit)
            except BaseException:
                _end(connection)
                raise
            if not any(tx.wrote for tx in txs):
                self._connections.execute(connection, self._connections.statements["roll_back"])
                return outcomes
            try:
                self._commit(connection, kept)
            except psycopg.Error as error:
                _end(connection)
                if not was_lost(error):
                    raise  # the server said that it was not committed
                lost: psycopg.Error | None = error
            except BaseException:
                connection.close()
                raise
            else:
                lost = None
        if lost is not None and not self._was_committed(txs, parts, lost):
            raise lost  # it is known that nothing was written: once more
        self._committed(any(tx.sweeps for tx in txs))
        return outcomes

    def _carry_out(
        self, connection: Connection, txs: Sequence[PostgresTransaction], parts: Sequence[_Part], limit: str
    ) -> list[Outcome]:
        statements = self._connections.statements
        head: list[tuple[str, Any]] = [("begin", None), (limit, None), *self._settings]
        asked = [tx.opening(requests) for tx, (_, requests) in zip(txs, parts, strict=True)]
        opening = asked[0] if len(asked) == 1 else _joined(asked)
        queries = [*head, *opening, ("read_clock", None)]
        found = self._connections.together(connection, [(statements[name], given) for name, given in queries])
        now, ticks = self._clock.learn(found[-1][0][0])
        answers = [found[len(head) : -1]]
        if len(asked) > 1:
            answers = _spread([(tx.bucket, each) for tx, each in zip(txs, asked, strict=True)], opening, answers[0])
        outcomes: list[Outcome] = []
        for tx, (_, requests), own in zip(txs, parts, answers, strict=True):
            tx.opened(own, now, ticks)
            outcomes += [_outcome(tx, request) for request in requests]
        return outcomes

    def _commit(self, connection: Connection, kept: Kept) -> None:
        """Write what was kept back, and commit: in one round trip, but where so many events are among it that COPY pays."""
        kept.copy(connection)
        self._connections.together(connection, [*kept.take(), (self._connections.statements["commit"], None)])

    def _was_committed(self, txs: Sequence[PostgresTransaction], parts: Sequence[_Part], lost: psycopg.Error) -> bool:
        """Learn whether a transaction took effect whose answer was lost: its locks are free when that is decided."""
        marked = [(tx.mark, part) for tx, part in zip(txs, parts, strict=True) if tx.mark is not None]
        if not marked:
            return False  # what it wrote is the same when it is written again
        mark, (bucket, requests) = marked[0]
        statements = self._connections.statements
        asked = self._asked_again(mark, bucket, requests)
        deadline = time.monotonic() + 2 * RETRY_SECONDS
        while True:
            try:
                with self._connections.writer() as connection:
                    found = self._connections.together(connection, [(statements[name], given) for name, given in asked])
                    return bool(found[-2])
            except (psycopg.Error, EverlogError) as error:
                if time.monotonic() >= deadline:
                    raise OutcomeUnknownError(
                        f"the connection was lost while it was committed ({lost}), and the server cannot be asked ({error}); whether "
                        "it took effect is not known; append again with the same key to learn"
                    ) from lost
            time.sleep(0.1)

    def _asked_again(self, mark: Mark, bucket: int, requests: Sequence[Request]) -> list[tuple[str, Any]]:
        ids, branches, heavy = locked_by(requests)
        asked = [("begin", None), ("limit_locks", None), *self._settings, *locks(bucket, ids, branches, heavy=heavy)]
        return [*asked, (mark.query, mark.parameters), ("roll_back", None)]


def _joined(asked: Sequence[Sequence[Query]]) -> list[Query]:
    """Give queries that ask about all buckets what others ask about one each: their arrays, one behind another."""
    joined: dict[str, dict[str, list[Any]]] = {}
    for part in asked:
        for name, given in part:
            arrays = joined.setdefault(name, {})
            for parameter, value in (given or {}).items():
                if parameter != "bucket":
                    arrays.setdefault(parameter, []).extend(value)
    return [(_JOINED[name], arrays) for name, arrays in joined.items()]


def _spread(
    asked: Sequence[tuple[int, Sequence[Query]]], joined: Sequence[Query], answers: Sequence[list[Any]]
) -> list[list[list[Any]]]:
    """Give the answers to queries about one bucket each, from those to queries about all. asked: with their buckets."""
    rows: dict[tuple[str, int], list[Any]] = {}  # by name and bucket
    for (name, _), found in zip(joined, answers, strict=True):
        for row in found:
            rows.setdefault((name, bucket_of(row[_KEY_PLACES[name]])), []).append(row)
    return [[rows.get((_JOINED[name], bucket), []) for name, _ in queries] for bucket, queries in asked]


def _outcome(tx: PostgresTransaction, request: Request) -> Outcome:
    try:
        return carry_out(tx, request)
    except (EverlogError, StaleExpectationError, StaleLeaseError, AwayError) as refusal:
        return refusal


def _apart(requests: Sequence[Request]) -> list[list[int]]:
    """Give the places of requests, those about one session together."""
    places: dict[object, list[int]] = {}
    for place, request in enumerate(requests):
        if isinstance(request, ColdRequest | SealRequest):
            about: object = ColdRequest  # these lock the bucket, and no session
        else:
            about = request.branch if isinstance(request, Adopt) else request.session_id
        places.setdefault(about, []).append(place)
    return list(places.values())


def _end(connection: psycopg.Connection[Any]) -> None:
    """Have a connection be usable again, or be closed."""
    try:
        connection.rollback()
    except psycopg.Error:
        connection.close()
