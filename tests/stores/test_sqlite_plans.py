"""Every query is answered through the index that its line of purpose names, whatever the tables hold: none walks a table.

The planner guesses without statistics, and once walked every position of a session for each idempotency key.
"""

from __future__ import annotations

import re
from importlib.resources import files

import apsw
import pytest

TEXT = files("everlog.stores.sqlite").joinpath("queries.sql").read_text(encoding="utf-8")
SCHEMA = files("everlog.stores.sqlite").joinpath("schema.sql").read_text(encoding="utf-8")
QUERY = re.compile(r"^-- (\w+): ([^\n]*?)(?: \(([^\n()]*)\))?\n(.*?;)$", re.MULTILINE | re.DOTALL)
ONE_ROW = {
    "read_store",
    "set_traces",
    "read_traces",
    "read_feed_end",
    "read_session_sum",
}  # a table of one row, or the end of one
INDEXES = re.findall(r"CREATE (?:UNIQUE )?INDEX (\w+)", SCHEMA)
NAMED = [
    (name, index, sql)
    for name, _, index, sql in QUERY.findall(TEXT)
    if index in INDEXES or index.startswith("primary key")
]


def plan(sql: str) -> list[str]:
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA)
    parameters = dict.fromkeys(re.findall(r":(\w+)", sql), 1)
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters or None)]


@pytest.mark.parametrize(("name", "index", "sql"), NAMED, ids=[name for name, _, _ in NAMED])
def test_a_query_uses_the_index_that_it_names(name: str, index: str, sql: str) -> None:
    steps = plan(sql)
    searches = [step for step in steps if step.startswith("SEARCH")]
    assert name in ONE_ROW or not any(
        re.match(r"SCAN (?!chain|CONSTANT ROW|j VIRTUAL TABLE)", step) for step in steps
    ), steps
    if index.startswith("primary key"):
        assert name in ONE_ROW or all("PRIMARY KEY" in step for step in searches), steps
    else:
        assert any(f"INDEX {index} " in step for step in searches), steps


def test_most_queries_name_their_index() -> None:
    assert len(NAMED) >= 20
