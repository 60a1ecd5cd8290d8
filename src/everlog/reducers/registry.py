"""What a reducer is, and where they are known by name.

1. A reducer is a pure function `(state, event) -> state`: it changes neither, and depends on nothing else (law 10).
2. States are JSON: dict with str keys, list, str, int, float, bool and None.
3. A fold is a reducer at work on many events; it may keep copies of its own that it changes in place.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from everlog.core.canonical import decode_state, encode_plain, encode_state
from everlog.core.event import Event
from everlog.core.query import Glob, glob_pattern
from everlog.core.upcast import UPCASTERS
from everlog.errors import EverlogError, ReducerError
from everlog.reducers.fingerprint import fingerprint_code

_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,63}", re.ASCII)
_TYPES: Final = re.compile(r"[a-z0-9_.*]{1,128}", re.ASCII)
Step = Callable[[Any, Event], Any]


class Fold(Protocol):
    """A reducer at work: takes events in order, from a state that it never changes.

    value: the state as it is now. The fold may change it when it goes on: encode or copy it first.
    """

    @property
    def value(self) -> Any: ...

    def apply(self, event: Event) -> None:
        """Take an event. PatchError: it cannot be applied, and the state is as it was."""
        ...


class Reducer:
    """A reducer: its name, its version, the types of events that it looks at, and where it starts.

    version: raise it when the meaning changes; snapshots also follow the code itself. types: names or globs of the only
    types that change the state, so that others need not be read; None for all. initial: the state before any event.
    starts_cheaply: whether starting a fold costs nothing, however large the state.
    """

    def __init__(
        self,
        name: str,
        version: int | str,
        step: Step,
        *,
        initial: Any = None,
        types: tuple[str, ...] | None = None,
        start_fold: Callable[[Any], Fold] | None = None,
        makes_json: bool = False,
        starts_cheaply: bool = True,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ReducerError(
                f"reducer name {name!r:.100} is not of the form [a-z][a-z0-9_.-]*, at most 64 characters"
            )
        if isinstance(version, bool) or not isinstance(version, (int, str)) or not 1 <= len(str(version)) <= 64:
            raise ReducerError(f"version {version!r:.100} of reducer {name!r} is neither an integer nor a short string")
        named = types is None or (isinstance(types, tuple) and all(isinstance(item, str) for item in types))
        if not named or types == () or not all(_TYPES.fullmatch(item) for item in types or ()):
            raise ReducerError(
                f"types {types!r:.100} of reducer {name!r} names no event types; write agent.tool_use, or agent.*"
            )
        self.name = name
        self.version = version
        self.types = types
        self._patterns = [glob_pattern(Glob(item)) for item in types or ()]
        self.step = step
        self._start_fold = start_fold
        self._makes_json = makes_json
        self.starts_cheaply = starts_cheaply
        self._initial = encode_state(initial)
        self._own = (step,) if start_fold is None else (step, start_fold)
        self._fingerprint: tuple[tuple[Any, ...], bytes] | None = None  # the upcasters that it was made with

    def __repr__(self) -> str:
        return f"<Reducer {self.name!r} version {self.version}>"

    def __call__(self, state: Any, event: Event) -> Any:
        """Give the state after an event."""
        return self.step(state, event)

    @property
    def builtin(self) -> bool:
        return self._start_fold is not None

    def looks_at(self, event_type: str) -> bool:
        """Tell whether events of a type may change the state."""
        return self.types is None or any(pattern.fullmatch(event_type) for pattern in self._patterns)

    def initial(self) -> Any:
        """Give the state before any event, the caller's own."""
        return decode_state(self._initial)

    def encode(self, state: Any) -> bytes:
        """Give a state's JSON bytes; ReducerError where it is not JSON. What JSON events gave to our own folds is not looked at."""
        return encode_plain(state) if self._makes_json else encode_state(state)

    def start(self, state: Any) -> Fold:
        """Start a fold from a state, which stays as it is."""
        return _StepFold(self, state) if self._start_fold is None else self._start_fold(state)

    def fingerprint(self) -> bytes:
        """Give 16 bytes that change with name, version, start, source and helpers, upcasters included."""
        upcasters = tuple(
            (event_type, version, UPCASTERS[event_type][version])
            for event_type in sorted(UPCASTERS)
            if self.looks_at(event_type)
            for version in sorted(UPCASTERS[event_type])
        )
        if self._fingerprint is None or self._fingerprint[0] != upcasters:
            declared = [self.name, str(self.version), self._initial.decode(), repr(self.types)]
            declared += [f"{event_type} {version}" for event_type, version, _ in upcasters]
            functions = [*self._own, *(function for _, _, function in upcasters)]
            self._fingerprint = (upcasters, fingerprint_code(declared, functions))
        return self._fingerprint[1]


class _StepFold:
    """Folds with a function, one event after another."""

    def __init__(self, reducer: Reducer, state: Any) -> None:
        self._step = reducer.step
        self.value = state

    def apply(self, event: Event) -> None:
        self.value = self._step(self.value, event)


_KNOWN: Final[dict[str, Reducer]] = {}


def reducer(
    name: str, version: int | str = 1, *, initial: Any = None, types: str | tuple[str, ...] | list[str] | None = None
) -> Callable[[Step], Reducer]:
    """Make a reducer of a function `(state, event) -> state`, and let it be known by its name.

    initial: the state before any event, any JSON value. types: the only types of events that it looks at, globs too.
    The function must change neither the state nor the event; `everlog.testing.check_reducer` sees to that in tests. It must
    not look at `event.session` and `event.branch`, which say where an event was read: forks share their states.
    A name used again is the newer one's, as when a module is loaded again; the names of built-in reducers are kept.
    """
    chosen = tuple(types) if isinstance(types, list) else (types,) if isinstance(types, str) else types

    def register(step: Step) -> Reducer:
        made = Reducer(name, version, step, initial=initial, types=chosen)
        return add_reducer(made)

    return register


def add_reducer(made: Reducer) -> Reducer:
    """Let a reducer be known by its name."""
    known = _KNOWN.get(made.name)
    if known is not None and known.builtin and not made.builtin:
        raise ReducerError(f"reducer {made.name!r} is built in; choose another name")
    _KNOWN[made.name] = made
    return made


def find_reducer(chosen: str | Reducer) -> Reducer:
    """Give a reducer by its name; ReducerError."""
    if isinstance(chosen, Reducer):
        return chosen
    known = _KNOWN.get(chosen) if isinstance(chosen, str) else None
    if known is None:
        raise ReducerError(
            f"there is no reducer {chosen!r:.100}; known: {' '.join(sorted(_KNOWN))}; import the module that makes yours first "
            "(on the command line: --reducers FILE.py)"
        )
    return known


def load_reducers(module: str) -> list[str]:
    """Import a module of reducers, by name or as a .py file; give the names that it made known. ReducerError."""
    before = dict(_KNOWN)
    try:
        if module.endswith(".py"):
            path = Path(module)
            spec = importlib.util.spec_from_file_location(f"everlog_user_{path.stem}", path)
            if spec is None or spec.loader is None:
                raise ReducerError(f"{module!r:.200} is no Python file; name one")
            loaded = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = loaded
            spec.loader.exec_module(loaded)
        else:
            importlib.import_module(module)
    except EverlogError:
        raise
    except Exception as error:
        raise ReducerError(
            f"the module {module!r:.200} cannot be loaded ({type(error).__name__}: {error}); correct it, or name another"
        ) from error
    return [name for name, made in _KNOWN.items() if before.get(name) is not made]


def encoded_state(reducer: Reducer, value: Any, *, session: str, size: int) -> bytes:
    """Give a state's JSON bytes, or raise a ReducerError that names the reducer and where."""
    try:
        return reducer.encode(value)
    except ReducerError as error:
        raise ReducerError(
            f"reducer {reducer.name!r} at {session!r}@{size}: {error.message}", event=error.event
        ) from None
