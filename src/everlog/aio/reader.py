"""The async face of reading one line of events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, overload

from everlog.aio.engine import Engine
from everlog.compare import Difference
from everlog.context.manifest import Format
from everlog.context.reader import Change, Context, ContextReader, PinLike, Seen, Summary
from everlog.context.tokens import TokenCounter
from everlog.core.event import Event, Head, StateHash
from everlog.core.proof import ConsistencyProof, EventProof, ForkProof, RangeProof
from everlog.core.query import Query
from everlog.core.sealed_proof import SealedProof
from everlog.explain import Reason
from everlog.proving import ProofReader
from everlog.reader import PlaceLike
from everlog.search import Order, SearchPage
from everlog.session import Branch
from everlog.state import Messages, ReducerLike, State, StateReader
from everlog.storage import CatchingUp

R = TypeVar("R", bound=ContextReader)


class AsyncReader(Generic[R]):
    """Reads one line of events: the async face of `BranchReader`."""

    def __init__(self, engine: Engine, sync: R) -> None:
        self._engine = engine
        self.sync = sync

    def __repr__(self) -> str:
        return f"<async {self.sync!r}>"

    async def size(self) -> int:
        """See `BranchReader.size`."""
        return await self._engine.run(self.sync.size)

    async def slice(self, start: PlaceLike = "start", stop: PlaceLike = "end") -> list[Event]:
        """See `BranchReader.slice`."""
        return await self._engine.run(self.sync.slice, start, stop)

    async def event(self, place: PlaceLike) -> Event:
        """See `BranchReader.event`."""
        return await self._engine.run(self.sync.event, place)

    def events(
        self,
        query: str | Query | None = None,
        *,
        start: PlaceLike = "start",
        stop: PlaceLike = "end",
        types: str | Sequence[str] | None = None,
        actor: str | Sequence[str] | None = None,
        outcome: str | Sequence[str] | None = None,
        since: str | datetime | None = None,
        until: str | datetime | None = None,
        where: Mapping[str, Any] | None = None,
        keys: str | Sequence[str] | None = None,
        caused_by: Event | str | None = None,
        has: str | Sequence[str] | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[Event]:
        """See `BranchReader.events`."""
        asked: dict[str, Any] = {
            "types": types,
            "actor": actor,
            "outcome": outcome,
            "since": since,
            "until": until,
            "where": where,
            "keys": keys,
            "caused_by": caused_by,
        }
        read = self.sync.pages
        return self._engine.iterate(
            lambda: read(query, start=start, stop=stop, reverse=reverse, limit=limit, has=has, **asked)
        )

    async def count(self, query: str | Query | None = None, **keywords: Any) -> int:
        """See `BranchReader.count`."""
        return await self._engine.run(self.sync.count, query, **keywords)

    async def last(self, types: str | Sequence[str] | None = None, **keywords: Any) -> Event | None:
        """See `BranchReader.last`."""
        return await self._engine.run(self.sync.last, types, **keywords)

    async def find(self, key: str) -> Event | None:
        """See `BranchReader.find`."""
        return await self._engine.run(self.sync.find, key)

    async def search(
        self,
        query: str | Query,
        *,
        limit: int = 20,
        after: str | None = None,
        order: Order = "rank",
        progress: CatchingUp | None = None,
    ) -> SearchPage:
        """See `BranchReader.search`."""
        return await self._engine.run(self.sync.search, query, limit=limit, after=after, order=order, progress=progress)

    async def around(self, place: PlaceLike, *, before: int = 5, after: int = 5) -> list[Event]:
        """See `BranchReader.around`."""
        return await self._engine.run(self.sync.around, place, before=before, after=after)

    async def causes(self, place: PlaceLike, *, limit: int = 100) -> list[Event]:
        """See `BranchReader.causes`."""
        return await self._engine.run(self.sync.causes, place, limit=limit)

    async def effects(self, place: PlaceLike, *, limit: int = 1_000) -> list[Event]:
        """See `BranchReader.effects`."""
        return await self._engine.run(self.sync.effects, place, limit=limit)

    async def attachment(self, place: PlaceLike, name: str) -> bytes:
        """See `BranchReader.attachment`."""
        return await self._engine.run(self.sync.attachment, place, name)

    async def checkpoints(self) -> list[Event]:
        """See `BranchReader.checkpoints`."""
        return await self._engine.run(self.sync.checkpoints)

    async def cut(self, place: PlaceLike = "end") -> int:
        """See `BranchReader.cut`."""
        return await self._engine.run(self.sync.cut, place)

    @overload
    async def state(self, reducer: Literal["messages"], at: PlaceLike = "end", *, verify: bool = False) -> Messages: ...
    @overload
    async def state(
        self, reducer: ReducerLike = "document", at: PlaceLike = "end", *, verify: bool = False
    ) -> State: ...
    async def state(self, reducer: ReducerLike = "document", at: PlaceLike = "end", *, verify: bool = False) -> State:
        """See `StateReader.state`."""
        return await self._engine.run(self.sync.state, reducer, at, verify=verify)

    async def state_hash(self, reducer: ReducerLike = "document", at: PlaceLike = "end") -> StateHash:
        """See `StateReader.state_hash`."""
        return await self._engine.run(self.sync.state_hash, reducer, at)

    async def diff(
        self,
        a: PlaceLike | StateReader | AsyncReader[Any],
        b: PlaceLike | StateReader | AsyncReader[Any] | None = None,
        *,
        at: PlaceLike = "end",
        reducer: ReducerLike = "document",
        limit: int = 100,
    ) -> Difference:
        """See `StateReader.diff`."""
        one = a.sync if isinstance(a, AsyncReader) else a
        other = b.sync if isinstance(b, AsyncReader) else b
        return await self._engine.run(self.sync.diff, one, other, at=at, reducer=reducer, limit=limit)

    async def why(
        self, pointer: str, *, at: PlaceLike = "end", reducer: ReducerLike = "document", limit: int = 20
    ) -> list[Reason]:
        """See `StateReader.why`."""
        return await self._engine.run(self.sync.why, pointer, at=at, reducer=reducer, limit=limit)

    async def bisect(
        self,
        predicate: Callable[[State], object],
        *,
        start: PlaceLike = "start",
        stop: PlaceLike = "end",
        reducer: ReducerLike = "document",
    ) -> Event | None:
        """See `StateReader.bisect`. The predicate is called in a thread."""
        return await self._engine.run(self.sync.bisect, predicate, start=start, stop=stop, reducer=reducer)

    async def head_at(self, place: PlaceLike = "end") -> Head:
        """See `BranchReader.head_at`."""
        return await self._engine.run(self.sync.head_at, place)

    async def context(
        self,
        budget: int = 8_000,
        *,
        at: PlaceLike = "end",
        pins: Iterable[PinLike] = (),
        query: str | None = None,
        format: Format = "anthropic",
        token_counter: TokenCounter | None = None,
    ) -> Context:
        """See `ContextReader.context`."""
        return await self._engine.run(
            self.sync.context, budget, at=at, pins=pins, query=query, format=format, token_counter=token_counter
        )

    async def prove(self, place: PlaceLike, *, at: PlaceLike | Head = "end", body: bool = True) -> EventProof:
        """See `ProofReader.prove`."""
        return await self._engine.run(self.sync.prove, place, at=at, body=body)

    async def prove_sealed(self, place: PlaceLike, *, body: bool = True) -> SealedProof:
        """See `ProofReader.prove_sealed`."""
        return await self._engine.run(self.sync.prove_sealed, place, body=body)

    async def prove_range(
        self, start: PlaceLike, stop: PlaceLike, *, at: PlaceLike | Head = "end", body: bool = True
    ) -> RangeProof:
        """See `ProofReader.prove_range`."""
        return await self._engine.run(self.sync.prove_range, start, stop, at=at, body=body)

    async def prove_consistency(self, old: PlaceLike | Head, new: PlaceLike | Head = "end") -> ConsistencyProof:
        """See `ProofReader.prove_consistency`."""
        return await self._engine.run(self.sync.prove_consistency, old, new)

    async def prove_fork(self, other: ProofReader | AsyncReader[Any]) -> ForkProof:
        """See `ProofReader.prove_fork`."""
        plain = other.sync if isinstance(other, AsyncReader) else other
        return await self._engine.run(self.sync.prove_fork, plain)

    async def saw(self, place: PlaceLike) -> Seen:
        """See `ContextReader.saw`."""
        return await self._engine.run(self.sync.saw, place)

    async def context_diff(self, one: PlaceLike, other: PlaceLike) -> Change:
        """See `ContextReader.context_diff`."""
        return await self._engine.run(self.sync.context_diff, one, other)

    async def outline(self, level: int | None = None, *, at: PlaceLike = "end") -> list[Summary]:
        """See `ContextReader.outline`."""
        return await self._engine.run(self.sync.outline, level, at=at)

    async def expand(self, summary: Summary | PlaceLike) -> list[Summary] | list[Event]:
        """See `ContextReader.expand`."""
        return await self._engine.run(self.sync.expand, summary)


class AsyncBranch(AsyncReader[Branch]):
    """One line of events of a session, to read. The async face of `Branch`."""

    @property
    def id(self) -> str:
        return self.sync.id

    @property
    def name(self) -> str:
        return self.sync.name

    @property
    def base(self) -> int:
        return self.sync.base

    @property
    def current(self) -> bool:
        return self.sync.current

    @property
    def head(self) -> Head:
        return self.sync.head
