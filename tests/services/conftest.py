"""What the tests of runs share."""

import time

import pytest

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
