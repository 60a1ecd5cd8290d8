"""The async face: the same names with `await` and `async for`, over the same objects.

1. An append becomes a future that the committer resolves; the loop never waits for a disk or a lock.
2. Reads, and what is rare, run in the store's small pool of threads, a page at a time.
3. Followers are woken by one thread a store, however many they are.
4. A cancelled append is withdrawn if it was not taken yet; otherwise it may still commit, and the same key tells.
"""

from everlog.aio.reader import AsyncBranch, AsyncReader
from everlog.aio.session import AsyncSession
from everlog.aio.store import AsyncFeed, AsyncStore, open_async

__all__ = ["AsyncBranch", "AsyncFeed", "AsyncReader", "AsyncSession", "AsyncStore", "open_async"]
