"""EverlogSaver: LangGraph's checkpoints in Everlog, each thread a session that reads as a conversation.

1. What LangGraph asks of a `BaseCheckpointSaver` is kept to the letter, by the sync methods and the async ones, which do the same in
   a worker thread.
2. Nothing is pickled, and what is read is made again by the saver's own serializer, with its list of what may be.
3. A thread's id is its session's id; one that no session can have is hashed, and kept in the session's metadata.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, cast

from everlog.integrations.versions import require

require("langgraph-checkpoint", "langgraph", oldest="4.0", below="5")

from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    PendingWrite,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from everlog.errors import InvalidEventError, NotFoundError, SessionExistsError
from everlog.integrations import langgraph_codec as codec
from everlog.integrations.forked import Copied, begin_in_each_process
from everlog.integrations.holding import Holding, LeaseLike
from everlog.integrations.items import as_title
from everlog.integrations.langgraph_events import Reader, Record, positions_of
from everlog.integrations.langgraph_record import Write, fields_of, metadata_of
from everlog.integrations.langgraph_thread import Log
from everlog.integrations.memory import forget_oldest
from everlog.integrations.places import FRAMEWORK_LABEL, Place, hashed_id, id_of, store_at
from everlog.integrations.threads import begun, in_thread
from everlog.integrations.turns import WAIT_SECONDS, Turns
from everlog.session import Session, SessionInfo
from everlog.stores.sqlite.store import SqliteStorage

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

LABEL: Final = FRAMEWORK_LABEL
LABELLED: Final = "langgraph"
_LOGS_MAX: Final = 32  # threads that a saver remembers, with what their channels hold
_LOGS_BYTES_MAX: Final = 128 * 1024 * 1024  # of what these hold; of one thread, any
_PAGE: Final = 500  # sessions that are listed at once
_PLAIN: Final = JsonPlusSerializer()  # of metadata, which every saver keeps as JSON


class EverlogSaver(Copied, BaseCheckpointSaver[Any]):
    """Checkpoints of LangGraph in an Everlog store.

    `graph = builder.compile(checkpointer=EverlogSaver("agent.db"))`

    store: a path or URL as `everlog.open` takes it, which is then closed with the saver; or an open Store or AsyncStore, which is not.
    serde: by default JsonPlusSerializer, whose values are stored as JSON and messages as events; what another gives is stored as it is.
    lease: under which threads are written: a lease that is held, or who takes that of each until `close`: a name, or a Holder.
    compact: whether what a thread leaves behind is packed as it grows, as `Store.compact` would; only in SQLite, and not encrypted.
    """

    def __init__(
        self,
        store: Place | None = None,
        *,
        serde: SerializerProtocol | None = None,
        lease: LeaseLike | None = None,
        compact: bool = True,
    ) -> None:
        super().__init__(serde=serde)
        if getattr(self.serde, "pickle_fallback", False):
            raise ValueError(
                "the serializer may pickle what it cannot write otherwise, and whoever can write to a store of pickles can run "
                "code where it is read; nothing was opened; use JsonPlusSerializer() without pickle_fallback"
            )
        self._holding = Holding(lease)
        self.store, self._own = store_at(store)
        storage = self.store.storage
        self._packs = compact and isinstance(storage, SqliteStorage) and not storage.wrapping_keys()
        self._readable = type(self.serde) is JsonPlusSerializer
        self._turns = Turns(WAIT_SECONDS + self._holding.timeout)
        begin_in_each_process(self._begin)

    def _begin(self) -> None:
        """Remember nothing."""
        self._logs: OrderedDict[str, Log] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Give back the leases that were taken here; close the store, where this saver opened it."""
        try:
            self._holding.release()
        finally:
            if self._own:
                self.store.close()

    def __enter__(self) -> EverlogSaver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> EverlogSaver:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await in_thread(self.close)

    def session(self, thread_id: str) -> Session:
        """Give a thread's session, to read, search, fork and rewind; NotFoundError."""
        return self.store.session(session_id(str(thread_id)))

    # --- reading ---
    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Give the checkpoint that a config names, or the newest of its thread and namespace; None for none."""
        thread, namespace, checkpoint_id = _named(config)
        log = self._read(thread)
        if log is None:
            return None
        record = log.find(namespace, checkpoint_id) if checkpoint_id else next(log.checkpoints(namespace), None)
        return None if record is None else self._tuple(log, record, thread, Reader(log.session))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Give checkpoints, the newest first. config: None for those of all threads; without namespace those of all."""
        left = limit
        readers: dict[str, Reader] = {}
        for thread, log, record in self._records(config, None if before is None else get_checkpoint_id(before)):
            if left is not None and left <= 0:
                return
            metadata = self._plain(metadata_of(record.data)) if filter else {}
            if any(metadata.get(name) != value for name, value in (filter or {}).items()):
                continue
            if left is not None:
                left -= 1
            yield self._tuple(log, record, thread, readers.setdefault(thread, Reader(log.session)))

    def get_delta_channel_history(self, *, config: RunnableConfig, channels: Sequence[str]) -> Mapping[str, Any]:
        """Give, for each channel, what its nearest ancestor holds (`seed`) and what was written since (`writes`).

        As `BaseCheckpointSaver` says it, reading of each ancestor only what was written to these channels. Ancestors that are hidden
        count: so a pruned thread keeps what its newest checkpoint is made of.
        """
        thread, namespace, checkpoint_id = _named(config)
        found: dict[str, dict[str, Any]] = {channel: {"writes": []} for channel in channels}
        log = self._read(thread) if channels else None
        if log is None:
            return found
        record = log.find(namespace, checkpoint_id) if checkpoint_id else next(log.checkpoints(namespace), None)
        reader = Reader(log.session)
        if record is not None:
            reader.knows(record.event)
        left = set(channels)
        while left and record is not None and (parent := reader.parent(record)):
            record = log.find(namespace, parent, hidden=True)
            if record is None:
                break
            reader.knows(record.event)
            for write in reversed(log.writes_after(namespace, record.id, hidden=True)):
                if write.channel in left:
                    value = self.serde.loads_typed(reader.typed(write.tree, write.record))
                    found[write.channel]["writes"].append((write.task_id, write.channel, value))
            places = positions_of(record)
            for channel in left & places.keys():
                value = reader.value(places[channel], channel)
                found[channel]["seed"] = self.serde.loads_typed((value.type, value.data))
            left -= places.keys()
        for each in found.values():
            each["writes"].reverse()
        return found

    # --- writing ---
    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Record a checkpoint as the child of the one that the config names; give the config that names it.

        new_versions: says what LangGraph takes for new; what is recorded is what differs.
        """
        thread, namespace, parent = _named(config)
        fields = {name: value for name, value in checkpoint.items() if name not in ("id", "channel_values")}
        with self._turns.take(thread):
            values = {channel: self.serde.dumps_typed(value) for channel, value in checkpoint["channel_values"].items()}
            made = get_checkpoint_metadata(config, metadata)
            record = _checkpoint_record(namespace, checkpoint["id"], parent, fields=fields, metadata=made)
            self._write(thread, lambda log: log.put(record, values))
        return _config(config.get("configurable", {})["thread_id"], namespace, checkpoint["id"])

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Record what a task wrote after a checkpoint. The same task and index again count no more, but for special channels only."""
        if not writes:
            return
        thread, namespace, checkpoint_id = _named(config)
        if checkpoint_id is None:
            raise KeyError("the config has no checkpoint_id; nothing was written; give the config that `put` gave")
        place = namespace, checkpoint_id
        replaces = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        with self._turns.take(thread):
            made = [
                (WRITES_IDX_MAP.get(channel, index), channel, self.serde.dumps_typed(value))
                for index, (channel, value) in enumerate(writes)
            ]
            self._write(thread, lambda log: log.put_writes(place, task_id, task_path, made, replaces=replaces))

    def delete_thread(self, thread_id: str) -> None:
        """End a thread: what only it holds is destroyed. Where others were copied from it, they keep it, and it is hidden here."""
        name = session_id(str(thread_id))
        try:
            self.store.delete(name, reason="delete_thread of LangGraph")
        except NotFoundError:
            pass
        except SessionExistsError:
            self._write(str(thread_id), lambda log: log.prune(lambda: {"kept": []}))
        with self._lock:
            self._logs.pop(str(thread_id), None)

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Hide the checkpoints that these runs made, in every thread. Reads all threads. What is to be destroyed is erased."""
        runs = set(run_ids)
        for info in self._sessions() if runs else ():
            thread = _thread_id(info)
            log = self._read(thread)
            if log is not None:
                self._held(log).prune(lambda log=log: {"dropped": self._of_runs(log, runs)})

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Make a thread that holds all that another does: a fork, which costs the same whatever it holds.

        Where there is a thread of that name already, the other's checkpoints and writes are added to it.
        """
        source = self._read(str(source_thread_id))
        if source is None:
            return
        target = str(target_thread_id)
        try:
            source.session.fork(id=session_id(target), **_made_with(target))
        except SessionExistsError:
            self._copy_into(source, str(source_thread_id), target)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Hide all but the newest checkpoint of each namespace ("keep_latest"), or end the threads ("delete").

        What the newest needs of the others stays: also the ancestors that its delta channels are made of.
        """
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(
                f"strategy {strategy!r} is neither 'keep_latest' nor 'delete'; nothing was pruned; choose one"
            )
        for thread_id in thread_ids:
            if strategy == "delete":
                self.delete_thread(thread_id)
                continue
            log = self._read(str(thread_id))
            if log is not None:
                self._held(log).prune(lambda log=log: {"kept": self._latest(log)})

    def get_next_version(self, current: Any, channel: None) -> Any:
        """Give the version after one: counted; of the kind that the thread was begun with, where another saver began it."""
        if current is None:
            return 1
        if isinstance(current, str):
            number, _, rest = current.partition(".")
            return f"{int(number) + 1:0{len(number)}}" + (f".{rest}" if rest else "")
        return current + 1

    # --- what was stored elsewhere ---
    def take_apart(self, type_: str | None, data: bytes) -> tuple[dict[str, Any], dict[str, tuple[str, bytes]]]:
        """Give a checkpoint that another saver stored whole: its fields but id and values, and its values as they are serialized.

        Nothing that it names is imported. Raises InvalidEventError where it cannot be taken apart.
        """
        if type_ == "json":
            whole = codec.unpack(_PLAIN.dumps_typed(_PLAIN.loads_typed((type_, data)))[1])
        elif type_ == codec.MSGPACK:
            whole = codec.unpack(data)
        else:
            raise InvalidEventError(
                f"it is stored as {type_!r}, which is read only by running it, or with a key; it stays where it is"
            )
        if not isinstance(whole, dict):
            raise InvalidEventError("it is no object; it stays where it is")
        values = {channel: _typed(value) for channel, value in whole.pop("channel_values", {}).items()}
        whole.pop("id", None)
        return _PLAIN.loads_typed((codec.MSGPACK, codec.pack(whole))), values

    def restore(
        self,
        thread: str,
        namespace: str,
        id: str,
        *,
        parent: str | None,
        fields: Mapping[str, Any],
        metadata: Mapping[str, Any],
        values: Mapping[str, tuple[str, bytes]],
        hidden: bool = True,
    ) -> bool:
        """Record a checkpoint that was stored elsewhere; False where the thread has one of this id. hidden: also where it was pruned."""
        log = self._read(thread)
        if log is not None and log.find(namespace, id, hidden=hidden) is not None:
            return False
        record = _checkpoint_record(namespace, id, parent, fields=fields, metadata=metadata)
        self._write(thread, lambda log: log.put(record, values, restored=True))
        return True

    def restore_write(
        self,
        thread: str,
        namespace: str,
        id: str,
        *,
        task_id: str,
        task_path: str,
        write: tuple[int, str, tuple[str, bytes]],
    ) -> bool:
        """Record a pending write that was stored elsewhere: (index, channel, value); False where there is one of its task and index."""
        new: list[bool] = []

        def put(log: Log) -> None:
            new.append(log.put_writes((namespace, id), task_id, task_path, [write], replaces=False))

        self._write(thread, put)
        return new[-1]

    # --- the same, on an event loop ---
    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See `get_tuple`."""
        return await begun(self.get_tuple, config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """See `list`."""
        found = self.list(config, filter=filter, before=before, limit=limit)
        while (each := await begun(next, found, None)) is not None:
            yield each

    async def aget_delta_channel_history(self, *, config: RunnableConfig, channels: Sequence[str]) -> Mapping[str, Any]:
        """See `get_delta_channel_history`."""
        return await begun(self.get_delta_channel_history, config=config, channels=channels)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """See `put`."""
        return await in_thread(self.put, config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """See `put_writes`."""
        await in_thread(self.put_writes, config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        """See `delete_thread`."""
        await in_thread(self.delete_thread, thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """See `delete_for_runs`."""
        await in_thread(self.delete_for_runs, run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """See `copy_thread`."""
        await in_thread(self.copy_thread, source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """See `prune`."""
        await in_thread(lambda: self.prune(thread_ids, strategy=strategy))

    # --- underneath ---
    def _read(self, thread: str) -> Log | None:
        """Give a thread's log as it is now; None where there is no such thread."""
        for _ in range(2):  # once more where the session was deleted, and perhaps made again, since it was opened
            try:
                log = self._log(thread, make=False)
                log.refresh()
            except NotFoundError:
                with self._lock:
                    self._logs.pop(thread, None)
            else:
                return log
        return None

    def _write(self, thread: str, write: Callable[[Log], object]) -> None:
        try:
            log = self._held(self._log(thread, make=True))
            write(log)
        except NotFoundError:  # deleted since it was opened
            with self._lock:
                self._logs.pop(thread, None)
            log = self._held(self._log(thread, make=True))
            write(log)
        if self._packs:
            log.pack_past()

    def _held(self, log: Log) -> Log:
        self._holding.hold(log.session)
        return log

    def _log(self, thread: str, *, make: bool) -> Log:
        session, log = None, self._logs.get(thread)
        if log is None or (make and not log.listed):
            session = self._opened(thread) if make else self.store.session(session_id(thread))
        with self._lock:
            log = self._logs.get(thread, log)
            if session is not None and (log is None or log.session.uuid != session.uuid):
                log = Log(session, readable=self._readable)
            assert log is not None, "there was one, or its session was opened"
            log.listed = log.listed or make
            self._logs[thread] = log
            self._logs.move_to_end(thread)
            forget_oldest(self._logs, _LOGS_MAX, _LOGS_BYTES_MAX)
            return log

    def _opened(self, thread: str) -> Session:
        """Open a thread's session to write to it, which makes it one that is listed."""
        session = self.store.get_or_create(session_id(thread), **_made_with(thread))
        labels = session.info().labels
        if labels.get(LABEL) != LABELLED:  # made by hand, or by a fork
            self._holding.hold(session)
            session.update(labels=labels | {LABEL: LABELLED})
        return session

    def _sessions(self) -> Iterator[SessionInfo]:
        after = None
        while True:
            page = self.store.sessions(f"label.{LABEL}:{LABELLED}", order="id", limit=_PAGE, after=after)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1]

    def _records(self, config: RunnableConfig | None, before: str | None) -> Iterator[tuple[str, Log, Record]]:
        """Give the checkpoints that a config may name, greatest id first."""
        if config is None:
            threads = [self._of_thread(_thread_id(info), None, before) for info in self._sessions()]
            yield from heapq.merge(*threads, key=lambda each: each[2].id, reverse=True)
            return
        configurable: dict[str, Any] = config.get("configurable", {})
        namespace, checkpoint_id = configurable.get("checkpoint_ns"), get_checkpoint_id(config)
        for each in self._of_thread(str(configurable["thread_id"]), namespace, before):
            if not checkpoint_id or each[2].id == checkpoint_id:
                yield each
            elif each[2].id < checkpoint_id:
                return

    def _of_thread(self, thread: str, namespace: str | None, before: str | None) -> Iterator[tuple[str, Log, Record]]:
        log = self._read(thread)
        if log is not None:
            yield from ((thread, log, record) for record in log.checkpoints(namespace, before=before))

    def _tuple(self, log: Log, record: Record, thread: str, reader: Reader) -> CheckpointTuple:
        reader.knows(record.event)
        values: dict[str, Any] = {}
        for channel, position in positions_of(record).items():
            type_, data = log.packed(record.namespace, channel, position, reader)
            values[channel] = self.serde.loads_typed((type_, data))
        checkpoint = self._plain(fields_of(record.data)) | {"id": record.id, "channel_values": values}
        parent = reader.parent(record)
        return CheckpointTuple(
            _config(thread, record.namespace, record.id),
            cast("Checkpoint", checkpoint),
            cast("CheckpointMetadata", self._plain(metadata_of(record.data))),
            _config(thread, record.namespace, parent) if parent else None,
            [self._pending(write, reader) for write in log.writes(record)],
        )

    def _pending(self, write: Write, reader: Reader) -> PendingWrite:
        return write.task_id, write.channel, self.serde.loads_typed(reader.typed(write.tree, write.record))

    def _plain(self, tree: Any) -> dict[str, Any]:
        plain = tree if codec.is_json(tree) else codec.from_json(tree, codec.no_message)
        return _PLAIN.loads_typed(codec.typed_from_json(tree) or (codec.MSGPACK, codec.pack(plain)))

    def _of_runs(self, log: Log, runs: set[str]) -> list[int]:
        """Give the positions of the checkpoints that runs made, and of what was recorded under their ids before."""
        found = [each for each in log.checkpoints(None) if self._plain(metadata_of(each.data)).get("run_id") in runs]
        return sorted(position for each in found for position in log.positions(each.namespace, each.id))

    def _latest(self, log: Log) -> list[int]:
        """Give the positions of the newest checkpoint of each namespace."""
        latest: dict[str, int] = {}
        for record in log.checkpoints(None):
            latest.setdefault(record.namespace, record.position)
        return sorted(latest.values())

    def _copy_into(self, source: Log, thread: str, target: str) -> None:
        for record in reversed(list(source.checkpoints(None))):
            reader = Reader(source.session)
            reader.knows(record.event)
            values = {
                channel: source.packed(record.namespace, channel, position, reader)
                for channel, position in positions_of(record).items()
            }
            place = (target, record.namespace, record.id)
            fields, metadata = self._plain(fields_of(record.data)), self._plain(metadata_of(record.data))
            parent = reader.parent(record)
            self.restore(*place, parent=parent, fields=fields, metadata=metadata, values=values, hidden=False)
            for write in source.writes(record):
                typed = reader.typed(write.tree, write.record)
                self.restore_write(
                    *place, task_id=write.task_id, task_path=write.task_path, write=(write.index, write.channel, typed)
                )


def session_id(thread_id: str) -> str:
    """Give the id of the session that holds a thread: the thread's own, where a session may have it and no memory of LangGraph's does."""
    return hashed_id(thread_id) if thread_id.startswith("langgraph-store") else id_of(thread_id)


def _made_with(thread: str) -> dict[str, Any]:
    made: dict[str, Any] = {"labels": {LABEL: LABELLED}}
    return (
        made if session_id(thread) == thread else made | {"title": as_title(thread), "metadata": {"thread_id": thread}}
    )


def _thread_id(info: SessionInfo) -> str:
    named = info.metadata.get("thread_id")
    return named if isinstance(named, str) and session_id(named) == info.id else info.id


def _named(config: RunnableConfig) -> tuple[str, str, str | None]:
    """Give what a config names: thread, namespace, checkpoint."""
    configurable: dict[str, Any] = config.get("configurable", {})
    return str(configurable["thread_id"]), str(configurable.get("checkpoint_ns", "")), get_checkpoint_id(config)


def _config(thread: str, namespace: str, checkpoint_id: str | None) -> RunnableConfig:
    named = {"thread_id": thread, "checkpoint_ns": namespace}
    return {"configurable": named if checkpoint_id is None else named | {"checkpoint_id": checkpoint_id}}


def _checkpoint_record(
    namespace: str, id: str, parent: str | None, *, fields: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Give what a checkpoint's record says beside its values; what is usual is left out."""
    record = {"id": id} | ({"ns": namespace} if namespace else {}) | ({"parent": parent} if parent else {})
    return record | {"checkpoint": _plain_json(dict(fields)), "metadata": _plain_json(dict(metadata))}


def _typed(value: Any) -> tuple[str, bytes]:
    """Give an unpacked value as a serializer gives it by itself."""
    if value is None:
        return "null", b""
    return ("bytes", value) if isinstance(value, bytes) else (codec.MSGPACK, codec.pack(value))


def _plain_json(value: Any) -> Any:
    """Give a plain value, as metadata is, as JSON."""
    if codec.is_json(value):
        return value
    type_, data = _PLAIN.dumps_typed(value)
    try:
        return codec.to_json(codec.unpack(data), _as_it_is)
    except codec.Unsayable:
        return codec.typed_to_json(type_, data)


def _as_it_is(_: Any) -> None:
    return None
