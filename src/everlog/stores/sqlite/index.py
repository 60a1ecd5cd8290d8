"""The index for searching, in a file of its own beside the store's: a projection, which appends never pay for.

1. It catches up with the feed when it is asked, in batches, each a transaction of its own; whoever is killed leaves whole ones.
2. It is made anew where it is damaged, of another store or version, or the store is not the one that it has seen: another leaf stands
   at the number that it came to, or erasures were carried out that it has not heard of.
3. What is erased or deleted leaves it, overwritten, before whoever asked for it is answered. An index of which that cannot be done
   event by event is emptied, and filled anew by who searches next. So it holds no word of what was destroyed.
4. Whoever destroys takes words out after that is committed, and then counts it here. What is read of the feed is written only while
   that count stands, so it is either too late, or taken out with the rest.
5. Order of locks: the store's turn, then this file's. Whoever holds this file's waits for nothing of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from importlib.resources import files as package_files
from pathlib import Path
from threading import Lock
from typing import Any, Final

import apsw
import msgspec

from everlog.core import limits
from everlog.core.trigrams import indexed_text
from everlog.errors import BusyError, CorruptionError, StaleCursorError, UnsupportedStoreError
from everlog.storage import CatchingUp, FeedPage, FeedPlace, Wanted
from everlog.stores.sqlite import files
from everlog.stores.sqlite.choosing import QUERIES, choose
from everlog.stores.sqlite.connections import Connections, translated
from everlog.stores.sqlite.run import fetch_one, fetch_row

APPLICATION_ID: Final = 0x4576_6C73  # "Evls"
VERSION: Final = 1  # of the schema, and of the text that is made of an event: another is made anew
_GATHERED_BYTES: Final = (
    16 * 1024 * 1024
)  # of words that are gathered before they are written: larger pieces, fewer merges
_TRIES: Final = 5  # to find what another process empties, or the disk damages, meanwhile
_NONE, _KEPT, _UNREAD = 0, 1, 2  # what the index knows of an event's words


class State(msgspec.Struct, frozen=True):
    """How far an index came: feed number and leaf of the last event in it, and of the store's erasures how many it carried out."""

    number: int
    leaf: bytes | None
    erasures: int

    @property
    def place(self) -> tuple[FeedPlace, ...]:
        return () if self.leaf is None else (FeedPlace(0, self.number, self.leaf),)


EMPTY: Final = State(0, None, 0)


class Removed(msgspec.Struct, frozen=True):
    """What is to leave the index of an event: its words as they were stored, None where they are not at hand."""

    feed: int
    text: str | None


class SearchIndex:
    """The index of one store in one process, opened when it is first asked for. A store that is open to read makes none."""

    def __init__(self, main: Connections, store_id: str, disk: files.Disk) -> None:
        self.path = Path(f"{main.path}-search")
        self._main = main
        self._store = bytes.fromhex(store_id)
        self._disk = disk
        self._side: Connections | None = None
        self._opening = Lock()
        self._catching_up = Lock()  # one thread reads the feed, the others wait for what it has read

    # --- catching up ---
    def up_to_date(
        self,
        feed: Callable[[Sequence[FeedPlace], int], FeedPage],
        branch_of: Callable[[str], int],
        progress: CatchingUp | None,
        below: int,
        find: Callable[[int], list[int] | None],
    ) -> tuple[int, list[int] | None]:
        """Take in what was recorded since, then find candidates below a number; give the number of the last event in the index too.

        feed: as Storage.feed. branch_of: the key of a branch by its id. find: `find`, but for how far the index is. Nothing is found, and
        None given, where the index does not reach up to `below`: the store is open to read, or another thread fills it for long.
        """
        for _ in range(_TRIES):
            indexed = self._catch_up(feed, branch_of, progress)
            if below - 1 > indexed:
                return indexed, None
            try:
                found = find(indexed)
            except CorruptionError:
                self._repair()
                continue
            if found is not None:
                return indexed, found
        raise CorruptionError(
            f"{self.path} is found damaged again and again; the store is sound; see to the disk, and remove that file"
        )

    def _catch_up(
        self,
        feed: Callable[[Sequence[FeedPlace], int], FeedPage],
        branch_of: Callable[[str], int],
        progress: CatchingUp | None,
    ) -> int:
        if self._main.read_only or not self._catching_up.acquire(timeout=limits.LOCK_SECONDS_MAX):
            return self._number_to_read()  # what it lacks is looked at in the events
        try:
            return self._take_in(feed, branch_of, progress)
        finally:
            self._catching_up.release()

    def _take_in(
        self,
        feed: Callable[[Sequence[FeedPlace], int], FeedPage],
        branch_of: Callable[[str], int],
        progress: CatchingUp | None,
    ) -> int:
        end, made_anew = 0, False
        while True:
            state = self._sound_state()
            try:
                page = feed(state.place, limits.PAGE_EVENTS_MAX)
            except StaleCursorError:
                self.empty()
                continue
            if not page.passed:
                return state.number
            end = end or self._end()
            if progress is not None:
                progress(state.number, end)
            try:
                self._add(state, page, branch_of)
            except CorruptionError:
                if made_anew:
                    raise
                self.empty()
                made_anew = True

    def _add(self, state: State, page: FeedPage, branch_of: Callable[[str], int]) -> None:
        """Write a page of the feed, unless another process has, or something was destroyed since it was read."""
        entries: list[tuple[Any, ...]] = []
        words: list[tuple[int, str]] = []
        branches = {branch: branch_of(branch) for branch in {event.branch for _, event in page.events}}
        for place, event in page.events:
            text = indexed_text(event.raw, event.gone)
            known = _UNREAD if text is None else _KEPT if text else _NONE
            entries.append(
                (place.number, branches[event.branch], event.position, event.type, event.actor, event.outcome,
                 event.recorded_micros, known)
            )  # fmt: skip
            if text:
                words.append((place.number, text))
        (last,) = page.passed
        with self._writing() as writer:
            if _read_state(writer) == state:  # else another has written it, or carried out an erasure since
                writer.executemany(QUERIES["insert_entry"], entries)
                writer.executemany(QUERIES["insert_words"], words)
                writer.execute(QUERIES["set_place"], {"number": last.number, "leaf": last.leaf})

    def _number_to_read(self) -> int:
        """Give the number of the last event in an index that is not written to; 0 where it is not one to go by."""
        state = self._readable_state()
        if state is None or state.leaf is None or state.erasures != self._erasures():
            return 0
        with self._main.reader() as connection:
            row = fetch_one(connection, "read_feed_leaf", {"feed": state.number})
        return state.number if row is not None and row[0] == state.leaf else 0

    def _sound_state(self) -> State:
        """Give the state of an index that is this store's, and has carried out all erasures; make it so."""
        state = self._readable_state()
        if state is None or state.erasures != self._erasures():
            self.settle()
            state = self._readable_state()
            if state is None:
                raise CorruptionError(
                    f"{self.path} cannot be used; the store is sound; remove the file and search again"
                )
        return state

    def _readable_state(self) -> State | None:
        side = self._opened(make=not self._main.read_only)
        if side is None:
            return None
        try:
            with side.reader() as connection:
                return self._known_state(connection)
        except (CorruptionError, UnsupportedStoreError):
            return None

    def _known_state(self, connection: apsw.Connection) -> State | None:
        """Give the state where the file is an index of this store and version."""
        if (connection.pragma("application_id"), connection.pragma("user_version")) != (APPLICATION_ID, VERSION):
            return None
        try:
            row = connection.execute(QUERIES["read_state"]).fetchone()
        except apsw.SQLError:  # it has no such table
            return None
        return None if row is None or row[0] != self._store else State(*row[1:])

    def _erasures(self) -> int:
        with self._main.reader() as connection:
            return fetch_row(connection, "read_erasures")[0]

    def _end(self) -> int:
        with self._main.reader() as connection:
            return fetch_row(connection, "read_feed_end")[0]

    # --- finding ---
    def find(
        self,
        wanted: Wanted,
        branches: Sequence[int] | None,
        inside: Callable[[int, int], bool],
        below: int,
        limit: int,
        indexed: int,
    ) -> list[int] | None:
        """Give the feed numbers of candidates, as `choose` does; None where the index was emptied since it came to `indexed`.

        Raises CorruptionError where it is damaged.
        """
        side = self._opened(make=False)
        if side is None:
            return None
        with side.reader() as connection:
            connection.execute("BEGIN")  # so that what it holds is what it was asked about
            try:
                state = self._known_state(connection)
                if state is None or state.number < indexed:
                    return None
                return choose(connection, wanted, branches, inside, below, limit)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    # --- destroying ---
    def there(self) -> bool:
        """Tell whether there is an index, made by whichever process."""
        return self.path.exists()

    def remove(self, events: Iterable[Removed], *, erasures: int, whole: bool) -> None:
        """Take events' words out, and the events themselves where `whole`. Call with the store's turn taken.

        erasures: how many of the store's this carries out, after they were committed. Raises what keeps old bytes in the file.
        """
        state = self._readable_state()
        if state is None:
            self.empty()
            return
        try:
            with self._writing() as writer:
                for event in events:
                    _remove(writer, event, whole=whole)
                writer.execute(QUERIES["add_erasures"], {"count": erasures})
        except (_UnknownWordsError, CorruptionError):
            self.empty()
        else:
            self._truncate_wal()

    def discard(self) -> None:
        """Remove the file: what it says is to be nowhere in plain text."""
        with self._opening:
            if self._side is not None:
                self._side.close()
                self._side = None
            for ending in ("", "-wal", "-shm", "-lock"):
                Path(f"{self.path}{ending}").unlink(missing_ok=True)

    def settle(self) -> None:
        """Empty an index that is not this store's, or has not carried out all of its erasures. Nobody is about to: it takes the turn."""
        with self._main.writing:
            turn = self._main.turn()
            turn.take(limits.LOCK_SECONDS_MAX)
            try:
                state = self._readable_state()
                if state is None or state.erasures != self._erasures():
                    self.empty()
            finally:
                turn.release()

    def _repair(self) -> None:
        """Make an index anew that was found damaged; where it cannot be written, it is left alone, and CorruptionError raised."""
        if self._main.read_only:
            raise CorruptionError(
                f"{self.path} is damaged; the store is sound; remove that file, or search once where it may be written"
            )
        self.empty()

    def empty(self) -> None:
        """Make the index anew, with nothing in it."""
        try:
            self._reset()
        except (CorruptionError, UnsupportedStoreError):  # no SQLite database at all, so nobody else can use it either
            with self._opening:
                for file in (self.path, Path(f"{self.path}-wal"), Path(f"{self.path}-shm")):
                    file.unlink(missing_ok=True)
            self._reset()
        self._truncate_wal()

    def _reset(self) -> None:
        side = self._opened(make=True)
        assert side is not None, "it was made"
        erasures = self._erasures()
        with side.writing, translated(self.path):
            turn = side.turn()
            turn.take(limits.LOCK_SECONDS_MAX)
            try:
                writer = side.writer()
                # SQLite's way to empty a file that other connections may have open, whatever is in it.
                writer.config(apsw.SQLITE_DBCONFIG_RESET_DATABASE, 1)
                try:
                    writer.execute("VACUUM")
                finally:
                    writer.config(apsw.SQLITE_DBCONFIG_RESET_DATABASE, 0)
                writer.execute("PRAGMA journal_mode = WAL")
                with self._transaction(side):
                    writer.execute(_schema())
                    writer.execute("INSERT INTO word (word, rank) VALUES ('hashsize', ?)", (_GATHERED_BYTES,))
                    writer.execute(QUERIES["make_state"], {"store": self._store, "erasures": erasures})
                    writer.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}")
            finally:
                turn.release()

    def _truncate_wal(self) -> None:
        side = self._opened(make=False)
        if side is None:
            return
        with side.writing, translated(self.path):
            busy, _, _ = side.writer().execute(QUERIES["truncate_wal"]).fetchone() or (0, 0, 0)
        if busy:
            raise BusyError(
                f"what was erased or deleted is gone from the store, but a reader keeps old words in {self.path}-wal; they go with the "
                "next erasure or deletion once that reader has ended"
            )

    # --- the file ---
    def _opened(self, *, make: bool) -> Connections | None:
        with self._opening:
            side = self._side
            if side is not None and side.is_there():
                return side
            if side is not None:  # somebody has removed the file, as they may
                side.close()
                self._side = None
            if not self.path.exists() and not make:
                return None
            self._main.check_usable()
            side = Connections(self.path, read_only=self._main.read_only, relaxed=True, disk=self._disk)
            side.open_beside()
            self._side = side
            return side

    @contextmanager
    def _writing(self) -> Generator[apsw.Connection]:
        """Lend the writer, in a transaction of its own, inside the turn of this file."""
        side = self._opened(make=False)
        if side is None:
            raise BusyError(f"{self.path} was removed meanwhile; nothing was changed; search again")
        with side.writing:
            turn = side.turn()
            turn.take(limits.LOCK_SECONDS_MAX)
            try:
                with translated(self.path), self._transaction(side) as writer:
                    yield writer
                side.keep_wal_short()
            finally:
                turn.release()

    @contextmanager
    def _transaction(self, side: Connections) -> Generator[apsw.Connection]:
        writer = side.writer()
        writer.execute("BEGIN IMMEDIATE")
        try:
            yield writer
            writer.execute("COMMIT")
        except BaseException:
            side.roll_back()
            raise

    def close(self) -> None:
        """Let go of the file."""
        if self._side is not None:
            self._side.close()


class _UnknownWordsError(Exception):
    """The index holds words of an event that are not at hand, so it cannot take them out by themselves."""


def _schema() -> str:
    return package_files("everlog.stores.sqlite").joinpath("search_schema.sql").read_text("utf-8")


def _remove(writer: apsw.Connection, event: Removed, *, whole: bool) -> None:
    row = writer.execute(QUERIES["read_entry"], {"feed": event.feed}).fetchone()
    if row is None:
        return
    if row[0] == _KEPT:
        if event.text is None:
            raise _UnknownWordsError
        writer.execute(QUERIES["delete_words"], {"feed": event.feed, "text": event.text})
    writer.execute(QUERIES["delete_entry" if whole else "empty_entry"], {"feed": event.feed})


def _read_state(connection: apsw.Connection) -> State | None:
    row = connection.execute(QUERIES["read_state"]).fetchone()
    return None if row is None else State(*row[1:])
