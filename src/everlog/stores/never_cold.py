"""What a store answers about cold bodies where none ever leaves its row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from everlog.cold import DAY_MICROS, Cold, Day, Dictionary, ObjectRow, StoredBlock
from everlog.core.decide import EventRow
from everlog.encrypted import StoredKey, WrappingRow


class NeverCold:
    """Implements everlog.cold.ColdStorage but for `sizes` and `growth`, and everlog.encrypted.EncryptedStorage of what never encrypts."""

    def wrapping_keys(self) -> list[WrappingRow]:
        return []

    def remove_traces(self) -> None:
        pass

    def plain_bodies(self) -> int:
        return 0

    def data_keys(self, bucket: int, wrapping: bytes, after: tuple[int, int], limit: int) -> list[StoredKey]:  # noqa: ARG002
        return []

    def cold(self, after: int, limit: int) -> list[Cold]:  # noqa: ARG002
        return []

    def dictionaries(self) -> list[Dictionary]:
        return []

    def blocks(self, bucket: int, after: int, newest: int, session: int | None, limit: int) -> list[StoredBlock]:  # noqa: ARG002
        return []

    def blocks_of(self, object: bytes) -> list[StoredBlock]:  # noqa: ARG002
        return []

    def block_content(self, block: StoredBlock) -> bytes | None:  # noqa: ARG002
        return None

    def objects(self, session: int | None = None) -> list[ObjectRow]:  # noqa: ARG002
        return []

    def kept_once(self, places: Sequence[tuple[int, int]]) -> list[tuple[bytes, int, int]]:  # noqa: ARG002
        return []

    def all_buckets(self) -> Sequence[int]:
        return ()

    def free(self) -> int:
        return 0

    def give_back(self, pages: int) -> int:  # noqa: ARG002
        return 0

    def put_object(self, row: ObjectRow, contents: bytes) -> None:  # noqa: ARG002
        raise AssertionError("nothing of this store is archived")

    def get_object(self, row: ObjectRow) -> bytes:  # noqa: ARG002
        raise AssertionError("nothing of this store is archived")

    def remove_object(self, row: ObjectRow) -> None:  # noqa: ARG002
        raise AssertionError("nothing of this store is archived")


def days_of(rows: Iterable[EventRow]) -> list[Day]:
    """Give what was recorded on each day, of rows with their bodies; see ColdStorage.growth."""
    days: dict[int, Day] = {}
    for row in rows:
        if row.recorded is not None:
            day = row.recorded // DAY_MICROS
            was = days.get(day, Day(day, 0, 0))
            days[day] = Day(day, was.events + 1, was.bytes + len(row.body or b""))
    return [days[day] for day in sorted(days)]
