"""The reducer `pending`: what is in flight, so that whoever wakes a session knows what was begun and not ended.

The state is an object; positions are of events.

* tools: uses without a result, by id: {"position", "event", "name"} each, oldest first.
* steps: started and not finished: {"run", "step", "occurrence", "attempt", "kind", "within"?, "position", "effect_key"?, "retry_at"?}.
* waits: open: {"run", "name", "occurrence", "within"?, "position", "until"?}.
* messages: positions of `user.message` events that no `agent.message` has answered: one whose cause is such a message answers
  that one, any other answers all before it.
* signals: received and taken by no wait: {"name", "position"}.

Of each at most MOST, the newest; `dropped` counts the others. An erased event is as if it had not been.
"""

from __future__ import annotations

from sys import maxsize
from typing import Any, Final, cast

from everlog.core.event import Event
from everlog.core.position import parse_event_id
from everlog.reducers.blocks import is_use
from everlog.reducers.registry import Reducer, add_reducer

MOST: Final = 1_000  # of each kind, so that the state stays small
TYPES: Final = (
    "user.message",
    "agent.message",
    "agent.tool_use",
    "agent.tool_result",
    "user.tool_confirmation",
    "step.started",
    "step.finished",
    "wait.started",
    "wait.finished",
    "signal",
)
DEFAULT_RUN: Final = "main"


class PendingFold:
    """Folds into a copy of its own."""

    most: int = MOST

    def __init__(self, state: Any) -> None:
        self.value: dict[str, Any] = {
            "tools": {use: list(places) for use, places in state["tools"].items()},
            "steps": dict(state["steps"]),
            "waits": dict(state["waits"]),
            "messages": list(state["messages"]),
            "signals": list(state["signals"]),
            "dropped": state["dropped"],
        }
        self._tools = sum(map(len, self.value["tools"].values()))

    def apply(self, event: Event) -> None:
        """Take an event."""
        data = event.data
        if not isinstance(data, dict):
            return
        match event.type:
            case "agent.tool_use":
                self._use(event, data)
            case "agent.tool_result":
                self._result(data.get("tool_use_id"))
            case "user.tool_confirmation":
                if data.get("result") == "deny":  # the denial is its result, as in the conversation
                    self._result(data.get("tool_use_id"))
            case "user.message" | "agent.message":
                self._message(event, data.get("content"))
            case "step.started" | "wait.started":
                self._started(event, data)
            case "step.finished" | "wait.finished":
                self._finished(event, data)
            case _:
                self.value["signals"].append({"name": data.get("name"), "position": event.position})
                self._bound(self.value["signals"])

    def _message(self, event: Event, content: Any) -> None:
        for block in cast("list[Any]", content) if isinstance(content, list) else []:
            if isinstance(block, dict) and is_use(block) and event.type == "agent.message":
                self._use(event, block)
            elif isinstance(block, dict) and block.get("type") == "tool_result":
                self._result(block.get("tool_use_id"))
        messages: list[int] = self.value["messages"]
        if event.type == "user.message":
            messages.append(event.position)
            self._bound(messages)
            return
        cause = None if event.caused_by is None else parse_event_id(event.caused_by)
        if cause is not None and cause.position in messages:
            messages.remove(cause.position)
        else:
            messages.clear()

    def _use(self, event: Event, data: dict[str, Any]) -> None:
        tools, use = self.value["tools"], data.get("id")
        if isinstance(use, str):
            name = data.get("name")
            tools.setdefault(use, []).append({"position": event.position, "event": event.id, "name": name})
            self._tools += 1
            if self._tools > self.most:
                self._result(next(iter(tools)))
                self.value["dropped"] += 1

    def _result(self, use: Any) -> None:
        places = self.value["tools"].get(use) if isinstance(use, str) else None
        if places:
            self._tools -= 1
            self.value["tools"][use] = places[1:]
            if len(places) == 1:
                del self.value["tools"][use]

    def _started(self, event: Event, data: dict[str, Any]) -> None:
        kind = "steps" if event.type == "step.started" else "waits"
        members = ("step", "name", "occurrence", "within", "attempt", "kind", "effect_key", "until")
        row = {name: data[name] for name in members if name in data}
        self.value[kind][_key(data)] = {"run": data.get("run", DEFAULT_RUN), **row, "position": event.position}
        while len(self.value[kind]) > self.most:
            del self.value[kind][next(iter(self.value[kind]))]
            self.value["dropped"] += 1

    def _finished(self, event: Event, data: dict[str, Any]) -> None:
        kind, key = ("steps", _key(data)) if event.type == "step.finished" else ("waits", _key(data))
        begun = self.value[kind].pop(key, None)
        if begun is not None and "retry_at" in data:  # this attempt failed, and another is to come
            self.value[kind][key] = {**begun, "retry_at": data["retry_at"]}
        if kind == "waits" and "signal" in data:
            taken = data["signal"]
            self.value["signals"] = [signal for signal in self.value["signals"] if signal["position"] != taken]
        if kind == "steps" and data.get("kind") == "run":  # what it left open will not be ended by it
            for rows in (self.value["steps"], self.value["waits"]):
                for other in [key for key, row in rows.items() if row["run"] == data["step"]]:
                    del rows[other]

    def _bound(self, rows: list[Any]) -> None:
        while len(rows) > self.most:
            del rows[0]
            self.value["dropped"] += 1


class WholeFold(PendingFold):
    """Folds into a state that holds everything in flight, however much."""

    most = maxsize

    def __init__(self) -> None:
        super().__init__(PENDING.initial())


def _key(data: dict[str, Any]) -> str:
    """Give what names a step or a wait among those of all runs."""
    return "\n".join(
        str(part)
        for part in (
            data.get("run", DEFAULT_RUN),
            data.get("kind", ""),
            data.get("step", data.get("name")),
            data.get("occurrence"),
            data.get("within", ""),
        )
    )


def _step(state: Any, event: Event) -> Any:
    fold = PendingFold(state)
    fold.apply(event)
    return fold.value


PENDING: Final = add_reducer(
    Reducer(
        "pending",
        1,
        _step,
        initial=cast("Any", {"tools": {}, "steps": {}, "waits": {}, "messages": [], "signals": [], "dropped": 0}),
        types=TYPES,
        start_fold=PendingFold,
        starts_cheaply=False,
    )
)
