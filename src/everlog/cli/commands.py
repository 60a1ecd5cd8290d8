"""All commands, in the order in which `everlog --help` lists them."""

from __future__ import annotations

# Importing a module registers its commands; the order of the list is that of `_ORDER`.
from everlog.cli import (
    auditing,
    checking,
    contexts,
    encrypting,
    erasing,
    moving,
    proofs,
    reading,
    retaining,
    sealing,
    secrets,
    states,
    storing,
    topics,
    waking,
    writing,
)
from everlog.cli.main import everlog

__all__ = [
    "auditing",
    "checking",
    "contexts",
    "encrypting",
    "erasing",
    "everlog",
    "moving",
    "proofs",
    "reading",
    "retaining",
    "sealing",
    "secrets",
    "states",
    "storing",
    "topics",
    "waking",
    "writing",
]

_ORDER = (
    *("demo", "import", "ls", "log", "show", "search", "tree"),
    *("state", "diff", "why", "bisect", "checkpoints", "checkpoint", "merge", "prefs", "snapshots"),
    *("context", "summarize", "outline", "expand"),
    *("ps", "wake", "lease", "signal"),
    *("new", "append", "fork", "rewind", "switch", "update", "delete"),
    *("erase", "certificate", "hold", "release", "holds", "approve", "proposals", "secrets"),
    *("stats", "compact", "archive", "restore", "retain", "encryption"),
    *("prove", "check-proof", "keys", "seal", "seals", "witness", "tiles", "check-tiles"),
    *("export", "verifier", "copy", "verify", "audit", "init", "doctor", "help", "completion"),
)
everlog.commands = {name: everlog.commands[name] for name in _ORDER}
