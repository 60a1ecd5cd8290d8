"""A state machine drives another store beside the in-memory one: whatever is done, both answer the same."""

import os
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from databases import open_in
from everlog import NewEvent
from everlog.archiving import archive_store
from everlog.core.envelope import WrappingKey
from everlog.errors import EverlogError
from everlog.rebuild import SnapshotPolicy
from everlog.session import Settings
from everlog.storage import DropSnapshots
from everlog.store import Store
from everlog.stores.memory import MemoryStorage
from everlog.stores.sqlite.store import open_sqlite
from everlog.testing import FixedClock, FixedTicks

TYPES = st.sampled_from(["note", "user.message", "agent.message"])
KEYS = st.none() | st.sampled_from(["a", "b", "c", "d", "e"])
POINTERS = st.sampled_from(["/a", "/b/c", "/b", "/l/-", "/l/0", "/l", "/a/x", ""])
VALUES = st.sampled_from([1, 2, "x", None, True, [1, 2], {"c": 1}, {}])
TEXTS = st.sampled_from(["x", "y", "zz", "\u00e9\u2028"])
TTL = 30.0


def shown(hit):
    """What a snippet shows, but for the internal ids that stand in events of the session's own."""
    is_own = hit.event.type.startswith(("session.", "lease.", "checkpoint", "summary"))
    return (len(hit.snippet.text), ()) if is_own else (hit.snippet.text, hit.snippet.matches)


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
    if event.type == "session.merged" and data is not None:
        data = {**data, "into": data["into"]["position"], "events": len(data["events"])}
    if event.type == "checkpoint" and data is not None:
        data = {**data, "head": data["head"]["size"]}
    return (
        event.position,
        event.type,
        data,
        event.actor,
        event.outcome,
        "merged"
        if (event.key or "").startswith("merged:")
        else event.key,  # named by a hash, which those ids went into
        event.recorded_micros,
        event.erased,
    )


def with_hash(event):
    return (*seen(event), event.state_hash)


def fed(store):
    """Give the feed, session by session: among sessions of equal times each store has an order of its own."""
    return [(event.session, seen(event)) for event in sorted(store.feed(), key=lambda event: event.session)]


class Twins(RuleBasedStateMachine):
    sessions = Bundle("sessions")
    holders = Bundle("holders")  # handles that took a lease once, by number

    @initialize()
    def open(self):
        self.folder = Path(tempfile.mkdtemp())
        self.clock = FixedClock()
        self.ticks = FixedTicks()
        self.held = []  # by number: (session, lease) by store; empty where a store was reopened since
        self.draws = (Draw(), Draw())
        without = Settings(self.draws[0], snapshots=SnapshotPolicy(automatic=False))
        self.memory = Store(
            MemoryStorage(clock=self.clock, draw=self.draws[0], ticks=self.ticks), without, url="memory:"
        )
        self.made = 0
        self.open_other()

    def open_other(self):
        everywhere = Settings(self.draws[1], snapshots=SnapshotPolicy(events=1, share=1e9))
        self.other = Store(self.open_storage(self.draws[1]), everywhere, url="other")

    def open_storage(self, draw):
        raise NotImplementedError

    def both(self, act):
        """Do the same to both; they give the same, or refuse with the same kind of error and change nothing."""
        results = []
        for store in (self.memory, self.other):
            try:
                results.append(("gave", act(store)))
            except EverlogError as error:
                told = [getattr(error, member, None) for member in ("moved", "missed", "holder", "until")]
                results.append(("refused", type(error).__name__, *told))
        assert results[0] == results[1]
        return results[0]

    def teardown(self):
        if not hasattr(self, "other"):
            return
        try:
            for store in (self.memory, self.other):
                report = store.verify()
                assert report.ok, report.faults
            assert fed(self.memory) == fed(self.other)
        finally:
            self.memory.close()
            self.other.close()
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

    @rule(name=sessions, text=st.sampled_from("xy"), key=KEYS, size=st.sampled_from([10, 20_000]))
    def append_long(self, name, text, key, size):
        attachments = {"a.txt": text.encode() * size, "b": text.encode()}
        self.both(
            lambda store: seen(
                store.session(name).append("note", {"content": text * 20_000}, key=key, attachments=attachments)
            )
        )

    @rule(name=sessions, position=st.integers(-4, 8))
    def attachment(self, name, position):
        def act(store):
            event = store.session(name).event(position)
            return [(each.name, event.attachment(each.name)) for each in event.attachments]

        self.both(act)

    @rule(what=st.sampled_from(["compact", "archive", "archive", "restore"]))
    def store_cold(self, what):
        """Move bodies about in one of the stores: nothing that is asked of it changes."""
        if what == "restore":
            self.other.restore()
            assert not self.other.storage.objects()
            assert not [path for path in (self.folder / "archive").rglob("*") if path.is_file()]
            return
        self.clock.advance(seconds=1)
        self.other.compact(older_than=0)
        if what == "archive":
            archive_store(self.other.storage, os.urandom, str(self.folder / "archive"), older_than=0)

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
        def erased(store):
            certificate = store.session(name).erase([position], reason="asked")
            assert store.check_certificate(certificate).ok
            return (certificate.positions, certificate.before, certificate.size, len(certificate.records))

        self.both(erased)

    @rule(name=sessions, position=st.integers(-3, 5))
    def plan_erasure(self, name, position):
        def planned(store):
            plan = store.session(name).plan_erasure([position])
            return (
                plan.events,
                plan.bytes,
                plan.before,
                plan.summaries and True,
                plan.sharing,
                plan.results,
                plan.uses,
            )

        self.both(planned)

    @rule(name=sessions)
    def delete(self, name):
        self.both(lambda store: store.delete(name, reason="over"))

    @rule(name=sessions, mark=st.sampled_from(["m", "n"]))
    def checkpoint(self, name, mark):
        self.both(lambda store: seen(store.session(name).checkpoint(mark)))

    @rule(name=sessions, pointer=POINTERS, value=VALUES, key=KEYS, state=st.sampled_from([None, "document"]))
    def set_state(self, name, pointer, value, key, state):
        data = {"path": pointer, "value": value}
        self.both(lambda store: with_hash(store.session(name).append("state.set", data, key=key, state=state)))

    @rule(name=sessions, pointer=POINTERS, value=VALUES, state=st.sampled_from([None, "document"]))
    def patch_state(self, name, pointer, value, state):
        ops = [{"op": "test", "path": "/a", "value": 1}, {"op": "add", "path": pointer, "value": value}]
        self.both(lambda store: with_hash(store.session(name).append("state.patch", {"ops": ops}, state=state)))

    @rule(name=sessions, at=st.integers(-8, 20), reducer=st.sampled_from(["document", "messages", "usage"]))
    def state(self, name, at, reducer):
        def act(store):
            found = store.session(name).state(reducer, at=at)
            return found.value, found.hash, found.incomplete, found.skipped, found.size

        self.both(act)

    @rule(name=sessions)
    def state_verified(self, name):
        self.both(lambda store: store.session(name).state(verify=True).value)

    @rule(name=sessions, pointer=POINTERS)
    def why(self, name, pointer):
        self.both(lambda store: [(seen(r.event), r.before, r.after) for r in store.session(name).why(pointer)])

    @rule(one=sessions, other=sessions)
    def diff(self, one, other):
        def act(store):
            found = store.session(one).diff(store.session(other))
            return found.ancestor, found.only_a_count, found.only_b_count, found.patch, found.related, found.aligned

        self.both(act)

    @rule(one=sessions, other=sessions, prefer=st.sampled_from([None, "ours", "theirs"]))
    def merge(self, one, other, prefer):
        def act(store):
            event = store.session(one).merge(store.session(other), prefer=prefer, events="type:note")
            return event.position, event.data["ancestor"], len(event.data["events"]), store.session(one).state().value

        self.both(act)

    @rule(reducer=st.none() | st.sampled_from(["document", "messages"]))
    def drop_snapshots(self, reducer):
        self.other.storage.write(DropSnapshots(None, reducer))

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

    @rule(
        name=st.none() | sessions,
        query=st.sampled_from(
            ["x", "zz", "xxx", "\u00e9", "type:note", "type:n*,user.* outcome:ok", "outcome:none", "-outcome:ok", "label.n:s1,s2",
             "session:s* x", "since:2s", "yyy -outcome:ok", "data.content:zz", "", "has:key x"]
        ),
        order=st.sampled_from(["rank", "newest"]),
        limit=st.integers(1, 4),
    )  # fmt: skip
    def search(self, name, query, order, limit):
        """Both find the same, whatever the page; of events of equal rank each store may give another first."""

        def act(store):
            find = store.search if name is None else store.session(name).search
            page = find(query, order=order, limit=limit)
            hits = list(page.hits)
            while page.following is not None:
                page = find(query, order=order, limit=limit, after=page.following)
                hits += page.hits
            return sorted((hit.event.session, repr(seen(hit.event)), hit.score, *shown(hit)) for hit in hits)

        self.both(act)

    @rule(seconds=st.integers(-3, 5))
    def pass_time(self, seconds):
        self.clock.advance(seconds=seconds)

    @rule()
    def reopen(self):
        self.other.close()
        self.open_other()
        self.held = [{} for _ in self.held]

    # --- leases ---
    def holding(self, number, act):
        """Do the same with the handles that took a lease once."""
        if self.held[number]:
            self.both(lambda store: act(*self.held[number][store]))

    @rule(target=holders, name=sessions, holder=st.sampled_from(["w1", "w2"]), how=st.sampled_from(["lease", "wake"]))
    def take(self, name, holder, how):
        made = {}

        def act(store):
            session = store.session(name) if how == "lease" else store.wake(name, holder=holder, ttl=TTL)
            made[store] = (session, session.lease(holder, TTL) if how == "lease" else session.lease)
            return made[store][1].token, session.refresh().size, [seen(event) for event in session.slice(-1)]

        if self.both(act)[0] == "refused":
            return multiple()
        self.held.append(made)
        return len(self.held) - 1

    @rule(number=holders)
    def renew(self, number):
        self.holding(number, lambda session, lease: lease.renew())

    @rule(number=holders)
    def release(self, number):
        def act(session, lease):
            event = lease.release()
            return None if event is None else seen(event)

        self.holding(number, act)

    @rule(number=holders, type=TYPES, text=TEXTS, key=KEYS, late=st.booleans())
    def append_with_lease(self, number, type, text, key, late):
        self.holding(
            number,
            lambda session, lease: seen(
                session.append(type, {"content": text}, key=key, expected=0 if late else session.head)
            ),
        )

    @rule(number=holders, to=st.integers(-4, 4))
    def rewind_with_lease(self, number, to):
        self.holding(number, lambda session, lease: seen(session.rewind(to, reason="back")))

    @rule(again=st.booleans())
    def lapse(self, again):
        """All leases lapse at once: where some only come close, one store's background may renew, the other's not yet."""
        if again:
            self.ticks.restart()
        else:
            self.ticks.advance(seconds=TTL + 1)

    @rule()
    def leases(self):
        self.both(
            lambda store: sorted((each.session, each.holder, each.token, each.until) for each in store.leases(limit=99))
        )

    @rule()
    def list_sessions(self):
        self.both(lambda store: [(info.id, info.size, info.labels) for info in store.sessions(order="id", limit=100)])

    @invariant()
    def nobody_forgets(self):
        if hasattr(self, "other"):
            assert len(self.memory.sessions(limit=1000)) == len(self.other.sessions(limit=1000))


class SqliteTwins(Twins):
    def open_storage(self, draw):
        return open_sqlite(self.folder / "s.db", clock=self.clock, draw=draw, ticks=self.ticks)


class EncryptedTwins(Twins):
    def open_storage(self, draw):
        def drawn(size):
            return draw(size) if size == 16 else os.urandom(size)  # its twin draws an id, and no keys

        keys = [WrappingKey(bytes(32))]
        return open_sqlite(self.folder / "s.db", clock=self.clock, draw=drawn, ticks=self.ticks, keys=keys)


class PostgresTwins(Twins):
    def open_storage(self, draw):
        return open_in(self.folder, clock=self.clock, draw=draw, ticks=self.ticks)


def run(machine, examples):
    machine.TestCase.settings = settings(
        max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    return machine.TestCase


TestSqliteTwins = run(SqliteTwins, 60)
TestEncryptedTwins = run(EncryptedTwins, 10)
TestPostgresTwins = run(PostgresTwins, int(os.environ.get("EVERLOG_TWINS", "12")))
