"""The Agents SDK's own session and Everlog's, side by side: whatever is asked of both, both answer the same."""

import asyncio
import json
import random

import pytest

import everlog
from integrations.agents_items import ITEMS, said, user

pytest.importorskip("agents")
from agents import SessionSettings, SQLiteSession
from agents.memory import session as memory

from everlog.integrations.openai_agents import EverlogSession

SNAPSHOTS = hasattr(memory, "_CompactionSnapshot")
STEPS = 120


def as_json(value):
    return json.dumps(value, sort_keys=True)


class Both:
    """Two sessions that are asked the same: each draws what is asked from the same numbers."""

    def __init__(self, seed, theirs, ours):
        self.draw = random.Random(seed)
        self.sides = (theirs, ours)
        self.snapshots = None
        self.count = 0

    async def step(self):
        verbs = {"add": 6, "get": 5, "pop": 4, "clear": 1, "settings": 1, "snapshot": 2, "replace": 2}
        verb = self.draw.choices(list(verbs), list(verbs.values()))[0]
        return verb, *await getattr(self, verb)()

    async def each(self, call):
        answers = [await call(side) for side in self.sides]
        assert as_json(answers[0]) == as_json(answers[1])
        return answers[:1]

    def items(self):
        made = []
        for _ in range(self.draw.choice((0, 1, 1, 2, 5))):
            self.count += 1
            usual = [user(f"{self.count}"), said(f"{self.count}", self.count)]
            made.append(self.draw.choice([*usual, *usual, self.draw.choice(ITEMS)]))
        return made

    async def add(self):
        items = self.items()
        return await self.each(lambda side: side.add_items(items))

    async def get(self):
        limit = self.draw.choice((None, None, 0, 1, 2, 3, 7, 1_000, 2**31 - 1, -1, -3))
        return await self.each(lambda side: side.get_items(limit))

    async def pop(self):
        return await self.each(lambda side: side.pop_item())

    async def clear(self):
        return await self.each(lambda side: side.clear_session())

    async def settings(self):
        chosen = self.draw.choice(
            (None, SessionSettings(), SessionSettings(limit=3), SessionSettings(limit=0), {"limit": 2})
        )
        for side in self.sides:
            side.session_settings = chosen
        return (chosen,)

    async def snapshot(self):
        if not SNAPSHOTS:
            return ()
        limit, gone = self.draw.randint(1, 6), self.draw.choice((None, "1", "2", "user"))
        prune = None if gone is None else lambda item: gone in as_json(item)
        self.snapshots = [await side._get_compaction_snapshot(limit, prune_prefix=prune) for side in self.sides]
        theirs, ours = self.snapshots
        assert as_json(theirs.items) == as_json(ours.items)
        assert theirs.complete == ours.complete
        return (limit, gone)

    async def replace(self):
        if self.snapshots is None:
            return ()
        start, items = self.draw.randint(0, 4), self.items()
        theirs, ours = [await snapshot.replace_suffix(start, items) for snapshot in self.snapshots]
        assert theirs == ours, start
        return (start, theirs)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_asked_both_answer_the_same(seed):
    async def story(store):
        theirs, done = SQLiteSession("s"), []
        both = Both(seed, theirs, EverlogSession("s", store))
        try:
            for _ in range(STEPS):
                done.append(await both.step())
                await both.each(lambda side: side.get_items(2**31 - 1))
        except Exception as error:
            error.add_note(f"after {done[-5:]}")
            raise
        finally:
            theirs.close()
        return {verb for verb, *_ in done}

    with everlog.open("memory:") as store:
        assert asyncio.run(story(store)) >= {"add", "get", "pop", "clear", "settings", "snapshot", "replace"}
        assert store.verify().ok
