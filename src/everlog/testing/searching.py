"""What searching promises: exact, ranked, paged, of all sessions or of one line, with snippets."""

from __future__ import annotations

from typing import Any

import pytest

from everlog.core.query import Exact, Query, Term, Typed
from everlog.errors import InvalidPlaceError, InvalidQueryError, LimitError
from everlog.testing.clock import FixedClock
from everlog.testing.start import ContractStart, note, texts


def found(page: Any) -> list[str]:
    return texts(hit.event for hit in page.hits)


def all_pages(search: Any, query: str, **asked: Any) -> list[Any]:
    """Give the hits of every page."""
    page = search(query, **asked)
    hits = list(page.hits)
    while page.following is not None:
        page = search(query, after=page.following, **asked)
        hits += page.hits
    return hits


class SearchContract(ContractStart):
    """What searching promises."""

    @pytest.fixture
    def filled(self, store: Any, clock: FixedClock) -> Any:
        for number in range(3):
            clock.advance(seconds=1)
            session = store.create(f"run-{number}", title=f"run {number}", labels={"user": f"u{number}"})
            session.append("user.message", {"content": f"please mend the Parser, try {number}"}, actor="person")
            session.append("agent.tool_result", {"tool_use_id": "c", "content": "timeout"}, outcome="error")
        return store

    def test_words_are_found_in_all_sessions_at_once_and_as_soon_as_they_are_recorded(self, filled: Any) -> None:
        assert sorted(found(filled.search("parser"))) == [f"please mend the Parser, try {n}" for n in range(3)]
        filled.session("run-1").append("note", {"content": "the parser again"})
        assert len(filled.search("parser").hits) == 4
        assert found(filled.search("parser again")) == ["the parser again"]
        assert filled.search("absent").hits == []

    def test_what_is_found_is_what_the_query_language_means(self, store: Any, session: Any) -> None:
        said = [
            "It crashes on empty INPUT",
            "die Straße ist gesperrt",
            "構文解析器が空の入力で落ちる",
            "解析器在空输入时崩溃",
            "a",
            '100% sure_thing [x] "quoted" it\'s',
            "nul \x00 inside, and İstanbul",
            "emoji 🙂🙃 end",
        ]
        session.extend([note(text) for text in said])
        session.append(
            "x.kept", {"deep": [{"er": ["hidden treasure"]}], "n": 1234567}, rationale="since it was asked for"
        )
        for query in (
            "empty", "CRASHES", "input crash", "crashes -input", "STRASSE", "straße", "解析器", "入力", "空", "ち", "a", "%",
            "sure_thing", "[x]", '"\\"quoted\\""', "it's", "inside", "istanbul", "i̇stanbul", "🙂🙃", "🙂", '"🙂🙃 e"', "treasure",
            "asked", "1234567", "data.n:1234567", "data.content:*Straße*", "data.content:a", "rationale:since*", "-a", "-crashes",
            '"empty  input"', '"on empty"', "has:rationale", "nul",
        ):  # fmt: skip
            expected = [event.position for event in session.events(query)]
            assert sorted(hit.event.position for hit in store.search(query, limit=100).hits) == expected, query
            assert sorted(hit.event.position for hit in session.search(query, limit=100).hits) == expected, query
        for texts_ in (("crashes", "treasure"), ("a", "treasure"), ("x", "treasure")):
            either = Query((Term("text", tuple(Exact(text) for text in texts_)),))
            expected = [event.position for event in session.events(either)]
            assert sorted(hit.event.position for hit in store.search(either, limit=100).hits) == expected
        where = Query((Term("data", (Typed("a"), Typed(1234567)), ("content",)),))
        assert found(store.search(where)) == ["a"]

    def test_a_search_is_narrowed_by_every_key(self, filled: Any, clock: FixedClock) -> None:
        clock.advance(seconds=3600)
        filled.session("run-2").append("note", {"content": "timeout, late"}, actor="planner/1")
        for query, count in {
            "timeout session:run-1": 1, "label.user:u2 outcome:error": 1, "timeout type:user.*": 0, "type:agent.*": 3,
            "type:agent.tool_result,note": 4, "actor:person": 3, "actor:p*": 4, "outcome:none": 4, "-outcome:error": 4,
            "since:30m": 1, "until:30m": 6, "-since:30m": 6, "timeout session:run-*": 4, "-session:run-2": 4,
            "session:none": 0, "-label.user:u1 parser": 2, "data.tool_use_id:c": 3, "position:1": 3, "-type:note": 6,
            "actor:person outcome:error": 0, "type:*": 7, "type:* actor:none*": 0, "": 7,
        }.items():  # fmt: skip
            assert len(filled.search(query).hits) == count, query

    def test_what_fits_best_comes_first_and_of_what_fits_as_well_the_newest(self, store: Any) -> None:
        session = store.create("r")
        session.append("note", {"content": "timeout " + "and much more that was said " * 40})
        session.append("note", {"content": "a timeout"})
        session.append("note", {"content": "a timeout"})
        session.append("note", {"content": "timeouts"})
        session.append("note", {"content": "timeout after timeout"})
        hits = store.search("timeout").hits
        assert [hit.event.position for hit in hits] == [4, 2, 1, 3, 0]
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert hits[1].score == hits[2].score
        newest = store.search("timeout", order="newest").hits
        assert [hit.event.position for hit in newest] == [4, 3, 2, 1, 0]
        assert {hit.score for hit in newest} == {0.0}

    def test_snippets_show_what_stands_round_a_match(self, store: Any, session: Any) -> None:
        session.append("note", {"content": f"{'before ' * 100}the Straße, NEEDLE {'behind ' * 100}"})
        (hit,) = store.search("needle strasse").hits
        shown = [hit.snippet.text[start:stop] for start, stop in hit.snippet.matches]
        assert shown == ["Straße", "NEEDLE"]
        assert len(hit.snippet.text) <= 202
        assert hit.snippet.text.startswith("…")
        assert hit.snippet.text.endswith("…")
        (plain,) = session.search("type:note").hits
        assert plain.snippet.text.startswith("before before")
        assert plain.snippet.matches == ()

    def test_pages_give_every_event_once_in_either_order(self, store: Any) -> None:
        for name in ("one", "two", "three"):
            store.create(name).extend([note(f"word {number}", outcome="ok") for number in range(23)])
        for query in ("word", "outcome:ok", "wo", "word outcome:ok session:t*"):
            for order in ("rank", "newest"):
                hits = all_pages(store.search, query, limit=7, order=order)
                places = [(hit.event.session, hit.event.position) for hit in hits]
                assert len(places) == len(set(places)) == (46 if "session:" in query else 69), (query, order)
        hits = all_pages(store.session("one").search, "word", limit=5, order="newest")
        assert [hit.event.position for hit in hits] == list(reversed(range(23)))

    def test_what_is_recorded_meanwhile_is_on_no_later_page(self, store: Any, session: Any) -> None:
        session.extend([note(f"word {number}") for number in range(6)])
        page = store.search("word", limit=4, order="newest")
        session.append("note", {"content": "word 6"})
        assert found(page) == ["word 5", "word 4", "word 3", "word 2"]
        assert found(store.search("word", limit=4, order="newest", after=page.following)) == ["word 1", "word 0"]

    def test_what_forks_share_is_found_in_its_origin_and_in_each_line_that_shares_it(self, store: Any) -> None:
        origin = store.create("origin")
        origin.extend([note("planted early"), note("left behind")])
        fork = origin.fork(1, id="fork")
        fork.append("note", {"content": "planted late"})
        origin.rewind(1, reason="wrong")
        assert [hit.event.session for hit in store.search("early").hits] == ["origin"]
        assert found(store.search("session:origin behind")) == ["left behind"]
        assert found(origin.search("behind")) == []
        assert found(origin.branch("b1").search("behind")) == ["left behind"]
        hits = fork.search("planted", order="newest").hits
        assert [(hit.event.session, hit.event.position) for hit in hits] == [("fork", 2), ("fork", 0)]
        assert hits[1].event == fork.event(0)
        assert found(fork.search("session:fork early")) == ["planted early"]

    def test_what_was_erased_or_deleted_is_found_no_more(self, filled: Any) -> None:
        assert len(filled.search("timeout").hits) == 3
        filled.session("run-0").erase([1], reason="asked")
        filled.delete("run-1", reason="over")
        assert [hit.event.session for hit in filled.search("timeout").hits] == ["run-2"]
        assert [hit.event.session for hit in filled.search("outcome:error").hits] == ["run-2", "run-0"]
        filled.create("run-1").append("note", {"content": "timeout anew"})
        assert found(filled.search("timeout session:run-1")) == ["timeout anew"]

    def test_what_cannot_be_asked_for_is_refused(self, store: Any, session: Any) -> None:
        for limit in (0, 1001):
            with pytest.raises(LimitError):
                store.search("x", limit=limit)
        with pytest.raises(InvalidQueryError, match="rank newest"):
            store.search("x", order="best")
        for token in ("", "x", "1:0", "2:0:0.1", "1:0:0.x", 5):
            with pytest.raises(InvalidPlaceError, match="following"):
                store.search("x", after=token)
        with pytest.raises(InvalidQueryError):
            session.search("label.user:u1")
        assert store.search("x", after="1:0:0.999999999999").hits == []

    def test_long_texts_are_found_as_short_ones_are(self, store: Any, session: Any) -> None:
        session.append("note", {"content": "x" * 1_200_000 + " needle"})
        session.append("note", {"content": "short needle"})
        assert [hit.event.position for hit in store.search("needle").hits] == [1, 0]
        session.erase([0], reason="asked")
        assert [hit.event.position for hit in store.search("needle").hits] == [1]

    def test_attachments_of_what_was_found_can_be_read(self, store: Any, session: Any) -> None:
        session.append("note", {"content": "with a chart"}, attachments={"chart.png": b"png"})
        (hit,) = store.search("chart").hits
        assert hit.event.attachment("chart.png") == b"png"
