"""Group commit: who leads, who waits, and who is woken."""

import ctypes
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from everlog.storage import Receipt
from everlog.stores import commit
from everlog.stores.commit import Committer

DEADLINE_SECONDS = 60


class Groups:
    """What was committed, group by group. The first waits until `go` is set."""

    def __init__(self):
        self.taken = []
        self.go = threading.Event()
        self.committer = Committer(self.commit, lambda _: 0, gathers=True)

    def commit(self, requests):
        self.taken.append(list(requests))
        if len(self.taken) == 1:
            assert self.go.wait(DEADLINE_SECONDS)
        return [Receipt("s", "b", 0, ()) for _ in requests]

    def queued(self, number):
        """Wait until the first group was taken, and as many are queued behind it."""
        until = time.monotonic() + DEADLINE_SECONDS
        while not (self.taken and len(self.committer._queue) == number) and time.monotonic() < until:
            time.sleep(0.001)


@pytest.fixture
def groups():
    return Groups()


def test_a_group_waits_for_those_that_were_under_way_with_the_last(groups, monkeypatch):
    monkeypatch.setattr(commit, "_GATHER_SECONDS_MAX", DEADLINE_SECONDS)
    monkeypatch.setattr(commit, "_PATIENCE", 1e9)  # as if the first had taken long
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(lambda: [groups.committer.write(each) for each in ("a1", "a2")])
        groups.queued(0)
        second = threads.submit(groups.committer.write, "b1")
        groups.queued(1)
        groups.go.set()
        first.result(DEADLINE_SECONDS), second.result(DEADLINE_SECONDS)
    assert groups.taken == [["a1"], ["b1", "a2"]]


def test_a_group_that_waited_in_vain_goes_on_and_the_next_does_not_wait(groups, monkeypatch):
    monkeypatch.setattr(commit, "_GATHER_SECONDS_MAX", 0.5)
    monkeypatch.setattr(commit, "_PATIENCE", 1e9)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(groups.committer.write, "a")
        groups.queued(0)
        second = threads.submit(groups.committer.write, "b")
        groups.queued(1)
        groups.go.set()
        first.result(DEADLINE_SECONDS), second.result(DEADLINE_SECONDS)
    assert groups.taken == [["a"], ["b"]]
    assert groups.committer._passed == 1


def test_one_writer_alone_is_not_kept_waiting(groups, monkeypatch):
    monkeypatch.setattr(commit, "_GATHER_SECONDS_MAX", DEADLINE_SECONDS)
    monkeypatch.setattr(commit, "_PATIENCE", 1e9)  # whoever waited would do so until the test is stopped
    groups.go.set()
    for number in range(10):
        groups.committer.write(number)
    assert groups.taken == [[number] for number in range(10)]


def test_all_of_a_group_are_woken_though_one_of_them_was_interrupted(groups):
    said = {}

    def write(name):
        try:
            said[name] = type(groups.committer.write(name))
        except KeyboardInterrupt as error:
            said[name] = type(error)

    threads = {}
    for number, name in enumerate(("leads", "first", "interrupted", "last")):
        threads[name] = threading.Thread(target=write, args=(name,))
        threads[name].start()
        groups.queued(number)
    ident = ctypes.c_ulong(threads["interrupted"].ident)
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(KeyboardInterrupt)) == 1
    threads["interrupted"].join(DEADLINE_SECONDS)
    groups.go.set()
    for thread in threads.values():
        thread.join(DEADLINE_SECONDS)
    assert said == {"leads": Receipt, "first": Receipt, "interrupted": KeyboardInterrupt, "last": Receipt}
