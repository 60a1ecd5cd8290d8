"""Databases of LangGraph's SqliteSaver: each thread becomes the session that EverlogSaver keeps for it.

1. Rows are taken apart as msgpack and put together again, and nothing that they name is imported or run: values of classes that are
   not installed here come along as they are.
2. A checkpoint that is recorded already is known, and so is a write of the same task and index. Importing again adds what is new.
3. What can only be read by running it (pickle), or with a key, is reported and left where it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from everlog.errors import EverlogError, InvalidEventError, UnsupportedStoreError
from everlog.importers.databases import columns_of, opened
from everlog.importers.record import Imported, Problem
from everlog.store import Store

if TYPE_CHECKING:
    import sqlite3

    from everlog.integrations.langgraph import EverlogSaver

FORMAT: Final = "langgraph"
PATTERNS: Final = ("*.sqlite", "*.sqlite3", "*.db")
_WHAT: Final = "LangGraph's SqliteSaver"
_TABLES: Final = {
    "checkpoints": frozenset(
        {"thread_id", "checkpoint_ns", "checkpoint_id", "parent_checkpoint_id", "type", "checkpoint", "metadata"}
    ),
    "writes": frozenset({"thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx", "channel", "type", "value"}),
}
_CHECKPOINTS: Final = """
    SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
      FROM checkpoints WHERE thread_id = ? ORDER BY checkpoint_id, checkpoint_ns"""
_WRITES: Final = """
    SELECT task_id, {task_path}, idx, channel, type, value FROM writes
     WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ? ORDER BY task_id, idx"""
_LOOSE: Final = """
    SELECT DISTINCT checkpoint_ns, checkpoint_id FROM writes AS w WHERE thread_id = ? AND NOT EXISTS (
        SELECT 1 FROM checkpoints AS c WHERE c.thread_id = w.thread_id AND c.checkpoint_ns = w.checkpoint_ns
           AND c.checkpoint_id = w.checkpoint_id)"""


def import_database(store: Store, path: Path) -> Iterator[Imported]:
    """Import a database, a thread at a time; give what became of each."""
    try:
        from everlog.integrations.langgraph import EverlogSaver
    except ImportError as error:
        raise UnsupportedStoreError(f"{error}; nothing of {path} was imported") from error
    with opened(path, _WHAT, _TABLES) as connection:
        saver = EverlogSaver(store)
        threads = "SELECT thread_id FROM checkpoints UNION SELECT thread_id FROM writes ORDER BY 1"
        for (thread,) in list(connection.execute(threads)):
            yield _Thread(saver, connection, path, str(thread)).take()


class _Thread:
    """One thread as it is being imported."""

    def __init__(self, saver: EverlogSaver, connection: sqlite3.Connection, path: Path, thread: str) -> None:
        self._saver = saver
        self._connection = connection
        self._path = path
        self._thread = thread
        path_column = "task_path" if "task_path" in columns_of(connection, "writes") else "''"
        self._writes_query = _WRITES.format(task_path=path_column)
        self._new = self._known = 0
        self._problems: list[Problem] = []

    def take(self) -> Imported:
        """Record every checkpoint with what was written after it, in the order of their ids."""
        for namespace, id, parent, type_, data, metadata in self._connection.execute(_CHECKPOINTS, (self._thread,)):
            try:
                _check(namespace, id, parent or "", type_, data=data)
                fields, values = self._saver.take_apart(type_, data)
                new = self._saver.restore(
                    self._thread,
                    namespace,
                    id,
                    parent=parent,
                    fields=fields,
                    metadata=json.loads(metadata or "{}"),
                    values=values,
                )
                self._count(new=new)
            except (EverlogError, ValueError, TypeError) as error:
                self._report(f"checkpoint {id}", error)
            self._take_writes(namespace, id)
        for namespace, id in self._connection.execute(_LOOSE, (self._thread,)):
            self._take_writes(namespace, id)
        return Imported(
            path=str(self._path),
            sessions=(self._saver.session(self._thread).id,) if self._new or self._known else (),
            events=self._new,
            known=self._known,
            problems=tuple(self._problems),
            problem_count=len(self._problems),
        )

    def _take_writes(self, namespace: str, id: str) -> None:
        place = (self._thread, namespace, id)
        for task, path, index, channel, type_, value in self._connection.execute(self._writes_query, place):
            try:
                _check(namespace, id, task, path or "", channel, type_, data=value or b"", number=index)
                if type_ == "pickle":
                    raise InvalidEventError("its value is pickled, and to read it is to run it")
                new = self._saver.restore_write(
                    *place, task_id=task, task_path=path or "", write=(index, channel, (type_, value or b""))
                )
            except (EverlogError, ValueError, TypeError) as error:
                self._report(f"write {index} of task {task} after checkpoint {id}", error)
                continue
            self._count(new=new)

    def _count(self, *, new: bool) -> None:
        self._new += new
        self._known += not new

    def _report(self, what: str, error: Exception) -> None:
        reason = f"{what} of thread {self._thread} is not imported: {error}"
        redactor = self._saver.store.settings.redactor
        reason = reason if redactor is None else redactor.marked(reason)
        self._problems.append(Problem(path=str(self._path), line=None, reason=reason))


def _check(*texts: object, data: object, number: object = 0) -> None:
    """Raise InvalidEventError where a row holds what SqliteSaver does not write."""
    if not (isinstance(data, bytes) and isinstance(number, int) and all(isinstance(text, str) for text in texts)):
        raise InvalidEventError("a column of its row holds another type than SqliteSaver writes")
