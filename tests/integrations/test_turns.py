"""Calls of one name that take turns."""

import threading

import pytest

from everlog.integrations.turns import Turns


def test_calls_for_one_name_go_on_in_the_order_in_which_they_came():
    turns, order = Turns(), []

    def call(turn, number):
        with turn:
            order.append(number)

    with turns.take("t"), turns.take("another"):
        waiting = [threading.Thread(target=call, args=(turns.take("t"), number)) for number in range(8)]
        for each in reversed(waiting):
            each.start()
        assert (order, turns.count("t")) == ([], 9)
    for each in waiting:
        each.join()
    assert order == list(range(8))
    assert turns.count("t") == 0


def test_a_turn_that_is_left_without_being_entered_or_twice_or_by_an_error_holds_nobody_up():
    turns = Turns()
    first, second, third = (turns.take("t") for _ in range(3))
    second.leave()
    first.leave()
    first.leave()
    with pytest.raises(RuntimeError), third:
        raise RuntimeError
    assert turns.count("t") == 0
