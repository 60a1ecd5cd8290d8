"""SWE-agent trajectories (`.traj`): a JSON object with `trajectory` (steps), `history` (messages) and `info`.

A step becomes one append of three events: the action a tool use with the thought as its rationale, the observation its
result, the state a `state.set`. The first carries the step whole in `metadata.native`, so nothing is lost; what stands
before the first step (system prompt, task) become messages, and what stands beside the steps an `x.swe_agent.run`.

Keys are made of an item's place and its hash, so that importing again adds nothing, and importing a file that has grown
adds what is new.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from everlog.core.event import NewEvent
from everlog.core.values import decode_json
from everlog.errors import InvalidEventError, NotFoundError
from everlog.importers import Imported, Progress
from everlog.session import Session
from everlog.store import Store

FORMAT = "swe-agent"
FILE_BYTES_MAX = 1024 * 1024 * 1024
INLINE_BYTES_MAX = 1024 * 1024  # larger remains of a run go into an attachment
_APPEND_EVENTS = 300  # events of one append: few enough to stay small, many enough to share an fsync


def import_file(store: Store, path: Path, progress: Progress | None = None) -> Imported:
    """Import one `.traj` file into a session named after it.

    Raises NotFoundError, or InvalidEventError for a file that is no trajectory; what was recorded stays.
    """
    run = _read(path)
    steps = run["trajectory"]
    session = _open_session(store, path, run)
    before = session.size()
    total = len(steps)
    known = 0
    for done, chunk in _chunks(run):
        recorded = session.extend(chunk, repeats="skip")
        known += sum(event.repeated for event in recorded)
        if progress is not None:
            progress(done, total)
    return Imported(session=session.id, path=str(path), events=session.size() - before, known=known)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise InvalidEventError(f"{path} is larger than {FILE_BYTES_MAX} bytes; nothing of it was imported")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}; nothing was imported") from None
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read ({error.strerror}); nothing was imported") from error
    run = decode_json(raw, what=str(path))
    if not isinstance(run, dict) or not isinstance(run.get("trajectory"), list):
        raise InvalidEventError(f"{path} is no SWE-agent trajectory: it has no list 'trajectory'; nothing was imported")
    for number, step in enumerate(cast("list[object]", run["trajectory"])):
        if not isinstance(step, dict):
            raise InvalidEventError(f"{path}: step {number} of the trajectory is no object; nothing was imported")
    return cast("dict[str, Any]", run)


def _open_session(store: Store, path: Path, run: dict[str, Any]) -> Session:
    """Open the session of this run, or make it; another run under the same file name gets a name of its own."""
    identity = _digest([run["trajectory"][:1], _opening(run)])
    made_with: dict[str, Any] = {
        "title": _title(run),
        "labels": {"source": FORMAT},
        "metadata": {"file": path.name, "run": identity},
    }
    session = store.get_or_create(path.stem, **made_with)
    if session.info().metadata.get("run") != identity:
        session = store.get_or_create(f"{path.stem}-{identity[:8]}", **made_with)
    return session


def _title(run: dict[str, Any]) -> str | None:
    for message in _opening(run):
        content = message.get("content")
        if message.get("role") == "user" and isinstance(content, str):
            return " ".join(content.split())[:120]
    return None


def _opening(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the messages that stand before the agent's first: the system prompt, demonstrations and the task."""
    opening: list[dict[str, Any]] = []
    history = run.get("history")
    for message in cast("list[object]", history) if isinstance(history, list) else []:
        if not isinstance(message, dict) or message.get("role") not in ("system", "user"):
            break
        opening.append(cast("dict[str, Any]", message))
    return opening


def _chunks(run: dict[str, Any]) -> Iterator[tuple[int, list[NewEvent]]]:
    """Give the run's events in appends, each with the number of steps done after it."""
    steps: list[dict[str, Any]] = run["trajectory"]
    opening = [event for place, message in enumerate(_opening(run)) for event in _message_events(place, message)]
    if opening:
        yield 0, opening
    done = 0
    while done < len(steps):
        some = range(done, min(len(steps), done + _APPEND_EVENTS // 3))
        done = some.stop
        yield done, [event for place in some for event in _step_events(place, steps[place])]
    yield done, [_run_event(run)]


def _message_events(place: int, message: dict[str, Any]) -> Sequence[NewEvent]:
    kind = "system.message" if message["role"] == "system" else "user.message"
    content = message.get("content")
    data = {"content": content if isinstance(content, (str, list)) else _compact(content)}
    return [NewEvent(kind, data, metadata=_native(message), key=_key("message", place, message))]


def _step_events(place: int, step: dict[str, Any]) -> Sequence[NewEvent]:
    call = f"step-{place}"
    key = _key("step", place, step)
    state = step.get("state")
    if isinstance(state, str):
        with suppress(InvalidEventError):  # a state that is no JSON is kept as the text that it is
            state = decode_json(state.encode(), what="state")
    thought = step.get("thought")
    use = NewEvent(
        "agent.tool_use",
        {"id": call, "name": "bash", "input": {"command": step.get("action")}},
        rationale=thought if isinstance(thought, str) and thought else None,
        actor="swe-agent",
        metadata=_native(step),
        key=f"{key}:use",
    )
    observation = step.get("observation")
    result = NewEvent(
        "agent.tool_result",
        {"tool_use_id": call, "content": observation},
        metadata={"part": [1, 3]},
        key=f"{key}:result",
    )
    after = NewEvent("state.set", {"path": "", "value": state}, metadata={"part": [2, 3]}, key=f"{key}:state")
    return [use, result, after]


def _run_event(run: dict[str, Any]) -> NewEvent:
    """Keep what stands beside the steps: environment, info (outcome, cost), the whole history, how to replay."""
    rest = {name: value for name, value in run.items() if name != "trajectory"}
    key = _key("run", 0, rest)
    encoded = _compact(rest).encode()
    if len(encoded) <= INLINE_BYTES_MAX:
        return NewEvent("x.swe_agent.run", rest, key=key)
    short = {name: value for name, value in rest.items() if name != "history"}
    return NewEvent("x.swe_agent.run", short, attachments={"run.json": encoded}, key=key)


def _native(item: dict[str, Any]) -> dict[str, Any]:
    return {"native": {"format": FORMAT, "item": item}}


def _key(kind: str, place: int, item: object) -> str:
    return f"{FORMAT}:{kind}:{place}:{_digest(item)[:32]}"


def _digest(value: object) -> str:
    return sha256(_compact(value).encode()).hexdigest()


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
