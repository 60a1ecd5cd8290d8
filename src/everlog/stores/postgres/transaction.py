"""One write transaction of a bucket: what `carry_out` needs, in two round trips where nothing unusual is asked for.

1. Begin, locks, tips, leases, keys and the clock are asked for together, for the whole group (groups.py). Sessions are locked first, in the
   order of their keys; the bucket's own row behind them, and only by what is about more than one session.
2. What is written is kept back (kept.py) and sent together with COMMIT; before a read that must see it, it is sent with that read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec

from everlog.cold import ColdRequest
from everlog.core import limits
from everlog.core.decide import EventRow, Recorded, RecordedEvents, Tip
from everlog.core.event import PreparedAttachment
from everlog.core.lease import LeaseRow, Ticks
from everlog.core.ledger import EraseRecord, LedgerRecord, encode_record
from everlog.core.lineage import Lineage
from everlog.core.merkle import split_digests
from everlog.core.snapshot import Snapshot
from everlog.encrypted import EncryptionRequest
from everlog.errors import NotFoundError
from everlog.sealed import SealRequest
from everlog.storage import (
    BranchRow,
    Create,
    Request,
    Rewind,
    SessionRow,
    Switch,
    Update,
)
from everlog.stores.blocks import BlockCache
from everlog.stores.postgres.cold import ColdWriter, whole_rows
from everlog.stores.postgres.connections import Connection, Connections
from everlog.stores.postgres.encryption import EncryptionWriter
from everlog.stores.postgres.kept import Kept
from everlog.stores.postgres.ledger import LedgerWriter
from everlog.stores.postgres.locking import keys_of, locked_by, locks
from everlog.stores.postgres.statements import bucket_of, lease_row, lineage_of
from everlog.stores.postgres.wire import Parameters
from everlog.stores.rows import Row, branch_row, session_row, tip_of_branch
from everlog.stores.transact import NewBranch

Query = tuple[str, Parameters]  # its name, and what it is given
Settings = Sequence[Query]  # queries that set what every transaction of a store needs


class Mark(msgspec.Struct, frozen=True):
    """Something that is in the database if, and only if, a transaction was committed."""

    query: str
    parameters: dict[str, Any]


class PostgresTransaction:
    """Implements everlog.stores.transact.Transaction for one bucket."""

    def __init__(
        self, connections: Connections, connection: Connection, bucket: int, kept: Kept, blocks: BlockCache
    ) -> None:
        self.bucket = bucket
        self.now = 0
        self.sweeps = False  # whether events of deleted sessions are to be destroyed afterwards
        self.mark: Mark | None = None
        self.wrote = False
        self._connections = connections
        self._connection = connection
        self._blocks = blocks
        self._kept = kept
        self._ahead: list[tuple[str, dict[str, Any]]] = []
        self._opening: list[tuple[str, Parameters]] = []
        self._tips: dict[int, Tip] = {}
        self._current: dict[str, Tip] = {}
        self._leases: dict[str, LeaseRow | None] = {}
        self._keyed: dict[
            tuple[str, str], tuple[int, int, int]
        ] = {}  # by session and key: branch, position, covered up to
        self._asked: set[tuple[str, str]] = set()  # the keys that were looked up
        self._names: dict[str, bool] = {}  # whether they are taken, of those that were looked up
        self._sessions: dict[str, SessionRow] = {}  # that were read, by id
        self._owners: dict[int, SessionRow] = {}  # of branches
        self._erasures: int | None = None
        self._written_keys: set[tuple[int, str]] = set()  # by this transaction, by branch: `begin` did not see them

    # --- the beginning ---
    def opening(self, requests: Sequence[Request]) -> list[tuple[str, Parameters]]:
        """Give the queries for all that the requests are sure to need, to be sent with BEGIN."""
        ids, branches, heavy = locked_by(requests)
        keyed = keys_of(requests)
        asked = locks(self.bucket, ids, branches, heavy=heavy)
        here = {"bucket": self.bucket}
        packed = [bytes.fromhex(each) for each in ids]
        if ids:
            asked.append(("read_tips", here | {"ids": packed}))
        if keyed:
            owners, keys = [bytes.fromhex(session) for session, _ in keyed], [key for _, key in keyed]
            asked.append(("read_keyed", here | {"ids": list(set(owners)), "owners": owners, "keys": keys}))
        self._asked.update(keyed)
        self._opening, self._ahead = asked, self._ahead_of(requests)
        return [*self._opening, *self._ahead]

    def opened(self, found: Sequence[list[Any]], now: int, ticks: Ticks) -> None:
        """Take the answers to what `opening` asked, and the time."""
        self.now, self._ticks = now, ticks
        rows = {name: rows for (name, _), rows in zip(self._opening, found, strict=False)}
        if "lock_bucket" in rows:
            self._erasures = rows["lock_bucket"][0][0]
        for row in rows.get("read_tips", ()):
            self._note_tip(row)
        for (name, given), answer in zip(self._ahead, found[len(self._opening) :], strict=True):
            self._note_ahead(name, given, answer)
        for id_, key, branch, position, count, stop in rows.get("read_keyed", ()):
            self._keyed[id_.hex(), key] = (branch, position, min(position + (count or 1), stop))

    def _ahead_of(self, requests: Sequence[Request]) -> list[tuple[str, dict[str, Any]]]:
        """Give the queries that new sessions and branches will ask for, so that they need no round trip of their own."""
        asked: dict[tuple[str, Any], dict[str, Any]] = {}
        for request in requests:
            if isinstance(request, Create):
                at = self._connections.bucket_of_name(request.name)
                asked["read_home", request.name] = {"bucket": at, "name": request.name}
                if request.base is not None:
                    asked["read_session_of", request.base.branch] = {
                        "bucket": self.bucket,
                        "branch": request.base.branch,
                    }
            id_ = request.forked_from if isinstance(request, Create) else None
            if isinstance(request, (Rewind, Switch, Update)):
                id_ = request.session_id
            if id_ is not None:
                asked["read_session_in", id_] = {"bucket": self.bucket, "id": bytes.fromhex(id_)}
        return [(name, given) for (name, _), given in asked.items()]

    def _note_ahead(self, name: str, given: dict[str, Any], rows: Sequence[Row]) -> None:
        if name == "read_home":
            self._names[given["name"]] = bool(rows)
        elif rows and name == "read_session_of":
            self._owners[given["branch"]] = session_row(rows[0])
        elif rows:
            self._sessions[given["id"].hex()] = session_row(rows[0])

    def _note_tip(self, row: Row) -> None:
        session, id_, name, branch, branch_id, writer, size, peaks, leaf, recorded, key_salt, *lease = row
        session_id = id_.hex()
        self._leases[session_id] = lease_row(lease)
        if branch not in self._tips:  # a branch has one tip in a transaction, whichever way it was asked for first
            self._tips[branch] = Tip(
                session,
                session_id,
                name,
                branch,
                branch_id.hex(),
                writer.hex(),
                size,
                split_digests(peaks),
                leaf,
                recorded,
                key_salt,
            )
        self._current[session_id] = self._tips[branch]

    # --- reading ---
    def ticks(self) -> Ticks:
        return self._ticks

    def tip(self, session_id: str) -> Tip:
        tip = self._current.get(session_id)
        if tip is None:
            rows = self._fetch("read_tips", {"ids": [bytes.fromhex(session_id)]})
            if not rows:
                raise _no_session(session_id)
            self._note_tip(rows[0])
            tip = self._current[session_id]
        return tip

    def tip_of(self, session: SessionRow, branch: int) -> Tip:
        tip = self._tips.get(branch)
        if tip is None:
            tip = self._tips[branch] = tip_of_branch(session, self._branch(branch))
        return tip

    def _branch(self, branch: int) -> BranchRow | None:
        if bucket_of(branch) != self.bucket:
            return None
        rows = self._fetch("read_branch", {"branch": branch})
        return branch_row(rows[0]) if rows else None

    def lease(self, session_id: str) -> LeaseRow | None:
        if session_id not in self._leases:
            rows = self._fetch("read_lease", {"id": bytes.fromhex(session_id)})
            self._leases[session_id] = lease_row(rows[0]) if rows else None
        return self._leases[session_id]

    def set_lease(self, session_id: str, lease: LeaseRow) -> None:
        columns = {name: getattr(lease, name) for name in lease.__struct_fields__}
        tip = self._current.get(session_id)
        session = self.session(session_id).key if tip is None else tip.session
        self._write("set_lease", {"session": session, **columns})
        self._leases[session_id] = lease

    def session(self, session_id: str) -> SessionRow:
        if session_id in self._sessions:
            return self._sessions[session_id]
        rows = self._fetch("read_session_in", {"id": bytes.fromhex(session_id)})
        if not rows:
            raise _no_session(session_id)
        return session_row(rows[0])

    def session_of(self, branch: int) -> SessionRow:
        if branch in self._owners:
            return self._owners[branch]
        rows = self._fetch("read_session_of", {"branch": branch})
        if not rows:
            raise NotFoundError("the session that owned this branch was deleted; nothing was written")
        return session_row(rows[0])

    def branches(self, session: int) -> list[BranchRow]:
        return [branch_row(row) for row in self._fetch("read_branches", {"session": session})]

    def name_taken(self, name: str) -> bool:
        known = self._names.get(name)
        return (
            known
            if known is not None
            else bool(self._fetch("read_home", {"bucket": self._connections.bucket_of_name(name), "name": name}))
        )

    def recorded(self, branch: int | None, size: int, keys: Sequence[str]) -> Recorded:
        if branch is None:
            return {}
        tip = self._tips.get(branch)
        session_id = "" if tip is None else tip.session_id
        here = tip is not None and tip.size == size and self._current.get(session_id) is tip
        as_begun = self._written_keys.isdisjoint((branch, key) for key in keys)
        if as_begun and here and all((session_id, key) in self._asked for key in keys):
            places = {key: self._keyed[session_id, key] for key in keys if (session_id, key) in self._keyed}
        else:
            rows = self._fetch("read_keyed_below", {"branch": branch, "size": size, "keys": list(keys)})
            places = {
                key: (owner, position, min(position + (count or 1), stop)) for key, owner, position, count, stop in rows
            }
        if not places:
            return {}
        writers = {segment.branch: segment.writer for segment in self._lineage(branch).segments}
        found: dict[str, RecordedEvents] = {}
        for key, (owner, start, stop) in places.items():
            found[key] = RecordedEvents(writers[owner], self._rows_of(owner, start, stop))
        return found

    def _rows_of(self, branch: int, start: int, stop: int) -> list[EventRow]:
        bounds = {"branches": [branch], "starts": [start], "stops": [stop], "bytes": limits.APPEND_BYTES_MAX}
        rows = [EventRow(*row) for row in self._fetch("read_rows", bounds)]
        return whole_rows(self._blocks, self._fetch, rows, lambda _: branch, limits.APPEND_BYTES_MAX, all_or_none=True)

    def _lineage(self, branch: int) -> Lineage:
        return lineage_of(self._fetch("read_chain", {"branch": branch}), "")

    def living_forks(self, session: int) -> list[SessionRow]:
        return [session_row(row) for row in self._fetch("read_forks", {"session": session})]

    def erasures(self, branch: int) -> int:  # noqa: ARG002  # it is in this bucket
        assert self._erasures is not None, "whoever asks has locked the bucket"
        return self._erasures

    # --- writing ---
    def insert_session(self, create: Create) -> int:
        session = self._connections.new_key(self.bucket)
        self._write(
            "insert_session",
            {
                "session": session,
                "id": bytes.fromhex(create.session_id),
                "family": bytes.fromhex(create.family.id),
                "key_salt": create.family.key_salt,
                "name": create.name,
                "title": create.title,
                "labels": msgspec.json.encode(create.labels).decode(),
                "metadata": create.metadata,
                "parent": create.parent,
                "salt": create.salt,
                "created": self.now,
            },
        )
        at = self._connections.bucket_of_name(create.name)
        self._write("insert_name", {"bucket": at, "name": create.name, "home": self.bucket, "session": session})
        self._insert_labels(session, create.labels)
        self._names[create.name] = True
        self._leases[create.session_id] = None  # it is new
        return session

    def insert_branch(self, session: int, branch: NewBranch) -> int:
        tip, key = branch.tip, self._connections.new_key(self.bucket)
        self._write(
            "insert_branch",
            {
                "branch": key,
                "id": bytes.fromhex(branch.id),
                "session": session,
                "writer": bytes.fromhex(branch.writer),
                "base": branch.base,
                "base_size": branch.base_size,
                "created": self.now,
            },
        )
        columns = {"size": tip.size, "recorded": tip.recorded, "leaf": tip.leaf, "peaks": b"".join(tip.peaks)}
        self._write("insert_tip", {"branch": key, **columns})
        tip.session, tip.branch = session, key
        self._tips[key] = tip
        self._note(Mark("has_branch", {"branch": key, "id": bytes.fromhex(branch.id)}))
        return key

    def set_current(self, session: int, branch: int) -> None:
        self._write("set_current", {"session": session, "branch": branch})
        self._forget_sessions()
        tip = self._tips[branch]
        self._current[tip.session_id] = tip
        self._asked = {each for each in self._asked if each[0] != tip.session_id}  # they were of the line that was left

    def set_names(self, session: int, title: str | None, labels: dict[str, str], metadata: bytes | None) -> None:
        shown = {"title": title, "labels": msgspec.json.encode(labels).decode(), "metadata": metadata}
        self._write("delete_labels", {"session": session})
        self._write("set_names", {"session": session, **shown})
        self._forget_sessions()
        self._insert_labels(session, labels)

    def _insert_labels(self, session: int, labels: dict[str, str]) -> None:
        if labels:
            self._write("insert_labels", {"session": session, "names": list(labels), "values": list(labels.values())})

    def insert_events(
        self, tip: Tip, rows: Sequence[EventRow], attachments: Sequence[tuple[int, Sequence[PreparedAttachment]]]
    ) -> None:
        if not rows:
            return
        self.wrote = True
        branch = tip.branch
        wrapping = self._blocks.sealing.current.get(self.bucket)
        if wrapping is not None:
            (rows, attachments), keys = self._blocks.sealing.seal_all(rows, attachments, wrapping)
            self._kept.add_keys(branch, keys)
        else:
            self._kept.add_plain(self.bucket)
        self._written_keys.update((branch, row.key) for row in rows if row.key is not None)
        self._kept.add_events(tip, rows, attachments)
        first = {"branch": branch, "position": rows[0].position, "leaf": rows[0].leaf}
        self._note(Mark("has_event", first))

    def erase(self, branch: int, positions: Sequence[int]) -> list[tuple[int, bytes]]:
        lineage = self._lineage(branch)
        wanted = sorted(set(positions))
        owners = [lineage.owner(position).branch for position in wanted]
        rows = self._fetch("read_leaves", {"branches": owners, "positions": wanted})
        there = sorted((row[0], row[5], row[1]) for row in rows if row[4] is None)
        if not there:
            return []
        places = {"branches": [owner for _, owner, _ in there], "positions": [position for position, _, _ in there]}
        cold, owned = self._cold(), dict[int, list[int]]()
        for position, owner, _ in there:
            owned.setdefault(owner, []).append(position)
        destroying = [cold.erasing(owner, positions) for owner, positions in owned.items()]
        self._write("erase_events", places)
        self._write("erase_attachments", places)
        self._write("erase_data_keys", places)
        self._write("erase_words", places)
        for owner, own in owned.items():
            self._write("erase_snapshots", {"branch": owner, "position": own[0]})  # which are those of all behind it
        for destroy in destroying:
            destroy()
        self._write("raise_erasures", {})
        return [(position, leaf) for position, _, leaf in there]

    def end_session(self, session: int) -> None:
        self.sweeps = True
        rows = self._fetch("read_names", {"session": session})
        name: str = rows[0][0]
        at = self._connections.bucket_of_name(name)
        self._write("drop_name", {"bucket": at, "name": name, "home": self.bucket, "session": session})
        self._write("delete_labels", {"session": session})
        self._write("end_session", {"session": session, "deleted": self.now})
        self._write("begin_sweep", {"session": session})
        self._write("end_snapshots", {"session": session})
        self._write("end_lease", {"session": session})
        self._write("raise_erasures", {})
        self._names.pop(name, None)
        self._forget_sessions()
        self._leases.clear()
        for session_id in [id_ for id_, tip in self._current.items() if tip.session == session]:
            del self._current[session_id]

    def insert_ledger(self, record: LedgerRecord, reason: str | None = None) -> None:
        entry, encoded = self._connections.new_key(self.bucket), encode_record(record)
        self._write("insert_ledger", {"entry": entry, "record": encoded, "reason": reason})
        self._write("insert_pending", {"entry": entry})
        self._note(Mark("has_entry", {"entry": entry, "record": encoded}))
        if isinstance(record, EraseRecord):
            self._write(
                "insert_erasures", {"entry": entry, "leaves": [bytes.fromhex(leaf) for _, leaf in record.events]}
            )

    def put_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        if snapshots and self.bucket not in self._blocks.sealing.current:
            self._kept.add_plain(self.bucket)
        for item in snapshots:
            columns = {name: getattr(item, name) for name in _SNAPSHOT_COLUMNS}
            base = (None, None) if item.base is None else item.base
            self._write("put_snapshot", columns | {"base_branch": base[0], "base_size": base[1]})

    def drop_snapshots(self, branches: Sequence[int] | None, reducer: str | None) -> int:
        chosen = {"branches": None if branches is None else list(branches), "reducer": reducer}
        return len(self._fetch("drop_snapshots", chosen))

    # --- cold bodies ---
    def cold(self, request: ColdRequest) -> int:
        assert self._erasures is not None, "these requests lock the bucket"
        self.wrote = True
        cold = self._cold()
        if not isinstance(request, EncryptionRequest):
            return cold.carry_out(request, self._erasures)
        writer = EncryptionWriter(self._blocks, self._fetch, self._write, cold, now=self.now)
        return writer.carry_out(request, self._blocks.sealing.current.get(self.bucket))

    def _cold(self) -> ColdWriter:
        new_key = partial(self._connections.new_key, self.bucket)
        return ColdWriter(self._blocks, self._fetch, self._write, new_key, now=self.now)

    # --- the ledger's tree ---
    def seal(self, request: SealRequest) -> int:
        return LedgerWriter(self._fetch, self._write, now=self.now).carry_out(request)

    # --- underneath ---
    def _note(self, mark: Mark) -> None:
        if self.mark is None:
            self.mark = Mark(mark.query, {"bucket": self.bucket, **mark.parameters})

    def _forget_sessions(self) -> None:
        """Read sessions anew: what was read of them has changed."""
        self._sessions.clear()
        self._owners.clear()

    def _write(self, query: str, parameters: dict[str, Any]) -> None:
        self.wrote = True
        self._kept.add(query, {"bucket": self.bucket, **parameters})

    def _fetch(self, query: str, parameters: dict[str, Any]) -> list[Any]:
        """Read what must see all that was written so far."""
        asked = (self._connections.statements[query], {"bucket": self.bucket, **parameters})
        return self._connections.together(self._connection, [*self._kept.take(), asked])[-1]


_SNAPSHOT_COLUMNS: Final = (
    "branch",
    "size",
    "reducer",
    "version",
    "fingerprint",
    "depth",
    "plain",
    "notes",
    "taken",
    "content",
    "checksum",
)


def _no_session(session_id: str) -> NotFoundError:
    return NotFoundError(
        f"session {session_id} is not in this store any more: it was deleted; nothing was written; create another"
    )
