"""The SQLite store: the door of storage.py on one file.

1. Writes go through group commit, each group one BEGIN IMMEDIATE … COMMIT inside the process's turn (law 2, law 3).
2. Reads are one statement each on a pooled reader, a page at a time (law 13).
3. A commit that failed may or may not have happened: the writer is closed, and the group is told so (law 12).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import msgspec

from everlog.cold import AwayError
from everlog.core import limits
from everlog.core.attached import set_attachment_readers
from everlog.core.decide import EventRow, StaleExpectationError
from everlog.core.envelope import WrappingKey
from everlog.core.event import Event, PreparedAttachment
from everlog.core.lease import LeaseRow, Ticks
from everlog.core.lineage import Lineage
from everlog.core.query import Term
from everlog.core.snapshot import Snapshot
from everlog.errors import (
    BusyError,
    CorruptionError,
    EverlogError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
)
from everlog.storage import (
    Bound,
    BranchRow,
    Candidates,
    CatchingUp,
    Delete,
    Erase,
    FeedPage,
    FeedPlace,
    Listed,
    Page,
    Receipt,
    Request,
    Resolve,
    SessionFilter,
    SessionRow,
    StaleLeaseError,
    Wanted,
    Withdraw,
)
from everlog.stores.blocks import Bodies
from everlog.stores.commit import Committer, Outcome, bytes_held
from everlog.stores.feeds import candidates_page, number_after, number_below, place_test
from everlog.stores.news import News
from everlog.stores.objects import Objects
from everlog.stores.rows import branch_row, session_row
from everlog.stores.sealed_bodies import Sealing, take_key
from everlog.stores.sqlite import files, listing, reading, snapshots
from everlog.stores.sqlite.choosing import compile_wanted
from everlog.stores.sqlite.cold import ColdWriter, SqliteCold
from everlog.stores.sqlite.connections import UNREADABLE, Connections, translate
from everlog.stores.sqlite.damage import find_damage
from everlog.stores.sqlite.encryption import SqliteEncryption
from everlog.stores.sqlite.index import SearchIndex
from everlog.stores.sqlite.ledger import SqliteLedger
from everlog.stores.sqlite.run import fetch_all, fetch_each, fetch_one, fetch_row, run
from everlog.stores.sqlite.transaction import (
    SqliteTransaction,
    Tips,
    read_branch,
    read_branches,
    read_forks,
    read_lease,
    read_lineage,
    read_removed,
)
from everlog.stores.ticks import read_ticks
from everlog.stores.transact import carry_out

SWEEP_EVENTS = 1_000  # events of a deleted session that one transaction destroys


class SqliteStorage(SqliteCold, SqliteEncryption, SqliteLedger):
    """Implements everlog.storage.Storage on one file. Open with `open_sqlite`."""

    def __init__(
        self,
        connections: Connections,
        *,
        store_id: str,
        clock: Callable[[], int],
        ticks: Callable[[], Ticks],
        objects: Objects,
        disk: files.Disk,
        sealing: Sealing,
    ) -> None:
        self.ticks = ticks
        self.id = store_id
        self._clock = clock
        super().__init__(connections, objects, sealing)
        self._committer = Committer(self._commit_group, bytes_held)
        self._data_version = -1
        self._tips = Tips()
        self._news = News(self._look)
        self._index = SearchIndex(connections, store_id, disk)

    # --- writing ---
    def write(self, request: Request) -> Receipt:
        self._connections.check_process()
        return self._blocks.fetching(lambda: self._committer.write(request))

    def submit(self, request: Request, resolve: Resolve) -> Withdraw:
        self._connections.check_process()
        return self._committer.submit(request, self._blocks.resolving(request, self._committer.submit, resolve))

    def _commit_group(self, requests: Sequence[Request]) -> list[Outcome]:
        with self._connections.writing:
            connection = self._connections.writer()
            turn = self._connections.turn()
            turn.take(limits.LOCK_SECONDS_MAX)
            try:
                tx = SqliteTransaction(connection, self._tips, self._blocks, now=self._clock(), ticks=self.ticks)
                outcomes = self._in_transaction(connection, tx, requests)
                if tx.traces and self._index.there():
                    self._clean_up(requests, outcomes, partial(self._forget_words, tx))
                if tx.changed:
                    self._news.announce()
                    self._connections.keep_wal_short()
            finally:
                turn.release()
            if tx.took_key:
                self._index.discard()
            if tx.traces:
                self._clean_up(requests, outcomes, self.remove_traces)
        return outcomes

    def _forget_words(self, tx: SqliteTransaction) -> None:
        self._index.remove(tx.removed, erasures=tx.erasures_raised, whole=False)

    def _clean_up(self, requests: Sequence[Request], outcomes: list[Outcome], destroy: Callable[[], None]) -> None:
        """Destroy what was erased or deleted where it still stands. It is committed: only who asked for it is told of trouble."""
        try:
            destroy()
        except EverlogError as error:
            for place, request in enumerate(requests):
                if isinstance(request, (Erase, Delete)) and isinstance(outcomes[place], Receipt):
                    outcomes[place] = error

    def _in_transaction(
        self, connection: apsw.Connection, tx: SqliteTransaction, requests: Sequence[Request]
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._connections.renew_wal()
            self._tips.renew(connection)
            for request in requests:
                try:
                    outcomes.append(carry_out(tx, tx.admit(request)))
                except (EverlogError, StaleExpectationError, StaleLeaseError, AwayError) as refusal:
                    outcomes.append(refusal)
            tx.flush()
        except BaseException as error:
            self._tips.forget()
            self._connections.roll_back()
            if isinstance(error, (apsw.Error, *UNREADABLE)):
                raise translate(error, self._connections.path) from error
            raise
        self._commit(connection)
        return outcomes

    def _commit(self, connection: apsw.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except BaseException as error:
            self._tips.forget()
            self._connections.drop_writer()
            if not isinstance(error, Exception):
                raise  # Ctrl-C stays Ctrl-C; the committer tells the others that the outcome is not known
            # A full disk fails before the frame that would make the transaction valid is written.
            if isinstance(error, (apsw.FullError, apsw.BusyError)):
                raise translate(error, self._connections.path) from error
            raise OutcomeUnknownError(
                f"the commit to {self._connections.path} failed ({error}); whether it took effect is not known; append again "
                "with the same key to learn"
            ) from error
        self._tips.keep(connection)

    def _truncate_wal(self, connection: apsw.Connection) -> None:
        """Take what was destroyed out of the WAL too, which still holds the pages as they were."""
        busy, _, _ = fetch_row(connection, "truncate_wal")
        if busy:
            raise BusyError(
                f"what was erased, deleted or sealed is gone from the store, but a reader keeps old bytes in {self._connections.path}-wal; "
                "they go with the next erasure, deletion, sealing or opening of the store once that reader has ended"
            )
        run(connection, "set_traces", {"traces": 0})

    def remove_traces(self) -> None:
        """Destroy the events of deleted sessions, some at a time, each time in a transaction of its own, then their traces."""
        with self._connections.reader() as connection:
            if fetch_one(connection, "read_traces") is None:
                return
        with self._connections.writing:
            connection = self._connections.writer()
            more = True
            while more:
                turn = self._connections.turn()
                turn.take(limits.LOCK_SECONDS_MAX)
                try:
                    more = self._sweep_some(connection)
                    if not more:
                        self._truncate_wal(connection)
                except apsw.Error as error:
                    raise UnavailableError(
                        f"what was erased or deleted is gone from the store, but old bytes may stay in {self._connections.path} "
                        f"and its -wal ({error}); they go with the next erasure, deletion or opening of the store"
                    ) from error
                finally:
                    turn.release()

    def begin_encrypting(self, *, read_only: bool) -> None:
        """Take the key that the store was opened with; see `take_key`. An index, which would hold words in plain text, goes."""
        take_key(self, self._blocks.sealing, read_only=read_only)
        if self._blocks.sealing.current and not read_only:
            self._index.discard()

    def settle_index(self) -> None:
        """Empty an index beside the store that may hold words of what was destroyed: whoever destroyed it died before that."""
        if self._index.there():
            self._index.settle()

    def _sweep_some(self, connection: apsw.Connection) -> bool:
        row = fetch_one(connection, "read_sweep")
        branch, start, size = (0, 0, 0) if row is None else row
        stop = min(size, start + SWEEP_EVENTS)
        if row is not None and self._index.there():
            leaving = read_removed(connection, self._blocks, branch, start, stop, room=limits.GROUP_BYTES_MAX)
            self._index.remove(leaving, erasures=0, whole=True)
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._connections.renew_wal()
            if row is None:
                run(connection, "end_sweep")
            else:
                bounds = {"branch": branch, "start": start, "stop": stop}
                ColdWriter(connection, self._blocks, now=self._clock()).sweep(branch, start, stop)
                run(connection, "sweep_events", bounds)
                run(connection, "sweep_attachments", bounds)
                run(connection, "destroy_data_keys", bounds)
                run(connection, "set_swept", {"branch": branch, "swept": stop})
            connection.execute("COMMIT")
        except BaseException:
            self._connections.roll_back()
            raise
        return row is not None

    # --- sessions and branches ---
    def session(self, name: str) -> SessionRow:
        with self._connections.reader() as connection:
            row = fetch_one(connection, "read_session", {"name": name})
        if row is None:
            raise NotFoundError(f"there is no session {name!r} in this store; create it, or see sessions()")
        return session_row(row)

    def find(self, name: str) -> Listed:
        with self._connections.reader() as connection:
            row = fetch_one(connection, "read_found", {"name": name})
        if row is None:
            raise NotFoundError(f"there is no session {name!r} in this store; create it, or see sessions()")
        return listing.listed(row)

    def session_by_id(self, session_id: str) -> SessionRow:
        with self._connections.reader() as connection:
            row = fetch_one(connection, "read_session_by_id", {"id": bytes.fromhex(session_id)})
        if row is None:
            raise NotFoundError(f"session {session_id} is not in this store any more: it was deleted, or never here")
        return session_row(row)

    def session_of(self, branch: int) -> SessionRow:
        with self._connections.reader() as connection:
            row = fetch_one(connection, "read_session_of", {"branch": branch})
        if row is None:
            raise NotFoundError("the session that owned this branch was deleted")
        return session_row(row)

    def lease(self, session_id: str) -> LeaseRow | None:
        with self._connections.reader() as connection:
            return read_lease(connection, session_id)

    def leases(self, now: Ticks, limit: int) -> list[tuple[SessionRow, LeaseRow]]:
        with self._connections.reader() as connection:
            rows = fetch_all(connection, "read_leases", {"boot": now.boot, "now": now.micros, "limit": limit})
        return [(session_row(row[:12]), LeaseRow(*row[12:])) for row in rows]

    def sessions(self, chosen: SessionFilter) -> list[Listed]:
        with self._connections.reader() as connection:
            return listing.list_sessions(connection, chosen)

    def forks(self, session: int) -> list[SessionRow]:
        with self._connections.reader() as connection:
            return read_forks(connection, session)

    def branches(self, session: int) -> list[BranchRow]:
        with self._connections.reader() as connection:
            return read_branches(connection, session)

    def branch(self, branch: int) -> BranchRow:
        with self._connections.reader() as connection:
            row = read_branch(connection, branch)
        if row is None:
            raise NotFoundError("there is no such branch in this store")
        return row

    def current_branch(self, session_id: str) -> BranchRow:
        with self._connections.reader() as connection:
            row = fetch_one(connection, "read_current_branch", {"id": bytes.fromhex(session_id)})
        if row is None:
            raise NotFoundError(f"session {session_id} is not in this store any more: it was deleted")
        return branch_row(row)

    def peek(self, session_id: str, lineage: Lineage, start: int, stop: int) -> tuple[BranchRow, list[Event] | None]:  # noqa: ARG002
        # To ask again for the events costs nothing here.
        return self.current_branch(session_id), None

    def branch_by_id(self, branch_id: str) -> BranchRow | None:
        with self._connections.reader() as connection:
            row = fetch_one(connection, "read_branch_by_id", {"id": bytes.fromhex(branch_id)})
        return None if row is None else branch_row(row)

    def lineage(self, branch: int, session: str) -> Lineage:
        with self._connections.reader() as connection:
            return read_lineage(connection, branch, session)

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
        def read(connection: apsw.Connection, bodies: Bodies) -> Page:
            return reading.read_page(
                connection, bodies, lineage, start, stop, terms=terms, reverse=reverse, limit=limit
            )

        page = self._reading(read)
        set_attachment_readers(page.events, lambda event: self.attachments(lineage, event.position))
        return page

    def read_short(self, asked: Sequence[tuple[Lineage, int]]) -> list[list[Event] | None]:
        found = self._reading(lambda connection, bodies: reading.read_short(connection, bodies, asked))
        for (lineage, _), events in zip(asked, found, strict=True):
            set_attachment_readers(events or (), lambda event, line=lineage: self.attachments(line, event.position))
        return found

    def rows(self, lineage: Lineage, start: int, stop: int, *, as_stored: bool = False) -> list[EventRow]:
        return self._reading(
            lambda reader, bodies: reading.read_whole_rows(reader, bodies, lineage, start, stop, as_stored=as_stored)
        )

    def tree_nodes(self, lineage: Lineage, places: Sequence[tuple[int, int]]) -> list[bytes]:
        with self._connections.reader() as connection:
            return [reading.read_node(connection, lineage, level, index) for level, index in places]

    def leaf_at(self, lineage: Lineage, position: int) -> tuple[bytes, int]:
        with self._connections.reader() as connection:
            leaf, _, recorded = reading.read_leaf(connection, lineage, position)
        return leaf, recorded

    def cut_at(self, lineage: Lineage, size: int, micros: int) -> int:
        low, high = 0, size
        with self._connections.reader() as connection:
            while low < high:
                middle = (low + high) // 2
                if reading.read_leaf(connection, lineage, middle)[2] < micros:
                    low = middle + 1
                else:
                    high = middle
        return low

    def find_key(self, key: str, limit: int) -> list[Event]:
        def read(connection: apsw.Connection, bodies: Bodies) -> list[tuple[Any, ...]]:
            return [
                (*row[:15], bodies.body(row[3], row[4], row[15], row[12], row[14]))
                for row in fetch_each(connection, "read_named", {"key": key, "limit": limit})
            ]

        return [self._event_of_branch(row[0], row[1], row[2], row[3], row[4:]) for row in self._reading(read)]

    def _event_of_branch(
        self, branch_id: bytes, writer: bytes, session: str, branch: int, columns: tuple[Any, ...]
    ) -> Event:
        reading.check_columns(columns, session)
        event = Event(session, branch_id.hex(), writer.hex(), *columns)
        self._let_read_attachments(event, branch)
        return event

    def _let_read_attachments(self, event: Event, branch: int) -> None:
        if event.attached is not None:
            lineage = self.lineage(branch, event.session)
            set_attachment_readers([event], lambda event: self.attachments(lineage, event.position))

    def attachments(self, lineage: Lineage, position: int, *, as_stored: bool = False) -> list[PreparedAttachment]:
        branch = lineage.owner(position).branch

        def read(connection: apsw.Connection, bodies: Bodies) -> list[PreparedAttachment]:
            found: list[PreparedAttachment] = []
            at = {"branch": branch, "position": position}
            for name, size, salt, content, digest, leaf in fetch_each(connection, "read_attachments", at):
                kept = content if digest is None else bodies.shared(branch, digest)
                item = PreparedAttachment(name, size, salt, kept)
                found.append(item if as_stored else bodies.attachment(branch, position, leaf, len(found), item))
            return found

        return self._reading(read)

    # --- snapshots ---
    def snapshot_chain(self, lineage: Lineage, size: int, fingerprint: bytes) -> tuple[list[Snapshot], int]:
        with self._connections.reader() as connection:
            erasures: int = fetch_row(connection, "read_erasures")[0]
            return snapshots.read_chain(connection, lineage, size, fingerprint), erasures

    def snapshots(self, branch: int | None, after: tuple[int, bytes, int], limit: int) -> list[Snapshot]:
        with self._connections.reader() as connection:
            return snapshots.list_snapshots(connection, branch, after, limit)

    def erasures(self, branch: int) -> int:  # noqa: ARG002  # one number for all branches
        with self._connections.reader() as connection:
            return fetch_row(connection, "read_erasures")[0]

    # --- the feed ---
    def feed(self, after: Sequence[FeedPlace], limit: int) -> FeedPage:
        return self._feed(after, limit)

    def _feed(self, after: Sequence[FeedPlace], limit: int, *, passes_damaged: bool = False) -> FeedPage:
        names: dict[int, tuple[Any, ...]] = {}

        def read(connection: apsw.Connection, bodies: Bodies) -> tuple[list[tuple[Any, ...]], bool]:
            start = number_after(after, partial(reading.read_feed_leaf, connection))
            rows, full = reading.read_feed(connection, bodies, start, limit)
            for branch in {row[1] for row in rows}:
                names[branch] = fetch_row(connection, "read_feed_branch", {"branch": branch})
            return rows, full

        rows, full = self._reading(read)
        passed: list[FeedPlace] = []
        events: list[tuple[FeedPlace, Event]] = []
        for number, branch, *columns in rows:
            place = FeedPlace(0, number, columns[10] if type(columns[10]) is bytes else b"")
            branch_id, writer, session = names[branch]
            if session is not None and columns[1] is not None:
                try:
                    events.append((place, self._event_of_branch(branch_id, writer, session, branch, tuple(columns))))
                except CorruptionError:
                    if not passes_damaged:
                        if not passed:
                            raise
                        full = True  # who goes on meets it there
                        break
            passed.append(place)
        return FeedPage(events, tuple(passed[-1:]), full)

    def feed_end(self) -> tuple[FeedPlace, ...]:
        with self._connections.reader() as connection:
            return tuple(FeedPlace(0, *row) for row in fetch_each(connection, "read_feed_end"))

    def candidates(
        self, wanted: Wanted, below: Sequence[Bound], limit: int, progress: CatchingUp | None = None
    ) -> Candidates:
        owned = None if wanted.sessions is None else self._owned(wanted.sessions)
        branches = owned if wanted.line is None else [segment.branch for segment in wanted.line]
        inside = place_test(wanted, owned)
        top = number_below(below)
        indexed, feeds = 0, None
        if (
            not self.wrapping_keys()
        ):  # else an index would hold the words of what is encrypted, maybe since another process began to
            feed = partial(self._feed, passes_damaged=True)  # a damaged event must not keep others from being found
            find = partial(self._index.find, wanted, branches, inside, top, limit)
            indexed, feeds = self._index.up_to_date(feed, self._branch_key, progress, top, find)
        if feeds is not None:
            low = feeds[-1] if len(feeds) == limit else 0
        else:  # what only who may write can put into the index
            top = min(top, 1 + max((place.number for place in self.feed_end()), default=0))
            low = max(indexed + 1, top - limits.SCAN_EVENTS_MAX)
        owners: dict[int, int] = {}
        conditions, parameters = compile_wanted(wanted)

        def read(connection: apsw.Connection, bodies: Bodies) -> Candidates:
            if feeds is None:
                rows = reading.read_backwards(connection, bodies, low, top, conditions, parameters, inside)
            else:
                rows = reading.read_feed_rows(connection, bodies, feeds)
            return candidates_page(reading.living(connection, rows, owners), limit, end=low if low > 1 else 0)

        page = self._reading(read)
        for bound, event in page.events:
            self._let_read_attachments(event, owners[bound.number])
        return page

    def _owned(self, sessions: Sequence[int]) -> list[int]:
        with self._connections.reader() as connection:
            rows = fetch_all(connection, "list_owned", {"sessions": msgspec.json.encode(sessions).decode()})
        return [branch for (branch,) in rows]

    def _branch_key(self, branch_id: str) -> int:
        row = self.branch_by_id(branch_id)
        assert row is not None, "a branch stays, also of a session that was deleted"
        return row.key

    def news(self) -> int:
        return self._news.count

    def wait(self, seen: int, timeout: float) -> int:
        self._connections.check_usable()
        return self._news.wait(seen, timeout)

    def _look(self) -> bool:
        try:
            version = self._connections.data_version()
        except (EverlogError, apsw.Error):
            return True  # whoever waits reads, and learns what is wrong
        changed, self._data_version = version != self._data_version, version
        return changed

    # --- the rest ---
    def damage(self) -> Iterator[str]:
        with self._connections.reader() as connection:
            yield from find_damage(connection)

    def now(self) -> int:
        return self._clock()

    def close(self) -> None:
        if self._connections.inherited():
            return  # its locks may be held by threads that this process does not have
        self._committer.close()
        self._news.close()
        self._index.close()
        self._connections.close()


def open_sqlite(
    path: Path,
    *,
    clock: Callable[[], int],
    draw: Callable[[int], bytes],
    ticks: Callable[[], Ticks] = read_ticks,
    read_only: bool = False,
    relaxed: bool = False,
    disk: files.Disk = files.SYSTEM,
    objects: Objects | None = None,
    keys: Sequence[WrappingKey] = (),
    begins: bool = True,
) -> SqliteStorage:
    """Open the store at a path, making it where there is none; finish what a deletion left unfinished.

    disk: where the files lie; objects: how object storage is spoken to; others than the system's in tests only. keys, begins: see `Sealing`.
    Raises NotFoundError (read_only and no file), UnsupportedStoreError, UnavailableError, BusyError, CorruptionError, KeyNeededError.
    """
    connections = Connections(path.resolve(), read_only=read_only, relaxed=relaxed, disk=disk)

    def make(connection: apsw.Connection) -> None:
        connection.execute("INSERT INTO store (id, created) VALUES (?, ?)", (draw(16), clock()))

    connections.open(make=None if read_only else make)
    with connections.reader() as connection:
        row = fetch_one(connection, "read_store")
    assert row is not None, "a store that was made has a row of its own"
    store = SqliteStorage(
        connections,
        store_id=row[0].hex(),
        clock=clock,
        ticks=ticks,
        objects=objects or Objects(),
        disk=disk,
        sealing=Sealing(keys, draw, begins=begins),
    )
    try:
        store.begin_encrypting(read_only=read_only)
    except BaseException:
        store.close()
        raise
    if not read_only:
        with suppress(BusyError):  # the store is good to use; who deletes or erases next tries again
            store.remove_traces()
            store.settle_index()
    return store
