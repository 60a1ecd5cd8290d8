"""Archiving: blocks move to object storage, are read from there as if they were here, and can be brought home.

1. A block leaves the store only when the object that holds it was written, read back whole and compared. What fails before leaves the
   store as it was.
2. An object has a row before it has bytes, and keeps it until its bytes are gone: what a crash left half done, the next archive,
   restore or erasure finishes.
3. What was erased or deleted is destroyed in objects too: the object is brought home without it, and removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from everlog.cold import Archive, BringHome, ForgetObject, GiveUpObject, ObjectRow, OpenObject, StoredBlock
from everlog.compacting import cutoff_of, give_back
from everlog.core.prepare import Draw
from everlog.errors import EverlogError, UnsupportedStoreError
from everlog.storage import Storage

OLDER_THAN: Final = "90d"
OBJECT_BYTES: Final = 4 * 1024 * 1024  # fetched whole for one event in it: a tenth of a second on a good line
_SCHEMES: Final = ("s3", "gs", "az", "file")
_BLOCKS: Final = 500  # listed at once
_ABANDONED_MICROS: Final = 10 * 60 * 1_000_000  # after which nobody writes an object any more: 4 MiB take seconds


class Archived(msgspec.Struct, frozen=True):
    """What archiving or restoring moved, or with dry_run would move.

    bytes: stored. removed: objects that nothing needs any more. given_back: bytes of free space that went back to the system.
    """

    blocks: int
    bytes: int
    objects: int
    removed: int
    given_back: int
    dry_run: bool


def archive_store(
    storage: Storage,
    draw: Draw,
    url: str,
    *,
    older_than: float | str = OLDER_THAN,
    session: int | None = None,
    wanted: Callable[[StoredBlock], bool] = lambda _: True,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Archived:
    """Move blocks of older events to a place for objects. See `Store.archive`. session: its key, or None for all. wanted: tells which."""
    url = check_url(url)
    before = cutoff_of(storage, older_than)
    blocks = moved = objects = 0
    for bucket in storage.all_buckets():
        for chosen in _by_object(filter(wanted, blocks_here(storage, bucket, before, session))):
            count, size = len(chosen), sum(block.size for block in chosen)
            if not dry_run:
                count, size = _move(storage, draw, url, bucket, chosen)
            blocks += count
            moved += size
            objects += 1
            if progress is not None:
                progress(blocks)
    removed = 0 if dry_run else finish(storage)
    given_back = 0 if dry_run else give_back(storage)
    return Archived(blocks, moved, objects, removed, given_back, dry_run)


def check_url(url: str) -> str:
    """Give the url of a place for objects, without a slash at its end. url: or a folder. UnsupportedStoreError where it is none."""
    if "://" not in url and url:
        url = Path(url).resolve().as_uri()
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UnsupportedStoreError(
            "the archive's url holds a user, a query or a fragment, and it is written down in the store; nothing was done; give the "
            "bare url, and credentials in the environment (AWS_ACCESS_KEY_ID and the like)"
        )
    if parts.scheme not in _SCHEMES or not (parts.netloc or parts.scheme == "file"):
        raise UnsupportedStoreError(
            f"{url!r:.200} is no place for an archive; nothing was done; give s3://bucket/prefix, gs://…, az://…, or a folder"
        )
    return url.rstrip("/")


def blocks_here(storage: Storage, bucket: int, before: int, session: int | None = None) -> Iterator[StoredBlock]:
    """Give the blocks in the store itself whose events are all older. before: microseconds. session: its key, or None for all."""
    after = -1
    while page := storage.blocks(bucket, after, before, session, _BLOCKS):
        yield from page
        after = page[-1].key


def _by_object(blocks: Iterator[StoredBlock]) -> Iterator[list[StoredBlock]]:
    chosen: list[StoredBlock] = []
    for block in blocks:
        if chosen and sum(each.size for each in chosen) + block.size > OBJECT_BYTES:
            yield chosen
            chosen = []
        chosen.append(block)
    if chosen:
        yield chosen


def _move(storage: Storage, draw: Draw, url: str, bucket: int, chosen: list[StoredBlock]) -> tuple[int, int]:
    """Write blocks to one object and take them out of the store; give how many, and their bytes."""
    contents = bytearray()
    places: list[tuple[int, bytes, int]] = []
    sizes: dict[int, int] = {}
    for block in chosen:
        content = storage.block_content(block)
        if content is not None:
            places.append((block.key, block.checksum, len(contents)))
            sizes[block.key] = len(content)
            contents += content
    if not places:
        return 0, 0
    id = draw(16)
    row = ObjectRow(
        id=id,
        bucket=bucket,
        url=url,
        name=f"{storage.id}/{id.hex()}.blocks",
        size=len(contents),
        checksum=sha256(contents).digest(),
        state="writing",
        made=storage.now(),
    )
    storage.write(OpenObject(row))
    try:
        storage.put_object(row, bytes(contents))
    except UnsupportedStoreError:
        storage.write(ForgetObject(id, bucket))  # nothing can have been written there
        raise
    except BaseException:
        with suppress(EverlogError):  # what cannot be removed now keeps its row, and is removed later
            _remove(storage, row)
        raise
    count = storage.write(Archive(id, bucket, tuple(places))).count
    return count, len(contents) if count == len(places) else 0


def restore_store(
    storage: Storage,
    *,
    session: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Archived:
    """Bring blocks home from object storage. See `Store.restore`. session: its key, or None for all.

    Goes on past an object that fails, and raises the first failure then.
    """
    blocks = size = objects = 0
    failed: EverlogError | None = None
    for row in storage.objects(session):
        if row.state in ("kept", "tainted"):
            try:
                count = _bring_home(storage, row)
            except EverlogError as error:
                failed = failed or _unless_done(storage, row, error)
                continue
            blocks += count
            size += row.size if count else 0
            objects += 1
            if progress is not None:
                progress(blocks)
    removed = objects + finish(storage)
    if failed is not None:
        raise failed
    return Archived(blocks, size, objects, removed, 0, dry_run=False)


def finish(storage: Storage) -> int:
    """Finish what was begun: remove objects that nothing needs or nobody finished writing, and rid others of what was destroyed.

    Gives how many objects went. Goes on past one that fails, and raises the first failure then.
    """
    failed: EverlogError | None = None
    removed = 0
    for row in storage.objects():
        if row.state == "kept" or (row.state == "writing" and row.made > storage.now() - _ABANDONED_MICROS):
            continue
        try:
            if row.state == "tainted":
                _bring_home(storage, row)
            elif row.state == "writing" and not storage.write(GiveUpObject(row.id, row.bucket)).count:
                continue  # its writer is back, and was quicker
            else:
                _remove(storage, row)
            removed += 1
        except EverlogError as error:
            failed = failed or _unless_done(storage, row, error)
    if failed is not None:
        raise failed
    return removed


def _unless_done(storage: Storage, row: ObjectRow, error: EverlogError) -> EverlogError | None:
    """Give what went wrong with an object, but None where another process has meanwhile done with it what was to be done."""
    return error if any(each.id == row.id and each.state == row.state for each in storage.objects()) else None


def _bring_home(storage: Storage, row: ObjectRow) -> int:
    count = storage.write(BringHome(row.id, row.bucket, storage.get_object(row))).count
    _remove(storage, row)
    return count


def _remove(storage: Storage, row: ObjectRow) -> None:
    storage.remove_object(row)
    storage.write(ForgetObject(row.id, row.bucket))
