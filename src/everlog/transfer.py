"""Moving sessions: to a bundle file, from one, and between stores, every hash unchanged (FORMAT §6).

1. What is moved is a *parcel*: a session with every branch that its lineages need, then pages of events with bodies and
   salts, then ledger records. A bundle is a parcel as a tar file; a copy hands it on directly.
2. A bundle is checked whole, from its bytes, before anything of it is taken.
3. Taking matches by leaves: what is here is not taken again; where the histories part, the rest becomes a new branch
   with the same `writer`, and nothing is lost.
4. Events are taken a page at a time, each page atomically, in order: what an interruption leaves is a prefix, and taking
   again goes on from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec

from everlog.audit import all_sessions
from everlog.core.decide import Batch, EventRow, Expected, StaleExpectationError
from everlog.core.prepare import Draw
from everlog.errors import (
    NotFoundError,
    SessionExistsError,
    UnavailableError,
)
from everlog.parcels import BranchParcel, Pages, Progress, SessionParcel, check_parcel, pack_session
from everlog.reader import View, base_at
from everlog.storage import (
    Adopt,
    AdoptedEvent,
    Base,
    BranchRow,
    Create,
    Family,
    Graft,
    SessionRow,
    Storage,
    Switch,
    Update,
)


class Transferred(msgspec.Struct, frozen=True):
    """What became of a session that was taken. events: newly stored; known: here before.

    diverged: names of branches made for what parted from the history here. branches: that were newly made in all.
    """

    session: str
    events: int
    known: int
    branches: int
    diverged: tuple[str, ...]


class _Taker:
    """Takes one parcel. placed: the target's branch for each of the parcel's."""

    def __init__(
        self, target: Storage, draw: Draw, parcel: SessionParcel, pages: Pages, progress: Progress | None
    ) -> None:
        self.target = target
        self.draw = draw
        self.parcel = parcel
        self.pages = pages
        self.progress = progress
        self.placed: list[BranchRow] = []
        self.events = self.known = self.branches = 0
        self.diverged: list[str] = []

    def take(self) -> Transferred:
        session = self.session()
        for index, branch in enumerate(self.parcel.branches):
            self.placed.append(self._place(session, index, branch))
            session = session or self.session()
        assert session is not None, "the session's own branch was made"
        self._follow(session)
        return Transferred(session.name, self.events, self.known, self.branches, tuple(self.diverged))

    def session(self) -> SessionRow | None:
        """Read the session where it is here."""
        try:
            return self.target.session_by_id(self.parcel.session)
        except NotFoundError:
            return None

    def _place(self, session: SessionRow | None, index: int, branch: BranchParcel) -> BranchRow:
        """Give the target's branch that holds this one's events, after storing what it lacked."""
        known, base = self.target.branch_by_id(branch.id), None
        present = known if known is not None and self._stands_here(known, branch) else None
        if present is None:
            base = None if branch.base is None else base_at(self.target, *self._base(branch))
            present = self._under_another_id(session, index, branch, base)
        if present is None:
            made = self._make(session, branch.id if known is None else self.draw(16).hex(), branch, base)
            return self._append(made, index, branch.base_size)
        shared = self._shared(present, index, branch)
        self.known += shared - branch.base_size
        if branch.own and (session is None or present.session != session.key):
            return self._mirror(session, present, index, branch, shared)
        return self._go_on(session, present, index, branch, shared)

    def _go_on(
        self, session: SessionRow | None, present: BranchRow, index: int, branch: BranchParcel, shared: int
    ) -> BranchRow:
        """Store what a branch here lacks after `shared`, up to where it and the parcel's are the same."""
        if shared == branch.size:
            return present
        if shared == present.size:
            return self._append(present, index, shared)
        return self._diverge(session, present, index, branch, shared)

    def _make(self, session: SessionRow | None, branch_id: str, branch: BranchParcel, base: Base | None) -> BranchRow:
        """Make a branch, and the session with it where it is not here yet."""
        if session is None:
            self._create(branch_id, branch.writer, base)
        else:
            self.target.write(Graft(session.id, branch_id, branch.writer, base))
        self.branches += 1
        made = self.target.branch_by_id(branch_id)
        assert made is not None, "the branch was just made"
        return made

    def _mirror(
        self, session: SessionRow | None, present: BranchRow, index: int, branch: BranchParcel, shared: int
    ) -> BranchRow:
        """Give the session a branch of its own on events that came here with a fork of it."""
        if (found := self._taken_before(session, index, branch)) is not None:
            row, at = found
            self.known += max(0, at - shared)
            return row if at == branch.size else self._append(row, index, at)
        base = base_at(self.target, View(present, self.target.lineage(present.key, "")), shared)
        return self._append(self._make(session, self.draw(16).hex(), branch, base), index, shared)

    def _taken_before(
        self, session: SessionRow | None, index: int, branch: BranchParcel
    ) -> tuple[BranchRow, int] | None:
        """Find the session's branch that holds this one's events under another id, and how many of them."""
        for row in [] if session is None else self.target.branches(session.key):
            if row.writer == branch.writer:
                at = self._shared(row, index, branch)
                if at == min(row.size, branch.size):
                    return row, at
        return None

    def _base(self, branch: BranchParcel) -> tuple[View, int]:
        assert branch.base is not None, "asked only of branches with a base"
        row = self.placed[branch.base]
        return View(row, self.target.lineage(row.key, "")), branch.base_size

    def _stands_here(self, present: BranchRow, branch: BranchParcel) -> bool:
        """Tell whether a branch of the same id has the same beginning here: it may belong to a deleted session."""
        try:
            self.target.session_of(present.key)
        except NotFoundError:
            return False
        return present.writer == branch.writer and present.base_size == branch.base_size

    def _under_another_id(
        self, session: SessionRow | None, index: int, branch: BranchParcel, base: Base | None
    ) -> BranchRow | None:
        """Find the branch that holds this one's events where its id is not here, or a deleted session's.

        That is what was made where histories parted, or when a deleted session was taken again.
        """
        own = [] if session is None else self.target.branches(session.key)
        same = [row for row in own if row.writer == branch.writer]
        for row in same:
            if branch.base_size < self._shared(row, index, branch) == min(row.size, branch.size):
                return row
        place = (None if base is None else base.branch, branch.base_size)
        return next((row for row in same if (row.base, row.base_size) == place), None)

    def _shared(self, present: BranchRow, index: int, branch: BranchParcel) -> int:
        """Give the size up to which the branch here and the parcel's have the same leaves."""
        lineage = self.target.lineage(present.key, "")
        at = branch.base_size
        for page in self.pages(index, at):
            here: list[EventRow] = []
            while at + len(here) < min(present.size, at + len(page)):
                start = at + len(here)
                here.extend(self.target.rows(lineage, start, min(present.size, at + len(page)), as_stored=True))
            for event, row in zip(page, here, strict=False):
                if event.row.leaf != row.leaf:
                    return at
                at += 1
            if len(here) < len(page):
                return at
        return at

    def _diverge(
        self, session: SessionRow | None, present: BranchRow, index: int, branch: BranchParcel, shared: int
    ) -> BranchRow:
        base = base_at(self.target, View(present, self.target.lineage(present.key, "")), shared)
        made_before = self._earlier_divergence(present, index, branch, shared, base)
        if made_before is not None:
            at = self._shared(made_before, index, msgspec.structs.replace(branch, base_size=made_before.base_size))
            self.known += at - shared
            return self._go_on(session, made_before, index, branch, at)
        made = self._make(session, self.draw(16).hex(), branch, base)
        self.diverged.append(f"b{made.number}")
        return self._append(made, index, shared)

    def _earlier_divergence(
        self, present: BranchRow, index: int, branch: BranchParcel, shared: int, base: Base | None
    ) -> BranchRow | None:
        """Find the branch that an earlier taking made where the histories part, if what it holds is the parcel's."""
        leaf = next(self.pages(index, shared))[0].row.leaf
        place = (branch.writer, None if base is None else base.branch, shared)
        for row in self.target.branches(present.session):
            if row.key != present.key and (row.writer, row.base, row.base_size) == place:
                if row.size == shared:  # it was stopped before the first page
                    return row
                first = self.target.rows(self.target.lineage(row.key, ""), shared, shared + 1, as_stored=True)[0]
                if first.leaf == leaf:
                    return row
        return None

    def _create(self, branch_id: str, writer: str, base: Base | None) -> None:
        parcel = self.parcel
        self.target.write(
            Create(
                parcel.session,
                parcel.id,
                parcel.title,
                parcel.labels,
                None if parcel.metadata is None else parcel.metadata.encode(),
                None if parcel.parent is None else bytes.fromhex(parcel.parent),
                self.draw(32),
                Family(parcel.family, bytes.fromhex(parcel.key_salt)),
                branch_id,
                writer,
                base,
                None,
                Batch(()),
            )
        )

    def _append(self, row: BranchRow, index: int, start: int) -> BranchRow:
        previous = row.leaf
        for page in self.pages(index, start):
            adopted = tuple(AdoptedEvent(event.row, event.attachments) for event in page)
            self.target.write(Adopt(row.key, previous, adopted))
            previous = page[-1].row.leaf
            self.events += len(page)
            if self.progress is not None:
                self.progress(self.events)
        return self.target.branch(row.key)

    def _follow(self, session: SessionRow) -> None:
        """Have what is current, and what the session is called, be as in the parcel, unless it went on by itself here."""
        parcel, wanted = self.parcel, self.placed[self.parcel.current]
        placed = zip(self.placed, parcel.branches, strict=True)
        here = next((row for row, branch in placed if row.key == session.current and row.size == branch.size), None)
        if here is None:
            return
        expected = Expected(here.id, here.size, None)
        metadata = None if parcel.metadata is None else parcel.metadata.encode()
        if (session.title, session.labels, session.metadata) != (parcel.title, parcel.labels, metadata):
            self.target.write(Update(session.id, parcel.title, parcel.labels, metadata, Batch((), expected)))
        if here.key != wanted.key:
            self.target.write(Switch(session.id, wanted.key, expected, Batch(())))


def copy_sessions(
    source: Storage, target: Storage, draw: Draw, names: Sequence[str] | None, *, progress: Progress | None = None
) -> list[Transferred]:
    """Copy sessions between stores; all living ones where no names are given."""
    results: list[Transferred] = []
    for session in _living(source) if names is None else (source.session(name) for name in names):
        parcel, pages = pack_session(source, session)
        check_parcel(parcel, pages, latest=None, erased=lambda leaf: source.erasure(leaf) is not None)
        results.append(take_checked(target, draw, parcel, pages, progress))
    return results


def _living(source: Storage) -> Iterator[SessionRow]:
    """Give every session as it is when its turn comes, but those that were deleted meanwhile."""
    for session in all_sessions(source):
        with suppress(NotFoundError):
            yield source.session_by_id(session.id)


def take_checked(
    target: Storage, draw: Draw, parcel: SessionParcel, pages: Pages, progress: Progress | None
) -> Transferred:
    """Store what a checked parcel holds and the target lacks."""
    taker = _Taker(target, draw, parcel, pages, progress)
    try:
        return taker.take()
    except (StaleExpectationError, SessionExistsError) as error:
        if isinstance(error, StaleExpectationError) or taker.session() is not None:  # somebody else takes it too
            raise UnavailableError(
                f"session {parcel.id!r} was written to while it was being taken; what was taken is whole; take it again to go on"
            ) from None
        raise SessionExistsError(
            f"another session {parcel.id!r} is in this store, with another history; nothing was taken; delete it, or take "
            "the bundle into another store"
        ) from None
