"""The auditor's report on the command line and as a page; verification since a seal and of states."""

import json
import re
from html.parser import HTMLParser

import pytest

import everlog
from everlog import NewEvent

HOSTILE = "<script>alert(1)</script><img src=x onerror=y>\x1b[31m\u202e\x07&\"'"


class Page(HTMLParser):
    """Notes every tag of a page, every attribute, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def hostile(path):
    """A session of which all that others write is hostile."""
    with everlog.open(path) as store:
        session = store.create("run <b>", title=HOSTILE, labels={"user": HOSTILE})
        session.append("decision", {"question": HOSTILE, "choice": HOSTILE}, rationale=HOSTILE, actor="bot")
        session.append("error", {"message": HOSTILE}, metadata={"redacted": [{"rule": HOSTILE, "count": 1}]})
        session.append("model.request", {"model": HOSTILE})
        session.rewind(1, reason=HOSTILE)
        session.fork(id=f"fork{HOSTILE[:40]}", reason=HOSTILE)
        session.erase([0], reason=HOSTILE)
        session.hold(reason=HOSTILE)


def test_nothing_hostile_reaches_the_terminal_or_the_page(run, hostile, tmp_path):
    shown = run("audit", "run%20<b>").stdout
    assert "\x1b[31m" not in shown
    assert "\u202e" not in shown
    assert "\\x1b[31m" in shown
    for words in (("audit", "run%20<b>", "--json"), ("log", "run%20<b>", "--json"), ("ls", "--json")):
        shown = run(*words).stdout
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
        assert any("\u202e" in json.dumps(json.loads(line), ensure_ascii=False) for line in shown.splitlines()), words
    file = tmp_path / "audit.html"
    assert "events of run <b>" in run("audit", "run%20<b>", "--html", str(file)).stdout
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags == {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert page.attributes == {"lang", "charset", "http-equiv", "content"}
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)
    assert "<script>alert(1)</script>" in page.text  # as what it says


def test_the_page_is_one_file_that_fetches_nothing(run, hostile, tmp_path):
    file = tmp_path / "audit.html"
    run("audit", "run%20<b>", "--html", str(file))
    text = file.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|url\(|@import|<link|<script|<img", text)
    assert "@media print" in text


def test_a_page_that_cannot_be_written_is_told(run, hostile, tmp_path):
    assert "cannot be written" in run("audit", "run%20<b>", "--html", str(tmp_path / "no" / "a.html"), code=5).stderr


def test_the_questions_are_answered_as_text_and_as_json(run, path):
    with everlog.open(path) as store:
        session = store.create("run", events=[NewEvent("note", {"content": f"n{n}"}, actor="ann") for n in range(30)])
        for number in range(30):
            session.append("decision", {"choice": number}, rationale=f"because {number}", outcome="ok")
    shown = run("audit", "run", "--verify").stdout
    for text in (
        "Who acted",
        "ann",
        "because 29",
        "… 10 more: --limit",
        "good: 60 events",
        "60 events not sealed",
        "What this cannot tell",
    ):
        assert text in shown, text
    assert "because 5\n" not in shown
    found = json.loads(run("audit", "run", "--json", "-n", "2").stdout)
    assert found["decisions"]["count"] == 30
    assert [fact["why"] for fact in found["decisions"]["newest"]] == ["because 28", "because 29"]
    assert found["verification"] is None
    assert run("audit", "run@3", code=2).stderr
    assert run("audit", "run", "--limit", "0", code=2).stderr


def test_verify_since_a_seal_and_with_states_says_what_it_left_out(run, path, tmp_path):
    with everlog.open(path) as store:
        store.create("run").append("state.set", {"path": "/a", "value": 1}, state="document")
        keys = store.keys(tmp_path / "keys")
        keys.new()
        seal = store.seal(keys=keys)
        store.session("run").append("note", {"content": "late"})
    shown = run("verify", "--since", "last").stdout
    assert "good: 1 events" in shown
    assert f"not checked: what the seal of {seal.head.size} records covers" in shown
    assert "hashes of states made again: 1" in run("verify", "--states").stdout
    assert json.loads(run("verify", "run", "--since", str(seal.head), "--json").stdout)["events"] == 1
    assert "keeps no seal" in run("verify", "--since", "2020-01-01", code=3).stderr
    assert "--reducers is for --states" in run("verify", "--reducers", "x.py", code=2).stderr
    module = tmp_path / "mine.py"
    module.write_text("raise ValueError('broken')\n", encoding="utf-8")
    assert "cannot be loaded" in run("verify", "--states", "--reducers", str(module), code=2).stderr
