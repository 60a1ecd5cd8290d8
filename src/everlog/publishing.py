"""Sending a seal on to where whoever holds the store cannot change it: object storage, a web address, a file elsewhere."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

from everlog.errors import UnavailableError, UnsupportedStoreError
from everlog.seals import append_seal

SECONDS_MAX: Final = 10.0  # that a place may take to begin its answer, and again to end it: the seal is made by then
ANSWER_BYTES_MAX: Final = 64 * 1024
_OBJECTS: Final = ("s3://", "gs://", "az://", "file://")


def publish(place: str, note: bytes, *, origin: str, size: int) -> None:
    """Send a seal to a place; UnavailableError where it does not take it.

    https://…: posted, as text. s3://bucket/prefix, gs://…, az://…, file:///folder: an object of its own, named by origin and size. Else a file, to which
    it is appended behind an empty line.
    """
    if place.startswith(("http://", "https://")):
        _post(place, note)
    elif place.startswith(_OBJECTS):
        _put(place, f"{origin}/{size:016d}.note", note)
    else:
        append_seal(Path(place), note)


def ask(url: str, content: bytes, *, content_type: str) -> bytes:
    """Post to a web address; give the answer, of a long one the first ANSWER_BYTES_MAX.

    Raises OSError, ValueError or HTTPException where there is none, or one that says that it did not take it.
    """
    request = Request(url, content, {"Content-Type": content_type}, method="POST")  # noqa: S310  # http and https only
    with urlopen(request, timeout=SECONDS_MAX) as answer:  # noqa: S310
        due = time.monotonic() + SECONDS_MAX  # of the whole: the timeout above is that of each byte
        found = b""
        while len(found) < ANSWER_BYTES_MAX and (part := answer.read1(ANSWER_BYTES_MAX - len(found))):
            found += part
            if time.monotonic() > due:
                raise TimeoutError(f"its answer was not whole after {SECONDS_MAX:.0f} seconds")
        return found


def _post(url: str, note: bytes) -> None:
    try:
        ask(url, note, content_type="text/plain; charset=utf-8")
    except (OSError, ValueError, HTTPException) as error:
        raise UnavailableError(
            f"{url} did not take the seal ({error}); it is kept in seals.txt: send it from there; the next one is sent again"
        ) from error


def _put(url: str, name: str, content: bytes) -> None:
    try:
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ModuleNotFoundError:
        raise UnsupportedStoreError(
            f"to send seals to {url} obstore is needed; the seal is made; install it: pip install 'everlog[archive]'"
        ) from None
    wait = timedelta(seconds=SECONDS_MAX)
    client: Any = {"timeout": wait}
    if os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true":  # the library reads it only where no option is given
        client["allow_http"] = True
    retry: Any = {"max_retries": 2, "retry_timeout": wait}
    try:
        obstore.put(from_url(url, client_options=client, retry_config=retry), name, content)
    except (BaseError, ValueError, OSError) as error:  # whose words may hold the id of a key
        raise UnavailableError(
            f"{url} did not take the seal ({type(error).__name__}); it is kept in seals.txt; see credentials and that place"
        ) from error
