"""The demo: an agent records itself, is killed midway, goes on in another process; then its session is looked through."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import click

import everlog
from everlog.cli.demo_agent import SESSION, prepare, unanswered

_KILLED_AT = "run_tests"  # the agent is killed while this tool runs for the second time
_WAIT_SECONDS = 60.0


def run_demo(folder: Path | None) -> int:
    """Play the demo in a folder (a new one by default); give an exit code."""
    place = Path(tempfile.mkdtemp(prefix="everlog-demo-")) if folder is None else folder
    place.mkdir(parents=True, exist_ok=True)
    code = place / "code"
    code.mkdir(exist_ok=True)
    prepare(code)
    path = str(place / "demo.db")
    _title("1. An agent works on a bug, and records itself")
    _kill_midway(path, code)
    _title("2. Another process opens the session, sees where it stopped, and goes on to the end")
    _show_what_was_left(path)
    subprocess.run(_agent(path, code), check=True)
    _title("3. What a person types, and what it answers")
    return _look_through(path, place)


def _agent(path: str, code: Path) -> list[str]:
    return [sys.executable, "-m", "everlog.cli.demo_agent", path, str(code)]


def _kill_midway(path: str, code: Path) -> None:
    """Start the agent, follow its session live from this process, and kill it while a tool runs."""
    with everlog.open(path) as store:
        session = store.get_or_create(SESSION, title="Empty text crashes the parser", labels={"demo": "yes"})
        agent = subprocess.Popen(_agent(path, code))
        runs = 0
        for event in session.follow("start", idle=_WAIT_SECONDS):
            _say_event(event)
            runs += event.type == "agent.tool_use" and event.data["name"] == _KILLED_AT
            if runs == 2:
                agent.send_signal(signal.SIGKILL)
                agent.wait()
                click.secho(f"   kill -9 {agent.pid}: the process is gone, in the middle of a tool call", fg="red")
                return
        agent.kill()
        agent.wait()
        raise RuntimeError("the demo's agent did not get to its second test run within a minute")


def _say_event(event: everlog.Event) -> None:
    from everlog.cli.output import event_line

    click.echo(f"   {event_line(event)}")


def _show_what_was_left(path: str) -> None:
    with everlog.open(path) as store:
        session = store.session(SESSION)
        orphans = unanswered(session)
        click.echo(
            f"   the session is whole: {session.size()} events, verify says {'good' if session.verify().ok else 'bad'}"
        )
        for orphan in orphans:
            click.echo(f"   in flight when it died: {orphan.data['name']} ({orphan.rationale})")


def _look_through(path: str, place: Path) -> int:
    bundle = str(place / "session.everlog")
    for words in (
        ["log", SESSION, "--limit", "40"],
        ["log", SESSION, "outcome:error,unknown"],
        ["log", SESSION, "type:agent.tool_use", "rationale:*fail*"],
        ["show", f"{SESSION}@test-written"],
        ["fork", f"{SESSION}@test-written", "--id", "another-fix", "--reason", "try it with a regular expression"],
        ["rewind", f"{SESSION}@test-written", "--reason", "to see what that does"],
        ["tree", SESSION],
        ["export", SESSION, bundle],
        ["verify"],
    ):
        click.echo()
        click.secho(f"$ everlog {' '.join(_quoted(word) for word in words)}", bold=True)
        ran = subprocess.run(
            [sys.executable, "-m", "everlog", *words], env={**os.environ, "EVERLOG_STORE": path}, check=False
        )
        if ran.returncode:
            return ran.returncode
    _title("Where to go next")
    click.echo(f"   The store is {path}. Try: export EVERLOG_STORE={path}; everlog ls; everlog --help")
    click.echo(
        "   Your own transcripts: everlog import claude-code, or codex   In Python: everlog.open(), see README.md"
    )
    return 0


def _quoted(word: str) -> str:
    return f"'{word}'" if " " in word or "*" in word else word


def _title(text: str) -> None:
    click.echo()
    click.secho(text, bold=True, fg="cyan")
