"""Reducers: pure functions from a state and an event to the next state, and what providers take of one of them."""
