"""Which versions of a framework an integration is for."""

from __future__ import annotations

import re
from importlib import metadata

_NUMBERS = re.compile(r"\d+")


def require(distribution: str, extra: str, *, oldest: str, below: str) -> None:
    """Raise ImportError unless a distribution is installed, from this version up to below that one.

    oldest, below: numbers with dots. extra: of Everlog, which installs one that fits.
    """
    try:
        found = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise ImportError(
            f"this integration is for {distribution}, which is not installed; install it: pip install 'everlog[{extra}]'"
        ) from None
    if not _numbers(oldest) <= _numbers(found) < _numbers(below):
        raise ImportError(
            f"this integration is for {distribution} from {oldest} to below {below}, and {found} is installed; nothing was "
            f"opened; install one that fits: pip install 'everlog[{extra}]'"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _NUMBERS.findall(version.partition("+")[0])[:3])
