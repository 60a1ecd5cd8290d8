"""Everlog: a durable session log for LLM agents. Start with `everlog.open()`."""

from typing import TYPE_CHECKING

from everlog.claims import Claim
from everlog.compare import Difference
from everlog.context.manifest import Manifest
from everlog.context.reader import Context, Seen, Summary
from everlog.core.event import OUTCOMES, Attachment, Event, Head, NewEvent, StateHash
from everlog.core.proof import ConsistencyProof, EventProof, ForkProof, ProvenEvent, RangeProof, read_proof
from everlog.core.query import Query
from everlog.core.query_text import parse as parse_query
from everlog.core.ranking import Snippet
from everlog.core.sealed_proof import SealedProof, read_sealed_proof
from everlog.core.secret_rules import SecretRule
from everlog.core.upcast import upcast
from everlog.errors import EverlogError
from everlog.explain import Reason
from everlog.follow import Feed
from everlog.leases import Lease, LeaseInfo
from everlog.open import open_store as open
from everlog.pending import Pending
from everlog.preferences import Preferences
from everlog.rebuild import SnapshotPolicy
from everlog.reducers.registry import Reducer, reducer
from everlog.runs import Run
from everlog.search import Hit, SearchPage
from everlog.session import Branch, Session, SessionInfo
from everlog.snapshots import SnapshotInfo
from everlog.state import Messages, State
from everlog.store import Store
from everlog.summaries import Covered
from everlog.woken import Woken

if TYPE_CHECKING:
    from everlog.aio import AsyncBranch, AsyncFeed, AsyncSession, AsyncStore, open_async


def __getattr__(name: str) -> object:
    """Load the async face when it is first asked for: asyncio takes a third of the time that the import may take."""
    if name in ("open_async", "AsyncBranch", "AsyncFeed", "AsyncSession", "AsyncStore"):
        from everlog import aio

        return getattr(aio, name)
    raise AttributeError(f"module 'everlog' has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "OUTCOMES",
    "AsyncBranch",
    "AsyncFeed",
    "AsyncSession",
    "AsyncStore",
    "Attachment",
    "Branch",
    "Claim",
    "ConsistencyProof",
    "Context",
    "Covered",
    "Difference",
    "Event",
    "EventProof",
    "EverlogError",
    "Feed",
    "ForkProof",
    "Head",
    "Hit",
    "Lease",
    "LeaseInfo",
    "Manifest",
    "Messages",
    "NewEvent",
    "Pending",
    "Preferences",
    "ProvenEvent",
    "Query",
    "RangeProof",
    "Reason",
    "Reducer",
    "Run",
    "SealedProof",
    "SearchPage",
    "SecretRule",
    "Seen",
    "Session",
    "SessionInfo",
    "SnapshotInfo",
    "SnapshotPolicy",
    "Snippet",
    "State",
    "StateHash",
    "Store",
    "Summary",
    "Woken",
    "open",
    "open_async",
    "parse_query",
    "read_proof",
    "read_sealed_proof",
    "reducer",
    "upcast",
]
