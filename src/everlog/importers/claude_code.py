"""Claude Code's transcripts: JSON lines, one file a session, in `projects/FOLDER/SESSION.jsonl` of its configuration.

1. An entry's key is its `uuid`; entries without one (summaries, titles) are known by line and content.
2. A sub-agent's transcript, in a file of its own (`agent-ID.jsonl`) or inline (`isSidechain`), becomes a session of its
   own, `SESSION/agent-ID`, made for the tool use that started it.
3. `model` and `usage` of a turn stand in the metadata of its events. Lines of one turn share `message_id`, and each
   repeats the turn's usage so far: the last one counts.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from everlog.core.event import Event, NewEvent
from everlog.errors import NotFoundError
from everlog.importers.lines import Line
from everlog.importers.record import Item, Target, first_words, item_of, make_item
from everlog.integrations.claude_entries import FORMAT, events_of, member_of
from everlog.integrations.items import opaque_type, parse_moment, text_of
from everlog.store import Store

ACTOR = "claude-code"
PATTERN = "*.jsonl"
_CHAINS_MAX = 10_000  # inline side chains' newest entries that are remembered, to find where the next belongs


def default_folder() -> Path:
    """Give the folder where Claude Code keeps the user's transcripts."""
    chosen = os.environ.get("CLAUDE_CONFIG_DIR")
    return (Path(chosen) if chosen else Path.home() / ".claude") / "projects"


def order(path: Path) -> tuple[bool, str]:
    """Put the files of sub-agents behind the sessions that they were made for."""
    return path.name.startswith("agent-"), str(path)


class Translator:
    """Reads the lines of one file."""

    def __init__(self, starters: Starters, path: Path, first: Line, identity: str) -> None:
        self._starters = starters
        self._main = path.stem
        self._identity = identity
        self._titles: dict[str, str] = {}  # by session; what Claude Code calls it
        self._prompts: dict[str, str] = {}  # by session; what the user said first, as a title
        self._asked: dict[str, str] = {}  # by session; the same as `_mark_of`
        self._chains: OrderedDict[str, str] = OrderedDict()
        self._chain: str | None = None
        owner = path.parent.parent.name if path.parent.name == "subagents" else member_of(first.value, "sessionId")
        self._own_file = path.name.startswith("agent-") and isinstance(owner, str)
        if self._own_file:
            self._agent = path.stem.removeprefix("agent-")
            self.home = self._side_target(str(owner), path.stem, self._agent)
        else:
            self._agent = ""
            self.home = Target(name=self._main, identity=identity, title=lambda: self._title(self._main))

    def translate(self, line: Line) -> Iterator[tuple[Target, Item]]:
        """Give the item of a line, and where it goes."""
        entry: Any = line.value
        if not isinstance(entry, dict):
            yield (
                self.home,
                make_item(
                    FORMAT,
                    line,
                    _line_key(line),
                    [NewEvent(opaque_type(FORMAT, "entry"), {"value": entry})],
                    problem="is no JSON object; kept as it is",
                ),
            )
            return
        entry = cast("dict[str, Any]", entry)
        target = self._target(entry)
        events, problem = events_of(entry, self._actor(entry))
        self._note_title(target.name, entry)
        uuid = entry.get("uuid")
        key = f"{FORMAT}:{uuid}" if isinstance(uuid, str) and uuid else _line_key(line)
        moment = parse_moment(entry.get("timestamp"))
        yield target, make_item(FORMAT, line, key, events, occurred_at=moment, problem=problem)

    def _actor(self, entry: dict[str, Any]) -> str:
        agent = self._agent or entry.get("agentId")
        if isinstance(agent, str) and agent.isascii() and agent.isalnum() and len(agent) < 100:
            return f"{ACTOR}/{agent}"
        return ACTOR

    # --- side chains ---
    def _target(self, entry: dict[str, Any]) -> Target:
        if self._own_file or entry.get("isSidechain") is not True:
            return self.home
        agent = entry.get("agentId")
        name = f"agent-{agent}" if isinstance(agent, str) and agent.isprintable() and 0 < len(agent) < 100 else None
        if name is None:
            name = f"side-{self._chain_of(entry)}"
        return self._side_target(self._main, name, agent if isinstance(agent, str) else None)

    def _chain_of(self, entry: dict[str, Any]) -> str:
        """Give the id of the entry that an inline side chain began with."""
        uuid, parent = entry.get("uuid"), entry.get("parentUuid")
        uuid = uuid if isinstance(uuid, str) and uuid.isprintable() and len(uuid) < 100 else "unnamed"
        chain = self._chains.get(parent) if isinstance(parent, str) else None
        if chain is None:
            chain = uuid if parent is None or self._chain is None else self._chain
        self._chains[uuid] = self._chain = chain
        if len(self._chains) > _CHAINS_MAX:
            self._chains.popitem(last=False)
        return chain

    def _side_target(self, owner: str, name: str, agent: str | None) -> Target:
        full = f"{owner[:120]}/{name}"
        return Target(
            name=full,
            identity=self._identity,
            title=lambda: self._title(full),
            parent=lambda: self._starters.find(owner, agent, self._asked.get(full)),
        )

    def _title(self, name: str) -> str | None:
        return self._titles.get(name) or self._prompts.get(name)

    def _note_title(self, name: str, entry: dict[str, Any]) -> None:
        for member in ("customTitle", "aiTitle", "summary"):
            if isinstance(entry.get(member), str):
                self._titles[name] = first_words(entry[member])
                return
        if name not in self._prompts and entry.get("type") == "user" and entry.get("isMeta") is not True:
            said = text_of(member_of(entry.get("message"), "content"))
            if said and not said.lstrip().startswith("<"):  # <command-name> and its kin are Claude Code's own words
                self._prompts[name] = first_words(said)
                self._asked[name] = _mark_of(said)


class Starters:
    """Finds the tool uses that started sub-agents: by the agent's id in the result, else by the prompt.

    Each session is read once, and on from there when it has grown; only uses that have a prompt are held.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[str, int] = {}
        self._uses: dict[tuple[str, str, str], Event] = {}

    def find(self, owner: str, agent: str | None, asked: str | None) -> Event | None:
        """Give the tool use in session `owner` that started this agent; None where it cannot be told.

        asked: `_mark_of` the agent's prompt.
        """
        try:
            session = self._store.session(owner)
        except NotFoundError:
            return None
        start, size = self._read.get(owner, 0), session.head.size
        for event in session.events(types=["agent.tool_use", "agent.tool_result"], start=start, stop=size):
            self._note(owner, event)
        self._read[owner] = size
        use = None if agent is None else self._uses.get((owner, "agent", agent))
        return use if use is not None or asked is None else self._uses.get((owner, "prompt", asked))

    def _note(self, owner: str, event: Event) -> None:
        data = event.data
        if event.type == "agent.tool_use":
            prompt = member_of(member_of(data, "input"), "prompt")
            if isinstance(prompt, str):
                self._uses[owner, "use", data["id"]] = event
                self._uses[owner, "prompt", _mark_of(prompt)] = event
            return
        use = self._uses.get((owner, "use", str(member_of(data, "tool_use_id"))))
        if use is None:
            return
        agent = member_of(member_of(item_of([event], lambda _: None), "toolUseResult"), "agentId")
        if isinstance(agent, str):
            self._uses[owner, "agent", agent] = use


def _mark_of(prompt: str) -> str:
    """Give what two writings of one prompt share, and two prompts do not."""
    return sha256(" ".join(prompt.split()).encode("utf-8", "replace")).hexdigest()


def _line_key(line: Line) -> str:
    return f"{FORMAT}:{line.number}:{sha256(line.raw).hexdigest()[:32]}"
