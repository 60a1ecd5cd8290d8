"""What sealing promises: all that was recorded gets its place in the ledger's tree, and whatever is changed after a seal shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from everlog.core.ledger import HeadRecord, read_record
from everlog.core.limits import SAFE_INTEGER_MAX
from everlog.core.merkle import leaf_hash, push_leaf, root_of_peaks
from everlog.core.sealed_proof import read_sealed_proof
from everlog.errors import NotFoundError, TamperedError
from everlog.testing.start import ContractStart, note


def storage_of(store: Any) -> Any:
    """Give the door of a store, of whichever face."""
    return store.storage if hasattr(store, "storage") else store.sync.storage


def kinds_of(store: Any) -> list[str]:
    """Give the kinds of the ledger's records in their order, whose leaves and nodes are checked on the way."""
    storage = storage_of(store)
    tree = storage.ledger_tree()
    peaks: list[bytes] = []
    kinds: list[str] = []
    for place, row in enumerate(storage.placed(0, tree.size)):
        assert row.leaf == leaf_hash(row.record)
        assert row.nodes == push_leaf(peaks, place, row.leaf)
        kinds.append(msgspec.json.decode(row.record)["kind"])
    assert b"".join(peaks) == tree.peaks and len(kinds) == tree.size
    assert tree.head().root == root_of_peaks(peaks).hex()
    return kinds


class SealContract(ContractStart):
    """What sealing promises: all that was recorded gets its place in the ledger's tree, and whatever is changed after a seal shows."""

    @pytest.fixture
    def keys(self, store: Any, tmp_path: Path) -> Any:
        made = store.keys(tmp_path / "keys")
        made.new()
        return made

    def test_records_get_their_places_and_changed_branches_their_heads(self, ten: Any, store: Any, keys: Any) -> None:
        assert storage_of(store).ledger_tree().size == 0
        assert store.seal(keys=keys).head.size == 3
        assert kinds_of(store) == ["key", "session", "head"]
        fork = ten.fork(at=4, id="other")
        ten.rewind(6, reason="again")
        store.create("empty")
        seal = store.seal(keys=keys)
        assert kinds_of(store)[3:] == ["session", "current", "session", "head", "head"]
        assert seal.head.size == 8
        heads = [read_record(row.record, HeadRecord) for row in storage_of(store).placed(6, 8)]
        assert {record.branch: record.head for record in heads} == {
            fork.branch_id: fork.head,
            ten.branch_id: ten.head,
        }
        assert {record.base_size for record in heads} == {4, 6}
        assert {record.base for record in heads} == {ten.branch("b1").id}

    def test_where_nothing_is_new_the_last_seal_is_given_again(self, ten: Any, store: Any, keys: Any) -> None:
        first = store.seal(keys=keys)
        assert store.seal(keys=keys).note == first.note
        assert [seal.note for seal in store.seals()] == [first.note]
        ten.append("note", {"content": "more"})
        assert store.seal(keys=keys).head.size == first.head.size + 1
        assert [seal.head.size for seal in store.seals()] == [4, 3]

    def test_an_event_is_proved_up_to_a_seal(self, ten: Any, store: Any, keys: Any) -> None:
        with pytest.raises(NotFoundError, match="no seal covers"):
            ten.prove_sealed(3)
        store.seal(keys=keys)
        ten.append("note", {"content": "later"})
        store.seal(keys=keys)
        fork = ten.fork(at=5, id="other")
        for line, position in ((ten, 3), (ten, 10)):
            proof = line.prove_sealed(position)
            found = read_sealed_proof(proof.encode()).verify(keys.verifier)
            assert found.record.branch == ten.branch_id
            assert found.record.size == (10 if position == 3 else 11)
        with pytest.raises(NotFoundError):
            fork.prove_sealed(5)
        store.seal(keys=keys)
        fork.prove_sealed(3).verify(keys.verifier)

    def test_what_is_sealed_verifies_and_what_is_not_is_counted(self, ten: Any, store: Any, keys: Any) -> None:
        assert store.verify().unsealed == 10
        store.seal(keys=keys)
        ten.extend([note("more"), note("and more")])
        report = store.verify(keys=[keys.verifier])
        assert (report.ok, report.unsealed, report.seals) == (True, 2, 1)
        assert ten.verify().unsealed == 2
        ten.fork(at=4, id="other")
        store.seal(keys=keys)
        report = store.verify(keys=[keys.verifier], seals=[keys.folder / "seals.txt"])
        assert (report.ok, report.unsealed, report.seals) == (True, 0, 4)
        stranger = store.keys(keys.folder / "others")
        report = store.verify(keys=[stranger.new()])
        assert (report.ok, report.seals, report.unsealed) == (True, 0, 13)

    def test_erased_and_deleted_is_recorded_in_the_ledger_and_what_is_left_verifies(
        self, ten: Any, store: Any, keys: Any
    ) -> None:
        store.seal(keys=keys)
        store.create("gone", events=[note("x")])
        store.seal(keys=keys)
        ten.erase([3], reason="private")
        store.delete("gone", reason="over")
        store.seal(keys=keys)
        assert kinds_of(store) == ["key", "session", "head", "session", "head", "erase", "delete"]
        report = store.verify(keys=[keys.verifier])
        assert (report.ok, report.erased) == (True, 1)
        ten.prove_sealed(3).verify(keys.verifier)

    def test_a_seal_that_others_kept_tells_that_the_store_is_another(
        self, ten: Any, store: Any, keys: Any, tmp_path: Path
    ) -> None:
        ten.append("note", {"content": "x"})
        store.seal(keys=keys)
        kept = tmp_path / "kept.txt"
        kept.write_bytes((keys.folder / "seals.txt").read_bytes())
        text = kept.read_text()
        assert store.verify(keys=[keys.verifier], seals=[kept]).ok
        seal = store.seals()[0]
        kept.write_text(text.replace(f"\n{seal.head.size}\n", f"\n{seal.head.size + 5}\n"))
        report = store.verify(seals=[kept])
        assert "records are gone" in report.faults[0].what
        kept.write_text("what is no seal\n")
        with pytest.raises(TamperedError):
            store.verify(seals=[kept])
        assert storage_of(store).seals(SAFE_INTEGER_MAX, 5)[0].note == seal.note.encode()
