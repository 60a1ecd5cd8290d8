"""Where two lines last were the same, so that their documents can be merged of three.

1. A line knows its own events, and those of every cut whose document was merged into it, and what that cut knew in turn.
2. Two lines met at the newest cut that both know. A merge of other lines between, a rewind of the other line, or an older
   place of it changes nothing about that: cuts are compared by the rows that they share, not by when they were merged.
3. Where they met at several cuts, none newer than another (each merged the other's past), the base is those cuts merged
   in turn; a member that these changed differently has no base, and is a conflict wherever the two lines differ there.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from everlog.core.event import Event
from everlog.core.lineage import Lineage, common_ancestor
from everlog.core.patch import StateConflict, merge_three
from everlog.core.query import Exact, Term
from everlog.reader import View
from everlog.rebuild import Builder
from everlog.reducers.document import DOCUMENT
from everlog.storage import Storage

_MERGED: Final = (Term("type", (Exact("session.merged"),)),)
_NESTING_MAX: Final = 4  # of merged bases; deeper, nothing is known, and every difference is a conflict


class Unsure:
    """Stands in a base for a member of which it is not known what it was: nothing is the same as it."""


class _Cut(msgspec.Struct, frozen=True):
    """The events [0, size) of a line."""

    view: View
    size: int

    @property
    def lineage(self) -> Lineage:
        return self.view.lineage


def common_document(storage: Storage, ours: View, theirs: View, cut: int) -> Any:
    """Give the document that a line at its end and another at a cut began with: that of where they last met."""
    return _History(storage).base(_Cut(ours, ours.size), _Cut(theirs, cut), nesting=0)


def holds_unsure(value: Any) -> bool:
    """Tell whether a member of a base, or anything in it, is not known."""
    if isinstance(value, dict):
        return any(map(holds_unsure, value.values()))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
    return isinstance(value, Unsure)


class _History:
    """What lines know. Reads only what lies after what two lines share."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._merges: dict[tuple[int, int, int], list[_Cut]] = {}

    def base(self, one: _Cut, other: _Cut, *, nesting: int) -> Any:
        """Give the document that two cuts have in common."""
        met = self._met(one, other)
        if len(met) > 1 and nesting == _NESTING_MAX:
            return Unsure()
        value = self._document(met[0])
        for cut in met[1:]:
            base = self.base(met[0], cut, nesting=nesting + 1)
            value, _ = merge_three(base, value, self._document(cut), decide=_unsure)
        return value

    def _met(self, one: _Cut, other: _Cut) -> list[_Cut]:
        """Give the newest cuts that both know."""
        shared = _shared(one, other)
        found = [
            _Cut(ours.view, _shared(ours, theirs))
            for ours in self._known(one, shared)
            for theirs in self._known(other, shared)
        ]
        newest: list[_Cut] = []
        for cut in sorted(found, key=_size, reverse=True):
            if not any(self._includes(later, cut) for later in newest):
                newest = [later for later in newest if not self._includes(cut, later)] + [cut]
        return newest

    def _known(self, cut: _Cut, start: int) -> list[_Cut]:
        """Give a cut, and those merged into it in [start, size), each as far as it went, and theirs."""
        known: list[_Cut] = []
        waiting = [(cut, start)]
        while waiting:
            here, after = waiting.pop()
            if any(_within(here, there) for there in known):
                continue
            known = [there for there in known if not _within(there, here)] + [here]
            waiting += [
                (merged, max(_shared(merged, there) for there in (cut, here))) for merged in self._merged(here, after)
            ]
        return known

    def _merged(self, cut: _Cut, start: int) -> list[_Cut]:
        """Give the cuts whose documents were merged into a line in [start, size)."""
        key = (cut.lineage.branch, start, cut.size)
        if key not in self._merges:
            found: list[_Cut] = []
            while start < cut.size:
                page = self._storage.read(cut.lineage, start, cut.size, terms=_MERGED)
                found += [merged for event in page.events if (merged := self._origin(event, cut.size)) is not None]
                start = cut.size if page.following is None else page.following
            self._merges[key] = found
        return self._merges[key]

    def _origin(self, event: Event, size: int) -> _Cut | None:
        """Give the cut that a merge brought in.

        None where it left the document out, where `size` cuts through its events, or where its line is not in this store.
        """
        data = event.data
        if not isinstance(data, dict) or data.get("document") is False:
            return None
        if event.position + data.get("appended", 0) >= size:
            return None
        origin = data.get("from")
        branch_id, position = (
            (origin.get("branch"), origin.get("position")) if isinstance(origin, dict) else (None, None)
        )
        branch = self._storage.branch_by_id(branch_id) if isinstance(branch_id, str) else None
        if branch is None or not isinstance(position, int) or not 0 <= position <= branch.size:
            return None
        return _Cut(View(branch, self._storage.lineage(branch.key, "")), position)

    def _includes(self, cut: _Cut, other: _Cut) -> bool:
        """Tell whether a cut knows all of another."""
        return any(_within(other, known) for known in self._known(cut, _shared(cut, other)))

    def _document(self, cut: _Cut) -> Any:
        return Builder(self._storage, cut.view, DOCUMENT, taking=None).build(cut.size).value


def _shared(one: _Cut, other: _Cut) -> int:
    return common_ancestor(one.lineage, other.lineage, one_size=one.size, other_size=other.size)


def _within(small: _Cut, large: _Cut) -> bool:
    return _shared(small, large) == small.size


def _size(cut: _Cut) -> int:
    return cut.size


def _unsure(_conflict: StateConflict) -> Unsure:
    return Unsure()
