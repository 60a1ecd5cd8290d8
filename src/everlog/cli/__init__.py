"""The command line: reads argv, calls the public interface, prints. `everlog --help` to start."""

from __future__ import annotations


def main() -> None:
    """Run the `everlog` command."""
    from everlog.cli.commands import everlog

    everlog()
