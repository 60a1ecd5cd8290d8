"""Summaries and contexts on the command line: made, shown, explained, compared; bounded, and safe to print."""

import json

import pytest

import everlog
from everlog import NewEvent

HOSTILE = "\x1b[2J\u202e\x07"


@pytest.fixture
def session(path):
    with everlog.open(path) as store:
        made = store.create("run", events=[NewEvent("system.message", {"content": "Be brief."})])
        made.extend(
            [
                NewEvent(
                    "user.message" if number % 2 == 0 else "agent.message",
                    {"content": f"Please keep fact_{number} {HOSTILE} in /src/a{number}.py. " + "word " * 30},
                )
                for number in range(120)
            ]
        )
        yield made


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def safe(result):
    return not {"\x1b", "\u202e", "\x07"} & set(result.stdout + result.stderr)


SMALL = ("--leaf-tokens", "300", "--fan-out", "3")


def test_a_session_is_summarized_once_and_says_how_far(run, session):
    run("append", "short", "note", "--text", "x", "--create")
    assert "there is too little yet" in run("summarize", "short").stdout
    shown = run("summarize", "run", *SMALL)
    assert "summaries written; events 0 to" in shown.stdout
    assert safe(shown)
    assert run("summarize", "run", *SMALL).stdout.startswith("0 summaries written")
    again = lines(run("summarize", "run", *SMALL, "--json"))[0]
    assert (again["written"], again["events"]) == (0, [])
    assert again["covered"] == session.outline()[-1].stop
    assert run("summarize", "run", "--fan-out", "17", code=2)
    assert run("summarize", "run", "--leaf-tokens", "5", code=2)
    assert "nobody" in run("summarize", "nobody", code=3).stderr


def test_a_limit_and_an_actor_are_taken(run, session):
    assert lines(run("summarize", "run", *SMALL, "-n", "2", "--actor", "cron", "--json"))[0]["written"] == 2
    assert session.last("summary").actor == "cron"


def test_the_outline_is_bounded_escaped_and_leads_to_what_is_covered(run, session):
    assert "there are no summaries here" in run("outline", "run").stderr
    assert lines(run("outline", "run", "--json")) == []
    run("summarize", "run", *SMALL)
    shown = run("outline", "run")
    assert "level" in shown.stdout
    assert "more lines: --full" in shown.stdout
    assert safe(shown)
    assert safe(run("outline", "run", "--full"))
    found = lines(run("outline", "run", "--level", "0", "--json"))
    assert len(found) == len(session.outline(0))
    assert found[0]["content"] == session.outline(0)[0].content
    assert "more: -n" in run("outline", "run", "--level", "0", "-n", "2").stderr
    assert run("outline", "run", "--level", "9").stdout == ""
    assert run("outline", "run@0").stdout == ""
    root, leaf = session.outline()[0], session.outline(0)[0]
    parts = lines(run("expand", f"run@{root.position}", "--json"))
    assert [part["level"] for part in parts] == [root.level - 1] * 3
    events = lines(run("expand", f"run@{leaf.position}", "--json"))
    assert [event["position"] for event in events] == list(range(leaf.start, leaf.stop))
    assert lines(run("expand", f"run@{leaf.event}", "--json")) == events
    shown = run("expand", f"run@{leaf.position}", "-n", "2")
    assert safe(shown)
    assert len(shown.stdout.splitlines()) == 2
    assert "more: -n" in shown.stderr
    assert "is no summary" in run("expand", "run@1", code=2).stderr
    assert "names no summary" in run("expand", "run", code=2).stderr
    session.erase([leaf.position], reason="asked")
    assert "is no summary" in run("expand", f"run@{leaf.position}", code=2).stderr


def test_a_context_is_printed_as_a_provider_takes_it(run, session):
    run("summarize", "run", *SMALL)
    shown = run("context", "build", "run", "-b", "2000")
    assert safe(shown)
    assert json.loads(shown.stdout) == session.context(2_000).payload
    assert "of 2,000 tokens (estimated)" in shown.stderr
    for shape, member in (("openai_chat", "messages"), ("openai_responses", "input"), ("plain", "messages")):
        assert json.loads(run("context", "build", "run", "--format", shape).stdout)[member]
    whole = lines(
        run(
            "context",
            "build",
            "run@50",
            "-b",
            "2000",
            "--pin",
            "3",
            "--pin",
            "fact_9 type:*",
            "--query",
            "fact_4",
            "--json",
        )
    )[0]
    assert whole["tokens"] == whole["manifest"]["tokens"] <= 2_000
    assert whole["manifest"]["plan"]["cut"] == 50
    assert {"pinned"} <= {item["why"] for item in whole["manifest"]["items"]}
    assert "raise budget=" in run("context", "build", "run", "-b", "60", "--pin", "3", code=2).stderr
    assert "has no event" in run("context", "build", "run", "--pin", "99999", code=3).stderr
    assert "no key of a query" in run("context", "build", "run", "--query", "nope:1", code=2).stderr
    run("context", "build", "run", "-b", "0", code=2)
    run("context", "build", "run", "--format", "xml", code=2)
    run("context", "build", "nobody", code=3)


def test_what_would_be_in_and_what_not_is_explained(run, session):
    run("summarize", "run", *SMALL)
    shown = run("context", "explain", "run", "-b", "2000", "--pin", "3")
    assert safe(shown)
    assert "+ pinned     event 3" in shown.stdout
    assert "+ system     event 0" in shown.stdout
    assert "- filtered" in shown.stdout
    manifest = lines(run("context", "explain", "run", "-b", "2000", "--pin", "3", "--json"))[0]
    assert manifest == session.context(2_000, pins=[3]).manifest.to_dict()
    with_more = run("context", "explain", "run", "-b", "200000")
    assert len(with_more.stdout.splitlines()) <= 402


def test_recorded_calls_are_shown_and_compared(run, session, path):
    context = session.context(2_000)
    first = session.record_request(context, model="m")
    answer = session.append("model.response", {"request": first.id}, caused_by=first)
    session.append("user.message", {"content": f"And now? {HOSTILE}"})
    second = session.record_request(session.context(2_000, pins=[3]), model="m")
    for place in (first.position, answer.position, first.id):
        assert run("context", "saw", f"run@{place}", "--json").stdout.encode() == context.encoded + b"\n"
    shown = run("context", "saw", "run")
    assert safe(shown)
    assert json.loads(shown.stdout) == session.saw(second).payload
    assert f"call at {second.position}" in shown.stderr
    assert "+ system" in run("context", "saw", f"run@{first.position}", "--manifest").stdout
    assert (
        lines(run("context", "saw", f"run@{first.position}", "--manifest", "--json"))[0] == context.manifest.to_dict()
    )
    change = run("context", "diff", f"run@{first.position}", f"run@{second.position}")
    assert "+ pinned     event 3" in change.stdout
    assert (
        lines(run("context", "diff", f"run@{first.position}", f"run@{second.position}", "--json"))[0]["tokens"][0]
        == context.tokens
    )
    assert "name two calls" in run("context", "diff", "run@1", "run", code=2).stderr
    assert "no recorded call led to" in run("context", "saw", "run@1", code=3).stderr
    assert "no recorded call led to" in run("context", "diff", "run@1", "run@2", code=3).stderr
    odd = session.append("model.request", {"model": "m", "manifest": {"version": HOSTILE}})
    refused = run("context", "saw", f"run@{odd.position}", code=2)
    assert "no manifest that can be read" in refused.stderr
    assert safe(refused)
    session.erase([3], reason="asked")
    assert "not byte for byte" in run("context", "saw", f"run@{second.position}").stderr


def test_summaries_of_a_model_are_printed_safely(run, session):
    session.summarize(lambda _: {"content": f"a{HOSTILE}b\nc", "method": f"m{HOSTILE}"}, leaf_tokens=300, fan_out=3)
    assert safe(run("outline", "run"))
    assert safe(run("outline", "run", "--full"))
    assert safe(run("context", "build", "run", "-b", "1000"))
    assert safe(run("context", "explain", "run", "-b", "1000"))
    assert lines(run("outline", "run", "--json"))[0]["content"] == f"a{HOSTILE}b\nc"
