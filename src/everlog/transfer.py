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

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import msgspec

from everlog.audit import all_sessions, check_contents
from everlog.core import limits
from everlog.core.decide import Batch, EventRow, Expected, StaleExpectationError, header_of
from everlog.core.event import ERASED, PreparedAttachment
from everlog.core.header import encode_header
from everlog.core.lineage import Lineage
from everlog.core.merkle import leaf_hash, push_leaf, root_of_peaks, split_digests
from everlog.core.prepare import Draw
from everlog.core.values import decode_json
from everlog.errors import (
    InvalidEventError,
    LimitError,
    NotFoundError,
    SessionExistsError,
    TamperedError,
    UnavailableError,
)
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

BUNDLE_FORMAT = "everlog/1/bundle"

Progress = Callable[[int], None]


# --- parcels -------------------------------------------------------------------------------------
class BranchParcel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A branch as it is moved. base: index among the parcel's branches, always a smaller one.

    size: of the lineage as far as the parcel holds it; root: there. own: whether it is of the moved session itself.
    """

    id: str
    writer: str
    base: int | None
    base_size: int
    size: int
    root: str
    own: bool


class SessionParcel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is moved of a session besides its events. metadata: its JSON text. current: index of the current branch.

    key_salt: of the family, without which keys could not be found again.
    """

    v: str = BUNDLE_FORMAT
    session: str
    id: str
    title: str | None
    labels: dict[str, str]
    metadata: str | None
    parent: str | None
    created: int
    family: str
    key_salt: str
    branches: list[BranchParcel]
    current: int


class EventParcel(msgspec.Struct, frozen=True):
    """A moved event: its row without nodes, and its attachments."""

    row: EventRow
    attachments: tuple[PreparedAttachment, ...]


# Gives the events [start, stop) of the parcel's branch at an index, in pages.
Pages = Callable[[int, int], Iterator[list[EventParcel]]]


class Transferred(msgspec.Struct, frozen=True):
    """What became of a session that was taken. events: newly stored; known: here before.

    diverged: names of branches made for what parted from the history here. branches: that were newly made in all.
    """

    session: str
    events: int
    known: int
    branches: int
    diverged: tuple[str, ...]


def pack_session(storage: Storage, session: SessionRow) -> tuple[SessionParcel, Pages]:
    """Give a stored session as a parcel, as it is now."""
    own = storage.branches(session.key)
    sizes: dict[int, int] = {}
    for branch in own:
        for segment in storage.lineage(branch.key, session.name).segments:
            stop = min(segment.stop, branch.size) if segment.branch == branch.key else segment.stop
            sizes[segment.branch] = max(sizes.get(segment.branch, 0), stop)
    rows = _in_order([storage.branch(key) for key in sizes], own)
    index = {row.key: place for place, row in enumerate(rows)}
    lineages = [storage.lineage(row.key, session.name) for row in rows]
    parcels: list[BranchParcel] = []
    for row, lineage in zip(rows, lineages, strict=True):
        size = row.size if row.session == session.key else sizes[row.key]
        at = base_at(storage, View(row, lineage), size)
        root = root_of_peaks([]) if at is None else root_of_peaks(split_digests(at.peaks))
        parcels.append(
            BranchParcel(
                id=row.id,
                writer=row.writer,
                base=None if row.base is None else index[row.base],
                base_size=row.base_size,
                size=size,
                root=root.hex(),
                own=row.session == session.key,
            )
        )
    parcel = SessionParcel(
        session=session.id,
        id=session.name,
        title=session.title,
        labels=session.labels,
        metadata=None if session.metadata is None else session.metadata.decode(),
        parent=None if session.parent is None else session.parent.hex(),
        created=session.created,
        family=session.family.id,
        key_salt=session.family.key_salt.hex(),
        branches=parcels,
        current=index[session.current],
    )

    def pages(branch: int, start: int) -> Iterator[list[EventParcel]]:
        return line_pages(storage, lineages[branch], start, parcels[branch].size)

    return parcel, pages


def line_pages(storage: Storage, lineage: Lineage, start: int, stop: int) -> Iterator[list[EventParcel]]:
    """Give the events [start, stop) of a line with their attachments, in pages of bounded size."""
    while start < stop:
        page: list[EventParcel] = []
        held = 0  # bytes of attachments, which storage.rows does not count
        for row in storage.rows(lineage, start, stop):
            attachments = tuple(storage.attachments(lineage, row.position)) if row.attached else ()
            page.append(EventParcel(row, attachments))
            held += sum(item.size for item in attachments)
            start += 1
            if held >= limits.PAGE_BYTES_MAX:
                yield page
                page, held = [], 0
        if page:
            yield page


def _in_order(rows: Sequence[BranchRow], own: Sequence[BranchRow]) -> list[BranchRow]:
    """Put branches into the order of their making, each behind its base and a session's own by their numbers.

    Keys alone do not say it where several machines make them: their clocks differ.
    """
    here = {row.key for row in own}
    numbered = iter(own)
    by_key = {row.key: row for row in rows}
    order: dict[int, BranchRow] = {}
    for key in sorted(by_key):
        behind = [next(numbered) if key in here else by_key[key]]
        while (base := behind[-1].base) is not None and base not in order:
            behind.append(by_key[base])
        order.update((row.key, row) for row in reversed(behind))
    return list(order.values())


# --- checking a parcel ---------------------------------------------------------------------------
def check_parcel(
    parcel: SessionParcel,
    pages: Pages,
    *,
    latest: int | None,
    erased: Callable[[bytes], bool],
    heads: Mapping[tuple[int, int], str] | None = None,
    progress: Progress | None = None,
) -> int:
    """Check every event of a parcel against its hashes, and its branches' roots; give the number of events.

    latest: microseconds that no event's time may pass, or None. erased: tells whether a record says so of a leaf. heads: roots that a
    seal says, by index of the branch and size.
    Raises TamperedError, which names the first difference, or LimitError for an event that lies in the future.
    """
    checkpoints: dict[tuple[int, int], tuple[list[bytes], bytes | None, int]] = {}
    for branch in parcel.branches:
        if branch.base is not None:
            checkpoints[branch.base, branch.base_size] = ([], None, 0)
    left = dict(heads or {})
    count = newest = 0
    key_salt = bytes.fromhex(parcel.key_salt)
    for index, branch in enumerate(parcel.branches):
        peaks, previous, recorded = ([], None, 0) if branch.base is None else checkpoints[branch.base, branch.base_size]
        peaks = list(peaks)
        position = branch.base_size
        for page in pages(index, position):
            for event in page:
                row = event.row
                if row.position != position:
                    raise _tampered(parcel, branch, position, f"the event there says that it stands at {row.position}")
                _check_event(parcel, branch, event, previous, recorded, key_salt)
                if row.gone == ERASED and not erased(row.leaf):
                    raise _tampered(
                        parcel, branch, position, "its body is missing, and no record says that it was erased"
                    )
                push_leaf(peaks, position, row.leaf)
                previous, recorded, position = row.leaf, max(recorded, row.recorded or 0), position + 1
                if (index, position) in checkpoints:
                    checkpoints[index, position] = (list(peaks), previous, recorded)
                sealed = left.pop((index, position), None)
                if sealed is not None and root_of_peaks(peaks).hex() != sealed:
                    raise _tampered(parcel, branch, None, f"its first {position} events are not those that were sealed")
            count += len(page)
            if progress is not None:
                progress(count)
        newest = max(newest, recorded)
        if position != branch.size or root_of_peaks(peaks).hex() != branch.root:
            raise _tampered(parcel, branch, None, f"its {position} events do not give the root that it names")
    for index, size in left:
        branch = parcel.branches[index]
        raise _tampered(parcel, branch, None, f"{size} events of it were sealed, and the bundle holds {branch.size}")
    if latest is not None and newest > latest:  # last, since a time says nothing before its hash was checked
        raise LimitError(
            f"session {parcel.id!r} holds events that were recorded more than "
            f"{limits.CLOCK_AHEAD_MICROS_MAX // 60_000_000} minutes ahead of this store's clock; nothing was taken; set the "
            "clock right, or pass force=True"
        )
    return count


def _check_event(
    parcel: SessionParcel,
    branch: BranchParcel,
    event: EventParcel,
    previous: bytes | None,
    recorded: int,
    key_salt: bytes,
) -> None:
    row = event.row
    try:
        header = header_of(row, writer=branch.writer, previous=previous, key_salt=key_salt)
        if leaf_hash(encode_header(header)) != row.leaf:
            raise ValueError("its header is not what its leaf was made of")
        if row.gone is None:
            check_contents(row, list(event.attachments))
            assert row.body is not None, "check_contents asked for it"
            _check_body(row.body)
        elif (
            row.body is not None or row.salt is not None or any(item.content or item.salt for item in event.attachments)
        ):
            raise ValueError("it is marked as erased or withheld, and some of it is there")
    except (ValueError, InvalidEventError, AssertionError) as error:
        raise _tampered(parcel, branch, row.position, str(error)) from None
    if (row.recorded or 0) < recorded:
        raise _tampered(parcel, branch, row.position, "its time lies before that of the event before it")


def _check_body(body: bytes) -> None:
    value = decode_json(body, what="its body")
    if not isinstance(value, dict):
        raise ValueError("its body is no JSON object")  # noqa: TRY004  # as its callers' other refusals


def _tampered(parcel: SessionParcel, branch: BranchParcel, position: int | None, what: str) -> TamperedError:
    place = "" if position is None else f"@{position}"
    return TamperedError(
        f"{parcel.id!r}~{branch.id[:8]}{place}: {what}; nothing was taken; get the bundle again from where it was made"
    )


# --- taking a parcel -----------------------------------------------------------------------------
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
