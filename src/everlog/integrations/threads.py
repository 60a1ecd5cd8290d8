"""Threads that the integrations wait for the disk in: their own, since a program may have filled those that asyncio gives to all.

1. They are one process's: a child that is forked has none of them, and begins anew.
2. Whoever is cancelled while something is written learns of it once that is done, one way or the other. Who reads learns of it at once.
3. A scope of anyio's cancels again at every turn of its loop, so it is kept out until what is written is done; the next `await` behind that
   tells of it.
4. Where a call fails, nothing holds it, and what it was given, once its error was handled: no frame of the error's traceback holds the future
   that holds the error. A cycle would keep it until Python looks for those, which counts objects and not bytes.
5. Trio's programs wait in the same threads. No integration brings trio: where there is a task of its, it is there.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Generator
from concurrent.futures import Future as Submitted
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
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


def submitted(call: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> Submitted[T]:
    """Begin a blocking call in a thread, in the caller's context. They get threads in this order.

    RuntimeError, and nothing was begun: neither asyncio's loop nor trio's runs here, or the interpreter ends.
    """
    if _trio_here() is None:
        asyncio.get_running_loop()
    return _threads.pool.submit(copy_context().run, partial(call, *args, **keywords))


def begun(call: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> asyncio.Future[T]:
    """As `submitted`, on asyncio's loop: for what only reads, as whoever is cancelled learns of it at once."""
    return asyncio.wrap_future(submitted(call, *args, **keywords))


async def in_thread(call: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
    """Give what a blocking call gives that runs in a thread; raise CancelledError only once it is done."""
    return await finished(submitted(call, *args, **keywords))


async def read_in_thread(call: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
    """As `in_thread`, of what only reads: whoever is cancelled learns of it at once."""
    if (trio := _trio_here()) is None:
        return await begun(call, *args, **keywords)
    return await _on_trio(trio, submitted(call, *args, **keywords))


async def finished(running: Submitted[T]) -> T:
    """Give what comes of something that was submitted; raise CancelledError only once it is done."""
    # No task, as `to_thread` needs one: those are all cancelled where a loop ends.
    try:
        if (trio := _trio_here()) is None:
            return await settled(asyncio.wrap_future(running))
        with trio.CancelScope(shield=True):
            return await _on_trio(trio, running)
    finally:
        del running


async def settled(running: asyncio.Future[T]) -> T:
    """Give what comes of something that was begun; raise CancelledError only once it is done."""
    cancelled = await until_done(running)
    try:
        if cancelled is not None:
            running.exception()  # it was looked at
            raise cancelled
        return running.result()
    finally:
        del running, cancelled


async def until_done(running: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until something is done; give with what the caller was cancelled meanwhile, which is then to be raised."""
    cancelled: asyncio.CancelledError | None = None
    with _no_scope_cancels():
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError as error:
                cancelled = cancelled or error.with_traceback(None)
    return cancelled


@contextmanager
def _no_scope_cancels() -> Generator[None]:
    """Keep out the scopes of anyio's; where nobody imported it, or another thread is about to, there are none."""
    scopes: Any = getattr(sys.modules.get("anyio"), "CancelScope", None)
    scope = nullcontext() if scopes is None else scopes(shield=True)
    scope.__enter__()
    try:
        yield
    finally:
        with suppress(RuntimeError):  # where this is dropped, its loop may be gone
            scope.__exit__(None, None, None)


def _trio_here() -> Any:
    """Give trio, where the caller is a task of its; None on any other loop, also on one that trio is a guest of."""
    trio: Any = sys.modules.get("trio")
    # Another thread may be about to import it, and it has nothing yet.
    in_task = getattr(getattr(trio, "lowlevel", None), "in_trio_task", None)
    return trio if in_task is not None and in_task() else None


async def _on_trio(trio: Any, running: Submitted[T]) -> T:
    token, done = trio.lowlevel.current_trio_token(), trio.Event()

    def tell(_: Any) -> None:
        with suppress(trio.RunFinishedError):  # nobody waits any more
            token.run_sync_soon(done.set)

    running.add_done_callback(tell)
    await done.wait()
    try:
        return running.result()
    finally:
        del running
