"""For those who test with Everlog, or test a store of their own: the contract suite and a clock that stands still, a check of reducers."""

from everlog.testing.clock import FixedClock, FixedTicks
from everlog.testing.contract import StoreContract
from everlog.testing.reducers import check_reducer

__all__ = ["FixedClock", "FixedTicks", "StoreContract", "check_reducer"]
