"""What was erased is found nowhere: hot, packed, archived, attached, kept once, summarized, in snapshots and states; body and salt."""

import os
import subprocess
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import apsw
import psycopg
import pytest

import everlog
from databases import database, open_in, server, url_of
from everlog import NewEvent
from everlog.core.block import Codec, unpack_shared
from everlog.errors import NotFoundError
from everlog.store import Store
from everlog.stores.sqlite.store import open_sqlite
from everlog.testing.clock import FixedClock
from everlog.writer import Settings

DAY = 86_400
SNAPSHOTS = everlog.SnapshotPolicy(events=2, share=1e9)
STORES = pytest.mark.parametrize("kind", ["sqlite", "postgres"])


def secret():
    """A text that stands nowhere by chance, and that no compression takes apart."""
    return os.urandom(24).hex()


def open_kind(kind, folder, clock):
    settings = Settings(os.urandom, snapshots=SNAPSHOTS)
    if kind == "postgres":
        return Store(open_in(folder, clock=clock), settings, url="postgresql:")
    return Store(open_sqlite(folder / "s.db", clock=clock, draw=os.urandom), settings, url="s.db")


def said(texts):
    return [NewEvent("user.message", {"content": f"we must keep {text}. {'and more ' * 40}"}) for text in texts]


class Filled:
    """A store with secrets in every place. texts: of them; salts: of what hides them; going: the positions of their events."""

    def __init__(self, kind, folder):
        self.folder = folder
        self.clock = FixedClock()
        self.store = open_kind(kind, folder, self.clock)
        self.texts = [secret() for _ in range(48)]
        kept_once = secret() * 800
        self.texts.append(kept_once[:48])
        names = [secret(), secret()]
        session = self.store.create("s", events=said(self.texts[:16]))
        session.append("note", {"content": kept_once, "beside": self.texts[16]})
        session.append("note", {"content": kept_once})
        session.append(
            "note",
            {"content": self.texts[17]},
            attachments={names[0]: self.texts[18].encode(), "large.bin": self.texts[19].encode() * 800},
        )
        self._make_cold(folder / "archive")
        session.extend(said(self.texts[20:30]))
        session.append("state.set", {"path": "/secret", "value": self.texts[30]})
        self._make_cold(None)
        session.extend(said(self.texts[31:40]))
        for number in range(40, 46):
            session.append("state.set", {"path": f"/{number}", "value": self.texts[number]})
        session.append("note", {"content": self.texts[46]}, attachments={names[1]: self.texts[47].encode()})
        session.state()
        assert self.store.keeper.wait(20)
        assert session.summarize(leaf_tokens=100)
        assert self.store.keeper.wait(20), "nothing more happens in the background"
        assert self.store.snapshots("s")
        assert len(self.store.search(self.texts[3]).hits) > 1, "the event, and summaries of it; now there is an index"
        self.session, self.going = session, range(session.events("type:summary", limit=1).__next__().position)
        self.salts = list(self._salts())
        self.names = [name.encode() for name in names]

    def _make_cold(self, archive):
        self.clock.advance(seconds=2)
        self.store.compact(older_than=1)
        if archive is not None:
            self.store.archive(archive, older_than=1)

    def _salts(self):
        view = self.session.view()
        start = 0
        while start < view.size:
            for row in self.store.storage.rows(view.lineage, start, view.size):
                if row.position in self.going or row.type == "summary":
                    yield row.salt
                    yield from (each.salt for each in self.store.storage.attachments(view.lineage, row.position))
                start = row.position + 1

    def needles(self):
        """The secrets and salts, raw and in hex."""
        texts = [text.encode() for text in self.texts]
        return [form for raw in (*texts, *self.salts) for form in (raw, raw.hex().encode())]

    def found(self, haystack):
        """How many of the secrets and salts stand in it."""
        return sum(needle in haystack for needle in self.needles())

    def packed(self):
        """What stands in blocks, in the store and in objects, unpacked."""
        storage, pieces = self.store.storage, []
        dictionaries = {each.digest: each.content for each in storage.dictionaries()}
        here = [
            (each, storage.block_content(each))
            for bucket in storage.all_buckets()
            for each in storage.blocks(bucket, -1, 1 << 60, None, 1_000)
        ]
        for row in storage.objects():
            whole = storage.get_object(row)
            here += [(each, whole[each.place : each.place + each.size]) for each in storage.blocks_of(row.id)]
        for block, content in here:
            if block.branch is None:
                pieces.append(unpack_shared(content, block.plain))
            else:
                for entry in Codec(dictionaries.get(block.dictionary)).unpack(content, block.plain):
                    pieces += [entry.salt, *entry.pieces]
        return b"".join(pieces)


@pytest.fixture
def filled(kind, tmp_path):
    made = Filled(kind, tmp_path)
    yield made
    made.store.close()


def on_disk(folder):
    """Every byte of every file below a folder. Read by another process: closing a file here would drop SQLite's locks on it."""
    files = [str(path) for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return subprocess.run(["cat", *files], capture_output=True, check=True).stdout


def by_hand(kind, folder, *statements):
    """Run SQL beside Everlog; give the rows of the last. {s} stands for what a table's name begins with."""
    if kind == "sqlite":
        connection = apsw.Connection(str(folder / "s.db"))
        connection.set_busy_timeout(10_000)  # snapshots are taken in the background
        rows = [list(connection.execute(each.format(s=""))) for each in statements][-1]
        connection.close()
        return rows
    schema = dict(parse_qsl(urlsplit(url_of(folder)).query))["schema"]
    with psycopg.connect(server().url(database(), **server().own), autocommit=True) as connection:
        cursors = [connection.execute(each.format(s=f'"{schema}".')) for each in statements]
        return cursors[-1].fetchall() if cursors[-1].description else []


def everywhere(kind, folder):
    """Every byte of every file and, where the store is on a server, every row of every table, with bytes in hex."""
    found = on_disk(folder)
    if kind == "postgres":
        for (name,) in by_hand(
            kind, folder, "SELECT tablename FROM pg_tables WHERE '\"' || schemaname || '\".' = '{s}'"
        ):
            rows = by_hand(kind, folder, f"SELECT t::text FROM {{s}}{name} AS t")
            found += "\n".join(row for (row,) in rows).encode()
    return found


@STORES
def test_what_was_erased_stands_nowhere_in_the_store(kind, filled):
    before = everywhere(kind, filled.folder)
    assert all(name in before for name in filled.names)
    assert all(salt in before or salt.hex().encode() in before for salt in filled.salts)
    packed = filled.packed()
    assert filled.found(packed) > 40
    plan = filled.session.plan_erasure(list(filled.going))
    assert plan.events == len(filled.going)
    assert min(plan.snapshots, plan.summary_count, plan.object_count, plan.attachments) > 0
    assert (plan.kept_once_goes, plan.kept_once_stays) == (2, 0)
    snapshots = len(filled.store.snapshots())
    certificate = filled.session.erase(list(filled.going), reason="asked for", actor="ada")
    assert filled.store.keeper.wait(20)
    assert len(filled.store.snapshots()) == snapshots - plan.snapshots
    assert filled.store.storage.objects() == []
    after = everywhere(kind, filled.folder)
    assert filled.found(after) == 0
    assert [name for name in filled.names if name in after or name in certificate.encode()] == []
    assert filled.session[18].attachments == ()
    assert filled.found(filled.packed()) == 0
    assert filled.found(certificate.encode()) == 0
    assert filled.store.search(filled.texts[3]).hits == []
    report = filled.store.verify()
    assert report.ok, report.faults
    assert report.erased == len(filled.going) + plan.summary_count
    assert filled.store.check_certificate(certificate).ok


@STORES
def test_what_others_share_stays_and_goes_with_the_last_of_them(kind, filled):
    plan = filled.session.plan_erasure([16])
    assert (plan.kept_once_goes, plan.kept_once_stays) == (0, 1)
    filled.session.erase([16], reason="asked")
    assert filled.texts[-1] in filled.session[17].data["content"]
    assert filled.texts[-1].encode() in filled.packed()
    assert filled.session.plan_erasure([17]).kept_once_goes == 1
    filled.session.erase([17], reason="asked")
    assert filled.texts[-1].encode() not in filled.packed()
    assert filled.store.verify().ok


@STORES
@pytest.mark.parametrize("position", [0, 21, 35], ids=["archived", "packed", "hot"])
def test_a_body_that_is_missing_without_a_record_is_tampered(kind, filled, position):
    filled.session.erase([2, 22, 36], reason="asked")
    report = filled.store.verify()
    assert (report.ok, report.erased >= 3) == (True, True)
    by_hand(
        kind,
        filled.folder,
        f"UPDATE {{s}}event SET gone = 1, body = NULL, salt = NULL WHERE position = {position} AND type = 'user.message'",
    )
    report = filled.store.verify()
    assert not report.ok
    assert [fault.position for fault in report.faults] == [position]
    # Of what is packed in SQLite the commitment left the row: whoever marks it as erased has destroyed that too.
    missing = "the ledger has no record that it was erased", "the row's columns were destroyed"
    assert any(each in report.faults[0].what for each in missing)
    with pytest.raises(NotFoundError, match="was not erased, or nothing is on record"):
        filled.session.certificate([position])


@STORES
@pytest.mark.parametrize("position", [0, 21], ids=["archived", "packed"])
def test_a_block_that_is_missing_is_a_fault_and_its_events_are_not_taken_for_erased(kind, filled, position):
    filled.session.erase([2, 22], reason="asked")
    by_hand(kind, filled.folder, f"DELETE FROM {{s}}block WHERE start <= {position} AND stop > {position}")
    report = filled.store.verify()
    assert not report.ok
    assert report.erased >= 2
