"""EverlogStore: LangGraph's long-term memory in Everlog, each namespace a session.

1. What LangGraph asks of a `BaseStore` is kept: reads of a batch see what was there before it, and its puts to one namespace are one
   append. What a key held before stays in the session: `log` shows it, and `rewind` brings it back.
2. An item is `memory.put` {key, value, created?}; `memory.deleted` {key} hides it. Its vectors, where an index is configured, are
   attached as 32-bit floats.
3. Without an index a search orders by how many of the query's words an item says, then by which was written last.
"""

from __future__ import annotations

import re
import sys
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha256
from types import TracebackType
from typing import Any, Final, cast

from everlog.integrations.versions import require

require("langgraph-checkpoint", "langgraph", oldest="4.0", below="5")

from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    ensure_embeddings,
    get_text_at_path,
    tokenize_path,
)

from everlog.core.event import Event, NewEvent
from everlog.core.limits import SESSION_ID_CHARACTERS_MAX, TITLE_CHARACTERS_MAX
from everlog.core.position import from_micros
from everlog.core.prepare import prepare_batch
from everlog.errors import NotFoundError
from everlog.integrations.forked import begin_in_each_process
from everlog.integrations.memory import forget_oldest
from everlog.integrations.places import FRAMEWORK_LABEL, Place, store_at
from everlog.integrations.threads import in_thread
from everlog.session import Session, SessionInfo

PUT: Final = "memory.put"
DELETED: Final = "memory.deleted"
LABELS: Final = {FRAMEWORK_LABEL: "langgraph-store"}
_NAMED: Final = "langgraph-store:"  # and the namespace's labels, with dots between, as none holds one
_HASHED: Final = "langgraph-store#"
_SHELVES_MAX: Final = 256  # namespaces whose items are remembered
_SHELVES_BYTES_MAX: Final = 64 * 1024 * 1024  # of their items as stored, which take more; of one namespace, any
_PAGE: Final = 500  # sessions that are listed at once
_WORD: Final = re.compile(r"\w+")
_BY_NUMBER: Final = {
    "$gt": lambda one, other: one > other,
    "$gte": lambda one, other: one >= other,
    "$lt": lambda one, other: one < other,
    "$lte": lambda one, other: one <= other,
}

Namespace = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Kept:
    """An item, the bytes of its event, and the vectors of its texts."""

    item: Item
    held: int
    vectors: Sequence[Sequence[float]] = ()


@dataclass(slots=True)
class _Shelf:
    """What a namespace holds, as far as its session was read. Newest last."""

    session: Session
    namespace: Namespace
    lock: threading.Lock = field(default_factory=threading.Lock)
    branch: str = ""
    size: int = 0
    erasures: int = 0
    kept: dict[str, _Kept] = field(default_factory=dict[str, _Kept])
    held: int = 0  # bytes of all

    def read(self) -> dict[str, _Kept]:
        """Give the items as they are now."""
        with self.lock:
            size = self.session.refresh().size
            erasures = self.session.storage.erasures(self.session.view().branch.key)
            if (self.session.branch_id, erasures) != (self.branch, self.erasures) or size < self.size:
                self.branch, self.erasures, self.size, self.kept = self.session.branch_id, erasures, 0, {}
                self.held = 0
            for event in self.session.events(start=self.size, stop=size, types=(PUT, DELETED)):
                self._take(event)
            self.size = size
            return dict(self.kept)

    def _take(self, event: Event) -> None:
        if not isinstance(event.data, dict):
            return  # erased: what was there before it counts
        key = event.data["key"]
        before = self.kept.pop(key, None)
        self.held -= 0 if before is None else before.held
        if event.type == PUT:
            updated = event.recorded_at
            created = updated if before is None else before.item.created_at
            if "created" in event.data and before is None:
                created = from_micros(event.data["created"])
            item = Item(
                value=event.data["value"], key=key, namespace=self.namespace, created_at=created, updated_at=updated
            )
            kept = _Kept(
                item, len(event.raw or b"") + sum(each.size for each in event.attachments), _read_vectors(event)
            )
            self.kept[key] = kept
            self.held += kept.held


class EverlogStore(BaseStore):
    """Long-term memory of LangGraph in an Everlog store.

    `graph = builder.compile(checkpointer=EverlogSaver(store), store=EverlogStore(store))`

    store: as EverlogSaver takes it. index: as InMemoryStore takes it: {"embed", "dims", "fields"}; searches are then by meaning.
    """

    def __init__(self, store: Place | None = None, *, index: IndexConfig | None = None) -> None:
        self.store, self._own = store_at(store)
        self.embeddings = None if index is None else ensure_embeddings(index.get("embed"))
        self._fields: Sequence[str] = ["$"] if index is None else (index.get("fields") or ["$"])
        begin_in_each_process(self._begin)

    def _begin(self) -> None:
        """Remember nothing."""
        self._shelves: OrderedDict[Namespace, _Shelf] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the store, where this opened it."""
        if self._own:
            self.store.close()

    def __enter__(self) -> EverlogStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> EverlogStore:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await in_thread(self.close)

    def session(self, namespace: Namespace) -> Session:
        """Give a namespace's session, to read, search, fork and rewind; NotFoundError."""
        return self.store.session(session_id(namespace))

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry operations out; give their results in order. Reads see what was there before the batch's puts."""
        asked = list(ops)
        texts = self._texts(asked)
        vectors = self.embeddings.embed_documents(texts) if self.embeddings is not None and texts else []
        queries = self._queries(asked)
        meant = [self.embeddings.embed_query(query) for query in queries] if self.embeddings is not None else []
        return self._run(asked, dict(zip(texts, vectors, strict=True)), dict(zip(queries, meant, strict=False)))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """See `batch`; in a worker thread, once the embeddings are there."""
        asked = list(ops)
        texts = self._texts(asked)
        vectors = await self.embeddings.aembed_documents(texts) if self.embeddings is not None and texts else []
        queries = self._queries(asked)
        meant = [await self.embeddings.aembed_query(query) for query in queries] if self.embeddings is not None else []
        return await in_thread(
            self._run, asked, dict(zip(texts, vectors, strict=True)), dict(zip(queries, meant, strict=False))
        )

    def _run(
        self, ops: Sequence[Op], vectors: Mapping[str, Sequence[float]], meant: Mapping[str, Sequence[float]]
    ) -> list[Result]:
        results: list[Result] = []
        puts: dict[Namespace, dict[str, PutOp]] = {}
        for op in ops:
            match op:
                case GetOp():
                    kept = self._read(op.namespace).get(op.key)
                    results.append(None if kept is None else _copied(kept.item))
                case SearchOp():
                    results.append(self._search(op, meant.get(op.query or "")))
                case ListNamespacesOp():
                    results.append(self._list(op))
                case PutOp():
                    puts.setdefault(op.namespace, {})[op.key] = op
                    results.append(None)
                case _:
                    raise ValueError(
                        f"{op!r:.100} is no operation of a store; nothing was done; give one of LangGraph's"
                    )
        made = {namespace: self._events(namespace, changes, vectors) for namespace, changes in puts.items()}
        if len(made) > 1:  # all are looked at before the first is written
            kept = self.store.settings
            for events in made.values():
                prepare_batch(
                    events,
                    draw=bytes,  # no salt of these is kept
                    read_cause=str.encode,  # none has a cause
                    body_bytes_max=kept.body_bytes_max,
                    redactor=kept.redactor,
                )
        for namespace, events in made.items():
            if events:
                self._append(namespace, events)
        return results

    # --- writing ---
    def _events(
        self, namespace: Namespace, changes: Mapping[str, PutOp], vectors: Mapping[str, Sequence[float]]
    ) -> list[NewEvent]:
        there = self._read(namespace)
        return [
            self._event(op, there.get(key), vectors)
            for key, op in changes.items()
            if op.value is not None or key in there
        ]

    def _append(self, namespace: Namespace, events: Sequence[NewEvent]) -> None:
        session = self.store.get_or_create(
            session_id(namespace),
            title=".".join(namespace)[:TITLE_CHARACTERS_MAX],
            labels=LABELS,
            metadata={"namespace": list(namespace)},
        )
        session.extend(events)

    def _event(self, op: PutOp, there: _Kept | None, vectors: Mapping[str, Sequence[float]]) -> NewEvent:
        if op.value is None:
            return NewEvent(DELETED, {"key": op.key})
        data: dict[str, Any] = {"key": op.key, "value": dict(op.value)}
        if there is not None:  # it says since when by itself, so that it still does where what was before it is erased
            data["created"] = int(there.item.created_at.timestamp() * 1_000_000)
        mine = [vectors[text] for text in self._texts([op])] if vectors else []
        return NewEvent(PUT, data, attachments={"vectors": _packed_vectors(mine)} if mine else None)

    # --- reading ---
    def _read(self, namespace: Namespace) -> dict[str, _Kept]:
        for _ in range(2):  # once more where the session was deleted, and perhaps made again, since it was opened
            with self._lock:
                shelf = self._shelves.get(namespace)
            try:
                if shelf is None:
                    shelf = _Shelf(self.store.session(session_id(namespace)), namespace)
                kept = shelf.read()
                self._remember(shelf)
                return kept
            except NotFoundError:
                with self._lock:
                    self._shelves.pop(namespace, None)
        return {}

    def _remember(self, shelf: _Shelf) -> None:
        with self._lock:
            self._shelves[shelf.namespace] = shelf
            self._shelves.move_to_end(shelf.namespace)
            forget_oldest(self._shelves, _SHELVES_MAX, _SHELVES_BYTES_MAX)

    def _search(self, op: SearchOp, meant: Sequence[float] | None) -> list[SearchItem]:
        found = [
            kept
            for namespace in self._namespaces(op.namespace_prefix)
            for kept in self._read(namespace).values()
            if all(fits(kept.item.value.get(name), wanted) for name, wanted in (op.filter or {}).items())
        ]
        found.sort(key=lambda kept: kept.item.updated_at, reverse=True)
        scored: list[tuple[float | None, Item]] = [(None, kept.item) for kept in found]
        if op.query and meant is not None:
            scored = [
                (max((_likeness(meant, each) for each in kept.vectors), default=None), kept.item) for kept in found
            ]
        elif op.query and self.embeddings is None:
            words = {word.casefold() for word in _WORD.findall(op.query)}
            scored = [(_said(words, kept.item.value), kept.item) for kept in found]
        scored.sort(key=lambda each: -sys.float_info.max if each[0] is None else each[0], reverse=True)
        return [
            SearchItem(item.namespace, item.key, deepcopy(item.value), item.created_at, item.updated_at, score)
            for score, item in scored[op.offset : op.offset + op.limit]
        ]

    def _list(self, op: ListNamespacesOp) -> list[Namespace]:
        conditions = op.match_conditions or ()
        found = {
            namespace if op.max_depth is None else namespace[: op.max_depth]
            for namespace in self._namespaces(())
            if all(_matches(condition, namespace) for condition in conditions) and self._read(namespace)
        }
        return sorted(found)[op.offset : op.offset + op.limit]

    def _namespaces(self, prefix: Namespace) -> Iterator[Namespace]:
        """Give the namespaces that begin with these labels and hold, or held, something."""
        for start in (_HASHED, session_id(prefix) if session_id(prefix).startswith(_NAMED) else _NAMED):
            after: SessionInfo | None = None
            while True:
                page = self.store.sessions(prefix=start, order="id", limit=_PAGE, after=after)
                for info in page:
                    namespace = tuple(info.metadata.get("namespace") or ())
                    if namespace[: len(prefix)] == prefix and session_id(namespace) == info.id:
                        yield namespace
                if len(page) < _PAGE:
                    break
                after = page[-1]

    # --- meaning ---
    def _texts(self, ops: Sequence[Op]) -> list[str]:
        """Give the texts that puts are to be found by, each once."""
        texts: dict[str, None] = {}
        for op in ops if self.embeddings is not None else ():
            if isinstance(op, PutOp) and op.value is not None and op.index is not False:
                for path in self._fields if op.index is None else op.index:
                    texts.update(
                        dict.fromkeys(get_text_at_path(op.value, path if path == "$" else tokenize_path(path)))
                    )
        return list(texts)

    def _queries(self, ops: Sequence[Op]) -> list[str]:
        asked = (op.query for op in ops if isinstance(op, SearchOp) and op.query)
        return list(dict.fromkeys(asked)) if self.embeddings is not None else []


def session_id(namespace: Namespace) -> str:
    """Give the id of the session that holds a namespace: its labels, or a hash of them where no session may be called so."""
    name = _NAMED + ".".join(namespace)
    if name.isprintable() and len(name) <= SESSION_ID_CHARACTERS_MAX:
        return name
    return _HASHED + sha256("\x00".join(namespace).encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _copied(item: Item) -> Item:
    """Give an item that its reader may change."""
    return Item(
        value=deepcopy(item.value),
        key=item.key,
        namespace=item.namespace,
        created_at=item.created_at,
        updated_at=item.updated_at,
    )


def fits(value: Any, wanted: Any) -> bool:
    """Tell whether a value meets a filter: it is that value, holds those members, or meets those operators.

    Raises ValueError for an operator that is none.
    """
    if isinstance(wanted, dict):
        if any(str(name).startswith("$") for name in wanted):
            return all(_operate(value, name, other) for name, other in wanted.items())
        return isinstance(value, dict) and all(fits(value.get(name), other) for name, other in wanted.items())
    if isinstance(wanted, (list, tuple)):
        same_size = isinstance(value, (list, tuple)) and len(value) == len(wanted)
        return same_size and all(map(fits, value, wanted))
    return value == wanted


def _operate(value: Any, operator: str, other: Any) -> bool:
    if operator == "$eq":
        return value == other
    if operator == "$ne":
        return value != other
    if operator not in _BY_NUMBER:
        raise ValueError(f"{operator!r} is no operator; nothing was searched; use $eq $ne $gt $gte $lt $lte")
    try:
        return _BY_NUMBER[operator](float(value), float(other))
    except (TypeError, ValueError):
        return False  # what is no number is neither more nor less than one


def _matches(condition: MatchCondition, namespace: Namespace) -> bool:
    """Tell whether a namespace begins or ends with labels; "*" is any one."""
    path = tuple(condition.path)
    if condition.match_type not in ("prefix", "suffix"):
        raise ValueError(f"{condition.match_type!r} is neither 'prefix' nor 'suffix'; nothing was listed; choose one")
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return len(part) == len(path) and all(label in ("*", own) for own, label in zip(part, path, strict=True))


def _said(words: set[str], value: Any) -> float | None:
    """Give the share of words that a value says; None for none."""
    texts: list[str] = []
    _collect(value, texts)
    there = {word.casefold() for text in texts for word in _WORD.findall(text)}
    return len(words & there) / len(words) if words & there else None


def _collect(value: Any, texts: list[str]) -> None:
    if isinstance(value, dict):
        for name, each in value.items():
            texts.append(str(name))
            _collect(each, texts)
    elif isinstance(value, list):
        for each in value:
            _collect(each, texts)
    else:
        texts.append(str(value))


def _likeness(one: Sequence[float], other: Sequence[float]) -> float:
    """Give the cosine of the angle between two vectors; 0 where one of them is none."""
    size = (sum(each * each for each in one) * sum(each * each for each in other)) ** 0.5
    return sum(map(_product, one, other)) / size if size else 0.0


def _product(one: float, other: float) -> float:
    return one * other


def _packed_vectors(vectors: Sequence[Sequence[float]]) -> bytes:
    """Give vectors of one size as bytes: how many, then 32-bit floats, least significant byte first."""
    packed = array("f", [number for vector in vectors for number in vector])
    if sys.byteorder == "big":
        packed.byteswap()
    return len(vectors).to_bytes(4, "little") + packed.tobytes()


def _read_vectors(event: Event) -> Sequence[Sequence[float]]:
    if not any(each.name == "vectors" for each in event.attachments):
        return ()
    content = event.attachment("vectors")
    count, packed = int.from_bytes(content[:4], "little"), array("f")
    packed.frombytes(content[4:])
    if sys.byteorder == "big":
        packed.byteswap()
    size = len(packed) // count
    return [cast("Sequence[float]", packed[start : start + size]) for start in range(0, len(packed), size)]
