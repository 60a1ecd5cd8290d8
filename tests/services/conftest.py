"""What the tests of runs share, and those of stores whose bodies go cold."""

import time

import pytest

from everlog.testing.clock import FixedClock
from services.cold import STORES, open_cold
from services.restarts import Calls, World


@pytest.fixture(params=["memory", "sqlite"])
def world(request, tmp_path):
    made = World(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def calls():
    return Calls()


@pytest.fixture
def slept(world, monkeypatch):
    """Sleeping moves the store's clock on, and takes no time. Gives the times that were slept."""
    times = []

    def sleep(seconds):
        times.append(seconds)
        world.clock.advance(seconds=seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    return times


@pytest.fixture
def clock():
    return FixedClock()


@pytest.fixture(params=STORES)
def kind(request):
    return request.param


@pytest.fixture
def store(kind, tmp_path, clock):
    """A store whose bodies leave their rows."""
    with open_cold(kind, tmp_path, clock) as opened:
        yield opened
