"""Ledger records: canonical bytes, and nothing in them that a session is called."""

from __future__ import annotations

import hmac
import json
from hashlib import sha256
from random import Random

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from everlog.core.ledger import (
    LEDGER_FORMAT,
    CurrentRecord,
    DeleteRecord,
    EraseRecord,
    HoldRecord,
    LedgerRecord,
    SessionRecord,
    commit_session,
    encode_record,
    read_erase_record,
    record_hash,
)

SALT = bytes(range(32))


def random_record(random: Random) -> LedgerRecord:
    def digest(size: int = 32) -> str:
        return random.randbytes(size).hex()

    def number() -> int:
        return random.choice([0, 1, 2**53 - 1, random.randrange(2**53)])

    session, t = digest(16), number()
    actor = random.choice([msgspec.UNSET, "ada", "agent:7/x+y"])
    match random.randrange(5):
        case 0:
            return SessionRecord(commitment=digest(), session=session, t=t)
        case 1:
            return CurrentRecord(branch=digest(16), root=digest(), session=session, size=number(), t=t)
        case 2:
            events = [(number(), digest()) for _ in range(random.randrange(4))]
            return EraseRecord(actor=actor, events=events, session=session, t=t)
        case 3:
            return HoldRecord(event=(number(), digest()), held=random.choice([True, False]), session=session, t=t)
        case _:
            branches = [(digest(16), number(), digest()) for _ in range(random.randrange(4))]
            return DeleteRecord(actor=actor, branches=branches, session=session, t=t)


def test_records_have_the_bytes_of_rfc_8785() -> None:
    random = Random(9162)
    kinds = set()
    for _ in range(4_000):
        record = random_record(random)
        encoded = encode_record(record)
        assert encoded == rfc8785.dumps(msgspec.to_builtins(record))
        read = json.loads(encoded)
        assert read["v"] == LEDGER_FORMAT
        assert msgspec.convert(read, type(record), strict=True) == record
        kinds.add(read["kind"])
    assert kinds == {"session", "current", "erase", "delete", "hold"}


def test_an_erase_record_reads_back_and_no_other_is_taken_for_one() -> None:
    record = EraseRecord(actor="ada", events=[(3, "ab" * 32)], session="00" * 16, t=1)
    encoded = encode_record(record)
    assert read_erase_record(encoded) == record
    assert record_hash(encoded) == sha256(b"\x00" + encoded).digest()
    other = encode_record(DeleteRecord(branches=[], session="00" * 16, t=1))
    for wrong in (other, b"{}", b"no json", encoded.replace(b"everlog/1/ledger", b"everlog/2/ledger")):
        assert read_erase_record(wrong) is None


def test_a_sessions_commitment_is_the_hmac_of_what_it_is_called() -> None:
    message = b'everlog/1/session\x00["a/b","T",[["env","prod"],["team","x"]]]'
    expected = hmac.new(SALT, message, "sha256").hexdigest()
    assert commit_session(SALT, "a/b", "T", {"team": "x", "env": "prod"}) == expected


def test_the_order_of_labels_does_not_change_the_commitment() -> None:
    one = commit_session(SALT, "s", None, {"a": "1", "b": "2"})
    assert one == commit_session(SALT, "s", None, {"b": "2", "a": "1"})


@pytest.mark.parametrize(
    ("name", "title", "labels"),
    [("t", None, {}), ("s", "t", {}), ("s", "", {}), ("s", None, {"a": "1"}), ("s", None, {"a": "2"})],
)
def test_any_other_name_title_or_label_gives_another_commitment(
    name: str, title: str | None, labels: dict[str, str]
) -> None:
    assert commit_session(SALT, name, title, labels) != commit_session(SALT, "s", None, {})
    assert commit_session(SALT, name, title, labels) != commit_session(bytes(32), name, title, labels)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(names, st.none() | names, st.dictionaries(names, names, max_size=4))
def test_the_committed_message_is_canonical_json(name: str, title: str | None, labels: dict[str, str]) -> None:
    message = rfc8785.dumps([name, title, [list(item) for item in sorted(labels.items())]])
    expected = hmac.new(SALT, b"everlog/1/session\x00" + message, "sha256").hexdigest()
    assert commit_session(SALT, name, title, labels) == expected
