"""DBOS's durable steps, with its own defaults: `python -m bench.peers.dbos_steps PLACE COUNT` prints steps a second.

PLACE is a file for SQLite, or the URL of a PostgreSQL. It runs with the Python that bench/peers.txt is installed in. A step gives a number, as the one of Everlog beside it does.
"""

from __future__ import annotations

import sys
import time

from dbos import DBOS


def main() -> None:
    """Measure one workflow of COUNT steps, one after another, after a short one."""
    place, count = sys.argv[1], int(sys.argv[2])
    DBOS(
        config={
            "name": "bench",
            "system_database_url": place if "://" in place else f"sqlite:///{place}",
            "run_admin_server": False,
            "log_level": "ERROR",
        }
    )

    @DBOS.step()
    def step(number: int) -> int:
        return number

    @DBOS.workflow()
    def work(steps: int) -> int:
        return sum(step(number) for number in range(steps))

    DBOS.launch()
    work(20)
    start = time.perf_counter()
    work(count)
    print(count / (time.perf_counter() - start))
    DBOS.destroy()


if __name__ == "__main__":
    main()
