"""Sessions that Google ADK kept in SQLite: `DatabaseSessionService` in both of its schemas, and `SqliteSessionService`.

1. A session becomes the session that `everlog.integrations.adk.EverlogSessionService` goes on with under the same names, and each of
   its events the append that the service would have made.
2. Events stand in the order in which they were written. Importing again adds what is new, also where the session went on here; what
   was rewound here does not come back.
3. A session's state is what the source says it is: where the events do not give it, it is set before the first of them, or after the
   last. The app's and the users' state are set to the source's where it is another than at the import before.
4. An event that ADK or the log refuses is kept as its bytes, attached to an event of its own, and reported.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from msgspec.structs import replace

from everlog.core.event import NewEvent
from everlog.errors import EverlogError, InvalidEventError, LimitError, SecretError, UnsupportedStoreError
from everlog.importers.databases import columns_of, no_database, opened
from everlog.importers.record import PROBLEMS_MAX, Imported, Problem, digest
from everlog.integrations.adk_events import SHARED, TEMP, Item, encode_event, patch_of
from everlog.session import Session
from everlog.store import Store

if TYPE_CHECKING:
    from google.adk.events.event import Event

FORMAT: Final = "adk"
PATTERNS: Final = ("*.db", "*.sqlite", "*.sqlite3")
_WHAT: Final = "Google ADK's sessions"
_TABLES: Final = {
    "sessions": frozenset({"app_name", "user_id", "id", "state", "create_time"}),
    "events": frozenset({"app_name", "user_id", "session_id", "id", "invocation_id", "timestamp"}),
    "app_states": frozenset({"app_name", "state"}),
    "user_states": frozenset({"app_name", "user_id", "state"}),
}
_SESSIONS: Final = """
    SELECT app_name, user_id, id, state, create_time FROM sessions ORDER BY create_time, app_name, user_id, id"""
_IMPORTED: Final = "adk-import:"  # keys of what sets an app's or a user's state to the source's
_BATCH_EVENTS: Final = 300  # of one append: few enough to stay small, many enough to share a sync
_JSON_COLUMNS: Final = (
    *("content", "grounding_metadata", "custom_metadata", "usage_metadata", "citation_metadata"),
    *("input_transcription", "output_transcription"),
)


def import_database(store: Store, path: Path) -> Iterator[Imported]:
    """Import a database, a session at a time; give what became of each."""
    try:
        import_module("everlog.integrations.adk")
    except ImportError as error:
        raise UnsupportedStoreError(f"{error}; nothing of {path} was imported") from error
    with opened(path, _WHAT, _TABLES) as source:
        if not {"event_data", "actions"} & columns_of(source, "events"):
            raise no_database(path, _WHAT, "it has no events.event_data, and no events.actions")
        source.row_factory = sqlite3.Row
        for row in source.execute(_SESSIONS).fetchall():
            taken = _Taken(store, path, source, row)
            taken.take()
            yield taken.imported()
        _take_states(store, source)


@dataclass(slots=True)
class _Group:
    """An event of the source as the events of one append; its first holds the key."""

    key: str
    events: Sequence[NewEvent]
    raw: bytes
    problem: str | None = None


@dataclass(slots=True)
class _Taken:
    """One session as it is being imported."""

    store: Store
    path: Path
    source: sqlite3.Connection
    row: sqlite3.Row
    events: int = 0
    known: int = 0
    problems: list[str] = field(default_factory=list[str])

    @property
    def names(self) -> tuple[str, str, str]:
        return self.row["app_name"], self.row["user_id"], self.row["id"]

    @property
    def name(self) -> str:
        """The id of the Everlog session."""
        from everlog.integrations.adk import session_name

        return session_name(*self.names)

    def take(self) -> None:
        """Record what is not recorded yet."""
        groups = list(self._groups())
        state: Item = json.loads(self.row["state"])
        session = self._opened(state, groups)
        keys = {
            event.key: event
            for branch in session.branches()
            for event in branch.events(has="key")
            if event.key is not None
        }
        new = [group for group in groups if group.key not in keys]
        self.known = sum(len(group.events) for group in groups if group.key in keys)
        batch: list[_Group] = []
        for group in new:
            if sum(len(each.events) for each in batch) + len(group.events) > _BATCH_EVENTS:
                self._write(session, batch)
                batch = []
            batch.append(group)
        self._write(session, batch)
        if new or not groups:
            self._correct(
                session, state, alone={key for key in keys if key.startswith("adk")} <= {g.key for g in groups}
            )

    def _opened(self, state: Item, groups: Sequence[_Group]) -> Session:
        from everlog.integrations.adk import labels_of

        told = {path for group in groups for path in _paths(group.events)}
        first = {key: value for key, value in state.items() if patch_of({key: None})["ops"][0]["path"] not in told}
        return self.store.get_or_create(
            self.name,
            labels=labels_of(*self.names[:2]),
            metadata={"adk": list(self.names), "adk.created": _seconds(self.row["create_time"])},
            events=[NewEvent("state.set", {"path": "", "value": first})] if first else [],
        )

    def _groups(self) -> Iterator[_Group]:
        rows = self.source.execute(
            "SELECT * FROM events WHERE app_name = ? AND user_id = ? AND session_id = ? ORDER BY rowid", self.names
        )
        from everlog.integrations.adk import json_of

        limit = self.store.settings.body_bytes_max
        for row in rows:
            raw = _raw(row)
            try:
                key, events = encode_event(json_of(_event(row)), self.name, body_bytes_max=limit)
            except Exception as error:  # noqa: BLE001  # ADK's own models, and what was pickled, raise what they like
                yield self._refused(row["id"], raw, f"is kept as its bytes, since ADK does not read it: {error!s:.300}")
            else:
                yield _Group(key, _keyed(events, key), raw)

    def _refused(self, event_id: str, raw: bytes, problem: str) -> _Group:
        key = f"adk-refused:{digest(event_id)}"
        event = NewEvent("x.adk.refused", {"reason": problem}, attachments={"event": raw}, key=key)
        return _Group(key, [event], raw, problem)

    def _write(self, session: Session, batch: Sequence[_Group]) -> None:
        """Record groups in one append; where one of them is refused, the others without it."""
        if not batch:
            return
        try:
            self.events += len(session.extend([event for group in batch for event in group.events]))
        except SecretError as error:
            if len(batch) == 1:
                self.problems.append(f"event {batch[0].key} is left out: {error.message}")
                return
            self._write_each(session, batch)
        except EverlogError as error:
            if len(batch) > 1:
                self._write_each(session, batch)
            elif batch[0].problem is None and isinstance(error, (InvalidEventError, LimitError)):
                problem = f"is kept as its bytes, since the log refuses it: {error.message}"
                self._write(session, [self._refused(batch[0].key, batch[0].raw, problem)])
            else:
                raise
        else:
            self.problems += [f"event {group.key} {group.problem}" for group in batch if group.problem is not None]

    def _write_each(self, session: Session, batch: Sequence[_Group]) -> None:
        for group in batch:
            self._write(session, [group])

    def _correct(self, session: Session, state: Item, *, alone: bool) -> None:
        """Have the app's and user's state take over what is said of them, and set the state where the events do not give it.

        alone: whether all that is on record came from the source; where the session went on here, its state is its own.
        """
        from everlog.integrations.adk import app_state_name, take_over, user_state_name

        document: Item = session.state("document").value
        shared = document.get(SHARED)
        for name, delta in ((app_state_name(self.names[0]), "app"), (user_state_name(*self.names[:2]), "user")):
            if shared is not None and shared[delta]:
                take_over(
                    _scope(self.store, name, self.names[: 1 if delta == "app" else 2]), shared["id"], shared[delta]
                )
        own = {key: value for key, value in document.items() if not key.startswith(TEMP)}
        redactor = self.store.settings.redactor
        wanted: Item = state if redactor is None else redactor.marked(state)
        if alone and own != wanted:
            kept = {} if shared is None else {SHARED: shared}
            session.append("state.set", {"path": "", "value": {**state, **kept}})

    def imported(self) -> Imported:
        """Give what became of the session."""
        problems = [Problem(path=str(self.path), line=None, reason=reason) for reason in self.problems[:PROBLEMS_MAX]]
        return Imported(
            path=str(self.path),
            sessions=(self.name,),
            events=self.events,
            known=self.known,
            problems=tuple(problems),
            problem_count=len(self.problems),
        )


def _keyed(events: Sequence[NewEvent], key: str) -> list[NewEvent]:
    return [replace(event, key=key) if index == 0 else event for index, event in enumerate(events)]


def _paths(events: Sequence[NewEvent]) -> Iterator[str]:
    """Give the members of the document that events set."""
    for event in events:
        if event.type == "state.patch":
            yield from (op["path"] for op in event.data["ops"])


def _take_states(store: Store, source: sqlite3.Connection) -> None:
    """Set the app's and the users' state to the source's, where it changed since it was imported last."""
    from everlog.integrations.adk import app_state_name, user_state_name

    for row in source.execute("SELECT app_name, state FROM app_states ORDER BY app_name"):
        _set_state(store, app_state_name(row["app_name"]), (row["app_name"],), json.loads(row["state"]))
    for row in source.execute("SELECT app_name, user_id, state FROM user_states ORDER BY app_name, user_id"):
        names = (row["app_name"], row["user_id"])
        _set_state(store, user_state_name(*names), names, json.loads(row["state"]))


def _set_state(store: Store, name: str, names: Sequence[str], state: Item) -> None:
    from everlog.integrations.adk import take_over

    redactor = store.settings.redactor
    # The hash stands in a key, and must not tell a secret that was guessed.
    shown: Item = state if redactor is None else redactor.marked(state)
    if not state:
        return
    scope, said = _scope(store, name, names), digest(shown)
    last = next(iter(scope.events(keys=f"{_IMPORTED}*", reverse=True, limit=1)), None)
    if last is None or str(last.key).rpartition(":")[2] != said:
        take_over(scope, f"{_IMPORTED}{0 if last is None else last.position + 1}:{said}", state)


def _scope(store: Store, name: str, names: Sequence[str]) -> Session:
    from everlog.integrations.adk import labels_of

    labels = labels_of(names[0], names[1] if len(names) > 1 else None)
    return store.get_or_create(name, labels=labels, metadata={"adk": list(names)})


# --- rows ----------------------------------------------------------------------------------------
def _raw(row: sqlite3.Row) -> bytes:
    if "event_data" in row.keys():  # noqa: SIM118  # a row is searched by values
        data = row["event_data"]
        return data.encode() if isinstance(data, str) else bytes(data or b"")
    shown = {name: value.hex() if isinstance(value, bytes) else value for name, value in dict(row).items()}
    return json.dumps(shown).encode()


def _event(row: sqlite3.Row) -> Event:
    """Read an event's row as ADK does."""
    from google.adk.events.event import Event

    if "event_data" not in row.keys():  # noqa: SIM118
        return _pickled_event(dict(row))
    data: Item = json.loads(row["event_data"] or "{}")
    data |= {"id": row["id"], "invocation_id": row["invocation_id"]}
    data.setdefault("timestamp", _seconds(row["timestamp"]))
    return Event.model_validate_json(json.dumps(data))


def _pickled_event(columns: Mapping[str, Any]) -> Event:
    """Read an event of the schema before 1, whose actions are pickled: with ADK's unpickler, which makes only what it knows."""
    pickle = import_module("google.adk.sessions._restricted_pickle")
    stored = import_module("google.adk.sessions.schemas.v0").StorageEvent
    values = dict(columns)
    values["actions"] = None if values["actions"] is None else pickle.loads(values["actions"])
    values["timestamp"] = datetime.fromtimestamp(_seconds(values["timestamp"]), tz=UTC)
    for name in _JSON_COLUMNS:
        values[name] = None if values.get(name) is None else json.loads(values[name])
    for name in ("partial", "turn_complete", "interrupted"):
        values[name] = None if values.get(name) is None else bool(values[name])
    return cast("Event", stored(**values).to_event())


def _seconds(time: Any) -> float:
    """Read a time as SqliteSessionService writes it, in seconds, or as SQLAlchemy does, in UTC without saying so."""
    if isinstance(time, (int, float)):
        return float(time)
    moment = datetime.fromisoformat(time)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
