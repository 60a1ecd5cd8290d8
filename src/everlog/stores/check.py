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
