"""An agent of the Claude Agent SDK whose transcripts are kept in Everlog: each run goes on where the last one ended.

python examples/integrations/claude_agent.py STORE

It talks to a script that stands for Claude Code (scripted_claude.py). Leave out `cli_path` and `env` to talk to Claude Code.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, project_key_for_directory, query

from everlog.integrations.claude_agent import EverlogSessionStore

SCRIPT = Path(__file__).with_name("scripted_claude.py")


def scripted_cli(folder: Path) -> Path:
    """Give a program that stands for Claude Code."""
    program = folder / "claude"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{SCRIPT}" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return program


async def main(place: Path) -> None:
    """Ask once, in the session that was asked last."""
    work = place.parent
    project = project_key_for_directory(str(work))
    kept = EverlogSessionStore(place)
    with tempfile.TemporaryDirectory() as folder:
        options = ClaudeAgentOptions(
            session_store=kept,
            continue_conversation=True,
            cwd=work,
            cli_path=scripted_cli(Path(folder)),
            env={"CLAUDE_CONFIG_DIR": folder},
        )
        async for message in query(prompt="what was said before?", options=options):
            if isinstance(message, ResultMessage):
                print(message.result)
    (last,) = await kept.list_sessions(project)
    session = kept.session({"project_key": project, "session_id": last["session_id"]})
    print(f"{session.id}: {session.head.size} events, {len(session.search('asked').hits)} with 'asked'")
    await kept.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).resolve()))
