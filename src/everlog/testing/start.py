"""What every part of the contract starts from: a store, a session, ten events, a clock that stands still."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlog.core.event import NewEvent
from everlog.testing.clock import FixedClock, FixedTicks

DEADLINE_SECONDS = 20.0


def note(text: str, **members: Any) -> NewEvent:
    return NewEvent("note", {"content": text}, **members)


def texts(events: Any) -> list[str]:
    return [event.data["content"] for event in events if event.data and "content" in event.data]


class ContractStart:
    """Opens the store under test. A subclass gives `open_store`."""

    def open_store(self, folder: Path, clock: FixedClock) -> Any:
        """Open an empty store that takes its time from this clock."""
        raise NotImplementedError

    def open_store_with_ticks(self, folder: Path, clock: FixedClock, ticks: FixedTicks) -> Any:  # noqa: ARG002
        """Open an empty store whose leases are measured by these ticks; None where they cannot be set."""
        return None

    @pytest.fixture
    def clock(self) -> FixedClock:
        return FixedClock()

    @pytest.fixture
    def store(self, tmp_path: Path, clock: FixedClock) -> Iterator[Any]:
        opened = self.open_store(tmp_path, clock)
        yield opened
        opened.close()

    @pytest.fixture
    def session(self, store: Any) -> Any:
        return store.create("s")

    @pytest.fixture
    def ten(self, session: Any) -> Any:
        session.extend([note(f"n{number}") for number in range(10)])
        return session
