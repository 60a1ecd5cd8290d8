"""JSON values as the log takes them: nothing that JSON cannot say, nothing that a library would change silently.

1. Only dict with str keys, list or tuple, str, int, float, bool and None are taken; everything else is refused with
   the path of the offending member (a JSON Pointer). A tuple is an array.
2. NaN, infinities, lone surrogates, integers of 2⁶⁴ and beyond, and nesting past BODY_DEPTH_MAX are refused (FORMAT §2).
3. Received JSON is refused for the same reasons, and for duplicate keys, which every library collapses silently.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, cast

import msgspec

from everlog.core import limits
from everlog.errors import CorruptionError, InvalidEventError, LimitError

_encode = msgspec.json.Encoder().encode
_INFINITY = float("inf")


def shown(value: object) -> str:
    """Give a value that is refused as an error shows it: the first of it, whatever it is."""
    try:
        return f"{value!r:.50}"
    except Exception:  # noqa: BLE001  # an integer of thousands of digits, or somebody's own __repr__
        return f"of type {type(value).__name__}"


def encode_json(value: object, *, what: str) -> bytes:
    """Give the JSON bytes of a value, after the checks above.

    what: the name of the value in error messages, as in "data".
    Raises InvalidEventError or LimitError, which name the member by its JSON Pointer.
    """
    check_value(value, what=what)
    try:
        return _encode(value)
    except UnicodeEncodeError:
        _refuse_surrogate(value, what)


def check_value(value: object, *, what: str) -> None:
    """Refuse what JSON cannot say or a library would change; `what` names the value in errors."""
    if type(value) is str or value is None:
        return
    if not (isinstance(value, (dict, list, tuple)) and _is_sayable(value, 1)):
        _check_member(value, what, 0)


def _is_sayable(value: Any, depth: int) -> bool:
    """Tell whether JSON can say a container as it is: nearly every body, walked without naming its members."""
    if depth > limits.BODY_DEPTH_MAX:
        return False
    members = value
    if isinstance(value, dict):
        for key in value:
            if type(key) is not str:
                return False
        members = value.values()
    for member in members:
        kind = type(member)
        if kind is str or member is None or kind is bool:
            continue
        if kind is int:
            if not -limits.INTEGER_BOUND < member < limits.INTEGER_BOUND:
                return False
        elif kind is float:
            if member - member != 0.0:  # NaN and both infinities
                return False
        elif not (isinstance(member, (dict, list, tuple)) and _is_sayable(member, depth + 1)):
            return False
    return True


def _check_members(value: Any, what: str, depth: int) -> None:
    """Refuse the first member of a container that JSON cannot say, by its name."""
    if depth > limits.BODY_DEPTH_MAX:
        raise too_deep(what)
    keyed = isinstance(value, dict)
    for key, member in value.items() if keyed else enumerate(value):
        if keyed and type(key) is not str:
            raise InvalidEventError(
                f"{what} has the key {key!r} of type {type(key).__name__} where JSON takes only strings; "
                "nothing was written; convert it to a string"
            )
        _check_member(member, f"{what}/{pointer_token(str(key))}", depth)


def _check_member(value: object, path: str, depth: int) -> None:
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return
    if kind is int:
        if -limits.INTEGER_BOUND < cast("int", value) < limits.INTEGER_BOUND:
            return
        raise InvalidEventError(
            f"{path} is an integer of 2^64 or beyond, which JSON libraries turn into another number; nothing was "
            "written; write it as a string"
        )
    if kind is float:
        number = cast("float", value)
        if number - number == 0.0:  # false for NaN and both infinities
            return
        raise InvalidEventError(
            f"{path} is {number}, which JSON cannot say; nothing was written; write null or a string instead"
        )
    if isinstance(value, (dict, list, tuple)):  # OrderedDict, defaultdict, named tuples: JSON says them as they are
        _check_members(value, path, depth + 1)
        return
    raise InvalidEventError(
        f"{path} is of type {kind.__name__}, which is no JSON value; nothing was written; convert it to a dict, list, "
        "str, int, float, bool or None"
    )


def decode_json(raw: bytes, *, what: str) -> Any:
    """Give the value of received JSON bytes, refusing duplicate keys and all that `encode_json` refuses.

    what: the name of the bytes in error messages, as in "line 3".
    Raises InvalidEventError or LimitError. Slower than a plain decode by design: for what comes from outside.
    """

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            seen: set[str] = set()
            double = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise InvalidEventError(f"{what} has the key {double!r} twice; nothing was written; name each key once")
        return members

    def refuse_constant(constant: str) -> NoReturn:
        raise InvalidEventError(f"{what} holds {constant}, which is not JSON; nothing was written; write null instead")

    try:
        text = raw.decode("utf-8")
        value = json.loads(text, object_pairs_hook=without_duplicates, parse_constant=refuse_constant)
    except RecursionError:
        raise LimitError(
            f"{what} is nested deeper than {limits.BODY_DEPTH_MAX} levels; nothing was written; flatten it"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidEventError(
            f"{what} is not UTF-8 (byte {error.start}); nothing was written; encode it as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise InvalidEventError(
            f"{what} is not JSON: {error.msg} at character {error.pos}; nothing was written; correct it"
        ) from None
    except ValueError as error:  # an integer past the interpreter's digit limit
        raise InvalidEventError(f"{what} holds a number that cannot be read ({error}); nothing was written") from None
    check_value(value, what=what)
    try:
        _encode(value)
    except UnicodeEncodeError:
        _refuse_surrogate(value, what)
    return value


def _refuse_surrogate(value: object, what: str) -> NoReturn:
    raise InvalidEventError(
        f"{_surrogate_path(value, what) or what} holds a lone surrogate, which UTF-8 cannot say; nothing was written; "
        "decode the text with errors='replace' or keep the bytes in an attachment"
    )


def _surrogate_path(value: object, path: str) -> str | None:
    """Find the first string in a value that UTF-8 cannot encode; give its path."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return path
        return None
    members: list[tuple[str, object]] = []
    if isinstance(value, dict):
        for key, member in cast("dict[str, object]", value).items():
            shown = key.encode("utf-8", "replace").decode()
            if shown != key:
                return f"{path} (a key)"
            members.append((f"{path}/{pointer_token(shown)}", member))
    elif isinstance(value, (list, tuple)):
        members = [(f"{path}/{index}", member) for index, member in enumerate(cast("list[object]", value))]
    return next((found for name, member in members if (found := _surrogate_path(member, name))), None)


def too_deep(what: str) -> LimitError:
    """Give the error for a value that is nested too deep."""
    return LimitError(
        f"{what} is nested deeper than {limits.BODY_DEPTH_MAX} levels; nothing was written; flatten it "
        "or put it into an attachment"
    )


def pointer_token(key: str) -> str:
    """Escape a key as a JSON Pointer token (RFC 6901 §3)."""
    return key.replace("~", "~0").replace("/", "~1")


def unreadable(what: str, error: Exception) -> CorruptionError:
    """Give the error for stored JSON that is not what was written."""
    return CorruptionError(
        f"{what} cannot be read ({error}); keep a copy of the store as it is, and see what verify says"
    )
