"""What one append of a LangGraph thread is made of, and how its values are read back; langgraph_thread.py says the laws."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, cast

import msgspec

from everlog.core.event import Event, NewEvent
from everlog.core.limits import ATTACHMENT_BYTES_MAX
from everlog.integrations import langgraph_codec as codec
from everlog.integrations.langgraph_record import WRITES, checkpoint_of, values_of
from everlog.session import Session

_BLOCK_EVENTS: Final = 32  # that are read at once where one is asked for: what belongs together stands together
_BLOCKS_MAX: Final = 256  # that a reader keeps from one checkpoint to the next
_MESSAGES_MAX: Final = 4_000  # of one record that become events of their own; an append takes 10,000 events
_MESSAGE_BYTES_MAX: Final = 2 * 1024 * 1024  # of one message that becomes an event of its own
_DEPTH_MIN: Final = 64  # of lists that continue one another, before their items are named anew
_INLINE_BYTES_MAX: Final = 256 * 1024  # of one value; a larger one is attached
_JOINED_BYTES_MIN: Final = 1024  # of one value of a record that would be too long: a larger one is attached with others
_GROWTH_MAX: Final = 16  # bytes of JSON for each byte of a value: no more, so that few are measured
_ATTACHED_MAX: Final = 15


@dataclass(frozen=True, slots=True)
class Record:
    """A checkpoint as it was recorded: its event, its record, and what was written since; None where that was not looked at."""

    event: Event
    data: dict[str, Any]
    writes: list[Event] | None = None

    @property
    def position(self) -> int:
        return self.event.position

    @property
    def id(self) -> str:
        return self.data["id"]

    @property
    def namespace(self) -> str:
        return self.data.get("ns", "")


@dataclass(slots=True)
class Value:
    """What a channel held last, as it was packed. owners: which record holds each item of a list. depth: of lists below it."""

    position: int
    type: str
    data: bytes
    owners: list[tuple[int, int]] | None = None
    depth: int = 0


@dataclass(slots=True)
class Said:
    """A message that was recorded: where, under which id, and its native form."""

    position: int
    id: str | None
    native: dict[str, Any]


# --- writing -------------------------------------------------------------------------------------
class Draft:
    """The events of one append that is being worked out, from the position that it begins at."""

    def __init__(
        self,
        start: int,
        said_before: Callable[[bytes], Sequence[Said]],
        *,
        readable: bool,
        speaks: bool = True,
        joins: bool = False,
    ) -> None:
        """speaks: whether messages that are new become events. joins: whether values share attachments, since the record would be too long."""
        self.start = start
        self.said_before = said_before
        self.readable = readable
        self.speaks = speaks
        self.joins = joins
        self.events: list[NewEvent] = []
        self.attachments: dict[str, list[bytes]] = {}
        self.values: dict[tuple[str, str], Value] = {}
        self.said: list[tuple[bytes, Said]] = []
        self.adopted: list[tuple[Said, str]] = []
        self._is_input = False
        self._last_bytes = 0  # of the last attachment

    @property
    def position(self) -> int:
        """Give the position after the events so far: that of a record which stands alone."""
        return self.start + len(self.events)

    @property
    def inline_bytes_max(self) -> int:
        """Give how long a value may be that stands in the record."""
        return _JOINED_BYTES_MIN if self.joins else _INLINE_BYTES_MAX

    def value(self, place: tuple[str, str], type_: str, data: bytes, known: Value | None) -> Any:
        """Give what a channel holds now as JSON, and remember it."""
        self._is_input = place[1] == "__start__"
        tree, owners, depth = self._grown(type_, data, known)
        if tree is None:
            tree, owners, depth = self.tree(type_, data), None, 0
            array = codec.split_array(data) if type_ == codec.MSGPACK else None
            if array is not None:
                owners = [(-1, index) for index in range(array[0])]
        self._is_input = False
        self.values[place] = Value(-1, type_, data, owners, depth)
        return tree

    def tree(self, type_: str, data: bytes) -> Any:
        """Give a value as JSON, as readable as it may be."""
        if type_ == "null":
            return None
        if type_ == codec.MSGPACK and self.readable:
            made = self._readable(data)
            if made is not None:
                return made[0]
        attached = self._attach(data) if len(data) > self.inline_bytes_max else None
        return codec.typed_to_json(type_, data) if attached is None else {"$t": [type_, attached]}

    def _attach(self, data: bytes) -> dict[str, Any] | None:
        """Attach a value, and give where it is: an attachment, or what of one; None where there are as many as may be."""
        if self.joins and self.attachments and self._last_bytes + len(data) <= ATTACHMENT_BYTES_MAX:
            name, start = f"v{len(self.attachments) - 1}", self._last_bytes
        elif len(self.attachments) < _ATTACHED_MAX:
            name, start = f"v{len(self.attachments)}", 0
        else:
            return None
        self.attachments.setdefault(name, []).append(data)
        self._last_bytes = start + len(data)
        return {"$a": name, "at": [start, self._last_bytes]} if self.joins else {"$a": name}

    def _readable(self, data: bytes) -> tuple[Any] | None:
        """Give packed bytes as JSON that gives them again, in a tuple; None where none does."""
        events, said, adopted = len(self.events), len(self.said), len(self.adopted)
        try:
            value = codec.unpack(data)
            tree = codec.to_json(value, self._recorded)
            small = (
                len(data) * _GROWTH_MAX <= self.inline_bytes_max
                or len(msgspec.json.encode(tree)) <= self.inline_bytes_max
            )
            if small and codec.pack(value) == data:
                return (tree,)
        except (codec.Unsayable, ValueError, TypeError, RecursionError):
            pass  # something that only the serializer itself reads
        del self.events[events:], self.said[said:], self.adopted[adopted:]
        return None

    def _grown(self, type_: str, data: bytes, known: Value | None) -> tuple[Any, list[tuple[int, int]] | None, int]:
        """Give a list as what differs from the one before it."""
        array = codec.split_array(data) if type_ == codec.MSGPACK and self.readable else None
        if array is None or known is None or known.owners is None or not known.owners:
            return None, None, 0
        count, header = array
        known_array = codec.split_array(known.data)
        assert known_array is not None, "only a list has owners of its items"
        items, before = data[header:], known.data[known_array[1] :]
        if count >= known_array[0] and items.startswith(before):
            added, more = items[len(before) :], count - known_array[0]
            owners = known.owners + [(-1, index) for index in range(more)]
            base = known.position
        else:
            changed = _changed(codec.unpack(data), codec.unpack(known.data), known.owners)
            if changed is None:
                return None, None, 0
            owners, added, more = changed
            base = None
        deep = known.depth + 1
        if deep > _DEPTH_MIN + len(owners) // 4:
            base = None
        new = self._readable(codec.join_array(more, added))
        if new is None:
            return None, None, 0
        content: list[Any] = [_runs(owners) if base is None else base]
        if more:
            content.append(new[0])
        return {"$l": content}, owners, 0 if base is None else deep

    def _recorded(self, message: codec.Message) -> Any:
        """Give what stands for a message: one that is recorded already, or that is from now on."""
        digest = digest_parts(message.parts)
        mine = [said for own, said in self.said if own == digest]
        found = self._same_message(message.id, [*self.said_before(digest), *mine])
        if found is not None:
            if message.id is not None and found.id is None:
                self.adopted.append((found, message.id))
            if found.native == message.native:
                return found.position
            usual = message.id is not None and codec.called(found.native, message.id) == message.native
            return [found.position, message.id if usual else message.native]
        raw = message.native["class"] in ("pair", "object")
        if (raw and not self._is_input) or not self.speaks or len(self.events) > _MESSAGES_MAX:
            return None
        if len(msgspec.json.encode([list(message.parts), message.native])) > _MESSAGE_BYTES_MAX:
            return None
        position = self.start + len(self.events)
        for number, (type, data) in enumerate(message.parts):
            native = codec.short_native(message.native, type)
            own = {"langgraph": {"message": native}} if not number else {"part": [number, len(message.parts)]}
            outcome = "error" if data.get("is_error") is True else None
            self.events.append(NewEvent(type, data, metadata=own, outcome=outcome))
        self.said.append((digest, Said(position, message.id, message.native)))
        return position

    def _same_message(self, id: str | None, among: Sequence[Said]) -> Said | None:
        """Find the record of a message: by its id, else the last without one, which is from now on called so.

        What a graph was called with is always something new that is said.
        """
        if self._is_input and id is None:
            return None
        for said in reversed(among):
            if id is None or said.id == id:
                return said
        adopted = {each[0].position: each[1] for each in self.adopted}
        for said in reversed(among):
            if said.id is None and adopted.get(said.position, id) == id:
                return said
        return None

    def finish(self, type: str, record: dict[str, Any], key: str | None) -> list[NewEvent]:
        """Give the events: the messages, and the record, which the last of them holds where it is one of writes.

        A checkpoint's record stands alone, so that whoever erases a message takes nothing else with it.
        key: what its key begins with; None where it is found without one.
        """
        position = self.position
        events = list(self.events)
        if events and type == WRITES and not self.attachments:
            last = events[-1]
            metadata = dict(last.metadata or {})
            metadata["langgraph"] = (metadata.get("langgraph") or {}) | {"writes": record}
            position -= 1
            events[-1] = NewEvent(
                last.type, last.data, metadata=metadata, outcome=last.outcome, key=key and f"{key}{position}"
            )
        else:
            attached = {name: b"".join(parts) for name, parts in self.attachments.items()} or None
            events.append(NewEvent(type, record, attachments=attached, key=key and f"{key}{position}"))
        for value in self.values.values():
            value.position = position
            if value.owners is not None:
                value.owners = [(position if owner < 0 else owner, index) for owner, index in value.owners]
        return events


def _changed(
    items: list[Any], before: list[Any], owners: list[tuple[int, int]]
) -> tuple[list[tuple[int, int]], bytes, int] | None:
    """Give who holds each item of a list that changed otherwise than by growing, and what is new, packed, and how many that are.

    None where nothing is left of the list before it.
    """
    places = {codec.pack(item): owner for item, owner in zip(before, owners, strict=True)}
    made: list[tuple[int, int]] = []
    new: list[bytes] = []
    for item in map(codec.pack, items):
        if item not in places:
            places[item] = (-1, len(new))
            new.append(item)
        made.append(places[item])
    return (made, b"".join(new), len(new)) if len(new) < len(made) else None


def _runs(owners: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Give owners as [position, first item, count]."""
    runs: list[list[int]] = []
    for position, index in owners:
        if runs and runs[-1][0] == position and runs[-1][1] + runs[-1][2] == index:
            runs[-1][2] += 1
        else:
            runs.append([position, index, 1])
    return runs


# --- reading -------------------------------------------------------------------------------------
def read_line(session: Session, branch: str, start: int, stop: int) -> list[Event]:
    """Read a slice of a branch that was the current one lately, and may not be any more: the session may have been rewound meanwhile."""
    events = session[start:stop]
    if branch and start < stop and (not events or events[0].branch != branch):
        return session.branch(branch)[start:stop]
    return events


class Reader:
    """Reads values of one session, each block of events once, on the line of the record that it was shown last."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._blocks: dict[int, list[Event]] = {}
        self._events: dict[int, Event] = {}
        self._shared: tuple[str, str, bytes] | None = None  # the attachment of several values that was read last
        self._items: dict[tuple[int, str], list[Any]] = {}  # that were new in a record, of a channel
        self.branch = ""  # that events are read on

    def knows(self, event: Event) -> None:
        """Take the event of a record that was read already; what it names is read on its line."""
        if len(self._blocks) > _BLOCKS_MAX or event.branch != self.branch:
            self._blocks.clear()
            self._events.clear()
            self._items.clear()
        self._events[event.position] = event
        self.branch = event.branch

    def value(self, position: int, channel: str) -> Value:
        """Give what a channel holds that was recorded at a position."""
        tree = self._tree(position, channel)
        if isinstance(tree, dict) and len(tree) == 1 and "$l" in tree:
            owners, depth = self._owners(position, channel)
            held = {owner: self._own_items(owner, channel) for owner in sorted({owner for owner, _ in owners})}
            items = [held[owner][index] if held[owner] else codec.ERASED_TEXT for owner, index in owners]
            return Value(position, codec.MSGPACK, codec.pack(items), owners, depth)
        type_, data = self.typed(tree, self._event(position))
        array = codec.split_array(data) if type_ == codec.MSGPACK else None
        return Value(position, type_, data, None if array is None else [(position, index) for index in range(array[0])])

    def typed(self, tree: Any, event: Event) -> tuple[str, bytes]:
        """Give a value from its JSON as the serializer gave it. event: that holds it."""
        if tree is None:
            return "null", b""
        if isinstance(tree, dict) and len(tree) == 1 and "$t" in tree:
            type_, data = tree["$t"]
            return type_, self._attached(event, data) if isinstance(data, dict) else b64decode(data)
        return codec.MSGPACK, codec.pack(codec.from_json(tree, self._message))

    def _attached(self, event: Event, place: Mapping[str, Any]) -> bytes:
        name = place["$a"]
        if "at" not in place:
            return event.attachment(name)
        if self._shared is None or self._shared[:2] != (event.id, name):
            self._shared = event.id, name, event.attachment(name)
        start, stop = place["at"]
        return self._shared[2][start:stop]

    def _tree(self, position: int, channel: str) -> Any:
        return values_of(checkpoint_of(self._event(position)) or {}).get(channel)

    def _own_items(self, position: int, channel: str) -> list[Any]:
        """Give the items of a list that were new where it was recorded. Not to be changed."""
        items = self._items.get((position, channel))
        if items is None:
            items = self._items[position, channel] = self._read_items(position, channel)
        return items

    def _read_items(self, position: int, channel: str) -> list[Any]:
        if self._event(position).raw is None:
            return []
        tree = self._tree(position, channel)
        if isinstance(tree, dict) and len(tree) == 1 and "$l" in tree:
            return codec.from_json(tree["$l"][1], self._message) if len(tree["$l"]) > 1 else []
        return codec.unpack(self.typed(tree, self._event(position))[1])

    def _owners(self, position: int, channel: str) -> tuple[list[tuple[int, int]], int]:
        """Give which record holds each item of a list, going back along the lists that it continues, and how many those are."""
        parts: list[list[tuple[int, int]]] = []
        at: int | None = position
        while at is not None:
            tree = self._tree(at, channel)
            if not (isinstance(tree, dict) and len(tree) == 1 and "$l" in tree):
                parts.append([(at, index) for index in range(len(self._own_items(at, channel)))])
                break
            base, *new = tree["$l"]
            runs = base if isinstance(base, list) else [[-1, 0, len(new[0]) if new else 0]]
            parts.append(
                [(at if owner < 0 else owner, index + step) for owner, index, count in runs for step in range(count)]
            )
            at = None if isinstance(base, list) else base
        return [owner for part in reversed(parts) for owner in part], len(parts) - 1

    def _message(self, reference: Any) -> Any:
        """Give a message from where it stands, in its own native form or the one given."""
        position, given = reference if isinstance(reference, list) else (reference, None)
        first = self._event(position)
        own = codec.long_native(((first.metadata or {}).get("langgraph") or {}).get("message") or {}, first.type)
        native = own if given is None else codec.called(own, given) if isinstance(given, str) else given
        events = [first, *(self._event(position + number) for number in range(1, own.get("parts", 1)))]
        return codec.pack_message([(event.type, event.data) for event in events], native)

    def parent(self, record: Record) -> str | None:
        """Give the id of a checkpoint's parent; None where it has none, or that was erased."""
        parent = record.data.get("parent")
        if not isinstance(parent, int):
            return parent
        return (checkpoint_of(self._event(record.position - parent)) or {}).get("id")

    def _event(self, position: int) -> Event:
        known = self._events.get(position)
        if known is not None:
            return known
        block = position // _BLOCK_EVENTS
        held = self._blocks.get(block)
        if held is None or position - block * _BLOCK_EVENTS >= len(held):
            start = block * _BLOCK_EVENTS
            held = self._blocks[block] = read_line(self._session, self.branch, start, start + _BLOCK_EVENTS)
        return held[position - block * _BLOCK_EVENTS]


def positions_of(record: Record) -> dict[str, int]:
    """Give the channels of a checkpoint, each with the position at which what it holds was recorded."""
    own = dict.fromkeys(values_of(record.data), record.position)
    return cast("dict[str, int]", record.data.get("where") or {}) | own


def digest_of(name: str) -> str:
    """Give what stands for a namespace or an id in a key: 60 bits of a thread, and what is found is compared; "" stays."""
    return sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:15] if name else ""


def key_of(kind: str, namespace: str, id: str) -> str:
    """Give what the keys of a checkpoint, or of the writes after it, begin with."""
    return f"{kind}.{digest_of(namespace)}.{digest_of(id)}."


def digest_parts(parts: Sequence[tuple[str, Any]]) -> bytes:
    """Give what stands for what a message says; the id that it has, or gets, counts for nothing."""
    said = [
        (kind, data if data is None else {name: each for name, each in data.items() if name != "message_id"})
        for kind, data in parts
    ]
    return sha256(msgspec.json.encode(said, order="sorted")).digest()
