"""The reducer `document`: a JSON value built by `state.set` and `state.patch`."""

from __future__ import annotations

from typing import Any, Final

from everlog.core.event import Event
from everlog.core.patch import Draft
from everlog.errors import InvalidQueryError, PatchError
from everlog.reducers.registry import Reducer, add_reducer

TYPES: Final = ("state.set", "state.patch")


class DocumentFold:
    """Folds with one draft, so that an event costs what it changes."""

    def __init__(self, state: Any) -> None:
        self._draft = Draft(state)

    @property
    def value(self) -> Any:
        return self._draft.value

    def apply(self, event: Event) -> None:
        """Take an event. PatchError where it cannot be applied: then it changes nothing."""
        data = event.data
        if not isinstance(data, dict):
            return
        try:
            if event.type == "state.set":
                self._draft.set(data["path"], data["value"])
            elif event.type == "state.patch":
                root = data.get("path") or ""
                if "ops" in data:
                    self._draft.patch(data["ops"], root)
                else:
                    self._draft.merge(data["merge"], root)
        except InvalidQueryError as error:
            raise PatchError(error.message) from None
        except KeyError as error:
            raise PatchError(f"the event lacks {error}") from None


def _step(state: Any, event: Event) -> Any:
    """Give the document after an event; what cannot be applied changes nothing."""
    fold = DocumentFold(state)
    try:
        fold.apply(event)
    except PatchError:
        return state
    return fold.value


DOCUMENT: Final = add_reducer(
    Reducer("document", 1, _step, initial={}, types=TYPES, start_fold=DocumentFold, makes_json=True)
)
