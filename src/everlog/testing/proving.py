"""What proofs promise: they hold for the heads that they were made for, whichever line and branch they are of."""

from __future__ import annotations

from typing import Any

import pytest

from everlog.core.event import Head
from everlog.core.proof import EventProof, read_proof
from everlog.errors import InvalidPlaceError, LimitError, NotFoundError, TamperedError
from everlog.testing.start import ContractStart, note


class ProofContract(ContractStart):
    """What proofs promise: they hold for the heads that they were made for, whichever line and branch they are of."""

    def test_an_event_is_proved_to_whoever_holds_the_head(self, ten: Any) -> None:
        head = ten.head
        proof = ten.prove(3)
        ten.append("note", {"content": "later"})
        proof.verify(head)
        read = read_proof(proof.encode())
        assert isinstance(read, EventProof)
        read.verify(head)
        assert (proof.position, proof.head) == (3, head)
        assert '"content":"n3"' in (proof.event.body or "")
        with pytest.raises(TamperedError, match="of another head"):
            proof.verify(ten.head)
        ten.prove(3, at=head).verify(head)
        ten.prove(ten.event(3), at=7).verify(ten.head_at(7))

    def test_a_body_is_shown_only_where_it_is_there_and_asked_for(self, ten: Any) -> None:
        hidden = ten.prove(3, body=False)
        assert (hidden.event.body, hidden.event.salt) == (None, None)
        hidden.verify(ten.head)
        before = ten.prove(4)
        ten.erase([4], reason="it was private")
        erased = ten.prove(4)
        assert erased.event.body is None and erased.path == before.path
        erased.verify(ten.head)

    def test_proofs_are_the_same_where_bodies_went_cold(self, ten: Any, store: Any) -> None:
        ten.extend([note(f"more {number}") for number in range(140)])
        before = (ten.prove(77), ten.prove_range(60, 70), ten.prove_consistency(33))
        store.compact(older_than=0)
        assert (ten.prove(77), ten.prove_range(60, 70), ten.prove_consistency(33)) == before

    def test_a_range_is_proved_with_its_events(self, ten: Any) -> None:
        proof = ten.prove_range(2, 7)
        proof.verify(ten.head)
        assert (proof.start, len(proof.events)) == (2, 5)
        ten.prove_range(0, 10).verify(ten.head)
        ten.prove_range(9, "end", body=False).verify(ten.head)

    def test_that_nothing_was_changed_since_a_head_is_proved(self, ten: Any) -> None:
        old = ten.head
        ten.extend([note(f"more {number}") for number in range(25)])
        proof = ten.prove_consistency(old)
        proof.verify(old=old, new=ten.head)
        with pytest.raises(TamperedError):
            proof.verify(old=Head(old.size, "ab" * 32), new=ten.head)
        ten.prove_consistency(1, 10).verify(old=ten.head_at(1), new=old)

    def test_a_fork_and_a_rewind_are_proved_to_share_what_they_share(self, ten: Any, store: Any) -> None:
        fork = ten.fork(at=6, id="other")
        ten.append("note", {"content": "here"})
        fork.extend([note("there"), note("there too")])
        proof = ten.prove_fork(fork)
        proof.verify(one=ten.head, other=store.session("other").head)
        assert proof.cut == ten.head_at(6)
        fork.prove(2).verify(fork.head)  # an event that it shares, written on another branch
        fork.prove_range(3, 8).verify(fork.head)
        ten.rewind(4, reason="again")
        line = ten.branch("b1")
        ten.prove_fork(line).verify(one=ten.head, other=line.head)
        line.prove(8).verify(line.head)

    def test_what_has_no_proof_is_refused(self, ten: Any, store: Any) -> None:
        other = store.create("alone", events=[note("one")])
        for ask in (
            lambda: ten.prove(5, at=5),
            lambda: ten.prove_range(4, 4),
            lambda: ten.prove_range(4, 8, at=7),
            lambda: ten.prove_consistency(0),
            lambda: ten.prove_consistency(8, 7),
            lambda: ten.prove_consistency(Head(5, "ab" * 32)),
            lambda: ten.prove(5, at=Head(50, "ab" * 32)),
            lambda: ten.prove_fork(other),
        ):
            with pytest.raises(InvalidPlaceError):
                ask()
        with pytest.raises(NotFoundError):
            ten.prove(50)
        ten.extend([note("x")] * 1_000)
        with pytest.raises(LimitError):
            ten.prove_range(0, "end")
