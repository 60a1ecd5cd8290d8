"""Store: where sessions live, as users hold it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from types import TracebackType
from typing import TYPE_CHECKING, Any

from everlog.core import limits
from everlog.core.decide import Batch
from everlog.core.event import DELETED, Cause, Event, NewEvent
from everlog.core.lineage import Lineage
from everlog.core.position import check_session_id, parse_event_id
from everlog.core.prepare import check_key, prepare_batch
from everlog.core.query import Query, check_session_query
from everlog.core.redact import Mode
from everlog.erasing import delete_session
from everlog.errors import InvalidEventError, InvalidQueryError, LimitError, NotFoundError, SessionExistsError
from everlog.follow import Feed, format_cursor
from everlog.keeper import SnapshotKeeper
from everlog.leases import LeaseInfo, LeaseKeeper, lease_info, living_leases
from everlog.making import clean_reason, new_session
from everlog.reader import read_query
from everlog.redaction import redacting
from everlog.search import Order, SearchPage, search_store
from everlog.session import Session, SessionInfo, open_session, session_info
from everlog.storage import CatchingUp, Family, SessionFilter, Storage
from everlog.store_prover import StoreProver
from everlog.writer import Keepers, Settings

if TYPE_CHECKING:
    from everlog.archiving import Archived
    from everlog.bundle import Exported
    from everlog.certificates import Certificate
    from everlog.claims import Claim
    from everlog.compacting import Compacted
    from everlog.encryption import Encryption
    from everlog.preferences import Preferences
    from everlog.reducers.registry import Reducer
    from everlog.retaining import Work
    from everlog.retention import Retention
    from everlog.signing import Keys
    from everlog.snapshots import SnapshotInfo
    from everlog.stats import Stats
    from everlog.transfer import Transferred
    from everlog.woken import Woken

ORDERS = ("updated", "-updated", "created", "-created", "id", "-id")


class Store(StoreProver):
    """Sessions in one place: a SQLite file, or memory. Open with `everlog.open`; use as a context manager, or close it.

    May be used from any thread. After `fork()` the child opens its own.
    """

    def __init__(self, storage: Storage, settings: Settings, *, url: str) -> None:
        self.storage = storage
        self.settings = settings
        self.keeper = SnapshotKeeper(storage, settings.snapshots)
        self._keepers = Keepers(self.keeper, LeaseKeeper(storage))
        self.url = url

    def __repr__(self) -> str:
        return f"<Store {self.url}>"

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def id(self) -> str:
        """The store's own id, 32 hex digits; a copy of its file has the same."""
        return self.storage.id

    def close(self) -> None:
        """Finish what was queued and let go of the store; later calls raise UnavailableError."""
        self._keepers.leases.stop()
        self.keeper.stop()
        self.storage.close()
        self.keeper.join()

    def redacting(self, mode: Mode) -> Store:
        """Give this store as one that does otherwise about secrets in what is appended: the same store, closed with it.

        mode: "redact" records marks in their place, "reject" refuses with SecretError, "off" does neither. What is recorded already
        stays as it is.
        """
        other = copy(self)
        other.settings = redacting(self.storage, self.settings, mode)
        return other

    # --- sessions ---
    def create(
        self,
        id: str | None = None,
        *,
        title: str | None = None,
        labels: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        parent: Event | None = None,
        preferences: str | None = None,
        events: Sequence[NewEvent] = (),
    ) -> Session:
        """Make a session, with its first events in the same transaction.

        preferences: a subject, whose preferences the session reads: its first event records them and their head.

        id: 1 to 256 printable characters; a UUIDv7 by default. parent: the event that this session is made for, as a
        sub-agent's is: linked, not forked. Raises SessionExistsError where the id is taken.
        """
        draw = self.settings.draw
        read = () if preferences is None else (self.preferences(preferences).reading(),)
        prepared = prepare_batch(
            [*read, *events],
            draw=draw,
            read_cause=self._pack_cause,
            body_bytes_max=self.settings.body_bytes_max,
            redactor=self.settings.redactor,
        )
        request = new_session(
            self.settings,
            id=id,
            title=title,
            labels=labels,
            metadata=metadata,
            family=Family(draw(16).hex(), draw(32)),
            base=None,
            forked_from=None,
            batch=Batch(prepared),
            parent=None if parent is None else _pack_parent(parent),
        )
        self.storage.write(request)
        return self.session(request.name)

    def session(self, id: str) -> Session:
        """Open a session by its id; NotFoundError."""
        return open_session(self.storage, self.settings, self._keepers, id)

    def wake(self, id: str, *, holder: str, ttl: float = 30.0, timeout: float = 0.0) -> Woken:
        """Open a session to work on it: with its lease, and with what was in flight when whoever worked on it last stopped.

        holder: who works, for people. ttl: seconds after which others may take over if this process dies. timeout: seconds to
        wait for the lease of another. Costs what its tail costs. Raises FencedError (holder, until), NotFoundError.
        """
        return self.wake_unless(lambda: False, id, holder=holder, ttl=ttl, timeout=timeout)

    def wake_unless(self, stop: Callable[[], bool], id: str, *, holder: str, ttl: float, timeout: float) -> Woken:
        """As `wake`; where `stop` says so, it waits no longer, and gives back what it has taken."""
        from everlog.woken import wake_session

        return wake_session(
            self.storage, self.settings, self._keepers, id, holder=holder, ttl=ttl, timeout=timeout, stop=stop
        )

    def claim(
        self,
        session: Session | str,
        *,
        holder: str,
        ttl: float = 30.0,
    ) -> Claim | None:
        """Take the oldest `user.message` that nobody has answered and nobody works on, for this worker alone; None for none.

        For several workers on one session, which none of them holds: where another holds its lease it is FencedError. The work on
        a message is a session of its own, `claims/…`, made for it (`parent`), whose lease is the claim: where a worker dies its
        lease lapses, and the next claim of the message wakes that session with all that was done. `Claim.answer` records the
        answer in the session, once. A message left without an answer is given again. Answered is a message that caused an
        `agent.message`, or that stands before one without such a cause: that one answers all before it.
        """
        from everlog.claims import claim_message

        opened = self.session(session) if isinstance(session, str) else session
        return claim_message(self, opened, holder=holder, ttl=ttl)

    def leases(self, *, limit: int = 50) -> list[LeaseInfo]:
        """List the leases that live, the last taken first. limit: 1 .. SESSIONS_PAGE_MAX."""
        if not 1 <= limit <= limits.SESSIONS_PAGE_MAX:
            raise LimitError(f"limit {limit!r:.50} is not in 1 .. {limits.SESSIONS_PAGE_MAX}; ask for fewer")
        return living_leases(self.storage, limit)

    def get_or_create(self, id: str, **made_with: Any) -> Session:
        """Open a session, or make it with the given title, labels, metadata, parent and events, whoever comes first."""
        try:
            return self.session(id)
        except NotFoundError:
            pass
        try:
            return self.create(id, **made_with)
        except SessionExistsError:
            return self.session(id)

    def sessions(
        self,
        query: str | Query | None = None,
        *,
        prefix: str = "",
        parent: Event | Session | str | None = None,
        order: str = "-updated",
        limit: int = 50,
        after: SessionInfo | None = None,
    ) -> list[SessionInfo]:
        """List living sessions.

        query: label.NAME:VALUE, session:GLOB, since: and until: (of the last event), words in id and title.
        prefix: of the id. parent: only sessions made for this event, or for any event of this session.
        order: one of updated -updated created -created id -id. limit: 1 .. SESSIONS_PAGE_MAX.
        after: the last session of the page before, to go on.
        """
        if order not in ORDERS:
            raise InvalidQueryError(f"order {order!r:.50} is none of {' '.join(ORDERS)}; choose one")
        if not 1 <= limit <= limits.SESSIONS_PAGE_MAX:
            raise LimitError(f"limit {limit!r:.50} is not in 1 .. {limits.SESSIONS_PAGE_MAX}; page on with after=")
        if prefix:
            check_session_id(prefix)
        asked = read_query(query, now=self.storage.now())
        last = None
        if after is not None:
            row = self.storage.session_by_id(after.uuid)
            last = (row, self.storage.current_branch(row.id))
        now = self.storage.ticks()
        chosen = SessionFilter(check_session_query(asked), prefix, self._parent_prefix(parent), order, limit, last)
        return [
            session_info(each.session, each.branch, lease_info(self.storage, each.session, each.lease, now))
            for each in self.storage.sessions(chosen)
        ]

    def opened(self, prefix: str) -> Iterator[tuple[SessionInfo, Session]]:
        """Open all living sessions whose ids begin so, by their ids, each as it was listed: none is looked up again to be read.

        What is deleted meanwhile spoils nothing: a handle of it raises NotFoundError.
        """
        last = None
        while True:
            chosen = SessionFilter(Query(()), prefix, None, "id", limits.SESSIONS_PAGE_MAX, last)
            page, now = self.storage.sessions(chosen), self.storage.ticks()
            for each in page:
                handle = Session(self.storage, self.settings, self._keepers, each.session, each.branch)
                if each.branch.base is None:
                    handle.view_seen(each.branch)  # of one that shares nothing it is known what it consists of
                yield (
                    session_info(each.session, each.branch, lease_info(self.storage, each.session, each.lease, now)),
                    handle,
                )
            if len(page) < limits.SESSIONS_PAGE_MAX:
                return
            last = page[-1].session, page[-1].branch

    def read_short(self, sessions: Sequence[Session]) -> list[list[Event] | None]:
        """Read all events of several sessions together, each as its handle saw it; at most PAGE_EVENTS_MAX events in all.

        None for one that is to be read by itself: it is empty, large or beyond so many events, shares some with another, or was deleted
        meanwhile.
        """
        found: list[list[Event] | None] = [None] * len(sessions)
        asked: dict[int, tuple[Lineage, int]] = {}
        left = limits.PAGE_EVENTS_MAX
        for place, session in enumerate(sessions):
            lineage, size = session.line_seen()
            if lineage is not None and len(lineage.segments) == 1 and 0 < size <= left:
                asked[place] = (lineage, size)
                left -= size
        read = self.storage.read_short(list(asked.values()))
        for place, events in zip(asked, read, strict=True):
            if events is not None and all(event.gone != DELETED for event in events):
                found[place] = events
        return found

    def _parent_prefix(self, parent: Event | Session | str | None) -> bytes | None:
        if parent is None:
            return None
        if isinstance(parent, Event):
            return Cause(parent.writer, parent.position, b"").pack()
        session = self.session(parent) if isinstance(parent, str) else parent
        return bytes.fromhex(session.branch().writer)

    def preferences(self, subject: str) -> Preferences:
        """Open the preferences of a subject ("user:u7"): a session of its own, made when it is first asked for."""
        from everlog.preferences import LABEL, Preferences, preferences_session

        name = preferences_session(subject)
        return Preferences(
            self.get_or_create(name, title=f"Preferences of {subject}", labels={LABEL: subject}), subject
        )

    def snapshots(self, session: Session | str | None = None) -> list[SnapshotInfo]:
        """List the snapshots of one session's branches, or of all: what states they answer for, and what they take."""
        from everlog.snapshots import list_snapshots

        return list(list_snapshots(self.storage, self._uuid(session)))

    def drop_snapshots(self, session: Session | str | None = None, *, reducer: str | None = None) -> int:
        """Drop the snapshots of a session or of all, of one reducer or of all; give how many. No answer changes."""
        from everlog.snapshots import drop_snapshots

        return drop_snapshots(self.storage, self._uuid(session), reducer)

    def rebuild_snapshots(self, session: Session | str, *, reducers: Sequence[str | Reducer] = ("document",)) -> int:
        """Take the snapshots of a session anew, of every branch; give how many there are then."""
        from everlog.snapshots import rebuild_snapshots

        uuid = self._uuid(session)
        assert uuid is not None, "a session was given"
        return rebuild_snapshots(self.storage, uuid, reducers, self.settings.snapshots)

    def _uuid(self, session: Session | str | None) -> str | None:
        if session is None:
            return None
        if isinstance(session, Session):
            return session.uuid
        check_session_id(session)
        return self.storage.session(session).id

    def delete(self, id: str, *, reason: str, cascade: bool = False, actor: str | None = None) -> None:
        """End a session: its name is free at once, what only it holds is destroyed, its leaves stay. Recorded.

        Refused with SessionExistsError, which names them, while other sessions forked from it live;
        cascade: delete those too. actor: who has it done, an opaque id. Raises HeldError where a retention policy holds it or one of those, BusyError where it is
        deleted but a reader keeps old bytes in the file's log.
        """
        check_session_id(id)
        reason = clean_reason(self.settings.redactor, reason)
        delete_session(self.storage, self.storage.session(id), reason, cascade=cascade, actor=actor)

    def erase(
        self,
        query: str,
        *,
        reason: str,
        types: str | Sequence[str] = "*",
        actor: str | None = None,
        keys: Keys | str | os.PathLike[str] | None = None,
        dry_run: bool = False,
        certified: Callable[[Certificate], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Work:
        """Erase the events that were recorded in the sessions that a query matches, on every line of them; give what was done.

        query: as `sessions` takes it: "label.user:u7". types: globs of the events to erase; all by default, so that a session does not
        wake as it was. What is held stays, and is counted in `spared`. certified: is given the certificate of each transaction, of at
        most 5,000 events of one line. progress: called with the number of events so far. dry_run: only tell what would be erased.
        May be interrupted and run again: what is erased is not erased again. reason, actor: recorded. keys: see `Session.erase`; each
        transaction has a seal. Cannot be undone.
        """
        from everlog.core.retention import check_order
        from everlog.retaining import erase_matching, plan_matching

        order = check_order(query, (types,) if isinstance(types, str) else tuple(types), now=self.storage.now())
        if dry_run:
            return plan_matching(self.storage, order, progress=progress)
        reason = clean_reason(self.settings.redactor, reason)
        sealer = None if keys is None else self.sealer(keys=keys)
        return erase_matching(
            self.storage, order, reason=reason, actor=actor, certified=certified, progress=progress, sealer=sealer
        )

    # --- all sessions ---
    def find(self, key: str, *, limit: int = 100) -> list[Event]:
        """Give the events of any session with this idempotency key, newest first. By index."""
        check_key(key)
        return self.storage.find_key(key, limit)

    def search(
        self,
        query: str | Query,
        *,
        limit: int = 20,
        after: str | None = None,
        order: Order = "rank",
        progress: CatchingUp | None = None,
    ) -> SearchPage:
        """Find the events of all sessions that meet a query, a page at a time.

        query: the query language; session:GLOB and label.NAME:VALUE narrow the sessions. limit: 1 .. PAGE_EVENTS_MAX.
        order: "rank" puts the newest SEARCH_RANKED_MAX that meet the query in order of how well they fit its words, then the next as
        many; "newest" does not. after: what `following` of the page before was. A page may hold fewer hits than asked for, and say
        where to go on. Each event is found once, where it was recorded: also on lines that a rewind left.
        progress: told how many of how many events the index holds, while it catches up with what was recorded since it was last asked.
        """
        asked = read_query(query, now=self.storage.now())
        return search_store(self.storage, asked, limit=limit, after=after, order=order, progress=progress)

    def feed(self, cursor: str | None = None) -> Feed:
        """Read the events of all sessions in the order in which they were recorded, after a cursor; then end.

        cursor: what `Feed.cursor` or `Store.cursor()` gave; None for the start. Events of deleted sessions are left out.
        Raises StaleCursorError where the store was restored to before the cursor.
        """
        return Feed(self.storage, cursor)

    def follow(
        self, cursor: str | None = None, *, idle: float | None = None, stop: Callable[[], bool] | None = None
    ) -> Feed:
        """As `feed`, then wait for more.

        idle: end after so many seconds without an event. stop: asked at least every half second; True ends it.
        """
        return Feed(self.storage, cursor, waits=True, idle=idle, stop=stop)

    def cursor(self) -> str:
        """Give the cursor after the last event recorded so far."""
        return format_cursor(self.storage.feed_end())

    # --- moving ---
    def export(
        self,
        query: str | Query,
        folder: str | os.PathLike[str],
        *,
        withhold: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Exported]:
        """Write every living session that meets a query (label.user:u7), each as a bundle of its own, into a folder.

        withhold: see `Session.export`. progress: is told how many are written.
        """
        from everlog.bundle import export_sessions

        chosen = check_session_query(read_query(query, now=self.storage.now()))
        return export_sessions(self.storage, chosen, folder, withhold=withhold, progress=progress)

    def import_bundle(
        self, path: str | os.PathLike[str], *, force: bool = False, progress: Callable[[int], None] | None = None
    ) -> Transferred:
        """Take a bundle in, every hash unchanged; what is here already is not taken again.

        The bundle is checked whole before anything is taken: TamperedError names the first difference. A history that
        went on otherwise here becomes a new branch, never a loss. force: take events that lie in the future too.
        """
        from everlog.bundle import import_bundle

        return import_bundle(self.storage, self.settings.draw, path, force=force, progress=progress)

    def copy(
        self,
        target: Store,
        *,
        sessions: Sequence[str] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Transferred]:
        """Copy sessions (all by default) to another store, every hash unchanged. Again copies only what is new."""
        from everlog.transfer import copy_sessions

        return copy_sessions(self.storage, target.storage, target.settings.draw, sessions, progress=progress)

    # --- storage ---
    def compact(
        self,
        *,
        older_than: float | str = "1d",
        dry_run: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Compacted:
        """Pack bodies that are older than a time into compressed blocks, and give the free space back. No answer changes.

        older_than: seconds, "12h", "90d"; 0 for all. The end of a session that was at work since then stays as it is. Long strings and
        attachments that repeat are kept once. progress: called with the number of events packed. dry_run: measure only.
        May be interrupted, run again, and run beside everything else. A store in memory never packs.
        """
        from everlog.compacting import compact_store

        return compact_store(self.storage, older_than=older_than, dry_run=dry_run, progress=progress)

    def archive(
        self,
        to: str | os.PathLike[str],
        *,
        older_than: float | str = "90d",
        session: Session | str | None = None,
        dry_run: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Archived:
        """Move packed blocks that are older than a time to object storage; what reads them fetches them from there.

        to: s3://bucket/prefix, gs://…, az://…, or a folder; credentials come from the environment. session: that one's only; what
        repeats in several stays then. progress: called with the number of blocks moved. Pack first: rows never move.
        A block leaves the store when its object was read back. Raises UnavailableError, CorruptionError, UnsupportedStoreError.
        """
        from everlog.archiving import archive_store

        return archive_store(
            self.storage,
            self.settings.draw,
            os.fspath(to),
            older_than=older_than,
            session=self._session_key(session),
            dry_run=dry_run,
            progress=progress,
        )

    def restore(
        self, *, session: Session | str | None = None, progress: Callable[[int], None] | None = None
    ) -> Archived:
        """Bring archived blocks home, all or those that a session needs, and remove their objects. Other blocks of an object come with them.

        Goes on past an object that fails, and raises then. Raises UnavailableError, CorruptionError.
        """
        from everlog.archiving import restore_store

        return restore_store(self.storage, session=self._session_key(session), progress=progress)

    @property
    def retention(self) -> Retention:
        """The retention policies: which events are archived, erased, kept or held, by label and age; shown, done, recorded."""
        from everlog.retention import Retention

        return Retention(self)

    @property
    def encryption(self) -> Encryption:
        """The encryption of bodies: its keys, wrapping data keys with another, sealing what was written before."""
        from everlog.encryption import Encryption

        return Encryption(self.storage, self.settings)

    def stats(self) -> Stats:
        """Measure the store: what it holds, how it grows, what compacting would give. Reads it whole: seconds for a gigabyte."""
        from everlog.stats import measure_store

        return measure_store(self.storage)

    def _session_key(self, session: Session | str | None) -> int | None:
        uuid = self._uuid(session)
        return None if uuid is None else self.storage.session_by_id(uuid).key

    # --- underneath ---
    def _pack_cause(self, event_id: str) -> bytes:
        place = parse_event_id(event_id)
        branch = None if place is None else self.storage.branch_by_id(place.writer)
        if place is None or branch is None or not branch.base_size <= place.position < branch.size:
            raise NotFoundError(f"caused_by names {event_id!r:.100}, which is not in this store; nothing was written")
        leaf, _ = self.storage.leaf_at(self.storage.lineage(branch.key, ""), place.position)
        return Cause(place.writer, place.position, leaf).pack()


def _pack_parent(parent: object) -> bytes:
    if not isinstance(parent, Event):
        raise InvalidEventError(
            f"parent is a {type(parent).__name__} where it takes an Event; nothing was made; give the event"
        )
    return Cause(parent.writer, parent.position, parent.leaf).pack()
