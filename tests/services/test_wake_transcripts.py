"""Real sessions that end anywhere: each wakes, is repaired, and gives messages that every provider takes."""

import os
from pathlib import Path

import pytest

import everlog
from databases import url_of
from everlog.importers import import_paths
from services.conversations import check_all

SHARED = Path(os.environ.get("EVERLOG_SHARED", Path(__file__).parents[3] / "shared")) / "transcripts"
TRANSCRIPTS = sorted(SHARED.glob("*/*.traj")) + sorted(SHARED.glob("*/*.jsonl"))


@pytest.fixture(scope="module")
def store():
    with everlog.open("memory:", snapshots=False) as opened:
        yield opened


def without_result(session):
    """Give the ids of tool uses that have no result, in the plainest way."""
    open_uses = []
    for event in session:
        content = event.data.get("content") if isinstance(event.data, dict) else None
        blocks = content if isinstance(content, list) and event.type.endswith("message") else []
        if event.type == "agent.tool_use":
            blocks = [{"type": "tool_use", "id": event.data["id"]}]
        elif event.type == "agent.tool_result":
            blocks = [{"type": "tool_result", "tool_use_id": event.data["tool_use_id"]}]
        for block in blocks:
            if block["type"] == "tool_use":
                open_uses.append(block["id"])
            elif block["type"] == "tool_result" and block["tool_use_id"] in open_uses:
                open_uses.remove(block["tool_use_id"])
    return open_uses


@pytest.mark.skipif(not TRANSCRIPTS, reason="the shared transcripts do not lie beside this checkout")
@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem[:40])
def test_every_transcript_wakes_and_is_repaired_wherever_it_is_cut(store, path):
    check_every_cut(store, path)


@pytest.mark.skipif(not TRANSCRIPTS, reason="the shared transcripts do not lie beside this checkout")
def test_a_transcript_wakes_and_is_repaired_on_postgresql_too(tmp_path):
    with everlog.open(url_of(tmp_path), snapshots=False) as store:
        check_every_cut(store, min(TRANSCRIPTS, key=lambda path: path.stat().st_size))


def check_every_cut(store, path):
    format = "swe-agent" if path.suffix == ".traj" else "claude-code"
    before = {info.id for info in store.sessions(limit=1_000)}
    list(import_paths(store, format, [path]))
    for info in store.sessions(limit=1_000):
        if info.id in before:
            continue
        session = store.session(info.id)
        for cut in range(info.size + 1):
            name = session.fork(cut).id
            expected = without_result(store.session(name))
            with store.wake(name, holder="test") as woken:
                assert sorted(tool.id for tool in woken.pending.tools) == sorted(expected)
                repaired = woken.repair()
                assert [event.data["tool_use_id"] for event in repaired] == [tool.id for tool in woken.pending.tools]
                assert {event.outcome for event in repaired} <= {"unknown"}
                check_all(woken.state("messages"))
                assert woken.repair() == []
                assert not woken.in_flight().tools
                woken.append("user.message", {"content": "Go on."})
                check_all(woken.state("messages"))
            store.delete(name, reason="it was looked at")
