"""ADK's own SQLite service and Everlog's, side by side: whatever is asked of both, both answer the same."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

pytest.importorskip("google.adk", reason="google-adk is not installed")

from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.genai import types

import everlog
from everlog.integrations.adk import EverlogSessionService, StaleSessionError

SEEDS, STEPS = 4, 100
REFUSALS = (AlreadyExistsError, SessionNotFoundError, StaleSessionError)
pytestmark = [
    pytest.mark.skipif(
        not hasattr(SqliteSessionService, "get_user_state"), reason="this version of ADK keeps another contract"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning"
    ),  # an aiosqlite thread of ADK's service that has no end of its own
]


def shown(answer):
    """Give an answer as what can be compared: of a session without events, when it was made is each service's own."""
    if isinstance(answer, BaseException):
        return type(answer).__name__
    if hasattr(answer, "sessions"):
        return [(each.app_name, each.user_id, each.id, each.state, each.events) for each in answer.sessions]
    if hasattr(answer, "events"):
        last = answer.last_update_time if answer.events else None
        return answer.app_name, answer.user_id, answer.id, answer.state, answer.events, last
    return answer


class Both:
    """Two services that are asked the same, and the sessions that they gave, of the same reads, old ones too."""

    def __init__(self, seed, theirs, ours):
        self.draw = random.Random(seed)
        self.services = (theirs, ours)
        self.held = []
        self.times = []
        self.count = 0

    async def step(self):
        verbs = {"create": 3, "get": 4, "append": 12, "list": 2, "delete": 1, "user": 1}
        verb = self.draw.choices(list(verbs), list(verbs.values()))[0]
        return verb, await getattr(self, verb)()

    async def each(self, call, *given):
        answers = []
        for service, *own in zip(self.services, *given, strict=True):
            try:
                answers.append(await call(service, *own))
            except REFUSALS as refused:
                answers.append(refused)
        theirs, ours = map(shown, answers)
        assert theirs == ours
        if hasattr(answers[0], "events"):
            self.held.append(answers)
        return theirs if isinstance(theirs, str) else None

    def who(self):
        return {"app_name": self.draw.choice(("trips", "meals")), "user_id": self.draw.choice(("u", "v"))}

    def state(self):
        keys = ("k", "deep", "app:a", "app:b", "user:u", "user:v", "temp:t", "a/b~c", "", "app:", "user:")
        values = (None, 0, 1.5, "x", [], {}, {"a": {"b": None}}, {"a": 1}, [1, {"c": 2}], True, "ü\u2028")
        return {key: self.draw.choice(values) for key in self.draw.sample(keys, self.draw.choice((0, 1, 1, 2, 4)))}

    async def create(self):
        who, state, name = self.who(), self.state(), self.draw.choice(("s", "t", " s", "w"))
        return await self.each(lambda service: service.create_session(**who, session_id=name, state=dict(state)))

    async def get(self):
        who, name = self.who(), self.draw.choice(("s", "t", "s ", "w"))
        recent, after = (
            self.draw.choice((None, None, 0, 1, 3, 50)),
            self.draw.choice((None, None, 1.0, *self.times[-20:])),
        )
        config = self.draw.choice((None, GetSessionConfig(num_recent_events=recent, after_timestamp=after)))
        return await self.each(lambda service: service.get_session(**who, session_id=name, config=config))

    async def append(self):
        if not self.held:
            return None
        pair = self.draw.choice(self.held[-4:] if self.draw.random() < 0.8 else self.held)
        self.count += 1
        self.times.append(time.time())
        author = self.draw.choice(("user", "agent"))
        parts = [types.Part(text=f"{self.count}")] if self.draw.random() < 0.8 else []
        event = Event(
            author=author,
            invocation_id=f"e-{self.count}",
            partial=True if self.draw.random() < 0.1 else None,
            content=types.Content(role=self.draw.choice(("user", "model")), parts=parts),
            actions=EventActions(state_delta=self.state()),
            timestamp=self.times[-1],
        )
        copies = [event.model_copy(deep=True) for _ in pair]
        refused = await self.each(lambda service, session, each: service.append_event(session, each), pair, copies)
        assert copies[0] == copies[1]
        if refused is None:  # what a refused append makes of an object's temp: state is nobody's business
            assert pair[0].state == pair[1].state
        assert pair[0].events == pair[1].events
        return refused

    async def list(self):
        who = self.who() if self.draw.random() < 0.5 else {"app_name": "trips"}
        return await self.each(lambda service: service.list_sessions(**who))

    async def delete(self):
        who, name = self.who(), self.draw.choice(("s", "t", "w"))
        return await self.each(lambda service: service.delete_session(**who, session_id=name))

    async def user(self):
        who = self.who()
        return await self.each(lambda service: service.get_user_state(**who))


def test_whatever_is_asked_both_answer_the_same(tmp_path):
    async def story(seed, store):
        done = []
        both = Both(seed, SqliteSessionService(str(tmp_path / f"{seed}.db")), EverlogSessionService(store))
        for _ in range(STEPS):
            try:
                done.append(await both.step())
            except Exception as error:
                error.add_note(f"with seed {seed}, after {done[-8:]}")
                raise
        return done

    done = []
    for seed in range(SEEDS):
        with everlog.open("memory:") as store:
            done += asyncio.run(story(seed, store))
            assert store.verify().ok
    assert {verb for verb, _ in done} == {"create", "get", "append", "list", "delete", "user"}
    assert {refused for _, refused in done} == {None, *(each.__name__ for each in REFUSALS)}
