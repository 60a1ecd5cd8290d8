"""Strands' `Storage`, kept in Everlog: what `SnapshotSessionManager` and others save under keys.

1. A key has a session of its own, `strands-storage/KEY`; an agent's kept snapshots are in that of its latest. A snapshot's messages are
   events, so that it reads as a conversation.
2. A value is read as it was written, to the byte. A save adds what is new: each message once, and what changed of the rest.
3. A save writes over the value, as Strands has it, and the log keeps what was. Deleting a session's last value destroys it all.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from itertools import chain, takewhile
from threading import Lock
from typing import Any, Final, NamedTuple, TypeVar

from msgspec.structs import replace

from everlog.integrations.versions import require

require("strands-agents", "strands", oldest="1.50", below="2")

from strands.storage import Storage
from strands.types.exceptions import StorageError

from everlog.core.event import Event
from everlog.errors import (
    BusyError,
    ConflictError,
    CorruptionError,
    EverlogError,
    KeyReusedError,
    NotFoundError,
    SessionExistsError,
)
from everlog.integrations.forked import begin_in_each_process
from everlog.integrations.holding import Holding, LeaseLike
from everlog.integrations.items import ATTACHMENT
from everlog.integrations.memory import forget_oldest
from everlog.integrations.places import FRAMEWORK_LABEL, HASHED, Place, id_part, store_at
from everlog.integrations.strands_messages import dumped, groups, key_of, text_of
from everlog.integrations.strands_snapshots import (
    DELETED,
    SAVES,
    VALUE,
    Known,
    deletion,
    fresh_of,
    hash_of,
    is_save,
    joined,
    runs_in,
    saved,
    saved_again,
    spans_of,
)
from everlog.integrations.threads import finished, read_in_thread
from everlog.integrations.turns import Turn, Turns
from everlog.reader import PlaceLike
from everlog.session import Session
from everlog.state import StateReader, Still

_ROOT: Final = "strands-storage/"
_LABELS: Final = {FRAMEWORK_LABEL: "strands"}
_MEMBER: Final = "strands"  # of a session's metadata
_LATEST: Final = "snapshot_latest.json"
_KEPT: Final = re.compile(r"(.*/snapshots/)immutable_history/snapshot_([\w-]{1,128})\.json", re.ASCII | re.DOTALL)
_AGENT: Final = re.compile(r"/scopes/agent/([^/]+)/snapshots/")
_KEY_CHARACTERS_MAX: Final = 200  # of a key that stands in its session's id
_TRIES: Final = 100  # of an append that others overtake
_SEEN_MAX: Final = 100  # sessions of which is remembered what they hold
_SEEN_BYTES_MAX: Final = 64 * 1024 * 1024  # that this takes; of one session, any
_APPENDED_MAX: Final = 5_000  # events of one append: a longer first snapshot takes several, the save in the last
T = TypeVar("T")


class _Home(NamedTuple):
    """Where a key's value is. key: Strands' key that the session is of; kept: the id of a kept snapshot in it; actor: the agent's id."""

    key: str
    kept: str | None
    actor: str

    @property
    def name(self) -> str:
        """The session's id."""
        return _ROOT + id_part(self.key, _KEY_CHARACTERS_MAX, slashes=True)


class _Seen(NamedTuple):
    """What a session held at the head that its handle saw. branch: its line's; erasures: of that, so far."""

    session: Session
    known: Known
    branch: int
    erasures: int

    @property
    def held(self) -> int:
        """How many bytes all this takes, about."""
        return self.known.held

    @property
    def stands(self) -> bool:
        """Whether nothing was erased since, which changes the document and leaves the head."""
        return self.session.storage.erasures(self.branch) == self.erasures


class EverlogStorage(Storage):
    """A `Storage` that keeps what Strands saves in Everlog: `SnapshotSessionManager("s1", storage=EverlogStorage("agent.db"))`.

    store: a path or URL, which is opened here and closed by `close`, or an open store, which stays open. Keys may be any text but "".
    lease: under which it is written: a lease that is held, or who takes that of each session until `close`: a name, or a Holder.
    May be used from any thread and event loop. What Everlog refuses is raised as StorageError, with the reason as its cause.
    """

    def __init__(self, store: Place | None = None, *, lease: LeaseLike | None = None) -> None:
        self._holding = Holding(lease)
        self.store, self._owned = store_at(store)
        self._turns = Turns()
        begin_in_each_process(self._begin)

    def _begin(self) -> None:
        """Remember nothing."""
        self._lock = Lock()
        self._seen: dict[str, _Seen] = {}

    def __repr__(self) -> str:
        return f"<EverlogStorage {self.store.url}>"

    def close(self) -> None:
        """Give back the leases that were taken here; close the store, where it was opened here."""
        try:
            self._holding.release()
        finally:
            if self._owned:
                self.store.close()

    # --- Strands' protocol ---
    async def write(self, key: str, data: bytes) -> None:
        """Save a value under a key, over the one that is there. StorageError where it cannot be; then the other stays."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise StorageError(f"the value of {key!r:.100} is {type(data).__name__}, and no bytes; nothing was written")
        home = _home(key)
        await _asked(finished(self._turns.submit(home.name, self._write, home, bytes(data))))

    async def read(self, key: str, *, at: PlaceLike = "end") -> bytes | None:
        """Give the value of a key; None where there is none. at: a place in its session, for the value as it was saved last before it.

        Raises StorageError where there is no such place.
        """
        return await _asked(read_in_thread(self._read, key, at))

    async def delete(self, key: str) -> None:
        """Delete the value of a key, where there is one. The bodies are destroyed once its session has no other."""
        home = _home(key)
        await _asked(finished(self._turns.submit(home.name, self._delete, home)))

    async def list(self, query: str = "") -> list[str]:
        """Give the keys that begin so, in their order."""
        return await _asked(read_in_thread(self._list, query))

    # --- what Everlog adds ---
    def session(self, key: str) -> Session:
        """Open the Everlog session that a key's value is in, to read, search, rewind or prove; NotFoundError."""
        return self.store.session(_home(key).name)

    def fork(self, key: str, new_key: str, *, at: PlaceLike = "end") -> Session:
        """Give a new key the value of another, as it is or as it was saved last before a place in its session, and all that led to it.

        Nothing is copied. Raises NotFoundError where there is no such value, SessionExistsError where the new key has a session.
        """
        home, new = _home(key), _home(new_key)
        source = self.store.session(home.name)
        save = _save(source, home, at)
        if save is None or new.kept is not None:
            raise NotFoundError(
                f"{key!r:.100} has no value there, or {new_key!r:.100} is no key of its own; nothing was written"
            )
        again = [] if home.kept is None else [saved_again(save)]
        return source.fork(save.position + 1, id=new.name, labels=_LABELS, metadata=_metadata(new), events=again)

    # --- within ---
    def _write(self, turn: Turn, home: _Home, data: bytes) -> None:
        with turn:
            for _ in range(_TRIES):
                with suppress(ConflictError, KeyReusedError, NotFoundError):  # another was faster, or deleted it
                    if self._saved(home, data):
                        return
        raise BusyError(
            f"{home.key!r:.100} was saved by others {_TRIES} times in a row; nothing was written; try again"
        )

    def _saved(self, home: _Home, data: bytes) -> bool:
        """Save a value behind what is known; tell whether it was: what another recorded alike may have more of theirs behind it."""
        seen = self._forgotten(home.name)
        if seen is None or not seen.stands:
            seen = self._looked_at(self._made(home))
        session, known = seen.session, seen.known
        events, after = saved(known, data, actor=home.actor, body_bytes_max=self.store.settings.body_bytes_max)
        if home.kept is not None:
            events[-1] = replace(events[-1], key=_key_of(home.kept, session.head.size))
        self._holding.hold(session)
        for start in range(0, len(events), _APPENDED_MAX):
            if session.extend(events[start : start + _APPENDED_MAX], expected=session.head)[0].repeated:
                return False
        self._keep(home.name, seen._replace(known=after))
        return True

    def _read(self, key: str, at: PlaceLike) -> bytes | None:
        home = _home(key)
        try:
            session = self.store.session(home.name)
            line = self._line(session)
            save = _save(line, home, at)
        except NotFoundError:
            if at != "end":
                raise
            return None
        if save is None:
            return None
        if save.type == VALUE:
            return save.attachment(ATTACHMENT)
        branch, erasures = _erasures(line)
        known, texts = _known(line, save.position + 1)
        if len(texts) != sum(count for _, count in runs_in(known.document)):
            raise CorruptionError(
                f"session {session.id!r} lacks a message that its save at {save.position} names; nothing was changed; see `everlog verify`"
            )
        if save.position + 1 == session.head.size:  # what is saved next need not read it again
            self._keep(home.name, _Seen(session, dataclasses.replace(known, fresh=fresh_of(save)), branch, erasures))
        return joined(known.document, texts)

    def _delete(self, turn: Turn, home: _Home) -> None:
        with turn, suppress(NotFoundError):
            session = self.store.session(home.name)
            if _save(session, home) is None:
                return
            self._forgotten(home.name)
            if _alone(session, home):
                with suppress(SessionExistsError):  # a fork shares it: it is only hidden
                    self.store.delete(home.name, reason="deleted through Strands")
                    return
            self._holding.hold(session)
            gone = deletion(_fresh(session))
            if home.kept is not None:
                gone = replace(gone, key=_key_of(home.kept, f"{session.refresh().size}:deleted"))
            session.extend([gone])

    def _list(self, prefix: str) -> list[str]:
        # What comes behind may be of a kept snapshot, which is in another key's session.
        begins = prefix.partition("/snapshots/")[0]
        if id_part(f"{begins}.", _KEY_CHARACTERS_MAX, slashes=True) == f"{begins}.":
            found = chain(self.store.opened(_ROOT + begins), self.store.opened(_ROOT + HASHED) if begins else ())
        else:
            found = self.store.opened(_ROOT)
        keys: set[str] = set()  # a prefix such as "sha" finds sessions that are named by a hash twice
        for info, session in found:
            key = info.metadata.get(_MEMBER, {}).get("key", "")
            keys.update(key if kept is None else _kept_key(key, kept) for kept in _held(session))
        return sorted(each for each in keys if each.startswith(prefix))

    def _made(self, home: _Home) -> Session:
        return self.store.get_or_create(home.name, labels=_LABELS, metadata=_metadata(home))

    def _looked_at(self, session: Session) -> _Seen:
        session.refresh()
        line = self._line(session)
        branch, erasures = _erasures(line)  # before the document is read, so that it is never older than what is known
        known, _ = _known(line, line.view().size)
        fresh = _fresh(line)
        while line.find(key_of(fresh)) is not None:  # recorded by a save that was interrupted
            fresh += 1
        return _Seen(session, dataclasses.replace(known, fresh=fresh), branch, erasures)

    def _line(self, session: Session) -> Still:
        """Give a session's line as it is now, to read several things of it: it may be rewound meanwhile."""
        return Still(session.storage, self.store.settings.snapshots, session.view())

    def _forgotten(self, name: str) -> _Seen | None:
        """Take what is remembered of a session: a handle is used by one at a time."""
        with self._lock:
            return self._seen.pop(name, None)

    def _keep(self, name: str, seen: _Seen) -> None:
        with self._lock:
            self._seen[name] = seen
            forget_oldest(self._seen, _SEEN_MAX, _SEEN_BYTES_MAX)


def _erasures(line: StateReader) -> tuple[int, int]:
    """Give the branch of a line as it is read, and what tells whether anything was erased of it since."""
    branch = line.view().branch.key
    return branch, line.storage.erasures(branch)


async def _asked(running: Awaitable[T]) -> T:
    """Wait for what a thread does; raise what Everlog refuses as Strands' error."""
    try:
        return await running
    except EverlogError as error:
        raise StorageError(str(error)) from error


def _home(key: str) -> _Home:
    """Give where a key's value is. StorageError for "" and what is no text."""
    if not isinstance(key, str) or not key:
        raise StorageError(f"key {key!r:.100} is no key; nothing was done; give text that is not empty")
    kept, agent = _KEPT.fullmatch(key), _AGENT.search(key)
    actor = agent[1] if agent else ""
    return _Home(key, None, actor) if kept is None else _Home(kept[1] + _LATEST, kept[2], actor)


def _kept_key(latest: str, kept: str) -> str:
    """Give Strands' key of a kept snapshot."""
    return f"{latest.removesuffix(_LATEST)}immutable_history/snapshot_{kept}.json"


def _metadata(home: _Home) -> dict[str, Any]:
    return {_MEMBER: {"key": home.key}}


def _key_of(kept: str, size: int | str) -> str:
    """Give the key of a save of a kept snapshot, or of its deletion. size: of the session before, as a key is given once."""
    return f"kept:{kept}@{size}"


def _kept_of(event: Event) -> str:
    """Give the id of the kept snapshot that a save, or a deletion, is of."""
    return (event.key or "")[len("kept:") :].rpartition("@")[0]


def _saves(line: StateReader, at: PlaceLike) -> Iterator[Event]:
    """Give the saves before a place, of the session's own key and of kept snapshots, the newest first."""
    return (event for event in line.events(types=SAVES, stop=at, reverse=True) if is_save(event))


def _fresh(line: StateReader) -> int:
    """Give the number of the next message, as the newest save says it."""
    newest = next(_saves(line, "end"), None)
    return 0 if newest is None else fresh_of(newest)


def _save(line: StateReader, home: _Home, at: PlaceLike = "end") -> Event | None:
    """Give the save whose value a key has at a place; None where it has none. Of one that was erased: of the own key the one before it, else None."""
    if home.kept is None:
        found = next((event for event in _saves(line, at) if event.key is None), None)
    else:
        found = line.last(keys=_key_of(home.kept, "*"), stop=at)
    return None if found is None or found.erased or found.type == DELETED else found


def _held(session: Session) -> Iterator[str | None]:
    """Give what of a session's home has a value: None for its own key, and the ids of kept snapshots."""
    own = next((event for event in _saves(session, "end") if event.key is None), None)
    if own is not None and own.type != DELETED:
        yield None
    kept: dict[str, bool] = {}
    for event in session.events(keys="kept:*"):
        kept[_kept_of(event)] = event.type != DELETED and not event.erased
    yield from (each for each, there in kept.items() if there)


def _alone(session: Session, home: _Home) -> bool:
    """Tell whether nothing else of a session's home has a value."""
    newest = session.last(SAVES[:-1], keys="kept:*")  # has one to the last where all are deleted in their order
    if newest is not None and (other := home._replace(kept=_kept_of(newest))) != home and _save(session, other):
        return False
    return all(each == home.kept for each in _held(session))


def _known(line: StateReader, cut: int) -> tuple[Known, list[bytes]]:
    """Give what a session holds at a cut, and the texts of the messages, up to one that is not there. Costs what these are."""
    document = line.state("document", at=cut).value
    runs = runs_in(document)
    found = {number: text_of(group) for span in spans_of(runs) for number, group in _messages(line, span, cut)}
    named = chain.from_iterable(range(first, first + count) for first, count in runs)
    numbers = list(takewhile(found.__contains__, named))
    texts = [found[number] for number in numbers]
    return Known(document, [hash_of(text) for text in texts], numbers, size=len(dumped(document))), texts


def _messages(line: StateReader, span: range, cut: int) -> Iterator[tuple[int, list[Event]]]:
    """Give the events of each message of a span of numbers; of those that are not there, nothing."""
    first, after = line.find(key_of(span.start)), line.find(key_of(span.stop))
    stop = cut if after is None else min(after.position, cut)
    return groups(line.events(start=stop if first is None else first.position, stop=stop))
