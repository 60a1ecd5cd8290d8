"""What integrations lock and remember is one process's: a child that is forked begins anew, whoever held a lock when it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import MethodType
from typing import Any, cast
from weakref import WeakKeyDictionary

_beginnings: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()


def begin_in_each_process(begin: Callable[[], None]) -> None:
    """Call a method now, and in each child that is forked: threads that held locks are not there, and nobody would let go of them.

    begin: sets the locks of its object, and what is remembered under them, as they are when nothing was done yet.
    """
    begin()
    method = cast("MethodType", begin)
    _beginnings[method.__self__] = method.__func__


def _begin_all() -> None:
    for each, begin in list(_beginnings.items()):
        begin(each)


os.register_at_fork(after_in_child=_begin_all)
