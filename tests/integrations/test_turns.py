"""Calls of one name that take turns."""

import linecache
import sys
import threading

import pytest

from everlog.errors import BusyError
from everlog.integrations import turns as turns_module
from everlog.integrations.turns import Turns


def is_free(turns):
    """Whether a call that comes now would go on at once."""
    turn = turns.take("t")
    free = turn.first.is_set()
    turn.leave()
    return free


def test_calls_for_one_name_go_on_in_the_order_in_which_they_came():
    turns, order = Turns(), []

    def call(turn, number):
        with turn:
            order.append(number)

    with turns.take("t"), turns.take("another"):
        waiting = [threading.Thread(target=call, args=(turns.take("t"), number)) for number in range(8)]
        for each in reversed(waiting):
            each.start()
        assert order == []
    for each in waiting:
        each.join()
    assert order == list(range(8))
    assert is_free(turns)


def test_a_turn_that_is_left_without_being_entered_or_twice_or_by_an_error_holds_nobody_up():
    turns = Turns()
    first, second, third = (turns.take("t") for _ in range(3))
    second.leave()
    first.leave()
    first.leave()
    with pytest.raises(RuntimeError), third:
        raise RuntimeError
    assert is_free(turns)


def test_a_call_waits_so_long_while_none_before_it_ends_and_then_holds_nobody_up():
    turns = Turns(0.01)
    held, waits, next_one = (turns.take("t") for _ in range(3))
    with pytest.raises(BusyError, match="nothing was written"), waits:
        raise AssertionError
    held.leave()
    with next_one:
        assert not is_free(turns)
    assert is_free(turns)


def test_a_call_waits_on_while_those_before_it_end():
    turns = Turns(0.4)  # less than all of them take, and far more than one does
    held = [turns.take("t") for _ in range(20)]
    last, came = turns.take("t"), []
    thread = threading.Thread(target=lambda: came.append(last.enter()))
    thread.start()
    for each in held:
        each.first.wait()
        thread.join(0.03)
        each.leave()
    thread.join()
    assert came == [None]


def test_a_call_that_is_interrupted_while_it_waits_holds_nobody_up():
    turns = Turns()
    held, waits, next_one = (turns.take("t") for _ in range(3))

    class Interrupted(threading.Event):
        def wait(self, timeout=None):
            raise KeyboardInterrupt

    waits.first = Interrupted()
    with pytest.raises(KeyboardInterrupt), waits:
        raise AssertionError
    held.leave()
    with next_one:
        pass
    assert is_free(turns)


def test_a_call_whose_caller_went_away_does_not_go_on():
    turns = Turns()
    held, waits = turns.take("t"), turns.take("t")
    threading.Thread(target=waits.leave).start()
    with pytest.raises(BusyError, match="went away"):
        waits.enter()
    held.leave()
    assert is_free(turns)


def test_a_turn_that_is_left_again_after_an_interruption_holds_nobody_up():
    for nth in range(100):
        turns, lines = Turns(), iter(range(nth))
        held, waits = turns.take("t"), turns.take("t")

        def interrupt(frame, event, _, lines=lines):
            edge = linecache.getline(turns_module.__file__, frame.f_lineno).lstrip().startswith("with ")
            if event == "line" and not edge and next(lines, None) is None:
                sys.settrace(None)
                raise KeyboardInterrupt
            return interrupt

        sys.settrace(
            lambda frame, *_, own=interrupt: own if frame.f_code.co_filename == turns_module.__file__ else None
        )
        try:
            held.leave()
            break
        except KeyboardInterrupt:
            held.leave()
        finally:
            sys.settrace(None)
        assert waits.first.is_set(), f"interrupted at line {nth}"
        waits.leave()
        assert not turns._waiting
    assert nth > 5


def test_an_event_that_all_share_is_not_set_again():
    """Whoever forks meanwhile would leave it locked in the child, for every name."""
    turns, event = Turns(), turns_module._NOBODY_BEFORE
    first, second, third = (turns.take("t") for _ in range(3))
    with event._cond:  # as in a child that was forked while another thread set it
        done = threading.Thread(
            target=lambda: (third.leave(), first.enter(), first.leave(), second.leave()), daemon=True
        )
        done.start()
        done.join(10)
        assert not done.is_alive()
    assert is_free(turns)
