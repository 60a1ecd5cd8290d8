"""A state machine drives the SQLite store beside the in-memory one: whatever is done, both answer the same."""

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from everlog import NewEvent
from everlog.errors import EverlogError
from everlog.session import Settings
from everlog.store import Store
from everlog.stores.memory import MemoryStorage
from everlog.stores.sqlite.store import open_sqlite
from everlog.testing import FixedClock

TYPES = st.sampled_from(["note", "user.message", "agent.message"])
KEYS = st.none() | st.sampled_from(["a", "b", "c", "d", "e"])
TEXTS = st.sampled_from(["x", "y", "zz", "\u00e9\u2028"])


class Draw:
    """The same bytes, in the same order, for both stores."""

    def __init__(self):
        self.drawn = 0

    def __call__(self, count):
        self.drawn += 1
        return (self.drawn.to_bytes(8, "big") * (count // 8 + 1))[:count]


def seen(event):
    """What both stores must agree on: all but the internal ids of sessions, which are made of time."""
    data = event.data
    if isinstance(data, dict) and "from" in data:
        data = {**data, "from": {**data["from"], "session": None, "root": None}}
    return (
        event.position,
        event.type,
        data,
        event.actor,
        event.outcome,
        event.key,
        event.recorded_micros,
        event.erased,
    )


class Twins(RuleBasedStateMachine):
    sessions = Bundle("sessions")

    @initialize()
    def open(self):
        self.folder = Path(tempfile.mkdtemp())
        self.clock = FixedClock()
        self.draws = (Draw(), Draw())
        self.memory = Store(MemoryStorage(clock=self.clock, draw=self.draws[0]), Settings(self.draws[0]), url="memory:")
        self.made = 0
        self.open_sqlite()

    def open_sqlite(self):
        storage = open_sqlite(self.folder / "s.db", clock=self.clock, draw=self.draws[1])
        self.sqlite = Store(storage, Settings(self.draws[1]), url="s.db")

    def both(self, act):
        """Do the same to both; they give the same, or refuse with the same kind of error and change nothing."""
        results = []
        for store in (self.memory, self.sqlite):
            try:
                results.append(("gave", act(store)))
            except EverlogError as error:
                results.append(
                    ("refused", type(error).__name__, getattr(error, "moved", None), getattr(error, "missed", None))
                )
        assert results[0] == results[1]
        return results[0]

    def teardown(self):
        if hasattr(self, "sqlite"):
            for store in (self.memory, self.sqlite):
                report = store.verify()
                assert report.ok, report.faults
            assert [seen(event) for event in self.memory.feed()] == [seen(event) for event in self.sqlite.feed()]
            self.sqlite.close()
            shutil.rmtree(self.folder)

    @rule(target=sessions)
    def create(self):
        self.made += 1
        name = f"s{self.made}"
        self.both(lambda store: store.create(name, labels={"n": name}).size())
        return name

    @rule(name=sessions, type=TYPES, text=TEXTS, key=KEYS, outcome=st.sampled_from([None, "ok", "error"]))
    def append(self, name, type, text, key, outcome):
        self.both(lambda store: seen(store.session(name).append(type, {"content": text}, key=key, outcome=outcome)))

    @rule(
        name=sessions,
        events=st.lists(st.tuples(TYPES, TEXTS, KEYS), min_size=1, max_size=5),
        key=KEYS,
        repeats=st.sampled_from(["refuse", "skip"]),
    )
    def extend(self, name, events, key, repeats):
        new = [NewEvent(type, {"content": text}, key=own) for type, text, own in events]
        self.both(lambda store: [seen(event) for event in store.session(name).extend(new, key=key, repeats=repeats)])

    @rule(name=sessions, behind=st.integers(-2, 2))
    def append_expecting(self, name, behind):
        def act(store):
            session = store.session(name)
            return seen(session.append("note", {"content": "e"}, expected=max(0, session.head.size + behind)))

        self.both(act)

    @rule(name=sessions, to=st.integers(-6, 6))
    def rewind(self, name, to):
        self.both(lambda store: seen(store.session(name).rewind(to, reason="back")))

    @rule(name=sessions, number=st.integers(1, 4))
    def switch(self, name, number):
        self.both(lambda store: seen(store.session(name).switch(f"b{number}")))

    @rule(target=sessions, name=sessions, at=st.integers(-4, 8))
    def fork(self, name, at):
        self.made += 1
        made = f"s{self.made}"
        outcome = self.both(lambda store: store.session(name).fork(at, id=made).size())
        return made if outcome[0] == "gave" else name

    @rule(name=sessions, position=st.integers(-3, 5))
    def erase(self, name, position):
        self.both(lambda store: store.session(name).erase([position], reason="asked"))

    @rule(name=sessions)
    def delete(self, name):
        self.both(lambda store: store.delete(name, reason="over"))

    @rule(name=sessions, mark=st.sampled_from(["m", "n"]))
    def checkpoint(self, name, mark):
        self.both(lambda store: seen(store.session(name).checkpoint(mark)))

    @rule(name=sessions, place=st.sampled_from(["m", "n", "start", "end", "-1h", "-3s", -1, 2]))
    def cut(self, name, place):
        self.both(lambda store: store.session(name).cut(place))

    @rule(name=sessions, start=st.integers(-5, 9), stop=st.integers(-5, 9))
    def slice(self, name, start, stop):
        self.both(lambda store: [seen(event) for event in store.session(name).slice(start, stop)])

    @rule(
        name=sessions,
        query=st.sampled_from(
            ["", "x", "type:note", "outcome:none", "-outcome:ok", "key:a,b", "key:*", "has:key", "since:2s"]
        ),
        reverse=st.booleans(),
        limit=st.none() | st.integers(0, 4),
    )
    def query(self, name, query, reverse, limit):
        self.both(
            lambda store: [seen(event) for event in store.session(name).events(query, reverse=reverse, limit=limit)]
        )

    @rule(seconds=st.integers(-3, 5))
    def pass_time(self, seconds):
        self.clock.advance(seconds=seconds)

    @rule()
    def reopen(self):
        self.sqlite.close()
        self.open_sqlite()

    @rule()
    def list_sessions(self):
        self.both(
            lambda store: [(info.id, info.size, info.labels) for info in store.sessions(order="created", limit=100)]
        )

    @invariant()
    def nobody_forgets(self):
        if hasattr(self, "sqlite"):
            assert len(self.memory.sessions(limit=1000)) == len(self.sqlite.sessions(limit=1000))


Twins.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestTwins = Twins.TestCase
