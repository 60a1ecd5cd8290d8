"""What erasing promises: what goes is shown before, certified after, on record; what is held stays."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from everlog.certificates import read_certificate
from everlog.core.event import NewEvent
from everlog.core.ledger import record_hash
from everlog.errors import ApprovalError, HeldError, InvalidEventError, InvalidQueryError, LimitError, NotFoundError
from everlog.testing.clock import FixedClock
from everlog.testing.retaining import DAY, HELD
from everlog.testing.start import ContractStart, note, texts


class ErasingContract(ContractStart):
    """What erasing promises: what goes is shown before, certified after, on record; what is held stays."""

    # --- plans ---
    def test_a_plan_of_an_erasure_lists_what_derives_from_it_and_changes_nothing(self, store: Any) -> None:
        said = [NewEvent("user.message", {"content": f"we must keep number {number}. " * 20}) for number in range(40)]
        session = store.create("s", events=said)
        session.extend(
            [
                NewEvent("agent.tool_use", {"id": "c1", "name": "bash", "input": {}}),
                NewEvent("agent.tool_result", {"tool_use_id": "c1", "content": "3 failed"}),
                NewEvent("note", {"content": "see"}, attachments={"a.txt": b"12345", "b": b"6"}),
            ]
        )
        session.summarize(leaf_tokens=100)
        context = session.context(2_000)
        session.record_request(context, model="m")
        session.fork(id="f")
        size = session.refresh().size
        plan = session.plan_erasure([3, 41, 42])
        assert (plan.session, plan.events, plan.before, plan.attachments) == ("s", 3, 0, 2)
        assert [(each.session, each.position, each.type, each.attachments) for each in plan.listed] == [
            ("s", 3, "user.message", 0),
            ("s", 41, "agent.tool_result", 0),
            ("s", 42, "note", 2),
        ]
        assert plan.bytes == sum(each.bytes for each in plan.listed)
        assert plan.listed[2].bytes == len(session[42].raw) + 6
        assert plan.summary_count == len(plan.summaries) > 0
        assert (plan.sharing, plan.sharing_count) == (("f",), 1)
        assert (plan.requests, plan.results, plan.uses) == (1, 1, 0)
        assert plan.holds == ()
        assert session.refresh().size == size
        assert not any(event.erased for event in session.slice())
        certificate = session.erase([3, 41, 42], reason="asked")
        gone = {(each.session, each.position) for each in plan.summaries}
        assert {("s", event.position) for event in session.events("type:summary") if event.erased} == gone
        assert len(certificate.records) == 2, "one of the summaries, and one of the events"
        again = session.plan_erasure([3, 41, 42, 40])
        assert (again.events, again.before, again.uses) == (1, 3, 1)
        assert not session.saw(-1).exact

    def test_a_plan_names_what_is_in_the_way(self, store: Any) -> None:
        session = store.create("s", events=[note("a"), note("b"), note("c")])
        fork = session.fork(2, id="f")
        fork.hold(reason="the court asked")
        hold = session.plan_erasure([1, 2]).holds[0]
        assert (hold.session, hold.policy, hold.reason) == ("f", f"session-{fork.uuid}", "the court asked")
        assert session.plan_erasure([2]).holds == ()
        assert session.plan_erasure([]).events == 0

    # --- what goes ---
    def test_attachments_go_with_their_names_and_a_repeated_key_gives_what_was_recorded(self, store: Any) -> None:
        session = store.create("s", events=[note("a")])
        new = NewEvent("note", {"content": "x"}, key="k", attachments={"ada lovelace.txt": b"12345"})
        (event,) = session.extend([new])
        fork = session.fork(id="f")
        session.erase([event.position], reason="asked")
        for line in (session, fork):
            assert line[event.position].attachments == ()
            with pytest.raises(NotFoundError, match="were erased or withheld, and so were their names"):
                line[event.position].attachment("ada lovelace.txt")
        (again,) = session.extend([new])
        assert (again.repeated, again.hash) == (True, event.hash)
        assert store.verify().ok

    # --- certificates ---
    def test_a_certificate_says_what_was_erased_when_by_whom_and_why(self, store: Any, session: Any) -> None:
        session.extend([note("secret a"), note("b"), note("secret c")])
        head = session.refresh()
        certificate = session.erase([2, 0], reason="asked for", actor="ada")
        assert (certificate.positions, certificate.before, certificate.head) == ((0, 2), (), head)
        assert (certificate.store, certificate.session) == (store.id, session.uuid)
        assert session.refresh() == head
        (record,) = certificate.records
        said = msgspec.json.decode(record.record)
        assert (said["kind"], said["actor"], said["session"]) == ("erase", "ada", session.uuid)
        assert said["events"] == [[0, session[0].hash], [2, session[2].hash]]
        assert (record.reason, record.hash) == ("asked for", record_hash(record.record.encode()).hex())
        assert b"secret" not in certificate.encode()
        assert b'"s"' not in certificate.encode(), "it names ids, and no names"
        checked = store.check_certificate(read_certificate(certificate.encode()))
        assert (checked.ok, checked.events, checked.faults) == (True, 2, ())

    def test_a_certificate_can_be_made_again_and_of_more_than_one_erasure(self, store: Any, session: Any) -> None:
        session.extend([note(str(number)) for number in range(5)])
        session.erase([1], reason="first")
        certificate = session.erase([1, 3], reason="second")
        assert (certificate.positions, certificate.before) == ((3,), (1,))
        assert [record.reason for record in certificate.records] == ["first", "second"]
        made = session.certificate([1, 3])
        assert (made.positions, made.records) == ((1, 3), certificate.records)
        assert store.check_certificate(made).ok
        with pytest.raises(NotFoundError, match=r"event 2 .* was not erased"):
            session.certificate([1, 2])

    def test_a_certificate_that_was_changed_or_is_of_another_store_is_told(self, store: Any, session: Any) -> None:
        session.extend([note(str(number)) for number in range(5)])
        certificate = session.erase([1], reason="asked", actor="ada")
        other = session.erase([2], reason="asked", actor="bob")
        (record,) = certificate.records
        changed = msgspec.structs.replace(record, record=record.record.replace('"actor":"ada"', '"actor":"bob"'))
        no_hash = msgspec.structs.replace(record, record=record.record.replace('"events":[[1,"', '"events":[[1,"é'))
        for wrong, said in (
            ({"store": "0" * 32}, "of the store"),
            ({"root": "0" * 64}, "another root"),
            ({"size": 99}, "not in this store up to 99"),
            ({"branch": "0" * 32}, "is not in this store"),
            ({"positions": (1, 2)}, "none of its records names event 2"),
            ({"records": other.records}, "none of its records names event 1"),
            ({"records": (changed,)}, "not of the hash"),
            ({"records": (no_hash,)}, "not of the hash"),
            (
                {"records": (msgspec.structs.replace(changed, hash=record_hash(changed.record.encode()).hex()),)},
                "does not stand in this store's ledger",
            ),
        ):
            checked = store.check_certificate(msgspec.structs.replace(certificate, **wrong))
            assert not checked.ok
            assert any(said in fault for fault in checked.faults), (wrong, checked.faults)
        with pytest.raises(InvalidEventError, match="this is no certificate"):
            read_certificate(b'{"v": 1}')
        with pytest.raises(InvalidEventError, match="of format 'x/1'"):
            read_certificate(certificate.encode().replace(b"everlog/1/certificate", b"x/1"))

    def test_who_erases_or_deletes_is_named_by_an_opaque_id(self, store: Any, session: Any) -> None:
        session.append("note", {"content": "a"})
        with pytest.raises(InvalidEventError, match="actor 'a b'"):
            session.erase([0], reason="r", actor="a b")
        with pytest.raises(InvalidEventError, match="actor 'a b'"):
            store.delete("s", reason="r", actor="a b")
        store.delete("s", reason="r", actor="ada")

    # --- by subject ---
    def test_erasing_by_subject_takes_all_lines_of_all_sessions_that_match(self, store: Any) -> None:
        for name in ("a", "b", "c"):
            store.create(name, labels={"user": "u7" if name < "c" else "u8"}, events=[note(name), note(f"{name} left")])
        store.session("a").rewind(1)
        fork = store.session("a").fork("end", id="f", labels={"user": "u8"})
        work = store.erase("label.user:u7", reason="asked for by u7", dry_run=True)
        assert (work.sessions, work.events, texts(store.session("b"))) == (2, 5, ["b", "b left"])
        made: list[Any] = []
        done = store.erase("label.user:u7", reason="asked for by u7", actor="ada", certified=made.append)
        assert (done.sessions, done.events, done.bytes) == (2, 5, work.bytes)
        assert [each.events for each in done.due] == [3, 2]
        for name in ("a", "b"):
            for branch in store.session(name).branches():
                assert all(event.erased for event in branch.events())
        assert fork[0].erased
        assert texts(store.session("c")) == ["c", "c left"]
        assert sum(len(each.positions) for each in made) == 5
        assert all(store.check_certificate(each).ok for each in made)
        assert {(each.reason, msgspec.json.decode(each.record)["actor"]) for one in made for each in one.records} == {
            ("asked for by u7", "ada")
        }
        assert store.erase("label.user:u7", reason="again").events == 0
        assert store.verify().ok

    def test_erasing_by_subject_spares_what_is_held_and_says_so_and_cares_not_for_what_is_kept(
        self, store: Any
    ) -> None:
        for name in ("a", "b"):
            store.create(name, labels={"user": "u7"}, events=[note(name), NewEvent("user.message", {"content": "x"})])
        store.session("a").hold(reason="the court asked")
        store.retention.set("all", action="keep", query="session:*")
        done = store.erase("label.user:u7", reason="r", types="note")
        assert (done.events, done.spared_events, done.spared[0].session) == (1, 2, "a")
        assert [event.erased for event in store.session("b")] == [True, False]
        assert not store.session("a")[0].erased

    def test_erasing_by_subject_refuses_what_names_nothing(self, store: Any) -> None:
        with pytest.raises(InvalidEventError, match="names no sessions"):
            store.erase(" ", reason="r")
        with pytest.raises(InvalidQueryError):
            store.erase("type:note", reason="r")
        with pytest.raises(InvalidEventError, match="names the type"):
            store.erase("session:*", reason="r", types="No te")
        with pytest.raises(LimitError):
            store.erase("session:*", reason="r", types=["note"] * 65)
        with pytest.raises(InvalidEventError, match="say why"):
            store.erase("session:*", reason="")

    # --- holds ---
    def test_a_hold_of_one_session_is_recorded_and_refuses_erasure_until_it_is_released(self, store: Any) -> None:
        session = store.create('odd "name" *\\', events=[note("a")])
        other = store.create("other", events=[note("a")])
        policy = session.hold(reason="the court asked", actor="ada")
        session.hold(reason="the auditor asked", name="audit-7")
        assert [each.name for each in session.holds()] == ["audit-7", policy.name]
        assert other.holds() == []
        with pytest.raises(HeldError, match="because: the auditor asked"):
            session.erase([0], reason="r")
        with pytest.raises(HeldError):
            store.delete(session.id, reason="r")
        assert other.erase([0], reason="r").positions == (0,)
        session.release(reason="audited", name="audit-7")
        with pytest.raises(HeldError, match="the court asked"):
            session.erase([0], reason="r")
        session.release(reason="closed", actor="bob")
        assert session.holds() == []
        with pytest.raises(NotFoundError, match="not held by a policy"):
            session.release(reason="again")
        changes = store.session("retention/policies").slice()
        assert [(event.rationale, event.actor) for event in changes] == [
            ("the court asked", "ada"),
            ("the auditor asked", None),
            ("audited", None),
            ("closed", "bob"),
        ]
        assert session.erase([0], reason="r").positions == (0,)

    def test_a_hold_by_name_never_changes_a_policy_of_other_sessions(self, store: Any) -> None:
        session = store.create("s", events=[note("a")])
        store.retention.set("case-7", action="hold", query="label.case:7")
        for refused in (
            lambda: session.hold(reason="r", name="case-7"),
            lambda: session.release(reason="r", name="case-7"),
        ):
            with pytest.raises(InvalidEventError, match="no hold of session 's' alone"):
                refused()
        assert [each.query for each in store.retention.policies()] == ["label.case:7"]
        with pytest.raises(InvalidEventError, match="names no policy"):
            session.hold(reason="r", name="Case 7")

    # --- two persons ---
    def test_where_two_persons_are_asked_for_nobody_destroys_alone(self, store: Any, clock: FixedClock) -> None:
        session = store.create("s", labels={"class": "record"}, events=[note(str(number)) for number in range(10)])
        other = store.create("other", events=[note("a")])
        retention = store.retention
        policy = retention.set(
            "two", action="approve", query="label.class:record", over=2, within="1d", reason="rule 7", actor="ada"
        )
        assert (policy.over, policy.within) == (2, "1d")
        assert other.erase([0], reason="r").positions == (0,)
        assert session.erase([8, 9], reason="r").positions == (8, 9), "no more than two"
        for refused in (
            lambda: session.erase([1, 2, 3], reason="r", actor="ada"),
            lambda: session.fork(id="f").erase([1, 2, 3], reason="r", actor="bob"),
            lambda: store.delete("s", reason="r", cascade=True),
        ):
            with pytest.raises(ApprovalError, match=r"policy 'two' .* because: rule 7; nothing was") as caught:
                refused()
            assert (caught.value.policy, caught.value.code) == ("two", "approval")
        proposal = retention.propose_erasure(session, [1, 2, 3, 4], reason="asked for by u7", actor="ada")
        with pytest.raises(ApprovalError):
            session.erase([1, 2, 3], reason="r")
        with pytest.raises(InvalidEventError, match="'ada' proposed this"):
            retention.approve(proposal.id, actor="ada")
        approved = retention.approve(proposal.id, actor="bob", reason="seen")
        assert (approved.actor, approved.approved_by, approved.what.events) == ("ada", "bob", 4)
        assert retention.proposals() == [approved]
        with pytest.raises(ApprovalError):
            session.erase([1, 2, 3, 5], reason="r")
        assert session.erase([1, 2, 3], reason="r").positions == (1, 2, 3)
        clock.advance(seconds=2 * DAY)
        assert retention.proposals() == []
        with pytest.raises(ApprovalError):
            session.erase([4, 5, 6], reason="r")
        with pytest.raises(NotFoundError, match="or it has lapsed"):
            retention.approve(proposal.id, actor="bob")
        assert store.verify().ok

    def test_a_deletion_and_a_change_of_the_rule_itself_need_two_persons_too(self, store: Any) -> None:
        session = store.create("s", events=[note("a")])
        session.fork(id="f")
        retention = store.retention
        retention.set("two", action="approve", query="session:*")
        for refused in (
            lambda: store.delete("s", reason="r", cascade=True),
            lambda: retention.remove("two", reason="r"),
            lambda: retention.set("two", action="keep", query="session:*"),
        ):
            with pytest.raises(ApprovalError):
                refused()
        alone = retention.propose_deletion("s", reason="r", actor="ada")
        retention.approve(alone.id, actor="bob")
        with pytest.raises(ApprovalError):
            store.delete("s", reason="r", cascade=True)
        both = retention.propose_deletion(session, reason="r", actor="ada", cascade=True)
        retention.approve(both.id, actor="bob")
        store.delete("s", reason="r", cascade=True, actor="ada")
        retention.set("two", action="approve", query="session:*")  # as it is
        change = retention.propose_change("two", reason="too slow", actor="ada")
        retention.approve(change.id, actor="bob")
        retention.remove("two", reason="too slow", actor="ada")
        store.create("t", events=[note("a")]).erase([0], reason="r")

    def test_what_erases_by_label_is_counted_together_and_can_be_proposed_as_a_whole(
        self, store: Any, clock: FixedClock
    ) -> None:
        for number in range(3):
            store.create(f"s{number}", labels={"user": "u7"}, events=[note("a"), note("b")])
        retention = store.retention
        retention.set("two", action="approve", query="session:s*", over=4)
        retention.set("old", action="erase", query="label.user:u7", older_than="0s")
        clock.advance(seconds=1)
        (work,) = retention.apply()
        assert (work.events, work.spared_events, work.spared[0].by) == (0, 6, "two")
        assert store.erase("label.user:u7", reason="r").spared_events == 6
        proposal = retention.propose_erasure(query="label.user:u7", reason="r", actor="ada")
        assert (proposal.what.events, len(proposal.what.branches)) == (6, 3)
        retention.approve(proposal.id, actor="bob")
        assert store.erase("label.user:u7", reason="r").events == 6

    def test_what_is_no_proposal_or_approval_counts_for_nothing(self, store: Any) -> None:
        session = store.create("s", events=[note("a")])
        retention = store.retention
        with pytest.raises(InvalidEventError, match="no policy asks for two persons"):
            retention.propose_erasure("s", [0], reason="r", actor="ada")
        retention.set("two", action="approve", query="session:*")
        policies = store.session(HELD)
        proposal = retention.propose_erasure("s", [0], reason="r", actor="ada")
        for data, actor in (
            ({"proposal": proposal.id}, "ada"),
            ({"proposal": proposal.id}, None),
            ({"proposal": "ev_1"}, "bob"),
            ({"proposal": 7}, "bob"),
            ({}, "bob"),
        ):
            policies.append("retention.approved", data, actor=actor)
        for data, actor in (
            ({"action": "erase", "branches": 7}, "ada"),
            ({"action": "shred"}, "ada"),
            ({"action": "erase"}, None),
        ):
            policies.append("retention.proposed", data, actor=actor)
        with pytest.raises(ApprovalError):
            session.erase([0], reason="r")
        assert [each.id for each in retention.proposals()] == [proposal.id]
        for wrong, error in (
            (lambda: retention.propose_erasure("s", [], reason="r", actor="ada"), NotFoundError),
            (lambda: retention.propose_erasure(reason="r", actor="ada"), InvalidEventError),
            (
                lambda: retention.propose_erasure("s", [0], query="session:s", reason="r", actor="ada"),
                InvalidEventError,
            ),
            (lambda: retention.propose_erasure("s", [0], reason="r", actor="a b"), InvalidEventError),
            (lambda: retention.propose_erasure("s", [0], reason="r", actor=None), InvalidEventError),
            (lambda: retention.propose_deletion("none", reason="r", actor="ada"), NotFoundError),
            (lambda: retention.propose_change("none", reason="r", actor="ada"), NotFoundError),
            (lambda: retention.approve("none", actor="ada"), NotFoundError),
        ):
            with pytest.raises(error):
                wrong()

    @pytest.mark.parametrize(
        ("members", "said"),
        [
            ({"action": "hold", "over": 2}, "only approving knows those"),
            ({"action": "keep", "within": "1d"}, "only approving knows those"),
            ({"action": "approve", "over": -1}, "no number of events"),
            ({"action": "approve", "over": True}, "no number of events"),
            ({"action": "approve", "within": "0s"}, "needs within"),
            ({"action": "approve", "within": "soon"}, "within 'soon' is no age"),
            ({"action": "approve", "older_than": "1d"}, "takes no older_than"),
        ],
    )
    def test_a_policy_for_two_persons_that_cannot_be_carried_out_is_refused(
        self, store: Any, members: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(InvalidEventError, match=said):
            store.retention.set("p", query="session:*", **members)
