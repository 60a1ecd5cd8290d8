"""Retaining: what one policy finds in a store, and its doing what it says. See retention.py.

1. What is protected is looked at again for each session, and the policies before each transaction that erases.
2. Whatever is erased is counted by the transaction that erased it: two runs at once count each event once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from everlog.archiving import archive_store, blocks_here
from everlog.certificates import Certificate
from everlog.cold import StoredBlock
from everlog.compacting import cold_branches, compact_store, packed_until
from everlog.core import limits
from everlog.core.labels import check_reason
from everlog.core.prepare import Draw, check_actor
from everlog.core.retention import ACTING, Action, Policies, Policy
from everlog.erasing import certify_erasure, erase_events
from everlog.errors import EverlogError, HeldError, NotFoundError
from everlog.holding import POLICIES, Protection, Protectors, read_policies
from everlog.reader import View
from everlog.storage import Listed, SessionFilter, SessionRow, Storage

if TYPE_CHECKING:
    from everlog.sealing import Sealer

_BATCH: Final = 5_000  # events that one transaction erases: half a second, in which nobody else writes
_ERROR_CHARACTERS: Final = 500

Progress = Callable[[int], None]


class Due(msgspec.Struct, frozen=True):
    """A session with events that a policy is to erase or archive, or has. bytes: of bodies, or of blocks as they are stored."""

    session: str
    events: int
    bytes: int


class Spared(msgspec.Struct, frozen=True):
    """A session with events that are old enough and stay: policy `by` protects it, or the session `shared_with` that shares them."""

    session: str
    events: int
    by: str
    shared_with: str | None = None


class Work(msgspec.Struct, frozen=True):
    """What a policy is about to do, or what it did. Of those that keep or hold, `sessions` counts what they match.

    sessions, events, bytes: all of them; due: the first RETENTION_LISTED_MAX sessions. Archiving counts what stands in blocks by their
    stored bytes; what is packed first only by events. blocks: that were moved. first, last: when the first and the last of the
    events was recorded, microseconds. spared_sessions, spared_events: what is protected; spared: the first of them, and why.
    error: what kept it from doing all.
    """

    policy: str
    action: Action
    sessions: int = 0
    events: int = 0
    bytes: int = 0
    blocks: int = 0
    first: int | None = None
    last: int | None = None
    due: tuple[Due, ...] = ()
    spared_sessions: int = 0
    spared_events: int = 0
    spared: tuple[Spared, ...] = ()
    error: str | None = None


# --- one policy ----------------------------------------------------------------------------------
class _Range(msgspec.Struct, frozen=True):
    """Events [start, stop) that were recorded on one branch of a session, are old enough, and that nothing protects."""

    session: SessionRow
    view: View
    start: int
    stop: int


class _Found(msgspec.Struct, frozen=True):
    """An event to erase. size: bytes of its body and attachments. recorded: microseconds."""

    position: int
    size: int
    recorded: int


class _Tally:
    """Counts what a policy does. progress: called with the number of events so far."""

    def __init__(self, policy: Policy, progress: Progress | None) -> None:
        self._policy = policy
        self._progress = progress
        self._sessions: set[str] = set()
        self._due: dict[str, Due] = {}
        self._events = self._bytes = 0
        self._times: tuple[int, int] | None = None
        self._spared_sessions: set[str] = set()
        self._spared: dict[str, Spared] = {}
        self._spared_events = 0

    def add(self, session: str, events: int, size: int, *, first: int, last: int) -> None:
        """Count events of a session. first, last: microseconds."""
        self._sessions.add(session)
        self._events += events
        self._bytes += size
        low, high = self._times or (first, last)
        self._times = (min(low, first), max(high, last))
        if session in self._due or len(self._due) < limits.RETENTION_LISTED_MAX:
            was = self._due.get(session, Due(session, 0, 0))
            self._due[session] = Due(session, was.events + events, was.bytes + size)
        if self._progress is not None:
            self._progress(self._events)

    def add_found(self, session: str, found: Sequence[_Found]) -> None:
        """Count events that are erased."""
        if found:
            size = sum(each.size for each in found)
            self.add(session, len(found), size, first=found[0].recorded, last=found[-1].recorded)

    def spare(self, session: str, events: int, by: str, shared_with: str | None) -> None:
        """Count events that stay."""
        self._spared_sessions.add(session)
        self._spared_events += events
        if session in self._spared or len(self._spared) < limits.RETENTION_LISTED_MAX:
            was = self._spared.get(session, Spared(session, 0, by, shared_with))
            self._spared[session] = msgspec.structs.replace(was, events=was.events + events)

    def begin_again(self) -> None:
        """Forget what was spared: it is looked at again."""
        self._spared, self._spared_sessions, self._spared_events = {}, set(), 0

    def work(self, **members: Any) -> Work:
        """Give what was counted."""
        first, last = (None, None) if self._times is None else self._times
        return msgspec.structs.replace(
            Work(
                policy=self._policy.name,
                action=self._policy.action,
                sessions=len(self._sessions),
                events=self._events,
                bytes=self._bytes,
                first=first,
                last=last,
                due=tuple(self._due.values()),
                spared_sessions=len(self._spared_sessions),
                spared_events=self._spared_events,
                spared=tuple(self._spared.values()),
            ),
            **members,
        )


class Run:
    """The policies at one moment, and what they find in a store."""

    def __init__(
        self,
        storage: Storage,
        policies: Policies,
        progress: Progress | None,
        *,
        sparing: Sequence[Action] = ("hold", "keep"),
    ) -> None:
        self.storage = storage
        self.policies = policies
        self.now = storage.now()
        self._progress = progress
        self._protectors = Protectors(storage, policies, *sparing)

    def planned(self, policy: Policy) -> Work:
        """Tell what a policy would do."""
        tally = _Tally(policy, self._progress)
        match policy.action:
            case "erase":
                for found in self.ranges(policy, tally):
                    for page in self.due(policy, found):
                        tally.add_found(found.session.name, page)
            case "archive":
                ranges = self.ranges_by_branch(policy, tally)
                self.count_unpacked(policy, ranges, tally)
                self.count_packed(policy, ranges, tally)
            case _:
                return tally.work(sessions=sum(1 for _ in self._matching(policy)))
        return tally.work()

    def together(self, policy: Policy) -> int:
        """Count what a policy would erase, where a policy asks for two persons above a number; else 0, for it costs a look at all."""
        return self.planned(policy).events if self.policies.of("approve") else 0

    def ranges(self, policy: Policy, tally: _Tally) -> Iterator[_Range]:
        """Give what is old enough for a policy and not protected; count what is."""
        before = policy.before(self.now)
        for listed in self._matching(policy):
            try:
                found = self._ranges_of(listed, before, tally)
            except NotFoundError:
                continue  # it was deleted meanwhile
            yield from found

    def ranges_by_branch(self, policy: Policy, tally: _Tally) -> dict[int, _Range]:
        """Give what `ranges` does by the branch's key."""
        return {found.view.branch.key: found for found in self.ranges(policy, tally)}

    def _matching(self, policy: Policy) -> Iterator[Listed]:
        """Give the sessions that a policy matches, but for the one that holds the policies."""
        chosen = SessionFilter(policy.sessions(self.now), order="created", limit=limits.SESSIONS_PAGE_MAX)
        while page := self.storage.sessions(chosen):
            yield from (each for each in page if each.session.name != POLICIES)
            chosen = msgspec.structs.replace(chosen, after=(page[-1].session, page[-1].branch))

    def _ranges_of(self, listed: Listed, before: int, tally: _Tally) -> list[_Range]:
        session = listed.session
        whole = self._protectors.of(session, listed.branch)
        shared: dict[int, tuple[int, Protection]] | None = None
        found: list[_Range] = []
        for branch in self.storage.branches(session.key):
            view = View(branch, self.storage.lineage(branch.key, session.name))
            start, stop = branch.base_size, self.storage.cut_at(view.lineage, branch.size, before)
            if start >= stop:
                continue
            if whole is not None:
                tally.spare(session.name, stop - start, whole.why, None)
                continue
            shared = self._protectors.shared(session) if shared is None else shared
            if branch.key in shared:
                limit, protection = shared[branch.key]
                spared, start = start, min(max(start, limit), stop)
                if spared < start:
                    tally.spare(session.name, start - spared, protection.why, protection.session)
            if start < stop:
                found.append(_Range(session, view, start, stop))
        return found

    def due(self, policy: Policy, found: _Range) -> Iterator[list[_Found]]:
        """Give the events of a range that a policy erases, a page at a time."""
        terms, start = (policy.type_term(),), found.start
        while start < found.stop:
            page = self.storage.read(found.view.lineage, start, found.stop, terms=terms)
            start = found.stop if page.following is None else page.following
            yield [
                _Found(
                    event.position,
                    len(event.raw) + sum(each.size for each in event.attachments),
                    event.recorded_micros,
                )
                for event in page.events
                if event.raw is not None
            ]

    def count_unpacked(self, policy: Policy, ranges: dict[int, _Range], tally: _Tally) -> None:
        """Count what packing would take first, into blocks that hold no protected event."""
        before = policy.before(self.now)
        for branch in cold_branches(self.storage):
            found = ranges.get(branch.branch)
            if found is not None:
                stop = packed_until(self.storage, branch, found.view.lineage, before)
                self._count_moved(tally, found, max(branch.start, found.start), stop, 0)

    def count_packed(self, policy: Policy, ranges: dict[int, _Range], tally: _Tally) -> None:
        """Count what archiving would move."""
        before = policy.before(self.now)
        for bucket in self.storage.all_buckets():
            for block in blocks_here(self.storage, bucket, before):
                if _moves(block, ranges) and block.branch is not None:
                    self._count_moved(tally, ranges[block.branch], block.start, block.stop, block.size)

    def _count_moved(self, tally: _Tally, found: _Range, start: int, stop: int, size: int) -> None:
        if start < stop:
            lineage = found.view.lineage
            first, last = (self.storage.leaf_at(lineage, at)[1] for at in (start, stop - 1))
            tally.add(found.session.name, stop - start, size, first=first, last=last)


def _moves(block: StoredBlock, ranges: dict[int, _Range]) -> bool:
    """Tell whether a block holds only events of the ranges. What is kept once stays: others may share it."""
    return block.branch is not None and block.branch in ranges and block.start >= ranges[block.branch].start


# --- doing it ------------------------------------------------------------------------------------
def carry_out(
    storage: Storage, draw: Draw, name: str, progress: Progress | None
) -> tuple[Work | None, EverlogError | None]:
    """Do what one policy says; None where it was removed meanwhile, or acts no more. What kept it from doing all comes beside it."""
    tally: _Tally | None = None
    moved: dict[str, int] = {}
    try:
        while True:
            policies = read_policies(storage)
            policy = policies.named.get(name)
            if policy is None or policy.action not in ACTING:
                break
            tally = tally or _Tally(policy, progress)
            tally.begin_again()
            run = Run(storage, policies, progress)
            if policy.action == "archive":
                moved = _archive(draw, run, policy, tally)
                break
            because = "" if policy.reason is None else f" {policy.reason}"
            if _erase(run, policy, tally, _Order(f"retention:{policy.name}{because}", together=run.together(policy))):
                break
    except EverlogError as error:
        return (None if tally is None else tally.work(error=error.message[:_ERROR_CHARACTERS])), error
    return (None if tally is None else tally.work(**moved)), None


def erase_matching(
    storage: Storage,
    policy: Policy,
    *,
    reason: str,
    actor: str | None,
    certified: Callable[[Certificate], None] | None,
    progress: Progress | None,
    sealer: Sealer | None = None,
) -> Work:
    """Erase the events, of any age, of the sessions that match, but for what is held; give what was done. See `Store.erase`."""
    check_reason(reason)
    check_actor(actor)
    if sealer is not None:
        _ = sealer.keys.verifier  # NotFoundError where there is none
    tally = _Tally(policy, progress)
    while True:
        run = Run(storage, read_policies(storage), progress, sparing=("hold",))
        tally.begin_again()
        if _erase(run, policy, tally, _Order(reason, actor, certified, run.together(policy), sealer)):
            return tally.work()


def plan_matching(storage: Storage, policy: Policy, *, progress: Progress | None) -> Work:
    """Tell what `erase_matching` would do."""
    return Run(storage, read_policies(storage), progress, sparing=("hold",)).planned(policy)


def matching_ranges(storage: Storage, policy: Policy) -> dict[str, list[tuple[int, int]]]:
    """Give what `erase_matching` would look at: by the id of each branch, its own events, but for what is held."""
    run = Run(storage, read_policies(storage), None, sparing=("hold",))
    return {found.view.branch.id: [(found.start, found.stop)] for found in run.ranges(policy, _Tally(policy, None))}


class _Order(msgspec.Struct, frozen=True):
    """What is recorded of an erasure: why, and who has it done. certified: is given the certificate of each transaction.

    together: how many events it is about, where somebody must approve of that; else 0. sealer: seals the records before.
    """

    reason: str
    actor: str | None = None
    certified: Callable[[Certificate], None] | None = None
    together: int = 0
    sealer: Sealer | None = None


def _erase(run: Run, policy: Policy, tally: _Tally, order: _Order) -> bool:
    """Erase what is due; False where the policies were changed before the end, so that it must be looked at again."""
    for found in run.ranges(policy, tally):
        batch: list[_Found] = []
        for page in run.due(policy, found):
            batch += page
            if len(batch) >= _BATCH:
                if not _erase_batch(run, found, batch, order, tally):
                    return False
                batch = []
        if batch and not _erase_batch(run, found, batch, order, tally):
            return False
    return True


def _erase_batch(run: Run, found: _Range, batch: list[_Found], order: _Order, tally: _Tally) -> bool:
    storage, session = run.storage, found.session
    if read_policies(storage, run.policies).named != run.policies.named:
        return False
    try:
        positions = [each.position for each in batch]
        erased = erase_events(
            storage,
            session,
            found.view,
            positions,
            order.reason,
            actor=order.actor,
            together=order.together,
            sealer=order.sealer,
        )
    except HeldError as error:  # it was labelled so meanwhile
        tally.spare(session.name, len(batch), error.policy or POLICIES, error.session)
    except NotFoundError:
        pass  # its session was deleted meanwhile, and with it what was due
    else:
        now = frozenset(erased.positions)
        tally.add_found(session.name, [each for each in batch if each.position in now])
        if order.certified is not None and now:
            order.certified(certify_erasure(storage, session, found.view, positions, erased))
    return True


def _archive(draw: Draw, run: Run, policy: Policy, tally: _Tally) -> dict[str, int]:
    """Pack what is due, and move it; give how many blocks, and their bytes."""
    assert policy.to is not None, "it was checked"
    assert policy.older_than is not None, "it was checked"
    ranges = run.ranges_by_branch(policy, tally)
    borders = {branch: found.start for branch, found in ranges.items()}
    compact_store(run.storage, older_than=policy.older_than, borders=borders)
    run.count_packed(policy, ranges, tally)
    if not tally.work().events:
        return {}
    moved = archive_store(
        run.storage, draw, policy.to, older_than=policy.older_than, wanted=lambda block: _moves(block, ranges)
    )
    return {"blocks": moved.blocks, "bytes": moved.bytes}
