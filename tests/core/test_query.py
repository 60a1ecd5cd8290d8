"""The query language: its text form, its meaning on events and sessions, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from everlog.core import limits
from everlog.core.query import (
    EVERYTHING,
    Exact,
    Glob,
    Query,
    Range,
    Term,
    Typed,
    check_session_query,
    compile_query,
    from_keywords,
    glob_pattern,
    matches,
    matches_session,
)
from everlog.core.query_text import parse
from everlog.errors import InvalidQueryError, LimitError

HOUR = 3_600_000_000
NOW = 1_795_428_000_000_000  # 2026-11-23T10:00Z
CAUSE = "ev_" + "a" * 32 + "_3"
BRANCH = "b2" + "0" * 30

moderate = settings(max_examples=80, deadline=None)


@dataclass(frozen=True)
class Sample:
    """An event as a query sees it."""

    session: str = "run-42"
    branch: str = BRANCH
    position: int = 5
    type: str = "agent.tool_result"
    actor: str | None = "planner"
    outcome: str | None = "error"
    recorded_micros: int = NOW - HOUR
    occurred_micros: int | None = None
    key: str | None = "write:cp1:7"
    caused_by: str | None = CAUSE
    data: Any = field(default_factory=lambda: {"name": "bash", "exit": 1, "content": "It TIMED out\nin Straße"})
    metadata: Any = None
    rationale: str | None = "A failing test first"
    state_hash: object = None
    attachments: tuple[object, ...] = ()
    erased: bool = False
    withheld: bool = False


EVENT = Sample()
ERASED = replace(EVENT, data=None, rationale=None, erased=True)


def holds(text: str, event: Sample = EVENT) -> bool:
    return matches(parse(text, now=NOW), event)


# --- what terms mean -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "", "   ", "type:agent.tool_result", "type:agent.tool_* outcome:error data.name:bash since:2h timed",
        "type:note,agent.*", "actor:plan*", "outcome:ok,error", "key:write:cp1:*", f"caused_by:{CAUSE}",
        "session:run-*", f"branch:{BRANCH}", f"branch:{BRANCH[:8]}", "branch:b2*", "position:5",
        "position:5..6", "position:..6", "position:1,5", "since:1h", "since:-1h", "since:2026-11-23T09:00Z",
        "since:2026-11-23T09:00", "since:2026-11-23", "until:2026-11-23T09:00:00.000001Z",
        "has:rationale has:key has:caused_by has:actor has:outcome has:data", "has:attachments,key",
        'rationale:"A failing test first"', "rationale:*test*", "timed", '"timed OUT"', "STRASSE", "Straße",
        '"failing test"', "bash",
    ],
)  # fmt: skip
def test_an_event_meets_what_it_is_asked_for(text: str) -> None:
    assert holds(text)
    for term in parse(text, now=NOW).terms:
        assert not matches(Query((Term(term.key, term.values, term.path, True),)), EVENT)


@pytest.mark.parametrize(
    "text",
    [
        "type:agent", "type:AGENT.*", 'type:"agent.*"', "type:agent.tool_result outcome:ok", "outcome:none",
        "actor:x,y", "key:write", "position:6", "position:..5", "position:6..", "since:59m", "until:1h",
        "occurred:..2026-11-23", "has:attachments", "has:metadata,occurred_at,state,erased,withheld",
        "rationale:failing", "name", '"out  in"', "session:run", "branch:bbbbbbbb",
    ],
)  # fmt: skip
def test_an_event_does_not_meet_what_it_is_not(text: str) -> None:
    assert not holds(text)
    assert holds("-" + text) or " " in text


def test_events_without_outcome_meet_outcome_none() -> None:
    plain = replace(EVENT, outcome=None)
    assert holds("outcome:none", plain)
    assert not holds("-outcome:none", plain)
    assert holds("outcome:none,error", plain)
    assert not holds("outcome:error", plain)


def test_an_absent_column_meets_no_term_and_every_negated_one() -> None:
    bare = replace(EVENT, actor=None, key=None, caused_by=None)
    for text in ("actor:*", "key:*", f"caused_by:{CAUSE}", "has:actor"):
        assert not holds(text, bare)
        assert holds("-" + text, bare)


def test_times_of_happening_are_low_inclusive_and_high_exclusive() -> None:
    event = replace(EVENT, occurred_micros=NOW)
    assert holds("occurred:2026-11-23T10:00Z", event)
    assert holds("occurred:2026-11-23T10:00Z..", event)
    assert not holds("occurred:..2026-11-23T10:00Z", event)
    assert holds("occurred:1h..2026-11-24", event)
    assert holds("has:occurred_at", event)


@pytest.mark.parametrize("term", ["data.name:bash", "data.x:1", "meta.x:1", "rationale:*", "timed", "bash"])
def test_of_an_erased_or_withheld_event_nothing_is_said_about_its_body(term: str) -> None:
    for event in (ERASED, replace(ERASED, erased=False, withheld=True)):
        assert not holds(term, event)
        assert not holds("-" + term, event)
    assert holds("has:erased type:agent.*", ERASED)
    assert not holds("has:data", ERASED)


def test_a_body_is_decoded_only_where_the_cheap_terms_hold() -> None:
    class Sealed(Sample):
        @property
        def data(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
            raise AssertionError("the body was decoded")

    event = object.__new__(Sealed)
    for name, value in vars(EVENT).items():
        if name != "data":
            object.__setattr__(event, name, value)
    assert not holds("timed data.name:bash type:note", event)
    with pytest.raises(AssertionError, match="decoded"):
        holds("data.name:bash", event)


# --- members of data and metadata ----------------------------------------------------------------
MEMBERS = {
    "n": 3, "f": 1.5, "s": "3", "t": True, "z": None, "list": ["a", 7, {"k": "v"}], "empty": [], "a.b": 1,
    "a/b": {"": "blank"}, "plan": {"next": "write"}, "text": "x..y", "one": 1, "star": "a*b",
}  # fmt: skip


@pytest.mark.parametrize(
    "term",
    [
        "data.n:3", "data.s:3", "data.n:3.0", "data.n:1..3", "data.n:3..", "data.n:..3", "data.f:1.5..1.5",
        "data.t:true", "data.z:null", "data.z:*", "data.empty:*", "data.list:a", "data.list:7", "data.list:5..9",
        "data.list.0:a", "data.list.2.k:v", "data/list/2/k:v", "data.plan.next:wr*", "data/plan/next:write",
        "data/a.b:1", "data/a~1b/:blank", "data.text:x..y", 'data.text:"x..y"', "data.n:1,2,3", 'data.star:"a*b"',
        'data.s:"3"',
    ],
)  # fmt: skip
def test_a_member_meets_a_term_on_its_path(term: str) -> None:
    event = replace(EVENT, data=MEMBERS, metadata=MEMBERS)
    assert holds(term, event)
    assert not holds("-" + term, event)
    assert holds(term.replace("data", "meta", 1), event)
    assert not holds(term, replace(EVENT, data={}))


@pytest.mark.parametrize(
    "term",
    [
        "data.n:4", "data.n:true", "data.t:1", "data.one:true", "data.t:0..2", "data.s:1..5", "data.z:0", "data.n:3*",
        "data.missing:*", "data.list.00:a", "data.list.3:*", "data.list.-1:*", "data.list.²:*", "data.n.x:*",
        "data.a.b:1", "data.plan:write", 'data.s:"*"',
    ],
)  # fmt: skip
def test_a_member_of_another_value_kind_or_path_does_not(term: str) -> None:
    assert not holds(term, replace(EVENT, data=MEMBERS))


@pytest.mark.parametrize(
    ("value", "met"),
    [
        (3, True),
        (3.0, True),
        ("3", False),
        (True, False),
        (None, False),
        ([1, 3], True),
        ([], None),
        ({"a": 1}, None),
    ],
)
def test_where_compares_by_value_and_kind(value: Any, met: bool | None) -> None:
    if met is None:
        with pytest.raises(InvalidQueryError):
            from_keywords(where={"data.n": value})
    else:
        assert matches(from_keywords(where={"data.n": value}), replace(EVENT, data={"n": 3})) is met


def test_where_tells_true_from_one() -> None:
    assert not matches(from_keywords(where={"data.n": 1}), replace(EVENT, data={"n": True}))
    assert not matches(from_keywords(where={"data.n": True}), replace(EVENT, data={"n": 1}))
    assert matches(from_keywords(where={"data.n": "a*"}), replace(EVENT, data={"n": "a*"}))
    assert not matches(from_keywords(where={"data.n": "a*"}), replace(EVENT, data={"n": "ab"}))


# --- the text form -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("type:a,b*", Term("type", (Exact("a"), Glob("b*")))),
        ('key:"a,b"', Term("key", (Exact("a,b"),))),
        ('key:"a*"', Term("key", (Exact("a*"),))),
        ('key:a" b"', Term("key", (Exact("a b"),))),
        (r'"say \"hi\" \\"', Term("text", (Exact('say "hi" \\'),))),
        ("-type:x", Term("type", (Exact("x"),), (), True)),
        ('-"a b"', Term("text", (Exact("a b"),), (), True)),
        ("-", Term("text", (Exact("-"),))),
        ("a,b", Term("text", (Exact("a,b"),))),
        ("12:30", Term("text", (Exact("12:30"),))),
        ('"http://x"', Term("text", (Exact("http://x"),))),
        ("data.a.b:1", Term("data", (Exact("1"),), ("a", "b"))),
        ("data/a~1b/0:1", Term("data", (Exact("1"),), ("a/b", "0"))),
        ("metadata.a:1", Term("meta", (Exact("1"),), ("a",))),
        ("metadata/a:1", Term("meta", (Exact("1"),), ("a",))),
        ("data.a:1..", Term("data", (Range(1, None),), ("a",))),
        ("position:1..2", Term("position", (Range(1, 2),))),
        ("until:1h", Term("until", (Range(None, NOW - HOUR),))),
        ("label.user:u7", Term("label", (Exact("u7"),), ("user",))),
    ],
)
def test_a_term_is_read(text: str, term: Term) -> None:
    assert parse(text, now=NOW) == Query((term,))
    word = Term("text", (Exact("word"),))
    assert parse(f"\tword\u3000{text}\u3000word\n", now=NOW) == Query((word, term, word))


@pytest.mark.parametrize(
    "text",
    [
        "http://x", "foo:bar", "Error: timeout", "TYPE:x", "café:x", "label:x", "label.:x", "data:x",
        "text:x", "-foo:x",
    ],
)  # fmt: skip
def test_an_unknown_key_is_refused_with_the_way_to_quote_it(text: str) -> None:
    with pytest.raises(InvalidQueryError, match="is no key of a query") as caught:
        parse("type:note " + text, now=NOW)
    word = text.split()[0].lstrip("-")
    assert f'write "{word}" in quotes' in caught.value.message
    assert "at column 11" in caught.value.message
    assert parse(f'"{word}"', now=NOW) == Query((Term("text", (Exact(word),)),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("type:", "has no value"),
        ("type:a,,b", "has no value"),
        ("type:,a", "has no value"),
        ('""', "empty phrase"),
        ('"a', "never closed"),
        ('type:"a', "never closed"),
        ('key:a*"*"', "both quoted and not"),
        ("outcome:bad", "none of ok error"),
        ("has:foo", "has: takes one of"),
        ("has:att*", "has: takes one of"),
        ("caused_by:x", "takes an event's id"),
        ("position:-3", "no integer"),
        ("position:a..b", "no integer"),
        ("position:99999999999999999", "no integer"),
        ("since:yesterday", "is no time"),
        ("since:", "has no value"),
        ("since:2026-13-01", "is no time"),
        ("since:999999999w", "outside the calendar"),
        ("occurred:x..", "is no time"),
        ("data.:x", "names no member"),
    ],
)
def test_a_wrong_term_is_named_with_its_column(text: str, said: str) -> None:
    with pytest.raises(InvalidQueryError, match=said) as caught:
        parse("word " + text, now=NOW)
    assert "column 6" in caught.value.message or "never closed" in said
    assert "column" in caught.value.message


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "type:\ud800", "key:a\0*", "label.x:\udfff"])
def test_what_no_column_can_hold_is_refused_with_its_column(text: str) -> None:
    with pytest.raises(InvalidQueryError, match=r"(surrogate|NUL) stands at column \d+"):
        parse(text, now=NOW)


def test_queries_are_bounded_in_characters_and_values() -> None:
    parse("x" * limits.QUERY_CHARACTERS_MAX, now=NOW)
    parse("x " * limits.QUERY_TERMS_MAX, now=NOW)
    with pytest.raises(LimitError, match="4097 characters where 4096"):
        parse("x" * (limits.QUERY_CHARACTERS_MAX + 1), now=NOW)
    with pytest.raises(LimitError, match="65 values where 64"):
        parse("x " * (limits.QUERY_TERMS_MAX + 1), now=NOW)
    with pytest.raises(LimitError, match="65 values"):
        from_keywords(types=["a"] * 65)


# --- making, joining, splitting ------------------------------------------------------------------
def test_keywords_are_the_same_query_as_its_text() -> None:
    made = from_keywords(
        types=["agent.tool_*", "note"], actor="planner", outcome=("error", "none"), keys="write:*",
        caused_by=CAUSE, has="rationale", since=NOW - HOUR, until=NOW,
    )  # fmt: skip
    text = f"type:agent.tool_*,note actor:planner outcome:error,none key:write:* has:rationale since:1h until:0s caused_by:{CAUSE}"
    assert sorted(made.terms, key=repr) == sorted(parse(text, now=NOW).terms, key=repr)
    assert from_keywords() == EVERYTHING
    assert from_keywords(where={"data/a.b": 1}).terms == (Term("data", (Typed(1),), ("a.b",)),)


@pytest.mark.parametrize(
    "keywords",
    [
        {"types": []}, {"types": [5]}, {"types": "\ud800"}, {"outcome": "bad"}, {"has": "foo"}, {"caused_by": "x"},
        {"where": {"name": 1}}, {"where": {"data": 1}}, {"where": {"data.": 1}}, {"where": {"data.a": b"x"}},
        {"where": {"data.a": [[1]]}}, {"keys": "a\0"},
    ],
)  # fmt: skip
def test_wrong_keywords_are_refused(keywords: dict[str, Any]) -> None:
    with pytest.raises(InvalidQueryError):
        from_keywords(**keywords)


def test_a_query_splits_into_what_headers_answer_and_the_rest() -> None:
    query = parse(f"type:a actor:b outcome:ok key:c caused_by:{CAUSE} position:1..2 word data.x:1", now=NOW)
    header, rest = query.split()
    assert [term.key for term in header] == ["type", "actor", "outcome", "key", "caused_by"]
    assert [term.key for term in rest.terms] == ["position", "text", "data"]
    assert (EVERYTHING & query) == query == (query & EVERYTHING)


def test_only_terms_with_one_range_that_are_not_negated_bound_a_read() -> None:
    query = parse("position:1..2 -position:3 position:1,2 since:1h -until:1h occurred:1h..", now=NOW)
    assert [term.key for term in query.range_terms()] == ["position", "since"]


def test_a_glob_knows_what_its_matches_start_with() -> None:
    assert [Glob(text).prefix for text in ("write:*", "*a", "a*b*", "*")] == ["write:", "", "a", ""]


# --- sessions ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("label.user:u7 parser", True),
        ("label.user:u*", True),
        ("label.user:u8,u7", True),
        ("label.user:u8", False),
        ("-label.user:u8", True),
        ("label.team:*", False),
        ("-label.team:*", True),
        ("session:run-*", True),
        ("session:run", False),
        ("PARSER", True),
        ("run-4", True),
        ("nothing", False),
        ("-nothing", True),
        ("since:1h", True),
        ("since:59m", False),
        ("until:1h", False),
        ("until:59m", True),
    ],
)
def test_sessions_are_found_by_labels_times_and_words(text: str, met: bool) -> None:
    query = check_session_query(parse(text, now=NOW))
    found = matches_session(query, name="run-42", title="Fix the parser", labels={"user": "u7"}, updated=NOW - HOUR)
    assert found is met


def test_a_session_without_title_is_still_found_by_its_name() -> None:
    query = parse("run", now=NOW)
    assert matches_session(query, name="run-42", title=None, labels={}, updated=0)


def test_terms_on_events_are_refused_for_sessions_and_labels_for_events() -> None:
    for text in ("type:x", "data.a:1", "has:key", "position:1", "branch:b2", "rationale:x", "occurred:1h.."):
        with pytest.raises(InvalidQueryError, match="speaks of events, not of sessions"):
            check_session_query(parse(text, now=NOW))
    with pytest.raises(InvalidQueryError, match="speaks of sessions, not of events"):
        compile_query(parse("label.user:u7", now=NOW))


@pytest.mark.parametrize("text", ["branch:b2", "-branch:b2", "branch:b22"])
def test_a_counted_branch_is_not_taken_for_the_first_digits_of_an_id(text: str) -> None:
    with pytest.raises(InvalidQueryError, match="at least 8 hex digits"):
        holds(text)


# --- properties ----------------------------------------------------------------------------------
fragments = st.sampled_from(
    [
        "type:", "data.a:", "data/", "meta.", "since:", "position:", "occurred:", "has:", "label.x:", "branch:", "-", '"',
        "\\", ",", "*", "..", " ", "1", "2h", "a", ":", "x:", "é", "\u3000", "\x1c", "1e999", "true", "\ud800", "\0",
    ]
)  # fmt: skip


@moderate
@given(st.text(max_size=30) | st.lists(fragments, max_size=12).map("".join))
def test_any_text_is_a_query_or_refused_as_documented(text: str) -> None:
    try:
        query = parse(text, now=NOW)
        compile_query(query)(EVENT)
        compile_query(query)(ERASED)
    except (InvalidQueryError, LimitError):
        return
    assert all(term.values for term in query.terms)


def quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


plain_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0*"), min_size=1, max_size=8)
calendar = st.datetimes(timezones=st.just(UTC))


@moderate
@given(
    st.lists(plain_texts, min_size=1, max_size=3),
    st.lists(st.sampled_from(["a*", "*", "w:*:x", "k1"]), min_size=1, max_size=3),
    calendar,
)
@example(["a,b", '"', "\\", "x:y", ".."], ["a*"], datetime(2026, 1, 1, tzinfo=UTC))
def test_a_rendered_keyword_query_reads_back_equal(types: list[str], keys: list[str], since: datetime) -> None:
    micros = (since - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    made = from_keywords(types=types, keys=keys, since=micros)
    text = f"type:{','.join(map(quote, types))} key:{','.join(keys)} since:{since.isoformat()}"
    assert parse(text, now=0) == made


def glob_by_hand(pattern: str, text: str) -> bool:
    """The meaning of a glob, by trying every run that a star may take."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(glob_by_hand(pattern[1:], text[skip:]) for skip in range(len(text) + 1))
    return bool(text) and text[0] == pattern[0] and glob_by_hand(pattern[1:], text[1:])


@moderate
@given(st.text("ab*.[?\n", max_size=6), st.text("ab.[?\n", max_size=6))
def test_a_star_is_any_run_and_nothing_else_is_special(pattern: str, text: str) -> None:
    assert (glob_pattern(Glob(pattern)).fullmatch(text) is not None) is glob_by_hand(pattern, text)


scalars = st.sampled_from([None, True, False, 0, 1, 1.0, 2, "", "1", "true", "null", "ab", "Ab"])
bodies = st.dictionaries(st.sampled_from(["a", "b"]), scalars | st.lists(scalars, max_size=2), max_size=2)
events = st.builds(
    Sample,
    position=st.integers(0, 3),
    type=st.sampled_from(["a.x", "a.y", "note"]),
    actor=st.sampled_from([None, "p", "q"]),
    outcome=st.sampled_from([None, "ok", "error"]),
    recorded_micros=st.integers(NOW - 3, NOW),
    occurred_micros=st.none() | st.integers(0, 3),
    key=st.sampled_from([None, "k1", "k2"]),
    data=st.none() | bodies,
    metadata=st.none() | bodies,
    rationale=st.sampled_from([None, "ab", "because"]),
).flatmap(lambda event: st.sampled_from([event, replace(event, data=None, metadata=None, rationale=None, erased=True)]))
text_values = st.sampled_from(
    [
        Exact("a.x"),
        Glob("a.*"),
        Exact("p"),
        Glob("*"),
        Exact("k1"),
        Glob("k*"),
        Exact("ok"),
        Exact("none"),
        Exact("ab"),
    ]
)
member_values = st.one_of(
    st.sampled_from(["1", "true", "null", "ab", "2", ""]).map(Exact),
    st.sampled_from(["*", "a*"]).map(Glob),
    scalars.map(Typed),
    st.builds(Range, st.none() | st.integers(0, 2), st.none() | st.integers(0, 2)),
)
ranges = st.builds(Range, st.none() | st.integers(0, 3), st.none() | st.integers(0, 3))


def several(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, min_size=1, max_size=2).map(tuple)


def terms_of(keys: str, values: st.SearchStrategy[Any], *paths: tuple[str, ...]) -> st.SearchStrategy[Term]:
    return st.builds(
        Term, st.sampled_from(keys.split()), several(values), st.sampled_from(paths or ((),)), st.booleans()
    )


has_values = st.sampled_from(["data", "erased", "key", "rationale", "occurred_at"]).map(Exact)
terms = st.one_of(
    terms_of("type actor outcome key rationale", text_values),
    terms_of("position occurred", ranges),
    terms_of("data meta", member_values, ("a",), ("b",), ("a", "0"), ("a", "b")),
    terms_of("text", st.sampled_from(["A", "b", "ec"]).map(Exact)),
    terms_of("has", has_values),
)


def meets_by_hand(term: Term, event: Sample) -> bool:
    """The meaning of a term, slowly, from the design's words and none of the code."""
    if term.key in ("data", "meta", "rationale", "text") and event.erased:
        return False
    return any(value_by_hand(term, value, event) for value in term.values) is not term.negated


def value_by_hand(term: Term, value: Any, event: Sample) -> bool:
    columns: dict[str, Any] = {
        "type": event.type, "actor": event.actor, "outcome": event.outcome or "none", "key": event.key,
        "rationale": event.rationale,
    }  # fmt: skip
    if term.key in columns:
        column = columns[term.key]
        pattern = value.pattern if isinstance(value, Glob) else value.text
        return column is not None and (glob_by_hand(pattern, column) if isinstance(value, Glob) else pattern == column)
    if term.key in ("position", "occurred"):
        number = event.position if term.key == "position" else event.occurred_micros
        low = 0 if value.low is None else value.low
        high = 10**9 if value.high is None else value.high
        return number is not None and low <= number < high
    if term.key == "has":
        return {
            "data": event.data is not None, "erased": event.erased, "key": event.key is not None,
            "rationale": event.rationale is not None, "occurred_at": event.occurred_micros is not None,
        }[value.text]  # fmt: skip
    if term.key == "text":
        members: list[Any] = [] if event.data is None else list(event.data.values())
        flat = [one for member in members for one in elements(member)]
        return any(value.text.lower() in one.lower() for one in [*flat, event.rationale] if isinstance(one, str))
    return member_by_hand(term.path, value, event.data if term.key == "data" else event.metadata)


def elements(member: Any) -> list[Any]:
    return cast("list[Any]", member) if isinstance(member, list) else [member]


def member_by_hand(path: tuple[str, ...], value: Any, root: Any) -> bool:
    if root is None or path[0] not in root:
        return False
    member = root[path[0]]
    if path[1:]:
        if not (isinstance(member, list) and member and path[1] == "0"):
            return False
        member = cast("list[Any]", member)[0]
    if value == Glob("*"):
        return True
    return any(scalar_by_hand(value, one) for one in elements(member))


def kind_of(value: Any) -> str:
    return "bool" if isinstance(value, bool) else "number" if isinstance(value, (int, float)) else type(value).__name__


def scalar_by_hand(value: Any, one: Any) -> bool:
    kind = kind_of(one)
    match value:
        case Glob(pattern=pattern):
            return kind == "str" and glob_by_hand(pattern, str(one))
        case Range(low=low, high=high):
            return kind == "number" and (low is None or low <= one) and (high is None or one <= high)
        case Typed(value=wanted):
            return kind_of(wanted) == kind and wanted == one
        case _:
            spelled = {"bool": str(one).lower(), "NoneType": "null", "str": one}
            return (spelled[kind] if kind in spelled else str(int(one))) == value.text


@settings(max_examples=250, deadline=None)
@given(st.lists(terms, max_size=3).map(tuple), events)
def test_matching_agrees_with_the_meaning_written_out_by_hand(chosen: tuple[Term, ...], event: Sample) -> None:
    query = Query(chosen)
    expected = all(meets_by_hand(term, event) for term in chosen)
    assert matches(query, event) is expected
    header, rest = query.split()
    assert (matches(Query(header), event) and matches(rest, event)) is expected
