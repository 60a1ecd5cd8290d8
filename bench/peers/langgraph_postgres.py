"""LangGraph's `PostgresSaver`, with its own defaults: `python -m bench.peers.langgraph_postgres URL SECONDS` prints puts a second.

A put is a checkpoint with the whole list of messages in it; threads begin anew every 200, as in bench/peers/worker.py.
"""

from __future__ import annotations

import sys
import time

from langgraph.checkpoint.postgres import PostgresSaver

from bench.peers.langgraph_sqlite import Thread
from bench.peers.worker import SESSION


def main() -> None:
    """Put one checkpoint after another until the time is over."""
    url, seconds = sys.argv[1], float(sys.argv[2])
    with PostgresSaver.from_conn_string(url) as saver:
        saver.setup()
        count, start = 0, time.perf_counter()
        while time.perf_counter() < start + seconds:
            if count % SESSION == 0:
                thread = Thread(saver, f"t{count}")  # type: ignore[arg-type]
            thread.extend(1)
            count += 1
        print(count / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
