"""Compacting: every answer stays what it was, what repeats is kept once, what is erased is gone, and nobody is in the way."""

import asyncio
import base64
import os
import random

import apsw
import pytest
from click.testing import CliRunner

import everlog
from everlog import NewEvent
from everlog.cli.commands import everlog as main
from everlog.errors import InvalidEventError, KeyReusedError, LimitError, NotFoundError, UnavailableError
from everlog.stores.migrate import load_migrations
from everlog.stores.sqlite.connections import APPLICATION_ID
from services.cold import (
    DEADLINE_SECONDS,
    ON_DISK,
    blocks_on_disk,
    check_replaced,
    fill,
    note,
    on_disk,
    open_cold,
    run_python,
    stored,
    told,
)


def test_no_answer_changes_where_bodies_are_packed(kind, store, tmp_path, clock):
    fill(store)
    before = told(store)
    clock.advance(seconds=1)
    done = store.compact(older_than=0)
    assert done.bodies > 1_000 and done.attachments > 8
    assert store.stats().sizes.hot < 100
    assert told(store) == before
    store.verify().raise_for_faults()
    with open_cold(kind, tmp_path, clock) as again:
        assert told(again) == before
    again = store.compact(older_than=0)
    assert (again.bodies, again.blocks) == (0, 0)


# --- what stays, and how long --------------------------------------------------------------------
def test_what_is_newer_stays_in_its_rows(store, clock):
    session = store.create("s", events=[note(number) for number in range(100)])
    clock.advance(seconds=3_600)
    session.extend([note(number) for number in range(100, 200)])
    rested = store.create("rested", events=[note(number) for number in range(10)])
    clock.advance(seconds=60)
    assert store.compact(older_than="30m").bodies == 64, "only whole blocks of a session that is at work"
    assert store.compact(older_than="30m").bodies == 0
    clock.advance(seconds=3_600)
    assert store.compact(older_than="30m").bodies == 136 + 10, "the rest, once it has rested"
    assert (session.size(), rested.size()) == (200, 10)
    assert store.compact().bodies == 0
    for unknown in (-1, "soon", float("nan")):
        with pytest.raises((LimitError, InvalidEventError), match=r"older_than .*; nothing was"):
            store.compact(older_than=unknown)


@ON_DISK
def test_a_dry_run_writes_nothing_and_says_what_would_be(kind, store, tmp_path, clock):
    fill(store)
    clock.advance(seconds=1)
    store.close()
    before = (tmp_path / "store.db").read_bytes()
    with open_cold(kind, tmp_path, clock, read_only=True) as reading:
        would = reading.compact(older_than=0, dry_run=True)
    with open_cold(kind, tmp_path, clock) as writing:
        assert writing.compact(older_than=0, dry_run=True) == would
    assert (tmp_path / "store.db").read_bytes() == before
    with open_cold(kind, tmp_path, clock) as writing:
        done = writing.compact(older_than=0)
    assert would.dry_run and not done.dry_run
    assert (would.events, would.bodies, would.attachments, would.blocks, would.plain, would.stored) == (
        done.events,
        done.bodies,
        done.attachments,
        done.blocks,
        done.plain,
        done.stored,
    )


def test_progress_is_told_and_only_grows(store, clock):
    store.create("s", events=[note(number) for number in range(2_000)])
    clock.advance(seconds=1)
    seen = []
    store.compact(older_than=0, progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == 2_000 and len(seen) >= 3


def test_who_stops_it_loses_nothing_and_the_next_goes_on(store, clock):
    store.create("s", events=[note(number) for number in range(2_000)])
    clock.advance(seconds=1)
    before = told(store)

    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.compact(older_than=0, progress=stop)
    assert told(store) == before
    assert 0 < store.compact(older_than=0).bodies < 2_000
    assert told(store) == before


def test_a_store_that_is_read_only_reads_what_was_packed_and_says_that_it_cannot_pack(kind, store, tmp_path, clock):
    fill(store)
    clock.advance(seconds=1)
    before = told(store)
    with open_cold(kind, tmp_path, clock, read_only=True) as reading:
        with pytest.raises(UnavailableError, match=r"read-only.*nothing was written"):
            reading.compact(older_than=0)
    store.compact(older_than=0)
    with open_cold(kind, tmp_path, clock, read_only=True) as reading:
        assert told(reading) == before


def test_a_store_in_memory_has_nothing_to_pack():
    with everlog.open("memory:") as store:
        store.create("s", events=[note(number) for number in range(100)])
        assert store.compact(older_than=0).bodies == 0


# --- size ----------------------------------------------------------------------------------------
def test_bodies_like_an_agents_take_less_than_four_tenths(store, clock):
    chance = random.Random(20261130)
    words = [
        chance.choice("bcdfgklmnprst") + chance.choice("aeiou") + chance.choice("bdgklmnrst") * 2 for _ in range(400)
    ]
    often = [1 / place for place in range(1, 401)]  # as words are in any language
    session = store.create("s")
    for turn in range(300):
        text = " ".join(chance.choices(words, often, k=chance.randrange(60, 240)))
        call = {"id": f"toolu_{turn:04}", "name": "bash", "input": {"cmd": f"pytest tests/{words[turn % 400]}.py"}}
        session.append("agent.tool_use", call, rationale=" ".join(chance.choices(words, often, k=12)))
        session.append("agent.tool_result", {"tool_use_id": f"toolu_{turn:04}", "content": text}, outcome="ok")
    clock.advance(seconds=1)
    done = store.compact(older_than=0)
    assert done.stored < 0.4 * done.plain


@ON_DISK
@pytest.mark.parametrize("spread", ["in one session", "in many"])
def test_blocks_leave_little_of_their_pages_empty(store, tmp_path, clock, spread):
    chance = random.Random(20261201)

    def said():
        return NewEvent("note", {"content": chance.randbytes(chance.randrange(60, 240)).hex()})

    if spread == "in one session":
        store.create("s", events=[said() for _ in range(3_000)])
    else:
        for number in range(120):
            store.create(f"s{number}", events=[said() for _ in range(chance.randrange(5, 60))])
    clock.advance(seconds=1)
    store.compact(older_than=0)
    connection = apsw.Connection(str(tmp_path / "store.db"), flags=apsw.SQLITE_OPEN_READONLY)
    ((pages, empty),) = connection.execute(
        "SELECT sum(pgsize), sum(unused) FROM dbstat WHERE name = 'block'"
    ).fetchall()
    connection.close()
    assert empty < 0.06 * pages


def test_what_is_left_to_the_next_transaction_is_kept_once_then(kind, store, tmp_path, clock):
    session = store.create("s", events=[note(number, size=300) for number in range(900)])
    for number in range(900, 1_020):  # on both sides of the end of the first transaction
        session.append("my.note", {"n": number}, attachments={"a": bytes([number % 100, number // 100]) * 10_000})
    session.erase(list(range(160)), reason="so that the end of the first transaction is in a block")
    clock.advance(seconds=1)
    before = told(store)
    seen = []
    done = store.compact(older_than=0, progress=lambda count: seen.append((count, store.stats().sizes.shared_plain)))
    assert (done.events, done.bodies, done.attachments) == (1_020, 860, 120)
    assert seen == [(928, 28 * 20_000), (1_020, 120 * 20_000)]
    assert done.plain == sum(len(event.raw) for event in session if not event.erased) + 120 * 20_000
    with open_cold(kind, tmp_path, clock) as fresh:
        assert told(fresh) == before
    session.erase(list(range(900, 1_020)), reason="asked for")
    assert store.stats().sizes.shared_plain == 0
    store.verify().raise_for_faults()


def test_what_is_erased_while_blocks_wait_for_others_is_in_none(kind, store, tmp_path, clock):
    for number in range(10):
        store.create(f"s{number}", events=[note(place) for place in range(5)])
    clock.advance(seconds=1)
    write = store.storage.write
    with open_cold(kind, tmp_path, clock) as other:

        def erase_first(request):
            store.storage.write = write
            other.session("s3").erase([2], reason="between reading it and writing any block")
            return write(request)

        store.storage.write = erase_first
        done = store.compact(older_than=0)
    assert (done.events, done.bodies, done.blocks) == (50, 49, 10)
    assert store.stats().sizes.hot < 100
    assert store.session("s3")[2].erased
    assert [event.data["n"] for event in store.session("s3") if not event.erased] == [0, 1, 3, 4]
    store.verify().raise_for_faults()


@ON_DISK
@pytest.mark.parametrize("how", ["attached", "in bodies"])
def test_forty_copies_of_one_megabyte_take_one(store, clock, how):
    content = os.urandom(750_000)
    text = base64.b64encode(content)
    assert len(text) == 1_000_000
    for number in range(40):
        session = store.create(f"s{number}")
        if how == "attached":
            session.append("agent.message", {"content": "see"}, attachments={"a.png": text})
        else:
            session.append("user.message", {"content": [{"type": "image", "data": text.decode()}, "so", number]})
    clock.advance(seconds=1)
    before = told(store)
    done = store.compact(older_than=0)
    sizes = store.stats().sizes
    assert sizes.packed + sizes.shared + sizes.hot < 1_100_000
    assert done.stored < 1_100_000
    assert sizes.file - sizes.free < 2_000_000
    assert told(store) == before
    store.verify().raise_for_faults()


@ON_DISK
def test_free_space_goes_back_to_the_system(store, tmp_path, clock):
    store.create("s", events=[note(number, size=3_000) for number in range(3_000)])
    clock.advance(seconds=1)
    before = store.stats().sizes.file
    done = store.compact(older_than=0)
    assert done.free == 0
    assert done.given_back > 0.8 * before
    assert store.stats().sizes.file < 0.2 * before
    store.close()
    assert (tmp_path / "store.db").stat().st_size < 0.2 * before


def test_a_file_of_an_older_everlog_is_packed_and_says_that_its_space_stays_inside(tmp_path, clock):
    path = tmp_path / "store.db"
    older(path)
    with open_cold("sqlite", tmp_path, clock) as store:
        store.create("s", events=[note(number, size=3_000) for number in range(500)])
        clock.advance(seconds=1)
        before = told(store)
        done = store.compact(older_than=0)
        assert done.given_back == 0
        assert done.free > 1_000_000
        assert told(store) == before
        store.verify().raise_for_faults()
    said = CliRunner().invoke(main, ["--store", str(path), "compact", "--older-than", "0"]).output
    assert "free inside the store" in said
    assert "everlog copy" in said, "what makes a smaller file of it"


def older(path):
    """Make a file as Everlog made it before there were blocks, and files gave space back."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA page_size = 8192; PRAGMA journal_mode = WAL")
    for number, script in load_migrations("everlog.stores.sqlite")[:4]:
        connection.execute(script)
        connection.execute(f"PRAGMA user_version = {number}")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("INSERT INTO store (id, created) VALUES (?, ?)", (os.urandom(16), 0))
    connection.close()
    path.chmod(0o600)


def test_a_dictionary_is_made_anew_where_bodies_have_drifted_and_the_old_one_stays(kind, store, tmp_path, clock):
    digests = []
    for form in ("first", "second"):
        chance = random.Random(form)
        members = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=12)) for _ in range(30)]
        for number in range(100):  # of one event each, where a dictionary helps most
            data = {member: number * place for place, member in enumerate(members)}
            store.create(f"{form}-{number}", events=[NewEvent("my.form", data)])
        clock.advance(seconds=1)
        before = told(store)
        store.compact(older_than=0)
        digests += [each.digest for each in store.storage.dictionaries() if each.kind == "my.form"]
        with open_cold(kind, tmp_path, clock) as fresh:
            assert told(fresh) == before
        clock.advance(seconds=1)
    assert len(set(digests)) == 2
    store.verify().raise_for_faults()


# --- keys ----------------------------------------------------------------------------------------
def test_a_key_of_a_packed_event_gives_the_first_receipt_and_refuses_other_content(store, clock):
    session = store.create("s")
    session.extend([note(number) for number in range(70)], key="batch")
    for number in range(70, 140):
        session.append("my.note", {"n": number}, key=f"k{number}", attachments={"a": bytes([number]) * 20_000})
    fork = session.fork(at=100, id="fork")
    clock.advance(seconds=1)
    store.compact(older_than=0)
    check_keys(session, fork)


def check_keys(session, fork):
    """Repeat and reuse the keys of events whose bodies left their rows."""
    size = session.size()
    again = session.extend([note(number) for number in range(70)], key="batch")
    assert [event.position for event in again] == list(range(70)) and all(event.repeated for event in again)
    for place in (session, fork):
        event = place.append("my.note", {"n": 75}, key="k75", attachments={"a": bytes([75]) * 20_000})
        assert event.repeated and event.position == 75
        with pytest.raises(KeyReusedError):
            place.append("my.note", {"n": 76}, key="k75", attachments={"a": bytes([75]) * 20_000})
    with pytest.raises(KeyReusedError):
        session.extend([note(number + 1) for number in range(70)], key="batch")
    assert session.size() == size
    assert not fork.append("my.note", {"n": 120}, key="k120").repeated, "the fork does not share this one"


@ON_DISK
# --- erasing and deleting ------------------------------------------------------------------------
def test_an_erased_body_leaves_its_block_and_the_disk(store, tmp_path, clock):
    secrets = [os.urandom(300).hex() for _ in range(130)]
    session = store.create("s", events=[NewEvent("note", {"content": secret}) for secret in secrets])
    clock.advance(seconds=1)
    store.compact(older_than=0)
    session.append("note", {"content": "later"})
    clock.advance(seconds=1)
    store.compact(older_than=0)
    before = {(branch, start): content for branch, start, content in stored(tmp_path / "store.db")}
    held = blocks_on_disk(tmp_path / "store.db")
    gone = [0, 5, 63, 64, 100, 129]
    assert session.erase(gone, reason="asked for").positions == tuple(gone)
    assert session.erase(gone, reason="asked for").positions == ()
    after = b"".join(content for _, _, content in stored(tmp_path / "store.db"))
    for position, secret in enumerate(secrets):
        assert (secret.encode() in after) == (position not in gone)
        assert session[position].data == (None if position in gone else {"content": secret})
    assert before
    check_replaced(tmp_path, held)
    store.verify().raise_for_faults()
    session.erase(list(range(131)), reason="all of it")
    assert stored(tmp_path / "store.db") == []
    check_replaced(tmp_path, held)
    store.verify().raise_for_faults()


@ON_DISK
def test_what_several_events_hold_goes_with_the_last_of_them(store, tmp_path, clock):
    attached, text = os.urandom(40_000), os.urandom(20_000).hex()
    session = store.create("s")
    for _ in range(3):
        session.append("note", {"content": text, "n": 1}, attachments={"a": attached, "small": b"s"})
    other = store.create("other")
    other.append("note", {"content": text}, attachments={"another name": attached})
    fork = session.fork(at=2, id="fork")
    clock.advance(seconds=1)
    store.compact(older_than=0)
    session.erase([0, 2], reason="asked for")
    for event in (session[1], fork[1], other[0]):
        assert event.data["content"] == text
        assert event.attachment(event.attachments[0].name) == attached
    assert fork[0].erased and fork[0].data is None
    with pytest.raises(NotFoundError):
        session[0].attachment("a")
    store.verify().raise_for_faults()
    store.delete("other", reason="asked for")
    assert session[1].attachment("a") == attached
    assert attached[5_000:5_100] in on_disk(tmp_path)
    fork.erase([1], reason="asked for")
    assert session[1].erased
    assert text[:200].encode() not in b"".join(content for _, _, content in stored(tmp_path / "store.db"))
    assert attached[5_000:5_100] not in on_disk(tmp_path)
    store.verify().raise_for_faults()


@ON_DISK
def test_a_deleted_session_leaves_no_block(store, tmp_path, clock):
    fill(store)
    secret = os.urandom(2_000).hex()
    gone = store.create("gone", events=[NewEvent("note", {"content": secret[number:]}) for number in range(100)])
    gone.append("agent.message", {"content": "see"}, attachments={"a": os.urandom(40_000)})
    gone.rewind(50)
    gone.extend([note(number) for number in range(70)])
    clock.advance(seconds=1)
    store.compact(older_than=0)
    before = told(store)
    held = blocks_on_disk(tmp_path / "store.db")
    store.delete("gone", reason="asked for")
    assert secret[150:250].encode() not in b"".join(content for _, _, content in stored(tmp_path / "store.db"))
    check_replaced(tmp_path, held)
    store.verify().raise_for_faults()
    after = told(store)
    feed = [each for each in before.pop("feed") if each in after["feed"]]
    assert after.pop("feed") == feed
    assert after == {name: each for name, each in before.items() if "gone" not in name}


# --- taken elsewhere -----------------------------------------------------------------------------
def test_copies_and_bundles_of_what_was_packed_are_the_same(store, tmp_path, clock):
    fill(store)
    store.session("long").export(tmp_path / "before.everlog")
    clock.advance(seconds=1)
    before = told(store)
    store.compact(older_than=0)
    store.session("long").export(tmp_path / "after.everlog")
    assert (tmp_path / "after.everlog").read_bytes() == (tmp_path / "before.everlog").read_bytes()
    with everlog.open("memory:") as target:
        store.copy(target)
        target.verify().raise_for_faults()
        assert without_feed(told(target)) == without_feed(before)
    (tmp_path / "to").mkdir()
    with open_cold("sqlite", tmp_path / "to", clock) as target:
        target.import_bundle(tmp_path / "before.everlog")
        clock.advance(seconds=1)
        target.compact(older_than=0)
        store.session("long").append("note", {"content": "later"})
        store.copy(target)
        clock.advance(seconds=1)
        target.compact(older_than=0)
        assert without_feed(told(target)) == without_feed(told(store))
        target.verify().raise_for_faults()


def without_feed(found):
    """Everything but the order of the feed, which is each store's own."""
    return {name: each for name, each in found.items() if name != "feed"}


# --- beside others -------------------------------------------------------------------------------
APPENDING = """
import sys
import everlog
path, name, count = sys.argv[1:]
with everlog.open(path) as store:
    session = store.session(name)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(count)):
        session.append("note", {"content": f"beside {number}"}, key=f"beside-{number}")
        if number % 5 == 0:
            session.erase([number], reason="asked for")
print("done", flush=True)
"""
COMPACTING = """
import sys
import everlog
with everlog.open(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(sys.argv[2])):
        store.compact(older_than=0)
print("done", flush=True)
"""


def test_processes_that_pack_append_and_erase_at_once_agree(tmp_path):
    path = tmp_path / "store.db"
    with everlog.open(path) as store:
        for name in ("one", "two"):
            store.create(name, events=[note(number, size=500) for number in range(1_500)])
    beside = [run_python(APPENDING, path, name, 60) for name in ("one", "two")]
    beside += [run_python(COMPACTING, path, 6) for _ in range(2)]
    for process in beside:
        assert process.stdout.readline() == "ready\n"
    for process in beside:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in beside:
        said, _ = process.communicate(timeout=DEADLINE_SECONDS)
        assert (process.returncode, said) == (0, "done\n")
    with everlog.open(path) as store:
        store.verify().raise_for_faults()
        for name in ("one", "two"):
            session = store.session(name)
            assert session.size() == 1_560
            for event in session:
                assert event.erased == (event.position < 60 and event.position % 5 == 0)
                if not event.erased:
                    beside = event.position - 1_500
                    content = note(event.position).data["content"] if beside < 0 else f"beside {beside}"
                    assert event.data["content"] == content
        before = told(store)
        store.compact(older_than=0)
        assert told(store) == before


# --- the async face ------------------------------------------------------------------------------
def test_the_async_face_packs_and_reads_alike(tmp_path):
    async def act():
        async with await everlog.open_async(tmp_path / "store.db") as store:
            session = await store.create("s", events=[note(number, key=f"k{number}") for number in range(200)])
            await session.append("note", {"content": "x"}, attachments={"a": b"a" * 20_000})
            seen = []
            would = await store.compact(older_than=0, dry_run=True)
            done = await store.compact(older_than=0, progress=seen.append)
            assert (would.bodies, done.bodies, done.attachments, seen) == (201, 201, 1, [201])
            again = await session.append(note(7).type, note(7).data, key="k7")
            assert again.repeated and again.position == 7
            assert (await session.erase([8], reason="asked for")).positions == (8,)
            events = [event async for event in session.events()]
            assert [event.data["n"] for event in events[:200] if not event.erased] == [n for n in range(200) if n != 8]
            assert (await session.verify()).ok
            assert (await store.stats()).sizes.hot == 0

    asyncio.run(act())
