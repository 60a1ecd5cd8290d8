"""Sessions of the Claude Agent SDK, kept in Everlog: a `SessionStore` whose transcripts read as conversations.

1. A transcript is a session, `claude/PROJECT/SESSION`; that of a sub-agent is one of its own, `claude-sub/PROJECT/SESSION/SUBPATH`. Parts
   that cannot stand in an id, or are too long for one, are hashed; the session's metadata says what they were.
2. An entry is standard events, and what they leave out is kept beside them, so that `load` gives entries equal to those appended.
3. An entry's `uuid` is its key: appended again, alone or in a batch that overlaps, it is left out. Entries without one never are.
4. A session's summary is folded from the entries that are new, and stored in the transaction that appends them, at the head it was
   folded from: of two writers that race, one folds again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, cast
from uuid import uuid4

from everlog.integrations.versions import require

require("claude-agent-sdk", "claude-agent-sdk", oldest="0.1.66", below="0.3")

import msgspec
from claude_agent_sdk import (
    SessionKey,
    SessionListSubkeysKey,
    SessionStore,
    SessionStoreEntry,
    SessionStoreListEntry,
    SessionSummaryEntry,
    fold_session_summary,
)

from everlog.core.event import Head, NewEvent
from everlog.core.limits import LABEL_VALUE_CHARACTERS_MAX, METADATA_BYTES_MAX
from everlog.errors import BusyError, ConflictError, FencedError, KeyReusedError, NotFoundError, SessionExistsError
from everlog.integrations.claude_entries import entry_of, key_of, recorded_of, title_of
from everlog.integrations.forked import begin_in_each_process
from everlog.integrations.holding import Holding, LeaseLike
from everlog.integrations.places import FRAMEWORK_LABEL, Place, delete_together, id_part, store_at
from everlog.integrations.threads import finished, in_thread, read_in_thread
from everlog.integrations.turns import WAIT_SECONDS, Turn, Turns
from everlog.reader import PlaceLike
from everlog.reducers.spoken import groups
from everlog.session import Session

_MAIN: Final = "claude/"
_SUB: Final = "claude-sub/"
_LABELS: Final = {FRAMEWORK_LABEL: "claude-agent-sdk"}
_MEMBER: Final = "claude_agent_sdk"  # of a session's metadata
_SUMMARY_BYTES_MAX: Final = METADATA_BYTES_MAX // 2  # with a longer one, its session is listed by being loaded
_CHUNK: Final = 1_000  # entries of one append; an entry may be several events
_SEEN_MAX: Final = 100  # sessions whose head is remembered
_TRIES: Final = 100  # of an append that others overtake


@dataclass(frozen=True, slots=True)
class _Seen:
    """A session as it was at a head. An append that expects this head goes on from what was seen there, and reads nothing."""

    session: Session
    head: Head
    title: str | None
    metadata: dict[str, Any]


class _LastSeen:
    """The sessions that were appended to last. One is taken out to append to it, so that no two threads hold it."""

    def __init__(self) -> None:
        self._kept: dict[str, _Seen] = {}
        self._lock = Lock()

    def take(self, name: str) -> _Seen | None:
        with self._lock:
            return self._kept.pop(name, None)

    def keep(self, name: str, seen: _Seen) -> None:
        with self._lock:
            self._kept[name] = seen
            if len(self._kept) > _SEEN_MAX:
                del self._kept[next(iter(self._kept))]


class EverlogSessionStore(SessionStore):
    """A `SessionStore` that keeps transcripts in Everlog: `ClaudeAgentOptions(session_store=EverlogSessionStore("agent.db"))`.

    store: a path or URL, which is opened here and closed by `close`, or an open store, which stays open. May be used on any event loop,
    and from several. What it is asked runs in a thread; an append that is awaited no more may still be recorded.
    lease: under which transcripts are written: a lease that is held, or who takes that of each until `close`: a name, or a Holder.
    """

    def __init__(self, store: Place | None = None, *, lease: LeaseLike | None = None) -> None:
        self._holding = Holding(lease)
        self.store, self._owned = store_at(store)
        self._turns = Turns(WAIT_SECONDS + self._holding.timeout)
        begin_in_each_process(self._begin)

    def _begin(self) -> None:
        """Remember nothing."""
        self._seen = _LastSeen()

    def __repr__(self) -> str:
        return f"<EverlogSessionStore {self.store.url}>"

    async def close(self) -> None:
        """Give back the leases that were taken here; close the store, where it was opened here."""
        try:
            await in_thread(self._holding.release)
        finally:
            if self._owned:
                await in_thread(self.store.close)

    def session(self, key: SessionKey) -> Session:
        """Open the Everlog session of a transcript, to read, search, fork or prove; NotFoundError."""
        return self.store.session(_name(key))

    async def fork_session(
        self, key: SessionKey, session_id: str | None = None, *, up_to: str | None = None, reason: str | None = None
    ) -> SessionKey:
        """Make a session that shares a transcript, without its sub-agents', and copies nothing; give its key, to resume it by.

        session_id: of the new one, a UUID, as the SDK asks of what it resumes; drawn by default. up_to: the `uuid` of the last entry that
        is shared, the last one by default. Raises NotFoundError, also for an entry; SessionExistsError where there is one of that id.
        """
        made: SessionKey = {"project_key": key["project_key"], "session_id": session_id or str(uuid4())}
        await in_thread(self._fork, key, made, up_to, reason)
        return made

    # --- the contract ---
    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Record entries, durably, but those whose uuid is recorded, in the order of the calls. Each thousand of them is all or nothing.

        Raises FencedError while another holds the session's lease; in this and all others but OutcomeUnknownError
        nothing of the thousand was recorded. Append them again: what is recorded is left out.
        """
        await finished(self._turns.submit(_name(key), self._append_all, key, entries))

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """Give all entries of a transcript as they were appended; None for one that was never written. Erased ones are left out."""
        return await read_in_thread(self._load, key)

    async def list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        """Give a project's sessions, without their sub-agents, in one read for each thousand."""
        return await read_in_thread(
            lambda: [{"session_id": id, "mtime": mtime} for id, mtime, _ in self._listed(project_key)]
        )

    async def list_session_summaries(self, project_key: str) -> list[SessionSummaryEntry]:
        """Give the summaries of a project's sessions, in one read for each thousand; a session without one is left out."""
        return await read_in_thread(
            lambda: [
                {"session_id": id, "mtime": mtime, "data": data}
                for id, mtime, data in self._listed(project_key)
                if data is not None
            ]
        )

    async def delete(self, key: SessionKey) -> None:
        """Delete a transcript; a session's with those of its sub-agents. Bodies are destroyed, and the ledger says when.

        Raises SessionExistsError, which names them, while sessions forked from it by Everlog live; HeldError where a policy holds it;
        then all of them stay.
        """
        await in_thread(self._delete, key)

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """Give the subpaths of a session's sub-agents."""
        return await read_in_thread(lambda: [subpath for _, subpath in self._subs(key)])

    # --- the same, in a thread ---
    def _append_all(self, turn: Turn, key: SessionKey, entries: Sequence[SessionStoreEntry]) -> None:
        with turn:
            for start in range(0, len(entries), _CHUNK):
                self._append(key, entries[start : start + _CHUNK])

    def _append(self, key: SessionKey, entries: Sequence[SessionStoreEntry]) -> None:
        new = _first_of_each(cast("Sequence[dict[str, Any]]", entries))
        redactor, bytes_max = self.store.settings.redactor, self.store.settings.body_bytes_max
        if (
            redactor is not None and redactor.mode != "reject"
        ):  # before titles and summaries, which are cut, are made of them
            new = [redactor.marked(entry) for entry in new]
        name = _name(key)
        for _ in range(_TRIES):
            seen = self._seen.take(name)
            try:
                if seen is None:
                    seen = self._looked_at(name)
                else:
                    self._holding.hold(seen.session)
                events = [event for entry in new for event in recorded_of(entry, body_bytes_max=bytes_max)]
                if seen is None:
                    self._create(key, new, events)
                    with suppress(
                        FencedError, NotFoundError
                    ):  # what was appended is recorded; the next append asks again
                        self._holding.hold(self.store.session(name))
                else:
                    self._seen.keep(name, _extend(seen, key, new, events))
            except (ConflictError, SessionExistsError, NotFoundError):
                continue  # another writer was faster: look again
            except KeyReusedError:
                session = self.store.session(name)
                new = [entry for entry in new if (used := key_of(entry)) is None or session.find(used) is None]
                if new:
                    continue
            return
        raise BusyError(
            f"session {name!r} was appended to by others {_TRIES} times in a row; nothing was written; append again"
        )

    def _looked_at(self, name: str) -> _Seen | None:
        """Open a session, and read what was folded from its entries; None where there is none."""
        try:
            session = self.store.session(name)
            self._holding.hold(session)
            session.refresh()
        except NotFoundError:
            return None
        info = session.info()  # after the head was, so that what is folded on is never older than what is expected
        return _Seen(session, session.head, info.title, info.metadata)

    def _create(self, key: SessionKey, entries: Sequence[dict[str, Any]], events: Sequence[NewEvent]) -> None:
        project, subpath = key["project_key"], key.get("subpath")
        own: dict[str, Any] = {"project_key": project, "session_id": key["session_id"]}
        if subpath:
            own["subpath"] = subpath
        else:
            own["summary"] = _folded(None, key, entries)
        fits = len(project) <= LABEL_VALUE_CHARACTERS_MAX and "\x00" not in project
        self.store.create(
            _name(key),
            title=title_of(entries),
            labels=_LABELS | {"project": project if fits else id_part(project, 0)},
            metadata={_MEMBER: own},
            events=events,
        )

    def _fork(self, key: SessionKey, made: SessionKey, up_to: str | None, reason: str | None) -> None:
        session = self.store.session(_name(key))
        cut: PlaceLike = "end"
        if up_to is not None:
            first = session.find(key_of({"uuid": up_to}) or up_to)
            if first is None:
                raise NotFoundError(
                    f"session {session.id!r} has no entry {up_to!r:.100}; nothing was forked; name another"
                )
            cut = next(groups(session.events(start=first.position)))[-1].position + 1
        info = session.info()
        own = {
            **made,
            "summary": None,
        }  # which would be of the entries that are left, too: it is listed by being loaded
        metadata = {**info.metadata, _MEMBER: own}
        labels = info.labels | _LABELS
        session.fork(cut, id=_name(made), title=info.title, labels=labels, metadata=metadata, reason=reason)

    def _load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        try:
            session = self.store.session(_name(key))
        except NotFoundError:
            return None
        found = (entry_of(group) for group in groups(session.events()))
        return cast("list[SessionStoreEntry]", [entry for entry in found if entry is not None])

    def _listed(self, project: str) -> Iterator[tuple[str, int, dict[str, Any] | None]]:
        """Give id, time of the last change in milliseconds, and summary of each session of a project."""
        for info, _ in self.store.opened(f"{_MAIN}{_project(project)}/"):
            own = info.metadata.get(_MEMBER)
            if own is not None and own["project_key"] == project:
                yield own["session_id"], info.updated_at // 1_000, own.get("summary")

    def _subs(self, key: SessionKey | SessionListSubkeysKey) -> list[tuple[str, str]]:
        """Give the id and the subpath of each sub-agent of a session."""
        prefix = f"{_SUB}{_main(key)}/"
        return [
            (info.id, info.metadata[_MEMBER]["subpath"])
            for info, _ in self.store.opened(prefix)
            if _MEMBER in info.metadata
        ]

    def _delete(self, key: SessionKey) -> None:
        # The main one last: where this is interrupted, deleting it again finds the others.
        names = [] if key.get("subpath") else [name for name, _ in self._subs(key)]
        delete_together(self.store, [*names, _name(key)], reason="deleted through the Claude Agent SDK")


def _extend(seen: _Seen, key: SessionKey, entries: Sequence[dict[str, Any]], events: Sequence[NewEvent]) -> _Seen:
    """Append to a session that is there, and store its summary where it changes; give it as it is then.

    Raises ConflictError, KeyReusedError.
    """
    session, own = seen.session, seen.metadata.get(_MEMBER)
    title, metadata = seen.title, seen.metadata
    if own is not None and not key.get("subpath"):
        before = own.get("summary")
        title = title_of(entries, known=title)
        metadata = {**metadata, _MEMBER: {**own, "summary": None if before is None else _folded(before, key, entries)}}
    if (title, metadata) == (seen.title, seen.metadata):
        session.extend(events, expected=seen.head)
    else:
        session.update(title=title, metadata=metadata, expected=seen.head, events=events)
    return _Seen(session, session.head, title, metadata)


def _folded(before: dict[str, Any] | None, key: SessionKey, entries: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Give a summary's data after more entries; None where it became too long to be kept."""
    previous: SessionSummaryEntry | None = None
    if before is not None:
        previous = {"session_id": key["session_id"], "mtime": 0, "data": before}
    data = fold_session_summary(previous, key, cast("list[SessionStoreEntry]", entries))["data"]
    try:
        return data if len(msgspec.json.encode(data)) <= _SUMMARY_BYTES_MAX else None
    except UnicodeEncodeError:
        return None


def _first_of_each(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out entries whose uuid another one before them has."""
    keys: set[str] = set()
    return [entry for entry in entries if (key := key_of(entry)) is None or not (key in keys or keys.add(key))]


def _name(key: SessionKey) -> str:
    """Give the id of the session of a transcript."""
    subpath = key.get("subpath")
    return f"{_SUB}{_main(key)}/{id_part(subpath, 60, slashes=True)}" if subpath else f"{_MAIN}{_main(key)}"


def _main(key: SessionKey | SessionListSubkeysKey) -> str:
    """Give what the ids of a session's own transcript and of its sub-agents' share."""
    return f"{_project(key['project_key'])}/{id_part(key['session_id'], 60)}"


def _project(project_key: str) -> str:
    return id_part(project_key, 110)
