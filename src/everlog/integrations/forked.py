"""What integrations lock and remember is one process's: a child that is forked begins anew, whoever held a lock when it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from typing import Any, Self
from weakref import WeakMethod

_numbers = count()  # not the objects themselves: those of a user's subclass may be equal, or have no hash
_beginnings: dict[int, WeakMethod[Callable[[], Any]]] = {}


def begin_in_each_process(begin: Callable[[], None]) -> None:
    """Call a method now, and in each child that is forked: threads that held locks are not there, and nobody would let go of them.

    begin: sets the locks of its object, and what is remembered under them, as they are when nothing was done yet.
    """
    begin()
    number = next(_numbers)
    _beginnings[number] = WeakMethod(begin, lambda _: _beginnings.pop(number, None))


class Copied:
    """What a framework copies, as LangGraph does a saver: the copy begins by itself, or nobody would begin it in a child."""

    def _begin(self) -> None:
        raise NotImplementedError

    def __copy__(self) -> Self:
        copy = object.__new__(type(self))
        vars(copy).update(vars(self))
        begin_in_each_process(copy._begin)
        return copy


def _begin_all() -> None:
    for each in list(_beginnings.values()):
        if (begin := each()) is not None:
            begin()


os.register_at_fork(after_in_child=_begin_all)
