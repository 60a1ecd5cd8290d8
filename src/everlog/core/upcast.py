"""Upcasting: old shapes of an event's data become new ones when it is read; the stored bytes stay.

1. An event's shape has a version, `metadata.type_version`, 1 where it says none. Appending writes the newest version that
   is known for the type, so that new data is never taken for old.
2. An upcaster takes the data of one version to the next; they are applied one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from everlog.core.canonical import check_state
from everlog.core.standard import is_type
from everlog.errors import EverlogError, InvalidEventError, ReducerError

if TYPE_CHECKING:
    from everlog.core.event import Event

VERSION_MEMBER: Final = "type_version"
Upcaster = Callable[[Any], Any]
F = TypeVar("F", bound=Upcaster)

UPCASTERS: Final[dict[str, dict[int, Upcaster]]] = {}  # by type, then by the version that they start from


def upcast(type: str, from_version: int = 1) -> Callable[[F], F]:
    """Register a function that turns the data of an event type from one version into the next.

    The function takes the event's data, which it may change, and gives the new data. Registering the same type and version
    again replaces it. Appends of this type are of the newest version from now on.
    """
    if not isinstance(type, str) or not is_type(type):
        raise InvalidEventError(f"type {type!r:.100} is no event type; name one as in my.event")
    if isinstance(from_version, bool) or not isinstance(from_version, int) or from_version < 1:
        raise InvalidEventError(f"from_version {from_version!r:.50} is no version; versions are integers from 1")

    def register(function: F) -> F:
        UPCASTERS.setdefault(type, {})[from_version] = function
        return function

    return register


def newest_version(event_type: str) -> int | None:
    """Give the version that appends of a type are written in, None for a type without upcasters."""
    known = UPCASTERS.get(event_type)
    return max(known) + 1 if known else None


def is_upcast(event: Event) -> bool:
    """Tell whether an event's data is given in another shape than the stored one."""
    known = UPCASTERS.get(event.type)
    return known is not None and event.raw is not None and (event.metadata or {}).get(VERSION_MEMBER, 1) in known


def upcast_data(event: Event, data: Any, metadata: Mapping[str, Any] | None) -> Any:
    """Give an event's data in the newest shape. Raises ReducerError naming the event where an upcaster raises."""
    known = UPCASTERS[event.type]
    version = (metadata or {}).get(VERSION_MEMBER, 1)
    while isinstance(version, int) and version in known:
        try:
            data = known[version](data)
            check_state(data)
        except Exception as error:
            what = (
                f"gave no JSON ({error.message})"
                if isinstance(error, EverlogError)
                else f"raised {type(error).__name__}: {error}"
            )
            raise ReducerError(
                f"the upcaster of {event.type!r} from version {version} {what} on "
                f"event {event.id} (position {event.position} of session {event.session!r}); the log is as it was, and "
                "event.raw holds the stored bytes; correct the upcaster",
                event=event,
            ) from error
        version += 1
    return data
