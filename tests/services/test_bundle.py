"""Bundles and copies: every hash unchanged, checked before anything is taken, nothing lost where histories part."""

import json
import os
import tarfile

import pytest

import everlog
from bundles import members, rebuild
from databases import address
from everlog import NewEvent, verifier
from everlog.errors import LimitError, NotFoundError, SessionExistsError, TamperedError, UnavailableError
from everlog.transfer import copy_sessions

# Bundles that are refused before any store is asked.
REFUSED_EARLIER = pytest.mark.parametrize("target", ["memory", "sqlite"], indirect=True)


@pytest.fixture
def store(tmp_path):
    with everlog.open(tmp_path / "store.db") as opened:
        yield opened


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def target(request, tmp_path):
    with everlog.open(address(request.param, tmp_path / "target")) as opened:
        yield opened


@pytest.fixture
def session(store):
    made = store.create("s", title="Title", labels={"k": "v"}, metadata={"m": [1, 2]})
    made.extend([NewEvent("note", {"content": f"n{n}"}, key=f"k{n}") for n in range(1200)])
    made.append("agent.message", {"content": "see"}, attachments={"a.bin": b"\x00\x01" * 50}, caused_by=made[3])
    made.rewind(1000, reason="back")
    made.append("note", {"content": "on b2"})
    made.erase([7], reason="asked")
    return made


@pytest.fixture
def bundle(session, tmp_path):
    path = tmp_path / "s.everlog"
    session.export(path)
    return path


def same(one, other):
    assert one.refresh() == other.refresh()
    for mine, theirs in zip(one.branches(), other.branches(), strict=True):
        assert [(event.id, event.hash, event.data, event.key) for event in mine] == [
            (event.id, event.hash, event.data, event.key) for event in theirs
        ]


def test_the_same_session_gives_the_same_bytes(session, bundle, tmp_path):
    session.export(tmp_path / "again.everlog")
    assert bundle.read_bytes() == (tmp_path / "again.everlog").read_bytes()
    assert bundle.stat().st_mode & 0o777 == 0o600


def test_import_gives_the_same_session_and_again_adds_nothing(session, bundle, target):
    first = target.import_bundle(bundle)
    same(session, target.session("s"))
    info, other = session.info(), target.session("s").info()
    assert (info.title, info.labels, info.metadata, info.uuid) == (
        other.title,
        other.labels,
        other.metadata,
        other.uuid,
    )
    assert target.session("s").branch("b1").event(1200).attachment("a.bin") == b"\x00\x01" * 50
    again = target.import_bundle(bundle)
    assert (first.events, again.events, again.known) == (1203, 0, 1203)
    assert target.verify().ok
    assert target.verify().erased == 1


def test_keys_go_on_working_where_a_session_was_taken(bundle, target):
    target.import_bundle(bundle)
    assert target.session("s").append("note", {"content": "n5"}, key="k5").repeated


def test_a_copy_takes_only_what_is_new(store, session, target):
    assert [one.events for one in store.copy(target)] == [1203]
    session.append("note", {"content": "later"})
    assert [one.events for one in store.copy(target)] == [1]
    assert [one.events for one in store.copy(store)] == [0]
    same(session, target.session("s"))
    assert target.verify().ok


def test_a_copy_that_is_stopped_at_any_write_and_made_again_is_the_same(store, session):
    for writes in range(20):
        with everlog.open("memory:") as target:
            write, left = target.storage.write, iter(range(writes))

            def stopped(request, write=write, left=left):
                if next(left, None) is None:
                    raise KeyboardInterrupt
                return write(request)

            target.storage.write = stopped
            try:
                store.copy(target)
            except KeyboardInterrupt:
                target.storage.write = write
                store.copy(target)
            else:
                break
            same(session, target.session("s"))
            assert [branch.current for branch in target.session("s").branches()] == [False, True]
    assert writes > 4


def test_a_copy_follows_to_the_line_that_is_current_unless_this_one_went_on(store, session, target):
    store.copy(target)
    here = target.session("s")
    session.rewind(900, reason="again")
    store.copy(target)
    same(session, here)
    here.switch("b1", reason="mine")
    store.copy(target)
    assert here.refresh() == here.branch("b1").head
    session.switch("b2", reason="theirs")
    store.copy(target)
    assert here.refresh() == here.branch("b1").head


def test_histories_that_parted_are_both_kept(session, bundle, target, tmp_path):
    target.import_bundle(bundle)
    here = target.session("s")
    here.append("note", {"content": "here"})
    session.append("note", {"content": "there"})
    session.append("note", {"content": "there again"})
    session.export(tmp_path / "later.everlog")
    taken = target.import_bundle(tmp_path / "later.everlog")
    assert taken.diverged == ("b3",)
    assert here.last("note").data["content"] == "here"
    assert here.branch("b3").last("note").data["content"] == "there again"
    assert here.branch("b3").writer == here.branch("b2").writer
    assert target.import_bundle(tmp_path / "later.everlog").events == 0
    assert target.verify().ok


def test_histories_that_parted_at_their_first_event_are_both_kept_once(store, target):
    session = store.create("s")
    store.copy(target)
    target.session("s").append("note", {"content": "here"})
    session.append("note", {"content": "there"})
    assert [one.diverged for one in store.copy(target)] == [("b2",)]
    session.append("note", {"content": "there again"})
    assert [(one.events, one.branches) for one in store.copy(target)] == [(1, 0)]
    assert [(one.events, one.branches) for one in store.copy(target)] == [(0, 0)]
    assert [event.data["content"] for event in target.session("s").branch("b2")] == ["there", "there again"]
    assert target.session("s")[-1].data["content"] == "here"
    assert target.verify().ok


def test_histories_that_parted_are_copied_back_and_forth_once(store, session, target):
    store.copy(target)
    target.session("s").append("note", {"content": "here"})
    session.append("note", {"content": "there"})
    assert [(one.events, one.branches) for one in store.copy(target)] == [(1, 1)]
    assert [(one.events, one.branches) for one in target.copy(store)] == [(1, 1)]
    for one, other in ((store, target), (target, store), (store, target)):
        assert [(taken.events, taken.branches) for taken in one.copy(other)] == [(0, 0)]
    assert [len(each.branches()) for each in (session, target.session("s"))] == [3, 3]
    assert store.verify().ok
    assert target.verify().ok


def test_lines_that_parted_twice_each_stand_on_their_own(store, session, target):
    """The branches that parted have one writer and size to begin at, and different events before that."""
    session.append("note", {"content": "common"})
    with everlog.open("memory:") as third:
        store.copy(target)
        store.copy(third)
        for each in (store, target, third):
            each.session("s").append("note", {"content": f"of {id(each)}"})
            each.session("s").append("note", {"content": "second"})
        with everlog.open("memory:") as fourth:
            third.copy(fourth)
            third.session("s").append("note", {"content": "third"})
            fourth.session("s").append("note", {"content": "another third"})
            for one, other in ((third, target), (fourth, third), (store, target), (third, target), (fourth, target)):
                one.copy(other)
                assert other.verify().ok
            for one in (store, third, fourth):
                assert [(taken.events, taken.branches) for taken in one.copy(target)] == [(0, 0)]


def test_a_copy_that_was_stopped_is_as_if_it_had_not_been(store, session, target):
    def stop(_):
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            store.copy(target, progress=stop)
    store.copy(target)
    same(session, target.session("s"))
    assert target.session("s")[-1].data["content"] == "on b2"
    assert target.verify().ok


def test_what_is_current_follows_until_the_copy_goes_on_by_itself(store, session, target):
    store.copy(target)
    session.rewind(500, reason="again")
    store.copy(target)
    same(session, target.session("s"))
    target.session("s").append("note", {"content": "here"})
    session.rewind(400, reason="once more")
    store.copy(target)
    assert target.session("s")[-1].data["content"] == "here"
    assert len(target.session("s").branch("b4")) == 401
    assert target.verify().ok


def test_what_a_session_is_called_follows_until_the_copy_goes_on_by_itself(store, session, target):
    store.copy(target)
    session.update(title="Other", labels={"k": "w"}, metadata=None)
    store.copy(target)
    (info,) = target.sessions("label.k:w")
    assert (info.title, info.labels, info.metadata) == ("Other", {"k": "w"}, {})
    target.session("s").update(title="Mine")
    session.update(title="Yours")
    store.copy(target)
    assert [info.title for info in target.sessions()] == ["Mine"]
    assert target.verify().ok


def test_of_two_copies_at_once_one_is_told_to_go_on_and_not_to_delete(store, session, target):
    def draw(count):  # asked just before the session is made
        if not list(target.sessions()):
            store.copy(target)
        return os.urandom(count)

    with pytest.raises(UnavailableError, match="take it again"):
        copy_sessions(store.storage, target.storage, draw, None)
    assert [one.events for one in store.copy(target)] == [0]
    same(session, target.session("s"))


def test_a_session_that_is_deleted_while_others_are_copied_is_left_out(store, session, target):
    store.create("t").append("note", {"content": "x"})
    store.create("u").append("note", {"content": "x"})
    taken = store.copy(target, progress=lambda _: delete(store, "t"))
    assert [one.session for one in taken] == ["s", "u"]
    assert target.verify().ok


def delete(store, name):
    if name in [info.id for info in store.sessions()]:
        store.delete(name, reason="x")


def test_a_page_of_large_attachments_is_not_taken_at_once(store, target, tmp_path):
    session = store.create("s")
    for number in range(3):
        session.append("note", {"content": "x"}, attachments={"a": bytes([number]) * 9 * 1024 * 1024})
    session.extend([NewEvent("note", {"content": "x"})] * 5)
    taken = []
    store.copy(target, progress=taken.append)
    assert taken == [1, 2, 3, 8]
    assert target.session("s").event(2).attachment("a") == session.event(2).attachment("a")
    assert target.verify().ok


def test_a_line_that_parted_and_was_gone_on_with_here_parts_again(store, session, target):
    store.copy(target)
    here = target.session("s")
    here.append("note", {"content": "here"})
    session.append("note", {"content": "there"})
    assert [one.diverged for one in store.copy(target)] == [("b3",)]
    here.switch("b3", reason="theirs was right")
    session.append("note", {"content": "there again"})
    assert [one.diverged for one in store.copy(target)] == [("b4",)]
    assert [one.events for one in store.copy(target)] == [0]
    assert [event.data["content"] for event in here.branch("b4")[-2:]] == ["there", "there again"]
    assert here.branch().name == "b3"
    assert target.verify().ok


@pytest.mark.parametrize("order", [("s", "f"), ("f", "s")])
def test_a_fork_and_its_parent_may_come_in_either_order(store, session, target, tmp_path, order):
    fork = session.fork(1001, id="f")
    fork.append("note", {"content": "forked"})
    for name in order:
        store.session(name).export(tmp_path / f"{name}.everlog")
        target.import_bundle(tmp_path / f"{name}.everlog")
    for name in order:
        assert target.session(name).head == store.session(name).refresh()
        assert target.import_bundle(tmp_path / f"{name}.everlog").events == 0
    assert target.verify().ok


def test_withheld_bodies_are_withheld_and_not_tampered(session, target, tmp_path):
    session.append("note", {"content": "secret", "private": True}, key="secret-key", attachments={"x": b"secret"})
    session.export(tmp_path / "w.everlog", withhold="data.private:true")
    assert b"secret" not in (tmp_path / "w.everlog").read_bytes()
    target.import_bundle(tmp_path / "w.everlog")
    event = target.session("s")[-1]
    assert (event.withheld, event.erased, event.data, event.key) == (True, False, None, None)
    assert target.session("s").head == session.head
    report = target.verify()
    assert (report.ok, report.withheld) == (True, 1)
    with pytest.raises(NotFoundError):
        event.attachment("x")


@REFUSED_EARLIER
def test_every_changed_member_is_noticed_and_nothing_is_taken(bundle, target):
    content = members(bundle)
    for place, (name, data) in enumerate(content):
        for at in range(0, len(data), max(1, len(data) // 40)):
            changed = bytes([data[at] ^ 0x01])
            changed_to = [*content[:place], (name, data[:at] + changed + data[at + 1 :]), *content[place + 1 :]]
            rebuild(bundle, changed_to, digested=False)
            with pytest.raises(TamperedError):
                target.import_bundle(bundle)
            assert target.sessions() == []


@REFUSED_EARLIER
@pytest.mark.no_cover
def test_every_changed_body_or_header_is_noticed_even_where_the_digest_was_made_anew(bundle, target):
    content = members(bundle)
    for place, (name, data) in enumerate(content):
        if name.endswith((".headers", ".bodies")):
            line = data.splitlines()[0]
            for at in range(0, len(line), 11):
                changed = bytes([line[at] ^ 0x01])
                rebuild(bundle, [*content[:place], (name, data[:at] + changed + data[at + 1 :]), *content[place + 1 :]])
                with pytest.raises(TamperedError):
                    target.import_bundle(bundle)
    assert target.sessions() == []


def test_no_bit_of_a_bundle_can_be_flipped(tmp_path):
    path, changed = tmp_path / "s.everlog", tmp_path / "changed.everlog"
    with everlog.open("memory:") as store, everlog.open("memory:") as target:
        session = store.create("s", events=[NewEvent("note", {"content": "one"}, attachments={"a": b"x"})])
        session.append("note", {"content": "two"}, key="k")
        session.erase([0], reason="asked")
        session.export(path)
        whole = path.read_bytes()
        with tarfile.open(path) as tar:
            hashed = {at for each in tar.getmembers() for at in range(each.offset_data, each.offset_data + each.size)}
        for bit in range(8 * len(whole)):
            if (bit // 8 in hashed or not whole[bit // 8]) and bit // 8 % 8 != bit % 8:
                continue  # what is hashed as a whole, and zeros: one bit of each byte, each time another
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            changed.write_bytes(flipped)
            with pytest.raises(TamperedError):
                target.import_bundle(changed)
        for longer in (whole + b"\x00", whole + bytes(10_240), whole[:-512]):
            changed.write_bytes(longer)
            with pytest.raises(TamperedError):
                target.import_bundle(changed)
        assert target.sessions() == []
        assert target.import_bundle(path).events == 2


@REFUSED_EARLIER
def test_a_bundle_that_is_cut_off_anywhere_is_refused(bundle, target):
    whole = bundle.read_bytes()
    with tarfile.open(bundle) as tar:
        last = tar.getmembers()[-1]
    for size in [0, 1, 511, 512, 513, 1024, *range(2048, last.offset_data, len(whole) // 30), last.offset_data]:
        bundle.write_bytes(whole[:size])
        with pytest.raises(TamperedError):
            target.import_bundle(bundle)
    assert target.sessions() == []


def test_a_body_that_is_gone_without_a_record_is_tampered(bundle, target):
    content = [(name, b"" if name == "ledger.jsonl" else data) for name, data in members(bundle)]
    rebuild(bundle, content)
    with pytest.raises(TamperedError, match="no record"):
        target.import_bundle(bundle)


@REFUSED_EARLIER
@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/abs", "branches/0000/000001.other", "branches/9999/000001.headers", "manifest.json"]
)
def test_members_that_no_bundle_has_are_refused(bundle, target, name):
    content = members(bundle)
    rebuild(bundle, [*content[:-2], (name, b"x"), (name, b"x"), content[-2]])
    with pytest.raises(TamperedError):
        target.import_bundle(bundle)


@REFUSED_EARLIER
def test_a_link_in_a_bundle_is_refused(bundle, target):
    with tarfile.open(bundle, "w") as tar:
        member = tarfile.TarInfo("manifest.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(TamperedError):
        target.import_bundle(bundle)


@REFUSED_EARLIER
@pytest.mark.parametrize(
    "change",
    [
        lambda name, data: b'{"a":' * 100_000 if name == "manifest.json" else data,
        lambda name, data: data.replace(b'{"n":0,', b'{"n":0,"z":' + b"[" * 100_000, 1),
        lambda name, data: b"\n" * 100_000 if name.endswith((".headers", ".bodies")) else data,
        lambda name, data: b"\n" * 100_000 if name == "ledger.jsonl" else data,
    ],
)
def test_what_is_made_to_take_for_ever_is_refused(bundle, target, change):
    rebuild(bundle, [(name, change(name, data)) for name, data in members(bundle)])
    with pytest.raises(TamperedError, match="is not whole"):
        target.import_bundle(bundle)
    report = verifier.verify_bundle(str(bundle))
    assert report.code == 1
    assert len(report.faults) < 3


@REFUSED_EARLIER
def test_a_page_without_an_event_is_refused_and_nothing_is_taken(bundle, target):
    content = members(bundle)
    end = [name for name, _ in content].index("ledger.jsonl")
    last = content[end - 1][0]
    number = int(last[-13:-7]) + 1
    empty = [(f"{last[:-13]}{number:06d}.{kind}", b"") for kind in ("headers", "bodies")]
    rebuild(bundle, [*content[:end], *empty, *content[end:]])
    with pytest.raises(TamperedError, match="has 0 lines"):
        target.import_bundle(bundle)
    assert verifier.verify_bundle(str(bundle)).code == 1


def test_a_branch_that_stands_on_nothing_is_refused(bundle, target):
    content = members(bundle)
    for changes in ({"base": 5}, {"base": 1}, {"base_size": 5000}, {"size": 1}, {"id": "x"}, {"writer": "A" * 32}):
        manifest = json.loads(content[0][1])
        manifest["branches"][1].update(changes)
        rebuild(bundle, [("manifest.json", json.dumps(manifest).encode()), *content[1:]])
        with pytest.raises(TamperedError):
            target.import_bundle(bundle)


def test_another_session_of_the_same_name_is_not_touched(bundle, target):
    target.create("s").append("note", {"content": "mine"})
    with pytest.raises(SessionExistsError, match="another history"):
        target.import_bundle(bundle)
    assert target.session("s").size() == 1


def test_events_from_the_future_are_refused_unless_forced(tmp_path, target):
    import os

    from everlog.session import Settings
    from everlog.store import Store
    from everlog.stores.memory import MemoryStorage

    ahead = MemoryStorage(clock=lambda: target.storage.now() + 6 * 60 * 1_000_000, draw=os.urandom)
    Store(ahead, Settings(os.urandom), url="memory:").create("s").append("note", {"content": "x"})
    Store(ahead, Settings(os.urandom), url="memory:").session("s").export(tmp_path / "ahead.everlog")
    with pytest.raises(LimitError, match="ahead of this store's clock"):
        target.import_bundle(tmp_path / "ahead.everlog")
    assert target.import_bundle(tmp_path / "ahead.everlog", force=True).events == 1


def test_a_session_that_was_deleted_here_can_be_taken_in_again(bundle, target):
    target.import_bundle(bundle)
    target.delete("s", reason="a mistake")
    assert target.import_bundle(bundle).events == 1203
    assert target.session("s").size() == 1002
    assert target.verify().ok
    taken = target.import_bundle(bundle)
    assert (taken.events, taken.branches) == (0, 0)


def test_a_session_that_was_deleted_here_is_taken_in_again_once(store, session, target):
    store.copy(target)
    target.delete("s", reason="over", cascade=True)
    assert [taken.events for taken in store.copy(target)] == [1203]
    session.append("note", {"content": "later"})
    assert [(taken.events, taken.branches) for taken in store.copy(target)] == [(1, 0)]
    assert [(taken.events, taken.branches) for taken in store.copy(target)] == [(0, 0)]
    same(session, target.session("s"))
    assert target.verify().ok


def test_a_bundle_that_is_not_there_is_not_found(target, tmp_path):
    with pytest.raises(NotFoundError):
        target.import_bundle(tmp_path / "none.everlog")
