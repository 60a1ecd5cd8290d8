"""One open write transaction on the SQLite file: what `carry_out` needs, with events of the whole group written at once.

1. Tips are read once and kept; events and tips are written together when the group is done, or before a read that must
   see them.
2. Whatever is written here is inside BEGIN IMMEDIATE and the process's turn; the store commits or rolls back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import NoneType
from typing import Any

import apsw
import msgspec

from everlog.cold import AwayError, ColdRequest
from everlog.core import limits
from everlog.core.decide import EventRow, Recorded, RecordedEvents, Tip, damaged_event, damaged_in
from everlog.core.event import PreparedAttachment
from everlog.core.lease import LeaseRow, Ticks
from everlog.core.ledger import EraseRecord, LedgerRecord, encode_record
from everlog.core.lineage import Lineage, flatten
from everlog.core.merkle import split_digests
from everlog.core.snapshot import Snapshot
from everlog.core.trigrams import indexed_text
from everlog.encrypted import EncryptionRequest, ForgetKey, SealBodies, TakeKey
from everlog.errors import EverlogError, NotFoundError
from everlog.sealed import SealRequest
from everlog.storage import BranchRow, Create, Request, SessionRow
from everlog.stores.blocks import BlockCache
from everlog.stores.rows import branch_row, session_row, tip_of_branch
from everlog.stores.sealed_bodies import Attached
from everlog.stores.sqlite.cold import ColdWriter, bodies
from everlog.stores.sqlite.damage import checksum_of
from everlog.stores.sqlite.encryption import EncryptionWriter
from everlog.stores.sqlite.index import Removed
from everlog.stores.sqlite.ledger import carry_out_seal
from everlog.stores.sqlite.run import Row, fetch_all, fetch_each, fetch_one, fetch_row, run, run_many
from everlog.stores.sqlite.snapshots import drop_snapshots, put_snapshots
from everlog.stores.transact import NewBranch

TIPS_KEPT = 1_000  # of branches that this process wrote to lately

_decode_labels = msgspec.json.Decoder(dict[str, str]).decode


class Tips:
    """Tips kept from one transaction to the next, good as long as nobody else has written to the file."""

    def __init__(self) -> None:
        self.by_branch: dict[int, Tip] = {}
        self.by_session: dict[str, Tip] = {}  # of the current branch, by the session's id
        self.lineages: dict[int, Lineage] = {}  # by branch; a branch and its chain of bases stay as they were made
        self.leases: dict[str, LeaseRow | None] = {}  # by the session's id
        self.wrapping: bytes | None = None  # id of the key that data keys are wrapped with
        self._seen: tuple[apsw.Connection | None, int] = (None, -1)  # versions of two connections say nothing together

    def keep(self, connection: apsw.Connection) -> None:
        """Take note of the file's version, right after a commit that the tips are of."""
        self._seen = (connection, connection.data_version())

    def renew(self, connection: apsw.Connection) -> None:
        """Forget all where anything else was written since. Call inside the transaction, which sees what others committed."""
        if (
            self._seen != (connection, connection.data_version())
            or len(self.by_branch) > TIPS_KEPT
            or len(self.lineages) > TIPS_KEPT
            or len(self.leases) > TIPS_KEPT
        ):
            self.forget()
            self.wrapping = read_current_key(connection)

    def forget(self) -> None:
        """Forget all: after a rollback they are ahead of the file."""
        self.by_branch.clear()
        self.by_session.clear()
        self.lineages.clear()
        self.leases.clear()
        self._seen = (None, -1)


class SqliteTransaction:
    """Implements everlog.stores.transact.Transaction."""

    def __init__(
        self,
        connection: apsw.Connection,
        tips: Tips,
        blocks: BlockCache,
        *,
        now: int,
        ticks: Callable[[], Ticks],
    ) -> None:
        self.now = now
        self.ticks = ticks
        self.traces = False  # whether something was destroyed whose bytes are to leave the file and the WAL afterwards
        self.took_key = False  # whether what is beside the store in plain text is to go
        self.erasures_raised = 0
        self.removed: list[Removed] = []  # what an index beside the store is to lose once this is committed
        self._room = limits.GROUP_BYTES_MAX  # for the words of it
        self._connection = connection
        self._blocks = blocks
        self._kept = tips
        self._tips = tips.by_branch
        self._current = tips.by_session
        self._lineages = tips.lineages
        self._leases = tips.leases
        self._rows: list[Row] = []
        self._data_keys: list[Row] = []
        self._grown: dict[int, Tip] = {}
        self._pending_keys: set[tuple[int, str]] = set()
        self.changed = False

    def admit(self, request: Request) -> Request:
        """Give a request as it is to be carried out, or refuse it: see `Sealing.admit`."""
        return self._blocks.sealing.admit(request, self._kept.wrapping)

    # --- reading ---
    def tip(self, session_id: str) -> Tip:
        tip = self._current.get(session_id)
        if tip is not None:
            return tip
        row = fetch_one(self._connection, "read_tip", {"id": bytes.fromhex(session_id)})
        if row is None:
            raise _no_session(session_id)
        session, name, branch, branch_id, writer, size, peaks, leaf, recorded, key_salt = row
        tip = self._tips.get(branch)
        if tip is None:
            tip = Tip(
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
            self._tips[branch] = tip
        self._current[session_id] = tip
        return tip

    def tip_of(self, session: SessionRow, branch: int) -> Tip:
        tip = self._tips.get(branch)
        if tip is None:
            tip = self._tips[branch] = tip_of_branch(session, read_branch(self._connection, branch))
        return tip

    def lease(self, session_id: str) -> LeaseRow | None:
        try:
            return self._leases[session_id]
        except KeyError:
            lease = self._leases[session_id] = read_lease(self._connection, session_id)
            return lease

    def set_lease(self, session_id: str, lease: LeaseRow) -> None:
        self.changed = True
        session = self.session(session_id).key
        columns = {name: getattr(lease, name) for name in lease.__struct_fields__}
        run(
            self._connection,
            "set_lease",
            {"session": session, **columns, "checksum": checksum_of((session, *columns.values()))},
        )
        self._leases[session_id] = lease

    def session(self, session_id: str) -> SessionRow:
        row = fetch_one(self._connection, "read_session_by_id", {"id": bytes.fromhex(session_id)})
        if row is None:
            raise _no_session(session_id)
        return session_row(row)

    def session_of(self, branch: int) -> SessionRow:
        row = fetch_one(self._connection, "read_session_of", {"branch": branch})
        if row is None:
            raise NotFoundError("the session that owned this branch was deleted; nothing was written")
        return session_row(row)

    def branches(self, session: int) -> list[BranchRow]:
        self.flush()
        return read_branches(self._connection, session)

    def name_taken(self, name: str) -> bool:
        return fetch_one(self._connection, "read_name", {"name": name}) is not None

    def recorded(self, branch: int | None, size: int, keys: Sequence[str]) -> Recorded:
        if branch is None:
            return {}
        lineage = self._lineages.get(branch)
        if lineage is None:
            lineage = self._lineages[branch] = read_lineage(self._connection, branch, "")
        segments = lineage.clip(0, size)
        if any((segment.branch, key) in self._pending_keys for segment in segments for key in keys):
            self.flush()
        found: dict[str, RecordedEvents] = {}
        for key in keys:
            for segment in reversed(segments):
                row = fetch_one(
                    self._connection,
                    "read_keyed",
                    {"branch": segment.branch, "key": key, "start": segment.start, "stop": segment.stop},
                )
                if row is not None:
                    position, count = row
                    if type(count) not in (int, NoneType):
                        what = "its key_count cannot be what was written"
                        raise damaged_event(self.session_of(branch).name, position, what)
                    covered = min(position + (count or 1), segment.stop)  # a cut may lie within the append
                    rows = self._own_rows(segment.branch, position, covered)
                    found[key] = RecordedEvents(segment.writer, rows)
                    break
        return found

    def _own_rows(self, branch: int, start: int, stop: int) -> list[EventRow]:
        """Read whole rows of one branch's own events; ends after the row whose body passes APPEND_BYTES_MAX in all."""
        found = bodies(self._connection, self._blocks)
        rows: list[EventRow] = []
        held = 0
        for columns in fetch_each(self._connection, "read_rows", {"branch": branch, "start": start, "stop": stop}):
            row = EventRow(*columns)
            column = damaged_in(row)
            if column is not None:
                what = f"its {column} cannot be what was written"
                raise damaged_event(self.session_of(branch).name, row.position, what)
            rows.append(found.whole(branch, row))
            held += len(rows[-1].body or b"")
            if held > limits.APPEND_BYTES_MAX:
                break
        return rows

    def living_forks(self, session: int) -> list[SessionRow]:
        return read_forks(self._connection, session)

    # --- writing ---
    def insert_session(self, create: Create) -> int:
        self.changed = True
        family = fetch_one(self._connection, "read_family", {"id": bytes.fromhex(create.family.id)})
        if family is None:
            family = fetch_row(
                self._connection,
                "insert_family",
                {"id": bytes.fromhex(create.family.id), "key_salt": create.family.key_salt},
            )
        inserted = fetch_row(
            self._connection,
            "insert_session",
            {
                "id": bytes.fromhex(create.session_id),
                "family": family[0],
                "name": create.name,
                "title": create.title,
                "labels": msgspec.json.encode(create.labels).decode(),
                "metadata": create.metadata,
                "parent": create.parent,
                "salt": create.salt,
                "created": self.now,
            },
        )
        session: int = inserted[0]
        self._insert_labels(session, create.labels)
        return session

    def insert_branch(self, session: int, branch: NewBranch) -> int:
        self.changed = True
        tip = branch.tip
        row = fetch_row(
            self._connection,
            "insert_branch",
            {
                "id": bytes.fromhex(branch.id),
                "session": session,
                "writer": bytes.fromhex(branch.writer),
                "base": branch.base,
                "base_size": branch.base_size,
                "size": tip.size,
                "recorded": tip.recorded,
                "leaf": tip.leaf,
                "peaks": b"".join(tip.peaks),
                "created": self.now,
            },
        )
        key: int = row[0]
        checksum = checksum_of(fetch_row(self._connection, "read_branch_sum", {"branch": key}))
        run(self._connection, "set_branch_checksum", {"branch": key, "checksum": checksum})
        tip.session, tip.branch = session, key
        self._tips[key] = tip
        return key

    def set_current(self, session: int, branch: int) -> None:
        self.changed = True
        run(self._connection, "set_current", {"session": session, "branch": branch})
        self._sum_session(session)
        tip = self._tips[branch]
        self._current[tip.session_id] = tip

    def set_names(self, session: int, title: str | None, labels: dict[str, str], metadata: bytes | None) -> None:
        self.changed = True
        self._delete_labels(session)
        run(
            self._connection,
            "set_names",
            {
                "session": session,
                "title": title,
                "labels": msgspec.json.encode(labels).decode(),
                "metadata": metadata,
            },
        )
        self._insert_labels(session, labels)
        self._sum_session(session)

    def insert_events(
        self, tip: Tip, rows: Sequence[EventRow], attachments: Sequence[tuple[int, Sequence[PreparedAttachment]]]
    ) -> None:
        self.changed = True
        branch = tip.branch
        if self._kept.wrapping is not None:
            rows, attachments = self._sealed(branch, rows, attachments, self._kept.wrapping)
        for row in rows:
            self._rows.append((branch, *msgspec.structs.astuple(row)))
            if row.key is not None:
                self._pending_keys.add((branch, row.key))
        self._grown[branch] = tip
        for position, own in attachments:
            self._insert_attachments(branch, position, own)

    def _sealed(
        self, branch: int, rows: Sequence[EventRow], attachments: Attached, wrapping: bytes
    ) -> tuple[Sequence[EventRow], Attached]:
        """Give rows and attachments as they are written where the store encrypts; their keys are kept back with them."""
        sealed, keys = self._blocks.sealing.seal_all(rows, attachments, wrapping)
        self._data_keys.extend((branch, position, key.wrapping, key.wrapped) for position, key in keys)
        return sealed

    def erase(self, branch: int, positions: Sequence[int]) -> list[tuple[int, bytes]]:
        self.flush()
        lineage = read_lineage(self._connection, branch, "")
        cold = ColdWriter(self._connection, self._blocks, now=self.now)
        erasing: list[tuple[bytes, dict[str, Any]]] = []
        for position in sorted(set(positions)):  # all is read, maybe from object storage, before anything is written
            at: dict[str, Any] = {"branch": lineage.owner(position).branch, "position": position}
            row = fetch_one(self._connection, "read_leaf", at)
            leaf, _, _, gone, commitments = row or (None, None, None, None, None)
            if type(leaf) is not bytes or not (commitments is None or type(commitments) is bytes):
                what = "its leaf and commitments, which stay when its body goes, are not what was written"
                raise damaged_event(self.session_of(branch).name, position, what)
            if gone is None or type(gone) is not int:
                at["commitments"] = cold.commitments(at["branch"], position, commitments)
                erasing.append((leaf, at))
        self._leave_traces()  # also where nothing is left to erase: what was erased before may still stand in the WAL
        if self._kept.wrapping is not None:
            self._room = 0  # there is no index
        owned: dict[int, list[int]] = {}
        for _, row in erasing:
            own = (row["branch"], row["position"], row["position"] + 1)
            self.removed += read_removed(self._connection, self._blocks, *own, room=self._room)
            self._room -= len(self.removed[-1].text or "")
            at = {"branch": row["branch"], "position": row["position"]}
            run(self._connection, "erase_event", row)
            run(self._connection, "erase_attachments", at)
            run(self._connection, "destroy_data_keys", {**at, "start": at["position"], "stop": at["position"] + 1})
            run(self._connection, "erase_snapshots", at)
            owned.setdefault(row["branch"], []).append(row["position"])
        for owner, own in owned.items():
            cold.erase(owner, own)
        if erasing:
            self.changed = True
            self._raise_erasures()
        return [(row["position"], leaf) for leaf, row in erasing]

    def end_session(self, session: int) -> None:
        self.flush()
        self.changed = True
        self._leave_traces()
        self._delete_labels(session)
        run(self._connection, "end_session", {"session": session, "deleted": self.now})
        self._sum_session(session)
        run(self._connection, "begin_sweep", {"session": session})
        run(self._connection, "end_snapshots", {"session": session})
        run(self._connection, "end_lease", {"session": session})
        self._leases.clear()
        self._raise_erasures()
        for session_id in [id_ for id_, tip in self._current.items() if tip.session == session]:
            del self._current[session_id]

    def _raise_erasures(self) -> None:
        self.erasures_raised += 1
        run(self._connection, "raise_erasures")

    def _sum_session(self, session: int) -> None:
        checksum = checksum_of(fetch_row(self._connection, "read_session_sum", {"session": session}))
        run(self._connection, "set_session_checksum", {"session": session, "checksum": checksum})

    def insert_ledger(self, record: LedgerRecord, reason: str | None = None) -> None:
        row = fetch_row(self._connection, "insert_ledger", {"record": encode_record(record), "reason": reason})
        if isinstance(record, EraseRecord):
            entry: int = row[0]
            run_many(
                self._connection,
                "insert_erasure",
                [{"leaf": bytes.fromhex(leaf), "entry": entry} for _, leaf in record.events],
            )

    # --- snapshots ---
    def erasures(self, branch: int) -> int:  # noqa: ARG002  # one number for all branches
        return fetch_row(self._connection, "read_erasures")[0]

    def put_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        self.changed = True
        put_snapshots(self._connection, snapshots)

    def drop_snapshots(self, branches: Sequence[int] | None, reducer: str | None) -> int:
        self.changed = True
        return drop_snapshots(self._connection, branches, reducer)

    # --- cold bodies ---
    def cold(self, request: ColdRequest) -> int:
        self.flush()
        self.changed = True
        if not isinstance(request, EncryptionRequest):
            return ColdWriter(self._connection, self._blocks, now=self.now).carry_out(request, self.erasures(0))
        done = EncryptionWriter(self._connection, self._blocks, now=self.now).carry_out(request, self._kept.wrapping)
        if isinstance(request, TakeKey | SealBodies | ForgetKey) and done:  # plain text, old keys may stand in the WAL
            run(self._connection, "set_traces", {"traces": 1})
            self.traces = self.traces or not isinstance(request, SealBodies)  # whoever seals pays once, at the end
            self._raise_erasures()
            self._kept.wrapping = read_current_key(self._connection)
            self.took_key = self.took_key or isinstance(request, TakeKey)
        return done

    def seal(self, request: SealRequest) -> int:
        self.changed = True
        return carry_out_seal(self._connection, request, self.now)

    def _leave_traces(self) -> None:
        """Note, in the same transaction, what is owed after it: whoever opens the store next pays it, if this process dies."""
        self.traces = True
        run(self._connection, "set_traces", {"traces": 1})

    def flush(self) -> None:
        """Write the events and tips that are kept back."""
        if self._rows:
            run_many(self._connection, "insert_event", self._rows)
            self._rows.clear()
            self._pending_keys.clear()
        if self._data_keys:
            run_many(self._connection, "insert_data_key", self._data_keys)
            self._data_keys.clear()
        if self._grown:
            run_many(
                self._connection,
                "set_tip",
                [
                    (tip.size, tip.recorded, tip.leaf, b"".join(tip.peaks), branch)
                    for branch, tip in self._grown.items()
                ],
            )
            self._grown.clear()

    def _insert_attachments(self, branch: int, position: int, own: Iterable[PreparedAttachment]) -> None:
        run_many(
            self._connection,
            "insert_attachment",
            [
                {
                    "branch": branch,
                    "position": position,
                    "number": number,
                    "name": item.name,
                    "size": item.size,
                    "salt": item.salt,
                    "content": item.content,
                }
                for number, item in enumerate(own)
            ],
        )

    def _insert_labels(self, session: int, labels: dict[str, str]) -> None:
        run_many(
            self._connection,
            "insert_label",
            [{"name": name, "value": value, "session": session} for name, value in labels.items()],
        )

    def _delete_labels(self, session: int) -> None:
        row = fetch_row(self._connection, "read_labels", {"session": session})
        labels = _decode_labels(row[0])
        run_many(
            self._connection,
            "delete_labels",
            [{"name": name, "value": value, "session": session} for name, value in labels.items()],
        )


def read_removed(
    connection: apsw.Connection, blocks: BlockCache, branch: int, start: int, stop: int, *, room: int
) -> list[Removed]:
    """Give what an index is to lose of a branch's own events in [start, stop), before they are destroyed.

    room: characters of their words, past which they are not kept: the index then loses all.
    """
    found = bodies(connection, blocks)
    removed: list[Removed] = []
    for feed, position, gone, leaf, body in fetch_each(
        connection, "read_removed", {"branch": branch, "start": start, "stop": stop}
    ):
        text = "" if gone is not None else None
        if gone is None and room > 0:
            with suppress(AwayError, EverlogError):  # to destroy a body, it need not be read
                raw = found.body(branch, position, body, gone, leaf)
                if raw is None or type(raw) is bytes:  # else it is damaged, and nobody knows what the index has of it
                    text = indexed_text(raw, gone) or ""
                    room -= len(text)
        removed.append(Removed(feed, text))
    return removed


def read_current_key(connection: apsw.Connection) -> bytes | None:
    """Read the id of the key that data keys are wrapped with; None where the store does not encrypt."""
    row = fetch_one(connection, "read_current_key")
    return None if row is None else row[0]


def read_lease(connection: apsw.Connection, session_id: str) -> LeaseRow | None:
    """Read the last lease of a living session."""
    row = fetch_one(connection, "read_lease", {"id": bytes.fromhex(session_id)})
    return None if row is None else LeaseRow(*row)


def read_branch(connection: apsw.Connection, branch: int) -> BranchRow | None:
    """Read a branch by its key."""
    row = fetch_one(connection, "read_branch", {"branch": branch})
    return None if row is None else branch_row(row)


def read_branches(connection: apsw.Connection, session: int) -> list[BranchRow]:
    """Read a session's branches by number."""
    return [branch_row(row) for row in fetch_each(connection, "read_branches", {"session": session})]


def read_forks(connection: apsw.Connection, session: int) -> list[SessionRow]:
    """Read the other living sessions that share events owned by a session's branches."""
    return [session_row(row) for row in fetch_each(connection, "read_forks", {"session": session})]


def read_lineage(connection: apsw.Connection, branch: int, session: str) -> Lineage:
    """Flatten a branch's chain of bases."""
    chain = fetch_all(connection, "read_chain", {"branch": branch})
    if not chain:
        raise NotFoundError("there is no such branch in this store")
    segments = flatten([(key, writer.hex(), base_size) for key, _, writer, base_size in chain])
    return Lineage(branch, chain[0][1].hex(), session, segments)


def _no_session(session_id: str) -> NotFoundError:
    return NotFoundError(
        f"session {session_id} is not in this store any more: it was deleted; nothing was written; create another"
    )
