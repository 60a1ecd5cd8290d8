"""Databases of the Agents SDK as Everlog takes them in: each session read back through the SDK, from there and from here."""

import asyncio
import json
import sqlite3
from contextlib import closing

import pytest

import everlog
from core.secrets_made import TOKENS, drawn
from everlog.errors import InvalidEventError, NotFoundError

pytest.importorskip("agents")
from agents import SQLiteSession
from agents.extensions.memory import AdvancedSQLiteSession, AsyncSQLiteSession, SQLAlchemySession

from everlog.importers.openai_agents import import_database
from everlog.integrations.openai_agents import EverlogSession
from integrations.agents_items import ITEMS, numbered, said, user


@pytest.fixture
def store(tmp_path):
    with everlog.open(tmp_path / "log.db") as opened:
        yield opened.redacting("redact")


def sqlite(name, path):
    return SQLiteSession(name, path)


def sqlite_async(name, path):
    return AsyncSQLiteSession(name, path)


def sqlalchemy(name, path):
    return SQLAlchemySession.from_url(name, url=f"sqlite+aiosqlite:///{path}", create_tables=True)


async def shut(session):
    if hasattr(session, "_engine"):
        await session._engine.dispose()
    else:
        closed = session.close()
        if closed is not None:
            await closed


async def filled(make, path, **items):
    for name, given in items.items():
        session = make(name, path)
        await session.add_items(given)
        await shut(session)


def totals(imported):
    return [(each.sessions[0], each.events, each.known) for each in imported if each.sessions]


def as_json(items):
    return json.dumps(items, sort_keys=True)


def read(store, name):
    return asyncio.run(EverlogSession(name, store).get_items())


@pytest.mark.parametrize("make", [sqlite, sqlite_async, sqlalchemy])
def test_each_session_reads_as_it_did_and_importing_again_adds_only_what_is_new(store, tmp_path, make):
    path = tmp_path / "sdk.db"
    asyncio.run(filled(make, path, one=ITEMS, other=numbered(3)))
    assert totals(import_database(store, path)) == [("one", len(ITEMS), 0), ("other", 3, 0)]

    async def both(name):
        session = make(name, path)
        try:
            return await session.get_items()
        finally:
            await shut(session)

    for name in ("one", "other"):
        assert as_json(read(store, name)) == as_json(asyncio.run(both(name)))
    asyncio.run(filled(make, path, other=[said("new")]))
    assert totals(import_database(store, path)) == [("one", 0, len(ITEMS)), ("other", 1, 3)]
    assert read(store, "other") == [*numbered(3), said("new")]
    assert store.session("other").info().title == "item 0"
    assert store.session("other")[0].occurred_at is not None
    assert store.verify().ok


def test_a_session_goes_on_where_the_source_ended(store, tmp_path):
    path = tmp_path / "sdk.db"
    asyncio.run(filled(sqlite, path, one=numbered(2)))
    list(import_database(store, path))
    session = EverlogSession("one", store)
    asyncio.run(session.add_items([said("here")]))
    assert totals(import_database(store, path)) == [("one", 0, 2)]
    assert read(store, "one") == [*numbered(2), said("here")]
    assert asyncio.run(session.pop_item()) == said("here")


def test_branches_become_sessions(store, tmp_path):
    path = tmp_path / "sdk.db"

    async def story():
        session = AdvancedSQLiteSession(session_id="s", db_path=path, create_tables=True)
        await session.add_items([user("a"), said("b"), user("c"), said("d")])
        await session.create_branch_from_turn(2, "other")
        await session.add_items([user("e")])
        branches = [await session.get_items(branch_id=name) for name in ("main", "other")]
        session.close()
        return branches

    branches = asyncio.run(story())
    assert [each.sessions[0] for each in import_database(store, path)] == ["s", "s/other"]
    assert [read(store, "s"), read(store, "s/other")] == branches


def test_a_row_that_is_no_json_is_kept_reported_and_passed_over(store, tmp_path):
    path = tmp_path / "sdk.db"
    asyncio.run(filled(sqlite, path, one=numbered(2)))
    with sqlite3.connect(path) as source:
        source.execute("UPDATE agent_messages SET message_data = '{torn' WHERE id = 1")
    source.close()
    (imported,) = import_database(store, path)
    assert [problem.line for problem in imported.problems] == [1]
    assert read(store, "one") == numbered(1, 1)
    assert store.session("one")[0].attachment("line") == b"{torn"


def test_secrets_are_taken_out(store, tmp_path):
    path = tmp_path / "sdk.db"
    secret = TOKENS["github-token"](drawn(1))
    asyncio.run(filled(sqlite, path, one=[user(f"my token is {secret}"), said("ok")]))
    list(import_database(store, path))
    first, second = read(store, "one")
    assert secret not in as_json(first)
    assert second == said("ok")


def test_what_is_no_such_database_is_refused_and_left_as_it_was(store, tmp_path):
    text, other = tmp_path / "text.db", tmp_path / "other.db"
    text.write_bytes(b"no database at all" * 100)
    sqlite3.connect(other).execute("CREATE TABLE t (x)").connection.close()
    before = other.read_bytes()
    for path in (text, other):
        with pytest.raises(InvalidEventError, match="nothing of it was imported"):
            list(import_database(store, path))
    with pytest.raises(NotFoundError, match="nothing of it was imported"):
        list(import_database(store, tmp_path / "missing.db"))
    assert other.read_bytes() == before
    assert not store.sessions()
    assert not (tmp_path / "missing.db").exists()


def test_a_damaged_database_gives_what_can_be_read_and_says_so(store, tmp_path):
    path, done = tmp_path / "sdk.db", []
    asyncio.run(filled(sqlite, path, one=numbered(3), other=[user("word " * 300) for _ in range(200)]))
    content = bytearray(path.read_bytes())
    for start in range(len(content) // 2, len(content), 4096):
        content[start : start + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(NotFoundError, match="cannot be read to its end"):
        done.extend(import_database(store, path))  # as far as it comes
    assert totals(done) == [("one", 3, 0)]
    assert read(store, "one") == numbered(3)


def test_items_without_a_row_of_their_session_come_along(store, tmp_path):
    path = tmp_path / "source.db"
    asyncio.run(filled(sqlite, path, known=numbered(1)))
    with closing(sqlite3.connect(path)) as source, source:
        for name in ("orphan", b"\xff no text"):
            source.execute(
                "INSERT INTO agent_messages (session_id, message_data) VALUES (?, ?)", (name, json.dumps(user("lost")))
            )
    assert sorted(events for _, events, _ in totals(import_database(store, path))) == [1, 1, 1]
    theirs = sqlite("orphan", path)
    assert read(store, "orphan") == asyncio.run(theirs.get_items()) == [user("lost")]
    theirs.close()
