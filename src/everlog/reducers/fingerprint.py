"""Fingerprints of code: what a function does, by its byte code and by everything of its own that it can reach.

1. Byte code is what runs, whatever its file says by now. Another version of Python has another, and folds anew.
2. Followed are the functions, classes, modules and values that code names: through closures, defaults, attributes, bases,
   imports inside functions, and what instances hold.
3. The walk ends at the standard library, at what is installed, and at Everlog beside its reducers. These count by name, what is
   installed by its version too; `core` is covered by the versions that reducers declare.
4. What cannot be read (a lock, an open socket) gives a fingerprint that only this process has: too few snapshots are read
   then, never a wrong one.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib
import importlib.util
import os
import site
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

_OWN_ROOM: Final = "everlog.reducers"
_THINGS_MAX: Final = 100_000  # that one fingerprint looks at
_THIS_PROCESS: Final = os.urandom(16).hex()
_PLAIN: Final = (bool, int, float, complex, str, type(None), type(...), type(NotImplemented))
_BUILT_IN: Final = (
    types.BuiltinFunctionType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
# Members of a class that say nothing of what it does.
_NOT_OF_A_CLASS: Final = frozenset({"__module__", "__qualname__", "__dict__", "__weakref__", "__doc__", "__slotnames__",
    "__abstractmethods__", "_abc_impl", "__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__",
    "__annotations_cache__", "__conditional_annotations__"})  # fmt: skip


def fingerprint_code(declared: Sequence[str], functions: Sequence[Callable[..., Any]]) -> bytes:
    """Give 16 bytes that change with what is declared and with the code that can be reached from functions."""
    digest = hashlib.sha256()
    for text in (*declared, repr(sys.version_info[:2])):
        digest.update(_framed(text.encode("utf-8", "surrogatepass")))
    for function in functions:
        digest.update(_Walk(_room(function)).digest_of(function))
    return digest.digest()[:16]


def _framed(text: bytes) -> bytes:
    return len(text).to_bytes(8, "big") + text


def _room(thing: Any) -> str:
    """Give the package whose code is a thing's own, also where it is installed."""
    module: str = getattr(thing, "__module__", None) or ""
    return _OWN_ROOM if module.startswith(_OWN_ROOM) else module.partition(".")[0]


class _Walk:
    """Walks what can be reached from one thing, each once, in an order that the code gives."""

    def __init__(self, room: str, seen: dict[int, tuple[int, Any]] | None = None) -> None:
        self._room = room
        self._seen = (
            {} if seen is None else dict(seen)
        )  # by id: the how manieth, and the thing, so that no other gets its id
        self._passed: set[tuple[int, int]] = set()  # modules that a function's names were looked up in
        self._digest = hashlib.sha256()

    def digest_of(self, thing: Any) -> bytes:
        try:
            self._value(thing)
        except RecursionError:
            self._say(_THIS_PROCESS)
        return self._digest.digest()

    def _say(self, *texts: str | bytes) -> None:
        for text in texts:
            self._digest.update(_framed(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")))

    def _value(self, thing: Any) -> None:
        kind = type(thing)
        if kind in _PLAIN:
            self._say(kind.__name__, repr(thing))
        elif kind is bytes:
            self._say("bytes", thing)
        elif id(thing) in self._seen:
            self._say("again", str(self._seen[id(thing)][0]))
        elif len(self._seen) >= _THINGS_MAX:
            self._say(_THIS_PROCESS)
        else:
            self._seen[id(thing)] = (len(self._seen), thing)
            self._new(thing, kind)

    def _new(self, thing: Any, kind: type) -> None:
        if kind is types.CodeType:
            self._code(thing)
        elif kind is types.FunctionType:
            self._function(thing)
        elif isinstance(thing, type):
            self._class(thing)
        elif kind is types.ModuleType:
            self._say("module", *(() if self._is_own(thing.__name__) else (_outside(thing.__name__),)))
        elif kind is types.MethodType:
            self._all("method", [thing.__func__, thing.__self__])
        elif kind in _BUILT_IN:
            self._built_in(thing)
        elif kind in (list, tuple):
            self._all(kind.__name__, thing)
        elif kind in (set, frozenset):
            self._say(kind.__name__, *sorted(map(self._apart, thing)))
        elif kind in (dict, types.MappingProxyType):
            self._all("dict", [part for item in thing.items() for part in item])
        elif kind is property:
            self._all("property", [thing.fget, thing.fset, thing.fdel])
        elif kind in (staticmethod, classmethod):
            self._all(kind.__name__, [thing.__func__])
        elif kind is functools.cached_property:
            self._all("cached_property", [thing.func])
        else:
            self._instance(thing, kind)

    def _apart(self, member: Any) -> bytes:
        """Give what tells one member of a set, which has no order, from another."""
        if type(member) in _PLAIN:
            return f"{type(member).__name__} {member!r}".encode("utf-8", "surrogatepass")
        return _Walk(self._room, self._seen).digest_of(member)

    def _all(self, what: str, things: Sequence[Any]) -> None:
        self._say(what, str(len(things)))
        for thing in things:
            self._value(thing)

    # --- code ---
    def _code(self, code: types.CodeType) -> None:
        named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        self._say("code", repr(counts), repr((named, code.co_names, code.co_freevars, code.co_cellvars)))
        self._say(code.co_code, code.co_exceptiontable)
        self._all("constants", code.co_consts)

    def _function(self, function: types.FunctionType) -> None:
        held = [_cell(cell) for cell in function.__closure__ or ()]
        if not self._is_own(
            function.__globals__.get("__name__")
        ):  # a foreign decorator's wrapper may hold what is ours
            self._say(_outside(function.__globals__.get("__name__"), function.__code__.co_name))
            self._all("holds", held)
            return
        self._value(function.__code__)
        self._all("defaults", [function.__defaults__, function.__kwdefaults__, function.__dict__])
        self._all("closure", held)
        for code in _with_inner(function.__code__):
            self._names(code, function.__globals__)
            for module in self._imported(code, function.__globals__):
                self._module(module, code)

    def _names(self, code: types.CodeType, names: dict[str, Any]) -> None:
        for name in code.co_names:
            if name in names:
                self._say(name)
                thing = names[name]
                self._value(thing)
                if isinstance(thing, types.ModuleType):
                    self._module(thing, code)

    def _module(self, module: types.ModuleType, code: types.CodeType) -> None:
        """Follow what code may take from a module of its own."""
        if self._is_own(module.__name__) and (id(module), id(code)) not in self._passed:
            self._passed.add((id(module), id(code)))
            self._names(code, vars(module))

    def _imported(self, code: types.CodeType, names: dict[str, Any]) -> Iterator[types.ModuleType]:
        """Give the modules of its own that code imports when it runs."""
        constants: list[Any] = []
        for instruction in dis.get_instructions(code) if _IMPORT in code.co_code[::2] else ():
            if instruction.opname == "IMPORT_NAME":
                level = constants[-2] if len(constants) > 1 and type(constants[-2]) is int else 0
                try:
                    name = importlib.util.resolve_name("." * level + instruction.argval, names.get("__package__"))
                    if self._is_own(name):
                        yield importlib.import_module(name)
                except Exception:  # noqa: BLE001  # a user's module may raise anything
                    self._say(_THIS_PROCESS)  # it cannot be imported now, and might be later
            elif instruction.opname.startswith("LOAD_"):
                constants.append(instruction.argval)

    # --- values ---
    def _class(self, chosen: type) -> None:
        if not self._is_own(chosen.__module__):
            self._say(_outside(chosen.__module__, chosen.__qualname__))
            return
        self._all("class", [*chosen.__mro__[1:], type(chosen)])
        members = vars(chosen)
        for name in sorted(members.keys() - _NOT_OF_A_CLASS):
            self._say(name)
            self._value(members[name])

    def _built_in(self, thing: Any) -> None:
        owner = getattr(thing, "__self__", None)
        self._say(_outside(getattr(thing, "__module__", None), thing.__qualname__))
        if owner is not None and not isinstance(owner, types.ModuleType):
            self._value(owner)

    def _instance(self, thing: Any, kind: type) -> None:
        """Take an object by its class and by what it would be pickled as."""
        self._value(kind)
        try:
            parts = thing.__reduce_ex__(2)
            if isinstance(parts, str):  # known by its name: it may hold a function all the same, as a cache does
                self._say(parts)
                self._value(getattr(thing, "__wrapped__", None))
            else:
                self._all("parts", [*parts[:3], *(None if each is None else list(each) for each in parts[3:5])])
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001  # so may a user's object when it is taken apart
            text = repr(thing)
            self._say(_THIS_PROCESS if " at 0x" in text else text)

    # --- whose it is ---
    def _is_own(self, module: str | None) -> bool:
        name = module or ""
        if name == self._room or name.startswith(self._room + "."):
            return True
        return not _is_foreign(name.partition(".")[0])


_IMPORT: Final = dis.opmap["IMPORT_NAME"]


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return NotImplemented  # not filled yet


def _with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    """Give code, and that of the functions that stand in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _with_inner(constant)


@functools.cache
def _is_foreign(root: str) -> bool:
    """Tell whether a top-level module is the standard library's, installed, or Everlog."""
    if root in ("", "everlog", "builtins"):
        return True
    if root == "__main__":
        return False
    if root in sys.stdlib_module_names:
        return True
    module = sys.modules.get(root)
    try:
        spec = getattr(module, "__spec__", None) if module is not None else importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return False
    file = getattr(spec, "origin", None) or getattr(module, "__file__", None)
    if file is None:
        return False
    return any(Path(file).is_relative_to(folder) for folder in _installed())


@functools.cache
def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()})


@functools.cache
def _version(root: str) -> str:
    if root in sys.stdlib_module_names or root in ("", "everlog", "builtins"):
        return ""
    found = getattr(sys.modules.get(root), "__version__", None)
    if isinstance(found, str):
        return found
    from importlib import metadata  # with what it loads a seventh of loading everlog

    try:
        return metadata.version(root)
    except metadata.PackageNotFoundError:
        return ""


def _outside(module: str | None, name: str = "") -> str:
    return f"{module}.{name} {_version((module or '').partition('.')[0])}"
