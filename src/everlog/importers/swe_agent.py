"""SWE-agent trajectories (`.traj`): a JSON object with `trajectory` (steps), `history` (messages) and `info`.

A step becomes one append of three events: the action a tool use with the thought as its rationale, the observation its
result, the state a `state.set`. What stands before the first step (system prompt, task) become messages, and what
stands beside the steps an `x.swe_agent.run`. Keys are made of an item's place and its content.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from everlog.core.event import NewEvent
from everlog.core.values import decode_json
from everlog.errors import EverlogError, InvalidEventError
from everlog.importers.lines import Line
from everlog.importers.record import Item, Target, first_words, make_item
from everlog.integrations.items import compact, digest, opaque_type, text_of
from everlog.store import Store

FORMAT = "swe-agent"
ACTOR = "swe-agent"
PATTERN = "*.traj"


class Translator:
    """Reads one trajectory."""

    def __init__(self, _store: Store, path: Path, first: Line, _identity: str) -> None:
        run: Any = first.value
        if not isinstance(run, dict) or not isinstance(run.get("trajectory"), list):
            raise InvalidEventError(
                f"{path} is no SWE-agent trajectory: it has no list 'trajectory'; nothing was imported; see that it is "
                "whole, or name another file"
            )
        opening = _opening(cast("dict[str, Any]", run))
        self.home = Target(
            name=path.stem,
            identity=digest([run["trajectory"][:1], opening])[:32],
            title=lambda: _title(opening),
        )

    def translate_whole(self, value: Any) -> Iterator[tuple[Target, Item]]:
        """Give the messages before the first step, the steps, and what stands beside them."""
        for place, message in enumerate(_opening(value)):
            yield self.home, _item("message", place, message, [_message_event(message)])
        for place, step in enumerate(cast("list[Any]", value["trajectory"])):
            if isinstance(step, dict):
                yield self.home, _item("step", place, step, _step_events(place, cast("dict[str, Any]", step)))
            else:
                problem = f"step {place} of the trajectory is no object; kept as it is"
                yield self.home, _item("step", place, step, [NewEvent(opaque_type(FORMAT, "step"))], problem)
        rest = {name: member for name, member in value.items() if name != "trajectory"}
        run = NewEvent(opaque_type(FORMAT, "run"), _result(rest), metadata=_spent(rest))
        yield self.home, _item("run", 0, rest, [run])


def _item(kind: str, place: int, value: Any, events: list[NewEvent], problem: str | None = None) -> Item:
    encoded = compact(value)
    line = Line(number=1, raw=encoded.encode(), value=value)
    return make_item(FORMAT, line, f"{FORMAT}:{kind}:{place}:{digest(value)[:32]}", events, problem=problem)


def _opening(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the messages that stand before the agent's first: the system prompt, demonstrations and the task."""
    opening: list[dict[str, Any]] = []
    history = run.get("history")
    for message in cast("list[object]", history) if isinstance(history, list) else []:
        if not isinstance(message, dict) or message.get("role") not in ("system", "user"):
            break
        opening.append(cast("dict[str, Any]", message))
    return opening


def _title(opening: list[dict[str, Any]]) -> str | None:
    said = (text_of(message.get("content")) for message in opening if message.get("role") == "user")
    return next((first_words(text) for text in said if text), None)


def _message_event(message: dict[str, Any]) -> NewEvent:
    content = message.get("content")
    kind = "system.message" if message["role"] == "system" else "user.message"
    return NewEvent(kind, {"content": content if isinstance(content, (str, list)) else compact(content)})


def _step_events(place: int, step: dict[str, Any]) -> list[NewEvent]:
    call = f"step-{place}"
    state = step.get("state")
    if isinstance(state, str):
        with suppress(EverlogError):  # a state that is no JSON is kept as the text that it is
            state = decode_json(state.encode(), what="state")
    thought = step.get("thought")
    return [
        NewEvent(
            "agent.tool_use",
            {"id": call, "name": "bash", "input": {"command": step.get("action")}},
            rationale=thought if isinstance(thought, str) and thought else None,
            actor=ACTOR,
        ),
        NewEvent("agent.tool_result", {"tool_use_id": call, "content": step.get("observation")}),
        NewEvent("state.set", {"path": "", "value": state}),
    ]


def _result(rest: dict[str, Any]) -> dict[str, Any]:
    """Give what a listing should show of the run: how it ended, and what it cost."""
    info = rest.get("info")
    return (
        {name: info[name] for name in ("exit_status", "model_stats") if name in info} if isinstance(info, dict) else {}
    )


def _spent(rest: dict[str, Any]) -> dict[str, Any] | None:
    """Give the run's tokens and cost as every importer names them."""
    info = rest.get("info")
    stats = info.get("model_stats") if isinstance(info, dict) else None
    if not isinstance(stats, dict):
        return None
    usage = {
        name: stats[source]
        for name, source in (("input_tokens", "tokens_sent"), ("output_tokens", "tokens_received"))
        if type(stats.get(source)) is int
    }
    spent: dict[str, Any] = {}
    if any(usage.values()):  # all zero: nobody counted
        spent["usage"] = usage
    if isinstance(stats.get("instance_cost"), (int, float)) and stats["instance_cost"]:
        spent["cost"] = stats["instance_cost"]
    if type(stats.get("api_calls")) is int and stats["api_calls"]:
        spent["calls"] = stats["api_calls"]
    if not spent:
        return None
    spent["message_id"] = (
        "run"  # the totals of the whole run: those of a file that has grown stand for the earlier ones
    )
    return spent
