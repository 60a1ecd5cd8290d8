"""Codex's rollouts: JSON lines, one file a session, in `sessions/YYYY/MM/DD/rollout-TIME-ID.jsonl` of its home.

1. Lines have no ids: an item's key is its line and its content.
2. `response_item` lines are the conversation. What else Codex notes (`session_meta`, `turn_context`, `event_msg`,
   `compacted`) is kept as `x.codex.*`, and the token counts among them in the standard shape beside.
3. A session that another one spawned is made for the call that spawned it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from everlog.core.event import Event, NewEvent
from everlog.errors import NotFoundError
from everlog.importers.lines import Line
from everlog.importers.record import Item, Target, first_words, make_item
from everlog.integrations.items import opaque_type, parse_moment, text_of
from everlog.integrations.openai_items import response_events
from everlog.store import Store

FORMAT = "codex"
ACTOR = "codex"
PATTERN = "rollout-*.jsonl"
_ENVELOPES = frozenset(("session_meta", "turn_context", "event_msg", "compacted", "response_item"))
_ITEMS_WITHOUT_EVENT = frozenset(("ghost_snapshot", "compaction", "compaction_summary", "context_compaction", "other"))


def default_folder() -> Path:
    """Give the folder where Codex keeps the user's rollouts."""
    chosen = os.environ.get("CODEX_HOME")
    return (Path(chosen) if chosen else Path.home() / ".codex") / "sessions"


class Translator:
    """Reads the lines of one file."""

    def __init__(self, store: Store, path: Path, first: Line, identity: str) -> None:
        self._store = store
        self._prompt: str | None = None
        self._model: str | None = None
        meta = _object(first.value)
        meta = _object(meta.get("payload")) or meta
        name = meta.get("id")
        named = isinstance(name, str) and name.isprintable() and 0 < len(name) <= 200
        self._id = str(name) if named else path.stem
        spawned = _object(_object(_object(meta.get("source")).get("subagent")).get("thread_spawn"))
        owner = spawned.get("parent_thread_id")
        self.home = Target(
            name=self._id,
            identity=identity,
            title=lambda: self._prompt,
            parent=lambda: self._spawner(owner) if isinstance(owner, str) else None,
        )

    def translate(self, line: Line) -> Iterator[tuple[Target, Item]]:
        """Give the item of a line, and where it goes."""
        entry = _object(line.value)
        payload = _object(entry.get("payload"))
        kind = entry.get("type")
        if not isinstance(kind, str) or kind not in _ENVELOPES:  # the first versions wrote items without an envelope
            kind, payload = "response_item", entry
        events, problem = self._events(kind, payload, line.value)
        self._note(events)
        key = f"{FORMAT}:{line.number}:{sha256(line.raw).hexdigest()[:32]}"
        moment = parse_moment(entry.get("timestamp"))
        yield self.home, make_item(FORMAT, line, key, events, occurred_at=moment, problem=problem)

    def _events(self, kind: str, payload: dict[str, Any], value: Any) -> tuple[list[NewEvent], str | None]:
        name = payload.get("type")
        if kind == "response_item":
            made = response_events(payload, ACTOR)
            if made:
                return [self._with_model(made[0]), *made[1:]], None
            first_versions = name is None and ("id" in payload or "record_type" in payload)
            if first_versions or (isinstance(name, str) and name in _ITEMS_WITHOUT_EVENT):
                return [NewEvent(opaque_type(FORMAT, name or "state"))], None
            what = f"has the type {name!r:.100}, which is not known" if isinstance(value, dict) else "is no JSON object"
            return [NewEvent(opaque_type(FORMAT, name), _short(payload))], f"{what}; kept as it is"
        if kind == "turn_context" and isinstance(payload.get("model"), str):
            self._model = payload["model"]
        if kind == "event_msg" and name == "turn_aborted":
            return [NewEvent("user.interrupt", {"reason": str(payload.get("reason", "interrupted"))})], None
        if kind == "event_msg" and name in ("error", "stream_error") and isinstance(payload.get("message"), str):
            return [NewEvent("error", {"message": payload["message"], "kind": name}, actor=ACTOR)], None
        shown = f"event_{name}" if kind == "event_msg" else kind
        usage = usage_of(_object(payload.get("info")).get("last_token_usage")) if name == "token_count" else None
        metadata = None if usage is None else {"usage": usage} | ({} if self._model is None else {"model": self._model})
        return [NewEvent(opaque_type(FORMAT, shown), _short(payload), metadata=metadata)], None

    def _with_model(self, event: NewEvent) -> NewEvent:
        if self._model is None or not event.type.startswith("agent.") or event.type == "agent.tool_result":
            return event
        return NewEvent(
            event.type, event.data, actor=event.actor, outcome=event.outcome, metadata={"model": self._model}
        )

    def _note(self, events: list[NewEvent]) -> None:
        event = events[0]
        if self._prompt is None and event.type == "user.message":
            said = text_of(event.data["content"])
            if said and not said.lstrip().startswith("<"):  # <environment_context> and its kin are Codex's own words
                self._prompt = first_words(said)

    def _spawner(self, owner: str) -> Event | None:
        """Find the call whose result names this session, in the session that spawned it."""
        try:
            session = self._store.session(owner)
        except NotFoundError:
            return None
        for result in session.events(types="agent.tool_result"):
            if self._id in str(result.data.get("content")):
                call = {"data.id": result.data["tool_use_id"]}
                return next(session.events(types="agent.tool_use", where=call, limit=1), None)
        return None


def usage_of(usage: Any) -> dict[str, int] | None:
    """Give OpenAI's count of tokens in the standard shape; its input_tokens include what came from the cache."""
    counted = _object(usage)
    names = {
        "input_tokens": "input_tokens",
        "cached_input_tokens": "cache_read_input_tokens",
        "output_tokens": "output_tokens",
        "reasoning_output_tokens": "reasoning_tokens",
    }
    found = {names[name]: value for name, value in counted.items() if name in names and type(value) is int}
    return found or None


def _short(payload: dict[str, Any]) -> dict[str, Any] | None:
    """Give what a listing should show of an entry that has no standard type; the whole stands in `native`."""
    for member in ("message", "text", "content", "model", "cwd"):
        if isinstance(payload.get(member), str):
            return {member: payload[member]}
    return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
