"""What is a secret and what only looks so: at least five of both for every rule, in the texts that they stand in."""

from __future__ import annotations

import json

import pytest

from core.secrets_made import AROUND, CONTEXTS, NEAR, SEEDS, TOKENS, _pem, drawn
from everlog.core.redact import Redactor, compile_rules
from everlog.core.secret_rules import RULES

IDS = [rule.id for rule in RULES]
REDACTOR = Redactor(compile_rules(), "redact", lambda: b"k" * 32)


def found(value):
    return [(finding.rule, finding.start, finding.stop) for finding in REDACTOR.findings(value, "value")]


def texts(rule):
    """Give (text, secret) pairs: each secret in each of the texts that it may stand in."""
    for seed in range(SEEDS):
        secret = TOKENS[rule](drawn(seed))
        for context in AROUND.get(rule, CONTEXTS):
            yield context.format(secret), secret


def test_the_corpus_has_at_least_five_of_both_for_every_rule():
    assert set(TOKENS) == set(NEAR) == set(IDS)
    assert all(len(near(drawn(0))) >= 5 for near in NEAR.values())
    assert SEEDS >= 5


@pytest.mark.parametrize("rule", IDS)
def test_a_secret_is_found_with_its_bounds_whatever_stands_around_it(rule):
    for text, secret in texts(rule):
        start = text.index(secret)
        assert (rule, start, start + len(secret)) in found(text), text
        marked = REDACTOR.marked(text)
        assert secret not in marked, text
        assert f"[redacted:{rule}:" in marked


@pytest.mark.parametrize("rule", IDS)
def test_what_only_looks_like_a_secret_is_left(rule):
    for seed in range(SEEDS):
        for text in NEAR[rule](drawn(seed)):
            assert [each for each in found(text) if each[0] == rule] == [], text


@pytest.mark.parametrize("rule", IDS)
def test_what_was_redacted_is_not_redacted_again(rule):
    for text, _ in texts(rule):
        marked = REDACTOR.marked(text)
        assert REDACTOR.marked(marked) == marked


@pytest.mark.parametrize("rule", IDS)
def test_a_secret_is_found_in_json_inside_of_json(rule):
    for text, secret in list(texts(rule))[:12]:
        inner = json.dumps({"output": text})
        assert json.dumps(secret)[1:-1] not in json.dumps(REDACTOR.marked({"data": inner})), text
        assert isinstance(json.loads(REDACTOR.marked(inner)), dict), "it stays JSON"


@pytest.mark.parametrize("kind", ["RSA ", "", "EC ", "OPENSSH ", "ENCRYPTED ", "DSA "])
@pytest.mark.parametrize("newline", ["\n", "\\n", "\r\n", "\\\\n", "\n    ", "\n  12\u2192", "\n+"])
@pytest.mark.parametrize("end", [True, False])
def test_private_keys_of_every_kind_are_found_whole_or_cut_off_and_however_lines_are_written(kind, newline, end):
    secret = _pem(drawn(1), kind, newline=newline, end=end)
    marked = REDACTOR.marked(f"before {secret}\nafter it")
    lines = [line for line in secret.split(newline) if not line.startswith("-")]
    assert not any(line in marked for line in lines), marked
    assert marked.startswith("before [redacted:private-key:")
    assert marked.endswith("after it")


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("password", "cargo-PLANE481", "password"),
        ("db_password", "cargo-PLANE481", "password"),
        ("apiKey", "0a9s8d7f6g5h4j3k2l1q", "named-secret"),
        ("access_token", "0a9s8d7f6g5h4j3k2l1q", "named-secret"),
        ("SecretAccessKey", "a9S8d7F6g5H4j3K2l1Qw" * 2, "aws-secret-access-key"),
    ],
)
def test_a_member_s_name_tells_of_its_value(name, value, rule):
    assert found({name: value})[0][0] == rule
    assert found({"deep": [{name: [value]}]})[0][0] == rule
    assert found({"other": value}) == []


@pytest.mark.parametrize(
    "value",
    [
        {"usage": {"input_tokens": 17, "max_tokens": "4096"}},
        {"type": "password", "name": "password", "token": "END_OF_TURN"},
        {"password": "", "token": None, "secret": True},
        {"signature": "a9S8d7F6g5H4j3K2l1Qw" * 20},
        {"uuid": "123e4567-e89b-12d3-a456-426614174000", "sha": "a" * 40},
    ],
)
def test_members_of_usual_events_are_left(value):
    assert found(value) == []
