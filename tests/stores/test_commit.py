"""Group commit: who leads, who waits, and who is woken."""

import ctypes
import linecache
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from everlog.errors import OutcomeUnknownError
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


def interrupting(nth):
    """A trace function that raises KeyboardInterrupt at the nth line of commit.py that a thread comes to; never where Python itself does not."""
    lines = iter(range(nth))

    def trace(frame, event, _):
        if frame.f_code.co_filename != commit.__file__:
            return None
        edge = linecache.getline(commit.__file__, frame.f_lineno).lstrip().startswith(("with ", "try:"))
        if event == "line" and not edge and next(lines, None) is None:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    return trace


def test_event_loops_are_told_once_wherever_whoever_led_for_them_was_interrupted(monkeypatch):
    monkeypatch.setattr(commit, "_LOOK_SECONDS", 0.005)
    for nth in range(1000):
        groups, said, told, answered = Groups(), {}, [], threading.Event()

        def write(name, trace, groups=groups, said=said):
            sys.settrace(trace)
            try:
                said[name] = groups.committer.write(name)
            except (KeyboardInterrupt, OutcomeUnknownError) as error:
                said[name] = error
            finally:
                sys.settrace(None)

        def resolve(outcome, told=told, answered=answered):
            told.append(outcome)
            answered.set()

        trace = interrupting(nth)
        threads = [
            threading.Thread(target=write, args=each) for each in (("a", None), ("leads", trace), ("waits", None))
        ]
        threads[0].start()
        groups.queued(0)
        threads[1].start()
        until = time.monotonic() + DEADLINE_SECONDS
        while not groups.committer._queue and threads[1].is_alive() and time.monotonic() < until:
            time.sleep(0.0001)
        groups.committer.submit("asks", resolve)
        threads[2].start()
        groups.go.set()
        for each in threads:
            each.join(DEADLINE_SECONDS)
        assert answered.wait(DEADLINE_SECONDS), f"interrupted at line {nth}"
        groups.committer.close()
        assert len(told) == 1
        assert set(said) == {"a", "leads", "waits"}
        taken = [each for group in groups.taken for each in group]
        assert len(taken) == len(set(taken))
        if isinstance(said["leads"], Receipt):
            break
    else:
        raise AssertionError("it was interrupted at more lines than there are")
    assert nth > 30


def test_closing_waits_for_whoever_leads_and_ends_the_background_thread(groups):
    others = set(threading.enumerate())
    with ThreadPoolExecutor(2) as threads:
        written = threads.submit(groups.committer.write, "a")
        groups.queued(0)
        told = threading.Event()
        groups.committer.submit("b", lambda _: told.set())
        background = next(
            each for each in threading.enumerate() if each.name == "everlog-commit" and each not in others
        )
        assert groups.committer._background is background
        groups.go.set()
        assert told.wait(DEADLINE_SECONDS)
        written.result(DEADLINE_SECONDS)
        groups.go.clear()
        groups.taken.clear()
        written = threads.submit(groups.committer.write, "c")
        groups.queued(0)
        closed = threads.submit(groups.committer.close)
        while not groups.committer._closed:
            time.sleep(0.001)
        time.sleep(0.01)  # the background thread looks meanwhile, and finds that somebody leads
        groups.go.set()
        written.result(DEADLINE_SECONDS), closed.result(DEADLINE_SECONDS)
    assert not background.is_alive()
