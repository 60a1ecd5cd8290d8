"""The standard event types and the members that their data must have.

1. Any type of the right form is allowed; of a standard one, the required members must be there and of their kind, and
   the optional ones, where they are there, of theirs. Members that are not named here are kept as they are.
2. `session.*`, `lease.*`, `step.*`, `wait.*`, `checkpoint` and `summary` are written only by their own verbs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, cast

from everlog.errors import InvalidEventError

TYPE_PATTERN: Final = re.compile(r"[a-z][a-z0-9_.]{0,127}", re.ASCII)
ACTOR_PATTERN: Final = re.compile(r"[A-Za-z0-9._:/+-]{1,128}", re.ASCII)

_VERBS: Final = {
    "session.forked": "fork()",
    "session.rewound": "rewind()",
    "session.switched": "switch()",
    "session.updated": "update()",
    "checkpoint": "checkpoint()",
}


@lru_cache(maxsize=1_024)  # an agent writes few types, many times
def is_type(text: str) -> bool:
    """Tell whether a text has the form of an event type."""
    return TYPE_PATTERN.fullmatch(text) is not None


@lru_cache(maxsize=1_024)
def is_reserved(event_type: str) -> bool:
    """Tell whether a type is written only by its own verb."""
    return event_type.startswith(("session.", "lease.", "step.", "wait.")) or event_type in ("checkpoint", "summary")


def check_reserved(event_type: str) -> None:
    """Refuse a type that only its own verb may write."""
    if is_reserved(event_type):
        verb = _VERBS.get(event_type, "their own verbs")
        raise InvalidEventError(
            f"events of type {event_type!r} are written only by {verb}; nothing was written; call it, or choose a type "
            "outside session.*, lease.*, step.*, wait.*, checkpoint and summary"
        )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_content(value: object) -> bool:
    return isinstance(value, (str, list, tuple))


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _is_boolean(value: object) -> bool:
    return isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_any(_: object) -> bool:
    return True


_Kind = tuple[Callable[[object], bool], str]
_TEXT: Final[_Kind] = (_is_text, "a string")
_CONTENT: Final[_Kind] = (_is_content, "a string or a list of blocks")
_MAPPING: Final[_Kind] = (_is_mapping, "an object")
_LIST: Final[_Kind] = (_is_list, "a list")
_BOOLEAN: Final[_Kind] = (_is_boolean, "true or false")
_COUNT: Final[_Kind] = (_is_count, "an integer of at least 0")
_NUMBER: Final[_Kind] = (_is_number, "a number")
_ANY: Final[_Kind] = (_is_any, "any value")

# A name that ends in "?" is optional.
STANDARD_TYPES: Final[Mapping[str, Mapping[str, _Kind]]] = {
    "user.message": {"content": _CONTENT, "name?": _TEXT},
    "user.interrupt": {"reason?": _TEXT},
    "user.tool_confirmation": {"tool_use_id": _TEXT, "result": _TEXT, "deny_message?": _TEXT},
    "system.message": {"content": _CONTENT, "role?": _TEXT},
    "agent.message": {"content": _CONTENT, "message_id?": _TEXT, "phase?": _TEXT},
    "agent.thinking": {"text?": _TEXT, "signature?": _TEXT, "message_id?": _TEXT},
    "agent.tool_use": {
        "id": _TEXT,
        "name": _TEXT,
        "input": _ANY,
        "kind?": _TEXT,
        "server?": _TEXT,
        "message_id?": _TEXT,
    },
    "agent.tool_result": {"tool_use_id": _TEXT, "is_error?": _BOOLEAN},
    "model.request": {"model": _TEXT, "provider?": _TEXT, "params?": _MAPPING, "tools?": _LIST, "request_hash?": _TEXT},
    "model.response": {
        "request": _TEXT,
        "model?": _TEXT,
        "response_id?": _TEXT,
        "stop_reason?": _TEXT,
        "usage?": _MAPPING,
        "is_error?": _BOOLEAN,
    },
    "decision": {"choice": _ANY, "question?": _TEXT, "options?": _LIST},
    "state.set": {"path": _TEXT, "value": _ANY},
    "state.patch": {"ops?": _LIST, "merge?": _ANY, "path?": _TEXT},
    "checkpoint": {"name": _TEXT, "states?": _MAPPING},
    "summary": {
        "content": _CONTENT,
        "start": _COUNT,
        "stop": _COUNT,
        "level": _COUNT,
        "method": _TEXT,
        "children?": _LIST,
        "usage?": _MAPPING,
    },
    "step.started": {
        "step": _TEXT,
        "occurrence": _COUNT,
        "attempt": _COUNT,
        "effect_key?": _TEXT,
        "run?": _TEXT,
        "within?": _TEXT,
        "kind?": _TEXT,
    },
    "step.finished": {
        "step": _TEXT,
        "occurrence": _COUNT,
        "attempt": _COUNT,
        "error?": _ANY,
        "retry_at?": _NUMBER,
        "run?": _TEXT,
        "within?": _TEXT,
        "kind?": _TEXT,
    },
    "wait.started": {"name": _TEXT, "occurrence?": _COUNT, "until?": _NUMBER, "run?": _TEXT, "within?": _TEXT},
    "wait.finished": {"name": _TEXT, "occurrence?": _COUNT, "signal?": _COUNT, "run?": _TEXT, "within?": _TEXT},
    "signal": {"name": _TEXT, "data": _ANY},
    "lease.acquired": {"holder": _TEXT, "token": _COUNT, "until": _ANY},
    "lease.released": {"token": _COUNT, "reason": _TEXT},
    "session.forked": {"from": _MAPPING, "reason?": _TEXT},
    "session.rewound": {"from": _MAPPING, "reason?": _TEXT},
    "session.switched": {"from": _MAPPING, "reason?": _TEXT},
    "session.merged": {"from": _MAPPING, "reason?": _TEXT},
    "session.updated": {"title?": _ANY, "labels?": _MAPPING, "metadata?": _MAPPING},
    "retention.started": {"policies": _LIST},
    "retention.applied": {
        "policy": _TEXT,
        "action": _TEXT,
        "sessions": _COUNT,
        "events": _COUNT,
        "bytes": _COUNT,
        "blocks?": _COUNT,
        "first?": _TEXT,
        "last?": _TEXT,
        "spared?": _MAPPING,
        "error?": _TEXT,
    },
    "note": {"content": _CONTENT},
    "error": {"message": _TEXT, "kind?": _TEXT, "retryable?": _BOOLEAN},
}

# The same, ready for the append path: (name, required, test, kind).
_COMPILED: Final = {
    event_type: tuple(
        (declared.removesuffix("?"), not declared.endswith("?"), test, kind)
        for declared, (test, kind) in members.items()
    )
    for event_type, members in STANDARD_TYPES.items()
}


def check_standard(event_type: str, data: object) -> None:
    """Refuse data of a standard type without its required members, naming the member."""
    members = STANDARD_TYPES.get(event_type)
    if members is None:
        return
    if not isinstance(data, dict):
        raise InvalidEventError(
            f"data of {event_type!r} is {_shown(data)} where it takes an object with "
            f"{_member_list(members)}; nothing was written"
        )
    _check_members(event_type, cast("dict[str, Any]", data), members)
    if event_type == "state.patch" and ("ops" in data) == ("merge" in data):
        raise InvalidEventError(
            "data of 'state.patch' takes exactly one of 'ops' (RFC 6902) and 'merge' (RFC 7386); nothing was written"
        )
    if event_type == "user.tool_confirmation" and data["result"] not in ("allow", "deny"):
        raise InvalidEventError(
            "data/result of 'user.tool_confirmation' takes 'allow' or 'deny'; nothing was written; correct it"
        )


def is_standard(event_type: str, data: object) -> bool:
    """Tell whether data has the shape of its type: what is imported may have another."""
    try:
        check_standard(event_type, data)
    except InvalidEventError:
        return False
    return True


def _check_members(event_type: str, data: dict[str, Any], members: Mapping[str, _Kind]) -> None:
    for name, required, test, kind in _COMPILED[event_type]:
        if name in data:
            if not test(data[name]):
                raise InvalidEventError(
                    f"data/{name} of {event_type!r} is {_shown(data[name])} where it takes {kind}; nothing was written; "
                    "correct it"
                )
        elif required:
            raise InvalidEventError(
                f"data of {event_type!r} lacks {name!r} ({kind}); nothing was written; its members are "
                f"{_member_list(members)}"
            )


def _member_list(members: Mapping[str, _Kind]) -> str:
    return ", ".join(f"{name} ({kind})" for name, (_, kind) in members.items())


def _shown(value: object) -> str:
    if value is None:
        return "absent"
    return f"a {type(value).__name__}"
