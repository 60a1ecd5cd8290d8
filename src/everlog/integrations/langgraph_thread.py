"""A LangGraph thread as an Everlog session: its checkpoints, its pending writes, and the conversation in them.

1. Each call of the saver is one append, made at the head that it was worked out for and worked out again where another writer
   was first: positions that a record names are therefore those of the events meant, for ever.
2. A record is a checkpoint's, in an event `langgraph.checkpoint`, or of writes after one, in `metadata.langgraph` of the last message
   that came with them, else in an event `langgraph.writes`. langgraph_record.py says what stands in it.
3. What a checkpoint's channel holds is written once: `values` of the record in which it was new; later records name that position
   in `where`. A list that grew is `$l`: how much of which earlier list, items of others, and what is new. What JSON does not say,
   or is long, is `$t`: its type, and its bytes as base64 or where they are attached: `$a`, and `at` which of it where others are there too.
4. A record is `early` where writes after its checkpoint may stand before it: they are then looked up, else those that follow it are
   all. A record is `late` where the thread had a checkpoint with a greater id before it. So, read backwards, every record that is not
   late has a greater id than all before it, and the newest are found without reading the rest. What was written before it and still
   waits for its checkpoint, such a record names by position in `waiting`: whoever opens the thread at its end learns of it there.
5. Most records need no key, and have none. A checkpoint of the graph's own namespace with a greater id than all before it is found by
   halving; writes without an id belong to the checkpoint recorded last before them. Others have a key of digests of namespace and
   checkpoint id, and of their position: `c.` of checkpoints, `w.` of writes, `e.` of writes that are recorded before their checkpoint.
6. `langgraph.pruned` hides checkpoints: all before it but those at the positions `kept`, or those at the positions `dropped`. One that
   is erased hides none.
7. What was recorded long before the end is packed as the thread grows (ADR 30): most of it is checkpoints that nobody reads again.
"""

from __future__ import annotations

import threading
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from everlog.compacting import PAST_EVENTS_MIN, compact_past
from everlog.core.block import BLOCK_EVENTS
from everlog.core.event import Event, NewEvent
from everlog.core.limits import PAGE_EVENTS_MAX
from everlog.errors import BusyError, ConflictError, KeyReusedError, LimitError
from everlog.integrations import langgraph_codec as codec
from everlog.integrations.langgraph_events import (
    Draft,
    Reader,
    Record,
    Said,
    Value,
    digest_of,
    digest_parts,
    key_of,
    positions_of,
    read_line,
)
from everlog.integrations.langgraph_record import (
    CHECKPOINT,
    WRITES,
    Write,
    checkpoint_of,
    first_of_each,
    hides,
    in_order,
    indexes_of,
    is_of,
    shorten,
    shorten_items,
    writes_of,
)
from everlog.session import Session

PRUNED: Final = "langgraph.pruned"
_INPUT_TASK: Final = ", __start__"  # that the path of the task ends with which takes in what a graph is called with
_TRIES: Final = 100  # of an append that others were faster than; each try takes what they wrote
_FIRST_EVENTS: Final = 16  # that are read at once, backwards
_COLD_EVENTS: Final = 64  # that are looked at for messages when a thread is opened
_MESSAGES_KNOWN: Final = 256
_WAITING_MAX: Final = 16  # checkpoints that a record says are waited for; some never come: a process died before
_PLACES_KNOWN: Final = 32  # checkpoints that are remembered with their position and the writes after them
_HOT_EVENTS: Final = 16  # at the end of a thread, which are never packed while it grows
_PACKED_AT_ONCE: Final = 4 * BLOCK_EVENTS  # by one write: a few milliseconds
_VALUES_MAX: Final = 512  # channels of all namespaces that are remembered with what they hold


class Log:
    """One thread's session, and what is remembered of it. May be used from any thread."""

    def __init__(self, session: Session, *, readable: bool) -> None:
        """readable: whether values are stored as JSON, or as the serializer gives them."""
        self.session = session
        self.listed = False  # whether it is known to bear the label by which threads are listed
        self._readable = readable
        self._lock = threading.RLock()
        self._forget()

    def _forget(self) -> None:
        self._branch = ""
        self._erasures = 0
        self._size = 0
        self._newest = ""
        # The checkpoint recorded last; no place once erased.
        self._last: tuple[int, tuple[str, str] | None] = (-1, None)
        self._last_has_writes = False
        self._places: OrderedDict[tuple[str, str], int] = OrderedDict()  # at which checkpoints are recorded
        self._values: dict[tuple[str, str], Value] = {}
        self.held = 0  # bytes of these
        # Namespaces whose values are those of a checkpoint that was put, or is the parent of one.
        self._begun: set[str] = set()
        self._said: OrderedDict[bytes, list[Said]] = OrderedDict()
        # Of the checkpoints that were written after lately: the indexes that each task wrote.
        self._tasks: OrderedDict[tuple[str, str], dict[str, set[int]]] = OrderedDict()
        # Checkpoints that are not recorded, while writes after them are: where the first of those stand.
        self._early: dict[tuple[str, str], int] = {}
        self._pruned: list[tuple[int, dict[str, Any]]] = []
        self._packed = 0  # events before this position are packed, or are not to be tried again

    # --- what others wrote ---
    def refresh(self) -> None:
        """Look at the session as it is now, and take note of what is new."""
        with self._lock:
            size = self.session.refresh().size
            erasures = self.session.storage.erasures(self.session.view().branch.key)
            if (self.session.branch_id, erasures) != (self._branch, self._erasures) or size < self._size:
                self._forget()
                self._branch, self._erasures = self.session.branch_id, erasures
                self._open(size)
            elif size > self._size:
                new = list(self.session.events(start=self._size, stop=size))
                for event in new:
                    self._note(event)
                self._note_messages(new)
            self._size = size

    def _open(self, size: int) -> None:
        """Take note of the end of a session that nothing is known of."""
        self._pruned = [(event.position, event.data or {}) for event in self.session.events(keys="d.*", stop=size)]
        self._pruned.sort(key=lambda each: each[0])
        last: list[Event] = []
        waiting: list[int] = []
        for event in self._events_backwards(0, size):
            last.append(event)
            record = checkpoint_of(event)
            if record is not None and not self._newest and not record.get("late"):
                self._newest, waiting = record["id"], record.get("waiting", waiting)
            if self._newest and len(last) >= _COLD_EVENTS:
                break
        last.reverse()
        for position in waiting:
            if position < last[0].position:
                self._note_record(*read_line(self.session, self._branch, position, position + 1))
        for event in last:
            self._note_record(event)
        self._note_messages(last)

    def _note(self, event: Event) -> None:
        """Take note of an event that another writer appended."""
        if event.type == PRUNED:
            self._pruned.append((event.position, event.data or {}))
            self._tasks.clear()
        self._note_record(event)

    def _note_record(self, event: Event) -> None:
        if event.type == CHECKPOINT:
            self._note_last(event.position, None)
        record, writes = checkpoint_of(event), writes_of(event)
        if record is not None:
            place = (record.get("ns", ""), record["id"])
            self._note_last(event.position, place)
            self._newest = max(self._newest, place[1])
            self._early.pop(place, None)
        if writes is not None:
            place = self._place_of(writes)
            self._last_has_writes = self._last_has_writes or "id" not in writes
            if place is not None:
                self._tasks.pop(place, None)
                if str(event.key).startswith("e."):
                    self._early.setdefault(place, event.position)

    def _place_of(self, writes: Mapping[str, Any]) -> tuple[str, str] | None:
        """Give the checkpoint that writes belong to, which are the last that was recorded."""
        return (writes.get("ns", ""), writes["id"]) if "id" in writes else self._last[1]

    def _note_last(self, position: int, place: tuple[str, str] | None) -> None:
        """Remember the checkpoint that is the last one recorded now."""
        self._last = (position, place)
        self._last_has_writes = False
        if place is not None:
            self._places[place] = position
            self._places.move_to_end(place)
            if len(self._places) > _PLACES_KNOWN:
                self._places.popitem(last=False)

    def _note_messages(self, events: Sequence[Event]) -> None:
        """Remember the messages among events that follow one another."""
        for number, event in enumerate(events):
            native = ((event.metadata or {}).get("langgraph") or {}).get("message")
            if native is not None:
                parts = [(part.type, part.data) for part in events[number : number + native.get("parts", 1)]]
                native = codec.long_native(native, event.type)
                fields = native.get("fields") or {}
                self.note_said(digest_parts(parts), Said(event.position, fields.get("id"), native))

    def note_said(self, digest: bytes, said: Said) -> None:
        """Remember a message."""
        self._said.setdefault(digest, []).append(said)
        self._said.move_to_end(digest)
        while len(self._said) > _MESSAGES_KNOWN:
            self._said.popitem(last=False)

    # --- putting ---
    def put(self, record: dict[str, Any], values: Mapping[str, tuple[str, bytes]], *, restored: bool = False) -> None:
        """Record a checkpoint. values: of its channels, as the serializer gave them. record: everything else.

        restored: it comes from elsewhere, and what was written after it may have come long before.
        """
        namespace, parent = record.get("ns", ""), record.get("parent")
        with self._lock:
            joins = False
            for _ in range(_TRIES):
                self._ready()
                if parent is not None and namespace not in self._begun:
                    self._load_values(namespace, parent)
                self._begun.add(namespace)
                while len(self._values) > _VALUES_MAX:
                    self.held -= len(self._values.pop(next(iter(self._values))).data)
                draft = Draft(self._size, self._remembered, readable=self._readable, joins=joins)
                where: dict[str, int] = {}
                new: dict[str, Any] = {}
                for channel, (type_, data) in values.items():
                    known = self._values.get((namespace, channel))
                    if known is not None and known.type == type_ != "null" and known.data == data:
                        where[channel] = known.position
                    else:
                        new[channel] = draft.value((namespace, channel), type_, data, known)
                place = (namespace, record["id"])
                waiting = [position for early, position in self._early.items() if early != place]
                marks: dict[str, Any] = {"waiting": waiting[-_WAITING_MAX:]} if waiting else {}
                if self._newest > record["id"]:
                    marks = {"late": True}
                if place in self._early or (restored and self._keyed_writes(*place, "e")) or self._again(place):
                    marks["early"] = True
                made = record | ({"where": where} if where else {}) | ({"values": new} if new else {}) | marks
                at = None if parent is None else self._places.get((namespace, parent))
                if at is not None:
                    made["parent"] = draft.position - at
                key = key_of("c", *place) if namespace or self._newest >= record["id"] else None
                appended = self._append(draft, CHECKPOINT, shorten(made), key)
                joins = joins or appended is None
                if appended:
                    self._note_last(draft.position, place)
                    self._newest = max(self._newest, record["id"])
                    self._early.pop(place, None)
                    if "early" not in marks and place not in self._tasks:
                        self._tasks[place] = {}
                        self._limit_tasks()
                    return
        raise _busy(self.session)

    def _again(self, place: tuple[str, str]) -> bool:
        """Tell whether a checkpoint is recorded already: only then may writes after it stand before it."""
        return place[1] <= self._newest and self.find(*place, hidden=True) is not None

    def put_writes(
        self,
        place: tuple[str, str],
        task: str,
        path: str,
        writes: Sequence[tuple[int, str, tuple[str, bytes]]],
        *,
        replaces: bool,
    ) -> bool:
        """Record pending writes: (index, channel, value); False where there was nothing new. place: the checkpoint they are after.

        replaces: what has the same task and index, else it counts no more.

        LangGraph may record what a task wrote before the checkpoint that the task read. Where that may hold messages that are not
        recorded yet, those in the writes wait for it, so that the conversation is recorded in its order: where the checkpoint before it
        has no writes from which it follows, or the task is what takes in the graph's input.
        """
        with self._lock:
            joins = False
            for tried in range(_TRIES):
                self._ready()
                tasks = self._tasks.get(place)
                if tasks is None:
                    tasks = indexes_of([] if self._is_to_come(place) else self.writes_after(*place))
                indexes = set(tasks.get(task, ()))
                first = first_of_each(writes, indexes)
                new = writes if replaces else first
                if not new:
                    if tried:
                        return False
                    self.refresh()  # another writer may have rewound or hidden since what is remembered
                    continue
                at = self._position(place)
                early = at is None
                speaks = not early or (self._last_has_writes and not path.endswith(_INPUT_TASK))
                draft = Draft(self._size, self._remembered, readable=self._readable, speaks=speaks, joins=joins)
                made: dict[str, Any] = {"task": task, "path": path} if path else {"task": task}
                made["items"] = shorten_items([(index, channel, draft.tree(*typed)) for index, channel, typed in new])
                key = None
                if at != self._last[0]:
                    made["id"] = place[1]
                    if place[0]:
                        made["ns"] = place[0]
                    key = key_of("e" if early else "w", *place)
                appended = self._append(draft, WRITES, made, key)
                joins = joins or appended is None
                if appended:
                    self._last_has_writes = self._last_has_writes or key is None
                    if early:
                        self._early.setdefault(place, self._size - 1)
                    tasks[task] = indexes
                    self._tasks[place] = tasks
                    self._limit_tasks()
                    return True
        raise _busy(self.session)

    def prune(self, make: Callable[[], dict[str, Any]]) -> None:
        """Hide the checkpoints that `make` works out (law 6), at the thread's state that it works them out for.

        Other threads of this saver wait meanwhile: what they put would be hidden, as nothing that was to be kept.
        """
        with self._lock:
            for _ in range(_TRIES):
                data = make()
                if data.get("dropped") == []:
                    return
                if self._extend([NewEvent(PRUNED, data, key=f"d.{self._size}")]):
                    self._pruned.append((self._size, data))
                    self._size += 1
                    self._tasks.clear()
                    return
        raise _busy(self.session)

    def _position(self, place: tuple[str, str]) -> int | None:
        """Give where a checkpoint is recorded, hidden or not; None where it is not."""
        if place in self._early or self._is_to_come(place):
            return None
        at = self._places.get(place)
        if at is None:
            found = self.find(*place, hidden=True)
            at = None if found is None else found.position
        return at

    def _is_to_come(self, place: tuple[str, str]) -> bool:
        """Tell whether a checkpoint is greater than all that are recorded, and no write after it is known. Reads nothing.

        What was written after it long before the end is not known: of each task and index the first counts then too.
        """
        return place[1] > self._newest and place not in self._early

    def _ready(self) -> None:
        if not self._branch:
            self.refresh()

    def _limit_tasks(self) -> None:
        while len(self._tasks) > 32:
            self._tasks.popitem(last=False)

    def _append(self, draft: Draft, type: str, record: dict[str, Any], key: str | None) -> bool | None:
        """Record a draft with its record, at the head it was made for; False where that has moved on, None where it is to join values."""
        events = draft.finish(type, record, key)
        try:
            if not self._extend(events):
                return False
        except LimitError:
            if draft.joins:
                raise
            return None
        self._size += len(events)
        self._hold_values(draft.values)
        for digest, said in draft.said:
            self.note_said(digest, said)
        for said, identity in draft.adopted:
            said.id = identity
        return True

    def _extend(self, events: Sequence[NewEvent]) -> bool:
        """Append at the head that events were made for; False where another writer was first, whose events are noted then.

        That writer may have recorded under the very key of the last one, at the same position: other content is KeyReusedError, which is
        looked for before the head is compared, and the same content comes back as repeated.
        """
        try:
            recorded = self.session.extend(events, expected=self._size)
        except (ConflictError, KeyReusedError):
            recorded = []
        if recorded and not recorded[-1].repeated:
            return True
        self.refresh()
        return False

    def _load_values(self, namespace: str, id: str) -> None:
        """Remember what the channels of a checkpoint hold, so that what follows it is recorded as what differs."""
        record = self.find(namespace, id)
        if record is None:
            return
        reader = Reader(self.session)
        reader.knows(record.event)
        for channel, position in positions_of(record).items():
            known = self._values.get((namespace, channel))
            if known is None or known.position != position:
                self._hold_values({(namespace, channel): reader.value(position, channel)})

    def _hold_values(self, values: Mapping[tuple[str, str], Value]) -> None:
        for place, value in values.items():
            known = self._values.get(place)
            self.held += len(value.data) - (0 if known is None else len(known.data))
        self._values.update(values)

    def _remembered(self, digest: bytes) -> list[Said]:
        """Give the messages of this content that are remembered, oldest first."""
        return self._said.get(digest, [])

    def pack_past(self) -> None:
        """Pack some of what was recorded long before the end, where there is a block of it. A failure is nothing: the bodies stay."""
        if self._size - _HOT_EVENTS - self._packed < PAST_EVENTS_MIN:
            return
        with self._lock:
            stop = self._size - _HOT_EVENTS
            branch, start = self.session.view().branch.key, self._packed
            self._packed = stop
            with suppress(Exception):  # what was written is recorded, whatever comes of this
                self._packed = max(
                    start, compact_past(self.session.storage, branch, stop=stop, events_max=_PACKED_AT_ONCE)
                )

    # --- reading ---
    def find(self, namespace: str, id: str, *, hidden: bool = False) -> Record | None:
        """Give a checkpoint by its id; None where there is none. hidden: also one that was pruned."""
        found = [event for event in self._recorded(namespace, id) if hidden or self._is_kept(event.position)]
        return Record(found[-1], found[-1].data) if found else None

    def positions(self, namespace: str, id: str) -> list[int]:
        """Give where a checkpoint is recorded, hidden or not: more than once where it was put again."""
        return [event.position for event in self._recorded(namespace, id)]

    def _recorded(self, namespace: str, id: str) -> list[Event]:
        """Give the events of a checkpoint, in order: usually one."""
        if not id:
            return []
        first = None if namespace else self._search(id)
        keyed = [event for event in self.session.events(keys=f"{key_of('c', namespace, id)}*") if event != first]
        found = keyed if first is None else [first, *keyed]
        return [event for event in found if is_of(checkpoint_of(event), namespace, id)]

    def _search(self, id: str) -> Event | None:
        """Find a checkpoint that has no key by halving (law 5); None where there is none."""
        low, high = 0, self._size
        while low < high:
            middle = (low + high) // 2 if high - low > _FIRST_EVENTS else low
            event = next(self._rising(middle, high), None)
            if event is None or event.data["id"] > id or (event.data["id"] == id and event.key is not None):
                if middle == low:
                    return None
                high = middle
            elif event.data["id"] == id:
                return event
            else:
                low = event.position + 1
        return None

    def _rising(self, start: int, stop: int) -> Iterator[Event]:
        """Give the checkpoints in [start, stop) that have a greater id than all before them, or the same."""
        size = _FIRST_EVENTS
        while start < stop:
            for event in self.session[start : min(start + size, stop)]:
                if not (checkpoint_of(event) or {"late": True}).get("late"):
                    yield event
            start, size = start + size, min(2 * size, PAGE_EVENTS_MAX)

    def packed(self, namespace: str, channel: str, position: int, reader: Reader) -> tuple[str, bytes]:
        """Give what a channel holds that was recorded at a position, as the serializer gave it.

        What is read first is remembered, since a graph that reads a checkpoint goes on from it.
        """
        known = self._values.get((namespace, channel))
        if known is not None and known.position == position:
            return known.type, known.data
        read = reader.value(position, channel)
        with self._lock:
            if (namespace, channel) not in self._values and reader.branch == self._branch:
                self._hold_values({(namespace, channel): read})
        return read.type, read.data

    def writes(self, record: Record) -> list[Write]:
        """Give the pending writes of a checkpoint in the order in which they are to be applied."""
        if record.writes is None or "early" in record.data:
            return self.writes_after(record.namespace, record.id)
        return in_order(record.writes)

    def writes_after(self, namespace: str, id: str, *, hidden: bool = False) -> list[Write]:
        """As `writes`, of a checkpoint that may not be recorded, by index. hidden: also what was pruned."""
        since = self._hidden_until(namespace, id) if self._pruned and not hidden else 0
        found = [*self._keyed_writes(namespace, id, "e"), *self._keyed_writes(namespace, id, "w")]
        for event in self._recorded(namespace, id):
            found += self._following_writes(event.position + 1)
        return in_order(sorted((event for event in found if event.position >= since), key=lambda event: event.position))

    def _keyed_writes(self, namespace: str, id: str, kind: str) -> list[Event]:
        """Give the events of a checkpoint's writes that have a key. kind: "e" for those that came before it, else "w"."""
        events = self.session.events(keys=f"{key_of(kind, namespace, id)}*")
        return [event for event in events if is_of(writes_of(event), namespace, id)]

    def _following_writes(self, start: int) -> list[Event]:
        """Give the events of writes without an id from a position on, which is the one after their checkpoint's."""
        found: list[Event] = []
        size = _FIRST_EVENTS
        while start < self._size:
            for event in self.session[start : min(start + size, self._size)]:
                if event.type == CHECKPOINT:
                    return found
                if "id" not in (writes_of(event) or {"id": None}):
                    found.append(event)
            start, size = start + size, min(2 * size, PAGE_EVENTS_MAX)
        return found

    def checkpoints(self, namespace: str | None, *, before: str | None = None) -> Iterator[Record]:
        """Give the checkpoints, of one namespace or all, greatest id first (law 4). before: only those with a smaller id."""
        waiting: list[Record] = []
        seen: set[tuple[str, str]] = set()
        for record in self._backwards(f"c.{digest_of(namespace)}.*" if namespace else None):
            if (record.namespace, record.id) in seen or namespace not in (None, record.namespace):
                continue
            seen.add((record.namespace, record.id))
            if before is None or record.id < before:
                insort(waiting, record, key=lambda each: (each.id, each.position))
            if not record.data.get("late"):
                while waiting and waiting[-1].id >= record.id:
                    yield waiting.pop()
        yield from reversed(waiting)

    def _backwards(self, keys: str | None) -> Iterator[Record]:
        """Give the checkpoints that are not hidden, the last recorded first. keys: of a namespace other than the graph's own."""
        kept: list[int] | None = None
        start, branch = 0, self._branch
        for position, pruned in reversed(self._pruned):
            if "kept" in pruned:
                kept, start = sorted(pruned["kept"], reverse=True), position
                break
        if keys is not None:
            for event in self.session.events(keys=keys, start=start, stop=self._size, reverse=True):
                yield from self._shown(event)
        else:
            later: dict[tuple[str, str], list[Event]] = {}  # what was written after checkpoints that come next
            following: list[Event] = []  # of these, what was written after the very next one
            for event in self._events_backwards(start, self._size):
                record = writes_of(event)
                if record is not None:
                    written = (
                        later.setdefault((record.get("ns", ""), record["id"]), []) if "id" in record else following
                    )
                    written.append(event)
                if event.type == CHECKPOINT:
                    yield from self._shown(event, later, following)
                    following = []
        for position in kept or ():
            (event,) = read_line(self.session, branch, position, position + 1)
            yield from self._shown(event)

    def _events_backwards(self, start: int, stop: int) -> Iterator[Event]:
        """Give the events of [start, stop), the last first: few at first, and more with each read. Of one line, whatever is done meanwhile."""
        size, branch = _FIRST_EVENTS, self._branch
        while stop > start:
            low = max(start, stop - size)
            yield from reversed(read_line(self.session, branch, low, stop))
            stop, size = low, min(2 * size, PAGE_EVENTS_MAX)

    def _shown(
        self, event: Event, later: dict[tuple[str, str], list[Event]] | None = None, following: Sequence[Event] = ()
    ) -> Iterator[Record]:
        record = checkpoint_of(event)
        if record is not None and self._is_kept(event.position):
            written = None
            if later is not None:
                keyed = later.pop((record.get("ns", ""), record["id"]), [])
                written = sorted([*keyed, *following], key=lambda event: event.position)
            yield Record(event, record, written)

    def _is_kept(self, position: int) -> bool:
        return not any(at > position and hides(pruned, position) for at, pruned in self._pruned)

    def _hidden_until(self, namespace: str, id: str) -> int:
        """Give the position of the event that last hid this checkpoint as it was then; 0 for none."""
        recorded = self.positions(namespace, id)
        for at, pruned in reversed(self._pruned):
            before = [position for position in recorded if position < at]
            if before and hides(pruned, before[-1]):
                return at
        return 0


def _busy(session: Session) -> BusyError:
    tried = f"others appended to thread {session.id!r} before each of {_TRIES} tries; nothing was written; try again"
    return BusyError(tried)
