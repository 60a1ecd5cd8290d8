"""Archiving: blocks go to object storage when they are safely there, are read from there, come home, and are erased there too."""

import asyncio
import os

import pytest

import everlog
from everlog import NewEvent
from everlog.errors import CorruptionError, KeyReusedError, UnavailableError, UnsupportedStoreError
from services.cold import (
    ON_DISK,
    blocks_on_disk,
    check_replaced,
    fill,
    large,
    note,
    objects_in,
    on_disk,
    open_cold,
    stored,
    told,
)


@pytest.fixture
def folder(tmp_path):
    """Where objects lie. It is not there before the first of them."""
    return tmp_path / "archive" / "of ä store #1"


def archive(store, folder, clock, **options):
    """Pack all and move it away."""
    clock.advance(seconds=1)
    store.compact(older_than=0)
    return store.archive(folder, older_than=0, **options)


def test_no_answer_changes_where_bodies_are_archived_and_brought_home(kind, store, tmp_path, folder, clock):
    fill(store)
    before = told(store)
    done = archive(store, folder, clock)
    assert done.blocks > 25 and done.objects >= 1
    sizes = store.stats().sizes
    assert (sizes.packed, sizes.shared, sizes.hot) == (0, 0, 0) or sizes.hot < 100
    assert sizes.archived == done.bytes == sum(path.stat().st_size for path in folder.rglob("*.blocks"))
    with open_cold(kind, tmp_path, clock) as fresh:  # without what the other has at hand
        assert told(fresh) == before
    with open_cold(kind, tmp_path, clock, read_only=True) as fresh:
        fresh.verify().raise_for_faults()
    home = store.restore()
    assert (home.blocks, home.objects, home.removed) == (done.blocks, done.objects, done.objects)
    assert objects_in(folder) == []
    assert told(store) == before
    store.verify().raise_for_faults()
    assert store.stats().sizes.archived == store.stats().sizes.objects == 0


def test_other_faces_of_an_archived_session_are_what_they_were(kind, store, tmp_path, folder, clock):
    session = store.create("s", events=[note(number) for number in range(150)])
    session.append("user.message", {"content": "a needle in it"})
    session.append("state.set", {"path": "/plan", "value": {"next": "test"}})
    session.checkpoint("here")

    def asked(session, store):
        context = session.context(budget=2_000)
        return (
            context.messages,
            [hit.event.id for hit in store.search("needle").hits],
            session.state("document").value,
            session.state("messages", at=75).hash,
            [event.id for event in session.events("data.n:70 type:note")],
            session.event("here").id,
            session.bisect(lambda state: "plan" in state, reducer="document"),
            session.why("/plan"),
        )

    before = repr(asked(session, store))
    archive(store, folder, clock)
    with open_cold(kind, tmp_path, clock) as fresh:
        assert repr(asked(fresh.session("s"), fresh)) == before
        assert fresh.storage.snapshots is not None


@ON_DISK
def test_only_what_is_older_and_of_the_session_asked_for_moves(store, folder, clock):
    one = store.create("one", events=[large(number) for number in range(64)])
    store.create("two", events=[note(number) for number in range(64)])
    clock.advance(seconds=86_400 * 100)
    one.extend([large(number) for number in range(64)])
    clock.advance(seconds=86_400)
    store.compact(older_than=0)
    would = store.archive(folder, dry_run=True)
    assert (would.blocks, would.objects, would.dry_run) == (2, 1, True)
    assert not folder.exists(), "a dry run writes nothing"
    assert store.archive(folder, session="one").blocks == 1
    seen = []
    assert store.archive(folder, progress=seen.append).blocks == 1
    assert seen == [1]
    assert store.archive(folder).blocks == 0
    assert store.stats().sizes.blocks == 3
    assert store.restore(session="one").objects == 1
    assert len(objects_in(folder)) == 1


def test_what_a_session_needs_comes_home_with_it(kind, store, tmp_path, folder, clock, monkeypatch):
    monkeypatch.setattr("everlog.archiving.OBJECT_BYTES", 1_000)
    text = os.urandom(15_000).hex()
    session = store.create("s", events=[NewEvent("note", {"content": text})])
    session.append("agent.message", {"content": "see"}, attachments={"a": os.urandom(20_000)})
    fork = session.fork(at=1, id="fork")
    before = [event.to_dict() for event in fork]
    archive(store, folder, clock)
    store.restore(session="s")
    assert objects_in(folder) == []
    archive(store, folder, clock)
    store.restore(session="fork")
    for path in folder.rglob("*.blocks"):
        path.unlink()
    with open_cold(kind, tmp_path, clock) as fresh:
        assert [event.to_dict() for event in fresh.session("fork")] == before


def test_keys_of_archived_events_go_on_working(kind, store, tmp_path, folder, clock):
    session = store.create("s")
    session.extend([note(number, size=20_000) for number in range(70)], key="batch")
    session.append("note", {"content": "x"}, key="k")
    archive(store, folder, clock)
    with open_cold(kind, tmp_path, clock) as fresh:
        session = fresh.session("s")
        again = session.extend([note(number, size=20_000) for number in range(70)], key="batch")
        assert all(event.repeated for event in again)
        assert session.append("note", {"content": "x"}, key="k").repeated
        with pytest.raises(KeyReusedError):
            session.append("note", {"content": "y"}, key="k")


def test_the_async_face_archives_reads_and_repeats_keys_alike(tmp_path, folder):
    async def act():
        async with await everlog.open_async(tmp_path / "store.db") as store:
            session = await store.create("s", events=[large(number, key=f"k{number}") for number in range(100)])
            await store.compact(older_than=0)
            assert (await store.archive(folder, older_than=0, session=session)).blocks == 2
        async with await everlog.open_async(tmp_path / "store.db") as store:
            session = await store.session("s")
            again = [session.append(large(number).type, large(number).data, key=f"k{number}") for number in range(100)]
            assert all(event.repeated for event in await asyncio.gather(*again))
            with pytest.raises(KeyReusedError):
                await session.append("note", {"content": "other"}, key="k7")
        async with await everlog.open_async(tmp_path / "store.db") as store:
            session = await store.session("s")
            assert [event.data["n"] async for event in session.events()] == list(range(100))
            assert (await session.erase([8], reason="asked for")).positions == (8,)
            assert objects_in(folder) == []
            await store.archive(folder, older_than=0)
            assert (await store.restore()).blocks == 2
            assert (await session.verify()).ok
        async with await everlog.open_async(tmp_path / "store.db") as store:
            await store.archive(folder, older_than=0)
        for path in folder.rglob("*.blocks"):
            path.unlink()
        async with await everlog.open_async(tmp_path / "store.db") as store:
            session = await store.session("s")
            with pytest.raises(CorruptionError, match=r"is not at .* any more; nothing was changed"):
                await session.append(large(7).type, large(7).data, key="k7")

    asyncio.run(act())


@ON_DISK
# --- erasing and deleting ------------------------------------------------------------------------
def test_an_erased_body_leaves_the_archive_at_once(store, tmp_path, folder, clock):
    secrets = [os.urandom(300).hex() for _ in range(130)]
    attached = os.urandom(40_000)
    session = store.create("s", events=[NewEvent("note", {"content": secret}) for secret in secrets])
    session.append("agent.message", {"content": "see"}, attachments={"a": attached})
    session.append("agent.message", {"content": "again"}, attachments={"a": attached})
    archive(store, folder, clock)
    held = blocks_on_disk(tmp_path / "store.db")
    gone = [0, 63, 64, 129, 130]
    assert session.erase(gone, reason="asked for").positions == tuple(gone)
    after = b"".join(content for _, _, content in stored(tmp_path / "store.db"))
    for position, secret in enumerate(secrets):
        assert (secret.encode() in after) == (position not in gone)
        assert session[position].data == (None if position in gone else {"content": secret})
    assert session[131].attachment("a") == attached
    assert objects_in(folder) == []
    check_replaced(tmp_path, held)
    session.erase([131], reason="asked for")
    assert attached[5_000:5_100] not in on_disk(tmp_path)
    store.verify().raise_for_faults()


@ON_DISK
def test_a_deleted_sessions_blocks_leave_the_archive(store, tmp_path, folder, clock):
    fill(store)
    attached = os.urandom(40_000)
    secret = os.urandom(200).hex()
    gone = store.create("gone", events=[NewEvent("note", {"content": secret}) for _ in range(100)])
    gone.append("agent.message", {"content": "see"}, attachments={"a": attached})
    archive(store, folder, clock)
    before = told(store)
    store.delete("gone", reason="asked for")
    assert attached[5_000:5_100] not in on_disk(tmp_path)
    assert secret.encode() not in b"".join(content for _, _, content in stored(tmp_path / "store.db"))
    after = told(store)
    feed = after.pop("feed")
    assert feed == [each for each in before.pop("feed") if each in feed]
    assert after == {name: each for name, each in before.items() if "gone" not in name}
    assert objects_in(folder) == [], "all stood in one object, and came home but for what was destroyed"
    store.verify().raise_for_faults()
    store.restore()
    assert objects_in(folder) == []


def test_an_erasure_that_cannot_reach_the_archive_is_kept_and_finished_by_the_next(
    kind, store, folder, tmp_path, clock
):
    session = store.create("s", events=[note(number) for number in range(100)])
    for _ in range(2):
        session.append("agent.message", {"content": "see"}, attachments={"a": os.urandom(20_000)})
    archive(store, folder, clock)
    away = folder.rename(tmp_path / "elsewhere")
    with open_cold(kind, tmp_path, clock) as fresh:
        session = fresh.session("s")
        with pytest.raises(UnavailableError, match="nothing was changed"):
            session.erase([5], reason="asked for")
        with pytest.raises(UnavailableError):
            session.erase([101], reason="its commitments stand in its row")
    away.rename(folder)
    with open_cold(kind, tmp_path, clock) as fresh:
        session = fresh.session("s")
        session.erase([5, 101], reason="asked for")
        assert session[5].erased and session[101].erased
        assert objects_in(folder) == []
        assert session[6].data == note(6).data
        fresh.verify().raise_for_faults()


def test_what_is_erased_while_it_is_being_archived_is_in_no_object(kind, store, tmp_path, folder, clock):
    session = store.create("s", events=[large(number) for number in range(200)])
    clock.advance(seconds=1)
    store.compact(older_than=0)
    put = store.storage.put_object
    with open_cold(kind, tmp_path, clock) as other:

        def erase_meanwhile(row, contents):
            put(row, contents)
            other.session("s").erase([70], reason="between reading its block and taking it out of the store")

        store.storage.put_object = erase_meanwhile
        assert store.archive(folder, older_than=0).blocks == 3, "the fourth is not what was written"
        store.storage.put_object = put
    assert objects_in(folder) == [], "the object held what was erased, and went"
    assert session[70].erased
    store.verify().raise_for_faults()
    assert store.archive(folder, older_than=0).blocks == 4
    with open_cold(kind, tmp_path, clock) as fresh:
        fresh.verify().raise_for_faults()
        assert fresh.session("s")[71].data == large(71).data


def test_two_that_archive_at_once_leave_one_object(kind, store, tmp_path, folder, clock):
    store.create("s", events=[large(number) for number in range(200)])
    clock.advance(seconds=1)
    store.compact(older_than=0)
    before = told(store)
    put = store.storage.put_object
    with open_cold(kind, tmp_path, clock) as other:

        def let_the_other_go_first(row, contents):
            assert other.archive(folder, older_than=0).blocks == 4
            put(row, contents)

        store.storage.put_object = let_the_other_go_first
        assert store.archive(folder, older_than=0).blocks == 0
        store.storage.put_object = put
    assert len(objects_in(folder)) == store.stats().sizes.objects == 1
    with open_cold(kind, tmp_path, clock) as fresh:
        assert told(fresh) == before


# --- copies --------------------------------------------------------------------------------------
def test_copies_and_bundles_of_what_was_archived_are_whole(kind, store, tmp_path, folder, clock):
    fill(store)
    before = told(store)
    store.session("long").export(tmp_path / "before.everlog")
    archive(store, folder, clock)
    with open_cold(kind, tmp_path, clock) as fresh:
        fresh.session("long").export(tmp_path / "after.everlog")
        assert (tmp_path / "after.everlog").read_bytes() == (tmp_path / "before.everlog").read_bytes()
    with open_cold(kind, tmp_path, clock) as fresh, everlog.open("memory:") as target:
        fresh.copy(target)
        target.verify().raise_for_faults()
        found = told(target)
        assert {**found, "feed": None} == {**before, "feed": None}


# --- many objects --------------------------------------------------------------------------------
def test_a_page_that_is_spread_over_more_objects_than_are_kept_is_read(
    kind, store, tmp_path, folder, clock, monkeypatch
):
    monkeypatch.setattr("everlog.archiving.OBJECT_BYTES", 1_000)
    monkeypatch.setattr("everlog.stores.objects.CACHE_BYTES", 8_000)
    monkeypatch.setattr("everlog.stores.blocks.CACHE_BYTES", 8_000)
    sessions = [store.create(f"s{number}") for number in range(70)]
    for turn in range(2):
        for session in sessions:
            session.append("note", {"content": os.urandom(300).hex()}, key=f"turn-{turn}")
    before = told(store)
    done = archive(store, folder, clock)
    assert done.objects > 64
    with open_cold(kind, tmp_path, clock) as fresh:
        assert told(fresh) == before
        assert len(fresh.find("turn-1", limit=100)) == 70


def test_an_attachment_that_is_larger_than_what_is_kept_in_memory_is_read(
    kind, store, tmp_path, folder, clock, monkeypatch
):
    monkeypatch.setattr("everlog.stores.objects.CACHE_BYTES", 30_000)
    monkeypatch.setattr("everlog.stores.blocks.CACHE_BYTES", 30_000)
    content = os.urandom(100_000)
    store.create("s").append("agent.message", {"content": "see"}, attachments={"a": content}, key="k")
    archive(store, folder, clock)
    with open_cold(kind, tmp_path, clock) as fresh:
        session = fresh.session("s")
        assert session[0].attachment("a") == content
        assert session.append("agent.message", {"content": "see"}, attachments={"a": content}, key="k").repeated


# --- folders -------------------------------------------------------------------------------------
def test_what_lies_in_a_folder_is_its_owners_alone(store, folder, clock):
    folder.parent.mkdir(mode=0o755)
    folder.mkdir(mode=0o755)
    store.create("s", events=[note(number) for number in range(100)])
    archive(store, folder, clock)
    for path in folder.rglob("*"):
        assert path.parent.stat().st_mode & 0o077 == 0 or path.stat().st_mode & 0o077 == 0, path


def test_what_the_library_was_writing_when_it_was_killed_goes_with_its_object(store, folder, clock):
    """obstore writes NAME#1, then gives it its name."""
    store.create("s", events=[note(number) for number in range(100)])
    archive(store, folder, clock)
    (path,) = folder.rglob("*.blocks")
    path.with_name(f"{path.name}#1").write_bytes(b"half")
    store.restore()
    assert objects_in(folder) == []


def test_a_folder_that_is_not_there_is_not_made_by_reading(kind, store, tmp_path, folder, clock):
    store.create("s", events=[note(number) for number in range(100)])
    archive(store, folder, clock)
    away = folder.rename(tmp_path / "elsewhere")
    with open_cold(kind, tmp_path, clock) as fresh:
        with pytest.raises(UnavailableError, match=r"is not there; nothing was changed; see that its disk is mounted"):
            fresh.session("s")[0]
        assert not folder.exists()
        away.rename(folder)
        assert fresh.session("s")[0].data == note(0).data


# --- urls ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:hunter2@bucket/prefix",
        "https://me:hunter2@minio/bucket",
        "s3://bucket/prefix?secret=hunter2",
        "s3://bucket#hunter2",
        "gs://",
        "https://bucket/prefix",
        "s3://[bucket",
        "",
    ],
)
def test_a_url_that_is_no_bare_place_is_refused_without_saying_a_password(store, clock, url):
    store.create("s", events=[note(0)])
    clock.advance(seconds=1)
    store.compact(older_than=0)
    with pytest.raises(UnsupportedStoreError, match="nothing was done") as refused:
        store.archive(url, older_than=0)
    assert "hunter2" not in str(refused.value)
    assert store.stats().sizes.objects == 0


def test_a_folder_that_cannot_be_made_is_said_and_leaves_nothing_behind(store, tmp_path, clock):
    (tmp_path / "file").write_text("x")
    store.create("s", events=[note(0)])
    clock.advance(seconds=1)
    store.compact(older_than=0)
    with pytest.raises(UnsupportedStoreError, match="nothing was done"):
        store.archive(tmp_path / "file" / "folder", older_than=0)
    assert store.stats().sizes.objects == 0
    assert store.session("s")[0].data == note(0).data


def test_objects_know_more_than_one_place(kind, store, tmp_path, clock):
    session = store.create("s")
    for place in ("one", "two"):
        session.extend([note(number) for number in range(64)])
        archive(store, tmp_path / place, clock)
    assert all(len(objects_in(tmp_path / place)) == 1 for place in ("one", "two"))
    with open_cold(kind, tmp_path, clock) as fresh:
        assert [event.data["n"] for event in fresh.session("s")] == [*range(64), *range(64)]
    store.restore()
    assert not any(objects_in(tmp_path / place) for place in ("one", "two"))
