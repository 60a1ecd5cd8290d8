"""What integrations remember is bounded: by how many there are, and by the bytes that they take."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Protocol, TypeVar


class Holds(Protocol):
    """What is remembered."""

    @property
    def held(self) -> int:
        """How many bytes it takes, about."""
        ...


K = TypeVar("K")
H = TypeVar("H", bound=Holds)


def forget_oldest(remembered: MutableMapping[K, H], count_max: int, bytes_max: int) -> None:
    """Forget what stands first, until no more is left than so many and so many bytes; the last one stays, whatever it takes."""
    held = sum(each.held for each in remembered.values())
    while len(remembered) > 1 and (len(remembered) > count_max or held > bytes_max):
        held -= remembered.pop(next(iter(remembered))).held
