"""The reducer `usage`: calls, tokens, cost and errors by model and by tool, as they were recorded.

1. Tokens come from `usage` of a `model.response`, else from `metadata.usage` (with `metadata.model`) of a turn's events.
2. Several events of one turn share a `message_id`, and the last one's usage counts for all of them.
3. Cost is what was recorded (`cost`, in the currency of who recorded it); no price is guessed.
"""

from __future__ import annotations

from typing import Any, Final, cast

from everlog.core.event import Event
from everlog.reducers.registry import Reducer, add_reducer

TYPES: Final = ("model.response", "agent.*", "x.*", "error")
TOKENS: Final = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
    "reasoning_tokens",
)
UNKNOWN: Final = "unknown"
_OPEN_MAX: Final = 1_000  # tool uses without a result that are remembered, so that the state stays small


class UsageFold:
    """Folds into a copy of its own."""

    def __init__(self, state: Any) -> None:
        self.value: dict[str, Any] = {
            "total": dict(state["total"]),
            "models": {name: dict(row) for name, row in state["models"].items()},
            "tools": {name: dict(row) for name, row in state["tools"].items()},
            "errors": state["errors"],
            "open": dict(state["open"]),
            "turn": state["turn"],
        }

    def apply(self, event: Event) -> None:
        """Take an event."""
        data = event.data if isinstance(event.data, dict) else {}
        metadata = event.metadata or {}
        kind = event.type
        if kind == "agent.tool_use":
            self._use(event, data)
        elif kind == "agent.tool_result":
            self._result(event, data)
        elif kind == "error":
            self.value["errors"] += 1
        if kind == "model.response":
            spent = dict(data.get("usage") or {})
            failed = event.outcome == "error" or data.get("is_error") is True
            self._count(data.get("model"), data.get("response_id"), spent | _cost(metadata), failed=failed)
        elif isinstance(metadata.get("usage"), dict):
            spent = dict(metadata["usage"]) | _cost(metadata)
            self._count(
                metadata.get("model"),
                data.get("message_id") or metadata.get("message_id"),
                spent,
                calls=metadata.get("calls"),
                failed=False,
            )

    def _use(self, event: Event, data: dict[str, Any]) -> None:
        name = data.get("name")
        name = name if isinstance(name, str) else UNKNOWN
        tool = self.value["tools"].setdefault(name, {"calls": 0, "errors": 0})
        tool["calls"] += 1
        if event.outcome == "error":
            tool["errors"] += 1
        open_uses = self.value["open"]
        if isinstance(data.get("id"), str):
            open_uses[data["id"]] = name
            while len(open_uses) > _OPEN_MAX:
                del open_uses[next(iter(open_uses))]

    def _result(self, event: Event, data: dict[str, Any]) -> None:
        use = data.get("tool_use_id")
        name = self.value["open"].pop(use, None) if isinstance(use, str) else None
        if name is not None and (event.outcome == "error" or data.get("is_error") is True):
            self.value["tools"][name]["errors"] += 1

    def _count(self, model: Any, turn: Any, spent: dict[str, Any], *, failed: bool, calls: Any = None) -> None:
        """Add what a call spent, after taking away what the same turn said before."""
        name = model if isinstance(model, str) and model else UNKNOWN
        counted = {key: spent[key] for key in (*TOKENS, "cost") if _is_number(spent.get(key))}
        last = self.value["turn"]
        before: dict[str, Any] | None = None
        if isinstance(turn, str) and last is not None and last["id"] == turn and last["model"] == name:
            before = last["spent"]
        row = self.value["models"].setdefault(name, {"calls": 0, "errors": 0})
        for place in (row, self.value["total"]):
            if before is not None:
                for key, number in before.items():
                    place[key] -= number
            else:
                place["calls"] += calls if _is_number(calls) else 1
            for key, number in counted.items():
                place[key] = place.get(key, 0) + number
            place["errors"] += failed
        self.value["turn"] = {"id": turn, "model": name, "spent": counted} if isinstance(turn, str) else None


def _cost(metadata: dict[str, Any]) -> dict[str, Any]:
    return {"cost": metadata["cost"]} if _is_number(metadata.get("cost")) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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
            {"total": {"calls": 0, "errors": 0}, "models": {}, "tools": {}, "errors": 0, "open": {}, "turn": None},
        ),
        types=TYPES,
        start_fold=UsageFold,
        starts_cheaply=False,
    )
)
