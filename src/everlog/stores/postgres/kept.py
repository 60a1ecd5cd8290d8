"""What the transactions of one group keep back: it is sent together with COMMIT, or before a read that must see it.

1. Of a group about one bucket every statement names that bucket. Events of several buckets are numbered and recorded by statements about
   all of them: as many as for one.
2. The last thing that is written are the buckets' counters, in the order of buckets, with the events that they number, so that they are held
   no longer than the commit takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from everlog.core.decide import EventRow, Tip
from everlog.core.envelope import WrappedKey
from everlog.core.event import PreparedAttachment
from everlog.stores.postgres.connections import Connection, Connections
from everlog.stores.postgres.statements import bucket_of
from everlog.stores.postgres.wire import Parameters

_EVENT_COLUMNS: Final = EventRow.__struct_fields__
_NUMBERED: Final = {
    "position": "bigint",
    "recorded": "bigint",
    "occurred": "bigint",
    "key_count": "integer",
    "gone": "smallint",
}
_TEXTS: Final = ("type", "actor", "outcome", "key", "covers", "attached")
# Types of copy_events' columns.
_COPIED_TYPES: Final = ["smallint", "bigint", "bigint"] + [
    _NUMBERED.get(name) or ("text" if name in _TEXTS else "bytea") for name in _EVENT_COLUMNS
]
COPIED_MIN: Final = (
    1_000  # events of one transaction from which on COPY, with its two round trips more, is faster than arrays
)

_Statement = tuple[bytes, Parameters]


class Kept:
    """Statements and events of one database transaction that were not sent yet."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._statements: list[_Statement] = []
        self._rows: list[tuple[int, EventRow]] = []  # with their branches; those of a bucket in the order of its feed
        self._grown: dict[int, Tip] = {}
        self._attached: list[tuple[int, int, int, PreparedAttachment]] = []
        self._keys: list[tuple[int, int, WrappedKey]] = []
        self._plain: set[int] = set()

    def add(self, query: str, parameters: dict[str, Any]) -> None:
        """Keep a statement back."""
        self._statements.append((self._connections.statements[query], parameters))

    def add_events(
        self, tip: Tip, rows: Sequence[EventRow], attachments: Sequence[tuple[int, Sequence[PreparedAttachment]]]
    ) -> None:
        """Keep events at the end of a branch back, and where it ends then. attachments: (position, its own)."""
        branch = tip.branch
        self._rows.extend((branch, row) for row in rows)
        self._grown[branch] = tip
        self._attached += [
            (branch, position, number, item) for position, own in attachments for number, item in enumerate(own)
        ]

    def add_keys(self, branch: int, keys: Sequence[tuple[int, WrappedKey]]) -> None:
        """Keep data keys of a branch's own events back, by their positions."""
        self._keys += [(branch, position, key) for position, key in keys]

    def add_plain(self, bucket: int) -> None:
        """Note that something in plain text was kept back, which a bucket that encrypts by now is to refuse."""
        self._plain.add(bucket)

    def take(self) -> list[_Statement]:
        """Give the statements that write what was kept back, and keep nothing."""
        taken = self._taken_before()
        if self._rows:
            rows, self._rows = self._rows, []
            counts = Counter(bucket_of(branch) for branch, _ in rows)
            taken += self._numbering(counts)
            taken.append(self._insert_one(*rows[0]) if len(rows) == 1 else self._insert(rows, counts))
        return taken + self._taken_keys()

    def _taken_keys(self) -> list[_Statement]:
        """Take the data keys. They are written behind the buckets' counters: see encryption.py."""
        keys, self._keys = self._keys, []
        plain, self._plain = sorted(self._plain), set()
        taken: list[_Statement] = []
        if len(plain) == 1:
            taken.append(self._statement("refuse_plain", {"bucket": plain[0]}))
        elif plain:
            taken.append(self._statement("refuse_joined_plain", {"buckets": plain}))
        for bucket in sorted({bucket_of(branch) for branch, _, _ in keys}):
            own = [each for each in keys if bucket_of(each[0]) == bucket]
            columns = {
                "branches": [branch for branch, _, _ in own],
                "positions": [position for _, position, _ in own],
                "wrapped": [key.wrapped for _, _, key in own],
            }
            taken.append(
                self._statement("insert_data_keys", {"bucket": bucket, "wrapping": own[0][2].wrapping, **columns})
            )
        return taken

    def copy(self, connection: Connection) -> None:
        """Send what was kept back where so many events are among it that COPY pays. A server that cannot raises FeatureNotSupported."""
        if len(self._rows) < COPIED_MIN or not self._connections.copies:
            return
        rows, self._rows = self._rows, []
        counts = Counter(bucket_of(branch) for branch, _ in rows)
        sent = self._connections.together(connection, [*self._taken_before(), *self._numbering(counts)])
        feeds = dict(sent[-1])
        self._connections.round_trips += 1
        with connection.cursor() as cursor, cursor.copy(self._connections.statements["copy_events"]) as copy:
            copy.set_types(_COPIED_TYPES)
            for (branch, row), behind in zip(rows, _behind(rows, counts), strict=True):
                bucket = bucket_of(branch)
                copy.write_row((bucket, feeds[bucket] - behind, branch, *msgspec.structs.astuple(row)))

    # --- underneath ---
    def _taken_before(self) -> list[_Statement]:
        """Take all but the events, and what numbers them."""
        taken, self._statements = self._statements, []
        attached, self._attached = self._attached, []
        grown, self._grown = list(self._grown.values()), {}
        for bucket in sorted({bucket_of(branch) for branch, *_ in attached}):
            own = [each for each in attached if bucket_of(each[0]) == bucket]
            taken.append(self._statement("insert_attachments", {"bucket": bucket, **_attachment_columns(own)}))
        if len(grown) == 1:
            tip = grown[0]
            columns = {"size": tip.size, "recorded": tip.recorded, "leaf": tip.leaf, "peaks": b"".join(tip.peaks)}
            taken.append(self._statement("set_tip", {"bucket": bucket_of(tip.branch), "branch": tip.branch, **columns}))
        elif grown:
            buckets = [bucket_of(tip.branch) for tip in grown]
            one = len(set(buckets)) == 1
            about = {"bucket": buckets[0]} if one else {"buckets": buckets}
            taken.append(self._statement("set_tips" if one else "set_joined_tips", {**about, **_tip_columns(grown)}))
        return taken

    def _numbering(self, counts: Counter[int]) -> list[_Statement]:
        """Give the statements that raise the counters of buckets; the last gives each bucket with its counter."""
        if len(counts) == 1:
            ((bucket, count),) = counts.items()
            return [self._statement("count_events", {"bucket": bucket, "count": count})]
        buckets = sorted(counts)
        numbers = [counts[bucket] for bucket in buckets]
        return [
            self._statement("lock_joined_buckets", {"buckets": buckets}),
            self._statement("count_joined_events", {"buckets": buckets, "counts": numbers}),
        ]

    def _insert_one(self, branch: int, row: EventRow) -> _Statement:
        given = {"bucket": bucket_of(branch), "branch": branch, **msgspec.structs.asdict(row)}
        return self._statement("insert_event", given)

    def _insert(self, rows: Sequence[tuple[int, EventRow]], counts: Counter[int]) -> _Statement:
        columns: dict[str, Any] = {"branch": [branch for branch, _ in rows], **_columns_of([row for _, row in rows])}
        if len(counts) == 1:
            ((bucket, count),) = counts.items()
            return self._statement("insert_events", {"bucket": bucket, "count": count, **columns})
        columns["bucket"] = [bucket_of(branch) for branch in columns["branch"]]
        return self._statement("insert_joined_events", {"behind": _behind(rows, counts), **columns})

    def _statement(self, query: str, parameters: dict[str, Any]) -> _Statement:
        return self._connections.statements[query], parameters


def _behind(rows: Sequence[tuple[int, EventRow]], counts: Counter[int]) -> list[int]:
    """Give for each event how many of its bucket come behind it."""
    left = dict(counts)
    behind: list[int] = []
    for branch, _ in rows:
        bucket = bucket_of(branch)
        left[bucket] -= 1
        behind.append(left[bucket])
    return behind


def _columns_of(rows: Sequence[EventRow]) -> dict[str, Sequence[Any] | None]:
    """Give the columns of rows by name; None for one that is NULL in all of them, as `unnest` fills in for an array that is."""
    columns = zip(*map(msgspec.structs.astuple, rows), strict=True)
    return {
        name: None if column.count(None) == len(column) else column
        for name, column in zip(_EVENT_COLUMNS, columns, strict=True)
    }


def _tip_columns(tips: Sequence[Tip]) -> dict[str, Any]:
    return {
        "branches": [tip.branch for tip in tips],
        "sizes": [tip.size for tip in tips],
        "recorded": [tip.recorded for tip in tips],
        "leaves": [tip.leaf for tip in tips],
        "peaks": [b"".join(tip.peaks) for tip in tips],
    }


def _attachment_columns(attached: Sequence[tuple[int, int, int, PreparedAttachment]]) -> dict[str, Any]:
    return {
        "branch": [branch for branch, _, _, _ in attached],
        "position": [position for _, position, _, _ in attached],
        "number": [number for _, _, number, _ in attached],
        "name": [item.name for _, _, _, item in attached],
        "size": [item.size for _, _, _, item in attached],
        "salt": [item.salt for _, _, _, item in attached],
        "content": [item.content for _, _, _, item in attached],
    }
