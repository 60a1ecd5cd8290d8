"""Whether what several clients were told of one session can be told in one order: a search in the manner of Wing and Gong.

A history is linearizable if each operation can be given one moment between its call and its answer, so that done one at a
time, in the order of these moments, a simple session (`Model`) gives the same answers. An operation that was never answered,
since its client was killed, may have happened at any moment after its call, or not at all. The search goes through the orders
that the times allow, and remembers what it has tried as (operations done, state), as Lowe proposed.

A lease that lapses is an operation too: of no client, called when its time has passed since it was asked for, never answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, NamedTuple

FIRST = "first"  # the branch that a session is made with


@dataclass(frozen=True, slots=True)
class Operation:
    """What a client called and was told. Times: seconds. result: None where it was killed, or was told that it is unknown.

    label: what the events of this operation say in `Model.lineage`; that of a keyed append is its key's, whoever makes it.
    token: of the lease that was shown. expected: (the branch that was seen, the size).
    """

    kind: str
    label: str
    invoked: float
    returned: float = inf
    result: tuple[Any, ...] | None = None
    keyed: bool = False
    inbox: bool = False
    token: int | None = None
    expected: tuple[str, int] | None = None
    to: int = 0


class Model(NamedTuple):
    """A session, done simply. lineage: a label an event. lease: the last token; holder: None where it was given back.

    lapsed: whether it ended without being given back.
    """

    lineage: tuple[str, ...] = ()
    branch: str = FIRST
    lease: int = 0
    holder: str | None = None
    lapsed: bool = False

    @property
    def held(self) -> bool:
        return self.holder is not None and not self.lapsed

    def fences(self, asked: Operation) -> bool:
        if asked.token is not None:
            return not (self.held and self.lease == asked.token)
        return self.held and not asked.inbox

    def grown(self, *labels: str) -> Model:
        return self._replace(lineage=self.lineage + labels)


def answer(model: Model, asked: Operation) -> tuple[tuple[Any, ...], Model]:
    """Do an operation: what it is told, and the session after it."""
    match asked.kind:
        case "append":
            return _append(model, asked)
        case "rewind":
            if len(model.lineage) < asked.to:
                return ("place",), model
            if model.fences(asked):
                return ("fenced",), model
            kept = model._replace(lineage=model.lineage[: asked.to], branch=asked.label)
            return ("at", asked.to), kept.grown(asked.label)
        case "take":
            if model.held:
                return ("fenced",), model
            token = model.lease + 1
            ended = [f"released {model.lease}"] if model.lapsed else []
            taken = model._replace(lease=token, holder=asked.label, lapsed=False)
            return ("token", token), taken.grown(*ended, f"acquired {token}")
        case "release":
            if model.fences(asked):
                return ("fenced",), model
            return ("at", len(model.lineage)), model._replace(holder=None).grown(f"released {model.lease}")
        case "lapse":
            lapses = model.held and model.holder == asked.label
            return ("lapsed" if lapses else "no",), model._replace(lapsed=True) if lapses else model
        case "fork":
            if len(model.lineage) < asked.to:
                return ("place",), model
            return ("labels", *model.lineage[: asked.to]), model
        case "read":
            return ("labels", *model.lineage), model
        case "size":
            return ("size", len(model.lineage)), model
    raise AssertionError(asked.kind)


def _append(model: Model, asked: Operation) -> tuple[tuple[Any, ...], Model]:
    size = len(model.lineage)
    if asked.keyed and asked.label in model.lineage:
        return ("repeated", model.lineage.index(asked.label)), model
    if model.fences(asked):
        return ("fenced",), model
    if asked.expected is not None and asked.expected != (model.branch, size):
        return ("conflict",), model
    return ("at", size), model.grown(asked.label)


def steps(model: Model, asked: Operation) -> Iterator[Model]:
    """Give the sessions that there may be after an operation that was told what it was told."""
    told, after = answer(model, asked)
    if asked.result is None:
        if after != model:
            yield after
    elif asked.kind == "rewind" and asked.result == ("conflict",):
        yield model  # the branch moved between its look and its write, which may be any time
    elif asked.kind == "rewind" and asked.result == ("fenced",):
        if model.fences(asked):  # whether there was such a place was looked up before
            yield model
    elif asked.result == told:
        yield after


def lapses(history: Sequence[Operation], ttl: float) -> list[Operation]:
    """Give for each lease of a history that it may lapse, a time after it was asked for."""
    return [
        Operation("lapse", asked.label, asked.invoked + ttl)
        for asked in history
        if asked.kind == "take" and (asked.result is None or asked.result[0] == "token")
    ]


def explain(history: Sequence[Operation], *, ttl: float = inf, start: Model | None = None) -> str | None:
    """Give None where a history is linearizable, else the longest order that was found and what fits nowhere after it."""
    asked = sorted([*history, *lapses(history, ttl)], key=lambda each: each.invoked)
    search = _Search(asked)
    return None if search.run(0, Model() if start is None else start, []) else search.said()


class _Search:
    def __init__(self, asked: list[Operation]) -> None:
        self.asked = asked
        self.answered = sum(1 << index for index, each in enumerate(asked) if each.result is not None)
        self.tried: set[tuple[int, Model]] = set()
        self.longest: list[Operation] = []
        self.stuck = Model()

    def run(self, done: int, model: Model, order: list[Operation]) -> bool:
        if done & self.answered == self.answered:
            return True
        if (done, model) in self.tried:
            return False
        self.tried.add((done, model))
        if len(order) >= len(self.longest):
            self.longest, self.stuck = list(order), model
        for index in self._next(done):
            asked = self.asked[index]
            for after in steps(model, asked):
                order.append(asked)
                if self.run(done | 1 << index, after, order):
                    return True
                order.pop()
        return False

    def _next(self, done: int) -> list[int]:
        """Give what may come next: what was called before anything that is left was answered. What was answered comes first."""
        left = [index for index in range(len(self.asked)) if not done >> index & 1]
        until = min(self.asked[index].returned for index in left)
        return sorted(
            (index for index in left if self.asked[index].invoked <= until), key=lambda each: self.asked[each].returned
        )

    def said(self) -> str:
        after = [each for each in self.asked if each not in self.longest and each.result is not None]
        lines = [f"{len(self.longest)} operations have an order, none of the next fits after it; then: {self.stuck}"]
        lines += [f"  {each}" for each in self.longest[-6:]]
        lines += ["none of these fits:"]
        lines += [f"  {each}" for each in sorted(after, key=lambda each: each.returned)[:4]]
        return "\n".join(lines)


def without_results(asked: Operation) -> Operation:
    """Give an operation as if its client was killed before it was told."""
    return replace(asked, returned=inf, result=None)
