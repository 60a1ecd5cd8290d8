"""Waiting for what runs in a thread: whoever is cancelled meanwhile learns of it once that is done, one way or the other."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

T = TypeVar("T")


async def settled(running: asyncio.Future[T]) -> T:
    """Give what comes of something; raise CancelledError only once it is done."""
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
