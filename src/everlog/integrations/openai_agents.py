"""The session of OpenAI's Agents SDK on an Everlog store: `EverlogSession("user-123", "agent.db")` where `SQLiteSession` stood.

1. An item is an event. Those that are no item (checkpoints, notes, leases) stand beside them and are never given to the SDK; those of
   the standard types that other programs recorded are items too, as results that `repair()` wrote.
2. Removing is rewinding: what `pop_item`, `clear_session` and compaction take away leaves the current line, and stays readable on the
   line before. `Session.erase` destroys.
3. Each removal expects the head that it read, so two processes never take the same item, and none takes what it did not see.
4. Whoever is cancelled while something is recorded learns of it when that is settled, one way or the other.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from msgspec.structs import replace

from everlog.core.event import Event, NewEvent
from everlog.core.limits import LOCK_SECONDS_MAX
from everlog.errors import BusyError, ConflictError, NotFoundError, UnavailableError
from everlog.integrations.holding import Holding, LeaseLike
from everlog.integrations.openai_native import event_of, item_of, title_of
from everlog.integrations.places import FRAMEWORK_LABEL, LazyStore, Place, id_of
from everlog.integrations.threads import begun, in_thread
from everlog.integrations.versions import require
from everlog.reducers.spoken import NothingSaidError
from everlog.session import Session
from everlog.store import Store

require("openai-agents", "openai-agents", oldest="0.20", below="1")

from agents.memory import SessionSettings  # after the version is known to fit
from agents.memory.session_settings import coerce_session_settings, resolve_session_limit

if TYPE_CHECKING:
    from agents import RunContextWrapper, TResponseInputItem
    from agents.memory.session import _CompactionSnapshot  # pyright: ignore[reportPrivateUsage]

FRAMEWORK: Final = "openai-agents"
P = ParamSpec("P")
T = TypeVar("T")


class EverlogSession:
    """One conversation of the Agents SDK, kept in an Everlog store. Implements `agents.memory.Session`.

    May be made outside an event loop, and used from any number of them.
    """

    session_settings: SessionSettings | None = None

    def __init__(
        self,
        session_id: str,
        store: Place | None = None,
        *,
        session_settings: SessionSettings | dict[str, Any] | None = None,
        describe: Callable[[RunContextWrapper[Any]], Mapping[str, Any]] | None = None,
        lease: LeaseLike | None = None,
    ) -> None:
        """Name a conversation; nothing is opened before it is used.

        store: a path or URL, opened on first use and closed by `close`; or an open store, which stays the caller's. None: as `open`.
        session_settings: what `get_items` does where it is not told. describe: gives, from the run's context, metadata for each item.
        lease: under which it is written: one that is held, or who takes it with the first write until `close`: a name, or a Holder.
        """
        self.session_id = session_id
        self.session_settings = (
            SessionSettings() if session_settings is None else coerce_session_settings(session_settings)
        )
        self._store = LazyStore(store)
        self._describe = describe
        self._holding = Holding(lease)
        self._session: Session | None = None

    # --- the SDK's interface ---
    # The runner passes `wrapper` where all four methods take it.
    async def get_items(
        self,
        limit: int | None = None,
        *,
        wrapper: RunContextWrapper[Any] | None = None,
    ) -> list[TResponseInputItem]:
        """Give the newest `limit` items, oldest first. None: as the settings say, else all. Negative: all. 0: none."""
        self._check_open()
        return await begun(self._read, resolve_session_limit(limit, self.session_settings))

    async def add_items(
        self, items: list[TResponseInputItem], *, wrapper: RunContextWrapper[Any] | None = None
    ) -> None:
        """Add items behind all others, durably, all or none. At most APPEND_EVENTS_MAX at once."""
        self._check_open()
        if items:
            described = {} if self._describe is None or wrapper is None else dict(self._describe(wrapper))
            await in_thread(self._add, list(items), described)

    async def pop_item(
        self,
        *,
        wrapper: RunContextWrapper[Any] | None = None,
    ) -> TResponseInputItem | None:
        """Take the newest item off the conversation and give it; None where there is none."""
        self._check_open()
        return await in_thread(self._retried, self._pop)

    async def clear_session(
        self,
        *,
        wrapper: RunContextWrapper[Any] | None = None,
    ) -> None:
        """Begin the conversation anew. What was said stays on the line before; `store.delete` or `erase` destroys it."""
        self._check_open()
        await in_thread(self._retried, self._clear)

    # --- what compaction asks of a backend that can do it at once; both names are the SDK's ---
    async def _atomic_replace_items(self, items: list[TResponseInputItem]) -> bool:
        """Put items in the place of all; False, and nothing done, in a class that may keep items its own way."""
        if type(self) is not EverlogSession:
            return False
        self._check_open()
        await in_thread(self._replace_all, list(items))
        return True

    async def _get_compaction_snapshot(
        self, limit: int, *, prune_prefix: Callable[[TResponseInputItem], bool] | None = None
    ) -> _CompactionSnapshot | None:
        """Give the newest `limit` items, and what puts others in the place of the last of them if nothing changed meanwhile."""
        if type(self) is not EverlogSession:
            return None
        try:
            from agents.memory.session import _CompactionSnapshot  # pyright: ignore[reportPrivateUsage]
        except ImportError:  # a version of the SDK that does not ask for it
            return None
        self._check_open()
        found = await begun(lambda: self._newest(self._found(), limit + 1))
        seen = found[-limit:] if limit > 0 else []

        async def replace_suffix(start: int, output: list[TResponseInputItem]) -> bool:
            return await in_thread(self._replace_end, seen[start:], list(output), prune_prefix)

        return _CompactionSnapshot([item for _, item in seen], len(found) <= limit, replace_suffix)

    # --- Everlog's own ---
    @property
    def store(self) -> Store:
        """The store, opened where it was not."""
        return self._store.get()

    @property
    def log(self) -> Session:
        """The conversation as Everlog's session, made where there is none: to fork, rewind, search, lease or prove it."""
        session = self._session
        if session is None:
            name, given = id_of(self.session_id), {"labels": {FRAMEWORK_LABEL: FRAMEWORK}}
            if name != self.session_id:
                given |= {"title": title_of(self.session_id)}
            session = self._session = self.store.get_or_create(name, **given)
        return session

    def close(self) -> None:
        """Give back a lease that was taken here; close the store, if this session opened it; the session cannot be used any more."""
        try:
            self._holding.release()
        finally:
            self._store.close()

    def _check_open(self) -> None:
        if self._store.closed:
            raise UnavailableError(f"session {self.session_id!r:.100} is closed; nothing was done; make another")

    # --- in a thread ---
    def _found(self) -> Session | None:
        """Give Everlog's session; None where there is none yet."""
        if self._session is None:
            with suppress(NotFoundError):
                self._session = self.store.session(id_of(self.session_id))
        return self._session

    def _read(self, limit: int | None) -> list[Any]:
        if limit == 0:
            return []
        try:
            session = self._found()
            if limit is not None and limit > 0:
                return [item for _, item in self._newest(session, limit)]
            return [item for _, item in _said(session.events())] if session is not None else []
        except NotFoundError:  # somebody deleted it
            self._session = None
            return []

    def _newest(self, session: Session | None, count: int) -> list[tuple[Event, Any]]:
        """Give the newest items with their events, at most `count`, oldest first."""
        if session is None or count < 1:
            return []
        window = count
        while True:
            events = list(session.events(reverse=True, limit=window))
            said = _said(reversed(events))
            if len(said) >= count or len(events) < window:
                return said[-count:]
            window *= 2  # some of them say no item

    def _add(self, items: list[Any], described: Mapping[str, Any]) -> None:
        events = [event_of(item) for item in items]
        if described:
            events = [replace(event, metadata={**described, **(event.metadata or {})}) for event in events]
        try:
            self._held().extend(events)
        except NotFoundError:  # somebody deleted it: its name is free
            self._session = None
            self._held().extend(events)

    def _held(self) -> Session:
        """Give Everlog's session to write to, under the lease."""
        self._holding.hold(self.log)
        return self.log

    def _pop(self) -> Any:
        session = self._found()
        if session is None:
            return None
        head = session.refresh()
        found = self._newest(session, 1)
        if not found:
            return None
        event, item = found[0]
        session.rewind(event.position, reason="pop_item", expected=head)
        return item

    def _clear(self) -> None:
        session = self._found()
        if session is not None and self._newest(session, 1):
            session.rewind(0, reason="clear_session")

    def _replace_all(self, items: list[Any]) -> None:
        events = [event_of(item) for item in items]

        def attempt() -> None:
            if self._found() is not None or events:
                self._held().rewind(0, reason="all items were replaced", events=events)

        self._retried(attempt)

    def _replace_end(
        self, seen: list[tuple[Event, Any]], items: list[Any], prune: Callable[[Any], bool] | None
    ) -> bool:
        events = [event_of(item) for item in items]
        return self._retried(lambda: self._replace_if_last(seen, events, prune))

    def _replace_if_last(
        self, seen: list[tuple[Event, Any]], events: list[NewEvent], prune: Callable[[Any], bool] | None
    ) -> bool:
        """Put events in the place of the last items, if they are still the last; drop those at the front that `prune` says."""
        session = self._found()
        if session is None or not seen:
            return False
        head = session.refresh()
        now = self._newest(session, len(seen))
        if [event.hash for event, _ in now] != [event.hash for event, _ in seen]:
            return False
        cut, kept = now[0][0].position, list[NewEvent]()
        if prune is not None:
            before = _said(session.events(stop=cut))
            gone = next((place for place, (_, item) in enumerate(before) if not prune(item)), len(before))
            if gone:
                cut, kept = before[0][0].position, [event_of(item) for _, item in before[gone:]]
        session.rewind(cut, reason="compaction", expected=head, events=[*kept, *events])
        return True

    def _retried(self, attempt: Callable[[], T]) -> T:
        """Try a removal until nobody else wrote between its reading and its writing."""
        deadline, deleted = time.monotonic() + LOCK_SECONDS_MAX, False
        while True:
            try:
                if self._found() is not None:
                    self._held()
                return attempt()
            except NotFoundError:  # somebody deleted it
                if deleted:
                    raise
                deleted, self._session = True, None
            except ConflictError:
                if time.monotonic() > deadline:
                    break
                time.sleep(random.random() * 0.01)  # noqa: S311  # so that who collided do not again
        raise BusyError(
            f"for {LOCK_SECONDS_MAX:g} seconds others wrote to session {self.session_id!r:.100} faster than an item could be taken; "
            "nothing was taken; try again"
        )


def _said(events: Any) -> list[tuple[Event, Any]]:
    """Give events with the items that they say, without those that say none."""
    said: list[tuple[Event, Any]] = []
    for event in events:
        with suppress(NothingSaidError):
            said.append((event, item_of(event)))
    return said
