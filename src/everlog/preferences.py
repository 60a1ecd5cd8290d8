"""Preferences: what is known of a subject across sessions, as a session of its own whose document can be explained.

1. Every change is an event, with the event that it came from as its cause: it can be listed, rewound and asked why.
2. A session that reads preferences records them, and which head of them it read: `/preferences` in its document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from everlog.core.canonical import decode_state, encode_state
from everlog.core.event import Event, Head, NewEvent
from everlog.errors import InvalidPlaceError
from everlog.explain import Reason
from everlog.reader import PlaceLike
from everlog.rebuild import Builder
from everlog.reducers.document import DOCUMENT, TYPES
from everlog.session import Session
from everlog.state import State

PREFIX: Final = "preferences/"
LABEL: Final = "preferences"
_SUBJECT_CHARACTERS_MAX: Final = 200


class Preferences:
    """The preferences of one subject. session: where they are recorded; everything that sessions can do, it can."""

    def __init__(self, session: Session, subject: str) -> None:
        self.session = session
        self.subject = subject

    def __repr__(self) -> str:
        return f"<Preferences of {self.subject!r}: {self.state().value!r:.200}>"

    def state(self, at: PlaceLike = "end") -> State:
        """Give the preferences at a place."""
        return self.session.state("document", at=at)

    def get(self, pointer: str, default: Any = None) -> Any:
        """Give one preference by JSON Pointer ("/tone"), or the default."""
        return self.state().get(pointer, default)

    def set(
        self,
        pointer: str,
        value: Any,
        *,
        source: Event | str | None = None,
        rationale: str | None = None,
        actor: str | None = None,
        expected: int | Head | None = None,
    ) -> Event:
        """Set a preference. source: the event that it came from, of any session of the store."""
        return self.change([(pointer, value)], source=source, rationale=rationale, actor=actor, expected=expected)[0]

    def remove(
        self,
        pointer: str,
        *,
        source: Event | str | None = None,
        rationale: str | None = None,
        actor: str | None = None,
        expected: int | Head | None = None,
    ) -> Event:
        """Take a preference away; PatchError where there is none."""
        return self.change(remove=[pointer], source=source, rationale=rationale, actor=actor, expected=expected)[0]

    def change(
        self,
        sets: Iterable[tuple[str, Any]] = (),
        *,
        remove: Iterable[str] = (),
        source: Event | str | None = None,
        rationale: str | None = None,
        actor: str | None = None,
        expected: int | Head | None = None,
    ) -> list[Event]:
        """Set preferences (pointer and value), then take others away: all of them in one append, or none; give the events."""
        events = [("state.set", {"path": pointer, "value": value}) for pointer, value in sets]
        events += [("state.patch", {"ops": [{"op": "remove", "path": pointer}]}) for pointer in remove]
        return self.session.extend(
            [NewEvent(type, data, caused_by=source, rationale=rationale, actor=actor) for type, data in events],
            expected=expected,
            state=DOCUMENT,
        )

    def changes(self, *, limit: int = 100) -> list[Event]:
        """Give the events that changed preferences, the newest first."""
        return list(self.session.events(types=TYPES, reverse=True, limit=limit))

    def why(self, pointer: str, *, limit: int = 20) -> list[Reason]:
        """Give the events that gave a preference its value, the newest first."""
        return self.session.why(pointer, limit=limit)

    def rewind(self, to: PlaceLike, *, reason: str | None = None, actor: str | None = None) -> Event:
        """Go back to what the preferences were at a place."""
        return self.session.rewind(to, reason=reason, actor=actor)

    def reading(self) -> NewEvent:
        """Give the event by which a session records what it read here, and at which head."""
        view = self.session.view()
        value = Builder(self.session.storage, view, DOCUMENT, taking=None).build(view.size).value
        head = view.branch.head()
        origin: Mapping[str, Any] = {
            "subject": self.subject,
            "session": self.session.uuid,
            "branch": view.branch.id,
            "position": head.size,
            "root": head.root,
        }
        copied = decode_state(encode_state(value))
        return NewEvent("state.set", {"path": "/preferences", "value": copied}, metadata={"preferences": origin})

    def apply(self, session: Session) -> Event:
        """Record in a session what the preferences are now, and which head of them was read."""
        new = self.reading()
        return session.append(new.type, new.data, metadata=new.metadata)


def preferences_session(subject: object) -> str:
    """Give the id of the session that holds a subject's preferences."""
    if not isinstance(subject, str) or not subject.isprintable() or not 1 <= len(subject) <= _SUBJECT_CHARACTERS_MAX:
        raise InvalidPlaceError(
            f"subject {subject!r:.100} is not 1 to {_SUBJECT_CHARACTERS_MAX} printable characters; nothing was done; name one, "
            "as in user:u7"
        )
    return f"{PREFIX}{subject}"
