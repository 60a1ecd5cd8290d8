"""A pooler may stand between: the contract without prepared statements, and nothing sent that outlives its transaction."""

import os
import re

import pytest

from everlog.session import Settings
from everlog.store import Store
from everlog.stores.postgres.opening import open_postgres
from everlog.testing import StoreContract
from everlog.testing.servers import PostgresServer, find_postgres

# What is a connection's own, and would be another client's on the next transaction.
SESSION_STATE = re.compile(
    r"\bSET\s+(?!LOCAL\b)(SESSION\b|\w+\s*(=|TO\b))|\bset_config\((?![^)]*, true\))|\bTEMP(ORARY)?\b|\bLISTEN\b|\bNOTIFY\b|advisory"
    r"|\bDECLARE\b|\bPREPARE\b|\bEXECUTE\b|\bDISCARD\b|\bRESET\b|\bLOAD\b|\bLOCK TABLE\b|\bnextval\b|\bcurrval\b",
    re.IGNORECASE,
)
UPDATE_SET = re.compile(r"\bUPDATE\b.*?\bSET\b", re.IGNORECASE | re.DOTALL)

pytestmark = pytest.mark.skipif(find_postgres() is None, reason="no PostgreSQL is installed")


def statements(log):
    """Give what was sent by stores, from a log with a prefix for each entry."""
    entries = re.split(r"^@@(\S*)@@", log, flags=re.MULTILINE)
    for name, entry in set(zip(entries[1::2], entries[2::2], strict=True)):
        found = re.search(r"(?:statement|execute (<unnamed>|\S+)): (.*)", entry, re.DOTALL)
        if name == "everlog" and found is not None:
            yield found[1], found[2]


@pytest.fixture(scope="module")
def server():
    settings = {"log_statement": "all", "log_line_prefix": "@@%a@@", "log_parameter_max_length": "0"}
    with PostgresServer.start(settings=settings) as started:
        yield started
        sent = list(statements((started.folder / "log").read_text(errors="replace")))
    assert any(statement.startswith("SELECT set_config('lock_timeout'") for _, statement in sent)
    assert {name for name, _ in sent} <= {None, "<unnamed>"}, "a statement was prepared"
    kept = {statement for _, statement in sent if SESSION_STATE.search(UPDATE_SET.sub("", statement))}
    assert not kept


class TestPooled(StoreContract):
    test_the_feed_gives_every_event_once_in_order = None  # long, and asks for nothing that the others do not

    @pytest.fixture(autouse=True)
    def address(self, server, tmp_path):
        self.url = server.url(schema=f"t{abs(hash(str(tmp_path)))}", prepare="no")

    def open_store(self, folder, clock):
        return Store(open_postgres(self.url, draw=os.urandom, clock=clock), Settings(os.urandom), url="postgresql:")

    def open_store_with_ticks(self, folder, clock, ticks):
        storage = open_postgres(self.url, draw=os.urandom, clock=clock, ticks=ticks)
        return Store(storage, Settings(os.urandom), url="postgresql:")


@pytest.mark.parametrize(
    ("statement", "kept"),
    [
        ("SET LOCAL lock_timeout = '10s'", False),
        ("SELECT set_config('lock_timeout', '10s', true)", False),
        ("SELECT set_config('lock_timeout', '10s', true), set_config('plan_cache_mode', 'auto', false)", True),
        ("SET lock_timeout = '10s'", True),
        ("SET SESSION lock_timeout TO 1", True),
        ("UPDATE t SET a = 1, b = 2 WHERE c", False),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = excluded.a", False),
        ("CREATE TEMP TABLE t (a int)", True),
        ("LISTEN events", True),
        ("SELECT pg_advisory_xact_lock(1)", True),
        ("DECLARE c CURSOR FOR SELECT 1", True),
    ],
)
def test_what_outlives_a_transaction_is_known_by_its_words(statement, kept):
    assert (SESSION_STATE.search(UPDATE_SET.sub("", statement)) is not None) == kept
