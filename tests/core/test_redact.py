"""Redaction of one event and of single values: what is scanned, what it becomes, what is refused, and what never leaks."""

from __future__ import annotations

import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.secrets_made import TOKENS, drawn
from everlog.core.event import NewEvent
from everlog.core.limits import BODY_DEPTH_MAX, RULES_MAX
from everlog.core.prepare import prepare_batch
from everlog.core.redact import Finding, Redactor, compile_rules, covers
from everlog.core.secret_rules import RULES, SecretRule
from everlog.errors import InvalidEventError, InvalidQueryError, LimitError, SecretError, UnsupportedStoreError

KEY = b"k" * 32
TOKEN, OTHER = (TOKENS["github-token"](drawn(seed)) for seed in (1, 2))
RULES_USED = compile_rules()


def redactor(mode="redact", rules=RULES_USED, key=KEY):
    return Redactor(rules, mode, lambda: key)


def marked(secret, rule="github-token", key=KEY):
    return f"[redacted:{rule}:{hmac.digest(key, b'everlog/1/mark' + bytes(1) + secret.encode(), 'sha256').hex()[:8]}]"


def prepare(event, mode="redact", **options):
    return prepare_batch(
        [event], draw=bytes, read_cause=str.encode, body_bytes_max=1 << 20, redactor=redactor(mode), **options
    )[0]


def test_every_string_of_an_event_is_scanned_and_equal_secrets_have_equal_marks():
    event = NewEvent(
        "note",
        {"content": f"a {TOKEN} b {OTHER}", "deep": [{"x": (TOKEN,)}], TOKEN: "as a name"},
        rationale=f"since {TOKEN}",
        metadata={"m": TOKEN},
        attachments={"a.txt": f"ü {TOKEN}".encode(), "b.bin": b"\x00" + TOKEN.encode()},
    )
    clean = redactor().event(event)
    mark = marked(TOKEN)
    assert clean.data == {"content": f"a {mark} b {marked(OTHER)}", "deep": [{"x": [mark]}], mark: "as a name"}
    assert clean.rationale == f"since {mark}"
    assert clean.metadata == {"m": mark, "redacted": [{"rule": "github-token", "count": 7}]}
    assert clean.attachments == {"a.txt": f"ü {mark}".encode(), "b.bin": b"\x00" + TOKEN.encode()}
    assert TOKEN in event.data["content"], "what was given is as it was"


def test_marks_depend_on_the_store_s_key():
    assert redactor(key=b"a" * 32).marked(TOKEN) != redactor(key=b"b" * 32).marked(TOKEN)


def test_what_holds_no_secret_is_the_same_object():
    event = NewEvent("note", {"content": "nothing", "n": [1, 2.5, None, True]}, attachments={"a": b"text"})
    assert redactor().event(event) is event
    value = {"password": "see the vault", "x": [TOKEN[:20]]}
    assert redactor().marked(value) is value


def test_the_rules_that_fired_are_counted_also_over_what_was_redacted_before():
    once = redactor().event(NewEvent("note", {"content": TOKEN}))
    assert redactor().event(once) is once
    again = redactor().event(NewEvent("note", {"content": f"{once.data['content']} {OTHER}"}, metadata=once.metadata))
    assert again.metadata == {"redacted": [{"rule": "github-token", "count": 2}]}


@pytest.mark.parametrize("taken", ["mine", 1, [1], [{"rule": "x"}], {"a": 1}])
def test_a_member_of_metadata_of_the_same_name_is_refused_and_not_overwritten(taken):
    with pytest.raises(InvalidEventError, match="rename it") as refused:
        prepare(NewEvent("note", {"content": TOKEN}, metadata={"redacted": taken}))
    assert TOKEN not in str(refused.value)
    assert prepare(NewEvent("note", {"content": "none"}, metadata={"redacted": taken}))


@pytest.mark.parametrize(
    "event",
    [
        NewEvent("note", {"content": ""}, key=f"a-{TOKEN}"),
        NewEvent("note", {"content": ""}, actor=f"a/{TOKEN}"),
        NewEvent("note", {"content": ""}, attachments={TOKEN: b""}),
        NewEvent(TOKEN, {"content": ""}),
        NewEvent("note", {"content": ""}, outcome=TOKEN),
        NewEvent("note", {"content": ""}, caused_by=TOKEN),
    ],
)
@pytest.mark.parametrize("mode", ["redact", "reject"])
def test_what_names_a_thing_is_refused_in_either_mode(event, mode):
    with pytest.raises(SecretError) as refused:
        prepare(event, mode)
    assert TOKEN not in str(refused.value)
    assert [finding.rule for finding in refused.value.findings] == ["github-token"]


def test_the_key_of_a_whole_append_is_refused_too():
    with pytest.raises(SecretError, match="^key holds"):
        prepare(NewEvent("note", {"content": ""}), key=TOKEN)


def test_where_secrets_are_rejected_the_error_says_where_and_never_what():
    with pytest.raises(SecretError) as refused:
        prepare(NewEvent("note", {"content": "ü", "a/b": [{"c~d": f"ü {TOKEN}"}], TOKEN: TOKEN}), "reject")
    message, findings = str(refused.value), refused.value.findings
    assert "data/a~1b/0/c~0d holds what rule 'github-token' takes for a secret (characters 2 to 42)" in message
    assert "nothing was written" in message
    assert findings[0] == Finding("github-token", "data/a~1b/0/c~0d", 2, 2 + len(TOKEN))
    assert len(findings) == 3
    assert TOKEN not in repr((message, findings))


def test_among_several_events_the_one_that_is_refused_is_named():
    events = [NewEvent("note", {"content": "a"}), NewEvent("note", {"content": TOKEN})]
    with pytest.raises(SecretError, match="^event 1 of 2: data/content holds") as refused:
        prepare_batch(events, draw=bytes, read_cause=str.encode, body_bytes_max=1 << 20, redactor=redactor("reject"))
    assert refused.value.findings[0].path == "data/content"


@pytest.mark.parametrize(
    "event",
    [
        NewEvent("user.message", {"text": TOKEN}),
        NewEvent("note", {"content": TOKEN, TOKEN: float("nan")}),
        NewEvent("note", {TOKEN: {1: 2}}),
        NewEvent("checkpoint", {"name": TOKEN}),
        NewEvent("note", {"content": "\ud800" + TOKEN}),
        NewEvent("note", {"content": ""}, metadata=TOKEN),
        NewEvent("note", {"content": ""}, metadata={"x": object(), TOKEN: 1}),
    ],
)
@pytest.mark.parametrize("mode", ["redact", "reject"])
def test_no_error_about_an_event_shows_its_secret(event, mode):
    with pytest.raises((InvalidEventError, LimitError, SecretError)) as refused:
        prepare(event, mode)
    shown: BaseException | None = refused.value
    while shown is not None:
        assert TOKEN not in repr(shown)
        shown = shown.__context__


def test_values_that_refer_to_themselves_or_are_nested_too_deep_are_refused_at_once():
    loop: list = []
    loop += [loop, loop]
    with pytest.raises(LimitError, match="nested deeper"):
        prepare(NewEvent("note", {"content": loop}))
    deep: object = TOKEN
    for _ in range(BODY_DEPTH_MAX - 1):
        deep = [deep]
    assert TOKEN.encode() not in prepare(NewEvent("note", {"content": deep})).body
    with pytest.raises(LimitError, match="nested deeper"):
        prepare(NewEvent("note", {"content": [deep]}))


def test_two_names_that_become_one_stay_two_members():
    mark = marked(TOKEN)
    assert redactor().marked({mark: 1, TOKEN: 2}) == {mark: 1, mark + "'": 2}


def test_the_more_special_rule_names_the_mark_and_nothing_is_redacted_twice():
    assert redactor().marked(f"token = {TOKEN}") == f"token = {marked(TOKEN)}"
    assert redactor().marked({"api_key": TOKEN}) == {"api_key": marked(TOKEN)}


def test_a_million_finds_take_one_pass():
    text = f"{TOKEN} and " * 20_000
    findings = redactor().findings(text, "x")
    assert len(findings) == 20_000
    assert findings[-1].stop == len(text) - len(" and ")
    hostile = "password=" + "a-" * 500_000 + "! {<" * 100_000 + "-----BEGIN PRIVATE " + "KEY-----" * 50_000
    assert redactor().marked(hostile) == hostile


# --- rules ---------------------------------------------------------------------------------------
def test_one_s_own_rules_come_before_the_standard_ones():
    own = SecretRule("acme", r"ghp_\w+")
    assert redactor(rules=compile_rules([own])).marked(TOKEN.replace(TOKEN[:4], "ghp_")).startswith("[redacted:acme:")


@pytest.mark.parametrize("pattern", ["^whole$", r"\Awhole\z", "whole$", "(?m)^whole$", "[$]?whole"])
def test_a_pattern_with_anchors_is_about_each_string(pattern):
    found = redactor(rules=compile_rules([SecretRule("own", pattern)])).findings({"a": "x", "b": ["whole"]}, "data")
    assert [each.path for each in found] == ["data/b/0"]


@pytest.mark.parametrize(
    ("rule", "error", "says"),
    [
        (SecretRule("own", "(a"), InvalidQueryError, r"rule 'own' is none that RE2 takes: missing \)"),
        (SecretRule("own", "(?=a)b"), InvalidQueryError, "look-around"),
        (SecretRule("own", "a*"), InvalidQueryError, "nothing at all"),
        (SecretRule("own", "a" * 5_000), LimitError, "at most 2048 characters"),
        (SecretRule("own", "\ud800"), InvalidQueryError, "none that RE2 takes"),
        (SecretRule("Own Rule", "a"), InvalidQueryError, "of the form"),
        ({"id": "a"}, InvalidQueryError, "no SecretRule"),
        (SecretRule("jwt", "a"), InvalidQueryError, "two rules are called 'jwt'"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_and_says_why(rule, error, says, capfd):
    with pytest.raises(error, match=says) as refused:
        compile_rules([rule])
    assert "no rule is in force" in str(refused.value)
    assert capfd.readouterr() == ("", ""), "RE2 logs nothing"


def test_more_rules_than_there_may_be_are_refused():
    with pytest.raises(LimitError, match="is the most"):
        compile_rules([SecretRule(f"r{number}", "a") for number in range(RULES_MAX + 1)])


def test_an_unknown_mode_is_refused():
    from everlog.core.redact import check_mode

    with pytest.raises(UnsupportedStoreError, match="none of redact reject off"):
        check_mode("maybe")


# --- what covers what -----------------------------------------------------------------------------
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from([TOKEN, f"a {TOKEN} b {OTHER}"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.just(TOKEN), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_what_was_redacted_covers_what_it_was_and_holds_no_secret(value):
    clean = redactor().marked(value)
    assert covers(clean, value)
    assert TOKEN not in json.dumps(clean)
    assert redactor().marked(clean) is clean


@pytest.mark.parametrize(
    ("redacted", "original"),
    [
        ("a [redacted:x:01234567] b", "a secret c"),
        ("a [redacted:x:01234567] b", "b secret b"),
        ("a[redacted:x:01234567]a", "a"),
        ("a [redacted:x:0123456] b", "a secret b"),
        (["[redacted:x:01234567]"], ["a", "b"]),
        ({"a": "[redacted:x:01234567]"}, {"a": 1}),
        ({"a": "x"}, {"b": "x"}),
        (b"a [redacted:x:01234567]", b"b secret"),
    ],
)
def test_what_differs_elsewhere_is_not_covered(redacted, original):
    assert not covers(redacted, original)


def test_the_rules_have_names_of_their_own():
    assert len({rule.id for rule in RULES}) == len(RULES)


def test_rules_that_are_too_large_together_are_refused_and_not_silently_without_effect():
    large = [SecretRule(f"r{number}", rf"(?:[^\W_]{{1,50}}\pL){{1,19}}{number}") for number in range(RULES_MAX)]
    with pytest.raises(LimitError, match="more memory together"):
        compile_rules(large)
