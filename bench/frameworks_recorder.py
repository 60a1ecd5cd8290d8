"""What recording a call of a provider's client costs, without the provider: a conversation of so many messages of 1 kB, one more a call.

PYTHONPATH=src python -m bench.frameworks_recorder
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import everlog
from bench.framework_table import main
from everlog.integrations.recorder import record

TEXT = "word " * 200  # 1 kB
LENGTHS = (0, 200, 1_000)
_CALLS = 100


class Client:
    """Stands in for a provider's client: answers at once, so that what is measured is recording alone."""

    def copy(self) -> Client:
        """Give another one."""
        return Client()

    def post(self, path: str, *, body: Any, **_: Any) -> Any:
        """Answer."""
        content = [{"type": "text", "text": TEXT}]
        usage = {"input_tokens": 10, "output_tokens": 5}
        return {"id": f"msg_{path}_{len(body['messages'])}", "model": "m", "content": content, "usage": usage}


def ours(folder: Path) -> dict[str, float]:
    """Measure calls that are recorded: two appends each, synced and, to see what recording itself takes, not synced."""
    found: dict[str, float] = {}
    stores: tuple[tuple[Literal["full", "relaxed"], str], ...] = (("full", "synced"), ("relaxed", "not synced"))
    for durability, how in stores:
        with everlog.open(folder / f"{durability}.db", durability=durability) as store:
            for length in LENGTHS:
                with record(store.create(f"s{length}"), Client()) as client:
                    found[f"a call at {length:,} messages, {how}, µs"] = _timed(client.post, length)
    return found


def theirs(_: Path) -> dict[str, float]:
    """Measure the same calls, not recorded."""
    measured = {length: _timed(Client().post, length) for length in LENGTHS}
    return {
        f"a call at {length:,} messages, {how}, µs": measured[length]
        for how in ("synced", "not synced")
        for length in LENGTHS
    }


def _timed(post: Callable[..., Any], length: int) -> float:
    messages: list[Any] = [_message(number) for number in range(length)]
    if length:
        post("/v1/messages", body={"model": "m", "messages": messages})
    spent: list[float] = []
    for _ in range(_CALLS):
        messages.append(_message(len(messages)))
        started = time.perf_counter()
        answer = post("/v1/messages", body={"model": "m", "max_tokens": 100, "messages": messages})
        spent.append(time.perf_counter() - started)
        messages.append({"role": "assistant", "content": answer["content"]})
    return 1e6 * statistics.median(spent)


def _message(number: int) -> dict[str, Any]:
    return {"role": "assistant" if number % 2 else "user", "content": f"{number} {TEXT}"}


if __name__ == "__main__":
    main("recorded calls", {"recorded": ours, "not": theirs})
