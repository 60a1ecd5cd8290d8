"""Sessions of Strands Agents, kept in Everlog: a `SessionRepository`, and the session manager over it.

1. A Strands session is an Everlog session `strands/SESSION`, and each of its agents one of its own, `strands/SESSION/AGENT`: its messages
   are events, its state the document, so that what it was at any place can be asked.
2. `message_id` is a key, never a position. A message under an id that another has is refused with SessionException, and the first stays:
   two writers on one agent never overwrite each other. The same message again is left out.
3. While ids count from 0 without gaps, as the session manager makes them, a page of messages costs what it holds. Otherwise they are all
   read and put in order; the session's metadata says which.
4. An update is an event that stands for the message from then on. The original stays in the log, unless `erase_redacted` destroys it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from everlog.integrations.versions import require

require("strands-agents", "strands", oldest="1.50", below="2")

from strands.session.repository_session_manager import RepositorySessionManager
from strands.session.session_repository import SessionRepository
from strands.types.exceptions import SessionException
from strands.types.session import Session as StrandsSession
from strands.types.session import SessionAgent, SessionMessage

from everlog.core.event import Event, Head, NewEvent
from everlog.core.pointer import format_pointer
from everlog.errors import BusyError, ConflictError, KeyReusedError, NotFoundError, SessionExistsError
from everlog.integrations.holding import Holding, LeaseLike
from everlog.integrations.places import FRAMEWORK_LABEL, Place, delete_together, id_part, store_at
from everlog.integrations.strands_messages import (
    UPDATED,
    groups,
    key_of,
    message_of,
    recorded_of,
    update_of,
    updated_of,
)
from everlog.session import Session

if TYPE_CHECKING:
    from strands.multiagent import MultiAgentBase

_MEMBER: Final = "strands"  # of a session's metadata
_LABELS: Final = {FRAMEWORK_LABEL: "strands"}
_TRIES: Final = 100  # of an append that others overtake
_SEEN_MAX: Final = 100  # agents whose head is remembered


@dataclass(frozen=True, slots=True)
class _Seen:
    """An agent's session as it was at a head.

    last: the id of the message that was recorded last; created_at: of the agent's state; each where it is known.
    """

    session: Session
    head: Head
    metadata: dict[str, Any]
    last: int | None = None
    created_at: str | None = None

    def says(self, name: str) -> bool:
        return bool(self.metadata.get(_MEMBER, {}).get(name))

    def saying(self, name: str) -> dict[str, Any]:
        return {**self.metadata, _MEMBER: {**self.metadata.get(_MEMBER, {}), name: True}}


class EverlogSessionRepository(SessionRepository):
    """A `SessionRepository` that keeps sessions in Everlog.

    store: a path or URL, which is opened here and closed by `close`, or an open store, which stays open. Ids may be any text.
    erase_redacted: whether what a message said before a guardrail redacted it is destroyed, as Strands' own files overwrite it; else it
    stays in the log, where only what reads the log sees it. May be used from any thread.
    lease: under which agents are written: a lease that is held, or who takes that of each until `close`: a name, or a Holder.
    """

    def __init__(
        self, store: Place | None = None, *, erase_redacted: bool = False, lease: LeaseLike | None = None
    ) -> None:
        self._holding = Holding(lease)
        self.store, self._owned = store_at(store)
        self._erases = erase_redacted
        self._seen: dict[str, _Seen] = {}

    def __repr__(self) -> str:
        return f"<EverlogSessionRepository {self.store.url}>"

    def close(self) -> None:
        """Give back the leases that were taken here; close the store, where it was opened here."""
        try:
            self._holding.release()
        finally:
            if self._owned:
                self.store.close()

    # --- sessions ---
    def create_session(self, session: StrandsSession, **kwargs: Any) -> StrandsSession:
        """Make a session. SessionException where there is one of this id."""
        plain = json.loads(json.dumps(session.to_dict()))
        try:
            self.store.create(_name(session.session_id), labels=_LABELS, metadata={_MEMBER: {"session": plain}})
        except SessionExistsError as error:
            raise _exists(session.session_id) from error
        return session

    def read_session(self, session_id: str, **kwargs: Any) -> StrandsSession | None:
        """Give a session; None where there is none."""
        try:
            metadata = self.store.session(_name(session_id)).info().metadata
        except NotFoundError:
            return None
        plain = metadata.get(_MEMBER, {}).get("session")
        return None if plain is None else StrandsSession.from_dict(plain)

    def delete_session(self, session_id: str, **kwargs: Any) -> None:
        """Delete a session with its agents; their bodies are destroyed. SessionException where there is none.

        Raises SessionExistsError while forks of an agent live, HeldError where a policy holds one; then all stay.
        """
        name = _name(session_id)
        names = [
            *self._agents(name),
            name,
        ]  # itself last: where this is interrupted, deleting it again finds the others
        if self.read_session(session_id) is None:
            raise SessionException(f"session {session_id!r} does not exist; nothing was deleted")
        for each in names:
            self._seen.pop(each, None)
        delete_together(self.store, names, reason="deleted through Strands")

    def fork_session(self, session_id: str, new_session_id: str, *, messages: int | None = None) -> StrandsSession:
        """Make a session that shares what this one holds, at no cost. messages: how many of each agent's are kept, all by default.

        Raises SessionException where there is none, or one of the new id.
        """
        session = self.read_session(session_id)
        if session is None:
            raise SessionException(f"session {session_id!r} does not exist; nothing was written")
        made = StrandsSession(new_session_id, session.session_type)
        name, new_name = _name(session_id), _name(new_session_id)
        plain = json.loads(json.dumps(made.to_dict()))
        try:
            self.store.session(name).fork(id=new_name, labels=_LABELS, metadata={_MEMBER: {"session": plain}})
        except SessionExistsError as error:
            raise _exists(new_session_id) from error
        for each in self._agents(name):
            agent = self.store.session(each)
            next_one = None if messages is None else agent.find(key_of(messages))
            cut = "end" if next_one is None else next_one.position
            metadata = agent.info().metadata
            agent.fork(cut, id=new_name + each.removeprefix(name), labels=_LABELS, metadata=metadata)
        return made

    def session(self, session_id: str, agent_id: str | None = None) -> Session:
        """Open the Everlog session of a session, or of one of its agents, to read, search, rewind or prove; NotFoundError."""
        return self.store.session(_name(session_id, agent_id))

    # --- agents ---
    def create_agent(self, session_id: str, session_agent: SessionAgent, **kwargs: Any) -> None:
        """Record an agent's state; that of one that is there is left for it."""
        self._made(_name(session_id, session_agent.agent_id)).extend([_state_of(session_agent)])

    def read_agent(self, session_id: str, agent_id: str, **kwargs: Any) -> SessionAgent | None:
        """Give an agent's state; None where none was recorded."""
        plain = self._document(_name(session_id, agent_id)).get("agent")
        return None if plain is None else SessionAgent.from_dict(plain)

    def update_agent(self, session_id: str, session_agent: SessionAgent, **kwargs: Any) -> None:
        """Record an agent's state anew; when it was created stays, also in what is given. SessionException where there is none."""
        name = _name(session_id, session_agent.agent_id)
        for _ in range(_TRIES):
            try:
                seen = self._seen.pop(name, None) or self._looked_at(self.store.session(name))
            except NotFoundError:
                break
            with suppress(ConflictError, NotFoundError):  # another writer was faster, or it was deleted: look again
                self._holding.hold(seen.session)
                created_at = seen.created_at or self._created_at(seen)
                if created_at is None:
                    break
                session_agent.created_at = created_at
                seen.session.extend([_state_of(session_agent)], expected=seen.head)
                self._keep(name, replace(seen, head=seen.session.head, created_at=created_at))
                return
        else:
            raise _overtaken(name)
        raise SessionException(
            f"agent {session_agent.agent_id!r} of session {session_id!r} does not exist; nothing was written"
        )

    # --- messages ---
    def create_message(self, session_id: str, agent_id: str, session_message: SessionMessage, **kwargs: Any) -> None:
        """Record a message under its id. SessionException where another message has it: the other stays."""
        name, message_id = _name(session_id, agent_id), session_message.message_id
        bytes_max = self.store.settings.body_bytes_max
        events = recorded_of(session_message.to_dict(), actor=agent_id, body_bytes_max=bytes_max)
        for _ in range(_TRIES):
            seen = self._seen.pop(name, None) or self._looked_at(self._made(name))
            try:
                self._holding.hold(seen.session)
                self._append(seen, message_id, events)
            except (ConflictError, NotFoundError):
                continue  # another writer was faster, or it was deleted: look again
            except KeyReusedError as error:
                raise SessionException(
                    f"message {message_id} of agent {agent_id!r} in session {session_id!r} was recorded by another writer; "
                    "nothing was written; make a session manager anew, which reads it"
                ) from error
            self._keep(name, replace(seen, head=seen.session.head, last=message_id))
            return
        raise _overtaken(name)

    def read_message(self, session_id: str, agent_id: str, message_id: int, **kwargs: Any) -> SessionMessage | None:
        """Give a message; None where there is none."""
        if not isinstance(message_id, int):
            raise ValueError(f"message_id {message_id!r:.100} is no integer")  # noqa: TRY004  # as Strands' own
        try:
            seen = self._looked_at(self.store.session(_name(session_id, agent_id)))
        except NotFoundError:
            return None
        first = seen.session.find(key_of(message_id))
        return None if first is None else _one(seen, first)

    def update_message(self, session_id: str, agent_id: str, session_message: SessionMessage, **kwargs: Any) -> None:
        """Record what a message is from now on; when it was created stays, also in what is given. SessionException where there is none."""
        before = self.read_message(session_id, agent_id, session_message.message_id)
        if before is None:
            raise SessionException(f"message {session_message.message_id} does not exist; nothing was written")
        session_message.created_at = before.created_at
        plain, was = session_message.to_dict(), before.to_dict()
        redacted, changed = session_message.redact_message is not None, plain["message"] != was["message"]
        erases = self._erases and (redacted or changed)  # of what was said twice, the content alone changes
        update = {
            name: member
            for name, member in plain.items()
            if name in ("message_id", "created_at", "redact_message", "updated_at")
            or (name == "message" and changed and not (erases and redacted))
        }
        name = _name(session_id, agent_id)
        said: list[Event] = []
        for _ in range(_TRIES):
            seen = self._looked_at(self._held(self.store.session(name)))
            first = seen.session.find(key_of(session_message.message_id))
            if erases and first is not None:
                said = [*_parts(seen.session, first), *_updates(seen.session, first)]
            new = updated_of(update, first, body_bytes_max=self.store.settings.body_bytes_max)
            with suppress(ConflictError):
                if seen.says("updated"):
                    seen.session.extend([new], expected=seen.head)  # nothing that is to be erased came meanwhile
                else:
                    seen.session.update(metadata=seen.saying("updated"), expected=seen.head, events=[new])
                break
        else:
            raise _overtaken(name)
        if said:
            seen.session.erase([event.position for event in said], reason="redacted by a guardrail of Strands")

    def list_messages(
        self, session_id: str, agent_id: str, limit: int | None = None, offset: int = 0, **kwargs: Any
    ) -> list[SessionMessage]:
        """Give messages by their ids, the smallest first. offset: how many to pass over; limit: how many to give at most.

        SessionException where the agent was never recorded.
        """
        try:
            seen = self._looked_at(self.store.session(_name(session_id, agent_id)))
        except NotFoundError:
            raise SessionException(
                f"agent {agent_id!r} of session {session_id!r} has no messages: it does not exist"
            ) from None
        stop = None if limit is None else offset + limit
        if seen.says("unordered") or offset < 0 or (stop is not None and stop < offset):
            found = sorted(groups(seen.session.events()), key=lambda each: each[0])
            return _given(seen, found[offset:stop], "start")
        first = seen.session.find(key_of(offset))
        if first is None:
            return []
        after = None if stop is None else seen.session.find(key_of(stop))
        events = seen.session.events(start=first.position, stop="end" if after is None else after.position)
        return _given(seen, list(islice(groups(events), limit)), first.position)

    # --- several agents at once ---
    def create_multi_agent(self, session_id: str, multi_agent: MultiAgentBase, **kwargs: Any) -> None:
        """Record the state of several agents that work together."""
        path = format_pointer((f"multi_agent:{multi_agent.id}",))
        self._made(_name(session_id)).append("state.set", {"path": path, "value": multi_agent.serialize_state()})

    def read_multi_agent(self, session_id: str, multi_agent_id: str, **kwargs: Any) -> dict[str, Any] | None:
        """Give the state of several agents that work together; None where none was recorded."""
        return self._document(_name(session_id)).get(f"multi_agent:{multi_agent_id}")

    def update_multi_agent(self, session_id: str, multi_agent: MultiAgentBase, **kwargs: Any) -> None:
        """Record the state of several agents anew. SessionException where none was recorded."""
        if self.read_multi_agent(session_id, multi_agent.id) is None:
            raise SessionException(
                f"the state of {multi_agent.id!r} in session {session_id!r} does not exist; nothing was written"
            )
        self.create_multi_agent(session_id, multi_agent)

    # --- within ---
    def _made(self, name: str) -> Session:
        return self._held(self.store.get_or_create(name, labels=_LABELS))

    def _held(self, session: Session) -> Session:
        self._holding.hold(session)
        return session

    def _agents(self, name: str) -> Iterator[str]:
        return (info.id for info, _ in self.store.opened(f"{name}/"))

    def _document(self, name: str) -> dict[str, Any]:
        try:
            return _members(self.store.session(name).state("document").value)
        except NotFoundError:
            return {}

    def _created_at(self, seen: _Seen) -> str | None:
        """Give when an agent's state was recorded first; None where none was."""
        agent = _members(seen.session.state("document").value).get("agent")
        return None if agent is None else agent["created_at"]

    def _looked_at(self, session: Session) -> _Seen:
        head = session.refresh()  # before the metadata is read, so that this is never older than what is expected
        return _Seen(session, head, session.info().metadata)

    def _append(self, seen: _Seen, message_id: int, events: Sequence[NewEvent]) -> None:
        """Record a message at a head. Raises ConflictError, KeyReusedError."""
        session = seen.session
        in_order = message_id == 0 or seen.last == message_id - 1 or session.find(key_of(message_id - 1)) is not None
        if in_order or seen.says("unordered") or session.find(key_of(message_id)) is not None:
            session.extend(events, expected=seen.head)
        else:
            session.update(metadata=seen.saying("unordered"), expected=seen.head, events=events)

    def _keep(self, name: str, seen: _Seen) -> None:
        self._seen[name] = seen
        while len(self._seen) > _SEEN_MAX:
            self._seen.pop(next(iter(list(self._seen))), None)


class EverlogSessionManager(RepositorySessionManager):
    """A session manager that keeps its session in Everlog: `Agent(session_manager=EverlogSessionManager("s1", store="agent.db"))`.

    store, erase_redacted, lease: as of EverlogSessionRepository, which is `session_repository`.
    """

    session_repository: EverlogSessionRepository

    def __init__(
        self,
        session_id: str,
        store: Place | None = None,
        *,
        erase_redacted: bool = False,
        lease: LeaseLike | None = None,
        **kwargs: Any,
    ) -> None:
        repository = EverlogSessionRepository(store, erase_redacted=erase_redacted, lease=lease)
        super().__init__(session_id, session_repository=repository, **kwargs)

    def close(self) -> None:
        """Give back the leases that were taken here; close the store, where it was opened here."""
        self.session_repository.close()


def _state_of(agent: SessionAgent) -> NewEvent:
    """Give the event that records an agent's state."""
    return NewEvent("state.set", {"path": "/agent", "value": json.loads(json.dumps(agent.to_dict()))})


def _members(document: Any) -> dict[str, Any]:
    return document if isinstance(document, dict) else {}


def _name(session_id: str, agent_id: str | None = None) -> str:
    """Give the id of the Everlog session of a session, or of an agent."""
    name = f"strands/{id_part(session_id, 120)}"
    return name if agent_id is None else f"{name}/{id_part(agent_id, 120)}"


def _parts(session: Session, first: Event) -> list[Event]:
    """Give the events of one message from its first on."""
    for _, group in groups(session.events(start=first.position)):
        return group
    raise AssertionError("the first event was read")


def _updates(session: Session, first: Event) -> list[Event]:
    """Give the updates of a message that say what it is."""
    found = session.events(types=UPDATED, caused_by=first, start=first.position)
    return [event for event in found if "message" in (update_of(event) or {})]


def _one(seen: _Seen, first: Event) -> SessionMessage:
    found = [(0, _parts(seen.session, first))]
    return _given(seen, found, first.position)[0]


def _given(seen: _Seen, found: Sequence[tuple[int, list[Event]]], start: int | str) -> list[SessionMessage]:
    """Give messages as they were updated. start: where the first of them stands; what updates them comes behind."""
    updates: dict[str, dict[str, Any]] = {}
    if seen.says("updated"):
        for event in seen.session.events(types=UPDATED, start=start):
            update = update_of(event)
            if update is not None:
                key = key_of(update["message_id"])
                updates[key] = {**updates.get(key, {}), **update}  # one that says no content left it as it was
    return [SessionMessage.from_dict(message_of(group, updates.get(group[0].key or ""))) for _, group in found]


def _exists(session_id: str) -> SessionException:
    return SessionException(f"session {session_id!r} exists already; nothing was written")


def _overtaken(name: str) -> BusyError:
    return BusyError(
        f"session {name!r} was appended to by others {_TRIES} times in a row; nothing was written; try again"
    )
