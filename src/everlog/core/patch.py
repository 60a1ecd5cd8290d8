"""Changing and comparing JSON values: RFC 6902 patches, RFC 7386 merges, differences, and merges of three.

1. A value that was given is never changed: what is to change is copied first, along its path, once.
2. A patch is applied whole or not at all.
3. The rules here decide what recorded events mean: to change one is to raise the version of the `document` reducer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import msgspec

from everlog.core import limits
from everlog.core.pointer import MISSING, format_pointer, get_member, parse_pointer, read_index
from everlog.errors import EverlogError, PatchError

_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode
_OWNED_MAX: Final = 4_096  # copies that a draft remembers as its own; forgetting them costs copies, never truth


class Draft:
    """A JSON value on its way: changed by copying each container once, then in place.

    value: as it is now. Whoever keeps it must not change it, and must copy it before the draft goes on.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self._own: dict[int, Any] = {}  # containers that nobody else sees, held so that no other gets their id

    def set(self, pointer: str, value: Any) -> None:
        """Put a value at a pointer, making the objects on the way; in an array an index replaces, `-` appends."""
        tokens = parse_pointer(pointer)
        _check_depth(tokens, value)
        if not tokens:
            self.value = value
            return
        present, node = 0, self.value  # how much of the way is there already: what is refused must change nothing
        for token in tokens[:-1]:
            found = get_member(node, (token,))
            if found is MISSING:
                break
            present, node = present + 1, found
        if not isinstance(node, (dict, list)) or (isinstance(node, list) and present < len(tokens) - 1):
            raise _no_place(pointer, tokens[: present + 1], node)
        if isinstance(node, list) and tokens[-1] != "-":
            index = read_index(tokens[-1])
            if index is None or index > len(node):
                raise _no_place(pointer, tokens, node)
        parent = self._owned(tokens[:present])
        for token in tokens[present:-1]:
            made = self._keep({})
            parent[token] = made
            parent = made
        _put(parent, tokens[-1], value, insert=False)

    def patch(self, ops: Sequence[Any], root: str = "") -> None:
        """Apply an RFC 6902 patch below a pointer, whole or not at all; PatchError."""
        before, own = self.value, self._own
        self._own = {}  # so that everything that the patch changes is copied, and `before` stays
        try:
            for number, op in enumerate(ops):
                try:
                    self._apply(op, root)
                except EverlogError as error:
                    raise PatchError(f"operation {number} of {len(ops)}: {error.message}") from None
        except BaseException:
            self.value, self._own = before, own
            raise
        if len(self._own) > _OWNED_MAX:
            self._own = {}

    def merge(self, merge: Any, pointer: str = "") -> None:
        """Apply an RFC 7386 merge patch at a pointer."""
        found = get_member(self.value, parse_pointer(pointer))
        self.set(pointer, merge_values(None if found is MISSING else found, merge))

    # --- one operation of a patch ---
    def _apply(self, op: Any, root: str) -> None:
        if not isinstance(op, dict):
            raise PatchError(f"{op!r:.100} is no object with op and path")
        kind, path = op.get("op"), op.get("path")
        if not isinstance(path, str):
            raise PatchError(f"{op!r:.200} has no path")
        match kind:
            case "add" | "replace" | "test" if "value" not in op:
                raise PatchError(f"{kind} of {path!r:.100} has no value")
            case "add":
                self._add(root + path, op["value"])
            case "remove":
                self._remove(root + path)
            case "replace":
                self._existing(root + path)
                self._replace(root + path, op["value"])
            case "test":
                if not same(self._existing(root + path), op["value"]):
                    raise PatchError(f"test of {path!r:.100} does not hold")
            case "copy" | "move":
                source = op.get("from")
                if not isinstance(source, str):
                    raise PatchError(f"{kind} to {path!r:.100} has no from")
                value = self._existing(root + source)
                if kind == "move":
                    if path.startswith(source + "/"):
                        raise PatchError(f"move of {source!r:.100} into itself")
                    self._remove(root + source)
                if kind == "copy":
                    self._check_growth(value)
                self._own = {}  # the value now stands in two places, or in another: copy it before it is changed
                self._add(root + path, value)
            case _:
                raise PatchError(f"{kind!r:.50} is none of add remove replace move copy test")

    def _check_growth(self, copied: Any) -> None:
        """Refuse a copy that takes the whole past STATE_BYTES_MAX: a few operations could double it without end."""
        if isinstance(copied, (dict, list)) or len(str(copied)) > 1_000:
            size = len(_encode(self.value)) + len(_encode(copied))
            if size > limits.STATE_BYTES_MAX:
                raise PatchError(f"the copy would make a value of {size} bytes, past {limits.STATE_BYTES_MAX}")

    def _existing(self, pointer: str) -> Any:
        found = get_member(self.value, parse_pointer(pointer))
        if found is MISSING:
            raise PatchError(f"nothing stands at {pointer!r:.100}")
        return found

    def _add(self, pointer: str, value: Any) -> None:
        tokens = parse_pointer(pointer)
        _check_depth(tokens, value)
        if not tokens:
            self.value = value
            return
        parent = get_member(self.value, tokens[:-1])
        if isinstance(parent, list) and tokens[-1] != "-":
            index = read_index(tokens[-1])
            if index is None or index > len(parent):
                raise _no_place(pointer, tokens, parent)
        elif not isinstance(parent, (dict, list)):
            raise _no_place(pointer, tokens, parent)
        _put(self._owned(tokens[:-1]), tokens[-1], value, insert=True)

    def _replace(self, pointer: str, value: Any) -> None:
        tokens = parse_pointer(pointer)
        _check_depth(tokens, value)
        if tokens:
            _put(self._owned(tokens[:-1]), tokens[-1], value, insert=False)
        else:
            self.value = value

    def _remove(self, pointer: str) -> None:
        tokens = parse_pointer(pointer)
        self._existing(pointer)
        if not tokens:
            raise PatchError("the whole cannot be removed; replace it")
        parent = self._owned(tokens[:-1])
        del parent[int(tokens[-1]) if isinstance(parent, list) else tokens[-1]]

    # --- copies ---
    def _owned(self, tokens: tuple[str, ...]) -> Any:
        """Give the container at a pointer, which is there, after copying it and those above it where they are not ours."""
        if id(self.value) not in self._own:
            self.value = self._keep(self.value.copy())
        node = self.value
        for token in tokens:
            key: Any = int(token) if isinstance(node, list) else token
            child = node[key]
            if id(child) not in self._own:
                child = self._keep(child.copy())
                node[key] = child
            node = child
        return node

    def _keep(self, container: Any) -> Any:
        if len(self._own) > _OWNED_MAX:
            self._own = {}
        self._own[id(container)] = container
        return container


def _check_depth(tokens: tuple[str, ...], value: Any) -> None:
    """Refuse what would make a document that no JSON library may be asked to load."""
    if len(tokens) >= limits.POINTER_TOKENS_MAX:
        raise PatchError(f"the path is deeper than {limits.POINTER_TOKENS_MAX} levels")
    if len(tokens) + _depth(value) > limits.STATE_DEPTH_MAX:
        raise PatchError(f"{format_pointer(tokens)!r:.100} would be deeper than {limits.STATE_DEPTH_MAX} levels")


def _depth(value: Any) -> int:
    """Give how many containers stand inside one another."""
    if isinstance(value, dict):
        return 1 + max(map(_depth, cast("dict[str, Any]", value).values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, cast("list[Any]", value)), default=0)
    return 0


def _put(parent: Any, token: str, value: Any, *, insert: bool) -> None:
    if isinstance(parent, dict):
        parent[token] = value
    elif (index := read_index(token)) is None or index == len(parent):  # `-`, or the place after the last
        parent.append(value)
    elif insert:
        parent.insert(index, value)
    else:
        parent[index] = value


def _no_place(pointer: str, tokens: tuple[str, ...], node: Any) -> PatchError:
    what = "nothing" if node is MISSING else f"a {type(node).__name__} that takes no {tokens[-1]!r:.50}"
    if isinstance(node, list):
        what = f"an array of {len(node)}, which takes an index up to {len(node)} or -, not {tokens[-1]!r:.50}"
    return PatchError(f"{pointer!r:.100} cannot be set: at {format_pointer(tokens[:-1])!r:.100} stands {what}")


def apply_patch(value: Any, ops: Sequence[Any]) -> Any:
    """Give a value after an RFC 6902 patch; the value given stays as it is. PatchError."""
    draft = Draft(value)
    draft.patch(ops)
    return draft.value


def merge_values(target: Any, merge: Any) -> Any:
    """Give a value after an RFC 7386 merge patch."""
    if not isinstance(merge, dict):
        return merge
    merged: dict[str, Any] = dict(cast("dict[str, Any]", target)) if isinstance(target, dict) else {}
    for key, member in cast("dict[str, Any]", merge).items():
        if member is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_values(merged.get(key), member)
    return merged


# --- comparing -----------------------------------------------------------------------------------
def same(one: Any, other: Any) -> bool:
    """Tell whether two JSON values are the same: true is not 1, and the order of an object's members says nothing."""
    if one is other:
        return True
    if one is MISSING or other is MISSING or one != other:
        return False
    kind = type(one)
    if kind is str or one is None:
        return True
    if kind is dict or kind is list or type(other) is not kind:  # Python's == takes True for 1
        return _plain(one) == _plain(other)
    return True


def _plain(value: Any) -> bytes:
    return _encode_sorted(_floats_as_integers(value))


def _floats_as_integers(value: Any) -> Any:
    """Give a value in which a number has one form, as in JSON 1 and 1.0 are the same."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {key: _floats_as_integers(member) for key, member in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_floats_as_integers(member) for member in cast("list[Any]", value)]
    return value


def diff_values(one: Any, other: Any) -> list[dict[str, Any]]:
    """Give the RFC 6902 patch that turns one JSON value into another: add, remove and replace only."""
    ops: list[dict[str, Any]] = []
    _diff(one, other, (), ops)
    return ops


def _diff(one: Any, other: Any, path: tuple[str | int, ...], ops: list[dict[str, Any]]) -> None:
    if one is other:
        return
    if isinstance(one, dict) and isinstance(other, dict):
        ops += [{"op": "remove", "path": format_pointer((*path, key))} for key in one if key not in other]
        for key, member in cast("dict[str, Any]", other).items():
            if key in one:
                _diff(one[key], member, (*path, key), ops)
            else:
                ops.append({"op": "add", "path": format_pointer((*path, key)), "value": member})
    elif isinstance(one, list) and isinstance(other, list):
        _diff_arrays(cast("list[Any]", one), cast("list[Any]", other), path, ops)
    elif not same(one, other):
        ops.append({"op": "replace", "path": format_pointer(path), "value": other})


def _diff_arrays(one: list[Any], other: list[Any], path: tuple[str | int, ...], ops: list[dict[str, Any]]) -> None:
    """Compare element by element between the beginnings and ends that are the same. Linear."""
    start, shorter = 0, min(len(one), len(other))
    while start < shorter and same(one[start], other[start]):
        start += 1
    end = 0
    while end < shorter - start and same(one[-1 - end], other[-1 - end]):
        end += 1
    one_stop, other_stop = len(one) - end, len(other) - end
    shared = min(one_stop, other_stop)
    for index in range(start, shared):
        _diff(one[index], other[index], (*path, index), ops)
    ops += [{"op": "remove", "path": format_pointer((*path, at))} for at in range(one_stop - 1, shared - 1, -1)]
    ops += [{"op": "add", "path": format_pointer((*path, at)), "value": other[at]} for at in range(shared, other_stop)]


class StateConflict(msgspec.Struct, frozen=True):
    """A member that two lines changed differently. pointer: where; base, ours, theirs: values, MISSING for none."""

    pointer: str
    base: Any
    ours: Any
    theirs: Any


def merge_three(
    base: Any, ours: Any, theirs: Any, *, decide: Callable[[StateConflict], Any] | None = None
) -> tuple[Any, list[StateConflict]]:
    """Merge two values that came from one base; give the result and what both changed differently.

    Objects are merged member by member, everything else whole: positions in arrays would have to be guessed.
    decide: gives the value for a conflict (MISSING removes the member), or raises LookupError to leave it open;
    an open conflict keeps ours in the result.
    """
    conflicts: list[StateConflict] = []
    return _merge(base, ours, theirs, (), conflicts, decide), conflicts


def _merge(
    base: Any,
    ours: Any,
    theirs: Any,
    path: tuple[str | int, ...],
    conflicts: list[StateConflict],
    decide: Callable[[StateConflict], Any] | None,
) -> Any:
    if same(ours, theirs) or same(base, theirs):
        return ours
    if same(base, ours):
        return theirs
    if isinstance(ours, dict) and isinstance(theirs, dict) and (base is MISSING or isinstance(base, dict)):
        known: dict[str, Any] = {} if base is MISSING else base
        merged: dict[str, Any] = {}
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            member = _merge(
                known.get(key, MISSING),
                ours.get(key, MISSING),
                theirs.get(key, MISSING),
                (*path, key),
                conflicts,
                decide,
            )
            if member is not MISSING:
                merged[key] = member
        return merged
    conflict = StateConflict(format_pointer(path), base, ours, theirs)
    if decide is not None:
        try:
            return decide(conflict)
        except LookupError:
            pass
    conflicts.append(conflict)
    return ours
