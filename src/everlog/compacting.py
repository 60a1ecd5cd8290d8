"""Compacting: bodies that went cold leave their rows for zstd blocks, and the space goes back to the system.

1. Nothing is changed that is hashed; every read gives what it gave. Interrupt it at any time: each step is a transaction of its own,
   and the next run goes on where the last one stopped.
2. Where anything is erased or deleted between reading events and packing them, they are read again: nothing destroyed comes back.
3. A body that is not what its event committed to stays in its row as it is: it would spoil those beside it, or what shows the damage.
4. Events of the last days stay in rows, and so does the end of a session that is at work: a block is packed when it is full, or when
   its session has rested as long.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import accumulate
from typing import Final

import msgspec

from everlog.cold import Cold, NewBlock, Pack, PutDictionary, Shared
from everlog.core.block import (
    BLOCK_BYTES,
    BLOCK_BYTES_MAX,
    BLOCK_EVENTS,
    BLOCK_EVENTS_MAX,
    DICTIONARY_SAMPLES_MIN,
    SHARED_BYTES_MIN,
    Codec,
    Compressed,
    Entry,
    dictionary_digest,
    make_entry,
    pack_shared,
    train,
)
from everlog.core.decide import EventRow, is_sound
from everlog.core.envelope import NO_SALT, is_sealed
from everlog.core.header import SALT_BYTES, commit_body
from everlog.core.lineage import Lineage
from everlog.core.merkle import DIGEST_BYTES
from everlog.core.pages import fill_leaves, filled, odd_bytes
from everlog.errors import LimitError
from everlog.steps import seconds_of
from everlog.storage import Storage

OLDER_THAN: Final = "1d"
_MICROS: Final = 1_000_000
_BRANCHES: Final = 1_000  # listed at once
_EVENTS: Final = 15 * BLOCK_EVENTS  # of a page, which one transaction packs
_ATTACHED_BYTES_MAX: Final = 32 * 1024 * 1024  # of attachments that one transaction packs; one larger goes alone
PAST_EVENTS_MIN: Final = 48  # that are packed beside appends: a page of short ones
PAST_BYTES_MAX: Final = BLOCK_BYTES_MAX  # after which no more is packed beside an append: a twentieth of a second
_WAITING: Final = 64  # branches whose only blocks are written in an order that fills pages
_SAMPLE_BYTES_MAX: Final = 16 * 1024  # of a body that a dictionary is trained on: long ones say little of their form
_SAMPLES: Final = 512
_GAIN: Final = 0.97  # of the old one's size, at which a new dictionary is worth keeping
_PAGES: Final = 2_000  # of free space given back in one transaction


class Compacted(msgspec.Struct, frozen=True):
    """What compacting did, or with dry_run would do. Bytes, but for counts.

    events: that were looked at. bodies, attachments: that left their rows, of plain bytes; stored: what they take now.
    given_back: free space that went back to the system; free: what is free inside the store and stays for new events.
    """

    events: int
    bodies: int
    attachments: int
    blocks: int
    plain: int
    stored: int
    given_back: int
    free: int
    dry_run: bool


def compact_store(
    storage: Storage,
    *,
    older_than: float | str = OLDER_THAN,
    borders: Mapping[int, int] | None = None,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Compacted:
    """Pack what is older, then give free space back. See `Store.compact`.

    borders: the keys of the branches to pack, and positions that no block of theirs is to lie on both sides of; None for all branches.
    """
    packer = _Packer(storage, cutoff_of(storage, older_than), dry_run=dry_run, progress=progress)
    for branch in cold_branches(storage):
        if borders is None:
            packer.pack_branch(branch)
        elif branch.branch in borders:
            packer.pack_branch(branch, borders[branch.branch])
    packer.pack_waiting()
    given_back = 0 if dry_run else give_back(storage)
    return Compacted(given_back=given_back, free=storage.free(), dry_run=dry_run, **packer.counts())


def compact_past(storage: Storage, branch: int, *, stop: int, events_max: int) -> int:
    """Pack some of a branch's own events before a position, where there are PAST_EVENTS_MIN; give up to where it is packed now.

    events_max: how many at most; they are fewer where more would be beyond PAST_BYTES_MAX, or a block ends better before them.
    For what writes a branch, beside its appends: takes a few milliseconds, is tried once, learns no dictionary and gives no space
    back, since the next events fill it.
    """
    found = _cold_branch(storage, branch)
    if found is None:
        return stop
    stop = min(stop, found.start + events_max)
    if stop - found.start < PAST_EVENTS_MIN:
        return found.start
    packer = _Packer(storage, 0, dry_run=False, progress=None, learns=False)
    return packer.pack_once(branch, storage.lineage(branch, ""), found.start, stop, bytes_max=PAST_BYTES_MAX)


def estimate(storage: Storage, events: int) -> Compacted:
    """Measure what packing all of the store's bodies would give, by packing at most so many events in memory."""
    packer = _Packer(storage, cutoff_of(storage, 0.0), dry_run=True, progress=None)
    for branch in cold_branches(storage):
        packer.pack_branch(msgspec.structs.replace(branch, size=min(branch.size, branch.start + events), recorded=0))
        if packer.counts()["events"] >= events:
            break
    return Compacted(given_back=0, free=storage.free(), dry_run=True, **packer.counts())


def give_back(storage: Storage) -> int:
    """Give free space back to the system, some at a time; give how many bytes."""
    before = storage.free()
    left = storage.give_back(_PAGES)
    while left and (more := storage.give_back(_PAGES)) < left:
        left = more
    return max(0, before - storage.free())


def cutoff_of(storage: Storage, older_than: float | str) -> int:
    """Give the time of the store's clock, microseconds, before which events are older. LimitError; InvalidEventError."""
    seconds = seconds_of(older_than, what="older_than")
    if seconds is None or seconds < 0:
        raise LimitError(f"older_than {older_than!r:.50} is no age; nothing was done; write 0, 12h or 90d")
    return storage.now() - int(seconds * _MICROS)


def cold_branches(storage: Storage) -> Iterator[Cold]:
    """Give every branch with own events that are not packed."""
    after = -1
    while page := storage.cold(after, _BRANCHES):
        yield from page
        after = page[-1].branch


def _cold_branch(storage: Storage, branch: int) -> Cold | None:
    return next((each for each in storage.cold(branch - 1, 1) if each.branch == branch), None)


def packed_until(storage: Storage, branch: Cold, lineage: Lineage, before: int) -> int:
    """Give the cut up to which packing what is older takes a branch's own events. before: microseconds."""
    if branch.recorded < before:
        return branch.size
    stop = max(branch.start, storage.cut_at(lineage, branch.size, before))
    return stop - (stop - branch.start) % BLOCK_EVENTS


class _Event(msgspec.Struct, frozen=True):
    """An event with a body, on its way into a block.

    attachments: (position, number, digest) of those that are worth keeping once. plain: bytes of its body, and of these.
    """

    row: EventRow
    entry: Entry
    attachments: tuple[tuple[int, int, bytes], ...]
    plain: int


class _Page(msgspec.Struct):
    """Events [start, stop), those of them that have bodies, what of them is kept once, and the positions of damaged ones."""

    events: list[_Event]
    start: int
    stop: int
    shared: dict[bytes, Shared]
    damaged: list[int]


class _Waiting(msgspec.Struct, frozen=True):
    """What packs the only block of a branch. plain: bytes of bodies."""

    lineage: Lineage
    request: Pack
    plain: int


class _Packer:
    """Packs branch after branch. before: microseconds; events at or after it stay. learns: whether it makes dictionaries."""

    def __init__(
        self,
        storage: Storage,
        before: int,
        *,
        dry_run: bool,
        progress: Callable[[int], None] | None,
        learns: bool = True,
    ) -> None:
        self._storage = storage
        self._before = before
        self._dry_run = dry_run
        self._progress = progress
        self._learns = learns
        self._dictionaries = _Dictionaries(storage, dry_run=dry_run)
        self._learned = (0, 0)  # branch and position that dictionaries have not learned from
        self._waiting: list[_Waiting] = []
        self._events = self._bodies = self._attachments = self._blocks = self._plain = self._stored = 0
        self._seen: set[bytes] = set()  # in a dry run: what would be kept once already

    def counts(self) -> dict[str, int]:
        """Give what was done so far."""
        return {
            "events": self._events,
            "bodies": self._bodies,
            "attachments": self._attachments,
            "blocks": self._blocks,
            "plain": self._plain,
            "stored": self._stored,
        }

    def pack_branch(self, branch: Cold, border: int = 0) -> None:
        """Pack a branch's own events that are old enough, or have them wait. border: a position that no block is to reach across."""
        lineage = self._storage.lineage(branch.branch, "")
        start, stop = branch.start, packed_until(self._storage, branch, lineage, self._before)
        if start < border < stop:
            start = self.pack(branch.branch, lineage, start, border)
            if start < border:
                return
        self.pack(branch.branch, lineage, start, stop, may_wait=not self._dry_run)

    def pack_waiting(self) -> None:
        """Pack what waits."""
        waiting, self._waiting = self._waiting, []
        for place in fill_leaves([len(each.request.blocks[0].stored.content) for each in waiting]):
            lineage, request, plain = waiting[place].lineage, waiting[place].request, waiting[place].plain
            if self._storage.write(request).count:
                self._count(request, plain)
            else:
                self.pack(request.branch, lineage, request.start, request.stop)

    def pack_once(self, branch: int, lineage: Lineage, start: int, stop: int, *, bytes_max: int) -> int:
        """Pack what one transaction does of a branch's own events in a range that goes on; give up to where that is done."""
        erasures = self._storage.erasures(branch)
        request, _ = self._pack(branch, self._read(lineage, start, stop, bytes_max), erasures, is_last=False)
        return request.stop if self._storage.write(request).count else start

    def pack(self, branch: int, lineage: Lineage, start: int, stop: int, *, may_wait: bool = False) -> int:
        """Pack a branch's own events in a range, or have them wait; give up to where that is done."""
        at, tries = start, 0
        while at < stop:
            erasures = self._storage.erasures(branch)
            page = self._read(lineage, at, stop)
            request, plain = self._pack(branch, page, erasures, is_last=page.stop == stop)
            if may_wait and (at, request.stop) == (start, stop) and _is_small(request):
                self._waiting.append(_Waiting(lineage, request, plain))
                if len(self._waiting) == _WAITING:
                    self.pack_waiting()
                return stop
            if self._dry_run or self._storage.write(request).count:
                self._count(request, plain)
                at, tries = request.stop, 0
                continue
            tries += 1
            now = _cold_branch(self._storage, branch)
            if now is None or now.start > at or tries > 100:
                break  # its session was deleted, or another process packs it
        return at

    def _read(self, lineage: Lineage, start: int, stop: int, bytes_max: int | None = None) -> _Page:
        """Read a page of events. bytes_max: of bodies and attachments, after which it ends; None for what one transaction packs."""
        rows = self._storage.rows(lineage, start, min(stop, start + _EVENTS), as_stored=True)
        page = _Page([], start, start, {}, [])
        attached = held = 0
        for row in rows:
            page.stop = row.position + 1
            if row.body is not None and not _is_sound(row):
                page.damaged.append(row.position)
                continue
            attachments, size = self._read_attachments(lineage, row, page)
            attached, held = attached + size, held + size + len(row.body or b"")
            if row.body is not None:
                entry, shared = make_entry(row.position, row.salt or NO_SALT, row.body)
                for digest, content in shared.items():
                    page.shared[digest] = page.shared.get(digest) or Shared(digest, pack_shared(content))
                page.events.append(_Event(row, entry, attachments, len(row.body) + size))
            if attached > _ATTACHED_BYTES_MAX or (bytes_max is not None and held > bytes_max):
                break
        return page

    def _read_attachments(
        self, lineage: Lineage, row: EventRow, page: _Page
    ) -> tuple[tuple[tuple[int, int, bytes], ...], int]:
        """Take a row's attachments that are worth it into a page; give them, and their bytes."""
        found: list[tuple[int, int, bytes]] = []
        held = 0
        if row.attached is not None and row.body is not None:
            for number, each in enumerate(self._storage.attachments(lineage, row.position, as_stored=True)):
                if each.content is not None and len(each.content) >= SHARED_BYTES_MIN:
                    digest = sha256(each.content).digest()
                    if digest not in page.shared:
                        page.shared[digest] = Shared(digest, pack_shared(each.content))
                    found.append((row.position, number, digest))
                    held += len(each.content)
        return tuple(found), held

    def _pack(self, branch: int, page: _Page, erasures: int, *, is_last: bool) -> tuple[Pack, int]:
        """Give what packs a page, and the bytes of what leaves its rows. Where more follows, the short block at its end is left to it."""
        self._learn(branch, page.events)
        blocks: list[NewBlock] = []
        at, start, stop = 0, page.start, page.stop
        while at < len(page.events):
            block = page.events[at : _full(page.events, at)]
            is_end = at + len(block) == len(page.events)
            if is_end and not is_last and blocks and len(block) < BLOCK_EVENTS:
                stop = start
                break
            kind = _kind_of(block)
            digest, codec = self._dictionaries.newest(kind)
            entries = [event.entry for event in block]
            stored = codec.pack(entries)
            if not (is_end and is_last):
                entries, stored = _fitted(codec, entries, stored)
            at += len(entries)
            end = page.events[at].row.position if at < len(page.events) else page.stop
            blocks.append(
                NewBlock(
                    start,
                    end,
                    max(event.row.recorded or 0 for event in block[: len(entries)]),
                    kind,
                    digest,
                    stored,
                    tuple(entry.position for entry in entries),
                    tuple((entry.position, digest) for entry in entries for digest in entry.digests),
                )
            )
            start = end
        taken = page.events[:at]
        attachments = tuple(each for event in taken for each in event.attachments)
        held = {digest for event in taken for digest in event.entry.digests} | {digest for _, _, digest in attachments}
        shared = tuple(each for each in page.shared.values() if each.digest in held)
        left = tuple(position for position in page.damaged if position < stop)
        request = Pack(branch, page.start, stop, erasures, tuple(blocks), shared, attachments, left)
        return request, sum(event.plain for event in taken)

    def _learn(self, branch: int, events: Sequence[_Event]) -> None:
        """Let dictionaries learn from events, from each once: what is read again would count as many bodies that have a name."""
        new = [event for event in events if (branch, event.row.position) >= self._learned]
        if new and self._learns:
            self._learned = (branch, new[-1].row.position + 1)
            self._dictionaries.learn(new)

    def _count(self, request: Pack, plain: int) -> None:
        self._events += request.stop - request.start
        self._blocks += len(request.blocks)
        self._bodies += sum(len(block.positions) for block in request.blocks)
        self._attachments += len(request.attachments)
        self._plain += plain
        self._stored += sum(len(block.stored.content) for block in request.blocks)
        for each in request.shared:
            if each.digest not in self._seen:
                self._seen.add(each.digest)
                self._stored += len(each.stored.content)
        if self._progress is not None:
            self._progress(self._events)


def _is_sound(row: EventRow) -> bool:
    """Tell whether a body is what its row commits to, so that the row can do without; of one that is encrypted that is not known here."""
    body = row.body
    if body is None or not is_sound(row) or type(row.nodes) is not bytes or type(row.position) is not int:
        return False
    if is_sealed(body):
        return row.salt is None
    if not isinstance(row.salt, bytes) or len(row.salt) != SALT_BYTES:
        return False
    return commit_body(row.salt, body) == (row.commitments or b"")[:DIGEST_BYTES]


def _is_small(request: Pack) -> bool:
    """Tell whether a request is about one block, which may wait in memory for others."""
    return len(request.blocks) == 1 and not request.shared and len(request.blocks[0].stored.content) <= BLOCK_BYTES


def _full(events: Sequence[_Event], start: int) -> int:
    """Give where the largest block ends that begins at a place."""
    held = 0
    for place in range(start, len(events)):
        held += len(events[place].row.body or b"")
        bytes_max = BLOCK_BYTES_MAX if place - start < BLOCK_EVENTS else BLOCK_BYTES
        if place > start and (held > bytes_max or place - start == BLOCK_EVENTS_MAX):
            return place
    return len(events)


def _fitted(codec: Codec, entries: list[Entry], stored: Compressed) -> tuple[list[Entry], Compressed]:
    """Give the first entries of a block, half of them or more, and the block that they make, where it fills its pages better than all."""
    size, aim = len(stored.content), filled(len(stored.content))
    if aim and size - aim > size // 20:  # for less it is not worth packing again
        plain = list(accumulate(sum(map(len, entry.pieces)) for entry in entries))
        fewer = entries[: max(1, bisect_left(plain, plain[-1] * aim / size))]
        again = codec.pack(fewer)
        if odd_bytes(len(again.content)) < odd_bytes(size):
            return fewer, again
    return entries, stored


def _kind_of(block: Sequence[_Event]) -> str:
    """Give the type of event that most of a block's bytes are of."""
    held: Counter[str] = Counter()
    for row in (event.row for event in block):
        held[row.type or ""] += len(row.body or b"")
    return max(sorted(held), key=held.__getitem__)


class _Samples(msgspec.Struct):
    """Bodies of blocks of one kind. blocks: seen so far; again: at which number a new dictionary is tried."""

    bodies: deque[bytes]
    blocks: int = 0
    again: int = 1


class _Dictionaries:
    """The dictionary of each kind of block, made anew where bodies drift away from it: looked at after 1, 8, 64 … blocks of a run."""

    def __init__(self, storage: Storage, *, dry_run: bool) -> None:
        self._storage = storage
        self._dry_run = dry_run
        self._samples: dict[str, _Samples] = {}
        self._newest: dict[str, tuple[bytes | None, Codec]] = {
            each.kind: (each.digest, Codec(each.content))
            for each in storage.dictionaries()
            if each.digest == dictionary_digest(each.content)  # else it was damaged, and another is made
        }
        self._plain = Codec()

    def newest(self, kind: str) -> tuple[bytes | None, Codec]:
        """Give the dictionary of a kind, by digest, and its codec."""
        return self._newest.get(kind, (None, self._plain))

    def learn(self, events: Sequence[_Event]) -> None:
        """Take events in, and keep a new dictionary for the kinds of their blocks where it is due and worth it."""
        tried: dict[str, list[Entry]] = {}
        stop = 0
        while stop < len(events):
            block = events[stop : (stop := _full(events, stop))]
            kind = _kind_of(block)
            samples = self._samples.setdefault(kind, _Samples(deque(maxlen=_SAMPLES)))
            samples.bodies.extend(
                row.body
                for row in (event.row for event in block)
                if row.body is not None and len(row.body) <= _SAMPLE_BYTES_MAX and not is_sealed(row.body)
            )
            samples.blocks += 1
            if len(block) >= len(
                tried.get(kind, ())
            ):  # the last may be short, and a dictionary is of more use to a short one
                tried[kind] = [event.entry for event in block]
        for kind, entries in tried.items():
            samples = self._samples[kind]
            if samples.blocks >= samples.again and len(samples.bodies) >= DICTIONARY_SAMPLES_MIN:
                samples.again = 8 * samples.blocks
                self._train(kind, samples.bodies, entries)

    def _train(self, kind: str, bodies: Sequence[bytes], entries: list[Entry]) -> None:
        content = train(bodies)
        if content is None:
            return
        digest = dictionary_digest(content)
        _, old = self.newest(kind)
        new = Codec(content)
        if len(new.pack(entries).content) <= _GAIN * len(old.pack(entries).content):
            if not self._dry_run:
                self._storage.write(PutDictionary(digest, kind, content))
            self._newest[kind] = (digest, new)
