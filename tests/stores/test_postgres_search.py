"""The index for searching in PostgreSQL: filled by who searches and may, read by who may not, and purged with what is destroyed."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

import everlog
from databases import logins, url_of
from everlog import NewEvent
from everlog.core.upcast import UPCASTERS
from everlog.stores.postgres.administer import keep_tenants_apart, make_roles
from everlog.stores.postgres.opening import read_address
from everlog.stores.postgres.searching import _hash

DEADLINE_SECONDS = 60


@pytest.fixture
def filled(store):
    for number in range(20):  # in most of the buckets
        session = store.create(f"run-{number}")
        session.extend([NewEvent("note", {"content": f"plain text {number} {each}"}) for each in range(10)])
    store.session("run-7").append("note", {"content": "a fact planted early: needle"})
    return store


def places(found):
    return [(hit.event.session, hit.event.position) for hit in found.hits]


def test_appends_touch_no_index_and_a_search_fills_it(filled, sql):
    count = "SELECT count(*), count(DISTINCT bucket) FROM search_entry"
    assert sql.execute(count).fetchone() == (0, 0)
    assert places(filled.search("needle")) == [("run-7", 10)]
    entries, buckets = sql.execute(count).fetchone()
    assert entries == 201
    assert buckets > 4
    filled.session("run-3").append("note", {"content": "needle too"})
    assert sql.execute(count).fetchone()[0] == 201
    assert places(filled.search("needle", order="newest")) == [("run-3", 10), ("run-7", 10)]
    assert (
        sql.execute("SELECT bucket, feed FROM search_place ORDER BY bucket").fetchall()
        == sql.execute("SELECT bucket, max(feed) FROM search_entry GROUP BY bucket ORDER BY bucket").fetchall()
    )


def test_an_index_that_was_emptied_is_filled_again(filled, sql):
    filled.search("needle")
    sql.execute("TRUNCATE search_entry, search_place")
    assert places(filled.search("needle")) == [("run-7", 10)]
    assert sql.execute("SELECT count(*) FROM search_entry").fetchone() == (201,)


def test_several_stores_fill_it_at_once_while_others_append(url, filled, sql):
    stop = threading.Event()

    def append():
        with everlog.open(url) as own:
            session = own.session("run-1")
            number = 0
            while not stop.is_set():
                session.append("note", {"content": f"meanwhile {number}"})
                number += 1
            return number

    def search():
        with everlog.open(url) as own:
            return [len(own.search(f'"text {n} 3"').hits) for n in range(20)]

    with ThreadPoolExecutor(5) as pool:
        appended = pool.submit(append)
        found = [each.result(DEADLINE_SECONDS) for each in [pool.submit(search) for _ in range(3)]]
        stop.set()
        count = appended.result(DEADLINE_SECONDS)
    # "text 1 3" stands in run-1 alone, and so on: the number of the session, then that of the event
    assert found == [[1] * 20] * 3
    pages = filled.search("meanwhile", limit=1000, order="newest")
    assert len(pages.hits) == min(count, 1000)
    assert sql.execute("SELECT count(*) FROM search_entry").fetchone() == (201 + count,)


def test_erased_and_deleted_words_leave_in_the_same_transaction(filled, sql):
    session = filled.session("run-7")
    filled.search("needle")
    held = "SELECT count(*) FROM search_entry WHERE trigrams @> ARRAY[%s]::smallint[]"
    hashes = (_hash("eed"),)
    assert sql.execute(held, hashes).fetchone() == (1,)
    session.erase([10], reason="asked for")
    assert sql.execute(held, hashes).fetchone() == (0,)
    assert places(filled.search("needle")) == []
    assert places(filled.search("type:note session:run-7", limit=1)) == [("run-7", 10)]
    filled.delete("run-7", reason="over")
    assert sql.execute("SELECT count(*) FROM search_entry").fetchone() == (190,)
    assert places(filled.search("session:run-7")) == []


def test_what_is_erased_while_it_is_read_for_the_index_does_not_come_into_it(url, filled, sql, monkeypatch):
    """Another erases between the reading of a page and its writing."""
    searching = filled.storage._searching
    read = searching._read

    def read_and_have_it_erased(starts):
        found = read(starts)
        if not filled.session("run-7").event(10).erased:
            with everlog.open(url) as other:
                other.session("run-7").erase([10], reason="asked for")
        return found

    monkeypatch.setattr(searching, "_read", read_and_have_it_erased)
    assert places(filled.search("needle")) == []
    held = "SELECT count(*) FROM search_entry WHERE trigrams @> ARRAY[%s]::smallint[]"
    assert sql.execute(held, (_hash("eed"),)).fetchone() == (0,)
    assert sql.execute("SELECT count(*) FROM search_entry").fetchone() == (201,)


def test_what_is_not_read_as_it_is_stored_is_found_as_it_is_read(filled):
    filled.session("run-7").append("test.search_shape", {"old": "written so"})
    assert places(filled.search("written")) == [("run-7", 11)]
    everlog.upcast("test.search_shape", 1)(lambda data: {"new": "read otherwise"})
    try:
        assert places(filled.search("otherwise")) == [("run-7", 11)]
        assert places(filled.search("written")) == []
    finally:
        del UPCASTERS["test.search_shape"]


def test_a_store_that_is_open_to_read_looks_at_what_the_index_lacks_in_the_events(url, filled, sql):
    with everlog.open(url, read_only=True) as reader:
        assert places(reader.search("needle")) == [("run-7", 10)]
        assert len(reader.search("plain", limit=1000).hits) == 200
        assert sql.execute("SELECT count(*) FROM search_entry").fetchone() == (0,)
        filled.search("needle")
        filled.session("run-3").append("note", {"content": "needle too"}, outcome="error")
        assert places(reader.search("needle", order="newest")) == [("run-3", 10), ("run-7", 10)]
        assert places(reader.search("outcome:error since:1h")) == [("run-3", 10)]
        assert places(reader.session("run-3").search("needle", limit=1)) == [("run-3", 10)]
        page, found = reader.search("plain", limit=7, order="newest"), 7
        while page.following is not None:
            page = reader.search("plain", limit=7, order="newest", after=page.following)
            found += len(page.hits)
        assert found == 200
        assert sql.execute("SELECT count(*) FROM search_entry").fetchone() == (201,)


# --- roles and tenants ---------------------------------------------------------------------------
own_server = pytest.mark.skipif(
    "EVERLOG_TEST_POSTGRES" in os.environ, reason="makes logins, for a server of the tests' own"
)


@own_server
def test_a_program_fills_the_index_a_reader_reads_it_and_maintenance_takes_out_what_it_destroys(url, filled, sql):
    make_roles(url)
    with logins(url) as addresses:
        with everlog.open(addresses["reader"]) as reader:
            assert places(reader.search("needle")) == [("run-7", 10)]
            assert sql.execute("SELECT count(*) FROM search_entry").fetchone() == (0,)
        with everlog.open(addresses["app"]) as program:
            assert places(program.search("needle")) == [("run-7", 10)]
            assert sql.execute("SELECT count(*) FROM search_entry").fetchone() == (201,)
        with psycopg.connect(read_address(addresses["app"]).conninfo, autocommit=True) as connection:
            for statement in ("UPDATE {}.search_entry SET trigrams = NULL", "DELETE FROM {}.search_entry"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement.format(read_address(url).schema))
        with everlog.open(addresses["maintenance"]) as keeper:
            keeper.session("run-7").erase([10], reason="asked for")
            keeper.delete("run-3", reason="over")
            assert places(keeper.search("needle")) == []
            assert sql.execute("SELECT count(*) FROM search_entry").fetchone() == (191,)


@own_server
def test_each_tenant_finds_its_own(tmp_path):
    url = url_of(tmp_path)
    everlog.open(url).close()
    make_roles(url)
    keep_tenants_apart(url)
    with logins(url) as addresses:
        for tenant in ("a", "b"):
            with everlog.open(addresses["app"] + f"&tenant={tenant}") as store:
                for number in range(3):
                    store.create(f"run-{number}").append("note", {"content": f"needle of {tenant}"})
                assert len(store.search("needle").hits) == 3
        for tenant in ("b", "a"):
            with everlog.open(addresses["app"] + f"&tenant={tenant}") as store:
                store.session("run-1").append("note", {"content": f"again of {tenant}"})
                assert len(store.search(f"needle {tenant}").hits) == 3
                assert len(store.search("type:note").hits) == 4
                assert [hit.event.data["content"] for hit in store.search("again").hits] == [f"again of {tenant}"]
    with everlog.open(url) as everyone:  # a superuser's
        assert len(everyone.search("needle").hits) == 6


# --- what things cost ----------------------------------------------------------------------------
def test_a_search_that_has_nothing_to_catch_up_with_takes_few_round_trips(filled):
    filled.search("needle")
    connections = filled.storage.connections
    before = connections.round_trips
    filled.search("needle")
    assert connections.round_trips - before <= 4
