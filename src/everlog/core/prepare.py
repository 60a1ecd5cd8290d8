"""From NewEvent to PreparedEvent: every check on one event, its body's bytes, salts and commitments (FORMAT §3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn, cast

import msgspec

from everlog.core import limits
from everlog.core.event import (
    OUTCOMES,
    Body,
    Cause,
    Event,
    NewEvent,
    PreparedAttachment,
    PreparedEvent,
    StateHash,
    encode_body,
)
from everlog.core.header import SALT_BYTES, commit_attachment, commit_body
from everlog.core.merkle import DIGEST_BYTES
from everlog.core.position import to_micros
from everlog.core.redact import Redactor
from everlog.core.standard import ACTOR_PATTERN, check_reserved, check_standard, is_type
from everlog.core.upcast import VERSION_MEMBER, newest_version
from everlog.core.values import check_value, encode_json
from everlog.errors import EverlogError, InvalidEventError, LimitError, SecretError

# Gives that many random bytes. Chosen in `open`; tests may give a fixed one.
Draw = Callable[[int], bytes]
# Gives the packed Cause of an event id.
CauseReader = Callable[[str], bytes]


def prepare_batch(
    events: Sequence[NewEvent],
    *,
    draw: Draw,
    read_cause: CauseReader,
    body_bytes_max: int,
    key: str | None = None,
    own_verb: bool = False,
    redactor: Redactor | None = None,
) -> tuple[PreparedEvent, ...]:
    """Check and encode the events of one append.

    key: the append's own idempotency key, if it has one; the events of an append of several then have none.
    own_verb: True where a verb writes its own reserved type. redactor: what is done about secrets; None for nothing.
    Raises InvalidEventError, LimitError or SecretError, naming the event's index where there are several.
    """
    if len(events) > limits.APPEND_EVENTS_MAX:
        raise LimitError(
            f"one append holds {len(events)} events where {limits.APPEND_EVENTS_MAX} is the most; nothing was written; "
            "split it"
        )
    if key is not None:
        if redactor is not None:
            redactor.refuse(key, "key")
        check_key(key)
    salts = draw(SALT_BYTES * len(events))
    prepared: list[PreparedEvent] = []
    total = 0
    for index, new in enumerate(events):
        try:
            salt = salts[index * SALT_BYTES : (index + 1) * SALT_BYTES]
            clean = (
                new if redactor is None else redactor.event(new)
            )  # before any check, whose error may show what it refuses
            event = prepare_event(
                clean, salt, draw=draw, read_cause=read_cause, body_bytes_max=body_bytes_max, own_verb=own_verb
            )
        except (InvalidEventError, LimitError, SecretError) as error:
            if len(events) == 1:
                raise
            raise _of_event(error, f"event {index} of {len(events)}") from error
        total += event.bytes_held
        prepared.append(event)
    if total > limits.APPEND_BYTES_MAX:
        raise LimitError(
            f"one append holds {total} bytes where {limits.APPEND_BYTES_MAX} is the most; nothing was written; split it"
        )
    _check_keys(prepared, key)
    return tuple(prepared)


def _of_event(error: InvalidEventError | LimitError | SecretError, which: str) -> EverlogError:
    message = f"{which}: {error.message}"
    if isinstance(error, SecretError):
        return SecretError(message, findings=error.findings)
    return type(error)(message)


def prepare_event(
    new: NewEvent, salt: bytes, *, draw: Draw, read_cause: CauseReader, body_bytes_max: int, own_verb: bool
) -> PreparedEvent:
    """Check and encode one event. salt: 32 random bytes for its body."""
    if type(new) is not NewEvent:
        raise InvalidEventError(f"{new!r:.100} is no NewEvent; nothing was written; give NewEvent(type, data, …)")
    _check_columns(new)
    if not own_verb:
        check_reserved(new.type)
    body = _encode_checked_body(new, body_bytes_max)
    commitment = commit_body(salt, body)
    attachments = () if not new.attachments else _prepare_attachments(new.attachments, draw)
    if attachments:
        commitment += b"".join(
            commit_attachment(cast("bytes", item.salt), item.name, cast("bytes", item.content)) for item in attachments
        )
    return PreparedEvent(
        new.type,
        body,
        salt,
        commitment,
        new.actor,
        new.outcome,
        None if new.occurred_at is None else _occurred_micros(new.occurred_at),
        None if new.caused_by is None else _pack_cause(new.caused_by, read_cause),
        new.key,
        attachments,
    )


def _check_columns(new: NewEvent) -> None:
    if not isinstance(new.type, str) or not is_type(new.type):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidEventError(
            f"type {new.type!r:.200} is not of the form [a-z][a-z0-9_.]*, at most {limits.TYPE_CHARACTERS_MAX} characters; "
            "nothing was written; rename it"
        )
    check_actor(new.actor)
    if new.outcome is not None and new.outcome not in OUTCOMES:
        raise InvalidEventError(
            f"outcome {new.outcome!r:.100} is none of {' '.join(OUTCOMES)}; nothing was written; choose one, or leave it out"
        )
    if new.key is not None:
        check_key(new.key)


def _encode_checked_body(new: NewEvent, body_bytes_max: int) -> bytes:
    data, rationale, metadata = new.data, new.rationale, new.metadata
    check_value(data, what="data")
    if rationale is not None:
        if not isinstance(rationale, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidEventError(
                f"rationale is a {type(rationale).__name__} where it takes a string; nothing was written"
            )
        if len(rationale) > limits.RATIONALE_BYTES_MAX:
            raise LimitError(
                f"rationale has {len(rationale)} characters where {limits.RATIONALE_BYTES_MAX} is the most; nothing was written"
            )
    if metadata is not None:
        if not isinstance(metadata, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidEventError(
                f"metadata is a {type(metadata).__name__} where it takes an object; nothing was written"
            )
        metadata = dict(metadata)
        check_value(metadata, what="metadata")
    check_standard(new.type, data)
    newest = newest_version(new.type)
    if newest is not None and VERSION_MEMBER not in (metadata or {}):
        metadata = {**(metadata or {}), VERSION_MEMBER: newest}
    return finish_body(data, rationale, metadata, None, body_bytes_max)


def finish_body(
    data: Any, rationale: str | None, metadata: dict[str, Any] | None, state: StateHash | None, body_bytes_max: int
) -> bytes:
    """Encode a body whose values were checked; LimitError past body_bytes_max bytes."""
    try:
        body = encode_body(Body(data, rationale, metadata, state))
    except UnicodeEncodeError:
        _refuse_surrogates(data, rationale, metadata)
    if len(body) > body_bytes_max:
        raise _too_large(body, body_bytes_max)
    return body


def with_state(event: PreparedEvent, state: StateHash, body_bytes_max: int) -> PreparedEvent:
    """Give a prepared event whose body also says what the state after it is."""
    comma = b"" if event.body == b"{}" else b","
    body = event.body[:-1] + comma + b'"state":' + encode_body(state) + b"}"
    if len(body) > body_bytes_max:
        raise _too_large(body, body_bytes_max)
    commitments = commit_body(event.salt, body) + event.commitments[DIGEST_BYTES:]
    return msgspec.structs.replace(event, body=body, commitments=commitments)


def _too_large(body: bytes, body_bytes_max: int) -> LimitError:
    return LimitError(
        f"the body has {len(body)} bytes where {body_bytes_max} is the most in this store; nothing was written; put "
        "large content into attachments=, or raise body_bytes_max when opening the store"
    )


def _refuse_surrogates(data: Any, rationale: str | None, metadata: dict[str, Any] | None) -> NoReturn:
    for what, value in (("data", data), ("rationale", rationale), ("metadata", metadata)):
        encode_json(value, what=what)
    raise AssertionError("one of the three holds what could not be encoded")


def check_actor(actor: object) -> str | None:
    """Give who does something, or refuse what is no opaque id."""
    if actor is not None and (not isinstance(actor, str) or ACTOR_PATTERN.fullmatch(actor) is None):
        raise InvalidEventError(
            f"actor {actor!r:.200} is not of the form [A-Za-z0-9._:/+-]{{1,{limits.ACTOR_CHARACTERS_MAX}}}; nothing "
            "was written; use an opaque id, never an e-mail address"
        )
    return actor


def check_key(key: object) -> None:
    """Refuse an idempotency key that is no string of 1 .. KEY_BYTES_MAX bytes without NUL."""
    if not isinstance(key, str) or not key:
        raise InvalidEventError(f"key {key!r:.100} is not a string of at least one character; nothing was written")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidEventError(f"key {key!r:.100} holds a lone surrogate; nothing was written; encode it") from None
    if size > limits.KEY_BYTES_MAX:
        raise LimitError(
            f"key has {size} bytes where {limits.KEY_BYTES_MAX} is the most; nothing was written; shorten or hash it"
        )
    if "\x00" in key:
        raise InvalidEventError(f"key {key!r:.100} holds a NUL, which databases refuse; nothing was written")


def _check_keys(prepared: Sequence[PreparedEvent], key: str | None) -> None:
    keys = [event.key for event in prepared if event.key is not None]
    if key is not None and keys:
        if prepared[0].key is not None:
            raise InvalidEventError(
                f"the append has the key {key!r:.100} and its first event has one too, but one event holds one key; nothing "
                "was written; leave out one of them"
            )
        keys.append(key)
    if len(set(keys)) != len(keys):
        double = next(one for one in keys if keys.count(one) > 1)
        raise InvalidEventError(
            f"key {double!r:.100} stands twice in one append; nothing was written; make keys unique"
        )


def _prepare_attachments(attachments: Mapping[str, bytes], draw: Draw) -> tuple[PreparedAttachment, ...]:
    if not isinstance(attachments, Mapping):
        raise InvalidEventError(
            f"attachments is a {type(attachments).__name__} where it takes a mapping of names to bytes; nothing was written"
        )
    if len(attachments) > limits.ATTACHMENTS_MAX:
        raise LimitError(
            f"the event has {len(attachments)} attachments where {limits.ATTACHMENTS_MAX} is the most; nothing was written; "
            "split it into several events"
        )
    prepared: list[PreparedAttachment] = []
    for name, content in attachments.items():
        check_attachment_name(name)
        if not isinstance(content, (bytes, bytearray, memoryview)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidEventError(
                f"attachment {name!r} is a {type(content).__name__} where it takes bytes; nothing was written; encode it"
            )
        copied = bytes(content)
        if len(copied) > limits.ATTACHMENT_BYTES_MAX:
            raise LimitError(
                f"attachment {name!r} has {len(copied)} bytes where {limits.ATTACHMENT_BYTES_MAX} is the most; nothing was "
                "written; keep it elsewhere and record where"
            )
        prepared.append(PreparedAttachment(name, len(copied), draw(SALT_BYTES), copied))
    return tuple(prepared)


def check_attachment_name(name: object) -> None:
    """Refuse what cannot be an attachment's name; InvalidEventError."""
    # No NUL: it parts the name from the content in what is committed to. No slash: names become file names.
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or "/" in name
        or not 1 <= len(name.encode("utf-8", "replace")) <= limits.ATTACHMENT_NAME_BYTES_MAX
    ):
        raise InvalidEventError(
            f"attachment name {name!r:.300} is not 1 to {limits.ATTACHMENT_NAME_BYTES_MAX} bytes of printable characters "
            "without a slash; nothing was written; rename it"
        )


def _occurred_micros(occurred_at: datetime | int) -> int:
    micros = to_micros(occurred_at) if isinstance(occurred_at, datetime) else occurred_at
    if type(micros) is not int or abs(micros) > limits.SAFE_INTEGER_MAX:
        raise InvalidEventError(
            f"occurred_at {occurred_at!r:.100} is neither a datetime with a zone nor microseconds since 1970 UTC; nothing "
            "was written"
        )
    return micros


def _pack_cause(caused_by: Event | str, read_cause: CauseReader) -> bytes:
    if isinstance(caused_by, Event):
        return Cause(caused_by.writer, caused_by.position, caused_by.leaf).pack()
    if isinstance(caused_by, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        return read_cause(caused_by)
    raise InvalidEventError(
        f"caused_by is a {type(caused_by).__name__} where it takes an Event or an event's id; nothing was written"
    )
