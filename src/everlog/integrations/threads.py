"""Threads that the integrations wait for the disk in: their own, since a program may have filled those that asyncio gives to all.

1. They are one process's: a child that is forked has none of them, and begins anew.
2. Whoever is cancelled while something is written learns of it once that is done, one way or the other. Who reads learns of it at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

_THREADS: Final = 16  # as many sessions append at once

P = ParamSpec("P")
T = TypeVar("T")


class _Threads:
    """The threads of this process. None is begun before there is something for it."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="everlog-integration")


_threads = _Threads()
os.register_at_fork(after_in_child=_threads.begin)


def begun(call: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> asyncio.Future[T]:
    """Begin a blocking call in a thread, in the caller's context. RuntimeError: no loop runs, or the interpreter ends."""
    work = partial(copy_context().run, call, *args, **keywords)
    return asyncio.get_running_loop().run_in_executor(_threads.pool, work)


async def in_thread(call: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
    """Give what a blocking call gives that runs in a thread; raise CancelledError only once it is done."""
    # No task, as `to_thread` needs one: those are all cancelled where a loop ends.
    return await settled(begun(call, *args, **keywords))


async def settled(running: asyncio.Future[T]) -> T:
    """Give what comes of something that was begun; raise CancelledError only once it is done."""
    cancelled = await until_done(running)
    if cancelled is not None:
        running.exception()  # it was looked at
        raise cancelled
    return running.result()


async def until_done(running: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until something is done; give with what the caller was cancelled meanwhile, which is then to be raised."""
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = cancelled or error
    return cancelled
