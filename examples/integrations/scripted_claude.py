"""What stands for Claude Code where an example must run without a model: it speaks as Claude Code does, and answers by a script.

It keeps its transcript in CLAUDE_CONFIG_DIR, goes on from the one that --resume names, and mirrors what it writes, as Claude Code does.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4


def say(frame: dict[str, Any]) -> None:
    """Send a frame to the SDK."""
    print(json.dumps(frame), flush=True)


def option(name: str) -> str | None:
    """Give the value of an option of the command line."""
    words = " ".join(sys.argv).replace(f"--{name} ", f"--{name}=").split()
    return next((word.partition("=")[2] for word in words if word.startswith(f"--{name}=")), None)


class Scripted:
    """A session of the script."""

    def __init__(self) -> None:
        folder = Path(os.environ["CLAUDE_CONFIG_DIR"]) / "projects" / re.sub(r"[^a-zA-Z0-9]", "-", os.getcwd())
        resumed = option("resume")
        self.session = resumed or option("session-id") or str(uuid4())
        self.file = folder / f"{self.session}.jsonl"
        self.entries: list[dict[str, Any]] = []
        if resumed:
            self.entries = [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]

    def write(self, role: str, content: Any) -> None:
        """Write an entry to the transcript, then mirror it."""
        entry = {
            "type": role,
            "uuid": str(uuid4()),
            "parentUuid": self.entries[-1]["uuid"] if self.entries else None,
            "sessionId": self.session,
            "timestamp": "2026-11-30T10:00:00.000Z",
            "cwd": os.getcwd(),
            "message": {"role": role, "content": content, "model": "scripted"},
        }
        self.entries.append(entry)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        say({"type": "transcript_mirror", "filePath": str(self.file), "entries": [entry]})

    def answer(self, asked: Any) -> None:
        """Answer a prompt by saying what was asked before it."""
        prompts = [entry["message"]["content"] for entry in self.entries if entry["type"] == "user"]
        self.write("user", asked)
        text = f"You asked {len(prompts)} times before" + (f", first {prompts[0]!r}" if prompts else "")
        content = [{"type": "text", "text": text}]
        self.write("assistant", content)
        if asked == "never finish":
            sys.stdin.read()
        message = {"role": "assistant", "content": content, "model": "scripted"}
        say({"type": "assistant", "message": message, "session_id": self.session, "parent_tool_use_id": None})
        say(
            {
                "type": "result",
                "subtype": "success",
                "is_error": False,
                "result": text,
                "num_turns": 1,
                "duration_ms": 1,
                "duration_api_ms": 1,
                "session_id": self.session,
                "total_cost_usd": 0.0,
            }
        )


def main() -> None:
    """Answer what comes in, until there is no more."""
    scripted = Scripted()
    for line in sys.stdin:
        frame = json.loads(line)
        if frame["type"] == "control_request":
            response = {"subtype": "success", "request_id": frame["request_id"], "response": {"commands": []}}
            say({"type": "control_response", "response": response})
        elif frame["type"] == "user":
            scripted.answer(frame["message"]["content"])


if __name__ == "__main__":
    main()
