"""Counting what a session's events say, one after another: who acted, why, with what outcome, on what they were decided.

1. Each event is looked at once, and let go of: what is kept are counts, and of each kind the newest `limit`, their texts cut short.
2. Names come from whoever wrote the events, so there may be any number of them: past NAMES_MAX they are counted together, as OTHERS.
3. A body that cannot be read is counted, and stops nothing; `verify` names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappush, heappushpop
from typing import Any, Final, Generic, TypeVar

import msgspec

from everlog.context.manifest import read_manifest
from everlog.context.recorded import is_recorded
from everlog.core.event import Event
from everlog.core.position import format_micros
from everlog.core.redact import MEMBER
from everlog.errors import EverlogError

NAMES_MAX: Final = 1_000
OTHERS: Final = "…"  # no actor and no type is called so
NONE: Final = "none"  # as the query language names events without an outcome
WORDS_CHARACTERS: Final = 300  # of what an event says, and of its reason: two lines of print
NAME_CHARACTERS: Final = 128  # of what is counted
TROUBLE: Final = frozenset({"error", "denied", "cancelled", "timeout", "unknown"})
MOVES: Final = frozenset({"session.forked", "session.rewound", "session.switched", "session.merged", "session.updated"})

T = TypeVar("T")


class Fact(msgspec.Struct, frozen=True):
    """Something that an event says. branch: as b2. at: when it was recorded. says: its beginning. why: its rationale, or its reason."""

    id: str
    branch: str
    position: int
    at: str
    type: str
    actor: str | None
    outcome: str | None
    says: str
    why: str | None


class Facts(msgspec.Struct, frozen=True):
    """Facts of a kind: how many there are, and the newest of them in the order of time."""

    count: int
    newest: tuple[Fact, ...]


class Acting(msgspec.Struct, frozen=True):
    """What one actor did. actor: None for events that name none. first, last: when."""

    actor: str | None
    events: int
    first: str
    last: str


class Window(msgspec.Struct, frozen=True):
    """What one recorded call was given, as its manifest says.

    tokens, budget, counted: as in `Manifest`. items: how many went in, by why. left_out: how many events did not, by why.
    exact: whether its very bytes can be made again; None where that was not tried. note: why nothing can be told.
    """

    id: str
    branch: str
    position: int
    at: str
    model: str
    tokens: int | None
    budget: int | None
    counted: str | None
    items: dict[str, int]
    left_out: dict[str, int]
    exact: bool | None
    note: str | None


class Windows(msgspec.Struct, frozen=True):
    """Recorded calls of models: how many, how many of them without a manifest, and the newest."""

    count: int
    unknown: int
    newest: tuple[Window, ...]


class Tenure(msgspec.Struct, frozen=True):
    """One lease. until: up to when it was taken at first. ended: when that was recorded; None where it was not.

    lapsed: it was not given back. gap_seconds: from when the one before ended on record to when this was taken.
    """

    token: int
    holder: str
    taken: str | None
    until: str | None
    ended: str | None
    lapsed: bool
    reason: str | None
    gap_seconds: float | None


class Tenures(msgspec.Struct, frozen=True):
    """Leases: how many were taken, how many lapsed, how often another holder followed, and the newest by token."""

    count: int
    lapsed: int
    handovers: int
    newest: tuple[Tenure, ...]


class _Newest(Generic[T]):
    """Keeps the newest of what is counted."""

    def __init__(self, limit: int) -> None:
        self.count = 0
        self._limit = limit
        self._kept: list[tuple[int, int, T]] = []

    def add(self, micros: int, item: T) -> None:
        self.count += 1
        push = heappush if len(self._kept) < self._limit else heappushpop
        push(self._kept, (micros, self.count, item))

    def in_order(self) -> tuple[T, ...]:
        return tuple(item for _, _, item in sorted(self._kept, key=lambda each: each[:2]))


class _Told(msgspec.Struct):
    """Of a body, what every event may have; its data is passed over."""

    rationale: Any = None
    metadata: Any = None


class _Holding:
    """A lease as its events tell of it, in whatever order lines are read."""

    __slots__ = ("ended", "holder", "lapsed", "reason", "taken", "until")

    def __init__(self) -> None:
        self.holder: str | None = None
        self.until: str | None = None
        self.reason: str | None = None
        self.taken: int | None = None
        self.ended: int | None = None
        self.lapsed = False


_decode_told = msgspec.json.Decoder(_Told).decode
_Names = dict[str, int]


class Tally:
    """Counts events as they are given to it. limit: of each kind that is listed."""

    def __init__(self, limit: int) -> None:
        self.events = self.erased = self.withheld = self.unreadable = self.with_rationale = 0
        self.bare_decisions = 0  # without a rationale
        self.outcomes: _Names = {}
        self.types: dict[str, _Names] = {}
        self.rules: _Names = {}
        self.models: _Names = {}
        self.summaries: _Names = {}
        self._actors: dict[str | None, list[int]] = {}  # events, first, last
        self._limit = limit
        self._decisions = _Newest[Fact](limit)
        self._troubles = _Newest[Fact](limit)
        self._moves = _Newest[Fact](limit)
        self._redactions = _Newest[Fact](limit)
        self._windows = _Newest[Window](limit)
        self._no_manifest = 0
        self._leases: dict[int, _Holding] = {}
        self._taken = self._lapsed = self._handovers = 0
        self._holder: str | None = None

    # --- taking events in ---
    def add(self, event: Event, branch: str, size: int) -> None:
        """Count an event. branch: the name of its line; size: of that line."""
        self.events += 1
        outcome = event.outcome or NONE
        _count(self.outcomes, outcome)
        kind = event.type if event.type in self.types or len(self.types) < NAMES_MAX else OTHERS
        _count(self.types.setdefault(kind, {}), outcome)
        self._add_actor(event)
        if event.raw is None:
            self.erased += event.erased
            self.withheld += event.withheld
            if outcome in TROUBLE:
                self._troubles.add(event.recorded_micros, fact_of(event, branch, None))
            return
        try:
            told = _decode_told(event.raw)
            self._add_body(event, branch, size, told)
        except (EverlogError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.unreadable += 1

    def _add_actor(self, event: Event) -> None:
        actor: str | None = event.actor
        known = self._actors.get(actor)
        if known is None:
            if len(self._actors) >= NAMES_MAX:
                actor = OTHERS
            known = self._actors.setdefault(actor, [0, event.recorded_micros, event.recorded_micros])
        known[0] += 1
        known[1] = min(known[1], event.recorded_micros)
        known[2] = max(known[2], event.recorded_micros)

    def _add_body(self, event: Event, branch: str, size: int, told: _Told) -> None:
        why = told.rationale if isinstance(told.rationale, str) and told.rationale else None
        self.with_rationale += why is not None
        if event.type == "decision" or (why is not None and event.type not in MOVES):
            self.bare_decisions += why is None
            self._decisions.add(event.recorded_micros, fact_of(event, branch, why))
        if event.outcome in TROUBLE or event.type == "error":
            self._troubles.add(event.recorded_micros, fact_of(event, branch, why))
        if event.type in MOVES:
            self._moves.add(event.recorded_micros, fact_of(event, branch, why))
        elif event.type == "model.request":
            self._add_call(event, branch, size)
        elif event.type == "summary":
            self._add_summary(_members(event))
        elif event.type in ("lease.acquired", "lease.released"):
            self._add_lease(event)
        if isinstance(told.metadata, dict):
            if isinstance(told.metadata.get("model"), str):  # of a turn that was imported
                _count(self.models, _name(told.metadata["model"]))
            if isinstance(told.metadata.get(MEMBER), list):
                self._add_redacted(event, branch, told.metadata[MEMBER])

    def _add_summary(self, data: dict[str, Any]) -> None:
        usage = data.get("usage")
        model = usage.get("model") if isinstance(usage, dict) else None
        by = "" if model is None else f" by {_name(model)}"
        _count(self.summaries, f"{_name(data.get('method'))}{by}, level {_name(data.get('level'))}")

    def _add_redacted(self, event: Event, branch: str, redacted: list[Any]) -> None:
        found = [
            (_name(each["rule"]), each["count"])
            for each in redacted
            if isinstance(each, dict) and isinstance(each.get("rule"), str) and type(each.get("count")) is int
        ]
        for rule, count in found:
            _count(self.rules, rule, count)
        if found:
            says = cut_short(", ".join(f"{rule} x{count}" for rule, count in found))
            self._redactions.add(event.recorded_micros, fact_of(event, branch, None, says=says))

    def _add_call(self, event: Event, branch: str, size: int) -> None:
        data = _members(event)
        model = _name(data.get("model"))
        _count(self.models, model)
        at = format_micros(event.recorded_micros)
        window = Window(event.id, branch, event.position, at, model, None, None, None, {}, {}, None, None)
        if is_recorded(event):
            self._windows.add(event.recorded_micros, window)
            return
        try:
            manifest = read_manifest(data.get("manifest"), size)
        except EverlogError:
            self._no_manifest += 1
            window = msgspec.structs.replace(window, note="no manifest was recorded with it that can be read")
        else:
            items: _Names = {}
            left_out: _Names = {}
            for item in manifest.items:
                _count(items, item.why)
            for left in manifest.left_out:
                _count(left_out, left.why, max(0, left.stop - left.start))
            window = msgspec.structs.replace(
                window,
                tokens=manifest.tokens,
                budget=manifest.budget,
                counted=_name(manifest.counted),
                items=items,
                left_out=left_out,
            )
        self._windows.add(event.recorded_micros, window)

    def _add_lease(self, event: Event) -> None:
        data = _members(event)
        token = data.get("token")
        if type(token) is not int:
            return
        lease = self._leases.setdefault(token, _Holding())
        if event.type == "lease.acquired":
            lease.holder, lease.until = _name(data.get("holder")), _name(data.get("until"))
            lease.taken = event.recorded_micros
            self._taken += 1
            self._handovers += self._holder is not None and self._holder != lease.holder
            self._holder = lease.holder
        else:
            lease.ended, lease.lapsed = event.recorded_micros, event.outcome == "timeout"
            lease.reason = cut_short(_text(data.get("reason")))
            self._lapsed += lease.lapsed
        if len(self._leases) > 2 * self._limit + 1:
            self._leases = dict(sorted(self._leases.items())[-self._limit - 1 :])  # tokens only grow

    # --- giving what was counted ---
    @property
    def decisions(self) -> Facts:
        return _facts(self._decisions)

    @property
    def troubles(self) -> Facts:
        return _facts(self._troubles)

    @property
    def moves(self) -> Facts:
        return _facts(self._moves)

    @property
    def redactions(self) -> Facts:
        return _facts(self._redactions)

    @property
    def windows(self) -> Windows:
        return Windows(self._windows.count, self._no_manifest, self._windows.in_order())

    def actors(self) -> tuple[Acting, ...]:
        """Give who acted, those with most events first."""
        most = sorted(self._actors.items(), key=lambda each: (-each[1][0], each[0] or ""))
        return tuple(
            Acting(actor, events, format_micros(first), format_micros(last)) for actor, (events, first, last) in most
        )

    def tenures(self) -> Tenures:
        """Give the leases, by token."""
        newest = tuple(self._tenures())[-self._limit :]
        return Tenures(self._taken, self._lapsed, self._handovers, newest)

    def _tenures(self) -> Iterator[Tenure]:
        ended: int | None = None
        for token, lease in sorted(self._leases.items()):
            gap = None if ended is None or lease.taken is None else max(0, lease.taken - ended) / 1_000_000
            yield Tenure(
                token,
                lease.holder or "",
                _moment(lease.taken),
                lease.until,
                _moment(lease.ended),
                lease.lapsed,
                lease.reason,
                gap,
            )
            ended = lease.ended


def _moment(micros: int | None) -> str | None:
    return None if micros is None else format_micros(micros)


def fact_of(event: Event, branch: str, why: str | None, *, says: str | None = None) -> Fact:
    """Give what an event says as a fact. why: its rationale; with None its data's reason counts. says: in place of its beginning."""
    data = {} if event.raw is None else _members(event)
    reason = data.get("reason") if why is None else why
    return Fact(
        event.id,
        branch,
        event.position,
        format_micros(event.recorded_micros),
        event.type,
        event.actor,
        event.outcome,
        _says(event, data) if says is None else says,
        cut_short(reason) if isinstance(reason, str) and reason else None,
    )


def _says(event: Event, data: dict[str, Any]) -> str:
    if event.raw is None:
        return "(erased)" if event.erased else "(withheld)"
    origin = data.get("from")
    if event.type in MOVES and isinstance(origin, dict):
        return f"from {_name(origin.get('branch'))[:8]}@{_name(origin.get('position'))}"
    if event.type == "decision":
        question = data.get("question")
        asked = f"{question}: " if isinstance(question, str) else ""
        return cut_short(f"{asked}{_text(data.get('choice'))}")
    if event.type == "agent.tool_use":
        return cut_short(f"{_name(data.get('name'))} {_text(data.get('input'))}")
    for member in ("message", "content"):
        if isinstance(data.get(member), str):
            return cut_short(data[member])
    return cut_short(_text(data or event.data))


def _members(event: Event) -> dict[str, Any]:
    data = event.data
    return data if isinstance(data, dict) else {}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def _name(value: Any) -> str:
    """Give what is counted under: a text, cut short."""
    return cut_short(_text(value), NAME_CHARACTERS)


def cut_short(text: str, characters: int = WORDS_CHARACTERS) -> str:
    """Cut a text to so many characters, saying so with an ellipsis."""
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def _count(names: _Names, name: str, by: int = 1) -> None:
    if name not in names and len(names) >= NAMES_MAX:
        name = OTHERS
    names[name] = names.get(name, 0) + by


def _facts(kept: _Newest[Fact]) -> Facts:
    return Facts(kept.count, kept.in_order())
