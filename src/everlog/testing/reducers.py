"""Checking a reducer: that it is a pure function whose states are JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from everlog.core.canonical import decode_state, encode_state
from everlog.core.event import Event
from everlog.reducers.registry import Reducer

_encode = msgspec.json.Encoder().encode


def check_reducer(reducer: Reducer, events: Iterable[Event]) -> Any:
    """Fold events one by one and give the last state; AssertionError where the reducer is not pure.

    Seen are: a state or an event's data that was changed, a state that is not JSON (ReducerError), and a next state that
    depends on more than the state and the event: the same must come from a state that was stored and read again.
    """
    state: Any = reducer.initial()
    for event in events:
        if not reducer.looks_at(event.type):
            continue
        stored, data = encode_state(state), _encode([event.data, event.metadata])
        after = reducer.step(state, event)
        place = f"on event {event.id} (position {event.position}, type {event.type})"
        assert encode_state(state) == stored, f"reducer {reducer.name!r} changed the state that it was given {place}"
        assert _encode([event.data, event.metadata]) == data, (
            f"reducer {reducer.name!r} changed the event's data {place}"
        )
        again = reducer.step(decode_state(stored), event)
        assert encode_state(after) == encode_state(again), f"reducer {reducer.name!r} gave two states for one {place}"
        state = after
    return state
