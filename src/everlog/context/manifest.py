"""The manifest: exactly what went into a context, what was left out of it, and why.

It also says how the context was put together (`Plan`), so that the bytes that a model was sent can be made again from the log.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final, Literal

import msgspec

from everlog.core.canonical import canonical_json
from everlog.core.position import parse_event_id
from everlog.errors import InvalidEventError

Format = Literal["anthropic", "openai_chat", "openai_responses", "plain"]
PINS_MAX: Final = 100
RETRIEVED_MAX: Final = 20
FORMATS: Final = ("anthropic", "openai_chat", "openai_responses", "plain")
VERSION: Final = 1  # of how a plan is carried out; another one may give other bytes
Why = Literal["system", "pinned", "summary", "retrieved", "recent"]
WhyNot = Literal["budget", "superseded", "erased", "filtered"]


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went in: events [start, stop), and why.

    hash: 64 hex digits: of a summary and a pin that of its event; of a message SHA-256 over the hashes of its events, of several summaries
    in one text over theirs. tokens: as counted.
    event: the position of a summary's event; the id of a pinned one. clipped: texts were cut to so many characters. A tool use that only
    its result brings along is an item of its own, with the tokens of both told at its result.
    """

    why: Why
    start: int
    stop: int
    hash: str
    tokens: int
    event: int | str | None = None
    clipped: int | None = None


class LeftOut(msgspec.Struct, frozen=True):
    """Events [start, stop) that did not go in, and why: no room; a summary that another stands for; erased; not of a conversation."""

    why: WhyNot
    start: int
    stop: int


class Plan(msgspec.Struct, frozen=True):
    """How a context is put together.

    cut: the events below it are what there was. start: from here on messages stand word for word. system, summaries, pulled: positions
    of events; pulled are tool uses below `start` whose results stand behind it. digest: summaries that stand as one text of at most
    `digest_tokens`. pins, retrieved: ids of events. clipped: the most characters of each text that stands word for word; None for all.
    """

    format: Format
    cut: int
    start: int
    system: tuple[int, ...] = ()
    pins: tuple[str, ...] = ()
    digest: tuple[int, ...] = ()
    digest_tokens: int = 0
    summaries: tuple[int, ...] = ()
    retrieved: tuple[str, ...] = ()
    pulled: tuple[int, ...] = ()
    clipped: int | None = None


class Manifest(msgspec.Struct, frozen=True):
    """What a context is made of.

    session, branch: internal ids. size, root: the head at the cut. tokens, budget; counted: how ("counter", "usage", "estimate"); scale: of the
    estimate.
    payload: SHA-256 of what is sent, as bytes. items, left_out: together every position below the cut, once.
    """

    version: int
    session: str
    branch: str
    size: int
    root: str
    budget: int
    tokens: int
    counted: str
    scale: float
    payload: str
    plan: Plan
    items: tuple[Item, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def hash(self) -> str:
        """SHA-256 over the manifest's canonical JSON, 64 hex digits."""
        return sha256(canonical_json(self.to_dict())).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return msgspec.json.decode(msgspec.json.encode(self))


def read_manifest(value: Any, size: int) -> Manifest:
    """Read a manifest as `model.request` events record it. size: of the line that its plan names positions of."""
    try:
        manifest = msgspec.convert(value, Manifest)
        _check_plan(manifest.plan, size)
        return manifest
    except msgspec.ValidationError as error:
        raise InvalidEventError(
            f"this request has no manifest that can be read ({error}); nothing was made; requests are recorded with record_request()"
        ) from error


def _check_plan(plan: Plan, size: int) -> None:
    """Refuse a plan that another program made up, before anything is read for it."""
    if not 0 <= plan.start <= plan.cut <= size:
        raise msgspec.ValidationError(f"its start and cut, {plan.start} and {plan.cut}, are not in 0 .. {size}")
    for positions in (plan.system, plan.digest, plan.summaries, plan.pulled):
        if len({*positions}) < len(positions) or not all(0 <= position < plan.cut for position in positions):
            raise msgspec.ValidationError("it names positions twice, or that are not below its cut")
    if len(plan.pins) > PINS_MAX or len(plan.retrieved) > RETRIEVED_MAX:
        raise msgspec.ValidationError(f"it has more than {PINS_MAX} pins, or {RETRIEVED_MAX} events that were recalled")
    if any(parse_event_id(each) is None for each in (*plan.pins, *plan.retrieved)):
        raise msgspec.ValidationError("it names events by what is no event's id")
    if plan.clipped is not None and plan.clipped < 0:
        raise msgspec.ValidationError("its texts have less than no characters")


def merged(ranges: list[LeftOut]) -> tuple[LeftOut, ...]:
    """Join neighbours that were left out for the same reason."""
    joined: list[LeftOut] = []
    for each in sorted(ranges, key=lambda one: (one.start, one.stop)):
        if joined and joined[-1].why == each.why and joined[-1].stop == each.start:
            joined[-1] = LeftOut(each.why, joined[-1].start, each.stop)
        else:
            joined.append(each)
    return tuple(joined)
