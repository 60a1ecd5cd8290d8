"""The reducer `usage`: calls, tokens, cost and errors by model and by tool, as they were recorded.

1. A call is recorded by a `model.response`, or by `metadata` of the turn's own events: `usage`, `cost`, `calls`, `model`.
2. Events of one turn share a `message_id` (or `response_id`), and the last of them counts for all; without one each counts.
3. Cost is what was recorded (`cost`, in the currency of who recorded it); no price is guessed.
4. A tool's use counts once, and fails at most once: by its own outcome, else by its result's.
"""

from __future__ import annotations

from typing import Any, Final, cast

from everlog.core.event import Event
from everlog.reducers.blocks import has_failed, is_use
from everlog.reducers.registry import Reducer, add_reducer

TYPES: Final = ("model.response", "agent.*", "user.message", "x.*", "error")
TOKENS: Final = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
    "reasoning_tokens",
)
UNKNOWN: Final = "unknown"
_OPEN_MAX: Final = 1_000  # tool uses without a result that are remembered, so that the state stays small
_NUMBER_MAX: Final = 10**12  # of one event: more tokens than that nobody has spent at once
_TURNS_MAX: Final = 16  # turns whose usage is remembered: events of one stand close together


class UsageFold:
    """Folds into a copy of its own."""

    def __init__(self, state: Any) -> None:
        self.value: dict[str, Any] = {
            "total": dict(state["total"]),
            "models": {name: dict(row) for name, row in state["models"].items()},
            "tools": {name: dict(row) for name, row in state["tools"].items()},
            "errors": state["errors"],
            "open": dict(state["open"]),
            "turns": dict(state["turns"]),
        }

    def apply(self, event: Event) -> None:
        """Take an event."""
        data = event.data if isinstance(event.data, dict) else {}
        metadata = event.metadata or {}
        match event.type:
            case "agent.tool_use":
                self._use(data, failed=has_failed(event, data))
            case "agent.tool_result":
                self._result(data, failed=has_failed(event, data))
            case "agent.message" | "user.message":
                self._native(data.get("content"))
            case "error":
                self.value["errors"] += 1
            case _:
                pass
        if event.type == "model.response":
            spent = _spent(data.get("usage"), metadata) | {"errors": int(has_failed(event, data))}
            self._count(data.get("model"), data.get("response_id"), spent)
        elif _spent(metadata.get("usage"), metadata):
            turn = data.get("message_id") or metadata.get("message_id")
            self._count(metadata.get("model"), turn, _spent(metadata.get("usage"), metadata))

    def _native(self, content: Any) -> None:
        """Take the uses and results that stand in messages as Anthropic's API has them."""
        for block in cast("list[Any]", content) if isinstance(content, list) else []:
            if isinstance(block, dict) and is_use(block):
                self._use(block, failed=False)
            elif isinstance(block, dict) and block.get("type") == "tool_result":
                self._result(block, failed=block.get("is_error") is True)

    def _use(self, data: dict[str, Any], *, failed: bool) -> None:
        name = data.get("name")
        name = name if isinstance(name, str) else UNKNOWN
        tool = self.value["tools"].setdefault(name, {"calls": 0, "errors": 0})
        tool["calls"] += 1
        tool["errors"] += failed
        if isinstance(data.get("id"), str) and not failed:
            _remember(self.value["open"], data["id"], name, _OPEN_MAX)

    def _result(self, data: dict[str, Any], *, failed: bool) -> None:
        use = data.get("tool_use_id")
        name = self.value["open"].pop(use, None) if isinstance(use, str) else None
        if name is not None and failed:
            self.value["tools"][name]["errors"] += 1

    def _count(self, model: Any, turn: Any, spent: dict[str, Any]) -> None:
        """Add what a call spent, after taking away what the same turn said before."""
        spent = {"calls": 1, "errors": 0} | spent
        turns = self.value["turns"]
        before = turns.pop(turn, None) if isinstance(turn, str) else None
        if before is not None:
            self._add(before["model"], before["spent"], sign=-1)
        name = model if isinstance(model, str) and model else UNKNOWN
        self._add(name, spent, sign=1)
        if isinstance(turn, str):
            _remember(turns, turn, {"model": name, "spent": spent}, _TURNS_MAX)

    def _add(self, model: str, spent: dict[str, Any], *, sign: int) -> None:
        row = self.value["models"].setdefault(model, {"calls": 0, "errors": 0})
        for place in (row, self.value["total"]):
            for key, number in spent.items():
                place[key] = place.get(key, 0) + sign * number


def _remember(places: dict[str, Any], key: str, value: Any, most: int) -> None:
    """Keep a value as the newest, and the oldest no longer where there are more."""
    places.pop(key, None)
    places[key] = value
    while len(places) > most:
        del places[next(iter(places))]


def _spent(usage: Any, metadata: dict[str, Any]) -> dict[str, Any]:
    """Give what an event says that was spent."""
    tokens: dict[str, Any] = usage if isinstance(usage, dict) else {}
    counted = {key: tokens[key] for key in TOKENS if _is_number(tokens.get(key))}
    return counted | {key: metadata[key] for key in ("cost", "calls") if _is_number(metadata.get(key))}


def _is_number(value: Any) -> bool:
    """Tell whether a value may be added: sums of such never leave what a state can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _NUMBER_MAX


def _step(state: Any, event: Event) -> Any:
    fold = UsageFold(state)
    fold.apply(event)
    return fold.value


USAGE: Final = add_reducer(
    Reducer(
        "usage",
        1,
        _step,
        initial=cast(
            "Any",
            {"total": {"calls": 0, "errors": 0}, "models": {}, "tools": {}, "errors": 0, "open": {}, "turns": {}},
        ),
        types=TYPES,
        start_fold=UsageFold,
        starts_cheaply=False,
    )
)
