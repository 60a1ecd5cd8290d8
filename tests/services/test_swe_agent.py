"""Every step of every real SWE-agent trajectory is there after an import, and can be given back as it was."""

import json
from pathlib import Path

import pytest

import everlog
from everlog.errors import InvalidEventError, NotFoundError
from everlog.importers import Failure, Imported, import_paths, originals

TRANSCRIPTS = Path(__file__).resolve().parents[3] / "shared" / "transcripts" / "swe-agent"
FILES = sorted(TRANSCRIPTS.glob("*.traj"))
needs_transcripts = pytest.mark.skipif(
    not FILES, reason="the real transcripts lie beside the project, and are not here"
)

RUN = {
    "environment": "main",
    "trajectory": [
        {
            "action": "ls",
            "observation": "a.py",
            "response": "Look.\n```\nls\n```",
            "state": '{"cwd": "/"}',
            "thought": "Look.",
        },
        {"action": "submit", "observation": "", "response": "", "state": "not json", "thought": ""},
    ],
    "history": [
        {"role": "system", "content": "You are an agent."},
        {"role": "user", "content": "Mend it."},
        {"role": "assistant", "content": "Look."},
    ],
    "info": {"exit_status": "submitted"},
}


def import_file(store, path) -> Imported:
    (result,) = import_paths(store, "swe-agent", [path])
    if isinstance(result, Failure):
        raise result.error
    assert not result.problems
    return result


@pytest.fixture
def store(tmp_path):
    with everlog.open(tmp_path / "store.db") as opened:
        yield opened


def write(path, run):
    path.write_text(json.dumps(run), encoding="utf-8")
    return path


def natives(session):
    return [event.metadata["native"]["item"] for event in session.events(types="agent.tool_use")]


@needs_transcripts
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem[:20])
def test_every_step_of_a_real_trajectory_is_there_with_its_contents(store, path):
    source = json.loads(path.read_text(encoding="utf-8"))
    imported = import_file(store, path)
    session = store.session(imported.sessions[0])
    steps = source["trajectory"]
    assert natives(session) == steps
    uses = list(session.events(types="agent.tool_use"))
    results = list(session.events(types="agent.tool_result"))
    states = list(session.events(types="state.set"))
    assert len(uses) == len(results) == len(states) == len(steps)
    for step, use, result, state in zip(steps, uses, results, states, strict=True):
        assert use.data["input"]["command"] == step["action"]
        assert (use.rationale or "") == step["thought"]
        assert result.data == {"tool_use_id": use.data["id"], "content": step["observation"]}
        kept = step["state"]
        assert state.data["value"] == (json.loads(kept) if isinstance(kept, str) else kept)
    run = session.last("x.swe_agent.run")
    rest = {name: value for name, value in source.items() if name != "trajectory"}
    assert (json.loads(run.attachment("native.json")) if run.attachments else run.metadata["native"]["item"]) == rest
    assert list(originals(session))[-1] == rest
    assert session.verify().ok


@needs_transcripts
def test_importing_all_again_adds_nothing(store):
    first = [import_file(store, path) for path in FILES]
    again = [import_file(store, path) for path in FILES]
    assert [one.events for one in again] == [0] * len(FILES)
    assert [one.known for one in again] == [one.events for one in first]
    assert len(store.sessions(limit=100)) == len(FILES)


def test_a_trajectory_that_has_grown_adds_only_what_is_new(store, tmp_path):
    path = write(tmp_path / "run.traj", {**RUN, "trajectory": RUN["trajectory"][:1]})
    import_file(store, path)
    write(path, RUN)
    grown = import_file(store, path)
    assert natives(store.session("run")) == RUN["trajectory"]
    assert grown.known == 2 + 3 + 1  # messages, the step, and what stands beside the steps


def test_messages_before_the_first_step_are_the_prompt_and_the_task(store, tmp_path):
    import_file(store, write(tmp_path / "run.traj", RUN))
    session = store.session("run")
    assert [event.type for event in session.slice(0, 2)] == ["system.message", "user.message"]
    assert session[1].data["content"] == "Mend it."
    assert session.info().title == "Mend it."


def test_another_run_under_the_same_file_name_becomes_another_session(store, tmp_path):
    import_file(store, write(tmp_path / "run.traj", RUN))
    (tmp_path / "b").mkdir()
    other = {**RUN, "history": [{"role": "user", "content": "Something else."}]}
    imported = import_file(store, write(tmp_path / "b" / "run.traj", other))
    assert imported.sessions[0].startswith("run-")
    assert len(store.sessions(prefix="run")) == 2  # beside that which holds the key of marks


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"trajectory": 3}', '{"a": 1, "a": 2}', "\x00"])
def test_a_file_that_is_no_trajectory_is_refused_and_nothing_is_made(store, tmp_path, content):
    path = tmp_path / "run.traj"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidEventError, match="run.traj"):
        import_file(store, path)
    assert store.sessions() == []


def test_a_file_that_is_not_there_is_not_found(store, tmp_path):
    with pytest.raises(NotFoundError, match="no file"):
        import_file(store, tmp_path / "none.traj")


def test_a_long_history_is_kept_as_an_attachment(store, tmp_path):
    long = {**RUN, "history": [*RUN["history"], {"role": "assistant", "content": "x" * 2_000_000}]}
    import_file(store, write(tmp_path / "run.traj", long))
    event = store.session("run").last("x.swe_agent.run")
    assert json.loads(event.attachment("native.json"))["history"] == long["history"]


def test_a_step_that_is_no_object_is_kept_and_reported(store, tmp_path):
    path = write(tmp_path / "run.traj", {**RUN, "trajectory": [*RUN["trajectory"], 3]})
    (imported,) = import_paths(store, "swe-agent", [path])
    assert "step 2" in str(imported.problems[0])
    assert 3 in list(originals(store.session("run")))
