"""An integration brings only its own framework with it, and everlog brings none."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import everlog.integrations

FRAMEWORKS = ("agents", "claude_agent_sdk", "google.adk", "langgraph", "pydantic_ai", "strands")
OURS = {
    "adk": "google.adk",
    "claude_agent": "claude_agent_sdk",
    "langgraph, everlog.integrations.langgraph_store": "langgraph",
    "openai_agents": "agents",
    "pydantic_ai": "pydantic_ai",
    "recorder": None,
    "strands, everlog.integrations.strands_storage": "strands",
}
PROGRAM = "import sys, {}; print(*(name for name in {!r} if name in sys.modules))"


def brought_by(module):
    program = PROGRAM.format(module, FRAMEWORKS)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return ran.stdout.split()


def is_there(framework):
    try:
        return importlib.util.find_spec(framework) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("name", OURS)
def test_an_integration_brings_only_its_own_framework(name):
    own = OURS[name]
    if own is not None and not is_there(own):
        pytest.skip(f"{own} is not installed")
    assert brought_by(f"everlog.integrations.{name}") == ([] if own is None else [own])


def test_every_integration_is_looked_at():
    files = Path(everlog.integrations.__file__).parent.glob("*.py")
    assert {file.stem for file in files if "\nrequire(" in file.read_text()} <= set(
        " ".join(OURS).replace("everlog.integrations.", "").replace(",", "").split()
    )


def test_importers_bring_no_framework():
    assert brought_by("everlog.importers, everlog.cli.commands") == []
