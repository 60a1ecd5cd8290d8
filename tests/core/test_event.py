"""Heads, causes and events: what is written as text or bytes reads back as it was."""

import os

import hypothesis.strategies as st
import pytest
from hypothesis import given

import everlog
from everlog.core.event import (
    EMPTY_HEAD,
    Cause,
    Head,
    PreparedAttachment,
    decode_attached,
    encode_attached,
    event_id,
)
from everlog.core.position import parse_event_id
from everlog.errors import InvalidPlaceError

DIGESTS = st.binary(min_size=32, max_size=32)
WRITERS = st.binary(min_size=16, max_size=16).map(bytes.hex)
POSITIONS = st.integers(0, 2**53 - 1)


@given(POSITIONS, DIGESTS)
def test_a_head_reads_back_from_its_text(size, root):
    head = Head(size, root.hex())
    assert Head.parse(str(head)) == head


@pytest.mark.parametrize(
    "text", ["", "5", "5:", ":" + "0" * 64, "-1:" + "0" * 64, "5:" + "A" * 64, "5:" + "0" * 63, "x:" + "0" * 64]
)
def test_what_is_no_head_is_refused(text):
    with pytest.raises(InvalidPlaceError, match="SIZE:ROOT"):
        Head.parse(text)


def test_the_empty_head_is_that_of_an_empty_session():
    with everlog.open("memory:") as store:
        assert store.create("s").head == EMPTY_HEAD


@given(WRITERS, POSITIONS, DIGESTS)
def test_a_cause_reads_back_from_its_bytes(writer, position, leaf):
    cause = Cause(writer, position, leaf)
    assert Cause.unpack(cause.pack()) == cause
    assert len(cause.pack()) == 56


@given(WRITERS, POSITIONS)
def test_an_events_id_reads_back(writer, position):
    place = parse_event_id(event_id(writer, position))
    assert place is not None
    assert (place.writer, place.position) == (writer, position)


@given(st.lists(st.tuples(st.text(min_size=1, max_size=9), st.integers(0, 2**40)), max_size=4))
def test_a_list_of_attachments_reads_back(named):
    encoded = encode_attached([PreparedAttachment(name, size, None, None) for name, size in named])
    assert ([] if encoded is None else decode_attached(encoded)) == named


def test_an_event_as_json_values_leaves_out_what_is_absent():
    with everlog.open("memory:") as store:
        session = store.create("s")
        cause = session.append("note", {"content": "x"})
        event = session.append(
            "my.thing",
            {"a": 1},
            key="k",
            outcome="ok",
            occurred_at=1,
            caused_by=cause,
            attachments={"f": os.urandom(3)},
        )
        assert set(cause.to_dict()) == {"id", "session", "branch", "position", "type", "data", "recorded_at", "hash"}
        assert event.to_dict()["attachments"] == [{"name": "f", "size": 3}]
        assert event.to_dict()["occurred_at"] == "1970-01-01T00:00:00.000001Z"
        assert event.to_dict()["caused_by"] == cause.id
        assert repr(event).startswith("<Event 's'@1 my.thing ")
        assert len({event, session[1]}) == 1
        assert event != "something else"
