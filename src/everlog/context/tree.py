"""The tree of summaries: where its events stand, and what each covers.

1. Every summary covers a range [start, stop) of positions: one of level 0 events, one of level n + 1 summaries of level n that stand
   side by side. The tree's *roots* are those that no other covers; side by side they cover the log up to the *frontier*.
2. The last summary event says what the other roots are, so that one event tells the whole tree. Summaries are numbered, and the
   number is their idempotency key: two processes that summarize at once cannot both write the next one.
3. A root whose text was erased is as if it were not there: what it covered stands in its place, as far as it was summarized, and is
   summarized again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from everlog.context.tokens import SCALE_MAX, SCALE_MIN
from everlog.core import limits
from everlog.core.event import Event
from everlog.core.merkle import range_root
from everlog.core.query import Exact, Term
from everlog.reader import View
from everlog.storage import BranchRow, SessionRow, Storage

SUMMARIES: Final = (Term("type", (Exact("summary"),)),)
LEAF_TOKENS: Final = (
    2_000  # estimated, of the events that one summary of level 0 covers, where nothing else is asked for
)
_NEAR: Final = 2_000  # positions before a cut that are looked at for the last summary before its number is searched for
SYSTEM_MAX: Final = 100


class Node(msgspec.Struct, frozen=True, array_like=True):
    """A summary: the position of its event, the range that it covers, tokens of its own text and of what it covers (estimated)."""

    position: int
    start: int
    stop: int
    level: int
    tokens: int
    covered: int


class Tree(msgspec.Struct, frozen=True):
    """The summaries of a line up to a cut.

    number: of the last one; 0 for none. roots: oldest first. system: positions of the system's messages below the frontier, at most
    100. scale: what providers counted for each token that was estimated. leaf: tokens that a summary of events covers, about.
    """

    number: int = 0
    roots: tuple[Node, ...] = ()
    system: tuple[int, ...] = ()
    scale: float = 1.0
    leaf: int = LEAF_TOKENS

    @property
    def frontier(self) -> int:
        """The cut up to which events are summarized."""
        return self.roots[-1].stop if self.roots else 0


class Written(msgspec.Struct, frozen=True):
    """What a summary event's data says beside EVENTS' members."""

    start: int
    stop: int
    level: int
    content: Any = None
    number: int = 0
    tokens: dict[str, int] = {}
    children: list[Any] = []
    roots: list[Any] = []
    system: list[int] = []
    scale: float = 1.0
    leaf: int = LEAF_TOKENS


def key_of(number: int) -> str:
    """Give the idempotency key of a summary."""
    return f"everlog:summary:{number}"


def _number_of(event: Event) -> int:
    """Give a summary's number, which its key says also after its text was erased; 0 for one of another make."""
    kind, _, number = (event.key or "").rpartition(":")
    return int(number) if kind == "everlog:summary" and number.isdecimal() else 0


def written_by(event: Event) -> Written | None:
    """Read a summary event of ours; None where its data is not there, or of another make."""
    if event.raw is None:
        return None
    try:
        written = msgspec.convert(event.data, Written)
        nodes_of(written.roots)
        nodes_of(written.children)
    except msgspec.ValidationError:
        return None
    ours = written.number > 0 and event.key == key_of(written.number) and isinstance(written.content, str)
    return written if ours else None


def nodes_of(listed: Sequence[Any]) -> list[Node]:
    """Read nodes as summary events list them."""
    return msgspec.convert(listed, list[Node])


def node_of(event: Event, written: Written) -> Node:
    """Give the node of a summary event."""
    tokens = written.tokens
    own, covered = tokens.get("content", 0), tokens.get("covered", 0)
    return Node(event.position, written.start, written.stop, written.level, own, covered)


def read_tree(storage: Storage, view: View, cut: int) -> Tree:
    """Read the tree as it was at a cut. A few events are read, however long the session is."""
    event = last_summary(storage, view, cut)
    number = 0
    while event is not None:
        number = max(number, _number_of(event))
        written = written_by(event)
        if written is not None:
            roots = _standing(storage, view, [*nodes_of(written.roots), node_of(event, written)])
            scale = min(max(written.scale, SCALE_MIN), SCALE_MAX)
            frontier = roots[-1].stop if roots else 0  # behind it the system's messages are looked for again
            system = tuple(at for at in written.system[:SYSTEM_MAX] if at < frontier)
            return Tree(number, tuple(roots), system, scale, written.leaf)
        event = last_summary(storage, view, event.position)
    return Tree(number)


def _standing(storage: Storage, view: View, roots: list[Node]) -> list[Node]:
    """Give the roots that can be read and stand side by side, up to the first that does not.

    In the place of one whose text was erased stand those that it covered, as the tree was before it.
    """
    events = {event.position: event for event in read_positions(storage, view, [node.position for node in roots])}
    frontier = 0
    for at, node in enumerate(roots):
        event = events.get(node.position)
        if (
            event is None
            or event.type != "summary"
            or node.start != frontier
            or not frontier < node.stop <= node.position
        ):
            return roots[:at]
        if event.raw is None:
            finer = list(read_tree(storage, view, node.position).roots)
            whole = bool(finer) and finer[-1].stop == node.stop
            return _standing(storage, view, [*finer, *roots[at + 1 :]]) if whole else finer
        written = written_by(event)
        if written is None or node_of(event, written) != node:
            return roots[:at]
        frontier = node.stop
    return roots


def last_summary(storage: Storage, view: View, cut: int) -> Event | None:
    """Give the last summary event below a cut."""
    low = max(0, cut - _NEAR)
    page = storage.read(view.lineage, low, cut, terms=SUMMARIES, reverse=True, limit=1) if cut else None
    if page is not None and page.events:
        return page.events[0]
    number = _highest(storage, view, low)
    return None if number == 0 else _numbered(storage, view, low, number)


def _highest(storage: Storage, view: View, cut: int) -> int:
    """Give the number of the last summary below a cut, by O(log n) looks at the index of keys; 0 for none."""
    low, high = 0, 1
    while _numbered(storage, view, cut, high) is not None:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _numbered(storage, view, cut, middle) is None else (middle, high)
    return low


def _numbered(storage: Storage, view: View, cut: int, number: int) -> Event | None:
    terms = (Term("key", (Exact(key_of(number)),)),)
    page = storage.read(view.lineage, 0, cut, terms=terms, limit=1) if cut else None
    return page.events[0] if page is not None and page.events else None


def free_number(storage: Storage, view: View, number: int) -> int:
    """Give the first number from this one on whose key no event of another kind has taken."""
    while (taken := _numbered(storage, view, view.size, number)) is not None and taken.type != "summary":
        number += 1
    return number


def summaries_over(
    storage: Storage, view: View, positions: Sequence[int]
) -> list[tuple[SessionRow, BranchRow, tuple[int, ...]]]:
    """Find the summaries of events, on every line that shares them: by session and branch, the positions of their events.

    Reads the events of type `summary` behind the first of them, on each of these lines.
    """
    family = [storage.session_of(view.lineage.owner(positions[0]).branch)]
    known = {family[0].key}
    for session in family:  # grows while it is walked: forks of forks
        forks = [fork for fork in storage.forks(session.key) if fork.key not in known]
        known.update(fork.key for fork in forks)
        family += forks
    found: list[tuple[SessionRow, BranchRow, tuple[int, ...]]] = []
    for session in family:
        for row in storage.branches(session.key):
            other = View(row, storage.lineage(row.key, session.name))
            shared = {at for at in positions if at < row.size and _owner(other, at) == _owner(view, at)}
            over = _over(storage, other, shared) if shared else ()
            if over:
                found.append((session, row, over))
    return found


def _owner(view: View, position: int) -> int:
    return view.lineage.owner(position).branch


def _over(storage: Storage, view: View, positions: set[int]) -> tuple[int, ...]:
    """Give the positions of a branch's own summaries that stand for any of these events."""
    start, found = max(view.branch.base_size, min(positions) + 1), list[int]()
    while start < view.size:
        page = storage.read(view.lineage, start, view.size, terms=SUMMARIES)
        for event in page.events:
            start_of, stop_of = _bounds(event)
            if any(start_of <= at < stop_of for at in positions):
                found.append(event.position)
        if page.following is None:
            break
        start = page.following
    return tuple(found)


def _bounds(event: Event) -> tuple[int, int]:
    """Give the range that a summary stands for, of whatever make it is; an empty one where it does not say."""
    data: dict[str, Any] = event.data if isinstance(event.data, dict) else {}
    start, stop = data.get("start"), data.get("stop")
    return (start, stop) if isinstance(start, int) and isinstance(stop, int) else (0, 0)


def read_positions(storage: Storage, view: View, positions: Sequence[int]) -> list[Event]:
    """Read events at single positions, in the order asked for, those that there are: neighbours together."""
    found: dict[int, Event] = {}
    wanted = sorted({position for position in positions if 0 <= position < view.size})
    while wanted:
        run = 1
        while run < len(wanted) and wanted[run] == wanted[run - 1] + 1 and run < limits.PAGE_EVENTS_MAX:
            run += 1
        page = storage.read(view.lineage, wanted[0], wanted[0] + run)
        found.update({event.position: event for event in page.events})
        wanted = wanted[len(page.events) or run :]
    return [found[position] for position in positions if position in found]


def covered_ranges(start: int, stop: int) -> list[tuple[int, int]]:
    """Give ranges that make up [start, stop), at most 16, whose hashes take few reads: most lie as the log's tree has them."""
    step = 1
    while True:
        low, high = -(-start // step) * step, stop // step * step
        pieces: list[tuple[int, int]] = []
        at = low
        while at < high:
            size = at & -at or 1 << high.bit_length()
            while at + size > high:
                size //= 2
            pieces.append((at, at + size))
            at += size
        edges = [each for each in ((start, min(low, stop)), (max(high, low), stop)) if each[0] < each[1]]
        if low >= high:
            return [(start, stop)]
        if len(pieces) + len(edges) <= limits.SUMMARY_RANGES_MAX:
            return sorted(pieces + edges)
        step *= 2


def range_hashes(storage: Storage, view: View, ranges: Sequence[tuple[int, int]]) -> list[str]:
    """Give the tree hash of the leaves of each range [start, stop), 64 hex digits; all their nodes are read together."""
    places: dict[tuple[int, int], bytes] = {}

    def note(level: int, index: int) -> bytes:
        places[level, index] = b""
        return b""

    for start, stop in ranges:
        range_root(start, stop, note)
    places = dict(zip(places, storage.tree_nodes(view.lineage, list(places)), strict=True)) if places else {}

    def read(level: int, index: int) -> bytes:
        return places[level, index]

    return [range_root(start, stop, read).hex() for start, stop in ranges]
