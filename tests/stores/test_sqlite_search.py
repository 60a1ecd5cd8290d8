"""The index beside a store in SQLite: made by who searches, dropped at will, made anew when it is not to be trusted, and purged."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import apsw.ext
import pytest

import everlog
from everlog import NewEvent, search
from everlog.core import limits
from everlog.core.upcast import UPCASTERS
from everlog.errors import BusyError
from everlog.stores.sqlite import choosing
from everlog.stores.sqlite.index import APPLICATION_ID

DEADLINE_SECONDS = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "everlog.db"


@pytest.fixture
def store(path: Path) -> Iterator[everlog.Store]:
    with everlog.open(path) as opened:
        session = opened.create("s")
        session.extend([NewEvent("note", {"content": f"plain text {number}"}) for number in range(50)])
        session.append("note", {"content": "a fact planted early: needle"})
        yield opened


def side(path: Path) -> Path:
    return path.with_name(f"{path.name}-search")


def beside(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}-search*"))


def positions(found: everlog.SearchPage) -> list[int]:
    return [hit.event.position for hit in found.hits]


def asked(path: Path, sql: str, *values: Any) -> list[Any]:
    """Ask the index by a connection of its own, as another process would."""
    connection = apsw.Connection(str(side(path)))
    connection.set_busy_timeout(5_000)
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def vocabulary(path: Path) -> set[str]:
    """Give every three characters that the index knows of."""
    connection = apsw.Connection(str(side(path)))
    try:
        connection.execute("CREATE VIRTUAL TABLE temp.seen USING fts5vocab('main', 'word', 'row')")
        return {term for (term,) in connection.execute("SELECT term FROM temp.seen")}
    finally:
        connection.close()


def run_python(code: str, *arguments: object, expect: int = 0) -> str:
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS,
    )  # fmt: skip
    assert process.returncode == expect, process.stderr
    return process.stdout


# --- what appends pay ----------------------------------------------------------------------------
def test_appends_make_no_index_and_touch_none(path: Path, store: everlog.Store) -> None:
    assert beside(path) == []
    store.search("needle")
    before = [(file, file.stat().st_mtime_ns) for file in beside(path)]
    store.session("s").append("note", {"content": "needle too"})
    assert [(file, file.stat().st_mtime_ns) for file in beside(path)] == before
    assert positions(store.search("needle")) == [51, 50]


def test_the_index_can_be_read_by_its_owner_alone(path: Path, store: everlog.Store) -> None:
    store.search("needle")
    assert {stat.S_IMODE(file.stat().st_mode) for file in beside(path)} == {0o600}


# --- a projection --------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["cut", "header", "words", "entries", "foreign", "empty", "text", "version"])
def test_a_damaged_or_foreign_index_is_made_anew_and_changes_no_answer(
    path: Path, store: everlog.Store, kind: str
) -> None:
    store.session("s").extend(
        [NewEvent("note", {"content": f"needle {n} {os.urandom(300).hex()}"}) for n in range(200)]
    )
    expected = positions(store.search("needle", limit=300))
    assert len(expected) == 201
    store.close()
    content = bytearray(side(path).read_bytes())
    if kind == "cut":
        del content[len(content) // 2 :]
    elif kind == "header":
        content[:100] = os.urandom(100)
    elif kind == "text":
        content[:] = b"this is no database at all, " * 1000
    elif kind == "empty":
        content.clear()
    elif kind in ("words", "entries"):
        page = asked(
            path, "SELECT rootpage FROM sqlite_schema WHERE name = ?", "word_data" if kind == "words" else "entry"
        )
        start = (page[0][0] - 1) * 4096
        content[start : start + 4096] = b"\x07" * 4096
    elif kind == "version":
        asked(path, "PRAGMA user_version = 99")
        content = bytearray(side(path).read_bytes())
    else:
        with everlog.open(path.with_name("other.db")) as other:
            other.create("o").append("note", {"content": "needle"})
            other.search("needle")
        content = bytearray(path.with_name("other.db-search").read_bytes())
    side(path).write_bytes(content)
    with everlog.open(path) as again:
        assert positions(again.search("needle", limit=300)) == expected
        assert positions(again.session("s").search("needle", limit=300)) == expected
        again.session("s").append("note", {"content": "needle at last"})
        assert positions(again.search("needle at last")) == [251]
    assert asked(path, "PRAGMA application_id") == [(APPLICATION_ID,)]


def test_an_index_that_is_ahead_of_a_restored_store_is_made_anew(path: Path, store: everlog.Store) -> None:
    store.close()
    shutil.copy(path, path.with_name("backup"))
    with everlog.open(path) as later:
        later.session("s").append("note", {"content": "needle that the restore loses"})
        assert positions(later.search("needle")) == [50, 51]
    shutil.copy(path.with_name("backup"), path)
    with everlog.open(path) as restored:
        restored.session("s").append("note", {"content": "other"})
        restored.session("s").append("note", {"content": "needle after the restore"})
        assert positions(restored.search("needle", order="newest")) == [52, 50]


def test_what_an_erasure_took_out_is_found_again_in_a_restored_store(path: Path, store: everlog.Store) -> None:
    store.close()
    shutil.copy(path, path.with_name("backup"))
    with everlog.open(path) as later:
        assert positions(later.search("needle")) == [50]
        later.session("s").erase([50], reason="asked for")
        assert positions(later.search("needle")) == []
    shutil.copy(path.with_name("backup"), path)
    with everlog.open(path) as restored:
        assert positions(restored.search("needle")) == [50]


def test_an_index_may_be_removed_at_any_time(path: Path, store: everlog.Store) -> None:
    assert positions(store.search("needle")) == [50]
    for file in beside(path):
        file.unlink()
    assert positions(store.search("needle")) == [50]
    assert side(path).exists()


def test_a_store_that_is_open_to_read_searches_with_what_index_there_is(path: Path, store: everlog.Store) -> None:
    with everlog.open(path, read_only=True) as reader:
        assert positions(reader.search("needle")) == [50]
        assert beside(path) == []
        store.search("needle")
        assert positions(reader.search("needle")) == [50]
        store.session("s").append("note", {"content": "needle too"}, outcome="error")
        assert positions(reader.search("needle", order="newest")) == [51, 50]
        assert positions(reader.search("outcome:error since:1h")) == [51]
        assert positions(reader.session("s").search("needle", order="newest", limit=1)) == [51]


def test_what_is_not_read_as_it_is_stored_is_found_as_it_is_read(path: Path, store: everlog.Store) -> None:
    store.session("s").append("test.search_shape", {"old": "written so"})
    assert positions(store.search("written")) == [51]
    everlog.upcast("test.search_shape", 1)(lambda data: {"new": "read otherwise"})
    try:
        assert positions(store.search("otherwise")) == [51]
        assert positions(store.search("written")) == []
    finally:
        del UPCASTERS["test.search_shape"]


def test_packed_bodies_are_found(path: Path, store: everlog.Store) -> None:
    store.compact(older_than=0)
    assert positions(store.search("needle")) == [50]
    store.session("s").erase([50], reason="asked for")
    assert positions(store.search("needle")) == []
    assert "eed" not in vocabulary(path)


# --- several at once -----------------------------------------------------------------------------
KILLED = """
import os, sys, everlog
store = everlog.open(sys.argv[1])
store.search("needle", progress=lambda done, total: os._exit(9) if done >= int(sys.argv[2]) else None)
"""
KILLED_INSIDE = """
import os, sys, everlog
from everlog.stores.sqlite import index
left = [int(sys.argv[2])]
def killed(raw, gone):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), 9)
    return indexed(raw, gone)
indexed, index.indexed_text = index.indexed_text, killed
everlog.open(sys.argv[1]).search("needle")
"""


def fill(store: everlog.Store, count: int) -> None:
    for start in range(0, count, 500):
        events = [NewEvent("note", {"content": f"more {start + n} text"}) for n in range(500)]
        store.session("s").extend(events)


@pytest.mark.parametrize(("code", "when", "signal"), [(KILLED, 1000, 9), (KILLED, 2000, 9), (KILLED_INSIDE, 1500, -9)])
def test_who_is_killed_while_catching_up_leaves_an_index_to_go_on_with(
    path: Path, store: everlog.Store, code: str, when: int, signal: int
) -> None:
    fill(store, 3000)
    run_python(code, path, when, expect=signal)
    assert asked(path, "SELECT count(*), max(feed) FROM entry") == asked(path, "SELECT number, number FROM state")
    assert 0 < asked(path, "SELECT number FROM state")[0][0] < 3000
    assert positions(store.search("needle")) == [50]
    assert positions(store.search('"more 2999 text"')) == [51 + 2999]
    assert asked(path, "SELECT count(*) FROM entry") == [(3051,)]


CATCHING_UP = """
import sys, everlog
store = everlog.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(len(store.search("needle").hits), len(store.search('"more 7 "').hits))
"""


def test_several_processes_and_threads_catch_up_at_once(path: Path, store: everlog.Store) -> None:
    fill(store, 6000)
    processes = [
        subprocess.Popen([sys.executable, "-c", CATCHING_UP, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # fmt: skip
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(positions(store.search("needle")))) for _ in range(3)]
    try:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for thread in threads:
            thread.start()
        said = [process.communicate("\n", timeout=DEADLINE_SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert said == ["1 1\n", "1 1\n"]
    assert found == [[50]] * 3
    assert asked(path, "SELECT count(*), max(feed) FROM entry") == [(6051, 6051)]


def test_an_index_that_is_emptied_between_catching_up_and_finding_hides_nothing(
    path: Path, store: everlog.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = store.storage._index
    find, emptied = index.find, []

    def find_late(*asked: Any) -> Any:
        if not emptied:
            emptied.append(True)
            index.empty()  # as another process may, that finds an erasure which was not carried through
        return find(*asked)

    monkeypatch.setattr(index, "find", find_late)
    assert positions(store.search("needle")) == [50]


def test_after_fork_the_child_is_refused_and_the_parent_goes_on(path: Path, store: everlog.Store) -> None:
    fill(store, 3000)
    code = """
import os, sys, threading, warnings, everlog
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which is what this is about
from everlog.errors import UnsupportedStoreError
store = everlog.open(sys.argv[1])
found = []
searching = threading.Thread(target=lambda: found.append(len(store.search("needle").hits)))
searching.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        try:
            store.search("needle")
        except UnsupportedStoreError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
searching.join()
assert found == [1], found
store.session("s").erase([50], reason="asked for")
assert store.search("needle").hits == []
child = os.fork()
if child == 0:
    with everlog.open(sys.argv[1]) as own:
        os._exit(len(own.search('"more 2999 text"').hits))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
"""
    run_python(code, path)


# --- what is destroyed ---------------------------------------------------------------------------
def test_erased_words_leave_the_index_and_all_others_stay(path: Path, store: everlog.Store) -> None:
    session = store.session("s")
    session.append("my.secret", {"x": "hunter2 Quizzaciously 秘密の言葉"}, rationale="hunter2, and quizzaciously")
    assert positions(store.search("quizzaciously")) == [51]
    assert {"hun", "r2 ", "qui", "zac", "秘密の", "の言葉"} <= vocabulary(path)
    session.erase([51], reason="asked for")
    assert not {"hun", "r2 ", "qui", "zac", "秘密の", "の言葉"} & vocabulary(path)
    assert asked(path, "SELECT number FROM state") == [(52,)], "it was not emptied"
    assert positions(store.search("quizzaciously")) == []
    assert positions(store.search("type:my.secret")) == [51]
    assert positions(store.search("needle")) == [50]
    session.append("my.secret", {"x": "quizzaciously"})
    assert positions(store.search("quizzaciously")) == [52]
    store.close()
    for file in path.parent.iterdir():
        assert b"hunter2" not in file.read_bytes()


@pytest.mark.parametrize("what", ["erase", "delete"])
def test_what_is_destroyed_while_it_is_read_for_the_index_does_not_come_into_it(
    path: Path, store: everlog.Store, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Another destroys it between the reading of a page and its writing."""
    store.create("secret").append("my.secret", {"x": "quizzaciously"})
    store.search("needle")
    store.session("secret").append("my.secret", {"x": "quizzaciously again"})
    feed, done = store.storage._feed, []

    def feed_and_have_it_destroyed(*asked: Any, **how: Any) -> Any:
        page = feed(*asked)
        if not done:
            done.append(True)
            with everlog.open(path) as other:
                if what == "erase":
                    other.session("secret").erase([0, 1], reason="asked for")
                else:
                    other.delete("secret", reason="over")
        return page

    monkeypatch.setattr(store.storage, "_feed", feed_and_have_it_destroyed)
    assert store.search("quizzaciously").hits == []
    assert done
    assert "qui" not in vocabulary(path)
    assert positions(store.search("needle")) == [50]


def test_what_is_gone_leaves_the_file_and_its_log(path: Path, store: everlog.Store) -> None:
    store.session("s").append("my.secret", {"x": "\u4e0d\u53ef\u8aad"})
    store.search("needle")
    held = "\u4e0d\u53ef\u8aad".encode()
    store.session("s").append("note", {"content": "x"})
    store.search("needle")
    assert any(held in file.read_bytes() for file in beside(path) if not file.name.endswith("lock"))
    store.session("s").erase([51], reason="asked for")
    assert not any(held in file.read_bytes() for file in beside(path))


def test_deleted_sessions_leave_the_index_and_all_others_stay(path: Path, store: everlog.Store) -> None:
    gone = store.create("gone")
    gone.extend([NewEvent("my.kind", {"x": f"quizzaciously {n}"}, actor="someone") for n in range(1500)])
    assert len(store.search("quizzaciously").hits) == 20
    store.delete("gone", reason="over")
    assert "qui" not in vocabulary(path)
    assert asked(path, "SELECT count(*) FROM entry") == [(51,)]
    assert asked(path, "SELECT number FROM state") == [(1551,)], "it was not emptied"
    assert positions(store.search("needle")) == [50]
    assert store.search("actor:someone").hits == []


@pytest.mark.parametrize("what", ["erase", "delete"])
def test_an_index_is_emptied_where_not_all_that_leaves_it_can_be_kept_at_hand(
    path: Path, store: everlog.Store, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(limits, "GROUP_BYTES_MAX", 100)
    secret = store.create("secret")
    secret.extend([NewEvent("my.secret", {"x": f"quizzaciously {number} {'x' * 40}"}) for number in range(5)])
    store.search("needle")
    if what == "erase":
        secret.erase(list(range(5)), reason="asked for")
    else:
        store.delete("secret", reason="over")
    assert vocabulary(path) == set()
    assert positions(store.search("needle")) == [50]
    assert store.search("quizzaciously").hits == []


DESTROYED = """
import os, sys, everlog
store = everlog.open(sys.argv[1])
store.storage._index.remove = lambda *events, **how: os._exit(9)
if sys.argv[2] == "erase":
    store.session("secret").erase([0], reason="asked for")
else:
    store.delete("secret", reason="over")
"""


@pytest.mark.parametrize("what", ["erase", "delete"])
def test_words_of_what_was_destroyed_go_when_the_store_is_opened_where_who_destroyed_it_was_killed(
    path: Path, store: everlog.Store, what: str
) -> None:
    store.create("secret").append("my.secret", {"x": "quizzaciously"})
    store.search("needle")
    store.close()
    assert "qui" in vocabulary(path)
    run_python(DESTROYED, path, what, expect=9)
    with everlog.open(path) as again:
        assert "qui" not in vocabulary(path)
        assert again.search("quizzaciously").hits == []
        assert positions(again.search("needle")) == [50]


def test_another_process_that_searches_notices_an_erasure_that_was_not_carried_through(
    path: Path, store: everlog.Store
) -> None:
    store.create("secret").append("my.secret", {"x": "quizzaciously"})
    store.search("needle")
    run_python(DESTROYED, path, "erase", expect=9)
    assert positions(store.search("needle")) == [50]
    assert "qui" not in vocabulary(path)


def test_an_erasure_that_a_reader_of_the_index_hinders_says_so_and_can_be_repeated(
    path: Path, store: everlog.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everlog.stores.sqlite.connections.BUSY_MILLISECONDS", 20)
    session = store.session("s")
    session.append("my.secret", {"x": "quizzaciously"})
    store.search("needle")
    reader = apsw.Connection(str(side(path)))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM entry").fetchone()
    with pytest.raises(BusyError, match="gone from the store, but a reader keeps old words in .*-search-wal"):
        session.erase([51], reason="asked for")
    assert session[51].erased
    reader.execute("COMMIT")
    reader.close()
    session.erase([51], reason="asked for")
    assert "qui" not in vocabulary(path)
    assert side(path).with_name(f"{side(path).name}-wal").stat().st_size == 0


# --- what things cost ----------------------------------------------------------------------------
def test_no_way_through_the_index_sorts_or_walks_all_of_it(path: Path, store: everlog.Store) -> None:
    store.search("needle")
    connection = apsw.Connection(str(side(path)))
    statements: list[str] = []
    connection.exec_trace = lambda _cursor, sql, _values: statements.append(sql) or True
    places = [None, [1], list(range(100))]
    queries = ["needle", "type:note", "type:n*,user.*", "outcome:error", "actor:a,b", "outcome:ok type:note", ""]
    for query in queries:
        for branches in places:
            wanted = search._wanted(everlog.parse_query(query, now=0))
            choosing.choose(connection, wanted, branches, lambda _branch, _position: True, 1_000, 10)
    connection.exec_trace = None
    for sql in set(statements):
        steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", _any_values(connection, sql))]
        several = "json_each(:driving)" in sql  # at most FEW events of many branches
        assert several or not any("TEMP B-TREE" in step for step in steps), (sql, steps)
        walks = [step for step in steps if step.startswith("SCAN e")]
        assert not walks or "COVERING INDEX entry_unread" in walks[0] or "NOT INDEXED" in sql, (sql, steps)
    connection.close()


def _any_values(connection: apsw.Connection, sql: str) -> dict[str, Any]:
    names = apsw.ext.query_info(connection, sql).bindings_names
    return {name: '"abc"' if name == "match" else "[1]" for name in names if name}
