"""Summarizing, and recording what a model was asked: the verbs of a session that write them.

1. A summary of events covers about LEAF_EVENTS of them, or `leaf_tokens`; it ends where no tool use waits for its result and no turn
   goes on. When `fan_out` summaries of a level stand side by side, one more covers them.
2. Summaries are events like others: nothing that they stand for is changed. Each is appended under its number as key, so that two
   processes that summarize at once write each once.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec

from everlog.context.extract import LEAF_TOKENS as TEXT_TOKENS
from everlog.context.extract import METHOD, NODE_TOKENS, extract_events, extract_summaries
from everlog.context.reader import Context
from everlog.context.render import SPOKEN
from everlog.context.tokens import SCALE_MAX, SCALE_MIN, Tokens, next_scale, sent_bytes
from everlog.context.tree import (
    LEAF_TOKENS,
    SYSTEM_MAX,
    Node,
    Tree,
    covered_ranges,
    free_number,
    key_of,
    range_hashes,
    read_positions,
    read_tree,
)
from everlog.core.canonical import canonical_json
from everlog.core.decide import StaleExpectationError
from everlog.core.event import Event, NewEvent
from everlog.core.position import parse_event_id
from everlog.core.values import check_value
from everlog.errors import InvalidEventError, KeyReusedError, LimitError, ReducerError
from everlog.reader import View
from everlog.storage import Append
from everlog.worker import SessionWorker
from everlog.writer import busy_with_others, tries

FAN_OUT: Final = 16
FAN_OUT_MIN, FAN_OUT_MAX = 2, 16
SUMMARIES_MAX: Final = 10_000  # that one call writes
LEAF_EVENTS: Final = 32
LEAF_TOKENS_MIN, LEAF_TOKENS_MAX = 100, 100_000
_SHORTER: Final = 6  # times, that a summary is at least than what it covers
_TEXT_TOKENS_MIN: Final = 60
_PATIENCE: Final = 4  # times as much is waited for a tool use's result
_SUMMARY_CHARACTERS_MAX: Final = 100_000


class Covered(NamedTuple):
    """What a summarizer is given. level 0: events; above: summaries' texts. start, stop: the range. tokens: that its text should take."""

    level: int
    start: int
    stop: int
    events: tuple[Event, ...]
    texts: tuple[str, ...]
    tokens: int


Summarizer = Callable[[Covered], "str | Mapping[str, Any] | Awaitable[str | Mapping[str, Any]]"]


class _Draft(NamedTuple):
    """A summary to be written: what it covers, of which level, and what the tree knows beside it."""

    level: int
    start: int
    stop: int
    covered: int
    children: tuple[Node, ...]
    events: tuple[Event, ...]
    system: tuple[int, ...]
    scale: float


class SessionSummarizer(SessionWorker):
    """A session's handle as one that summarizes it, and records calls of models."""

    def summarize(
        self,
        summarizer: Summarizer | None = None,
        *,
        fan_out: int = FAN_OUT,
        leaf_tokens: int = LEAF_TOKENS,
        limit: int = SUMMARIES_MAX,
        actor: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Event]:
        """Bring the tree of summaries up to date; give the summary events that were appended. Nothing else changes.

        summarizer: called with a Covered; gives a text, or {"content": text, "usage": {…}, "method": name}. Where it raises or gives
        nothing, the default takes its place, and the event says so. The default needs no model: it picks sentences, and rewords none.
        fan_out: summaries that one of the next level covers, 2 .. 16. leaf_tokens: that a summary of events covers, about, 100 ..
        100,000; a quarter of the budget of contexts, where that is less than 8,000. limit: summaries at most. progress: positions done,
        and all.
        Call it as often as you like, from anywhere that may append; what is summarized already costs nothing.
        """
        if isinstance(fan_out, bool) or not isinstance(fan_out, int) or not FAN_OUT_MIN <= fan_out <= FAN_OUT_MAX:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LimitError(
                f"fan_out {fan_out!r:.50} is not {FAN_OUT_MIN} .. {FAN_OUT_MAX}; nothing was written; give another"
            )
        if (
            isinstance(leaf_tokens, bool)
            or not isinstance(leaf_tokens, int)  # pyright: ignore[reportUnnecessaryIsInstance]
            or not LEAF_TOKENS_MIN <= leaf_tokens <= LEAF_TOKENS_MAX
        ):
            raise LimitError(
                f"leaf_tokens {leaf_tokens!r:.50} is not {LEAF_TOKENS_MIN} .. {LEAF_TOKENS_MAX:,}; nothing was written; give another"
            )
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LimitError(f"limit {limit!r:.50} is no number of summaries; nothing was written; give 1 or more")
        written: list[Event] = []
        attempts = tries()
        view = self.view()
        while len(written) < limit:
            tree = read_tree(self.storage, view, view.size)
            draft = self._draft(view, tree, fan_out, leaf_tokens)
            if draft is None:
                break
            event = self._write_summary(view, tree, draft, summarizer, actor, leaf_tokens)
            view = self.view()
            if event is None:
                if next(attempts, None) is None:
                    raise busy_with_others(self.id)
                continue
            attempts = tries()
            if event.repeated:  # another process wrote the very same
                continue
            written.append(event)
            if progress is not None:
                progress(draft.stop, view.size)
        return written

    def record_request(
        self,
        context: Context,
        *,
        model: str,
        provider: str | None = None,
        params: Mapping[str, Any] | None = None,
        system: Any = None,
        tools: Sequence[Any] | None = None,
        actor: str | None = None,
        caused_by: Event | str | None = None,
        key: str | None = None,
    ) -> Event:
        """Record that a model is called with a context; give the `model.request` event. Record its answer with `caused_by=` it.

        model, provider, params, system, tools: what is sent beside the context. `saw()` gives the very bytes again.
        """
        if not isinstance(context, Context):
            raise InvalidEventError(
                f"a request is recorded with a Context, not with {type(context).__name__}; nothing was written; give what "
                "context() gave"
            )
        if context.manifest.session != self.uuid:
            raise InvalidEventError("the context is of another session; nothing was written; record it there")
        beside = {"model": model, "provider": provider, "params": params, "system": system, "tools": tools}
        data = {name: value for name, value in beside.items() if value is not None}
        try:
            request = sha256(canonical_json({**data, "payload": context.manifest.payload})).hexdigest()
        except ReducerError as error:
            raise InvalidEventError(
                f"what is sent beside the context is no JSON ({error}); nothing was written; give plain values"
            ) from error
        data |= {
            "manifest": context.manifest.to_dict(),
            "manifest_hash": context.manifest.hash,
            "request_hash": request,
        }
        return self.append("model.request", data, actor=actor, caused_by=caused_by, key=key)

    # --- what is next ---
    def _draft(self, view: View, tree: Tree, fan_out: int, leaf_tokens: int) -> _Draft | None:
        """Give the next summary that is due; None where the tree is up to date."""
        run = _run_at_end(tree.roots)
        if len(run) >= fan_out:
            covered = tuple(run[:fan_out])
            tokens = sum(node.covered for node in covered)
            return _Draft(
                covered[0].level + 1, covered[0].start, covered[-1].stop, tokens, covered, (), tree.system, tree.scale
            )
        return self._draft_of_events(view, tree, leaf_tokens)

    def _draft_of_events(self, view: View, tree: Tree, leaf_tokens: int) -> _Draft | None:
        estimate = Tokens()
        start, covered, scale = tree.frontier, 0, tree.scale
        events: list[Event] = []
        open_uses: set[str] = set()
        system = list(tree.system)
        for event in self._events_from(view, start):
            if covered and _is_due(max(len(events) / LEAF_EVENTS, covered / leaf_tokens), open_uses, events[-1], event):
                return _Draft(0, start, event.position, covered, (), tuple(events), tuple(system[:SYSTEM_MAX]), scale)
            events.append(event)
            scale = self._scaled(event) or scale
            if event.type == "system.message" and event.raw is not None:
                system.append(event.position)
            if event.type in SPOKEN and event.raw is not None:
                covered += estimate.of_bytes(sent_bytes(event))
                _follow(open_uses, event)
        return None

    def _events_from(self, view: View, start: int) -> Iterator[Event]:
        while start < view.size:
            page = self.storage.read(view.lineage, start, view.size, limit=2 * LEAF_EVENTS)
            yield from page.events
            if page.following is None:
                return
            start = page.following

    def _scaled(self, event: Event) -> float | None:
        """Give what a recorded answer says of how tokens are estimated, where its request was estimated here."""
        if event.type != "model.response" or not isinstance(event.data, dict):
            return None
        usage, asked = event.data.get("usage"), event.data.get("request")
        counted = usage.get("input_tokens") if isinstance(usage, dict) else None
        if not isinstance(counted, int) or not isinstance(asked, str):
            return None
        place = parse_event_id(asked)
        found = read_positions(self.storage, self.view(), [place.position]) if place is not None else []
        if not found or found[0].id != asked or not isinstance(found[0].data, dict):
            return None
        manifest = found[0].data.get("manifest")
        if not isinstance(manifest, dict) or manifest.get("counted") == "counter" or found[0].data.get("tools"):
            return None
        tokens, scale = manifest.get("tokens"), manifest.get("scale")
        if not isinstance(tokens, int) or not isinstance(scale, (int, float)) or not SCALE_MIN <= scale <= SCALE_MAX:
            return None
        return next_scale(counted, round(tokens / scale))

    # --- writing ---
    def _write_summary(
        self,
        view: View,
        tree: Tree,
        draft: _Draft,
        summarizer: Summarizer | None,
        actor: str | None,
        leaf_tokens: int,
    ) -> Event | None:
        """Append a summary; None where another process has written one meanwhile, or the line was left."""
        number = free_number(self.storage, view, tree.number + 1)
        members = self._summarized(view, draft, summarizer)
        roots = [node for node in tree.roots if node not in draft.children]
        data = {
            **members,
            "start": draft.start,
            "stop": draft.stop,
            "level": draft.level,
            "number": number,
            "tokens": {"content": Tokens().of(members["content"]), "covered": draft.covered},
            "children": list(draft.children),
            "roots": roots,
            "system": draft.system,
            "scale": draft.scale,
            "leaf": leaf_tokens,
        }
        new = NewEvent("summary", msgspec.to_builtins(data), actor=actor, key=key_of(number))
        (prepared,) = self._prepare((new,), own_verb=True)
        ranges = covered_ranges(draft.start, draft.stop)
        hashes = range_hashes(self.storage, view, ranges)
        covers = tuple((*each, bytes.fromhex(found)) for each, found in zip(ranges, hashes, strict=True))
        batch = self._batch((msgspec.structs.replace(prepared, covers=covers),), branch=view.branch.id)
        try:
            return self.noted(self.storage.write(Append(self._row.id, batch))).events[0]
        except (KeyReusedError, StaleExpectationError):
            return None

    def _summarized(self, view: View, draft: _Draft, summarizer: Summarizer | None) -> dict[str, Any]:
        """Give a summary's content, method and usage."""
        below = read_positions(self.storage, view, [node.position for node in draft.children])
        texts = tuple(_content(event) for event in below)
        tokens = NODE_TOKENS if draft.level else min(max(draft.covered // _SHORTER, _TEXT_TOKENS_MIN), TEXT_TOKENS)
        default = (
            extract_events(draft.events, tokens=tokens)
            if draft.level == 0
            else extract_summaries((node.start, text) for node, text in zip(draft.children, texts, strict=True))
        )
        made = {"content": default, "method": METHOD}
        if summarizer is None:
            return made
        covered = Covered(draft.level, draft.start, draft.stop, draft.events, texts, tokens)
        try:
            return _checked(summarizer, _awaited(summarizer(covered)))
        except Exception as error:  # noqa: BLE001  # a model that cannot be reached must not keep the log from being summarized
            return made | {
                "fallback": self._marked(f"{type(error).__name__}: {error}")[:1_000].encode(errors="replace").decode()
            }


def _run_at_end(roots: Sequence[Node]) -> list[Node]:
    """Give the roots at the end that are of one level."""
    run: list[Node] = []
    for node in reversed(roots):
        if run and node.level != run[0].level:
            break
        run.append(node)
    return run[::-1]


def _follow(open_uses: set[str], event: Event) -> None:
    data: Any = event.data
    if not isinstance(data, dict):
        return
    if event.type == "agent.tool_use":
        open_uses.add(str(data.get("id")))
    elif event.type == "agent.tool_result":
        open_uses.discard(str(data.get("tool_use_id")))
    elif event.type in {"agent.message", "user.message"}:
        for block in data["content"] if isinstance(data.get("content"), list) else ():
            if isinstance(block, dict) and block.get("type") == "tool_use":
                open_uses.add(str(block.get("id")))
            elif isinstance(block, dict) and block.get("type") == "tool_result":
                open_uses.discard(str(block.get("tool_use_id")))


def _is_due(full: float, open_uses: set[str], last: Event, following: Event) -> bool:
    """Tell whether a summary of events may end before the one that follows. full: how many summaries' worth they are."""
    return full >= 1 and ((not open_uses and not _goes_on(last, following)) or full >= _PATIENCE)


def _goes_on(event: Event, following: Event) -> bool:
    """Tell whether two events are of one turn of the agent."""
    turns = [each.data.get("message_id") if isinstance(each.data, dict) else None for each in (event, following)]
    return turns[0] is not None and turns[0] == turns[1]


def _content(event: Event) -> str:
    content = event.data.get("content") if isinstance(event.data, dict) else None
    return content if isinstance(content, str) else ""


def _awaited(given: Any) -> Any:
    if not inspect.isawaitable(given):
        return given
    import asyncio  # only where a summarizer is asynchronous

    async def wait() -> Any:
        return await given

    return asyncio.run(wait())


def _checked(summarizer: Summarizer, given: Any) -> dict[str, Any]:
    """Give what a summarizer made as members of the event; InvalidEventError where it is no summary."""
    members: dict[str, Any] = {"content": given} if isinstance(given, str) else dict(given)
    content = members.get("content")
    if not isinstance(content, str) or not content.strip():
        raise InvalidEventError("the summarizer gave no text")
    if len(content) > _SUMMARY_CHARACTERS_MAX:
        raise LimitError(f"the summarizer gave {len(content):,} characters of at most {_SUMMARY_CHARACTERS_MAX:,}")
    usage = members.get("usage")
    if usage is not None and not isinstance(usage, Mapping):
        raise InvalidEventError("the summarizer's usage is no object")
    check_value(usage, what="usage")
    method = members.get("method") or getattr(summarizer, "__qualname__", type(summarizer).__qualname__)
    made = {"content": content, "method": str(method)[:200]} | ({} if usage is None else {"usage": dict(usage)})
    msgspec.json.encode(made)  # UnicodeEncodeError for what is no text
    return made
