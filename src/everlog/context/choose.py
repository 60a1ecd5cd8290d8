"""Choosing what goes into a context.

1. Pins go in, or it is an error. The system's messages go in as far as they take half of the budget at most.
2. Then summaries, the coarsest that fit, and behind them messages word for word. Where these begin depends on how far the log is
   summarized and not on its end, so that the front of the next context is the same bytes until something more is summarized.
   Room is kept for what will come before that.
3. Where messages that are not summarized need more than the budget has, the oldest are left out: at positions that are multiples of a
   power of two, so that they do not begin elsewhere at every turn.
4. A message is taken whole, with the results of its tool uses. A result whose use lies before the messages brings its use along. Only
   where the last message alone is too large are its texts cut, and those of uses that it brings along.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice, pairwise
from typing import Any, Final, NamedTuple

import msgspec

from everlog.context.manifest import Plan
from everlog.context.render import Newest, Rendered, payload_of, quoted, render, spoken_events, without_use
from everlog.context.tokens import BYTES_PER_TOKEN, Tokens, estimated_bytes, sent_bytes
from everlog.context.tree import Node, Tree, nodes_of, read_positions, written_by
from everlog.core.event import Event
from everlog.errors import LimitError
from everlog.pending import read_pending
from everlog.reader import View
from everlog.rebuild import Builder
from everlog.reducers.messages import Message
from everlog.reducers.pending import PENDING
from everlog.storage import Storage

_GROWTH: Final = 2.5  # times what the finest summaries cover: messages may grow by so much before they are summarized
_FAN_OUT: Final = 16  # that summaries of a higher level are taken to have, to tell what the finest below them cover
_SYSTEM_SHARE: Final = 0.5
_PLANNED: Final = 0.9  # of the budget; what is sent takes a little more than what is recorded
_SUMMARY_SHARE: Final = 0.25  # of the budget at most, where messages want all of it
_RETRIEVED_SHARE: Final = 0.25
_CLIPS: Final = (20_000, 8_000, 3_000, 1_000, 300, 100, 30, 0)
_GRAIN: Final = 4  # messages begin at multiples of about so small a part of them
_TRIES_MAX: Final = 60
_SAMPLE_EVENTS: Final = 50  # that estimates are compared with the counter on
_SCALE_MIN, _SCALE_MAX = 0.125, 16.0  # of a counter's tokens for each that is estimated


class Chosen(NamedTuple):
    """A plan, carried out, as it is sent, and its tokens."""

    plan: Plan
    rendered: Rendered
    payload: dict[str, Any]
    tokens: int


class _Spread(NamedTuple):
    """How the room is spread: summaries that stand as one text, those that stand as they are, and where messages begin."""

    digest: tuple[Node, ...]
    digest_tokens: int
    nodes: list[Node]
    start: int

    @property
    def tokens(self) -> int:
        return (self.digest_tokens if self.digest else 0) + sum(node.tokens for node in self.nodes)


class Chooser:
    """Chooses for one line, cut and budget."""

    def __init__(self, storage: Storage, view: View, tree: Tree, tokens: Tokens, plan: Plan, budget: int) -> None:
        self._storage = storage
        self._view = view
        self._tree = tree
        self._tokens = tokens
        self._plan = plan
        self._budget = budget
        self._newest_events = Newest(storage, view, plan.cut)
        self._waiting: tuple[int, list[tuple[str, int]]] | None = (
            None  # uses that wait at a position: their ids and positions
        )
        if tokens.method == "counter":
            self._calibrate()

    def choose(self, pins: Sequence[Event], retrieved: Sequence[Event]) -> Chosen:
        """Give the plan, carried out. Raises LimitError where what must go in does not fit."""
        bare = msgspec.structs.replace(self._plan, system=(), start=self._plan.cut)
        pinned = self._count(self._render(bare, pins, ()))
        if pinned > self._budget:
            raise LimitError(
                f"{len(pins)} pinned events take {pinned:,} tokens of a budget of {self._budget:,}; nothing was made; raise budget=, or "
                "pin less"
            )
        plan, fixed = bare, pinned
        for count in range(1, len(self._plan.system) + 1):
            more = msgspec.structs.replace(bare, system=self._plan.system[:count])
            taken = self._count(self._render(more, pins, ()))
            if taken > max(pinned, int(_SYSTEM_SHARE * self._budget)):
                break
            plan, fixed = more, taken
        room = int(_PLANNED * (self._budget - fixed))
        retrieved = self._fitting(retrieved, int(_RETRIEVED_SHARE * room))
        room -= sum(self._quoted(event) for event in retrieved)
        spread = self._spread(max(room, 0))
        plan = msgspec.structs.replace(
            plan,
            start=spread.start,
            digest=tuple(node.position for node in spread.digest),
            digest_tokens=spread.digest_tokens,
            summaries=tuple(node.position for node in spread.nodes),
            retrieved=tuple(event.id for event in retrieved),
        )
        return self._fit(plan, pins, list(retrieved))

    # --- how far back ---
    def _spread(self, room: int) -> _Spread:
        """Give the summaries, and the position from which messages stand word for word."""
        tree, cut = self._tree, self._plan.cut
        recent, first = self._recent(tree.frontier, room)
        roots = self._scaled(tree.roots)
        least = sum(node.tokens for node in roots)
        share = int(_SUMMARY_SHARE * room)
        if recent + min(least, share) > room:
            spread = _within(roots, share, tree.frontier)
            _, first = self._recent(tree.frontier, room - spread.tokens)
            return spread._replace(start=min(max(tree.frontier, _rounded(first, cut)), self._newest()))
        largest = max((node.covered // _FAN_OUT**node.level for node in roots), default=0)
        growth = _GROWTH * max(self._tokens.of_bytes(BYTES_PER_TOKEN * tree.leaf), largest)
        kept = max(recent, min(room // 2, int(growth)))
        spread = _within(roots, min(room - recent, max(share, room - kept)), tree.frontier)
        return self._expanded(spread, max(room - kept, 0))

    def _recent(self, low: int, room: int, stop: int | None = None) -> tuple[int, int]:
        """Give about how many tokens messages of [low, stop) take, to the end by default, and from where on they fit."""
        stop = self._plan.cut if stop is None else stop
        spent, first = 0, stop
        for event in self._newest_events.back(low, stop):
            spent += self._tokens.of_bytes(sent_bytes(event))
            if spent > room:
                return spent, first
            first = event.position
        return spent, low

    def _newest(self) -> int:
        """Give the position of the last message that is not summarized; the cut where there is none."""
        events = self._newest_events.back(self._tree.frontier, self._plan.cut)
        said = (event for event in events if event.type not in {"system.message", "user.tool_confirmation"})
        return next((event.position for event in said), self._plan.cut)

    def _expanded(self, spread: _Spread, room: int) -> _Spread:
        """Put messages, or finer summaries, in the place of the newest summaries as far as there is room."""
        kept, spent, start = list(spread.nodes), spread.tokens, spread.start
        while kept:
            node = kept[-1]
            if spent - node.tokens + node.covered <= room:
                spent += node.covered - node.tokens
                start = node.start
                kept.pop()
                continue
            children = self._children(node)
            finer = spent - node.tokens + sum(child.tokens for child in children)
            # Only where at least the newest of them makes room for what it covers.
            if not children or finer - children[-1].tokens + children[-1].covered > room:
                break
            kept[-1:] = children
            spent = finer
        if kept:  # of what the last of them covers the newest messages stand too, as far as there is room
            _, start = self._recent(kept[-1].start, room - spent, start)
        return spread._replace(nodes=kept, start=start)

    def _children(self, node: Node) -> list[Node]:
        if node.level == 0:
            return []
        (event,) = read_positions(self._storage, self._view, [node.position])
        written = written_by(event)
        return [] if written is None else self._scaled(nodes_of(written.children))

    def _scaled(self, nodes: Sequence[Node]) -> list[Node]:
        """Give nodes with tokens as they are counted here."""
        of = self._tokens.of_bytes
        return [
            msgspec.structs.replace(
                node, tokens=of(BYTES_PER_TOKEN * node.tokens), covered=of(BYTES_PER_TOKEN * node.covered)
            )
            for node in nodes
        ]

    def _calibrate(self) -> None:
        """Have estimates agree with the counter: on messages that are the same until something more is summarized."""
        start, stop = (self._tree.roots[-1].start, self._tree.frontier) if self._tree.roots else (0, self._plan.cut)
        events = islice(spoken_events(self._storage, self._view, start, stop), _SAMPLE_EVENTS)
        sample = [event.data for event in events if event.raw is not None]
        estimated = estimated_bytes(msgspec.json.encode(sample)) / BYTES_PER_TOKEN
        counted = self._tokens.of(sample) if sample else estimated
        self._tokens.scale = min(max(-(-8 * counted // estimated) / 8, _SCALE_MIN), _SCALE_MAX)

    # --- until it fits ---
    def _fit(self, plan: Plan, pins: Sequence[Event], retrieved: list[Event]) -> Chosen:
        """Carry out a plan, and take away from it until it fits as it is sent."""
        newest = self._newest()
        for _ in range(_TRIES_MAX):
            plan, rendered = self._pull(plan, pins, retrieved)
            chosen = self._chosen(plan, rendered)
            if chosen.tokens <= self._budget:
                return chosen
            over = chosen.tokens - self._budget
            tail = [message for message in rendered.tail if message["start"] >= plan.start]
            if len(tail) > 1:
                plan = msgspec.structs.replace(plan, start=self._later(tail, over))
            elif tail and plan.pulled and plan.start < tail[0]["start"]:
                plan = msgspec.structs.replace(plan, start=tail[0]["start"])
            elif plan.pulled and plan.start < newest:  # late results alone: the newer half of them
                plan = msgspec.structs.replace(plan, start=(plan.start + newest + 1) // 2)
            elif retrieved:
                retrieved.pop()
                plan = msgspec.structs.replace(plan, retrieved=tuple(event.id for event in retrieved))
            elif (
                rendered.tail
                and plan.clipped != _CLIPS[-1]
                and not (plan.clipped == _CLIPS[3] and (plan.summaries or plan.digest))
            ):
                at = 0 if plan.clipped is None else _CLIPS.index(plan.clipped) + 1
                plan = msgspec.structs.replace(plan, clipped=_CLIPS[at])
            elif plan.summaries:
                plan = msgspec.structs.replace(plan, summaries=plan.summaries[1 + len(plan.summaries) // 8 :])
            elif plan.digest:
                plan = msgspec.structs.replace(plan, digest=())
            else:
                plan = msgspec.structs.replace(plan, start=plan.cut, clipped=None)
        plan = msgspec.structs.replace(plan, start=plan.cut, digest=(), summaries=(), retrieved=(), clipped=None)
        return self._chosen(plan, self._render(plan, pins, ()))

    def _later(self, tail: list[Message], over: int) -> int:
        """Give where to begin so that at least so many tokens less are word for word."""
        dropped = 0
        for message, following in pairwise(tail):
            dropped += self._tokens.of(message["content"])
            if dropped >= over:
                return following["start"]
        return tail[-1]["start"]

    def _pull(self, plan: Plan, pins: Sequence[Event], retrieved: Sequence[Event]) -> tuple[Plan, Rendered]:
        """Carry out a plan, with the tool uses before it whose results stand in it."""
        pulled = self._uses(plan.start, without_use(self._newest_events.since(plan.start)))
        while True:
            plan = msgspec.structs.replace(plan, pulled=tuple(sorted(pulled)))
            rendered = self._render(plan, pins, retrieved)
            orphans = {
                block.get("tool_use_id")
                for message in rendered.tail
                for block in message["content"]
                if isinstance(block, dict) and block.get("type") == "tool_result"
            }
            more = self._uses(plan.start, orphans) - pulled
            if not more:  # as nearly always: what is seen in the events is what is missed in the messages
                return plan, rendered
            pulled |= more

    def _uses(self, start: int, results: Collection[Any]) -> set[int]:
        """Give the positions of uses before `start` that wait for one of these results, by the ids of the uses."""
        if not results or start == 0:
            return set()
        if self._waiting is None or self._waiting[0] != start:
            built = Builder(self._storage, self._view, PENDING, taking=None).build(start)
            self._waiting = (start, [(tool.id, tool.position) for tool in read_pending(built.value, start).tools])
        return {position for use, position in self._waiting[1] if use in results}

    def _render(self, plan: Plan, pins: Sequence[Event], retrieved: Sequence[Event]) -> Rendered:
        return render(self._storage, self._view, plan, pins, retrieved, self._newest_events.since(plan.start))

    def _chosen(self, plan: Plan, rendered: Rendered) -> Chosen:
        payload = payload_of(plan.format, rendered.messages())
        return Chosen(plan, rendered, payload, self._tokens.of(payload))

    def _count(self, rendered: Rendered) -> int:
        return self._chosen(self._plan, rendered).tokens

    def _quoted(self, event: Event) -> int:
        return self._tokens.of(quoted("Recalled from earlier", event)["content"])

    def _fitting(self, events: Sequence[Event], room: int) -> list[Event]:
        """Give the first of what was retrieved that fits."""
        kept: list[Event] = []
        for event in events:
            room -= self._quoted(event)
            if room >= 0:
                kept.append(event)
        return kept


def _within(nodes: Sequence[Node], room: int, start: int) -> _Spread:
    """Give summaries that fit: all, or the newest and one text that stands for those before."""
    if sum(node.tokens for node in nodes) <= room:
        return _Spread((), 0, list(nodes), start)
    kept: list[Node] = []
    left = room // 2
    for node in reversed(nodes):
        left -= node.tokens
        if left < 0:
            break
        kept.append(node)
    digest_tokens = max(room // 2, 1)
    return _Spread(tuple(nodes[: len(nodes) - len(kept)]), digest_tokens, kept[::-1], start)


def _rounded(first: int, cut: int) -> int:
    """Give the next position that is a multiple of a power of two, of about a part of what lies behind."""
    grain = 1
    while grain * 2 * _GRAIN <= cut - first:
        grain *= 2
    return min(-(-first // grain) * grain, cut)
