"""An integration brings only its own framework with it, and everlog brings none."""

import importlib.util
import subprocess
import sys

import pytest

FRAMEWORKS = ("agents", "claude_agent_sdk", "google.adk", "langgraph", "pydantic_ai", "strands")
OURS = {"claude_agent": "claude_agent_sdk", "pydantic_ai": "pydantic_ai", "strands": "strands"}
PROGRAM = "import sys, {}; print(*(name for name in {!r} if name in sys.modules))"


def brought_by(module):
    program = PROGRAM.format(module, FRAMEWORKS)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return ran.stdout.split()


@pytest.mark.parametrize("name", OURS)
def test_an_integration_brings_only_its_own_framework(name):
    if importlib.util.find_spec(OURS[name]) is None:
        pytest.skip(f"{OURS[name]} is not installed")
    assert brought_by(f"everlog.integrations.{name}") == [OURS[name]]


def test_importers_bring_no_framework():
    assert brought_by("everlog.importers") == brought_by("everlog.cli.commands") == []
