"""Whoever can write the rows of a store, and has not its key: in SQLite's file or PostgreSQL's tables, the same statements."""

import shutil
from abc import ABC, abstractmethod
from pathlib import Path

import apsw
import msgspec
import psycopg

from databases import address
from everlog.core.decide import EventRow, header_of
from everlog.core.header import commit_body, encode_header
from everlog.core.ledger import commit_session
from everlog.core.merkle import leaf_hash, push_leaf, root_of_peaks
from everlog.stores.postgres.opening import read_address
from everlog.stores.sqlite.damage import checksum_of
from everlog.stores.sqlite.run import QUERIES

COLUMNS = EventRow.__struct_fields__


class Attacker(ABC):
    """Reads and changes rows. tips: the table in which a branch's end stands. bucket: a column that what is in it begins with.

    key_salt: gives that of session s's family.
    """

    kind: str
    tips: str
    key_salt: str
    bucket = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._renamed: dict[str, str] = {}  # by an event's leaf as it was: as it is

    @property
    def url(self) -> str:
        return address(self.kind, self.folder / "store")

    @abstractmethod
    def all(self, statement: str, *values: object) -> list[tuple]: ...

    def one(self, statement: str, *values: object) -> object:
        """Give the first column of the one row."""
        ((value, *_),) = self.all(statement, *values)
        return value

    def branch(self, session: str, number: int = 1) -> object:
        return self.one(
            "SELECT b.branch FROM branch AS b JOIN session AS s ON s.session = b.session WHERE s.name = ? AND b.number = ?",
            session,
            number,
        )

    # --- everything that can be recomputed without the key ---
    def make_anew(self) -> None:
        """Make all hashes anew from what the rows say now: of events, their trees, the ledger's records, its tree."""
        lines = self._events_anew()
        self._ledger_anew(lines)

    def _events_anew(self) -> dict[object, tuple[list[bytes], str, str, object, int]]:
        """Give of each branch the leaves of its line, its id, its session's, its base's id and the base's size."""
        found = self.all(
            f"SELECT b.branch, b.id, s.id, b.writer, {self.key_salt}, b.base, b.base_size FROM branch AS b "
            "JOIN session AS s ON s.session = b.session ORDER BY b.branch"
        )
        lines, waiting = {}, list(found)
        while waiting:
            branch, id_, session, writer, key_salt, base, base_size = waiting.pop(0)
            if base is not None and base not in lines:
                waiting.append((branch, id_, session, writer, key_salt, base, base_size))
                continue
            leaves = [] if base is None else lines[base][0][:base_size]
            self._line_anew(branch, bytes(writer).hex(), bytes(key_salt), leaves)
            base_id = None if base is None else lines[base][1]
            lines[branch] = (leaves, bytes(id_).hex(), bytes(session).hex(), base_id, base_size)
        return lines

    def _line_anew(self, branch: object, writer: str, key_salt: bytes, leaves: list[bytes]) -> None:
        """Make a branch's own events anew behind the leaves that it shares, which they are added to."""
        peaks, recorded = [], 0
        for size, leaf in enumerate(leaves):
            push_leaf(peaks, size, leaf)
        found = self.all(f"SELECT {', '.join(COLUMNS)} FROM event WHERE branch = ? ORDER BY position", branch)
        for row in (EventRow(*each) for each in found):
            commitments = (
                row.commitments if row.body is None else commit_body(row.salt, row.body) + row.commitments[32:]
            )
            row = msgspec.structs.replace(row, commitments=commitments)
            header = header_of(row, writer=writer, previous=leaves[-1] if leaves else None, key_salt=key_salt)
            leaf = leaf_hash(encode_header(header))
            nodes = push_leaf(peaks, len(leaves), leaf)
            self.all(
                "UPDATE event SET commitments = ?, leaf = ?, nodes = ? WHERE branch = ? AND position = ?",
                commitments,
                leaf,
                nodes,
                branch,
                row.position,
            )
            self.all("UPDATE erasure SET leaf = ? WHERE leaf = ?", leaf, row.leaf)
            self._renamed[row.leaf.hex()] = leaf.hex()
            leaves.append(leaf)
            recorded = row.recorded
        self.all(
            f"UPDATE {self.tips} SET size = ?, leaf = ?, peaks = ?, recorded = ? WHERE branch = ?",
            len(leaves),
            leaves[-1],
            b"".join(peaks),
            recorded,
            branch,
        )

    def _ledger_anew(self, lines: dict) -> None:
        by_id = {line[1]: line for line in lines.values()}
        called = {
            bytes(id_).hex(): (commit_session(bytes(salt), name, title, msgspec.json.decode(labels)), current)
            for id_, salt, name, title, labels, current in self.all(
                "SELECT id, salt, name, title, labels, current FROM session"
            )
        }
        records = self.all(
            "SELECT p.entry, coalesce(l.record, p.record), p.branch, p.size FROM placed AS p "
            "LEFT JOIN ledger AS l ON l.entry = p.entry ORDER BY p.place"
        )
        self.all("DELETE FROM placed")
        peaks, size = [], 0
        for entry, record, _, _ in records:
            said = self._said_anew(msgspec.json.decode(record), by_id, called, lines)
            if entry is not None and said is None:
                self.all("DELETE FROM ledger WHERE entry = ?", entry)
            if said is None:
                continue
            record = msgspec.json.encode(said, order="sorted")
            if entry is not None:
                self.all("UPDATE ledger SET record = ? WHERE entry = ?", record, entry)
            leaf = leaf_hash(record)
            head = (bytes.fromhex(said["branch"]), said["size"]) if said["kind"] == "head" else (None, None)
            self.place(size, entry, record, *head, leaf, push_leaf(peaks, size, leaf))
            size += 1
        self.set_tree(size, b"".join(peaks))

    def _said_anew(self, said: dict, by_id: dict, called: dict, lines: dict) -> dict | None:
        """Give a record as it would be now; None where it would not be."""
        if said["kind"] == "key":
            return said
        if said["session"] not in called:
            return None
        commitment, current = called[said["session"]]
        if said["kind"] == "session":
            return said | {"commitment": commitment}
        if said["kind"] == "erase":
            return said | {"events": [[at, self._renamed[leaf]] for at, leaf in said["events"]]}
        if said["kind"] == "current":
            if self.one("SELECT number FROM branch WHERE branch = ?", current) == 1:
                return None
            said = said | {"branch": lines[current][1]}
        leaves, _, _, base, base_size = by_id[said["branch"]]
        kept, peaks = leaves[: said["size"]], []
        for size, leaf in enumerate(kept):
            push_leaf(peaks, size, leaf)
        said = said | {"size": len(kept), "root": root_of_peaks(peaks).hex()}
        return said if "base" not in said else said | {"base": base, "base_size": base_size}

    def place(self, *values: object) -> None:
        """Put a record into the tree: place, entry, record, branch, size, leaf, nodes."""
        self.all(
            f"INSERT INTO placed ({self.bucket}place, entry, record, branch, size, leaf, nodes) "
            f"VALUES ({'0, ' if self.bucket else ''}?, ?, ?, ?, ?, ?, ?)",
            *values,
        )

    @abstractmethod
    def set_tree(self, size: int, peaks: bytes) -> None: ...

    def unseal(self) -> None:
        """Take away all that was signed."""
        self.all("DELETE FROM seal")

    @abstractmethod
    def settle(self) -> None:
        """Make anew what stands beside rows and is no proof."""

    @abstractmethod
    def add_record(self, record: bytes, leaf: bytes) -> None:
        """Add a record to the ledger that says that an event was erased."""

    # --- a session ---
    def delete(self, session: str) -> None:
        key = self.one("SELECT session FROM session WHERE name = ?", session)
        self.all("DELETE FROM event WHERE branch IN (SELECT branch FROM branch WHERE session = ?)", key)
        for table in ("branch", "session"):
            self.all(f"DELETE FROM {table} WHERE session = ?", key)

    # --- the whole store ---
    @abstractmethod
    def keep(self) -> object:
        """Keep a copy of the store as it is."""

    @abstractmethod
    def put_back(self, kept: object) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class SqliteAttacker(Attacker):
    kind, tips = "sqlite", "branch"
    key_salt = "(SELECT key_salt FROM family AS f WHERE f.family = s.family)"

    def all(self, statement, *values):
        connection = apsw.Connection(self.url)
        try:
            found = connection.execute(statement, values).fetchall()
            assert statement.startswith("SELECT") or "erasure" in statement or connection.changes(), statement
        finally:
            connection.close()
        return found

    def place(self, place, entry, record, *rest):
        super().place(place, entry, None if entry is not None else record, *rest)

    def set_tree(self, size, peaks):
        feed = self.one("SELECT max(feed) FROM event")
        self.all("UPDATE tree SET size = ?, peaks = ?, feed = ?", size, peaks, feed)

    def settle(self):
        connection = apsw.Connection(self.url)
        for session, _, *row in connection.execute(QUERIES["read_session_sums"]).fetchall():
            given = {"session": session, "checksum": checksum_of(tuple(row))}
            connection.execute(QUERIES["set_session_checksum"], given)
        for branch, _, *row in connection.execute(QUERIES["read_branch_sums"]).fetchall():
            given = {"branch": branch, "checksum": checksum_of(tuple(row))}
            connection.execute(QUERIES["set_branch_checksum"], given)
        connection.close()

    def add_record(self, record, leaf):
        self.all("INSERT INTO ledger (record) VALUES (?)", record)
        self.all("INSERT INTO erasure (leaf, entry) VALUES (?, ?)", leaf, self.one("SELECT max(entry) FROM ledger"))

    def keep(self):
        return shutil.copy(self.url, self.folder / "earlier.db")

    def put_back(self, kept):
        shutil.copy(kept, self.url)

    def close(self):
        pass


class PostgresAttacker(Attacker):
    kind, tips, bucket, key_salt = "postgres", "tip", "bucket, ", "s.key_salt"

    def __init__(self, folder):
        super().__init__(folder)
        there = read_address(self.url)
        self._connection = psycopg.connect(
            there.conninfo, autocommit=True, options=f"-c search_path={there.schema}", prepare_threshold=None
        )
        self._schema = there.schema

    def all(self, statement, *values):
        cursor = self._connection.execute(statement.replace("?", "%s"), values)
        assert statement.startswith("SELECT") or "erasure" in statement or cursor.rowcount, statement
        return cursor.fetchall() if cursor.description else []

    def set_tree(self, size, peaks):
        feeds = msgspec.json.encode(self.all("SELECT bucket, max(feed) FROM event GROUP BY bucket ORDER BY bucket"))
        self.all("UPDATE tree SET size = ?, peaks = ?, feeds = ?", size, peaks, feeds.decode())

    def settle(self):
        pass  # nothing does

    def delete(self, session):
        key = self.one("SELECT session FROM session WHERE name = ?", session)
        self.all("DELETE FROM tip WHERE branch IN (SELECT branch FROM branch WHERE session = ?)", key)
        super().delete(session)
        self.all("DELETE FROM directory WHERE session = ?", key)

    def add_record(self, record, leaf):
        bucket, entry = self.all("SELECT bucket, max(entry) + 1 FROM ledger GROUP BY bucket")[0]
        self.all("INSERT INTO ledger (bucket, entry, record) VALUES (?, ?, ?)", bucket, entry, record)
        self.all("INSERT INTO pending (bucket, entry) VALUES (?, ?)", bucket, entry)
        self.all("INSERT INTO erasure (bucket, leaf, entry) VALUES (?, ?, ?)", bucket, leaf, entry)

    def keep(self):
        tables = self.all("SELECT tablename FROM pg_tables WHERE schemaname = ?", self._schema)
        kept = {}
        for (table,) in tables:
            with self._connection.cursor().copy(f"COPY {table} TO STDOUT (FORMAT BINARY)") as copy:
                kept[table] = b"".join(copy)
        return kept

    def put_back(self, kept):
        self._connection.execute(f"TRUNCATE {', '.join(kept)}")
        for table, rows in kept.items():
            with self._connection.cursor().copy(f"COPY {table} FROM STDIN (FORMAT BINARY)") as copy:
                copy.write(rows)

    def close(self):
        self._connection.close()


ATTACKERS = {"sqlite": SqliteAttacker, "postgres": PostgresAttacker}
