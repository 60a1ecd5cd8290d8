"""Contexts, summaries and what a model saw, as a line of events offers them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import chain
from typing import Any, Final

import msgspec

from everlog.context.choose import Chooser, Chosen
from everlog.context.manifest import (
    FORMATS,
    PINS_MAX,
    RETRIEVED_MAX,
    VERSION,
    Format,
    Item,
    LeftOut,
    Manifest,
    Plan,
    merged,
    read_manifest,
)
from everlog.context.recorded import encode_sent, is_recorded, sent_by
from everlog.context.render import MEMBERS, Rendered, payload_of, render
from everlog.context.tokens import TokenCounter, Tokens
from everlog.context.tree import (
    Node,
    Tree,
    nodes_of,
    read_positions,
    read_tree,
    written_by,
)
from everlog.core.event import Event
from everlog.core.limits import PAGE_EVENTS_MAX
from everlog.core.position import parse_event_id
from everlog.core.query import Exact, Term
from everlog.errors import InvalidEventError, InvalidPlaceError, LimitError, NotFoundError
from everlog.reader import PlaceLike, View, head_at, resolve_cut, resolve_event
from everlog.state import StateReader

BUDGET_MAX: Final = 10_000_000
_HEAD_EVENTS: Final = 100  # of a session that is not summarized, in which the system's messages are looked for
_PARTNER_EVENTS: Final = 2_000  # behind a tool use that its result is looked for in, where it is pinned
PinLike = PlaceLike


class Context(msgspec.Struct, frozen=True):
    """What goes to a model.

    payload: arguments for the provider's client (`**context.payload`). tokens: of it, as `manifest.counted` says. manifest: what is in,
    what is not, and why.
    """

    format: Format
    payload: dict[str, Any]
    tokens: int
    budget: int
    manifest: Manifest

    @property
    def messages(self) -> list[Any]:
        """The messages (of OpenAI's responses: the items), oldest first."""
        return self.payload[MEMBERS.get(self.format, "messages")]

    @property
    def estimated(self) -> bool:
        """Whether tokens were estimated, and not counted by a counter."""
        return self.manifest.counted != "counter"

    @property
    def encoded(self) -> bytes:
        """The payload's bytes, whose hash the manifest has."""
        return msgspec.json.encode(self.payload)


class Seen(msgspec.Struct, frozen=True):
    """What a recorded call was given. exact: whether it is byte for byte what was sent; else part of it is gone.

    payload, encoded: as in Context; of a call that was recorded at a provider's client, all that was sent, and its JSON with its members in
    order. request: the event; data: its model, params, system and tools. manifest: None where no context was made.
    """

    request: Event
    payload: dict[str, Any]
    encoded: bytes
    exact: bool
    manifest: Manifest | None


class Change(msgspec.Struct, frozen=True):
    """How what one call was given differs from what another was. tokens: of the one and the other. same_bytes: that both begin with."""

    added: tuple[Item, ...]
    removed: tuple[Item, ...]
    tokens: tuple[int, int]
    same_bytes: int
    bytes: tuple[int, int]


class Summary(msgspec.Struct, frozen=True):
    """A summary. event: its id. start, stop: the events it stands for. level: 0 of events, n + 1 of summaries of level n.

    tokens: of its text; covered: of what it stands for, both estimated. method: what made it. content: None where it was erased.
    """

    event: str
    position: int
    start: int
    stop: int
    level: int
    tokens: int
    covered: int
    method: str
    content: str | None


class ContextReader(StateReader):
    """A line of events from which contexts are made."""

    # --- contexts ---
    def context(
        self,
        budget: int = 8_000,
        *,
        at: PlaceLike = "end",
        pins: Iterable[PinLike] = (),
        query: str | None = None,
        format: Format = "anthropic",
        token_counter: TokenCounter | None = None,
    ) -> Context:
        """Give the messages for a model's window, at most `budget` tokens, and a manifest of what is in and what is not.

        pins: what is always in: events, also of other sessions, event ids, positions, checkpoints, or queries ("type:decision"), at
        most 100 events. query: events that meet it are recalled from before the messages, at most 20, the newest first.
        format: "anthropic", "openai_chat", "openai_responses" or "plain" (roles and texts).
        token_counter: counts a text's tokens; without one they are estimated. The same log gives the same context.
        Raises LimitError where pins and the system's messages alone do not fit.
        """
        if isinstance(budget, bool) or not isinstance(budget, int) or not 1 <= budget <= BUDGET_MAX:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LimitError(f"budget {budget!r:.50} is not 1 .. {BUDGET_MAX:,} tokens; nothing was made; give another")
        if format not in FORMATS:
            raise InvalidEventError(
                f"format {format!r:.50} is none of {', '.join(FORMATS)}; nothing was made; choose one"
            )
        view = self.view()
        cut = resolve_cut(self.storage, view, at)
        tree = read_tree(self.storage, view, cut)
        tokens = Tokens(token_counter, tree.scale)
        pinned = self._pinned(view, cut, pins)
        system = self._system(view, cut, tree)
        plan = Plan(format, cut, cut, system, tuple(event.id for event in pinned))
        chooser = Chooser(self.storage, view, tree, tokens, plan, budget)
        recalled = [] if query is None else self._recalled(view, cut, query, pinned)
        chosen = chooser.choose(pinned, recalled)
        while any(event.position >= chosen.plan.start for event in recalled):
            recalled = [event for event in recalled if event.position < chosen.plan.start]
            chosen = chooser.choose(pinned, recalled)  # what stands word for word is not recalled too
        manifest = self._manifest(view, tree, tokens, chosen, pinned, recalled, system, budget)
        return Context(format, chosen.payload, chosen.tokens, budget, manifest)

    def saw(self, place: PlaceLike) -> Seen:
        """Give exactly what a recorded call was given. place: its `model.request` event, or any event that was caused by it.

        Where events that went in were erased since, the bytes differ, and `exact` is False.
        """
        request = self._request_of(self.event(place))
        data: dict[str, Any] = request.data
        if is_recorded(request):
            payload, exact = sent_by(request, self.event, self.slice)
            return Seen(request, payload, encode_sent(payload), exact, None)
        view = self.view()
        manifest = read_manifest(data.get("manifest"), view.size)
        if manifest.version != VERSION:
            raise InvalidEventError(
                f"the manifest is of version {manifest.version}, and this release makes version {VERSION}; nothing was made; its items "
                "say what went in"
            )
        plan = manifest.plan
        pins = [self._event_of(view, each) for each in plan.pins]
        retrieved = [self._event_of(view, each) for each in plan.retrieved]
        payload = payload_of(plan.format, render(self.storage, view, plan, pins, retrieved).messages())
        encoded = msgspec.json.encode(payload)
        return Seen(request, payload, encoded, sha256(encoded).hexdigest() == manifest.payload, manifest)

    def context_diff(self, one: PlaceLike, other: PlaceLike) -> Change:
        """Compare what two recorded calls were given: what the other had and the one had not, and the reverse."""
        first, second = self.saw(one), self.saw(other)
        if first.manifest is None or second.manifest is None:
            raise InvalidEventError(
                "a call that was recorded at a provider's client has no manifest to compare; nothing was made; compare what saw() gives"
            )
        had, has = first.manifest.items, second.manifest.items
        keys_had, keys_has = {_key(item) for item in had}, {_key(item) for item in has}
        same = next(
            (at for at, (a, b) in enumerate(zip(first.encoded, second.encoded, strict=False)) if a != b),
            min(len(first.encoded), len(second.encoded)),
        )
        return Change(
            tuple(item for item in has if _key(item) not in keys_had),
            tuple(item for item in had if _key(item) not in keys_has),
            (first.manifest.tokens, second.manifest.tokens),
            same,
            (len(first.encoded), len(second.encoded)),
        )

    # --- summaries ---
    def outline(self, level: int | None = None, *, at: PlaceLike = "end") -> list[Summary]:
        """Give the summaries, oldest first: the coarsest that together cover the log; with level, those of a level, 0 the finest."""
        view = self.view()
        nodes = list(read_tree(self.storage, view, resolve_cut(self.storage, view, at)).roots)
        while level is not None and any(node.level > level for node in nodes):
            coarse = [node for node in nodes if node.level > level]
            finer = {
                event.position: event
                for event in read_positions(self.storage, view, [node.position for node in coarse])
            }
            nodes = [
                each
                for node in nodes
                for each in (_children(finer.get(node.position)) if node.level > level else [node])
            ]
        events = {
            event.position: event for event in read_positions(self.storage, view, [node.position for node in nodes])
        }
        return [
            _summary(events[node.position], node)
            for node in nodes
            if (level is None or node.level == level) and node.position in events
        ]

    def expand(self, summary: Summary | PlaceLike) -> list[Summary] | list[Event]:
        """Give what a summary stands for: summaries, or the events of its range."""
        view = self.view()
        place = summary.event if isinstance(summary, Summary) else summary
        event = self.event(place)
        written = written_by(event)
        if event.type != "summary" or written is None:
            raise InvalidPlaceError(
                f"event {event.position} of session {event.session!r} is no summary that can be read; nothing was read; see outline()"
            )
        if written.level == 0:
            return self._read_all(view, written.start, written.stop)
        nodes = nodes_of(written.children)
        events = read_positions(self.storage, view, [node.position for node in nodes])
        return [_summary(event, node) for event, node in zip(events, nodes, strict=True)]

    # --- underneath ---
    def _system(self, view: View, cut: int, tree: Tree) -> tuple[int, ...]:
        """Give the system's messages that stand before the conversation."""
        if tree.roots:
            return tree.system
        terms = (Term("type", (Exact("system.message"),)),)
        page = self.storage.read(view.lineage, 0, min(cut, _HEAD_EVENTS), terms=terms) if cut else None
        return () if page is None else tuple(event.position for event in page.events if event.raw is not None)

    def _pinned(self, view: View, cut: int, pins: Iterable[PinLike]) -> list[Event]:
        found: dict[str, Event] = {}
        if isinstance(pins, (str, int, Event)):
            pins = [pins]
        if not isinstance(pins, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidPlaceError(
                f"pins {pins!r:.50} are no list; nothing was made; give events, their ids or queries"
            )
        for given, pin in enumerate(pins):
            for event in self._pin(view, cut, pin):
                found[event.id] = event
                if max(len(found), given + 1) > PINS_MAX:
                    raise LimitError(
                        f"more than {PINS_MAX} events are pinned; nothing was made; pin fewer, or a narrower query"
                    )
        return list(found.values())

    def _pin(self, view: View, cut: int, pin: PinLike) -> list[Event]:
        if isinstance(pin, str) and parse_event_id(pin) is None and (":" in pin or " " in pin):
            chosen = self._read_pages(view, 0, cut, self._query(pin), limit=PINS_MAX + 1)
            return [event for page in chosen for event in page if event.raw is not None]
        if isinstance(pin, Event) or (isinstance(pin, str) and parse_event_id(pin) is not None):
            event = self._event_of(view, pin.id if isinstance(pin, Event) else pin)
        else:
            event = self._read_one(view, resolve_event(self.storage, view, pin))
        if event.raw is None:
            raise NotFoundError(f"the pinned event {event.id} was erased; nothing was made; pin another")
        return [event, *self._partner(view, event)]

    def _partner(self, view: View, event: Event) -> list[Event]:
        """Give a pinned tool use's result, or a result's use."""
        data: Any = event.data
        if event.type not in {"agent.tool_use", "agent.tool_result"} or not isinstance(data, dict):
            return []
        is_use = event.type == "agent.tool_use"
        wanted, member, use = (
            ("agent.tool_result", "tool_use_id", data.get("id"))
            if is_use
            else ("agent.tool_use", "id", data.get("tool_use_id"))
        )
        if not isinstance(use, str) or (event.branch != view.branch.id and not self._holds_event(view, event)):
            return []
        start = event.position + 1 if is_use else max(0, event.position - _PARTNER_EVENTS)
        stop = min(view.size, event.position + _PARTNER_EVENTS) if is_use else event.position
        query = self._query(None, types=wanted, where={f"data.{member}": use})
        pages = self._read_pages(view, start, stop, query, limit=1, reverse=not is_use) if start < stop else ()
        return [found for page in pages for found in page if found.raw is not None]

    def _holds_event(self, view: View, event: Event) -> bool:
        return event.position < view.size and self._read_one(view, event.position).id == event.id

    def _event_of(self, view: View, event_id: str) -> Event:
        """Read an event by its id: of this line, or of any in the store."""
        place = parse_event_id(event_id)
        assert place is not None, "it was read as an id"
        try:
            return self._read_one(view, resolve_event(self.storage, view, event_id))
        except NotFoundError:
            branch = self.storage.branch_by_id(place.writer)
        if branch is None or not branch.base_size <= place.position < branch.size:
            raise NotFoundError(f"event {event_id} is not in this store; nothing was made; pin another")
        other = View(branch, self.storage.lineage(branch.key, self.storage.session_of(branch.key).name))
        return self._read_one(other, place.position)

    def _recalled(self, view: View, cut: int, query: str, pinned: Sequence[Event]) -> list[Event]:
        skipped = {event.id for event in pinned}
        pages = self._read_pages(view, 0, cut, self._query(query), reverse=True, limit=RETRIEVED_MAX)
        kept = [event for page in pages for event in page if event.raw is not None and event.id not in skipped]
        return [event for event in kept if event.type != "summary"]

    def _request_of(self, event: Event) -> Event:
        """Give the request that an event tells of, or was caused by."""
        asked = event.data.get("request") if event.type == "model.response" and isinstance(event.data, dict) else None
        named = [] if not isinstance(asked, str) or parse_event_id(asked) is None else [asked]
        near = [event, *(self._event_of(self.view(), each) for each in named)]
        for each in chain(near, self._causes_of(event)):
            if (
                each.type == "model.request"
                and isinstance(each.data, dict)
                and each.data.keys() & {"manifest", "recorded"}
            ):
                return each
        raise NotFoundError(
            f"no recorded call led to event {event.position} of session {event.session!r}; calls are recorded with record_request(), "
            "and an event names its call with caused_by="
        )

    def _causes_of(self, event: Event) -> Iterator[Event]:
        """Give the events that led to one, the nearest first; read only where they are asked for."""
        if event.cause is not None:
            yield from self.causes(event.position, limit=PAGE_EVENTS_MAX)

    def _manifest(
        self,
        view: View,
        tree: Tree,
        tokens: Tokens,
        chosen: Chosen,
        pins: Sequence[Event],
        recalled: Sequence[Event],
        system: Sequence[int],
        budget: int,
    ) -> Manifest:
        """Say what a context is made of. recalled: first those that found room. system: the system's messages, with and without room."""
        plan, rendered = chosen.plan, chosen.rendered
        storage = self.storage
        front = iter(rendered.front[len(rendered.front) - len(plan.pins) - bool(plan.digest) - len(plan.summaries) :])
        items = [
            Item("system", event.position, event.position + 1, event.hash, tokens.of(event.data), event.position)
            for event in read_positions(storage, view, plan.system)
        ]
        for event in pins:
            at = event.position
            items.append(Item("pinned", at, at + 1, event.hash, tokens.of(next(front)["content"]), event.id))
        if plan.digest:
            message, events = next(front), read_positions(storage, view, plan.digest)
            joined = sha256("".join(event.hash for event in events).encode()).hexdigest()
            items.append(Item("summary", message["start"], message["stop"], joined, tokens.of(message["content"])))
        for event, message in zip(read_positions(storage, view, plan.summaries), front, strict=True):
            items.append(
                Item(
                    "summary",
                    message["start"],
                    message["stop"],
                    event.hash,
                    tokens.of(message["content"]),
                    event.position,
                )
            )
        for event, message in zip(recalled, rendered.beside, strict=False):
            at, count = event.position, tokens.of(message["content"])
            items.append(Item("retrieved", at, at + 1, event.hash, count, event.id))
        items += [
            Item("recent", event.position, event.position + 1, event.hash, 0, None, plan.clipped)
            for event in read_positions(storage, view, plan.pulled)
        ]
        for message in rendered.tail:
            start, stop = max(message["start"], plan.start), message["stop"]
            if start < stop:
                leaves = b"".join(rendered.leaves[at] for at in range(start, stop) if at in rendered.leaves)
                digest, count = sha256(leaves).hexdigest(), tokens.of(message["content"])
                items.append(Item("recent", start, stop, digest, count, None, plan.clipped))
        return Manifest(
            VERSION,
            self.storage.session(self._session_name).id,
            view.branch.id,
            plan.cut,
            head_at(storage, view, plan.cut).root,
            budget,
            chosen.tokens,
            tokens.method,
            tokens.scale,
            sha256(msgspec.json.encode(chosen.payload)).hexdigest(),
            plan,
            tuple(items),
            _left_out(plan, tree, items, rendered, {*system} - {*plan.system}),
        )


def _left_out(
    plan: Plan, tree: Tree, items: Sequence[Item], rendered: Rendered, system: set[int]
) -> tuple[LeftOut, ...]:
    """Give what is in no item, and why. system: the system's messages that found no room, which summaries say nothing of."""
    taken = sorted((item.start, item.stop) for item in items if item.why in {"system", "summary", "recent"})
    unused = {node.position for node in tree.roots} - {*plan.summaries, *plan.digest}
    hidden = [position for position in system if any(start <= position < stop for start, stop in taken)]
    left = [LeftOut("budget", position, position + 1) for position in hidden if position < plan.start]
    at = 0  # up to where all is told of
    for start, stop in [*taken, (plan.cut, plan.cut)]:
        if at < start:
            left += _why_not(at, start, plan, unused, rendered.erased)
        at = max(at, stop)
    return merged(left)


def _why_not(start: int, stop: int, plan: Plan, unused: set[int], erased: Sequence[tuple[int, int]]) -> list[LeftOut]:
    """Say of positions that are in nothing why: below the messages no room, among them no part of a conversation."""
    left = [LeftOut("budget", start, min(stop, plan.start))] if start < plan.start else []
    marks = [(position, position + 1, "superseded") for position in unused if max(start, plan.start) <= position < stop]
    marks += [(max(low, start), min(high, stop), "erased") for low, high in erased if low < stop and high > start]
    at = max(start, plan.start)
    for low, high, why in sorted(marks):
        if low < at:
            continue
        if at < low:
            left.append(LeftOut("filtered", at, low))
        left.append(LeftOut(why, low, high))  # pyright: ignore[reportArgumentType]
        at = high
    return left + ([LeftOut("filtered", at, stop)] if at < stop else [])


def _children(event: Event | None) -> list[Node]:
    written = None if event is None else written_by(event)
    return [] if written is None else nodes_of(written.children)


def _summary(event: Event, node: Node) -> Summary:
    data: dict[str, Any] = event.data if isinstance(event.data, dict) else {}
    content = data.get("content")
    return Summary(
        event.id,
        event.position,
        node.start,
        node.stop,
        node.level,
        node.tokens,
        node.covered,
        str(data.get("method", "")),
        content if isinstance(content, str) else None,
    )


def _key(item: Item) -> tuple[Any, ...]:
    return (item.why, item.start, item.stop, item.hash, item.clipped)
