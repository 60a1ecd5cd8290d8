"""The async face of encryption."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from everlog.aio.engine import Engine

if TYPE_CHECKING:
    from everlog.encryption import Encryption, EncryptionKeys


class AsyncEncryption:
    """The encryption of a store's bodies. The async face of `Encryption`."""

    def __init__(self, engine: Engine, sync: Encryption) -> None:
        self._engine = engine
        self.sync = sync

    async def keys(self) -> EncryptionKeys:
        """See `Encryption.keys`."""
        return await self._engine.run(self.sync.keys)

    async def rotate(self, to: str, *, progress: Callable[[int], None] | None = None) -> int:
        """See `Encryption.rotate`. progress: called from another thread."""
        return await self._engine.run(self.sync.rotate, to, progress=progress)

    async def seal(self, *, progress: Callable[[int], None] | None = None) -> int:
        """See `Encryption.seal`. progress: called from another thread."""
        return await self._engine.run(self.sync.seal, progress=progress)
