"""A process that holds a lease and does as it is told: a line of JSON in, a line out.

holder.py PATH SHIFT      SHIFT: seconds by which this process's wall clock is wrong
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import everlog
from everlog.errors import EverlogError


def serve(path: str) -> None:
    with everlog.open(path) as store:
        session = store.session("s")
        held: Any = None
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                if "take" in asked:
                    session = store.session("s")
                    held = session.lease(asked["take"], asked["ttl"], timeout=asked.get("timeout", 0.0))
                    said: dict[str, Any] = {"token": held.token}
                elif "append" in asked:
                    event = session.append(asked.get("type", "agent.message"), {"content": asked["append"]})
                    said = {"at": event.position, "recorded": event.recorded_micros}
                else:
                    held.renew() if asked["do"] == "renew" else held.release()
                    said = {"did": asked["do"]}
            except EverlogError as error:
                said = {"error": error.code}
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    shifted = float(sys.argv[2]) * 1_000_000
    module = sys.modules["everlog.open"]
    module.clock = lambda: time.time_ns() // 1_000 + round(shifted)  # type: ignore[attr-defined]
    serve(sys.argv[1])
