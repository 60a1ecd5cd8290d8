"""Values of Strands' storage as events, and back to the byte: of a snapshot each message once, and of the rest what changed.

1. A save is one `state.set` or `state.patch` of the session's document: the value itself, with runs of numbers for `data.messages`, so
   that `[[0, 40], [52, 3]]` are the messages 0 to 39 and 52 to 54. Its metadata say Strands' key.
2. A message is events as `strands_messages` makes them, under a number that counts on; what a snapshot holds again, it names again.
3. What is no JSON object as Python writes one is kept as bytes, whole.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec

from everlog.core.event import Event, NewEvent
from everlog.core.patch import apply_patch, diff_values
from everlog.integrations.items import ATTACHMENT, can_say
from everlog.integrations.strands_messages import dumped, exactly_recorded_of

VALUE: Final = "x.strands.value"  # keeps bytes that are no JSON object
DELETED: Final = "x.strands.value_deleted"
SAVES: Final = ("state.set", "state.patch", VALUE, DELETED)
_MEMBER: Final = "strands"  # of a save's metadata
_MESSAGE_BYTES: Final = 100  # that a hash and a number take
_NEAR: Final = 200  # messages that are rather read than stepped over
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])


class Parts(NamedTuple):
    """A JSON object. frame: all of it but the elements of `data.messages`; texts: those, each as its JSON."""

    frame: dict[str, Any]
    texts: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What a session holds at its head. document: as in rule 1; hashes, numbers: of its messages, in their order.

    fresh: the number of the next message that is new. size: bytes of the document as JSON.
    """

    document: Any = None
    hashes: Sequence[bytes] = ()
    numbers: Sequence[int] = ()
    fresh: int = 0
    size: int = 0

    @property
    def held(self) -> int:
        """How many bytes all this takes, about: a document some four times as much as its JSON."""
        return 4 * self.size + _MESSAGE_BYTES * len(self.hashes)


def hash_of(text: bytes) -> bytes:
    """Give what stands for a message's text: no two texts have it, also where somebody tries."""
    return sha256(text).digest()[:16]


def is_save(event: Event) -> bool:
    """Tell whether an event is a save, or the deletion of one, and no change of the document by somebody else. An erased one is none."""
    return event.type in SAVES and _MEMBER in (event.metadata or {})


def fresh_of(save: Event) -> int:
    """Give the number of the next message that was new after a save."""
    return (save.metadata or {})[_MEMBER]["fresh"]


# --- taking apart and putting together -------------------------------------------------------------
def parts_of(data: bytes, *, bytes_max: int) -> Parts | None:
    """Take a JSON object apart; None where bytes are none, or not as Python writes it. bytes_max: of the frame."""
    listed, texts = b"", list[bytes]()
    try:
        members = _OBJECT.decode(data)
        if memoryview(members.get("data", b""))[:1] == b"{":
            inner = _OBJECT.decode(members["data"])
            if memoryview(inner.get("messages", b""))[:1] == b"[":
                listed = bytes(inner["messages"])
                texts = [bytes(each) for each in _ARRAY.decode(listed)]
                inner["messages"] = msgspec.Raw(b"[]")
                members["data"] = msgspec.Raw(msgspec.json.encode(inner))
        frame = json.loads(msgspec.json.encode(members))
    except (ValueError, RecursionError):
        return None
    # What a patch sets stands two levels deeper in the event than in the frame.
    if not can_say([[frame]], bytes_max=bytes_max) or (listed and listed != _listed(texts)):
        return None
    before, after = _around(frame)  # the messages are not joined once more to be compared: they may be many
    long_enough = len(before) + len(listed) + len(after) == len(data)
    exact = (
        long_enough
        and data.startswith(before)
        and data.endswith(after)
        and data[len(before) : len(before) + len(listed)] == listed
    )
    return Parts(frame, texts) if exact else None


def joined(frame: dict[str, Any], texts: Iterable[bytes]) -> bytes:
    """Give the bytes that were taken apart."""
    before, after = _around(frame)
    return before + (_listed(texts) if has_messages(frame) else b"") + after


def _listed(texts: Iterable[bytes]) -> bytes:
    return b"[" + b", ".join(texts) + b"]"


def _around(frame: dict[str, Any]) -> tuple[bytes, bytes]:
    """Give what stands before and after the messages; all of it, and nothing, where there are none."""
    if not has_messages(frame):
        return dumped(frame), b""
    (outer, last), (inner, end) = _halves(frame, "data"), _halves(frame["data"], "messages")
    return outer + inner, end + last


def _halves(value: dict[str, Any], name: str) -> tuple[bytes, bytes]:
    """Give an object's JSON before and after the value of a member."""
    names = list(value)
    place = names.index(name)
    before = dumped({each: 0 if each == name else value[each] for each in names[: place + 1]})
    after = dumped({each: 0 if each == name else value[each] for each in names[place:]})
    return before[: -len("0}")], after[len(dumped({name: 0})) - 1 :]


def has_messages(frame: Any) -> bool:
    """Tell whether a document has messages in it, and so runs of their numbers."""
    data = frame.get("data") if isinstance(frame, dict) else None
    return isinstance(data, dict) and isinstance(data.get("messages"), list)


# --- saving ----------------------------------------------------------------------------------------
def saved(known: Known, data: bytes, *, actor: str, body_bytes_max: int) -> tuple[list[NewEvent], Known]:
    """Give the events that keep a value behind what is known, the save itself last; and what is known then. actor: the agent's id."""
    parts = parts_of(data, bytes_max=body_bytes_max // 2)
    if parts is None:
        return [_save(known.fresh, VALUE, attachments={ATTACHMENT: data})], known
    hashes = [hash_of(text) for text in parts.texts]
    events: list[NewEvent] = []
    numbers: list[int] = []
    fresh = known.fresh
    for text, number in zip(parts.texts, _placed(known, hashes), strict=True):
        if number is None:
            events += exactly_recorded_of(text, fresh, actor=actor, body_bytes_max=body_bytes_max)
            fresh += 1
        numbers.append(fresh - 1 if number is None else number)
    document = parts.frame
    if has_messages(document):
        document["data"]["messages"] = _runs_of(numbers)
    events.append(_save(fresh, *_change(known.document, document)))
    return events, Known(document, hashes, numbers, fresh, len(data) - sum(map(len, parts.texts)))


def saved_again(save: Event) -> NewEvent:
    """Give the event that saves right behind a save what that did, for another key."""
    if save.type == VALUE:
        return _save(fresh_of(save), VALUE, attachments={ATTACHMENT: save.attachment(ATTACHMENT)})
    return _save(fresh_of(save), "state.patch", {"ops": []})


def deletion(fresh: int) -> NewEvent:
    """Give the event that says that a value is deleted."""
    return _save(fresh, DELETED)


def _save(fresh: int, type: str, data: Any = None, attachments: dict[str, bytes] | None = None) -> NewEvent:
    return NewEvent(type, data, metadata={_MEMBER: {"fresh": fresh}}, attachments=attachments)


def _placed(known: Known, hashes: Sequence[bytes]) -> Iterator[int | None]:
    """Give under which number each message is recorded; None for one that is new. Those of known messages stand in their order."""
    at = next((place for place, pair in enumerate(zip(known.hashes, hashes, strict=False)) if pair[0] != pair[1]), None)
    at = min(len(known.hashes), len(hashes)) if at is None else at
    yield from known.numbers[:at]
    places: dict[bytes, list[int]] = {}
    for place in range(at, len(known.hashes)):
        places.setdefault(known.hashes[place], []).append(place)
    for each in hashes[at:]:
        found = places.get(each, [])
        index = bisect_left(found, at)
        if index == len(found):
            yield None
        else:
            at = found[index] + 1
            yield known.numbers[found[index]]


def _runs_of(numbers: Iterable[int]) -> list[list[int]]:
    """Give numbers as runs, each its first and how many."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    return runs


def runs_in(document: Any) -> list[tuple[int, int]]:
    """Give the runs of a document's messages, each its first and how many; none where somebody else put something in their place."""
    runs = document["data"]["messages"] if has_messages(document) else []
    fits = all(
        isinstance(run, list) and len(run) == 2 and all(type(each) is int and each >= 0 for each in run) for run in runs
    )
    return [(first, count) for first, count in runs] if fits else []


def spans_of(runs: Iterable[tuple[int, int]]) -> list[range]:
    """Give the numbers to be read for runs, in their order: those that lie near each other together."""
    spans: list[range] = []
    for first, count in sorted(runs):
        if spans and first <= spans[-1].stop + _NEAR:
            spans[-1] = range(spans[-1].start, max(spans[-1].stop, first + count))
        else:
            spans.append(range(first, first + count))
    return spans


def _change(before: Any, after: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Give the type and data of the event that turns one document into another, with its members in their order."""
    if before:
        ops = diff_values(before, after)
        if len(dumped(ops)) < len(dumped(after)) and dumped(apply_patch(before, ops)) == dumped(after):
            return "state.patch", {"ops": ops}
    return "state.set", {"path": "", "value": after}
