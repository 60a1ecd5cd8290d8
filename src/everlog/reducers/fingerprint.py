"""Fingerprints of code: what a function does, by its source and that of every helper that it can reach.

1. Followed: functions, classes and constants that the code names, in the reducer's own top-level package (its module where
   it stands in none), and through closures, defaults and classes. Of other packages the name and version count.
2. Everlog's own packages end the walk, but for the room of the reducers: `core` is covered by the declared versions.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_OWN_ROOM = "everlog.reducers"


def fingerprint_code(declared: Sequence[str], functions: Sequence[Callable[..., Any]]) -> bytes:
    """Give 16 bytes that change with what is declared and with the code that can be reached from functions."""
    digest = hashlib.sha256()
    for text in declared:
        digest.update(_framed(text))
    for function in functions:
        seen: set[int] = set()
        for text in _walk(function, _room(function), seen):
            digest.update(_framed(text))
    return digest.digest()[:16]


def _framed(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "big") + encoded


def _room(thing: Any) -> str:
    """Give the package whose code counts as a thing's own."""
    module: str = getattr(thing, "__module__", None) or ""
    return _OWN_ROOM if module.startswith(_OWN_ROOM) else module.partition(".")[0]


def _walk(thing: Any, room: str, seen: set[int]) -> Iterator[str]:
    """Give texts that say what a thing is, and what it reaches."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    thing = inspect.unwrap(thing) if callable(thing) and not isinstance(thing, type) else thing
    if isinstance(thing, types.MethodType):
        thing = thing.__func__
    if isinstance(thing, types.FunctionType):
        if not _is_in(thing.__module__, room):
            yield _outside(thing.__module__, thing.__qualname__)
            return
        yield _source(thing, thing.__code__)
        yield from _walk_values([*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()], room, seen)
        for cell in thing.__closure__ or ():
            try:
                yield from _walk(cell.cell_contents, room, seen)
            except ValueError:  # a cell that is not filled yet
                continue
        yield from _walk_names(thing.__code__, thing.__globals__, room, seen)
    elif isinstance(thing, type):
        if not _is_in(thing.__module__, room):
            yield _outside(thing.__module__, thing.__qualname__)
            return
        yield _source(thing, None)
        for base in thing.__mro__[1:]:
            yield from _walk(base, room, seen)
        for name in sorted(vars(thing)):
            member = vars(thing)[name]
            inner = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
            if isinstance(inner, types.FunctionType):
                yield from _walk(inner, room, seen)
    elif isinstance(thing, types.ModuleType):
        if not _is_in(thing.__name__, room):
            yield _outside(thing.__name__, "")
    elif callable(thing) and _room(type(thing)) != "builtins":
        yield from _walk(type(thing), room, seen)
        step = getattr(thing, "step", None) or getattr(thing, "func", None)
        if step is not None:
            yield from _walk(step, room, seen)
    else:
        yield from _walk_values([thing], room, seen)


def _walk_values(values: Sequence[Any], room: str, seen: set[int]) -> Iterator[str]:
    for value in values:
        if isinstance(value, (str, bytes, int, float, bool, type(None))):
            yield f"{type(value).__name__}:{value!r}"
        elif isinstance(value, (list, tuple, set, frozenset)):
            inside = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
            yield f"{type(value).__name__}:{len(value)}"
            for member in inside:
                yield from _walk(member, room, seen) if callable(member) else _walk_values([member], room, seen)
        elif isinstance(value, dict):
            yield f"dict:{len(value)}"
            for key, member in value.items():
                yield f"{key!r}"
                yield from _walk(member, room, seen) if callable(member) else _walk_values([member], room, seen)
        elif callable(value) or isinstance(value, types.ModuleType):
            yield from _walk(value, room, seen)
        else:
            yield f"{type(value).__module__}.{type(value).__qualname__}"


def _walk_names(code: types.CodeType, names: dict[str, Any], room: str, seen: set[int]) -> Iterator[str]:
    """Follow the globals that code names, and what it may take from modules of its own package."""
    modules: list[types.ModuleType] = []
    for name in _names(code):
        if name in names:
            thing = names[name]
            if isinstance(thing, types.ModuleType) and _is_in(thing.__name__, room):
                modules.append(thing)
            yield name
            yield from _walk(thing, room, seen)
    for module in modules:
        yield from _walk_names(code, {**vars(module)}, room, seen)


def _names(code: types.CodeType) -> list[str]:
    found = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= dict.fromkeys(_names(constant))
    return list(found)


def _source(thing: Any, code: types.CodeType | None) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        if code is None:
            return f"{thing.__module__}.{thing.__qualname__}"
        return _byte_code(code)  # made where no file is, as at a prompt


def _byte_code(code: types.CodeType) -> str:
    inside = [_byte_code(value) if isinstance(value, types.CodeType) else repr(value) for value in code.co_consts]
    return f"{sys.version_info[:2]} {code.co_code.hex()} {code.co_names} {code.co_varnames} {inside}"


def _is_in(module: str | None, room: str) -> bool:
    return (module or "") == room or (module or "").startswith(room + ".")


def _outside(module: str | None, name: str) -> str:
    package = sys.modules.get((module or "").partition(".")[0])
    version = getattr(package, "__version__", "") if package is not None and package.__name__ != "everlog" else ""
    return f"{module}.{name} {version}"
