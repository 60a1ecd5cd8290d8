"""Who may do what in a store in PostgreSQL, what tenants see of one another, and what `doctor` says."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

import everlog
from databases import logins, server, url_of
from everlog import NewEvent
from everlog.errors import EverlogError, NotFoundError, UnavailableError, UnsupportedStoreError
from everlog.stores.postgres.administer import keep_tenants_apart, make_roles
from everlog.stores.postgres.examine import examine_postgres
from everlog.stores.postgres.opening import read_address

pytestmark = pytest.mark.skipif(
    "EVERLOG_TEST_POSTGRES" in os.environ, reason="makes logins, for a server of the tests' own"
)


@pytest.fixture
def url(tmp_path):
    found = url_of(tmp_path)
    everlog.open(found).close()
    return found


@pytest.fixture
def addresses(url):
    assert make_roles(url) == make_roles(url)
    with logins(url) as made:
        yield made


def filled(store):
    session = store.create("run-1", labels={"user": "u7"})
    session.append("note", {"content": "secret"}, attachments={"a": b"x"}, key="k")
    session.fork(1, id="other")
    session.rewind(1)
    session.update(title="A title", labels={})
    session.checkpoint("here")
    return session


def test_a_program_may_record_and_read(addresses):
    with everlog.open(addresses["app"]) as store:
        session = filled(store)
        session.extend([NewEvent("state.set", {"path": "/a", "value": number}) for number in range(1_100)])
        assert session.state().value == {"a": 1_099}
        assert store.keeper.wait(20)
        assert store.snapshots("run-1")
        assert store.drop_snapshots()
        with store.wake("run-1", holder="w") as woken:
            assert woken.run().step("a", lambda: 1) == 1
        assert store.verify().ok


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {}.event SET body = 'x'",
        "UPDATE {}.event SET leaf = 'x'",
        "DELETE FROM {}.event",
        "TRUNCATE {}.event",
        "UPDATE {}.branch SET base_size = 0",
        "DELETE FROM {}.branch",
        "UPDATE {}.ledger SET record = 'x'",
        "DELETE FROM {}.ledger",
        "UPDATE {}.attachment SET content = 'x'",
        "DELETE FROM {}.attachment",
        "DELETE FROM {}.session",
        "UPDATE {}.session SET name = 'x'",
        "DELETE FROM {}.directory",
        "UPDATE {}.directory SET home = 1",
        "DELETE FROM {}.erasure",
        "DELETE FROM {}.block",
        "UPDATE {}.block SET content = NULL",
        "DELETE FROM {}.dictionary",
        "UPDATE {}.store SET version = 99",
        "DROP TABLE {}.event",
        "ALTER TABLE {}.event DISABLE TRIGGER ALL",
        "CREATE TABLE {}.mine (a int)",
    ],
)
@pytest.mark.parametrize("role", ["app", "reader"])
def test_a_program_cannot_change_or_remove_what_is_hashed(url, addresses, role, statement):
    with everlog.open(url) as store:
        filled(store)
    address = read_address(addresses[role])
    with psycopg.connect(address.conninfo, autocommit=True) as connection:
        with pytest.raises(psycopg.Error) as refused:
            connection.execute(statement.format(address.schema))
        assert refused.value.sqlstate == "42501"


def test_a_program_cannot_erase_or_delete_and_is_told_who_may(addresses):
    with everlog.open(addresses["app"]) as store:
        session = filled(store)
        for use in (lambda: session.erase([0], reason="r"), lambda: store.delete("run-1", reason="r", cascade=True)):
            with pytest.raises(UnavailableError, match="everlog init --roles"):
                use()
        assert session.branch("b1")[0].data == {"content": "secret"}


def test_maintenance_erases_and_deletes_and_cannot_forge(url, addresses):
    with everlog.open(addresses["app"]) as store:
        filled(store)
    with everlog.open(addresses["maintenance"]) as store:
        assert [event.position for event in [store.session("run-1").branch("b1")[0]]] == [0]
        store.session("run-1").erase([0], reason="asked for")
        assert store.session("run-1").branch("b1")[0].erased
        assert store.verify().ok
        store.delete("run-1", reason="asked for", cascade=True)
        assert store.sessions() == []
    address = read_address(addresses["maintenance"])
    with psycopg.connect(address.conninfo, autocommit=True) as connection:
        ((count, left),) = connection.execute(f"SELECT count(*), count(body) FROM {address.schema}.event").fetchall()
        assert count > 0
        assert left == 0
        for column in ("leaf", "nodes", "position", "feed"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"UPDATE {address.schema}.event SET {column} = {column}")


def test_maintenance_packs_and_archives_what_programs_then_read(addresses, tmp_path):
    with everlog.open(addresses["app"]) as store:
        filled(store)
        with pytest.raises(UnavailableError, match="everlog init --roles"):
            store.compact(older_than=0)
    with everlog.open(addresses["maintenance"]) as store:
        assert store.compact(older_than=0).events == store.verify().events
        with everlog.open(addresses["app"]) as other:
            assert other.session("run-1").branch("b1")[0].data == {"content": "secret"}
        assert store.archive(str(tmp_path / "archive"), older_than=0).blocks > 0
    with everlog.open(addresses["app"]) as store:
        session = store.session("run-1")
        assert session.branch("b1")[0].attachment("a") == b"x"
        assert session.branch("b1")[0].data == {"content": "secret"}
    with everlog.open(addresses["maintenance"]) as store:
        store.session("other").erase([0], reason="asked for")
        assert not store.storage.objects()
        assert store.session("run-1").branch("b1")[0].erased
        assert store.verify().ok


def test_what_an_upgrade_makes_is_kept_apart_and_open_to_the_roles_as_the_rest_is(url, addresses, tmp_path):
    with everlog.open(url) as store:
        filled(store)
    keep_tenants_apart(url)
    schema = read_address(url).schema
    with psycopg.connect(read_address(url).conninfo, autocommit=True) as connection:  # as an older Everlog left it
        connection.execute(
            f"SET search_path TO {schema}; DROP TABLE block, object, sharing, dictionary, search_entry, search_place"
        )
        connection.execute("DROP TABLE pending, placed, tree, seal, wrapping_key, data_key")
        connection.execute(
            "DROP INDEX event_summary; ALTER TABLE branch DROP packed; ALTER TABLE attachment DROP digest; UPDATE store SET version = 1"
        )
    everlog.open(url).close()
    with everlog.open(addresses["maintenance"]) as store:  # what was recorded before there were seals is sealed too
        keys = store.keys(tmp_path / "keys")
        keys.new()
        size = store.seal(keys=keys).head.size
        report = store.verify(keys=[keys.verifier])
        assert (report.ok, report.unsealed, report.seals) == (True, 0, 1)
        assert size > len(store.storage.ledger(0, 100)) > 2
        assert store.storage.pending(10) == []
    for tenant in ("a", "b"):
        with everlog.open(addresses["maintenance"] + f"&tenant={tenant}") as store:
            filled(store)
            assert store.compact(older_than=0).blocks
            store.archive(str(tmp_path / tenant), older_than=0)
            assert [row.url for row in store.storage.objects()] == [(tmp_path / tenant).as_uri()]
            assert store.stats().sizes.objects == 1
            assert store.verify().ok
    with everlog.open(addresses["app"] + "&tenant=a") as store:
        assert store.session("run-1").branch("b1")[0].data == {"content": "secret"}
    with everlog.open(addresses["maintenance"] + "&tenant=b") as store:
        store.restore()
        assert not store.storage.objects()
    assert [path for path in (tmp_path / "a").rglob("*") if path.is_file()]


def test_a_reader_reads(url, addresses):
    with everlog.open(url) as store:
        filled(store)
    with everlog.open(addresses["reader"], read_only=True) as store:
        assert len(store.sessions()) == 2
        assert store.verify().ok
        assert store.session("run-1").audit(verify=True).verification.ok
        with pytest.raises(UnavailableError, match="read-only"):
            store.create("x")
    with everlog.open(addresses["reader"]) as store, pytest.raises(UnavailableError, match="may not"):
        store.create("x")


def test_maintenance_seals_and_a_program_cannot_though_what_it_records_is_sealed(url, addresses, tmp_path):
    with everlog.open(addresses["app"]) as store:
        filled(store)
        keys = store.keys(tmp_path)
        keys.new()
        with pytest.raises(UnavailableError, match="may not"):
            store.seal(keys=keys)
    with everlog.open(addresses["maintenance"]) as store:
        keys = store.keys(tmp_path)
        store.seal(keys=keys)
    with everlog.open(addresses["reader"], read_only=True) as store:
        report = store.verify(keys=[keys.verifier])
        assert (report.ok, report.unsealed, report.seals) == (True, 0, 1)
        store.session("run-1").prove_sealed(0).verify(keys.verifier)
    with psycopg.connect(read_address(addresses["app"]).conninfo) as connection:
        schema = read_address(url).schema
        for change in ("DELETE FROM {}.pending", "DELETE FROM {}.placed", "UPDATE {}.placed SET leaf = ''"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(change.format(schema))
            connection.rollback()


def test_a_program_encrypts_and_maintenance_seals_and_exchanges_keys(url, addresses, tmp_path, monkeypatch):
    monkeypatch.setenv("OLD", "01" * 32)
    monkeypatch.setenv("NEW", "02" * 32)
    with everlog.open(addresses["app"]) as store:
        store.create("plain", events=[NewEvent("note", {"content": "before"})])
    with everlog.open(addresses["app"], encrypt="env:OLD") as store:
        store.create("s", events=[NewEvent("note", {"content": "secret"})]).append("note", {"content": "more"})
        with pytest.raises(UnavailableError, match="may not do this"):
            store.encryption.rotate("env:NEW")
        with pytest.raises(UnavailableError, match="may not do this"):
            store.encryption.seal()
    with everlog.open(addresses["maintenance"], encrypt="env:OLD") as store:
        store.encryption.seal()
        store.session("s").erase([1], reason="asked for")
        assert store.encryption.rotate("env:NEW") == 2
    with everlog.open(addresses["reader"], encrypt="env:NEW", read_only=True) as store:
        assert [store.session(name)[0].data["content"] for name in ("plain", "s")] == ["before", "secret"]
    with psycopg.connect(read_address(url).conninfo, autocommit=True) as connection:
        schema = read_address(url).schema
        bodies = connection.execute(f"SELECT body FROM {schema}.event WHERE body IS NOT NULL").fetchall()
    assert len(bodies) == 2
    assert not any(b"note" in body or b"content" in body for (body,) in bodies)


def test_each_tenant_has_keys_of_its_own(url, addresses, monkeypatch):
    monkeypatch.setenv("ONE", "01" * 32)
    monkeypatch.setenv("TWO", "02" * 32)
    keep_tenants_apart(url)
    for tenant, key in (("one", "env:ONE"), ("two", "env:TWO"), ("three", "")):
        with everlog.open(f"{addresses['app']}&tenant={tenant}", encrypt=key) as store:
            store.create("s", events=[NewEvent("note", {"content": tenant})])
            assert store.session("s")[0].data["content"] == tenant
            assert (store.encryption.keys().current is None) == (not key)


def test_each_tenant_has_a_ledger_of_its_own(url, addresses, tmp_path):
    keep_tenants_apart(url)
    keys = {}
    for tenant in ("a", "b"):
        with everlog.open(addresses["maintenance"] + f"&tenant={tenant}") as store:
            filled(store)
            keys[tenant] = store.keys(tmp_path / tenant)
            keys[tenant].new()
            store.seal(keys=keys[tenant])
            assert len(store.seals()) == 1
    for tenant, other in (("a", "b"), ("b", "a")):
        with everlog.open(addresses["app"] + f"&tenant={tenant}") as store:
            report = store.verify(keys=[keys[tenant].verifier, keys[other].verifier])
            assert (report.ok, report.unsealed, report.seals) == (True, 0, 1)


# --- tenants ---
def test_tenants_neither_see_nor_name_nor_change_what_is_another_s(url, addresses):
    with pytest.raises(UnsupportedStoreError, match="init --tenants"):
        everlog.open(addresses["app"] + "&tenant=a")
    keep_tenants_apart(url)
    keep_tenants_apart(url)
    stores = {name: everlog.open(addresses["app"] + f"&tenant={name}") for name in ("a", "b")}
    stores[""] = everlog.open(addresses["app"])
    for name, store in stores.items():
        session = store.create("same", labels={"of": name})
        session.append("note", {"content": name}, key="k")
    for name, store in stores.items():
        session = store.session("same")
        assert [info.labels for info in store.sessions()] == [{"of": name}]
        assert [event.data["content"] for event in store.feed()] == [name]
        assert [event.data["content"] for event in store.find("k")] == [name]
        assert list(store.feed(store.cursor())) == []
        assert store.search(f'"{name}"' if name else "note") or not name
        other = next(each for key, each in stores.items() if key != name).session("same").uuid
        with pytest.raises(NotFoundError):
            store.storage.session_by_id(other)
        assert store.verify().ok
    for store in stores.values():
        store.close()


def test_who_sees_every_tenant_opens_the_store_of_none(url, addresses):
    keep_tenants_apart(url)
    with everlog.open(addresses["app"] + "&tenant=a") as store:
        store.create("s").append("note", {"content": "x"})
    with pytest.raises(UnsupportedStoreError, match="sees every tenant.*nothing was opened"):
        everlog.open(url + "&tenant=b")
    with everlog.open(url) as store:
        assert store.verify().events == 1


def test_a_tenant_costs_no_round_trip_more(url, addresses):
    keep_tenants_apart(url)
    with everlog.open(addresses["app"] + "&tenant=a") as store:
        session = store.create("s")
        session.append("note", {"content": "x"})
        session.slice()
        connections = store.storage.connections
        before = connections.round_trips
        session.append("note", {"content": "x"})
        assert connections.round_trips - before == 2


def test_where_the_server_refuses_to_copy_a_large_batch_goes_as_arrays(url, addresses):
    keep_tenants_apart(url)  # COPY and row-level security do not go together
    with everlog.open(addresses["app"] + "&tenant=a") as store:
        session, other = store.create("s"), store.create("o")
        assert store.storage.connections.copies
        for each in (session, other):
            each.extend([NewEvent("note", {"content": f"n{number}"}, key=f"k{number}") for number in range(1_200)])
            assert not store.storage.connections.copies
            assert [event.data["content"] for event in each] == [f"n{number}" for number in range(1_200)]
        assert store.verify().ok


def test_where_the_server_refuses_to_copy_none_of_several_large_batches_is_refused(url, addresses, sql):
    keep_tenants_apart(url)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with everlog.open(addresses["app"] + "&tenant=a") as store, ThreadPoolExecutor(2) as threads:
        sessions = [store.create(name) for name in ("s", "o")]
        with sql.transaction():
            sql.execute("SELECT 1 FROM bucket FOR UPDATE")  # both are kept from copying until both are about to
            extended = [threads.submit(each.extend, [NewEvent("note", {"content": "x"})] * 1_000) for each in sessions]
            until = time.monotonic() + 9
            while sql.execute(waiting).fetchone() != (2,) and time.monotonic() < until:
                time.sleep(0.01)
        assert [len(each.result(60)) for each in extended] == [1_000, 1_000]


# --- doctor ---
def test_doctor_says_what_is_wrong(url, tmp_path):
    checks = {check.what: check for check in examine_postgres(url)}
    assert checks["server"].verdict == checks["clock"].verdict == checks["store"].verdict == "good"
    assert checks["fsync"].verdict == checks["full_page_writes"].verdict == "bad"
    assert all(check.advice for check in checks.values() if check.verdict != "good")
    (bad,) = examine_postgres("postgresql:///nowhere?host=/nonexistent")
    assert (bad.what, bad.verdict) == ("server", "bad")
    (bad,) = examine_postgres("postgresql://x/y?schema=No")
    assert (bad.what, bad.verdict) == ("address", "bad")
    none = {check.what: check for check in examine_postgres(url_of(tmp_path / "none"))}
    assert none["store"].advice == "everlog init makes one"


def test_doctor_counts_connections_of_others_for_whoever_may_not_see_them(url, addresses):
    with psycopg.connect(read_address(url).conninfo), psycopg.connect(read_address(url).conninfo):
        checks = {check.what: check for check in examine_postgres(addresses["reader"])}
        assert int(checks["connections"].found.split()[0]) >= 3


def test_doctor_says_what_else_is_in_the_schema(url):
    with psycopg.connect(read_address(url).conninfo, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE {read_address(url).schema}.store RENAME version TO other")
    with pytest.raises(UnsupportedStoreError, match="not of this Everlog.*nothing was written.*schema"):
        everlog.open(url)
    checks = {check.what: check for check in examine_postgres(url)}
    assert checks["store"].advice == f"see what the schema {read_address(url).schema} holds"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_does_not_keep_every_text_gets_no_store(tmp_path, encoding):
    name = f"e_{os.getpid()}_{encoding.lower()}"
    with psycopg.connect(server().url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        try:
            place = server().url(name)
            with pytest.raises(UnsupportedStoreError, match=f"as {encoding}; nothing was made.*UTF8"):
                everlog.open(place)
            checks = {check.what: check for check in examine_postgres(place)}
            assert (checks["encoding"].found, checks["encoding"].verdict) == (encoding, "bad")
            assert checks["synchronous_commit"].verdict == "good"
        finally:
            server().drop_database(name)


def test_the_environment_does_not_say_how_text_comes(url, monkeypatch):
    with psycopg.connect(read_address(url).conninfo, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET synchronous_commit = off")
        try:
            monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")
            checks = {check.what: check for check in examine_postgres(url)}
            assert (checks["synchronous_commit"].found, checks["encoding"].found) == ("off", "UTF8")
            with everlog.open(url) as store:
                assert ("sync_on", None) in store.storage._settings
        finally:
            connection.execute(f"ALTER DATABASE {connection.info.dbname} RESET synchronous_commit")


def test_an_address_that_is_wrong_is_to_be_looked_at(url):
    for place in (url.replace("user=postgres", "user=nobody_here"), "postgresql://u@127.0.0.1:1/db"):
        with pytest.raises(UnavailableError, match="nothing was written; see that .*address is right: everlog doctor"):
            everlog.open(place)
    with everlog.open(url + "&options=-c%20default_transaction_read_only%3Don") as store:
        with pytest.raises(UnavailableError, match="default_transaction_read_only"):
            store.create("x")


def test_no_error_shows_a_password(url):
    secret = "hunter2-and-more"
    for place in (
        f"postgresql://u:{secret}@127.0.0.1:1/db",
        f"postgresql://u@127.0.0.1:1/db?password={secret}",
        url.replace("user=postgres", f"user=nobody_here&password={secret}"),
    ):
        with pytest.raises(EverlogError) as failed:
            everlog.open(place)
        assert secret not in str(failed.value)
        assert secret not in "".join(f"{check.found}{check.advice}" for check in examine_postgres(place))
    with everlog.open(url + f"&sslpassword={secret}") as store:
        assert secret not in f"{store!r}{store.url}"
    assert server()
