"""How the records of a LangGraph thread are stored: what is usual of a checkpoint, or follows from the rest, is left out.

1. A record is shortened only where what it stands for comes back the same, which is tried at once; else it is stored as it was given.
2. No record needs another one to be read: of what an erased event held, no other is made.

A checkpoint is `id`, `ns` of a subgraph, `parent` (how many positions back it stands, or its id), `channels` (each with its version,
and its value where it is new), `where` (positions of the values that are not), `seen`, `step`, `source`, `ts`, `metadata`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from langgraph.checkpoint.base import WRITES_IDX_MAP

from everlog.core.event import Event

CHECKPOINT: Final = "langgraph.checkpoint"
WRITES: Final = "langgraph.writes"
_VERSION: Final = 4  # of a checkpoint's own form
_SOURCE: Final = "loop"
_FIELDS: Final = {"v", "ts", "channel_versions", "versions_seen", "updated_channels"}
_INPUT: Final = "__input__"  # which has seen nothing, in a graph that was called
_UUID6_EPOCH: Final = datetime(1582, 10, 15, tzinfo=UTC)
_UUID_LENGTH: Final = 36
_MICROSECOND: Final = timedelta(microseconds=1)


# --- checkpoints ---------------------------------------------------------------------------------
def shorten(record: Mapping[str, Any]) -> dict[str, Any]:
    """Give a checkpoint's record as it is stored.

    record: id, ns, parent, where, late, early and waiting, where there are such; `checkpoint`, `metadata` and `values` as JSON.
    """
    short = {name: item for name, item in record.items() if name not in ("checkpoint", "metadata", "values")}
    return short | _short_fields(record) | _short_metadata(record["metadata"])


def values_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Give what is new in a checkpoint, by channel."""
    channels: dict[str, Any] = record.get("channels") or {}
    new = {name: held[1] for name, held in channels.items() if isinstance(held, list)}
    return new | (record.get("values") or {})


def fields_of(record: Mapping[str, Any]) -> Any:
    """Give a checkpoint's fields but id and values, as JSON."""
    if "checkpoint" in record:
        return record["checkpoint"]
    channels: dict[str, Any] = record["channels"]
    versions = {name: held[0] if isinstance(held, list) else held for name, held in channels.items()}
    seen: dict[str, Any] = {_INPUT: {}} | (record.get("seen") or {})
    return {
        "v": record.get("v", _VERSION),
        "ts": _long_ts(record["id"], record["ts"]),
        "channel_versions": versions,
        "versions_seen": {
            node: {_trigger(node): held} if not isinstance(held, dict) else held
            for node, held in seen.items()
            if held is not None
        },
        "updated_channels": record["updated"] if "updated" in record else _usual_updated(record, versions),
    }


def metadata_of(record: Mapping[str, Any]) -> Any:
    """Give a checkpoint's metadata, as JSON."""
    if "step" not in record:
        return record["metadata"]
    usual = {"source": record.get("source", _SOURCE), "step": record["step"], "parents": {}}
    return usual | (record.get("metadata") or {})


def _short_metadata(metadata: Any) -> dict[str, Any]:
    if not isinstance(metadata, dict) or "step" not in metadata:
        return {"metadata": metadata}
    given = cast("dict[str, Any]", metadata)
    others = {name: item for name, item in given.items() if name not in ("source", "step", "parents")}
    if given.get("parents"):
        others["parents"] = given["parents"]
    short: dict[str, Any] = {"step": given["step"]}
    if given.get("source") != _SOURCE:
        short["source"] = given.get("source")
    if others:
        short["metadata"] = others
    return short if metadata_of(short) == given else {"metadata": given}


def _short_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    fields, values = record["checkpoint"], record.get("values") or {}
    whole = {"checkpoint": fields} | ({"values": values} if values else {})
    if not isinstance(fields, dict) or fields.keys() != _FIELDS:  # pyright: ignore[reportUnknownMemberType]
        return whole
    versions, given = fields["channel_versions"], cast("dict[str, Any]", fields["versions_seen"])
    kinds: set[type] = {type(version) for version in versions.values()}
    if len(kinds) > 1 or not kinds <= {int, str, float}:
        return whole
    short: dict[str, Any] = {
        "ts": _short_ts(record["id"], fields["ts"]),
        "channels": {name: [held, values[name]] if name in values else held for name, held in versions.items()},
    }
    others = {name: value for name, value in values.items() if name not in versions}
    seen = {} if given.get(_INPUT) == {} else {_INPUT: None}
    seen |= {node: _short_seen(node, held) for node, held in given.items() if node != _INPUT or held}
    if others:
        short["values"] = others
    if seen:
        short["seen"] = seen
    if fields["v"] != _VERSION:
        short["v"] = fields["v"]
    if fields["updated_channels"] != _usual_updated({"values": values, "where": record.get("where")}, versions):
        short["updated"] = fields["updated_channels"]
    return short if fields_of({"id": record["id"], "where": record.get("where")} | short) == fields else whole


def _short_seen(node: str, held: Any) -> Any:
    if isinstance(held, dict) and len(held) == 1:  # pyright: ignore[reportUnknownArgumentType]
        version: Any = held.get(_trigger(node))  # pyright: ignore[reportUnknownMemberType]
        return held if version is None or isinstance(version, dict) else version  # pyright: ignore[reportUnknownVariableType]
    return held  # pyright: ignore[reportUnknownVariableType]


def _trigger(node: str) -> str:
    """Give the channel that a node waits for, as LangGraph names it."""
    return node if node.startswith("__") else f"branch:to:{node}"


def _usual_updated(record: Mapping[str, Any], versions: Mapping[str, Any]) -> list[str]:
    """Give the channels that hold something and are of the newest version: those that the last step wrote to."""
    newest = max(versions.values(), default=None)
    held = values_of(record).keys() | (record.get("where") or {}).keys()
    return sorted(name for name, version in versions.items() if version == newest and name in held)


def _short_ts(id: str, ts: Any) -> Any:
    """Give the time of a checkpoint as microseconds from the one in its id."""
    begun = _time_in(id)
    if begun is None or not isinstance(ts, str):
        return ts
    try:
        return (datetime.fromisoformat(ts) - begun) // _MICROSECOND
    except (ValueError, TypeError):
        return ts


def _long_ts(id: str, ts: Any) -> Any:
    begun = _time_in(id)
    return ts if begun is None or not isinstance(ts, int) else (begun + ts * _MICROSECOND).isoformat()


def _time_in(id: str) -> datetime | None:
    """Give the time in an id as LangGraph makes them: a UUID, version 6 (RFC 9562)."""
    if len(id) != _UUID_LENGTH or id[14] != "6":
        return None
    try:
        ticks = int(id[:8] + id[9:13] + id[15:18], 16)  # of 100 nanoseconds
        return _UUID6_EPOCH + ticks // 10 * _MICROSECOND
    except (ValueError, OverflowError):
        return None


# --- writes --------------------------------------------------------------------------------------
def shorten_items(items: Iterable[tuple[int, str, Any]]) -> list[list[Any]]:
    """Give writes as they are stored: channel and value, its index only where it is not the usual one."""
    made: list[list[Any]] = []
    for number, (index, channel, tree) in enumerate(items):
        short = [channel] if tree is None else [channel, tree]
        made.append(short if index == WRITES_IDX_MAP.get(channel, number) else [index, channel, tree])
    return made


def items_of(record: Mapping[str, Any]) -> list[tuple[int, str, Any]]:
    """Give the writes of a record: (index, channel, value)."""
    made: list[tuple[int, str, Any]] = []
    for number, item in enumerate(cast("Sequence[list[Any]]", record["items"])):
        if isinstance(item[0], int):
            made.append((item[0], item[1], item[2]))
        else:
            made.append((WRITES_IDX_MAP.get(item[0], number), item[0], item[1] if len(item) > 1 else None))
    return made


def first_of_each(
    writes: Sequence[tuple[int, str, tuple[str, bytes]]], known: set[int]
) -> list[tuple[int, str, tuple[str, bytes]]]:
    """Leave out the writes whose index is known, or is that of one before them."""
    return [each for each in writes if not (each[0] in known or known.add(each[0]))]


# --- events --------------------------------------------------------------------------------------
def checkpoint_of(event: Event) -> dict[str, Any] | None:
    """Give the checkpoint that an event records; None where it records none, or was erased."""
    return event.data if event.type == CHECKPOINT and event.raw is not None else None


def writes_of(event: Event) -> dict[str, Any] | None:
    """Give the writes that an event records; None where it records none, or was erased."""
    if event.raw is None or event.type == CHECKPOINT:
        return None
    if event.type == WRITES:
        return event.data
    return ((event.metadata or {}).get("langgraph") or {}).get("writes")


@dataclass(frozen=True, slots=True)
class Write:
    """A pending write as it was recorded, its value not read yet."""

    task_path: str
    task_id: str
    index: int
    channel: str
    record: Event
    tree: Any


def in_order(events: Sequence[Event]) -> list[Write]:
    """Give the writes that events hold, in the order in which they are to be applied: of each task and index the first.

    Of special channels, whose indexes are negative, the last, but where it came with ordinary ones: LangGraph has that count no more.
    """
    made: dict[tuple[str, int], Write] = {}
    for event in events:
        record = writes_of(event) or {}
        task, path = record["task"], record.get("path", "")
        items = items_of(record)
        replaces = all(index < 0 for index, _, _ in items)
        for index, channel, tree in items:
            if replaces or (task, index) not in made:
                made[task, index] = Write(path, task, index, channel, event, tree)
    return sorted(made.values(), key=lambda write: (write.task_path, write.task_id, write.index))


def indexes_of(writes: Iterable[Write]) -> dict[str, set[int]]:
    """Give the indexes that each task wrote."""
    made: dict[str, set[int]] = {}
    for write in writes:
        made.setdefault(write.task_id, set()).add(write.index)
    return made


def hides(pruned: Mapping[str, Any], position: int) -> bool:
    """Tell whether a `langgraph.pruned` that comes later hides the checkpoint at a position."""
    return position not in pruned["kept"] if "kept" in pruned else position in pruned.get("dropped", ())


def is_of(record: Mapping[str, Any] | None, namespace: str, id: str) -> bool:
    """Tell whether a record is of this checkpoint."""
    return record is not None and record["id"] == id and record.get("ns", "") == namespace
