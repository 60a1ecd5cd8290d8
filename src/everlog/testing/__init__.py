"""For those who test with Everlog, or test a store of their own: the contract suite and a clock that stands still."""

from everlog.testing.clock import FixedClock
from everlog.testing.contract import StoreContract

__all__ = ["FixedClock", "StoreContract"]
