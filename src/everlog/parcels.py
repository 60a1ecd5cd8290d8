"""Parcels: what is moved of a session (FORMAT §6), packing one, and checking one whole from its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from everlog.audit import check_contents
from everlog.core import limits
from everlog.core.decide import EventRow, check_row, decode_covers, header_of
from everlog.core.event import ERASED, Body, PreparedAttachment
from everlog.core.header import check_header, encode_header
from everlog.core.labels import check_labels, check_title, encode_metadata
from everlog.core.lineage import Lineage
from everlog.core.merkle import Nodes, leaf_hash, push_leaf, range_root, root_of_peaks, split_digests
from everlog.core.position import check_session_id
from everlog.core.prepare import check_attachment_name, check_key
from everlog.core.values import decode_json
from everlog.errors import (
    InvalidEventError,
    InvalidPlaceError,
    LimitError,
    TamperedError,
)
from everlog.reader import View, base_at
from everlog.storage import (
    BranchRow,
    SessionRow,
    Storage,
)

BUNDLE_FORMAT = "everlog/1/bundle"
# Nodes that checking what summaries cover may read, to begin with and for each event: ours take one or two an event, and ranges that are
# made up to be slow as many as the bundle has events, each.
_COVERED_NODES, _COVERED_NODES_AN_EVENT = 65_536, 64

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
            check_row(row, lineage.session)
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
    _check_called(parcel)
    checkpoints: dict[tuple[int, int], tuple[list[bytes], bytes | None, int]] = {}
    for branch in parcel.branches:
        if branch.base is not None:
            checkpoints[branch.base, branch.base_size] = ([], None, 0)
    left = dict(heads or {})
    covered = _Covered()
    count = newest = 0
    key_salt = bytes.fromhex(parcel.key_salt)
    for index, branch in enumerate(parcel.branches):
        peaks, previous, recorded = ([], None, 0) if branch.base is None else checkpoints[branch.base, branch.base_size]
        peaks = list(peaks)
        position = branch.base_size
        covered.begin(branch)
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
                try:
                    covered.check(row, push_leaf(peaks, position, row.leaf))
                except ValueError as error:
                    raise _tampered(parcel, branch, position, str(error)) from None
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


def _check_called(parcel: SessionParcel) -> None:
    """Check what a session is called, of which no hash is made: it would stand in every listing."""
    try:
        check_session_id(parcel.id)
        check_title(parcel.title)
        check_labels(parcel.labels)
        if parcel.metadata is not None:
            encode_metadata(decode_json(parcel.metadata.encode(), what="its metadata"))
        if not 0 <= parcel.created <= limits.SAFE_INTEGER_MAX:
            raise InvalidEventError(f"it was made at {parcel.created}, which is no time")
    except (InvalidEventError, InvalidPlaceError, LimitError) as error:
        raise TamperedError(
            f"the session in it is called as none can be: {error.message}; nothing was taken; get the bundle again from where it was made"
        ) from None


class _Covered:
    """Holds what summaries say of the events that they cover against the leaves of those. All nodes of the parcel are kept at hand for it."""

    def __init__(self) -> None:
        self._lines: list[Nodes] = []
        self._left = _COVERED_NODES

    def begin(self, branch: BranchParcel) -> None:
        """Go on with the next branch."""
        self._lines.append(Nodes(None if branch.base is None else self._lines[branch.base], branch.base_size))

    def check(self, row: EventRow, nodes: bytes) -> None:
        """Check an event, whose leaf completes these nodes; ValueError."""
        for start, stop, said in [] if row.covers is None else decode_covers(row.covers):
            if not 0 <= start < stop <= row.position or range_root(start, stop, self._read).hex() != said:
                raise ValueError("the hashes of what it covers are not those of the events there")
        self._lines[-1].add(row.leaf, nodes)
        self._left += _COVERED_NODES_AN_EVENT

    def _read(self, level: int, index: int) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ValueError("what it covers lies so that nobody can check it in reasonable time")
        return self._lines[-1].read(level, index)


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
        check_header(header)
        if row.key is not None:
            check_key(row.key)
        for item in event.attachments:
            check_attachment_name(item.name)
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
    except (ValueError, InvalidEventError, LimitError, AssertionError) as error:
        raise _tampered(parcel, branch, row.position, str(error)) from None
    if (row.recorded or 0) < recorded:
        raise _tampered(parcel, branch, row.position, "its time lies before that of the event before it")


def _check_body(body: bytes) -> None:
    value = decode_json(body, what="its body")
    if not isinstance(value, dict):
        raise ValueError("its body is no JSON object")  # noqa: TRY004  # as its callers' other refusals
    try:
        msgspec.json.decode(body, type=Body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"its body is not as an event's is ({error})") from None


def _tampered(parcel: SessionParcel, branch: BranchParcel, position: int | None, what: str) -> TamperedError:
    place = "" if position is None else f"@{position}"
    return TamperedError(
        f"{parcel.id!r}~{branch.id[:8]}{place}: {what}; nothing was taken; get the bundle again from where it was made"
    )
