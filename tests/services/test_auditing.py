"""The auditor's questions: what an audit of a session says, and what it says that it cannot tell."""

import asyncio

import apsw
import msgspec
import pytest

import everlog
from databases import address
from everlog import NewEvent
from everlog.errors import LimitError
from everlog.tally import NAMES_MAX, OTHERS, WORDS_CHARACTERS

TOKEN = "ghp_" + "A1b2C3d4E5" * 3 + "a1b2c3"  # it has the form of one, and is none


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request, tmp_path):
    with everlog.open(address(request.param, tmp_path), redact="redact") as opened:
        yield opened


@pytest.fixture
def session(store):
    return store.create("run", title="A run", labels={"user": "u7"})


def test_who_acted_when_on_what_grounds_and_with_what_outcome(session):
    session.append("user.message", {"content": "refund me"}, actor="ann")
    session.append("decision", {"question": "refund?", "choice": "yes"}, rationale="within 30 days", actor="bot")
    session.append("decision", {"choice": "card"}, actor="bot")
    session.append(
        "agent.tool_use", {"id": "c", "name": "pay", "input": {"sum": 3}}, rationale="as decided", actor="bot"
    )
    session.append("agent.tool_result", {"tool_use_id": "c", "content": "declined"}, outcome="error")
    session.append("error", {"message": "the bank is closed"})
    last = session.append("note", {"content": "well"}, outcome="ok", actor="ann")
    audit = session.audit()
    assert [(each.actor, each.events) for each in audit.actors] == [("bot", 3), (None, 2), ("ann", 2)]
    assert audit.actors[2].last == everlog.core.position.format_micros(last.recorded_micros)
    assert [(fact.says, fact.why) for fact in audit.decisions.newest] == [
        ("refund?: yes", "within 30 days"),
        ("card", None),
        ('pay {"sum":3}', "as decided"),
    ]
    assert (audit.with_rationale, audit.bare_decisions) == (2, 1)
    assert audit.outcomes == {"none": 5, "error": 1, "ok": 1}
    assert audit.types["agent.tool_result"] == {"error": 1}
    assert [fact.says for fact in audit.troubles.newest] == ["declined", "the bank is closed"]
    assert audit.events == 7
    assert audit.head == session.head


def test_what_was_in_the_window_of_each_call_and_whether_it_can_be_made_again(session):
    for number in range(5):
        session.append("user.message", {"content": f"fact {number}"})
        session.append("agent.message", {"content": f"seen {number}"})
    session.record_request(session.context(60), model="small")
    session.append("model.request", {"model": "other"})
    first, second = session.audit().windows.newest
    assert first.model == "small"
    assert first.budget == 60
    assert first.items["recent"] >= 1
    assert first.left_out["budget"] >= 1
    assert first.exact is None
    assert "no manifest" in second.note
    audit = session.audit(verify=True)
    assert audit.windows.newest[0].exact is True
    assert audit.verification.ok
    assert audit.models == {"small": 1, "other": 1}
    session.erase([9], reason="asked for")
    assert session.audit(verify=True).windows.newest[0].exact is False


def test_forks_rewinds_and_switches_say_who_why_and_from_where(store, session):
    session.extend([NewEvent("note", {"content": f"n{number}"}) for number in range(6)])
    line = session.branch().id
    session.rewind(4, reason="wrong path", actor="ann")
    session.switch("b1", reason="it was right", actor="bob")
    session.fork(at=3, id="other", reason="to compare", actor="eve")
    audit = session.audit()
    assert [(fact.branch, fact.type, fact.actor, fact.why) for fact in audit.moves.newest] == [
        ("b2", "session.rewound", "ann", "wrong path"),
        ("b1", "session.switched", "bob", "it was right"),
    ]
    assert audit.moves.newest[0].says == f"from {line[:8]}@4"
    assert [(fork.session, fork.made.actor, fork.made.why) for fork in audit.forks] == [("other", "eve", "to compare")]
    assert audit.events == 8  # each once: what the second line shares is not counted twice
    of_fork = store.session("other").audit()
    assert of_fork.events == 4
    assert of_fork.moves.newest[0].actor == "eve"
    store.delete("other", reason="compared", actor="dpo")
    after = session.audit()
    assert after.forks == ()
    assert [(each.actor, each.reason) for each in after.deletions] == [("dpo", "compared")]


def test_erasures_and_holds_come_from_the_ledger_with_who_and_why(store, session):
    session.extend([NewEvent("note", {"content": f"n{number}"}) for number in range(6)])
    fork = session.fork(at=5, id="other")
    session.erase([1, 2], reason="asked for", actor="dpo")
    fork.erase([4], reason="through a fork", actor="eve")
    session.hold(reason="case 12", actor="law")
    session.release(reason="closed", actor="law")
    session.hold(reason="case 13", name="case-13")
    store.create("elsewhere").hold(reason="not about it")
    audit = session.audit()
    assert [(each.actor, each.reason, each.events, each.first, each.last) for each in audit.erasures] == [
        ("dpo", "asked for", 2, 1, 2),
        ("eve", "through a fork", 1, 4, 4),
    ]
    assert [(each.held, each.actor, each.reason, each.recorded) for each in audit.holds] == [
        (True, "law", "case 12", True),
        (False, "law", "closed", True),
        (True, None, "case 13", True),
    ]
    assert audit.held_by == ("case-13",)
    assert audit.erased == 3
    assert any("3 erased" in text for text in audit.untold)
    assert any("nothing hashes them" in text for text in audit.untold)


def test_leases_say_who_held_it_what_lapsed_and_how_long_nobody_did(world):
    session = world.beside()
    with session.lease("w1", ttl=10):
        session.append("note", {"content": "a"})
    world.clock.advance(seconds=5)
    left = world.beside().lease("w2", ttl=10)
    world.boot += 60
    world.clock.advance(seconds=60)
    with world.beside().lease("w3", ttl=10):
        leases = world.beside().audit().leases
    assert (leases.count, leases.lapsed, leases.handovers) == (3, 1, 2)
    assert [(each.holder, each.lapsed) for each in leases.newest] == [("w1", False), ("w2", True), ("w3", False)]
    assert leases.newest[1].gap_seconds >= 5
    assert leases.newest[2].ended is None
    assert left.token == 2


def test_what_was_redacted_and_summarized_is_counted(session):
    session.append("note", {"content": f"the token is {TOKEN}"})
    for number in range(30):
        session.append("user.message", {"content": f"fact {number} " * 200})
    session.summarize(lambda _: {"content": "short", "method": "asked", "usage": {"model": "small"}})
    session.append("agent.message", {"content": "hi"}, metadata={"model": "large"})
    audit = session.audit()
    assert audit.models == {"large": 1}
    assert set(audit.summaries) == {"asked by small, level 0"}
    assert sum(audit.rules.values()) == 1
    assert TOKEN not in str(audit.to_dict())
    assert sum(audit.summaries.values()) >= 1


def test_what_no_seal_covers_is_said(store, session, tmp_path):
    session.append("note", {"content": "a"})
    keys = store.keys(tmp_path / "keys")
    keys.new()
    seal = store.seal(keys=keys)
    session.append("note", {"content": "b"})
    audit = session.audit()
    assert (audit.seal.size, audit.seal.root, audit.seal.events) == (seal.head.size, seal.head.root, 1)
    assert [(line.name, line.size, line.sealed) for line in audit.lines] == [("b1", 2, 1)]


def test_of_each_kind_the_newest_are_listed_and_all_are_counted(session):
    session.extend([NewEvent("decision", {"choice": number}, rationale="x" * 5_000) for number in range(50)])
    audit = session.audit(limit=3)
    assert audit.decisions.count == 50
    assert [fact.says for fact in audit.decisions.newest] == ["47", "48", "49"]
    assert all(len(fact.why) == WORDS_CHARACTERS for fact in audit.decisions.newest)
    for wrong in (0, 1_001, True):
        with pytest.raises(LimitError):
            session.audit(limit=wrong)


def test_any_number_of_names_takes_a_bounded_place(session):
    session.extend([NewEvent(f"x.t{number}", actor=f"a{number}") for number in range(NAMES_MAX + 50)])
    audit = session.audit()
    assert len(audit.actors) == NAMES_MAX + 1
    assert audit.actors[0].actor == OTHERS
    assert audit.actors[0].events == 50
    assert len(audit.types) == NAMES_MAX + 1
    assert sum(each.events for each in audit.actors) == audit.events


@pytest.mark.parametrize(
    ("event", "metadata"),
    [
        (NewEvent("model.request", {"model": "m", "manifest": {"items": 3}}), None),
        (
            NewEvent("decision", {"choice": {"a": [None]}, "question": "q"}),
            {"redacted": [{"rule": 3}, 7, {"rule": "r"}]},
        ),
        (NewEvent("note", {"content": ["a", {"b": None}]}), {"redacted": "no list"}),
        (NewEvent("x.own", 3.5), None),
        (NewEvent("error", {"message": ""}), None),
    ],
)
def test_data_of_an_unusual_shape_stops_nothing(session, event, metadata):
    session.append(event.type, event.data, metadata=metadata, outcome="error")
    audit = session.audit(verify=True)
    assert audit.events == 1
    assert audit.troubles.count == 1
    assert audit.unreadable == 0


def test_a_body_that_cannot_be_read_is_counted_and_told_by_verification(tmp_path):
    path = tmp_path / "store.db"
    with everlog.open(path) as store:
        store.create("run", events=[NewEvent("note", {"content": "aaaa"}), NewEvent("note", {"content": "b"})])
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE event SET body = CAST('{\"data\":' AS BLOB) WHERE position = 0")
    connection.close()
    with everlog.open(path) as store:
        audit = store.session("run").audit(verify=True)
    assert (audit.events, audit.unreadable) == (2, 1)
    assert not audit.verification.ok


def test_it_is_json_and_the_async_face_gives_the_same(tmp_path):
    async def both():
        async with await everlog.open_async(tmp_path / "store.db") as store:
            session = await store.create("run")
            await session.append("decision", {"choice": 1}, rationale="why")
            return await session.audit(verify=True), session.sync.audit(verify=True)

    one, other = asyncio.run(both())
    assert msgspec.json.decode(msgspec.json.encode(one.to_dict()))["v"] == "everlog/1/audit"
    assert msgspec.structs.replace(one, made="") == msgspec.structs.replace(other, made="")


def test_policies_that_cannot_be_read_are_told_and_stop_nothing(store, session):
    session.hold(reason="case 12")
    policies = store.session("retention/policies")
    policies.append("state.set", {"path": "/broken", "value": {"action": "hold", "query": ""}})
    policies.append("state.set", {"path": "/a/b", "value": 3})
    policies.append("state.patch", {"ops": [{"op": "remove", "path": 7}]})
    audit = session.audit()
    assert [each.reason for each in audit.holds] == ["case 12"]
    assert audit.held_by == ()
    assert any(text.startswith("what holds the session now: ") for text in audit.untold)


def test_a_damaged_record_of_the_ledger_stops_nothing(tmp_path):
    path = tmp_path / "store.db"
    with everlog.open(path) as store:
        session = store.create("run", events=[NewEvent("note", {"content": "a"})])
        session.fork(at=1, id="other")
        store.delete("other", reason="over")
        session.hold(reason="case 12")
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE ledger SET record = CAST(record || '}' AS BLOB)")
    connection.close()
    with everlog.open(path) as store:
        audit = store.session("run").audit()
    assert audit.deletions == ()
    assert [(each.held, each.recorded) for each in audit.holds] == [(True, False)]


@pytest.mark.parametrize(
    "statement", ["UPDATE ledger SET record = ?", "UPDATE event SET body = ? WHERE position = 1 AND type = 'note'"]
)
def test_what_is_nested_too_deep_in_the_rows_is_told_and_stops_nothing(tmp_path, statement):
    path = tmp_path / "store.db"
    with everlog.open(path) as store:
        session = store.create("run", events=[NewEvent("note", {"content": text}) for text in "abc"])
        session.hold(reason="case 12")
        session.release(reason="closed")
        store.search("a b")
    connection = apsw.Connection(str(path))
    connection.execute(statement, (b'{"kind":"hold","z":' + b"[" * 100_000,))
    connection.close()
    with everlog.open(path) as store:
        session = store.session("run")
        assert not store.verify().ok
        assert session.audit().events == 3
        session.erase([1], reason="asked")
        assert session[1].erased
