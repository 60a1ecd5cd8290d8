"""Compacting: bodies that went cold leave their rows for zstd blocks, and the space goes back to the system.

1. Nothing is changed that is hashed; every read gives what it gave. Interrupt it at any time: each step is a transaction of its own,
   and the next run goes on where the last one stopped.
2. Where anything is erased or deleted between reading events and packing them, they are read again: nothing destroyed comes back.
3. Events of the last days stay in rows, and so does the end of a session that is at work: a block is packed when it is full, or when
   its session has rested as long.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Container, Iterator, Sequence
from hashlib import sha256
from typing import Final

import msgspec

from everlog.cold import Cold, NewBlock, Pack, PutDictionary, Shared
from everlog.core.block import (
    BLOCK_BYTES_MAX,
    BLOCK_EVENTS_MAX,
    DICTIONARY_SAMPLES_MIN,
    SHARED_BYTES_MIN,
    Codec,
    Entry,
    dictionary_digest,
    make_entry,
    pack_shared,
    train,
)
from everlog.core.decide import EventRow
from everlog.core.envelope import NO_SALT, is_sealed
from everlog.core.lineage import Lineage
from everlog.errors import LimitError
from everlog.steps import seconds_of
from everlog.storage import Storage

OLDER_THAN: Final = "1d"
_MICROS: Final = 1_000_000
_BRANCHES: Final = 1_000  # listed at once
_EVENTS: Final = 15 * BLOCK_EVENTS_MAX  # whole blocks of a page of events
_ATTACHED_BYTES_MAX: Final = 32 * 1024 * 1024  # of attachments that one transaction packs; one larger goes alone
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
    branches: Container[int] | None = None,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Compacted:
    """Pack what is older, then give free space back. See `Store.compact`. branches: the keys of those to pack, None for all."""
    packer = _Packer(storage, cutoff_of(storage, older_than), dry_run=dry_run, progress=progress)
    for branch in cold_branches(storage):
        if branches is None or branch.branch in branches:
            packer.pack_branch(branch)
    given_back = 0 if dry_run else give_back(storage)
    return Compacted(given_back=given_back, free=storage.free(), dry_run=dry_run, **packer.counts())


def compact_past(storage: Storage, branch: int, *, stop: int, blocks_max: int) -> int:
    """Pack a branch's own events before a position, in full blocks and at most so many; give up to where it is packed now.

    For what writes a branch, beside its appends: takes a few milliseconds, learns no dictionary and gives no space back, since the
    next events fill it.
    """
    found = _cold_branch(storage, branch)
    if found is None:
        return stop
    blocks = min((stop - found.start) // BLOCK_EVENTS_MAX, blocks_max)
    if blocks < 1:
        return found.start
    packer = _Packer(storage, 0, dry_run=False, progress=None, learns=False)
    packer.pack(found, storage.lineage(branch, ""), found.start + blocks * BLOCK_EVENTS_MAX)
    return found.start + blocks * BLOCK_EVENTS_MAX


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
    return stop - (stop - branch.start) % BLOCK_EVENTS_MAX


class _Page(msgspec.Struct):
    """Events on their way into blocks."""

    blocks: list[list[tuple[EventRow, Entry]]]
    start: int
    stop: int
    shared: dict[bytes, Shared]
    attachments: list[tuple[int, int, bytes]]
    plain: int  # bytes of bodies and attachments that leave their rows


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

    def pack_branch(self, branch: Cold) -> None:
        """Pack a branch's own events that are old enough."""
        lineage = self._storage.lineage(branch.branch, "")
        self.pack(branch, lineage, packed_until(self._storage, branch, lineage, self._before))

    def pack(self, branch: Cold, lineage: Lineage, stop: int) -> None:
        """Pack a branch's own events before a position."""
        start = branch.start
        tries = 0
        while start < stop:
            erasures = self._storage.erasures(branch.branch)
            page = self._read(lineage, start, stop)
            request = self._pack(branch.branch, page, erasures)
            if self._dry_run or self._storage.write(request).count:
                self._count(request, page)
                start, tries = page.stop, 0
                continue
            tries += 1
            now = _cold_branch(self._storage, branch.branch)
            if now is None or now.start > start or tries > 100:
                return  # its session was deleted, or another process packs it

    def _read(self, lineage: Lineage, start: int, stop: int) -> _Page:
        rows = self._storage.rows(lineage, start, min(stop, start + _EVENTS), as_stored=True)
        page = _Page([], start, start, {}, [], 0)
        held = block_bytes = 0
        for row in rows:
            held += self._read_attachments(lineage, row, page)
            if row.body is not None:
                entry, shared = make_entry(row.position, row.salt or NO_SALT, row.body)
                for digest, content in shared.items():
                    page.shared[digest] = page.shared.get(digest) or Shared(digest, pack_shared(content))
                block_bytes += len(row.body)
                if not page.blocks or len(page.blocks[-1]) == BLOCK_EVENTS_MAX or block_bytes > BLOCK_BYTES_MAX:
                    page.blocks.append([])
                    block_bytes = len(row.body)
                page.blocks[-1].append((row, entry))
                page.plain += len(row.body)
            page.stop = row.position + 1
            if held > _ATTACHED_BYTES_MAX:
                break
        return page

    def _read_attachments(self, lineage: Lineage, row: EventRow, page: _Page) -> int:
        """Take a row's attachments that are worth it into a page; give their bytes."""
        held = 0
        if row.attached is not None and row.gone is None:
            for number, each in enumerate(self._storage.attachments(lineage, row.position, as_stored=True)):
                if each.content is not None and len(each.content) >= SHARED_BYTES_MIN:
                    digest = sha256(each.content).digest()
                    if digest not in page.shared:
                        page.shared[digest] = Shared(digest, pack_shared(each.content))
                    page.attachments.append((row.position, number, digest))
                    held += len(each.content)
        page.plain += held
        return held

    def _pack(self, branch: int, page: _Page, erasures: int) -> Pack:
        if self._learns:
            self._dictionaries.learn(page.blocks)
        blocks: list[NewBlock] = []
        for place, block in enumerate(page.blocks):
            start = page.start if place == 0 else block[0][0].position
            stop = page.stop if place == len(page.blocks) - 1 else page.blocks[place + 1][0][0].position
            kind = _kind_of(block)
            digest, codec = self._dictionaries.newest(kind)
            entries = [entry for _, entry in block]
            blocks.append(
                NewBlock(
                    start,
                    stop,
                    max(row.recorded or 0 for row, _ in block),
                    kind,
                    digest,
                    codec.pack(entries),
                    tuple(entry.position for entry in entries),
                    tuple((entry.position, digest) for entry in entries for digest in entry.digests),
                )
            )
        return Pack(
            branch, page.start, page.stop, erasures, tuple(blocks), tuple(page.shared.values()), tuple(page.attachments)
        )

    def _count(self, request: Pack, page: _Page) -> None:
        self._events += request.stop - request.start
        self._blocks += len(request.blocks)
        self._bodies += sum(len(block.positions) for block in request.blocks)
        self._attachments += len(request.attachments)
        self._plain += page.plain
        self._stored += sum(len(block.stored.content) for block in request.blocks)
        for each in request.shared:
            if each.digest not in self._seen:
                self._seen.add(each.digest)
                self._stored += len(each.stored.content)
        if self._progress is not None:
            self._progress(self._events)


def _kind_of(block: Sequence[tuple[EventRow, Entry]]) -> str:
    """Give the type of event that most of a block's bytes are of."""
    held: Counter[str] = Counter()
    for row, _ in block:
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

    def learn(self, blocks: Sequence[Sequence[tuple[EventRow, Entry]]]) -> None:
        """Take blocks in, and keep a new dictionary for their kinds where it is due and worth it."""
        latest: dict[str, list[Entry]] = {}
        for block in blocks:
            kind = _kind_of(block)
            samples = self._samples.setdefault(kind, _Samples(deque(maxlen=_SAMPLES)))
            samples.bodies.extend(
                row.body
                for row, _ in block
                if row.body is not None and len(row.body) <= _SAMPLE_BYTES_MAX and not is_sealed(row.body)
            )
            samples.blocks += 1
            latest[kind] = [entry for _, entry in block]
        for kind, entries in latest.items():
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
