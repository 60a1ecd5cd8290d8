"""The eventsourcing library's PostgreSQL application recorder: `python -m bench.peers.eventsourcing_postgres URL WRITERS SECONDS`.

It prints appends a second. Its defaults are kept but for the pool, which has a connection a writer: each insert locks the table
(`LOCK TABLE … IN EXCLUSIVE MODE`), so that a follower passes over nothing. Its faster mode, functions in the database, takes no
such lock.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid

from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg.conninfo import conninfo_to_dict

from bench.peers.eventsourcing_sqlite import event


def main() -> None:
    """Let writers append, each to a stream of its own, until the time is over."""
    url, writers, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    address = conninfo_to_dict(url)
    datastore = PostgresDatastore(
        dbname=str(address["dbname"]),
        host=str(address["host"]),
        port=str(address["port"]),
        user=str(address["user"]),
        password="",
        pool_size=writers,
    )
    recorder = PostgresApplicationRecorder(datastore, events_table_name="events")
    recorder.create_table()
    counts = [0] * writers

    def work(number: int, end: float) -> None:
        stream, version = uuid.uuid4(), 0
        while time.perf_counter() < end:
            recorder.insert_events([event(stream, version)])
            version += 1
        counts[number] = version

    def run(seconds: float) -> float:
        start = time.perf_counter()
        threads = [threading.Thread(target=work, args=(number, start + seconds)) for number in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - start)

    run(0.3)
    print(run(seconds))
    datastore.close()


if __name__ == "__main__":
    main()
