"""The store in PostgreSQL: one database, many processes and machines.

1. Sessions that were forked from one another live in one bucket; every append is one transaction about one bucket.
2. Writers of one process share a transaction a bucket (stores/commit.py); those of several processes wait for the sessions that
   they both write to, and for one another's commit in a bucket.
3. A commit whose answer was lost is looked for in the database, behind the locks that it held: it is known whether it took effect
   as soon as the server can be reached again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from heapq import heapify, heappop, heapreplace
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.rows import TupleRow

from everlog.cold import Archive, AwayError, BringHome, ForgetObject, GiveUpObject, OpenObject, Pack, PutDictionary
from everlog.core import limits
from everlog.core.attached import set_attachment_readers
from everlog.core.decide import EventRow
from everlog.core.event import Event, PreparedAttachment
from everlog.core.lease import LeaseRow, Ticks
from everlog.core.lineage import Lineage
from everlog.core.merkle import node_in_row, node_position
from everlog.core.query import Term
from everlog.core.snapshot import KEYFRAME_EVERY, Snapshot
from everlog.encrypted import ForgetKey, Rewrap, SealBodies, TakeKey
from everlog.errors import EverlogError, NotFoundError
from everlog.sealed import PlaceRecords, PutSeal
from everlog.storage import (
    Adopt,
    Bound,
    BranchRow,
    Candidates,
    CatchingUp,
    Create,
    DropSnapshots,
    FeedPage,
    FeedPlace,
    Listed,
    Page,
    Receipt,
    Request,
    Resolve,
    SessionFilter,
    SessionRow,
    Wanted,
    Withdraw,
)
from everlog.stores.blocks import Bodies
from everlog.stores.feeds import check_place
from everlog.stores.news import News
from everlog.stores.objects import Objects
from everlog.stores.postgres import listing, reading
from everlog.stores.postgres.clock import Clock
from everlog.stores.postgres.cold import SWEEP, PostgresBlocks, PostgresCold, fill
from everlog.stores.postgres.connections import Connections, translate
from everlog.stores.postgres.encryption import PostgresEncryption
from everlog.stores.postgres.groups import Groups
from everlog.stores.postgres.ledger import PostgresLedger
from everlog.stores.postgres.notify import Notifier
from everlog.stores.postgres.searching import Searching
from everlog.stores.postgres.statements import SESSION_COLUMNS, bucket_of, lease_row, lineage_of
from everlog.stores.postgres.transaction import Settings
from everlog.stores.rows import Row, branch_row, session_row, snapshot_row
from everlog.stores.sealed_bodies import Sealing, renew_keys

POLL_SECONDS: Final = 0.02  # between looks at what other processes did; follow promises 50 ms
SWEEP_EVENTS: Final = 1_000  # events of a deleted session that one transaction destroys
_CACHED: Final = 10_000  # sessions and branches whose place is remembered


class _Ahead(NamedTuple):
    """Rows of a bucket's feed that were read and did not go into a page. after: number of the event before the first.

    erasures: of the bucket, as it was before they were read. Where it has grown they are read again.
    """

    after: int
    erasures: int
    rows: list[Any]


class PostgresStorage(PostgresCold, PostgresEncryption, PostgresLedger):
    """Implements everlog.storage.Storage."""

    def __init__(
        self,
        connections: Connections,
        *,
        store_id: str,
        buckets: int,
        clock: Clock,
        settings: Settings,
        distributed: bool,
        objects: Objects,
        sealing: Sealing,
    ) -> None:
        super().__init__(connections, objects, sealing, buckets)
        self.id = store_id
        self._clock = clock
        self._settings = settings
        self._groups = Groups(
            connections,
            clock,
            settings,
            self._blocks,
            joined=not distributed,
            committed=self._note_commit,
            renew_keys=lambda: renew_keys(self, sealing),
        )
        self._homes: dict[str, int] = {}  # buckets of sessions, by id: they never change
        self._guesses: dict[str, int] = {}  # buckets of sessions, by name: another may have the name by now
        self._lineages: dict[int, Lineage] = {}  # by branch: neither do these
        self._ahead: dict[int, _Ahead] = {}  # of the feed, by bucket
        self._seen: object = None
        self._news = News(self._look, POLL_SECONDS)
        self._searching = Searching(connections, self._blocks, settings, self._event_of_branch)
        self.notifier: Notifier | None = None

    def notify_by(self, conninfo: str) -> None:
        """Tell other processes at once of what is recorded, and hear it from them."""
        self.notifier = Notifier(self.connections, conninfo, self._news.announce)

    # --- writing ---
    def write(self, request: Request) -> Receipt:
        self.connections.check_usable()
        if isinstance(request, DropSnapshots) and request.session_id is None:
            receipts = [self._groups.write(bucket, request) for bucket in range(self.buckets)]
            return Receipt("", "", 0, (), count=sum(receipt.count for receipt in receipts))
        bucket, admitted = self._admitted(request)
        receipt = self._blocks.fetching(lambda: self._groups.write(bucket, admitted))
        if isinstance(request, TakeKey):
            renew_keys(self, self._blocks.sealing)
        return receipt

    def submit(self, request: Request, resolve: Resolve) -> Withdraw:
        self.connections.check_usable()
        bucket, admitted = self._admitted(request)
        again = self._blocks.resolving(request, self.submit, resolve)
        return self._groups.submit(bucket, admitted, again)

    def _admitted(self, request: Request) -> tuple[int, Request]:
        """Give a request's bucket, and what of it the store takes; see `Sealing.admit`."""
        bucket, sealing = self._bucket(request), self._blocks.sealing
        if sealing.first is not None and bucket not in sealing.current:
            renew_keys(self, sealing)  # another process may have had it encrypt meanwhile
        return bucket, sealing.admit(request, sealing.current.get(bucket))

    def _bucket(self, request: Request) -> int:
        if isinstance(request, Create):
            parent, base = request.forked_from, request.base  # of what comes from elsewhere the base alone is known
            if base is not None:
                return bucket_of(base.branch)
            return self.connections.bucket_of_name(request.name) if parent is None else self._home(parent)
        if isinstance(request, (Adopt, Pack, SealBodies)):
            return bucket_of(request.branch)
        if isinstance(request, (PutDictionary, PlaceRecords, PutSeal)):
            return 0
        if isinstance(request, OpenObject):
            return request.object.bucket
        if isinstance(request, (Archive, BringHome, GiveUpObject, ForgetObject, TakeKey, Rewrap, ForgetKey)):
            return request.bucket
        assert request.session_id is not None, "those of all sessions are carried out in every bucket"
        return self._home(request.session_id)

    def _note_commit(self, sweeps: bool) -> None:  # noqa: FBT001
        """Tell of news, and destroy what a session left that has ended."""
        self._news.announce()
        if self.notifier is not None:
            self.notifier.tell()
        if sweeps:
            with suppress(EverlogError):  # it is committed; whoever opens the store next goes on
                self.finish_sweeps()

    def finish_sweeps(self) -> None:
        """Destroy the events of deleted sessions, some at a time, each time in a transaction of its own."""
        while rows := self.connections.fetch_all("read_sweeps"):
            for bucket, branch, start, size in rows:
                at = start
                while at < size:
                    at = self._sweep(bucket, branch, at, size)
                if start >= size:
                    self._sweep(bucket, branch, size, size)

    def _sweep(self, bucket: int, branch: int, start: int, size: int) -> int:
        stop = min(size, start + SWEEP_EVENTS)
        bounds = {"bucket": bucket, "branch": branch, "start": start, "stop": stop}
        swept = {"bucket": bucket, "branch": branch, "swept": None if stop == size else stop}
        asked: list[tuple[str, Any]] = [("begin", None), *self._settings]
        asked += [("lock_bucket", bounds), *((name, bounds) for name in SWEEP)]
        asked += [(name, bounds) for name in ("sweep_events", "sweep_attachments", "sweep_data_keys", "sweep_words")]
        asked += [("set_swept", swept), ("commit", None)]
        try:
            with self.connections.writer() as connection:
                self.connections.together(
                    connection, [(self.connections.statements[name], given) for name, given in asked]
                )
        except psycopg.Error as error:
            raise translate(error) from error
        return stop

    # --- sessions and branches ---
    def find(self, name: str) -> Listed:
        at = self.connections.bucket_of_name(name)
        likely = self._guesses.get(name, at)
        homes, found, chain = self._read_found(name, likely, ("read_home", at))
        if homes and homes[0][0] != likely:  # it was forked from one of another name
            likely = homes[0][0]
            found, chain = self._read_found(name, likely)
        if not homes or not found:
            raise NotFoundError(f"there is no session {name!r} in this store; create it, or see sessions()")
        if likely != at:
            if len(self._guesses) >= _CACHED:
                self._guesses = {}
            self._guesses[name] = likely
        self._keep_lineage(lineage_of(chain, name))
        listed = listing.listed(found[0])
        self._known(listed.session)
        return listed

    def _read_found(self, name: str, bucket: int, *before: tuple[str, int]) -> list[list[TupleRow]]:
        """Read a session by its name in the bucket that it is in. before: what is read with it, each with its bucket."""
        queries = (*before, ("read_found", bucket), ("read_found_chain", bucket))
        return self.connections.ask(
            [(self.connections.statements[query], {"bucket": at, "name": name}) for query, at in queries]
        )

    def session(self, name: str) -> SessionRow:
        return self.find(name).session

    def session_by_id(self, session_id: str) -> SessionRow:
        known = self._homes.get(session_id)
        given: dict[str, Any] = {"id": bytes.fromhex(session_id)}
        row = None if known is None else self.connections.fetch_one("read_session_in", given | {"bucket": known})
        if row is None:  # it may have been deleted, and taken in again under another name
            row = self.connections.fetch_one("read_session_by_id", given)
        if row is None:
            self._homes.pop(session_id, None)
            raise NotFoundError(f"session {session_id} is not in this store any more: it was deleted, or never here")
        return self._known(session_row(row))

    def _known(self, session: SessionRow) -> SessionRow:
        if len(self._homes) >= _CACHED:
            self._homes = {}
        self._homes[session.id] = bucket_of(session.key)
        return session

    def _home(self, session_id: str) -> int:
        known = self._homes.get(session_id)
        return bucket_of(self.session_by_id(session_id).key) if known is None else known

    def session_of(self, branch: int) -> SessionRow:
        row = self.connections.fetch_one("read_session_of", {"bucket": bucket_of(branch), "branch": branch})
        if row is None:
            raise NotFoundError("the session that owned this branch was deleted")
        return self._known(session_row(row))

    def lease(self, session_id: str) -> LeaseRow | None:
        given = {"bucket": self._home(session_id), "id": bytes.fromhex(session_id)}
        row = self.connections.fetch_one("read_lease", given)
        return None if row is None else lease_row(row)

    def leases(self, now: Ticks, limit: int) -> list[tuple[SessionRow, LeaseRow]]:
        rows = self.connections.fetch_all("read_leases", {"boot": now.boot, "now": now.micros, "limit": limit})
        return [(session_row(row[:SESSION_COLUMNS]), LeaseRow(*row[SESSION_COLUMNS:])) for row in rows]

    def sessions(self, chosen: SessionFilter) -> list[Listed]:
        return listing.list_sessions(self.connections, chosen)

    def forks(self, session: int) -> list[SessionRow]:
        given = {"bucket": bucket_of(session), "session": session}
        return [session_row(row) for row in self.connections.fetch_all("read_forks", given)]

    def branches(self, session: int) -> list[BranchRow]:
        given = {"bucket": bucket_of(session), "session": session}
        return [branch_row(row) for row in self.connections.fetch_all("read_branches", given)]

    def branch(self, branch: int) -> BranchRow:
        row = self.connections.fetch_one("read_branch", {"bucket": bucket_of(branch), "branch": branch})
        if row is None:
            raise NotFoundError("there is no such branch in this store")
        return branch_row(row)

    def current_branch(self, session_id: str) -> BranchRow:
        given = {"bucket": self._home(session_id), "id": bytes.fromhex(session_id)}
        row = self.connections.fetch_one("read_current_branch", given)
        if row is None:
            raise NotFoundError(f"session {session_id} is not in this store any more: it was deleted")
        return branch_row(row)

    def peek(self, session_id: str, lineage: Lineage, start: int, stop: int) -> tuple[BranchRow, list[Event] | None]:
        home = self._home(session_id)
        branch, events = self._blocks.fetching(
            lambda: reading.peek(self.connections, self._blocks, session_id, home, lineage, start, stop)
        )
        if branch is None:
            raise NotFoundError(f"session {session_id} is not in this store any more: it was deleted")
        if events is not None:
            set_attachment_readers(events, lambda event: self.attachments(lineage, event.position))
        return branch, events

    def branch_by_id(self, branch_id: str) -> BranchRow | None:
        row = self.connections.fetch_one("read_branch_by_id", {"id": bytes.fromhex(branch_id)})
        return None if row is None else branch_row(row)

    def lineage(self, branch: int, session: str) -> Lineage:
        known = self._lineages.get(branch)
        if known is None or known.session != session:
            given = {"bucket": bucket_of(branch), "branch": branch}
            known = self._keep_lineage(lineage_of(self.connections.fetch_all("read_chain", given), session))
        return known

    def _keep_lineage(self, lineage: Lineage) -> Lineage:
        if len(self._lineages) >= _CACHED:
            self._lineages = {}
        self._lineages[lineage.branch] = lineage
        return lineage

    # --- events ---
    def read(
        self,
        lineage: Lineage,
        start: int,
        stop: int,
        *,
        terms: tuple[Term, ...] = (),
        reverse: bool = False,
        limit: int = limits.PAGE_EVENTS_MAX,
    ) -> Page:
        page = self._blocks.fetching(
            lambda: reading.read_page(
                self.connections, self._blocks, lineage, start, stop, terms=terms, reverse=reverse, limit=limit
            )
        )
        set_attachment_readers(page.events, lambda event: self.attachments(lineage, event.position))
        return page

    def read_short(self, asked: Sequence[tuple[Lineage, int]]) -> list[list[Event] | None]:
        found = reading.read_short(self.connections, asked)
        for (lineage, _), events in zip(asked, found, strict=True):
            set_attachment_readers(events or (), lambda event, line=lineage: self.attachments(line, event.position))
        return found

    def rows(self, lineage: Lineage, start: int, stop: int, *, as_stored: bool = False) -> list[EventRow]:
        return self._blocks.fetching(
            lambda: reading.read_whole_rows(self.connections, self._blocks, lineage, start, stop, as_stored=as_stored)
        )

    def tree_nodes(self, lineage: Lineage, places: Sequence[tuple[int, int]]) -> list[bytes]:
        positions = [node_position(level, index) for level, index in places]
        found = reading.read_leaves(self.connections, lineage, positions)
        return [
            node_in_row(level, *found[position][:2]) for (level, _), position in zip(places, positions, strict=True)
        ]

    def leaf_at(self, lineage: Lineage, position: int) -> tuple[bytes, int]:
        leaf, _, recorded = reading.read_leaves(self.connections, lineage, [position])[position]
        return leaf, recorded

    def cut_at(self, lineage: Lineage, size: int, micros: int) -> int:
        low, high = 0, size
        while low < high:  # sixteen places a round trip
            step = max(1, (high - low) // 17)
            places = list(range(low, high, step))[:64]
            found = reading.read_leaves(self.connections, lineage, places)
            before = [place for place in places if found[place][2] < micros]
            behind = next((place for place in places if found[place][2] >= micros), high)
            low, high = (before[-1] + 1 if before else low), behind
        return low

    def find_key(self, key: str, limit: int) -> list[Event]:
        fetch_all = self.connections.fetch_all

        def filled(row: Row) -> list[Row]:
            return self._blocks.fetching(lambda: fill(self._blocks, fetch_all, [row], _named_place, gone=12, body=15))

        found = fetch_all("read_named", {"key": key, "limit": limit})
        rows = [row for each in found for row in filled(each)]  # each may be in a bucket of its own
        return [self._event_of_branch(row[0], row[1], row[2], row[3], row[4:]) for row in rows]

    def _event_of_branch(
        self, branch_id: bytes, writer: bytes, session: str, branch: int, columns: Sequence[Any]
    ) -> Event:
        event = Event(session, branch_id.hex(), writer.hex(), *columns)
        if event.attached is not None:
            lineage = self.lineage(branch, session)
            set_attachment_readers([event], lambda event: self.attachments(lineage, event.position))
        return event

    def attachments(self, lineage: Lineage, position: int, *, as_stored: bool = False) -> list[PreparedAttachment]:
        branch = lineage.owner(position).branch
        given = {"bucket": bucket_of(branch), "branch": branch, "position": position}

        def read() -> list[PreparedAttachment]:
            bodies = Bodies(self._blocks, PostgresBlocks(self.connections.fetch_all))
            found: list[PreparedAttachment] = []
            for name, size, salt, content, digest, leaf in self.connections.fetch_all("read_attachments", given):
                kept = content if digest is None else bodies.shared(branch, digest)
                item = PreparedAttachment(name, size, salt, kept)
                found.append(item if as_stored else bodies.attachment(branch, position, leaf, len(found), item))
            return found

        return self._blocks.fetching(read)

    # --- snapshots ---
    def snapshot_chain(self, lineage: Lineage, size: int, fingerprint: bytes) -> tuple[list[Snapshot], int]:
        ranges, statements = reading.ranges_of(lineage.clip(0, size)), self.connections.statements
        given = {"bucket": bucket_of(lineage.branch), "fingerprint": fingerprint, "most": KEYFRAME_EVERY, **ranges}
        asked = [(statements["read_erasures"], given), (statements["read_snapshot_chain"], given)]
        erasures, rows = self.connections.ask(asked)
        return [snapshot_row(row) for row in rows], erasures[0][0]

    def snapshots(self, branch: int | None, after: tuple[int, bytes, int], limit: int) -> list[Snapshot]:
        given = {"bucket": None if branch is None else bucket_of(branch), "branch": branch, "limit": limit}
        given |= {"after_branch": after[0], "after_fingerprint": after[1], "after_size": after[2]}
        return [snapshot_row(row) for row in self.connections.fetch_all("list_snapshots", given)]

    def erasures(self, branch: int) -> int:
        return self.connections.fetch_all("read_erasures", {"bucket": bucket_of(branch)})[0][0]

    # --- the feed ---
    def feed(self, after: Sequence[FeedPlace], limit: int) -> FeedPage:
        return self._blocks.fetching(lambda: read_feed(self, after, limit))

    def feed_end(self) -> tuple[FeedPlace, ...]:
        return tuple(FeedPlace(*row) for row in self.connections.fetch_all("read_feed_ends"))

    def candidates(
        self, wanted: Wanted, below: Sequence[Bound], limit: int, progress: CatchingUp | None = None
    ) -> Candidates:
        return self._searching.candidates(wanted, below, limit, progress)

    def news(self) -> int:
        return self._news.count

    def wait(self, seen: int, timeout: float) -> int:
        self.connections.check_usable()
        if self.notifier is not None:
            self.notifier.listen()
        return self._news.wait(seen, timeout)

    def _look(self) -> bool:
        try:
            found = self.connections.fetch_all("read_counters")
        except EverlogError:
            return True  # whoever waits reads, and learns what is wrong
        changed, self._seen = found != self._seen, found
        return changed

    # --- the rest ---
    def damage(self) -> Iterator[str]:
        """The server's own checksums tell of damaged pages; what events say is checked against their hashes."""
        return iter(())

    def now(self) -> int:
        return self._clock.now()

    def ticks(self) -> Ticks:
        return self._clock.ticks()

    def close(self) -> None:
        if self.connections.inherited():
            return  # its locks may be held by threads that this process does not have
        self._groups.close()
        if self.notifier is not None:
            self.notifier.close()
        self._news.close()
        self.connections.close()


def _named_place(row: Row) -> tuple[int, int]:
    """Give branch and position of a row of read_named."""
    return row[3], row[4]


def read_feed(store: PostgresStorage, after: Sequence[FeedPlace], limit: int) -> FeedPage:
    """Read a page of the feed: what is new in each bucket, in the order of its numbers, merged by the time recorded."""
    places = {place.bucket: place for place in after}
    counters = {bucket: (end, erasures) for bucket, end, erasures in store.connections.fetch_all("read_counters")}
    for place in after:
        if counters.get(place.bucket, (0, 0))[0] < place.number:
            check_place(place, None)
    starts = {bucket: places[bucket].number if bucket in places else 0 for bucket in counters}
    behind = [bucket for bucket, (end, _) in counters.items() if end > starts[bucket]]
    found: dict[int, list[Any]] = {}
    for bucket in behind:
        ahead = store._ahead.get(bucket)
        if ahead is not None and (ahead.after, ahead.erasures) == (starts[bucket], counters[bucket][1]):
            found[bucket] = ahead.rows
    rest = {bucket: starts[bucket] for bucket in behind if bucket not in found}
    away = _read_buckets(store, after, rest, limit, found)
    if away is not None:  # what the others gave is at hand when this is asked for again
        store._ahead = {bucket: _Ahead(starts[bucket], counters[bucket][1], rows) for bucket, rows in found.items()}
        raise away
    page, left = _merge(store, found, {bucket: end for bucket, (end, _) in counters.items()}, limit)
    passed = {place.bucket: place.number for place in page.passed}
    store._ahead = {
        bucket: _Ahead(passed.get(bucket, starts[bucket]), counters[bucket][1], rows) for bucket, rows in left.items()
    }
    return page


def _read_buckets(
    store: PostgresStorage, after: Sequence[FeedPlace], starts: dict[int, int], limit: int, into: dict[int, list[Any]]
) -> AwayError | None:
    """Read what is new in buckets, a share of a page each, and check that places are still there; in one round trip.

    Gives what keeps one of them from being read, where an object is to be fetched first.
    """
    connections, statements = store.connections, store.connections.statements
    asked: list[tuple[bytes, Any]] = []
    if after:
        given = {"buckets": [place.bucket for place in after], "feeds": [place.number for place in after]}
        asked.append((statements["read_feed_leaves"], given))
    for bucket, start in starts.items():
        most = {"limit": max(1, limit // len(starts)), "bytes": limits.PAGE_BYTES_MAX // len(starts)}
        asked.append((statements["read_feed"], {"bucket": bucket, "after": start, **most}))
    if not asked:
        return None
    found = connections.ask(asked)
    leaves = dict(found.pop(0)) if after else {}
    for place in after:
        check_place(place, leaves.get(place.bucket))
    share = limits.PAGE_BYTES_MAX // len(starts) if starts else 0
    away: AwayError | None = None
    for bucket, rows in zip(starts, found, strict=True):
        try:
            into[bucket] = fill(
                store._blocks, connections.fetch_all, rows, _fed_place, gone=13, body=16, bytes_max=share
            )
        except AwayError as error:
            away = error
    return away


def _fed_place(row: Row) -> tuple[int, int]:
    """Give branch and position of a row of read_feed."""
    return row[1], row[5]


def _merge(
    store: PostgresStorage, found: dict[int, list[Any]], ends: dict[int, int], limit: int
) -> tuple[FeedPage, dict[int, list[Any]]]:
    """Merge what is new in buckets: of their next events the one that was recorded first, as long as the next of each is known.

    The order is the same wherever a page ends. Gives the rows that are left too.
    """
    heads = [(rows[0][9] or 0, bucket, 0) for bucket, rows in found.items() if rows]
    heapify(heads)
    events: list[tuple[FeedPlace, Event]] = []
    passed: dict[int, FeedPlace] = {}
    taken = dict.fromkeys(found, 0)
    for _ in range(limit):
        if not heads:
            break
        _, bucket, index = heads[0]
        rows = found[bucket]
        feed, branch, branch_id, writer, session, *columns = rows[index]
        place = passed[bucket] = FeedPlace(bucket, feed, columns[10])
        taken[bucket] = index + 1
        if session is not None and columns[1] is not None:
            events.append((place, store._event_of_branch(branch_id, writer, session, branch, columns)))
        if index + 1 < len(rows):
            heapreplace(heads, (rows[index + 1][9] or 0, bucket, index + 1))
        elif feed < ends[bucket]:
            break  # what follows in this bucket is on another page
        else:
            heappop(heads)
    left = {bucket: rows[taken[bucket] :] for bucket, rows in found.items() if taken[bucket] < len(rows)}
    return FeedPage(events, tuple(passed.values()), more=bool(heads)), left
