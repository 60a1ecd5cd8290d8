"""What is recorded of calls to providers: the messages that are new, the request, and the answer.

1. A request and what is new in it are one append, before it is sent; its answer is another, when it is there. A request without an answer
   was under way when its process ended.
2. What is new is what no earlier request or answer of the session ends with: the longest beginning that is known is not recorded
   again, whichever process recorded it. A caller who says it otherwise than it was said is shown by a patch.
3. Headers, keys of clients, and what a request's tools log in with are never recorded; nor what the log cannot say beside the messages,
   such as an integer of 2^64 in a tool's schema. That something was left out is told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock
from typing import Any, Final, cast

from msgspec.structs import replace

from everlog.context.recorded import MESSAGES, SYSTEM, is_recorded, said_until, sent_hash
from everlog.core.event import Event, NewEvent, Outcome
from everlog.core.limits import BODY_BYTES_MAX
from everlog.core.patch import diff_values
from everlog.integrations.items import can_say
from everlog.integrations.provider_messages import chained, events_of
from everlog.integrations.recorder_answers import Answer, answer_of
from everlog.integrations.recorder_bodies import LEFT_OUT, plain
from everlog.reducers.spoken import ANTHROPIC, CHAT, ITEMS
from everlog.session import Session

_PATHS: Final = {"/v1/messages": ANTHROPIC, "/chat/completions": CHAT, "/responses": ITEMS}
_PROVIDERS: Final = {ANTHROPIC: "anthropic", CHAT: "openai", ITEMS: "openai"}
# What tools, and hosts that forward a request, log in with.
_SECRET: Final = ("authorization", "authorization_token", "api_key", "headers", "domain_secrets")
_KNOWN_MAX: Final = 10_000  # newest requests and answers of a session that a conversation may go on from
_RECENT_MAX: Final = 8  # conversations whose messages are held, so that going on costs no reading
_ERROR_CHARACTERS_MAX: Final = 2_000


def format_of(path: str) -> str | None:
    """Give the format of the messages that are sent to a path; None where no conversation is."""
    return _PATHS.get(path.partition("?")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request that was recorded. history: stands for the conversation up to and with it, which is `messages`."""

    format: str
    request: Event
    history: bytes
    messages: list[Any]


class Calls:
    """Records the calls of one session; from any thread, one after another."""

    def __init__(self, session: Session, actor: str | None) -> None:
        self.session = session
        self._actor = actor
        self._turn = Lock()
        self._branch: str | None = None
        self._size = 0  # of the branch, as far as it was looked through
        self._known: dict[bytes, str] = {}  # a conversation: the event that it ends with; the newest last
        # By the same event: the conversation's format, what stands for it, and its messages.
        self._recent: OrderedDict[str, tuple[str, bytes, list[Any]]] = OrderedDict()
        self._beside: dict[tuple[str, str], tuple[str, str]] = {}  # what it holds, and the event that does

    def ask(self, format: str, given: Any) -> Call:
        """Record a request, with what is new in it. Raises ReadOnceError, and records nothing, where it holds what can be read only once."""
        sent_body, whole = plain(given)
        sayable = _sayable(sent_body, MESSAGES[format])
        body = self.session._clean(_without_credentials(sayable))  # pyright: ignore[reportPrivateUsage]
        sent = body.get(MESSAGES[format])
        messages: list[Any] = [{"role": "user", "content": sent}] if isinstance(sent, str) else list(sent or [])
        with self._turn:
            self._follow_branch()
            after, known, history = self._beginning(format, messages)
            events = [event for message in messages[known:] for event in events_of(format, message)]
            kept: dict[str, Any] = {"api": format, "new": len(events)}
            if after is not None:
                kept["after"] = after
                said = [*self._said(after), *messages[known:]]
                if said != messages:
                    kept["ops"] = _patch(said, messages)
            if isinstance(sent, str):
                kept["text"] = True
            if body != sent_body or not whole:
                kept["left_out"] = True
            unsaid = [name for name in ("model", MESSAGES[format]) if name not in body]
            if unsaid:
                kept["unsaid"] = unsaid
            kept["history"] = history.hex()
            data = self._request(format, body, kept)
            request = self._extend([*events, NewEvent("model.request", data, actor=self._actor)])
            self._note(request, format, history, messages)
            for name in ("system", "tools"):
                if name in data:
                    self._beside[format, name] = (sent_hash(data[name]), request.id)
        return Call(format=format, request=request, history=history, messages=messages)

    def answer(
        self, call: Call, given: Mapping[str, Any], *, streamed: bool = False, outcome: Outcome | None = "ok"
    ) -> Event:
        """Record an answer. outcome: "cancelled" where it was not read to its end; None where that is not known."""
        said = self.session._clean(_without_credentials(plain(given)[0]))  # pyright: ignore[reportPrivateUsage]
        found = answer_of(call.format, said)
        events = [self._agents(event, found) for each in found.messages for event in events_of(call.format, each)]
        named = {
            "model": found.model,
            "response_id": found.response_id,
            "stop_reason": found.stop_reason,
            "usage": found.usage,
            "others": found.others,
            "streamed": streamed,
        }
        data: dict[str, Any] = {"request": call.request.id, **{name: value for name, value in named.items() if value}}
        history = call.history
        for each in found.messages:
            history = chained(history, call.format, each)
        data["recorded"] = {"new": len(events), "history": history.hex()}
        failed = isinstance(said.get("error"), dict)
        if failed:
            data |= {"is_error": True, "error": said["error"]}
        last = NewEvent("model.response", data, actor=self._actor, outcome="error" if failed else outcome)
        return self._end(call, [*events, last], history, found.messages)

    def fail(self, call: Call, error: BaseException, *, outcome: Outcome, secrets: tuple[str, ...] = ()) -> Event:
        """Record that a call raised. secrets: what its message must not show."""
        shown = str(error).encode(errors="replace").decode()  # which may be half characters, as a server said them
        for secret in secrets:
            shown = shown.replace(secret, LEFT_OUT)
        kept: dict[str, Any] = {"kind": type(error).__name__, "message": shown[:_ERROR_CHARACTERS_MAX]}
        status = getattr(error, "status_code", None)
        if isinstance(status, int):
            kept["status"] = status
        data = {"request": call.request.id, "error": kept, **({"is_error": True} if outcome == "error" else {})}
        return self._end(call, [NewEvent("model.response", data, actor=self._actor, outcome=outcome)], None, [])

    def unread(self, call: Call) -> Event:
        """Record that the caller reads the answer's bytes alone."""
        data = {"request": call.request.id, "unread": True}
        return self._end(call, [NewEvent("model.response", data, actor=self._actor)], None, [])

    # --- underneath ---
    def _end(self, call: Call, events: list[NewEvent], history: bytes | None, said: list[Any]) -> Event:
        with self._turn:
            made = self._extend([replace(event, caused_by=call.request) for event in events])
            if history is not None:
                self._note(made, call.format, history, [*call.messages, *said])
        return made

    def _extend(self, events: list[NewEvent]) -> Event:
        made = self.session.extend(events)
        if made[0].position == self._size:  # nobody else wrote
            self._size = made[-1].position + 1
        return made[-1]

    def _request(self, format: str, body: Mapping[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
        """Give the data of a request: what stands beside the messages, once for as long as it stays the same."""
        data: dict[str, Any] = {"model": body.get("model", ""), "provider": _PROVIDERS[format]}
        system, named = SYSTEM[format], {"model", MESSAGES[format]}
        for name, member in (("system", system), ("tools", "tools")):
            if member is None or member not in body:
                continue
            named.add(member)
            digest, place = self._beside.get((format, name), (None, ""))
            if digest == sent_hash(body[member]):
                kept.setdefault("unchanged", {})[name] = place
            else:
                data[name] = body[member]
        params = {name: value for name, value in body.items() if name not in named}
        return data | {"params": params, "recorded": kept, "request_hash": sent_hash(body)}

    def _agents(self, event: NewEvent, found: Answer) -> NewEvent:
        """Give an event of an answer as the agent's own; the blocks of one message share its id."""
        if not event.type.startswith("agent.") or "tool_result" in event.type:
            return event
        data = {**event.data}
        if found.response_id is not None and event.type != "agent.tool_result":
            data.setdefault("message_id", found.response_id)
        return replace(event, data=data, actor=self._actor)

    def _beginning(self, format: str, messages: list[Any]) -> tuple[str | None, int, bytes]:
        """Find the longest beginning that is recorded: the event it ends with, how many messages it is; and what stands for all."""
        after: str | None = None
        known, history = 0, sha256(format.encode()).digest()
        for place, (spoken, its, said) in self._recent.items():
            if spoken == format and len(said) >= max(known, 1) and messages[: len(said)] == said:
                after, known, history = place, len(said), its
        for count in range(known, len(messages)):
            history = chained(history, format, messages[count])
            if history in self._known:
                after, known = self._known[history], count + 1
        return after, known, history

    def _said(self, place: str) -> list[Any]:
        if place in self._recent:
            return self._recent[place][2]
        return said_until(self.session.event(place), self.session.event, self.session.slice)

    def _note(self, event: Event, format: str, history: bytes, messages: list[Any]) -> None:
        self._know(history, event.id)
        self._recent[event.id] = (format, history, messages)
        while len(self._recent) > _RECENT_MAX:
            self._recent.popitem(last=False)

    def _know(self, history: bytes, place: str) -> None:
        self._known.pop(history, None)
        self._known[history] = place
        if len(self._known) > _KNOWN_MAX:
            del self._known[next(iter(self._known))]

    def _follow_branch(self) -> None:
        """Learn what others recorded; all anew where the session was rewound, or this is the first call."""
        size = self.session.refresh().size
        if self._branch != self.session.branch_id:
            self._branch, self._size = self.session.branch_id, 0
            self._recent.clear()
            self._beside.clear()
            self._known = {}
        if size <= self._size:
            return
        types = ("model.request", "model.response")
        found = self.session.events(start=self._size, stop=size, types=types, reverse=True, limit=_KNOWN_MAX)
        for event in reversed(list(found)):
            history = event.data["recorded"].get("history") if is_recorded(event) else None
            if isinstance(history, str):
                self._know(bytes.fromhex(history), event.id)
        self._size = size


def _sayable(body: Mapping[str, Any], messages: str) -> dict[str, Any]:
    """Give a request with what the log can say of it beside its messages, which are attached where it cannot."""
    return {name: value if name == messages else _said_or_left_out(name, value) for name, value in body.items()}


def _said_or_left_out(name: str, value: Any) -> Any:
    """Give a member of a request; a list, as tools are, without those of its items that the log cannot say."""
    if _can_say(name, value):
        return value
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [one if _can_say(name, [one]) else LEFT_OUT for one in items] or LEFT_OUT


def _can_say(name: str, value: Any) -> bool:
    return can_say({"params": {name: value}}, bytes_max=BODY_BYTES_MAX // 2)


def _patch(said: list[Any], messages: list[Any]) -> list[dict[str, Any]]:
    """Give the patch from what was recorded to what was sent, without looking long at what is the same."""
    first = next((at for at, (one, other) in enumerate(zip(said, messages, strict=False)) if one != other), 0)
    ops = diff_values(said[first:], messages[first:])
    for op in ops:
        at, slash, rest = op["path"][1:].partition("/")
        op["path"] = f"/{int(at) + first}{slash}{rest}"
    return ops


def _without_credentials(said: dict[str, Any]) -> dict[str, Any]:
    """Give a request or an answer without what its tools log in with."""
    return {
        name: LEFT_OUT
        if name in _SECRET and value
        else _cleaned(value)
        if name in ("tools", "mcp_servers")
        else [_of_tools(each) for each in cast("list[Any]", value)]
        if name in ("input", "output") and isinstance(value, list)
        else value
        for name, value in said.items()
    }


def _of_tools(item: Any) -> Any:
    """Give an item of the Responses API, which may name tools that were found."""
    found = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
    return {**found, "tools": _cleaned(found["tools"])} if "tools" in found else item


def _cleaned(value: Any) -> Any:
    """Give tools without secrets; those that the caller runs as they are, as their own schemas may name anything."""
    if isinstance(value, list):
        return [_cleaned(each) for each in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    members = cast("dict[str, Any]", value)
    if {"function", "input_schema", "parameters"} & members.keys():
        return members
    return {name: LEFT_OUT if name in _SECRET and member else _cleaned(member) for name, member in members.items()}
