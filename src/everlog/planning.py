"""Planning an erasure: what would go, what goes with it, what stays, and what stands in the way. Changes nothing.

1. What is counted is counted whole; what is listed is the first PLAN_LISTED_MAX of it.
2. It is read page by page, as things are now: what is recorded afterwards is not in it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from everlog.context.manifest import Manifest
from everlog.context.tree import read_positions, summaries_over
from everlog.core.event import Event
from everlog.core.limits import PAGE_EVENTS_MAX, PLAN_LISTED_MAX
from everlog.core.query import Exact, Term
from everlog.holding import Protectors, family_of, read_policies
from everlog.reader import View
from everlog.storage import SessionRow, Storage

_REQUESTS = (Term("type", (Exact("model.request"),)),)
_SNAPSHOTS = 1_000  # listed at once


class PlannedEvent(msgspec.Struct, frozen=True):
    """An event that would be erased. session: that it was recorded in. bytes: of its body and attachments."""

    session: str
    position: int
    type: str
    bytes: int
    attachments: int


class PlannedSummary(msgspec.Struct, frozen=True):
    """A summary that stands for such an event, and would be erased with it. branch: the id of the line that it is on."""

    session: str
    branch: str
    position: int


class PlannedHold(msgspec.Struct, frozen=True):
    """A session that protects such events. policy: that says so; None for the session of the policies. reason: of the policy."""

    session: str
    policy: str | None
    reason: str | None


class ErasurePlan(msgspec.Struct, frozen=True):
    """What erasing events of a session would do now. Those listed are the first of those counted.

    events, bytes: that have bodies; before: erased already. attachments: of the events. kept_once_goes, kept_once_stays: long strings and
    attachments that are kept once, which go, or which other events share. snapshots: states that are folded again when they are next
    asked for. objects: of archives, which are written again without them. sharing: sessions that share the events, where they are gone
    too. requests: recorded calls of models whose bytes cannot be made again. results: of tools, whose uses stay and read "[erased]";
    uses: of tools, whose results stay. holds: what refuses the erasure.
    """

    session: str
    events: int
    bytes: int
    before: int
    attachments: int
    listed: tuple[PlannedEvent, ...]
    kept_once_goes: int
    kept_once_stays: int
    summary_count: int
    summaries: tuple[PlannedSummary, ...]
    snapshots: int
    objects: tuple[str, ...]
    object_count: int
    sharing: tuple[str, ...]
    sharing_count: int
    requests: int
    results: int
    uses: int
    holds: tuple[PlannedHold, ...]


class _Tally:
    """Counts the events themselves."""

    def __init__(self) -> None:
        self.events = self.bytes = self.before = self.attachments = 0
        self.listed: list[PlannedEvent] = []
        self._kept_once: Counter[bytes] = Counter()
        self._kept_at_all: dict[bytes, int] = {}
        self._uses: Counter[str] = Counter()  # of tools, by id: 1 for a use, 2 for a result, 3 for both

    def add(self, event: Event, session: Callable[[int], str]) -> None:
        if event.raw is None:
            self.before += 1
            return
        size = len(event.raw) + sum(each.size for each in event.attachments)
        self.events += 1
        self.bytes += size
        self.attachments += len(event.attachments)
        if len(self.listed) < PLAN_LISTED_MAX:
            name = session(event.position)
            self.listed.append(PlannedEvent(name, event.position, event.type, size, len(event.attachments)))
        data: dict[str, Any] = event.data if isinstance(event.data, dict) else {}
        if event.type == "agent.tool_use":
            self._uses[str(data.get("id"))] |= 1
        elif event.type == "agent.tool_result":
            self._uses[str(data.get("tool_use_id"))] |= 2

    def add_kept_once(self, found: Sequence[tuple[bytes, int, int]]) -> None:
        for digest, held, holders in found:
            self._kept_once[digest] += held
            self._kept_at_all[digest] = holders

    def goes_and_stays(self) -> tuple[int, int]:
        """Tell how much of what is kept once goes, and how much others share."""
        goes = sum(1 for digest, held in self._kept_once.items() if held == self._kept_at_all[digest])
        return goes, len(self._kept_once) - goes

    def alone(self, which: int) -> int:
        """Count uses (1) or results (2) of tools whose other half is not among the events."""
        return sum(1 for each in self._uses.values() if each == which)


def plan_erasure(storage: Storage, session: SessionRow, view: View, positions: Sequence[int]) -> ErasurePlan:
    """Tell what erasing events of a branch would do. See `Session.plan_erasure`. positions: of events that there are."""
    wanted = sorted(set(positions))
    tally, names = _Tally(), dict[int, str]()

    def owner(position: int) -> str:
        branch = view.lineage.owner(position).branch
        if branch not in names:
            names[branch] = storage.session_of(branch).name
        return names[branch]

    for page in _pages(wanted):
        for event in read_positions(storage, view, page):
            tally.add(event, owner)
        tally.add_kept_once(storage.kept_once([(view.lineage.owner(at).branch, at) for at in page]))
    goes, stays = tally.goes_and_stays()
    lines = list(_lines_sharing(storage, view, wanted)) if wanted else []
    found = summaries_over(storage, view, wanted) if wanted else []
    summaries = [PlannedSummary(row.name, branch.id, at) for row, branch, over in found for at in over]
    others = list(dict.fromkeys(row.name for row, _, _ in lines if row.id != session.id))
    objects = _objects(storage, view, wanted)
    return ErasurePlan(
        session=session.name,
        events=tally.events,
        bytes=tally.bytes,
        before=tally.before,
        attachments=tally.attachments,
        listed=tuple(tally.listed),
        kept_once_goes=goes,
        kept_once_stays=stays,
        summary_count=len(summaries),
        summaries=tuple(summaries[:PLAN_LISTED_MAX]),
        snapshots=sum(_count_snapshots(storage, line, shared[0]) for _, line, shared in lines),
        objects=tuple(objects[:PLAN_LISTED_MAX]),
        object_count=len(objects),
        sharing=tuple(others[:PLAN_LISTED_MAX]),
        sharing_count=len(others),
        requests=sum(_count_requests(storage, line, shared) for _, line, shared in lines),
        results=tally.alone(2),
        uses=tally.alone(1),
        holds=_holds(storage, view, wanted),
    )


def _pages(positions: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(positions), PAGE_EVENTS_MAX):
        yield positions[start : start + PAGE_EVENTS_MAX]


def _lines_sharing(
    storage: Storage, view: View, positions: Sequence[int]
) -> Iterator[tuple[SessionRow, View, list[int]]]:
    """Give every line that shares any of these events, with its session and the positions that it shares."""
    seen: set[int] = set()
    for segment in view.lineage.clip(positions[0], positions[-1] + 1):
        for row in family_of(storage, storage.session_of(segment.branch)):
            if row.key in seen:
                continue
            seen.add(row.key)
            for branch in storage.branches(row.key):
                line = View(branch, storage.lineage(branch.key, row.name))
                shared = _shared(line, view, positions)
                if shared:
                    yield row, line, shared


def _shared(line: View, view: View, positions: Sequence[int]) -> list[int]:
    """Give those of a view's positions that are the same events on another line."""
    span, shared = (positions[0], positions[-1] + 1), list[int]()
    for mine in view.lineage.clip(*span):
        for theirs in line.lineage.clip(*span):
            if mine.branch == theirs.branch:
                stop = min(mine.stop, theirs.stop, line.size)
                shared += _between(positions, max(mine.start, theirs.start), stop)
    return shared


def _between(positions: Sequence[int], start: int, stop: int) -> Sequence[int]:
    """Give the positions, which are in order, in [start, stop)."""
    return positions[bisect_left(positions, start) : bisect_left(positions, stop)]


def _count_snapshots(storage: Storage, line: View, first: int) -> int:
    """Count the snapshots of a line's own cuts that an event went into. first: its position."""
    after, count = (-1, b"", -1), 0
    while page := storage.snapshots(line.branch.key, after, _SNAPSHOTS):
        count += sum(1 for each in page if each.size > first)
        after = (page[-1].branch, page[-1].fingerprint, page[-1].size)
    return count


def _count_requests(storage: Storage, line: View, shared: Sequence[int]) -> int:
    """Count the calls that a line's own events record, and that were given any of these events."""
    start, count = max(line.branch.base_size, shared[0] + 1), 0
    while start < line.size:
        page = storage.read(line.lineage, start, line.size, terms=_REQUESTS)
        count += sum(1 for event in page.events if _was_given(event, shared))
        if page.following is None:
            break
        start = page.following
    return count


def _was_given(event: Event, positions: Sequence[int]) -> bool:
    data: dict[str, Any] = event.data if isinstance(event.data, dict) else {}
    try:
        items = msgspec.convert(data.get("manifest"), Manifest).items
    except msgspec.ValidationError:
        return False
    return any(_between(positions, item.start, item.stop) for item in items)


def _objects(storage: Storage, view: View, positions: Sequence[int]) -> list[str]:
    """Give the objects of archives that hold any of these events' bodies."""
    found: list[str] = []
    if not positions:
        return found
    owned = {
        segment.branch: _between(positions, segment.start, segment.stop)
        for segment in view.lineage.clip(positions[0], positions[-1] + 1)
    }
    for key in {storage.session_of(branch).key for branch in owned}:
        for row in storage.objects(key):
            blocks = storage.blocks_of(row.id)
            if any(_between(owned.get(each.branch or 0, ()), each.start, each.stop) for each in blocks):
                found.append(f"{row.url}/{row.name}")
    return list(dict.fromkeys(found))


def _holds(storage: Storage, view: View, positions: Sequence[int]) -> tuple[PlannedHold, ...]:
    """Tell what refuses the erasure of any of these events."""
    policies = read_policies(storage)
    if policies.head is None or not positions:
        return ()
    holds, found = Protectors(storage, policies, "hold"), dict[tuple[str, str | None], PlannedHold]()
    for segment in view.lineage.clip(positions[0], positions[-1] + 1):
        own = _between(positions, segment.start, segment.stop)
        stop, protection = holds.shared(storage.session_of(segment.branch)).get(segment.branch, (0, None))
        if own and protection is not None and own[0] < stop:
            policy = protection.policy
            name, reason = (None, None) if policy is None else (policy.name, policy.reason)
            found[protection.session, name] = PlannedHold(protection.session, name, reason)
    return tuple(found.values())
