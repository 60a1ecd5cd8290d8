"""Google ADK's sessions in Everlog: a session service for its Runner.

    runner = Runner(agent=agent, app_name="trips", session_service=EverlogSessionService("agent.db"))

1. An ADK session is a session of Everlog, an ADK event is one append to it: the event and the state after it, or neither.
2. A session that was read before others appended to it is refused with StaleSessionError, whatever the events' times: the marker
   that a session carries is the branch and the head that it was read at.
3. Events are given in the order in which they were appended, also where their times are equal or go back.
4. `app:` and `user:` state are sessions of their own. The append to the session says what becomes of them, too, and they take it
   over under its key right after; where the process died in between, the next read of that session has them do so.
5. A repeated append of the same ADK event adds nothing.
6. A session object is changed where its event loop runs, once the event is recorded; who appends with that object next waits for it.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec

from everlog.core.event import Head, NewEvent
from everlog.core.limits import LABEL_VALUE_CHARACTERS_MAX, LOCK_SECONDS_MAX, PAGE_EVENTS_MAX
from everlog.errors import (
    BusyError,
    ConflictError,
    InvalidEventError,
    InvalidPlaceError,
    NotFoundError,
    SessionExistsError,
    UnavailableError,
)
from everlog.integrations.adk_events import (
    APP,
    FORMAT,
    SHARED,
    TEMP,
    USER,
    Item,
    decode_group,
    encode_event,
    patch_of,
    split_state,
    time_of,
)
from everlog.integrations.adk_lines import SHORT, choose, document_at, look, marker_of
from everlog.integrations.holding import Holding, LeaseLike, extend_past_leases
from everlog.integrations.places import FRAMEWORK_LABEL, LazyStore, Place, id_part
from everlog.integrations.threads import begun, until_done
from everlog.integrations.turns import Turn, Turns
from everlog.integrations.versions import require
from everlog.reader import PlaceLike
from everlog.session import Session as EverlogSession
from everlog.session import SessionInfo
from everlog.store import Store

require("google-adk", "adk", oldest="2.0.0", below="3")

from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.sessions.base_session_service import BaseSessionService, GetSessionConfig, ListSessionsResponse
from google.adk.sessions.session import Session
from pydantic_core import to_jsonable_python

if TYPE_CHECKING:
    from everlog.core.event import Event as EverlogEvent

try:
    from google.adk.errors import StaleSessionError
except ImportError:  # a version that says so with a ValueError, from which the later error derives
    StaleSessionError = ValueError

PREFIX: Final = "adk/"
_NAME_CHARACTERS_MAX = 80  # of app, user and session each in a session's id
_READ_TRIES = 5  # of a session whose current branch moves while it is read
_TOLD_MAX = 50_000  # sessions that a service remembers as a list showed them
_TOLD_BYTES_MAX = 64 * 1024 * 1024  # of their documents
_DELETED = "deleted through Google ADK"
T = TypeVar("T")
_Owner = tuple[str, str, str]  # app, user and session


def session_name(app_name: str, user_id: str, session_id: str) -> str:
    """Give the id of the Everlog session that holds an ADK session: `adk/APP/USER/SESSION`.

    A name that holds "/" or what does not print, or more than 80 characters, is hashed.
    """
    return f"{user_state_name(app_name, user_id)}/{id_part(session_id, _NAME_CHARACTERS_MAX)}"


def app_state_name(app_name: str) -> str:
    """Give the id of the Everlog session that holds an app's `app:` state, as its document."""
    return f"{PREFIX}{id_part(app_name, _NAME_CHARACTERS_MAX)}"


def user_state_name(app_name: str, user_id: str) -> str:
    """Give the id of the Everlog session that holds a user's `user:` state, as its document."""
    return f"{app_state_name(app_name)}/{id_part(user_id, _NAME_CHARACTERS_MAX)}"


class EverlogSessionService(BaseSessionService):
    """Keeps ADK's sessions in a store.

    store: what `everlog.open` takes, opened when it is first needed and closed by `close`; or a store that is open, which stays
    open. May be used from any number of event loops, as ADK's own synchronous runner does.
    lease: under which sessions are appended to: a lease that is held, or who takes that of each until `close`: a name, or a Holder.
    """

    def __init__(self, store: Place | None = None, *, lease: LeaseLike | None = None) -> None:
        self._holding = Holding(lease)
        self._store = LazyStore(store)
        self._told: dict[str, _Told] = {}
        self._told_bytes = 0
        self._told_lock = Lock()
        # One append with a session object at a time: agents that run in parallel share one, and each takes its turn.
        self._turns = Turns(LOCK_SECONDS_MAX)

    @property
    def store(self) -> Store:
        """The store, for what Everlog adds: `service.store.session(session_name(app, user, id)).fork(…)`. Opens it."""
        return self._store.get()

    async def close(self) -> None:
        """Give back the leases that were taken here; close the store, where this opened it. What is under way is finished first."""
        if not self._store.closed:
            await self._run(self._close)

    def _close(self) -> None:
        try:
            self._holding.release()
        finally:
            self._store.close()

    async def __aenter__(self) -> EverlogSessionService:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _running(self, call: Callable[[], T]) -> asyncio.Future[T]:
        if self._store.closed:
            raise _closed()
        return begun(call)

    async def _run(self, call: Callable[[], T]) -> T:
        return await self._running(call)

    # --- ADK's interface ---
    async def create_session(
        self, *, app_name: str, user_id: str, state: dict[str, Any] | None = None, session_id: str | None = None
    ) -> Session:
        """Make a session; AlreadyExistsError where its id is taken. An id is stripped; without one it gets a UUID."""
        chosen = (session_id or "").strip() or str(uuid.uuid4())
        given = _as_json(state or {})
        return await self._run(lambda: self._create(app_name, user_id, chosen, given))

    async def get_session(
        self, *, app_name: str, user_id: str, session_id: str, config: GetSessionConfig | None = None
    ) -> Session | None:
        """Read a session with its events, oldest first; None where there is none."""
        return await self._run(lambda: self._get(app_name, user_id, session_id, config or GetSessionConfig()))

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        """List the sessions of an app, or of one user of it, without events, the least recently active first."""
        return ListSessionsResponse(sessions=await self._run(lambda: self._list(app_name, user_id)))

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Destroy a session and what only it holds. No session: nothing happens.

        Raises SessionExistsError, and deletes nothing, while forks of it live; HeldError where a retention policy holds it.
        """
        await self._run(lambda: self._delete(app_name, user_id, session_id))

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """Read a user's state, keys without `user:`; empty where there is none."""
        return await self._run(lambda: self._scope(user_state_name(app_name, user_id)))

    async def append_event(self, session: Session, event: Event) -> Event:
        """Append an event and what it changes of the state, and bring the session object up to that.

        Raises StaleSessionError where others appended since the session was read, SessionNotFoundError where it was deleted,
        KeyReusedError where it holds another event of the same id; in these nothing was written.
        """
        if event.partial:
            return event
        delta = event.actions.state_delta
        temporary = {key: value for key, value in delta.items() if key.startswith(TEMP)}
        if temporary:  # is the object's while an agent runs, and is not kept
            session.state.update(temporary)
            event.actions.state_delta = {key: value for key, value in delta.items() if key not in temporary}
        turn = self._turns.take(f"{id(session)}")
        try:
            running = self._running(lambda: self._append(turn, session, event))
            cancelled = await until_done(running)
            if running.exception() is None and (marker := running.result()) is not None:
                # Here and not in the thread: others read the object where this loop runs.
                session._storage_update_marker = marker
                session.last_update_time = event.timestamp
                session.state.update(event.actions.state_delta)
                session.events.append(event)
        finally:
            turn.leave()
        try:
            if cancelled is not None:
                raise cancelled
            running.result()  # or what it raised
        finally:
            del running, cancelled  # see law 4 of threads.py
        return event

    # --- what Everlog adds ---
    async def fork_session(
        self,
        *,
        app_name: str,
        user_id: str,
        session_id: str,
        fork_id: str | None = None,
        at: PlaceLike = "end",
        reason: str | None = None,
    ) -> Session:
        """Make a session that shares the first events of another, and its state there; `app:` and `user:` state stay as they are.

        fork_id: of the new session, a UUID by default. at: a place in the Everlog session: a position, a time, a checkpoint's name,
        an event's id. Costs the same at any length. Raises AlreadyExistsError, SessionNotFoundError.
        """
        chosen = (fork_id or "").strip() or str(uuid.uuid4())
        return await self._run(lambda: self._fork(app_name, user_id, session_id, chosen, at, reason))

    # --- underneath: what runs in the pool ---
    def _open(self, app_name: str, user_id: str, session_id: str) -> tuple[EverlogSession, str]:
        """Open a session by the id that is asked for, else by that id stripped; NotFoundError."""
        try:
            return self.store.session(session_name(app_name, user_id, session_id)), session_id
        except NotFoundError:
            stripped = session_id.strip()
            if stripped == session_id:
                raise
            return self.store.session(session_name(app_name, user_id, stripped)), stripped

    def _create(self, app_name: str, user_id: str, session_id: str, state: Item) -> Session:
        name = session_name(app_name, user_id, session_id)
        document = split_state(state, uuid.uuid4().hex)
        try:
            made = self.store.create(
                name,
                labels=labels_of(app_name, user_id),
                metadata={"adk": [app_name, user_id, session_id]},
                events=[NewEvent("state.set", {"path": "", "value": document})] if document else [],
            )
        except SessionExistsError:
            raise AlreadyExistsError(
                f"Session with id {session_id} already exists; nothing was written; get it, or choose another id."
            ) from None
        self._share(app_name, user_id, document)
        shown = Session(
            app_name=app_name,
            user_id=user_id,
            id=session_id,
            state=self._merged(app_name, user_id, document),
            last_update_time=_made_at(made.info()),
        )
        shown._storage_update_marker = marker_of(made)
        return shown

    def _fork(
        self, app_name: str, user_id: str, session_id: str, fork_id: str, at: PlaceLike, reason: str | None
    ) -> Session:
        try:
            opened, _ = self._open(app_name, user_id, session_id)
        except NotFoundError:
            raise SessionNotFoundError(f"Session {session_id} not found; nothing was forked.") from None
        self._share_again(app_name, user_id, opened)
        try:
            opened.fork(
                at,
                id=session_name(app_name, user_id, fork_id),
                labels=labels_of(app_name, user_id),
                metadata={"adk": [app_name, user_id, fork_id]},
                reason=reason,
            )
        except SessionExistsError:
            raise AlreadyExistsError(f"Session with id {fork_id} already exists; nothing was forked.") from None
        forked = self._get(app_name, user_id, fork_id, GetSessionConfig())
        assert forked is not None, "it was made just now"
        return forked

    def _get(self, app_name: str, user_id: str, session_id: str, config: GetSessionConfig) -> Session | None:
        try:
            opened, session_id = self._open(app_name, user_id, session_id)
            for _ in range(_READ_TRIES):
                line = look(opened)
                newest, groups = choose(line.groups, wanted=config.num_recent_events, after=config.after_timestamp)
                opened.refresh()
                if line.marker.startswith(opened.branch_id):
                    break
            else:
                raise BusyError(
                    f"the session {opened.id!r} was rewound {_READ_TRIES} times while it was read; nothing was changed; read it again"
                )
        except NotFoundError:  # there is none, or it was deleted while it was read
            return None
        self._share(app_name, user_id, line.document)
        shown = Session(
            app_name=app_name,
            user_id=user_id,
            id=session_id,
            state=self._merged(app_name, user_id, line.document),
            events=[_event_of(group) for group in reversed(groups)],
            last_update_time=_made_at(opened.info()) if newest is None else time_of(newest),
        )
        shown._storage_update_marker = line.marker
        return shown

    def _append(self, turn: Turn, session: Session, event: Event) -> str | None:
        """Append an event in its turn, which is not left; give the marker that its session object is to have.

        None where the object holds the event already.
        """
        name = session_name(session.app_name, session.user_id, session.id)
        key, events = encode_event(json_of(event), name, body_bytes_max=self.store.settings.body_bytes_max)
        try:
            opened = self.store.session(name)
            self._holding.hold(opened, anew=True)
        except NotFoundError:
            raise _gone(session) from None
        turn.enter()
        return self._recorded(opened, session, event, key, events)

    def _recorded(
        self, opened: EverlogSession, session: Session, event: Event, key: str, events: list[NewEvent]
    ) -> str | None:
        """Record an event, as its key and the events of one append; see `_append`."""
        try:
            branch, head = self._seen(session, opened)
            if opened.branch_id != branch and opened.find(key) is None:
                raise _stale(session)
            recorded, head = extend_past_leases(opened, events, key=key, expected=head)
        except NotFoundError:
            raise _gone(session) from None
        except ConflictError as conflict:
            raise _stale(session) from conflict
        first, stop = recorded[0], recorded[-1].position + 1
        if first.repeated and any(known.id == event.id for known in session.events):
            self._share_again(session.app_name, session.user_id, opened)
            return None
        if first.repeated and first.position != head.size:
            raise _stale(session)
        if SHARED in _patched(events):
            self._share(session.app_name, session.user_id, _patched(events))
        return f"{opened.branch_id}:{opened.head_at(stop) if first.repeated else opened.head}"

    def _seen(self, session: Session, opened: EverlogSession) -> tuple[str, Head]:
        """Give the branch and the head that a session object was read at.

        One that a program made itself carries none: it counts as read now, where its last event is the last on record.
        """
        marker = session._storage_update_marker
        if marker is not None:
            branch, _, head = marker.partition(":")
            try:
                return branch, Head.parse(head)
            except InvalidPlaceError:  # another service's
                raise _stale(session) from None
        newest = next(look(opened).groups, None)
        if (newest and _event_of(newest).id) != (session.events[-1].id if session.events else None):
            raise _stale(session)
        return opened.branch_id, opened.head

    def _list(self, app_name: str, user_id: str | None) -> list[Session]:
        read: list[tuple[Session, Item]] = []
        states: dict[str, Item] = {}
        whose = app_state_name(app_name) if user_id is None else user_state_name(app_name, user_id)
        for owner, told in self._tell_each(f"{whose}/"):
            shown = Session(app_name=owner[0], user_id=owner[1], id=owner[2], last_update_time=told.updated)
            shown._storage_update_marker = told.marker
            read.append((shown, msgspec.json.decode(told.document)))
        app = self._scope(app_state_name(app_name)) if read else {}
        for shown, document in read:
            if shown.user_id not in states:
                states[shown.user_id] = self._scope(user_state_name(app_name, shown.user_id))
            shown.state = _merge(document, app, states[shown.user_id])
        return sorted((shown for shown, _ in read), key=lambda each: (each.last_update_time, each.user_id, each.id))

    def _tell_each(self, prefix: str) -> Iterator[tuple[_Owner, _Told]]:
        """Tell what a list shows of each session: from memory, where its head is the one that was read last; else many are read together."""
        owned = ((owner, info, opened) for info, opened in self.store.opened(prefix) if (owner := _owner(info)))
        while some := list(islice(owned, PAGE_EVENTS_MAX // SHORT)):
            known = [self._told_last(info) for _, info, _ in some]
            short = [
                opened for (_, info, opened), told in zip(some, known, strict=True) if not told and info.size <= SHORT
            ]
            read = dict(zip((opened.uuid for opened in short), self.store.read_short(short), strict=True))
            for (owner, info, opened), last in zip(some, known, strict=True):
                told = last or self._tell(info, opened, owner, read.get(info.uuid))
                if told is not None:
                    yield owner, told

    def _told_last(self, info: SessionInfo) -> _Told | None:
        known = self._told.get(info.uuid)
        return known if known is not None and known.marker == f"{info.branch}:{info.head}" else None

    def _tell(
        self, info: SessionInfo, opened: EverlogSession, owner: _Owner, events: list[EverlogEvent] | None
    ) -> _Told | None:
        """Tell what a list shows of a session. events: all of it, where they are read. None: it was deleted meanwhile."""
        try:
            line = look(opened, events)
            newest = next(line.groups, None)
        except NotFoundError:
            return None
        self._share(owner[0], owner[1], line.document)
        updated = _made_at(info) if newest is None else time_of(newest)
        told = _Told(marker=line.marker, updated=updated, document=msgspec.json.encode(line.document))
        self._remember(info.uuid, told)
        return told

    def _remember(self, uuid: str, told: _Told) -> None:
        with self._told_lock:
            before = self._told.pop(uuid, None)
            self._told_bytes += len(told.document) - (0 if before is None else len(before.document))
            if len(self._told) >= _TOLD_MAX or self._told_bytes > _TOLD_BYTES_MAX:
                self._told.clear()
                self._told_bytes = len(told.document)
            self._told[uuid] = told

    def _delete(self, app_name: str, user_id: str, session_id: str) -> None:
        try:
            opened, _ = self._open(app_name, user_id, session_id)
            self._share_again(app_name, user_id, opened)
            self.store.delete(opened.id, reason=_DELETED)
        except NotFoundError:
            return

    # --- state that sessions share ---
    def _share_again(self, app_name: str, user_id: str, opened: EverlogSession) -> None:
        """Have the app's and the user's state take over what a session says last of them, if they did not."""
        self._share(app_name, user_id, document_at(opened, opened.head.size))

    def _share(self, app_name: str, user_id: str, document: Mapping[str, Any]) -> None:
        shared = document.get(SHARED)
        if shared is None:
            return
        if shared["app"]:
            labels, whose = labels_of(app_name, None), {"adk": [app_name]}
            scope = self.store.get_or_create(app_state_name(app_name), labels=labels, metadata=whose)
            take_over(scope, shared["id"], shared["app"])
        if shared["user"]:
            labels, whose = labels_of(app_name, user_id), {"adk": [app_name, user_id]}
            scope = self.store.get_or_create(user_state_name(app_name, user_id), labels=labels, metadata=whose)
            take_over(scope, shared["id"], shared["user"])

    def _scope(self, name: str) -> Item:
        try:
            opened = self.store.session(name)
        except NotFoundError:
            return {}
        return document_at(opened, opened.head.size)

    def _merged(self, app_name: str, user_id: str, document: Item) -> Item:
        return _merge(document, self._scope(app_state_name(app_name)), self._scope(user_state_name(app_name, user_id)))


def json_of(event: Event) -> Item:
    """Give an ADK event as JSON, without what it has by default. Raises InvalidEventError."""
    if not event.id:
        raise InvalidEventError(
            "the event has no id, by which it is recorded once; nothing was written; leave it to ADK"
        )
    item = event.model_dump(mode="json", exclude_defaults=True, exclude_none=True, exclude={"actions": {"state_delta"}})
    if event.actions.state_delta:  # ADK would say a NaN as null; as itself it is refused
        item["actions"] = {**item.get("actions", {}), "state_delta": _as_json(event.actions.state_delta)}
    return item


def _as_json(state: Mapping[str, Any]) -> Item:
    """Give state as JSON; what has no JSON is what it prints as, as with ADK's own services."""
    try:
        return cast("Item", to_jsonable_python(state, serialize_unknown=True))
    except UnicodeEncodeError:
        raise InvalidEventError(
            "a key of the state holds a lone surrogate, which UTF-8 cannot say; nothing was written; decode it with errors='replace'"
        ) from None


def take_over(scope: EverlogSession, key: str, delta: Item) -> None:
    """Record a delta in the session of a state, once."""
    if scope.find(key) is None:
        scope.append("state.patch", patch_of(delta), key=key)


def _merge(document: Item, app: Item, user: Item) -> Item:
    own = {key: value for key, value in document.items() if not key.startswith(TEMP)}
    return own | {APP + key: value for key, value in app.items()} | {USER + key: value for key, value in user.items()}


def _patched(events: list[NewEvent]) -> Item:
    """Give the shared part of what an append changes of its session's document."""
    if events[-1].type != "state.patch":
        return {}
    last = events[-1].data["ops"][-1]  # it stands last: `split_state` puts it there
    return {SHARED: last["value"]} if last["path"] == f"/{SHARED}" else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What a list shows of a session. document: as JSON."""

    marker: str
    updated: float
    document: bytes


def _event_of(group: list[EverlogEvent]) -> Event:
    item = decode_group(group)
    try:
        return Event.model_validate_json(msgspec.json.encode(item))
    except OverflowError:  # an integer of 2^64, in one that is kept beside its body
        return Event.model_validate_json(json.dumps(item))


def _made_at(info: SessionInfo) -> float:
    return cast("float", info.metadata.get("adk.created", info.created_at / 1_000_000))


def labels_of(app_name: str, user_id: str | None) -> dict[str, str]:
    """Give the labels of a session: whose it is, and the names of app and user where a label takes them."""
    named = {FRAMEWORK_LABEL: FORMAT, "adk.app": app_name} | ({} if user_id is None else {"adk.user": user_id})
    return {
        name: text for name, text in named.items() if len(text) <= LABEL_VALUE_CHARACTERS_MAX and text.isprintable()
    }


def _owner(info: SessionInfo) -> _Owner | None:
    """Give app, user and session of an Everlog session that holds an ADK session; None where it holds a state."""
    names = info.metadata.get("adk")
    if names is None:  # made by Everlog's own fork: the id says them
        names = info.id.removeprefix(PREFIX).split("/")
    return None if len(names) != 3 else (names[0], names[1], names[2])


def _closed() -> UnavailableError:
    return UnavailableError("the session service is closed; nothing was done; make another")


def _gone(session: Session) -> SessionNotFoundError:
    return SessionNotFoundError(f"Session {session.id} not found; nothing was written; create it, or get another.")


def _stale(session: Session) -> Exception:
    return StaleSessionError(
        f"session {session.id!r} of user {session.user_id!r} was changed since it was read; nothing was written; get it again "
        "and decide anew"
    )
