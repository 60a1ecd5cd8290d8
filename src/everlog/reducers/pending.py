"""The reducer `pending`: what is in flight, so that whoever wakes a session knows what was begun and not ended.

The state is an object; positions are of events.

* tools: uses without a result, by id: {"position", "event", "name"} each, oldest first.
* steps: started and not finished: {"run", "step", "occurrence", "attempt", "kind", "within"?, "position", "effect_key"?, "retry_at"?}.
* waits: open: {"run", "name", "occurrence", "within"?, "position", "until"?}.
* messages: `user.message` events that no `agent.message` has answered: {"position", "event"}. An agent's message whose cause is a
  user's message answers that one, any other answers all before it.
* answered: ids of messages that were answered one by one, so that a second word about one of them answers no other.
* signals: received and taken by no wait: {"name", "position"}.

Of each at most MOST, the newest; `dropped` counts the others by kind. An erased event, and one of another shape than the verbs write,
is as if it had not been.
"""

from __future__ import annotations

from sys import maxsize
from typing import Any, Final, cast

from everlog.core.event import Event
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
_MEMBERS: Final = {
    "step": str,
    "name": str,
    "occurrence": int,
    "within": str,
    "attempt": int,
    "kind": str,
    "effect_key": str,
    "until": int,
}  # of steps and waits that are kept


class PendingFold:
    """Folds into a copy of its own."""

    most: int = MOST

    def __init__(self, state: Any) -> None:
        self.value: dict[str, Any] = {
            "tools": {use: list(places) for use, places in state["tools"].items()},
            "steps": dict(state["steps"]),
            "waits": dict(state["waits"]),
            "messages": list(state["messages"]),
            "answered": list(state["answered"]),
            "signals": list(state["signals"]),
            "dropped": dict(state["dropped"]),
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
                if isinstance(data.get("name"), str):
                    self.value["signals"].append({"name": data["name"], "position": event.position})
                    self._bound("signals")

    def _message(self, event: Event, content: Any) -> None:
        for block in cast("list[Any]", content) if isinstance(content, list) else []:
            if isinstance(block, dict) and is_use(block) and event.type == "agent.message":
                self._use(event, block)
            elif isinstance(block, dict) and block.get("type") == "tool_result":
                self._result(block.get("tool_use_id"))
        messages: list[Any] = self.value["messages"]
        if event.type == "user.message":
            messages.append({"position": event.position, "event": event.id})
            self._bound("messages")
            return
        cause = event.caused_by
        left = messages if cause is None else [message for message in messages if message["event"] != cause]
        if len(left) < len(messages):
            self.value["messages"] = left
            self.value["answered"] = [*self.value["answered"], cause][-self.most :]
        elif cause is None or cause not in self.value["answered"]:
            messages.clear()

    def _use(self, event: Event, data: dict[str, Any]) -> None:
        tools, use = self.value["tools"], data.get("id")
        if isinstance(use, str):
            name = data.get("name")
            tools.setdefault(use, []).append({"position": event.position, "event": event.id, "name": name})
            self._tools += 1
            if self._tools > self.most:
                self._result(next(iter(tools)))
                self._drop("tools")

    def _result(self, use: Any) -> None:
        places = self.value["tools"].get(use) if isinstance(use, str) else None
        if places:
            self._tools -= 1
            self.value["tools"][use] = places[1:]
            if len(places) == 1:
                del self.value["tools"][use]

    def _started(self, event: Event, data: dict[str, Any]) -> None:
        kind, named = ("steps", "step") if event.type == "step.started" else ("waits", "name")
        row = {name: data[name] for name, type_ in _MEMBERS.items() if isinstance(data.get(name), type_)}
        if named not in row:
            return
        self.value[kind][_key(data)] = {"run": str(data.get("run", DEFAULT_RUN)), **row, "position": event.position}
        while len(self.value[kind]) > self.most:
            del self.value[kind][next(iter(self.value[kind]))]
            self._drop(kind)

    def _finished(self, event: Event, data: dict[str, Any]) -> None:
        kind, key = ("steps", _key(data)) if event.type == "step.finished" else ("waits", _key(data))
        begun = self.value[kind].pop(key, None)
        if begun is not None and isinstance(data.get("retry_at"), int):  # this attempt failed, and another is to come
            self.value[kind][key] = {**begun, "retry_at": data["retry_at"]}
        if kind == "waits" and "signal" in data:
            taken = data["signal"]
            self.value["signals"] = [signal for signal in self.value["signals"] if signal["position"] != taken]
        if kind == "steps" and data.get("kind") == "run":  # what it left open will not be ended by it
            for rows in (self.value["steps"], self.value["waits"]):
                for other in [key for key, row in rows.items() if row["run"] == data.get("step")]:
                    del rows[other]

    def _bound(self, kind: str) -> None:
        rows: list[Any] = self.value[kind]
        while len(rows) > self.most:
            del rows[0]
            self._drop(kind)

    def _drop(self, kind: str) -> None:
        self.value["dropped"][kind] = self.value["dropped"].get(kind, 0) + 1


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
        initial=cast(
            "Any",
            {"tools": {}, "steps": {}, "waits": {}, "messages": [], "answered": [], "signals": [], "dropped": {}},
        ),
        types=TYPES,
        start_fold=PendingFold,
        starts_cheaply=False,
    )
)
