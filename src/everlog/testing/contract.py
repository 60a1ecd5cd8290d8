"""The contract that every store keeps, as tests: subclass `StoreContract`, say how to open a store, run it with pytest.

    class TestMyStore(StoreContract):
        def open_store(self, folder, clock):
            return Store(MyStorage(folder, clock=clock), Settings(os.urandom), url="mine")

        def open_store_with_ticks(self, folder, clock, ticks):  # else what needs a lease to lapse is skipped
            return Store(MyStorage(folder, clock=clock, ticks=ticks), Settings(os.urandom), url="mine")

It speaks to the public interface only, so it holds for the async face and for a server just as well.
"""

from __future__ import annotations

from everlog.testing.appending import AppendContract
from everlog.testing.erasing import ErasingContract
from everlog.testing.leasing import LeasingContract
from everlog.testing.proving import ProofContract
from everlog.testing.reading import ReadContract
from everlog.testing.retaining import RetentionContract
from everlog.testing.sealing import SealContract
from everlog.testing.searching import SearchContract
from everlog.testing.sessions import SessionContract


class StoreContract(
    AppendContract,
    ReadContract,
    SessionContract,
    LeasingContract,
    SearchContract,
    RetentionContract,
    ErasingContract,
    ProofContract,
    SealContract,
):
    """Every promise of a store, a test each. A subclass gives `open_store`."""
