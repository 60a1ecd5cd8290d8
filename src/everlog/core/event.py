"""Events: NewEvent as a writer proposes it, PreparedEvent as it waits to be recorded, Event as it was recorded.

1. A recorded event never changes. What it says was hashed from `raw`, the stored bytes of its body; `data`, `metadata`,
   `rationale` and `state_hash` are decoded from them when first asked for.
2. Old shapes of data are upcast when they are read (core/upcast.py); `raw` stays.
3. Equality is that of the log: the same leaf, read through the same session and branch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import force_setattr

from everlog.core.merkle import EMPTY_ROOT
from everlog.core.position import format_micros, from_micros
from everlog.core.upcast import UPCASTERS, upcast_data
from everlog.core.values import unreadable
from everlog.errors import InvalidPlaceError, NotFoundError

Outcome = Literal["ok", "error", "denied", "cancelled", "timeout", "unknown"]
OUTCOMES: Final = ("ok", "error", "denied", "cancelled", "timeout", "unknown")

# Why a body is not there. None means that it is.
ERASED: Final = 1  # destroyed on purpose, recorded in the ledger; the header stays
WITHHELD: Final = 2  # left out of the bundle that it came in
DELETED: Final = 3  # destroyed with its session: of the event only its leaf and nodes are left


class Head(msgspec.Struct, frozen=True, order=False):
    """A branch's state of knowledge: number of events in its lineage and the Merkle root over them (64 hex digits)."""

    size: int
    root: str

    def __str__(self) -> str:
        return f"{self.size}:{self.root}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read what `str(head)` gave; InvalidPlaceError otherwise."""
        size, _, root = text.partition(":")
        if not (size.isascii() and size.isdigit() and len(root) == 64 and set(root) <= set("0123456789abcdef")):
            raise InvalidPlaceError(f"{text[:100]!r} is not a head; write SIZE:ROOT with 64 lower-case hex digits")
        return cls(int(size), root)


EMPTY_HEAD: Final = Head(0, EMPTY_ROOT.hex())


class Cause(msgspec.Struct, frozen=True):
    """The event that caused another: where it was first written and its leaf (32 bytes)."""

    writer: str
    position: int
    leaf: bytes

    @property
    def id(self) -> str:
        return event_id(self.writer, self.position)

    def pack(self) -> bytes:
        """Give the stored form: 16 bytes of writer, 8 of position, 32 of leaf, so that an index keeps a branch together."""
        return bytes.fromhex(self.writer) + self.position.to_bytes(8, "big") + self.leaf

    @classmethod
    def unpack(cls, packed: bytes) -> Cause:
        return cls(packed[:16].hex(), int.from_bytes(packed[16:24], "big"), packed[24:])


class _Proposed(msgspec.Struct, frozen=True):
    """The two members of NewEvent that may be given without their names."""

    type: str
    data: Any = None


class NewEvent(_Proposed, frozen=True, kw_only=True):
    """A fact that a writer proposes to record.

    type: `[a-z][a-z0-9_.]*`, at most 128 characters; EVENTS fixes the standard ones and their data.
    data: any JSON value; a mapping for standard types. None means absent.
    actor: an opaque id `[A-Za-z0-9._:/+-]{1,128}`, never an e-mail address.
    outcome: one of OUTCOMES. rationale: why, in words. metadata: a JSON object beside the data.
    attachments: at most 16, by name; bytes that are hashed and stored beside the body.
    caused_by: the event, or an event's id in the same session, that led to this one.
    occurred_at: when the writer says it happened; a datetime with a zone, or microseconds since 1970 UTC.
    key: the idempotency key: an append that repeats it gives back what was recorded.
    """

    rationale: str | None = None
    actor: str | None = None
    outcome: Outcome | None = None
    metadata: Mapping[str, Any] | None = None
    attachments: Mapping[str, bytes] | None = None
    caused_by: Event | str | None = None
    occurred_at: datetime | int | None = None
    key: str | None = None


class PreparedAttachment(msgspec.Struct, frozen=True, gc=False):
    """An attachment with its salt, as it waits to be recorded or is moved between stores. content None: not there."""

    name: str
    size: int
    salt: bytes | None
    content: bytes | None


class PreparedEvent(msgspec.Struct, frozen=True, gc=False):
    """A checked event with its body's bytes, salts and commitments, which needs only a position and a time."""

    type: str
    body: bytes
    salt: bytes
    commitments: bytes  # 32 bytes each: the body's, then each attachment's
    actor: str | None = None
    outcome: str | None = None
    occurred: int | None = None
    cause: bytes | None = None  # Cause.pack()
    key: str | None = None
    attachments: tuple[PreparedAttachment, ...] = ()
    covers: tuple[tuple[int, int, bytes], ...] = ()  # (start, stop, tree hash) ranges of a summary

    @property
    def bytes_held(self) -> int:
        if not self.attachments:
            return len(self.body)
        return len(self.body) + sum(attachment.size for attachment in self.attachments)


class StateHash(msgspec.Struct, frozen=True, omit_defaults=True):
    """The hash of a reducer's state after an event, as recorded in its body."""

    reducer: str
    version: str | int
    hash: str


class Body(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The hashed body of an event (FORMAT §2)."""

    data: Any = None
    rationale: str | None = None
    metadata: dict[str, Any] | None = None
    state: StateHash | None = None


class UpcastBody(Body, frozen=True, omit_defaults=True, gc=False):
    """A body whose data is in the newest shape of its type."""


decode_body = msgspec.json.Decoder(Body).decode
encode_body = msgspec.json.Encoder().encode
_EMPTY_BODY = Body()


@dataclass(frozen=True, slots=True)
class Attachment:
    """An attachment's name and size in bytes; `Event.attachment(name)` reads its content."""

    name: str
    size: int


class Event(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A recorded fact.

    session, branch: the session's id and the branch's id (32 hex digits) that it was read through; from the feed,
        those on which it was recorded.
    position: 0-based index in the branch's lineage.
    recorded_at: the store's clock; never goes back within a lineage. occurred_at: the writer's word.
    raw: the stored bytes of the body, a JSON object; None where the body was erased or withheld.
    leaf: the leaf hash, 32 bytes; `hash` is the same in hex.
    repeated: True on the receipt of an append whose key had been recorded before.
    """

    session: str
    branch: str
    writer: str
    position: int
    type: str
    actor: str | None
    outcome: Outcome | None
    recorded_micros: int
    occurred_micros: int | None
    cause: bytes | None
    key: str | None
    gone: int | None
    attached: str | None
    leaf: bytes
    raw: bytes | None
    repeated: bool = False
    body_cache: Body | None = None
    attachment_reader: Callable[[Event, str], bytes] | None = None

    @property
    def id(self) -> str:
        """`ev_<writer>_<position>`: derived, and the same in every copy."""
        return event_id(self.writer, self.position)

    @property
    def hash(self) -> str:
        return self.leaf.hex()

    @property
    def data(self) -> Any:
        """The event's data, decoded once; the same object each time, so change a copy. None where it is erased."""
        return self._upcast().data

    @property
    def metadata(self) -> dict[str, Any] | None:
        return self._body().metadata

    @property
    def rationale(self) -> str | None:
        return self._body().rationale

    @property
    def state_hash(self) -> StateHash | None:
        return self._body().state

    @property
    def recorded_at(self) -> datetime:
        return from_micros(self.recorded_micros)

    @property
    def occurred_at(self) -> datetime | None:
        return None if self.occurred_micros is None else from_micros(self.occurred_micros)

    @property
    def caused_by(self) -> str | None:
        """Id of the event that caused this one."""
        return None if self.cause is None else Cause.unpack(self.cause).id

    @property
    def erased(self) -> bool:
        return self.gone in (ERASED, DELETED)

    @property
    def withheld(self) -> bool:
        return self.gone == WITHHELD

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """Names and sizes, in the order given at the append; none where the event was erased, or came withheld."""
        if self.attached is None:
            return ()
        return tuple(Attachment(name, size) for name, size in decode_attached(self.attached))

    def attachment(self, name: str) -> bytes:
        """Read an attachment's content from the store.

        Raises NotFoundError where the event has none of that name, or it was erased.
        """
        if self.gone is not None:
            raise NotFoundError(f"the attachments of event {self.id} were erased or withheld, and so were their names")
        if self.attachment_reader is None:
            raise NotFoundError(f"event {self.id} has no attachment {name!r}; its names: none")
        return self.attachment_reader(self, name)

    def to_dict(self) -> dict[str, Any]:
        """Give the event as JSON values, absent members left out: the shape of `--json` and of `import jsonl`."""
        body = self._upcast()
        members: dict[str, Any] = {
            "id": self.id,
            "session": self.session,
            "branch": self.branch,
            "position": self.position,
            "type": self.type,
            "data": body.data,
            "actor": self.actor,
            "outcome": self.outcome,
            "rationale": body.rationale,
            "metadata": body.metadata,
            "state_hash": None if body.state is None else msgspec.to_builtins(body.state),
            "attachments": [{"name": item.name, "size": item.size} for item in self.attachments] or None,
            "caused_by": self.caused_by,
            "occurred_at": None if self.occurred_micros is None else format_micros(self.occurred_micros),
            "recorded_at": format_micros(self.recorded_micros),
            "key": self.key,
            "hash": self.hash,
            "erased": self.erased or None,
            "withheld": self.withheld or None,
            "repeated": self.repeated or None,
        }
        return {name: value for name, value in members.items() if value is not None}

    def _upcast(self) -> Body:
        """Give the body with its data in the newest shape: only who asks for the data meets an upcaster that raises."""
        body = self._body()
        if self.type in UPCASTERS and self.raw is not None and not isinstance(body, UpcastBody):
            data = upcast_data(self, body.data, body.metadata)
            body = UpcastBody(data, body.rationale, body.metadata, body.state)
            force_setattr(self, "body_cache", body)
        return body

    def _body(self) -> Body:
        body = self.body_cache
        if body is None:
            try:
                body = _EMPTY_BODY if self.raw is None else decode_body(self.raw)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise unreadable(f"the body of event {self.id}", error) from error
            force_setattr(self, "body_cache", body)
        return body

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return (self.leaf, self.session, self.branch, self.gone) == (
            other.leaf,
            other.session,
            other.branch,
            other.gone,
        )

    def __hash__(self) -> int:
        return hash(self.leaf)

    def __repr__(self) -> str:
        return f"<Event {self.session!r}@{self.position} {self.type} {self.hash[:8]}>"


def event_id(writer: str, position: int) -> str:
    """Give an event's id from the id it was first written under (32 hex digits) and its position."""
    return f"ev_{writer}_{position}"


def encode_attached(attachments: Sequence[PreparedAttachment]) -> str | None:
    """Give the stored list of an event's attachments, names and sizes; None for none."""
    if not attachments:
        return None
    return msgspec.json.encode([(item.name, item.size) for item in attachments]).decode()


def decode_attached(attached: str) -> list[tuple[str, int]]:
    """Read what `encode_attached` gave. Raises CorruptionError."""
    try:
        return msgspec.json.decode(attached, type=list[tuple[str, int]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable("the list of an event's attachments", error) from error
