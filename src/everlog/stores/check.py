"""What `everlog doctor` says of one thing that it looked at."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["good", "look", "bad"]


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at. verdict: good; look (it works, and something is to be known); bad. advice: what to do."""

    what: str
    verdict: Verdict
    found: str
    advice: str | None = None


def encryption_check(plain: int | None) -> Check:
    """Say whether a store encrypts. plain: events of it that are in plain text all the same; None where it does not."""
    if plain is None:
        return Check("encryption", "good", "off: bodies are in plain text")
    if plain:
        found = f"{plain:,} events are in plain text, which were recorded before the store encrypted"
        return Check("encryption", "look", found, "everlog encryption seal")
    return Check("encryption", "good", "every body is encrypted")
