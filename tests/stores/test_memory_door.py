"""The door, spoken to directly: requests in, receipts and pages out, on the store that is its specification."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import msgspec
import pytest

from everlog.core import limits
from everlog.core.decide import Batch, Expected, StaleExpectationError
from everlog.core.event import DELETED, ERASED, Event, Head, NewEvent
from everlog.core.merkle import peak_places, root_of_joined
from everlog.core.prepare import prepare_batch
from everlog.core.query import EVERYTHING, from_keywords
from everlog.errors import (
    KeyReusedError,
    NotFoundError,
    SessionExistsError,
    StaleCursorError,
    UnavailableError,
    UnsupportedStoreError,
)
from everlog.storage import (
    Append,
    Base,
    BranchRow,
    Create,
    Delete,
    Erase,
    Family,
    FeedPlace,
    Receipt,
    Rewind,
    SessionFilter,
    SessionRow,
    Storage,
    Switch,
    Update,
)
from everlog.stores.memory import MemoryStorage
from everlog.testing import FixedClock

DEADLINE_SECONDS = 10


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def store(clock: FixedClock) -> MemoryStorage:
    return MemoryStorage(clock=clock, draw=os.urandom)


def new_id() -> str:
    return os.urandom(16).hex()


def note(text: str, **members: Any) -> NewEvent:
    return NewEvent("note", {"content": text}, **members)


def batch(*events: NewEvent, key: str | None = None, **members: Any) -> Batch:
    prepared = prepare_batch(
        events, draw=os.urandom, read_cause=str.encode, body_bytes_max=limits.BODY_BYTES_MAX, key=key
    )
    return Batch(prepared, key=key, **members)


def create(store: Storage, name: str, *events: NewEvent, base: Base | None = None, of: str | None = None) -> SessionRow:
    """Make a session; where `of` is given, a fork of the session of that name at `base`."""
    origin = None if of is None else store.session(of)
    family = Family(new_id(), os.urandom(32)) if origin is None else origin.family
    branch_id = new_id()
    request = Create(
        session_id=new_id(),
        name=name,
        title=None,
        labels={},
        metadata=None,
        parent=None,
        salt=os.urandom(32),
        family=family,
        branch_id=branch_id,
        writer=branch_id,
        base=base,
        forked_from=None if origin is None else origin.id,
        batch=batch(*events),
    )
    store.write(request)
    return store.session(name)


def append(store: Storage, name: str, *events: NewEvent, **members: Any) -> Receipt:
    return store.write(Append(store.session(name).id, batch(*events, **members)))


def current(store: Storage, name: str) -> BranchRow:
    return store.current_branch(store.session(name).id)


def expected_at(store: Storage, name: str, size: int) -> Expected:
    return Expected(current(store, name).id, size, None)


def base_at(store: Storage, name: str, cut: int) -> Base:
    """Give the base of a fork or rewind at a cut of a session's current branch, cut 1 or later."""
    lineage = store.lineage(current(store, name).key, name)
    peaks = store.tree_nodes(lineage, peak_places(cut))
    row = store.rows(lineage, cut - 1, cut)[0]
    assert row.recorded is not None
    return Base(lineage.owner(cut - 1).branch, cut, b"".join(peaks), row.leaf, row.recorded)


def rewind(store: Storage, name: str, cut: int, *events: NewEvent) -> Receipt:
    left = current(store, name).key
    return store.write(Rewind(store.session(name).id, new_id(), left, base_at(store, name, cut), batch(*events)))


def read(store: Storage, name: str, **members: Any) -> list[Event]:
    branch = current(store, name)
    return store.read(store.lineage(branch.key, name), 0, branch.size, **members).events


def texts(events: Any) -> list[str | None]:
    return [event.data["content"] if event.data else None for event in events]


def all_that_is_there(store: Storage) -> Any:
    """Give what a refused request must leave as it was."""
    listed = store.sessions(SessionFilter(EVERYTHING))
    branches = [store.branches(each.session.key) for each in listed]
    return listed, branches, store.feed_end(), store.ledger(0, 1_000)


# --- appending -----------------------------------------------------------------------------------
def test_an_append_is_read_back_as_its_receipt_says(store: MemoryStorage, clock: FixedClock) -> None:
    create(store, "s")
    receipt = append(store, "s", note("a"), note("b", actor="planner", outcome="ok"))
    events = read(store, "s")
    assert list(receipt.events) == events
    assert texts(events) == ["a", "b"]
    assert [event.position for event in events] == [0, 1]
    assert (events[1].actor, events[1].outcome, events[1].recorded_micros) == ("planner", "ok", clock.micros)
    assert receipt.head == current(store, "s").head()


def test_attachments_are_read_through_the_event_wherever_it_was_read(store: MemoryStorage) -> None:
    create(store, "s")
    append(store, "s", note("chart", attachments={"chart.png": b"png", "raw": b""}, key="c1"), note("plain"))
    [(_, fed), _] = store.feed((), 10).events
    for event in (read(store, "s")[0], fed, store.find_key("c1", 1)[0]):
        assert event.attachment("chart.png") == b"png"
        assert event.attachment("raw") == b""
        with pytest.raises(NotFoundError, match=r"chart\.png"):
            event.attachment("other")


def test_a_time_never_goes_back_in_a_lineage(store: MemoryStorage, clock: FixedClock) -> None:
    create(store, "s", note("a"))
    start = clock.micros
    clock.advance(seconds=-60)
    append(store, "s", note("b"))
    create(store, "f", note("c"), base=base_at(store, "s", 2), of="s")
    assert [event.recorded_micros for event in read(store, "f")] == [start] * 3


def test_a_submitted_request_is_resolved_once_with_its_receipt_or_refusal(store: MemoryStorage) -> None:
    session = create(store, "s")
    outcomes: list[Receipt | Exception] = []
    withdraw = store.submit(Append(session.id, batch(note("a"))), outcomes.append)
    store.submit(Append(session.id, batch(note("b"), expected=expected_at(store, "s", 0))), outcomes.append)
    assert withdraw() is False
    receipt, refusal = outcomes
    assert isinstance(receipt, Receipt) and texts(receipt.events) == ["a"]
    assert isinstance(refusal, StaleExpectationError)


def test_what_resolving_raises_is_not_taken_for_a_refusal(store: MemoryStorage) -> None:
    session = create(store, "s")
    outcomes: list[Receipt | Exception] = []

    def resolve(outcome: Receipt | Exception) -> None:
        outcomes.append(outcome)
        raise NotFoundError("the one who waited is gone")

    with pytest.raises(NotFoundError, match="is gone"):
        store.submit(Append(session.id, batch(note("a"))), resolve)
    assert [type(outcome) for outcome in outcomes] == [Receipt]


# --- expected ------------------------------------------------------------------------------------
def test_an_append_where_the_branch_is_not_as_expected_writes_nothing(store: MemoryStorage) -> None:
    create(store, "s", note("a"), note("b"))
    here = current(store, "s")
    before = all_that_is_there(store)
    for expected in (
        Expected(here.id, 1, None),
        Expected(here.id, 3, None),
        Expected(new_id(), 2, None),
        Expected(here.id, 2, "0" * 64),
    ):
        with pytest.raises(StaleExpectationError) as refused:
            append(store, "s", note("c"), expected=expected)
        assert (refused.value.branch_id, refused.value.head) == (here.id, here.head())
    assert all_that_is_there(store) == before
    append(store, "s", note("c"), expected=Expected(here.id, 2, here.head().root))
    assert texts(read(store, "s")) == ["a", "b", "c"]


# --- keys ----------------------------------------------------------------------------------------
def test_a_repeated_key_gives_the_first_receipt_whatever_is_expected(store: MemoryStorage) -> None:
    create(store, "s")
    first = append(store, "s", note("a"), note("b"), key="turn")
    append(store, "s", note("c"))
    again = append(store, "s", note("a"), note("b"), key="turn", expected=expected_at(store, "s", 0))
    assert again.events == first.events
    assert [event.repeated for event in again.events] == [True, True]
    assert texts(read(store, "s")) == ["a", "b", "c"]


def test_a_key_with_other_content_is_refused_with_what_it_recorded(store: MemoryStorage) -> None:
    create(store, "s", note("a", key="k"))
    before = all_that_is_there(store)
    with pytest.raises(KeyReusedError) as refused:
        append(store, "s", note("z", key="k"))
    assert refused.value.event == read(store, "s")[0]
    assert all_that_is_there(store) == before


def test_a_key_is_inherited_below_the_cut_and_free_above_it(store: MemoryStorage) -> None:
    create(store, "s", note("a", key="below"), note("b", key="above"))
    create(store, "f", base=base_at(store, "s", 1), of="s")
    assert append(store, "f", note("a", key="below")).events[0].repeated
    assert not append(store, "f", note("another b", key="above")).events[0].repeated
    assert texts(read(store, "f")) == ["a", "another b"]


@pytest.mark.parametrize("cut", [1, 2])
def test_a_key_whose_events_a_cut_parted_acknowledges_none_of_those_left_behind(store: MemoryStorage, cut: int) -> None:
    turn = (note("a"), note("b"), note("c"))
    create(store, "s")
    append(store, "s", *turn, key="turn")
    create(store, "f", base=base_at(store, "s", cut), of="s")
    rewind(store, "s", cut, note("back"))
    before = all_that_is_there(store)
    for name in ("f", "s"):
        with pytest.raises(KeyReusedError):
            append(store, name, *turn, key="turn")
    assert all_that_is_there(store) == before


def test_keys_are_found_in_every_living_session_the_last_recorded_first(
    store: MemoryStorage, clock: FixedClock
) -> None:
    create(store, "old")
    create(store, "new", note("1", key="k"))
    clock.advance(seconds=-60)  # what was recorded last is newest, whatever the clock said
    append(store, "old", note("2", key="k"))
    create(store, "other", note("3", key="l"))
    assert [event.session for event in store.find_key("k", 10)] == ["old", "new"]
    assert [event.session for event in store.find_key("k", 1)] == ["old"]
    store.write(Delete(store.session("old").id, "done", cascade=False))
    assert [event.session for event in store.find_key("k", 10)] == ["new"]


# --- branches ------------------------------------------------------------------------------------
def test_a_fork_shares_what_is_below_its_base_and_nothing_else(store: MemoryStorage) -> None:
    create(store, "s", note("a"), note("b"), note("c"))
    fork = create(store, "f", note("other c"), base=base_at(store, "s", 2), of="s")
    append(store, "s", note("d"))
    assert texts(read(store, "s")) == ["a", "b", "c", "d"]
    assert texts(read(store, "f")) == ["a", "b", "other c"]
    assert [event.leaf for event in read(store, "f")[:2]] == [event.leaf for event in read(store, "s")[:2]]
    assert fork.family == store.session("s").family
    assert [row.name for row in store.forks(store.session("s").key)] == ["f"]
    assert store.forks(fork.key) == []


def test_a_fork_at_the_end_has_the_head_of_what_it_was_forked_from(store: MemoryStorage) -> None:
    create(store, "s", *[note(str(number)) for number in range(7)])
    for cut in range(1, 8):
        base = base_at(store, "s", cut)
        create(store, f"f{cut}", base=base, of="s")
        assert current(store, f"f{cut}").head() == Head(cut, root_of_joined(base.peaks).hex())
    assert current(store, "f7").head() == current(store, "s").head()


def test_a_fork_of_a_session_that_was_deleted_is_refused(store: MemoryStorage) -> None:
    session = create(store, "s", note("a"))
    base = base_at(store, "s", 1)
    request = Create(
        new_id(), "f", None, {}, None, None, os.urandom(32), session.family, new_id(), new_id(), base, session.id, batch()
    )  # fmt: skip
    store.write(Delete(session.id, "done", cascade=False))
    with pytest.raises(NotFoundError):
        store.write(request)
    assert store.sessions(SessionFilter(EVERYTHING)) == []


def test_a_name_that_is_taken_is_refused(store: MemoryStorage) -> None:
    create(store, "s", note("a"))
    before = all_that_is_there(store)
    with pytest.raises(SessionExistsError, match="'s'"):
        create(store, "s", note("b"))
    assert all_that_is_there(store) == before


def test_a_rewind_makes_another_line_and_keeps_the_one_it_left(store: MemoryStorage) -> None:
    session = create(store, "s", note("a"), note("b"), note("c"))
    left = current(store, "s")
    receipt = rewind(store, "s", 1, note("other b"))
    assert texts(read(store, "s")) == ["a", "other b"]
    assert receipt.branch_id == current(store, "s").id != left.id
    assert [branch.number for branch in store.branches(session.key)] == [1, 2]
    assert texts(store.read(store.lineage(left.key, "s"), 0, left.size).events) == ["a", "b", "c"]


def test_a_rewind_of_a_branch_that_is_not_current_any_more_writes_nothing(store: MemoryStorage) -> None:
    session = create(store, "s", note("a"), note("b"))
    stale = Rewind(session.id, new_id(), current(store, "s").key, base_at(store, "s", 1), batch(note("late")))
    rewind(store, "s", 1, note("first"))
    before = all_that_is_there(store)
    with pytest.raises(StaleExpectationError) as refused:
        store.write(stale)
    assert refused.value.branch_id == current(store, "s").id
    assert all_that_is_there(store) == before


def test_a_switch_goes_back_to_a_line_and_appends_there(store: MemoryStorage) -> None:
    session = create(store, "s", note("a"), note("b"))
    left = current(store, "s")
    rewind(store, "s", 1, note("other b"))
    store.write(Switch(session.id, left.key, None, batch(note("c"))))
    assert current(store, "s").id == left.id
    assert texts(read(store, "s")) == ["a", "b", "c"]


def test_a_switch_to_a_branch_of_another_session_is_refused(store: MemoryStorage) -> None:
    session = create(store, "s", note("a"))
    create(store, "t", note("b"))
    before = all_that_is_there(store)
    for target in (current(store, "t").key, 99):
        with pytest.raises(NotFoundError, match="no such branch"):
            store.write(Switch(session.id, target, None, batch(note("c"))))
    assert all_that_is_there(store) == before


def test_an_update_changes_what_is_given_and_leaves_the_rest(store: MemoryStorage) -> None:
    session = create(store, "s")
    store.write(Update(session.id, "a title", {"user": "u7"}, b"{}", batch(note("named"))))
    store.write(Update(session.id, None, msgspec.UNSET, b'{"a":1}', batch(note("unnamed"))))
    row = store.session("s")
    assert (row.title, row.labels, row.metadata) == (None, {"user": "u7"}, b'{"a":1}')
    assert texts(read(store, "s")) == ["named", "unnamed"]


# --- erasing and deleting ------------------------------------------------------------------------
def test_an_erased_event_keeps_its_place_and_leaf_and_loses_its_body(store: MemoryStorage) -> None:
    session = create(store, "s", note("a"), note("secret", attachments={"f": b"secret"}), note("c"))
    branch = current(store, "s")
    receipt = store.write(Erase(session.id, branch.key, (1, 1), "asked to"))
    erased = read(store, "s")[1]
    assert receipt.positions == (1,)
    assert (erased.gone, erased.raw, erased.data, erased.type) == (ERASED, None, None, "note")
    assert current(store, "s").head() == branch.head()
    with pytest.raises(NotFoundError, match="erased"):
        erased.attachment("f")
    lineage = store.lineage(branch.key, "s")
    assert (erased.attachments, store.attachments(lineage, 1)) == ((), [])
    assert store.rows(lineage, 1, 2)[0].salt is None
    entry = store.erasure(erased.leaf)
    assert entry is not None and entry.reason == "asked to"
    assert store.erasure(read(store, "s")[0].leaf) is None


def test_what_is_erased_already_is_not_erased_again(store: MemoryStorage) -> None:
    session = create(store, "s", note("a"), note("b"))
    branch = current(store, "s").key
    store.write(Erase(session.id, branch, (0,), "first"))
    entries = len(store.ledger(0, 100))
    assert store.write(Erase(session.id, branch, (0,), "second")).positions == ()
    assert len(store.ledger(0, 100)) == entries


def test_an_erasure_beyond_the_end_erases_nothing(store: MemoryStorage) -> None:
    session = create(store, "s", note("a"))
    with pytest.raises(NotFoundError, match="position 1"):
        store.write(Erase(session.id, current(store, "s").key, (0, 1), "asked to"))
    assert texts(read(store, "s")) == ["a"]


def test_what_a_fork_erases_below_its_base_is_erased_for_all_who_share_it(store: MemoryStorage) -> None:
    create(store, "s", note("a"), note("b"))
    fork = create(store, "f", note("c"), base=base_at(store, "s", 2), of="s")
    store.write(Erase(fork.id, current(store, "f").key, (0, 2), "asked to"))
    assert texts(read(store, "s")) == [None, "b"]
    assert texts(read(store, "f")) == [None, "b", None]


def test_a_living_fork_refuses_the_deletion_of_what_it_shares(store: MemoryStorage) -> None:
    session = create(store, "s", note("a"))
    create(store, "f", note("b"), base=base_at(store, "s", 1), of="s")
    before = all_that_is_there(store)
    with pytest.raises(SessionExistsError, match="'f'"):
        store.write(Delete(session.id, "done", cascade=False))
    assert all_that_is_there(store) == before
    store.write(Delete(store.session("f").id, "done", cascade=False))
    store.write(Delete(session.id, "done", cascade=False))
    assert store.sessions(SessionFilter(EVERYTHING)) == []


def test_a_deletion_that_cascades_ends_forks_of_forks_and_nothing_else(store: MemoryStorage) -> None:
    session = create(store, "s", note("a"))
    create(store, "f", note("b"), base=base_at(store, "s", 1), of="s")
    create(store, "g", note("c"), base=base_at(store, "f", 2), of="f")
    create(store, "apart", note("d"))
    store.write(Delete(session.id, "done", cascade=True))
    assert [each.session.name for each in store.sessions(SessionFilter(EVERYTHING))] == ["apart"]
    for name in "sfg":
        with pytest.raises(NotFoundError):
            store.session(name)


def test_of_a_deleted_session_only_leaves_are_left_and_its_name_is_free(store: MemoryStorage) -> None:
    session = create(store, "s", note("secret", key="k", actor="ada", attachments={"f": b"secret"}))
    branch = current(store, "s")
    leaf = read(store, "s")[0].leaf
    store.write(Delete(session.id, "done", cascade=False))
    [kept] = store.branches(session.key)
    [row] = store.rows(store.lineage(branch.key, "s"), 0, 1)
    assert kept.head() == branch.head()
    assert (row.leaf, row.gone) == (leaf, DELETED)
    assert {row.type, row.actor, row.key, row.recorded, row.commitments, row.salt, row.body, row.attached} == {None}
    assert store.attachments(store.lineage(branch.key, "s"), 0) == []
    assert store.find_key("k", 10) == []
    for ask in (lambda: store.session_by_id(session.id), lambda: store.session_of(branch.key)):
        with pytest.raises(NotFoundError):
            ask()
    assert create(store, "s", note("another")).id != session.id


# --- the feed ------------------------------------------------------------------------------------
def test_the_feed_gives_the_events_of_all_sessions_in_the_order_recorded(store: MemoryStorage) -> None:
    assert store.feed_end() == ()
    create(store, "s", note("1"))
    create(store, "t", note("2"))
    append(store, "s", note("3"))
    create(store, "f", note("4"), base=base_at(store, "s", 2), of="s")
    rewind(store, "s", 1, note("5"))
    page = store.feed((), 100)
    assert [place.number for place, _ in page.events] == [1, 2, 3, 4, 5]
    assert texts(event for _, event in page.events) == ["1", "2", "3", "4", "5"]
    assert [event.session for _, event in page.events] == ["s", "t", "s", "f", "s"]
    assert (page.passed, page.more) == (store.feed_end(), False)
    for wrong in (FeedPlace(0, 0, b""), FeedPlace(0, 6, b""), FeedPlace(1, 1, b""), FeedPlace(0, 1, b"x")):
        with pytest.raises(StaleCursorError, match="nothing was read"):
            store.feed([wrong], 1)


def test_a_reader_of_the_feed_passes_over_the_deleted_and_loses_its_place_nowhere(store: MemoryStorage) -> None:
    for name in ("a", "b", "c"):
        create(store, name, note(name))
    second = store.feed((), 2).passed
    store.write(Delete(store.session("b").id, "done", cascade=False))
    assert texts(event for _, event in store.feed(second, 10).events) == ["c"]
    seen: list[str | None] = []
    after: tuple[FeedPlace, ...] = ()
    more = True
    while more:
        page = store.feed(after, 1)
        assert [place.number for place in page.passed] == [1 + sum(place.number for place in after)]
        seen += texts(event for _, event in page.events)
        after, more = page.passed, page.more
    assert seen == ["a", "c"]
    assert store.feed(after, 1).passed == ()


def test_a_page_of_the_feed_is_bounded_in_bytes_and_never_stands_still(store: MemoryStorage) -> None:
    half = "x" * (limits.PAGE_BYTES_MAX // 2)
    create(store, "s", *[note(half) for _ in range(3)])
    numbers: list[list[int]] = []
    after: tuple[FeedPlace, ...] = ()
    more = True
    while more:
        page = store.feed(after, 10)
        numbers.append([place.number for place, _ in page.events])
        after, more = page.passed, page.more
    assert numbers == [[1], [2], [3]]


# --- reading -------------------------------------------------------------------------------------
@pytest.mark.parametrize("reverse", [False, True])
def test_pages_of_a_filtered_range_give_every_match_once(store: MemoryStorage, reverse: bool) -> None:
    create(store, "s", *[note(str(number), actor="ada" if number % 3 else "bob") for number in range(10)])
    branch = current(store, "s")
    terms, rest = from_keywords(actor="ada").split()
    assert rest == EVERYTHING
    found: list[str | None] = []
    start, stop, following = 1, branch.size, 0
    while following is not None:
        page = store.read(store.lineage(branch.key, "s"), start, stop, terms=terms, reverse=reverse, limit=1)
        found += texts(page.events)
        following = page.following
        start, stop = (start, following or start) if reverse else (following or stop, stop)
    assert found == (["8", "7", "5", "4", "2", "1"] if reverse else ["1", "2", "4", "5", "7", "8"])


def test_a_filter_that_finds_nothing_stops_looking_and_says_where(store: MemoryStorage) -> None:
    many = limits.APPEND_EVENTS_MAX
    assert many == limits.SCAN_EVENTS_MAX
    create(store, "s", *[note("x") for _ in range(many)])
    append(store, "s", note("last", actor="ada"))
    branch = current(store, "s")
    lineage = store.lineage(branch.key, "s")
    terms = from_keywords(actor="ada").split()[0]
    page = store.read(lineage, 0, branch.size, terms=terms)
    assert (page.events, page.following) == ([], many)
    page = store.read(lineage, many, branch.size, terms=terms)
    assert (texts(page.events), page.following) == (["last"], None)


def test_the_cut_at_a_time_is_before_the_first_event_at_or_after_it(store: MemoryStorage, clock: FixedClock) -> None:
    create(store, "s")
    start = clock.micros
    for _ in range(3):
        append(store, "s", note("x"), note("y"))
        clock.advance(seconds=1)
    create(store, "f", note("z"), base=base_at(store, "s", 5), of="s")
    lineage = store.lineage(current(store, "f").key, "f")
    second = 1_000_000
    cuts = {0: 0, start: 0, start + 1: 2, start + second: 2, start + 2 * second: 4, start + 3 * second: 5}
    for micros, cut in cuts.items():
        assert store.cut_at(lineage, 6, micros) == cut
    assert store.cut_at(lineage, 6, start + 4 * second) == 6
    assert store.cut_at(lineage, 3, start + 4 * second) == 3
    assert store.cut_at(lineage, 0, start) == 0


# --- news, closing, forking ----------------------------------------------------------------------
def test_a_wait_ends_at_once_where_there_is_news(store: MemoryStorage) -> None:
    create(store, "s")
    seen = store.news()
    assert store.wait(seen, 0.0) == seen
    append(store, "s", note("a"))
    assert store.wait(seen, 60.0) == store.news() > seen


def test_a_closed_store_refuses_reads_and_writes(store: MemoryStorage) -> None:
    session = create(store, "s", note("a", attachments={"f": b"1"}))
    event = read(store, "s")[0]
    store.close()
    store.close()
    for call in (
        lambda: store.session("s"),
        lambda: store.write(Append(session.id, batch(note("b")))),
        lambda: store.feed((), 1),
        lambda: store.wait(0, 0.0),
        lambda: event.attachment("f"),
    ):
        with pytest.raises(UnavailableError, match="closed"):
            call()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork processes")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # that threads run here is the point
def test_a_forked_process_is_refused_and_can_let_go_of_a_lock_that_was_held(store: MemoryStorage) -> None:
    create(store, "s", note("a"))
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with store._lock:
            held.set()
            done.wait(DEADLINE_SECONDS)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(DEADLINE_SECONDS)
    child = os.fork()
    if child == 0:  # nothing of pytest may run here
        signal.alarm(DEADLINE_SECONDS)  # ends the child if it waits for the lock
        try:
            store.session("s")
        except UnsupportedStoreError:
            store.close()
            os._exit(0)
        finally:
            os._exit(1)
    done.set()
    holder.join(DEADLINE_SECONDS)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert texts(read(store, "s")) == ["a"]
